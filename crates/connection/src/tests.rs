//! The rules of a connection, by their statements.

mod close;
mod delivery;
mod exactly_once;
mod handshake;
mod observer;
mod publish;
mod random;
mod timers;
