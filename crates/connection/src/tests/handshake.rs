//! CONNECT and its answer.

use core::time::Duration;
use std::num::NonZeroU16;

use bytes::Bytes;
use quorate_codec::{Connect, Packet, ProtocolVersion, PublishProperties, QoS, ReasonCode, Text, Will};

use crate::testing::{ALL, Pair, check_violation, connect, topic};
use crate::{Accept, CloseCause, Config, Connection, Event};

use ProtocolVersion::{V5, V31, V311};

/// CONNECT is refused by the machine itself with this code (3.x: return code), or asked for.
fn check(connect: Connect, refused: Option<ReasonCode>) {
    let mut pair = Pair::new(Config::default(), connect.version);
    let told = format!("{connect:?}");
    pair.send(&Packet::Connect(Box::new(connect)));
    let events = pair.events();
    match refused {
        None => {
            assert!(matches!(events[..], [Event::Connect(_)]), "{told}: {events:?}");
            assert!(pair.received().is_empty(), "{told}: the broker answers");
        }
        Some(reason) => {
            assert!(matches!(events[..], [Event::Closed { expiry_s: None }]), "{told}: {events:?}");
            assert_eq!(pair.connection.close_cause(), Some(CloseCause::Violation(reason)), "{told}");
            let received = pair.received();
            let [Packet::ConnAck(ack)] = &received[..] else { panic!("{told}: {received:?}") };
            assert!(!ack.session_present, "[MQTT-3.2.2-6]");
            assert_eq!(ack.reason, on_the_wire(pair.version, reason), "{told}");
        }
    }
}

/// A reason as the CONNACK of this version tells it.
fn on_the_wire(version: ProtocolVersion, reason: ReasonCode) -> ReasonCode {
    match version {
        V5 => reason,
        V31 | V311 => ReasonCode::from_connack_return_code_v3(reason.connack_return_code_v3()).unwrap(),
    }
}

fn will(qos: QoS) -> Option<Will> {
    Some(Will {
        topic: topic("w"),
        payload: Bytes::new(),
        qos,
        retain: false,
        delay_s: None,
        properties: PublishProperties::default(),
    })
}

#[test]
fn connect_is_checked_by_the_rules_of_its_version() {
    for version in ALL {
        check(connect(version), None);
        // [MQTT-3.1.3-5] allows more than 23 characters.
        check(
            Connect { client_id: Text::from_static("an-identifier-of-29-characters"), ..connect(version) },
            None,
        );
    }
    // 3.1.1 [MQTT-3.1.3-7], [MQTT-3.1.3-8]; 5.0 [MQTT-3.1.3-6]; 3.1 has no empty identifier.
    let invalid = Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    for (version, clean_start, refused) in [
        (V31, true, invalid),
        (V31, false, invalid),
        (V311, false, invalid),
        (V311, true, None),
        (V5, false, None),
        (V5, true, None),
    ] {
        check(Connect { client_id: Text::default(), clean_start, ..connect(version) }, refused);
    }
    // [MQTT-4.12.0-1]
    let method = Some(Text::from_static("SCRAM-SHA-1"));
    check(
        Connect { authentication_method: method, ..connect(V5) },
        Some(ReasonCode::BAD_AUTHENTICATION_METHOD),
    );
    check(Connect { will: will(QoS::ExactlyOnce), ..connect(V5) }, None);
}

#[test]
fn first_packet_other_than_connect_closes_without_a_word() {
    // [MQTT-3.1.0-1]
    for first in [0xC0, 0x30, 0x20, 0xF0, 0x00, b'G'] {
        let mut pair = Pair::new(Config::default(), V5);
        pair.send_bytes(&[first]);
        assert!(pair.connection.is_closed(), "{first:#x}");
        assert!(pair.received().is_empty());
        assert!(matches!(pair.events()[..], [Event::Closed { .. }]));
    }
}

#[test]
fn malformed_connect_is_answered_in_v5_only() {
    // [MQTT-3.1.4-1]; 3.1.1 [MQTT-3.1.4-1]: reserved flag of the CONNECT set [MQTT-3.1.2-3].
    for (version, level) in [(V311, 4), (V5, 5)] {
        let mut pair = Pair::new(Config::default(), version);
        let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', level, 0b11, 0, 60];
        packet.extend_from_slice(if version == V5 { &[0, 0, 1, b'c'] } else { &[0, 1, b'c'] });
        packet[1] = packet.len() as u8 - 2;
        pair.send_bytes(&packet);
        assert!(pair.connection.is_closed());
        let received = pair.received();
        match version {
            V5 => {
                let [Packet::ConnAck(ack)] = &received[..] else { panic!("{received:?}") };
                assert_eq!(ack.reason, ReasonCode::MALFORMED_PACKET);
                assert!(ack.properties.reason_string.is_some(), "it says which rule");
            }
            V31 | V311 => assert!(received.is_empty()),
        }
    }
}

#[test]
fn unknown_protocol_level_is_told() {
    // [MQTT-3.1.2-2]
    for (level, version) in [(6, V5), (2, V311)] {
        let mut pair = Pair::new(Config::default(), version);
        pair.send_bytes(&[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', level, 2, 0, 60, 0, 1, b'c']);
        assert!(pair.connection.is_closed());
        let received = pair.received();
        let [Packet::ConnAck(ack)] = &received[..] else { panic!("{received:?}") };
        assert_eq!(ack.reason, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    }
}

#[test]
fn connect_larger_than_allowed_is_refused_by_its_length() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.send_bytes(&[0x10, 0xFF, 0xFF, 0x7F]);
    assert!(pair.connection.is_closed());
    assert_eq!(pair.connection.close_cause(), Some(CloseCause::Violation(ReasonCode::PACKET_TOO_LARGE)));
}

#[test]
fn second_connect_is_a_protocol_error() {
    // [MQTT-3.1.0-2]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&Packet::Connect(Box::new(connect(version))));
        check_violation(&mut pair, ReasonCode::PROTOCOL_ERROR);
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
fn connack_tells_what_holds_on_this_connection() {
    let mut pair = Pair::new(Config { keep_alive_max_s: 30, receive_max: 7, ..Config::default() }, V5);
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
    let properties = &ack.properties;
    assert_eq!(properties.session_expiry_s, Some(60)); // MQTT 5, 3.2.2.3.2
    assert_eq!(properties.server_keep_alive_s, Some(30)); // [MQTT-3.1.2-21]
    assert_eq!(properties.assigned_client_id, Some(assigned)); // [MQTT-3.2.2-16]
    assert_eq!(properties.receive_max, NonZeroU16::new(7)); // [MQTT-3.2.2-13]
    assert_eq!(properties.qos_max, None); // [MQTT-3.2.2-9]
    assert_eq!(properties.packet_bytes_max, Some(Config::default().limits.packet_bytes_max));
    assert_eq!(properties.topic_alias_max, Some(Config::default().topic_alias_max)); // [MQTT-3.2.2-17]
    assert_eq!(properties.shared_subscription_available, None, "they are available");
}

#[test]
fn connack_keeps_quiet_about_what_is_as_asked() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.send(&Packet::Connect(Box::new(Connect { session_expiry_s: Some(60), ..connect(V5) })));
    pair.connection.accept(Accept { session_expiry_s: Some(60), ..Accept::default() }, pair.now);
    let received = pair.received();
    let [Packet::ConnAck(ack)] = &received[..] else { panic!("{received:?}") };
    assert_eq!(ack.properties.session_expiry_s, None);
    assert_eq!(ack.properties.server_keep_alive_s, None);
    assert_eq!(ack.properties.assigned_client_id, None);
}

#[test]
fn connack_that_the_client_is_too_small_for_ends_the_connection() {
    // [MQTT-3.1.2-24]; nothing may follow a CONNACK that was never sent.
    for (bytes, told) in [(10, true), (4, false)] {
        let mut pair = Pair::new(Config::default(), V5);
        pair.send(&Packet::Connect(Box::new(Connect { packet_bytes_max: Some(bytes), ..connect(V5) })));
        pair.events();
        pair.connection.accept(Accept::default(), pair.now);
        assert!(pair.connection.is_closed());
        assert!(matches!(pair.events()[..], [Event::Closed { .. }]));
        match &pair.received()[..] {
            [Packet::ConnAck(ack)] if told => assert_eq!(ack.reason, ReasonCode::PACKET_TOO_LARGE),
            [] if !told => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn refuse_sends_the_nearest_code_of_the_version_and_ends() {
    // [MQTT-3.2.2-7]
    for version in ALL {
        for reason in [
            ReasonCode::NOT_AUTHORIZED,
            ReasonCode::SERVER_UNAVAILABLE,
            ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        ] {
            let mut pair = Pair::new(Config::default(), version);
            pair.send(&Packet::Connect(Box::new(connect(version))));
            pair.events();
            pair.connection.refuse(reason);
            assert!(pair.connection.is_closed());
            let received = pair.received();
            let [Packet::ConnAck(ack)] = &received[..] else { panic!("{received:?}") };
            assert_eq!(ack.reason, on_the_wire(version, reason));
            pair.connection.accept(Accept::default(), pair.now);
            assert!(pair.received().is_empty(), "one answer");
            assert!(pair.events().is_empty(), "the broker knows");
        }
    }
}

#[test]
fn refuse_with_a_success_still_reads_as_a_failure() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.send(&Packet::Connect(Box::new(connect(V5))));
    pair.connection.refuse(ReasonCode::SUCCESS);
    let received = pair.received();
    assert!(matches!(&received[..], [Packet::ConnAck(ack)] if ack.reason == ReasonCode::UNSPECIFIED_ERROR));
}

#[test]
fn unanswered_connect_is_told_that_the_server_is_unavailable() {
    for version in ALL {
        let mut pair = Pair::new(Config::default(), version);
        pair.send(&Packet::Connect(Box::new(Connect { keep_alive_s: 1, ..connect(version) })));
        pair.events();
        pair.pass(Duration::from_millis(19_999));
        assert!(!pair.connection.is_closed(), "the wait is not the client's silence");
        pair.pass(Duration::from_millis(1));
        assert!(pair.connection.is_closed());
        let received = pair.received();
        let [Packet::ConnAck(ack)] = &received[..] else { panic!("{received:?}") };
        assert_eq!(ack.reason, ReasonCode::SERVER_UNAVAILABLE);
        assert!(matches!(pair.events()[..], [Event::Closed { .. }]));
    }
}

#[test]
fn connection_idle_is_small() {
    assert!(size_of::<Connection>() <= 640, "{} bytes", size_of::<Connection>());
}
