//! One client that others wrote, in a process of its own that obeys lines.
//!
//! Owns: the process, its group and what arrived. Does not: know which client it is.
//! Invariants: the whole process group ends with the value, by SIGKILL, so that a connection ends without DISCONNECT.
//! Limits: `LINES_MAX` lines wait to be read; then the driver waits.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::line::Line;

/// Lines that wait to be read.
const LINES_MAX: usize = 10_000;
/// The longest a driver may take for one request, or a message to arrive.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);

/// How to start a driver.
#[derive(Clone, Debug)]
pub struct Program {
    /// Name in the table.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
}

/// A running driver.
pub struct Driver {
    role: String,
    process: Child,
    requests: ChildStdin,
    lines: Receiver<Line>,
    messages: Vec<Line>,
    version: String,
    abilities: BTreeSet<String>,
}

impl Driver {
    /// Starts a driver. `role` stands in errors.
    ///
    /// # Errors
    /// When it cannot be started or does not introduce itself.
    pub fn start(program: &Program, role: &str) -> Result<Driver> {
        let (name, arguments) = program.command.split_first().context("an empty command")?;
        let mut process = Command::new(name)
            .args(arguments)
            .process_group(0)
            // The tree is not written to.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let requests = process.stdin.take().context("stdin is piped")?;
        let stdout = process.stdout.take().context("stdout is piped")?;
        let (sender, lines) = sync_channel(LINES_MAX);
        // Ends with the process, or when nobody listens any more; a full channel makes the driver wait.
        std::thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line = Line::parse(&text)
                    .unwrap_or_else(|error| Line::new("error").with("why", format!("{error:#}")));
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut driver = Driver {
            role: role.to_owned(),
            process,
            requests,
            lines,
            messages: Vec::new(),
            version: String::new(),
            abilities: BTreeSet::new(),
        };
        let hello = driver.answer("hello")?;
        driver.version = hello.require("version")?.to_owned();
        driver.abilities = hello.require("can")?.split(',').map(str::to_owned).collect();
        Ok(driver)
    }

    /// Version of the library or program, as it says itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the client can do what a word of `hello` names.
    pub fn can(&self, ability: &str) -> bool {
        self.abilities.contains(ability)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When the driver answers `error`, anything but `expected`, or not in time.
    pub fn ask(&mut self, request: &Line, expected: &str) -> Result<Line> {
        writeln!(self.requests, "{request}").with_context(|| format!("{}: {request}", self.role))?;
        self.answer(expected).with_context(|| format!("{}: {}", self.role, request.word))
    }

    fn answer(&mut self, expected: &str) -> Result<Line> {
        let end = Instant::now() + ANSWER_WAIT_MAX;
        loop {
            let line = self.next_line(end).with_context(|| format!("wait for {expected}"))?;
            match line.word.as_str() {
                "message" => self.messages.push(line),
                "lost" => {}
                "error" => bail!("{}", line.field("why").unwrap_or("error without why")),
                word if word == expected => return Ok(line),
                _ => bail!("{expected} expected, got {line}"),
            }
        }
    }

    fn next_line(&self, end: Instant) -> Result<Line> {
        match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("nothing came in {ANSWER_WAIT_MAX:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the driver has ended"),
        }
    }

    /// Everything that arrived so far.
    pub fn messages(&self) -> &[Line] {
        &self.messages
    }

    /// Waits until what arrived satisfies a condition.
    ///
    /// # Errors
    /// When it does not in time, or the driver ends or reports an error.
    pub fn wait_messages(&mut self, what: &str, condition: impl Fn(&[Line]) -> bool) -> Result<()> {
        let end = Instant::now() + ANSWER_WAIT_MAX;
        while !condition(&self.messages) {
            let waited = self.next_line(end);
            let line = waited.with_context(|| {
                format!("{}: wait for {what}; {} messages arrived", self.role, self.messages.len())
            })?;
            match line.word.as_str() {
                "message" => self.messages.push(line),
                "lost" => {}
                _ => bail!("{}: unasked for: {line}", self.role),
            }
        }
        Ok(())
    }

    /// Ends the client without DISCONNECT: its process group gets SIGKILL.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn cut(mut self) -> Result<()> {
        let status = self.kill()?;
        ensure!(status, "{}: kill", self.role);
        Ok(())
    }

    fn kill(&mut self) -> Result<bool> {
        let group = format!("-{}", self.process.id());
        let status = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status()?;
        self.process.wait()?;
        Ok(status.success())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Not yet waited for, so the group is still its own.
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.kill();
        }
    }
}
