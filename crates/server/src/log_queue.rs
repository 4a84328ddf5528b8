//! The worker's end of the queue to the log writer.
//!
//! Owns: what the worker has given and the queue has had no room for. Does not: write.
//! Invariants: batches reach the log in their order; whoever gives another thread work that the log must see later calls
//! [`LogQueue::flush`] before. A disk that hangs does not stop the worker: it must go on to hand over what it leads.
//! Limits: `LOG_BATCHES_MAX` batches in the queue, then `LOG_WAITING_BYTES_MAX` in one that is put together; then the worker waits.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use quorate_node::action::LogRecord;

use crate::exit::{ExitCode, stop_now};
use crate::limits::LOG_WAITING_BYTES_MAX;
use crate::log_writer::LogJob;
use crate::worker_beat::WorkerBeat;

/// The queue.
pub struct LogQueue {
    jobs: SyncSender<LogJob>,
    beat: Arc<WorkerBeat>,
    waiting: Option<Waiting>,
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
        LogQueue { jobs, beat, waiting: None }
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
        if self.waiting.as_ref().is_some_and(|waiting| waiting.bytes > LOG_WAITING_BYTES_MAX) {
            self.flush();
        }
    }

    /// Hands over what waits if there is room by now. To be called in every turn.
    pub fn offer(&mut self) {
        let Some(Waiting { ticket, records, sync, bytes }) = self.waiting.take() else { return };
        match self.jobs.try_send(LogJob::Append { ticket, records, sync }) {
            Ok(()) => {}
            Err(TrySendError::Full(LogJob::Append { ticket, records, sync })) => {
                self.waiting = Some(Waiting { ticket, records, sync, bytes });
            }
            Err(_) => ended(),
        }
    }

    /// Hands over what waits, however long that takes.
    pub fn flush(&mut self) {
        let Some(Waiting { ticket, records, sync, .. }) = self.waiting.take() else { return };
        let job = LogJob::Append { ticket, records, sync };
        if self.beat.at_disk(|| self.jobs.send(job)).is_err() {
            ended();
        }
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
        let LogJob::Append { ticket, records, sync } = taken.try_recv().ok()? else { panic!("an append") };
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
    fn worker_waits_when_too_much_does() {
        let (mut queue, taken) = queue(1);
        queue.append(1, entry(1, 10), false);
        queue.append(2, entry(2, 10), false);
        assert!(queue.waiting.is_some());
        let writer = std::thread::spawn(move || {
            let taken: Vec<u64> = taken
                .iter()
                .map(|job| if let LogJob::Append { ticket, .. } = job { ticket } else { 0 })
                .collect();
            taken
        });
        queue.append(3, entry(3, LOG_WAITING_BYTES_MAX), true);
        assert!(queue.waiting.is_none(), "it was handed over");
        drop(queue);
        let tickets = writer.join().unwrap();
        assert_eq!((tickets.first(), tickets.last()), (Some(&1), Some(&3)));
    }
}
