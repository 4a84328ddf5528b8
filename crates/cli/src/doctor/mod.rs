//! `quorate doctor`: what keeps a node from working, or soon will, with what to do about it.
//!
//! Owns: the order of the subjects, the report. Each subject has a file: facts, how they are gathered, and a pure function
//! from facts to findings.
//! Does not: change anything; mend anything.
//! Invariants: every code of a finding is in docs/operations/doctor.md; data goes to standard output, what was left out to
//! standard error.
//! Limits: DOCTOR_SYNCS, DOCTOR_PEERS_MAX and others in `limits`.

mod certificates;
mod clock;
mod cluster;
mod configuration;
mod data_directory;
mod finding;
mod peers;
mod ports;
mod process;
mod resources;
mod sync_latency;
#[cfg(test)]
mod tests;
mod token_file;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use quorate_server::config::Config;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::http;
use crate::output::{self, Output};
use crate::terminal::Tone;
use cluster::{ClusterFacts, Other};
use finding::{Finding, Severity};
use process::Processes;

/// Flags of `quorate doctor`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on the machine of the node, as the user of the node, before the first start or while the node runs. It changes nothing.
What each finding means is in docs/operations/doctor.md.

Exit codes of doctor:
  0  no finding that is an error; there may be warnings
  4  at least one finding is an error")]
pub struct DoctorArgs {
    /// Configuration file of the node; without it the defaults, as for `quorate serve`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Admin address of the node [default: the one that the configuration says]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What the doctor asks the operating system, so that a test can answer in its place.
pub trait Host: Send + Sync {
    /// Writes into a file, makes it durable, and says how long that took.
    fn write_durably(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<Duration>;

    /// Files that a process may have open.
    fn files_max(&self, pid: u32) -> Option<u64>;
}

struct ThisHost;

impl Host for ThisHost {
    fn write_durably(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<Duration> {
        let begun = Instant::now();
        file.write_all_at(bytes, offset)?;
        file.sync_data()?;
        Ok(begun.elapsed())
    }

    fn files_max(&self, pid: u32) -> Option<u64> {
        process::files_limit(pid)
    }
}

/// What the doctor says.
#[derive(Debug, Serialize)]
struct Report {
    /// Name of the node by its configuration; left out when that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// Findings that are errors.
    errors: usize,
    /// Findings that are warnings.
    warnings: usize,
    /// All findings, errors first.
    findings: Vec<Finding>,
    /// What was not looked at, and why.
    skipped: Vec<String>,
}

/// Runs the command.
pub async fn run(args: DoctorArgs) -> Outcome {
    let report = examine(&args, &ThisHost).await;
    match args.output {
        Output::Json => output::print_json(&report)?,
        Output::Text => {
            for skipped in &report.skipped {
                eprintln!("not looked at: {skipped}");
            }
            output::print(&render(&report))?;
        }
    }
    if report.errors > 0 { Err(Failure::silent(Exit::Findings)) } else { Ok(()) }
}

async fn examine(args: &DoctorArgs, host: &dyn Host) -> Report {
    let begun = clock::Moment::now();
    let config = match configuration::gather(args.config.as_deref()) {
        Ok(config) => config,
        Err(errors) => {
            let skipped = vec!["everything else, since the configuration cannot be used".to_owned()];
            return Report::of(None, configuration::check(&errors), skipped);
        }
    };
    let processes = Processes::look();
    let running = processes.node_of(&config.node.data_dir);
    let admin = args.admin.clone().unwrap_or_else(|| cluster::url_of(config.admin.bind));
    let token_file = config.admin.token_file.as_deref().map(token_file::gather);
    // On the machine of the node its own token is at hand; one that was given goes first.
    let _has_a_finding = http::use_token_file(config.admin.token_file.clone());
    let mut told = cluster::gather(&admin, &config.node.name).await;
    told.running = running.is_some();
    told.exposed = !config.admin.bind.ip().is_loopback();
    told.token = config.admin.token_file.is_some();
    let peers = peers::gather(&config, places(&config, &told)).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let directory = data_directory::gather(&config);
    let mut findings = Vec::new();
    findings.extend(ports::check(&ports::gather(&config, &processes, told.answers())));
    findings.extend(data_directory::check(&directory));
    findings.extend(sync_latency::check(&sync_latency::gather(&directory.probed, host)));
    findings.extend(certificates::check(
        &certificates::gather(&config, now),
        &config.node.name,
        seconds(now),
    ));
    let resources = resources::gather(&config, running.clone(), host);
    findings.extend(resources::check(&resources));
    let own_file = config.peer.as_ref().map(|peer| peer.cert_file.display().to_string()).unwrap_or_default();
    findings.extend(peers::check(&peers, &own_file, running.is_some() || told.answers()));
    findings.extend(cluster::check(&told));
    findings.extend(token_file.iter().flat_map(token_file::check));
    let clocks = told.others.iter().filter_map(|other| other.clock.clone()).collect();
    findings.extend(clock::check(&clock::gather(begun, clocks)));
    let skipped = left_out(&told);
    Report::of(Some(config.node.name), findings, skipped)
}

/// The peers to dial: those that the cluster names, else the first nodes of the configuration; without this node.
fn places(config: &Config, told: &ClusterFacts) -> Vec<(String, String)> {
    let known = told.state().filter(|_| told.answers()).map(|state| {
        let others = state.nodes.iter().filter_map(|node| Some((node.name.clone(), node.peer.clone()?)));
        others.collect::<Vec<_>>()
    });
    let listed =
        || config.cluster.bootstrap.iter().map(|node| (node.name.clone(), node.peer.clone())).collect();
    let mut places = known.unwrap_or_else(listed);
    places.retain(|(name, _)| *name != config.node.name);
    if config.peer.is_none() {
        places.clear();
    }
    places
}

fn left_out(told: &ClusterFacts) -> Vec<String> {
    let silent = told.others.iter().filter(|other| other.state.is_none());
    let silent = silent.map(|Other { name, admin, .. }| {
        format!("clock, version and cluster of {name}: {admin} does not answer from here as that node")
    });
    let reason = match &told.answer {
        cluster::Answer::Nobody => format!("nobody answers on {}: the node does not run", told.admin),
        cluster::Answer::Token => format!("{} asks for a token: give --token-file", told.admin),
        cluster::Answer::Strange(_) | cluster::Answer::State(_) => return silent.collect(),
    };
    vec![format!("the running cluster and the clocks of its nodes ({reason})")]
}

fn seconds(now: Duration) -> i64 {
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

impl Report {
    fn of(node: Option<String>, mut findings: Vec<Finding>, skipped: Vec<String>) -> Report {
        findings.sort_by_key(|finding| finding.severity);
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        Report { node, errors, warnings, findings, skipped }
    }
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for Finding { severity, code, message, place, hint } in &report.findings {
        let word = match severity {
            Severity::Error => Tone::Bad.paint("error"),
            Severity::Warning => Tone::Odd.paint("warning"),
        };
        text.push_str(&format!("{word}[{code}]: {message}\n  where: {place}\n  hint: {hint}\n"));
    }
    let counted = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    match (report.errors, report.warnings) {
        (0, 0) => text.push_str("nothing wrong was found\n"),
        (errors, warnings) => {
            text.push_str(&format!("{}, {}\n", counted(errors, "error"), counted(warnings, "warning")));
        }
    }
    text
}
