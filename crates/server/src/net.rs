//! Sockets: clients over TCP and WebSocket, other nodes over mutual TLS.
//!
//! Owns: listeners, links between nodes and their frames. Does not: know MQTT packets or consensus.

pub mod frame;
pub mod hello;
pub mod listener;
pub mod peer;
pub mod tls;
pub mod transport;
pub mod websocket;
