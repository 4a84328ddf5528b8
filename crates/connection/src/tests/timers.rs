//! Deadlines.

use core::time::Duration;

use quorate_codec::{Connect, Packet, ProtocolVersion, PublishQoS, ReasonCode};

use crate::limits::{LATE_MAX, LOOK_AGAIN, OUTPUT_DEADLINE};
use crate::testing::{ALL, Pair, check_told, connect, id, publish, token};
use crate::{CloseCause, Config, Reading, Timer};

use ProtocolVersion::{V5, V311};

/// How long a client may be silent, asking for this Keep Alive; `None`: for ever.
fn check_silence(version: ProtocolVersion, asked_s: u16, config: &Config, expect: Option<Duration>) {
    let mut pair = Pair::open(config.clone(), Connect { keep_alive_s: asked_s, ..connect(version) });
    let Some(silence) = expect else {
        assert_eq!(pair.connection.poll_timeout(), None, "{version:?} {asked_s}");
        return;
    };
    assert_eq!(pair.connection.poll_timeout(), Some(pair.now + silence), "{version:?} {asked_s}");
    pair.pass(silence - Duration::from_millis(1));
    pair.send(&Packet::PingReq);
    assert!(matches!(pair.received()[..], [Packet::PingResp])); // [MQTT-3.12.4-1]
    pair.pass(silence - Duration::from_millis(1));
    assert!(!pair.connection.is_closed());
    pair.pass(Duration::from_millis(1));
    assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::KeepAlive)));
    check_told(&mut pair, ReasonCode::KEEP_ALIVE_TIMEOUT);
}

#[test]
fn silence_of_one_and_a_half_keep_alives_closes() {
    // [MQTT-3.1.2-22]; 5.0 only: [MQTT-3.1.2-21]
    let seconds = |s| Some(Duration::from_secs(s));
    let default = Config::default();
    for version in ALL {
        check_silence(version, 60, &default, seconds(90));
    }
    check_silence(V311, 1, &default, Some(Duration::from_millis(1500)));
    check_silence(V5, 301, &default, seconds(450));
    check_silence(V5, 0, &default, seconds(450));
    check_silence(V311, 301, &default, Some(Duration::from_millis(451_500)));
    check_silence(V311, 0, &default, None);
    check_silence(
        V5,
        u16::MAX,
        &Config { keep_alive_max_s: 0, ..default.clone() },
        Some(Duration::from_millis(98_302_500)),
    );
    check_silence(V5, 0, &Config { keep_alive_max_s: 0, ..default.clone() }, None);
    let reaping = Config { idle_deadline: Duration::from_secs(3600), ..default };
    check_silence(V311, 0, &reaping, seconds(3600));
}

#[test]
fn connect_has_one_deadline_for_the_whole() {
    let mut pair = Pair::new(Config::default(), V5);
    assert_eq!(pair.connection.poll_timeout(), Some(pair.now + Duration::from_secs(5)));
    for byte in [0x10, 20, 0, 4] {
        pair.pass(Duration::from_secs(1));
        pair.send_bytes(&[byte]);
        assert!(!pair.connection.is_closed());
    }
    pair.pass(Duration::from_secs(1));
    assert!(pair.connection.is_closed());
    assert!(pair.received().is_empty(), "nobody has said who they are");
    assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::Connect)));
}

#[test]
fn packet_has_one_deadline_from_its_first_byte() {
    for version in ALL {
        let mut pair = Pair::open(Config::default(), connect(version));
        pair.send_bytes(&[0x30, 100]);
        pair.pass(Duration::from_secs(20));
        pair.send_bytes(&[0]);
        pair.pass(Duration::from_secs(10));
        assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::Packet)));
        check_told(&mut pair, ReasonCode::UNSPECIFIED_ERROR);
    }
}

#[test]
fn packet_deadline_begins_anew_with_each_packet() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    for _ in 0..10 {
        pair.send_bytes(&[0xC0]);
        pair.pass(Duration::from_secs(20));
        pair.send_bytes(&[0]);
    }
    assert_eq!(pair.received().len(), 10);
}

#[test]
fn keep_alive_does_not_count_what_the_machine_left_unread() {
    let config = Config { receive_max: 1, ..Config::default() };
    let mut pair = Pair::open(config, connect(V311));
    pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
    let first = token(pair.events());
    pair.send(&Packet::PingReq);
    assert!(!pair.connection.wants_read());
    for _ in 0..3 {
        pair.pass(Duration::from_secs(90));
        assert!(!pair.connection.is_closed(), "its PINGREQ was not read");
    }
    pair.connection.acknowledge(first, ReasonCode::SUCCESS);
    pair.pass(Duration::from_secs(90));
    assert!(!pair.connection.is_closed(), "there was no time to read yet");
    pair.pump();
    assert!(matches!(pair.received()[..], [Packet::PubAck(_), Packet::PingResp]));
    pair.pass(Duration::from_secs(90));
    check_told(&mut pair, ReasonCode::KEEP_ALIVE_TIMEOUT);
}

#[test]
fn keep_alive_after_a_pause_is_extended_once() {
    let config = Config { receive_max: 1, ..Config::default() };
    let mut pair = Pair::open(config, connect(V311));
    pair.send(&publish(PublishQoS::AtLeastOnce(id(1))));
    let first = token(pair.events());
    pair.connection.acknowledge(first, ReasonCode::SUCCESS);
    pair.received();
    pair.pass(Duration::from_secs(90));
    assert!(!pair.connection.is_closed());
    pair.pass(Duration::from_secs(90));
    check_told(&mut pair, ReasonCode::KEEP_ALIVE_TIMEOUT);
}

#[test]
fn deadline_noticed_late_leaves_time_to_read_what_came() {
    // A machine that was busy for a minute: the rest of the packet waits in the socket.
    for version in ALL {
        let mut pair = Pair::open(Config::default(), Connect { keep_alive_s: 10, ..connect(version) });
        pair.send_bytes(&[0xC0]);
        pair.pass(Duration::from_secs(60));
        assert!(!pair.connection.is_closed(), "{version:?}");
        pair.send_bytes(&[0]);
        assert!(matches!(pair.received()[..], [Packet::PingResp]));
        pair.send_bytes(&[0xC0]);
        pair.pass(Duration::from_secs(60));
        assert_eq!(pair.connection.poll_timeout(), Some(pair.now + LOOK_AGAIN));
        pair.pass(LOOK_AGAIN);
        assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::Packet)));
        check_told(&mut pair, ReasonCode::UNSPECIFIED_ERROR);
    }
}

#[test]
fn connect_deadline_noticed_late_leaves_time_to_read_what_came() {
    let mut pair = Pair::new(Config::default(), V5);
    pair.pass(Duration::from_secs(5) + LATE_MAX + Duration::from_millis(1));
    assert!(!pair.connection.is_closed());
    pair.pass(LOOK_AGAIN);
    assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::Connect)));
}

#[test]
fn silence_counts_only_while_the_caller_reads() {
    for reading in [Reading::Busy, Reading::Blocked] {
        let config = Config { output_deadline: Duration::from_secs(86_400), ..Config::default() };
        let mut pair = Pair::open(config, connect(V5));
        pair.send_bytes(&[0xC0]);
        pair.pass(Duration::from_secs(29));
        pair.connection.set_reading(reading, pair.now);
        for _ in 0..100 {
            pair.pass(Duration::from_secs(10));
            assert!(!pair.connection.is_closed(), "{reading:?}");
        }
        pair.connection.set_reading(Reading::Open, pair.now);
        pair.pass(Duration::from_secs(29));
        pair.send_bytes(&[0]);
        pair.pass(Duration::from_secs(89));
        assert!(!pair.connection.is_closed());
        pair.pass(Duration::from_secs(1));
        assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::KeepAlive)));
    }
}

#[test]
fn keep_alive_after_a_pause_is_whole() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    pair.connection.set_reading(Reading::Busy, pair.now);
    pair.pass(Duration::from_secs(50));
    pair.connection.set_reading(Reading::Open, pair.now);
    assert_eq!(pair.connection.poll_timeout(), Some(pair.now + Duration::from_secs(90)));
}

#[test]
fn blocked_client_that_takes_nothing_is_closed() {
    let mut pair = Pair::open(Config::default(), Connect { keep_alive_s: 65_535, ..connect(V311) });
    let topic = crate::testing::topic("t");
    let deliver = |pair: &mut Pair| {
        pair.connection.deliver(&crate::testing::delivery(&topic, None)).unwrap();
    };
    deliver(&mut pair);
    pair.connection.set_reading(Reading::Blocked, pair.now);
    for _ in 0..5 {
        deliver(&mut pair);
        pair.pass(OUTPUT_DEADLINE / 2);
        let _one_byte = pair.connection.output().split_to(1);
        pair.pass(OUTPUT_DEADLINE / 2);
        assert!(!pair.connection.is_closed());
    }
    deliver(&mut pair);
    pair.pass(OUTPUT_DEADLINE);
    assert_eq!(pair.connection.close_cause(), Some(CloseCause::Deadline(Timer::Output)));
}

#[test]
fn client_that_takes_all_is_no_longer_timed() {
    let mut pair = Pair::open(Config::default(), Connect { keep_alive_s: 0, ..connect(V311) });
    pair.connection.set_reading(Reading::Blocked, pair.now);
    pair.connection.set_reading(Reading::Open, pair.now);
    assert_eq!(pair.connection.poll_timeout(), None);
}

#[test]
fn timeout_before_its_time_changes_nothing() {
    let mut pair = Pair::open(Config::default(), connect(V5));
    let at = pair.connection.poll_timeout();
    pair.connection.handle_timeout(pair.now);
    assert_eq!(pair.connection.poll_timeout(), at);
    assert!(pair.events().is_empty());
}
