//! Frames between nodes: `u32 length, u8 version, u8 kind, fields`, little endian; the length counts what follows it.
//!
//! Owns: the length, and the kinds from 128 on, which are the shell's own. Kinds below are messages of the node, which
//! writes version and kind itself. Does not: know the fields.
//! Invariants: a length is checked before anything is allocated for it. See: docs/formats/peer-frame.md.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::FRAME_BYTES_MAX;

/// Version of frames with kinds of the shell.
pub const FRAME_VERSION: u8 = 1;

const LENGTH_BYTES: usize = 4;
const KIND_BYTES: usize = 2;

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// Nothing: shows that the link is alive.
    KeepAlive,
    /// Who the sender is; the first frame in both directions.
    Hello,
    /// A message of the node; its payload begins with version and kind, which the node checks.
    Message,
    /// The Raft message that announces a snapshot.
    SnapshotBegin,
    /// A chunk of a snapshot: see docs/formats/snapshot.md.
    SnapshotChunk,
    /// The receiver has staged the snapshot.
    SnapshotStaged,
    /// A node asks to join.
    JoinRequest,
    /// Answer to a join request.
    JoinAnswer,
    /// A node wants a part of a backup.
    BackupRequest,
    /// Why it does not get it.
    BackupRefused,
    /// A node asks for a record that is damaged there.
    RepairRequest,
    /// Whether the other one has it, then its payload in pieces.
    RepairAnswer,
    /// A node that starts asks what was seen of it.
    WitnessRequest,
    /// What was seen of it.
    WitnessAnswer,
    /// A node that starts asks for the state of a group, up to an entry that nobody has for it.
    StateRequest,
    /// Instead of a Hello: the identity of who asks is gone for good.
    Gone,
}

/// Kinds of the shell; all below the first are messages of the node.
const KINDS: [(FrameKind, u8); 15] = [
    (FrameKind::KeepAlive, FIRST_SHELL_KIND),
    (FrameKind::Hello, 129),
    (FrameKind::SnapshotBegin, 130),
    (FrameKind::SnapshotChunk, 131),
    (FrameKind::SnapshotStaged, 132),
    (FrameKind::JoinRequest, 133),
    (FrameKind::JoinAnswer, 134),
    (FrameKind::BackupRequest, 135),
    (FrameKind::BackupRefused, 136),
    (FrameKind::RepairRequest, 137),
    (FrameKind::RepairAnswer, 138),
    (FrameKind::Gone, 139),
    (FrameKind::WitnessRequest, 140),
    (FrameKind::WitnessAnswer, 141),
    (FrameKind::StateRequest, 142),
];

const FIRST_SHELL_KIND: u8 = 128;

impl FrameKind {
    /// The code of a kind of the shell.
    fn code(self) -> Option<u8> {
        KINDS.iter().find(|(kind, _)| *kind == self).map(|(_, code)| *code)
    }

    fn of(code: u8) -> Option<FrameKind> {
        if code < FIRST_SHELL_KIND {
            return Some(FrameKind::Message);
        }
        KINDS.iter().find(|(_, known)| *known == code).map(|(kind, _)| *kind)
    }
}

/// A frame that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// The payload; shares the read buffer.
    pub payload: Bytes,
}

/// Why bytes from a peer are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed here, or too short for its head.
    #[error("a frame of {0} bytes is outside the limits")]
    Length(usize),
    /// Another version.
    #[error("frame version {0} is not known")]
    Version(u8),
    /// Unknown kind.
    #[error("frame kind {0} is not known")]
    Kind(u8),
}

/// Appends a frame whose payload `encode` writes. Leaves `out` as it was and returns false when the frame is above
/// `FRAME_BYTES_MAX`.
pub fn append(out: &mut BytesMut, kind: FrameKind, encode: impl FnOnce(&mut BytesMut)) -> bool {
    let start = out.len();
    out.put_u32_le(0);
    if let Some(code) = kind.code() {
        out.put_u8(FRAME_VERSION);
        out.put_u8(code);
    }
    encode(out);
    let length = out.len().saturating_sub(start + LENGTH_BYTES);
    let head = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES_MAX);
    let (Some(head), Some(place)) = (head, out.get_mut(start..start + LENGTH_BYTES)) else {
        out.truncate(start);
        return false;
    };
    place.copy_from_slice(&head.to_le_bytes());
    true
}

/// Takes the next whole frame off `input`. `None`: more bytes are needed.
pub fn take(input: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(head) = input.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| FrameError::Length(usize::MAX))?;
    if length < KIND_BYTES || length > bytes_max {
        return Err(FrameError::Length(length));
    }
    if input.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    input.advance(LENGTH_BYTES);
    let mut payload = input.split_to(length).freeze();
    let (version, code) = match payload.first_chunk::<KIND_BYTES>() {
        Some([version, code]) => (*version, *code),
        None => return Err(FrameError::Length(length)),
    };
    let kind = FrameKind::of(code).ok_or(FrameError::Kind(code))?;
    if kind != FrameKind::Message {
        if version != FRAME_VERSION {
            return Err(FrameError::Version(version));
        }
        payload.advance(KIND_BYTES);
    }
    Ok(Some(Frame { kind, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = BytesMut::new();
        assert!(append(&mut wire, FrameKind::Message, |out| out.put_slice(b"\x01\x05one")));
        assert!(append(&mut wire, FrameKind::KeepAlive, |_| ()));
        for cut in 0..wire.len() {
            let mut input = BytesMut::from(&wire[..cut]);
            let mut frames = Vec::new();
            while let Some(frame) = take(&mut input, 100).unwrap() {
                frames.push(frame);
            }
            input.extend_from_slice(&wire[cut..]);
            while let Some(frame) = take(&mut input, 100).unwrap() {
                frames.push(frame);
            }
            assert_eq!(frames.len(), 2);
            assert_eq!(
                frames[0],
                Frame { kind: FrameKind::Message, payload: Bytes::from_static(b"\x01\x05one") }
            );
            assert_eq!(frames[1].kind, FrameKind::KeepAlive);
        }
    }

    #[test]
    fn bytes_that_are_no_frame_are_refused() {
        for (bytes, error) in [
            (&[1, 0, 0, 0, 1][..], FrameError::Length(1)),
            (&[101, 0, 0, 0, 1, 2], FrameError::Length(101)),
            (&[2, 0, 0, 0, 9, 129], FrameError::Version(9)),
            (&[2, 0, 0, 0, 1, 199], FrameError::Kind(199)),
        ] {
            assert_eq!(take(&mut BytesMut::from(bytes), 100), Err(error));
        }
    }

    #[test]
    fn too_long_payload_leaves_the_buffer_alone() {
        let mut out = BytesMut::from(&b"kept"[..]);
        assert!(!append(&mut out, FrameKind::Message, |out| out.put_bytes(0, FRAME_BYTES_MAX + 1)));
        assert_eq!(&out[..], b"kept");
    }
}
