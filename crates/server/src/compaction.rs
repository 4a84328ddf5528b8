//! Shortening the log: the thread that lets old segments go.
//!
//! Owns: when a segment goes. Does not: know the state; what is alive and what is checkpointed is asked of the worker.
//! Invariants: bodies that are still referred to, by the state or by a backup that is being read, are durable elsewhere
//! before their segment goes.
//! Limits: one segment at a time; a group whose checkpoint does not move on within `CHECKPOINT_WAIT` gets its entries
//! copied to the head of the log instead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use quorate_state::{GroupId, LogIndex};
use quorate_storage::carry::CarryError;
use quorate_storage::{Bodies, DropOutcome, LogStatus, SegmentRange, SlowGroups};

use crate::cuts::Cuts;
use crate::exit::{ExitCode, chain, stop_now};
use crate::inbox::Inbox;
use crate::log_writer::{LogJob, Shortening};
use crate::metrics::Metrics;
use crate::question::{LiveIndex, Question, ask};
use crate::space::Space;

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a group may take to move its checkpoint on.
const CHECKPOINT_WAIT: Duration = Duration::from_secs(20);

/// How often body files are looked through for what is dead.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// The compaction thread.
pub struct Compaction {
    /// Log size above which segments go.
    pub log_bytes_target: u64,
    /// The log writer.
    pub log: SyncSender<LogJob>,
    /// What is asked of it.
    pub shortenings: SyncSender<Shortening>,
    /// The worker.
    pub inbox: Arc<Inbox<Question>>,
    /// Body files.
    pub bodies: Bodies,
    /// Room on the disk.
    pub space: Arc<Space>,
    /// Parts of a backup that are kept.
    pub cuts: Arc<Cuts>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Someone that is needed has ended: the node is stopping.
struct Ended;

impl Compaction {
    /// Runs until `stop` is disconnected or the others have ended.
    pub fn run(self, stop: &Receiver<()>) {
        let mut waiting_since: Option<Instant> = None;
        let mut swept = Instant::now();
        loop {
            let went = match self.look(&mut waiting_since) {
                Ok(went) => went,
                Err(Ended) => return,
            };
            if swept.elapsed() >= SWEEP_EVERY && self.bodies.file_count() > 0 {
                self.sweep();
                swept = Instant::now();
            }
            let pause = if went { Duration::ZERO } else { LOOK_EVERY };
            match stop.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => (),
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Lets the oldest segment go if the log is too long. True: one went, look again at once.
    fn look(&self, waiting_since: &mut Option<Instant>) -> Result<bool, Ended> {
        let (status, droppable): (LogStatus, Option<SegmentRange>) = self.log(Shortening::Look)?;
        self.metrics.log_size.set(status.segment_bytes);
        let Some(range) = droppable.filter(|_| status.segment_bytes > self.log_bytes_target) else {
            *waiting_since = None;
            return Ok(false);
        };
        let wanted: Vec<(GroupId, LogIndex)> =
            range.groups.iter().map(|(group, _, high)| (GroupId(*group), LogIndex(*high))).collect();
        let asked = wanted.clone();
        let floors =
            ask(&self.inbox, |answer| Question::Floors { wanted: asked, answer }).map_err(|_| Ended)?;
        let behind = wanted.iter().zip(&floors).any(|((_, high), floor)| floor < high);
        let since = *waiting_since.get_or_insert_with(Instant::now);
        if behind && since.elapsed() < CHECKPOINT_WAIT {
            return Ok(false);
        }
        *waiting_since = None;
        let slow = if behind { SlowGroups::CopyTail } else { SlowGroups::Keep };
        let floors: BTreeMap<u32, u64> =
            wanted.iter().zip(&floors).map(|((group, _), floor)| (group.0, floor.0)).collect();
        self.drop_segment(&range, floors, slow)
    }

    fn drop_segment(
        &self,
        range: &SegmentRange,
        floors: BTreeMap<u32, u64>,
        slow: SlowGroups,
    ) -> Result<bool, Ended> {
        let segment = range.segment;
        let begun = self.log(|answer| Shortening::BeginDrop { segment, floors, slow, answer })?;
        let Ok(mut carry) = begun else { return Ok(false) };
        let live = LiveIndex::new(self.inbox.clone());
        let needed = |group, index| self.is_needed(&live, group, index);
        if let Err(error) = carry.copy_bodies(&needed) {
            if matches!(&error, CarryError::Write(error) if error.is_no_space()) {
                // Nothing was dropped, and what was copied is not copied again: the next look goes on from there.
                self.space.give_back();
                return Ok(false);
            }
            stop_now(ExitCode::Disk, &chain(&error));
        }
        if live.is_incomplete() {
            return Err(Ended);
        }
        let groups = range.groups.iter().map(|(group, _, _)| *group).collect();
        match self.log(|answer| Shortening::FinishDrop { carry, groups, answer })? {
            DropOutcome::Dropped { body_bytes, entries_moved } => {
                self.metrics.segments_freed.add(1);
                tracing::debug!(segment, body_bytes, entries_moved, "log segment freed");
                Ok(true)
            }
            DropOutcome::Pinned { .. } | DropOutcome::NotDroppable => Ok(false),
        }
    }

    /// Lets body files go that nothing refers to any more.
    fn sweep(&self) {
        let live = LiveIndex::new(self.inbox.clone());
        match self.bodies.sweep(&|group, index| self.is_needed(&live, group, index)) {
            Ok(outcome) => tracing::debug!(
                files_unlinked = outcome.files_unlinked,
                freed_bytes = outcome.bytes_freed,
                rewritten_bytes = outcome.bytes_rewritten,
                "body files looked through"
            ),
            // What was to be merged stays where it is.
            Err(error) if error.is_no_space() => {
                tracing::warn!("no room to merge body files: the next sweep tries again")
            }
            Err(error) => stop_now(ExitCode::Disk, &chain(&error)),
        }
    }

    /// Whether a body is alive, or part of a backup may refer to it. The worker is asked first: what it says to be dead it
    /// says after it has told of the cuts that it applied before.
    fn is_needed(&self, live: &LiveIndex, group: u32, index: u64) -> bool {
        live.contains(GroupId(group), LogIndex(index)) || self.cuts.are_kept()
    }

    fn log<T>(&self, job: impl FnOnce(SyncSender<T>) -> Shortening) -> Result<T, Ended> {
        let (sender, receiver) = sync_channel(1);
        self.shortenings.send(job(sender)).map_err(|_| Ended)?;
        // Where the queue is full the writer has work, and looks after each job.
        if let Err(TrySendError::Disconnected(_)) = self.log.try_send(LogJob::Shorten) {
            return Err(Ended);
        }
        receiver.recv().map_err(|_| Ended)
    }
}
