// The bytes of MQTT 5 as the test client of the dashboard writes and reads them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  Decoder, MalformedPacket, PACKET_BYTES_MAX, encodeAck, encodeConnect, encodeDisconnect, encodePing, encodePublish, encodeSubscribe, encodeUnsubscribe,
} from '../../server/dashboard/mqtt/codec.js';
import { isFailure, reasonText } from '../../server/dashboard/mqtt/reasons.js';

const bytes = (text) => Uint8Array.from(text.trim().split(/\s+/).filter(Boolean), (pair) => Number.parseInt(pair, 16));
const hex = (array) => Array.from(array, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
const text = (value) => new TextEncoder().encode(value);
const decode = (...parts) => {
  const decoder = new Decoder();
  return parts.flatMap((part) => decoder.push(part));
};

test('connect has protocol, flags, keep-alive, properties and payload in this order', () => {
  const plain = encodeConnect({ clientId: 'ab', cleanStart: true, keepAlive: 60 });
  assert.equal(hex(plain), '10 0f 00 04 4d 51 54 54 05 02 00 3c 00 00 02 61 62');
  const full = encodeConnect({ clientId: '', cleanStart: false, keepAlive: 0, username: 'u', password: 'p', properties: { session_expiry_interval: 0xffffffff } });
  assert.equal(hex(full), '10 18 00 04 4d 51 54 54 05 c0 00 00 05 11 ff ff ff ff 00 00 00 01 75 00 01 70');
});

test('publish has a packet identifier exactly for QoS 1 and 2', () => {
  const message = { topic: 'a/b', payload: text('x'), retain: false };
  assert.equal(hex(encodePublish({ ...message, qos: 0 })), '30 07 00 03 61 2f 62 00 78');
  assert.equal(hex(encodePublish({ ...message, qos: 2, retain: true, dup: true, packetId: 0x1234 })), '3d 09 00 03 61 2f 62 12 34 00 78');
  assert.throws(() => encodePublish({ ...message, qos: 1 }), RangeError);
});

test('acknowledgements leave out the reason when it is success, and PUBREL has its flags', () => {
  assert.equal(hex(encodeAck('puback', 1)), '40 02 00 01');
  assert.equal(hex(encodeAck('pubrec', 1, 0x97)), '50 03 00 01 97');
  assert.equal(hex(encodeAck('pubrel', 258)), '62 02 01 02');
  assert.equal(hex(encodeAck('pubcomp', 1, 0x92)), '70 03 00 01 92');
});

test('subscribe, unsubscribe, ping and disconnect', () => {
  assert.equal(hex(encodeSubscribe({ packetId: 2, filters: [{ filter: '#', qos: 2, noLocal: true }] })), '82 07 00 02 00 00 01 23 06');
  assert.equal(hex(encodeUnsubscribe({ packetId: 3, filters: ['a', '+'] })), 'a2 09 00 03 00 00 01 61 00 01 2b');
  assert.equal(hex(encodePing()), 'c0 00');
  assert.equal(hex(encodeDisconnect()), 'e0 00');
  assert.equal(hex(encodeDisconnect(0x81)), 'e0 01 81');
});

test('lengths of one to three bytes are written and read', () => {
  for (const [length, head] of [[120, '30 7d'], [123, '30 80 01'], [16_380, '30 81 80 01']]) {
    const packet = encodePublish({ topic: 'ab', payload: new Uint8Array(length).fill(7), qos: 0, retain: false });
    assert.equal(hex(packet.subarray(0, head.split(' ').length)), head);
    const [found] = decode(packet);
    assert.equal(found.payload.length, length);
  }
});

test('packets are found in any portions', () => {
  const all = bytes('20 03 01 00 00 32 0a 00 01 74 00 09 02 01 01 68 69 d0 00 90 04 00 05 00 80');
  const whole = decode(all);
  assert.deepEqual(whole.map((packet) => packet.type), ['connack', 'publish', 'pingresp', 'suback']);
  for (let size = 1; size < all.length; size += 1) {
    const parts = [];
    for (let at = 0; at < all.length; at += size) parts.push(all.slice(at, at + size));
    assert.deepEqual(decode(...parts), whole, `portions of ${size}`);
  }
  const [connack, publish, , suback] = whole;
  assert.equal(connack.sessionPresent, true);
  assert.equal(connack.reason, 0);
  assert.deepEqual([publish.topic, publish.qos, publish.packetId, publish.retain, publish.dup], ['t', 1, 9, false, false]);
  assert.deepEqual(publish.properties, { payload_format_indicator: 1 });
  assert.equal(new TextDecoder().decode(publish.payload), 'hi');
  assert.deepEqual(suback.reasons, [0x80]);
});

test('each kind of property is read', () => {
  const properties = '11 00 00 00 0a 12 00 01 63 13 00 1e 21 00 14 24 01 26 00 01 6b 00 01 76 26 00 01 6b 00 00 27 00 01 00 00';
  const body = bytes(`00 00 ${bytes(properties).length.toString(16)} ${properties}`);
  const [connack] = decode(Uint8Array.of(0x20, body.length, ...body));
  assert.deepEqual(connack.properties, {
    session_expiry_interval: 10, assigned_client_identifier: 'c', server_keep_alive: 30, receive_maximum: 20, maximum_qos: 1,
    user_properties: [['k', 'v'], ['k', '']], maximum_packet_size: 65_536,
  });
});

test('subscription identifiers come more than once', () => {
  const [message] = decode(bytes('30 09 00 01 74 05 0b 80 01 0b 07'));
  assert.deepEqual(message.properties.subscription_identifier, [128, 7]);
});

test('disconnect and acknowledgements may be short', () => {
  const [disconnect, puback, long] = decode(bytes('e0 00 40 02 00 07 40 0a 00 08 10 06 1f 00 03 77 68 79'));
  assert.deepEqual([disconnect.reason, puback.reason, puback.packetId], [0, 0, 7]);
  assert.deepEqual([long.reason, long.properties.reason_string], [0x10, 'why']);
});

test('what is no packet of a server is malformed', () => {
  for (const [what, data] of [
    ['a length of five bytes', '30 80 80 80 80 01'],
    ['QoS 3', '36 06 00 01 74 00 01 00'],
    ['a topic beyond the packet', '30 03 00 09 74'],
    ['a text that is not UTF-8', '30 04 00 01 ff 00'],
    ['an unknown property', '20 05 00 00 02 05 00'],
    ['a property with the identifier 0', '30 08 00 01 74 04 0b 80 01 00'],
    ['a property twice', '20 07 00 00 04 24 01 24 01'],
    ['wrong flags', '22 03 00 00 00'],
    ['a packet of a client', '82 06 00 02 00 00 01 23'],
    ['a properties length beyond the packet', '20 03 00 00 05'],
  ]) {
    assert.throws(() => decode(bytes(data)), MalformedPacket, what);
  }
});

test('a packet that is too large is refused by its length, before it has come', () => {
  const length = PACKET_BYTES_MAX + 1;
  const head = [0x30];
  for (let rest = length; rest > 0; rest = Math.floor(rest / 128)) head.push((rest % 128) | (rest >= 128 ? 0x80 : 0));
  assert.throws(() => decode(Uint8Array.from(head)), /too large/);
});

test('reason codes have words', () => {
  assert.equal(reasonText(0x87), 'not authorized (0x87)');
  assert.equal(reasonText(0x00), 'success (0x00)');
  assert.equal(reasonText(0xf0), 'unknown reason (0xF0)');
  assert.ok(isFailure(0x80) && !isFailure(0x10));
});
