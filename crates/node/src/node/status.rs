//! What a node says of itself: for operators, readiness and tests.
//!
//! Owns: [`NodeStatus`] and the readiness clauses. Does not: format them for HTTP.
//! Invariants: reading changes nothing. Limits: the hash walks the whole state; ask for it only on demand.

use core::time::Duration;

use quorate_state::command::{Duty, NodeRecord};
use quorate_state::control::{MemberState, Move, NodeStatus as Membership, PlacementViolation};
use quorate_state::partition::Counts;
use quorate_state::{CONTROL, Control, GroupId, Incarnation, LogIndex, NodeId, Timestamp};

use super::Node;
use crate::witness::{GroupWitness, Witness};

/// A snapshot of a node's view.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Identity.
    pub id: NodeId,
    /// Incarnation.
    pub incarnation: Incarnation,
    /// How long the lease still holds; `None` when it does not.
    pub lease_left: Option<Duration>,
    /// Whether every clause of readiness holds.
    pub ready: bool,
    /// Nodes as control knows them.
    pub nodes: Vec<(NodeRecord, Membership)>,
    /// Groups with a replica here.
    pub groups: Vec<GroupStatus>,
    /// Peers with a link.
    pub peers_up: Vec<NodeId>,
    /// Client connections here.
    pub connections: usize,
    /// Bytes of commands that wait to be applied.
    pub stream_bytes: usize,
    /// Control position known to be applied on every live node.
    pub barrier: LogIndex,
    /// What operators want of the nodes of `nodes`, in the same order.
    pub duties: Vec<NodeDuty>,
    /// Replicated time as this node knows it.
    pub time: Timestamp,
    /// Level in use.
    pub level: u32,
    /// Where replicas are not as they should be.
    pub violations: Vec<PlacementViolation>,
    /// Members and their replicas, and what is on the way.
    pub membership: MembershipStatus,
}

/// Members and their replicas.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MembershipStatus {
    /// Members, in order of their identities.
    pub members: Vec<MemberState>,
    /// Groups that are on the way.
    pub moves: Vec<Move>,
    /// Nobody is on the way out, nothing is on the way and nothing is to be moved.
    pub settled: bool,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// Voters that each partition is to have.
    pub replication: u32,
}

/// What operators want of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeDuty {
    /// Node.
    pub node: NodeId,
    /// Its duty.
    pub duty: Duty,
    /// Since when, by the cluster's time stamps.
    pub since: Timestamp,
    /// Why it cannot be taken out of service now; `None` when it can.
    pub drain_refusal: Option<&'static str>,
}

/// One group, as this replica sees it.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// Group.
    pub group: GroupId,
    /// Leader, if known.
    pub leader: Option<NodeId>,
    /// Who is to lead when the leader goes, as things are now.
    pub heir: Option<NodeId>,
    /// Term.
    pub term: u64,
    /// Voters.
    pub voters: Vec<NodeId>,
    /// Learners.
    pub learners: Vec<NodeId>,
    /// Commit index.
    pub committed: LogIndex,
    /// Applied index.
    pub applied: LogIndex,
    /// Durable checkpoint.
    pub checkpoint: LogIndex,
    /// As leader: how far each member's log agrees.
    pub progress: Vec<(NodeId, LogIndex)>,
    /// As leader: members that are being sent a snapshot.
    pub sent_snapshots: Vec<NodeId>,
    /// Hash of the state, when asked for.
    pub hash: Option<u64>,
    /// What a partition holds.
    pub counts: Option<Counts>,
}

/// One clause of readiness.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clause {
    /// Name, stable.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// Why not, or what was seen.
    pub reason: String,
}

impl Node {
    /// What this node knows.
    pub fn status(&self, with_hash: bool, now: Duration) -> NodeStatus {
        NodeStatus {
            id: self.id,
            incarnation: self.incarnation,
            lease_left: self.lease.left(now),
            ready: self.readiness(now).iter().all(|clause| clause.ok),
            nodes: self
                .control()
                .map(|control| control.nodes().map(|(record, status)| (record.clone(), status)).collect())
                .unwrap_or_default(),
            groups: self.groups.values().map(|group| self.group_status(group, with_hash)).collect(),
            peers_up: self.peers_up.iter().copied().collect(),
            connections: self.connections.all.len(),
            stream_bytes: self.streams.values().map(|stream| stream.bytes()).sum(),
            barrier: self.barrier,
            duties: self.control().map(duties).unwrap_or_default(),
            time: self.groups.get(&CONTROL).map(|group| group.machine().now()).unwrap_or_default(),
            level: self.control().map_or(1, Control::level),
            violations: self.control().map(Control::placement_violations).unwrap_or_default(),
            membership: self.control().map(membership).unwrap_or_default(),
        }
    }

    /// Whether the node may take traffic, clause by clause.
    pub fn readiness(&self, now: Duration) -> Vec<Clause> {
        let leased = self.lease.holds(now);
        let leaderless: Vec<String> = self
            .groups
            .values()
            .filter(|group| self.counts_here(group) && group.leader().is_none())
            .map(|group| group.id().to_string())
            .collect();
        let behind: Vec<String> = self
            .groups
            .values()
            .filter(|group| self.counts_here(group) && group.is_behind(now))
            .map(|group| group.id().to_string())
            .collect();
        let has_left = self.control().is_some_and(|control| control.has_left(self.id));
        let voteless: Vec<String> = self.voteless_groups().iter().map(ToString::to_string).collect();
        vec![
            clause("lease", leased, "held", || {
                if self.renewing {
                    "this incarnation was declared dead; a new one is starting".to_owned()
                } else {
                    "no lease from control: this node acknowledges nothing until a quorum answers".to_owned()
                }
            }),
            clause("draining", self.is_in_service(), "in service", || {
                if self.leaving {
                    "the node is about to stop".to_owned()
                } else {
                    "an operator takes this node out of service: `quorate cluster undrain` puts it back"
                        .to_owned()
                }
            }),
            clause("control", self.is_known_to_control() && !has_left, "known to control", || {
                if has_left {
                    return "this node was removed from the cluster; it ends by itself, or can be stopped"
                        .to_owned();
                }
                "the state of the control group has not come here yet, or does not have this node".to_owned()
            }),
            clause("leaders", leaderless.is_empty(), "every group has a leader", || {
                format!("groups without a known leader: {}", leaderless.join(", "))
            }),
            clause("caught_up", behind.is_empty(), "all committed entries are applied", || {
                format!("groups with committed entries not yet applied: {}", behind.join(", "))
            }),
            clause("votes", voteless.is_empty(), "a voter in every group placed here", || {
                format!("groups placed here in which this node does not vote yet: {}", voteless.join(", "))
            }),
        ]
    }

    fn group_status(&self, group: &crate::consensus::group::Group, with_hash: bool) -> GroupStatus {
        let members = group.members();
        let nodes = |ids: &[u64]| {
            let mut nodes: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
            nodes.sort_unstable();
            nodes
        };
        GroupStatus {
            group: group.id(),
            leader: group.leader(),
            heir: self.heir(group),
            term: group.term(),
            voters: nodes(&members.voters),
            learners: nodes(&members.learners),
            committed: group.committed(),
            applied: group.applied(),
            checkpoint: LogIndex(group.checkpoint().index),
            progress: if group.is_leading() { group.progress() } else { Vec::new() },
            sent_snapshots: if group.is_leading() { group.sent_snapshots() } else { Vec::new() },
            hash: with_hash.then(|| group.machine().hash()),
            counts: group.machine().partition().map(|partition| partition.counts()),
        }
    }

    /// Whether the state of a replica here says something of this node. One that comes or goes says nothing: others serve.
    fn counts_here(&self, group: &crate::consensus::group::Group) -> bool {
        let votes = group.members().voters.contains(&self.id.0);
        group.id() == CONTROL
            || self.control().is_none_or(|control| {
                !control.knows_membership() || (votes && control.placement(group.id()).contains(&self.id))
            })
    }

    /// Whether this replica of control has this node. One that has yet to get its first snapshot has none.
    fn is_known_to_control(&self) -> bool {
        self.control().is_some_and(|control| control.node(self.id).is_some())
    }

    fn is_in_service(&self) -> bool {
        !self.leaving && !matches!(self.own_duty(), Duty::Drain { .. })
    }

    /// Whether a group here has commands for another one that it does not know to be applied there: a backup may hold them.
    pub fn owes(&self) -> bool {
        self.groups.values().any(|group| {
            let machine = group.machine();
            machine.outbox_destinations().into_iter().any(|to| {
                let (applied, last) = machine.outbox_span(to);
                applied < last
            })
        })
    }

    /// How far another node has gone, as far as this one knows.
    pub fn witness_of(&self, node: NodeId) -> Witness {
        let known = self.control().and_then(|control| control.node(node));
        let of_group = |group: &crate::consensus::group::Group| GroupWitness {
            group: group.id(),
            shown: group.shown_by(node),
            committed: group.committed_position(),
        };
        Witness {
            incarnation: known.map_or(Incarnation(0), |(record, _)| record.incarnation),
            groups: self.groups.values().map(of_group).collect(),
        }
    }

    /// The nodes that control has placed a group on; `None` when the cluster has no such group, or control is not known.
    pub fn placement(&self, group: GroupId) -> Option<Vec<NodeId>> {
        let control = self.control()?;
        (group.0 <= control.config().partitions).then(|| control.placement(group).to_vec())
    }

    /// Groups that are placed on this node, or still on the one it replaces, and in which it is no voter. While there are
    /// any, the cluster cannot spare another node.
    fn voteless_groups(&self) -> Vec<GroupId> {
        let Some(control) = self.control() else { return Vec::new() };
        let replaced = control.replaces(self.id);
        let placed_here = |group: &GroupId| {
            let voters = control.placement(*group);
            let for_lost = replaced.is_some_and(|lost| voters.contains(&lost));
            for_lost
                || (voters.contains(&self.id) && (*group == CONTROL || control.is_short(*group, replaced)))
        };
        let votes = |group: &GroupId| {
            // While a change is joint, the quorum of the old voters, with the lost one, is still needed.
            self.groups.get(group).map(|group| group.members()).is_some_and(|members| {
                members.voters.contains(&self.id.0) && members.voters_outgoing.is_empty()
            })
        };
        (0..=control.config().partitions)
            .map(GroupId)
            .filter(|group| placed_here(group) && !votes(group))
            .collect()
    }
}

fn membership(control: &Control) -> MembershipStatus {
    let (members, moves) = (control.member_states(), control.moves());
    let leaving = members.iter().any(|member| control.is_leaving(member.node));
    MembershipStatus {
        settled: !leaving && moves.is_empty() && control.plan(Timestamp::default()).is_empty(),
        members,
        moves,
        partitions: control.config().partitions,
        replication: control.config().replication,
    }
}

fn duties(control: &Control) -> Vec<NodeDuty> {
    let duty = |node: NodeId| {
        let (duty, since) = control.duty(node);
        NodeDuty { node, duty, since, drain_refusal: control.drain_refusal(node) }
    };
    control.nodes().map(|(record, _)| duty(record.id)).collect()
}

fn clause(name: &'static str, ok: bool, good: &str, bad: impl FnOnce() -> String) -> Clause {
    Clause { name, ok, reason: if ok { good.to_owned() } else { bad() } }
}
