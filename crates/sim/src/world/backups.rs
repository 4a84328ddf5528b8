//! Backups: the part of the shell that leads one through its steps, and what it is judged by.
//!
//! Owns: the order of the steps, as the daemon has it; which node keeps which group's part; putting the parts together.
//! Does not: judge; see `invariants/backup_cut.rs`.
//! Invariants: a step begins when all groups have done the one before; any refusal ends the backup.
//! See: docs/decisions/0032-backup-cut.md.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_node::Event as NodeEvent;
use quorate_node::machine::Machine;
use quorate_node::node::Operation;
use quorate_state::command::BackupStep;
use quorate_state::{BackupId, GroupId, LogIndex, NodeId, StreamId};

use super::{Occurrence, Phase, World};
use crate::marks::Mark;
use crate::mutant::Mutant;
use crate::oracle::{BackupLink, Event};

/// How long groups may be held, in milliseconds.
const HOLD_MS: u32 = 1500;

/// A backup that took longer is given up.
const PATIENCE: Duration = Duration::from_secs(6);

/// Operations of backups are numbered from here on, apart from those of faults.
const NUMBERS_FROM: u64 = 1_000_000;

/// What a group's part is made of: the records of its checkpoint, and the entry that it covers.
type Part = (LogIndex, Vec<(Bytes, Bytes)>);

/// The backup that is underway.
#[derive(Default)]
pub(super) struct Backup {
    id: u64,
    /// Host that leads it, and which run of it.
    leader: Option<(usize, u64)>,
    began: Duration,
    step: usize,
    waiting: BTreeSet<u64>,
    parts: BTreeMap<GroupId, Part>,
    numbers: u64,
}

impl World {
    pub(super) fn begin_backup(&mut self) {
        if !matches!(self.phase, Phase::Faults | Phase::Healed { .. }) {
            return;
        }
        let after = self.random.millis(300, 2500);
        self.schedule(after, Occurrence::Backup);
        let underway = self.backup.leader.is_some() && self.now.saturating_sub(self.backup.began) < PATIENCE;
        let place = self.random.below(self.hosts.len());
        let generation = self.hosts[place].process.as_ref().map(|process| process.generation);
        let Some(generation) = generation.filter(|_| !underway) else { return };
        self.backup = Backup {
            id: self.backup.id + 1,
            leader: Some((place, generation)),
            began: self.now,
            numbers: self.backup.numbers,
            ..Backup::default()
        };
        self.note(|| format!("a backup begins at host {place}"));
        self.backup_step();
    }

    /// Gives the present step to all groups.
    fn backup_step(&mut self) {
        for group in 0..=self.features.partitions {
            let step = match self.backup.step {
                0 => BackupStep::Hold { ms: HOLD_MS },
                1 => match self.keeper_of(GroupId(group)) {
                    Some(node) => BackupStep::Cut { node },
                    None => return self.end_backup("a group has no replica that is up"),
                },
                _ => BackupStep::Release,
            };
            self.backup_operation(GroupId(group), step);
            if self.mutant == Some(Mutant::CutBeforeAllHold)
                && self.backup.step == 0
                && let Some(node) = self.keeper_of(GroupId(group))
            {
                self.backup_operation(GroupId(group), BackupStep::Cut { node });
            }
        }
    }

    fn backup_operation(&mut self, group: GroupId, step: BackupStep) {
        let Some((place, generation)) = self.backup.leader else { return };
        self.backup.numbers += 1;
        let number = NUMBERS_FROM + self.backup.numbers;
        self.backup.waiting.insert(number);
        let operation = Operation::Backup { group, backup: BackupId(self.backup.id), step };
        self.report(place, generation, NodeEvent::Operate { number, operation });
    }

    /// Some node that has a replica of a group.
    fn keeper_of(&mut self, group: GroupId) -> Option<NodeId> {
        let has = |host: &&super::Host| {
            let process = host.process.as_ref();
            process.is_some_and(|process| process.node.checkpointed(group).0 > 0)
        };
        let nodes: Vec<NodeId> = self.hosts.iter().filter(has).map(|host| host.node).collect();
        (!nodes.is_empty()).then(|| *self.random.pick(&nodes))
    }

    /// A group has answered.
    pub(super) fn backup_answered(&mut self, number: u64, outcome: Result<(), String>) {
        if !self.backup.waiting.remove(&number) {
            return;
        }
        if let Err(why) = outcome {
            return self.end_backup(&why);
        }
        if !self.backup.waiting.is_empty() {
            return;
        }
        self.backup.step += 1;
        match self.backup.step {
            1 if self.mutant == Some(Mutant::CutBeforeAllHold) => {
                self.backup.step = 2;
                self.backup_step();
            }
            1 | 2 => self.backup_step(),
            _ => self.finish_backup(),
        }
    }

    /// A node has kept a group's part.
    pub(super) fn backup_part(
        &mut self,
        backup: BackupId,
        group: GroupId,
        index: LogIndex,
        records: Vec<(Bytes, Bytes)>,
    ) {
        if backup.0 == self.backup.id && self.backup.leader.is_some() {
            self.backup.parts.insert(group, (index, records));
            self.finish_backup();
        }
    }

    fn end_backup(&mut self, why: &str) {
        self.history.marks.hit(Mark::BackupGivenUp);
        let why = why.to_owned();
        self.note(|| format!("the backup is given up: {why}"));
        self.backup.leader = None;
        self.backup.waiting.clear();
    }

    /// When all steps are done and all parts are there: puts them together.
    fn finish_backup(&mut self) {
        if self.backup.step < 3 || self.backup.parts.len() <= self.features.partitions as usize {
            return;
        }
        self.backup.leader = None;
        let parts = std::mem::take(&mut self.backup.parts);
        let settings = &self.settings;
        let machines: Vec<(GroupId, Machine)> = parts
            .into_iter()
            .map(|(group, (index, records))| {
                let machine = Machine::restore(group, &settings.cluster, &settings.partition, index, records);
                (group, machine.expect("the records of a checkpoint"))
            })
            .collect();
        let mut links = Vec::new();
        for (from, source) in &machines {
            for (to, destination) in machines.iter().filter(|(to, _)| to != from) {
                let (forgotten, last) = source.outbox_span(*to);
                let received = destination.stream_applied(StreamId::Group(*from)).0;
                let (from, to) = (from.0, to.0);
                links.push(BackupLink { from, to, forgotten: forgotten.0, received, last: last.0 });
            }
        }
        self.history.marks.hit(Mark::BackupCut);
        self.history.push(self.now, Event::Backup { links });
    }
}
