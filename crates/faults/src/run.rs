//! A run: clients work, faults come and go by a random plan, then everything must be there.
//!
//! Owns: the order of a run and what it measures. Does not: inject faults or judge histories itself.
//! Invariants: the next fault comes only after the cluster was whole and every publisher had answers again.
//! Limits: `LED_MAX`, `RECOVERY_MAX`, `COMPARE_MAX`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use quorate_tests::let_pass;

use crate::check::{CHECKERS, Index, PARTITIONS, told};
use crate::cluster::Cluster;
use crate::history::{Event, HARNESS, Moment, Recorder, What};
use crate::load::Load;
use crate::lookout::Lookout;
use crate::nemesis::Nemesis;
use crate::random::Random;
use crate::stalls::Stalls;

/// From healing to a leader for each group: beyond it a run ends. The promise is 10 s, which a checker holds the history to.
const LED_MAX: Duration = Duration::from_secs(30);

/// From then on until all nodes are ready: one that has lost its state fetches it from the others.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

/// What the report counts as a long recovery.
pub const RECOVERY_PROMISED: Duration = Duration::from_secs(10);

/// States are compared for so long.
const COMPARE_MAX: Duration = Duration::from_secs(60);

/// When the machine keeps a thread that does nothing waiting for longer, one that works may wait for the 800 ms after which a follower
/// takes its leader for dead.
const STALL_MAX: Duration = Duration::from_millis(150);

/// A fault of the run.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Name of its nemesis.
    pub name: &'static str,
    /// When its injection began.
    pub injected: Moment,
    /// When it was healed and the cluster whole.
    pub recovered: Moment,
    /// From the end of healing to a whole cluster.
    pub recovery: Duration,
    /// How much the terms of all groups grew.
    pub terms: u64,
    /// That it happened.
    pub proof: String,
    /// What did not hold while it lasted.
    pub problems: Vec<String>,
}

/// What came of a run.
pub struct Outcome {
    /// Faults in order.
    pub faults: Vec<Fault>,
    /// The history.
    pub events: Vec<Event>,
    /// What broke a promise: checker and line.
    pub broken: Vec<(&'static str, String)>,
    /// Lines of ERROR in the logs.
    pub errors: Vec<String>,
    /// How long it took until subscribers had everything.
    pub drained: Duration,
    /// The whole run.
    pub elapsed: Duration,
}

/// When no more faults come.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many.
    Count(usize),
}

/// Runs the nemeses in random order, each at least once when the time is enough.
///
/// # Errors
/// When clients cannot begin, or a history cannot be written. A fault that cannot be injected, proven or healed, or from which
/// the cluster does not recover, ends the run and is part of what came of it.
pub fn run(
    cluster: &mut Cluster,
    nemeses: &mut [Box<dyn Nemesis>],
    until: Until,
    seed: u64,
    history: &Path,
) -> Result<Outcome> {
    let begin = Instant::now();
    let mut random = Random::new(seed);
    let recorder = Recorder::create(history)?;
    let load = Load::start(cluster, &recorder)?;
    cluster.ground = Some(load.ground.clone());
    let stalls = Stalls::watch();
    let mut faults: Vec<Fault> = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    let mut cut = None;
    let goes_on = |count: usize| match until {
        Until::Time(time) => begin.elapsed() < time || count == 0,
        Until::Count(wanted) => count < wanted,
    };
    while goes_on(faults.len()) {
        if order.is_empty() {
            order = shuffled(nemeses.len(), &mut random);
        }
        let next = order.pop().context("a nemesis to run")?;
        let nemesis = nemeses.get_mut(next).context("a nemesis to run")?;
        let fault = one_fault(cluster, nemesis.as_mut(), &recorder, &mut random, &stalls)
            .and_then(|fault| load.wait_progress(&recorder).map(|()| fault))
            .with_context(|| format!("fault {} ({})", faults.len() + 1, nemesis.name()));
        let fault = match fault {
            Ok(fault) => fault,
            Err(error) => {
                cut = Some(format!("{error:#}"));
                break;
            }
        };
        println!(
            "{:>6.1} s  {}: {}; whole again {} ms after healing, terms +{}",
            begin.elapsed().as_secs_f64(),
            fault.name,
            fault.proof,
            fault.recovery.as_millis(),
            fault.terms
        );
        for problem in &fault.problems {
            println!("          BROKEN {problem}");
        }
        faults.push(fault);
        calm(cluster, &recorder, random.between(Duration::from_millis(500), Duration::from_secs(4)));
    }
    // A cluster that did not recover gives no last answers: nobody waits for them.
    let (drained, stuck) = load.end(&recorder, cut.is_some())?;
    let mut outcome = judge(cluster, &recorder, cut)?;
    outcome.broken.extend(stuck.map(|line| ("answers", line)));
    for fault in &faults {
        outcome.broken.extend(fault.problems.iter().map(|problem| (fault.name, problem.clone())));
    }
    outcome.faults = faults;
    outcome.drained = drained;
    outcome.elapsed = begin.elapsed();
    Ok(outcome)
}

fn shuffled(count: usize, random: &mut Random) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        order.swap(place, random.below(place + 1));
    }
    order
}

/// Lets time pass without a fault, and notes what nodes count as dropped meanwhile.
fn calm(cluster: &Cluster, recorder: &Recorder, time: Duration) {
    let note = || cluster.dropped().map(|total| recorder.note(HARNESS, What::Dropped { total }));
    let begun = note();
    let_pass(time);
    if begun.is_ok() {
        // Without an answer there is no end of it, and the checker has one pair less.
        let _ = note();
    }
}

fn one_fault(
    cluster: &mut Cluster,
    nemesis: &mut dyn Nemesis,
    recorder: &Recorder,
    random: &mut Random,
    stalls: &Stalls,
) -> Result<Fault> {
    let holds = nemesis.holds();
    let before = cluster.terms()?;
    let lasts = nemesis.lasts(random);
    let injected = recorder.note(HARNESS, What::FaultInvoke { name: nemesis.name().to_owned() });
    let done = nemesis.inject(cluster, random).context("inject")?;
    stalls.longest();
    // Not of a fault that makes nodes too slow to say.
    let elections = holds.no_election.then(|| cluster.elections()).transpose()?;
    let silenced = done.silenced.clone();
    let lookout =
        nemesis.name().starts_with(PARTITIONS).then(|| Lookout::start(cluster, recorder, &silenced));
    let since = recorder.note(HARNESS, What::FaultOk { silenced });
    let_pass(lasts);
    drop(lookout);
    let proof = nemesis.proof(cluster).context("prove that it happened")?;
    let mut problems = nemesis.problems();
    let mut proof = proof;
    if let Some(before) = elections {
        match (stalls.longest(), cluster.elections()?.saturating_sub(before)) {
            (stalled, _) if stalled > STALL_MAX => {
                let stalled = stalled.as_millis();
                proof = format!("{proof}, elections not judged: this machine stood still for {stalled} ms");
            }
            (_, 0) => {}
            (_, count) => problems.push(format!("{count} elections during {}", nemesis.name())),
        }
    }
    let answered = |event: &Event| matches!(event.what, What::PublishOk { .. });
    if holds.progress && recorder.count_since(since, answered) == 0 {
        problems.push(format!("no acknowledgement during {}", nemesis.name()));
    }
    let recovery = heal(cluster, nemesis, recorder)?;
    let (terms, most) = growth(&before, &cluster.terms()?);
    let recovered = recorder.note(HARNESS, What::Recovered { terms: most });
    let nodes: Vec<String> = done.victims.iter().map(|place| format!("n{}", place + 1)).collect();
    let proof = format!("{} for {} ms, {proof}", nodes.join(" "), lasts.as_millis());
    Ok(Fault { name: nemesis.name(), injected, recovered, recovery, terms, proof, problems })
}

/// Heals a fault and waits until the cluster is whole; gives how long that took.
fn heal(cluster: &mut Cluster, nemesis: &mut dyn Nemesis, recorder: &Recorder) -> Result<Duration> {
    recorder.note(HARNESS, What::HealInvoke);
    nemesis.heal(cluster).context("heal")?;
    let healed = Instant::now();
    recorder.note(HARNESS, What::Healed);
    cluster.wait_led(LED_MAX).context("recover")?;
    recorder.note(HARNESS, What::Led);
    cluster.wait_whole(RECOVERY_MAX).context("recover")?;
    Ok(healed.elapsed())
}

/// How much the terms of all groups have grown together, and that of one at most.
fn growth(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> (u64, u64) {
    let grown = |(group, term): (&u32, &u64)| term.saturating_sub(before.get(group).copied().unwrap_or(0));
    let growths = || after.iter().map(grown);
    (growths().sum(), growths().max().unwrap_or(0))
}

fn judge(cluster: &mut Cluster, recorder: &Recorder, cut: Option<String>) -> Result<Outcome> {
    let whole = cut.is_none();
    let mut broken: Vec<(&str, String)> = cut.into_iter().map(|error| ("recovery", error)).collect();
    if whole && let Err(error) = cluster.compare_states(COMPARE_MAX) {
        broken.push(("states", format!("{error:#}")));
    }
    cluster.note_surprises()?;
    let (panics, errors) = cluster.complaints()?;
    broken.extend(panics.into_iter().map(|line| ("panics", line)));
    let surprises = cluster.nodes.iter().flat_map(|node| node.surprises.iter().cloned());
    broken.extend(surprises.map(|line| ("processes", line)));
    let events = recorder.events()?;
    let index = Index::of(&events);
    for checker in CHECKERS {
        let find = if whole { Some(checker.find) } else { checker.find_of_cut };
        let Some(find) = find else { continue };
        let found = told(find(&events, &index));
        broken.extend(found.into_iter().map(|line| (checker.name, line)));
    }
    let (faults, none) = (Vec::new(), Duration::ZERO);
    Ok(Outcome { faults, events, broken, errors, drained: none, elapsed: none })
}
