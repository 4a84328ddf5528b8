//! What a listener allows its connections.
//!
//! Owns: the settings of the protocol machine, with defaults. Does not: hold policy about sessions.
//! Invariants: `receive_max` is at least 1.

use core::time::Duration;

use quorate_codec::Limits;

/// Settings of a connection. Worst-case memory of an idle, connected client: about 1 KiB beside its buffers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Limits of packets. `packet_bytes_max` is announced to 5.0 clients [MQTT-3.2.2-15].
    pub limits: Limits,
    /// From the start of the connection to the whole CONNECT.
    pub connect_deadline: Duration,
    /// From the first byte of a later packet to its last.
    pub packet_deadline: Duration,
    /// Longest Keep Alive, in seconds. A 5.0 client that wants more, or none, is told this one [MQTT-3.1.2-21].
    pub keep_alive_max_s: u16,
    /// A 3.x client without Keep Alive is closed after so long without a packet; zero: never.
    pub idle_deadline: Duration,
    /// QoS 1 and 2 publishes of the client that may be unanswered: its Receive Maximum to a 5.0 client, a pause in
    /// reading to a 3.x client.
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
            connect_deadline: Duration::from_secs(5),
            packet_deadline: Duration::from_secs(30),
            keep_alive_max_s: 300,
            idle_deadline: Duration::ZERO,
            receive_max: 1024,
            topic_alias_max: 32,
            outbound_topic_aliases_max: 16,
        }
    }
}
