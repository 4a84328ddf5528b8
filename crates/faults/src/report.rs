//! The report of a run, for a terminal and as a page of the documents.
//!
//! Owns: their text. Does not: measure; name folders of the machine.
//! Invariants: what was skipped is in it with its reason, what broke a promise comes first.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;

use crate::check::{CHECKERS, Index, told};
use crate::machine;
use crate::measure::{Around, BUCKETS_MS, Counts, around, counts, quantile};
use crate::nemesis::NOT_INJECTED;
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
    faults(&mut text, &around(&index, &outcome.faults));
    text.push_str("\n## Not injected\n");
    for (name, reason) in skipped {
        let _ = writeln!(text, "- {name}: {reason}");
    }
    for (name, reason) in NOT_INJECTED {
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

/// The tables by kind of fault.
fn faults(text: &mut String, kinds: &std::collections::BTreeMap<&'static str, Around>) {
    text.push_str("\n## Faults\n");
    text.push_str(
        "The answer times are of publishes that overlap a fault, from first sending to PUBACK or PUBREC, on whichever connection \
         it came. A gap is the longest time that one publisher had no answer, from the one before the fault to the one after it. \
         Open are publishes that were sent again, because their connection broke before the answer. Recovery is from the end of healing until all \
         nodes are ready and agree on a leader of each group.\n\n",
    );
    text.push_str(
        "| fault | count | answers | p50 | p99 | longest | gap p50 | gap p99 | longest gap | open | longest recovery | growth of terms |\n",
    );
    text.push_str("|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    let ms = |times: &[Duration], thousandths| quantile(times, thousandths).as_millis();
    for (name, kind) in kinds {
        let share = 100.0 * kind.open.0 as f64 / kind.open.1.max(1) as f64;
        let (answers, gaps) = (&kind.answers, &kind.gaps);
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} ms | {} ms | {} ms | {} ms | {} ms | {} ms | {share:.1} % | {} ms | {} |",
            kind.faults,
            answers.len(),
            ms(answers, 500),
            ms(answers, 990),
            ms(answers, 1000),
            ms(gaps, 500),
            ms(gaps, 990),
            ms(gaps, 1000),
            kind.recovery.as_millis(),
            kind.terms
        );
    }
    text.push_str(
        "\n## Gaps\nHow many gaps were as long as this, in milliseconds, over all publishers.\n\n| fault |",
    );
    for most in BUCKETS_MS {
        let _ = write!(text, " ≤ {most} |");
    }
    text.push_str(" more |\n|---|");
    text.push_str(&"---|".repeat(BUCKETS_MS.len() + 1));
    for (name, kind) in kinds {
        let counts: Vec<String> = kind.histogram().iter().map(usize::to_string).collect();
        let _ = write!(text, "\n| {name} | {} |", counts.join(" | "));
    }
    text.push('\n');
}

fn sentence(counts: &Counts, outcome: &Outcome, seed: u64) -> String {
    let slow = outcome.faults.iter().filter(|fault| fault.recovery > RECOVERY_PROMISED).count();
    let kinds: std::collections::BTreeSet<_> = outcome.faults.iter().map(|fault| fault.name).collect();
    let share = 100.0 * counts.open as f64 / counts.published.max(1) as f64;
    format!(
        "{} faults of {} kinds in {} s, seed {seed}: {} published, {} acknowledged, {} refused, {} ({share:.1} %) open for a while, {} lost; {} \
         delivered, of which {} copies at QoS 1 ({} more of QoS 2 were kept from their application); {} reconnects; {} retained writes, {} \
         reads; {} messages of QoS 0, {} caught by two; {} wills stored, {} came; {} messages to probes of the barrier; {} messages acknowledged \
         for the share group, {} delivered; subscribers had everything {} ms after the load ended; {slow} recoveries took longer than {} s.",
        outcome.faults.len(),
        kinds.len(),
        outcome.elapsed.as_secs(),
        counts.published,
        counts.acked,
        counts.refused,
        counts.open,
        counts.lost,
        counts.delivered,
        counts.duplicates,
        counts.repeated,
        counts.reconnects,
        counts.writes,
        counts.reads,
        counts.thrown.0,
        counts.thrown.1,
        counts.wills.0,
        counts.wills.1,
        counts.probes,
        counts.shared.0,
        counts.shared.1,
        outcome.drained.as_millis(),
        RECOVERY_PROMISED.as_secs(),
    )
}

fn figures(kind: &Around) -> Vec<String> {
    let ms = |times: &[Duration], thousandths| quantile(times, thousandths).as_millis();
    vec![
        format!("{:>3} times", kind.faults),
        format!(
            "answers p50 {} p99 {} longest {} ms",
            ms(&kind.answers, 500),
            ms(&kind.answers, 990),
            ms(&kind.answers, 1000)
        ),
        format!("gaps p50 {} longest {} ms", ms(&kind.gaps, 500), ms(&kind.gaps, 1000)),
        format!("recovery at most {} ms", kind.recovery.as_millis()),
        format!("terms +{}", kind.terms),
    ]
}

/// What ran where.
///
/// # Errors
/// When the machine does not say what it is.
pub fn machine_line() -> Result<String> {
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
