//! Anything, in any order: what must hold whatever the client, the broker and the network do.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use quorate_codec::{Connect, Packet, PacketId, ProtocolVersion, PublishQoS, ReasonCode, TopicName};

use crate::testing::{
    ALL, Pair, ack, connect, delivery, disconnect, id, publish, publish_aliased, subscribe, topic,
    unsubscribe,
};
use crate::{Accept, Config, Event, NotSent, PublishToken};

use ProtocolVersion::V5;

const TOPICS: [&str; 4] = ["t", "long/topic", "longer/topic", "longest/topic"];

/// Something that the client, the broker or time does.
#[derive(Clone, Debug)]
enum Operation {
    Bytes(Vec<u8>),
    Connect,
    Publish { qos: u8, packet_id: u16 },
    Aliased { topic: Option<usize>, alias: u16 },
    PubAck(u16),
    PubAckOldest,
    Other(u8),
    Disconnect(Option<u32>),
    Cut(usize),
    Accept,
    Refuse,
    Acknowledge(bool),
    Deliver { topic: usize, with_id: bool, payload: usize },
    SubAck(usize),
    Close,
    Eof,
    Pass(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        1 => vec(any::<u8>(), 1..20).prop_map(Bytes),
        1 => Just(Connect),
        12 => (0..20u8, 1..5u16).prop_map(|(qos, packet_id)| Publish {
            // One in twenty of QoS 2, which ends it.
            qos: if qos == 0 { 2 } else { qos % 2 },
            packet_id,
        }),
        4 => (proptest::option::of(0..TOPICS.len()), 1..5u16).prop_map(|(topic, alias)| Aliased { topic, alias }),
        2 => (1..5u16).prop_map(PubAck),
        8 => Just(PubAckOldest),
        4 => (0..20u8).prop_map(Other),
        1 => proptest::option::of(0..3u32).prop_map(Disconnect),
        3 => (1..10usize).prop_map(Cut),
        2 => Just(Accept),
        1 => Just(Refuse),
        12 => (0..20u8).prop_map(|n| Acknowledge(n != 0)),
        16 => (0..TOPICS.len(), any::<bool>(), 0..60usize)
            .prop_map(|(topic, with_id, payload)| Deliver { topic, with_id, payload }),
        1 => (1..80usize).prop_map(SubAck),
        1 => Just(Close),
        1 => Just(Eof),
        4 => (0..40_000u32).prop_map(Pass),
    ]
}

/// The client and the broker around a connection, each with its own account of what must hold.
struct World {
    pair: Pair,
    connect: Connect,
    /// Whether the next bytes of the client come in two parts, cut here.
    cut: Option<usize>,
    receive_max: usize,
    tokens: VecDeque<PublishToken>,
    /// Packet identifiers of publishes that the broker has acknowledged, in order, not seen by the client yet.
    acknowledged: VecDeque<PacketId>,
    /// Packet identifiers of the tokens.
    pending: VecDeque<PacketId>,
    /// Deliveries that the client has not seen yet.
    delivered: VecDeque<(TopicName, Option<PacketId>)>,
    /// What the client has not acknowledged, oldest first.
    in_flight: Vec<PacketId>,
    in_flight_ids: BTreeSet<PacketId>,
    next_id: u16,
    aliases: BTreeMap<NonZeroU16, TopicName>,
    connacks: usize,
    connects: usize,
    closed_events: usize,
    closed_by_broker: bool,
}

impl World {
    fn new(config: Config, connect: Connect) -> World {
        let receive_max = usize::from(config.receive_max);
        World {
            pair: Pair::new(config, connect.version),
            connect,
            cut: None,
            receive_max,
            tokens: VecDeque::new(),
            acknowledged: VecDeque::new(),
            pending: VecDeque::new(),
            delivered: VecDeque::new(),
            in_flight: Vec::new(),
            in_flight_ids: BTreeSet::new(),
            next_id: 1,
            aliases: BTreeMap::new(),
            connacks: 0,
            connects: 0,
            closed_events: 0,
            closed_by_broker: false,
        }
    }

    fn send(&mut self, packet: &Packet) {
        let mut bytes = bytes::BytesMut::new();
        if quorate_codec::encode(packet, self.pair.version, &mut bytes).is_err() {
            return; // The version has no such packet.
        }
        let cut = self.cut.take().unwrap_or(0).min(bytes.len());
        self.pair.send_bytes(&bytes[..cut]);
        self.pair.send_bytes(&bytes[cut..]);
    }

    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::Bytes(bytes) => self.pair.send_bytes(&bytes),
            Operation::Connect => self.send(&Packet::Connect(Box::new(self.connect.clone()))),
            Operation::Publish { qos, packet_id } => self.send(&publish(match qos {
                0 => PublishQoS::AtMostOnce,
                1 => PublishQoS::AtLeastOnce(id(packet_id)),
                _ => PublishQoS::ExactlyOnce(id(packet_id)),
            })),
            Operation::Aliased { topic: name, alias } if self.pair.version == V5 => {
                self.send(&publish_aliased(name.map(|name| TOPICS[name]), alias));
            }
            Operation::Aliased { .. } => self.send(&publish(PublishQoS::AtMostOnce)),
            Operation::PubAck(packet_id) => self.client_acknowledges(id(packet_id)),
            Operation::PubAckOldest => {
                if let Some(oldest) = self.in_flight.first() {
                    self.client_acknowledges(*oldest);
                }
            }
            Operation::Other(kind) => self.send(&match kind {
                0 => Packet::PubRel(ack(1)),
                1 => Packet::PubRec(ack(1)),
                2..8 => subscribe(1),
                8..12 => unsubscribe(2),
                _ => Packet::PingReq,
            }),
            Operation::Disconnect(expiry_s) => {
                self.send(&disconnect(ReasonCode::NORMAL_DISCONNECTION, expiry_s));
            }
            Operation::Cut(at) => self.cut = Some(at),
            Operation::Accept => self.pair.connection.accept(Accept::default(), self.pair.now),
            Operation::Refuse => {
                let was_closed = self.pair.connection.is_closed();
                self.pair.connection.refuse(ReasonCode::NOT_AUTHORIZED);
                self.closed_by_broker |= !was_closed && self.pair.connection.is_closed();
            }
            Operation::Acknowledge(success) => self.broker_acknowledges(success),
            Operation::Deliver { topic, with_id, payload } => self.deliver(topic, with_id, payload),
            Operation::SubAck(reasons) => {
                self.pair.connection.suback(id(1), vec![ReasonCode::GRANTED_QOS_1; reasons]);
            }
            Operation::Close => {
                self.closed_by_broker |= !self.pair.connection.is_closed();
                self.pair.connection.close(ReasonCode::SERVER_SHUTTING_DOWN);
            }
            Operation::Eof => self.pair.connection.handle_eof(),
            Operation::Pass(millis) => {
                self.pair.pass(Duration::from_millis(u64::from(millis)));
                let next = self.pair.connection.poll_timeout();
                assert!(next.is_none_or(|next| next > self.pair.now), "a timer that has passed still runs");
            }
        }
        self.pair.pump();
        self.take_events();
        self.check_output();
    }

    fn client_acknowledges(&mut self, packet_id: PacketId) {
        self.send(&Packet::PubAck(ack(packet_id.get())));
    }

    fn broker_acknowledges(&mut self, success: bool) {
        let Some(token) = self.tokens.pop_front() else { return };
        let packet_id = self.pending.pop_front().unwrap();
        let was_open = !self.pair.connection.is_closed();
        let reason = if success { ReasonCode::SUCCESS } else { ReasonCode::QUOTA_EXCEEDED };
        self.pair.connection.acknowledge(token, reason);
        if was_open && (success || self.pair.version == V5) {
            self.acknowledged.push_back(packet_id);
        }
    }

    fn deliver(&mut self, name: usize, with_id: bool, payload: usize) {
        let packet_id = with_id.then(|| id(self.next_id));
        let name = topic(TOPICS[name]);
        let bytes = [0; 60];
        let delivery = crate::Delivery { payload: &bytes[..payload], ..delivery(&name, packet_id) };
        let was_open = self.connacks == 1 && !self.pair.connection.is_closed();
        let room = self.pair.connection.inflight_room();
        match self.pair.connection.deliver(&delivery) {
            Ok(()) => {
                assert!(was_open);
                if let Some(packet_id) = packet_id {
                    assert!(room > 0, "[MQTT-3.3.4-9]");
                    self.in_flight.push(packet_id);
                    self.in_flight_ids.insert(packet_id);
                    self.next_id += 1;
                }
                self.delivered.push_back((name, packet_id));
            }
            Err(NotSent::WindowFull) => assert!(with_id && room == 0),
            Err(NotSent::Closed) => assert!(!was_open),
            Err(NotSent::TooLarge) => assert!(self.connect.packet_bytes_max.is_some()),
        }
        let window = self.connect.receive_max.map_or(usize::MAX, |max| usize::from(max.get()));
        assert!(self.in_flight.len() <= window, "[MQTT-3.3.4-9]");
    }

    fn take_events(&mut self) {
        for event in self.pair.events() {
            assert_eq!(self.closed_events, 0, "{event:?} after the end");
            match event {
                Event::Connect(_) => {
                    self.connects += 1;
                    assert_eq!(self.connects, 1, "[MQTT-3.1.0-2]");
                    assert_eq!(self.connacks, 0);
                    continue;
                }
                Event::Closed { .. } => {
                    self.closed_events += 1;
                    assert!(!self.closed_by_broker, "the broker knows");
                    assert!(self.pair.connection.is_closed());
                    continue;
                }
                Event::Publish { publish, topic, token } => {
                    assert!(!topic.as_str().is_empty());
                    assert_eq!(token.is_some(), publish.qos.packet_id().is_some());
                    self.tokens.extend(token);
                    self.pending.extend(publish.qos.packet_id());
                    // A QoS 2 PUBLISH that is repeated counts once.
                    let counted = self.tokens.iter().filter(|token| !token.is_repeated()).count();
                    assert!(counted <= self.receive_max, "[MQTT-3.3.4-7]");
                }
                Event::Acknowledged(packet_id) => {
                    assert!(self.in_flight_ids.remove(&packet_id), "it was in flight");
                    self.in_flight.retain(|other| *other != packet_id);
                }
                // No QoS 2 message is delivered, and none is completed.
                Event::Received(_) => panic!("nothing was received"),
                Event::Release(_) => {}
                Event::Subscribe(_) | Event::Unsubscribe(_) => {}
            }
            assert_eq!(self.connects, 1, "nothing comes before CONNECT [MQTT-3.1.0-1]");
        }
        if self.pair.connection.is_closed() {
            assert_eq!(self.closed_events + usize::from(self.closed_by_broker), 1, "the end is told once");
            assert!(self.pair.connection.close_cause().is_some());
            assert!(!self.pair.connection.wants_read());
            assert!(self.pair.input.is_empty());
            assert_eq!(self.pair.connection.poll_timeout(), None);
        }
    }

    fn check_output(&mut self) {
        let bytes_max = self.connect.packet_bytes_max.filter(|_| self.pair.version == V5);
        let mut last_may_follow = true;
        for packet in self.pair.received() {
            assert!(last_may_follow, "{packet:?} after the last packet");
            let bytes = quorate_codec::encoded_len(&packet, self.pair.version).unwrap();
            // Before CONNECT was understood, its limit cannot be known.
            if self.connects == 1 {
                assert!(bytes_max.is_none_or(|max| bytes <= max as usize), "[MQTT-3.1.2-24] {packet:?}");
            }
            match packet {
                Packet::ConnAck(ack) => {
                    self.connacks += 1;
                    assert_eq!(self.connacks, 1);
                    last_may_follow = ack.reason == ReasonCode::SUCCESS;
                    continue;
                }
                Packet::PubAck(ack) | Packet::PubRec(ack) => {
                    assert_eq!(Some(ack.packet_id), self.acknowledged.pop_front(), "[MQTT-4.6.0-2]");
                }
                Packet::Publish(publish) => {
                    let (expected, packet_id) = self.delivered.pop_front().unwrap();
                    assert_eq!(publish.qos.packet_id(), packet_id);
                    let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
                    let allowed = self.connect.topic_alias_max.unwrap_or(0);
                    assert!(alias.is_none_or(|alias| alias.get() <= allowed), "[MQTT-3.1.2-26]");
                    let meant = publish.topic.or_else(|| self.aliases.get(&alias.unwrap()).cloned());
                    assert_eq!(meant.as_ref(), Some(&expected), "the alias means another topic");
                    if let Some(alias) = alias {
                        self.aliases.insert(alias, expected);
                    }
                }
                Packet::Disconnect(_) => last_may_follow = false,
                // A PUBREC for what was never sent is told so.
                Packet::PubRel(_) | Packet::SubAck(_) | Packet::PingResp => {}
                other => panic!("{other:?} is not sent"),
            }
            assert_eq!(self.connacks, 1, "CONNACK comes first [MQTT-3.2.0-1]");
        }
        if !last_may_follow {
            assert!(self.pair.connection.is_closed());
        }
        if !self.pair.connection.is_closed() {
            assert!(self.acknowledged.is_empty(), "an acknowledgement was swallowed");
            assert!(self.delivered.is_empty(), "a message was swallowed");
        }
    }
}

fn asked() -> impl Strategy<Value = Connect> {
    (
        select(ALL.to_vec()),
        proptest::option::of(1..4u16),
        proptest::option::of(20..80u32),
        proptest::option::of(0..4u16),
        proptest::option::of(0..2u32),
        0..3u16,
    )
        .prop_map(
            |(version, receive_max, packet_bytes_max, topic_alias_max, session_expiry_s, keep_alive)| {
                let asked = Connect { keep_alive_s: keep_alive * 20, ..connect(version) };
                if version != V5 {
                    return asked;
                }
                let receive_max = receive_max.and_then(NonZeroU16::new);
                Connect { receive_max, packet_bytes_max, topic_alias_max, session_expiry_s, ..asked }
            },
        )
}

/// Everything that a stream makes of a connection that accepts at once and acknowledges nothing.
fn replay(version: ProtocolVersion, stream: &[u8], cuts: &BTreeSet<usize>) -> (String, Vec<u8>) {
    let mut pair = Pair::new(Config::default(), version);
    let mut told = String::new();
    let mut start = 0;
    for end in cuts.iter().copied().filter(|cut| *cut < stream.len()).chain([stream.len()]) {
        pair.send_bytes(&stream[start..end]);
        start = end;
        loop {
            let events = pair.events();
            if events.is_empty() {
                break;
            }
            for event in events {
                told.push_str(&format!("{event:?}\n"));
                if matches!(event, Event::Connect(_)) {
                    pair.connection.accept(Accept::default(), pair.now);
                    pair.pump();
                }
            }
        }
    }
    // Not decoded: a damaged CONNECT may be one of another version.
    (format!("{told}{:?}", pair.connection.close_cause()), pair.connection.output().to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn operations_of_any_kind_keep_every_promise(
        asked in asked(),
        receive_max in 1..4u16,
        opened in prop_oneof![9 => Just(true), 1 => Just(false)],
        operations in vec(operation(), 1..120),
    ) {
        let config = Config { receive_max, topic_alias_max: 3, ..Config::default() };
        let mut world = World::new(config, asked);
        if opened {
            world.carry_out(Operation::Connect);
            world.carry_out(Operation::Accept);
        }
        for operation in operations {
            world.carry_out(operation);
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic_and_closed_stays_silent(
        chunks in vec(vec(any::<u8>(), 0..40), 0..20),
        open in any::<bool>(),
        version in select(ALL.to_vec()),
    ) {
        let mut pair = if open {
            Pair::open(Config::default(), connect(version))
        } else {
            Pair::new(Config::default(), version)
        };
        for chunk in chunks {
            pair.send_bytes(&chunk);
            pair.events();
            if pair.connection.is_closed() {
                pair.connection.output().clear();
                pair.send_bytes(&[0xC0, 0]);
                prop_assert!(pair.connection.output().is_empty());
            }
        }
    }

    #[test]
    fn stream_means_the_same_however_it_is_cut(
        version in select(ALL.to_vec()),
        kinds in vec((0..12u8, 1..5u16), 0..30),
        damage in proptest::option::of((0..400usize, any::<u8>())),
        cuts in proptest::collection::btree_set(0..400usize, 0..30),
    ) {
        let mut stream = bytes::BytesMut::new();
        let first = Packet::Connect(Box::new(connect(version)));
        let packets = kinds.into_iter().map(|(kind, n)| match kind {
            0 => disconnect(ReasonCode::NORMAL_DISCONNECTION, None),
            1 => subscribe(n),
            2 => unsubscribe(n),
            3 => Packet::PingReq,
            4 => Packet::PubAck(ack(n)),
            5 if version == V5 => publish_aliased(Some(TOPICS[1]), n),
            6 if version == V5 => publish_aliased(None, n),
            7 => publish(PublishQoS::AtMostOnce),
            _ => publish(PublishQoS::AtLeastOnce(id(n))),
        });
        for packet in [first].into_iter().chain(packets) {
            quorate_codec::encode(&packet, version, &mut stream).unwrap();
        }
        if let Some((at, value)) = damage
            && let Some(byte) = stream.get_mut(at)
        {
            *byte = value;
        }
        let whole = replay(version, &stream, &BTreeSet::new());
        prop_assert_eq!(replay(version, &stream, &cuts), whole);
    }
}
