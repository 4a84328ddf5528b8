//! The alert rules and the dashboard on a real Prometheus and Alertmanager.
//!
//! Usage: `telemetry PART… DEPLOY`, with parts `alerts` and `dashboard` and the folder that has the rules and the
//! dashboard; `cargo xtask telemetry` calls it.
//! Owns: the order of the parts. Does not: install anything. Invariants: whatever was started ends with this program.
//! See: docs/operations/telemetry.md.
// A task runner talks to a person on standard output.
#![allow(clippy::print_stdout)]
// Answers of other programs are read as they come: what is not there is null.
#![allow(clippy::indexing_slicing)]

mod alerts;
mod dashboard;
mod http;
mod monitoring;
mod replay;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (deploy, parts) = arguments.split_last().context("Usage: telemetry PART... DEPLOY")?;
    let deploy = Path::new(deploy);
    let rules = deploy.join("prometheus/quorate.rules.yml");
    if parts.iter().any(|part| part == "alerts") {
        alerts::run(&rules)?;
    }
    if parts.iter().any(|part| part == "dashboard") {
        dashboard::run(&rules, &deploy.join("grafana/quorate.json"))?;
    }
    Ok(())
}
