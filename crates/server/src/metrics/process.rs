//! What the operating system says about this process and its data directory.
//!
//! Owns: reading `/proc/self` and the file system. Does not: keep anything; each question reads anew.
//! Invariants: what cannot be read is left out, never shown as 0. Limits: DATA_FILES_MAX entries of the data directory
//! are added up; beyond that its size is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_storage::Disk;

use super::catalog;
use super::text::Text;
use crate::limits::DATA_FILES_MAX;
use crate::memory::{limit_of_system, resident_bytes};

/// Where to read.
#[derive(Clone)]
pub struct ProcessFigures {
    /// The data directory as a disk.
    pub disk: Arc<dyn Disk>,
    /// Its path.
    pub data_dir: PathBuf,
}

/// Ticks of the processor times in `/proc`: Linux shows them to programs in hundredths of a second on every machine.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessFigures {
    /// Writes the figures. Reads files: not for a task that must not block.
    pub fn render(&self, text: &mut Text) {
        text.head(&catalog::BUILD_INFO);
        text.sample(&catalog::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
            text.number(&catalog::WALL_TIME, now.as_secs_f64());
        }
        if let Ok(usage) = self.disk.usage() {
            text.value(&catalog::DISK_FREE, usage.available_bytes);
            text.value(&catalog::DISK_SIZE, usage.total_bytes);
        }
        if let Some(bytes) = bytes_below(&self.data_dir) {
            text.value(&catalog::DATA_BYTES, bytes);
        }
        if let Some(bytes) = resident_bytes() {
            text.value(&catalog::RESIDENT_MEMORY, bytes);
        }
        if let Some(bytes) = limit_of_system() {
            text.value(&catalog::MEMORY_LIMIT, bytes);
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            text.value(&catalog::OPEN_FILES, u64::try_from(files.count()).unwrap_or(u64::MAX));
        }
        if let Some(most) = open_files_max() {
            text.value(&catalog::OPEN_FILES_MAX, most);
        }
        if let Some(times) = ProcessTimes::read() {
            text.number(&catalog::CPU_TIME, times.cpu_s);
            text.number(&catalog::START_TIME, times.started_s);
        }
    }
}

/// Space that the files below a folder take; `None` when they are too many, or the folder cannot be read. A file that goes
/// meanwhile counts nothing.
fn bytes_below(folder: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    const BLOCK_BYTES: u64 = 512;
    let mut folders = vec![folder.to_owned()];
    let (mut bytes, mut seen) = (0_u64, 0_usize);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            seen += 1;
            if seen > DATA_FILES_MAX {
                return None;
            }
            // Links are not followed: what they lead to is elsewhere.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                bytes = bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK_BYTES));
            }
        }
    }
    Some(bytes)
}

/// Files that this process may have open; `None` when that is not known.
pub fn open_files_max() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

struct ProcessTimes {
    cpu_s: f64,
    started_s: f64,
}

impl ProcessTimes {
    fn read() -> Option<ProcessTimes> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program may hold anything, but ends with the last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
        // Counted from the field behind the name: utime, stime and starttime of proc(5).
        let (user, system, started) = (ticks(11)?, ticks(12)?, ticks(19)?);
        let system_stat = fs::read_to_string("/proc/stat").ok()?;
        let booted = system_stat.lines().find_map(|line| line.strip_prefix("btime "))?;
        let booted_s: f64 = booted.trim().parse().ok()?;
        Some(ProcessTimes {
            cpu_s: (user + system) / TICKS_PER_SECOND,
            started_s: booted_s + started / TICKS_PER_SECOND,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestFolder;

    #[test]
    fn files_below_a_folder_are_added_up_and_links_are_not_followed() {
        let folder = TestFolder::new();
        assert_eq!(bytes_below(folder.path()), Some(0));
        fs::create_dir(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("log/segment"), vec![7; 100_000]).unwrap();
        let bytes = bytes_below(folder.path()).unwrap();
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        std::os::unix::fs::symlink("/", folder.path().join("root")).unwrap();
        assert!(bytes_below(folder.path()).unwrap() < 200_000);
        assert_eq!(bytes_below(&folder.path().join("gone")), None);
    }

    #[test]
    fn process_says_what_it_takes() {
        let times = ProcessTimes::read().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(times.cpu_s >= 0.0);
        // The time of booting is given in whole seconds.
        assert!(times.started_s <= now + 2.0 && times.started_s > now - 24.0 * 3600.0, "{}", times.started_s);
        assert!(open_files_max().unwrap() > 10);
    }
}
