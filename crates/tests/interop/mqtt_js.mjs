// Interop driver of MQTT.js.
//
// Usage: node mqtt_js.mjs NODE_MODULES. Owns: one client of the library, which keeps its state when it connects again.
// See: docs/interop.md.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(process.argv[2] + "/");
const mqtt = require("mqtt");

// Below the runner's own deadline, so that it hears the reason.
const WAIT_MS_MAX = 12_000;

let client = null;
let mqtt5 = false;

function write(word, fields) {
  const parts = fields.map(([key, value]) => `${key}=${encodeURIComponent(String(value))}`);
  process.stdout.write([word, ...parts].join(" ") + "\n");
}

function parse(text) {
  const [word, ...parts] = text.trim().split(" ");
  const fields = parts.map((part) => {
    const at = part.indexOf("=");
    return [part.slice(0, at), decodeURIComponent(part.slice(at + 1))];
  });
  const get = (key) => fields.find(([name]) => name === key)?.[1];
  const all = (key) => fields.filter(([name]) => name === key).map(([, value]) => value);
  return { word, get, all };
}

/** What `begin` calls back with, or an error after the longest wait. */
function within(what, begin) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${what}`)), WAIT_MS_MAX);
    begin((error, ...values) => {
      clearTimeout(timer);
      if (error) reject(error);
      else resolve(values);
    });
  });
}

function writeMessage(topic, payload, packet) {
  const properties = packet.properties ?? {};
  const fields = [
    ["topic", topic],
    ["payload", payload.toString()],
    ["qos", packet.qos],
    ["retain", Number(packet.retain)],
  ];
  // The library groups user properties by key: their order across keys is lost before a program can see it.
  for (const [key, values] of Object.entries(properties.userProperties ?? {})) {
    for (const value of [values].flat()) fields.push(["user", `${key}:${value}`]);
  }
  const named = { content_type: "contentType", response_topic: "responseTopic", expiry: "messageExpiryInterval" };
  for (const [key, name] of Object.entries(named)) {
    if (properties[name] !== undefined) fields.push([key, properties[name]]);
  }
  if (properties.correlationData) fields.push(["correlation", properties.correlationData.toString("hex")]);
  for (const number of [properties.subscriptionIdentifier ?? []].flat()) fields.push(["identifier", number]);
  write("message", fields);
}

function options(request) {
  const all = {
    clientId: request.get("id"),
    protocolVersion: mqtt5 ? 5 : 4,
    clean: request.get("clean") === "1",
    keepalive: 30,
    reconnectPeriod: 0,
    resubscribe: false,
    connectTimeout: WAIT_MS_MAX,
  };
  if (mqtt5) all.properties = { sessionExpiryInterval: Number(request.get("expiry")) };
  if (request.get("will_topic")) {
    all.will = {
      topic: request.get("will_topic"),
      payload: request.get("will_payload"),
      qos: Number(request.get("will_qos")),
      retain: false,
    };
    if (mqtt5) all.will.properties = { willDelayInterval: Number(request.get("will_delay") ?? 0) };
  }
  return all;
}

async function connect(request) {
  const [host, port] = [request.get("host"), request.get("port")];
  if (client === null) {
    mqtt5 = request.get("version") === "5";
    const url = request.get("transport") === "websocket" ? `ws://${host}:${port}/mqtt` : `mqtt://${host}:${port}`;
    client = mqtt.connect(url, options(request));
    client.on("message", writeMessage);
    client.on("error", () => {});
    client.on("close", () => write("lost", []));
  } else {
    // The same client, hence the same state, on another node.
    Object.assign(client.options, { host, port: Number(port), hostname: host });
    client.reconnect();
  }
  const [connack] = await within("CONNACK", (done) => {
    const settle = (error, packet) => {
      client.removeListener("connect", connected);
      client.removeListener("error", failed);
      client.removeListener("close", closed);
      done(error, packet);
    };
    const connected = (packet) => settle(null, packet);
    const failed = (error) => settle(error);
    const closed = () => settle(new Error("the connection ended before CONNACK"));
    client.once("connect", connected);
    client.once("error", failed);
    client.once("close", closed);
  });
  write("connected", [["present", Number(connack.sessionPresent)]]);
}

async function subscribe(request) {
  const options = { qos: Number(request.get("qos")) };
  if (request.get("identifier")) {
    options.properties = { subscriptionIdentifier: Number(request.get("identifier")) };
  }
  const [granted, packet] = await within("SUBACK", (done) =>
    client.subscribe(request.get("filter"), options, (error, granted, packet) =>
      // A refusal comes as an error with the SUBACK.
      done(packet?.granted || granted?.length ? null : error, granted, packet)
    )
  );
  write("subscribed", [["reason", packet?.granted?.[0] ?? granted[0].qos]]);
}

async function publish(request) {
  const options = { qos: Number(request.get("qos")), retain: request.get("retain") === "1" };
  if (mqtt5) {
    const properties = {};
    const users = request.all("user");
    if (users.length > 0) {
      properties.userProperties = {};
      for (const user of users) {
        const at = user.indexOf(":");
        (properties.userProperties[user.slice(0, at)] ??= []).push(user.slice(at + 1));
      }
    }
    if (request.get("content_type")) properties.contentType = request.get("content_type");
    if (request.get("response_topic")) properties.responseTopic = request.get("response_topic");
    if (request.get("correlation")) properties.correlationData = Buffer.from(request.get("correlation"), "hex");
    if (request.get("expiry")) properties.messageExpiryInterval = Number(request.get("expiry"));
    options.properties = properties;
  }
  await within("acknowledgement of PUBLISH", (done) => {
    const closed = () => done(new Error("the connection ended"));
    client.once("close", closed);
    client.publish(request.get("topic"), request.get("payload"), options, (error) => {
      client.removeListener("close", closed);
      done(error);
    });
  });
  write("published", []);
}

async function disconnect() {
  await within("end of the connection", (done) => client.end(false, {}, done));
  write("disconnected", []);
}

const handlers = { connect, subscribe, publish, disconnect };

async function main() {
  const { version } = require("mqtt/package.json");
  write("hello", [["version", version], ["can", "3.1.1,5,websocket,binary,keeps-state,groups-user-properties"]]);
  for await (const text of createInterface({ input: process.stdin })) {
    const request = parse(text);
    try {
      await handlers[request.word](request);
    } catch (error) {
      write("error", [["why", error?.message || String(error)]]);
    }
  }
  process.exit(0);
}

await main();
