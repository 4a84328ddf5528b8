//! What this node's replica says of one session.
//!
//! Owns: [`SessionView`]. Does not: ask other nodes; the view says how far its replica has applied. For many sessions see
//! `listing`. Invariants: reading changes nothing.

use core::time::Duration;

use quorate_state::hash::partition_of_client;
use quorate_state::{GroupId, LogIndex, NodeId, SessionDetail, Timestamp};

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
}
