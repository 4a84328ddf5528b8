//! What memory the process may take, what it takes, and how short it is.
//!
//! Owns: [`Memory`], finding the limit that the system sets, and looking several times a second. Does not: free anything, or
//! decide what is refused; `quorate_node::client` does, by [`Pressure`].
//! Invariants: pressure comes at one limit and goes at a lower one, so that it does not come and go with each look. What cannot
//! be found out is no trouble.
//! Limits: `MEMORY_HIGH_PERCENT`, `MEMORY_FULL_PERCENT`, `MEMORY_MARGIN_PERCENT`, `MEMORY_LOOK_EVERY`, `MEMORY_CALM`.

pub mod shares;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use quorate_node::client::Pressure;

use crate::edge::Edge;
use crate::limits::{
    MEMORY_CALM, MEMORY_FULL_PERCENT, MEMORY_HIGH_PERCENT, MEMORY_LOOK_EVERY, MEMORY_MARGIN_PERCENT,
};

/// The figures of the last look.
#[derive(Default)]
pub struct Memory {
    /// Bytes that the process may take; 0 while that is not known.
    budget_bytes: u64,
    used_bytes: AtomicU64,
    /// As [`number_of`] counts.
    pressure: AtomicU8,
}

fn number_of(pressure: Pressure) -> u8 {
    match pressure {
        Pressure::None => 0,
        Pressure::High => 1,
        Pressure::Full => 2,
    }
}

impl Memory {
    /// With so many bytes that the process may take; `None` when that is not known.
    pub fn new(budget_bytes: Option<u64>) -> Memory {
        Memory { budget_bytes: budget_bytes.unwrap_or(0), ..Memory::default() }
    }

    /// How short it is.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::High,
            _ => Pressure::Full,
        }
    }

    /// Bytes that the process may take; 0 when that is not known.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Bytes that it took at the last look.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Why no client is let in; `None` while they are.
    pub fn trouble(&self) -> Option<String> {
        (self.pressure() == Pressure::Full).then(|| {
            let (used, budget) = (self.used_bytes() >> 20, self.budget_bytes >> 20);
            format!(
                "{used} of {budget} MiB of memory are in use, more than {MEMORY_FULL_PERCENT} %: clients are refused"
            )
        })
    }

    /// So many bytes are in use.
    pub fn note(&self, used_bytes: u64) {
        let before = self.pressure();
        let over = |percent: u64| {
            used_bytes.saturating_mul(100) >= self.budget_bytes.saturating_mul(percent)
                && self.budget_bytes > 0
        };
        let stays = |pressure: Pressure, percent: u64| {
            over(percent) || (before >= pressure && over(percent - MEMORY_MARGIN_PERCENT))
        };
        let pressure = if stays(Pressure::Full, MEMORY_FULL_PERCENT) {
            Pressure::Full
        } else if stays(Pressure::High, MEMORY_HIGH_PERCENT) {
            Pressure::High
        } else {
            Pressure::None
        };
        self.used_bytes.store(used_bytes, Ordering::Relaxed);
        self.pressure.store(number_of(pressure), Ordering::Relaxed);
    }
}

/// Looks until `stop` is disconnected. A thread of its own: with the sockets' threads at work, memory is short soonest.
pub fn watch(edge: &Arc<Edge>, stop: &Receiver<()>) {
    let memory = &edge.memory;
    let mut teller = Teller::default();
    edge.metrics.memory_budget.set(memory.budget_bytes());
    loop {
        if let Some(used_bytes) = resident_bytes() {
            memory.note(used_bytes);
            let pressure = memory.pressure();
            edge.metrics.memory_used.set(used_bytes);
            edge.metrics.memory_pressure.set(u64::from(number_of(pressure)));
            if teller.note(pressure, edge.clock.now()) {
                tell(memory, pressure);
            }
        }
        match stop.recv_timeout(MEMORY_LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => (),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What operators were told last. Under load pressure comes and goes many times a second: more of it is news at once, less only
/// when it has stayed so.
#[derive(Default)]
struct Teller {
    told: Pressure,
    /// When it was last as much as told.
    seen_at: Duration,
}

impl Teller {
    /// Whether there is something to tell.
    fn note(&mut self, pressure: Pressure, now: Duration) -> bool {
        let is_news =
            pressure > self.told || (pressure < self.told && now.saturating_sub(self.seen_at) >= MEMORY_CALM);
        if is_news {
            self.told = pressure;
        }
        if pressure >= self.told {
            self.seen_at = now;
        }
        is_news
    }
}

fn tell(memory: &Memory, pressure: Pressure) {
    let (used_bytes, budget_bytes) = (memory.used_bytes(), memory.budget_bytes());
    match pressure {
        Pressure::None => {
            tracing::info!(
                used_bytes,
                budget_bytes,
                "there is memory again: publishers are read as fast as they send"
            );
        }
        Pressure::High => {
            tracing::warn!(used_bytes, budget_bytes, "memory is short: publishers are read slowly");
        }
        Pressure::Full => {
            tracing::warn!(
                used_bytes,
                budget_bytes,
                "nearly no memory is left: clients and messages are refused"
            );
        }
    }
}

/// Memory of this process that is in the machine's.
pub fn resident_bytes() -> Option<u64> {
    Some(kilobytes(Path::new("/proc/self/status"), "VmRSS:")?.saturating_mul(1024))
}

/// What the process may take by the system's word: the least of the limits of its control group and of those above, or the
/// memory of the machine when that is less.
pub fn limit_of_system() -> Option<u64> {
    limit_below(Path::new("/"))
}

/// As [`limit_of_system`], with all files below `root`.
fn limit_below(root: &Path) -> Option<u64> {
    let machine = kilobytes(&root.join("proc/meminfo"), "MemTotal:")?.saturating_mul(1024);
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut limit = machine;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (mount, files): (_, &[&str]) = if controllers.is_empty() {
            ("sys/fs/cgroup", &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|name| name == "memory") {
            ("sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
        } else {
            continue;
        };
        // A container sees its own group as the root, whatever its path says.
        let mount = root.join(mount);
        let path = Path::new(path.trim_start_matches('/'));
        for group in path.ancestors() {
            for file in files {
                let text = fs::read_to_string(mount.join(group).join(file)).unwrap_or_default();
                limit = text.trim().parse().map_or(limit, |found: u64| limit.min(found));
            }
        }
    }
    Some(limit)
}

fn kilobytes(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestFolder;

    #[test]
    fn pressure_comes_at_one_limit_and_goes_at_a_lower_one() {
        use Pressure::{Full, High, None};
        let memory = Memory::new(Some(1000));
        let look = |used: u64| {
            memory.note(used);
            memory.pressure()
        };
        let seen = [799, 800, 760, 749, 750, 899, 900, 850, 849, 760, 749, 2000, 0].map(look);
        assert_eq!(seen, [None, High, High, None, None, High, Full, Full, High, High, None, Full, None]);
        assert_eq!(memory.trouble(), Option::None);
        memory.note(950);
        assert!(memory.trouble().is_some_and(|text| text.contains("90 %")));
        let unknown = Memory::new(Option::None);
        unknown.note(u64::MAX);
        assert_eq!(unknown.pressure(), None, "what is not known is no trouble");
    }

    #[test]
    fn operators_are_told_of_more_at_once_and_of_less_when_it_stays() {
        use Pressure::{Full, High, None};
        let mut teller = Teller::default();
        let calm = u64::try_from(MEMORY_CALM.as_millis()).unwrap();
        let looks = [
            (None, 0, false),
            (High, 1, true),
            (None, 2, false),
            (High, 3, false),
            (Full, 4, true),
            (High, 5, false),
            (None, 3 + calm, false),
            (High, 4 + calm, true),
            (None, 5 + calm, false),
            (None, 4 + 2 * calm, true),
        ];
        for (pressure, at_ms, told) in looks {
            assert_eq!(teller.note(pressure, Duration::from_millis(at_ms)), told, "{pressure:?} at {at_ms}");
        }
    }

    #[test]
    fn limit_is_the_least_of_the_machine_and_of_the_groups_up_to_the_root() {
        const MIB: u64 = 1 << 20;
        let folder = TestFolder::new();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let limit = || limit_below(folder.path()).map(|bytes| bytes / MIB);
        assert_eq!(limit(), None);
        write("proc/meminfo", "MemFree: 7 kB\nMemTotal:       1048576 kB\n");
        assert_eq!(limit(), Some(1024), "no group");
        write("proc/self/cgroup", "5:devices:/x\n4:cpu,memory:/a/b\n0::/c/d\n");
        write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(), Some(1024), "without a limit of its own");
        write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "838860800\n");
        assert_eq!(limit(), Some(800), "of the group above");
        write("sys/fs/cgroup/c/d/memory.max", "max\n");
        write("sys/fs/cgroup/c/d/memory.high", "629145600\n");
        assert_eq!(limit(), Some(600));
        write("sys/fs/cgroup/memory.max", "268435456\n");
        assert_eq!(limit(), Some(256), "as a container sees it");
        write("proc/self/cgroup", "");
        assert_eq!(limit(), Some(1024));
    }

    #[test]
    fn process_has_memory_and_a_limit() {
        assert!(resident_bytes().unwrap() > 1_000_000);
        assert!(limit_of_system().unwrap() > resident_bytes().unwrap());
    }
}
