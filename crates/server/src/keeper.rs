//! The keeper thread: checkpoints, snapshots to install, incarnations.
//!
//! Owns: the checkpoint store's writes and the identity file. Does not: touch the log; it asks the log writer.
//! Invariants: what is reported is durable; a failed write ends the process at once with exit code 74; before a write it waits for
//! room, and an identity that found none is written again.
//! Limits: `KEEPER_JOBS_MAX` jobs; snapshots are sent by tasks of their own.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use quorate_node::Event;
use quorate_state::{BackupId, GroupId, Incarnation, LogIndex, NodeId};
use quorate_storage::{AppliedMark, Bodies, CheckpointError, CheckpointStore, Disk, Identity};

use crate::cuts::Cuts;
use crate::exit::{ExitCode, chain, stop_now};
use crate::inbox::Inbox;
use crate::log_writer::LogJob;
use crate::metrics::Metrics;
use crate::net::peer::Local;
use crate::question::Question;
use crate::snapshots::{SnapshotMessage, SnapshotSender, Staged};
use crate::space::{Space, Stopping};

/// Bytes of records read at once when a checkpoint is loaded.
pub const LOAD_CHUNK_BYTES: usize = 1024 * 1024;

/// Work for the keeper.
pub enum KeeperJob {
    /// Write a checkpoint.
    Checkpoint {
        /// Group.
        group: GroupId,
        /// Applied index.
        index: LogIndex,
        /// Its term.
        term: u64,
        /// Membership.
        conf_state: Vec<u8>,
        /// Changed records.
        changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
        /// Keep a view of it for this backup.
        keep_for: Option<BackupId>,
    },
    /// Send the group's checkpoint to a peer.
    SendSnapshot {
        /// Receiver.
        to: NodeId,
        /// Group.
        group: GroupId,
        /// What announces it.
        message: SnapshotMessage,
    },
    /// Put the staged snapshot in force.
    InstallSnapshot {
        /// Group.
        group: GroupId,
        /// Index.
        index: LogIndex,
        /// Its term.
        term: u64,
    },
    /// Begin a new incarnation.
    NewIncarnation,
    /// Forget a group.
    RemoveGroup(GroupId),
    /// End.
    Stop,
}

impl KeeperJob {
    /// Whether the keeper has the log do something then that comes after all that was given to it before.
    pub fn comes_after_log(&self) -> bool {
        matches!(self, KeeperJob::InstallSnapshot { .. } | KeeperJob::RemoveGroup(_))
    }
}

/// The keeper.
pub struct Keeper {
    /// Checkpoints of all groups.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Body files.
    pub bodies: Bodies,
    /// Snapshots that were received whole.
    pub staged: Arc<Staged>,
    /// Sends snapshots; none on a single node.
    pub sender: Option<SnapshotSender>,
    /// Identity of the node.
    pub identity: Identity,
    /// Where the identity file is.
    pub disk: Arc<dyn Disk>,
    /// Room on that disk.
    pub space: Arc<Space>,
    /// What peers are told.
    pub local: Arc<Local>,
    /// The log writer.
    pub log: SyncSender<LogJob>,
    /// Parts of a backup.
    pub cuts: Arc<Cuts>,
    /// Reports.
    pub inbox: Arc<Inbox<Question>>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Keeper {
    /// Runs until told to stop, or until everyone who could tell is gone.
    pub fn run(mut self, jobs: &Receiver<KeeperJob>) {
        if let Err(Stopping) = self.work(jobs) {
            tracing::warn!("stopped while the disk was full: a checkpoint is not written");
            drop(self);
            // The worker and others end later, and may still hand something over.
            while jobs.recv().is_ok_and(|job| !matches!(job, KeeperJob::Stop)) {}
        }
    }

    fn work(&mut self, jobs: &Receiver<KeeperJob>) -> Result<(), Stopping> {
        while let Ok(job) = jobs.recv() {
            match job {
                KeeperJob::Checkpoint { group, index, term, conf_state, changes, keep_for } => {
                    // The index store cannot go on after a write that found no room.
                    self.space.wait_for(room_of(&changes))?;
                    let mark = AppliedMark { index: index.0, term, conf_state };
                    let result = self.checkpoints.write(group.0, &mark, changes);
                    result.unwrap_or_else(|error| fail(&error));
                    self.metrics.checkpoints.add(1);
                    if let Some(backup) = keep_for {
                        self.keep_part(backup, group);
                    }
                    self.inbox.report(Event::Checkpointed { group, index });
                }
                KeeperJob::SendSnapshot { to, group, message } => match &self.sender {
                    Some(sender) => sender.send(to, group, message),
                    None => self.inbox.report(Event::SnapshotSent { to, group, delivered: false }),
                },
                KeeperJob::InstallSnapshot { group, index, term } => {
                    self.space.wait_for(0)?;
                    self.install(group, index, term);
                }
                KeeperJob::NewIncarnation => self.new_incarnation()?,
                KeeperJob::RemoveGroup(group) => {
                    self.space.wait_for(0)?;
                    self.remove(group);
                }
                KeeperJob::Stop => return Ok(()),
            }
        }
        Ok(())
    }

    /// The checkpoint just written is a part of a backup.
    fn keep_part(&self, backup: BackupId, group: GroupId) {
        match self.checkpoints.view(group.0) {
            Ok(Some(part)) => self.cuts.keep(backup, group, part),
            Ok(None) => tracing::error!(group = group.0, "a checkpoint that was written is not there"),
            Err(error) => fail(&error),
        }
    }

    fn install(&self, group: GroupId, index: LogIndex, term: u64) {
        let Some(mark) = self.staged.take(group) else {
            stop_now(ExitCode::Internal, "a snapshot is to be installed that was not received");
        };
        if (mark.index, mark.term) != (index.0, term) {
            stop_now(ExitCode::Internal, "the snapshot to be installed is not the one that was received");
        }
        self.checkpoints.commit_install(group.0, &mark).unwrap_or_else(|error| fail(&error));
        let (done, told) = sync_channel(1);
        if self.log.send(LogJob::Reset { group, index, term, done }).is_err() || told.recv().is_err() {
            return; // The log writer has ended: the node is stopping, and does this again at its next start.
        }
        self.bodies.settle(group.0);
        let records = load(self.checkpoints.as_ref(), group).unwrap_or_else(|error| fail(&error));
        self.metrics.snapshots_installed.add(1);
        tracing::info!(group = group.0, log_index = index.0, "snapshot installed");
        self.inbox.report(Event::SnapshotInstalled { group, index, records });
    }

    fn new_incarnation(&mut self) -> Result<(), Stopping> {
        let incarnation = loop {
            match self.identity.next_incarnation(self.disk.as_ref()) {
                Ok(incarnation) => break Incarnation(incarnation),
                Err(error) if error.is_no_space() => self.space.pause()?,
                Err(error) => stop_now(ExitCode::Disk, &chain(&error)),
            }
        };
        let tell = || self.local.update(|hello| hello.incarnation = incarnation);
        match &self.sender {
            Some(sender) => sender.links.begin_anew(tell),
            None => tell(),
        }
        tracing::warn!(incarnation = incarnation.0, "this node was declared down and begins anew");
        self.inbox.report(Event::Incarnation(incarnation));
        Ok(())
    }

    /// The log first: a checkpoint without a log is a replica that starts, and is forgotten again; a log without a checkpoint is
    /// damage.
    fn remove(&self, group: GroupId) {
        let (done, told) = sync_channel(1);
        if self.log.send(LogJob::RemoveGroup { group, done }).is_err() || told.recv().is_err() {
            tracing::debug!(group = group.0, "the log writer ended before it could forget a group");
            return;
        }
        self.checkpoints.remove(group.0).unwrap_or_else(|error| fail(&error));
        if let Err(error) = self.bodies.remove_group(group.0) {
            stop_now(ExitCode::Disk, &chain(&error));
        }
        tracing::info!(group = group.0, "the replica is forgotten: its group is on other nodes");
        self.inbox.report(Event::GroupRemoved(group));
    }
}

/// Bytes that a checkpoint may take: its journal, and the same again when that is flushed.
fn room_of(changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> u64 {
    let bytes = changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
    u64::try_from(bytes.sum::<usize>()).unwrap_or(u64::MAX).saturating_mul(2)
}

/// All records of a group's checkpoint.
pub fn load(store: &dyn CheckpointStore, group: GroupId) -> Result<Vec<(Bytes, Bytes)>, CheckpointError> {
    let mut records = Vec::new();
    if let Some(mut view) = store.view(group.0)? {
        loop {
            let chunk = view.next_chunk(LOAD_CHUNK_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            records.extend(chunk);
        }
    }
    Ok(records)
}

/// Ends the process: the index store takes nothing any more. What is damaged in it the next start decides about.
pub fn fail(error: &CheckpointError) -> ! {
    let code = match error {
        CheckpointError::Version { .. } => ExitCode::Corrupt,
        CheckpointError::Behind { .. } | CheckpointError::NotInstalling { .. } => ExitCode::Internal,
        CheckpointError::Corrupt { .. }
        | CheckpointError::Store { .. }
        | CheckpointError::Open(_)
        | CheckpointError::Injected { .. } => ExitCode::Disk,
    };
    stop_now(code, &chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DISK_KEPT_BYTES;
    use crate::net::hello::{Hello, LinkKind};
    use quorate_storage::checkpoint::MemoryCheckpoints;
    use quorate_storage::disk::memory::MemoryDisk;
    use quorate_storage::{Log, LogOptions};
    use std::thread;

    const MIB: usize = 1 << 20;

    /// Lets a keeper do its jobs on a disk that has room for so many MiB of a checkpoint, until `then` makes more or ends
    /// it; gives the mark and the incarnation that are durable then.
    fn work(room_mib: u64, then: impl FnOnce(&MemoryDisk, &Space)) -> (Option<u64>, u64) {
        let disk = MemoryDisk::new();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let name = "n1".to_owned();
        let (node_id, incarnation, disk_uuid) = (1, 1, [7; 16]);
        let identity =
            Identity { node_id, incarnation, disk_uuid, cluster_id: String::new(), node_name: name.clone() };
        identity.create(shared.as_ref()).unwrap();
        let (log, _) = Log::open(shared.clone(), LogOptions::default()).unwrap();
        let checkpoints = Arc::new(MemoryCheckpoints::new());
        let space = Arc::new(Space::open(shared.clone(), 0));
        let hello = Hello {
            link: LinkKind::Probe,
            cluster: name.clone(),
            agreement: [0; 16],
            cluster_id: [0; 16],
            name,
            id: NodeId(1),
            disk: disk_uuid,
            incarnation: Incarnation(1),
            members: Vec::new(),
        };
        let keeper = Keeper {
            checkpoints: checkpoints.clone(),
            bodies: log.bodies(),
            staged: Arc::default(),
            sender: None,
            identity,
            disk: shared.clone(),
            space: space.clone(),
            local: Arc::new(Local::new(hello)),
            log: sync_channel(1).0,
            cuts: Arc::default(),
            inbox: Arc::default(),
            metrics: Arc::default(),
        };
        let used = u64::MAX - shared.usage().unwrap().available_bytes;
        disk.limit_capacity(Some(used + DISK_KEPT_BYTES + (room_mib << 20)));
        let (sender, jobs) = sync_channel(1);
        let changes = vec![(vec![1], Some(vec![7; MIB]))];
        let (group, index, conf_state) = (GroupId(1), LogIndex(5), Vec::new());
        let checkpoint = KeeperJob::Checkpoint { group, index, term: 1, conf_state, changes, keep_for: None };
        let working = thread::spawn(move || keeper.run(&jobs));
        // Not all fit into the queue: they are taken also when the keeper has given up.
        let giving = thread::spawn(move || {
            for job in [checkpoint, KeeperJob::NewIncarnation, KeeperJob::NewIncarnation, KeeperJob::Stop] {
                sender.send(job).unwrap();
            }
        });
        then(&disk, &space);
        giving.join().unwrap();
        working.join().unwrap();
        let mark = checkpoints.mark(1).unwrap().map(|mark| mark.index);
        (mark, Identity::load(shared.as_ref()).unwrap().unwrap().incarnation)
    }

    #[test]
    fn checkpoint_waits_for_room_for_itself_and_the_rest_or_for_the_end() {
        assert_eq!(work(3, |_, _| ()), (Some(5), 3), "there is room");
        assert_eq!(work(1, |disk, _| disk.limit_capacity(None)), (Some(5), 3), "later");
        assert_eq!(work(1, |_, space| space.stop()), (None, 1), "never");
    }
}
