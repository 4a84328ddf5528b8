//! The closed set of outputs of a node. The shell carries them out in the order given.

use std::sync::Arc;

use bytes::Bytes;
use quorate_codec::TopicFilter;
use quorate_state::command::{AdvertisedListener, Duty, RouteTarget};
use quorate_state::effect::DropReason;
use quorate_state::{BackupId, ConnId, GroupId, Incarnation, LogIndex, NodeId, WillId};

use crate::edge::{ClientEvent, DirectMessage};
use crate::peer::PeerMessage;

/// Something the shell must do.
#[derive(Debug)]
pub enum Action {
    /// Send to a peer, first in, first out per peer. Lost without harm when the link is down.
    Send(NodeId, PeerMessage),
    /// Write to the log, then sync, then report `Event::Persisted(ticket)`. Tickets grow.
    Persist {
        /// Ticket.
        ticket: u64,
        /// Records, in order.
        records: Vec<LogRecord>,
        /// Whether a sync is needed; without it, the record may ride along with the next one and
        /// no `Persisted` is owed.
        sync: bool,
    },
    /// Tell a client connection. Events for one connection stay in order.
    Client(ConnId, ClientEvent),
    /// Hand a message to the connections that take it directly, of this node and of others, by the routes of now.
    HandOver(Arc<DirectMessage>),
    /// A will is due. Find its targets by the routes of now, and answer with `Event::WillRouted`.
    RouteWill {
        /// Partition of the session that had it.
        group: GroupId,
        /// The will.
        will: WillId,
        /// Its message.
        message: Arc<DirectMessage>,
    },
    /// The route table changed.
    Route {
        /// Filter.
        filter: TopicFilter,
        /// Target.
        target: RouteTarget,
        /// Added, or removed.
        added: bool,
    },
    /// The route table is to be replaced whole: control was restored from a snapshot.
    RoutesReplaced(Vec<(TopicFilter, RouteTarget)>),
    /// The node holds its lease until this time; before the first, and after it has passed, it acknowledges nothing.
    LeaseUntil(core::time::Duration),
    /// Known nodes changed: links are to be opened and closed.
    Peers(Vec<PeerAddress>),
    /// Write a checkpoint: these records changed since the last one. Report `Event::Checkpointed`.
    Checkpoint {
        /// Group.
        group: GroupId,
        /// Applied index.
        index: LogIndex,
        /// Term of that entry.
        term: u64,
        /// Membership at that index, encoded by `raft::conf_state`.
        conf_state: Vec<u8>,
        /// Changed records; `None` deletes.
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        /// It is a group's part of this backup: keep a view of exactly this checkpoint, and what it refers to, until the
        /// backup has been read or given up.
        keep_for: Option<BackupId>,
    },
    /// Stream the group's last checkpoint with all bodies it refers to, then the message; report `SnapshotSent`.
    SendSnapshot {
        /// Receiver.
        to: NodeId,
        /// Group.
        group: GroupId,
        /// The Raft message to hand over with it.
        message: Box<raft::eraftpb::Message>,
    },
    /// Make the staged snapshot the group's state, atomically; report `SnapshotInstalled`.
    InstallSnapshot {
        /// Group.
        group: GroupId,
        /// Index it covers.
        index: LogIndex,
        /// Its term.
        term: u64,
    },
    /// Make a higher incarnation durable and report it: this one was declared dead. All client connections have been
    /// told to close.
    NewIncarnation,
    /// Control has decided about `Event::Join`.
    Joined {
        /// The disk that asked.
        disk: [u8; 16],
        /// Its identity, or why it may not join.
        decision: Result<NodeId, String>,
        /// The nodes it must speak with.
        peers: Vec<PeerAddress>,
    },
    /// An operator wants this of the node from now on. Told when it changes, and at the start when it is not everything.
    Duty(Duty),
    /// The level that the cluster uses. Told when it changes, and at the start.
    Level(u32),
    /// Where clients of a listener can go instead: the listeners of the other nodes in service. Told when it changes.
    Elsewhere(Vec<AdvertisedListener>),
    /// Answer to `Event::Operate`: done and durable, or why nothing was changed.
    Operated {
        /// Number of the operation.
        number: crate::node::OperationNumber,
        /// What became of it.
        outcome: Result<(), String>,
    },
    /// Count dropped messages.
    Dropped(DropReason, u64),
    /// End the process at once, and say why: this program cannot read what the others wrote, and must not go on without
    /// it.
    Stop(String),
    /// End the process at once, and say why: the disk no longer has what this node has acknowledged. The next start asks the
    /// others ([`crate::witness`]).
    Lost(String),
    /// Something an operator should see in the log.
    Note(Note),
    /// Forget a group that this node no longer has. Answered by `Event::GroupRemoved`.
    RemoveGroup(GroupId),
    /// This node was removed from its cluster: it is to end.
    Removed,
    /// Identities that are gone for good, all of them: a node that comes with one of these is told so.
    Gone(Vec<NodeId>),
}

/// A record for the log.
#[derive(Clone, PartialEq, Debug)]
pub enum LogRecord {
    /// An entry; overwrites what is at its index and after.
    Entry {
        /// Group.
        group: GroupId,
        /// Index.
        index: LogIndex,
        /// Term.
        term: u64,
        /// Raft entry type (0 normal, 1 and 2 membership).
        entry_type: u8,
        /// Data.
        data: Bytes,
        /// Context (membership changes only).
        context: Bytes,
    },
    /// Hard state of a group.
    HardState {
        /// Group.
        group: GroupId,
        /// Term.
        term: u64,
        /// Vote; 0 for none.
        vote: u64,
        /// Commit index.
        commit: u64,
    },
}

/// Where a peer listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Identity.
    pub node: NodeId,
    /// Name, as in its certificate.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

/// A change that an operator cares about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    /// This node became leader of a group.
    Leading {
        /// The group.
        group: GroupId,
        /// In this term.
        term: u64,
        /// By the leader before it, and not by an election because that one was missed.
        handed_over: bool,
    },
    /// This node stopped leading a group.
    NotLeading(GroupId, u64),
    /// A node's incarnation was declared dead.
    NodeDown(NodeId, Incarnation),
    /// A node joined, or came back.
    NodeUp(NodeId, Incarnation),
    /// The body of a message in flight cannot be read here, at this entry: its delivery waits.
    BodyUnreadable(GroupId, LogIndex),
    /// A membership change of a group was applied.
    Membership(GroupId, String),
}
