//! MQTT 3.1, 3.1.1 and 5.0: bytes to packets and back, and the rules of topics.
//!
//! Owns: packet types, their strict decoding and encoding, topic name and topic filter rules.
//! Does not: know connections, sessions, time or any input and output.
//! Limits: every decode is bounded by [`Limits`]; nothing is allocated before a length is checked.
//! Spec: MQTT 3.1, MQTT 3.1.1, MQTT 5.0 chapters 1 to 4.7.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod decode;
pub mod encode;
pub mod limits;
pub mod packet;
mod property;
mod reader;
pub mod reason;
#[cfg(test)]
mod testing;
pub mod text;
pub mod topic;
mod writer;

pub use decode::{DecodeError, FirstPacketError, decode, decode_first};
pub use encode::{EncodeError, encode, encode_publish, encoded_len, fit};
pub use limits::Limits;
pub use packet::*;
pub use property::PropertyRule;
pub use reason::ReasonCode;
pub use text::{Text, TextError};
pub use topic::{TopicError, TopicFilter, TopicName};
