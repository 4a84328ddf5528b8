//! The one way to files: real, in memory, faulty.
//!
//! Owns: the traits and what a caller may rely on. Does not: cache, retry, or hide an error.
//! Invariants: written bytes are durable after `sync_data`; a name (created, renamed, unlinked) is durable after
//! `sync_directory` of its directory, and not before.

use std::io;
use std::sync::Arc;

use crate::field::memory;

pub mod faulty;
pub mod memory;
pub mod os;

pub use faulty::FaultyDisk;
pub use memory::MemoryDisk;
pub use os::OsDisk;

/// Bytes written at once when zeros are written.
const ZERO_CHUNK_BYTES: usize = 1 << 20;

/// A directory tree. Paths are relative to its root, parts separated by `/`; the root itself is the empty path.
pub trait Disk: Send + Sync + 'static {
    /// Creates a file of `length` zero bytes, written out so that later writes inside it allocate nothing.
    /// Fails with `AlreadyExists` if the name is taken. When it fails in mid-way no file is left behind.
    fn create(&self, path: &str, length: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Takes room for `length` bytes under this name; what the file holds says nothing. Replaces what has the name. When it fails
    /// no file is left behind.
    fn allocate(&self, path: &str, length: u64) -> io::Result<()> {
        match self.unlink(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.create(path, length).map(|_| ())
    }

    /// Opens a file for reading and writing. Reads that follow come from the device where the system allows it, not
    /// from a cache that a failed sync has made a liar.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name in the same directory, replacing what had that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Open handles stay valid.
    fn unlink(&self, path: &str) -> io::Result<()>;

    /// Creates a directory; does nothing if it is there. Its name is durable when this returns.
    fn create_directory(&self, path: &str) -> io::Result<()>;

    /// Names in a directory, sorted.
    fn list(&self, directory: &str) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &str) -> io::Result<()>;

    /// Takes a lock that no second process can hold; it ends when the returned value is dropped or the process
    /// ends. Fails with `WouldBlock` while another holds it.
    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>>;

    /// Space of the file system.
    fn usage(&self) -> io::Result<DiskUsage>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`, growing the file if needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes content and length durable. After an error nothing may be assumed: the process must stop.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or grows the file.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// What a kernel does when a sync fails: the written bytes can still be read, are taken for clean, and no later
    /// sync will bring them to the device. Called by the faulty disk only; does nothing on a real one.
    fn forget_unsynced(&self) {}
}

/// Space of the file system that holds the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskUsage {
    /// Size in bytes.
    pub total_bytes: u64,
    /// Bytes that this process may still allocate.
    pub available_bytes: u64,
}

/// Reads exactly `length` bytes, or as many as there are before the end of the file.
pub(crate) fn read_up_to(file: &dyn DiskFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset + filled as u64, rest)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Whether a call failed because the disk has no room. It may be made again when there is.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes zeros to a range of a file, whatever is there.
pub(crate) fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_CHUNK_BYTES.min(memory(to.saturating_sub(from)))];
    let mut offset = from;
    while offset < to {
        let wanted = memory(to - offset).min(zeros.len());
        file.write_at(offset, zeros.get(..wanted).unwrap_or_default())?;
        offset += wanted as u64;
    }
    Ok(())
}

/// Whether a file of `length` bytes would leave so many bytes free. A disk that does not say counts as one with room.
pub(crate) fn leaves(disk: &dyn Disk, length: u64, kept_bytes: u64) -> bool {
    let needed = length.saturating_add(kept_bytes);
    kept_bytes == 0 || disk.usage().map_or(true, |usage| usage.available_bytes >= needed)
}

/// Directory part of a path.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(directory, _)| directory)
}

#[cfg(test)]
mod tests;
