//! Shared subscriptions in the route table.

use super::*;

fn texts(found: &RouteMatch) -> Vec<&str> {
    found.shares.iter().map(|share| share.share.as_str()).collect()
}

/// Connections that receive a forwarded message by these shares.
fn by_shares(routing: &Routing, shares: &[&str], draw: u64) -> Vec<u64> {
    let shares: Vec<_> = shares.iter().map(|text| filter(text)).collect();
    let mut out = Vec::new();
    routing.local_share_deliveries(&message("t/a", ZERO, false, NOBODY), &shares, Draw(draw), &mut out);
    out.into_iter().map(|(conn, _)| conn.0).collect()
}

#[test]
fn shared_subscription_matches_by_the_filter_within() {
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("$share/g/t/#", ONE, "", 1));
    routing.route_changed(&filter("$share/h/+/a"), RouteTarget::Node(NodeId(2)), true);
    let found = routing.matches("t/a");
    assert_eq!(texts(&found), ["$share/g/t/#", "$share/h/+/a"]);
    assert!(found.local.is_empty() && found.nodes.is_empty() && found.partitions.is_empty());
    assert!(found.has_direct(ZERO) && found.has_direct(ONE) && !found.is_empty());
    assert_eq!(texts(&routing.matches("x")), [""; 0]);
    assert_eq!(texts(&routing.matches("$share/g/t/a")), [""; 0]);
    // [MQTT-4.7.2-1] of the filter within.
    routing.apply_local(ConnId(1), add("$share/g/#", ONE, "", 1));
    assert_eq!(texts(&routing.matches("$SYS/x")), [""; 0]);
}

#[test]
fn shared_and_plain_subscription_of_one_connection_are_separate() {
    // MQTT 5, 4.8.2: a session may have both, and receives for each.
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("t/a", ZERO, "id1", 1));
    routing.apply_local(ConnId(1), add("$share/g/t/a", ZERO, "id2", 1));
    let mut direct = Vec::new();
    let found = routing.matches("t/a");
    found.hand_over(&message("t/a", ZERO, false, NOBODY), Draw(0), &mut direct, &mut Vec::new());
    let identifiers: Vec<_> = direct.iter().map(|(_, one)| one.identifiers.clone()).collect();
    assert_eq!(identifiers, [vec![1], vec![2]]);
}

#[test]
fn partition_of_a_group_counts_for_qos_1_only() {
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("$share/g/t/a", ONE, "", 1));
    for (text, number) in [("$share/g/t/a", 3), ("t/+", 3), ("t/a", 1)] {
        routing.route_changed(&filter(text), RouteTarget::Partition(GroupId(number)), true);
    }
    let found = routing.matches("t/a");
    assert_eq!(found.partitions, [GroupId(1), GroupId(3)]);
    assert!(found.has_direct(ZERO) && !found.has_direct(ONE));
    let taken = |qos| {
        let (mut direct, mut forwards) = (Vec::new(), Vec::new());
        found.hand_over(&message("t/a", qos, false, NOBODY), Draw(0), &mut direct, &mut forwards);
        direct.len() + forwards.len()
    };
    assert_eq!((taken(ZERO), taken(ONE)), (1, 0));
}

#[test]
fn forwarded_message_reaches_one_member_of_each_named_group() {
    let mut routing = Routing::new(ME, 4);
    for conn in 1..=3 {
        routing.apply_local(ConnId(conn), add("$share/g/t/#", ZERO, "", conn));
    }
    routing.apply_local(ConnId(9), add("$share/h/t/#", ZERO, "", 9));
    routing.apply_local(ConnId(8), add("t/#", ZERO, "", 8));
    let half = u64::MAX / 2;
    assert_eq!(by_shares(&routing, &["$share/g/t/#"], 0), [1]);
    assert_eq!(by_shares(&routing, &["$share/g/t/#", "$share/h/t/#"], half), [2, 9]);
    assert_eq!(by_shares(&routing, &["$share/g/t/#"], u64::MAX), [3]);
    assert_eq!(by_shares(&routing, &["$share/x/t/#", "$share/g/t", "t/#"], 0), [0; 0]);
}

#[test]
fn qos_1_message_from_memory_reaches_members_of_qos_0_only() {
    let mut routing = Routing::new(ME, 4);
    routing.apply_local(ConnId(1), add("$share/g/t/#", ONE, "", 1));
    assert!(!routing.matches("t/a").has_direct(ONE), "its partition's route is on its way");
    routing.apply_local(ConnId(2), add("$share/g/t/#", ZERO, "", 2));
    routing.apply_local(ConnId(3), add("$share/g/t/#", ONE, "", 3));
    let found = routing.matches("t/a");
    let receivers = |qos| {
        let message = message("t/a", qos, false, NOBODY);
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for n in 0..12 {
            let (mut here, mut forwarded) = (Vec::new(), Vec::new());
            found.hand_over(&message, Draw::nth(5, n), &mut here, &mut Vec::new());
            let share = [filter("$share/g/t/#")];
            routing.local_share_deliveries(&message, &share, Draw::nth(5, n), &mut forwarded);
            for (seen, got) in seen.iter_mut().zip([here, forwarded]) {
                assert_eq!(got.len(), 1);
                seen.extend(got.iter().map(|(conn, _)| conn.0));
            }
        }
        seen.map(Vec::from_iter)
    };
    assert_eq!(receivers(ONE), [[2], [2]]);
    assert_eq!(receivers(ZERO), [[1, 2, 3], [1, 2, 3]]);
}

#[test]
fn members_and_routes_that_left_are_forgotten() {
    let mut routing = Routing::new(ME, 4);
    let share = filter("$share/g/t/#");
    routing.apply_local(ConnId(1), add("$share/g/t/#", ZERO, "", 1));
    routing.apply_local(ConnId(2), add("$share/g/t/#", ZERO, "", 2));
    routing.route_changed(&share, RouteTarget::Node(NodeId(2)), true);
    assert_eq!(routing.local_subscriptions(), 2);
    routing.apply_local(ConnId(1), LocalChange::RemoveAll);
    routing.apply_local(ConnId(2), LocalChange::Remove(share.clone()));
    let found = routing.matches("t/a");
    assert_eq!((found.shares.len(), found.has_direct(ZERO)), (1, true));
    routing.route_changed(&share, RouteTarget::Node(NodeId(2)), false);
    assert!(routing.matches("t/a").is_empty());
    routing.route_changed(&share, RouteTarget::Node(NodeId(2)), true);
    routing.replace_routes(vec![]);
    assert!(routing.matches("t/a").is_empty());
    assert_eq!(routing.local_subscriptions(), 0);
}

#[test]
fn many_groups_for_one_node_go_in_several_frames() {
    let mut routing = Routing::new(ME, 4);
    for n in 0..40 {
        routing.route_changed(&filter(&format!("$share/g{n}/t/#")), RouteTarget::Node(NodeId(2)), true);
    }
    let mut forwards = Vec::new();
    let message = message("t/a", ZERO, false, NOBODY);
    routing.matches("t/a").hand_over(&message, Draw(7), &mut Vec::new(), &mut forwards);
    let counts: Vec<usize> = forwards
        .iter()
        .map(|(_, message)| match message {
            PeerMessage::ForwardShared { shares, .. } => shares.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(counts, [16, 16, 8]);
}

#[test]
fn draws_of_one_publisher_fall_evenly_whatever_part_of_them_is_used() {
    for (seed, step, count) in [(0, 1, 3), (99, 2, 2), (7, 3, 5), (u64::MAX, 4, 4), (5, 7, 7)] {
        let mut counts = vec![0_u32; count];
        for n in 0..(count as u64 * 100) {
            counts[Draw::nth(seed, n * step).pick(count).0] += 1;
        }
        assert!(counts.iter().all(|count| (95..=105).contains(count)), "{seed} {step}: {counts:?}");
    }
}
