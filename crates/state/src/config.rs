//! Settings of a partition's state.
//!
//! Owns: cluster-wide bounds per session and per partition. Does not: read configuration.
//! Invariants: equal on all replicas of a group at every entry; a difference would make replicas differ.

use crate::ids::GroupId;

/// What happens to a message for a session whose queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overflow {
    /// The oldest queued messages make room. The default: no publisher waits for an absent subscriber.
    #[default]
    DropOldest,
    /// The new message is not queued for this session.
    DropNewest,
    /// The publisher gets 0x97 and the message is queued for no session of the partition.
    RejectPublisher,
}

/// Cluster settings of a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionConfig {
    /// The partition, 1 or higher.
    pub group: GroupId,
    /// Partitions of the cluster: says where a share group is at home. Never changes.
    pub partitions: u32,
    /// Longest session expiry in seconds; `u32::MAX` for none. "Never" counts as this.
    pub session_expiry_max_s: u32,
    /// Sessions in this partition, connected or not. About 500 bytes each.
    pub sessions_max: u64,
    /// Queued messages per session. 24 bytes of memory each.
    pub queue_messages_max: u64,
    /// Queued bytes per session (encoded messages, which are on disk once however many sessions queue them).
    pub queue_bytes_max: u64,
    /// Unacknowledged messages per session, if the client's Receive Maximum allows as many. 40 bytes each.
    pub inflight_max: u16,
    /// Subscriptions per session. About 200 bytes each.
    pub subscriptions_per_session_max: usize,
    /// Topics with a retained message in this partition. About 150 bytes each.
    pub retained_max: usize,
    /// What happens when a queue is full.
    pub overflow: Overflow,
}

impl PartitionConfig {
    /// The default settings for a partition.
    #[must_use]
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            partitions: 1,
            session_expiry_max_s: 7 * 24 * 3600,
            sessions_max: 1_000_000,
            queue_messages_max: 1_000_000,
            queue_bytes_max: 1 << 30,
            inflight_max: 1024,
            subscriptions_per_session_max: 1_000,
            retained_max: 1_000_000,
            overflow: Overflow::default(),
        }
    }
}
