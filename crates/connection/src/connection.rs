//! One client connection: bytes in, events out; calls in, bytes out.
//!
//! Owns: [`Connection`]. Its methods are of four kinds: `handle_*` take input, `poll_*` give output, the others are
//! what the broker decided, or getters. After any of them, drain `poll_event` and `output`, then ask `poll_timeout`.
//! Does not: see `lib.rs`.
//! Invariants: nothing is decoded between CONNECT and its answer; after the end no byte is added to the output.
//! Spec: MQTT 5, chapters 3 and 4.

use core::time::Duration;
use std::collections::VecDeque;
use std::num::NonZeroU16;

use bytes::BytesMut;
use quorate_codec::{
    Ack, Connect, Disconnect, Packet, PacketId, ProtocolVersion, Publish, PublishParts, PublishQoS,
    ReasonCode, Role, SubAck, Subscribe, Text, TopicName, UnsubAck, Unsubscribe,
};

use crate::config::Config;
use crate::flow_control::{Inbound, Outbound, PublishToken};
use crate::keep_alive::KeepAlive;
use crate::timer::{Timer, TimerTable};
use crate::topic_alias::{InboundAliases, Naming, OutboundAliases};
use crate::{handshake, qos};

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
    /// The client acknowledged a QoS 1 message.
    Acknowledged(PacketId),
    /// SUBSCRIBE. Answer with [`Connection::suback`].
    Subscribe(Subscribe),
    /// UNSUBSCRIBE. Answer with [`Connection::unsuback`].
    Unsubscribe(Unsubscribe),
    /// The connection is over; comes once, unless the broker itself ended it.
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
    /// Packet identifier: QoS 1 with, QoS 0 without.
    pub packet_id: Option<PacketId>,
    /// DUP flag.
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
    /// The connection is not open.
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
    session_expiry_s: Option<u32>,
    packet_bytes_max: usize,
    events: VecDeque<Event>,
    output: BytesMut,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(config: Config, now: Duration) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Connect, now + config.connect_deadline);
        Connection {
            phase: Phase::Opening,
            version: ProtocolVersion::V5,
            timers,
            keep_alive: KeepAlive::default(),
            inbound: Inbound::default(),
            outbound: Outbound::new(None),
            inbound_aliases: InboundAliases::default(),
            outbound_aliases: OutboundAliases::default(),
            session_expiry_s: None,
            packet_bytes_max: usize::MAX,
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
            match quorate_codec::decode(input, self.version, Role::Client, &self.config.limits) {
                Ok(Some(packet)) => {
                    self.restart_keep_alive(now);
                    self.timers.stop(Timer::Packet);
                    self.handle_packet(packet);
                }
                Ok(None) => {
                    if !input.is_empty() {
                        self.timers.start(Timer::Packet, now + self.config.packet_deadline);
                    }
                    return;
                }
                Err(error) => self.fail(error.reason()),
            }
        }
        if self.phase == Phase::Closed {
            input.clear();
        }
    }

    fn handle_first(&mut self, input: &mut BytesMut, now: Duration) {
        match quorate_codec::decode_first(input, &self.config.limits) {
            Ok(None) => {}
            Ok(Some(connect)) => self.handle_connect(connect, now),
            Err(refused) => {
                if let Some(version) = refused.answer_in {
                    self.version = version;
                    self.write_refusal(refused.error.reason());
                }
                self.end(None);
            }
        }
    }

    /// [MQTT-3.1.4-1], [MQTT-3.1.4-2].
    fn handle_connect(&mut self, connect: Box<Connect>, now: Duration) {
        self.version = connect.version;
        if let Err(reason) = handshake::check(&connect) {
            self.write_refusal(reason);
            self.end(None);
            return;
        }
        self.timers.stop(Timer::Connect);
        self.keep_alive = KeepAlive::agree(&connect, &self.config);
        self.outbound = Outbound::new(connect.receive_max);
        self.packet_bytes_max =
            connect.packet_bytes_max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
        let aliases = connect.topic_alias_max.unwrap_or(0).min(self.config.outbound_topic_aliases_max);
        self.outbound_aliases = OutboundAliases::new(aliases);
        self.inbound_aliases = InboundAliases::new(self.config.topic_alias_max);
        self.session_expiry_s = connect.session_expiry_s;
        self.phase = Phase::Asked;
        self.restart_keep_alive(now);
        self.events.push_back(Event::Connect(connect));
    }

    fn handle_packet(&mut self, packet: Packet) {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish),
            Packet::PubAck(ack) => {
                // One that acknowledges nothing is ignored: it may answer a message of before a takeover.
                if self.outbound.end(ack.packet_id) {
                    self.events.push_back(Event::Acknowledged(ack.packet_id));
                }
            }
            Packet::Subscribe(subscribe) => self.events.push_back(Event::Subscribe(subscribe)),
            Packet::Unsubscribe(unsubscribe) => self.events.push_back(Event::Unsubscribe(unsubscribe)),
            // [MQTT-3.12.4-1]
            Packet::PingReq => self.write(&Packet::PingResp),
            Packet::Disconnect(disconnect) => self.handle_disconnect(&disconnect),
            // [MQTT-3.1.0-2]: a second CONNECT. No QoS 2 message is in flight in either direction, so an
            // acknowledgement of one answers nothing that was sent; no AUTH exchange was begun.
            Packet::Connect(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::Auth(_)
            | Packet::ConnAck(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp => self.fail(ReasonCode::PROTOCOL_ERROR),
        }
    }

    fn handle_publish(&mut self, mut publish: Publish) {
        let packet_id = match qos::inbound(publish.qos) {
            Ok(packet_id) => packet_id,
            Err(reason) => return self.fail(reason),
        };
        let alias = publish.properties.as_ref().and_then(|properties| properties.topic_alias);
        let Some(topic) = self.inbound_aliases.resolve(publish.topic.take(), alias) else {
            return self.fail(ReasonCode::TOPIC_ALIAS_INVALID);
        };
        // [MQTT-3.3.4-7]
        if packet_id.is_some() && self.inbound.unanswered() >= u64::from(self.config.receive_max) {
            return self.fail(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED);
        }
        let token = packet_id.map(|packet_id| self.inbound.begin(packet_id));
        self.events.push_back(Event::Publish { publish, topic, token });
    }

    fn handle_disconnect(&mut self, disconnect: &Disconnect) {
        let expiry_s = disconnect.session_expiry_s;
        // [MQTT-3.14.2-2]: a session that was to end with the connection cannot be kept now.
        if expiry_s.is_some_and(|seconds| seconds != 0) && self.session_expiry_s.unwrap_or(0) == 0 {
            return self.fail(ReasonCode::PROTOCOL_ERROR);
        }
        self.end(expiry_s);
    }

    /// A deadline has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(timer) = self.timers.expired(now) {
            match timer {
                // Nobody has said who they are: there is no answer.
                Timer::Connect => self.end(None),
                Timer::Packet => self.fail(ReasonCode::MAXIMUM_CONNECT_TIME),
                Timer::KeepAlive => self.fail(ReasonCode::KEEP_ALIVE_TIMEOUT),
            }
        }
    }

    /// The client's side of the socket is closed.
    pub fn handle_eof(&mut self) {
        self.end(None);
    }

    /// What the client wants next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
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
            Phase::Open => {
                self.version == ProtocolVersion::V5
                    || self.inbound.unanswered() < u64::from(self.config.receive_max)
            }
        }
    }

    /// How many more QoS 1 messages the client takes.
    pub fn inflight_room(&self) -> u16 {
        self.outbound.room()
    }

    /// Sends CONNACK with success: the session is this connection's.
    pub fn accept(&mut self, accept: Accept, now: Duration) {
        if self.phase != Phase::Asked {
            return;
        }
        self.phase = Phase::Open;
        let connack = handshake::connack(&self.config, accept, self.session_expiry_s, self.keep_alive);
        if let Some(granted) = connack.properties.session_expiry_s {
            self.session_expiry_s = Some(granted);
        }
        self.write(&Packet::ConnAck(Box::new(connack)));
        self.restart_keep_alive(now);
    }

    /// Sends CONNACK with a failure and ends the connection [MQTT-3.2.2-7].
    pub fn refuse(&mut self, reason: ReasonCode) {
        if self.phase == Phase::Asked {
            self.write_refusal(reason);
            self.finish();
        }
    }

    /// Sends PUBACK. A failure that 3.x has no words for ends the connection instead: no acknowledgement may look like
    /// success.
    pub fn acknowledge(&mut self, token: PublishToken, reason: ReasonCode) {
        if self.phase != Phase::Open {
            return;
        }
        self.inbound.end(&token);
        if reason.is_failure() && self.version != ProtocolVersion::V5 {
            return self.fail(reason);
        }
        let PublishToken { packet_id, .. } = token;
        self.write(&Packet::PubAck(Ack {
            packet_id,
            reason,
            reason_string: None,
            user_properties: Vec::new(),
        }));
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`NotSent`], and nothing has changed.
    pub fn deliver(&mut self, delivery: &Delivery<'_>) -> Result<(), NotSent> {
        if self.phase != Phase::Open {
            return Err(NotSent::Closed);
        }
        if delivery.packet_id.is_some() && self.outbound.room() == 0 {
            return Err(NotSent::WindowFull);
        }
        let naming = self.outbound_aliases.naming(delivery.topic);
        let (topic, topic_alias) = match naming {
            Naming::Name => (Some(delivery.topic), None),
            Naming::Set(alias) => (Some(delivery.topic), Some(alias)),
            Naming::Alias(alias) => (None, Some(alias)),
        };
        let before = self.output.len();
        let written = quorate_codec::encode_publish(
            &parts(delivery, topic, topic_alias),
            self.version,
            &mut self.output,
        );
        if written.is_err() || self.output.len() - before > self.packet_bytes_max {
            self.output.truncate(before);
            return Err(NotSent::TooLarge);
        }
        if let Naming::Set(alias) = naming {
            self.outbound_aliases.set(delivery.topic, alias);
        }
        if let Some(packet_id) = delivery.packet_id {
            self.outbound.begin(packet_id);
        }
        Ok(())
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

    /// Ends the connection by the broker's decision: DISCONNECT for 5.0, which 3.x does not have from a server.
    pub fn close(&mut self, reason: ReasonCode) {
        match self.phase {
            Phase::Open => self.write_disconnect(reason),
            Phase::Asked => self.write_refusal(reason),
            Phase::Opening | Phase::Closed => {}
        }
        self.finish();
    }

    fn answer(&mut self, packet: &Packet) {
        if self.phase == Phase::Open {
            self.write(packet);
        }
    }

    /// Ends the connection for something that the client did [MQTT-4.13.1-1].
    fn fail(&mut self, reason: ReasonCode) {
        match self.phase {
            Phase::Open => self.write_disconnect(reason),
            Phase::Asked => self.write_refusal(reason),
            Phase::Opening | Phase::Closed => {}
        }
        self.end(None);
    }

    fn end(&mut self, expiry_s: Option<u32>) {
        if self.phase != Phase::Closed {
            self.finish();
            self.events.push_back(Event::Closed { expiry_s });
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Closed;
        self.timers.clear();
    }

    fn restart_keep_alive(&mut self, now: Duration) {
        if let Some(silence_max) = self.keep_alive.silence_max {
            self.timers.set(Timer::KeepAlive, now + silence_max);
        }
    }

    fn write_refusal(&mut self, reason: ReasonCode) {
        self.write(&Packet::ConnAck(Box::new(handshake::refusal(reason))));
    }

    fn write_disconnect(&mut self, reason: ReasonCode) {
        if self.version == ProtocolVersion::V5 {
            self.write(&Packet::Disconnect(Disconnect {
                reason,
                session_expiry_s: None,
                reason_string: None,
                server_reference: None,
                user_properties: Vec::new(),
            }));
        }
    }

    /// Writes a packet of the server's own making. One that the client is too small for is left out [MQTT-3.1.2-24].
    fn write(&mut self, packet: &Packet) {
        let before = self.output.len();
        let written = quorate_codec::encode(packet, self.version, &mut self.output);
        if written.is_err() || self.output.len() - before > self.packet_bytes_max {
            self.output.truncate(before);
        }
    }
}

fn parts<'a>(
    delivery: &Delivery<'a>,
    topic: Option<&'a TopicName>,
    topic_alias: Option<NonZeroU16>,
) -> PublishParts<'a> {
    PublishParts {
        dup: delivery.dup,
        qos: delivery.packet_id.map_or(PublishQoS::AtMostOnce, PublishQoS::AtLeastOnce),
        retain: delivery.retain,
        topic,
        topic_alias,
        message_expiry_s: delivery.expiry_s,
        subscription_identifiers: delivery.identifiers,
        forwarded: delivery.forwarded,
        payload: delivery.payload,
    }
}
