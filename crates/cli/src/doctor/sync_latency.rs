//! How long the disk takes to make a small write durable: every acknowledgement waits for that.
//!
//! Owns: measuring it in the data directory. Does not: measure throughput.
//! Invariants: writes in place, into blocks that are there already, as the log does.
//! Limits: DOCTOR_SYNCS, DOCTOR_SYNC_TIME_MAX.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Host;
use super::data_directory::probe;
use super::finding::{Finding, Severity};
use crate::limits::{DOCTOR_SYNC_TIME_MAX, DOCTOR_SYNCS};

/// Above this p50 the cluster works, but publishing with QoS 1 is slow.
const P50_WARNING: Duration = Duration::from_millis(20);

/// Above this p99 clients see pauses.
const P99_WARNING: Duration = Duration::from_millis(100);

/// Above this p50 a node does not renew its lease of 700 ms in time, since that takes several syncs in a row.
const P50_ERROR: Duration = Duration::from_millis(150);

/// Bytes of each write.
const WRITE_BYTES: usize = 4096;

/// What was measured.
#[derive(Clone, Debug)]
pub struct SyncFacts {
    /// Where.
    pub place: PathBuf,
    /// How long each write with its sync took, shortest first; or why there is none.
    pub taken: Result<Vec<Duration>, io::ErrorKind>,
}

/// Measures in `dir`.
pub fn gather(dir: &Path, host: &dyn Host) -> SyncFacts {
    SyncFacts { place: dir.to_owned(), taken: measure(dir, host).map_err(|error| error.kind()) }
}

fn measure(dir: &Path, host: &dyn Host) -> io::Result<Vec<Duration>> {
    let file: File = probe(dir)?;
    let block = [0x5A; WRITE_BYTES];
    let offset = |at: u32| u64::from(at) * block.len() as u64;
    for at in 0..DOCTOR_SYNCS {
        file.write_all_at(&block, offset(at))?;
    }
    file.sync_all()?;
    let begun = Instant::now();
    let mut taken = Vec::new();
    for at in 0..DOCTOR_SYNCS {
        taken.push(host.write_durably(&file, &block, offset(at))?);
        if begun.elapsed() > DOCTOR_SYNC_TIME_MAX {
            break;
        }
    }
    taken.sort_unstable();
    Ok(taken)
}

/// The value that `percent` of the sorted values do not exceed.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).or(sorted.last()).copied().unwrap_or_default()
}

/// Judges what was measured.
pub fn check(facts: &SyncFacts) -> Vec<Finding> {
    let place = facts.place.display();
    let taken = match &facts.taken {
        Ok(taken) => taken,
        // That nothing can be written there has its own finding.
        Err(
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::StorageFull,
        ) => {
            return Vec::new();
        }
        Err(kind) => {
            return vec![Finding::error(
                "sync_failed",
                place,
                format!("a write with fdatasync failed: {kind}"),
                "look at the disk and at the kernel's log; a node stops at the first sync that fails",
            )];
        }
    };
    let (p50, p99) = (percentile(taken, 50), percentile(taken, 99));
    let severity = match () {
        () if p50 > P50_ERROR => Severity::Error,
        () if p50 > P50_WARNING || p99 > P99_WARNING => Severity::Warning,
        () => return Vec::new(),
    };
    vec![
        Finding::error(
            "sync_slow",
            place,
            format!(
                "{} writes with fdatasync took {:.1} ms (p50) and {:.1} ms (p99); every acknowledgement waits for one",
                taken.len(),
                milliseconds(p50),
                milliseconds(p99)
            ),
            "use a disk of its own, local, with power-loss protection; look for other processes that write to it",
        )
        .with(severity),
    ]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(milliseconds: impl Iterator<Item = u64>, severity: Option<Severity>) {
        let mut taken: Vec<_> = milliseconds.map(Duration::from_millis).collect();
        taken.sort_unstable();
        let found = check(&SyncFacts { place: "/srv".into(), taken: Ok(taken.clone()) });
        let shape: Vec<_> = found.iter().map(|finding| (finding.code, finding.severity)).collect();
        assert_eq!(
            shape,
            severity.map(|severity| ("sync_slow", severity)).into_iter().collect::<Vec<_>>(),
            "{taken:?}"
        );
    }

    #[test]
    fn thresholds() {
        check_one((0..48).map(|_| 2), None);
        check_one((0..48).map(|_| 21), Some(Severity::Warning));
        check_one((0..48).map(|at| if at == 0 { 101 } else { 1 }), Some(Severity::Warning));
        check_one((0..48).map(|at| if at == 0 { 99 } else { 1 }), None);
        check_one((0..48).map(|_| 151), Some(Severity::Error));
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let taken: Vec<_> = (1..=4).map(Duration::from_millis).collect();
        assert_eq!(percentile(&taken, 50), Duration::from_millis(2));
        assert_eq!(percentile(&taken, 99), Duration::from_millis(4));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn a_failed_sync_is_an_error_unless_the_directory_is_the_reason() {
        let of = |kind| check(&SyncFacts { place: "/srv".into(), taken: Err(kind) });
        assert_eq!(of(io::ErrorKind::Other)[0].code, "sync_failed");
        assert!(of(io::ErrorKind::PermissionDenied).is_empty());
    }
}
