//! A file system of its own for the data of one node, on a file.
//!
//! Owns: making, mounting and removing it; letting it hang, fill up, lose power or what it held. Does not: know what is on it.
//! Invariants: what hangs is let go, and what is mounted unmounted, when the value is dropped.
//! Limits: Linux, root, ext4 on a loop device; a power cut also needs Python for one system call.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{let_pass, wait_for};

use crate::machine::{lacking, run};

/// Bytes of one, in MiB. The file is sparse.
const SIZE_MIB: u64 = 1024;

/// With fewer free bytes it is full: no log file grows in them.
pub const FULL_BYTES: u64 = 1 << 20;

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
        let mut volume = Volume { image, path: path.to_owned(), mounted: false, hangs: false, probe: None };
        volume.renew()?;
        Ok(volume)
    }

    /// Makes a new file system in place of what is there, and mounts it. It must not be mounted.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn renew(&mut self) -> Result<()> {
        std::fs::File::create(&self.image)?.set_len(SIZE_MIB << 20)?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &self.image()])?;
        self.mount_again()
    }

    /// Swaps what two volumes hold. Neither may be mounted.
    ///
    /// # Errors
    /// When a file cannot be renamed.
    pub fn swap(&self, other: &Volume) -> Result<()> {
        let aside = self.image.with_extension("aside");
        std::fs::rename(&self.image, &aside)?;
        std::fs::rename(&other.image, &self.image)?;
        std::fs::rename(&aside, &other.image).context("swap the images of two volumes")
    }

    fn copied(&self) -> PathBuf {
        self.image.with_extension("copy")
    }

    /// Copies what it holds. It must not be mounted.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&self) -> Result<()> {
        run("cp", &["--sparse=always", &self.image(), &self.copied().display().to_string()])?;
        Ok(())
    }

    /// Puts the copy in its place. It must not be mounted.
    ///
    /// # Errors
    /// When there is no copy.
    pub fn put_copy_back(&self) -> Result<()> {
        std::fs::rename(self.copied(), &self.image).context("put the copy of a volume in its place")
    }

    /// From now on the file system takes no writes, as after an error of its own; what is there can be read.
    ///
    /// # Errors
    /// When the system refuses, or it still takes writes.
    pub fn make_read_only(&mut self) -> Result<String> {
        run("mount", &["-o", "remount,abort", &self.path()])?;
        let probe = self.path.join("probe").display().to_string();
        match run("touch", &[&probe]) {
            Ok(_) => bail!("{} takes writes", self.path()),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("Read-only file system"), "a write fails otherwise: {said}");
                Ok("a write to the volume gives EROFS".to_owned())
            }
        }
    }

    /// Number of the device, `major:minor`.
    ///
    /// # Errors
    /// When it is not mounted.
    pub fn device(&self) -> Result<String> {
        Ok(run("findmnt", &["-n", "-o", "MAJ:MIN", &self.path()])?.trim().to_owned())
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
        free_bytes(&self.path)
    }

    /// Takes all its space, and what is given back as well, until the value is dropped.
    ///
    /// # Errors
    /// When space is left.
    pub fn fill(&self) -> Result<Filled> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut filled = Filled { path: self.path.clone(), stop: stop.clone(), keeper: None };
        take_all(&self.path, &mut 0)?;
        let path = self.path.clone();
        filled.keeper = Some(std::thread::spawn(move || {
            // After those that are there already.
            let mut number = FILLINGS_FIRST_MAX;
            while !stop.load(Ordering::Relaxed) {
                let _ = take_all(&path, &mut number);
                let_pass(Duration::from_millis(100));
            }
        }));
        // A node may have given its reserve back meanwhile.
        let full = || self.free_bytes().ok().filter(|free| *free < FULL_BYTES);
        wait_for("the volume to be full", full).with_context(|| self.path())?;
        Ok(filled)
    }
}

/// Files with which a volume is filled at first.
const FILLINGS_FIRST_MAX: u64 = 1000;

/// Space that is taken from a volume.
pub struct Filled {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        for file in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with("filling-") {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

/// Bytes that are free on the file system of a path.
fn free_bytes(path: &Path) -> Result<u64> {
    let said = run("stat", &["--file-system", "--format", "%a %S", &path.display().to_string()])?;
    let (blocks, size) = said.trim().split_once(' ').context("two numbers")?;
    Ok(blocks.parse::<u64>()? * size.parse::<u64>()?)
}

/// Takes all space that is free, in files that get smaller.
fn take_all(path: &Path, number: &mut u64) -> Result<()> {
    let mut free = free_bytes(path)?;
    let mut size = free;
    while free >= FULL_BYTES / 4 && size >= 4096 {
        let file = path.join(format!("filling-{number}")).display().to_string();
        *number += 1;
        if run("fallocate", &["-l", &size.to_string(), &file]).is_err() {
            // What it could not take whole it gives back: there is some metadata.
            let _ = std::fs::remove_file(&file);
            size /= 2;
        }
        free = free_bytes(path)?;
        size = size.min(free);
    }
    Ok(())
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.hangs {
            let _ = self.resume();
        }
        if self.mounted && self.unmount().is_err() {
            let _ = run("umount", &["--lazy", &self.path()]);
        }
        for file in [self.image.clone(), self.copied()] {
            let _ = std::fs::remove_file(file);
        }
    }
}
