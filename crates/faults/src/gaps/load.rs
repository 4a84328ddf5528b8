//! The clients whose answers are measured: durable subscribers that are away, and publishers that send one message after the other to them.
//!
//! Owns: both, and when each answer came. Does not: use what only one broker has: all speak MQTT 3.1.1 with QoS 1.
//! Invariants: nothing here knows of a fault; a publisher goes to another node only when its connection ends or is silent for longer than its patience.
//! Limits: one thread for each publisher; while no answers come, one publish in `BESIDE_AFTER`, until its patience is over.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{pause, wait_at_most};

use crate::history::Moment;
use crate::wire::{Ack, Connect, Link, Packet, Publish, Version};

/// An answer that has not come after so long is no longer waited for alone: the next publish goes out beside it. Otherwise a broker that
/// forgets the publish under way when its leader ends would be measured by its client's patience.
pub const BESIDE_AFTER: Duration = Duration::from_millis(50);

/// A subscription is answered within so long.
const SUBACK_WAIT_MAX: Duration = Duration::from_secs(3);

/// Whoever had an answer within so long is answered.
pub const FRESH: Duration = Duration::from_millis(500);

/// Answers of each publisher before a fault.
const WARM_ANSWERS: usize = 20;

/// Publishers have so many answers, or have them again, within so long.
const ANSWERED_MAX: Duration = Duration::from_secs(60);

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 128;

/// A publisher: whom it sends to, and the node that it is at until that one fails.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Client identifier of the subscriber.
    pub subscriber: String,
    /// Its first node.
    pub home: usize,
}

/// Publishers at work.
pub struct Load {
    publishers: Vec<Publisher>,
    ended: Arc<AtomicBool>,
    begin: Instant,
}

struct Publisher {
    home: usize,
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
}

/// What a publisher has seen so far.
#[derive(Default)]
struct Seen {
    answers: Mutex<Vec<Moment>>,
    /// The node that it is at.
    place: AtomicUsize,
}

impl Seen {
    fn count(&self) -> usize {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn last(&self) -> Option<Moment> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }
}

/// Makes the session of a subscriber anew, with one subscription, and leaves it.
///
/// # Errors
/// When the node refuses.
pub fn make_subscriber(address: SocketAddr, client_id: &str) -> Result<()> {
    // What an earlier one of this name left is thrown away.
    let (mut link, _) = Link::connect(address, Version::V3, client_id, true)?;
    link.disconnect(false)?;
    let (mut link, _) = Link::connect(address, Version::V3, client_id, false)?;
    link.subscribe(&topic(client_id), 1)?;
    let begin = Instant::now();
    loop {
        match link.receive()? {
            Some(Packet::Suback(0..=2)) => break,
            Some(other) => bail!("{other:?} instead of SUBACK"),
            None => ensure!(begin.elapsed() < SUBACK_WAIT_MAX, "no SUBACK"),
        }
    }
    link.disconnect(false)
}

fn topic(subscriber: &str) -> String {
    format!("gap/{subscriber}")
}

impl Load {
    /// Starts publishers, and waits until each has some answers from its first node. A connection on which no answer, or no CONNACK, comes for longer
    /// than their patience is given up.
    ///
    /// # Errors
    /// When one has none in time, or is elsewhere.
    pub fn start(nodes: &[SocketAddr], plans: &[Plan], patience: Duration) -> Result<Load> {
        let (ended, begin) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let mut load = Load { publishers: Vec::new(), ended, begin };
        for (number, plan) in plans.iter().enumerate() {
            let seen = Arc::new(Seen::default());
            let client = Client {
                nodes: nodes.to_vec(),
                client_id: format!("gap-publisher-{number}"),
                topic: topic(&plan.subscriber),
                seen: seen.clone(),
                ended: load.ended.clone(),
                begin,
                patience,
                sequence: 0,
            };
            let home = plan.home;
            let thread = std::thread::spawn(move || client.run(home));
            load.publishers.push(Publisher { home, seen, thread });
        }
        let warm = |one: &Publisher| {
            one.seen.count() >= WARM_ANSWERS && one.seen.place.load(Ordering::Relaxed) == one.home
        };
        wait_at_most(ANSWERED_MAX, "publishers to have answers at their nodes", || {
            load.publishers.iter().all(warm).then_some(())
        })?;
        Ok(load)
    }

    /// Now, in the time of the answers.
    pub fn now(&self) -> Moment {
        moment(self.begin)
    }

    /// Whether each publisher had an answer lately.
    pub fn flows(&self) -> bool {
        let now = self.now();
        self.publishers.iter().all(|one| one.seen.last().is_some_and(|last| now.since(last) < FRESH))
    }

    /// Waits until each publisher has an answer from after a moment, ends all, and gives the answers of each.
    ///
    /// # Errors
    /// When one has none in time.
    pub fn end_after(mut self, moment: Moment) -> Result<Vec<Vec<Moment>>> {
        wait_at_most(ANSWERED_MAX, "publishers to have answers after a fault", || {
            let answered = |one: &Publisher| one.seen.last().is_some_and(|last| last > moment);
            self.publishers.iter().all(answered).then_some(())
        })?;
        self.ended.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for publisher in self.publishers.drain(..) {
            publisher.thread.join().ok().context("a publisher panicked")?;
            let mut seen = publisher.seen.answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push(std::mem::take(&mut *seen));
        }
        Ok(answers)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for publisher in self.publishers.drain(..) {
            let _ = publisher.thread.join();
        }
    }
}

fn moment(begin: Instant) -> Moment {
    Moment(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// One publisher, on its thread.
struct Client {
    nodes: Vec<SocketAddr>,
    client_id: String,
    topic: String,
    seen: Arc<Seen>,
    ended: Arc<AtomicBool>,
    begin: Instant,
    patience: Duration,
    sequence: u64,
}

impl Client {
    fn run(mut self, home: usize) {
        let mut place = home;
        while !self.ended.load(Ordering::Relaxed) {
            let Some(address) = self.nodes.get(place).copied() else { return };
            if let Ok(mut link) = self.connect(address) {
                self.seen.place.store(place, Ordering::Relaxed);
                if self.on(&mut link).is_ok() {
                    let _ = link.disconnect(false);
                    return;
                }
            } else {
                pause();
            }
            // Before its first answer it insists on its first node: the broker may still be busy with who was there before.
            if self.seen.count() > 0 {
                place = (place + 1) % self.nodes.len().max(1);
            }
        }
    }

    /// Connects; CONNACK has to come within the patience of the publisher too: a stopped node takes connections and says nothing.
    fn connect(&self, address: SocketAddr) -> Result<Link> {
        let mut link = Link::begin(address, &Connect::new(Version::V3, &self.client_id, true))?;
        let begin = Instant::now();
        loop {
            match link.receive()? {
                Some(Packet::Connack(_, 0)) => return Ok(link),
                Some(other) => bail!("{other:?} instead of CONNACK"),
                None => ensure!(begin.elapsed() < self.patience, "no CONNACK"),
            }
        }
    }

    /// Publishes on a connection; ends without an error when all ends.
    fn on(&mut self, link: &mut Link) -> Result<()> {
        let (mut sent, mut heard) = (Instant::now(), Instant::now());
        let mut last = self.publish(link)?;
        let mut open = true;
        while !self.ended.load(Ordering::Relaxed) {
            // This ends with a read in which nothing came: that is the time between an answer and the next publish.
            while let Some(packet) = link.receive()? {
                match packet {
                    Packet::Ack(Ack::Puback, id, 0..0x80) => {
                        self.seen
                            .answers
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(moment(self.begin));
                        heard = Instant::now();
                        open &= id != last;
                    }
                    other => bail!("{other:?} to a publisher"),
                }
            }
            if !open || sent.elapsed() >= BESIDE_AFTER {
                (last, sent, open) = (self.publish(link)?, Instant::now(), true);
            }
            ensure!(heard.elapsed() < self.patience, "silence");
        }
        Ok(())
    }

    /// Sends the next message; gives its packet identifier. What was open on an earlier connection is not sent again: a message in doubt
    /// would be another one's worry, here only the time of answers counts.
    fn publish(&mut self, link: &mut Link) -> Result<u16> {
        let packet_id = u16::try_from(self.sequence % 60_000).map_or(1, |place| place + 1);
        self.sequence += 1;
        link.publish(&Publish {
            topic: self.topic.clone(),
            payload: vec![b'.'; PAYLOAD_BYTES],
            qos: 1,
            packet_id,
            dup: false,
            retain: false,
        })?;
        Ok(packet_id)
    }
}
