//! Commands: the payload of an entry.
//!
//! Owns: what can be asked of a group. Does not: encode or apply; see `encode`, `entry`, `partition`, `control`.
//! Invariants: a command has all that applying it needs; nothing is looked up outside the state.
//! See: docs/formats/entry.md.

use bytes::Bytes;
use quorate_codec::{PacketId, QoS, SubscriptionOptions, Text, TopicFilter, TopicName};

use crate::ids::{
    BackupId, Epoch, GroupId, Incarnation, LogIndex, NodeId, Owner, SessionId, ShareId, ShareVersion,
    StreamId, StreamSeq, Timestamp, WillId,
};

/// All that a leader put into one entry: the commands of several streams under one stamp.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// Replicated time of this entry.
    pub stamp: Timestamp,
    /// Consecutive pieces of streams.
    pub segments: Vec<Segment>,
    /// Commands of the leader itself, outside any stream.
    pub leader: Vec<LeaderCommand>,
}

/// A consecutive piece of one stream.
#[derive(Clone, PartialEq, Debug)]
pub struct Segment {
    /// Whose stream.
    pub stream: StreamId,
    /// Sequence of the first command.
    pub first: StreamSeq,
    /// The source has seen all replies up to here: they need not be kept.
    pub confirmed: StreamSeq,
    /// The commands, with sequences `first`, `first + 1` and so on.
    pub commands: Vec<Command>,
}

/// What a leader adds on its own. Safe to apply twice.
#[derive(Clone, PartialEq, Debug)]
pub enum LeaderCommand {
    /// The destination group has applied this outbox up to `seq`.
    OutboxApplied {
        /// Destination of the outbox.
        to: GroupId,
        /// Last applied position.
        seq: StreamSeq,
    },
    /// Let due timers fire; carries nothing but the batch's stamp.
    Tick,
    /// The lease of this incarnation has ended, and this leader gives it no other: in control, from level 2 on. A later leader, which may
    /// have given one, never has it in its log after it has begun to.
    NodeLost {
        /// Node.
        node: NodeId,
        /// Its incarnation.
        incarnation: Incarnation,
    },
}

/// An application message as replicated: what is stored once and delivered many times.
#[derive(Clone, PartialEq, Debug)]
pub struct Message {
    /// Topic name.
    pub topic: TopicName,
    /// QoS it was published with.
    pub qos: QoS,
    /// RETAIN flag of the PUBLISH.
    pub retain: bool,
    /// Message Expiry Interval in seconds as published.
    pub expiry_s: Option<u32>,
    /// Client identifier hash of the publisher (for No Local); 0 for none.
    pub publisher: u64,
    /// Forwardable properties as `PublishProperties::encode_forwarded` writes them (without the expiry); often empty.
    pub properties: Bytes,
    /// Application payload.
    pub payload: Bytes,
}

/// The message to publish when a connection ends without a word (MQTT 5, 3.1.2.5).
#[derive(Clone, PartialEq, Debug)]
pub struct Will {
    /// Will Delay Interval in seconds; 0 for at once.
    pub delay_s: u32,
    /// The message.
    pub message: Message,
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SessionExpiry {
    /// Ends with the connection: a transient session. Its queue is not replicated.
    AtClose,
    /// Ends this many seconds after the connection closed.
    After(u32),
    /// Never ends by time.
    Never,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, PartialEq, Debug)]
pub struct SubscribeFilter {
    /// Topic filter.
    pub filter: TopicFilter,
    /// Options; the QoS is what was granted.
    pub options: SubscriptionOptions,
    /// Subscription Identifier.
    pub identifier: Option<u32>,
}

/// A command to a group. Partition and control share the enum so that streams are one mechanism; each ignores,
/// with `Reply::Refused`, what is not for it.
#[derive(Clone, PartialEq, Debug)]
pub enum Command {
    // ---- partition ----
    /// A message for the durable subscriptions here, and for the retained register when `store_retained`.
    Publish {
        /// The message.
        message: Message,
        /// The topic's retained register lives here and the message has RETAIN set (empty payload deletes).
        store_retained: bool,
        /// Match the durable subscriptions of this partition.
        fan_out: bool,
    },
    /// CONNECT of a client: makes or resumes the session, bumps the epoch, takes over from an earlier owner.
    Connect {
        /// Client identifier.
        client_id: Text,
        /// The new owner.
        owner: Owner,
        /// Clean Start.
        clean_start: bool,
        /// Session expiry.
        expiry: SessionExpiry,
        /// The client's Receive Maximum, already capped by the server's own limit.
        receive_max: u16,
        /// Authenticated principal, empty when anonymous. Only the same principal may take over.
        principal: Text,
        /// The will of this connection.
        will: Option<Will>,
    },
    /// The connection of `epoch` has closed. `expiry` replaces the session's when DISCONNECT carried one.
    Disconnect {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// New session expiry.
        expiry: Option<SessionExpiry>,
        /// DISCONNECT with Normal disconnection: the will is deleted [MQTT-3.14.4-3].
        normal: bool,
    },
    /// A will that is due goes to its targets, once. Answered with `Reply::NotFound` when it has gone before, and with
    /// `Reply::Unsettled` when there is no room for it: it stays due.
    PublishWill {
        /// The will.
        will: WillId,
        /// Where the message goes.
        targets: Vec<PublishTarget>,
    },
    /// SUBSCRIBE of a durable session; of a transient one for shared subscriptions.
    Subscribe {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// Filters, in packet order.
        filters: Vec<SubscribeFilter>,
    },
    /// UNSUBSCRIBE of a durable session; of a transient one for shared subscriptions.
    Unsubscribe {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// Filters, in packet order.
        filters: Vec<TopicFilter>,
    },
    /// QoS 2 PUBLISH of a durable session, in its home partition: unless the packet identifier is in use, notes it and
    /// hands the message on to the targets, each exactly once. Answered with `Reply::Duplicate` when it is in use.
    PublishOnce {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// Packet identifier, in use until `Release`.
        packet_id: PacketId,
        /// Where the message goes.
        targets: Vec<PublishTarget>,
        /// The message.
        message: Message,
    },
    /// PUBREL of a client: the packet identifier of its QoS 2 PUBLISH is free again.
    Release {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// Packet identifier.
        packet_id: PacketId,
    },
    /// PUBRECs of a client for QoS 2 messages delivered to it: they are never sent again, only PUBREL is.
    Receive {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// Packet identifiers, in the order received.
        packet_ids: Vec<PacketId>,
    },
    /// PUBACKs of a client for QoS 1 messages delivered to it, and PUBCOMPs for QoS 2 messages.
    Acknowledge {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// Packet identifiers, in the order received.
        packet_ids: Vec<PacketId>,
    },
    /// Messages for one session: retained messages that a SUBSCRIBE of a durable session asked for.
    Enqueue {
        /// Session.
        session: SessionId,
        /// Epoch of the connection.
        epoch: Epoch,
        /// QoS granted, identifiers of the subscription, and the message; sent with RETAIN set.
        messages: Vec<(QoS, Option<u32>, Message)>,
    },
    /// End a session at once (operator).
    Purge {
        /// Client identifier.
        client_id: Text,
    },
    /// A node's incarnation is dead, sent by control: its connections are closed, its streams end.
    NodeDown {
        /// Node.
        node: NodeId,
        /// Last dead incarnation; lower ones are dead too.
        incarnation: Incarnation,
    },
    // ---- share groups ----
    /// A session takes part in a share group from now on, or again, or differently; to the group's home partition.
    /// Answered with `Reply::ShareJoined`, or `Reply::Rejected` when a limit is reached.
    ShareJoin {
        /// The filter with `$share/` and the name.
        filter: TopicFilter,
        /// Who.
        member: ShareMember,
        /// As the session's partition gave it with the answer to SUBSCRIBE or CONNECT. An older join changes nothing.
        version: ShareVersion,
        /// QoS granted, 1 or 2.
        qos: QoS,
        /// Subscription Identifier.
        identifier: Option<u32>,
        /// Keep the RETAIN flag as published.
        retain_as_published: bool,
        /// How many messages it may have unsettled, 1 to `SHARE_WINDOW_MAX`; other values count as the nearest.
        window: u16,
    },
    /// The connection of a member's session is closed: it gets no further messages until it joins again.
    ShareOffline {
        /// Filter with `$share/` and the name.
        filter: TopicFilter,
        /// Who.
        member: ShareMember,
        /// A join that is newer goes before it.
        version: ShareVersion,
    },
    /// A session takes no part any more: it unsubscribed, or ended.
    ShareLeave {
        /// Filter with `$share/` and the name.
        filter: TopicFilter,
        /// Who.
        member: ShareMember,
        /// A join that is newer goes before it.
        version: ShareVersion,
    },
    /// A session was taken into a share group; to the session's partition, which answers with `ShareOffline` or
    /// `ShareLeave` when the session is not there for it any more.
    ShareConfirm {
        /// Session.
        session: SessionId,
        /// Filter with `$share/` and the name.
        filter: TopicFilter,
        /// The group's number.
        share: ShareId,
    },
    /// A message of a share group for one member; to the session's partition, which answers with `ShareSettled` when
    /// the message is done with there, or `ShareReturn` when somebody else is to get it. Each is answered once.
    ShareDeliver {
        /// The group's number.
        share: ShareId,
        /// The message's number in the group.
        dispatch: u64,
        /// Session.
        session: SessionId,
        /// QoS to deliver with, 1 or 2.
        qos: QoS,
        /// RETAIN flag to deliver with.
        retain: bool,
        /// Subscription Identifier.
        identifier: Option<u32>,
        /// Remaining lifetime in seconds.
        expiry_s: Option<u32>,
        /// The message.
        message: Message,
    },
    /// Messages of a share group that are done with: acknowledged, received, or dropped and counted.
    ShareSettled {
        /// The group's number.
        share: ShareId,
        /// The messages' numbers.
        dispatches: Vec<u64>,
    },
    /// Messages of a share group that somebody else is to get.
    ShareReturn {
        /// The group's number.
        share: ShareId,
        /// The messages' numbers.
        dispatches: Vec<u64>,
    },
    // ---- every group ----
    /// A step of a backup. Not before level 2.
    Backup {
        /// The backup.
        backup: BackupId,
        /// What is to be done for it.
        step: BackupStep,
    },
    // ---- control ----
    /// Add a route. A filter's targets are a set: adding one twice needs one removal.
    RouteAdd {
        /// Topic filter.
        filter: TopicFilter,
        /// Who wants the matching messages.
        target: RouteTarget,
    },
    /// Remove a route.
    RouteRemove {
        /// Topic filter.
        filter: TopicFilter,
        /// Who wanted them.
        target: RouteTarget,
    },
    /// A node has started, or came back with a new incarnation.
    NodeUp {
        /// What it says of itself.
        node: NodeRecord,
    },
    /// A node asks to join, or to replace the lost node of the same name.
    NodeJoin {
        /// Name, disk identity and addresses; `id` is 0: control assigns one.
        node: NodeRecord,
    },
    /// The control leader saw a node's lease end: declare its incarnation dead.
    NodeLost {
        /// Node.
        node: NodeId,
        /// Incarnation.
        incarnation: Incarnation,
    },
    /// Set where a group's replicas are to be.
    Place {
        /// Group.
        group: GroupId,
        /// Nodes that are to vote.
        voters: Vec<NodeId>,
    },
    /// A node is gone for good: no group has it any more.
    NodeForget {
        /// Node.
        node: NodeId,
    },
    /// An operator says what a node is to do.
    NodeDuty {
        /// Node.
        node: NodeId,
        /// What it is to do from now on.
        duty: Duty,
    },
    /// Where clients reach a node: the whole list, in place of what was known. Not before level 2.
    NodeListeners {
        /// Node.
        node: NodeId,
        /// Its listeners that it has an address for.
        listeners: Vec<AdvertisedListener>,
    },
    /// Every node runs a program that speaks this level: from now on it is in use, and no older program may take part.
    Finalize {
        /// Level.
        level: u32,
    },
    /// An operator wants a member gone for good, or has thought better of it. Not before level 2.
    NodeRemove {
        /// Node.
        node: NodeId,
        /// What is wanted of it.
        removal: Removal,
    },
    /// The leader of a group tells who its members are, as far as it has applied its log, while that is no joint membership.
    /// Not before level 2.
    Members {
        /// Group.
        group: GroupId,
        /// Index that the leader has applied. What is known from a higher one is not overwritten.
        index: LogIndex,
        /// Who votes.
        voters: Vec<NodeId>,
        /// Who only receives the log.
        learners: Vec<NodeId>,
    },
}

/// What an operator wants of a member, for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Removal {
    /// It stays: a removal that is not at its end is called off.
    Keep,
    /// Its replicas go to other nodes, and then it goes.
    Remove,
    /// As `Remove`, from the moment on when a node of this name is live.
    Replace {
        /// Name of the node that comes for it.
        successor: Text,
    },
    /// The node says itself that its clients are gone: it need not be given the time for that.
    Quiet,
}

/// What a group does for a backup. The steps are given to all groups, each step after all groups have done the one before;
/// what one of them refuses ends the backup. See docs/decisions/0032-backup-cut.md.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackupStep {
    /// Nothing leaves the outboxes and nothing is forgotten from them, for so many milliseconds at most. Refused while
    /// another backup holds.
    Hold {
        /// Capped at `HOLD_MS_MAX`.
        ms: u32,
    },
    /// The state as this entry leaves it is the group's part of the backup. Refused when the hold is over.
    Cut {
        /// The replica that keeps it.
        node: NodeId,
    },
    /// The end of the hold. Refused when it was over before: then the cuts may not fit each other.
    Release,
}

/// A listener for clients and where they reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdvertisedListener {
    /// Its name in the configuration. Clients of one listener find the same service on the listener of the same name of
    /// another node.
    pub name: Text,
    /// `host:port`.
    pub address: Text,
}

/// What an operator wants of a node. It holds over restarts, until it is changed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Duty {
    /// Everything.
    #[default]
    Full,
    /// Everything but leading groups.
    Follow,
    /// To be taken out of service: it leads nothing, takes no new client connections, and closes those it has.
    Drain {
        /// Seconds for which client connections stay.
        grace_s: u32,
    },
}

/// A session that takes part in a share group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShareMember {
    /// The session's home partition.
    pub group: GroupId,
    /// Session.
    pub session: SessionId,
}

/// A partition that a message goes to, and what it is to do there: see [`Command::Publish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishTarget {
    /// The partition.
    pub group: GroupId,
    /// Keep the message as the retained one of its topic.
    pub store_retained: bool,
    /// Match the durable subscriptions.
    pub fan_out: bool,
}

/// Who receives the messages that match a route's filter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RouteTarget {
    /// A partition with a durable session that subscribed with QoS 1 or 2.
    Partition(GroupId),
    /// A node with a connection that takes messages of every QoS directly: of a transient session, or one that
    /// subscribed with QoS 0.
    Node(NodeId),
    /// A node whose connections all belong to durable sessions that subscribed with QoS 1 or 2: they take messages of
    /// QoS 0 directly, and the others from their partition alone.
    NodeQos0(NodeId),
}

/// A node as control knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Identity; 0 in a join request.
    pub id: NodeId,
    /// Name, unique among living nodes.
    pub name: Text,
    /// Random identity of the disk.
    pub disk: [u8; 16],
    /// Incarnation.
    pub incarnation: Incarnation,
    /// Address of the peer listener, `host:port`.
    pub peer: Text,
    /// Address of the first MQTT listener, `host:port`, for people; empty when unknown.
    pub mqtt: Text,
    /// Address of the admin listener as a URL; empty when unknown.
    pub admin: Text,
    /// Zone label; empty when none.
    pub zone: Text,
    /// Version of the program.
    pub version: Text,
    /// Highest level that the program speaks: see [`crate::LEVEL`]. 0 before the node has said it.
    pub level: u32,
}

/// Position of an applied entry, for callers that wait on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AppliedAt {
    /// Group.
    pub group: GroupId,
    /// Index.
    pub index: LogIndex,
}
