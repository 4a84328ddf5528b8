//! Reading entries and bodies while the log is written.
//!
//! Owns: lookups, the cache, reading ahead for drains of a backlog. Does not: change the log.
//! Invariants: every record read from the disk is checked (checksum, group, index) before a byte of it is returned;
//! no lock is held while the disk works.
//! Limits: READ_AHEAD_BYTES, the cache's bytes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::bodies::{Bodies, BodyError};
use crate::cache::{Cache, Cached, DrainDetector, Origin, Place};
use crate::copy::Copies;
use crate::disk::{DiskFile, read_up_to};
use crate::field::memory;
use crate::index::{LogIndex, Position};
use crate::limits::MENDED_AT_ONCE;
use crate::payload::{Offer, Payload, PayloadSource, Sources};
use crate::record::{Header, Kind, RECORD_HEADER_BYTES, SegmentHeader, split_payload, verify};
use crate::recovery::LostEntry;
use crate::segment::segment_name;
use crate::{Group, Index, Term};

/// An entry as it was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryRecord {
    /// Index in the group.
    pub index: Index,
    /// Term.
    pub term: Term,
    /// Raft entry type.
    pub entry_type: u8,
    /// Data.
    pub data: Bytes,
    /// Context.
    pub context: Bytes,
}

impl EntryRecord {
    fn bytes(&self) -> u64 {
        (self.data.len() + self.context.len()) as u64
    }
}

/// Reading an entry or a body failed. The replica cannot go on with this group.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("read {file} at {offset}")]
    Io {
        /// File name.
        file: String,
        /// Offset.
        offset: u64,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// What is stored is not what was written.
    #[error("{file} is corrupt at {offset}: entry {index} of group {group} does not match its checksum")]
    Corrupt {
        /// File name.
        file: String,
        /// Offset.
        offset: u64,
        /// Group.
        group: Group,
        /// Index.
        index: Index,
    },
    /// A body file failed.
    #[error("read body {index} of group {group}")]
    Body {
        /// Group.
        group: Group,
        /// Index.
        index: Index,
        /// Cause.
        #[source]
        source: BodyError,
    },
}

/// What the writer and the readers of a log share.
pub struct Shared {
    /// Directory of the segments.
    pub directory: String,
    pub index: RwLock<LogIndex>,
    pub cache: Arc<Mutex<Cache>>,
    pub bodies: Bodies,
    pub drains: Mutex<DrainDetector>,
    pub copies: Copies,
    /// Where payloads of damaged records come from.
    pub sources: Sources,
    /// Held by whoever writes into a segment in place, and by whoever takes a segment's file away.
    pub mending: Mutex<()>,
    /// A write into a segment failed that was not the log's own: the log is as good as poisoned.
    pub failed: AtomicBool,
}

/// Reads a log. Clones read the same log; any number of threads may read while one writes.
///
/// An entry can be read from the moment `Log::append` returns, before it is synced.
#[derive(Clone)]
pub struct LogReader {
    pub(crate) shared: Arc<Shared>,
}

struct Located {
    position: Position,
    term: Term,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
    end: u32,
}

impl LogReader {
    /// First index of the group's log: one above the last index that was dropped or covered by a snapshot.
    pub fn first_index(&self, group: Group) -> Index {
        self.shared.index.read().groups.get(&group).map_or(1, |group| group.floor + 1)
    }

    /// Last index of the group's log; `first_index - 1` if it has no entries.
    pub fn last_index(&self, group: Group) -> Index {
        self.shared.index.read().groups.get(&group).map_or(0, crate::index::GroupIndex::last)
    }

    /// Term of an entry, also of the one just before the first.
    pub fn term(&self, group: Group, index: Index) -> Option<Term> {
        match self.shared.index.read().groups.get(&group) {
            Some(group) => group.term(index),
            None => (index == 0).then_some(0),
        }
    }

    /// Where payloads of damaged records and bodies are to come from. A read that meets damage asks there and goes on with what it
    /// gets. Only the first source counts.
    pub fn repair_from(&self, source: Arc<dyn PayloadSource>) {
        let _first_counts = self.shared.sources.set(source);
    }

    /// An entry; `None` if the log does not have it.
    pub fn entry(&self, group: Group, index: Index) -> Result<Option<EntryRecord>, ReadError> {
        match self.entry_as_it_is(group, index) {
            Err(ReadError::Corrupt { .. }) if self.mend(group, index) == Some(Offer::Taken) => {
                self.entry_as_it_is(group, index)
            }
            read => read,
        }
    }

    /// Asks for the payload of a damaged entry and writes its record again. `None` if nobody can be asked for it.
    pub fn mend(&self, group: Group, index: Index) -> Option<Offer> {
        let source = self.shared.sources.get()?;
        let lost = self.lost(group, index)?;
        // Where it cannot be written it is not taken; the next write of the log meets the same disk, and ends the process.
        let mut take =
            |payload: &Payload| self.restore(&lost, &payload.data, &payload.context).unwrap_or(false);
        Some(source.offer(group, index, &mut take))
    }

    /// As [`LogReader::mend`] for many entries, whose records are made durable together. What came of each.
    ///
    /// # Errors
    /// The disk's. The process must stop then, as after any failed write of the log.
    pub fn mend_all(&self, lost: &[LostEntry]) -> io::Result<Vec<Option<Offer>>> {
        let Some(source) = self.shared.sources.get() else { return Ok(vec![None; lost.len()]) };
        // One handle for each segment: who wrote is told by the sync of the same handle whether that failed.
        let mut files: BTreeMap<u32, Arc<dyn DiskFile>> = BTreeMap::new();
        let mut offers = Vec::with_capacity(lost.len());
        for some in lost.chunks(MENDED_AT_ONCE) {
            source.ahead(&some.iter().map(|entry| (entry.group, entry.index)).collect::<Vec<_>>());
            for entry in some {
                let mut failure = None;
                let mut take = |payload: &Payload| {
                    let write = self.restore_with(
                        entry,
                        &payload.data,
                        &payload.context,
                        |segment, offset, bytes| {
                            let file = match files.entry(segment) {
                                Entry::Occupied(file) => file.into_mut(),
                                Entry::Vacant(place) => {
                                    place.insert(self.shared.copies.disk.open(&self.segment_path(segment))?)
                                }
                            };
                            file.write_at(offset, bytes)
                        },
                    );
                    write.unwrap_or_else(|error| {
                        failure = Some(error);
                        false
                    })
                };
                offers.push(Some(source.offer(entry.group, entry.index, &mut take)));
                if let Some(error) = failure {
                    self.shared.failed.store(true, Ordering::Release);
                    return Err(error);
                }
            }
        }
        for file in files.values() {
            file.sync_data().inspect_err(|_| self.shared.failed.store(true, Ordering::Release))?;
        }
        Ok(offers)
    }

    /// Asks for a damaged body and writes it again. `None` if nobody can be asked for it.
    pub fn mend_body(&self, group: Group, index: Index) -> Option<Offer> {
        self.shared.bodies.mend(group, index)
    }

    /// What this node has of an entry for others: payload of the record or, if that has gone, the body. Nothing if it is damaged.
    pub fn payload(&self, group: Group, index: Index) -> Option<Payload> {
        match self.entry_as_it_is(group, index) {
            Ok(Some(entry)) => Some(Payload { data: entry.data, context: entry.context }),
            _ => {
                let data = self.shared.bodies.read_as_it_is(group, index).ok().flatten()?;
                Some(Payload { data, context: Bytes::new() })
            }
        }
    }

    fn entry_as_it_is(&self, group: Group, index: Index) -> Result<Option<EntryRecord>, ReadError> {
        loop {
            let Some(located) = self.locate(group, index) else { return Ok(None) };
            let place = Place::Log(located.position.segment, located.position.offset);
            if let Some(cached) = self.shared.cache.lock().get(place) {
                return Ok(Some(entry_of(index, cached)));
            }
            if let Some(cached) = self.read_record(group, index, &located)? {
                return Ok(Some(entry_of(index, cached)));
            }
            // A segment may be recycled under a reader: only a place that still holds is corrupt.
            let same = |now: Located| now.position == located.position && now.term == located.term;
            if self.locate(group, index).is_some_and(same) {
                let file = segment_name(located.position.segment);
                let offset = u64::from(located.position.offset);
                return Err(ReadError::Corrupt { file, offset, group, index });
            }
        }
    }

    /// Entries from `low` to below `high`, as many as fit in `bytes_max` but at least one; fewer if the log ends.
    /// Empty if the log does not have `low`.
    pub fn entries(
        &self,
        group: Group,
        low: Index,
        high: Index,
        bytes_max: u64,
    ) -> Result<Vec<EntryRecord>, ReadError> {
        let mut entries: Vec<EntryRecord> = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let Some(entry) = self.entry(group, index)? else { break };
            bytes += entry.bytes();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Data of an entry, from the log or from the body files after its segment was dropped; `None` if neither has it.
    pub fn body(&self, group: Group, index: Index) -> Result<Option<Bytes>, ReadError> {
        // A segment may be dropped between the two lookups, but its bodies are in place before that: the order counts.
        match self.entry(group, index) {
            Ok(Some(entry)) => return Ok(Some(entry.data)),
            Err(ReadError::Corrupt { .. }) if self.shared.bodies.contains(group, index) => {}
            Err(error) => return Err(error),
            Ok(None) => {}
        }
        let body = self.shared.bodies.read(group, index);
        body.map_err(|source| ReadError::Body { group, index, source })
    }

    /// What is known of an entry whose record is damaged; `None` if the log does not have it, or no second copy says what the
    /// record was.
    pub fn lost(&self, group: Group, index: Index) -> Option<LostEntry> {
        let located = self.locate(group, index)?;
        let Position { segment, offset, .. } = located.position;
        let row = self.shared.copies.open(segment)?.row_at(&located.header, offset)?;
        let head = &row.header;
        let is_wanted = matches!(head.kind, Kind::Entry | Kind::EntryCopy)
            && (head.group, head.index, head.term) == (group, index, located.term);
        is_wanted.then_some(LostEntry { group, index, term: located.term, segment, row })
    }

    /// Writes the record of a lost entry again, byte for byte as it was, and makes it durable. False if the payload is not the one
    /// that was written; nothing has changed then. If the log no longer has the entry there, nothing needs to be done.
    ///
    /// # Errors
    /// The disk's. The process must stop then, as after any failed write of the log.
    pub fn restore(&self, lost: &LostEntry, data: &[u8], context: &[u8]) -> io::Result<bool> {
        self.restore_with(lost, data, context, |segment, offset, record| {
            self.write_in_place(segment, offset, record)
        })
    }

    fn restore_with(
        &self,
        lost: &LostEntry,
        data: &[u8],
        context: &[u8],
        write: impl FnOnce(u32, u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let _alone = self.shared.mending.lock();
        let Some(located) = self.locate(lost.group, lost.index) else { return Ok(true) };
        if located.position.segment != lost.segment || located.position.offset != lost.row.offset {
            return Ok(true);
        }
        let payload = [data, context].concat();
        let fits = memory(u64::from(lost.row.header.context_bytes)) == context.len();
        let Some(record) = lost.row.record(located.header.seed(), &payload).filter(|_| fits) else {
            return Ok(false);
        };
        write(lost.segment, u64::from(lost.row.offset), &record)?;
        Ok(true)
    }

    /// Writes into a segment and makes it durable; to be called by who holds `mending`. Through a handle of its own: a system tells each
    /// handle once of a write that failed, and what this one hears the log's own sync must hear too. After a failure the log takes
    /// nothing any more.
    pub(crate) fn write_in_place(&self, segment: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let write = || {
            let file = self.shared.copies.disk.open(&self.segment_path(segment))?;
            file.write_at(offset, bytes)?;
            file.sync_data()
        };
        write().inspect_err(|_| self.shared.failed.store(true, Ordering::Release))
    }

    /// Bytes the cache holds.
    pub fn cache_bytes(&self) -> u64 {
        self.shared.cache.lock().bytes()
    }

    pub(crate) fn segment_path(&self, number: u32) -> String {
        format!("{}/{}", self.shared.directory, segment_name(number))
    }

    fn locate(&self, group: Group, index: Index) -> Option<Located> {
        let state = self.shared.index.read();
        let group = state.groups.get(&group)?;
        let position = group.position(index)?;
        let term = group.term(index)?;
        let segment = state.segments.get(&position.segment)?;
        Some(Located { position, term, file: segment.file.clone(), header: segment.header, end: segment.end })
    }

    /// Reads a record and its neighbours into the cache; `None` if it does not validate.
    fn read_record(
        &self,
        group: Group,
        index: Index,
        located: &Located,
    ) -> Result<Option<Cached>, ReadError> {
        let Position { segment, offset, payload_bytes } = located.position;
        let seed = located.header.seed();
        let wanted = RECORD_HEADER_BYTES as u64 + u64::from(payload_bytes);
        let ahead = self.shared.drains.lock().read_bytes(group, index);
        let available = u64::from(located.end.saturating_sub(offset));
        let length = memory(wanted.max(ahead.min(available)));
        let chunk = read_up_to(located.file.as_ref(), u64::from(offset), length).map_err(|source| {
            ReadError::Io { file: segment_name(segment), offset: u64::from(offset), source }
        })?;
        let chunk = Bytes::from(chunk);
        let Some(header) = verify(seed, &chunk) else { return Ok(None) };
        let is_wanted = matches!(header.kind, Kind::Entry | Kind::EntryCopy)
            && header.group == group
            && header.index == index
            && header.term == located.term;
        let Some(found) = is_wanted.then(|| cached_of(&chunk, 0, &header)).flatten() else { return Ok(None) };
        self.remember_chunk(segment, offset, seed, &chunk);
        Ok(Some(found))
    }

    fn remember_chunk(&self, segment: u32, offset: u32, seed: u32, chunk: &Bytes) {
        let mut cache = self.shared.cache.lock();
        let mut at = 0usize;
        while let Some(header) = chunk.get(at..).and_then(|rest| verify(seed, rest)) {
            if matches!(header.kind, Kind::Entry | Kind::EntryCopy)
                && let Some(cached) = cached_of(chunk, at, &header)
                && let Ok(relative) = u32::try_from(at)
            {
                cache.insert(Place::Log(segment, offset + relative), cached, Origin::Read);
            }
            at += memory(header.stride());
        }
    }
}

fn entry_of(index: Index, cached: Cached) -> EntryRecord {
    let Cached { term, entry_type, data, context } = cached;
    EntryRecord { index, term, entry_type, data, context }
}

fn cached_of(chunk: &Bytes, at: usize, header: &Header) -> Option<Cached> {
    let (data, context) = split_payload(chunk, at, header)?;
    Some(Cached { term: header.term, entry_type: header.entry_type, data, context })
}
