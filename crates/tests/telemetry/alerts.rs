//! Every alert fires and is resolved, as told by Alertmanager: on a cluster that is broken for real where that takes
//! seconds, and on figures of a real node with changed values for the rest.
//!
//! Owns: the faults. Does not: know the expressions. Invariants: an alert of the rules that neither part covers is an
//! error; nothing fires on a healthy cluster.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use quorate_tests::{Cluster, raw, wait_for};

use crate::monitoring::{Monitoring, Target, alerts_of};
use crate::replay::{Become, Change, Replay};

/// Alerts of the first real fault: one of three nodes is killed.
const NODE_LOST: [&str; 3] = ["QuorateNodeDown", "QuorateNodeDeclaredDown", "QuoratePlacementViolated"];

/// Alerts of the second: two of three are killed.
const QUORUM_LOST: [&str; 4] =
    ["QuorateNodeFenced", "QuorateNoQuorum", "QuorateGroupWithoutLeader", "QuorateNotReady"];

/// Alerts of the third: clients that are refused, and messages that are dropped.
const BAD_CLIENTS: [&str; 2] = ["QuorateConnectionsRefused", "QuorateMessagesDropped"];

/// Alerts of the fourth: a node is killed and started, three times.
const RESTARTS: [&str; 1] = ["QuorateRestarting"];

/// Alerts of the fifth: a node stands still for longer than its lease, again and again.
const STANDS_STILL: [&str; 1] = ["QuorateLeaseFlapping"];

/// The alert of two versions, which takes a node of another one.
const VERSIONS_MIXED: &str = "QuorateVersionsMixed";

/// Alerts of changed figures.
const REPLAYED: [&str; 16] = [
    "QuorateWorkerStuck",
    "QuorateDrainingTooLong",
    VERSIONS_MIXED,
    "QuorateClockOff",
    "QuoratePeerLinkDown",
    "QuorateReplicaLagging",
    "QuorateLogWaitsForSpace",
    "QuorateDiskLow",
    "QuorateDiskNearlyFull",
    "QuorateFsyncSlow",
    "QuoratePublishSlow",
    "QuorateCertificateExpiresSoon",
    "QuorateCertificateUnusable",
    "QuorateMemoryHigh",
    "QuorateMemoryNearlyFull",
    "QuorateFilesHigh",
];

/// Alerts that may fire on a healthy cluster when the machine of the test has little left.
const OF_THE_MACHINE: [&str; 2] = ["QuorateDiskLow", "QuorateMemoryHigh"];

const BROKEN: &[Change] = &[
    ("quorate_worker_answers", Become::Value(0.0)),
    ("quorate_draining", Become::Value(1.0)),
    ("quorate_wall_time_seconds", Become::Now(-30.0)),
    ("quorate_peers_up", Become::Value(0.0)),
    ("quorate_group_replication_lag_entries", Become::Value(50_000.0)),
    ("quorate_log_waits_for_space", Become::Value(1.0)),
    ("quorate_disk_free_bytes", Become::Value(1000.0)),
    ("quorate_disk_low", Become::Value(1.0)),
    ("quorate_memory_pressure", Become::Value(2.0)),
    ("quorate_log_fsync_seconds_bucket{le=\"10\"}", Become::Growing(20.0)),
    ("quorate_log_fsync_seconds_bucket{le=\"+Inf\"}", Become::Growing(20.0)),
    ("quorate_publish_seconds_bucket{le=\"10\"}", Become::Growing(20.0)),
    ("quorate_publish_seconds_bucket{le=\"+Inf\"}", Become::Growing(20.0)),
    ("quorate_certificate_expiry_timestamp_seconds", Become::Now(86_400.0)),
    ("quorate_certificate_reloads_total{result=\"kept\"}", Become::Growing(1.0)),
    ("process_resident_memory_bytes", Become::Value(1e15)),
    ("process_open_fds", Become::Value(1e12)),
];

/// Runs all of it.
pub fn run(rules: &Path) -> Result<()> {
    let covered: Vec<&str> = NODE_LOST
        .iter()
        .chain(&QUORUM_LOST)
        .chain(&BAD_CLIENTS)
        .chain(&RESTARTS)
        .chain(&STANDS_STILL)
        .chain(&REPLAYED)
        .copied()
        .collect();
    for alert in alerts_of(&std::fs::read_to_string(rules)?) {
        ensure!(covered.contains(&alert.as_str()), "no fault makes {alert} fire: add one here");
    }
    let mut cluster = Cluster::start("telemetry-alerts", 3)?;
    let metrics =
        (0..3).map(|place| figures_of_a_leader(&cluster, place)).collect::<Result<Vec<String>>>()?;
    check_format(&metrics[0])?;
    let targets = cluster.nodes.iter().map(|node| Target {
        address: node.admin.clone(),
        path: "/metrics".to_owned(),
        instance: node.name.clone(),
    });
    let monitoring = Monitoring::start("real", rules, &targets.collect::<Vec<_>>())?;
    healthy(&monitoring, 3)?;
    bad_clients(&monitoring, &cluster)?;
    lost_nodes(&monitoring, &mut cluster)?;
    restarts(&monitoring, &mut cluster)?;
    stands_still(&monitoring, &cluster)?;
    ensure!(!monitoring.told().iter().any(|(_, name, _)| name.contains("broken")), "{:?}", monitoring.told());
    drop(monitoring);
    drop(cluster);
    replayed(rules, &metrics)
}

fn phase(what: &str, alerts: &[&str]) {
    println!("alerts: {what}: {} fired and resolved", alerts.join(", "));
}

/// All targets are scraped, a while has passed, and nothing fires.
fn healthy(monitoring: &Monitoring, targets: usize) -> Result<()> {
    wait_for("a healthy cluster", || {
        let scraped = monitoring.query("count_over_time(up{job=\"quorate\"}[10s]) >= 8").ok()?.len();
        (scraped == targets).then_some(())
    })?;
    let firing: Vec<String> =
        monitoring.firing()?.into_iter().filter(|alert| !OF_THE_MACHINE.contains(&alert.as_str())).collect();
    ensure!(firing.is_empty(), "fires when all is well: {firing:?}");
    println!("alerts: nothing fires when all is well");
    Ok(())
}

fn bad_clients(monitoring: &Monitoring, cluster: &Cluster) -> Result<()> {
    let port = cluster.node(0).mqtt_port;
    let (mut publisher, _) = raw::Raw::connect(port, &raw::Connect::transient("dropped"))?;
    // QoS 0 to a topic that clients may not write to, and a CONNECT of 3.1.1 without identifier and Clean Session.
    let dropped = b"\x30\x09\x00\x06$SYS/x\x00";
    let refused = b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00";
    wait_for("clients to be refused and messages dropped", || {
        publisher.send(dropped).ok()?;
        raw::Raw::open(port).ok()?.send(refused).ok()?;
        let firing = monitoring.firing().ok()?;
        BAD_CLIENTS.iter().all(|alert| firing.contains(*alert)).then_some(())
    })?;
    monitoring.wait_told(&BAD_CLIENTS, "firing")?;
    monitoring.wait_told(&BAD_CLIENTS, "resolved")?;
    phase("refused clients and dropped messages", &BAD_CLIENTS);
    Ok(())
}

fn lost_nodes(monitoring: &Monitoring, cluster: &mut Cluster) -> Result<()> {
    cluster.kill(2)?;
    monitoring.wait_told(&NODE_LOST, "firing")?;
    cluster.kill(1)?;
    monitoring.wait_told(&QUORUM_LOST, "firing")?;
    cluster.restart(1)?;
    cluster.restart(2)?;
    cluster.wait_ready(1)?;
    cluster.wait_ready(2)?;
    monitoring.wait_told(&NODE_LOST, "resolved")?;
    monitoring.wait_told(&QUORUM_LOST, "resolved")?;
    phase("kill -9 of one node", &NODE_LOST);
    phase("kill -9 of two nodes", &QUORUM_LOST);
    Ok(())
}

fn restarts(monitoring: &Monitoring, cluster: &mut Cluster) -> Result<()> {
    for _ in 0..3 {
        let before = cluster.metric(2, "process_start_time_seconds")?.into_values().next();
        cluster.kill(2)?;
        cluster.restart(2)?;
        cluster.wait_ready(2)?;
        let now = cluster.metric(2, "process_start_time_seconds")?.into_values().next();
        ensure!(before != now, "the process began at {before:?} and at {now:?}");
        let now = now.unwrap_or_default();
        wait_for("the new process to be scraped", || {
            let query = format!("process_start_time_seconds{{instance=\"n3\"}} == {now}");
            monitoring.query(&query).ok().filter(|samples| !samples.is_empty())
        })?;
    }
    monitoring.wait_told(&RESTARTS, "firing")?;
    monitoring.wait_told(&RESTARTS, "resolved")?;
    phase("kill -9 and start, three times", &RESTARTS);
    Ok(())
}

/// SIGSTOP until Prometheus has missed the node for longer than a lease, then SIGCONT, five times.
fn stands_still(monitoring: &Monitoring, cluster: &Cluster) -> Result<()> {
    let figure = |name: &str| cluster.metric(2, name).ok()?.into_values().next();
    let lapses = || figure("quorate_lease_lapses_total");
    for _ in 0..5 {
        let before = wait_for("the lapses of the lease", lapses)?;
        let asked = |query: &str| monitoring.query(query).ok().filter(|samples| !samples.is_empty());
        wait_for("a scrape", || asked("up{instance=\"n3\"} == 1"))?;
        cluster.signal(2, "STOP")?;
        let missed = wait_for("scrapes that fail for longer than a lease", || {
            asked("max_over_time(up{instance=\"n3\"}[2s]) == 0")
        });
        cluster.signal(2, "CONT")?;
        missed?;
        wait_for("the lapse to be counted", || lapses().filter(|now| *now > before))?;
        wait_for("the lease to be back", || figure("quorate_lease_fenced").filter(|fenced| *fenced == 0.0))?;
    }
    monitoring.wait_told(&STANDS_STILL, "firing")?;
    monitoring.wait_told(&STANDS_STILL, "resolved")?;
    phase("SIGSTOP and SIGCONT, five times", &STANDS_STILL);
    Ok(())
}

/// What promtool thinks of names, units and HELP.
fn check_format(metrics: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    promtool.stdin.take().context("its input")?.write_all(metrics.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "promtool check metrics: {said}");
    println!("alerts: promtool finds nothing wrong with /metrics");
    Ok(())
}

/// The figures of a node once it leads a group: how far others lag is known to leaders alone.
fn figures_of_a_leader(cluster: &Cluster, place: usize) -> Result<String> {
    wait_for("each node to lead a group", || {
        let (_, metrics) = cluster.get(place, "/metrics").ok()?;
        metrics.contains("\nquorate_group_replication_lag_entries{").then(|| with_room(&metrics))
    })
}

/// The figures of a node on a machine with a disk that is empty, and memory without end.
fn with_room(metrics: &str) -> String {
    let full = |line: &str| line.strip_prefix("quorate_disk_size_bytes ").map(str::to_owned);
    let size = metrics.lines().find_map(full).unwrap_or_default();
    let lines = metrics.lines().map(|line| match line.split(' ').next() {
        Some("quorate_disk_free_bytes") => format!("quorate_disk_free_bytes {size}\n"),
        Some("quorate_memory_limit_bytes") => "quorate_memory_limit_bytes 1e14\n".to_owned(),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

/// The three nodes are shown again. The first breaks in every way at once; the last changes its version.
fn replayed(rules: &Path, metrics: &[String]) -> Result<()> {
    const VERSION: &str = "quorate_build_info{version=\"";
    let [first, second, third] = metrics else { anyhow::bail!("three nodes were asked") };
    let newer = third.replace(VERSION, &format!("{VERSION}9."));
    let shown = [
        ("breaks", Replay::start(first.clone(), BROKEN)?),
        ("well", Replay::start(second.clone(), &[])?),
        ("old", Replay::start(third.clone(), &[])?),
    ];
    let target = |(instance, replay): (&str, &Replay)| Target {
        address: format!("127.0.0.1:{}", replay.server.port),
        path: "/metrics".to_owned(),
        instance: instance.to_owned(),
    };
    let targets: Vec<Target> = shown.iter().map(|(name, replay)| target((name, replay))).collect();
    let monitoring = Monitoring::start("replayed", rules, &targets)?;
    healthy(&monitoring, 3)?;
    let (_, breaks) = &shown[0];
    let figures: Vec<&str> = REPLAYED.into_iter().filter(|alert| *alert != VERSIONS_MIXED).collect();
    breaks.set_broken(true);
    monitoring.wait_told(&figures, "firing")?;
    breaks.set_broken(false);
    monitoring.wait_told(&figures, "resolved")?;
    let told = monitoring.told();
    let wrong = told.iter().find(|(_, name, on)| on == "well" || on == "old" || name.contains("broken"));
    ensure!(wrong.is_none(), "{wrong:?} was told");
    phase("changed figures", &figures);
    drop(monitoring);
    let newer = Replay::start(newer, &[])?;
    let targets = [target(("well", &shown[1].1)), target(("newer", &newer))];
    let monitoring = Monitoring::start("versions", rules, &targets)?;
    monitoring.wait_told(&[VERSIONS_MIXED], "firing")?;
    drop(newer);
    monitoring.wait_told(&[VERSIONS_MIXED], "resolved")?;
    phase("another version", &[VERSIONS_MIXED]);
    Ok(())
}
