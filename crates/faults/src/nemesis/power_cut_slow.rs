//! A node stands still for a while, so that all others need each other; then these lose power.
//!
//! Owns: both. Proof: the system says that the process is stopped; a write to the volumes of the others gives EIO. Does not: touch the disk of
//! the node that stood still: what it missed is only on the others.
//! Limits: the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_tests::{let_pass, wait_for};

use super::{Injected, Nemesis, other_than};
use crate::cluster::Cluster;
use crate::machine::process_state;
use crate::random::Random;
use crate::{machine, volume};

/// The nemesis.
#[derive(Default)]
pub struct PowerCutSlow {
    stopped: usize,
    cut: Vec<usize>,
    proofs: Vec<String>,
}

impl Nemesis for PowerCutSlow {
    fn name(&self) -> &'static str {
        "power-cut-slow-follower"
    }

    fn what(&self) -> &'static str {
        "SIGSTOP of a node that does not lead most partitions, then a power cut of all others"
    }

    fn lacking(&self) -> Option<String> {
        volume::why_none().or_else(|| machine::missing(&["python3"]))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(100), Duration::from_secs(3))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.stopped = other_than(cluster.leader()?, cluster, random);
        cluster.signal(self.stopped, "STOP")?;
        let pid = cluster.pid(self.stopped)?;
        wait_for("the process to stop", || (process_state(pid) == Some('T')).then_some(()))?;
        let_pass(random.between(Duration::from_millis(200), Duration::from_secs(8)));
        let stopped = self.stopped;
        self.cut = (0..cluster.nodes.len()).filter(|place| *place != stopped).collect();
        self.proofs.clear();
        for victim in &self.cut {
            let proof = cluster.volume(*victim)?.cut_power()?;
            self.proofs.push(proof);
        }
        cluster.kill_what_runs(&self.cut)?;
        for victim in &self.cut {
            cluster.volume(*victim)?.unmount()?;
        }
        let victims = (0..cluster.nodes.len()).collect();
        Ok(Injected { victims, silenced: vec![self.stopped] })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let state = process_state(cluster.pid(self.stopped)?);
        ensure!(state == Some('T'), "the process is in state {state:?}");
        Ok(format!("n{} in state T, {}", self.stopped + 1, self.proofs.join(", ")))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        for victim in &self.cut {
            cluster.volume(*victim)?.mount_again()?;
        }
        cluster.signal(self.stopped, "CONT")?;
        cluster.run_all()
    }
}
