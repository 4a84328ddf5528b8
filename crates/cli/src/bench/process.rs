//! CPU time and resident memory of a process, from /proc.
//!
//! Owns: parsing. Does not: average or subtract.
//! Limits: Linux only; CPU time comes in ticks of 10 ms.

use std::fs;

use anyhow::Context;
use serde::Serialize;

/// Usage of one process at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Usage {
    /// Process id.
    pub pid: u32,
    /// User and system seconds so far.
    pub cpu_s: f64,
    /// Resident memory now.
    pub resident_bytes: u64,
    /// Largest resident memory so far.
    pub resident_bytes_max: u64,
}

/// Usage of each process.
pub fn usage_of(pids: &[u32]) -> anyhow::Result<Vec<Usage>> {
    pids.iter().map(|pid| usage(*pid)).collect()
}

/// Usage of this process.
pub fn own_usage() -> anyhow::Result<Usage> {
    usage(std::process::id())
}

fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    };
    let ticks = cpu_ticks(&read("stat")?).with_context(|| format!("read the CPU time of process {pid}"))?;
    let status = read("status")?;
    let bytes = |name| kilobytes(&status, name).map(|number| number.saturating_mul(1024)).unwrap_or(0);
    Ok(Usage {
        pid,
        cpu_s: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
        resident_bytes: bytes("VmRSS:"),
        resident_bytes_max: bytes("VmHWM:"),
    })
}

/// Fields 14 and 15 of `stat`, counted after the name, which may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 2 3 4 150 25 9 9 20 0 4 0 100";
        assert_eq!(cpu_ticks(stat), Some(175));
        assert_eq!(cpu_ticks("77 (a"), None);
        assert_eq!(kilobytes("VmPeak:\t 9 kB\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert!(own_usage().unwrap().resident_bytes > 0);
        assert!(usage(u32::MAX).is_err());
    }
}
