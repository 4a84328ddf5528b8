//! The QoS 2 messages that a client has published and not released: their packet identifiers.
//!
//! Owns: which are in use, and where the retained copy of each went. Does not: hold messages; they were handed on when
//! they came. Invariants: an identifier is in use from PUBLISH to PUBREL, over any number of connections.
//! Limits: 65,535, by their nature; about 4 bytes each. Spec: MQTT 5, 4.3.3. See:
//! docs/decisions/0014-exactly-once-publishing.md.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, BytesMut};
use quorate_codec::PacketId;

use crate::ids::{GroupId, StreamSeq};
use crate::wire::{DecodeError, Reader, put_count};

/// Packet identifiers of a session's QoS 2 publishes.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Inbound {
    in_use: BTreeSet<PacketId>,
    /// Of messages that are to be retained: the position in the outbox to the partition of the topic.
    retained: BTreeMap<PacketId, (GroupId, StreamSeq)>,
}

impl Inbound {
    pub(crate) fn is_empty(&self) -> bool {
        self.in_use.is_empty()
    }

    /// Packet identifiers in use.
    pub(crate) fn len(&self) -> usize {
        self.in_use.len()
    }

    pub(crate) fn contains(&self, packet_id: PacketId) -> bool {
        self.in_use.contains(&packet_id)
    }

    /// A message was handed on; `retained` says where its retained copy goes.
    pub(crate) fn insert(&mut self, packet_id: PacketId, retained: Option<(GroupId, StreamSeq)>) {
        self.in_use.insert(packet_id);
        if let Some(position) = retained {
            self.retained.insert(packet_id, position);
        }
    }

    /// Where the retained copy of a message went.
    pub(crate) fn retained(&self, packet_id: PacketId) -> Option<(GroupId, StreamSeq)> {
        self.retained.get(&packet_id).copied()
    }

    /// PUBREL: the identifier is free again. False when it was.
    pub(crate) fn remove(&mut self, packet_id: PacketId) -> bool {
        self.retained.remove(&packet_id);
        self.in_use.remove(&packet_id)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_count(out, self.in_use.len());
        for packet_id in &self.in_use {
            out.put_u16_le(packet_id.get());
        }
        put_count(out, self.retained.len());
        for (packet_id, (group, seq)) in &self.retained {
            out.put_u16_le(packet_id.get());
            out.put_u32_le(group.0);
            out.put_u64_le(seq.0);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut inbound = Self::default();
        for _ in 0..reader.length()? {
            inbound.in_use.insert(reader.packet_id()?);
        }
        for _ in 0..reader.length()? {
            let packet_id = reader.packet_id()?;
            let position = (GroupId(reader.u32()?), StreamSeq(reader.u64()?));
            inbound.retained.insert(packet_id, position);
        }
        Ok(inbound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn packet_id_is_in_use_until_removed() {
        let mut inbound = Inbound::default();
        inbound.insert(id(7), Some((GroupId(3), StreamSeq(9))));
        inbound.insert(id(8), None);
        assert!(inbound.contains(id(7)) && inbound.contains(id(8)) && !inbound.contains(id(9)));
        assert_eq!(inbound.retained(id(7)), Some((GroupId(3), StreamSeq(9))));
        assert!(inbound.remove(id(7)));
        assert!(!inbound.remove(id(7)));
        assert_eq!(inbound.retained(id(7)), None);
    }

    #[test]
    fn encode_and_decode_give_the_same_back() {
        let mut inbound = Inbound::default();
        for number in [1, 2, 65_535] {
            inbound.insert(id(number), (number == 2).then_some((GroupId(1), StreamSeq(4))));
        }
        let mut out = BytesMut::new();
        inbound.encode(&mut out);
        let bytes = out.freeze();
        let mut reader = Reader::new(&bytes);
        assert_eq!(Inbound::decode(&mut reader), Ok(inbound));
        assert_eq!(reader.done(), Ok(()));
    }
}
