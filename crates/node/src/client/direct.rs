//! Messages on their way to the client: of its durable session, and those that reach the connection directly.
//!
//! Owns: the queue and the packet identifiers of a transient session; what of a partition waits for the window.
//! Does not: hold the queue of a durable session; choose its packet identifiers. A transient session has messages of its
//! share groups from its partition: they get packet identifiers of the connection here, and keep the partition's towards it.
//! Invariants: never two inflight messages on one packet identifier; QoS 1 messages leave in the order in which they
//! came; every message dropped is counted with its reason.
//! Limits: `ClientConfig::direct_queue_messages_max` and `direct_queue_bytes_max`, then the newest is dropped;
//! OUTPUT_BYTES_MAX for a client that does not read. Spec: MQTT 5, 3.3.2.3.3, 4.3, 4.4, 4.9.

use core::time::Duration;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_codec::{PacketId, PublishQoS, QoS, Text, TopicName};
use quorate_connection::{Delivery, NotSent};
use quorate_state::Message;
use quorate_state::effect::DropReason;

use super::limits::{OUTPUT_BYTES_MAX, QUEUED_COPY_BYTES_MAX, QUEUED_MESSAGE_OVERHEAD_BYTES};
use super::{Client, ClientConfig};
use crate::durable::Durable;
use crate::edge::{ClientOutput, DirectDelivery, DirectMessage, SessionDelivery};

/// What waits to be sent, and what a transient session has inflight.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// QoS 1 messages of a transient session.
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    packet_ids: PacketIds,
    /// Messages of the partition that found the window full. The partition keeps to the same window, so this holds only
    /// what others took of it: direct messages of a transient session, or an earlier connection with a larger one.
    waiting: VecDeque<SessionDelivery>,
}

/// A message and how it is to be delivered.
#[derive(Debug)]
struct Queued {
    qos: QoS,
    retain: bool,
    identifiers: Vec<u32>,
    /// Remaining lifetime in seconds at `since`.
    expiry_s: Option<u32>,
    since: Duration,
    message: Arc<DirectMessage>,
}

impl Queued {
    fn bytes(&self) -> usize {
        let message = &self.message.message;
        let variable = message.topic.as_str().len() + message.properties.len() + message.payload.len();
        variable + QUEUED_MESSAGE_OVERHEAD_BYTES
    }

    /// Remaining lifetime: [MQTT-3.3.2-6] the time waited here is taken off. `Err` when it has passed.
    fn expiry_left(&self, now: Duration) -> Result<Option<u32>, Expired> {
        let Some(expiry_s) = self.expiry_s else { return Ok(None) };
        let waited = now.saturating_sub(self.since);
        let lifetime = Duration::from_secs(u64::from(expiry_s));
        if waited > Duration::ZERO && waited >= lifetime {
            return Err(Expired);
        }
        let waited_s = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX);
        Ok(Some(expiry_s.saturating_sub(waited_s)))
    }
}

struct Expired;

impl Outgoing {
    /// Whether messages wait for room in the output rather than for the client.
    pub(super) fn waits_for_output(&self) -> bool {
        !self.queue.is_empty() || !self.waiting.is_empty()
    }

    /// Whether half of what a transient session may have queued is queued.
    pub(super) fn is_half_full(&self, config: &ClientConfig) -> bool {
        self.queue.len() * 2 >= config.direct_queue_messages_max
            || self.queue_bytes * 2 >= config.direct_queue_bytes_max
    }

    /// Forgets everything; how many messages that were.
    pub(super) fn clear(&mut self) -> u64 {
        let dropped = self.queue.len() as u64;
        *self = Outgoing::default();
        dropped
    }
}

impl Client {
    /// A message that matched subscriptions of this connection, past its partition.
    pub(super) fn deliver_direct(&mut self, delivery: DirectDelivery, out: &mut ClientOutput, now: Duration) {
        let DirectDelivery { qos, retain, identifiers, message } = delivery;
        let expiry_s = message.message.expiry_s;
        self.offer(Queued { qos, retain, identifiers, expiry_s, since: now, message }, out, now);
    }

    /// A retained message for a new subscription: sent with RETAIN set [MQTT-3.3.1-8].
    pub(super) fn deliver_retained(
        &mut self,
        qos: QoS,
        identifier: Option<u32>,
        expiry_s: Option<u32>,
        message: Message,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        let message = Arc::new(DirectMessage { message });
        let identifiers = identifier.into_iter().collect();
        self.offer(Queued { qos, retain: true, identifiers, expiry_s, since: now, message }, out, now);
    }

    /// A message that the session's partition holds.
    pub(super) fn deliver_session(&mut self, delivery: SessionDelivery, out: &mut ClientOutput) {
        if self.outgoing.waiting.is_empty() {
            self.send_session(delivery, out);
        } else {
            self.outgoing.waiting.push_back(delivery);
        }
    }

    /// The client has received a QoS 2 message. PUBREL promises never to send it again: for a durable session that is to
    /// be durable first; a transient one has nobody who could send it again.
    pub(super) fn delivery_received(&mut self, packet_id: PacketId) {
        match self.outgoing.packet_ids.holder(packet_id) {
            Some(Holder::Connection) => self.send_release(packet_id),
            Some(Holder::Partition(named)) => self.received.push(named),
            None => self.received.push(packet_id),
        }
    }

    /// The session's partition knows that the client has received these messages: PUBREL.
    pub(super) fn receipt_is_durable(&mut self, packet_ids: &Durable<Vec<PacketId>>) {
        for named in packet_ids.get() {
            let packet_id = self.outgoing.packet_ids.of_partition(*named).unwrap_or(*named);
            self.send_release(packet_id);
        }
    }

    /// PUBREL for a message that went out on this connection: the window has room for it.
    fn send_release(&mut self, packet_id: PacketId) {
        // The message is in flight, so the window has room for it; a connection that is over needs nothing.
        let _ = self.connection.release(packet_id);
    }

    /// The client acknowledged a message.
    pub(super) fn delivery_acknowledged(&mut self, packet_id: PacketId) {
        match self.outgoing.packet_ids.release(packet_id) {
            Some(Holder::Connection) => {}
            Some(Holder::Partition(named)) => self.acknowledged.push(named),
            None => self.acknowledged.push(packet_id),
        }
    }

    /// Sends what waits, as far as window and output allow: by turns of the partition and of the connection's own.
    pub(super) fn pump(&mut self, out: &mut ClientOutput, now: Duration) {
        loop {
            let waiting = !self.outgoing.waiting.is_empty()
                && self.connection.inflight_room() > 0
                && self.outgoing.packet_ids.in_use.len() < usize::from(u16::MAX);
            if let Some(delivery) = waiting.then(|| self.outgoing.waiting.pop_front()).flatten() {
                self.send_session(delivery, out);
            }
            let queued = !self.outgoing.queue.is_empty() && self.has_window();
            if let Some(queued) = queued.then(|| self.outgoing.queue.pop_front()).flatten() {
                self.outgoing.queue_bytes -= queued.bytes();
                self.send_queued(&queued, out, now);
            } else if !waiting {
                return;
            }
        }
    }

    /// Whether a transient session may send one more QoS 1 message.
    fn has_window(&mut self) -> bool {
        self.connection.inflight_room() > 0
            && self.outgoing.packet_ids.in_use.len() < usize::from(self.config.inflight_max)
            && !self.is_slow()
    }

    /// Whether the client leaves more unread than it may.
    pub(super) fn is_slow(&self) -> bool {
        self.connection.output_bytes() > OUTPUT_BYTES_MAX
    }

    /// Sends a message, or queues it, or drops and counts it.
    fn offer(&mut self, mut queued: Queued, out: &mut ClientOutput, now: Duration) {
        if !self.is_transient() {
            // The packet identifiers of a durable session are its partition's to give.
            queued.qos = QoS::AtMostOnce;
        }
        if queued.qos == QoS::AtMostOnce {
            if self.is_slow() {
                out.dropped.push((DropReason::QueueBytes, 1));
            } else {
                self.send_queued(&queued, out, now);
            }
            return;
        }
        if self.outgoing.queue.is_empty() && self.has_window() {
            self.send_queued(&queued, out, now);
            return;
        }
        let bytes = queued.bytes();
        if self.outgoing.queue.len() >= self.config.direct_queue_messages_max {
            out.dropped.push((DropReason::QueueMessages, 1));
        } else if self.outgoing.queue_bytes + bytes > self.config.direct_queue_bytes_max {
            out.dropped.push((DropReason::QueueBytes, 1));
        } else {
            self.outgoing.queue_bytes += bytes;
            queued.message = owned(queued.message);
            self.outgoing.queue.push_back(queued);
        }
    }

    fn send_queued(&mut self, queued: &Queued, out: &mut ClientOutput, now: Duration) {
        let Ok(expiry_s) = queued.expiry_left(now) else {
            out.dropped.push((DropReason::MessageExpired, 1));
            return;
        };
        let packet_id = match queued.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                let packet_id = self.outgoing.packet_ids.acquire(Holder::Connection);
                Some(packet_id.expect("the window is smaller than the identifiers"))
            }
        };
        let message = &queued.message.message;
        let qos = publish_qos(queued.qos, packet_id);
        let (retain, identifiers) = (queued.retain, &queued.identifiers);
        let sent = self.connection.deliver(&delivery(message, qos, false, retain, identifiers, expiry_s));
        if let Err(not_sent) = sent {
            if let Some(packet_id) = packet_id {
                self.outgoing.packet_ids.release(packet_id);
            }
            let reason = match not_sent {
                NotSent::TooLarge => DropReason::PacketTooLarge,
                NotSent::WindowFull => DropReason::QueueMessages,
                NotSent::Closed => DropReason::SessionEnded,
            };
            out.dropped.push((reason, 1));
        }
    }

    fn send_session(&mut self, session: SessionDelivery, out: &mut ClientOutput) {
        let named = session.packet_id;
        let Some(packet_id) = self.packet_id_for(&session) else {
            // More than any window: it goes out when an identifier is free.
            self.outgoing.waiting.push_front(session);
            return;
        };
        let sent = match &session.message {
            None => self.connection.release(packet_id),
            Some(message) => self.connection.deliver(&delivery(
                message,
                publish_qos(session.qos, Some(packet_id)),
                session.dup,
                session.retain,
                &session.identifiers,
                session.expiry_s,
            )),
        };
        if sent.is_err() {
            self.outgoing.packet_ids.release(packet_id);
        }
        match sent {
            Ok(()) | Err(NotSent::Closed) => {}
            Err(NotSent::TooLarge) => {
                // [MQTT-3.1.2-25] as if it had been delivered: the session goes on with the next one.
                out.dropped.push((DropReason::PacketTooLarge, 1));
                self.acknowledged.push(named);
            }
            Err(NotSent::WindowFull) => self.outgoing.waiting.push_front(session),
        }
    }

    /// The packet identifier with which a message of the partition goes out. `None` when a transient session has none.
    fn packet_id_for(&mut self, session: &SessionDelivery) -> Option<PacketId> {
        if !self.is_transient() {
            return Some(session.packet_id);
        }
        self.outgoing.packet_ids.acquire(Holder::Partition(session.packet_id))
    }
}

/// A small message is copied before it waits: it shares the storage of all that its publisher sent with it, and would
/// keep that in memory. A large one is most of that storage, and may wait for many sessions.
fn owned(shared: Arc<DirectMessage>) -> Arc<DirectMessage> {
    let message = &shared.message;
    if message.topic.as_str().len() + message.properties.len() + message.payload.len() > QUEUED_COPY_BYTES_MAX
    {
        return shared;
    }
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    let topic = Text::new(copy(message.topic.text().as_bytes())).expect("a copy of a valid text is valid");
    let topic = TopicName::new(topic).expect("a copy of a valid topic name is valid");
    let [properties, payload] = [copy(&message.properties), copy(&message.payload)];
    Arc::new(DirectMessage { message: Message { topic, properties, payload, ..message.clone() } })
}

fn publish_qos(qos: QoS, packet_id: Option<PacketId>) -> PublishQoS {
    match (qos, packet_id) {
        (QoS::AtMostOnce, _) | (_, None) => PublishQoS::AtMostOnce,
        (QoS::AtLeastOnce, Some(packet_id)) => PublishQoS::AtLeastOnce(packet_id),
        (QoS::ExactlyOnce, Some(packet_id)) => PublishQoS::ExactlyOnce(packet_id),
    }
}

/// A message in the words of the protocol machine.
fn delivery<'a>(
    message: &'a Message,
    qos: PublishQoS,
    dup: bool,
    retain: bool,
    identifiers: &'a [u32],
    expiry_s: Option<u32>,
) -> Delivery<'a> {
    Delivery {
        topic: &message.topic,
        qos,
        dup,
        retain,
        identifiers,
        expiry_s,
        forwarded: &message.properties,
        payload: &message.payload,
    }
}

/// Who gave a message that a transient session has inflight, and is to hear of its acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    /// The connection itself: a direct message.
    Connection,
    /// The session's partition, which knows the message by this identifier.
    Partition(PacketId),
}

/// Packet identifiers of a transient session, given in turn. Empty for a durable one: its partition gives them.
#[derive(Debug, Default)]
struct PacketIds {
    last: u16,
    in_use: BTreeMap<PacketId, Holder>,
    /// From the partition's identifiers to those in use.
    of_partition: BTreeMap<PacketId, PacketId>,
}

impl PacketIds {
    /// The next free one; `None` when all are in use.
    fn acquire(&mut self, holder: Holder) -> Option<PacketId> {
        for _ in 0..=self.in_use.len() {
            self.last = if self.last == u16::MAX { 1 } else { self.last + 1 };
            let packet_id = PacketId::new(self.last)?;
            if let Entry::Vacant(free) = self.in_use.entry(packet_id) {
                free.insert(holder);
                if let Holder::Partition(named) = holder {
                    self.of_partition.insert(named, packet_id);
                }
                return Some(packet_id);
            }
        }
        None
    }

    fn holder(&self, packet_id: PacketId) -> Option<Holder> {
        self.in_use.get(&packet_id).copied()
    }

    fn of_partition(&self, named: PacketId) -> Option<PacketId> {
        self.of_partition.get(&named).copied()
    }

    /// Whose it was, if it was in use.
    fn release(&mut self, packet_id: PacketId) -> Option<Holder> {
        let holder = self.in_use.remove(&packet_id)?;
        if let Holder::Partition(named) = holder {
            self.of_partition.remove(&named);
        }
        Some(holder)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn packet_ids_wrap_around_and_skip_those_in_use() {
        let mut ids = PacketIds { last: u16::MAX - 2, ..PacketIds::default() };
        let taken: Vec<u16> = (0..4).map(|_| ids.acquire(Holder::Connection).unwrap().get()).collect();
        assert_eq!(taken, [65_534, 65_535, 1, 2]);
        ids.last = u16::MAX - 2;
        assert_eq!(ids.release(PacketId::new(1).unwrap()), Some(Holder::Connection));
        assert_eq!(ids.acquire(Holder::Connection).unwrap().get(), 1);
        assert_eq!(ids.acquire(Holder::Connection).unwrap().get(), 3);
    }

    #[test]
    fn packet_ids_all_in_use_gives_none() {
        let mut ids = PacketIds::default();
        let taken: BTreeSet<PacketId> =
            (0..65_535).map(|_| ids.acquire(Holder::Connection).unwrap()).collect();
        assert_eq!(taken.len(), 65_535);
        assert_eq!(ids.acquire(Holder::Connection), None);
        assert_eq!(ids.release(PacketId::new(777).unwrap()), Some(Holder::Connection));
        assert_eq!(ids.release(PacketId::new(777).unwrap()), None);
        assert_eq!(ids.acquire(Holder::Connection), PacketId::new(777));
        assert_eq!(ids.acquire(Holder::Connection), None);
    }
}
