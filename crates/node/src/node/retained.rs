//! Reading retained messages for new subscriptions.
//!
//! Owns: the reads of this node's connections, page by page from each partition, and as leader the queries that wait
//! for a proof of leadership. Does not: store retained messages.
//! Invariants: a page is read only after a leadership proof that began after the query came, so a SUBSCRIBE sent
//! after the retained PUBACK sees that value or a newer one.
//! Limits: one page of `RETAINED_PAGE_MESSAGES_MAX` and `RETAINED_PAGE_BYTES_MAX` for each connection is underway; the
//! next is asked for when the client has taken it, or the stream to its session's partition has room. From
//! `RETAINED_READS_QUEUED_MAX` on a connection's SUBACKs wait, and with them its reading. Spec: contract D9, MQTT 5 3.3.1.3.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_codec::{QoS, TopicFilter, TopicName};
use quorate_state::command::{Command, SubscribeFilter};
use quorate_state::hash::partition_of_topic;
use quorate_state::{ConnId, GroupId, Incarnation, LogIndex, Message, NodeId, StreamId, StreamSeq};

use super::Node;
use super::clients::Op;
use super::retained_bounds::Bounds;
use crate::consensus::group::Group;
use crate::edge::ClientEvent;
use crate::limits::{RETAINED_PAGE_BYTES_MAX, RETAINED_PAGE_MESSAGES_MAX, RETAINED_READS_QUEUED_MAX};
use crate::peer::PeerMessage;

/// A query without an answer is asked again after this time: its leader may have gone.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// Low bits of a query's number that count; the incarnation is above. More than one incarnation can ask.
const QUERY_BITS: u32 = 40;

/// A read for one subscription, going through partitions one after the other.
#[derive(Debug)]
struct Read {
    subscription: SubscribeFilter,
    partitions: VecDeque<GroupId>,
    after: Option<TopicName>,
    bounds: Bounds,
}

/// The reads of one connection: one is underway, the others wait for it in order.
#[derive(Debug)]
struct Reads {
    current: Read,
    /// Number of the question for the next page. Each page has its own, so that the answer to a question asked twice is
    /// taken once.
    query: u64,
    /// When it was asked; `None` while the client still has to take the page before.
    asked_at: Option<Duration>,
    queued: VecDeque<(SubscribeFilter, Bounds)>,
}

/// A query at the leader.
#[derive(Debug)]
struct Query {
    from: NodeId,
    query: u64,
    wanted: Wanted,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Wanted {
    /// The position up to which everything acknowledged by now is.
    Bound,
    /// A page.
    Page {
        /// Matching topics.
        filter: TopicFilter,
        /// After this one.
        after: Option<TopicName>,
        /// Nothing that came after this position.
        until: LogIndex,
    },
}

/// All reads and queries.
#[derive(Debug, Default)]
pub(super) struct RetainedReads {
    next: u64,
    connections: BTreeMap<ConnId, Reads>,
    /// Which connection a question is for.
    queries: BTreeMap<u64, ConnId>,
    waiting: BTreeMap<GroupId, Vec<Query>>,
    in_round: BTreeMap<(GroupId, u64), Vec<Query>>,
}

impl RetainedReads {
    pub(super) fn leadership_ended(&mut self, group: GroupId) {
        self.waiting.remove(&group);
        self.in_round.retain(|(of, _), _| *of != group);
    }

    pub(super) fn connection_closed(&mut self, conn: ConnId) {
        if let Some(reads) = self.connections.remove(&conn) {
            self.queries.remove(&reads.query);
        }
    }

    /// Whether so many reads of a connection wait that its next SUBACK has to wait too.
    pub(super) fn is_full(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|reads| reads.queued.len() >= RETAINED_READS_QUEUED_MAX)
    }
}

impl Node {
    /// Starts reads for subscriptions that are now in force.
    pub(super) fn read_retained(
        &mut self,
        conn: ConnId,
        subscriptions: Vec<SubscribeFilter>,
        bounds: &Bounds,
        now: Duration,
    ) {
        let subscriptions = subscriptions.into_iter().map(|subscription| (subscription, Arc::clone(bounds)));
        if let Some(reads) = self.retained.connections.get_mut(&conn) {
            reads.queued.extend(subscriptions);
            return;
        }
        let mut queued: VecDeque<_> = subscriptions.collect();
        let Some(first) = queued.pop_front() else { return };
        let current = self.new_read(first);
        let query = self.next_query();
        self.retained.connections.insert(conn, Reads { current, query, asked_at: None, queued });
        self.retained.queries.insert(query, conn);
        self.ask(conn, now);
    }

    fn new_read(&self, (subscription, bounds): (SubscribeFilter, Bounds)) -> Read {
        let partitions = self.partitions_of(&subscription.filter).into();
        Read { subscription, partitions, after: None, bounds }
    }

    /// Where retained messages of matching topics may be.
    pub(super) fn partitions_of(&self, filter: &TopicFilter) -> Vec<GroupId> {
        let count = self.config.cluster.partitions;
        if filter.as_str().contains(['+', '#']) {
            (1..=count).map(GroupId).collect()
        } else {
            vec![partition_of_topic(filter.as_str(), count)]
        }
    }

    /// A number that no earlier incarnation has used: an answer may come late.
    pub(super) fn next_query(&mut self) -> u64 {
        self.retained.next += 1;
        (self.incarnation.0 << QUERY_BITS) | self.retained.next
    }

    /// Asks for the next page, or puts that off while the session's partition takes no more.
    fn ask(&mut self, conn: ConnId, now: Duration) {
        let home = self.connections.all.get(&conn).map(|connection| connection.group);
        let stream = home.and_then(|group| self.streams.get(&group));
        let full = stream.is_some_and(|stream| stream.bytes() > self.config.memory.stream_bytes_max / 2);
        let Some(reads) = self.retained.connections.get_mut(&conn) else { return };
        reads.asked_at = Some(now);
        let Some(group) = reads.current.partitions.front().copied().filter(|_| !full) else { return };
        let query = reads.query;
        let (filter, after) = (reads.current.subscription.filter.clone(), reads.current.after.clone());
        let until = reads.current.bounds.get(&group).copied().unwrap_or(LogIndex(u64::MAX));
        if let Some(leader) = self.leader_of(group) {
            self.send(leader, PeerMessage::RetainedQuery { group, query, filter, after, until });
        }
    }

    pub(super) fn tick_retained(&mut self, now: Duration) {
        let late = |reads: &Reads| {
            reads.asked_at.is_some_and(|asked_at| now.saturating_sub(asked_at) >= ASK_AGAIN_AFTER)
        };
        let connections = self.retained.connections.iter();
        let late: Vec<ConnId> = connections.filter(|(_, reads)| late(reads)).map(|(conn, _)| *conn).collect();
        for conn in late {
            self.ask(conn, now);
        }
    }

    /// The client has taken the page: on with the next.
    pub(super) fn retained_taken(&mut self, conn: ConnId, now: Duration) {
        if self.retained.connections.get(&conn).is_some_and(|reads| reads.asked_at.is_none()) {
            self.ask(conn, now);
        }
    }

    /// As leader: a query arrives. Who does not lead says so: a node without a replica of the group has nothing else to find
    /// its leader by, and asks again there.
    pub(super) fn retained_asked(&mut self, from: NodeId, group: GroupId, query: u64, wanted: Wanted) {
        if !self.groups.get(&group).is_some_and(Group::is_leading) {
            let leader = self.groups.get(&group).and_then(Group::leader).filter(|leader| *leader != self.id);
            // Of no stream: only the hint counts.
            let stream = StreamId::Node(from, Incarnation(0));
            self.send(from, PeerMessage::StreamReject { group, stream, expected: StreamSeq(0), leader });
            return;
        }
        let queries = self.retained.waiting.entry(group).or_default();
        queries.retain(|known| known.from != from || known.query != query);
        queries.push(Query { from, query, wanted });
    }

    /// As leader: starts one proof for all queries that have come since the last.
    pub(super) fn start_retained_rounds(&mut self) {
        for (id, queries) in std::mem::take(&mut self.retained.waiting) {
            if let Some(round) = self.groups.get_mut(&id).and_then(Group::prove_leadership) {
                self.retained.in_round.insert((id, round), queries);
            }
        }
    }

    /// As leader: the proof is there, answer.
    pub(super) fn retained_round_done(&mut self, id: GroupId, round: u64) {
        for Query { from, query, wanted } in self.retained.in_round.remove(&(id, round)).unwrap_or_default() {
            let Some(group) = self.groups.get(&id) else { return };
            let Some(partition) = group.machine().partition() else { return };
            let Wanted::Page { filter, after, until } = wanted else {
                let index = partition.applied();
                self.send(from, PeerMessage::RetainedBound { query, index });
                continue;
            };
            // An idle partition's own time stands still: what has expired meanwhile is judged by the leader's.
            let stamp = group.stamp(self.now);
            let mut page =
                partition.retained(&filter, after.as_ref(), RETAINED_PAGE_MESSAGES_MAX, stamp, until);
            let fits = messages_that_fit(page.iter().map(|(_, message, _)| message.bytes as usize));
            let full = page.len() >= RETAINED_PAGE_MESSAGES_MAX || fits < page.len();
            page.truncate(fits);
            let next = page.last().filter(|_| full).map(|(topic, ..)| topic.clone());
            let messages: Vec<(Bytes, Option<u32>)> = page
                .into_iter()
                .filter_map(|(_, message, expiry_s)| Some((self.body(id, message)?, expiry_s)))
                .collect();
            self.send(from, PeerMessage::RetainedPage { query, messages, next });
        }
    }

    /// A page arrives.
    pub(super) fn retained_page(
        &mut self,
        query: u64,
        messages: Vec<(Bytes, Option<u32>)>,
        next: Option<TopicName>,
        now: Duration,
    ) {
        let Some(conn) = self.retained.queries.remove(&query) else { return };
        let Some(reads) = self.retained.connections.get_mut(&conn) else { return };
        let subscription = reads.current.subscription.clone();
        reads.current.after = next;
        if reads.current.after.is_none() {
            reads.current.partitions.pop_front();
        }
        let done = reads.current.partitions.is_empty();
        let following = if done { reads.queued.pop_front() } else { None };
        let direct = self.give_retained(conn, &subscription, messages);
        match following.map(|subscription| self.new_read(subscription)) {
            None if done => {
                self.retained.connections.remove(&conn);
                return;
            }
            following => self.next_page(conn, following),
        }
        if direct {
            // Asked for when the client has room: a client that does not read must not gather all that is retained.
            self.client(conn, ClientEvent::RetainedGiven);
        } else {
            self.ask(conn, now);
        }
        if done {
            // A SUBACK may have waited for this read to end.
            self.finish_waiting(now);
        }
    }

    /// Gives the next page its number.
    fn next_page(&mut self, conn: ConnId, read: Option<Read>) {
        let query = self.next_query();
        let Some(reads) = self.retained.connections.get_mut(&conn) else { return };
        reads.query = query;
        reads.asked_at = None;
        if let Some(read) = read {
            reads.current = read;
        }
        self.retained.queries.insert(query, conn);
    }

    /// Hands retained messages to the connection, or to its durable session when they need an acknowledgement. Whether
    /// some went to the connection.
    fn give_retained(
        &mut self,
        conn: ConnId,
        subscription: &SubscribeFilter,
        messages: Vec<(Bytes, Option<u32>)>,
    ) -> bool {
        let Some(connection) = self.connections.all.get(&conn) else { return false };
        let group = connection.group;
        let Some(held) = connection.held.clone() else { return false };
        let mut durable = Vec::new();
        let mut direct = false;
        for (body, expiry_s) in messages {
            let Ok(mut message) = Message::decode(&body) else { continue };
            let qos = message.qos.min(subscription.options.qos);
            if held.durable && qos > QoS::AtMostOnce {
                message.expiry_s = expiry_s;
                durable.push((qos, subscription.identifier, message));
            } else {
                let identifier = subscription.identifier;
                direct = true;
                self.client(conn, ClientEvent::Retained { qos, identifier, expiry_s, message });
            }
        }
        if !durable.is_empty() {
            let command = Command::Enqueue { session: held.session, epoch: held.epoch, messages: durable };
            self.push(group, &command, Op::Quiet);
        }
        direct
    }
}

/// How many messages of these sizes make a page: as many as fit, at least one.
fn messages_that_fit(sizes: impl Iterator<Item = usize>) -> usize {
    let sums = sizes.scan(0_usize, |sum, size| {
        *sum = sum.saturating_add(size);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= RETAINED_PAGE_BYTES_MAX).count().max(1)
}
