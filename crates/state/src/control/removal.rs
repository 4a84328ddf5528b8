//! Members that operators want gone, and who the members of groups are.
//!
//! Owns: the wish to remove a node, when it is refused, and what leaders told of their groups' membership.
//! Does not: move replicas; see `plan`. Carry out a removal: it is a wish until `Command::NodeForget`.
//! Invariants: nodes that stay are enough for all replicas and have a majority up in control when a removal is taken on;
//! what is known of a group's members is not older than its placement.
//! Limits: one wish for each node, one list for each group, of at most MEMBERS_PER_GROUP_MAX. See: docs/operations/membership.md.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::Text;

use crate::command::{Duty, Removal};
use crate::control::{Control, MEMBERSHIP_LEVEL, NodeStatus};
use crate::effect::Effect;
use crate::encode::member::{nodes, put_nodes};
use crate::group_state::Place;
use crate::ids::{CONTROL, GroupId, LogIndex, NodeId, Timestamp};
use crate::limits::{MEMBERS_PER_GROUP_MAX, NODE_NAME_BYTES_MAX};
use crate::wire::{DecodeError, Reader, own_text, put_text};

/// An operator wants a node gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wish {
    since: Timestamp,
    /// Name of the node that is to come first; none from the moment on when it is live.
    successor: Option<Text>,
    /// Its clients are gone.
    quiet: bool,
}

impl Wish {
    fn is_for(&self, successor: Option<&str>) -> bool {
        self.successor.as_ref().map(Text::as_str) == successor
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        out.put_u64_le(self.since.0);
        put_text(&mut out, self.successor.as_ref().map_or("", Text::as_str));
        out.put_u8(u8::from(self.quiet));
        out.into()
    }

    pub(super) fn of(content: &Bytes) -> Result<Wish, DecodeError> {
        let mut reader = Reader::new(content);
        let since = Timestamp(reader.u64()?);
        let successor = Some(own_text(&reader.text()?)).filter(|name| !name.is_empty());
        let quiet = reader.flag()?;
        reader.done()?;
        Ok(Wish { since, successor, quiet })
    }
}

/// Who the members of a group are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Members {
    /// The leader had applied the group's log up to here.
    pub(super) index: LogIndex,
    /// Empty while nothing was told since the group was placed anew.
    pub(super) voters: Vec<NodeId>,
    pub(super) learners: Vec<NodeId>,
}

impl Members {
    pub(super) fn content(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        out.put_u64_le(self.index.0);
        put_nodes(&mut out, &self.voters);
        put_nodes(&mut out, &self.learners);
        out.into()
    }

    pub(super) fn of(content: &Bytes) -> Result<Members, DecodeError> {
        let mut reader = Reader::new(content);
        let index = LogIndex(reader.u64()?);
        let (voters, learners) = (nodes(&mut reader)?, nodes(&mut reader)?);
        reader.done()?;
        Ok(Members { index, voters, learners })
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    /// These vote, all of them, and nobody else has a replica.
    fn are(&self, placed: &[NodeId]) -> bool {
        self.learners.is_empty()
            && self.voters.len() == placed.len()
            && placed.iter().all(|node| self.voters.contains(node))
    }
}

/// The wish that a node is gone, for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemovalState {
    /// Since when, by the cluster's time stamps.
    pub since: Timestamp,
    /// Name of the node that is to come before it goes; `None` when nobody is awaited any more: it is on its way out.
    pub successor: Option<Text>,
}

/// A member and its replicas, for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberState {
    /// Node.
    pub node: NodeId,
    /// Partitions that are placed on it.
    pub placed: u32,
    /// Groups, with control, that it is known to be a member of, as voter or learner.
    pub member_of: u32,
    /// An operator wants it gone.
    pub removal: Option<RemovalState>,
    /// Why it cannot be removed now; `None` when it can, or is being removed.
    pub removal_refusal: Option<&'static str>,
}

/// A group whose members are not those that it is placed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// Group.
    pub group: GroupId,
    /// Who votes; empty when its leader has not told since it was placed anew.
    pub voters: Vec<NodeId>,
    /// Who only receives the log.
    pub learners: Vec<NodeId>,
    /// Who is to vote.
    pub wanted: Vec<NodeId>,
}

impl Control {
    /// Whether the cluster's level knows removals and moves replicas by itself.
    #[must_use]
    pub fn knows_membership(&self) -> bool {
        self.level() >= MEMBERSHIP_LEVEL
    }

    /// Whether a node is on its way out: it gets nothing new, and leads nothing that another node can lead.
    #[must_use]
    pub fn is_leaving(&self, node: NodeId) -> bool {
        self.wishes.get(&node).is_some_and(|wish| wish.successor.is_none())
    }

    /// Whether a node that is on its way out has said that its clients are gone.
    #[must_use]
    pub fn is_quiet(&self, node: NodeId) -> bool {
        self.wishes.get(&node).is_some_and(|wish| wish.quiet)
    }

    /// Whether a node is on its way out, and control has let it go too: it only waits for its end.
    #[must_use]
    pub fn has_left(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.status == NodeStatus::Removed)
            || (self.is_leaving(node) && !self.placement(CONTROL).contains(&node))
    }

    /// All members with their replicas, in order of their identities.
    #[must_use]
    pub fn member_states(&self) -> Vec<MemberState> {
        let staying = self.nodes.values().filter(|node| node.status != NodeStatus::Removed);
        let state = |node: NodeId| {
            let placed = self.placement.iter().filter(|(group, on)| **group != CONTROL && on.contains(&node));
            let wish = self.wishes.get(&node);
            let removal =
                wish.map(|wish| RemovalState { since: wish.since, successor: wish.successor.clone() });
            let removal_refusal =
                if removal.is_some() { None } else { self.removal_refusal(node, &Removal::Remove) };
            MemberState {
                node,
                placed: count(placed.count()),
                member_of: count(self.members.values().filter(|members| members.has(node)).count()),
                removal,
                removal_refusal,
            }
        };
        staying.map(|node| state(node.record.id)).collect()
    }

    /// Groups whose members are not those that they are placed on.
    #[must_use]
    pub fn moves(&self) -> Vec<Move> {
        let moving = self.members.keys().filter(|group| !self.is_settled(**group));
        let one = |group: &GroupId| {
            let Members { voters, learners, .. } = self.members.get(group).cloned().unwrap_or_default();
            Move { group: *group, voters, learners, wanted: self.placement(*group).to_vec() }
        };
        moving.map(one).collect()
    }

    /// Whether the members of a group are known to be those that it is placed on. A group that was not placed anew since
    /// members are told is where it was founded.
    pub(super) fn is_settled(&self, group: GroupId) -> bool {
        self.members.get(&group).is_none_or(|members| members.are(self.placement(group)))
    }

    /// Whether a group's leader has told that a node is no member, and the group is not placed on it.
    #[must_use]
    pub fn is_rid_of(&self, group: GroupId, node: NodeId) -> bool {
        let placed = self.placement(group);
        !placed.is_empty()
            && !placed.contains(&node)
            && self.members.get(&group).is_some_and(|members| members.are(placed))
    }

    /// Whether a group has fewer sound voters than it is placed on, as far as is known, so that a loss would be one too many.
    /// `replaced` is the lost node that the asking one came for.
    #[must_use]
    pub fn is_short(&self, group: GroupId, replaced: Option<NodeId>) -> bool {
        let known = self.members.get(&group).filter(|members| !members.voters.is_empty());
        let Some(known) = known.filter(|_| self.knows_membership()) else {
            return !self.knows_membership() || replaced.is_some();
        };
        let is_lost = |node: &&NodeId| {
            let status = self.nodes.get(node).map(|node| node.status);
            self.heir(**node).is_some() || matches!(status, None | Some(NodeStatus::Removed))
        };
        known.voters.iter().filter(|node| !is_lost(node)).count() < self.placement(group).len()
    }

    /// Whether a group's leader has told its members since it was placed last, and this node is none.
    pub(super) fn is_told_without(&self, group: GroupId, node: NodeId) -> bool {
        self.members.get(&group).is_some_and(|members| !members.voters.is_empty() && !members.has(node))
    }

    /// Whether what control knows of a group's members is what its leader sees.
    #[must_use]
    pub fn members_are(&self, group: GroupId, voters: &[NodeId], learners: &[NodeId]) -> bool {
        self.members
            .get(&group)
            .is_some_and(|members| members.voters == voters && members.learners == learners)
    }

    pub(super) fn is_member_anywhere(&self, node: NodeId) -> bool {
        self.members.values().any(|members| members.has(node))
    }

    /// The group is placed anew: what was told of its members may be about to change.
    pub(super) fn members_unknown(&mut self, group: GroupId) {
        if !self.knows_membership() {
            return;
        }
        let members = self.members.entry(group).or_default();
        members.voters.clear();
        members.learners.clear();
        self.dirty_members.insert(group);
    }

    pub(super) fn group_members(
        &mut self,
        place: Place,
        group: GroupId,
        members: Members,
        effects: &mut Vec<Effect>,
    ) {
        if !self.knows_membership() {
            return self.refuse(place, "the level in use does not know the members of groups", effects);
        }
        if group.0 > self.config.partitions {
            return self.refuse(place, "there is no such group", effects);
        }
        if members.voters.len() + members.learners.len() > MEMBERS_PER_GROUP_MAX {
            return self.refuse(place, "too many members", effects);
        }
        let known = self.members.get(&group);
        let is_news = known.is_none_or(|known| members.index >= known.index && *known != members);
        if members.voters.is_empty() || !is_news {
            return;
        }
        self.members.insert(group, members);
        self.dirty_members.insert(group);
        effects.push(Effect::MembershipChanged);
    }

    /// Why an operator cannot have this of a node; `None` when they can.
    #[must_use]
    pub fn removal_refusal(&self, node: NodeId, removal: &Removal) -> Option<&'static str> {
        if !self.knows_membership() {
            return Some("the level in use does not know removal: finalize the cluster first");
        }
        let Some(known) = self.nodes.get(&node).filter(|known| known.status != NodeStatus::Removed) else {
            return Some("there is no such node");
        };
        let successor = match removal {
            Removal::Keep if self.has_left(node) => return Some("the node has left control already"),
            Removal::Keep => return None,
            Removal::Quiet if !self.is_leaving(node) => return Some("the node is not on its way out"),
            Removal::Quiet => return None,
            Removal::Remove => None,
            Removal::Replace { successor } => Some(successor),
        };
        if let Some(name) = successor {
            if name.is_empty() || name.as_str().len() > NODE_NAME_BYTES_MAX {
                return Some("no node can have the successor's name");
            }
            if *name == known.record.name {
                return Some(
                    "a node that comes with the name of a lost one replaces it by itself: name another node",
                );
            }
            if self.stayers().any(|(id, other)| other == name && self.wishes.contains_key(&id)) {
                return Some("the successor is to be removed itself");
            }
        }
        let successor = successor.map(Text::as_str);
        if self.is_leaving(node) || self.wishes.get(&node).is_some_and(|wish| wish.is_for(successor)) {
            return None;
        }
        self.too_few_without(node, successor)
    }

    fn too_few_without(&self, node: NodeId, successor: Option<&str>) -> Option<&'static str> {
        let before: BTreeMap<&str, NodeId> = self
            .stayers()
            .filter(|(id, _)| !self.wishes.contains_key(id))
            .map(|(id, name)| (name.as_str(), id))
            .collect();
        let others = self.wishes.iter().filter(|(id, _)| **id != node).map(|(_, wish)| wish);
        let mut awaited: BTreeSet<&str> =
            others.filter_map(|wish| wish.successor.as_ref().map(Text::as_str)).collect();
        let absent =
            |awaited: &BTreeSet<&str>| awaited.iter().filter(|name| !before.contains_key(*name)).count();
        let members = before.len() + absent(&awaited);
        awaited.extend(successor);
        let after = before.iter().filter(|(_, id)| **id != node);
        // Who is awaited counts as up: nothing begins before it is.
        let up = after.clone().filter(|(name, id)| self.is_live(**id) || awaited.contains(*name)).count();
        let (staying, up) = (after.count() + absent(&awaited), up + absent(&awaited));
        let replication = usize::try_from(self.config.replication).unwrap_or(usize::MAX);
        let needed = replication.min(members.max(1));
        if staying < needed {
            Some(
                "fewer nodes would stay than a partition has replicas: add a node first, or replace this one",
            )
        } else if up < needed {
            Some("too few of the nodes that would stay are up: bring them back, or replace them, first")
        } else if up * 2 <= staying {
            Some("the nodes that would stay have no majority up: bring the others back first")
        } else {
            None
        }
    }

    /// Nodes that are not gone, nor lost with another one of their name in their place.
    fn stayers(&self) -> impl Iterator<Item = (NodeId, &Text)> {
        let nodes = self.nodes.values().filter(|node| node.status != NodeStatus::Removed);
        let stays = |id: NodeId| self.heir(id).is_none();
        nodes.map(|node| (node.record.id, &node.record.name)).filter(move |(id, _)| stays(*id))
    }

    /// The node that came, with its name, for a lost one, or for the one that had come for it.
    pub(super) fn heir(&self, lost: NodeId) -> Option<NodeId> {
        // A node that comes has a higher identity than the one it comes for: this ends.
        let next = self.nodes.values().rfind(|node| node.replaces == Some(lost))?;
        self.heir(next.record.id).or_else(|| {
            Some(next.record.id)
                .filter(|_| matches!(next.status, NodeStatus::Joining | NodeStatus::Live | NodeStatus::Down))
        })
    }

    pub(super) fn is_live(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.status == NodeStatus::Live)
    }

    fn is_live_name(&self, name: &Text, but: NodeId) -> bool {
        let mut named = self.nodes.values().filter(|node| node.record.name == *name);
        named.any(|node| node.status == NodeStatus::Live && node.record.id != but)
    }

    pub(super) fn node_remove(
        &mut self,
        place: Place,
        id: NodeId,
        removal: &Removal,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(why) = self.removal_refusal(id, removal) {
            return self.refuse(place, why, effects);
        }
        let successor = match removal {
            Removal::Keep => return self.node_stays(id, effects),
            Removal::Quiet => {
                if self.wishes.get_mut(&id).is_some_and(|wish| !std::mem::replace(&mut wish.quiet, true)) {
                    self.dirty_wishes.insert(id);
                    effects.push(Effect::MembershipChanged);
                }
                return;
            }
            Removal::Remove => None,
            Removal::Replace { successor } => Some(own_text(successor)),
        };
        let successor = successor.filter(|name| !self.is_live_name(name, id));
        let successor_name = successor.as_ref().map(Text::as_str);
        // What has begun goes on, whoever is named later.
        if self.is_leaving(id) || self.wishes.get(&id).is_some_and(|wish| wish.is_for(successor_name)) {
            return;
        }
        self.wishes.insert(id, Wish { since: self.state.now, successor, quiet: false });
        self.dirty_wishes.insert(id);
        effects.push(Effect::MembershipChanged);
    }

    /// A node is live: whoever it was to come for is on its way out.
    pub(super) fn successor_came(&mut self, came: NodeId) {
        let Some(name) = self.nodes.get(&came).map(|node| node.record.name.clone()) else { return };
        for (id, wish) in &mut self.wishes {
            if wish.successor.take_if(|successor| *successor == name).is_some() {
                self.dirty_wishes.insert(*id);
            }
        }
    }

    /// The removal is called off; if the node was taken out of service for it, it is put back.
    fn node_stays(&mut self, id: NodeId, effects: &mut Vec<Effect>) {
        if self.wishes.remove(&id).is_none() {
            return;
        }
        self.dirty_wishes.insert(id);
        let now = self.state.now;
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| matches!(node.duty, Duty::Drain { .. })) {
            (node.duty, node.duty_since) = (Duty::Full, now);
            self.dirty_nodes.insert(id);
        }
        effects.push(Effect::MembershipChanged);
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
