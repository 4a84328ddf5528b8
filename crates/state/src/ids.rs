//! Identifiers and positions. A bare integer never crosses a function boundary.
//!
//! Owns: their types and what each counts. Does not: hand any out.
//! Invariants: identities (nodes, sessions) are never used twice.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A Raft group. 0 is control, 1 to P are the partitions.
    GroupId(u32)
);
id!(
    /// A member of the cluster: one disk identity. Never reused, not even for the same machine after a wipe.
    NodeId(u64)
);
id!(
    /// One run of a node: grows at each start, and when the node comes back from having been declared down.
    Incarnation(u64)
);
id!(
    /// Position in the log of a group.
    LogIndex(u64)
);
id!(
    /// One network connection, unique within the node and incarnation that accepted it.
    ConnId(u64)
);
id!(
    /// A session within its partition. Never reused.
    SessionId(u64)
);
id!(
    /// A will that is due, within its partition. Never reused.
    WillId(u64)
);
id!(
    /// Fencing number of a session: grows at every CONNECT, over a new session of the same client too. A command of an
    /// older epoch is refused.
    Epoch(u64)
);
id!(
    /// Replicated time in milliseconds, by the leader's stamp in each entry. Starts at 0 when the group starts,
    /// never goes back, and stands still while there is no quorum. Not a wall clock.
    Timestamp(u64)
);
id!(
    /// Position in a stream; the first is 1.
    StreamSeq(u64)
);
id!(
    /// Position in the order in which messages were sent on one connection of a session: starts again at 1 with each
    /// epoch, without gaps.
    DeliverySeq(u64)
);
id!(
    /// A share group within its partition. Never reused: a group that begins again under its filter gets a new one.
    ShareId(u64)
);
id!(
    /// Order of what happens to the share subscriptions of one session: grows with each SUBSCRIBE, UNSUBSCRIBE, CONNECT
    /// and close that concerns them. What comes to a share group late, and over different ways, is told apart by it.
    ShareVersion(u64)
);

id!(
    /// One attempt to take a backup, drawn at random.
    BackupId(u64)
);

/// The control group.
pub const CONTROL: GroupId = GroupId(0);

/// Where an ordered stream of commands comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StreamId {
    /// A node, during one incarnation.
    Node(NodeId, Incarnation),
    /// The outbox of another group.
    Group(GroupId),
}

/// The connection that holds a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner {
    /// Node of the connection.
    pub node: NodeId,
    /// Incarnation of that node.
    pub incarnation: Incarnation,
    /// The connection on that node.
    pub conn: ConnId,
}

/// Where a message body is, the same on every replica: in the entry at `index`, from byte `offset`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MessageRef {
    /// Entry that carries the message.
    pub index: LogIndex,
    /// Offset of the encoded message in the entry's data.
    pub offset: u32,
    /// Length of the encoded message in bytes.
    pub bytes: u32,
}
