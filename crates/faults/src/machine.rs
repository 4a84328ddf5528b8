//! Programs of the machine that faults are made with.
//!
//! Owns: running them, finding out which are there. Does not: install any.
//! Invariants: what a program says on failure is in the error.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a program to its end and gives what it prints.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {} ended with {}: {said}",
        arguments.join(" "),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this process may do what only root may.
fn is_root() -> bool {
    run("id", &["-u"]).is_ok_and(|user| user.trim() == "0")
}

/// Why something that needs root and these programs cannot be done here, if so.
pub fn lacking(programs: &[&str]) -> Option<String> {
    if !is_root() {
        return Some("it needs root".to_owned());
    }
    missing(programs)
}

/// The first of these programs that is not installed.
pub fn missing(programs: &[&str]) -> Option<String> {
    let absent = |program: &&&str| run("sh", &["-c", &format!("command -v {program}")]).is_err();
    programs.iter().find(absent).map(|program| format!("{program} is not installed"))
}

/// Sends a signal by name to a process that this one started.
///
/// # Errors
/// When there is none.
pub fn signal(pid: u32, signal: &str) -> Result<()> {
    run("kill", &[&format!("-{signal}"), &pid.to_string()])?;
    Ok(())
}

/// State of a process as `/proc` has it: `R`, `S`, `D`, `T` and so on; `None` when it is gone.
pub fn process_state(pid: u32) -> Option<char> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim_start().chars().next()
}
