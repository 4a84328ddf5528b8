//! The hash functions whose results are part of the replicated state or decide where something lives.
//!
//! Owns: placement of client identifiers and topics on partitions, the client hash of No Local, the state hash.
//! Does not: protect a table against chosen keys; tables keyed by what clients choose use a seeded hasher.
//! Invariants: the same bytes give the same number for ever, on every machine; a change is a format change.

use std::hash::{BuildHasherDefault, Hasher};

use quorate_codec::TopicFilter;

use crate::ids::GroupId;

/// Odd multiplier with well spread bits (from the golden ratio).
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Hash of bytes, eight at a time, stable for ever.
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash = StableHash::new();
    hash.write(bytes);
    hash.finish()
}

/// Hash that stands for a client identifier in [`crate::Message::publisher`]; never 0, which means "no client".
#[must_use]
pub fn client_hash(client_id: &str) -> u64 {
    stable_hash(client_id.as_bytes()).max(1)
}

/// Home partition of a client's session, of `partitions` in all.
#[must_use]
pub fn partition_of_client(client_id: &str, partitions: u32) -> GroupId {
    partition_of(client_hash(client_id), partitions)
}

/// Partition that holds the retained message of a topic, of `partitions` in all.
#[must_use]
pub fn partition_of_topic(topic: &str, partitions: u32) -> GroupId {
    partition_of(stable_hash(topic.as_bytes()), partitions)
}

/// Home partition of a share group by its filter with `$share/` and the name, of `partitions` in all.
#[must_use]
pub fn partition_of_share(filter: &TopicFilter, partitions: u32) -> GroupId {
    let filter = filter.as_str();
    let shared = filter.strip_prefix("$share/").unwrap_or(filter);
    partition_of(stable_hash(shared.as_bytes()), partitions)
}

fn partition_of(hash: u64, partitions: u32) -> GroupId {
    let chosen = (hash >> 32) % u64::from(partitions.max(1));
    GroupId(1 + u32::try_from(chosen).expect("the remainder is below a u32"))
}

/// Streaming form of [`stable_hash`]. How the bytes are cut into writes is part of what is hashed.
#[derive(Clone, Debug)]
pub(crate) struct StableHash(u64);

impl StableHash {
    pub(crate) fn new() -> Self {
        Self(0x5155_4F52_4154_4531)
    }

    fn mix(&mut self, word: u64) {
        let folded = u128::from(self.0 ^ word) * u128::from(MULTIPLIER);
        let [low, high] = [folded & u128::from(u64::MAX), folded >> 64];
        let fold = |half: u128| u64::try_from(half).expect("a half of 128 bits has 64");
        self.0 = fold(low) ^ fold(high) ^ word.rotate_left(29);
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.mix(u64::from_le_bytes(last));
        self.mix(bytes.len() as u64);
    }

    pub(crate) fn finish(&self) -> u64 {
        let mut last = self.clone();
        last.mix(0x71);
        last.mix(0x75);
        last.0
    }
}

/// Hasher for keys that the state numbers itself (session ids, trie nodes). Point lookups only, never iterated.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let product = (self.0 ^ number).wrapping_mul(MULTIPLIER);
        self.0 = product ^ (product >> 32);
    }
}

/// Builder of [`NumberHasher`].
pub(crate) type NumberState = BuildHasherDefault<NumberHasher>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_hash_of_known_bytes_never_changes() {
        // Placement of existing sessions depends on these values.
        let hashes = [&b""[..], b"a", b"sensor/12/temperature"].map(stable_hash);
        assert_eq!(hashes, GOLDEN);
    }

    const GOLDEN: [u64; 3] =
        [678_495_429_507_062_842, 18_206_213_384_734_370_959, 17_273_595_655_997_330_056];

    #[test]
    fn partition_of_client_spreads_evenly() {
        let mut counts = [0_u32; 16];
        for n in 0..16_000 {
            let group = partition_of_client(&format!("client-{n}"), 16);
            counts[group.0 as usize - 1] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }

    #[test]
    fn client_hash_is_never_the_hash_of_nobody() {
        assert_ne!(client_hash(""), 0);
    }
}
