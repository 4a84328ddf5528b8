//! A sign of life of the worker: when it last began a turn, and whether it waits for the disk.
//!
//! Owns: [`WorkerBeat`]. Does not: judge how long is too long; `admin::health` does.
//! Invariants: a worker that waits for the disk is not silent, however long that takes: it is the disk that does not answer, and a
//! process that is started anew would wait as well. Only the worker writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// When the worker last showed that it works.
pub struct WorkerBeat {
    clock: Clock,
    /// In milliseconds of `clock`.
    at_ms: AtomicU64,
    waits_for_disk: AtomicBool,
}

impl WorkerBeat {
    /// Of a worker that starts now.
    pub fn new(clock: Clock) -> WorkerBeat {
        let beat = WorkerBeat { clock, at_ms: AtomicU64::new(0), waits_for_disk: AtomicBool::new(false) };
        beat.beat();
        beat
    }

    /// The worker works.
    pub fn beat(&self) {
        let now_ms = u64::try_from(self.clock.now().as_millis()).unwrap_or(u64::MAX);
        self.at_ms.store(now_ms, Ordering::Release);
    }

    /// Does something that ends only when the disk answers: reads it, or waits for a thread that writes to it.
    pub fn at_disk<T>(&self, work: impl FnOnce() -> T) -> T {
        self.waits_for_disk.store(true, Ordering::Release);
        let done = work();
        // In this order: whoever sees that the wait has ended sees the beat after it.
        self.beat();
        self.waits_for_disk.store(false, Ordering::Release);
        done
    }

    /// Whether the worker waits for the disk now.
    pub fn waits_for_disk(&self) -> bool {
        self.waits_for_disk.load(Ordering::Acquire)
    }

    /// For how long there has been no sign of life; zero while the worker waits for the disk.
    pub fn silent_for(&self) -> Duration {
        if self.waits_for_disk() {
            return Duration::ZERO;
        }
        let at = Duration::from_millis(self.at_ms.load(Ordering::Acquire));
        self.clock.now().saturating_sub(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_for_the_disk_is_no_silence_and_its_end_is_a_sign_of_life() {
        let beat = WorkerBeat::new(Clock::start());
        let silent = |limit: Duration| {
            while beat.silent_for() < limit {
                std::thread::yield_now();
            }
        };
        silent(Duration::from_millis(20));
        beat.at_disk(|| {
            assert!(beat.waits_for_disk());
            assert_eq!(beat.silent_for(), Duration::ZERO);
        });
        assert!(!beat.waits_for_disk());
        let after = beat.at_ms.load(Ordering::Acquire);
        assert!(after >= 20, "the end of the wait counts from {after} ms");
    }
}
