//! The messages of a session that have a packet identifier and are not acknowledged: QoS 1 until PUBACK, QoS 2 until
//! PUBCOMP.
//!
//! Owns: packet identifiers, delivery sequence, original order.
//! Does not: know the window's size or where a message comes from.
//! Invariants: never two messages on one packet identifier, over wrap-around and any number of connections; the order
//! is the order of assignment; delivery sequences are contiguous from 1 in each epoch; messages not yet sent on the
//! present connection ("held") are all behind those that were.
//! Limits: INFLIGHT_MESSAGES_MAX, 40 bytes each. Spec: MQTT 5, 2.2.1, 4.4 and 4.6.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};
use quorate_codec::{PacketId, QoS};

use crate::ids::DeliverySeq;
use crate::limits::INFLIGHT_BYTES_MAX;
use crate::queue::Queued;
use crate::wire::{DecodeError, Reader, put_count};

/// How many packet identifiers there are.
const PACKET_IDS: u64 = 65_535;

/// One unacknowledged message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InflightMessage {
    pub(crate) queued: Queued,
    /// Grows with each assignment; the packet identifier is its remainder.
    cursor: u64,
    /// Position in the deliveries of this epoch; 0 while held.
    seq: u64,
}

const _: () = assert!(size_of::<InflightMessage>() == 40);

impl InflightMessage {
    pub(crate) fn packet_id(&self) -> PacketId {
        let number =
            u16::try_from(self.cursor % PACKET_IDS + 1).expect("a remainder of 65,535, plus one, is a u16");
        PacketId::new(number).expect("one was added")
    }

    pub(crate) fn seq(&self) -> DeliverySeq {
        DeliverySeq(self.seq)
    }
}

/// Unacknowledged messages in order of assignment.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Inflight {
    messages: VecDeque<InflightMessage>,
    next_cursor: u64,
    next_seq: u64,
    held: usize,
    /// Bytes of the messages sent on the present connection.
    sent_bytes: u64,
}

impl Default for Inflight {
    fn default() -> Self {
        Self { messages: VecDeque::new(), next_cursor: 0, next_seq: 1, held: 0, sent_bytes: 0 }
    }
}

impl Inflight {
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Messages sent on the present connection.
    pub(crate) fn sent(&self) -> usize {
        self.messages.len() - self.held
    }

    /// Whether one more may be sent: fewer than `window` are, and they are not too large together.
    pub(crate) fn has_room(&self, window: usize) -> bool {
        self.sent() < window && self.sent_bytes < INFLIGHT_BYTES_MAX
    }

    /// Bytes of the messages sent on the present connection.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub(crate) fn has_held(&self) -> bool {
        self.held > 0
    }

    /// The delivery sequence that comes next.
    pub(crate) fn next_seq(&self) -> DeliverySeq {
        DeliverySeq(self.next_seq)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &InflightMessage> {
        self.messages.iter()
    }

    /// The messages sent on the present connection, from a delivery sequence on.
    pub(crate) fn sent_from(&self, from: DeliverySeq) -> impl Iterator<Item = &InflightMessage> {
        let start = self.messages.partition_point(|message| message.seq != 0 && message.seq < from.0);
        self.messages.range(start..self.sent().max(start))
    }

    /// A new connection: everything is to be sent again, with DUP, in the original order [MQTT-4.4.0-1].
    pub(crate) fn resume(&mut self) {
        self.next_seq = 1;
        self.held = self.messages.len();
        self.sent_bytes = 0;
        for message in &mut self.messages {
            message.seq = 0;
            message.queued.set_dup();
        }
    }

    /// Sends the first held message.
    pub(crate) fn send_held(&mut self) -> Option<InflightMessage> {
        let place = self.sent();
        let message = self.messages.get_mut(place)?;
        message.seq = self.next_seq;
        self.next_seq += 1;
        self.held -= 1;
        self.sent_bytes += u64::from(message.queued.message.bytes);
        Some(*message)
    }

    /// Gives a message the next free packet identifier and sends it. Nothing may be held.
    pub(crate) fn send_new(&mut self, queued: Queued) -> InflightMessage {
        assert_eq!(self.held, 0, "a new message never overtakes one that is to be sent again");
        let mut cursor = self.next_cursor;
        while self.is_taken(cursor) {
            cursor += 1;
        }
        self.next_cursor = cursor + 1;
        let message = InflightMessage { queued, cursor, seq: self.next_seq };
        self.next_seq += 1;
        self.sent_bytes += u64::from(queued.message.bytes);
        self.messages.push_back(message);
        message
    }

    /// Whether the cursor's packet identifier is in use: by a message at least one whole round behind.
    fn is_taken(&self, cursor: u64) -> bool {
        let mut behind = self.messages.iter().take_while(|message| message.cursor + PACKET_IDS <= cursor);
        behind.any(|message| message.cursor % PACKET_IDS == cursor % PACKET_IDS)
    }

    /// The client has received the QoS 2 message with this packet identifier: from now on it stands for a PUBREL
    /// [MQTT-4.3.3-5]. Gives back what is not needed any more; `None` when there is no such message, or it was received
    /// before.
    pub(crate) fn receive(&mut self, packet_id: PacketId) -> Option<Queued> {
        let place = self.find(packet_id)?;
        let message = self.messages.get_mut(place)?;
        if message.queued.qos() != QoS::ExactlyOnce || message.queued.is_received() {
            return None;
        }
        let before = message.queued;
        message.queued.set_received();
        if message.seq != 0 {
            self.sent_bytes -= u64::from(before.message.bytes);
        }
        Some(before)
    }

    /// Takes the message with this packet identifier out, if there is one.
    pub(crate) fn acknowledge(&mut self, packet_id: PacketId) -> Option<Queued> {
        let place = self.find(packet_id)?;
        let message = self.messages.remove(place)?;
        if message.seq == 0 {
            self.held -= 1;
        } else {
            self.sent_bytes -= u64::from(message.queued.message.bytes);
        }
        Some(message.queued)
    }

    /// Takes out the QoS 1 messages of share groups: somebody else is to get them. Their packet identifiers are free.
    pub(crate) fn take_shared(&mut self) -> Vec<Queued> {
        let mut taken = Vec::new();
        let goes = |queued: &Queued| queued.is_shared() && queued.qos() == QoS::AtLeastOnce;
        self.messages.retain(|message| {
            if !goes(&message.queued) {
                return true;
            }
            if message.seq == 0 {
                self.held -= 1;
            } else {
                self.sent_bytes -= u64::from(message.queued.message.bytes);
            }
            taken.push(message.queued);
            false
        });
        taken
    }

    fn find(&self, packet_id: PacketId) -> Option<usize> {
        let front = self.messages.front()?;
        if front.packet_id() == packet_id {
            // Acknowledgements come in order from nearly every client.
            return Some(0);
        }
        let newest = self.next_cursor.checked_sub(1)?;
        let remainder = u64::from(packet_id.get()) - 1;
        let back = (newest % PACKET_IDS + PACKET_IDS - remainder) % PACKET_IDS;
        let cursor = newest.checked_sub(back)?;
        match self.messages.binary_search_by_key(&cursor, |message| message.cursor) {
            Ok(place) => Some(place),
            // Only a message that has been stuck for a whole round can still have it.
            Err(_) if front.cursor + PACKET_IDS <= cursor => {
                self.messages.iter().position(|message| message.packet_id() == packet_id)
            }
            Err(_) => None,
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.next_cursor);
        out.put_u64_le(self.next_seq);
        put_count(out, self.messages.len());
        for message in &self.messages {
            message.queued.encode(out);
            out.put_u64_le(message.cursor);
            out.put_u64_le(message.seq);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let next_cursor = reader.u64()?;
        let next_seq = reader.u64()?;
        let at = reader.at();
        let count = reader.length()?;
        let mut messages: VecDeque<InflightMessage> = VecDeque::new();
        for _ in 0..count {
            let queued = Queued::decode(reader)?;
            messages.push_back(InflightMessage { queued, cursor: reader.u64()?, seq: reader.u64()? });
        }
        let held = messages.iter().filter(|message| message.seq == 0).count();
        let sent = messages.iter().filter(|message| message.seq != 0);
        let sent_bytes = sent.map(|message| u64::from(message.queued.message.bytes)).sum();
        let inflight = Self { messages, next_cursor, next_seq, held, sent_bytes };
        if inflight.is_sound() { Ok(inflight) } else { Err(DecodeError::Order { at }) }
    }

    /// Whether the invariants hold: each packet identifier once, everything in order, what is held behind the rest.
    pub(crate) fn is_sound(&self) -> bool {
        let mut ids: Vec<PacketId> = self.messages.iter().map(InflightMessage::packet_id).collect();
        ids.sort_unstable();
        let bytes = self.messages.iter().filter(|message| message.seq != 0);
        let bytes: u64 = bytes.map(|message| u64::from(message.queued.message.bytes)).sum();
        let cursors = self.messages.iter().map(|message| message.cursor);
        let sent = self.messages.iter().take(self.sent()).map(|message| message.seq);
        bytes == self.sent_bytes
            && ids.is_sorted_by(|left, right| left < right)
            && cursors.chain([self.next_cursor]).is_sorted_by(|left, right| left < right)
            && [0].into_iter().chain(sent).chain([self.next_seq]).is_sorted_by(|left, right| left < right)
            && self.messages.iter().skip(self.sent()).all(|message| message.seq == 0)
    }

    /// Panics when an invariant does not hold.
    pub(crate) fn check(&self) {
        assert!(self.is_sound(), "inflight messages have distinct packet identifiers and are in order");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expiry::Expires;
    use crate::ids::{LogIndex, MessageRef};

    fn queued(number: u64) -> Queued {
        let message = MessageRef { index: LogIndex(number), offset: 0, bytes: 1 };
        Queued::new(message, QoS::AtLeastOnce, false, Expires::NEVER, 0)
    }

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn packet_ids_over_two_hundred_thousand_messages_are_never_shared() {
        let mut inflight = Inflight::default();
        let mut stuck = Vec::new();
        for number in 0..200_000 {
            let message = inflight.send_new(queued(number));
            if number % 9_973 == 5 {
                stuck.push((message.packet_id(), number));
            } else {
                let acknowledged = inflight.acknowledge(message.packet_id()).unwrap();
                assert_eq!(acknowledged.message.index.0, number);
            }
            if number % 1_000 == 0 {
                inflight.check();
            }
        }
        inflight.check();
        assert_eq!(inflight.len(), stuck.len());
        for (packet_id, number) in stuck.into_iter().rev() {
            assert_eq!(inflight.acknowledge(packet_id).unwrap().message.index.0, number);
            assert_eq!(inflight.acknowledge(packet_id), None);
        }
        assert_eq!(inflight.len(), 0);
    }

    #[test]
    fn acknowledge_of_an_unknown_packet_id_changes_nothing() {
        let mut inflight = Inflight::default();
        assert_eq!(inflight.acknowledge(id(1)), None);
        inflight.send_new(queued(0));
        assert_eq!(inflight.acknowledge(id(2)), None);
        assert_eq!(inflight.acknowledge(id(65_535)), None);
        assert!(inflight.acknowledge(id(1)).is_some());
    }

    #[test]
    fn receive_lets_the_message_go_once_and_keeps_its_packet_id() {
        let mut inflight = Inflight::default();
        let message = MessageRef { index: LogIndex(3), offset: 5, bytes: 70 };
        inflight.send_new(queued(0));
        inflight.send_new(Queued::new(message, QoS::ExactlyOnce, true, Expires::NEVER, 4));
        assert_eq!(inflight.receive(id(1)), None, "QoS 1 has no PUBREC");
        assert_eq!(inflight.receive(id(9)), None);
        let before = inflight.receive(id(2)).unwrap();
        assert_eq!((before.message, before.identifiers), (message, 4));
        assert_eq!(inflight.receive(id(2)), None);
        inflight.check();
        inflight.resume();
        inflight.send_held();
        let again = inflight.send_held().unwrap();
        assert!(again.queued.is_received());
        assert_eq!(again.packet_id(), id(2));
        inflight.check();
        assert!(inflight.acknowledge(id(2)).unwrap().is_received());
    }

    #[test]
    fn resume_keeps_packet_ids_and_order_and_starts_sequences_again() {
        let mut inflight = Inflight::default();
        for number in 0..5 {
            inflight.send_new(queued(number));
        }
        inflight.acknowledge(id(2)).unwrap();
        inflight.resume();
        assert_eq!(inflight.sent(), 0);
        let again: Vec<(u16, u64, bool)> = std::iter::from_fn(|| inflight.send_held())
            .map(|message| (message.packet_id().get(), message.seq().0, message.queued.dup()))
            .collect();
        assert_eq!(again, [(1, 1, true), (3, 2, true), (4, 3, true), (5, 4, true)]);
        let new = inflight.send_new(queued(9));
        assert_eq!((new.packet_id(), new.seq(), new.queued.dup()), (id(6), DeliverySeq(5), false));
        assert_eq!(inflight.sent_from(DeliverySeq(4)).count(), 2);
        assert_eq!(inflight.sent_from(DeliverySeq(9)).count(), 0);
        inflight.check();
    }

    #[test]
    fn sent_from_while_messages_are_held_leaves_them_out() {
        let mut inflight = Inflight::default();
        for number in 0..4 {
            inflight.send_new(queued(number));
        }
        inflight.resume();
        inflight.send_held();
        assert_eq!(inflight.sent_from(DeliverySeq(1)).count(), 1);
        assert_eq!(inflight.sent_from(DeliverySeq(2)).count(), 0);
        assert!(inflight.acknowledge(id(4)).is_some());
        assert_eq!(inflight.sent(), 1);
        inflight.check();
    }

    #[test]
    fn encode_and_decode_give_the_same_back() {
        let mut inflight = Inflight::default();
        for number in 0..4 {
            inflight.send_new(queued(number));
        }
        inflight.resume();
        inflight.send_held();
        let mut out = BytesMut::new();
        inflight.encode(&mut out);
        let bytes = out.freeze();
        let mut reader = Reader::new(&bytes);
        assert_eq!(Inflight::decode(&mut reader), Ok(inflight));
        assert_eq!(reader.done(), Ok(()));
    }
}
