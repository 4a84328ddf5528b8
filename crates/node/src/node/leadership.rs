//! Which voter leads a group, and how leadership gets there.
//!
//! Owns: the order in which the voters of a group are to lead it, moving leadership towards it, and away from a node that is
//! to lead nothing or whose disk hangs or has little room. Does not: elect; Raft does, and whoever was elected hands on.
//! Invariants: all nodes compute the same order; a node that is to lead nothing leads only what nobody else can.
//! Spec: Raft 3.10. See: docs/operations/rolling-restart.md.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use quorate_state::command::Duty;
use quorate_state::control::{DISK_UNFIT_LEVEL, NodeStatus};
use quorate_state::{Control, GroupId, NodeId};

use super::Node;
use crate::consensus::group::Group;
use crate::peer::PeerMessage;

/// A member is caught up when it lacks no more entries than this, and none that is older than a disk may take: a transfer to
/// it takes no noticeable time, and its disk does not hang.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// The voters of a group in the order in which they are to lead it. The groups take turns, and so do their second choices:
/// with all voters up, leadership is spread over them to within one, and with one of them out, its groups are spread over
/// the others.
pub(super) fn leader_order(group: GroupId, voters: &[NodeId]) -> Vec<NodeId> {
    let mut left = voters.to_vec();
    left.sort_unstable();
    left.dedup();
    let mut turn = usize::try_from(group.0).unwrap_or_default();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        order.push(left.remove(turn % left.len()));
        turn /= left.len() + 1;
    }
    order
}

/// Whether a node is to lead groups, as far as control knows.
pub(super) fn is_to_lead(control: Option<&Control>, node: NodeId) -> bool {
    control.is_some_and(|control| {
        let live = control.node(node).is_some_and(|(_, status)| status == NodeStatus::Live);
        live && control.duty(node).0 == Duty::Full && !control.is_leaving(node)
    })
}

/// Who is to lead each group: as `leader_order` says, of the nodes that are to lead, moved as little as it takes to spread
/// leadership to within one, where the placement allows that.
pub(super) fn preferred_leaders(control: &Control) -> BTreeMap<GroupId, NodeId> {
    let groups = (0..=control.config().partitions).map(GroupId);
    let fit = |group: GroupId| {
        let order = leader_order(group, control.placement(group)).into_iter();
        order.filter(|node| is_to_lead(Some(control), *node)).collect::<Vec<_>>()
    };
    let candidates: BTreeMap<GroupId, Vec<NodeId>> = groups.map(|group| (group, fit(group))).collect();
    let mut leaders: BTreeMap<GroupId, NodeId> =
        candidates.iter().filter_map(|(group, fit)| Some((*group, *fit.first()?))).collect();
    let mut led: BTreeMap<NodeId, usize> = candidates.values().flatten().map(|node| (*node, 0)).collect();
    leaders.values().for_each(|leader| *led.entry(*leader).or_default() += 1);
    while let Some(path) = shift(&leaders, &candidates, &led) {
        for (group, to) in path {
            if let Some(from) = leaders.insert(group, to) {
                *led.entry(from).or_default() -= 1;
            }
            *led.entry(to).or_default() += 1;
        }
    }
    leaders
}

/// Groups to be led by others, so that one that leads much leads one less, and one that leads less by two or more, one more.
fn shift(
    leaders: &BTreeMap<GroupId, NodeId>,
    candidates: &BTreeMap<GroupId, Vec<NodeId>>,
    led: &BTreeMap<NodeId, usize>,
) -> Option<Vec<(GroupId, NodeId)>> {
    let mut most: Vec<NodeId> = led.keys().copied().collect();
    most.sort_by_key(|node| (usize::MAX - led.get(node).copied().unwrap_or_default(), *node));
    for from in most {
        let much = led.get(&from).copied().unwrap_or_default();
        // How each node was reached: by which group, led by whom.
        let mut reached: BTreeMap<NodeId, (GroupId, NodeId)> = BTreeMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            if node != from && led.get(&node).is_some_and(|led| led + 2 <= much) {
                let mut path = Vec::new();
                let mut at = node;
                while let Some((group, by)) = reached.get(&at).copied() {
                    path.push((group, at));
                    at = by;
                }
                return Some(path);
            }
            for (group, _) in leaders.iter().filter(|(_, leader)| **leader == node) {
                for next in candidates.get(group).into_iter().flatten() {
                    if *next != from && !reached.contains_key(next) {
                        reached.insert(*next, (*group, node));
                        queue.push_back(*next);
                    }
                }
            }
        }
    }
    None
}

impl Node {
    /// At start nobody leads: the first voter of each group does not wait for its timeout.
    pub(super) fn campaign_where_first(&mut self) {
        let me = self.id;
        let serves = self.own_duty() == Duty::Full;
        let orders: Vec<Vec<NodeId>> = self.groups.values().map(|group| self.leaders_of(group)).collect();
        for (group, order) in self.groups.values_mut().zip(orders) {
            if (order.first() == Some(&me) && serves) || order.len() == 1 {
                group.campaign();
            }
        }
    }

    /// Operator: this node is about to stop. Leadership goes away, and stays away.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.hand_over_all();
    }

    /// Moves leadership of all groups that another node should lead.
    pub(super) fn hand_over_all(&mut self) {
        for id in self.leads.clone() {
            self.move_leadership(id);
        }
    }

    /// A disk that hangs, or will soon be full, would hold up every group that this node leads.
    pub(super) fn tick_disk(&mut self, now: Duration) {
        self.disk.look(now);
        for group in self.leads.iter().filter_map(|id| self.groups.get(id)) {
            let last = group.last_before_hang();
            for (member, at) in group.progress() {
                if member != self.id && at.0 < last {
                    self.disk.is_late(member, now);
                }
            }
        }
        if self.peers_know_unfit() && self.disk.tells_unfit(now) {
            for peer in self.peers_up.clone() {
                self.send(peer, PeerMessage::DiskUnfit);
            }
        }
        if !self.disk_is_fit() {
            self.hand_over_all();
        }
    }

    /// Whether this node is to lead groups.
    fn serves_as_leader(&self) -> bool {
        !self.leaving && self.own_duty() == Duty::Full && self.disk_is_fit()
    }

    /// Whether nodes tell each other that their disks are not fit to lead. Where they do not, one with little room would hand its groups
    /// to another one, and get them back.
    fn peers_know_unfit(&self) -> bool {
        self.control().is_some_and(|control| control.level() >= DISK_UNFIT_LEVEL)
    }

    fn disk_is_fit(&self) -> bool {
        self.disk.is_trusted(self.now) && !(self.disk.is_low() && self.peers_know_unfit())
    }

    /// Gives leadership of a group to the voter that should have it, of those that are there and caught up.
    pub(super) fn move_leadership(&mut self, id: GroupId) {
        let stays = self.serves_as_leader();
        let Some(group) = self.groups.get(&id).filter(|group| !group.transferring()) else { return };
        let floor = group.committed().0.saturating_sub(CAUGHT_UP_ENTRIES).max(group.last_before_hang());
        let progress = group.progress();
        let caught_up = |node: &NodeId| progress.iter().any(|(member, at)| member == node && at.0 >= floor);
        let order = self.leaders_of(group);
        let mut fit = order.iter().filter(|node| {
            let is_there =
                self.peers_up.contains(node) && caught_up(node) && self.disk.trusts(**node, self.now);
            if **node == self.id { stays } else { is_there && is_to_lead(self.control(), **node) }
        });
        let Some(best) = fit.next().copied().filter(|best| *best != self.id) else { return };
        if let Some(group) = self.groups.get_mut(&id) {
            group.transfer(best);
        }
    }

    /// The voters of a group in the order in which they are to lead it. Who the group is no longer placed on comes last: it is
    /// to go, and cannot while it leads.
    fn leaders_of(&self, group: &Group) -> Vec<NodeId> {
        let mut order = leader_order(group.id(), &voters_of(group));
        let placed = self.control().map_or(&[][..], |control| control.placement(group.id()));
        if self.control().is_some_and(Control::knows_membership) {
            let preferred = self.preferred.get(&group.id());
            order.sort_by_key(|node| (!placed.contains(node), preferred != Some(node)));
        }
        order
    }

    /// What an operator wants of this node.
    pub(super) fn own_duty(&self) -> Duty {
        self.control().map_or(Duty::Full, |control| control.duty(self.id).0)
    }

    /// In which order the survivors campaign for a group when its leader's links are reset: 0 at once, each next one three
    /// ticks later, so that they do not split the vote. Those that are to lead nothing come last.
    pub(super) fn election_rank(&self, group: &Group, lost: NodeId) -> u32 {
        let mut order = self.leaders_of(group);
        order.retain(|node| *node != lost && (*node == self.id || self.peers_up.contains(node)));
        order.sort_by_key(|node| !is_to_lead(self.control(), *node));
        let rank = order.iter().take_while(|node| **node != self.id).count();
        u32::try_from(rank).unwrap_or(0) * 3
    }

    /// Whether this node is the first to campaign when the leader of the group falls silent; `None` without a leader.
    pub(super) fn is_heir(&self, group: &Group) -> Option<bool> {
        group.leader().map(|leader| leader != self.id && self.election_rank(group, leader) == 0)
    }

    /// Who is to lead a group when its leader goes.
    pub(super) fn heir(&self, group: &Group) -> Option<NodeId> {
        let leader = group.leader();
        let order = self.leaders_of(group);
        order.into_iter().find(|node| Some(*node) != leader && is_to_lead(self.control(), *node))
    }

    /// Groups led here that another node is to lead: what a node that leaves waits for.
    #[must_use]
    pub fn leads_for_others(&self) -> bool {
        let alone = |id: &GroupId| self.groups.get(id).is_none_or(|group| group.members().voters.len() < 2);
        !self.leads.iter().all(alone)
    }
}

fn voters_of(group: &Group) -> Vec<NodeId> {
    group.members().voters.iter().copied().map(NodeId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(nodes: &[u64], out: &[u64], groups: u32) -> Vec<usize> {
        let voters: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        let mut led = vec![0; nodes.len()];
        for group in 0..groups {
            let order = leader_order(GroupId(group), &voters);
            let leader = order.iter().find(|node| !out.contains(&node.0)).unwrap();
            led[nodes.iter().position(|node| *node == leader.0).unwrap()] += 1;
        }
        led
    }

    #[test]
    fn leadership_is_spread_to_within_one_whoever_is_out() {
        for groups in [1, 5, 9, 16, 17, 64] {
            let led = firsts(&[1, 2, 3], &[], groups);
            assert!(led.iter().max().unwrap() - led.iter().min().unwrap() <= 1, "{groups}: {led:?}");
        }
        for out in 1..=3 {
            let mut led = firsts(&[1, 2, 3], &[out], 18);
            led.remove(usize::try_from(out).unwrap() - 1);
            assert_eq!(led, [9, 9], "without {out}");
        }
        let led = firsts(&[1, 2, 3, 4, 5], &[2], 60);
        assert_eq!(led, [15, 0, 15, 15, 15]);
    }

    /// Control with five live nodes and partitions on these of them.
    fn control(placements: &[[u64; 3]]) -> Control {
        use quorate_codec::Text;
        use quorate_state::command::{Command, NodeRecord};
        use quorate_state::{
            Batch, ClusterConfig, Incarnation, LogIndex, Segment, StreamId, StreamSeq, Timestamp,
        };

        let text = |text: &str| Text::parse(text).unwrap();
        let node = |id: u64| NodeRecord {
            id: NodeId(id),
            name: text(&format!("n{id}")),
            disk: [u8::try_from(id).unwrap(); 16],
            incarnation: Incarnation(1),
            peer: text(""),
            mqtt: text(""),
            admin: text(""),
            zone: text(""),
            version: text(""),
            level: quorate_state::LEVEL,
        };
        let partitions = u32::try_from(placements.len()).unwrap();
        let config = ClusterConfig { cluster_id: [7; 16], name: text("lab"), partitions, replication: 3 };
        let nodes: Vec<NodeRecord> = (1..=5).map(node).collect();
        let mut control = Control::bootstrap(config, &nodes);
        let mut commands: Vec<Command> = nodes.into_iter().map(|node| Command::NodeUp { node }).collect();
        commands.extend((1..).zip(placements).map(|(group, on)| {
            let voters = on.iter().copied().map(NodeId).collect();
            Command::Place { group: GroupId(group), voters }
        }));
        let stream = StreamId::Node(NodeId(9), Incarnation(1));
        let segment = Segment { stream, first: StreamSeq(1), confirmed: StreamSeq(0), commands };
        let batch = Batch { stamp: Timestamp(1), segments: vec![segment], leader: Vec::new() };
        control.apply(LogIndex(1), &batch.encode(), &mut Vec::new());
        control
    }

    #[test]
    fn leadership_is_spread_to_within_one_wherever_replicas_are() {
        let all: Vec<[u64; 3]> = (1..=3)
            .flat_map(|a| (a + 1..=4).flat_map(move |b| (b + 1..=5).map(move |c| [a, b, c])))
            .collect();
        let mut draw = 1_u64;
        for _ in 0..200 {
            // Each round takes every set of three nodes once, in another order: all nodes have as many replicas.
            let mut placements = all.clone();
            for at in 0..placements.len() {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let other = usize::try_from(draw >> 33).unwrap() % placements.len();
                placements.swap(at, other);
            }
            let control = control(&placements);
            let leaders = preferred_leaders(&control);
            assert_eq!(leaders.len(), 11);
            let mut led = [0; 5];
            for (group, leader) in &leaders {
                assert!(control.placement(*group).contains(leader));
                led[usize::try_from(leader.0).unwrap() - 1] += 1;
            }
            assert!(led.iter().max().unwrap() - led.iter().min().unwrap() <= 1, "{led:?} of {placements:?}");
        }
    }

    #[test]
    fn leader_order_has_every_voter_once_and_moves_only_what_it_must() {
        let voters = [3, 1, 2].map(NodeId);
        for group in 0..20 {
            let order = leader_order(GroupId(group), &voters);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [1, 2, 3].map(NodeId));
            assert_eq!(order[0].0, u64::from(group % 3) + 1, "the first choice takes turns");
        }
    }
}
