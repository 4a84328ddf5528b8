//! Reading retained messages for new subscriptions.
//!
//! Owns: the reads of this node's connections, page by page from each partition, and as leader the queries that wait
//! for a proof of leadership. Does not: store retained messages.
//! Invariants: a page is read only after a leadership proof that began after the query came, so a SUBSCRIBE sent
//! after the retained PUBACK sees that value or a newer one.
//! Limits: one page of `RETAINED_PAGE_MESSAGES_MAX` per read is underway. Spec: contract D9, MQTT 5 3.3.1.3.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_codec::{QoS, TopicFilter, TopicName};
use quorate_state::command::{Command, SubscribeFilter};
use quorate_state::hash::partition_of_topic;
use quorate_state::{ConnId, GroupId, Message, NodeId};

use super::Node;
use super::clients::Op;
use crate::consensus::group::Group;
use crate::edge::ClientEvent;
use crate::limits::RETAINED_PAGE_MESSAGES_MAX;
use crate::peer::PeerMessage;

/// A query without an answer is asked again after this time: its leader may have gone.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// Low bits of a query's number that count; the incarnation is above. More than one incarnation can ask.
const QUERY_BITS: u32 = 40;

/// A read for one subscription, going through partitions one after the other.
#[derive(Debug)]
struct Read {
    conn: ConnId,
    subscription: SubscribeFilter,
    partitions: VecDeque<GroupId>,
    after: Option<TopicName>,
    asked_at: Duration,
}

/// A query at the leader.
#[derive(Debug)]
struct Query {
    from: NodeId,
    query: u64,
    filter: TopicFilter,
    after: Option<TopicName>,
}

/// All reads and queries.
#[derive(Debug, Default)]
pub(super) struct RetainedReads {
    next: u64,
    reads: BTreeMap<u64, Read>,
    /// Reads that wait for an earlier one of the same connection, in order.
    queued: VecDeque<(ConnId, SubscribeFilter)>,
    waiting: BTreeMap<GroupId, Vec<Query>>,
    in_round: BTreeMap<(GroupId, u64), Vec<Query>>,
}

impl RetainedReads {
    pub(super) fn leadership_ended(&mut self, group: GroupId) {
        self.waiting.remove(&group);
        self.in_round.retain(|(of, _), _| *of != group);
    }

    pub(super) fn connection_closed(&mut self, conn: ConnId) {
        self.reads.retain(|_, read| read.conn != conn);
        self.queued.retain(|(of, _)| *of != conn);
    }
}

impl Node {
    /// Starts reads for subscriptions that are now in force.
    pub(super) fn read_retained(&mut self, conn: ConnId, subscriptions: Vec<SubscribeFilter>, now: Duration) {
        let busy = self.retained.reads.values().any(|read| read.conn == conn);
        self.retained.queued.extend(subscriptions.into_iter().map(|subscription| (conn, subscription)));
        if !busy {
            self.next_read(conn, now);
        }
    }

    fn next_read(&mut self, conn: ConnId, now: Duration) {
        let Some(place) = self.retained.queued.iter().position(|(of, _)| *of == conn) else { return };
        let Some((_, subscription)) = self.retained.queued.remove(place) else { return };
        let filter = subscription.filter.as_str();
        let count = self.config.cluster.partitions;
        let partitions: VecDeque<GroupId> = if filter.contains(['+', '#']) {
            (1..=count).map(GroupId).collect()
        } else {
            [partition_of_topic(filter, count)].into()
        };
        let query = self.next_query();
        self.retained
            .reads
            .insert(query, Read { conn, subscription, partitions, after: None, asked_at: now });
        self.ask(query, now);
    }

    /// A number that no earlier incarnation has used: an answer may come late.
    fn next_query(&mut self) -> u64 {
        self.retained.next += 1;
        (self.incarnation.0 << QUERY_BITS) | self.retained.next
    }

    fn ask(&mut self, query: u64, now: Duration) {
        let Some(read) = self.retained.reads.get_mut(&query) else { return };
        read.asked_at = now;
        let Some(group) = read.partitions.front().copied() else { return };
        let (filter, after) = (read.subscription.filter.clone(), read.after.clone());
        if let Some(leader) = self.leader_of(group) {
            self.send(leader, PeerMessage::RetainedQuery { group, query, filter, after });
        }
    }

    pub(super) fn tick_retained(&mut self, now: Duration) {
        let late: Vec<u64> = self
            .retained
            .reads
            .iter()
            .filter(|(_, read)| now.saturating_sub(read.asked_at) >= ASK_AGAIN_AFTER)
            .map(|(query, _)| *query)
            .collect();
        for query in late {
            self.ask(query, now);
        }
    }

    /// As leader: a query arrives.
    pub(super) fn retained_asked(
        &mut self,
        from: NodeId,
        group: GroupId,
        query: u64,
        filter: TopicFilter,
        after: Option<TopicName>,
    ) {
        if self.groups.get(&group).is_some_and(Group::is_leading) {
            let queries = self.retained.waiting.entry(group).or_default();
            queries.retain(|known| known.from != from || known.query != query);
            queries.push(Query { from, query, filter, after });
        }
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
        for Query { from, query, filter, after } in
            self.retained.in_round.remove(&(id, round)).unwrap_or_default()
        {
            let Some(partition) = self.groups.get(&id).and_then(|group| group.machine().partition()) else {
                return;
            };
            let page = partition.retained(&filter, after.as_ref(), RETAINED_PAGE_MESSAGES_MAX);
            let full = page.len() >= RETAINED_PAGE_MESSAGES_MAX;
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
        // Each page has its own number, so that the answer to a question asked twice is taken once.
        let Some(mut read) = self.retained.reads.remove(&query) else { return };
        self.give_retained(read.conn, &read.subscription, messages);
        read.after = next;
        if read.after.is_none() {
            read.partitions.pop_front();
        }
        let conn = read.conn;
        if read.partitions.is_empty() {
            self.next_read(conn, now);
            return;
        }
        let query = self.next_query();
        self.retained.reads.insert(query, read);
        self.ask(query, now);
    }

    /// Hands retained messages to the connection, or to its durable session when they need an acknowledgement.
    fn give_retained(
        &mut self,
        conn: ConnId,
        subscription: &SubscribeFilter,
        messages: Vec<(Bytes, Option<u32>)>,
    ) {
        let Some(connection) = self.connections.all.get(&conn) else { return };
        let group = connection.group;
        let Some(held) = connection.held.clone() else { return };
        let mut durable = Vec::new();
        for (body, expiry_s) in messages {
            let Ok(mut message) = Message::decode(&body) else { continue };
            let qos = message.qos.min(subscription.options.qos);
            if held.durable && qos > QoS::AtMostOnce {
                message.expiry_s = expiry_s;
                durable.push((qos, subscription.identifier, message));
            } else {
                let identifier = subscription.identifier;
                self.client(conn, ClientEvent::Retained { qos, identifier, expiry_s, message });
            }
        }
        if !durable.is_empty() {
            let command = Command::Enqueue { session: held.session, epoch: held.epoch, messages: durable };
            self.push(group, &command, Op::Quiet);
        }
    }
}
