//! What this node's replicas say of many things at once: sessions, subscriptions, retained messages, queues.
//!
//! Owns: the walks over the replicas here, in one order over all partitions asked for, and their bounds.
//! Does not: ask other nodes or go on by itself: a slice says where the next one begins.
//! Invariants: reading changes nothing; a slice is complete up to its `resume`; the slices of one walk, one after the
//! other, list everything that was there all the time, once.
//! Limits: LISTING_EXAMINED_MAX, LISTING_BYTES_MAX, LISTING_BODIES_MAX for one slice, besides what the asker says.

use core::time::Duration;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

use quorate_codec::{Text, TopicFilter, TopicName};
use quorate_state::command::SubscribeFilter;
use quorate_state::hash::partition_of_topic;
use quorate_state::{
    BatchView, GroupId, LogIndex, Message, NodeId, Owner, Partition, SessionId, SessionInfo, SessionRef,
};

use super::Node;
use crate::limits::{LISTING_BODIES_MAX, LISTING_BYTES_MAX, LISTING_EXAMINED_MAX};

/// A piece of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice<T, K> {
    /// What was found, in order.
    pub rows: Vec<T>,
    /// Everything up to this key was looked at, and there may be more; `None` at the end.
    pub resume: Option<K>,
}

/// Where a group can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlace {
    /// Group.
    pub group: GroupId,
    /// A replica here that has the state of the group, or had it once.
    pub here: bool,
    /// That replica leads.
    pub leading: bool,
    /// Its leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Nodes with a replica, as control placed them.
    pub replicas: Vec<NodeId>,
}

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Client identifiers that begin with this.
    pub prefix: String,
    /// With a connection, or without.
    pub online: Option<bool>,
    /// With at least so many queued messages.
    pub min_queued: u64,
    /// With a connection on this node.
    pub node: Option<NodeId>,
}

impl SessionFilter {
    fn fits(&self, session: &SessionRef<'_>) -> bool {
        let owner = session.owner();
        self.online.is_none_or(|online| online == owner.is_some())
            && session.queued_messages() >= self.min_queued
            && self.node.is_none_or(|node| owner.is_some_and(|owner| owner.node == node))
    }
}

/// Which subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionFilter {
    /// Of this client.
    pub client_id: Option<String>,
    /// With this filter, letter by letter.
    pub filter: Option<TopicFilter>,
    /// That match this topic.
    pub matches: Option<TopicName>,
}

impl SubscriptionFilter {
    /// Whether a subscription with this filter is one of them.
    #[must_use]
    pub fn fits(&self, filter: &TopicFilter) -> bool {
        self.filter.as_ref().is_none_or(|wanted| wanted == filter)
            && self.matches.as_ref().is_none_or(|topic| filter.matches(topic))
    }
}

/// A subscription, or where those of a session are.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionRow {
    /// Client identifier.
    pub client_id: String,
    /// Connection that holds the session.
    pub owner: Option<Owner>,
    /// The subscription of a durable session; `None` for a transient one, whose connection's node has its subscriptions.
    pub subscription: Option<SubscribeFilter>,
}

/// Place in a list of subscriptions: a client, and the last filter of it unless it is done with.
pub type SubscriptionKey = (String, Option<TopicFilter>);

/// A retained message without its payload.
#[derive(Clone, Debug, PartialEq)]
pub struct RetainedRow {
    /// The message; `None` when its body cannot be read here.
    pub message: Option<Message>,
    /// Topic.
    pub topic: TopicName,
    /// Remaining lifetime in seconds.
    pub expiry_s: Option<u32>,
}

/// How the messages of a session wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BacklogRow {
    /// Home partition.
    pub partition: GroupId,
    /// Client identifier.
    pub client_id: String,
    /// Connection that holds it.
    pub owner: Option<Owner>,
    /// Queued messages.
    pub queued_messages: u64,
    /// Queued bytes.
    pub queued_bytes: u64,
    /// Messages sent and not acknowledged.
    pub sent: u64,
    /// Most of them.
    pub window: u16,
    /// Messages dropped for it.
    pub dropped: u64,
    /// Entry of the message queued first.
    pub oldest_queued: Option<LogIndex>,
    /// Entry of the first unacknowledged message.
    pub oldest_inflight: Option<LogIndex>,
}

/// By what the longest are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogOrder {
    /// All sessions with queued messages, most first.
    Queued,
    /// Durable sessions with a connection that has not acknowledged what it was sent: those for which most waits first.
    Unacknowledged,
}

/// Rank, client identifier, home partition and number of a session: the first by rank and then by client is the largest.
type Ranked<'a> = ((u64, u64), Reverse<&'a str>, GroupId, SessionId);

impl BacklogOrder {
    /// How a session ranks; `None` when it does not count.
    fn rank(self, session: &SessionRef<'_>) -> Option<(u64, u64)> {
        let (queued, sent) = (session.queued_messages(), session.sent() as u64);
        let counts = match self {
            BacklogOrder::Queued => queued > 0,
            BacklogOrder::Unacknowledged => session.durable() && session.owner().is_some() && sent > 0,
        };
        counts.then_some((queued, sent))
    }
}

impl Node {
    /// Nodes with their names, as control knows them.
    pub fn names(&self) -> impl Iterator<Item = (NodeId, &Text)> {
        self.control().into_iter().flat_map(|control| control.nodes().map(|(node, _)| (node.id, &node.name)))
    }

    /// Client identifiers of sessions; `None` for one that is gone, or whose partition has no replica here.
    pub fn client_ids(&self, sessions: &[(GroupId, SessionId)]) -> Vec<Option<String>> {
        let client_id = |(group, session): &(GroupId, SessionId)| {
            Some(self.readable(*group)?.at(*session)?.client_id().to_owned())
        };
        sessions.iter().map(client_id).collect()
    }

    /// Where each partition can be read.
    pub fn places(&self) -> Vec<GroupPlace> {
        let Some(control) = self.control() else { return Vec::new() };
        let place = |number: u32| {
            let id = GroupId(number);
            let group = self.groups.get(&id);
            GroupPlace {
                group: id,
                here: self.readable(id).is_some(),
                leading: group.is_some_and(|group| group.is_leading()),
                leader: self.leader_of(id),
                replicas: control.placement(id).to_vec(),
            }
        };
        (1..=control.config().partitions).map(place).collect()
    }

    /// A partition with a replica here that has had a state.
    fn readable(&self, id: GroupId) -> Option<&Partition> {
        let group = self.groups.get(&id)?;
        group.machine().partition().filter(|_| group.applied() > LogIndex(0))
    }

    /// Sessions of these groups in byte order of client identifiers, from a bound on.
    fn walk(&self, groups: &[GroupId], from: Bound<&str>) -> impl Iterator<Item = (GroupId, SessionRef<'_>)> {
        let sources = groups.iter().filter_map(|id| Some((*id, self.readable(*id)?.walk(from))));
        Merged::new(sources.collect())
    }

    /// Up to `max` sessions of these groups, after a client identifier.
    pub fn list_sessions(
        &self,
        groups: &[GroupId],
        filter: &SessionFilter,
        after: Option<&str>,
        max: usize,
    ) -> Slice<(GroupId, SessionInfo), String> {
        let prefix = filter.prefix.as_str();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut bounds = Bounds::new(max);
        let mut rows = Vec::new();
        for (group, session) in self.walk(groups, from) {
            let client_id = session.client_id();
            if !client_id.starts_with(prefix) {
                break;
            }
            if filter.fits(&session) {
                rows.push((group, session.info()));
                bounds.row(client_id.len());
            }
            if bounds.examined() {
                return Slice { rows, resume: Some(client_id.to_owned()) };
            }
        }
        Slice { rows, resume: None }
    }

    /// Up to `max` subscriptions of these groups, by client identifier and filter.
    pub fn list_subscriptions(
        &self,
        groups: &[GroupId],
        filter: &SubscriptionFilter,
        after: Option<&SubscriptionKey>,
        max: usize,
    ) -> Slice<SubscriptionRow, SubscriptionKey> {
        let from = match (after, &filter.client_id) {
            (Some((client_id, Some(_))), _) => Bound::Included(client_id.as_str()),
            (Some((client_id, None)), _) => Bound::Excluded(client_id.as_str()),
            (None, Some(client_id)) => Bound::Included(client_id.as_str()),
            (None, None) => Bound::Unbounded,
        };
        let mut bounds = Bounds::new(max);
        let mut rows = Vec::new();
        for (_, session) in self.walk(groups, from) {
            let client_id = session.client_id();
            if filter.client_id.as_ref().is_some_and(|wanted| wanted != client_id) {
                break;
            }
            let row = |subscription| SubscriptionRow {
                client_id: client_id.to_owned(),
                owner: session.owner(),
                subscription,
            };
            if session.durable() {
                let seen =
                    after.filter(|(seen, _)| seen == client_id).and_then(|(_, filter)| filter.as_ref());
                for subscription in session.subscriptions_after(seen) {
                    let key = (client_id.to_owned(), Some(subscription.filter.clone()));
                    if filter.fits(&subscription.filter) {
                        bounds.row(client_id.len() + subscription.filter.as_str().len());
                        rows.push(row(Some(subscription)));
                    }
                    if bounds.examined() {
                        return Slice { rows, resume: Some(key) };
                    }
                }
            } else if session.owner().is_some() {
                bounds.row(client_id.len());
                rows.push(row(None));
            }
            if bounds.examined() {
                return Slice { rows, resume: Some((client_id.to_owned(), None)) };
            }
        }
        Slice { rows, resume: None }
    }

    /// Up to `max` retained messages of these groups, by topic.
    pub fn list_retained(
        &self,
        groups: &[GroupId],
        filter: &TopicFilter,
        after: Option<&TopicName>,
        max: usize,
        now: Duration,
    ) -> Slice<RetainedRow, TopicName> {
        let max = max.clamp(1, LISTING_BODIES_MAX);
        let wanted = self.partitions_of(filter);
        let groups: Vec<GroupId> = groups.iter().copied().filter(|group| wanted.contains(group)).collect();
        let each = (LISTING_EXAMINED_MAX / groups.len().max(1)).max(max);
        let mut resume: Option<TopicName> = None;
        let mut items = Vec::new();
        for id in groups {
            let (Some(partition), Some(group)) = (self.readable(id), self.groups.get(&id)) else { continue };
            let slice = partition.retained_slice(filter, after, max, each, group.stamp(now));
            items.extend(slice.items.into_iter().map(|item| (id, item)));
            resume = earlier(resume, slice.resume);
        }
        items.sort_by(|(_, left), (_, right)| left.0.as_str().cmp(right.0.as_str()));
        if let Some(resume) = &resume {
            items.retain(|(_, item)| item.0.as_str() <= resume.as_str());
        }
        let mut rows: Vec<RetainedRow> = Vec::new();
        let mut bytes = 0;
        for (group, (topic, message, expiry_s)) in items {
            if rows.len() == max || bytes >= LISTING_BYTES_MAX {
                let last = rows.last().map(|row| row.topic.clone());
                return Slice { rows, resume: last };
            }
            bytes += usize::try_from(message.bytes).unwrap_or(usize::MAX);
            let message = self.body(group, message).and_then(|body| Message::decode(&body).ok());
            rows.push(RetainedRow { message, topic, expiry_s });
        }
        Slice { rows, resume }
    }

    /// The retained message of a topic, as the replica here has it; the outer `None` when there is no replica here.
    pub fn retained_message(&self, topic: &TopicName, now: Duration) -> Option<Option<RetainedRow>> {
        let group = partition_of_topic(topic.as_str(), self.config.cluster.partitions);
        self.readable(group)?;
        let filter = TopicFilter::new(topic.text().clone()).ok()?;
        Some(self.list_retained(&[group], &filter, None, 1, now).rows.into_iter().next())
    }

    /// The `top` first sessions of these groups in an order, among the next ones after a client identifier: to be merged with
    /// those of the other slices.
    pub fn list_backlogs(
        &self,
        groups: &[GroupId],
        order: BacklogOrder,
        after: Option<&str>,
        top: usize,
    ) -> Slice<BacklogRow, String> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bounds = Bounds::new(usize::MAX);
        let mut best: BinaryHeap<Reverse<Ranked<'_>>> = BinaryHeap::new();
        let mut resume = None;
        for (group, session) in self.walk(groups, from) {
            if let Some(rank) = order.rank(&session) {
                best.push(Reverse((rank, Reverse(session.client_id()), group, session.id())));
                if best.len() > top {
                    best.pop();
                }
            }
            if bounds.examined() {
                resume = Some(session.client_id().to_owned());
                break;
            }
        }
        let rows = best.into_sorted_vec().into_iter().filter_map(|Reverse((_, _, group, id))| {
            let session = self.readable(group)?.at(id)?;
            Some(backlog(group, &session))
        });
        Slice { rows: rows.collect(), resume }
    }

    /// How many milliseconds ago, in replicated time, these entries were written; `None` for one of a group that this node
    /// does not lead, whose time may stand still here, or that cannot be read here. Reads one entry for each: at most
    /// `LISTING_BODIES_MAX`, the others stay unknown.
    pub fn entry_ages(&self, entries: &[(GroupId, LogIndex)], now: Duration) -> Vec<Option<u64>> {
        let age = |(place, (id, index)): (usize, &(GroupId, LogIndex))| {
            let group =
                self.groups.get(id).filter(|group| place < LISTING_BODIES_MAX && group.is_leading())?;
            let data = group.body(*index)?;
            let stamp = BatchView::new(&data).ok()?.stamp();
            Some(group.stamp(now).0.saturating_sub(stamp.0))
        };
        entries.iter().enumerate().map(age).collect()
    }
}

fn backlog(partition: GroupId, session: &SessionRef<'_>) -> BacklogRow {
    BacklogRow {
        partition,
        client_id: session.client_id().to_owned(),
        owner: session.owner(),
        queued_messages: session.queued_messages(),
        queued_bytes: session.queued_bytes(),
        sent: session.sent() as u64,
        window: session.window(),
        dropped: session.dropped(),
        oldest_queued: session.oldest_queued(),
        oldest_inflight: session.oldest_inflight(),
    }
}

/// The one that comes first; a `None` is the end, behind all.
fn earlier(left: Option<TopicName>, right: Option<TopicName>) -> Option<TopicName> {
    match (left, right) {
        (Some(left), Some(right)) => Some(if left.as_str() <= right.as_str() { left } else { right }),
        (left, right) => left.or(right),
    }
}

/// How much a slice has taken.
struct Bounds {
    examined: usize,
    rows: usize,
    rows_max: usize,
    bytes: usize,
}

impl Bounds {
    fn new(rows_max: usize) -> Bounds {
        Bounds { examined: 0, rows: 0, rows_max: rows_max.max(1), bytes: 0 }
    }

    /// A row was taken whose texts have so many bytes.
    fn row(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes;
    }

    /// One more was looked at. Whether the slice ends with it.
    fn examined(&mut self) -> bool {
        self.examined += 1;
        self.examined >= LISTING_EXAMINED_MAX || self.rows >= self.rows_max || self.bytes >= LISTING_BYTES_MAX
    }
}

/// Sessions of several partitions as one sequence.
struct Merged<'a, I> {
    sources: Vec<Source<'a, I>>,
    /// The first session of each source that has one.
    firsts: BinaryHeap<Reverse<(&'a str, usize)>>,
}

struct Source<'a, I> {
    group: GroupId,
    first: Option<SessionRef<'a>>,
    rest: I,
}

impl<'a, I: Iterator<Item = SessionRef<'a>>> Merged<'a, I> {
    fn new(sources: Vec<(GroupId, I)>) -> Self {
        let first = |(group, mut rest): (GroupId, I)| Source { group, first: rest.next(), rest };
        let sources: Vec<Source<'a, I>> = sources.into_iter().map(first).collect();
        let firsts = sources.iter().enumerate();
        let firsts = firsts.filter_map(|(at, source)| Some(Reverse((source.first?.client_id(), at))));
        let firsts = firsts.collect();
        Merged { sources, firsts }
    }
}

impl<'a, I: Iterator<Item = SessionRef<'a>>> Iterator for Merged<'a, I> {
    type Item = (GroupId, SessionRef<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((_, at)) = self.firsts.pop()?;
        let source = self.sources.get_mut(at)?;
        let taken = std::mem::replace(&mut source.first, source.rest.next())?;
        if let Some(next) = source.first {
            self.firsts.push(Reverse((next.client_id(), at)));
        }
        Some((source.group, taken))
    }
}
