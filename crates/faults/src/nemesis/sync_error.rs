//! The disk of the node that leads most partitions fails a sync: the first fdatasync of each of its threads gives EIO.
//!
//! Owns: that, by way of a tracer. Proof: the tracer noted the error that it made up, and the process ended by itself, as it must.
//! Does not: lose data; the node starts again on what is there.
//! Limits: needs strace, which slows the node down for the moment that it takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::machine::lacking;
use crate::random::Random;
use crate::tracer::{self, Tracer};

/// The nemesis.
#[derive(Default)]
pub struct SyncError {
    said: String,
}

impl Nemesis for SyncError {
    fn name(&self) -> &'static str {
        "sync-error"
    }

    fn what(&self) -> &'static str {
        "fdatasync gives EIO on the node that leads most partitions, which must end"
    }

    fn lacking(&self) -> Option<String> {
        lacking(&[tracer::PROGRAM])
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(5))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        let victim = cluster.leader()?;
        let notes = cluster.folder().join("strace");
        let tracer = Tracer::attach(cluster.pid(victim)?, "fdatasync", "error=EIO:when=1", &notes)?;
        let ended = failed(cluster, victim);
        let noted = tracer.notes();
        drop(tracer);
        let injected = noted.lines().filter(|line| line.contains("(INJECTED)")).count();
        ensure!(injected > 0, "strace injected nothing");
        self.said = format!("{injected} times EIO, {}", ended?);
        Ok(Injected { victims: vec![victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}

/// Waits until the node has ended, and not as if nothing had happened.
fn failed(cluster: &mut Cluster, victim: usize) -> Result<String> {
    let status = cluster.wait_ended(victim).context("a node whose sync failed must end")?;
    ensure!(!status.success(), "the node ended with success");
    Ok(status.to_string())
}
