//! Doctored histories of a share group of two members, Receive Maximum 3.

use super::*;

fn group(publisher: QoS, members: [QoS; 2]) -> Oracle {
    let mut oracle = Oracle::new([publisher].into_iter(), [].into_iter(), 3);
    oracle.share(members.into_iter());
    for member in [0, 1] {
        oracle.connected(ClientIndex::Sharer(member), Expected::Fresh, false);
    }
    oracle
}

fn reconnect(oracle: &mut Oracle, member: usize) {
    oracle.disconnected(ClientIndex::Sharer(member));
    oracle.connected(ClientIndex::Sharer(member), Expected::Present, true);
}

/// A delivery with the QoS that the member is due.
fn share(oracle: &mut Oracle, member: usize, sequence: u64) {
    let qos = oracle.publishers[0].qos.min(oracle.sharers[member]);
    oracle.shared(member, Delivery { publisher: 0, sequence, dup: false, qos, sent_at: at(0) });
}

const ONE: [QoS; 2] = [QoS::AtLeastOnce; 2];
const TWO: [QoS; 2] = [QoS::ExactlyOnce; 2];

/// Publisher and members, what happens after one publish that is acknowledged, and the promises broken by it.
fn check_group(
    (publisher, members): (QoS, [QoS; 2]),
    history: impl FnOnce(&mut Oracle),
    broken: &[&str],
) -> Report {
    let mut oracle = group(publisher, members);
    publish_and_ack(&mut oracle, 1);
    history(&mut oracle);
    let report = oracle.report();
    assert_eq!(report.broken.len(), broken.len(), "{report:?}");
    assert!(report.broken.iter().zip(broken).all(|(line, start)| line.starts_with(start)), "{report:?}");
    report
}

const AGAIN: &str = "1 messages were delivered to the share group again";
const AGAIN_AT_QOS_2: &str = "1 messages of QoS 2 were delivered to the share group again";

#[test]
fn message_for_one_member_is_enough() {
    for levels in [(QoS::AtLeastOnce, ONE), (QoS::ExactlyOnce, TWO)] {
        let report = check_group(levels, |oracle| share(oracle, 1, 0), &[]);
        assert_eq!((report.shared_delivered, report.shared_lost), (1, 0));
    }
}

#[test]
fn acknowledged_message_for_no_member_is_flagged() {
    let mut oracle = group(QoS::AtLeastOnce, ONE);
    publish_and_ack(&mut oracle, 3);
    [0, 2].into_iter().for_each(|sequence| share(&mut oracle, 0, sequence));
    assert_eq!(oracle.missing(), 1);
    let report = oracle.report();
    assert_eq!(
        report.broken,
        ["1 acknowledged messages were delivered to no member of the share group (D14)"]
    );
    assert_eq!(report.examples, ["no member of the share group got p0 #1, which was acknowledged"]);
    assert_eq!(report.lost_acknowledged, 0, "subscribers lost nothing");
}

#[test]
fn message_for_both_members_is_flagged_while_nobody_lost_a_connection() {
    let twice = |oracle: &mut Oracle| [0, 1].into_iter().for_each(|member| share(oracle, member, 0));
    check_group((QoS::AtLeastOnce, ONE), twice, &[AGAIN]);
    check_group((QoS::ExactlyOnce, TWO), twice, &[AGAIN_AT_QOS_2]);
    check_group((QoS::ExactlyOnce, ONE), twice, &[AGAIN]);
}

#[test]
fn message_in_flight_to_a_lost_member_may_go_to_another_once() {
    // The copy may come before the member itself finds out that its connection is lost.
    let history = |copies: u64| {
        move |oracle: &mut Oracle| {
            share(oracle, 0, 0);
            (0..copies).for_each(|_| share(oracle, 1, 0));
            reconnect(oracle, 0);
        }
    };
    let report = check_group((QoS::AtLeastOnce, ONE), history(1), &[]);
    assert_eq!((report.shared_reassigned, report.reconnects), (1, 1));
    check_group((QoS::AtLeastOnce, ONE), history(2), &[AGAIN]);
    check_group((QoS::ExactlyOnce, TWO), history(1), &[AGAIN_AT_QOS_2]);
    // To a member of QoS 1 a message of QoS 2 is one of QoS 1.
    check_group((QoS::ExactlyOnce, ONE), history(1), &[]);
    check_group((QoS::ExactlyOnce, [QoS::AtLeastOnce, QoS::ExactlyOnce]), history(1), &[]);
    check_group((QoS::ExactlyOnce, [QoS::ExactlyOnce, QoS::AtLeastOnce]), history(1), &[AGAIN]);
}

#[test]
fn connection_lost_before_the_delivery_explains_nothing() {
    let history = |oracle: &mut Oracle| {
        reconnect(oracle, 0);
        share(oracle, 0, 0);
        share(oracle, 1, 0);
    };
    check_group((QoS::AtLeastOnce, ONE), history, &[AGAIN]);
}

#[test]
fn copy_of_what_was_not_in_flight_any_more_is_flagged() {
    // Receive Maximum 3: of four deliveries on the lost connection the first must have been acknowledged.
    let mut oracle = group(QoS::AtLeastOnce, ONE);
    publish_and_ack(&mut oracle, 4);
    (0..4).for_each(|sequence| share(&mut oracle, 0, sequence));
    reconnect(&mut oracle, 0);
    (1..4).for_each(|sequence| share(&mut oracle, 1, sequence));
    let report = oracle.report();
    assert_eq!((report.shared_reassigned, report.broken.len()), (3, 0));
    share(&mut oracle, 1, 0);
    assert_eq!(oracle.report().shared_unexplained, 1);
}

#[test]
fn resent_publish_explains_one_copy_at_qos_1_and_none_at_qos_2() {
    let history = |oracle: &mut Oracle| {
        oracle.resent(0, 0);
        share(oracle, 0, 0);
        share(oracle, 1, 0);
    };
    let report = check_group((QoS::AtLeastOnce, ONE), history, &[]);
    assert_eq!(report.shared_resent, 1);
    check_group((QoS::ExactlyOnce, ONE), history, &[AGAIN]);
    // Two messages of one publish, of which one was in flight to a lost member.
    let both = |oracle: &mut Oracle| {
        history(oracle);
        reconnect(oracle, 0);
        share(oracle, 1, 0);
    };
    check_group((QoS::AtLeastOnce, ONE), both, &[]);
}

#[test]
fn phantom_wrong_qos_and_lost_session_of_a_member_are_flagged() {
    let history = |oracle: &mut Oracle| {
        share(oracle, 0, 0);
        share(oracle, 0, 7);
        let sequence = oracle.published(0);
        let wrong = QoS::ExactlyOnce;
        oracle.shared(1, Delivery { publisher: 0, sequence, dup: false, qos: wrong, sent_at: at(0) });
        oracle.connected(ClientIndex::Sharer(1), Expected::Present, false);
    };
    let broken = [
        "1 messages were delivered with a wrong QoS",
        "1 messages were delivered that nobody published",
        "1 sessions were lost",
    ];
    check_group((QoS::AtLeastOnce, ONE), history, &broken);
}
