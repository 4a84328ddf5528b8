//! SUBSCRIBE and UNSUBSCRIBE.

use super::limits::MARKS_WAIT_MAX;
use super::*;

fn subacks(harness: &mut Harness) -> Vec<(u16, Vec<ReasonCode>)> {
    let acks = harness.received().into_iter().map(|packet| match packet {
        Packet::SubAck(ack) => (ack.packet_id.get(), ack.reasons),
        Packet::UnsubAck(ack) => (ack.packet_id.get(), ack.reasons),
        other => panic!("{other:?}"),
    });
    acks.collect()
}

fn subscribed(packet_id: u16, reasons: &[ReasonCode]) -> ClientEvent {
    ClientEvent::Subscribed { packet_id: Durable::committed(id(packet_id)), reasons: reasons.to_vec() }
}

fn with_subscriptions(subscriptions_max: usize) -> Harness {
    let mut harness = Harness::with(ProtocolVersion::V5, ClientConfig { subscriptions_max, ..config() });
    harness.open(connect(ProtocolVersion::V5, "me"), false, SessionExpiry::AtClose, vec![]);
    harness
}

#[test]
fn suback_merges_reasons_in_packet_order() {
    // [MQTT-3.8.4-6]
    let mut harness = with_subscriptions(2);
    harness.send(subscribe(5, &[("a", ZERO), ("$share/g/b", ONE), ("c", ONE), ("a", QoS::ExactlyOnce)]));
    let requests = harness.requests();
    let [ClientRequest::Subscribe { packet_id, filters }] = &requests[..] else { panic!("{requests:?}") };
    let asked: Vec<(&str, QoS)> = filters.iter().map(|one| (one.filter.as_str(), one.options.qos)).collect();
    let expected = vec![("a", ZERO), ("$share/g/b", ONE), ("a", QoS::ExactlyOnce)];
    assert_eq!((packet_id.get(), asked), (5, expected));
    assert_eq!(harness.routing.local_subscriptions(), 2);
    assert_eq!(subacks(&mut harness), []);
    let answer = [ReasonCode::GRANTED_QOS_0, ReasonCode::UNSPECIFIED_ERROR, ReasonCode::GRANTED_QOS_2];
    harness.event(subscribed(5, &answer));
    let full = ReasonCode::QUOTA_EXCEEDED;
    assert_eq!(subacks(&mut harness), [(5, vec![answer[0], answer[1], full, answer[2]])]);
    // What the partition refused is not served directly either.
    assert_eq!(harness.routing.local_subscriptions(), 1);
}

#[test]
fn suback_comes_at_once_when_every_filter_is_refused() {
    let mut harness = with_subscriptions(0);
    harness.send(subscribe(5, &[("b", ONE)]));
    assert_eq!(subacks(&mut harness), [(5, vec![ReasonCode::QUOTA_EXCEEDED])]);
    assert!(harness.requests().is_empty());
}

#[test]
fn subscriptions_beyond_the_limit_are_refused() {
    let mut harness = Harness::transient();
    harness.send(subscribe(
        1,
        &[("1", ONE), ("2", ONE), ("3", ONE), ("4", ONE), ("5", ONE), ("6", ONE), ("5", ZERO)],
    ));
    let requests = harness.requests();
    let [ClientRequest::Subscribe { filters, .. }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(filters.len(), 6);
    harness.event(subscribed(1, &[ReasonCode::GRANTED_QOS_1; 6]));
    let [(1, reasons)] = &subacks(&mut harness)[..] else { panic!() };
    assert_eq!(reasons.iter().position(|reason| *reason == ReasonCode::QUOTA_EXCEEDED), Some(5));
}

#[test]
fn local_subscription_is_made_before_the_node_is_asked() {
    let mut harness = Harness::transient();
    let mut input = BytesMut::new();
    quorate_codec::encode(&subscribe(1, &[("a", ONE)]), harness.version, &mut input).unwrap();
    let lease_until = harness.lease_until;
    let (routing, system, incarnation) = (&harness.routing, &harness.system, harness.incarnation);
    let (draining, intake, pressure) = (false, Intake::Open, Pressure::None);
    let context = Context { routing, system, lease_until, incarnation, draining, intake, pressure };
    let mut out = ClientOutput::default();
    harness.client.handle_bytes(&mut input, &context, &mut out, harness.now);
    assert!(matches!(out.local[..], [LocalChange::Mark(1)]) && out.requests.is_empty(), "{out:?}");
    out.local.clear();
    harness.client.handle_event(ClientEvent::Marked(1), &context, &mut out, harness.now);
    let [LocalChange::Add { subscription, client, durable }] = &out.local[..] else { panic!("{out:?}") };
    assert_eq!((subscription.filter.as_str(), *client, *durable), ("a", client_hash("me"), false));
    assert!(matches!(out.requests[..], [ClientRequest::Subscribe { .. }]));
}

#[test]
fn unsuback_tells_which_subscriptions_existed() {
    let mut harness = Harness::durable();
    harness.send(subscribe(1, &[("a", ONE)]));
    harness.event(subscribed(1, &[ReasonCode::GRANTED_QOS_1]));
    harness.received();
    harness.requests();
    let filters = vec![filter("a"), filter("b")];
    harness.send(Packet::Unsubscribe(Unsubscribe { packet_id: id(2), user_properties: vec![], filters }));
    assert_eq!(harness.routing.local_subscriptions(), 0);
    assert!(
        matches!(&harness.requests()[..], [ClientRequest::Unsubscribe { filters, .. }] if filters.len() == 2)
    );
    assert_eq!(subacks(&mut harness), []);
    harness.event(ClientEvent::Unsubscribed {
        packet_id: Durable::committed(id(2)),
        existed: vec![true, false],
    });
    assert_eq!(subacks(&mut harness), [(2, vec![ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED])]);
}

#[test]
fn suback_and_what_follows_are_withheld_in_order_while_fenced() {
    let mut harness = Harness::transient();
    harness.send(subscribe(1, &[("a", ONE)]));
    harness.send(subscribe(2, &[("b", ONE)]));
    harness.lose_lease();
    harness.event(subscribed(1, &[ReasonCode::GRANTED_QOS_1]));
    let retained = message("a", ONE, "kept");
    harness.event(ClientEvent::Retained { qos: ONE, identifier: None, expiry_s: None, message: retained });
    harness.event(subscribed(2, &[ReasonCode::GRANTED_QOS_1]));
    harness.timeout();
    assert_eq!(harness.received(), []);
    harness.regain_lease();
    harness.timeout();
    let packets = harness.received();
    let [Packet::SubAck(first), Packet::Publish(kept), Packet::SubAck(second)] = &packets[..] else {
        panic!("{packets:?}")
    };
    assert_eq!((first.packet_id.get(), kept.retain, second.packet_id.get()), (1, true, 2));
}

#[test]
fn reading_stops_at_too_many_waiting_subscribes() {
    let mut harness = Harness::transient();
    for number in 1..=SUBSCRIBES_PENDING_MAX {
        assert!(harness.client.wants_read());
        harness.send(subscribe(number as u16, &[("a", ONE)]));
    }
    assert!(!harness.client.wants_read());
    harness.event(subscribed(1, &[ReasonCode::GRANTED_QOS_1]));
    assert!(harness.client.wants_read());
}

#[test]
fn direct_subscription_is_begun_when_the_marks_are_answered() {
    let mut harness = Harness::transient();
    harness.peers_answer = false;
    harness.send_all(&[subscribe(1, &[("a", ONE)]), publish_1("a", 7), subscribe(2, &[("b", ONE)])]);
    harness.timeout();
    assert_eq!((harness.routing.local_subscriptions(), harness.requests().len()), (0, 0));
    assert!(!harness.client.wants_read() && !harness.client.has_work(), "it waits, and nothing else is done");
    assert_eq!(harness.marks, [1]);
    harness.event(ClientEvent::Marked(1));
    // Both came before the marks were sent. The message between them goes out when the first is in the table.
    harness.timeout();
    let requests = harness.requests();
    assert!(
        matches!(&requests[..], [ClientRequest::Subscribe { .. }, ClientRequest::Subscribe { .. }]),
        "{requests:?}"
    );
    assert_eq!(harness.handed_over(), ["7"]);
    assert!(harness.client.wants_read());
    assert_eq!(harness.routing.local_subscriptions(), 2);
    // What is read later has marks of its own, and those of before are not taken for them.
    harness.send(subscribe(3, &[("c", ZERO)]));
    assert_eq!(harness.marks, [1, 2]);
    harness.event(ClientEvent::Marked(1));
    assert_eq!(harness.requests().len(), 0);
    harness.event(ClientEvent::Marked(2));
    assert_eq!(harness.requests().len(), 1);
}

#[test]
fn only_subscriptions_that_take_directly_wait_for_marks() {
    let mut harness = Harness::durable();
    harness.peers_answer = false;
    harness.send(subscribe(1, &[("a", ONE), ("$share/g/a", ZERO)]));
    assert_eq!((harness.requests().len(), harness.marks.len()), (1, 0));
    harness.send(subscribe(2, &[("a", ONE), ("b", ZERO)]));
    assert_eq!((harness.requests().len(), harness.marks.len()), (0, 1));
}

#[test]
fn subscription_goes_without_answers_after_a_while() {
    let mut harness = Harness::transient();
    harness.peers_answer = false;
    harness.send(subscribe(1, &[("a", ONE)]));
    harness.now += MARKS_WAIT_MAX - Duration::from_millis(1);
    harness.timeout();
    assert_eq!(harness.requests().len(), 0);
    assert_eq!(harness.client.poll_timeout(), Some(harness.now + Duration::from_millis(1)));
    harness.now += Duration::from_millis(1);
    harness.timeout();
    assert_eq!(harness.requests().len(), 1);
    assert_eq!(harness.client.poll_timeout(), None);
    harness.event(ClientEvent::Marked(1));
    assert_eq!(harness.requests().len(), 0, "an answer that comes later is for nobody");
}

#[test]
fn connection_that_ends_while_its_subscription_waits_ends_in_order() {
    let mut harness = Harness::transient();
    harness.peers_answer = false;
    harness.send_all(&[subscribe(1, &[("a", ONE)]), publish_1("b", 7)]);
    harness.routing.mark(OWNER.conn, 1, [NodeId(2)].into());
    harness.eof();
    assert!(harness.client.has_work(), "the message goes out without waiting");
    harness.timeout();
    assert_eq!(harness.handed_over().len() + harness.out.forwards.len(), 0, "nobody takes it");
    assert!(harness.client.is_closed());
    assert!(matches!(harness.requests().last(), Some(ClientRequest::Closed { .. })));
    assert_eq!(harness.routing.local_subscriptions(), 0);
    assert_eq!(harness.routing.unanswered(None).count(), 0, "its marks are forgotten");
}
