//! The data directory: there, writable, on a disk that keeps what it is given, with room for the log.
//!
//! Owns: looking at the directory and its file system. Does not: read what the node wrote; the node does at its start.
//! Invariants: leaves nothing behind. The probe is a file without a name, since a node refuses a directory with strange files.
//! Limits: DOCTOR_DIRECTORY_ENTRIES_MAX.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use quorate_server::config::{Config, StorageSettings};

use super::finding::{Finding, Severity};
use crate::limits::DOCTOR_DIRECTORY_ENTRIES_MAX;
use crate::table::bytes;

/// What is known of the directory.
#[derive(Clone, Debug)]
pub struct DirectoryFacts {
    /// The configured directory.
    pub path: PathBuf,
    /// Where a file was written to try: the directory, or the nearest one above it that exists.
    pub probed: PathBuf,
    /// What is at the path.
    pub kind: Kind,
    /// Whether a file could be written there.
    pub writable: Result<(), Refusal>,
    /// Anybody may write into it.
    pub world_writable: bool,
    /// Owner of the directory, and the first entry that another user owns, with that user.
    pub other_owner: Option<(u32, PathBuf, u32)>,
    /// Name and nature of the file system.
    pub file_system: FileSystem,
    /// Bytes free for this user; `None` when the file system does not say.
    pub free_bytes: Option<u64>,
    /// Bytes that the log has on the disk by now.
    pub log_bytes: u64,
    /// What the log is allowed to take.
    pub storage: StorageSettings,
}

/// What is at the configured path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing yet; the node makes it.
    Missing,
    /// A directory.
    Directory,
    /// Something else.
    Other,
}

/// Why nothing can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The user may not.
    Permission,
    /// The file system is mounted read-only.
    ReadOnly,
    /// It is full.
    Full,
    /// Anything else.
    Other(io::ErrorKind),
}

/// Nature of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// Nothing speaks against it.
    Disk,
    /// In memory: gone with the machine.
    Memory(&'static str),
    /// On another machine.
    Network(&'static str),
    /// The writable layer of a container: gone with it.
    Layer(&'static str),
}

/// Looks at the directory.
pub fn gather(config: &Config) -> DirectoryFacts {
    let path = config.node.data_dir.clone();
    let kind = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Kind::Directory,
        Ok(_) => Kind::Other,
        Err(_) => Kind::Missing,
    };
    let probed = existing(&path);
    let metadata = fs::metadata(&probed).ok();
    DirectoryFacts {
        writable: probe(&probed)
            .and_then(|mut file| file.write_all(&[0; 4096]))
            .map_err(|error| refusal(&error)),
        world_writable: kind == Kind::Directory
            && metadata.is_some_and(|metadata| metadata.mode() & 0o002 != 0),
        other_owner: other_owner(&path),
        file_system: file_system(&probed),
        free_bytes: free_bytes(&probed),
        log_bytes: allocated_bytes(&path.join("log")),
        storage: config.storage.clone(),
        path,
        probed,
        kind,
    }
}

/// The path, or the nearest directory above it that exists.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find(|ancestor| ancestor.is_dir());
    found.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

/// A file in `dir` that goes when it is closed.
pub fn probe(dir: &Path) -> io::Result<File> {
    let path = dir.join(format!(".quorate-doctor-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Refusal::Permission,
        io::ErrorKind::ReadOnlyFilesystem => Refusal::ReadOnly,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::Full,
        kind => Refusal::Other(kind),
    }
}

fn other_owner(path: &Path) -> Option<(u32, PathBuf, u32)> {
    let owner = fs::metadata(path).ok()?.uid();
    let below = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = below(path.to_owned()).chain(below(path.join("log"))).take(DOCTOR_DIRECTORY_ENTRIES_MAX);
    entries
        .filter(|entry| entry.file_name() != "lost+found")
        .find_map(|entry| {
            Some((entry.path(), entry.metadata().ok()?.uid())).filter(|(_, user)| *user != owner)
        })
        .map(|(entry, user)| (owner, entry, user))
}

fn allocated_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().take(DOCTOR_DIRECTORY_ENTRIES_MAX);
    entries
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.blocks().saturating_mul(512))
        .sum()
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// By the magic numbers of statfs(2).
fn file_system(dir: &Path) -> FileSystem {
    let magic = rustix::fs::statfs(dir).map(|found| found.f_type.cast_unsigned());
    match magic.unwrap_or(0) & 0xFFFF_FFFF {
        0x0102_1994 => FileSystem::Memory("tmpfs"),
        0x8584_58F6 => FileSystem::Memory("ramfs"),
        0x6969 => FileSystem::Network("nfs"),
        0xFF53_4D42 | 0xFE53_4D42 | 0x517B => FileSystem::Network("smb"),
        0x0102_1997 => FileSystem::Network("9p"),
        0x00C3_6400 => FileSystem::Network("ceph"),
        0x794C_7630 => FileSystem::Layer("overlay"),
        _ => FileSystem::Disk,
    }
}

/// Judges the directory.
pub fn check(facts: &DirectoryFacts) -> Vec<Finding> {
    let place = facts.path.display();
    if facts.kind == Kind::Other {
        return vec![Finding::error(
            "data_dir_no_directory",
            place,
            "this is not a directory",
            "name a directory in node.data_dir, or move away what is there",
        )];
    }
    let mut found: Vec<Finding> =
        facts.writable.err().map(|refusal| not_writable(facts, refusal)).into_iter().collect();
    if facts.writable != Err(Refusal::Full) {
        found.extend(space(facts));
    }
    if facts.world_writable {
        found.push(Finding::warning(
            "data_dir_world_writable",
            &place,
            "every user of this machine may write into it",
            format!("chmod o-w {place}"),
        ));
    }
    if let Some((owner, entry, user)) = &facts.other_owner {
        found.push(Finding::warning(
            "data_dir_owner",
            entry.display(),
            format!("user {user} owns it, and user {owner} the data directory"),
            format!("the node ran as another user once: stop it, then chown -R {owner} {place}"),
        ));
    }
    let (code, message, hint) = match facts.file_system {
        FileSystem::Disk => return found,
        FileSystem::Memory(name) => (
            "data_dir_volatile",
            format!("{name} is in memory: everything is gone when this machine restarts"),
            "put node.data_dir on a disk",
        ),
        FileSystem::Network(name) => (
            "data_dir_network",
            format!("{name} is a file system on another machine: slow to sync, and locks may not hold"),
            "put node.data_dir on a disk of this machine",
        ),
        FileSystem::Layer(name) => (
            "data_dir_layer",
            format!("{name} is the layer of a container: everything is gone with it"),
            "mount a volume at node.data_dir",
        ),
    };
    found.push(Finding::warning(code, &place, message, hint));
    found
}

fn not_writable(facts: &DirectoryFacts, refusal: Refusal) -> Finding {
    let probed = facts.probed.display();
    let (code, message, hint) = match refusal {
        Refusal::Full => (
            "disk_full",
            "the file system is full: a node stops at the first write that fails".to_owned(),
            "free space, or move node.data_dir to a larger disk".to_owned(),
        ),
        Refusal::ReadOnly => (
            "data_dir_not_writable",
            "the file system is mounted read-only".to_owned(),
            format!(
                "see the kernel's log for a disk failure; then mount -o remount,rw the file system of {probed}"
            ),
        ),
        Refusal::Permission => (
            "data_dir_not_writable",
            format!("this user may not write into {probed}"),
            "run the doctor as the user of the node; if it is that one, chown the directory to it".to_owned(),
        ),
        Refusal::Other(kind) => (
            "data_dir_not_writable",
            format!("a file in {probed} cannot be written: {kind}"),
            "look at the disk and at the kernel's log".to_owned(),
        ),
    };
    Finding::error(code, facts.path.display(), message, hint)
}

fn space(facts: &DirectoryFacts) -> Option<Finding> {
    let free = facts.free_bytes?;
    let segment = facts.storage.segment_bytes;
    let more = facts.storage.log_bytes_target.saturating_sub(facts.log_bytes);
    let needed = more.saturating_add(segment.saturating_mul(2));
    let finding = |severity| {
        Finding::error(
            if severity == Severity::Error { "disk_full" } else { "disk_low" },
            facts.path.display(),
            format!(
                "{} are free, and the log may grow by {} up to storage.log_bytes_target and two segments",
                bytes(free),
                bytes(needed)
            ),
            "free space, move node.data_dir to a larger disk, or lower storage.log_bytes_target",
        )
        .with(severity)
    };
    match free {
        free if free < segment => Some(finding(Severity::Error)),
        free if free < needed => Some(finding(Severity::Warning)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn sound() -> DirectoryFacts {
        DirectoryFacts {
            path: "/srv/quorate".into(),
            probed: "/srv/quorate".into(),
            kind: Kind::Directory,
            writable: Ok(()),
            world_writable: false,
            other_owner: None,
            file_system: FileSystem::Disk,
            free_bytes: Some(10_000 * MIB),
            log_bytes: 0,
            storage: StorageSettings::default(),
        }
    }

    fn check_one(change: impl FnOnce(&mut DirectoryFacts), codes: &[&str]) {
        let mut facts = sound();
        change(&mut facts);
        let found: Vec<&str> = check(&facts).iter().map(|finding| finding.code).collect();
        assert_eq!(found, codes, "{facts:?}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        check_one(|_| (), &[]);
        check_one(|facts| facts.kind = Kind::Missing, &[]);
        check_one(|facts| facts.kind = Kind::Other, &["data_dir_no_directory"]);
        for refusal in [Refusal::Permission, Refusal::ReadOnly, Refusal::Other(io::ErrorKind::Other)] {
            check_one(|facts| facts.writable = Err(refusal), &["data_dir_not_writable"]);
        }
        check_one(|facts| (facts.writable, facts.free_bytes) = (Err(Refusal::Full), Some(0)), &["disk_full"]);
        check_one(|facts| facts.world_writable = true, &["data_dir_world_writable"]);
        check_one(|facts| facts.other_owner = Some((1, "identity".into(), 0)), &["data_dir_owner"]);
        check_one(|facts| facts.file_system = FileSystem::Memory("tmpfs"), &["data_dir_volatile"]);
        check_one(|facts| facts.file_system = FileSystem::Network("nfs"), &["data_dir_network"]);
        check_one(|facts| facts.file_system = FileSystem::Layer("overlay"), &["data_dir_layer"]);
    }

    #[test]
    fn space_is_compared_with_what_the_log_may_still_take() {
        // 512 MiB of log and two segments of 64 MiB.
        check_one(|facts| facts.free_bytes = Some(640 * MIB), &[]);
        check_one(|facts| facts.free_bytes = Some(639 * MIB), &["disk_low"]);
        check_one(|facts| (facts.free_bytes, facts.log_bytes) = (Some(639 * MIB), 64 * MIB), &[]);
        check_one(|facts| facts.free_bytes = Some(63 * MIB), &["disk_full"]);
        check_one(|facts| facts.free_bytes = None, &[]);
    }

    #[test]
    fn probing_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        probe(dir.path()).unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(existing(&dir.path().join("a/b")), dir.path());
    }
}
