//! A node that does not lead most partitions gets no more than a megabit in a second.
//!
//! Owns: that. Proof: the counter of packets that had to wait. Does not: limit what the node sends.
//! Limits: the nodes must be in networks of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Injected, Nemesis, other_than};
use crate::cluster::Cluster;
use crate::network;
use crate::random::Random;

/// Bits in a second, in thousands.
const KILOBITS: u32 = 1000;

/// The nemesis.
#[derive(Default)]
pub struct SlowLink {
    victim: usize,
}

impl Nemesis for SlowLink {
    fn name(&self) -> &'static str {
        "slow-link"
    }

    fn what(&self) -> &'static str {
        "1 Mbit/s to a node that does not lead most partitions"
    }

    fn lacking(&self) -> Option<String> {
        network::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(2), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = other_than(cluster.leader()?, cluster, random);
        cluster.network()?.limit(self.victim, KILOBITS)?;
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let waited = cluster.network()?.held_up(self.victim)?;
        ensure!(waited > 0, "no packet had to wait");
        Ok(format!("{waited} times a packet had to wait"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.network()?.unlimit(self.victim)
    }
}
