//! Limits of a connection, each with its reason. Those that an operator may change are defaults of
//! [`Config`](crate::Config).
//!
//! Owns: the numbers. Invariants: relations between them hold at compile time.

use core::time::Duration;

use quorate_codec::limits::TEXT_BYTES_MAX;

/// From accepting the socket to the whole CONNECT. Nobody is authenticated before, so a connection must not be held
/// open by sending nothing, or little; five round trips of a bad mobile network fit in.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// From the whole CONNECT to its answer. A takeover may have to wait for the lease of another node to end, a few
/// seconds; clients give up after 30 s, and are to hear a reason before.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// From the first byte of a packet to its last. Until then its bytes are held; the largest packet of the default,
/// 1 MiB, takes this long at 280 kbit/s.
pub const PACKET_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client that is not read because it leaves too much unread may take nothing at all. A phone that loses its
/// network for some seconds goes on; memory for one that hangs is held no longer than this.
pub const OUTPUT_DEADLINE: Duration = Duration::from_secs(60);

/// A deadline noticed later than this was missed by this machine, not only by the client: it was busy or asleep. Timers of
/// an idle machine are a few milliseconds late.
pub const LATE_MAX: Duration = Duration::from_millis(250);

/// How long bytes that came in time have to be found, when a deadline was noticed late. Each turn of the caller's loop
/// looks at the sockets first; this is many turns.
pub const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Longest Keep Alive granted to a 5.0 client, in seconds: a dead client is found after seven and a half minutes.
pub const KEEP_ALIVE_S_MAX: u16 = 300;

/// QoS 1 publishes of one client that may be unanswered. At a commit time of 10 ms this is 100,000 messages a second
/// of one client. Each holds its packet in memory until it is answered. Only their number is bounded here, so one client
/// may hold 1,024 times `Limits::packet_bytes_max`: a bound in bytes is the caller's, who may stop reading.
pub const RECEIVE_MAX: u16 = 1024;

/// Topic aliases that one client may set. Each holds a copy of a topic name, so at worst 2 MiB; with usual names
/// (50 bytes) 4 KiB.
pub const TOPIC_ALIAS_MAX: u16 = 32;

/// Topic aliases set towards one client. Each holds a copy of a topic name, so at worst 1 MiB; with usual names
/// (50 bytes) 2 KiB. More aliases save nothing for clients that receive many topics, as each is set only once.
pub const OUTBOUND_TOPIC_ALIASES_MAX: u16 = 16;

/// Room for events that a connection keeps when none waits. A burst of small packets in one read makes thousands of
/// events; their room is given back, or ten thousand connections would each keep megabytes. 16 take 2 KiB.
pub const EVENTS_KEPT_MAX: usize = 16;

/// Records of packets that wait for whoever watches a connection. Those beyond are counted, and not kept: 1 MiB at worst
/// with short topics, for one turn of a connection that is watched.
pub const OBSERVED_MAX: usize = 4096;

/// Topic filters of a packet that its record has.
pub const OBSERVED_FILTERS_MAX: usize = 16;

/// What a topic alias costs in a packet, in bytes: a topic name up to this length is shorter than its alias.
pub const TOPIC_ALIAS_BYTES: usize = 3;

const _: () = assert!(RECEIVE_MAX > 0, "a Receive Maximum of 0 is a protocol error (MQTT 5, 3.2.2.3.3)");
const _: () = assert!(
    CONNECT_DEADLINE.as_secs() < ANSWER_DEADLINE.as_secs(),
    "who is known is given more time than who is not"
);
const _: () = assert!(
    TOPIC_ALIAS_MAX as usize * TEXT_BYTES_MAX <= 2 * 1024 * 1024,
    "the memory that the comment promises"
);
const _: () = assert!(
    OUTBOUND_TOPIC_ALIASES_MAX as usize * TEXT_BYTES_MAX <= 1024 * 1024,
    "the memory that the comment promises"
);
