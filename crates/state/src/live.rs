//! Which log entries still hold a body that somebody needs.
//!
//! Owns: the number of references (queued, inflight, retained, in an outbox or a share group) into each entry.
//! Does not: store references; not part of the checkpoint, it is counted again from what is.
//! Invariants: a count is the number of references, exactly; a chunk without references does not exist.
//! Limits: LIVE_CHUNK_ENTRIES, LIVE_SPARSE_MAX. A single old reference costs about 100 bytes, a dense log 8 per entry.

use std::collections::BTreeMap;

use crate::ids::LogIndex;
use crate::limits::{LIVE_CHUNK_ENTRIES, LIVE_SPARSE_MAX};

/// References per log entry.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Live {
    chunks: BTreeMap<u64, Chunk>,
}

#[derive(Clone, PartialEq, Debug)]
enum Chunk {
    /// Few entries: (place in the chunk, references), ordered.
    Sparse(Vec<(u16, u64)>),
    /// Many entries: references by place, and how many are not zero.
    Dense(Box<[u64]>, usize),
}

fn split(index: LogIndex) -> (u64, u16) {
    let place = u16::try_from(index.0 % LIVE_CHUNK_ENTRIES).expect("a chunk has at most 65,536 entries");
    (index.0 / LIVE_CHUNK_ENTRIES, place)
}

impl Live {
    /// `count` more references into the entry.
    pub(crate) fn add(&mut self, index: LogIndex, count: u64) {
        if count == 0 {
            return;
        }
        let (chunk, place) = split(index);
        self.chunks.entry(chunk).or_insert_with(|| Chunk::Sparse(Vec::new())).add(place, count);
    }

    /// One reference less.
    pub(crate) fn release(&mut self, index: LogIndex) {
        let (number, place) = split(index);
        let chunk = self.chunks.get_mut(&number).expect("a reference was counted when it was made");
        if chunk.release(place) {
            self.chunks.remove(&number);
        }
    }

    /// References into the entry.
    pub(crate) fn count(&self, index: LogIndex) -> u64 {
        let (chunk, place) = split(index);
        match self.chunks.get(&chunk) {
            None => 0,
            Some(Chunk::Sparse(list)) => match list.binary_search_by_key(&place, |entry| entry.0) {
                Ok(at) => list.get(at).map_or(0, |entry| entry.1),
                Err(_) => 0,
            },
            Some(Chunk::Dense(counts, _)) => counts.get(usize::from(place)).copied().unwrap_or(0),
        }
    }

    /// The first entry that is referenced, from `from` on.
    pub(crate) fn first_from(&self, from: LogIndex) -> Option<LogIndex> {
        let (first, place) = split(from);
        self.chunks.range(first..).find_map(|(number, chunk)| {
            let least = if *number == first { place } else { 0 };
            let place = chunk.first_from(least)?;
            Some(LogIndex(number * LIVE_CHUNK_ENTRIES + u64::from(place)))
        })
    }
}

impl Chunk {
    fn add(&mut self, place: u16, count: u64) {
        match self {
            Self::Sparse(list) => match list.binary_search_by_key(&place, |entry| entry.0) {
                Ok(at) => {
                    let entry = list.get_mut(at).expect("found at this place");
                    entry.1 = entry.1.checked_add(count).expect("fewer than 2^64 references to an entry");
                }
                Err(at) => {
                    list.insert(at, (place, count));
                    if list.len() > LIVE_SPARSE_MAX {
                        self.make_dense();
                    }
                }
            },
            Self::Dense(counts, used) => {
                let entry = counts.get_mut(usize::from(place)).expect("a chunk has a count for every entry");
                *used += usize::from(*entry == 0);
                *entry = entry.checked_add(count).expect("fewer than 2^64 references to an entry");
            }
        }
    }

    fn make_dense(&mut self) {
        let Self::Sparse(list) = self else { return };
        let entries = usize::try_from(LIVE_CHUNK_ENTRIES).expect("a chunk fits memory");
        let mut counts = vec![0; entries].into_boxed_slice();
        for (place, count) in list.iter() {
            *counts.get_mut(usize::from(*place)).expect("places are below the chunk's size") = *count;
        }
        *self = Self::Dense(counts, list.len());
    }

    /// One reference less; whether the chunk is empty now.
    fn release(&mut self, place: u16) -> bool {
        match self {
            Self::Sparse(list) => {
                let at =
                    list.binary_search_by_key(&place, |entry| entry.0).expect("the reference was counted");
                let entry = list.get_mut(at).expect("found at this place");
                entry.1 -= 1;
                if entry.1 == 0 {
                    list.remove(at);
                }
                list.is_empty()
            }
            Self::Dense(counts, used) => {
                let entry = counts.get_mut(usize::from(place)).expect("a chunk has a count for every entry");
                *entry = entry.checked_sub(1).expect("the reference was counted");
                *used -= usize::from(*entry == 0);
                if *used <= LIVE_SPARSE_MAX / 2 {
                    let kept = (0_u16..).zip(counts.iter()).filter(|entry| *entry.1 > 0);
                    let list: Vec<(u16, u64)> = kept.map(|(place, count)| (place, *count)).collect();
                    let empty = list.is_empty();
                    *self = Self::Sparse(list);
                    return empty;
                }
                false
            }
        }
    }

    fn first_from(&self, least: u16) -> Option<u16> {
        match self {
            Self::Sparse(list) => list.iter().map(|entry| entry.0).find(|place| *place >= least),
            Self::Dense(counts, _) => (0_u16..)
                .zip(counts.iter())
                .find(|(place, count)| *place >= least && **count > 0)
                .map(|(place, _)| place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_counts_agree_with_a_plain_map() {
        let mut live = Live::default();
        let mut plain: BTreeMap<u64, u64> = BTreeMap::new();
        let mut seed = 1_u64;
        for step in 0..20_000_u64 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = (seed >> 40) % 600;
            let grow = (step / 4_000) % 2 == 0;
            if grow || !plain.contains_key(&index) {
                live.add(LogIndex(index), 2);
                *plain.entry(index).or_default() += 2;
            } else {
                live.release(LogIndex(index));
                let count = plain.get_mut(&index).unwrap();
                *count -= 1;
                if *count == 0 {
                    plain.remove(&index);
                }
            }
            assert_eq!(live.count(LogIndex(index)), plain.get(&index).copied().unwrap_or(0));
            assert_eq!(
                live.first_from(LogIndex(index)).map(|found| found.0),
                plain.range(index..).next().map(|e| *e.0)
            );
        }
        for (index, count) in plain {
            for _ in 0..count {
                live.release(LogIndex(index));
            }
        }
        assert!(live.chunks.is_empty());
    }

    #[test]
    fn live_with_one_reference_per_chunk_stays_sparse() {
        let mut live = Live::default();
        for chunk in 0..100 {
            live.add(LogIndex(chunk * LIVE_CHUNK_ENTRIES), 1);
        }
        assert!(live.chunks.values().all(|chunk| matches!(chunk, Chunk::Sparse(_))));
    }
}
