//! One run at a time on a machine, and what a run that was killed has left there.
//!
//! Owns: the claim to be the only run; removal of namespaces, links, mounts, control groups and nodes of runs that are gone.
//! Does not: remove folders: they may be what somebody wants to look at.
//! Invariants: nothing is removed while the run that made it lives.
//! Limits: Linux. A claim counts among processes that share a network.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use quorate_tests::wait_for;

use crate::machine::{lacking, run, signal};
use crate::{group, network};

/// Begin of the names of folders and control groups of a run.
const PREFIX: &str = "quorate-faults-";

/// Where namespaces have their names.
const NAMESPACES: &str = "/run/netns";

/// Where the system lists links.
const LINKS: &str = "/sys/class/net";

/// The claim to be the only run. The system ends it with the process, however that ends.
pub struct OnlyRun {
    _claim: UnixListener,
}

impl OnlyRun {
    /// Claims the machine, and removes what runs that were killed have left: addresses are fixed, and packets would reach the old namespaces.
    ///
    /// # Errors
    /// When another run is under way, or something cannot be removed.
    pub fn begin() -> Result<OnlyRun> {
        let name = SocketAddr::from_abstract_name("quorate-faults").context("a name for the claim")?;
        let claim = UnixListener::bind_addr(&name)
            .context("another run under faults is under way on this machine; wait for its end, or end it")?;
        // Only root can have left any.
        if lacking(&[]).is_none() {
            remove_left().context("remove what a run that was killed has left")?;
        }
        Ok(OnlyRun { _claim: claim })
    }
}

/// The folder of this run.
pub fn folder() -> PathBuf {
    std::env::temp_dir().join(own_name())
}

/// The name of this run's folder and control groups.
pub fn own_name() -> String {
    format!("{PREFIX}{}", std::process::id())
}

fn remove_left() -> Result<()> {
    let mounts = left_mounts()?;
    for mount in &mounts {
        // Nothing that writes to a frozen file system ends, not even after kill -9.
        let _ = run("fsfreeze", &["--unfreeze", mount]);
    }
    group::remove_all(PREFIX);
    for namespace in names(Path::new(NAMESPACES), network::PREFIX) {
        eprintln!("removing namespace {namespace} of a run that was killed");
        for pid in run("ip", &["netns", "pids", &namespace])?.split_whitespace() {
            let _ = signal(pid.parse()?, "KILL");
        }
        run("ip", &["netns", "del", &namespace])?;
    }
    // A link goes together with its other end: some of these may be gone by now.
    for link in names(Path::new(LINKS), network::PREFIX) {
        eprintln!("removing link {link} of a run that was killed");
        if let Err(error) = run("ip", &["link", "del", &link])
            && Path::new(LINKS).join(&link).exists()
        {
            return Err(error);
        }
    }
    for mount in &mounts {
        eprintln!("unmounting {mount} of a run that was killed");
        let mut said = None;
        wait_for("a volume to be let go", || {
            run("umount", &[mount]).map_err(|error| said = Some(error)).ok()
        })
        .with_context(|| format!("{mount}: end what still uses it; umount said {said:?}"))?;
    }
    Ok(())
}

/// Names in a folder that begin so; none when it is not there.
fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(prefix)).collect()
}

fn left_mounts() -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(mounts_of_runs(&mounts, &std::env::temp_dir().join(PREFIX).display().to_string()))
}

fn mounts_of_runs(mounts: &str, begin: &str) -> Vec<String> {
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| place.starts_with(begin)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_runs_are_told_from_others() {
        let mounts = "/dev/vda / ext4 rw 0 0\n/dev/loop0 /tmp/quorate-faults-1624/n1 ext4 rw 0 0\n\
                      /dev/loop1 /tmp/other ext4 rw 0 0\n";
        assert_eq!(mounts_of_runs(mounts, "/tmp/quorate-faults-"), ["/tmp/quorate-faults-1624/n1"]);
    }
}
