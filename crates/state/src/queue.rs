//! The queue of a session: references to messages that wait for room in the inflight window.
//!
//! Owns: the order of the references, their number and bytes, and which blocks of them a checkpoint must write.
//! Does not: hold bodies, apply quotas or know about expiry.
//! Invariants: positions only grow; an empty queue has no blocks; every block but the last is filled to its end.
//! Limits: QUEUE_BLOCK_MESSAGES per block; 24 bytes per reference: five million take 120 MB.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::QoS;

use crate::expiry::Expires;
use crate::ids::{LogIndex, MessageRef};
use crate::limits::QUEUE_BLOCK_MESSAGES;
use crate::wire::{DecodeError, Reader, put_count, qos_bits, qos_of_bits};

/// One message for one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queued {
    pub(crate) message: MessageRef,
    pub(crate) expires: Expires,
    /// Number of a set of subscription identifiers of the session.
    pub(crate) identifiers: u16,
    flags: u8,
}

const _: () = assert!(size_of::<Queued>() == 24, "queues hold millions of these");

const FLAG_RETAIN: u8 = 0b100;
const FLAG_DUP: u8 = 0b1000;
const FLAG_RECEIVED: u8 = 0b1_0000;
const FLAG_SHARED: u8 = 0b10_0000;

impl Queued {
    pub(crate) fn new(
        message: MessageRef,
        qos: QoS,
        retain: bool,
        expires: Expires,
        identifiers: u16,
    ) -> Self {
        let flags = qos_bits(qos) | if retain { FLAG_RETAIN } else { 0 };
        Self { message, expires, identifiers, flags }
    }

    pub(crate) fn qos(&self) -> QoS {
        qos_of_bits(self.flags & 0b11).expect("flags are built from a QoS")
    }

    pub(crate) fn retain(&self) -> bool {
        self.flags & FLAG_RETAIN != 0
    }

    /// Sent on an earlier connection.
    pub(crate) fn dup(&self) -> bool {
        self.flags & FLAG_DUP != 0
    }

    pub(crate) fn set_dup(&mut self) {
        self.flags |= FLAG_DUP;
    }

    /// The client has it: what is left to send is PUBREL. It refers to no message any more.
    pub(crate) fn is_received(&self) -> bool {
        self.flags & FLAG_RECEIVED != 0
    }

    /// As a message of a share group.
    pub(crate) fn shared(mut self) -> Self {
        self.flags |= FLAG_SHARED;
        self
    }

    /// It came from a share group, which is to be told what becomes of it.
    pub(crate) fn is_shared(&self) -> bool {
        self.flags & FLAG_SHARED != 0
    }

    pub(crate) fn set_received(&mut self) {
        self.flags |= FLAG_RECEIVED;
        self.flags &= !FLAG_SHARED;
        self.message = MessageRef { index: LogIndex(0), offset: 0, bytes: 0 };
        self.expires = Expires::NEVER;
        self.identifiers = 0;
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.message.index.0);
        out.put_u32_le(self.message.offset);
        out.put_u32_le(self.message.bytes);
        out.put_u32_le(self.expires.0);
        out.put_u16_le(self.identifiers);
        out.put_u8(self.flags);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let message =
            MessageRef { index: LogIndex(reader.u64()?), offset: reader.u32()?, bytes: reader.u32()? };
        let expires = Expires(reader.u32()?);
        let identifiers = reader.u16()?;
        let at = reader.at();
        let flags = reader.u8()?;
        if qos_of_bits(flags & 0b11).is_none() || flags >> 6 != 0 {
            return Err(DecodeError::Tag { tag: flags, at });
        }
        Ok(Self { message, expires, identifiers, flags })
    }
}

/// References in order, with a position each.
#[derive(Clone, Default, Debug)]
pub(crate) struct Queue {
    /// The first block lacks what was taken from its front.
    blocks: VecDeque<VecDeque<Queued>>,
    head: u64,
    tail: u64,
    bytes: u64,
    /// Blocks that the checkpoint has.
    stored: Range<u64>,
    /// The checkpoint has everything before this position.
    stored_to: u64,
}

impl PartialEq for Queue {
    fn eq(&self, other: &Self) -> bool {
        (self.head, self.tail, self.bytes) == (other.head, other.tail, other.bytes)
            && self.iter().eq(other.iter())
    }
}

impl Queue {
    pub(crate) fn len(&self) -> u64 {
        self.tail - self.head
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Sum of the message sizes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn positions(&self) -> Range<u64> {
        self.head..self.tail
    }

    pub(crate) fn front(&self) -> Option<&Queued> {
        self.blocks.front().and_then(VecDeque::front)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.blocks.iter().flatten()
    }

    pub(crate) fn push(&mut self, queued: Queued) {
        if self.tail.is_multiple_of(QUEUE_BLOCK_MESSAGES) {
            self.blocks.push_back(VecDeque::new());
        }
        self.blocks.back_mut().expect("a position inside a block has its block").push_back(queued);
        self.tail += 1;
        self.bytes += u64::from(queued.message.bytes);
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let block = self.blocks.front_mut()?;
        let queued = block.pop_front()?;
        self.head += 1;
        self.bytes -= u64::from(queued.message.bytes);
        if self.head == self.tail {
            // The next message begins a new block, so that a drained session keeps no memory.
            self.blocks.clear();
            self.tail = self.tail.next_multiple_of(QUEUE_BLOCK_MESSAGES);
            self.head = self.tail;
        } else if self.head.is_multiple_of(QUEUE_BLOCK_MESSAGES) {
            self.blocks.pop_front();
        }
        Some(queued)
    }

    /// All blocks, as records: block number and content.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let first = self.head / QUEUE_BLOCK_MESSAGES;
        (first..).zip(&self.blocks).map(|(number, block)| (number, self.record(number, block)))
    }

    fn record(&self, number: u64, block: &VecDeque<Queued>) -> Vec<u8> {
        let first = self.head.max(number * QUEUE_BLOCK_MESSAGES);
        let mut out = BytesMut::with_capacity(12 + block.len() * 27);
        out.put_u64_le(first);
        put_count(&mut out, block.len());
        for queued in block {
            queued.encode(&mut out);
        }
        out.into()
    }

    /// Calls `put` for the blocks whose record must be written (content) or deleted (`None`), and notes that it was.
    pub(crate) fn changes(&mut self, mut put: impl FnMut(u64, Option<Vec<u8>>)) {
        let live = if self.is_empty() {
            self.stored.end..self.stored.end
        } else {
            self.head / QUEUE_BLOCK_MESSAGES..self.tail.div_ceil(QUEUE_BLOCK_MESSAGES)
        };
        for number in self.stored.start..self.stored.end.min(live.start) {
            put(number, None);
        }
        let from = self.stored_to.max(self.head);
        if from < self.tail {
            let first = self.head / QUEUE_BLOCK_MESSAGES;
            let skip = usize::try_from(from / QUEUE_BLOCK_MESSAGES - first).unwrap_or(usize::MAX);
            for (number, block) in (first..).zip(&self.blocks).skip(skip) {
                put(number, Some(self.record(number, block)));
            }
        }
        self.stored = live;
        self.stored_to = self.tail;
    }

    /// Numbers of the blocks that the checkpoint has.
    pub(crate) fn stored_blocks(&self) -> Range<u64> {
        self.stored.clone()
    }

    /// A queue whose blocks are still to be given, by [`Self::restore_block`] in ascending order.
    pub(crate) fn restored(positions: Range<u64>) -> Self {
        let blocks = positions.start / QUEUE_BLOCK_MESSAGES..positions.end.div_ceil(QUEUE_BLOCK_MESSAGES);
        let stored = if positions.is_empty() { 0..0 } else { blocks };
        let Range { start, end } = positions;
        Self { head: start, tail: end, stored_to: end, stored, ..Self::default() }
    }

    /// Adds a block's content; what has been taken from the queue since it was written is left out.
    pub(crate) fn restore_block(&mut self, content: &Bytes) -> Result<(), DecodeError> {
        let mut reader = Reader::new(content);
        let first = reader.u64()?;
        let count = u64::from(reader.u32()?);
        let mut block = VecDeque::new();
        for position in first..first.saturating_add(count) {
            let queued = Queued::decode(&mut reader)?;
            if (self.head..self.tail).contains(&position) {
                self.bytes += u64::from(queued.message.bytes);
                block.push_back(queued);
            }
        }
        if !block.is_empty() {
            self.blocks.push_back(block);
        }
        reader.done()
    }

    /// Whether all positions are there: false after a restore with missing blocks.
    pub(crate) fn is_whole(&self) -> bool {
        let first = self.head / QUEUE_BLOCK_MESSAGES;
        let filled = (first..).zip(&self.blocks).all(|(number, block)| {
            let from = self.head.max(number * QUEUE_BLOCK_MESSAGES);
            let to = self.tail.min((number + 1) * QUEUE_BLOCK_MESSAGES);
            block.len() as u64 == to.saturating_sub(from)
        });
        filled && self.iter().count() as u64 == self.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn message(number: u64) -> Queued {
        let message = MessageRef { index: LogIndex(number), offset: 7, bytes: 10 };
        Queued::new(message, QoS::AtLeastOnce, number.is_multiple_of(2), Expires(9), 3)
    }

    fn restored(queue: &Queue, store: &BTreeMap<u64, Vec<u8>>) -> Queue {
        let mut copy = Queue::restored(queue.positions());
        for content in store.values() {
            copy.restore_block(&Bytes::copy_from_slice(content)).unwrap();
        }
        copy
    }

    #[test]
    fn queue_with_changes_applied_to_a_store_restores_equal() {
        let mut queue = Queue::default();
        let mut store: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut seed = 3_u64;
        let mut next = 0;
        let mut expected: VecDeque<u64> = VecDeque::new();
        for round in 0..400_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pushes = (seed >> 33) % 900;
            let pops = if round % 7 == 0 { u64::MAX } else { (seed >> 50) % 900 };
            for _ in 0..pushes {
                queue.push(message(next));
                expected.push_back(next);
                next += 1;
            }
            for _ in 0..pops {
                let popped = queue.pop();
                assert_eq!(popped.map(|queued| queued.message.index.0), expected.pop_front());
                if popped.is_none() {
                    break;
                }
            }
            if round % 3 == 0 {
                queue.changes(|number, content| {
                    match content {
                        Some(content) => store.insert(number, content),
                        None => store.remove(&number),
                    };
                });
                let copy = restored(&queue, &store);
                assert_eq!(copy, queue);
                assert!(copy.is_whole());
                assert_eq!(copy.stored_blocks().count(), store.len());
                assert!(store.len() as u64 <= queue.len() / QUEUE_BLOCK_MESSAGES + 2);
            }
            assert_eq!(queue.len(), expected.len() as u64);
            assert_eq!(queue.bytes(), 10 * queue.len());
        }
    }

    #[test]
    fn changes_after_one_push_on_a_long_backlog_writes_one_block() {
        let mut queue = Queue::default();
        for number in 0..100_000 {
            queue.push(message(number));
        }
        queue.changes(|_, _| {});
        queue.push(message(100_000));
        let mut written = 0;
        queue.changes(|_, content| written += usize::from(content.is_some()));
        assert_eq!(written, 1);
        queue.changes(|_, _| panic!("nothing changed"));
    }

    #[test]
    fn is_whole_with_a_missing_block_is_false() {
        let mut queue = Queue::default();
        for number in 0..2_000 {
            queue.push(message(number));
        }
        let mut store: BTreeMap<u64, Vec<u8>> = queue.records().collect();
        assert!(restored(&queue, &store).is_whole());
        store.remove(&1);
        assert!(!restored(&queue, &store).is_whole());
    }
}
