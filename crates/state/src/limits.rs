//! Hard bounds of the replicated state, each with its reason and worst-case memory.
//!
//! Bounds that an operator chooses are fields of [`crate::PartitionConfig`]; what is here is part of the format.

/// Queued messages per checkpoint record. A long backlog is written in blocks of this size, so that a change at
/// its end costs one block (12 KiB), not the backlog.
pub const QUEUE_BLOCK_MESSAGES: u64 = 512;

/// Highest window of unacknowledged messages per session, whatever client and configuration ask for. 40 bytes each.
pub const INFLIGHT_MESSAGES_MAX: u16 = 16_384;

/// Bytes of messages sent to a client and not acknowledged from which on no further one is sent, whatever the window in
/// messages: what a client that does not read has waiting on its node is this and one message. A client with 20 ms to
/// its node still gets 200 MB/s.
pub const INFLIGHT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Connections per client identifier that lost their session and are not known to be closed. Each is on a node that does
/// not answer, until control declares it dead; a CONNECT beyond that is refused (Server busy). 100 bytes each.
pub const DISPLACED_MAX: usize = 32;

/// Distinct sets of subscription identifiers per session that queued messages refer to. More than this needs
/// overlapping subscriptions in thousands of combinations; such messages then go out without identifiers.
pub const IDENTIFIER_SETS_MAX: usize = 4_096;

/// From how many identifier sets on the unused ones are reclaimed.
pub const IDENTIFIER_SETS_KEPT: usize = 256;

/// Messages that wait in the outbox to one group, from which on a publisher's QoS 2 message for it is refused: a
/// destination without quorum makes its publishers wait, not the memory of theirs. 64 bytes each.
pub const OUTBOX_MESSAGES_MAX: usize = 100_000;

/// Bytes of such messages. They are on disk, and held there until the destination has them.
pub const OUTBOX_BYTES_MAX: u64 = 1 << 30;

/// Messages of a share group that one member may have unsettled: enough for 10,000 per second at 25 ms, few enough that a
/// slow member keeps little from the others. 130 bytes each, in both partitions together, besides the message.
pub const SHARE_WINDOW_MAX: u16 = 256;

/// Share groups in one partition; one more is refused (Quota exceeded). 500 bytes each.
pub const SHARES_MAX: usize = 100_000;

/// Sessions in one share group; one more is refused (Quota exceeded). 200 bytes each, and their windows.
pub const SHARE_MEMBERS_MAX: usize = 10_000;

/// Log entries per chunk of the reference counts. A lone reference in a chunk costs about 100 bytes.
pub const LIVE_CHUNK_ENTRIES: u64 = 256;

/// References of a chunk up to which it is kept as a list; beyond, it is an array of 2 KiB.
pub const LIVE_SPARSE_MAX: usize = 64;

/// Subscribers of one filter up to which they are a plain list: most filters have one.
pub const SUBSCRIBERS_FEW_MAX: usize = 32;

/// Levels of a topic that are matched without allocating. Deeper topics are matched too.
pub const TOPIC_LEVELS_INLINE: usize = 32;

const _: () =
    assert!(IDENTIFIER_SETS_MAX < u16::MAX as usize, "sets are numbered by u16, 0 is the empty one");

/// Longest hold of a backup, in milliseconds of replicated time. So long at most what groups have for each other waits when
/// whoever takes the backup dies with all holds on: QoS 2 publishes of durable sessions, wills, share groups, new filters.
pub const HOLD_MS_MAX: u32 = 4_000;

/// Partitions whose replicas are on the way at once. Each sends a snapshot to its new node beside what clients do, and holds a
/// second copy of the partition until it is over.
pub const MOVES_MAX: usize = 4;

/// Members of a group that its leader tells of; a longer list is refused. Above what a cluster has nodes.
pub const MEMBERS_PER_GROUP_MAX: usize = 64;

/// How long clients may stay on a node that is to go, in seconds.
pub const REMOVAL_GRACE_S: u32 = 10;

/// Beyond that, replicated time until a node that is to go leaves control although it has not said that its clients are gone. Longer
/// than it takes to tell as many as a node has to go, at a pace.
pub const REMOVAL_CLOSE_MS: u64 = 35_000;

/// Longest name of a node in bytes, as the configuration allows.
pub const NODE_NAME_BYTES_MAX: usize = 63;

/// Listeners that a node tells the cluster of; more are not told. Above what a node has.
pub const LISTENERS_PER_NODE_MAX: usize = 32;

const _: () = assert!(IDENTIFIER_SETS_KEPT < IDENTIFIER_SETS_MAX);
const _: () = assert!(INFLIGHT_MESSAGES_MAX < u16::MAX / 2, "a free packet identifier is always near");
const _: () = assert!(LIVE_CHUNK_ENTRIES <= 65_536, "an entry's place in its chunk is a u16");
