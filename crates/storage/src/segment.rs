//! Scanning the bytes of a segment: where its records end and what is behind.
//!
//! Owns: telling a torn tail from corruption. Does not: read files or interpret records.
//! Invariants: a bad record is a torn tail only if nothing behind it proves that it had been synced.
//! See: docs/formats/log-record.md.

use crate::copy::Row;
use crate::record::{Header, Kind, RECORD_ALIGNMENT, SEGMENT_HEADER_BYTES, SegmentHeader, Stamp, verify};

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

/// Walks the valid records of a segment.
pub struct Scan<'a> {
    bytes: &'a [u8],
    seed: u32,
    /// Offset of the next record.
    pub offset: usize,
    /// Expected stamp of the next record; `synced` is the highest seen.
    pub next: Stamp,
}

impl<'a> Scan<'a> {
    /// Starts behind the header.
    pub fn new(bytes: &'a [u8], seed: u32, next: Stamp) -> Self {
        Self { bytes, seed, offset: SEGMENT_HEADER_BYTES, next }
    }

    /// Starts behind the header of a segment.
    pub fn of(bytes: &'a [u8], header: &SegmentHeader) -> Self {
        let first = header.first_sequence;
        Self::new(bytes, header.seed(), Stamp { epoch: header.epoch, sequence: first, synced: first })
    }

    /// Next valid record with its offset and its bytes.
    pub fn next_record(&mut self) -> Option<(usize, Header, &'a [u8])> {
        let rest = self.bytes.get(self.offset..)?;
        let header = verify(self.seed, rest)?;
        let at = self.offset;
        let record = rest.get(..header.record_bytes())?;
        self.advance(&header).then_some((at, header, record))
    }

    /// Passes over a record that is not valid but is known to have been there; false if it does not belong here.
    pub fn pass(&mut self, row: &Row) -> bool {
        usize::try_from(row.offset).is_ok_and(|offset| offset == self.offset) && self.advance(&row.header)
    }

    fn advance(&mut self, header: &Header) -> bool {
        let stamp = header.stamp;
        let epoch_fits = match header.kind {
            Kind::EpochStart => stamp.epoch > self.next.epoch,
            _ => stamp.epoch == self.next.epoch,
        };
        let Ok(stride) = usize::try_from(header.stride()) else { return false };
        if stamp.sequence != self.next.sequence || !epoch_fits || stamp.synced > stamp.sequence {
            return false;
        }
        self.offset += stride;
        self.next = Stamp {
            epoch: stamp.epoch,
            sequence: stamp.sequence + 1,
            synced: self.next.synced.max(stamp.synced),
        };
        true
    }

    /// After the last valid record: what the rest of the segment says.
    pub fn tail(&self) -> Tail {
        let mut tail = Tail::Clean;
        if let Some(header) = self.bytes.get(self.offset..).and_then(Header::parse)
            && header.stamp.sequence == self.next.sequence
            && header.stamp.epoch >= self.next.epoch
        {
            tail = Tail::Torn { bytes: header.record_bytes() as u64 };
        }
        let mut at = self.offset + RECORD_ALIGNMENT;
        while let Some(rest) = self.bytes.get(at..) {
            if let Some(header) = self.later_record(rest) {
                if header.stamp.synced > self.next.sequence {
                    return Tail::Corrupt { witness: at as u64 };
                }
                tail = Tail::Torn { bytes: (at - self.offset + header.record_bytes()) as u64 };
            }
            at += RECORD_ALIGNMENT;
        }
        tail
    }

    /// A valid record of the present epoch or a later one whose number is above the missing one.
    fn later_record(&self, bytes: &[u8]) -> Option<Header> {
        // The cheap tests come first: most places are zeros, stale records or payload.
        let header = Header::parse(bytes)?;
        let above = header.stamp.sequence > self.next.sequence && header.stamp.epoch >= self.next.epoch;
        let near =
            header.stamp.sequence - self.next.sequence.min(header.stamp.sequence) < u64::from(u32::MAX);
        (above && near).then(|| verify(self.seed, bytes)).flatten()
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
