//! The worker thread: steps the node and carries out its actions.
//!
//! Owns: the [`Node`]. Does not: touch sockets or files; other threads and tasks do, over bounded queues.
//! Invariants: actions are carried out in their order, except that events for client connections leave last in a
//! turn, together, and that what the keeper cannot take yet leaves later; a route is in force here before anything says so to a peer or a client.
//! Limits: the inbox bounds what comes; `log_queue` bounds what goes: the worker waits for a while, then the node takes less in.
//! See: docs/decisions/0006-threads-and-runtime.md.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use quorate_codec::TopicFilter;
use quorate_node::action::{Note, PeerAddress};
use quorate_node::edge::{ClientEvent, ClientRequest};
use quorate_node::limits::TICK;
use quorate_node::node::Node;
use quorate_node::{Action, Event};
use quorate_state::command::{Duty, RouteTarget};
use quorate_state::{ConnId, LogIndex};

use crate::edge::{Edge, LeaseState};
use crate::events::NodeEvent;
use crate::inbox::Batch;
use crate::keeper::KeeperJob;
use crate::limits::STOP_TRANSFER_TIMEOUT;
use crate::log_queue::LogQueue;
use crate::log_writer::LogJob;
use crate::net::peer::PeerPlace;
use crate::question::{LIVE_BLOCK_ENTRIES, Question};

/// The worker.
pub struct Worker {
    node: Node,
    edge: Arc<Edge>,
    log: LogQueue,
    /// Whether the node was last told that the log takes nothing more.
    log_full: bool,
    keeper: SyncSender<KeeperJob>,
    /// What the keeper cannot take yet, in its order. At most what `KEEPER_JOBS_MAX` names for each group.
    kept: VecDeque<KeeperJob>,
    next_tick: Instant,
    routes: Vec<(TopicFilter, RouteTarget, bool)>,
    events: Vec<(ConnId, ClientEvent)>,
    stopping_since: Option<Instant>,
    /// Actions made events: the node has a turn to take.
    unturned: bool,
    /// What operators wanted of this node when they last said so.
    duty: Duty,
}

impl Worker {
    /// A worker for this node.
    pub fn new(node: Node, edge: Arc<Edge>, log: SyncSender<LogJob>, keeper: SyncSender<KeeperJob>) -> Self {
        let beat = &edge.worker_beat;
        let log = LogQueue::new(log, beat.clone());
        Worker {
            node,
            edge,
            log,
            log_full: false,
            keeper,
            kept: VecDeque::new(),
            next_tick: Instant::now(),
            routes: Vec::new(),
            events: Vec::new(),
            stopping_since: None,
            unturned: false,
            duty: Duty::Full,
        }
    }

    /// Runs until the inbox says stop and leadership has moved away.
    pub fn run(mut self) {
        let mut batch = Batch::default();
        loop {
            self.edge.inbox.take(&mut batch, !self.node.congested(), self.next_tick);
            let began = Instant::now();
            let now = self.edge.clock.now();
            self.edge.worker_beat.beat();
            self.step_all(&mut batch, began, now);
            self.node.turn(now);
            self.act();
            if !batch.questions.is_empty() {
                for question in batch.questions.drain(..) {
                    self.answer(question, now);
                }
                self.act();
            }
            self.edge.metrics.worker_turns.add(1);
            self.edge.metrics.worker_turn_time.observe(began.elapsed());
            if batch.stop && self.stopping_since.is_none() {
                self.stopping_since = Some(began);
                self.node.step(Event::Leave, now);
                self.node.turn(now);
                self.act();
            }
            self.log.offer();
            self.offer_kept();
            let full = self.log.is_full();
            if full != self.log_full {
                self.log_full = full;
                self.node.step(Event::LogFull(full), now);
            }
            if self.may_end() {
                // What is left for the keeper is lost as by a crash: the next start does it again.
                self.log.flush();
                self.edge.inbox.close();
                return;
            }
        }
    }

    fn step_all(&mut self, batch: &mut Batch<Question>, began: Instant, now: Duration) {
        for event in batch.reports.drain(..) {
            if let Event::Incarnation(_) = event {
                tracing::info!("a new incarnation is durable");
            }
            self.node.step(event, now);
        }
        for event in batch.peers.drain(..) {
            self.node.step(event, now);
        }
        for (conn, request) in batch.clients.drain(..) {
            match &request {
                ClientRequest::Publish { .. } | ClientRequest::PublishOnce { .. } => {
                    self.edge.metrics.publishes_durable.add(1)
                }
                ClientRequest::Acknowledged { packet_ids } => {
                    self.edge.metrics.acknowledgements.add_len(packet_ids.len());
                }
                ClientRequest::Connect(_)
                | ClientRequest::Subscribe { .. }
                | ClientRequest::Unsubscribe { .. }
                | ClientRequest::Release { .. }
                | ClientRequest::Received { .. }
                | ClientRequest::RetainedTaken
                | ClientRequest::Closed { .. } => (),
            }
            self.node.step(Event::Client(conn, request), now);
        }
        if began >= self.next_tick {
            // A late tick is not made up for: time comes with every call.
            self.next_tick = began + TICK;
            self.node.step(Event::Tick, now);
        }
    }

    /// Carries out what the node wants.
    fn act(&mut self) {
        loop {
            while let Some(action) = self.node.poll_action() {
                self.act_on(action);
            }
            if !std::mem::take(&mut self.unturned) {
                break;
            }
            self.node.turn(self.edge.clock.now());
        }
        self.apply_routes();
        self.edge.mailboxes.deliver_events(&mut self.events);
        if let Some(links) = &self.edge.links {
            links.flush();
        }
    }

    /// Hands a job to the keeper, as soon as it takes it.
    fn keep(&mut self, job: KeeperJob) {
        self.kept.push_back(job);
        self.offer_kept();
    }

    /// Hands over what the keeper takes. A job that comes after what was given to the log waits until that is on its way, and the jobs
    /// behind it wait with it. The thread ends only after the worker, or takes the process with it.
    fn offer_kept(&mut self) {
        while let Some(job) = self.kept.pop_front() {
            if job.comes_after_log() && !self.log.is_empty() {
                self.kept.push_front(job);
                return;
            }
            match self.keeper.try_send(job) {
                Ok(()) => (),
                Err(TrySendError::Full(job)) => {
                    self.kept.push_front(job);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    let reason = "a thread of the node ended before its worker";
                    crate::exit::stop_now(crate::exit::ExitCode::Internal, reason)
                }
            }
        }
    }

    fn act_on(&mut self, action: Action) {
        match action {
            Action::Send(to, message) => {
                self.apply_routes();
                let sent =
                    self.edge.links.as_ref().is_some_and(|links| links.send(to, |out| message.encode(out)));
                if !sent {
                    self.edge.metrics.peer_messages_lost.add(1);
                }
            }
            Action::Persist { ticket, records, sync } => {
                self.log.append(ticket, records, sync);
            }
            Action::Client(conn, event) => self.events.push((conn, event)),
            Action::RouteWill { group, will, message } => {
                self.apply_routes();
                let targets = self.edge.targets(&message);
                let now = self.edge.clock.now();
                self.node.step(Event::WillRouted { group, will, targets }, now);
                self.unturned = true;
            }
            Action::HandOver(message) => {
                self.apply_routes();
                self.edge.hand_over(&message);
            }
            Action::Route { filter, target, added } => self.routes.push((filter, target, added)),
            Action::RoutesReplaced(routes) => {
                self.routes.clear();
                self.edge.routing.write().replace_routes(routes);
            }
            Action::LeaseUntil(until) => {
                let now = self.edge.clock.now();
                let mut lease = self.edge.lease.write();
                let had = !lease.until.is_zero();
                if had && (until.is_zero() || lease.until < now) {
                    self.edge.metrics.lease_lapses.add(1);
                }
                *lease = LeaseState { until, incarnation: self.node.incarnation() };
            }
            Action::Peers(peers) => self.set_peers(peers),
            Action::Checkpoint { group, index, term, conf_state, changes, keep_for } => {
                if let Some(backup) = keep_for {
                    self.edge.cuts.expect(backup);
                }
                let checkpoint = KeeperJob::Checkpoint { group, index, term, conf_state, changes, keep_for };
                self.keep(checkpoint);
            }
            Action::SendSnapshot { to, group, message } => {
                self.keep(KeeperJob::SendSnapshot { to, group, message });
            }
            Action::InstallSnapshot { group, index, term } => {
                self.keep(KeeperJob::InstallSnapshot { group, index, term });
            }
            Action::NewIncarnation => self.keep(KeeperJob::NewIncarnation),
            Action::Joined { disk, decision, peers } => self.edge.joins.decided(disk, (decision, peers)),
            Action::RemoveGroup(group) => self.keep(KeeperJob::RemoveGroup(group)),
            Action::Gone(gone) => {
                if let Some(links) = &self.edge.links {
                    links.set_gone(gone);
                }
            }
            Action::Removed => crate::exit::stop_removed(),
            Action::Elsewhere(elsewhere) => *self.edge.elsewhere.write() = elsewhere,
            Action::Level(level) => self.edge.level.store(level, Ordering::Relaxed),
            Action::Duty(duty) => {
                self.edge.duty_changed(duty);
                let before = std::mem::replace(&mut self.duty, duty);
                NodeEvent::of_duty(before, duty).iter().for_each(|event| self.edge.events.note(event));
            }
            Action::Operated { number, outcome } => self.edge.operations.decided(number, outcome),
            Action::Dropped(reason, count) => self.edge.metrics.dropped(reason, count),
            Action::Stop(reason) => crate::exit::stop_now(crate::exit::ExitCode::Unavailable, &reason),
            Action::Lost(reason) => crate::exit::stop_now(crate::exit::ExitCode::Disk, &reason),
            Action::Note(note) => {
                log_note(&note);
                if let (Note::NodeDown(node, incarnation), Some(links)) = (&note, &self.edge.links) {
                    links.declare_dead(*node, *incarnation);
                    let marked = self.edge.routing.write().node_gone(*node).into_iter();
                    let event = |(conn, number)| (conn, ClientEvent::Marked(number));
                    self.edge.mailboxes.deliver_events(&mut marked.map(event).collect());
                }
                if let Note::Leading { handed_over: false, .. } = note {
                    self.edge.metrics.elections.add(1);
                }
                if let Some(event) = event_of(note) {
                    self.edge.events.note(&event);
                }
            }
        }
    }

    fn apply_routes(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        let mut routing = self.edge.routing.write();
        for (filter, target, added) in self.routes.drain(..) {
            routing.route_changed(&filter, target, added);
        }
    }

    fn set_peers(&self, peers: Vec<PeerAddress>) {
        let Some(links) = &self.edge.links else { return };
        let places =
            peers.into_iter().map(|peer| PeerPlace { id: peer.node, name: peer.name, address: peer.address });
        links.set_peers(places.collect());
    }

    fn answer(&mut self, question: Question, now: Duration) {
        // Whoever asked may have gone; the answer is then for nobody.
        match question {
            Question::Floors { wanted, answer } => {
                let floors: Vec<LogIndex> =
                    wanted.iter().map(|(group, _)| self.node.checkpointed(*group)).collect();
                for ((group, index), floor) in wanted.iter().zip(&floors) {
                    if floor < index {
                        self.node.step(Event::CheckpointWanted(*group), now);
                    }
                }
                drop(answer.send(floors));
            }
            Question::Installing { group, answer } => drop(answer.send(self.node.is_installing(group))),
            Question::LiveBlock { group, first, answer } => {
                let block = first.0..first.0 + LIVE_BLOCK_ENTRIES;
                drop(answer.send(block.map(|index| self.node.live(group, LogIndex(index))).collect()));
            }
            Question::Status { with_hash, answer } => drop(answer.send(self.node.status(with_hash, now))),
            Question::Session { client_id, answer } => drop(answer.send(self.node.session(&client_id, now))),
            Question::Look(look) => look(&self.node, now),
            Question::Kick { incarnation, conn, answer } => {
                let _gone = answer.send(self.node.kick(incarnation, conn));
            }
            Question::Shares { after, max, answer } => {
                drop(answer.send(self.node.shares(after.as_ref(), max)));
            }
            Question::Readiness(answer) => drop(answer.send(self.node.readiness(now))),
        }
    }

    /// Stopping, and nothing is led that another node could lead, or it took too long.
    fn may_end(&self) -> bool {
        let Some(since) = self.stopping_since else { return false };
        let alone = self.edge.links.is_none();
        alone || since.elapsed() >= STOP_TRANSFER_TIMEOUT || !self.node.leads_for_others()
    }
}

fn event_of(note: Note) -> Option<NodeEvent> {
    match note {
        Note::Leading { group, term, .. } => Some(NodeEvent::LeadershipGained(group, term)),
        Note::NotLeading(group, term) => Some(NodeEvent::LeadershipLost(group, term)),
        Note::NodeDown(node, _) => Some(NodeEvent::NodeDown(node)),
        Note::NodeUp(node, _) => Some(NodeEvent::NodeUp(node)),
        Note::Membership(group, members) => Some(NodeEvent::MembersChanged(group, members)),
        // An error of one message, which the log tells of.
        Note::BodyUnreadable(..) => None,
    }
}

fn log_note(note: &Note) {
    match note {
        Note::Leading { group, term, handed_over } => {
            tracing::info!(group = group.0, term, handed_over, "leading a group");
        }
        Note::NotLeading(group, term) => tracing::info!(group = group.0, term, "no longer leading a group"),
        Note::NodeDown(node, incarnation) => {
            tracing::warn!(node_id = node.0, incarnation = incarnation.0, "node was declared down");
        }
        Note::NodeUp(node, incarnation) => {
            tracing::info!(node_id = node.0, incarnation = incarnation.0, "node is up");
        }
        Note::BodyUnreadable(group, index) => {
            tracing::error!(
                group = group.0,
                log_index = index.0,
                "body of a message in flight cannot be read"
            );
        }
        Note::Membership(group, members) => tracing::info!(group = group.0, members, "membership changed"),
    }
}
