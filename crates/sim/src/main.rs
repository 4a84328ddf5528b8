//! The simulator's command line. `cargo xtask sim ARGS` calls it in a release build.
//!
//! Owns: arguments, the report, exit codes: 0 all green, 1 a promise was broken, 2 the arguments make no sense.
//! Does not: simulate; see the library. See: docs/simulation.md.
// The report is the program's output.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Duration;

use quorate_sim::ledger;
use quorate_sim::runner::{self, Outcome, Report, Series, UnknownMutant};

const USAGE: &str = "\
Usage: quorate-sim [OPTIONS]

  --seeds N        run N seeds (default 100), the first five of them twice
  --start S        first seed of a series (default 1)
  --seconds T      run as many seeds as fit in T seconds
  --seed S         replay one seed with its trace on standard output
  --quiet          without the trace
  --jobs N         worlds at once (default 2)
  --keep-going     do not stop at the first seed that fails
  --ledger         run the seeds that once failed: crates/sim/ledger.md
  --marks          say how many seeds got into each situation; from 1,000 seeds on, each must have been reached
  --mutant NAME    put a bug in; the run is green when no promise breaks, which then means that nobody noticed
  --list-mutants   the bugs there are
  --prove          put in each bug in turn; green when every one is noticed within 2000 seeds";

/// Bugs that need more than the seeds of a proof: three leaders in a row must fail at the right moments. They run by name.
const UNPROVEN: [&str; 1] = ["older-term-counted"];

/// Seeds within which a bug must be noticed.
const PROVE_SEEDS: u64 = 2000;

#[derive(Default)]
struct Arguments {
    seeds: Option<u64>,
    start: Option<u64>,
    seconds: Option<u64>,
    seed: Option<u64>,
    jobs: Option<u64>,
    mutant: Option<String>,
    quiet: bool,
    keep_going: bool,
    list_mutants: bool,
    ledger: bool,
    marks: bool,
    prove: bool,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("error: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    say_seed_at_panic();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(UnknownMutant(name)) => {
            eprintln!("error: no mutant is called {name}\nhint: --list-mutants names them");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
        match word.as_str() {
            "--seeds" => arguments.seeds = Some(number(value()?)?),
            "--start" => arguments.start = Some(number(value()?)?),
            "--seconds" => arguments.seconds = Some(number(value()?)?),
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--jobs" => arguments.jobs = Some(number(value()?)?),
            "--mutant" => arguments.mutant = Some(value()?),
            "--quiet" => arguments.quiet = true,
            "--keep-going" => arguments.keep_going = true,
            "--ledger" => arguments.ledger = true,
            "--marks" => arguments.marks = true,
            "--list-mutants" => arguments.list_mutants = true,
            "--prove" => arguments.prove = true,
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(arguments)
}

/// A panic ends the process: the seed must be known by then.
fn say_seed_at_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if let Some((seed, mutant)) = runner::current_seed() {
            println!("seed {seed} FAILED: a node panicked: {panic}");
            println!("    replay: {}", runner::replay_command(seed, mutant));
            std::process::exit(1);
        }
    }));
}

fn run(arguments: &Arguments) -> Result<bool, UnknownMutant> {
    if arguments.list_mutants {
        for (name, what) in runner::mutants() {
            println!("{name:<28} {what}");
        }
        return Ok(true);
    }
    if arguments.prove {
        return Ok(prove());
    }
    if arguments.ledger {
        return ledger();
    }
    let mutant = arguments.mutant.as_deref();
    if let Some(seed) = arguments.seed {
        let outcome = runner::run_seed(seed, mutant, !arguments.quiet)?;
        println!("seed {seed}: {} events, trace hash {:016x}", outcome.events, outcome.trace_hash);
        show(&outcome, mutant);
        return Ok(outcome.broken.is_empty());
    }
    let series = Series {
        start: arguments.start.unwrap_or(1),
        count: arguments.seeds.or(if arguments.seconds.is_some() { None } else { Some(100) }),
        time: arguments.seconds.map(Duration::from_secs),
        jobs: usize::try_from(arguments.jobs.unwrap_or(2)).unwrap_or(2).max(1),
        mutant: arguments.mutant.clone(),
        keep_going: arguments.keep_going,
    };
    let report = runner::run_series(&series)?;
    for outcome in &report.failed {
        show(outcome, mutant);
    }
    summarize(&report);
    if arguments.marks {
        show_marks(&report);
    }
    let missing = if mutant.is_none() { report.missing_marks() } else { Vec::new() };
    if !missing.is_empty() {
        println!("never reached in {} seeds: {}", report.seeds, missing.join(", "));
    }
    Ok(report.failed.is_empty() && missing.is_empty())
}

/// Runs every seed that once failed.
fn ledger() -> Result<bool, UnknownMutant> {
    let rows = ledger::rows();
    let mut failed = 0;
    for row in &rows {
        let outcome = runner::run_seed(row.seed, None, false)?;
        show(&outcome, None);
        failed += usize::from(!outcome.broken.is_empty());
    }
    let current = rows.iter().filter(|row| row.is_current()).count();
    println!("{} seeds of the ledger, {current} of them of the present draws, {failed} failed", rows.len());
    Ok(failed == 0)
}

/// Runs every mutant in a process of its own, for some end in a panic; prints a row of a Markdown table for each.
fn prove() -> bool {
    println!("| mutant | what it does | noticed at seed | by |\n|---|---|---|---|");
    let mut all = true;
    for (name, what) in runner::mutants().filter(|(name, _)| !UNPROVEN.contains(name)) {
        let seen = noticed(name);
        all &= seen.is_some();
        let (seed, by) =
            seen.unwrap_or_else(|| ("none".to_owned(), format!("NOBODY in {PROVE_SEEDS} seeds")));
        println!("| {name} | {what} | {seed} | {by} |");
    }
    all
}

/// The first seed that fails with a mutant, and the promise that it breaks.
fn noticed(mutant: &str) -> Option<(String, String)> {
    let seeds = PROVE_SEEDS.to_string();
    let output = std::process::Command::new(std::env::current_exe().ok()?)
        .args(["--jobs", "1", "--mutant", mutant, "--seeds", &seeds])
        .stderr(std::process::Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("seed ")?.split_once(" FAILED: "));
    let (seed, promise) = line?;
    Some((seed.to_owned(), promise.split(':').next()?.to_owned()))
}

fn show(outcome: &Outcome, mutant: Option<&str>) {
    for (name, what) in &outcome.broken {
        println!("seed {} FAILED: {name}: {what}", outcome.seed);
    }
    if !outcome.broken.is_empty() {
        println!("    replay: {}", runner::replay_command(outcome.seed, mutant));
    }
}

/// A row of a Markdown table for each mark.
fn show_marks(report: &Report) {
    println!("| mark | a run in which | seeds |\n|---|---|---|");
    for (name, what, seeds) in report.marks.table() {
        println!("| {name} | {what} | {seeds} |");
    }
}

fn summarize(report: &Report) {
    let elapsed = report.elapsed.as_secs_f64();
    for (promise, seeds) in report.by_promise() {
        println!("{promise}: {} seeds: {seeds:?}", seeds.len());
    }
    let failed = report.failed.len();
    let rate = if elapsed > 0.0 { report.seeds as f64 / elapsed } else { 0.0 };
    println!("{} seeds, {failed} failed, {elapsed:.1} s, {rate:.1} seeds per second", report.seeds);
}
