//! `GET /v1/queues` and `GET /v1/slow-consumers`: where messages wait, and for whom.
//!
//! Owns: the longest queues and the slowest consumers of the cluster. Does not: name what waits.
//! Limits: at most 100 of each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/queues`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LongestQueues {
    /// Longest first. Sessions with nothing queued are left out.
    pub queues: Vec<QueueLength>,
    /// Groups that nobody could be asked about: what they have is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete_groups: Vec<u32>,
    /// Every node that was asked looked at all it has. Not so when there is too much for the time of an answer, or when a
    /// node did not answer.
    #[serde(default)]
    pub complete: bool,
}

/// The queue of a durable session: what waits for room in the client's window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueLength {
    /// Client identifier.
    pub client_id: String,
    /// Queued messages.
    pub messages: u64,
    /// Queued bytes.
    pub bytes: u64,
    /// How long ago the message that has waited for longest was taken in; null when that is not known.
    #[serde(default)]
    pub oldest_ms: Option<u64>,
    /// The session has a connection.
    pub online: bool,
    /// Name of the connection's node; null when it has none.
    #[serde(default)]
    pub node: Option<String>,
}

/// Answer of `GET /v1/slow-consumers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlowConsumers {
    /// Those for which most waits first.
    pub consumers: Vec<SlowConsumer>,
    /// Groups that nobody could be asked about: what they have is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete_groups: Vec<u32>,
    /// Every node that was asked looked at all it has. Not so when there is too much for the time of an answer, or when a
    /// node did not answer.
    #[serde(default)]
    pub complete: bool,
}

/// A connected client that has not acknowledged, or not taken, what is for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlowConsumer {
    /// Client identifier.
    pub client_id: String,
    /// Name of its node.
    #[serde(default)]
    pub node: Option<String>,
    /// Messages sent and not acknowledged; null for a transient session, whose connection alone knows.
    #[serde(default)]
    pub inflight: Option<u64>,
    /// Most of them.
    pub inflight_max: u16,
    /// Messages that wait to be sent.
    pub queued: u64,
    /// How long ago the oldest unacknowledged message was taken in; null when that is not known.
    #[serde(default)]
    pub oldest_unacked_ms: Option<u64>,
    /// Messages dropped: of a durable session since it began, of a transient one since it connected.
    pub dropped: u64,
}
