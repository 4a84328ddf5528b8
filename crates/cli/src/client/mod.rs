//! A small MQTT client: the engine of `pub`, `sub`, `verify` and `bench`.
//!
//! Owns: one connection over TCP or TLS with its buffers, packet identifiers of what was sent, acknowledgement of what came.
//! Does not: spawn tasks, reconnect by itself, interpret payloads; the caller's loop stays in charge.
//! Invariants: one read buffer and one write buffer per connection; received payloads are slices of the read buffer.
//! Limits: see `limits`. Spec: MQTT 3.1.1 and 5.0 chapters 3 and 4.

mod connection;
mod inbound;
mod keep_alive;
mod stream;
mod tls;
mod window;

pub use connection::{ClientError, Connection, Progress, name};
pub use inbound::{Inbound, acknowledgement};
pub use tls::{ClientTls, TlsFlags};
pub use window::{Phase, Window};

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_codec::{
    Connect, Disconnect, PacketId, ProtocolVersion, Publish, PublishQoS, QoS, ReasonCode, Text, TopicFilter,
    TopicName,
};

/// A text of the wire, or why `text` cannot be one.
pub fn text(text: &str) -> Result<Text, String> {
    Text::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|error| format!("{text:?}: {error}"))
}

/// A topic name, or why it is not one.
pub fn topic_name(name: &str) -> Result<TopicName, String> {
    TopicName::new(text(name)?).map_err(|error| format!("{name:?} is not a topic name: {error}"))
}

/// A topic filter, or why it is not one.
pub fn topic_filter(filter: &str) -> Result<TopicFilter, String> {
    TopicFilter::new(text(filter)?).map_err(|error| format!("{filter:?} is not a topic filter: {error}"))
}

/// A number that no other process of this machine has: for client identifiers and runs.
pub fn unique() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = u64::try_from(elapsed.as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
    nanoseconds.rotate_left(20) ^ u64::from(std::process::id())
}

/// A CONNECT without will, credentials and properties.
pub fn connect_packet(version: ProtocolVersion, client_id: Text, keep_alive_s: u16) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s,
        client_id,
        will: None,
        username: None,
        password: None,
        session_expiry_s: None,
        receive_max: None,
        packet_bytes_max: None,
        topic_alias_max: None,
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: Vec::new(),
    }
}

/// A DISCONNECT with this reason.
pub fn disconnect_packet(reason: ReasonCode) -> Disconnect {
    Disconnect {
        reason,
        session_expiry_s: None,
        reason_string: None,
        server_reference: None,
        user_properties: Vec::new(),
    }
}

/// A PUBLISH without properties, as first sent.
pub fn publish_packet(topic: TopicName, payload: Bytes, qos: PublishQoS) -> Publish {
    Publish { dup: false, qos, retain: false, topic: Some(topic), properties: None, payload }
}

/// The QoS of a PUBLISH with its packet identifier; QoS 0 has none.
pub fn publish_qos(qos: QoS, packet_id: PacketId) -> PublishQoS {
    match qos {
        QoS::AtMostOnce => PublishQoS::AtMostOnce,
        QoS::AtLeastOnce => PublishQoS::AtLeastOnce(packet_id),
        QoS::ExactlyOnce => PublishQoS::ExactlyOnce(packet_id),
    }
}
