//! Wills of clients whose node is killed: each exactly once, at a durable and at a transient subscriber.

use std::collections::BTreeMap;
use std::time::Instant;

use quorate_tests::raw::{Connect, Raw, Will};
use quorate_tests::{Cluster, DEADLINE};

/// How often a node is killed; `QUORATE_WILL_KILLS` says otherwise.
const KILLS: usize = 200;

/// Clients that die with each node, and clients of it that said DISCONNECT before.
const DYING: usize = 5;

fn kills() -> usize {
    std::env::var("QUORATE_WILL_KILLS").map_or(KILLS, |count| count.parse().expect("a number of kills"))
}

/// Receives until every one of these wills has come; counts what came.
fn receive(raw: &mut Raw, counts: &mut BTreeMap<String, u32>, expected: &[String], who: &str) {
    let start = Instant::now();
    while expected.iter().any(|will| !counts.contains_key(will)) {
        assert!(start.elapsed() < DEADLINE, "{who} misses wills of {expected:?}: {counts:?}");
        let publish = raw.receive().unwrap();
        *counts.entry(String::from_utf8(publish.payload).unwrap()).or_default() += 1;
    }
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn wills_of_killed_nodes_come_exactly_once() {
    let mut cluster = Cluster::start("wills", 3).unwrap();
    let start = Instant::now();
    let (kills, mut sent) = (kills(), 0);
    for round in 0..kills {
        let victim = round % 3;
        let [durable, transient] =
            [(victim + 1) % 3, (victim + 2) % 3].map(|place| cluster.node(place).mqtt_port);
        let filter = format!("will/{round}/#");
        let (mut lasting, _) = Raw::connect(durable, &Connect::durable(&format!("lasting-{round}"))).unwrap();
        let (mut passing, _) =
            Raw::connect(transient, &Connect::transient(&format!("passing-{round}"))).unwrap();
        lasting.subscribe(&filter).unwrap();
        passing.subscribe(&filter).unwrap();
        let port = cluster.node(victim).mqtt_port;
        let mut held = Vec::new();
        let mut expected = Vec::new();
        for number in 0..DYING {
            for says_goodbye in [false, true] {
                let name = format!("{round}-{number}-{says_goodbye}");
                let will = Will {
                    topic: format!("will/{round}/{number}"),
                    payload: name.clone().into(),
                    delay_s: 0,
                };
                let connect = Connect { will: Some(will), ..Connect::transient(&name) };
                // Every other one has a session that goes on.
                let connect = if number % 2 == 0 { Connect { expiry_s: 60, ..connect } } else { connect };
                let (raw, _) = Raw::connect(port, &connect).unwrap();
                if says_goodbye {
                    raw.disconnect().unwrap();
                } else {
                    expected.push(name);
                    held.push(raw);
                }
            }
        }
        cluster.kill(victim).unwrap();
        sent += expected.len();
        let mut counts = [BTreeMap::new(), BTreeMap::new()];
        receive(&mut lasting, &mut counts[0], &expected, "the durable subscriber");
        receive(&mut passing, &mut counts[1], &expected, "the transient subscriber");
        cluster.restart(victim).unwrap();
        cluster.wait_ready(victim).unwrap();
        // A marker after the restart: what would have come twice, or too much, has come before it.
        let (mut marker, _) = Raw::connect(port, &Connect::transient(&format!("marker-{round}"))).unwrap();
        marker.publish_acked(&format!("will/{round}/marker"), b"marker", false).unwrap();
        for (raw, counts) in [&mut lasting, &mut passing].into_iter().zip(&mut counts) {
            receive(raw, counts, &["marker".to_owned()], "a subscriber");
            counts.remove("marker");
            let once: BTreeMap<String, u32> = expected.iter().map(|name| (name.clone(), 1)).collect();
            assert_eq!(*counts, once, "round {round}: each will exactly once, and no other");
        }
    }
    cluster.check_log().unwrap();
    println!(
        "wills_of_killed_nodes_come_exactly_once: {kills} kills in {} s, {sent} wills, each once at two subscribers",
        start.elapsed().as_secs()
    );
}
