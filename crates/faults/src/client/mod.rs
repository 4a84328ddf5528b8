//! The clients of a run: threads that connect to any node and note all that they see.
//!
//! Owns: what they have in common: the way to the next node, when to give a connection up, when to stop. Does not: judge.
//! Invariants: a client whose connection ends goes to the next node with the same session.
//! Limits: one thread for each; a read waits some milliseconds, so nothing here is timed more finely than that.

pub mod bulk;
pub mod expiry;
pub mod fight;
pub mod fling;
mod inbox;
pub mod probe;
pub mod publisher;
pub mod register;
pub mod storm;
pub mod subscriber;
pub mod will;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::{let_pass, pause};

use crate::history::{Client, Recorder, What};
use crate::wire::{Link, Version};

/// A connection from which nothing comes for so long, although something is due, is given up.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Time between two PINGREQ: a node that is cut off is noticed by its silence.
const PING_EVERY: Duration = Duration::from_secs(1);

/// What every client is given.
#[derive(Clone)]
pub struct Ground {
    /// Where it notes what it sees.
    pub recorder: Recorder,
    /// MQTT listeners of the nodes, in order.
    pub nodes: Vec<SocketAddr>,
    /// The load ends: begin nothing new, but finish what is open.
    pub closing: Arc<AtomicBool>,
    /// Everything ends.
    pub ended: Arc<AtomicBool>,
}

impl Ground {
    fn closes(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    fn ends(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A client with a session that outlives its connections.
struct Durable {
    ground: Ground,
    client: Client,
    client_id: String,
    version: Version,
    node: usize,
}

impl Durable {
    /// Connects, to the next node when one does not take it; `None` when everything ends.
    fn connect(&mut self) -> Option<Link> {
        while !self.ground.ends() {
            let address = self.ground.nodes.get(self.node).copied()?;
            match Link::connect(address, self.version, &self.client_id, false) {
                Ok((link, present)) => {
                    self.note(What::Connected { node: self.node, present });
                    return Some(link);
                }
                Err(error) => {
                    self.note(What::Refused { node: self.node, reason: format!("{error:#}") });
                    self.next_node();
                    let_pass(Duration::from_millis(50));
                }
            }
        }
        None
    }

    fn lost(&mut self, reason: &anyhow::Error) {
        self.note(What::Lost { reason: format!("{reason:#}") });
        self.next_node();
        pause();
    }

    fn next_node(&mut self) {
        self.node = (self.node + 1) % self.ground.nodes.len().max(1);
    }

    fn note(&self, what: What) {
        self.ground.recorder.note(self.client, what);
    }
}

/// A client whose session ends with its connection; each connection has another client identifier.
struct Transient {
    ground: Ground,
    client: Client,
    version: Version,
    node: usize,
    connections: u64,
}

impl Transient {
    fn new(ground: &Ground, client: Client, version: Version) -> Transient {
        let node = usize::from(client) % ground.nodes.len().max(1);
        Transient { ground: ground.clone(), client, version, node, connections: 0 }
    }

    /// Connects, to the next node when one does not take it; `None` when everything ends.
    fn connect(&mut self) -> Option<Link> {
        while !self.ground.ends() {
            let address = self.ground.nodes.get(self.node).copied()?;
            self.connections += 1;
            let client_id = format!("faults-{}-{}", self.client, self.connections);
            match Link::connect(address, self.version, &client_id, true) {
                Ok((link, present)) => {
                    self.note(What::Connected { node: self.node, present });
                    return Some(link);
                }
                Err(_) => {
                    self.node = (self.node + 1) % self.ground.nodes.len().max(1);
                    let_pass(Duration::from_millis(50));
                }
            }
        }
        None
    }

    fn lost(&mut self, reason: &anyhow::Error) {
        self.note(What::Lost { reason: format!("{reason:#}") });
        self.node = (self.node + 1) % self.ground.nodes.len().max(1);
        pause();
    }

    fn note(&self, what: What) {
        self.ground.recorder.note(self.client, what);
    }
}

/// Tells when a node has been silent for too long.
struct Silence(Option<Instant>);

impl Silence {
    /// Something is due from now on, unless it was before.
    fn due(&mut self) {
        self.0.get_or_insert_with(Instant::now);
    }

    /// Something came; `more` is due.
    fn broken(&mut self, more: bool) {
        self.0 = more.then(Instant::now);
    }

    fn too_long(&self) -> bool {
        self.0.is_some_and(|since| since.elapsed() > SILENCE_MAX)
    }
}
