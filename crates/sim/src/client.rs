//! A model client: an MQTT client by the book, driven by virtual time.
//!
//! Owns: its session's state: unacknowledged publishes, subscriptions it wants, acknowledgements it owes.
//! Does not: move bytes or know nodes beyond their number; the world carries out what it wants.
//! Invariants: unacknowledged publishes are sent again in order before new ones [MQTT-4.4.0-1]; PUBACKs leave in the
//! order of the messages [MQTT-4.6.0-2]; everything that a checker needs is recorded when it happens.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use bytes::Bytes;
use quorate_codec::{
    Ack, Connect, Disconnect, Packet, PacketId, ProtocolVersion, Publish, PublishQoS, QoS, ReasonCode,
    RetainHandling, Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName, Unsubscribe, Will,
};

use crate::marks::Mark;
use crate::oracle::{Conn, Delivery, Event, Filter, History, MessageId, Topic, WillSent};
use crate::payload;
use crate::random::Random;

/// Added to a client's number for its wills: their sequence is the connection's number.
pub const WILL: u32 = 0x2000_0000;

/// Added to a publisher's number for what it sends on a connection that was taken over.
pub const ZOMBIE: u32 = 0x4000_0000;

/// A message that waits for its PUBACK so long makes the client try another node.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(3500);

/// SUBACK does not take so long unless it waits for a node that does not answer.
const LONG_WAIT: Duration = Duration::from_millis(700);

/// What a client publishes.
#[derive(Clone, Debug)]
pub struct PublishPlan {
    /// Topics, one at random for each message.
    pub topics: Vec<Topic>,
    /// QoS.
    pub qos: QoS,
    /// To be retained.
    pub retain: bool,
    /// Deletions among retained messages, in a thousand.
    pub delete_permille: u32,
    /// Pause between messages, on average.
    pub every: Duration,
    /// Unacknowledged messages.
    pub window: usize,
}

/// What a client does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Client identifier.
    pub client_id: String,
    /// Version.
    pub version: ProtocolVersion,
    /// The session outlives connections.
    pub durable: bool,
    /// The session outlives connections by so many seconds; then it is not `durable`.
    pub expiry_s: Option<u32>,
    /// Publishes.
    pub publish: Option<PublishPlan>,
    /// Unacknowledged publishes are sent again on the next connection.
    pub resends: bool,
    /// Filters of the whole run.
    pub filters: Vec<Filter>,
    /// Filters that come and go.
    pub churn: Vec<Filter>,
    /// QoS of subscriptions.
    pub qos: QoS,
    /// Receive Maximum.
    pub receive_max: u16,
    /// Longest pause before an acknowledgement.
    pub ack_delay: Duration,
    /// Disconnects and connects anew after about this time.
    pub stay: Option<Duration>,
    /// Connects anew without closing the old connection, about this often.
    pub takeover: Option<Duration>,
    /// First packet identifier.
    pub first_packet_id: u16,
    /// Highest packet identifier that it uses before it begins with 1 again.
    pub packet_id_max: u16,
    /// When it connects first.
    pub starts_at: Duration,
    /// Connects with a will of this delay, in seconds; `None` for none.
    pub will_delay_s: Option<u32>,
    /// Reads the retained message of this topic once.
    pub final_read: Option<Topic>,
}

/// What a client wants done.
#[derive(Debug)]
pub enum Wish {
    /// Open a connection to a node, by its place.
    Connect { conn: Conn, node: usize },
    /// Send a packet.
    Send { conn: Conn, packet: Packet },
    /// Close the socket. What was sent last may be lost, unless it was DISCONNECT.
    Close { conn: Conn, said: bool },
    /// Wake after this time.
    Wake { after: Duration, timer: Timer },
}

/// Why a client wakes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Timer {
    /// Connect.
    Connect,
    /// Publish the next message.
    Publish,
    /// Look whether answers are late.
    Check(Conn),
    /// Acknowledge the oldest delivery.
    Ack(Conn),
    /// Add or drop a filter.
    Churn,
    /// Leave.
    Leave(Conn),
    /// Take the session over from itself.
    TakeOver(Conn),
    /// Publish on a connection that was taken over.
    Zombie(Conn),
    /// The final read has waited long enough.
    ReadEnds(Conn),
}

#[derive(Debug)]
struct Link {
    conn: Conn,
    open: bool,
    /// Since when something is unanswered.
    waiting_since: Option<Duration>,
    ping_sent: bool,
    acks: VecDeque<Answer>,
    /// What waits for SUBACK or UNSUBACK, and since when.
    pending: BTreeMap<u16, (Duration, Operation)>,
}

#[derive(Debug)]
enum Operation {
    Subscribe(Vec<Filter>),
    Unsubscribe(Filter),
}

/// What a client owes for a delivery.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// PUBACK.
    Acknowledged(PacketId),
    /// PUBREC.
    Received(PacketId),
    /// PUBCOMP.
    Completed(PacketId),
}

#[derive(Debug)]
struct Outgoing {
    id: MessageId,
    topic: Topic,
    packet_id: u16,
    empty: bool,
    /// PUBREC has come: from now on only PUBREL is sent.
    released: bool,
}

/// A client.
#[derive(Debug)]
pub struct ModelClient {
    /// Number in the run.
    pub number: u32,
    /// What it does.
    pub plan: Plan,
    random: Random,
    nodes: usize,
    link: Option<Link>,
    zombies: BTreeMap<Conn, VecDeque<(u16, MessageId)>>,
    seq: u64,
    zombie_seq: u64,
    packet_id: u16,
    /// Packet identifiers of publishes so far.
    packet_ids_used: BTreeSet<u16>,
    unacked: VecDeque<Outgoing>,
    /// QoS 2 messages that were received and not released.
    inbound: BTreeMap<u16, Option<MessageId>>,
    /// Filters it wants now.
    wanted: BTreeSet<Filter>,
    /// Filters that are subscribed for certain.
    subscribed: BTreeSet<Filter>,
    /// Filters whose UNSUBSCRIBE was not answered.
    leaving: BTreeSet<Filter>,
    publishing: bool,
    settled: bool,
    done: bool,
}

/// What a client may use while it acts.
pub struct Tools<'a> {
    /// Virtual time.
    pub now: Duration,
    /// The record.
    pub history: &'a mut History,
    /// The last connection number given out.
    pub conns: &'a mut u64,
    /// What it wants done.
    pub wishes: Vec<Wish>,
}

impl Tools<'_> {
    fn record(&mut self, event: Event) {
        self.history.push(self.now, event);
    }

    fn wake(&mut self, after: Duration, timer: Timer) {
        self.wishes.push(Wish::Wake { after, timer });
    }
}

impl ModelClient {
    /// A client that has not connected yet.
    pub fn new(number: u32, plan: Plan, random: Random, nodes: usize) -> Self {
        ModelClient {
            number,
            random,
            nodes,
            link: None,
            zombies: BTreeMap::new(),
            seq: 0,
            zombie_seq: 0,
            packet_id: plan.first_packet_id,
            packet_ids_used: BTreeSet::new(),
            unacked: VecDeque::new(),
            inbound: BTreeMap::new(),
            wanted: plan.filters.iter().copied().collect(),
            subscribed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            publishing: plan.publish.is_some(),
            settled: false,
            done: false,
            plan,
        }
    }

    /// Begins.
    pub fn start(&mut self, tools: &mut Tools<'_>) {
        tools.wake(self.plan.starts_at, Timer::Connect);
        if self.plan.publish.is_some() {
            tools.wake(self.plan.starts_at, Timer::Publish);
        }
        if !self.plan.churn.is_empty() {
            tools.wake(self.plan.starts_at, Timer::Churn);
        }
    }

    /// From now on nothing new: no publishes, no churn, no takeovers, no leaving.
    pub fn settle(&mut self) {
        self.publishing = false;
        self.settled = true;
        // A slow reader would only make the run longer.
        self.plan.ack_delay = Duration::ZERO;
    }

    /// Ends for good.
    pub fn finish(&mut self, tools: &mut Tools<'_>) {
        self.done = true;
        self.drop_link(tools);
    }

    /// Why it is not at rest; `None` when all it sent is answered and it is connected.
    pub fn restless(&self) -> Option<&'static str> {
        if self.done {
            return None;
        }
        let Some(link) = &self.link else { return Some("is not connected") };
        if !link.open {
            return Some("waits for CONNACK");
        }
        if !self.unacked.is_empty() {
            return Some("waits for PUBACK, PUBREC or PUBCOMP");
        }
        if !self.inbound.is_empty() {
            return Some("waits for PUBREL");
        }
        if !link.pending.is_empty() || self.subscribed != self.wanted {
            return Some("waits for SUBACK or UNSUBACK");
        }
        if !link.acks.is_empty() {
            return Some("has acknowledgements to send");
        }
        None
    }

    /// The connection it uses.
    pub fn connection(&self) -> Option<Conn> {
        self.link.as_ref().map(|link| link.conn)
    }

    /// The oldest unacknowledged publish.
    pub fn oldest_unacked(&self) -> Option<MessageId> {
        self.unacked.front().map(|outgoing| outgoing.id)
    }

    /// Whether the connection is one that the client still cares for.
    pub fn knows(&self, conn: Conn) -> bool {
        self.link.as_ref().is_some_and(|link| link.conn == conn) || self.zombies.contains_key(&conn)
    }

    fn next_packet_id(&mut self) -> PacketId {
        loop {
            let next = self.packet_id.checked_add(1).filter(|next| *next <= self.plan.packet_id_max);
            self.packet_id = next.unwrap_or(1);
            let used = self.unacked.iter().any(|outgoing| outgoing.packet_id == self.packet_id)
                || self.link.as_ref().is_some_and(|link| link.pending.contains_key(&self.packet_id));
            if let Some(id) = NonZeroU16::new(self.packet_id).filter(|_| !used) {
                return id;
            }
        }
    }

    /// A timer fires.
    pub fn wake(&mut self, timer: Timer, tools: &mut Tools<'_>) {
        if self.done {
            return;
        }
        match timer {
            Timer::Connect if self.link.is_none() => self.connect(tools),
            Timer::Connect => {}
            Timer::Publish => self.publish_timer(tools),
            Timer::Check(conn) if self.is_link(conn) => self.check(tools),
            Timer::Ack(conn) if self.is_link(conn) => self.acknowledge(tools),
            Timer::Churn => self.churn(tools),
            Timer::Leave(conn) if self.is_link(conn) && !self.settled => self.leave(tools),
            Timer::TakeOver(conn) if self.is_link(conn) && !self.settled => self.take_over(tools),
            Timer::Zombie(conn) => self.zombie_publish(conn, tools),
            Timer::ReadEnds(conn) if self.is_link(conn) => {
                if let Some(topic) = self.plan.final_read {
                    tools.record(Event::FinalRead { conn, topic });
                }
                self.finish(tools);
            }
            Timer::Check(_) | Timer::Ack(_) | Timer::Leave(_) | Timer::TakeOver(_) | Timer::ReadEnds(_) => {}
        }
    }

    fn is_link(&self, conn: Conn) -> bool {
        self.link.as_ref().is_some_and(|link| link.conn == conn)
    }

    fn connect(&mut self, tools: &mut Tools<'_>) {
        *tools.conns += 1;
        let conn = Conn(*tools.conns);
        let node = self.random.below(self.nodes);
        tools.wishes.push(Wish::Connect { conn, node });
        let clean = !self.plan.durable && self.plan.expiry_s.is_none();
        let will = self.plan.will_delay_s.map(|delay_s| WillSent {
            id: MessageId { publisher: self.number | WILL, seq: conn.0 },
            topic: Topic(0),
            delay: Duration::from_secs(u64::from(delay_s)),
        });
        let receive_max = NonZeroU16::new(self.plan.receive_max);
        let five = self.plan.version == ProtocolVersion::V5;
        let connect = Connect {
            version: self.plan.version,
            clean_start: clean,
            keep_alive_s: 0,
            client_id: text(&self.plan.client_id),
            will: will.map(|will| self.will_packet(will, tools)),
            username: None,
            password: None,
            session_expiry_s: self.plan.expiry_s.or((five && self.plan.durable).then_some(u32::MAX)),
            receive_max: receive_max.filter(|_| five),
            packet_bytes_max: None,
            topic_alias_max: None,
            request_response_information: None,
            request_problem_information: None,
            authentication_method: None,
            authentication_data: None,
            user_properties: Vec::new(),
        };
        tools.record(Event::ConnectSent { client: self.number, conn, clean, will });
        tools.wishes.push(Wish::Send { conn, packet: Packet::Connect(Box::new(connect)) });
        self.link = Some(Link {
            conn,
            open: false,
            waiting_since: Some(tools.now),
            ping_sent: false,
            acks: VecDeque::new(),
            pending: BTreeMap::new(),
        });
        tools.wake(Duration::from_millis(500), Timer::Check(conn));
    }

    fn will_packet(&self, will: WillSent, tools: &Tools<'_>) -> Will {
        let five = self.plan.version == ProtocolVersion::V5;
        let delay_s = u32::try_from(will.delay.as_secs()).unwrap_or(u32::MAX);
        Will {
            topic: tools.history.topics[usize::from(will.topic.0)].clone(),
            payload: payload::make(will.id),
            qos: QoS::ExactlyOnce,
            retain: false,
            delay_s: Some(delay_s).filter(|delay_s| five && *delay_s > 0),
            properties: Default::default(),
        }
    }

    /// Gives the connection up.
    fn drop_link(&mut self, tools: &mut Tools<'_>) {
        self.end_link(false, tools);
    }

    fn end_link(&mut self, said: bool, tools: &mut Tools<'_>) {
        let Some(link) = self.link.take() else { return };
        tools.record(Event::Lost { client: self.number, conn: link.conn });
        tools.wishes.push(Wish::Close { conn: link.conn, said });
        self.forget_pending(&link);
    }

    fn forget_pending(&mut self, link: &Link) {
        for (_, operation) in link.pending.values() {
            if let Operation::Unsubscribe(filter) = operation {
                self.leaving.insert(*filter);
            }
        }
        if !self.plan.durable {
            self.subscribed.clear();
            self.leaving.clear();
        }
    }

    fn leave(&mut self, tools: &mut Tools<'_>) {
        let mut said = false;
        if let Some(link) = self.link.as_ref().filter(|link| link.open)
            && self.plan.will_delay_s.is_some()
            && self.random.permille(500)
        {
            let conn = link.conn;
            tools.record(Event::DisconnectSent { client: self.number, conn });
            tools.wishes.push(Wish::Send { conn, packet: Packet::Disconnect(normal_disconnect()) });
            said = true;
        }
        self.end_link(said, tools);
        // Until a session has expired, or a delayed will is published, or not.
        let waits_s = self.plan.expiry_s.or(self.plan.will_delay_s.filter(|delay_s| *delay_s > 0));
        let away_max = waits_s.map_or(400, |waits_s| u64::from(waits_s) * 2200);
        let after = self.random.millis(5, away_max);
        tools.wake(after, Timer::Connect);
    }

    /// The other side closed.
    pub fn closed(&mut self, conn: Conn, tools: &mut Tools<'_>) {
        self.zombies.remove(&conn);
        if self.is_link(conn) {
            self.drop_link(tools);
            let after = self.random.millis(10, 300);
            tools.wake(after, Timer::Connect);
        }
    }

    fn check(&mut self, tools: &mut Tools<'_>) {
        let Some(link) = &mut self.link else { return };
        let conn = link.conn;
        if link.waiting_since.is_some_and(|since| tools.now.saturating_sub(since) > ANSWER_TIMEOUT) {
            self.leave(tools);
            return;
        }
        if link.open && link.waiting_since.is_none() && !link.ping_sent {
            link.ping_sent = true;
            link.waiting_since = Some(tools.now);
            tools.wishes.push(Wish::Send { conn, packet: Packet::PingReq });
        }
        tools.wake(Duration::from_millis(800), Timer::Check(conn));
    }

    /// Something was answered: is anything still owed?
    fn progress(&mut self, now: Duration) {
        let unacked = !self.unacked.is_empty();
        if let Some(link) = &mut self.link {
            let waits = unacked || !link.pending.is_empty() || link.ping_sent;
            link.waiting_since = waits.then_some(now);
        }
    }

    fn waits(&mut self, now: Duration) {
        if let Some(link) = &mut self.link {
            link.waiting_since.get_or_insert(now);
        }
    }

    fn publish_timer(&mut self, tools: &mut Tools<'_>) {
        let Some(plan) = self.plan.publish.clone() else { return };
        if !self.publishing {
            return;
        }
        let every = self.random.between(plan.every / 4, plan.every * 7 / 4);
        tools.wake(every, Timer::Publish);
        let open = self.link.as_ref().is_some_and(|link| link.open);
        if !open || self.unacked.len() >= plan.window {
            return;
        }
        self.seq += 1;
        let id = MessageId { publisher: self.number, seq: self.seq };
        let topic = *self.random.pick(&plan.topics);
        let empty = plan.retain && self.random.permille(plan.delete_permille);
        if plan.qos == QoS::AtMostOnce {
            self.send_publish(id, topic, None, false, empty, tools);
            return;
        }
        let packet_id = self.next_packet_id();
        if !self.packet_ids_used.insert(packet_id.get()) {
            tools.history.marks.hit(Mark::PacketIdWrapped);
        }
        self.unacked.push_back(Outgoing { id, topic, packet_id: packet_id.get(), empty, released: false });
        self.send_publish(id, topic, Some(packet_id), false, empty, tools);
        self.waits(tools.now);
    }

    fn send_publish(
        &mut self,
        id: MessageId,
        topic: Topic,
        packet_id: Option<PacketId>,
        dup: bool,
        empty: bool,
        tools: &mut Tools<'_>,
    ) {
        let Some(conn) = self.link.as_ref().map(|link| link.conn) else { return };
        let retain = self.plan.publish.as_ref().is_some_and(|plan| plan.retain);
        self.send_publish_on(conn, id, topic, packet_id, (dup, retain, empty), tools);
    }

    fn send_publish_on(
        &self,
        conn: Conn,
        id: MessageId,
        topic: Topic,
        packet_id: Option<PacketId>,
        (dup, retain, empty): (bool, bool, bool),
        tools: &mut Tools<'_>,
    ) {
        let exactly_once = self.plan.publish.as_ref().is_some_and(|plan| plan.qos == QoS::ExactlyOnce);
        let qos = match packet_id {
            None => PublishQoS::AtMostOnce,
            Some(packet_id) if exactly_once => PublishQoS::ExactlyOnce(packet_id),
            Some(packet_id) => PublishQoS::AtLeastOnce(packet_id),
        };
        let name = tools.history.topics[usize::from(topic.0)].clone();
        let payload = if empty { Bytes::new() } else { payload::make(id) };
        tools.record(Event::PublishSent { conn, id, topic, qos: qos.level() as u8, dup, retain, empty });
        let publish = Publish { dup, qos, retain, topic: Some(name), properties: None, payload };
        tools.wishes.push(Wish::Send { conn, packet: Packet::Publish(publish) });
    }

    fn churn(&mut self, tools: &mut Tools<'_>) {
        if self.settled {
            return;
        }
        let after = self.random.millis(150, 2500);
        tools.wake(after, Timer::Churn);
        let open = self.link.as_ref().is_some_and(|link| link.open && link.pending.is_empty());
        if !open {
            return;
        }
        let filter = *self.random.pick(&self.plan.churn);
        if self.wanted.remove(&filter) {
            self.unsubscribe(filter, tools);
        } else {
            self.wanted.insert(filter);
            self.subscribe(vec![filter], tools);
        }
    }

    fn subscribe(&mut self, filters: Vec<Filter>, tools: &mut Tools<'_>) {
        if filters.is_empty() {
            return;
        }
        let packet_id = self.next_packet_id();
        let Some(link) = &mut self.link else { return };
        let conn = link.conn;
        let options = SubscriptionOptions {
            qos: self.plan.qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        let names: Vec<(TopicFilter, SubscriptionOptions)> = filters
            .iter()
            .map(|filter| (tools.history.filters[usize::from(filter.0)].clone(), options))
            .collect();
        for filter in &filters {
            tools.record(Event::SubscribeSent { client: self.number, conn, filter: *filter });
        }
        link.pending.insert(packet_id.get(), (tools.now, Operation::Subscribe(filters)));
        let subscribe =
            Subscribe { packet_id, identifier: None, user_properties: Vec::new(), filters: names };
        tools.wishes.push(Wish::Send { conn, packet: Packet::Subscribe(subscribe) });
        self.waits(tools.now);
    }

    fn unsubscribe(&mut self, filter: Filter, tools: &mut Tools<'_>) {
        let packet_id = self.next_packet_id();
        let Some(link) = &mut self.link else { return };
        let conn = link.conn;
        link.pending.insert(packet_id.get(), (tools.now, Operation::Unsubscribe(filter)));
        self.subscribed.remove(&filter);
        tools.record(Event::UnsubscribeSent { client: self.number, conn, filter });
        let filters = vec![tools.history.filters[usize::from(filter.0)].clone()];
        let unsubscribe = Unsubscribe { packet_id, user_properties: Vec::new(), filters };
        tools.wishes.push(Wish::Send { conn, packet: Packet::Unsubscribe(unsubscribe) });
        self.waits(tools.now);
    }

    fn acknowledge(&mut self, tools: &mut Tools<'_>) {
        let Some(link) = &mut self.link else { return };
        let Some(answer) = link.acks.pop_front() else { return };
        let conn = link.conn;
        if let Answer::Acknowledged(packet_id) | Answer::Completed(packet_id) = answer {
            tools.record(Event::DeliveryAcked { client: self.number, conn, packet_id: packet_id.get() });
        }
        let packet = match answer {
            Answer::Acknowledged(packet_id) => Packet::PubAck(ack(packet_id)),
            Answer::Received(packet_id) => Packet::PubRec(ack(packet_id)),
            Answer::Completed(packet_id) => Packet::PubComp(ack(packet_id)),
        };
        tools.wishes.push(Wish::Send { conn, packet });
    }

    /// A new connection while the old one is open and goes on publishing.
    fn take_over(&mut self, tools: &mut Tools<'_>) {
        let Some(link) = self.link.take_if(|link| link.open) else { return };
        self.forget_pending(&link);
        let conn = link.conn;
        self.zombies.insert(conn, VecDeque::new());
        tools.record(Event::Note(format!("client {} leaves {conn:?} open and connects anew", self.number)));
        tools.wake(Duration::from_millis(1), Timer::Zombie(conn));
        self.connect(tools);
    }

    fn zombie_publish(&mut self, conn: Conn, tools: &mut Tools<'_>) {
        let Some(plan) = self.plan.publish.clone() else { return };
        if self.settled {
            self.zombies.remove(&conn);
            tools.wishes.push(Wish::Close { conn, said: false });
            return;
        }
        if !self.zombies.contains_key(&conn) {
            return;
        }
        self.zombie_seq += 1;
        let id = MessageId { publisher: self.number | ZOMBIE, seq: self.zombie_seq };
        let topic = *self.random.pick(&plan.topics);
        let packet_id = NonZeroU16::new(20_000 + (self.zombie_seq % 20_000) as u16);
        if let (Some(sent), Some(packet_id)) = (self.zombies.get_mut(&conn), packet_id) {
            sent.push_back((packet_id.get(), id));
        }
        self.send_publish_on(conn, id, topic, packet_id, (false, false, false), tools);
        let after = self.random.millis(2, 60);
        tools.wake(after, Timer::Zombie(conn));
    }

    /// A packet arrives.
    pub fn receive(&mut self, conn: Conn, packet: Packet, tools: &mut Tools<'_>) {
        if let Some(sent) = self.zombies.get_mut(&conn) {
            if let Packet::PubAck(ack) | Packet::PubRec(ack) = packet
                && let Some(at) = sent.iter().position(|(packet_id, _)| *packet_id == ack.packet_id.get())
                && let Some((_, id)) = sent.remove(at)
            {
                tools.record(Event::PublishAcked { conn, id, ok: !ack.reason.is_failure() });
            }
            return;
        }
        if self.done || !self.is_link(conn) {
            return;
        }
        match packet {
            Packet::ConnAck(ack) if ack.reason.is_failure() => {
                self.drop_link(tools);
                let after = self.random.millis(50, 500);
                tools.wake(after, Timer::Connect);
            }
            Packet::ConnAck(ack) => self.opened(conn, ack.session_present, tools),
            Packet::Publish(publish) => self.delivered(conn, &publish, tools),
            Packet::PubAck(ack) => self.puback(conn, &ack, tools),
            Packet::PubRec(ack) => self.pubrec(conn, &ack, tools),
            Packet::PubComp(ack) => self.pubcomp(&ack, tools),
            Packet::PubRel(release) => {
                if self.inbound.remove(&release.packet_id.get()).is_none() {
                    tools.history.marks.hit(Mark::CompletedTwice);
                }
                self.owe(conn, Answer::Completed(release.packet_id), tools);
            }
            Packet::SubAck(ack) => {
                let reasons = ack.reasons;
                self.suback(conn, ack.packet_id, &reasons, tools);
            }
            Packet::UnsubAck(ack) => self.unsuback(conn, ack.packet_id, tools),
            Packet::PingResp => {
                if let Some(link) = &mut self.link {
                    link.ping_sent = false;
                }
                self.progress(tools.now);
            }
            Packet::Disconnect(_) => {
                self.drop_link(tools);
                let after = self.random.millis(20, 400);
                tools.wake(after, Timer::Connect);
            }
            _ => tools.record(Event::Note("a packet that a server does not send".to_owned())),
        }
    }

    fn opened(&mut self, conn: Conn, present: bool, tools: &mut Tools<'_>) {
        tools.record(Event::Connected { client: self.number, conn, present });
        if let Some(link) = &mut self.link {
            link.open = true;
            link.waiting_since = None;
        }
        if let Some(stay) = self.plan.stay {
            let after = self.random.between(stay / 3, stay * 5 / 3);
            tools.wake(after, Timer::Leave(conn));
        }
        if let Some(every) = self.plan.takeover {
            let after = self.random.between(every / 3, every * 5 / 3);
            tools.wake(after, Timer::TakeOver(conn));
        }
        if !present {
            self.subscribed.clear();
            self.leaving.clear();
            self.inbound.clear();
        }
        self.resend(present, tools);
        let leaving = std::mem::take(&mut self.leaving);
        let leaving: Vec<Filter> = leaving.difference(&self.wanted).copied().collect();
        for filter in leaving {
            self.unsubscribe(filter, tools);
        }
        let missing: Vec<Filter> = self.wanted.difference(&self.subscribed).copied().collect();
        self.subscribe(missing, tools);
    }

    fn resend(&mut self, present: bool, tools: &mut Tools<'_>) {
        let mut unacked = std::mem::take(&mut self.unacked);
        if !self.plan.resends {
            return; // Their outcome stays unknown.
        }
        if !present {
            // What has PUBREC is the broker's.
            unacked.retain(|outgoing| !outgoing.released);
        }
        for outgoing in &mut unacked {
            if outgoing.released {
                tools.history.marks.hit(Mark::ReleasedTwice);
                self.send_release(outgoing.packet_id, tools);
                continue;
            }
            // The same session: the same packet, marked as sent before [MQTT-3.3.1-1]. Another one: a new packet.
            let packet_id = if present {
                NonZeroU16::new(outgoing.packet_id).expect("packet identifiers are never 0")
            } else {
                self.next_packet_id()
            };
            outgoing.packet_id = packet_id.get();
            self.send_publish(outgoing.id, outgoing.topic, Some(packet_id), present, outgoing.empty, tools);
        }
        if !unacked.is_empty() {
            self.waits(tools.now);
        }
        self.unacked = unacked;
    }

    fn delivered(&mut self, conn: Conn, publish: &Publish, tools: &mut Tools<'_>) {
        let (id, intact) = payload::read(&publish.payload);
        let topic = publish.topic.as_ref().map(TopicName::as_str).and_then(|name| tools.history.topic(name));
        let packet_id = publish.qos.packet_id();
        let answer = match publish.qos {
            PublishQoS::AtMostOnce => None,
            PublishQoS::AtLeastOnce(packet_id) => Some(Answer::Acknowledged(packet_id)),
            PublishQoS::ExactlyOnce(packet_id) => Some(Answer::Received(packet_id)),
        };
        let exactly_once = packet_id.filter(|_| publish.qos.level() == QoS::ExactlyOnce);
        let repeated =
            exactly_once.is_some_and(|packet_id| self.inbound.insert(packet_id.get(), id).is_some());
        tools.record(Event::Delivered(Delivery {
            client: self.number,
            conn,
            topic,
            id,
            intact,
            qos: publish.qos.level() as u8,
            packet_id: packet_id.map_or(0, PacketId::get),
            repeated,
            dup: publish.dup,
            retain: publish.retain,
        }));
        if let Some(answer) = answer {
            self.owe(conn, answer, tools);
        }
    }

    fn owe(&mut self, conn: Conn, answer: Answer, tools: &mut Tools<'_>) {
        let Some(link) = &mut self.link else { return };
        link.acks.push_back(answer);
        let after = self.random.between(Duration::ZERO, self.plan.ack_delay);
        tools.wake(after, Timer::Ack(conn));
    }

    fn send_release(&mut self, packet_id: u16, tools: &mut Tools<'_>) {
        let (Some(link), Some(packet_id)) = (&self.link, NonZeroU16::new(packet_id)) else { return };
        let conn = link.conn;
        tools.wishes.push(Wish::Send { conn, packet: Packet::PubRel(ack(packet_id)) });
    }

    fn pubrec(&mut self, conn: Conn, ack: &Ack, tools: &mut Tools<'_>) {
        let mut all = self.unacked.iter_mut();
        let Some(outgoing) = all.find(|outgoing| outgoing.packet_id == ack.packet_id.get()) else {
            tools.record(Event::Note("PUBREC for nothing".to_owned()));
            return;
        };
        let ok = !ack.reason.is_failure();
        let id = outgoing.id;
        outgoing.released = true;
        tools.record(Event::PublishAcked { conn, id, ok });
        if ok {
            self.send_release(ack.packet_id.get(), tools);
        } else {
            self.unacked.retain(|outgoing| outgoing.packet_id != ack.packet_id.get());
        }
        self.progress(tools.now);
    }

    fn pubcomp(&mut self, ack: &Ack, tools: &mut Tools<'_>) {
        let before = self.unacked.len();
        self.unacked.retain(|outgoing| outgoing.packet_id != ack.packet_id.get() || !outgoing.released);
        if self.unacked.len() == before {
            tools.record(Event::Note("PUBCOMP for nothing".to_owned()));
        }
        self.progress(tools.now);
    }

    fn puback(&mut self, conn: Conn, ack: &Ack, tools: &mut Tools<'_>) {
        let at = self.unacked.iter().position(|outgoing| outgoing.packet_id == ack.packet_id.get());
        let Some(outgoing) = at.and_then(|at| self.unacked.remove(at)) else {
            tools.record(Event::Note("PUBACK for nothing".to_owned()));
            return;
        };
        tools.record(Event::PublishAcked { conn, id: outgoing.id, ok: !ack.reason.is_failure() });
        self.progress(tools.now);
    }

    fn suback(&mut self, conn: Conn, packet_id: PacketId, reasons: &[ReasonCode], tools: &mut Tools<'_>) {
        let Some(link) = &mut self.link else { return };
        let Some((since, Operation::Subscribe(filters))) = link.pending.remove(&packet_id.get()) else {
            return;
        };
        if tools.now.saturating_sub(since) >= LONG_WAIT {
            tools.history.marks.hit(Mark::BarrierWaited);
        }
        for (filter, reason) in filters.iter().zip(reasons) {
            if !reason.is_failure() {
                self.subscribed.insert(*filter);
                tools.record(Event::Subscribed { client: self.number, conn, filter: *filter });
            }
        }
        if self.plan.final_read.is_some() {
            tools.wake(Duration::from_millis(2500), Timer::ReadEnds(conn));
        }
        self.progress(tools.now);
    }

    fn unsuback(&mut self, conn: Conn, packet_id: PacketId, tools: &mut Tools<'_>) {
        let Some(link) = &mut self.link else { return };
        let Some((_, Operation::Unsubscribe(filter))) = link.pending.remove(&packet_id.get()) else {
            return;
        };
        tools.record(Event::Unsubscribed { client: self.number, conn, filter });
        self.progress(tools.now);
    }
}

fn normal_disconnect() -> Disconnect {
    Disconnect {
        reason: ReasonCode::NORMAL_DISCONNECTION,
        session_expiry_s: None,
        reason_string: None,
        server_reference: None,
        user_properties: Vec::new(),
    }
}

fn ack(packet_id: PacketId) -> Ack {
    Ack { packet_id, reason: ReasonCode::SUCCESS, reason_string: None, user_properties: Vec::new() }
}

/// A text of the simulator's own.
pub fn text(own: &str) -> Text {
    Text::parse(own).expect("the simulator's texts are valid")
}
