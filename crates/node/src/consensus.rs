//! Raft groups: the engine, its log view, membership and wire form.
//!
//! Owns: everything that touches the consensus crate. Does not: know what commands mean.
//! Invariants: what Raft wants persisted before it is sent leaves only after `Group::persisted`.
//! Spec: Raft (Ongaro, 2014), with pre-vote, check-quorum and joint consensus.
//! See: docs/decisions/0002-consensus-engine.md.

mod catch_up;
pub mod group;
pub mod log;
pub mod membership;
pub mod wire;
