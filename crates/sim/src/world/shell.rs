//! The shell of a node: its worker, its log thread, its keeper, its compaction.
//!
//! Owns: carrying out the actions of a node as the daemon does, with delays. Does not: decide anything.
//! Invariants: actions are carried out in order, events for connections last; a ticket is reported only after the sync
//! that covers it; a checkpoint, a snapshot and an incarnation are reported when durable.
//! Most mutants live here and in `sabotage`: each is a place where the shell does less than it must.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use quorate_codec::ReasonCode;
use quorate_node::action::{LogRecord, Note, PeerAddress};
use quorate_node::consensus::wire;
use quorate_node::edge::{ClientEvent, ClientRequest};
use quorate_node::peer::PeerMessage;
use quorate_node::{Action, Event as NodeEvent};
use quorate_state::{BackupId, Batch, Command, ConnId, GroupId, Incarnation, LogIndex, NodeId};
use quorate_storage::carry::CarryError;
use quorate_storage::checkpoint::memory::MemoryCheckpoints;
use quorate_storage::snapshot::{Chunk, Content};
use quorate_storage::{AppliedMark, CheckpointStore, DropOutcome, HardState, LogError, Record, SlowGroups};

use super::process::{Process, load};
use super::sabotage::DELIVERY;
use super::trouble::Cause;
use super::{Occurrence, World};
use crate::marks::Mark;
use crate::mutant::Mutant;
use crate::network::Lane;
use crate::oracle::Event;

/// Raft's message that hands a group on, as its engine numbers it, and its entries that change membership.
const RAFT_TIMEOUT_NOW: i32 = 14;
const RAFT_CONF_CHANGE: u8 = 2;

/// How long a group that is behind may hold compaction up.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(2);

/// Work for the log thread.
pub(super) enum LogJob {
    Append { ticket: u64, records: Vec<LogRecord>, sync: bool },
    Reset { group: GroupId, index: LogIndex, term: u64 },
    RemoveGroup(GroupId),
}

/// What one append takes.
#[derive(Default)]
pub(super) struct Gathered {
    records: Vec<Record>,
    ticket: u64,
    wants_sync: bool,
}

/// Work for the keeper.
pub(super) enum KeeperJob {
    Checkpoint {
        group: GroupId,
        mark: AppliedMark,
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        keep_for: Option<BackupId>,
    },
    /// The action that asked for it.
    SendSnapshot(Action),
    InstallSnapshot {
        group: GroupId,
        index: LogIndex,
        term: u64,
    },
    NewIncarnation,
    RemoveGroup(GroupId),
}

/// A snapshot on its way, whole.
pub(super) struct Transfer {
    from_place: usize,
    from_generation: u64,
    from: NodeId,
    pub(super) to_place: usize,
    to: NodeId,
    group: GroupId,
    chunks: Vec<Bytes>,
    announcement: Bytes,
}

impl World {
    /// The worker: takes what has gathered, steps the node, carries out what it wants.
    pub(super) fn work(&mut self, place: usize, generation: u64) {
        let Some(mut process) = self.take_process(place, generation) else { return };
        process.work_scheduled = false;
        let now = self.hosts[place].clock(self.now);
        for event in std::mem::take(&mut process.reports) {
            process.node.step(event, now);
        }
        for event in std::mem::take(&mut process.from_peers) {
            process.node.step(event, now);
        }
        if !process.node.congested() {
            for (conn, mut request) in std::mem::take(&mut process.requests) {
                if self.mutant == Some(Mutant::WillForgotten)
                    && let ClientRequest::Closed { normal, .. } = &mut request
                {
                    *normal = true;
                }
                process.node.step(NodeEvent::Client(conn, request), now);
            }
        }
        let full = process.log_jobs.len() >= World::LOG_JOBS_MAX;
        if full != process.log_full {
            process.log_full = full;
            process.node.step(NodeEvent::LogFull(full), now);
            self.history.marks.hit(Mark::LogFull);
        }
        process.node.turn(now);
        if let Some(cause) = process.trouble.peek() {
            // The daemon ends in the middle of the turn: nothing of it gets out.
            while process.node.poll_action().is_some() {}
            let mark = if cause.is_damage() { Mark::DamageAtWork } else { Mark::ReadFailed };
            self.fails(&mut process, mark, cause);
        }
        self.act(place, &mut process);
        self.put_back(place, process);
    }

    /// The process must end.
    pub(super) fn fails(&mut self, process: &mut Process, mark: Mark, cause: Cause) {
        let reading = matches!(&cause, Cause::Disk(what) if what.starts_with("read "));
        self.history.marks.hit(if reading { Mark::ReadFailed } else { mark });
        self.history.push(self.now, Event::Note(format!("node {} ends: {cause:?}", process.node.id())));
        process.trouble.note(cause);
        process.dead = true;
    }

    fn act(&mut self, place: usize, process: &mut Process) {
        let mut events = Vec::new();
        while let Some(action) = process.node.poll_action() {
            self.act_on(place, process, action, &mut events);
        }
        let mut wake = BTreeSet::new();
        for (conn, event) in events {
            let fenced_not = self.mutant == Some(Mutant::TakeoverWithoutFencing);
            if fenced_not && matches!(event, ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER)) {
                process.requests.push_back((conn, ClientRequest::Closed { expiry: None, normal: false }));
                self.schedule_taken(place, process);
                continue;
            }
            if let Some(connection) = process.connections.get_mut(&conn) {
                connection.events.push_back(event);
                wake.insert(conn);
            }
        }
        for conn in wake {
            self.schedule_serve(place, process, conn);
        }
        self.run_log(place, process);
        self.run_keeper(place, process);
    }

    fn act_on(
        &mut self,
        place: usize,
        process: &mut Process,
        action: Action,
        events: &mut Vec<(ConnId, ClientEvent)>,
    ) {
        match action {
            Action::Send(to, message) => {
                self.trace_delivery(process, to, &message);
                self.mark_message(&message);
                let message = self.forge_commit(place, process, to, message);
                let mut frame = BytesMut::new();
                message.encode(&mut frame);
                let lossy = match message {
                    PeerMessage::Raft(..) => true,
                    PeerMessage::StreamAppend { .. }
                    | PeerMessage::StreamApplied { .. }
                    | PeerMessage::StreamReject { .. } => self.features.lossy_streams,
                    _ => false,
                };
                self.send_frame(place, process, to, Lane::Raft, frame.freeze(), lossy);
            }
            Action::Persist { ticket, mut records, sync } => {
                if self.mutant == Some(Mutant::VoteNotPersisted) {
                    records.retain(|record| !matches!(record, LogRecord::HardState { .. }));
                }
                self.trace_entries(process, &records);
                self.mark_records(process, &records);
                process.log_jobs.push_back(LogJob::Append { ticket, records, sync });
            }
            Action::Client(conn, event) => {
                if matches!(event, ClientEvent::Close(ReasonCode::SESSION_TAKEN_OVER)) {
                    self.history.marks.hit(Mark::Takeover);
                }
                events.push((conn, event));
            }
            Action::RouteWill { group, will, message } => {
                let found = process.routing.matches(message.message.topic.as_str());
                let targets = found.targets(&message.message, self.features.partitions);
                process.from_peers.push(NodeEvent::WillRouted { group, will, targets });
                self.schedule_work(place);
            }
            Action::HandOver(message) => self.hand_over(place, process, &message),
            Action::Route { filter, target, added } => process.routing.route_changed(&filter, target, added),
            Action::RoutesReplaced(routes) => process.routing.replace_routes(routes),
            Action::LeaseUntil(until) => {
                process.lease_until = until;
                process.lease_incarnation = process.node.incarnation();
                self.forge_barrier(process);
            }
            Action::Peers(peers) => {
                // A known node that has joined anew is linked as who it is now, as the daemon does: what this one knows of it may be what
                // only that link can tell.
                let present = |peer: &PeerAddress| {
                    let host = self.hosts.iter().find(|host| format!("n{}", host.place + 1) == peer.name);
                    host.map_or(peer.node, |host| host.node.max(peer.node))
                };
                process.peers = peers.iter().map(present).filter(|id| *id != process.node.id()).collect();
                self.peers_changed(place, process);
            }
            Action::Checkpoint { group, index, term, conf_state, changes, keep_for } => {
                let mark = AppliedMark { index: index.0, term, conf_state };
                let changes = self.mutilate_checkpoint(changes);
                process.keeper_jobs.push_back(KeeperJob::Checkpoint { group, mark, changes, keep_for });
            }
            send @ Action::SendSnapshot { .. } => {
                process.keeper_jobs.push_back(KeeperJob::SendSnapshot(send));
            }
            Action::InstallSnapshot { group, index, term } => {
                process.keeper_jobs.push_back(KeeperJob::InstallSnapshot { group, index, term });
            }
            Action::NewIncarnation => process.keeper_jobs.push_back(KeeperJob::NewIncarnation),
            Action::RemoveGroup(group) => process.keeper_jobs.push_back(KeeperJob::RemoveGroup(group)),
            Action::Joined { disk, decision, .. } => self.join_decided(disk, decision.ok()),
            Action::Elsewhere(_) | Action::Level(_) | Action::Gone(_) => {}
            Action::Removed => process.dead = true,
            Action::Duty(duty) => {
                self.history.marks.hit(Mark::DutyChanged);
                self.note(|| format!("node {} is to do {duty:?}", process.node.id()));
            }
            Action::Operated { number, outcome } => {
                self.note(|| format!("node {}: operation {outcome:?}", process.node.id()));
                // The process is in our hands: what follows is for a moment when it is not.
                self.schedule(Duration::ZERO, Occurrence::BackupAnswered(number, outcome));
            }
            Action::Dropped(reason, count) => {
                self.note(|| format!("node {} dropped {count} for {reason:?}", process.node.id()));
            }
            Action::Lost(reason) | Action::Stop(reason) => {
                panic!("node {} stopped: {reason}", process.node.id())
            }
            Action::Note(Note::Leading { group, term, .. }) => self.observe_leading(process, group, term),
            Action::Note(note) => {
                if let Note::Membership(..) = note {
                    self.history.marks.hit(Mark::MembershipChanged);
                }
                if let Note::NodeDown(node, incarnation) = note {
                    self.history.marks.hit(Mark::NodeDeclaredDead);
                    process.dead_nodes.insert(node, incarnation);
                    let marked = process.routing.node_gone(node).into_iter();
                    events.extend(marked.map(|(conn, number)| (conn, ClientEvent::Marked(number))));
                    self.connections_forsaken(node);
                }
                self.note(|| format!("node {}: {note:?}", process.node.id()));
            }
        }
    }

    fn trace_delivery(&mut self, process: &Process, to: NodeId, message: &PeerMessage) {
        let from = process.node.id();
        match message {
            PeerMessage::Deliver { group, items, .. } => self.note(|| {
                let item = |(conn, session, delivery): &(ConnId, _, quorate_node::edge::SessionDelivery)| {
                    let payload = delivery.message.as_ref().map(|message| message.payload.clone());
                    let id = payload.map(|payload| crate::payload::read(&payload).0);
                    format!(
                        "conn {conn} session {session:?} seq {} packet {} {id:?}",
                        delivery.seq, delivery.packet_id
                    )
                };
                format!(
                    "node {from} delivers {group} to {to}: {:?}",
                    items.iter().map(item).collect::<Vec<_>>()
                )
            }),
            PeerMessage::Resync { .. } | PeerMessage::CloseConn { .. } | PeerMessage::ConnClosed { .. } => {
                self.note(|| format!("node {from} to {to}: {message:?}"));
            }
            _ => {}
        }
    }

    fn trace_entries(&mut self, process: &Process, records: &[LogRecord]) {
        for record in records {
            if let LogRecord::Entry { group, index, term, data, .. } = record {
                self.note(|| {
                    let commands = commands_of(data);
                    format!("node {} writes {group}/{index} of term {term}: {commands}", process.node.id())
                });
            }
        }
    }

    fn mark_message(&mut self, message: &PeerMessage) {
        match message {
            PeerMessage::Raft(_, message) if message.get_msg_type() as i32 == RAFT_TIMEOUT_NOW => {
                self.history.marks.hit(Mark::LeaderTransfer);
            }
            PeerMessage::StreamReject { .. } => self.history.marks.hit(Mark::StreamRewound),
            _ => {}
        }
    }

    fn mark_records(&mut self, process: &Process, records: &[LogRecord]) {
        for record in records {
            let LogRecord::Entry { group, index, term, entry_type, data, .. } = record else { continue };
            let before = process.reader.term(group.0, index.0.saturating_sub(1));
            if before.is_some_and(|before| before < *term) {
                let groups = process.node.status(false, Duration::ZERO).groups;
                let status = groups.iter().find(|status| status.group == *group);
                if status.is_some_and(|status| status.committed.0 + 1 < index.0) {
                    self.history.marks.hit(Mark::OlderTermEntries);
                }
            }
            // A joint configuration is left by an entry that says nothing more.
            if *entry_type == RAFT_CONF_CHANGE && data.is_empty() {
                self.history.marks.hit(Mark::JointConsensus);
            }
            if process.reader.last_index(group.0) >= index.0 {
                self.history.marks.hit(Mark::LogReplaced);
            }
        }
    }

    /// Batches that wait for the log of a node until it is full: few, so that it happens.
    const LOG_JOBS_MAX: usize = 32;

    /// The log thread takes up what waits, unless a sync is underway.
    pub(super) fn run_log(&mut self, place: usize, process: &mut Process) {
        while process.log_syncing.is_none() && !process.log_resetting && !process.dead {
            let gathered = process.log_waiting.take().unwrap_or_else(|| gather(&mut process.log_jobs));
            let latency = self.random.between(Duration::from_micros(30), self.hosts[place].sync_max);
            if gathered.records.is_empty() && !gathered.wants_sync {
                match process.log_jobs.front() {
                    None => return,
                    Some(LogJob::Reset { .. }) => {
                        process.log_resetting = true;
                        self.schedule(latency, Occurrence::LogDone(place, process.generation));
                        return;
                    }
                    Some(LogJob::RemoveGroup(group)) => {
                        let group = *group;
                        let removed = process.log.remove_group(group.0);
                        self.look_for_astray(place, process);
                        if !self.log_did(place, process, removed, Mark::WriteFailed) {
                            return;
                        }
                        process.log_jobs.pop_front();
                        process.reports.push(NodeEvent::GroupRemoved(group));
                        continue;
                    }
                    Some(LogJob::Append { .. }) => continue,
                }
            }
            let appended = process.log.append(&gathered.records);
            self.look_for_astray(place, process);
            if !self.log_did(place, process, appended, Mark::WriteFailed) {
                process.log_waiting = Some(gathered);
                return;
            }
            if gathered.wants_sync {
                process.log_syncing = Some(gathered.ticket);
                self.schedule(latency, Occurrence::LogDone(place, process.generation));
                if self.mutant == Some(Mutant::AckBeforeFsync) {
                    process.reports.push(NodeEvent::Persisted(gathered.ticket));
                    self.schedule_taken(place, process);
                }
            }
        }
    }

    /// What came of a call of the log. False: it waits for room and is made again, or the process ends.
    fn log_did(
        &mut self,
        place: usize,
        process: &mut Process,
        done: Result<(), LogError>,
        mark: Mark,
    ) -> bool {
        match done {
            Ok(()) => true,
            Err(LogError::NoSpace { .. }) => {
                self.history.marks.hit(Mark::DiskFull);
                if !std::mem::replace(&mut process.log_looks, true) {
                    self.schedule(World::LOOK_FOR_ROOM, Occurrence::LogDone(place, process.generation));
                }
                false
            }
            Err(error @ (LogError::Failed { .. } | LogError::Read(_))) => {
                self.fails(process, mark, Cause::log(&error));
                false
            }
            Err(error) => panic!("node {} cannot write its log: {error}", process.node.id()),
        }
    }

    /// As `schedule_work`, for a process that is being worked on.
    fn schedule_taken(&mut self, place: usize, process: &mut Process) {
        if !std::mem::replace(&mut process.work_scheduled, true) {
            let after = self.random.micros(10, 250);
            self.schedule(after, Occurrence::Work(place, process.generation));
        }
    }

    pub(super) fn log_done(&mut self, place: usize, generation: u64) {
        let Some(mut process) = self.take_process(place, generation) else { return };
        process.log_looks = false;
        if let Some(ticket) = process.log_syncing.take() {
            let synced = process.log.sync();
            self.look_for_astray(place, &process);
            if self.log_did(place, &mut process, synced, Mark::SyncFailed) {
                process.reports.push(NodeEvent::Persisted(ticket));
                self.schedule_taken(place, &mut process);
            }
        } else if process.log_resetting {
            self.reset(place, &mut process);
        }
        self.run_log(place, &mut process);
        self.run_keeper(place, &mut process);
        self.put_back(place, process);
    }

    /// The log of a group begins anew after its snapshot.
    fn reset(&mut self, place: usize, process: &mut Process) {
        let Some(LogJob::Reset { group, index, term }) = process.log_jobs.front() else { return };
        let (group, index, term) = (*group, *index, *term);
        let reset = process.log.reset_group(group.0, index.0, term);
        self.look_for_astray(place, process);
        if !self.log_did(place, process, reset, Mark::WriteFailed) {
            return;
        }
        process.log_resetting = false;
        process.log_jobs.pop_front();
        process.log.bodies().settle(group.0);
        match load(&self.hosts[place].checkpoints, group) {
            Ok(records) => {
                self.history.marks.hit(Mark::SnapshotInstalled);
                process.reports.push(NodeEvent::SnapshotInstalled { group, index, records });
                process.keeper_busy = false;
                self.schedule_taken(place, process);
            }
            Err(error) => self.fails(process, Mark::DamageAtWork, Cause::checkpoint(&error)),
        }
    }

    fn run_keeper(&mut self, place: usize, process: &mut Process) {
        if !process.keeper_busy && !process.keeper_jobs.is_empty() && !process.dead {
            process.keeper_busy = true;
            let latency = self.random.micros(100, 10_000);
            self.schedule(latency, Occurrence::KeeperDone(place, process.generation));
        }
    }

    pub(super) fn keeper_done(&mut self, place: usize, generation: u64) {
        let Some(mut process) = self.take_process(place, generation) else { return };
        let sends = matches!(process.keeper_jobs.front(), Some(KeeperJob::SendSnapshot(_)));
        if self.hosts[place].full && !sends {
            // It waits for room, with all that is behind it.
            self.schedule(World::LOOK_FOR_ROOM, Occurrence::KeeperDone(place, generation));
            self.put_back(place, process);
            return;
        }
        process.keeper_busy = false;
        if let Some(job) = process.keeper_jobs.pop_front()
            && let Err(cause) = self.keep(place, &mut process, job)
        {
            let mark = if cause.is_damage() { Mark::DamageAtWork } else { Mark::CheckpointFailed };
            self.fails(&mut process, mark, cause);
        }
        self.schedule_taken(place, &mut process);
        self.run_log(place, &mut process);
        self.run_keeper(place, &mut process);
        self.put_back(place, process);
    }

    fn keep(&mut self, place: usize, process: &mut Process, job: KeeperJob) -> Result<(), Cause> {
        let checkpoints = self.hosts[place].checkpoints.clone();
        let failed = |error| Cause::checkpoint(&error);
        match job {
            KeeperJob::Checkpoint { group, mark, changes, keep_for } => {
                let index = LogIndex(mark.index);
                checkpoints.write(group.0, &mark, changes).map_err(failed)?;
                if let Some(backup) = keep_for {
                    let mut view = checkpoints.view(group.0).map_err(failed)?.expect("it was written");
                    let records = view.next_chunk(usize::MAX).map_err(failed)?;
                    self.backup_part(backup, group, index, records);
                }
                process.reports.push(NodeEvent::Checkpointed { group, index });
            }
            KeeperJob::SendSnapshot(action) => self.send_snapshot(place, process, action)?,
            KeeperJob::InstallSnapshot { group, index, term } => match process.staged.remove(&group) {
                Some(mark) if (mark.index, mark.term) == (index.0, term) => {
                    checkpoints.commit_install(group.0, &mark).map_err(failed)?;
                    process.log_jobs.push_back(LogJob::Reset { group, index, term });
                    process.keeper_busy = true;
                }
                found => {
                    // The daemon stops here; a start brings the group back from its checkpoint.
                    let what = format!("node {} is to install {index} but has {found:?}", process.node.id());
                    self.history.push(self.now, Event::Note(what));
                    process.dead = true;
                }
            },
            KeeperJob::NewIncarnation => {
                let next = process.identity.next_incarnation(&self.hosts[place].faulty);
                let incarnation = Incarnation(next.map_err(Cause::disk)?);
                self.history.marks.hit(Mark::NewIncarnation);
                process.reports.push(NodeEvent::Incarnation(incarnation));
            }
            KeeperJob::RemoveGroup(group) => {
                checkpoints.remove(group.0).map_err(failed)?;
                process.log.bodies().remove_group(group.0).map_err(|error| Cause::body(&error))?;
                process.log_jobs.push_back(LogJob::RemoveGroup(group));
            }
        }
        Ok(())
    }

    fn send_snapshot(&mut self, place: usize, process: &mut Process, action: Action) -> Result<(), Cause> {
        let Action::SendSnapshot { to, group, message } = action else { return Ok(()) };
        let failed = |error| Cause::checkpoint(&error);
        let open = self.place_of(to).filter(|there| self.network.is_open(place, *there));
        let view = self.hosts[place].checkpoints.view(group.0).map_err(failed)?;
        let (Some(to_place), Some(mut view)) = (open, view) else {
            process.reports.push(NodeEvent::SnapshotSent { to, group, delivered: false });
            return Ok(());
        };
        let mark = view.mark().clone();
        let mut contents = Vec::new();
        let live = (1..=mark.index).filter(|index| process.node.live(group, LogIndex(*index)));
        let mut bodies: Vec<(u64, Bytes)> = Vec::new();
        for index in live {
            let body = process.reader.body(group.0, index).map_err(|error| Cause::read(&error))?;
            bodies.extend(body.map(|body| (index, body)));
        }
        let body_count = bodies.len() as u64;
        contents.extend(bodies.chunks(16).map(|chunk| Content::Bodies(chunk.to_vec())));
        let mut records = 0;
        loop {
            let mut chunk = view.next_chunk(4096).map_err(failed)?;
            if chunk.is_empty() {
                break;
            }
            if self.mutant == Some(Mutant::SnapshotWithoutInflight) {
                chunk.retain(|(key, _)| key.first() != Some(&DELIVERY));
            }
            records += chunk.len() as u64;
            contents.push(Content::Records(chunk));
        }
        contents.push(Content::End { mark: mark.clone(), bodies: body_count, records });
        let chunks = (0..)
            .zip(contents)
            .map(|(number, content)| Chunk { group: group.0, number, content }.encode())
            .collect();
        let mut announced = message;
        let members = wire::decode_conf_state(mark.conf_state.clone().into()).expect("our own encoding");
        let metadata = announced.mut_snapshot().mut_metadata();
        metadata.index = mark.index;
        metadata.term = mark.term;
        metadata.set_conf_state(members);
        let mut announcement = BytesMut::new();
        PeerMessage::Raft(group, announced).encode(&mut announcement);
        let transfer = Transfer {
            from_place: place,
            from_generation: process.generation,
            from: process.node.id(),
            to_place,
            to,
            group,
            chunks,
            announcement: announcement.freeze(),
        };
        self.history.marks.hit(Mark::SnapshotSent);
        let after = self.random.millis(2, 150);
        self.schedule(after, Occurrence::Snapshot(Box::new(transfer)));
        Ok(())
    }

    /// The receiver stages a snapshot, if it is still there.
    pub(super) fn snapshot_arrives(&mut self, transfer: Transfer) {
        let Transfer { from_place, from_generation, from, to_place, to, group, chunks, announcement } =
            transfer;
        let sender = self.hosts[from_place].process.as_ref();
        let alive = sender.is_some_and(|process| process.generation == from_generation);
        let open = self.network.is_open(from_place, to_place);
        let cut = self.random.permille(if matches!(self.phase, super::Phase::Faults) { 100 } else { 0 });
        let generation = self.hosts[to_place].process.as_ref().map(|process| process.generation);
        let there = self.hosts[to_place].node == to;
        let taken = generation.filter(|_| alive && open && there);
        let Some(mut process) = taken.and_then(|generation| self.take_process(to_place, generation)) else {
            self.tell_sender(from_place, from_generation, to, group, false);
            return;
        };
        let delivered = self.stage(to_place, &mut process, group, &chunks, cut);
        if delivered && let Ok(PeerMessage::Raft(_, message)) = PeerMessage::decode(announcement) {
            process.from_peers.push(NodeEvent::SnapshotStaged { from, group, message });
            self.schedule_taken(to_place, &mut process);
        }
        self.put_back(to_place, process);
        // The confirmation may be lost although the snapshot has arrived.
        let told = delivered && !self.random.permille(20);
        self.tell_sender(from_place, from_generation, to, group, told);
    }

    /// The connection of a snapshot ended before its receiver took it.
    pub(super) fn snapshot_refused(&mut self, transfer: &Transfer) {
        self.tell_sender(transfer.from_place, transfer.from_generation, transfer.to, transfer.group, false);
    }

    fn tell_sender(&mut self, host: usize, generation: u64, to: NodeId, group: GroupId, delivered: bool) {
        let after = self.random.millis(1, 30);
        self.schedule(after, Occurrence::SnapshotTold { host, generation, to, group, delivered });
    }

    fn stage(
        &mut self,
        place: usize,
        process: &mut Process,
        group: GroupId,
        chunks: &[Bytes],
        cut: bool,
    ) -> bool {
        if self.hosts[place].full {
            self.history.marks.hit(Mark::DiskFullSnapshot);
            return false;
        }
        let checkpoints = self.hosts[place].checkpoints.clone();
        let until = if cut { chunks.len() / 2 } else { chunks.len() };
        let staged = stage_chunks(&checkpoints, process, group, &chunks[..until]);
        if let Err(Unstaged::Store(cause)) = &staged {
            // A store that has failed cannot go on.
            self.fails(process, Mark::CheckpointFailed, cause.clone());
            return false;
        }
        // A connection that ends, or a body file that is not written whole and never gets its name: the receiver goes on.
        if cut || staged.is_err() {
            self.history.marks.hit(Mark::SnapshotCut);
            process.staged.remove(&group);
            process.log.bodies().settle(group.0);
            checkpoints.abort_install(group.0).expect("nothing is written");
        }
        !cut && staged.is_ok()
    }

    pub(super) fn want_checkpoint(&mut self, place: usize, generation: u64) {
        let group = GroupId(self.random.below(self.features.partitions as usize + 1) as u32);
        self.report(place, generation, NodeEvent::CheckpointWanted(group));
        if let Some(every) = self.features.checkpoint_every
            && self.hosts[place].process.as_ref().is_some_and(|process| process.generation == generation)
        {
            let after = self.random.between(every / 2, every * 3 / 2);
            self.schedule(after, Occurrence::CheckpointWanted(place, generation));
        }
    }

    /// The compaction thread looks at the log.
    pub(super) fn compact(&mut self, place: usize, generation: u64) {
        let Some(mut process) = self.take_process(place, generation) else { return };
        while !process.dead && self.compact_one(place, &mut process) {}
        if !process.dead && self.random.permille(100) {
            let node = &process.node;
            let live = |group, index| node.live(GroupId(group), LogIndex(index));
            match process.log.bodies().sweep(&live) {
                Err(error) if !error.is_no_space() => {
                    self.fails(&mut process, Mark::WriteFailed, Cause::body(&error));
                }
                _ => {}
            }
        }
        self.schedule_taken(place, &mut process);
        self.put_back(place, process);
        let after = self.random.millis(300, 900);
        self.schedule(after, Occurrence::Compact(place, generation));
    }

    /// True: a segment went.
    fn compact_one(&mut self, place: usize, process: &mut Process) -> bool {
        let status = process.log.status();
        let over = status.segment_bytes > self.features.log_bytes_target;
        let Some(range) = process.log.droppable().filter(|_| over) else {
            process.behind_since = None;
            return false;
        };
        let floors: BTreeMap<u32, u64> = range
            .groups
            .iter()
            .map(|(group, ..)| (*group, process.node.checkpointed(GroupId(*group)).0))
            .collect();
        let mut behind = false;
        for (group, _, high) in &range.groups {
            if floors.get(group).is_none_or(|floor| floor < high) {
                process.reports.push(NodeEvent::CheckpointWanted(GroupId(*group)));
                behind = true;
            }
        }
        let since = *process.behind_since.get_or_insert(self.now);
        if behind && self.now.saturating_sub(since) < CHECKPOINT_WAIT {
            return false;
        }
        process.behind_since = None;
        let slow = if behind { SlowGroups::CopyTail } else { SlowGroups::Keep };
        let firsts: Vec<(u32, u64)> =
            range.groups.iter().map(|(group, ..)| (*group, process.reader.first_index(*group))).collect();
        let node = &process.node;
        let live = |group, index| node.live(GroupId(group), LogIndex(index));
        let floor = |group: u32| floors.get(&group).copied().unwrap_or(0);
        let outcome = process.log.drop_segment(range.segment, &floor, &live, slow);
        self.look_for_astray(place, process);
        let dropped = match outcome {
            Ok(outcome) => matches!(outcome, DropOutcome::Dropped { .. }),
            // Nothing was dropped: the next look goes on from there.
            Err(CarryError::Write(error)) if error.is_no_space() => false,
            Err(CarryError::Log(LogError::NoSpace { .. })) => false,
            Err(error) => {
                let cause = Cause::carry(&error);
                let mark = if cause.is_damage() { Mark::DamageAtWork } else { Mark::WriteFailed };
                self.fails(process, mark, cause);
                return false;
            }
        };
        if dropped {
            let copied = behind && slow == SlowGroups::CopyTail;
            self.history.marks.hit(if copied { Mark::TailCopied } else { Mark::LogShortened });
        }
        for (group, before) in firsts {
            let first = process.reader.first_index(group);
            let index = first.saturating_sub(1);
            if first > before
                && let Some(term) = process.reader.term(group, index)
            {
                let (group, index) = (GroupId(group), LogIndex(index));
                process.reports.push(NodeEvent::Compacted { group, index, term });
            }
        }
        dropped
    }
}

/// Why a snapshot was not staged.
enum Unstaged {
    /// The checkpoint store failed.
    Store(Cause),
    /// A body file could not be written.
    Body,
}

/// All appends that wait, up to the next job of another kind.
fn gather(jobs: &mut VecDeque<LogJob>) -> Gathered {
    let mut gathered = Gathered::default();
    while let Some(LogJob::Append { .. }) = jobs.front() {
        let Some(LogJob::Append { ticket, records, sync }) = jobs.pop_front() else { break };
        gathered.records.extend(records.into_iter().map(record_of));
        gathered.ticket = ticket;
        gathered.wants_sync |= sync;
    }
    gathered
}

fn stage_chunks(
    checkpoints: &MemoryCheckpoints,
    process: &mut Process,
    group: GroupId,
    chunks: &[Bytes],
) -> Result<(), Unstaged> {
    let failed = |error| Unstaged::Store(Cause::checkpoint(&error));
    let body_failed = |_| Unstaged::Body;
    let bodies = process.log.bodies();
    process.staged.remove(&group);
    bodies.settle(group.0);
    checkpoints.begin_install(group.0).map_err(failed)?;
    for chunk in chunks {
        match Chunk::decode(chunk).expect("our own encoding").content {
            Content::Bodies(found) => {
                for (index, body) in found {
                    bodies.put(group.0, index, body).map_err(body_failed)?;
                }
            }
            Content::Records(records) => {
                let records = records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec()));
                checkpoints.put_chunk(group.0, records.collect()).map_err(failed)?;
            }
            Content::End { mark, .. } => {
                bodies.seal(group.0).map_err(body_failed)?;
                process.staged.insert(group, mark);
            }
        }
    }
    Ok(())
}

/// What a reader of a trace wants to know of an entry.
fn commands_of(data: &Bytes) -> String {
    let Ok(batch) = Batch::decode(data) else { return "no batch".to_owned() };
    let mut shown = Vec::new();
    for segment in batch.segments {
        for (seq, command) in (segment.first.0..).zip(segment.commands) {
            let what = match command {
                Command::Publish { message, .. } => {
                    let (id, _) = crate::payload::read(&message.payload);
                    format!("publish {id:?} to {}", message.topic.as_str())
                }
                other => format!("{other:?}"),
            };
            shown.push(format!("{:?} {seq}: {what}", segment.stream));
        }
    }
    shown.extend(batch.leader.iter().map(|command| format!("{command:?}")));
    shown.join("; ")
}

fn record_of(record: LogRecord) -> Record {
    match record {
        LogRecord::Entry { group, index, term, entry_type, data, context } => {
            Record::Entry { group: group.0, index: index.0, term, entry_type, data, context }
        }
        LogRecord::HardState { group, term, vote, commit } => {
            Record::HardState { group: group.0, state: HardState { term, vote, commit } }
        }
    }
}
