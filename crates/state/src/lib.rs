//! The replicated state machines: what every replica of a group computes alike.
//!
//! Owns: the state of a partition ([`Partition`]) and of the control group ([`Control`]), the commands that
//! change them and the effects that come out.
//! Does not: replicate, persist, send, read a clock or draw a random number. Time is the stamp in the entry.
//! Invariants: `apply` is total and deterministic: equal state and equal entry give equal state and equal effects.
//! Limits: see `limits`. Every change to what is encoded here is a format change.
//! See: docs/decisions/0001-session-homed-partitions.md, docs/formats/entry.md.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod command;
pub mod config;
pub mod control;
pub mod effect;
pub mod entry;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod machine;
pub mod partition;
pub mod topic_trie;

mod delivery;
mod dispatch;
mod displaced;
mod drops;
mod encode;
mod expiry;
mod group_state;
mod hold;
mod identifiers;
mod inbound;
mod inflight;
mod live;
mod membership;
mod outbox;
mod queue;
mod record;
mod reply;
mod retained;
mod session;
mod share;
mod stream;
mod subscription;
#[cfg(test)]
mod testing;
mod will;
mod wire;

pub use command::{Batch, Command, LeaderCommand, Message, PublishTarget, Segment, ShareMember, Will};
pub use config::{Overflow, PartitionConfig};
pub use control::{ClusterConfig, Control, LEVEL, NodeStatus};
pub use effect::{Effect, Reply};
pub use entry::{BatchBuilder, BatchView};
pub use ids::*;
pub use machine::Machine;
pub use outbox::OutboxItem;
pub use partition::{
    Counts, InflightDetail, NO_SESSION, OldestInflight, Partition, SessionDetail, SessionInfo, SessionRef,
    ShareInfo, ShareMemberInfo,
};
pub use record::RestoreError;
pub use retained::{RetainedItem, RetainedSlice};
pub use topic_trie::TopicTrie;
pub use wire::DecodeError;
