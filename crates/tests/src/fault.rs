//! Faults of the machine under a node: a disk that hangs or is full, a thread that does not run, no open files, little memory.
//!
//! Owns: bringing each about from outside, and ending it when its value is dropped, whatever the test does. Does not: judge.
//! Limits: Linux, root, and the programs that [`lacking`] is asked for. A volume must outlive the processes that write to it:
//! make it before the cluster. A fault must end before them: bring it about after.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::wait_for;

/// Says in one line why a test cannot run here, if it cannot: it needs root and these programs.
pub fn lacking(test: &str, programs: &[&str]) -> bool {
    let reason = match run("id", &["-u"]) {
        Ok(user) if user.trim() == "0" => {
            let missing = |program: &&&str| run("sh", &["-c", &format!("command -v {program}")]).is_err();
            programs.iter().find(missing).map(|program| format!("{program} is not installed"))
        }
        _ => Some("it needs root".to_owned()),
    };
    if let Some(reason) = &reason {
        eprintln!("{test}: skipped, {reason}");
    }
    reason.is_some()
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?} ended with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A file system of its own, on a file.
pub struct Volume {
    image: PathBuf,
    path: PathBuf,
    mounted: bool,
}

impl Volume {
    /// Makes and mounts it.
    ///
    /// # Errors
    /// When this machine cannot mount a file: a container, for instance.
    pub fn mount(test: &str, mib: u64) -> Result<Volume> {
        let path = std::env::temp_dir().join(format!("quorate-test-{}-{test}-volume", std::process::id()));
        let volume = Volume { image: path.with_extension("ext4"), path, mounted: false };
        volume.mounted(mib)
    }

    fn mounted(mut self, mib: u64) -> Result<Volume> {
        fs::create_dir_all(&self.path)?;
        fs::File::create(&self.image)?.set_len(mib << 20)?;
        let image = self.image.display().to_string();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
        run("mount", &["-o", "loop", &image, &self.path()])?;
        self.mounted = true;
        Ok(self)
    }

    /// Where it is mounted.
    pub fn path(&self) -> String {
        self.path.display().to_string()
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

    /// From now on every write to it waits.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hang(&self) -> Result<Hung> {
        run("fsfreeze", &["--freeze", &self.path()])?;
        Ok(Hung(self.path()))
    }

    /// Takes its space, but for so many bytes.
    ///
    /// # Errors
    /// When a file cannot be made.
    pub fn fill(&self, left_bytes: u64) -> Result<Filled> {
        let filled = Filled(self.path.join(format!("filled-up-to-{left_bytes}")));
        let bytes = self.free_bytes()?.saturating_sub(left_bytes);
        let file = filled.0.display().to_string();
        // What the file system needs for its own books is not known beforehand.
        for bytes in [bytes, bytes.saturating_sub(1 << 20)] {
            if run("fallocate", &["--length", &bytes.to_string(), &file]).is_ok() {
                return Ok(filled);
            }
        }
        anyhow::bail!("{bytes} bytes of {} cannot be taken", self.path())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted {
            // A process that has just been killed may still hold it.
            let left = wait_for("the volume to be let go", || run("umount", &[&self.path()]).ok());
            if left.is_err() {
                let _ = run("umount", &["--lazy", &self.path()]);
            }
        }
        let _ = fs::remove_dir(&self.path);
        let _ = fs::remove_file(&self.image);
    }
}

/// A volume that hangs until this is dropped.
pub struct Hung(String);

impl Drop for Hung {
    fn drop(&mut self) {
        if let Err(error) = run("fsfreeze", &["--unfreeze", &self.0]) {
            eprintln!("the volume still hangs: {error:#}");
        }
    }
}

/// A volume that is full until this is dropped.
pub struct Filled(PathBuf);

impl Drop for Filled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A thread that is held at its next system call until this is dropped; the other threads of its process go on.
pub struct Held(Child);

impl Held {
    /// Holds the thread of this name.
    ///
    /// # Errors
    /// When there is none, or it cannot be traced.
    pub fn thread(pid: u32, name: &str) -> Result<Held> {
        let named = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let mut threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten();
        let thread = threads.find(named).with_context(|| format!("process {pid} has a thread {name}"))?;
        let id = thread.file_name().to_string_lossy().into_owned();
        let mut tracer = Command::new("strace")
            .args(["-p", &id, "-o", "/dev/null"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start strace")?;
        let mut said = String::new();
        let attached = tracer.stderr.take().map(|stderr| BufReader::new(stderr).read_line(&mut said));
        let held = Held(tracer);
        ensure!(attached.is_some() && said.contains("attached"), "strace of thread {id}: {said}");
        // A traced thread stops at a system call until its tracer lets it go on, and this one does not.
        run("kill", &["-STOP", &held.0.id().to_string()])?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The system lets go what a tracer held that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control group with a limit of memory and without swap, until this is dropped. It must outlive the processes in it.
pub struct MemoryLimit {
    folder: PathBuf,
    files: &'static GroupFiles,
}

/// Names of the files of a control group.
struct GroupFiles {
    root: &'static str,
    limit: &'static str,
    most: &'static str,
    /// File and key of the count of processes ended for lack of memory.
    kills: (&'static str, &'static str),
}

const VERSION_1: GroupFiles = GroupFiles {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    most: "memory.max_usage_in_bytes",
    kills: ("memory.oom_control", "oom_kill "),
};

const VERSION_2: GroupFiles = GroupFiles {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    most: "memory.peak",
    kills: ("memory.events", "oom_kill "),
};

impl MemoryLimit {
    /// Makes a group for processes that may take so many bytes.
    ///
    /// # Errors
    /// When this machine lets nobody make one.
    pub fn make(test: &str, bytes: u64) -> Result<MemoryLimit> {
        let first = Path::new(VERSION_1.root).join(VERSION_1.limit).exists();
        let files = if first { &VERSION_1 } else { &VERSION_2 };
        let folder = Path::new(files.root).join(format!("quorate-test-{}-{test}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let limit = MemoryLimit { folder, files };
        fs::write(limit.folder.join(files.limit), bytes.to_string())
            .with_context(|| format!("limit the memory of {}", limit.folder.display()))?;
        // Where the system counts no swap there is none to forbid.
        for (file, value) in
            [("memory.swap.max", "0".to_owned()), ("memory.memsw.limit_in_bytes", bytes.to_string())]
        {
            if limit.folder.join(file).exists() {
                let _ = fs::write(limit.folder.join(file), value);
            }
        }
        Ok(limit)
    }

    /// A process is in the group as soon as its number is written to this file.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// How many processes were ended because there was no memory; `None` when the system does not count.
    pub fn kills(&self) -> Option<u64> {
        let (file, key) = self.files.kills;
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key))?.trim().parse().ok()
    }

    /// Most bytes that the group has had, what the system may take back at any time included.
    pub fn most_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.folder.join(self.files.most)).ok()?.trim().parse().ok()
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let gone = wait_for("the group to be empty", || fs::remove_dir(&self.folder).ok());
        if let Err(error) = gone {
            eprintln!("{} stays: {error:#}", self.folder.display());
        }
    }
}

/// A process that may open few files more, until this is dropped.
pub struct FewFiles {
    pid: u32,
    before: String,
}

impl FewFiles {
    /// Leaves a process room for so many more.
    ///
    /// # Errors
    /// When its limit cannot be read or set.
    pub fn leave(pid: u32, more: u64) -> Result<FewFiles> {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let before = line.and_then(|line| line.split_whitespace().next()).context("Max open files")?;
        let few = FewFiles { pid, before: before.to_owned() };
        let first_free = (0..).find(|number| !Path::new(&format!("/proc/{pid}/fd/{number}")).exists());
        few.set(&(first_free.unwrap_or(0_u64) + more).to_string())?;
        Ok(few)
    }

    fn set(&self, soft: &str) -> Result<()> {
        run("prlimit", &["--pid", &self.pid.to_string(), &format!("--nofile={soft}:")])?;
        Ok(())
    }
}

impl Drop for FewFiles {
    fn drop(&mut self) {
        // The process may be gone.
        let _ = self.set(&self.before);
    }
}
