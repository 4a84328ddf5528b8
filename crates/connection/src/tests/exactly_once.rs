//! QoS 2 on one connection, in both directions.

use ProtocolVersion::{V5, V31, V311};
use quorate_codec::{Ack, Packet, PacketId, ProtocolVersion, PublishQoS, ReasonCode};

use crate::testing::*;
use crate::{Config, Delivery, Event, NotSent};

fn publish_2(packet_id: u16) -> Packet {
    publish(PublishQoS::ExactlyOnce(id(packet_id)))
}

fn failed(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack { reason, ..ack(packet_id) }
}

fn deliver_2(pair: &mut Pair, packet_id: u16) -> Result<(), NotSent> {
    let topic = topic("a");
    let delivery = delivery(&topic, None);
    pair.connection.deliver(&Delivery { qos: PublishQoS::ExactlyOnce(id(packet_id)), ..delivery })
}

fn received_ids(events: Vec<Event>) -> Vec<PacketId> {
    let ids = events.into_iter().map(|event| match event {
        Event::Received(packet_id) => packet_id,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

#[test]
fn publish_is_answered_with_pubrec_and_its_release_with_pubcomp() {
    // [MQTT-4.3.3-8, MQTT-4.3.3-11]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish_2(7));
        let token = token(pair.events());
        assert!(!token.is_repeated() && pair.connection.is_unreleased(id(7)));
        pair.connection.acknowledge(token, ReasonCode::SUCCESS);
        assert_eq!(pair.received(), [Packet::PubRec(ack(7))]);
        pair.send(&Packet::PubRel(ack(7)));
        assert!(matches!(pair.events()[..], [Event::Release(packet_id)] if packet_id == id(7)));
        pair.connection.complete(id(7), true);
        assert_eq!(pair.received(), [Packet::PubComp(ack(7))]);
        assert!(!pair.connection.is_unreleased(id(7)));
    }
}

#[test]
fn publish_repeated_before_its_release_is_marked_and_answered_again() {
    // [MQTT-4.3.3-10]
    for version in ALL {
        let mut pair = Pair::open(Config { receive_max: 1, ..Config::default() }, connect(version));
        for repeated in [false, true, true] {
            pair.send(&publish_2(7));
            let token = token(pair.events());
            assert_eq!(token.is_repeated(), repeated);
            pair.connection.acknowledge(token, ReasonCode::SUCCESS);
            assert_eq!(pair.received(), [Packet::PubRec(ack(7))]);
        }
        pair.connection.complete(id(7), true);
        pair.send(&publish_2(7));
        assert!(!token(pair.events()).is_repeated(), "the identifier was free again");
    }
}

#[test]
fn publish_refused_frees_its_packet_identifier() {
    // [MQTT-4.3.3-9]
    let mut pair = Pair::open(Config { receive_max: 1, ..Config::default() }, connect(V5));
    pair.send(&publish_2(7));
    let refused = token(pair.events());
    pair.connection.acknowledge(refused, ReasonCode::QUOTA_EXCEEDED);
    assert_eq!(pair.received(), [Packet::PubRec(failed(7, ReasonCode::QUOTA_EXCEEDED))]);
    assert!(!pair.connection.is_unreleased(id(7)));
    pair.send(&publish_2(7));
    assert!(!token(pair.events()).is_repeated());
}

#[test]
fn publish_beyond_receive_maximum_of_unreleased_ones_is_a_violation() {
    // [MQTT-3.3.4-7]: QoS 2 counts until PUBCOMP.
    let mut pair = Pair::open(Config { receive_max: 1, ..Config::default() }, connect(V5));
    pair.send(&publish_2(1));
    let first = token(pair.events());
    pair.connection.acknowledge(first, ReasonCode::SUCCESS);
    pair.received();
    pair.send(&publish_2(2));
    check_violation(&mut pair, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
}

#[test]
fn client_of_3_x_with_unreleased_publishes_is_still_read() {
    // Its PUBREL would be behind what is not read.
    let mut pair = Pair::open(Config { receive_max: 1, ..Config::default() }, connect(V311));
    for packet_id in 1..=3 {
        pair.send(&publish_2(packet_id));
        let token = token(pair.events());
        pair.connection.acknowledge(token, ReasonCode::SUCCESS);
        assert!(pair.connection.wants_read());
    }
}

#[test]
fn release_of_an_unknown_packet_identifier_is_completed_with_its_reason() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&Packet::PubRel(ack(9)));
        assert!(matches!(pair.events()[..], [Event::Release(_)]));
        pair.connection.complete(id(9), false);
        let reason = match version {
            V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            V31 | V311 => ReasonCode::SUCCESS,
        };
        assert_eq!(pair.received(), [Packet::PubComp(failed(9, reason))]);
    }
}

#[test]
fn delivery_goes_through_pubrec_pubrel_and_pubcomp() {
    // [MQTT-4.3.3-1 to MQTT-4.3.3-6]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        deliver_2(&mut pair, 5).unwrap();
        assert!(matches!(&pair.received()[..], [Packet::Publish(publish)]
            if publish.qos == PublishQoS::ExactlyOnce(id(5)) && !publish.dup));
        pair.send(&Packet::PubRec(ack(5)));
        assert_eq!(received_ids(pair.events()), [id(5)]);
        assert!(pair.received().is_empty(), "PUBREL waits for the broker");
        pair.send(&Packet::PubRec(ack(5)));
        assert!(pair.events().is_empty() && pair.received().is_empty());
        pair.connection.release(id(5)).unwrap();
        assert_eq!(pair.received(), [Packet::PubRel(ack(5))]);
        pair.send(&Packet::PubRec(ack(5)));
        assert_eq!(pair.received(), [Packet::PubRel(ack(5))], "asked again, answered again");
        pair.send(&Packet::PubComp(ack(5)));
        assert!(matches!(pair.events()[..], [Event::Acknowledged(packet_id)] if packet_id == id(5)));
        pair.send(&Packet::PubComp(ack(5)));
        assert!(pair.events().is_empty());
        assert_eq!(pair.connection.unknown_acknowledgements(), 1);
    }
}

#[test]
fn delivery_refused_by_the_client_is_done() {
    // [MQTT-4.3.3-4]
    let mut pair = Pair::open(Config::default(), connect(V5));
    deliver_2(&mut pair, 5).unwrap();
    pair.received();
    pair.send(&Packet::PubRec(failed(5, ReasonCode::QUOTA_EXCEEDED)));
    assert!(matches!(pair.events()[..], [Event::Acknowledged(packet_id)] if packet_id == id(5)));
    assert!(pair.received().is_empty());
}

#[test]
fn pubrec_for_nothing_is_told_so() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&Packet::PubRec(ack(5)));
        assert!(pair.events().is_empty());
        let reason = match version {
            V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            V31 | V311 => ReasonCode::SUCCESS,
        };
        assert_eq!(pair.received(), [Packet::PubRel(failed(5, reason))]);
    }
}

#[test]
fn release_of_an_earlier_connection_goes_out_within_the_window() {
    // [MQTT-4.4.0-1]
    let asked = quorate_codec::Connect { receive_max: std::num::NonZeroU16::new(1), ..connect(V5) };
    let mut pair = Pair::open(Config::default(), asked);
    pair.connection.release(id(5)).unwrap();
    assert_eq!(pair.received(), [Packet::PubRel(ack(5))]);
    assert_eq!(pair.connection.release(id(6)), Err(NotSent::WindowFull));
    assert_eq!(deliver_2(&mut pair, 6), Err(NotSent::WindowFull));
    pair.send(&Packet::PubComp(ack(5)));
    assert!(matches!(pair.events()[..], [Event::Acknowledged(_)]));
    pair.connection.release(id(6)).unwrap();
}

#[test]
fn acknowledgement_of_the_wrong_kind_is_a_violation() {
    for version in ALL {
        for wrong in [Packet::PubAck(ack(5)), Packet::PubComp(ack(5))] {
            let mut pair = Pair::open(Config::default(), connect(version));
            deliver_2(&mut pair, 5).unwrap();
            pair.received();
            pair.send(&wrong);
            check_violation(&mut pair, ReasonCode::PROTOCOL_ERROR);
        }
        for wrong in [Packet::PubRec(ack(5)), Packet::PubComp(ack(5))] {
            let mut pair = Pair::open(Config::default(), connect(version));
            pair.connection.deliver(&delivery(&topic("a"), Some(id(5)))).unwrap();
            pair.received();
            pair.send(&wrong);
            check_violation(&mut pair, ReasonCode::PROTOCOL_ERROR);
        }
    }
}
