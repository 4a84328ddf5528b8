//! Probes of the barrier: a publish that begins after SUBACK, on another node, must come; one after UNSUBACK must not.
//!
//! Owns: one probe after another, each with a session and a topic of its own. Does not: send a publish again.
//! Invariants: the session outlives its connections; the probe goes on until the message has come, or everything ends.
//! Limits: one probe at a time for each thread.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::let_pass;
use quorate_tests::message::Message;

use super::inbox::{Inbox, Taken};
use super::{Ground, PING_EVERY, SILENCE_MAX, Silence};
use crate::history::{Client, What};
use crate::random::Random;
use crate::wire::{Ack, Connect, Link, Packet, Publish, Version};

/// What a publish after UNSUBACK would need to come, generously.
const STAYS_AWAY_FOR: Duration = Duration::from_millis(200);

/// Time between two probes.
const PAUSE: Duration = Duration::from_millis(150);

/// Seconds that the session of a probe outlives its connection.
const EXPIRY_S: u32 = 600;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 64;

/// Starts to probe on a thread.
pub fn start(ground: &Ground, client: Client) -> JoinHandle<()> {
    let random = Random::new(u64::from(client));
    let mut prober = Prober { ground: ground.clone(), client, random, probe: 0 };
    std::thread::spawn(move || {
        while !prober.ground.closes() {
            prober.probe += 1;
            // A probe whose SUBACK or PUBACK did not come says nothing.
            let _ = prober.probe();
            let_pass(PAUSE);
        }
    })
}

struct Prober {
    ground: Ground,
    client: Client,
    random: Random,
    probe: u64,
}

impl Prober {
    fn probe(&mut self) -> Result<()> {
        let probe = self.probe;
        let node = self.random.below(self.ground.nodes.len());
        let mut inbox = Inbox::default();
        let mut link = self.subscriber(node, true)?;
        link.subscribe(&self.topic(), 1)?;
        self.wait(&mut link, &mut inbox, |taken| matches!(taken, Taken::Subscribed))?;
        self.note(What::ProbeSubscribed { probe });
        self.publish(node, 0)?;
        let mut link = self.fetch(link, node, &mut inbox)?;
        link.unsubscribe(&self.topic())?;
        self.wait(&mut link, &mut inbox, |taken| matches!(taken, Taken::Unsubscribed))?;
        self.note(What::ProbeUnsubscribed { probe });
        self.publish(node, 1)?;
        let begin = Instant::now();
        while begin.elapsed() < STAYS_AWAY_FOR {
            if let Some(Taken::Message(publish)) = inbox.next(&mut link)? {
                self.got(&publish);
            }
        }
        link.disconnect(true)
    }

    /// Waits for the first message, over as many connections as it takes; gives the last one.
    fn fetch(&mut self, link: Link, node: usize, inbox: &mut Inbox) -> Result<Link> {
        let (mut link, mut node) = (Some(link), node);
        while !self.ground.ends() {
            let connected = match link.take() {
                Some(link) => Ok(link),
                None => self.subscriber(node, false),
            };
            match connected.and_then(|link| self.receive(link, inbox)) {
                Ok(link) => return Ok(link),
                Err(_) => {
                    node = (node + 1) % self.ground.nodes.len().max(1);
                    let_pass(Duration::from_millis(50));
                }
            }
        }
        bail!("everything ends")
    }

    fn receive(&self, mut link: Link, inbox: &mut Inbox) -> Result<Link> {
        let (mut silence, mut pinged) = (Silence(None), Instant::now());
        while !self.ground.ends() {
            while let Some(taken) = inbox.next(&mut link)? {
                silence.broken(false);
                if let Taken::Message(publish) = taken {
                    self.got(&publish);
                    return Ok(link);
                }
            }
            if pinged.elapsed() > PING_EVERY {
                pinged = Instant::now();
                link.ping()?;
                silence.due();
            }
            ensure!(!silence.too_long(), "silence");
        }
        bail!("everything ends")
    }

    fn wait(&self, link: &mut Link, inbox: &mut Inbox, done: impl Fn(&Taken) -> bool) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < SILENCE_MAX {
            match inbox.next(link)? {
                Some(taken) if done(&taken) => return Ok(()),
                Some(Taken::Message(publish)) => self.got(&publish),
                Some(_) | None => {}
            }
        }
        bail!("silence")
    }

    /// Publishes on another node than this one, and waits for PUBACK.
    fn publish(&mut self, not: usize, sequence: u64) -> Result<()> {
        let probe = self.probe;
        let others = self.ground.nodes.len().saturating_sub(1);
        let node = (not + 1 + self.random.below(others)) % self.ground.nodes.len().max(1);
        let client_id = format!("faults-{}-{probe}-{sequence}", self.client);
        let (mut link, _) = Link::connect(self.address(node)?, Version::V3, &client_id, true)?;
        let message = Message { publisher: u32::from(self.client), sequence };
        let publish = Publish {
            topic: self.topic(),
            payload: message.encode(PAYLOAD_BYTES),
            qos: 1,
            packet_id: 1,
            dup: false,
            retain: false,
        };
        self.note(What::ProbeInvoke { probe, sequence });
        link.publish(&publish)?;
        let begin = Instant::now();
        while begin.elapsed() < SILENCE_MAX {
            match link.receive()? {
                Some(Packet::Ack(Ack::Puback, 1, reason)) => {
                    ensure!(reason < 0x80, "refused with {reason:#04x}");
                    self.note(What::ProbeOk { probe, sequence });
                    return link.disconnect(false);
                }
                Some(other) => bail!("{other:?} to a publisher"),
                None => {}
            }
        }
        bail!("silence")
    }

    fn subscriber(&self, node: usize, clean: bool) -> Result<Link> {
        let client_id = format!("faults-{}-{}", self.client, self.probe);
        let connect = Connect { expiry_s: EXPIRY_S, ..Connect::new(Version::V5, &client_id, clean) };
        Ok(Link::open(self.address(node)?, &connect)?.0)
    }

    fn got(&self, publish: &Publish) {
        let whole = Message::decode(&publish.payload).filter(|_| publish.topic == self.topic());
        self.note(match whole {
            Some(message) => What::ProbeGot { probe: self.probe, sequence: message.sequence },
            None => What::Damaged { reason: format!("{} bytes to a probe", publish.payload.len()) },
        });
    }

    fn topic(&self) -> String {
        format!("b/{}/{}", self.client, self.probe)
    }

    fn address(&self, node: usize) -> Result<SocketAddr> {
        self.ground.nodes.get(node).copied().context("a node of this place")
    }

    fn note(&self, what: What) {
        self.ground.recorder.note(self.client, what);
    }
}
