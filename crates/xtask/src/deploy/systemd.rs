//! The unit: what systemd says of it, and what the node says to systemd.
//!
//! Owns: verification, the score of its hardening, the messages of the node, the system calls that it needs.
//! Does not: start systemd, which a check must not.
//! Limits: SCORE_MAX.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, Checked, Running, has, missing, node_command, output, read, write};

/// Worst score of `systemd-analyze security` for the node, in tenths: lower is better.
const SCORE_MAX: &str = "12";

const UNITS: [&str; 2] = ["quorate.service", "quorate-front-door.service"];

/// Longest wait for a message of the node.
const MESSAGE_WAIT_MAX: Duration = Duration::from_secs(30);

/// systemd understands every line, and what the units name is there.
pub fn verify(bench: &Bench) -> Result<Checked> {
    if !has("systemd-analyze") {
        return missing("systemd-analyze");
    }
    let folder = bench.folder("systemd")?;
    for unit in UNITS {
        let text = bench.deploy_file(&format!("systemd/{unit}"))?;
        ensure!(text.contains("/usr/bin/quorate "), "{unit} starts another program");
        let file = folder.join(unit);
        write(&file, &text.replace("/usr/bin/quorate", &bench.binary.display().to_string()))?;
        let ended = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        // It ends with 0 after lines that it does not know.
        let about: Vec<&str> = said.lines().filter(|line| line.contains(unit)).collect();
        ensure!(ended.status.success() && about.is_empty(), "{unit}: {}", said.trim());
    }
    Ok(Checked::Passed(format!("{} are understood", UNITS.join(" and "))))
}

/// The hardening of the node's unit has not become worse.
pub fn security(bench: &Bench) -> Result<Checked> {
    if !has("systemd-analyze") {
        return missing("systemd-analyze");
    }
    let unit = bench.root.join("deploy/systemd").join("quorate.service");
    let flags = ["security", "--offline=true", "--no-pager", "--threshold", SCORE_MAX];
    let said = output(Command::new("systemd-analyze").args(flags).arg(unit))?;
    let score = said.lines().find_map(|line| line.split_once("Overall exposure level")).context("a score")?;
    Ok(Checked::Passed(format!("exposure{}", score.1.trim_end())))
}

/// The node tells that it has started, that it lives, and that it stops.
pub fn notify(bench: &Bench) -> Result<Checked> {
    let folder = bench.folder("notify")?;
    let socket =
        UnixDatagram::bind(folder.join("socket")).context("bind the socket of the service manager")?;
    socket.set_read_timeout(Some(MESSAGE_WAIT_MAX))?;
    let mut command = node_command(&bench.binary, &folder)?;
    command.args(["serve", "--exit-with-parent", "--config", "quorate.toml"]).stdin(Stdio::piped());
    command.env("NOTIFY_SOCKET", folder.join("socket")).env("WATCHDOG_USEC", "200000");
    let node = Running(command.spawn()?);
    for wanted in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        wait_for(&socket, wanted)?;
    }
    node.terminate()?;
    wait_for(&socket, "STOPPING=1")?;
    Ok(Checked::Passed("READY, WATCHDOG and STOPPING arrive".to_owned()))
}

fn wait_for(socket: &UnixDatagram, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    let mut bytes = [0; 1024];
    while begun.elapsed() < MESSAGE_WAIT_MAX {
        let length = socket.recv(&mut bytes).with_context(|| format!("wait for {wanted}"))?;
        let said = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned();
        if said.lines().any(|line| line == wanted) {
            return Ok(());
        }
    }
    bail!("{wanted} does not come")
}

/// A node that starts, serves and stops makes no system call that the unit forbids.
pub fn system_calls(bench: &Bench) -> Result<Checked> {
    for program in ["strace", "systemd-analyze"] {
        if !has(program) {
            return missing(program);
        }
    }
    let folder = bench.folder("system-calls")?;
    let socket = UnixDatagram::bind(folder.join("socket"))?;
    socket.set_read_timeout(Some(MESSAGE_WAIT_MAX))?;
    let mut command = node_command("strace".as_ref(), &folder)?;
    command.args(["-f", "-qq", "-I", "2", "-o", "calls"]).arg(&bench.binary);
    // When strace is killed, the node is left without a parent.
    command.args(["serve", "--exit-with-parent", "--config", "quorate.toml"]).stdin(Stdio::piped());
    command.env("NOTIFY_SOCKET", folder.join("socket"));
    let mut traced = Running(command.spawn()?);
    if let Err(error) = wait_for(&socket, "READY=1") {
        let log = read(&folder.join("log"))?;
        return match log.contains("PTRACE") || log.contains("Operation not permitted") {
            true => Ok(Checked::Skipped("processes cannot be traced here".to_owned())),
            false => Err(error),
        };
    }
    let calls = read(&folder.join("calls"))?;
    let node = calls.split_whitespace().next().context("a traced process")?;
    output(Command::new("kill").args(["-TERM", node]))?;
    traced.0.wait()?;
    let made: BTreeSet<String> = read(&folder.join("calls"))?.lines().filter_map(call_of).collect();
    ensure!(made.len() > 20, "strace saw {} system calls only", made.len());
    let denied: BTreeSet<String> = set("@privileged")?.union(&set("@resources")?).cloned().collect();
    // What systemd itself always lets through is in @default.
    let allowed: BTreeSet<String> = set("@system-service")?.difference(&denied).cloned().collect();
    let allowed: BTreeSet<String> = allowed.union(&set("@default")?).cloned().collect();
    let refused: Vec<&String> = made.difference(&allowed).collect();
    ensure!(refused.is_empty(), "the unit forbids {refused:?}, which the node calls");
    Ok(Checked::Passed(format!("{} system calls, all allowed", made.len())))
}

/// The name in a line like `1234 openat(AT_FDCWD, …`.
fn call_of(line: &str) -> Option<String> {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
    let (name, _) = rest.split_once('(')?;
    let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (is_name && !name.is_empty()).then(|| name.to_owned())
}

/// The system calls of a set, with those of the sets in it.
fn set(name: &str) -> Result<BTreeSet<String>> {
    let listed = output(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", name]))?;
    let mut calls = BTreeSet::new();
    for line in listed.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#')) {
        if line.starts_with('@') {
            calls.extend(set(line)?);
        } else if !line.is_empty() {
            calls.insert(line.to_owned());
        }
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn units_say_what_the_documents_promise() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
        let unit = read(&folder.join("quorate.service")).unwrap();
        let codes = read(&folder.join("../../docs/operations/exit-codes.md")).unwrap();
        for line in [
            "Type=notify",
            "Restart=on-failure",
            "RestartPreventExitStatus=2 65 67 78",
            "KillSignal=SIGTERM",
            "TimeoutStopSec=90",
            "User=quorate",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}");
        }
        for code in ["| 2 |", "| 65 |", "| 78 |"] {
            assert!(codes.contains(code), "{code}");
        }
    }

    #[test]
    fn calls_are_read_from_a_trace() {
        assert_eq!(call_of("812 openat(AT_FDCWD, \"x\") = 3").as_deref(), Some("openat"));
        assert_eq!(call_of("812 <... futex resumed>) = 0"), None);
        assert_eq!(call_of("812 --- SIGTERM {si_signo=SIGTERM} ---"), None);
        assert_eq!(call_of("+++ exited with 0 +++"), None);
    }
}
