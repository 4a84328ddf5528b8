//! The book-keeping of the verifier: what was published, acknowledged and delivered, and what that breaks.
//!
//! Owns: the judgement. Does not: know sockets, clocks or tasks; every event comes in with its time.
//! Invariants: a message without an acknowledgement is indeterminate, never missing; each subscriber must get
//! every acknowledged message, since all subscribe before the first publish. Publisher and subscriber are judged in
//! pairs, by the lower of their QoS [MQTT-3.8.4-8]: two of QoS 2 allow no copy at all, QoS 1 those of D5.
//! Limits: one bit per message and subscriber; examples up to REPORT_EXAMPLES_MAX.
//! Spec: D1, D2, D3, D5, D6, D11, D12, D14 and D15 of the contract.

mod sharing;
mod wills;

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_codec::QoS;
use serde::Serialize;

use crate::limits::REPORT_EXAMPLES_MAX;
use sharing::ShareGroup;
pub use wills::Fate;
use wills::WillBook;

/// Duplicates that a broker may send per reconnect beyond its Receive Maximum (D5).
const DUPLICATES_SLACK: u64 = 64;

/// A client of the verifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientIndex {
    /// By index from 0.
    Publisher(usize),
    /// By index from 0.
    Subscriber(usize),
    /// Member of the share group, by index from 0.
    Sharer(usize),
    /// Client with a will, by index from 0.
    Willed(usize),
    /// The subscriber that sees the wills.
    Watcher,
}

/// What Session Present should say in a CONNACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// The client never connected: there can be no session.
    Fresh,
    /// An earlier CONNECT got no answer: both are right.
    Either,
    /// An earlier CONNACK made the session.
    Present,
}

/// A delivery as a subscriber saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Index of the publisher, from the payload.
    pub publisher: usize,
    /// Its sequence, from the payload.
    pub sequence: u64,
    /// The DUP flag of the packet.
    pub dup: bool,
    /// The QoS of the packet.
    pub qos: QoS,
    /// First send, from the payload.
    pub sent_at: Duration,
}

/// All events of a run, in the form that the report needs.
pub struct Oracle {
    receive_max: u64,
    publishers: Vec<PublisherRecord>,
    subscribers: Vec<SubscriberRecord>,
    group: ShareGroup,
    /// Granted to the members of the share group.
    sharers: Vec<QoS>,
    wills: WillBook,
    willed: Vec<Link>,
    watcher: Link,
    shared_wrong_qos: u64,
    /// At the share group, and wills.
    other_phantoms: u64,
    corrupt: u64,
    protocol_errors: u64,
    sessions_unexpected: u64,
    examples: Vec<String>,
}

struct PublisherRecord {
    qos: QoS,
    /// Messages published; their sequences are 0 to this − 1.
    published: u64,
    acked: BitSet,
    refused: u64,
    /// Sends beyond the first, by sequence.
    resends: BTreeMap<u64, u64>,
    link: Link,
    gap: Gap,
}

impl PublisherRecord {
    fn new(qos: QoS) -> PublisherRecord {
        let (acked, resends) = (BitSet::default(), BTreeMap::new());
        let (link, gap) = (Link::default(), Gap::default());
        PublisherRecord { qos, published: 0, acked, refused: 0, resends, link, gap }
    }
}

struct SubscriberRecord {
    /// Granted.
    qos: QoS,
    /// By publisher.
    received: Vec<Received>,
    wrong_qos: u64,
    phantoms: u64,
    link: Link,
    gap: Gap,
}

impl SubscriberRecord {
    fn new(qos: QoS, publishers: usize) -> SubscriberRecord {
        let received = vec![Received::default(); publishers];
        let (link, gap) = (Link::default(), Gap::default());
        SubscriberRecord { qos, received, wrong_qos: 0, phantoms: 0, link, gap }
    }

    /// What it got of each publisher, with the QoS between the two.
    fn pairs<'a>(
        &'a self,
        publishers: &'a [PublisherRecord],
    ) -> impl Iterator<Item = (&'a Received, &'a PublisherRecord, QoS)> {
        let pairs = self.received.iter().zip(publishers);
        pairs.map(|(received, publisher)| (received, publisher, self.qos.min(publisher.qos)))
    }
}

/// What one subscriber got of one publisher.
#[derive(Default, Clone)]
struct Received {
    seen: BitSet,
    highest: Option<u64>,
    out_of_order: u64,
    /// Copies beyond the first, by sequence.
    copies: BTreeMap<u64, Copies>,
}

#[derive(Default, Clone, Copy)]
struct Copies {
    plain: u64,
    redelivered: u64,
}

/// Connections of one client.
#[derive(Default)]
struct Link {
    connects: u64,
    sessions_lost: u64,
}

impl Link {
    fn reconnects(&self) -> u64 {
        self.connects.saturating_sub(1)
    }
}

/// Longest time without progress while something was waiting for it.
#[derive(Default)]
struct Gap {
    last: Duration,
    longest: Duration,
}

impl Gap {
    /// Progress at `now` on something that began to wait at `since`.
    fn progress(&mut self, since: Duration, now: Duration) {
        self.longest = self.longest.max(now.saturating_sub(self.last.max(since)));
        self.last = now;
    }
}

impl Oracle {
    /// An empty book for publishers and subscribers of these QoS. `receive_max` is what the subscribers announce.
    pub fn new(
        publishers: impl Iterator<Item = QoS>,
        subscribers: impl Iterator<Item = QoS>,
        receive_max: u16,
    ) -> Oracle {
        let publishers: Vec<_> = publishers.map(PublisherRecord::new).collect();
        let count = publishers.len();
        Oracle {
            receive_max: receive_max.into(),
            publishers,
            subscribers: subscribers.map(|qos| SubscriberRecord::new(qos, count)).collect(),
            group: ShareGroup::new(0, count, receive_max.into()),
            sharers: Vec::new(),
            wills: WillBook::default(),
            willed: Vec::new(),
            watcher: Link::default(),
            shared_wrong_qos: 0,
            other_phantoms: 0,
            corrupt: 0,
            protocol_errors: 0,
            sessions_unexpected: 0,
            examples: Vec::new(),
        }
    }

    /// Adds a share group whose members ask for these QoS. Call it before the first event.
    pub fn share(&mut self, members: impl Iterator<Item = QoS>) {
        self.sharers = members.collect();
        self.group = ShareGroup::new(self.sharers.len(), self.publishers.len(), self.receive_max);
    }

    /// Adds clients with wills. Call it before the first event.
    pub fn expect_wills(&mut self, clients: usize) {
        self.wills = WillBook::new(clients);
        self.willed = (0..clients).map(|_| Link::default()).collect();
    }

    /// A CONNECT with a will is about to be sent; gives the number that the will is to carry.
    pub fn will_sent(&mut self, client: usize) -> u64 {
        self.wills.connecting(client)
    }

    /// What became of the connection with this number.
    pub fn will_fate(&mut self, client: usize, connection: u64, fate: Fate) {
        self.wills.fate(client, connection, fate);
    }

    /// A will reached the subscriber of the wills.
    pub fn will_seen(&mut self, client: usize, connection: u64, dup: bool) {
        if !self.wills.seen(client, connection, dup) {
            self.other_phantoms += 1;
            self.example(format!("a will came of connection #{connection} of w{client}, which never was"));
        }
    }

    /// SUBACK: what the client was granted, from now on.
    pub fn granted(&mut self, client: ClientIndex, qos: QoS) {
        let granted = match client {
            ClientIndex::Publisher(_) | ClientIndex::Willed(_) | ClientIndex::Watcher => None,
            ClientIndex::Subscriber(at) => self.subscribers.get_mut(at).map(|record| &mut record.qos),
            ClientIndex::Sharer(at) => self.sharers.get_mut(at),
        };
        if let Some(granted) = granted {
            *granted = qos;
        }
    }

    /// A connection that had a CONNACK is over. Matters for members of the share group only.
    pub fn disconnected(&mut self, client: ClientIndex) {
        if let ClientIndex::Sharer(at) = client {
            self.group.disconnected(at);
        }
    }

    /// A message reached the application of a member of the share group.
    pub fn shared(&mut self, member: usize, delivery: Delivery) {
        let Delivery { publisher, sequence, qos, .. } = delivery;
        let Some(record) = self.publishers.get(publisher).filter(|record| sequence < record.published) else {
            self.other_phantoms += 1;
            self.example(format!("g{member} got p{publisher} #{sequence}, which was never published"));
            return;
        };
        let due = self.sharers.get(member).map_or(qos, |granted| record.qos.min(*granted));
        self.group.delivered(member, publisher, sequence, qos);
        if qos != due {
            self.shared_wrong_qos += 1;
            let (qos, due) = (qos as u8, due as u8);
            self.example(format!("g{member} got p{publisher} #{sequence} with QoS {qos}, not {due}"));
        }
    }

    /// The next message of `publisher`; returns its sequence. Call it before the message is sent.
    pub fn published(&mut self, publisher: usize) -> u64 {
        let Some(record) = self.publishers.get_mut(publisher) else { return 0 };
        let sequence = record.published;
        record.published += 1;
        sequence
    }

    /// A message is sent once more, as the same packet or as a new one.
    pub fn resent(&mut self, publisher: usize, sequence: u64) {
        if let Some(record) = self.publishers.get_mut(publisher) {
            *record.resends.entry(sequence).or_default() += 1;
        }
    }

    /// The broker took responsibility: a reason code below 0x80.
    pub fn acked(&mut self, publisher: usize, sequence: u64, sent_at: Duration, now: Duration) {
        if let Some(record) = self.publishers.get_mut(publisher) {
            record.acked.insert(sequence);
            record.gap.progress(sent_at, now);
        }
    }

    /// The broker refused: a reason code of 0x80 or more. The message may still not be counted as absent.
    pub fn refused(&mut self, publisher: usize, sent_at: Duration, now: Duration) {
        if let Some(record) = self.publishers.get_mut(publisher) {
            record.refused += 1;
            record.gap.progress(sent_at, now);
        }
    }

    /// A message is still waiting for its acknowledgement at the end: the gap has not closed.
    pub fn still_unacked(&mut self, publisher: usize, oldest_sent_at: Duration, now: Duration) {
        if let Some(record) = self.publishers.get_mut(publisher) {
            record.gap.progress(oldest_sent_at, now);
        }
    }

    /// A message reached the application of `subscriber`.
    pub fn delivered(&mut self, subscriber: usize, delivery: Delivery, now: Duration) {
        let publisher = self.publishers.get(delivery.publisher);
        let (published, qos) = publisher.map_or((0, delivery.qos), |record| (record.published, record.qos));
        let Some(record) = self.subscribers.get_mut(subscriber) else { return };
        let due = qos.min(record.qos);
        let received = match record.received.get_mut(delivery.publisher) {
            Some(received) if delivery.sequence < published => received,
            _ => {
                record.phantoms += 1;
                let Delivery { publisher, sequence, .. } = delivery;
                self.example(format!(
                    "s{subscriber} got p{publisher} #{sequence}, which was never published"
                ));
                return;
            }
        };
        let wrong = delivery.qos != due;
        record.wrong_qos += u64::from(wrong);
        if !received.seen.insert(delivery.sequence) {
            let copies = received.copies.entry(delivery.sequence).or_default();
            if delivery.dup {
                copies.redelivered += 1;
            } else {
                copies.plain += 1;
            }
            return;
        }
        record.gap.progress(delivery.sent_at, now);
        let before = received.highest.filter(|highest| *highest > delivery.sequence);
        received.highest = received.highest.max(Some(delivery.sequence));
        received.out_of_order += u64::from(before.is_some());
        if wrong {
            let Delivery { publisher, sequence, qos, .. } = delivery;
            let (qos, due) = (qos as u8, due as u8);
            self.example(format!("s{subscriber} got p{publisher} #{sequence} with QoS {qos}, not {due}"));
        }
        if let Some(before) = before {
            let Delivery { publisher, sequence, .. } = delivery;
            self.example(format!("s{subscriber} got p{publisher} #{sequence} first after #{before}"));
        }
    }

    /// A payload that is not what any publisher of this run sent.
    pub fn corrupt(&mut self, client: ClientIndex) {
        self.corrupt += 1;
        self.example(format!("{client:?} got a payload with a wrong checksum"));
    }

    /// The broker sent something that MQTT forbids.
    pub fn protocol_error(&mut self, client: ClientIndex, problem: &str) {
        self.protocol_errors += 1;
        self.example(format!("{client:?}: {problem}"));
    }

    /// A CONNACK with success.
    pub fn connected(&mut self, client: ClientIndex, expected: Expected, session_present: bool) {
        let link = match client {
            ClientIndex::Publisher(at) => self.publishers.get_mut(at).map(|record| &mut record.link),
            ClientIndex::Subscriber(at) => self.subscribers.get_mut(at).map(|record| &mut record.link),
            ClientIndex::Sharer(at) => self.group.connecting(at),
            ClientIndex::Willed(at) => self.willed.get_mut(at),
            ClientIndex::Watcher => Some(&mut self.watcher),
        };
        let Some(link) = link else { return };
        link.connects += 1;
        match (expected, session_present) {
            (Expected::Present, false) => {
                link.sessions_lost += 1;
                self.example(format!("{client:?}: Session Present 0, but the session had been acknowledged"));
            }
            (Expected::Fresh, true) => {
                self.sessions_unexpected += 1;
                self.example(format!("{client:?}: Session Present 1 at the first connection"));
            }
            (Expected::Either, _) | (Expected::Present, true) | (Expected::Fresh, false) => {}
        }
    }

    /// Acknowledged messages that some subscriber, or every member of the share group, has not got yet, where QoS
    /// promises them.
    pub fn missing(&self) -> u64 {
        self.subscribers_miss() + self.group.missing(&self.publishers) + self.wills.missing()
    }

    fn subscribers_miss(&self) -> u64 {
        let pairs = self.subscribers.iter().flat_map(|subscriber| subscriber.pairs(&self.publishers));
        pairs
            .filter(|(_, _, qos)| *qos != QoS::AtMostOnce)
            .map(|(received, publisher, _)| publisher.acked.count_not_in(&received.seen))
            .sum()
    }

    /// Counts for a progress line.
    pub fn progress(&self) -> Progress {
        let links = self.links();
        Progress {
            published: self.publishers.iter().map(|record| record.published).sum(),
            acked: self.publishers.iter().map(|record| record.acked.count).sum(),
            delivered: self.received().map(|received| received.seen.count).sum(),
            reconnects: links.map(Link::reconnects).sum(),
        }
    }

    fn links(&self) -> impl Iterator<Item = &Link> {
        let publishers = self.publishers.iter().map(|record| &record.link);
        publishers
            .chain(self.subscribers.iter().map(|record| &record.link))
            .chain(self.group.links())
            .chain(&self.willed)
            .chain([&self.watcher])
    }

    fn received(&self) -> impl Iterator<Item = &Received> {
        self.subscribers.iter().flat_map(|record| &record.received)
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < REPORT_EXAMPLES_MAX {
            self.examples.push(text);
        }
    }

    /// The judgement over everything so far.
    pub fn report(&self) -> Report {
        let progress = self.progress();
        let duplicates = self.duplicates();
        let wills = self.wills.verdict(self.watcher.reconnects());
        let shared = self.group.verdict(&self.publishers);
        let longest =
            |gaps: &mut dyn Iterator<Item = &Gap>| gaps.map(|gap| gap.longest).max().unwrap_or_default();
        let mut report = Report {
            published: progress.published,
            acked: progress.acked,
            refused: self.publishers.iter().map(|record| record.refused).sum(),
            indeterminate: 0,
            delivered: progress.delivered,
            lost_acknowledged: self.subscribers_miss(),
            duplicates_redelivered: duplicates.redelivered,
            duplicates_resent: duplicates.resent,
            duplicates_unexplained: duplicates.unexplained,
            duplicates_exactly_once: duplicates.exactly_once,
            shared_delivered: shared.delivered,
            shared_lost: shared.lost,
            shared_reassigned: shared.reassigned,
            shared_resent: shared.resent,
            shared_unexplained: shared.unexplained,
            shared_exactly_once: shared.exactly_once,
            wills_due: wills.due,
            wills_seen: wills.seen,
            wills_missing: wills.missing,
            wills_repeated: wills.repeated,
            wills_unexpected: wills.unexpected,
            out_of_order: self.received().map(|received| received.out_of_order).sum(),
            wrong_qos: self.shared_wrong_qos
                + self.subscribers.iter().map(|record| record.wrong_qos).sum::<u64>(),
            phantoms: self.other_phantoms
                + self.subscribers.iter().map(|record| record.phantoms).sum::<u64>(),
            corrupt: self.corrupt,
            protocol_errors: self.protocol_errors,
            sessions_lost: self.links().map(|link| link.sessions_lost).sum(),
            sessions_unexpected: self.sessions_unexpected,
            reconnects: progress.reconnects,
            longest_ack_gap_ms: milliseconds(longest(&mut self.publishers.iter().map(|record| &record.gap))),
            longest_delivery_gap_ms: milliseconds(longest(
                &mut self.subscribers.iter().map(|record| &record.gap),
            )),
            broken: Vec::new(),
            examples: self.examples.clone(),
        };
        report.indeterminate = report.published.saturating_sub(report.acked).saturating_sub(report.refused);
        report.examples.extend(self.lost_examples());
        report.examples.truncate(REPORT_EXAMPLES_MAX);
        report.broken = report.judge();
        report
    }

    /// Sorts the copies beyond the first into those the protocol explains and those it does not.
    fn duplicates(&self) -> Duplicates {
        let mut total = Duplicates::default();
        for subscriber in &self.subscribers {
            let reconnects = subscriber.link.reconnects();
            let mut redelivered = 0_u64;
            for (received, publisher, qos) in subscriber.pairs(&self.publishers) {
                for (sequence, copies) in &received.copies {
                    let all = copies.plain + copies.redelivered;
                    match qos {
                        QoS::AtMostOnce => total.unexplained += all,
                        QoS::ExactlyOnce => total.exactly_once += all,
                        QoS::AtLeastOnce => {}
                    }
                    if qos != QoS::AtLeastOnce {
                        continue;
                    }
                    // At QoS 2 a publish that is sent again makes no second message (D3).
                    let resends = match publisher.qos {
                        QoS::ExactlyOnce => 0,
                        QoS::AtMostOnce | QoS::AtLeastOnce => {
                            publisher.resends.get(sequence).copied().unwrap_or(0)
                        }
                    };
                    // Each send may have become a message; each message may be redelivered once per reconnect.
                    let redelivered_max = (resends + 1).saturating_mul(reconnects);
                    total.resent += copies.plain.min(resends);
                    total.unexplained += copies.plain.saturating_sub(resends);
                    redelivered += copies.redelivered.min(redelivered_max);
                    total.unexplained += copies.redelivered.saturating_sub(redelivered_max);
                }
            }
            // D5 bounds what one reconnect may repeat.
            let bound = reconnects.saturating_mul(self.receive_max + DUPLICATES_SLACK);
            total.redelivered += redelivered.min(bound);
            total.unexplained += redelivered.saturating_sub(bound);
        }
        total
    }

    fn lost_examples(&self) -> Vec<String> {
        let mut examples = Vec::new();
        for (at, subscriber) in self.subscribers.iter().enumerate() {
            for (from, (received, publisher, qos)) in subscriber.pairs(&self.publishers).enumerate() {
                let lost = publisher.acked.first_not_in(&received.seen);
                if let Some(sequence) = lost.filter(|_| qos != QoS::AtMostOnce) {
                    examples.push(format!("s{at} never got p{from} #{sequence}, which was acknowledged"));
                }
            }
        }
        let shared = self.group.first_missing(&self.publishers);
        examples.extend(shared.into_iter().map(|(from, sequence)| {
            format!("no member of the share group got p{from} #{sequence}, which was acknowledged")
        }));
        examples.truncate(REPORT_EXAMPLES_MAX);
        examples
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Duplicates {
    redelivered: u64,
    resent: u64,
    unexplained: u64,
    exactly_once: u64,
}

/// Counts while the run goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Messages published.
    pub published: u64,
    /// Of those, acknowledged.
    pub acked: u64,
    /// First deliveries over all subscribers.
    pub delivered: u64,
    /// Connections after the first, over all clients.
    pub reconnects: u64,
}

/// The outcome of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Messages published.
    pub published: u64,
    /// Acknowledged with success.
    pub acked: u64,
    /// Acknowledged with a failure code.
    pub refused: u64,
    /// Without an answer: neither lost nor delivered by promise.
    pub indeterminate: u64,
    /// First deliveries, over all subscribers.
    pub delivered: u64,
    /// Acknowledged and not delivered, over all subscribers (D1).
    pub lost_acknowledged: u64,
    /// Further copies with DUP after a reconnect of the subscriber, within bounds (D5).
    pub duplicates_redelivered: u64,
    /// Further copies because the publisher sent again, as QoS 1 allows.
    pub duplicates_resent: u64,
    /// Further copies at QoS 0 and 1 that nothing explains.
    pub duplicates_unexplained: u64,
    /// Further copies between a publisher and a subscriber of QoS 2 (D3, D6).
    pub duplicates_exactly_once: u64,
    /// First deliveries to the share group.
    pub shared_delivered: u64,
    /// Acknowledged and delivered to no member of the share group (D14).
    pub shared_lost: u64,
    /// Further copies of what was in flight to a member that lost its connection.
    pub shared_reassigned: u64,
    /// Further copies because the publisher sent again, as QoS 1 allows.
    pub shared_resent: u64,
    /// Further copies to the share group that nothing explains (D14).
    pub shared_unexplained: u64,
    /// Further copies to the share group, all of QoS 2 (D3, D6).
    pub shared_exactly_once: u64,
    /// Connections with a will that were cut.
    pub wills_due: u64,
    /// Wills seen at least once.
    pub wills_seen: u64,
    /// Wills of cut connections that were not seen (D12).
    pub wills_missing: u64,
    /// Further copies of wills (D12).
    pub wills_repeated: u64,
    /// Wills of connections that ended with DISCONNECT, or did not end (D12).
    pub wills_unexpected: u64,
    /// First deliveries after a later message of the same publisher (D15).
    pub out_of_order: u64,
    /// Deliveries whose QoS is not the lower one of publisher and subscriber [MQTT-3.8.4-8].
    pub wrong_qos: u64,
    /// Deliveries that were never published (D2).
    pub phantoms: u64,
    /// Payloads with a wrong checksum (D2).
    pub corrupt: u64,
    /// Packets that MQTT forbids.
    pub protocol_errors: u64,
    /// Session Present 0 for a session that should exist (D11).
    pub sessions_lost: u64,
    /// Session Present 1 for a session that cannot exist (D11).
    pub sessions_unexpected: u64,
    /// Connections after the first, over all clients.
    pub reconnects: u64,
    /// Longest time one publisher with unacknowledged messages got no acknowledgement.
    pub longest_ack_gap_ms: u64,
    /// Longest time one subscriber with messages under way got none.
    pub longest_delivery_gap_ms: u64,
    /// The promises that were broken; empty when all was kept.
    pub broken: Vec<String>,
    /// Some of the events behind `broken`.
    pub examples: Vec<String>,
}

impl Report {
    fn judge(&self) -> Vec<String> {
        [
            (self.lost_acknowledged, "acknowledged messages were not delivered (D1)"),
            (self.duplicates_unexplained, "messages were delivered again without a reason (D5)"),
            (self.duplicates_exactly_once, "messages of QoS 2 were delivered again (D3, D6)"),
            (self.shared_lost, "acknowledged messages were delivered to no member of the share group (D14)"),
            (
                self.shared_unexplained,
                "messages were delivered to the share group again without a reason (D14)",
            ),
            (self.shared_exactly_once, "messages of QoS 2 were delivered to the share group again (D3, D6)"),
            (self.wills_missing, "wills were not published although their connections were cut (D12)"),
            (self.wills_repeated, "wills were published again (D12)"),
            (self.wills_unexpected, "wills were published although their connections were not cut (D12)"),
            (self.out_of_order, "messages were first delivered out of order (D15)"),
            (self.wrong_qos, "messages were delivered with a wrong QoS"),
            (self.phantoms, "messages were delivered that nobody published (D2)"),
            (self.corrupt, "payloads were changed on the way (D2)"),
            (self.protocol_errors, "packets were against the MQTT specification"),
            (self.sessions_lost, "sessions were lost (D11)"),
            (self.sessions_unexpected, "sessions were present that cannot exist (D11)"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, promise)| format!("{count} {promise}"))
        .collect()
    }
}

/// A growing set of small numbers, one bit each.
#[derive(Default, Clone)]
struct BitSet {
    words: Vec<u64>,
    count: u64,
}

impl BitSet {
    /// Adds `number`; true when it was not there.
    fn insert(&mut self, number: u64) -> bool {
        let Ok(at) = usize::try_from(number / 64) else { return false };
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let Some(word) = self.words.get_mut(at) else { return false };
        let bit = 1_u64 << (number % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(new);
        new
    }

    fn missing_words<'a>(&'a self, other: &'a BitSet) -> impl Iterator<Item = u64> + 'a {
        self.words.iter().enumerate().map(|(at, word)| word & !other.words.get(at).copied().unwrap_or(0))
    }

    fn count_not_in(&self, other: &BitSet) -> u64 {
        self.missing_words(other).map(|word| u64::from(word.count_ones())).sum()
    }

    fn first_not_in(&self, other: &BitSet) -> Option<u64> {
        let (at, word) = (0_u64..).zip(self.missing_words(other)).find(|(_, word)| *word != 0)?;
        Some(at * 64 + u64::from(word.trailing_zeros()))
    }
}

#[cfg(test)]
mod tests;
