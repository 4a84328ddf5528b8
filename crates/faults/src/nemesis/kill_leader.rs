//! kill -9 of the node that leads most partitions.
//!
//! Owns: that. Proof: its process is gone. Does not: touch its data; clients of the others wait for an election.

use std::time::Duration;

use anyhow::Result;

use super::{Injected, Nemesis, proof_gone};
use crate::cluster::Cluster;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct KillLeader {
    pids: Vec<u32>,
}

impl Nemesis for KillLeader {
    fn name(&self) -> &'static str {
        "kill-leader"
    }

    fn what(&self) -> &'static str {
        "kill -9 of the node that leads most partitions"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(10))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        let victims = vec![cluster.leader()?];
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
