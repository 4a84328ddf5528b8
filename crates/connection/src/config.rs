//! What a listener allows its connections.
//!
//! Owns: the settings of the protocol machine, with defaults. Does not: hold policy about sessions.
//! Limits: the defaults are in `limits`, with their reasons.

use core::time::Duration;

use quorate_codec::Limits;

use crate::limits::{
    ANSWER_DEADLINE, CONNECT_DEADLINE, KEEP_ALIVE_S_MAX, OUTBOUND_TOPIC_ALIASES_MAX, OUTPUT_DEADLINE,
    PACKET_DEADLINE, RECEIVE_MAX, TOPIC_ALIAS_MAX,
};

/// Settings of a connection.
///
/// Worst-case memory, beside the caller's input buffer, which events and topics share: 3 KiB, the topic names of
/// `topic_alias_max` and `outbound_topic_aliases_max`, 4 bytes for each message that the client's Receive Maximum lets
/// be in flight, and what the caller leaves in the output.
#[derive(Clone, Debug)]
pub struct Config {
    /// Limits of packets. `packet_bytes_max` is announced to 5.0 clients [MQTT-3.2.2-15].
    pub limits: Limits,
    /// From the start of the connection to the whole CONNECT.
    pub connect_deadline: Duration,
    /// From the whole CONNECT to [`Connection::accept`](crate::Connection::accept); then it is refused as unavailable.
    pub answer_deadline: Duration,
    /// From the first byte of a later packet to its last.
    pub packet_deadline: Duration,
    /// While the caller is [`Reading::Blocked`](crate::Reading::Blocked), the client must take a byte so often.
    pub output_deadline: Duration,
    /// Longest Keep Alive, in seconds. A 5.0 client that wants more, or none, is told this one [MQTT-3.1.2-21]. Zero:
    /// any is granted.
    pub keep_alive_max_s: u16,
    /// A 3.x client without Keep Alive is closed after so long without a packet; zero: never.
    pub idle_deadline: Duration,
    /// QoS 1 publishes of the client that may be unanswered: its Receive Maximum to a 5.0 client, a pause in reading
    /// to a 3.x client. Zero counts as 1.
    pub receive_max: u16,
    /// Topic aliases that the client may use. Each holds one topic name.
    pub topic_alias_max: u16,
    /// Topic aliases used towards the client, if it allows as many. Each holds one topic name.
    pub outbound_topic_aliases_max: u16,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            limits: Limits::default(),
            connect_deadline: CONNECT_DEADLINE,
            answer_deadline: ANSWER_DEADLINE,
            packet_deadline: PACKET_DEADLINE,
            output_deadline: OUTPUT_DEADLINE,
            keep_alive_max_s: KEEP_ALIVE_S_MAX,
            idle_deadline: Duration::ZERO,
            receive_max: RECEIVE_MAX,
            topic_alias_max: TOPIC_ALIAS_MAX,
            outbound_topic_aliases_max: OUTBOUND_TOPIC_ALIASES_MAX,
        }
    }
}
