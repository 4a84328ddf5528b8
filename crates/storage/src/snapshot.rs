//! Chunks of a snapshot on its way to another replica.
//!
//! Owns: the byte table of docs/formats/snapshot.md. Does not: send, order or store chunks.
//! Invariants: a chunk that decodes is what was encoded; what a peer sends is never trusted, only checked.
//! Limits: SNAPSHOT_CHUNK_BYTES_MAX. See: docs/formats/snapshot.md.

use bytes::Bytes;

use crate::checkpoint::AppliedMark;
use crate::field::{length_u32, u32_at, u64_at};
use crate::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use crate::{Group, Index};

/// Version of the chunk format.
pub const CHUNK_VERSION: u8 = 1;

const HEADER_BYTES: usize = 20;

/// Part of a snapshot. The order is: bodies, records, end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Bodies that the records refer to, ascending.
    Bodies(Vec<(Index, Bytes)>),
    /// Checkpoint records, ascending by key.
    Records(Vec<(Bytes, Bytes)>),
    /// Nothing follows: the mark of the checkpoint, and how much was sent before.
    End {
        /// Mark.
        mark: AppliedMark,
        /// Bodies sent.
        bodies: u64,
        /// Records sent.
        records: u64,
    },
}

/// A numbered part of a group's snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Group.
    pub group: Group,
    /// Place in the stream, from 0 without gaps.
    pub number: u64,
    /// Content.
    pub content: Content,
}

/// A chunk does not decode; the installation is to be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChunkError {
    /// It is larger than the limit.
    #[error("a snapshot chunk of {bytes} bytes, more than {SNAPSHOT_CHUNK_BYTES_MAX}")]
    TooLarge {
        /// Length.
        bytes: usize,
    },
    /// It is of a version this node does not know.
    #[error("a snapshot chunk of version {version}")]
    Version {
        /// Version.
        version: u8,
    },
    /// It is not what was sent.
    #[error("a snapshot chunk does not validate")]
    Corrupt,
}

impl Chunk {
    /// Encodes the chunk.
    pub fn encode(&self) -> Bytes {
        let (kind, count) = match &self.content {
            Content::Bodies(bodies) => (1, bodies.len()),
            Content::Records(records) => (2, records.len()),
            Content::End { .. } => (3, 1),
        };
        let mut out = vec![CHUNK_VERSION, kind, 0, 0];
        out.extend_from_slice(&self.group.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&length_u32(count).to_le_bytes());
        match &self.content {
            Content::Bodies(bodies) => {
                for (index, body) in bodies {
                    out.extend_from_slice(&index.to_le_bytes());
                    put_bytes(&mut out, body);
                }
            }
            Content::Records(records) => {
                for (key, value) in records {
                    put_bytes(&mut out, key);
                    put_bytes(&mut out, value);
                }
            }
            Content::End { mark, bodies, records } => {
                out.extend_from_slice(&bodies.to_le_bytes());
                out.extend_from_slice(&records.to_le_bytes());
                put_bytes(&mut out, &mark.encode());
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.into()
    }

    /// Decodes and checks a chunk; what it holds are slices of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, ChunkError> {
        if bytes.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            return Err(ChunkError::TooLarge { bytes: bytes.len() });
        }
        match bytes.first() {
            Some(&CHUNK_VERSION) => Self::decode_current(bytes).ok_or(ChunkError::Corrupt),
            Some(version) => Err(ChunkError::Version { version: *version }),
            None => Err(ChunkError::Corrupt),
        }
    }

    fn decode_current(bytes: &Bytes) -> Option<Self> {
        let end = bytes.len().checked_sub(4)?;
        if u32_at(bytes, end)? != crc32c::crc32c(bytes.get(..end)?) {
            return None;
        }
        let mut input = Input { bytes, at: HEADER_BYTES, end };
        let count = u32_at(bytes, 16)?;
        let content = match bytes.get(1)? {
            1 => Content::Bodies(
                (0..count).map(|_| Some((input.u64()?, input.bytes()?))).collect::<Option<_>>()?,
            ),
            2 => Content::Records(
                (0..count).map(|_| Some((input.bytes()?, input.bytes()?))).collect::<Option<_>>()?,
            ),
            3 => Content::End {
                bodies: input.u64()?,
                records: input.u64()?,
                mark: AppliedMark::decode(&input.bytes()?)?,
            },
            _ => return None,
        };
        (input.at == end).then_some(Self { group: u32_at(bytes, 4)?, number: u64_at(bytes, 8)?, content })
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length_u32(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

struct Input<'a> {
    bytes: &'a Bytes,
    at: usize,
    end: usize,
}

impl Input<'_> {
    fn u64(&mut self) -> Option<u64> {
        let value = u64_at(self.bytes, self.at)?;
        self.at += 8;
        Some(value)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = u32_at(self.bytes, self.at)? as usize;
        let start = self.at + 4;
        let end = start.checked_add(length).filter(|end| *end <= self.end)?;
        self.at = end;
        Some(self.bytes.slice(start..end))
    }
}
