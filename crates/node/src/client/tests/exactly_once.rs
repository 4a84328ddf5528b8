//! QoS 2, both ways, of durable and transient sessions.

use super::publish::{asked, durable_route, numbers, transient_route};
use super::*;

const TWO: QoS = QoS::ExactlyOnce;

fn publish_2(name: &str, packet_id: u16) -> Packet {
    Packet::Publish(publish(name, PublishQoS::ExactlyOnce(id(packet_id)), &packet_id.to_string()))
}

fn failed(packet_id: u16, reason: ReasonCode) -> Ack {
    Ack { reason, ..ack(packet_id) }
}

fn outcome(harness: &mut Harness, number: PublishNumber, outcome: PublishOutcome) {
    harness.event(ClientEvent::PublishApplied { number: Durable::committed(number), outcome });
}

/// Number, group and decoded command of the only publish asked for, and whether it has direct receivers.
fn asked_once(harness: &mut Harness) -> (PublishNumber, GroupId, Command, bool) {
    match <[ClientRequest; 1]>::try_from(harness.requests()) {
        Ok([ClientRequest::PublishOnce { number, group, mut command, direct }]) => {
            (number, group, Command::decode(&mut command).unwrap(), direct.is_some())
        }
        other => panic!("{other:?}"),
    }
}

fn delivery_2(packet_id: u16, received: bool) -> SessionDelivery {
    let message = (!received).then(|| message("t", TWO, &packet_id.to_string()));
    SessionDelivery { qos: TWO, message, ..session_delivery(packet_id, "") }
}

#[test]
fn publish_of_a_durable_session_goes_to_its_home_with_all_targets() {
    let mut harness = Harness::durable();
    durable_route(&mut harness, "a", 2);
    durable_route(&mut harness, "#", 3);
    transient_route(&mut harness, "a");
    harness.send(publish_2("a", 10));
    let (number, home, command, direct) = asked_once(&mut harness);
    let Command::PublishOnce { session, epoch, packet_id, targets, message } = command else {
        panic!("{command:?}")
    };
    assert_eq!((number, home, session, epoch, packet_id), (1, GroupId(1), SessionId(1), Epoch(1), id(10)));
    assert!(direct, "the node hands it over");
    let groups: Vec<u32> = targets.iter().map(|target| target.group.0).collect();
    assert_eq!((groups, message.qos), (vec![2, 3], TWO));
    assert_eq!(harness.received(), []);
    harness.applied(1);
    assert_eq!(harness.received(), [Packet::PubRec(ack(10))]);
    assert!(harness.out.direct.is_empty() && harness.out.forwards.is_empty());
}

#[test]
fn publish_that_was_applied_before_is_acknowledged() {
    let mut harness = Harness::durable();
    harness.send(publish_2("a", 10));
    let (_, home, _, direct) = asked_once(&mut harness);
    assert_eq!((home, direct), (GroupId(1), false), "its packet identifier is kept even if nobody wants it");
    outcome(&mut harness, 1, PublishOutcome::Duplicate);
    let unmatched = failed(10, ReasonCode::NO_MATCHING_SUBSCRIBERS);
    assert_eq!(harness.received(), [Packet::PubRec(unmatched)]);
}

#[test]
fn release_of_a_durable_session_is_completed_when_its_home_has_applied_it() {
    let mut harness = Harness::durable();
    for found in [true, false] {
        harness.send(Packet::PubRel(ack(10)));
        assert!(
            matches!(harness.requests()[..], [ClientRequest::Release { packet_id }] if packet_id == id(10))
        );
        assert_eq!(harness.received(), []);
        harness.event(ClientEvent::Released { packet_id: Durable::committed(id(10)), found });
        let reason = if found { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
        assert_eq!(harness.received(), [Packet::PubComp(failed(10, reason))]);
    }
}

#[test]
fn pubcomp_waits_for_the_lease() {
    let mut harness = Harness::durable();
    harness.send(Packet::PubRel(ack(10)));
    harness.lose_lease();
    harness.event(ClientEvent::Released { packet_id: Durable::committed(id(10)), found: true });
    assert_eq!(harness.received(), []);
    harness.regain_lease();
    harness.timeout();
    assert_eq!(harness.received(), [Packet::PubComp(ack(10))]);
}

#[test]
fn publish_of_a_transient_session_goes_to_its_targets_and_repeats_are_known_here() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 2);
    transient_route(&mut harness, "a");
    harness.send_all(&[publish_2("a", 10), publish_2("a", 10)]);
    let publishes = asked(&mut harness);
    assert!(
        matches!(&publishes[..], [(1, commands)] if matches!(commands[..], [(GroupId(2), Command::Publish { .. })]))
    );
    harness.applied(1);
    assert_eq!(harness.received(), [Packet::PubRec(ack(10)), Packet::PubRec(ack(10))]);
    assert_eq!(harness.handed_over(), ["10"]);
    harness.send_all(&[Packet::PubRel(ack(10)), Packet::PubRel(ack(10))]);
    let unknown = failed(10, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
    assert_eq!(harness.received(), [Packet::PubComp(ack(10)), Packet::PubComp(unknown)]);
    harness.send(publish_2("a", 10));
    assert_eq!(numbers(&mut harness), [3], "a new message");
}

#[test]
fn repeat_of_a_publish_that_is_refused_is_not_acknowledged_with_success() {
    let mut harness = Harness::transient();
    durable_route(&mut harness, "a", 2);
    harness.send_all(&[publish_2("a", 10), publish_2("a", 10)]);
    outcome(&mut harness, 1, PublishOutcome::Rejected(ReasonCode::QUOTA_EXCEEDED));
    let [first, second] = [ReasonCode::QUOTA_EXCEEDED, ReasonCode::UNSPECIFIED_ERROR];
    assert_eq!(harness.received(), [Packet::PubRec(failed(10, first)), Packet::PubRec(failed(10, second))]);
}

#[test]
fn pubrel_to_a_durable_session_waits_until_its_receipt_is_durable() {
    let mut harness = Harness::durable();
    harness.event(ClientEvent::Deliver(delivery_2(1, false)));
    harness.event(ClientEvent::Deliver(delivery_2(2, false)));
    assert_eq!(harness.publishes().len(), 2);
    harness.send_all(&[Packet::PubRec(ack(1)), Packet::PubRec(ack(2))]);
    let requests = harness.requests();
    let [ClientRequest::Received { packet_ids }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&packet_ids[..], harness.received()), (&[id(1), id(2)][..], vec![]));
    harness.event(ClientEvent::Received { packet_ids: Durable::committed(vec![id(1), id(2)]) });
    assert_eq!(harness.received(), [Packet::PubRel(ack(1)), Packet::PubRel(ack(2))]);
    harness.send(Packet::PubComp(ack(1)));
    assert!(
        matches!(&harness.requests()[..], [ClientRequest::Acknowledged { packet_ids }] if packet_ids[..] == [id(1)])
    );
}

#[test]
fn message_received_on_an_earlier_connection_is_only_released() {
    let mut harness = Harness::durable();
    harness.event(ClientEvent::Deliver(delivery_2(1, true)));
    assert_eq!(harness.received(), [Packet::PubRel(ack(1))]);
    harness.send(Packet::PubComp(ack(1)));
    assert!(matches!(harness.requests()[..], [ClientRequest::Acknowledged { .. }]));
}

#[test]
fn delivery_to_a_transient_session_is_released_at_once() {
    let mut harness = Harness::transient();
    harness.direct(delivery(TWO, "x"));
    let [sent] = &harness.publishes()[..] else { panic!() };
    assert_eq!(sent.qos, PublishQoS::ExactlyOnce(id(1)));
    harness.send(Packet::PubRec(ack(1)));
    assert_eq!(harness.received(), [Packet::PubRel(ack(1))]);
    harness.send(Packet::PubComp(ack(1)));
    assert!(harness.requests().is_empty());
    harness.direct(delivery(TWO, "y"));
    assert_eq!(harness.publishes().len(), 1);
}

#[test]
fn without_room_a_message_that_may_have_been_taken_before_is_not_refused() {
    let repeated = |packet_id: u16| match publish_2("a", packet_id) {
        Packet::Publish(publish) => Packet::Publish(Publish { dup: true, ..publish }),
        other => other,
    };
    let mut harness = Harness::durable();
    durable_route(&mut harness, "a", 2);
    harness.intake = Intake::Closed;
    harness.send(publish_2("a", 10));
    assert_eq!(harness.received(), [Packet::PubRec(failed(10, ReasonCode::QUOTA_EXCEEDED))]);
    // Its home knows whether it has it.
    harness.send(repeated(11));
    let (number, ..) = asked_once(&mut harness);
    outcome(&mut harness, number, PublishOutcome::Duplicate);
    assert_eq!(harness.received(), [Packet::PubRec(ack(11))]);
    harness.send(Packet::PubRel(ack(11)));
    assert!(matches!(harness.requests()[..], [ClientRequest::Release { .. }]));
}
