//! kill -9 of all nodes at once.
//!
//! Owns: that. Proof: their processes are gone. Does not: touch their data; every acknowledgement before it counts.

use std::time::Duration;

use anyhow::Result;

use super::{Injected, Nemesis, proof_gone};
use crate::cluster::Cluster;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct KillAll {
    pids: Vec<u32>,
}

impl Nemesis for KillAll {
    fn name(&self) -> &'static str {
        "kill-all"
    }

    fn what(&self) -> &'static str {
        "kill -9 of all nodes at once"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(10))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        let victims: Vec<usize> = (0..cluster.nodes.len()).collect();
        self.pids = cluster.kill(&victims)?;
        Ok(Injected { victims, ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        proof_gone(&self.pids)
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}
