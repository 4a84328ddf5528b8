//! Commands of this group to other groups, in order, until the destination has applied them.
//!
//! Owns: one numbered sequence per destination. Does not: send; the leader does, through the stream mechanism. Does not
//! hold messages: a command that carries one holds a reference to it, and the leader puts the two together.
//! Invariants: sequences are contiguous from 1; a command stays until its application is known by quorum.
//! Limits: OUTBOX_MESSAGES_MAX and OUTBOX_BYTES_MAX per destination, asked by whoever adds messages for a client
//! ([`Outboxes::has_room`]). Other commands are bounded by what causes them (filters, nodes).

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::Command;
use crate::ids::{GroupId, LogIndex, MessageRef, StreamSeq};
use crate::limits::{OUTBOX_BYTES_MAX, OUTBOX_MESSAGES_MAX};
use crate::wire::{DecodeError, Reader};

/// The outboxes of a group.
#[derive(Clone, Default, Debug)]
pub(crate) struct Outboxes(BTreeMap<GroupId, Outbox>);

/// A command on its way to another group.
#[derive(Clone, PartialEq, Debug)]
pub enum OutboxItem {
    /// The whole command, encoded.
    Command(Bytes),
    /// A command that ends with a message which an entry of this group holds.
    Message {
        /// The encoded command up to the message.
        head: Bytes,
        /// The rest.
        message: MessageRef,
    },
}

/// First byte of the record of an [`OutboxItem::Message`]; no command begins with it.
const RECORD_MESSAGE: u8 = 0;

impl OutboxItem {
    /// The message that it refers to.
    pub(crate) fn message(&self) -> Option<MessageRef> {
        match self {
            Self::Command(_) => None,
            Self::Message { message, .. } => Some(*message),
        }
    }

    /// Bytes of the command as it is sent.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Command(command) => command.len(),
            Self::Message { head, message } => head.len() + message.bytes as usize,
        }
    }

    fn record(&self) -> Vec<u8> {
        match self {
            Self::Command(command) => command.to_vec(),
            Self::Message { head, message } => {
                let mut out = BytesMut::with_capacity(19 + head.len());
                out.put_u8(RECORD_MESSAGE);
                out.put_u64_le(message.index.0);
                out.put_u32_le(message.offset);
                out.put_u32_le(message.bytes);
                out.put_slice(head);
                out.into()
            }
        }
    }

    fn of_record(content: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&content);
        if content.first() != Some(&RECORD_MESSAGE) {
            Command::read(reader)?;
            return Ok(Self::Command(content));
        }
        reader.u8()?;
        let message =
            MessageRef { index: LogIndex(reader.u64()?), offset: reader.u32()?, bytes: reader.u32()? };
        Ok(Self::Message { head: Bytes::copy_from_slice(reader.bytes(reader.remaining())?), message })
    }
}

#[derive(Clone, Default, Debug)]
struct Outbox {
    /// The destination has applied everything up to here.
    applied: StreamSeq,
    items: VecDeque<OutboxItem>,
    /// Bytes of the messages that items refer to.
    message_bytes: u64,
    /// The checkpoint has the items after `stored_from`, up to `stored_to`.
    stored_from: StreamSeq,
    stored_to: StreamSeq,
}

impl Outbox {
    fn last(&self) -> StreamSeq {
        StreamSeq(self.applied.0 + self.items.len() as u64)
    }

    fn iter(&self) -> impl Iterator<Item = (StreamSeq, &OutboxItem)> {
        (self.applied.0 + 1..).map(StreamSeq).zip(&self.items)
    }

    fn push(&mut self, item: OutboxItem) -> StreamSeq {
        self.message_bytes += item.message().map_or(0, |message| u64::from(message.bytes));
        self.items.push_back(item);
        self.last()
    }

    fn head_record(&self) -> Vec<u8> {
        self.applied.0.to_le_bytes().to_vec()
    }
}

/// A record of an outbox that changed.
pub(crate) enum OutboxChange {
    /// How far the destination is.
    Head(GroupId, Vec<u8>),
    /// A command, or its deletion.
    Command(GroupId, StreamSeq, Option<Vec<u8>>),
}

impl Outboxes {
    /// Adds a command; returns its position.
    pub(crate) fn push(&mut self, to: GroupId, command: &Command) -> StreamSeq {
        let mut encoded = BytesMut::with_capacity(command.encoded_len());
        command.encode(&mut encoded);
        self.0.entry(to).or_default().push(OutboxItem::Command(encoded.freeze()))
    }

    /// Adds a command that ends with a message of this group's log; returns its position. The message is needed until
    /// [`Self::applied`] gives it back.
    pub(crate) fn push_message(&mut self, to: GroupId, head: Bytes, message: MessageRef) -> StreamSeq {
        self.0.entry(to).or_default().push(OutboxItem::Message { head, message })
    }

    /// Whether one more message for a destination is within the limits.
    pub(crate) fn has_room(&self, to: GroupId) -> bool {
        self.0.get(&to).is_none_or(|outbox| {
            outbox.items.len() < OUTBOX_MESSAGES_MAX && outbox.message_bytes < OUTBOX_BYTES_MAX
        })
    }

    /// Whether the destination is known to have applied what is at a position.
    pub(crate) fn is_applied(&self, to: GroupId, seq: StreamSeq) -> bool {
        self.0.get(&to).is_some_and(|outbox| outbox.applied >= seq)
    }

    /// The destination has applied everything up to `seq`: gives back the messages that are not needed for it any more.
    pub(crate) fn applied(&mut self, to: GroupId, seq: StreamSeq) -> Vec<MessageRef> {
        let mut released = Vec::new();
        let Some(outbox) = self.0.get_mut(&to) else { return released };
        while outbox.applied < seq
            && let Some(item) = outbox.items.pop_front()
        {
            outbox.applied.0 += 1;
            if let Some(message) = item.message() {
                outbox.message_bytes -= u64::from(message.bytes);
                released.push(message);
            }
        }
        released
    }

    /// What a destination is known to have applied, and the last command for it.
    pub(crate) fn span(&self, to: GroupId) -> (StreamSeq, StreamSeq) {
        self.0.get(&to).map_or_else(Default::default, |outbox| (outbox.applied, outbox.last()))
    }

    /// Messages that some outbox refers to.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageRef> {
        self.0.values().flat_map(|outbox| &outbox.items).filter_map(OutboxItem::message)
    }

    /// Commands from a position on, with their positions.
    pub(crate) fn from(&self, to: GroupId, from: StreamSeq) -> impl Iterator<Item = (StreamSeq, OutboxItem)> {
        self.0.get(&to).into_iter().flat_map(move |outbox| {
            let skip = from.0.saturating_sub(outbox.applied.0 + 1);
            outbox
                .iter()
                .skip(usize::try_from(skip).unwrap_or(usize::MAX))
                .map(|(seq, command)| (seq, command.clone()))
        })
    }

    /// For a destination: the position that it is known to have applied, and the last one there is.
    pub(crate) fn positions(&self, to: GroupId) -> (StreamSeq, StreamSeq) {
        self.0.get(&to).map_or_else(Default::default, |outbox| (outbox.applied, outbox.last()))
    }

    /// Destinations with commands that are not known to be applied.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = GroupId> {
        self.0.iter().filter(|(_, outbox)| !outbox.items.is_empty()).map(|(to, _)| *to)
    }

    /// Everything, as records.
    pub(crate) fn records(&self) -> impl Iterator<Item = OutboxChange> {
        self.0.iter().flat_map(|(to, outbox)| {
            let commands = outbox.iter().map(|(seq, item)| (seq, Some(item.record())));
            let commands = commands.map(|(seq, command)| OutboxChange::Command(*to, seq, command));
            std::iter::once(OutboxChange::Head(*to, outbox.head_record())).chain(commands)
        })
    }

    /// What differs from the checkpoint; from now on the checkpoint has it.
    pub(crate) fn changes(&mut self) -> Vec<OutboxChange> {
        let mut changes = Vec::new();
        for (to, outbox) in &mut self.0 {
            let last = outbox.last();
            if outbox.stored_from == outbox.applied && outbox.stored_to == last && last.0 != 0 {
                continue;
            }
            changes.push(OutboxChange::Head(*to, outbox.head_record()));
            for seq in outbox.stored_from.0 + 1..=outbox.stored_to.min(outbox.applied).0 {
                changes.push(OutboxChange::Command(*to, StreamSeq(seq), None));
            }
            for (seq, item) in outbox.iter().filter(|(seq, _)| *seq > outbox.stored_to) {
                changes.push(OutboxChange::Command(*to, seq, Some(item.record())));
            }
            outbox.stored_from = outbox.applied;
            outbox.stored_to = last;
        }
        changes
    }

    pub(crate) fn restore_head(&mut self, to: GroupId, content: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(content);
        let applied = StreamSeq(reader.u64()?);
        let outbox = self.0.entry(to).or_default();
        outbox.applied = applied;
        outbox.stored_from = applied;
        outbox.stored_to = applied;
        reader.done()
    }

    /// Adds a command after the head was restored, in order; false when the order is broken or it is none.
    pub(crate) fn restore_command(&mut self, to: GroupId, seq: StreamSeq, command: Bytes) -> bool {
        let Ok(item) = OutboxItem::of_record(command) else { return false };
        let outbox = self.0.entry(to).or_default();
        if seq.0 != outbox.last().0 + 1 {
            return false;
        }
        outbox.push(item);
        outbox.stored_to = seq;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    fn command(number: u64) -> Command {
        Command::NodeDown { node: NodeId(number), incarnation: Incarnation(1) }
    }

    fn message(number: u32) -> MessageRef {
        MessageRef { index: LogIndex(7), offset: number, bytes: 100 }
    }

    #[test]
    fn applied_gives_back_the_messages_that_were_needed() {
        let mut outboxes = Outboxes::default();
        let to = GroupId(4);
        outboxes.push_message(to, Bytes::from_static(b"ab"), message(1));
        outboxes.push(to, &command(2));
        let last = outboxes.push_message(to, Bytes::from_static(b"cd"), message(3));
        assert_eq!(outboxes.messages().collect::<Vec<_>>(), [message(1), message(3)]);
        assert!(!outboxes.is_applied(to, last));
        assert_eq!(outboxes.applied(to, StreamSeq(2)), [message(1)]);
        assert_eq!(outboxes.applied(to, last), [message(3)]);
        assert!(outboxes.is_applied(to, last));
        assert_eq!(outboxes.messages().count(), 0);
    }

    #[test]
    fn has_room_ends_at_the_limits_and_comes_back() {
        let mut outboxes = Outboxes::default();
        let to = GroupId(4);
        for _ in 0..OUTBOX_MESSAGES_MAX {
            assert!(outboxes.has_room(to));
            outboxes.push_message(to, Bytes::new(), message(1));
        }
        assert!(!outboxes.has_room(to));
        outboxes.applied(to, StreamSeq(1));
        assert!(outboxes.has_room(to));
        let large = MessageRef { bytes: u32::MAX, ..message(1) };
        outboxes.push_message(to, Bytes::new(), large);
        outboxes.applied(to, StreamSeq(3));
        assert!(!outboxes.has_room(to), "a few large messages fill it too");
    }

    #[test]
    fn record_of_a_message_gives_it_back() {
        let item = OutboxItem::Message { head: Bytes::from_static(b"head"), message: message(9) };
        assert_eq!(OutboxItem::of_record(item.record().into()), Ok(item));
    }

    #[test]
    fn outbox_keeps_commands_until_applied() {
        let mut outboxes = Outboxes::default();
        let to = GroupId(4);
        for number in 1..=5 {
            assert_eq!(outboxes.push(to, &command(number)), StreamSeq(number));
        }
        let all: Vec<StreamSeq> = outboxes.from(to, StreamSeq(3)).map(|(seq, _)| seq).collect();
        assert_eq!(all, [StreamSeq(3), StreamSeq(4), StreamSeq(5)]);
        outboxes.applied(to, StreamSeq(3));
        outboxes.applied(to, StreamSeq(2));
        let (seq, item) = outboxes.from(to, StreamSeq(0)).next().unwrap();
        assert_eq!(seq, StreamSeq(4));
        let OutboxItem::Command(mut encoded) = item else { panic!("{item:?}") };
        assert_eq!(Command::decode(&mut encoded), Ok(command(4)));
        assert_eq!(outboxes.destinations().collect::<Vec<_>>(), [to]);
        outboxes.applied(to, StreamSeq(900));
        assert_eq!(outboxes.destinations().count(), 0);
        assert_eq!(outboxes.push(to, &command(6)), StreamSeq(6));
    }
}
