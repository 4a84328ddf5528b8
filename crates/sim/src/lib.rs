//! Deterministic simulation of a whole cluster: the second composition root beside the daemon.
//!
//! Owns: worlds made of the real codec, connection, state, node and log code on a simulated disk, network and clock,
//! with model clients; the invariants they are judged by. Does not: hold any logic of the broker.
//! Invariants: one thread per world, all chance from one seed: the same seed gives the same run to the last event.
//! See: docs/simulation.md.
#![cfg_attr(test, allow(clippy::unwrap_used))]
// A simulator is a test: what cannot happen ends it, with the seed that makes it happen again. Its numbers are small.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod client;
mod features;
mod invariants;
pub mod ledger;
pub mod marks;
mod mutant;
mod network;
mod oracle;
mod payload;
mod random;
pub mod runner;
mod workload;
mod world;
