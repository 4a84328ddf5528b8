//! One Raft group on this node: the engine, its log view and the replicated state it drives.
//!
//! Owns: the cycle of Raft's `Ready`: persist, then send, apply what is committed. Does not: act on effects, route.
//! Invariants: a message that Raft wants sent after persistence leaves only in `persisted`; entries are applied in
//! order, each once; only a leader that has applied an entry of its own term is `leading`.
//! Limits: `UNPERSISTED_ENTRIES_MAX`, `ENTRY_BYTES_MAX`. Spec: Raft, chapters 3, 4, 6 and 9.6.
//! See: docs/decisions/0002-consensus-engine.md.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use quorate_state::command::LeaderCommand;
use quorate_state::{BackupId, BatchBuilder, Effect, GroupId, LogIndex, NodeId, Timestamp};
use raft::eraftpb::{ConfChangeV2, ConfState, Entry, EntryType, HardState, Message, MessageType};
use raft::{Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};

use crate::action::{Action, LogRecord};
use crate::consensus::catch_up::CatchUp;
use crate::consensus::log::{GroupLog, Position};
use crate::consensus::{membership, wire};
use crate::limits;
use crate::machine::Machine;
use crate::stream::Intake;
use crate::witness::Shown;

/// What one turn of all groups hands to the shell and to the node.
#[derive(Default)]
pub struct Turn {
    /// Ticket of the persist action that this turn may make.
    pub ticket: u64,
    /// Records to write.
    pub records: Vec<LogRecord>,
    /// Whether one of them, or a message held back, needs a sync.
    pub sync: bool,
    /// Raft messages to send now.
    pub messages: Vec<(GroupId, Message)>,
    /// Effects of what was applied, with whether this node led the group when it applied them.
    pub effects: Vec<(GroupId, Effect)>,
    /// Groups that applied something.
    pub applied: Vec<GroupId>,
    /// Snapshots to install.
    pub installs: Vec<(GroupId, Position)>,
    /// Checkpoints to write: parts of a backup.
    pub checkpoints: Vec<Action>,
    /// Membership changes applied.
    pub memberships: Vec<(GroupId, ConfState)>,
    /// Retained reads and lease rounds that are now linearizable: group and number of the round.
    pub reads: Vec<(GroupId, u64)>,
    /// Why the node cannot go on.
    pub stop: Option<String>,
}

struct Unpersisted {
    number: u64,
    ticket: u64,
    last_entry: Option<u64>,
    messages: Vec<Message>,
}

/// State of this node as leader of the group. Ends with the leadership.
pub struct Leading {
    /// Term.
    pub term: u64,
    /// Commands waiting to be proposed.
    pub intake: Intake,
    since: Duration,
    stamp_base: Timestamp,
}

/// A Raft group.
pub struct Group {
    id: GroupId,
    me: NodeId,
    raw: RawNode<GroupLog>,
    machine: Machine,
    members: ConfState,
    /// How far the others have gone, as they have shown.
    shown: BTreeMap<u64, Shown>,
    /// What others knew to be committed when this node started.
    committed_elsewhere: Position,
    applied: Position,
    catch_up: CatchUp,
    /// As leader: where the log ended at the last ticks, oldest first.
    lasts: VecDeque<(Duration, u64)>,
    unpersisted: VecDeque<Unpersisted>,
    installing: bool,
    /// Commit index of the last hard state that was handed over.
    written_commit: u64,
    leading: Option<Leading>,
    jitter: Jitter,
    campaign_at: Option<Duration>,
    /// The last term in which this replica wanted to be elected because the leader before it asked for that; 0: none.
    handed_term: u64,
    log_bytes: u64,
    checkpoint_underway: Option<(Position, ConfState)>,
    read_round: u64,
    rounds: VecDeque<(u64, u64)>,
}

fn is_member(members: &ConfState, id: u64) -> bool {
    let kinds = [&members.voters, &members.voters_outgoing, &members.learners, &members.learners_next];
    kinds.iter().any(|some| some.contains(&id))
}

/// Election jitter from a seed, so that a run repeats.
struct Jitter {
    state: u64,
    term: u64,
    is_heir: bool,
}

impl Jitter {
    fn new(seed: u64) -> Self {
        Jitter { state: seed | 1, term: u64::MAX, is_heir: false }
    }

    /// The election timeout in ticks for a term: a new draw for each.
    fn ticks(&mut self, term: u64) -> usize {
        if self.term != term {
            self.term = term;
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
        }
        let others = limits::HEIR_JITTER_TICKS + 1;
        let (first, many) = match self.is_heir {
            true => (0, limits::HEIR_JITTER_TICKS),
            false => (others, limits::ELECTION_JITTER_TICKS - others),
        };
        let drawn = usize::try_from(self.state % many as u64).unwrap_or(0);
        limits::ELECTION_TICKS + first + drawn
    }
}

impl Group {
    /// A group that starts from what the shell recovered. It refuses proposals with so many bytes that are not committed.
    ///
    /// # Errors
    /// What the engine says of an inconsistent start.
    pub fn new(
        id: GroupId,
        me: NodeId,
        log: GroupLog,
        machine: Machine,
        members: ConfState,
        seed: u64,
        uncommitted_bytes_max: u64,
    ) -> Result<Self, raft::Error> {
        let applied = log.checkpoint();
        let config = Config {
            id: me.0,
            election_tick: limits::ELECTION_TICKS,
            heartbeat_tick: limits::HEARTBEAT_TICKS,
            min_election_tick: limits::ELECTION_TICKS,
            max_election_tick: limits::ELECTION_TICKS + limits::ELECTION_JITTER_TICKS,
            applied: applied.index,
            max_size_per_msg: limits::ENTRY_BYTES_MAX as u64,
            max_inflight_msgs: limits::APPENDS_IN_FLIGHT_MAX,
            max_uncommitted_size: uncommitted_bytes_max,
            max_committed_size_per_ready: limits::APPLY_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger)?;
        let mut group = Group {
            id,
            me,
            raw,
            machine,
            members,
            shown: BTreeMap::new(),
            committed_elsewhere: Position::default(),
            applied,
            catch_up: CatchUp::default(),
            lasts: VecDeque::new(),
            unpersisted: VecDeque::new(),
            installing: false,
            written_commit: 0,
            leading: None,
            jitter: Jitter::new(seed ^ (u64::from(id.0) << 32) ^ me.0.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            campaign_at: None,
            handed_term: 0,
            log_bytes: 0,
            checkpoint_underway: None,
            read_round: 0,
            rounds: VecDeque::new(),
        };
        group.apply_jitter();
        Ok(group)
    }

    /// Identity.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The replicated state.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Leader, as far as known here.
    pub fn leader(&self) -> Option<NodeId> {
        match self.raw.raft.leader_id {
            0 => None,
            id => Some(NodeId(id)),
        }
    }

    /// Term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Commit index.
    pub fn committed(&self) -> LogIndex {
        LogIndex(self.raw.raft.raft_log.committed)
    }

    /// Applied index.
    pub fn applied(&self) -> LogIndex {
        LogIndex(self.applied.index)
    }

    /// Whether more is committed here and not applied than what is underway.
    pub fn is_behind(&self, now: Duration) -> bool {
        self.catch_up.is_behind(self.committed().0, self.applied().0, now)
    }

    /// Membership as applied.
    pub fn members(&self) -> &ConfState {
        &self.members
    }

    /// The leadership, once an entry of this term is applied.
    pub fn leading(&mut self) -> Option<&mut Leading> {
        self.leading.as_mut()
    }

    /// Whether this node leads and has applied an entry of its term.
    pub fn is_leading(&self) -> bool {
        self.leading.is_some()
    }

    /// Both the leadership and the state, for callers that need them together.
    pub fn leading_and_machine(&mut self) -> Option<(&mut Leading, &Machine)> {
        let machine = &self.machine;
        self.leading.as_mut().map(|leading| (leading, machine))
    }

    /// Data of an entry, for a message body.
    pub fn body(&self, index: LogIndex) -> Option<Bytes> {
        self.raw.store().body(index)
    }

    /// Durable checkpoint.
    pub fn checkpoint(&self) -> Position {
        self.raw.store().checkpoint()
    }

    /// Progress of the members as the leader knows it: member and the last index known to be equal there.
    pub fn progress(&self) -> Vec<(NodeId, LogIndex)> {
        let mut progress: Vec<_> = self
            .raw
            .raft
            .prs()
            .iter()
            .map(|(id, progress)| (NodeId(*id), LogIndex(progress.matched)))
            .collect();
        progress.sort_unstable();
        progress
    }

    /// As leader: members that are being sent a snapshot.
    pub fn sent_snapshots(&self) -> Vec<NodeId> {
        let prs = self.raw.raft.prs().iter();
        let sent = prs.filter(|(_, progress)| progress.state == raft::ProgressState::Snapshot);
        sent.map(|(id, _)| NodeId(*id)).collect()
    }

    fn apply_jitter(&mut self) {
        let ticks = self.jitter.ticks(self.raw.raft.term);
        if self.raw.raft.randomized_election_timeout() != ticks {
            self.raw.raft.set_randomized_election_timeout(ticks);
        }
    }

    /// Whether this replica is to be elected when the leader falls silent: it waits less long for it than the others.
    pub fn set_heir(&mut self, is_heir: bool) {
        self.jitter.is_heir = is_heir;
    }

    /// One Raft tick.
    pub fn tick(&mut self, now: Duration) {
        self.catch_up.look(self.committed().0, self.applied().0, now);
        if self.installing {
            return;
        }
        if self.campaign_at.is_some_and(|at| now >= at) {
            self.campaign_at = None;
            if self.raw.raft.leader_id == 0 && self.raw.raft.state == StateRole::Follower {
                self.campaign();
            }
        }
        self.raw.tick();
        self.apply_jitter();
        self.end_lost_leadership();
        self.note_last(now);
    }

    /// Remembers where the log ended, to tell later which members have had the time to write it.
    fn note_last(&mut self, now: Duration) {
        if self.leading.is_none() {
            self.lasts.clear();
            return;
        }
        self.lasts.push_back((now, self.raw.raft.raft_log.last_index()));
        while self.lasts.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= limits::DISK_HANG) {
            self.lasts.pop_front();
        }
    }

    /// As leader: where the log ended `DISK_HANG` ago. A member that has not written so far has a disk that hangs, or no link.
    pub fn last_before_hang(&self) -> u64 {
        self.lasts.front().map_or(0, |(_, last)| *last)
    }

    /// Starts an election now.
    pub fn campaign(&mut self) {
        if self.raw.raft.promotable() {
            // A refused campaign is as good as none: the timeout starts the next.
            let _ = self.raw.campaign();
            self.apply_jitter();
        }
    }

    /// The link to the leader was reset: forget it, so that others' pre-votes are heard, and campaign after `delay`.
    pub fn leader_lost(&mut self, leader: NodeId, delay: Duration, now: Duration) {
        let raft = &mut self.raw.raft;
        if raft.leader_id == leader.0 && raft.state == StateRole::Follower && !self.installing {
            raft.become_follower(raft.term, 0);
            self.apply_jitter();
            self.campaign_at = Some(now + delay);
        }
    }

    /// The link to a member was reset: what was sent may be lost.
    pub fn peer_unreachable(&mut self, peer: NodeId) {
        self.raw.report_unreachable(peer.0);
    }

    /// How far a member has gone, as it has shown since this node started.
    pub fn shown_by(&self, member: NodeId) -> Shown {
        self.shown.get(&member.0).copied().unwrap_or_default()
    }

    /// Members that are gone show nothing: one that comes again begins anew.
    fn forget_shown(&mut self) {
        let members = &self.members;
        self.shown.retain(|id, _| is_member(members, *id));
    }

    /// Notes what a message from another member shows of it. To be called for each, whatever becomes of it.
    pub fn note_shown(&mut self, from: NodeId, message: &Message) {
        if let Some(shown) = Shown::of(message).filter(|_| is_member(&self.members, from.0)) {
            let known = self.shown.entry(from.0).or_default();
            *known = shown.max(*known);
        }
    }

    /// The leader counts on an entry that this replica does not have: a heartbeat never tells of more than what was acknowledged. The
    /// entry and the end of the log here.
    pub fn lacks_acknowledged(&self, message: &Message) -> Option<(u64, u64)> {
        let last = self.raw.raft.raft_log.last_index();
        let counts = message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.raw.raft.term
            && last > 0
            && message.commit > last
            && !self.installing;
        counts.then_some((message.commit, last))
    }

    /// From now on this replica votes for nobody who lacks this committed entry, and does not become leader while it lacks it itself: it
    /// may have been among those that made it committed, and have lost it.
    pub fn elect_none_without(&mut self, committed: Position) {
        self.committed_elsewhere = committed;
    }

    /// Committed here, with its term.
    pub fn committed_position(&self) -> Position {
        let log = &self.raw.raft.raft_log;
        // Compacted: then the checkpoint is committed too, and its term is known.
        let term = log.term(log.committed).ok().filter(|term| *term > 0);
        term.map_or(self.checkpoint(), |term| Position { term, index: log.committed })
    }

    /// What would help somebody to be elected who lacks what is known to be committed.
    fn elects_who_lacks(&self, message: &Message) -> bool {
        let committed = self.committed_elsewhere;
        match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
                Position { term: message.log_term, index: message.index } < committed
            }
            MessageType::MsgRequestPreVoteResponse | MessageType::MsgTimeoutNow => {
                let log = &self.raw.raft.raft_log;
                Position { term: log.last_term(), index: log.last_index() } < committed
            }
            _ => false,
        }
    }

    /// A Raft message from a peer. What Raft refuses is dropped: it is stale, or from a removed member.
    pub fn receive(&mut self, message: Message) {
        // Between a snapshot and its place in the log there is no log that entries could follow; one that was just received is not
        // `installing` yet.
        if self.installing || self.raw.raft.raft_log.unstable.snapshot.is_some() {
            return;
        }
        // A replica that knows nothing promises nothing: it may have been here before, and have voted.
        let asks_for_vote =
            matches!(message.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        // Nor has it acknowledged anything: what tells it so is meant for the replica that was here before.
        let is_stale = message.get_msg_type() == MessageType::MsgHeartbeat && message.commit > 0;
        if (asks_for_vote || is_stale) && self.raw.raft.raft_log.last_index() == 0 {
            return;
        }
        if self.elects_who_lacks(&message) {
            return;
        }
        let before = (message.get_msg_type() == MessageType::MsgTimeoutNow).then_some(self.raw.raft.term);
        let _ = self.raw.step(message);
        if before.is_some_and(|before| self.raw.raft.term > before) {
            self.handed_term = self.raw.raft.term;
        }
        self.apply_jitter();
        self.end_lost_leadership();
    }

    /// Whether this node leads because the leader before it handed leadership over, and not because a leader was missed.
    pub fn was_handed_over(&self) -> bool {
        self.leading.as_ref().is_some_and(|leading| leading.term == self.handed_term)
    }

    /// Raft may have stepped down since the last `collect`; it would forward a proposal made now, under a stamp that
    /// is no longer ours to give.
    fn end_lost_leadership(&mut self) {
        let raft = &self.raw.raft;
        if self
            .leading
            .as_ref()
            .is_some_and(|leading| raft.state != StateRole::Leader || leading.term != raft.term)
        {
            self.leading = None;
            self.rounds.clear();
        }
    }

    /// How a snapshot sent to a member ended.
    pub fn snapshot_sent(&mut self, to: NodeId, delivered: bool) {
        let status = if delivered { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raw.report_snapshot(to.0, status);
    }

    /// Moves leadership to a member.
    pub fn transfer(&mut self, to: NodeId) {
        self.raw.transfer_leader(to.0);
    }

    /// Whether a transfer is underway.
    pub fn transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Replicated time now, as the leader stamps it; elsewhere that of the last entry.
    pub fn stamp(&self, now: Duration) -> Timestamp {
        let Some(leading) = &self.leading else { return self.machine.now() };
        let elapsed = now.saturating_sub(leading.since).as_millis();
        Timestamp(leading.stamp_base.0 + u64::try_from(elapsed).unwrap_or(u64::MAX)).max(self.machine.now())
    }

    /// Proposes what waits in the intake and what the leader itself adds, as one entry, if there is room.
    pub fn propose(
        &mut self,
        leader_commands: Vec<LeaderCommand>,
        now: Duration,
    ) -> Result<(), Vec<LeaderCommand>> {
        if self.unpersisted.iter().filter(|ready| ready.last_entry.is_some()).count()
            >= limits::UNPERSISTED_ENTRIES_MAX
            || self.transferring()
        {
            return Err(leader_commands);
        }
        let stamp = self.stamp(now);
        let due = self.machine.next_deadline().is_some_and(|deadline| deadline <= stamp);
        let Some(leading) = self.leading.as_mut() else { return Err(leader_commands) };
        if leading.intake.is_empty() && leader_commands.is_empty() && !due {
            return Ok(());
        }
        let mut builder = BatchBuilder::new(stamp);
        for (stream, first, confirmed, commands) in leading.intake.take(limits::ENTRY_BYTES_MAX) {
            builder.segment(stream, first, confirmed, commands.len(), &commands);
        }
        for command in &leader_commands {
            builder.leader(command.clone());
        }
        let entry = Entry { data: builder.finish(), ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.me.0;
        message.set_entries(vec![entry].into());
        if self.raw.step(message).is_err() {
            // Dropped: too much is uncommitted, or leadership is going. Senders go back to what was applied.
            leading.intake = Intake::default();
            return Err(leader_commands);
        }
        Ok(())
    }

    /// Proposes a membership change; false when one is underway or Raft refuses.
    pub fn propose_membership(&mut self, change: &ConfChangeV2) -> bool {
        let pending = self.raw.raft.has_pending_conf();
        !pending && self.raw.propose_conf_change(membership::encode(change), change.clone()).is_ok()
    }

    /// Starts a round that proves leadership; its number comes back in [`Turn::reads`] when it is proven and applied.
    pub fn prove_leadership(&mut self) -> Option<u64> {
        self.leading.as_ref()?;
        self.read_round += 1;
        self.raw.read_index(self.read_round.to_le_bytes().to_vec());
        Some(self.read_round)
    }

    /// Readies up to this ticket are on disk.
    pub fn persisted(&mut self, ticket: u64, turn: &mut Turn) {
        let mut number = None;
        while self.unpersisted.front().is_some_and(|ready| ready.ticket <= ticket) {
            let Some(ready) = self.unpersisted.pop_front() else { break };
            number = Some(ready.number);
            if let Some(index) = ready.last_entry {
                self.raw.mut_store().persisted_to(index);
            }
            turn.messages.extend(ready.messages.into_iter().map(|message| (self.id, message)));
        }
        if let Some(number) = number {
            self.raw.on_persist_ready(number);
        }
    }

    /// Everything Raft has ready: records to write, messages to send, entries to apply.
    pub fn collect(&mut self, now: Duration, turn: &mut Turn) {
        while !self.installing && self.raw.has_ready() {
            let mut ready = self.raw.ready();
            turn.messages.extend(ready.take_messages().into_iter().map(|message| (self.id, message)));
            for read in ready.take_read_states() {
                if let Ok(round) = <[u8; 8]>::try_from(read.request_ctx.as_slice()) {
                    self.rounds.push_back((u64::from_le_bytes(round), read.index));
                }
            }
            let snapshot = ready.snapshot().clone();
            if !snapshot.is_empty() {
                self.raw.mut_store().restore(&snapshot);
                self.members = snapshot.get_metadata().get_conf_state().clone();
                self.forget_shown();
                self.checkpoint_underway = None;
            }
            let committed = ready.take_committed_entries();
            let settled = self.write(&mut ready, turn);
            let number = ready.number();
            if !snapshot.is_empty() {
                let metadata = snapshot.get_metadata();
                self.installing = true;
                turn.installs.push((self.id, Position { index: metadata.index, term: metadata.term }));
            }
            self.raw.advance_append_async(ready);
            if settled {
                self.raw.on_persist_ready(number);
            }
            self.apply(committed, turn);
            if !self.installing {
                self.raw.advance_apply_to(self.applied.index);
            }
        }
        self.update_leading(now);
        self.finish_rounds(turn);
    }

    /// Hands over what is to be written; true when nothing of it waits for the disk.
    fn write(&mut self, ready: &mut raft::Ready, turn: &mut Turn) -> bool {
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        let last_entry = entries.last().map(|entry| entry.index);
        for entry in entries {
            turn.records.push(LogRecord::Entry {
                group: self.id,
                index: LogIndex(entry.index),
                term: entry.term,
                entry_type: wire::entry_type_code(entry.get_entry_type()),
                data: entry.data,
                context: entry.context,
            });
        }
        self.keep_hard_state(ready.hs(), ready.must_sync(), turn);
        let messages = ready.take_persisted_messages();
        let number = ready.number();
        if !ready.snapshot().is_empty() {
            // Released by `installed`, whatever is persisted before.
            self.unpersisted.push_back(Unpersisted { number, ticket: u64::MAX, last_entry, messages });
        } else if ready.must_sync() {
            turn.sync = true;
            self.unpersisted.push_back(Unpersisted { number, ticket: turn.ticket, last_entry, messages });
        } else if let Some(last) = self.unpersisted.back_mut() {
            // It has no entries: those would have to be synced.
            last.number = number;
            last.messages.extend(messages);
            let surplus = last.messages.len().saturating_sub(limits::HELD_MESSAGES_MAX);
            last.messages.drain(..surplus);
        } else {
            // Nothing of this ready needs the disk, and nothing before it waits for it.
            turn.messages.extend(messages.into_iter().map(|message| (self.id, message)));
            return true;
        }
        false
    }

    /// Hands the hard state over if something is written anyway. A commit index alone is not worth a sync: it is learned again after
    /// a restart. But it goes with every entry, for memberships take effect when they are applied: whoever has the entry that leaves a
    /// joint membership in its log must know after a restart that the one that entered it is committed, or it could be elected by a
    /// majority of the membership before, beside a leader elected by one of the membership after.
    fn keep_hard_state(&mut self, changed: Option<&HardState>, must_sync: bool, turn: &mut Turn) {
        let mut hard_state = changed.unwrap_or_else(|| self.raw.store().hard_state()).clone();
        hard_state.commit = hard_state.commit.max(self.raw.raft.raft_log.committed);
        if must_sync && (changed.is_some() || hard_state.commit > self.written_commit) {
            self.write_hard_state(&hard_state, turn);
        }
        self.raw.mut_store().set_hard_state(hard_state);
    }

    fn write_hard_state(&mut self, hard_state: &HardState, turn: &mut Turn) {
        self.written_commit = hard_state.commit;
        turn.records.push(LogRecord::HardState {
            group: self.id,
            term: hard_state.term,
            vote: hard_state.vote,
            commit: hard_state.commit,
        });
    }

    /// Hands the commit index over now. Whoever has applied that a member has left must know so after a restart: in the joint membership
    /// before, it would need a majority of members that may be gone for good by then.
    fn write_commit(&mut self, turn: &mut Turn) {
        let mut hard_state = self.raw.store().hard_state().clone();
        hard_state.commit = hard_state.commit.max(self.raw.raft.raft_log.committed);
        if hard_state.commit > self.written_commit {
            turn.sync = true;
            self.write_hard_state(&hard_state, turn);
            self.raw.mut_store().set_hard_state(hard_state);
        }
    }

    fn apply(&mut self, committed: Vec<Entry>, turn: &mut Turn) {
        if committed.is_empty() {
            return;
        }
        let mut effects = Vec::new();
        for entry in committed {
            assert!(entry.index == self.applied.index + 1, "an entry applied out of order");
            let index = LogIndex(entry.index);
            if let Some(error) = unreadable(&entry) {
                // Skipped here and applied elsewhere, it would make replicas differ for ever.
                let reason = format!("entry {index} of group {} cannot be read: {error}", self.id);
                turn.stop = Some(reason);
                break;
            }
            self.log_bytes += entry.data.len() as u64;
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => self.machine.skip(index),
                EntryType::EntryNormal => self.machine.apply(index, &entry.data, &mut effects),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                    self.machine.skip(index);
                    self.apply_membership(entry.context, turn);
                }
            }
            self.applied = Position { index: entry.index, term: entry.term };
            for effect in &effects {
                // Now and not after the turn: the entries that follow are not part of it.
                if let Effect::Cut { backup, node } = effect
                    && *node == self.me
                {
                    turn.checkpoints.push(self.checkpoint_now(Some(*backup)));
                }
            }
            turn.effects.extend(effects.drain(..).map(|effect| (self.id, effect)));
        }
        turn.applied.push(self.id);
    }

    fn apply_membership(&mut self, context: Bytes, turn: &mut Turn) {
        let change = membership::decode(context).expect("a checksummed entry that this code encoded");
        // Raft refuses a change that does not fit its state, on every replica alike; then nothing changes.
        if let Ok(members) = self.raw.apply_conf_change(&change) {
            let stays = is_member(&members, self.me.0);
            let raft = &mut self.raw.raft;
            if !stays && raft.state == StateRole::Leader {
                // It was elected while the change was underway. Raft counts on a leader being a member.
                raft.become_follower(raft.term, 0);
            }
            self.members = members.clone();
            self.forget_shown();
            self.write_commit(turn);
            turn.memberships.push((self.id, members));
        }
    }

    fn update_leading(&mut self, now: Duration) {
        self.end_lost_leadership();
        let raft = &self.raw.raft;
        if self.leading.is_none() && raft.state == StateRole::Leader && self.applied.term == raft.term {
            self.leading = Some(Leading {
                term: raft.term,
                intake: Intake::default(),
                since: now,
                stamp_base: self.machine.now(),
            });
        }
    }

    fn finish_rounds(&mut self, turn: &mut Turn) {
        while self.rounds.front().is_some_and(|(_, index)| *index <= self.applied.index) {
            if let Some((round, _)) = self.rounds.pop_front() {
                turn.reads.push((self.id, round));
            }
        }
    }

    /// Whether a snapshot is being installed.
    pub fn is_installing(&self) -> bool {
        self.installing
    }

    /// Whether there is something for `collect` to do.
    pub fn has_work(&self) -> bool {
        !self.installing && self.raw.has_ready()
    }

    /// The snapshot is installed, after everything handed over before it was persisted: this is the state now.
    pub fn installed(&mut self, machine: Machine, turn: &mut Turn) {
        if !std::mem::take(&mut self.installing) {
            return;
        }
        let position = self.raw.store().checkpoint();
        assert!(machine.applied().0 == position.index, "a snapshot of another index was installed");
        self.machine = machine;
        self.applied = position;
        self.log_bytes = 0;
        self.persisted(u64::MAX, turn);
        self.raw.advance_apply_to(position.index);
    }

    /// Whether a checkpoint is due: the log has grown, or a snapshot needs a newer one.
    pub fn checkpoint_due(&self) -> bool {
        let behind = self.raw.store().checkpoint().index < self.applied.index;
        let wanted =
            self.raw.store().take_snapshot_wanted() || self.log_bytes >= limits::CHECKPOINT_LOG_BYTES;
        self.checkpoint_underway.is_none() && !self.installing && behind && wanted
    }

    /// Takes a checkpoint of what changed since the last one; `None` when one is underway or nothing is new.
    pub fn take_checkpoint(&mut self) -> Option<Action> {
        if self.checkpoint_underway.is_some()
            || self.installing
            || self.raw.store().checkpoint().index >= self.applied.index
        {
            return None;
        }
        Some(self.checkpoint_now(None))
    }

    /// A checkpoint of what is applied, also while an earlier one is being written: they are written in order, and the
    /// last one counts.
    fn checkpoint_now(&mut self, keep_for: Option<BackupId>) -> Action {
        self.log_bytes = 0;
        self.checkpoint_underway = Some((self.applied, self.members.clone()));
        let mut conf_state = BytesMut::new();
        wire::encode_conf_state(&self.members, &mut conf_state);
        Action::Checkpoint {
            group: self.id,
            index: LogIndex(self.applied.index),
            term: self.applied.term,
            conf_state: conf_state.to_vec(),
            changes: self.machine.changes(),
            keep_for,
        }
    }

    /// The checkpoint is durable.
    pub fn checkpointed(&mut self, index: LogIndex) {
        if let Some((position, members)) = self.checkpoint_underway.take_if(|(p, _)| p.index == index.0) {
            self.raw.mut_store().set_checkpoint(position, members);
        }
    }

    /// The shell shortened the log.
    pub fn compacted(&mut self, position: Position) {
        self.raw.mut_store().compacted(position);
    }
}
/// Why this program cannot read an entry's commands.
fn unreadable(entry: &Entry) -> Option<quorate_state::DecodeError> {
    let commands = entry.get_entry_type() == EntryType::EntryNormal && !entry.data.is_empty();
    if commands { quorate_state::BatchView::new(&entry.data).err() } else { None }
}
