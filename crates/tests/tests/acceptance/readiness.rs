//! Clauses of `/readyz` fail one after the other, each by a real cause, while `/livez` stays 200.
//!
//! Not here, because a test cannot bring them about from outside without a machine of its own: a silent worker, a hung or full
//! disk, a listener that cannot accept. Unit tests of the server hold those.

use std::collections::BTreeSet;

use quorate_api::Readiness;
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, binary, wait_for};

fn failed_clauses(cluster: &Cluster, place: usize) -> (u16, BTreeSet<String>) {
    let (status, body) = cluster.get(place, "/readyz").unwrap();
    let readiness: Readiness = serde_json::from_str(&body).unwrap();
    (status, readiness.failed().map(|clause| clause.name.clone()).collect())
}

/// Waits until these clauses fail, all of them; `/livez` is 200 all the time.
fn wait_failed(cluster: &Cluster, place: usize, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} to fail"), || {
        assert_eq!(cluster.get(place, "/livez").unwrap().0, 200, "/livez");
        let (status, failed) = failed_clauses(cluster, place);
        assert_eq!(status == 200, failed.is_empty(), "{status}: {failed:?}");
        wanted.iter().all(|clause| failed.contains(*clause)).then_some(())
    })
    .unwrap();
}

fn drain_command(cluster: &Cluster, command: &str) {
    let status = std::process::Command::new(binary().unwrap())
        .args(["cluster", command, "n3", "--admin"])
        .arg(format!("http://{}", cluster.node(0).admin))
        .status();
    assert!(status.unwrap().success(), "{command}");
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn clauses_of_readiness_fail_by_their_causes_and_hold_again() {
    let mut cluster = Cluster::start("readiness", 3).unwrap();
    for place in 0..3 {
        cluster.wait_ready(place).unwrap();
    }

    for place in [0, 1] {
        cluster.signal(place, "STOP").unwrap();
    }
    wait_failed(&cluster, 2, &["lease"]);
    wait_failed(&cluster, 2, &["leaders"]);
    for place in [0, 1] {
        cluster.signal(place, "CONT").unwrap();
    }
    cluster.wait_ready(2).unwrap();

    drain_command(&cluster, "drain");
    wait_failed(&cluster, 2, &["draining"]);
    // The duty survives the process.
    cluster.kill(2).unwrap();
    cluster.restart(2).unwrap();
    wait_for("the node to answer", || cluster.get(2, "/livez").ok()).unwrap();
    wait_failed(&cluster, 2, &["draining"]);
    wait_for("nothing but the drain to be missing", || {
        (failed_clauses(&cluster, 2).1 == BTreeSet::from(["draining".to_owned()])).then_some(())
    })
    .unwrap();
    drain_command(&cluster, "undrain");
    cluster.wait_ready(2).unwrap();

    // A node that ends lets its clients stay for the grace, and says that it is about to go.
    cluster.stop(2).unwrap();
    let config = cluster.folder().join("n3/quorate.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[node]\n", "[node]\nstop_grace = \"5s\"\n")).unwrap();
    cluster.restart(2).unwrap();
    cluster.wait_ready(2).unwrap();
    let (mut client, _) = Raw::connect(cluster.node(2).mqtt_port, &Connect::transient("stays")).unwrap();
    cluster.signal(2, "TERM").unwrap();
    wait_failed(&cluster, 2, &["running", "draining"]);
    let refused = Raw::refusal(cluster.node(2).mqtt_port, &Connect::transient("late")).unwrap();
    assert_eq!(refused.first(), Some(&0x20), "a CONNACK: {refused:?}");
    assert!(matches!(refused.get(3), Some(0x88 | 0x9c)), "{refused:?}");
    assert!(client.wait_for_end(|| false), "told to go after the grace");
    cluster.wait_ended(2).unwrap();

    // A node without its disk has no vote yet.
    cluster.wipe(2).unwrap();
    cluster.restart(2).unwrap();
    let mut seen = BTreeSet::new();
    wait_for("the wiped node to be ready", || {
        let (status, body) = cluster.get(2, "/readyz").ok()?;
        let readiness: Readiness = serde_json::from_str(&body).ok()?;
        seen.extend(readiness.failed().map(|clause| clause.name.clone()));
        (status == 200).then_some(())
    })
    .unwrap();
    assert!(seen.contains("votes") || seen.contains("control"), "{seen:?}");
    println!("clauses_of_readiness_fail_by_their_causes_and_hold_again: a wiped node lacked {seen:?}");
    cluster.check_log().unwrap();
}
