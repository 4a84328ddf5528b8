//! Only the thread that writes the log of the leader stands still.
//!
//! Owns: the control group that freezes it. Proof: the system says that it is frozen. Does not: stop any other thread: heartbeats go on.
//! Invariants: another node leads what the node led within 3 s, so that publishes go on. The line of the fault says how long that took.
//! Limits: version 1 of control groups, with the controller `freezer`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::group::{self, Group, thread_named};
use crate::random::Random;

/// The controller.
const CONTROLLER: &str = "freezer";

/// The thread that writes the log, as a node names it.
const THREAD: &str = "log";

/// The longest that is promised until another node leads.
const STEPS_DOWN_WITHIN: Duration = Duration::from_secs(3);

/// Whether the node still leads is looked at for so long.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// The nemesis.
#[derive(Default)]
pub struct FrozenLog {
    victim: usize,
    group: Option<Group>,
    stepped_down: Option<Duration>,
}

impl Nemesis for FrozenLog {
    fn name(&self) -> &'static str {
        "frozen-log"
    }

    fn what(&self) -> &'static str {
        "only the thread that writes the log stands still, on the node that leads most partitions"
    }

    fn lacking(&self) -> Option<String> {
        group::why_none(CONTROLLER, "tasks")
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(500), Duration::from_secs(15))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.victim = cluster.leader()?;
        let group = self.group.insert(Group::make(CONTROLLER)?);
        group.take_thread(thread_named(cluster.pid(self.victim)?, THREAD)?)?;
        let begin = Instant::now();
        group.write("freezer.state", "FROZEN")?;
        let frozen = || group.read("freezer.state").ok().filter(|state| state.trim() == "FROZEN");
        wait_for("the thread to be frozen", frozen)?;
        self.stepped_down = None;
        while self.stepped_down.is_none() && begin.elapsed() < LOOK_MAX {
            let others = (0..cluster.nodes.len()).filter(|place| *place != self.victim);
            let leads = others.filter_map(|place| cluster.leads(place, self.victim).ok()).any(|leads| leads);
            self.stepped_down = (!leads).then(|| begin.elapsed());
            quorate_tests::pause();
        }
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let state = self.group.as_ref().context("a group")?.read("freezer.state")?;
        ensure!(state.trim() == "FROZEN", "the thread is {state}");
        Ok(match self.stepped_down {
            Some(after) => format!("frozen; led nothing after {} ms", after.as_millis()),
            None => format!("frozen; still led after {} ms", LOOK_MAX.as_millis()),
        })
    }

    fn problems(&mut self) -> Vec<String> {
        let late = self.stepped_down.is_none_or(|after| after > STEPS_DOWN_WITHIN);
        late.then(|| format!("the node still led {} ms after its log froze", STEPS_DOWN_WITHIN.as_millis()))
            .into_iter()
            .collect()
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        self.group = None;
        Ok(())
    }
}
