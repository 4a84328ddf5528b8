//! Programs and packages that tasks need beside Rust.
//!
//! Owns: finding a program, running one that installs something, the note of what was installed.
//! Does not: install system packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where a program is in the search path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Fails when a program is not in the search path.
pub fn need(program: &str, why: &str) -> Result<()> {
    if find(program).is_none() {
        bail!("there is no {program} ({why})");
    }
    Ok(())
}

/// Runs a command, with its output passed through.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// Whether a folder was filled with these packages, to its end.
pub fn holds(folder: &Path, packages: &str) -> bool {
    fs::read_to_string(folder.join("installed")).is_ok_and(|noted| noted == packages)
}

/// Notes that a folder was filled with these packages.
pub fn note(folder: &Path, packages: &str) -> Result<()> {
    fs::write(folder.join("installed"), packages).with_context(|| format!("write in {}", folder.display()))
}
