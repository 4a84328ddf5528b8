//! Sessions and messages that expire: a client that goes away for about as long as its session lives, and messages for it that
//! live for some seconds.
//!
//! Owns: going, coming back, publishing meanwhile. Does not: know whether something should have expired.
//! Invariants: going away is noted before the connection is closed, coming back after CONNACK, so a session that is present too short is never
//! missed and one that had the time to expire is never blamed.
//! Limits: one session for each thread.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_tests::let_pass;
use quorate_tests::message::Message;

use super::inbox::{Inbox, Taken};
use super::{Ground, SILENCE_MAX};
use crate::history::{Client, What};
use crate::random::Random;
use crate::wire::{Ack, Connect, Link, Packet, Publish, Version};

/// Session Expiry Interval in seconds, at least and less than.
const EXPIRY_S: (usize, usize) = (3, 20);

/// Message Expiry Intervals in seconds.
const MESSAGE_EXPIRY_S: [u32; 3] = [3, 6, 12];

/// How long it stays: long enough for what waits for it.
const STAY: Duration = Duration::from_millis(2500);

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 64;

/// Starts such a client on a thread.
pub fn start(ground: &Ground, client: Client) -> JoinHandle<()> {
    let random = Random::new(u64::from(client));
    let mut sleeper = Sleeper { ground: ground.clone(), client, random, sequence: 0, subscribed: false };
    std::thread::spawn(move || sleeper.run())
}

struct Sleeper {
    ground: Ground,
    client: Client,
    random: Random,
    sequence: u64,
    subscribed: bool,
}

impl Sleeper {
    fn run(&mut self) {
        while !self.ground.closes() {
            let (least, below) = EXPIRY_S;
            let expiry_s = u32::try_from(least + self.random.below(below - least)).unwrap_or(3);
            let Some(link) = self.come_back(expiry_s) else { return };
            if let Err(error) = self.stay(link, expiry_s) {
                self.note(What::Lost { reason: format!("{error:#}") });
                self.subscribed = false;
                continue;
            }
            let away = Duration::from_secs(u64::from(expiry_s)).mul_f64(1.1);
            let away = self.random.between(Duration::from_millis(200), away);
            let begin = Instant::now();
            for _ in 0..1 + self.random.below(3) {
                let _ = self.publish();
            }
            while begin.elapsed() < away && !self.ground.closes() {
                let_pass(Duration::from_millis(50));
            }
        }
    }

    fn come_back(&mut self, expiry_s: u32) -> Option<Link> {
        let client_id = format!("faults-{}", self.client);
        while !self.ground.ends() {
            let connect = Connect { expiry_s, ..Connect::new(Version::V5, &client_id, false) };
            let node = self.random.below(self.ground.nodes.len());
            let address = self.ground.nodes.get(node).copied()?;
            match Link::open(address, &connect) {
                Ok((link, present)) => {
                    self.note(What::Back { present });
                    self.subscribed &= present;
                    return Some(link);
                }
                Err(error) => self.note(What::Refused { node, reason: format!("{error:#}") }),
            }
            // It may have made a new session all the same.
            self.subscribed = false;
            let_pass(Duration::from_millis(50));
        }
        None
    }

    /// Gets what waits, then goes away.
    fn stay(&mut self, mut link: Link, expiry_s: u32) -> Result<()> {
        let mut inbox = Inbox::default();
        if !self.subscribed {
            link.subscribe(&self.topic(), 1)?;
        }
        let begin = Instant::now();
        while begin.elapsed() < STAY || !self.subscribed {
            match inbox.next(&mut link)? {
                Some(Taken::Message(publish)) => self.got(&publish),
                Some(Taken::Subscribed) => self.subscribed = true,
                Some(_) | None => {}
            }
            if begin.elapsed() > SILENCE_MAX && !self.subscribed {
                bail!("silence");
            }
        }
        self.note(What::Away { expiry_ms: u64::from(expiry_s) * 1000 });
        Ok(())
    }

    fn got(&self, publish: &Publish) {
        let whole = Message::decode(&publish.payload).filter(|_| publish.topic == self.topic());
        self.note(match whole {
            Some(message) => What::ExpiringGot { sequence: message.sequence },
            None => What::Damaged { reason: format!("{} bytes that expire", publish.payload.len()) },
        });
    }

    /// Publishes one message that expires, through any node.
    fn publish(&mut self) -> Result<()> {
        let sequence = self.sequence;
        self.sequence += 1;
        let expiry_s = MESSAGE_EXPIRY_S.get(self.random.below(MESSAGE_EXPIRY_S.len()));
        let expiry_s = expiry_s.copied().unwrap_or(3);
        let client_id = format!("faults-{}-{sequence}", self.client);
        let (mut link, _) = Link::connect(self.any_node()?, Version::V5, &client_id, true)?;
        let message = Message { publisher: u32::from(self.client), sequence };
        let publish = Publish {
            topic: self.topic(),
            payload: message.encode(PAYLOAD_BYTES),
            qos: 1,
            packet_id: 1,
            dup: false,
            retain: false,
        };
        self.note(What::ExpiringInvoke { sequence, expiry_ms: u64::from(expiry_s) * 1000 });
        link.publish_expiring(&publish, expiry_s)?;
        let begin = Instant::now();
        while begin.elapsed() < SILENCE_MAX {
            match link.receive()? {
                Some(Packet::Ack(Ack::Puback, 1, reason)) if reason < 0x80 => {
                    self.note(What::ExpiringOk { sequence });
                    return link.disconnect(false);
                }
                Some(other) => bail!("{other:?} to a publisher"),
                None => {}
            }
        }
        bail!("silence")
    }

    fn topic(&self) -> String {
        format!("x/{}", self.client)
    }

    fn any_node(&mut self) -> Result<SocketAddr> {
        let node = self.random.below(self.ground.nodes.len());
        self.ground.nodes.get(node).copied().context("a node of this place")
    }

    fn note(&self, what: What) {
        self.ground.recorder.note(self.client, what);
    }
}
