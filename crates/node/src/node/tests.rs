//! Nodes against each other in memory: a network that keeps order, a disk that keeps everything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use bytes::BytesMut;
use quorate_codec::{
    PacketId, QoS, ReasonCode, RetainHandling, SubscriptionOptions, Text, TopicFilter, TopicName,
};
use quorate_state::Message;
use quorate_state::command::{AdvertisedListener, NodeRecord, RouteTarget, SessionExpiry, SubscribeFilter};
use quorate_state::hash::{partition_of_client, partition_of_topic};

use super::*;
use crate::action::LogRecord;
use crate::consensus::log::StoredEntry;
use crate::edge::{ClientEvent, ClientRequest, ConnectRequest, PublishOutcome};

mod disk;
mod duty;
mod election;
mod listing;
mod membership;
mod shares;

/// A log in memory, written when the node asks for it.
#[derive(Default)]
struct MemoryLog(Mutex<BTreeMap<(GroupId, u64), StoredEntry>>);

impl MemoryLog {
    fn write(&self, records: &[LogRecord]) {
        let mut log = self.0.lock().unwrap();
        for record in records {
            if let LogRecord::Entry { group, index, term, entry_type, data, context } = record {
                let stored = StoredEntry {
                    index: *index,
                    term: *term,
                    entry_type: *entry_type,
                    data: data.clone(),
                    context: context.clone(),
                };
                log.insert((*group, index.0), stored);
            }
        }
    }
}

impl LogSource for MemoryLog {
    fn entries(&self, group: GroupId, low: LogIndex, high: LogIndex, _bytes_max: u64) -> Vec<StoredEntry> {
        let log = self.0.lock().unwrap();
        log.range((group, low.0)..(group, high.0)).map(|(_, entry)| entry.clone()).collect()
    }

    fn term(&self, group: GroupId, index: LogIndex) -> Option<u64> {
        self.0.lock().unwrap().get(&(group, index.0)).map(|entry| entry.term)
    }

    fn body(&self, group: GroupId, index: LogIndex) -> Option<Bytes> {
        self.0.lock().unwrap().get(&(group, index.0)).map(|entry| entry.data.clone())
    }
}

struct Member {
    node: Node,
    log: Arc<MemoryLog>,
    events: BTreeMap<ConnId, Vec<ClientEvent>>,
    lease_until: Duration,
    down: bool,
    stopped: Option<String>,
    checkpoints: BTreeMap<GroupId, Records>,
    /// Commit indexes as written.
    commits: BTreeMap<GroupId, u64>,
    operated: BTreeMap<OperationNumber, Result<(), String>>,
}

struct World {
    now: Duration,
    members: BTreeMap<NodeId, Member>,
    network: VecDeque<(NodeId, NodeId, PeerMessage)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose disk hangs, with the last write that waits.
    hung: BTreeMap<NodeId, Option<u64>>,
    snapshots: BTreeMap<(GroupId, u64), Records>,
    /// Answers to operations, in order.
    operated: Vec<Result<(), String>>,
    /// Where nodes were last told that clients can go.
    elsewhere: BTreeMap<NodeId, Vec<AdvertisedListener>>,
    /// What nodes were told to be wanted of them.
    duties: Vec<(NodeId, Duty)>,
    /// Groups that got a new leader, and whether the one before handed over.
    led: Vec<(GroupId, bool)>,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn text(text: &str) -> Text {
    Text::parse(text).unwrap()
}

fn cluster_config() -> ClusterConfig {
    ClusterConfig { cluster_id: [7; 16], name: text("test"), partitions: 4, replication: 3 }
}

fn record(id: u64) -> NodeRecord {
    NodeRecord {
        id: NodeId(id),
        name: text(&format!("n{id}")),
        disk: [u8::try_from(id).unwrap(); 16],
        incarnation: Incarnation(1),
        peer: text(&format!("127.0.0.1:{id}")),
        mqtt: text(""),
        admin: text(""),
        zone: text(""),
        version: text("0.1.0"),
        level: quorate_state::LEVEL,
    }
}

fn listener(record: &NodeRecord) -> AdvertisedListener {
    let address = text(&format!("{}.example:1883", record.name.as_str()));
    AdvertisedListener { name: text("tcp"), address }
}

fn config(record: NodeRecord) -> NodeConfig {
    config_with_seed(record, 42)
}

fn config_with_seed(record: NodeRecord, seed: u64) -> NodeConfig {
    NodeConfig {
        cluster: cluster_config(),
        partition: PartitionConfig::new(GroupId(1)),
        listeners: vec![listener(&record)],
        seed,
        memory: MemoryShares::default(),
        record,
    }
}

fn member(config: NodeConfig, groups: Vec<RestoredGroup>, now: Duration) -> Member {
    let log = Arc::new(MemoryLog::default());
    let checkpoints = groups
        .iter()
        .map(|group| {
            let records = group.records.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
            (group.group, records)
        })
        .collect();
    let source: Arc<dyn LogSource> = Arc::clone(&log) as Arc<dyn LogSource>;
    let node = Node::new(config, groups, source, now).unwrap();
    Member {
        node,
        log,
        events: BTreeMap::new(),
        lease_until: Duration::ZERO,
        down: false,
        stopped: None,
        checkpoints,
        commits: BTreeMap::new(),
        operated: BTreeMap::new(),
    }
}

impl World {
    fn new(count: u64) -> World {
        World::with_seed(count, 42)
    }

    fn with_seed(count: u64, seed: u64) -> World {
        let now = Duration::from_secs(100);
        let records: Vec<NodeRecord> = (1..=count).map(record).collect();
        let mut world = World {
            now,
            members: BTreeMap::new(),
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            hung: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            operated: Vec::new(),
            duties: Vec::new(),
            led: Vec::new(),
            elsewhere: BTreeMap::new(),
        };
        for record in &records {
            let config = config_with_seed(record.clone(), seed);
            let groups = Node::bootstrap_groups(&config.cluster, &config.partition, &records, record.id);
            world.members.insert(record.id, member(config, groups, now));
        }
        let ids: Vec<NodeId> = world.members.keys().copied().collect();
        for a in &ids {
            for b in ids.iter().filter(|b| *b != a) {
                world.event(*a, Event::PeerUp(*b));
            }
        }
        world
    }

    fn event(&mut self, id: NodeId, event: Event) {
        let now = self.now;
        let member = self.members.get_mut(&id).unwrap();
        member.node.step(event, now);
        self.turn(id);
    }

    fn turn(&mut self, id: NodeId) {
        let now = self.now;
        let member = self.members.get_mut(&id).unwrap();
        member.node.turn(now);
        let mut later = Vec::new();
        while let Some(action) = member.node.poll_action() {
            match action {
                Action::Send(to, message) => {
                    // Through the wire form, as a real link would.
                    let mut frame = BytesMut::new();
                    message.encode(&mut frame);
                    self.network.push_back((id, to, PeerMessage::decode(frame.freeze()).unwrap()));
                }
                Action::Persist { ticket, records, .. } => {
                    member.log.write(&records);
                    for record in &records {
                        if let LogRecord::HardState { group, commit, .. } = record {
                            member.commits.insert(*group, *commit);
                        }
                    }
                    match self.hung.get_mut(&id) {
                        Some(waits) => *waits = Some(ticket),
                        None => later.push(Event::Persisted(ticket)),
                    }
                }
                Action::Client(conn, event) => member.events.entry(conn).or_default().push(event),
                Action::LeaseUntil(until) => member.lease_until = until,
                Action::Operated { number, outcome } => {
                    assert_eq!(member.operated.insert(number, outcome.clone()), None, "answered once");
                    self.operated.push(outcome);
                }
                Action::Elsewhere(elsewhere) => drop(self.elsewhere.insert(id, elsewhere)),
                Action::Duty(duty) => self.duties.push((id, duty)),
                Action::Note(Note::Leading { group, handed_over, .. }) => self.led.push((group, handed_over)),
                Action::Checkpoint { group, index, changes, .. } => {
                    let records = member.checkpoints.entry(group).or_default();
                    for (key, value) in changes {
                        match value {
                            Some(value) => records.insert(key, value),
                            None => records.remove(&key),
                        };
                    }
                    later.push(Event::Checkpointed { group, index });
                }
                Action::SendSnapshot { to, group, message } => {
                    let index = message.get_snapshot().get_metadata().index;
                    self.snapshots.insert((group, index), member.checkpoints[&group].clone());
                    later.push(Event::SnapshotSent { to, group, delivered: true });
                    self.network.push_back((id, to, PeerMessage::Raft(group, message)));
                }
                Action::InstallSnapshot { group, index, .. } => {
                    let records = self.snapshots[&(group, index.0)].clone();
                    let installed = records
                        .iter()
                        .map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
                        .collect();
                    member.checkpoints.insert(group, records);
                    later.push(Event::SnapshotInstalled { group, index, records: installed });
                }
                Action::Lost(reason) | Action::Stop(reason) => {
                    member.stopped = Some(reason);
                    member.down = true;
                }
                Action::RemoveGroup(group) => {
                    member.log.0.lock().unwrap().retain(|(of, _), _| *of != group);
                    member.checkpoints.remove(&group);
                    later.push(Event::GroupRemoved(group));
                }
                Action::NewIncarnation => {
                    let next = Incarnation(member.node.incarnation().0 + 1);
                    later.push(Event::Incarnation(next));
                }
                _ => {}
            }
        }
        for event in later {
            self.event(id, event);
        }
    }

    fn drain(&mut self) {
        while let Some((from, to, message)) = self.network.pop_front() {
            let down = self.members.get(&to).is_none_or(|member| member.down);
            if !down && !self.cut.contains(&(from, to)) {
                self.event(to, Event::Peer(from, message));
            }
        }
    }

    /// Lets time pass until the condition holds.
    fn until(&mut self, what: &str, condition: impl Fn(&World) -> bool) {
        for _ in 0..600 {
            self.drain();
            if condition(self) {
                return;
            }
            self.now += limits::TICK;
            let up: Vec<NodeId> =
                self.members.iter().filter(|(_, member)| !member.down).map(|(id, _)| *id).collect();
            for id in up {
                self.event(id, Event::Tick);
            }
        }
        for (id, member) in &self.members {
            println!("{id}: {:?}", member.node.readiness(self.now));
            println!("{id}: {:?}", member.node.status(false, self.now));
        }
        panic!("30 seconds passed without {what}");
    }

    fn ready(&self) -> bool {
        self.members
            .values()
            .filter(|member| !member.down)
            .all(|member| member.node.readiness(self.now).iter().all(|clause| clause.ok))
    }

    fn request(&mut self, node: u64, conn: u64, request: ClientRequest) {
        self.event(NodeId(node), Event::Client(ConnId(conn), request));
    }

    fn events(&self, node: u64, conn: u64) -> &[ClientEvent] {
        self.members[&NodeId(node)].events.get(&ConnId(conn)).map_or(&[], Vec::as_slice)
    }

    /// Sends CONNECT and waits for nothing.
    fn begin_connect(&mut self, node: u64, conn: u64, client_id: &str, expiry: SessionExpiry) {
        let connect = ConnectRequest {
            client_id: text(client_id),
            clean_start: false,
            expiry,
            receive_max: 10,
            principal: text(""),
            will: None,
        };
        self.request(node, conn, ClientRequest::Connect(Box::new(connect)));
    }

    fn connect(&mut self, node: u64, conn: u64, client_id: &str, expiry: SessionExpiry) -> bool {
        self.begin_connect(node, conn, client_id, expiry);
        self.until("CONNECT answered", |world| !world.events(node, conn).is_empty());
        match &self.events(node, conn)[0] {
            ClientEvent::Connected { session_present, .. } => *session_present.get(),
            other => panic!("{other:?}"),
        }
    }

    fn subscribe(&mut self, node: u64, conn: u64, filter: &str) {
        self.request(
            node,
            conn,
            ClientRequest::Subscribe {
                packet_id: PacketId::new(1).unwrap(),
                filters: vec![subscription(filter)],
            },
        );
        self.until("SUBSCRIBE answered", |world| {
            world.events(node, conn).iter().any(|event| matches!(event, ClientEvent::Subscribed { .. }))
        });
    }

    fn publish(&mut self, node: u64, conn: u64, number: u64, topic: &str, group: GroupId, retain: bool) {
        let message = Message {
            topic: TopicName::new(text(topic)).unwrap(),
            qos: QoS::AtLeastOnce,
            retain,
            expiry_s: None,
            publisher: 0,
            properties: Bytes::new(),
            payload: Bytes::from(number.to_string()),
        };
        let command = Command::Publish { message, store_retained: retain, fan_out: true };
        let mut encoded = BytesMut::new();
        command.encode(&mut encoded);
        self.request(node, conn, ClientRequest::Publish { number, targets: vec![(group, encoded.freeze())] });
    }

    fn applied(&self, node: u64, conn: u64) -> Vec<u64> {
        self.events(node, conn)
            .iter()
            .filter_map(|event| match event {
                ClientEvent::PublishApplied { number, outcome: PublishOutcome::Applied } => {
                    Some(*number.get())
                }
                _ => None,
            })
            .collect()
    }

    fn delivered(&self, node: u64, conn: u64) -> Vec<String> {
        self.events(node, conn)
            .iter()
            .filter_map(|event| match event {
                ClientEvent::Deliver(delivery) => {
                    Some(String::from_utf8(delivery.message.as_ref().unwrap().payload.to_vec()).unwrap())
                }
                _ => None,
            })
            .collect()
    }

    fn kill(&mut self, node: u64) {
        self.members.get_mut(&NodeId(node)).unwrap().down = true;
        let others: Vec<NodeId> = self.members.keys().copied().filter(|id| id.0 != node).collect();
        for id in others {
            self.event(id, Event::PeerDown(NodeId(node)));
        }
    }
}

fn subscription(filter: &str) -> SubscribeFilter {
    SubscribeFilter {
        filter: TopicFilter::new(text(filter)).unwrap(),
        options: SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        },
        identifier: None,
    }
}

fn home(client_id: &str) -> GroupId {
    partition_of_client(client_id, cluster_config().partitions)
}

const DURABLE: SessionExpiry = SessionExpiry::Never;

#[test]
fn cluster_of_any_size_becomes_ready() {
    for count in [1, 3, 5] {
        let mut world = World::new(count);
        world.until("ready", World::ready);
    }
}

#[test]
fn publish_reaches_durable_session_on_another_node_once_in_order() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "sub", DURABLE);
    world.subscribe(1, 1, "a/#");
    world.connect(3, 2, "pub", SessionExpiry::AtClose);
    for number in 1..=5 {
        world.publish(3, 2, number, "a/b", home("sub"), false);
    }
    world.until("all applied", |world| world.applied(3, 2).len() == 5);
    world.until("all delivered", |world| world.delivered(1, 1).len() == 5);
    assert_eq!(world.applied(3, 2), [1, 2, 3, 4, 5]);
    assert_eq!(world.delivered(1, 1), ["1", "2", "3", "4", "5"]);
}

#[test]
fn leader_killed_under_load_loses_and_repeats_nothing() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "sub", DURABLE);
    world.subscribe(1, 1, "a/#");
    let group = home("sub");
    let leader = world.members[&NodeId(1)].node.leader_of(group).unwrap();
    let publisher = if leader == NodeId(1) { 2 } else { 1 };
    world.connect(publisher, 2, "pub", SessionExpiry::AtClose);
    if leader != NodeId(1) {
        for number in 1..=3 {
            world.publish(publisher, 2, number, "a/b", group, false);
        }
        world.kill(leader.0);
        for number in 4..=6 {
            world.publish(publisher, 2, number, "a/b", group, false);
        }
        world.until("all applied", |world| world.applied(publisher, 2).len() == 6);
        world.until("all delivered", |world| world.delivered(1, 1).len() == 6);
        assert_eq!(world.delivered(1, 1), ["1", "2", "3", "4", "5", "6"]);
    }
}

#[test]
fn node_without_a_replica_finds_the_new_leader_after_a_kill() {
    let mut world = World::new(4);
    world.until("ready", World::ready);
    let holds =
        |world: &World, node: u64, group| world.members[&NodeId(node)].node.groups.contains_key(&group);
    let places = (1..=4).flat_map(|node| (1..=4).map(move |group| (node, GroupId(group))));
    let (outside, group) = places.clone().find(|(node, group)| !holds(&world, *node, *group)).unwrap();
    world.connect(outside, 1, "pub", SessionExpiry::AtClose);
    world.publish(outside, 1, 1, "a/b", group, false);
    world.until("applied", |world| world.applied(outside, 1) == [1]);
    let leader = world.members[&NodeId(outside)].node.leader_of(group).unwrap();
    world.kill(leader.0);
    world.publish(outside, 1, 2, "a/b", group, false);
    world.until("applied by the next leader", |world| world.applied(outside, 1) == [1, 2]);
}

#[test]
fn durable_subscription_takes_the_higher_messages_from_its_partition_alone() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(2, 1, "s", SessionExpiry::Never);
    world.connect(2, 2, "transient", SessionExpiry::AtClose);
    let subscribe = |world: &mut World, conn, qos| {
        let mut lowered = subscription("t");
        lowered.options.qos = qos;
        let packet_id = PacketId::new(1).unwrap();
        let seen = world.events(2, conn).len();
        world.request(2, conn, ClientRequest::Subscribe { packet_id, filters: vec![lowered] });
        world.until("SUBACK", |world| world.events(2, conn).len() > seen);
    };
    let direct = |world: &mut World, wanted: &[RouteTarget]| {
        world.until("every node knows these targets and no others", |world| {
            world.members.values().all(|member| {
                let targets = member.node.control().unwrap().routes().map(|(_, target)| target);
                targets
                    .filter(|target| !matches!(target, RouteTarget::Partition(_)))
                    .eq(wanted.iter().copied())
            })
        });
    };
    let (all, low) = (RouteTarget::Node(NodeId(2)), RouteTarget::NodeQos0(NodeId(2)));
    subscribe(&mut world, 1, QoS::AtLeastOnce);
    direct(&mut world, &[low]);
    subscribe(&mut world, 1, QoS::AtMostOnce);
    direct(&mut world, &[all]);
    subscribe(&mut world, 1, QoS::ExactlyOnce);
    direct(&mut world, &[low]);
    subscribe(&mut world, 2, QoS::AtLeastOnce);
    direct(&mut world, &[all, low]);
    world.request(2, 2, ClientRequest::Closed { expiry: None, normal: true });
    direct(&mut world, &[low]);
}

#[test]
fn takeover_waits_until_the_former_connection_is_closed() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "c", DURABLE);
    world.begin_connect(2, 2, "c", DURABLE);
    world.until("old one told", |world| {
        matches!(world.events(1, 1).last(), Some(ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER)))
    });
    world.drain();
    assert!(world.events(2, 2).is_empty(), "CONNACK before the old connection was closed");
    world.request(1, 1, ClientRequest::Closed { expiry: None, normal: false });
    world.until("new one open", |world| !world.events(2, 2).is_empty());
    assert!(
        matches!(&world.events(2, 2)[0], ClientEvent::Connected { session_present, .. } if *session_present.get())
    );
}

#[test]
fn takeover_given_up_half_way_leaves_the_wait_to_the_next() {
    for gives_up_before_its_answer in [true, false] {
        let mut world = World::new(3);
        world.until("ready", World::ready);
        world.connect(1, 1, "c", DURABLE);
        // The first connection is told to close, and does not yet.
        world.begin_connect(2, 2, "c", DURABLE);
        if gives_up_before_its_answer {
            world.request(2, 2, ClientRequest::Closed { expiry: None, normal: false });
        }
        world.until("old one told", |world| !world.events(1, 1)[1..].is_empty());
        world.drain();
        if !gives_up_before_its_answer {
            world.request(2, 2, ClientRequest::Closed { expiry: None, normal: false });
        }
        world.begin_connect(3, 3, "c", DURABLE);
        let start = world.now;
        world.until("time passed", |world| world.now > start + limits::LEASE_WAIT * 2);
        assert!(world.events(3, 3).is_empty(), "CONNACK while the first connection may acknowledge");
        world.request(1, 1, ClientRequest::Closed { expiry: None, normal: false });
        world.until("the last one open", |world| !world.events(3, 3).is_empty());
        assert!(matches!(&world.events(3, 3)[0], ClientEvent::Connected { .. }));
        assert!(!world.events(2, 2).iter().any(|event| matches!(event, ClientEvent::Connected { .. })));
    }
}

#[test]
fn takeovers_wait_on_one_node_for_each_other() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "c", DURABLE);
    world.begin_connect(1, 2, "c", DURABLE);
    world.begin_connect(1, 3, "c", DURABLE);
    world.until("first two told", |world| {
        let closed = |conn| matches!(world.events(1, conn).last(), Some(ClientEvent::Close(_)));
        closed(1) && closed(2)
    });
    world.request(1, 2, ClientRequest::Closed { expiry: None, normal: false });
    world.drain();
    assert!(world.events(1, 3).is_empty(), "CONNACK while the first connection may acknowledge");
    world.request(1, 1, ClientRequest::Closed { expiry: None, normal: false });
    world.until("the last one open", |world| !world.events(1, 3).is_empty());
    assert!(world.members[&NodeId(1)].node.connections.awaited.is_empty());
}

#[test]
fn deliveries_that_come_before_the_answer_to_connect_are_given_once_after_it() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let group = home("c");
    let leader = world.members[&NodeId(1)].node.leader_of(group).unwrap().0;
    let node = if leader == 1 { 2 } else { 1 };
    world.connect(node, 1, "c", DURABLE);
    world.subscribe(node, 1, "a/#");
    world.request(node, 1, ClientRequest::Closed { expiry: None, normal: false });
    world.connect(leader, 2, "pub", SessionExpiry::AtClose);
    for number in 1..=3 {
        world.publish(leader, 2, number, "a/b", group, false);
    }
    world.until("queued", |world| world.applied(leader, 2).len() == 3);
    world.begin_connect(node, 3, "c", DURABLE);
    // What the leader sends to the node is held back, but for the deliveries.
    for _ in 0..50 {
        let held: Vec<_> = world.network.drain(..).collect();
        let (early, late): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, to, message)| {
            *to != NodeId(node) || matches!(message, PeerMessage::Deliver { .. })
        });
        if early.is_empty() {
            world.network.extend(late);
            break;
        }
        world.network.extend(early);
        world.drain();
        for late in late.into_iter().rev() {
            world.network.push_front(late);
        }
    }
    world.until("all delivered", |world| world.delivered(node, 3).len() == 3);
    assert!(matches!(&world.events(node, 3)[0], ClientEvent::Connected { .. }), "CONNACK comes first");
    assert_eq!(world.delivered(node, 3), ["1", "2", "3"]);
    for (peer, other) in [(node, leader), (leader, node)] {
        world.event(NodeId(peer), Event::PeerDown(NodeId(other)));
        world.event(NodeId(peer), Event::PeerUp(NodeId(other)));
    }
    world.until("ready", World::ready);
    assert_eq!(world.delivered(node, 3), ["1", "2", "3"], "a resync gives nothing twice");
}

#[test]
fn deliveries_for_a_connection_of_an_earlier_incarnation_reach_nobody() {
    let mut world = World::new(1);
    world.until("ready", World::ready);
    world.connect(1, 7, "c", DURABLE);
    world.subscribe(1, 7, "a/#");
    let group = home("c");
    let message = Message {
        topic: TopicName::new(text("a")).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        publisher: 0,
        properties: Bytes::new(),
        payload: Bytes::from_static(b"not for you"),
    };
    let delivery = crate::edge::SessionDelivery {
        seq: quorate_state::DeliverySeq(1),
        packet_id: PacketId::new(1).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: true,
        identifiers: Vec::new(),
        expiry_s: None,
        message: Some(message),
    };
    let items = vec![(ConnId(7), quorate_state::SessionId(1), delivery)];
    let deliver = PeerMessage::Deliver { group, incarnation: Incarnation(0), items };
    world.event(NodeId(1), Event::Peer(NodeId(2), deliver));
    world.drain();
    assert_eq!(world.delivered(1, 7), Vec::<String>::new());
    world.publish(1, 7, 1, "a/b", group, false);
    world.until("delivered", |world| world.delivered(1, 7) == ["1"]);
}

#[test]
fn delivery_that_a_link_lost_is_made_again_although_its_leader_is_behind_in_control() {
    let mut world = World::new(5);
    world.until("ready", World::ready);
    world.until("leadership spread", |world| {
        world.members.values().all(|member| member.node.leads.len() == 1)
    });
    let control = world.leader_of_control();
    let nodes: Vec<NodeId> = world.members.keys().copied().collect();
    let leader_of = |world: &World, group: GroupId| {
        nodes.iter().copied().find(|id| world.members[id].node.leads.contains(&group)).unwrap()
    };
    let names = ["sub-a", "sub-b", "sub-c", "sub-d", "sub-e", "sub-f"];
    let sub = names.into_iter().find(|name| leader_of(&world, home(name)) != control).unwrap();
    let (group, leader) = (home(sub), leader_of(&world, home(sub)));
    // The session is on a node that has no replica of its partition, the publisher on another one.
    let apart = |id: &NodeId| ![control, leader].contains(id);
    let has_none = |id: &NodeId| !world.members[id].node.groups.contains_key(&group);
    let holder = nodes.iter().copied().filter(apart).find(has_none).unwrap();
    let publisher = nodes.iter().copied().filter(apart).find(|id| *id != holder).unwrap();
    world.connect(holder.0, 1, sub, DURABLE);
    world.subscribe(holder.0, 1, "a/#");
    world.connect(publisher.0, 2, "pub", SessionExpiry::AtClose);
    let set = |world: &mut World, a: NodeId, b: NodeId, is_cut: bool| {
        for way in [(a, b), (b, a)] {
            let _changed = if is_cut { world.cut.insert(way) } else { world.cut.remove(&way) };
        }
    };
    // The leader hears no more of control, and so not that the node of the session begins anew.
    set(&mut world, control, leader, true);
    set(&mut world, control, holder, true);
    world.until("declared dead", |world| {
        world.members[&publisher].node.certainly_dead(holder, Incarnation(1))
    });
    set(&mut world, control, holder, false);
    world.until("there again", |world| {
        let (record, status) = world.members[&publisher].node.control().unwrap().node(holder).unwrap();
        record.incarnation == Incarnation(2) && status == quorate_state::control::NodeStatus::Live
    });
    assert!(world.connect(holder.0, 3, sub, DURABLE), "the session goes on");
    set(&mut world, leader, holder, true);
    world.publish(publisher.0, 2, 1, "a/b", group, false);
    world.until("applied", |world| world.applied(publisher.0, 2) == [1]);
    world.drain();
    assert!(world.delivered(holder.0, 3).is_empty(), "it was lost with the link");
    set(&mut world, leader, holder, false);
    for (at, of) in [(leader, holder), (holder, leader)] {
        world.event(at, Event::PeerDown(of));
        world.event(at, Event::PeerUp(of));
    }
    world.until("delivered", |world| world.delivered(holder.0, 3) == ["1"]);
    let known = world.members[&leader].node.control().unwrap().node(holder).unwrap();
    assert_eq!(known.0.incarnation, Incarnation(1), "the leader does not know it yet");
}

#[test]
fn takeover_from_a_dead_node_waits_for_its_lease_to_end() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "c", DURABLE);
    let lease = world.members[&NodeId(1)].lease_until;
    world.kill(1);
    assert!(world.connect(2, 2, "c", DURABLE), "Session Present");
    assert!(world.now >= lease, "opened at {:?}, lease until {lease:?}", world.now);
}

#[test]
fn minority_loses_its_lease_within_a_second_and_gets_it_back() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.kill(2);
    world.kill(3);
    let start = world.now;
    world.until("fenced", |world| !world.members[&NodeId(1)].node.lease.holds(world.now));
    assert!(world.now - start <= limits::LEASE + limits::TICK);
    for id in [2, 3] {
        world.members.get_mut(&NodeId(id)).unwrap().down = false;
    }
    for (a, b) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        world.event(NodeId(a), Event::PeerDown(NodeId(b)));
        world.event(NodeId(a), Event::PeerUp(NodeId(b)));
    }
    world.until("ready again", World::ready);
}

#[test]
fn retained_message_is_read_after_suback_from_its_partition() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(2, 1, "pub", SessionExpiry::AtClose);
    let group = partition_of_topic("r/1", cluster_config().partitions);
    world.publish(2, 1, 1, "r/1", group, true);
    world.until("applied", |world| world.applied(2, 1).len() == 1);
    for (node, expiry) in [(1, SessionExpiry::AtClose), (3, DURABLE)] {
        world.connect(node, 9, &format!("sub-{node}"), expiry);
        world.subscribe(node, 9, "r/+");
        world.until("retained", |world| {
            world.events(node, 9).iter().any(|event| match event {
                ClientEvent::Retained { message, .. } => message.topic.as_str() == "r/1",
                ClientEvent::Deliver(delivery) => delivery.retain,
                _ => false,
            })
        });
    }
}

#[test]
fn retained_messages_of_groups_without_a_replica_here_reach_every_node() {
    // Each node lacks one of four partitions, and has heard nothing of who leads it.
    let mut world = World::new(4);
    world.until("ready", World::ready);
    for node in 1..=4 {
        world.connect(node, node, &format!("sub-{node}"), SessionExpiry::AtClose);
    }
    for number in 1..=20 {
        let topic = format!("kept/{number}");
        let group = partition_of_topic(&topic, cluster_config().partitions);
        world.publish(1, 1, number, &topic, group, true);
    }
    world.until("all retained", |world| world.applied(1, 1).len() == 20);
    let seen = |world: &World, node: u64, what: fn(&ClientEvent) -> bool| {
        world.events(node, node).iter().filter(|event| what(event)).count()
    };
    let retained = |event: &ClientEvent| matches!(event, ClientEvent::Retained { .. });
    let given = |event: &ClientEvent| matches!(event, ClientEvent::RetainedGiven);
    for node in 1..=4 {
        world.subscribe(node, node, "kept/+");
        let mut pages = 0;
        while seen(&world, node, retained) < 20 {
            world.until("a page", |world| {
                seen(world, node, given) > pages || seen(world, node, retained) == 20
            });
            pages = seen(&world, node, given);
            world.request(node, node, ClientRequest::RetainedTaken);
        }
    }
}

#[test]
fn retained_messages_come_in_pages_that_the_client_asks_for() {
    let mut world = World::new(1);
    world.until("ready", World::ready);
    world.connect(1, 1, "pub", SessionExpiry::AtClose);
    let count = 200_u64;
    for number in 1..=count {
        let topic = format!("r/{number}");
        let group = partition_of_topic(&topic, cluster_config().partitions);
        world.publish(1, 1, number, &topic, group, true);
    }
    world.until("applied", |world| world.applied(1, 1).len() == 200);
    world.connect(1, 2, "sub", SessionExpiry::AtClose);
    world.subscribe(1, 2, "r/+");
    let seen = |world: &World, what: fn(&ClientEvent) -> bool| {
        world.events(1, 2).iter().filter(|event| what(event)).count()
    };
    let retained = |event: &ClientEvent| matches!(event, ClientEvent::Retained { .. });
    let given = |event: &ClientEvent| matches!(event, ClientEvent::RetainedGiven);
    let mut pages = 0;
    while seen(&world, retained) < 200 {
        world.until("a page", |world| seen(world, given) > pages);
        pages = seen(&world, given);
        let before = seen(&world, retained);
        assert!(before <= pages * limits::RETAINED_PAGE_MESSAGES_MAX);
        let start = world.now;
        world.until("time passed", |world| world.now > start + Duration::from_secs(1));
        assert_eq!(seen(&world, retained), before, "the client has not asked for more");
        world.request(1, 2, ClientRequest::RetainedTaken);
    }
    let mut topics: Vec<String> = world
        .events(1, 2)
        .iter()
        .filter_map(|event| match event {
            ClientEvent::Retained { message, .. } => Some(message.topic.as_str().to_owned()),
            _ => None,
        })
        .collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 200);
    world.request(1, 2, ClientRequest::Closed { expiry: None, normal: false });
    let node = &world.members[&NodeId(1)].node;
    assert!(node.connections.waiting.is_empty() && !node.retained.is_full(ConnId(2)));
}

#[test]
fn suback_waits_while_too_many_retained_reads_wait() {
    let mut world = World::new(1);
    world.until("ready", World::ready);
    world.connect(1, 1, "c", SessionExpiry::AtClose);
    let group = partition_of_topic("r/1", cluster_config().partitions);
    world.publish(1, 1, 1, "r/1", group, true);
    world.until("applied", |world| world.applied(1, 1).len() == 1);
    let filters = vec![subscription("r/1"); limits::RETAINED_READS_QUEUED_MAX + 2];
    let subscribe = |packet_id, filters| ClientRequest::Subscribe {
        packet_id: PacketId::new(packet_id).unwrap(),
        filters,
    };
    world.request(1, 1, subscribe(1, filters));
    world.request(1, 1, subscribe(2, vec![subscription("r/1")]));
    let subacks = |world: &World| {
        let events = world.events(1, 1).iter();
        events.filter(|event| matches!(event, ClientEvent::Subscribed { .. })).count()
    };
    world.until("first SUBACK and a page", |world| {
        world.events(1, 1).iter().any(|event| matches!(event, ClientEvent::RetainedGiven))
    });
    assert_eq!(subacks(&world), 1);
    for _ in 0..3 {
        world.request(1, 1, ClientRequest::RetainedTaken);
        world.drain();
    }
    world.until("second SUBACK", |world| subacks(world) == 2);
}

#[test]
fn entry_of_an_unknown_version_stops_the_node_before_anything_is_applied() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let group = home("c");
    let leader = world.members[&NodeId(1)].node.leader_of(group).unwrap();
    let follower = world.members.keys().copied().find(|id| *id != leader).unwrap();
    world.connect(leader.0, 1, "c", SessionExpiry::AtClose);
    world.publish(leader.0, 1, 1, "a", group, false);
    // What the leader sends is of the next version when it arrives at one follower.
    for _ in 0..20 {
        for (_, to, message) in &mut world.network {
            let PeerMessage::Raft(of, raft) = message else { continue };
            if *to == follower && *of == group {
                for entry in raft.entries.iter_mut().filter(|entry| !entry.data.is_empty()) {
                    let mut data = entry.data.to_vec();
                    data[0] += 1;
                    entry.data = data.into();
                }
            }
        }
        world.drain();
        world.now += limits::TICK;
        for id in [leader, follower] {
            if !world.members[&id].down {
                world.event(id, Event::Tick);
            }
        }
    }
    let member = &world.members[&follower];
    let reason = member.stopped.as_deref().unwrap();
    assert!(reason.contains("version 2") && reason.contains("install it here too"), "{reason}");
    let hash = |id| {
        let groups = world.members[&id].node.status(true, world.now).groups;
        groups.into_iter().find(|status| status.group == group).map(|status| status.hash)
    };
    assert_ne!(hash(follower), hash(leader), "nothing of it was applied");
}

#[test]
fn node_declared_dead_while_alive_starts_a_new_incarnation() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(3, 1, "c", DURABLE);
    for other in [1, 2] {
        world.cut.insert((NodeId(3), NodeId(other)));
        world.cut.insert((NodeId(other), NodeId(3)));
    }
    world.until("declared dead", |world| {
        world.members[&NodeId(1)].node.certainly_dead(NodeId(3), Incarnation(1))
    });
    world.cut.clear();
    world.until("new incarnation ready", |world| {
        world.members[&NodeId(3)].node.incarnation() == Incarnation(2) && world.ready()
    });
    assert!(world.events(3, 1).iter().any(|event| matches!(event, ClientEvent::Close(_))));
}

#[test]
fn wiped_node_rejoins_under_a_new_identity_with_equal_state() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 1, "sub", DURABLE);
    world.subscribe(1, 1, "a/#");
    world.kill(3);
    world.until("declared dead", |world| {
        world.members[&NodeId(1)].node.certainly_dead(NodeId(3), Incarnation(1))
    });
    world.members.remove(&NodeId(3));
    let fresh = NodeRecord { id: NodeId(0), disk: [99; 16], ..record(3) };
    world.event(NodeId(1), Event::Join(Box::new(fresh.clone())));
    let now = world.now;
    let joined = NodeRecord { id: NodeId(4), ..fresh };
    let newcomer = member(config(joined), vec![RestoredGroup::empty(CONTROL)], now);
    let knows = newcomer.node.readiness(now).iter().any(|clause| clause.name == "control" && clause.ok);
    assert!(!knows, "a node without the state of control is not ready for that reason");
    world.members.insert(NodeId(4), newcomer);
    for (a, b) in [(1, 4), (2, 4), (4, 1), (4, 2)] {
        world.event(NodeId(a), Event::PeerUp(NodeId(b)));
    }
    world.until("voter everywhere", |world| {
        let status = world.members[&NodeId(4)].node.status(false, world.now);
        let votes = status.groups.iter().filter(|group| group.voters.contains(&NodeId(4))).count();
        assert!(!status.ready || votes == 5, "ready with a vote in {votes} of 5 groups");
        status.groups.len() == 5
            && status.groups.iter().all(|group| group.voters == [NodeId(1), NodeId(2), NodeId(4)])
            && world.ready()
    });
    let hashes = |id| {
        let status = world.members[&NodeId(id)].node.status(true, world.now);
        status.groups.into_iter().map(|group| (group.applied, group.hash)).collect::<Vec<_>>()
    };
    assert_eq!(hashes(4), hashes(1));
}

#[test]
fn node_elects_nobody_who_lacks_what_others_knew_to_be_committed() {
    let mut world = World::new(3);
    let records: Vec<NodeRecord> = (1..=3).map(record).collect();
    let config = config(records[0].clone());
    let mut groups = Node::bootstrap_groups(&config.cluster, &config.partition, &records, NodeId(1));
    for group in &mut groups {
        // All have the first entry alone.
        group.committed_elsewhere = Position { term: 1, index: 3 };
    }
    world.members.insert(NodeId(1), member(config, groups, world.now));
    for peer in [2, 3] {
        world.event(NodeId(1), Event::PeerUp(NodeId(peer)));
    }
    let leaders = |world: &World| -> BTreeSet<u64> {
        let of = |member: &Member| -> Vec<u64> {
            let status = member.node.status(false, world.now);
            status
                .groups
                .iter()
                .filter(|group| group.leader == Some(member.node.id()))
                .map(|_| member.node.id().0)
                .collect()
        };
        world.members.values().filter(|member| !member.down).flat_map(of).collect()
    };
    world.members.get_mut(&NodeId(3)).unwrap().down = true;
    for _ in 0..400 {
        world.drain();
        world.now += limits::TICK;
        for id in [NodeId(1), NodeId(2)] {
            world.event(id, Event::Tick);
        }
        assert_eq!(leaders(&world), BTreeSet::new(), "neither has the entry");
    }
    world.members.get_mut(&NodeId(3)).unwrap().down = false;
    // Here the two others may elect each other. What they write is beyond what was known, and the first one takes part again.
    world.until("ready", World::ready);
    world.kill(2);
    world.until("ready without one", World::ready);
}

#[test]
fn node_that_is_being_declared_lost_gets_no_lease_any_more() {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    let leader_of = |world: &World| world.members[&NodeId(1)].node.leader_of(CONTROL).unwrap();
    let leader = leader_of(&world);
    let lost = NodeId(leader.0 % 3 + 1);
    // The leader hears nothing of the node, and never that anybody has written what it proposes.
    let run = |world: &mut World, ticks: u32, is_cut: bool| {
        for _ in 0..ticks {
            while let Some((from, to, message)) = world.network.pop_front() {
                let is_cut = is_cut && [from, to].contains(&lost) && [from, to].contains(&leader);
                let is_written = matches!(&message, PeerMessage::Raft(CONTROL, message)
                    if to == leader && message.get_msg_type() == MessageType::MsgAppendResponse);
                if !is_cut && !is_written {
                    world.event(to, Event::Peer(from, message));
                }
            }
            world.now += limits::TICK;
            for id in [1, 2, 3] {
                world.event(NodeId(id), Event::Tick);
            }
        }
    };
    let ticks = u32::try_from(limits::LEASE_WAIT.as_millis() / limits::TICK.as_millis()).unwrap() + 2;
    run(&mut world, ticks, true);
    assert_eq!(leader_of(&world), leader);
    assert!(!world.members[&leader].node.lost.is_empty(), "the leader declares it lost");
    let before = world.members[&lost].lease_until;
    run(&mut world, 5, false);
    assert_eq!(leader_of(&world), leader);
    let other = NodeId(6 - leader.0 - lost.0);
    assert!(world.members[&other].lease_until > world.now, "the leader goes on giving leases");
    assert_eq!(world.members[&lost].lease_until, before, "but none to whom it declares lost");
    world.until("the node to come back", |world| {
        world.ready() && world.members[&lost].node.incarnation() > Incarnation(1)
    });
}
