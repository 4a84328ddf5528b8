//! A file system of its own for the data of one node, on a file.
//!
//! Owns: making, mounting and removing it; letting it hang, fill up, or lose power. Does not: know what is on it.
//! Invariants: what hangs is let go, and what is mounted unmounted, when the value is dropped.
//! Limits: Linux, root, ext4 on a loop device; a power cut also needs Python for one system call.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{let_pass, wait_for};

use crate::machine::{lacking, run};

/// Bytes of one, in MiB.
const SIZE_MIB: u64 = 512;

/// What mounting needs.
const PROGRAMS: [&str; 3] = ["mkfs.ext4", "mount", "umount"];

/// Stops the file system at once, without writing what is in memory, its own journal included: the request
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack('I', 2))
";

/// A mounted volume.
pub struct Volume {
    image: PathBuf,
    path: PathBuf,
    mounted: bool,
    hangs: bool,
    probe: Option<Child>,
}

/// Why there can be none here, if so.
pub fn why_none() -> Option<String> {
    lacking(&PROGRAMS)
}

impl Volume {
    /// Makes one and mounts it at a path, which is made.
    ///
    /// # Errors
    /// When this machine cannot mount a file: a container, for instance.
    pub fn mount(path: &Path) -> Result<Volume> {
        std::fs::create_dir_all(path)?;
        let image = path.with_extension("ext4");
        std::fs::File::create(&image)?.set_len(SIZE_MIB << 20)?;
        let volume = Volume { image, path: path.to_owned(), mounted: false, hangs: false, probe: None };
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &volume.image()])?;
        let mut volume = volume;
        volume.mount_again()?;
        Ok(volume)
    }

    fn image(&self) -> String {
        self.image.display().to_string()
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }

    /// Mounts it again after a power cut; the file system repairs itself from its journal.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn mount_again(&mut self) -> Result<()> {
        run("mount", &["-o", "loop", &self.image(), &self.path()])?;
        self.mounted = true;
        Ok(())
    }

    /// From now on every write to it waits.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hang(&mut self) -> Result<()> {
        run("fsfreeze", &["--freeze", &self.path()])?;
        self.hangs = true;
        Ok(())
    }

    /// Tries to write to it; fails when that is possible.
    ///
    /// # Errors
    /// When the write succeeds.
    pub fn prove_hangs(&mut self) -> Result<String> {
        let mut command = Command::new("touch");
        let mut probe = command.arg(self.path.join("probe")).stdin(Stdio::null()).spawn()?;
        let_pass(Duration::from_millis(300));
        let ended = probe.try_wait()?;
        // Not even kill -9 ends it before the volume goes on, so nobody may wait for it until then.
        self.probe = Some(probe);
        ensure!(ended.is_none(), "{} can be written to", self.path());
        Ok("a write to the volume waits".to_owned())
    }

    /// Writes go on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&mut self) -> Result<()> {
        run("fsfreeze", &["--unfreeze", &self.path()])?;
        self.hangs = false;
        if let Some(mut probe) = self.probe.take() {
            probe.wait().context("wait for the write that waited")?;
        }
        Ok(())
    }

    /// Cuts its power: what is not on the device is lost. Processes get errors from it.
    ///
    /// # Errors
    /// When the system refuses, or the volume still takes writes.
    pub fn cut_power(&mut self) -> Result<String> {
        run("python3", &["-c", SHUTDOWN, &self.path()])?;
        let probe = self.path.join("probe").display().to_string();
        match run("touch", &[&probe]) {
            Ok(_) => bail!("{} takes writes after its power was cut", self.path()),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("Input/output error"), "a write fails otherwise: {said}");
                Ok("a write to the volume gives EIO".to_owned())
            }
        }
    }

    /// Unmounts it. Nothing may use it.
    ///
    /// # Errors
    /// When something does.
    pub fn unmount(&mut self) -> Result<()> {
        // A process that has just been killed may still hold it.
        let mut said = String::new();
        let left = wait_for("the volume to be let go", || {
            run("umount", &[&self.path()]).map_err(|error| said = format!("{error:#}")).ok()
        });
        left.with_context(|| said)?;
        self.mounted = false;
        Ok(())
    }

    /// Bytes that are free on it.
    ///
    /// # Errors
    /// When they cannot be found out.
    pub fn free_bytes(&self) -> Result<u64> {
        let said = run("stat", &["--file-system", "--format", "%a %S", &self.path()])?;
        let (blocks, size) = said.trim().split_once(' ').context("two numbers")?;
        Ok(blocks.parse::<u64>()? * size.parse::<u64>()?)
    }

    fn filling(&self) -> PathBuf {
        self.path.join("filling")
    }

    /// Takes all its space.
    ///
    /// # Errors
    /// When a file cannot be made, or space is left.
    pub fn fill(&self) -> Result<()> {
        // It ends with an error: there is no space left.
        let _ = run("dd", &["if=/dev/zero", "bs=64k", &format!("of={}", self.filling().display())]);
        let free = self.free_bytes()?;
        ensure!(free < 64 << 10, "{free} bytes are free on {}", self.path());
        Ok(())
    }

    /// Gives its space back.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn empty(&self) -> Result<()> {
        std::fs::remove_file(self.filling()).context("remove the filling")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.hangs {
            let _ = self.resume();
        }
        if self.mounted && self.unmount().is_err() {
            let _ = run("umount", &["--lazy", &self.path()]);
        }
        let _ = std::fs::remove_file(&self.image);
    }
}
