//! What happened in a run, as clients and replicas saw it: the one input of all checkers.
//!
//! Owns: the record of events with virtual time, the hash that compares two runs, the tables of topics and filters.
//! Does not: judge; see `invariants`.
//! Invariants: a request without an answer leaves its sending alone in the record: its outcome is unknown, never "did
//! not happen".

use core::time::Duration;
use std::hash::{Hash, Hasher};
use std::io::Write;

use quorate_codec::{TopicFilter, TopicName};

use crate::marks::Marks;

/// A connection of a client, unique in a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Conn(pub u64);

/// Number of a topic in the table of the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Topic(pub u16);

/// Number of a filter in the table of the run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Filter(pub u16);

/// What a payload says of itself: who published it, and as which message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageId {
    /// Publisher.
    pub publisher: u32,
    /// Its sequence, from 1.
    pub seq: u64,
}

/// Something that happened.
#[derive(Clone, PartialEq, Hash, Debug)]
pub enum Event {
    /// A client sent CONNECT, perhaps with a will.
    ConnectSent { client: u32, conn: Conn, clean: bool, will: Option<WillSent> },
    /// A client got CONNACK with success.
    Connected { client: u32, conn: Conn, present: bool },
    /// A client sent DISCONNECT with Normal disconnection.
    DisconnectSent { client: u32, conn: Conn },
    /// A client knows that a connection is over.
    Lost { client: u32, conn: Conn },
    /// The cluster holds the node of a connection for dead: from now on the session has none, whatever its client knows.
    Forsaken { conn: Conn },
    /// A client sent PUBLISH; `dup`: the same packet as before, on a session that goes on.
    PublishSent { conn: Conn, id: MessageId, topic: Topic, qos: u8, dup: bool, retain: bool, empty: bool },
    /// A client got PUBACK or PUBREC.
    PublishAcked { conn: Conn, id: MessageId, ok: bool },
    /// A client got PUBLISH. `id` is `None` for an empty payload; `intact`: the payload is byte for byte what its
    /// publisher sent.
    Delivered(Delivery),
    /// A client sent PUBACK or PUBCOMP.
    DeliveryAcked { client: u32, conn: Conn, packet_id: u16 },
    /// A client sent SUBSCRIBE.
    SubscribeSent { client: u32, conn: Conn, filter: Filter },
    /// A client got SUBACK with success.
    Subscribed { client: u32, conn: Conn, filter: Filter },
    /// A client sent UNSUBSCRIBE.
    UnsubscribeSent { client: u32, conn: Conn, filter: Filter },
    /// A client got UNSUBACK.
    Unsubscribed { client: u32, conn: Conn, filter: Filter },
    /// A node that takes no messages in had a look at what a connection brought.
    IntakeClosed { conn: Conn },
    /// CONNACK with success left a node.
    ServerConnack { client: u32, conn: Conn },
    /// PUBACK, SUBACK or UNSUBACK left a node.
    ServerAck { client: u32, conn: Conn },
    /// A retained read at the end of a run, with everything healed, came to its end.
    FinalRead { conn: Conn, topic: Topic },
    /// A replica became leader of a group: what its log holds at positions that others had committed before, as
    /// index, committed term, own term (`None`: not in the log).
    Leading { node: u64, group: u32, term: u64, committed: Vec<(u64, u64, Option<u64>)> },
    /// A replica says that an entry is committed.
    Committed { node: u64, group: u32, index: u64, term: u64 },
    /// A replica's state after an entry.
    StateHash { node: u64, group: u32, applied: u64, hash: u64 },
    /// An entry in a replica's log.
    LogEntry { node: u64, group: u32, index: u64, term: u64, hash: u64 },
    /// A backup was taken.
    Backup { links: Vec<BackupLink> },
    /// Something that only a reader of the trace wants to know.
    Note(String),
}

/// How two parts of a backup fit each other: positions of the commands from one group to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BackupLink {
    /// Sender.
    pub from: u32,
    /// Receiver.
    pub to: u32,
    /// The sender's part does not have those up to here any more.
    pub forgotten: u64,
    /// The receiver's part has those up to here.
    pub received: u64,
    /// The sender's last.
    pub last: u64,
}

/// A will as its client sent it. The message is numbered by its client, apart from what it publishes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WillSent {
    /// The message.
    pub id: MessageId,
    /// Its topic.
    pub topic: Topic,
    /// Will Delay Interval.
    pub delay: Duration,
}

/// A PUBLISH that reached a client.
#[derive(Clone, PartialEq, Hash, Debug)]
pub struct Delivery {
    /// Receiver.
    pub client: u32,
    /// On this connection.
    pub conn: Conn,
    /// Topic; `None` when it is none that was ever published to.
    pub topic: Option<Topic>,
    /// The message; `None` for an empty payload.
    pub id: Option<MessageId>,
    /// Whether the payload is what the publisher sent.
    pub intact: bool,
    /// QoS.
    pub qos: u8,
    /// Packet identifier; 0 for QoS 0.
    pub packet_id: u16,
    /// A QoS 2 packet that the client has already, and drops.
    pub repeated: bool,
    /// DUP flag.
    pub dup: bool,
    /// RETAIN flag.
    pub retain: bool,
}

/// An event with its time.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Virtual time.
    pub at: Duration,
    /// What.
    pub event: Event,
}

/// What checkers must know of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientFacts {
    /// Its session outlives connections.
    pub durable: bool,
    /// Its session outlives connections by so much, and no longer.
    pub expiry: Option<Duration>,
    /// Receive Maximum that it announced.
    pub receive_max: u16,
    /// Sends every unacknowledged message again, in order, on the next connection.
    pub resends: bool,
    /// The share group that it is a member of.
    pub share: Option<ShareFacts>,
}

/// A client's place in a share group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareFacts {
    /// The group.
    pub group: Filter,
    /// QoS of its subscription.
    pub qos: u8,
}

/// The record of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Events in order of time.
    pub entries: Vec<Entry>,
    /// Topics.
    pub topics: Vec<TopicName>,
    /// Filters.
    pub filters: Vec<TopicFilter>,
    /// Clients.
    pub clients: Vec<ClientFacts>,
    /// No fault happened in the whole run.
    pub calm: bool,
    /// Print events as they come.
    pub trace: bool,
    /// Hash over everything.
    pub hash: Fnv,
    /// What the run got into.
    pub marks: Marks,
}

impl History {
    /// Records an event.
    pub fn push(&mut self, at: Duration, event: Event) {
        at.hash(&mut self.hash);
        event.hash(&mut self.hash);
        if self.trace && !matches!(event, Event::LogEntry { .. } | Event::Committed { .. }) {
            trace(at, &event);
        }
        // Notes are for the trace and its hash alone.
        if !matches!(event, Event::Note(_)) {
            self.entries.push(Entry { at, event });
        }
    }

    /// Adds something to the hash that is not worth an event.
    pub fn mix(&mut self, word: u64) {
        self.hash.write_u64(word);
    }

    /// Two runs of one seed must have the same.
    pub fn trace_hash(&self) -> u64 {
        self.hash.finish()
    }

    /// Whether a topic matches a filter.
    pub fn matches(&self, filter: Filter, topic: Topic) -> bool {
        match (self.filters.get(usize::from(filter.0)), self.topics.get(usize::from(topic.0))) {
            (Some(filter), Some(topic)) => filter.matches(topic),
            _ => false,
        }
    }

    /// Whether every message on a topic is for every session that subscribes to the filter: it is, unless the
    /// subscription is shared.
    pub fn serves_all(&self, filter: Filter, topic: Topic) -> bool {
        let shared = self.filters.get(usize::from(filter.0)).is_some_and(TopicFilter::is_shared);
        !shared && self.matches(filter, topic)
    }

    /// Number of a topic, if it is in the table.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        let at = self.topics.iter().position(|topic| topic.as_str() == name)?;
        u16::try_from(at).ok().map(Topic)
    }
}

fn trace(at: Duration, event: &Event) {
    trace_line(at, &format!("{event:?}"));
}

/// Prints a line of a replay. Whoever reads it may have read enough.
pub fn trace_line(at: Duration, what: &str) {
    drop(writeln!(std::io::stdout(), "{:>10.6} {what}", at.as_secs_f64()));
}

/// FNV-1a: the standard hasher's result may change with the toolchain.
#[derive(Clone, Debug)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    }
}
