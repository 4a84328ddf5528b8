//! `GET /v1/figures`: how much goes through each node, for dashboards.
//!
//! Owns: the figures and their units. Does not: keep a history.
//! Invariants: those of other nodes are the newest that they told; what is not known is left out. The total is the sum
//! over the nodes that are in the answer, and the highest of their latencies.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/figures`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FigurePage {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// By node, ordered by name; nodes that were not heard of lately are not there.
    pub nodes: Vec<NodeFigures>,
    /// Of all of them.
    pub total: Figures,
}

/// Figures of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeFigures {
    /// Its name.
    pub node: String,
    /// How long ago it told them, in milliseconds; 0 for the node that answers.
    pub age_ms: u64,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What goes through, and what is there. Rates are averages over some seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Figures {
    /// Client connections.
    pub connections: u64,
    /// Sessions that the node's groups hold, connected or not.
    pub sessions: u64,
    /// PUBLISH packets from clients.
    pub messages_in_per_s: f64,
    /// PUBLISH packets to clients.
    pub messages_out_per_s: f64,
    /// Bytes from clients.
    pub bytes_in_per_s: f64,
    /// Bytes to clients.
    pub bytes_out_per_s: f64,
    /// Half of the publishes of QoS 1 and 2 were committed within this time; absent when there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_latency_p50_us: Option<u64>,
    /// 99 of 100 were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_latency_p99_us: Option<u64>,
    /// Messages that wait in sessions of the node's groups.
    pub queued_messages: u64,
    /// Retained messages of the node's groups.
    pub retained: u64,
    /// Messages dropped.
    pub dropped_per_s: f64,
}
