//! The history of a run: what every client began, was answered and received, with the time of one clock.
//!
//! Owns: the events, their order, the file of JSON lines. Does not: judge; the checkers do.
//! Invariants: times never go back within a history; an event is in the file before a checker sees it.
//! Limits: all events of a run are in memory, about 64 bytes each: a run of an hour has some millions.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// Time since the run began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct Moment(pub u64);

impl Moment {
    /// Time from an earlier moment; zero when it is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A client of the run, or the harness itself.
pub type Client = u16;

/// Who injects faults and heals them.
pub const HARNESS: Client = Client::MAX;

/// Something that happened at a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Event {
    /// When, in microseconds.
    pub at: Moment,
    /// At which client.
    pub client: Client,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. An operation begins with `invoke`; `ok` and `fail` are answers; after `info` nobody knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// CONNACK with success.
    Connected {
        /// Node, from 0.
        node: usize,
        /// Session Present.
        present: bool,
    },
    /// The connection ended.
    Lost {
        /// Why, as the client saw it.
        reason: String,
    },
    /// SUBSCRIBE is about to be sent.
    SubscribeInvoke,
    /// SUBACK with success.
    SubscribeOk,
    /// A publish is about to be sent for the first time.
    PublishInvoke {
        /// Its number, from 0 without gaps.
        sequence: u64,
        /// QoS.
        qos: u8,
    },
    /// The connection ended before the answer: what becomes of the publish is open.
    PublishInfo {
        /// Its number.
        sequence: u64,
    },
    /// It is about to be sent again, on another connection, with DUP.
    PublishAgain {
        /// Its number.
        sequence: u64,
    },
    /// PUBACK or PUBREC with success: it is durable.
    PublishOk {
        /// Its number.
        sequence: u64,
        /// Node that answered.
        node: usize,
    },
    /// PUBACK or PUBREC with a reason code of 0x80 or above. It may have been stored all the same.
    PublishFail {
        /// Its number.
        sequence: u64,
        /// Reason code.
        reason: u8,
    },
    /// PUBCOMP.
    PublishComplete {
        /// Its number.
        sequence: u64,
    },
    /// An intact message reached the application.
    Delivered {
        /// Its publisher.
        from: Client,
        /// Its number.
        sequence: u64,
        /// QoS of the delivery.
        qos: u8,
        /// DUP of the packet.
        dup: bool,
        /// Packet identifier.
        packet_id: u16,
    },
    /// A PUBLISH of QoS 2 came again before its PUBREL: the application does not see it.
    Repeated {
        /// Its publisher.
        from: Client,
        /// Its number.
        sequence: u64,
    },
    /// A message came that no publisher can have sent so.
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// A retained message is about to be written, or deleted.
    WriteInvoke {
        /// Topic by number.
        register: u32,
        /// Number of the write, from 1.
        sequence: u64,
        /// It has no payload: the retained message goes.
        deletes: bool,
    },
    /// The write was acknowledged.
    WriteOk {
        /// Topic by number.
        register: u32,
        /// Number of the write.
        sequence: u64,
    },
    /// No answer, or a refusal: nobody knows whether and when it takes effect. It is not sent again.
    WriteInfo {
        /// Topic by number.
        register: u32,
        /// Number of the write.
        sequence: u64,
    },
    /// SUBSCRIBE for a retained message is about to be sent, by a new client.
    ReadInvoke {
        /// Topic by number.
        register: u32,
    },
    /// The first message that came for it.
    ReadOk {
        /// Topic by number.
        register: u32,
        /// Number of the write that it shows.
        sequence: u64,
    },
    /// Nothing came in time: there is none, or the node is in trouble.
    ReadInfo {
        /// Topic by number.
        register: u32,
    },
    /// A fault is about to be injected.
    FaultInvoke {
        /// Its name.
        name: String,
    },
    /// It has been injected. From now on these nodes have no contact with a majority.
    FaultOk {
        /// Nodes that must not acknowledge anything, from 0.
        silenced: Vec<usize>,
    },
    /// It is about to be healed.
    HealInvoke,
    /// Every group has one leader, and every node is ready.
    Recovered,
}

/// Takes events from all threads.
#[derive(Clone)]
pub struct Recorder {
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    events: Vec<Event>,
    file: BufWriter<File>,
    broken: Option<String>,
}

impl Recorder {
    /// Begins a history in a new file.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(file: &Path) -> Result<Recorder> {
        let file = File::create(file).with_context(|| format!("create {}", file.display()))?;
        let inner = Inner { events: Vec::new(), file: BufWriter::new(file), broken: None };
        Ok(Recorder { start: Instant::now(), inner: Arc::new(Mutex::new(inner)) })
    }

    /// Notes what happens now.
    pub fn note(&self, client: Client, what: What) -> Moment {
        let mut inner = self.lock();
        // Under the lock, so that the order in the history is that of the times.
        let at = Moment(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX));
        let event = Event { at, client, what };
        let written = serde_json::to_string(&event)
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok(writeln!(inner.file, "{line}")?));
        if let Err(error) = written {
            inner.broken.get_or_insert_with(|| format!("{error:#}"));
        }
        inner.events.push(event);
        at
    }

    /// All events so far.
    ///
    /// # Errors
    /// When one could not be written to the file.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut inner = self.lock();
        inner.file.flush().context("write the history")?;
        anyhow::ensure!(inner.broken.is_none(), "write the history: {:?}", inner.broken);
        Ok(inner.events.clone())
    }

    /// How many events of these there are since a moment.
    pub fn count_since(&self, since: Moment, counts: impl Fn(&Event) -> bool) -> usize {
        let inner = self.lock();
        inner.events.iter().rev().take_while(|event| event.at >= since).filter(|event| counts(event)).count()
    }

    /// The time on the clock of the history.
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
