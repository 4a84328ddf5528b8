//! The disk of a node is slow: some tens of writes in a second.
//!
//! Owns: the control group that sees to it. Proof: the system counted writes of the group to the disk. Does not: fail any write.
//! Limits: version 1 of control groups, with the controller `blkio`; the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::group::{self, Group};
use crate::random::Random;
use crate::{machine, volume};

/// The controller.
const CONTROLLER: &str = "blkio";

/// The file of its limit.
const LIMIT: &str = "blkio.throttle.write_iops_device";

/// Writes in a second: a sync takes two or three.
const WRITES_PER_S: [u32; 4] = [8, 20, 50, 100];

/// The nemesis.
#[derive(Default)]
pub struct SlowDisk {
    victim: usize,
    rate: u32,
    group: Option<Group>,
}

impl Nemesis for SlowDisk {
    fn name(&self) -> &'static str {
        "slow-disk"
    }

    fn what(&self) -> &'static str {
        "8 to 100 writes in a second to the disk of any node"
    }

    fn lacking(&self) -> Option<String> {
        group::why_none(CONTROLLER, LIMIT)
            .or_else(volume::why_none)
            .or_else(|| machine::missing(&["findmnt"]))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(3), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = random.below(cluster.nodes.len());
        self.rate = WRITES_PER_S.get(random.below(WRITES_PER_S.len())).copied().unwrap_or(20);
        let device = cluster.volume(self.victim)?.device()?;
        let group = self.group.insert(Group::make(CONTROLLER)?);
        group.write(LIMIT, &format!("{device} {}", self.rate))?;
        group.take(cluster.pid(self.victim)?)?;
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let group = self.group.as_ref().context("a group")?;
        let writes = group.number("blkio.throttle.io_serviced", "Total")?;
        ensure!(writes > 0, "the node wrote nothing");
        Ok(format!("{writes} writes at {} in a second", self.rate))
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        self.group = None;
        Ok(())
    }
}
