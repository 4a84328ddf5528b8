//! Checking what is on the disk before somebody needs it.
//!
//! Owns: the walk over all records and bodies, mending what second copies say whole, making copies that are missing.
//! Does not: decide when or how fast, or get payloads; other replicas have those.
//! Invariants: what is read comes from the device where the system allows it; a record that is written meanwhile, or a segment that
//! goes, is no damage.
//! Limits: SCRUB_READ_BYTES at a time. See: docs/formats/copies.md.

use std::io;
use std::sync::Arc;

use crate::bodies::BodyError;
use crate::copy::{Row, SegmentCopy};
use crate::disk::{DiskFile, is_no_space, read_up_to};
use crate::field::memory;
use crate::limits::SCRUB_READ_BYTES;
use crate::reader::LogReader;
use crate::record::{Header, Kind, SEGMENT_HEADER_BYTES, SegmentHeader, verify};
use crate::segment::segment_name;
use crate::{Group, Index};

/// What is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Damage {
    /// The record of an entry: see [`LogReader::lost`].
    Entry {
        /// Group.
        group: Group,
        /// Index.
        index: Index,
    },
    /// A body: see [`crate::Bodies::restore`].
    Body {
        /// Group.
        group: Group,
        /// Index.
        index: Index,
    },
    /// A mark or a table, which was written again.
    Mended {
        /// File.
        file: String,
    },
    /// Bytes of which nobody knows what they were. The next start will find the log or the body file corrupt.
    Unknown {
        /// File.
        file: String,
        /// Offset.
        offset: u64,
    },
}

/// The disk failed while it was checked.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// A segment.
    #[error("check {file}")]
    Segment {
        /// File.
        file: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A body file.
    #[error("check a body file")]
    Body(#[source] BodyError),
}

impl ScrubError {
    /// The device has no space for a copy that is to be written anew: nothing was changed, a later walk may have it.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Segment { source, .. } => is_no_space(source),
            Self::Body(error) => error.is_no_space(),
        }
    }
}

/// What one step has done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Bytes that were checked.
    pub bytes: u64,
    /// What was found.
    pub damage: Vec<Damage>,
}

/// A walk over everything that the log and its bodies hold.
pub struct Scrub {
    reader: LogReader,
    segments: std::vec::IntoIter<u32>,
    bodies: std::vec::IntoIter<(u32, Group)>,
    walk: Option<Walk>,
}

/// A walk over one segment.
struct Walk {
    number: u32,
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    /// Where the next record begins and which it is.
    next: Place,
    /// The copy, unless the segment is still written.
    copy: Option<SegmentCopy>,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    sequence: u64,
}

impl Scrub {
    /// A walk over what there is now.
    pub fn new(reader: LogReader) -> Self {
        let segments: Vec<u32> = reader.shared.index.read().segments.keys().copied().collect();
        let bodies = reader.shared.bodies.files();
        Self { reader, segments: segments.into_iter(), bodies: bodies.into_iter(), walk: None }
    }

    /// Checks some more; `None` when everything was checked. May be called from any thread, beside reads and writes.
    pub fn step(&mut self) -> Result<Option<Step>, ScrubError> {
        loop {
            if let Some(walk) = &mut self.walk {
                let number = walk.number;
                let failed = |source| ScrubError::Segment { file: segment_name(number), source };
                match walk.step(&self.reader).map_err(failed)? {
                    Some(step) => return Ok(Some(step)),
                    None => self.walk = None,
                }
            }
            if let Some(number) = self.segments.next() {
                let failed = |source| ScrubError::Segment { file: segment_name(number), source };
                self.walk = Walk::begin(&self.reader, number).map_err(failed)?;
            } else if let Some((number, group)) = self.bodies.next() {
                return self.check_bodies(group, number).map(Some);
            } else {
                return Ok(None);
            }
        }
    }

    fn check_bodies(&self, group: Group, number: u32) -> Result<Step, ScrubError> {
        match self.reader.shared.bodies.check_file(group, number) {
            Ok((bytes, damaged)) => {
                let damage = damaged.into_iter().map(|index| Damage::Body { group, index }).collect();
                Ok(Step { bytes, damage })
            }
            Err(BodyError::Corrupt { path, .. }) => {
                Ok(Step { bytes: 0, damage: vec![Damage::Unknown { file: path, offset: 0 }] })
            }
            Err(error) => Err(ScrubError::Body(error)),
        }
    }
}

impl Walk {
    fn begin(reader: &LogReader, number: u32) -> io::Result<Option<Self>> {
        let (header, is_written) = {
            let state = reader.shared.index.read();
            let Some(segment) = state.segments.get(&number) else { return Ok(None) };
            (segment.header, state.segments.last_key_value().is_some_and(|(last, _)| *last == number))
        };
        let copies = &reader.shared.copies;
        let copy = if is_written { None } else { copies.open_or_create(&header).ok() };
        // Opened anew, so that reads come from the device.
        let file = match copies.disk.open(&reader.segment_path(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let next = Place { offset: SEGMENT_HEADER_BYTES as u64, sequence: header.first_sequence };
        let walk = Self { number, header, file, next, copy };
        let page = read_up_to(walk.file.as_ref(), 0, SEGMENT_HEADER_BYTES)?;
        if SegmentHeader::decode(&page) != Some(header) {
            walk.write(reader, 0, &header.encode())?;
        }
        Ok(Some(walk))
    }

    /// Checks the next records; `None` at the end.
    fn step(&mut self, reader: &LogReader) -> io::Result<Option<Step>> {
        let Some(end) = reader.shared.index.read().segments.get(&self.number).map(|segment| segment.end)
        else {
            return Ok(None);
        };
        let left = u64::from(end).saturating_sub(self.next.offset);
        if left == 0 {
            return Ok(None);
        }
        let mut length = left.min(SCRUB_READ_BYTES);
        let mut step = Step::default();
        loop {
            let bytes = read_up_to(self.file.as_ref(), self.next.offset, memory(length))?;
            let begun = self.next.offset;
            self.check(reader, &bytes, length < left, &mut step)?;
            step.bytes += self.next.offset - begun;
            if self.next.offset > begun || length == left {
                break;
            }
            // A record larger than what was read.
            length = left;
        }
        if step.bytes == 0 {
            self.find_unknown(reader, end, &mut step);
        }
        Ok(Some(step))
    }

    /// Checks the records that lie in `bytes`. The last one may be cut off if there is `more`.
    fn check(&mut self, reader: &LogReader, bytes: &[u8], more: bool, step: &mut Step) -> io::Result<()> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let row = match verify(self.header.seed(), rest) {
                Some(found) if found.stamp.sequence == self.next.sequence => {
                    let row = Row::of(&found, rest, crate::field::length_u32(memory(self.next.offset)));
                    self.keep_row(&row)?;
                    row
                }
                _ => {
                    let Some(row) = self.known(reader) else { return Ok(()) };
                    let is_cut =
                        more && u64::try_from(rest.len()).is_ok_and(|left| left < row.header.stride());
                    if is_cut {
                        return Ok(());
                    }
                    self.note(reader, &row, step)?;
                    row
                }
            };
            at += memory(row.header.stride());
            self.next = Place { offset: row.end(), sequence: self.next.sequence + 1 };
        }
        Ok(())
    }

    /// What the record at this place was, as its copy says.
    fn known(&self, reader: &LogReader) -> Option<Row> {
        let opened;
        let copy = match &self.copy {
            Some(copy) => copy,
            None => {
                opened = reader.shared.copies.open(self.number)?;
                &opened
            }
        };
        let row = copy.row(&self.header, self.next.sequence)?;
        (u64::from(row.offset) == self.next.offset).then_some(row)
    }

    /// Makes the row of a whole record again where it is not as it should be.
    fn keep_row(&self, row: &Row) -> io::Result<()> {
        match &self.copy {
            Some(copy) if copy.row(&self.header, row.header.stamp.sequence) != Some(*row) => {
                copy.put(&self.header, row)
            }
            _ => Ok(()),
        }
    }

    fn note(&self, reader: &LogReader, row: &Row, step: &mut Step) -> io::Result<()> {
        let Header { kind, group, index, .. } = row.header;
        match row.record_without_payload(self.header.seed()) {
            Some(record) => {
                self.write(reader, u64::from(row.offset), &record)?;
                step.damage.push(Damage::Mended { file: segment_name(self.number) });
            }
            None if matches!(kind, Kind::Entry | Kind::EntryCopy) && self.is_needed(reader, row) => {
                step.damage.push(Damage::Entry { group, index });
            }
            None => {}
        }
        Ok(())
    }

    fn is_needed(&self, reader: &LogReader, row: &Row) -> bool {
        let state = reader.shared.index.read();
        let position = state.groups.get(&row.header.group).and_then(|group| group.position(row.header.index));
        position.is_some_and(|at| at.segment == self.number && at.offset == row.offset)
    }

    /// Writes into the segment, unless it has gone meanwhile.
    fn write(&self, reader: &LogReader, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let _alone = reader.shared.mending.lock();
        if reader.shared.index.read().segments.contains_key(&self.number) {
            reader.write_in_place(self.number, offset, bytes)?;
        }
        Ok(())
    }

    /// Nothing is known of the next record: the rest of the segment cannot be told apart.
    fn find_unknown(&mut self, reader: &LogReader, end: u32, step: &mut Step) {
        let still = reader.shared.index.read().segments.contains_key(&self.number);
        if still {
            step.damage.push(Damage::Unknown { file: segment_name(self.number), offset: self.next.offset });
        }
        self.next.offset = u64::from(end);
    }
}
