//! A second copy of what a file says of its content, in a file of its own: heads of records, tables of bodies.
//!
//! Owns: the rows behind the log as it is synced, the byte table of docs/formats/copies.md, reading rows back.
//! Does not: judge the log or hold payloads; other replicas have those.
//! Invariants: a row is written only after its record was synced, so a bad record with a row was damaged, not torn; what
//! fails here never fails the log, which then lacks the copy and nothing else.
//! Limits: one row of 64 bytes for each record. See: docs/formats/copies.md.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_up_to};
use crate::field::{array, length_u32, put, u32_at, u64_at};
use crate::record::{Header, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, Stamp};
use crate::segment::Scan;

/// Bytes of a row.
pub const ROW_BYTES: usize = 64;

/// Rows that are written at once when a copy is made again.
const ROWS_AT_ONCE: usize = 1024;

/// How names of copies of segments begin.
const HEADS: &str = "heads-";

/// Name of the copy of a segment.
pub fn heads_name(number: u32) -> String {
    format!("{HEADS}{number:010}")
}

/// Head of a record, and where it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The head, with the checksum of the whole record.
    pub header: Header,
    /// Vote of a hard state; 0 for every other kind.
    pub vote: u64,
    /// Offset of the record in its segment.
    pub offset: u32,
}

impl Row {
    /// Head of the record at `offset` whose bytes begin with `record`.
    pub fn of(header: &Header, record: &[u8], offset: u32) -> Self {
        let vote = header.hard_state(record).map_or(0, |state| state.vote);
        Self { header: *header, vote, offset }
    }

    /// Offset of the record after it.
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + self.header.stride()
    }

    /// The whole record with this payload, padding included; `None` unless it is byte for byte the one that was written.
    pub fn record(&self, seed: u32, payload: &[u8]) -> Option<Vec<u8>> {
        self.header.record(seed, payload)
    }

    /// The whole record, if its head says all of it.
    pub fn record_without_payload(&self, seed: u32) -> Option<Vec<u8>> {
        match self.header.kind {
            Kind::Entry | Kind::EntryCopy => None,
            Kind::HardState => self.record(seed, &self.vote.to_le_bytes()),
            Kind::Compacted | Kind::Reset | Kind::GroupRemoved | Kind::EpochStart => self.record(seed, &[]),
        }
    }

    fn encode(&self, seed: u32) -> [u8; ROW_BYTES] {
        let Header { kind, entry_type, group, stamp, term, index, payload_bytes, context_bytes, checksum } =
            self.header;
        // What does not fit makes a row that stands for no record, like a damaged one.
        let unsynced = u32::try_from(stamp.sequence.saturating_sub(stamp.synced)).unwrap_or(u32::MAX);
        let epoch = u32::try_from(stamp.epoch).unwrap_or(u32::MAX);
        let mut row = [0; ROW_BYTES];
        put(&mut row, 4, &payload_bytes.to_le_bytes());
        put(&mut row, 8, &context_bytes.to_le_bytes());
        put(&mut row, 12, &checksum.to_le_bytes());
        put(&mut row, 16, &self.offset.to_le_bytes());
        put(&mut row, 20, &group.to_le_bytes());
        put(&mut row, 24, &epoch.to_le_bytes());
        put(&mut row, 28, &unsynced.to_le_bytes());
        put(&mut row, 32, &term.to_le_bytes());
        put(&mut row, 40, &index.to_le_bytes());
        put(&mut row, 48, &self.vote.to_le_bytes());
        put(&mut row, 56, &[kind.code(), entry_type]);
        let own = row_checksum(seed, stamp.sequence, &row);
        put(&mut row, 0, &own.to_le_bytes());
        row
    }

    fn decode(seed: u32, sequence: u64, row: &[u8]) -> Option<Self> {
        let row = row.get(..ROW_BYTES)?;
        if u32_at(row, 0)? != row_checksum(seed, sequence, row) {
            return None;
        }
        let [kind, entry_type] = array(row, 56)?;
        let synced = sequence.saturating_sub(u64::from(u32_at(row, 28)?));
        let header = Header {
            kind: Kind::from_code(kind)?,
            entry_type,
            group: u32_at(row, 20)?,
            stamp: Stamp { epoch: u64::from(u32_at(row, 24)?), sequence, synced },
            term: u64_at(row, 32)?,
            index: u64_at(row, 40)?,
            payload_bytes: u32_at(row, 4)?,
            context_bytes: u32_at(row, 8)?,
            checksum: u32_at(row, 12)?,
        };
        Some(Self { header, vote: u64_at(row, 48)?, offset: u32_at(row, 16)? })
    }
}

/// Covers the row but this checksum, and what its place says: the segment and the number of the record.
fn row_checksum(seed: u32, sequence: u64, row: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(seed, &sequence.to_le_bytes());
    crc32c::crc32c_append(crc, row.get(4..).unwrap_or_default())
}

/// Where copies are.
#[derive(Clone)]
pub struct Copies {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Directory on it.
    pub directory: String,
}

impl Copies {
    /// Writes the copy of a file that says what is where. It need not be durable: where it is missing it is made again.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.remove(name)?;
        self.disk.create(&self.path(name), 0)?.write_at(0, bytes)
    }

    /// The first bytes of a copy, if there is one that can be read.
    pub fn read(&self, name: &str, bytes_max: usize) -> Option<Vec<u8>> {
        let file = self.disk.open(&self.path(name)).ok()?;
        read_up_to(file.as_ref(), 0, bytes_max).ok()
    }

    /// Removes a copy; it is no error if there is none.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.unlink(&self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Removes a copy, durably.
    pub fn remove_durably(&self, name: &str) -> io::Result<()> {
        self.remove(name)?;
        self.disk.sync_directory(&self.directory)
    }

    /// Numbers of the segments that have a copy.
    pub fn segments(&self) -> Vec<u32> {
        let number = |name: String| {
            let number = name.strip_prefix(HEADS)?.parse().ok()?;
            (heads_name(number) == name).then_some(number)
        };
        self.names().into_iter().filter_map(number).collect()
    }

    /// Names of all copies. What cannot be listed is as good as not there.
    pub fn names(&self) -> Vec<String> {
        self.disk.list(&self.directory).unwrap_or_default()
    }

    /// Removes copies of segments that are gone. What fails is tried again at the next start.
    pub fn keep_segments(&self, segments: &[u32]) {
        for number in self.segments().into_iter().filter(|number| !segments.contains(number)) {
            let _ = self.remove(&heads_name(number));
        }
    }

    /// The copy of a segment, if there is one that can be read. It is read because something else could not be.
    pub fn open(&self, number: u32) -> Option<SegmentCopy> {
        let file = self.disk.open(&self.path(&heads_name(number))).ok()?;
        let page = read_up_to(file.as_ref(), 0, SEGMENT_HEADER_BYTES).ok()?;
        let header = SegmentHeader::decode(&page).filter(|header| header.number == number);
        Some(SegmentCopy { file, header })
    }

    /// The copy of a segment that is no longer written; an empty one is made if there is none.
    pub fn open_or_create(&self, header: &SegmentHeader) -> io::Result<SegmentCopy> {
        let copy = match self.open(header.number) {
            Some(copy) => copy,
            None => SegmentCopy { file: self.create(header)?, header: Some(*header) },
        };
        if copy.header != Some(*header) {
            copy.file.write_at(0, &header.encode())?;
        }
        Ok(copy)
    }

    /// Makes an empty copy of a segment: its header page, and no rows.
    fn create(&self, header: &SegmentHeader) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.create(&self.path(&heads_name(header.number)), 0)?;
        file.write_at(0, &header.encode())?;
        Ok(file)
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }
}

/// Offset of the row of a record.
fn row_offset(first_sequence: u64, sequence: u64) -> Option<u64> {
    let place = sequence.checked_sub(first_sequence)?;
    place.checked_mul(ROW_BYTES as u64)?.checked_add(SEGMENT_HEADER_BYTES as u64)
}

/// Writes the copy of the segment that is being written.
pub struct CopyWriter {
    copies: Copies,
    /// `None` once something failed: the segment has a copy of its first records at most.
    file: Option<Arc<dyn DiskFile>>,
    seed: u32,
    /// Offset of the next row.
    offset: u64,
    /// Of records that are not synced yet.
    pending: Vec<u8>,
}

impl CopyWriter {
    /// Begins the copy of a new segment.
    pub fn begin(copies: &Copies, header: &SegmentHeader) -> Self {
        let begun = copies.remove(&heads_name(header.number));
        let file = begun.and_then(|()| copies.create(header)).ok();
        Self { file, ..Self::new(copies, header) }
    }

    fn new(copies: &Copies, header: &SegmentHeader) -> Self {
        let offset = SEGMENT_HEADER_BYTES as u64;
        Self { copies: copies.clone(), file: None, seed: header.seed(), offset, pending: Vec::new() }
    }

    /// Goes on with the copy of a segment whose records end at `end`, all of them synced. Rows that it lacks are made.
    pub fn resume(copies: &Copies, header: &SegmentHeader, segment: &dyn DiskFile, end: usize) -> Self {
        let mut writer = Self::new(copies, header);
        // What fails is tried again when a later pass reads the segment.
        let _ = writer.catch_up(header, segment, end);
        writer.pending = Vec::new();
        writer
    }

    fn catch_up(&mut self, header: &SegmentHeader, segment: &dyn DiskFile, end: usize) -> io::Result<()> {
        let copy = self.copies.open(header.number);
        let file = match &copy {
            Some(copy) => copy.file.clone(),
            None => self.copies.create(header)?,
        };
        if copy.as_ref().is_some_and(|copy| copy.header != Some(*header)) {
            file.write_at(0, &header.encode())?;
        }
        let mut scan = Scan::of(segment, header);
        while scan.offset < end {
            let row = match scan.next_record()? {
                Some((at, found)) if found.kind == Kind::HardState => {
                    let Some(record) = scan.record(at, &found)? else { return Ok(()) };
                    Row::of(&found, record, length_u32(at))
                }
                Some((at, found)) => Row { header: found, vote: 0, offset: length_u32(at) },
                None => {
                    let row = copy.as_ref().and_then(|copy| copy.row(header, scan.next.sequence));
                    let Some(row) = row.filter(|row| scan.pass(row)) else { return Ok(()) };
                    row
                }
            };
            self.pending.extend_from_slice(&row.encode(self.seed));
            if self.pending.len() == ROWS_AT_ONCE * ROW_BYTES {
                self.rewrite(file.as_ref())?;
            }
        }
        self.rewrite(file.as_ref())?;
        self.file = Some(file);
        Ok(())
    }

    /// Writes pending rows unless they are there.
    fn rewrite(&mut self, file: &dyn DiskFile) -> io::Result<()> {
        if read_up_to(file, self.offset, self.pending.len())? != self.pending {
            file.write_at(self.offset, &self.pending)?;
        }
        self.offset += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Remembers a record that was written.
    pub fn push(&mut self, row: &Row) {
        if self.file.is_some() {
            self.pending.extend_from_slice(&row.encode(self.seed));
        }
    }

    /// All remembered records are synced: writes their rows.
    pub fn flush(&mut self) {
        if let Some(file) = self.file.as_ref().filter(|_| !self.pending.is_empty()) {
            if file.write_at(self.offset, &self.pending).is_err() {
                // The log is whole without it; a later pass over the segment makes its copy.
                self.file = None;
            }
            self.offset += self.pending.len() as u64;
            self.pending.clear();
        }
    }

    /// The segment is complete: makes its copy durable.
    pub fn seal(&mut self) {
        self.flush();
        self.sync();
        self.file = None;
    }

    /// Makes the rows durable that were written: something depends on them.
    pub fn sync(&mut self) {
        let Copies { disk, directory } = &self.copies;
        if let Some(file) = &self.file {
            // Not durable is as good as not there.
            let _ = file.sync_data().and_then(|()| disk.sync_directory(directory));
        }
    }
}

/// Reads the copy of a segment.
pub struct SegmentCopy {
    file: Arc<dyn DiskFile>,
    /// Header of the segment, if the page with it is whole.
    pub header: Option<SegmentHeader>,
}

impl SegmentCopy {
    /// The row of a record by its number; `None` if it has none, or the row is damaged.
    pub fn row(&self, segment: &SegmentHeader, sequence: u64) -> Option<Row> {
        let offset = row_offset(segment.first_sequence, sequence)?;
        let bytes = read_up_to(self.file.as_ref(), offset, ROW_BYTES).ok()?;
        Row::decode(segment.seed(), sequence, &bytes)
    }

    /// Writes the row of a record again. Only for a segment that is no longer written.
    pub fn put(&self, segment: &SegmentHeader, row: &Row) -> io::Result<()> {
        let sequence = row.header.stamp.sequence;
        match row_offset(segment.first_sequence, sequence) {
            Some(offset) => self.file.write_at(offset, &row.encode(segment.seed())),
            None => Ok(()),
        }
    }

    /// The row of the record that begins at this offset.
    pub fn row_at(&self, segment: &SegmentHeader, offset: u32) -> Option<Row> {
        let bytes = self.file.len().ok()?.saturating_sub(SEGMENT_HEADER_BYTES as u64);
        let (mut low, mut high) = (0, bytes / ROW_BYTES as u64);
        while low < high {
            let middle = low + (high - low) / 2;
            let at = |place: u64| Some((place, self.row(segment, segment.first_sequence + place)?));
            // A damaged row says nothing of where it is: the one before it decides.
            match (low..=middle).rev().find_map(at) {
                Some((_, row)) if row.offset == offset => return Some(row),
                Some((place, row)) if row.offset > offset => high = place,
                _ => low = middle + 1,
            }
        }
        None
    }
}
