//! `quorate cluster rolling-restart`: node after node out of service, restarted, and back, with a gate at every step.
//!
//! Owns: the seven steps and their gates. Does not: restart a process; a command of the operator, or the operator, does.
//! Invariants: no node is touched while another one does not serve; the first gate that does not open in time stops
//! everything, and says what to do; a second run goes on where the first one stopped.
//! See: docs/operations/rolling-restart.md.

use std::future::Future;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use quorate_api::NodeState;
use quorate_api::duty::{DrainAnswer, DrainRequest, DrainState, TransferAnswer, TransferRequest};
use serde::Serialize;
use tokio::time::Instant;

use super::progress::Progress;
use super::view::{LAG_MAX, View};
use super::{drain_path, post, seconds, transfer_path};
use crate::exit::{Failure, Outcome};
use crate::http::{self, Method};
use crate::output::{self, Output};
use crate::status;

/// Pause between two looks at a gate.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often a gate that is waited for says why.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// How long after the grace the last client connection may take to go: the node's own bound, and some more.
const DEPARTURE_WAIT_MAX: Duration = Duration::from_secs(45);

/// Flags of `quorate cluster rolling-restart`.
#[derive(Args, Debug)]
pub struct RollingArgs {
    /// Shell command that restarts the node named in $QUORATE_NODE, its admin address in $QUORATE_NODE_ADMIN
    #[arg(long, value_name = "CMD", conflicts_with = "wait", required_unless_present_any = ["wait", "dry_run"])]
    exec: Option<String>,
    /// Say which node is to be restarted, and wait until somebody has done it
    #[arg(long)]
    wait: bool,
    /// Only these nodes, separated by commas; all without it
    #[arg(long, value_name = "NODES", value_delimiter = ',')]
    nodes: Vec<String>,
    /// How long client connections may stay on a node before they are told to go
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse, default_value = "10s")]
    grace: Duration,
    /// Longest wait at each gate
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse, default_value = "5m")]
    gate_timeout: Duration,
    /// File with the progress; a run that was stopped goes on from there
    #[arg(long, value_name = "FILE", default_value = "quorate-rolling-restart.json")]
    progress: PathBuf,
    /// Change nothing; check the first gate and show the order
    #[arg(long)]
    dry_run: bool,
}

/// What a rolling restart did.
#[derive(Debug, Default, Serialize)]
struct Summary {
    nodes: Vec<NodeSummary>,
    finalize_possible: bool,
}

#[derive(Debug, Default, Serialize)]
struct NodeSummary {
    node: String,
    seconds: f64,
    version: Option<String>,
}

/// Runs the command.
pub async fn run(admin: &str, output: Output, args: RollingArgs) -> Outcome {
    let state = status::fetch(admin).await?;
    let mut admins = vec![admin.to_owned()];
    admins.extend(state.nodes.iter().filter_map(|node| node.admin.clone()));
    let progress = match Progress::read(&args.progress, &state)? {
        Some(progress) => {
            eprintln!("going on with the restart that {} tells of", args.progress.display());
            progress
        }
        None => Progress::begin(&state, &args.nodes)?,
    };
    let mut restart = Restart { args, admins, progress };
    if restart.args.dry_run {
        return restart.rehearse().await;
    }
    restart.progress.write(&restart.args.progress)?;
    let mut summary = Summary::default();
    let left: Vec<String> =
        restart.progress.nodes.iter().filter(|node| !node.done).map(|node| node.name.clone()).collect();
    let count = left.len();
    for (at, node) in left.iter().enumerate() {
        let began = Instant::now();
        eprintln!("{node} ({} of {count})", at + 1);
        restart.node(node).await.map_err(|failure| restart.stopped(node, failure))?;
        let version = restart.view().await?.node(node).and_then(|node| node.version.clone());
        let seconds = began.elapsed().as_secs_f64();
        summary.nodes.push(NodeSummary { node: node.clone(), seconds, version });
        if let Some(done) = restart.progress.nodes.iter_mut().find(|known| known.name == *node) {
            done.done = true;
        }
        restart.progress.write(&restart.args.progress)?;
    }
    // What it tells is over.
    let _gone = std::fs::remove_file(&restart.args.progress);
    let level: Result<quorate_api::duty::LevelState, _> =
        http::ask(Method::Get, admin, "/v1/cluster/level", None).await;
    summary.finalize_possible = level.is_ok_and(|level| level.can_finalize);
    match output {
        Output::Json => output::print_json(&summary)?,
        Output::Text => {
            let count = summary.nodes.len();
            let mut text =
                format!("{count} {} restarted\n", if count == 1 { "node was" } else { "nodes were" });
            if summary.finalize_possible {
                text.push_str("all nodes speak a higher level now; when you do not want to go back: quorate cluster finalize\n");
            }
            output::print(&text)?;
        }
    }
    Ok(())
}

struct Restart {
    args: RollingArgs,
    admins: Vec<String>,
    progress: Progress,
}

impl Restart {
    async fn rehearse(&self) -> Outcome {
        let names: Vec<&str> = self.progress.nodes.iter().map(|node| node.name.as_str()).collect();
        let first = names.first().copied().unwrap_or_default();
        let hindrances = self.view().await?.hindrances(first);
        if let Some(hindrance) = hindrances.first() {
            return Err(anyhow!("{hindrance}").into());
        }
        output::print(&format!("would restart {}\n", names.join(", then ")))?;
        Ok(())
    }

    async fn view(&self) -> Outcome<View> {
        let found = View::take(&self.admins).await;
        found.ok_or_else(|| anyhow!("no node answers on its admin address").into())
    }

    /// All steps for one node. Those that an earlier run has done are not done again.
    async fn node(&mut self, name: &str) -> Outcome {
        let view = self.view().await?;
        let known = view.node(name).ok_or_else(|| anyhow!("{name} is gone from the cluster"))?;
        let restarted = self.progress.was_restarted(name, known.incarnation);
        let incarnation = known.incarnation;
        let others = view.admins_without(name);
        let asked = others.first().cloned().ok_or_else(|| {
            Failure::from(anyhow!("{name} is the only node"))
                .hint("a single node cannot be restarted without a gap")
        })?;
        if !restarted {
            self.say(1, "every other node serves");
            self.gate("every other node serves", |view| view.hindrances(name)).await?;
            self.refuse_if_blocked(&asked, name).await?;
            self.say(2, "leadership goes to other nodes");
            self.move_leadership(&asked, name).await?;
            self.say(3, "out of service");
            let request = DrainRequest { dry_run: false, grace_s: seconds(self.args.grace) };
            let _answer: DrainAnswer = post(&asked, &drain_path(name), &request).await?;
            self.say(4, "until nothing rests on it");
            wait_until_quiescent(&asked, name, self.args.grace).await?;
            // The others again: since the first look, time has passed.
            self.gate("every other node serves", |view| view.hindrances(name)).await?;
            self.say(5, "restart");
            self.restart(name, incarnation).await?;
        } else {
            eprintln!("  it has been restarted already");
        }
        self.say(6, "until it has caught up");
        self.gate("the node has caught up", |view| {
            let mut found = view.unready(name, "draining");
            match view.lag_of(name) {
                Some(lag) if lag <= LAG_MAX => {}
                Some(lag) => found.push(format!("{name} lacks {lag} entries")),
                None => found.push("some group has no leader".to_owned()),
            }
            found
        })
        .await?;
        self.say(7, "back in service");
        let _state: DrainState = http::ask(Method::Delete, &asked, &drain_path(name), None).await?;
        self.gate("every node serves", |view| {
            let mut found = view.hindrances("");
            found.extend(view.unready(name, ""));
            found
        })
        .await
    }

    fn say(&self, step: u32, what: &str) {
        eprintln!("  {step}/7 {what}");
    }

    async fn refuse_if_blocked(&self, asked: &str, name: &str) -> Outcome {
        let request = DrainRequest { dry_run: true, grace_s: 0 };
        let answer: DrainAnswer = post(asked, &drain_path(name), &request).await?;
        match answer.blockers.first() {
            Some(blocker) => Err(Failure::from(anyhow!("{}", blocker.message)).hint(&blocker.hint)),
            None => Ok(()),
        }
    }

    async fn move_leadership(&self, asked: &str, name: &str) -> Outcome {
        let deadline = Instant::now() + self.args.gate_timeout;
        loop {
            let request = TransferRequest { dry_run: false };
            let answer: TransferAnswer = post(asked, &transfer_path(name), &request).await?;
            let Some(left) = answer.left.first() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(anyhow!("{name} leads group {} still: {}", left.group, left.reason).into());
            }
        }
    }

    /// Has the node restarted, and waits until it is there with another incarnation.
    async fn restart(&self, name: &str, incarnation: u64) -> Outcome {
        let view = self.view().await?;
        let admin = view.node(name).and_then(|node| node.admin.clone()).unwrap_or_default();
        match &self.args.exec {
            Some(command) => run_command(command, name, &admin, self.args.gate_timeout).await?,
            None => eprintln!("  restart {name} now"),
        }
        self.gate("the node is back", |view| match view.node(name) {
            Some(node) if node.state == NodeState::Live && node.incarnation != incarnation => Vec::new(),
            _ => vec![format!("{name} has not come back")],
        })
        .await
    }

    /// Waits until nothing stands in the way.
    async fn gate(&self, what: &str, hindrances: impl Fn(&View) -> Vec<String>) -> Outcome {
        let deadline = Instant::now() + self.args.gate_timeout;
        let mut said = Instant::now();
        loop {
            let found = match self.view().await {
                Ok(view) => hindrances(&view),
                Err(failure) => vec![failure.error.map_or_else(String::new, |error| error.to_string())],
            };
            let Some(first) = found.first() else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(anyhow!("the gate \"{what}\" did not open: {first}").into());
            }
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                eprintln!("      {first}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn stopped(&self, node: &str, failure: Failure) -> Failure {
        let before = failure.hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
        let hint = format!(
            "{before}nothing more is touched. Run the same command again to go on, or put the node back with: quorate cluster \
             undrain {node} (and remove {})",
            self.args.progress.display()
        );
        Failure { hint: Some(hint), ..failure }
    }
}

/// What rests on a node, asked from the node itself when it answers, else from `admin`.
pub async fn drain_state(admin: &str, node: &str) -> Outcome<DrainState> {
    let state = status::fetch(admin).await?;
    let own = state.nodes.iter().rfind(|known| known.name == node).and_then(|known| known.admin.clone());
    if let Some(own) = own
        && let Ok(state) = http::ask::<DrainState>(Method::Get, &own, &drain_path(node), None).await
    {
        return Ok(state);
    }
    http::ask(Method::Get, admin, &drain_path(node), None).await
}

/// Waits until a node that is taken out of service leads nothing and has no client connection.
pub async fn wait_until_quiescent(admin: &str, node: &str, grace: Duration) -> Outcome {
    let deadline = Instant::now() + grace + DEPARTURE_WAIT_MAX;
    loop {
        let state = drain_state(admin, node).await?;
        // It may not have heard of it yet.
        if state.draining && state.quiescent == Some(true) {
            return Ok(());
        }
        if Instant::now() >= deadline && !state.draining {
            return Err(anyhow!("{node} is not out of service: somebody has put it back meanwhile").into());
        }
        if Instant::now() >= deadline {
            let connections = state.connections.map_or_else(|| "?".to_owned(), |count| count.to_string());
            let leads = state.leads.len();
            return Err(anyhow!(
                "{node} still has {connections} client connections and leads {leads} groups"
            )
            .into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn run_command(command: &str, node: &str, admin: &str, wait_max: Duration) -> Outcome {
    let status = tokio::process::Command::new("sh")
        .args(["-c", command])
        .env("QUORATE_NODE", node)
        .env("QUORATE_NODE_ADMIN", admin)
        .stdin(Stdio::null())
        // Standard output is for the summary alone.
        .stdout(Stdio::from(std::io::stderr()))
        .kill_on_drop(true)
        .status();
    let ended = within(wait_max, status).await.map_err(|()| anyhow!("{command:?} does not end"))?;
    let ended = ended.map_err(|error| anyhow!("run {command:?}: {error}"))?;
    if ended.success() {
        return Ok(());
    }
    Err(Failure::from(anyhow!("{command:?} for {node} ended with {ended}")).hint("see what it said above"))
}

async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, ()> {
    tokio::time::timeout(time, work).await.map_err(|_| ())
}
