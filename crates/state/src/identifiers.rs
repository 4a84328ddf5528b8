//! Sets of subscription identifiers of a session, numbered, so that a queued message carries two bytes.
//!
//! Owns: the sets and how many messages refer to each. Does not: know which subscription an identifier is of.
//! Invariants: number 0 is the empty set; a set in use keeps its number; unused sets go only when room is needed.
//! Limits: IDENTIFIER_SETS_MAX, IDENTIFIER_SETS_KEPT. Spec: MQTT 5, 3.3.2.3.8 and 3.8.2.1.2.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::limits::{IDENTIFIER_SETS_KEPT, IDENTIFIER_SETS_MAX};
use crate::wire::{DecodeError, Reader, put_count};

/// The numbered sets.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct IdentifierSets {
    /// Set `n` is at place `n - 1`; an empty place is free.
    places: Vec<Place>,
    numbers: BTreeMap<Box<[u32]>, u16>,
}

#[derive(Clone, PartialEq, Default, Debug)]
struct Place {
    set: Box<[u32]>,
    references: u64,
}

impl IdentifierSets {
    /// The identifiers of a set.
    pub(crate) fn set(&self, number: u16) -> &[u32] {
        self.place(number).map_or(&[], |place| &place.set)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Number of a set (sorted), and whether the table changed.
    pub(crate) fn number_of(&mut self, set: &[u32]) -> (u16, bool) {
        if set.is_empty() {
            return (0, false);
        }
        if let Some(number) = self.numbers.get(set) {
            return (*number, false);
        }
        if self.numbers.len() >= IDENTIFIER_SETS_KEPT {
            self.drop_unused();
        }
        let free = self.places.iter().position(|place| place.set.is_empty());
        let index = free.unwrap_or(self.places.len());
        if index >= IDENTIFIER_SETS_MAX {
            return (0, true);
        }
        let place = Place { set: set.into(), references: 0 };
        match self.places.get_mut(index) {
            Some(empty) => *empty = place,
            None => self.places.push(place),
        }
        let number = u16::try_from(index + 1).expect("IDENTIFIER_SETS_MAX is below 65,535");
        self.numbers.insert(set.into(), number);
        (number, true)
    }

    fn drop_unused(&mut self) {
        for place in &mut self.places {
            if place.references == 0 && !place.set.is_empty() {
                self.numbers.remove(&place.set);
                place.set = Box::default();
            }
        }
        while self.places.last().is_some_and(|place| place.set.is_empty()) {
            self.places.pop();
        }
    }

    /// A message refers to the set.
    pub(crate) fn hold(&mut self, number: u16) {
        if let Some(place) = self.place_mut(number) {
            place.references += 1;
        }
    }

    /// A message no longer refers to the set.
    pub(crate) fn release(&mut self, number: u16) {
        if let Some(place) = self.place_mut(number) {
            place.references = place.references.checked_sub(1).expect("the message held the set");
        }
    }

    fn place(&self, number: u16) -> Option<&Place> {
        self.places.get(usize::from(number.checked_sub(1)?))
    }

    fn place_mut(&mut self, number: u16) -> Option<&mut Place> {
        self.places.get_mut(usize::from(number.checked_sub(1)?))
    }

    /// The sets without their counts: those are counted again from the messages.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_count(out, self.places.len());
        for place in &self.places {
            put_count(out, place.set.len());
            for identifier in &place.set {
                out.put_u32_le(*identifier);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut sets = Self::default();
        for index in 0..reader.length()? {
            let at = reader.at();
            let number = u16::try_from(index + 1).map_err(|_| DecodeError::Truncated { at })?;
            let count = reader.length()?;
            let mut set = Vec::new();
            for _ in 0..count {
                set.push(reader.u32()?);
            }
            if !set.is_empty() {
                sets.numbers.insert(set.clone().into(), number);
            }
            sets.places.push(Place { set: set.into(), references: 0 });
        }
        Ok(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_unused_sets_is_bounded_and_sets_in_use_stay() {
        let mut sets = IdentifierSets::default();
        let (kept, _) = sets.number_of(&[1, 2]);
        sets.hold(kept);
        for identifier in 10..20_000 {
            let (number, _) = sets.number_of(&[identifier]);
            assert_eq!(sets.set(number), [identifier]);
            assert!(sets.numbers.len() <= IDENTIFIER_SETS_KEPT);
        }
        assert_eq!(sets.set(kept), [1, 2]);
        assert_eq!(sets.number_of(&[1, 2]), (kept, false));
        assert_eq!(sets.number_of(&[]), (0, false));
    }

    #[test]
    fn number_of_more_sets_than_allowed_is_the_empty_set() {
        let mut sets = IdentifierSets::default();
        for identifier in 1..=4_096 {
            let (number, _) = sets.number_of(&[identifier]);
            sets.hold(number);
        }
        assert_eq!(sets.number_of(&[5_000]).0, 0);
        sets.release(7);
        assert_eq!(sets.number_of(&[5_000]), (7, true));
    }

    #[test]
    fn encode_and_decode_keep_the_numbers() {
        let mut sets = IdentifierSets::default();
        for identifier in 1..=300 {
            let (number, _) = sets.number_of(&[identifier, identifier]);
            if identifier % 2 == 0 {
                sets.hold(number);
            }
        }
        let mut out = BytesMut::new();
        sets.encode(&mut out);
        let bytes = out.freeze();
        let restored = IdentifierSets::decode(&mut Reader::new(&bytes)).unwrap();
        for number in 0..=300 {
            assert_eq!(restored.set(number), sets.set(number));
        }
        assert_eq!(restored.numbers, sets.numbers);
    }
}
