//! Publishes, from PUBLISH to PUBACK.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

pub(super) fn durable_route(harness: &mut Harness, text: &str, group: u32) {
    harness.routing.route_changed(&filter(text), RouteTarget::Partition(GroupId(group)), true);
}

pub(super) fn transient_route(harness: &mut Harness, text: &str) {
    harness.routing.route_changed(&filter(text), RouteTarget::Node(NodeId(2)), true);
    let subscription = SubscribeFilter { filter: filter(text), options: options(ONE), identifier: None };
    let change = LocalChange::Add { subscription, client: 77, durable: false };
    harness.routing.apply_local(ConnId(70), change);
}

/// Number, groups and decoded commands of the publishes asked for since the last call.
pub(super) fn asked(harness: &mut Harness) -> Vec<(PublishNumber, Vec<(GroupId, Command)>)> {
    let requests = harness.requests().into_iter().map(|request| match request {
        ClientRequest::Publish { number, targets } => {
            let decoded =
                targets.into_iter().map(|(group, mut bytes)| (group, Command::decode(&mut bytes).unwrap()));
            (number, decoded.collect())
        }
        other => panic!("{other:?}"),
    });
    requests.collect()
}

pub(super) fn numbers(harness: &mut Harness) -> Vec<PublishNumber> {
    asked(harness).into_iter().map(|publish| publish.0).collect()
}

/// Store and fan-out flags of the commands per group.
fn flags(commands: &[(GroupId, Command)]) -> Vec<(u32, bool, bool)> {
    let flags = commands.iter().map(|(group, command)| match command {
        Command::Publish { store_retained, fan_out, .. } => (group.0, *store_retained, *fan_out),
        other => panic!("{other:?}"),
    });
    flags.collect()
}

const OK: ReasonCode = ReasonCode::SUCCESS;

#[test]
fn puback_waits_for_every_target() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    durable_route(&mut harness, "#", 3);
    harness.send(publish_1("a", 10));
    let publishes = asked(&mut harness);
    let [(1, commands)] = &publishes[..] else { panic!("{publishes:?}") };
    assert_eq!(flags(commands), [(1, false, true), (3, false, true)]);
    let Command::Publish { message, .. } = &commands[0].1 else { panic!() };
    assert_eq!((message.topic.as_str(), message.qos, message.publisher), ("a", ONE, client_hash("me")));
    assert_eq!(harness.pubacks(), []);
    harness.applied(1);
    assert_eq!(harness.pubacks(), []);
    harness.applied(1);
    assert_eq!(harness.pubacks(), [(10, OK)]);
}

#[test]
fn pubacks_leave_in_the_order_of_the_publishes() {
    // [MQTT-4.6.0-2]
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    transient_route(&mut harness, "b");
    harness.send_all(&[publish_1("a", 1), publish_1("b", 2), publish_1("a", 3)]);
    assert_eq!(harness.handed_over(), [""; 0], "the second may not overtake the first");
    assert_eq!(numbers(&mut harness), [1, 3]);
    harness.applied(3);
    assert_eq!(harness.pubacks(), []);
    harness.applied(1);
    assert_eq!(harness.pubacks(), [(1, OK), (2, OK), (3, OK)]);
    assert_eq!(harness.handed_over(), ["2"]);
    assert_eq!(harness.out.forwards.len(), 1);
}

#[test]
fn direct_receivers_see_a_message_only_after_its_commit() {
    // Contract D2.
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    durable_route(&mut harness, "a", 2);
    transient_route(&mut harness, "a");
    harness.send(publish_1("a", 1));
    harness.applied(1);
    assert!(harness.out.direct.is_empty() && harness.out.forwards.is_empty());
    harness.applied(1);
    let [(node, PeerMessage::Forward(forwarded))] = &harness.out.forwards[..] else { panic!() };
    assert_eq!((*node, payload_of(forwarded)), (NodeId(2), "1".to_owned()));
    assert_eq!(harness.handed_over(), ["1"]);
    assert_eq!(harness.pubacks(), [(1, OK)]);
}

#[test]
fn publish_without_subscribers_says_so() {
    let mut harness = Harness::transient();
    harness.send(publish_1("nobody", 1));
    assert_eq!(harness.pubacks(), [(1, ReasonCode::NO_MATCHING_SUBSCRIBERS)]);
    assert!(harness.requests().is_empty());
}

#[test]
fn refused_publish_is_reported_and_not_handed_over() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    durable_route(&mut harness, "a", 2);
    transient_route(&mut harness, "a");
    harness.send(publish_1("a", 1));
    let outcome = PublishOutcome::Rejected(ReasonCode::QUOTA_EXCEEDED);
    harness.event(ClientEvent::PublishApplied { number: Durable::committed(1), outcome });
    assert_eq!(harness.pubacks(), []);
    harness.applied(1);
    assert_eq!(harness.pubacks(), [(1, ReasonCode::QUOTA_EXCEEDED)]);
    assert!(harness.out.direct.is_empty() && harness.out.forwards.is_empty());
}

#[test]
fn refused_publish_of_an_older_client_closes_its_connection() {
    let mut harness = Harness::new(ProtocolVersion::V311);
    harness.open(connect(ProtocolVersion::V311, "me"), false, SessionExpiry::AtClose, vec![]);
    durable_route(&mut harness, "a", 1);
    harness.send_all(&[publish_1("a", 1), publish_1("a", 2)]);
    harness.requests();
    let outcome = PublishOutcome::Rejected(ReasonCode::QUOTA_EXCEEDED);
    harness.applied(2);
    assert_eq!(harness.pubacks(), []);
    harness.event(ClientEvent::PublishApplied { number: Durable::committed(1), outcome });
    assert_eq!(harness.received(), [], "the second is not acknowledged either");
    assert!(harness.client.is_closed());
    assert!(matches!(harness.requests()[..], [ClientRequest::Closed { expiry: None, .. }]));
}

#[test]
fn retained_publish_goes_to_the_topics_partition_too() {
    let retained = retained_partition("a", PARTITIONS);
    let other = GroupId(retained.0 % PARTITIONS + 1);
    let mut harness = Harness::transient();
    let mut keep = publish("a", PublishQoS::AtLeastOnce(id(1)), "x");
    keep.retain = true;
    harness.send(Packet::Publish(keep.clone()));
    assert_eq!(flags(&asked(&mut harness)[0].1), [(retained.0, true, false)]);
    durable_route(&mut harness, "a", other.0);
    keep.qos = PublishQoS::AtLeastOnce(id(2));
    harness.send(Packet::Publish(keep.clone()));
    assert_eq!(flags(&asked(&mut harness)[0].1), [(other.0, false, true), (retained.0, true, false)]);
    durable_route(&mut harness, "a", retained.0);
    keep.qos = PublishQoS::AtLeastOnce(id(3));
    harness.send(Packet::Publish(keep.clone()));
    let mut both = flags(&asked(&mut harness)[0].1);
    both.sort_unstable();
    let mut expected = [(other.0, false, true), (retained.0, true, true)];
    expected.sort_unstable();
    assert_eq!(both, expected);
    keep.qos = PublishQoS::AtMostOnce;
    harness.send(Packet::Publish(keep));
    assert_eq!(
        flags(&asked(&mut harness)[0].1),
        [(retained.0, true, false)],
        "QoS 0 is not for durable sessions"
    );
    // The last one was of QoS 0: its answer is nobody's.
    for number in [1, 2, 2, 3, 3, 4] {
        harness.applied(number);
    }
    assert_eq!(harness.pubacks(), [(1, OK), (2, OK), (3, OK)]);
}

#[test]
fn qos_0_is_handed_over_at_once_and_never_asked() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    transient_route(&mut harness, "a");
    harness.send(publish_1("a", 1));
    harness.requests();
    harness.lose_lease();
    harness.send(Packet::Publish(publish("a", PublishQoS::AtMostOnce, "now")));
    assert_eq!(harness.handed_over(), ["now"]);
    assert!(harness.requests().is_empty());
}

#[test]
fn properties_travel_with_the_message() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    transient_route(&mut harness, "a");
    let mut sent = publish("a", PublishQoS::AtLeastOnce(id(1)), "x");
    sent.properties = Some(Box::new(PublishProperties {
        message_expiry_s: Some(30),
        content_type: Some(Text::from_static("text/plain")),
        user_properties: vec![(Text::from_static("k"), Text::from_static("v"))],
        ..PublishProperties::default()
    }));
    harness.send(Packet::Publish(sent));
    harness.applied(1);
    harness.pubacks();
    let (_, delivery) = harness.out.direct.pop().unwrap();
    assert_eq!(delivery.message.message.expiry_s, Some(30));
    harness.direct(DirectDelivery { identifiers: vec![3], ..delivery });
    let received = harness.publishes();
    let properties = received[0].properties.as_ref().unwrap();
    assert_eq!(properties.content_type, Some(Text::from_static("text/plain")));
    assert_eq!(properties.user_properties.len(), 1);
    assert_eq!((properties.message_expiry_s, &properties.subscription_identifiers[..]), (Some(30), &[3][..]));
}

#[test]
fn publish_while_fenced_is_routed_when_the_lease_is_back() {
    let mut harness = Harness::transient();
    transient_route(&mut harness, "a");
    harness.lose_lease();
    harness.send_all(&[publish_1("a", 1), publish_1("b", 2)]);
    assert!(harness.requests().is_empty() && harness.out.direct.is_empty());
    assert!(!harness.client.wants_read(), "what waits is bounded by what came in one read");
    assert!(harness.client.poll_timeout().is_some_and(|time| time <= harness.now + RETRY_AFTER));
    // While the node was cut off, a durable session subscribed elsewhere.
    durable_route(&mut harness, "a", 2);
    harness.regain_lease();
    harness.timeout();
    assert!(harness.client.wants_read());
    assert_eq!(numbers(&mut harness), [1]);
    assert_eq!(harness.pubacks(), []);
    harness.applied(1);
    assert_eq!(harness.pubacks(), [(1, OK), (2, ReasonCode::NO_MATCHING_SUBSCRIBERS)]);
    assert_eq!(harness.handed_over(), ["1"]);
    assert_eq!(harness.client.poll_timeout(), None);
}

#[test]
fn commit_learned_while_fenced_is_acknowledged_when_the_lease_is_back() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    transient_route(&mut harness, "a");
    harness.send(publish_1("a", 1));
    harness.lose_lease();
    harness.applied(1);
    harness.timeout();
    assert_eq!(harness.pubacks(), []);
    assert!(harness.out.direct.is_empty());
    harness.regain_lease();
    harness.timeout();
    assert_eq!(harness.pubacks(), [(1, OK)]);
    assert_eq!(harness.handed_over(), ["1"]);
}

#[test]
fn change_of_the_routes_is_seen_by_the_next_publish() {
    let mut harness = Harness::transient();
    harness.send(publish_1("a", 1));
    assert!(asked(&mut harness).is_empty());
    durable_route(&mut harness, "a", 2);
    harness.send(publish_1("a", 2));
    assert_eq!(asked(&mut harness).len(), 1);
    harness.routing.route_changed(&filter("a"), RouteTarget::Partition(GroupId(2)), false);
    harness.send(publish_1("a", 3));
    assert!(asked(&mut harness).is_empty());
}

/// Publishes, answers in any order, and a lease that comes and goes: acknowledgements and hand-overs are those of the
/// publishes in order, and none comes before all partitions have answered.
#[test]
fn random_schedules_keep_order_and_wait_for_every_partition() {
    for seed in 0..60_u64 {
        let mut below = random(seed);
        let mut harness = Harness::transient();
        durable_route(&mut harness, "one", 1);
        durable_route(&mut harness, "two", 1);
        durable_route(&mut harness, "two", 2);
        for text in ["one", "two", "none"] {
            transient_route(&mut harness, text);
        }
        let (mut sent, mut acked, mut handed) = (0_u16, Vec::new(), Vec::new());
        // Answers still owed, by number; and the packet identifier of each number.
        let mut owed: Vec<PublishNumber> = Vec::new();
        let mut packet_of: BTreeMap<PublishNumber, u16> = BTreeMap::new();
        for _ in 0..120 {
            match below(8) {
                0..3 if sent < 40 => {
                    sent += 1;
                    let name = ["one", "two", "none"][below(3)];
                    harness.send(publish_1(name, sent));
                }
                3 => harness.lose_lease(),
                4 => harness.regain_lease(),
                5 => harness.timeout(),
                _ if !owed.is_empty() => {
                    let number = owed.swap_remove(below(owed.len()));
                    harness.applied(number);
                }
                _ => {}
            }
            settle(&mut harness, &mut owed, &mut packet_of, &mut acked, &mut handed);
        }
        harness.regain_lease();
        harness.timeout();
        settle(&mut harness, &mut owed, &mut packet_of, &mut acked, &mut handed);
        while let Some(number) = owed.pop() {
            harness.applied(number);
            settle(&mut harness, &mut owed, &mut packet_of, &mut acked, &mut handed);
        }
        let all: Vec<u16> = (1..=sent).collect();
        assert_eq!(acked, all, "seed {seed}");
        assert_eq!(handed, all, "seed {seed}");
    }
}

fn settle(
    harness: &mut Harness,
    owed: &mut Vec<PublishNumber>,
    packet_of: &mut BTreeMap<PublishNumber, u16>,
    acked: &mut Vec<u16>,
    handed: &mut Vec<u16>,
) {
    for (number, commands) in asked(harness) {
        let Command::Publish { message, .. } = &commands[0].1 else { panic!() };
        packet_of.insert(number, std::str::from_utf8(&message.payload).unwrap().parse().unwrap());
        owed.extend(commands.iter().map(|_| number));
    }
    let waiting: BTreeSet<u16> = owed.iter().map(|number| packet_of[number]).collect();
    let fenced = harness.now >= harness.lease_until;
    let handed_now: Vec<u16> = harness.handed_over().iter().map(|payload| payload.parse().unwrap()).collect();
    let acked_now: Vec<u16> = harness.pubacks().iter().map(|ack| ack.0).collect();
    assert!(!fenced || acked_now.is_empty());
    assert!(handed_now.iter().chain(&acked_now).all(|packet_id| !waiting.contains(packet_id)));
    handed.extend(handed_now);
    acked.extend(acked_now);
}

#[test]
fn publish_after_a_subscribe_in_the_same_read_reaches_the_subscription() {
    for qos in [PublishQoS::AtMostOnce, PublishQoS::AtLeastOnce(id(6))] {
        let mut harness = Harness::transient();
        let publish = Packet::Publish(publish("a/b", qos, "x"));
        harness.send_all(&[subscribe(5, &[("a/+", ONE)]), publish]);
        assert!(harness.client.has_work() && !harness.client.wants_read());
        assert_eq!(harness.client.poll_timeout(), Some(harness.now));
        assert!(harness.handed_over().is_empty());
        harness.timeout();
        assert_eq!(harness.handed_over(), ["x"], "{qos:?}");
        assert!(!harness.client.has_work() && harness.client.wants_read());
    }
}

#[test]
fn publish_before_a_disconnect_in_the_same_read_is_handed_over() {
    for first in [None, Some(subscribe(5, &[("b", ONE)]))] {
        let mut harness = Harness::transient();
        harness.send(subscribe(4, &[("a", ZERO)]));
        harness.requests();
        let disconnect = Packet::Disconnect(quorate_codec::Disconnect {
            reason: ReasonCode::SUCCESS,
            session_expiry_s: None,
            reason_string: None,
            server_reference: None,
            user_properties: vec![],
        });
        let packets: Vec<Packet> = first.into_iter().chain([publish_1("a", 6), disconnect]).collect();
        harness.send_all(&packets);
        while harness.client.has_work() {
            assert!(!harness.client.is_closed(), "the node has not heard of the end");
            harness.timeout();
        }
        assert_eq!(harness.handed_over(), ["6"]);
        assert!(matches!(harness.requests()[..], [.., ClientRequest::Closed { .. }]));
        assert!(harness.client.is_closed());
    }
}

#[test]
fn without_room_messages_are_refused_in_order_and_all_else_goes_on() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    harness.send(publish_1("a", 1));
    assert_eq!(numbers(&mut harness), [1]);
    harness.intake = Intake::Closed;
    harness.send_all(&[publish_1("a", 2), Packet::PingReq]);
    assert_eq!(harness.received(), [Packet::PingResp], "the first one comes first");
    harness.applied(1);
    assert_eq!(harness.pubacks(), [(1, OK), (2, ReasonCode::QUOTA_EXCEEDED)]);
    harness.intake = Intake::Open;
    harness.send(publish_1("a", 3));
    assert_eq!(numbers(&mut harness).len(), 1);
}

#[test]
fn without_room_on_the_disk_qos_0_goes_on_and_is_not_retained() {
    let mut harness = Harness::transient();
    harness.send(subscribe(5, &[("a", ZERO)]));
    harness.requests();
    harness.intake = Intake::Closed;
    let plain = publish("a", PublishQoS::AtMostOnce, "x");
    harness.send(Packet::Publish(plain.clone()));
    assert_eq!((harness.handed_over(), harness.dropped()), (vec!["x".to_owned()], vec![]));
    harness.send(Packet::Publish(Publish { retain: true, ..plain }));
    assert_eq!(harness.handed_over(), ["x"], "whoever has subscribed gets it");
    assert_eq!(harness.dropped(), [(DropReason::DiskLow, 1)]);
    assert!(harness.requests().is_empty() && harness.client.wants_read());
}

#[test]
fn short_memory_slows_whoever_publishes_and_loses_nothing() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    harness.pressure = Pressure::High;
    harness.send(Packet::PingReq);
    assert_eq!(harness.received(), [Packet::PingResp]);
    assert!(harness.client.wants_read(), "it publishes nothing");
    for number in 1..4 {
        harness.send_all(&[publish_1("a", number), Packet::PingReq]);
        assert_eq!(numbers(&mut harness).len(), 1, "it is taken at once");
        assert_eq!(harness.received(), [Packet::PingResp]);
        assert!(!harness.client.wants_read());
        let until = harness.client.poll_timeout().expect("it is read again");
        assert!(until > harness.now && until <= harness.now + Duration::from_secs(1));
        harness.timeout();
        assert!(!harness.client.wants_read(), "not before its time");
        harness.now = until;
        harness.timeout();
        assert!(harness.client.wants_read());
        harness.applied(u64::from(number));
        assert_eq!(harness.pubacks(), [(number, OK)]);
    }
    harness.send(publish_1("a", 4));
    harness.pressure = Pressure::None;
    harness.applied(4);
    assert!(harness.client.wants_read(), "there is no reason any more");
}

#[test]
fn without_memory_messages_and_clients_are_refused() {
    for version in [ProtocolVersion::V5, ProtocolVersion::V311] {
        let mut harness = Harness::new(version);
        harness.pressure = Pressure::Full;
        harness.send(Packet::Connect(Box::new(connect(version, "me"))));
        let reason = match version {
            ProtocolVersion::V5 => ReasonCode::QUOTA_EXCEEDED,
            ProtocolVersion::V31 | ProtocolVersion::V311 => ReasonCode::SERVER_UNAVAILABLE,
        };
        assert!(matches!(&harness.received()[..], [Packet::ConnAck(connack)] if connack.reason == reason));
        assert!(harness.client.is_closed() && harness.requests().is_empty());
    }
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    harness.pressure = Pressure::Full;
    harness.send(publish_1("a", 2));
    assert_eq!(harness.pubacks(), [(2, ReasonCode::QUOTA_EXCEEDED)]);
    harness.send(Packet::Publish(publish("a", PublishQoS::AtMostOnce, "x")));
    assert_eq!(harness.dropped(), [(DropReason::MemoryLow, 1)]);
    assert!(harness.requests().is_empty());

    let mut older = Harness::new(ProtocolVersion::V311);
    older.open(connect(ProtocolVersion::V311, "me"), false, SessionExpiry::AtClose, vec![]);
    durable_route(&mut older, "a", 1);
    older.pressure = Pressure::Full;
    older.send(publish_1("a", 1));
    assert!(older.requests().is_empty() && older.received().is_empty() && !older.client.is_closed());
    older.pressure = Pressure::High;
    older.now = older.client.poll_timeout().expect("it looks again");
    older.timeout();
    assert_eq!(numbers(&mut older), [1], "what waited is taken");
}

#[test]
fn without_room_an_older_client_that_publishes_is_not_read_until_there_is() {
    let mut harness = Harness::new(ProtocolVersion::V311);
    harness.open(connect(ProtocolVersion::V311, "me"), false, SessionExpiry::AtClose, vec![]);
    durable_route(&mut harness, "a", 1);
    harness.intake = Intake::Closed;
    harness.send(Packet::PingReq);
    assert!(harness.client.wants_read(), "it publishes nothing");
    assert_eq!(harness.received(), [Packet::PingResp]);
    harness.send_all(&[publish_1("a", 1), publish_1("a", 2)]);
    assert!(!harness.client.wants_read() && harness.requests().is_empty());
    let soon = harness.client.poll_timeout().expect("it looks again");
    assert!(soon > harness.now && soon <= harness.now + Duration::from_secs(1));
    harness.now = soon;
    harness.timeout();
    assert!(harness.requests().is_empty() && harness.client.poll_timeout() > Some(harness.now));
    harness.intake = Intake::Open;
    harness.timeout();
    assert_eq!(numbers(&mut harness), [1, 2]);
    assert!(harness.client.wants_read());
    harness.applied(1);
    harness.applied(2);
    assert_eq!(harness.pubacks(), [(1, OK), (2, OK)]);
}

#[test]
fn what_waited_for_the_lease_is_judged_by_the_room_of_then() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 1);
    harness.lose_lease();
    harness.send(publish_1("a", 1));
    harness.intake = Intake::Closed;
    harness.regain_lease();
    harness.timeout();
    assert_eq!(harness.pubacks(), [(1, ReasonCode::QUOTA_EXCEEDED)]);
    assert!(harness.requests().is_empty() && harness.client.wants_read());
}
