//! What a backup file holds, group by group.
//!
//! Owns: the order of groups and chunks in a file, and the counts. Does not: know what records mean.
//! Invariants: what is given comes in the order of the file and is checked up to there; only the end of the file says that it
//! is whole. Limits: one chunk in memory. See: docs/formats/backup.md.

use std::io::Read;

use bytes::Bytes;
use quorate_storage::AppliedMark;
use quorate_storage::snapshot::{Chunk, ChunkError, Content};

use crate::backup::format::{BackupEnd, BackupHead, BackupReader, FormatError, Frame};

/// A part of a group.
#[derive(Debug)]
pub enum Part {
    /// Bodies, ascending by index.
    Bodies(Vec<(u64, Bytes)>),
    /// Records, ascending by key.
    Records(Vec<(Bytes, Bytes)>),
    /// The group is complete.
    Mark(AppliedMark),
}

/// A file is not a whole backup.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Its bytes.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A chunk is not what was written.
    #[error(
        "the backup is damaged: the frame at byte {offset} holds a chunk that does not validate: {source}"
    )]
    Chunk {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        source: ChunkError,
    },
    /// A chunk is not the one that belongs there.
    #[error("the backup is damaged: the frame at byte {offset}, in group {group}: {why}")]
    Order {
        /// Where the frame begins.
        offset: u64,
        /// Group that is underway.
        group: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// The end does not fit what came before.
    #[error("the backup is damaged: at its end: {0}")]
    End(String),
    /// Taking it broke off.
    #[error("taking the backup broke off, so it is not usable: {0}")]
    BrokenOff(String),
}

/// The group that is underway.
#[derive(Default)]
struct Underway {
    chunks: u64,
    bodies: u64,
    records: u64,
    last_body: Option<u64>,
    last_key: Option<Bytes>,
}

/// Reads a backup file part by part.
pub struct BackupContent<R: Read> {
    frames: BackupReader<R>,
    groups: u32,
    group: u32,
    underway: Underway,
    bodies: u64,
    records: u64,
    end: Option<BackupEnd>,
}

impl<R: Read> BackupContent<R> {
    /// Reads the beginning of the file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(input: R) -> Result<(Self, BackupHead), FormatError> {
        let (frames, head) = BackupReader::open(input)?;
        let groups = head.settings.partitions().saturating_add(1);
        let underway = Underway::default();
        Ok((BackupContent { frames, groups, group: 0, underway, bodies: 0, records: 0, end: None }, head))
    }

    /// The end, once it has come.
    pub fn end(&self) -> Option<&BackupEnd> {
        self.end.as_ref()
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.frames.offset()
    }

    /// The next part with its group; `None` at the end of a whole file.
    ///
    /// # Errors
    /// What is wrong with it, or with the end.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<(u32, Part)>, ContentError> {
        let offset = self.frames.offset();
        match self.frames.next()? {
            Some(Frame::Chunk(chunk)) => {
                let chunk = Chunk::decode(&chunk).map_err(|source| ContentError::Chunk { offset, source })?;
                self.part(chunk).map(Some).map_err(|why| ContentError::Order {
                    offset,
                    group: self.group,
                    why,
                })
            }
            Some(Frame::End(end)) => {
                self.check_end(&end)?;
                self.end = Some(end);
                Ok(None)
            }
            Some(Frame::Head(_)) | None => Ok(None),
        }
    }

    fn part(&mut self, chunk: Chunk) -> Result<(u32, Part), &'static str> {
        if self.group >= self.groups {
            return Err("the groups are complete, and another chunk comes");
        }
        if chunk.group != self.group {
            return Err("the chunk is of another group");
        }
        let underway = &mut self.underway;
        if chunk.number != underway.chunks {
            return Err("the chunk has another number than the next one");
        }
        underway.chunks += 1;
        match chunk.content {
            Content::Bodies(bodies) => {
                if underway.records > 0 {
                    return Err("bodies come after records");
                }
                for (index, _) in &bodies {
                    if underway.last_body.is_some_and(|last| last >= *index) {
                        return Err("bodies are not in the order of their entries");
                    }
                    underway.last_body = Some(*index);
                    underway.bodies += 1;
                }
                Ok((chunk.group, Part::Bodies(bodies)))
            }
            Content::Records(records) => {
                for (key, _) in &records {
                    if underway.last_key.as_ref().is_some_and(|last| last >= key) {
                        return Err("records are not in the order of their keys");
                    }
                    underway.last_key = Some(key.clone());
                    underway.records += 1;
                }
                Ok((chunk.group, Part::Records(records)))
            }
            Content::End { mark, bodies, records } => {
                if (bodies, records) != (underway.bodies, underway.records) {
                    return Err("its end counts other bodies or records than came");
                }
                if mark.index == 0 || underway.last_body.is_some_and(|last| last > mark.index) {
                    return Err("its mark is not where the group stands");
                }
                self.bodies += bodies;
                self.records += records;
                self.group += 1;
                self.underway = Underway::default();
                Ok((chunk.group, Part::Mark(mark)))
            }
        }
    }

    fn check_end(&self, end: &BackupEnd) -> Result<(), ContentError> {
        if let Some(why) = &end.error {
            return Err(ContentError::BrokenOff(why.clone()));
        }
        if self.group < self.groups || self.underway.chunks > 0 {
            let text = format!("{} groups are complete, of {}", self.group, self.groups);
            return Err(ContentError::End(text));
        }
        let (found, said) = ((self.group, self.bodies, self.records), (end.groups, end.bodies, end.records));
        if found != said {
            let text = format!("it says {said:?} groups, bodies and records, and there are {found:?}");
            return Err(ContentError::End(text));
        }
        Ok(())
    }
}
