//! Control groups of version 1: limits on a process or on one of its threads.
//!
//! Owns: one group below a controller. Does not: know what the limits are for.
//! Invariants: what is in it goes back, and the group goes, when the value is dropped.
//! Limits: Linux, root, controllers mounted below `/sys/fs/cgroup`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{machine, only};

/// Where the controllers are mounted.
const CONTROLLERS: &str = "/sys/fs/cgroup";

/// Why a controller with this file cannot be used here, if so.
pub fn why_none(controller: &str, file: &str) -> Option<String> {
    let absent = !Path::new(CONTROLLERS).join(controller).join(file).exists();
    let why = || format!("there is no controller {controller} of control groups, version 1");
    machine::lacking(&[]).or_else(|| absent.then(why))
}

/// A group.
pub struct Group {
    path: PathBuf,
    controller: PathBuf,
}

impl Group {
    /// Makes one below a controller.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn make(controller: &str) -> Result<Group> {
        let controller = Path::new(CONTROLLERS).join(controller);
        let path = controller.join(only::own_name());
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Group { path, controller })
    }

    /// Writes to one of its files.
    ///
    /// # Errors
    /// When the system refuses the value.
    pub fn write(&self, name: &str, value: &str) -> Result<()> {
        let file = self.path.join(name);
        fs::write(&file, value).with_context(|| format!("write {value} to {}", file.display()))
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(&self, name: &str) -> Result<String> {
        let file = self.path.join(name);
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// The number after a word at the begin of a line of one of its files.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, name: &str, word: &str) -> Result<u64> {
        let text = self.read(name)?;
        let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
        Ok(line.with_context(|| format!("{word} in {name}"))?.trim().parse()?)
    }

    /// Takes a process in, with all its threads.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// What to write before a command so that it runs in the group, as the same process.
    pub fn words(&self, file: &str) -> Vec<String> {
        let script = format!("echo $$ > {} && exec \"$@\"", self.path.join(file).display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()].to_vec()
    }

    /// Takes one thread in.
    ///
    /// # Errors
    /// When there is none.
    pub fn take_thread(&self, thread: u32) -> Result<()> {
        self.write("tasks", &thread.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is frozen cannot leave.
        if self.path.join("freezer.state").exists() {
            let _ = self.write("freezer.state", "THAWED");
        }
        for thread in self.read("tasks").unwrap_or_default().lines() {
            let _ = fs::write(self.controller.join("tasks"), thread);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes all groups whose names begin so, below whatever controller; what is in them goes back.
pub fn remove_all(prefix: &str) {
    for controller in fs::read_dir(CONTROLLERS).into_iter().flatten().flatten().map(|entry| entry.path()) {
        for path in fs::read_dir(&controller).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
                drop(Group { path, controller: controller.clone() });
            }
        }
    }
}

/// The thread of a process with this name.
///
/// # Errors
/// When it has none.
pub fn thread_named(pid: u32, name: &str) -> Result<u32> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let named = fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name);
        if named {
            return Ok(thread.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("process {pid} has no thread {name}")
}
