//! Storage of a node: one segmented log for all groups, bodies, checkpoints, the node's identity.
//!
//! Owns: every byte on the node's disk and the way it comes back after a crash. Does not: know Raft, MQTT or time,
//! spawn threads, retry a failed sync.
//! Invariants: nothing is reported durable before the device said so; what a checksum refuses is never served and
//! never silently cut away.
//! Limits: limits.rs. See: docs/formats/log-record.md, docs/formats/checkpoint.md, docs/formats/snapshot.md.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod cache;
mod copy;
mod field;
mod index;
mod payload;
mod random;
mod reader;
mod record;
mod recovery;
mod segment;

pub mod bodies;
pub mod carry;
pub mod checkpoint;
pub mod disk;
pub mod identity;
pub mod limits;
pub mod log;
pub mod scrub;
pub mod small_file;
pub mod snapshot;

pub use bodies::{Bodies, BodyError};
pub use carry::{CarryOver, DropOutcome, SegmentRange, SlowGroups};
pub use checkpoint::{AppliedMark, CheckpointError, CheckpointStore, CheckpointView};
pub use disk::{Disk, DiskFile, DiskUsage};
pub use identity::{Identity, IdentityError};
pub use log::{Log, LogError, LogOptions, LogStatus, Record, Spare, SpareTask};
pub use payload::{Offer, Payload, PayloadSource};
pub use reader::{EntryRecord, LogReader, ReadError};
pub use recovery::{Corruption, LostEntry, OpenError, RecoveredGroup, Recovery, TornTail};

/// Number of a Raft group: 0 is control, 1 and up are the partitions. Storage gives it no other meaning.
pub type Group = u32;

/// Index of an entry in the log of its group; the first is 1, 0 stands for "before the first".
pub type Index = u64;

/// Raft term of an entry or of a vote.
pub type Term = u64;

/// What a group's Raft state must not forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// Current term.
    pub term: Term,
    /// Node voted for in that term; 0 for none.
    pub vote: u64,
    /// Commit index.
    pub commit: Index,
}
