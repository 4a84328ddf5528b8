//! From a data folder to a node that can run.
//!
//! Owns: the order of a start: lock, identity, founding, log, checkpoints, incarnation.
//! Does not: open sockets, start threads.
//! Invariants: the incarnation is durable before anything is done under it; a first start becomes one with the
//! founding file, which is written last; a group whose checkpoint is ahead of its log is reset, as after a snapshot.
//! See: docs/operations/bootstrap.md.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_node::Position;
use quorate_node::node::{Node, RestoredGroup};
use quorate_node::witness::Older;
use quorate_state::{CONTROL, Control, GroupId, Incarnation, LogIndex, NodeId};
use quorate_storage::checkpoint::IndexStore;
use quorate_storage::disk::os::OsDisk;
use quorate_storage::identity::DirectoryLock;
use quorate_storage::{
    AppliedMark, BodyError, CheckpointError, CheckpointStore, Disk, HardState, Identity, IdentityError, Log,
    LogError, LogOptions, LostEntry, OpenError, Record, Recovery, identity,
};
use rustls::crypto::SecureRandom;

use crate::backup::restored::{Restored, RestoredError};
use crate::config::{Config, StorageSettings};
use crate::damaged::{self, Damaged, DamagedError};
use crate::exit::ExitCode;
use crate::founding::{Founding, FoundingError, Settings};
use crate::keeper::load;
use crate::limits::LOG_KEPT_BYTES;

/// Folder of the index store in the data folder.
const CHECKPOINTS: &str = "checkpoints";

/// Folder of the log.
const LOG: &str = "log";

/// Folder of body files.
const BODIES: &str = "bodies";

/// Folder of second copies of heads and tables.
const COPIES: &str = "copies";

/// A node could not start from its data folder.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The folder cannot be used.
    #[error("open the data folder {folder}: {source}")]
    Folder {
        /// Folder.
        folder: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The system has no random numbers.
    #[error("draw random numbers for a new identity")]
    Random,
    /// The identity file.
    #[error("establish the identity of the node: {0}")]
    Identity(#[from] IdentityError),
    /// The folder is another node's.
    #[error("the data folder belongs to node {found}, and the configuration says {configured}")]
    OtherNode {
        /// Name in the identity file.
        found: String,
        /// Name in the configuration.
        configured: String,
    },
    /// The founding file, or the agreement.
    #[error(transparent)]
    Founding(#[from] FoundingError),
    /// The log.
    #[error("open the log")]
    Log(#[from] OpenError),
    /// The log, at the first write.
    #[error("write the log at the first start")]
    LogWrite(#[from] LogError),
    /// The checkpoints.
    #[error("open the checkpoints")]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint is older than the one after which the log was shortened.
    #[error(
        "the checkpoint of group {group} is at {checkpoint}, and its log begins after {start}: a newer one is lost"
    )]
    CheckpointLost {
        /// Group.
        group: GroupId,
        /// Index of the checkpoint; 0: there is none.
        checkpoint: u64,
        /// The log begins after this index.
        start: u64,
    },
    /// The payload of an entry is damaged, and no other node has it.
    #[error("entry {index} of group {group} is damaged, and no other node has it")]
    EntryLost {
        /// Group.
        group: u32,
        /// Index.
        index: u64,
    },
    /// A damaged record cannot be written again.
    #[error("write a damaged record again: {source}")]
    MendWrite {
        /// Cause.
        source: std::io::Error,
    },
    /// Another node has seen more of this one than is on its disk.
    #[error(
        "the disk is older than the last run of the node, as {witness} says: {older}; an old image was restored, or the disk has lost \
         writes that it had confirmed"
    )]
    Older {
        /// Who says so.
        witness: String,
        /// What is missing.
        older: Older,
    },
    /// What was restored into the folder.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// What is set aside.
    #[error(transparent)]
    Damaged(#[from] DamagedError),
    /// The state is damaged and the configuration names no other node.
    #[error(
        "the node's state is damaged (see damaged.json), and cluster.bootstrap names no other node to get it from: add one, or \
         see replace-node.md"
    )]
    DamagedAlone,
    /// The log is gone although the node has run.
    #[error("the node has run before, but its log is gone: this disk must not be used again as it is")]
    LogGone,
}

impl BootError {
    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            BootError::Folder { .. } | BootError::OtherNode { .. } | BootError::Random => {
                ExitCode::Unavailable
            }
            BootError::Identity(error) => match error {
                IdentityError::Corrupt | IdentityError::Missing { .. } => ExitCode::Corrupt,
                IdentityError::Io { .. } => ExitCode::Disk,
                IdentityError::Locked | IdentityError::Exists | IdentityError::NameTooLong { .. } => {
                    ExitCode::Unavailable
                }
            },
            BootError::Founding(error) => match error {
                FoundingError::Disk { .. } => ExitCode::Disk,
                FoundingError::Corrupt(_) => ExitCode::Corrupt,
                FoundingError::Disagree(_) | FoundingError::NotRestored { .. } => ExitCode::Config,
                FoundingError::Unknown { .. } | FoundingError::Late { .. } => ExitCode::Unavailable,
            },
            BootError::Restored(error) => error.exit_code(),
            BootError::Damaged(error) => error.exit_code(),
            BootError::Log(
                OpenError::Io { .. } | OpenError::Begin(_) | OpenError::Bodies(BodyError::Io { .. }),
            )
            | BootError::LogWrite(_)
            | BootError::MendWrite { .. } => ExitCode::Disk,
            BootError::Log(_) | BootError::LogGone | BootError::DamagedAlone => ExitCode::Corrupt,
            BootError::Checkpoint(CheckpointError::Version { .. })
            | BootError::CheckpointLost { .. }
            | BootError::EntryLost { .. }
            | BootError::Older { .. } => ExitCode::Corrupt,
            BootError::Checkpoint(error) if error.is_damage() => ExitCode::Corrupt,
            BootError::Checkpoint(_) => ExitCode::Disk,
        }
    }

    /// Whether the state of the node's groups is damaged, so that only the other nodes can give it back. Who the node is and
    /// in which cluster must be whole for that: those files are no part of it.
    pub fn is_damage(&self) -> bool {
        match self {
            BootError::Log(error) => error.is_damage(),
            BootError::Checkpoint(error) => error.is_damage(),
            BootError::CheckpointLost { .. } | BootError::EntryLost { .. } | BootError::Older { .. } => true,
            _ => false,
        }
    }
}

/// How long a start waits for the lock of its folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How often it looks.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(50);

/// A data folder that this process has to itself.
pub struct DataFolder {
    /// The folder as a disk.
    pub disk: Arc<dyn Disk>,
    /// Who the node is; its incarnation is the last one, not yet a new one.
    pub identity: Identity,
    /// What the first nodes agreed on; `None` on a fresh disk.
    pub founding: Option<Founding>,
    /// The backup that was restored into the folder; `None` without one, and once the node has started.
    pub restored: Option<Restored>,
    /// What is damaged, from when it was found until the node has joined anew.
    pub damaged: Option<Damaged>,
    /// What was damaged, if this start has joined anew for it.
    pub joined_anew: Option<Damaged>,
    /// Most memory for recent log entries, whatever is configured.
    pub cache_bytes_max: u64,
    path: PathBuf,
    _lock: DirectoryLock,
}

/// What storage has.
pub struct Recovered {
    /// The log.
    pub log: Log,
    /// The checkpoints.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// The groups, for the node.
    pub groups: Vec<RestoredGroup>,
    /// Entries whose record is damaged, and not yet written again.
    pub lost: Vec<LostEntry>,
}

impl Recovered {
    /// Whether the group cannot start without this entry: its checkpoint does not have what the entry says.
    pub fn needs(&self, lost: &LostEntry) -> bool {
        self.groups.iter().any(|group| group.group.0 == lost.group && group.checkpoint.index < lost.index)
    }

    /// A group has another checkpoint by now, which came from another node.
    pub fn restore_again(&mut self, group: GroupId) -> Result<(), BootError> {
        for known in self.groups.iter_mut().filter(|known| known.group == group) {
            let (term, vote, commit) = known.hard_state;
            let hard_state = HardState { term, vote, commit };
            let restored = restore(&mut self.log, hard_state, self.checkpoints.as_ref(), group)?;
            if let Some(restored) = restored {
                *known = restored;
            }
        }
        Ok(())
    }

    /// Entries that stay lost are not for others: a follower that needs one of them gets a snapshot.
    pub fn do_without(&mut self, lost: &LostEntry) {
        for group in self.groups.iter_mut().filter(|group| group.group.0 == lost.group) {
            if group.start.index < lost.index && lost.index <= group.checkpoint.index {
                group.start = Position { index: lost.index, term: lost.term };
            }
        }
    }
}

/// Takes the folder, patiently: a node that was killed holds its lock until the system has taken the process apart, and
/// is often started again before that.
#[expect(
    clippy::disallowed_methods,
    reason = "nobody is told when a lock is let go: it is looked at until a deadline"
)]
fn lock(disk: &dyn Disk) -> Result<DirectoryLock, IdentityError> {
    let begun = Instant::now();
    loop {
        match identity::lock(disk) {
            Err(IdentityError::Locked) if begun.elapsed() < LOCK_WAIT => std::thread::sleep(LOCK_LOOK_EVERY),
            taken => return taken,
        }
    }
}

/// A random number.
pub fn random<const N: usize>() -> Result<[u8; N], BootError> {
    let mut bytes = [0; N];
    let source: &dyn SecureRandom = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| BootError::Random)?;
    Ok(bytes)
}

impl DataFolder {
    /// Opens the folder; gives an empty one an identity.
    pub fn open(path: &Path, node_name: &str) -> Result<DataFolder, BootError> {
        let disk =
            OsDisk::new(path).map_err(|source| BootError::Folder { folder: path.to_owned(), source })?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let lock = lock(disk.as_ref())?;
        let identity = match Identity::load(disk.as_ref())? {
            Some(identity) => identity,
            None => {
                let identity = Identity {
                    node_id: 0,
                    incarnation: 0,
                    disk_uuid: random()?,
                    cluster_id: String::new(),
                    node_name: node_name.to_owned(),
                };
                identity.create(disk.as_ref())?;
                identity
            }
        };
        if identity.node_name != node_name {
            let (found, configured) = (identity.node_name, node_name.to_owned());
            return Err(BootError::OtherNode { found, configured });
        }
        let founding = Founding::read(disk.as_ref())?;
        let restored = if founding.is_none() { Restored::read(disk.as_ref())? } else { None };
        let damaged = Damaged::read(disk.as_ref())?;
        Ok(DataFolder {
            disk,
            identity,
            founding,
            restored,
            damaged,
            joined_anew: None,
            cache_bytes_max: u64::MAX,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Settings of the cluster that this node, which has not started yet, is to found: those of its configuration, or of the
    /// backup that was restored.
    pub fn first_settings(&self, config: &Config) -> Result<Settings, BootError> {
        Ok(match &self.restored {
            Some(restored) => restored.settings(config)?,
            None => Settings::of(config),
        })
    }

    /// Makes the first state of all groups durable, then the founding file: the node has started.
    pub fn found(&mut self, founding: Founding, settings: &StorageSettings) -> Result<(), BootError> {
        if let Some(restored) = self.restored.take() {
            return self.found_restored(founding, &restored, settings);
        }
        let me = self.member(&founding)?;
        let (mut log, _) = self.open_log(settings)?;
        let checkpoints = self.open_checkpoints()?;
        // What an earlier attempt left behind says nothing: it did not get to its end.
        for group in checkpoints.groups()? {
            checkpoints.remove(group)?;
        }
        let nodes = founding.first_records();
        let partition = founding.settings().partition_config();
        for group in Node::bootstrap_groups(&founding.cluster_config(), &partition, &nodes, me) {
            let (number, first) = (group.group.0, group.checkpoint);
            let mark =
                AppliedMark { index: first.index, term: first.term, conf_state: group.conf_state.to_vec() };
            let changes =
                group.records.iter().map(|(key, value)| (key.to_vec(), Some(value.to_vec()))).collect();
            checkpoints.write(number, &mark, changes)?;
            log.reset_group(number, first.index, first.term)?;
            let (term, vote, commit) = group.hard_state;
            log.append(&[Record::HardState { group: number, state: HardState { term, vote, commit } }])?;
        }
        log.sync()?;
        founding.write(self.disk.as_ref())?;
        self.founding = Some(founding);
        Ok(())
    }

    /// As [`Self::found`], with the restored state of all groups instead of an empty one. A second attempt comes to the same
    /// state as the first one would have, whatever that has done.
    fn found_restored(
        &mut self,
        founding: Founding,
        restored: &Restored,
        settings: &StorageSettings,
    ) -> Result<(), BootError> {
        let me = self.member(&founding)?;
        self.identity.raise_incarnation(self.disk.as_ref(), restored.incarnation())?;
        let (mut log, _) = self.open_log(settings)?;
        let checkpoints = self.open_checkpoints()?;
        let gone = |group: GroupId| RestoredError::GroupGone(group.0);
        let mark = checkpoints.mark(CONTROL.0)?.ok_or(gone(CONTROL))?;
        let control = Control::restore(LogIndex(mark.index), load(checkpoints.as_ref(), CONTROL)?)
            .map_err(RestoredError::Control)?;
        let mut nodes = founding.first_records();
        nodes.iter_mut().for_each(|node| node.incarnation = Incarnation(restored.incarnation()));
        let control = control.refounded(founding.cluster_config(), &nodes, NodeId(restored.last_node()));
        let groups = (0..=founding.settings().partitions()).map(GroupId);
        let (placed, elsewhere): (Vec<_>, Vec<_>) =
            groups.partition(|group| control.placement(*group).contains(&me));
        for group in placed {
            let mark = checkpoints.mark(group.0)?.ok_or(gone(group))?;
            let conf_state = Node::first_membership(control.placement(group)).to_vec();
            let mark = AppliedMark { conf_state, ..mark };
            if group == CONTROL {
                checkpoints.begin_install(group.0)?;
                checkpoints.put_chunk(group.0, control.records().collect())?;
                checkpoints.commit_install(group.0, &mark)?;
            } else {
                checkpoints.write(group.0, &mark, Vec::new())?;
            }
            log.reset_group(group.0, mark.index, mark.term)?;
            let state = HardState { term: mark.term, vote: 0, commit: mark.index };
            log.append(&[Record::HardState { group: group.0, state }])?;
        }
        log.sync()?;
        for group in elsewhere {
            checkpoints.remove(group.0)?;
            log.remove_group(group.0)?;
            log.bodies().remove_group(group.0).map_err(OpenError::Bodies)?;
        }
        founding.write(self.disk.as_ref())?;
        self.founding = Some(founding);
        Ok(())
    }

    /// Takes the identity that control gave to this disk: the node has started, without any state yet.
    pub fn take_identity(
        &mut self,
        id: NodeId,
        founding: Founding,
        settings: &StorageSettings,
    ) -> Result<(), BootError> {
        self.identity.node_id = id.0;
        self.identity.next_incarnation(self.disk.as_ref())?;
        // What an attempt to found a cluster left behind says nothing.
        let (mut log, recovery) = self.open_log(settings)?;
        for group in recovery.groups.keys() {
            log.remove_group(*group)?;
            log.bodies().remove_group(*group).map_err(OpenError::Bodies)?;
        }
        log.sync()?;
        let checkpoints = self.open_checkpoints()?;
        for group in checkpoints.groups()? {
            checkpoints.remove(group)?;
        }
        founding.write(self.disk.as_ref())?;
        self.founding = Some(founding);
        Ok(())
    }

    /// Begins a new incarnation and brings storage back.
    pub fn recover(
        &mut self,
        founding: &Founding,
        settings: &StorageSettings,
    ) -> Result<Recovered, BootError> {
        let me = self.member(founding)?;
        self.identity.node_id = me.0;
        self.identity.cluster_id = crate::founding::hex(&founding.cluster_id());
        self.identity.next_incarnation(self.disk.as_ref())?;
        // Asked before the log is opened: that would make one, and the next start would take it for the node's own.
        if !self.has_log()? {
            return Err(BootError::LogGone);
        }
        let (mut log, recovery) = self.open_log(settings)?;
        if let Some(torn) = &recovery.torn_tail {
            tracing::info!(
                segment = torn.segment,
                offset = torn.offset,
                "unsynced records of the last run dropped"
            );
        }
        let checkpoints = self.open_checkpoints()?;
        let known = checkpoints.groups()?;
        // A replica has a checkpoint before its log begins, and its log is forgotten before its checkpoint is.
        if let Some((group, log)) =
            recovery.groups.iter().find(|(group, log)| log.last > 0 && !known.contains(group))
        {
            return Err(BootError::CheckpointLost {
                group: GroupId(*group),
                checkpoint: 0,
                start: log.floor,
            });
        }
        checkpoints.remove_orphans()?;
        let mut groups = Vec::new();
        for group in known {
            let hard_state =
                recovery.groups.get(&group).and_then(|group| group.hard_state).unwrap_or_default();
            groups.extend(restore(&mut log, hard_state, checkpoints.as_ref(), GroupId(group))?);
        }
        if !groups.iter().any(|group| group.group == CONTROL) {
            // A node that joined and has yet to get its first snapshot.
            groups.push(RestoredGroup::empty(CONTROL));
        }
        if recovery.damaged_records > 0 {
            tracing::warn!(
                records = recovery.damaged_records,
                lost = recovery.lost.len(),
                "the log has damaged records; what they were is known, and lost payloads are asked of the other nodes"
            );
        }
        Ok(Recovered { log, checkpoints, groups, lost: recovery.lost })
    }

    /// Notes that the state of the groups is damaged. From now on every start asks the cluster to take the node in anew, as
    /// another node on another disk: it no longer knows what it promised.
    pub fn give_up(&mut self, reason: &str) -> Result<(), BootError> {
        let damaged = Damaged::new(self.identity.node_id, random()?, reason);
        damaged.write(self.disk.as_ref())?;
        self.damaged = Some(damaged);
        Ok(())
    }

    /// The log of a node whose state is damaged; `None` if it is gone.
    pub fn open_remains(&self, settings: &StorageSettings) -> Result<Option<Log>, BootError> {
        if !self.has_log()? {
            return Ok(None);
        }
        Ok(Some(self.open_log(settings)?.0))
    }

    /// Sets aside what is damaged and takes the new identity. Broken off, it is done again: control knows the new disk by then.
    pub fn begin_anew(
        &mut self,
        damaged: &Damaged,
        id: NodeId,
        founding: Founding,
        settings: &StorageSettings,
    ) -> Result<(), BootError> {
        if self.identity.disk_uuid != damaged.new_disk() {
            damaged.keep_identity(&self.path)?;
            self.identity.disk_uuid = damaged.new_disk();
            self.identity.incarnation = 0;
        }
        damaged.set_aside(&self.path, &[LOG, BODIES, COPIES, CHECKPOINTS])?;
        self.identity.cluster_id = crate::founding::hex(&founding.cluster_id());
        self.take_identity(id, founding, settings)?;
        damaged.settle(&self.path)?;
        self.joined_anew = self.damaged.take();
        Ok(())
    }

    /// Folders with damaged state that are kept.
    pub fn damaged_kept(&self) -> Result<Vec<String>, BootError> {
        Ok(damaged::kept(&self.path)?)
    }

    fn has_log(&self) -> Result<bool, BootError> {
        let folder = self.path.join(LOG);
        let failed = |source| BootError::Folder { folder: folder.clone(), source };
        match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(error)),
            Ok(names) => {
                for name in names {
                    if name.map_err(failed)?.file_name().to_string_lossy().starts_with("segment-") {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Removes what an attempt to start or to restore has left behind; only for a folder whose node has not started.
    pub(crate) fn clear(&self) -> Result<(), BootError> {
        for name in [LOG, BODIES, COPIES, CHECKPOINTS] {
            let folder = self.path.join(name);
            match std::fs::remove_dir_all(&folder) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(BootError::Folder { folder, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn member(&self, founding: &Founding) -> Result<NodeId, BootError> {
        if self.identity.node_id != 0 {
            return Ok(NodeId(self.identity.node_id));
        }
        let members = founding.members();
        let own = members.iter().find(|member| member.disk == self.identity.disk_uuid);
        let own =
            own.ok_or_else(|| FoundingError::Unknown { cluster: founding.settings().cluster().to_owned() })?;
        Ok(own.id)
    }

    /// The log and its bodies.
    pub(crate) fn open_log(&self, settings: &StorageSettings) -> Result<(Log, Recovery), BootError> {
        let options = LogOptions {
            segment_bytes: settings.segment_bytes,
            cache_bytes: settings.body_cache_bytes.min(self.cache_bytes_max),
            salt: u64::from_le_bytes(random()?),
            directory: LOG.to_owned(),
            bodies_directory: BODIES.to_owned(),
            copies_directory: COPIES.to_owned(),
            kept_bytes: LOG_KEPT_BYTES,
            ..LogOptions::default()
        };
        Ok(Log::open(self.disk.clone(), options)?)
    }

    /// The checkpoints.
    pub(crate) fn open_checkpoints(&self) -> Result<Arc<IndexStore>, BootError> {
        Ok(Arc::new(IndexStore::open(&self.path.join(CHECKPOINTS))?))
    }
}

/// A group as storage has it; `None` if its checkpoint is gone.
fn restore(
    log: &mut Log,
    hard_state: HardState,
    checkpoints: &dyn CheckpointStore,
    group: GroupId,
) -> Result<Option<RestoredGroup>, BootError> {
    let Some(mark) = checkpoints.mark(group.0)? else { return Ok(None) };
    let reader = log.reader();
    if reader.term(group.0, mark.index) != Some(mark.term) && mark.index >= reader.first_index(group.0) {
        // The process ended between putting a snapshot in force and telling the log.
        tracing::info!(
            group = group.0,
            log_index = mark.index,
            "log begins anew after an installed snapshot"
        );
        log.reset_group(group.0, mark.index, mark.term)?;
    }
    let start = reader.first_index(group.0).saturating_sub(1);
    if start > mark.index {
        return Err(BootError::CheckpointLost { group, checkpoint: mark.index, start });
    }
    Ok(Some(RestoredGroup {
        group,
        hard_state: (hard_state.term, hard_state.vote, hard_state.commit),
        conf_state: Bytes::from(mark.conf_state),
        checkpoint: Position { index: mark.index, term: mark.term },
        start: Position { index: start, term: reader.term(group.0, start).unwrap_or(0) },
        last: LogIndex(reader.last_index(group.0).max(start)),
        committed_elsewhere: Position::default(),
        records: load(checkpoints, group)?,
    }))
}
