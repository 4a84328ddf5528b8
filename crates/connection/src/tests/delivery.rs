//! PUBLISH to the client.

use std::num::NonZeroU16;

use bytes::BytesMut;
use quorate_codec::{
    Connect, Packet, ProtocolVersion, Publish, PublishProperties, PublishQoS, ReasonCode, Text,
};

use crate::testing::{ALL, Pair, ack, check_violation, connect, delivery, id, subscribe, topic};
use crate::{Config, Delivery, Event, NotSent};

use ProtocolVersion::{V5, V311};

fn received(pair: &mut Pair) -> Vec<Publish> {
    let publish = |packet| match packet {
        Packet::Publish(publish) => publish,
        other => panic!("{other:?}"),
    };
    pair.received().into_iter().map(publish).collect()
}

#[test]
fn delivery_carries_all_that_the_version_has() {
    let mut forwarded = BytesMut::new();
    let stored = PublishProperties {
        content_type: Some(Text::from_static("text/plain")),
        ..PublishProperties::default()
    };
    stored.encode_forwarded(&mut forwarded).unwrap();
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        let name = topic("some/topic");
        let delivery = Delivery {
            dup: true,
            retain: true,
            identifiers: &[1, 268_435_455],
            expiry_s: Some(9),
            forwarded: &forwarded,
            ..delivery(&name, Some(id(3)))
        };
        pair.connection.deliver(&delivery).unwrap();
        let [publish] = &received(&mut pair)[..] else { panic!() };
        assert!(publish.dup && publish.retain);
        assert_eq!(publish.qos, PublishQoS::AtLeastOnce(id(3)));
        assert_eq!(publish.topic, Some(name));
        assert_eq!(&publish.payload[..], b"payload");
        let expected = PublishProperties {
            message_expiry_s: Some(9),
            subscription_identifiers: vec![1, 268_435_455],
            ..stored.clone()
        };
        assert_eq!(publish.properties.as_deref(), (version == V5).then_some(&expected));
    }
}

#[test]
fn delivery_of_qos_0_is_never_dup() {
    // [MQTT-3.3.1-2]
    let mut pair = Pair::open(Config::default(), connect(V311));
    pair.connection.deliver(&Delivery { dup: true, ..delivery(&topic("t"), None) }).unwrap();
    assert!(!received(&mut pair)[0].dup);
}

#[test]
fn delivery_sets_and_uses_as_many_aliases_as_the_client_allows() {
    // [MQTT-3.1.2-26], [MQTT-3.1.2-27]
    for (allowed, expected) in [
        (None, [(true, None), (true, None), (true, None), (true, None)]),
        (Some(1), [(true, Some(1)), (false, Some(1)), (true, None), (true, None)]),
        (Some(9), [(true, Some(1)), (false, Some(1)), (true, Some(2)), (false, Some(2))]),
    ] {
        let mut pair = Pair::open(Config::default(), Connect { topic_alias_max: allowed, ..connect(V5) });
        let (first, second) = (topic("first"), topic("second"));
        for name in [&first, &first, &second, &second] {
            pair.connection.deliver(&delivery(name, None)).unwrap();
        }
        let named = |publish: &Publish| {
            let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
            (publish.topic.is_some(), alias.map(NonZeroU16::get))
        };
        let named: Vec<_> = received(&mut pair).iter().map(named).collect();
        assert_eq!(named, expected, "{allowed:?}");
    }
}

#[test]
fn alias_that_was_not_sent_is_not_used() {
    let asked = Connect { topic_alias_max: Some(9), packet_bytes_max: Some(40), ..connect(V5) };
    let mut pair = Pair::open(Config::default(), asked);
    let name = topic("first");
    let large = Delivery { payload: &[0; 40], ..delivery(&name, None) };
    assert_eq!(pair.connection.deliver(&large), Err(NotSent::TooLarge));
    // 2 + 2 + 5 + 1 + 30 = 40 bytes by name; three more with an alias.
    pair.connection.deliver(&Delivery { payload: &[0; 30], ..delivery(&name, None) }).unwrap();
    pair.connection.deliver(&delivery(&name, None)).unwrap();
    let publishes = received(&mut pair);
    assert!(publishes.iter().all(|publish| publish.topic.is_some()), "{publishes:?}");
    let alias = |publish: &Publish| publish.properties.as_ref().and_then(|properties| properties.topic_alias);
    assert_eq!(publishes.iter().map(alias).collect::<Vec<_>>(), [None, NonZeroU16::new(1)]);
}

#[test]
fn delivery_keeps_to_the_clients_window() {
    // [MQTT-3.3.4-9]
    let mut pair = Pair::open(Config::default(), Connect { receive_max: NonZeroU16::new(1), ..connect(V5) });
    let name = topic("t");
    pair.connection.deliver(&delivery(&name, Some(id(1)))).unwrap();
    assert_eq!(pair.connection.deliver(&delivery(&name, Some(id(2)))), Err(NotSent::WindowFull));
    pair.connection.deliver(&delivery(&name, None)).unwrap();
    pair.send(&Packet::PubAck(ack(1)));
    assert!(matches!(pair.events()[..], [Event::Acknowledged(packet_id)] if packet_id == id(1)));
    assert_eq!(pair.connection.inflight_room(), 1);
    pair.connection.deliver(&delivery(&name, Some(id(2)))).unwrap();
}

#[test]
fn delivery_to_v3_is_bounded_by_packet_identifiers_only() {
    let pair = Pair::open(Config::default(), connect(V311));
    assert_eq!(pair.connection.inflight_room(), u16::MAX);
}

#[test]
fn delivery_larger_than_the_client_takes_is_not_sent() {
    // [MQTT-3.1.2-24]: 2 + 2 + 1 + 2 + 1 + 22 = 30 bytes.
    let mut pair = Pair::open(Config::default(), Connect { packet_bytes_max: Some(30), ..connect(V5) });
    let name = topic("t");
    let fits = Delivery { payload: &[0; 22], ..delivery(&name, Some(id(1))) };
    pair.connection.deliver(&fits).unwrap();
    let large = Delivery { payload: &[0; 23], ..delivery(&name, Some(id(2))) };
    assert_eq!(pair.connection.deliver(&large), Err(NotSent::TooLarge));
    assert_eq!(received(&mut pair).len(), 1);
    assert_eq!(pair.connection.inflight_room(), u16::MAX - 1);
}

#[test]
fn acknowledgement_of_nothing_is_ignored_and_counted() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&Packet::PubAck(ack(1)));
        assert!(pair.events().is_empty());
        assert!(!pair.connection.is_closed());
        assert_eq!(pair.connection.unknown_acknowledgements(), 1);
    }
}

#[test]
fn acknowledgement_with_a_failure_acknowledges_too() {
    // [MQTT-4.4.0-2]
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.connection.deliver(&delivery(&topic("t"), Some(id(1)))).unwrap();
    pair.send(&Packet::PubAck(quorate_codec::Ack { reason: ReasonCode::QUOTA_EXCEEDED, ..ack(1) }));
    assert!(matches!(pair.events()[..], [Event::Acknowledged(_)]));
    assert_eq!(pair.connection.inflight_room(), u16::MAX);
}

#[test]
fn packet_identifier_in_use_is_never_sent_again() {
    // [MQTT-2.2.1-4], contract D7
    let mut pair = Pair::open(Config::default(), connect(V5));
    let name = topic("t");
    pair.connection.deliver(&delivery(&name, Some(id(1)))).unwrap();
    received(&mut pair);
    assert_eq!(pair.connection.deliver(&delivery(&name, Some(id(1)))), Err(NotSent::Closed));
    check_violation(&mut pair, ReasonCode::UNSPECIFIED_ERROR);
}

#[test]
fn answer_that_the_client_is_too_small_for_ends_the_connection() {
    // [MQTT-3.1.2-24]; it would wait for it for ever.
    let mut pair = Pair::open(Config::default(), Connect { packet_bytes_max: Some(30), ..connect(V5) });
    pair.send(&subscribe(1));
    pair.events();
    pair.connection.suback(id(1), vec![ReasonCode::GRANTED_QOS_1; 40]);
    check_violation(&mut pair, ReasonCode::PACKET_TOO_LARGE);
}
