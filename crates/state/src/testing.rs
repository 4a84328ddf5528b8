//! Fixtures of this crate's tests: a group that is driven one entry at a time, and short constructors.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use quorate_codec::{PacketId, QoS, RetainHandling, SubscriptionOptions, Text, TopicFilter, TopicName};

use crate::command::{Command, LeaderCommand, Message, NodeRecord, SessionExpiry, SubscribeFilter};
use crate::config::PartitionConfig;
use crate::effect::{Deliver, DropReason, Effect, Reply};
use crate::entry::BatchBuilder;
use crate::hash::client_hash;
use crate::ids::*;
use crate::machine::Machine;
use crate::outbox::OutboxItem;
use crate::partition::Partition;

pub(crate) const GROUP: GroupId = GroupId(3);
pub(crate) const NODE: NodeId = NodeId(1);
pub(crate) const STREAM: StreamId = StreamId::Node(NODE, Incarnation(1));

pub(crate) fn text(text: &str) -> Text {
    Text::parse(text).unwrap()
}

pub(crate) fn filter(filter: &str) -> TopicFilter {
    TopicFilter::new(text(filter)).unwrap()
}

pub(crate) fn topic(topic: &str) -> TopicName {
    TopicName::new(text(topic)).unwrap()
}

pub(crate) fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub(crate) fn owner(conn: u64) -> Owner {
    Owner { node: NODE, incarnation: Incarnation(1), conn: ConnId(conn) }
}

pub(crate) fn message(name: &str, payload: &str) -> Message {
    Message {
        topic: topic(name),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        publisher: 0,
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

pub(crate) fn publish(name: &str, payload: &str) -> Command {
    Command::Publish { message: message(name, payload), store_retained: false, fan_out: true }
}

pub(crate) fn retain(name: &str, payload: &str) -> Command {
    let message = Message { retain: true, ..message(name, payload) };
    Command::Publish { message, store_retained: true, fan_out: true }
}

pub(crate) fn options(qos: QoS) -> SubscriptionOptions {
    let retain_handling = RetainHandling::Always;
    SubscriptionOptions { qos, no_local: false, retain_as_published: false, retain_handling }
}

pub(crate) fn wanted(name: &str) -> SubscribeFilter {
    SubscribeFilter { filter: filter(name), options: options(QoS::AtLeastOnce), identifier: None }
}

pub(crate) fn node_record(id: u64, name: &str, disk: u8, incarnation: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        name: text(name),
        disk: [disk; 16],
        incarnation: Incarnation(incarnation),
        peer: text("127.0.0.1:7000"),
        mqtt: text("127.0.0.1:1883"),
        admin: text(""),
        zone: text("a"),
        version: text("0.1.0"),
        level: 1,
    }
}

pub(crate) fn config() -> PartitionConfig {
    PartitionConfig::new(GROUP)
}

/// A session as CONNECT returned it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Held {
    pub(crate) session: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) session_present: bool,
}

/// A state machine with the entries it was given.
#[derive(Clone, Debug)]
pub(crate) struct Driven<M> {
    pub(crate) machine: M,
    pub(crate) stamp: Timestamp,
    pub(crate) entries: BTreeMap<LogIndex, Bytes>,
    next: BTreeMap<StreamId, u64>,
}

impl<M: Machine> Driven<M> {
    pub(crate) fn new(machine: M) -> Self {
        Self { machine, stamp: Timestamp(0), entries: BTreeMap::new(), next: BTreeMap::new() }
    }

    pub(crate) fn entry(&mut self, data: Bytes) -> Vec<Effect> {
        let index = LogIndex(self.machine.applied().0 + 1);
        let mut effects = Vec::new();
        self.machine.apply(index, &data, &mut effects);
        self.entries.insert(index, data);
        effects
    }

    /// The commands as the next of a stream, in one entry.
    pub(crate) fn batch(&mut self, stream: StreamId, commands: &[Command]) -> Bytes {
        let next = self.next.entry(stream).or_insert(1);
        let first = StreamSeq(*next);
        *next += commands.len() as u64;
        let encoded: Vec<Bytes> = commands.iter().map(encoded).collect();
        let mut builder = BatchBuilder::new(self.stamp);
        builder.segment(stream, first, StreamSeq(0), encoded.len(), &encoded);
        builder.finish()
    }

    pub(crate) fn run_from(&mut self, stream: StreamId, commands: &[Command]) -> Vec<Effect> {
        let data = self.batch(stream, commands);
        self.entry(data)
    }

    pub(crate) fn run(&mut self, commands: &[Command]) -> Vec<Effect> {
        self.run_from(STREAM, commands)
    }

    pub(crate) fn one(&mut self, command: Command) -> Vec<Effect> {
        self.run(&[command])
    }

    pub(crate) fn leader(&mut self, command: LeaderCommand) -> Vec<Effect> {
        let mut builder = BatchBuilder::new(self.stamp);
        builder.leader(command);
        self.entry(builder.finish())
    }

    pub(crate) fn wait_s(&mut self, seconds: u64) -> Vec<Effect> {
        self.stamp.0 += seconds * 1000;
        self.leader(LeaderCommand::Tick)
    }

    pub(crate) fn payload(&self, reference: MessageRef) -> String {
        String::from_utf8(self.message(reference).payload.to_vec()).unwrap()
    }

    pub(crate) fn message(&self, reference: MessageRef) -> Message {
        let data = &self.entries[&reference.index];
        let range = reference.offset as usize..(reference.offset + reference.bytes) as usize;
        Message::decode(&data.slice(range)).unwrap()
    }

    pub(crate) fn payloads(&self, effects: &[Effect]) -> Vec<String> {
        deliveries(effects).iter().map(|deliver| self.payload(deliver.message)).collect()
    }
}

impl Driven<Partition> {
    pub(crate) fn partition(config: PartitionConfig) -> Self {
        Self::new(Partition::new(config))
    }

    pub(crate) fn connect(&mut self, client: &str, conn: u64) -> Held {
        let effects = self.one(connect(client, conn));
        held(&effects).unwrap()
    }

    pub(crate) fn subscribe(&mut self, held: Held, filters: &[SubscribeFilter]) -> Vec<Effect> {
        self.one(Command::Subscribe { session: held.session, epoch: held.epoch, filters: filters.to_vec() })
    }

    pub(crate) fn disconnect(&mut self, held: Held) -> Vec<Effect> {
        self.one(Command::Disconnect {
            session: held.session,
            epoch: held.epoch,
            expiry: None,
            normal: false,
        })
    }

    pub(crate) fn acknowledge(&mut self, held: Held, packet_ids: &[u16]) -> Vec<Effect> {
        let packet_ids = packet_ids.iter().map(|number| id(*number)).collect();
        self.one(Command::Acknowledge { session: held.session, epoch: held.epoch, packet_ids })
    }

    pub(crate) fn receive(&mut self, held: Held, packet_ids: &[u16]) -> Vec<Effect> {
        let packet_ids = packet_ids.iter().map(|number| id(*number)).collect();
        self.one(Command::Receive { session: held.session, epoch: held.epoch, packet_ids })
    }

    pub(crate) fn release(&mut self, held: Held, packet_id: u16) -> Vec<Effect> {
        self.one(Command::Release { session: held.session, epoch: held.epoch, packet_id: id(packet_id) })
    }

    /// What the outbox to a group has for it, as commands.
    pub(crate) fn outbox(&self, to: GroupId) -> Vec<Command> {
        self.outbox_from(to, StreamSeq(0), usize::MAX)
    }

    /// As [`Self::outbox`], up to `max` from a position on.
    pub(crate) fn outbox_from(&self, to: GroupId, from: StreamSeq, max: usize) -> Vec<Command> {
        let items = self.machine.outbox(to, from).take(max);
        let commands = items.map(|(_, item)| {
            let mut command = match item {
                OutboxItem::Command(command) => command,
                OutboxItem::Message { head, message } => {
                    let start = message.offset as usize;
                    let body = self.entries[&message.index].slice(start..start + message.bytes as usize);
                    [head, body].concat().into()
                }
            };
            Command::decode(&mut command).unwrap()
        });
        commands.collect()
    }

    /// A subscriber of `t/#` without a connection.
    pub(crate) fn offline_subscriber(&mut self, client: &str) -> Held {
        let held = self.connect(client, 900);
        self.subscribe(held, &[wanted("t/#")]);
        self.disconnect(held);
        held
    }
}

pub(crate) fn encoded(command: &Command) -> Bytes {
    let mut out = BytesMut::new();
    command.encode(&mut out);
    assert_eq!(out.len(), command.encoded_len());
    out.freeze()
}

pub(crate) fn connect(client: &str, conn: u64) -> Command {
    Command::Connect {
        client_id: text(client),
        owner: owner(conn),
        clean_start: false,
        expiry: SessionExpiry::After(3600),
        receive_max: 100,
        principal: text(""),
        will: None,
    }
}

pub(crate) fn held(effects: &[Effect]) -> Option<Held> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply: Reply::Connected { session, epoch, session_present, .. }, .. } => {
            Some(Held { session: *session, epoch: *epoch, session_present: *session_present })
        }
        _ => None,
    })
}

/// Connections that must be closed before CONNACK.
pub(crate) fn previous(effects: &[Effect]) -> Vec<Owner> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Reply { reply: Reply::Connected { previous, .. }, .. } => Some(previous.clone()),
        _ => None,
    });
    all.flatten().collect()
}

pub(crate) fn replies(effects: &[Effect]) -> Vec<Reply> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Reply { reply, .. } => Some(reply.clone()),
        _ => None,
    });
    all.collect()
}

pub(crate) fn deliveries(effects: &[Effect]) -> Vec<Deliver> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Deliver(deliver) => Some(*deliver),
        _ => None,
    });
    all.collect()
}

pub(crate) fn drops(effects: &[Effect]) -> Vec<(DropReason, u64)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Dropped { reason, count } => Some((*reason, *count)),
        _ => None,
    });
    all.collect()
}

/// The commands of an outbox.
pub(crate) fn posted(machine: &impl Machine, to: GroupId) -> Vec<Command> {
    let items = machine.outbox(to, StreamSeq(0));
    let commands = items.filter_map(|(_, item)| match item {
        OutboxItem::Command(mut command) => Some(Command::decode(&mut command).unwrap()),
        OutboxItem::Message { .. } => None,
    });
    commands.collect()
}

/// Hash of the publisher of a client's own messages.
pub(crate) fn publisher(client: &str) -> u64 {
    client_hash(client)
}

/// Numbers from a seed, the same every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Records as a store keeps them.
pub(crate) type Store = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn write_changes(store: &mut Store, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
    for (key, content) in changes {
        match content {
            Some(content) => store.insert(key, content),
            None => store.remove(&key),
        };
    }
}

pub(crate) fn read_records(store: &Store) -> impl Iterator<Item = (Bytes, Bytes)> {
    store.iter().map(|(key, content)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(content)))
}
