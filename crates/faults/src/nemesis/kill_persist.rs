//! A node is killed at a chosen step of making something durable: just before or just after a system call on its files, while it runs or while
//! it starts.
//!
//! Owns: that, by way of a tracer; there is nothing for it in the program. Proof: the tracer noted the call, and the process is gone.
//! Does not: choose calls that no file of the data folder is part of: a running node writes to sockets with others.
//! Limits: needs strace, which slows the node down until it is killed; `TRIES` calls are tried until one comes.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{pause, wait_for};

use super::{Injected, Nemesis};
use crate::cluster::{Around, Cluster};
use crate::machine::{self, lacking, process_state};
use crate::random::Random;
use crate::tracer::{self, Tracer};

/// Calls of a running node, and how many of each come soon.
const RUNNING: [(&str, usize); 3] = [("pwrite64", 60), ("fdatasync", 60), ("fsync", 3)];

/// Calls of a node that starts.
const STARTING: [(&str, usize); 6] =
    [("pwrite64", 8), ("fdatasync", 8), ("fsync", 8), ("rename", 1), ("unlink", 1), ("mkdir", 3)];

/// A call that does not come in so long will not.
const COMES_WITHIN: Duration = Duration::from_secs(6);

/// Calls that are tried.
const TRIES: usize = 6;

/// A delay that no run outlives: the node is killed in it.
const LONG: &str = "delay_exit=600000000";

/// The nemesis.
#[derive(Default)]
pub struct KillPersist {
    said: String,
}

/// When to kill.
struct Step {
    call: &'static str,
    number: usize,
    after: bool,
    starting: bool,
}

impl Step {
    fn choose(random: &mut Random) -> Option<Step> {
        let starting = random.below(2) == 0;
        let calls: &[(&'static str, usize)] = if starting { &STARTING } else { &RUNNING };
        let (call, most) = calls.get(random.below(calls.len())).copied()?;
        Some(Step { call, number: 1 + random.below(most), after: random.below(2) == 0, starting })
    }

    fn injection(&self) -> String {
        let what = if self.after { LONG } else { "signal=KILL" };
        format!("{what}:when={}", self.number)
    }
}

impl Nemesis for KillPersist {
    fn name(&self) -> &'static str {
        "kill-persist"
    }

    fn what(&self) -> &'static str {
        "kill -9 just before or after a write, sync, rename or the like, of a node that runs or starts"
    }

    fn lacking(&self) -> Option<String> {
        lacking(&[tracer::PROGRAM])
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(100), Duration::from_secs(3))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let leader = cluster.leader()?;
        // The leader as often as all others.
        let victim = if random.below(2) == 0 { leader } else { super::other_than(leader, cluster, random) };
        let notes = cluster.folder().join("strace");
        for _ in 0..TRIES {
            let step = Step::choose(random).context("a call")?;
            let killed = if step.starting {
                at_start(cluster, victim, &step, &notes)?
            } else {
                if cluster.pid(victim).is_err() {
                    cluster.run(victim)?;
                    cluster.wait_whole(Duration::from_secs(60))?;
                }
                running(cluster, victim, &step, &notes)?
            };
            if killed {
                self.said = told(&step, &notes)?;
                return Ok(Injected { victims: vec![victim], ..Injected::default() });
            }
        }
        bail!("none of {TRIES} calls came")
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}

/// Kills a node that runs at a step; false when the step does not come.
fn running(cluster: &mut Cluster, victim: usize, step: &Step, notes: &Path) -> Result<bool> {
    let pid = cluster.pid(victim)?;
    let tracer = Tracer::attach(pid, step.call, &step.injection(), notes)?;
    if wait_for_step(step, notes) {
        if step.after {
            machine::signal(pid, "KILL")?;
        }
        // A tracer that lets a thread wait does not see it end, and its end is for the tracer to see first.
        tracer.kill();
        cluster.wait_ended(victim)?;
        return Ok(true);
    }
    drop(tracer);
    Ok(false)
}

/// Kills a node that starts at a step; false when the step does not come: then it is killed some time.
fn at_start(cluster: &mut Cluster, victim: usize, step: &Step, notes: &Path) -> Result<bool> {
    cluster.kill_what_runs(&[victim])?;
    let _ = std::fs::remove_file(notes);
    let mut words = vec![tracer::PROGRAM.to_owned()];
    words.extend(tracer::words(step.call, &step.injection(), notes));
    cluster.run_around(victim, &Around { words, ..Around::default() })?;
    let tracer = cluster.pid(victim)?;
    let comes = wait_for_step(step, notes);
    // The node is what the tracer has started; it may be gone already.
    let children =
        std::fs::read_to_string(format!("/proc/{tracer}/task/{tracer}/children")).unwrap_or_default();
    let nodes = children.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    for node in &nodes {
        let _ = machine::signal(*node, "KILL");
    }
    cluster.kill_what_runs(&[victim])?;
    for node in nodes {
        let gone = || matches!(process_state(node), None | Some('Z')).then_some(());
        wait_for("the node to end", gone)?;
    }
    Ok(comes)
}

/// Whether a call comes before its time is over.
fn wait_for_step(step: &Step, notes: &Path) -> bool {
    let begin = Instant::now();
    let sign = if step.after { "(DELAYED)" } else { "killed by SIGKILL" };
    while begin.elapsed() < COMES_WITHIN {
        if std::fs::read_to_string(notes).unwrap_or_default().contains(sign) {
            return true;
        }
        pause();
    }
    false
}

fn told(step: &Step, notes: &Path) -> Result<String> {
    let noted = std::fs::read_to_string(notes).context("read what strace noted")?;
    ensure!(step.after || noted.contains("killed by SIGKILL"), "strace saw no end: {noted}");
    let sign = if step.after { "(DELAYED)" } else { "= ?" };
    let call = noted.lines().rfind(|line| line.contains(step.call) && line.contains(sign));
    let call = call.with_context(|| format!("{} with {sign} is not noted", step.call))?;
    let (when, state) =
        (if step.after { "after" } else { "before" }, if step.starting { "starting" } else { "running" });
    // Without the number of the thread.
    let call = call.split_once(' ').map_or(call, |(_, call)| call.trim());
    Ok(format!("killed while {state}, {when} {} {}: {call}", step.call, step.number))
}
