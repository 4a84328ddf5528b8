//! A backup of a cluster under load, restored into an empty one: every queue is the beginning of what was published, with
//! all that was acknowledged before the backup began; wills, retained messages and share groups likewise.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use quorate_tests::client::options;
use quorate_tests::event_loop::{EventLoop, Seen};
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Raw, Will};
use quorate_tests::{Cluster, binary, http, wait_for};
use rumqttc::{Event, Packet, QoS};

use crate::offline_session;

/// Durable sessions without a connection: they get everything.
const OFFLINE: usize = 40;

/// Publishers with a durable session: half of them with QoS 1, half with QoS 2.
const PUBLISHERS: usize = 4;

/// Members of a share group, online.
const MEMBERS: usize = 3;

/// Clients with a will, online when the cluster is lost.
const DYING: usize = 12;

/// Topics whose retained message changes all the time.
const RETAINED: usize = 8;

/// Messages acknowledged to each publisher before the backup.
const BEFORE: u64 = 300;

const PAYLOAD_BYTES: usize = 120;

/// A publisher that sends the next message when the one before is acknowledged.
struct Publisher {
    sent: Arc<AtomicU64>,
    acked: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

/// Publishes until told to stop; gives messages acknowledged and sent, counted by publisher.
fn publisher(cluster: &Cluster, index: usize, stop: &Arc<AtomicBool>) -> Publisher {
    let (sent, acked) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let qos = if index.is_multiple_of(2) { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
    let noted = Arc::clone(&acked);
    let events = EventLoop::start(
        cluster.ports_from(index % cluster.nodes.len()),
        move |port| options(&format!("publisher-{index}"), port, false, 10),
        move |seen| {
            if let Seen::Event(Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_))) = seen {
                noted.fetch_add(1, Ordering::SeqCst);
            }
        },
    );
    let (stop, counted, done) = (Arc::clone(stop), Arc::clone(&sent), Arc::clone(&acked));
    let thread = std::thread::spawn(move || {
        for sequence in 0.. {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let message = Message { publisher: index as u32, sequence }.encode(PAYLOAD_BYTES);
            counted.fetch_add(1, Ordering::SeqCst);
            // What is shared, and what is retained, goes the same way.
            let topic = match sequence % 4 {
                3 => format!("load/{index}/retained/{}", index % RETAINED),
                _ => format!("load/{index}"),
            };
            events.rumqtt().publish(topic, qos, sequence % 4 == 3, message).unwrap();
            while done.load(Ordering::SeqCst) <= sequence && !stop.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    });
    Publisher { sent, acked, thread }
}

/// How often members of the share group got each message.
type Consumed = Arc<Mutex<BTreeMap<(u32, u64), u32>>>;

fn member(cluster: &Cluster, index: usize, consumed: &Consumed) -> EventLoop {
    let consumed = Arc::clone(consumed);
    EventLoop::start(
        cluster.ports_from(index % cluster.nodes.len()),
        move |port| options(&format!("member-{index}"), port, false, 100),
        move |seen| {
            if let Seen::Event(Event::Incoming(Packet::Publish(publish))) = seen {
                let message = Message::decode(&publish.payload).expect("an intact payload");
                *consumed.lock().unwrap().entry((message.publisher, message.sequence)).or_default() += 1;
            }
        },
    )
}

/// Runs a command of the program to its end; gives what it printed.
pub(crate) fn quorate(words: &[&str]) -> String {
    let output = Command::new(binary().unwrap()).args(words).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "quorate {words:?}: {} {told}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Everything that a session has, up to the message that was published last: sequences by publisher, in order of arrival.
fn drained(port: u16, client_id: &str, end: &[u8]) -> BTreeMap<u32, Vec<u64>> {
    let (mut raw, present) = Raw::connect(port, &Connect::durable(client_id)).unwrap();
    assert!(present, "Session Present of {client_id}");
    let mut arrived: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    loop {
        let publish = raw.receive().unwrap();
        if publish.payload == end {
            raw.disconnect().unwrap();
            return arrived;
        }
        let message = Message::decode(&publish.payload).expect("an intact payload");
        arrived.entry(message.publisher).or_default().push(message.sequence);
    }
}

/// What a backup says that it holds.
fn counts(file: &Path) -> serde_json::Value {
    let told = quorate(&["restore", text(file), "--check", "--output", "json"]);
    serde_json::from_str(&told).unwrap()
}

/// Takes all nodes for good and puts a backup in their place.
fn restore_all(cluster: &mut Cluster, file: &Path) {
    cluster.kill_all().unwrap();
    for place in 0..cluster.nodes.len() {
        cluster.wipe(place).unwrap();
        quorate(&["restore", text(file), "--config", text(&cluster.config_file(place))]);
    }
    for place in 0..cluster.nodes.len() {
        cluster.restart(place).unwrap();
    }
    for node in &cluster.nodes {
        wait_for("the restored node to be ready", || {
            let answer = http::request(&node.admin, "GET /readyz", &[], "");
            answer.ok().filter(|answer| answer.status == 200).map(|_| ())
        })
        .unwrap();
    }
}

#[test]
#[ignore = "minutes of real processes"]
fn backup_of_a_loaded_cluster_restores_all_that_was_acknowledged() {
    let mut cluster = Cluster::start("backup", 3).unwrap();
    for index in 0..OFFLINE {
        offline_session(cluster.node(index % 3).mqtt_port, &format!("offline-{index}"), "load/#");
    }
    offline_session(cluster.node(0).mqtt_port, "heirs", "will/#");
    let before: Consumed = Arc::default();
    let mut members = Vec::new();
    for index in 0..MEMBERS {
        let events = member(&cluster, index, &before);
        events.rumqtt().subscribe("$share/group/load/#", QoS::AtLeastOnce).unwrap();
        members.push(events);
    }
    let dying: Vec<Raw> = (0..DYING)
        .map(|index| {
            let topic = format!("will/{index}");
            let will = Will { topic, payload: vec![index as u8], delay_s: 0 };
            let connect = Connect { will: Some(will), ..Connect::durable(&format!("dying-{index}")) };
            Raw::connect(cluster.node(index % 3).mqtt_port, &connect).unwrap().0
        })
        .collect();
    let stop = Arc::<AtomicBool>::default();
    let publishers: Vec<Publisher> = (0..PUBLISHERS).map(|index| publisher(&cluster, index, &stop)).collect();
    let all = |counter: &dyn Fn(&Publisher) -> u64| publishers.iter().map(counter).collect::<Vec<u64>>();
    let acked = |publisher: &Publisher| publisher.acked.load(Ordering::SeqCst);
    let sent = |publisher: &Publisher| publisher.sent.load(Ordering::SeqCst);
    wait_for("messages before the backup", || all(&acked).iter().all(|count| *count >= BEFORE).then_some(()))
        .unwrap();

    let file = cluster.dir().join("loaded.backup");
    let least = all(&acked);
    let begun = Instant::now();
    let told = quorate(&["backup", text(&file), "--admin", &format!("http://{}", cluster.node(1).admin)]);
    let took = begun.elapsed();
    let most = all(&sent);
    wait_for("messages after the backup", || {
        all(&acked).iter().zip(&most).all(|(acked, most)| *acked > most + 50).then_some(())
    })
    .unwrap();

    stop.store(true, Ordering::SeqCst);
    restore_all(&mut cluster, &file);
    for publisher in publishers {
        publisher.thread.join().unwrap();
    }
    drop((members, dying));
    let original = counts(&file);
    let again = cluster.dir().join("again.backup");
    wait_for("all connections of the lost cluster to be over", || {
        quorate(&[
            "backup",
            text(&again),
            "--force",
            "--admin",
            &format!("http://{}", cluster.node(2).admin),
        ]);
        let restored = counts(&again);
        let same = ["sessions", "subscriptions", "retained", "share_groups"];
        for what in same {
            assert_eq!(restored.get(what), original.get(what), "{what}");
        }
        // The wills of lost connections are published: each is one more message for who waits for them.
        restored.get("wills_due").and_then(serde_json::Value::as_u64).filter(|wills| *wills == 0).map(|_| ())
    })
    .unwrap();

    let (mut raw, _) = Raw::connect(cluster.node(0).mqtt_port, &Connect::durable("last")).unwrap();
    raw.publish_acked("load/end", b"end", false).unwrap();
    raw.publish_acked("will/end", b"end", false).unwrap();
    raw.disconnect().unwrap();
    let mut longest = 0;
    for index in 0..OFFLINE {
        let arrived = drained(cluster.node(index % 3).mqtt_port, &format!("offline-{index}"), b"end");
        for (publisher, (least, most)) in least.iter().zip(&most).enumerate() {
            let got = arrived.get(&(publisher as u32)).cloned().unwrap_or_default();
            let whole: Vec<u64> = (0..got.len() as u64).collect();
            assert_eq!(
                got, whole,
                "offline-{index} has messages of publisher {publisher} in order, without gaps or copies"
            );
            let count = got.len() as u64;
            assert!(
                (*least..=*most).contains(&count),
                "offline-{index}, {publisher}: {count} of {least} to {most}"
            );
            longest = longest.max(count - least);
        }
    }
    let mut wills = drained_wills(cluster.node(1).mqtt_port);
    wills.sort_unstable();
    assert_eq!(wills, (0..DYING as u8).collect::<Vec<_>>(), "each will once");

    let after: Consumed = Arc::default();
    let members: Vec<EventLoop> = (0..MEMBERS).map(|index| member(&cluster, index, &after)).collect();
    wait_for("the share group to have everything", || {
        let (before, after) = (before.lock().unwrap(), after.lock().unwrap());
        let had = |publisher: u32, sequence: u64| {
            before.contains_key(&(publisher, sequence)) || after.contains_key(&(publisher, sequence))
        };
        let whole =
            |(publisher, least): (usize, &u64)| (0..*least).all(|sequence| had(publisher as u32, sequence));
        least.iter().enumerate().all(whole).then_some(())
    })
    .unwrap();
    let copies = after.lock().unwrap().values().filter(|copies| **copies > 1).count();
    assert_eq!(copies, 0, "the restored share group delivers each message once");
    drop(members);
    println!(
        "backup under load: {} ({} ms), {OFFLINE} queues of {PUBLISHERS} publishers without a gap or copy, up to {longest} \
         messages acknowledged while it was taken; {DYING} wills once; share group whole",
        told.trim(),
        took.as_millis(),
    );
}

fn drained_wills(port: u16) -> Vec<u8> {
    let (mut raw, _) = Raw::connect(port, &Connect::durable("heirs")).unwrap();
    let mut wills = Vec::new();
    loop {
        let publish = raw.receive().unwrap();
        if publish.payload == b"end" {
            return wills;
        }
        wills.extend(publish.payload);
    }
}
