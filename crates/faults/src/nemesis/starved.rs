//! The node that leads most partitions gets a fifth of a processor.
//!
//! Owns: the control group that sees to it. Proof: the system counted periods in which the node had to wait. Does not: limit memory.
//! Limits: version 1 of control groups, with the controller `cpu`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::group::{self, Group};
use crate::random::Random;

/// The controller.
const CONTROLLER: &str = "cpu";

/// The period of the limit and what of it the node gets, in microseconds.
const PERIOD_QUOTA: (&str, &str) = ("100000", "20000");

/// The nemesis.
#[derive(Default)]
pub struct Starved {
    victim: usize,
    group: Option<Group>,
}

impl Nemesis for Starved {
    fn name(&self) -> &'static str {
        "starved"
    }

    fn what(&self) -> &'static str {
        "20 % of a processor for the node that leads most partitions"
    }

    fn lacking(&self) -> Option<String> {
        group::why_none(CONTROLLER, "cpu.shares")
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(2), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.victim = cluster.leader()?;
        let group = self.group.insert(Group::make(CONTROLLER)?);
        let (period, quota) = PERIOD_QUOTA;
        group.write("cpu.cfs_period_us", period)?;
        group.write("cpu.cfs_quota_us", quota)?;
        group.take(cluster.pid(self.victim)?)?;
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let throttled = self.group.as_ref().context("a group")?.number("cpu.stat", "nr_throttled")?;
        ensure!(throttled > 0, "the node never had to wait for its processor");
        Ok(format!("had to wait in {throttled} periods of 100 ms"))
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        self.group = None;
        Ok(())
    }
}
