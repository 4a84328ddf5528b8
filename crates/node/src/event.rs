//! The closed set of inputs of a node.

use quorate_state::{ConnId, GroupId, Incarnation, LogIndex, NodeId, PublishTarget, WillId};

use crate::edge::ClientRequest;
use crate::peer::PeerMessage;

/// Something happened that the node must know.
#[derive(Debug)]
pub enum Event {
    /// Time has passed; called at least every `limits::TICK`.
    Tick,
    /// A link to a peer is up, both ways. Messages sent before are lost.
    PeerUp(NodeId),
    /// The link is down. Messages still underway are lost, and none of them arrives later.
    PeerDown(NodeId),
    /// A message from a peer.
    Peer(NodeId, PeerMessage),
    /// A client connection asks for something.
    Client(ConnId, ClientRequest),
    /// All `Action::Persist` up to this ticket are on disk.
    Persisted(u64),
    /// An `Action::Checkpoint` is durable.
    Checkpointed {
        /// Group.
        group: GroupId,
        /// Applied index it covers.
        index: LogIndex,
    },
    /// The log wants this group's checkpoint to move on, so that space can be freed.
    CheckpointWanted(GroupId),
    /// The log of the group now starts after this index.
    Compacted {
        /// Group.
        group: GroupId,
        /// Last index that is gone.
        index: LogIndex,
        /// Its term.
        term: u64,
    },
    /// A snapshot from a peer has been received whole and staged.
    SnapshotStaged {
        /// Sender.
        from: NodeId,
        /// Group.
        group: GroupId,
        /// The Raft message that announced it.
        message: Box<raft::eraftpb::Message>,
    },
    /// `Action::InstallSnapshot` is done: these are the records of the new state.
    SnapshotInstalled {
        /// Group.
        group: GroupId,
        /// Index it covers.
        index: LogIndex,
        /// All records.
        records: Vec<(bytes::Bytes, bytes::Bytes)>,
    },
    /// `Action::SendSnapshot` has ended.
    SnapshotSent {
        /// Receiver.
        to: NodeId,
        /// Group.
        group: GroupId,
        /// Whether the receiver has it.
        delivered: bool,
    },
    /// `Action::RemoveGroup` is durable.
    GroupRemoved(GroupId),
    /// `Action::NewIncarnation` is durable.
    Incarnation(Incarnation),
    /// Answer to `Action::RouteWill`.
    WillRouted {
        /// Partition.
        group: GroupId,
        /// The will.
        will: WillId,
        /// Where its message goes, beside direct receivers.
        targets: Vec<PublishTarget>,
    },
    /// Whether the log takes nothing more for now, from now on: too much waits for the disk. Entries of peers are then dropped, as if they
    /// were lost on their way, and none are proposed. The little that must be written all the same (terms, votes) is still handed over.
    LogFull(bool),
    /// Whether this node's disk has little room, from now on: it is then not to lead what others can lead.
    DiskLow(bool),
    /// A node without an identity asks to join. Answered by `Action::Joined` once control has decided.
    Join(Box<quorate_state::command::NodeRecord>),
    /// The process is about to stop: leadership is to move away, and stay away.
    Leave,
    /// An operator asks something of the cluster. Answered by `Action::Operated`.
    Operate {
        /// Number for the answer.
        number: crate::node::OperationNumber,
        /// What is asked.
        operation: crate::node::Operation,
    },
}
