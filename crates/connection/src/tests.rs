//! The rules of a connection, by their statements.

use core::time::Duration;
use std::num::NonZeroU16;

use bytes::Bytes;
use proptest::prelude::*;
use quorate_codec::{
    Ack, Connect, Disconnect, Packet, PacketId, ProtocolVersion, Publish, PublishProperties, PublishQoS,
    ReasonCode, Text, TopicName,
};

use crate::testing::{Pair, connect};
use crate::{Accept, Config, Connection, Delivery, Event, NotSent};

use ProtocolVersion::{V5, V31, V311};

const ALL: [ProtocolVersion; 3] = [V31, V311, V5];

fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(Text::parse(name).unwrap()).unwrap()
}

fn publish(qos: PublishQoS) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: Some(topic("t")),
        properties: None,
        payload: Bytes::from_static(b"x"),
    })
}

fn aliased(name: Option<&str>, alias: u16) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::AtMostOnce,
        retain: false,
        topic: name.map(topic),
        properties: Some(Box::new(PublishProperties {
            topic_alias: NonZeroU16::new(alias),
            ..PublishProperties::default()
        })),
        payload: Bytes::new(),
    })
}

fn delivery<'a>(topic: &'a TopicName, packet_id: Option<PacketId>) -> Delivery<'a> {
    Delivery {
        topic,
        packet_id,
        dup: false,
        retain: false,
        identifiers: &[],
        expiry_s: None,
        forwarded: &[],
        payload: b"payload",
    }
}

fn closed_with(pair: &mut Pair, reason: ReasonCode) {
    assert!(pair.connection.is_closed());
    match &pair.received()[..] {
        [.., Packet::Disconnect(disconnect)] => assert_eq!(disconnect.reason, reason),
        [] if pair.version != V5 => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(pair.events()[..], [.., Event::Closed { expiry_s: None }]));
}

#[test]
fn first_packet_other_than_connect_closes_without_a_word() {
    // [MQTT-3.1.0-1]
    let mut pair = Pair::new(Config::default(), V5);
    pair.send_bytes(&[0xC0, 0x00]);
    assert!(pair.connection.is_closed());
    assert!(pair.received().is_empty());
    assert!(matches!(pair.events()[..], [Event::Closed { .. }]));
}

#[test]
fn second_connect_is_a_protocol_error() {
    // [MQTT-3.1.0-2]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&Packet::Connect(Box::new(connect(version))));
        closed_with(&mut pair, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn nothing_is_read_before_connack() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.send(&Packet::Connect(Box::new(connect(V5))));
    pair.send(&Packet::PingReq);
    assert!(!pair.connection.wants_read());
    assert!(matches!(pair.events()[..], [Event::Connect(_)]));
    pair.connection.accept(Accept { session_present: true, ..Accept::default() }, pair.now);
    pair.pump();
    let received = pair.received();
    assert!(matches!(&received[..], [Packet::ConnAck(ack), Packet::PingResp] if ack.session_present));
}

#[test]
fn empty_client_identifier_is_refused_where_no_session_could_be_kept() {
    // [MQTT-3.1.3-8] of 3.1.1
    let nameless =
        |version, clean_start| Connect { client_id: Text::default(), clean_start, ..connect(version) };
    for (version, clean, refused) in
        [(V31, true, true), (V311, false, true), (V311, true, false), (V5, false, false)]
    {
        let mut pair = Pair::new(Config::default(), version);
        pair.send(&Packet::Connect(Box::new(nameless(version, clean))));
        assert_eq!(pair.connection.is_closed(), refused, "{version:?} {clean}");
    }
}

#[test]
fn connack_tells_what_differs_from_what_was_asked() {
    let mut pair = Pair::new(Config { keep_alive_max_s: 30, ..Config::default() }, V5);
    let asked = Connect { session_expiry_s: Some(u32::MAX), ..connect(V5) };
    pair.send(&Packet::Connect(Box::new(asked)));
    pair.events();
    let assigned = Text::from_static("given");
    let accept = Accept {
        session_present: false,
        session_expiry_s: Some(60),
        assigned_client_id: Some(assigned.clone()),
    };
    pair.connection.accept(accept, pair.now);
    let received = pair.received();
    let [Packet::ConnAck(ack)] = &received[..] else { panic!("{received:?}") };
    assert_eq!(ack.properties.session_expiry_s, Some(60));
    assert_eq!(ack.properties.server_keep_alive_s, Some(30)); // [MQTT-3.1.2-21]
    assert_eq!(ack.properties.assigned_client_id, Some(assigned)); // [MQTT-3.2.2-16]
}

#[test]
fn silence_of_one_and_a_half_keep_alives_closes() {
    // [MQTT-3.1.2-22]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.pass(Duration::from_millis(89_999));
        assert!(!pair.connection.is_closed());
        pair.send(&Packet::PingReq);
        assert!(matches!(pair.received()[..], [Packet::PingResp])); // [MQTT-3.12.4-1]
        pair.pass(Duration::from_millis(89_999));
        assert!(!pair.connection.is_closed());
        pair.pass(Duration::from_millis(1));
        closed_with(&mut pair, ReasonCode::KEEP_ALIVE_TIMEOUT);
    }
}

#[test]
fn connect_and_packets_have_deadlines() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.send_bytes(&[0x10]);
    assert_eq!(pair.connection.poll_timeout(), Some(Duration::from_secs(15)));
    pair.pass(Duration::from_secs(5));
    assert!(pair.connection.is_closed());

    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send_bytes(&[0x30, 100]);
    pair.pass(Duration::from_secs(20));
    pair.send_bytes(&[0]);
    pair.pass(Duration::from_secs(10));
    closed_with(&mut pair, ReasonCode::MAXIMUM_CONNECT_TIME);
}

#[test]
fn publishes_are_acknowledged_in_order() {
    // [MQTT-4.6.0-2]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        for n in 1..=3 {
            pair.send(&publish(PublishQoS::AtLeastOnce(id(n))));
        }
        for event in pair.events() {
            let Event::Publish { token: Some(token), .. } = event else { panic!("{event:?}") };
            pair.connection.acknowledge(token, ReasonCode::SUCCESS);
        }
        let ids: Vec<u16> = pair
            .received()
            .iter()
            .map(|packet| match packet {
                Packet::PubAck(Ack { packet_id, .. }) => packet_id.get(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}

#[test]
#[should_panic(expected = "in the order in which they came")]
fn publish_acknowledged_out_of_order_is_a_defect() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
    pair.send(&publish(PublishQoS::AtLeastOnce(id(2))));
    let Some(Event::Publish { token: Some(second), .. }) = pair.events().pop() else { panic!() };
    pair.connection.acknowledge(second, ReasonCode::SUCCESS);
}

#[test]
fn failure_is_told_to_v5_and_closes_v3_without_acknowledgement() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
        let Some(Event::Publish { token: Some(token), .. }) = pair.events().pop() else { panic!() };
        pair.connection.acknowledge(token, ReasonCode::QUOTA_EXCEEDED);
        if version == V5 {
            assert!(
                matches!(&pair.received()[..], [Packet::PubAck(ack)] if ack.reason == ReasonCode::QUOTA_EXCEEDED)
            );
        } else {
            closed_with(&mut pair, ReasonCode::QUOTA_EXCEEDED);
        }
    }
}

#[test]
fn receive_maximum_exceeded_closes_v5_and_pauses_v3() {
    // [MQTT-3.3.4-7]
    let config = Config { receive_max: 2, ..Config::default() };
    for version in ALL {
        let mut pair = Pair::open(config.clone(), connect(version));
        for n in 1..=3 {
            pair.send(&publish(PublishQoS::AtLeastOnce(id(n))));
        }
        if version == V5 {
            closed_with(&mut pair, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
            continue;
        }
        assert!(!pair.connection.wants_read());
        let mut events = pair.events();
        assert_eq!(events.len(), 2);
        let Event::Publish { token: Some(first), .. } = events.remove(0) else { panic!() };
        pair.connection.acknowledge(first, ReasonCode::SUCCESS);
        assert!(pair.connection.wants_read());
        pair.pump();
        assert_eq!(pair.events().len(), 1);
    }
}

#[test]
fn qos_2_is_refused() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish(PublishQoS::ExactlyOnce(id(1))));
        closed_with(&mut pair, ReasonCode::QOS_NOT_SUPPORTED); // [MQTT-3.2.2-11]
    }
}

#[test]
fn topic_alias_stands_for_its_topic_on_this_connection() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&aliased(Some("long/name"), 3));
    pair.send(&aliased(None, 3));
    for event in pair.events() {
        assert!(matches!(&event, Event::Publish { topic, .. } if topic.as_str() == "long/name"), "{event:?}");
    }
    let mut unknown = Pair::open(Config::default(), connect(V5));
    unknown.send(&aliased(None, 3));
    closed_with(&mut unknown, ReasonCode::TOPIC_ALIAS_INVALID);
    let mut above = Pair::open(Config::default(), connect(V5));
    above.send(&aliased(Some("t"), 33)); // [MQTT-3.3.2-9]
    closed_with(&mut above, ReasonCode::TOPIC_ALIAS_INVALID);
}

#[test]
fn delivery_sets_and_uses_as_many_aliases_as_the_client_allows() {
    // [MQTT-3.1.2-26]
    let mut pair = Pair::open(Config::default(), Connect { topic_alias_max: Some(1), ..connect(V5) });
    let (first, second) = (topic("first"), topic("second"));
    for name in [&first, &first, &second] {
        pair.connection.deliver(&delivery(name, None)).unwrap();
    }
    let named: Vec<(bool, Option<u16>)> = pair
        .received()
        .iter()
        .map(|packet| {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
            (publish.topic.is_some(), alias.map(NonZeroU16::get))
        })
        .collect();
    assert_eq!(named, [(true, Some(1)), (false, Some(1)), (true, None)]);
}

#[test]
fn delivery_keeps_to_the_clients_window_and_packet_size() {
    let asked = Connect { receive_max: NonZeroU16::new(1), packet_bytes_max: Some(30), ..connect(V5) };
    let mut pair = Pair::open(Config::default(), asked);
    let name = topic("t");
    let large = Delivery { payload: &[0; 40], ..delivery(&name, Some(id(9))) };
    assert_eq!(pair.connection.deliver(&large), Err(NotSent::TooLarge)); // [MQTT-3.1.2-24]
    assert_eq!(pair.connection.inflight_room(), 1);
    pair.connection.deliver(&delivery(&name, Some(id(1)))).unwrap();
    assert_eq!(pair.connection.deliver(&delivery(&name, Some(id(2)))), Err(NotSent::WindowFull)); // [MQTT-3.3.4-9]
    pair.connection.deliver(&delivery(&name, None)).unwrap();
    let ack =
        Ack { packet_id: id(1), reason: ReasonCode::SUCCESS, reason_string: None, user_properties: vec![] };
    pair.send(&Packet::PubAck(ack.clone()));
    assert!(matches!(pair.events()[..], [Event::Acknowledged(packet_id)] if packet_id == id(1)));
    pair.send(&Packet::PubAck(ack));
    assert!(pair.events().is_empty(), "an acknowledgement of nothing is ignored");
    assert_eq!(pair.connection.inflight_room(), 1);
}

#[test]
fn disconnect_may_not_make_a_session_that_ends_with_the_connection_last() {
    // [MQTT-3.14.2-2]
    let disconnect = |session_expiry_s| {
        Packet::Disconnect(Disconnect {
            reason: ReasonCode::NORMAL_DISCONNECTION,
            session_expiry_s,
            reason_string: None,
            server_reference: None,
            user_properties: vec![],
        })
    };
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&disconnect(Some(5)));
    closed_with(&mut pair, ReasonCode::PROTOCOL_ERROR);
    let mut pair = Pair::open(Config::default(), Connect { session_expiry_s: Some(10), ..connect(V5) });
    pair.send(&disconnect(Some(5)));
    assert!(matches!(pair.events()[..], [Event::Closed { expiry_s: Some(5) }]));
    assert!(pair.received().is_empty());
}

#[test]
fn close_tells_v5_why_and_sends_nothing_after() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.connection.close(ReasonCode::SESSION_TAKEN_OVER);
        pair.connection.suback(id(1), vec![]);
        assert_eq!(pair.connection.deliver(&delivery(&topic("t"), None)), Err(NotSent::Closed));
        let received = pair.received();
        assert_eq!(received.len(), usize::from(version == V5));
        assert!(pair.events().is_empty(), "the broker knows that it closed");
    }
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_panic_and_closed_stays_silent(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        open in any::<bool>(),
        version in proptest::sample::select(ALL.to_vec()),
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
}

#[test]
fn connection_idle_is_small() {
    assert!(size_of::<Connection>() <= 640, "{} bytes", size_of::<Connection>());
}
