//! strace as a fault: it ends, delays or fails a chosen system call of a node.
//!
//! Owns: its arguments and what it notes. Does not: choose calls.
//! Invariants: what it traces goes on when it is let go. Limits: Linux; strace 5 or newer. It slows a node down.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use quorate_tests::wait_for;

use crate::machine;

/// What it needs.
pub const PROGRAM: &str = "strace";

/// Arguments that inject something into a system call and note it in a file.
pub fn words(call: &str, what: &str, notes: &Path) -> Vec<String> {
    let notes = notes.display().to_string();
    let words =
        ["-f", "-q", "-e", &format!("trace={call}"), "-e", &format!("inject={call}:{what}"), "-o", &notes];
    words.map(str::to_owned).to_vec()
}

/// Words that start a program whose calls to sync files all succeed and do nothing. The program is the process that is started.
pub fn swallows_syncs() -> Vec<String> {
    let calls = "fsync,fdatasync,msync,sync_file_range,syncfs,sync";
    let words = [PROGRAM, "-D", "-f", "-q", "--seccomp-bpf", "-e", &format!("trace={calls}")];
    let injected = ["-e", &format!("inject={calls}:retval=0"), "-o", "/dev/null"];
    words.iter().chain(&injected).map(|word| (*word).to_owned()).collect()
}

/// A tracer of a process that runs already.
pub struct Tracer {
    child: Child,
    notes: PathBuf,
}

impl Tracer {
    /// Attaches to a process.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn attach(pid: u32, call: &str, what: &str, notes: &Path) -> Result<Tracer> {
        let _ = std::fs::remove_file(notes);
        let mut command = Command::new(PROGRAM);
        command.args(words(call, what, notes)).args(["-p", &pid.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Tracer { child: child.context("start strace")?, notes: notes.to_owned() })
    }

    /// Ends it at once. What it traces goes on, or ends when it has been killed.
    pub fn kill(mut self) {
        let _ = self.child.kill();
    }

    /// What it has noted so far.
    pub fn notes(&self) -> String {
        std::fs::read_to_string(&self.notes).unwrap_or_default()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It ends with what it traces; until then it is asked to let go.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = machine::signal(self.child.id(), "INT");
        }
        if wait_for("strace to end", || self.child.try_wait().ok().flatten()).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
