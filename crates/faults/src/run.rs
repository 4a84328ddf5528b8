//! A run: clients work, faults come and go by a random plan, then everything must be there.
//!
//! Owns: the order of a run and what it measures. Does not: inject faults or judge histories itself.
//! Invariants: the next fault comes only after the cluster was whole and every publisher had answers again.
//! Limits: `RECOVERY_MAX`, `DRAIN_MAX`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quorate_tests::{let_pass, wait_at_most};

use crate::check::{CHECKERS, Index, nothing_missing, told};
use crate::client::{Ground, publisher, register, subscriber};
use crate::cluster::Cluster;
use crate::history::{Event, HARNESS, Moment, Recorder, What};
use crate::nemesis::Nemesis;
use crate::random::Random;
use crate::wire::Version;

/// From healing to a leader for each group and all nodes ready. The promise is 10 s; a machine with other work gets more, and
/// the report says what it took.
const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// What is promised for that.
pub const RECOVERY_PROMISED: Duration = Duration::from_secs(10);

/// From the end of the load until subscribers have everything.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// States are compared for so long.
const COMPARE_MAX: Duration = Duration::from_secs(60);

/// Publishers: version, QoS.
const PUBLISHERS: [(Version, u8); 4] =
    [(Version::V5, 1), (Version::V3, 1), (Version::V5, 2), (Version::V3, 2)];

/// Subscribers: version, QoS, leaves now and then.
const SUBSCRIBERS: [(Version, u8, bool); 4] =
    [(Version::V5, 2, false), (Version::V3, 2, false), (Version::V5, 1, false), (Version::V5, 2, true)];

/// Retained topics, each with a writer; there are as many readers.
const REGISTERS: u32 = 2;

/// Publishes in a second of one publisher.
const RATE: u32 = 20;

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

/// Runs the nemeses in random order for a time, each at least once when the time is enough.
///
/// # Errors
/// When clients cannot begin, or a history cannot be written. A fault that cannot be injected, proven or healed, or from which
/// the cluster does not recover, ends the run and is part of what came of it.
pub fn run(
    cluster: &mut Cluster,
    nemeses: &mut [Box<dyn Nemesis>],
    time: Duration,
    seed: u64,
    history: &Path,
) -> Result<Outcome> {
    let begin = Instant::now();
    let mut random = Random::new(seed);
    let recorder = Recorder::create(history)?;
    let load = Load::start(cluster, &recorder)?;
    let mut faults: Vec<Fault> = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    let mut cut = None;
    while begin.elapsed() < time || faults.is_empty() {
        if order.is_empty() {
            order = shuffled(nemeses.len(), &mut random);
        }
        let next = order.pop().context("a nemesis to run")?;
        let nemesis = nemeses.get_mut(next).context("a nemesis to run")?;
        let fault = one_fault(cluster, nemesis.as_mut(), &recorder, &mut random)
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
        faults.push(fault);
        let_pass(random.between(Duration::from_millis(500), Duration::from_secs(4)));
    }
    // A cluster that did not recover gives no last answers: nobody waits for them.
    let drained = load.end(&recorder, cut.is_some())?;
    let mut outcome = judge(cluster, &recorder, cut)?;
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

fn one_fault(
    cluster: &mut Cluster,
    nemesis: &mut dyn Nemesis,
    recorder: &Recorder,
    random: &mut Random,
) -> Result<Fault> {
    let terms = cluster.terms()?;
    let lasts = nemesis.lasts(random);
    let injected = recorder.note(HARNESS, What::FaultInvoke { name: nemesis.name().to_owned() });
    let done = nemesis.inject(cluster, random).context("inject")?;
    recorder.note(HARNESS, What::FaultOk { silenced: done.silenced });
    let_pass(lasts);
    let proof = nemesis.proof(cluster).context("prove that it happened")?;
    recorder.note(HARNESS, What::HealInvoke);
    nemesis.heal(cluster).context("heal")?;
    let recovery = cluster.wait_whole(RECOVERY_MAX).context("recover")?;
    let recovered = recorder.note(HARNESS, What::Recovered);
    let terms = cluster.terms()?.saturating_sub(terms);
    let nodes: Vec<String> = done.victims.iter().map(|place| format!("n{}", place + 1)).collect();
    let proof = format!("{} for {} ms, {proof}", nodes.join(" "), lasts.as_millis());
    Ok(Fault { name: nemesis.name(), injected, recovered, recovery, terms, proof })
}

/// The clients of a run.
struct Load {
    ground: Ground,
    publishers: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Load {
    /// Subscribes, then starts to publish, write and read.
    fn start(cluster: &Cluster, recorder: &Recorder) -> Result<Load> {
        let ground = Ground {
            recorder: recorder.clone(),
            nodes: cluster.nodes.iter().map(|node| node.mqtt).collect(),
            closing: Arc::new(AtomicBool::new(false)),
            ended: Arc::new(AtomicBool::new(false)),
        };
        let mut load = Load { ground: ground.clone(), publishers: Vec::new(), others: Vec::new() };
        let mut clients = 0..;
        let mut next = || clients.next().context("a number for a client");
        let publishers = PUBLISHERS.map(|plan| (next(), plan));
        for (version, qos, leaves) in SUBSCRIBERS {
            let plan = subscriber::Plan { client: next()?, version, qos, leaves };
            load.others.push(subscriber::start(&ground, plan));
        }
        let subscribed = || recorder.count_since(Moment(0), |event| event.what == What::SubscribeOk);
        wait_at_most(DRAIN_MAX, "all SUBACK", || (subscribed() == SUBSCRIBERS.len()).then_some(()))?;
        for (client, (version, qos)) in publishers {
            let plan = publisher::Plan { client: client?, version, qos, rate: RATE };
            load.publishers.push(publisher::start(&ground, plan));
        }
        for number in 0..REGISTERS {
            load.others.push(register::start_writer(&ground, next()?, Version::V5, number));
            load.others.push(register::start_reader(&ground, next()?, Version::V3, REGISTERS));
        }
        load.wait_progress(recorder)?;
        Ok(load)
    }

    /// Waits until every publisher has had answers from now on.
    fn wait_progress(&self, recorder: &Recorder) -> Result<()> {
        let since = recorder.now();
        for client in 0..u16::try_from(PUBLISHERS.len())? {
            let answers = || {
                recorder.count_since(since, |event| {
                    event.client == client && matches!(event.what, What::PublishOk { .. })
                })
            };
            wait_at_most(RECOVERY_MAX, "answers", || (answers() > 5).then_some(()))
                .with_context(|| format!("publisher {client} makes no progress"))?;
        }
        Ok(())
    }

    /// Ends the load and, unless it is cut, waits until subscribers have everything; gives how long that took.
    fn end(mut self, recorder: &Recorder, cut: bool) -> Result<Duration> {
        let begin = Instant::now();
        self.ground.closing.store(true, Ordering::Relaxed);
        let publishers = &self.publishers;
        let done = || publishers.iter().all(JoinHandle::is_finished).then_some(());
        // Those that are not done have publishes without an answer, which a checker says.
        let answered = !cut && wait_at_most(DRAIN_MAX, "all publishes to be answered", done).is_ok();
        while answered && begin.elapsed() < DRAIN_MAX && !nothing_missing(&recorder.events()?) {
            let_pass(Duration::from_millis(500));
        }
        let drained = begin.elapsed();
        // What comes twice may come late.
        let_pass(Duration::from_secs(2));
        self.ground.ended.store(true, Ordering::Relaxed);
        for thread in self.publishers.drain(..).chain(self.others.drain(..)) {
            ensure!(thread.join().is_ok(), "a client panicked");
        }
        Ok(drained)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ground.closing.store(true, Ordering::Relaxed);
        self.ground.ended.store(true, Ordering::Relaxed);
    }
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
    for checker in CHECKERS.iter().filter(|checker| whole || checker.of_cut) {
        let found = told((checker.find)(&events, &index));
        broken.extend(found.into_iter().map(|line| (checker.name, line)));
    }
    let (faults, none) = (Vec::new(), Duration::ZERO);
    Ok(Outcome { faults, events, broken, errors, drained: none, elapsed: none })
}
