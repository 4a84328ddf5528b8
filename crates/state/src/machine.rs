//! What the replicated state machines have in common, for the code that drives them.
//!
//! Owns: the [`Machine`] trait, and the same methods directly on [`Partition`] and [`Control`].
//! Does not: do any work of its own.

use bytes::Bytes;

use crate::control::Control;
use crate::effect::{Effect, Reply};
use crate::group_state::apply_entry;
use crate::ids::{GroupId, LogIndex, StreamId, StreamSeq, Timestamp};
use crate::outbox::OutboxItem;
use crate::partition::Partition;

/// A replicated state machine.
pub trait Machine {
    /// Applies the entry at `index`. Total: damaged data is refused alike on every replica. Entries come in order; one
    /// that was applied before changes nothing.
    fn apply(&mut self, index: LogIndex, data: &Bytes, effects: &mut Vec<Effect>);
    /// The last applied entry.
    fn applied(&self) -> LogIndex;
    /// Replicated time: the highest stamp applied.
    fn now(&self) -> Timestamp;
    /// When a `Tick` is worth proposing; `None` for never.
    fn next_deadline(&self) -> Option<Timestamp>;
    /// Last applied position of a stream; 0 when nothing of it was applied, or when its incarnation has ended.
    fn stream_applied(&self, stream: StreamId) -> StreamSeq;
    /// Replies after a position that the source has not confirmed.
    fn stream_replies(&self, stream: StreamId, after: StreamSeq)
    -> impl Iterator<Item = (StreamSeq, &Reply)>;
    /// Commands for another group, from a position on.
    fn outbox(&self, to: GroupId, from: StreamSeq) -> impl Iterator<Item = (StreamSeq, OutboxItem)>;
    /// Groups that have not applied all that is for them.
    fn outbox_destinations(&self) -> impl Iterator<Item = GroupId>;
    /// Records that changed since the last call: key, and content or `None` for deletion.
    fn changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)>;
    /// All records, in byte order of their keys.
    fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)>;
    /// Equal for equal states. Reads the whole state.
    fn hash(&self) -> u64;
    /// Whether some body in the entry is still needed.
    fn live(&self, index: LogIndex) -> bool;
}

macro_rules! machine {
    ($machine:ty) => {
        impl $machine {
            /// Applies the entry at `index`; see [`Machine::apply`].
            pub fn apply(&mut self, index: LogIndex, data: &Bytes, effects: &mut Vec<Effect>) {
                apply_entry(self, index, data, effects);
            }

            /// The last applied entry.
            #[must_use]
            pub fn applied(&self) -> LogIndex {
                self.state.applied
            }

            /// Replicated time: the highest stamp applied.
            #[must_use]
            pub fn now(&self) -> Timestamp {
                self.state.now
            }

            /// Last applied position of a stream; 0 when nothing of it was applied, or its incarnation has ended.
            #[must_use]
            pub fn stream_applied(&self, stream: StreamId) -> StreamSeq {
                self.state.streams.applied(stream)
            }

            /// Replies after a position that the source has not confirmed.
            pub fn stream_replies(
                &self,
                stream: StreamId,
                after: StreamSeq,
            ) -> impl Iterator<Item = (StreamSeq, &Reply)> {
                self.state.streams.replies(stream, after)
            }

            /// Commands for another group that may leave now, from a position on.
            pub fn outbox(
                &self,
                to: GroupId,
                from: StreamSeq,
            ) -> impl Iterator<Item = (StreamSeq, OutboxItem)> {
                self.state.outbox(to, from)
            }

            /// What another group is known to have applied, and the last command for it, also while a backup holds the
            /// outboxes.
            #[must_use]
            pub fn outbox_span(&self, to: GroupId) -> (StreamSeq, StreamSeq) {
                self.state.outboxes.span(to)
            }

            /// Of the commands for another group: the position up to which it is known to have applied them, and the
            /// last one. Both are 0 when there never was one.
            #[must_use]
            pub fn outbox_positions(&self, to: GroupId) -> (StreamSeq, StreamSeq) {
                self.state.outboxes.positions(to)
            }

            /// Groups that have not applied all that is for them.
            pub fn outbox_destinations(&self) -> impl Iterator<Item = GroupId> {
                self.state.outboxes.destinations()
            }
        }

        impl Machine for $machine {
            fn apply(&mut self, index: LogIndex, data: &Bytes, effects: &mut Vec<Effect>) {
                self.apply(index, data, effects);
            }

            fn applied(&self) -> LogIndex {
                self.applied()
            }

            fn now(&self) -> Timestamp {
                self.now()
            }

            fn next_deadline(&self) -> Option<Timestamp> {
                self.next_deadline()
            }

            fn stream_applied(&self, stream: StreamId) -> StreamSeq {
                self.stream_applied(stream)
            }

            fn stream_replies(
                &self,
                stream: StreamId,
                after: StreamSeq,
            ) -> impl Iterator<Item = (StreamSeq, &Reply)> {
                self.stream_replies(stream, after)
            }

            fn outbox(&self, to: GroupId, from: StreamSeq) -> impl Iterator<Item = (StreamSeq, OutboxItem)> {
                self.outbox(to, from)
            }

            fn outbox_destinations(&self) -> impl Iterator<Item = GroupId> {
                self.outbox_destinations()
            }

            fn changes(&mut self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
                self.changes()
            }

            fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
                self.records()
            }

            fn hash(&self) -> u64 {
                self.hash()
            }

            fn live(&self, index: LogIndex) -> bool {
                self.live(index)
            }
        }
    };
}

machine!(Partition);
machine!(Control);
