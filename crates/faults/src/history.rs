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
    /// No connection, or no CONNACK with success.
    Refused {
        /// Node, from 0.
        node: usize,
        /// Why, as the client saw it.
        reason: String,
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
        /// Packet identifier.
        packet_id: u16,
    },
    /// The acknowledgement that ends the flight of a packet identifier is about to be sent: PUBACK or PUBCOMP.
    Settled {
        /// Packet identifier.
        packet_id: u16,
    },
    /// From now on this client publishes for, or is a member of, the share group of the run.
    Shares,
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
        /// It has RETAIN: it was read from the register. Without, another node had just forwarded it.
        retained: bool,
    },
    /// Nothing came in time: there is none, or the node is in trouble.
    ReadInfo {
        /// Topic by number.
        register: u32,
    },
    /// A publish of QoS 0 is about to be sent.
    Flung {
        /// Its number, from 0 without gaps.
        sequence: u64,
    },
    /// SUBACK to one whose session ends with its connection.
    Subscribed,
    /// A message of QoS 0 came.
    Caught {
        /// Its publisher.
        from: Client,
        /// Its number.
        sequence: u64,
    },
    /// What all nodes together have counted as dropped since they started, whatever the reason.
    Dropped {
        /// Their sum.
        total: u64,
    },
    /// SUBACK of a new session for a topic of its own.
    ProbeSubscribed {
        /// Number of the session.
        probe: u64,
    },
    /// UNSUBACK for it.
    ProbeUnsubscribed {
        /// Number of the session.
        probe: u64,
    },
    /// A publish to that topic is about to be sent, through another node.
    ProbeInvoke {
        /// Number of the session.
        probe: u64,
        /// Number of the publish.
        sequence: u64,
    },
    /// It was acknowledged.
    ProbeOk {
        /// Number of the session.
        probe: u64,
        /// Number of the publish.
        sequence: u64,
    },
    /// It came to the session.
    ProbeGot {
        /// Number of the session.
        probe: u64,
        /// Number of the publish.
        sequence: u64,
    },
    /// CONNECT with a will is about to be sent.
    WillInvoke {
        /// Number of the will.
        sequence: u64,
        /// Will Delay Interval in milliseconds.
        delay_ms: u64,
    },
    /// CONNACK: the will is durable.
    WillStored {
        /// Number of the will.
        sequence: u64,
    },
    /// The connection with the will is about to end, or was found to have ended.
    WillEnd {
        /// Number of the will.
        sequence: u64,
        /// How.
        how: WillEnd,
    },
    /// The node has closed the connection after DISCONNECT.
    WillDismissed {
        /// Number of the will.
        sequence: u64,
    },
    /// The will came to a durable session, with QoS 2.
    WillSeen {
        /// Client that had it.
        from: Client,
        /// Number of the will.
        sequence: u64,
    },
    /// A connection whose session outlives it is about to be closed.
    Away {
        /// For so long, in milliseconds.
        expiry_ms: u64,
    },
    /// CONNACK for that session.
    Back {
        /// Session Present.
        present: bool,
    },
    /// A publish for that session is about to be sent.
    ExpiringInvoke {
        /// Its number.
        sequence: u64,
        /// Message Expiry Interval in milliseconds.
        expiry_ms: u64,
    },
    /// It was acknowledged.
    ExpiringOk {
        /// Its number.
        sequence: u64,
    },
    /// It came.
    ExpiringGot {
        /// Its number.
        sequence: u64,
    },
    /// CONNECT is about to be sent by one of those who fight for one client identifier.
    OwnerInvoke {
        /// Number of the connection.
        connection: u64,
    },
    /// Its CONNACK.
    OwnerOk {
        /// Number of the connection.
        connection: u64,
    },
    /// A publish is about to be sent on such a connection.
    OwnerPublish {
        /// Number of the connection.
        connection: u64,
        /// Number of the publish on it.
        sequence: u64,
    },
    /// Its PUBACK.
    OwnerAck {
        /// Number of the connection.
        connection: u64,
        /// Number of the publish on it.
        sequence: u64,
    },
    /// A look at the nodes that have contact with a majority.
    Looked {
        /// Each group has a leader among them that they know.
        led: bool,
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
    /// It has been healed.
    Healed,
    /// Every group has one leader, which a majority of nodes knows.
    Led,
    /// Every group has one leader, and every node is ready.
    Recovered {
        /// The most that the term of a group has grown since before the fault.
        terms: u64,
    },
}

/// How a connection with a will ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WillEnd {
    /// The client closes it without DISCONNECT.
    Closed,
    /// The client falls silent and leaves it open.
    Silent,
    /// Another connection takes the session over.
    TakenOver,
    /// DISCONNECT with reason code 0.
    Disconnected,
    /// It ended without the client.
    Lost,
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
