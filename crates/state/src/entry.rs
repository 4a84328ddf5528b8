//! The data of a log entry: a batch.
//!
//! Owns: how the commands of several streams are framed, the version byte, the builder that a leader uses.
//! Does not: know what a command does; the builder takes commands as the origin node encoded them.
//! Invariants: items are applied in the order in which they are in the data; every command has its length before
//! it, so that one that cannot be read does not hide the next.
//! See: docs/formats/entry.md.

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{Batch, Command, LeaderCommand, Segment};
use crate::ids::{GroupId, Incarnation, NodeId, StreamId, StreamSeq, Timestamp};
use crate::wire::{DecodeError, Reader, put_count};

/// Version of the format that this program writes.
pub const ENTRY_VERSION: u8 = 1;

const ITEM_SEGMENT: u8 = 1;
const ITEM_LEADER: u8 = 2;

const STREAM_NODE: u8 = 0;
const STREAM_GROUP: u8 = 1;

impl Batch {
    /// The batch as entry data: the segments, then the leader's commands.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut builder = BatchBuilder::new(self.stamp);
        for segment in &self.segments {
            let commands = segment.commands.iter().map(|command| {
                let mut out = BytesMut::with_capacity(command.encoded_len());
                command.encode(&mut out);
                out.freeze()
            });
            let commands: Vec<Bytes> = commands.collect();
            builder.segment(segment.stream, segment.first, segment.confirmed, commands.len(), &commands);
        }
        for command in &self.leader {
            builder.leader(command.clone());
        }
        builder.finish()
    }

    /// Reads entry data whole. Payloads share the storage of `data`.
    ///
    /// # Errors
    /// When any part of the data is not valid.
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let view = BatchView::new(data)?;
        let mut batch = Self { stamp: view.stamp(), segments: Vec::new(), leader: Vec::new() };
        for item in view.items() {
            match item? {
                Item::Leader(command) => batch.leader.push(command),
                Item::Segment(view) => {
                    let (stream, first, confirmed) = (view.stream, view.first, view.confirmed);
                    let commands = view.commands().map(|command| Command::read(command?.1));
                    let commands = commands.collect::<Result<_, _>>()?;
                    batch.segments.push(Segment { stream, first, confirmed, commands });
                }
            }
        }
        Ok(batch)
    }
}

/// Puts an entry together from commands that are encoded already.
#[derive(Debug)]
pub struct BatchBuilder {
    out: BytesMut,
}

impl BatchBuilder {
    /// An entry at this replicated time.
    #[must_use]
    pub fn new(stamp: Timestamp) -> Self {
        let mut out = BytesMut::new();
        out.put_u8(ENTRY_VERSION);
        out.put_u64_le(stamp.0);
        Self { out }
    }

    /// Adds a piece of a stream: `count` commands from position `first` on, one element of `encoded_commands` each.
    /// The source has seen all replies up to `confirmed`.
    ///
    /// # Panics
    /// When `count` is not the number of `encoded_commands`.
    pub fn segment(
        &mut self,
        stream: StreamId,
        first: StreamSeq,
        confirmed: StreamSeq,
        count: usize,
        encoded_commands: &[Bytes],
    ) -> &mut Self {
        assert_eq!(count, encoded_commands.len(), "a segment has one element per command");
        let bytes: usize = encoded_commands.iter().map(|command| 4 + command.len()).sum();
        self.out.reserve(SEGMENT_HEADER_BYTES_MAX + bytes);
        self.out.put_u8(ITEM_SEGMENT);
        put_stream(&mut self.out, stream);
        self.out.put_u64_le(first.0);
        self.out.put_u64_le(confirmed.0);
        put_count(&mut self.out, count);
        put_count(&mut self.out, bytes);
        for command in encoded_commands {
            put_count(&mut self.out, command.len());
            self.out.put_slice(command);
        }
        self
    }

    /// Adds a command of the leader itself.
    pub fn leader(&mut self, command: LeaderCommand) -> &mut Self {
        self.out.put_u8(ITEM_LEADER);
        command.encode(&mut self.out);
        self
    }

    /// Bytes so far.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.out.len()
    }

    /// The entry data.
    #[must_use]
    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

const SEGMENT_HEADER_BYTES_MAX: usize = 1 + 17 + 8 + 8 + 4 + 4;

/// Entry data, read as far as one looks.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    stamp: Timestamp,
    items: Reader<'a>,
}

impl<'a> BatchView<'a> {
    /// Reads the head.
    ///
    /// # Errors
    /// When the version is unknown or the head is cut off.
    pub fn new(data: &'a Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(data);
        let version = reader.u8()?;
        if version != ENTRY_VERSION {
            return Err(DecodeError::Version(version));
        }
        Ok(Self { stamp: Timestamp(reader.u64()?), items: reader })
    }

    /// Replicated time of the entry.
    #[must_use]
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// Items in order; after an error there are no more.
    pub(crate) fn items(self) -> impl Iterator<Item = Result<Item<'a>, DecodeError>> {
        let mut reader = Some(self.items);
        std::iter::from_fn(move || {
            let mut rest = reader.take().filter(|rest| !rest.is_empty())?;
            let item = Item::read(&mut rest);
            reader = item.is_ok().then_some(rest);
            Some(item)
        })
    }
}

/// A part of a batch.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    Segment(SegmentView<'a>),
    Leader(LeaderCommand),
}

impl<'a> Item<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let at = reader.at();
        match reader.u8()? {
            ITEM_SEGMENT => {
                let stream = stream(reader)?;
                let first = StreamSeq(reader.u64()?);
                let confirmed = StreamSeq(reader.u64()?);
                let count = reader.u32()?;
                let bytes = reader.length()?;
                Ok(Self::Segment(SegmentView {
                    stream,
                    first,
                    confirmed,
                    count,
                    commands: reader.window(bytes)?,
                }))
            }
            ITEM_LEADER => LeaderCommand::read(reader).map(Self::Leader),
            tag => Err(DecodeError::Tag { tag, at }),
        }
    }
}

/// A piece of a stream whose commands are not decoded.
#[derive(Debug)]
pub(crate) struct SegmentView<'a> {
    pub(crate) stream: StreamId,
    pub(crate) first: StreamSeq,
    pub(crate) confirmed: StreamSeq,
    count: u32,
    commands: Reader<'a>,
}

impl<'a> SegmentView<'a> {
    /// Commands with their positions; after an error there are no more.
    pub(crate) fn commands(self) -> impl Iterator<Item = Result<(StreamSeq, Reader<'a>), DecodeError>> {
        let mut reader = self.commands;
        let mut broken = false;
        (0..u64::from(self.count)).map_while(move |number| {
            if broken {
                return None;
            }
            let command = reader.length().and_then(|length| reader.window(length));
            broken = command.is_err();
            Some(command.map(|command| (StreamSeq(self.first.0.saturating_add(number)), command)))
        })
    }
}

fn put_stream(out: &mut BytesMut, stream: StreamId) {
    match stream {
        StreamId::Node(node, incarnation) => {
            out.put_u8(STREAM_NODE);
            out.put_u64_le(node.0);
            out.put_u64_le(incarnation.0);
        }
        StreamId::Group(group) => {
            out.put_u8(STREAM_GROUP);
            out.put_u32_le(group.0);
        }
    }
}

fn stream(reader: &mut Reader<'_>) -> Result<StreamId, DecodeError> {
    let at = reader.at();
    match reader.u8()? {
        STREAM_NODE => Ok(StreamId::Node(NodeId(reader.u64()?), Incarnation(reader.u64()?))),
        STREAM_GROUP => Ok(StreamId::Group(GroupId(reader.u32()?))),
        tag => Err(DecodeError::Tag { tag, at }),
    }
}
