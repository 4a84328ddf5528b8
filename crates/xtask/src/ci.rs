//! The tasks that run cargo: `ci`, `fix`, `sim` and `conformance`.
//!
//! Owns: the order of the steps and how their result is reported.
//! Does not: judge sources itself; that is `tidy`.
//! Invariants: every cargo call of `ci` is `--locked`, so that the lock file is never written; the tests find the
//! binary through `QUORATE_BIN`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{faults, interop, telemetry, tidy};

/// How long the simulator runs in `ci`.
const SIMULATION_SECONDS: &str = "240";

/// How long faults are injected into real nodes in `ci`.
const FAULT_MINUTES: &str = "5";

/// Faults of `ci`: those whose promises do not depend on how fast the machine is.
const FAULTS: [&str; 20] = [
    "kill-leader",
    "kill-follower",
    "kill-all",
    "kill-persist",
    "power-cut",
    "power-cut-all",
    "stop-leader",
    "hung-disk",
    "partition",
    "partition-one-way",
    "partition-overlapping",
    "reset-storm",
    "link-flap",
    "sync-error",
    "full-disk",
    "flipped-bit",
    "truncated-file",
    "empty-disk",
    "old-image",
    "swapped-disks",
];

/// Runs every check of a change, cheapest first, and stops at the first that fails.
pub fn ci(root: &Path) -> Result<()> {
    let started = Instant::now();
    let mut report = Vec::new();
    timed(&mut report, "format", || cargo(root, &["fmt", "--all", "--check"], &[]))?;
    timed(&mut report, "tidy", || tidy::run(root))?;
    timed(&mut report, "clippy", || {
        let arguments = ["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"];
        cargo(root, &arguments, &[])
    })?;
    // With the tests, so that the next step builds nothing twice under other features.
    timed(&mut report, "build", || {
        cargo(root, &["build", "--locked", "--workspace", "--bins", "--tests"], &[])
    })?;
    // The conformance table is one of them: it also holds that docs/conformance.md is up to date.
    timed(&mut report, "tests", || {
        let binary = target_folder(root)?.join("debug").join("quorate");
        let environment = [("QUORATE_BIN", binary.as_path())];
        cargo(root, &["test", "--locked", "--workspace", "--no-fail-fast"], &environment)
    })?;
    timed(&mut report, "alert rules", || telemetry::test_rules(root))?;
    timed(&mut report, "interop", || interop::run_cheap(root))?;
    timed(&mut report, "faults", || faults_slice(root))?;
    if simulator_exists(root) {
        timed(&mut report, "ledger", || sim(root, &["--ledger".to_string()]))?;
        let arguments = ["--seconds".to_string(), SIMULATION_SECONDS.to_string()];
        timed(&mut report, "simulation", || sim(root, &arguments))?;
        // The invariants are worth what they notice.
        timed(&mut report, "mutants", || sim(root, &["--prove".to_string()]))?;
    } else {
        println!("== simulation: skipped, crates/sim/src/main.rs does not exist");
    }
    println!("\n== all steps passed in {}", shown(started.elapsed()));
    for (name, elapsed) in report {
        println!("   {name:<12} {}", shown(elapsed));
    }
    Ok(())
}

/// Some minutes of faults, as far as this machine can inject them.
fn faults_slice(root: &Path) -> Result<()> {
    if !cfg!(target_os = "linux") {
        println!("== faults: skipped, they need Linux");
        return Ok(());
    }
    let chosen = FAULTS.iter().flat_map(|name| ["--scenario", name]);
    let arguments: Vec<&str> = chosen.chain(["--minutes", FAULT_MINUTES]).collect();
    faults::run_built(root, &arguments)
}

/// Formats the tree and lets clippy mend what it can.
pub fn fix(root: &Path) -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    cargo(root, &arguments, &[])?;
    cargo(root, &["fmt", "--all"], &[])?;
    write_cli(root)
}

/// Renews docs/operations/cli.md from the command line itself.
fn write_cli(root: &Path) -> Result<()> {
    let arguments = ["run", "--quiet", "--package", "quorate", "--", "man", "--markdown"];
    println!("$ cargo {} > docs/operations/cli.md", arguments.join(" "));
    let output = cargo_command(root).args(arguments).output().context("start cargo run")?;
    if !output.status.success() {
        bail!("cargo {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    std::fs::write(root.join("docs/operations/cli.md"), output.stdout).context("write docs/operations/cli.md")
}

/// Runs the simulator with the given arguments, in a release build.
pub fn sim(root: &Path, arguments: &[String]) -> Result<()> {
    if !simulator_exists(root) {
        bail!("the simulator has no binary: crates/sim/src/main.rs does not exist");
    }
    let mut all = vec!["run", "--locked", "--release", "--quiet", "--package", "quorate-sim", "--"];
    all.extend(arguments.iter().map(String::as_str));
    cargo(root, &all, &[])
}

/// Runs the conformance table with the given arguments; one without a dash is a section. `ci` runs the whole table with
/// the tests, which it is one of.
pub fn conformance(root: &Path, arguments: &[String]) -> Result<()> {
    let mut all =
        vec!["test", "--locked", "--quiet", "--package", "quorate-tests", "--test", "conformance", "--"];
    let mut value_of_flag = false;
    for argument in arguments {
        if !argument.starts_with('-') && !value_of_flag {
            all.push("--section");
        }
        value_of_flag = argument == "--nodes";
        all.push(argument);
    }
    cargo(root, &all, &[])
}

fn simulator_exists(root: &Path) -> bool {
    root.join("crates/sim/src/main.rs").is_file()
}

fn timed(
    report: &mut Vec<(&'static str, Duration)>,
    name: &'static str,
    step: impl FnOnce() -> Result<()>,
) -> Result<()> {
    println!("\n== {name}");
    let started = Instant::now();
    let result = step();
    let elapsed = started.elapsed();
    match &result {
        Ok(()) => println!("== {name}: passed in {}", shown(elapsed)),
        Err(_) => println!("== {name}: FAILED after {}", shown(elapsed)),
    }
    report.push((name, elapsed));
    result.with_context(|| format!("step {name}"))
}

fn shown(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// Runs cargo in the root of the repository with its output passed through.
pub fn cargo(root: &Path, arguments: &[&str], environment: &[(&str, &Path)]) -> Result<()> {
    println!("$ cargo {}", arguments.join(" "));
    let status = cargo_command(root)
        .args(arguments)
        .envs(environment.iter().copied())
        .status()
        .with_context(|| format!("start cargo {}", arguments.join(" ")))?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// Cargo as the caller runs it, in the root of the repository.
pub fn cargo_command(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// What `cargo metadata` says about the workspace alone; needs no network.
pub fn cargo_metadata(root: &Path) -> Result<serde_json::Value> {
    let output = cargo_command(root)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .context("start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("parse the output of cargo metadata")
}

/// Where cargo builds.
pub fn target_folder(root: &Path) -> Result<PathBuf> {
    let metadata = cargo_metadata(root)?;
    let folder = metadata.get("target_directory").and_then(|value| value.as_str());
    folder.map(PathBuf::from).context("find target_directory in cargo metadata")
}
