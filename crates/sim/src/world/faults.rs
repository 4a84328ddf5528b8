//! Faults: when they happen, to whom, and how they end.
//!
//! Owns: the draw of each fault. Does not: know their consequences.
//! Invariants: what was synced survives every fault but those that the `atlas` allows.

use core::time::Duration;
use std::sync::Arc;

use quorate_node::Event as NodeEvent;
use quorate_node::node::Operation;
use quorate_state::command::{Duty, NodeRecord};
use quorate_state::{Incarnation, NodeId};
use quorate_storage::Identity;
use quorate_storage::checkpoint::memory::MemoryCheckpoints;
use quorate_storage::disk::FaultyDisk;
use quorate_storage::disk::memory::MemoryDisk;

use super::process::first_record;
use super::{Occurrence, Phase, World};
use crate::features::FaultKind;
use crate::marks::Mark;
use crate::mutant::Mutant;
use crate::oracle::Event;

/// A fault that ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Down(usize),
    Paused(usize),
    Blocked(Vec<(usize, usize)>),
    SlowDisk(usize),
    Disk(usize),
    Full(usize),
    Wounded(usize),
}

impl World {
    pub(super) fn fault(&mut self) {
        if self.phase != Phase::Faults || self.features.faults.is_empty() {
            return;
        }
        let every = match self.mutant {
            Some(Mutant::OlderTermCounted) => Duration::from_millis(800),
            _ => self.features.fault_every,
        };
        let after = self.random.between(every / 4, every * 7 / 4);
        self.schedule(after, Occurrence::Fault);
        let kinds = self.features.faults.clone();
        let mut kind = *self.random.pick(&kinds);
        let mut place = self.random.below(self.hosts.len());
        if self.mutant == Some(Mutant::OlderTermCounted) {
            // It shows when three leaders in a row fail, each soon after it came to office: faults are aimed at that.
            kind = if self.random.permille(700) { FaultKind::Crash } else { FaultKind::Pause };
            place = self.led_last;
        }
        if self.mutant == Some(Mutant::WallClock) {
            let jump = self.random.millis(1000, 20_000);
            self.hosts[place].clock_offset += jump;
        }
        match kind {
            FaultKind::Crash => self.crash(place),
            FaultKind::CrashAll => {
                for place in 0..self.hosts.len() {
                    self.crash(place);
                }
            }
            FaultKind::Pause => self.pause(place),
            FaultKind::Partition => self.partition(),
            FaultKind::OneWay => self.one_way(),
            FaultKind::Reset => {
                let other = (place + 1 + self.random.below(self.hosts.len() - 1)) % self.hosts.len();
                self.note(|| format!("link {place}-{other} is reset"));
                self.reset_link(place, other);
            }
            FaultKind::SlowDisk => {
                self.hosts[place].sync_max = self.random.millis(50, 700);
                let after = self.random.millis(500, 3000);
                self.schedule(after, Occurrence::FaultEnds(Fault::SlowDisk(place)));
            }
            FaultKind::CutClient => {
                let open = self.open_pipes();
                if !open.is_empty() {
                    let conn = *self.random.pick(&open);
                    self.cut_pipe(conn);
                }
            }
            FaultKind::Duty => {
                let duties = [Duty::Full, Duty::Follow, Duty::Drain { grace_s: 0 }];
                let duty = *self.random.pick(&duties);
                let node = self.hosts[self.random.below(self.hosts.len())].node;
                self.set_duty(place, node, duty);
            }
            FaultKind::Wipe => self.wipe(place),
            FaultKind::Decay => self.decay(place),
            FaultKind::Astray => self.lead_astray(place),
            FaultKind::DiskError => self.fail_disk(place),
            FaultKind::DiskFull => self.fill_disk(place),
        }
    }

    /// An operator asks the node at a place.
    fn set_duty(&mut self, place: usize, node: NodeId, duty: Duty) {
        let generation = self.hosts[place].process.as_ref().map(|process| process.generation);
        if let Some(generation) = generation {
            let operation = Operation::SetDuty { node, duty };
            self.report(place, generation, NodeEvent::Operate { number: 0, operation });
        }
    }

    /// Every node that is up and not in full service is put back.
    pub(super) fn restore_duties(&mut self) {
        for place in 0..self.hosts.len() {
            let host = &self.hosts[place];
            let Some(process) = &host.process else { continue };
            let duties = process.node.status(false, host.clock(self.now)).duties;
            let node = host.node;
            if duties.iter().any(|duty| duty.node == node && duty.duty != Duty::Full) {
                self.set_duty(place, node, Duty::Full);
            }
        }
    }

    fn crash(&mut self, place: usize) {
        if !self.hosts[place].is_running() {
            return;
        }
        let power_lost = self.random.permille(700);
        self.kill(place, power_lost);
        let after = if self.random.permille(500) {
            self.random.millis(20, 400)
        } else {
            self.random.millis(400, 5000)
        };
        self.schedule(after, Occurrence::FaultEnds(Fault::Down(place)));
    }

    fn pause(&mut self, place: usize) {
        if !self.hosts[place].is_running() || self.hosts[place].paused {
            return;
        }
        self.hosts[place].paused = true;
        let after = if self.random.permille(600) {
            self.random.millis(100, 1500)
        } else {
            self.random.millis(1500, 8000)
        };
        let node = self.hosts[place].node;
        self.history.push(self.now, Event::Note(format!("node {node} stands still for {after:?}")));
        for other in (0..self.hosts.len()).filter(|other| *other != place) {
            self.watch_link(place, other);
        }
        self.schedule(after, Occurrence::FaultEnds(Fault::Paused(place)));
    }

    fn go_on(&mut self, place: usize) {
        if !std::mem::take(&mut self.hosts[place].paused) {
            return;
        }
        self.note(|| format!("host {place} goes on"));
        // All at once, in order; none of it can pause the host again.
        for occurrence in std::mem::take(&mut self.hosts[place].deferred) {
            self.schedule(Duration::ZERO, occurrence);
        }
    }

    fn partition(&mut self) {
        let count = self.hosts.len();
        let side: Vec<bool> = (0..count).map(|_| self.random.permille(500)).collect();
        let mut ways = Vec::new();
        for from in 0..count {
            for to in 0..count {
                if side[from] != side[to] {
                    ways.push((from, to));
                }
            }
        }
        self.cut_ways(ways);
    }

    /// Some directions, in any pattern: one-way cuts, overlapping majorities.
    fn one_way(&mut self) {
        let count = self.hosts.len();
        let both = self.random.permille(400);
        let mut ways = Vec::new();
        for from in 0..count {
            for to in from + 1..count {
                if self.random.permille(400) {
                    let way = if self.random.permille(500) { (from, to) } else { (to, from) };
                    ways.push(way);
                    if both {
                        ways.push((way.1, way.0));
                    }
                }
            }
        }
        self.cut_ways(ways);
    }

    fn cut_ways(&mut self, ways: Vec<(usize, usize)>) {
        if ways.is_empty() {
            return;
        }
        self.history.push(self.now, Event::Note(format!("nothing passes {ways:?}")));
        for (from, to) in &ways {
            self.block(*from, *to);
        }
        // Half of them are noticed at once, by a firewall that resets.
        if self.random.permille(500) {
            for (from, to) in &ways {
                self.reset_link(*from, *to);
            }
        }
        let after = if self.random.permille(600) {
            self.random.millis(50, 2500)
        } else {
            self.random.millis(2500, 9000)
        };
        self.schedule(after, Occurrence::FaultEnds(Fault::Blocked(ways)));
    }

    /// The machine comes back with an empty disk and asks to join.
    fn wipe(&mut self, place: usize) {
        if self.may_be_damaged(place) {
            self.strikes += 1;
            self.kill(place, false);
            self.history.push(self.now, Event::Note(format!("host {place} has lost its disk")));
            self.set_aside(place);
        }
    }

    /// The state of a host is of no use: it asks to join as a new node on a new disk. The daemon keeps what it has until the
    /// cluster agrees, and makes no use of it.
    pub(super) fn set_aside(&mut self, place: usize) {
        let node = self.hosts[place].node;
        self.history.push(self.now, Event::Note(format!("node {node} gives its state up")));
        let uuid = self.random.next().to_le_bytes();
        let host = &mut self.hosts[place];
        host.disk = MemoryDisk::new();
        host.faulty = FaultyDisk::new(Arc::new(host.disk.clone()), 0);
        host.full = false;
        host.wound = None;
        host.astray_seen = None;
        host.checkpoints = MemoryCheckpoints::new();
        if self.mutant == Some(Mutant::DamagedKeepsIdentity) {
            return self.joined(place, node);
        }
        host.disk_uuid[..8].copy_from_slice(&uuid);
        host.joining = true;
        // No node has identity 0: nothing is sent to the host until it has a new one.
        host.node = NodeId(0);
        self.schedule(Duration::from_millis(300), Occurrence::Join(place));
    }

    pub(super) fn ask_to_join(&mut self, place: usize) {
        if !self.hosts[place].joining {
            return;
        }
        self.hosts[place].absent = false;
        self.schedule(Duration::from_millis(700), Occurrence::Join(place));
        let running: Vec<usize> = self
            .hosts
            .iter()
            .filter(|host| host.is_running() && !host.paused)
            .map(|host| host.place)
            .collect();
        if running.is_empty() {
            return;
        }
        let member = *self.random.pick(&running);
        if !self.network.is_open(place, member) {
            return;
        }
        let disk = self.hosts[place].disk_uuid;
        let record = NodeRecord {
            id: NodeId(0),
            disk,
            incarnation: Incarnation(0),
            level: quorate_state::LEVEL,
            ..first_record(place)
        };
        if let Some(generation) = self.hosts[member].process.as_ref().map(|process| process.generation) {
            self.report(member, generation, NodeEvent::Join(Box::new(record)));
        }
    }

    /// Control has decided about a disk.
    pub(super) fn join_decided(&mut self, disk: [u8; 16], node: Option<NodeId>) {
        let host = self.hosts.iter().find(|host| host.joining && host.disk_uuid == disk);
        if let (Some(host), Some(node)) = (host.map(|host| host.place), node) {
            let after = self.random.millis(1, 20);
            self.schedule(after, Occurrence::JoinAnswered { host, node });
        }
    }

    pub(super) fn joined(&mut self, place: usize, node: NodeId) {
        let keeps = self.mutant == Some(Mutant::DamagedKeepsIdentity);
        let host = &mut self.hosts[place];
        if !std::mem::take(&mut host.joining) && !keeps {
            return;
        }
        host.node = node;
        let identity = Identity {
            node_id: node.0,
            // Higher than any before, which the mutant needs.
            incarnation: if keeps { self.generation * 1000 } else { 0 },
            disk_uuid: host.disk_uuid,
            cluster_id: "simulated".to_owned(),
            node_name: format!("n{}", place + 1),
        };
        identity.create(&host.disk).expect("an empty disk takes an identity");
        let added = !std::mem::replace(&mut host.was_member, true);
        if !added {
            self.history.marks.hit(Mark::NodeReplaced);
        }
        self.history.push(self.now, Event::Note(format!("host {place} joins as node {node}")));
        self.boot_again(place);
    }

    fn boot_again(&mut self, place: usize) {
        self.reset_links(place);
        self.boot(place);
    }

    pub(super) fn fault_ends(&mut self, fault: Fault) {
        match fault {
            Fault::Down(place) => self.boot_again_if_down(place),
            Fault::Paused(place) => self.go_on(place),
            Fault::Blocked(ways) => {
                for (from, to) in ways {
                    self.unblock(from, to);
                }
            }
            Fault::SlowDisk(place) => self.hosts[place].sync_max = self.features.sync_max,
            Fault::Disk(place) => self.heal_disk(place),
            Fault::Full(place) => self.empty_disk(place),
            Fault::Wounded(place) => self.restart_wounded(place),
        }
    }

    fn boot_again_if_down(&mut self, place: usize) {
        if !self.hosts[place].is_running() && !self.hosts[place].joining {
            self.boot_again(place);
        }
    }

    pub(super) fn end_all_faults(&mut self) {
        let count = self.hosts.len();
        for from in 0..count {
            for to in 0..count {
                self.unblock(from, to);
            }
        }
        for place in 0..count {
            self.go_on(place);
            self.hosts[place].sync_max = self.features.sync_max;
            self.heal_disk(place);
            self.empty_disk(place);
            self.restart_wounded(place);
            self.boot_again_if_down(place);
        }
    }
}
