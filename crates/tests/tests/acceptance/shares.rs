//! Share groups under kills: every acknowledged message is consumed by a member, and few by two.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use quorate_tests::client::options;
use quorate_tests::event_loop::{EventLoop, Seen};
use quorate_tests::load::{Load, Shape};
use quorate_tests::message::Message;
use quorate_tests::{Cluster, let_pass, wait_at_most, wait_for};
use rumqttc::{Client as Rumqtt, Event, Packet, QoS};

/// What the members of a group consumed between them.
#[derive(Default)]
struct Consumed {
    /// How often each message, by publisher and sequence.
    messages: BTreeMap<(u32, u64), u32>,
    /// Messages by member.
    members: Vec<u64>,
    /// Subscriptions by member: more than one when it came back with a new session.
    subscribed: Vec<u64>,
    damaged: u64,
}

const FILTER: &str = "$share/group/shared/#";

/// Messages that a member may have unacknowledged.
const WINDOW_MAX: u64 = 256;

/// A member at a node. It goes to the next node when its own is gone, and subscribes again when its session is.
fn member(cluster: &Cluster, index: usize, durable: bool, consumed: &Arc<Mutex<Consumed>>) -> EventLoop {
    let client_id = format!("member-{index}");
    let consumed = Arc::clone(consumed);
    let handle: Arc<OnceLock<Rumqtt>> = Arc::default();
    let own = Arc::clone(&handle);
    let events = EventLoop::start(
        cluster.ports_from(index % cluster.nodes.len()),
        move |port| options(&client_id, port, !durable, 100),
        move |seen| {
            let Seen::Event(Event::Incoming(packet)) = seen else { return };
            match packet {
                Packet::ConnAck(ack) if !ack.session_present => {
                    let rumqtt = own.wait();
                    rumqtt.try_subscribe(FILTER, QoS::AtLeastOnce).unwrap();
                }
                Packet::SubAck(_) => consumed.lock().unwrap().subscribed[index] += 1,
                Packet::Publish(publish) => {
                    let mut consumed = consumed.lock().unwrap();
                    consumed.members[index] += 1;
                    match Message::decode(&publish.payload) {
                        Some(message) => {
                            let key = (message.publisher, message.sequence);
                            *consumed.messages.entry(key).or_default() += 1;
                        }
                        None => consumed.damaged += 1,
                    }
                }
                _ => {}
            }
        },
    );
    let _only_here = handle.set(events.rumqtt().clone());
    events
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn share_group_consumes_everything_while_its_members_nodes_die() {
    let mut cluster = Cluster::start("shares", 3).unwrap();
    let consumed =
        Arc::new(Mutex::new(Consumed { members: vec![0; 6], subscribed: vec![0; 6], ..Consumed::default() }));
    // On each node a durable member and a transient one.
    let members: Vec<EventLoop> = (0..6).map(|index| member(&cluster, index, index < 3, &consumed)).collect();
    wait_for("SUBACKs", || consumed.lock().unwrap().subscribed.iter().all(|count| *count > 0).then_some(()))
        .unwrap();
    let shape = Shape { publishers: 4, subscribers: 0, by_hand: 0, rate: 200, payload_bytes: 128 };
    let mut load = Load::start(&cluster, "shared", shape).unwrap();
    load.wait_progress(300).unwrap();
    assert!(consumed.lock().unwrap().members.iter().all(|count| *count > 0), "a member without a message");
    let mut kills = 0;
    for _round in 0..2 {
        for node in 0..3 {
            cluster.kill(node).unwrap();
            kills += 1;
            load.wait_progress(300).unwrap();
            let_pass(Duration::from_secs(2));
            cluster.restart(node).unwrap();
            cluster.wait_ready(node).unwrap();
            load.wait_progress(200).unwrap();
        }
    }
    load.end().unwrap();
    let published: Vec<u64> = (0..4).map(|index| load.audit().acked_count_of(index)).collect();
    let total: u64 = published.iter().sum();
    wait_at_most(Duration::from_secs(60), "all to be consumed", || {
        (consumed.lock().unwrap().messages.len() as u64 >= total).then_some(())
    })
    .unwrap_or_else(|error| {
        let consumed = consumed.lock().unwrap();
        let missing: Vec<(u32, u64)> = (0..4_u32)
            .flat_map(|publisher| {
                (0..published[publisher as usize]).map(move |sequence| (publisher, sequence))
            })
            .filter(|key| !consumed.messages.contains_key(key))
            .take(10)
            .collect();
        panic!("{error:#}: of {total}, {} came; missing {missing:?}", consumed.messages.len());
    });
    drop(members);
    let consumed = consumed.lock().unwrap();
    let duplicates: u64 = consumed.messages.values().map(|count| u64::from(*count) - 1).sum();
    assert_eq!(consumed.damaged, 0);
    // With each kill the members on that node were lost, at most all.
    assert!(duplicates <= kills * 6 * WINDOW_MAX, "{duplicates} duplicates after {kills} kills");
    cluster.check_log().unwrap();
    println!(
        "share_group_consumes_everything_while_its_members_nodes_die: {total} messages, {kills} kills, {duplicates} \
         duplicates, by member {:?}",
        consumed.members
    );
}
