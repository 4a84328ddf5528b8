//! Every bound of the command line, with its reason.

use std::time::Duration;

/// Largest admin answer read. A cluster state with 256 groups and 9 nodes is below 1 MiB.
pub const HTTP_RESPONSE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Longest line of an answer that comes line by line: a packet with a topic and a piece of its payload, escaped.
pub const HTTP_LINE_BYTES_MAX: usize = 1024 * 1024;

/// Nodes that `quorate trace` goes through: the one asked, one with a replica, the one that holds the connection.
pub const TRACE_HOPS_MAX: usize = 4;

/// Longest wait for an admin answer; the admin listener never does slow work for a read.
pub const HTTP_WAIT_MAX: Duration = Duration::from_secs(5);

/// Largest file with an admin token that is read, as the nodes read it.
pub const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Longest wait for the answer to a request that changes something: a node may ask others, and wait for a leader and for
/// what is durable.
pub const OPERATE_WAIT_MAX: Duration = Duration::from_secs(15);

/// Longest wait for the next piece of a backup: the node reads the whole state of a group before its first piece.
pub const BACKUP_WAIT_MAX: Duration = Duration::from_secs(300);

/// Rows asked for at once, when a list is longer: as many as the server gives.
pub const ADMIN_PAGE_ROWS: usize = 1000;

/// Longest wait for TCP connect, TLS handshake and CONNACK, each. A takeover may have to wait for a lease to end.
pub const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Outgoing bytes of a connection above which producers pause. Two socket buffers' worth: enough to keep
/// the socket busy, small enough that send times in the payload stay honest.
pub const OUTGOING_BYTES_HIGH: usize = 64 * 1024;

/// Bytes read from a socket at once, and the unit in which the read buffer grows.
pub const READ_BYTES: usize = 64 * 1024;

/// Most nodes that `quorate dev` starts: each is a process with its own threads on this machine.
pub const DEV_NODES_MAX: u16 = 9;

/// How long `quorate dev` waits for a node to end after SIGTERM before it kills it.
pub const DEV_STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// First pause before connecting again; doubles up to [`RECONNECT_PAUSE_MAX`].
pub const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);

/// Longest pause before connecting again. Short, because the verifier measures gaps.
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Longest pause of `quorate sub` before connecting again: a person waits, a fleet should not hammer.
pub const SUB_RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Nodes that `quorate explain` goes through: the one asked, one with a replica, the leader, and once more for a leader
/// that changed meanwhile.
pub const EXPLAIN_HOPS_MAX: usize = 3;

/// Most examples of a broken promise that a report names.
pub const REPORT_EXAMPLES_MAX: usize = 10;

/// Bytes of a file with a certificate or key that is read.
pub const CERTIFICATE_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Longest that a certificate may be made to last, in days: a hundred years.
pub const CERTIFICATE_DAYS_MAX: u32 = 36_500;

/// Host names and addresses of one certificate. Above what a node has; far below what TLS peers refuse.
pub const CERTIFICATE_ADDRESSES_MAX: usize = 30;

/// Nodes behind one front door: far above what a cluster has.
pub const FRONT_DOOR_NODES_MAX: usize = 64;

/// Shortest check interval of a front door: below, checks would cost more than clients.
pub const FRONT_DOOR_CHECK_INTERVAL_MIN: Duration = Duration::from_millis(200);

/// Longest check interval of a front door: above, nobody would call it checked.
pub const FRONT_DOOR_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);

/// Longest wait for a balancer to read its files again. Then it is tried once more.
pub const FRONT_DOOR_RELOAD_WAIT_MAX: Duration = Duration::from_secs(10);
/// Writes with a sync that `quorate doctor` measures: enough for a p99, a second or two on a slow disk.
pub const DOCTOR_SYNCS: u32 = 48;

/// It stops measuring syncs after this time, however few there were.
pub const DOCTOR_SYNC_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest wait of `quorate doctor` for each step towards a peer. A healthy one answers in a fraction of it.
pub const DOCTOR_PEER_WAIT_MAX: Duration = Duration::from_secs(3);

/// Nodes that `quorate doctor` dials. More than a cluster has.
pub const DOCTOR_PEERS_MAX: usize = 32;

/// Open files of one process that are looked at. A node with more connections than that has opened its listeners and its
/// lock before them.
pub const DOCTOR_FILES_OF_PROCESS_MAX: usize = 100_000;

/// Entries of the data directory whose owners are compared.
pub const DOCTOR_DIRECTORY_ENTRIES_MAX: usize = 10_000;

/// Shortest pause of `--watch` and `quorate top`: each look asks every node.
pub const WATCH_PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause of `--watch` and `quorate top`.
pub const WATCH_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Longest queues that `quorate top` asks for: more than a screen shows.
pub const TOP_QUEUES_MAX: usize = 50;

/// Pages of events of one node that `quorate top` reads in one look: more than a node keeps.
pub const TOP_EVENT_PAGES_MAX: usize = 4;

/// Newest events that `quorate top` keeps of all nodes.
pub const TOP_EVENTS_MAX: usize = 50;

const _: () = assert!(RECONNECT_PAUSE_MIN.as_millis() < RECONNECT_PAUSE_MAX.as_millis());
const _: () = assert!(OUTGOING_BYTES_HIGH <= 1024 * 1024, "send times in the payload would be stale");
