//! The disk of the node that leads most partitions, or of that one and another, is full.
//!
//! Owns: that, and bulk which makes the log grow meanwhile. What a node gives back of its reserve is taken as well. Proof: less than a MiB
//! is free, and the node says that it takes no messages in. Does not: end nodes; one that ended by itself is started again after healing, and
//! the run notes it.
//! Limits: the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis, other_than};
use crate::client::bulk::Bulk;
use crate::cluster::Cluster;
use crate::machine;
use crate::random::Random;
use crate::volume::{self, FULL_BYTES, Filled};

/// The nemesis.
pub struct FullDisk {
    quorum: bool,
    victims: Vec<usize>,
    filled: Vec<Filled>,
    bulk: Option<Bulk>,
}

impl FullDisk {
    /// On the leader.
    pub fn of_one() -> FullDisk {
        FullDisk { quorum: false, victims: Vec::new(), filled: Vec::new(), bulk: None }
    }

    /// On two of three nodes.
    pub fn of_quorum() -> FullDisk {
        FullDisk { quorum: true, ..FullDisk::of_one() }
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
        volume::why_none().or_else(|| machine::missing(&["fallocate", "stat"]))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(2), Duration::from_secs(30))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let leader = cluster.leader()?;
        self.victims = vec![leader];
        if self.quorum {
            self.victims.push(other_than(leader, cluster, random));
        }
        for victim in &self.victims {
            let filled = cluster.volume(*victim)?.fill()?;
            self.filled.push(filled);
        }
        self.bulk = Some(Bulk::start(cluster.ground()?));
        Ok(Injected { victims: self.victims.clone(), ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let written = self.bulk.take().map_or(0, |bulk| bulk.written_bytes());
        let mut said = Vec::new();
        for victim in &self.victims {
            let volume = cluster.volume(*victim)?;
            let full = || volume.free_bytes().ok().filter(|free| *free < FULL_BYTES);
            let free = wait_for("the volume to be full", full)?;
            // One that has ended says nothing; the run notes that it has.
            let low = cluster.metric(*victim, "quorate_disk_low").unwrap_or(1.0);
            ensure!(low > 0.0, "n{} has {free} bytes left and takes messages in", victim + 1);
            let waits = cluster.metric(*victim, "quorate_log_waits_for_space").unwrap_or(0.0) > 0.0;
            let waits = if waits { ", its log waits" } else { "" };
            said.push(format!("n{} has {free} bytes{waits}", victim + 1));
        }
        Ok(format!("{}, {} MiB of bulk written", said.join(", "), written >> 20))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.filled.clear();
        cluster.run_all()
    }
}
