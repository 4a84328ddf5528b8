//! Limits of the daemon, each with its reason.
//!
//! Worst-case memory of the queues here, per node: clients 4,096 requests (each at most a packet), peers 64 MiB in,
//! 64 MiB out per peer and link kind, one mailbox per connection.

use std::time::Duration;

/// Bytes of one frame between nodes. Above an entry of 1 MiB with its head, many of which one Raft message carries;
/// a longer one comes from no peer of ours.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a Hello frame: names and a member list.
pub const HELLO_BYTES_MAX: usize = 64 * 1024;

/// Bytes waiting to be written on one link to a peer. When full, the raft link is dropped: what it carries is safe
/// to lose when the link resets, and a peer that reads so slowly is not with us. The routing link drops the message.
pub const PEER_OUTGOING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes received from peers that wait for the worker. When full, the links are not read.
pub const PEER_INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Requests of client connections that wait for the worker. When full, connections wait and do not read.
pub const CLIENT_INBOX_REQUESTS_MAX: usize = 4096;

/// Read buffer of a link between nodes.
pub const PEER_READ_BYTES: usize = 64 * 1024;

/// How long dialling a peer may take, TLS and Hello included.
pub const PEER_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// Concurrent handshakes on the peer listener: strangers cannot use up the node's memory.
pub const PEER_HANDSHAKES_MAX: usize = 64;

/// First pause before a peer is dialled again; doubles up to the longest one.
pub const PEER_BACKOFF_MIN: Duration = Duration::from_millis(20);

/// Longest pause before a peer is dialled again. A peer that starts asks to be dialled at once.
pub const PEER_BACKOFF_MAX: Duration = Duration::from_millis(200);

/// How often a peer that dials this node, and has stopped to, is asked why: it may not know this node any more.
pub const PEER_SILENT_PROBE: Duration = Duration::from_secs(2);

/// An idle link carries an empty frame this often.
pub const PEER_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// A link on which nothing came for this long is dropped: several keep-alive frames are missing.
pub const PEER_IDLE_MAX: Duration = Duration::from_secs(6);

/// Bytes that a client connection reads at once, through a buffer of its thread.
pub const CLIENT_READ_BYTES: usize = 64 * 1024;

/// Bytes that wait to be written to a client before the connection stops handling what comes in.
pub const CLIENT_OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// Bytes that a client connection moves before it gives way to the others of its thread: one full read.
pub const CLIENT_TURN_BYTES: usize = CLIENT_READ_BYTES;

/// How long a publisher gives way after a turn that left the mailbox of a receiver half full, if that receiver still
/// makes progress: what is published faster than it can be delivered is slowed down rather than dropped. One turn moves
/// 64 KiB, so that a slow receiver never slows a publisher below 32 MiB/s.
pub const PUBLISHER_GIVES_WAY: Duration = Duration::from_millis(2);

/// A receiver that has taken nothing for this long makes no progress: no publisher gives way to it.
pub const RECEIVER_STANDS_STILL: Duration = Duration::from_millis(100);

/// Direct deliveries that wait in the mailbox of one connection. When full, a message is dropped and counted.
pub const MAILBOX_DIRECT_MESSAGES_MAX: usize = 100_000;

/// Bytes of direct deliveries that wait in the mailbox of one connection. When full, a message is dropped and counted. Less on a
/// node with little memory, as of all limits for which there is a share: see `memory::shares`.
pub const MAILBOX_DIRECT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The same while all mailboxes together hold more than their share: enough for a client that keeps up.
pub const MAILBOX_PRESSED_BYTES: usize = 256 * 1024;

/// Bytes of messages that wait for the window of one transient session.
pub const DIRECT_QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes read from a client at once while memory is short.
pub const PRESSED_READ_BYTES: usize = 4 * 1024;

/// Packets above this size are read only when there is room for the whole of them: what many clients have sent the first half of
/// would fill the memory, and none of it could go on.
pub const LARGE_PACKET_BYTES: usize = CLIENT_READ_BYTES;

/// Connections of the whole node that have not sent their whole CONNECT. When full, a new one is closed: whoever has not
/// said who it is may not take more than 64 MiB together, with as much again in TLS as the client has sent.
pub const HANDSHAKES_MAX: usize = 2048;

/// The same for one address on one listener, unless it is configured.
pub const ADDRESS_HANDSHAKES_MAX: usize = 256;

/// Bytes that a client connection may take before its CONNECT has come whole.
pub const UNAUTHENTICATED_BYTES_MAX: usize = 16 * 1024;

/// Bytes read from a client during its TLS handshake: a chain of certificates fits, a flood of fragments does not.
pub const TLS_HANDSHAKE_BYTES_MAX: usize = UNAUTHENTICATED_BYTES_MAX;

/// Bytes read from a client over TLS or WebSocket between the handshake and its whole CONNECT. When reached, nothing more
/// is read, so that the deadline of CONNECT ends it. The largest CONNECT and the frames or records around it fit.
pub const CONNECT_READ_BYTES_MAX: usize = 20 * 1024;

/// Bytes that TLS holds for a client that does not read.
pub const TLS_OUTPUT_BYTES_MAX: usize = 16 * 1024;

/// New connections of one address in a second on one listener, unless it is configured.
pub const ADDRESS_CONNECT_RATE: u32 = 1000;

/// Addresses whose connections a listener counts apart, about 100 bytes each. When full, all further ones count as one.
pub const ADDRESSES_MAX: usize = 65_536;

/// How often a full table of addresses is looked through for ones that need no place any more.
pub const ADDRESSES_SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a PROXY header, far above what addresses and a certificate's name take.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Networks that a listener trusts to speak the PROXY protocol; each connection is compared with all.
pub const PROXY_NETWORKS_MAX: usize = 256;

/// Bytes of the path of a Unix socket: the operating system has no room for more.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Bytes of a file with certificates or a key.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// How often a listener looks whether its certificates have changed.
pub const TLS_LOOK_EVERY: Duration = Duration::from_secs(2);

/// Subject alternative names of a client's certificate. One with more is refused: no rule could name them all.
pub const CERTIFICATE_NAMES_MAX: usize = 32;

/// Bytes of one name in a client's certificate; as for the names.
pub const CERTIFICATE_NAME_BYTES_MAX: usize = 255;

/// Bytes of the WebSocket request head.
pub const WEBSOCKET_HEAD_BYTES_MAX: usize = 8 * 1024;

/// Read buffer of a WebSocket connection, held while it is idle.
pub const WEBSOCKET_READ_BUFFER_BYTES: usize = 2 * 1024;

/// Bytes of one WebSocket message above the largest MQTT packet: several packets may come in one.
pub const WEBSOCKET_SLACK_BYTES: usize = 64 * 1024;

/// How long a closing connection may take to write what is left for it.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections to a TCP listener for clients that may wait for the node to accept them; the system caps it at `net.core.somaxconn`. Beyond, the
/// system drops the client's SYN, which comes again after 1 s, 3 s, 7 s. As many as come at once to one of three nodes when 10,000 clients
/// lose theirs.
pub const LISTEN_BACKLOG: u32 = 4096;

/// Pause after the listener failed to accept (no file descriptors left, for instance).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a listener that could not accept waits until it looks whether it could now, when nobody connects.
pub const LISTENER_LOOK_EVERY: Duration = Duration::from_secs(1);

/// Open files that clients may not take. Most of what the node itself needs it has open already; what comes on top are
/// requests of operators, links to peers that come back, the next segment, and body files (64 at once). Without them
/// the node could not even say that it lacks files, and a log that cannot open its next segment ends the process.
pub const FILES_RESERVED: u64 = 64;

/// Batches on their way to the log writer. Two per group would do; the node holds the rest back.
pub const LOG_BATCHES_MAX: usize = 64;

/// Bytes of records in that queue, and as many again that wait for room there as one batch. A disk that hangs for half a second, after
/// which what this node leads is handed over, holds up fewer; then the worker waits for `LOG_WAIT_MAX`.
pub const LOG_QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long the worker waits for a log that is behind. Some syncs of a slow disk, and short beside the lease. After that the log counts
/// as full until it takes what waits: the node takes no entries of peers meanwhile and proposes none.
pub const LOG_WAIT_MAX: Duration = Duration::from_millis(100);

/// Checkpoints and snapshots on their way to the keeper thread. More of them the worker keeps: for each group there is one checkpoint at
/// a time, one snapshot to be put in force, and one for each member to be sent.
pub const KEEPER_JOBS_MAX: usize = 64;

/// Publishes of one connection that are timed at once, 24 bytes each. The Receive Maximum is 1,024 by default; of what a
/// client of MQTT 3 has more under way than this, no time is taken.
pub const PUBLISHES_TIMED_MAX: usize = 4096;

/// Concurrent connections to the admin listener.
pub const ADMIN_CONNECTIONS_MAX: usize = 128;

/// How long an admin connection may stay open; requests are small and answers quick.
pub const ADMIN_CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an admin request may send its head.
pub const ADMIN_HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the body of an admin request.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// How long an admin request waits for the worker to answer.
pub const ADMIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Questions of admin requests that wait for the worker. When full, the request gets 503.
pub const ADMIN_QUESTIONS_MAX: usize = 64;

/// Names under which the admin listener may be asked; each request is compared with all.
pub const ADMIN_HOST_NAMES_MAX: usize = 64;

/// Bytes of a host name, as DNS has it.
pub const HOST_NAME_BYTES_MAX: usize = 253;

/// Bytes of the file with the tokens of the admin listener.
pub const ADMIN_TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// Tokens in that file: an old one and a new one while they are changed, and some for programs.
pub const ADMIN_TOKENS_MAX: usize = 8;

/// Shortest token: 16 characters of a random one cannot be guessed at any rate that this listener answers.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;

/// Rows per page of a list, unless the request says how many.
pub const ADMIN_PAGE_ROWS: usize = 100;

/// Most rows per page of a list. With client identifiers and filters of usual length an answer has some 100 KiB.
pub const ADMIN_PAGE_ROWS_MAX: usize = 1000;

/// Bytes of client identifiers, topics and filters from which on a node ends its part of a page, whatever its number of rows.
/// With one look more, and every byte escaped in JSON, the answer to another node still fits into a frame.
pub const ADMIN_NAMES_BYTES_MAX: usize = 1024 * 1024;

/// Most entries of a list of the longest or slowest. The age of each is read from the log.
pub const ADMIN_TOP_MAX: usize = 100;

/// How long a list may go on over the sessions or retained messages of a node, look by look: the page ends there, and the
/// next one goes on. A million sessions take about a second.
pub const WALK_TIME: Duration = Duration::from_millis(1500);

/// How long a node waits for other nodes to say how old the messages in its answer are; those not known by then are shown
/// without.
pub const AGES_TIME: Duration = Duration::from_secs(1);

/// Lists of a node that go on at the same time; others wait. Each has one look at a time: what a turn of the worker takes
/// longer is bounded by as many looks.
pub const WALKS_AT_ONCE_MAX: usize = 2;

/// How long a node waits for the answer of another one to a question of the admin API: longer than its walk.
pub const ADMIN_PEER_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between two looks for a leader, while one is elected and somebody waits to have a connection closed.
pub const ADMIN_LEADER_PAUSE: Duration = Duration::from_millis(50);

/// Questions of other nodes that wait to be answered. Further ones are dropped: whoever asked answers without them.
pub const INQUIRIES_WAITING_MAX: usize = 64;

/// Questions of other nodes that are answered at the same time.
pub const INQUIRIES_AT_ONCE_MAX: usize = 8;

/// Subscriptions that the explanation of a session names; the rest is counted.
pub const ADMIN_SUBSCRIPTIONS_MAX: usize = 1000;

/// Entries of the data directory whose sizes are added up for `/metrics`: some milliseconds of a thread of its own. With more,
/// the size is left out.
pub const DATA_FILES_MAX: usize = 20_000;
/// Bytes of all files of the dashboard together: they are part of the binary.
pub const DASHBOARD_BYTES_MAX: usize = 200 * 1024;

/// Events of the node that are kept for `/v1/events`. When full, the oldest goes.
pub const NODE_EVENTS_MAX: usize = 1024;

/// Bytes of the text of one event; what is longer is cut.
pub const NODE_EVENT_TEXT_BYTES_MAX: usize = 512;

/// Events per page of an admin answer.
pub const ADMIN_EVENTS_MAX: usize = 1000;

/// How often the node looks at itself: readiness, rates, how long the disk takes.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks that are remembered: rates and percentiles are over the time between the first and the last of them.
pub const LOOKS_MAX: usize = 11;

/// Shortest pause between two events about the same reason of drops or refusals: they come in bulk.
pub const BULK_EVENTS_EVERY: Duration = Duration::from_secs(10);

/// A sync of the log that takes this long is called slow: it is what a healthy disk takes under the worst load.
pub const DISK_SLOW: Duration = Duration::from_millis(250);

/// A replica that is so many entries behind is told of: below, it is on its way.
pub const REPLICA_BEHIND_ENTRIES: u64 = 10_000;

/// Live packet logs at once on a node: each makes the connections that it watches record their packets.
pub const TRACES_MAX: usize = 4;

/// Packets that wait for the reader of a trace. When full, packets are left out and counted; a MiB at worst with short
/// topics.
pub const TRACE_QUEUE_PACKETS: usize = 1024;

/// Longest trace in seconds.
pub const TRACE_SECONDS_MAX: u64 = 3600;

/// Most packets of a trace.
pub const TRACE_EVENTS_MAX: u64 = 1_000_000;

/// Most bytes of each payload in a trace.
pub const TRACE_PAYLOAD_BYTES_MAX: u64 = 1024;

/// Longest time for which a filter of the log may be set.
pub const LOG_LEVEL_SECONDS_MAX: u64 = 24 * 3600;

/// Bytes of a filter of the log.
pub const LOG_FILTER_BYTES_MAX: usize = 1024;

/// Spans that wait to be sent, some hundred bytes each. When full, a span is dropped and counted.
pub const SPANS_QUEUED_MAX: usize = 8192;

/// Spans in one request to the collector: some hundred KiB.
pub const SPANS_BATCH_MAX: usize = 512;

/// How long a span waits for others to be sent with it.
pub const SPANS_BATCH_WAIT: Duration = Duration::from_millis(500);

/// How long the collector may take to take a batch. Then it is dropped and counted, and the next one is tried.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a stopping node waits for its last spans to be sent.
pub const EXPORT_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Traced publishes, and traced deliveries, of one connection that have not ended. With more, a publish is not traced, and
/// a delivery ends without its acknowledgement.
pub const SPANS_OPEN_MAX: usize = 64;

/// Bytes of a payload that tell its trace apart from others. Messages that differ only behind them share a trace.
pub const TRACED_PAYLOAD_BYTES_MAX: usize = 4096;

/// How long a clean stop may take: clients are told, leadership moves away, the log is synced.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the address that a listener advertises: a name of DNS with a port.
pub const ADVERTISE_BYTES_MAX: usize = 260;

/// Other servers named to a client that has to go.
pub const REFERENCES_MAX: usize = 8;

/// Client connections that a node tells to go, per second: what the others take without a noticeable delay for anybody.
pub const DEPARTURES_PER_S: u64 = 200;

/// How long the last connection may stay after the first was told to go, however many there are.
pub const DEPARTURE_MAX: Duration = Duration::from_secs(30);

/// How often a stopping node looks whether its clients have gone.
pub const DEPARTURE_LOOK_EVERY: Duration = Duration::from_millis(20);

/// A write to the log that takes this long makes the node not ready: clients are better served elsewhere. Longer than the
/// worst sync of a healthy disk on a busy machine.
pub const DISK_STALLED: Duration = Duration::from_secs(2);

/// Free bytes on the disk of the data below which the node is not ready: two segments of the usual size, one for the log and
/// one for checkpoints and bodies. What finds no room waits, which must not come as a surprise.
pub const DISK_FREE_BYTES_MIN: u64 = 128 * 1024 * 1024;

/// Free bytes from which on a node that had too few is ready again: one more segment, so that readiness does not come and go
/// with each segment that the log frees.
pub const DISK_FREE_BYTES_ENOUGH: u64 = 192 * 1024 * 1024;

/// Longest grace for client connections of a node that is taken out of service or stops.
pub const GRACE_MAX: Duration = Duration::from_secs(3600);

/// How long parts of a backup are kept that nobody has begun to read: whoever wanted them has died.
pub const CUT_CLAIM_WAIT: Duration = Duration::from_secs(60);

/// How long a replica may take to come to its cut after the group has made it.
pub const CUT_PART_WAIT: Duration = Duration::from_secs(30);

/// How long a node waits for a peer to ask for the next part of a backup; until then nothing is removed from its disk.
pub const CUT_IDLE_MAX: Duration = Duration::from_secs(600);

/// Tries to take a backup. Each holds longer than the one before.
pub const BACKUP_TRIES: u32 = 4;

/// How long groups are held at the first try, in milliseconds: several commits of all groups on a busy machine.
pub const BACKUP_HOLD_MS: u32 = 500;

/// How long whoever takes a backup may take for a piece of it; then the backup is given up.
pub const BACKUP_STALL_MAX: Duration = Duration::from_secs(60);

/// How long the connection of a backup may be without a new piece: a node reads the whole state of a group before its first.
pub const BACKUP_PIECE_MAX: Duration = Duration::from_secs(300);

/// Operations that wait for the cluster's decision. Operators are few.
pub const OPERATIONS_MAX: usize = 64;

/// How long an operation waits for the cluster's decision.
pub const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request to move leadership waits until the node leads nothing; less than clients wait for an answer.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);

/// How often it looks.
pub const TRANSFER_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long a stopping node waits for its leadership to move away.
pub const STOP_TRANSFER_TIMEOUT: Duration = Duration::from_millis(1500);

/// Bytes of the configuration file.
pub const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Nodes in a bootstrap list.
pub const BOOTSTRAP_NODES_MAX: usize = 9;

/// Partitions of a cluster. Each costs a Raft group on its replicas.
pub const PARTITIONS_MAX: u64 = 1024;

/// Peers whose figures are kept for `$SYS`. More than a cluster has nodes; those that come later are not shown.
pub const HEARD_NODES_MAX: usize = 256;

/// Shortest interval at which `$SYS` is published: each costs a question to the worker and a frame to each peer.
pub const SYS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Pause after `$SYS` was published first; doubles up to its interval. What a starting node says of itself is soon
/// outdated, and it does not know the others yet.
pub const SYS_FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Intervals of silence after which the figures of a peer count no more.
pub const SYS_SILENT_INTERVALS: u32 = 3;

/// Largest chunk in a backup file: what storage decodes. Writers make chunks of a few hundred KiB, or of one body.
pub const BACKUP_CHUNK_BYTES_MAX: usize = quorate_storage::limits::SNAPSHOT_CHUNK_BYTES_MAX;

/// Largest head or end of a backup file: the head holds the settings, which fit into `founding.json` with much else.
pub const BACKUP_JSON_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the text that says why a backup broke off; the rest of a longer one is cut.
pub const BACKUP_ERROR_BYTES_MAX: usize = 4 * 1024;

/// Highest incarnation that is believed of a backup: beyond what starts can count up to, and far below where counting ends.
pub const INCARNATION_MAX: u64 = 1 << 48;

/// Free bytes that the log and large writes leave on the disk: the index store flushes and merges in threads of its own, a few MiB at a
/// time, and cannot go on after a write of it that found no room.
pub const DISK_KEPT_BYTES: u64 = 16 * 1024 * 1024;

/// Free bytes that new segments of the log leave: checkpoints must go on when the log cannot, or it never gets shorter.
pub const LOG_KEPT_BYTES: u64 = 2 * DISK_KEPT_BYTES;

/// Pause before a write that found the disk full is tried again; space that has returned is seen within it.
pub const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// Most free bytes beyond `storage.disk_soft_bytes` that a node waits for until it takes messages in again, when a quarter of that
/// would be more: a segment of the usual size, so that it does not come and go with each of them.
pub const DISK_SOFT_MARGIN_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Least memory that may be configured: below, the node has hardly room for itself.
pub const MEMORY_BYTES_MIN: u64 = 128 * 1024 * 1024;

/// How often the memory of the process is looked at: reading one small file. What comes meanwhile must fit into what is left
/// from `MEMORY_FULL_PERCENT` on.
pub const MEMORY_LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long there must have been less pressure until operators are told so.
pub const MEMORY_CALM: Duration = Duration::from_secs(10);

/// Percent of the memory that the process may take from which on publishers are read slowly.
pub const MEMORY_HIGH_PERCENT: u64 = 80;

/// Percent from which on clients and messages are refused.
pub const MEMORY_FULL_PERCENT: u64 = 90;

/// So many percent less, and each of them ends.
pub const MEMORY_MARGIN_PERCENT: u64 = 5;

/// Bytes of the reason in `damaged.json`; the rest of a longer one is cut. The log of the process has all of it.
pub const DAMAGED_REASON_BYTES_MAX: usize = 1024;

/// Largest `damaged.json`: the reason, of which each byte may take six in JSON, and a few short fields.
pub const DAMAGED_JSON_BYTES_MAX: usize = 8 * 1024;

/// Folders with damaged state that a node keeps. When it has joined anew once more, the older one goes: it may be as large
/// as all the node holds, and the node was sound in between.
pub const DAMAGED_FOLDERS_KEPT: usize = 1;

/// How long one node may take to say whether it has a record that is damaged elsewhere, and to give it. A healthy one takes
/// milliseconds; who asks may be the worker.
pub const REPAIR_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Questions for damaged records that wait for the thread that asks; whoever has another one waits too.
pub const REPAIRS_WAITING_MAX: usize = 64;

/// Bytes of payloads that are kept until their records are written: what comes after that is asked for one by one.
pub const REPAIR_AHEAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How often a node logs at most that damaged records were written again; between, they are counted.
pub const REPAIRS_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Bytes of one piece of a payload on its way to a node where it is damaged.
pub const REPAIR_CHUNK_BYTES: usize = 1024 * 1024;

/// How long a start waits for the other nodes to say what they have seen of this one. Healthy ones take milliseconds, those that are down
/// refuse at once.
pub const WITNESS_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of an answer about a node: some numbers for each group.
pub const WITNESS_BYTES_MAX: usize = 128 * 1024;

/// Shortest pause between two walks over the whole disk.
pub const SCRUB_PAUSE_MIN: Duration = Duration::from_secs(1);

const _: () = assert!(REPAIR_CHUNK_BYTES * 2 <= FRAME_BYTES_MAX);
const _: () = assert!(DAMAGED_REASON_BYTES_MAX * 6 + 1024 < DAMAGED_JSON_BYTES_MAX);
const _: () = assert!(BACKUP_ERROR_BYTES_MAX * 6 < BACKUP_JSON_BYTES_MAX);
const _: () = assert!(HANDSHAKES_MAX * UNAUTHENTICATED_BYTES_MAX * 2 <= 64 * 1024 * 1024);
const _: () = assert!(ADDRESS_HANDSHAKES_MAX <= HANDSHAKES_MAX);
const _: () = assert!(WEBSOCKET_HEAD_BYTES_MAX <= UNAUTHENTICATED_BYTES_MAX);
const _: () = assert!(PROXY_HEADER_BYTES_MAX <= UNAUTHENTICATED_BYTES_MAX);
const _: () = assert!(HELLO_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX * 2 <= PEER_OUTGOING_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX <= PEER_INBOX_BYTES_MAX);
const _: () = assert!(WALK_TIME.as_millis() + AGES_TIME.as_millis() < ADMIN_PEER_TIMEOUT.as_millis());
const _: () = assert!(ADMIN_PEER_TIMEOUT.as_millis() < ADMIN_ANSWER_TIMEOUT.as_millis());
const _: () = assert!(
    (ADMIN_NAMES_BYTES_MAX + quorate_node::limits::LISTING_BYTES_MAX + 128 * 1024) * 6 < FRAME_BYTES_MAX
);
const _: () = assert!(PEER_KEEP_ALIVE.as_millis() * 3 < PEER_IDLE_MAX.as_millis());
const _: () = assert!(DISK_FREE_BYTES_MIN < DISK_FREE_BYTES_ENOUGH);
const _: () = assert!(DISK_KEPT_BYTES < DISK_FREE_BYTES_MIN);
const _: () =
    assert!(MEMORY_HIGH_PERCENT < MEMORY_FULL_PERCENT - MEMORY_MARGIN_PERCENT && MEMORY_FULL_PERCENT < 100);
const _: () = assert!(SPANS_BATCH_WAIT.as_millis() < EXPORT_STOP_TIMEOUT.as_millis());
const _: () = assert!(STOP_TRANSFER_TIMEOUT.as_millis() * 2 < STOP_TIMEOUT.as_millis());
