//! What each part of the node may hold of the memory that the process may take.
//!
//! Owns: the shares. Does not: measure, or hold anything.
//! Invariants: with memory in plenty each part has what its own limit says; with little, all shares together and what the node
//! needs for itself stay below `MEMORY_HIGH_PERCENT`, so that what waits anywhere does not alone make memory short.
//! Limits: see the table in docs/limits.md.

use quorate_node::node::MemoryShares;

use crate::limits::{
    DIRECT_QUEUE_BYTES_MAX, MAILBOX_DIRECT_BYTES_MAX, PEER_INBOX_BYTES_MAX, PEER_OUTGOING_BYTES_MAX,
};

const MIB: u64 = 1024 * 1024;

/// The shares of one budget.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    budget_bytes: u64,
}

impl Shares {
    /// Of so many bytes; `None` when it is not known what the process may take: then of memory in plenty.
    pub fn of(budget_bytes: Option<u64>) -> Shares {
        Shares { budget_bytes: budget_bytes.unwrap_or(u64::MAX) }
    }

    /// One part in so many, between two bounds.
    fn part(self, divisor: u64, least: u64, most: u64) -> u64 {
        (self.budget_bytes / divisor).clamp(least, most)
    }

    fn part_in_memory(self, divisor: u64, least: u64, most: usize) -> usize {
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        usize::try_from(self.part(divisor, least, most)).unwrap_or(usize::MAX)
    }

    /// Recent log entries and bodies, when so many bytes are configured.
    pub fn body_cache_bytes(self, configured: u64) -> u64 {
        self.part(8, MIB, configured.max(MIB))
    }

    /// Direct deliveries that wait in one mailbox.
    pub fn mailbox_bytes(self) -> usize {
        self.part_in_memory(32, MIB, MAILBOX_DIRECT_BYTES_MAX)
    }

    /// Direct deliveries in all mailboxes from which on each may hold `MAILBOX_PRESSED_BYTES` only.
    pub fn mailboxes_bytes(self) -> usize {
        self.part_in_memory(8, 16 * MIB, usize::MAX)
    }

    /// Messages that wait for the window of one transient session.
    pub fn direct_queue_bytes(self) -> usize {
        self.part_in_memory(256, MIB / 2, DIRECT_QUEUE_BYTES_MAX)
    }

    /// Requests of clients that wait for the worker.
    pub fn client_inbox_bytes(self) -> usize {
        self.part_in_memory(32, 8 * MIB, usize::MAX)
    }

    /// Packets above `LARGE_PACKET_BYTES` that are being read.
    pub fn large_packets_bytes(self) -> usize {
        self.part_in_memory(16, 8 * MIB, usize::MAX)
    }

    /// What waits on one link to a peer.
    pub fn peer_outgoing_bytes(self) -> usize {
        self.part_in_memory(16, 16 * MIB, PEER_OUTGOING_BYTES_MAX)
    }

    /// What peers have sent and the worker has not taken.
    pub fn peer_inbox_bytes(self) -> usize {
        self.part_in_memory(16, 16 * MIB, PEER_INBOX_BYTES_MAX)
    }

    /// What is underway in groups.
    pub fn of_node(self) -> MemoryShares {
        let most = MemoryShares::default();
        MemoryShares {
            stream_bytes_max: self.part_in_memory(64, MIB, most.stream_bytes_max),
            streams_bytes_max: self.part_in_memory(16, 8 * MIB, usize::MAX),
            entries_bytes_max: self.part_in_memory(256, MIB / 4, most.entries_bytes_max),
            uncommitted_bytes_max: self.part(64, 2 * MIB, most.uncommitted_bytes_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What all shares come to at worst, with a link of two kinds to two peers and 17 groups.
    fn all(shares: Shares) -> u64 {
        let node = shares.of_node();
        let parts = [
            shares.mailboxes_bytes(),
            shares.client_inbox_bytes(),
            shares.large_packets_bytes(),
            shares.peer_outgoing_bytes() * 2,
            shares.peer_inbox_bytes(),
            node.streams_bytes_max,
            node.entries_bytes_max * 17,
        ];
        shares.body_cache_bytes(64 * MIB) + parts.map(|part| u64::try_from(part).unwrap()).iter().sum::<u64>()
    }

    #[test]
    fn shares_of_little_memory_leave_room_for_the_node_itself() {
        for mib in [256, 512, 1024, 4096] {
            let budget = mib * MIB;
            let sum = all(Shares::of(Some(budget)));
            assert!(sum * 100 <= budget * 75, "{} of {mib} MiB", sum / MIB);
        }
    }

    #[test]
    fn with_memory_in_plenty_each_part_has_what_its_own_limit_says() {
        let plenty = Shares::of(None);
        assert_eq!(plenty.of_node().stream_bytes_max, MemoryShares::default().stream_bytes_max);
        assert_eq!(plenty.mailbox_bytes(), MAILBOX_DIRECT_BYTES_MAX);
        assert_eq!(plenty.body_cache_bytes(64 * MIB), 64 * MIB);
        assert_eq!(Shares::of(Some(16 * 1024 * MIB)).of_node().uncommitted_bytes_max, 64 * MIB);
        assert_eq!(Shares::of(Some(256 * MIB)).body_cache_bytes(64 * MIB), 32 * MIB);
    }
}
