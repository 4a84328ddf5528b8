//! What somebody who watches a connection sees.

use bytes::Bytes;
use quorate_codec::{Packet, PacketType, PublishQoS, ReasonCode, Text, Will};

use crate::limits::OBSERVED_MAX;
use crate::testing::{Pair, alias, connect, delivery, id, publish, publish_aliased, subscribe, topic};
use crate::{Accept, Config};
use quorate_codec::ProtocolVersion::V5;

fn watched() -> Pair {
    let mut pair = Pair::new(Config::default(), V5);
    pair.connection.observe(Some(3));
    pair
}

#[test]
fn packets_of_both_directions_are_recorded_without_secrets() {
    let mut pair = watched();
    let mut secret = connect(V5);
    secret.username = Some(Text::from_static("secret-user"));
    secret.password = Some(Bytes::from_static(b"secret-word"));
    secret.authentication_method = None;
    secret.will = Some(Will {
        topic: topic("gone"),
        payload: Bytes::from_static(b"secret-will"),
        qos: quorate_codec::QoS::AtMostOnce,
        retain: false,
        delay_s: None,
        properties: Default::default(),
    });
    secret.topic_alias_max = Some(5);
    pair.send(&Packet::Connect(Box::new(secret)));
    pair.connection.accept(Accept::default(), pair.now);
    pair.send(&subscribe(1));
    pair.connection.suback(id(1), vec![ReasonCode::UNSPECIFIED_ERROR, ReasonCode::SUCCESS]);
    pair.send(&publish(PublishQoS::AtLeastOnce(id(7))));
    let long = topic("a/long/name");
    pair.connection.deliver(&delivery(&long, Some(id(9)))).unwrap();
    pair.connection.deliver(&delivery(&long, None)).unwrap();
    let (records, missed) = pair.connection.take_observed();
    assert_eq!(missed, 0);
    let seen: Vec<_> = records.iter().map(|record| (record.inbound, record.packet)).collect();
    let expected = [
        (true, PacketType::Connect),
        (false, PacketType::ConnAck),
        (true, PacketType::Subscribe),
        (false, PacketType::SubAck),
        (true, PacketType::Publish),
        (false, PacketType::Publish),
        (false, PacketType::Publish),
    ];
    assert_eq!(seen, expected);
    assert!(!format!("{records:?}").contains("secret"), "{records:?}");
    let topics: Vec<_> =
        records.iter().map(|record| record.topic.as_ref().map(|name| name.as_str())).collect();
    let long = Some("a/long/name");
    assert_eq!(topics, [Some("gone"), None, None, None, Some("t"), long, long], "aliases resolved");
    assert_eq!(records[2].filters[0].as_str(), "a/#");
    assert_eq!(records[3].reason, Some(ReasonCode::UNSPECIFIED_ERROR));
    assert_eq!((records[4].packet_id, records[4].payload_bytes), (Some(id(7)), Some(1)));
    assert_eq!((&records[5].payload[..], records[5].payload_bytes), (&b"pay"[..], Some(7)), "three bytes");
    let written: usize = records.iter().filter(|record| !record.inbound).map(|record| record.bytes).sum();
    assert_eq!(written, pair.connection.output_bytes());
    assert!(records[6].bytes < records[5].bytes, "an alias is shorter");
}

#[test]
fn alias_of_the_client_is_resolved_even_when_it_was_set_before() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&publish_aliased(Some("a/b"), 1));
    pair.connection.observe(Some(0));
    pair.send(&publish_aliased(None, alias(1).get()));
    let (records, _) = pair.connection.take_observed();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].topic.as_ref().map(|name| name.as_str()), Some("a/b"));
    assert!(records[0].payload.is_empty());
    pair.connection.observe(None);
    pair.send(&publish_aliased(None, 1));
    assert!(pair.connection.take_observed().0.is_empty());
}

#[test]
fn records_that_nobody_takes_are_bounded_and_counted() {
    let mut pair = watched();
    pair.send(&Packet::Connect(Box::new(connect(V5))));
    pair.connection.accept(Accept::default(), pair.now);
    for _ in 0..OBSERVED_MAX {
        pair.send(&publish(PublishQoS::AtMostOnce));
    }
    let (records, missed) = pair.connection.take_observed();
    assert_eq!((records.len(), missed), (OBSERVED_MAX, 2));
    assert_eq!(pair.connection.take_observed(), (Vec::new(), 0));
}
