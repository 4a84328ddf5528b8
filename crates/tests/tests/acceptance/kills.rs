//! Nodes are killed under load: one after another, and all at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::audit::Who;
use quorate_tests::load::{Load, Shape};
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, let_pass, pause, wait_for};

use crate::{collect, offline_session};

/// Fails with the log in view when a load broke a promise.
fn assert_sound(load: &Load, cluster: &Cluster) {
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}\n{}", load.audit().summary());
    cluster.check_log().unwrap();
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn audit_with_an_independent_client() {
    let mut cluster = Cluster::start("audit", 3).unwrap();
    let shape = Shape { publishers: 6, subscribers: 3, by_hand: 0, rate: 200, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "audit", shape).unwrap();
    let start = Instant::now();
    load.wait_progress(500).unwrap();
    for _round in 0..3 {
        for node in 0..3 {
            cluster.kill(node).unwrap();
            load.wait_progress(200).unwrap();
            let_pass(Duration::from_secs(2));
            cluster.restart(node).unwrap();
            cluster.wait_ready(node).unwrap();
            load.wait_progress(200).unwrap();
            let_pass(Duration::from_secs(2));
        }
    }
    let_pass(Duration::from_secs(60).saturating_sub(start.elapsed()));
    let elapsed = start.elapsed();
    load.end().unwrap();
    load.drain().unwrap();
    assert_sound(&load, &cluster);
    let moved = |who| load.audit().connections(who) > 1;
    assert!((0..shape.subscribers).all(|index| moved(Who::Subscriber(index))), "a subscriber saw no fault");
    assert!((0..shape.publishers).all(|index| moved(Who::Publisher(index))), "a publisher saw no fault");
    println!(
        "audit_with_an_independent_client: 9 kills in {} s, {}",
        elapsed.as_secs(),
        load.audit().summary()
    );
}

/// Rounds of killing all nodes.
const ROUNDS: usize = 3;

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn kill_of_all_three_under_load() {
    let mut cluster = Cluster::start("kill-all-load", 3).unwrap();
    offline_session(cluster.node(1).mqtt_port, "all-offline", "all/#");
    let transient = Connect { clean: true, expiry_s: 0, ..Connect::durable("all-transient") };
    let _held = Raw::connect(cluster.node(2).mqtt_port, &transient).unwrap();
    let shape = Shape { publishers: 4, subscribers: 2, by_hand: 1, rate: 200, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "all", shape).unwrap();
    let mut probed = 0;
    let mut longest_start = Duration::ZERO;
    for round in 0..ROUNDS {
        // Each has deliveries waiting when it comes back, which a node must not send before CONNACK.
        let probes: Vec<String> = (0..3).map(|node| format!("all-probe-{round}-{node}")).collect();
        for (node, probe) in probes.iter().enumerate() {
            offline_session(cluster.node(node).mqtt_port, probe, "all/#");
        }
        load.wait_progress(300).unwrap();
        let_pass(Duration::from_secs(3));
        cluster.kill_all().unwrap();
        let killed = Instant::now();
        for node in 0..3 {
            cluster.restart(node).unwrap();
        }
        let stop = AtomicBool::new(false);
        probed += std::thread::scope(|scope| {
            let stop = &stop;
            // Also when something fails: a scope waits for its threads.
            let stopper = StopOnDrop(stop);
            let probers: Vec<_> = probes
                .iter()
                .zip(cluster.ports_from(round))
                .map(|(probe, port)| scope.spawn(move || probe_until(stop, probe, port)))
                .collect();
            for node in 0..3 {
                cluster.wait_ready(node).unwrap();
            }
            longest_start = longest_start.max(killed.elapsed());
            load.wait_progress(200).unwrap();
            drop(stopper);
            probers.into_iter().map(|prober| prober.join().unwrap()).sum::<u32>()
        });
        let port = cluster.node(round % 3).mqtt_port;
        let (_raw, present) = Raw::connect(port, &Connect::durable("all-transient")).unwrap();
        assert_eq!(
            present,
            round > 0,
            "a transient session ends with its node, the durable one after it does not"
        );
        let (_raw, present) = Raw::connect(port, &Connect::durable(&format!("all-new-{round}"))).unwrap();
        assert!(!present, "a session that never was is present");
        let_pass(Duration::from_secs(2));
    }
    load.end().unwrap();
    load.drain().unwrap();
    let (mut raw, present) =
        Raw::connect(cluster.node(2).mqtt_port, &Connect::durable("all-offline")).unwrap();
    load.audit().connected(Who::Subscriber(2), false);
    load.audit().connected(Who::Subscriber(2), present);
    while load.audit().missing(2) > 0 {
        let publish = raw.receive().unwrap();
        load.audit().received(2, &publish.payload);
    }
    assert_sound(&load, &cluster);
    println!(
        "kill_of_all_three_under_load: {ROUNDS} times all killed, ready again after at most {} ms, {probed} reconnects \
         with CONNACK first, {}",
        longest_start.as_millis(),
        load.audit().summary()
    );
}

/// Tells the probers to stop.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects over and over from the moment a node starts; the first packet must be CONNACK, which `Raw::connect` sees to.
/// Gives how often it got in.
fn probe_until(stop: &AtomicBool, client_id: &str, port: u16) -> u32 {
    let mut connected = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Ok((mut raw, present)) = Raw::connect(port, &Connect::durable(client_id)) {
            connected += 1;
            assert!(present, "Session Present of {client_id} on connection {connected}");
            // Something was waiting for it since before the kill.
            let publish = raw.receive().unwrap();
            assert!(Message::decode(&publish.payload).is_some(), "damaged payload");
        }
        pause();
    }
    assert!(connected > 0, "{client_id} never got in");
    connected
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn offline_session_collects_before_and_after_kill_of_all_three() {
    let mut cluster = Cluster::start("offline-collects", 3).unwrap();
    offline_session(cluster.node(0).mqtt_port, "collector", "collect");
    let mut sequence = 0;
    for restarts in 0..=3 {
        let (mut raw, _) =
            Raw::connect(cluster.node(restarts % 3).mqtt_port, &Connect::transient("collect-pub")).unwrap();
        for _ in 0..1000 {
            let payload = Message { publisher: 0, sequence }.encode(128);
            raw.publish_acked("collect", &payload, false).unwrap();
            sequence += 1;
        }
        if restarts < 3 {
            cluster.kill_all().unwrap();
            for node in 0..3 {
                cluster.restart(node).unwrap();
            }
            for node in 0..3 {
                cluster.wait_ready(node).unwrap();
            }
        }
    }
    let counts = collect(cluster.node(1).mqtt_port, "collector", |counts| counts.len() as u64 == sequence);
    let duplicates: u32 = counts.values().map(|count| count - 1).sum();
    assert_eq!(duplicates, 0, "an unbroken connection gets each message once");
    wait_for("the queue to be empty", || {
        cluster.state(0, false).ok().filter(|state| state.totals.queued_messages == 0)
    })
    .unwrap();
    cluster.check_log().unwrap();
    println!("offline_session_collects_before_and_after_kill_of_all_three: {sequence} messages over 3 kills");
}
