//! What room the node has left: on the disk of its data, and for open files.
//!
//! Owns: [`Room`], and looking every second. Does not: free anything.
//! Invariants: clients get no file beyond `FILES_RESERVED` of what the process may open: the admin listener, links to peers and
//! storage go on when clients have taken the rest. Messages are taken in while more is free than `storage.disk_soft_bytes`. What
//! cannot be found out is no trouble.
//! Limits: `DISK_FREE_BYTES_MIN`, `DISK_FREE_BYTES_ENOUGH`, `DISK_SOFT_MARGIN_BYTES_MAX`, `FILES_RESERVED`.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use quorate_node::Event;
use quorate_node::client::Intake;
use quorate_storage::Disk;

use crate::edge::Edge;
use crate::limits::{
    DISK_FREE_BYTES_ENOUGH, DISK_FREE_BYTES_MIN, DISK_KEPT_BYTES, DISK_SOFT_MARGIN_BYTES_MAX, FILES_RESERVED,
    LOOK_EVERY,
};
use crate::metrics::process::open_files_max;
use crate::space::Space;

/// The figures of the last look.
pub struct Room {
    /// Free bytes of the disk while they are too few; `u64::MAX` while they are enough.
    disk_low_bytes: AtomicU64,
    /// With fewer free bytes no message is taken in; 0 for no such limit.
    disk_soft_bytes: AtomicU64,
    /// No message is taken in.
    closed: AtomicBool,
    /// Files that the process may have open; `u64::MAX` when that is not known.
    files_max: AtomicU64,
}

impl Default for Room {
    fn default() -> Self {
        Room {
            disk_low_bytes: AtomicU64::new(u64::MAX),
            disk_soft_bytes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            files_max: AtomicU64::new(u64::MAX),
        }
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
    /// From the next look on no message is taken in with fewer free bytes; 0 for no such limit.
    pub fn limit_disk(&self, disk_soft_bytes: u64) {
        self.disk_soft_bytes.store(disk_soft_bytes, Ordering::Relaxed);
    }

    /// Whether messages of clients are taken in.
    pub fn intake(&self) -> Intake {
        if self.closed.load(Ordering::Relaxed) { Intake::Closed } else { Intake::Open }
    }

    /// So many bytes are free. Between two limits it stays as it was: a segment more or less is no news.
    pub fn note_disk(&self, free_bytes: u64) {
        let soft = self.disk_soft_bytes.load(Ordering::Relaxed);
        let was_closed = self.closed.load(Ordering::Relaxed);
        let least = if was_closed { with_margin(soft) } else { soft };
        self.closed.store(free_bytes < least, Ordering::Relaxed);
        let was_low = self.disk_low_bytes.load(Ordering::Relaxed) != u64::MAX;
        let least = if was_low { DISK_FREE_BYTES_ENOUGH } else { DISK_FREE_BYTES_MIN };
        let low = if free_bytes < least { free_bytes } else { u64::MAX };
        self.disk_low_bytes.store(low, Ordering::Relaxed);
    }

    /// Free bytes from which on the disk has no trouble of any kind.
    fn enough_bytes(&self) -> u64 {
        with_margin(self.disk_soft_bytes.load(Ordering::Relaxed)).max(DISK_FREE_BYTES_ENOUGH)
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

/// Free bytes from which on a node that took no messages in takes them again.
fn with_margin(soft_bytes: u64) -> u64 {
    soft_bytes.saturating_add((soft_bytes / 4).min(DISK_SOFT_MARGIN_BYTES_MAX))
}

/// Looks every second, until the task is dropped. A disk that does not even say how much is free holds up one thread and this
/// task, nothing else.
pub async fn watch(edge: Arc<Edge>, disk: Arc<dyn Disk>, space: Arc<Space>) {
    loop {
        let (disk, space) = (disk.clone(), space.clone());
        let enough_bytes = edge.room.enough_bytes();
        let look = move || {
            let usage = disk.usage().ok();
            match usage {
                Some(usage) if usage.available_bytes < DISK_KEPT_BYTES => _ = space.give_back(),
                Some(usage) => space.renew(usage.available_bytes, enough_bytes),
                None => (),
            }
            (usage, open_files_max())
        };
        if let Ok((usage, files_max)) = tokio::task::spawn_blocking(look).await {
            let before = edge.room.intake();
            let free_bytes = usage.map_or(u64::MAX, |usage| usage.available_bytes);
            edge.room.note_disk(free_bytes);
            edge.room.note_files(files_max);
            tell(&edge, before, free_bytes);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Tells operators whether messages are taken in, when that has changed.
fn tell(edge: &Edge, before: Intake, free_bytes: u64) {
    let intake = edge.room.intake();
    if intake == before {
        return;
    }
    edge.inbox.report(Event::DiskLow(intake == Intake::Closed));
    match intake {
        Intake::Closed => {
            edge.metrics.disk_low.set(1);
            tracing::warn!(
                free_bytes,
                "the disk has little room left: no message is taken in until there is more"
            );
        }
        Intake::Open => {
            edge.metrics.disk_low.set(0);
            tracing::info!(free_bytes, "the disk has room again: messages are taken in");
        }
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
    fn intake_is_closed_below_the_soft_limit_and_until_there_is_more() {
        const MIB: u64 = 1 << 20;
        let room = Room::default();
        let look = |soft: u64, free: u64| {
            room.limit_disk(soft * MIB);
            room.note_disk(free * MIB);
            room.intake() == Intake::Closed
        };
        assert!(!look(0, 0), "no limit");
        let closed = [256, 255, 256, 319, 320, 300].map(|free| look(256, free));
        assert_eq!(closed, [false, true, true, true, false, false]);
        let closed = [10_000, 9_999, 10_063, 10_064].map(|free| look(10_000, free));
        assert_eq!(closed, [false, true, true, false], "the margin is bounded");
        assert!(look(100, 99) && !look(0, 99), "a limit that is lifted");
        assert!(look(100, 99));
        room.note_disk(u64::MAX);
        assert_eq!(room.intake(), Intake::Open, "what is not known is no trouble");
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
