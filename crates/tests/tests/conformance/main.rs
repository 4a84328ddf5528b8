//! The conformance table: every normative statement of MQTT 5.0 and 3.1.1 that binds a server, tested on bytes.
//!
//! Owns: running the cases on one node and on three, and the report. Does not: look into the broker.
//! Invariants: one module for each chapter; each case names its statements; a statement without a case has a reason.
//! Limits: CASES_AT_ONCE, CASE_DEADLINE. See: docs/conformance.md, which this writes.
//!
//! Run it by `cargo xtask conformance [SECTION]`, or `cargo test -p quorate-tests --test conformance -- [NAME]`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod case;
mod connection;
mod decode;
mod packet;
mod property;
mod report;
mod selftest;
mod statements;

mod section1_strings;
mod section2_packets;
mod section3_01_connect;
mod section3_01_will;
mod section3_02_connack;
mod section3_03_publish;
mod section3_03_retain;
mod section3_04_acks;
mod section3_08_subscribe;
mod section3_10_unsubscribe;
mod section3_12_ping;
mod section3_14_disconnect;
mod section4_01_state;
mod section4_03_qos;
mod section4_03_qos2;
mod section4_07_topics;
mod section4_08_shared;
mod section4_12_auth;
mod section4_13_errors;
mod section6_websocket;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::Cluster;

use crate::case::{CASE_DEADLINE, Case, Cx};
use crate::packet::Version;
use crate::report::{Failed, Table, VERSIONS};

/// Cases that run side by side on one cluster: most of them wait for something.
const CASES_AT_ONCE: usize = 16;

/// `quorate dev` listens for WebSocket this far above a port of MQTT.
const WEBSOCKET_ABOVE_MQTT: u16 = 1000;

/// Chapters with their cases.
const CHAPTERS: &[(&str, &[Case])] = &[
    ("1.5", section1_strings::CASES),
    ("2", section2_packets::CASES),
    ("3.1", section3_01_connect::CASES),
    ("3.1", section3_01_will::CASES),
    ("3.2", section3_02_connack::CASES),
    ("3.3", section3_03_publish::CASES),
    ("3.3", section3_03_retain::CASES),
    ("3.4", section3_04_acks::CASES),
    ("3.8", section3_08_subscribe::CASES),
    ("3.10", section3_10_unsubscribe::CASES),
    ("3.12", section3_12_ping::CASES),
    ("3.14", section3_14_disconnect::CASES),
    ("4.1", section4_01_state::CASES),
    ("4.3", section4_03_qos::CASES),
    ("4.3", section4_03_qos2::CASES),
    ("4.7", section4_07_topics::CASES),
    ("4.8", section4_08_shared::CASES),
    ("4.12", section4_12_auth::CASES),
    ("4.13", section4_13_errors::CASES),
    ("6", section6_websocket::CASES),
];

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    section: Option<String>,
    name: Option<String>,
    nodes: Vec<usize>,
    /// Ports of a broker that runs already, instead of nodes of our own.
    at: Option<u16>,
    write: bool,
    check: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options =
            Options { section: None, name: None, nodes: vec![1, 3], at: None, write: false, check: false };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--nodes" => {
                    let count = arguments.next().context("--nodes takes 1 or 3")?;
                    ensure!(["1", "3"].contains(&count.as_str()), "--nodes takes 1 or 3, not {count}");
                    options.nodes = vec![count.parse()?];
                }
                "--section" => options.section = Some(arguments.next().context("--section takes a section")?),
                "--at" => options.at = Some(arguments.next().context("--at takes a port")?.parse()?),
                "--write" => options.write = true,
                "--check" => options.check = true,
                // What people pass to all tests at once.
                "--nocapture" | "--include-ignored" => {}
                "--test-threads" => drop(arguments.next()),
                flag if flag.starts_with("--test-threads=") => {}
                flag if flag.starts_with('-') => bail!("no option is called {flag}"),
                name => options.name = Some(name.to_owned()),
            }
        }
        let part = options.is_part() || options.at.is_some() || options.nodes.len() == 1;
        ensure!(!(options.write && part), "--write needs the whole table on one node and on three");
        Ok(options)
    }

    fn is_part(&self) -> bool {
        self.section.is_some() || self.name.is_some()
    }

    fn wants(&self, chapter: &str, case: &Case) -> bool {
        let below = |id: &str, section: &str| {
            id.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
        };
        self.name.as_ref().is_none_or(|name| case.name.contains(name.as_str()))
            && self.section.as_ref().is_none_or(|section| {
                below(chapter, section) || case.v5.iter().chain(case.v4).any(|id| below(id, section))
            })
    }
}

/// One case in one version.
struct Job {
    number: usize,
    case: &'static Case,
    version: Version,
}

fn run(options: &Options) -> Result<()> {
    let all: Vec<&Case> = CHAPTERS.iter().flat_map(|(_, cases)| *cases).collect();
    selftest::run(&all).context("the checkers of the table")?;
    let table = Table::new(&all)?;
    let faults = table.faults();
    for fault in &faults {
        println!("table: {fault}");
    }
    if options.check {
        ensure!(faults.is_empty(), "{} faults of the table", faults.len());
        return report::check_committed(&table.document(&Failed::new()), &report::committed()?);
    }
    let mut jobs = Vec::new();
    for (chapter, cases) in CHAPTERS {
        for case in cases.iter().filter(|case| options.wants(chapter, case)) {
            for version in case.versions {
                jobs.push(Job { number: jobs.len(), case, version: *version });
            }
        }
    }
    ensure!(!jobs.is_empty() || options.section.is_none(), "no case belongs to this section");
    let mut failed = Failed::new();
    if let Some(port) = options.at {
        failed.extend(run_jobs("the broker that runs", &[port], &jobs));
    } else if !jobs.is_empty() {
        for nodes in &options.nodes {
            failed.extend(run_on(*nodes, &jobs)?);
        }
    }
    println!();
    if options.is_part() {
        println!(
            "A part of the table: {} runs, {} failed. The counts of all are those of a whole run.",
            jobs.len(),
            failed.len()
        );
    } else {
        VERSIONS.iter().for_each(|version| println!("{}", table.counts(*version, &failed)));
    }
    if options.write {
        report::write(&table.document(&failed))?;
    }
    ensure!(failed.is_empty(), "{} cases failed", failed.len());
    ensure!(faults.is_empty(), "{} faults of the table", faults.len());
    if options.is_part() {
        return Ok(());
    }
    report::check_committed(&table.document(&failed), &report::committed()?)
}

/// Runs the jobs on a cluster of its own.
fn run_on(nodes: usize, jobs: &[Job]) -> Result<Failed> {
    let cluster = Cluster::start(&format!("conformance-{nodes}"), nodes)?;
    let what = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
    let failed = run_jobs(&what, &cluster.ports_from(0), jobs);
    cluster.check_log()?;
    Ok(failed)
}

/// Runs the jobs on nodes with these ports: side by side, then those that want to be alone.
fn run_jobs(what: &str, ports: &[u16], jobs: &[Job]) -> Failed {
    let started = Instant::now();
    let (alone, others): (Vec<&Job>, Vec<&Job>) = jobs.iter().partition(|job| job.case.alone);
    let failed = Mutex::new(Failed::new());
    for (jobs, at_once) in [(others, CASES_AT_ONCE), (alone, 1)] {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(report) = run_job(job, ports) {
                            println!("FAILED on {what}: {report}");
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.insert((job.version, job.case.name));
                        }
                    }
                });
            }
        });
    }
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let passed = jobs.len() - failed.len();
    println!("{what}: {passed} of {} runs passed in {:.1} s", jobs.len(), started.elapsed().as_secs_f64());
    failed
}

/// Runs one case; an error is all that a person needs to know.
fn run_job(job: &Job, ports: &[u16]) -> Result<(), String> {
    let trace = Rc::new(RefCell::new(Vec::new()));
    let cx = Cx {
        ports: ports.to_vec(),
        websocket_ports: ports.iter().map(|port| port + WEBSOCKET_ABOVE_MQTT).collect(),
        version: job.version,
        number: job.number,
        deadline: Instant::now() + CASE_DEADLINE,
        trace: Rc::clone(&trace),
        turn: Cell::new(job.number),
    };
    let started = Instant::now();
    (job.case.run)(&cx).map_err(|error| {
        let lines = trace.borrow().join("\n    ");
        format!("{} with {}: {error:#}\n    {lines}", job.case.name, job.version.name())
    })?;
    if std::env::var_os("QUORATE_CONFORMANCE_TIMES").is_some() && started.elapsed() > Duration::from_secs(1) {
        println!("{} with {}: {:.1} s", job.case.name, job.version.name(), started.elapsed().as_secs_f64());
    }
    Ok(())
}
