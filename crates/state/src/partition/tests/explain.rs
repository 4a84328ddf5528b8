//! What is said of a session: its deliveries, and what it lost under each overflow policy.

use super::*;

fn detail(group: &Driven<Partition>, client: &str) -> SessionDetail {
    group.machine.explain(client).unwrap()
}

/// A session restored from its records says the same.
fn check_restored(group: &mut Driven<Partition>, client: &str) {
    let mut store = Store::new();
    write_changes(&mut store, group.machine.changes());
    let config = group.machine.config().clone();
    let restored = Partition::restore(config, group.machine.applied(), read_records(&store)).unwrap();
    assert_eq!(restored.explain(client), group.machine.explain(client));
    assert_eq!(restored.hash(), group.machine.hash());
    group.machine.check();
}

fn full(overflow: Overflow) -> Driven<Partition> {
    let mut group = with(|config| {
        config.queue_messages_max = 2;
        config.overflow = overflow;
    });
    group.offline_subscriber("c");
    group.offline_subscriber("other");
    let other = group.connect("other", 5);
    group.run(&["a", "b", "c", "d", "e"].map(|payload| publish("t/1", payload)));
    assert_eq!(group.machine.session(other.session).unwrap().queued_messages, 0);
    assert!(detail(&group, "other").dropped.is_empty() && detail(&group, "other").refused == 0);
    group
}

#[test]
fn drops_of_a_session_are_counted_under_every_overflow_policy() {
    for (overflow, dropped, refused) in [
        (Overflow::DropOldest, vec![(DropReason::QueueMessages, 3)], 0),
        (Overflow::DropNewest, vec![(DropReason::QueueMessages, 3)], 0),
        (Overflow::RejectPublisher, vec![], 3),
    ] {
        let mut group = full(overflow);
        let found = detail(&group, "c");
        assert_eq!((found.dropped, found.refused), (dropped, refused), "{overflow:?}");
        assert_eq!((found.info.queued_messages, found.queue_messages_max), (2, 2));
        check_restored(&mut group, "c");
    }
}

#[test]
fn refusal_that_no_publisher_hears_of_is_a_drop_of_the_session() {
    let mut group = full(Overflow::RejectPublisher);
    let Command::Publish { mut message, .. } = publish("t/1", "late") else { panic!() };
    message.qos = QoS::ExactlyOnce;
    let late = Command::Publish { message, store_retained: false, fan_out: true };
    group.run_from(StreamId::Group(crate::ids::GroupId(9)), &[late]);
    let found = detail(&group, "c");
    assert_eq!((found.dropped, found.refused), (vec![(DropReason::RefusedLate, 1)], 3));
}

#[test]
fn drops_by_bytes_and_by_expiry_are_told_apart_and_end_with_the_session() {
    let mut group = with(|config| config.queue_bytes_max = 40);
    group.offline_subscriber("c");
    let short = Message { expiry_s: Some(5), ..message("t/1", "a") };
    group.one(Command::Publish { message: short, store_retained: false, fan_out: true });
    group.wait_s(7);
    group.run(&[publish("t/1", "b"), publish("t/1", &"x".repeat(100)), publish("t/1", "c")]);
    group.connect("c", 2);
    let counted = [(DropReason::QueueBytes, 1), (DropReason::MessageExpired, 1)];
    assert_eq!(detail(&group, "c").dropped, counted);
    check_restored(&mut group, "c");
    group.one(Command::Purge { client_id: text("c") });
    assert_eq!(group.machine.explain("c"), None);
    let records: Vec<_> =
        group.machine.changes().into_iter().filter(|(key, _)| key[0] == crate::record::kind::DROPS).collect();
    assert!(matches!(&records[..], [(_, None)]), "the record goes with the session: {records:?}");
}

#[test]
fn inflight_is_told_by_what_it_waits_for() {
    let mut group = new();
    let held = group.connect("c", 1);
    let mut filter = wanted("t");
    filter.options = options(QoS::ExactlyOnce);
    group.subscribe(held, &[filter]);
    let exactly = |payload| {
        let message = Message { qos: QoS::ExactlyOnce, ..message("t", payload) };
        Command::Publish { message, store_retained: false, fan_out: true }
    };
    group.run(&[exactly("1"), exactly("2"), publish("t", "3")]);
    group.receive(held, &[1]);
    let found = detail(&group, "c").inflight;
    assert_eq!((found.awaiting_puback, found.awaiting_pubrec, found.awaiting_pubcomp), (1, 1, 1));
    assert_eq!((found.sent, found.held), (3, 0));
    let oldest = OldestInflight { packet_id: id(1), qos: QoS::ExactlyOnce, entry: None, sent_before: false };
    assert_eq!(found.oldest, Some(oldest));
    group.disconnect(held);
    let again = Command::Connect {
        client_id: text("c"),
        owner: owner(2),
        clean_start: false,
        expiry: SessionExpiry::After(60),
        receive_max: 1,
        principal: text(""),
        will: None,
    };
    group.one(again);
    let found = detail(&group, "c");
    assert_eq!((found.window, found.inflight.sent, found.inflight.held), (1, 1, 2));
    assert!(found.inflight.oldest.unwrap().sent_before);
}

#[test]
fn offline_session_says_when_it_ends() {
    let mut group = new();
    group.wait_s(10);
    group.offline_subscriber("c");
    group.wait_s(5);
    let found = detail(&group, "c");
    assert_eq!(found.info.offline_since, Some(Timestamp(10_000)));
    assert_eq!(found.ends, Some(Timestamp(3_610_000)));
    assert_eq!(found.subscriptions, [wanted("t/#")]);
    assert_eq!(group.machine.explain("nobody"), None);
}
