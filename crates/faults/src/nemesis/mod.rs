//! Nemeses: each brings one fault about, proves that it happened, and heals it.
//!
//! Owns: the list of them and what they have in common. Does not: judge what the clients saw.
//! Invariants: a fault without proof is an error of the run; what this machine cannot do is skipped with its reason.

mod full_disk;
mod hung_disk;
mod kill_all;
mod kill_follower;
mod kill_leader;
mod link_flap;
mod partition;
mod power_cut;
mod reset_storm;
mod slow_link;
mod starved;
mod stop_leader;
mod sync_error;

use std::time::Duration;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::random::Random;

/// One kind of fault.
pub trait Nemesis {
    /// Name, as one types it.
    fn name(&self) -> &'static str;

    /// What it does, in a few words.
    fn what(&self) -> &'static str;

    /// Why it cannot be done here, if so.
    fn lacking(&self) -> Option<String>;

    /// How long it lasts from injection to healing.
    fn lasts(&self, random: &mut Random) -> Duration;

    /// Brings it about.
    ///
    /// # Errors
    /// When it cannot: the run ends.
    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected>;

    /// Proof that it happened, asked for just before it is healed.
    ///
    /// # Errors
    /// When it did not happen: the run ends.
    fn proof(&mut self, cluster: &mut Cluster) -> Result<String>;

    /// Ends it, and starts what it ended.
    ///
    /// # Errors
    /// When it cannot: the run ends.
    fn heal(&mut self, cluster: &mut Cluster) -> Result<()>;
}

/// What an injection did.
#[derive(Clone, Debug, Default)]
pub struct Injected {
    /// Nodes it was done to, from 0.
    pub victims: Vec<usize>,
    /// Nodes that have no contact with a majority while it lasts, but run.
    pub silenced: Vec<usize>,
}

/// All of them.
pub fn all() -> Vec<Box<dyn Nemesis>> {
    vec![
        Box::new(kill_leader::KillLeader::default()),
        Box::new(kill_follower::KillFollower::default()),
        Box::new(kill_all::KillAll::default()),
        Box::new(power_cut::PowerCut::of_one()),
        Box::new(power_cut::PowerCut::of_all()),
        Box::new(stop_leader::StopLeader::default()),
        Box::new(hung_disk::HungDisk::default()),
        Box::new(partition::Partition::of(partition::Shape::Clean)),
        Box::new(partition::Partition::of(partition::Shape::OneWay)),
        Box::new(partition::Partition::of(partition::Shape::Overlapping)),
        Box::new(slow_link::SlowLink::default()),
        Box::new(reset_storm::ResetStorm::default()),
        Box::new(link_flap::LinkFlap::default()),
        Box::new(sync_error::SyncError::default()),
        Box::new(starved::Starved::default()),
        Box::new(full_disk::FullDisk::of_one()),
        Box::new(full_disk::FullDisk::of_quorum()),
    ]
}

/// A node that is not this one.
fn other_than(place: usize, cluster: &Cluster, random: &mut Random) -> usize {
    let count = cluster.nodes.len();
    (place + 1 + random.below(count.saturating_sub(1))) % count.max(1)
}

/// Proof that processes are gone.
fn proof_gone(pids: &[u32]) -> Result<String> {
    for pid in pids {
        anyhow::ensure!(crate::machine::process_state(*pid).is_none(), "process {pid} is there");
    }
    Ok(format!("gone: {pids:?}"))
}
