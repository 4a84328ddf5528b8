//! Effects: the output of apply. Every replica computes them; only the leader's leave the node.
//!
//! Owns: what can come out of a group. Does not: carry it out.
//! Invariants: the effects of an entry, and their order, are the same on every replica.

use quorate_codec::{PacketId, QoS, ReasonCode, Text};

use crate::command::{SessionExpiry, SubscribeFilter};
use crate::ids::{
    BackupId, DeliverySeq, Epoch, GroupId, Incarnation, MessageRef, NodeId, Owner, SessionId, ShareVersion,
    StreamId, StreamSeq,
};

/// Something to be done because an entry was applied.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Answer to the command at `seq` of a stream. Commands without one were applied and have nothing to say.
    Reply {
        /// Stream.
        stream: StreamId,
        /// Position of the command.
        seq: StreamSeq,
        /// Answer.
        reply: Reply,
    },
    /// Send a message of QoS 1 or 2 to the connection that owns the session.
    Deliver(Deliver),
    /// The session no longer belongs to this connection (taken over, purged, expired): close it.
    Close {
        /// Connection to close.
        owner: Owner,
        /// Session.
        session: SessionId,
        /// Reason for DISCONNECT.
        reason: ReasonCode,
    },
    /// Wills have become due: see `Partition::due_wills`.
    WillsDue,
    /// The outbox towards a group has grown.
    Outbox {
        /// Destination.
        to: GroupId,
    },
    /// The outboxes move again: what was held back may leave, and what was not forgotten may be.
    HoldEnded,
    /// The state as this entry leaves it is the group's part of a backup; to be kept by one node.
    Cut {
        /// The backup.
        backup: BackupId,
        /// Who keeps it.
        node: NodeId,
    },
    /// Messages dropped, and why. Counted by the leader.
    Dropped {
        /// Reason.
        reason: DropReason,
        /// How many.
        count: u64,
    },
    /// Control: routes changed (filter, target, added or removed).
    RouteChanged {
        /// Filter.
        filter: quorate_codec::TopicFilter,
        /// Target.
        target: crate::command::RouteTarget,
        /// Added, or removed.
        added: bool,
    },
    /// Control: nodes or placement changed.
    MembershipChanged,
    /// Control: a node's incarnation was declared dead.
    NodeDown {
        /// Node.
        node: NodeId,
        /// Incarnation.
        incarnation: Incarnation,
    },
}

/// One message on its way to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deliver {
    /// Connection that owns the session.
    pub owner: Owner,
    /// Session.
    pub session: SessionId,
    /// Position in the session's deliveries.
    pub seq: DeliverySeq,
    /// Packet identifier, kept until acknowledged.
    pub packet_id: PacketId,
    /// QoS to deliver with.
    pub qos: QoS,
    /// RETAIN flag to deliver with.
    pub retain: bool,
    /// Sent before, on an earlier connection.
    pub dup: bool,
    /// A QoS 2 message that the client has received: PUBREL is to be sent, there is no message.
    pub received: bool,
    /// Which set of subscription identifiers goes with it: see `Partition::identifiers`; 0 is the empty set.
    pub identifiers: u16,
    /// Remaining lifetime in seconds at the time of the entry.
    pub expiry_s: Option<u32>,
    /// Body.
    pub message: MessageRef,
}

/// Why a message was dropped for one session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// The session's queue was at its limit of messages.
    QueueMessages,
    /// The session's queue was at its limit of bytes.
    QueueBytes,
    /// The message expired before it was delivered.
    MessageExpired,
    /// The session expired or was purged with messages queued, or the last session of a share group has left it.
    SessionEnded,
    /// Clean Start discarded the session.
    CleanStart,
    /// Larger than the client's Maximum Packet Size.
    PacketTooLarge,
    /// A QoS 0 message that was to be retained, with as many topics retained as may be; nobody hears of a refusal.
    RetainedTopics,
    /// A message that its publisher was told is taken, refused by a quota where it was to go: QoS 2 of a durable session,
    /// with the overflow policy that refuses publishers.
    RefusedLate,
    /// A QoS 0 message to a topic that clients may not publish to.
    ReadOnlyTopic,
    /// A QoS 0 message that was to be retained and came while the disk of its publisher's node had little room: it was not
    /// retained.
    DiskLow,
    /// A QoS 0 message that came while its publisher's node had nearly no memory left.
    MemoryLow,
}

/// Answer to a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// Publish refused: the reason goes to the publisher.
    Rejected(ReasonCode),
    /// CONNECT done. The session is served by the partition (subscriptions, queue) when `session_present`, or when
    /// `expiry` is not `AtClose`; otherwise it is transient and served by the connection's node alone. A resumed
    /// session that now ends with its connection stays with the partition until then.
    Connected {
        /// Session.
        session: SessionId,
        /// Its new epoch.
        epoch: Epoch,
        /// Session Present.
        session_present: bool,
        /// Connections of the client that lost a session, now or earlier, and are not known to be closed, oldest first:
        /// all must be closed before CONNACK. At most `DISPLACED_MAX` + 1.
        previous: Vec<Owner>,
        /// Subscriptions of a resumed session, for the owner's direct deliveries.
        subscriptions: Vec<SubscribeFilter>,
        /// Delivery sequence of the first message that will come on this connection.
        next_delivery: DeliverySeq,
        /// Session expiry in force (capped by the server's limit).
        expiry: SessionExpiry,
        /// For the joins with which the connection's node makes the session's shared subscriptions active again.
        version: ShareVersion,
    },
    /// CONNECT refused.
    ConnectRefused(ReasonCode),
    /// SUBSCRIBE applied, one result per filter.
    Subscribed(Vec<SubscribeResult>),
    /// UNSUBSCRIBE applied: per filter, whether the subscription existed.
    Unsubscribed(Vec<bool>),
    /// The packet identifier of this QoS 2 PUBLISH is in use: the message was handed on before.
    Duplicate,
    /// PUBREL for a packet identifier that is not in use.
    NotFound,
    /// PUBREL of a message that is to be retained, which the partition of its topic is not known to have: the packet
    /// identifier is still in use, ask again.
    Unsettled,
    /// The session takes part in the share group.
    ShareJoined {
        /// Position in the outbox of the share group's partition to control that announced the group's route.
        route: StreamSeq,
    },
    /// The epoch is not the session's: the connection has lost the session.
    Fenced,
    /// Control: identity given to a joining node.
    Joined {
        /// Node.
        node: NodeId,
    },
    /// The command is not for this group or not possible now.
    Refused(Text),
}

/// Result of one filter of a SUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscribeResult {
    /// Granted QoS, or a failure.
    pub reason: ReasonCode,
    /// The session had a subscription with this filter before (Retain Handling 1).
    pub existed: bool,
    /// Position in this group's outbox to control that announced the route; SUBACK waits until control has
    /// applied it and all live nodes know it. `None` when no route is needed.
    pub route: Option<StreamSeq>,
    /// Of a shared subscription with QoS 1 or 2: for the join that is to follow; 0 for others.
    pub version: ShareVersion,
}
