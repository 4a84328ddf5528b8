//! `quorate top` on real nodes: one frame as JSON, and the live view in a terminal of 80 by 24, by tmux.
//!
//! Owns: the cases, the terminal; it ends with the value. Does not: look at the layout; the command's own tests do.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use quorate_tests::{Cluster, binary, wait_for};
use serde_json::Value;

/// A terminal of its own, with a shell in it.
struct Terminal {
    name: String,
}

impl Terminal {
    /// `None` where there is no tmux.
    fn open() -> Result<Option<Terminal>> {
        if Command::new("tmux").arg("-V").output().is_err() {
            eprintln!("skipped: no tmux");
            return Ok(None);
        }
        let terminal = Terminal { name: format!("quorate-test-{}", std::process::id()) };
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh"])?;
        Ok(Some(terminal))
    }

    fn tmux(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new("tmux").args(["-L", &self.name]).args(arguments).output()?;
        ensure!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    fn type_line(&self, line: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", line])?;
        self.press("Enter")
    }

    fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(|_| ())
    }

    /// Waits until the screen shows all of these.
    fn wait(&self, parts: &[&str]) -> Result<String> {
        let mut last = String::new();
        let found = wait_for(&format!("the terminal to show {parts:?}"), || {
            let output = self.tmux(&["capture-pane", "-p"]).ok()?;
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            parts.iter().all(|part| last.contains(part)).then(|| last.clone())
        });
        found.with_context(|| format!("it shows:\n{last}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_every_node_and_gives_the_terminal_back() -> Result<()> {
    let mut cluster = Cluster::start("top", 3)?;
    let admin = format!("http://{}", cluster.node(0).admin);
    let output =
        Command::new(binary()?).args(["top", "--once", "--output", "json", "--admin", &admin]).output()?;
    let frame: Value = serde_json::from_slice(&output.stdout).context("one frame as JSON")?;
    let nodes = frame.get("nodes").and_then(Value::as_array).context("nodes")?;
    let names: Vec<_> = nodes.iter().filter_map(|node| node.get("name")?.as_str()).collect();
    ensure!(names == ["n1", "n2", "n3"], "{frame}");

    let Some(terminal) = Terminal::open()? else { return Ok(()) };
    terminal.type_line("PS1='shell> '; export PS1; clear")?;
    terminal.wait(&["shell>"])?;
    let program = binary()?.display();
    let shown = "stty -a | tr ' ' '\\n' | grep echo$";
    let line = format!("clear; {program} top --interval 0.2 --admin {admin}; C=$?; {shown}; echo code=$C");
    terminal.type_line(&line)?;
    let screen = terminal.wait(&["NODE", "n1", "n2", "n3", "q quit"])?;
    ensure!(!screen.contains("shell>"), "the view has a screen of its own:\n{screen}");
    terminal.press("p")?;
    terminal.wait(&["paused"])?;
    terminal.press("p")?;

    cluster.kill(0)?;
    terminal.wait(&["by n2", "down"]).or_else(|_| terminal.wait(&["by n3", "down"]))?;
    terminal.press("q")?;
    let screen = terminal.wait(&["code=0"])?;
    ensure!(screen.lines().any(|line| line == "echo"), "keys are shown again:\n{screen}");
    ensure!(!screen.contains("q quit"), "the screen that was there is back:\n{screen}");

    terminal.type_line("clear")?;
    let admin = format!("http://{}", cluster.node(1).admin);
    terminal.type_line(&format!(
        "sh -c 'echo $$ > {}; exec {program} top --admin {admin}'; echo code=$?",
        pid_file()
    ))?;
    terminal.wait(&["NODE", "n3", "q quit"])?;
    let pid = std::fs::read_to_string(pid_file())?;
    ensure!(Command::new("kill").args(["-TERM", pid.trim()]).status()?.success(), "SIGTERM");
    let screen = terminal.wait(&["code=0"])?;
    ensure!(!screen.contains("q quit"), "the screen is back after a signal:\n{screen}");
    std::fs::remove_file(pid_file())?;
    Ok(())
}

fn pid_file() -> String {
    let name = format!("quorate-test-{}-top.pid", std::process::id());
    std::env::temp_dir().join(name).display().to_string()
}
