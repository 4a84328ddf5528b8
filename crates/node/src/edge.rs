//! What passes between [`crate::Node`] and a [`crate::Client`], and from client to client on one node.
//!
//! Owns: the requests of a client connection to its node, the node's events to it, and direct deliveries.
//! Does not: act. Limits: the shell bounds the queues that carry these; see each type.

use std::sync::Arc;

use bytes::Bytes;
use quorate_codec::{PacketId, QoS, ReasonCode, Text, TopicFilter};
use quorate_state::command::{SessionExpiry, SubscribeFilter};
use quorate_state::{ConnId, DeliverySeq, Epoch, GroupId, Message, NodeId, SessionId, Will};

use crate::durable::Durable;
use crate::peer::PeerMessage;

/// Number of a QoS 1 publish, or of a publish to be retained, on its connection; counts from 1.
pub type PublishNumber = u64;

/// A client connection asks its node for something. The shell hands these over in order, in a bounded queue that
/// makes the connection wait when full.
#[derive(Debug)]
pub enum ClientRequest {
    /// CONNECT was read and accepted by policy. Answer: `Connected` or `Refused`.
    Connect(Box<ConnectRequest>),
    /// A publish for these groups, each with the command already encoded. Answer: one `PublishApplied` per group.
    Publish {
        /// Number on this connection.
        number: PublishNumber,
        /// Group and encoded `Command::Publish`.
        targets: Vec<(GroupId, Bytes)>,
    },
    /// A QoS 2 publish of a durable session, for its home partition. Answer: `PublishApplied`. The node hands it to direct
    /// receivers itself when it was not applied before, even if the connection has ended by then.
    PublishOnce {
        /// Number on this connection.
        number: PublishNumber,
        /// Home partition.
        group: GroupId,
        /// Encoded `Command::PublishOnce`.
        command: Bytes,
        /// The message, when there are direct receivers.
        direct: Option<Arc<DirectMessage>>,
    },
    /// SUBSCRIBE. Answer: `Subscribed`, after the cluster barrier, then `Retained` messages.
    Subscribe {
        /// Packet identifier.
        packet_id: PacketId,
        /// Filters in packet order, those refused by the connection already taken out.
        filters: Vec<SubscribeFilter>,
    },
    /// UNSUBSCRIBE. Answer: `Unsubscribed`.
    Unsubscribe {
        /// Packet identifier.
        packet_id: PacketId,
        /// Filters in packet order.
        filters: Vec<TopicFilter>,
    },
    /// PUBREL of a durable session. Answer: `Released`.
    Release {
        /// Packet identifier of the client's QoS 2 PUBLISH.
        packet_id: PacketId,
    },
    /// The client has received QoS 2 deliveries of its durable session (PUBREC). Answer: `Received`.
    Received {
        /// Packet identifiers, in order.
        packet_ids: Vec<PacketId>,
    },
    /// The client acknowledged deliveries of its durable session.
    Acknowledged {
        /// Packet identifiers, in order.
        packet_ids: Vec<PacketId>,
    },
    /// Answer to `ClientEvent::RetainedGiven`: the client has room for more.
    RetainedTaken,
    /// The connection is over; nothing was or will be acknowledged on it from now on.
    Closed {
        /// Session expiry from DISCONNECT.
        expiry: Option<SessionExpiry>,
        /// The client sent DISCONNECT with Normal disconnection: its will is deleted.
        normal: bool,
    },
}

impl ClientRequest {
    /// Bytes of messages that it holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            ClientRequest::Connect(connect) => {
                connect.will.as_ref().map_or(0, |will| will.message.payload.len())
            }
            // Most targets share one command.
            ClientRequest::Publish { targets, .. } => targets.first().map_or(0, |(_, command)| command.len()),
            ClientRequest::PublishOnce { command, .. } => command.len(),
            ClientRequest::Subscribe { .. }
            | ClientRequest::Unsubscribe { .. }
            | ClientRequest::Release { .. }
            | ClientRequest::Received { .. }
            | ClientRequest::Acknowledged { .. }
            | ClientRequest::RetainedTaken
            | ClientRequest::Closed { .. } => 0,
        }
    }
}

/// What a CONNECT asks of the node.
#[derive(Clone, PartialEq, Debug)]
pub struct ConnectRequest {
    /// Client identifier (assigned one when the client sent none).
    pub client_id: Text,
    /// Clean Start.
    pub clean_start: bool,
    /// Session expiry.
    pub expiry: SessionExpiry,
    /// Receive Maximum of the client.
    pub receive_max: u16,
    /// Principal; empty when anonymous.
    pub principal: Text,
    /// The will.
    pub will: Option<Will>,
}

/// A node tells a client connection something. The shell delivers these in order; their number is bounded by the
/// windows of the connection.
#[derive(Debug)]
pub enum ClientEvent {
    /// The session is this connection's: send CONNACK.
    Connected {
        /// Session Present. Durable, because a promise rests on it.
        session_present: Durable<bool>,
        /// Home partition.
        group: GroupId,
        /// Session.
        session: SessionId,
        /// Epoch.
        epoch: Epoch,
        /// Session expiry in force.
        expiry: SessionExpiry,
        /// The subscriptions of a resumed session.
        subscriptions: Vec<SubscribeFilter>,
    },
    /// CONNECT cannot be served: send CONNACK with the reason and close.
    Refused(ReasonCode),
    /// One of the targets of a publish has applied it, or refused it for the reason.
    PublishApplied {
        /// Number of the publish.
        number: Durable<PublishNumber>,
        /// What became of it.
        outcome: PublishOutcome,
    },
    /// The packet identifier of a QoS 2 PUBLISH is free: send PUBCOMP.
    Released {
        /// Packet identifier.
        packet_id: Durable<PacketId>,
        /// It was in use.
        found: bool,
    },
    /// QoS 2 deliveries count as received by the client for ever: send PUBREL for each.
    Received {
        /// Packet identifiers, in order.
        packet_ids: Durable<Vec<PacketId>>,
    },
    /// What other nodes had forwarded before `LocalChange::Mark` of this number has come.
    Marked(u64),
    /// SUBSCRIBE is in force on the whole cluster: send SUBACK.
    Subscribed {
        /// Packet identifier.
        packet_id: Durable<PacketId>,
        /// Per filter.
        reasons: Vec<ReasonCode>,
    },
    /// UNSUBSCRIBE is in force: send UNSUBACK.
    Unsubscribed {
        /// Packet identifier.
        packet_id: Durable<PacketId>,
        /// Per filter, whether it existed.
        existed: Vec<bool>,
    },
    /// A message of the durable session.
    Deliver(SessionDelivery),
    /// A retained message for a subscription, outside the durable session (QoS 0, or a transient session).
    Retained {
        /// QoS to deliver with.
        qos: QoS,
        /// Subscription Identifier.
        identifier: Option<u32>,
        /// Remaining lifetime in seconds.
        expiry_s: Option<u32>,
        /// The message.
        message: Message,
    },
    /// A page of retained messages ends, and there may be more. Answer: `ClientRequest::RetainedTaken`, when they are on
    /// their way to the client.
    RetainedGiven,
    /// Answer to `ClientRequest::Closed`: the session's partition has applied all that the connection asked for, its end
    /// last. A client that said DISCONNECT sees its socket closed after that, and finds its session as it left it.
    Ended,
    /// Close now with this reason; answer `ClientRequest::Closed` at once.
    Close(ReasonCode),
}

/// What a partition did with a publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishOutcome {
    /// Applied it.
    Applied,
    /// Nothing: this QoS 2 PUBLISH was applied before.
    Duplicate,
    /// Refused it, for this reason.
    Rejected(ReasonCode),
}

/// A message of a durable session with the packet identifier its partition gave it.
#[derive(Clone, Debug)]
pub struct SessionDelivery {
    /// Position in the deliveries on this connection.
    pub seq: DeliverySeq,
    /// Packet identifier.
    pub packet_id: PacketId,
    /// QoS.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Subscription identifiers.
    pub identifiers: Vec<u32>,
    /// Remaining lifetime in seconds.
    pub expiry_s: Option<u32>,
    /// The message; `None` when the client has received it already (QoS 2): then PUBREL is to be sent.
    pub message: Option<Message>,
}

/// A message handed directly to the connections of a node: QoS 0, and all QoS of transient sessions. Never through
/// a group.
#[derive(Debug)]
pub struct DirectMessage {
    /// The message, as published. RETAIN is the publisher's flag.
    pub message: Message,
}

/// One direct delivery to one connection of this node. Mailboxes are bounded: when full, the message is dropped for
/// that session and counted.
#[derive(Clone, Debug)]
pub struct DirectDelivery {
    /// QoS to deliver with: the lower of the message's and the subscription's.
    pub qos: QoS,
    /// RETAIN flag to deliver with (Retain As Published).
    pub retain: bool,
    /// Subscription identifiers of all matching subscriptions of the session.
    pub identifiers: Vec<u32>,
    /// The message.
    pub message: Arc<DirectMessage>,
}

/// A change of one connection's subscriptions in the node's routing table.
#[derive(Clone, PartialEq, Debug)]
pub enum LocalChange {
    /// A subscription was made, or replaced the one with the same filter.
    Add {
        /// Filter, options with the QoS granted, identifier.
        subscription: SubscribeFilter,
        /// Hash of the client identifier ([`quorate_state::hash::client_hash`]), for No Local.
        client: u64,
        /// The session outlives the connection: its partition delivers what is left at QoS 1 or above.
        durable: bool,
    },
    /// The session was on another connection before, perhaps of another node: what was forwarded here before now may have
    /// been delivered there. See [`crate::Routing::fence`].
    Resumed,
    /// The connection is about to subscribe, and first wants to be behind everything that other nodes forwarded until now: the
    /// answer is `ClientEvent::Marked` with this number. One at a time, counted from 1. See [`crate::Routing::mark`].
    Mark(u64),
    /// A subscription has ended.
    Remove(TopicFilter),
    /// The connection is over.
    RemoveAll,
}

/// What a [`crate::Client`] wants done after it handled something. The shell drains it after each call.
#[derive(Debug, Default)]
pub struct ClientOutput {
    /// Changes of the connection's subscriptions in [`crate::Routing`]: applied before `requests` are handed over, so
    /// that a subscription is in force here before the node announces it.
    pub local: Vec<LocalChange>,
    /// Requests to the node, in order.
    pub requests: Vec<ClientRequest>,
    /// Direct deliveries to connections of this node.
    pub direct: Vec<(ConnId, DirectDelivery)>,
    /// Direct messages for other nodes: `Forward` and `ForwardShared`.
    pub forwards: Vec<(NodeId, PeerMessage)>,
    /// Messages dropped by this call, by reason: counted in the metrics.
    pub dropped: Vec<(quorate_state::effect::DropReason, u64)>,
}
