//! Black-box tests on the real binary: a cluster of separate processes, clients that others wrote.
//!
//! Owns: starting, killing and restarting nodes ([`Cluster`]), one node with a configuration of its own ([`Serve`]); faults of
//! the machine under it ([`fault`]); clients of a library ([`client`], [`load`]) and by hand
//! ([`raw`]); the judgement over a load ([`audit`]). The tests are in `tests/`.
//! Does not: look into the broker; it sees processes, sockets, files and the admin API.
//! Limits: every wait has a deadline and waits for a condition.

pub mod audit;
mod binary;
pub mod client;
mod cluster;
pub mod event_loop;
pub mod fault;
pub mod http;
pub mod line;
pub mod load;
pub mod message;
pub mod raw;
pub mod relay;
mod serve;

pub use binary::binary;
pub use cluster::{Cluster, Node};
pub use serve::Serve;

use std::time::{Duration, Instant};

/// The longest any condition may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `condition` gives a value.
///
/// # Errors
/// When it does not within [`DEADLINE`]; `what` says what was waited for.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    wait_at_most(DEADLINE, what, condition)
}

/// Waits until `condition` gives a value, with another deadline.
///
/// # Errors
/// When it does not within `deadline`; `what` says what was waited for.
pub fn wait_at_most<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        anyhow::ensure!(start.elapsed() < deadline, "waited {deadline:?} for {what}");
        pause();
    }
}

/// The only pause of these tests: between two looks at a condition.
#[allow(clippy::disallowed_methods)]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Lets time pass while something else goes on, a load for instance.
pub fn let_pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        pause();
    }
}
