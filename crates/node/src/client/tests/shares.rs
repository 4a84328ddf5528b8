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

/// A message of a share group from the session's partition, which knows it by `packet_id`.
fn dispatched(packet_id: u16, qos: QoS) -> ClientEvent {
    ClientEvent::Deliver(SessionDelivery { qos, ..session_delivery(packet_id, &packet_id.to_string()) })
}

fn ack(packet_id: PacketId) -> Ack {
    Ack { packet_id, reason: ReasonCode::SUCCESS, reason_string: None, user_properties: vec![] }
}

fn packet_id_of(publish: &Publish) -> PacketId {
    publish.qos.packet_id().unwrap()
}

#[test]
fn transient_session_acknowledges_to_its_partition_what_came_from_there() {
    let mut harness = Harness::transient();
    harness.direct(delivery(ONE, "direct"));
    harness.event(dispatched(1, ONE));
    harness.event(dispatched(900, ONE));
    let publishes = harness.publishes();
    assert_eq!(payloads(&publishes), ["direct", "1", "900"]);
    let ids: Vec<PacketId> = publishes.iter().map(packet_id_of).collect();
    assert_eq!(ids.iter().map(|id| id.get()).collect::<Vec<_>>(), [1, 2, 3], "none twice");
    harness.send_all(&[puback(1), puback(3), puback(2)]);
    let requests = harness.requests();
    let [ClientRequest::Acknowledged { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(packet_ids, &[id(900), id(1)]);
}

#[test]
fn transient_session_receives_qos_2_of_its_partition_once_and_for_ever() {
    // [MQTT-4.3.3-5]: PUBREL only when the partition will never give the message to anybody else.
    let mut harness = Harness::transient();
    harness.direct(delivery(QoS::ExactlyOnce, "direct"));
    harness.event(dispatched(40, QoS::ExactlyOnce));
    let ids: Vec<PacketId> = harness.publishes().iter().map(packet_id_of).collect();
    harness.send(Packet::PubRec(ack(ids[1])));
    assert!(harness.received().is_empty());
    let requests = harness.requests();
    let [ClientRequest::Received { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(packet_ids, &[id(40)]);
    harness.event(ClientEvent::Received { packet_ids: Durable::committed(vec![id(40)]) });
    assert_eq!(harness.received(), [Packet::PubRel(ack(ids[1]))]);
    harness.send(Packet::PubComp(ack(ids[1])));
    let requests = harness.requests();
    let [ClientRequest::Acknowledged { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(packet_ids, &[id(40)]);
    harness.send(Packet::PubRec(ack(ids[0])));
    assert_eq!(harness.received(), [Packet::PubRel(ack(ids[0]))]);
    harness.send(Packet::PubComp(ack(ids[0])));
    assert!(harness.requests().is_empty(), "nobody else knows of a direct message");
}

#[test]
fn window_of_a_transient_session_is_shared_by_turns() {
    let mut harness = Harness::new(ProtocolVersion::V5);
    let connect = Connect { receive_max: std::num::NonZeroU16::new(2), ..connect(ProtocolVersion::V5, "me") };
    harness.open(connect, false, SessionExpiry::AtClose, vec![]);
    for n in 1..=3 {
        harness.event(dispatched(n, ONE));
        harness.direct(delivery(ONE, &format!("direct {n}")));
    }
    let mut publishes = harness.publishes();
    let mut order: Vec<String> = Vec::new();
    while !publishes.is_empty() {
        assert!(publishes.len() <= 2);
        order.extend(payloads(&publishes).iter().map(|payload| (*payload).to_owned()));
        let acks: Vec<Packet> = publishes.iter().map(|one| Packet::PubAck(ack(packet_id_of(one)))).collect();
        harness.send_all(&acks);
        publishes = harness.publishes();
    }
    assert_eq!(order, ["1", "direct 1", "2", "direct 2", "3", "direct 3"]);
    assert_eq!(harness.dropped(), []);
}

#[test]
fn message_too_large_for_a_transient_member_counts_as_received() {
    // [MQTT-3.1.2-25]
    let mut harness = Harness::new(ProtocolVersion::V5);
    let connect = Connect { packet_bytes_max: Some(30), ..connect(ProtocolVersion::V5, "me") };
    harness.open(connect, false, SessionExpiry::AtClose, vec![]);
    let large =
        SessionDelivery { message: Some(message("t", ONE, &"x".repeat(40))), ..session_delivery(7, "") };
    harness.event(ClientEvent::Deliver(large));
    assert_eq!(harness.dropped(), [(DropReason::PacketTooLarge, 1)]);
    let requests = harness.requests();
    let [ClientRequest::Acknowledged { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(packet_ids, &[id(7)]);
    harness.event(dispatched(8, ONE));
    assert_eq!(payloads(&harness.publishes()), ["8"]);
}
