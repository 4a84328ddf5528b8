//! Thousands of clients lose their connections at once and all come back.
//!
//! Owns: how many, which follows from the limit of open files. Proof: all of them had their CONNACK again. Does not: touch the nodes.
//! Invariants: all are back within 10 s, as promised.
//! Limits: `CLIENTS_MAX`.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Injected, Nemesis};
use crate::client::storm::Storm;
use crate::cluster::Cluster;
use crate::random::Random;

/// As many clients as are promised to be absorbed.
const CLIENTS_MAX: usize = 10_000;

/// Open files that are left for everything else.
const FILES_LEFT: usize = 2000;

/// Fewer clients are no storm.
const CLIENTS_MIN: usize = 500;

/// What is promised for all of them to be back.
const ABSORBED_WITHIN: Duration = Duration::from_secs(10);

/// The nemesis.
#[derive(Default)]
pub struct ReconnectStorm {
    storm: Option<Storm>,
    said: String,
    problems: Vec<String>,
}

/// As many clients as this process may have files open.
fn clients() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let files: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(files.saturating_sub(FILES_LEFT).min(CLIENTS_MAX))
}

impl Nemesis for ReconnectStorm {
    fn name(&self) -> &'static str {
        "reconnect-storm"
    }

    fn what(&self) -> &'static str {
        "up to 10,000 clients lose their connections at once and come back"
    }

    fn lacking(&self) -> Option<String> {
        match clients() {
            Some(clients) if clients >= CLIENTS_MIN => None,
            Some(clients) => Some(format!("the limit of open files leaves room for {clients} clients only")),
            None => Some("the limit of open files is not known".to_owned()),
        }
    }

    fn lasts(&self, _random: &mut Random) -> Duration {
        Duration::ZERO
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        let clients = clients().context("a limit of open files")?;
        let storm = self.storm.insert(Storm::gather(cluster.ground()?, clients)?);
        let absorbed = storm.strike()?;
        let ms = absorbed.elapsed.as_millis();
        self.said = format!("{clients} clients were back after {ms} ms, {} tries failed", absorbed.retries);
        if absorbed.elapsed > ABSORBED_WITHIN {
            self.problems.push(self.said.clone());
        }
        Ok(Injected::default())
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        self.storm.take().map_or(Ok(()), |mut storm| storm.disperse())
    }
}
