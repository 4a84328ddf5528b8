//! What went through a connection: packets and messages in both directions.
//!
//! Owns: [`Traffic`]. Does not: count bytes of the socket; the shell does.
//! Invariants: a packet counts when it was decoded, or added to the output; it counts once.

/// Counts since they were last taken, see [`crate::Connection::take_traffic`].
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Packets from the client, of any type.
    pub packets_in: u64,
    /// Packets to the client, of any type.
    pub packets_out: u64,
    /// PUBLISH packets from the client.
    pub publishes_in: u64,
    /// Bytes of their payloads.
    pub publish_bytes_in: u64,
    /// PUBLISH packets to the client.
    pub publishes_out: u64,
    /// Bytes of their payloads.
    pub publish_bytes_out: u64,
}
