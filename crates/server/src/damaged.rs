//! A data folder whose state is damaged: what the node says of it, and where the damaged state is kept.
//!
//! Owns: [`Damaged`], its file, and the folder that the damaged state is set aside in. Does not: judge what is damage, or
//! ask the cluster; nothing is moved before that has taken the node in anew.
//! Invariants: the file is durable before the cluster is asked, and leaves the data folder last of all: as long as it is
//! there, no state of the folder is used. The new disk identity in it never changes, so that asking twice gives one node.
//! Limits: `DAMAGED_REASON_BYTES_MAX`, `DAMAGED_FOLDERS_KEPT`. See: docs/formats/damaged.md, docs/decisions/0034-damaged-node-rejoins.md.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use quorate_storage::{Disk, small_file};
use serde::{Deserialize, Serialize};

use crate::exit::ExitCode;
use crate::founding::{hex, unhex};
use crate::limits::{DAMAGED_FOLDERS_KEPT, DAMAGED_JSON_BYTES_MAX, DAMAGED_REASON_BYTES_MAX};
use crate::net::hello::{self, Fingerprint};

/// File name in the data folder, and then in the folder that is set aside.
const FILE: &str = "damaged.json";

/// Version of the file.
const FILE_VERSION: u32 = 1;

/// What names of folders that are set aside begin with; the old node identity in ten digits follows.
const FOLDER_PREFIX: &str = "damaged-";

/// File of the old identity in the folder that is set aside, as in the data folder.
const IDENTITY: &str = "identity";

/// What is damaged, and who the node will be instead.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Damaged {
    version: u32,
    /// Node identity that is given up.
    node_id: u64,
    /// Identity of the disk from now on.
    new_disk: String,
    reason: String,
    check: String,
}

/// The damaged state cannot be noted or set aside.
#[derive(Debug, thiserror::Error)]
pub enum DamagedError {
    /// The disk failed.
    #[error("{operation} {path}: {source}")]
    Disk {
        /// What was attempted.
        operation: &'static str,
        /// On which file or folder.
        path: String,
        /// Cause.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{FILE} is corrupt: {0}")]
    Corrupt(String),
}

impl DamagedError {
    /// What the process is to end with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            DamagedError::Disk { .. } => ExitCode::Disk,
            DamagedError::Corrupt(_) => ExitCode::Corrupt,
        }
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DamagedError {
    let path = path.display().to_string();
    move |source| DamagedError::Disk { operation, path, source }
}

impl Damaged {
    /// The state of this node is damaged for this reason, of which at most `DAMAGED_REASON_BYTES_MAX` bytes are kept; it will
    /// come back with this disk.
    pub fn new(node_id: u64, new_disk: Fingerprint, reason: &str) -> Damaged {
        let end = (0..=reason.len().min(DAMAGED_REASON_BYTES_MAX)).rev();
        let end = end.into_iter().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        let reason = reason.get(..end).unwrap_or_default().to_owned();
        let (version, new_disk) = (FILE_VERSION, hex(&new_disk));
        let mut damaged = Damaged { version, node_id, new_disk, reason, check: String::new() };
        damaged.check = damaged.checksum();
        damaged
    }

    /// Node identity that is given up.
    pub fn node_id(&self) -> u64 {
        self.node_id
    }

    /// Identity of the disk from now on.
    pub fn new_disk(&self) -> Fingerprint {
        unhex(&self.new_disk).unwrap_or_default()
    }

    /// What is damaged.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Name of the folder that the damaged state is kept in. A node identity is given up once, so no two have one name.
    pub fn folder(&self) -> String {
        format!("{FOLDER_PREFIX}{:010}", self.node_id)
    }

    /// Reads the file; `None` when nothing is damaged.
    pub fn read(disk: &dyn Disk) -> Result<Option<Damaged>, DamagedError> {
        let path = Path::new(FILE);
        if !disk.list("").map_err(failed("look for", path))?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = disk.open(FILE).map_err(failed("open", path))?;
        let length = usize::try_from(file.len().map_err(failed("measure", path))?).unwrap_or(usize::MAX);
        if length > DAMAGED_JSON_BYTES_MAX {
            return Err(DamagedError::Corrupt(format!("it has {length} bytes")));
        }
        let mut bytes = vec![0; length];
        let read = file.read_at(0, &mut bytes).map_err(failed("read", path))?;
        bytes.truncate(read);
        let damaged: Damaged =
            serde_json::from_slice(&bytes).map_err(|error| DamagedError::Corrupt(error.to_string()))?;
        if damaged.version != FILE_VERSION {
            return Err(DamagedError::Corrupt(format!("version {} is not known", damaged.version)));
        }
        if damaged.check != damaged.checksum() || unhex(&damaged.new_disk).is_none() {
            return Err(DamagedError::Corrupt("its check does not match".to_owned()));
        }
        Ok(Some(damaged))
    }

    /// Writes the file, durably and at once or not at all.
    pub fn write(&self, disk: &dyn Disk) -> Result<(), DamagedError> {
        let bytes =
            serde_json::to_vec_pretty(self).map_err(|error| DamagedError::Corrupt(error.to_string()))?;
        small_file::write(disk, FILE, &bytes).map_err(failed("write", Path::new(FILE)))
    }

    /// Moves these folders out of the data folder, durably. What is found in their place although they were moved already is
    /// of an attempt that broke off, and is removed.
    pub fn set_aside(&self, data: &Path, names: &[&str]) -> Result<(), DamagedError> {
        let kept = data.join(self.folder());
        fs::create_dir_all(&kept).map_err(failed("create", &kept))?;
        for name in names {
            let (from, to) = (data.join(name), kept.join(name));
            if !from.exists() {
                continue;
            }
            if to.exists() {
                fs::remove_dir_all(&from).map_err(failed("remove an unfinished", &from))?;
            } else {
                fs::rename(&from, &to).map_err(failed("set aside", &from))?;
            }
        }
        sync_folder(&kept)?;
        sync_folder(data)
    }

    /// Keeps the identity that is given up beside the damaged state, which is of no use without it. Only while it is still
    /// that of the data folder.
    pub fn keep_identity(&self, data: &Path) -> Result<(), DamagedError> {
        let kept = data.join(self.folder());
        fs::create_dir_all(&kept).map_err(failed("create", &kept))?;
        let to = kept.join(IDENTITY);
        fs::copy(data.join(IDENTITY), &to).map_err(failed("copy the identity to", &to))?;
        File::open(&to).and_then(|file| file.sync_all()).map_err(failed("sync", &to))?;
        sync_folder(&kept)
    }

    /// The node has its new identity: the note goes where the damaged state is, and older damaged state goes for good.
    pub fn settle(&self, data: &Path) -> Result<(), DamagedError> {
        let kept_here = data.join(self.folder());
        let from = data.join(FILE);
        fs::rename(&from, kept_here.join(FILE)).map_err(failed("set aside", &from))?;
        sync_folder(&kept_here)?;
        sync_folder(data)?;
        let mut older = kept(data)?;
        older.retain(|name| *name != self.folder());
        let surplus = older.len().saturating_sub(DAMAGED_FOLDERS_KEPT.saturating_sub(1));
        for name in older.into_iter().take(surplus) {
            let folder = data.join(&name);
            fs::remove_dir_all(&folder).map_err(failed("remove older damaged state in", &folder))?;
        }
        Ok(())
    }

    fn checksum(&self) -> String {
        let unchecked = Damaged { check: String::new(), ..self.clone() };
        hex(&hello::fingerprint(&serde_json::to_string(&unchecked).unwrap_or_default()))
    }
}

/// Names of the folders in a data folder that damaged state is kept in, oldest identity first.
pub fn kept(data: &Path) -> Result<Vec<String>, DamagedError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(data).map_err(failed("list", data))? {
        let name = entry.map_err(failed("list", data))?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(FOLDER_PREFIX);
        if number.is_some_and(|number| number.len() == 10 && number.bytes().all(|byte| byte.is_ascii_digit()))
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn sync_folder(folder: &Path) -> Result<(), DamagedError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use quorate_storage::disk::{MemoryDisk, OsDisk};

    use super::*;
    use crate::testing::TestFolder;

    const NAMES: [&str; 2] = ["log", "bodies"];

    fn put(folder: &Path, name: &str, content: &str) {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("file"), content).unwrap();
    }

    fn content(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn note_comes_back_and_damage_to_it_is_found() {
        let disk = MemoryDisk::new();
        assert!(Damaged::read(&disk).unwrap().is_none());
        let damaged = Damaged::new(2, [7; 16], "the log is corrupt");
        damaged.write(&disk).unwrap();
        damaged.write(&disk).unwrap();
        let read = Damaged::read(&disk).unwrap().unwrap();
        assert_eq!(read, damaged);
        assert_eq!((read.node_id(), read.new_disk(), read.reason()), (2, [7; 16], "the log is corrupt"));
        let content = String::from_utf8(disk.content(FILE).unwrap()).unwrap();
        for (from, to) in [("\"node_id\": 2", "\"node_id\": 3"), ("0707", "0807"), ("{", "[")] {
            assert!(content.contains(from), "{content}");
            disk.replace(FILE, content.replacen(from, to, 1).into_bytes());
            assert!(matches!(Damaged::read(&disk), Err(DamagedError::Corrupt(_))), "{from}");
        }
        disk.replace(FILE, vec![b' '; DAMAGED_JSON_BYTES_MAX + 1]);
        assert!(matches!(Damaged::read(&disk), Err(DamagedError::Corrupt(_))));
    }

    #[test]
    fn longest_reason_fits_into_the_file_and_is_cut_at_a_character() {
        let disk = MemoryDisk::new();
        // Each takes six bytes in JSON.
        for reason in
            ["\u{1}".repeat(DAMAGED_JSON_BYTES_MAX), format!("x{}", "ä".repeat(DAMAGED_REASON_BYTES_MAX))]
        {
            Damaged::new(u64::MAX, [0xFF; 16], &reason).write(&disk).unwrap();
            let read = Damaged::read(&disk).unwrap().unwrap();
            assert!(reason.starts_with(read.reason()) && read.reason().len() >= DAMAGED_REASON_BYTES_MAX - 1);
        }
    }

    #[test]
    fn damaged_state_is_kept_whatever_an_attempt_leaves_behind() {
        let folder = TestFolder::new();
        let data = folder.path();
        let disk = OsDisk::new(data).unwrap();
        let damaged = Damaged::new(2, [7; 16], "flipped");
        damaged.write(&disk).unwrap();
        fs::write(data.join(IDENTITY), "old").unwrap();
        put(data, "log", "evidence");
        put(data, "bodies", "evidence");
        damaged.keep_identity(data).unwrap();
        // Broken off between the two, then after new ones were begun: what was first set aside stays.
        damaged.set_aside(data, &["log"]).unwrap();
        put(data, "log", "begun");
        damaged.set_aside(data, &NAMES).unwrap();
        fs::write(data.join(IDENTITY), "new").unwrap();
        put(data, "log", "begun again");
        put(data, "bodies", "begun again");
        damaged.set_aside(data, &NAMES).unwrap();
        let kept_here = data.join("damaged-0000000002");
        for name in NAMES {
            assert!(!data.join(name).exists(), "{name} of an attempt");
            assert_eq!(content(kept_here.join(name).join("file")), "evidence");
        }
        assert_eq!(content(kept_here.join(IDENTITY)), "old");
        assert!(Damaged::read(&disk).unwrap().is_some(), "not at its end");
        damaged.settle(data).unwrap();
        assert!(Damaged::read(&disk).unwrap().is_none());
        assert_eq!(kept(data).unwrap(), ["damaged-0000000002"]);
        assert!(kept_here.join(FILE).exists());
    }

    #[test]
    fn older_damaged_state_goes_when_newer_is_kept_and_other_names_stay() {
        let folder = TestFolder::new();
        let data = folder.path();
        for other in ["damaged-by-hand", "damaged-00000000020", "log"] {
            put(data, other, "not ours");
        }
        for node_id in [2, 4, 11] {
            let damaged = Damaged::new(node_id, [7; 16], "flipped");
            damaged.write(&OsDisk::new(data).unwrap()).unwrap();
            damaged.set_aside(data, &[]).unwrap();
            assert!(kept(data).unwrap().len() <= DAMAGED_FOLDERS_KEPT + 1, "until the new one is settled");
            damaged.settle(data).unwrap();
            assert_eq!(kept(data).unwrap(), [damaged.folder()]);
        }
        assert!(data.join("damaged-by-hand").exists() && data.join("damaged-00000000020").exists());
    }
}
