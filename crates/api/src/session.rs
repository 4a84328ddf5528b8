//! `/v1/sessions` and `/v1/sessions/{client_id}`: sessions, why a client gets nothing, closing and ending them.
//!
//! Owns: the explanation of one session, the page of a list, the answers to kick and purge. Does not: promise the present: an
//! explanation holds up to the log index that it names.
//! Limits: a list has at most 1,000 sessions per page, an explanation the first 1,000 subscriptions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/sessions/{client_id}`, also for a client identifier without a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionExplanation {
    /// The client identifier.
    pub client_id: String,
    /// Its home partition.
    pub partition: u32,
    /// Leader of the partition, when the answering node knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<SessionNode>,
    /// The node whose replica was read.
    pub read_from: SessionNode,
    /// That replica leads: the answer is the newest there is.
    pub leading: bool,
    /// The answer holds up to this log index of the partition.
    pub applied: u64,
    /// Log index that the replica knows to be committed.
    pub committed: u64,
    /// The session; absent when the client identifier has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionState>,
    /// What keeps messages from the client, or kept them, most important first.
    pub findings: Vec<Finding>,
}

/// A node in an answer about sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionNode {
    /// Node id.
    pub id: u64,
    /// Its name; empty when the answering node does not know it.
    pub name: String,
    /// Base URL of its admin listener, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
}

/// Something that decides about deliveries to the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Short stable name in snake_case, such as `window_full`.
    pub name: String,
    /// What it means, in a sentence.
    pub text: String,
}

/// The state of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionState {
    /// Number of the session in its partition. Never reused.
    pub session: u64,
    /// Fencing number: grows at every CONNECT of the client.
    pub epoch: u64,
    /// Principal that it belongs to; empty when anonymous.
    pub principal: String,
    /// It outlives its connection. A transient session has its subscriptions and messages on the connection's node,
    /// and they are not shown.
    pub durable: bool,
    /// The connection that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SessionOwner>,
    /// For how many seconds it has had no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline_s: Option<u64>,
    /// Session expiry in seconds: 0 ends it with its connection; absent for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_s: Option<u32>,
    /// Seconds until it ends; absent while it has a connection, and when it never ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_s: Option<u64>,
    /// Number of subscriptions.
    pub subscription_count: u64,
    /// The first of them, in byte order of the filters.
    pub subscriptions: Vec<SubscriptionState>,
    /// Messages that wait for room in the window.
    pub queue: QueueState,
    /// Messages sent and not acknowledged.
    pub inflight: InflightState,
    /// QoS 2 messages that the client published and has not released.
    pub inbound: u64,
    /// Messages dropped for it since it began, by reason.
    pub dropped: Vec<DroppedCount>,
    /// Publishes of others refused because it had no room.
    pub refused: u64,
}

/// The connection that holds a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionOwner {
    /// Its node.
    pub node: SessionNode,
    /// Incarnation of the node.
    pub incarnation: u64,
    /// Number of the connection on that node.
    pub connection: u64,
}

/// A subscription of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionState {
    /// Topic filter.
    pub filter: String,
    /// Granted QoS.
    pub qos: u8,
    /// The client's own messages are left out.
    pub no_local: bool,
    /// Subscription identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifier: Option<u32>,
}

/// The queue of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueState {
    /// Queued messages.
    pub messages: u64,
    /// Queued bytes.
    pub bytes: u64,
    /// Most queued messages.
    pub messages_max: u64,
    /// Most queued bytes.
    pub bytes_max: u64,
    /// What happens beyond: `drop-oldest`, `drop-newest` or `reject-publisher`.
    pub overflow: String,
}

/// The unacknowledged messages of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InflightState {
    /// Sent on the present connection.
    pub sent: u64,
    /// Sent on an earlier connection, and to be sent again.
    pub held: u64,
    /// Most that may be sent at once: Receive Maximum, capped by the configuration.
    pub window: u16,
    /// Receive Maximum of the last CONNECT.
    pub receive_max: u16,
    /// Bytes of those sent.
    pub sent_bytes: u64,
    /// Bytes from which on nothing more is sent.
    pub sent_bytes_max: u64,
    /// QoS 1, waiting for PUBACK.
    pub awaiting_puback: u64,
    /// QoS 2, waiting for PUBREC.
    pub awaiting_pubrec: u64,
    /// QoS 2, waiting for PUBCOMP.
    pub awaiting_pubcomp: u64,
    /// The one that waits for longest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<OldestMessage>,
}

/// The oldest unacknowledged message of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OldestMessage {
    /// Packet identifier.
    pub packet_id: u16,
    /// QoS.
    pub qos: u8,
    /// Log index of the entry that carries it; absent when only PUBREL is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// It was sent on an earlier connection.
    pub sent_before: bool,
}

/// Messages dropped for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppedCount {
    /// As the label `reason` of `quorate_messages_dropped_total`.
    pub reason: String,
    /// How many.
    pub count: u64,
}

/// Answer of `GET /v1/sessions`. A page may have fewer sessions than were asked for and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionPage {
    /// The node that answers: from its own replicas, which may lag, and for other partitions from those of other nodes.
    pub read_from: SessionNode,
    /// Sessions in byte order of client identifiers.
    pub sessions: Vec<SessionSummary>,
    /// As `next`, absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
    /// Partitions that nobody could be asked about: their sessions are not listed.
    pub missing_partitions: Vec<u32>,
    /// What to give as `after` for the next page; null at the end.
    #[serde(default)]
    pub next: Option<String>,
}

/// Answer of `POST /v1/sessions/{client_id}/kick`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kicked {
    /// Client identifier.
    pub client_id: String,
    /// It had a connection, which its node has told to close.
    pub kicked: bool,
    /// Name of that node; null when there was no connection.
    #[serde(default)]
    pub node: Option<String>,
}

/// Answer of `DELETE /v1/sessions/{client_id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Purged {
    /// Client identifier.
    pub client_id: String,
    /// It had a session, which has ended for good on a quorum.
    pub existed: bool,
}

/// A session in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionSummary {
    /// Client identifier.
    pub client_id: String,
    /// Home partition.
    pub partition: u32,
    /// Node of its connection; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u64>,
    /// It outlives its connection. What a transient session has is on its connection's node, and counts 0 below.
    pub durable: bool,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Queued messages.
    pub queued_messages: u64,
    /// Queued bytes.
    pub queued_bytes: u64,
    /// Unacknowledged messages.
    pub inflight: u64,
    /// Name of the node of its connection; null when it has none.
    #[serde(default)]
    pub node: Option<String>,
}
