//! A disk in memory with a write-back cache that a crash can lose.
//!
//! Owns: what is durable and what is only cached, sector by sector and name by name. Does not: fail by itself; see
//! the faulty disk.
//! Invariants: the same operations and the same seed leave the same image; a handle from before a crash answers
//! every call with an error.
//! Limits: SECTOR_BYTES is the unit that is written whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile, DiskUsage, parent};
use crate::random::Random;

/// What a device writes atomically.
pub const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones share the image.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Counts crashes; handles of an older generation are dead.
    generation: u64,
    inode_next: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    /// Name changes that are not durable yet, in order.
    changes: Vec<NameChange>,
    directories: BTreeSet<String>,
    locks: BTreeSet<String>,
    capacity_bytes: Option<u64>,
}

#[derive(Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
    /// Sectors that the last sync made durable.
    fresh: BTreeSet<usize>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Unlink(String),
    Rename(String, String, u64),
}

impl NameChange {
    fn directory(&self) -> &str {
        match self {
            Self::Create(path, _) | Self::Unlink(path) | Self::Rename(path, _, _) => parent(path),
        }
    }

    fn names(&self, name: &str) -> bool {
        match self {
            Self::Create(path, _) | Self::Unlink(path) => path == name,
            Self::Rename(from, to, _) => from == name || to == name,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl MemoryDisk {
    /// An empty disk without a size limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the sum of file lengths; growing beyond it fails with `StorageFull`. `None` lifts the limit.
    pub fn limit_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Loses power. Every unsynced sector and every unsynced name change survives or not, as `seed` says; all handles
    /// and locks die.
    pub fn crash(&self, seed: u64) {
        let mut random = Random::new(seed);
        // Some crashes lose everything cached, some nothing, most a part of it.
        let keep_one_in = match random.below(4) {
            0 => 0,
            1 => 1,
            _ => 2,
        };
        let mut state = self.state.lock();
        state.generation += 1;
        state.locks.clear();
        let changes = std::mem::take(&mut state.changes);
        for change in changes {
            if random.one_in(keep_one_in) {
                change.apply(&mut state.names_durable);
            }
        }
        state.names = state.names_durable.clone();
        for inode in state.inodes.values_mut() {
            inode.crash(&mut random, keep_one_in);
        }
        state.collect();
    }

    /// Kills the process without a power cut: what was written stays, handles and locks die.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.locks.clear();
    }

    /// Flips bits of a stored byte, as a decaying device would: the change is durable and unnoticed.
    pub fn corrupt(&self, path: &str, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.inode_of(path)?;
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        for image in [&mut inode.content, &mut inode.durable] {
            if let Some(byte) = image.get_mut(at) {
                *byte ^= mask;
            }
        }
        Ok(())
    }

    /// Sectors of a file that an earlier sync than its last one made durable, and nothing has touched since.
    pub fn settled_sectors(&self, path: &str) -> io::Result<Vec<usize>> {
        let mut state = self.state.lock();
        let inode = state.inode_of(path)?;
        let all = 0..inode.durable.len().div_ceil(SECTOR_BYTES);
        Ok(all.filter(|sector| !inode.dirty.contains(sector) && !inode.fresh.contains(sector)).collect())
    }

    /// Loses a name, as a damaged directory would: durable and unnoticed. Open handles stay valid.
    pub fn lose(&self, path: &str) {
        let mut state = self.state.lock();
        state.names.remove(path);
        state.names_durable.remove(path);
        state.changes.retain(|change| !change.names(path));
    }

    /// Content of a file as it reads now.
    pub fn content(&self, path: &str) -> io::Result<Vec<u8>> {
        Ok(self.state.lock().inode_of(path)?.content.clone())
    }

    /// Replaces a file durably, or creates it: a copied image, a truncated file, a swapped disk.
    pub fn replace(&self, path: &str, content: Vec<u8>) {
        let mut state = self.state.lock();
        let inode = state.allocate(Inode { durable: content.clone(), content, ..Inode::default() });
        state.names.insert(path.to_string(), inode);
        state.names_durable.insert(path.to_string(), inode);
    }

    /// Files and their lengths, sorted by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let length = |inode: &u64| state.inodes.get(inode).map_or(0, |inode| inode.content.len() as u64);
        state.names.iter().map(|(path, inode)| (path.clone(), length(inode))).collect()
    }
}

impl Inode {
    fn crash(&mut self, random: &mut Random, keep_one_in: u64) {
        let grown = self.content.len() != self.durable.len() && random.one_in(keep_one_in);
        let length = if grown { self.content.len() } else { self.durable.len() };
        let mut image = self.durable.clone();
        image.resize(length, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if random.one_in(keep_one_in) {
                copy_sector(&self.content, &mut image, sector);
            }
        }
        self.durable = image.clone();
        self.content = image;
    }
}

/// Copies one sector as far as both images reach.
fn copy_sector(from: &[u8], to: &mut [u8], sector: usize) {
    let start = sector * SECTOR_BYTES;
    let end = (start + SECTOR_BYTES).min(from.len()).min(to.len());
    if let (Some(source), Some(target)) = (from.get(start..end), to.get_mut(start..end)) {
        target.copy_from_slice(source);
    }
}

impl State {
    fn inode_of(&mut self, path: &str) -> io::Result<&mut Inode> {
        let inode = self.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn allocate(&mut self, inode: Inode) -> u64 {
        self.inode_next += 1;
        self.inodes.insert(self.inode_next, inode);
        self.inode_next
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().filter_map(|inode| self.inodes.get(inode)).map(|i| i.content.len() as u64).sum()
    }

    fn check_room(&self, more_bytes: u64) -> io::Result<()> {
        match self.capacity_bytes {
            Some(capacity) if self.used_bytes().saturating_add(more_bytes) > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    /// Forgets inodes that no name can reach any more. Only safe when no handle is valid.
    fn collect(&mut self) {
        let reachable: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|inode, _| reachable.contains(inode));
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !state.directories.contains(parent(path)) && !parent(path).is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.check_room(length)?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        // As on the real disk, the zeros are synced; the name is not.
        let inode = Inode { content: vec![0; length], durable: vec![0; length], ..Inode::default() };
        let inode = state.allocate(inode);
        state.names.insert(path.to_string(), inode);
        state.changes.push(NameChange::Create(path.to_string(), inode));
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode, generation: state.generation }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state.lock();
        let inode = state.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), inode, generation: state.generation }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_string(), inode);
        state.changes.push(NameChange::Rename(from.to_string(), to.to_string(), inode));
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        state.changes.push(NameChange::Unlink(path.to_string()));
        Ok(())
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        self.state.lock().directories.insert(path.to_string());
        Ok(())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if !directory.is_empty() && !state.directories.contains(directory) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let paths = state.names.keys().chain(state.directories.iter());
        let inside = paths.filter(|path| parent(path) == directory && !path.is_empty());
        let mut names: Vec<String> =
            inside.map(|path| path.rsplit('/').next().unwrap_or_default().to_string()).collect();
        names.sort();
        Ok(names)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let changes = std::mem::take(&mut state.changes);
        let (settled, open): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.directory() == directory);
        state.changes = open;
        for change in settled {
            change.apply(&mut state.names_durable);
        }
        Ok(())
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state.lock();
        if !state.locks.insert(path.to_string()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = state.generation;
        Ok(Box::new(MemoryLock { disk: self.clone(), path: path.to_string(), generation }))
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        let state = self.state.lock();
        let total_bytes = state.capacity_bytes.unwrap_or(u64::MAX);
        Ok(DiskUsage { total_bytes, available_bytes: total_bytes.saturating_sub(state.used_bytes()) })
    }
}

struct MemoryLock {
    disk: MemoryDisk,
    path: String,
    generation: u64,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    inode: u64,
    generation: u64,
}

impl MemoryFile {
    fn with<T>(&self, run: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the process that held this handle has crashed"));
        }
        let inode = state.inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
        Ok(run(inode))
    }

    fn check_room(&self, length: u64) -> io::Result<()> {
        let grown = length.saturating_sub(self.len()?);
        if grown > 0 { self.disk.state.lock().check_room(grown) } else { Ok(()) }
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|inode| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(inode.content.len());
            let source = inode.content.get(start..).unwrap_or_default();
            let length = source.len().min(buffer.len());
            if let (Some(target), Some(source)) = (buffer.get_mut(..length), source.get(..length)) {
                target.copy_from_slice(source);
            }
            length
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        self.check_room(end as u64)?;
        self.with(|inode| {
            if inode.content.len() < end {
                inode.content.resize(end, 0);
            }
            if let Some(target) = inode.content.get_mut(start..end) {
                target.copy_from_slice(bytes);
            }
            if !bytes.is_empty() {
                inode.dirty.extend(start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
            }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inode| {
            inode.durable.resize(inode.content.len(), 0);
            if inode.dirty.is_empty() {
                return;
            }
            inode.fresh = std::mem::take(&mut inode.dirty);
            for sector in &inode.fresh {
                copy_sector(&inode.content, &mut inode.durable, *sector);
            }
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|inode| inode.content.len() as u64)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.check_room(length)?;
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.with(|inode| {
            // The sector that is cut, and those that grow back as zeros, differ from the durable image.
            let changed = length.min(inode.content.len()) / SECTOR_BYTES..length.div_ceil(SECTOR_BYTES);
            inode.content.resize(length, 0);
            inode.dirty.extend(changed);
        })
    }

    fn forget_unsynced(&self) {
        // A dead handle has nothing to forget.
        let _ = self.with(|inode| inode.dirty.clear());
    }
}
