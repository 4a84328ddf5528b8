//! Slow consumers and a slow follower: the others are not slowed down, and what is held for the slow is bounded.
//!
//! Rates are compared side by side on the same machine. A quarter of the rate beside the fast ones is far more than noise would take,
//! and far less than waiting for the slow would leave.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use quorate_tests::raw::{Connect, Raw};
use quorate_tests::relay::Relay;
use quorate_tests::{Cluster, pause, wait_at_most, wait_for};

/// Consumers that take nothing.
const STILL: usize = 40;

/// Consumers that take a little.
const SLOW: usize = 10;

/// A link of 1 Mbit/s.
const LINK_BYTES: u64 = 125_000;

/// Memory that a node may hold for the slow: mailboxes and queues of each consumer, or a link and what waits for it.
const HELD_BYTES_MAX: u64 = 1 << 30;

/// Deliveries in a second of a load on these brokers.
fn rate(cluster: &Cluster, load: &str, brokers: &[u16]) -> f64 {
    let brokers: Vec<String> = brokers.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let brokers = brokers.join(",");
    let said = cluster.run(&format!("bench {load} --brokers {brokers} --output json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&said).unwrap();
    summary["load"]["delivery_rate"].as_f64().unwrap()
}

/// Subscribes to all that a load publishes, then takes nothing, or 4 KiB of it every 20 ms.
fn consume(port: u16, name: &str, reads: bool, subscribed: impl FnOnce(), over: &AtomicBool) {
    let (mut raw, _) = Raw::connect(port, &Connect::transient(name)).unwrap();
    raw.subscribe("quorate/bench/#").unwrap();
    subscribed();
    while !over.load(Ordering::Relaxed) {
        if reads {
            let _one = raw.read_within(Duration::from_millis(20));
        }
        pause();
    }
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn slow_consumers_slow_nobody_else() {
    let test = "slow_consumers_slow_nobody_else";
    let cluster = Cluster::start("slow-consumers", 1).unwrap();
    let port = cluster.node(0).mqtt_port;
    let load = "fan-in --publishers 4 --subscribers 2 --qos 1 --payload 1000 --rate 8000 --duration 8s";
    let alone = rate(&cluster, load, &[port]);
    let before = cluster.node(0).resident_bytes().unwrap();
    let (over, ready) = (AtomicBool::new(false), AtomicUsize::new(0));
    let beside = thread::scope(|scope| {
        for number in 0..STILL + SLOW {
            let (over, ready) = (&over, &ready);
            scope.spawn(move || {
                let subscribed = || _ = ready.fetch_add(1, Ordering::Relaxed);
                consume(port, &format!("slow-{number}"), number >= STILL, subscribed, over);
            });
        }
        wait_for("the slow consumers", || (ready.load(Ordering::Relaxed) == STILL + SLOW).then_some(()))
            .unwrap();
        let beside = rate(&cluster, load, &[port]);
        over.store(true, Ordering::Relaxed);
        beside
    });
    let held = cluster.node(0).resident_bytes().unwrap().saturating_sub(before);
    let ratio = beside / alone;
    println!(
        "{test}: {alone:.0} deliveries/s alone, {beside:.0} beside {STILL} consumers that stand still and {SLOW} slow ones: {ratio:.2}; \
         {} MiB more resident",
        held >> 20
    );
    assert!(ratio > 0.25, "{ratio}");
    assert!(held < HELD_BYTES_MAX, "{held}");
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn slow_follower_slows_nobody_else_and_comes_back() {
    let test = "slow_follower_slows_nobody_else_and_comes_back";
    let mut cluster = Cluster::start("slow-follower", 3).unwrap();
    let config = std::fs::read_to_string(cluster.config_file(2)).unwrap();
    let peer =
        config.lines().skip_while(|line| *line != "[peer]").find_map(|line| line.strip_prefix("bind = "));
    let bind = peer.unwrap().trim_matches('"').to_owned();
    let port: u16 = bind.rsplit(':').next().unwrap().parse().unwrap();
    cluster.stop(2).unwrap();
    // The others dial it where they always did, and find the relay: it has the last of the names, so that they do dial it.
    let behind = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
    let relay = Relay::start(port, behind.port()).unwrap();
    let listens = format!("[peer]\nbind = \"{behind}\"\nadvertise = \"{bind}\"");
    let change = |text: String| text.replacen(&format!("[peer]\nbind = \"{bind}\""), &listens, 1);
    cluster.configure(2, change).unwrap();
    cluster.restart(2).unwrap();
    (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
    // A follower: what it leads would wait for its link.
    let moved = cluster.operate(0, &["cluster", "transfer", "--from", "n3"]).unwrap();
    assert!(moved.status.success(), "{moved:?}");

    let ports = [cluster.node(0).mqtt_port, cluster.node(1).mqtt_port];
    let load = "fan-in --publishers 4 --persistent --qos 1 --payload 1000 --rate 4000 --duration 8s";
    let fast = rate(&cluster, load, &ports);
    let before: u64 = (0..2).map(|place| cluster.node(place).resident_bytes().unwrap()).max().unwrap();
    relay.limit(LINK_BYTES);
    let slow = rate(&cluster, load, &ports);
    let lags =
        (0..2).flat_map(|place| cluster.metric(place, "quorate_group_replication_lag_entries").unwrap());
    let lag = lags.map(|(_, entries)| entries).fold(0.0, f64::max);
    assert!(lag >= 10.0, "the follower kept up: it was not slow");
    let after: u64 = (0..2).map(|place| cluster.node(place).resident_bytes().unwrap()).max().unwrap();
    let (ratio, held) = (slow / fast, after.saturating_sub(before));
    println!(
        "{test}: {fast:.0} deliveries/s, {slow:.0} with a follower at 1 Mbit/s, {lag} entries behind: {ratio:.2}; {} MiB more resident",
        held >> 20
    );
    assert!(ratio > 0.25, "{ratio}");
    assert!(held < HELD_BYTES_MAX, "{held}");
    relay.limit(0);
    wait_at_most(Duration::from_secs(120), "the follower to catch up", || {
        let hash = |place| {
            Some(
                cluster
                    .state(place, true)
                    .ok()?
                    .groups
                    .into_iter()
                    .map(|group| (group.id, group.applied, group.state_hash))
                    .collect::<Vec<_>>(),
            )
        };
        (hash(0)? == hash(2)?).then_some(())
    })
    .unwrap();
    cluster.check_log().unwrap();
}
