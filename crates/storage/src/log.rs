//! The segmented log of a node, for all its groups.
//!
//! Owns: appending, syncing, rotating and dropping segments. Does not: decide when; it has no clock and no thread.
//! Invariants: one append is one contiguous write; a segment is whole and synced before the next one exists; after
//! any failed write or sync every later call fails, and no sync is tried again.
//! Limits: SEGMENT_BYTES_*, RECORD_PAYLOAD_BYTES_MAX, APPEND_BYTES_MAX. See: docs/formats/log-record.md.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::bodies::Bodies;
use crate::cache::{Cached, Origin, Place};
use crate::copy::{CopyWriter, Row};
use crate::disk::{Disk, DiskFile, is_no_space, leaves};
use crate::field::length_u32;
use crate::index::{Position, SegmentState};
use crate::limits::{
    APPEND_BYTES_MAX, BODY_FILE_BYTES_DEFAULT, CACHE_BYTES_DEFAULT, RECORD_PAYLOAD_BYTES_MAX,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SHORT_SEGMENT_BYTES, SPARE_SEGMENTS_DEFAULT,
    WRITE_BUFFER_BYTES_KEPT,
};
use crate::reader::{LogReader, ReadError, Shared};
use crate::record::{Draft, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, Stamp, encode, seed_of};
use crate::recovery::{self, OpenError, Recovery};
use crate::segment::{segment_name, spare_name};
use crate::{Group, HardState, Index, Term};

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Directory of the segments on the disk.
    pub directory: String,
    /// Directory of the body files on the disk.
    pub bodies_directory: String,
    /// Directory of the second copies of heads and tables on the disk.
    pub copies_directory: String,
    /// Size of new segments in bytes; held between `SEGMENT_BYTES_MIN` and `SEGMENT_BYTES_MAX`.
    pub segment_bytes: u64,
    /// Memory for recent entries and bodies, in bytes.
    pub cache_bytes: u64,
    /// Size of body files, in bytes.
    pub body_file_bytes: u64,
    /// Segments kept ready for reuse, the reserve for a full disk.
    pub spare_segments: usize,
    /// Free bytes of the disk that new segments leave to others, who cannot wait as the log can.
    pub kept_bytes: u64,
    /// A number that clients cannot know, drawn by the caller: it keeps payloads from posing as records.
    pub salt: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            directory: "log".to_string(),
            bodies_directory: "bodies".to_string(),
            copies_directory: "copies".to_string(),
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            cache_bytes: CACHE_BYTES_DEFAULT,
            body_file_bytes: BODY_FILE_BYTES_DEFAULT,
            spare_segments: SPARE_SEGMENTS_DEFAULT,
            kept_bytes: 0,
            salt: 0,
        }
    }
}

/// What a caller appends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// An entry; the group's entries at its index and after it are replaced.
    Entry {
        /// Group.
        group: Group,
        /// Index.
        index: Index,
        /// Term.
        term: Term,
        /// Raft entry type.
        entry_type: u8,
        /// Data.
        data: Bytes,
        /// Context.
        context: Bytes,
    },
    /// Hard state of a group; replaces the one before.
    HardState {
        /// Group.
        group: Group,
        /// State.
        state: HardState,
    },
}

impl Record {
    fn draft(&self) -> Draft {
        match self {
            Self::Entry { group, index, term, entry_type, data, context } => Draft {
                kind: Kind::Entry,
                entry_type: *entry_type,
                group: *group,
                term: *term,
                index: *index,
                data: data.clone(),
                context: context.clone(),
            },
            Self::HardState { group, state } => Draft::hard_state(*group, *state),
        }
    }
}

/// An operation on the log failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// An earlier write or sync failed: the process must stop, the log must be opened anew.
    #[error("the log failed earlier and takes nothing any more")]
    Poisoned,
    /// A write or a sync failed just now; the log is poisoned.
    #[error("{operation} {path}")]
    Failed {
        /// What was attempted.
        operation: &'static str,
        /// On which file.
        path: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The disk has no room for another segment. Nothing of the batch was written; the log is not poisoned and the
    /// same call may be made again when there is room.
    #[error("no space for a segment of {bytes} bytes")]
    NoSpace {
        /// Size of the segment.
        bytes: u64,
    },
    /// An entry does not connect to the group's log. Nothing of the batch was written.
    #[error("entry {index} of group {group} does not connect to its log, which is {first} to {last}")]
    Disconnected {
        /// Group.
        group: Group,
        /// Index of the entry.
        index: Index,
        /// First index that could be written.
        first: Index,
        /// Last index there is.
        last: Index,
    },
    /// A record or the batch is larger than the limit. Nothing of the batch was written.
    #[error("{bytes} bytes to append, more than {bytes_max}")]
    TooLarge {
        /// Size.
        bytes: u64,
        /// Limit.
        bytes_max: u64,
    },
    /// An entry to be carried over cannot be read. Nothing was dropped.
    #[error("carry an entry over")]
    Read(#[source] ReadError),
}

/// Figures of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStatus {
    /// Segments, the one being written included.
    pub segments: u64,
    /// Bytes of their files.
    pub segment_bytes: u64,
    /// Spare segments at hand.
    pub spares: u64,
    /// Bytes of body files.
    pub body_bytes: u64,
    /// Body files.
    pub body_files: u64,
    /// Successful syncs of the log since it was opened.
    pub syncs: u64,
    /// Records written since it was opened.
    pub records: u64,
    /// Bytes of these records.
    pub record_bytes: u64,
}

/// Zero-fills a spare segment; may run on any thread, and takes as long as writing that much takes.
pub struct SpareTask {
    disk: Arc<dyn Disk>,
    path: String,
    number: u32,
    length: u64,
    kept_bytes: u64,
}

/// A spare segment that is ready.
#[derive(Debug)]
pub struct Spare {
    pub(crate) number: u32,
    pub(crate) length: u64,
}

impl SpareTask {
    /// Writes the file. A failure leaves nothing behind and harms nothing: the log will try again when it must.
    pub fn run(self) -> io::Result<Spare> {
        if !leaves(self.disk.as_ref(), self.length, self.kept_bytes) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.disk.create(&self.path, self.length)?;
        file.sync_data()?;
        Ok(Spare { number: self.number, length: self.length })
    }
}

/// The segment that is being written.
pub(crate) struct Head {
    pub number: u32,
    pub file: Arc<dyn DiskFile>,
    pub offset: u64,
    pub seed: u32,
    pub length: u64,
}

/// The writer of a log. There is one; readers are had from `reader`.
pub struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) shared: Arc<Shared>,
    pub(crate) head: Head,
    copy: CopyWriter,
    /// Epoch, number of the next record, records synced.
    pub(crate) stamp: Stamp,
    pub(crate) spares: Vec<Spare>,
    pub(crate) spare_number_next: u32,
    spare_pending: bool,
    poisoned: bool,
    /// What is written now is little and lets more go, or the log cannot be opened without it: a segment that begins for it is short, and
    /// may take half of what others are to have.
    pub(crate) makes_room: bool,
    buffer: Vec<u8>,
    status: LogStatus,
}

impl Log {
    /// Opens a log, creating it in an empty directory, and makes sure that all it returns is on the device.
    ///
    /// # Errors
    /// `OpenError::Corrupt` if the log is not what was written; nothing has been changed then.
    pub fn open(disk: Arc<dyn Disk>, options: LogOptions) -> Result<(Self, Recovery), OpenError> {
        recovery::open(disk, options)
    }

    pub(crate) fn assemble(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        shared: Arc<Shared>,
        head: Head,
        copy: CopyWriter,
        stamp: Stamp,
        spares: Vec<Spare>,
    ) -> Self {
        let spare_number_next = spares.iter().map(|spare| spare.number + 1).max().unwrap_or(1);
        let (spare_pending, poisoned) = (false, false);
        let (buffer, status) = (Vec::new(), LogStatus::default());
        Self {
            disk,
            options,
            shared,
            head,
            copy,
            stamp,
            spares,
            spare_number_next,
            spare_pending,
            poisoned,
            makes_room: false,
            buffer,
            status,
        }
    }

    /// A reader; any number of them may live.
    pub fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    /// The body files.
    pub fn bodies(&self) -> Bodies {
        self.shared.bodies.clone()
    }

    /// Writes records, in order, with one write. They can be read at once and are durable after `sync`.
    ///
    /// # Errors
    /// See [`LogError`]; only `Failed` has written something.
    pub fn append(&mut self, batch: &[Record]) -> Result<(), LogError> {
        self.check_alive()?;
        let drafts: Vec<Draft> = batch.iter().map(Record::draft).collect();
        self.check_connected(&drafts)?;
        self.write(&drafts)
    }

    /// Makes everything that was appended durable, with one `fdatasync`; does nothing if nothing was appended.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_alive()?;
        if self.stamp.synced == self.stamp.sequence {
            return Ok(());
        }
        let result = self.head.file.sync_data();
        let number = self.head.number;
        self.or_poison("sync", &segment_name(number), result)?;
        self.stamp.synced = self.stamp.sequence;
        self.status.syncs += 1;
        self.copy.flush();
        Ok(())
    }

    /// A snapshot replaces the group: its entries are gone, the log goes on after `index`. The hard state stays.
    /// Durable when this returns. Bodies that arrived with the snapshot are to be sealed and its records committed
    /// before this; then `Bodies::settle` ends the installation. If the process dies in between, the group's
    /// checkpoint is ahead of its log at the next start, and this is to be called again.
    pub fn reset_group(&mut self, group: Group, index: Index, term: Term) -> Result<(), LogError> {
        self.check_alive()?;
        self.write(&[Draft::mark(Kind::Reset, group, index, term)])?;
        self.sync()
    }

    /// Forgets a group: entries, hard state. Durable when this returns. Its bodies go with `Bodies::remove_group`.
    pub fn remove_group(&mut self, group: Group) -> Result<(), LogError> {
        self.check_alive()?;
        self.write(&[Draft::mark(Kind::GroupRemoved, group, 0, 0)])?;
        self.sync()
    }

    /// A task that prepares a spare segment, if one is wanted. Without it the log makes its segments itself, when it
    /// needs them, and the append waits for that.
    pub fn spare_task(&mut self) -> Option<SpareTask> {
        if self.spare_pending || self.poisoned || !self.spares.is_empty() || self.options.spare_segments == 0
        {
            return None;
        }
        self.spare_pending = true;
        let (path, number) = self.spare_path_next();
        let LogOptions { segment_bytes: length, kept_bytes, .. } = self.options;
        Some(SpareTask { disk: self.disk.clone(), path, number, length, kept_bytes })
    }

    /// Takes the result of a `SpareTask`.
    pub fn supply_spare(&mut self, spare: io::Result<Spare>) {
        self.spare_pending = false;
        self.spares.extend(spare.ok());
    }

    /// Figures.
    pub fn status(&self) -> LogStatus {
        let index = self.shared.index.read();
        LogStatus {
            segments: index.segments.len() as u64,
            segment_bytes: index.segments.values().map(|segment| segment.header.length).sum(),
            spares: self.spares.len() as u64,
            body_bytes: self.shared.bodies.bytes(),
            body_files: self.shared.bodies.file_count() as u64,
            ..self.status
        }
    }

    /// Number of this opening of the log; grows with each.
    pub fn epoch(&self) -> u64 {
        self.stamp.epoch
    }

    /// Whether a write or a sync has failed.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned || self.shared.failed.load(Ordering::Acquire)
    }

    pub(crate) fn check_alive(&self) -> Result<(), LogError> {
        if self.is_poisoned() { Err(LogError::Poisoned) } else { Ok(()) }
    }

    /// Passes a result on; a failure is the end of this log.
    pub(crate) fn or_poison<T>(
        &mut self,
        operation: &'static str,
        name: &str,
        result: io::Result<T>,
    ) -> Result<T, LogError> {
        result.map_err(|source| {
            self.poisoned = true;
            LogError::Failed { operation, path: self.path(name), source }
        })
    }

    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.options.directory)
    }

    fn spare_path_next(&mut self) -> (String, u32) {
        let number = self.spare_number_next;
        self.spare_number_next += 1;
        (self.path(&spare_name(number)), number)
    }

    /// Every entry follows one that is there, in the log or earlier in the batch.
    fn check_connected(&self, drafts: &[Draft]) -> Result<(), LogError> {
        let state = self.shared.index.read();
        let mut ends: BTreeMap<Group, (Index, Index)> = BTreeMap::new();
        for draft in drafts.iter().filter(|draft| draft.kind == Kind::Entry) {
            let (group, index) = (draft.group, draft.index);
            let known = || state.groups.get(&group).map_or((1, 0), |known| (known.floor + 1, known.last()));
            let (first, last) = ends.entry(group).or_insert_with(known);
            if index < *first || index > *last + 1 {
                return Err(LogError::Disconnected { group, index, first: *first, last: *last });
            }
            *last = index;
        }
        Ok(())
    }

    /// Writes drafts that are known to connect.
    pub(crate) fn write(&mut self, drafts: &[Draft]) -> Result<(), LogError> {
        if drafts.is_empty() {
            return Ok(());
        }
        let bytes = batch_bytes(drafts)?;
        if self.head.offset + bytes > self.head.length {
            self.rotate(bytes)?;
        }
        let start = self.head.offset;
        let mut positions = Vec::with_capacity(drafts.len());
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        for draft in drafts {
            let (at, offset) = (buffer.len(), start + buffer.len() as u64);
            let offset = u32::try_from(offset).expect("segments are below 4 GiB");
            let payload_bytes = length_u32(draft.payload_bytes());
            positions.push(Position { segment: self.head.number, offset, payload_bytes });
            if draft.kind == Kind::EpochStart {
                self.stamp.epoch += 1;
            }
            let header = encode(draft, self.stamp, self.head.seed, &mut buffer);
            self.copy.push(&Row::of(&header, buffer.get(at..).unwrap_or_default(), offset));
            self.stamp.sequence += 1;
        }
        let result = self.head.file.write_at(start, &buffer);
        assert!(buffer.len() as u64 == bytes, "the sum of the records is the length of the batch");
        buffer.shrink_to(WRITE_BUFFER_BYTES_KEPT);
        self.buffer = buffer;
        let number = self.head.number;
        self.or_poison("write", &segment_name(number), result)?;
        self.head.offset += bytes;
        self.status.records += drafts.len() as u64;
        self.status.record_bytes += bytes;
        self.publish(drafts, &positions);
        Ok(())
    }

    /// Lets readers see what was written.
    fn publish(&self, drafts: &[Draft], positions: &[Position]) {
        {
            let mut cache = self.shared.cache.lock();
            for (draft, position) in drafts.iter().zip(positions) {
                if matches!(draft.kind, Kind::Entry | Kind::EntryCopy) {
                    let cached = Cached {
                        term: draft.term,
                        entry_type: draft.entry_type,
                        data: draft.data.clone(),
                        context: draft.context.clone(),
                    };
                    cache.insert(Place::Log(position.segment, position.offset), cached, Origin::Appended);
                }
            }
        }
        let mut state = self.shared.index.write();
        for (draft, position) in drafts.iter().zip(positions) {
            state.apply(draft, *position);
        }
        if let Some(segment) = state.segments.get_mut(&self.head.number) {
            segment.end = u32::try_from(self.head.offset).expect("segments are below 4 GiB");
        }
    }

    /// Begins a new segment that has room for `bytes` of records.
    fn rotate(&mut self, bytes: u64) -> Result<(), LogError> {
        let needed = SEGMENT_HEADER_BYTES as u64 + bytes;
        let spare = self.take_spare(needed)?;
        self.sync()?;
        let number = self.head.number + 1;
        let header = SegmentHeader {
            number,
            first_sequence: self.stamp.sequence,
            epoch: self.stamp.epoch,
            salt: self.options.salt,
            length: spare.length,
        };
        let result = begin_segment(self.disk.as_ref(), &self.options.directory, spare.number, &header);
        let file = self.or_poison("begin", &segment_name(number), result)?;
        self.copy.seal();
        self.copy = CopyWriter::begin(&self.shared.copies, &header);
        let seed = seed_of(self.options.salt, number);
        let offset = SEGMENT_HEADER_BYTES as u64;
        let state = SegmentState {
            file: file.clone(),
            header,
            end: length_u32(SEGMENT_HEADER_BYTES),
            groups: BTreeMap::new(),
        };
        self.shared.index.write().segments.insert(number, state);
        self.head = Head { number, file, offset, seed, length: header.length };
        Ok(())
    }

    fn take_spare(&mut self, needed: u64) -> Result<Spare, LogError> {
        if let Some(slot) = self.spares.iter().position(|spare| spare.length >= needed) {
            return Ok(self.spares.swap_remove(slot));
        }
        let fit = |bytes: u64| needed.max(bytes).next_multiple_of(SEGMENT_HEADER_BYTES as u64);
        let (whole, short) = (fit(self.options.segment_bytes), fit(SHORT_SEGMENT_BYTES));
        if self.makes_room {
            return self.new_spare(whole.min(short));
        }
        match self.new_spare(whole) {
            Err(LogError::NoSpace { .. }) if short < whole => self.new_spare(short),
            made => made,
        }
    }

    fn new_spare(&mut self, length: u64) -> Result<Spare, LogError> {
        let kept_bytes = if self.makes_room { self.options.kept_bytes / 2 } else { self.options.kept_bytes };
        if !leaves(self.disk.as_ref(), length, kept_bytes) {
            return Err(LogError::NoSpace { bytes: length });
        }
        let (path, number) = self.spare_path_next();
        match self.disk.create(&path, length) {
            Ok(_) => Ok(Spare { number, length }),
            Err(error) if is_no_space(&error) => Err(LogError::NoSpace { bytes: length }),
            Err(error) => self.or_poison("create", &spare_name(number), Err(error)),
        }
    }
}

impl LogOptions {
    pub(crate) fn bounded(mut self) -> Self {
        let bytes = self.segment_bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        self.segment_bytes = bytes.next_multiple_of(SEGMENT_HEADER_BYTES as u64);
        self
    }
}

/// Writes the header into a spare, then gives it the segment's name: the name and the header always agree.
pub(crate) fn begin_segment(
    disk: &dyn Disk,
    directory: &str,
    spare: u32,
    header: &SegmentHeader,
) -> io::Result<Arc<dyn DiskFile>> {
    let spare_path = format!("{directory}/{}", spare_name(spare));
    let path = format!("{directory}/{}", segment_name(header.number));
    let file = disk.open(&spare_path)?;
    file.write_at(0, &header.encode())?;
    file.sync_data()?;
    disk.rename(&spare_path, &path)?;
    disk.sync_directory(directory)?;
    Ok(file)
}

fn batch_bytes(drafts: &[Draft]) -> Result<u64, LogError> {
    let mut bytes = 0;
    for draft in drafts {
        let payload = draft.payload_bytes() as u64;
        if payload > RECORD_PAYLOAD_BYTES_MAX {
            return Err(LogError::TooLarge { bytes: payload, bytes_max: RECORD_PAYLOAD_BYTES_MAX });
        }
        bytes += draft.encoded_bytes();
    }
    if bytes > APPEND_BYTES_MAX {
        return Err(LogError::TooLarge { bytes, bytes_max: APPEND_BYTES_MAX });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
