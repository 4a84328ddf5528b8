//! Reading from the disk fails while a node starts.
//!
//! Owns: that, by way of a tracer. Proof: the tracer noted the error that it made up, and the node did not become ready.
//! Does not: damage what is on the disk: without the fault it is all there.
//! Limits: needs strace. Errors while a node runs are rare here: what the small load reads is in memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis, other_than};
use crate::cluster::{Around, Cluster};
use crate::machine::{self, lacking};
use crate::random::Random;
use crate::tracer;

/// One of the first so many reads fails, and all after it.
const READS: usize = 12;

/// The nemesis.
#[derive(Default)]
pub struct ReadError {
    said: String,
}

impl Nemesis for ReadError {
    fn name(&self) -> &'static str {
        "read-error"
    }

    fn what(&self) -> &'static str {
        "reading gives EIO while a node starts, which must end"
    }

    fn lacking(&self) -> Option<String> {
        lacking(&[tracer::PROGRAM])
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(3))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let leader = cluster.leader()?;
        let victim = other_than(leader, cluster, random);
        let notes = cluster.folder().join("strace");
        let _ = std::fs::remove_file(&notes);
        cluster.kill(&[victim])?;
        let first = 2 + random.below(READS);
        let mut words = vec![tracer::PROGRAM.to_owned()];
        // The loader reads its libraries with this call as well: those reads come first.
        words.extend(tracer::words("pread64", &format!("error=EIO:when={first}+"), &notes));
        cluster.run_around(victim, &Around { words, ..Around::default() })?;
        let pid = cluster.pid(victim)?;
        let noted = || std::fs::read_to_string(&notes).unwrap_or_default();
        let injected = || noted().contains("(INJECTED)").then_some(());
        wait_for("an error to be injected", injected)?;
        let ended = cluster.wait_ended(victim);
        if ended.is_err() {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
            for node in children.split_whitespace() {
                let _ = machine::signal(node.parse()?, "KILL");
            }
            cluster.wait_ended(victim)?;
        }
        let status = ended.context("a node that cannot read its disk must end")?;
        ensure!(!status.success(), "the node ended with success");
        let count = noted().lines().filter(|line| line.contains("(INJECTED)")).count();
        self.said = format!("{count} times EIO from read {first} on, {status}");
        Ok(Injected { victims: vec![victim], ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}
