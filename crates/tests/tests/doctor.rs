//! `quorate doctor` on real nodes: no false finding on a sound cluster, and the faults that only real processes have.
//!
//! Owns: the cases. Does not: repeat the faults that the command's own tests inject.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use quorate_tests::{Cluster, http, wait_for};
use serde_json::Value;

/// What is true of the machine that the test runs on, not of the node.
const OF_THE_MACHINE: [&str; 11] = [
    "backlog_limit_low",
    "clock_steps",
    "data_dir_layer",
    "data_dir_network",
    "data_dir_volatile",
    "disk_low",
    "files_limit_low",
    "memory_low",
    "memory_swapped",
    "ports_used_up",
    "sync_slow",
];

/// Exit code and codes of the findings of `quorate doctor` for a configuration file.
fn doctor(cluster: &Cluster, node: usize, limits: &str) -> Result<(Option<i32>, BTreeSet<String>)> {
    let file = cluster.config_file(node);
    let line = format!("{limits} exec \"$0\" doctor --output json --config \"$1\"");
    let output = Command::new("sh")
        .args(["-c", &line])
        .arg(quorate_tests::binary()?)
        .arg(Path::new(&file))
        .stdin(Stdio::null())
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let findings = report.get("findings").and_then(Value::as_array).context("findings")?;
    let codes = findings.iter().filter_map(|finding| finding.get("code")?.as_str().map(str::to_owned));
    Ok((output.status.code(), codes.collect()))
}

/// Names of the nodes in the state of the cluster.
fn names(cluster: &Cluster) -> Result<Vec<String>> {
    let state: Value = serde_json::from_str(
        &cluster.run(&format!("status --output json --admin http://{}", cluster.node(0).admin))?,
    )?;
    let nodes = state.get("nodes").and_then(Value::as_array).context("nodes")?;
    Ok(nodes.iter().filter_map(|node| Some(node.get("name")?.as_str()?.to_owned())).collect())
}

fn without_the_machine(codes: &BTreeSet<String>) -> Vec<&str> {
    codes.iter().map(String::as_str).filter(|code| !OF_THE_MACHINE.contains(code)).collect()
}

#[test]
fn sound_cluster_gets_no_finding_and_a_dead_node_is_named() -> Result<()> {
    let mut cluster = Cluster::start("doctor", 3)?;
    for node in 0..3 {
        let (_, codes) = doctor(&cluster, node, "")?;
        ensure!(without_the_machine(&codes).is_empty(), "node {node}: {codes:?}");
    }
    let log = cluster.log()?;
    ensure!(!log.contains(" WARN "), "the doctor makes no node complain: {log}");

    cluster.kill(2)?;
    let (code, codes) = doctor(&cluster, 0, "")?;
    ensure!(code == Some(4) && codes.contains("peer_unreachable"), "a running node: {code:?} {codes:?}");
    let (code, codes) = doctor(&cluster, 2, "ulimit -n 256;")?;
    ensure!(
        codes.contains("files_limit_low") && code == Some(4),
        "below what a node needs itself: {codes:?}"
    );
    let others: Vec<_> = without_the_machine(&codes);
    ensure!(others.is_empty(), "a stopped node whose peers run: {others:?}");

    // Replaced as docs/operations/replace-node.md says, it is one node, and nothing is left of the lost one.
    cluster.wipe(2)?;
    cluster.restart(2)?;
    wait_for("the node to vote in every group", || {
        let answer = http::request(&cluster.node(2).admin, "GET /readyz", &[], "").ok()?;
        (answer.status == 200).then_some(())
    })?;
    wait_for("the lost node to be forgotten", || {
        Some(names(&cluster).ok()? == ["n1", "n2", "n3"]).filter(|is| *is)
    })?;
    let (_, codes) = doctor(&cluster, 0, "")?;
    let left = without_the_machine(&codes);
    ensure!(left.is_empty(), "after the replacement: {left:?}");
    Ok(())
}
