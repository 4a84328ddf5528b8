// @ts-check
// Packets of MQTT 5 to bytes and back: what a client sends, and what a server sends to it.
//
// Owns: the fixed header, the properties, the fields of each packet. Does not: know sockets or the order of packets.
// Limits: PACKET_BYTES_MAX; a longer packet, or one that does not parse, is a MalformedPacket.

/** Largest packet taken from a server: the page shows messages, it does not carry files. */
export const PACKET_BYTES_MAX = 4 * 1024 * 1024;

/** Packet types by their number in the fixed header. */
export const TYPES = [
  'reserved', 'connect', 'connack', 'publish', 'puback', 'pubrec', 'pubrel', 'pubcomp', 'subscribe', 'suback',
  'unsubscribe', 'unsuback', 'pingreq', 'pingresp', 'disconnect', 'auth',
];

/**
 * @typedef {{[name: string]: any, user_properties?: [string, string][]}} Properties
 * @typedef {object} Packet
 * @property {string} type
 * @property {number} [packetId]
 * @property {number} [reason]
 * @property {number[]} [reasons]
 * @property {boolean} [sessionPresent]
 * @property {string} [topic]
 * @property {Uint8Array} [payload]
 * @property {number} [qos]
 * @property {boolean} [retain]
 * @property {boolean} [dup]
 * @property {Properties} [properties]
 */

/** Bytes that are no packet of MQTT 5. */
export class MalformedPacket extends Error {}

/**
 * Properties by their identifier: name, and how the value is written.
 * @type {Map<number, [string, 'u8' | 'u16' | 'u32' | 'variable' | 'text' | 'binary' | 'pair']>}
 */
const PROPERTIES = new Map([
  [0x01, ['payload_format_indicator', 'u8']], [0x02, ['message_expiry_interval', 'u32']],
  [0x03, ['content_type', 'text']], [0x08, ['response_topic', 'text']], [0x09, ['correlation_data', 'binary']],
  [0x0b, ['subscription_identifier', 'variable']], [0x11, ['session_expiry_interval', 'u32']],
  [0x12, ['assigned_client_identifier', 'text']], [0x13, ['server_keep_alive', 'u16']],
  [0x15, ['authentication_method', 'text']], [0x16, ['authentication_data', 'binary']],
  [0x17, ['request_problem_information', 'u8']], [0x18, ['will_delay_interval', 'u32']],
  [0x19, ['request_response_information', 'u8']], [0x1a, ['response_information', 'text']],
  [0x1c, ['server_reference', 'text']], [0x1f, ['reason_string', 'text']], [0x21, ['receive_maximum', 'u16']],
  [0x22, ['topic_alias_maximum', 'u16']], [0x23, ['topic_alias', 'u16']], [0x24, ['maximum_qos', 'u8']],
  [0x25, ['retain_available', 'u8']], [0x26, ['user_properties', 'pair']], [0x27, ['maximum_packet_size', 'u32']],
  [0x28, ['wildcard_subscription_available', 'u8']], [0x29, ['subscription_identifier_available', 'u8']],
  [0x2a, ['shared_subscription_available', 'u8']],
]);
const IDENTIFIERS = new Map([...PROPERTIES].map(([identifier, [name, kind]]) => [name, { identifier, kind }]));

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Bytes that grow. */
class Writer {
  constructor() {
    /** @type {number[]} */
    this.bytes = [];
  }
  /** @param {number} value */
  u8(value) {
    this.bytes.push(value & 0xff);
    return this;
  }
  /** @param {number} value */
  u16(value) {
    return this.u8(value >> 8).u8(value);
  }
  /** @param {number} value */
  u32(value) {
    return this.u16(value >>> 16).u16(value & 0xffff);
  }
  /** @param {number} value */
  variable(value) {
    if (!(value >= 0 && value <= 268_435_455)) throw new RangeError(`${value} is no variable byte integer`);
    do {
      const rest = Math.floor(value / 128);
      this.u8((value % 128) | (rest > 0 ? 0x80 : 0));
      value = rest;
    } while (value > 0);
    return this;
  }
  /** @param {Uint8Array} value */
  raw(value) {
    for (const byte of value) this.bytes.push(byte);
    return this;
  }
  /** @param {Uint8Array} value */
  binary(value) {
    if (value.length > 0xffff) throw new RangeError('a field has at most 65,535 bytes');
    return this.u16(value.length).raw(value);
  }
  /** @param {string} value */
  text(value) {
    return this.binary(encoder.encode(value));
  }
  /** @param {Properties} [properties] */
  properties(properties = {}) {
    const body = new Writer();
    for (const [name, value] of Object.entries(properties)) {
      const known = IDENTIFIERS.get(name);
      if (!known) throw new RangeError(`no property is called ${name}`);
      if (value === undefined || value === null) continue;
      const { identifier, kind } = known;
      if (kind === 'pair') {
        for (const [key, text] of value) body.u8(identifier).text(key).text(text);
      } else {
        body.u8(identifier)[kind](/** @type {never} */ (value));
      }
    }
    return this.variable(body.bytes.length).raw(Uint8Array.from(body.bytes));
  }
}

/**
 * @param {string} type
 * @param {number} flags
 * @param {Writer} body
 */
function framed(type, flags, body) {
  const head = new Writer().u8((TYPES.indexOf(type) << 4) | flags).variable(body.bytes.length);
  const packet = new Uint8Array(head.bytes.length + body.bytes.length);
  packet.set(head.bytes);
  packet.set(body.bytes, head.bytes.length);
  return packet;
}

/**
 * CONNECT. A user name or password that is undefined is left out.
 * @param {{clientId: string, cleanStart: boolean, keepAlive: number, username?: string, password?: string,
 *   properties?: Properties}} connect
 */
export function encodeConnect({ clientId, cleanStart, keepAlive, username, password, properties }) {
  const flags = (cleanStart ? 2 : 0) | (username === undefined ? 0 : 0x80) | (password === undefined ? 0 : 0x40);
  const body = new Writer().text('MQTT').u8(5).u8(flags).u16(keepAlive).properties(properties).text(clientId);
  if (username !== undefined) body.text(username);
  if (password !== undefined) body.text(password);
  return framed('connect', 0, body);
}

/**
 * PUBLISH. `packetId` is there exactly for QoS 1 and 2.
 * @param {{topic: string, payload: Uint8Array, qos: number, retain: boolean, dup?: boolean, packetId?: number,
 *   properties?: Properties}} publish
 */
export function encodePublish({ topic, payload, qos, retain, dup = false, packetId, properties }) {
  const body = new Writer().text(topic);
  if (qos > 0) {
    if (!packetId) throw new RangeError('QoS 1 and 2 need a packet identifier');
    body.u16(packetId);
  }
  body.properties(properties).raw(payload);
  return framed('publish', (dup ? 8 : 0) | (qos << 1) | (retain ? 1 : 0), body);
}

/**
 * PUBACK, PUBREC, PUBREL or PUBCOMP; the reason code is left out when it is 0, as the protocol allows.
 * @param {'puback' | 'pubrec' | 'pubrel' | 'pubcomp'} type
 * @param {number} packetId
 * @param {number} [reason]
 */
export function encodeAck(type, packetId, reason = 0) {
  const body = new Writer().u16(packetId);
  if (reason !== 0) body.u8(reason);
  return framed(type, type === 'pubrel' ? 2 : 0, body);
}

/**
 * SUBSCRIBE.
 * @param {{packetId: number, filters: {filter: string, qos: number, noLocal?: boolean}[]}} subscribe
 */
export function encodeSubscribe({ packetId, filters }) {
  const body = new Writer().u16(packetId).properties();
  for (const { filter, qos, noLocal } of filters) body.text(filter).u8(qos | (noLocal ? 4 : 0));
  return framed('subscribe', 2, body);
}

/**
 * UNSUBSCRIBE.
 * @param {{packetId: number, filters: string[]}} unsubscribe
 */
export function encodeUnsubscribe({ packetId, filters }) {
  const body = new Writer().u16(packetId).properties();
  for (const filter of filters) body.text(filter);
  return framed('unsubscribe', 2, body);
}

/** PINGREQ. */
export function encodePing() {
  return framed('pingreq', 0, new Writer());
}

/** @param {number} [reason] */
export function encodeDisconnect(reason = 0) {
  return framed('disconnect', 0, reason === 0 ? new Writer() : new Writer().u8(reason));
}

/** Bytes that are taken from the front. */
class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }
  get left() {
    return this.bytes.length - this.at;
  }
  /** @param {number} length */
  take(length) {
    if (length > this.left) throw new MalformedPacket('a field reaches beyond the packet');
    this.at += length;
    return this.bytes.subarray(this.at - length, this.at);
  }
  u8() {
    return this.take(1)[0];
  }
  u16() {
    return this.u8() * 0x100 + this.u8();
  }
  u32() {
    return this.u16() * 0x10000 + this.u16();
  }
  variable() {
    let value = 0;
    for (let shift = 0; shift < 4; shift += 1) {
      const byte = this.u8();
      value += (byte & 0x7f) * 128 ** shift;
      if (byte < 0x80) return value;
    }
    throw new MalformedPacket('a variable byte integer has more than four bytes');
  }
  binary() {
    return this.take(this.u16());
  }
  text() {
    try {
      return decoder.decode(this.binary());
    } catch (error) {
      throw error instanceof MalformedPacket ? error : new MalformedPacket('a text is not UTF-8');
    }
  }
  /** @returns {Properties} */
  properties() {
    const part = new Reader(this.take(this.variable()));
    /** @type {Properties} */
    const found = {};
    while (part.left > 0) {
      const identifier = part.variable();
      const known = PROPERTIES.get(identifier);
      if (!known) throw new MalformedPacket(`no property has the identifier ${identifier}`);
      const [name, kind] = known;
      if (kind === 'pair') {
        (found.user_properties ??= []).push([part.text(), part.text()]);
      } else if (name === 'subscription_identifier') {
        (found[name] ??= []).push(part.variable());
      } else if (name in found) {
        throw new MalformedPacket(`${name} comes twice`);
      } else {
        found[name] = part[kind]();
      }
    }
    return found;
  }
}

/** Puts packets together from bytes that come in any portions. */
export class Decoder {
  constructor() {
    /** @type {Uint8Array} */
    this.pending = new Uint8Array(0);
  }

  /**
   * The packets that are whole now.
   * @param {Uint8Array} bytes
   * @returns {Packet[]}
   */
  push(bytes) {
    if (this.pending.length === 0) {
      this.pending = bytes;
    } else {
      const joined = new Uint8Array(this.pending.length + bytes.length);
      joined.set(this.pending);
      joined.set(bytes, this.pending.length);
      this.pending = joined;
    }
    const packets = [];
    for (let frame = frameOf(this.pending); frame; frame = frameOf(this.pending)) {
      packets.push(decodePacket(this.pending[0], this.pending.subarray(frame.start, frame.end)));
      this.pending = this.pending.subarray(frame.end);
    }
    return packets;
  }
}

/**
 * Where the body of the first packet is; null while it is not whole.
 * @param {Uint8Array} bytes
 */
function frameOf(bytes) {
  let length = 0;
  for (let index = 1; index <= 4; index += 1) {
    if (index >= bytes.length) return null;
    length += (bytes[index] & 0x7f) * 128 ** (index - 1);
    if (bytes[index] < 0x80) {
      if (length > PACKET_BYTES_MAX) throw new MalformedPacket(`a packet of ${length} bytes is too large for this page`);
      const start = index + 1;
      return bytes.length >= start + length ? { start, end: start + length } : null;
    }
  }
  throw new MalformedPacket('the length of a packet has more than four bytes');
}

/**
 * @param {number} first
 * @param {Uint8Array} body
 * @returns {Packet}
 */
function decodePacket(first, body) {
  const type = TYPES[first >> 4];
  const flags = first & 0x0f;
  const reader = new Reader(body);
  if (type !== 'publish' && flags !== (type === 'pubrel' ? 2 : 0)) {
    throw new MalformedPacket(`${type} has the flags ${flags}`);
  }
  switch (type) {
    case 'connack':
      return {
        type,
        sessionPresent: (reader.u8() & 1) === 1,
        reason: reader.u8(),
        properties: reader.left > 0 ? reader.properties() : {},
      };
    case 'publish': {
      const qos = (flags >> 1) & 3;
      if (qos === 3) throw new MalformedPacket('a message has QoS 3');
      const topic = reader.text();
      const packetId = qos > 0 ? reader.u16() : undefined;
      const properties = reader.properties();
      const payload = reader.take(reader.left);
      return { type, topic, packetId, qos, retain: (flags & 1) === 1, dup: (flags & 8) === 8, properties, payload };
    }
    case 'puback':
    case 'pubrec':
    case 'pubrel':
    case 'pubcomp':
      return {
        type,
        packetId: reader.u16(),
        reason: reader.left > 0 ? reader.u8() : 0,
        properties: reader.left > 0 ? reader.properties() : {},
      };
    case 'suback':
    case 'unsuback':
      return { type, packetId: reader.u16(), properties: reader.properties(), reasons: [...reader.take(reader.left)] };
    case 'pingresp':
      return { type };
    case 'disconnect':
    case 'auth':
      return {
        type,
        reason: reader.left > 0 ? reader.u8() : 0,
        properties: reader.left > 0 ? reader.properties() : {},
      };
    default:
      throw new MalformedPacket(`a server does not send ${type}`);
  }
}
