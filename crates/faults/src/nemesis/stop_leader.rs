//! SIGSTOP of the node that leads most partitions, then SIGCONT.
//!
//! Owns: that. Proof: the system says that the process is stopped. Does not: choose how long an old leader may believe in itself: for up to a
//! minute it stands still in the middle of whatever it did, and must not acknowledge anything from before when it wakes.

use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::machine::process_state;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct StopLeader {
    victim: usize,
}

impl Nemesis for StopLeader {
    fn name(&self) -> &'static str {
        "stop-leader"
    }

    fn what(&self) -> &'static str {
        "SIGSTOP of the node that leads most partitions, SIGCONT after 0.1 to 60 s"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(100), Duration::from_secs(60))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.victim = cluster.leader()?;
        cluster.signal(self.victim, "STOP")?;
        let pid = cluster.pid(self.victim)?;
        wait_for("the process to stop", || (process_state(pid) == Some('T')).then_some(()))?;
        Ok(Injected { victims: vec![self.victim], silenced: vec![self.victim] })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let state = process_state(cluster.pid(self.victim)?);
        ensure!(state == Some('T'), "the process is in state {state:?}");
        Ok("state T".to_owned())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.signal(self.victim, "CONT")
    }
}
