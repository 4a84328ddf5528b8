//! `cargo xtask deploy-check`: what is in `deploy/`, tried out with the real programs where they are installed.
//!
//! Owns: the list of checks, what a skipped one says. Does not: install anything; leave a process or a file behind.
//! Invariants: a check that cannot run here says why in one line, never nothing.
//! See: docs/operations/deploy.md.

mod container;
mod debian;
mod front_door;
mod keepalived;
mod kubernetes;
mod systemd;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ci::{cargo, target_folder};

/// How a check ended, if it did not fail.
pub enum Checked {
    /// With what it found.
    Passed(String),
    /// Not run, and why.
    Skipped(String),
}

/// What the checks work on.
pub struct Bench {
    /// Root of the repository.
    pub root: PathBuf,
    /// The program, built.
    pub binary: PathBuf,
    /// A folder for files, emptied before.
    pub scratch: PathBuf,
    /// Files that are made from others are made anew.
    pub write: bool,
}

impl Bench {
    /// The text of a file below `deploy/`.
    pub fn deploy_file(&self, path: &str) -> Result<String> {
        read(&self.root.join("deploy").join(path))
    }

    /// An empty folder for one check.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.scratch.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(folder)
    }
}

type Check = (&'static str, fn(&Bench) -> Result<Checked>);

const CHECKS: [Check; 15] = [
    ("systemd-verify", systemd::verify),
    ("systemd-security", systemd::security),
    ("systemd-notify", systemd::notify),
    ("systemd-system-calls", systemd::system_calls),
    ("kubernetes-values", kubernetes::values),
    ("kubernetes-manifests", kubernetes::manifests),
    ("kubernetes-founding", kubernetes::founding),
    ("debian-package", debian::package),
    ("debian-lintian", debian::lintian),
    ("keepalived-files", keepalived::files),
    ("keepalived-address", keepalived::address),
    ("container-image", container::image),
    ("front-door-haproxy", front_door::haproxy),
    ("front-door-nginx", front_door::nginx),
    ("front-door-cluster", front_door::cluster),
];

/// Runs all checks, or those whose names begin with one of `names`; `--write` among them makes anew what is made.
pub fn run(root: &Path, names: &[String]) -> Result<()> {
    cargo(root, &["build", "--locked", "--package", "quorate"], &[])?;
    let target = target_folder(root)?;
    let scratch = target.join("deploy-check");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    }
    let write = names.iter().any(|name| name == "--write");
    let names: Vec<&String> = names.iter().filter(|name| *name != "--write").collect();
    let bench = Bench { root: root.to_owned(), binary: target.join("debug").join("quorate"), scratch, write };
    let chosen =
        |name: &str| names.is_empty() || names.iter().any(|wanted| name.starts_with(wanted.as_str()));
    let (mut passed, mut skipped, mut failed) = (0, Vec::new(), Vec::new());
    for (name, check) in CHECKS.iter().filter(|(name, _)| chosen(name)) {
        match check(&bench) {
            Ok(Checked::Passed(found)) => {
                println!("{name}: {found}");
                passed += 1;
            }
            Ok(Checked::Skipped(why)) => skipped.push(format!("{name} ({why})")),
            Err(error) => {
                println!("{name}: FAILED: {error:#}");
                failed.push(*name);
            }
        }
    }
    let skipped = if skipped.is_empty() { "none".to_owned() } else { skipped.join("; ") };
    println!("deploy-check: {passed} passed, {} failed; skipped: {skipped}", failed.len());
    if !failed.is_empty() {
        bail!("deploy-check failed: {}", failed.join(", "));
    }
    if passed == 0 && skipped == "none" {
        let known: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
        bail!("no check is called so; there are {}", known.join(", "));
    }
    fs::remove_dir_all(&bench.scratch).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    Ok(())
}

/// Reads a file.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Whether a program is in the search path, or where only administrators have it.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administration = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path).chain(administration).any(|folder| folder.join(program).is_file())
}

/// What a check says when a program is missing.
pub fn missing(program: &str) -> Result<Checked> {
    Ok(Checked::Skipped(format!("{program} is not installed")))
}

/// Runs a command to its end; an error has what it said. Gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let ended = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    if !ended.status.success() {
        let complaint = String::from_utf8_lossy(&ended.stderr);
        bail!("{command:?} ended with {}: {}{said}", ended.status, complaint.trim());
    }
    Ok(said)
}

/// A plain HTTP GET on loopback: status and body.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer of HTTP")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}

/// The only pause of these checks: between two looks at a condition.
#[expect(clippy::disallowed_methods, reason = "between two looks at a condition with a deadline")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// How long a process has to end before it is killed.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// A process that ends with the value.
pub struct Running(pub Child);

impl Running {
    /// Sends SIGTERM and waits for the end; an error unless it ends with 0.
    pub fn terminate(mut self) -> Result<()> {
        output(Command::new("kill").args(["-TERM", &self.0.id().to_string()]))?;
        let status = self.0.wait()?;
        if !status.success() {
            bail!("after SIGTERM it ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gently first: what it has started ends with it only then. It may have ended already.
        if let Ok(None) = self.0.try_wait() {
            let _ = output(Command::new("kill").args(["-TERM", &self.0.id().to_string()]));
            let begun = Instant::now();
            while begun.elapsed() < END_WAIT_MAX && matches!(self.0.try_wait(), Ok(None)) {
                pause();
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node alone, as configured in a folder, with all ports chosen by the system. Its log goes to `log` there.
pub fn node_command(program: &Path, folder: &Path) -> Result<Command> {
    let config = "[node]\ndata_dir = \"data\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n[admin]\nbind = \"127.0.0.1:0\"\n";
    write(&folder.join("quorate.toml"), config)?;
    let log = fs::File::create(folder.join("log")).context("create the log")?;
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(command)
}
