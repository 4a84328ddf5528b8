//! One node with a configuration of its own, and the commands of the program beside it.
//!
//! Owns: the process and its directory; both end with the value. Does not: know what is configured.
//! Invariants: what was started is killed, whatever the test does. Limits: as for a cluster, every wait has a deadline.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::binary::binary;
use crate::cluster::{free_ports, get};
use crate::wait_for;

/// A directory with a configuration, and the node that runs by it.
pub struct Serve {
    dir: PathBuf,
    /// Eight ports that were free.
    pub port: u16,
    node: Option<Child>,
}

impl Serve {
    /// An empty directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(test: &str) -> Result<Serve> {
        let dir = std::env::temp_dir().join(format!("quorate-test-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Serve { dir, port: free_ports()?, node: None })
    }

    /// The directory; the working directory of all commands.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command of the program to its end.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn run(&self, arguments: &str) -> Result<Output> {
        self.command(arguments)?.stdin(Stdio::null()).output().with_context(|| format!("run {arguments}"))
    }

    /// Starts a command of the program; whoever started it waits for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, arguments: &str) -> Result<Child> {
        let mut command = self.command(arguments)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("start {arguments}"))
    }

    fn command(&self, arguments: &str) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(arguments.split_whitespace()).current_dir(&self.dir);
        Ok(command)
    }

    /// Address of the admin listener.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.port + 7)
    }

    /// Writes the configuration, with these sections beside `[node]` and `[admin]`; they begin within the latter.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, sections: &str) -> Result<()> {
        let admin = self.admin();
        let text =
            format!("[node]\nname = \"n1\"\ndata_dir = \"data\"\n[admin]\nbind = \"{admin}\"\n{sections}");
        Ok(std::fs::write(self.dir.join("quorate.toml"), text)?)
    }

    /// Starts a node with these sections beside `[node]` and `[admin]`; returns when it is ready.
    ///
    /// # Errors
    /// When it ends instead, or does not become ready.
    pub fn start(&mut self, sections: &str) -> Result<()> {
        let admin = self.admin();
        self.configure(sections)?;
        let log = std::fs::File::create(self.dir.join("log"))?;
        let mut node =
            self.command("serve --config quorate.toml")?.stdin(Stdio::null()).stderr(log).spawn()?;
        let ready = wait_for("the node to be ready or to end", || {
            if let Ok(Some(status)) = node.try_wait() {
                return Some(Err(anyhow::anyhow!("the node ended: {status}")));
            }
            get(&admin, "/readyz").ok().filter(|(status, _)| *status == 200).map(|_| Ok(()))
        });
        self.node = Some(node);
        ready?.with_context(|| self.log().unwrap_or_default())
    }

    /// What the node wrote to its log.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("log"))?)
    }

    /// Sends a signal by name to the node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.node.as_ref().context("the node was started")?.id();
        let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status()?;
        ensure!(status.success(), "kill -{signal}");
        Ok(())
    }

    /// Waits for the node to end.
    ///
    /// # Errors
    /// When it was not started.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let node = self.node.as_mut().context("the node was started")?;
        wait_for("the node to end", || node.try_wait().ok().flatten())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            let _ = node.kill();
            let _ = node.wait();
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
