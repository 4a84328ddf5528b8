//! Where the entries of each group are.
//!
//! Owns: the in-memory index of the log: 12 bytes per entry and one run per term. Does not: read or write files.
//! Invariants: the entries of a group are contiguous from floor + 1; terms do not fall with the index; every
//! position lies in a segment that is listed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::record::{Draft, Kind, SegmentHeader};
use crate::{Group, HardState, Index, Term};

/// Place of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// Segment number.
    pub segment: u32,
    /// Offset of the record in the segment.
    pub offset: u32,
    /// Payload length.
    pub payload_bytes: u32,
}

const _: () = assert!(size_of::<Position>() == 12);

/// Entries and marks of one group.
#[derive(Default)]
pub struct GroupIndex {
    /// The log of the group starts after this index.
    pub floor: Index,
    /// Term of the entry at the floor.
    pub floor_term: Term,
    entries: VecDeque<Position>,
    /// First index and term of each run of entries of one term.
    terms: VecDeque<(Index, Term)>,
    /// Last hard state and the segment it is in.
    pub hard_state: Option<(HardState, u32)>,
    /// Segment of the record that says the floor, if one does.
    pub mark_segment: Option<u32>,
}

impl GroupIndex {
    /// Last index; the floor if there are no entries.
    pub fn last(&self) -> Index {
        self.floor + self.entries.len() as u64
    }

    /// Place of an entry.
    pub fn position(&self, index: Index) -> Option<Position> {
        let slot = usize::try_from(index.checked_sub(self.floor + 1)?).ok()?;
        self.entries.get(slot).copied()
    }

    /// Term of an entry, or of the floor.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index == self.floor {
            return Some(self.floor_term);
        }
        if index < self.floor || index > self.last() {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Appends an entry at `index`, which replaces what is there and after it.
    pub fn put(&mut self, index: Index, term: Term, position: Position) {
        assert!(index > self.floor && index <= self.last() + 1, "entries of a group are contiguous");
        self.entries.truncate(usize::try_from(index - self.floor - 1).unwrap_or(usize::MAX));
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
        if self.terms.back().is_none_or(|(_, last)| *last != term) {
            self.terms.push_back((index, term));
        }
        self.entries.push_back(position);
    }

    /// Moves an entry to another place.
    fn relocate(&mut self, index: Index, position: Position) {
        let slot = index.checked_sub(self.floor + 1).and_then(|slot| usize::try_from(slot).ok());
        if let Some(place) = slot.and_then(|slot| self.entries.get_mut(slot)) {
            *place = position;
        }
    }

    /// Forgets entries up to `floor`.
    pub fn compact(&mut self, floor: Index, term: Term) {
        if floor <= self.floor {
            return;
        }
        let gone = usize::try_from(floor - self.floor).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.drain(..gone);
        self.floor = floor;
        self.floor_term = term;
        while self.terms.get(1).is_some_and(|(first, _)| *first <= floor + 1) {
            self.terms.pop_front();
        }
        if self.entries.is_empty() {
            self.terms.clear();
        }
    }

    /// Forgets all entries; the log starts after `floor`.
    pub fn reset(&mut self, floor: Index, term: Term) {
        self.entries.clear();
        self.terms.clear();
        self.floor = floor;
        self.floor_term = term;
    }
}

/// A segment and what is in it.
pub struct SegmentState {
    /// Open file.
    pub file: Arc<dyn DiskFile>,
    /// What the file begins with.
    pub header: SegmentHeader,
    /// End of its records.
    pub end: u32,
    /// Lowest and highest index of the entries that were written to it, per group.
    pub groups: BTreeMap<Group, (Index, Index)>,
}

impl SegmentState {
    /// Counts an entry in.
    pub fn cover(&mut self, group: Group, index: Index) {
        let range = self.groups.entry(group).or_insert((index, index));
        *range = (range.0.min(index), range.1.max(index));
    }
}

/// All groups and segments.
#[derive(Default)]
pub struct LogIndex {
    /// Groups that have a record.
    pub groups: BTreeMap<Group, GroupIndex>,
    /// Segments by number.
    pub segments: BTreeMap<u32, SegmentState>,
}

impl LogIndex {
    /// Takes in a record that was written at `position`.
    pub fn apply(&mut self, draft: &Draft, position: Position) {
        if draft.kind == Kind::EpochStart {
            return;
        }
        let group = self.groups.entry(draft.group).or_default();
        match draft.kind {
            Kind::Entry => group.put(draft.index, draft.term, position),
            Kind::EntryCopy => group.relocate(draft.index, position),
            Kind::HardState => {
                let vote = crate::field::u64_at(&draft.data, 0).unwrap_or(0);
                let state = HardState { term: draft.term, vote, commit: draft.index };
                group.hard_state = Some((state, position.segment));
            }
            Kind::Compacted => {
                group.compact(draft.index, draft.term);
                group.mark_segment = Some(position.segment);
            }
            Kind::Reset => {
                group.reset(draft.index, draft.term);
                group.mark_segment = Some(position.segment);
            }
            Kind::GroupRemoved => {
                self.groups.remove(&draft.group);
            }
            Kind::EpochStart => {}
        }
        if matches!(draft.kind, Kind::Entry | Kind::EntryCopy)
            && let Some(segment) = self.segments.get_mut(&position.segment)
        {
            segment.cover(draft.group, draft.index);
        }
    }
}
