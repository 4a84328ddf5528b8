//! Nodes are killed again and again while they recover.
//!
//! Owns: that, for one node or all of them. Proof: each process was there before it was killed, and is gone after.
//! Does not: wait for anything between two kills, so that each start is broken off somewhere else.

use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_tests::let_pass;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::random::Random;

/// Times that each node is killed.
const KILLS: u32 = 20;

/// Time that a start gets.
const EVERY: Duration = Duration::from_millis(200);

/// The nemesis.
#[derive(Default)]
pub struct KillRecovery {
    kills: u32,
}

impl Nemesis for KillRecovery {
    fn name(&self) -> &'static str {
        "kill-recovery"
    }

    fn what(&self) -> &'static str {
        "kill -9 of one node or all of them, twenty times, 200 ms after each start"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, _random: &mut Random) -> Duration {
        Duration::ZERO
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let count = cluster.nodes.len();
        let victims = if random.below(2) == 0 { vec![random.below(count)] } else { (0..count).collect() };
        cluster.kill(&victims)?;
        self.kills = 1;
        while self.kills < KILLS {
            victims.iter().try_for_each(|place| cluster.run(*place))?;
            let_pass(EVERY + Duration::from_millis(u64::try_from(random.below(100))?));
            // A start that fails by itself would be noticed here: there is no process to kill.
            cluster.kill(&victims)?;
            self.kills += 1;
        }
        Ok(Injected { victims, ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        ensure!(self.kills == KILLS, "{} kills", self.kills);
        Ok(format!("killed {KILLS} times"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}
