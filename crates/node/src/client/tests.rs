//! One client connection against a node that the test plays.

use bytes::Bytes;
use quorate_codec::{
    Ack, Limits, Packet, Publish, PublishProperties, PublishQoS, QoS, RetainHandling, Role, Subscribe,
    SubscriptionOptions, TopicName, Unsubscribe,
};
use quorate_state::command::RouteTarget;
use quorate_state::{Command, ConnId, DeliverySeq, Epoch, GroupId, Message, NodeId, SessionId};

use super::*;
use crate::edge::{DirectMessage, PublishNumber, PublishOutcome, SessionDelivery};
use crate::peer::PeerMessage;
use crate::routing::retained_partition;

mod direct;
mod exactly_once;
mod publish;
mod session;
mod shares;
mod subscribe;
mod system;

const PARTITIONS: u32 = 4;
const OWNER: Owner = Owner { node: NodeId(1), incarnation: Incarnation(7), conn: ConnId(9) };

use QoS::{AtLeastOnce as ONE, AtMostOnce as ZERO};

/// A client connection, and the test on both sides of it.
struct Harness {
    client: Client,
    routing: Routing,
    system: SystemTopics,
    version: ProtocolVersion,
    now: Duration,
    lease_until: Duration,
    draining: bool,
    intake: Intake,
    pressure: Pressure,
    incarnation: Incarnation,
    /// Marks are answered at once.
    peers_answer: bool,
    /// Marks that were asked for.
    marks: Vec<u64>,
    out: ClientOutput,
}

fn config() -> ClientConfig {
    ClientConfig {
        // No Keep Alive: what remains of timers is the client's own.
        connection: quorate_connection::Config { keep_alive_max_s: 0, ..Default::default() },
        session_expiry_max_s: 3600,
        inflight_max: 3,
        direct_queue_messages_max: 4,
        direct_queue_bytes_max: 10_000,
        subscriptions_max: 5,
        partitions: PARTITIONS,
        anonymous_allowed: true,
    }
}

impl Harness {
    fn new(version: ProtocolVersion) -> Harness {
        Harness::with(version, config())
    }

    fn with(version: ProtocolVersion, config: ClientConfig) -> Harness {
        let now = Duration::from_secs(1000);
        Harness {
            client: Client::new(OWNER, Arc::new(config), now),
            routing: Routing::new(OWNER.node, PARTITIONS),
            system: SystemTopics::default(),
            version,
            now,
            lease_until: now + Duration::from_secs(1_000_000),
            draining: false,
            intake: Intake::Open,
            pressure: Pressure::None,
            incarnation: OWNER.incarnation,
            peers_answer: true,
            marks: Vec::new(),
            out: ClientOutput::default(),
        }
    }

    /// A connected client with a session that ends with its connection.
    fn transient() -> Harness {
        let mut harness = Harness::new(ProtocolVersion::V5);
        harness.open(connect(ProtocolVersion::V5, "me"), false, SessionExpiry::AtClose, vec![]);
        harness
    }

    /// A connected client with a session that outlives its connection.
    fn durable() -> Harness {
        let mut harness = Harness::new(ProtocolVersion::V5);
        let connect = Connect { session_expiry_s: Some(60), ..connect(ProtocolVersion::V5, "me") };
        harness.open(connect, true, SessionExpiry::After(60), vec![]);
        harness
    }

    /// CONNECT up to CONNACK.
    fn open(
        &mut self,
        connect: Connect,
        present: bool,
        expiry: SessionExpiry,
        filters: Vec<SubscribeFilter>,
    ) {
        self.send(Packet::Connect(Box::new(connect)));
        assert!(matches!(self.requests()[..], [ClientRequest::Connect(_)]));
        self.event(connected(present, expiry, filters));
        assert!(matches!(self.received()[..], [Packet::ConnAck(_)]));
    }

    fn call(&mut self, handle: impl FnOnce(&mut Client, &Context<'_>, &mut ClientOutput, Duration)) {
        let (lease_until, incarnation) = (self.lease_until, self.incarnation);
        let context = Context {
            routing: &self.routing,
            system: &self.system,
            lease_until,
            incarnation,
            draining: self.draining,
            intake: self.intake,
            pressure: self.pressure,
        };
        handle(&mut self.client, &context, &mut self.out, self.now);
        let mut marks = Vec::new();
        for change in self.out.local.drain(..) {
            if let LocalChange::Mark(number) = change {
                marks.push(number);
            }
            self.routing.apply_local(OWNER.conn, change);
        }
        self.marks.extend(&marks);
        if self.peers_answer {
            marks.into_iter().for_each(|number| self.event(ClientEvent::Marked(number)));
        }
    }

    fn send(&mut self, packet: Packet) {
        self.send_all(&[packet]);
    }

    /// Several packets in one read.
    fn send_all(&mut self, packets: &[Packet]) {
        let mut input = BytesMut::new();
        for packet in packets {
            quorate_codec::encode(packet, self.version, &mut input).unwrap();
        }
        self.call(|client, context, out, now| client.handle_bytes(&mut input, context, out, now));
    }

    fn event(&mut self, event: ClientEvent) {
        self.call(|client, context, out, now| client.handle_event(event, context, out, now));
    }

    fn direct(&mut self, delivery: DirectDelivery) {
        self.call(|client, context, out, now| client.handle_direct(delivery, context, out, now));
    }

    fn timeout(&mut self) {
        self.call(|client, context, out, now| client.handle_timeout(context, out, now));
    }

    fn eof(&mut self) {
        self.call(|client, context, out, now| client.handle_eof(context, out, now));
    }

    fn applied(&mut self, number: PublishNumber) {
        self.event(ClientEvent::PublishApplied {
            number: Durable::committed(number),
            outcome: PublishOutcome::Applied,
        });
    }

    fn lose_lease(&mut self) {
        self.lease_until = self.now;
    }

    fn regain_lease(&mut self) {
        self.lease_until = self.now + Duration::from_secs(1_000_000);
    }

    /// What the client has received since the last call.
    fn received(&mut self) -> Vec<Packet> {
        let mut bytes = self.client.output().split();
        let mut packets = Vec::new();
        let limits = Limits::of_protocol();
        while let Some(packet) =
            quorate_codec::decode(&mut bytes, self.version, Role::Server, &limits).unwrap()
        {
            packets.push(packet);
        }
        assert!(bytes.is_empty());
        packets
    }

    /// Packet identifiers and reasons of PUBACKs since the last call; there must be nothing else.
    fn pubacks(&mut self) -> Vec<(u16, ReasonCode)> {
        let acks = self.received().into_iter().map(|packet| match packet {
            Packet::PubAck(ack) => (ack.packet_id.get(), ack.reason),
            other => panic!("not a PUBACK: {other:?}"),
        });
        acks.collect()
    }

    /// PUBLISH packets since the last call; there must be nothing else.
    fn publishes(&mut self) -> Vec<Publish> {
        let publishes = self.received().into_iter().map(|packet| match packet {
            Packet::Publish(publish) => publish,
            other => panic!("not a PUBLISH: {other:?}"),
        });
        publishes.collect()
    }

    fn requests(&mut self) -> Vec<ClientRequest> {
        std::mem::take(&mut self.out.requests)
    }

    /// Payloads handed to connections of this node since the last call.
    fn handed_over(&mut self) -> Vec<String> {
        let direct = std::mem::take(&mut self.out.direct);
        direct.iter().map(|(_, delivery)| payload_of(&delivery.message)).collect()
    }

    fn dropped(&mut self) -> Vec<(DropReason, u64)> {
        std::mem::take(&mut self.out.dropped)
    }
}

fn payload_of(message: &DirectMessage) -> String {
    String::from_utf8(message.message.payload.to_vec()).unwrap()
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::new(Text::parse(text).unwrap()).unwrap()
}

fn topic(text: &str) -> TopicName {
    TopicName::new(Text::parse(text).unwrap()).unwrap()
}

fn options(qos: QoS) -> SubscriptionOptions {
    let retain_handling = RetainHandling::Always;
    SubscriptionOptions { qos, no_local: false, retain_as_published: false, retain_handling }
}

fn connect(version: ProtocolVersion, client_id: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: Text::parse(client_id).unwrap(),
        will: None,
        username: None,
        password: None,
        session_expiry_s: None,
        receive_max: None,
        packet_bytes_max: None,
        topic_alias_max: None,
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: vec![],
    }
}

fn connected(present: bool, expiry: SessionExpiry, subscriptions: Vec<SubscribeFilter>) -> ClientEvent {
    ClientEvent::Connected {
        session_present: Durable::committed(present),
        group: GroupId(1),
        session: SessionId(1),
        epoch: Epoch(1),
        expiry,
        subscriptions,
    }
}

fn publish(name: &str, qos: PublishQoS, payload: &str) -> Publish {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Publish { dup: false, qos, retain: false, topic: Some(topic(name)), properties: None, payload }
}

/// A QoS 1 PUBLISH whose payload is its packet identifier.
fn publish_1(name: &str, packet_id: u16) -> Packet {
    Packet::Publish(publish(name, PublishQoS::AtLeastOnce(id(packet_id)), &packet_id.to_string()))
}

fn ack(packet_id: u16) -> Ack {
    let reason = ReasonCode::SUCCESS;
    Ack { packet_id: id(packet_id), reason, reason_string: None, user_properties: vec![] }
}

fn puback(packet_id: u16) -> Packet {
    Packet::PubAck(ack(packet_id))
}

fn subscribe(packet_id: u16, filters: &[(&str, QoS)]) -> Packet {
    let filters = filters.iter().map(|(text, qos)| (filter(text), options(*qos))).collect();
    Packet::Subscribe(Subscribe {
        packet_id: id(packet_id),
        identifier: None,
        user_properties: vec![],
        filters,
    })
}

fn message(name: &str, qos: QoS, payload: &str) -> Message {
    Message {
        topic: topic(name),
        qos,
        retain: false,
        expiry_s: None,
        publisher: 5,
        properties: Bytes::new(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

fn delivery(qos: QoS, payload: &str) -> DirectDelivery {
    let message = Arc::new(DirectMessage { message: message("t", qos, payload) });
    DirectDelivery { qos, retain: false, identifiers: vec![], message }
}

fn session_delivery(packet_id: u16, payload: &str) -> SessionDelivery {
    SessionDelivery {
        seq: DeliverySeq(u64::from(packet_id)),
        packet_id: id(packet_id),
        qos: ONE,
        retain: false,
        dup: false,
        identifiers: vec![],
        expiry_s: None,
        message: Some(message("t", ONE, payload)),
    }
}

fn payloads(publishes: &[Publish]) -> Vec<&str> {
    publishes.iter().map(|publish| std::str::from_utf8(&publish.payload).unwrap()).collect()
}

/// Random numbers below a limit, for one seed.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |limit| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    }
}
