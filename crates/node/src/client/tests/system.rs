//! Topics below `$SYS`: current values for subscribers, refusals for publishers.

use super::*;

const UPTIME: &str = "$SYS/broker/uptime";

fn harness(mut harness: Harness) -> Harness {
    let values = [(UPTIME, "7 seconds"), ("$SYS/broker/version", "quorate 1"), ("$SYS/nodes/n1/uptime", "3")];
    harness.system.replace(values.map(|(topic, value)| (topic.to_owned(), value.to_owned())));
    harness
}

/// Subscribes, with the node's answer; gives what comes after the SUBACK, by topic.
fn values_of(harness: &mut Harness, packet: Packet, reasons: &[ReasonCode]) -> Vec<Publish> {
    let Packet::Subscribe(subscribe) = &packet else { panic!() };
    let packet_id = Durable::committed(subscribe.packet_id);
    harness.send(packet);
    assert_eq!(harness.received(), [], "nothing before the SUBACK");
    harness.event(ClientEvent::Subscribed { packet_id, reasons: reasons.to_vec() });
    let mut packets = harness.received().into_iter();
    assert!(matches!(packets.next(), Some(Packet::SubAck(_))));
    let publishes = packets.map(|packet| match packet {
        Packet::Publish(publish) => publish,
        other => panic!("{other:?}"),
    });
    publishes.collect()
}

fn handled(text: &str, retain_handling: RetainHandling) -> Packet {
    let options = SubscriptionOptions { retain_handling, ..options(ONE) };
    let filters = vec![(filter(text), options)];
    Packet::Subscribe(Subscribe { packet_id: id(1), identifier: Some(9), user_properties: vec![], filters })
}

const GRANTED: [ReasonCode; 1] = [ReasonCode::GRANTED_QOS_1];

#[test]
fn new_subscription_gets_current_values_with_retain_after_suback() {
    for start in [Harness::transient, Harness::durable] {
        let mut harness = harness(start());
        let publishes = values_of(&mut harness, handled("$SYS/#", RetainHandling::Always), &GRANTED);
        let [uptime, version, _] = &publishes[..] else { panic!("{publishes:?}") };
        assert_eq!(version.topic.as_ref().unwrap().as_str(), "$SYS/broker/version");
        assert_eq!(
            (&uptime.payload[..], uptime.retain, uptime.qos),
            (&b"7 seconds"[..], true, PublishQoS::AtMostOnce)
        );
        assert_eq!(uptime.properties.as_ref().unwrap().subscription_identifiers, [9]);
        harness.timeout();
        assert_eq!(harness.received(), [], "once");
    }
}

#[test]
fn wildcard_in_front_gets_no_values() {
    // [MQTT-4.7.2-1]
    for text in ["#", "+/#", "+/broker/uptime"] {
        let mut harness = harness(Harness::transient());
        assert_eq!(values_of(&mut harness, handled(text, RetainHandling::Always), &GRANTED), [], "{text}");
    }
}

#[test]
fn retain_handling_decides_over_values() {
    // [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11]
    let mut harness = harness(Harness::transient());
    for (handling, expected) in [
        (RetainHandling::Never, 0),
        (RetainHandling::IfNew, 0),
        (RetainHandling::Always, 1),
        (RetainHandling::IfNew, 0),
    ] {
        assert_eq!(
            values_of(&mut harness, handled(UPTIME, handling), &GRANTED).len(),
            expected,
            "{handling:?}"
        );
    }
    assert_eq!(values_of(&mut harness, handled("$SYS/broker/+", RetainHandling::IfNew), &GRANTED).len(), 2);
}

#[test]
fn refused_subscription_gets_no_values() {
    let mut harness = harness(Harness::transient());
    let both = subscribe(1, &[(UPTIME, ONE), ("$SYS/broker/version", ONE)]);
    let publishes = values_of(&mut harness, both, &[ReasonCode::QUOTA_EXCEEDED, ReasonCode::GRANTED_QOS_1]);
    assert_eq!(payloads(&publishes), ["quorate 1"]);
}

#[test]
fn publish_of_qos_0_is_dropped_and_counted() {
    let mut harness = Harness::transient();
    transient_subscriber(&mut harness, "$SYS/#");
    let mut packet = publish(UPTIME, PublishQoS::AtMostOnce, "0");
    packet.retain = true;
    harness.send(Packet::Publish(packet));
    assert_eq!(harness.dropped(), [(DropReason::ReadOnlyTopic, 1)]);
    assert!(harness.out.direct.is_empty() && harness.requests().is_empty());
}

fn transient_subscriber(harness: &mut Harness, text: &str) {
    let subscription = SubscribeFilter { filter: filter(text), options: options(ONE), identifier: None };
    harness.routing.apply_local(ConnId(50), LocalChange::Add { subscription, client: 1, durable: false });
}

#[test]
fn publish_of_qos_1_and_2_is_refused_in_its_place() {
    for start in [Harness::transient, Harness::durable] {
        let mut harness = start();
        transient_subscriber(&mut harness, "$SYS/#");
        harness.send_all(&[
            publish_1("nobody", 1),
            publish_1(UPTIME, 2),
            Packet::Publish(publish(UPTIME, PublishQoS::ExactlyOnce(id(3)), "0")),
            publish_1("nobody", 4),
        ]);
        let refused = |reason: ReasonCode| Ack { reason, ..ack(1) };
        let expected = [
            Packet::PubAck(refused(ReasonCode::NO_MATCHING_SUBSCRIBERS)),
            Packet::PubAck(Ack { packet_id: id(2), ..refused(ReasonCode::NOT_AUTHORIZED) }),
            Packet::PubRec(Ack { packet_id: id(3), ..refused(ReasonCode::NOT_AUTHORIZED) }),
            Packet::PubAck(Ack { packet_id: id(4), ..refused(ReasonCode::NO_MATCHING_SUBSCRIBERS) }),
        ];
        assert_eq!(harness.received(), expected);
        assert!(harness.out.direct.is_empty() && harness.requests().is_empty());
    }
}

#[test]
fn refused_publish_ends_the_connection_of_an_older_client() {
    let mut harness = Harness::new(ProtocolVersion::V311);
    harness.open(connect(ProtocolVersion::V311, "me"), false, SessionExpiry::AtClose, vec![]);
    harness.send(publish_1(UPTIME, 1));
    assert_eq!(harness.received(), []);
    assert!(harness.client.is_closed());
}

#[test]
fn what_went_through_is_counted_once() {
    let mut harness = harness(Harness::transient());
    let before = harness.client.take_traffic();
    assert_eq!((before.packets_in, before.packets_out), (1, 1), "CONNECT and CONNACK");
    harness.send(Packet::Publish(publish("a", PublishQoS::AtMostOnce, "12345")));
    values_of(&mut harness, handled(UPTIME, RetainHandling::Always), &GRANTED);
    let traffic = harness.client.take_traffic();
    assert_eq!((traffic.packets_in, traffic.publishes_in, traffic.publish_bytes_in), (2, 1, 5));
    assert_eq!((traffic.packets_out, traffic.publishes_out, traffic.publish_bytes_out), (2, 1, 9));
    assert_eq!(harness.client.take_traffic(), Traffic::default());
}

#[test]
fn will_on_a_read_only_topic_refuses_the_connect() {
    for (version, name, refused) in [
        (ProtocolVersion::V5, UPTIME, true),
        (ProtocolVersion::V311, UPTIME, true),
        (ProtocolVersion::V5, "$SYSTEM/x", false),
    ] {
        let mut harness = Harness::new(version);
        let will = quorate_codec::Will {
            topic: topic(name),
            payload: Bytes::new(),
            qos: ZERO,
            retain: false,
            delay_s: None,
            properties: PublishProperties::default(),
        };
        let connect = Connect { will: Some(will), ..connect(version, "me") };
        harness.send(Packet::Connect(Box::new(connect)));
        let reasons: Vec<ReasonCode> = harness
            .received()
            .into_iter()
            .map(|packet| match packet {
                Packet::ConnAck(ack) => ack.reason,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(reasons, if refused { vec![ReasonCode::NOT_AUTHORIZED] } else { vec![] }, "{name}");
        assert_eq!(harness.client.is_closed(), refused);
        assert_eq!(harness.requests().is_empty(), refused);
    }
}
