//! Recently written and recently read payloads.
//!
//! Owns: a bounded memory of entries and bodies by their place on disk. Does not: know groups or indexes.
//! Invariants: a place is never given to other bytes, so nothing in here is ever stale; what a reader of an old
//! backlog brings in cannot push out what was just appended.
//! Limits: the bytes given to `new`, CACHE_ENTRY_OVERHEAD_BYTES.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::Term;
use crate::limits::CACHE_ENTRY_OVERHEAD_BYTES;

/// A place on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// Segment and offset in it.
    Log(u32, u32),
    /// Body file and offset in it.
    Body(u32, u32),
}

/// What was stored there.
#[derive(Clone, Debug)]
pub struct Cached {
    pub term: Term,
    pub entry_type: u8,
    pub data: Bytes,
    pub context: Bytes,
}

/// Which part of the memory pays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It was just appended.
    Appended,
    /// It was read from the disk.
    Read,
}

/// The cache.
pub struct Cache {
    map: HashMap<Place, Cached>,
    appended: Pool,
    read: Pool,
}

struct Pool {
    queue: VecDeque<(Place, u64)>,
    bytes: u64,
    bytes_max: u64,
}

impl Cache {
    /// A cache that holds at most `bytes_max`, a quarter of it for what is read.
    pub fn new(bytes_max: u64) -> Self {
        let pool = |bytes_max| Pool { queue: VecDeque::new(), bytes: 0, bytes_max };
        let read = bytes_max / 4;
        Self { map: HashMap::new(), appended: pool(bytes_max - read), read: pool(read) }
    }

    /// What is at `place`, if known.
    pub fn get(&self, place: Place) -> Option<Cached> {
        self.map.get(&place).cloned()
    }

    /// Remembers what is at `place`; the oldest of the same origin make room.
    pub fn insert(&mut self, place: Place, cached: Cached, origin: Origin) {
        let bytes = (cached.data.len() + cached.context.len()) as u64 + CACHE_ENTRY_OVERHEAD_BYTES;
        let pool = match origin {
            Origin::Appended => &mut self.appended,
            Origin::Read => &mut self.read,
        };
        if bytes > pool.bytes_max || self.map.contains_key(&place) {
            return;
        }
        while pool.bytes + bytes > pool.bytes_max
            && let Some((oldest, freed)) = pool.queue.pop_front()
        {
            pool.bytes -= freed;
            self.map.remove(&oldest);
        }
        pool.bytes += bytes;
        pool.queue.push_back((place, bytes));
        self.map.insert(place, cached);
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.appended.bytes + self.read.bytes
    }
}

/// Tells a drain of a backlog from single reads, per group.
#[derive(Default)]
pub struct DrainDetector {
    last_missed: std::collections::BTreeMap<crate::Group, crate::Index>,
}

/// A miss this little further on than the one before belongs to a drain.
const DRAIN_GAP_MAX: u64 = 4096;

/// Bytes read for a miss that belongs to no drain: one page of neighbours costs nothing.
const SINGLE_READ_BYTES: u64 = 4096;

impl DrainDetector {
    /// Bytes worth reading for a miss of `index`.
    pub fn read_bytes(&mut self, group: crate::Group, index: crate::Index) -> u64 {
        let last = self.last_missed.insert(group, index);
        let drain = last.is_some_and(|last| index > last && index - last <= DRAIN_GAP_MAX);
        if drain { crate::limits::READ_AHEAD_BYTES } else { SINGLE_READ_BYTES }
    }
}
