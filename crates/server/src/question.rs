//! Questions that only the worker can answer, because it owns the node.
//!
//! Owns: [`Question`]. Does not: answer. Limits: bounded by the inbox; a question whose asker has gone is answered in vain.

use quorate_node::node::{Clause, NodeStatus};
use tokio::sync::oneshot;

/// A question to the worker.
pub enum Question {
    /// State of the node; with a hash of each group's state if asked.
    Status {
        /// Compute state hashes, which reads all state.
        with_hash: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<NodeStatus>,
    },
    /// Whether the node may take traffic.
    Readiness(oneshot::Sender<Vec<Clause>>),
}
