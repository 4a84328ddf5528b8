//! The lookout: whether nodes that are not cut off know a leader for each group, while others are.
//!
//! Owns: the thread that looks and notes. Does not: judge; a checker does.
//! Limits: one look in `LOOK_EVERY`, and as long as nodes take to answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_tests::pause;

use crate::cluster::{self, Cluster};
use crate::history::{HARNESS, Recorder, What};

/// Between two looks at leaders while nodes are cut off.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks again and again whether each group has a leader among the nodes that are not cut off, and notes it, until it is dropped.
pub struct Lookout {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lookout {
    /// Begins to look at the nodes that run and are not silenced.
    pub fn start(cluster: &Cluster, recorder: &Recorder, silenced: &[usize]) -> Lookout {
        let ended = Arc::new(AtomicBool::new(false));
        let nodes = cluster.nodes.iter().enumerate();
        let addresses: Vec<SocketAddr> = nodes
            .filter(|(place, node)| !silenced.contains(place) && node.runs())
            .map(|(_, node)| node.admin)
            .collect();
        let (end, recorder) = (ended.clone(), recorder.clone());
        // Where packets are lost, an answer that does not come is no leader that is not there.
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let led = cluster::led(&addresses, 1);
                recorder.note(HARNESS, What::Looked { led });
                let begin = Instant::now();
                while begin.elapsed() < LOOK_EVERY && !end.load(Ordering::Relaxed) {
                    pause();
                }
            }
        });
        Lookout { ended, thread: Some(thread) }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
