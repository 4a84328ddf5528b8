//! `quorate status`: nodes, groups, leaders, lag, sessions and backlog of a cluster.
//!
//! Owns: asking `/v1/cluster/state` of one node, and of the others what only they know; laying it out. Does not: judge;
//! `/readyz` does.
//! Invariants: shows the view of the node it asked, and says which node that is; what another node says is taken for its
//! own line and for the groups that it leads, nothing else.

use std::time::Duration;

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use quorate_api::{ClusterState, GroupKind, GroupStatus, NodeState, NodeStatus, Readiness};

use crate::exit::Outcome;
use crate::http::{self, Method};
use crate::output::{self, Output};
use crate::table::{Table, bytes, thousands};
use crate::terminal::Tone;
use crate::watch::WatchFlags;

/// Flags of `quorate status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Admin address of any node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9883")]
    admin: String,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    watch: WatchFlags,
    /// Ask the node only this, and say nothing when it is so: exit code 0 when it is, 1 when not, 3 when it does not answer
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "output")]
    check: Option<Check>,
}

/// One question to one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Check {
    /// It may take clients: /readyz
    Ready,
    /// Its process works: /livez
    Alive,
}

/// Longest wait for what only another node knows: a dead one must not hold up the table.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn run(args: StatusArgs) -> Outcome {
    let StatusArgs { admin, output, watch, check } = args;
    if let Some(what) = check {
        return ask(&admin, what).await;
    }
    watch.show(output, async || frame(&admin, output).await).await
}

/// For scripts and service managers without a client for HTTP.
async fn ask(admin: &str, what: Check) -> Outcome {
    let path = match what {
        Check::Ready => "/readyz",
        Check::Alive => "/livez",
    };
    let response = http::get(admin, path).await.map_err(http::unreached)?;
    if response.status == 200 {
        return Ok(());
    }
    let why = match serde_json::from_slice::<Readiness>(&response.body) {
        Ok(readiness) => readiness
            .failed()
            .map(|clause| format!("{}: {}", clause.name, clause.reason))
            .collect::<Vec<_>>()
            .join("; "),
        Err(_) => String::from_utf8_lossy(&response.body).trim().to_owned(),
    };
    Err(anyhow!("{admin}{path} answers {}: {why}", response.status).into())
}

async fn frame(admin: &str, output: Output) -> Outcome<String> {
    let mut state = fetch(admin).await?;
    ask_the_others(&mut state).await;
    Ok(match output {
        Output::Json => output::json(&state)?,
        Output::Text => render(&state),
    })
}

/// Asks one node for its view of the cluster.
pub async fn fetch(admin: &str) -> Outcome<ClusterState> {
    http::ask(Method::Get, admin, "/v1/cluster/state", None).await
}

/// Asks every other node that has an admin address; one that does not answer leaves what it alone knows unknown.
pub async fn ask_the_others(state: &mut ClusterState) {
    let others = state.nodes.iter().filter(|node| node.id != state.node_id && node.state == NodeState::Live);
    let asked: Vec<_> = others
        .filter_map(|node| node.admin.clone())
        .map(|admin| tokio::spawn(async move { tokio::time::timeout(OTHERS_WAIT_MAX, fetch(&admin)).await }))
        .collect();
    for answer in asked {
        if let Ok(Ok(Ok(other))) = answer.await {
            merge(state, other);
        }
    }
}

/// Takes over what `other` knows best: its own line, and the groups that it leads.
fn merge(state: &mut ClusterState, other: ClusterState) {
    if other.cluster_id != state.cluster_id {
        return;
    }
    for node in other.nodes.into_iter().filter(|node| node.id == other.node_id) {
        if let Some(known) = state.nodes.iter_mut().find(|known| known.id == node.id) {
            *known = node;
        }
    }
    for group in other.groups.into_iter().filter(|group| group.leader == Some(other.node_id)) {
        match state.groups.iter_mut().find(|known| known.id == group.id) {
            Some(known) if known.term <= group.term => *known = group,
            Some(_) => {}
            None => state.groups.push(group),
        }
    }
    state.groups.sort_by_key(|group| group.id);
    let connections = state.nodes.iter().filter_map(|node| node.connections).sum();
    state.totals = quorate_api::Totals::of(&state.groups, connections);
}

/// The text form.
fn render(state: &ClusterState) -> String {
    let totals = &state.totals;
    format!(
        "cluster {} ({}), seen by {} running {}\n\n{}\n{}\n{} sessions, {} subscriptions, {} retained, \
         {} queued ({}), {} inflight; {} connections\n",
        state.cluster_name,
        if state.cluster_id.is_empty() { "no id" } else { &state.cluster_id },
        state.node_name,
        state.version,
        nodes(state),
        groups(state),
        thousands(totals.sessions),
        thousands(totals.subscriptions),
        thousands(totals.retained),
        thousands(totals.queued_messages),
        bytes(totals.queued_bytes),
        thousands(totals.inflight),
        thousands(totals.connections),
    )
}

/// What matters most comes first: on a narrow terminal the last columns are left out.
fn nodes(state: &ClusterState) -> String {
    let mut table = Table::new(&[
        "NODE",
        ">ID",
        "STATE",
        "READY",
        ">LEADS",
        ">CONNS",
        "MQTT",
        "PEER",
        ">LEASE MS",
        ">INCARNATION",
    ]);
    for node in &state.nodes {
        let leads = state.groups.iter().filter(|group| group.leader == Some(node.id)).count();
        let unknown = || "-".to_owned();
        table.row(vec![
            node.name.clone(),
            node.id.to_string(),
            node_state(node).to_owned(),
            node.ready.map_or_else(unknown, |ready| if ready { "yes".into() } else { "no".into() }),
            leads.to_string(),
            node.connections.map_or_else(unknown, thousands),
            node.mqtt.clone().unwrap_or_else(unknown),
            node.peer.clone().unwrap_or_else(unknown),
            node.lease_ms.map_or_else(unknown, thousands),
            node.incarnation.to_string(),
        ]);
        let tone = match (node.state, node.fenced, node.draining) {
            (NodeState::Down, _, _) | (NodeState::Live, true, _) => Tone::Bad,
            (NodeState::Live, false, true) => Tone::Odd,
            (NodeState::Live, false, false) => Tone::Good,
        };
        table.tint(2, tone);
        if node.ready == Some(false) {
            table.tint(3, Tone::Bad);
        }
    }
    table.render()
}

fn node_state(node: &NodeStatus) -> &'static str {
    match (node.state, node.fenced, node.draining) {
        (NodeState::Live, true, _) => "live, fenced",
        (NodeState::Live, false, true) => "live, draining",
        (NodeState::Live, false, false) => "live",
        (NodeState::Down, _, _) => "down",
    }
}

fn groups(state: &ClusterState) -> String {
    let mut table = Table::new(&[
        "GROUP",
        "LEADER",
        ">TERM",
        "LAG",
        ">SESSIONS",
        ">SUBS",
        ">RETAINED",
        ">QUEUED",
        ">BYTES",
        ">INFLIGHT",
        ">COMMITTED",
        ">APPLIED",
    ]);
    for group in &state.groups {
        table.row(vec![
            match group.kind {
                GroupKind::Control => "control".to_owned(),
                GroupKind::Partition => group.id.to_string(),
            },
            group.leader.map_or_else(|| "none".to_owned(), |leader| node_name(state, leader)),
            group.term.to_string(),
            lag(state, group),
            thousands(group.sessions),
            thousands(group.subscriptions),
            thousands(group.retained),
            thousands(group.queued_messages),
            bytes(group.queued_bytes),
            thousands(group.inflight),
            thousands(group.committed),
            thousands(group.applied),
        ]);
        if group.leader.is_none() {
            table.tint(1, Tone::Bad);
        }
    }
    table.render()
}

/// Lag of the replicas that have one, as the leader knows it; of the own replica otherwise.
fn lag(state: &ClusterState, group: &GroupStatus) -> String {
    if group.replicas.is_empty() {
        return match group.committed.saturating_sub(group.applied) {
            0 => "-".to_owned(),
            behind => format!("here:{behind}"),
        };
    }
    let lags: Vec<String> = group
        .replicas
        .iter()
        .filter(|replica| replica.lag > 0 || !replica.active)
        .map(|replica| {
            let name = node_name(state, replica.node);
            let note = match (replica.active, replica.snapshot) {
                (_, true) => " (snapshot)",
                (false, false) => " (silent)",
                (true, false) => "",
            };
            format!("{name}:{}{note}", replica.lag)
        })
        .collect();
    if lags.is_empty() { "0".to_owned() } else { lags.join(" ") }
}

fn node_name(state: &ClusterState, id: u64) -> String {
    let node = state.nodes.iter().find(|node| node.id == id);
    node.map_or_else(|| format!("#{id}"), |node| node.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::ReplicaStatus;

    fn example() -> ClusterState {
        let node = |id: u64, state| NodeStatus { id, name: format!("n{id}"), state, ..NodeStatus::default() };
        let replica = |node, lag, active| ReplicaStatus { node, lag, active, ..ReplicaStatus::default() };
        let control = GroupStatus { kind: GroupKind::Control, leader: Some(1), ..GroupStatus::default() };
        let replicas = vec![replica(1, 0, true), replica(2, 7, true), replica(3, 90, false)];
        let first = GroupStatus { id: 1, leader: Some(1), replicas, ..GroupStatus::default() };
        let second = GroupStatus { id: 2, committed: 9, applied: 4, ..GroupStatus::default() };
        ClusterState {
            cluster_name: "dev".into(),
            node_name: "n1".into(),
            nodes: vec![node(1, NodeState::Live), node(2, NodeState::Live), node(3, NodeState::Down)],
            groups: vec![control, first, second],
            ..ClusterState::default()
        }
    }

    #[test]
    fn lag_names_the_replicas_that_are_behind_or_silent() {
        let state = example();
        let lags: Vec<String> = state.groups.iter().map(|group| lag(&state, group)).collect();
        assert_eq!(lags, ["-", "n2:7 n3:90 (silent)", "here:5"]);
    }

    #[test]
    fn other_nodes_tell_of_themselves_and_of_what_they_lead() {
        let mut state = example();
        state.node_id = 1;
        let mut other = example();
        other.node_id = 2;
        for node in &mut other.nodes {
            (node.ready, node.connections) = (Some(true), Some(5));
        }
        other.groups[1].term = 9;
        other.groups[2] =
            GroupStatus { id: 2, leader: Some(2), queued_messages: 3, ..GroupStatus::default() };
        merge(&mut state, other.clone());
        let ready: Vec<_> = state.nodes.iter().map(|node| node.ready).collect();
        assert_eq!(ready, [None, Some(true), None]);
        assert_eq!((state.groups[1].term, state.groups[2].leader), (0, Some(2)));
        assert_eq!((state.totals.queued_messages, state.totals.connections), (3, 5));
        other.cluster_id = "another".into();
        let before = state.clone();
        merge(&mut state, other);
        assert_eq!(state, before, "another cluster's answer");
    }

    #[test]
    fn text_names_every_node_and_every_group() {
        let text = render(&example());
        for part in ["cluster dev (no id)", "n3", "down", "control", "none"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
