//! Ordered streams of commands: what was applied of each, and the replies their sources have not seen.
//!
//! Owns: the last applied position per stream, the dead incarnations of nodes, kept replies.
//! Does not: apply commands. Shared by partition and control.
//! Invariants: a position is applied once; nothing of a dead or replaced incarnation is applied; a gap is never
//! skipped, so that a source can always go back to the position after the applied one.
//! Limits: replies are kept until confirmed; the source's own bound on unconfirmed commands bounds them.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use crate::effect::Reply;
use crate::ids::{GroupId, Incarnation, NodeId, StreamId, StreamSeq};
use crate::wire::{DecodeError, Reader, put_count};

/// What to do with a command at a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Take {
    /// It is the next one.
    Apply,
    /// It was applied before.
    Duplicate,
    /// An earlier one is missing.
    Gap,
}

/// All streams into a group.
#[derive(Clone, Default, Debug)]
pub(crate) struct Streams {
    nodes: BTreeMap<NodeId, NodeStream>,
    groups: BTreeMap<GroupId, Stream>,
}

#[derive(Clone, Default, Debug)]
struct NodeStream {
    incarnation: Incarnation,
    /// This incarnation and all before it are dead.
    dead: Option<Incarnation>,
    stream: Stream,
}

#[derive(Clone, Default, Debug)]
struct Stream {
    applied: StreamSeq,
    confirmed: StreamSeq,
    replies: BTreeMap<StreamSeq, Reply>,
    /// Differs from the checkpoint.
    dirty: bool,
}

impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        (self.applied, self.confirmed, &self.replies) == (other.applied, other.confirmed, &other.replies)
    }
}

impl NodeStream {
    /// As [`Stream::unstored`].
    fn unstored() -> Self {
        Self { stream: Stream::unstored(), ..Self::default() }
    }
}

impl Stream {
    /// A stream that the checkpoint does not have.
    fn unstored() -> Self {
        Self { dirty: true, ..Self::default() }
    }

    fn confirm(&mut self, confirmed: StreamSeq) {
        // A source cannot have seen what was never applied.
        let confirmed = confirmed.min(self.applied);
        if confirmed > self.confirmed {
            self.confirmed = confirmed;
            self.dirty = true;
            while self.replies.first_key_value().is_some_and(|(seq, _)| *seq <= confirmed) {
                self.replies.pop_first();
            }
        }
    }
}

impl Streams {
    /// Begins a segment; false when nothing of it may be applied.
    pub(crate) fn open(&mut self, stream: StreamId, confirmed: StreamSeq) -> bool {
        if let StreamId::Node(node, incarnation) = stream {
            let known = self.nodes.entry(node).or_insert_with(NodeStream::unstored);
            if incarnation < known.incarnation || known.dead.is_some_and(|dead| incarnation <= dead) {
                return false;
            }
            if incarnation > known.incarnation {
                known.incarnation = incarnation;
                known.stream = Stream::unstored();
            }
        }
        if let Some(stream) = self.stream_mut(stream) {
            stream.confirm(confirmed);
        }
        true
    }

    /// Decides on the command at `seq`; when it is to be applied, it counts as applied from now on.
    pub(crate) fn take(&mut self, stream: StreamId, seq: StreamSeq) -> Take {
        let Some(stream) = self.stream_mut(stream) else { return Take::Gap };
        if seq <= stream.applied {
            return Take::Duplicate;
        }
        if seq.0 != stream.applied.0 + 1 {
            return Take::Gap;
        }
        stream.applied = seq;
        stream.dirty = true;
        Take::Apply
    }

    /// Keeps a reply until the source confirms that it has seen it.
    pub(crate) fn keep(&mut self, stream: StreamId, seq: StreamSeq, reply: Reply) {
        if let Some(stream) = self.stream_mut(stream) {
            stream.replies.insert(seq, reply);
        }
    }

    /// Last applied position, 0 when nothing was.
    pub(crate) fn applied(&self, stream: StreamId) -> StreamSeq {
        self.stream(stream).map_or(StreamSeq(0), |stream| stream.applied)
    }

    /// Kept replies after a position.
    pub(crate) fn replies(
        &self,
        stream: StreamId,
        after: StreamSeq,
    ) -> impl Iterator<Item = (StreamSeq, &Reply)> {
        let later = StreamSeq(after.0.saturating_add(1));
        let replies = self.stream(stream).map(|stream| stream.replies.range(later..));
        replies.into_iter().flatten().map(|(seq, reply)| (*seq, reply))
    }

    /// The incarnation, and every one before it, is dead: its stream ends. False when that was known.
    pub(crate) fn down(&mut self, node: NodeId, incarnation: Incarnation) -> bool {
        let known = self.nodes.entry(node).or_insert_with(NodeStream::unstored);
        if known.dead.is_some_and(|dead| incarnation <= dead) {
            return false;
        }
        known.dead = Some(incarnation);
        known.stream.dirty = true;
        if known.incarnation <= incarnation {
            known.stream = Stream::unstored();
        }
        true
    }

    /// The highest incarnation of any node that is known here, alive or dead.
    pub(crate) fn incarnation_max(&self) -> Option<Incarnation> {
        self.nodes.values().map(|known| known.dead.unwrap_or_default().max(known.incarnation)).max()
    }

    fn stream(&self, stream: StreamId) -> Option<&Stream> {
        match stream {
            StreamId::Node(node, incarnation) => self
                .nodes
                .get(&node)
                .filter(|known| {
                    known.incarnation == incarnation && known.dead.is_none_or(|dead| dead < incarnation)
                })
                .map(|known| &known.stream),
            StreamId::Group(group) => self.groups.get(&group),
        }
    }

    fn stream_mut(&mut self, stream: StreamId) -> Option<&mut Stream> {
        match stream {
            StreamId::Node(node, incarnation) => self
                .nodes
                .get_mut(&node)
                .filter(|known| {
                    known.incarnation == incarnation && known.dead.is_none_or(|dead| dead < incarnation)
                })
                .map(|known| &mut known.stream),
            StreamId::Group(group) => Some(self.groups.entry(group).or_insert_with(Stream::unstored)),
        }
    }

    /// Records of the node streams: node and content. `all`, or only what differs from the checkpoint.
    pub(crate) fn node_records(&self, all: bool) -> impl Iterator<Item = (NodeId, Vec<u8>)> {
        let wanted = self.nodes.iter().filter(move |(_, known)| all || known.stream.dirty);
        wanted.map(|(node, known)| {
            let mut out = BytesMut::new();
            out.put_u64_le(known.incarnation.0);
            out.put_u8(u8::from(known.dead.is_some()));
            out.put_u64_le(known.dead.map_or(0, |dead| dead.0));
            known.stream.encode(&mut out);
            (*node, out.into())
        })
    }

    /// Records of the group streams, as [`Self::node_records`].
    pub(crate) fn group_records(&self, all: bool) -> impl Iterator<Item = (GroupId, Vec<u8>)> {
        let wanted = self.groups.iter().filter(move |(_, stream)| all || stream.dirty);
        wanted.map(|(group, stream)| {
            let mut out = BytesMut::new();
            stream.encode(&mut out);
            (*group, out.into())
        })
    }

    /// The checkpoint has everything.
    pub(crate) fn stored(&mut self) {
        self.nodes.values_mut().for_each(|known| known.stream.dirty = false);
        self.groups.values_mut().for_each(|stream| stream.dirty = false);
    }

    pub(crate) fn restore_node(&mut self, node: NodeId, content: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(content);
        let incarnation = Incarnation(reader.u64()?);
        let is_dead = reader.flag()?;
        let dead = Incarnation(reader.u64()?);
        let stream = Stream::decode(&mut reader)?;
        self.nodes.insert(node, NodeStream { incarnation, dead: is_dead.then_some(dead), stream });
        reader.done()
    }

    pub(crate) fn restore_group(&mut self, group: GroupId, content: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(content);
        self.groups.insert(group, Stream::decode(&mut reader)?);
        reader.done()
    }
}

impl Stream {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.applied.0);
        out.put_u64_le(self.confirmed.0);
        put_count(out, self.replies.len());
        for (seq, reply) in &self.replies {
            out.put_u64_le(seq.0);
            reply.encode(out);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let applied = StreamSeq(reader.u64()?);
        let confirmed = StreamSeq(reader.u64()?);
        let mut replies = BTreeMap::new();
        for _ in 0..reader.length()? {
            let seq = StreamSeq(reader.u64()?);
            replies.insert(seq, Reply::read(reader)?);
        }
        Ok(Self { applied, confirmed, replies, dirty: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    fn stream(incarnation: u64) -> StreamId {
        StreamId::Node(NODE, Incarnation(incarnation))
    }

    #[test]
    fn take_of_a_repeated_and_of_a_later_command_does_not_apply() {
        let mut streams = Streams::default();
        assert!(streams.open(stream(1), StreamSeq(0)));
        assert_eq!(streams.take(stream(1), StreamSeq(2)), Take::Gap);
        assert_eq!(streams.take(stream(1), StreamSeq(1)), Take::Apply);
        assert_eq!(streams.take(stream(1), StreamSeq(1)), Take::Duplicate);
        assert_eq!(streams.take(stream(1), StreamSeq(3)), Take::Gap);
        assert_eq!(streams.take(stream(1), StreamSeq(2)), Take::Apply);
        assert_eq!(streams.applied(stream(1)), StreamSeq(2));
    }

    #[test]
    fn open_with_a_higher_incarnation_starts_again_and_ends_the_lower() {
        let mut streams = Streams::default();
        assert!(streams.open(stream(1), StreamSeq(0)));
        streams.take(stream(1), StreamSeq(1));
        streams.keep(stream(1), StreamSeq(1), Reply::Fenced);
        assert!(streams.open(stream(2), StreamSeq(0)));
        assert_eq!(streams.applied(stream(2)), StreamSeq(0));
        assert_eq!(streams.applied(stream(1)), StreamSeq(0));
        assert_eq!(streams.replies(stream(2), StreamSeq(0)).count(), 0);
        assert!(!streams.open(stream(1), StreamSeq(0)));
        assert_eq!(streams.take(stream(1), StreamSeq(2)), Take::Gap);
    }

    #[test]
    fn down_ends_the_incarnation_and_all_before_it() {
        let mut streams = Streams::default();
        assert!(streams.open(stream(4), StreamSeq(0)));
        streams.take(stream(4), StreamSeq(1));
        assert!(streams.down(NODE, Incarnation(4)));
        assert!(!streams.down(NODE, Incarnation(3)));
        assert!(!streams.open(stream(4), StreamSeq(0)));
        assert!(!streams.open(stream(3), StreamSeq(0)));
        assert_eq!(streams.take(stream(4), StreamSeq(2)), Take::Gap);
        assert_eq!(streams.applied(stream(4)), StreamSeq(0));
        assert!(streams.open(stream(5), StreamSeq(0)));
        assert_eq!(streams.take(stream(5), StreamSeq(1)), Take::Apply);
        assert!(!streams.down(NODE, Incarnation(4)), "known");
        assert_eq!(streams.applied(stream(5)), StreamSeq(1));
    }

    #[test]
    fn replies_are_kept_until_confirmed() {
        let mut streams = Streams::default();
        let source = StreamId::Group(GroupId(2));
        assert!(streams.open(source, StreamSeq(0)));
        for seq in 1..=4 {
            assert_eq!(streams.take(source, StreamSeq(seq)), Take::Apply);
            streams.keep(source, StreamSeq(seq), Reply::Unsubscribed(vec![true]));
        }
        assert_eq!(streams.replies(source, StreamSeq(1)).count(), 3);
        assert!(streams.open(source, StreamSeq(3)));
        let left: Vec<StreamSeq> = streams.replies(source, StreamSeq(0)).map(|(seq, _)| seq).collect();
        assert_eq!(left, [StreamSeq(4)]);
        assert!(streams.open(source, StreamSeq(u64::MAX)), "more than was applied counts as all");
        assert_eq!(streams.take(source, StreamSeq(5)), Take::Apply);
    }
}
