//! Several clients fight for one client identifier, on all nodes.
//!
//! Owns: letting them. Proof: how often the session was taken. Does not: touch the nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Holds, Injected, Nemesis};
use crate::client::fight::Fight;
use crate::cluster::Cluster;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct IdFight {
    fight: Option<Fight>,
}

impl Nemesis for IdFight {
    fn name(&self) -> &'static str {
        "id-fight"
    }

    fn what(&self) -> &'static str {
        "four clients take one session from each other, on all nodes"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(3), Duration::from_secs(15))
    }

    fn holds(&self) -> Holds {
        Holds { no_election: false, progress: true }
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        self.fight = Some(Fight::start(cluster.ground()?));
        Ok(Injected::default())
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        let taken = self.fight.as_ref().context("a fight")?.taken();
        ensure!(taken > 1, "the session was taken {taken} times");
        Ok(format!("the session was taken {taken} times"))
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        self.fight = None;
        Ok(())
    }
}
