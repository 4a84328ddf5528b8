//! Doctored histories of wills: two clients, and one subscriber that sees their wills.

use super::*;

fn check_wills(history: impl FnOnce(&mut Oracle), broken: &[&str]) -> Report {
    let mut oracle = Oracle::new([].into_iter(), [].into_iter(), 10);
    oracle.expect_wills(2);
    oracle.connected(ClientIndex::Watcher, Expected::Fresh, false);
    history(&mut oracle);
    let report = oracle.report();
    assert_eq!(report.broken.len(), broken.len(), "{report:?}");
    assert!(report.broken.iter().zip(broken).all(|(line, start)| line.starts_with(start)), "{report:?}");
    report
}

/// A connection of client 0 that ended so.
fn ended(oracle: &mut Oracle, fate: Fate) -> u64 {
    let connection = oracle.will_sent(0);
    oracle.will_fate(0, connection, fate);
    connection
}

#[test]
fn will_of_a_cut_connection_seen_once_is_right() {
    let report = check_wills(
        |oracle| {
            for _ in 0..2 {
                let connection = ended(oracle, Fate::Cut);
                assert_eq!(oracle.missing(), 1);
                oracle.will_seen(0, connection, false);
            }
        },
        &[],
    );
    assert_eq!((report.wills_due, report.wills_seen), (2, 2));
}

#[test]
fn will_that_does_not_come_is_flagged() {
    check_wills(|oracle| _ = ended(oracle, Fate::Cut), &["1 wills were not published"]);
}

#[test]
fn will_seen_twice_is_flagged_whatever_became_of_the_connection() {
    for fate in [Fate::Cut, Fate::Unknown] {
        let twice = |oracle: &mut Oracle| {
            let connection = ended(oracle, fate);
            oracle.will_seen(0, connection, false);
            oracle.will_seen(0, connection, false);
        };
        check_wills(twice, &["1 wills were published again"]);
    }
}

#[test]
fn will_again_with_dup_needs_a_reconnect() {
    let history = |oracle: &mut Oracle| {
        let connection = ended(oracle, Fate::Cut);
        oracle.will_seen(0, connection, false);
        oracle.will_seen(0, connection, true);
    };
    check_wills(history, &["1 wills were published again"]);
    let reconnected = |oracle: &mut Oracle| {
        history(oracle);
        oracle.connected(ClientIndex::Watcher, Expected::Present, true);
    };
    check_wills(reconnected, &[]);
    // A will may come for the first time with DUP, when the connection that it was sent on broke.
    let first = |oracle: &mut Oracle| {
        let connection = ended(oracle, Fate::Cut);
        oracle.connected(ClientIndex::Watcher, Expected::Present, true);
        oracle.will_seen(0, connection, true);
    };
    check_wills(first, &[]);
}

#[test]
fn will_of_a_connection_that_was_not_cut_is_flagged() {
    let history = |oracle: &mut Oracle| {
        let connection = ended(oracle, Fate::Open);
        oracle.will_seen(0, connection, false);
    };
    check_wills(history, &["1 wills were published although"]);
    check_wills(|oracle| oracle.will_seen(1, 0, false), &["1 messages were delivered that nobody published"]);
}

#[test]
fn will_of_a_connection_without_an_answer_may_come_or_not() {
    check_wills(|oracle| _ = ended(oracle, Fate::Unknown), &[]);
    let seen = |oracle: &mut Oracle| {
        let connection = ended(oracle, Fate::Unknown);
        oracle.will_seen(0, connection, false);
    };
    check_wills(seen, &[]);
}
