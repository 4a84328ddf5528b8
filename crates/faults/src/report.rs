//! The report of a run, for a terminal and as a page of the documents.
//!
//! Owns: their text. Does not: measure; name folders of the machine.
//! Invariants: what was skipped is in it with its reason, what broke a promise comes first.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;

use crate::check::{CHECKERS, Index, told};
use crate::machine;
use crate::measure::{Around, Counts, around, counts};
use crate::run::{Outcome, RECOVERY_PROMISED};

/// A fault that was not injected: name and reason.
pub type Skipped = (&'static str, String);

/// For a terminal.
pub fn text(outcome: &Outcome, seed: u64) -> String {
    let index = Index::of(&outcome.events);
    let mut text = String::new();
    for (checker, line) in &outcome.broken {
        let _ = writeln!(text, "BROKEN {checker}: {line}");
    }
    for line in told(outcome.errors.clone()) {
        let _ = writeln!(text, "logged: {line}");
    }
    let _ = writeln!(text, "{}", sentence(&counts(&outcome.events, &index), outcome, seed));
    for (name, kind) in around(&index, &outcome.faults) {
        let _ = writeln!(text, "  {name:<22} {}", figures(&kind).join("  "));
    }
    text
}

/// As a page.
///
/// # Errors
/// When the machine does not say what it is.
pub fn page(outcome: &Outcome, seed: u64, skipped: &[Skipped]) -> Result<String> {
    let index = Index::of(&outcome.events);
    let counts = counts(&outcome.events, &index);
    let mut text = String::from("# A run under faults\n\n");
    text.push_str(
        "Written by `cargo xtask faults --report FILE`; [what it does](../operations/faults.md).\n\n",
    );
    let _ = writeln!(text, "{}.\n", machine_line()?);
    let _ = writeln!(text, "{}\n", sentence(&counts, outcome, seed));
    text.push_str("## What broke a promise\n");
    if outcome.broken.is_empty() {
        text.push_str("Nothing.\n");
    }
    for (checker, line) in &outcome.broken {
        let _ = writeln!(text, "- {checker}: {line}");
    }
    text.push_str("\nChecked: ");
    let names: Vec<String> =
        CHECKERS.iter().map(|checker| format!("{} ({})", checker.name, checker.promises)).collect();
    let _ = writeln!(
        text,
        "{}; equal states at equal applied indexes, panics in logs, processes that end by themselves.",
        names.join(", ")
    );
    text.push_str("\n## Faults\n");
    text.push_str(
        "The answer times are of publishes that overlap a fault, from first sending to PUBACK or PUBREC, on whichever connection \
         it came. Recovery is from healing until all nodes are ready and agree on a leader of each group.\n\n",
    );
    text.push_str("| fault | count | answers | p50 | p99 | longest | longest recovery | growth of terms |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for (name, kind) in around(&index, &outcome.faults) {
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} ms | {} ms | {} ms | {} ms | {} |",
            kind.faults,
            kind.answers.len(),
            kind.quantile(500).as_millis(),
            kind.quantile(990).as_millis(),
            kind.quantile(1000).as_millis(),
            kind.recovery.as_millis(),
            kind.terms
        );
    }
    text.push_str("\n## Skipped\n");
    if skipped.is_empty() {
        text.push_str("Nothing.\n");
    }
    for (name, reason) in skipped {
        let _ = writeln!(text, "- {name}: {reason}");
    }
    if !outcome.errors.is_empty() {
        let count = outcome.errors.len();
        let _ = writeln!(
            text,
            "\nThe nodes logged {count} lines of ERROR; a failed sync or a power cut makes some."
        );
    }
    Ok(text)
}

fn sentence(counts: &Counts, outcome: &Outcome, seed: u64) -> String {
    let slow = outcome.faults.iter().filter(|fault| fault.recovery > RECOVERY_PROMISED).count();
    let share = 100.0 * counts.open as f64 / counts.published.max(1) as f64;
    format!(
        "{} faults in {} s, seed {seed}: {} published, {} acknowledged, {} refused, {} ({share:.1} %) open for a while; {} delivered, of \
         which {} copies at QoS 1 ({} more of QoS 2 were kept from their application); {} reconnects; {} retained writes, {} reads; \
         subscribers had everything {} ms after the load ended; {slow} recoveries took longer than {} s.",
        outcome.faults.len(),
        outcome.elapsed.as_secs(),
        counts.published,
        counts.acked,
        counts.refused,
        counts.open,
        counts.delivered,
        counts.duplicates,
        counts.repeated,
        counts.reconnects,
        counts.writes,
        counts.reads,
        outcome.drained.as_millis(),
        RECOVERY_PROMISED.as_secs(),
    )
}

fn figures(kind: &Around) -> Vec<String> {
    let ms = |time: Duration| time.as_millis();
    vec![
        format!("{:>3} times", kind.faults),
        format!(
            "answers p50 {} p99 {} longest {} ms",
            ms(kind.quantile(500)),
            ms(kind.quantile(990)),
            ms(kind.quantile(1000))
        ),
        format!("recovery at most {} ms", ms(kind.recovery)),
        format!("terms +{}", kind.terms),
    ]
}

/// What ran where.
fn machine_line() -> Result<String> {
    let program = quorate_tests::binary()?.display().to_string();
    let version = machine::run(&program, &["--version"])?;
    let kernel = machine::run("uname", &["-sr"])?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    let kib: u64 = kib.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    let processors = std::thread::available_parallelism()?;
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    Ok(format!(
        "{} ({build} build of the harness), {}, {processors} processors, {} GiB of memory, three nodes",
        version.trim(),
        kernel.trim(),
        kib >> 20
    ))
}
