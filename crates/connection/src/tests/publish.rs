//! PUBLISH of the client, and what else it sends.

use bytes::Bytes;
use quorate_codec::{Auth, Packet, ProtocolVersion, Publish, PublishQoS, ReasonCode};

use crate::limits::EVENTS_KEPT_MAX;
use crate::testing::{
    ALL, Pair, check_told, check_violation, connect, id, publish, publish_again, publish_aliased, subscribe,
    token, topic, unsubscribe,
};
use crate::{CloseCause, Config, Event};

use ProtocolVersion::{V5, V31, V311};

fn acked(pair: &mut Pair) -> Vec<u16> {
    let packet_id = |packet: &Packet| match packet {
        Packet::PubAck(ack) => ack.packet_id.get(),
        other => panic!("{other:?}"),
    };
    pair.received().iter().map(packet_id).collect()
}

#[test]
fn publishes_are_acknowledged_in_order() {
    // [MQTT-4.6.0-2]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        for n in [3, 1, 2] {
            pair.send(&publish(PublishQoS::AtLeastOnce(id(n))));
        }
        for event in pair.events() {
            let Event::Publish { token: Some(token), .. } = event else { panic!("{event:?}") };
            pair.connection.acknowledge(token, ReasonCode::SUCCESS);
        }
        assert_eq!(acked(&mut pair), [3, 1, 2]);
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
fn acknowledge_after_the_end_does_nothing_in_any_order() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
        pair.send(&publish(PublishQoS::AtLeastOnce(id(2))));
        let second = token(pair.events().split_off(1));
        pair.connection.handle_eof();
        pair.connection.acknowledge(second, ReasonCode::SUCCESS);
        assert!(pair.received().is_empty());
    }
}

#[test]
fn publish_sent_again_is_passed_on_and_acknowledged_again() {
    // Contract D4: each PUBLISH packet counts; the packet identifier is free again at PUBACK [MQTT-4.3.2-5].
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish(PublishQoS::AtLeastOnce(id(5))));
        pair.send(&publish_again(5));
        let events = pair.events();
        assert!(
            matches!(&events[..], [Event::Publish { publish: first, .. }, Event::Publish { publish: second, .. }]
                if !first.dup && second.dup),
            "{events:?}"
        );
        for event in events {
            let Event::Publish { token: Some(token), .. } = event else { panic!("{event:?}") };
            pair.connection.acknowledge(token, ReasonCode::SUCCESS);
        }
        assert_eq!(acked(&mut pair), [5, 5]);
    }
}

#[test]
fn publish_of_qos_0_has_no_token() {
    let mut pair = Pair::open(Config::default(), connect(V311));
    pair.send(&publish(PublishQoS::AtMostOnce));
    let events = pair.events();
    assert!(matches!(&events[..], [Event::Publish { token: None, topic, .. }] if topic.as_str() == "t"));
}

#[test]
fn failure_is_told_to_v5_and_closes_v3_without_acknowledgement() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
        pair.send(&publish(PublishQoS::AtLeastOnce(id(2))));
        let mut events = pair.events();
        let second = token(events.split_off(1));
        pair.connection.acknowledge(token(events), ReasonCode::QUOTA_EXCEEDED);
        if version == V5 {
            let received = pair.received();
            assert!(
                matches!(&received[..], [Packet::PubAck(ack)] if ack.reason == ReasonCode::QUOTA_EXCEEDED)
            );
        } else {
            let cause = CloseCause::Broker(ReasonCode::QUOTA_EXCEEDED);
            assert_eq!(pair.connection.close_cause(), Some(cause));
            check_told(&mut pair, ReasonCode::QUOTA_EXCEEDED);
            pair.connection.acknowledge(second, ReasonCode::SUCCESS);
            assert!(pair.received().is_empty(), "nothing is acknowledged after the end");
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
            check_violation(&mut pair, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
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
fn receive_maximum_of_v5_does_not_bound_qos_0_or_other_packets() {
    // [MQTT-3.3.4-10]
    let mut pair = Pair::open(Config { receive_max: 1, ..Config::default() }, connect(V5));
    pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
    pair.send(&publish(PublishQoS::AtMostOnce));
    pair.send(&Packet::PingReq);
    pair.send(&subscribe(2));
    assert_eq!(pair.events().len(), 3);
    assert!(matches!(pair.received()[..], [Packet::PingResp]));
}

#[test]
fn auth_that_was_not_begun_is_a_protocol_error() {
    // [MQTT-4.12.0-7]: AUTH without an Authentication Method in CONNECT.
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&Packet::Auth(Auth {
        reason: ReasonCode::CONTINUE_AUTHENTICATION,
        method: Some(quorate_codec::Text::from_static("m")),
        data: None,
        reason_string: None,
        user_properties: vec![],
    }));
    check_violation(&mut pair, ReasonCode::PROTOCOL_ERROR);
}

#[test]
fn packets_of_a_server_are_refused() {
    for version in [V31, V311, V5] {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&Packet::PingResp);
        check_violation(&mut pair, ReasonCode::PROTOCOL_ERROR);
    }
}

#[test]
fn topic_alias_stands_for_its_topic_on_this_connection() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&publish_aliased(Some("long/name"), 3));
    pair.send(&publish_aliased(None, 3));
    let events = pair.events();
    assert_eq!(events.len(), 2);
    for event in events {
        assert!(matches!(&event, Event::Publish { topic, .. } if topic.as_str() == "long/name"), "{event:?}");
    }
    for packet in [
        publish_aliased(None, 3),       // not set on this connection [MQTT-3.3.2-7]
        publish_aliased(Some("t"), 33), // [MQTT-3.3.2-9]
    ] {
        let mut other = Pair::open(Config::default(), connect(V5));
        other.send(&packet);
        check_violation(&mut other, ReasonCode::TOPIC_ALIAS_INVALID);
    }
}

#[test]
fn packet_larger_than_announced_is_refused_by_its_length() {
    // [MQTT-3.2.2-15]
    for version in ALL {
        let mut config = Config::default();
        config.limits.packet_bytes_max = 100;
        let mut pair = Pair::open(config, connect(version));
        pair.send_bytes(&[0x30, 99]);
        check_violation(&mut pair, ReasonCode::PACKET_TOO_LARGE);
    }
}

#[test]
fn broken_rule_is_named_to_v5() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send_bytes(&[0x36, 5, 0, 1, b't', 0, 1]);
    let received = pair.received();
    let [Packet::Disconnect(disconnect)] = &received[..] else { panic!("{received:?}") };
    assert_eq!(disconnect.reason, ReasonCode::MALFORMED_PACKET);
    let said = disconnect.reason_string.as_ref().unwrap().as_str();
    assert!(said.contains("QoS 3 [MQTT-3.3.1-4]"), "{said}");
}

#[test]
fn subscribe_and_unsubscribe_are_answered_in_the_brokers_words() {
    // [MQTT-3.8.4-1], [MQTT-3.10.4-4]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&subscribe(1));
        pair.send(&unsubscribe(2));
        assert!(matches!(pair.events()[..], [Event::Subscribe(_), Event::Unsubscribe(_)]));
        pair.connection.suback(id(1), vec![ReasonCode::GRANTED_QOS_1]);
        pair.connection.unsuback(id(2), vec![ReasonCode::SUCCESS]);
        let received = pair.received();
        let [Packet::SubAck(suback), Packet::UnsubAck(unsuback)] = &received[..] else {
            panic!("{received:?}")
        };
        assert_eq!((suback.packet_id, &suback.reasons[..]), (id(1), &[ReasonCode::GRANTED_QOS_1][..]));
        assert_eq!(unsuback.packet_id, id(2));
    }
}

#[test]
fn burst_of_small_packets_leaves_no_room_behind() {
    let mut pair = Pair::open(Config::default(), connect(V311));
    let small = Packet::Publish(Publish {
        dup: false,
        qos: PublishQoS::AtMostOnce,
        retain: false,
        topic: Some(topic("t")),
        properties: None,
        payload: Bytes::new(),
    });
    for _ in 0..1000 {
        quorate_codec::encode(&small, V311, &mut pair.input).unwrap();
    }
    pair.pump();
    assert_eq!(pair.events().len(), 1000);
    assert!(pair.connection.events_capacity() <= EVENTS_KEPT_MAX);
}
