//! Scanning the bytes of a segment: where its records end and what is behind.
//!
//! Owns: telling a torn tail from corruption. Does not: interpret records.
//! Invariants: a bad record is a torn tail only if nothing behind it proves that it had been synced.
//! Limits: `SCAN_PIECE_BYTES` of a segment are in memory, or one record.
//! See: docs/formats/log-record.md.

use std::io;

use crate::copy::Row;
use crate::disk::{DiskFile, read_up_to};
use crate::field::memory;
use crate::limits::SCAN_PIECE_BYTES;
use crate::record::{
    Header, Kind, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RecordChecksum, SEGMENT_HEADER_BYTES, SegmentHeader,
    Stamp, verify,
};

/// Name of a segment file.
pub fn segment_name(number: u32) -> String {
    format!("segment-{number:010}")
}

/// Name of a file that will become a segment.
pub fn spare_name(number: u32) -> String {
    format!("spare-{number:010}")
}

/// What a file in the log's directory is by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFile {
    /// A segment.
    Segment(u32),
    /// A spare.
    Spare(u32),
}

impl LogFile {
    /// Parses a name; `None` for a file that is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.split_once('-')?;
        let number: u32 = number.parse().ok()?;
        let file = match kind {
            "segment" => Self::Segment(number),
            "spare" => Self::Spare(number),
            _ => return None,
        };
        (file.name() == name).then_some(file)
    }

    fn name(self) -> String {
        match self {
            Self::Segment(number) => segment_name(number),
            Self::Spare(number) => spare_name(number),
        }
    }
}

/// A file that is read in pieces, nearly always forward.
struct Pieces<'a> {
    file: &'a dyn DiskFile,
    /// Bytes of the file that count.
    length: usize,
    /// Where the piece in memory begins.
    start: usize,
    piece: Vec<u8>,
}

impl Pieces<'_> {
    /// So many bytes at an offset; `None` when the file has fewer. Holds as many in memory, and a piece at least.
    fn get(&mut self, at: usize, length: usize) -> io::Result<Option<&[u8]>> {
        let Some(end) = at.checked_add(length).filter(|end| *end <= self.length) else { return Ok(None) };
        if at < self.start || end > self.start + self.piece.len() {
            let wanted = length.max(SCAN_PIECE_BYTES).min(self.length - at);
            // Not both at once.
            self.piece = Vec::new();
            self.piece = read_up_to(self.file, at as u64, wanted)?;
            self.start = at;
        }
        Ok(self.piece.get(at - self.start..end - self.start))
    }
}

/// Walks the valid records of a segment.
pub struct Scan<'a> {
    pieces: Pieces<'a>,
    seed: u32,
    /// Offset of the next record.
    pub offset: usize,
    /// Expected stamp of the next record; `synced` is the highest seen.
    pub next: Stamp,
}

impl<'a> Scan<'a> {
    /// Starts behind the header of a file of this length.
    pub fn new(file: &'a dyn DiskFile, length: usize, seed: u32, next: Stamp) -> Self {
        let pieces = Pieces { file, length, start: 0, piece: Vec::new() };
        Self { pieces, seed, offset: SEGMENT_HEADER_BYTES, next }
    }

    /// Starts behind the header of a segment.
    pub fn of(file: &'a dyn DiskFile, header: &SegmentHeader) -> Self {
        let first = header.first_sequence;
        let next = Stamp { epoch: header.epoch, sequence: first, synced: first };
        Self::new(file, memory(header.length), header.seed(), next)
    }

    /// Next valid record with its offset.
    pub fn next_record(&mut self) -> io::Result<Option<(usize, Header)>> {
        let at = self.offset;
        let Some(header) = self.header(at)? else { return Ok(None) };
        // The bytes are read only of a record that belongs here.
        if !self.follows(&header) || !self.is_whole(at, &header)? {
            return Ok(None);
        }
        self.advance(&header);
        Ok(Some((at, header)))
    }

    /// The bytes of a record that was found valid, if they still are.
    pub fn record(&mut self, at: usize, header: &Header) -> io::Result<Option<&[u8]>> {
        let record = self.pieces.get(at, header.record_bytes())?;
        Ok(record.filter(|record| verify(self.seed, record).is_some()))
    }

    /// Passes over a record that is not valid but is known to have been there; false if it does not belong here.
    pub fn pass(&mut self, row: &Row) -> bool {
        let belongs = memory(u64::from(row.offset)) == self.offset && self.follows(&row.header);
        if belongs {
            self.advance(&row.header);
        }
        belongs
    }

    /// Whether a record with this header may be the next one.
    fn follows(&self, header: &Header) -> bool {
        let stamp = header.stamp;
        let epoch_fits = match header.kind {
            Kind::EpochStart => stamp.epoch > self.next.epoch,
            _ => stamp.epoch == self.next.epoch,
        };
        stamp.sequence == self.next.sequence && epoch_fits && stamp.synced <= stamp.sequence
    }

    fn advance(&mut self, header: &Header) {
        let stamp = header.stamp;
        self.offset += memory(header.stride());
        self.next = Stamp {
            epoch: stamp.epoch,
            sequence: stamp.sequence + 1,
            synced: self.next.synced.max(stamp.synced),
        };
    }

    /// After the last valid record: what the rest of the segment says.
    pub fn tail(&mut self) -> io::Result<Tail> {
        let mut tail = Tail::Clean;
        if let Some(header) = self.header(self.offset)?
            && header.stamp.sequence == self.next.sequence
            && header.stamp.epoch >= self.next.epoch
        {
            tail = Tail::Torn { bytes: header.record_bytes() as u64 };
        }
        let mut at = self.offset + RECORD_ALIGNMENT;
        while at + RECORD_HEADER_BYTES <= self.pieces.length {
            // Where the file was cut off: to ask for each place behind it would take minutes.
            if self.pieces.get(at, RECORD_HEADER_BYTES)?.is_none() {
                break;
            }
            if let Some(header) = self.later_record(at)? {
                if header.stamp.synced > self.next.sequence {
                    return Ok(Tail::Corrupt { witness: at as u64 });
                }
                tail = Tail::Torn { bytes: (at - self.offset + header.record_bytes()) as u64 };
            }
            at += RECORD_ALIGNMENT;
        }
        Ok(tail)
    }

    /// A valid record of the present epoch or a later one whose number is above the missing one.
    fn later_record(&mut self, at: usize) -> io::Result<Option<Header>> {
        // The cheap tests come first: most places are zeros, stale records or payload.
        let Some(header) = self.header(at)? else { return Ok(None) };
        let above = header.stamp.sequence > self.next.sequence && header.stamp.epoch >= self.next.epoch;
        let near =
            header.stamp.sequence - self.next.sequence.min(header.stamp.sequence) < u64::from(u32::MAX);
        Ok(if above && near && self.is_whole(at, &header)? { Some(header) } else { None })
    }

    /// What may be the header of a record; its checksum is not checked.
    fn header(&mut self, at: usize) -> io::Result<Option<Header>> {
        Ok(self.pieces.get(at, RECORD_HEADER_BYTES)?.and_then(Header::parse))
    }

    /// Whether all of a record is there and unharmed. Its length may be anything until that is known: it is read in pieces.
    fn is_whole(&mut self, at: usize, header: &Header) -> io::Result<bool> {
        let mut checksum = RecordChecksum::new(self.seed);
        let end = at.saturating_add(header.record_bytes());
        let mut from = at;
        if end > self.pieces.length {
            return Ok(false);
        }
        while from < end {
            let Some(piece) = self.pieces.get(from, (end - from).min(SCAN_PIECE_BYTES))? else {
                return Ok(false);
            };
            from += piece.len();
            checksum.add(piece);
        }
        Ok(checksum.is_of(header))
    }
}

/// What follows the last valid record of the last segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    /// Nothing that was ever written after it, as far as can be told.
    Clean,
    /// Records that were written but never synced, so many bytes of them.
    Torn {
        /// From the first bad record to the end of what was recognised.
        bytes: u64,
    },
    /// The bad record had been synced: a valid record at `witness` was written after that.
    Corrupt {
        /// Offset of the later record.
        witness: u64,
    },
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Zeros, and how often they were read.
    struct Short {
        bytes: usize,
        reads: AtomicUsize,
    }

    impl DiskFile for Short {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            Ok(self.bytes.saturating_sub(memory(offset)).min(buffer.len()))
        }

        fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
            unreachable!("a scan writes nothing")
        }

        fn sync_data(&self) -> io::Result<()> {
            unreachable!("a scan writes nothing")
        }

        fn len(&self) -> io::Result<u64> {
            Ok(self.bytes as u64)
        }

        fn truncate(&self, _length: u64) -> io::Result<()> {
            unreachable!("a scan writes nothing")
        }
    }

    #[test]
    fn nothing_is_looked_for_behind_the_end_of_a_file_that_was_cut_off() {
        let file = Short { bytes: 3 * SCAN_PIECE_BYTES / 2, reads: AtomicUsize::new(0) };
        let next = Stamp { epoch: 1, sequence: 5, synced: 5 };
        let mut scan = Scan::new(&file, 64 * SCAN_PIECE_BYTES, 7, next);
        assert_eq!(scan.tail().unwrap(), Tail::Clean);
        let reads = file.reads.load(Ordering::Relaxed);
        assert!(reads < 100, "{reads} reads");
    }
}
