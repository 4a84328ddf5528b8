//! The rules of a connection, by their statements.

mod close;
mod delivery;
mod handshake;
mod publish;
mod random;
mod timers;
