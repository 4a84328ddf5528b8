//! `quorate dev`: a cluster on this machine, one process of this program per node.
//!
//! Owns: starting and ending the processes, forwarding their logs, telling when clients can come.
//! Does not: restart a node that ended; that is what somebody wants to watch.
//! Invariants: no node outlives this command: each holds a pipe from it and ends when the pipe closes.
//! Limits: DEV_NODES_MAX, DEV_STOP_WAIT_MAX.

mod cert;
mod layout;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use quorate_api::Readiness;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::exit::{Exit, Failure, Outcome};
use crate::limits::DEV_STOP_WAIT_MAX;
use crate::{http, output};

/// Flags of `quorate dev`.
#[derive(Args, Debug)]
#[command(after_help = "\
Node i listens on each first port + i - 1: MQTT on --mqtt-port, admin on --admin-port, WebSocket on 8083 (or
--mqtt-port + 1000 when that is not 1883), peers on --mqtt-port + 10000. All on 127.0.0.1.
Start a node that was killed again with: quorate serve --config DIR/nI/quorate.toml")]
pub struct DevArgs {
    /// Number of nodes
    #[arg(long, default_value_t = 3)]
    nodes: u16,
    /// Where configuration, certificates and data go; kept from run to run
    #[arg(long, default_value = "./quorate-dev")]
    dir: PathBuf,
    /// MQTT port of the first node
    #[arg(long, default_value_t = layout::MQTT_PORT)]
    mqtt_port: u16,
    /// Admin port of the first node
    #[arg(long, default_value_t = 9883)]
    admin_port: u16,
    /// Start with empty nodes: removes the node directories and certificates in the directory first
    #[arg(long)]
    fresh: bool,
    /// Print one line of JSON when the cluster is ready for clients
    #[arg(long)]
    json: bool,
}

/// The line that `--json` prints.
#[derive(Serialize)]
struct Ready<'a> {
    nodes: Vec<ReadyNode<'a>>,
}

#[derive(Serialize)]
struct ReadyNode<'a> {
    name: &'a str,
    pid: u32,
    mqtt: String,
    admin: String,
}

/// A started node. `_pipe` is the standard input that the node watches.
struct Node {
    plan: layout::NodePlan,
    pid: u32,
    ended: bool,
    _pipe: Option<ChildStdin>,
}

type Ended = JoinSet<(usize, std::io::Result<ExitStatus>)>;

/// Runs the command until it is interrupted or every node has ended.
pub async fn run(args: DevArgs) -> Outcome {
    let plans = prepare(&args)?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let (mut nodes, mut ended) = start(&args.dir, plans)?;
    let outcome = tokio::select! {
        outcome = watch(&args, &mut nodes, &mut ended) => outcome,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    stop(&mut nodes, &mut ended).await;
    outcome
}

/// Plans the ports and writes the directory.
fn prepare(args: &DevArgs) -> Outcome<Vec<layout::NodePlan>> {
    let plans = layout::plan(args.nodes, args.mqtt_port, args.admin_port).map_err(Failure::usage)?;
    let taken = layout::taken(&plans);
    if !taken.is_empty() {
        return Err(Failure::usage(format!("some ports are taken:\n  {}", taken.join("\n  ")))
            .hint("end the process that has it, or choose others with --mqtt-port and --admin-port"));
    }
    if args.fresh {
        layout::remove(&args.dir)?;
    }
    layout::write(&args.dir, &plans).map_err(|error| {
        Failure::new(Exit::Usage, error.context(format!("{} cannot be used as it is", args.dir.display())))
            .hint("give the flags it was made with, another --dir, or --fresh to start with empty nodes")
    })?;
    if plans.len() > 1 {
        let names: Vec<String> = plans.iter().map(|plan| plan.name.clone()).collect();
        cert::ensure(&args.dir.join("tls"), &names)?;
    }
    Ok(plans)
}

fn start(dir: &Path, plans: Vec<layout::NodePlan>) -> anyhow::Result<(Vec<Node>, Ended)> {
    let program = std::env::current_exe().context("find this program")?;
    let mut nodes = Vec::new();
    let mut ended = Ended::new();
    for (at, plan) in plans.into_iter().enumerate() {
        let mut command = std::process::Command::new(&program);
        command.arg("serve").arg("--config").arg(plan.config_file(dir)).arg("--exit-with-parent");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Its own process group: Ctrl-C reaches this command only, which then ends the nodes in order.
        command.process_group(0);
        // If this function fails half way, the pipes close and the nodes started so far end.
        let mut child = Command::from(command).spawn().with_context(|| format!("start {}", plan.name))?;
        let pid = child.id().context("a child that was not waited for has a process id")?;
        forward(&plan.name, child.stdout.take());
        forward(&plan.name, child.stderr.take());
        nodes.push(Node { plan, pid, ended: false, _pipe: child.stdin.take() });
        ended.spawn(wait(at, child));
    }
    Ok((nodes, ended))
}

async fn wait(at: usize, mut child: Child) -> (usize, std::io::Result<ExitStatus>) {
    (at, child.wait().await)
}

/// Copies each line to standard error with the node's name before it. Ends with the node.
fn forward(name: &str, stream: Option<impl AsyncRead + Unpin + Send + 'static>) {
    let (name, Some(stream)) = (name.to_owned(), stream) else { return };
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            eprintln!("{name} | {}", String::from_utf8_lossy(&line));
        }
    });
}

/// Waits until every node is ready, says so, then reports the nodes that end until none is left.
async fn watch(args: &DevArgs, nodes: &mut [Node], ended: &mut Ended) -> Outcome {
    let admins: Vec<(String, String)> =
        nodes.iter().map(|node| (node.plan.name.clone(), admin_url(node))).collect();
    tokio::select! {
        () = all_ready(&admins) => {}
        Some(end) = ended.join_next() => {
            let (at, status) = end.context("wait for a node")?;
            let name = mark_ended(nodes, at);
            let error = anyhow!("{name} {} before the cluster was ready", describe(status));
            return Err(Failure::from(error).hint("its log is above"));
        }
    }
    announce(args, nodes)?;
    while let Some(end) = ended.join_next().await {
        let (at, status) = end.context("wait for a node")?;
        let name = mark_ended(nodes, at);
        let file = args.dir.join(&name).join("quorate.toml");
        eprintln!(
            "{name} {}. Start it again with: quorate serve --config {}",
            describe(status),
            file.display()
        );
    }
    Err(Failure::from(anyhow!("every node has ended"))
        .hint("their logs are above; `quorate doctor` looks for the cause"))
}

fn admin_url(node: &Node) -> String {
    format!("http://{}", node.plan.admin)
}

fn mark_ended(nodes: &mut [Node], at: usize) -> String {
    nodes.get_mut(at).map_or_else(String::new, |node| {
        node.ended = true;
        node.plan.name.clone()
    })
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("cannot be waited for: {error}"),
    }
}

/// Returns when each `/readyz` has answered 200. Says every few seconds what it is waiting for.
async fn all_ready(admins: &[(String, String)]) {
    const PAUSE: Duration = Duration::from_millis(50);
    const TOLD_EVERY: Duration = Duration::from_secs(5);
    let mut told = tokio::time::Instant::now();
    for (name, admin) in admins {
        loop {
            let problem = match http::get(admin, "/readyz").await {
                Ok(response) if response.status == 200 => break,
                Ok(response) => unready(&response.body),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            };
            if told.elapsed() > TOLD_EVERY {
                told = tokio::time::Instant::now();
                eprintln!("waiting for {name}: {problem}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Why a node says it is not ready.
fn unready(body: &[u8]) -> String {
    match serde_json::from_slice::<Readiness>(body) {
        Ok(readiness) => {
            let reasons: Vec<String> =
                readiness.failed().map(|clause| format!("{}: {}", clause.name, clause.reason)).collect();
            reasons.join(", ")
        }
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    }
}

fn announce(args: &DevArgs, nodes: &[Node]) -> anyhow::Result<()> {
    if args.json {
        let nodes = nodes.iter().map(|node| ReadyNode {
            name: &node.plan.name,
            pid: node.pid,
            mqtt: node.plan.mqtt.to_string(),
            admin: admin_url(node),
        });
        return output::print_json(&Ready { nodes: nodes.collect() });
    }
    output::print(&announcement(args, nodes))
}

/// What a newcomer needs first: addresses, where to look, and commands to try.
fn announcement(args: &DevArgs, nodes: &[Node]) -> String {
    let mut text =
        format!("{} is ready for clients:\n", if nodes.len() == 1 { "The node" } else { "The cluster" });
    for Node { plan, pid, .. } in nodes {
        text.push_str(&format!(
            "  {}  mqtt {}  websocket {}  admin http://{}  pid {pid}\n",
            plan.name, plan.mqtt, plan.websocket, plan.admin
        ));
    }
    if let (Some(first), Some(last)) = (nodes.first(), nodes.last()) {
        text.push_str(&format!(
            "Look: the dashboard is at http://{}/\n\
             Try:\n  quorate sub -p {} -t 'hello/#' -q 1 -v\n  quorate pub -p {} -t hello/world -q 1 -m 'it works'\n  \
             quorate status --admin http://{}\n  kill -9 {}\n  quorate serve --config {}\nCtrl-C ends all.\n",
            first.plan.admin,
            first.plan.mqtt.port(),
            last.plan.mqtt.port(),
            last.plan.admin,
            first.pid,
            first.plan.config_file(&args.dir).display(),
        ));
    }
    text
}

/// Asks every node to end, and kills what has not ended in time.
async fn stop(nodes: &mut [Node], ended: &mut Ended) {
    send(nodes, Signal::TERM);
    let all = async {
        while let Some(end) = ended.join_next().await {
            if let Ok((at, _)) = end {
                mark_ended(nodes, at);
            }
        }
    };
    if tokio::time::timeout(DEV_STOP_WAIT_MAX, all).await.is_err() {
        for node in nodes.iter().filter(|node| !node.ended) {
            eprintln!("{} did not end within {} s: killed", node.plan.name, DEV_STOP_WAIT_MAX.as_secs());
        }
        send(nodes, Signal::KILL);
        while ended.join_next().await.is_some() {}
    }
}

/// Signals the nodes that have not been waited for, so that no process id is reused by another process.
fn send(nodes: &[Node], signal: Signal) {
    for node in nodes.iter().filter(|node| !node.ended) {
        if let Some(pid) = i32::try_from(node.pid).ok().and_then(Pid::from_raw)
            && let Err(error) = kill_process(pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            eprintln!("signal {}: {error}", node.plan.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_of_an_unready_node_are_named() {
        let body = br#"{"ready":false,"clauses":[{"name":"lease","ok":false,"reason":"no quorum"},
            {"name":"log","ok":true}]}"#;
        assert_eq!(unready(body), "lease: no quorum");
        assert_eq!(unready(b" starting \n"), "starting");
    }

    #[test]
    fn the_announcement_says_where_to_look() {
        let plans = layout::plan(3, 1883, 9883).unwrap();
        let node = |plan| Node { plan, pid: 7, ended: false, _pipe: None };
        let nodes: Vec<Node> = plans.into_iter().map(node).collect();
        let args = DevArgs {
            nodes: 3,
            dir: "quorate-dev".into(),
            mqtt_port: 1883,
            admin_port: 9883,
            fresh: false,
            json: false,
        };
        let text = announcement(&args, &nodes);
        for part in [
            "  n2  mqtt 127.0.0.1:1884  websocket 127.0.0.1:8084  admin http://127.0.0.1:9884  pid 7\n",
            "the dashboard is at http://127.0.0.1:9883/\n",
            "quorate serve --config quorate-dev/n1/quorate.toml\n",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }

    #[test]
    fn the_json_line_has_the_documented_form() {
        let nodes = vec![ReadyNode {
            name: "n1",
            pid: 7,
            mqtt: "127.0.0.1:1883".into(),
            admin: "http://127.0.0.1:9883".into(),
        }];
        assert_eq!(
            serde_json::to_string(&Ready { nodes }).unwrap(),
            r#"{"nodes":[{"name":"n1","pid":7,"mqtt":"127.0.0.1:1883","admin":"http://127.0.0.1:9883"}]}"#
        );
    }
}
