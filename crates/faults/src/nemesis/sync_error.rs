//! The disk of the node that leads most partitions fails a sync: the first fdatasync of each of its threads gives EIO.
//!
//! Owns: that, by way of a tracer. Proof: the tracer noted the error that it made up, and the process ended by itself, as it must.
//! Does not: lose data; the node starts again on what is there.
//! Limits: needs strace, which slows the node down for the moment that it takes.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::machine::lacking;
use crate::random::Random;

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
        lacking(&["strace"])
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(5))
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        let victim = cluster.leader()?;
        let notes = cluster.folder().join("strace");
        let mut tracer = Command::new("strace")
            .args(["-f", "-p", &cluster.pid(victim)?.to_string(), "-e", "trace=fdatasync"])
            .args(["-e", "inject=fdatasync:error=EIO:when=1", "-o"])
            .arg(&notes)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start strace")?;
        let ended = failed(cluster, victim);
        end(&mut tracer);
        let noted = std::fs::read_to_string(&notes).context("read what strace noted")?;
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

/// The tracer ends with what it traces; until then it is asked to let go.
fn end(tracer: &mut Child) {
    let ended = wait_for("strace to end", || tracer.try_wait().ok().flatten());
    if ended.is_err() {
        let _ = tracer.kill();
        let _ = tracer.wait();
    }
}
