//! Checkpoints in memory, for the simulator.
//!
//! Owns: committed states, which survive a crash, and installations, which do not. Does not: touch a disk.
//! Invariants: the same as the index store: all of a write or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{AppliedMark, Change, CheckpointError, CheckpointStore, CheckpointView};
use crate::Group;

type Records = BTreeMap<Bytes, Bytes>;

#[derive(Clone)]
struct GroupState {
    mark: AppliedMark,
    records: Arc<Records>,
    damaged: bool,
}

impl GroupState {
    fn check(&self, group: Group) -> Result<(), CheckpointError> {
        if self.damaged { Err(CheckpointError::Corrupt { group }) } else { Ok(()) }
    }
}

#[derive(Default)]
struct State {
    groups: BTreeMap<Group, GroupState>,
    installing: BTreeMap<Group, Records>,
    fail_after: Option<u64>,
}

/// Checkpoints in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryCheckpoints {
    state: Arc<Mutex<State>>,
}

impl MemoryCheckpoints {
    /// No checkpoints.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses what was not committed.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.installing.clear();
        state.fail_after = None;
    }

    /// Loses everything: an empty disk.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }

    /// Lets all calls pass again.
    pub fn heal(&self) {
        self.state.lock().fail_after = None;
    }

    /// Damages the checkpoint of a group, durably: whoever reads it next finds it corrupt.
    pub fn damage(&self, group: Group) {
        if let Some(state) = self.state.lock().groups.get_mut(&group) {
            state.damaged = true;
        }
    }

    /// Lets so many changing calls pass, then fails all until the next crash.
    pub fn fail_after(&self, calls: u64) {
        self.state.lock().fail_after = Some(calls);
    }
}

impl State {
    fn check(&mut self, group: Group) -> Result<(), CheckpointError> {
        match &mut self.fail_after {
            Some(0) => Err(CheckpointError::Injected { group }),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl CheckpointStore for MemoryCheckpoints {
    fn groups(&self) -> Result<Vec<Group>, CheckpointError> {
        Ok(self.state.lock().groups.keys().copied().collect())
    }

    fn write(&self, group: Group, mark: &AppliedMark, changes: Vec<Change>) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        state.check(group)?;
        let empty = || GroupState { mark: AppliedMark::default(), records: Arc::default(), damaged: false };
        let current = state.groups.entry(group).or_insert_with(empty);
        if mark.index < current.mark.index {
            return Err(CheckpointError::Behind { group, index: mark.index, current: current.mark.index });
        }
        let records = Arc::make_mut(&mut current.records);
        for (key, value) in changes {
            match value {
                Some(value) => records.insert(key.into(), value.into()),
                None => records.remove(key.as_slice()),
            };
        }
        current.mark = mark.clone();
        Ok(())
    }

    fn mark(&self, group: Group) -> Result<Option<AppliedMark>, CheckpointError> {
        let state = self.state.lock();
        let Some(state) = state.groups.get(&group) else { return Ok(None) };
        state.check(group)?;
        Ok(Some(state.mark.clone()))
    }

    fn view(&self, group: Group) -> Result<Option<Box<dyn CheckpointView>>, CheckpointError> {
        let state = self.state.lock().groups.get(&group).cloned();
        state.iter().try_for_each(|state| state.check(group))?;
        Ok(state.map(|state| Box::new(View { state, last: None }) as Box<dyn CheckpointView>))
    }

    fn begin_install(&self, group: Group) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        state.check(group)?;
        state.installing.insert(group, Records::new());
        Ok(())
    }

    fn put_chunk(&self, group: Group, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        state.check(group)?;
        let staged = state.installing.get_mut(&group).ok_or(CheckpointError::NotInstalling { group })?;
        staged.extend(records.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value))));
        Ok(())
    }

    fn commit_install(&self, group: Group, mark: &AppliedMark) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        state.check(group)?;
        let staged = state.installing.remove(&group).ok_or(CheckpointError::NotInstalling { group })?;
        state
            .groups
            .insert(group, GroupState { mark: mark.clone(), records: Arc::new(staged), damaged: false });
        Ok(())
    }

    fn abort_install(&self, group: Group) -> Result<(), CheckpointError> {
        self.state.lock().installing.remove(&group);
        Ok(())
    }

    fn remove(&self, group: Group) -> Result<(), CheckpointError> {
        let mut state = self.state.lock();
        state.check(group)?;
        state.groups.remove(&group);
        state.installing.remove(&group);
        Ok(())
    }
}

struct View {
    state: GroupState,
    last: Option<Bytes>,
}

impl CheckpointView for View {
    fn mark(&self) -> &AppliedMark {
        &self.state.mark
    }

    fn next_chunk(&mut self, bytes_max: usize) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = self.last.clone().map_or(Unbounded, Excluded);
        let mut chunk: Vec<(Bytes, Bytes)> = Vec::new();
        let mut bytes = 0;
        for (key, value) in self.state.records.range((from, Unbounded)) {
            bytes += key.len() + value.len();
            if bytes > bytes_max && !chunk.is_empty() {
                break;
            }
            chunk.push((key.clone(), value.clone()));
        }
        if let Some((key, _)) = chunk.last() {
            self.last = Some(key.clone());
        }
        Ok(chunk)
    }
}
