//! Messages between nodes, and their frames.
//!
//! Owns: [`PeerMessage`], its encoding with a version byte. Does not: read or write sockets.
//! See: docs/formats/peer-frame.md.

use bytes::Bytes;
use quorate_state::{ConnId, DeliverySeq, GroupId, Incarnation, LogIndex, Reply, SessionId, StreamId, StreamSeq};

use crate::edge::SessionDelivery;

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
    },
    /// Messages of durable sessions for connections of the receiving node.
    Deliver {
        /// Partition.
        group: GroupId,
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
    /// Ask for retained messages of a partition.
    RetainedQuery {
        /// Partition.
        group: GroupId,
        /// Echoed.
        query: u64,
        /// Filter.
        filter: quorate_codec::TopicFilter,
        /// Continue after this topic.
        after: Option<quorate_codec::TopicName>,
    },
    /// One page of retained messages.
    RetainedPage {
        /// Echo.
        query: u64,
        /// Encoded messages with their remaining lifetime in seconds.
        messages: Vec<(Bytes, Option<u32>)>,
        /// Ask again after this topic; `None` when done.
        next: Option<quorate_codec::TopicName>,
    },
}
