//! Limits of one client connection on its node, each with its reason.

use core::time::Duration;

/// Bytes waiting to be written to a client from which on it counts as slow: QoS 0 messages for it are dropped,
/// QoS 1 messages of a transient session stay in its queue, and nothing more is read from it. The output of a
/// connection is bounded by this, one message, and its window of QoS 1 messages.
pub const OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// Client identifiers are replicated and held on every replica; 1 KiB is far beyond what clients use.
pub const CLIENT_ID_BYTES_MAX: usize = 1024;

/// SUBSCRIBE and UNSUBSCRIBE packets of one connection that wait for the cluster. From here on, nothing more is read
/// from the client until one is answered.
pub const SUBSCRIBES_PENDING_MAX: usize = 64;

/// How long a SUBSCRIBE waits at most for the answers of other nodes to its marks. A node whose link broke is back, or declared
/// dead, long before, unless the network between the two stays cut while both are well: then a message that still waits there
/// may come after a newer retained one.
pub const MARKS_WAIT_MAX: Duration = Duration::from_secs(5);

/// QoS 1 publishes of one connection that wait for their acknowledgement. A client of MQTT 5 is held to the Receive
/// Maximum announced to it; from clients of 3.x, nothing more is read.
pub const PUBLISHES_PENDING_MAX: usize = 65_535;

/// How soon a connection looks again whether the lease is back or a slow client has read, when nothing else wakes it.
pub const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How soon a connection of MQTT 3 that is not read, because the disk has little room, looks again. Many may do so for hours,
/// and publishing is to go on within 5 s.
pub const ROOM_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a client that has published while memory is short is not read. Short enough that acknowledgements and PINGREQ are
/// never late for anybody, and long enough that thousands of publishers together bring little.
pub const PRESSED_PAUSE: Duration = Duration::from_millis(250);

/// What a queued message counts besides its topic, payload and properties.
pub const QUEUED_MESSAGE_OVERHEAD_BYTES: usize = 128;

/// Messages up to this size are copied when they are queued; larger ones share the input buffer they came in. With
/// input buffers of 64 KiB, a queued message thus holds at most 64 times its own size.
pub const QUEUED_COPY_BYTES_MAX: usize = 1024;
