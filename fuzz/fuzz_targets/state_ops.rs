//! Any commands, whole and damaged, in any order: two replicas stay equal, every invariant holds after each entry, and
//! what is restored from the records is the same state.
//!
//! Input: operations, see `command`.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quorate_codec::{PacketId, QoS, RetainHandling, SubscriptionOptions, Text, TopicFilter, TopicName};
use quorate_fuzz::Bytes;
use quorate_state::command::{BackupStep, PublishTarget, SessionExpiry, ShareMember, SubscribeFilter, Will};
use quorate_state::{
    BackupId, BatchBuilder, Command, ConnId, Epoch, GroupId, Incarnation, LeaderCommand, LogIndex, Message,
    NodeId, Overflow, Owner, Partition, PartitionConfig, SessionId, ShareId, ShareVersion, StreamId,
    StreamSeq, Timestamp, WillId,
};

const CLIENTS: [&str; 4] = ["a", "b", "c", "d"];
const TOPICS: [&str; 4] = ["t", "t/1", "t/2", "u/1"];
const FILTERS: [&str; 6] = ["t", "t/+", "#", "u/#", "$share/g/t/#", "+/1"];

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let overflow = [Overflow::DropOldest, Overflow::DropNewest, Overflow::RejectPublisher][bytes.below(3)];
    let config = PartitionConfig {
        queue_messages_max: 6,
        queue_bytes_max: 400,
        inflight_max: 3,
        subscriptions_per_session_max: 3,
        retained_max: 2,
        session_expiry_max_s: 30,
        overflow,
        ..PartitionConfig::new(GroupId(3))
    };
    let mut world = World {
        partition: Partition::new(config.clone()),
        replica: Partition::new(config.clone()),
        stamp: Timestamp(0),
        next: 1,
        conn: 0,
    };
    while !bytes.is_empty() {
        world.entry(&mut bytes);
    }
    let records = world.partition.records().map(|(key, value)| (key.into(), value.into()));
    let restored = Partition::restore(config, world.partition.applied(), records.collect::<Vec<_>>())
        .expect("a state restores from its own records");
    restored.check();
    assert_eq!(restored.hash(), world.partition.hash());
});

struct World {
    partition: Partition,
    replica: Partition,
    stamp: Timestamp,
    next: u64,
    conn: u64,
}

impl World {
    fn entry(&mut self, bytes: &mut Bytes<'_>) {
        self.stamp.0 += u64::from(bytes.byte()) * 30;
        let mut builder = BatchBuilder::new(self.stamp);
        if bytes.below(8) == 0 {
            let to = [GroupId(0), GroupId(5), GroupId(3)][bytes.below(3)];
            builder.leader(LeaderCommand::OutboxApplied { to, seq: StreamSeq(u64::from(bytes.byte())) });
        }
        let commands: Vec<bytes::Bytes> = (0..=bytes.below(4)).map(|_| self.encoded(bytes)).collect();
        let stream = StreamId::Node(NodeId(1), Incarnation(1));
        builder.segment(stream, StreamSeq(self.next), StreamSeq(0), commands.len(), &commands);
        self.next += commands.len() as u64;
        let data = builder.finish();
        let index = LogIndex(self.partition.applied().0 + 1);
        let (mut effects, mut same) = (Vec::new(), Vec::new());
        self.partition.apply(index, &data, &mut effects);
        self.replica.apply(index, &data, &mut same);
        assert_eq!(effects, same, "replicas agree");
        self.partition.check();
    }

    fn encoded(&mut self, bytes: &mut Bytes<'_>) -> bytes::Bytes {
        let mut out = BytesMut::new();
        if bytes.below(16) == 0 {
            out.extend_from_slice(bytes.slice(60));
            return out.freeze();
        }
        let command = self.command(bytes);
        command.encode(&mut out);
        let mut read = out.clone().freeze();
        assert_eq!(Command::decode(&mut read), Ok(command), "what was written can be read");
        if bytes.below(16) == 0 {
            out.truncate(bytes.below(256).min(out.len()));
        }
        out.freeze()
    }

    fn session(&self, bytes: &mut Bytes<'_>) -> (SessionId, Epoch) {
        let known = self.partition.session_by_client(CLIENTS[bytes.below(4)]);
        known.map_or((SessionId(u64::from(bytes.byte())), Epoch(1)), |info| (info.session, info.epoch))
    }

    fn command(&mut self, bytes: &mut Bytes<'_>) -> Command {
        let (session, epoch) = self.session(bytes);
        match bytes.below(20) {
            0 | 1 => self.connect(bytes),
            2 => Command::Disconnect {
                session,
                epoch,
                expiry: bytes.flag().then_some(SessionExpiry::After(3)),
                normal: bytes.flag(),
            },
            3 => Command::Subscribe { session, epoch, filters: vec![subscription(bytes)] },
            4 => Command::Unsubscribe { session, epoch, filters: vec![filter(FILTERS[bytes.below(6)])] },
            5 => Command::Acknowledge { session, epoch, packet_ids: ids(bytes) },
            6 => Command::Receive { session, epoch, packet_ids: ids(bytes) },
            7 => Command::Release { session, epoch, packet_id: id(bytes) },
            8 => {
                let target = |group, store_retained| PublishTarget { group, store_retained, fan_out: true };
                let targets = vec![target(GroupId(5), bytes.flag()), target(GroupId(3), false)];
                Command::PublishOnce {
                    session,
                    epoch,
                    packet_id: id(bytes),
                    targets,
                    message: message(bytes),
                }
            }
            10 => {
                let target = |group, store_retained| PublishTarget { group, store_retained, fan_out: true };
                let targets = vec![target(GroupId(5), bytes.flag()), target(GroupId(3), false)];
                Command::PublishWill { will: WillId(1 + bytes.below(8) as u64), targets }
            }
            11 => Command::ShareJoin {
                filter: filter("$share/g/t/#"),
                member: member(bytes),
                version: ShareVersion(u64::from(bytes.byte())),
                qos: qos(bytes),
                identifier: None,
                retain_as_published: bytes.flag(),
                window: u16::from(bytes.byte()) % 4,
            },
            12 => Command::ShareOffline {
                filter: filter("$share/g/t/#"),
                member: member(bytes),
                version: ShareVersion(u64::from(bytes.byte())),
            },
            13 => Command::ShareSettled { share: ShareId(bytes.below(4) as u64), dispatches: numbers(bytes) },
            14 => Command::ShareReturn { share: ShareId(bytes.below(4) as u64), dispatches: numbers(bytes) },
            15 => {
                let step = match bytes.below(4) {
                    0 => BackupStep::Hold { ms: u32::from(bytes.byte()) * 8 },
                    1 => BackupStep::Cut { node: NodeId(1) },
                    _ => BackupStep::Release,
                };
                Command::Backup { backup: BackupId(1 + bytes.below(2) as u64), step }
            }
            9 => match bytes.below(4) {
                0 => {
                    Command::NodeDown { node: NodeId(1 + bytes.below(2) as u64), incarnation: Incarnation(1) }
                }
                1 => Command::Purge { client_id: Text::from_static(CLIENTS[bytes.below(4)]) },
                _ => Command::Enqueue {
                    session,
                    epoch,
                    messages: vec![(QoS::AtLeastOnce, None, message(bytes))],
                },
            },
            _ => {
                let message = message(bytes);
                Command::Publish { store_retained: message.retain, message, fan_out: bytes.below(8) != 0 }
            }
        }
    }

    fn connect(&mut self, bytes: &mut Bytes<'_>) -> Command {
        self.conn += 1;
        let expiry = match bytes.below(4) {
            0 => SessionExpiry::AtClose,
            1 => SessionExpiry::Never,
            _ => SessionExpiry::After(u32::from(bytes.byte())),
        };
        // Node 2: its death ends connections while the stream of node 1 goes on.
        let owner =
            Owner { node: NodeId(2), incarnation: Incarnation(1 + self.conn / 8), conn: ConnId(self.conn) };
        Command::Connect {
            client_id: Text::from_static(CLIENTS[bytes.below(4)]),
            owner,
            clean_start: bytes.below(4) == 0,
            expiry,
            receive_max: u16::from(bytes.byte()) % 5,
            principal: Text::default(),
            will: bytes
                .flag()
                .then(|| Will { delay_s: u32::from(bytes.byte()) % 4, message: message(bytes) }),
        }
    }
}

fn member(bytes: &mut Bytes<'_>) -> ShareMember {
    ShareMember { group: GroupId(3 + bytes.below(3) as u32), session: SessionId(1 + bytes.below(4) as u64) }
}

fn numbers(bytes: &mut Bytes<'_>) -> Vec<u64> {
    (0..bytes.below(4)).map(|_| bytes.below(12) as u64).collect()
}

fn id(bytes: &mut Bytes<'_>) -> PacketId {
    PacketId::new(1 + u16::try_from(bytes.below(8)).unwrap()).unwrap()
}

fn ids(bytes: &mut Bytes<'_>) -> Vec<PacketId> {
    (0..bytes.below(4)).map(|_| id(bytes)).collect()
}

fn qos(bytes: &mut Bytes<'_>) -> QoS {
    [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][bytes.below(3)]
}

fn filter(name: &'static str) -> TopicFilter {
    TopicFilter::new(Text::from_static(name)).unwrap()
}

fn subscription(bytes: &mut Bytes<'_>) -> SubscribeFilter {
    let options = SubscriptionOptions {
        qos: qos(bytes),
        no_local: bytes.flag(),
        retain_as_published: bytes.flag(),
        retain_handling: RetainHandling::Always,
    };
    let identifier = bytes.flag().then(|| 1 + u32::from(bytes.byte()) % 3);
    SubscribeFilter { filter: filter(FILTERS[bytes.below(6)]), options, identifier }
}

fn message(bytes: &mut Bytes<'_>) -> Message {
    Message {
        topic: TopicName::new(Text::from_static(TOPICS[bytes.below(4)])).unwrap(),
        qos: qos(bytes),
        retain: bytes.flag(),
        expiry_s: bytes.flag().then(|| u32::from(bytes.byte()) % 4),
        publisher: 0,
        properties: bytes::Bytes::new(),
        payload: bytes::Bytes::copy_from_slice(bytes.slice(40)),
    }
}
