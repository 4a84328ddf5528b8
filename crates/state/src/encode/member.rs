//! Encoding of the commands that change who is a member.
//!
//! Owns: removals and lists of members. Does not: frame commands; see `encode`. See: docs/formats/entry.md.

use bytes::{BufMut, BytesMut};

use crate::command::Removal;
use crate::ids::NodeId;
use crate::wire::{DecodeError, Reader, put_count, put_text};

const KEEP: u8 = 0;
const REMOVE: u8 = 1;
const REPLACE: u8 = 2;
const QUIET: u8 = 3;

pub(crate) fn put_removal(out: &mut BytesMut, removal: &Removal) {
    match removal {
        Removal::Keep => out.put_u8(KEEP),
        Removal::Remove => out.put_u8(REMOVE),
        Removal::Replace { successor } => {
            out.put_u8(REPLACE);
            put_text(out, successor.as_str());
        }
        Removal::Quiet => out.put_u8(QUIET),
    }
}

pub(crate) fn removal(reader: &mut Reader<'_>) -> Result<Removal, DecodeError> {
    let at = reader.at();
    Ok(match reader.u8()? {
        KEEP => Removal::Keep,
        REMOVE => Removal::Remove,
        REPLACE => Removal::Replace { successor: reader.text()? },
        QUIET => Removal::Quiet,
        tag => return Err(DecodeError::Tag { tag, at }),
    })
}

pub(crate) fn put_nodes(out: &mut BytesMut, nodes: &[NodeId]) {
    put_count(out, nodes.len());
    nodes.iter().for_each(|node| out.put_u64_le(node.0));
}

pub(crate) fn nodes(reader: &mut Reader<'_>) -> Result<Vec<NodeId>, DecodeError> {
    let mut nodes = Vec::new();
    for _ in 0..reader.length()? {
        nodes.push(NodeId(reader.u64()?));
    }
    Ok(nodes)
}
