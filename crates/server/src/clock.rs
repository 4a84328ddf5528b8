//! Time of this process: monotonic, from its start. The pure crates get it as a `Duration`.
//!
//! Owns: the start. Does not: know the wall clock.

use std::time::{Duration, Instant};

/// The clock of this process.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.0.elapsed()
    }

    /// When `time` since the start will be, for timers.
    pub fn instant(&self, time: Duration) -> Instant {
        // Far beyond any timer when the sum does not fit.
        self.0.checked_add(time).unwrap_or_else(|| self.0 + Duration::from_secs(365 * 24 * 3600))
    }
}
