//! Commands of this group to other groups, in order, until the destination has applied them.
//!
//! Owns: one numbered sequence per destination. Does not: send; the leader does, through the stream mechanism.
//! Invariants: sequences are contiguous from 1; a command stays until its application is known by quorum.
//! Limits: none of its own. What goes in is bounded by what causes it (filters, nodes).

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::command::Command;
use crate::ids::{GroupId, StreamSeq};
use crate::wire::{DecodeError, Reader};

/// The outboxes of a group.
#[derive(Clone, Default, Debug)]
pub(crate) struct Outboxes(BTreeMap<GroupId, Outbox>);

#[derive(Clone, Default, Debug)]
struct Outbox {
    /// The destination has applied everything up to here.
    applied: StreamSeq,
    commands: VecDeque<Bytes>,
    /// The checkpoint has the commands after `stored_from`, up to `stored_to`.
    stored_from: StreamSeq,
    stored_to: StreamSeq,
}

impl Outbox {
    fn last(&self) -> StreamSeq {
        StreamSeq(self.applied.0 + self.commands.len() as u64)
    }

    fn iter(&self) -> impl Iterator<Item = (StreamSeq, &Bytes)> {
        (self.applied.0 + 1..).map(StreamSeq).zip(&self.commands)
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
        let outbox = self.0.entry(to).or_default();
        let mut encoded = BytesMut::with_capacity(command.encoded_len());
        command.encode(&mut encoded);
        outbox.commands.push_back(encoded.freeze());
        outbox.last()
    }

    /// The destination has applied everything up to `seq`.
    pub(crate) fn applied(&mut self, to: GroupId, seq: StreamSeq) {
        let Some(outbox) = self.0.get_mut(&to) else { return };
        while outbox.applied < seq && outbox.commands.pop_front().is_some() {
            outbox.applied.0 += 1;
        }
    }

    /// Commands from a position on, with their positions.
    pub(crate) fn from(&self, to: GroupId, from: StreamSeq) -> impl Iterator<Item = (StreamSeq, Bytes)> {
        self.0.get(&to).into_iter().flat_map(move |outbox| {
            let skip = from.0.saturating_sub(outbox.applied.0 + 1);
            outbox
                .iter()
                .skip(usize::try_from(skip).unwrap_or(usize::MAX))
                .map(|(seq, command)| (seq, command.clone()))
        })
    }

    /// Destinations with commands that are not known to be applied.
    pub(crate) fn destinations(&self) -> impl Iterator<Item = GroupId> {
        self.0.iter().filter(|(_, outbox)| !outbox.commands.is_empty()).map(|(to, _)| *to)
    }

    /// Everything, as records.
    pub(crate) fn records(&self) -> impl Iterator<Item = OutboxChange> {
        self.0.iter().flat_map(|(to, outbox)| {
            let commands = outbox.iter().map(|(seq, command)| (seq, Some(command.to_vec())));
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
            for (seq, command) in outbox.iter().filter(|(seq, _)| *seq > outbox.stored_to) {
                changes.push(OutboxChange::Command(*to, seq, Some(command.to_vec())));
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
        if Command::read(Reader::new(&command)).is_err() {
            return false;
        }
        let outbox = self.0.entry(to).or_default();
        if seq.0 != outbox.last().0 + 1 {
            return false;
        }
        outbox.commands.push_back(command);
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
        let (seq, mut encoded) = outboxes.from(to, StreamSeq(0)).next().unwrap();
        assert_eq!(seq, StreamSeq(4));
        assert_eq!(Command::decode(&mut encoded), Ok(command(4)));
        assert_eq!(outboxes.destinations().collect::<Vec<_>>(), [to]);
        outboxes.applied(to, StreamSeq(900));
        assert_eq!(outboxes.destinations().count(), 0);
        assert_eq!(outboxes.push(to, &command(6)), StreamSeq(6));
    }
}
