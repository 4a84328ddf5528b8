//! Black-box tests on the real binary: a cluster of separate processes, clients that others wrote.
//!
//! Owns: starting, killing and restarting nodes ([`Cluster`]), and small clients ([`client`]). The tests are in `tests/`.
//! Does not: look into the broker; it sees processes, sockets, files and the admin API.
//! Limits: every wait has a deadline and waits for a condition.

pub mod client;
mod cluster;

pub use cluster::{Cluster, Node};

use std::time::{Duration, Instant};

/// The longest any condition may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
///
/// # Errors
/// When it does not within [`DEADLINE`]; `what` says what was waited for.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        anyhow::ensure!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} for {what}");
        // The only pause of these tests: between two looks at a condition.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(Duration::from_millis(20));
    }
}
