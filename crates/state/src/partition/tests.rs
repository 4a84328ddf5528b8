//! Partitions: sessions, deliveries, retained messages and limits, command by command and at random.

use quorate_codec::{QoS, ReasonCode};

use super::*;
use crate::command::{LeaderCommand, Message, RouteTarget, SubscribeFilter};
use crate::config::Overflow;
use crate::entry::BatchBuilder;
use crate::ids::{CONTROL, StreamId};
use crate::testing::*;

mod exactly_once;
mod explain;
mod hold;
mod random;
mod share;
mod share_random;
mod walk;
mod wills;

fn new() -> Driven<Partition> {
    Driven::partition(config())
}

fn with(change: impl FnOnce(&mut PartitionConfig)) -> Driven<Partition> {
    let mut config = config();
    change(&mut config);
    Driven::partition(config)
}

fn rejected(effects: &[Effect]) -> bool {
    replies(effects) == [Reply::Rejected(ReasonCode::QUOTA_EXCEEDED)]
}

#[test]
fn publish_to_a_connected_subscriber_is_delivered_at_once() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t/+")]);
    let effects = group.run(&[publish("t/1", "one"), publish("u", "other"), publish("t/2", "two")]);
    assert_eq!(group.payloads(&effects), ["one", "two"]);
    let first = deliveries(&effects)[0];
    assert_eq!(
        (first.owner, first.session, first.seq, first.packet_id),
        (owner(1), held.session, DeliverySeq(1), id(1))
    );
    assert_eq!((first.qos, first.retain, first.dup, first.identifiers), (QoS::AtLeastOnce, false, false, 0));
    assert_eq!(group.machine.counts().inflight, 2);
    assert!(group.machine.live(first.message.index));
    group.acknowledge(held, &[1, 2]);
    assert_eq!(group.machine.counts().inflight, 0);
    assert!(!group.machine.live(first.message.index));
    group.machine.check();
}

#[test]
fn publish_without_subscriber_leaves_nothing() {
    let mut group = new();
    let effects = group.one(publish("t", "x"));
    assert_eq!(effects, []);
    assert!(!group.machine.live(LogIndex(1)));
}

#[test]
fn queue_of_an_offline_session_is_delivered_in_order_after_connect() {
    let mut group = new();
    group.offline_subscriber("c");
    for number in 0..5 {
        assert_eq!(deliveries(&group.one(publish("t/x", &number.to_string()))), []);
    }
    assert_eq!(group.machine.counts().queued_messages, 5);
    let effects = group.one(connect("c", 2));
    assert_eq!(group.payloads(&effects), ["0", "1", "2", "3", "4"]);
    let reply = effects.iter().position(|effect| matches!(effect, Effect::Reply { .. })).unwrap();
    let delivered = effects.iter().position(|effect| matches!(effect, Effect::Deliver(_))).unwrap();
    assert!(reply < delivered, "the answer to CONNECT comes first");
    assert!(held(&effects).unwrap().session_present);
    assert!(deliveries(&effects).iter().all(|deliver| !deliver.dup));
    group.machine.check();
}

#[test]
fn window_holds_back_what_exceeds_receive_maximum() {
    let mut group = new();
    let Command::Connect { client_id, owner, clean_start, expiry, principal, .. } = connect("c", 1) else {
        panic!()
    };
    let small =
        Command::Connect { client_id, owner, clean_start, expiry, principal, receive_max: 2, will: None };
    let held = held(&group.one(small)).unwrap();
    group.subscribe(held, &[wanted("t/#")]);
    let effects = group.run(&["a", "b", "c", "d"].map(|payload| publish("t", payload)));
    assert_eq!(group.payloads(&effects), ["a", "b"]);
    assert_eq!(group.machine.counts().queued_messages, 2);
    let effects = group.acknowledge(held, &[2]);
    assert_eq!(group.payloads(&effects), ["c"]);
    let effects = group.acknowledge(held, &[1, 3, 9]);
    assert_eq!(group.payloads(&effects), ["d"]);
    group.machine.check();
}

#[test]
fn reconnect_with_a_smaller_window_sends_again_no_more_than_fits() {
    let mut group = new();
    let first = group.connect("c", 1);
    group.subscribe(first, &[wanted("t")]);
    group.run(&["a", "b", "c"].map(|payload| publish("t", payload)));
    let Command::Connect { client_id, owner, clean_start, expiry, principal, .. } = connect("c", 2) else {
        panic!()
    };
    let small =
        Command::Connect { client_id, owner, clean_start, expiry, principal, receive_max: 1, will: None };
    let effects = group.one(small);
    let second = held(&effects).unwrap();
    assert_eq!(group.payloads(&effects), ["a"]);
    assert!(deliveries(&effects)[0].dup);
    group.one(publish("t", "d"));
    let mut rest = Vec::new();
    for packet_id in 1..=3 {
        let effects = group.acknowledge(second, &[packet_id]);
        rest.extend(
            deliveries(&effects).iter().map(|d| (group.payload(d.message), d.packet_id, d.seq.0, d.dup)),
        );
    }
    let expected = [("b", id(2), 2, true), ("c", id(3), 3, true), ("d", id(4), 4, false)];
    assert_eq!(rest, expected.map(|(payload, id, seq, dup)| (payload.to_owned(), id, seq, dup)));
    group.machine.check();
}

#[test]
fn takeover_closes_the_old_connection_and_fences_its_commands() {
    let mut group = new();
    let first = group.connect("c", 1);
    group.subscribe(first, &[wanted("t")]);
    group.one(publish("t", "a"));
    let effects = group.one(connect("c", 2));
    let second = held(&effects).unwrap();
    let close =
        Effect::Close { owner: owner(1), session: first.session, reason: ReasonCode::SESSION_TAKEN_OVER };
    assert!(effects.contains(&close));
    assert_eq!(
        (second.session, second.session_present, previous(&effects)),
        (first.session, true, vec![owner(1)])
    );
    assert!(second.epoch > first.epoch);
    let again = deliveries(&effects);
    assert_eq!(
        (again.len(), again[0].dup, again[0].packet_id, again[0].seq),
        (1, true, id(1), DeliverySeq(1))
    );
    assert_eq!(again[0].owner, owner(2));
    assert_eq!(replies(&group.acknowledge(first, &[1])), [Reply::Fenced]);
    assert_eq!(replies(&group.subscribe(first, &[wanted("u")])), [Reply::Fenced]);
    assert_eq!(group.machine.counts().inflight, 1, "the old connection's acknowledgement does not count");
    group.disconnect(first);
    assert_eq!(
        group.machine.session_by_client("c").unwrap().owner,
        Some(owner(2)),
        "nor does its DISCONNECT"
    );
    assert_eq!(group.machine.counts().online, 1);
    group.machine.check();
}

#[test]
fn every_connection_that_may_be_open_is_named_until_it_is_known_to_be_closed() {
    let mut group = new();
    let first = group.connect("c", 1);
    let second = group.connect("c", 2);
    group.disconnect(second);
    assert_eq!(
        previous(&group.one(connect("c", 3))),
        [owner(1)],
        "the second gave up, the first may be open"
    );
    let purge = Command::Purge { client_id: text("c") };
    group.one(purge);
    assert_eq!(previous(&group.one(connect("other", 4))), []);
    let fifth = group.one(connect("c", 5));
    assert_eq!(previous(&fifth), [owner(1), owner(3)], "the session is new, the connections are not");
    group.machine.check();
    group.disconnect(first);
    assert_eq!(previous(&group.one(connect("c", 6))), [owner(3), owner(5)]);
    let Owner { node, incarnation, .. } = owner(3);
    group.one(Command::NodeDown { node, incarnation });
    assert_eq!(previous(&group.one(connect("c", 7))), [], "all were on the dead node");
    group.machine.check();
}

#[test]
fn connect_refused_while_too_many_connections_may_be_open() {
    let mut group = new();
    for conn in 0..=crate::limits::DISPLACED_MAX as u64 {
        assert_eq!(previous(&group.one(connect("c", conn))).len() as u64, conn);
    }
    let effects = group.one(connect("c", 99));
    assert_eq!(replies(&effects), [Reply::ConnectRefused(ReasonCode::SERVER_BUSY)]);
    assert_eq!(effects.len(), 1, "the present connection is not touched");
    group.machine.check();
}

#[test]
fn takeover_of_a_transient_session_makes_a_new_one() {
    let mut group = new();
    let Command::Connect { client_id, owner: holder, clean_start, principal, receive_max, .. } =
        connect("c", 1)
    else {
        panic!()
    };
    let expiry = SessionExpiry::AtClose;
    let transient = Command::Connect {
        client_id,
        owner: holder,
        clean_start,
        expiry,
        receive_max,
        principal,
        will: None,
    };
    let first = held(&group.one(transient)).unwrap();
    assert!(!group.machine.session_by_client("c").unwrap().durable);
    let effects = group.one(connect("c", 2));
    let second = held(&effects).unwrap();
    assert_eq!((second.session_present, previous(&effects)), (false, vec![owner(1)]));
    assert_ne!(second.session, first.session);
    assert!(second.epoch > first.epoch);
    group.machine.check();
}

#[test]
fn connect_of_another_principal_is_refused_and_the_holder_untouched() {
    let mut group = new();
    let first = group.connect("c", 1);
    let Command::Connect { client_id, owner: holder, expiry, receive_max, .. } = connect("c", 2) else {
        panic!()
    };
    let principal = text("mallory");
    let thief = Command::Connect {
        client_id,
        owner: holder,
        clean_start: true,
        expiry,
        receive_max,
        principal,
        will: None,
    };
    let effects = group.one(thief);
    assert_eq!(replies(&effects), [Reply::ConnectRefused(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID)]);
    assert_eq!(effects.len(), 1);
    let info = group.machine.session_by_client("c").unwrap();
    assert_eq!((info.owner, info.epoch), (Some(owner(1)), first.epoch));
}

#[test]
fn clean_start_discards_the_session_and_counts_its_messages() {
    let mut group = new();
    let first = group.offline_subscriber("c");
    group.run(&[publish("t/1", "a"), publish("t/2", "b")]);
    let Command::Connect { client_id, owner, expiry, receive_max, principal, .. } = connect("c", 2) else {
        panic!()
    };
    let clean =
        Command::Connect { client_id, owner, clean_start: true, expiry, receive_max, principal, will: None };
    let effects = group.one(clean);
    let second = held(&effects).unwrap();
    assert!(!second.session_present);
    assert_ne!(second.session, first.session);
    assert!(second.epoch > first.epoch, "the epoch grows over a new session too");
    assert_eq!(drops(&effects), [(DropReason::CleanStart, 2)]);
    assert_eq!(group.machine.counts().subscriptions, 0);
    assert_eq!(group.machine.live_from(LogIndex(0)), None);
    let target = RouteTarget::Partition(GROUP);
    assert_eq!(
        posted(&group.machine, CONTROL).last(),
        Some(&Command::RouteRemove { filter: filter("t/#"), target })
    );
    group.machine.check();
}

#[test]
fn session_expires_by_replicated_time_and_not_before() {
    let mut group = new();
    group.offline_subscriber("c");
    group.one(publish("t/1", "a"));
    assert_eq!(group.machine.next_deadline(), Some(Timestamp(3_600_000)));
    group.wait_s(3_599);
    assert!(group.machine.session_by_client("c").is_some());
    let effects = group.wait_s(1);
    assert_eq!(drops(&effects), [(DropReason::SessionEnded, 1)]);
    assert_eq!(group.machine.session_by_client("c"), None);
    assert_eq!(group.machine.next_deadline(), None);
    assert!(!group.connect("c", 3).session_present);
    group.machine.check();
}

#[test]
fn reconnect_stops_the_expiry_timer() {
    let mut group = new();
    group.offline_subscriber("c");
    group.wait_s(3_000);
    let held = group.connect("c", 2);
    assert!(held.session_present);
    group.wait_s(10_000);
    assert!(group.machine.session_by_client("c").is_some());
    assert_eq!(group.machine.next_deadline(), None);
    group.machine.check();
}

#[test]
fn disconnect_with_a_new_expiry_replaces_it_within_the_cap() {
    let mut group = with(|config| config.session_expiry_max_s = 100);
    let first = group.connect("c", 1);
    let expiry = Some(SessionExpiry::Never);
    group.one(Command::Disconnect { session: first.session, epoch: first.epoch, expiry, normal: false });
    assert_eq!(group.machine.next_deadline(), Some(Timestamp(100_000)));
    let second = group.connect("c", 2);
    let expiry = Some(SessionExpiry::AtClose);
    group.one(Command::Disconnect { session: second.session, epoch: second.epoch, expiry, normal: false });
    assert_eq!(group.machine.session_by_client("c"), None);
    group.machine.check();
}

#[test]
fn stamp_that_goes_back_leaves_replicated_time() {
    let mut group = new();
    group.wait_s(10);
    group.stamp = Timestamp(1);
    group.leader(LeaderCommand::Tick);
    assert_eq!(group.machine.now(), Timestamp(10_000));
}

#[test]
fn message_that_expires_in_the_queue_is_dropped_and_counted() {
    let mut group = new();
    group.offline_subscriber("c");
    let short = Message { expiry_s: Some(5), ..message("t/1", "short") };
    let long = Message { expiry_s: Some(500), ..message("t/1", "long") };
    for message in [short, long] {
        group.one(Command::Publish { message, store_retained: false, fan_out: true });
    }
    group.wait_s(7);
    let effects = group.one(connect("c", 2));
    assert_eq!(group.payloads(&effects), ["long"]);
    assert_eq!(deliveries(&effects)[0].expiry_s, Some(493));
    assert_eq!(drops(&effects), [(DropReason::MessageExpired, 1)]);
    group.machine.check();
}

#[test]
fn overlapping_subscriptions_give_one_copy_with_all_identifiers() {
    let mut group = new();
    let held = group.connect("c", 1);
    let with_identifier = |name, identifier, qos| SubscribeFilter {
        identifier: Some(identifier),
        options: options(qos),
        filter: filter(name),
    };
    let filters = [
        with_identifier("t/+", 7, QoS::AtLeastOnce),
        with_identifier("t/#", 3, QoS::ExactlyOnce),
        with_identifier("#", 9, QoS::AtMostOnce),
        wanted("t/1"),
    ];
    group.subscribe(held, &filters);
    let delivered = deliveries(&group.one(publish("t/1", "x")));
    assert_eq!(delivered.len(), 1);
    assert_eq!(group.machine.identifiers(held.session, delivered[0].identifiers), [3, 7]);
    let single = deliveries(&group.one(publish("t/1/2", "x")));
    assert_eq!(group.machine.identifiers(held.session, single[0].identifiers), [3]);
    assert_eq!(deliveries(&group.one(publish("u", "x"))), [], "QoS 0 is not served here");
    group.machine.check();
}

#[test]
fn no_local_leaves_out_the_publisher_alone() {
    let mut group = new();
    let (one, two) = (group.connect("one", 1), group.connect("two", 2));
    let mut own = wanted("t");
    own.options.no_local = true;
    group.subscribe(one, &[own.clone()]);
    group.subscribe(two, &[own]);
    let message = Message { publisher: publisher("one"), ..message("t", "x") };
    let effects = group.one(Command::Publish { message, store_retained: false, fan_out: true });
    let to: Vec<SessionId> = deliveries(&effects).iter().map(|deliver| deliver.session).collect();
    assert_eq!(to, [two.session]);
}

#[test]
fn retain_flag_is_kept_only_with_retain_as_published() {
    let mut group = new();
    let (plain, kept) = (group.connect("a", 1), group.connect("b", 2));
    group.subscribe(plain, &[wanted("t")]);
    let mut as_published = wanted("t");
    as_published.options.retain_as_published = true;
    group.subscribe(kept, &[as_published]);
    let effects = group.one(retain("t", "x"));
    let flags: Vec<(SessionId, bool)> = deliveries(&effects).iter().map(|d| (d.session, d.retain)).collect();
    assert_eq!(flags, [(plain.session, false), (kept.session, true)]);
}

#[test]
fn retained_message_is_replaced_deleted_and_expires() {
    let mut group = new();
    let read = |group: &Driven<Partition>| -> Vec<(String, String)> {
        let page = group.machine.retained(&filter("#"), None, 100, Timestamp(0), LogIndex(u64::MAX));
        page.into_iter().map(|(topic, at, _)| (topic.as_str().to_owned(), group.payload(at))).collect()
    };
    group.run(&[retain("a", "1"), retain("b", "2"), retain("a", "3")]);
    assert_eq!(read(&group), [("a".into(), "3".into()), ("b".into(), "2".into())]);
    group.run(&[retain("b", ""), retain("z", "")]);
    assert_eq!(read(&group), [("a".into(), "3".into())]);
    let message = Message { retain: true, expiry_s: Some(2), ..message("a", "4") };
    group.one(Command::Publish { message, store_retained: true, fan_out: true });
    assert_eq!(group.machine.retained(&filter("a"), None, 1, Timestamp(0), LogIndex(u64::MAX))[0].2, Some(2));
    group.machine.check();
    group.wait_s(4);
    assert_eq!(read(&group), []);
    assert_eq!(group.machine.live_from(LogIndex(0)), None);
    group.machine.check();
}

#[test]
fn retained_beyond_the_quota_is_rejected_and_not_delivered() {
    let mut group = with(|config| config.retained_max = 1);
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("#")]);
    group.one(retain("a", "1"));
    let effects = group.one(retain("b", "2"));
    assert!(rejected(&effects));
    assert_eq!(deliveries(&effects), []);
    assert_eq!(replies(&group.one(retain("a", "3"))), []);
    assert_eq!(replies(&group.one(retain("b", ""))), []);
    let Command::Publish { mut message, .. } = retain("b", "4") else { panic!() };
    message.qos = QoS::AtMostOnce;
    let effects = group.one(Command::Publish { message, store_retained: true, fan_out: false });
    let counted = Effect::Dropped { reason: DropReason::RetainedTopics, count: 1 };
    assert!(effects.contains(&counted), "nobody hears of the refusal");
    group.machine.check();
}

#[test]
fn full_queue_with_reject_publisher_refuses_for_all_sessions() {
    let mut group = with(|config| {
        config.queue_messages_max = 2;
        config.overflow = Overflow::RejectPublisher;
    });
    let (full, _) = (group.offline_subscriber("full"), group.offline_subscriber("other"));
    group.run(&[publish("t/1", "a"), publish("t/1", "b")]);
    let other = group.connect("other", 5);
    assert_eq!(group.machine.counts().inflight, 2);
    let effects = group.one(publish("t/1", "c"));
    assert!(rejected(&effects));
    assert_eq!(deliveries(&effects), []);
    assert_eq!(group.machine.session(full.session).unwrap().queued_messages, 2);
    group.machine.check();
    group.connect("full", 6);
    let effects = group.one(publish("t/1", "d"));
    let to: Vec<SessionId> = deliveries(&effects).iter().map(|deliver| deliver.session).collect();
    assert_eq!(to, [full.session, other.session]);
}

#[test]
fn full_queue_with_drop_oldest_keeps_the_newest() {
    let mut group = with(|config| {
        config.queue_messages_max = 2;
        config.overflow = Overflow::DropOldest;
    });
    group.offline_subscriber("c");
    let effects = group.run(&["a", "b", "c", "d"].map(|payload| publish("t/1", payload)));
    assert_eq!(drops(&effects), [(DropReason::QueueMessages, 2)]);
    let effects = group.one(connect("c", 2));
    assert_eq!(group.payloads(&effects), ["c", "d"]);
    group.machine.check();
}

#[test]
fn full_queue_by_bytes_with_drop_newest_keeps_the_oldest() {
    let mut group = with(|config| {
        config.queue_bytes_max = 40;
        config.overflow = Overflow::DropNewest;
    });
    group.offline_subscriber("c");
    let effects = group.run(&["a", "b", "c", "d"].map(|payload| publish("t/1", payload)));
    assert_eq!(drops(&effects), [(DropReason::QueueBytes, 1)]);
    let effects = group.one(connect("c", 2));
    assert_eq!(group.payloads(&effects), ["a", "b", "c"]);
    group.machine.check();
}

#[test]
fn message_larger_than_the_quota_does_not_empty_the_queue() {
    let mut group = with(|config| {
        config.queue_bytes_max = 40;
        config.overflow = Overflow::DropOldest;
    });
    group.offline_subscriber("c");
    let effects = group.run(&[publish("t/1", "a"), publish("t/1", &"x".repeat(100))]);
    assert_eq!(drops(&effects), [(DropReason::QueueBytes, 1)]);
    let effects = group.one(connect("c", 2));
    assert_eq!(group.payloads(&effects), ["a"]);
}

#[test]
fn expired_messages_make_room_before_any_policy() {
    let mut group = with(|config| {
        config.queue_messages_max = 1;
        config.overflow = Overflow::RejectPublisher;
    });
    group.offline_subscriber("c");
    let message = Message { expiry_s: Some(1), ..message("t/1", "old") };
    group.one(Command::Publish { message, store_retained: false, fan_out: true });
    assert!(rejected(&group.one(publish("t/1", "new"))));
    group.wait_s(3);
    let effects = group.one(publish("t/1", "new"));
    assert_eq!(drops(&effects), [(DropReason::MessageExpired, 1)]);
    assert_eq!(group.machine.counts().queued_messages, 1);
    group.machine.check();
}

#[test]
fn subscribe_announces_the_first_and_the_last_of_a_filter() {
    let mut group = new();
    let (one, two) = (group.connect("one", 1), group.connect("two", 2));
    let route = |effects: &[Effect]| match &replies(effects)[..] {
        [Reply::Subscribed(results)] => results[0].route,
        other => panic!("{other:?}"),
    };
    let effects = group.subscribe(one, &[wanted("t")]);
    assert!(effects.contains(&Effect::Outbox { to: CONTROL }));
    assert_eq!(route(&effects), Some(StreamSeq(1)));
    let effects = group.subscribe(two, &[wanted("t")]);
    assert!(!effects.contains(&Effect::Outbox { to: CONTROL }));
    assert_eq!(route(&effects), Some(StreamSeq(1)));
    let target = RouteTarget::Partition(GROUP);
    let add = Command::RouteAdd { filter: filter("t"), target };
    assert_eq!(posted(&group.machine, CONTROL), std::slice::from_ref(&add));
    let unsubscribe = |held: Held| {
        let filters = vec![filter("t"), filter("u")];
        Command::Unsubscribe { session: held.session, epoch: held.epoch, filters }
    };
    let effects = group.one(unsubscribe(one));
    assert_eq!(replies(&effects), [Reply::Unsubscribed(vec![true, false])]);
    assert_eq!(posted(&group.machine, CONTROL).len(), 1);
    group.one(unsubscribe(two));
    let remove = Command::RouteRemove { filter: filter("t"), target };
    assert_eq!(posted(&group.machine, CONTROL), [add, remove]);
    assert_eq!(route(&group.subscribe(one, &[wanted("t")])), Some(StreamSeq(3)));
    group.leader(LeaderCommand::OutboxApplied { to: CONTROL, seq: StreamSeq(3) });
    assert_eq!(group.machine.outbox_destinations().count(), 0);
    group.machine.check();
}

#[test]
fn subscribe_again_replaces_options_and_reports_it() {
    let mut group = new();
    let held = group.connect("c", 1);
    let mut filter = wanted("t");
    filter.options.qos = QoS::ExactlyOnce;
    let results = |effects: &[Effect]| match &replies(effects)[..] {
        [Reply::Subscribed(results)] => results.clone(),
        other => panic!("{other:?}"),
    };
    let first = results(&group.subscribe(held, &[filter.clone()]))[0];
    assert_eq!((first.reason, first.existed), (ReasonCode::GRANTED_QOS_2, false));
    filter.options.qos = QoS::AtMostOnce;
    let second = results(&group.subscribe(held, &[filter]))[0];
    assert_eq!((second.reason, second.existed, second.route), (ReasonCode::GRANTED_QOS_0, true, None));
    assert_eq!(deliveries(&group.one(publish("t", "x"))), []);
    assert_eq!(group.machine.counts().subscriptions, 1);
    assert_eq!(posted(&group.machine, CONTROL).len(), 2);
    group.machine.check();
}

#[test]
fn subscribe_refuses_more_than_the_quota() {
    let mut group = with(|config| config.subscriptions_per_session_max = 1);
    let held = group.connect("c", 1);
    let effects = group.subscribe(held, &[wanted("a"), wanted("$share/g/t"), wanted("b"), wanted("a")]);
    let [Reply::Subscribed(results)] = &replies(&effects)[..] else { panic!() };
    let reasons: Vec<ReasonCode> = results.iter().map(|result| result.reason).collect();
    let expected = [
        ReasonCode::GRANTED_QOS_1,
        ReasonCode::QUOTA_EXCEEDED,
        ReasonCode::QUOTA_EXCEEDED,
        ReasonCode::GRANTED_QOS_1,
    ];
    assert_eq!(reasons, expected);
    group.machine.check();
}

#[test]
fn resumed_session_gets_its_subscriptions_back() {
    let mut group = new();
    group.offline_subscriber("c");
    let effects = group.one(connect("c", 2));
    let [Reply::Connected { subscriptions, next_delivery, .. }] = &replies(&effects)[..] else { panic!() };
    assert_eq!(subscriptions, &[wanted("t/#")]);
    assert_eq!(*next_delivery, DeliverySeq(1));
}

#[test]
fn node_down_closes_the_connections_of_the_incarnation_and_its_stream() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    let control = StreamId::Group(CONTROL);
    let down = Command::NodeDown { node: NODE, incarnation: Incarnation(1) };
    group.run_from(control, std::slice::from_ref(&down));
    assert_eq!(group.machine.counts().online, 0);
    assert_eq!(group.machine.next_deadline(), Some(Timestamp(3_600_000)));
    assert_eq!(group.one(publish("t", "dead")), [], "the dead incarnation's stream is over");
    assert_eq!(group.machine.counts().queued_messages, 0);
    let revived = StreamId::Node(NODE, Incarnation(2));
    group.run_from(revived, &[publish("t", "alive")]);
    assert_eq!(group.machine.counts().queued_messages, 1);
    group.run_from(control, &[down]);
    assert_eq!(group.machine.stream_applied(revived), StreamSeq(1), "said again, it changes nothing");
    group.machine.check();
}

#[test]
fn purge_ends_a_session_at_once() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    group.one(publish("t", "x"));
    let effects = group.one(Command::Purge { client_id: text("c") });
    let reason = ReasonCode::ADMINISTRATIVE_ACTION;
    assert!(effects.contains(&Effect::Close { owner: owner(1), session: held.session, reason }));
    assert_eq!(drops(&effects), [(DropReason::SessionEnded, 1)]);
    assert_eq!(group.machine.counts(), Counts::default());
    assert!(matches!(replies(&group.one(Command::Purge { client_id: text("c") }))[..], [Reply::Refused(_)]));
    group.machine.check();
}

#[test]
fn enqueue_sends_retained_messages_with_the_flag_and_identifier() {
    let mut group = new();
    let held = group.connect("c", 1);
    let messages = vec![
        (QoS::AtLeastOnce, Some(5), message("r/1", "one")),
        (QoS::AtMostOnce, None, message("r/2", "direct")),
        (QoS::ExactlyOnce, None, message("r/3", "three")),
    ];
    let effects = group.one(Command::Enqueue { session: held.session, epoch: held.epoch, messages });
    assert_eq!(group.payloads(&effects), ["one", "three"]);
    let delivered = deliveries(&effects);
    assert!(delivered.iter().all(|deliver| deliver.retain && deliver.qos == QoS::AtLeastOnce));
    assert_eq!(group.machine.identifiers(held.session, delivered[0].identifiers), [5]);
    assert_eq!(group.message(delivered[1].message).topic, topic("r/3"));
    group.machine.check();
}

#[test]
fn entry_applied_twice_changes_nothing() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    let data = group.batch(STREAM, &[publish("t", "x")]);
    assert_eq!(deliveries(&group.entry(data.clone())).len(), 1);
    let before = group.machine.hash();
    assert_eq!(group.entry(data.clone()), [], "the stream position was applied");
    let mut effects = Vec::new();
    group.machine.apply(LogIndex(1), &data, &mut effects);
    assert_eq!(effects, []);
    assert_eq!(group.machine.hash(), before);
}

#[test]
fn commands_after_a_gap_are_left_for_later() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    let lost = group.batch(STREAM, &[publish("t", "first")]);
    let early = group.batch(STREAM, &[publish("t", "second")]);
    assert_eq!(group.entry(early.clone()), []);
    let effects = group.entry(lost);
    assert_eq!(group.payloads(&effects), ["first"]);
    let effects = group.entry(early);
    assert_eq!(group.payloads(&effects), ["second"]);
}

#[test]
fn damaged_entries_are_survived_and_the_rest_applied() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    let good = encoded(&publish("t", "x"));
    let bad = bytes::Bytes::from_static(&[250, 1, 2]);
    let mut builder = BatchBuilder::new(Timestamp(0));
    builder.segment(STREAM, StreamSeq(3), StreamSeq(0), 2, &[bad, good]);
    let whole = builder.finish();
    for length in 0..whole.len() {
        let mut copy = group.clone();
        copy.entry(whole.slice(..length));
        copy.machine.check();
    }
    let effects = group.entry(whole);
    assert!(matches!(replies(&effects)[..], [Reply::Refused(_)]));
    assert_eq!(group.payloads(&effects), ["x"]);
}

#[test]
fn control_commands_are_refused_by_a_partition() {
    let mut group = new();
    let effects = group.one(Command::NodeForget { node: NODE });
    assert!(matches!(replies(&effects)[..], [Reply::Refused(_)]));
}

#[test]
fn inflight_of_a_node_is_what_its_connections_wait_for() {
    let mut group = new();
    for (conn, client) in (1..).zip(["b", "a"]) {
        let held = group.connect(client, conn);
        group.subscribe(held, &[wanted("t")]);
    }
    group.run(&[publish("t", "x"), publish("t", "y")]);
    let all: Vec<(u64, u64)> = group
        .machine
        .inflight_of(NODE, Incarnation(1))
        .map(|deliver| (deliver.session.0, deliver.seq.0))
        .collect();
    assert_eq!(all, [(1, 1), (1, 2), (2, 1), (2, 2)]);
    assert_eq!(group.machine.inflight_of(NODE, Incarnation(0)).count(), 4, "control may be behind");
    assert_eq!(group.machine.inflight_of(NODE, Incarnation(2)).count(), 0);
    assert_eq!(group.machine.inflight_of_session(SessionId(1), DeliverySeq(2)).count(), 1);
}

#[test]
fn sessions_are_listed_in_pages() {
    let mut group = with(|config| config.sessions_max = 5);
    for client in ["d", "b", "a", "e", "c"] {
        group.connect(client, 1);
    }
    let first = group.machine.sessions(None, 2);
    let second = group.machine.sessions(Some(first[1].client_id.as_str()), 9);
    let names: Vec<&str> = first.iter().chain(&second).map(|info| info.client_id.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    let effects = group.one(connect("f", 1));
    assert_eq!(replies(&effects), [Reply::ConnectRefused(ReasonCode::QUOTA_EXCEEDED)]);
}

#[test]
fn packet_ids_over_two_hundred_thousand_messages_stay_unique() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    let mut stuck = BTreeSet::new();
    let mut expected_seq = 1;
    for round in 0..2_000_u64 {
        let effects = group.run(&std::array::from_fn::<_, 100, _>(|_| publish("t", "x")));
        let delivered = deliveries(&effects);
        let mut acknowledged = Vec::new();
        for deliver in &delivered {
            assert_eq!(deliver.seq.0, expected_seq);
            expected_seq += 1;
            assert!(!stuck.contains(&deliver.packet_id), "packet identifier {} is in use", deliver.packet_id);
            if round % 100 == 0 && stuck.len() < 20 {
                stuck.insert(deliver.packet_id);
            } else {
                acknowledged.push(deliver.packet_id.get());
            }
        }
        group.entries.clear();
        acknowledged.dedup();
        let more = group.acknowledge(held, &acknowledged);
        expected_seq += deliveries(&more).len() as u64;
        let ids: Vec<u16> = deliveries(&more).iter().map(|deliver| deliver.packet_id.get()).collect();
        group.acknowledge(held, &ids);
        assert_eq!(group.machine.counts().queued_messages, 0);
    }
    group.machine.check();
    assert!(expected_seq > 200_000);
    assert_eq!(stuck.len(), 20);
}

#[test]
fn resumed_durable_session_that_ends_at_close_stays_here_until_then() {
    let mut group = new();
    group.offline_subscriber("c");
    group.one(publish("t/1", "x"));
    let Command::Connect { client_id, owner, clean_start, receive_max, principal, .. } = connect("c", 2)
    else {
        panic!()
    };
    let expiry = SessionExpiry::AtClose;
    let effects = group.one(Command::Connect {
        client_id,
        owner,
        clean_start,
        expiry,
        receive_max,
        principal,
        will: None,
    });
    let held = held(&effects).unwrap();
    assert!(held.session_present);
    assert_eq!(group.payloads(&effects), ["x"]);
    let effects = group.one(publish("t/2", "y"));
    assert_eq!(group.payloads(&effects), ["y"]);
    let effects = group.disconnect(held);
    assert_eq!(drops(&effects), [(DropReason::SessionEnded, 2)]);
    assert_eq!(group.machine.counts(), Counts::default());
    group.machine.check();
}

#[test]
fn large_messages_fill_the_window_by_bytes() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &[wanted("t")]);
    let large = "x".repeat(3 << 20);
    let sent: Vec<usize> = (0..4).map(|_| deliveries(&group.one(publish("t", &large))).len()).collect();
    assert_eq!(sent, [1, 1, 0, 0], "6 MiB are on their way");
    group.machine.check();
    assert_eq!(deliveries(&group.acknowledge(held, &[1])).len(), 1);
    assert_eq!(deliveries(&group.acknowledge(held, &[2, 3])).len(), 1);
    group.machine.check();
    let resumed = group.one(connect("c", 2));
    assert_eq!(deliveries(&resumed).len(), 1);
    assert_eq!(group.machine.counts().queued_messages, 0);
}
