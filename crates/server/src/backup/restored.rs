//! What a data folder says of the backup that was put into it.
//!
//! Owns: [`Restored`] and its file. Does not: put anything in place, or start a node.
//! Invariants: the file is there, and says that the work is underway, before anything else of a backup is in the folder; it
//! says that it is complete once everything is, durably. Of no account once the node has started.
//! Limits: `BACKUP_JSON_BYTES_MAX`. See: docs/formats/restored.md.

use quorate_state::RestoreError;
use quorate_storage::{Disk, small_file};
use serde::{Deserialize, Serialize};

use crate::backup::format::BackupHead;
use crate::config::Config;
use crate::exit::ExitCode;
use crate::founding::{Settings, hex};
use crate::limits::BACKUP_JSON_BYTES_MAX;
use crate::net::hello;

/// File name in the data folder.
pub const FILE: &str = "restored.json";

/// Version of the file.
const FILE_VERSION: u32 = 1;

/// How far the work is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It has begun, and perhaps broken off: no node starts from it.
    Underway,
    /// All is in place.
    Complete,
}

/// What was restored into a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restored {
    version: u32,
    stage: Stage,
    backup: String,
    cluster: String,
    cluster_id: String,
    taken_at_unix_ms: u64,
    /// An incarnation above all of the old cluster's, which no node ever has: those of the first nodes come after it. 0 while
    /// underway.
    incarnation: u64,
    /// The node identity that the old cluster gave last; 0 while underway.
    last_node: u64,
    settings: Settings,
    check: String,
}

/// The file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RestoredError {
    /// The disk failed.
    #[error("{operation} {FILE}: {source}")]
    Disk {
        /// What was attempted.
        operation: &'static str,
        /// Cause.
        source: std::io::Error,
    },
    /// The file is not what was written.
    #[error("{FILE} is corrupt: {0}")]
    Corrupt(String),
    /// The work did not come to its end.
    #[error(
        "restoring backup {0} into the data folder was not finished: run `quorate restore` again, or empty the folder to start \
         without it"
    )]
    Unfinished(String),
    /// The configuration has another number of partitions.
    #[error("the backup has {backup} partitions, and cluster.partitions is {configured}: set it to {backup}")]
    Partitions {
        /// In the backup.
        backup: u32,
        /// In the configuration.
        configured: u32,
    },
    /// The node is not one of the first nodes.
    #[error(
        "{0} is not in cluster.bootstrap: only the first nodes of the new cluster are restored; the others join it with empty \
         data folders"
    )]
    NotFirst(String),
    /// A group is gone that was restored.
    #[error(
        "the restored state of group {0} is gone: cluster.bootstrap was changed while the node started for the first time; run \
         `quorate restore` again"
    )]
    GroupGone(u32),
    /// The restored state of control is not what was written.
    #[error("the restored state of control cannot be read: {0}")]
    Control(#[from] RestoreError),
}

impl RestoredError {
    /// What the process is to end with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            RestoredError::Disk { .. } => ExitCode::Disk,
            RestoredError::Corrupt(_) | RestoredError::GroupGone(_) | RestoredError::Control(_) => {
                ExitCode::Corrupt
            }
            RestoredError::Unfinished(_) => ExitCode::Unavailable,
            RestoredError::Partitions { .. } | RestoredError::NotFirst(_) => ExitCode::Config,
        }
    }
}

/// Settings of a cluster of this configuration that goes on with a backup.
///
/// # Errors
/// When the configuration does not fit the backup, or the node is none of the first nodes.
pub fn settings_for(config: &Config, backup: &str, settings: &Settings) -> Result<Settings, RestoredError> {
    let (backed_up, configured) = (settings.partitions(), config.cluster.partitions);
    if backed_up != configured {
        return Err(RestoredError::Partitions { backup: backed_up, configured });
    }
    let first = &config.cluster.bootstrap;
    if !first.is_empty() && !first.iter().any(|node| node.name == config.node.name) {
        return Err(RestoredError::NotFirst(config.node.name.clone()));
    }
    Ok(settings.restored_as(backup, config))
}

impl Restored {
    /// A restore that begins.
    pub fn underway(head: &BackupHead) -> Restored {
        let restored = Restored {
            version: FILE_VERSION,
            stage: Stage::Underway,
            backup: head.backup.clone(),
            cluster: head.cluster.clone(),
            cluster_id: head.cluster_id.clone(),
            taken_at_unix_ms: head.taken_at_unix_ms,
            incarnation: 0,
            last_node: 0,
            settings: head.settings.clone(),
            check: String::new(),
        };
        restored.sealed()
    }

    /// The same restore when all is in place.
    pub fn completed(self, incarnation: u64, last_node: u64) -> Restored {
        Restored { stage: Stage::Complete, incarnation, last_node, ..self }.sealed()
    }

    /// Whether all is in place.
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Complete
    }

    /// Identity of the backup.
    pub fn backup(&self) -> &str {
        &self.backup
    }

    /// Settings of the cluster that this node is to found.
    ///
    /// # Errors
    /// When it cannot: the restore is not complete, or the configuration does not fit it.
    pub fn settings(&self, config: &Config) -> Result<Settings, RestoredError> {
        if !self.is_complete() {
            return Err(RestoredError::Unfinished(self.backup.clone()));
        }
        settings_for(config, &self.backup, &self.settings)
    }

    /// An incarnation above all of the old cluster's, which no node ever has. Control has it for the first nodes until they
    /// are up, so that every connection of an old node is known to be gone.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The node identity that the old cluster gave last.
    pub fn last_node(&self) -> u64 {
        self.last_node
    }

    /// Reads the file; `None` when nothing was restored.
    pub fn read(disk: &dyn Disk) -> Result<Option<Restored>, RestoredError> {
        let failed = |operation| move |source| RestoredError::Disk { operation, source };
        if !disk.list("").map_err(failed("look for"))?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = disk.open(FILE).map_err(failed("open"))?;
        let length = usize::try_from(file.len().map_err(failed("measure"))?).unwrap_or(usize::MAX);
        if length > BACKUP_JSON_BYTES_MAX {
            return Err(RestoredError::Corrupt(format!("it has {length} bytes")));
        }
        let mut bytes = vec![0; length];
        let read = file.read_at(0, &mut bytes).map_err(failed("read"))?;
        bytes.truncate(read);
        let restored: Restored =
            serde_json::from_slice(&bytes).map_err(|error| RestoredError::Corrupt(error.to_string()))?;
        if restored.version != FILE_VERSION {
            return Err(RestoredError::Corrupt(format!("version {} is not known", restored.version)));
        }
        if restored.check != restored.checksum() {
            return Err(RestoredError::Corrupt("its check does not match".to_owned()));
        }
        Ok(Some(restored))
    }

    /// Writes the file, durably and at once or not at all.
    pub fn write(&self, disk: &dyn Disk) -> Result<(), RestoredError> {
        let failed = |operation| move |source| RestoredError::Disk { operation, source };
        let bytes =
            serde_json::to_vec_pretty(self).map_err(|error| RestoredError::Corrupt(error.to_string()))?;
        small_file::write(disk, FILE, &bytes).map_err(failed("write"))
    }

    fn sealed(mut self) -> Restored {
        self.check = self.checksum();
        self
    }

    fn checksum(&self) -> String {
        let unchecked = Restored { check: String::new(), ..self.clone() };
        hex(&hello::fingerprint(&serde_json::to_string(&unchecked).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use quorate_storage::disk::MemoryDisk;

    use super::*;

    fn head() -> BackupHead {
        BackupHead {
            backup: "0123456789abcdef".to_owned(),
            cluster: "plant".to_owned(),
            cluster_id: "00".repeat(16),
            program: "0.2.0".to_owned(),
            level: 1,
            taken_at_unix_ms: 5,
            settings: Settings::of(&Config::default()),
        }
    }

    #[test]
    fn file_comes_back_and_damage_is_found() {
        let disk = MemoryDisk::new();
        assert!(Restored::read(&disk).unwrap().is_none());
        let underway = Restored::underway(&head());
        underway.write(&disk).unwrap();
        assert!(!Restored::read(&disk).unwrap().unwrap().is_complete());
        let complete = underway.completed(7, 3);
        complete.write(&disk).unwrap();
        let read = Restored::read(&disk).unwrap().unwrap();
        assert_eq!(
            (&read, read.is_complete(), read.incarnation(), read.last_node()),
            (&complete, true, 7, 3)
        );
        let content = String::from_utf8(disk.content(FILE).unwrap()).unwrap();
        for (from, to) in [("\"incarnation\": 7", "\"incarnation\": 6"), ("complete", "underway"), ("{", "[")]
        {
            assert!(content.contains(from), "{content}");
            disk.replace(FILE, content.replacen(from, to, 1).into_bytes());
            assert!(matches!(Restored::read(&disk), Err(RestoredError::Corrupt(_))), "{from}");
        }
    }
}
