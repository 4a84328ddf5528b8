//! `GET /v1/why` and `GET /v1/groups/{id}`: what is wrong with a node or a group, and what to do about it.
//!
//! Owns: [`Diagnosis`] and the answers made of them. Does not: judge; the server does.
//! Invariants: one diagnosis for each cause, not for each symptom; when nothing is wrong there is one that says so.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cluster::{GroupKind, GroupState};

/// Answer of `GET /v1/why`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// Name of the node that answers, of which it speaks.
    pub node: String,
    /// Whether it may take traffic, as `/readyz` says.
    pub ready: bool,
    /// What keeps it from being well, most important first.
    pub findings: Vec<Diagnosis>,
}

/// One cause of trouble, or a word on how things are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Diagnosis {
    /// Short stable name in snake_case, such as `no_quorum`.
    pub code: String,
    /// What is so, in a sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// Answer of `GET /v1/groups/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupExplanation {
    /// Group id: 0 is control.
    pub group: u32,
    /// Control or partition.
    pub kind: GroupKind,
    /// What the replica of the answering node is; `absent` when it has none.
    pub role: GroupState,
    /// Name of the leader; absent while none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Raft term; 0 without a replica.
    pub term: u64,
    /// Names of the nodes that count in the quorum; as placed by control when the answering node has no replica.
    pub voters: Vec<String>,
    /// Progress of each replica; filled by the leader only.
    pub replicas: Vec<GroupReplica>,
    /// Why it leads or does not, and who lags.
    pub findings: Vec<Diagnosis>,
}

/// How far a replica has come, as its leader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupReplica {
    /// Name of its node.
    pub node: String,
    /// Highest log index known to be durable there.
    pub matched: u64,
    /// Entries behind the leader's committed index.
    pub lag: u64,
    /// A snapshot is on its way to it.
    pub snapshot: bool,
    /// There is a link to it.
    pub active: bool,
}
