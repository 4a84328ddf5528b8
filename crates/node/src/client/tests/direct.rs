//! Deliveries to the client.

use std::collections::BTreeSet;

use super::*;
use crate::client::limits::{OUTPUT_BYTES_MAX, QUEUED_COPY_BYTES_MAX};

#[test]
fn transient_session_is_sent_no_more_than_its_window() {
    let mut harness = Harness::transient();
    for payload in ["1", "2", "3", "4", "5"] {
        harness.direct(delivery(ONE, payload));
    }
    let first = harness.publishes();
    assert_eq!(payloads(&first), ["1", "2", "3"]);
    let ids: Vec<u16> = first.iter().map(|publish| publish.qos.packet_id().unwrap().get()).collect();
    assert_eq!(ids, [1, 2, 3]);
    harness.send(puback(2));
    let next = harness.publishes();
    assert_eq!(payloads(&next), ["4"]);
    assert_eq!(next[0].qos.packet_id(), Some(id(4)));
    harness.send_all(&[puback(1), puback(3), puback(4)]);
    assert_eq!(payloads(&harness.publishes()), ["5"]);
    assert!(harness.requests().is_empty(), "nobody but this connection knows the session");
    assert!(harness.dropped().is_empty());
}

#[test]
fn receive_maximum_of_the_client_bounds_the_window() {
    // [MQTT-3.3.4-9]
    let mut harness = Harness::new(ProtocolVersion::V5);
    let asked = Connect { receive_max: PacketId::new(1), ..connect(ProtocolVersion::V5, "me") };
    harness.open(asked, false, SessionExpiry::AtClose, vec![]);
    harness.direct(delivery(ONE, "1"));
    harness.direct(delivery(ONE, "2"));
    harness.direct(delivery(ZERO, "0"));
    assert_eq!(payloads(&harness.publishes()), ["1", "0"]);
    harness.send(puback(1));
    assert_eq!(payloads(&harness.publishes()), ["2"]);
}

#[test]
fn transient_queue_drops_the_newest_and_counts() {
    let mut harness = Harness::transient();
    for number in 0..10 {
        harness.direct(delivery(ONE, &number.to_string()));
    }
    assert_eq!(harness.dropped(), [(DropReason::QueueMessages, 1); 3]);
    assert_eq!(payloads(&harness.publishes()), ["0", "1", "2"]);
    harness.send_all(&[puback(1), puback(2), puback(3)]);
    assert_eq!(payloads(&harness.publishes()), ["3", "4", "5"]);
    harness.direct(delivery(ONE, &"x".repeat(9_000)));
    harness.direct(delivery(ONE, &"y".repeat(9_000)));
    assert_eq!(harness.dropped(), [(DropReason::QueueBytes, 1)]);
    harness.eof();
    assert_eq!(harness.dropped(), [(DropReason::SessionEnded, 2)]);
}

#[test]
fn queued_message_loses_lifetime_and_expires() {
    // [MQTT-3.3.2-5, MQTT-3.3.2-6]
    let mut harness = Harness::transient();
    for payload in ["1", "2", "3"] {
        harness.direct(delivery(ONE, payload));
    }
    for (payload, expiry_s) in [("short", 10), ("long", 25)] {
        let message = Message { expiry_s: Some(expiry_s), ..message("t", ONE, payload) };
        harness.direct(DirectDelivery { message: Arc::new(DirectMessage { message }), ..delivery(ONE, "") });
    }
    harness.publishes();
    harness.now += Duration::from_secs(10);
    harness.send_all(&[puback(1), puback(2)]);
    let sent = harness.publishes();
    assert_eq!(payloads(&sent), ["long"]);
    assert_eq!(sent[0].properties.as_ref().unwrap().message_expiry_s, Some(15));
    assert_eq!(harness.dropped(), [(DropReason::MessageExpired, 1)]);
}

#[test]
fn slow_client_loses_qos_0_and_keeps_qos_1() {
    let config = ClientConfig { direct_queue_bytes_max: 10_000_000, ..config() };
    let mut harness = Harness::with(ProtocolVersion::V5, config);
    harness.open(connect(ProtocolVersion::V5, "me"), false, SessionExpiry::AtClose, vec![]);
    let big = "x".repeat(OUTPUT_BYTES_MAX / 2 - 100);
    for _ in 0..3 {
        harness.direct(delivery(ZERO, &big));
    }
    assert!(harness.dropped().is_empty());
    assert!(!harness.client.wants_read());
    harness.direct(delivery(ZERO, "lost"));
    harness.direct(delivery(ONE, "kept"));
    assert_eq!(harness.dropped(), [(DropReason::QueueBytes, 1)]);
    assert_eq!(harness.publishes().len(), 3);
    assert!(harness.client.wants_read());
    assert!(harness.client.poll_timeout().is_some_and(|time| time <= harness.now + RETRY_AFTER));
    harness.timeout();
    assert_eq!(payloads(&harness.publishes()), ["kept"]);
    assert_eq!(harness.client.poll_timeout(), None);
}

#[test]
fn message_beyond_the_clients_packet_size_is_dropped_and_counted() {
    // [MQTT-3.1.2-24, MQTT-3.1.2-25]
    for durable in [false, true] {
        let mut harness = Harness::new(ProtocolVersion::V5);
        let session_expiry_s = durable.then_some(60);
        let asked =
            Connect { packet_bytes_max: Some(100), session_expiry_s, ..connect(ProtocolVersion::V5, "me") };
        let expiry = if durable { SessionExpiry::After(60) } else { SessionExpiry::AtClose };
        harness.open(asked, false, expiry, vec![]);
        let big = "x".repeat(100);
        if durable {
            harness.event(ClientEvent::Deliver(session_delivery(1, &big)));
            let requests = harness.requests();
            let [ClientRequest::Acknowledged { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
            assert_eq!(packet_ids[..], [id(1)]);
        } else {
            harness.direct(delivery(ONE, &big));
            assert!(harness.requests().is_empty());
        }
        assert_eq!(harness.dropped(), [(DropReason::PacketTooLarge, 1)]);
        assert_eq!(harness.received(), []);
        // The window is as wide as before.
        for number in 2..5 {
            if durable {
                harness.event(ClientEvent::Deliver(session_delivery(number, "x")));
            } else {
                harness.direct(delivery(ONE, "x"));
            }
        }
        assert_eq!(harness.publishes().len(), 3, "durable: {durable}");
    }
}

#[test]
fn durable_session_keeps_packet_ids_and_reports_acknowledgements_together() {
    let mut harness = Harness::durable();
    let again =
        SessionDelivery { dup: true, retain: true, identifiers: vec![7, 9], ..session_delivery(41, "x") };
    harness.event(ClientEvent::Deliver(again));
    harness.event(ClientEvent::Deliver(session_delivery(17, "y")));
    harness.direct(delivery(ZERO, "z"));
    let sent = harness.publishes();
    let flags: Vec<_> =
        sent.iter().map(|one| (one.qos.packet_id().map(u16::from), one.dup, one.retain)).collect();
    assert_eq!(flags, [(Some(41), true, true), (Some(17), false, false), (None, false, false)]);
    assert_eq!(sent[0].properties.as_ref().unwrap().subscription_identifiers, [7, 9]);
    harness.send_all(&[puback(17), puback(41)]);
    let requests = harness.requests();
    let [ClientRequest::Acknowledged { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(packet_ids[..], [id(17), id(41)]);
}

#[test]
fn acknowledgements_are_reported_before_the_close() {
    let mut harness = Harness::durable();
    harness.event(ClientEvent::Deliver(session_delivery(1, "x")));
    harness.received();
    let disconnect = quorate_codec::Disconnect {
        reason: ReasonCode::NORMAL_DISCONNECTION,
        session_expiry_s: None,
        reason_string: None,
        server_reference: None,
        user_properties: vec![],
    };
    harness.send_all(&[puback(1), Packet::Disconnect(disconnect)]);
    let requests = harness.requests();
    assert!(
        matches!(requests[..], [ClientRequest::Acknowledged { .. }, ClientRequest::Closed { .. }]),
        "{requests:?}"
    );
}

#[test]
fn direct_message_after_the_end_is_counted() {
    let mut harness = Harness::transient();
    harness.eof();
    harness.direct(delivery(ONE, "late"));
    assert_eq!(harness.dropped(), [(DropReason::SessionEnded, 1)]);
    assert_eq!(harness.received(), []);
}

#[test]
fn queued_message_does_not_hold_the_input_of_its_publisher() {
    let mut harness = Harness::transient();
    for payload in ["1", "2", "3"] {
        harness.direct(delivery(ONE, payload));
    }
    let [small, large] = [delivery(ONE, "small"), delivery(ONE, &"x".repeat(QUEUED_COPY_BYTES_MAX))];
    harness.direct(small.clone());
    harness.direct(large.clone());
    assert_eq!(Arc::strong_count(&small.message), 1, "copied");
    assert_eq!(Arc::strong_count(&large.message), 2, "shared");
    harness.publishes();
    harness.send_all(&[puback(1), puback(2)]);
    let sent = harness.publishes();
    assert_eq!((&sent[0].payload[..], sent[1].payload.len()), (&b"small"[..], QUEUED_COPY_BYTES_MAX));
}

/// Messages, acknowledgements in any order, and time: the window holds, no packet identifier is used twice at once,
/// QoS 1 keeps its order, and every message is delivered or counted as dropped.
#[test]
fn random_deliveries_of_a_transient_session_are_complete_and_in_order() {
    for seed in 0..60 {
        let mut below = random(seed);
        let mut harness = Harness::transient();
        let mut inflight: BTreeSet<u16> = BTreeSet::new();
        let (mut offered, mut received, mut dropped) = (0_u64, 0_u64, 0_u64);
        let mut last = 0;
        for step in 0..300 {
            match below(7) {
                0..3 => {
                    offered += 1;
                    let expiry_s = (below(4) == 0).then_some(2);
                    let message = Message { expiry_s, ..message("t", ONE, &offered.to_string()) };
                    let message = Arc::new(DirectMessage { message });
                    harness.direct(DirectDelivery { message, ..delivery(ONE, "") });
                }
                3 => {
                    offered += 1;
                    harness.direct(delivery(ZERO, "0"));
                }
                4 => harness.now += Duration::from_secs(1),
                _ if !inflight.is_empty() => {
                    let packet_id = *inflight.iter().nth(below(inflight.len())).unwrap();
                    inflight.remove(&packet_id);
                    harness.send(puback(packet_id));
                }
                _ => harness.timeout(),
            }
            for publish in harness.publishes() {
                received += 1;
                let Some(packet_id) = publish.qos.packet_id() else { continue };
                assert!(inflight.insert(packet_id.get()), "seed {seed} step {step}: {packet_id} is in use");
                let number: u64 = std::str::from_utf8(&publish.payload).unwrap().parse().unwrap();
                assert!(number > last, "seed {seed} step {step}: {number} after {last}");
                last = number;
            }
            assert!(inflight.len() <= 3, "seed {seed} step {step}");
            dropped += harness.dropped().iter().map(|one| one.1).sum::<u64>();
        }
        harness.eof();
        dropped += harness.dropped().iter().map(|one| one.1).sum::<u64>();
        assert_eq!(received + dropped, offered, "seed {seed}");
    }
}

#[test]
fn packet_identifier_in_use_ends_the_connection_in_the_same_call() {
    let mut harness = Harness::durable();
    harness.event(ClientEvent::Deliver(session_delivery(1, "a")));
    assert!(harness.requests().is_empty());
    harness.event(ClientEvent::Deliver(session_delivery(1, "b")));
    assert!(matches!(harness.requests()[..], [ClientRequest::Closed { expiry: None, .. }]));
    assert!(harness.client.is_closed());
}

#[test]
fn defect_found_while_sending_what_waited_ends_the_connection_in_the_same_call() {
    let mut harness = Harness::new(ProtocolVersion::V5);
    let asked = Connect {
        receive_max: PacketId::new(2),
        session_expiry_s: Some(60),
        ..connect(ProtocolVersion::V5, "me")
    };
    harness.open(asked, true, SessionExpiry::After(60), vec![]);
    for packet_id in [1, 2, 3, 1] {
        harness.event(ClientEvent::Deliver(session_delivery(packet_id, "a")));
    }
    harness.send(puback(2));
    assert!(!harness.client.is_closed(), "the last waits for the window");
    harness.requests();
    harness.send(puback(3));
    let requests = harness.requests();
    assert!(
        matches!(requests[..], [ClientRequest::Acknowledged { .. }, ClientRequest::Closed { .. }]),
        "{requests:?}"
    );
    assert!(harness.client.is_closed());
}

#[test]
fn more_retained_messages_are_asked_for_when_there_is_room() {
    let taken = |client: &mut Harness| {
        let requests = client.requests();
        requests.iter().filter(|request| matches!(request, ClientRequest::RetainedTaken)).count()
    };
    let mut client = Harness::transient();
    client.event(ClientEvent::RetainedGiven);
    assert_eq!(taken(&mut client), 1);
    let message = Message { payload: Bytes::from(vec![0; OUTPUT_BYTES_MAX + 1]), ..message("r", ZERO, "") };
    client.event(ClientEvent::Retained { qos: ZERO, identifier: None, expiry_s: None, message });
    client.event(ClientEvent::RetainedGiven);
    assert_eq!(taken(&mut client), 0, "the client has not read the page");
    client.received();
    assert!(client.client.poll_timeout().is_some());
    client.timeout();
    assert_eq!(taken(&mut client), 1);
}
