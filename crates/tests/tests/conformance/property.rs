//! MQTT 5 properties as bytes to send, and their identifiers for what is received.
//!
//! Owns: identifiers and encodings of the table 2.2.2.2. Does not: check where a property may stand; that is `decode`.
//! Spec: MQTT 5, 2.2.2.

use crate::packet::{binary, text, varint};

/// Payload Format Indicator.
pub const PAYLOAD_FORMAT: u8 = 0x01;
/// Message Expiry Interval.
pub const MESSAGE_EXPIRY: u8 = 0x02;
/// Content Type.
pub const CONTENT_TYPE: u8 = 0x03;
/// Response Topic.
pub const RESPONSE_TOPIC: u8 = 0x08;
/// Correlation Data.
pub const CORRELATION_DATA: u8 = 0x09;
/// Subscription Identifier.
pub const SUBSCRIPTION_ID: u8 = 0x0b;
/// Session Expiry Interval.
pub const SESSION_EXPIRY: u8 = 0x11;
/// Assigned Client Identifier.
pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
/// Server Keep Alive.
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
/// Authentication Method.
pub const AUTH_METHOD: u8 = 0x15;
/// Authentication Data.
pub const AUTH_DATA: u8 = 0x16;
/// Request Problem Information.
pub const REQUEST_PROBLEM: u8 = 0x17;
/// Will Delay Interval.
pub const WILL_DELAY: u8 = 0x18;
/// Request Response Information.
pub const REQUEST_RESPONSE: u8 = 0x19;
/// Response Information.
pub const RESPONSE_INFORMATION: u8 = 0x1a;
/// Server Reference.
pub const SERVER_REFERENCE: u8 = 0x1c;
/// Reason String.
pub const REASON_STRING: u8 = 0x1f;
/// Receive Maximum.
pub const RECEIVE_MAX: u8 = 0x21;
/// Topic Alias Maximum.
pub const TOPIC_ALIAS_MAX: u8 = 0x22;
/// Topic Alias.
pub const TOPIC_ALIAS: u8 = 0x23;
/// Maximum QoS.
pub const MAX_QOS: u8 = 0x24;
/// Retain Available.
pub const RETAIN_AVAILABLE: u8 = 0x25;
/// User Property.
pub const USER_PROPERTY: u8 = 0x26;
/// Maximum Packet Size.
pub const MAX_PACKET_SIZE: u8 = 0x27;
/// Wildcard Subscription Available.
pub const WILDCARD_AVAILABLE: u8 = 0x28;
/// Subscription Identifier Available.
pub const SUBSCRIPTION_ID_AVAILABLE: u8 = 0x29;
/// Shared Subscription Available.
pub const SHARED_AVAILABLE: u8 = 0x2a;

/// A property of one byte.
pub fn byte(id: u8, value: u8) -> Vec<u8> {
    vec![id, value]
}

/// A property of two bytes.
pub fn two(id: u8, value: u16) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property of four bytes.
pub fn four(id: u8, value: u32) -> Vec<u8> {
    [&[id][..], &value.to_be_bytes()].concat()
}

/// A property that is a string.
pub fn string(id: u8, value: &str) -> Vec<u8> {
    [vec![id], text(value)].concat()
}

/// A property that is binary, or a string that is to be none.
pub fn bytes(id: u8, value: &[u8]) -> Vec<u8> {
    [vec![id], binary(value)].concat()
}

/// A User Property.
pub fn user(name: &str, value: &str) -> Vec<u8> {
    [vec![USER_PROPERTY], text(name), text(value)].concat()
}

/// A Subscription Identifier.
pub fn subscription_id(value: u32) -> Vec<u8> {
    [vec![SUBSCRIPTION_ID], varint(value)].concat()
}

/// A Session Expiry Interval in seconds.
pub fn session_expiry(seconds: u32) -> Vec<u8> {
    four(SESSION_EXPIRY, seconds)
}

/// A Topic Alias.
pub fn alias(value: u16) -> Vec<u8> {
    two(TOPIC_ALIAS, value)
}

/// A Message Expiry Interval in seconds.
pub fn message_expiry(seconds: u32) -> Vec<u8> {
    four(MESSAGE_EXPIRY, seconds)
}
