//! `faults`: real nodes under real faults, and checkers over everything that their clients saw.
//!
//! Owns: the command line. Does not: build the program under test; `QUORATE_BIN` names it.
//! Invariants: exit code 0 only when every fault was proven and no checker found anything.
//! See: docs/operations/faults.md.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]
// It talks to a person on standard output.
#![allow(clippy::print_stdout)]

mod check;
mod client;
mod cluster;
mod gaps;
mod group;
mod history;
mod load;
mod lookout;
mod machine;
mod mangle;
mod measure;
mod nemesis;
mod network;
mod only;
mod random;
mod report;
mod run;
mod stalls;
mod tracer;
mod volume;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, Syncs};
use crate::nemesis::Nemesis;
use crate::only::OnlyRun;
use crate::run::Until;

const USAGE: &str = "\
Usage: cargo xtask faults [--scenario NAME]... [--minutes N] [--seed N] [--port N] [--report FILE] [--keep] [--list]
                          [--count N] [--without-sync] [--debug]
       cargo xtask faults --gaps [--beside NAME,...] ...   how long publishers have no answers, --gaps --help says more

  --scenario NAME  only these faults; all that this machine can inject by default
  --minutes N      how long faults come (5); a run takes some longer
  --count N        so many faults, however long they take
  --seed N         of the random plan (1)
  --port N         first of twelve ports on loopback (23500)
  --keep           keep the folder of the run, with history and logs, also when nothing is wrong
  --report FILE    write the report as a page
  --without-sync   the system says that it has synced files, and has not: a run with power cuts must then find losses
  --debug          a debug build of the nodes (a release build)
  --list           what there is, and what this machine cannot inject";

struct Arguments {
    scenarios: Vec<String>,
    minutes: u64,
    count: Option<usize>,
    without_sync: bool,
    seed: u64,
    port: u16,
    report: Option<PathBuf>,
    keep: bool,
    list: bool,
}

fn main() -> ExitCode {
    match start() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut parsed = Arguments {
        scenarios: Vec::new(),
        minutes: 5,
        count: None,
        without_sync: false,
        seed: 1,
        port: 23_500,
        report: None,
        keep: false,
        list: false,
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value\n{USAGE}"));
        match argument.as_str() {
            "--scenario" => parsed.scenarios.push(value()?),
            "--minutes" => parsed.minutes = value()?.parse().context("read --minutes")?,
            "--count" => parsed.count = Some(value()?.parse().context("read --count")?),
            "--without-sync" => parsed.without_sync = true,
            "--seed" => parsed.seed = value()?.parse().context("read --seed")?,
            "--port" => parsed.port = value()?.parse().context("read --port")?,
            "--report" => parsed.report = Some(value()?.into()),
            "--keep" => parsed.keep = true,
            "--list" => parsed.list = true,
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    Ok(parsed)
}

/// Runs; true when nothing is wrong.
fn start() -> Result<bool> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some((_, manner)) = words.split_first().filter(|(first, _)| *first == mangle::COMMAND) {
        return mangle::run(mangle::Manner::parse(manner)?).map(|()| true);
    }
    if let Some((_, rest)) = words.split_first().filter(|(first, _)| *first == gaps::COMMAND) {
        return gaps::start(rest).map(|()| true);
    }
    if words.iter().any(|word| word == "--help") {
        println!("{USAGE}");
        return Ok(true);
    }
    let arguments = parse(words.into_iter())?;
    let mut nemeses = nemesis::all();
    if let Some(unknown) =
        arguments.scenarios.iter().find(|name| nemeses.iter().all(|nemesis| nemesis.name() != **name))
    {
        bail!("no fault is called {unknown:?}; --list shows them");
    }
    let mut skipped: Vec<report::Skipped> = Vec::new();
    let mut chosen: Vec<Box<dyn Nemesis>> = Vec::new();
    for nemesis in nemeses.drain(..) {
        let wanted =
            arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|name| name == nemesis.name());
        match nemesis.lacking() {
            _ if !wanted => {}
            Some(reason) => {
                println!("{}: skipped, {reason}", nemesis.name());
                skipped.push((nemesis.name(), reason));
            }
            None => {
                println!("{}: {}", nemesis.name(), nemesis.what());
                chosen.push(nemesis);
            }
        }
    }
    if arguments.list {
        return Ok(true);
    }
    ensure!(!chosen.is_empty(), "none of these faults can be injected here");
    let _only = OnlyRun::begin()?;
    let dir = only::folder();
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    println!("run in {}, seed {}", dir.display(), arguments.seed);
    let syncs = if arguments.without_sync { Syncs::Swallowed } else { Syncs::Done };
    if syncs == Syncs::Swallowed {
        println!("no sync reaches the disks: what is lost is no defect");
        ensure!(machine::missing(&[tracer::PROGRAM]).is_none(), "--without-sync needs {}", tracer::PROGRAM);
    }
    let mut cluster = Cluster::start(&dir, arguments.port, syncs)?;
    let until = match arguments.count {
        Some(count) => Until::Count(count),
        None => Until::Time(Duration::from_secs(60 * arguments.minutes)),
    };
    let history = dir.join("history.jsonl");
    let outcome = run::run(&mut cluster, &mut chosen, until, arguments.seed, &history)?;
    print!("{}", report::text(&outcome, arguments.seed));
    if let Some(file) = &arguments.report {
        let text = report::page(&outcome, arguments.seed, &skipped)?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    drop(cluster);
    if outcome.broken.is_empty() && !arguments.keep {
        std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    } else {
        println!("history and logs are kept in {}", dir.display());
    }
    Ok(outcome.broken.is_empty())
}
