//! A run: clients work, faults come and go by a random plan, then everything must be there.
//!
//! Owns: the order of a run and what it measures. Does not: inject faults or judge histories itself.
//! Invariants: the next fault comes only after the cluster was whole and every publisher had answers again.
//! Limits: `LED_MAX`, `RECOVERY_MAX`, `DRAIN_MAX`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quorate_tests::{let_pass, pause, wait_at_most};

use crate::check::{CHECKERS, Index, PARTITIONS, nothing_missing, told};
use crate::client::{Ground, expiry, fling, probe, publisher, register, subscriber, will};
use crate::cluster::{self, Cluster};
use crate::history::{Event, HARNESS, Moment, Recorder, What};
use crate::nemesis::Nemesis;
use crate::random::Random;
use crate::stalls::Stalls;
use crate::wire::Version;

/// From healing to a leader for each group: beyond it a run ends. The promise is 10 s, which a checker holds the history to.
const LED_MAX: Duration = Duration::from_secs(30);

/// From then on until all nodes are ready: one that has lost its state fetches it from the others.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

/// Leaders are spread over the nodes within so long.
const BALANCED_MAX: Duration = Duration::from_secs(30);

/// What the report counts as a long recovery.
pub const RECOVERY_PROMISED: Duration = Duration::from_secs(10);

/// From the end of the load until subscribers have everything.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// States are compared for so long.
const COMPARE_MAX: Duration = Duration::from_secs(60);

/// Publishers: version, QoS.
const PUBLISHERS: [(Version, u8); 4] =
    [(Version::V5, 1), (Version::V3, 1), (Version::V5, 2), (Version::V3, 2)];

/// Subscribers: version, QoS, leaves now and then, lets acknowledgements wait.
const SUBSCRIBERS: [(Version, u8, bool, bool); 5] = [
    (Version::V5, 2, false, false),
    (Version::V3, 2, false, false),
    (Version::V5, 1, false, true),
    (Version::V5, 2, true, false),
    (Version::V3, 2, false, true),
];

/// Members of the share group: leaves now and then.
const MEMBERS: [bool; 3] = [false, true, false];

/// Clients with wills; as many probe the barrier, and as many go away to have their sessions expire.
const WILL_HOLDERS: usize = 3;

/// When the machine keeps a thread that does nothing waiting for longer, one that works may wait for the 800 ms after which a follower
/// takes its leader for dead.
const STALL_MAX: Duration = Duration::from_millis(150);

/// Between two looks at leaders while nodes are cut off.
const LOOK_EVERY: Duration = Duration::from_millis(250);

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
    cluster.ground = Some(load.ground.clone());
    let stalls = Stalls::watch();
    let mut faults: Vec<Fault> = Vec::new();
    let mut order: Vec<usize> = Vec::new();
    let mut cut = None;
    while begin.elapsed() < time || faults.is_empty() {
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
    if holds.no_election {
        cluster.wait_balanced(BALANCED_MAX)?;
    }
    let before = cluster.terms()?;
    let lasts = nemesis.lasts(random);
    let injected = recorder.note(HARNESS, What::FaultInvoke { name: nemesis.name().to_owned() });
    let done = nemesis.inject(cluster, random).context("inject")?;
    stalls.longest();
    // Not of a fault that makes nodes too slow to say.
    let during = if holds.no_election { cluster.terms()? } else { BTreeMap::new() };
    let silenced = done.silenced.clone();
    let lookout =
        nemesis.name().starts_with(PARTITIONS).then(|| Lookout::start(cluster, recorder, &silenced));
    let since = recorder.note(HARNESS, What::FaultOk { silenced });
    let_pass(lasts);
    drop(lookout);
    let proof = nemesis.proof(cluster).context("prove that it happened")?;
    let mut problems = nemesis.problems();
    let mut proof = proof;
    if holds.no_election {
        let (_, most) = growth(&during, &cluster.terms()?);
        let stalled = stalls.longest();
        if stalled > STALL_MAX {
            proof = format!(
                "{proof}, elections not judged: this machine stood still for {} ms",
                stalled.as_millis()
            );
        } else if most > 0 {
            problems.push(format!("an election during {}", nemesis.name()));
        }
    }
    let answered = |event: &Event| matches!(event.what, What::PublishOk { .. });
    if holds.progress && recorder.count_since(since, answered) == 0 {
        problems.push(format!("no acknowledgement during {}", nemesis.name()));
    }
    recorder.note(HARNESS, What::HealInvoke);
    nemesis.heal(cluster).context("heal")?;
    let healed = Instant::now();
    recorder.note(HARNESS, What::Healed);
    cluster.wait_led(LED_MAX).context("recover")?;
    recorder.note(HARNESS, What::Led);
    cluster.wait_whole(RECOVERY_MAX).context("recover")?;
    let recovery = healed.elapsed();
    let (terms, most) = growth(&before, &cluster.terms()?);
    let recovered = recorder.note(HARNESS, What::Recovered { terms: most });
    let nodes: Vec<String> = done.victims.iter().map(|place| format!("n{}", place + 1)).collect();
    let proof = format!("{} for {} ms, {proof}", nodes.join(" "), lasts.as_millis());
    Ok(Fault { name: nemesis.name(), injected, recovered, recovery, terms, proof, problems })
}

/// How much the terms of all groups have grown together, and that of one at most.
fn growth(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> (u64, u64) {
    let grown = |(group, term): (&u32, &u64)| term.saturating_sub(before.get(group).copied().unwrap_or(0));
    let growths = || after.iter().map(grown);
    (growths().sum(), growths().max().unwrap_or(0))
}

/// Looks again and again whether each group has a leader among the nodes that are not cut off, and notes it, until it is dropped.
struct Lookout {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lookout {
    fn start(cluster: &Cluster, recorder: &Recorder, silenced: &[usize]) -> Lookout {
        let ended = Arc::new(AtomicBool::new(false));
        let nodes = cluster.nodes.iter().enumerate();
        let addresses: Vec<SocketAddr> = nodes
            .filter(|(place, node)| !silenced.contains(place) && node.runs())
            .map(|(_, node)| node.admin)
            .collect();
        let (end, recorder) = (ended.clone(), recorder.clone());
        // Where packets are lost, an answer that does not come is no leader that is not there.
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let led = cluster::led(&addresses, 1);
                recorder.note(HARNESS, What::Looked { led });
                let begin = Instant::now();
                while begin.elapsed() < LOOK_EVERY && !end.load(Ordering::Relaxed) {
                    pause();
                }
            }
        });
        Lookout { ended, thread: Some(thread) }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The clients of a run.
struct Load {
    ground: Ground,
    publishers: Vec<JoinHandle<()>>,
    /// Those that end what they have begun when the load ends.
    finite: Vec<JoinHandle<()>>,
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
        let mut load =
            Load { ground: ground.clone(), publishers: Vec::new(), finite: Vec::new(), others: Vec::new() };
        let mut clients = 0..;
        let mut next = || clients.next().context("a number for a client");
        // Publishers come first: their topics, and those who wait for their progress, know them by number.
        let publishers = PUBLISHERS.map(|plan| (next(), plan));
        let of_share = next()?;
        for (version, qos, leaves, holds) in SUBSCRIBERS {
            let plan = subscriber::Plan { client: next()?, version, qos, leaves, holds, shares: false };
            load.others.push(subscriber::start(&ground, plan));
        }
        for leaves in MEMBERS {
            let (version, client) = (Version::V5, next()?);
            let plan = subscriber::Plan { client, version, qos: 1, leaves, holds: false, shares: true };
            load.others.push(subscriber::start(&ground, plan));
        }
        load.others.push(will::start_observer(&ground, next()?));
        let subscribed = || {
            let is = |event: &Event| matches!(event.what, What::SubscribeOk | What::Subscribed);
            recorder.count_since(Moment(0), is)
        };
        let all = SUBSCRIBERS.len() + MEMBERS.len() + 1;
        wait_at_most(DRAIN_MAX, "all SUBACK", || (subscribed() == all).then_some(()))?;
        for (client, (version, qos)) in publishers {
            let plan = publisher::Plan { client: client?, version, qos, rate: RATE, shares: false };
            load.publishers.push(publisher::start(&ground, plan));
        }
        let plan =
            publisher::Plan { client: of_share, version: Version::V5, qos: 1, rate: RATE, shares: true };
        load.publishers.push(publisher::start(&ground, plan));
        for number in 0..REGISTERS {
            load.others.push(register::start_writer(&ground, next()?, Version::V5, number));
            load.others.push(register::start_reader(&ground, next()?, Version::V3, REGISTERS));
        }
        for version in [Version::V3, Version::V5] {
            load.others.push(fling::start_catcher(&ground, next()?, version));
            load.others.push(fling::start_thrower(&ground, next()?, version));
        }
        for _ in 0..WILL_HOLDERS {
            load.finite.push(will::start_holder(&ground, next()?));
            load.finite.push(probe::start(&ground, next()?));
            load.finite.push(expiry::start(&ground, next()?));
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

    /// Ends the load and, unless it is cut, waits until subscribers have everything; gives how long that took, and what it waited for in
    /// vain.
    fn end(mut self, recorder: &Recorder, cut: bool) -> Result<(Duration, Option<String>)> {
        let begin = Instant::now();
        self.ground.closing.store(true, Ordering::Relaxed);
        let (publishers, finite) = (&self.publishers, &self.finite);
        let done = || publishers.iter().chain(finite).all(JoinHandle::is_finished).then_some(());
        // Those that are not done have publishes without an answer, which a checker says.
        let answered = !cut && wait_at_most(DRAIN_MAX, "all publishes to be answered", done).is_ok();
        while answered && begin.elapsed() < DRAIN_MAX && !nothing_missing(&recorder.events()?) {
            let_pass(Duration::from_millis(500));
        }
        let drained = begin.elapsed();
        let left = publishers.iter().chain(finite).filter(|thread| !thread.is_finished()).count();
        let stuck = (!cut && left > 0)
            .then(|| format!("{left} clients were not done {} s after the load ended", DRAIN_MAX.as_secs()));
        // What comes twice may come late.
        let_pass(Duration::from_secs(2));
        self.ground.ended.store(true, Ordering::Relaxed);
        for thread in self.publishers.drain(..).chain(self.finite.drain(..)).chain(self.others.drain(..)) {
            ensure!(thread.join().is_ok(), "a client panicked");
        }
        Ok((drained, stuck))
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
    for checker in CHECKERS {
        let find = if whole { Some(checker.find) } else { checker.find_of_cut };
        let Some(find) = find else { continue };
        let found = told(find(&events, &index));
        broken.extend(found.into_iter().map(|line| (checker.name, line)));
    }
    let (faults, none) = (Vec::new(), Duration::ZERO);
    Ok(Outcome { faults, events, broken, errors, drained: none, elapsed: none })
}
