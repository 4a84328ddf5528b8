//! Shared subscriptions in the route table: which groups a topic matches, and which member receives a message from
//! memory.
//!
//! Owns: routes and local members per share group, [`ShareMatch`], [`Draw`]. Does not: replicate; a group with a member
//! of QoS 1 or 2 has a partition that spreads what is published with QoS 1 or 2.
//! Invariants: a group is known by its whole text, `$share/{name}/{filter}`, and matched by the filter in it; from
//! memory each matching group gives a message to one member, on one node; a member of QoS 1 or 2 has messages of QoS 1
//! and 2 from the partition alone, or it could have them twice while the group's route is new; groups come in the order
//! of their texts.
//! Limits: as for other routes and subscriptions. Spec: MQTT 5, 4.8.2. See: docs/decisions/0017-share-groups.md.

use std::sync::Arc;

use quorate_codec::{QoS, TopicFilter};
use quorate_state::command::RouteTarget;
use quorate_state::topic_trie::TopicTrie;
use quorate_state::{ConnId, GroupId, NodeId};

use super::{LocalMatch, LocalSubscription};
use crate::edge::{DirectDelivery, DirectMessage};
use crate::limits::SHARES_PER_FORWARD_MAX;
use crate::peer::PeerMessage;

/// Odd multiple of the golden ratio: draws that follow each other, and every second or third of them, fall evenly.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// A number that decides who of several receives a message. Those of one publisher are spread evenly, so that every
/// member gets its share without a counter that connections would have to write to together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// The draw of the `nth` message of a publisher, which `seed` stands for.
    #[must_use]
    pub fn nth(seed: u64, nth: u64) -> Draw {
        Draw(seed.wrapping_add(nth.wrapping_mul(STRIDE)))
    }

    /// One of `count`, and the draw for a choice within it. `count` must not be 0.
    pub(super) fn pick(self, count: usize) -> (usize, Draw) {
        let product = u128::from(self.0) * count as u128;
        let [low, high] = [product & u128::from(u64::MAX), product >> 64];
        let chosen = usize::try_from(high).expect("the product's upper half is below the count");
        (chosen, Draw(u64::try_from(low).expect("a half of 128 bits has 64")))
    }

    fn choose<T>(self, all: &[T]) -> Option<&T> {
        if all.is_empty() { None } else { all.get(self.pick(all.len()).0) }
    }
}

/// Something of each share group, found by the topics that the group's filter matches.
#[derive(Debug)]
pub(super) struct ByShare<T> {
    /// By plain filter: the groups with that filter in the order of their texts, never empty, and what is stored of each.
    groups: TopicTrie<Vec<(TopicFilter, Vec<T>)>>,
}

impl<T> Default for ByShare<T> {
    fn default() -> Self {
        ByShare { groups: TopicTrie::new() }
    }
}

impl<T> ByShare<T> {
    /// What is stored of a group; empty and to be filled when there was nothing.
    pub(super) fn entry(&mut self, share: &TopicFilter) -> &mut Vec<T> {
        let groups = self.groups.entry(plain(share), Vec::new);
        let at = match groups.binary_search_by(|(other, _)| other.as_str().cmp(share.as_str())) {
            Ok(at) => at,
            Err(at) => {
                groups.insert(at, (share.clone(), Vec::new()));
                at
            }
        };
        &mut groups.get_mut(at).expect("found or inserted at this place").1
    }

    pub(super) fn get(&self, share: &TopicFilter) -> Option<&Vec<T>> {
        let groups = self.groups.get(plain(share))?;
        groups.iter().find(|(other, _)| other == share).map(|(_, stored)| stored)
    }

    /// What is stored of a group.
    pub(super) fn get_mut(&mut self, share: &TopicFilter) -> Option<&mut Vec<T>> {
        let groups = self.groups.get_mut(plain(share))?;
        groups.iter_mut().find(|(other, _)| other == share).map(|(_, stored)| stored)
    }

    /// Forgets a group.
    pub(super) fn remove(&mut self, share: &TopicFilter) {
        let Some(groups) = self.groups.get_mut(plain(share)) else { return };
        groups.retain(|(other, _)| other != share);
        if groups.is_empty() {
            self.groups.remove(plain(share));
        }
    }
}

/// The filter within the text of a shared subscription [MQTT-4.8.2-1].
fn plain(share: &TopicFilter) -> &str {
    share.as_str().splitn(3, '/').nth(2).expect("the text of a shared subscription has a name and a filter")
}

/// A share group that matches a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShareMatch {
    /// Its whole text.
    pub share: TopicFilter,
    /// The partition that spreads messages of QoS 1 and 2 to the members; `None` when all members have QoS 0.
    pub partition: Option<GroupId>,
    /// Other nodes with members, ordered.
    nodes: Vec<NodeId>,
    /// Members that are connections of this node: first those of QoS 0.
    members: Vec<LocalMatch>,
    /// How many those are.
    of_qos_0: usize,
}

/// Who receives a message from memory.
enum Receiver<'a> {
    Member(&'a LocalMatch),
    /// One of the members of that node, to be chosen there.
    Node(NodeId, Draw),
}

impl ShareMatch {
    /// Whether a message of this QoS goes to a member from memory, past any partition.
    #[must_use]
    pub fn is_direct(&self, qos: QoS) -> bool {
        let anybody = !self.nodes.is_empty() || !self.candidates(qos).is_empty();
        anybody && (qos == QoS::AtMostOnce || self.partition.is_none())
    }

    /// Members here that may have a message of this QoS from memory.
    fn candidates(&self, qos: QoS) -> &[LocalMatch] {
        match qos {
            QoS::AtMostOnce => &self.members,
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.members.get(..self.of_qos_0).unwrap_or_default(),
        }
    }

    /// All nodes with members have the same chance: how many members another one has is not known here.
    fn receiver(&self, qos: QoS, draw: Draw) -> Option<Receiver<'_>> {
        let candidates = self.candidates(qos);
        let here = usize::from(!candidates.is_empty());
        let count = self.nodes.len() + here;
        if count == 0 {
            return None;
        }
        let (chosen, rest) = draw.pick(count);
        match self.nodes.get(chosen) {
            Some(node) => Some(Receiver::Node(*node, rest)),
            None => rest.choose(candidates).map(Receiver::Member),
        }
    }
}

/// The groups that match `topic`, with their routes and local members.
pub(super) fn matches(
    routes: &ByShare<RouteTarget>,
    members: &ByShare<LocalSubscription>,
    topic: &str,
    me: NodeId,
) -> Vec<ShareMatch> {
    let mut found = Vec::new();
    routes.groups.match_topic(topic, |groups| {
        for (share, targets) in groups {
            let partition = targets.iter().find_map(|target| match target {
                RouteTarget::Partition(group) => Some(*group),
                RouteTarget::Node(_) | RouteTarget::NodeQos0(_) => None,
            });
            let nodes = targets.iter().filter_map(|target| match target {
                RouteTarget::Node(node) if *node != me => Some(*node),
                RouteTarget::Node(_) | RouteTarget::NodeQos0(_) | RouteTarget::Partition(_) => None,
            });
            let nodes = nodes.collect();
            let (share, members) = (share.clone(), Vec::new());
            found.push(ShareMatch { share, partition, nodes, members, of_qos_0: 0 });
        }
    });
    found.sort_unstable_by(|left, right| left.share.as_str().cmp(right.share.as_str()));
    members.groups.match_topic(topic, |groups| {
        for (share, subscriptions) in groups {
            let at = found.binary_search_by(|known| known.share.as_str().cmp(share.as_str())).unwrap_or_else(
                |at| {
                    let (share, nodes, members) = (share.clone(), Vec::new(), Vec::new());
                    found.insert(at, ShareMatch { share, partition: None, nodes, members, of_qos_0: 0 });
                    at
                },
            );
            let known = found.get_mut(at).expect("found or inserted at this place");
            (known.members, known.of_qos_0) = local(subscriptions);
        }
    });
    found
}

/// Each member by itself, for a member's other subscriptions have nothing to do with its share; and how many have QoS 0.
fn local(subscriptions: &[LocalSubscription]) -> (Vec<LocalMatch>, usize) {
    let is_lowest = |one: &LocalMatch| one.others.qos == QoS::AtMostOnce;
    let mut members: Vec<LocalMatch> = subscriptions.chunks(1).filter_map(LocalMatch::combine).collect();
    members.sort_by_key(|one| !is_lowest(one));
    let of_qos_0 = members.partition_point(is_lowest);
    (members, of_qos_0)
}

/// Gives a message to one member of each of these groups that has it from memory.
pub(super) fn dispatch(
    shares: &[ShareMatch],
    message: &Arc<DirectMessage>,
    draw: Draw,
    direct: &mut Vec<(ConnId, DirectDelivery)>,
    forwards: &mut Vec<(NodeId, PeerMessage)>,
) {
    let mut elsewhere: Vec<(NodeId, Draw, TopicFilter)> = Vec::new();
    let qos = message.message.qos;
    for share in shares.iter().filter(|share| share.is_direct(qos)) {
        match share.receiver(qos, draw) {
            Some(Receiver::Member(member)) => direct.push((member.conn, member.others.delivery(message))),
            Some(Receiver::Node(node, draw)) => elsewhere.push((node, draw, share.share.clone())),
            None => {}
        }
    }
    elsewhere.sort_by_key(|(node, draw, _)| (*node, draw.0));
    for group in elsewhere.chunk_by(|left, right| (left.0, left.1) == (right.0, right.1)) {
        for part in group.chunks(SHARES_PER_FORWARD_MAX) {
            let Some((node, draw, _)) = part.first() else { continue };
            let shares = part.iter().map(|(_, _, share)| share.clone()).collect();
            let message = Arc::clone(message);
            forwards.push((*node, PeerMessage::ForwardShared { draw: *draw, shares, message }));
        }
    }
}

/// Gives a message that another node forwarded to one local member of each of these groups.
pub(super) fn deliver(
    members: &ByShare<LocalSubscription>,
    message: &Arc<DirectMessage>,
    shares: &[TopicFilter],
    draw: Draw,
    out: &mut Vec<(ConnId, DirectDelivery)>,
) {
    let qos = message.message.qos;
    for share in shares.iter().filter(|share| share.is_shared()) {
        let subscriptions = members.get(share).map_or(&[][..], Vec::as_slice);
        let fits = |one: &&LocalSubscription| qos == QoS::AtMostOnce || one.qos == QoS::AtMostOnce;
        let count = subscriptions.iter().filter(fits).count();
        // The last member may have left while the message was underway: it is lost then, as any of QoS 0 may be.
        let chosen = (count > 0).then(|| draw.pick(count).0);
        let Some(member) = chosen.and_then(|at| subscriptions.iter().filter(fits).nth(at)) else { continue };
        if let Some(member) = LocalMatch::combine(&[*member]) {
            out.push((member.conn, member.others.delivery(message)));
        }
    }
}
