//! What was dropped for one session, by reason, and what it made publishers lose.
//!
//! Owns: the counters and their record. Does not: drop.
//! Invariants: a count only grows while the session lives; a session without drops has no counters and no record.
//! Limits: one counter for each reason: 300 bytes for a session with drops, 8 for one without.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::effect::DropReason;
use crate::wire::{DecodeError, Reader, put_count};

/// Counters of one session.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Drops(Option<Box<Counters>>);

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Counters {
    dropped: BTreeMap<DropReason, u64>,
    refused: u64,
}

impl Drops {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// `count` messages more were dropped for the session.
    pub(crate) fn add(&mut self, reason: DropReason, count: u64) {
        if count > 0 {
            let dropped = self.0.get_or_insert_default().dropped.entry(reason).or_default();
            *dropped = dropped.saturating_add(count);
        }
    }

    /// A publisher was refused because this session had no room.
    pub(crate) fn refuse(&mut self) {
        let counters = self.0.get_or_insert_default();
        counters.refused = counters.refused.saturating_add(1);
    }

    /// Dropped messages, in order of the reasons.
    pub(crate) fn dropped(&self) -> impl Iterator<Item = (DropReason, u64)> {
        let counters = self.0.iter().flat_map(|counters| &counters.dropped);
        counters.map(|(reason, count)| (*reason, *count))
    }

    /// Publishes refused because of the session.
    pub(crate) fn refused(&self) -> u64 {
        self.0.as_ref().map_or(0, |counters| counters.refused)
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.refused());
        put_count(out, self.dropped().count());
        for (reason, count) in self.dropped() {
            out.put_u8(code(reason));
            out.put_u64_le(count);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let refused = reader.u64()?;
        let mut dropped = BTreeMap::new();
        for _ in 0..reader.length()? {
            let at = reader.at();
            let tag = reader.u8()?;
            let reason = reason_of(tag).ok_or(DecodeError::Tag { tag, at })?;
            if dropped.insert(reason, reader.u64()?).is_some() {
                return Err(DecodeError::Order { at });
            }
        }
        let empty = refused == 0 && dropped.is_empty();
        Ok(Self((!empty).then(|| Box::new(Counters { dropped, refused }))))
    }
}

const REASONS: [DropReason; 11] = [
    DropReason::QueueMessages,
    DropReason::QueueBytes,
    DropReason::MessageExpired,
    DropReason::SessionEnded,
    DropReason::CleanStart,
    DropReason::PacketTooLarge,
    DropReason::RetainedTopics,
    DropReason::RefusedLate,
    DropReason::ReadOnlyTopic,
    DropReason::DiskLow,
    DropReason::MemoryLow,
];

/// The number of a reason in records. It never changes.
fn code(reason: DropReason) -> u8 {
    match reason {
        DropReason::QueueMessages => 0,
        DropReason::QueueBytes => 1,
        DropReason::MessageExpired => 2,
        DropReason::SessionEnded => 3,
        DropReason::CleanStart => 4,
        DropReason::PacketTooLarge => 5,
        DropReason::RetainedTopics => 6,
        DropReason::RefusedLate => 7,
        DropReason::ReadOnlyTopic => 8,
        DropReason::DiskLow => 9,
        DropReason::MemoryLow => 10,
    }
}

fn reason_of(number: u8) -> Option<DropReason> {
    REASONS.into_iter().find(|reason| code(*reason) == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encode_and_decode_give_the_same_back() {
        let mut drops = Drops::default();
        for (round, reason) in (0..).zip(REASONS) {
            drops.add(reason, round);
            let mut out = BytesMut::new();
            drops.encode(&mut out);
            let bytes = out.freeze();
            let mut reader = Reader::new(&bytes);
            assert_eq!(Drops::decode(&mut reader), Ok(drops.clone()));
            assert_eq!(reader.done(), Ok(()));
            drops.refuse();
        }
        assert_eq!((drops.dropped().count(), drops.refused()), (REASONS.len() - 1, REASONS.len() as u64));
    }

    #[test]
    fn session_without_drops_has_no_counters() {
        let mut drops = Drops::default();
        drops.add(DropReason::QueueBytes, 0);
        assert!(drops.is_empty());
        assert_eq!(size_of::<Drops>(), 8);
        drops.add(DropReason::QueueBytes, u64::MAX);
        drops.add(DropReason::QueueBytes, 1);
        assert_eq!(drops.dropped().collect::<Vec<_>>(), [(DropReason::QueueBytes, u64::MAX)]);
    }

    #[test]
    fn unknown_or_repeated_reason_is_not_read() {
        for reasons in [[11, 0], [1, 1]] {
            let mut out = BytesMut::new();
            out.put_u64_le(0);
            put_count(&mut out, 2);
            for reason in reasons {
                out.put_u8(reason);
                out.put_u64_le(5);
            }
            assert!(Drops::decode(&mut Reader::new(&out.freeze())).is_err(), "{reasons:?}");
        }
    }
}
