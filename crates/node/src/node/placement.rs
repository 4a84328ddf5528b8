//! Who lives, who leads and where replicas are: what a node does about membership.
//!
//! Owns: announcing this node, leases as node and as control leader, declaring nodes lost, moving replicas towards
//! their placement. Does not: decide placement; control's state does.
//! Invariants: a node asks for a lease only after it has applied its own announcement; a node that is declared dead
//! starts a new incarnation before it serves again.
//! Spec: contract, "Behaviour under trouble"; Raft 3.10, 4.3. See: docs/decisions/0008-takeover-waits-for-a-lease.md.

use core::time::Duration;

use quorate_codec::ReasonCode;
use quorate_state::command::Command;
use quorate_state::control::NodeStatus;
use quorate_state::{CONTROL, GroupId, Incarnation, LogIndex, NodeId, Reply};

use super::Node;
use super::clients::Op;
use super::lease::Request;
use crate::action::{Action, Note, PeerAddress};
use crate::consensus::group::Group;
use crate::consensus::membership;
use crate::peer::PeerMessage;

/// How often leaders look at placement and balance.
const PLACE_EVERY: Duration = Duration::from_millis(500);

impl Node {
    /// Tells control that this incarnation of the node is there.
    pub(super) fn announce(&mut self) {
        let mut record = self.config.record.clone();
        record.incarnation = self.incarnation;
        self.push(CONTROL, &Command::NodeUp { node: record }, Op::Quiet);
        self.announced = Some(self.incarnation);
    }

    pub(super) fn publish_routes(&mut self) {
        if let Some(control) = self.control() {
            let routes = control.routes().map(|(filter, target)| (filter.clone(), target)).collect();
            self.actions.push_back(Action::RoutesReplaced(routes));
        }
    }

    pub(super) fn publish_peers(&mut self) {
        let peers = self.peer_addresses().into_iter().filter(|peer| peer.node != self.id).collect();
        if self.control().is_some_and(|control| control.nodes().next().is_some()) {
            self.actions.push_back(Action::Peers(peers));
        }
    }

    /// All nodes but those that are gone, or that another node of the same name has come for.
    fn peer_addresses(&self) -> Vec<PeerAddress> {
        let Some(control) = self.control() else { return Vec::new() };
        let replaced: Vec<NodeId> =
            control.nodes().filter_map(|(record, _)| control.replaces(record.id)).collect();
        control
            .nodes()
            .filter(|(record, status)| *status != NodeStatus::Removed && !replaced.contains(&record.id))
            .map(|(record, _)| PeerAddress {
                node: record.id,
                name: record.name.as_str().to_owned(),
                address: record.peer.as_str().to_owned(),
            })
            .collect()
    }

    /// Control has decided who a joining node is.
    pub(super) fn join_done(&mut self, disk: [u8; 16], reply: Option<Reply>) {
        let decision = match reply {
            Some(Reply::Joined { node }) => Ok(node),
            Some(Reply::Refused(why)) => Err(why.as_str().to_owned()),
            _ => Err("control gave no answer".to_owned()),
        };
        let peers = self.peer_addresses();
        self.actions.push_back(Action::Joined { disk, decision, peers });
    }

    /// As control leader: the replicas of a lost node go to the node that came for it, and control to every node that
    /// joins. A lost node without replicas is forgotten.
    fn replace_lost(&mut self) {
        let Some(control) = self.control() else { return };
        let mut commands = Vec::new();
        let staying = |status: NodeStatus| matches!(status, NodeStatus::Joining | NodeStatus::Live);
        for (record, _) in control.nodes().filter(|(_, status)| staying(*status)) {
            let Some(lost) = control.replaces(record.id) else {
                let mut voters = control.placement(CONTROL).to_vec();
                if !voters.contains(&record.id) {
                    voters.push(record.id);
                    commands.push(Command::Place { group: CONTROL, voters });
                }
                continue;
            };
            let before = commands.len();
            for group in (0..=control.config().partitions).map(GroupId) {
                let voters = control.placement(group);
                if voters.contains(&lost) {
                    let voters =
                        voters.iter().map(|voter| if *voter == lost { record.id } else { *voter }).collect();
                    commands.push(Command::Place { group, voters });
                }
            }
            let known = control.node(lost).is_some_and(|(_, status)| status != NodeStatus::Removed);
            if commands.len() == before && known {
                commands.push(Command::NodeForget { node: lost });
            }
        }
        for command in commands {
            self.push(CONTROL, &command, Op::Quiet);
        }
    }

    pub(super) fn certainly_dead(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.control().is_some_and(|control| match control.node(node) {
            None => true,
            Some((record, status)) => {
                record.incarnation > incarnation
                    || (record.incarnation == incarnation
                        && matches!(status, NodeStatus::Down | NodeStatus::Removed))
            }
        })
    }

    fn alive(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.control()
            .and_then(|control| control.node(node))
            .is_some_and(|(record, status)| record.incarnation == incarnation && status == NodeStatus::Live)
    }

    /// Control holds this very incarnation for dead. Read from the state, not from the effect: the news may have come
    /// in a snapshot.
    fn is_declared_dead(&self) -> bool {
        self.control().and_then(|control| control.node(self.id)).is_some_and(|(record, status)| {
            record.incarnation == self.incarnation && matches!(status, NodeStatus::Down | NodeStatus::Removed)
        })
    }

    pub(super) fn tick_lease(&mut self, now: Duration) {
        if !self.renewing && self.is_declared_dead() {
            self.give_up_incarnation();
        }
        if self.alive(self.id, self.incarnation)
            && !self.renewing
            && let Some(leader) = self.leader_of(CONTROL)
            && self.lease.ask(now)
        {
            let sent_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            let applied = self.groups.get(&CONTROL).map_or(LogIndex(0), Group::applied);
            let incarnation = self.incarnation;
            self.send(leader, PeerMessage::LeaseRequest { incarnation, sent_ms, applied });
        }
        self.tick_lease_table(now);
    }

    fn tick_lease_table(&mut self, now: Duration) {
        let Some(table) = &mut self.lease_table else { return };
        table.tick(now);
        let live: Vec<(NodeId, Incarnation)> = self
            .control()
            .map(|control| {
                control
                    .nodes()
                    .filter(|(record, status)| *status == NodeStatus::Live && record.id != self.id)
                    .map(|(record, _)| (record.id, record.incarnation))
                    .collect()
            })
            .unwrap_or_default();
        for (node, incarnation) in live {
            let ended = self.lease_table.as_mut().is_some_and(|table| table.ended(node, incarnation, now));
            if ended && self.lost_proposed.insert((node, incarnation)) {
                self.push(CONTROL, &Command::NodeLost { node, incarnation }, Op::Quiet);
            }
        }
    }

    /// As control leader: a node asks for its lease.
    pub(super) fn lease_asked(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        sent_ms: u64,
        applied: LogIndex,
    ) {
        if let Some(table) = &mut self.lease_table {
            table.asked(Request { node, incarnation, sent_ms }, applied);
        }
    }

    /// As leader: starts the proofs of leadership that leases and retained reads wait for.
    pub(super) fn start_rounds(&mut self) {
        if let Some(table) = &mut self.lease_table
            && table.wants_round()
            && let Some(round) = self.groups.get_mut(&CONTROL).and_then(Group::prove_leadership)
        {
            table.round_started(round);
        }
        self.start_retained_rounds();
    }

    /// As leader: a proof is there.
    pub(super) fn round_done(&mut self, group: GroupId, round: u64, now: Duration) {
        if group != CONTROL {
            self.retained_round_done(group, round);
            return;
        }
        let Some(mut table) = self.lease_table.take() else { return };
        let granted = table.round_done(round, now, |node, incarnation| self.alive(node, incarnation));
        self.lease_table = Some(table);
        for Request { node, incarnation, sent_ms } in granted {
            self.lost_proposed.remove(&(node, incarnation));
            self.send(node, PeerMessage::LeaseGrant { incarnation, sent_ms });
        }
        self.move_barrier();
    }

    pub(super) fn lease_granted(&mut self, incarnation: Incarnation, sent_ms: u64) {
        if incarnation == self.incarnation
            && !self.renewing
            && let Some(until) = self.lease.granted(Duration::from_millis(sent_ms))
        {
            self.actions.push_back(Action::LeaseUntil(until));
        }
    }

    /// Control has applied something here: tell its leader, and see what waited for it.
    pub(super) fn control_applied(&mut self, now: Duration) {
        let applied = self.groups.get(&CONTROL).map_or(LogIndex(0), Group::applied);
        if let Some(leader) = self.leader_of(CONTROL) {
            self.send(leader, PeerMessage::ControlApplied(applied));
        }
        self.finish_waiting(now);
    }

    /// As control leader: tells everybody how far all live nodes are.
    pub(super) fn move_barrier(&mut self) {
        let Some(mut table) = self.lease_table.take() else { return };
        let live: Vec<NodeId> = self
            .control()
            .map(|control| {
                control
                    .nodes()
                    .filter(|(_, status)| *status == NodeStatus::Live)
                    .map(|(record, _)| record.id)
                    .collect()
            })
            .unwrap_or_default();
        let moved = table.barrier(live.iter().copied());
        self.lease_table = Some(table);
        if let Some(index) = moved {
            for node in live {
                self.send(node, PeerMessage::Barrier(index));
            }
        }
    }

    /// Control has declared an incarnation dead.
    pub(super) fn node_down(&mut self, node: NodeId, incarnation: Incarnation) {
        if node == self.id {
            if incarnation >= self.incarnation && !self.renewing {
                self.give_up_incarnation();
            }
            return;
        }
        self.actions.push_back(Action::Note(Note::NodeDown(node, incarnation)));
        self.previous_gone(|previous| previous.node == node && previous.incarnation <= incarnation);
    }

    fn give_up_incarnation(&mut self) {
        self.lease.end();
        self.renewing = true;
        self.actions.push_back(Action::LeaseUntil(Duration::ZERO));
        self.close_all(ReasonCode::SERVER_UNAVAILABLE);
        self.actions.push_back(Action::NewIncarnation);
    }

    /// Control was restored from a snapshot: takeovers may have waited for nodes that it knows to be dead.
    pub(super) fn previous_owners_rechecked(&mut self) {
        let awaited = self.connections.awaited.keys();
        let dead = awaited.filter(|previous| self.certainly_dead(previous.node, previous.incarnation));
        for previous in dead.copied().collect::<Vec<_>>() {
            self.previous_ended(previous);
        }
    }

    /// A new incarnation is durable: everything of the old one is forgotten.
    pub(super) fn begin_incarnation(&mut self, incarnation: Incarnation) {
        if incarnation <= self.incarnation {
            return;
        }
        self.incarnation = incarnation;
        self.renewing = false;
        self.streams.clear();
        self.connections.forget_old();
        self.wills.forget();
        self.retained_bounds.forget();
        self.announce();
    }

    pub(super) fn tick_placement(&mut self, now: Duration) {
        if now.saturating_sub(self.placed_at) < PLACE_EVERY {
            return;
        }
        self.placed_at = now;
        if self.leads.contains(&CONTROL) {
            self.replace_lost();
        }
        for id in self.leads.clone() {
            self.move_replicas(id);
        }
        self.hand_over_all();
    }

    /// One step of a group's membership towards its placement.
    fn move_replicas(&mut self, id: GroupId) {
        let Some(wanted) = self.control().map(|control| control.placement(id).to_vec()) else { return };
        let Some(group) = self.groups.get_mut(&id) else { return };
        let progress = group.progress();
        let matched = |node: NodeId| {
            progress.iter().find(|(member, _)| *member == node).map_or(0, |(_, index)| index.0)
        };
        let committed = group.committed().0;
        if let Some(change) = membership::next_change(group.members(), &wanted, committed, matched) {
            group.propose_membership(&change);
        }
    }
}
