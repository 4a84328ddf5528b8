//! One node of the cluster, without input or output: consensus groups, streams, routing, client sessions.
//!
//! Owns: [`Node`] (every Raft group of this node and all that speaks with its peers) and [`Client`] (all that
//! happens on behalf of one client connection). Both take events with `now` and give actions.
//! Does not: open sockets or files, read clocks, draw random numbers, start threads.
//! Invariants: what must be durable before it is sent is held back until the shell reports it persisted;
//! an acknowledgement of the durable path needs a [`Durable`] that only a committed entry can make.
//! Limits: see `limits`.
//! See: ARCHITECTURE.md, docs/decisions/0006-threads-and-runtime.md, docs/decisions/0007-streams-and-outbox.md.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod action;
mod bytes_io;
pub mod client;
pub mod consensus;
pub mod durable;
pub mod edge;
pub mod event;
pub mod limits;
pub mod machine;
pub mod node;
pub mod peer;
pub mod routing;
mod stream;
pub mod system_topics;
pub mod witness;

pub use action::Action;
pub use bytes_io::Malformed;
pub use client::{Client, ClientConfig, Context};
pub use consensus::log::{LogSource, Position, StoredEntry};
pub use durable::Durable;
pub use event::Event;
pub use node::{Node, NodeConfig, RestoredGroup, StartError};
/// Settings of the protocol machine within a [`Client`].
pub use quorate_connection::Config as ConnectionConfig;
pub use routing::{RouteMatch, Routing};
pub use system_topics::SystemTopics;
