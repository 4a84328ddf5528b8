//! Sockets: clients over TCP, TLS, WebSocket and Unix sockets, other nodes over mutual TLS.
//!
//! Owns: listeners, what is spoken before MQTT, links between nodes and their frames. Does not: know MQTT packets or consensus.

pub mod arrival;
pub mod frame;
pub mod gate;
pub mod hello;
pub mod identity;
pub mod listener;
pub mod listener_tls;
pub mod peer;
pub mod proxy_header;
pub mod socket;
pub mod tls;
pub mod transport;
pub mod unix_socket;
pub mod websocket;
