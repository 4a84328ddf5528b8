//! What client connections ask for, turned into commands; what the groups answer, turned into events.
//!
//! Owns: CONNECT with takeover, publishes, SUBSCRIBE with the cluster barrier, UNSUBSCRIBE, acknowledgements, close.
//! Does not: parse packets or match topics; see `client` and `routing`.
//! Invariants: `Connected` is given only when no other connection of the client can acknowledge any more.
//! Spec: contract D1, D4, D10, D11. See: docs/decisions/0008-takeover-waits-for-a-lease.md.

use core::time::Duration;
use std::sync::Arc;

use quorate_codec::{PacketId, ReasonCode, TopicFilter};
use quorate_state::command::{Command, RouteTarget, SessionExpiry, SubscribeFilter};
use quorate_state::hash::partition_of_client;
use quorate_state::{
    CONTROL, ConnId, DeliverySeq, GroupId, Incarnation, LogIndex, NodeId, Owner, Reply, ShareVersion,
    StreamId, StreamSeq, WillId,
};

use super::Node;
use super::connection::{Connection, Held, LocalRoute, Pending, Waiting};
use super::operate::OperationNumber;
use super::retained_bounds::Bounds;
use crate::action::Action;
use crate::durable::Durable;
use crate::edge::{ClientEvent, ClientRequest, ConnectRequest, DirectMessage, PublishNumber, PublishOutcome};
use crate::peer::PeerMessage;

/// What a command in this node's streams was for.
#[derive(Debug)]
pub(super) enum Op {
    Connect(ConnId),
    Publish(ConnId, PublishNumber),
    PublishOnce(ConnId, PublishNumber, Option<Arc<DirectMessage>>),
    Subscribe(Box<Subscribing>),
    /// With what the node knows of the filters, when the partition knows only some of them.
    Unsubscribe(ConnId, PacketId, Option<Vec<bool>>),
    /// A session joins a share group; the SUBSCRIBE that waits for it and the filter's place in it.
    ShareJoin(ConnId, TopicFilter, Option<(u64, usize)>),
    Acknowledge(ConnId),
    Release(ConnId, PacketId),
    Receive(ConnId, Vec<PacketId>),
    Will(WillId),
    Closed(ConnId),
    Join([u8; 16]),
    Operation(OperationNumber),
    /// The answer changes nothing here.
    Quiet,
}

/// A SUBSCRIBE on its way through the session's partition.
#[derive(Debug)]
pub(super) struct Subscribing {
    pub(super) conn: ConnId,
    pub(super) packet_id: PacketId,
    pub(super) filters: Vec<SubscribeFilter>,
    /// Per filter, whether the connection had it.
    pub(super) existed: Vec<bool>,
    pub(super) needs: Vec<(StreamId, StreamSeq)>,
}

impl Node {
    pub(super) fn client_request(&mut self, conn: ConnId, request: ClientRequest, now: Duration) {
        match request {
            ClientRequest::Connect(request) => self.connect(conn, *request),
            ClientRequest::Publish { number, targets } => {
                for (group, command) in targets {
                    self.push_encoded(group, command, Op::Publish(conn, number));
                }
            }
            ClientRequest::PublishOnce { number, group, command, direct } => {
                self.push_encoded(group, command, Op::PublishOnce(conn, number, direct));
            }
            ClientRequest::Subscribe { packet_id, filters } => self.subscribe(conn, packet_id, filters, now),
            ClientRequest::Unsubscribe { packet_id, filters } => self.unsubscribe(conn, packet_id, filters),
            ClientRequest::Acknowledged { packet_ids } => {
                if let Some((group, held)) = self.held(conn) {
                    let command =
                        Command::Acknowledge { session: held.session, epoch: held.epoch, packet_ids };
                    self.push(group, &command, Op::Acknowledge(conn));
                }
            }
            ClientRequest::Release { packet_id } => self.release(conn, packet_id),
            ClientRequest::Received { packet_ids } => {
                if let Some((group, held)) = self.held(conn) {
                    let (session, epoch) = (held.session, held.epoch);
                    let command = Command::Receive { session, epoch, packet_ids: packet_ids.clone() };
                    self.push(group, &command, Op::Receive(conn, packet_ids));
                }
            }
            ClientRequest::RetainedTaken => self.retained_taken(conn, now),
            ClientRequest::Closed { expiry, normal } => self.closed(conn, expiry, normal),
        }
    }

    fn release(&mut self, conn: ConnId, packet_id: PacketId) {
        if let Some((group, held)) = self.held(conn) {
            let command = Command::Release { session: held.session, epoch: held.epoch, packet_id };
            self.push(group, &command, Op::Release(conn, packet_id));
        }
    }

    /// Asks again for the packet identifiers that could not be released yet.
    pub(super) fn tick_releases(&mut self) {
        for (conn, packet_id) in std::mem::take(&mut self.connections.unsettled) {
            self.release(conn, packet_id);
        }
    }

    fn release_done(&mut self, conn: ConnId, packet_id: PacketId, reply: Option<Reply>, proof: Durable<()>) {
        let found = match reply {
            None => true,
            Some(Reply::NotFound) => false,
            Some(Reply::Unsettled) => {
                self.connections.unsettled.push((conn, packet_id));
                return;
            }
            Some(_) => return self.lost_session(conn),
        };
        if self.connections.all.contains_key(&conn) {
            self.client(conn, ClientEvent::Released { packet_id: proof.map(|()| packet_id), found });
        }
    }

    fn publish_done(
        &mut self,
        conn: ConnId,
        number: PublishNumber,
        reply: Option<Reply>,
        proof: Durable<()>,
    ) {
        let outcome = match reply {
            None => PublishOutcome::Applied,
            Some(Reply::Duplicate) => PublishOutcome::Duplicate,
            Some(Reply::Rejected(reason)) => PublishOutcome::Rejected(reason),
            Some(Reply::Fenced) => return self.lost_session(conn),
            Some(_) => PublishOutcome::Rejected(ReasonCode::UNSPECIFIED_ERROR),
        };
        if self.connections.all.contains_key(&conn) {
            self.client(conn, ClientEvent::PublishApplied { number: proof.map(|()| number), outcome });
        }
    }

    pub(super) fn held(&self, conn: ConnId) -> Option<(GroupId, Held)> {
        let connection = self.connections.all.get(&conn)?;
        Some((connection.group, connection.held.clone()?))
    }

    fn connect(&mut self, conn: ConnId, request: ConnectRequest) {
        if self.renewing {
            self.client(conn, ClientEvent::Refused(ReasonCode::SERVER_UNAVAILABLE));
            return;
        }
        let ConnectRequest { client_id, clean_start, expiry, receive_max, principal, will } = request;
        let group = partition_of_client(client_id.as_str(), self.config.cluster.partitions);
        let connection = Connection {
            group,
            held: None,
            pending: None,
            open: false,
            next_delivery: DeliverySeq(1),
            resync_asked_at: None,
            early: Vec::new(),
            filters: Default::default(),
            receive_max,
            closing: false,
        };
        self.connections.all.insert(conn, connection);
        let owner = Owner { node: self.id, incarnation: self.incarnation, conn };
        let command =
            Command::Connect { client_id, owner, clean_start, expiry, receive_max, principal, will };
        self.push(group, &command, Op::Connect(conn));
    }

    /// A command of this node's stream is applied.
    pub(super) fn op_done(&mut self, group: GroupId, done: Durable<(Op, Option<Reply>)>, now: Duration) {
        let ((op, reply), proof) = done.split();
        match op {
            Op::Connect(conn) => self.connect_done(group, conn, reply, proof),
            Op::Publish(conn, number) => self.publish_done(conn, number, reply, proof),
            Op::PublishOnce(conn, number, direct) => {
                // Whoever repeats it gets no second hand-over, so this one must not depend on the connection.
                if reply.is_none() {
                    self.actions.extend(direct.map(Action::HandOver));
                }
                self.publish_done(conn, number, reply, proof);
            }
            Op::Release(conn, packet_id) => self.release_done(conn, packet_id, reply, proof),
            Op::Receive(conn, packet_ids) => match reply {
                None if self.connections.all.contains_key(&conn) => {
                    let packet_ids = proof.map(|()| packet_ids);
                    self.client(conn, ClientEvent::Received { packet_ids });
                }
                _ => self.lost_session(conn),
            },
            Op::Subscribe(subscribing) => self.subscribe_done(group, *subscribing, proof, reply, now),
            Op::Unsubscribe(conn, packet_id, known) => match reply {
                Some(Reply::Unsubscribed(existed)) if self.connections.all.contains_key(&conn) => {
                    let packet_id = proof.map(|()| packet_id);
                    let existed = known.unwrap_or(existed);
                    self.client(conn, ClientEvent::Unsubscribed { packet_id, existed });
                }
                _ => self.lost_session(conn),
            },
            Op::ShareJoin(conn, filter, waiting) => {
                self.share_joined(group, conn, &filter, waiting, reply, now);
            }
            Op::Acknowledge(conn) => {
                if reply == Some(Reply::Fenced) {
                    self.lost_session(conn);
                }
            }
            Op::Closed(conn) => self.client(conn, ClientEvent::Ended),
            Op::Will(will) => self.will_done(group, will, reply, now),
            Op::Join(disk) => self.join_done(disk, reply),
            Op::Operation(number) => self.operated(number, reply),
            Op::Quiet => {}
        }
    }

    /// The home partition says that the session is another connection's.
    pub(super) fn lost_session(&mut self, conn: ConnId) {
        self.close_here(conn, ReasonCode::SESSION_TAKEN_OVER);
    }

    /// Tells a connection of this node to close, once.
    pub(super) fn close_here(&mut self, conn: ConnId, reason: ReasonCode) {
        if let Some(connection) = self.connections.all.get_mut(&conn)
            && !std::mem::replace(&mut connection.closing, true)
        {
            self.client(conn, ClientEvent::Close(reason));
        }
    }

    fn connect_done(&mut self, group: GroupId, conn: ConnId, reply: Option<Reply>, proof: Durable<()>) {
        match reply {
            Some(Reply::Connected {
                session,
                epoch,
                session_present,
                previous,
                subscriptions,
                next_delivery,
                expiry,
                version,
            }) => {
                // A durable session that is resumed to end with this connection stays the partition's until then.
                let durable = session_present || expiry != SessionExpiry::AtClose;
                let held = Held { session, epoch, durable };
                let Some(connection) = self.connections.all.get_mut(&conn) else {
                    // Closed before it was answered: give the session up again.
                    let command = Command::Disconnect { session, epoch, expiry: None, normal: false };
                    self.push(group, &command, Op::Quiet);
                    return;
                };
                connection.held = Some(held);
                // Deliveries may have come before this answer: they count already.
                connection.next_delivery = connection.next_delivery.max(next_delivery);
                let session_present = proof.map(|()| session_present);
                if previous.is_empty() {
                    self.open(conn, session_present, expiry, subscriptions, version);
                    return;
                }
                for owner in &previous {
                    self.connections.awaited.entry(*owner).or_default().insert(conn);
                }
                let pending = previous.iter().copied().collect();
                connection.pending =
                    Some(Pending { previous: pending, session_present, expiry, subscriptions, version });
                for owner in previous {
                    self.close_previous(owner);
                }
            }
            Some(Reply::ConnectRefused(reason)) => self.refuse(conn, reason),
            _ => self.refuse(conn, ReasonCode::SERVER_UNAVAILABLE),
        }
    }

    fn refuse(&mut self, conn: ConnId, reason: ReasonCode) {
        if self.connections.all.remove(&conn).is_some() {
            self.client(conn, ClientEvent::Refused(reason));
        }
    }

    /// Has a former connection closed, unless it is certainly gone.
    fn close_previous(&mut self, previous: Owner) {
        if previous.node == self.id {
            if previous.incarnation == self.incarnation && self.connections.all.contains_key(&previous.conn) {
                self.close_here(previous.conn, ReasonCode::SESSION_TAKEN_OVER);
            } else {
                self.previous_ended(previous);
            }
        } else if self.certainly_dead(previous.node, previous.incarnation) {
            self.previous_ended(previous);
        } else {
            self.ask_to_close(previous);
        }
    }

    fn ask_to_close(&mut self, previous: Owner) {
        let reason = ReasonCode::SESSION_TAKEN_OVER.value();
        let ask = PeerMessage::CloseConn { incarnation: previous.incarnation, conn: previous.conn, reason };
        self.send(previous.node, ask);
    }

    /// Asks again for every takeover that waits for a connection of `node`.
    pub(super) fn ask_previous_again(&mut self, node: NodeId) {
        let awaited = self.connections.awaited.keys().filter(|previous| previous.node == node);
        for previous in awaited.copied().collect::<Vec<_>>() {
            self.ask_to_close(previous);
        }
    }

    /// A node asks to close a connection here.
    pub(super) fn close_for_peer(
        &mut self,
        from: NodeId,
        incarnation: Incarnation,
        conn: ConnId,
        reason: u8,
    ) {
        if incarnation == self.incarnation && self.connections.all.contains_key(&conn) {
            self.connections.closers.entry(conn).or_default().insert(from);
            let reason = ReasonCode::from_value(reason).unwrap_or(ReasonCode::SESSION_TAKEN_OVER);
            self.close_here(conn, reason);
        } else {
            self.send(from, PeerMessage::ConnClosed { incarnation, conn });
        }
    }

    /// Former connections that fit are gone.
    pub(super) fn previous_gone(&mut self, fits: impl Fn(&Owner) -> bool) {
        let gone: Vec<Owner> =
            self.connections.awaited.keys().filter(|previous| fits(previous)).copied().collect();
        for previous in gone {
            self.previous_ended(previous);
        }
    }

    /// A former connection is closed: opens every connection that waited for it alone.
    pub(super) fn previous_ended(&mut self, previous: Owner) {
        for (conn, pending) in self.connections.ended(previous) {
            let Pending { session_present, expiry, subscriptions, version, .. } = pending;
            self.open(conn, session_present, expiry, subscriptions, version);
        }
    }

    /// The session is this connection's alone.
    fn open(
        &mut self,
        conn: ConnId,
        session_present: Durable<bool>,
        expiry: SessionExpiry,
        subscriptions: Vec<SubscribeFilter>,
        version: ShareVersion,
    ) {
        let Some(connection) = self.connections.all.get_mut(&conn) else { return };
        let Some(held) = connection.held.clone() else { return };
        connection.open = true;
        let early = std::mem::take(&mut connection.early);
        let group = connection.group;
        for subscription in &subscriptions {
            self.add_local_route(conn, subscription);
        }
        self.rejoin_shares(conn, &subscriptions, version);
        self.client(
            conn,
            ClientEvent::Connected {
                session_present,
                group,
                session: held.session,
                epoch: held.epoch,
                expiry,
                subscriptions,
            },
        );
        for delivery in early {
            self.client(conn, ClientEvent::Deliver(delivery));
        }
    }

    fn closed(&mut self, conn: ConnId, expiry: Option<SessionExpiry>, normal: bool) {
        let Some(connection) = self.connections.all.remove(&conn) else { return };
        if let Some(held) = &connection.held {
            let Held { session, epoch, .. } = *held;
            let command = Command::Disconnect { session, epoch, expiry, normal };
            self.push(connection.group, &command, Op::Closed(conn));
        } else {
            self.client(conn, ClientEvent::Ended);
        }
        for (filter, target) in connection.filters {
            self.drop_local_route(filter, target);
        }
        self.retained.connection_closed(conn);
        if let Some(pending) = &connection.pending {
            self.connections.gives_up(conn, pending);
        }
        let (node, incarnation) = (self.id, self.incarnation);
        self.previous_ended(Owner { node, incarnation, conn });
        for node in self.connections.closers.remove(&conn).unwrap_or_default() {
            self.send(node, PeerMessage::ConnClosed { incarnation, conn });
        }
    }

    /// Counts a subscription's filter for a connection; announces the route when it is the node's first. Gives the
    /// position of the announcement.
    fn add_local_route(&mut self, conn: ConnId, subscription: &SubscribeFilter) -> (StreamId, StreamSeq) {
        let stream = StreamId::Node(self.id, self.incarnation);
        let SubscribeFilter { filter, options, .. } = subscription;
        let Some(connection) = self.connections.all.get_mut(&conn) else { return (stream, StreamSeq(0)) };
        let durable = connection.held.as_ref().is_some_and(|held| held.durable);
        let by_partition = durable && !filter.is_shared() && options.qos != quorate_codec::QoS::AtMostOnce;
        let target = if by_partition { RouteTarget::NodeQos0(self.id) } else { RouteTarget::Node(self.id) };
        let old = connection.filters.insert(filter.clone(), target);
        let route = (filter.clone(), target);
        let seq = match self.connections.routes.get_mut(&route) {
            Some(known) => {
                known.count += u32::from(old != Some(target));
                known.seq
            }
            None => {
                let command = Command::RouteAdd { filter: filter.clone(), target };
                let seq = self.push(CONTROL, &command, Op::Quiet);
                self.connections.routes.insert(route, LocalRoute { count: 1, seq });
                seq
            }
        };
        // After the new one, so that there is no moment without either.
        if let Some(old) = old.filter(|old| *old != target) {
            self.drop_local_route(filter.clone(), old);
        }
        (stream, seq)
    }

    /// The connection has no such subscription any longer. Gives whether it had.
    pub(super) fn leave_local_route(&mut self, conn: ConnId, filter: &TopicFilter) -> bool {
        let connection = self.connections.all.get_mut(&conn);
        let target = connection.and_then(|connection| connection.filters.remove(filter));
        if let Some(target) = target {
            self.drop_local_route(filter.clone(), target);
        }
        target.is_some()
    }

    fn drop_local_route(&mut self, filter: TopicFilter, target: RouteTarget) {
        let route = (filter, target);
        let Some(known) = self.connections.routes.get_mut(&route) else { return };
        known.count = known.count.saturating_sub(1);
        if known.count == 0 {
            self.connections.routes.remove(&route);
            let (filter, target) = route;
            self.push(CONTROL, &Command::RouteRemove { filter, target }, Op::Quiet);
        }
    }

    fn subscribe(&mut self, conn: ConnId, packet_id: PacketId, filters: Vec<SubscribeFilter>, now: Duration) {
        let Some((group, held)) = self.held(conn) else { return };
        let existed: Vec<bool> = {
            let known = self.connections.all.get(&conn).map(|connection| &connection.filters);
            filters.iter().map(|f| known.is_some_and(|known| known.contains_key(&f.filter))).collect()
        };
        let needs: Vec<(StreamId, StreamSeq)> =
            filters.iter().map(|subscription| self.add_local_route(conn, subscription)).collect();
        // The partition has all subscriptions of a durable session, and the shared ones of a transient session.
        let mut replicated = filters.clone();
        replicated.retain(|subscription| held.durable || subscription.filter.is_shared());
        if !replicated.is_empty() {
            let command =
                Command::Subscribe { session: held.session, epoch: held.epoch, filters: replicated };
            let subscribing = Subscribing { conn, packet_id, filters, existed, needs };
            self.push(group, &command, Op::Subscribe(Box::new(subscribing)));
            return;
        }
        let reasons = filters.iter().map(|f| granted(f.options.qos)).collect();
        let retained = wanted_retained(filters, &existed);
        // A transient session promises nothing beyond its connection: what makes its SUBACK true is the barrier alone.
        let packet_id = Durable::committed(packet_id);
        self.wait(Waiting { conn, packet_id, reasons, retained, needs, index: None, bounds: None }, now);
    }

    fn subscribe_done(
        &mut self,
        group: GroupId,
        subscribing: Subscribing,
        proof: Durable<()>,
        reply: Option<Reply>,
        now: Duration,
    ) {
        let Subscribing { conn, packet_id, filters, existed, mut needs } = subscribing;
        let (Some(Reply::Subscribed(results)), Some((_, held))) = (reply, self.held(conn)) else {
            self.lost_session(conn);
            return;
        };
        needs.extend(results.iter().filter_map(|result| Some((StreamId::Group(group), result.route?))));
        let mut results = results.into_iter();
        let mut reasons = Vec::with_capacity(filters.len());
        let mut made = (Vec::new(), Vec::new());
        let mut joins = Vec::new();
        for (at, (subscription, existed)) in filters.into_iter().zip(existed).enumerate() {
            let asked = held.durable || subscription.filter.is_shared();
            let Some(result) = asked.then(|| results.next()).flatten() else {
                reasons.push(granted(subscription.options.qos));
                made.0.push(subscription);
                made.1.push(existed);
                continue;
            };
            reasons.push(result.reason);
            if result.version != ShareVersion(0) {
                joins.push((at, subscription.clone(), result.version));
            }
            if !result.reason.is_failure() {
                made.0.push(subscription);
                made.1.push(result.existed);
            }
        }
        let retained = wanted_retained(made.0, &made.1);
        let packet_id = proof.map(|()| packet_id);
        let waiting = Waiting { conn, packet_id, reasons, retained, needs, index: None, bounds: None };
        self.join_shares(waiting, joins, now);
    }

    pub(super) fn wait(&mut self, waiting: Waiting, now: Duration) {
        self.connections.waiting.push_back(waiting);
        self.finish_waiting(now);
    }

    /// Answers every SUBSCRIBE whose routes all live nodes have by now, and that knows up to where retained messages count.
    pub(super) fn finish_waiting(&mut self, now: Duration) {
        let Some(control) = self.groups.get(&CONTROL).map(|group| group.machine()) else { return };
        let applied = control.applied();
        let barrier = self.barrier;
        let mut done = Vec::new();
        let mut keep = std::collections::VecDeque::new();
        let mut unasked = Vec::new();
        for mut waiting in std::mem::take(&mut self.connections.waiting) {
            let passed = &mut self.connections.passed;
            waiting.needs.retain(|(stream, seq)| passed.get(stream).is_none_or(|passed| passed < seq));
            if waiting.index.is_none()
                && waiting.needs.iter().all(|(stream, seq)| control.stream_applied(*stream) >= *seq)
            {
                waiting.index = Some(applied);
            }
            let passed_barrier =
                waiting.needs.is_empty() || waiting.index.is_some_and(|index| index <= barrier);
            if !passed_barrier || self.retained.is_full(waiting.conn) {
                keep.push_back(waiting);
                continue;
            }
            for (stream, seq) in waiting.needs.drain(..) {
                let entry = passed.entry(stream).or_default();
                *entry = (*entry).max(seq);
            }
            if waiting.retained.is_empty() {
                done.push((waiting, Bounds::default()));
                continue;
            }
            match waiting.bounds {
                Some(number) => match self.retained_bounds.take(number, now) {
                    Some(bounds) => done.push((waiting, bounds)),
                    None => keep.push_back(waiting),
                },
                None => {
                    unasked.push(keep.len());
                    keep.push_back(waiting);
                }
            }
        }
        for place in unasked {
            let retained = keep.get(place).map_or_else(Vec::new, |waiting| waiting.retained.clone());
            let number = self.ask_bounds(&retained, now);
            if let Some(waiting) = keep.get_mut(place) {
                waiting.bounds = Some(number);
            }
        }
        self.connections.waiting = keep;
        for (Waiting { conn, packet_id, reasons, retained, .. }, bounds) in done {
            if self.connections.all.contains_key(&conn) {
                self.client(conn, ClientEvent::Subscribed { packet_id, reasons });
                self.read_retained(conn, retained, &bounds, now);
            }
        }
    }

    fn unsubscribe(&mut self, conn: ConnId, packet_id: PacketId, filters: Vec<TopicFilter>) {
        let Some((group, held)) = self.held(conn) else { return };
        let existed: Vec<bool> = filters.iter().map(|filter| self.leave_local_route(conn, filter)).collect();
        let asked: Vec<TopicFilter> =
            filters.into_iter().filter(|filter| held.durable || filter.is_shared()).collect();
        if !asked.is_empty() {
            let command = Command::Unsubscribe { session: held.session, epoch: held.epoch, filters: asked };
            let known = (!held.durable).then_some(existed);
            self.push(group, &command, Op::Unsubscribe(conn, packet_id, known));
        } else {
            let packet_id = Durable::committed(packet_id);
            self.client(conn, ClientEvent::Unsubscribed { packet_id, existed });
        }
    }

    /// The barrier has moved.
    pub(super) fn barrier_moved(&mut self, index: LogIndex, now: Duration) {
        if index > self.barrier {
            self.barrier = index;
            self.finish_waiting(now);
        }
    }

    /// All connections are told to close: this incarnation is over.
    pub(super) fn close_all(&mut self, reason: ReasonCode) {
        let all: Vec<ConnId> = self.connections.all.keys().copied().collect();
        for conn in all {
            self.close_here(conn, reason);
        }
    }
}

/// SUBACK reason for a granted QoS.
fn granted(qos: quorate_codec::QoS) -> ReasonCode {
    match qos {
        quorate_codec::QoS::AtMostOnce => ReasonCode::GRANTED_QOS_0,
        quorate_codec::QoS::AtLeastOnce => ReasonCode::GRANTED_QOS_1,
        quorate_codec::QoS::ExactlyOnce => ReasonCode::GRANTED_QOS_2,
    }
}

/// The subscriptions that want retained messages [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11]. Shared ones never do
/// (MQTT 5, 4.8.2).
fn wanted_retained(filters: Vec<SubscribeFilter>, existed: &[bool]) -> Vec<SubscribeFilter> {
    filters
        .into_iter()
        .zip(existed)
        .filter(|(subscription, existed)| match subscription.options.retain_handling {
            _ if subscription.filter.is_shared() => false,
            quorate_codec::RetainHandling::Always => true,
            quorate_codec::RetainHandling::IfNew => !**existed,
            quorate_codec::RetainHandling::Never => false,
        })
        .map(|(subscription, _)| subscription)
        .collect()
}
