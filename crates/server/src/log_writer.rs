//! The log writer thread: one append and one sync for everything that waits, whichever group it is of.
//!
//! Owns: the [`Log`]. Does not: decide what is written, or when a segment goes.
//! Invariants: a ticket is reported only after the sync that covers it; any failed write or sync ends the process at
//! once with exit code 74 and is never tried again; a full disk waits, until the node stops.
//! Limits: `LOG_BATCHES_MAX` jobs; one append takes what waits, up to `GROUP_COMMIT_BYTES`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use quorate_node::Event;
use quorate_node::action::LogRecord;
use quorate_state::{GroupId, LogIndex};
use quorate_storage::{
    CarryOver, DropOutcome, Group, HardState, Index, Log, LogError, LogStatus, Record, SegmentRange,
    SlowGroups, Spare,
};

use crate::exit::{ExitCode, chain, stop_now};
use crate::inbox::Inbox;
use crate::limits::FULL_DISK_PAUSE;
use crate::log_queue::QueuedBytes;
use crate::metrics::Metrics;
use crate::question::Question;
use crate::space::{Space, Stopping};

/// Bytes of entries that one append gathers at most, so that a sync never covers too much.
const GROUP_COMMIT_BYTES: usize = 8 * 1024 * 1024;

/// Work for the log writer.
pub enum LogJob {
    /// Append, and sync if asked; then report the ticket.
    Append {
        /// Ticket.
        ticket: u64,
        /// Records.
        records: Vec<LogRecord>,
        /// Whether they must be synced.
        sync: bool,
        /// What they count for until they are taken.
        queued: QueuedBytes,
    },
    /// The group's log begins anew after this index.
    Reset {
        /// Group.
        group: GroupId,
        /// Index.
        index: LogIndex,
        /// Its term.
        term: u64,
        /// Told when durable.
        done: SyncSender<()>,
    },
    /// Forget a group.
    RemoveGroup {
        /// Group.
        group: GroupId,
        /// Told when durable.
        done: SyncSender<()>,
    },
    /// There is a [`Shortening`] to be done.
    Shorten,
    /// Sync and end.
    Stop,
}

/// What the thread that shortens the log asks of its writer. It has a way of its own: while the log waits for room on a full disk it is what
/// may make some.
pub enum Shortening {
    /// Figures, and the oldest segment if it may go.
    Look(SyncSender<(LogStatus, Option<SegmentRange>)>),
    /// Prepare dropping a segment.
    BeginDrop {
        /// Its number.
        segment: u32,
        /// Up to where each group's checkpoint is durable.
        floors: BTreeMap<Group, Index>,
        /// What to do with groups that are behind.
        slow: SlowGroups,
        /// Answer.
        answer: SyncSender<Result<CarryOver, DropOutcome>>,
    },
    /// Drop the segment of a preparation whose bodies were copied; reports `Event::Compacted`.
    FinishDrop {
        /// The preparation.
        carry: CarryOver,
        /// The groups in the segment.
        groups: Vec<Group>,
        /// Answer.
        answer: SyncSender<DropOutcome>,
    },
}

/// The log writer.
pub struct LogWriter {
    log: Log,
    inbox: Arc<Inbox<Question>>,
    metrics: Arc<Metrics>,
    space: Arc<Space>,
    records: Vec<Record>,
    bytes: usize,
    ticket: u64,
    wants_sync: bool,
    spare: Option<JoinHandle<io::Result<Spare>>>,
    shortenings: Receiver<Shortening>,
}

impl LogWriter {
    /// A writer for this log.
    pub fn new(
        log: Log,
        inbox: Arc<Inbox<Question>>,
        metrics: Arc<Metrics>,
        space: Arc<Space>,
        shortenings: Receiver<Shortening>,
    ) -> Self {
        let (records, bytes, ticket, wants_sync, spare) = (Vec::new(), 0, 0, false, None);
        LogWriter { log, inbox, metrics, space, records, bytes, ticket, wants_sync, spare, shortenings }
    }

    /// Runs until told to stop, or until everyone who could tell is gone.
    pub fn run(mut self, jobs: &Receiver<LogJob>) {
        if let Err(Stopping) = self.work(jobs) {
            tracing::warn!("stopped while the disk was full: what was not acknowledged is not written");
            drop(self);
            // The worker and others end later, and may still hand something over.
            while jobs.recv().is_ok_and(|job| !matches!(job, LogJob::Stop)) {}
        }
    }

    fn work(&mut self, jobs: &Receiver<LogJob>) -> Result<(), Stopping> {
        while let Ok(first) = jobs.recv() {
            let mut next = Some(first);
            while let Some(job) = next {
                match job {
                    LogJob::Append { ticket, records, sync, .. } => self.gather(ticket, records, sync),
                    LogJob::Stop => {
                        self.commit()?;
                        if let Err(error) = self.log.sync() {
                            fail(&error);
                        }
                        return Ok(());
                    }
                    other => {
                        self.commit()?;
                        self.timed(|writer| writer.maintain(other))?;
                    }
                }
                // Whoever asks may have found no room in the queue for saying so. What was gathered is not written first: that may have to
                // wait for room, which only whoever asked here can make.
                while let Ok(job) = self.shortenings.try_recv() {
                    self.timed(|writer| writer.shorten(job));
                }
                next = if self.bytes < GROUP_COMMIT_BYTES { jobs.try_recv().ok() } else { None };
            }
            self.commit()?;
        }
        Ok(())
    }

    /// Does what writes to the disk as well, while appends wait behind it.
    fn timed<T>(&mut self, work: impl FnOnce(&mut LogWriter) -> T) -> T {
        let before = self.log.status();
        self.metrics.note_sync(Some(Instant::now()));
        let done = work(self);
        self.metrics.note_sync(None);
        self.count_since(&before);
        done
    }

    fn gather(&mut self, ticket: u64, records: Vec<LogRecord>, sync: bool) {
        self.ticket = ticket;
        self.wants_sync |= sync;
        for record in records {
            self.bytes += match &record {
                LogRecord::Entry { data, .. } => data.len(),
                LogRecord::HardState { .. } => 0,
            };
            self.records.push(record_of(record));
        }
    }

    /// Writes what was gathered.
    fn commit(&mut self) -> Result<(), Stopping> {
        if self.records.is_empty() && !self.wants_sync {
            return Ok(());
        }
        let began = Instant::now();
        self.metrics.note_sync(Some(began));
        let before = self.log.status();
        let records = std::mem::take(&mut self.records);
        self.patiently(|log| log.append(&records))?;
        self.records = records;
        if self.wants_sync {
            let sync_began = Instant::now();
            if let Err(error) = self.log.sync() {
                fail(&error);
            }
            self.metrics.log_fsync_time.observe(sync_began.elapsed());
            self.metrics.log_sync_time.observe(began.elapsed());
            self.inbox.report(Event::Persisted(self.ticket));
        }
        self.metrics.note_sync(None);
        self.count_since(&before);
        self.records.clear();
        self.bytes = 0;
        self.wants_sync = false;
        self.prepare_spare();
        Ok(())
    }

    /// Counts what was written since `before`.
    fn count_since(&self, before: &LogStatus) {
        let after = self.log.status();
        self.metrics.log_syncs.add(after.syncs.saturating_sub(before.syncs));
        self.metrics.log_bytes.add(after.record_bytes.saturating_sub(before.record_bytes));
        self.metrics.log_records.add(after.records.saturating_sub(before.records));
    }

    /// Writes to the log, and as long as there is no room for that, again: the reserve of the disk goes first.
    fn patiently(&mut self, mut write: impl FnMut(&mut Log) -> Result<(), LogError>) -> Result<(), Stopping> {
        let mut told = false;
        loop {
            match write(&mut self.log) {
                Ok(()) => {
                    self.metrics.log_waits_for_space.set(0);
                    return Ok(());
                }
                Err(LogError::NoSpace { .. }) if self.space.give_back() => (),
                Err(LogError::NoSpace { bytes }) => {
                    self.metrics.log_waits_for_space.set(1);
                    if !told {
                        tracing::error!(
                            bytes,
                            "the disk is full: nothing is acknowledged until there is room"
                        );
                        told = true;
                    }
                    self.wait_for_room()?;
                }
                Err(error) => fail(&error),
            }
        }
    }

    /// Lets time pass, or the log get shorter: nobody else may be able to make room.
    fn wait_for_room(&mut self) -> Result<(), Stopping> {
        match self.shortenings.recv_timeout(FULL_DISK_PAUSE) {
            Ok(job) => self.shorten(job),
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return self.space.pause(),
        }
        self.space.check()
    }

    /// Lets another thread fill the next segment with zeros, so that no append waits for it.
    fn prepare_spare(&mut self) {
        if let Some(filling) = self.spare.take_if(|filling| filling.is_finished()) {
            let spare =
                filling.join().unwrap_or_else(|_| Err(io::Error::other("the thread that fills it panicked")));
            self.log.supply_spare(spare);
        }
        if self.spare.is_none()
            && let Some(task) = self.log.spare_task()
        {
            match thread::Builder::new().name("spare".to_owned()).spawn(move || task.run()) {
                Ok(filling) => self.spare = Some(filling),
                Err(error) => self.log.supply_spare(Err(error)),
            }
        }
    }

    fn maintain(&mut self, job: LogJob) -> Result<(), Stopping> {
        match job {
            LogJob::Append { .. } | LogJob::Stop | LogJob::Shorten => (),
            LogJob::Reset { group, index, term, done } => {
                self.patiently(|log| log.reset_group(group.0, index.0, term))?;
                // Whoever asked may have ended.
                let _told = done.send(());
            }
            LogJob::RemoveGroup { group, done } => {
                self.patiently(|log| log.remove_group(group.0))?;
                // Whoever asked may have ended.
                let _told = done.send(());
            }
        }
        Ok(())
    }

    fn shorten(&mut self, job: Shortening) {
        // Whoever asked may have ended.
        match job {
            Shortening::Look(answer) => {
                let _told = answer.send((self.log.status(), self.log.droppable()));
            }
            Shortening::BeginDrop { segment, floors, slow, answer } => {
                let floor = |group: Group| floors.get(&group).copied().unwrap_or(0);
                let _told = answer.send(self.log.begin_drop(segment, &floor, slow));
            }
            Shortening::FinishDrop { carry, groups, answer } => {
                let _told = answer.send(self.finish_drop(carry, &groups));
            }
        }
    }

    fn finish_drop(&mut self, carry: CarryOver, groups: &[Group]) -> DropOutcome {
        let reader = self.log.reader();
        let firsts: Vec<(Group, Index)> =
            groups.iter().map(|group| (*group, reader.first_index(*group))).collect();
        let outcome = match self.log.finish_drop(carry) {
            Ok(outcome) => outcome,
            Err(LogError::NoSpace { .. }) => return DropOutcome::NotDroppable,
            Err(error) => fail(&error),
        };
        for (group, before) in firsts {
            let first = reader.first_index(group);
            let index = first.saturating_sub(1);
            if first > before
                && let Some(term) = reader.term(group, index)
            {
                self.inbox.report(Event::Compacted { group: GroupId(group), index: LogIndex(index), term });
            }
        }
        outcome
    }
}

/// A record as storage writes it.
pub fn record_of(record: LogRecord) -> Record {
    match record {
        LogRecord::Entry { group, index, term, entry_type, data, context } => {
            Record::Entry { group: group.0, index: index.0, term, entry_type, data, context }
        }
        LogRecord::HardState { group, term, vote, commit } => {
            Record::HardState { group: group.0, state: HardState { term, vote, commit } }
        }
    }
}

fn fail(error: &LogError) -> ! {
    let code = match error {
        LogError::Poisoned | LogError::Failed { .. } | LogError::NoSpace { .. } => ExitCode::Disk,
        // The next start decides what is to be done about damage that nobody can mend.
        LogError::Read(_) => ExitCode::Disk,
        LogError::Disconnected { .. } | LogError::TooLarge { .. } => ExitCode::Internal,
    };
    stop_now(code, &chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::Batch;
    use quorate_storage::disk::memory::MemoryDisk;
    use quorate_storage::{Disk, LogOptions};
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    const WAIT_MAX: Duration = Duration::from_secs(60);

    fn entry(index: u64) -> LogRecord {
        LogRecord::Entry {
            group: GroupId(1),
            index: LogIndex(index),
            term: 1,
            entry_type: 0,
            data: vec![7; 100].into(),
            context: bytes::Bytes::new(),
        }
    }

    fn append(ticket: u64, records: Vec<LogRecord>, sync: bool) -> LogJob {
        LogJob::Append { ticket, records, sync, queued: QueuedBytes::default() }
    }

    fn space() -> Arc<Space> {
        Arc::new(Space::open(Arc::new(MemoryDisk::new()), 0))
    }

    #[test]
    fn full_disk_holds_up_an_append_until_there_is_room_or_the_node_stops() {
        for stops in [false, true] {
            let disk = MemoryDisk::new();
            let options = LogOptions { segment_bytes: 8 << 10, spare_segments: 0, ..LogOptions::default() };
            let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
            let reader = log.reader();
            let space = Arc::new(Space::open(Arc::new(disk.clone()), 1 << 20));
            space.renew(u64::MAX, 0);
            // The reserve is enough for some segments, but not for all.
            let used = u64::MAX - disk.usage().unwrap().available_bytes;
            disk.limit_capacity(Some(used));
            let (inbox, metrics) = (Arc::new(Inbox::default()), Arc::new(Metrics::default()));
            let (sender, jobs) = sync_channel(100_000);
            for number in 1..=20_000 {
                let (records, sync) = (vec![entry(number)], number == 20_000);
                sender.send(append(number, records, sync)).unwrap();
            }
            let writer = LogWriter::new(log, inbox, metrics.clone(), space.clone(), sync_channel(1).1);
            let writing = thread::spawn(move || writer.run(&jobs));
            let begun = Instant::now();
            while metrics.log_waits_for_space.value() == 0 {
                assert!(begun.elapsed() < WAIT_MAX, "it does not wait");
                thread::yield_now();
            }
            assert!(!space.give_back(), "the reserve went first");
            if stops {
                space.stop();
            } else {
                disk.limit_capacity(None);
            }
            // The worker ends later than a writer that has given up, and has something to write until then.
            for number in [20_001, 20_002] {
                sender.send(append(number, Vec::new(), true)).expect("somebody takes it");
            }
            sender.send(LogJob::Stop).unwrap();
            writing.join().unwrap();
            assert_eq!(reader.last_index(1) == 20_000, !stops, "nothing is written by halves");
        }
    }

    #[test]
    fn log_that_has_filled_the_disk_itself_is_shortened_while_it_waits() {
        let disk = MemoryDisk::new();
        let (segment_bytes, kept_bytes) = (8 << 10, 64 << 10);
        let options = LogOptions { segment_bytes, kept_bytes, spare_segments: 0, ..LogOptions::default() };
        let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
        let reader = log.reader();
        disk.limit_capacity(Some(u64::MAX - disk.usage().unwrap().available_bytes + (128 << 10)));
        let (inbox, metrics) = (Arc::new(Inbox::default()), Arc::new(Metrics::default()));
        let (sender, jobs) = sync_channel(2);
        let feeding = thread::spawn(move || {
            for number in 1..=5000 {
                let records = vec![entry(number)];
                sender.send(append(number, records, true)).unwrap();
                // So that no batch is larger than the disk: what was gathered is written before it.
                if number % 20 == 0 {
                    sender.send(LogJob::Shorten).unwrap();
                }
            }
            sender.send(LogJob::Stop).unwrap();
        });
        let (asks, asked) = sync_channel(1);
        let space = Arc::new(Space::open(Arc::new(disk), 0));
        let writer = LogWriter::new(log, inbox, metrics.clone(), space, asked);
        let writing = thread::spawn(move || writer.run(&jobs));
        let mut dropped = 0;
        let begun = Instant::now();
        while !writing.is_finished() {
            assert!(begun.elapsed() < WAIT_MAX, "the log does not go on, {dropped} segments dropped");
            let (answer, look) = sync_channel(1);
            let Ok(()) = asks.send(Shortening::Look(answer)) else { break };
            let Ok((_, Some(range))) = look.recv_timeout(WAIT_MAX) else { continue };
            let floors = range.groups.iter().map(|(group, _, high)| (*group, *high)).collect();
            let (answer, begun) = sync_channel(1);
            let (segment, slow) = (range.segment, SlowGroups::Keep);
            let Ok(()) = asks.send(Shortening::BeginDrop { segment, floors, slow, answer }) else { break };
            let Ok(Ok(mut carry)) = begun.recv() else { continue };
            carry.copy_bodies(&|_, _| false).unwrap();
            let (answer, finished) = sync_channel(1);
            let Ok(()) = asks.send(Shortening::FinishDrop { carry, groups: vec![1], answer }) else { break };
            dropped += u64::from(matches!(finished.recv(), Ok(DropOutcome::Dropped { .. })));
        }
        feeding.join().unwrap();
        writing.join().unwrap();
        assert_eq!(reader.last_index(1), 5000);
        assert!(dropped > 10, "{dropped}");
    }

    #[test]
    fn question_that_comes_with_an_append_is_answered_before_it_waits_for_room() {
        let disk = MemoryDisk::new();
        let options = LogOptions { segment_bytes: 8 << 10, spare_segments: 0, ..LogOptions::default() };
        let (log, _) = Log::open(Arc::new(disk.clone()), options).unwrap();
        let reader = log.reader();
        disk.limit_capacity(Some(u64::MAX - disk.usage().unwrap().available_bytes));
        let (sender, jobs) = sync_channel(2);
        let records = (1..=1000).map(entry).collect();
        sender.send(append(1, records, true)).unwrap();
        sender.send(LogJob::Stop).unwrap();
        let ((asks, asked), (answer, answered)) = (sync_channel(1), sync_channel(1));
        asks.send(Shortening::Look(answer)).unwrap();
        let space = Arc::new(Space::open(Arc::new(disk.clone()), 0));
        let writer = LogWriter::new(log, Arc::new(Inbox::default()), Arc::default(), space, asked);
        let writing = thread::spawn(move || writer.run(&jobs));
        // Whoever would make room does nothing before the answer.
        answered.recv_timeout(WAIT_MAX).expect("an answer while the disk is full");
        disk.limit_capacity(None);
        writing.join().unwrap();
        assert_eq!(reader.last_index(1), 1000);
    }

    #[test]
    fn maintenance_that_hangs_shows_as_a_write_underway() {
        let (log, _) = Log::open(Arc::new(MemoryDisk::new()), LogOptions::default()).unwrap();
        let metrics = Arc::new(Metrics::default());
        let (sender, jobs) = sync_channel(10);
        // Nobody takes the answer, so that the job does not end.
        let (answer, answered) = sync_channel(0);
        let (asks, asked) = sync_channel(1);
        asks.send(Shortening::Look(answer)).unwrap();
        sender.send(LogJob::Shorten).unwrap();
        sender.send(LogJob::Stop).unwrap();
        let writer = LogWriter::new(log, Arc::new(Inbox::default()), metrics.clone(), space(), asked);
        let writing = thread::spawn(move || writer.run(&jobs));
        let begun = Instant::now();
        while metrics.sync_underway().is_none() {
            assert!(begun.elapsed() < WAIT_MAX, "no write underway");
            thread::yield_now();
        }
        answered.recv_timeout(WAIT_MAX).unwrap();
        writing.join().unwrap();
        assert_eq!(metrics.sync_underway(), None);
    }

    #[test]
    fn what_waits_is_written_with_one_sync_and_the_highest_ticket_reported() {
        let disk = Arc::new(MemoryDisk::new());
        let (log, _) = Log::open(disk, LogOptions::default()).unwrap();
        let reader = log.reader();
        let inbox = Arc::new(Inbox::default());
        let metrics = Arc::new(Metrics::default());
        let (sender, jobs) = sync_channel(10);
        for number in 1..=3 {
            sender.send(append(number, vec![entry(number)], number == 2)).unwrap();
        }
        sender.send(LogJob::Stop).unwrap();
        LogWriter::new(log, inbox.clone(), metrics.clone(), space(), sync_channel(1).1).run(&jobs);
        assert_eq!(metrics.log_syncs.value(), 1);
        assert_eq!(reader.last_index(1), 3);
        let mut batch = Batch::default();
        inbox.take(&mut batch, true, Instant::now());
        let reports: Vec<String> = batch.reports.iter().map(|report| format!("{report:?}")).collect();
        assert_eq!(reports, ["Persisted(3)"]);
    }
}
