//! `/metrics`: counters of the process and figures of the node, as Prometheus reads them.
//!
//! Owns: the figures taken from the node's status. Does not: keep counters; see `metrics`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use quorate_node::node::NodeStatus;

use super::AdminState;
use crate::metrics::Text;
use crate::question::Question;

/// Counters and figures in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Prometheus text", body = String)))]
pub async fn metrics(State(state): State<AdminState>) -> Response {
    let mut text = Text(state.edge.metrics.render());
    let answered = state.ask(|answer| Question::Status { with_hash: false, answer }).await;
    text.gauge("quorate_worker_answers", "The node's worker answers in time", u64::from(answered.is_ok()));
    if let Ok(status) = answered {
        node_figures(&mut text, &status);
    }
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text.0).into_response()
}

fn node_figures(text: &mut Text, status: &NodeStatus) {
    let leads = status.groups.iter().filter(|group| group.leader == Some(status.id)).count();
    text.gauge(
        "quorate_lease_fenced",
        "This node holds no lease and acknowledges nothing",
        u64::from(status.lease_left.is_none()),
    );
    text.gauge("quorate_groups_led", "Groups that this node leads", count(leads));
    let leaderless = status.groups.iter().filter(|group| group.leader.is_none()).count();
    text.gauge("quorate_groups_leaderless", "Groups without a known leader", count(leaderless));
    text.gauge("quorate_incarnation", "Incarnation of this node", status.incarnation.0);
    text.gauge(
        "quorate_stream_bytes",
        "Bytes of commands that wait to be applied",
        count(status.stream_bytes),
    );
    text.gauge("quorate_peers_up", "Peers with a link", count(status.peers_up.len()));
    let sum = |figure: fn(&quorate_state::partition::Counts) -> u64| -> u64 {
        status.groups.iter().filter_map(|group| group.counts.as_ref()).map(figure).sum()
    };
    text.gauge("quorate_sessions", "Sessions in the partitions here", sum(|counts| counts.sessions));
    text.gauge(
        "quorate_subscriptions",
        "Subscriptions of those sessions",
        sum(|counts| counts.subscriptions),
    );
    text.gauge(
        "quorate_retained_messages",
        "Retained messages in the partitions here",
        sum(|counts| counts.retained),
    );
    text.gauge(
        "quorate_queued_messages",
        "Messages queued in sessions",
        sum(|counts| counts.queued_messages),
    );
    text.gauge("quorate_queued_bytes", "Bytes queued in sessions", sum(|counts| counts.queued_bytes));
    text.gauge("quorate_inflight_messages", "Messages inflight to clients", sum(|counts| counts.inflight));
    for (name, help, figure) in [
        (
            "quorate_group_applied_index",
            "Applied index, by group",
            (|group: &Group| group.applied.0) as fn(&Group) -> u64,
        ),
        ("quorate_group_committed_index", "Committed index, by group", |group: &Group| group.committed.0),
        ("quorate_group_checkpoint_index", "Index of the durable checkpoint, by group", |group: &Group| {
            group.checkpoint.0
        }),
        ("quorate_group_term", "Term, by group", |group: &Group| group.term),
    ] {
        text.head(name, help, "gauge");
        for group in &status.groups {
            text.labelled(name, "group", &group.group.to_string(), figure(group));
        }
    }
}

type Group = quorate_node::node::GroupStatus;

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
