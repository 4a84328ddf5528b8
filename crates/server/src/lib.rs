//! The daemon as a library: configuration, sockets, TLS, threads, admin HTTP around the pure node.
//!
//! Owns: everything of `quorate serve` that touches the operating system. Does not: decide anything about messages,
//! sessions or consensus; `quorate-node` does. Entry points: [`serve`], [`config::load`], [`daemon::Daemon`].
//! Invariants: all queues are bounded and say what happens when full; whoever starts a thread or task ends it.
//! Limits: see `limits`. See: ARCHITECTURE.md, docs/decisions/0006-threads-and-runtime.md.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

pub mod admin;
pub mod backup;
mod base64;
pub mod boot;
mod client_config;
pub mod clock;
pub mod compaction;
pub mod config;
pub mod connection_task;
pub mod cuts;
pub mod daemon;
pub mod damaged;
pub mod departure;
pub mod edge;
pub mod event_loop;
pub mod events;
pub mod exit;
pub mod founding;
pub mod inbox;
pub mod inquiry;
pub mod join;
pub mod keeper;
pub mod large_packets;
pub mod limits;
mod log_queue;
pub mod log_source;
pub mod log_writer;
pub mod logging;
pub mod lookout;
pub mod mailbox;
mod memory;
pub mod metrics;
pub mod net;
mod notify;
pub mod operations;
pub mod peers;
mod publish_times;
pub mod question;
pub mod reload;
mod repair;
pub mod room;
mod serve;
pub mod snapshots;
pub mod space;
pub mod sys;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod traces;
mod witness;
mod worker_beat;

pub use serve::{ServeError, ServeOptions, serve};
