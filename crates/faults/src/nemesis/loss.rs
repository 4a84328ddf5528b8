//! Every node loses some of the packets that come to it, of nodes and clients alike.
//!
//! Owns: that, at three rates. Proof: the counters of dropped packets. Does not: lose the same packet twice on purpose; TCP sends again.
//! Invariants: at 1 % no leader may be taken for dead, at 10 % publishes are still answered.
//! Limits: the nodes must be in networks of their own.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Holds, Injected, Nemesis};
use crate::cluster::Cluster;
use crate::network;
use crate::random::Random;

/// Leaders stay what they are within so long.
const STEADY_MAX: Duration = Duration::from_secs(60);

/// The nemesis.
pub struct Loss {
    percent: u32,
}

impl Loss {
    /// Of 1, 10 or 30 of a hundred packets.
    pub fn of(percent: u32) -> Loss {
        Loss { percent }
    }
}

impl Nemesis for Loss {
    fn name(&self) -> &'static str {
        match self.percent {
            1 => "loss-1",
            10 => "loss-10",
            _ => "loss-30",
        }
    }

    fn what(&self) -> &'static str {
        match self.percent {
            1 => "every node loses 1 % of the packets that come to it",
            10 => "every node loses 10 % of the packets that come to it",
            _ => "every node loses 30 % of the packets that come to it",
        }
    }

    fn lacking(&self) -> Option<String> {
        network::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(4), Duration::from_secs(20))
    }

    fn holds(&self) -> Holds {
        Holds { no_election: self.percent == 1, progress: self.percent <= 10 }
    }

    fn inject(&mut self, cluster: &mut Cluster, _random: &mut Random) -> Result<Injected> {
        if self.holds().no_election {
            // What a fault before left behind must not count.
            cluster.wait_steady(STEADY_MAX)?;
        }
        let victims: Vec<usize> = (0..cluster.nodes.len()).collect();
        let network = cluster.network()?;
        victims.iter().try_for_each(|place| network.lose(*place, self.percent))?;
        Ok(Injected { victims, ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let network = cluster.network()?;
        let count = cluster.nodes.len();
        let lost = (0..count).map(|place| network.counted(place)).collect::<Result<Vec<u64>>>()?;
        ensure!(lost.iter().sum::<u64>() > 0, "no packet was lost");
        Ok(format!("packets lost: {lost:?}"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let network = cluster.network()?;
        (0..cluster.nodes.len()).try_for_each(|place| network.clear(place))
    }
}
