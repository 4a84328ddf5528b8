//! Dropping the oldest segment: what is still needed of it is carried over first.
//!
//! Owns: bodies to body files, entries of slow groups and last marks to the head of the log, then the unlink.
//! Does not: decide when the log is too long, or which bodies are alive.
//! Invariants: all that is needed is durable in its new place before the segment loses its name; one slow group
//! never keeps a segment unless the caller wants it to.
//! See: docs/formats/log-record.md.

use std::collections::BTreeMap;

use crate::copy::heads_name;
use crate::log::{Log, LogError, Spare};
use crate::reader::{LogReader, ReadError};
use crate::record::{Draft, Kind};
use crate::segment::{segment_name, spare_name};
use crate::{BodyError, Group, Index};

/// Bytes of entries that are moved to the head with one write.
const MOVE_BATCH_BYTES: u64 = 4 << 20;

/// The oldest sealed segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentRange {
    /// Its number.
    pub segment: u32,
    /// Its length in bytes.
    pub bytes: u64,
    /// Lowest and highest index of each group's entries that were written to it.
    pub groups: Vec<(Group, Index, Index)>,
}

/// What to do with a group that still needs entries of the segment as log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlowGroups {
    /// Keep the segment: the caller will write a checkpoint of the group first.
    Keep,
    /// Copy the entries to the head of the log.
    CopyTail,
}

/// What came of dropping a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropOutcome {
    /// It is gone.
    Dropped {
        /// Bytes written to body files.
        body_bytes: u64,
        /// Entries copied to the head.
        entries_moved: u64,
    },
    /// A group still needs it.
    Pinned {
        /// The group.
        group: Group,
        /// Its lowest entry in the segment that is above its floor.
        index: Index,
    },
    /// It is not the oldest sealed segment.
    NotDroppable,
}

/// Preparation of a drop. `copy_bodies` may run on any thread while the log is written.
pub struct CarryOver {
    reader: LogReader,
    segment: u32,
    /// For each group with entries in the segment up to its floor: its new floor and its first index.
    ranges: BTreeMap<Group, (Index, Index)>,
    slow: SlowGroups,
    body_bytes: u64,
}

impl CarryOver {
    /// Copies the live bodies of the entries that will leave the log to body files; durable when it returns.
    pub fn copy_bodies(&mut self, live: &dyn Fn(Group, Index) -> bool) -> Result<(), CarryError> {
        let bodies = &self.reader.shared.bodies;
        for (group, (first, floor)) in &self.ranges {
            let wanted = |index: &Index| live(*group, *index) && !bodies.contains(*group, *index);
            let indexes: Vec<Index> = (*first..=*floor).filter(wanted).collect();
            let read = |index| match self.reader.entry(*group, index) {
                Ok(entry) => Ok(entry.map(|entry| entry.data)),
                Err(error) => Err(CarryError::Read(error)),
            };
            self.body_bytes += bodies.write(*group, &indexes, read)?;
        }
        Ok(())
    }

    /// The segment to be dropped.
    pub fn segment(&self) -> u32 {
        self.segment
    }
}

/// Bodies could not be carried over. Nothing was dropped.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// An entry cannot be read.
    #[error("carry a body over")]
    Read(#[source] ReadError),
    /// A body file cannot be written.
    #[error("carry a body over")]
    Write(#[source] BodyError),
    /// The log failed.
    #[error("drop a segment")]
    Log(#[source] LogError),
}

impl From<BodyError> for CarryError {
    fn from(error: BodyError) -> Self {
        Self::Write(error)
    }
}

impl Log {
    /// The oldest segment, unless it is the one being written.
    pub fn droppable(&self) -> Option<SegmentRange> {
        let state = self.shared.index.read();
        let (number, segment) = state.segments.first_key_value()?;
        (*number != self.head.number).then(|| SegmentRange {
            segment: *number,
            bytes: segment.header.length,
            groups: segment.groups.iter().map(|(group, (low, high))| (*group, *low, *high)).collect(),
        })
    }

    /// Prepares dropping a segment. `floors` gives the index up to which a group's state is durable in a checkpoint;
    /// entries above it are needed as log.
    ///
    /// # Errors
    /// The outcome `Pinned` or `NotDroppable`.
    pub fn begin_drop(
        &self,
        segment: u32,
        floors: &dyn Fn(Group) -> Index,
        slow: SlowGroups,
    ) -> Result<CarryOver, DropOutcome> {
        let range =
            self.droppable().filter(|range| range.segment == segment).ok_or(DropOutcome::NotDroppable)?;
        let state = self.shared.index.read();
        let mut ranges = BTreeMap::new();
        for (group, low, high) in range.groups {
            let Some(index) = state.groups.get(&group) else { continue };
            let here = |at: &Index| index.position(*at).is_some_and(|position| position.segment == segment);
            let low = low.max(index.floor + 1);
            let floor = floors(group).min(index.last());
            let pinned = (low.max(floor + 1)..=high).find(here);
            if let (Some(index), SlowGroups::Keep) = (pinned, slow) {
                return Err(DropOutcome::Pinned { group, index });
            }
            if let Some(highest) = (low..=high.min(floor)).rev().find(here) {
                ranges.insert(group, (index.floor + 1, highest));
            }
        }
        Ok(CarryOver { reader: self.reader(), segment, ranges, slow, body_bytes: 0 })
    }

    /// Drops the segment of a preparation whose bodies were copied.
    pub fn finish_drop(&mut self, carry: CarryOver) -> Result<DropOutcome, LogError> {
        self.check_alive()?;
        let segment = carry.segment;
        if self.droppable().is_none_or(|range| range.segment != segment) {
            return Ok(DropOutcome::NotDroppable);
        }
        // Entries above the new floors first: a mark may only say "gone" when nothing needed is.
        let moves = self.entries_to_move(&carry);
        if let (Some((group, index)), SlowGroups::Keep) = (moves.first(), carry.slow) {
            return Ok(DropOutcome::Pinned { group: *group, index: *index });
        }
        self.move_entries(&moves)?;
        let marks = self.marks_to_keep(&carry);
        // A few bytes, for which a segment may have to begin: a whole one goes for it.
        self.makes_room = true;
        let written = self.write(&marks);
        self.makes_room = false;
        written?;
        self.sync()?;
        self.retire(segment)?;
        let (body_bytes, entries_moved) = (carry.body_bytes, moves.len() as u64);
        Ok(DropOutcome::Dropped { body_bytes, entries_moved })
    }

    /// All of it at once: see `begin_drop`, `CarryOver::copy_bodies` and `finish_drop`.
    pub fn drop_segment(
        &mut self,
        segment: u32,
        floors: &dyn Fn(Group) -> Index,
        live: &dyn Fn(Group, Index) -> bool,
        slow: SlowGroups,
    ) -> Result<DropOutcome, CarryError> {
        match self.begin_drop(segment, floors, slow) {
            Ok(mut carry) => {
                carry.copy_bodies(live)?;
                self.finish_drop(carry).map_err(CarryError::Log)
            }
            Err(outcome) => Ok(outcome),
        }
    }

    /// Entries that are in the segment and will not be covered by a floor.
    fn entries_to_move(&self, carry: &CarryOver) -> Vec<(Group, Index)> {
        let state = self.shared.index.read();
        let Some(segment) = state.segments.get(&carry.segment) else { return Vec::new() };
        let mut moves = Vec::new();
        for (group, (low, high)) in &segment.groups {
            let Some(index) = state.groups.get(group) else { continue };
            let floor = carry.ranges.get(group).map_or(0, |(_, floor)| *floor).max(index.floor);
            let here = |at: &Index| index.position(*at).is_some_and(|p| p.segment == carry.segment);
            moves.extend((floor.max(low - 1) + 1..=*high).filter(here).map(|at| (*group, at)));
        }
        moves
    }

    fn move_entries(&mut self, moves: &[(Group, Index)]) -> Result<(), LogError> {
        let reader = self.reader();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (group, index) in moves {
            let entry = reader.entry(*group, *index).map_err(LogError::Read)?;
            let entry = entry.expect("only the writer changes the index, and it is here");
            bytes += (entry.data.len() + entry.context.len()) as u64;
            batch.push(Draft {
                kind: Kind::EntryCopy,
                entry_type: entry.entry_type,
                group: *group,
                term: entry.term,
                index: *index,
                data: entry.data,
                context: entry.context,
            });
            if bytes >= MOVE_BATCH_BYTES {
                self.write(&std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.write(&batch)
    }

    /// New floors, and the last hard states and floors that are recorded in the segment.
    fn marks_to_keep(&self, carry: &CarryOver) -> Vec<Draft> {
        let state = self.shared.index.read();
        let mut marks = Vec::new();
        for (group, index) in &state.groups {
            if let Some((hard_state, segment)) = index.hard_state
                && segment == carry.segment
            {
                marks.push(Draft::hard_state(*group, hard_state));
            }
            let new = carry.ranges.get(group).map(|(_, floor)| *floor).filter(|floor| *floor > index.floor);
            // A group that was reset or removed since the preparation has none of these entries any more.
            let here = |at: &Index| index.position(*at).is_some_and(|p| p.segment == carry.segment);
            let new = new.filter(here).and_then(|floor| Some((floor, index.term(floor)?)));
            let old = (index.mark_segment == Some(carry.segment)).then_some((index.floor, index.floor_term));
            if let Some((floor, term)) = new.or(old) {
                marks.push(Draft::mark(Kind::Compacted, *group, floor, term));
            }
        }
        marks
    }

    /// Takes the segment's name away: its file becomes a spare, or goes.
    fn retire(&mut self, number: u32) -> Result<(), LogError> {
        let removed = {
            // Nobody writes into the file any more once it is not listed.
            let _alone = self.shared.mending.lock();
            self.shared.index.write().segments.remove(&number)
        };
        let length = removed.map_or(0, |segment| segment.header.length);
        let path = self.path(&segment_name(number));
        // Before the segment: a copy without its segment says that the segment was lost.
        let result = self.shared.copies.remove_durably(&heads_name(number));
        self.or_poison("remove the copy of", &segment_name(number), result)?;
        let reusable =
            length == self.options.segment_bytes && self.spares.len() < self.options.spare_segments;
        if reusable {
            let spare = self.spare_number_next;
            self.spare_number_next += 1;
            let result = self.disk.rename(&path, &self.path(&spare_name(spare)));
            self.or_poison("recycle", &segment_name(number), result)?;
            self.sync_names()?;
            self.spares.push(Spare { number: spare, length });
        } else {
            let result = self.disk.unlink(&path);
            self.or_poison("unlink", &segment_name(number), result)?;
            self.sync_names()?;
        }
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), LogError> {
        let result = self.disk.sync_directory(&self.options.directory);
        self.or_poison("sync directory of", "", result)
    }
}
