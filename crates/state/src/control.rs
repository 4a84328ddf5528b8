//! The control group: which nodes there are, where the groups' replicas are to be, who wants which messages.
//!
//! Owns: node identities and their status, placement, the route table, telling partitions of dead nodes.
//! Does not: notice that a node is dead (the leader's leases do) or choose a placement.
//! Invariants: a node identity is given once; an incarnation that was declared dead stays dead; a node that is not
//! live has no routes; every placement names known nodes that were not removed; no program takes part that does not
//! speak the level in use; draining a node leaves every group a majority of nodes in service.
//! Limits: none of its own; about 100 bytes per route. See: docs/formats/entry.md, docs/decisions/0031-duties-and-levels.md.

use std::collections::{BTreeMap, BTreeSet};

use quorate_codec::{Text, TopicFilter};

use crate::command::{AdvertisedListener, Command, Duty, NodeRecord, RouteTarget};
use crate::effect::{Effect, Reply};
use crate::group_state::{Apply, GroupState, Place};
use crate::ids::{CONTROL, GroupId, Incarnation, LogIndex, MessageRef, NodeId, Timestamp};
use crate::limits::LISTENERS_PER_NODE_MAX;
use crate::wire::{Reader, own_filter, own_text};

mod checkpoint;
mod plan;
mod refound;
mod removal;

pub use removal::{MemberState, Move, RemovalState};

use removal::{Members, Wish};

/// Voters per partition unless configured otherwise: survives the loss of one.
pub const REPLICATION_DEFAULT: u32 = 3;

/// The level that this program speaks: it reads and writes everything that clusters of this level and below write. It
/// grows with the first release whose commands or records an older program cannot read.
///
/// | level | since | what it brings |
/// |---|---|---|
/// | 1 | 0.1.0 | |
/// | 2 | 0.2.0 | `Command::NodeListeners`, `Command::Backup`, `Command::NodeRemove`, `Command::Members`, and their records; marks, and `Nodes`, on links between nodes |
pub const LEVEL: u32 = 2;

/// From this level on, control knows where clients reach each node.
pub const LISTENERS_LEVEL: u32 = 2;

/// From this level on, nodes know marks on the links between them.
pub const MARKS_LEVEL: u32 = 2;

/// From this level on, the leader of a group says after which command of a stream its replies begin.
pub const REPLIES_AFTER_LEVEL: u32 = 2;

/// The level from which on nodes tell each other that their disks are not fit to lead.
pub const DISK_UNFIT_LEVEL: u32 = 2;

/// The level from which on a node that looks for a leader of control is told who the nodes are.
pub const NODES_TOLD_LEVEL: u32 = 2;

/// From this level on the leader of control declares nodes lost by [`crate::LeaderCommand::NodeLost`].
pub const LEADER_LOST_LEVEL: u32 = 2;

/// From this level on, backups can be taken.
pub const BACKUP_LEVEL: u32 = 2;

/// From this level on, members can be removed, replicas move by themselves, and control knows who the members of groups are.
pub const MEMBERSHIP_LEVEL: u32 = 2;

/// What is fixed when a cluster is bootstrapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    /// Random identity: nodes of other clusters are refused.
    pub cluster_id: [u8; 16],
    /// Name, for people.
    pub name: Text,
    /// Number of partitions; they are groups 1 to this.
    pub partitions: u32,
    /// Voters per partition, if there are as many nodes.
    pub replication: u32,
}

/// A group whose replicas are not where they should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacementViolation {
    /// Group.
    pub group: GroupId,
    /// What is wrong, and what would mend it.
    pub text: String,
}

/// What control holds a node for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NodeStatus {
    /// Has an identity and has not started since.
    Joining,
    /// Its incarnation holds a lease, as far as is known.
    Live,
    /// Its last incarnation was declared dead; it may come back with a higher one.
    Down,
    /// Gone for good; the identity is not used again.
    Removed,
}

#[derive(Clone, PartialEq, Debug)]
struct Node {
    record: NodeRecord,
    status: NodeStatus,
    /// The lost node of the same name that this one came for.
    replaces: Option<NodeId>,
    duty: Duty,
    duty_since: Timestamp,
}

impl Node {
    fn new(record: NodeRecord, replaces: Option<NodeId>) -> Node {
        let (duty, duty_since) = (Duty::Full, Timestamp::default());
        Node { record, status: NodeStatus::Joining, replaces, duty, duty_since }
    }

    /// Serves now, and an operator has not taken it out.
    fn is_in_service(&self) -> bool {
        self.status == NodeStatus::Live && !matches!(self.duty, Duty::Drain { .. })
    }
}

/// The replicated state of the control group.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) state: GroupState,
    config: ClusterConfig,
    nodes: BTreeMap<NodeId, Node>,
    last_node: NodeId,
    /// In use by the cluster; 0 until every first node has said what it speaks.
    level: u32,
    placement: BTreeMap<GroupId, Vec<NodeId>>,
    routes: BTreeMap<TopicFilter, BTreeSet<RouteTarget>>,
    listeners: BTreeMap<NodeId, Vec<AdvertisedListener>>,
    /// Nodes that operators want gone.
    wishes: BTreeMap<NodeId, Wish>,
    /// Who the members of groups are, as their leaders told.
    members: BTreeMap<GroupId, Members>,
    dirty_nodes: BTreeSet<NodeId>,
    dirty_placement: BTreeSet<GroupId>,
    dirty_routes: BTreeSet<TopicFilter>,
    dirty_listeners: BTreeSet<NodeId>,
    dirty_wishes: BTreeSet<NodeId>,
    dirty_members: BTreeSet<GroupId>,
}

impl Control {
    /// The state that every first node of a new cluster starts from, before the first entry. Control is placed on all
    /// nodes; each partition on all when there are no more than its replication, else on nodes in rotation. The nodes
    /// are joining until they say that they are up.
    #[must_use]
    pub fn bootstrap(config: ClusterConfig, nodes: &[NodeRecord]) -> Self {
        let mut control = Self::empty(config);
        for record in nodes {
            let node = Node::new(own_record(record), None);
            control.last_node = control.last_node.max(record.id);
            control.dirty_nodes.insert(record.id);
            control.nodes.insert(record.id, node);
        }
        let ids: Vec<NodeId> = control.nodes.keys().copied().collect();
        for group in 0..=control.config.partitions {
            let voters = initial_voters(GroupId(group), &ids, control.config.replication);
            control.dirty_placement.insert(GroupId(group));
            control.placement.insert(GroupId(group), voters);
        }
        control.state.moved = true;
        control
    }

    fn empty(config: ClusterConfig) -> Self {
        Self {
            state: GroupState::default(),
            config,
            nodes: BTreeMap::new(),
            last_node: NodeId(0),
            level: 0,
            placement: BTreeMap::new(),
            routes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            wishes: BTreeMap::new(),
            members: BTreeMap::new(),
            dirty_nodes: BTreeSet::new(),
            dirty_placement: BTreeSet::new(),
            dirty_routes: BTreeSet::new(),
            dirty_listeners: BTreeSet::new(),
            dirty_wishes: BTreeSet::new(),
            dirty_members: BTreeSet::new(),
        }
    }

    /// What was fixed at bootstrap.
    #[must_use]
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// All nodes that ever had an identity, in order of it.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeRecord, NodeStatus)> {
        self.nodes.values().map(|node| (&node.record, node.status))
    }

    /// A node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<(&NodeRecord, NodeStatus)> {
        self.nodes.get(&node).map(|node| (&node.record, node.status))
    }

    /// The lost node of the same name that a node came for: its replicas are to move to it.
    #[must_use]
    pub fn replaces(&self, node: NodeId) -> Option<NodeId> {
        self.nodes.get(&node).and_then(|node| node.replaces)
    }

    /// What an operator wants of a node, and since when by the cluster's time stamps.
    #[must_use]
    pub fn duty(&self, node: NodeId) -> (Duty, Timestamp) {
        self.nodes.get(&node).map_or_else(Default::default, |node| (node.duty, node.duty_since))
    }

    /// Where clients reach a node; empty while it has not said so.
    #[must_use]
    pub fn listeners(&self, node: NodeId) -> &[AdvertisedListener] {
        self.listeners.get(&node).map_or(&[], Vec::as_slice)
    }

    /// The level in use: what the cluster writes is what programs of this level can read.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level.max(1)
    }

    /// Why a node cannot be taken out of service; `None` when it can. Every group needs a majority of voters that serve
    /// without it.
    #[must_use]
    pub fn drain_refusal(&self, node: NodeId) -> Option<&'static str> {
        let Some(known) = self.nodes.get(&node).filter(|known| known.status != NodeStatus::Removed) else {
            return Some("there is no such node");
        };
        if matches!(known.duty, Duty::Drain { .. }) {
            return None;
        }
        let serves =
            |voter: &&NodeId| **voter != node && self.nodes.get(voter).is_some_and(Node::is_in_service);
        let short = |voters: &&Vec<NodeId>| {
            voters.contains(&node) && voters.iter().filter(serves).count() <= voters.len() / 2
        };
        let any = self.placement.values().find(short);
        any.map(|_| "a group would have no majority of nodes in service: bring the others back first")
    }

    /// Why the cluster cannot change to a level; `None` when it can.
    #[must_use]
    pub fn finalize_refusal(&self, level: u32) -> Option<&'static str> {
        let mut staying = self.nodes.values().filter(|node| node.status != NodeStatus::Removed);
        if level <= self.level() {
            Some("the level is in use already")
        } else if staying.any(|node| node.record.level < level) {
            Some("a node runs a program that does not speak the level: upgrade or remove it first")
        } else {
            None
        }
    }

    /// Where the replicas of groups are not as they should be: with fewer voters than the cluster wants, with one
    /// on a node that is down, or two in one zone. Each with what would mend it.
    #[must_use]
    pub fn placement_violations(&self) -> Vec<PlacementViolation> {
        let wanted = usize::try_from(self.config.replication).unwrap_or(usize::MAX);
        let zone = |node: &NodeId| {
            self.nodes.get(node).map(|node| node.record.zone.as_str()).filter(|zone| !zone.is_empty())
        };
        let staying = self.nodes.values().filter(|node| node.status != NodeStatus::Removed);
        let zones: BTreeSet<&str> = staying.clone().filter_map(|node| zone(&node.record.id)).collect();
        let mut violations = Vec::new();
        if staying.count() < 2 {
            // A single node is what somebody wanted.
            return violations;
        }
        // Control is on every node by rule.
        for (group, voters) in self.placement.iter().filter(|(group, _)| **group != CONTROL) {
            let mut say = |text| violations.push(PlacementViolation { group: *group, text });
            if voters.len() < wanted {
                say(format!("{} replicas of {wanted}: the cluster has too few nodes", voters.len()));
            }
            let down = voters.iter().filter_map(|voter| self.nodes.get(voter));
            for node in down.filter(|node| node.status == NodeStatus::Down) {
                say(format!("its replica on {} is down", node.record.name));
            }
            let mut taken = BTreeSet::new();
            let crowded: BTreeSet<&str> =
                voters.iter().filter_map(zone).filter(|zone| !taken.insert(*zone)).collect();
            for crowded in crowded {
                let need = if zones.len() < voters.len() {
                    format!("the nodes are in {} zones, and {} are needed", zones.len(), voters.len())
                } else {
                    "nodes of other zones could take them".to_owned()
                };
                say(format!("several replicas are in zone {crowded}: {need}"));
            }
        }
        violations
    }

    /// The identity that the next joining node will get.
    #[must_use]
    pub fn next_node_id(&self) -> NodeId {
        NodeId(self.last_node.0 + 1)
    }

    /// Where a group's replicas are to be; empty for an unknown group.
    #[must_use]
    pub fn placement(&self, group: GroupId) -> &[NodeId] {
        self.placement.get(&group).map_or(&[], Vec::as_slice)
    }

    /// All routes, in byte order of the filters.
    pub fn routes(&self) -> impl Iterator<Item = (&TopicFilter, RouteTarget)> {
        self.routes.iter().flat_map(|(filter, targets)| targets.iter().map(move |target| (filter, *target)))
    }

    /// Control has no timers but the end of a backup's hold.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.state.hold.ends()
    }

    /// Control refers to no bodies.
    #[must_use]
    pub fn live(&self, _index: LogIndex) -> bool {
        false
    }

    fn refuse(&mut self, place: Place, why: &'static str, effects: &mut Vec<Effect>) {
        self.state.reply(place, Reply::refused(why), effects);
    }

    fn route_add(&mut self, filter: &TopicFilter, target: RouteTarget, effects: &mut Vec<Effect>) {
        let filter = own_filter(filter);
        if self.routes.entry(filter.clone()).or_default().insert(target) {
            self.dirty_routes.insert(filter.clone());
            effects.push(Effect::RouteChanged { filter, target, added: true });
        }
    }

    fn route_remove(&mut self, filter: &TopicFilter, target: RouteTarget, effects: &mut Vec<Effect>) {
        let Some(targets) = self.routes.get_mut(filter) else { return };
        if !targets.remove(&target) {
            return;
        }
        if targets.is_empty() {
            self.routes.remove(filter);
        }
        let filter = own_filter(filter);
        self.dirty_routes.insert(filter.clone());
        effects.push(Effect::RouteChanged { filter, target, added: false });
    }

    fn node_up(&mut self, place: Place, record: &NodeRecord, effects: &mut Vec<Effect>) {
        let Some(known) = self.nodes.get(&record.id) else {
            return self.refuse(place, "the node has no identity in this cluster", effects);
        };
        let (status, before) = (known.status, known.record.incarnation);
        if status == NodeStatus::Removed {
            return self.refuse(place, "the node was removed", effects);
        }
        if known.record.disk != record.disk {
            return self.refuse(place, "the node's disk is not the one that joined", effects);
        }
        if record.level < self.level {
            return self.refuse(
                place,
                "the cluster uses a level that the node's program does not speak",
                effects,
            );
        }
        let is_dead = status == NodeStatus::Down && record.incarnation <= before;
        if record.incarnation < before || is_dead {
            return self.refuse(place, "the node's incarnation is over", effects);
        }
        if status == NodeStatus::Live && record.incarnation > before {
            self.declare_dead(record.id, before, effects);
        }
        if let Some(node) = self.nodes.get_mut(&record.id) {
            node.record = own_record(record);
            node.status = NodeStatus::Live;
        }
        self.dirty_nodes.insert(record.id);
        self.successor_came(record.id);
        self.begin_level();
        effects.push(Effect::MembershipChanged);
    }

    /// A new cluster uses the highest level that all its first nodes speak.
    fn begin_level(&mut self) {
        let lowest = self.nodes.values().map(|node| node.record.level).min();
        if let (0, Some(lowest @ 1..)) = (self.level, lowest) {
            self.level = lowest;
            self.state.moved = true;
        }
    }

    fn node_duty(&mut self, place: Place, id: NodeId, duty: Duty, effects: &mut Vec<Effect>) {
        let refusal = match duty {
            Duty::Drain { .. } => self.drain_refusal(id),
            Duty::Full | Duty::Follow => None,
        };
        if let Some(why) = refusal {
            return self.refuse(place, why, effects);
        }
        let now = self.state.now;
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.status != NodeStatus::Removed) else {
            return self.refuse(place, "there is no such node", effects);
        };
        if node.duty != duty {
            (node.duty, node.duty_since) = (duty, now);
            self.dirty_nodes.insert(id);
            effects.push(Effect::MembershipChanged);
        }
    }

    fn node_listeners(
        &mut self,
        place: Place,
        id: NodeId,
        listeners: &[AdvertisedListener],
        effects: &mut Vec<Effect>,
    ) {
        if self.level() < LISTENERS_LEVEL {
            return self.refuse(place, "the level in use does not know listeners", effects);
        }
        if listeners.len() > LISTENERS_PER_NODE_MAX {
            return self.refuse(place, "too many listeners", effects);
        }
        if self.nodes.get(&id).is_none_or(|node| node.status == NodeStatus::Removed) {
            return self.refuse(place, "there is no such node", effects);
        }
        if self.listeners(id) == listeners {
            return;
        }
        let own = |listener: &AdvertisedListener| AdvertisedListener {
            name: own_text(&listener.name),
            address: own_text(&listener.address),
        };
        self.listeners.insert(id, listeners.iter().map(own).collect());
        self.listeners.retain(|_, listeners| !listeners.is_empty());
        self.dirty_listeners.insert(id);
        effects.push(Effect::MembershipChanged);
    }

    fn finalize(&mut self, place: Place, level: u32, effects: &mut Vec<Effect>) {
        if let Some(why) = self.finalize_refusal(level) {
            return self.refuse(place, why, effects);
        }
        self.level = level;
        self.state.moved = true;
        effects.push(Effect::MembershipChanged);
    }

    fn declare_lost(&mut self, id: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let is_up = matches!(node.status, NodeStatus::Live | NodeStatus::Joining);
        if !is_up || node.record.incarnation != incarnation {
            return;
        }
        node.status = NodeStatus::Down;
        self.dirty_nodes.insert(id);
        self.declare_dead(id, incarnation, effects);
        effects.push(Effect::MembershipChanged);
    }

    /// Takes everything from an incarnation, and tells the partitions.
    fn declare_dead(&mut self, node: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        self.state.streams.down(node, incarnation);
        for target in [RouteTarget::Node(node), RouteTarget::NodeQos0(node)] {
            let with_target = self.routes.iter().filter(|(_, targets)| targets.contains(&target));
            let filters: Vec<TopicFilter> = with_target.map(|(filter, _)| filter.clone()).collect();
            for filter in filters {
                self.route_remove(&filter, target, effects);
            }
        }
        for partition in 1..=self.config.partitions {
            self.state.post(GroupId(partition), &Command::NodeDown { node, incarnation });
        }
        effects.push(Effect::NodeDown { node, incarnation });
    }

    fn node_join(&mut self, place: Place, record: &NodeRecord, effects: &mut Vec<Effect>) {
        let staying = || self.nodes.values().filter(|node| node.status != NodeStatus::Removed);
        if let Some(known) = staying().find(|node| node.record.disk == record.disk) {
            let node = known.record.id;
            return self.state.reply(place, Reply::Joined { node }, effects);
        }
        if record.level < self.level {
            return self.refuse(
                place,
                "the cluster uses a level that the node's program does not speak",
                effects,
            );
        }
        let same_name =
            staying().filter(|node| node.record.name == record.name).max_by_key(|node| node.record.id);
        if same_name.is_some_and(|node| node.status == NodeStatus::Live) {
            return self.refuse(place, "a live node has this name", effects);
        }
        let replaces = same_name.map(|node| node.record.id);
        let id = self.next_node_id();
        let record = NodeRecord { id, ..own_record(record) };
        let mut node = Node::new(record, replaces);
        if let Some(replaced) = replaces.and_then(|replaced| self.nodes.get(&replaced)) {
            (node.duty, node.duty_since) = (replaced.duty, replaced.duty_since);
        }
        self.nodes.insert(id, node);
        self.last_node = id;
        self.dirty_nodes.insert(id);
        self.state.reply(place, Reply::Joined { node: id }, effects);
        effects.push(Effect::MembershipChanged);
    }

    fn place(&mut self, place: Place, group: GroupId, voters: Vec<NodeId>, effects: &mut Vec<Effect>) {
        if group.0 > self.config.partitions {
            return self.refuse(place, "there is no such group", effects);
        }
        let distinct: BTreeSet<NodeId> = voters.iter().copied().collect();
        if voters.is_empty() || distinct.len() != voters.len() {
            return self.refuse(place, "a placement names each voter once", effects);
        }
        let stays =
            |voter: &NodeId| self.nodes.get(voter).is_some_and(|node| node.status != NodeStatus::Removed);
        if !voters.iter().all(stays) {
            return self.refuse(place, "a voter is not a node of the cluster", effects);
        }
        if self.placement(group) != voters {
            self.placement.insert(group, voters);
            self.dirty_placement.insert(group);
            self.members_unknown(group);
            effects.push(Effect::MembershipChanged);
        }
    }

    fn node_forget(&mut self, place: Place, id: NodeId, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.get(&id) else {
            return self.refuse(place, "the node has no identity in this cluster", effects);
        };
        if node.status == NodeStatus::Removed {
            return;
        }
        if self.placement.values().any(|voters| voters.contains(&id)) {
            return self.refuse(place, "the node is still to have replicas", effects);
        }
        if node.status != NodeStatus::Down && self.is_member_anywhere(id) {
            return self.refuse(place, "the node still has replicas", effects);
        }
        if node.status != NodeStatus::Down {
            self.declare_dead(id, node.record.incarnation, effects);
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.status = NodeStatus::Removed;
        }
        if self.listeners.remove(&id).is_some() {
            self.dirty_listeners.insert(id);
        }
        if self.wishes.remove(&id).is_some() {
            self.dirty_wishes.insert(id);
        }
        self.dirty_nodes.insert(id);
        effects.push(Effect::MembershipChanged);
    }

    /// Panics when an invariant does not hold. For tests and the simulator.
    ///
    /// # Panics
    /// On a defect of this crate.
    pub fn check(&self) {
        assert!(self.nodes.keys().all(|node| *node <= self.last_node), "identities come from the counter");
        let stays =
            |node: &NodeId| self.nodes.get(node).is_some_and(|node| node.status != NodeStatus::Removed);
        assert!(self.placement.values().flatten().all(stays), "replicas are on nodes of the cluster");
        assert!(self.routes.values().all(|targets| !targets.is_empty()), "a filter without targets is gone");
        let kept: Vec<_> = self.nodes.values().filter(|node| node.status != NodeStatus::Removed).collect();
        let disks: BTreeSet<_> = kept.iter().map(|node| node.record.disk).collect();
        assert_eq!(disks.len(), kept.len(), "one identity per disk");
        assert!(self.wishes.keys().all(stays), "who is gone need not go");
    }
}

impl Apply for Control {
    fn group_state(&mut self) -> &mut GroupState {
        &mut self.state
    }

    fn advance(&mut self, _effects: &mut Vec<Effect>) {}

    fn released(&mut self, _messages: &[MessageRef]) {}

    fn node_lost(&mut self, node: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        self.declare_lost(node, incarnation, effects);
    }

    fn command(&mut self, place: Place, command: Reader<'_>, effects: &mut Vec<Effect>) {
        let Ok(command) = Command::read(command) else {
            return self.refuse(place, "the command cannot be read", effects);
        };
        match command {
            Command::RouteAdd { filter, target } => self.route_add(&filter, target, effects),
            Command::RouteRemove { filter, target } => self.route_remove(&filter, target, effects),
            Command::NodeUp { node } => self.node_up(place, &node, effects),
            Command::NodeJoin { node } => self.node_join(place, &node, effects),
            Command::NodeLost { node, incarnation } => self.declare_lost(node, incarnation, effects),
            Command::Place { group, voters } => self.place(place, group, voters, effects),
            Command::NodeForget { node } => self.node_forget(place, node, effects),
            Command::NodeDuty { node, duty } => self.node_duty(place, node, duty, effects),
            Command::NodeListeners { node, listeners } => {
                self.node_listeners(place, node, &listeners, effects);
            }
            Command::Finalize { level } => self.finalize(place, level, effects),
            Command::NodeRemove { node, removal } => self.node_remove(place, node, &removal, effects),
            Command::Members { group, index, voters, learners } => {
                self.group_members(place, group, Members { index, voters, learners }, effects);
            }
            Command::Backup { backup, step } => self.state.backup(place, backup, step, effects),
            Command::Publish { .. }
            | Command::PublishOnce { .. }
            | Command::Release { .. }
            | Command::PublishWill { .. }
            | Command::Receive { .. }
            | Command::Connect { .. }
            | Command::Disconnect { .. }
            | Command::Subscribe { .. }
            | Command::Unsubscribe { .. }
            | Command::Acknowledge { .. }
            | Command::Enqueue { .. }
            | Command::Purge { .. }
            | Command::ShareJoin { .. }
            | Command::ShareOffline { .. }
            | Command::ShareLeave { .. }
            | Command::ShareConfirm { .. }
            | Command::ShareDeliver { .. }
            | Command::ShareSettled { .. }
            | Command::ShareReturn { .. }
            | Command::NodeDown { .. } => self.refuse(place, "not a command for control", effects),
        }
    }
}

/// The voters of a group in a new cluster of these nodes.
fn initial_voters(group: GroupId, nodes: &[NodeId], replication: u32) -> Vec<NodeId> {
    let wanted = usize::try_from(replication.max(1)).unwrap_or(usize::MAX);
    if group == CONTROL || nodes.len() <= wanted {
        return nodes.to_vec();
    }
    let first = usize::try_from(group.0 - 1).unwrap_or_default() % nodes.len();
    nodes.iter().cycle().skip(first).take(wanted).copied().collect()
}

/// A record that does not keep its entry in memory.
fn own_record(record: &NodeRecord) -> NodeRecord {
    NodeRecord {
        id: record.id,
        name: own_text(&record.name),
        disk: record.disk,
        incarnation: record.incarnation,
        peer: own_text(&record.peer),
        mqtt: own_text(&record.mqtt),
        admin: own_text(&record.admin),
        zone: own_text(&record.zone),
        version: own_text(&record.version),
        level: record.level,
    }
}

#[cfg(test)]
mod tests;
