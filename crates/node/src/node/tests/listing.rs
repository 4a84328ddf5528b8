//! Lists over partitions, slice by slice, and what operators do to clients.

use super::*;
use crate::node::{BacklogOrder, Operation, SessionFilter, SubscriptionFilter};

/// Groups with a replica on a node.
fn groups(world: &World, node: u64) -> Vec<GroupId> {
    let places = world.members[&NodeId(node)].node.places();
    places.into_iter().filter(|place| place.here).map(|place| place.group).collect()
}

fn node(world: &World, id: u64) -> &Node {
    &world.members[&NodeId(id)].node
}

/// A ready cluster with durable sessions c-0 to c-19 on node 1, each with the filters a/N and b, of which the first ten are
/// offline and have N messages.
fn world() -> World {
    let mut world = World::new(3);
    world.until("ready", World::ready);
    world.connect(1, 99, "publisher", SessionExpiry::AtClose);
    let mut number = 0;
    for n in 0..20 {
        let (conn, client) = (n + 1, format!("c-{n}"));
        world.connect(1, conn, &client, DURABLE);
        world.subscribe(1, conn, &format!("a/{n}"));
        if n < 10 {
            world.request(1, conn, ClientRequest::Closed { expiry: None, normal: true });
            for _ in 0..n {
                number += 1;
                world.publish(1, 99, number, &format!("a/{n}"), home(&client), false);
            }
        }
    }
    world.until("all applied", |world| world.applied(1, 99).len() as u64 == number);
    let all = groups(&world, 2);
    world.until("followers have it", |world| {
        let queued = node(world, 2).list_backlogs(&all, BacklogOrder::Queued, None, 99).rows;
        queued.iter().map(|row| row.queued_messages).sum::<u64>() == number
    });
    world
}

#[test]
fn sessions_of_all_partitions_come_in_one_order_in_slices_of_any_size() {
    let world = world();
    let all = groups(&world, 2);
    assert_eq!(all.len(), 4);
    let list = |filter: &SessionFilter, max: usize| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let slice = node(&world, 2).list_sessions(&all, filter, after.as_deref(), max);
            assert!(slice.rows.len() <= max);
            found.extend(slice.rows.into_iter().map(|(group, info)| {
                assert_eq!(group, home(info.client_id.as_str()));
                info.client_id.as_str().to_owned()
            }));
            after = slice.resume;
            if after.is_none() {
                return found;
            }
        }
    };
    let mut names: Vec<String> = (0..20).map(|n| format!("c-{n}")).collect();
    names.sort();
    let prefixed = SessionFilter { prefix: "c-".to_owned(), ..SessionFilter::default() };
    for max in [1, 2, 7, 100] {
        assert_eq!(list(&prefixed, max), names);
        assert_eq!(list(&SessionFilter::default(), max).len(), 21);
        let of_one =
            SessionFilter { prefix: "c-1".to_owned(), online: Some(true), ..SessionFilter::default() };
        assert_eq!(list(&of_one, max).len(), 10, "c-10 to c-19");
        let queued = SessionFilter { min_queued: 8, ..SessionFilter::default() };
        assert_eq!(list(&queued, max), ["c-8", "c-9"]);
        let here = SessionFilter { node: Some(NodeId(1)), ..prefixed.clone() };
        assert_eq!(list(&here, max).len(), 10);
        let nowhere = SessionFilter { node: Some(NodeId(2)), ..SessionFilter::default() };
        assert!(list(&nowhere, max).is_empty());
    }
    assert!(node(&world, 2).list_sessions(&[], &prefixed, None, 9).rows.is_empty());
}

#[test]
fn subscriptions_go_on_within_a_session_and_transient_ones_are_left_to_their_node() {
    let mut world = world();
    for filter in ["b", "a/+"] {
        let filters = vec![subscription(filter)];
        let packet_id = PacketId::new(2).unwrap();
        world.request(1, 20, ClientRequest::Subscribe { packet_id, filters });
    }
    let all = groups(&world, 1);
    let list = |world: &World, filter: &SubscriptionFilter, max: usize| {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let slice = node(world, 1).list_subscriptions(&all, filter, after.as_ref(), max);
            assert!(slice.rows.len() <= max);
            found.extend(slice.rows.into_iter().map(|row| {
                let filter = row.subscription.map(|found| found.filter.as_str().to_owned());
                (row.client_id, filter.unwrap_or_default())
            }));
            after = slice.resume;
            if after.is_none() {
                return found;
            }
        }
    };
    let whole = SubscriptionFilter::default();
    world.until("all subscribed", |world| list(world, &whole, 99).len() == 23);
    let pair = |client: &str, filter: &str| (client.to_owned(), filter.to_owned());
    for max in [1, 2, 3, 99] {
        let found = list(&world, &whole, max);
        assert_eq!(found.len(), 23);
        assert!(found.is_sorted() && found.contains(&pair("publisher", "")), "{found:?}");
        let of_client = SubscriptionFilter { client_id: Some("c-19".to_owned()), ..whole.clone() };
        let expected = [pair("c-19", "a/+"), pair("c-19", "a/19"), pair("c-19", "b")];
        assert_eq!(list(&world, &of_client, max), expected);
        let topic = TopicName::new(text("a/3")).unwrap();
        let matching = SubscriptionFilter { matches: Some(topic), ..whole.clone() };
        let expected = [pair("c-19", "a/+"), pair("c-3", "a/3"), pair("publisher", "")];
        assert_eq!(list(&world, &matching, max), expected);
        let exact = SubscriptionFilter { filter: Some(subscription("b").filter), ..whole.clone() };
        assert_eq!(list(&world, &exact, max), [pair("c-19", "b"), pair("publisher", "")]);
    }
}

#[test]
fn longest_queues_come_first_with_the_age_of_what_waits() {
    let mut world = world();
    let all = groups(&world, 2);
    let longest = node(&world, 2).list_backlogs(&all, BacklogOrder::Queued, None, 3);
    let found: Vec<_> =
        longest.rows.iter().map(|row| (row.client_id.as_str(), row.queued_messages)).collect();
    assert_eq!(found, [("c-9", 9), ("c-8", 8), ("c-7", 7)]);
    assert_eq!(longest.resume, None);
    let first = &longest.rows[0];
    let entries = [(first.partition, first.oldest_queued.unwrap()), (first.partition, LogIndex(1 << 40))];
    let leader = node(&world, 1).leader_of(first.partition).unwrap();
    let start = node(&world, leader.0).entry_ages(&entries, world.now)[0].unwrap();
    let until = world.now + Duration::from_secs(2);
    world.until("time passed", |world| world.now > until);
    let ages = node(&world, leader.0).entry_ages(&entries, world.now);
    assert!(ages[0].unwrap() >= start + 2000, "{ages:?} after {start}");
    assert_eq!(ages[1], None, "an entry that is not there has no age");
    let follower = (1..=3).find(|id| *id != leader.0).unwrap();
    let ages = node(&world, follower).entry_ages(&entries, world.now);
    assert_eq!(ages, [None, None], "a follower does not know how late it is");
    assert!(node(&world, 2).list_backlogs(&all, BacklogOrder::Unacknowledged, None, 3).rows.is_empty());
}

#[test]
fn slice_ends_after_so_many_looked_at_whatever_fits() {
    let mut world = World::new(1);
    world.until("ready", World::ready);
    let count = limits::LISTING_EXAMINED_MAX + 100;
    for n in 0..count as u64 {
        world.begin_connect(1, n + 1, &format!("c-{n:05}"), DURABLE);
    }
    let all = groups(&world, 1);
    world.until("all connected", |world| {
        node(world, 1)
            .status(false, world.now)
            .groups
            .iter()
            .filter_map(|group| group.counts)
            .map(|counts| counts.sessions)
            .sum::<u64>()
            == count as u64
    });
    let none = SessionFilter { online: Some(false), ..SessionFilter::default() };
    let slice = node(&world, 1).list_sessions(&all, &none, None, 10);
    let last = format!("c-{:05}", limits::LISTING_EXAMINED_MAX - 1);
    assert_eq!((slice.rows.len(), slice.resume.as_deref()), (0, Some(last.as_str())));
    assert_eq!(node(&world, 1).list_sessions(&all, &none, Some(&last), 10).resume, None);
    let slice = node(&world, 1).list_backlogs(&all, BacklogOrder::Queued, None, 3);
    assert_eq!(slice.resume.as_deref(), Some(last.as_str()));
    let topic = TopicName::new(text("t")).unwrap();
    let matching = SubscriptionFilter { matches: Some(topic), ..SubscriptionFilter::default() };
    assert!(node(&world, 1).list_subscriptions(&all, &matching, None, 3).resume.is_some());
}

#[test]
fn operation_is_answered_on_any_node_when_the_partition_has_applied_it() {
    let mut world = world();
    let operated = |world: &mut World, id: u64, number: u64, operation: Operation| {
        world.event(NodeId(id), Event::Operate { number, operation });
        world.until("the answer", |world| world.members[&NodeId(id)].operated.contains_key(&number));
        world.members[&NodeId(id)].operated[&number].clone()
    };
    let purge = || Operation::Purge(text("c-15"));
    assert_eq!(operated(&mut world, 2, 1, purge()), Ok(()));
    let close = |event: &ClientEvent| matches!(event, ClientEvent::Close(ReasonCode::ADMINISTRATIVE_ACTION));
    world.until("its connection told to close", |world| world.events(1, 16).iter().any(close));
    assert_eq!(operated(&mut world, 3, 1, purge()), Err(quorate_state::NO_SESSION.to_owned()));
    for id in 1..=3 {
        let now = world.now;
        world.until("every replica to have none", |world| {
            node(world, id).session("c-15", now).replica.unwrap().session.is_none()
        });
    }

    let topic = TopicName::new(text("kept")).unwrap();
    let group = partition_of_topic("kept", cluster_config().partitions);
    world.publish(1, 99, 1000, "kept", group, true);
    world.until("retained", |world| world.applied(1, 99).contains(&1000));
    let leader = node(&world, 1).leader_of(group).unwrap().0;
    let now = world.now;
    let message = node(&world, leader).retained_message(&topic, now).unwrap().unwrap().message.unwrap();
    assert_eq!(message.payload, "1000");
    assert_eq!(operated(&mut world, 2, 2, Operation::DeleteRetained(topic.clone())), Ok(()));
    assert_eq!(node(&world, leader).retained_message(&topic, now), Some(None));
}

#[test]
fn kick_closes_exactly_the_connection_named_once() {
    let mut world = world();
    let now = world.now;
    let owner = node(&world, 1).session("c-15", now).replica.unwrap().session.unwrap().info.owner.unwrap();
    assert_eq!((owner.node, owner.conn), (NodeId(1), ConnId(16)));
    let held = node(&world, 1).holder(owner.conn).unwrap();
    assert_eq!((held.group, held.durable), (home("c-15"), true));
    let kick = |world: &mut World, incarnation, conn| {
        let found = world.members.get_mut(&NodeId(1)).unwrap().node.kick(incarnation, conn);
        world.turn(NodeId(1));
        found
    };
    assert!(!kick(&mut world, Incarnation(owner.incarnation.0 + 1), owner.conn));
    assert!(!kick(&mut world, owner.incarnation, ConnId(77)));
    for _ in 0..2 {
        assert!(kick(&mut world, owner.incarnation, owner.conn));
    }
    let close = |event: &&ClientEvent| matches!(event, ClientEvent::Close(ReasonCode::ADMINISTRATIVE_ACTION));
    assert_eq!(world.events(1, 16).iter().filter(close).count(), 1);
    world.request(1, 16, ClientRequest::Closed { expiry: None, normal: false });
    world.until("the session without a connection", |world| {
        let session = node(world, 1).session("c-15", world.now).replica.unwrap().session;
        session.is_some_and(|session| session.info.owner.is_none() && session.subscriptions.len() == 1)
    });
}
