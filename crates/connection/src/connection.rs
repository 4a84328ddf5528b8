//! One client connection: bytes in, events out; calls in, bytes out.
//!
//! Owns: [`Connection`]. Its methods are of four kinds: `handle_*` take input, `poll_*` give output, the others are
//! what the broker decided, or getters. After any of them, drain `poll_event` and `output`, then ask `poll_timeout`.
//! Does not: see `lib.rs`.
//! Invariants: nothing is decoded between CONNECT and its answer; after the end no byte is added to the output; what
//! must be answered is answered, or the connection ends.
//! Limits: [`Config`], EVENTS_KEPT_MAX.
//! Spec: MQTT 5, chapters 3 and 4.

use core::time::Duration;
use std::collections::VecDeque;

use bytes::BytesMut;
use quorate_codec::{
    Ack, Connect, DecodeError, Disconnect, Packet, PacketId, ProtocolVersion, Publish, PublishParts,
    PublishQoS, QoS, ReasonCode, Role, SubAck, Subscribe, Text, TopicName, UnsubAck, Unsubscribe,
};

use crate::close::{CloseCause, Explanation, disconnect};
use crate::config::Config;
use crate::flow_control::{Awaits, Inbound, Outbound, PublishToken};
use crate::handshake;
use crate::keep_alive::KeepAlive;
use crate::limits::{EVENTS_KEPT_MAX, LATE_MAX, LOOK_AGAIN};
use crate::observer::{Observer, PacketRecord};
use crate::timer::{Timer, TimerTable};
use crate::topic_alias::{InboundAliases, Naming, OutboundAliases};
use crate::traffic::Traffic;

/// What the client wants.
#[derive(Debug)]
pub enum Event {
    /// A valid CONNECT. Answer with [`Connection::accept`] or [`Connection::refuse`]; nothing else is read before.
    Connect(Box<Connect>),
    /// A PUBLISH; `topic` is its name, an alias resolved.
    Publish {
        /// The packet.
        publish: Publish,
        /// Topic name.
        topic: TopicName,
        /// To be given back to [`Connection::acknowledge`]; `None` for QoS 0.
        token: Option<PublishToken>,
    },
    /// PUBREL: the client releases the packet identifier of a QoS 2 PUBLISH. Answer with [`Connection::complete`].
    Release(PacketId),
    /// PUBREC: the client has received a QoS 2 message. Answer with [`Connection::release`].
    Received(PacketId),
    /// The client acknowledged a message: PUBACK, PUBCOMP, or PUBREC with a failure. Its packet identifier is free.
    Acknowledged(PacketId),
    /// SUBSCRIBE. Answer with [`Connection::suback`].
    Subscribe(Subscribe),
    /// UNSUBSCRIBE. Answer with [`Connection::unsuback`].
    Unsubscribe(Unsubscribe),
    /// The connection is over, see [`Connection::close_cause`]; comes once, unless the broker itself ended it.
    Closed {
        /// Session Expiry Interval from DISCONNECT, in seconds.
        expiry_s: Option<u32>,
    },
}

/// A message to send to the client.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Topic name.
    pub topic: &'a TopicName,
    /// QoS, with the packet identifier.
    pub qos: PublishQoS,
    /// DUP flag, not for QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// RETAIN flag.
    pub retain: bool,
    /// Subscription identifiers.
    pub identifiers: &'a [u32],
    /// Remaining lifetime in seconds.
    pub expiry_s: Option<u32>,
    /// Forwarded properties, as `PublishProperties::encode_forwarded` writes them.
    pub forwarded: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

/// Why a message was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// Above the client's Maximum Packet Size [MQTT-3.1.2-24].
    TooLarge,
    /// As many are unacknowledged as the client allows [MQTT-3.3.4-9].
    WindowFull,
    /// The connection is not open; or not any more, because the packet identifier is in use [MQTT-2.2.1-4].
    Closed,
}

/// The broker's answer to a CONNECT.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accept {
    /// Session Present.
    pub session_present: bool,
    /// Session Expiry Interval in force, in seconds; announced when it is not what the client asked for.
    pub session_expiry_s: Option<u32>,
    /// Client identifier, when the client sent none.
    pub assigned_client_id: Option<Text>,
}

/// Whether the caller reads what the client sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reading {
    /// It waits for bytes: silence is the client's.
    #[default]
    Open,
    /// It has enough to do: what the client sent may be unread, and silence says nothing.
    Busy,
    /// The client leaves too much unread. Silence says nothing, but the client must go on taking what it is sent.
    Blocked,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing but a CONNECT may come.
    Opening,
    /// The CONNECT waits for its answer.
    Asked,
    /// CONNACK was sent.
    Open,
    /// Over.
    Closed,
}

/// One client connection.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    phase: Phase,
    version: ProtocolVersion,
    timers: TimerTable,
    keep_alive: KeepAlive,
    inbound: Inbound,
    outbound: Outbound,
    inbound_aliases: InboundAliases,
    outbound_aliases: OutboundAliases,
    /// As the client asked for it in CONNECT.
    session_expiry_s: Option<u32>,
    /// The client's Maximum Packet Size.
    packet_bytes_max: u32,
    /// Reading was paused after the last packet: the client's silence may be this machine's doing.
    paused: bool,
    reading: Reading,
    /// Bytes ever written to `output`.
    written: u64,
    /// Bytes that the client had taken when the output timer was set.
    taken_before: u64,
    traffic: Traffic,
    /// Somebody watches.
    observer: Option<Box<Observer>>,
    cause: Option<CloseCause>,
    events: VecDeque<Event>,
    output: BytesMut,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(config: Config, now: Duration) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Connect, now, config.connect_deadline);
        Connection {
            phase: Phase::Opening,
            version: ProtocolVersion::V5,
            timers,
            keep_alive: KeepAlive::default(),
            inbound: Inbound::new(config.receive_max),
            outbound: Outbound::new(None),
            inbound_aliases: InboundAliases::default(),
            outbound_aliases: OutboundAliases::default(),
            session_expiry_s: None,
            packet_bytes_max: u32::MAX,
            paused: false,
            reading: Reading::Open,
            written: 0,
            taken_before: 0,
            traffic: Traffic::default(),
            observer: None,
            cause: None,
            events: VecDeque::new(),
            output: BytesMut::new(),
            config,
        }
    }

    /// Takes bytes of the client, as many as may be decoded now. What is left is to be handed in again, before newer
    /// bytes, after the next call that makes [`Connection::wants_read`] true.
    pub fn handle_bytes(&mut self, input: &mut BytesMut, now: Duration) {
        if self.phase == Phase::Opening {
            self.handle_first(input, now);
        }
        while self.phase == Phase::Open && self.wants_read() {
            let before = input.len();
            match quorate_codec::decode(input, self.version, Role::Client, &self.config.limits) {
                Ok(Some(packet)) => {
                    self.paused = false;
                    self.traffic.packets_in += 1;
                    if let Some(observer) = &mut self.observer {
                        observer.note(true, &packet, before.saturating_sub(input.len()));
                    }
                    self.restart_keep_alive(now);
                    self.timers.stop(Timer::Packet);
                    self.handle_packet(packet);
                }
                Ok(None) => {
                    if !input.is_empty() {
                        self.timers.start(Timer::Packet, now, self.config.packet_deadline);
                    }
                    return;
                }
                Err(error) => self.fail_decoding(&error),
            }
        }
        match self.phase {
            Phase::Closed => input.clear(),
            Phase::Open => self.paused = true,
            Phase::Opening | Phase::Asked => {}
        }
    }

    fn handle_first(&mut self, input: &mut BytesMut, now: Duration) {
        let before = input.len();
        match quorate_codec::decode_first(input, &self.config.limits) {
            Ok(None) => {}
            Ok(Some(connect)) => {
                self.traffic.packets_in += 1;
                match self.observer.as_mut() {
                    None => self.handle_connect(connect, now),
                    Some(observer) => {
                        let packet = Packet::Connect(connect);
                        observer.note(true, &packet, before.saturating_sub(input.len()));
                        if let Packet::Connect(connect) = packet {
                            self.handle_connect(connect, now);
                        }
                    }
                }
            }
            Err(refused) => {
                if let Some(version) = refused.answer_in {
                    self.version = version;
                    self.write_refusal(refused.error.reason(), Explanation::of(&refused.error));
                }
                self.end(CloseCause::Violation(refused.error.reason()), None);
            }
        }
    }

    /// [MQTT-3.1.4-1], [MQTT-3.1.4-2].
    fn handle_connect(&mut self, connect: Box<Connect>, now: Duration) {
        self.version = connect.version;
        self.packet_bytes_max = connect.packet_bytes_max.unwrap_or(u32::MAX);
        if let Err(reason) = handshake::check(&connect) {
            self.write_refusal(reason, Explanation::default());
            self.end(CloseCause::Violation(reason), None);
            return;
        }
        self.timers.stop(Timer::Connect);
        self.timers.set(Timer::Answer, now, self.config.answer_deadline);
        self.keep_alive = KeepAlive::agree(&connect, &self.config);
        self.outbound = Outbound::new(connect.receive_max);
        let aliases = connect.topic_alias_max.unwrap_or(0).min(self.config.outbound_topic_aliases_max);
        self.outbound_aliases = OutboundAliases::new(aliases);
        self.inbound_aliases = InboundAliases::new(self.config.topic_alias_max);
        self.session_expiry_s = connect.session_expiry_s;
        self.phase = Phase::Asked;
        self.events.push_back(Event::Connect(connect));
    }

    fn handle_packet(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::PubAck(ack) => self.handle_puback(ack.packet_id),
            Packet::PubRec(ack) => self.handle_pubrec(ack.packet_id, ack.reason),
            Packet::PubRel(ack) => self.events.push_back(Event::Release(ack.packet_id)),
            Packet::PubComp(ack) => self.handle_pubcomp(ack.packet_id),
            Packet::Subscribe(subscribe) => self.events.push_back(Event::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => self.events.push_back(Event::Unsubscribe(unsubscribe)),
            // [MQTT-3.12.4-1]
            Packet::PingReq => self.answer(&Packet::PingResp),
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect),
            // [MQTT-3.1.0-2]: a second CONNECT. No AUTH exchange was begun.
            Packet::Connect(_)
            | Packet::Auth(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.fail(ReasonCode::PROTOCOL_ERROR, Explanation::default()),
        }
    }

    fn handle_publish(&mut self, mut publish: Publish) {
        self.traffic.publishes_in += 1;
        self.traffic.publish_bytes_in += publish.payload.len() as u64;
        let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
        let Some(topic) = self.inbound_aliases.resolve(publish.topic.take(), alias) else {
            return self.fail(ReasonCode::TOPIC_ALIAS_INVALID, Explanation::default());
        };
        if let Some(observer) = &mut self.observer {
            observer.resolve(&topic);
        }
        let token = match publish.qos {
            PublishQoS::AtMostOnce => None,
            PublishQoS::AtLeastOnce(packet_id) | PublishQoS::ExactlyOnce(packet_id) => {
                let qos = publish.qos.level();
                // [MQTT-3.3.4-7]. 3.x knows no Receive Maximum: its clients are not read instead, see `wants_read`.
                if self.version == ProtocolVersion::V5 && !self.inbound.allows(qos, packet_id) {
                    return self.fail(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, Explanation::default());
                }
                Some(self.inbound.begin(qos, packet_id))
            }
        };
        self.events.push_back(Event::Publish { publish, topic, token });
    }

    /// One that acknowledges nothing is ignored: it may answer a message of before a takeover. One of the wrong kind is a
    /// violation [MQTT-4.3.2-3, MQTT-4.3.3-3].
    fn handle_puback(&mut self, packet_id: PacketId) {
        match self.outbound.awaits(packet_id) {
            Some(Awaits::PubAck) => self.acknowledged(packet_id),
            Some(Awaits::PubRec | Awaits::Release | Awaits::PubComp) => self.fail_wrong_acknowledgement(),
            None => self.outbound.count_unknown(),
        }
    }

    fn handle_pubrec(&mut self, packet_id: PacketId, reason: ReasonCode) {
        match self.outbound.awaits(packet_id) {
            // [MQTT-4.3.3-4] a failure ends the exchange.
            Some(Awaits::PubRec) if reason.is_failure() => self.acknowledged(packet_id),
            Some(Awaits::PubRec) => {
                self.outbound.advance(packet_id, Awaits::Release);
                self.events.push_back(Event::Received(packet_id));
            }
            // It repeats itself: so does the answer, once there is one.
            Some(Awaits::Release) => {}
            Some(Awaits::PubComp) => self.write_release(packet_id, ReasonCode::SUCCESS),
            Some(Awaits::PubAck) => self.fail_wrong_acknowledgement(),
            // Nothing is known of it here: the client may forget it too (MQTT 5, 3.6.2.1).
            None => {
                self.outbound.count_unknown();
                self.write_release(packet_id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
            }
        }
    }

    fn handle_pubcomp(&mut self, packet_id: PacketId) {
        match self.outbound.awaits(packet_id) {
            Some(Awaits::PubComp) => self.acknowledged(packet_id),
            Some(Awaits::PubAck | Awaits::PubRec | Awaits::Release) => self.fail_wrong_acknowledgement(),
            None => self.outbound.count_unknown(),
        }
    }

    fn acknowledged(&mut self, packet_id: PacketId) {
        self.outbound.end(packet_id);
        self.events.push_back(Event::Acknowledged(packet_id));
    }

    fn fail_wrong_acknowledgement(&mut self) {
        self.fail(ReasonCode::PROTOCOL_ERROR, Explanation::text("acknowledgement of the wrong kind"));
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect) {
        let expiry_s = disconnect.session_expiry_s;
        // MQTT 5, 3.14.2.2.2: a session that was to end with the connection cannot be kept now. What the CONNECT said
        // counts, whatever was granted.
        if expiry_s.is_some_and(|seconds| seconds != 0) && self.session_expiry_s.unwrap_or(0) == 0 {
            return self.fail(ReasonCode::PROTOCOL_ERROR, Explanation::default());
        }
        self.end(CloseCause::Disconnect(disconnect.reason), expiry_s);
    }

    /// A deadline has passed. Harmless when called early.
    ///
    /// A deadline for the client that is noticed late is moved by LOOK_AGAIN: this machine was busy, and what the client
    /// sent in time may wait in the socket.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some((timer, late)) = self.timers.expired(now) {
            let cause = CloseCause::Deadline(timer);
            match timer {
                Timer::Connect | Timer::Packet | Timer::KeepAlive if late > LATE_MAX => {
                    self.timers.set(timer, now, LOOK_AGAIN);
                }
                // Nobody has said who they are: there is no answer.
                Timer::Connect => self.end(cause, None),
                Timer::Answer => {
                    self.write_refusal(
                        ReasonCode::SERVER_UNAVAILABLE,
                        Explanation::text("no answer in time"),
                    );
                    self.end(cause, None);
                }
                Timer::Packet if self.reading != Reading::Open => self.restart_packet(now),
                Timer::Packet => {
                    let explanation = Explanation::text("packet not whole in time");
                    self.write_disconnect(ReasonCode::UNSPECIFIED_ERROR, explanation);
                    self.end(cause, None);
                }
                // What the client sent meanwhile may be unread: it has one more interval.
                Timer::KeepAlive if self.paused || self.reading != Reading::Open => {
                    self.paused = !self.wants_read();
                    self.restart_keep_alive(now);
                }
                // [MQTT-3.1.2-22]
                Timer::KeepAlive => {
                    self.write_disconnect(ReasonCode::KEEP_ALIVE_TIMEOUT, Explanation::default());
                    self.end(cause, None);
                }
                Timer::Output if self.taken() > self.taken_before => self.restart_output(now),
                // Whoever takes nothing could not read why.
                Timer::Output => self.end(cause, None),
            }
        }
    }

    /// Whether the caller reads from now on. To be said before it waits, as often as it changes. The client's silence
    /// counts again from the moment at which the caller reads again.
    pub fn set_reading(&mut self, reading: Reading, now: Duration) {
        if reading == self.reading || self.phase == Phase::Closed {
            return;
        }
        let before = std::mem::replace(&mut self.reading, reading);
        match reading {
            Reading::Open => {
                if self.timers.runs(Timer::KeepAlive) {
                    self.restart_keep_alive(now);
                }
                if self.timers.runs(Timer::Packet) {
                    self.restart_packet(now);
                }
            }
            Reading::Blocked => self.restart_output(now),
            Reading::Busy => {}
        }
        if before == Reading::Blocked {
            self.timers.stop(Timer::Output);
        }
    }

    /// The client's side of the socket is closed.
    pub fn handle_eof(&mut self) {
        self.end(CloseCause::Eof, None);
    }

    /// What the client wants next.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if event.is_none() && self.events.capacity() > EVENTS_KEPT_MAX {
            self.events = VecDeque::new();
        }
        event
    }

    /// Room that is kept for events.
    #[cfg(test)]
    pub(crate) fn events_capacity(&self) -> usize {
        self.events.capacity()
    }

    /// When to call [`Connection::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// Bytes for the client. The caller takes out what it has written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Bytes for the client that are not written yet.
    pub fn output_bytes(&self) -> usize {
        self.output.len()
    }

    /// Whether the connection is over: write what is left, then close the socket.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Whether bytes of the client are welcome. Not while CONNECT waits for its answer, and not while a 3.x client,
    /// which knows no Receive Maximum, has as many publishes unanswered as it may.
    pub fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Opening => true,
            Phase::Asked | Phase::Closed => false,
            Phase::Open => self.version == ProtocolVersion::V5 || !self.inbound.is_full(),
        }
    }

    /// What went through since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    /// From now on each packet is recorded, with so many bytes of payloads; with `None`, none is, and what was is forgotten.
    pub fn observe(&mut self, payload_bytes_max: Option<usize>) {
        match (payload_bytes_max, &mut self.observer) {
            (None, observer) => *observer = None,
            (Some(bytes), Some(observer)) => observer.keep_payload(bytes),
            (Some(bytes), observer) => *observer = Some(Box::new(Observer::new(bytes))),
        }
    }

    /// Takes the records out that were made since the last call, with the number of those that there was no room for.
    pub fn take_observed(&mut self) -> (Vec<PacketRecord>, u64) {
        self.observer.as_mut().map(|observer| observer.take()).unwrap_or_default()
    }

    /// Why the connection is over; `None` as long as it is not.
    pub fn close_cause(&self) -> Option<CloseCause> {
        self.cause
    }

    /// How many more messages of QoS 1 or 2 the client takes.
    pub fn inflight_room(&self) -> u16 {
        self.outbound.room()
    }

    /// Acknowledgements of the client for nothing that was in flight on this connection.
    pub fn unknown_acknowledgements(&self) -> u64 {
        self.outbound.unknown()
    }

    /// Sends CONNACK with success: the session is this connection's. Does nothing unless a CONNECT waits for it.
    ///
    /// Ends the connection with [`Event::Closed`] if the client takes no packet as large as the CONNACK.
    pub fn accept(&mut self, accept: Accept, now: Duration) {
        if self.phase != Phase::Asked {
            return;
        }
        let connack = handshake::connack(&self.config, accept, self.session_expiry_s, self.keep_alive);
        if !self.write(&Packet::ConnAck(Box::new(connack))) {
            self.write_refusal(ReasonCode::PACKET_TOO_LARGE, Explanation::default());
            return self.end(CloseCause::Violation(ReasonCode::PACKET_TOO_LARGE), None);
        }
        self.phase = Phase::Open;
        self.timers.stop(Timer::Answer);
        self.restart_keep_alive(now);
    }

    /// Sends CONNACK with a failure and ends the connection [MQTT-3.2.2-7]. Does nothing unless a CONNECT waits for it.
    pub fn refuse(&mut self, reason: ReasonCode) {
        if self.phase == Phase::Asked {
            self.close(reason);
        }
    }

    /// Sends PUBACK or PUBREC. A failure that 3.x has no words for ends the connection instead: no acknowledgement may look like
    /// success. Does nothing when the connection is over.
    ///
    /// # Panics
    /// If it is not the first publish that is not acknowledged: they are acknowledged in order [MQTT-4.6.0-2].
    pub fn acknowledge(&mut self, token: PublishToken, reason: ReasonCode) {
        if self.phase != Phase::Open {
            return;
        }
        self.inbound.end(&token, reason.is_failure());
        if reason.is_failure() && self.version != ProtocolVersion::V5 {
            return self.end(CloseCause::Broker(reason), None);
        }
        let ack = plain_ack(token.packet_id, reason);
        self.answer(&match token.qos {
            QoS::ExactlyOnce => Packet::PubRec(ack),
            QoS::AtMostOnce | QoS::AtLeastOnce => Packet::PubAck(ack),
        });
    }

    /// Answers [`Event::Release`] with PUBCOMP [MQTT-4.3.3-11]; `found` tells whether the packet identifier was in use.
    pub fn complete(&mut self, packet_id: PacketId, found: bool) {
        self.inbound.complete(packet_id);
        let reason = if found { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
        self.answer(&Packet::PubComp(plain_ack(packet_id, reason)));
    }

    /// The protocol version of the CONNECT; 5 before it.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Whether the packet identifier of a QoS 2 PUBLISH that came on this connection is in use.
    pub fn is_unreleased(&self, packet_id: PacketId) -> bool {
        self.inbound.holds(packet_id)
    }

    /// Sends PUBREL for a message that the client has received: on this connection, or on an earlier one of its session
    /// [MQTT-4.3.3-4, MQTT-4.4.0-1].
    ///
    /// # Errors
    /// [`NotSent`], and nothing was sent. `Closed` too when the packet identifier is in use for something else.
    pub fn release(&mut self, packet_id: PacketId) -> Result<(), NotSent> {
        if self.phase != Phase::Open {
            return Err(NotSent::Closed);
        }
        match self.outbound.awaits(packet_id) {
            Some(Awaits::Release) => self.outbound.advance(packet_id, Awaits::PubComp),
            None if self.outbound.room() == 0 => return Err(NotSent::WindowFull),
            None => self.outbound.begin(packet_id, Awaits::PubComp),
            Some(Awaits::PubAck | Awaits::PubRec | Awaits::PubComp) => return Err(self.identifier_in_use()),
        }
        self.write_release(packet_id, ReasonCode::SUCCESS);
        Ok(())
    }

    fn write_release(&mut self, packet_id: PacketId, reason: ReasonCode) {
        self.answer(&Packet::PubRel(plain_ack(packet_id, reason)));
    }

    /// A defect elsewhere, maybe on another node: the client must not see it, and starts anew.
    fn identifier_in_use(&mut self) -> NotSent {
        self.fail(ReasonCode::UNSPECIFIED_ERROR, Explanation::text("packet identifier in use"));
        NotSent::Closed
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`NotSent`], and nothing was sent.
    pub fn deliver(&mut self, delivery: &Delivery<'_>) -> Result<(), NotSent> {
        if self.phase != Phase::Open {
            return Err(NotSent::Closed);
        }
        if let Some(packet_id) = delivery.qos.packet_id() {
            if self.outbound.awaits(packet_id).is_some() {
                return Err(self.identifier_in_use());
            }
            if self.outbound.room() == 0 {
                return Err(NotSent::WindowFull);
            }
        }
        let mut naming = self.outbound_aliases.naming(delivery.topic);
        if !self.write_publish(delivery, naming) {
            // Setting an alias takes more bytes than the name alone.
            if !matches!(naming, Naming::Set(_)) || !self.write_publish(delivery, Naming::Name) {
                return Err(NotSent::TooLarge);
            }
            naming = Naming::Name;
        }
        if let Naming::Set(alias) = naming {
            self.outbound_aliases.set(delivery.topic, alias);
        }
        match delivery.qos {
            PublishQoS::AtMostOnce => {}
            PublishQoS::AtLeastOnce(packet_id) => self.outbound.begin(packet_id, Awaits::PubAck),
            PublishQoS::ExactlyOnce(packet_id) => self.outbound.begin(packet_id, Awaits::PubRec),
        }
        Ok(())
    }

    /// Whether the PUBLISH was written: one that the client is too small for is not [MQTT-3.1.2-24].
    fn write_publish(&mut self, delivery: &Delivery<'_>, naming: Naming) -> bool {
        let parts = parts(delivery, naming);
        let before = self.output.len();
        let written = quorate_codec::encode_publish(&parts, self.version, &mut self.output).is_ok();
        let kept = self.keep_if_it_fits(before, written);
        if kept {
            self.traffic.publishes_out += 1;
            self.traffic.publish_bytes_out += delivery.payload.len() as u64;
            if let Some(observer) = &mut self.observer {
                observer.note_delivery(delivery, self.output.len() - before);
            }
        }
        kept
    }

    /// Sends SUBACK [MQTT-3.8.4-1], [MQTT-3.8.4-6].
    pub fn suback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        let (reason_string, user_properties) = (None, Vec::new());
        self.answer(&Packet::SubAck(SubAck { packet_id, reasons, reason_string, user_properties }));
    }

    /// Sends UNSUBACK [MQTT-3.10.4-4], [MQTT-3.10.4-5].
    pub fn unsuback(&mut self, packet_id: PacketId, reasons: Vec<ReasonCode>) {
        let (reason_string, user_properties) = (None, Vec::new());
        self.answer(&Packet::UnsubAck(UnsubAck { packet_id, reasons, reason_string, user_properties }));
    }

    /// Ends the connection by the broker's decision: DISCONNECT for 5.0, which 3.x does not have from a server; CONNACK
    /// if the CONNECT waits for its answer. No [`Event::Closed`] follows.
    pub fn close(&mut self, reason: ReasonCode) {
        self.close_by_broker(reason, Explanation::default());
    }

    /// As `close`, with the name of another server for a 5.0 client: `reason` is 0x9C (Use another server) or 0x9D
    /// (Server moved) (MQTT 5, 4.11).
    pub fn redirect(&mut self, reason: ReasonCode, server_reference: Text) {
        self.close_by_broker(reason, Explanation::server(server_reference));
    }

    fn close_by_broker(&mut self, reason: ReasonCode, explanation: Explanation) {
        self.tell_end(reason, explanation);
        self.finish(CloseCause::Broker(reason));
    }

    /// Ends the connection for something that the client did [MQTT-4.13.1-1].
    fn fail(&mut self, reason: ReasonCode, explanation: Explanation) {
        self.tell_end(reason, explanation);
        self.end(CloseCause::Violation(reason), None);
    }

    fn fail_decoding(&mut self, error: &DecodeError) {
        self.fail(error.reason(), Explanation::of(error));
    }

    fn tell_end(&mut self, reason: ReasonCode, explanation: Explanation) {
        match self.phase {
            Phase::Open => self.write_disconnect(reason, explanation),
            Phase::Asked => self.write_refusal(reason, explanation),
            Phase::Opening | Phase::Closed => {}
        }
    }

    fn end(&mut self, cause: CloseCause, expiry_s: Option<u32>) {
        if self.phase != Phase::Closed {
            self.finish(cause);
            self.events.push_back(Event::Closed { expiry_s });
        }
    }

    fn finish(&mut self, cause: CloseCause) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.cause = Some(cause);
            self.timers.clear();
        }
    }

    fn restart_packet(&mut self, now: Duration) {
        self.timers.set(Timer::Packet, now, self.config.packet_deadline);
    }

    fn restart_output(&mut self, now: Duration) {
        self.taken_before = self.taken();
        self.timers.set(Timer::Output, now, self.config.output_deadline);
    }

    /// Bytes that the caller has taken out of the output.
    fn taken(&self) -> u64 {
        self.written - self.output.len() as u64
    }

    fn restart_keep_alive(&mut self, now: Duration) {
        if let Some(silence_max) = self.keep_alive.silence_max {
            self.timers.set(Timer::KeepAlive, now, silence_max);
        }
    }

    /// Sends what the client waits for. If it takes no packet of that size it would wait for ever, so the connection
    /// ends.
    fn answer(&mut self, packet: &Packet) {
        if self.phase == Phase::Open && !self.write(packet) {
            self.fail(ReasonCode::PACKET_TOO_LARGE, Explanation::default());
        }
    }

    fn write_refusal(&mut self, reason: ReasonCode, explanation: Explanation) {
        self.write_fitted(Packet::ConnAck(Box::new(handshake::refusal(reason, explanation))));
    }

    fn write_disconnect(&mut self, reason: ReasonCode, explanation: Explanation) {
        if self.version == ProtocolVersion::V5 {
            self.write_fitted(Packet::Disconnect(disconnect(reason, explanation)));
        }
    }

    /// Writes a packet without its Reason String if the client is too small for it [MQTT-3.2.2-19], [MQTT-3.14.2-3],
    /// and not at all if it is too small for the rest.
    fn write_fitted(&mut self, mut packet: Packet) {
        if quorate_codec::fit(&mut packet, self.version, self.packet_bytes_max) == Ok(true) {
            self.write(&packet);
        }
    }

    /// Whether the packet was written: one that the client is too small for is not [MQTT-3.1.2-24].
    fn write(&mut self, packet: &Packet) -> bool {
        let before = self.output.len();
        let written = quorate_codec::encode(packet, self.version, &mut self.output).is_ok();
        let kept = self.keep_if_it_fits(before, written);
        if let Some(observer) = self.observer.as_mut().filter(|_| kept) {
            observer.note(false, packet, self.output.len() - before);
        }
        kept
    }

    fn keep_if_it_fits(&mut self, before: usize, written: bool) -> bool {
        let bytes = u32::try_from(self.output.len() - before).unwrap_or(u32::MAX);
        let fits = written && bytes <= self.packet_bytes_max;
        if fits {
            self.written += u64::from(bytes);
            self.traffic.packets_out += 1;
        } else {
            self.output.truncate(before);
        }
        fits
    }
}

fn plain_ack(packet_id: PacketId, reason: ReasonCode) -> Ack {
    Ack { packet_id, reason, reason_string: None, user_properties: Vec::new() }
}

fn parts<'a>(delivery: &Delivery<'a>, naming: Naming) -> PublishParts<'a> {
    let (topic, topic_alias) = match naming {
        Naming::Name => (Some(delivery.topic), None),
        Naming::Set(alias) => (Some(delivery.topic), Some(alias)),
        Naming::Alias(alias) => (None, Some(alias)),
    };
    PublishParts {
        dup: delivery.dup && delivery.qos.packet_id().is_some(),
        qos: delivery.qos,
        retain: delivery.retain,
        topic,
        topic_alias,
        message_expiry_s: delivery.expiry_s,
        subscription_identifiers: delivery.identifiers,
        forwarded: delivery.forwarded,
        payload: delivery.payload,
    }
}
