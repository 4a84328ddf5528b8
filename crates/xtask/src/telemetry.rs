//! `cargo xtask telemetry`: the alert rules and the dashboard, on the programs that they are for.
//!
//! Owns: which programs are needed, and running promtool. Does not: install them; start nodes or judge alerts, which the
//! program `telemetry` of crates/tests does.
//! Invariants: what is missing on this machine is left out with a line that says so, never silently.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::ci::{cargo, target_folder};
use crate::tidy::telemetry::RULE_TESTS;

/// Parts that need a cluster, Prometheus and Alertmanager.
const LIVE: [&str; 2] = ["alerts", "dashboard"];

/// Runs the parts named, or all.
pub fn run(root: &Path, parts: &[String]) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|part| *part != "rules" && !LIVE.contains(&part.as_str())) {
        bail!("no part is called {unknown:?}: rules, alerts, dashboard");
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|named| named == part);
    if wanted("rules") {
        test_rules(root)?;
    }
    let live: Vec<&str> = LIVE.into_iter().filter(|part| wanted(part)).collect();
    if live.is_empty() {
        return Ok(());
    }
    for program in ["prometheus", "prometheus-alertmanager"] {
        if !exists(program) {
            println!(
                "telemetry: skipped {}: there is no {program} (Debian: apt-get install {program})",
                live.join(", ")
            );
            return Ok(());
        }
    }
    let build = ["build", "--locked", "--package", "quorate", "--package", "quorate-tests", "--bins"];
    cargo(root, &build, &[])?;
    let binaries = target_folder(root)?.join("debug");
    let status = Command::new(binaries.join("telemetry"))
        .args(&live)
        .arg(root.join("deploy"))
        .env("QUORATE_BIN", binaries.join("quorate"))
        .status()
        .context("start the program telemetry of crates/tests")?;
    if !status.success() {
        bail!("telemetry ended with {status}");
    }
    Ok(())
}

/// Runs the unit tests of the alert rules, if promtool is there.
pub fn test_rules(root: &Path) -> Result<()> {
    if !exists("promtool") {
        println!("alert rules: skipped, there is no promtool (Debian: apt-get install prometheus)");
        return Ok(());
    }
    let status = Command::new("promtool")
        .args(["test", "rules"])
        .arg(root.join(RULE_TESTS))
        .status()
        .context("start promtool")?;
    if !status.success() {
        bail!("promtool test rules {RULE_TESTS} ended with {status}");
    }
    Ok(())
}

fn exists(program: &str) -> bool {
    let quiet = || Stdio::null();
    let version = Command::new(program).arg("--version").stdout(quiet()).stderr(quiet()).status();
    version.is_ok_and(|status| status.success())
}
