//! kill -9 of a node that does not lead most partitions, with the connections that it holds.
//!
//! Owns: that. Proof: its process is gone. Does not: touch its data; its clients go elsewhere; publishes elsewhere wait only for what it led.

use std::time::Duration;

use anyhow::Result;

use super::{Injected, Nemesis, other_than, proof_gone};
use crate::cluster::Cluster;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct KillFollower {
    pids: Vec<u32>,
}

impl Nemesis for KillFollower {
    fn name(&self) -> &'static str {
        "kill-follower"
    }

    fn what(&self) -> &'static str {
        "kill -9 of a node that does not lead most partitions, with the connections that it holds"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(10))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let victims = vec![other_than(cluster.leader()?, cluster, random)];
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
