//! A small cluster without nodes, driven entry by entry, and its backup file.
//!
//! Owns: [`OldCluster`]. Does not: replicate: each group has one state machine.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use quorate_codec::{QoS, RetainHandling, SubscriptionOptions, Text, TopicFilter, TopicName};
use quorate_node::routing::home_partition;
use quorate_state::command::{LeaderCommand, NodeRecord, SessionExpiry, SubscribeFilter};
use quorate_state::hash::{partition_of_share, partition_of_topic};
use quorate_state::{
    BatchBuilder, Command, ConnId, Control, Effect, Epoch, GroupId, Incarnation, LogIndex, Machine, Message,
    NodeId, OutboxItem, Owner, Partition, PartitionConfig, Reply, SessionId, ShareMember, ShareVersion,
    StreamId, StreamSeq, Timestamp, Will,
};
use quorate_storage::AppliedMark;
use quorate_storage::snapshot::{Chunk, Content};

use crate::backup::format::{BackupEnd, BackupHead, Frame, preamble};
use crate::config::{BootstrapNode, Config};
use crate::founding::{Settings, hex};

/// Its partitions.
pub const PARTITIONS: u32 = 2;

/// Identity of its backup.
pub const BACKUP: &str = "00000000000000aa";

/// Records in one chunk: little, so that there are several.
const CHUNK_RECORDS: usize = 5;

fn text(text: &str) -> Text {
    Text::parse(text).unwrap()
}

/// A message of QoS 1.
pub fn message(topic: &str, payload: &str) -> Message {
    Message {
        topic: TopicName::new(text(topic)).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        publisher: 0,
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

fn encoded(command: &Command) -> Bytes {
    let mut out = BytesMut::new();
    command.encode(&mut out);
    out.freeze()
}

/// A cluster of three nodes that ran for a while.
pub struct OldCluster {
    settings: Settings,
    pub control: Control,
    pub partitions: Vec<Partition>,
    entries: BTreeMap<(GroupId, LogIndex), Bytes>,
    next: BTreeMap<(GroupId, StreamId), u64>,
}

/// The node that everything is done by, in its last incarnation.
const NODE: (NodeId, Incarnation) = (NodeId(2), Incarnation(15));

impl OldCluster {
    /// Three nodes that are up.
    pub fn new() -> Self {
        let mut config = Config::default();
        config.cluster.name = "old".to_owned();
        config.cluster.partitions = PARTITIONS;
        let node = |id| BootstrapNode { name: format!("old{id}"), peer: format!("10.0.0.{id}:7600") };
        config.cluster.bootstrap = (1..=3).map(node).collect();
        let settings = Settings::of(&config);
        let record = |id: u64, incarnation| NodeRecord {
            id: NodeId(id),
            name: text(&format!("old{id}")),
            disk: [id as u8; 16],
            incarnation: Incarnation(incarnation),
            peer: text(""),
            mqtt: text(""),
            admin: text(""),
            zone: text(""),
            version: text("0.2.0"),
            level: quorate_state::LEVEL,
        };
        let cluster = quorate_state::ClusterConfig {
            cluster_id: [7; 16],
            name: text("old"),
            partitions: PARTITIONS,
            replication: 3,
        };
        let records: Vec<NodeRecord> = (1..=3).map(|id| record(id, 0)).collect();
        let partition = |group| {
            let config = PartitionConfig {
                group: GroupId(group),
                partitions: PARTITIONS,
                ..settings.partition_config()
            };
            Partition::new(config)
        };
        let mut cluster = OldCluster {
            control: Control::bootstrap(cluster, &records),
            partitions: (1..=PARTITIONS).map(partition).collect(),
            settings,
            entries: BTreeMap::new(),
            next: BTreeMap::new(),
        };
        for (id, incarnation) in [(1, 4), (2, 15), (3, 9)] {
            let stream = StreamId::Node(NodeId(id), Incarnation(incarnation));
            cluster.run(GroupId(0), stream, &[Command::NodeUp { node: record(id, incarnation) }]);
        }
        // The first entry of a partition is its leader's own.
        for group in 1..=PARTITIONS {
            cluster.entry(GroupId(group), Bytes::new());
        }
        cluster
    }

    /// With all kinds of state: see the names of its clients.
    pub fn busy() -> Self {
        let mut cluster = OldCluster::new();
        // Nobody holds this session; two messages wait for it.
        let (session, epoch) = cluster.connect("offline", 1, 10, None);
        cluster.subscribe("offline", session, epoch, &["a/#"]);
        cluster.command(
            home_partition("offline", PARTITIONS),
            Command::Disconnect { session, epoch, expiry: None, normal: true },
        );
        // Has one message of a share group in its queue; one waits in the group, which lets it have one at a time.
        let (session, epoch) = cluster.connect("member", 4, 10, None);
        let shared = "$share/g/s/#";
        cluster.subscribe("member", session, epoch, &[shared]);
        let filter = TopicFilter::new(text(shared)).unwrap();
        let member = ShareMember { group: home_partition("member", PARTITIONS), session };
        cluster.command(
            partition_of_share(&filter, PARTITIONS),
            Command::ShareJoin {
                filter,
                member,
                version: ShareVersion(1),
                qos: QoS::AtLeastOnce,
                identifier: None,
                retain_as_published: false,
                window: 1,
            },
        );
        // A connection of the old node 2 holds this one; one message is inflight, one waits behind it.
        let will = Will { delay_s: 0, message: message("gone/online", "without a word") };
        let (session, epoch) = cluster.connect("online", 2, 1, Some(will));
        cluster.subscribe("online", session, epoch, &["a/#"]);
        // Hears of the will.
        let (session, epoch) = cluster.connect("mourner", 3, 10, None);
        cluster.subscribe("mourner", session, epoch, &["gone/#"]);
        cluster.command(
            home_partition("mourner", PARTITIONS),
            Command::Disconnect { session, epoch, expiry: None, normal: true },
        );
        cluster.settle();
        for payload in ["one", "two"] {
            cluster.publish("a/b", payload);
            cluster.publish("s/1", payload);
        }
        let retained = Message { retain: true, ..message("r", "kept") };
        cluster.command(
            partition_of_topic("r", PARTITIONS),
            Command::Publish { message: retained, store_retained: true, fan_out: false },
        );
        cluster.settle();
        // Direct deliveries of the old node: a route that dies with it.
        let filter = TopicFilter::new(text("direct/#")).unwrap();
        let target = quorate_state::command::RouteTarget::Node(NODE.0);
        cluster.command(GroupId(0), Command::RouteAdd { filter, target });
        cluster
    }

    /// A connection with a subscription.
    pub fn connect_and_subscribe(&mut self, client: &str, filter: &str) {
        let (session, epoch) = self.connect(client, 9, 10, None);
        self.subscribe(client, session, epoch, &[filter]);
    }

    /// A command of the node's stream.
    pub fn command(&mut self, group: GroupId, command: Command) -> Vec<Effect> {
        self.run(group, StreamId::Node(NODE.0, NODE.1), &[command])
    }

    /// A message to all partitions.
    pub fn publish(&mut self, topic: &str, payload: &str) {
        for group in 1..=PARTITIONS {
            let message = message(topic, payload);
            self.command(GroupId(group), Command::Publish { message, store_retained: false, fan_out: true });
        }
    }

    fn connect(
        &mut self,
        client: &str,
        conn: u64,
        receive_max: u16,
        will: Option<Will>,
    ) -> (SessionId, Epoch) {
        let connect = Command::Connect {
            client_id: text(client),
            owner: Owner { node: NODE.0, incarnation: NODE.1, conn: ConnId(conn) },
            clean_start: false,
            expiry: SessionExpiry::After(3600),
            receive_max,
            principal: text(""),
            will,
        };
        let effects = self.command(home_partition(client, PARTITIONS), connect);
        let connected = effects.iter().find_map(|effect| match effect {
            Effect::Reply { reply: Reply::Connected { session, epoch, .. }, .. } => Some((*session, *epoch)),
            _ => None,
        });
        connected.unwrap()
    }

    fn subscribe(&mut self, client: &str, session: SessionId, epoch: Epoch, filters: &[&str]) {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        let filters = filters.iter().map(|filter| SubscribeFilter {
            filter: TopicFilter::new(text(filter)).unwrap(),
            options,
            identifier: None,
        });
        let subscribe = Command::Subscribe { session, epoch, filters: filters.collect() };
        self.command(home_partition(client, PARTITIONS), subscribe);
    }

    fn machine(&mut self, group: GroupId) -> &mut dyn ApplyEntry {
        match group.0 {
            0 => &mut self.control,
            number => &mut self.partitions[number as usize - 1],
        }
    }

    fn run(&mut self, group: GroupId, stream: StreamId, commands: &[Command]) -> Vec<Effect> {
        let commands: Vec<Bytes> = commands.iter().map(encoded).collect();
        self.run_encoded(group, stream, &commands)
    }

    fn run_encoded(&mut self, group: GroupId, stream: StreamId, commands: &[Bytes]) -> Vec<Effect> {
        let next = self.next.entry((group, stream)).or_insert(1);
        let first = StreamSeq(*next);
        *next += commands.len() as u64;
        let mut builder = BatchBuilder::new(Timestamp(1000));
        builder.segment(stream, first, StreamSeq(0), commands.len(), commands);
        self.entry(group, builder.finish())
    }

    fn entry(&mut self, group: GroupId, data: Bytes) -> Vec<Effect> {
        let (index, effects) = self.machine(group).apply_next(&data);
        self.entries.insert((group, index), data);
        effects
    }

    /// Carries outboxes to where they go, until all are empty.
    pub fn settle(&mut self) {
        let groups: Vec<GroupId> = (0..=PARTITIONS).map(GroupId).collect();
        while let Some((from, to)) =
            groups.iter().find_map(|from| Some((*from, self.machine(*from).destination()?)))
        {
            let items = self.machine(from).items(to);
            let last = items.last().unwrap().0;
            let commands: Vec<Bytes> = items
                .into_iter()
                .map(|(_, item)| match item {
                    OutboxItem::Command(command) => command,
                    OutboxItem::Message { head, message } => {
                        let start = message.offset as usize;
                        let body = &self.entries[&(from, message.index)];
                        [head, body.slice(start..start + message.bytes as usize)].concat().into()
                    }
                })
                .collect();
            self.run_encoded(to, StreamId::Group(from), &commands);
            let mut builder = BatchBuilder::new(Timestamp(1000));
            builder.leader(LeaderCommand::OutboxApplied { to, seq: last });
            self.entry(from, builder.finish());
        }
    }

    pub fn head(&self) -> BackupHead {
        BackupHead {
            backup: BACKUP.to_owned(),
            cluster: "old".to_owned(),
            cluster_id: hex(&self.control.config().cluster_id),
            program: "0.2.0".to_owned(),
            level: quorate_state::LEVEL,
            taken_at_unix_ms: 1_790_000_000_000,
            settings: self.settings.clone(),
        }
    }

    /// What the groups come to, as chunks in the order of the file.
    pub fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = group_chunks(0, &self.control, Vec::new());
        for (group, partition) in (1..).zip(&self.partitions) {
            let mut bodies = Vec::new();
            let mut from = LogIndex(0);
            while let Some(index) = partition.live_from(from) {
                bodies.push((index.0, self.entries[&(GroupId(group), index)].clone()));
                from = LogIndex(index.0 + 1);
            }
            chunks.extend(group_chunks(group, partition, bodies));
        }
        chunks
    }

    /// Data of an entry.
    pub fn data(&self, group: u32, index: u64) -> &Bytes {
        &self.entries[&(GroupId(group), LogIndex(index))]
    }

    /// Its backup.
    pub fn backup(&self) -> Vec<u8> {
        write(&self.head(), &self.chunks())
    }

    /// Its backup as a file.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.backup()).unwrap();
    }
}

fn group_chunks(group: u32, machine: &impl Machine, bodies: Vec<(u64, Bytes)>) -> Vec<Chunk> {
    let records: Vec<(Bytes, Bytes)> =
        machine.records().map(|(key, value)| (key.into(), value.into())).collect();
    let mark = AppliedMark { index: machine.applied().0, term: 3, conf_state: Vec::new() };
    let end = Content::End { mark, bodies: bodies.len() as u64, records: records.len() as u64 };
    let bodies = bodies.chunks(2).map(|bodies| Content::Bodies(bodies.to_vec()));
    let records = records.chunks(CHUNK_RECORDS).map(|records| Content::Records(records.to_vec()));
    let contents = bodies.chain(records).chain([end]);
    (0..).zip(contents).map(|(number, content)| Chunk { group, number, content }).collect()
}

/// A backup of these chunks, with the end that belongs to them.
pub fn write(head: &BackupHead, chunks: &[Chunk]) -> Vec<u8> {
    let mut file = [preamble(), Frame::Head(head.clone()).encode()].concat();
    let mut end = BackupEnd { groups: 0, bodies: 0, records: 0, bytes: 0, error: None };
    for chunk in chunks {
        if let Content::End { bodies, records, .. } = chunk.content {
            end.groups += 1;
            end.bodies += bodies;
            end.records += records;
        }
        file.extend_from_slice(&Frame::Chunk(chunk.encode()).encode());
    }
    end.bytes = file.len() as u64;
    file.extend_from_slice(&Frame::End(end).encode());
    file
}

/// What is needed of a state machine of either kind.
trait ApplyEntry {
    fn apply_next(&mut self, data: &Bytes) -> (LogIndex, Vec<Effect>);
    fn destination(&self) -> Option<GroupId>;
    fn items(&self, to: GroupId) -> Vec<(StreamSeq, OutboxItem)>;
}

impl<M: Machine> ApplyEntry for M {
    fn apply_next(&mut self, data: &Bytes) -> (LogIndex, Vec<Effect>) {
        let index = LogIndex(self.applied().0 + 1);
        let mut effects = Vec::new();
        self.apply(index, data, &mut effects);
        (index, effects)
    }

    fn destination(&self) -> Option<GroupId> {
        self.outbox_destinations().next()
    }

    fn items(&self, to: GroupId) -> Vec<(StreamSeq, OutboxItem)> {
        self.outbox(to, StreamSeq(0)).collect()
    }
}
