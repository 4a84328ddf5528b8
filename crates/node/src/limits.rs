//! Limits of a node, each with its reason.

use core::time::Duration;

/// How often the shell calls `Event::Tick`. One Raft tick.
pub const TICK: Duration = Duration::from_millis(50);

/// Raft ticks between heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;

/// Raft ticks without a leader before pre-vote, without jitter. 0.8 s: longer than a stall of a busy machine, short
/// enough for a silent leader to be replaced within 1.5 s.
pub const ELECTION_TICKS: usize = 16;

/// Jitter added to `ELECTION_TICKS`, exclusive upper bound.
pub const ELECTION_JITTER_TICKS: usize = 8;

/// The part of the jitter that belongs to the replica which is to lead next; the others begin two ticks later. Two that miss a silent
/// leader within the same few milliseconds each vote for themselves, and it takes another timeout until one is elected.
pub const HEIR_JITTER_TICKS: usize = 3;

/// How long a granted lease lasts from the moment it was asked for. The contract's bound for a cut-off node to stop
/// acknowledging is 1 s; a client whose node was killed waits about as long for its session, so it is shorter.
pub const LEASE: Duration = Duration::from_millis(700);

/// How long the control leader waits after a grant before it declares a node lost: the lease and a tenth, so that
/// clocks may run 10 % apart.
pub const LEASE_WAIT: Duration = Duration::from_millis(770);

/// How often a node renews its lease.
pub const LEASE_RENEW: Duration = Duration::from_millis(100);

/// A write that takes longer than this means that the disk hangs: a leader hands on what it leads. The contract's bound; longer
/// than the worst sync of a healthy disk on a busy machine most of the time, and a mistake costs a transfer.
pub const DISK_HANG: Duration = Duration::from_millis(500);

/// How long a disk must have kept up after it hung until the node is to lead again, so that leadership does not follow every
/// hiccup. A node that comes back and catches up for longer than `DISK_HANG` waits as long.
pub const DISK_TRUST_AFTER: Duration = Duration::from_secs(3);

/// How often a node whose disk has little room, or hung lately, tells the others so.
pub const DISK_UNFIT_EVERY: Duration = Duration::from_secs(1);

/// How long that is believed: a node that says it no more is fit to lead again, or gone.
pub const DISK_UNFIT_BELIEVED: Duration = Duration::from_secs(3);

/// Bytes of commands in one entry. Bounds what one message between peers carries and what one apply does.
pub const ENTRY_BYTES_MAX: usize = 1024 * 1024;

/// Entries of a group that the leader has proposed but not yet persisted itself. Two keep the disk busy while the
/// next one gathers.
pub const UNPERSISTED_ENTRIES_MAX: usize = 2;

/// Messages of a group that wait for one write, votes and answers to the leader. When full the oldest are dropped, as if they were lost
/// on their way: while a disk hangs or is full for hours, an answer to every heartbeat would wait.
pub const HELD_MESSAGES_MAX: usize = 64;

/// Bytes of commands that a node holds for one group until they are applied. When full, the shell stops taking
/// requests from client connections, which stop reading. Less on a node with little memory: see `MemoryShares`.
pub const STREAM_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of log entries a group keeps in memory for followers; older ones are read through `LogSource`. Less on a node with little
/// memory.
pub const ENTRIES_IN_MEMORY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Append messages on their way to one member without an answer: with `ENTRY_BYTES_MAX` each, what a slow member may
/// have outstanding.
pub const APPENDS_IN_FLIGHT_MAX: usize = 64;

/// Bytes of entries of a group that are proposed and not committed; more proposals are refused and their streams wait.
/// Less on a node with little memory.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Bytes of entries applied before Raft is looked at again.
pub const APPLY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Committed entries that a replica may have to apply and still count as caught up: what is underway in a busy cluster, as
/// for a rolling restart.
pub const APPLY_LAG_ENTRIES_MAX: u64 = 1000;

/// How long a committed entry may wait to be applied until the replica counts as not caught up: some hundred turns of the
/// worker, and less than two checks of a balancer.
pub const APPLY_LAG_TIME_MAX: Duration = Duration::from_secs(1);

/// Retained messages in one page of a retained read.
pub const RETAINED_PAGE_MESSAGES_MAX: usize = 64;

/// Bytes of retained messages in one page, from the second message on: what a client that reads slowly has waiting, and
/// the size of a command that queues them for a durable session.
pub const RETAINED_PAGE_BYTES_MAX: usize = 256 * 1024;

/// Subscriptions of one connection whose retained messages wait to be read. From here on its SUBACKs wait.
pub const RETAINED_READS_QUEUED_MAX: usize = 4096;

/// Share groups in one frame that forwards a message to a node; for more there are further frames. With filters of
/// 64 KiB this is 1 MiB beside the message.
pub const SHARES_PER_FORWARD_MAX: usize = 16;

/// Wills of one partition that are being published: when a node with many clients dies, their wills come at the pace at
/// which the cluster takes them.
pub const WILLS_IN_PROGRESS_MAX: usize = 64;

/// Bytes of wills of one partition from which on no further one is begun.
pub const WILL_BYTES_IN_PROGRESS_MAX: usize = 4 * 1024 * 1024;

/// Topics below `$SYS`, each with its current value: about 60 for each node and as many for the cluster, so enough for
/// more than 60 nodes. Worst case about 1 MiB. Those above, of the nodes that come last, have no value.
pub const SYSTEM_TOPICS_MAX: usize = 4096;

/// Counters that one node tells another; more are a malformed message.
pub const COUNTERS_MAX: usize = 256;

/// Nodes that one node tells another who looks for a leader of control; more are a malformed message.
pub const TOLD_NODES_MAX: usize = 1024;

/// Sessions, subscriptions or topics that one look for an operator goes through, over all partitions: below a millisecond
/// for the worker (100,000 sessions take 60 to 110 ms in all). Whoever wants more asks again from there on.
pub const LISTING_EXAMINED_MAX: usize = 1024;

/// Bytes of names, or of retained messages, in one such look.
pub const LISTING_BYTES_MAX: usize = 1024 * 1024;

/// Entries that one such look reads from the log.
pub const LISTING_BODIES_MAX: usize = 64;

/// Log bytes of a group after which it is checkpointed.
pub const CHECKPOINT_LOG_BYTES: u64 = 16 * 1024 * 1024;

const _: () = assert!(LEASE.as_millis() < LEASE_WAIT.as_millis());
const _: () = assert!(LEASE_RENEW.as_millis() * 4 < LEASE.as_millis());
const _: () = assert!(HEARTBEAT_TICKS * 4 < ELECTION_TICKS);
