//! Taking nodes out of service, moving leadership, and the level of the cluster.
//!
//! Owns: bodies of `/v1/nodes/{name}/drain`, `/v1/nodes/{name}/transfer`, `/v1/cluster/level`, `/v1/cluster/finalize`.
//! Does not: decide. Limits: at most one entry per node and per group.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// Everything.
    #[default]
    Full,
    /// Everything but leading groups.
    Follow,
    /// To be taken out of service.
    Drain,
}

/// Answer of `GET` and `DELETE /v1/nodes/{name}/drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainState {
    /// Node name.
    pub node: String,
    /// What an operator wants of it.
    pub duty: Duty,
    /// It is taken out of service.
    pub draining: bool,
    /// Seconds for which client connections may stay, counted from when the node heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<u32>,
    /// Milliseconds since the duty changed.
    pub since_ms: u64,
    /// Client connections it holds; `None` when another node answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Groups that it leads.
    pub leads: Vec<u32>,
    /// Nothing rests on it: no client connection, no leadership. `None` when another node answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiescent: Option<bool>,
}

/// Body of `POST /v1/nodes/{name}/drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Change nothing; say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Seconds for which client connections may stay; at most 3600.
    #[serde(default)]
    pub grace_s: u32,
}

/// Answer of `POST /v1/nodes/{name}/drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainAnswer {
    /// Node name.
    pub node: String,
    /// It is taken out of service now.
    pub draining: bool,
    /// Nothing was changed.
    pub dry_run: bool,
    /// What taking it out of service does, as things are now.
    pub would: DrainPlan,
    /// Why it cannot be taken out of service; empty when it can.
    pub blockers: Vec<Blocker>,
}

/// What taking a node out of service does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainPlan {
    /// Client connections that have to go elsewhere; `None` when another node answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Groups that it leads.
    pub leads: Vec<u32>,
    /// Who leads them afterwards.
    pub targets: Vec<Handover>,
}

/// A group and the node that leads it afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Handover {
    /// Group.
    pub group: u32,
    /// Node name; `None` when nobody can.
    pub to: Option<String>,
}

/// Something that stands in the way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blocker {
    /// Short stable name in snake_case.
    pub code: String,
    /// What stands in the way.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Body of `POST /v1/nodes/{name}/transfer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Change nothing; say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// Answer of `POST /v1/nodes/{name}/transfer`: given when the node leads nothing, or when the time was over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferAnswer {
    /// Node name.
    pub node: String,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Groups that it led, and who leads them now, or would.
    pub moved: Vec<Handover>,
    /// Groups that it leads still, and why.
    pub left: Vec<LeftGroup>,
}

/// A group whose leadership did not move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftGroup {
    /// Group.
    pub group: u32,
    /// Why.
    pub reason: String,
}

/// Answer of `GET /v1/cluster/level` and `POST /v1/cluster/finalize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LevelState {
    /// Level in use.
    pub level: u32,
    /// What the nodes' programs speak.
    pub supported: Vec<NodeLevel>,
    /// A higher level can be put into use.
    pub can_finalize: bool,
    /// Why not; empty when it can.
    pub blockers: Vec<Blocker>,
}

/// What the program of a node speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLevel {
    /// Node name.
    pub node: String,
    /// Version of its program.
    pub version: String,
    /// Highest level that it speaks.
    pub level: u32,
}
