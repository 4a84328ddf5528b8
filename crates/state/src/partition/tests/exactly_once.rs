//! QoS 2: publishes in the home partition of their client, deliveries in two phases.

use super::*;
use crate::command::PublishTarget;
use crate::ids::GroupId;
use crate::limits::OUTBOX_MESSAGES_MAX;

const NEAR: GroupId = GroupId(5);
const FAR: GroupId = GroupId(6);

fn target(group: GroupId, store_retained: bool) -> PublishTarget {
    PublishTarget { group, store_retained, fan_out: !store_retained }
}

fn publish_once(held: Held, packet_id: u16, targets: &[PublishTarget], payload: &str) -> Command {
    let (session, epoch) = (held.session, held.epoch);
    let message = Message { qos: QoS::ExactlyOnce, ..message("t", payload) };
    Command::PublishOnce { session, epoch, packet_id: id(packet_id), targets: targets.to_vec(), message }
}

fn payloads(commands: &[Command]) -> Vec<String> {
    let all = commands.iter().map(|command| match command {
        Command::Publish { message, .. } => String::from_utf8(message.payload.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    });
    all.collect()
}

/// A subscriber of `t` with QoS 2.
fn subscriber(group: &mut Driven<Partition>, conn: u64) -> Held {
    let held = group.connect("s", conn);
    let mut filter = wanted("t");
    filter.options.qos = QoS::ExactlyOnce;
    group.subscribe(held, &[filter]);
    held
}

fn publish_2(payload: &str) -> Command {
    let message = Message { qos: QoS::ExactlyOnce, ..message("t", payload) };
    Command::Publish { message, store_retained: false, fan_out: true }
}

#[test]
fn publish_goes_to_every_target_once_however_often_it_comes() {
    let mut group = new();
    let held = group.connect("c", 1);
    let publish = publish_once(held, 7, &[target(NEAR, false), target(FAR, true)], "one");
    assert_eq!(replies(&group.one(publish.clone())), []);
    assert_eq!(replies(&group.one(publish.clone())), [Reply::Duplicate]);
    // The client comes back over another connection, and does not know whether it was heard.
    let again = group.connect("c", 2);
    let repeated = publish_once(again, 7, &[target(NEAR, false)], "one");
    assert_eq!(replies(&group.one(repeated)), [Reply::Duplicate]);
    let expected = Message { qos: QoS::ExactlyOnce, ..message("t", "one") };
    let near = Command::Publish { message: expected.clone(), store_retained: false, fan_out: true };
    let far = Command::Publish { message: expected, store_retained: true, fan_out: false };
    assert_eq!((group.outbox(NEAR), group.outbox(FAR)), (vec![near], vec![far]));
    group.machine.check();
    // Of the connection that lost the session nothing is taken.
    assert_eq!(replies(&group.one(publish)), [Reply::Fenced]);
    assert_eq!(replies(&group.release(held, 7)), [Reply::Fenced]);
}

#[test]
fn packet_id_is_free_after_release_and_the_next_message_is_a_new_one() {
    let mut group = new();
    let held = group.connect("c", 1);
    for payload in ["one", "two"] {
        assert_eq!(replies(&group.one(publish_once(held, 7, &[target(NEAR, false)], payload))), []);
        assert_eq!(replies(&group.release(held, 7)), []);
        assert_eq!(replies(&group.release(held, 7)), [Reply::NotFound]);
    }
    assert_eq!(payloads(&group.outbox(NEAR)), ["one", "two"]);
}

#[test]
fn body_is_needed_until_all_targets_have_it_and_no_longer() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.one(publish_once(held, 7, &[target(NEAR, false), target(FAR, false)], "one"));
    let index = group.machine.applied();
    assert!(group.machine.live(index));
    group.leader(LeaderCommand::OutboxApplied { to: NEAR, seq: StreamSeq(1) });
    assert!(group.machine.live(index));
    group.leader(LeaderCommand::OutboxApplied { to: FAR, seq: StreamSeq(1) });
    assert!(!group.machine.live(index), "a message that is never released keeps no body");
    group.machine.check();
}

#[test]
fn release_of_a_retained_message_waits_for_its_topics_partition() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.one(publish_once(held, 7, &[target(NEAR, false), target(FAR, true)], "one"));
    group.leader(LeaderCommand::OutboxApplied { to: NEAR, seq: StreamSeq(1) });
    assert_eq!(replies(&group.release(held, 7)), [Reply::Unsettled]);
    group.leader(LeaderCommand::OutboxApplied { to: FAR, seq: StreamSeq(1) });
    assert_eq!(replies(&group.release(held, 7)), []);
}

#[test]
fn publish_to_a_full_outbox_is_refused_whole() {
    let mut group = new();
    let held = group.connect("c", 1);
    for _ in 0..OUTBOX_MESSAGES_MAX / 1_000 {
        group.run(&std::array::from_fn::<_, 1_000, _>(|number| {
            publish_once(held, u16::try_from(number).unwrap() + 1, &[target(FAR, false)], "x")
        }));
        let releases = std::array::from_fn::<_, 1_000, _>(|number| Command::Release {
            session: held.session,
            epoch: held.epoch,
            packet_id: id(u16::try_from(number).unwrap() + 1),
        });
        group.run(&releases);
    }
    let effects = group.one(publish_once(held, 7, &[target(NEAR, false), target(FAR, false)], "one"));
    assert!(rejected(&effects));
    assert_eq!(group.outbox(NEAR), []);
    assert_eq!(replies(&group.release(held, 7)), [Reply::NotFound]);
    group.machine.check();
}

#[test]
fn session_that_ends_takes_its_packet_ids_along_and_leaves_its_messages() {
    let mut group = new();
    let held = group.connect("c", 1);
    group.one(publish_once(held, 7, &[target(NEAR, false)], "one"));
    group.one(Command::Purge { client_id: text("c") });
    assert_eq!(payloads(&group.outbox(NEAR)), ["one"], "what was acknowledged is not lost");
    let held = group.connect("c", 2);
    assert_eq!(replies(&group.release(held, 7)), [Reply::NotFound]);
    group.machine.check();
}

#[test]
fn delivery_has_no_body_after_receive_and_keeps_its_packet_id_until_acknowledged() {
    let mut group = new();
    let held = subscriber(&mut group, 1);
    let sent = deliveries(&group.one(publish_2("one")))[0];
    assert_eq!((sent.qos, sent.received, sent.dup), (QoS::ExactlyOnce, false, false));
    group.receive(held, &[1]);
    assert!(!group.machine.live(sent.message.index));
    assert_eq!(group.machine.counts().inflight, 1);
    group.machine.check();
    group.acknowledge(held, &[1]);
    assert_eq!(group.machine.counts().inflight, 0);
    group.machine.check();
}

#[test]
fn resumed_session_gets_publish_or_release_in_the_original_order() {
    let mut group = new();
    let held = subscriber(&mut group, 1);
    group.run(&[publish_2("one"), publish_2("two"), publish_2("three")]);
    group.receive(held, &[2]);
    let effects = group.one(connect("s", 2));
    let again: Vec<(u16, bool)> =
        deliveries(&effects).iter().map(|deliver| (deliver.packet_id.get(), deliver.received)).collect();
    assert_eq!(again, [(1, false), (2, true), (3, false)]);
    assert!(deliveries(&effects).iter().all(|deliver| deliver.dup));
    // The former connection's word does not count any more.
    assert_eq!(replies(&group.receive(held, &[1])), [Reply::Fenced]);
    group.machine.check();
}

#[test]
fn refusal_where_a_message_goes_is_counted_when_its_publisher_cannot_hear_of_it() {
    let mut group = with(|config| {
        config.overflow = Overflow::RejectPublisher;
        config.queue_messages_max = 1;
    });
    group.offline_subscriber("s");
    let publish = |payload| {
        let message = Message { qos: QoS::ExactlyOnce, ..message("t/1", payload) };
        Command::Publish { message, store_retained: false, fan_out: true }
    };
    let effects = group.run_from(StreamId::Group(FAR), &[publish("one"), publish("two")]);
    assert_eq!(drops(&effects), [(DropReason::RefusedLate, 1)]);
}
