//! The fault atlas: where a disk may lose what was synced.
//!
//! Owns: the rule of who may be damaged, the damage itself, and what is known of it until its node finds it. Does not: find
//! it; that is what the node is tested for.
//! Invariants: every acknowledged entry stays recoverable, so that a loss is a bug. At most one host at a time has damage, is
//! without its state, or is not yet replaced in every group: a group with `2f+1` voters then has what it committed on `f+1`
//! others, or on `f` and a majority cannot be had without them. And no node is left alone with damage that cannot be told
//! from a torn tail: its state is set aside, as if the host had lost its disk.
//! Limits: `STRIKES_MAX` for a run. See: docs/simulation.md, docs/decisions/0009-which-records-count-after-a-crash.md.

use core::time::Duration;

use quorate_state::NodeId;
use quorate_storage::disk::faulty::{Fault as DiskFault, FaultKind as DiskFaultKind, Operation};
use quorate_storage::disk::memory::SECTOR_BYTES;

use super::faults::Fault;
use super::process::{Host, Process};
use super::{Occurrence, Phase, World};
use crate::marks::Mark;
use crate::oracle::Event;

/// Hosts that may lose their state in a run, one after another.
const STRIKES_MAX: u32 = 3;

/// Damage that a node has not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wound {
    /// A write of the log went astray after so many syncs. Until something was synced after it, it looks like a torn tail.
    Astray { syncs: u64 },
    /// Something that was synced has changed.
    Stored,
}

impl World {
    /// Whether a host may lose what is on its disk.
    pub(super) fn may_be_damaged(&self, place: usize) -> bool {
        self.phase == Phase::Faults
            && self.strikes < STRIKES_MAX
            && self.hosts[place].is_running()
            && self
                .hosts
                .iter()
                .all(|host| host.wound.is_none() && !host.given_up && (!host.joining || host.absent))
            && self.is_whole()
    }

    /// Every replica of every group is on a host that has its state: none of their members is gone, none is on its way.
    fn is_whole(&self) -> bool {
        let here = |node: &NodeId| self.hosts.iter().any(|host| host.node == *node);
        self.hosts.iter().filter(|host| !host.absent).all(|host| {
            let Some(process) = host.process.as_ref().filter(|_| !host.paused) else { return false };
            let now = host.clock(self.now);
            // A group whose change of members is joint still needs its old ones: its node is no full voter then.
            if process.node.readiness(now).iter().any(|clause| !clause.ok && clause.name != "draining") {
                return false;
            }
            let groups = process.node.status(false, now).groups;
            groups.iter().all(|group| {
                group.leader.is_some() && group.learners.is_empty() && group.voters.iter().all(here)
            })
        })
    }

    /// What was synced changes on the disk: bits flip, a sector turns to nonsense, a file loses its name, a checkpoint does not
    /// validate.
    pub(super) fn decay(&mut self, place: usize) {
        if !self.may_be_damaged(place) {
            return;
        }
        let what = match self.random.below(10) {
            0 => self.lose_segment(place),
            1 | 2 => self.damage_checkpoint(place),
            3 => self.garble(place, "bodies/"),
            _ => self.garble(place, "log/segment-"),
        };
        let Some(what) = what else { return };
        self.strikes += 1;
        self.history.marks.hit(Mark::DamageAtRest);
        let node = self.hosts[place].node;
        self.history.push(self.now, Event::Note(format!("node {node} is damaged in {what}")));
        self.hosts[place].wound = Some(Wound::Stored);
        // It is found when the node reads it, or starts.
        let after = self.random.millis(20, 1500);
        self.schedule(after, Occurrence::FaultEnds(Fault::Wounded(place)));
    }

    /// Some bits, or a whole sector, of what all later syncs vouch for.
    fn garble(&mut self, place: usize, prefix: &str) -> Option<String> {
        let disk = self.hosts[place].disk.clone();
        let files: Vec<(String, u64)> = disk
            .files()
            .into_iter()
            .filter(|(path, length)| path.starts_with(prefix) && *length > 0)
            .collect();
        let last = files.last()?.0.clone();
        let (path, length) = self.random.pick(&files).clone();
        let sectors: Vec<usize> = if path == last && prefix.starts_with("log") {
            disk.settled_sectors(&path).ok()?
        } else {
            (0..(length as usize).div_ceil(SECTOR_BYTES)).collect()
        };
        let content = disk.content(&path).ok()?;
        // Where nothing was written there is nothing to damage.
        let written: Vec<usize> = sectors
            .into_iter()
            .filter(|sector| {
                content.iter().skip(sector * SECTOR_BYTES).take(SECTOR_BYTES).any(|byte| *byte != 0)
            })
            .collect();
        if written.is_empty() {
            return None;
        }
        let sector = *self.random.pick(&written);
        let flips = if self.random.permille(700) { 1 + self.random.below(3) } else { SECTOR_BYTES };
        for number in 0..flips {
            let inside = if flips == SECTOR_BYTES { number } else { self.random.below(SECTOR_BYTES) };
            let mask = 1 << self.random.below(8);
            disk.corrupt(&path, (sector * SECTOR_BYTES + inside) as u64, mask).ok()?;
        }
        Some(format!("sector {sector} of {path}"))
    }

    /// A sealed segment between others loses its name. The loss of the first one, and of the last one, nobody can notice.
    fn lose_segment(&mut self, place: usize) -> Option<String> {
        let disk = self.hosts[place].disk.clone();
        let files = disk.files();
        let segments: Vec<&String> =
            files.iter().map(|(path, _)| path).filter(|path| path.starts_with("log/segment-")).collect();
        let between = segments.get(1..segments.len().checked_sub(1)?)?;
        if between.is_empty() {
            return None;
        }
        let path = (*self.random.pick(between)).clone();
        disk.lose(&path);
        Some(path)
    }

    fn damage_checkpoint(&mut self, place: usize) -> Option<String> {
        let group = self.random.below(self.features.partitions as usize + 1) as u32;
        self.hosts[place].checkpoints.damage(group);
        Some(format!("the checkpoint of group {group}, if it has one"))
    }

    /// The next write of the log goes to the wrong place, or nowhere, and success is reported.
    pub(super) fn lead_astray(&mut self, place: usize) {
        if !self.may_be_damaged(place) {
            return;
        }
        self.strikes += 1;
        let kind = match self.random.below(3) {
            0 => DiskFaultKind::Lose,
            1 => DiskFaultKind::Misdirect(SECTOR_BYTES as u64 * (1 + self.random.below(4) as u64)),
            _ => DiskFaultKind::MisdirectTo(self.random.next() % (self.features.segment_bytes / 2)),
        };
        let host = &mut self.hosts[place];
        host.arm(Operation::Write, "log/", kind, 1);
        host.astray_seen = Some(host.faulty.injected());
        let node = host.node;
        self.history.push(self.now, Event::Note(format!("the next write of node {node}: {kind:?}")));
        let after = self.random.millis(10, 2500);
        self.schedule(after, Occurrence::FaultEnds(Fault::Wounded(place)));
    }

    /// After each call of the log: has a write gone astray, and does anything vouch for it by now?
    pub(super) fn look_for_astray(&mut self, place: usize, process: &Process) {
        let syncs = process.log.status().syncs;
        let host = &mut self.hosts[place];
        if host.astray_seen.is_some_and(|seen| host.faulty.injected() > seen) {
            host.astray_seen = None;
            host.wound = Some(Wound::Astray { syncs });
            self.history.marks.hit(Mark::WriteAstray);
            // Some hosts die before anything vouches for it.
            if self.random.permille(250) {
                let after = self.random.micros(10, 10_000);
                self.schedule(after, Occurrence::FaultEnds(Fault::Wounded(place)));
            }
        } else if let Some(Wound::Astray { syncs: then }) = host.wound
            && syncs >= then + 2
        {
            host.wound = Some(Wound::Stored);
        }
    }

    /// The process of a host is gone. Damage that looks like a torn tail is not for its next start to find.
    pub(super) fn close_wound(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        if host.astray_seen.take().is_some() {
            host.faulty.heal();
        }
        if matches!(host.wound, Some(Wound::Astray { .. })) {
            host.wound = None;
            host.given_up = true;
            self.history.marks.hit(Mark::DamageHidden);
        }
    }

    /// A host that was damaged some time ago starts again, if it has not been found yet.
    pub(super) fn restart_wounded(&mut self, place: usize) {
        let host = &self.hosts[place];
        if host.is_running() && (host.wound.is_some() || host.astray_seen.is_some()) {
            let power_lost = self.random.permille(500);
            self.kill(place, power_lost);
            let after = self.random.millis(20, 300);
            self.schedule(after, Occurrence::FaultEnds(Fault::Down(place)));
        }
    }
}

impl Host {
    /// The next operations of this kind on such files fail.
    pub(super) fn arm(&self, operation: Operation, path: &str, kind: DiskFaultKind, times: u64) {
        self.faulty.arm(DiskFault { operation, path_contains: path.to_owned(), after: 0, times, kind });
    }
}

impl World {
    /// Operations of a disk fail for a while: nothing that was synced is lost.
    pub(super) fn fail_disk(&mut self, place: usize) {
        if !self.hosts[place].is_running() {
            return;
        }
        let kind = DiskFaultKind::InputOutput;
        let times = 1 + self.random.below(3) as u64;
        let choice = self.random.below(8);
        let bit = (self.random.next(), self.random.below(8) as u8);
        let short = self.random.next() % 2000;
        let calls = self.random.below(4) as u64;
        let host = &self.hosts[place];
        match choice {
            0 | 6 | 7 => host.arm(Operation::Read, "", kind, times),
            1 => host.arm(Operation::Write, "", kind, 1),
            2 => host.arm(Operation::Write, "log/", DiskFaultKind::ShortWrite(short), 1),
            3 => host.arm(Operation::Sync, "", kind, 1),
            4 => host.checkpoints.fail_after(calls),
            // A transient one: it must not last until a start, which would take it for damage. Nor may it be in a body: a
            // node that reads one cannot find out at its next start that it is whole.
            _ => host.arm(Operation::Read, "log/", DiskFaultKind::FlipBit { byte: bit.0, bit: bit.1 }, 1),
        }
        self.hosts[place].heals_at_death |= choice == 5;
        self.note(|| format!("host {place}: disk fault {choice}"));
        let after = self.random.millis(500, 3000);
        self.schedule(after, Occurrence::FaultEnds(Fault::Disk(place)));
    }

    /// A disk has room for little more, until something else on it is removed.
    pub(super) fn fill_disk(&mut self, place: usize) {
        if !self.hosts[place].is_running() || self.hosts[place].full {
            return;
        }
        let room = self.random.next() % (self.features.segment_bytes * 2);
        let host = &mut self.hosts[place];
        host.full = true;
        let used: u64 = host.disk.files().iter().map(|(_, length)| length).sum();
        host.disk.limit_capacity(Some(used + room));
        self.note(|| format!("the disk of host {place} is full"));
        let after = self.random.millis(300, 5000);
        self.schedule(after, Occurrence::FaultEnds(Fault::Full(place)));
    }

    pub(super) fn empty_disk(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        host.full = false;
        host.disk.limit_capacity(None);
        let generation = host.process.as_ref().map(|process| process.generation);
        if let Some(generation) = generation {
            self.serve_all(place, generation);
        }
    }

    /// Connections that were not read go on.
    fn serve_all(&mut self, place: usize, generation: u64) {
        let Some(mut process) = self.take_process(place, generation) else { return };
        let all: Vec<_> = process.connections.keys().copied().collect();
        for conn in all {
            self.schedule_serve(place, &mut process, conn);
        }
        self.put_back(place, process);
    }

    /// The disk of a host works again.
    pub(super) fn heal_disk(&mut self, place: usize) {
        let host = &mut self.hosts[place];
        if host.astray_seen.is_none() {
            host.faulty.heal();
            host.checkpoints.heal();
            host.heals_at_death = false;
        }
    }

    /// How long a write waits before it looks for room again.
    pub(super) const LOOK_FOR_ROOM: Duration = Duration::from_millis(100);
}
