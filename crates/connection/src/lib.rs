//! The protocol machine of one client connection, server side, without input or output.
//!
//! Owns: [`Connection`]: handshake, keep-alive, flow control both ways, topic aliases both ways, packet sizes, and the
//! order of acknowledgements.
//! Does not: open sockets, read clocks, know sessions, subscriptions or other connections.
//! Invariants: CONNACK comes before anything else; PUBACKs leave in the order of their PUBLISHes; a closed connection
//! sends nothing more.
//! Limits: [`Config`]. Spec: MQTT 3.1, 3.1.1 and 5.0, chapters 3 and 4.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod close;
mod config;
mod connection;
mod flow_control;
mod handshake;
mod keep_alive;
pub mod limits;
mod observer;
mod timer;
mod topic_alias;
mod traffic;

pub use close::CloseCause;
pub use config::Config;
pub use connection::{Accept, Connection, Delivery, Event, NotSent, Reading};
pub use flow_control::PublishToken;
pub use observer::PacketRecord;
pub use timer::Timer;
pub use traffic::Traffic;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
