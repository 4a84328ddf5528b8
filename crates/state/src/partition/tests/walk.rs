//! Looking at many sessions and topics in place.

use std::ops::Bound;

use super::*;

#[test]
fn walk_begins_at_any_bound_in_order_of_client_identifiers() {
    let mut group = new();
    for (conn, client) in (1..).zip(["b", "a", "c"]) {
        group.connect(client, conn);
    }
    let walked = |from: Bound<&str>| {
        group.machine.walk(from).map(|session| session.client_id().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(walked(Bound::Unbounded), ["a", "b", "c"]);
    assert_eq!(walked(Bound::Excluded("a")), ["b", "c"]);
    assert_eq!(walked(Bound::Included("b")), ["b", "c"]);
    assert_eq!(walked(Bound::Included("bb")), ["c"]);
    assert_eq!(walked(Bound::Excluded("c")), [] as [&str; 0]);
}

#[test]
fn session_in_place_says_what_waits_and_since_which_entry() {
    let mut group = with(|config| config.queue_messages_max = 4);
    group.offline_subscriber("c");
    let first = LogIndex(group.machine.applied().0 + 1);
    for payload in ["1", "2", "3", "4"] {
        group.one(publish("t/1", payload));
    }
    let found = group.machine.walk(Bound::Unbounded).next().unwrap();
    assert_eq!((found.queued_messages(), found.oldest_queued(), found.owner()), (4, Some(first), None));
    assert_eq!((found.sent(), found.oldest_inflight(), found.dropped()), (0, None, 0));
    assert!(found.queued_bytes() > 0 && found.durable());
    group.one(publish("t/1", "5"));
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
    let found = group.machine.walk(Bound::Unbounded).next().unwrap();
    let second = LogIndex(first.0 + 1);
    assert_eq!((found.sent(), found.window(), found.oldest_inflight()), (1, 1, Some(second)));
    assert_eq!((found.queued_messages(), found.dropped(), found.owner()), (3, 1, Some(owner(2))));
    assert_eq!(found.info(), group.machine.session_by_client("c").unwrap());
    assert_eq!(group.machine.at(found.id()).unwrap().client_id(), "c");
}

#[test]
fn subscriptions_go_on_after_a_filter() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.subscribe(held, &["b", "a/#", "a"].map(wanted));
    let found = group.machine.walk(Bound::Unbounded).next().unwrap();
    let after = |after: Option<&TopicFilter>| {
        let names = found.subscriptions_after(after).map(|found| found.filter.as_str().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(after(None), ["a", "a/#", "b"]);
    assert_eq!(after(Some(&filter("a"))), ["a/#", "b"]);
    assert_eq!(after(Some(&filter("a/+"))), ["b"]);
}

#[test]
fn slices_of_retained_messages_end_after_so_many_topics_and_list_each_once() {
    let mut group = new();
    for name in ["a", "a/b", "a/b/c", "b", "b/c", "c/c/c", "d"] {
        group.one(retain(name, "x"));
    }
    for wanted in ["#", "+", "+/+", "+/+/c", "a/#", "b", "z"] {
        let wanted = filter(wanted);
        let whole = group.machine.retained_slice(&wanted, None, 99, usize::MAX, Timestamp(0));
        assert_eq!(whole.resume, None);
        for (max, examined) in [(1, 1), (1, 9), (2, 2), (9, 1), (9, 3)] {
            let (mut items, mut after) = (Vec::new(), None);
            loop {
                let slice =
                    group.machine.retained_slice(&wanted, after.as_ref(), max, examined, Timestamp(0));
                assert!(slice.items.len() <= max.min(examined));
                items.extend(slice.items);
                let Some(resume) = slice.resume else { break };
                assert!(after.is_none_or(|after: TopicName| after.as_str() < resume.as_str()));
                after = Some(resume);
            }
            assert_eq!(items, whole.items, "{} {max} {examined}", wanted.as_str());
        }
    }
}
