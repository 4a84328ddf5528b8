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
pub mod control;
pub mod effect;
pub mod ids;
pub mod partition;
pub mod topic_trie;

pub use command::{Batch, Command, Message, Segment};
pub use effect::{Effect, Reply};
pub use ids::*;
