//! The file system of the node that leads most partitions becomes read-only, as after an error that it found by itself.
//!
//! Owns: that. Proof: a write to the volume gives EROFS, and the node ends by itself, not with success.
//! Does not: lose what was written; the volume is mounted again.
//! Limits: the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::random::Random;
use crate::volume;

/// The nemesis.
#[derive(Default)]
pub struct ReadOnly {
    victim: usize,
    said: String,
}

impl Nemesis for ReadOnly {
    fn name(&self) -> &'static str {
        "read-only"
    }

    fn what(&self) -> &'static str {
        "the volume of the node that leads most partitions becomes read-only; the node must end"
    }

    fn lacking(&self) -> Option<String> {
        volume::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(5))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.victim = cluster.leader()?;
        let said = cluster.volume(self.victim)?.make_read_only()?;
        let status = cluster.wait_ended(self.victim).context("a node that cannot write must end")?;
        ensure!(!status.success(), "the node ended with success");
        self.said = format!("{said}, {status}");
        Ok(Injected { victims: vec![self.victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let volume = cluster.volume(self.victim)?;
        volume.unmount()?;
        volume.mount_again()?;
        cluster.run_all()
    }
}
