//! The last room on the disk of the data: a reserve for a full disk, and waiting for room before writes that must not fail.
//!
//! Owns: the file `reserve`, [`Space`]. Does not: write anything else, or decide whether clients may publish; see `room.rs`.
//! Invariants: the reserve is given back before anything waits for room, and made anew only when there is plenty; a wait ends when
//! the node stops.
//! Limits: `storage.disk_reserve_bytes`, `DISK_KEPT_BYTES`, `FULL_DISK_PAUSE`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;
use quorate_storage::Disk;
use tokio::sync::watch;

use crate::limits::{DISK_KEPT_BYTES, FULL_DISK_PAUSE};

/// Name of the reserve in the data folder.
const RESERVE: &str = "reserve";

/// The node stops: whoever waits for room ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopping;

/// The last room on a disk.
pub struct Space {
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    /// Whether the reserve is there.
    held: Mutex<bool>,
    stopping: AtomicBool,
}

impl Space {
    /// For a data folder that may have a reserve. One that is there already is given back at once when the disk has little
    /// room: the start itself writes.
    pub fn open(disk: Arc<dyn Disk>, reserve_bytes: u64) -> Space {
        let held = disk.list("").is_ok_and(|names| names.iter().any(|name| name == RESERVE));
        let space = Space { disk, reserve_bytes, held: Mutex::new(held), stopping: AtomicBool::new(false) };
        if held && (reserve_bytes == 0 || !space.has(reserve_bytes)) {
            space.give_back();
        }
        space
    }

    /// Whether so many bytes can be written, and something is left for what is written besides. A disk that does not say
    /// counts as one with room.
    pub fn has(&self, bytes: u64) -> bool {
        let needed = bytes.saturating_add(DISK_KEPT_BYTES);
        self.disk.usage().map_or(true, |usage| usage.available_bytes >= needed)
    }

    /// Gives the reserve to the disk. False when there is none.
    pub fn give_back(&self) -> bool {
        let mut held = self.held.lock();
        if !*held {
            return false;
        }
        match self.disk.unlink(RESERVE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(%error, "the reserve of the disk cannot be removed");
                return false;
            }
            _ => (),
        }
        *held = false;
        tracing::warn!(
            bytes = self.reserve_bytes,
            "the disk is nearly full: its reserve is in use for what must be written"
        );
        true
    }

    /// Makes the reserve, if it is not there. `free_bytes` are free, and `enough_bytes` of them are to stay so.
    pub fn renew(&self, free_bytes: u64, enough_bytes: u64) {
        let mut held = self.held.lock();
        if *held || self.reserve_bytes == 0 || free_bytes < enough_bytes.saturating_add(self.reserve_bytes) {
            return;
        }
        match self.disk.allocate(RESERVE, self.reserve_bytes) {
            Ok(()) => *held = true,
            Err(error) => tracing::warn!(%error, "the reserve for a full disk cannot be made"),
        }
    }

    /// Waits until so many bytes can be written.
    ///
    /// # Errors
    /// When the node stops first.
    pub fn wait_for(&self, bytes: u64) -> Result<(), Stopping> {
        let mut told = false;
        while !self.has(bytes) {
            if !told {
                tracing::error!(bytes, "the disk is full: a write waits until there is room");
                told = true;
            }
            self.pause()?;
        }
        Ok(())
    }

    /// Waits until a start can write what it has to: nothing of it can wait once it has begun.
    ///
    /// # Errors
    /// When the node is told to stop first.
    pub async fn wait_to_start(&self, mut stop: watch::Receiver<bool>) -> Result<(), Stopping> {
        let mut told = false;
        while !self.has(0) && !self.give_back() {
            if !told {
                tracing::error!(
                    wanted_bytes = DISK_KEPT_BYTES,
                    "the disk is full: the node starts when there is room on the file system of node.data_dir"
                );
                told = true;
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return Err(Stopping),
                () = tokio::time::sleep(FULL_DISK_PAUSE) => (),
            }
        }
        Ok(())
    }

    /// What comes between two tries of a write that found no room: the reserve is given back, or time passes.
    ///
    /// # Errors
    /// When the node stops.
    #[expect(clippy::disallowed_methods, reason = "nothing tells when a disk has room again")]
    pub fn pause(&self) -> Result<(), Stopping> {
        if !self.give_back() {
            thread::sleep(FULL_DISK_PAUSE);
        }
        self.check()
    }

    /// Whether a wait goes on.
    ///
    /// # Errors
    /// When the node stops.
    pub fn check(&self) -> Result<(), Stopping> {
        if self.stopping.load(Ordering::Acquire) { Err(Stopping) } else { Ok(()) }
    }

    /// The node stops: nobody waits any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_storage::disk::memory::MemoryDisk;

    const MIB: u64 = 1 << 20;

    #[test]
    fn reserve_is_given_back_once_and_made_again_when_there_is_plenty() {
        let disk = MemoryDisk::new();
        disk.limit_capacity(Some(100 * MIB));
        let space = Space::open(Arc::new(disk.clone()), 8 * MIB);
        let free = || disk.usage().unwrap().available_bytes;
        assert!(!space.give_back(), "there is none yet");
        space.renew(free(), 93 * MIB);
        assert_eq!(free(), 100 * MIB, "not plenty");
        space.renew(free(), 92 * MIB);
        assert_eq!(free(), 92 * MIB);
        space.renew(free(), 0);
        assert_eq!(free(), 92 * MIB, "it is there");
        assert!(space.give_back() && !space.give_back());
        assert_eq!(free(), 100 * MIB);
    }

    #[test]
    fn reserve_is_found_again_and_given_back_where_a_start_has_no_room() {
        let disk = MemoryDisk::new();
        let open = || Space::open(Arc::new(disk.clone()), 8 * MIB);
        open().renew(u64::MAX, 0);
        assert!(open().give_back(), "found");
        open().renew(u64::MAX, 0);
        disk.limit_capacity(Some(8 * MIB + DISK_KEPT_BYTES));
        assert!(!open().give_back(), "given back by the start");
        assert!(disk.list("").unwrap().is_empty());
    }

    #[tokio::test]
    async fn start_waits_for_room_or_for_the_end() {
        let disk = MemoryDisk::new();
        disk.limit_capacity(Some(DISK_KEPT_BYTES - 1));
        let space = Space::open(Arc::new(disk.clone()), 0);
        let (stop, told) = watch::channel(false);
        tokio::select! {
            biased;
            _ = space.wait_to_start(told.clone()) => panic!("there is no room"),
            () = std::future::ready(()) => (),
        }
        let freed = async { disk.limit_capacity(Some(DISK_KEPT_BYTES)) };
        let (started, ()) = tokio::join!(space.wait_to_start(told.clone()), freed);
        assert_eq!(started, Ok(()));
        disk.limit_capacity(Some(0));
        stop.send_replace(true);
        assert_eq!(space.wait_to_start(told).await, Err(Stopping));
    }

    #[test]
    fn wait_takes_the_reserve_and_ends_with_room_or_with_the_node() {
        let disk = MemoryDisk::new();
        let space = Arc::new(Space::open(Arc::new(disk.clone()), 8 * MIB));
        space.renew(u64::MAX, 0);
        disk.limit_capacity(Some(8 * MIB + DISK_KEPT_BYTES));
        assert!(!space.has(8 * MIB));
        assert_eq!(space.wait_for(8 * MIB), Ok(()), "the reserve was enough");
        let waiting = thread::spawn({
            let space = space.clone();
            move || space.wait_for(9 * MIB)
        });
        disk.limit_capacity(Some(9 * MIB + DISK_KEPT_BYTES));
        assert_eq!(waiting.join().unwrap(), Ok(()));
        space.stop();
        assert_eq!(space.wait_for(10 * MIB), Err(Stopping));
    }
}
