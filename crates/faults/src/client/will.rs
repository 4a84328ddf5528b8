//! Wills: clients that end their connections in all ways, and one that sees what comes of their wills.
//!
//! Owns: both. Does not: judge what must come.
//! Invariants: each connection with a will has a client identifier of its own, so no later one cancels it; the observer has a durable
//! session with QoS 2. What a client does to its connection is noted before it does it.
//! Limits: one connection at a time for each thread.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::let_pass;
use quorate_tests::message::Message;

use super::inbox::{Inbox, Taken};
use super::{Durable, Ground, PING_EVERY, Silence};
use crate::history::{Client, What, WillEnd};
use crate::random::Random;
use crate::wire::{Connect, Link, Publish, Version, Will};

/// Keep Alive in seconds of a client that will fall silent, and of others: a node waits for one and a half times as long. The others' is
/// so long that no client which has to wait for its processor is taken for silent.
const KEEP_ALIVE_S: (u16, u16) = (1, 15);

/// Time between two PINGREQ.
const PING: Duration = Duration::from_millis(300);

/// A silent client waits for so long to be closed.
const SILENT_MAX: Duration = Duration::from_secs(6);

/// How long the node has to close after DISCONNECT.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Seconds that a session with a will outlives its connection: longer than any delay.
const EXPIRY_S: u32 = 30;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 64;

/// The filter that has all wills.
const FILTER: &str = "w/#";

fn topic(client: Client) -> String {
    format!("w/{client}")
}

/// Starts a client that makes connections with wills and ends them.
pub fn start_holder(ground: &Ground, client: Client) -> JoinHandle<()> {
    let mut holder = Holder { ground: ground.clone(), client, random: Random::new(u64::from(client)) };
    std::thread::spawn(move || {
        let mut sequence = 0;
        while !holder.ground.closes() {
            if holder.one(sequence).is_err() {
                let_pass(Duration::from_millis(50));
            }
            sequence += 1;
        }
    })
}

struct Holder {
    ground: Ground,
    client: Client,
    random: Random,
}

impl Holder {
    /// One connection, from its CONNECT to its end.
    fn one(&mut self, sequence: u64) -> Result<()> {
        let version = if self.random.below(2) == 0 { Version::V5 } else { Version::V3 };
        let delay_s = if version == Version::V5 { [0, 0, 1, 2].get(self.random.below(4)) } else { None };
        let delay_s = delay_s.copied().unwrap_or(0);
        let node = self.random.below(self.ground.nodes.len());
        let address = self.ground.nodes.get(node).copied().context("a node of this place")?;
        let ways = [WillEnd::Closed, WillEnd::Silent, WillEnd::TakenOver, WillEnd::Disconnected];
        let how = ways.get(self.random.below(ways.len())).copied().unwrap_or(WillEnd::Closed);
        let message = Message { publisher: u32::from(self.client), sequence };
        let will = Will { topic: topic(self.client), payload: message.encode(PAYLOAD_BYTES), delay_s };
        let client_id = format!("faults-{}-{sequence}", self.client);
        let connect = Connect {
            version,
            client_id: &client_id,
            clean: true,
            expiry_s: EXPIRY_S,
            keep_alive_s: if how == WillEnd::Silent { KEEP_ALIVE_S.0 } else { KEEP_ALIVE_S.1 },
            will: Some(will),
        };
        self.note(What::WillInvoke { sequence, delay_ms: u64::from(delay_s) * 1000 });
        let (mut link, _) = Link::open(address, &connect)?;
        self.note(What::WillStored { sequence });
        let stay = self.random.between(Duration::from_millis(50), Duration::from_secs(3));
        if let Err(error) = stay_on(&mut link, stay) {
            self.note(What::WillEnd { sequence, how: WillEnd::Lost });
            return Err(error);
        }
        self.note(What::WillEnd { sequence, how });
        match how {
            WillEnd::Silent => until_closed(&mut link, SILENT_MAX).map(|_| ()),
            WillEnd::TakenOver => {
                let other = self.random.below(self.ground.nodes.len());
                let address = self.ground.nodes.get(other).copied().context("a node of this place")?;
                let (mut other, _) = Link::connect(address, version, &client_id, true)?;
                other.disconnect(false)
            }
            WillEnd::Disconnected => {
                link.disconnect(false)?;
                if until_closed(&mut link, CLOSE_MAX)? {
                    self.note(What::WillDismissed { sequence });
                }
                Ok(())
            }
            WillEnd::Closed | WillEnd::Lost => Ok(()),
        }
    }

    fn note(&self, what: What) {
        self.ground.recorder.note(self.client, what);
    }
}

/// Keeps a connection for a time.
fn stay_on(link: &mut Link, stay: Duration) -> Result<()> {
    let (begin, mut pinged) = (Instant::now(), Instant::now());
    while begin.elapsed() < stay {
        while link.receive()?.is_some() {}
        if pinged.elapsed() > PING {
            pinged = Instant::now();
            link.ping()?;
        }
    }
    Ok(())
}

/// Sends nothing until the node closes; false when it broke the connection otherwise, or did nothing.
fn until_closed(link: &mut Link, longest: Duration) -> Result<bool> {
    let begin = Instant::now();
    while begin.elapsed() < longest {
        if let Err(error) = link.receive() {
            return Ok(format!("{error:#}") == "closed by the node");
        }
    }
    Ok(false)
}

/// Starts the observer on a thread. It notes `Subscribed` when it is there.
pub fn start_observer(ground: &Ground, client: Client) -> JoinHandle<()> {
    let node = usize::from(client) % ground.nodes.len().max(1);
    let client_id = format!("faults-{client}");
    let mut durable = Durable { ground: ground.clone(), client, client_id, version: Version::V5, node };
    std::thread::spawn(move || {
        let (mut inbox, mut subscribed) = (Inbox::default(), false);
        while let Some(mut link) = durable.connect() {
            let Err(error) = observe(&durable, &mut link, &mut inbox, &mut subscribed) else { return };
            durable.lost(&error);
        }
    })
}

fn observe(durable: &Durable, link: &mut Link, inbox: &mut Inbox, subscribed: &mut bool) -> Result<()> {
    if !*subscribed {
        link.subscribe(FILTER, 2)?;
    }
    let (mut silence, mut pinged) = (Silence(None), Instant::now());
    while !durable.ground.ends() {
        while let Some(taken) = inbox.next(link)? {
            silence.broken(false);
            match taken {
                Taken::Message(publish) => durable.note(seen(&publish)),
                Taken::Subscribed => {
                    *subscribed = true;
                    durable.note(What::Subscribed);
                }
                Taken::Unsubscribed => bail!("UNSUBACK to an observer"),
                Taken::Other => {}
            }
        }
        if pinged.elapsed() > PING_EVERY {
            pinged = Instant::now();
            link.ping()?;
            silence.due();
        }
        ensure!(!silence.too_long(), "silence");
    }
    Ok(())
}

fn seen(publish: &Publish) -> What {
    let message = Message::decode(&publish.payload);
    match message.and_then(|message| Some((message, Client::try_from(message.publisher).ok()?))) {
        Some((message, from)) if publish.topic == topic(from) && publish.qos == 2 && !publish.retain => {
            What::WillSeen { from, sequence: message.sequence }
        }
        _ => What::Damaged { reason: format!("a will of {} bytes", publish.payload.len()) },
    }
}
