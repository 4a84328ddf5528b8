//! Packet identifiers are free again after PUBACK, in both directions (D4, D7).

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use quorate_tests::Cluster;
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw, publish_bytes};

/// Enough for packet identifiers to go round three times.
const MESSAGES: u64 = 200_000;

/// Unacknowledged publishes of the publisher.
const WINDOW: u64 = 500;

/// Unacknowledged deliveries that the subscriber holds back.
const HELD: usize = 100;

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn reused_packet_identifier_is_a_new_message() {
    let cluster = Cluster::start("identifiers", 3).unwrap();
    let start = Instant::now();
    let (mut subscriber, _) = Raw::connect(cluster.node(1).mqtt_port, &Connect::durable("ids-sub")).unwrap();
    subscriber.subscribe("ids/#").unwrap();
    let (mut publisher, _) = Raw::connect(cluster.node(0).mqtt_port, &Connect::durable("ids-pub")).unwrap();
    for payload in ["first", "second"] {
        publisher.publish("ids/one", payload.as_bytes(), false, Some(1)).unwrap();
        assert_eq!(publisher.read().unwrap(), Some(Packet::Puback { packet_id: 1, reason: 0 }));
        assert_eq!(subscriber.receive().unwrap().payload, payload.as_bytes());
    }
    let identifiers = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_all(&mut subscriber));
        publish_all(&mut publisher);
        receiving.join().unwrap()
    });
    cluster.check_log().unwrap();
    println!(
        "reused_packet_identifier_is_a_new_message: {MESSAGES} in order on one connection in {} s, {identifiers} \
         different identifiers to the subscriber",
        start.elapsed().as_secs()
    );
}

/// Publishes with packet identifiers 1 to 65,535 round and round; acknowledgements come in order [MQTT-4.6.0-2].
fn publish_all(publisher: &mut Raw) {
    let (mut sent, mut acked) = (0, 0);
    let packet_id = |sequence: u64| Some((sequence % 65_535) as u16 + 1);
    while acked < MESSAGES {
        let until = MESSAGES.min(acked + WINDOW);
        let one = |sequence: u64| {
            let payload = Message { publisher: 0, sequence }.encode(64);
            publish_bytes("ids/many", &payload, false, packet_id(sequence))
        };
        let bytes: Vec<u8> = (sent..until).flat_map(one).collect();
        publisher.send(&bytes).unwrap();
        sent = until;
        match publisher.read().unwrap() {
            Some(Packet::Puback { packet_id: id, reason: 0 }) => assert_eq!(Some(id), packet_id(acked)),
            other => panic!("PUBACK {acked} expected, got {other:?}"),
        }
        acked += 1;
    }
}

/// Receives all in order, each once; an identifier may come again only after its PUBACK. Gives how many there were.
fn receive_all(subscriber: &mut Raw) -> usize {
    let mut held = VecDeque::new();
    let mut identifiers = BTreeSet::new();
    for expected in 0..MESSAGES {
        let publish = match subscriber.read().unwrap() {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("message {expected} expected, got {other:?}"),
        };
        assert_eq!(Message::decode(&publish.payload), Some(Message { publisher: 0, sequence: expected }));
        assert!(!publish.dup, "message {expected} has DUP on its only connection");
        let packet_id = publish.packet_id.expect("QoS 1");
        assert!(!held.contains(&packet_id), "packet identifier {packet_id} is in flight twice");
        identifiers.insert(packet_id);
        held.push_back(packet_id);
        if held.len() > HELD {
            subscriber.puback(held.pop_front().unwrap()).unwrap();
        }
    }
    for packet_id in held {
        subscriber.puback(packet_id).unwrap();
    }
    identifiers.len()
}
