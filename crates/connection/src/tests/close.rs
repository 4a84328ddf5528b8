//! The end of a connection.

use quorate_codec::{Connect, Packet, ProtocolVersion, ReasonCode, Text};

use crate::testing::{ALL, Pair, check_violation, connect, delivery, disconnect, id, publish, topic};
use crate::{CloseCause, Config, Event, NotSent};

use ProtocolVersion::V5;

#[test]
fn disconnect_ends_without_an_answer() {
    // [MQTT-3.14.4-1], [MQTT-3.14.4-2]
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&disconnect(ReasonCode::NORMAL_DISCONNECTION, None));
        pair.send(&Packet::PingReq);
        assert!(matches!(pair.events()[..], [Event::Closed { expiry_s: None }]));
        assert!(pair.received().is_empty());
        let cause = CloseCause::Disconnect(ReasonCode::NORMAL_DISCONNECTION);
        assert_eq!(pair.connection.close_cause(), Some(cause));
    }
}

#[test]
fn disconnect_with_will_message_is_told_apart() {
    // [MQTT-3.14.4-3]
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.send(&disconnect(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE, None));
    let cause = CloseCause::Disconnect(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE);
    assert_eq!(pair.connection.close_cause(), Some(cause));
}

#[test]
fn disconnect_may_not_make_a_session_that_ends_with_the_connection_last() {
    // MQTT 5, 3.14.2.2.2
    for (asked, granted, disconnected, allowed) in [
        (None, None, Some(5), false),
        (Some(0), None, Some(5), false),
        (Some(0), None, Some(0), true),
        (Some(10), None, Some(5), true),
        (Some(10), Some(0), Some(5), true),
        (Some(10), None, Some(0), true),
    ] {
        let mut pair = Pair::new(Config::default(), V5);
        pair.send(&Packet::Connect(Box::new(Connect { session_expiry_s: asked, ..connect(V5) })));
        let accept = crate::Accept { session_expiry_s: granted, ..crate::Accept::default() };
        pair.connection.accept(accept, pair.now);
        pair.events();
        pair.received();
        pair.send(&disconnect(ReasonCode::NORMAL_DISCONNECTION, disconnected));
        if allowed {
            assert!(pair.received().is_empty());
            let events = pair.events();
            assert!(matches!(events[..], [Event::Closed { expiry_s }] if expiry_s == disconnected));
        } else {
            check_violation(&mut pair, ReasonCode::PROTOCOL_ERROR);
        }
    }
}

#[test]
fn eof_ends_once_after_what_came_before() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send(&publish(quorate_codec::PublishQoS::AtMostOnce));
        pair.connection.handle_eof();
        pair.connection.handle_eof();
        assert!(matches!(pair.events()[..], [Event::Publish { .. }, Event::Closed { expiry_s: None }]));
        assert_eq!(pair.connection.close_cause(), Some(CloseCause::Eof));
        assert!(pair.received().is_empty());
    }
}

#[test]
fn close_tells_v5_why_and_sends_nothing_after() {
    for version in ALL {
        for reason in [ReasonCode::SESSION_TAKEN_OVER, ReasonCode::SERVER_SHUTTING_DOWN] {
            let mut pair = Pair::open(Config::default(), connect(version));
            pair.connection.close(reason);
            pair.connection.close(ReasonCode::UNSPECIFIED_ERROR);
            pair.connection.suback(id(1), vec![]);
            pair.connection.handle_eof();
            assert_eq!(pair.connection.deliver(&delivery(&topic("t"), None)), Err(NotSent::Closed));
            match &pair.received()[..] {
                [Packet::Disconnect(disconnect)] if version == V5 => assert_eq!(disconnect.reason, reason),
                [] if version != V5 => {}
                other => panic!("{other:?}"),
            }
            assert!(pair.events().is_empty(), "the broker knows that it closed");
            assert_eq!(pair.connection.close_cause(), Some(CloseCause::Broker(reason)));
        }
    }
}

#[test]
fn redirect_names_the_other_server_to_v5() {
    // MQTT 5, 4.11
    let other = Text::from_static("other:1883");
    for answered in [false, true] {
        let mut pair = Pair::new(Config::default(), V5);
        pair.send(&Packet::Connect(Box::new(connect(V5))));
        if answered {
            pair.connection.accept(crate::Accept::default(), pair.now);
            pair.received();
        }
        pair.connection.redirect(ReasonCode::USE_ANOTHER_SERVER, other.clone());
        let (reason, server) = match &pair.received()[..] {
            [Packet::ConnAck(ack)] if !answered => (ack.reason, ack.properties.server_reference.clone()),
            [Packet::Disconnect(disconnect)] if answered => {
                (disconnect.reason, disconnect.server_reference.clone())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((reason, server), (ReasonCode::USE_ANOTHER_SERVER, Some(other.clone())));
        assert!(pair.connection.is_closed());
    }
}

#[test]
fn close_before_connect_says_nothing() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.connection.close(ReasonCode::SERVER_SHUTTING_DOWN);
    assert!(pair.connection.is_closed());
    assert!(pair.received().is_empty());
}

#[test]
fn reason_string_that_the_client_is_too_small_for_is_left_out() {
    // [MQTT-3.14.2-3]
    for (bytes_max, explained) in [(100, true), (35, false)] {
        let mut pair =
            Pair::open(Config::default(), Connect { packet_bytes_max: Some(bytes_max), ..connect(V5) });
        pair.send_bytes(&[0x36, 5, 0, 1, b't', 0, 1]);
        let received = pair.received();
        let [Packet::Disconnect(disconnect)] = &received[..] else { panic!("{received:?}") };
        assert_eq!(disconnect.reason, ReasonCode::MALFORMED_PACKET);
        assert_eq!(disconnect.reason_string.is_some(), explained);
    }
}
