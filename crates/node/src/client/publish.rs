//! The publishes of one connection: routed, made durable where they must be, handed over, acknowledged in order.
//!
//! Owns: the publishes of QoS 1 and 2 between their arrival and their PUBACK or PUBREC; PUBREL and PUBCOMP. Does not: match topics, replicate.
//! A QoS 2 message of a durable session goes to its home partition, which hands it on exactly once. The session of a
//! transient client ends with its connection, so its QoS 2 messages go to their partitions at once, as those of QoS 1 do,
//! and its packet identifiers are the connection's. See: docs/decisions/0014-exactly-once-publishing.md.
//! Invariants: PUBACK or PUBREC with success needs an [`Ack`], which only the report of a commit or the hand-over to the direct
//! receivers can make; they leave in the order of the publishes
//! [MQTT-4.6.0-2, MQTT-4.6.0-3]; a direct receiver sees a QoS 1
//! message only after all partitions that must store it have; nothing is routed or acknowledged while fenced; without room on
//! the disk or in memory no message is taken in that needs it but one that may have been taken before.
//! Limits: PUBLISHES_PENDING_MAX, PRESSED_PAUSE. Spec: MQTT 5, 3.3 to 3.7, 4.3.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_codec::{PacketId, ProtocolVersion, Publish, PublishProperties, QoS, ReasonCode, TopicName};
use quorate_connection::{Connection, PublishToken};
use quorate_state::effect::DropReason;
use quorate_state::{Command, GroupId, Message, PublishTarget};

use super::limits::PRESSED_PAUSE;
use super::{Client, Context, DurableSession, Intake, Phase, Pressure};
use crate::durable::Durable;
use crate::edge::{ClientOutput, ClientRequest, DirectMessage, PublishNumber, PublishOutcome};
use crate::routing::{Draw, RouteCache, RouteMatch, retained_partition};
use crate::system_topics::is_read_only;

/// The publishes of one connection.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// Number of the last publish that went to a partition or had to wait for one.
    last: PublishNumber,
    /// Publishes of QoS 1 and 2 that were routed, in order; numbers grow.
    pending: VecDeque<Pending>,
    /// Publishes of QoS 1 and 2 that arrived while fenced, in order: the routes may be stale. And those of MQTT 3 that came while
    /// there was no room.
    held: VecDeque<(Publish, TopicName, PublishToken)>,
    /// PUBRELs of a durable session without PUBCOMP.
    releasing: usize,
    cache: RouteCache,
    /// Messages that members of share groups were chosen for.
    drawn: u64,
}

/// A routed publish of QoS 1 or 2.
#[derive(Debug)]
struct Pending {
    number: PublishNumber,
    token: PublishToken,
    /// Partitions that have not answered yet.
    outstanding: usize,
    /// A partition's word that it has applied the publish.
    proof: Option<Durable<PublishNumber>>,
    /// A partition refused it.
    rejected: Option<ReasonCode>,
    /// What to hand over once all partitions have it.
    direct: Option<(Arc<RouteMatch>, Arc<DirectMessage>)>,
    /// Reason for PUBACK or PUBREC when all went well.
    reason: ReasonCode,
}

/// Why a publish may be acknowledged with success.
enum Ack {
    /// Every partition that must store it has it.
    Durable(Durable<PublishNumber>),
    /// No partition must store it, and it was handed to its direct receivers.
    HandedOver(HandedOver),
}

/// The proof that a message was handed to its direct receivers.
struct HandedOver(());

impl Publishing {
    /// Publishes that wait for their acknowledgement.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len() + self.held.len() + self.releasing
    }

    /// Whether publishes wait for the lease or for room before they are routed. Nothing more is read then: what came in one read is
    /// all that waits.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether publishes wait for the lease alone.
    pub(super) fn waits_for_lease(&self) -> bool {
        !self.held.is_empty() || self.pending.front().is_some_and(|first| first.outstanding == 0)
    }

    /// Drops everything: nothing will be acknowledged any more.
    pub(super) fn clear(&mut self) {
        self.pending.clear();
        self.held.clear();
        self.releasing = 0;
    }

    fn next_number(&mut self) -> PublishNumber {
        self.last += 1;
        self.last
    }
}

impl Client {
    /// PUBLISH was read. `token` is the promise of a PUBACK or PUBREC, for QoS 1 and 2.
    pub(super) fn publish(
        &mut self,
        publish: Publish,
        topic: TopicName,
        token: Option<PublishToken>,
        context: &Context<'_>,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        if context.pressure != Pressure::None {
            self.rests_until = Some(now + PRESSED_PAUSE);
        }
        match token {
            None if is_read_only(topic.as_str()) => out.dropped.push((DropReason::ReadOnlyTopic, 1)),
            None if context.pressure == Pressure::Full => out.dropped.push((DropReason::MemoryLow, 1)),
            None => self.publish_at_most_once(&publish, topic, context, out),
            Some(token) if self.holds_back(context, now) || !self.publishing.held.is_empty() => {
                self.publishing.held.push_back((publish, topic, token));
            }
            Some(token) => self.publish_acknowledged(&publish, topic, token, context, out),
        }
    }

    /// A partition has applied or refused a publish.
    pub(super) fn publish_applied(&mut self, number: Durable<PublishNumber>, outcome: PublishOutcome) {
        // Publishes of QoS 0 that were to be retained have a number but nobody who waits for it.
        let pending = &mut self.publishing.pending;
        let Ok(at) = pending.binary_search_by_key(number.get(), |publish| publish.number) else { return };
        let Some(publish) = pending.get_mut(at) else { return };
        assert!(publish.outstanding > 0, "a partition answers a publish once");
        publish.outstanding -= 1;
        publish.proof = Some(number);
        match outcome {
            PublishOutcome::Applied | PublishOutcome::Duplicate => {}
            PublishOutcome::Rejected(reason) => publish.rejected = publish.rejected.or(Some(reason)),
        }
    }

    /// Whether a publish that comes now must wait: for the lease, or for room when its publisher cannot be told that there is
    /// none.
    fn holds_back(&self, context: &Context<'_>, now: Duration) -> bool {
        let tells = self.connection.version() == ProtocolVersion::V5;
        self.fenced(context, now) || (takes_none(context) && !tells)
    }

    /// Routes what was held and acknowledges what is complete, in order. Does nothing while fenced.
    pub(super) fn settle_publishes(&mut self, context: &Context<'_>, out: &mut ClientOutput, now: Duration) {
        if self.fenced(context, now) {
            return;
        }
        while !self.holds_back(context, now)
            && let Some((publish, topic, token)) = self.publishing.held.pop_front()
        {
            self.publish_acknowledged(&publish, topic, token, context, out);
        }
        while self.publishing.pending.front().is_some_and(|first| first.outstanding == 0) {
            let Some(first) = self.publishing.pending.pop_front() else { return };
            let Pending { number, token, proof, rejected, direct, reason, .. } = first;
            let rejected = rejected.or_else(|| self.refused_before(&token));
            if let Some(rejected) = rejected {
                refuse(&mut self.connection, token, rejected);
                if self.connection.is_closed() {
                    return; // MQTT 3 has no word for it; nothing more is acknowledged.
                }
                continue;
            }
            let handed_over = self.hand_over(direct.as_ref(), out);
            let ack = proof.map_or(Ack::HandedOver(handed_over), Ack::Durable);
            acknowledge(&mut self.connection, number, token, &ack, reason);
        }
    }

    fn publish_at_most_once(
        &mut self,
        publish: &Publish,
        topic: TopicName,
        context: &Context<'_>,
        out: &mut ClientOutput,
    ) {
        let route = self.publishing.cache.lookup(context.routing, topic.as_str());
        let stores = publish.retain && context.intake == Intake::Open;
        if publish.retain && !stores {
            out.dropped.push((DropReason::DiskLow, 1));
        }
        if !stores && !route.has_direct(QoS::AtMostOnce) {
            return;
        }
        let message = self.message(publish, topic, QoS::AtMostOnce);
        if stores {
            let group = retained_partition(message.topic.as_str(), self.config.partitions);
            let command = encode_publish(&message, true, false);
            let number = self.publishing.next_number();
            out.requests.push(ClientRequest::Publish { number, targets: vec![(group, command)] });
        }
        if route.has_direct(QoS::AtMostOnce) {
            self.hand_over(Some(&(route, Arc::new(DirectMessage { message }))), out);
        }
    }

    /// A transient client repeats a QoS 2 PUBLISH that was refused meanwhile: what was not kept is not acknowledged.
    fn refused_before(&self, token: &PublishToken) -> Option<ReasonCode> {
        let refused =
            self.is_transient() && token.is_repeated() && !self.connection.is_unreleased(token.packet_id());
        refused.then_some(ReasonCode::UNSPECIFIED_ERROR)
    }

    /// PUBREL was read.
    pub(super) fn release_publish(&mut self, packet_id: PacketId, out: &mut ClientOutput) {
        if self.is_transient() {
            let found = self.connection.is_unreleased(packet_id);
            self.connection.complete(packet_id, found);
        } else {
            self.publishing.releasing += 1;
            out.requests.push(ClientRequest::Release { packet_id });
        }
    }

    /// The session's partition has freed the packet identifier: PUBCOMP.
    pub(super) fn released(&mut self, packet_id: &Durable<PacketId>, found: bool) {
        self.publishing.releasing = self.publishing.releasing.saturating_sub(1);
        self.connection.complete(*packet_id.get(), found);
    }

    fn publish_acknowledged(
        &mut self,
        publish: &Publish,
        topic: TopicName,
        token: PublishToken,
        context: &Context<'_>,
        out: &mut ClientOutput,
    ) {
        if is_read_only(topic.as_str()) {
            return self.refuse_in_order(token, ReasonCode::NOT_AUTHORIZED);
        }
        if takes_none(context) && !may_be_repeated(publish, &token) {
            return self.refuse_in_order(token, ReasonCode::QUOTA_EXCEEDED);
        }
        let route = self.publishing.cache.lookup(context.routing, topic.as_str());
        let message = self.message(publish, topic, token.qos());
        let number = self.publishing.next_number();
        // [MQTT-3.4.2-1] 0x10 tells the publisher that nobody has subscribed.
        let unmatched = route.is_empty() && !message.retain;
        let reason = if unmatched { ReasonCode::NO_MATCHING_SUBSCRIBERS } else { ReasonCode::SUCCESS };
        let (outstanding, direct) = match self.phase {
            Phase::Open { durable: Some(session) } if token.qos() == QoS::ExactlyOnce => {
                out.requests.push(self.publish_once(number, session, message, &route, &token));
                (1, None)
            }
            // Of a transient session's packet identifier this connection knows all: the message was handed on.
            Phase::Open { .. } if token.is_repeated() => (0, None),
            Phase::Open { .. } | Phase::Opening(_) | Phase::Requested { .. } | Phase::Closed => {
                let targets = self.commands(&message, &route);
                let outstanding = targets.len();
                if !targets.is_empty() {
                    out.requests.push(ClientRequest::Publish { number, targets });
                }
                let direct = route.has_direct(message.qos);
                (outstanding, direct.then(|| (route, Arc::new(DirectMessage { message }))))
            }
        };
        self.publishing.pending.push_back(Pending {
            number,
            token,
            outstanding,
            proof: None,
            rejected: None,
            direct,
            reason,
        });
    }

    /// Refuses a publish here, after those before it are answered.
    fn refuse_in_order(&mut self, token: PublishToken, reason: ReasonCode) {
        let number = self.publishing.next_number();
        let (outstanding, proof, rejected, direct) = (0, None, Some(reason), None);
        let refused = Pending { number, token, outstanding, proof, rejected, direct, reason };
        self.publishing.pending.push_back(refused);
    }

    /// A QoS 2 publish goes to the home partition of its session, with its targets.
    fn publish_once(
        &self,
        number: PublishNumber,
        session: DurableSession,
        message: Message,
        route: &RouteMatch,
        token: &PublishToken,
    ) -> ClientRequest {
        let DurableSession { group, session, epoch } = session;
        let targets = route.targets(&message, self.config.partitions);
        let packet_id = token.packet_id();
        let direct =
            route.has_direct(message.qos).then(|| Arc::new(DirectMessage { message: message.clone() }));
        let command = encode(&Command::PublishOnce { session, epoch, packet_id, targets, message });
        ClientRequest::PublishOnce { number, group, command, direct }
    }

    /// The groups that must apply a message before it is acknowledged, each with its command. Encoded here, where many
    /// connections work at once, and once per kind of command.
    fn commands(&self, message: &Message, route: &RouteMatch) -> Vec<(GroupId, Bytes)> {
        let targets = route.targets(message, self.config.partitions);
        let mut plain = None;
        let commands = targets.into_iter().map(|PublishTarget { group, store_retained, fan_out }| {
            if store_retained {
                return (group, encode_publish(message, true, fan_out));
            }
            (group, plain.get_or_insert_with(|| encode_publish(message, false, true)).clone())
        });
        commands.collect()
    }

    /// Hands a message to its direct receivers, on this node and on others.
    fn hand_over(
        &mut self,
        direct: Option<&(Arc<RouteMatch>, Arc<DirectMessage>)>,
        out: &mut ClientOutput,
    ) -> HandedOver {
        if let Some((route, message)) = direct {
            let draw = Draw::nth(self.client_hash, self.publishing.drawn);
            self.publishing.drawn += u64::from(!route.shares.is_empty());
            route.hand_over(message, draw, &mut out.direct, &mut out.forwards);
        }
        HandedOver(())
    }

    fn message(&self, publish: &Publish, topic: TopicName, qos: QoS) -> Message {
        let properties = publish.properties.as_deref();
        Message {
            topic,
            qos,
            retain: publish.retain,
            expiry_s: properties.and_then(|properties| properties.message_expiry_s),
            publisher: self.client_hash,
            properties: properties.map(encode_properties).unwrap_or_default(),
            payload: publish.payload.clone(),
        }
    }
}

/// Whether no message of QoS 1 or 2 is taken in.
fn takes_none(context: &Context<'_>) -> bool {
    context.intake == Intake::Closed || context.pressure == Pressure::Full
}

/// Whether a QoS 2 message may have been taken before. To refuse it then would free its packet identifier for the publisher only:
/// the next message under it would pass for a copy of this one [MQTT-3.3.1-1, MQTT-4.3.3-4].
fn may_be_repeated(publish: &Publish, token: &PublishToken) -> bool {
    token.qos() == QoS::ExactlyOnce && (publish.dup || token.is_repeated())
}

/// The only way to a PUBACK with success.
fn acknowledge(
    connection: &mut Connection,
    number: PublishNumber,
    token: PublishToken,
    ack: &Ack,
    reason: ReasonCode,
) {
    match ack {
        Ack::Durable(proof) => assert!(*proof.get() == number, "the proof is of this publish"),
        Ack::HandedOver(HandedOver(())) => {}
    }
    connection.acknowledge(token, reason);
}

/// A failure promises nothing, so it needs no proof.
fn refuse(connection: &mut Connection, token: PublishToken, reason: ReasonCode) {
    assert!(reason.is_failure(), "a partition refuses with a failure");
    connection.acknowledge(token, reason);
}

fn encode_publish(message: &Message, store_retained: bool, fan_out: bool) -> Bytes {
    // Cloning a message shares its bytes.
    encode(&Command::Publish { message: message.clone(), store_retained, fan_out })
}

fn encode(command: &Command) -> Bytes {
    let mut encoded = BytesMut::with_capacity(command.encoded_len());
    command.encode(&mut encoded);
    encoded.freeze()
}

/// The properties that go on to the receivers unchanged; empty for most messages.
pub(super) fn encode_properties(properties: &PublishProperties) -> Bytes {
    let mut encoded = BytesMut::new();
    properties.encode_forwarded(&mut encoded).expect("properties that were decoded can be encoded");
    encoded.freeze()
}
