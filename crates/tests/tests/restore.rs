//! `quorate restore` and the clusters that begin from a backup, as an operator runs them.
//!
//! Owns: the cases. Does not: repeat what is refused file by file; the server's own tests do.
//! The backup is the golden file of the server's tests: a cluster of three with 2 partitions and 4 sessions.

use std::path::PathBuf;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, Serve};
use serde_json::Value;

fn backup() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../server/tests/golden/cluster-v1.backup")
}

/// Whether a command ended with this code, and said this on standard error.
fn ended(output: &Output, code: i32, said: &str) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{code} expected, {}: {stderr}", output.status);
    ensure!(stderr.contains(said), "{said:?} expected: {stderr}");
    Ok(())
}

fn next_payloads(client: &mut Raw, count: usize) -> Result<Vec<String>> {
    let mut payloads = Vec::new();
    for _ in 0..count {
        payloads.push(String::from_utf8(client.receive()?.payload)?);
    }
    payloads.sort();
    Ok(payloads)
}

#[test]
fn single_node_goes_on_from_a_backup() -> Result<()> {
    let mut node = Serve::new("restore-one")?;
    std::fs::copy(backup(), node.dir().join("backup"))?;
    let checked = node.run("restore backup --check --output json")?;
    ended(&checked, 0, "")?;
    let report: Value = serde_json::from_slice(&checked.stdout)?;
    let field = |name: &str| report.get(name).cloned().with_context(|| name.to_owned());
    ensure!(field("sessions")? == 4 && field("partitions")? == 2 && field("restored")? == false, "{report}");

    let listener = format!("[[listener]]\nbind = \"127.0.0.1:{}\"\n", mqtt_port(&node)?);
    node.configure(&listener)?;
    ended(&node.run("restore backup --config quorate.toml")?, 78, "cluster.partitions is 16: set it to 2")?;
    ended(&node.run("restore backup --check --config quorate.toml")?, 78, "2 partitions")?;
    ensure!(!node.dir().join("data").exists(), "nothing was touched");
    let sections = format!("[cluster]\npartitions = 2\n{listener}");
    node.configure(&sections)?;
    let whole = std::fs::read(backup())?;
    std::fs::write(node.dir().join("part"), whole.get(..whole.len() / 2).context("half")?)?;
    ended(&node.run("restore part --config quorate.toml")?, 65, "the backup is cut off")?;
    ended(&node.run("serve --config quorate.toml")?, 69, "was not finished")?;
    ended(&node.run("restore backup --config quorate.toml")?, 0, "restored into data")?;

    node.start(&sections)?;
    let port = mqtt_port(&node)?;
    let (mut offline, present) = Raw::connect(port, &Connect::durable("offline"))?;
    ensure!(present, "the session is there");
    ensure!(next_payloads(&mut offline, 2)? == ["one", "two"], "with its queue");
    let (mut publisher, _) = Raw::connect(port, &Connect::transient("pub"))?;
    publisher.publish_acked("a/b", b"three", false)?;
    ensure!(next_payloads(&mut offline, 1)? == ["three"], "and its subscription");
    node.signal("TERM")?;
    ensure!(node.wait()?.success(), "{}", node.log()?);
    ended(&node.run("restore backup --config quorate.toml")?, 69, "not empty")
}

/// A port of the stretch that the node has to itself.
fn mqtt_port(node: &Serve) -> Result<u16> {
    let admin = node.admin();
    let port: u16 = admin.rsplit(':').next().context("port")?.parse()?;
    Ok(port - 1)
}

#[test]
fn single_node_goes_on_from_a_backup_of_three() -> Result<()> {
    let mut node = Serve::new("restore-fewer-new")?;
    let file = node.dir().join("backup");
    let mut cluster = Cluster::start("restore-fewer", 3)?;
    let port = |place: usize| cluster.node(place).mqtt_port;
    let (mut waiting, _) = Raw::connect(port(0), &Connect::durable("waiting"))?;
    waiting.subscribe("a/#")?;
    waiting.disconnect()?;
    // Held by a node of identity 3, which the new cluster does not have.
    let (mut held, _) = Raw::connect(port(2), &Connect::durable("held"))?;
    held.subscribe("a/#")?;
    let (mut publisher, _) = Raw::connect(port(1), &Connect::transient("pub"))?;
    let payloads: Vec<String> = (10..30).map(|number| number.to_string()).collect();
    for payload in &payloads {
        publisher.publish_acked("a/b", payload.as_bytes(), false)?;
        held.receive()?;
    }
    let admin = format!("http://{}", cluster.node(1).admin);
    let words = ["backup", &file.to_string_lossy(), "--admin", &admin];
    ended(&cluster.spawn_words(&words)?.wait_with_output()?, 0, "")?;
    publisher.publish_acked("a/b", b"after the backup", false)?;
    cluster.kill_all()?;

    let report: Value = serde_json::from_slice(&node.run("restore backup --check --output json")?.stdout)?;
    let partitions = report.get("partitions").and_then(Value::as_u64).context("partitions")?;
    let listener = format!("[[listener]]\nbind = \"127.0.0.1:{}\"\n", mqtt_port(&node)?);
    let sections = format!("[cluster]\npartitions = {partitions}\n{listener}");
    node.configure(&sections)?;
    ended(&node.run("restore backup --config quorate.toml")?, 0, "restored into data")?;
    node.start(&sections)?;
    let port = mqtt_port(&node)?;
    let (mut held, present) = Raw::connect(port, &Connect::durable("held"))?;
    ensure!(present, "the session that the old node 3 held is there");
    let (mut waiting, present) = Raw::connect(port, &Connect::durable("waiting"))?;
    ensure!(present && next_payloads(&mut waiting, payloads.len())? == payloads, "with its queue");
    let (mut publisher, _) = Raw::connect(port, &Connect::transient("pub"))?;
    publisher.publish_acked("a/b", b"anew", false)?;
    ensure!(next_payloads(&mut waiting, 1)? == ["anew"], "what came after the backup is lost by nature");
    // Acknowledgements may have come after the cut: some messages come again.
    while held.receive()?.payload != b"anew" {}
    Ok(())
}

#[test]
fn three_nodes_go_on_from_a_backup() -> Result<()> {
    let mut cluster = Cluster::start("restore-three", 3)?;
    cluster.kill_all()?;
    for place in 0..3 {
        cluster.wipe(place)?;
        cluster.configure(place, |text| {
            let line = |line: &str| match line.starts_with("partitions = ") {
                true => "partitions = 2\n".to_owned(),
                false => format!("{line}\n"),
            };
            text.lines().map(line).collect()
        })?;
        let (file, config) = (backup(), cluster.config_file(place));
        let words = ["restore", &file.to_string_lossy(), "--config", &config.to_string_lossy()];
        ended(&cluster.spawn_words(&words)?.wait_with_output()?, 0, "restored into")?;
    }
    (0..3).try_for_each(|place| cluster.restart(place))?;
    (0..3).try_for_each(|place| cluster.wait_ready(place))?;
    let port = |place: usize| cluster.node(place).mqtt_port;
    let (mut online, present) = Raw::connect(port(2), &Connect::durable("online"))?;
    ensure!(present, "what a node of the old cluster held is there");
    ensure!(next_payloads(&mut online, 2)? == ["one", "two"], "with what was inflight and queued");
    let (mut mourner, _) = Raw::connect(port(1), &Connect::durable("mourner"))?;
    ensure!(next_payloads(&mut mourner, 1)? == ["without a word"], "the will of the old connection");
    let (mut publisher, _) = Raw::connect(port(0), &Connect::transient("pub"))?;
    publisher.publish_acked("a/b", b"three", false)?;
    ensure!(next_payloads(&mut online, 1)? == ["three"], "and its subscription");
    let state = cluster.state(0, false)?;
    let names: Vec<&str> = state.nodes.iter().map(|node| node.name.as_str()).collect();
    ensure!(names == ["n1", "n2", "n3"], "{names:?}");
    cluster.check_log()
}
