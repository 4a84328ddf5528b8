//! Wills: the one that a session holds, and those that are due.
//!
//! Owns: the reference to a will's message and its delay; the wills that wait to be published, numbered.
//! Does not: know who receives them; the node of the leader does. Does not decide when one is due; see
//! `partition/will.rs`. Invariants: a will that is due leaves once; numbers are never used again.
//! Limits: `PartitionConfig::sessions_max` that are due, then a CONNECT with a will is refused; the leader publishes so many at
//! a time. Spec: MQTT 5, 3.1.2.5; contract D12.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{LogIndex, MessageRef, WillId};
use crate::wire::{DecodeError, Reader};

/// The will of a session's connection.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct HeldWill {
    pub(crate) message: MessageRef,
    pub(crate) delay_s: u32,
}

/// Wills that are due and not published.
#[derive(Clone, Default, Debug)]
pub(crate) struct DueWills {
    wills: BTreeMap<WillId, MessageRef>,
    /// Those that differ from the checkpoint.
    dirty: BTreeSet<WillId>,
}

impl DueWills {
    pub(crate) fn insert(&mut self, will: WillId, message: MessageRef) {
        self.wills.insert(will, message);
        self.dirty.insert(will);
    }

    pub(crate) fn get(&self, will: WillId) -> Option<MessageRef> {
        self.wills.get(&will).copied()
    }

    pub(crate) fn remove(&mut self, will: WillId) {
        if self.wills.remove(&will).is_some() {
            self.dirty.insert(will);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.wills.len()
    }

    /// In the order in which they became due.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WillId, MessageRef)> {
        self.wills.iter().map(|(will, message)| (*will, *message))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (WillId, Vec<u8>)> {
        self.wills.iter().map(|(will, message)| (*will, encode(*message)))
    }

    /// Those that differ from the checkpoint, with their content or `None`; from now on the checkpoint has them.
    pub(crate) fn changes(&mut self) -> impl Iterator<Item = (WillId, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|will| (will, self.wills.get(&will).map(|message| encode(*message))))
    }

    pub(crate) fn restore(&mut self, will: WillId, content: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(content);
        let message = message_ref(&mut reader)?;
        reader.done()?;
        self.wills.insert(will, message);
        Ok(())
    }
}

fn encode(message: MessageRef) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(16);
    put_message_ref(&mut out, message);
    out.into()
}

pub(crate) fn put_message_ref(out: &mut BytesMut, message: MessageRef) {
    out.put_u64_le(message.index.0);
    out.put_u32_le(message.offset);
    out.put_u32_le(message.bytes);
}

pub(crate) fn message_ref(reader: &mut Reader<'_>) -> Result<MessageRef, DecodeError> {
    Ok(MessageRef { index: LogIndex(reader.u64()?), offset: reader.u32()?, bytes: reader.u32()? })
}
