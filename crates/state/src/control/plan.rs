//! Where replicas are to be: the next steps of placement.
//!
//! Owns: the choice of nodes for replicas, and the order in which nodes come and go. Does not: carry steps out, see how far
//! groups are but by what their leaders told; see `removal`.
//! Invariants: a plan depends on the state and the time only; a step moves as few replicas as it can; nothing is moved to a
//! node that is not live; no step leaves a group fewer voters than before; steps that only make a placement better make it
//! strictly better, so that they come to an end: fewer replicas share a zone, or they are spread more evenly.
//! Limits: MOVES_MAX partitions are on the way at once. See: docs/operations/membership.md.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::{Command, Duty};
use crate::control::{Control, NodeStatus};
use crate::ids::{CONTROL, GroupId, NodeId, Timestamp};
use crate::limits::{MOVES_MAX, REMOVAL_CLOSE_MS, REMOVAL_GRACE_S};

impl Control {
    /// What is to be done next about nodes that come and go, and about replicas that are not where they should be. Given to
    /// control's own leader, which proposes it; empty when nothing is to be done, or when what is underway comes first.
    #[must_use]
    pub fn plan(&self, now: Timestamp) -> Vec<Command> {
        let mut plan = Plan::of(self, now);
        plan.control();
        plan.partitions();
        plan.farewells();
        plan.steps
    }
}

struct Plan<'a> {
    control: &'a Control,
    now: Timestamp,
    /// As it will be after the steps.
    placement: BTreeMap<GroupId, Vec<NodeId>>,
    /// Partitions placed on each node that stays.
    load: BTreeMap<NodeId, usize>,
    /// Partitions on the way.
    moving: usize,
    steps: Vec<Command>,
}

impl<'a> Plan<'a> {
    fn of(control: &'a Control, now: Timestamp) -> Plan<'a> {
        let partitions = control.placement.iter().filter(|(group, _)| **group != CONTROL);
        let placement: BTreeMap<_, _> = partitions.map(|(group, on)| (*group, on.clone())).collect();
        let moving = placement.keys().filter(|group| !control.is_settled(**group)).count();
        let mut plan = Plan { control, now, placement, load: BTreeMap::new(), moving, steps: Vec::new() };
        plan.weigh();
        plan
    }

    fn weigh(&mut self) {
        let staying = self.control.nodes.values().filter(|node| node.status != NodeStatus::Removed);
        self.load = staying.map(|node| (node.record.id, 0)).collect();
        for node in self.placement.values().flatten() {
            if let Some(load) = self.load.get_mut(node) {
                *load += 1;
            }
        }
    }

    /// Control is on every node that is there or on its way in.
    fn control(&mut self) {
        let now_on = self.control.placement(CONTROL);
        let mut voters: Vec<NodeId> = Vec::new();
        for voter in now_on {
            let voter = self.control.heir(*voter).filter(|heir| self.comes(*heir)).unwrap_or(*voter);
            if !voters.contains(&voter) && !self.has_finished(voter) {
                voters.push(voter);
            }
        }
        let shrinks = now_on.iter().any(|voter| !voters.contains(voter));
        let newcomers =
            self.control.nodes.keys().filter(|node| self.comes(**node) && !self.has_finished(**node));
        let mut all = voters.clone();
        all.extend(newcomers.filter(|node| !voters.contains(node)));
        // Half of a joint membership without a majority would hold up the other half. Who comes besides waits then until who
        // comes for a lost one is there.
        let holds = |voters: &[NodeId]| {
            let live = voters.iter().filter(|voter| self.control.is_live(**voter)).count();
            !(shrinks && self.control.knows_membership()) || live * 2 > voters.len()
        };
        if holds(&all) {
            voters = all;
        } else if !holds(&voters) {
            return;
        }
        if voters != now_on && !voters.is_empty() {
            self.steps.push(Command::Place { group: CONTROL, voters });
        }
    }

    /// There, or about to be, and no other node has come for it.
    fn comes(&self, node: NodeId) -> bool {
        let known = self.control.nodes.get(&node);
        let comes = known.is_some_and(|node| matches!(node.status, NodeStatus::Joining | NodeStatus::Live));
        comes && self.control.heir(node).is_none()
    }

    /// Leaving, and nothing keeps it but control: no partition has it, and its clients had their time to go.
    fn has_finished(&self, node: NodeId) -> bool {
        let control = self.control;
        if control.has_left(node) {
            return true;
        }
        if !control.is_leaving(node) || self.placement.values().any(|on| on.contains(&node)) {
            return false;
        }
        let partitions = control.members.iter().filter(|(group, _)| **group != CONTROL);
        let mut partitions = partitions.map(|(_, members)| members);
        if partitions.any(|members| members.voters.is_empty() || members.has(node)) {
            return false;
        }
        let Some(known) = control.nodes.get(&node) else { return false };
        match known.duty {
            _ if known.status != NodeStatus::Live => true,
            Duty::Full | Duty::Follow => false,
            Duty::Drain { .. } if control.is_quiet(node) => true,
            Duty::Drain { grace_s } => {
                let stay_ms = u64::from(grace_s) * 1000 + REMOVAL_CLOSE_MS;
                self.now.0 >= known.duty_since.0.saturating_add(stay_ms)
            }
        }
    }

    fn partitions(&mut self) {
        let groups: Vec<GroupId> = self.placement.keys().copied().collect();
        let mut must = false;
        for group in &groups {
            let on = self.placement.get(group).cloned().unwrap_or_default();
            must |= on.iter().any(|node| self.is_out(*node));
            if let Some(better) = self.relocated(&on) {
                self.place(*group, better);
            }
        }
        if must || !self.control.knows_membership() {
            return;
        }
        // A placement that could be better is left alone while anything is not as it should be.
        for group in groups {
            let crowded = self.placement.get(&group).filter(|_| self.may_improve(group)).cloned();
            if let Some(better) = crowded.and_then(|on| self.less_crowded(&on)) {
                self.place(group, better);
            }
        }
        while self.moving < MOVES_MAX && self.balance() {}
    }

    /// Nothing is to stay on this node.
    fn is_out(&self, node: NodeId) -> bool {
        self.control.is_leaving(node) || self.control.heir(node).is_some_and(|heir| self.comes(heir))
    }

    /// Places a group anew, if there is room for one more on the way, or it is on the way already.
    fn place(&mut self, group: GroupId, voters: Vec<NodeId>) {
        let bounded = self.control.knows_membership();
        let settled = self.control.is_settled(group);
        if bounded && settled && self.moving >= MOVES_MAX {
            return;
        }
        if settled {
            self.moving += 1;
        }
        self.placement.insert(group, voters.clone());
        self.weigh();
        self.steps.push(Command::Place { group, voters });
    }

    /// A placement without nodes that are out, and with as many voters as the cluster wants, as far as there are nodes.
    /// `None` when it is so already, or cannot be.
    fn relocated(&self, on: &[NodeId]) -> Option<Vec<NodeId>> {
        let mut better: Vec<NodeId> = Vec::new();
        let mut waits: Vec<NodeId> = Vec::new();
        for node in on {
            let heir = self.control.heir(*node).filter(|heir| self.comes(*heir)).unwrap_or(*node);
            if self.control.is_leaving(heir) {
                waits.push(*node);
            } else if !better.contains(&heir) {
                better.push(heir);
            }
        }
        if self.control.knows_membership() {
            let wanted = self.replicas_wanted();
            // A second replica of two would only make it likelier that one of them is missing.
            let all = better.len() + self.free(&better).count();
            let goal = if all >= wanted { wanted.max(on.len()) } else { on.len() };
            while better.len() < goal {
                let best = self.free(&better).min_by_key(|node| {
                    let mut with = better.clone();
                    with.push(*node);
                    (self.shared_zones(&with), self.load_of(*node), *node)
                });
                match best {
                    Some(node) => better.push(node),
                    None => break,
                }
            }
        }
        // Who has no successor stays until there is one.
        let missing = on.len().saturating_sub(better.len());
        better.extend(waits.into_iter().take(missing));
        let same = better.len() == on.len() && better.iter().all(|node| on.contains(node));
        if same { None } else { Some(better) }
    }

    /// Nodes that may get a replica and have none of the group.
    fn free(&self, on: &[NodeId]) -> impl Iterator<Item = NodeId> {
        self.control.nodes.keys().copied().filter(move |node| self.is_free(*node) && !on.contains(node))
    }

    /// Whether a node may get replicas.
    fn is_free(&self, node: NodeId) -> bool {
        let serves = self.control.nodes.get(&node).is_some_and(super::Node::is_in_service);
        serves && !self.control.is_leaving(node)
    }

    fn replicas_wanted(&self) -> usize {
        usize::try_from(self.control.config.replication).unwrap_or(usize::MAX)
    }

    fn load_of(&self, node: NodeId) -> usize {
        self.load.get(&node).copied().unwrap_or_default()
    }

    /// How many replicas share the zone of another one. A node without a zone shares with none.
    fn shared_zones(&self, on: &[NodeId]) -> usize {
        let zones = on.iter().filter_map(|node| self.control.nodes.get(node));
        let zones: Vec<&str> =
            zones.map(|node| node.record.zone.as_str()).filter(|zone| !zone.is_empty()).collect();
        zones.len() - zones.iter().collect::<BTreeSet<_>>().len()
    }

    /// All is well with a group but that its placement could be better. One with too few replicas is no better elsewhere.
    fn may_improve(&self, group: GroupId) -> bool {
        let on = self.placement.get(&group).map_or(&[][..], Vec::as_slice);
        if on.len() < self.replicas_wanted() {
            return false;
        }
        let untouched = self.control.placement(group) == on;
        untouched && self.control.is_settled(group) && on.iter().all(|node| self.control.is_live(*node))
    }

    /// The placement with one replica elsewhere so that fewer share a zone, if there is such a place.
    fn less_crowded(&self, on: &[NodeId]) -> Option<Vec<NodeId>> {
        let before = self.shared_zones(on);
        if before == 0 {
            return None;
        }
        let swaps = on.iter().enumerate().flat_map(|(at, from)| {
            self.free(on).map(move |to| {
                let mut better = on.to_vec();
                if let Some(place) = better.get_mut(at) {
                    *place = to;
                }
                (*from, to, better)
            })
        });
        let best = swaps.min_by_key(|(from, to, better)| {
            (self.shared_zones(better), self.load_of(*to), usize::MAX - self.load_of(*from), *to, *from)
        });
        best.map(|(_, _, better)| better).filter(|better| self.shared_zones(better) < before)
    }

    /// Moves one replica from a node with more to one with fewer, if that is possible and they differ by more than one.
    fn balance(&mut self) -> bool {
        let live: Vec<NodeId> =
            self.control.nodes.keys().copied().filter(|n| self.control.is_live(*n)).collect();
        let mut pairs: Vec<(usize, NodeId, NodeId)> = Vec::new();
        for from in &live {
            for to in live.iter().filter(|to| self.is_free(**to)) {
                let more = self.load_of(*from).saturating_sub(self.load_of(*to));
                if more > 1 {
                    pairs.push((more, *from, *to));
                }
            }
        }
        pairs.sort_by_key(|(more, from, to)| (usize::MAX - more, *from, *to));
        for (_, from, to) in pairs {
            let groups: Vec<GroupId> = self.placement.keys().copied().collect();
            let found = groups.into_iter().find_map(|group| {
                let on = self.placement.get(&group).filter(|_| self.may_improve(group))?;
                if !on.contains(&from) || on.contains(&to) {
                    return None;
                }
                let better: Vec<NodeId> =
                    on.iter().map(|node| if *node == from { to } else { *node }).collect();
                (self.shared_zones(&better) <= self.shared_zones(on)).then_some((group, better))
            });
            if let Some((group, better)) = found {
                self.place(group, better);
                return true;
            }
        }
        false
    }

    /// Nodes that are on their way out: their clients are let go, and who is nowhere any more is forgotten.
    fn farewells(&mut self) {
        let control = self.control;
        // One at a time: the state has to judge the next one.
        let mut let_go = false;
        for (id, node) in control.nodes.iter().filter(|(_, node)| node.status != NodeStatus::Removed) {
            let is_placed = control.placement.values().any(|on| on.contains(id));
            let replaced = self.comes_for(*id) && !is_placed;
            let left = control.is_leaving(*id) && !is_placed && control.is_told_without(CONTROL, *id);
            let elsewhere = !control.is_member_anywhere(*id) || node.status == NodeStatus::Down;
            if replaced || (left && elsewhere) {
                self.steps.push(Command::NodeForget { node: *id });
            } else if control.is_leaving(*id)
                && node.is_in_service()
                && control.drain_refusal(*id).is_none()
                && !std::mem::replace(&mut let_go, true)
            {
                let duty = Duty::Drain { grace_s: REMOVAL_GRACE_S };
                self.steps.push(Command::NodeDuty { node: *id, duty });
            }
        }
    }

    /// Whether another node of its name has come for a lost one.
    fn comes_for(&self, lost: NodeId) -> bool {
        let is_down = self.control.nodes.get(&lost).is_some_and(|node| node.status != NodeStatus::Live);
        is_down && self.control.heir(lost).is_some()
    }
}

#[cfg(test)]
mod tests;
