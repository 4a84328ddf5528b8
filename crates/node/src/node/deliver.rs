//! Messages of durable sessions on their way from the partition's leader to the connection that holds the session.
//!
//! Owns: batches per node, and on the receiving side the check that nothing is missing and nothing comes twice.
//! Does not: assign packet identifiers; the partition did.
//! Invariants: a connection sees its deliveries, and no one else's, without gap and each once, whatever leaders and
//! links do.
//! Spec: contract D5, D7, D15.

use core::time::Duration;

use quorate_state::effect::Deliver;
use quorate_state::{ConnId, DeliverySeq, GroupId, Incarnation, Message, NodeId, SessionId};

use super::Node;
use crate::action::{Action, Note};
use crate::consensus::group::Group;
use crate::edge::{ClientEvent, SessionDelivery};
use crate::peer::PeerMessage;

/// How often a connection reports a gap.
const RESYNC_EVERY: Duration = Duration::from_millis(100);

/// Bytes of messages in one `Deliver` frame.
const DELIVER_BYTES_MAX: usize = 256 * 1024;

impl Node {
    /// As leader: a message is in flight to the owner of its session.
    pub(super) fn deliver(&mut self, group: GroupId, deliver: Deliver) {
        let identifiers = self
            .groups
            .get(&group)
            .and_then(|group| group.machine().partition())
            .map(|partition| partition.identifiers(deliver.session, deliver.identifiers).to_vec())
            .unwrap_or_default();
        let message = if deliver.received {
            None
        } else {
            let message = self.body(group, deliver.message).and_then(|body| Message::decode(&body).ok());
            if message.is_none() {
                // The message stays in flight: the next resync of this session tries again.
                self.actions.push_back(Action::Note(Note::BodyUnreadable(group, deliver.message.index)));
                return;
            }
            message
        };
        let delivery = SessionDelivery {
            seq: deliver.seq,
            packet_id: deliver.packet_id,
            qos: deliver.qos,
            retain: deliver.retain,
            dup: deliver.dup,
            identifiers,
            expiry_s: deliver.expiry_s,
            message,
        };
        let bytes = delivery.message.as_ref().map_or(0, |message| message.payload.len()) + 64;
        let batch =
            self.deliveries.entry((deliver.owner.node, deliver.owner.incarnation, group)).or_default();
        batch.bytes += bytes;
        batch.items.push((deliver.owner.conn, deliver.session, delivery));
        if batch.bytes >= DELIVER_BYTES_MAX {
            self.flush_deliveries();
        }
    }

    pub(super) fn flush_deliveries(&mut self) {
        for ((node, incarnation, group), batch) in std::mem::take(&mut self.deliveries) {
            if node == self.id {
                self.deliver_here(self.id, group, incarnation, batch.items);
            } else {
                self.send(node, PeerMessage::Deliver { group, incarnation, items: batch.items });
            }
        }
    }

    /// Deliveries for connections of this node.
    pub(super) fn deliver_here(
        &mut self,
        from: NodeId,
        group: GroupId,
        incarnation: Incarnation,
        items: Vec<(ConnId, SessionId, SessionDelivery)>,
    ) {
        // A leader may not have heard yet that this node has started anew: its connection 5 is not the present one.
        if incarnation != self.incarnation {
            return;
        }
        let now = self.now;
        for (conn, session, delivery) in items {
            let Some(connection) = self.connections.all.get_mut(&conn) else { continue };
            if connection.closing || delivery.seq < connection.next_delivery {
                continue;
            }
            if delivery.seq > connection.next_delivery {
                let asked = connection.resync_asked_at;
                if asked.is_some_and(|at| now.saturating_sub(at) < RESYNC_EVERY) {
                    continue;
                }
                connection.resync_asked_at = Some(now);
                let resync = PeerMessage::Resync { group, session, from: connection.next_delivery };
                self.send(from, resync);
                continue;
            }
            connection.next_delivery = DeliverySeq(delivery.seq.0 + 1);
            if connection.open {
                self.client(conn, ClientEvent::Deliver(delivery));
            } else {
                connection.early.push(delivery);
            }
        }
    }

    /// As leader: a connection missed something.
    pub(super) fn resync_session(
        &mut self,
        from: NodeId,
        group: GroupId,
        session: SessionId,
        seq: DeliverySeq,
    ) {
        let again = self.in_flight(group, |partition| partition.inflight_of_session(session, seq).collect());
        for deliver in again {
            if deliver.owner.node == from {
                self.deliver(group, deliver);
            }
        }
        self.flush_deliveries();
    }

    /// As new leader of a group: what the former one sent may be lost.
    pub(super) fn resync_group(&mut self, group: GroupId) {
        let nodes: Vec<NodeId> = self.peers_up.iter().copied().chain([self.id]).collect();
        for node in nodes {
            self.resync_to(group, node);
        }
    }

    /// The link to a node is new: what was sent before may be lost.
    pub(super) fn resync_node(&mut self, node: NodeId) {
        for group in self.leads.clone() {
            self.resync_to(group, node);
        }
    }

    fn resync_to(&mut self, group: GroupId, node: NodeId) {
        // Control may be behind here: the node may have begun anew, or joined, since.
        let known = self.control().and_then(|control| control.node(node));
        let since = known.map_or(Incarnation(0), |(record, _)| record.incarnation);
        let again = self.in_flight(group, |partition| partition.inflight_of(node, since).collect());
        for deliver in again {
            self.deliver(group, deliver);
        }
        self.flush_deliveries();
    }

    fn in_flight(
        &self,
        group: GroupId,
        read: impl FnOnce(&quorate_state::partition::Partition) -> Vec<Deliver>,
    ) -> Vec<Deliver> {
        self.groups
            .get(&group)
            .filter(|group| group.is_leading())
            .and_then(|group: &Group| group.machine().partition())
            .map(read)
            .unwrap_or_default()
    }
}

/// Deliveries gathered for one node.
#[derive(Debug, Default)]
pub(super) struct DeliveryBatch {
    bytes: usize,
    items: Vec<(ConnId, SessionId, SessionDelivery)>,
}
