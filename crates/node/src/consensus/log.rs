//! The log of one group as Raft sees it: recent entries in memory, older ones through the shell.
//!
//! Owns: the window of recent entries, hard state, where the log starts, and what a snapshot would cover.
//! Does not: write; it mirrors what was handed to the shell in `Action::Persist`.
//! Invariants: start <= applied by checkpoint <= last; an entry that is not yet persisted is always in the window.
//! Limits: `ENTRIES_IN_MEMORY_BYTES_MAX`. See: docs/decisions/0003-own-log.md.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use quorate_state::{GroupId, LogIndex};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::consensus::wire;

/// An entry as the shell reads it back from the log.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredEntry {
    /// Index.
    pub index: LogIndex,
    /// Term.
    pub term: u64,
    /// Raft entry type.
    pub entry_type: u8,
    /// Data.
    pub data: Bytes,
    /// Context.
    pub context: Bytes,
}

/// Reads what the shell has written. Synchronous: it is served from the page cache or a read-ahead.
pub trait LogSource: Send + Sync {
    /// Entries from `low` up to and without `high`, at least one if it exists, then until `bytes_max`.
    fn entries(&self, group: GroupId, low: LogIndex, high: LogIndex, bytes_max: u64) -> Vec<StoredEntry>;
    /// Term of an entry that is still in the log.
    fn term(&self, group: GroupId, index: LogIndex) -> Option<u64>;
    /// Data of an entry, from the log or from where bodies went when the log was shortened.
    fn body(&self, group: GroupId, index: LogIndex) -> Option<Bytes>;
}

/// A position with its term. A later one in the order is more up to date, as Raft compares the ends of logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    /// Term.
    pub term: u64,
    /// Index.
    pub index: u64,
}

/// Raft's view of the log of one group.
pub struct GroupLog {
    group: GroupId,
    source: Arc<dyn LogSource>,
    hard_state: HardState,
    conf_state: ConfState,
    /// The log begins after this position.
    start: Position,
    last: u64,
    window: VecDeque<Entry>,
    window_bytes: usize,
    /// Bytes of written entries from which on the oldest leave the window.
    window_bytes_max: usize,
    /// Last entry known to be on disk: only entries up to here may leave the window.
    persisted: u64,
    checkpoint: Position,
    checkpoint_members: ConfState,
    snapshot_wanted: Cell<bool>,
}

/// What a group starts from.
pub struct GroupLogStart {
    /// Hard state.
    pub hard_state: HardState,
    /// The log begins after this position.
    pub start: Position,
    /// Last index in the log.
    pub last: u64,
    /// The checkpoint, with the membership at it.
    pub checkpoint: Position,
    /// Membership at the checkpoint.
    pub conf_state: ConfState,
}

impl GroupLog {
    /// A view that agrees with what the shell recovered. Keeps so many bytes of written entries in memory.
    pub fn new(
        group: GroupId,
        source: Arc<dyn LogSource>,
        start: GroupLogStart,
        window_bytes_max: usize,
    ) -> Self {
        assert!(start.start.index <= start.checkpoint.index, "the log starts after its checkpoint");
        let last = start.last.max(start.start.index);
        GroupLog {
            group,
            source,
            hard_state: start.hard_state,
            conf_state: start.conf_state.clone(),
            start: start.start,
            last,
            window: VecDeque::new(),
            window_bytes: 0,
            window_bytes_max,
            persisted: last,
            checkpoint: start.checkpoint,
            checkpoint_members: start.conf_state,
            snapshot_wanted: Cell::new(false),
        }
    }

    /// Takes over entries that are on their way to disk; a conflicting tail is replaced.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.start.index && first.index <= self.last + 1, "a gap in the log");
        while self.window.back().is_some_and(|entry| entry.index >= first.index) {
            if let Some(entry) = self.window.pop_back() {
                self.window_bytes -= entry_bytes(&entry);
            }
        }
        if self.window.back().is_some_and(|entry| entry.index + 1 != first.index) {
            self.window.clear();
            self.window_bytes = 0;
        }
        for entry in entries {
            self.window_bytes += entry_bytes(entry);
            self.window.push_back(entry.clone());
            self.last = entry.index;
        }
        self.persisted = self.persisted.min(first.index - 1);
    }

    /// Entries up to here are on disk.
    pub fn persisted_to(&mut self, index: u64) {
        self.persisted = self.persisted.max(index.min(self.last));
        while self.window_bytes > self.window_bytes_max
            && self.window.front().is_some_and(|entry| entry.index <= self.persisted)
        {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= entry_bytes(&entry);
            }
        }
    }

    /// Remembers the hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Hard state last handed over.
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// A checkpoint is durable: this is what a snapshot would now cover.
    pub fn set_checkpoint(&mut self, checkpoint: Position, members: ConfState) {
        self.checkpoint = checkpoint;
        self.checkpoint_members = members;
    }

    /// The durable checkpoint.
    pub fn checkpoint(&self) -> Position {
        self.checkpoint
    }

    /// The shell dropped the log up to this position.
    pub fn compacted(&mut self, start: Position) {
        if start.index <= self.start.index {
            return;
        }
        assert!(start.index <= self.checkpoint.index, "the log was shortened past its checkpoint");
        self.start = start;
        while self.window.front().is_some_and(|entry| entry.index <= start.index) {
            if let Some(entry) = self.window.pop_front() {
                self.window_bytes -= entry_bytes(&entry);
            }
        }
    }

    /// A snapshot takes the place of the whole log.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.get_metadata();
        let position = Position { index: metadata.index, term: metadata.term };
        self.start = position;
        self.last = position.index;
        self.persisted = position.index;
        self.window.clear();
        self.window_bytes = 0;
        self.conf_state = metadata.get_conf_state().clone();
        self.set_checkpoint(position, self.conf_state.clone());
        self.hard_state.commit = self.hard_state.commit.max(position.index);
    }

    /// Data of an entry, for a message body.
    pub fn body(&self, index: LogIndex) -> Option<Bytes> {
        match self.in_window(index.0) {
            Some(entry) => Some(entry.data.clone()),
            None => self.source.body(self.group, index),
        }
    }

    /// Whether Raft asked for a snapshot that the checkpoint cannot give yet; asking clears it.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.replace(false)
    }

    fn in_window(&self, index: u64) -> Option<&Entry> {
        let first = self.window.front()?.index;
        let offset = usize::try_from(index.checked_sub(first)?).ok()?;
        self.window.get(offset)
    }

    fn stored_entry(stored: StoredEntry) -> Option<Entry> {
        let mut entry = Entry::default();
        entry.set_entry_type(wire::entry_type(stored.entry_type).ok()?);
        entry.term = stored.term;
        entry.index = stored.index.0;
        entry.data = stored.data;
        entry.context = stored.context;
        Some(entry)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + size_of::<Entry>()
}

impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut next = low;
        while next < high {
            if let Some(entry) = self.in_window(next) {
                bytes += entry_bytes(entry) as u64;
                if !entries.is_empty() && bytes > bytes_max {
                    return Ok(entries);
                }
                entries.push(entry.clone());
                next += 1;
                continue;
            }
            let window_first = self.window.front().map_or(high, |entry| entry.index.min(high));
            let left = bytes_max.saturating_sub(bytes);
            let stored = self.source.entries(self.group, LogIndex(next), LogIndex(window_first), left);
            let complete = stored.len() as u64 == window_first - next;
            for entry in stored.into_iter().filter_map(Self::stored_entry) {
                if entry.index != next {
                    return Err(Error::Store(StorageError::Unavailable));
                }
                bytes += entry_bytes(&entry) as u64;
                next += 1;
                entries.push(entry);
            }
            if entries.is_empty() {
                return Err(Error::Store(StorageError::Unavailable));
            }
            if !complete {
                return Ok(entries);
            }
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.start.index {
            return Ok(self.start.term);
        }
        if index < self.start.index {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if index == self.checkpoint.index {
            return Ok(self.checkpoint.term);
        }
        match self.in_window(index) {
            Some(entry) => Ok(entry.term),
            None => {
                self.source.term(self.group, LogIndex(index)).ok_or(Error::Store(StorageError::Unavailable))
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    /// The snapshot is the last checkpoint: its records and bodies travel beside the message. One that does not know
    /// the receiver as a member would be refused, and one older than asked for is of no use: a new checkpoint first.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let members = &self.checkpoint_members;
        let known = members.voters.contains(&to) || members.learners.contains(&to);
        if !known || self.checkpoint.index < request_index || self.checkpoint.index == 0 {
            self.snapshot_wanted.set(true);
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = self.checkpoint.index;
        metadata.term = self.checkpoint.term;
        metadata.set_conf_state(members.clone());
        Ok(snapshot)
    }
}
