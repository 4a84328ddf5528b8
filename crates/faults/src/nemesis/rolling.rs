//! All nodes are restarted one after another under load, as for an upgrade; some are killed in the middle of it.
//!
//! Owns: that. Proof: how each process ended. Does not: change the program, unless `QUORATE_OTHER_BIN` names another one: then each
//! node goes from one to the other with each restart.
//! Invariants: the next node is stopped only when the cluster is whole again.

use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_tests::let_pass;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::random::Random;

/// The cluster is whole again within so long after each step.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// The nemesis.
#[derive(Default)]
pub struct Rolling {
    said: Vec<String>,
}

impl Nemesis for Rolling {
    fn name(&self) -> &'static str {
        "rolling-restart"
    }

    fn what(&self) -> &'static str {
        "all nodes are stopped and started one after another, and one of them is killed while it stops"
    }

    fn lacking(&self) -> Option<String> {
        None
    }

    fn lasts(&self, _random: &mut Random) -> Duration {
        Duration::ZERO
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let victims: Vec<usize> = (0..cluster.nodes.len()).collect();
        let killed = random.below(victims.len());
        self.said.clear();
        for place in &victims {
            cluster.signal(*place, "TERM")?;
            if *place == killed {
                let_pass(random.between(Duration::from_millis(1), Duration::from_millis(200)));
                cluster.kill_what_runs(&[*place])?;
                self.said.push(format!("n{} killed", place + 1));
            } else {
                let status = cluster.wait_ended(*place)?;
                ensure!(status.success(), "n{} was stopped and ended with {status}", place + 1);
                self.said.push(format!("n{} {status}", place + 1));
            }
            cluster.change_program(*place)?;
            cluster.run(*place)?;
            cluster.wait_whole(WHOLE_MAX)?;
        }
        Ok(Injected { victims, ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.join(", "))
    }

    fn heal(&mut self, _cluster: &mut Cluster) -> Result<()> {
        Ok(())
    }
}
