//! The worker's end of the queue to the log writer.
//!
//! Owns: what the worker has given and the queue has had no room for. Does not: write.
//! Invariants: batches reach the log in their order; whoever gives another thread work that the log must see later waits until
//! [`LogQueue::is_empty`]. A disk that hangs or is full does not stop the worker: it must go on to hand over what it leads, and to say
//! which parts of the log may go.
//! Limits: `LOG_BATCHES_MAX` batches or `LOG_QUEUE_BYTES_MAX` in the queue, then as many bytes in one batch that is put together; then
//! the worker waits for `LOG_WAIT_MAX`, and after that the log is full: what comes on top is for the node to bound, which is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use quorate_node::action::LogRecord;

use crate::exit::{ExitCode, stop_now};
use crate::limits::{LOG_QUEUE_BYTES_MAX, LOG_WAIT_MAX};
use crate::log_writer::LogJob;
use crate::worker_beat::WorkerBeat;

/// How often a worker that waits looks for room.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The queue.
pub struct LogQueue {
    jobs: SyncSender<LogJob>,
    beat: Arc<WorkerBeat>,
    waiting: Option<Waiting>,
    is_full: bool,
    /// Bytes that are on their way to the writer.
    queued: Arc<AtomicUsize>,
}

/// What a batch counts for until the writer has taken it.
#[derive(Default)]
pub struct QueuedBytes {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Batches that are to be appended as one.
struct Waiting {
    ticket: u64,
    records: Vec<LogRecord>,
    sync: bool,
    bytes: usize,
}

/// What a record takes, about.
fn bytes_of(record: &LogRecord) -> usize {
    let content = match record {
        LogRecord::Entry { data, context, .. } => data.len() + context.len(),
        LogRecord::HardState { .. } => 0,
    };
    size_of::<LogRecord>() + content
}

impl LogQueue {
    /// Before this writer.
    pub fn new(jobs: SyncSender<LogJob>, beat: Arc<WorkerBeat>) -> LogQueue {
        LogQueue { jobs, beat, waiting: None, is_full: false, queued: Arc::default() }
    }

    /// Has records appended after all that were given before.
    pub fn append(&mut self, ticket: u64, records: Vec<LogRecord>, sync: bool) {
        let more: usize = records.iter().map(bytes_of).sum();
        match &mut self.waiting {
            Some(waiting) => {
                waiting.ticket = ticket;
                waiting.records.extend(records);
                waiting.sync |= sync;
                waiting.bytes += more;
            }
            None => self.waiting = Some(Waiting { ticket, records, sync, bytes: more }),
        }
        self.offer();
        if !self.is_full && self.waiting.as_ref().is_some_and(|waiting| waiting.bytes > LOG_QUEUE_BYTES_MAX) {
            self.wait();
        }
    }

    /// Holds the worker up until there is room, for a disk that is merely slow: then what comes from peers and clients slows down.
    #[expect(
        clippy::disallowed_methods,
        reason = "a queue of the standard library does not tell when it has room"
    )]
    fn wait(&mut self) {
        let begun = Instant::now();
        let beat = self.beat.clone();
        beat.at_disk(|| {
            while self.waiting.is_some() && begun.elapsed() < LOG_WAIT_MAX {
                thread::sleep(LOOK_EVERY);
                self.offer();
            }
        });
        self.is_full = self.waiting.is_some();
    }

    /// Whether too much waits, and the log did not take it for a while.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether all that was given is on its way to the log.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    /// Hands over what waits if there is room by now. To be called in every turn.
    pub fn offer(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let queued = self.queued.load(Ordering::Relaxed);
        // A batch that is larger than the bound goes alone.
        if queued > 0 && queued + waiting.bytes > LOG_QUEUE_BYTES_MAX {
            self.waiting = Some(waiting);
            return;
        }
        let bytes = waiting.bytes;
        match self.jobs.try_send(self.job(waiting)) {
            Ok(()) => self.is_full = false,
            Err(TrySendError::Full(LogJob::Append { ticket, records, sync, .. })) => {
                self.waiting = Some(Waiting { ticket, records, sync, bytes });
            }
            Err(_) => ended(),
        }
    }

    /// Hands over what waits, however long that takes.
    pub fn flush(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let job = self.job(waiting);
        if self.beat.at_disk(|| self.jobs.send(job)).is_err() {
            ended();
        }
    }

    fn job(&self, waiting: Waiting) -> LogJob {
        let Waiting { ticket, records, sync, bytes } = waiting;
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        let queued = QueuedBytes { bytes, all: Arc::clone(&self.queued) };
        LogJob::Append { ticket, records, sync, queued }
    }
}

/// The thread ends only after the worker, or takes the process with it.
fn ended() -> ! {
    stop_now(ExitCode::Internal, "a thread of the node ended before its worker")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use bytes::Bytes;
    use quorate_state::{GroupId, LogIndex};

    use super::*;
    use crate::clock::Clock;

    fn entry(index: u64, bytes: usize) -> Vec<LogRecord> {
        let data = Bytes::from(vec![0; bytes]);
        let context = Bytes::new();
        vec![LogRecord::Entry {
            group: GroupId(1),
            index: LogIndex(index),
            term: 1,
            entry_type: 0,
            data,
            context,
        }]
    }

    fn queue(room: usize) -> (LogQueue, Receiver<LogJob>) {
        let (jobs, taken) = sync_channel(room);
        (LogQueue::new(jobs, Arc::new(WorkerBeat::new(Clock::start()))), taken)
    }

    /// Ticket, indexes and whether to sync of the next job, if there is one.
    fn next(taken: &Receiver<LogJob>) -> Option<(u64, Vec<u64>, bool)> {
        let LogJob::Append { ticket, records, sync, .. } = taken.try_recv().ok()? else {
            panic!("an append")
        };
        let index = |record: &LogRecord| match record {
            LogRecord::Entry { index, .. } => index.0,
            LogRecord::HardState { .. } => 0,
        };
        Some((ticket, records.iter().map(index).collect(), sync))
    }

    #[test]
    fn full_queue_does_not_hold_the_worker_and_keeps_the_order() {
        let (mut queue, taken) = queue(2);
        for ticket in 1..=5 {
            queue.append(ticket, entry(ticket, 10), ticket == 4);
        }
        assert_eq!(next(&taken), Some((1, vec![1], false)));
        queue.offer();
        assert_eq!(next(&taken), Some((2, vec![2], false)));
        assert_eq!(next(&taken), Some((5, vec![3, 4, 5], true)), "as one, synced when one of them is to be");
        assert_eq!(next(&taken), None);
        queue.append(6, entry(6, 10), false);
        assert_eq!(next(&taken), Some((6, vec![6], false)));
    }

    #[test]
    fn queue_takes_so_many_bytes_and_a_larger_batch_alone() {
        let (mut queue, taken) = queue(64);
        let half = LOG_QUEUE_BYTES_MAX / 2;
        for ticket in 1..=3 {
            queue.append(ticket, entry(ticket, half), false);
        }
        assert_eq!(next(&taken), Some((1, vec![1], false)), "it and another one are too much together");
        assert!(!queue.is_empty());
        queue.offer();
        assert_eq!(next(&taken), Some((3, vec![2, 3], false)));
        queue.append(4, entry(4, LOG_QUEUE_BYTES_MAX * 2), false);
        assert_eq!(next(&taken), Some((4, vec![4], false)));
    }

    #[test]
    fn worker_waits_when_too_much_does() {
        let (mut queue, taken) = queue(1);
        queue.append(1, entry(1, 10), false);
        queue.append(2, entry(2, 10), false);
        assert!(!queue.is_empty());
        let writer = thread::spawn(move || {
            let taken: Vec<u64> = taken
                .iter()
                .map(|job| if let LogJob::Append { ticket, .. } = job { ticket } else { 0 })
                .collect();
            taken
        });
        queue.append(3, entry(3, LOG_QUEUE_BYTES_MAX), true);
        queue.flush();
        drop(queue);
        let tickets = writer.join().unwrap();
        assert_eq!((tickets.first(), tickets.last()), (Some(&1), Some(&3)));
    }

    #[test]
    fn log_that_takes_nothing_is_full_until_it_does_and_holds_the_worker_up_once() {
        let (mut queue, taken) = queue(1);
        queue.append(1, entry(1, 10), false);
        queue.append(2, entry(2, LOG_QUEUE_BYTES_MAX), false);
        assert!(queue.is_full() && !queue.is_empty(), "nobody takes anything");
        // With a wait for each of these the test would not end.
        for ticket in 3..100_000 {
            queue.append(ticket, entry(ticket, 0), ticket == 99_999);
        }
        assert_eq!(next(&taken), Some((1, vec![1], false)));
        assert!(queue.is_full());
        queue.offer();
        assert!(!queue.is_full() && queue.is_empty());
        assert_eq!(next(&taken), Some((99_999, (2..100_000).collect(), true)), "nothing is left out");
    }
}
