//! Nemeses: each brings one fault about, proves that it happened, and heals it.
//!
//! Owns: the list of them and what they have in common. Does not: judge what the clients saw.
//! Invariants: a fault without proof is an error of the run; what this machine cannot do is skipped with its reason.

mod clock;
mod damage;
mod disks;
mod frozen_log;
mod full_disk;
mod hung_disk;
mod id_fight;
mod kill_all;
mod kill_follower;
mod kill_leader;
mod kill_persist;
mod kill_recovery;
mod link_flap;
mod little_memory;
mod loss;
mod mangled;
mod partition;
mod power_cut;
mod power_cut_slow;
mod read_error;
mod read_only;
mod reconnect_storm;
mod reset_storm;
mod rolling;
mod slow_disk;
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

    /// What must hold while it lasts, beyond what holds always.
    fn holds(&self) -> Holds {
        Holds::default()
    }

    /// What it found broken itself, beyond what the clients saw; asked for after the proof.
    fn problems(&mut self) -> Vec<String> {
        Vec::new()
    }

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

/// What must hold while a fault lasts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holds {
    /// No group elects a leader.
    pub no_election: bool,
    /// Publishes are acknowledged.
    pub progress: bool,
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
        Box::new(kill_persist::KillPersist::default()),
        Box::new(kill_recovery::KillRecovery::default()),
        Box::new(power_cut_slow::PowerCutSlow::default()),
        Box::new(loss::Loss::of(1)),
        Box::new(loss::Loss::of(10)),
        Box::new(loss::Loss::of(30)),
        Box::new(mangled::Mangled::latency()),
        Box::new(mangled::Mangled::reorder()),
        Box::new(frozen_log::FrozenLog::default()),
        Box::new(slow_disk::SlowDisk::default()),
        Box::new(read_error::ReadError::default()),
        Box::new(read_only::ReadOnly::default()),
        Box::new(damage::Damage::flips()),
        Box::new(damage::Damage::cuts()),
        Box::new(disks::WrongDisk::of(disks::Disk::Empty)),
        Box::new(disks::WrongDisk::of(disks::Disk::Old)),
        Box::new(disks::WrongDisk::of(disks::Disk::Swapped)),
        Box::new(clock::Clock::of(clock::Change::Forward)),
        Box::new(clock::Clock::of(clock::Change::Back)),
        Box::new(clock::Clock::of(clock::Change::Fast)),
        Box::new(little_memory::LittleMemory::default()),
        Box::new(rolling::Rolling::default()),
        Box::new(id_fight::IdFight::default()),
        Box::new(reconnect_storm::ReconnectStorm::default()),
    ]
}

/// Faults that no nemesis brings about, with the reason.
pub const NOT_INJECTED: [(&str, &str); 6] = [
    (
        "damage to disjoint places on all nodes",
        "with more than a minority damaged, nodes wait by design (decision 0034)",
    ),
    (
        "a device that fails reads or writes in places",
        "no device mapper here; strace fails system calls instead",
    ),
    ("members added, removed and replaced under faults", "an acceptance test does that, with kills"),
    ("upgrade and downgrade", "only with a second program in `QUORATE_OTHER_BIN`"),
    ("a database killed or frozen, its answer lost", "the product has no database sinks"),
    ("a site lost or cut off", "the product has no second sites"),
];

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
