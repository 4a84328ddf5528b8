//! A node has little memory: what it took before, and some MiB more.
//!
//! Owns: the control group that limits it; the node is started in it. Proof: the system counted how often the limit was reached.
//! Invariants: the system must not have to kill it: what it caches of files goes first.
//! Limits: version 1 of control groups, with the controller `memory`; bulk is written meanwhile, so that the limit is reached.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::client::bulk::Bulk;
use crate::cluster::{Around, Cluster};
use crate::group::{self, Group};
use crate::random::Random;

/// The controller.
const CONTROLLER: &str = "memory";

/// What the node gets beyond what it had resident before.
const MORE_BYTES: u64 = 64 << 20;

/// The node is back within so long.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// The nemesis.
#[derive(Default)]
pub struct LittleMemory {
    victim: usize,
    limit: u64,
    group: Option<Group>,
    bulk: Option<Bulk>,
}

impl Nemesis for LittleMemory {
    fn name(&self) -> &'static str {
        "little-memory"
    }

    fn what(&self) -> &'static str {
        "a node gets 64 MiB more than it had resident, with what it caches of files"
    }

    fn lacking(&self) -> Option<String> {
        group::why_none(CONTROLLER, "memory.limit_in_bytes")
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(5), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = random.below(cluster.nodes.len());
        let pid = cluster.pid(self.victim)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
        self.limit = (kib << 10) + MORE_BYTES;
        let group = self.group.insert(Group::make(CONTROLLER)?);
        group.write("memory.limit_in_bytes", &self.limit.to_string())?;
        cluster.kill(&[self.victim])?;
        let around = Around { words: group.words("cgroup.procs"), ..Around::default() };
        cluster.run_around(self.victim, &around)?;
        cluster.wait_whole(WHOLE_MAX)?;
        self.bulk = Some(Bulk::start(cluster.ground()?));
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let written = self.bulk.take().map_or(0, |bulk| bulk.written_bytes());
        let group = self.group.as_ref().context("a group")?;
        let reached: u64 = group.read("memory.failcnt")?.trim().parse()?;
        ensure!(reached > 0, "the limit of {} MiB was not reached", self.limit >> 20);
        let killed = group.number("memory.oom_control", "oom_kill")?;
        ensure!(killed == 0, "the system killed the node at {} MiB", self.limit >> 20);
        Ok(format!(
            "limit of {} MiB reached {reached} times, {} MiB written",
            self.limit >> 20,
            written >> 20
        ))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        self.bulk = None;
        // Pages that the group has stay its own: only with the process they go.
        cluster.kill_what_runs(&[self.victim])?;
        self.group = None;
        cluster.run_all()
    }
}
