//! A load of audited messages at QoS 1: publishers and persistent subscribers of the `rumqttc` crate over all nodes.
//!
//! Owns: the clients and their pace. Does not: judge; that is [`crate::audit`].
//! Invariants: all subscriptions are acknowledged before the first publish; a client whose connection ends goes to the
//! next node with the same session and sends unacknowledged publishes again.
//! Limits: `WINDOW` unacknowledged publishes per publisher.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rumqttc::{Event, Outgoing, Packet, QoS};

use crate::audit::{Audit, Who};
use crate::client::options;
use crate::event_loop::{EventLoop, Seen};
use crate::message::Message;
use crate::{Cluster, pause, wait_at_most, wait_for};

/// Unacknowledged publishes of one publisher.
const WINDOW: u16 = 64;

/// What a load consists of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Publishers.
    pub publishers: usize,
    /// Persistent subscribers that are online; each gets every message.
    pub subscribers: usize,
    /// Further subscribers that the test itself connects; they have the next indices in the audit.
    pub by_hand: usize,
    /// Messages per second of one publisher.
    pub rate: u32,
    /// Bytes of a payload.
    pub payload_bytes: usize,
}

/// A running load.
pub struct Load {
    audit: Arc<Mutex<Audit>>,
    publishing: Arc<AtomicBool>,
    generators: Vec<JoinHandle<()>>,
    publishers: Vec<Arc<EventLoop>>,
    subscribers: Vec<EventLoop>,
    shape: Shape,
    ended: bool,
}

impl Load {
    /// Connects the subscribers, subscribes them to `NAME/#`, then starts to publish on `NAME/P`, with the index of the
    /// publisher.
    ///
    /// # Errors
    /// When a subscriber gets no SUBACK.
    pub fn start(cluster: &Cluster, name: &str, shape: Shape) -> Result<Load> {
        let audit = Arc::new(Mutex::new(Audit::new(shape.publishers, shape.subscribers + shape.by_hand)));
        let mut load = Load {
            audit,
            publishing: Arc::new(AtomicBool::new(true)),
            generators: Vec::new(),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            shape,
            ended: false,
        };
        for index in 0..shape.subscribers {
            let subscriber = load.subscriber(cluster, name, index)?;
            load.subscribers.push(subscriber);
        }
        for index in 0..shape.publishers {
            load.publisher(cluster, name, index);
        }
        load.audit().measure_deliveries();
        Ok(load)
    }

    /// The records.
    pub fn audit(&self) -> MutexGuard<'_, Audit> {
        lock(&self.audit)
    }

    /// Waits until every publisher has had this many more acknowledgements.
    ///
    /// # Errors
    /// When one has not, in time.
    pub fn wait_progress(&self, count: u64) -> Result<()> {
        let acked = || (0..self.shape.publishers).map(|index| self.audit().acked_count_of(index)).collect();
        let before: Vec<u64> = acked();
        wait_for("acknowledgements at every publisher", || {
            let now: Vec<u64> = acked();
            now.iter().zip(&before).all(|(now, before)| *now >= before + count).then_some(())
        })
    }

    /// Stops to publish and waits until everything is acknowledged.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn end(&mut self) -> Result<()> {
        self.audit().stop_measuring_deliveries();
        self.publishing.store(false, Ordering::Relaxed);
        for generator in self.generators.drain(..) {
            ensure!(generator.join().is_ok(), "a generator panicked");
        }
        self.ended = true;
        let outstanding =
            || (0..self.shape.publishers).map(|index| self.audit().outstanding(index)).sum::<u64>();
        wait_for("all publishes to be acknowledged", || (outstanding() == 0).then_some(()))
            .with_context(|| format!("{} are not", outstanding()))
    }

    /// Waits until the online subscribers have everything acknowledged.
    ///
    /// # Errors
    /// When they have not in time.
    pub fn drain(&self) -> Result<()> {
        for index in 0..self.shape.subscribers {
            let missing = || self.audit().missing(index);
            wait_at_most(Duration::from_secs(120), "subscribers to have everything", || {
                (missing() == 0).then_some(())
            })
            .with_context(|| format!("subscriber {index} lacks {}", missing()))?;
        }
        Ok(())
    }

    fn subscriber(&self, cluster: &Cluster, name: &str, index: usize) -> Result<EventLoop> {
        let client_id = format!("{name}-sub-{index}");
        let audit = Arc::clone(&self.audit);
        let subscribed = Arc::new(AtomicBool::new(false));
        let on_suback = Arc::clone(&subscribed);
        let events = EventLoop::start(
            cluster.ports_from(index % cluster.nodes.len()),
            move |port| options(&client_id, port, false, WINDOW),
            move |seen| match seen {
                Seen::Event(Event::Incoming(Packet::Publish(publish))) => {
                    lock(&audit).received(index, &publish.payload);
                }
                Seen::Event(Event::Incoming(Packet::ConnAck(ack))) => {
                    lock(&audit).connected(Who::Subscriber(index), ack.session_present);
                }
                Seen::Event(Event::Incoming(Packet::SubAck(_))) => on_suback.store(true, Ordering::Relaxed),
                Seen::Event(_) | Seen::Lost(_) => {}
            },
        );
        events.rumqtt().subscribe(format!("{name}/#"), QoS::AtLeastOnce)?;
        wait_for("SUBACK", || subscribed.load(Ordering::Relaxed).then_some(()))?;
        Ok(events)
    }

    fn publisher(&mut self, cluster: &Cluster, name: &str, index: usize) {
        let client_id = format!("{name}-pub-{index}");
        let sequences = Arc::new(Mutex::new(Sequences::default()));
        let (audit, noted) = (Arc::clone(&self.audit), Arc::clone(&sequences));
        let events = Arc::new(EventLoop::start(
            cluster.ports_from((index + 1) % cluster.nodes.len()),
            // Twice the window: the library would mix up publishes if its own limit were reached during a resend.
            move |port| options(&client_id, port, false, WINDOW * 2),
            move |seen| match seen {
                Seen::Event(Event::Incoming(Packet::ConnAck(ack))) => {
                    lock(&audit).connected(Who::Publisher(index), ack.session_present);
                }
                Seen::Event(Event::Incoming(Packet::PubAck(ack))) => match lock(&noted).acked(ack.pkid) {
                    Some(sequence) => lock(&audit).acked(index, sequence),
                    None => lock(&audit).problem(format!("publisher {index}: PUBACK for nothing")),
                },
                Seen::Event(Event::Outgoing(Outgoing::Publish(packet_id))) => lock(&noted).sent(packet_id),
                Seen::Event(_) | Seen::Lost(_) => {}
            },
        ));
        let (audit, publishing) = (Arc::clone(&self.audit), Arc::clone(&self.publishing));
        let (topic, shape, sender) = (format!("{name}/{index}"), self.shape, Arc::clone(&events));
        let generator = std::thread::spawn(move || {
            let start = Instant::now();
            let mut count = 0_u64;
            while publishing.load(Ordering::Relaxed) {
                let due =
                    u64::try_from(start.elapsed().as_millis()).unwrap_or(0) * u64::from(shape.rate) / 1000;
                while count < due && lock(&audit).outstanding(index) < u64::from(WINDOW) {
                    let sequence = lock(&audit).publish(index);
                    lock(&sequences).asked.push_back(sequence);
                    let publisher = u32::try_from(index).unwrap_or(u32::MAX);
                    let payload = Message { publisher, sequence }.encode(shape.payload_bytes);
                    if sender.rumqtt().publish(topic.as_str(), QoS::AtLeastOnce, false, payload).is_err() {
                        lock(&audit).problem(format!("publisher {index}: its event loop has ended"));
                        return;
                    }
                    count += 1;
                }
                // What was held up is not made good: the rate is an upper bound.
                count = count.max(due.saturating_sub(u64::from(WINDOW)));
                pause();
            }
        });
        self.generators.push(generator);
        self.publishers.push(events);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.publishing.store(false, Ordering::Relaxed);
        for generator in self.generators.drain(..) {
            let _ = generator.join();
        }
        if !self.ended {
            eprintln!("the load was dropped before its end: {}", self.audit().summary());
        }
    }
}

/// Which sequence number went out under which packet identifier.
#[derive(Default)]
struct Sequences {
    asked: VecDeque<u64>,
    sent: BTreeMap<u16, u64>,
}

impl Sequences {
    /// A publish went out: a new one, or one of those that wait for an acknowledgement again.
    fn sent(&mut self, packet_id: u16) {
        if !self.sent.contains_key(&packet_id)
            && let Some(sequence) = self.asked.pop_front()
        {
            self.sent.insert(packet_id, sequence);
        }
    }

    fn acked(&mut self, packet_id: u16) -> Option<u64> {
        self.sent.remove(&packet_id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
