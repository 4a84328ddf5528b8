//! Who lives, who leads and where replicas are: what a node does about membership.
//!
//! Owns: announcing this node, leases as node and as control leader, declaring nodes lost, moving replicas towards
//! their placement, telling control who members are, and nodes who the others are, forgetting replicas that are elsewhere. Does not: decide placement;
//! control's state does.
//! Invariants: a node asks for a lease only after it has applied its own announcement; a node that is declared dead
//! starts a new incarnation before it serves again.
//! Spec: contract, "Behaviour under trouble"; Raft 3.10, 4.3. See: docs/decisions/0008-takeover-waits-for-a-lease.md.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use quorate_codec::ReasonCode;
use quorate_state::command::{Command, Duty, Removal};
use quorate_state::control::{LEADER_LOST_LEVEL, NODES_TOLD_LEVEL, NodeStatus};
use quorate_state::{CONTROL, Control, GroupId, Incarnation, LogIndex, NodeId, Reply};

use super::Node;
use super::clients::Op;
use super::lease::Request;
use crate::action::{Action, Note, PeerAddress};
use crate::consensus::group::Group;
use crate::consensus::membership::{self, Situation};
use crate::limits::TOLD_NODES_MAX;
use crate::peer::PeerMessage;

/// How often leaders look at placement and balance.
const PLACE_EVERY: Duration = Duration::from_millis(500);

/// How long until what was proposed, and not applied, is proposed again.
const PLAN_AGAIN: Duration = Duration::from_secs(5);

/// How long until members that control was told of, and does not know, are told again.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// What control was told of a group.
struct Told {
    at: Duration,
    voters: Vec<NodeId>,
    learners: Vec<NodeId>,
}

/// What this node has begun about membership.
#[derive(Default)]
pub(super) struct Changes {
    /// Groups that storage is about to forget. None of them is taken in again before it has.
    pub(super) removing: BTreeSet<GroupId>,
    /// Groups that are elsewhere now, and the position of control at which this node saw that first.
    gone: BTreeMap<GroupId, LogIndex>,
    /// As control leader: what was proposed last, and when.
    planned: Vec<Command>,
    planned_at: Duration,
    /// As leader: which members of groups control was told of, and when.
    told: BTreeMap<GroupId, Told>,
    /// When this node last said that its clients are gone.
    quiet_at: Duration,
    /// Identities that the shell was told to be gone.
    gone_told: Vec<NodeId>,
    /// Who the nodes are, as another one has said of a position of control that this one has not reached.
    nodes_told: Option<(LogIndex, Vec<PeerAddress>)>,
}

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
        let applied = self.groups.get(&CONTROL).map(Group::applied).unwrap_or_default();
        if self.changes.nodes_told.as_ref().is_some_and(|(index, _)| *index <= applied) {
            self.changes.nodes_told = None;
        }
        let told = self.changes.nodes_told.as_ref().map(|(_, nodes)| nodes.clone());
        let nodes = told.unwrap_or_else(|| self.peer_addresses());
        if !nodes.is_empty() {
            let peers = nodes.into_iter().filter(|peer| peer.node != self.id).collect();
            self.actions.push_back(Action::Peers(peers));
        }
        let nodes = self.control().into_iter().flat_map(|control| control.nodes());
        let gone = nodes.filter(|(_, status)| *status == NodeStatus::Removed).map(|(record, _)| record.id);
        let gone: Vec<NodeId> = gone.collect();
        if gone != self.changes.gone_told {
            self.changes.gone_told.clone_from(&gone);
            self.actions.push_back(Action::Gone(gone));
        }
    }

    /// A node looks for a leader of control, and there is one: it was away, and may not know the nodes that have come since. It refuses
    /// links to those, and if one of them leads control it would hear of them from nobody else.
    pub(super) fn tell_nodes(&mut self, to: NodeId) {
        let knows = |control: &Control| control.level() >= NODES_TOLD_LEVEL;
        let leader = self.leader_of(CONTROL).filter(|leader| *leader != to);
        if leader.is_none() || !self.control().is_some_and(knows) {
            return;
        }
        let Some(index) = self.groups.get(&CONTROL).map(Group::applied) else { return };
        let nodes = self.peer_addresses();
        if nodes.len() <= TOLD_NODES_MAX {
            self.send(to, PeerMessage::Nodes { index, nodes });
        }
    }

    /// What [`Node::tell_nodes`] of another one has said. It counts until this node has come as far itself.
    pub(super) fn nodes_told(&mut self, index: LogIndex, nodes: Vec<PeerAddress>) {
        let known = self.changes.nodes_told.as_ref().map(|(known, _)| *known);
        if known.is_none_or(|known| known < index) {
            self.changes.nodes_told = Some((index, nodes));
            self.publish_peers();
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

    /// As control leader: proposes what placement needs next.
    fn carry_out_plan(&mut self, now: Duration) {
        let Some(group) = self.groups.get(&CONTROL) else { return };
        let Some(control) = group.machine().control() else { return };
        let plan = control.plan(group.stamp(now));
        // What was proposed and is not applied yet is not proposed again at each look.
        let again = now.saturating_sub(self.changes.planned_at) >= PLAN_AGAIN;
        if plan == self.changes.planned && !again {
            return;
        }
        self.changes.planned_at = now;
        for command in &plan {
            self.push(CONTROL, command, Op::Quiet);
        }
        self.changes.planned = plan;
    }

    /// As leader of groups: tells control who their members are, where it knows something else.
    fn tell_members(&mut self, now: Duration) {
        let Some(control) = self.control().filter(|control| control.knows_membership()) else { return };
        let mut news = Vec::new();
        for group in self.leads.iter().filter_map(|id| self.groups.get(id)) {
            let members = group.members();
            let (voters, learners) = (sorted(&members.voters), sorted(&members.learners));
            let is_joint = !members.voters_outgoing.is_empty() || !members.learners_next.is_empty();
            if is_joint || control.members_are(group.id(), &voters, &learners) {
                continue;
            }
            news.push(Command::Members { group: group.id(), index: group.applied(), voters, learners });
        }
        self.changes.told.retain(|_, told| now.saturating_sub(told.at) < TELL_AGAIN);
        for command in news {
            let Command::Members { group, voters, learners, .. } = &command else { continue };
            let known = self.changes.told.get(group);
            if known.is_some_and(|told| told.voters == *voters && told.learners == *learners) {
                continue;
            }
            let told = Told { at: now, voters: voters.clone(), learners: learners.clone() };
            self.changes.told.insert(*group, told);
            self.push(CONTROL, &command, Op::Quiet);
        }
    }

    /// On the way out of the cluster, and without clients: control need not wait for them.
    fn tell_quiet(&mut self, now: Duration) {
        let Some(control) = self.control() else { return };
        let is_told = control.is_quiet(self.id) || !control.is_leaving(self.id);
        let drained = matches!(self.own_duty(), Duty::Drain { .. }) && self.connections.all.is_empty();
        if is_told || !drained || now.saturating_sub(self.changes.quiet_at) < TELL_AGAIN {
            return;
        }
        self.changes.quiet_at = now;
        let quiet = Command::NodeRemove { node: self.id, removal: Removal::Quiet };
        self.push(CONTROL, &quiet, Op::Quiet);
    }

    /// Replicas of groups that are elsewhere now are forgotten, as soon as every live node knows that they are: nobody takes
    /// this one in again by what it knew before.
    fn drop_replicas(&mut self) {
        let Some(control) = self.control().filter(|control| control.knows_membership()) else { return };
        let known = self.groups.get(&CONTROL).map_or(LogIndex(0), Group::applied);
        let others = self.groups.values().filter(|group| group.id() != CONTROL && !group.is_installing());
        let gone: BTreeSet<GroupId> =
            others.map(Group::id).filter(|group| control.is_rid_of(*group, self.id)).collect();
        self.changes.gone.retain(|group, _| gone.contains(group));
        for group in gone {
            let since = *self.changes.gone.entry(group).or_insert(known);
            if self.barrier < since || !self.lease.holds(self.now) {
                continue;
            }
            self.changes.gone.remove(&group);
            self.changes.removing.insert(group);
            self.groups.remove(&group);
            self.actions.push_back(Action::RemoveGroup(group));
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
        // A command in the stream of this node may wait until another leader has given a lease.
        let by_leader = self.control().is_some_and(|control| control.level() >= LEADER_LOST_LEVEL);
        for (node, incarnation) in live {
            let ended = self.lease_table.as_mut().is_some_and(|table| table.ended(node, incarnation, now));
            if ended && self.lost.insert((node, incarnation)) {
                if by_leader {
                    self.lost_unproposed.push((node, incarnation));
                } else {
                    self.push(CONTROL, &Command::NodeLost { node, incarnation }, Op::Quiet);
                }
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
        // Who is being declared lost may ask again before that is applied: it must not have a lease when it is.
        let granted = table.round_done(round, now, |node, incarnation| {
            self.alive(node, incarnation) && !self.lost.contains(&(node, incarnation))
        });
        self.lease_table = Some(table);
        for Request { node, incarnation, sent_ms } in granted {
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
            self.carry_out_plan(now);
        }
        for id in self.leads.clone() {
            self.move_replicas(id);
        }
        self.tell_members(now);
        self.tell_quiet(now);
        self.drop_replicas();
        self.hand_over_all();
    }

    /// One step of a group's membership towards its placement.
    fn move_replicas(&mut self, id: GroupId) {
        let Some(control) = self.control() else { return };
        // Without a lease it may not know of the placement that the others go by.
        if control.knows_membership() && !self.lease.holds(self.now) {
            return;
        }
        let Some(group) = self.groups.get(&id) else { return };
        let wanted = control.placement(id).to_vec();
        let progress = group.progress();
        let situation = Situation {
            me: self.id,
            committed: group.committed().0,
            matched: |node: NodeId| {
                progress.iter().find(|(member, _)| *member == node).map_or(0, |(_, index)| index.0)
            },
            is_there: |node: NodeId| {
                let lives = control.node(node).is_some_and(|(_, status)| status == NodeStatus::Live);
                lives && (node == self.id || self.peers_up.contains(&node))
            },
            wanted: &wanted,
            independent: id == CONTROL,
        };
        let change = membership::next_change(group.members(), &situation);
        if let (Some(change), Some(group)) = (change, self.groups.get_mut(&id)) {
            group.propose_membership(&change);
        }
    }
}

fn sorted(nodes: &[u64]) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
    nodes.sort_unstable();
    nodes
}
