//! The disk of the node that leads most partitions, or of that one and another, is full.
//!
//! Owns: that. Proof: less than a block of the filling is free. Does not: end nodes; one that ended by itself is started again
//! after healing, and the run notes it.
//! Limits: the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Injected, Nemesis, other_than};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::{machine, volume};

/// Free bytes that are none: no log file grows in them.
const FULL_BYTES: u64 = 1 << 20;

/// The nemesis.
pub struct FullDisk {
    quorum: bool,
    victims: Vec<usize>,
}

impl FullDisk {
    /// On the leader.
    pub fn of_one() -> FullDisk {
        FullDisk { quorum: false, victims: Vec::new() }
    }

    /// On two of three nodes.
    pub fn of_quorum() -> FullDisk {
        FullDisk { quorum: true, victims: Vec::new() }
    }
}

impl Nemesis for FullDisk {
    fn name(&self) -> &'static str {
        if self.quorum { "full-disk-quorum" } else { "full-disk" }
    }

    fn what(&self) -> &'static str {
        if self.quorum {
            "no space on the volumes of two nodes"
        } else {
            "no space on the volume of the node that leads most partitions"
        }
    }

    fn lacking(&self) -> Option<String> {
        volume::why_none().or_else(|| machine::missing(&["dd", "stat"]))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(1), Duration::from_secs(15))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let leader = cluster.leader()?;
        self.victims = vec![leader];
        if self.quorum {
            self.victims.push(other_than(leader, cluster, random));
        }
        for victim in &self.victims {
            cluster.volume(*victim)?.fill()?;
        }
        Ok(Injected { victims: self.victims.clone(), ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let mut free = Vec::new();
        for victim in &self.victims {
            free.push(cluster.volume(*victim)?.free_bytes()?);
        }
        ensure!(free.iter().all(|free| *free < FULL_BYTES), "{free:?} bytes are free");
        Ok(format!("{free:?} bytes free"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        for victim in &self.victims {
            cluster.volume(*victim)?.empty()?;
        }
        cluster.run_all()
    }
}
