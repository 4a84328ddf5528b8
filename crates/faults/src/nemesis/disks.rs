//! The wrong disk: an empty one, an old image of the right one, or those of two nodes swapped.
//!
//! Owns: changing volumes while nodes are down. Proof: what the volume held is elsewhere; swapped nodes do not start.
//! An image of an earlier run must be noticed. One of the same run need not be: a leader shows nobody what it writes itself.
//! Limits: the data must be on volumes of their own.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::let_pass;

use super::{Injected, Nemesis, other_than};
use crate::cluster::{Cluster, Settled};
use crate::random::Random;
use crate::volume;

/// Exit code of a node whose data folder is another one's.
const NOT_ITS_OWN: i32 = 69;

/// The cluster goes on for so long while an image gets old.
const GETS_OLD: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(15));

/// The cluster is whole again within so long, in between.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// Which disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// An empty one.
    Empty,
    /// The one of some time ago.
    Old,
    /// That of another node, which has this one's.
    Swapped,
}

/// The nemesis.
pub struct WrongDisk {
    disk: Disk,
    said: String,
}

impl WrongDisk {
    /// Of a kind.
    pub fn of(disk: Disk) -> WrongDisk {
        WrongDisk { disk, said: String::new() }
    }

    fn empty(&mut self, cluster: &mut Cluster, victim: usize) -> Result<()> {
        cluster.kill(&[victim])?;
        let volume = cluster.volume(victim)?;
        volume.unmount()?;
        volume.renew()?;
        ensure!(!cluster.data(victim)?.exists(), "the volume is not empty");
        "a new file system".clone_into(&mut self.said);
        Ok(())
    }

    fn old(&mut self, cluster: &mut Cluster, victim: usize, random: &mut Random) -> Result<()> {
        let of_this_run = random.below(2) == 0;
        if of_this_run {
            let volume = cluster.volume(victim)?;
            volume.hang()?;
            let copied = volume.copy();
            volume.resume()?;
            copied?;
        } else {
            cluster.kill(&[victim])?;
            let volume = cluster.volume(victim)?;
            volume.unmount()?;
            volume.copy()?;
            volume.mount_again()?;
            cluster.run(victim)?;
        }
        cluster.wait_whole(WHOLE_MAX)?;
        let age = random.between(GETS_OLD.0, GETS_OLD.1);
        let_pass(age);
        let identity = cluster.state(victim, false)?.node_id;
        cluster.kill(&[victim])?;
        let volume = cluster.volume(victim)?;
        volume.unmount()?;
        volume.put_copy_back()?;
        volume.mount_again()?;
        cluster.run(victim)?;
        let run = if of_this_run { "the same run" } else { "an earlier run" };
        let became = match cluster.wait_settled(victim)? {
            Settled::JoinsAnew => "the node joins anew",
            // It may have joined between two looks.
            Settled::Ready if cluster.state(victim, false)?.node_id != identity => "the node has joined anew",
            Settled::Ready if of_this_run => "the node goes on with it",
            Settled::Ready => bail!("n{} goes on with an image of an earlier run", victim + 1),
            Settled::Ended(status) => bail!("n{} ended with {status} on an old image", victim + 1),
        };
        self.said = format!("an image of {run}, {} ms old, {became}", age.as_millis());
        Ok(())
    }

    fn swapped(&mut self, cluster: &mut Cluster, victims: &[usize]) -> Result<()> {
        let [one, other] = victims else { bail!("two nodes") };
        cluster.kill(victims)?;
        swap(cluster, *one, *other)?;
        let mut said = Vec::new();
        for victim in victims {
            cluster.run(*victim)?;
            let status = cluster.wait_ended(*victim).context("a node with another one's disk must end")?;
            ensure!(status.code() == Some(NOT_ITS_OWN), "n{} ended with {status}", victim + 1);
            said.push(status.to_string());
        }
        self.said = format!("refused: {}", said.join(", "));
        swap(cluster, *one, *other)
    }
}

/// Swaps the disks of two nodes that are down.
fn swap(cluster: &mut Cluster, one: usize, other: usize) -> Result<()> {
    for place in [one, other] {
        cluster.volume(place)?.unmount()?;
    }
    cluster.swap_volumes(one, other)?;
    for place in [one, other] {
        cluster.volume(place)?.mount_again()?;
    }
    Ok(())
}

impl Nemesis for WrongDisk {
    fn name(&self) -> &'static str {
        match self.disk {
            Disk::Empty => "empty-disk",
            Disk::Old => "old-image",
            Disk::Swapped => "swapped-disks",
        }
    }

    fn what(&self) -> &'static str {
        match self.disk {
            Disk::Empty => "a node comes back with an empty disk",
            Disk::Old => "a node comes back with an image of its disk that is some seconds old",
            Disk::Swapped => "two nodes come back with each other's disk, and must not start",
        }
    }

    fn lacking(&self) -> Option<String> {
        volume::why_none()
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_millis(100), Duration::from_secs(3))
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let one = random.below(cluster.nodes.len());
        let mut victims = vec![one];
        match self.disk {
            Disk::Empty => self.empty(cluster, one)?,
            Disk::Old => self.old(cluster, one, random)?,
            Disk::Swapped => {
                victims.push(other_than(one, cluster, random));
                self.swapped(cluster, &victims)?;
            }
        }
        Ok(Injected { victims, ..Injected::default() })
    }

    fn proof(&mut self, _cluster: &mut Cluster) -> Result<String> {
        Ok(self.said.clone())
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        cluster.run_all()
    }
}
