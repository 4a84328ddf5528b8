//! Golden files: bytes that earlier versions wrote stay readable, and this version writes the same.
//!
//! A failure here means a format change: it needs a new version byte, a decision record and a new golden file; the
//! old file stays. The files are hexadecimal, one item per line, `#` begins a comment.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use quorate_codec::{PacketId, QoS, RetainHandling, SubscriptionOptions, Text, TopicFilter, TopicName};
use quorate_state::command::{
    AdvertisedListener, BackupStep, Duty, NodeRecord, Removal, RouteTarget, SessionExpiry, SubscribeFilter,
};
use quorate_state::effect::SubscribeResult;
use quorate_state::*;

fn text(text: &'static str) -> Text {
    Text::from_static(text)
}

fn filter(name: &'static str) -> TopicFilter {
    TopicFilter::new(text(name)).unwrap()
}

fn owner() -> Owner {
    Owner { node: NodeId(2), incarnation: Incarnation(5), conn: ConnId(77) }
}

fn full_message() -> Message {
    Message {
        topic: TopicName::new(text("plant/7/état")).unwrap(),
        qos: QoS::ExactlyOnce,
        retain: true,
        expiry_s: Some(90),
        publisher: 0x0102_0304_0506_0708,
        properties: Bytes::from_static(&[1, 1]),
        payload: Bytes::from_static(b"{\"t\":21.5}"),
    }
}

fn plain_message() -> Message {
    Message {
        topic: TopicName::new(text("t")).unwrap(),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        publisher: 0,
        properties: Bytes::new(),
        payload: Bytes::from_static(b"x"),
    }
}

fn subscribe_filters() -> Vec<SubscribeFilter> {
    let retain_handling = RetainHandling::IfNew;
    let full = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling,
    };
    let retain_handling = RetainHandling::Always;
    let plain = SubscriptionOptions {
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling,
    };
    vec![
        SubscribeFilter { filter: filter("plant/+/état"), options: full, identifier: Some(268_435_455) },
        SubscribeFilter { filter: filter("#"), options: plain, identifier: None },
    ]
}

fn listener(name: &'static str, address: &'static str) -> AdvertisedListener {
    AdvertisedListener { name: text(name), address: text(address) }
}

fn node_record() -> NodeRecord {
    NodeRecord {
        id: NodeId(2),
        name: text("north"),
        disk: [0xd1; 16],
        incarnation: Incarnation(5),
        peer: text("10.0.0.2:7000"),
        mqtt: text("10.0.0.2:1883"),
        admin: text("https://10.0.0.2:8080"),
        zone: text("a"),
        version: text("0.1.0"),
        level: 1,
    }
}

fn commands() -> Vec<Command> {
    let (session, epoch) = (SessionId(9), Epoch(12));
    let connect = |expiry, principal| Command::Connect {
        client_id: text("sensor-7"),
        owner: owner(),
        clean_start: true,
        expiry,
        receive_max: 20,
        principal,
        will: None,
    };
    let (share, version) = (ShareId(4), ShareVersion(6));
    let member = ShareMember { group: GroupId(2), session };
    let ids = |numbers: &[u16]| numbers.iter().map(|number| PacketId::new(*number).unwrap()).collect();
    vec![
        Command::Publish { message: plain_message(), store_retained: false, fan_out: true },
        Command::Publish { message: full_message(), store_retained: true, fan_out: false },
        connect(SessionExpiry::After(3600), text("")),
        connect(SessionExpiry::Never, text("plant")),
        connect(SessionExpiry::AtClose, text("plant")),
        Command::Connect {
            client_id: text("sensor-7"),
            owner: owner(),
            clean_start: false,
            expiry: SessionExpiry::After(3600),
            receive_max: 20,
            principal: text(""),
            will: Some(Will { delay_s: 30, message: full_message() }),
        },
        Command::PublishWill {
            will: WillId(4),
            targets: vec![PublishTarget { group: GroupId(3), store_retained: true, fan_out: true }],
        },
        Command::Disconnect { session, epoch, expiry: None, normal: false },
        Command::Disconnect { session, epoch, expiry: Some(SessionExpiry::After(5)), normal: true },
        Command::Subscribe { session, epoch, filters: subscribe_filters() },
        Command::Unsubscribe { session, epoch, filters: vec![filter("a/#"), filter("+")] },
        Command::Acknowledge { session, epoch, packet_ids: ids(&[1, 2, 65_535]) },
        Command::Receive { session, epoch, packet_ids: ids(&[3]) },
        Command::Release { session, epoch, packet_id: PacketId::new(65_535).unwrap() },
        Command::PublishOnce {
            session,
            epoch,
            packet_id: PacketId::new(7).unwrap(),
            targets: vec![
                PublishTarget { group: GroupId(3), store_retained: false, fan_out: true },
                PublishTarget { group: GroupId(4), store_retained: true, fan_out: false },
            ],
            message: full_message(),
        },
        Command::Enqueue {
            session,
            epoch,
            messages: vec![
                (QoS::AtLeastOnce, Some(3), full_message()),
                (QoS::ExactlyOnce, None, plain_message()),
            ],
        },
        Command::Purge { client_id: text("sensor-7") },
        Command::NodeDown { node: NodeId(2), incarnation: Incarnation(5) },
        Command::RouteAdd { filter: filter("a/#"), target: RouteTarget::Partition(GroupId(3)) },
        Command::RouteRemove { filter: filter("a/#"), target: RouteTarget::Node(NodeId(2)) },
        Command::RouteAdd { filter: filter("a/#"), target: RouteTarget::NodeQos0(NodeId(2)) },
        Command::NodeUp { node: node_record() },
        Command::NodeJoin { node: NodeRecord { id: NodeId(0), ..node_record() } },
        Command::NodeLost { node: NodeId(2), incarnation: Incarnation(5) },
        Command::Place { group: GroupId(3), voters: vec![NodeId(1), NodeId(2), NodeId(4)] },
        Command::NodeForget { node: NodeId(2) },
        Command::NodeDuty { node: NodeId(2), duty: Duty::Full },
        Command::NodeDuty { node: NodeId(2), duty: Duty::Follow },
        Command::NodeDuty { node: NodeId(2), duty: Duty::Drain { grace_s: 30 } },
        Command::Finalize { level: 7 },
        Command::NodeListeners { node: NodeId(2), listeners: vec![listener("tcp", "north:1883")] },
        Command::ShareJoin {
            filter: filter("$share/g/a/#"),
            member,
            version,
            qos: QoS::ExactlyOnce,
            identifier: Some(7),
            retain_as_published: true,
            window: 256,
        },
        Command::ShareOffline { filter: filter("$share/g/a/#"), member, version },
        Command::ShareLeave { filter: filter("$share/g/a/#"), member, version },
        Command::ShareConfirm { session, filter: filter("$share/g/a/#"), share },
        Command::ShareDeliver {
            share,
            dispatch: 70,
            session,
            qos: QoS::AtLeastOnce,
            retain: true,
            identifier: None,
            expiry_s: Some(12),
            message: full_message(),
        },
        Command::Backup { backup: BackupId(7), step: BackupStep::Hold { ms: 500 } },
        Command::Backup { backup: BackupId(7), step: BackupStep::Cut { node: NodeId(2) } },
        Command::Backup { backup: BackupId(7), step: BackupStep::Release },
        Command::ShareSettled { share, dispatches: vec![70, 72] },
        Command::ShareReturn { share, dispatches: vec![71] },
    ]
}

/// Commands about membership, from level 2 on.
fn membership_commands() -> Vec<Command> {
    let node = NodeId(2);
    vec![
        Command::NodeRemove { node, removal: Removal::Keep },
        Command::NodeRemove { node, removal: Removal::Remove },
        Command::NodeRemove { node, removal: Removal::Replace { successor: text("west") } },
        Command::NodeRemove { node, removal: Removal::Quiet },
        Command::Members {
            group: GroupId(3),
            index: LogIndex(70_000),
            voters: vec![NodeId(1), NodeId(2), NodeId(4)],
            learners: vec![NodeId(5)],
        },
        Command::Members { group: CONTROL, index: LogIndex(1), voters: vec![node], learners: vec![] },
    ]
}

fn batch() -> Batch {
    let (first, confirmed) = (StreamSeq(100), StreamSeq(98));
    let node = StreamId::Node(NodeId(2), Incarnation(5));
    Batch {
        stamp: Timestamp(1_234_567),
        segments: vec![
            Segment { stream: node, first, confirmed, commands: commands() },
            Segment {
                stream: StreamId::Group(CONTROL),
                first: StreamSeq(1),
                confirmed: StreamSeq(0),
                commands: vec![],
            },
        ],
        leader: vec![
            LeaderCommand::OutboxApplied { to: GroupId(3), seq: StreamSeq(44) },
            LeaderCommand::Tick,
            LeaderCommand::NodeLost { node: NodeId(2), incarnation: Incarnation(5) },
        ],
    }
}

fn replies() -> Vec<Reply> {
    let connected = |previous| Reply::Connected {
        session: SessionId(9),
        epoch: Epoch(12),
        session_present: true,
        previous,
        subscriptions: subscribe_filters(),
        next_delivery: DeliverySeq(1),
        expiry: SessionExpiry::After(3600),
        version: ShareVersion(3),
    };
    let result = |reason, existed, route| {
        let version = ShareVersion(if existed { 2 } else { 0 });
        SubscribeResult { reason, existed, route, version }
    };
    use quorate_codec::ReasonCode as Reason;
    vec![
        Reply::Rejected(Reason::QUOTA_EXCEEDED),
        connected(vec![]),
        connected(vec![owner(), Owner { conn: ConnId(78), ..owner() }]),
        Reply::ConnectRefused(Reason::CLIENT_IDENTIFIER_NOT_VALID),
        Reply::Subscribed(vec![
            result(Reason::GRANTED_QOS_1, true, Some(StreamSeq(8))),
            result(Reason::QUOTA_EXCEEDED, false, None),
        ]),
        Reply::Unsubscribed(vec![true, false]),
        Reply::Fenced,
        Reply::Duplicate,
        Reply::NotFound,
        Reply::Unsettled,
        Reply::Joined { node: NodeId(4) },
        Reply::Refused(text("the node was removed")),
        Reply::ShareJoined { route: StreamSeq(8) },
    ]
}

/// A partition that has a record of every kind.
fn partition() -> Partition {
    let mut partition = Partition::new(PartitionConfig::new(GroupId(3)));
    let stream = StreamId::Node(NodeId(2), Incarnation(5));
    let (session, epoch) = (SessionId(1), Epoch(1));
    let connect = |client_id, receive_max| Command::Connect {
        client_id,
        owner: owner(),
        clean_start: false,
        expiry: SessionExpiry::After(3600),
        receive_max,
        principal: text("plant"),
        will: Some(Will { delay_s: if receive_max == 1 { 0 } else { 9 }, message: plain_message() }),
    };
    let publish = Command::Publish { message: full_message(), store_retained: true, fan_out: true };
    let publish_once = Command::PublishOnce {
        session,
        epoch,
        packet_id: PacketId::new(7).unwrap(),
        targets: vec![PublishTarget { group: GroupId(4), store_retained: true, fan_out: true }],
        message: full_message(),
    };
    let disconnect =
        Command::Disconnect { session: SessionId(2), epoch: Epoch(2), expiry: None, normal: false };
    let commands = vec![
        connect(text("sensor-7"), 1),
        connect(text("sensor-8"), 2),
        connect(text("sensor-9"), 1),
        connect(text("sensor-9"), 1),
        Command::Subscribe { session, epoch, filters: subscribe_filters() },
        publish.clone(),
        publish,
        publish_once,
        disconnect,
    ];
    let down = Command::NodeDown { node: NodeId(8), incarnation: Incarnation(1) };
    let segment =
        |stream, commands| Segment { stream, first: StreamSeq(1), confirmed: StreamSeq(0), commands };
    let segments = vec![segment(stream, commands), segment(StreamId::Group(CONTROL), vec![down])];
    let batch = Batch { stamp: Timestamp(5_000), segments, leader: vec![] };
    partition.apply(LogIndex(1), &batch.encode(), &mut Vec::new());
    partition
}

fn sharing_config() -> PartitionConfig {
    PartitionConfig { partitions: 3, ..PartitionConfig::new(GroupId(3)) }
}

/// A partition with a share group that has a record of every kind, and a session that has a message of it.
fn sharing_partition() -> Partition {
    let mut partition = Partition::new(sharing_config());
    let node = StreamId::Node(NodeId(2), Incarnation(5));
    let (session, epoch, version) = (SessionId(1), Epoch(1), ShareVersion(1));
    let (here, elsewhere) = (GroupId(3), GroupId(2));
    let share = ShareId(1);
    let mut wanted = subscribe_filters().remove(0);
    wanted.filter = filter("$share/dock/plant/#");
    let connect = Command::Connect {
        client_id: text("sensor-7"),
        owner: owner(),
        clean_start: false,
        expiry: SessionExpiry::After(3600),
        receive_max: 1,
        principal: text("plant"),
        will: None,
    };
    let join = |group, window| Command::ShareJoin {
        filter: filter("$share/dock/plant/#"),
        member: ShareMember { group, session },
        version,
        qos: QoS::AtLeastOnce,
        identifier: Some(268_435_455),
        retain_as_published: true,
        window,
    };
    let publish = Command::Publish { message: full_message(), store_retained: false, fan_out: true };
    let deliver = Command::ShareDeliver {
        share,
        dispatch: 1,
        session,
        qos: QoS::AtLeastOnce,
        retain: true,
        identifier: None,
        expiry_s: Some(90),
        message: full_message(),
    };
    let commands = vec![
        connect,
        Command::Subscribe { session, epoch, filters: vec![wanted.clone()] },
        join(elsewhere, 2),
        join(here, 1),
        publish.clone(),
        publish.clone(),
        publish.clone(),
        publish,
    ];
    let confirm = Command::ShareConfirm { session, filter: wanted.filter.clone(), share };
    let member = ShareMember { group: elsewhere, session };
    let offline = Command::ShareOffline { filter: wanted.filter, member, version: ShareVersion(2) };
    let segment =
        |stream, commands| Segment { stream, first: StreamSeq(1), confirmed: StreamSeq(0), commands };
    let segments = vec![
        segment(node, commands),
        segment(StreamId::Group(here), vec![confirm, deliver]),
        segment(
            StreamId::Group(elsewhere),
            vec![offline, Command::ShareReturn { share, dispatches: vec![3] }],
        ),
    ];
    let batch = Batch { stamp: Timestamp(5_000), segments, leader: vec![] };
    partition.apply(LogIndex(1), &batch.encode(), &mut Vec::new());
    partition
}

fn control() -> Control {
    let config = ClusterConfig { cluster_id: [0xc1; 16], name: text("plant"), partitions: 2, replication: 3 };
    let mut control = Control::bootstrap(config, &[node_record()]);
    let stream = StreamId::Node(NodeId(2), Incarnation(5));
    let commands = vec![
        Command::NodeUp { node: node_record() },
        Command::RouteAdd { filter: filter("a/#"), target: RouteTarget::Partition(GroupId(1)) },
        Command::RouteAdd { filter: filter("a/#"), target: RouteTarget::Node(NodeId(2)) },
        Command::NodeJoin { node: NodeRecord { disk: [9; 16], name: text("south"), ..node_record() } },
    ];
    let segments = vec![Segment { stream, first: StreamSeq(1), confirmed: StreamSeq(0), commands }];
    let batch = Batch { stamp: Timestamp(5_000), segments, leader: vec![] };
    control.apply(LogIndex(1), &batch.encode(), &mut Vec::new());
    control
}

/// As [`control`], at level 2, with a member that is to go when another one has come, and known members.
fn changing_control() -> Control {
    let config = ClusterConfig { cluster_id: [0xc1; 16], name: text("plant"), partitions: 2, replication: 3 };
    let record = NodeRecord { level: 2, ..node_record() };
    let mut control = Control::bootstrap(config, std::slice::from_ref(&record));
    let stream = StreamId::Node(NodeId(2), Incarnation(5));
    let south = NodeRecord { disk: [9; 16], name: text("south"), ..record.clone() };
    let members = |group, learners| Command::Members {
        group,
        index: LogIndex(70_000),
        voters: vec![NodeId(2)],
        learners,
    };
    let commands = vec![
        Command::NodeUp { node: record },
        Command::NodeRemove { node: NodeId(2), removal: Removal::Replace { successor: text("south") } },
        Command::NodeJoin { node: south },
        members(GroupId(1), vec![NodeId(3)]),
        members(GroupId(2), vec![]),
        Command::Place { group: GroupId(2), voters: vec![NodeId(3)] },
    ];
    let segments = vec![Segment { stream, first: StreamSeq(1), confirmed: StreamSeq(0), commands }];
    let batch = Batch { stamp: Timestamp(5_000), segments, leader: vec![] };
    control.apply(LogIndex(1), &batch.encode(), &mut Vec::new());
    control
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(hex: &str) -> Bytes {
    let digits: Vec<u8> =
        hex.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>().into()
}

fn lines(golden: &str) -> Vec<&str> {
    golden.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn check(name: &str, golden: &str, written: &[String]) {
    assert_eq!(lines(golden), written, "{name} should be:\n{}\n", written.join("\n"));
}

fn records(all: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<String> {
    all.map(|(key, content)| format!("{} {}", hex(&key), hex(&content))).collect()
}

fn stored(golden: &str) -> Vec<(Bytes, Bytes)> {
    let pairs = lines(golden).into_iter().map(|line| line.split_once(' ').unwrap());
    pairs.map(|(key, content)| (unhex(key), unhex(content))).collect()
}

#[test]
fn entry_of_version_1_is_written_and_read_alike() {
    let golden = include_str!("golden/entry-1.hex");
    let encoded = batch().encode();
    check("entry-1.hex", golden, &[hex(&encoded)]);
    assert_eq!(Batch::decode(&unhex(lines(golden)[0])), Ok(batch()));
}

#[test]
fn commands_of_version_1_are_written_and_read_alike() {
    let golden = include_str!("golden/commands-1.hex");
    let written: Vec<String> = commands()
        .iter()
        .map(|command| {
            let mut out = bytes::BytesMut::new();
            command.encode(&mut out);
            assert_eq!(out.len(), command.encoded_len());
            hex(&out)
        })
        .collect();
    check("commands-1.hex", golden, &written);
    for (line, command) in lines(golden).iter().zip(commands()) {
        let whole = unhex(line);
        assert_eq!(Command::decode(&mut whole.clone()), Ok(command));
        for length in 0..whole.len() {
            // Cut anywhere it may still be a command (a shorter payload), but never a panic.
            let _ = Command::decode(&mut whole.slice(..length));
        }
    }
}

#[test]
fn replies_of_version_1_are_written_and_read_alike() {
    let golden = include_str!("golden/replies-1.hex");
    let written: Vec<String> = replies()
        .iter()
        .map(|reply| {
            let mut out = bytes::BytesMut::new();
            reply.encode(&mut out);
            hex(&out)
        })
        .collect();
    check("replies-1.hex", golden, &written);
    for (line, reply) in lines(golden).iter().zip(replies()) {
        let whole = unhex(line);
        assert_eq!(Reply::decode(&whole), Ok(reply));
        for length in 0..whole.len() {
            assert!(Reply::decode(&whole.slice(..length)).is_err());
        }
    }
}

#[test]
fn partition_records_of_version_1_are_written_and_restore() {
    let golden = include_str!("golden/partition-1.hex");
    let partition = partition();
    check("partition-1.hex", golden, &records(partition.records()));
    let config = PartitionConfig::new(GroupId(3));
    let restored = Partition::restore(config, LogIndex(1), stored(golden)).unwrap();
    restored.check();
    assert_eq!(restored.hash(), partition.hash());
    assert_eq!(restored.counts(), partition.counts());
}

#[test]
fn share_records_of_version_1_are_written_and_restore() {
    let golden = include_str!("golden/shares-1.hex");
    let partition = sharing_partition();
    let kinds: std::collections::BTreeSet<u8> = partition.records().map(|(key, _)| key[0]).collect();
    assert!([27, 28, 29, 30, 31].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    check("shares-1.hex", golden, &records(partition.records()));
    let restored = Partition::restore(sharing_config(), LogIndex(1), stored(golden)).unwrap();
    restored.check();
    assert_eq!(restored.hash(), partition.hash());
    assert_eq!(restored.shares(None, 9), partition.shares(None, 9));
    for place in 0..stored(golden).len() {
        // Without one of its records a share group is refused or another one, but never a panic.
        let mut fewer = stored(golden);
        fewer.remove(place);
        let _ = Partition::restore(sharing_config(), LogIndex(1), fewer);
    }
}

#[test]
fn control_records_of_version_1_are_written_and_restore() {
    let golden = include_str!("golden/control-1.hex");
    let control = control();
    check("control-1.hex", golden, &records(control.records()));
    let restored = Control::restore(LogIndex(1), stored(golden)).unwrap();
    assert_eq!(restored.hash(), control.hash());
}

#[test]
fn membership_commands_are_written_and_read_alike() {
    let golden = include_str!("golden/membership-commands-2.hex");
    let mut written = Vec::new();
    for command in membership_commands() {
        let mut out = bytes::BytesMut::new();
        command.encode(&mut out);
        assert_eq!(out.len(), command.encoded_len());
        written.push(hex(&out));
    }
    check("membership-commands-2.hex", golden, &written);
    for (line, command) in lines(golden).iter().zip(membership_commands()) {
        let whole = unhex(line);
        assert_eq!(Command::decode(&mut whole.clone()), Ok(command));
        for length in 0..whole.len() {
            assert!(Command::decode(&mut whole.slice(..length)).is_err());
        }
    }
}

#[test]
fn records_of_a_changing_membership_are_written_and_restore() {
    let golden = include_str!("golden/membership-2.hex");
    let control = changing_control();
    let kinds: std::collections::BTreeSet<u8> = control.records().map(|(key, _)| key[0]).collect();
    assert!([36, 37].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    check("membership-2.hex", golden, &records(control.records()));
    let restored = Control::restore(LogIndex(1), stored(golden)).unwrap();
    assert_eq!(restored.hash(), control.hash());
    assert_eq!(restored.member_states(), control.member_states());
}

#[test]
fn message_reference_points_to_the_message_in_the_entry() {
    let entry = batch().encode();
    let mut found = Vec::new();
    let golden = include_str!("golden/commands-1.hex");
    for line in lines(golden).iter().take(2) {
        // A publish is two bytes and then its message, to the end.
        let command = unhex(line);
        let at = entry.windows(command.len()).position(|window| window == &*command).unwrap();
        found.push(Message::decode(&entry.slice(at + 2..at + command.len())).unwrap());
    }
    assert_eq!(found, [plain_message(), full_message()]);
}
