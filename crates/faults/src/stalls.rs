//! How long this machine keeps a thread waiting that has nothing to do but look at the clock.
//!
//! Owns: the thread that looks. Does not: judge.
//! Invariants: a machine that has other work makes nodes look dead that are not; without knowing, a run would blame them.
//! Limits: it sees what happens to the harness; a node may fare better or worse.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_tests::pause;

/// A pause is this long by itself.
const PAUSE: Duration = Duration::from_millis(20);

/// Looks until it is dropped.
pub struct Stalls {
    longest_us: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    /// Begins to look.
    pub fn watch() -> Stalls {
        let (longest_us, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (longest, end) = (longest_us.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let begin = Instant::now();
                pause();
                let late = begin.elapsed().saturating_sub(PAUSE);
                longest.fetch_max(u64::try_from(late.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Stalls { longest_us, ended, thread: Some(thread) }
    }

    /// The longest since the last call.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.longest_us.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
