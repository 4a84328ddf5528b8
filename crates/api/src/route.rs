//! `GET /v1/route`: who would receive a message of a topic.
//!
//! Owns: the answer. Does not: publish anything.
//! Invariants: by the routes that the answering node knows now; each node knows its own connections only.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::why::Diagnosis;

/// Answer of `GET /v1/route`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteExplanation {
    /// Name of the node that answers.
    pub node: String,
    /// The topic name.
    pub topic: String,
    /// The partition that keeps the retained message of the topic.
    pub retained_partition: u32,
    /// Partitions whose durable sessions or share groups get messages of QoS 1 and 2.
    pub partitions: Vec<u32>,
    /// Other nodes with connections that take messages directly.
    pub nodes: Vec<String>,
    /// Other nodes with connections that take messages of QoS 0 only directly.
    pub nodes_qos0: Vec<String>,
    /// Connections of the answering node that have a matching subscription.
    pub connections: u64,
    /// Share groups that match.
    pub shares: Vec<String>,
    /// What it comes to.
    pub findings: Vec<Diagnosis>,
}
