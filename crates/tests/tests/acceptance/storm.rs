//! All clients of a cluster lose their connections at once and come back at once: all get in, with their sessions.

use std::fs;

use quorate_tests::{Cluster, wait_for};

/// Clients.
const CLIENTS: u64 = 10_000;

/// Open files that a process needs for them, and some more.
const FILES: u64 = CLIENTS + 1000;

/// Open files that a process may have at most.
fn files_max() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap_or(u64::MAX)
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn storm_of_reconnects_lets_everybody_in_with_its_session() {
    let test = "storm_of_reconnects_lets_everybody_in_with_its_session";
    if files_max() < FILES {
        return eprintln!("{test}: skipped, a process may not open {FILES} files here");
    }
    let cluster = Cluster::start("storm", 3).unwrap();
    let brokers: Vec<String> = cluster.ports_from(0).iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let brokers = brokers.join(",");
    // Limits of how fast connections may come stay at their defaults.
    let said = cluster
        .run(&format!("bench storm --persistent --connections {CLIENTS} --brokers {brokers} --output json"))
        .unwrap();
    let summary: serde_json::Value = serde_json::from_str(&said).unwrap();
    let storm = &summary["storm"];
    assert_eq!(storm["connections"], CLIENTS, "{said}");
    assert_eq!(storm["resumed"], CLIENTS, "{said}");
    for place in 0..3 {
        wait_for("the clients to be gone", || {
            let found = cluster.metric(place, "quorate_connections").ok()?;
            found.values().all(|count| *count == 0.0).then_some(())
        })
        .unwrap();
        cluster.wait_ready(place).unwrap();
    }
    cluster.check_log().unwrap();
    println!(
        "{test}: of {CLIENTS} clients half were back after {} ms, 99 of 100 after {}, all after {}; {} tries failed",
        storm["latency"]["p50_ms"], storm["latency"]["p99_ms"], storm["latency"]["max_ms"], storm["failures"],
    );
}
