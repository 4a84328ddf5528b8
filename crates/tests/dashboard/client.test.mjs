// The test client of the dashboard against a server that is a list of bytes: acknowledgements, limits, the end.

import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';
import { INFLIGHT_MAX, MqttClient } from '../../server/dashboard/mqtt/client.js';

const OPTIONS = { url: 'ws://x/mqtt', clientId: 'c', cleanStart: true, keepAlive: 0 };
const bytes = (text) => Uint8Array.from(text.split(' '), (pair) => Number.parseInt(pair, 16));

let sent;
let socket;
let events;
let client;

beforeEach(() => {
  sent = [];
  events = [];
  client = new MqttClient((event) => events.push(event), () => {
    socket = {
      send: (data) => sent.push(Array.from(data, (byte) => byte.toString(16).padStart(2, '0')).join(' ')),
      close() {
        this.onclose({});
      },
    };
    return socket;
  });
});

const server = (text) => socket.onmessage({ data: bytes(text).buffer });
const connected = (connack = '20 03 00 00 00', options = {}) => {
  client.connect({ ...OPTIONS, ...options });
  socket.onopen();
  server(connack);
  sent = [];
};
const last = () => events.at(-1);

test('a connection is open when CONNACK says so, with what the server assigns', () => {
  connected('20 0a 01 00 07 12 00 01 7a 13 00 1e');
  assert.deepEqual(last(), { kind: 'open', sessionPresent: true, clientId: 'z', keepAlive: 30 });
  client.disconnect();
  assert.deepEqual(sent, ['e0 00']);
  assert.deepEqual(last(), { kind: 'closed', text: 'disconnected', expected: true });
});

test('a refused connection says why', () => {
  client.connect(OPTIONS);
  socket.onopen();
  server('20 09 00 87 06 1f 00 03 61 63 6c');
  assert.equal(last().text, 'the server refused the connection: not authorized (0x87), acl');
  assert.equal(client.state, 'closed');
  assert.equal(last().expected, false);
});

test('a server that speaks before CONNACK, or no MQTT, is left', () => {
  client.connect(OPTIONS);
  socket.onopen();
  server('d0 00');
  assert.match(last().text, /before CONNACK/);
  connected();
  server('f7 00');
  assert.match(last().text, /no MQTT 5/);
  assert.deepEqual(sent, ['e0 01 81']);
});

test('QoS 1 is settled by PUBACK, QoS 2 by PUBCOMP after PUBREL', async () => {
  connected();
  const payload = bytes('78');
  const one = client.publish({ topic: 't', payload, qos: 1, retain: false });
  const two = client.publish({ topic: 't', payload, qos: 2, retain: false });
  assert.deepEqual(sent, ['32 07 00 01 74 00 01 00 78', '34 07 00 01 74 00 02 00 78']);
  server('50 02 00 02');
  assert.equal(sent.at(-1), '62 02 00 02');
  server('40 03 00 01 10');
  assert.equal(await one, 'PUBACK: no matching subscribers (0x10)');
  server('70 02 00 02');
  assert.equal(await two, 'PUBCOMP: success (0x00)');
  assert.equal(client.waiting.size, 0);
});

test('a refused QoS 2 message ends with PUBREC, and PUBREC for nothing is answered so', async () => {
  connected();
  const refused = client.publish({ topic: 't', payload: bytes('78'), qos: 2, retain: false });
  server('50 03 00 01 97');
  assert.equal(await refused, 'PUBREC: quota exceeded (0x97)');
  assert.equal(last().kind, 'problem');
  sent = [];
  server('50 02 00 09');
  assert.deepEqual(sent, ['62 03 00 09 92']);
});

test('a QoS 2 message of the server is reported once, however often it comes before PUBREL', () => {
  connected();
  const message = '34 07 00 01 74 00 05 00 78';
  server(message);
  server(message.replace('34', '3c'));
  assert.equal(events.filter((event) => event.kind === 'message').length, 1);
  assert.deepEqual(sent, ['50 02 00 05', '50 02 00 05']);
  server('62 02 00 05');
  assert.equal(sent.at(-1), '70 02 00 05');
  server(message);
  assert.equal(events.filter((event) => event.kind === 'message').length, 2, 'after PUBREL the identifier is a new message');
  server('62 02 00 06');
  assert.equal(sent.at(-1), '70 03 00 06 92', 'a release of nothing');
});

test('no more is sent than the server may hold', async () => {
  connected('20 06 00 00 03 21 00 02');
  const message = { topic: 't', payload: bytes('78'), qos: 1, retain: false };
  client.publish(message);
  client.publish(message);
  await assert.rejects(client.publish(message), /not acknowledged yet/);
  server('40 02 00 01');
  client.publish(message);
  assert.equal(sent.length, 3);
  assert.ok(INFLIGHT_MAX < 65_535);
});

test('packet identifiers in use are passed over when they wrap', () => {
  connected();
  client.nextId = 65_535;
  client.waiting.set(1, { what: '', done: () => {} });
  assert.deepEqual([client.takeId(), client.takeId()], [65_535, 2]);
});

test('a subscription is what SUBACK grants', async () => {
  connected();
  const granted = client.subscribe('#', 1);
  server('90 04 00 01 00 00');
  assert.equal(await granted, 'granted QoS 0 (0x00)');
  const refused = client.subscribe('#', 1);
  server('90 04 00 02 00 8f');
  assert.equal(await refused, 'topic filter invalid (0x8F)');
  assert.equal(last().kind, 'problem');
});

test('a lost connection says what was not acknowledged, and a DISCONNECT of the server its reason', async () => {
  connected();
  const lost = client.publish({ topic: 't', payload: bytes('78'), qos: 1, retain: false });
  socket.onclose({ code: 1006 });
  assert.equal(last().text, 'the connection broke (WebSocket code 1006); one packet was not acknowledged');
  assert.equal(await lost, '');
  connected();
  server('e0 01 98');
  assert.equal(last().text, 'the server said DISCONNECT: administrative action (0x98)');
  await assert.rejects(client.publish({ topic: 't', payload: bytes('78'), qos: 0, retain: false }), /no connection/);
});

test('keep-alive sends PINGREQ in time, and gives up when nobody answers', () => {
  mock.timers.enable({ apis: ['setInterval', 'setTimeout', 'Date'] });
  try {
    connected('20 03 00 00 00', { keepAlive: 8 });
    mock.timers.tick(7000);
    assert.deepEqual(sent, ['c0 00']);
    server('d0 00');
    mock.timers.tick(7000);
    assert.deepEqual(sent, ['c0 00', 'c0 00']);
    mock.timers.tick(10_000);
    assert.match(last().text, /did not answer PINGREQ/);
    assert.equal(client.state, 'closed');
  } finally {
    mock.timers.reset();
  }
});
