//! Members that come and go for good, and replicas on their way.
//!
//! Owns: bodies of `/v1/cluster/membership` and `/v1/nodes/{name}/remove`. Does not: decide.
//! Limits: one entry per node and per group.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cluster::NodeState;
use crate::duty::Blocker;

/// Answer of `GET /v1/cluster/membership`: what control knows, as far as the answering node has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Membership {
    /// Cluster name.
    pub cluster: String,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// Voters that each partition is to have, when there are as many nodes.
    pub replication: u32,
    /// Members, in order of their identities.
    pub members: Vec<Member>,
    /// Groups whose members are not those that they are to have.
    pub moving: Vec<MovingGroup>,
    /// Nobody is on the way out, nothing is on the way, and nothing is to be moved.
    pub settled: bool,
}

/// A member and its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Identity.
    pub id: u64,
    /// Name.
    pub name: String,
    /// What control says of it.
    pub state: NodeState,
    /// Zone label; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Address that peers dial; absent on a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Partitions that are to have a replica on it.
    pub placed: u32,
    /// Groups, control among them, that it is a member of still or already, as their leaders told.
    pub member_of: u32,
    /// An operator wants it gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<Removal>,
    /// Why it cannot be removed now; absent when it can, or is being removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocker: Option<Blocker>,
}

/// An operator wants a node gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removal {
    /// Milliseconds since they said so.
    pub since_ms: u64,
    /// The node that is awaited before it begins; absent when it has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

/// A group on its way to other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovingGroup {
    /// Group; 0 is control.
    pub group: u32,
    /// Names of those that vote; empty when its leader has not said so since it was placed anew.
    pub voters: Vec<String>,
    /// Names of those that receive the log, to vote later.
    pub learners: Vec<String>,
    /// Names of those that are to vote.
    pub wanted: Vec<String>,
}

/// Body of `POST /v1/nodes/{name}/remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Change nothing; say whether it may be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Name of the node that is to come for it; it is awaited first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
}

/// Answer of `POST` and `DELETE /v1/nodes/{name}/remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveAnswer {
    /// Node name.
    pub node: String,
    /// Its identity.
    pub id: u64,
    /// Nothing was changed.
    pub dry_run: bool,
    /// It is to go.
    pub leaving: bool,
    /// Partitions that have a replica on it.
    pub placed: u32,
    /// Why it may not go; only for a dry run.
    #[serde(default)]
    pub blockers: Vec<Blocker>,
}
