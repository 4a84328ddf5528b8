//! Limits of packets: those that the protocol fixes, and those that a user of the codec chooses.
//!
//! Owns: the numbers, each with its reason. Invariants: relations between them hold at compile time.

/// Longest text or binary field: its length is two bytes (MQTT 5, 1.5.4 and 1.5.6).
pub const TEXT_BYTES_MAX: usize = 65_535;

/// Largest number in a variable byte integer (MQTT 5, 1.5.5): no packet's remaining length is above it.
pub const VARINT_MAX: u32 = 268_435_455;

/// Largest packet of the protocol: the first byte, four bytes of length, and what they can say.
pub const PACKET_BYTES_MAX: u32 = VARINT_MAX + 5;

/// Levels of a topic name or filter that the types accept. A walk over the levels costs time in proportion, and a trie
/// one node for each: 65,535 slashes must not become 65,536 nodes.
pub const LEVELS_MAX: usize = 128;

/// What one decoding may accept. Beyond it a packet is refused before anything is kept of it.
///
/// A decoded packet shares the bytes it came from. Beside them it takes at most 64 bytes for each user property
/// and 48 for each filter: with the defaults 2 KiB and 12 KiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest packet, fixed header included, in bytes. The Maximum Packet Size to announce.
    pub packet_bytes_max: u32,
    /// Largest CONNECT as the first packet, in bytes: it comes from whoever can reach the port, so it bounds what a
    /// connection costs before it is authenticated. Its will and an authentication token must fit.
    pub connect_bytes_max: u32,
    /// Most user properties of one packet (a CONNECT and its will each).
    pub user_properties_max: usize,
    /// Most bytes of names and values of the user properties of one packet together.
    pub user_property_bytes_max: usize,
    /// Most levels of a topic name or filter, at most [`LEVELS_MAX`]. Of a shared subscription `$share` and the name
    /// count too.
    pub topic_levels_max: usize,
    /// Most filters of one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_packet_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_max: 1024 * 1024,
            connect_bytes_max: 16 * 1024,
            user_properties_max: 32,
            user_property_bytes_max: 4 * 1024,
            topic_levels_max: 32,
            filters_per_packet_max: 256,
        }
    }
}

impl Limits {
    /// The limits of the protocol and of the types only: for a client that trusts its server.
    pub fn of_protocol() -> Self {
        Self {
            packet_bytes_max: PACKET_BYTES_MAX,
            connect_bytes_max: PACKET_BYTES_MAX,
            user_properties_max: usize::MAX,
            user_property_bytes_max: usize::MAX,
            topic_levels_max: LEVELS_MAX,
            filters_per_packet_max: usize::MAX,
        }
    }
}

const _: () = assert!(LEVELS_MAX <= TEXT_BYTES_MAX);
const _: () = assert!(VARINT_MAX == (1 << 28) - 1, "four times seven bits");
