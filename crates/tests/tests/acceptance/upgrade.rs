//! From the previous release to this one and back, node after node under load, and then for good.
//!
//! The previous release is what the commit before the last change of the version in Cargo.toml builds; it is built once into
//! the target folder. `QUORATE_PREVIOUS` names another program. Without either, the test says that it was skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use quorate_tests::load::{Load, Shape};
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, binary, wait_for};

use crate::rolling::{CLIENTS, Crowd, Rolling, assert_calm, obey, verify_in_background};

/// Builds the previous release, when its commit is known here.
fn previous_release() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("QUORATE_PREVIOUS") {
        return Some(PathBuf::from(named));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(&root).args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let change = git(&["log", "-1", "--format=%H", "-G^version = ", "--", "Cargo.toml"])?;
    let commit = git(&["rev-parse", "--verify", &format!("{change}^")])?;
    // A test runs as TARGET/PROFILE/deps/NAME-HASH.
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let folder = target.join("previous-release").join(&commit);
    let program = folder.join("target/release/quorate");
    if program.exists() {
        return Some(program);
    }
    std::fs::create_dir_all(&folder).ok()?;
    let archive = Command::new("git")
        .current_dir(&root)
        .args(["archive", &commit])
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let unpacked =
        Command::new("tar").arg("-x").arg("-C").arg(&folder).stdin(archive.stdout?).status().ok()?;
    assert!(unpacked.success(), "unpack {commit}");
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .args(["build", "--release", "--locked", "--quiet", "--package", "quorate"])
        .status()
        .ok()?;
    assert!(built.success(), "build the previous release, commit {commit}");
    Some(program)
}

/// What `quorate cluster level` or `finalize` answers.
fn cluster_command(cluster: &Cluster, command: &str) -> serde_json::Value {
    let output = Command::new(binary().unwrap())
        .args(["cluster", command, "--output", "json", "--admin"])
        .arg(format!("http://{}", cluster.node(0).admin))
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn upgrade_and_back_and_for_good_under_load() {
    let Some(previous) = previous_release() else {
        println!(
            "upgrade_and_back_and_for_good_under_load: skipped: the previous release's commit is not here"
        );
        return;
    };
    let current = binary().unwrap().to_owned();
    let mut cluster = Cluster::start_with("upgrade", 3, &previous).unwrap();
    let crowd = Crowd::start(&cluster, CLIENTS);
    crowd.wait_all_there();
    let shape = Shape { publishers: 6, subscribers: 3, by_hand: 0, rate: 200, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "upgrade", shape).unwrap();
    load.wait_progress(500).unwrap();
    let verify = verify_in_background(&cluster);
    let before = cluster_command(&cluster, "level")["level"].as_u64().unwrap();
    for (what, program) in [("up", &current), ("down", &previous), ("up again", &current)] {
        let start = Instant::now();
        let mut rolling = Rolling::start(&cluster, &[]);
        obey(&mut cluster, &mut rolling, program);
        let (succeeded, said) = rolling.end();
        assert!(succeeded, "{what}: {said}");
        crowd.wait_all_there();
        let longest = assert_calm(&crowd, what);
        println!(
            "upgrade_and_back_and_for_good_under_load: {what}: {:.1} s, longest away {} ms",
            start.elapsed().as_secs_f64(),
            longest.as_millis()
        );
        load.wait_progress(200).unwrap();
        assert_eq!(cluster_command(&cluster, "level")["level"].as_u64(), Some(before), "{what}");
    }
    let after = cluster_command(&cluster, "finalize")["level"].as_u64().unwrap();
    assert!(after > before, "level {before} to {after}");
    load.wait_progress(200).unwrap();

    // What the new level brings: a client of a drained node is told where to go.
    let admin = format!("http://{}", cluster.node(0).admin);
    let drain = |command: &str| {
        let status =
            Command::new(binary().unwrap()).args(["cluster", command, "n2", "--admin", &admin]).status();
        assert!(status.unwrap().success(), "{command}");
    };
    drain("drain");
    let others = [0, 2].map(|place| format!("127.0.0.1:{}", cluster.node(place).mqtt_port));
    wait_for("a refusal that names another node", || {
        let said = Raw::refusal(cluster.node(1).mqtt_port, &Connect::transient("sent-away")).unwrap();
        let text = String::from_utf8_lossy(&said);
        // CONNACK with reason 0x9C, Use another server.
        (said.first() == Some(&0x20)
            && said.get(3) == Some(&0x9c)
            && others.iter().all(|other| text.contains(other)))
        .then_some(())
    })
    .unwrap();
    drain("undrain");
    cluster.wait_ready(1).unwrap();

    // The way back is closed, and says so.
    cluster.stop(1).unwrap();
    let config = cluster.folder().join("n2/quorate.toml");
    let old = Command::new(&previous).args(["serve", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&old.stderr).into_owned();
    assert!(!old.status.success() && said.contains("level"), "{}: {said}", old.status);
    cluster.restart(1).unwrap();
    cluster.wait_ready(1).unwrap();
    crowd.wait_all_there();

    let report = verify.end();
    assert!(report["kept"].as_bool().unwrap_or(false), "{report}");
    load.end().unwrap();
    load.drain().unwrap();
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}\n{}", load.audit().summary());
    crowd.end();
    println!(
        "upgrade_and_back_and_for_good_under_load: level {before} to {after}, verify: {} acknowledged, longest ack gap {} ms; {}",
        report["acked"],
        report["longest_ack_gap_ms"],
        load.audit().summary()
    );
}
