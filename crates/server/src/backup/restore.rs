//! `restore`: puts a backup into the empty data folder of a first node of a new cluster.
//!
//! Owns: the order of the steps. Does not: start the node; its first start completes what is put in place here.
//! Invariants: nothing is touched before the head of the file fits the configuration; from the first step in the folder to the last
//! one the folder says that a restore is underway, and no node starts from it; it may be repeated until the node has started.
//! Limits: the records of control in memory, and while the file is verified those of one group.
//! See: docs/operations/backup.md, docs/decisions/0033-restore.md.

use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use quorate_state::{CONTROL, Control, Incarnation, LogIndex, RestoreError};
use quorate_storage::{AppliedMark, Bodies, BodyError, CheckpointError, CheckpointStore, IdentityError};

use crate::backup::content::{BackupContent, ContentError, Part};
use crate::backup::format::BackupHead;
use crate::backup::restored::{self, Restored, RestoredError};
use crate::backup::verify::{self, Summary, VerifyError};
use crate::boot::{BootError, DataFolder};
use crate::config::{Config, StorageSettings};
use crate::exit::ExitCode;

/// A backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFileError {
    /// The file.
    #[error(transparent)]
    File(#[from] VerifyError),
    /// The configuration does not fit it, or the folder cannot say what is restored.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// The folder.
    #[error(transparent)]
    Folder(#[from] BootError),
    /// The folder is that of a node that has started.
    #[error("the data folder {0} is not empty: its node has been part of a cluster")]
    NotEmpty(PathBuf),
    /// Bodies cannot be written.
    #[error("write message bodies: {0}")]
    Bodies(#[from] BodyError),
    /// Records cannot be written.
    #[error("write checkpoints: {0}")]
    Checkpoints(#[from] CheckpointError),
    /// The file changed between two looks at it.
    #[error("the backup changed while it was read")]
    Changed,
}

impl RestoreFileError {
    /// What the process is to end with; see docs/operations/exit-codes.md.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            RestoreFileError::File(error) => error.exit_code(),
            RestoreFileError::Restored(error) => error.exit_code(),
            // Whatever is in there is not ours to judge.
            RestoreFileError::Folder(BootError::Identity(IdentityError::Missing { .. }))
            | RestoreFileError::NotEmpty(_) => ExitCode::Unavailable,
            RestoreFileError::Folder(error) => error.exit_code(),
            RestoreFileError::Bodies(_) | RestoreFileError::Checkpoints(_) => ExitCode::Disk,
            RestoreFileError::Changed => ExitCode::Corrupt,
        }
    }
}

impl From<ContentError> for RestoreFileError {
    fn from(error: ContentError) -> Self {
        RestoreFileError::File(error.into())
    }
}

/// Restores a backup into the data folder of a configuration, and says what was in it.
///
/// # Errors
/// Why not. The folder is as it was when the file's head or the configuration is the cause; else it says that a restore is
/// underway.
pub fn restore(file: &Path, config: &Config) -> Result<Summary, RestoreFileError> {
    let (_, head) = verify::open(file)?;
    restored::settings_for(config, &head.backup, &head.settings)?;
    let path = &config.node.data_dir;
    let mut folder = DataFolder::open(path, &config.node.name)?;
    if folder.founding.is_some() || folder.identity.node_id != 0 {
        return Err(RestoreFileError::NotEmpty(path.clone()));
    }
    put_in_place(&mut folder, file, &head, &config.storage)
}

/// All steps in the folder. `head` is that of the file.
pub(super) fn put_in_place(
    folder: &mut DataFolder,
    file: &Path,
    head: &BackupHead,
    storage: &StorageSettings,
) -> Result<Summary, RestoreFileError> {
    let underway = Restored::underway(head);
    underway.write(folder.disk.as_ref())?;
    folder.restored = Some(underway.clone());
    let (verified, summary) = verify::verify(file)?;
    if verified != *head {
        return Err(RestoreFileError::Changed);
    }
    folder.clear()?;
    {
        // The log comes first: bodies without a log are a log that was lost.
        let (log, _) = folder.open_log(storage)?;
        let checkpoints = folder.open_checkpoints()?;
        let places = Places { bodies: log.bodies(), checkpoints: checkpoints.as_ref(), summary: &summary };
        let (content, head) = verify::open(file)?;
        if head != verified {
            return Err(RestoreFileError::Changed);
        }
        places.fill(content)?;
    }
    let reserved = summary.incarnation + 1;
    folder.identity.raise_incarnation(folder.disk.as_ref(), reserved).map_err(BootError::from)?;
    let complete = underway.completed(reserved, summary.last_node);
    complete.write(folder.disk.as_ref())?;
    folder.restored = Some(complete);
    Ok(summary)
}

/// Where the parts of a backup go.
struct Places<'a> {
    bodies: Bodies,
    checkpoints: &'a dyn CheckpointStore,
    summary: &'a Summary,
}

impl Places<'_> {
    /// Writes all groups. What was verified is checked again as it comes, up to the end of the file.
    fn fill<R: Read>(&self, mut content: BackupContent<R>) -> Result<(), RestoreFileError> {
        let mut control = Vec::new();
        let mut begun = None;
        while let Some((group, part)) = content.next()? {
            if begun != Some(group) {
                self.checkpoints.begin_install(group)?;
                begun = Some(group);
            }
            match part {
                Part::Bodies(bodies) => {
                    for (index, body) in bodies {
                        // A copy of its own, so that one body does not keep its whole chunk in memory.
                        self.bodies.put(group, index, Bytes::copy_from_slice(&body))?;
                    }
                }
                Part::Records(records) if group == CONTROL.0 => control.extend(records),
                Part::Records(records) => self.put(group, records)?,
                Part::Mark(mark) => {
                    if group == CONTROL.0 {
                        let taken = std::mem::take(&mut control);
                        self.put_control(&mark, taken)?;
                    }
                    // Durable before any record refers to them.
                    self.bodies.seal(group)?;
                    self.checkpoints.commit_install(group, &mark)?;
                    self.bodies.settle(group);
                }
            }
        }
        if content.bytes() != self.summary.bytes {
            return Err(RestoreFileError::Changed);
        }
        Ok(())
    }

    fn put(&self, group: u32, records: Vec<(Bytes, Bytes)>) -> Result<(), CheckpointError> {
        let records = records.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        self.checkpoints.put_chunk(group, records)
    }

    /// Control without the nodes of the old cluster.
    fn put_control(&self, mark: &AppliedMark, records: Vec<(Bytes, Bytes)>) -> Result<(), RestoreFileError> {
        let failed = |source: RestoreError| VerifyError::Records { group: CONTROL.0, source };
        let mut control = Control::restore(LogIndex(mark.index), records).map_err(failed)?;
        control.take_leave(Incarnation(self.summary.incarnation));
        self.checkpoints.put_chunk(CONTROL.0, control.records().collect())?;
        Ok(())
    }
}
