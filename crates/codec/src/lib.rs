//! MQTT 3.1, 3.1.1 and 5.0: bytes to packets and back, and the rules of topics.
//!
//! Owns: packet types, their strict decoding and encoding, topic name and topic filter rules.
//! Does not: know connections, sessions, time or any input and output.
//! Limits: every decode is bounded by [`Limits`]; nothing is allocated before a length is checked.
//! Spec: MQTT 3.1, MQTT 3.1.1, MQTT 5.0 chapters 1 to 4.7.
pub mod packet;
pub mod reason;
pub mod text;
pub mod topic;

pub use packet::*;
pub use reason::ReasonCode;
pub use text::Text;
pub use topic::{TopicFilter, TopicName};
