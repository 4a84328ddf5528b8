//! `GET /v1/cluster/state`: the cluster as the answering node sees it.
//!
//! Owns: nodes, groups, replicas and the totals over all partitions.
//! Does not: promise that two nodes answer alike; each reports its own view, and says which node it is.
//! Invariants: `groups` has control first, then the partitions by id; `nodes` is ordered by id.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/cluster/state`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterState {
    /// Name from the configuration.
    pub cluster_name: String,
    /// Identity made at bootstrap, as text. Never reused.
    pub cluster_id: String,
    /// Id of the node that answers.
    pub node_id: u64,
    /// Name of the node that answers.
    pub node_name: String,
    /// Version of the program that answers.
    pub version: String,
    /// Members, ordered by id.
    pub nodes: Vec<NodeStatus>,
    /// Groups with a replica on the answering node, and those only known by name; control first.
    pub groups: Vec<GroupStatus>,
    /// Sums over the partitions that the answering node knows.
    pub totals: Totals,
    /// Level in use: what the cluster writes, programs of this level and above can read.
    #[serde(default)]
    pub level: u32,
    /// Where replicas are not as they should be, and why. Empty when all are.
    #[serde(default)]
    pub placement_violations: Vec<PlacementViolation>,
}

/// A group whose replicas are not where they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementViolation {
    /// Group.
    pub group: u32,
    /// What is wrong, and what it would need.
    pub text: String,
}

/// A member of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Node id. Never reused, not even after a wipe.
    pub id: u64,
    /// Name from the node's configuration.
    pub name: String,
    /// Address of its first MQTT listener, `host:port`, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<String>,
    /// Base URL of its admin listener, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Address that peers dial; absent on a single node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Version of its program, when known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Zone label; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What an operator wants of it.
    #[serde(default)]
    pub duty: crate::duty::Duty,
    /// It is taken out of service.
    #[serde(default)]
    pub draining: bool,
    /// What control says of it.
    pub state: NodeState,
    /// Current run of the node: grows at each start.
    pub incarnation: u64,
    /// Milliseconds left of its lease from control; `None` when it holds none or the answering node cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// It fenced itself: it acknowledges nothing until it has renewed its lease.
    pub fenced: bool,
    /// Whether it takes clients; `None` when the answering node cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Client connections it holds; `None` when the answering node cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
}

/// Whether control counts a node as running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It holds, or may still hold, a lease.
    Live,
    /// Its lease ended and control declared this incarnation down.
    #[default]
    Down,
}

/// One Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {
    /// Group id: 0 is control, 1 to P are the partitions.
    pub id: u32,
    /// Control or partition.
    pub kind: GroupKind,
    /// State of the replica on the answering node.
    pub state: GroupState,
    /// Node id of the leader; `None` while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// Raft term.
    pub term: u64,
    /// Node ids that count in the quorum.
    pub voters: Vec<u64>,
    /// Node ids that only receive the log.
    #[serde(default)]
    pub learners: Vec<u64>,
    /// Highest log index known to be on a quorum.
    pub committed: u64,
    /// Highest log index executed by the replica on the answering node.
    pub applied: u64,
    /// Progress of each replica; filled by the leader only.
    #[serde(default)]
    pub replicas: Vec<ReplicaStatus>,
    /// Hash of the state at `applied`, in hexadecimal; equal on all replicas at an equal index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_hash: Option<String>,
    /// Durable and transient sessions in this partition.
    pub sessions: u64,
    /// Subscriptions of those sessions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// Messages accepted but not yet inflight, summed over the sessions.
    pub queued_messages: u64,
    /// Payload and topic bytes of those messages, counted once per session.
    pub queued_bytes: u64,
    /// Messages sent to clients and not yet acknowledged.
    pub inflight: u64,
}

/// What a group is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupKind {
    /// Membership, placement, policy and the route table.
    Control,
    /// Sessions, retained messages and share groups.
    #[default]
    Partition,
}

/// Raft role of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// Orders the entries.
    Leader,
    /// Follows a leader.
    #[default]
    Follower,
    /// Asks for votes, or for the promise of votes.
    Candidate,
    /// Receives the log without a vote.
    Learner,
    /// No replica on the answering node.
    Absent,
}

/// How far one replica of a group has come, as its leader knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaStatus {
    /// Node id.
    pub node: u64,
    /// Highest log index known to be durable there.
    pub matched: u64,
    /// Entries behind the leader's committed index.
    pub lag: u64,
    /// A snapshot is on its way to it.
    pub snapshot: bool,
    /// It answered lately.
    pub active: bool,
}

/// Sums over all partitions known to the answering node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Client connections on the answering node.
    pub connections: u64,
    /// Sessions.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// Messages queued, not yet inflight.
    pub queued_messages: u64,
    /// Payload and topic bytes of those messages, counted once per session.
    pub queued_bytes: u64,
    /// Messages inflight.
    pub inflight: u64,
}

impl Totals {
    /// Sums the partitions. `connections` is the answering node's own count.
    pub fn of(groups: &[GroupStatus], connections: u64) -> Totals {
        groups.iter().filter(|group| group.kind == GroupKind::Partition).fold(
            Totals { connections, ..Totals::default() },
            |sum, group| Totals {
                connections: sum.connections,
                sessions: sum.sessions.saturating_add(group.sessions),
                subscriptions: sum.subscriptions.saturating_add(group.subscriptions),
                retained: sum.retained.saturating_add(group.retained),
                queued_messages: sum.queued_messages.saturating_add(group.queued_messages),
                queued_bytes: sum.queued_bytes.saturating_add(group.queued_bytes),
                inflight: sum.inflight.saturating_add(group.inflight),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_leave_out_control() {
        let control = GroupStatus { kind: GroupKind::Control, sessions: 100, ..GroupStatus::default() };
        let first = GroupStatus { id: 1, sessions: 2, queued_bytes: 10, ..GroupStatus::default() };
        let second = GroupStatus { id: 2, sessions: 3, queued_bytes: 20, ..GroupStatus::default() };
        let totals = Totals::of(&[control, first, second], 7);
        assert_eq!(totals.sessions, 5);
        assert_eq!(totals.queued_bytes, 30);
        assert_eq!(totals.connections, 7);
    }

    #[test]
    fn names_on_the_wire_are_snake_case() {
        let node = NodeStatus { state: NodeState::Live, ..NodeStatus::default() };
        let text = serde_json::to_string(&node).unwrap();
        assert!(text.contains(r#""state":"live""#), "{text}");
        assert!(!text.contains("lease_ms"), "an unknown value is left out: {text}");
        let group =
            GroupStatus { kind: GroupKind::Control, state: GroupState::Leader, ..GroupStatus::default() };
        let text = serde_json::to_string(&group).unwrap();
        assert!(text.contains(r#""kind":"control","state":"leader""#), "{text}");
    }

    #[test]
    fn unknown_fields_of_a_newer_node_are_accepted() {
        let mut value = serde_json::to_value(ClusterState::default()).unwrap();
        value.as_object_mut().unwrap().insert("added_later".into(), true.into());
        assert_eq!(serde_json::from_value::<ClusterState>(value).unwrap(), ClusterState::default());
    }
}
