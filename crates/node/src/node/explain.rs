//! What this node's replicas say of sessions: one by client identifier, or a page of all.
//!
//! Owns: [`SessionView`], [`SessionList`]. Does not: ask other nodes; the view says how far its replica has applied.
//! Invariants: reading changes nothing. Limits: a page has as many sessions as were asked for, at most.

use core::time::Duration;
use std::iter::Peekable;

use quorate_state::hash::partition_of_client;
use quorate_state::{GroupId, LogIndex, NodeId, SessionDetail, SessionInfo, Timestamp};

use super::Node;

/// One client identifier, as the replica of its home partition here sees it.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// The home partition.
    pub partition: GroupId,
    /// Its leader, if known.
    pub leader: Option<NodeId>,
    /// Nodes that have a replica of it, as control placed them.
    pub replicas: Vec<NodeId>,
    /// What the replica here says; `None` when there is none.
    pub replica: Option<ReplicaView>,
}

/// What a replica says of a client identifier.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    /// The replica leads.
    pub leading: bool,
    /// It has applied up to here,
    pub applied: LogIndex,
    /// and knows this to be committed.
    pub committed: LogIndex,
    /// Replicated time: on the leader now, elsewhere that of the last entry.
    pub now: Timestamp,
    /// The session; `None` when the client identifier has none.
    pub session: Option<SessionDetail>,
}

/// A page of the sessions of all partitions with a replica here.
#[derive(Clone, Debug)]
pub struct SessionList {
    /// In byte order of client identifiers, with their partitions.
    pub sessions: Vec<(GroupId, SessionInfo)>,
    /// There are more.
    pub more: bool,
    /// Partitions without a replica here: their sessions are not in the list.
    pub missing: Vec<GroupId>,
}

impl Node {
    /// What is known here of a client identifier.
    pub fn session(&self, client_id: &str, now: Duration) -> SessionView {
        let control = self.control();
        let partition =
            partition_of_client(client_id, control.map_or(1, |control| control.config().partitions));
        let group = self.groups.get(&partition);
        let found = group.and_then(|group| Some((group, group.machine().partition()?)));
        SessionView {
            partition,
            leader: group.and_then(|group| group.leader()),
            replicas: control.map_or_else(Vec::new, |control| control.placement(partition).to_vec()),
            replica: found.map(|(group, machine)| ReplicaView {
                leading: group.is_leading(),
                applied: group.applied(),
                committed: group.committed(),
                now: group.stamp(now),
                session: machine.explain(client_id),
            }),
        }
    }

    /// Up to `max` sessions in byte order of client identifiers, after one of them.
    pub fn sessions(&self, after: Option<&str>, max: usize) -> SessionList {
        let partitions =
            self.groups.values().filter_map(|group| Some((group.id(), group.machine().partition()?)));
        let mut sources: Vec<_> =
            partitions.map(|(id, partition)| (id, partition.sessions_after(after).peekable())).collect();
        let mut sessions = Vec::new();
        while sessions.len() < max {
            let Some(next) = take_first(&mut sources) else { break };
            sessions.push(next);
        }
        let more = sources.iter_mut().any(|(_, source)| source.peek().is_some());
        let all = self.control().map_or(0, |control| control.config().partitions);
        let missing = (1..=all).map(GroupId);
        let missing = missing
            .filter(|id| self.groups.get(id).is_none_or(|group| group.machine().partition().is_none()));
        SessionList { sessions, more, missing: missing.collect() }
    }
}

/// Takes the first session by client identifier out of sources that are in this order.
fn take_first<I: Iterator<Item = SessionInfo>>(
    sources: &mut [(GroupId, Peekable<I>)],
) -> Option<(GroupId, SessionInfo)> {
    let peeked = sources.iter_mut().enumerate();
    let firsts = peeked.filter_map(|(at, (_, source))| Some((source.peek()?.client_id.clone(), at)));
    let (_, at) = firsts.min_by(|left, right| left.0.as_str().cmp(right.0.as_str()))?;
    let (id, source) = sources.get_mut(at)?;
    Some((*id, source.next()?))
}
