//! A fight: several clients with one client identifier, which take the session from each other on all nodes.
//!
//! Owns: the fighters. Does not: judge; the history says which connection had what when.
//! Invariants: connections are numbered over all fighters; each publish waits for its PUBACK.
//! Limits: `FIGHTERS`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_tests::let_pass;

use super::{Ground, SILENCE_MAX};
use crate::history::{Client, HARNESS, What};
use crate::random::Random;
use crate::wire::{Ack, Connect, Link, Packet, Publish, Version};

/// How many fight.
const FIGHTERS: u64 = 4;

/// The longest that one waits before it connects again: an owner has some time to publish.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// The number under which they are in the history: they are one client.
const CLIENT: Client = HARNESS - 1;

/// A running fight; it ends when this is dropped.
pub struct Fight {
    ended: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    fighters: Vec<JoinHandle<()>>,
}

impl Fight {
    /// Begins.
    pub fn start(ground: &Ground) -> Fight {
        let ended = Arc::new(AtomicBool::new(false));
        // Numbers go on from fight to fight: there are fewer connections than microseconds.
        let first = ground.recorder.now().0;
        let (taken, numbers) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(first)));
        let fighter = |place: u64| {
            let mut fighter = Fighter {
                ground: ground.clone(),
                random: Random::new(place),
                ended: ended.clone(),
                taken: taken.clone(),
                numbers: numbers.clone(),
            };
            std::thread::spawn(move || fighter.run())
        };
        let fighters = (0..FIGHTERS).map(fighter).collect();
        Fight { ended, taken, fighters }
    }

    /// How often the session has been taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Fight {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for fighter in self.fighters.drain(..) {
            let _ = fighter.join();
        }
    }
}

struct Fighter {
    ground: Ground,
    random: Random,
    ended: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    numbers: Arc<AtomicU64>,
}

impl Fighter {
    fn run(&mut self) {
        while !self.ends() {
            // It lost the session, or did not get it.
            let _ = self.hold();
            let_pass(self.random.between(Duration::from_millis(1), PAUSE_MAX));
        }
    }

    fn ends(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.ground.ends()
    }

    /// Takes the session and publishes until it is lost.
    fn hold(&mut self) -> Result<()> {
        let connection = self.numbers.fetch_add(1, Ordering::Relaxed);
        let node = self.random.below(self.ground.nodes.len());
        let address = self.ground.nodes.get(node).copied().context("a node of this place")?;
        self.note(What::OwnerInvoke { connection });
        let connect = Connect { expiry_s: 60, ..Connect::new(Version::V5, "faults-fight", false) };
        let (mut link, _) = Link::open(address, &connect)?;
        self.note(What::OwnerOk { connection });
        self.taken.fetch_add(1, Ordering::Relaxed);
        for sequence in 0.. {
            if self.ends() {
                return link.disconnect(false);
            }
            self.publish(&mut link, connection, sequence)?;
        }
        Ok(())
    }

    fn publish(&self, link: &mut Link, connection: u64, sequence: u64) -> Result<()> {
        let packet_id = u16::try_from(sequence % 60_000).map_or(1, |place| place + 1);
        // With RETAIN it has to be made durable; the others only have to be handed over.
        let retain = sequence.is_multiple_of(2);
        let (topic, payload) = ("o/fight".to_owned(), connection.to_be_bytes().to_vec());
        self.note(What::OwnerPublish { connection, sequence });
        link.publish(&Publish { topic, payload, qos: 1, packet_id, dup: false, retain })?;
        let begin = Instant::now();
        while begin.elapsed() < SILENCE_MAX {
            match link.receive()? {
                Some(Packet::Ack(Ack::Puback, id, reason)) if id == packet_id => {
                    if reason < 0x80 {
                        self.note(What::OwnerAck { connection, sequence });
                    }
                    return Ok(());
                }
                Some(other) => bail!("{other:?} to an owner"),
                None => {}
            }
        }
        bail!("silence")
    }

    fn note(&self, what: What) {
        self.ground.recorder.note(CLIENT, what);
    }
}
