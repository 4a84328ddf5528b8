//! Seeds, one after the other and side by side: what the command line drives.
//!
//! Owns: running a seed and judging it, running many, the report. Does not: read arguments.
//! Invariants: a failure prints the one command that replays it; the first seeds of a series run twice and must give the
//! same trace.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::invariants;
use crate::marks::{Marks, SEEDS_FOR_ALL};
use crate::mutant::{ALL, Mutant};
use crate::world::World;

/// Seeds at the start of a series that run twice.
const RUN_TWICE: u64 = 5;

/// What to run.
#[derive(Clone, Debug)]
pub struct Series {
    /// First seed.
    pub start: u64,
    /// How many seeds; as many as time allows when `None`.
    pub count: Option<u64>,
    /// Begin no seed after this time.
    pub time: Option<Duration>,
    /// Worlds at once.
    pub jobs: usize,
    /// Name of a bug to put in.
    pub mutant: Option<String>,
    /// Run all seeds, even after one has failed.
    pub keep_going: bool,
}

/// What came of a seed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Seed.
    pub seed: u64,
    /// Broken promises: name, and what was seen.
    pub broken: Vec<(String, String)>,
    /// Equal in two runs of one seed.
    pub trace_hash: u64,
    /// Events in the record.
    pub events: usize,
    /// What it got into.
    pub marks: Marks,
}

/// The series cannot be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownMutant(pub String);

/// Runs one seed, with its trace on standard output if asked.
pub fn run_seed(seed: u64, mutant: Option<&str>, trace: bool) -> Result<Outcome, UnknownMutant> {
    Ok(run(seed, parse(mutant)?, trace))
}

/// Names of the mutants, and what each does.
pub fn mutants() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALL.iter().map(|(_, name, what)| (*name, *what))
}

/// The command that replays a seed.
pub fn replay_command(seed: u64, mutant: Option<&str>) -> String {
    let mutant = mutant.map(|name| format!(" --mutant {name}")).unwrap_or_default();
    format!("cargo xtask sim --seed {seed}{mutant}")
}

fn parse(mutant: Option<&str>) -> Result<Option<Mutant>, UnknownMutant> {
    match mutant {
        None => Ok(None),
        Some(name) => Mutant::parse(name).map(Some).ok_or_else(|| UnknownMutant(name.to_owned())),
    }
}

thread_local! {
    static CURRENT: std::cell::Cell<Option<(u64, Option<Mutant>)>> = const { std::cell::Cell::new(None) };
}

/// The seed that this thread runs: for the message of a panic.
pub fn current_seed() -> Option<(u64, Option<&'static str>)> {
    CURRENT.get().map(|(seed, mutant)| (seed, mutant.map(Mutant::name)))
}

fn run(seed: u64, mutant: Option<Mutant>, trace: bool) -> Outcome {
    CURRENT.set(Some((seed, mutant)));
    let (mut history, stuck) = World::new(seed, mutant, trace).run();
    let mut marks = std::mem::take(&mut history.marks);
    marks.read(&history);
    let mut broken: Vec<(String, String)> = Vec::new();
    for (name, found) in invariants::check(&history) {
        // What is still on its way when a run gets stuck is not lost.
        if stuck.is_none()
            || !["D1-no-acked-loss", "D10-subscription-barrier", "D14-share-groups"].contains(&name)
        {
            broken.push((name.to_owned(), format!("at {:.6} s: {}", found.at.as_secs_f64(), found.what)));
        }
    }
    if let Some(stuck) = stuck {
        broken.push(("liveness".to_owned(), format!("{}: {}", stuck.promise, stuck.seen)));
    }
    CURRENT.set(None);
    Outcome { seed, broken, trace_hash: history.trace_hash(), events: history.entries.len(), marks }
}

/// What came of a series.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that ran.
    pub seeds: u64,
    /// Those that failed.
    pub failed: Vec<Outcome>,
    /// How long it took.
    pub elapsed: Duration,
    /// Seeds that got into each situation.
    pub marks: Marks,
}

impl Report {
    /// Names of the situations that a series of this length must have got into and did not.
    pub fn missing_marks(&self) -> Vec<&'static str> {
        if self.seeds < SEEDS_FOR_ALL { Vec::new() } else { self.marks.missing() }
    }

    /// Failed seeds by the promises they broke.
    pub fn by_promise(&self) -> BTreeMap<String, Vec<u64>> {
        let mut by: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for outcome in &self.failed {
            for (name, _) in &outcome.broken {
                by.entry(name.clone()).or_default().push(outcome.seed);
            }
        }
        by
    }
}

/// Runs a series; stops at the first failure unless told to keep going.
pub fn run_series(series: &Series) -> Result<Report, UnknownMutant> {
    let mutant = parse(series.mutant.as_deref())?;
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let over = series.count.is_some_and(|count| number >= count)
                || series.time.is_some_and(|time| began.elapsed() >= time);
            if over || stop.load(Ordering::Relaxed) {
                return;
            }
            let seed = series.start + number;
            let mut outcome = run(seed, mutant, false);
            if number < RUN_TWICE && run(seed, mutant, false).trace_hash != outcome.trace_hash {
                let what = "two runs of the seed differ".to_owned();
                outcome.broken.push(("determinism".to_owned(), what));
            }
            let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            report.seeds += 1;
            report.marks.add_run(&outcome.marks);
            if !outcome.broken.is_empty() {
                report.failed.push(outcome);
                stop.fetch_or(!series.keep_going, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..series.jobs {
            scope.spawn(work);
        }
        work();
    });
    let mut report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.elapsed = began.elapsed();
    report.failed.sort_by_key(|outcome| outcome.seed);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_run_twice_gives_the_same_trace() {
        for seed in [1, 2] {
            assert_eq!(run(seed, None, false).trace_hash, run(seed, None, false).trace_hash);
        }
    }

    #[test]
    fn unknown_mutant_is_refused() {
        assert_eq!(run_seed(1, Some("none-such"), false), Err(UnknownMutant("none-such".to_owned())));
    }
}
