//! Messages between nodes, and their frames.
//!
//! Owns: [`PeerMessage`], its encoding with a version byte. Does not: read or write sockets.
//! See: docs/formats/peer-frame.md.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{PacketId, QoS, Text, TopicFilter, TopicName};
use quorate_state::{
    ConnId, DeliverySeq, GroupId, Incarnation, LogIndex, Message, NodeId, Reply, SessionId, StreamId,
    StreamSeq,
};

use crate::action::PeerAddress;
use crate::bytes_io::{Malformed, Reader, put_bytes, put_count};
use crate::consensus::wire;
use crate::edge::{DirectMessage, SessionDelivery};
use crate::limits::{COUNTERS_MAX, TOLD_NODES_MAX};
use crate::routing::Draw;

/// Version of the frame format; the first byte of every frame.
pub const FRAME_VERSION: u8 = 1;

/// A message between two nodes.
#[derive(Debug)]
pub enum PeerMessage {
    /// Raft, for one group.
    Raft(GroupId, Box<raft::eraftpb::Message>),
    /// A piece of a stream, to the group's leader.
    StreamAppend {
        /// Destination group.
        group: GroupId,
        /// Stream.
        stream: StreamId,
        /// Sequence of the first command.
        first: StreamSeq,
        /// All replies up to here have been seen.
        confirmed: StreamSeq,
        /// Encoded commands.
        commands: Vec<Bytes>,
    },
    /// From the leader: the stream is applied up to here, with the replies that are not plain success.
    StreamApplied {
        /// Group.
        group: GroupId,
        /// Stream.
        stream: StreamId,
        /// The replies are those after this command: one that knows less of the stream must not take the others for success.
        /// `None` before level 2.
        after: Option<StreamSeq>,
        /// Last applied.
        applied: StreamSeq,
        /// Replies in order.
        replies: Vec<(StreamSeq, Reply)>,
    },
    /// From the leader, or from a node that is none: go back to `expected`; sent to a wrong or new leader.
    StreamReject {
        /// Group.
        group: GroupId,
        /// Stream.
        stream: StreamId,
        /// The next sequence it would take; 0 when this node does not lead the group.
        expected: StreamSeq,
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Messages of durable sessions for connections of the receiving node.
    Deliver {
        /// Partition.
        group: GroupId,
        /// Incarnation of the receiving node that the connections are of.
        incarnation: Incarnation,
        /// Connection, session, delivery.
        items: Vec<(ConnId, SessionId, SessionDelivery)>,
    },
    /// A gap was seen: send all that is in flight for the session from here on.
    Resync {
        /// Partition.
        group: GroupId,
        /// Session.
        session: SessionId,
        /// First missing.
        from: DeliverySeq,
    },
    /// Close the connection, of that incarnation, and confirm.
    CloseConn {
        /// Incarnation.
        incarnation: Incarnation,
        /// Connection.
        conn: ConnId,
        /// Reason for DISCONNECT.
        reason: u8,
    },
    /// The connection is closed, or was never there: nothing will be acknowledged on it.
    ConnClosed {
        /// Incarnation.
        incarnation: Incarnation,
        /// Connection.
        conn: ConnId,
    },
    /// To the control leader: renew my lease.
    LeaseRequest {
        /// Incarnation.
        incarnation: Incarnation,
        /// Sender's time in milliseconds, echoed.
        sent_ms: u64,
        /// Control log applied up to here.
        applied: LogIndex,
    },
    /// From the control leader: granted.
    LeaseGrant {
        /// Incarnation.
        incarnation: Incarnation,
        /// Echo.
        sent_ms: u64,
    },
    /// To the control leader: routes applied up to here.
    ControlApplied(LogIndex),
    /// From the control leader: every live node has applied control up to here.
    Barrier(LogIndex),
    /// Ask for the position up to which a partition's retained messages count for a new subscription.
    RetainedBoundQuery {
        /// Partition.
        group: GroupId,
        /// Echoed.
        query: u64,
    },
    /// Everything acknowledged before the question is at or before this position.
    RetainedBound {
        /// Echo.
        query: u64,
        /// Position in the partition's log.
        index: LogIndex,
    },
    /// Ask for retained messages of a partition.
    RetainedQuery {
        /// Partition.
        group: GroupId,
        /// Echoed.
        query: u64,
        /// Filter.
        filter: TopicFilter,
        /// Continue after this topic.
        after: Option<TopicName>,
        /// Leave out what came after this position.
        until: LogIndex,
    },
    /// One page of retained messages.
    RetainedPage {
        /// Echo.
        query: u64,
        /// Encoded messages with their remaining lifetime in seconds.
        messages: Vec<(Bytes, Option<u32>)>,
        /// Ask again after this topic; `None` when done.
        next: Option<TopicName>,
    },
    /// A message for the direct subscriptions of the receiving node. Travels on the routing link.
    Forward(Arc<DirectMessage>),
    /// A message for one member, at the receiving node, of each of these share groups. Travels on the routing link.
    ForwardShared {
        /// Decides which member.
        draw: Draw,
        /// Whole texts of the groups; at most `SHARES_PER_FORWARD_MAX`.
        shares: Vec<TopicFilter>,
        /// The message.
        message: Arc<DirectMessage>,
    },
    /// Counters of the sender, for the topics below `$SYS`. Travels on the routing link. At most COUNTERS_MAX.
    Counters {
        /// Name and value; names that the receiver does not know are ignored.
        values: Vec<(String, u64)>,
    },
    /// The answer tells that everything has come that was forwarded before it. Travels on the routing link, not before level 2.
    Mark {
        /// Echoed: the connection that waits.
        conn: ConnId,
        /// Echoed: which of its marks this is.
        number: u64,
    },
    /// The answer to a mark. Travels on the routing link.
    MarkAnswer {
        /// Echo.
        conn: ConnId,
        /// Echo.
        number: u64,
    },
    /// The sender's disk has little room, or hung lately: it is not to lead. Said again and again while it is so; not before level 2.
    DiskUnfit,
    /// To a node that looks for a leader of control although there is one: it may not know that one yet, and so have no link to it. Not
    /// before level 2.
    Nodes {
        /// Position in the log of control.
        index: LogIndex,
        /// Who the nodes of the cluster are there; at most `TOLD_NODES_MAX`.
        nodes: Vec<PeerAddress>,
    },
    /// A question of the admin API that the receiving node is to answer. Travels on the routing link.
    Inquiry {
        /// Echoed.
        number: u64,
        /// What is asked: for the shells of both nodes.
        body: Bytes,
    },
    /// The answer. Travels on the routing link.
    InquiryAnswer {
        /// Echo.
        number: u64,
        /// What is answered: for the shells of both nodes.
        body: Bytes,
    },
}

impl PeerMessage {
    /// Appends version, kind and fields; the shell puts the length before it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FRAME_VERSION);
        match self {
            PeerMessage::Raft(group, message) => {
                out.put_u8(1);
                out.put_u32_le(group.0);
                wire::encode(message, out);
            }
            PeerMessage::StreamAppend { group, stream, first, confirmed, commands } => {
                out.put_u8(2);
                put_stream(out, *group, *stream);
                out.put_u64_le(first.0);
                out.put_u64_le(confirmed.0);
                put_count(out, commands.len());
                for command in commands {
                    put_bytes(out, command);
                }
            }
            PeerMessage::StreamApplied { group, stream, after, applied, replies } => {
                out.put_u8(if after.is_some() { 23 } else { 3 });
                put_stream(out, *group, *stream);
                if let Some(after) = after {
                    out.put_u64_le(after.0);
                }
                out.put_u64_le(applied.0);
                put_count(out, replies.len());
                for (seq, reply) in replies {
                    out.put_u64_le(seq.0);
                    let mut encoded = BytesMut::new();
                    reply.encode(&mut encoded);
                    put_bytes(out, &encoded);
                }
            }
            PeerMessage::StreamReject { group, stream, expected, leader } => {
                out.put_u8(4);
                put_stream(out, *group, *stream);
                out.put_u64_le(expected.0);
                out.put_u64_le(leader.map_or(0, |leader| leader.0));
            }
            PeerMessage::Deliver { group, incarnation, items } => {
                out.put_u8(5);
                out.put_u32_le(group.0);
                out.put_u64_le(incarnation.0);
                put_count(out, items.len());
                for (conn, session, delivery) in items {
                    out.put_u64_le(conn.0);
                    out.put_u64_le(session.0);
                    put_delivery(out, delivery);
                }
            }
            PeerMessage::Resync { group, session, from } => {
                out.put_u8(6);
                out.put_u32_le(group.0);
                out.put_u64_le(session.0);
                out.put_u64_le(from.0);
            }
            PeerMessage::CloseConn { incarnation, conn, reason } => {
                out.put_u8(7);
                out.put_u64_le(incarnation.0);
                out.put_u64_le(conn.0);
                out.put_u8(*reason);
            }
            PeerMessage::ConnClosed { incarnation, conn } => {
                out.put_u8(8);
                out.put_u64_le(incarnation.0);
                out.put_u64_le(conn.0);
            }
            PeerMessage::LeaseRequest { incarnation, sent_ms, applied } => {
                out.put_u8(9);
                out.put_u64_le(incarnation.0);
                out.put_u64_le(*sent_ms);
                out.put_u64_le(applied.0);
            }
            PeerMessage::LeaseGrant { incarnation, sent_ms } => {
                out.put_u8(10);
                out.put_u64_le(incarnation.0);
                out.put_u64_le(*sent_ms);
            }
            PeerMessage::ControlApplied(index) => {
                out.put_u8(11);
                out.put_u64_le(index.0);
            }
            PeerMessage::Barrier(index) => {
                out.put_u8(12);
                out.put_u64_le(index.0);
            }
            PeerMessage::RetainedBoundQuery { group, query } => {
                out.put_u8(18);
                out.put_u32_le(group.0);
                out.put_u64_le(*query);
            }
            PeerMessage::RetainedBound { query, index } => {
                out.put_u8(19);
                out.put_u64_le(*query);
                out.put_u64_le(index.0);
            }
            PeerMessage::RetainedQuery { group, query, filter, after, until } => {
                out.put_u8(13);
                out.put_u32_le(group.0);
                out.put_u64_le(*query);
                out.put_u64_le(until.0);
                put_bytes(out, filter.as_str().as_bytes());
                put_topic(out, after.as_ref());
            }
            PeerMessage::RetainedPage { query, messages, next } => {
                out.put_u8(14);
                out.put_u64_le(*query);
                put_count(out, messages.len());
                for (message, expiry_s) in messages {
                    put_bytes(out, message);
                    put_expiry(out, *expiry_s);
                }
                put_topic(out, next.as_ref());
            }
            PeerMessage::Forward(direct) => {
                out.put_u8(15);
                direct.message.encode(out);
            }
            PeerMessage::ForwardShared { draw, shares, message } => {
                out.put_u8(16);
                out.put_u64_le(draw.0);
                put_count(out, shares.len());
                for share in shares {
                    put_bytes(out, share.as_str().as_bytes());
                }
                message.message.encode(out);
            }
            PeerMessage::Counters { values } => {
                out.put_u8(17);
                put_count(out, values.len());
                for (name, value) in values {
                    put_bytes(out, name.as_bytes());
                    out.put_u64_le(*value);
                }
            }
            PeerMessage::Mark { conn, number } => {
                out.put_u8(20);
                out.put_u64_le(conn.0);
                out.put_u64_le(*number);
            }
            PeerMessage::MarkAnswer { conn, number } => {
                out.put_u8(21);
                out.put_u64_le(conn.0);
                out.put_u64_le(*number);
            }
            PeerMessage::DiskUnfit => out.put_u8(22),
            PeerMessage::Nodes { index, nodes } => {
                out.put_u8(24);
                out.put_u64_le(index.0);
                put_count(out, nodes.len());
                for PeerAddress { node, name, address } in nodes {
                    out.put_u64_le(node.0);
                    put_bytes(out, name.as_bytes());
                    put_bytes(out, address.as_bytes());
                }
            }
            PeerMessage::Inquiry { number, body } => {
                out.put_u8(32);
                out.put_u64_le(*number);
                put_bytes(out, body);
            }
            PeerMessage::InquiryAnswer { number, body } => {
                out.put_u8(33);
                out.put_u64_le(*number);
                put_bytes(out, body);
            }
        }
    }

    /// Decodes what `encode` wrote. Byte strings share the input.
    ///
    /// # Errors
    /// [`Malformed`] for anything else: the link is then closed.
    pub fn decode(frame: Bytes) -> Result<PeerMessage, Malformed> {
        let mut reader = Reader(frame);
        if reader.u8("frame version")? != FRAME_VERSION {
            return Err(Malformed("frame version"));
        }
        let kind = reader.u8("frame kind")?;
        let message = match kind {
            1 => {
                let group = GroupId(reader.u32("group")?);
                return Ok(PeerMessage::Raft(group, Box::new(wire::decode(reader.0)?)));
            }
            2 => read_append(&mut reader)?,
            3 => read_applied(&mut reader, false)?,
            23 => read_applied(&mut reader, true)?,
            4 => {
                let (group, stream) = read_stream(&mut reader)?;
                let expected = StreamSeq(reader.u64("expected")?);
                let leader = Some(NodeId(reader.u64("leader")?)).filter(|leader| leader.0 != 0);
                PeerMessage::StreamReject { group, stream, expected, leader }
            }
            5 => {
                let group = GroupId(reader.u32("group")?);
                let incarnation = Incarnation(reader.u64("incarnation")?);
                let mut items = Vec::new();
                for _ in 0..reader.count(32, "delivery count")? {
                    let conn = ConnId(reader.u64("connection")?);
                    let session = SessionId(reader.u64("session")?);
                    items.push((conn, session, read_delivery(&mut reader)?));
                }
                PeerMessage::Deliver { group, incarnation, items }
            }
            6 => PeerMessage::Resync {
                group: GroupId(reader.u32("group")?),
                session: SessionId(reader.u64("session")?),
                from: DeliverySeq(reader.u64("delivery")?),
            },
            7 => PeerMessage::CloseConn {
                incarnation: Incarnation(reader.u64("incarnation")?),
                conn: ConnId(reader.u64("connection")?),
                reason: reader.u8("reason")?,
            },
            8 => PeerMessage::ConnClosed {
                incarnation: Incarnation(reader.u64("incarnation")?),
                conn: ConnId(reader.u64("connection")?),
            },
            9 => PeerMessage::LeaseRequest {
                incarnation: Incarnation(reader.u64("incarnation")?),
                sent_ms: reader.u64("time")?,
                applied: LogIndex(reader.u64("applied")?),
            },
            10 => PeerMessage::LeaseGrant {
                incarnation: Incarnation(reader.u64("incarnation")?),
                sent_ms: reader.u64("time")?,
            },
            11 => PeerMessage::ControlApplied(LogIndex(reader.u64("applied")?)),
            12 => PeerMessage::Barrier(LogIndex(reader.u64("applied")?)),
            18 => PeerMessage::RetainedBoundQuery {
                group: GroupId(reader.u32("group")?),
                query: reader.u64("query")?,
            },
            19 => PeerMessage::RetainedBound {
                query: reader.u64("query")?,
                index: LogIndex(reader.u64("index")?),
            },
            13 => PeerMessage::RetainedQuery {
                group: GroupId(reader.u32("group")?),
                query: reader.u64("query")?,
                until: LogIndex(reader.u64("until")?),
                filter: read_filter(&mut reader)?,
                after: read_topic(&mut reader)?,
            },
            14 => {
                let query = reader.u64("query")?;
                let mut messages = Vec::new();
                for _ in 0..reader.count(5, "message count")? {
                    messages.push((reader.bytes("message")?, read_expiry(&mut reader)?));
                }
                PeerMessage::RetainedPage { query, messages, next: read_topic(&mut reader)? }
            }
            15 => {
                let message = Message::decode(&reader.0).map_err(|_| Malformed("message"))?;
                return Ok(PeerMessage::Forward(Arc::new(DirectMessage { message })));
            }
            16 => {
                let draw = Draw(reader.u64("draw")?);
                let mut shares = Vec::new();
                for _ in 0..reader.count(4, "share count")? {
                    shares.push(read_filter(&mut reader)?);
                }
                let message = Message::decode(&reader.0).map_err(|_| Malformed("message"))?;
                let message = Arc::new(DirectMessage { message });
                return Ok(PeerMessage::ForwardShared { draw, shares, message });
            }
            17 => read_counters(&mut reader)?,
            20 => {
                let conn = ConnId(reader.u64("connection")?);
                PeerMessage::Mark { conn, number: reader.u64("number")? }
            }
            21 => {
                let conn = ConnId(reader.u64("connection")?);
                PeerMessage::MarkAnswer { conn, number: reader.u64("number")? }
            }
            22 => PeerMessage::DiskUnfit,
            24 => read_nodes(&mut reader)?,
            32 => {
                let number = reader.u64("inquiry")?;
                PeerMessage::Inquiry { number, body: reader.bytes("inquiry")? }
            }
            33 => {
                let number = reader.u64("inquiry answer")?;
                PeerMessage::InquiryAnswer { number, body: reader.bytes("inquiry answer")? }
            }
            _ => return Err(Malformed("frame kind")),
        };
        reader.finish("trailing bytes in a frame")?;
        Ok(message)
    }
}

fn read_counters(reader: &mut Reader) -> Result<PeerMessage, Malformed> {
    let count = reader.count(12, "counter count")?;
    if count > COUNTERS_MAX {
        return Err(Malformed("counter count"));
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let name = read_text(reader, "counter name")?;
        values.push((name.as_str().to_owned(), reader.u64("counter")?));
    }
    Ok(PeerMessage::Counters { values })
}

fn read_nodes(reader: &mut Reader) -> Result<PeerMessage, Malformed> {
    let index = LogIndex(reader.u64("position")?);
    let count = reader.count(16, "node count")?;
    if count > TOLD_NODES_MAX {
        return Err(Malformed("node count"));
    }
    let mut nodes = Vec::with_capacity(count);
    for _ in 0..count {
        let node = NodeId(reader.u64("node")?);
        let [name, address] = [read_text(reader, "node name")?, read_text(reader, "node address")?]
            .map(|text| text.as_str().to_owned());
        nodes.push(PeerAddress { node, name, address });
    }
    Ok(PeerMessage::Nodes { index, nodes })
}

fn put_stream(out: &mut BytesMut, group: GroupId, stream: StreamId) {
    out.put_u32_le(group.0);
    match stream {
        StreamId::Node(node, incarnation) => {
            out.put_u8(0);
            out.put_u64_le(node.0);
            out.put_u64_le(incarnation.0);
        }
        StreamId::Group(group) => {
            out.put_u8(1);
            out.put_u32_le(group.0);
        }
    }
}

fn read_stream(reader: &mut Reader) -> Result<(GroupId, StreamId), Malformed> {
    let group = GroupId(reader.u32("group")?);
    let stream = match reader.u8("stream kind")? {
        0 => StreamId::Node(NodeId(reader.u64("node")?), Incarnation(reader.u64("incarnation")?)),
        1 => StreamId::Group(GroupId(reader.u32("source group")?)),
        _ => return Err(Malformed("stream kind")),
    };
    Ok((group, stream))
}

fn read_append(reader: &mut Reader) -> Result<PeerMessage, Malformed> {
    let (group, stream) = read_stream(reader)?;
    let first = StreamSeq(reader.u64("first")?);
    let confirmed = StreamSeq(reader.u64("confirmed")?);
    let mut commands = Vec::new();
    for _ in 0..reader.count(4, "command count")? {
        commands.push(reader.bytes("command")?);
    }
    Ok(PeerMessage::StreamAppend { group, stream, first, confirmed, commands })
}

fn read_applied(reader: &mut Reader, says_after: bool) -> Result<PeerMessage, Malformed> {
    let (group, stream) = read_stream(reader)?;
    let after = if says_after { Some(StreamSeq(reader.u64("after")?)) } else { None };
    let applied = StreamSeq(reader.u64("applied")?);
    let mut replies = Vec::new();
    for _ in 0..reader.count(12, "reply count")? {
        let seq = StreamSeq(reader.u64("reply position")?);
        let encoded = reader.bytes("reply")?;
        replies.push((seq, Reply::decode(&encoded).map_err(|_| Malformed("reply"))?));
    }
    Ok(PeerMessage::StreamApplied { group, stream, after, applied, replies })
}

fn put_delivery(out: &mut BytesMut, delivery: &SessionDelivery) {
    out.put_u64_le(delivery.seq.0);
    out.put_u16_le(delivery.packet_id.get());
    let received = u8::from(delivery.message.is_none());
    let flags = u8::from(delivery.retain) << 2 | u8::from(delivery.dup) << 3 | received << 4;
    out.put_u8(delivery.qos as u8 | flags);
    put_expiry(out, delivery.expiry_s);
    put_count(out, delivery.identifiers.len());
    for identifier in &delivery.identifiers {
        out.put_u32_le(*identifier);
    }
    if let Some(message) = &delivery.message {
        let mut encoded = BytesMut::with_capacity(message.encoded_len());
        message.encode(&mut encoded);
        put_bytes(out, &encoded);
    }
}

fn read_delivery(reader: &mut Reader) -> Result<SessionDelivery, Malformed> {
    let seq = DeliverySeq(reader.u64("delivery")?);
    let low = reader.u8("packet identifier")?;
    let high = reader.u8("packet identifier")?;
    let packet_id = PacketId::new(u16::from_le_bytes([low, high])).ok_or(Malformed("packet identifier"))?;
    let flags = reader.u8("delivery flags")?;
    let qos = match flags & 3 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => return Err(Malformed("delivery flags")),
    };
    let expiry_s = read_expiry(reader)?;
    let mut identifiers = Vec::new();
    for _ in 0..reader.count(4, "identifier count")? {
        identifiers.push(reader.u32("identifier")?);
    }
    let message = if flags & 16 == 0 {
        let body = reader.bytes("message")?;
        Some(Message::decode(&body).map_err(|_| Malformed("message"))?)
    } else {
        None
    };
    Ok(SessionDelivery {
        seq,
        packet_id,
        qos,
        retain: flags & 4 != 0,
        dup: flags & 8 != 0,
        identifiers,
        expiry_s,
        message,
    })
}

fn put_expiry(out: &mut BytesMut, expiry_s: Option<u32>) {
    match expiry_s {
        None => out.put_u8(0),
        Some(seconds) => {
            out.put_u8(1);
            out.put_u32_le(seconds);
        }
    }
}

fn read_expiry(reader: &mut Reader) -> Result<Option<u32>, Malformed> {
    if reader.u8("expiry flag")? == 0 { Ok(None) } else { reader.u32("expiry").map(Some) }
}

fn put_topic(out: &mut BytesMut, topic: Option<&TopicName>) {
    put_bytes(out, topic.map_or(b"", |topic| topic.as_str().as_bytes()));
}

fn read_topic(reader: &mut Reader) -> Result<Option<TopicName>, Malformed> {
    let text = read_text(reader, "topic")?;
    if text.is_empty() {
        return Ok(None);
    }
    TopicName::new(text).map(Some).map_err(|_| Malformed("topic"))
}

fn read_filter(reader: &mut Reader) -> Result<TopicFilter, Malformed> {
    let text = read_text(reader, "filter")?;
    TopicFilter::new(text).map_err(|_| Malformed("filter"))
}

fn read_text(reader: &mut Reader, what: &'static str) -> Result<Text, Malformed> {
    Text::new(reader.bytes(what)?).map_err(|_| Malformed(what))
}
