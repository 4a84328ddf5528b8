//! The disk of the node that leads most partitions hangs: every write to it waits.
//!
//! Owns: that. Proof: a write of another process waits too. Does not: end the node, whose heartbeats need no disk.
//! Limits: the node's data must be on a volume of its own.

use std::time::Duration;

use anyhow::Result;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::{machine, volume};

/// The nemesis.
#[derive(Default)]
pub struct HungDisk {
    victim: usize,
}

impl Nemesis for HungDisk {
    fn name(&self) -> &'static str {
        "hung-disk"
    }

    fn what(&self) -> &'static str {
        "fsfreeze of the volume of the node that leads most partitions"
    }

    fn lacking(&self) -> Option<String> {
        volume::why_none().or_else(|| machine::missing(&["fsfreeze"]))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(100), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.victim = cluster.leader()?;
        cluster.volume(self.victim)?.hang()?;
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        cluster.volume(self.victim)?.prove_hangs()
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.volume(self.victim)?.resume()
    }
}
