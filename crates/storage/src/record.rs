//! A record of the log as bytes.
//!
//! Owns: the byte table of docs/formats/log-record.md. Does not: know files or what records mean together.
//! Invariants: every byte of a record but the checksum itself is covered by it, and so are the segment's number and
//! salt: bytes of another segment, or of this file's former life, never validate.
//! Limits: RECORD_PAYLOAD_BYTES_MAX. See: docs/formats/log-record.md.

use bytes::Bytes;

use crate::field::{array, length_u32, put, u32_at, u64_at};
use crate::limits::RECORD_PAYLOAD_BYTES_MAX;
use crate::{Group, HardState, Index, Term};

/// Version of the record format.
pub const RECORD_VERSION: u8 = 1;

/// Bytes before the payload.
pub const RECORD_HEADER_BYTES: usize = 64;

/// Records begin at multiples of this.
pub const RECORD_ALIGNMENT: usize = 8;

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An entry; entries of the group at its index and after it are gone.
    Entry,
    /// Hard state of a group; `index` is the commit index.
    HardState,
    /// Entries of the group up to this index are no longer in the log.
    Compacted,
    /// A snapshot replaced the group: all its entries are gone, the log starts after this index.
    Reset,
    /// The group is no longer on this node.
    GroupRemoved,
    /// The log was opened; records from here on carry a new epoch.
    EpochStart,
    /// A copy of an entry out of a segment that is to be dropped; nothing after it is gone.
    EntryCopy,
}

impl Kind {
    /// Its number in records.
    pub fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::HardState => 2,
            Self::Compacted => 3,
            Self::Reset => 4,
            Self::GroupRemoved => 5,
            Self::EpochStart => 6,
            Self::EntryCopy => 7,
        }
    }

    /// The kind with that number.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Entry,
            2 => Self::HardState,
            3 => Self::Compacted,
            4 => Self::Reset,
            5 => Self::GroupRemoved,
            6 => Self::EpochStart,
            7 => Self::EntryCopy,
            _ => return None,
        })
    }
}

/// A record before it has a place: what the log is asked to remember.
#[derive(Clone, Debug)]
pub struct Draft {
    pub kind: Kind,
    pub entry_type: u8,
    pub group: Group,
    pub term: Term,
    pub index: Index,
    pub data: Bytes,
    pub context: Bytes,
}

impl Draft {
    /// A record without a payload.
    pub fn mark(kind: Kind, group: Group, index: Index, term: Term) -> Self {
        Self { kind, entry_type: 0, group, term, index, data: Bytes::new(), context: Bytes::new() }
    }

    /// A hard state.
    pub fn hard_state(group: Group, state: HardState) -> Self {
        let data = Bytes::copy_from_slice(&state.vote.to_le_bytes());
        Self { data, ..Self::mark(Kind::HardState, group, state.commit, state.term) }
    }

    /// Payload length.
    pub fn payload_bytes(&self) -> usize {
        self.data.len() + self.context.len()
    }

    /// Bytes in the segment, padding included.
    pub fn encoded_bytes(&self) -> u64 {
        padded(self.payload_bytes() as u64)
    }
}

/// Length of a record with this payload, padding included.
pub fn padded(payload_bytes: u64) -> u64 {
    (RECORD_HEADER_BYTES as u64 + payload_bytes).next_multiple_of(RECORD_ALIGNMENT as u64)
}

/// Where a record stands in the life of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Number of the opening of the log that wrote it.
    pub epoch: u64,
    /// Number of the record on this node, without gaps.
    pub sequence: u64,
    /// Records below this number were synced when it was written.
    pub synced: u64,
}

/// A record header that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: Kind,
    pub entry_type: u8,
    pub group: Group,
    pub stamp: Stamp,
    pub term: Term,
    pub index: Index,
    pub payload_bytes: u32,
    pub context_bytes: u32,
    pub checksum: u32,
}

impl Header {
    /// Reads a header; `None` if the bytes cannot be one. The checksum is not checked yet.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.get(8) != Some(&RECORD_VERSION) || bytes.get(11) != Some(&0) || u32_at(bytes, 60)? != 0 {
            return None;
        }
        let header = Self {
            kind: Kind::from_code(*bytes.get(9)?)?,
            entry_type: *bytes.get(10)?,
            group: u32_at(bytes, 12)?,
            stamp: Stamp {
                epoch: u64_at(bytes, 16)?,
                sequence: u64_at(bytes, 24)?,
                synced: u64_at(bytes, 32)?,
            },
            term: u64_at(bytes, 40)?,
            index: u64_at(bytes, 48)?,
            payload_bytes: u32_at(bytes, 0)?,
            context_bytes: u32_at(bytes, 56)?,
            checksum: u32_at(bytes, 4)?,
        };
        let payload_fits = u64::from(header.payload_bytes) <= RECORD_PAYLOAD_BYTES_MAX;
        (payload_fits && header.context_bytes <= header.payload_bytes).then_some(header)
    }

    /// Bytes of the record without padding.
    pub fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.payload_bytes as usize
    }

    /// Bytes to the next record.
    pub fn stride(&self) -> u64 {
        padded(u64::from(self.payload_bytes))
    }

    /// The whole record with this payload, padding included; `None` if the payload is not the one that was written.
    pub fn record(&self, seed: u32, payload: &[u8]) -> Option<Vec<u8>> {
        if length_u32(payload.len()) != self.payload_bytes {
            return None;
        }
        let mut record = Vec::with_capacity(memory_padded(payload.len()));
        record.extend_from_slice(&self.head());
        record.extend_from_slice(payload);
        let whole = checksum(seed, &record)? == self.checksum;
        record.resize(memory_padded(payload.len()), 0);
        whole.then_some(record)
    }

    /// The bytes before the payload.
    fn head(&self) -> [u8; RECORD_HEADER_BYTES] {
        let mut head = [0; RECORD_HEADER_BYTES];
        put(&mut head, 0, &self.payload_bytes.to_le_bytes());
        put(&mut head, 4, &self.checksum.to_le_bytes());
        put(&mut head, 8, &[RECORD_VERSION, self.kind.code(), self.entry_type, 0]);
        put(&mut head, 12, &self.group.to_le_bytes());
        put(&mut head, 16, &self.stamp.epoch.to_le_bytes());
        put(&mut head, 24, &self.stamp.sequence.to_le_bytes());
        put(&mut head, 32, &self.stamp.synced.to_le_bytes());
        put(&mut head, 40, &self.term.to_le_bytes());
        put(&mut head, 48, &self.index.to_le_bytes());
        put(&mut head, 56, &self.context_bytes.to_le_bytes());
        head
    }

    /// Hard state of a record of that kind.
    pub fn hard_state(&self, record: &[u8]) -> Option<HardState> {
        let vote = u64_at(record, RECORD_HEADER_BYTES)?;
        (self.kind == Kind::HardState && self.payload_bytes == 8).then_some(HardState {
            term: self.term,
            vote,
            commit: self.index,
        })
    }
}

/// Checksum that the records of a segment begin with.
pub fn seed_of(salt: u64, segment: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &segment.to_le_bytes())
}

fn checksum(seed: u32, record: &[u8]) -> Option<u32> {
    let crc = crc32c::crc32c_append(seed, record.get(..4)?);
    Some(crc32c::crc32c_append(crc, record.get(8..)?))
}

/// The checksum of a record whose bytes come in pieces; the first one has the whole header.
pub struct RecordChecksum {
    crc: u32,
    begun: bool,
}

impl RecordChecksum {
    /// For a record of a segment with this seed.
    pub fn new(seed: u32) -> Self {
        Self { crc: seed, begun: false }
    }

    /// The next bytes.
    pub fn add(&mut self, piece: &[u8]) {
        if self.begun {
            self.crc = crc32c::crc32c_append(self.crc, piece);
            return;
        }
        // The checksum itself is left out.
        for part in [piece.get(..4), piece.get(8..)] {
            self.crc = crc32c::crc32c_append(self.crc, part.unwrap_or_default());
        }
        self.begun = true;
    }

    /// Whether the bytes are those that the record was written with.
    pub fn is_of(&self, header: &Header) -> bool {
        self.crc == header.checksum
    }
}

/// Checks the record at the start of `bytes`: its header if all of it is there and unharmed.
pub fn verify(seed: u32, bytes: &[u8]) -> Option<Header> {
    let header = Header::parse(bytes)?;
    let record = bytes.get(..header.record_bytes())?;
    (checksum(seed, record)? == header.checksum).then_some(header)
}

/// Appends a record to `out` and gives its header.
pub fn encode(draft: &Draft, stamp: Stamp, seed: u32, out: &mut Vec<u8>) -> Header {
    let start = out.len();
    let payload_bytes = draft.payload_bytes();
    let header = Header {
        kind: draft.kind,
        entry_type: draft.entry_type,
        group: draft.group,
        stamp,
        term: draft.term,
        index: draft.index,
        payload_bytes: length_u32(payload_bytes),
        context_bytes: length_u32(draft.context.len()),
        checksum: 0,
    };
    out.extend_from_slice(&header.head());
    out.extend_from_slice(&draft.data);
    out.extend_from_slice(&draft.context);
    let written = out.get_mut(start..).expect("the record was just appended");
    let checksum = checksum(seed, written).expect("a record is longer than its checksum field");
    put(written, 4, &checksum.to_le_bytes());
    out.resize(start + memory_padded(payload_bytes), 0);
    Header { checksum, ..header }
}

fn memory_padded(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(RECORD_ALIGNMENT)
}

/// Data and context of an entry record.
pub fn split_payload(record: &Bytes, at: usize, header: &Header) -> Option<(Bytes, Bytes)> {
    let start = at.checked_add(RECORD_HEADER_BYTES)?;
    let end = at.checked_add(header.record_bytes())?;
    let middle = end.checked_sub(header.context_bytes as usize)?;
    (end <= record.len() && start <= middle).then(|| (record.slice(start..middle), record.slice(middle..end)))
}

/// Magic of a segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"QLOGSEG\0";

/// Version of the segment header.
pub const SEGMENT_VERSION: u8 = 1;

/// Bytes before the first record: a page of its own, written and synced before the file gets its name.
pub const SEGMENT_HEADER_BYTES: usize = 4096;

/// First bytes of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Number of the segment; as in the file's name.
    pub number: u32,
    /// Sequence of its first record; all records before it are in older segments and synced.
    pub first_sequence: u64,
    /// Epoch in which the segment was begun.
    pub epoch: u64,
    /// Number that clients cannot know: see the format's page.
    pub salt: u64,
    /// Length of the file.
    pub length: u64,
}

impl SegmentHeader {
    /// Encodes the header page.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        put(&mut bytes, 0, &SEGMENT_MAGIC);
        put(&mut bytes, 8, &[SEGMENT_VERSION]);
        put(&mut bytes, 12, &self.number.to_le_bytes());
        put(&mut bytes, 16, &self.first_sequence.to_le_bytes());
        put(&mut bytes, 24, &self.epoch.to_le_bytes());
        put(&mut bytes, 32, &self.salt.to_le_bytes());
        put(&mut bytes, 40, &self.length.to_le_bytes());
        let crc = crc32c::crc32c(bytes.get(..48).unwrap_or_default());
        put(&mut bytes, 48, &crc.to_le_bytes());
        bytes
    }

    /// Decodes and checks the header page.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let intact = array(bytes, 0) == Some(SEGMENT_MAGIC)
            && bytes.get(8) == Some(&SEGMENT_VERSION)
            && u32_at(bytes, 48) == Some(crc32c::crc32c(bytes.get(..48)?));
        let header = Self {
            number: u32_at(bytes, 12)?,
            first_sequence: u64_at(bytes, 16)?,
            epoch: u64_at(bytes, 24)?,
            salt: u64_at(bytes, 32)?,
            length: u64_at(bytes, 40)?,
        };
        intact.then_some(header)
    }

    /// The version of a header page that is whole but not of this program's version: it is not damage.
    pub fn other_version(bytes: &[u8]) -> Option<u8> {
        let whole = array(bytes, 0) == Some(SEGMENT_MAGIC)
            && u32_at(bytes, 48) == Some(crc32c::crc32c(bytes.get(..48)?));
        bytes.get(8).copied().filter(|version| whole && *version != SEGMENT_VERSION)
    }

    /// Checksum seed of its records.
    pub fn seed(&self) -> u32 {
        seed_of(self.salt, self.number)
    }
}
