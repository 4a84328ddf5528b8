//! Partitions: nodes do not get each other's packets, while clients reach all of them.
//!
//! Owns: three shapes of them. Proof: the counters of dropped packets. Does not: cut clients off.
//! Invariants: in a clean one a node is alone; in a one-way one it hears nobody but is heard; in an overlapping one two nodes do not
//! hear each other and the third hears both, so there are two majorities that share it.
//! Limits: the nodes must be in networks of their own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Injected, Nemesis, other_than};
use crate::cluster::Cluster;
use crate::network;
use crate::random::Random;

/// Which nodes do not hear which.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One is alone.
    Clean,
    /// One does not hear the others.
    OneWay,
    /// Two do not hear each other.
    Overlapping,
}

/// The nemesis.
pub struct Partition {
    shape: Shape,
    deaf: Vec<usize>,
}

impl Partition {
    /// Of a shape.
    pub fn of(shape: Shape) -> Partition {
        Partition { shape, deaf: Vec::new() }
    }
}

impl Nemesis for Partition {
    fn name(&self) -> &'static str {
        match self.shape {
            Shape::Clean => "partition",
            Shape::OneWay => "partition-one-way",
            Shape::Overlapping => "partition-overlapping",
        }
    }

    fn what(&self) -> &'static str {
        match self.shape {
            Shape::Clean => "a node and the others do not hear each other",
            Shape::OneWay => "a node does not hear the others, but is heard",
            Shape::Overlapping => "two nodes do not hear each other, the third hears both",
        }
    }

    fn lacking(&self) -> Option<String> {
        network::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(1), Duration::from_secs(20))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let leader = cluster.leader()?;
        // The leader more often than not.
        let one = if random.below(3) == 0 { other_than(leader, cluster, random) } else { leader };
        let others: Vec<usize> = match self.shape {
            Shape::Clean | Shape::OneWay => (0..cluster.nodes.len()).filter(|other| *other != one).collect(),
            Shape::Overlapping => vec![other_than(one, cluster, random)],
        };
        let network = cluster.network()?;
        for other in &others {
            network.drop_from(one, *other)?;
            if self.shape != Shape::OneWay {
                network.drop_from(*other, one)?;
            }
        }
        self.deaf = vec![one];
        if self.shape != Shape::OneWay {
            self.deaf.extend(&others);
        }
        let silenced = if self.shape == Shape::Overlapping { Vec::new() } else { vec![one] };
        Ok(Injected { victims: vec![one], silenced })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let network = cluster.network()?;
        let dropped = self.deaf.iter().map(|place| network.counted(*place)).collect::<Result<Vec<u64>>>()?;
        let least = dropped.iter().min().context("a node that does not hear")?;
        ensure!(*least > 0, "a node dropped nothing: {dropped:?}");
        Ok(format!("packets dropped: {dropped:?}"))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        let network = cluster.network()?;
        self.deaf.iter().try_for_each(|place| network.clear(*place))
    }
}
