//! `--watch`: what nginx does not do itself, asking nodes whether they are ready.
//!
//! Owns: the questions, the file with the nodes, the reload. Does not: start or stop the balancer.
//! Invariants: the file changes only as a whole, and only when the nodes in it change; it is never empty: when no node
//! is ready, all are listed, because one that refuses says more than a balancer without nodes; a reload that failed is
//! tried again.
//! Limits: a question every quarter of the check interval, none longer than that; two in a row decide, so that a node
//! that is not ready is out of the file within three quarters. FRONT_DOOR_RELOAD_WAIT_MAX for the reload.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{MissedTickBehavior, timeout};

use super::backend::Backend;
use super::{Door, nginx};
use crate::exit::{Exit, Failure, Outcome};
use crate::http;
use crate::limits::FRONT_DOOR_RELOAD_WAIT_MAX;

/// Answers that have to be alike, one after the other, to change the verdict over a node.
const ANSWERS: u8 = 2;

/// What is known of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    listed: bool,
    /// Answers that say otherwise, one after the other.
    against: u8,
}

impl Verdict {
    /// Takes an answer; says whether the verdict has changed.
    fn note(&mut self, ready: bool) -> bool {
        if ready == self.listed {
            self.against = 0;
            return false;
        }
        self.against += 1;
        if self.against < ANSWERS {
            return false;
        }
        *self = Verdict { listed: ready, against: 0 };
        true
    }
}

/// Where the nodes are written, and what is run then.
#[derive(Debug)]
pub struct Watch {
    /// The file.
    pub upstream_file: PathBuf,
    /// Program and arguments.
    pub reload: Vec<String>,
}

/// Watches the nodes until it is ended.
pub async fn run(door: &Door, watch: &Watch) -> Outcome {
    let mut verdicts = vec![Verdict { listed: true, against: 0 }; door.backends.len()];
    let period = door.check_interval / 4;
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reloaded = !write(&watch.upstream_file, &file(door, &verdicts))?;
    let mut failure_before = String::new();
    loop {
        let ended = tokio::signal::ctrl_c();
        tokio::select! {
            _ = tick.tick() => {}
            _ = ended => return Err(Failure::silent(Exit::Interrupted)),
        }
        for ((node, verdict), ready) in
            door.backends.iter().zip(&mut verdicts).zip(ask_all(&door.backends, period).await)
        {
            if verdict.note(ready) {
                eprintln!("{} ({}) is {}ready", node.name, node.mqtt, if ready { "" } else { "not " });
            }
        }
        if write(&watch.upstream_file, &file(door, &verdicts))? {
            reloaded = false;
        }
        if reloaded {
            continue;
        }
        match reload(&watch.reload).await {
            Ok(()) => {
                reloaded = true;
                failure_before.clear();
                let listed = listed(door, &verdicts).len();
                eprintln!("reloaded with {listed} of {} nodes", door.backends.len());
            }
            Err(error) => {
                let failure = format!("{error:#}");
                if failure != failure_before {
                    eprintln!("warning: {failure}; tried again until it succeeds");
                    failure_before = failure;
                }
            }
        }
    }
}

/// The nodes to be listed.
fn listed<'a>(door: &'a Door, verdicts: &[Verdict]) -> Vec<&'a Backend> {
    let ready = |(node, verdict): (&'a Backend, &Verdict)| verdict.listed.then_some(node);
    let listed: Vec<_> = door.backends.iter().zip(verdicts).filter_map(ready).collect();
    if listed.is_empty() { door.backends.iter().collect() } else { listed }
}

fn file(door: &Door, verdicts: &[Verdict]) -> String {
    format!(
        "# Written by quorate config front-door --watch.\n{}",
        nginx::upstream(door, &listed(door, verdicts))
    )
}

/// Asks all at once, so that a node that does not answer holds up no other.
async fn ask_all(nodes: &[Backend], longest: Duration) -> Vec<bool> {
    let asked: Vec<_> = nodes
        .iter()
        .map(|node| {
            let base = format!("http://{}", node.admin);
            tokio::spawn(async move {
                let answer = timeout(longest, http::get(&base, "/readyz")).await;
                matches!(answer, Ok(Ok(response)) if response.status == 200)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in asked {
        answers.push(answer.await.unwrap_or(false));
    }
    answers
}

/// Writes the file unless it has that content; says whether it did.
pub fn write(path: &Path, text: &str) -> anyhow::Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(false);
    }
    let mut staged = path.as_os_str().to_owned();
    staged.push(".new");
    std::fs::write(&staged, text).with_context(|| format!("write {}", Path::new(&staged).display()))?;
    std::fs::rename(&staged, path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(true)
}

async fn reload(command: &[String]) -> anyhow::Result<()> {
    let shown = command.join(" ");
    let (program, arguments) = command.split_first().context("the reload command is empty")?;
    let mut child = tokio::process::Command::new(program);
    child.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(FRONT_DOOR_RELOAD_WAIT_MAX, child.output()).await;
    let output =
        ended.with_context(|| format!("{shown} does not end"))?.with_context(|| format!("run {shown}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{shown} ended with {}: {}", output.status, said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answers_in_a_row_change_the_verdict() {
        let mut verdict = Verdict { listed: true, against: 0 };
        let changed: Vec<bool> = [false, true, false, false, false, true, false, true, true]
            .map(|ready| verdict.note(ready))
            .into();
        assert_eq!(changed, [false, false, false, true, false, false, false, false, true]);
    }

    #[test]
    fn file_lists_the_ready_nodes_and_all_when_none_is() {
        let door = super::super::tests::three();
        let text = |listed: [bool; 3]| file(&door, &listed.map(|listed| Verdict { listed, against: 0 }));
        let names = |text: String| {
            text.lines()
                .filter_map(|line| line.split_once("; # "))
                .map(|(_, name)| name.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(text([true, false, true])), ["n1", "n3"]);
        assert_eq!(names(text([false; 3])), ["n1", "n2", "n3"]);
    }

    #[test]
    fn file_is_written_only_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstream.conf");
        assert!(write(&path, "a").unwrap());
        assert!(!write(&path, "a").unwrap());
        assert!(write(&path, "b").unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
