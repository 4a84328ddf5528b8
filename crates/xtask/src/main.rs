//! Repository tasks: `cargo xtask ci`, `fix`, `tidy`, `sim`, `fuzz`, `interop`, `faults`, `telemetry`, `dashboard` and `conformance`.
//!
//! Owns: what "checked" means for a change, and the rules of the repository as executable checks.
//! Does not: depend on any other crate of the workspace; write to the tree, except in `fix` and `conformance --write`.
//! Invariants: `ci` stops at the first failing step and says which one it was.
//! See: CONTRIBUTING.md, STYLE.md.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]
// A task runner talks to a person on standard output.
#![allow(clippy::print_stdout)]

mod ci;
mod dashboard;
mod deploy;
mod faults;
mod fuzz;
mod interop;
mod package;
mod programs;
mod telemetry;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
Usage: cargo xtask <task>

  ci             format, tidy, clippy, tests, mosquitto clients and a minute of simulation; writes nothing to the tree
  fix            format the code, apply what clippy can mend, and renew docs/operations/cli.md
  tidy           the rules of the repository: dependency direction, banned calls, links in documents
  sim [ARGS]     run the simulator (release build) with ARGS: --seeds N, --start S, --seed S, --seconds T
  fuzz [TARGET…] [--seconds N] [--merge]
                 run fuzz targets, all by default, N seconds each (60); --merge takes what was found new into fuzz/corpus
  interop [CLIENT...]
                 run clients that others wrote, or those named, on a cluster of three nodes (docs/interop.md)
  faults [--scenario NAME]... [--minutes N] [--seed N] [--list]
                 real nodes under real faults, with checkers over all that their clients saw (docs/operations/faults.md)
  faults --gaps [--beside NAME,...] [--rounds N] [--times N] [--report FILE]
                 how long publishers have no answers around a fault, side by side with another broker
  telemetry [PART...]
                 run the alert rules and the dashboard on a real Prometheus and Alertmanager: all parts, or those of
                 rules, alerts, dashboard that are named (docs/operations/telemetry.md)
  conformance [SECTION] [--nodes 1|3] [--write]
                 run the conformance table, or what belongs to a section such as 3.3, on one node and on three;
                 --write renews docs/conformance.md
  package deb    build the package for Debian around a release binary
  deploy-check [--write] [CHECK...]
                 try out what is in deploy/ with the programs that are installed, all or the checks whose names begin so;
                 --write renews deploy/kubernetes/quorate.yaml
  dashboard [--only WORDS] [--shots DIR] [--base URL] [--mqtt-port N] [--admin-port N]
                 test the dashboard's scripts, then make journeys through it in a browser on a cluster of three nodes
                 (docs/operations/dashboard.md)
  help           this text";

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
    let Some((task, rest)) = arguments.split_first() else {
        bail!("no task named\n{USAGE}");
    };
    let free = [
        "sim",
        "fuzz",
        "interop",
        "faults",
        "telemetry",
        "conformance",
        "deploy-check",
        "dashboard",
        "package",
    ];
    if !free.contains(&task.as_str()) && !rest.is_empty() {
        bail!("{task} takes no arguments\n{USAGE}");
    }
    let root = repository_root()?;
    match task.as_str() {
        "ci" => ci::ci(&root),
        "fix" => ci::fix(&root),
        "tidy" => tidy::run(&root),
        "sim" => ci::sim(&root, rest),
        "fuzz" => fuzz::run(&root, rest),
        "interop" => interop::run(&root, rest),
        "faults" => faults::run(&root, rest),
        "telemetry" => telemetry::run(&root, rest),
        "conformance" => ci::conformance(&root, rest),
        "package" => package::run(&root, rest),
        "deploy-check" => deploy::run(&root, rest),
        "dashboard" => dashboard::run(&root, rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("no task is called {other:?}\n{USAGE}"),
    }
}

/// The folder that holds the workspace: two above this crate.
fn repository_root() -> Result<PathBuf> {
    let crate_folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = crate_folder.parent().and_then(|crates| crates.parent());
    root.map(PathBuf::from).context("find the repository root above crates/xtask")
}
