//! Everything that happens on behalf of one client connection on its node.
//!
//! Owns: [`Client`]: the protocol machine of the connection, its session policy, the order of its acknowledgements,
//! and the session itself when it ends with the connection (transient). Does not: read or write sockets, replicate,
//! know other connections.
//! Invariants: nothing that promises something is sent while the node's lease has passed; what is withheld leaves in
//! order when the lease is back; `Closed` is asked once per `Connect`, and nothing is acknowledged after it.
//! Limits: `limits`, and [`ClientConfig`]. Spec: MQTT 5, 3.1, 3.2, 3.14, 4.1.
//! See: docs/decisions/0001-session-homed-partitions.md, docs/decisions/0008-takeover-waits-for-a-lease.md.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use quorate_codec::{Connect, PacketId, ProtocolVersion, ReasonCode, Text, TopicFilter};
use quorate_connection::{Accept, Connection, Event};
pub use quorate_connection::{CloseCause, PacketRecord, Reading, Timer, Traffic};
use quorate_state::command::{SessionExpiry, SubscribeFilter};
use quorate_state::effect::DropReason;
use quorate_state::hash::client_hash;
use quorate_state::{Epoch, GroupId, Incarnation, Message, Owner, SessionId, Will};

use crate::durable::Durable;
use crate::edge::{ClientEvent, ClientOutput, ClientRequest, ConnectRequest, DirectDelivery, LocalChange};
use crate::routing::Routing;
use crate::system_topics::{SystemTopics, is_read_only};
use direct::Outgoing;
use publish::{Publishing, encode_properties};
use subscribe::Subscribing;

mod direct;
pub mod limits;
mod publish;
mod subscribe;
mod system;

use limits::{
    CLIENT_ID_BYTES_MAX, PUBLISHES_PENDING_MAX, RETRY_AFTER, ROOM_RETRY_AFTER, SUBSCRIBES_PENDING_MAX,
};

/// What holds for all client connections of a node.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Limits and capabilities of the protocol machine.
    pub connection: quorate_connection::Config,
    /// Longest session expiry granted, in seconds; `u32::MAX` grants sessions that never expire.
    pub session_expiry_max_s: u32,
    /// Most QoS 1 messages inflight to a client, whatever Receive Maximum it announces. At least 1.
    pub inflight_max: u16,
    /// Messages that wait for the window of a transient session; beyond, the newest are dropped and counted.
    pub direct_queue_messages_max: usize,
    /// Bytes of such messages.
    pub direct_queue_bytes_max: usize,
    /// Subscriptions per session.
    pub subscriptions_max: usize,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// Whether a client may connect without a user name.
    pub anonymous_allowed: bool,
}

/// What a client needs to know of its node in every call. The lease and the incarnation are to be read together: an incarnation that was
/// declared dead never sees a lease again, even if the node has a new one.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Routes and local subscriptions.
    pub routing: &'a Routing,
    /// Current values below `$SYS`.
    pub system: &'a SystemTopics,
    /// From this time on, nothing is acknowledged.
    pub lease_until: Duration,
    /// The node's incarnation that holds the lease.
    pub incarnation: Incarnation,
    /// The node takes no new clients: it is taken out of service, or stops.
    pub draining: bool,
    /// Whether the node's disk has room for messages.
    pub intake: Intake,
    /// Whether the node's memory is short.
    pub pressure: Pressure,
}

/// Whether messages of clients are taken in. Everything else is: acknowledgements and what frees room most of all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Intake {
    /// They are.
    #[default]
    Open,
    /// The disk has little room left. QoS 1 and 2 of MQTT 5 are refused with Quota exceeded (0x97); MQTT 3 has no word for it, so
    /// its publishers are not read until there is room. QoS 0 needs no disk and goes on; only what was to be retained of it is
    /// dropped and counted.
    Closed,
}

/// How short the memory of the node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Pressure {
    /// There is enough.
    #[default]
    None,
    /// Little is left. A client that publishes is read in small pieces with pauses between them; all that it sends is taken, its
    /// acknowledgements and PINGREQ too. Nothing is refused.
    High,
    /// Nearly nothing is left. CONNECT is refused with Quota exceeded (0x97, return code 3 in MQTT 3), and messages as with
    /// [`Intake::Closed`], but for QoS 0, all of which is dropped and counted.
    Full,
}

/// One client connection. Sans IO, like the machine within: `handle_*` take input with `now`; after each, the shell
/// carries out `ClientOutput`, writes [`Client::output`] and asks [`Client::poll_timeout`].
#[derive(Debug)]
pub struct Client {
    owner: Owner,
    config: Arc<ClientConfig>,
    connection: Connection,
    phase: Phase,
    /// Other servers for the client, in case that it has to go.
    server_reference: Option<Text>,
    /// Hash of the client identifier; 0 before CONNECT.
    client_hash: u64,
    publishing: Publishing,
    subscribing: Subscribing,
    outgoing: Outgoing,
    /// PUBACKs and PUBCOMPs for the durable session that the node has not been told of yet.
    acknowledged: Vec<PacketId>,
    /// As `acknowledged`, for PUBRECs.
    received: Vec<PacketId>,
    /// What the node said while fenced, from the first event that makes a promise on.
    withheld: VecDeque<ClientEvent>,
    /// A PUBLISH that came after a change of subscriptions which is not in the routing table yet, or a SUBSCRIBE that waits for
    /// the answers of other nodes. What came after it waits in the connection.
    deferred: Option<Box<Event>>,
    /// The node has more retained messages and waits for a word.
    retained_given: bool,
    /// When to look again whether what waits may go on.
    retry_at: Option<Duration>,
    /// Until when the client is not read, because it has published while memory is short.
    rests_until: Option<Duration>,
}

/// Where the principal of a connection comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Principal {
    /// The user name in CONNECT; anonymous without one.
    #[default]
    UserName,
    /// The certificate of the client, whatever user name comes in CONNECT. Without a name in it CONNECT is refused with
    /// Not authorized (0x87) [MQTT-3.1.4-2].
    Certificate(Option<Text>),
}

/// How far the connection has come.
#[derive(Debug)]
enum Phase {
    /// No CONNECT yet.
    Opening(Principal),
    /// The node was asked to connect.
    Requested {
        /// Client identifier for CONNACK, when the client sent none.
        assigned: Option<Text>,
    },
    /// CONNACK was sent.
    Open {
        /// The session, when it is its partition's; `None` when it ends with the connection.
        durable: Option<DurableSession>,
    },
    /// Nothing more is acknowledged.
    Closed,
}

/// Where the session of a connection is, when it outlives the connection.
#[derive(Clone, Copy, Debug)]
struct DurableSession {
    group: GroupId,
    session: SessionId,
    epoch: Epoch,
}

impl Client {
    /// A connection that was just accepted. `owner` is unique in the cluster for ever: client identifiers are
    /// assigned from it.
    #[must_use]
    pub fn new(owner: Owner, config: Arc<ClientConfig>, now: Duration) -> Client {
        let connection = Connection::new(config.connection.clone(), now);
        Client {
            owner,
            config,
            connection,
            phase: Phase::Opening(Principal::UserName),
            server_reference: None,
            client_hash: 0,
            publishing: Publishing::default(),
            subscribing: Subscribing::default(),
            outgoing: Outgoing::default(),
            acknowledged: Vec::new(),
            received: Vec::new(),
            withheld: VecDeque::new(),
            deferred: None,
            retained_given: false,
            retry_at: None,
            rests_until: None,
        }
    }

    /// The same connection with a principal that does not come from its CONNECT. Counts until CONNECT.
    #[must_use]
    pub fn acting_for(self, principal: Principal) -> Client {
        Client { phase: Phase::Opening(principal), ..self }
    }

    /// Bytes came from the client.
    pub fn handle_bytes(
        &mut self,
        input: &mut BytesMut,
        context: &Context<'_>,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        self.release(context, out, now);
        self.connection.handle_bytes(input, now);
        self.finish_call(context, out, now);
    }

    /// The node answers, or has something for the client.
    pub fn handle_event(
        &mut self,
        event: ClientEvent,
        context: &Context<'_>,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        self.release(context, out, now);
        if self.must_withhold(&event, context, now) {
            self.withheld.push_back(event);
        } else {
            self.obey_node(event, out, now);
        }
        self.finish_call(context, out, now);
    }

    /// A message reached this connection directly. Dropped and counted when the session cannot take it.
    pub fn handle_direct(
        &mut self,
        delivery: DirectDelivery,
        context: &Context<'_>,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        self.release(context, out, now);
        match self.phase {
            Phase::Open { .. } => self.deliver_direct(delivery, out, now),
            Phase::Opening(_) | Phase::Requested { .. } | Phase::Closed => {
                out.dropped.push((DropReason::SessionEnded, 1))
            }
        }
        self.finish_call(context, out, now);
    }

    /// The time of [`Client::poll_timeout`] has come. Harmless when called early.
    pub fn handle_timeout(&mut self, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        self.release(context, out, now);
        self.connection.handle_timeout(now);
        self.finish_call(context, out, now);
    }

    /// The client is gone without DISCONNECT.
    pub fn handle_eof(&mut self, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        self.connection.handle_eof();
        self.finish_call(context, out, now);
    }

    /// Whether the shell reads from now on: to be said before it waits for something. Silence of a client that is not
    /// read is not held against it.
    pub fn set_reading(&mut self, reading: Reading, now: Duration) {
        self.connection.set_reading(reading, now);
    }

    /// Whether there is more to do as soon as the `ClientOutput` is carried out: then call [`Client::handle_timeout`]
    /// without waiting.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.deferred.is_some() && self.subscribing.waits_until().is_none()
    }

    /// When to call [`Client::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let keep_alive = self.connection.poll_timeout();
        let marks = self.subscribing.waits_until();
        [keep_alive, self.retry_at, self.rests_until, marks].into_iter().flatten().min()
    }

    /// What went through the connection since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        self.connection.take_traffic()
    }

    /// From now on each packet is recorded, with so many bytes of payloads; with `None`, none is.
    pub fn observe(&mut self, payload_bytes_max: Option<usize>) {
        self.connection.observe(payload_bytes_max);
    }

    /// Takes the records of packets out, with the number of those that there was no room for.
    pub fn take_observed(&mut self) -> (Vec<PacketRecord>, u64) {
        self.connection.take_observed()
    }

    /// Bytes to write to the client; the shell takes out what it has written.
    pub fn output(&mut self) -> &mut BytesMut {
        self.connection.output()
    }

    /// Whether the connection is over: write what is left and close the socket.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed() && self.deferred.is_none()
    }

    /// Why the connection is over; `None` while it is not.
    #[must_use]
    pub fn close_cause(&self) -> Option<CloseCause> {
        self.connection.close_cause()
    }

    /// Whether the client ended the connection by DISCONNECT: its socket is closed after `ClientEvent::Ended`.
    #[must_use]
    pub fn has_said_goodbye(&self) -> bool {
        matches!(self.connection.close_cause(), Some(CloseCause::Disconnect(_)))
    }

    /// Whether bytes of the client are welcome. While not, the shell leaves them in the socket.
    #[must_use]
    pub fn wants_read(&self) -> bool {
        self.connection.wants_read()
            && self.deferred.is_none()
            && !self.is_slow()
            && self.rests_until.is_none()
            && !self.publishing.holds()
            && self.publishing.waiting() < PUBLISHES_PENDING_MAX
            && self.subscribing.waiting() < SUBSCRIBES_PENDING_MAX
    }

    /// Whether direct deliveries are welcome. While not, the shell keeps them; those that are given nevertheless may be
    /// dropped.
    #[must_use]
    pub fn wants_direct(&self) -> bool {
        !self.is_slow() && !self.outgoing.is_half_full(&self.config)
    }

    /// The connection.
    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    fn fenced(&self, context: &Context<'_>, now: Duration) -> bool {
        now >= context.lease_until || context.incarnation != self.owner.incarnation
    }

    fn is_transient(&self) -> bool {
        matches!(self.phase, Phase::Open { durable: None })
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Lets go what was withheld, when the lease is back.
    fn release(&mut self, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        while !self.fenced(context, now) {
            let Some(event) = self.withheld.pop_front() else { break };
            self.obey_node(event, out, now);
        }
    }

    /// What makes a promise waits for the lease; so does what came after it, except what ends the connection.
    fn must_withhold(&self, event: &ClientEvent, context: &Context<'_>, now: Duration) -> bool {
        match event {
            ClientEvent::Refused(_) | ClientEvent::Close(_) | ClientEvent::Ended => false,
            // Settled in order, and not while fenced: see `settle_publishes`.
            ClientEvent::PublishApplied { .. } => false,
            // Promises nothing: the SUBSCRIBE that waits for it is only begun.
            ClientEvent::Marked(_) => false,
            ClientEvent::Connected { .. }
            | ClientEvent::Released { .. }
            | ClientEvent::Subscribed { .. }
            | ClientEvent::Unsubscribed { .. } => self.fenced(context, now) || !self.withheld.is_empty(),
            ClientEvent::Deliver(_)
            | ClientEvent::Received { .. }
            | ClientEvent::Retained { .. }
            | ClientEvent::RetainedGiven => !self.withheld.is_empty(),
        }
    }

    fn obey_node(&mut self, event: ClientEvent, out: &mut ClientOutput, now: Duration) {
        if self.is_over() {
            return;
        }
        match event {
            ClientEvent::Connected { session_present, group, session, epoch, expiry, subscriptions } => {
                let session = DurableSession { group, session, epoch };
                self.connected(&session_present, session, expiry, subscriptions, out, now);
            }
            ClientEvent::Refused(reason) => self.refuse_connect(reason, out),
            ClientEvent::PublishApplied { number, outcome } => self.publish_applied(number, outcome),
            ClientEvent::Released { packet_id, found } => self.released(&packet_id, found),
            ClientEvent::Received { packet_ids } => self.receipt_is_durable(&packet_ids),
            ClientEvent::Marked(number) => self.subscribing.marked(number),
            ClientEvent::Subscribed { packet_id, reasons } => {
                self.subscribed(packet_id.into_inner(), &reasons, out)
            }
            ClientEvent::Unsubscribed { packet_id, existed } => {
                self.unsubscribed(packet_id.into_inner(), existed)
            }
            ClientEvent::Deliver(delivery) => self.deliver_session(delivery, out),
            ClientEvent::Retained { qos, identifier, expiry_s, message } => {
                self.deliver_retained(qos, identifier, expiry_s, message, out, now);
            }
            ClientEvent::RetainedGiven => self.retained_given = true,
            ClientEvent::Close(ReasonCode::USE_ANOTHER_SERVER) => {
                self.send_away(ReasonCode::USE_ANOTHER_SERVER, out);
            }
            ClientEvent::Close(reason) => self.close(reason, out),
            // The shell waits for it; here all is over already.
            ClientEvent::Ended => {}
        }
    }

    /// What the client wants, in order and as far as it may be done now: a PUBLISH that follows a SUBSCRIBE or UNSUBSCRIBE of
    /// the same client is routed when that is in the routing table, and a SUBSCRIBE is begun when nothing older is underway.
    fn obey_connection(&mut self, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        while let Some(event) = self.next_event(out, now) {
            if self.is_over() {
                continue;
            }
            match event {
                Event::Connect(connect) => self.connect(&connect, context, out, now),
                Event::Publish { publish, topic, token } => {
                    self.publish(publish, topic, token, context, out, now)
                }
                Event::Release(packet_id) => self.release_publish(packet_id, out),
                Event::Received(packet_id) => self.delivery_received(packet_id),
                Event::Acknowledged(packet_id) => self.delivery_acknowledged(packet_id),
                Event::Subscribe(subscribe) => self.subscribe(&subscribe, out),
                Event::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe, out),
                Event::Closed { expiry_s } => {
                    // What came before the end and needs nobody's word is handed over.
                    self.settle_publishes(context, out, now);
                    let expiry = expiry_s.map(|seconds| self.capped(expiry_of_seconds(seconds)));
                    self.finish(expiry, out);
                }
            }
        }
    }

    fn next_event(&mut self, out: &mut ClientOutput, now: Duration) -> Option<Event> {
        let deferred = self.deferred.take().map(|deferred| *deferred);
        let Some(event) = deferred.or_else(|| self.connection.poll_event()) else {
            // What is read from now on may be newer than the marks.
            self.subscribing.forget_marks();
            return None;
        };
        let waits = match &event {
            Event::Publish { .. } => !out.local.is_empty(),
            Event::Subscribe(subscribe) => self.waits_for_marks(subscribe, out, now),
            _ => false,
        };
        if waits {
            self.deferred = Some(Box::new(event));
            return None;
        }
        Some(event)
    }

    /// What every call ends with. Whatever was sent may have ended the connection: its end is obeyed before the call
    /// returns, so that the node hears of it.
    fn finish_call(&mut self, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        self.retry_at = None;
        self.rests_until =
            self.rests_until.filter(|until| now < *until && context.pressure != Pressure::None);
        self.obey_connection(context, out, now);
        if !self.is_over() {
            self.settle_publishes(context, out, now);
            self.give_system_topics(context, out, now);
            self.pump(out, now);
            self.obey_connection(context, out, now);
        }
        if self.is_over() {
            return;
        }
        self.report_acknowledged(out);
        if self.retained_given && !self.is_slow() && !self.outgoing.waits_for_output() {
            self.retained_given = false;
            out.requests.push(ClientRequest::RetainedTaken);
        }
        let fenced = self.fenced(context, now);
        let waits_for_lease = !self.withheld.is_empty() || (fenced && self.publishing.waits_for_lease());
        if self.has_work() {
            self.retry_at = Some(now);
        } else if waits_for_lease
            || ((self.outgoing.waits_for_output() || self.retained_given) && self.is_slow())
        {
            self.retry_at = Some(now + RETRY_AFTER);
        } else if self.publishing.holds() {
            self.retry_at = Some(now + ROOM_RETRY_AFTER);
        }
    }

    fn report_acknowledged(&mut self, out: &mut ClientOutput) {
        if !self.received.is_empty() {
            let packet_ids = std::mem::take(&mut self.received);
            out.requests.push(ClientRequest::Received { packet_ids });
        }
        if !self.acknowledged.is_empty() {
            let packet_ids = std::mem::take(&mut self.acknowledged);
            out.requests.push(ClientRequest::Acknowledged { packet_ids });
        }
    }

    /// CONNECT was read.
    fn connect(&mut self, connect: &Connect, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        if context.draining {
            return self.send_away(ReasonCode::SERVER_UNAVAILABLE, out);
        }
        if self.fenced(context, now) {
            return self.refuse_connect(ReasonCode::SERVER_UNAVAILABLE, out);
        }
        if context.pressure == Pressure::Full {
            return self.refuse_connect(ReasonCode::QUOTA_EXCEEDED, out);
        }
        if let Some(reason) = self.refusal_of(connect) {
            return self.refuse_connect(reason, out);
        }
        let principal = match self.principal_of(connect) {
            Ok(principal) => principal,
            Err(reason) => return self.refuse_connect(reason, out),
        };
        let assigned = connect.client_id.as_str().is_empty().then(|| self.assigned_client_id());
        let client_id = assigned.clone().unwrap_or_else(|| own_text(&connect.client_id));
        self.client_hash = client_hash(client_id.as_str());
        self.phase = Phase::Requested { assigned };
        out.requests.push(ClientRequest::Connect(Box::new(ConnectRequest {
            will: connect.will.as_ref().map(|will| self.will(will)),
            client_id,
            clean_start: connect.clean_start,
            expiry: self.capped(requested_expiry(connect)),
            receive_max: connect.receive_max.map_or(u16::MAX, u16::from).min(self.config.inflight_max),
            principal,
        })));
    }

    /// The will as a message of this client.
    fn will(&self, will: &quorate_codec::Will) -> Will {
        let message = Message {
            topic: will.topic.clone(),
            qos: will.qos,
            retain: will.retain,
            expiry_s: will.properties.message_expiry_s,
            publisher: self.client_hash,
            properties: encode_properties(&will.properties),
            payload: will.payload.clone(),
        };
        Will { delay_s: will.delay_s.unwrap_or(0), message }
    }

    /// Why a CONNECT is against the policy; `None` when it is not.
    fn refusal_of(&self, connect: &Connect) -> Option<ReasonCode> {
        let client_id = connect.client_id.as_str();
        let must_have_id = match connect.version {
            ProtocolVersion::V31 => true,
            ProtocolVersion::V311 => !connect.clean_start, // [MQTT-3.1.3-8]
            ProtocolVersion::V5 => false,
        };
        let missing = client_id.is_empty() && must_have_id;
        if missing || client_id.len() > CLIENT_ID_BYTES_MAX || client_id.chars().any(char::is_control) {
            return Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        if connect.will.as_ref().is_some_and(|will| is_read_only(will.topic.as_str())) {
            return Some(ReasonCode::NOT_AUTHORIZED);
        }
        None
    }

    /// Whom the session belongs to; empty when anonymous.
    fn principal_of(&self, connect: &Connect) -> Result<Text, ReasonCode> {
        let principal = match &self.phase {
            Phase::Opening(Principal::Certificate(name)) => {
                return name.clone().ok_or(ReasonCode::NOT_AUTHORIZED);
            }
            Phase::Opening(Principal::UserName)
            | Phase::Requested { .. }
            | Phase::Open { .. }
            | Phase::Closed => connect.username.as_ref().map(own_text),
        };
        if principal.is_none() && !self.config.anonymous_allowed {
            return Err(ReasonCode::NOT_AUTHORIZED);
        }
        Ok(principal.unwrap_or_default())
    }

    /// [MQTT-3.1.3-6, MQTT-3.1.3-7] unique, because no connection ever has the same owner.
    fn assigned_client_id(&self) -> Text {
        let Owner { node, incarnation, conn } = self.owner;
        text(&format!("auto-{node}-{incarnation}-{conn}"))
    }

    /// The session is this connection's: CONNACK.
    fn connected(
        &mut self,
        session_present: &Durable<bool>,
        session: DurableSession,
        expiry: SessionExpiry,
        subscriptions: Vec<SubscribeFilter>,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        let Phase::Requested { assigned } = &mut self.phase else { return };
        let assigned = assigned.take();
        // A session that was made to outlive its connection stays with its partition, even when it ends now with this
        // one; a session made to end with its connection is never present.
        let transient = expiry == SessionExpiry::AtClose && !session_present.get();
        self.phase = Phase::Open { durable: (!transient).then_some(session) };
        if *session_present.get() {
            out.local.push(LocalChange::Resumed);
        }
        self.resume_subscriptions(subscriptions, out);
        let accept = Accept {
            session_present: *session_present.get(),
            session_expiry_s: Some(seconds_of_expiry(expiry)),
            assigned_client_id: assigned,
        };
        self.connection.accept(accept, now);
    }

    fn refuse_connect(&mut self, reason: ReasonCode, out: &mut ClientOutput) {
        self.connection.refuse(reason);
        self.finish(None, out);
    }

    /// Sends the client to another server: a client of MQTT 5 is told which, if that is known (MQTT 5, 4.11).
    fn send_away(&mut self, unknown: ReasonCode, out: &mut ClientOutput) {
        match self.server_reference.take() {
            Some(server) => self.connection.redirect(ReasonCode::USE_ANOTHER_SERVER, server),
            None => self.connection.close(unknown),
        }
        self.finish(None, out);
    }

    /// Other servers for the client, in case that it has to go; `None` when none is known.
    pub fn refer_to(&mut self, server_reference: Option<Text>) {
        self.server_reference = server_reference;
    }

    fn close(&mut self, reason: ReasonCode, out: &mut ClientOutput) {
        self.connection.close(reason);
        self.finish(None, out);
    }

    /// The connection is over, whatever the cause: from here on nothing is acknowledged.
    fn finish(&mut self, expiry: Option<SessionExpiry>, out: &mut ClientOutput) {
        let phase = std::mem::replace(&mut self.phase, Phase::Closed);
        self.publishing.clear();
        self.withheld.clear();
        self.deferred = None;
        let dropped = self.outgoing.clear();
        if dropped > 0 {
            out.dropped.push((DropReason::SessionEnded, dropped));
        }
        if self.subscribing.is_known_outside() {
            out.local.push(LocalChange::RemoveAll);
        }
        self.subscribing.clear();
        match phase {
            Phase::Requested { .. } | Phase::Open { .. } => {
                self.report_acknowledged(out);
                let normal = CloseCause::Disconnect(ReasonCode::NORMAL_DISCONNECTION);
                let normal = self.connection.close_cause() == Some(normal);
                out.requests.push(ClientRequest::Closed { expiry, normal });
            }
            Phase::Opening(_) | Phase::Closed => {}
        }
    }

    fn capped(&self, expiry: SessionExpiry) -> SessionExpiry {
        match (expiry, self.config.session_expiry_max_s) {
            (SessionExpiry::AtClose, _) | (_, 0) => SessionExpiry::AtClose,
            (expiry, u32::MAX) => expiry,
            (SessionExpiry::After(seconds), max) => SessionExpiry::After(seconds.min(max)),
            (SessionExpiry::Never, max) => SessionExpiry::After(max),
        }
    }
}

/// How long the client wants its session to live [MQTT-3.1.2-23].
fn requested_expiry(connect: &Connect) -> SessionExpiry {
    match connect.version {
        ProtocolVersion::V5 => expiry_of_seconds(connect.session_expiry_s.unwrap_or(0)),
        // Clean Session 0 asks for a session that outlives the connection, without saying how long.
        ProtocolVersion::V31 | ProtocolVersion::V311 if connect.clean_start => SessionExpiry::AtClose,
        ProtocolVersion::V31 | ProtocolVersion::V311 => SessionExpiry::Never,
    }
}

fn expiry_of_seconds(seconds: u32) -> SessionExpiry {
    match seconds {
        0 => SessionExpiry::AtClose,
        u32::MAX => SessionExpiry::Never,
        seconds => SessionExpiry::After(seconds),
    }
}

fn seconds_of_expiry(expiry: SessionExpiry) -> u32 {
    match expiry {
        SessionExpiry::AtClose => 0,
        SessionExpiry::After(seconds) => seconds,
        SessionExpiry::Never => u32::MAX,
    }
}

/// A copy with its own storage: what is kept must not keep the client's whole input in memory.
fn own_text(shared: &Text) -> Text {
    text(shared.as_str())
}

/// As [`own_text`].
fn own_filter(shared: &TopicFilter) -> TopicFilter {
    TopicFilter::new(text(shared.as_str())).expect("a copy of a valid filter is valid")
}

fn text(copied: &str) -> Text {
    Text::parse(copied).expect("a copy of a text, and what is made of numbers, is valid")
}

#[cfg(test)]
mod tests;
