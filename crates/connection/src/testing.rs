//! A client on the other end of a connection, with time that the test moves.

use core::time::Duration;

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use quorate_codec::{
    Ack, Connect, Disconnect, Limits, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    PublishQoS, ReasonCode, Role, Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName, Unsubscribe,
};

use crate::{Accept, CloseCause, Config, Connection, Delivery, Event, PublishToken};

use ProtocolVersion::{V5, V31, V311};

pub(crate) const ALL: [ProtocolVersion; 3] = [V31, V311, V5];

pub(crate) fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

pub(crate) fn alias(n: u16) -> NonZeroU16 {
    NonZeroU16::new(n).unwrap()
}

pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::new(Text::parse(name).unwrap()).unwrap()
}

fn filter(name: &str) -> TopicFilter {
    TopicFilter::new(Text::parse(name).unwrap()).unwrap()
}

pub(crate) fn publish(qos: PublishQoS) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic("t")),
        properties: None,
        payload: Bytes::from_static(b"x"),
    })
}

pub(crate) fn publish_again(n: u16) -> Packet {
    let Packet::Publish(publish) = publish(PublishQoS::AtLeastOnce(id(n))) else { unreachable!() };
    Packet::Publish(Publish { dup: true, ..publish })
}

pub(crate) fn publish_aliased(name: Option<&str>, number: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::AtMostOnce,
        retain: false,
        topic: name.map(topic),
        properties: Some(Box::new(PublishProperties {
            topic_alias: NonZeroU16::new(number),
            ..PublishProperties::default()
        })),
        payload: Bytes::new(),
    })
}

pub(crate) fn ack(n: u16) -> Ack {
    Ack { packet_id: id(n), reason: ReasonCode::SUCCESS, reason_string: None, user_properties: vec![] }
}

pub(crate) fn subscribe(n: u16) -> Packet {
    let options = SubscriptionOptions {
        qos: quorate_codec::QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: quorate_codec::RetainHandling::Always,
    };
    Packet::Subscribe(Subscribe {
        packet_id: id(n),
        identifier: None,
        user_properties: vec![],
        filters: vec![(filter("a/#"), options)],
    })
}

pub(crate) fn unsubscribe(n: u16) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(n),
        user_properties: vec![],
        filters: vec![filter("a/#")],
    })
}

pub(crate) fn disconnect(reason: ReasonCode, session_expiry_s: Option<u32>) -> Packet {
    Packet::Disconnect(Disconnect {
        reason,
        session_expiry_s,
        reason_string: None,
        server_reference: None,
        user_properties: vec![],
    })
}

pub(crate) fn delivery<'a>(topic: &'a TopicName, packet_id: Option<PacketId>) -> Delivery<'a> {
    Delivery {
        topic,
        qos: packet_id.map_or(PublishQoS::AtMostOnce, PublishQoS::AtLeastOnce),
        dup: false,
        retain: false,
        identifiers: &[],
        expiry_s: None,
        forwarded: &[],
        payload: b"payload",
    }
}

/// The token of the only event, a publish.
pub(crate) fn token(events: Vec<Event>) -> PublishToken {
    match <[Event; 1]>::try_from(events) {
        Ok([Event::Publish { token: Some(token), .. }]) => token,
        other => panic!("{other:?}"),
    }
}

/// The connection ended for a violation: 5.0 was told, 3.x was not, and the broker hears of it.
pub(crate) fn check_violation(pair: &mut Pair, reason: ReasonCode) {
    assert_eq!(pair.connection.close_cause(), Some(CloseCause::Violation(reason)));
    check_told(pair, reason);
}

/// The connection ended: the last packet to 5.0 says why, 3.x was told nothing, and the broker hears of it.
pub(crate) fn check_told(pair: &mut Pair, reason: ReasonCode) {
    assert!(pair.connection.is_closed());
    assert_eq!(pair.connection.poll_timeout(), None);
    match &pair.received()[..] {
        [.., Packet::Disconnect(disconnect)] if pair.version == V5 => assert_eq!(disconnect.reason, reason),
        [] if pair.version != V5 => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(pair.events()[..], [.., Event::Closed { expiry_s: None }]));
}

pub(crate) struct Pair {
    pub(crate) connection: Connection,
    pub(crate) version: ProtocolVersion,
    pub(crate) now: Duration,
    /// Bytes that the connection has not taken yet.
    pub(crate) input: BytesMut,
}

pub(crate) fn connect(version: ProtocolVersion) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: Text::from_static("c"),
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

impl Pair {
    pub(crate) fn new(config: Config, version: ProtocolVersion) -> Pair {
        let now = Duration::from_secs(10);
        Pair { connection: Connection::new(config, now), version, now, input: BytesMut::new() }
    }

    /// CONNECT answered with success; CONNACK taken out.
    pub(crate) fn open(config: Config, connect: Connect) -> Pair {
        let mut pair = Pair::new(config, connect.version);
        pair.send(&Packet::Connect(Box::new(connect)));
        assert!(matches!(pair.events()[..], [Event::Connect(_)]));
        pair.connection.accept(Accept::default(), pair.now);
        assert!(matches!(pair.received()[..], [Packet::ConnAck(_)]));
        pair
    }

    pub(crate) fn send(&mut self, packet: &Packet) {
        quorate_codec::encode(packet, self.version, &mut self.input).unwrap();
        self.pump();
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.pump();
    }

    pub(crate) fn pump(&mut self) {
        self.connection.handle_bytes(&mut self.input, self.now);
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.connection.handle_timeout(self.now);
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.poll_event()).collect()
    }

    /// What the client receives, decoded as it would.
    pub(crate) fn received(&mut self) -> Vec<Packet> {
        let version = self.version;
        let output = self.connection.output();
        let mut packets = Vec::new();
        while let Some(packet) =
            quorate_codec::decode(output, version, Role::Server, &Limits::of_protocol()).unwrap()
        {
            packets.push(packet);
        }
        assert!(output.is_empty(), "half a packet was written");
        packets
    }
}
