//! What room the node has left: on the disk of its data, and for open files.
//!
//! Owns: [`Room`], and looking every second. Does not: free anything.
//! Invariants: clients get no file beyond `FILES_RESERVED` of what the process may open: the admin listener, links to peers and
//! storage go on when clients have taken the rest. What cannot be found out is no trouble.
//! Limits: `DISK_FREE_BYTES_MIN`, `DISK_FREE_BYTES_ENOUGH`, `FILES_RESERVED`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_storage::Disk;

use crate::edge::Edge;
use crate::limits::{DISK_FREE_BYTES_ENOUGH, DISK_FREE_BYTES_MIN, FILES_RESERVED, LOOK_EVERY};
use crate::metrics::process::open_files_max;

/// The figures of the last look.
pub struct Room {
    /// Free bytes of the disk while they are too few; `u64::MAX` while they are enough.
    disk_low_bytes: AtomicU64,
    /// Files that the process may have open; `u64::MAX` when that is not known.
    files_max: AtomicU64,
}

impl Default for Room {
    fn default() -> Self {
        Room { disk_low_bytes: AtomicU64::new(u64::MAX), files_max: AtomicU64::new(u64::MAX) }
    }
}

/// There is no file left for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "of {files_max} files that the process may have open, the last {FILES_RESERVED} are kept for the node itself: raise its limit \
     of open files (ulimit -n, LimitNOFILE)"
)]
pub struct NoFiles {
    /// Files that the process may have open.
    pub files_max: u64,
}

impl Room {
    /// So many bytes are free. Between the two limits it stays as it was: a segment more or less is no news.
    pub fn note_disk(&self, free_bytes: u64) {
        let was_low = self.disk_low_bytes.load(Ordering::Relaxed) != u64::MAX;
        let least = if was_low { DISK_FREE_BYTES_ENOUGH } else { DISK_FREE_BYTES_MIN };
        let low = if free_bytes < least { free_bytes } else { u64::MAX };
        self.disk_low_bytes.store(low, Ordering::Relaxed);
    }

    /// Why the disk may not take what is written next; `None` while it has room.
    pub fn disk_trouble(&self) -> Option<String> {
        let free = self.disk_low_bytes.load(Ordering::Relaxed);
        (free != u64::MAX).then(|| {
            let (free, least) = (free >> 20, DISK_FREE_BYTES_MIN >> 20);
            format!(
                "{free} MiB are free on the disk of the data, fewer than {least} MiB: the next checkpoint may not fit"
            )
        })
    }

    fn note_files(&self, files_max: Option<u64>) {
        self.files_max.store(files_max.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether a client may have this file. The system gives the lowest number that is free: a high one says that nearly all
    /// are taken.
    ///
    /// # Errors
    /// When it is one of those that are kept.
    pub fn lets_in(&self, file: &impl AsRawFd) -> Result<(), NoFiles> {
        let number = u64::try_from(file.as_raw_fd()).unwrap_or(0);
        let files_max = self.files_max.load(Ordering::Relaxed);
        let for_clients = files_max.saturating_sub(FILES_RESERVED);
        if number < for_clients { Ok(()) } else { Err(NoFiles { files_max }) }
    }

    /// Whether the next client would get a file, or why not.
    ///
    /// # Errors
    /// With a sentence.
    pub fn has_files(&self) -> Result<(), String> {
        let file = File::open("/dev/null").map_err(|error| error.to_string())?;
        self.lets_in(&file).map_err(|error| error.to_string())
    }
}

/// Looks every second, until the task is dropped. A disk that does not even say how much is free holds up one thread and this
/// task, nothing else.
pub async fn watch(edge: Arc<Edge>, disk: Arc<dyn Disk>) {
    loop {
        let disk = disk.clone();
        let look = move || (disk.usage().ok(), open_files_max());
        if let Ok((usage, files_max)) = tokio::task::spawn_blocking(look).await {
            edge.room.note_disk(usage.map_or(u64::MAX, |usage| usage.available_bytes));
            edge.room.note_files(files_max);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_is_low_below_the_least_and_until_there_is_enough() {
        let room = Room::default();
        let mut low = Vec::new();
        for free in [
            DISK_FREE_BYTES_ENOUGH,
            DISK_FREE_BYTES_MIN,
            DISK_FREE_BYTES_MIN - 1,
            0,
            DISK_FREE_BYTES_MIN,
            DISK_FREE_BYTES_ENOUGH - 1,
            DISK_FREE_BYTES_ENOUGH,
            DISK_FREE_BYTES_MIN,
        ] {
            room.note_disk(free);
            low.push(room.disk_trouble().is_some());
        }
        assert_eq!(low, [false, false, true, true, true, true, false, false]);
    }

    #[test]
    fn last_files_are_not_for_clients() {
        let room = Room::default();
        let file = File::open("/dev/null").unwrap();
        let number = u64::try_from(file.as_raw_fd()).unwrap();
        assert_eq!(room.lets_in(&file), Ok(()), "a limit that is not known limits nothing");
        for (files_max, expected) in [
            (number + FILES_RESERVED + 1, Ok(())),
            (number + FILES_RESERVED, Err(NoFiles { files_max: number + FILES_RESERVED })),
            (1, Err(NoFiles { files_max: 1 })),
        ] {
            room.note_files(Some(files_max));
            assert_eq!(room.lets_in(&file), expected);
        }
        assert!(room.has_files().unwrap_err().contains("LimitNOFILE"));
    }
}
