//! A node: all its Raft groups, and everything it exchanges with its peers and its client connections.
//!
//! Owns: the groups, the streams into groups, leases, the barrier, deliveries, retained reads.
//! Does not: input or output. Call [`Node::step`] for each event, then [`Node::turn`] once for the batch, then
//! [`Node::poll_action`] until it is empty. `turn` again only after new events.
//! Invariants: nothing that Raft wants persisted first is sent before `Event::Persisted`; events for a connection come
//! in order, `Connected` first.
//! Limits: see `limits`; [`Node::congested`] says when the shell must stop handing over requests.
//! See: ARCHITECTURE.md, docs/decisions/0006-threads-and-runtime.md.

mod clients;
mod connection;
mod deliver;
mod disk_watch;
mod explain;
mod leadership;
mod lease;
mod listing;
mod operate;
mod placement;
mod retained;
mod retained_bounds;
mod shares;
mod status;
mod streams;
mod wills;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_state::command::{AdvertisedListener, Command, Duty};
use quorate_state::{
    CONTROL, ClusterConfig, ConnId, Control, Effect, GroupId, Incarnation, LogIndex, MessageRef, NodeId,
    Owner, Partition, PartitionConfig,
};
use raft::eraftpb::{HardState, MessageType};

use crate::action::{Action, Note};
use crate::consensus::group::{Group, Turn};
use crate::consensus::log::{GroupLog, GroupLogStart, LogSource, Position};
use crate::consensus::wire;
use crate::event::Event;
use crate::limits;
use crate::machine::Machine;
use crate::peer::PeerMessage;
use crate::stream::{NodeStream, OutboxStream, Report};

pub use explain::{ReplicaView, SessionView};
pub use listing::{
    BacklogOrder, BacklogRow, GroupPlace, RetainedRow, SessionFilter, Slice, SubscriptionFilter,
    SubscriptionKey, SubscriptionRow,
};
pub use operate::{HeldConnection, Operation, OperationNumber};
pub use status::{Clause, GroupStatus, MembershipStatus, NodeDuty, NodeStatus};

use clients::Op;
use connection::Connections;
use deliver::DeliveryBatch;
use disk_watch::DiskWatch;
use lease::{Lease, LeaseTable};
use placement::Changes;
use retained::{RetainedReads, Wanted};
use retained_bounds::RetainedBounds;
use wills::Wills;

/// What a node must know of itself. Equal over restarts, but for the incarnation.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What it says of itself to control; `id` and `incarnation` are its identity.
    pub record: quorate_state::command::NodeRecord,
    /// Settings of the cluster, from its bootstrap.
    pub cluster: ClusterConfig,
    /// Settings of every partition; `group` is set per partition.
    pub partition: PartitionConfig,
    /// Where clients reach it.
    pub listeners: Vec<AdvertisedListener>,
    /// Seed for election jitter.
    pub seed: u64,
    /// Memory that it may hold.
    pub memory: MemoryShares,
}

/// What a node may hold in memory of what is underway, in bytes. May differ between nodes and between starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryShares {
    /// Commands for one group that are not applied.
    pub stream_bytes_max: usize,
    /// Commands for all groups together.
    pub streams_bytes_max: usize,
    /// Written entries of one group, kept for followers.
    pub entries_bytes_max: usize,
    /// Entries of one group that are proposed and not committed.
    pub uncommitted_bytes_max: u64,
}

impl Default for MemoryShares {
    /// With memory in plenty.
    fn default() -> Self {
        MemoryShares {
            stream_bytes_max: limits::STREAM_BYTES_MAX,
            streams_bytes_max: usize::MAX,
            entries_bytes_max: limits::ENTRIES_IN_MEMORY_BYTES_MAX,
            uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
        }
    }
}

/// A group as recovered from disk, or as a new one begins.
#[derive(Debug)]
pub struct RestoredGroup {
    /// Group.
    pub group: GroupId,
    /// Term, vote and commit index.
    pub hard_state: (u64, u64, u64),
    /// Membership at the checkpoint, as `Action::Checkpoint` gave it.
    pub conf_state: Bytes,
    /// Checkpoint.
    pub checkpoint: Position,
    /// The log begins after this position.
    pub start: Position,
    /// Last index in the log.
    pub last: LogIndex,
    /// What the others knew to be committed when this node started: it elects nobody who lacks it. The first position when nobody
    /// could say.
    pub committed_elsewhere: Position,
    /// Records of the checkpoint.
    pub records: Vec<(Bytes, Bytes)>,
}

impl RestoredGroup {
    /// A replica that has yet to get its first snapshot: it belongs to no membership and never votes for itself.
    pub fn empty(group: GroupId) -> Self {
        let mut conf_state = bytes::BytesMut::new();
        wire::encode_conf_state(&raft::eraftpb::ConfState::default(), &mut conf_state);
        RestoredGroup {
            group,
            hard_state: (0, 0, 0),
            conf_state: conf_state.freeze(),
            checkpoint: Position::default(),
            start: Position::default(),
            last: LogIndex(0),
            committed_elsewhere: Position::default(),
            records: Vec::new(),
        }
    }
}

/// A node cannot start from what was recovered.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The membership of a checkpoint does not decode.
    #[error("membership of group {group} in its checkpoint: {source}")]
    Membership {
        /// Group.
        group: GroupId,
        /// Cause.
        source: crate::bytes_io::Malformed,
    },
    /// The records of a checkpoint do not decode.
    #[error("checkpoint of group {group}: {source}")]
    Checkpoint {
        /// Group.
        group: GroupId,
        /// Cause.
        source: quorate_state::RestoreError,
    },
    /// The consensus engine refuses the group's start.
    #[error("group {group}: {source}")]
    Raft {
        /// Group.
        group: GroupId,
        /// Cause.
        source: raft::Error,
    },
}

/// One node.
pub struct Node {
    config: NodeConfig,
    id: NodeId,
    incarnation: Incarnation,
    source: Arc<dyn LogSource>,
    groups: BTreeMap<GroupId, Group>,
    turn: Turn,
    actions: VecDeque<Action>,
    to_self: VecDeque<PeerMessage>,
    peers_up: BTreeSet<NodeId>,
    streams: BTreeMap<GroupId, NodeStream<Op>>,
    outboxes: BTreeMap<(GroupId, GroupId), OutboxStream>,
    leader_hints: BTreeMap<GroupId, NodeId>,
    connections: Connections,
    lease: Lease,
    lease_table: Option<LeaseTable>,
    barrier: LogIndex,
    announced: Option<Incarnation>,
    /// As leader of control: incarnations that are declared lost, and get no lease from this leadership any more.
    lost: BTreeSet<(NodeId, Incarnation)>,
    /// Those of them that are not in the log yet.
    lost_unproposed: Vec<(NodeId, Incarnation)>,
    retained: RetainedReads,
    retained_bounds: RetainedBounds,
    wills: Wills,
    /// Wills became due in this pass.
    wills_due: bool,
    deliveries: BTreeMap<(NodeId, Incarnation, GroupId), DeliveryBatch>,
    leads: BTreeSet<GroupId>,
    placed_at: Duration,
    /// Time of the event or turn that is being worked on.
    now: Duration,
    renewing: bool,
    /// About to stop: it leads nothing from now on.
    leaving: bool,
    /// How the disk keeps up.
    disk: DiskWatch,
    /// What the shell was last told to be wanted of this node.
    duty_told: Duty,
    /// The level that the shell was last told.
    level_told: u32,
    /// The incarnation in which this node last told control of its listeners.
    listeners_told: Option<Incarnation>,
    /// Where the shell was last told that clients can go instead.
    elsewhere_told: Vec<AdvertisedListener>,
    /// Who is to lead each group, as control is now.
    preferred: BTreeMap<GroupId, NodeId>,
    /// What this node does about membership.
    changes: Changes,
}

impl Node {
    /// A node that starts from what the shell recovered. `groups` must contain control.
    ///
    /// # Errors
    /// [`StartError`] when what was recovered does not fit together.
    pub fn new(
        config: NodeConfig,
        groups: Vec<RestoredGroup>,
        source: Arc<dyn LogSource>,
        now: Duration,
    ) -> Result<Node, StartError> {
        let mut node = Node {
            id: config.record.id,
            incarnation: config.record.incarnation,
            config,
            source,
            groups: BTreeMap::new(),
            turn: Turn { ticket: 1, ..Turn::default() },
            actions: VecDeque::new(),
            to_self: VecDeque::new(),
            peers_up: BTreeSet::new(),
            streams: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            leader_hints: BTreeMap::new(),
            connections: Connections::default(),
            lease: Lease::default(),
            lease_table: None,
            barrier: LogIndex(0),
            announced: None,
            lost: BTreeSet::new(),
            lost_unproposed: Vec::new(),
            retained: RetainedReads::default(),
            retained_bounds: RetainedBounds::default(),
            wills: Wills::default(),
            wills_due: false,
            deliveries: BTreeMap::new(),
            leads: BTreeSet::new(),
            placed_at: now,
            now,
            renewing: false,
            leaving: false,
            disk: DiskWatch::default(),
            duty_told: Duty::Full,
            level_told: 0,
            listeners_told: None,
            elsewhere_told: Vec::new(),
            preferred: BTreeMap::new(),
            changes: Changes::default(),
        };
        for restored in groups {
            let group = node.restore_group(restored)?;
            node.groups.insert(group.id(), group);
        }
        node.announce();
        node.publish_routes();
        node.publish_peers();
        node.heed_control();
        node.campaign_where_first();
        Ok(node)
    }

    /// The first state of every group that `me` has a replica of, in a cluster that starts now with these nodes. The
    /// shell makes it durable as a checkpoint before [`Node::new`].
    pub fn bootstrap_groups(
        cluster: &ClusterConfig,
        partition: &PartitionConfig,
        nodes: &[quorate_state::command::NodeRecord],
        me: NodeId,
    ) -> Vec<RestoredGroup> {
        let control = Control::bootstrap(cluster.clone(), nodes);
        let mut groups = Vec::new();
        for number in 0..=cluster.partitions {
            let group = GroupId(number);
            let voters = control.placement(group);
            if !voters.contains(&me) {
                continue;
            }
            let records: Vec<(Bytes, Bytes)> = if group == CONTROL {
                control.records().map(|(key, value)| (key.into(), value.into())).collect()
            } else {
                let config = PartitionConfig { group, partitions: cluster.partitions, ..partition.clone() };
                Partition::new(config).records().map(|(key, value)| (key.into(), value.into())).collect()
            };
            let conf_state = Node::first_membership(voters);
            let first = Position { index: 1, term: 1 };
            groups.push(RestoredGroup {
                group,
                hard_state: (1, 0, 1),
                conf_state,
                checkpoint: first,
                start: first,
                last: LogIndex(1),
                committed_elsewhere: Position::default(),
                records,
            });
        }
        groups
    }

    /// The membership of a group with these voters and nobody else, encoded: what the first checkpoint of a group names.
    #[must_use]
    pub fn first_membership(voters: &[NodeId]) -> Bytes {
        let members = raft::eraftpb::ConfState {
            voters: voters.iter().map(|node| node.0).collect(),
            ..Default::default()
        };
        let mut encoded = bytes::BytesMut::new();
        wire::encode_conf_state(&members, &mut encoded);
        encoded.freeze()
    }

    /// Makes a replica, empty until its first snapshot, of every group that is placed here and not here yet.
    fn adopt_groups(&mut self) {
        let Some(control) = self.control() else { return };
        let placed: Vec<GroupId> = (0..=control.config().partitions)
            .map(GroupId)
            .filter(|group| control.placement(*group).contains(&self.id) && !self.groups.contains_key(group))
            .filter(|group| !self.changes.removing.contains(group))
            .collect();
        for group in placed {
            if let Ok(group) = self.restore_group(RestoredGroup::empty(group)) {
                self.groups.insert(group.id(), group);
            }
        }
    }

    fn restore_group(&self, restored: RestoredGroup) -> Result<Group, StartError> {
        let group = restored.group;
        let members = wire::decode_conf_state(restored.conf_state)
            .map_err(|source| StartError::Membership { group, source })?;
        let applied = LogIndex(restored.checkpoint.index);
        let machine =
            Machine::restore(group, &self.config.cluster, &self.config.partition, applied, restored.records)
                .map_err(|source| StartError::Checkpoint { group, source })?;
        let (term, vote, commit) = restored.hard_state;
        let hard_state = HardState {
            term: term.max(restored.checkpoint.term),
            vote,
            commit: commit.max(restored.checkpoint.index).min(restored.last.0.max(restored.start.index)),
            ..HardState::default()
        };
        let start = GroupLogStart {
            hard_state,
            start: restored.start,
            last: restored.last.0,
            checkpoint: restored.checkpoint,
            conf_state: members.clone(),
        };
        let memory = &self.config.memory;
        let log = GroupLog::new(group, Arc::clone(&self.source), start, memory.entries_bytes_max);
        let (seed, uncommitted) = (self.config.seed, memory.uncommitted_bytes_max);
        let mut started = Group::new(group, self.id, log, machine, members, seed, uncommitted)
            .map_err(|source| StartError::Raft { group, source })?;
        started.elect_none_without(restored.committed_elsewhere);
        Ok(started)
    }

    /// Takes one event in. Cheap: the work is done by [`Node::turn`].
    pub fn step(&mut self, event: Event, now: Duration) {
        self.now = now;
        match event {
            Event::Tick => self.tick(now),
            Event::PeerUp(peer) => self.peer_up(peer),
            Event::PeerDown(peer) => self.peer_down(peer, now),
            Event::Peer(from, message) => self.receive(from, message, now),
            Event::Client(conn, request) => self.client_request(conn, request, now),
            Event::Persisted(ticket) => {
                self.disk.done(ticket, now);
                for group in self.groups.values_mut() {
                    group.persisted(ticket, &mut self.turn);
                }
            }
            Event::Checkpointed { group, index } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.checkpointed(index);
                }
            }
            Event::CheckpointWanted(group) => {
                let action = self.groups.get_mut(&group).and_then(Group::take_checkpoint);
                self.actions.extend(action);
            }
            Event::Compacted { group, index, term } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.compacted(Position { index: index.0, term });
                }
            }
            Event::SnapshotStaged { from, group, message } => {
                self.receive(from, PeerMessage::Raft(group, message), now);
            }
            Event::SnapshotInstalled { group, index, records } => self.installed(group, index, records),
            Event::SnapshotSent { to, group, delivered } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.snapshot_sent(to, delivered);
                }
            }
            Event::GroupRemoved(group) => {
                self.changes.removing.remove(&group);
                self.adopt_groups();
            }
            Event::Incarnation(incarnation) => self.begin_incarnation(incarnation),
            Event::Join(record) => {
                let disk = record.disk;
                self.push(CONTROL, &Command::NodeJoin { node: *record }, Op::Join(disk));
            }
            Event::WillRouted { group, will, targets } => self.will_routed(group, will, targets),
            Event::LogFull(full) => self.disk.set_log_full(full),
            Event::DiskLow(low) => self.disk.set_low(low),
            Event::Leave => self.leave(),
            Event::Operate { number, operation } => self.operate(number, operation),
        }
    }

    /// Does what the events of this batch made possible.
    pub fn turn(&mut self, now: Duration) {
        self.now = now;
        // Each pass may hand this node messages to itself; a chain longer than this goes on in the next turn.
        for _ in 0..16 {
            self.send_streams(now);
            self.deliver_to_self(now);
            self.propose(now);
            self.start_rounds();
            self.move_barrier();
            for group in self.groups.values_mut() {
                group.collect(now, &mut self.turn);
            }
            self.finish_pass(now);
            let idle = self.to_self.is_empty() && !self.groups.values().any(Group::has_work);
            if idle && !self.streams_waiting(now) {
                break;
            }
        }
        self.emit();
    }

    /// The next thing for the shell to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Too much waits for groups to apply it: hand over no more client requests until this is false again.
    pub fn congested(&self) -> bool {
        let memory = &self.config.memory;
        let mut all = 0_usize;
        self.streams.values().any(|stream| {
            all = all.saturating_add(stream.bytes());
            stream.bytes() >= memory.stream_bytes_max || all >= memory.streams_bytes_max
        })
    }

    /// Whether the shell was told to install a snapshot of the group and has not reported that it did.
    pub fn is_installing(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(Group::is_installing)
    }

    /// Whether a message in that entry is still referred to: its body must survive when the log is shortened.
    pub fn live(&self, group: GroupId, index: LogIndex) -> bool {
        self.groups.get(&group).is_some_and(|group| group.machine().live(index))
    }

    /// Index that the durable checkpoint of a group covers: the log may be shortened up to there.
    pub fn checkpointed(&self, group: GroupId) -> LogIndex {
        self.groups.get(&group).map_or(LogIndex(0), |group| LogIndex(group.checkpoint().index))
    }

    /// Identity.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn control(&self) -> Option<&Control> {
        self.groups.get(&CONTROL)?.machine().control()
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        if to == self.id {
            self.to_self.push_back(message);
        } else if self.peers_up.contains(&to) {
            self.actions.push_back(Action::Send(to, message));
        }
    }

    fn client(&mut self, conn: ConnId, event: crate::edge::ClientEvent) {
        self.actions.push_back(Action::Client(conn, event));
    }

    fn deliver_to_self(&mut self, now: Duration) {
        while let Some(message) = self.to_self.pop_front() {
            self.receive(self.id, message, now);
        }
    }

    fn receive(&mut self, from: NodeId, message: PeerMessage, now: Duration) {
        match message {
            PeerMessage::Raft(group, message) => {
                if group == CONTROL && message.get_msg_type() == MessageType::MsgRequestPreVote {
                    self.tell_nodes(from);
                }
                let Some(group) = self.groups.get_mut(&group) else { return };
                if from != self.id {
                    group.note_shown(from, &message);
                }
                match group.lacks_acknowledged(&message) {
                    Some((entry, last)) => self.actions.push_back(Action::Lost(format!(
                        "node {} counts on entry {entry} of group {} here, and the log ends at {last}: entries that were \
                         acknowledged are gone",
                        from.0,
                        group.id()
                    ))),
                    // Raft sends again what got lost.
                    None if self.disk.is_log_full() && has_entries(&message) => (),
                    None => group.receive(*message),
                }
            }
            PeerMessage::StreamAppend { group, stream, first, confirmed, commands } => {
                let piece = crate::stream::Piece { first, confirmed, commands };
                self.stream_append(from, group, stream, piece);
            }
            PeerMessage::StreamApplied { group, stream, after, applied, replies } => {
                let report = Report { after, applied, replies };
                self.stream_applied(from, group, stream, report, now);
            }
            PeerMessage::StreamReject { group, stream, expected, leader } => {
                self.stream_rejected(from, group, stream, expected, leader, now);
            }
            PeerMessage::Deliver { group, incarnation, items } => {
                self.deliver_here(from, group, incarnation, items)
            }
            PeerMessage::Resync { group, session, from: seq } => {
                self.resync_session(from, group, session, seq)
            }
            PeerMessage::CloseConn { incarnation, conn, reason } => {
                self.close_for_peer(from, incarnation, conn, reason);
            }
            PeerMessage::ConnClosed { incarnation, conn } => {
                self.previous_ended(Owner { node: from, incarnation, conn })
            }
            PeerMessage::LeaseRequest { incarnation, sent_ms, applied } => {
                self.lease_asked(from, incarnation, sent_ms, applied);
            }
            PeerMessage::LeaseGrant { incarnation, sent_ms } => self.lease_granted(incarnation, sent_ms),
            PeerMessage::ControlApplied(applied) => {
                if let Some(table) = &mut self.lease_table {
                    table.applied_to(from, applied);
                }
            }
            PeerMessage::Barrier(index) => self.barrier_moved(index, now),
            PeerMessage::RetainedQuery { group, query, filter, after, until } => {
                self.retained_asked(from, group, query, Wanted::Page { filter, after, until });
            }
            PeerMessage::RetainedBoundQuery { group, query } => {
                self.retained_asked(from, group, query, Wanted::Bound);
            }
            PeerMessage::RetainedBound { query, index } => self.retained_bound(query, index),
            PeerMessage::RetainedPage { query, messages, next } => {
                self.retained_page(query, messages, next, now);
            }
            // Direct messages never pass through the node: the shell hands them to `Routing`.
            PeerMessage::DiskUnfit => self.disk.heard_unfit(from, now),
            PeerMessage::Nodes { index, nodes } => self.nodes_told(index, nodes),
            PeerMessage::Forward(_)
            | PeerMessage::ForwardShared { .. }
            | PeerMessage::Mark { .. }
            | PeerMessage::MarkAnswer { .. } => {}
            // Nor do the counters of a node, and what the shells ask each other.
            PeerMessage::Counters { .. }
            | PeerMessage::Inquiry { .. }
            | PeerMessage::InquiryAnswer { .. } => {}
        }
    }

    fn tick(&mut self, now: Duration) {
        let heirs = self.groups.values().map(|group| self.is_heir(group)).collect::<Vec<_>>();
        for (group, is_heir) in self.groups.values_mut().zip(heirs) {
            // Without a leader: as it was when there was one.
            if let Some(is_heir) = is_heir {
                group.set_heir(is_heir);
            }
            group.tick(now);
        }
        self.tick_lease(now);
        self.tick_retained(now);
        self.tick_bounds(now);
        self.tick_releases();
        self.route_wills(now);
        self.tick_placement(now);
        self.tick_disk(now);
        let due: Vec<GroupId> =
            self.groups.values().filter(|group| group.checkpoint_due()).map(Group::id).collect();
        for group in due {
            let action = self.groups.get_mut(&group).and_then(Group::take_checkpoint);
            self.actions.extend(action);
        }
    }

    fn peer_up(&mut self, peer: NodeId) {
        self.peers_up.insert(peer);
        self.link_reset(peer);
        self.resync_node(peer);
        self.ask_previous_again(peer);
    }

    fn peer_down(&mut self, peer: NodeId, now: Duration) {
        self.peers_up.remove(&peer);
        self.link_reset(peer);
        let ranks = self.groups.values().map(|group| self.election_rank(group, peer)).collect::<Vec<_>>();
        for (group, rank) in self.groups.values_mut().zip(ranks) {
            group.peer_unreachable(peer);
            group.leader_lost(peer, limits::TICK * rank, now);
        }
    }

    /// What was underway to or from the peer is lost: streams go back, the peer is told again.
    fn link_reset(&mut self, peer: NodeId) {
        let led: Vec<GroupId> =
            self.streams.keys().copied().filter(|group| self.leader_of(*group) == Some(peer)).collect();
        for group in led {
            if let Some(stream) = self.streams.get_mut(&group) {
                stream.rewind();
            }
        }
        for outbox in self.outboxes.values_mut() {
            outbox.rewind();
        }
        for group in self.groups.values_mut() {
            if let Some(leading) = group.leading() {
                leading.intake.forget_told(peer);
            }
        }
    }

    fn finish_pass(&mut self, now: Duration) {
        if let Some(reason) = self.turn.stop.take() {
            self.stop(&reason);
        }
        self.note_leadership(now);
        let effects = std::mem::take(&mut self.turn.effects);
        for (group, effect) in effects {
            self.effect(group, effect);
        }
        self.flush_deliveries();
        if std::mem::take(&mut self.wills_due) {
            self.route_wills(now);
        }
        for (group, members) in std::mem::take(&mut self.turn.memberships) {
            let note = format!("voters {:?}, learners {:?}", members.voters, members.learners);
            self.actions.push_back(Action::Note(Note::Membership(group, note)));
        }
        for (group, round) in std::mem::take(&mut self.turn.reads) {
            self.round_done(group, round, now);
        }
        let applied: BTreeSet<GroupId> = std::mem::take(&mut self.turn.applied).into_iter().collect();
        for group in &applied {
            self.tell_applied(*group);
        }
        if applied.contains(&CONTROL) {
            self.control_applied(now);
        }
        if self.retained_bounds.take_ready() {
            self.finish_waiting(now);
        }
    }

    fn effect(&mut self, group: GroupId, effect: Effect) {
        let leading = self.groups.get(&group).is_some_and(Group::is_leading);
        match effect {
            // Told by `tell_applied`, from the state, so that none is forgotten.
            Effect::Reply { .. } => {}
            Effect::Deliver(deliver) if leading => self.deliver(group, deliver),
            Effect::Close { owner, reason, .. } if leading => {
                let close = PeerMessage::CloseConn {
                    incarnation: owner.incarnation,
                    conn: owner.conn,
                    reason: reason.value(),
                };
                self.send(owner.node, close);
            }
            Effect::WillsDue if leading => self.wills_due = true,
            Effect::Outbox { to } if leading => {
                self.outboxes.entry((group, to)).or_default();
            }
            Effect::HoldEnded if leading => {
                // What was confirmed meanwhile was not forgotten.
                self.outboxes
                    .iter_mut()
                    .filter(|((from, _), _)| *from == group)
                    .for_each(|(_, outbox)| outbox.keep_news());
            }
            Effect::Dropped { reason, count } if leading => {
                self.actions.push_back(Action::Dropped(reason, count));
            }
            Effect::Deliver(_)
            | Effect::Close { .. }
            | Effect::WillsDue
            | Effect::Outbox { .. }
            | Effect::HoldEnded
            | Effect::Dropped { .. } => {}
            // Carried out when it was applied.
            Effect::Cut { .. } => {}
            Effect::RouteChanged { filter, target, added } => {
                self.actions.push_back(Action::Route { filter, target, added });
            }
            Effect::MembershipChanged => {
                self.publish_peers();
                self.adopt_groups();
                self.heed_control();
            }
            Effect::NodeDown { node, incarnation } => self.node_down(node, incarnation),
        }
    }

    /// Leaderships that began or ended in this pass.
    fn note_leadership(&mut self, now: Duration) {
        let leads: BTreeSet<GroupId> =
            self.groups.values().filter(|group| group.is_leading()).map(Group::id).collect();
        if leads == self.leads {
            return;
        }
        let before = std::mem::replace(&mut self.leads, leads);
        for group in before.difference(&self.leads.clone()) {
            self.outboxes.retain(|(from, _), _| from != group);
            self.retained.leadership_ended(*group);
            if *group == CONTROL {
                self.lease_table = None;
            }
            let term = self.groups.get(group).map_or(0, Group::term);
            self.actions.push_back(Action::Note(Note::NotLeading(*group, term)));
        }
        for group in self.leads.clone().difference(&before) {
            self.leadership_began(*group, now);
        }
    }

    fn leadership_began(&mut self, id: GroupId, now: Duration) {
        let Some(group) = self.groups.get(&id) else { return };
        let (term, handed_over) = (group.term(), group.was_handed_over());
        for to in group.machine().outbox_destinations() {
            self.outboxes.entry((id, to)).or_default();
        }
        if id == CONTROL {
            self.lease_table = Some(LeaseTable::new(now));
            self.lost.clear();
            self.lost_unproposed.clear();
        }
        self.resync_group(id);
        self.actions.push_back(Action::Note(Note::Leading { group: id, term, handed_over }));
    }

    fn installed(&mut self, id: GroupId, index: LogIndex, records: Vec<(Bytes, Bytes)>) {
        let restored = Machine::restore(id, &self.config.cluster, &self.config.partition, index, records);
        let machine = match restored {
            Ok(machine) => machine,
            Err(error) => return self.stop(&format!("the snapshot of group {id} cannot be read: {error}")),
        };
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.installed(machine, &mut self.turn);
        self.turn.applied.push(id);
        if id == CONTROL {
            self.publish_routes();
            self.publish_peers();
            self.adopt_groups();
            self.heed_control();
            self.previous_owners_rechecked();
        }
    }

    fn stop(&mut self, reason: &str) {
        let advice = "if another node runs a newer version, install it here too";
        self.actions.push_back(Action::Stop(format!("{reason}; {advice}")));
    }

    /// Body of a message.
    fn body(&self, group: GroupId, message: MessageRef) -> Option<Bytes> {
        let data = self.groups.get(&group)?.body(message.index)?;
        let start = usize::try_from(message.offset).ok()?;
        let end = start.checked_add(usize::try_from(message.bytes).ok()?)?;
        (end <= data.len()).then(|| data.slice(start..end))
    }

    /// Hands over what this turn made: messages that may leave now, then what is to be written, then what must come
    /// after the writing.
    fn emit(&mut self) {
        let ticket = self.turn.ticket;
        let turn = std::mem::take(&mut self.turn);
        self.turn.ticket = ticket + 1;
        for (group, message) in turn.messages {
            let to = NodeId(message.to);
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.actions.push_back(Action::SendSnapshot { to, group, message: Box::new(message) });
            } else if wire::travels(message.get_msg_type()) {
                self.send(to, PeerMessage::Raft(group, Box::new(message)));
            }
        }
        if !turn.records.is_empty() || turn.sync {
            if turn.sync {
                self.disk.begun(ticket, self.now);
            }
            self.actions.push_back(Action::Persist { ticket, records: turn.records, sync: turn.sync });
        }
        self.actions.extend(turn.checkpoints);
        for (group, position) in turn.installs {
            let index = LogIndex(position.index);
            self.actions.push_back(Action::InstallSnapshot { group, index, term: position.term });
        }
        // A pass that ended the loop early may have left some of these: they stay for the next turn.
        self.turn.effects = turn.effects;
        self.turn.applied = turn.applied;
        self.turn.reads = turn.reads;
        self.turn.memberships = turn.memberships;
    }
}

/// Whether taking this message in adds to the log.
fn has_entries(message: &raft::eraftpb::Message) -> bool {
    message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty()
}

#[cfg(test)]
mod tests;
