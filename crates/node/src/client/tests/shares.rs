//! Shared subscriptions: who receives a published message from memory, and what goes to the group's partition.

use std::collections::BTreeMap;

use super::*;

fn member(harness: &mut Harness, conn: u64, text: &str, qos: QoS) {
    let subscription = SubscribeFilter { filter: filter(text), options: options(qos), identifier: None };
    let change = LocalChange::Add { subscription, client: 100 + conn, durable: false };
    harness.routing.apply_local(ConnId(conn), change);
}

fn publish_0(name: &str, payload: &str) -> Packet {
    Packet::Publish(publish(name, PublishQoS::AtMostOnce, payload))
}

#[test]
fn qos_0_messages_go_to_one_member_each_and_to_all_members_in_turn() {
    // [MQTT-4.8.2-4] of QoS 0 members: what is sent is sent to one.
    let mut harness = Harness::transient();
    for conn in 1..=4 {
        member(&mut harness, conn, "$share/g/t/#", ZERO);
    }
    for n in 0..400 {
        harness.send(publish_0("t/1", &n.to_string()));
    }
    let direct = std::mem::take(&mut harness.out.direct);
    let mut received: Vec<usize> =
        direct.iter().map(|(_, one)| payload_of(&one.message).parse().unwrap()).collect();
    received.sort_unstable();
    assert_eq!(received, (0..400).collect::<Vec<_>>(), "each message once");
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    direct.iter().for_each(|(conn, _)| *counts.entry(conn.0).or_default() += 1);
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|count| (98..=102).contains(count)), "{counts:?}");
    assert!(harness.out.forwards.is_empty());
}

#[test]
fn qos_0_messages_are_spread_over_the_nodes_that_have_members() {
    let mut harness = Harness::transient();
    member(&mut harness, 1, "$share/g/t", ZERO);
    for node in [1, 2, 3] {
        harness.routing.route_changed(&filter("$share/g/t"), RouteTarget::Node(NodeId(node)), true);
    }
    for n in 0..300 {
        harness.send(publish_0("t", &n.to_string()));
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for (node, message) in std::mem::take(&mut harness.out.forwards) {
        let PeerMessage::ForwardShared { shares, .. } = message else { panic!("{message:?}") };
        assert_eq!(shares, [filter("$share/g/t")]);
        *counts.entry(node.0).or_default() += 1;
    }
    counts.insert(1, harness.handed_over().len());
    assert_eq!(counts.values().sum::<usize>(), 300);
    assert!(counts.values().all(|count| (98..=102).contains(count)), "{counts:?}");
}

#[test]
fn node_that_is_target_of_a_route_and_of_shares_gets_the_message_for_each() {
    let mut harness = Harness::transient();
    for text in ["t", "$share/a/t", "$share/b/+"] {
        harness.routing.route_changed(&filter(text), RouteTarget::Node(NodeId(2)), true);
    }
    harness.send(publish_0("t", "x"));
    let [(NodeId(2), PeerMessage::Forward(_)), (NodeId(2), PeerMessage::ForwardShared { shares, .. })] =
        &harness.out.forwards[..]
    else {
        panic!("{:?}", harness.out.forwards)
    };
    assert_eq!(shares, &[filter("$share/a/t"), filter("$share/b/+")]);
}

#[test]
fn qos_1_message_goes_to_the_partition_of_the_group_and_to_no_member_from_memory() {
    let mut harness = Harness::transient();
    member(&mut harness, 1, "$share/g/t", ZERO);
    member(&mut harness, 2, "$share/g/t", ONE);
    harness.routing.route_changed(&filter("$share/g/t"), RouteTarget::Partition(GroupId(3)), true);
    harness.send(publish_1("t", 5));
    let requests = harness.requests();
    let [ClientRequest::Publish { number: 1, targets }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(targets.iter().map(|target| target.0).collect::<Vec<_>>(), [GroupId(3)]);
    harness.applied(1);
    assert_eq!(harness.pubacks(), [(5, ReasonCode::SUCCESS)]);
    assert_eq!(harness.handed_over(), [""; 0]);
    harness.send(publish_0("t", "zero"));
    assert_eq!(harness.handed_over(), ["zero"]);
    assert!(harness.requests().is_empty());
}

#[test]
fn qos_1_message_for_a_group_of_qos_0_members_goes_to_one_of_them() {
    let mut harness = Harness::transient();
    member(&mut harness, 1, "$share/g/t", ZERO);
    member(&mut harness, 2, "$share/g/t", ZERO);
    harness.send(publish_1("t", 5));
    assert_eq!(harness.pubacks(), [(5, ReasonCode::SUCCESS)]);
    let direct = std::mem::take(&mut harness.out.direct);
    let [(_, delivery)] = &direct[..] else { panic!("{direct:?}") };
    assert_eq!(delivery.qos, ZERO);
}

#[test]
fn refused_shared_subscription_is_no_member() {
    let mut harness = Harness::durable();
    harness.send(subscribe(1, &[("$share/g/t", ONE)]));
    assert_eq!(harness.routing.local_subscriptions(), 1);
    harness.event(ClientEvent::Subscribed {
        packet_id: Durable::committed(id(1)),
        reasons: vec![ReasonCode::QUOTA_EXCEEDED],
    });
    assert_eq!(harness.routing.local_subscriptions(), 0);
}
