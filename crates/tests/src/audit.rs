//! The judgement over a load: what was published, acknowledged and received, and what that breaks.
//!
//! Owns: the records and the verdict. Does not: know sockets; every event comes in as it is seen.
//! Invariants: a message without an acknowledgement is indeterminate, never missing. Every subscriber subscribed to all
//! publishers before the first publish. Publishers are judged by their sequence numbers from 0.
//! Limits: one counter per message and subscriber; `EXAMPLES_MAX` examples of each problem.
//! Spec: D1, D11 and D15 of the contract in the README.

use std::time::{Duration, Instant};

use crate::message::Message;

/// Examples kept of what broke a promise.
const EXAMPLES_MAX: usize = 10;

/// Records of a load.
pub struct Audit {
    publishers: Vec<Published>,
    subscribers: Vec<Received>,
    problems: Vec<String>,
    problem_count: u64,
}

#[derive(Clone, Default)]
struct Published {
    acked: Vec<bool>,
    acked_count: u64,
    connected: u64,
    gap: Gap,
}

#[derive(Clone, Default)]
struct Received {
    from: Vec<Copies>,
    duplicates: u64,
    connected: u64,
    gap: Gap,
}

/// What a subscriber got of one publisher.
#[derive(Clone, Default)]
struct Copies {
    counts: Vec<u16>,
    received_count: u64,
}

/// The longest time without progress while some was due.
#[derive(Clone, Default)]
struct Gap {
    since: Option<Instant>,
    longest: Duration,
}

/// A client of the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// By index.
    Publisher(usize),
    /// By index.
    Subscriber(usize),
}

impl Audit {
    /// Nothing has happened yet.
    pub fn new(publishers: usize, subscribers: usize) -> Audit {
        let received = Received { from: vec![Copies::default(); publishers], ..Received::default() };
        Audit {
            publishers: vec![Published::default(); publishers],
            subscribers: vec![received; subscribers],
            problems: Vec::new(),
            problem_count: 0,
        }
    }

    /// A publisher is about to publish; gives the sequence number.
    pub fn publish(&mut self, publisher: usize) -> u64 {
        let Some(published) = self.publishers.get_mut(publisher) else { return 0 };
        if published.outstanding() == 0 {
            published.gap.since = Some(Instant::now());
        }
        published.acked.push(false);
        published.acked.len() as u64 - 1
    }

    /// A publish was acknowledged.
    pub fn acked(&mut self, publisher: usize, sequence: u64) {
        let place = usize::try_from(sequence).unwrap_or(usize::MAX);
        let Some(published) = self.publishers.get_mut(publisher) else { return };
        match published.acked.get_mut(place) {
            Some(acked) if !*acked => {
                *acked = true;
                published.acked_count += 1;
                published.gap.progress();
            }
            _ => self.problem(format!("publisher {publisher}: {sequence} was acknowledged twice or early")),
        }
    }

    /// A payload reached a subscriber.
    pub fn received(&mut self, subscriber: usize, payload: &[u8]) {
        let Some(message) = Message::decode(payload) else {
            return self
                .problem(format!("subscriber {subscriber}: a damaged payload, {} bytes", payload.len()));
        };
        let publisher = message.publisher as usize;
        let place = usize::try_from(message.sequence).unwrap_or(usize::MAX);
        if self.publishers.get(publisher).is_none_or(|published| published.acked.len() <= place) {
            return self.problem(format!("subscriber {subscriber}: {message:?} was never published"));
        }
        let Some(received) = self.subscribers.get_mut(subscriber) else { return };
        received.gap.progress();
        let Some(copies) = received.from.get_mut(publisher) else { return };
        if let Some(count) = copies.counts.get_mut(place).filter(|count| **count > 0) {
            *count = count.saturating_add(1);
            received.duplicates += 1;
            return;
        }
        // A first receipt: nothing later may have come before, other than by duplicates of what came in order.
        let highest = copies.counts.len();
        if place >= highest {
            copies.counts.resize(place + 1, 0);
        }
        if let Some(count) = copies.counts.get_mut(place) {
            *count = 1;
        }
        copies.received_count += 1;
        if place < highest {
            self.problem(format!("subscriber {subscriber}: {message:?} came after sequence {}", highest - 1));
        }
    }

    /// A CONNACK came. Every session here is persistent: present on all connections but the first.
    pub fn connected(&mut self, who: Who, present: bool) {
        let connected = match who {
            Who::Publisher(index) => self.publishers.get_mut(index).map(|client| &mut client.connected),
            Who::Subscriber(index) => self.subscribers.get_mut(index).map(|client| &mut client.connected),
        };
        let Some(connected) = connected else { return };
        *connected += 1;
        let count = *connected;
        if present != (count > 1) {
            self.problem(format!("{who:?}: Session Present {present} on connection {count}"));
        }
    }

    /// Something that must not happen, seen by whoever keeps this record.
    pub fn problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < EXAMPLES_MAX {
            self.problems.push(problem);
        }
    }

    /// Begins to measure delivery gaps of the connected subscribers: from now on messages come all the time.
    pub fn measure_deliveries(&mut self) {
        for received in self.subscribers.iter_mut().filter(|received| received.connected > 0) {
            received.gap.since = Some(Instant::now());
        }
    }

    /// Ends the measurement of delivery gaps.
    pub fn stop_measuring_deliveries(&mut self) {
        for received in &mut self.subscribers {
            received.gap.progress();
            received.gap.since = None;
        }
    }

    /// Unacknowledged publishes of a publisher.
    pub fn outstanding(&self, publisher: usize) -> u64 {
        self.publishers.get(publisher).map_or(0, Published::outstanding)
    }

    /// Acknowledged publishes of all.
    pub fn acked_count(&self) -> u64 {
        self.publishers.iter().map(|published| published.acked_count).sum()
    }

    /// Acknowledged publishes of one.
    pub fn acked_count_of(&self, publisher: usize) -> u64 {
        self.publishers.get(publisher).map_or(0, |published| published.acked_count)
    }

    /// Connections that a client has had.
    pub fn connections(&self, who: Who) -> u64 {
        match who {
            Who::Publisher(index) => self.publishers.get(index).map_or(0, |client| client.connected),
            Who::Subscriber(index) => self.subscribers.get(index).map_or(0, |client| client.connected),
        }
    }

    /// Acknowledged messages that a subscriber has not received.
    pub fn missing(&self, subscriber: usize) -> u64 {
        let Some(received) = self.subscribers.get(subscriber) else { return 0 };
        let missing_of = |(published, copies): (&Published, &Copies)| {
            let all_received = copies.received_count == published.acked.len() as u64;
            if all_received { 0 } else { missing_sequences(published, copies).count() as u64 }
        };
        self.publishers.iter().zip(&received.from).map(missing_of).sum()
    }

    /// Everything that breaks a promise, as lines; empty when all is well.
    pub fn verdict(&self) -> Vec<String> {
        let mut lines = self.problems.clone();
        if self.problem_count > lines.len() as u64 {
            lines.push(format!("{} problems in all", self.problem_count));
        }
        for (index, received) in self.subscribers.iter().enumerate() {
            for (publisher, (published, copies)) in self.publishers.iter().zip(&received.from).enumerate() {
                let missing: Vec<usize> = missing_sequences(published, copies).collect();
                if let Some(first) = missing.first() {
                    let count = missing.len();
                    lines.push(format!(
                        "subscriber {index}: {count} acknowledged messages of publisher {publisher} missing, \
                         first {first}, of {}",
                        published.acked.len()
                    ));
                }
            }
        }
        lines
    }

    /// The figures, in one line.
    pub fn summary(&self) -> String {
        let received: u64 =
            self.subscribers.iter().flat_map(|one| &one.from).map(|copies| copies.received_count).sum();
        let duplicates: u64 = self.subscribers.iter().map(|one| one.duplicates).sum();
        let connected: u64 = self.publishers.iter().map(|one| one.connected).sum::<u64>()
            + self.subscribers.iter().map(|one| one.connected).sum::<u64>();
        let clients = (self.publishers.len() + self.subscribers.len()) as u64;
        let longest = |gaps: &mut dyn Iterator<Item = &Gap>| gaps.map(|gap| gap.longest).max();
        let ack_gap = longest(&mut self.publishers.iter().map(|one| &one.gap)).unwrap_or_default();
        let delivery_gap = longest(&mut self.subscribers.iter().map(|one| &one.gap)).unwrap_or_default();
        format!(
            "{} acknowledged, {received} received first, {duplicates} duplicates, {} reconnects, longest ack gap \
             {} ms, longest delivery gap {} ms",
            self.acked_count(),
            connected.saturating_sub(clients),
            ack_gap.as_millis(),
            delivery_gap.as_millis(),
        )
    }
}

fn missing_sequences<'a>(published: &'a Published, copies: &'a Copies) -> impl Iterator<Item = usize> + 'a {
    let received = |place: usize| copies.counts.get(place).is_some_and(|count| *count > 0);
    let acked = published.acked.iter().enumerate().filter(|(_, acked)| **acked);
    acked.map(|(place, _)| place).filter(move |place| !received(*place))
}

impl Published {
    fn outstanding(&self) -> u64 {
        self.acked.len() as u64 - self.acked_count
    }
}

impl Gap {
    fn progress(&mut self) {
        if let Some(since) = &mut self.since {
            self.longest = self.longest.max(since.elapsed());
            *since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages published, both acknowledged.
    fn audit() -> Audit {
        let mut audit = Audit::new(1, 1);
        audit.connected(Who::Subscriber(0), false);
        for sequence in 0..2 {
            assert_eq!(audit.publish(0), sequence);
            audit.acked(0, sequence);
        }
        audit
    }

    fn receive(audit: &mut Audit, sequence: u64) {
        audit.received(0, &Message { publisher: 0, sequence }.encode(64));
    }

    #[test]
    fn sound_history_passes_and_counts_duplicates() {
        let mut audit = audit();
        for sequence in [0, 0, 1, 0, 1] {
            receive(&mut audit, sequence);
        }
        audit.connected(Who::Subscriber(0), true);
        audit.publish(0);
        assert_eq!(audit.verdict(), Vec::<String>::new(), "an unacknowledged message may be absent");
        assert!(audit.summary().contains("3 duplicates"), "{}", audit.summary());
    }

    #[test]
    fn doctored_histories_are_flagged() {
        type Doctor = fn(&mut Audit);
        let doctor: [(&str, Doctor); 7] = [
            ("missing", |audit| receive(audit, 0)),
            ("came after", |audit| {
                receive(audit, 1);
                receive(audit, 0);
            }),
            ("never published", |audit| {
                receive(audit, 0);
                receive(audit, 1);
                receive(audit, 2);
            }),
            ("damaged", |audit| audit.received(0, b"damaged")),
            ("Session Present false", |audit| audit.connected(Who::Subscriber(0), false)),
            ("Session Present true", |audit| audit.connected(Who::Publisher(0), true)),
            ("acknowledged twice", |audit| audit.acked(0, 1)),
        ];
        for (expected, doctor) in doctor {
            let mut audit = audit();
            doctor(&mut audit);
            let verdict = audit.verdict().join("\n");
            assert!(verdict.contains(expected), "{expected}: {verdict:?}");
        }
    }
}
