//! What the state of every group has: position, replicated time, streams, outboxes, a backup's hold; and how an entry is gone through.
//!
//! Owns: the order in which an entry's parts take effect. Does not: know what a command does.
//! Invariants: an entry is applied once and in order; replicated time never goes back; a command that cannot be read
//! is refused and the next one applied.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{BackupStep, Command, LeaderCommand};
use crate::effect::{Effect, Reply};
use crate::entry::{BatchView, Item, SegmentView};
use crate::hold::Hold;
use crate::ids::{
    BackupId, GroupId, Incarnation, LogIndex, MessageRef, NodeId, StreamId, StreamSeq, Timestamp,
};
use crate::outbox::{OutboxChange, OutboxItem, Outboxes};
use crate::record::{Changes, Key, KeyReader, RestoreError, kind};
use crate::stream::{Streams, Take};
use crate::wire::Reader;

/// The part that all groups share.
#[derive(Clone, Default, Debug)]
pub(crate) struct GroupState {
    pub(crate) applied: LogIndex,
    pub(crate) now: Timestamp,
    pub(crate) streams: Streams,
    pub(crate) outboxes: Outboxes,
    /// A backup may hold the outboxes.
    pub(crate) hold: Hold,
    /// Outboxes that grew by the entry being applied.
    grown: BTreeSet<GroupId>,
    /// An entry was applied since the last checkpoint.
    pub(crate) moved: bool,
}

/// Where a command is: in which stream, and in which entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) stream: StreamId,
    pub(crate) seq: StreamSeq,
    pub(crate) index: LogIndex,
}

/// A group's own part of applying.
pub(crate) trait Apply {
    fn group_state(&mut self) -> &mut GroupState;

    /// Replicated time has advanced: let timers fire.
    fn advance(&mut self, effects: &mut Vec<Effect>);

    /// Messages that an outbox needed are not needed for it any more.
    fn released(&mut self, messages: &[MessageRef]);

    /// The leader has seen the lease of an incarnation end.
    fn node_lost(&mut self, node: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>);

    /// Applies the command that fills the reader.
    fn command(&mut self, place: Place, command: Reader<'_>, effects: &mut Vec<Effect>);
}

/// Applies an entry.
pub(crate) fn apply_entry(
    machine: &mut impl Apply,
    index: LogIndex,
    data: &Bytes,
    effects: &mut Vec<Effect>,
) {
    let state = machine.group_state();
    if index <= state.applied {
        return;
    }
    state.applied = index;
    state.moved = true;
    // Entries without data are the consensus layer's own.
    let Ok(batch) = BatchView::new(data) else { return };
    state.now = state.now.max(batch.stamp());
    if state.hold.expire(state.now) {
        effects.push(Effect::HoldEnded);
    }
    machine.advance(effects);
    for item in batch.items() {
        match item {
            Ok(Item::Segment(segment)) => apply_segment(machine, index, segment, effects),
            // A backup needs what is there. The leader says it again when the hold has ended.
            Ok(Item::Leader(LeaderCommand::OutboxApplied { .. })) if machine.group_state().hold.is_on() => {}
            Ok(Item::Leader(LeaderCommand::OutboxApplied { to, seq })) => {
                let released = machine.group_state().outboxes.applied(to, seq);
                machine.released(&released);
            }
            Ok(Item::Leader(LeaderCommand::Tick)) => {}
            Ok(Item::Leader(LeaderCommand::NodeLost { node, incarnation })) => {
                machine.node_lost(node, incarnation, effects);
            }
            Err(_) => break,
        }
    }
    for to in std::mem::take(&mut machine.group_state().grown) {
        effects.push(Effect::Outbox { to });
    }
}

fn apply_segment(
    machine: &mut impl Apply,
    index: LogIndex,
    segment: SegmentView<'_>,
    effects: &mut Vec<Effect>,
) {
    let stream = segment.stream;
    if !machine.group_state().streams.open(stream, segment.confirmed) {
        return;
    }
    for command in segment.commands() {
        let Ok((seq, command)) = command else { break };
        match machine.group_state().streams.take(stream, seq) {
            Take::Duplicate => {}
            Take::Gap => break,
            Take::Apply => machine.command(Place { stream, seq, index }, command, effects),
        }
    }
}

impl GroupState {
    /// Answers a command and keeps the answer until its source has seen it.
    pub(crate) fn reply(&mut self, place: Place, reply: Reply, effects: &mut Vec<Effect>) {
        self.streams.keep(place.stream, place.seq, reply.clone());
        effects.push(Effect::Reply { stream: place.stream, seq: place.seq, reply });
    }

    /// Sends a command to another group.
    pub(crate) fn post(&mut self, to: GroupId, command: &Command) -> StreamSeq {
        self.grown.insert(to);
        self.outboxes.push(to, command)
    }

    /// As [`Self::post`], for a command that ends with a message of this group's log.
    pub(crate) fn post_message(&mut self, to: GroupId, head: Bytes, message: MessageRef) -> StreamSeq {
        self.grown.insert(to);
        self.outboxes.push_message(to, head, message)
    }

    /// Commands for another group that may leave now, from a position on: none while a backup holds them.
    pub(crate) fn outbox(
        &self,
        to: GroupId,
        from: StreamSeq,
    ) -> impl Iterator<Item = (StreamSeq, OutboxItem)> {
        let held = self.hold.is_on();
        self.outboxes.from(to, from).take_while(move |_| !held)
    }

    /// A step of a backup, the same in every group.
    pub(crate) fn backup(
        &mut self,
        place: Place,
        backup: BackupId,
        step: BackupStep,
        effects: &mut Vec<Effect>,
    ) {
        const OVER: &str = "the backup does not hold the group any more";
        let refusal = match step {
            BackupStep::Hold { ms } => {
                let begun = self.hold.begin(backup, ms, self.now);
                (!begun).then_some("another backup is being taken")
            }
            BackupStep::Cut { node } if self.hold.is_of(backup) => {
                effects.push(Effect::Cut { backup, node });
                None
            }
            BackupStep::Cut { .. } => Some(OVER),
            BackupStep::Release => {
                let held = self.hold.end(backup);
                if held {
                    effects.push(Effect::HoldEnded);
                }
                (!held).then_some(OVER)
            }
        };
        if let Some(why) = refusal {
            self.reply(place, Reply::refused(why), effects);
        }
    }

    /// All records of streams and outboxes, in key order.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let nodes = self.streams.node_records(true);
        let nodes = nodes.map(|(node, content)| (Key::new(kind::NODE_STREAM).u64(node.0).finish(), content));
        let groups = self.streams.group_records(true);
        let groups =
            groups.map(|(group, content)| (Key::new(kind::GROUP_STREAM).u32(group.0).finish(), content));
        let heads = self.outboxes.records().filter(|record| matches!(record, OutboxChange::Head(..)));
        let commands = self.outboxes.records().filter(|record| matches!(record, OutboxChange::Command(..)));
        let outboxes = heads.chain(commands).map(outbox_record);
        let outboxes = outboxes.filter_map(|(key, content)| Some((key, content?)));
        let hold = self.hold.record().map(|content| (hold_key(), content));
        nodes.chain(groups).chain(outboxes).chain(hold)
    }

    /// Records of streams and outboxes that differ from the checkpoint.
    pub(crate) fn changes(&mut self, changes: &mut Changes) {
        for (node, content) in self.streams.node_records(false) {
            changes.push((Key::new(kind::NODE_STREAM).u64(node.0).finish(), Some(content)));
        }
        for (group, content) in self.streams.group_records(false) {
            changes.push((Key::new(kind::GROUP_STREAM).u32(group.0).finish(), Some(content)));
        }
        self.streams.stored();
        changes.extend(self.outboxes.changes().into_iter().map(outbox_record));
        changes.extend(self.hold.change().map(|content| (hold_key(), content)));
        self.moved = false;
    }
}

fn hold_key() -> Vec<u8> {
    Key::new(kind::HOLD).finish()
}

fn outbox_record(change: OutboxChange) -> (Vec<u8>, Option<Vec<u8>>) {
    match change {
        OutboxChange::Head(to, content) => (Key::new(kind::OUTBOX_HEAD).u32(to.0).finish(), Some(content)),
        OutboxChange::Command(to, seq, content) => {
            (Key::new(kind::OUTBOX_COMMAND).u32(to.0).u64(seq.0).finish(), content)
        }
    }
}

/// Starts the record that holds what is single in a group.
pub(crate) fn put_meta_head(out: &mut BytesMut, now: Timestamp) {
    out.put_u8(crate::record::RECORD_VERSION);
    out.put_u64_le(now.0);
}

impl GroupState {
    /// Takes in a record of streams or outboxes.
    pub(crate) fn restore_record(
        &mut self,
        key: &mut KeyReader<'_>,
        content: &Bytes,
    ) -> Result<(), RestoreError> {
        let bad = key.content();
        match key.kind() {
            kind::NODE_STREAM => self.streams.restore_node(NodeId(key.u64()?), content).map_err(bad)?,
            kind::GROUP_STREAM => self.streams.restore_group(GroupId(key.u32()?), content).map_err(bad)?,
            kind::OUTBOX_HEAD => self.outboxes.restore_head(GroupId(key.u32()?), content).map_err(bad)?,
            kind::OUTBOX_COMMAND => {
                let (to, seq) = (GroupId(key.u32()?), StreamSeq(key.u64()?));
                if !self.outboxes.restore_command(to, seq, Bytes::copy_from_slice(content)) {
                    return Err(RestoreError::Key { kind: key.kind() });
                }
            }
            kind::HOLD => self.hold = Hold::restore(content).map_err(bad)?,
            kind => return Err(RestoreError::Key { kind }),
        }
        key.done()
    }
}
