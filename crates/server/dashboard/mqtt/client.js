// @ts-check
// A client of MQTT 5 on WebSocket, small enough for a test page.
//
// Owns: the connection, keep-alive, packet identifiers, the acknowledgements of QoS 1 and 2 in both directions.
// Does not: reconnect, or keep messages over connections: what is unacknowledged at the end is reported and forgotten.
// Limits: INFLIGHT_MAX messages sent and not acknowledged, or what the server allows; beyond it publish() refuses.

import { Decoder, encodeAck, encodeConnect, encodeDisconnect, encodePing, encodePublish, encodeSubscribe, encodeUnsubscribe } from './codec.js';
import { isFailure, reasonText } from './reasons.js';

/** Messages sent and not acknowledged, at most. */
export const INFLIGHT_MAX = 100;

/** How long the server may take to answer CONNECT, in milliseconds. */
const CONNECT_TIMEOUT_MS = 10_000;

/**
 * What happens. `message` is a PUBLISH of the server; `note` is a sentence for the log, `problem` one that is bad news.
 * @typedef {{kind: 'open', sessionPresent: boolean, clientId: string, keepAlive: number}
 *   | {kind: 'closed', text: string, expected: boolean}
 *   | {kind: 'message', topic: string, payload: Uint8Array, qos: number, retain: boolean, dup: boolean,
 *      properties: import('./codec.js').Properties}
 *   | {kind: 'note' | 'problem', text: string}} ClientEvent
 *
 * @typedef {{url: string, clientId: string, cleanStart: boolean, keepAlive: number, username?: string,
 *   password?: string, sessionExpiry?: number}} ConnectOptions
 *
 * @typedef {{send(data: any): void, close(): void, binaryType: string, onopen: any, onmessage: any,
 *   onclose: any, onerror: any}} Socket
 */

export class MqttClient {
  /**
   * @param {(event: ClientEvent) => void} report
   * @param {(url: string) => Socket} [open] makes the socket; tests give another
   */
  constructor(report, open = (url) => new WebSocket(url, 'mqtt')) {
    this.report = report;
    this.open = open;
    /** @type {Socket | null} */
    this.socket = null;
    this.state = /** @type {'closed' | 'connecting' | 'connected'} */ ('closed');
    this.reason = '';
    this.expected = false;
    /** @type {ConnectOptions | null} */
    this.options = null;
    this.decoder = new Decoder();
    /** Where to look for the next free packet identifier. */
    this.nextId = 1;
    /** Sent and not acknowledged, by packet identifier. @type {Map<number, {what: string, done: (text: string) => void}>} */
    this.waiting = new Map();
    /** QoS 2 messages of the server that it has not released. @type {Set<number>} */
    this.received = new Set();
    this.inflightMax = INFLIGHT_MAX;
    this.keepAliveMs = 0;
    this.pingSent = false;
    this.lastSent = 0;
    /** @type {ReturnType<typeof setInterval> | undefined} */
    this.timer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.handshake = undefined;
  }

  reset() {
    this.decoder = new Decoder();
    this.nextId = 1;
    this.waiting.clear();
    this.received.clear();
    this.inflightMax = INFLIGHT_MAX;
    this.keepAliveMs = 0;
    this.pingSent = false;
    clearInterval(this.timer);
    clearTimeout(this.handshake);
  }

  /** @param {ConnectOptions} options */
  connect(options) {
    if (this.state !== 'closed') throw new Error('there is a connection already');
    this.reset();
    this.state = 'connecting';
    this.options = options;
    this.reason = '';
    const socket = this.open(options.url);
    this.socket = socket;
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => this.onOpen(options);
    socket.onmessage = (/** @type {{data: ArrayBuffer}} */ event) => this.onBytes(new Uint8Array(event.data));
    socket.onclose = (/** @type {{code?: number, reason?: string}} */ event) => this.onClose(event);
    this.handshake = setTimeout(() => this.fail('the server did not answer CONNECT in time'), CONNECT_TIMEOUT_MS);
  }

  /** @param {ConnectOptions} options */
  onOpen({ clientId, cleanStart, keepAlive, username, password, sessionExpiry }) {
    const properties = sessionExpiry ? { session_expiry_interval: sessionExpiry } : {};
    this.send(encodeConnect({ clientId, cleanStart, keepAlive, username, password, properties }));
  }

  /** @param {Uint8Array} bytes */
  send(bytes) {
    this.lastSent = Date.now();
    this.socket?.send(bytes);
  }

  /** @param {Uint8Array} bytes */
  onBytes(bytes) {
    try {
      for (const packet of this.decoder.push(bytes)) this.onPacket(packet);
    } catch (error) {
      this.fail(`what the server sent is no MQTT 5: ${/** @type {Error} */ (error).message}`, 0x81);
    }
  }

  /** @param {import('./codec.js').Packet} packet */
  onPacket(packet) {
    const { type, packetId = 0, reason = 0 } = packet;
    if (this.state === 'connecting' && type !== 'connack') {
      this.fail(`the server sent ${type.toUpperCase()} before CONNACK`, 0x82);
      return;
    }
    switch (type) {
      case 'connack':
        return this.onConnack(packet);
      case 'publish':
        return this.onPublish(packet);
      case 'puback':
      case 'pubcomp':
        return this.settle(packetId, type, reason, packet.properties);
      case 'pubrec':
        if (isFailure(reason)) return this.settle(packetId, type, reason, packet.properties);
        return this.send(encodeAck('pubrel', packetId, this.waiting.has(packetId) ? 0 : 0x92));
      case 'pubrel':
        return this.send(encodeAck('pubcomp', packetId, this.received.delete(packetId) ? 0 : 0x92));
      case 'suback':
      case 'unsuback': {
        const granted = (packet.reasons ?? []).map((code) => (type === 'suback' && code === 0 ? 'granted QoS 0 (0x00)' : reasonText(code)));
        return this.finish(packetId, granted.join(', '), (packet.reasons ?? []).some(isFailure));
      }
      case 'pingresp':
        this.pingSent = false;
        return undefined;
      case 'disconnect':
        this.reason = `the server said DISCONNECT: ${reasonText(reason)}${detail(packet.properties)}`;
        return this.socket?.close();
      default:
        return this.fail(`the server sent ${type.toUpperCase()}, which was not asked for`, 0x82);
    }
  }

  /** @param {import('./codec.js').Packet} packet */
  onConnack({ reason = 0, sessionPresent = false, properties = {} }) {
    clearTimeout(this.handshake);
    if (this.state !== 'connecting') return this.fail('the server sent CONNACK twice', 0x82);
    if (isFailure(reason)) {
      this.reason = `the server refused the connection: ${reasonText(reason)}${detail(properties)}`;
      this.socket?.close();
      return undefined;
    }
    this.state = 'connected';
    const seconds = properties.server_keep_alive ?? this.options?.keepAlive ?? 0;
    this.keepAliveMs = seconds * 1000;
    this.inflightMax = Math.min(INFLIGHT_MAX, properties.receive_maximum ?? 65_535);
    if (seconds > 0) this.timer = setInterval(() => this.tick(), Math.min(1000, this.keepAliveMs / 4));
    const clientId = properties.assigned_client_identifier ?? this.options?.clientId ?? '';
    this.report({ kind: 'open', sessionPresent, clientId, keepAlive: seconds });
    return undefined;
  }

  /** Sends PINGREQ in time, and gives up when it is not answered. */
  tick() {
    const silent = Date.now() - this.lastSent;
    if (this.pingSent && silent > this.keepAliveMs) {
      this.fail('the server did not answer PINGREQ', 0x8d);
    } else if (!this.pingSent && silent > this.keepAliveMs * 0.75) {
      this.pingSent = true;
      this.send(encodePing());
    }
  }

  /** @param {import('./codec.js').Packet} packet */
  onPublish({ topic = '', payload = new Uint8Array(0), qos = 0, retain = false, dup = false, packetId = 0, properties = {} }) {
    const repeated = qos === 2 && this.received.has(packetId);
    if (!repeated) this.report({ kind: 'message', topic, payload, qos, retain, dup, properties });
    if (qos === 1) this.send(encodeAck('puback', packetId));
    if (qos === 2) {
      this.received.add(packetId);
      this.send(encodeAck('pubrec', packetId));
    }
  }

  /** A packet identifier that nothing waits for. */
  takeId() {
    while (this.waiting.has(this.nextId)) this.nextId = (this.nextId % 65_535) + 1;
    const id = this.nextId;
    this.nextId = (this.nextId % 65_535) + 1;
    return id;
  }

  /**
   * @param {string} what
   * @returns {{packetId: number, answered: Promise<string>}}
   */
  wait(what) {
    const packetId = this.takeId();
    /** @type {Promise<string>} */
    const answered = new Promise((resolve) => this.waiting.set(packetId, { what, done: resolve }));
    return { packetId, answered };
  }

  /**
   * @param {number} packetId
   * @param {string} type
   * @param {number} reason
   * @param {import('./codec.js').Properties} [properties]
   */
  settle(packetId, type, reason, properties) {
    this.finish(packetId, `${type.toUpperCase()}: ${reasonText(reason)}${detail(properties)}`, isFailure(reason));
  }

  /**
   * @param {number} packetId
   * @param {string} text
   * @param {boolean} failed
   */
  finish(packetId, text, failed) {
    const waiting = this.waiting.get(packetId);
    if (!waiting) return this.report({ kind: 'problem', text: `an answer to nothing, packet ${packetId}: ${text}` });
    this.waiting.delete(packetId);
    this.report({ kind: failed ? 'problem' : 'note', text: `${waiting.what}: ${text}` });
    return waiting.done(text);
  }

  /**
   * Resolves with the acknowledgement in words; QoS 0 has none.
   * @param {{topic: string, payload: Uint8Array, qos: number, retain: boolean}} message
   * @returns {Promise<string>}
   */
  async publish({ topic, payload, qos, retain }) {
    this.mustBeConnected();
    if (qos === 0) {
      this.send(encodePublish({ topic, payload, qos, retain }));
      this.report({ kind: 'note', text: `published to ${topic} with QoS 0, which has no acknowledgement` });
      return '';
    }
    if (this.waiting.size >= this.inflightMax) {
      throw new Error(`${this.waiting.size} packets are not acknowledged yet; no more are sent before the server answers`);
    }
    const { packetId, answered } = this.wait(`published to ${topic} with QoS ${qos}`);
    this.send(encodePublish({ topic, payload, qos, retain, packetId }));
    return answered;
  }

  /**
   * @param {string} filter
   * @param {number} qos
   */
  async subscribe(filter, qos) {
    this.mustBeConnected();
    const { packetId, answered } = this.wait(`subscribed to ${filter} with QoS ${qos}`);
    this.send(encodeSubscribe({ packetId, filters: [{ filter, qos }] }));
    return answered;
  }

  /** @param {string} filter */
  async unsubscribe(filter) {
    this.mustBeConnected();
    const { packetId, answered } = this.wait(`unsubscribed from ${filter}`);
    this.send(encodeUnsubscribe({ packetId, filters: [filter] }));
    return answered;
  }

  disconnect() {
    if (this.state === 'closed') return;
    this.reason = 'disconnected';
    this.expected = true;
    if (this.state === 'connected') this.send(encodeDisconnect());
    this.socket?.close();
  }

  mustBeConnected() {
    if (this.state !== 'connected') throw new Error('there is no connection');
  }

  /**
   * Ends the connection because of an error.
   * @param {string} text
   * @param {number} [code] told to the server when the connection stands
   */
  fail(text, code) {
    this.reason = text;
    if (code && this.state === 'connected') this.send(encodeDisconnect(code));
    this.socket?.close();
  }

  /** @param {{code?: number, reason?: string}} event */
  onClose(event) {
    if (this.state === 'closed') return;
    const refused = this.state === 'connecting'
      ? 'no connection: nothing that speaks MQTT on WebSocket answers at this address'
      : `the connection broke${event.code ? ` (WebSocket code ${event.code})` : ''}`;
    const lost = this.waiting.size;
    const text = (this.reason || refused) + (lost > 0 ? `; ${lost === 1 ? 'one packet was' : `${lost} packets were`} not acknowledged` : '');
    const { expected } = this;
    for (const waiting of this.waiting.values()) waiting.done('');
    this.reset();
    this.state = 'closed';
    this.socket = null;
    this.expected = false;
    this.report({ kind: 'closed', text, expected });
  }
}

/** @param {import('./codec.js').Properties} [properties] */
function detail(properties) {
  return properties?.reason_string ? `, ${properties.reason_string}` : '';
}
