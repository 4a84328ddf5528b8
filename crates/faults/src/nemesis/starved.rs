//! The node that leads most partitions gets a fifth of a processor.
//!
//! Owns: the control group that sees to it. Proof: the system counted periods in which the node had to wait. Does not: limit memory.
//! Limits: version 1 of control groups, with the controller `cpu`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::machine::lacking;
use crate::random::Random;

/// Where the controller is mounted.
const CONTROLLER: &str = "/sys/fs/cgroup/cpu";

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
        let absent = !Path::new(CONTROLLER).join("cpu.shares").exists();
        lacking(&[])
            .or_else(|| absent.then(|| "there is no controller cpu of control groups, version 1".to_owned()))
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(2), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.victim = cluster.leader()?;
        let group = self.group.insert(Group::make()?);
        group.take(cluster.pid(self.victim)?)?;
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let throttled = self.group.as_ref().context("a group")?.throttled()?;
        ensure!(throttled > 0, "the node never had to wait for its processor");
        Ok(format!("had to wait in {throttled} periods of 100 ms"))
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        self.group = None;
        Ok(())
    }
}

/// A group with the limit. What is in it goes back when it is dropped.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Group> {
        let path = Path::new(CONTROLLER).join(format!("quorate-faults-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let group = Group(path);
        let (period, quota) = PERIOD_QUOTA;
        group.write("cpu.cfs_period_us", period)?;
        group.write("cpu.cfs_quota_us", quota)?;
        Ok(group)
    }

    fn write(&self, name: &str, value: &str) -> Result<()> {
        let file = self.0.join(name);
        fs::write(&file, value).with_context(|| format!("write {value} to {}", file.display()))
    }

    fn take(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    fn throttled(&self) -> Result<u64> {
        let stat = fs::read_to_string(self.0.join("cpu.stat"))?;
        let line = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        Ok(line.context("nr_throttled")?.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(Path::new(CONTROLLER).join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}
