//! Doctored histories: each must be flagged, and an honest one must not.

use super::*;

mod sharing;
mod wills;

const PUBLISHER: ClientIndex = ClientIndex::Publisher(0);
const SUBSCRIBER: ClientIndex = ClientIndex::Subscriber(0);

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// One publisher, one subscriber, both connected.
fn connected(qos: QoS) -> Oracle {
    let mut oracle = Oracle::new([qos].into_iter(), [qos].into_iter(), 10);
    oracle.connected(PUBLISHER, Expected::Fresh, false);
    oracle.connected(SUBSCRIBER, Expected::Fresh, false);
    oracle
}

fn publish_and_ack(oracle: &mut Oracle, count: u64) {
    for _ in 0..count {
        let sequence = oracle.published(0);
        oracle.acked(0, sequence, at(sequence), at(sequence + 1));
    }
}

fn deliver(oracle: &mut Oracle, sequence: u64, dup: bool) {
    deliver_from(oracle, (0, 0), sequence, dup);
}

/// A delivery of the right QoS, of a pair of publisher and subscriber.
fn deliver_from(oracle: &mut Oracle, (publisher, subscriber): (usize, usize), sequence: u64, dup: bool) {
    let qos = oracle.publishers[publisher].qos.min(oracle.subscribers[subscriber].qos);
    let delivery = Delivery { publisher, sequence, dup, qos, sent_at: at(sequence) };
    oracle.delivered(subscriber, delivery, at(sequence + 2));
}

/// Runs a history at QoS 1 and compares the broken promises by a word of each.
fn check(history: impl FnOnce(&mut Oracle), broken: &[&str]) -> Report {
    check_qos(QoS::AtLeastOnce, history, broken)
}

fn check_qos(qos: QoS, history: impl FnOnce(&mut Oracle), broken: &[&str]) -> Report {
    let mut oracle = connected(qos);
    history(&mut oracle);
    let report = oracle.report();
    assert_eq!(report.broken.len(), broken.len(), "{report:?}");
    for (line, word) in report.broken.iter().zip(broken) {
        assert!(line.contains(word), "{line} has no {word}");
    }
    report
}

#[test]
fn honest_history_breaks_nothing() {
    let report = check(
        |oracle| {
            publish_and_ack(oracle, 200);
            (0..200).for_each(|sequence| deliver(oracle, sequence, false));
        },
        &[],
    );
    assert_eq!((report.published, report.acked, report.delivered), (200, 200, 200));
    assert_eq!((report.lost_acknowledged, report.indeterminate, report.reconnects), (0, 0, 0));
}

#[test]
fn lost_acknowledged_message_is_flagged() {
    let report = check(
        |oracle| {
            publish_and_ack(oracle, 130);
            (0..130)
                .filter(|sequence| *sequence != 129)
                .for_each(|sequence| deliver(oracle, sequence, false));
        },
        &["1 acknowledged messages were not delivered"],
    );
    assert_eq!(report.examples, ["s0 never got p0 #129, which was acknowledged"]);
}

#[test]
fn loss_at_one_of_two_subscribers_is_flagged() {
    let mut oracle = Oracle::new([QoS::AtLeastOnce].into_iter(), [QoS::AtLeastOnce; 2].into_iter(), 10);
    publish_and_ack(&mut oracle, 1);
    deliver(&mut oracle, 0, false);
    assert_eq!(oracle.report().lost_acknowledged, 1);
    assert_eq!(oracle.missing(), 1);
}

#[test]
fn unanswered_message_is_indeterminate_whether_delivered_or_not() {
    let report = check(
        |oracle| {
            oracle.published(0);
            oracle.published(0);
            deliver(oracle, 0, false);
        },
        &[],
    );
    assert_eq!((report.indeterminate, report.lost_acknowledged), (2, 0));
}

#[test]
fn refused_message_need_not_be_delivered() {
    let report = check(
        |oracle| {
            oracle.published(0);
            oracle.refused(0, at(0), at(1));
        },
        &[],
    );
    assert_eq!((report.refused, report.indeterminate), (1, 0));
}

#[test]
fn loss_at_qos_0_is_allowed_and_a_second_copy_is_not() {
    check_qos(QoS::AtMostOnce, |oracle| publish_and_ack(oracle, 3), &[]);
    let twice = |oracle: &mut Oracle| {
        publish_and_ack(oracle, 1);
        deliver(oracle, 0, false);
        deliver(oracle, 0, false);
    };
    check_qos(QoS::AtMostOnce, twice, &["1 messages were delivered again"]);
}

#[test]
fn second_copy_on_one_connection_is_flagged() {
    for dup in [false, true] {
        check(
            |oracle| {
                publish_and_ack(oracle, 1);
                deliver(oracle, 0, false);
                deliver(oracle, 0, dup);
            },
            &["1 messages were delivered again"],
        );
    }
}

#[test]
fn redelivery_after_reconnect_is_allowed_once_per_reconnect() {
    let history = |copies: u64| {
        move |oracle: &mut Oracle| {
            publish_and_ack(oracle, 1);
            deliver(oracle, 0, false);
            oracle.connected(SUBSCRIBER, Expected::Present, true);
            (0..copies).for_each(|_| deliver(oracle, 0, true));
        }
    };
    let report = check(history(1), &[]);
    assert_eq!(report.duplicates_redelivered, 1);
    check(history(2), &["1 messages were delivered again"]);
}

#[test]
fn redelivery_without_dup_after_reconnect_is_flagged() {
    check(
        |oracle| {
            publish_and_ack(oracle, 1);
            deliver(oracle, 0, false);
            oracle.connected(SUBSCRIBER, Expected::Present, true);
            deliver(oracle, 0, false);
        },
        &["1 messages were delivered again"],
    );
}

#[test]
fn redelivery_beyond_receive_maximum_is_flagged() {
    // Receive Maximum 10 and 64 more: the 75th repeated message of one reconnect is too many.
    check(
        |oracle| {
            publish_and_ack(oracle, 75);
            (0..75).for_each(|sequence| deliver(oracle, sequence, false));
            oracle.connected(SUBSCRIBER, Expected::Present, true);
            (0..75).for_each(|sequence| deliver(oracle, sequence, true));
        },
        &["1 messages were delivered again"],
    );
}

#[test]
fn copy_of_a_resent_message_is_allowed_at_qos_1_and_flagged_at_qos_2() {
    let history = |oracle: &mut Oracle| {
        let sequence = oracle.published(0);
        oracle.connected(PUBLISHER, Expected::Present, true);
        oracle.resent(0, sequence);
        oracle.acked(0, sequence, at(0), at(1));
        deliver(oracle, sequence, false);
        deliver(oracle, sequence, false);
    };
    let report = check(history, &[]);
    assert_eq!((report.duplicates_resent, report.reconnects), (1, 1));
    check_qos(QoS::ExactlyOnce, history, &["1 messages of QoS 2 were delivered again"]);
    let thrice = |oracle: &mut Oracle| {
        history(oracle);
        deliver(oracle, 0, false);
    };
    check(thrice, &["1 messages were delivered again"]);
}

#[test]
fn first_delivery_out_of_order_is_flagged() {
    let report = check(
        |oracle| {
            publish_and_ack(oracle, 3);
            [0, 2, 1].into_iter().for_each(|sequence| deliver(oracle, sequence, false));
        },
        &["1 messages were first delivered out of order"],
    );
    assert_eq!(report.examples, ["s0 got p0 #1 first after #2"]);
}

#[test]
fn repeated_run_of_messages_is_not_out_of_order() {
    check(
        |oracle| {
            publish_and_ack(oracle, 4);
            [0, 1, 2].into_iter().for_each(|sequence| deliver(oracle, sequence, false));
            oracle.connected(SUBSCRIBER, Expected::Present, true);
            [1, 2].into_iter().for_each(|sequence| deliver(oracle, sequence, true));
            deliver(oracle, 3, false);
        },
        &[],
    );
}

#[test]
fn message_that_nobody_published_is_flagged() {
    check(
        |oracle| {
            publish_and_ack(oracle, 1);
            deliver(oracle, 0, false);
            deliver(oracle, 1, false);
            let delivery =
                Delivery { publisher: 5, sequence: 0, dup: false, qos: QoS::AtLeastOnce, sent_at: at(0) };
            oracle.delivered(0, delivery, at(9));
        },
        &["2 messages were delivered that nobody published"],
    );
}

#[test]
fn corrupt_payload_and_protocol_error_are_flagged() {
    check(
        |oracle| {
            oracle.corrupt(SUBSCRIBER);
            oracle.protocol_error(SUBSCRIBER, "PUBLISH before CONNACK");
        },
        &["1 payloads were changed", "1 packets were against"],
    );
}

#[test]
fn lost_session_is_flagged_for_publishers_and_subscribers() {
    for client in [PUBLISHER, SUBSCRIBER] {
        check(|oracle| oracle.connected(client, Expected::Present, false), &["1 sessions were lost"]);
        check(|oracle| oracle.connected(client, Expected::Either, false), &[]);
        check(|oracle| oracle.connected(client, Expected::Fresh, true), &["1 sessions were present"]);
    }
}

#[test]
fn gaps_count_only_while_something_waits() {
    let report = check(
        |oracle| {
            for (sent, acked, delivered) in [(0, 1, 2), (10_000, 10_005, 10_007), (10_001, 12_005, 13_007)] {
                let sequence = oracle.published(0);
                oracle.acked(0, sequence, at(sent), at(acked));
                let delivery =
                    Delivery { publisher: 0, sequence, dup: false, qos: QoS::AtLeastOnce, sent_at: at(sent) };
                oracle.delivered(0, delivery, at(delivered));
            }
        },
        &[],
    );
    assert_eq!((report.longest_ack_gap_ms, report.longest_delivery_gap_ms), (2_000, 3_000));
    let report = check(
        |oracle| {
            oracle.published(0);
            oracle.still_unacked(0, at(5), at(905));
        },
        &[],
    );
    assert_eq!(report.longest_ack_gap_ms, 900);
}

/// Publishers and subscribers of QoS 1 and 2, all connected; every publisher's message 0 is sent twice, acknowledged
/// and delivered to all, and every subscriber has reconnected.
fn mixed() -> Oracle {
    let levels = [QoS::AtLeastOnce, QoS::ExactlyOnce];
    let mut oracle = Oracle::new(levels.into_iter(), levels.into_iter(), 10);
    for publisher in [0, 1] {
        let sequence = oracle.published(publisher);
        oracle.resent(publisher, sequence);
        oracle.acked(publisher, sequence, at(0), at(1));
    }
    for subscriber in [0, 1] {
        oracle.connected(ClientIndex::Subscriber(subscriber), Expected::Fresh, false);
        [0, 1].into_iter().for_each(|publisher| deliver_from(&mut oracle, (publisher, subscriber), 0, false));
        oracle.connected(ClientIndex::Subscriber(subscriber), Expected::Present, true);
    }
    oracle
}

#[test]
fn mixed_pairs_are_judged_by_the_lower_qos() {
    assert_eq!(mixed().report().broken, [""; 0]);
    for (pair, copy_with_dup, plain_copy) in [
        // A resend of QoS 1 explains a plain copy; a reconnect explains one with DUP, unless both are of QoS 2.
        ((0, 0), None, None),
        ((0, 1), None, None),
        ((1, 0), None, Some("1 messages were delivered again")),
        ((1, 1), Some("1 messages of QoS 2 were"), Some("1 messages of QoS 2 were")),
    ] {
        for (dup, broken) in [(true, copy_with_dup), (false, plain_copy)] {
            let mut oracle = mixed();
            deliver_from(&mut oracle, pair, 0, dup);
            let report = oracle.report();
            assert_eq!(report.broken.len(), usize::from(broken.is_some()), "{pair:?} {dup}: {report:?}");
            assert!(report.broken.iter().all(|line| line.starts_with(broken.unwrap_or(""))), "{report:?}");
        }
    }
}

#[test]
fn loss_in_any_pair_of_a_mix_is_flagged() {
    for pair in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let mut oracle = mixed();
        let sequence = oracle.published(pair.0);
        oracle.acked(pair.0, sequence, at(3), at(4));
        deliver_from(&mut oracle, (pair.0, 1 - pair.1), sequence, false);
        let report = oracle.report();
        assert_eq!(report.lost_acknowledged, 1);
        assert_eq!(
            report.examples,
            [format!("s{} never got p{} #1, which was acknowledged", pair.1, pair.0)]
        );
    }
}

#[test]
fn delivery_with_another_qos_than_the_lower_one_is_flagged() {
    for wrong in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut oracle = mixed();
        let sequence = oracle.published(1);
        let delivery = Delivery { publisher: 1, sequence, dup: false, qos: wrong, sent_at: at(0) };
        oracle.delivered(1, delivery, at(1));
        let report = oracle.report();
        assert_eq!(report.broken, ["1 messages were delivered with a wrong QoS"]);
        assert_eq!(report.examples, [format!("s1 got p1 #1 with QoS {}, not 2", wrong as u8)]);
    }
    // What the broker granted counts, not what was asked for.
    let mut oracle = mixed();
    oracle.granted(ClientIndex::Subscriber(1), QoS::AtLeastOnce);
    let sequence = oracle.published(1);
    deliver_from(&mut oracle, (1, 1), sequence, false);
    assert_eq!(oracle.report().wrong_qos, 0);
}
