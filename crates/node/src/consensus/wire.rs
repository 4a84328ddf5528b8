//! Raft messages as bytes. Own encoding: nothing of the consensus crate parses what comes from the network.
//!
//! Owns: the fields of a Raft message in a peer frame. Does not: frame them.
//! Invariants: decode(encode(m)) == m for every message Raft sends. See: docs/formats/peer-frame.md.

use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot};

use crate::bytes_io::{Malformed, Reader, put_bytes, put_count};

/// Bytes of an encoded entry without data and context.
const ENTRY_BYTES_MIN: usize = 1 + 8 + 8 + 4 + 4;

/// Whether a message of this type may travel between nodes.
pub fn travels(message_type: MessageType) -> bool {
    MESSAGE_TYPES.iter().any(|(_, known)| *known == message_type)
}

/// Appends the encoded message, whose type must travel.
pub fn encode(message: &Message, out: &mut BytesMut) {
    out.put_u8(message_type_code(message.get_msg_type()));
    for field in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.request_snapshot,
        message.reject_hint,
        message.priority.cast_unsigned(),
    ] {
        out.put_u64_le(field);
    }
    out.put_u8(u8::from(message.reject));
    put_bytes(out, &message.context);
    put_count(out, message.entries.len());
    for entry in message.entries.iter() {
        out.put_u8(entry_type_code(entry.get_entry_type()));
        out.put_u64_le(entry.term);
        out.put_u64_le(entry.index);
        put_bytes(out, &entry.data);
        put_bytes(out, &entry.context);
    }
    match message.snapshot.as_ref().filter(|snapshot| !snapshot.is_empty()) {
        None => out.put_u8(0),
        Some(snapshot) => {
            out.put_u8(1);
            let metadata = snapshot.get_metadata();
            out.put_u64_le(metadata.index);
            out.put_u64_le(metadata.term);
            encode_conf_state(metadata.get_conf_state(), out);
        }
    }
}

/// Decodes a message. The entries share the bytes of the input.
///
/// # Errors
/// [`Malformed`] when the bytes are not an encoded message.
pub fn decode(input: Bytes) -> Result<Message, Malformed> {
    let mut reader = Reader(input);
    let mut message = Message::default();
    message.set_msg_type(message_type(reader.u8("message type")?)?);
    message.to = reader.u64("to")?;
    message.from = reader.u64("from")?;
    message.term = reader.u64("term")?;
    message.log_term = reader.u64("log term")?;
    message.index = reader.u64("index")?;
    message.commit = reader.u64("commit")?;
    message.commit_term = reader.u64("commit term")?;
    message.request_snapshot = reader.u64("request snapshot")?;
    message.reject_hint = reader.u64("reject hint")?;
    message.priority = reader.u64("priority")?.cast_signed();
    message.reject = reader.u8("reject")? != 0;
    message.context = reader.bytes("context")?;
    let count = reader.count(ENTRY_BYTES_MIN, "entry count")?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let mut entry = Entry::default();
        entry.set_entry_type(entry_type(reader.u8("entry type")?)?);
        entry.term = reader.u64("entry term")?;
        entry.index = reader.u64("entry index")?;
        // Its own memory: an entry stays in the window and in the cache for long, the frame it came in must not.
        entry.data = Bytes::copy_from_slice(&reader.bytes("entry data")?);
        entry.context = Bytes::copy_from_slice(&reader.bytes("entry context")?);
        entries.push(entry);
    }
    message.set_entries(entries.into());
    if reader.u8("snapshot flag")? != 0 {
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = reader.u64("snapshot index")?;
        metadata.term = reader.u64("snapshot term")?;
        metadata.set_conf_state(read_conf_state(&mut reader)?);
        message.set_snapshot(snapshot);
    }
    reader.finish("trailing bytes after a raft message")?;
    Ok(message)
}

/// Appends the encoded membership.
pub fn encode_conf_state(state: &ConfState, out: &mut BytesMut) {
    for list in [&state.voters, &state.learners, &state.voters_outgoing, &state.learners_next] {
        put_count(out, list.len());
        for id in list {
            out.put_u64_le(*id);
        }
    }
    out.put_u8(u8::from(state.auto_leave));
}

/// Decodes a membership.
///
/// # Errors
/// [`Malformed`] when the bytes are not an encoded membership.
pub fn decode_conf_state(input: Bytes) -> Result<ConfState, Malformed> {
    let mut reader = Reader(input);
    let state = read_conf_state(&mut reader)?;
    reader.finish("trailing bytes after a membership")?;
    Ok(state)
}

fn read_conf_state(reader: &mut Reader) -> Result<ConfState, Malformed> {
    let mut state = ConfState::default();
    for list in [&mut state.voters, &mut state.learners, &mut state.voters_outgoing, &mut state.learners_next]
    {
        for _ in 0..reader.count(8, "member count")? {
            list.push(reader.u64("member")?);
        }
    }
    state.auto_leave = reader.u8("auto leave")? != 0;
    Ok(state)
}

/// Code of an entry type on the wire and in the log.
pub fn entry_type_code(entry_type: EntryType) -> u8 {
    match entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    }
}

/// Entry type of a code.
///
/// # Errors
/// [`Malformed`] for an unknown code.
pub fn entry_type(code: u8) -> Result<EntryType, Malformed> {
    match code {
        0 => Ok(EntryType::EntryNormal),
        1 => Ok(EntryType::EntryConfChange),
        2 => Ok(EntryType::EntryConfChangeV2),
        _ => Err(Malformed("entry type")),
    }
}

/// The types that cross the network, by code. Local types are left out, and so are proposals and read requests, which
/// nodes send as streams and queries: the engine would parse or index what a peer put into them.
const MESSAGE_TYPES: [(u8, MessageType); 11] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgSnapshot),
    (6, MessageType::MsgHeartbeat),
    (7, MessageType::MsgHeartbeatResponse),
    (8, MessageType::MsgTransferLeader),
    (9, MessageType::MsgTimeoutNow),
    (12, MessageType::MsgRequestPreVote),
    (13, MessageType::MsgRequestPreVoteResponse),
];

fn message_type_code(message_type: MessageType) -> u8 {
    MESSAGE_TYPES
        .iter()
        .find(|(_, known)| *known == message_type)
        .map(|(code, _)| *code)
        .expect("raft sends no local message to a peer")
}

fn message_type(code: u8) -> Result<MessageType, Malformed> {
    MESSAGE_TYPES
        .iter()
        .find(|(known, _)| *known == code)
        .map(|(_, message_type)| *message_type)
        .ok_or(Malformed("message type"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> Message {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.term = 3;
        entry.index = 9;
        entry.data = Bytes::from_static(b"data");
        entry.context = Bytes::from_static(b"context");
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        message.to = 2;
        message.from = 1;
        message.term = 3;
        message.log_term = 2;
        message.index = 8;
        message.commit = 7;
        message.reject_hint = 5;
        message.priority = -4;
        message.reject = true;
        message.set_entries(vec![entry].into());
        message
    }

    fn snapshot() -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = 77;
        metadata.term = 6;
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        metadata.mut_conf_state().learners = vec![4];
        metadata.mut_conf_state().auto_leave = true;
        message
    }

    #[test]
    fn message_encoded_decodes_to_itself() {
        for message in [append(), snapshot()] {
            let mut out = BytesMut::new();
            encode(&message, &mut out);
            assert_eq!(decode(out.freeze()).unwrap(), message);
        }
    }

    #[test]
    fn entry_does_not_keep_the_frame_it_came_in() {
        let mut out = BytesMut::new();
        encode(&append(), &mut out);
        let frame = out.freeze();
        let message = decode(frame.clone()).unwrap();
        let data = message.entries[0].data.as_ptr();
        assert!(!frame.as_ptr_range().contains(&data));
    }

    #[test]
    fn message_cut_short_is_malformed() {
        for message in [append(), snapshot()] {
            let mut out = BytesMut::new();
            encode(&message, &mut out);
            let whole = out.freeze();
            for len in 0..whole.len() {
                assert!(decode(whole.slice(..len)).is_err(), "prefix of {len} bytes");
            }
        }
    }
}
