//! The bytes of a backup file.
//!
//! Owns: the byte table of docs/formats/backup.md: preamble, frames, head and end. Does not: know what a chunk holds.
//! Invariants: what a [`BackupReader`] gives is what was written, in its order; whatever else is in a file is an error that
//! says where. Limits: `BACKUP_CHUNK_BYTES_MAX`, `BACKUP_JSON_BYTES_MAX`, `BACKUP_ERROR_BYTES_MAX`.
//! See: docs/formats/backup.md.

use std::io::{ErrorKind, Read};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::founding::Settings;
use crate::limits::{BACKUP_CHUNK_BYTES_MAX, BACKUP_ERROR_BYTES_MAX, BACKUP_JSON_BYTES_MAX};

/// First bytes of every backup file.
pub const MAGIC: [u8; 8] = *b"QBACKUP\0";

/// Version of the file.
pub const VERSION: u8 = 1;

/// Bytes before the first frame.
const PREAMBLE_BYTES: usize = 16;

const KIND_HEAD: u8 = 1;
const KIND_CHUNK: u8 = 2;
const KIND_END: u8 = 3;

/// Frame one: whose state it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupHead {
    /// Identity of the backup: 16 hexadecimal digits, drawn at random.
    pub backup: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Identity of the cluster in hexadecimal digits.
    pub cluster_id: String,
    /// Version of the program that wrote the file.
    pub program: String,
    /// Level in use by the cluster; a program that does not speak it cannot restore the file.
    pub level: u32,
    /// When it was taken, by the clock of one node, in milliseconds since 1970; for people only.
    pub taken_at_unix_ms: u64,
    /// Settings of the whole cluster.
    pub settings: Settings,
}

/// The last frame: what came before it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupEnd {
    /// Groups.
    pub groups: u32,
    /// Bodies of all groups.
    pub bodies: u64,
    /// Records of all groups.
    pub records: u64,
    /// Bytes of the file before this frame.
    pub bytes: u64,
    /// Why the backup broke off: the file is not usable then.
    pub error: Option<String>,
}

/// A part of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time is in memory, and all but two are chunks")]
pub enum Frame {
    /// First.
    Head(BackupHead),
    /// A chunk of a group's snapshot, as docs/formats/snapshot.md has it.
    Chunk(Bytes),
    /// Last.
    End(BackupEnd),
}

/// A file is no backup, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("read the backup at byte {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// Cause.
        source: std::io::Error,
    },
    /// It does not begin like one.
    #[error("the file is not a backup: it does not begin as backups do")]
    NotABackup,
    /// It is of a version that this program does not know.
    #[error("the backup has version {version} of the format, and this program knows {VERSION}")]
    Version {
        /// Version.
        version: u8,
    },
    /// It ends too early.
    #[error("the backup is cut off: the file ends at byte {offset}, before the backup does")]
    Truncated {
        /// Length of the file.
        offset: u64,
    },
    /// A frame is not what was written.
    #[error("the backup is damaged: the frame at byte {offset} does not validate")]
    Damaged {
        /// Where the frame begins.
        offset: u64,
    },
    /// A frame does not belong where it is.
    #[error("the backup is damaged: the frame at byte {offset} {why}")]
    Frame {
        /// Where the frame begins.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// Something follows the end.
    #[error("the backup is damaged: bytes follow its end at byte {offset}")]
    Trailing {
        /// Where the backup ends.
        offset: u64,
    },
}

/// What comes before the first frame.
#[must_use]
pub fn preamble() -> Bytes {
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.resize(PREAMBLE_BYTES, 0);
    bytes.into()
}

impl Frame {
    /// The frame as it is in the file. A text of an error that is too long is cut.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, payload) = match self {
            Frame::Head(head) => (KIND_HEAD, json(head)),
            Frame::Chunk(chunk) => (KIND_CHUNK, chunk.clone()),
            Frame::End(end) => {
                let error = end.error.as_deref().map(|error| cut(error, BACKUP_ERROR_BYTES_MAX).to_owned());
                (KIND_END, json(&BackupEnd { error, ..end.clone() }))
            }
        };
        // Whoever reads refuses a length that is no length of ours.
        let length = u32::try_from(payload.len() + 1).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(payload.len() + 9);
        out.extend_from_slice(&length.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&payload);
        out.extend_from_slice(&checksum(kind, &payload).to_le_bytes());
        out.into()
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Texts and numbers only: that cannot fail, and an empty frame would be refused.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end).0
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload)
}

/// Reads a backup file frame by frame.
pub struct BackupReader<R: Read> {
    input: R,
    offset: u64,
    ended: bool,
}

impl<R: Read> BackupReader<R> {
    /// Reads the preamble and the head.
    ///
    /// # Errors
    /// What is wrong with the beginning of the file.
    pub fn open(input: R) -> Result<(Self, BackupHead), FormatError> {
        let mut reader = BackupReader { input, offset: 0, ended: false };
        let begin = match reader.take(PREAMBLE_BYTES) {
            Err(FormatError::Truncated { .. }) => return Err(FormatError::NotABackup),
            begin => begin?,
        };
        let rest = begin.strip_prefix(&MAGIC).ok_or(FormatError::NotABackup)?;
        match rest.split_first() {
            Some((&VERSION, zero)) if zero.iter().all(|byte| *byte == 0) => {}
            Some((&VERSION, _)) | None => return Err(FormatError::Damaged { offset: 0 }),
            Some((version, _)) => return Err(FormatError::Version { version: *version }),
        }
        match reader.frame()? {
            (offset, KIND_HEAD, payload) => Ok((reader, decode(offset, &payload)?)),
            (offset, ..) => Err(out_of_place(offset, "is not a head, as the first one is")),
        }
    }

    /// Where it is in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next frame after the head; `None` after the end, which is the end of the file too.
    ///
    /// # Errors
    /// What is wrong with the frame.
    #[expect(clippy::should_implement_trait, reason = "an iterator would go on after an error")]
    pub fn next(&mut self) -> Result<Option<Frame>, FormatError> {
        if self.ended {
            return Ok(None);
        }
        match self.frame()? {
            (_, KIND_CHUNK, payload) => Ok(Some(Frame::Chunk(payload))),
            (offset, KIND_END, payload) => {
                let end: BackupEnd = decode(offset, &payload)?;
                if end.bytes != offset {
                    return Err(out_of_place(offset, "is not where the backup says that it ends"));
                }
                let after = self.offset;
                match self.take(1) {
                    Err(FormatError::Truncated { .. }) => {}
                    Err(error) => return Err(error),
                    Ok(_) => return Err(FormatError::Trailing { offset: after }),
                }
                self.ended = true;
                Ok(Some(Frame::End(end)))
            }
            (offset, ..) => Err(out_of_place(offset, "is a second head")),
        }
    }

    /// A frame that validates: where it begins, its kind and payload.
    fn frame(&mut self) -> Result<(u64, u8, Bytes), FormatError> {
        let begin = self.offset;
        let head = self.take(5)?;
        let &[a, b, c, d, kind] = head.as_slice() else { return Err(FormatError::Damaged { offset: begin }) };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let most = match kind {
            KIND_HEAD | KIND_END => BACKUP_JSON_BYTES_MAX,
            KIND_CHUNK => BACKUP_CHUNK_BYTES_MAX,
            kind => return Err(out_of_place(begin, &format!("is of the unknown kind {kind}"))),
        };
        let Some(length) = length.checked_sub(1).filter(|length| *length <= most) else {
            return Err(out_of_place(begin, &format!("says that it has {length} bytes")));
        };
        let payload = self.take(length)?;
        let crc = self.take(4)?;
        if crc != checksum(kind, &payload).to_le_bytes() {
            return Err(FormatError::Damaged { offset: begin });
        }
        Ok((begin, kind, payload.into()))
    }

    /// So many bytes. Memory is taken as bytes come: a length alone costs nothing.
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, FormatError> {
        let mut taken = Vec::new();
        let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
        let read = self.input.by_ref().take(wanted).read_to_end(&mut taken);
        let got = u64::try_from(taken.len()).unwrap_or(u64::MAX);
        self.offset = self.offset.saturating_add(got);
        match read {
            Err(source) if source.kind() == ErrorKind::UnexpectedEof => {
                Err(FormatError::Truncated { offset: self.offset })
            }
            Err(source) => Err(FormatError::Io { offset: self.offset, source }),
            Ok(_) if got < wanted => Err(FormatError::Truncated { offset: self.offset }),
            Ok(_) => Ok(taken),
        }
    }
}

fn out_of_place(offset: u64, why: &str) -> FormatError {
    FormatError::Frame { offset, why: why.to_owned() }
}

fn decode<T: DeserializeOwned>(offset: u64, payload: &[u8]) -> Result<T, FormatError> {
    serde_json::from_slice(payload).map_err(|error| out_of_place(offset, &format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn head() -> BackupHead {
        let settings = r#"{"cluster":"plant","partitions":2,"replication":3,"session_expiry_max_s":604800,
            "sessions_max":1000000,"queue_messages_max":1000,"queue_bytes_max":100000,"inflight_max":256,
            "subscriptions_max":10000,"retained_max":1000000,"overflow":"drop-oldest",
            "bootstrap":[["n1","10.0.0.1:7600"]]}"#;
        BackupHead {
            backup: "0123456789abcdef".to_owned(),
            cluster: "plant".to_owned(),
            cluster_id: "00112233445566778899aabbccddeeff".to_owned(),
            program: "0.2.0".to_owned(),
            level: 2,
            taken_at_unix_ms: 1_790_000_000_000,
            settings: serde_json::from_str(settings).unwrap(),
        }
    }

    fn chunks() -> Vec<Bytes> {
        vec![Bytes::from_static(b"first chunk"), Bytes::new(), Bytes::from_static(&[7; 300])]
    }

    fn end(bytes: usize) -> BackupEnd {
        BackupEnd { groups: 3, bodies: 1, records: 12, bytes: bytes as u64, error: None }
    }

    fn file() -> Vec<u8> {
        let mut file = preamble().to_vec();
        file.extend_from_slice(&Frame::Head(head()).encode());
        for chunk in chunks() {
            file.extend_from_slice(&Frame::Chunk(chunk).encode());
        }
        let end = end(file.len());
        file.extend_from_slice(&Frame::End(end).encode());
        file
    }

    fn read(file: &[u8]) -> Result<(BackupHead, Vec<Frame>), FormatError> {
        let (mut reader, head) = BackupReader::open(file)?;
        let mut frames = Vec::new();
        while let Some(frame) = reader.next()? {
            frames.push(frame);
        }
        assert_eq!(reader.offset(), file.len() as u64);
        assert!(matches!(reader.next(), Ok(None)), "it stays ended");
        Ok((head, frames))
    }

    /// `QUORATE_GOLDEN=write` writes the file anew after a change of the format.
    #[test]
    fn file_of_version_1_is_read_and_written() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup-v1.bin");
        let written = file();
        if std::env::var_os("QUORATE_GOLDEN").is_some_and(|mode| mode == "write") {
            std::fs::write(&path, &written).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert!(golden == written, "this version writes other bytes");
        let (found, frames) = read(&golden).unwrap();
        assert_eq!(found, head());
        let [one, two, three, Frame::End(last)] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(
            [one, two, three].map(Clone::clone).to_vec(),
            chunks().into_iter().map(Frame::Chunk).collect::<Vec<_>>()
        );
        assert_eq!((last.groups, last.bodies, last.records, &last.error), (3, 1, 12, &None));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let whole = file();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                let found = read(&damaged);
                assert!(found.is_err(), "byte {at}, bit {bit}");
                assert!(!matches!(found, Err(FormatError::Io { .. })), "byte {at}, bit {bit}: {found:?}");
            }
        }
    }

    #[test]
    fn every_cut_is_found_with_its_place() {
        let whole = file();
        for length in 0..PREAMBLE_BYTES {
            assert!(matches!(read(&whole[..length]), Err(FormatError::NotABackup)), "{length}");
        }
        for length in PREAMBLE_BYTES..whole.len() {
            let found = read(&whole[..length]);
            assert!(
                matches!(found, Err(FormatError::Truncated { offset }) if offset == length as u64),
                "{length}"
            );
        }
    }

    #[test]
    fn what_follows_the_end_is_found() {
        let mut longer = file();
        let length = longer.len() as u64;
        longer.push(0);
        assert!(matches!(read(&longer), Err(FormatError::Trailing { offset }) if offset == length));
    }

    #[test]
    fn other_version_is_named() {
        let mut newer = file();
        newer[8] = 2;
        assert!(matches!(read(&newer), Err(FormatError::Version { version: 2 })));
    }

    #[test]
    fn frames_out_of_place_are_refused() {
        let preamble = preamble();
        let begin = [preamble.clone(), Frame::Head(head()).encode()].concat();
        let is_out_of_place = |file: Vec<u8>| matches!(read(&file), Err(FormatError::Frame { .. }));
        assert!(is_out_of_place([preamble, Frame::End(end(16)).encode()].concat()), "no head");
        assert!(
            is_out_of_place([begin.clone(), Frame::Head(head()).encode().to_vec()].concat()),
            "two heads"
        );
        assert!(
            is_out_of_place([begin.clone(), Frame::End(end(16)).encode().to_vec()].concat()),
            "end elsewhere"
        );
        let huge = [u32::MAX.to_le_bytes().as_slice(), &[KIND_CHUNK]].concat();
        assert!(is_out_of_place([begin, huge].concat()), "a length beyond the limit");
    }

    #[test]
    fn long_error_is_cut_at_a_character() {
        let error = Some("ü".repeat(BACKUP_ERROR_BYTES_MAX));
        let begin = [preamble(), Frame::Head(head()).encode()].concat();
        let last = Frame::End(BackupEnd { error, ..end(begin.len()) });
        let (_, frames) = read(&[begin, last.encode().to_vec()].concat()).unwrap();
        let [Frame::End(BackupEnd { error: Some(error), .. })] = frames.as_slice() else {
            panic!("{frames:?}")
        };
        assert_eq!(error.len(), BACKUP_ERROR_BYTES_MAX);
    }
}
