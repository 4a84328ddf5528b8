//! A storm of resets: every connection of a node, to clients and to other nodes, is reset again and again.
//!
//! Owns: that. Proof: the counter of refused packets. Does not: stop the node from sending.
//! Limits: the nodes must be in networks of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::network;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct ResetStorm {
    victim: usize,
}

impl Nemesis for ResetStorm {
    fn name(&self) -> &'static str {
        "reset-storm"
    }

    fn what(&self) -> &'static str {
        "every TCP packet to a node is answered with a reset"
    }

    fn lacking(&self) -> Option<String> {
        network::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(5))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = random.below(cluster.nodes.len());
        cluster.network()?.reset_all(self.victim)?;
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let refused = cluster.network()?.counted(self.victim)?;
        ensure!(refused > 0, "no packet was refused");
        Ok(format!("{refused} packets refused"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.network()?.clear(self.victim)
    }
}
