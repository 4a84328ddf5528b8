//! Files of the operating system.
//!
//! Owns: the mapping to system calls. Does not: retry, or go around the page cache while running.
//! Invariants: a created file is zero-filled by writing, so that later syncs carry data only, no allocation.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};

use super::{Disk, DiskFile, DiskUsage, parent, write_zeros};

/// A directory of the operating system.
#[derive(Clone, Debug)]
pub struct OsDisk {
    root: PathBuf,
}

impl OsDisk {
    /// Uses `root`, creating it if needed.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root)?;
        if let Some(above) = root.canonicalize()?.parent() {
            File::open(above)?.sync_all()?;
        }
        Ok(Self { root })
    }

    /// The directory in the operating system, for libraries that do their own file access.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl Disk for OsDisk {
    fn create(&self, path: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let full = self.path(path);
        let file = OsFile(OpenOptions::new().read(true).write(true).create_new(true).open(&full)?);
        match zero_fill(&file, length) {
            Ok(()) => Ok(Arc::new(file)),
            Err(error) => {
                // The first error is the one to report; a file left behind is found and removed at the next open.
                let _ = std::fs::remove_file(&full);
                Err(error)
            }
        }
    }

    /// Without writing, where the file system can.
    fn allocate(&self, path: &str, length: u64) -> io::Result<()> {
        let full = self.path(path);
        let file = OsFile(OpenOptions::new().write(true).create(true).truncate(true).open(&full)?);
        let allocated = match rustix::fs::fallocate(&file.0, FallocateFlags::empty(), 0, length) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => zero_fill(&file, length),
            result => result.map_err(io::Error::from).and_then(|()| file.0.sync_all()),
        };
        if allocated.is_err() {
            // The first error is the one to report; what is left behind holds no room.
            let _ = std::fs::remove_file(&full);
        }
        allocated
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(path))?;
        // Only clean pages are dropped. Advice may be refused; reads are then as good as the page cache.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(Arc::new(OsFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path(from), self.path(to))
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.path(path))
    }

    fn create_directory(&self, path: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.path(path))?;
        self.sync_directory(parent(path))
    }

    fn list(&self, directory: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path(directory))? {
            // A name that is not UTF-8 is none of ours, but it makes the directory non-empty.
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn sync_directory(&self, directory: &str) -> io::Result<()> {
        File::open(self.path(directory))?.sync_all()
    }

    fn lock(&self, path: &str) -> io::Result<Box<dyn Send + Sync>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(self.path(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn usage(&self) -> io::Result<DiskUsage> {
        usage_of(&self.root)
    }
}

/// Space of the file system that holds `path`, for soft and hard limits.
pub fn usage_of(path: &Path) -> io::Result<DiskUsage> {
    let status = rustix::fs::statvfs(path)?;
    Ok(DiskUsage {
        total_bytes: status.f_blocks.saturating_mul(status.f_frsize),
        available_bytes: status.f_bavail.saturating_mul(status.f_frsize),
    })
}

fn zero_fill(file: &OsFile, length: u64) -> io::Result<()> {
    write_zeros(file, 0, length)?;
    file.0.sync_all()
}

struct OsFile(File);

impl DiskFile for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}
