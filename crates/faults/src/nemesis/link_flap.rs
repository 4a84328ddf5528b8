//! The link of a node goes down and comes up again.
//!
//! Owns: that. Proof: the node's end of the link has no carrier. Does not: reset connections: packets are just gone.
//! Limits: the nodes must be in networks of their own.

use std::time::Duration;

use anyhow::{Result, ensure};
use quorate_tests::wait_for;

use super::{Injected, Nemesis};
use crate::cluster::Cluster;
use crate::network;
use crate::random::Random;

/// The nemesis.
#[derive(Default)]
pub struct LinkFlap {
    victim: usize,
}

impl Nemesis for LinkFlap {
    fn name(&self) -> &'static str {
        "link-flap"
    }

    fn what(&self) -> &'static str {
        "the link of a node is down for a while, for nodes and clients alike"
    }

    fn lacking(&self) -> Option<String> {
        network::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(200), Duration::from_secs(10))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        self.victim = random.below(cluster.nodes.len());
        let network = cluster.network()?;
        network.set_link(self.victim, false)?;
        let down = || network.link_is_up(self.victim).is_ok_and(|up| !up).then_some(());
        wait_for("the link to be down", down)?;
        Ok(Injected { victims: vec![self.victim], silenced: vec![self.victim] })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        ensure!(!cluster.network()?.link_is_up(self.victim)?, "the link is up");
        Ok("no carrier".to_owned())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let network = cluster.network()?;
        network.set_link(self.victim, true)?;
        wait_for("the link to be up", || network.link_is_up(self.victim).is_ok_and(|up| up).then_some(()))
    }
}
