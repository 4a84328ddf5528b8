//! Power cuts: what was not on the device is lost. On one node, or on all at the same time.
//!
//! Owns: shutting the file system down without its journal, killing the process, mounting again. Proof: a write to the volume gives EIO
//! before the process is killed.
//! Does not: lose what the device had in a cache of its own; a loop device has none beyond the file under it.
//! Limits: the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::{machine, volume};

/// The nemesis.
pub struct PowerCut {
    all: bool,
    victims: Vec<usize>,
    proofs: Vec<String>,
}

impl PowerCut {
    /// Of one node, chosen at random.
    pub fn of_one() -> PowerCut {
        PowerCut { all: false, victims: Vec::new(), proofs: Vec::new() }
    }

    /// Of all nodes.
    pub fn of_all() -> PowerCut {
        PowerCut { all: true, ..PowerCut::of_one() }
    }
}

impl Nemesis for PowerCut {
    fn name(&self) -> &'static str {
        if self.all { "power-cut-all" } else { "power-cut" }
    }

    fn what(&self) -> &'static str {
        if self.all {
            "the volumes of all nodes lose what is not on the device, then kill -9 and a new mount"
        } else {
            "the volume of a node loses what is not on the device, then kill -9 and a new mount"
        }
    }

    fn lacking(&self) -> Option<String> {
        volume::why_none().or_else(|| machine::missing(&["python3"]))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(100), Duration::from_secs(5))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let count = cluster.nodes.len();
        self.victims = if self.all { (0..count).collect() } else { vec![random.below(count)] };
        self.proofs.clear();
        for victim in &self.victims {
            let proof = cluster.volume(*victim)?.cut_power()?;
            self.proofs.push(proof);
        }
        // A node may have ended by itself: it must, when its log cannot be written.
        cluster.kill_what_runs(&self.victims)?;
        for victim in &self.victims {
            cluster.volume(*victim)?.unmount()?;
        }
        Ok(Injected { victims: self.victims.clone(), ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        ensure!(!self.proofs.is_empty(), "no power was cut");
        Ok(self.proofs.join(", "))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        for victim in &self.victims {
            cluster.volume(*victim)?.mount_again()?;
        }
        cluster.run_all()
    }
}
