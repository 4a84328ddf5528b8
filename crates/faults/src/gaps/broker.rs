//! What a broker of three nodes must be able to do, to be measured side by side with others.
//!
//! Owns: that. Does not: choose a node or a fault. Invariants: all nodes end with the value.
//! Limits: every wait has a deadline.

use std::net::SocketAddr;

use anyhow::Result;

use crate::volume::Volume;

/// A running broker.
pub trait Broker {
    /// MQTT listeners, in order of nodes.
    fn listeners(&self) -> Vec<SocketAddr>;

    /// Client identifiers of durable subscribers: whatever has a leader of its own in the way of a publish has one of them at least.
    fn subscribers(&self) -> Vec<String>;

    /// For each subscriber the node that leads what an acknowledged publish for it was written to.
    ///
    /// # Errors
    /// When no node knows a leader.
    fn leaders(&self) -> Result<Vec<usize>>;

    /// Waits until all nodes are ready, replicas have caught up, and leadership has come to rest.
    ///
    /// # Errors
    /// When they do not in time.
    fn wait_whole(&mut self) -> Result<()>;

    /// Process identifier of a node.
    ///
    /// # Errors
    /// When it does not run.
    fn pid(&self, place: usize) -> Result<u32>;

    /// kill -9 of a node; gives the proof.
    ///
    /// # Errors
    /// When its process is still there.
    fn kill(&mut self, place: usize) -> Result<String>;

    /// Starts a node that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    fn start(&mut self, place: usize) -> Result<()>;

    /// Moves leadership away from a node as an operator would; gives the proof.
    ///
    /// # Errors
    /// When it leads still.
    fn transfer(&mut self, place: usize) -> Result<String>;

    /// The node may lead again.
    ///
    /// # Errors
    /// When the broker refuses.
    fn lead_again(&mut self, place: usize) -> Result<()>;

    /// The volume that holds a node's data.
    ///
    /// # Errors
    /// When it is in a plain folder.
    fn volume(&mut self, place: usize) -> Result<&mut Volume>;
}
