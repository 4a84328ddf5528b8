//! `/metrics`: counters of the process and figures of the node, as Prometheus reads them.
//!
//! Owns: the figures taken from the node's status. Does not: keep counters; see `metrics`.
//! Invariants: without an answer of the worker, what comes from it is left out and `quorate_worker_answers` is 0.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use quorate_node::node::{GroupStatus, NodeStatus};
use quorate_state::control::NodeStatus as Membership;
use quorate_state::partition::Counts;

use super::{AdminState, health};
use crate::metrics::Text;
use crate::metrics::catalog::{self, Metric};
use crate::question::Question;

/// Counters and figures in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Prometheus text", body = String)))]
pub async fn metrics(State(state): State<AdminState>) -> Response {
    let mut text = Text(state.edge.metrics.render());
    let answered = state.ask(|answer| Question::Status { with_hash: false, answer }).await;
    let readiness = health::readiness(&state).await;
    let clauses = readiness.clauses.iter();
    text.by(&catalog::READY_CLAUSE, clauses.map(|clause| (clause.name.as_str(), u64::from(clause.ok))));
    text.value(&catalog::READY, u64::from(readiness.ready));
    let id = state.edge.node.0.to_string();
    text.head(&catalog::NODE_INFO);
    text.sample(&catalog::NODE_INFO, &[&state.cluster_name, &state.node_name, &id, &state.zone], 1);
    text.value(&catalog::WORKER_ANSWERS, u64::from(answered.is_ok()));
    if let Ok(status) = answered {
        node_figures(&mut text, &status);
        group_figures(&mut text, &status);
        session_figures(&mut text, &status);
    }
    let process = state.process.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut text = Text::default();
        process.render(&mut text);
        text.0
    });
    text.0.push_str(&read.await.unwrap_or_default());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text.0).into_response()
}

fn node_figures(text: &mut Text, status: &NodeStatus) {
    text.value(&catalog::LEASE_FENCED, u64::from(status.lease_left.is_none()));
    text.number(&catalog::LEASE_LEFT, status.lease_left.unwrap_or_default().as_secs_f64());
    text.value(&catalog::INCARNATION, status.incarnation.0);
    let in_state = |wanted: Membership| {
        count(status.nodes.iter().filter(|(_, membership)| *membership == wanted).count())
    };
    let nodes = [("live", in_state(Membership::Live)), ("down", in_state(Membership::Down))];
    text.by(&catalog::CLUSTER_NODES, nodes);
    text.value(&catalog::PLACEMENT_VIOLATIONS, count(violations(status)));
    text.value(&catalog::PEERS_UP, count(status.peers_up.len()));
    text.value(&catalog::STREAM_BYTES, count(status.stream_bytes));
    text.value(&catalog::GROUPS_LED, count(led(status).count()));
    let leaderless = status.groups.iter().filter(|group| group.leader.is_none()).count();
    text.value(&catalog::GROUPS_LEADERLESS, count(leaderless));
}

fn led(status: &NodeStatus) -> impl Iterator<Item = &GroupStatus> {
    status.groups.iter().filter(|group| group.leader == Some(status.id))
}

fn group_figures(text: &mut Text, status: &NodeStatus) {
    let lag = led(status).filter_map(|group| {
        let slowest = group.progress.iter().map(|(_, matched)| matched.0).min()?;
        Some((group, group.committed.0.saturating_sub(slowest)))
    });
    by_group(text, &catalog::GROUP_REPLICATION_LAG, lag);
    for (metric, figure) in [
        (&catalog::GROUP_APPLIED, (|group| group.applied.0) as fn(&GroupStatus) -> u64),
        (&catalog::GROUP_COMMITTED, |group| group.committed.0),
        (&catalog::GROUP_CHECKPOINT, |group| group.checkpoint.0),
        (&catalog::GROUP_TERM, |group| group.term),
    ] {
        by_group(text, metric, status.groups.iter().map(|group| (group, figure(group))));
    }
    let leads = status.groups.iter().map(|group| (group, u64::from(group.leader == Some(status.id))));
    by_group(text, &catalog::GROUP_LEADER, leads);
}

fn by_group<'a>(text: &mut Text, metric: &Metric, values: impl Iterator<Item = (&'a GroupStatus, u64)>) {
    text.head(metric);
    for (group, value) in values {
        text.sample(metric, &[&group.group.to_string()], value);
    }
}

fn session_figures(text: &mut Text, status: &NodeStatus) {
    let sum = |figure: fn(&Counts) -> u64| -> u64 {
        status.groups.iter().filter_map(|group| group.counts.as_ref()).map(figure).sum()
    };
    text.value(&catalog::SESSIONS, sum(|counts| counts.sessions));
    text.value(&catalog::SUBSCRIPTIONS, sum(|counts| counts.subscriptions));
    text.value(&catalog::RETAINED_MESSAGES, sum(|counts| counts.retained));
    text.value(&catalog::QUEUED_MESSAGES, sum(|counts| counts.queued_messages));
    text.value(&catalog::QUEUED_BYTES, sum(|counts| counts.queued_bytes));
    text.value(&catalog::INFLIGHT_MESSAGES, sum(|counts| counts.inflight));
}

/// Groups led here whose replicas are not where they should be: over the nodes of a cluster, each counts once.
fn violations(status: &NodeStatus) -> usize {
    let violated: BTreeSet<_> = status.violations.iter().map(|violation| violation.group).collect();
    led(status).filter(|group| violated.contains(&group.group)).count()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
