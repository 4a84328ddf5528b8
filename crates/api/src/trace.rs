//! `POST /v1/trace`: a live log of packets, one JSON object a line.
//!
//! Owns: the request and the lines. Does not: choose packets.
//! Invariants: a line has no user name, password or authentication data, and no payload unless it was asked for; of a will
//! only its topic.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/trace`: exactly one of `client_id` and `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// All packets of this client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// PUBLISH packets of all clients whose topic matches this filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// How long, at most 3,600; 60 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Ends after so many packets, at most 1,000,000; 1,000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_max: Option<u64>,
    /// So many bytes of each payload, at most 1,024; none when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes_max: Option<u32>,
    /// Wait here even if the client is connected to another node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the client.
    #[default]
    In,
    /// To the client.
    Out,
}

/// A line: a packet, or the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum TraceLine {
    /// A packet.
    Packet(TracedPacket),
    /// The last line.
    End(TraceEnd),
}

/// A packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TracedPacket {
    /// When it was read or written, in Unix milliseconds.
    pub at_ms: u64,
    /// The client.
    pub client_id: String,
    /// Which way.
    pub direction: Direction,
    /// Its type, as MQTT spells it.
    pub packet: String,
    /// QoS of a PUBLISH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<u8>,
    /// DUP of a PUBLISH, when set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dup: bool,
    /// RETAIN of a PUBLISH, when set.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// Topic of a PUBLISH, aliases resolved; topic of the will of a CONNECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Topic filters of a SUBSCRIBE or UNSUBSCRIBE, the first 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<String>,
    /// Packet identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet_id: Option<u16>,
    /// Reason code, also of those that MQTT 3 has another number for; the first one of a SUBACK or UNSUBACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<u8>,
    /// Bytes of the whole packet.
    pub bytes: u64,
    /// Bytes of the payload of a PUBLISH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u64>,
    /// The beginning of the payload, in hexadecimal digits, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hex: Option<String>,
    /// Packets left out before this one, because the reader was slow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped_before: u64,
}

/// The last line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceEnd {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Why: `seconds`, `events_max` or `stopping`.
    pub end: String,
    /// Packets that were written.
    pub packets: u64,
    /// Packets that were left out because the reader was slow.
    pub dropped: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let packet =
            TraceLine::Packet(TracedPacket { packet: "PINGREQ".to_owned(), ..TracedPacket::default() });
        let text = serde_json::to_string(&packet).unwrap();
        assert_eq!(text, r#"{"at_ms":0,"client_id":"","direction":"in","packet":"PINGREQ","bytes":0}"#);
        let end = TraceLine::End(TraceEnd { end: "seconds".to_owned(), ..TraceEnd::default() });
        for line in [packet, end] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<TraceLine>(&text).unwrap(), line);
        }
    }
}
