//! `/v1/figures`: how much goes through each node.
//!
//! Owns: the figures of this node, and their sums. Does not: ask other nodes; what they told last is shown.

use axum::extract::State;
use axum::response::Json;
use quorate_api::{ErrorBody, FigurePage, Figures, NodeFigures};
use quorate_node::node::NodeStatus;
use quorate_state::partition::Counts;

use super::AdminState;
use super::diagnosis::name_of;
use super::error::ApiError;
use crate::events::unix_ms;
use crate::question::Question;

/// Rates, latencies and what is stored, by node and of all nodes that were heard of lately.
#[utoipa::path(get, path = "/v1/figures", responses(
    (status = 200, description = "The newest figures", body = FigurePage),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn figures(State(admin): State<AdminState>) -> Result<Json<FigurePage>, ApiError> {
    let status = admin.ask(|answer| Question::Status { with_hash: false, answer }).await?;
    let now = admin.edge.clock.now();
    let mut nodes =
        vec![NodeFigures { node: admin.node_name.to_string(), age_ms: 0, figures: own(&admin, &status) }];
    nodes.extend(admin.edge.heard.lock().shown().into_iter().map(|(peer, at, figures)| NodeFigures {
        node: name_of(&status, peer),
        age_ms: u64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u64::MAX),
        figures,
    }));
    nodes.sort_by(|one, other| one.node.cmp(&other.node));
    let total = nodes.iter().map(|node| node.figures).fold(Figures::default(), sum);
    Ok(Json(FigurePage { at_ms: unix_ms(), nodes, total }))
}

/// Of this node, by what it saw of itself lately.
fn own(admin: &AdminState, status: &NodeStatus) -> Figures {
    let led = status.groups.iter().filter(|group| group.leader == Some(status.id));
    let led: Vec<&Counts> = led.filter_map(|group| group.counts.as_ref()).collect();
    let count =
        |figure: fn(&Counts) -> u64| led.iter().map(|counts| figure(counts)).fold(0, u64::saturating_add);
    let connections = admin.edge.metrics.connections();
    let offline = count(|counts| counts.sessions.saturating_sub(counts.online));
    let mut figures = Figures {
        connections,
        sessions: connections.saturating_add(offline),
        queued_messages: count(|counts| counts.queued_messages),
        retained: count(|counts| counts.retained),
        ..Figures::default()
    };
    if let Some((first, last)) = admin.edge.lookout.looks() {
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        let rates = first
            .traffic
            .iter()
            .zip(last.traffic)
            .map(|(before, now)| now.saturating_sub(*before) as f64 / seconds);
        let fields = [
            &mut figures.messages_in_per_s,
            &mut figures.messages_out_per_s,
            &mut figures.bytes_in_per_s,
            &mut figures.bytes_out_per_s,
            &mut figures.dropped_per_s,
        ];
        fields.into_iter().zip(rates).for_each(|(field, rate)| *field = rate);
    }
    (figures.publish_latency_p50_us, figures.publish_latency_p99_us) =
        admin.edge.lookout.publish_latency_us();
    figures
}

/// Sums, and the higher of two latencies: those of all publishes together cannot be made of them.
fn sum(one: Figures, other: Figures) -> Figures {
    Figures {
        connections: one.connections.saturating_add(other.connections),
        sessions: one.sessions.saturating_add(other.sessions),
        messages_in_per_s: one.messages_in_per_s + other.messages_in_per_s,
        messages_out_per_s: one.messages_out_per_s + other.messages_out_per_s,
        bytes_in_per_s: one.bytes_in_per_s + other.bytes_in_per_s,
        bytes_out_per_s: one.bytes_out_per_s + other.bytes_out_per_s,
        publish_latency_p50_us: one.publish_latency_p50_us.max(other.publish_latency_p50_us),
        publish_latency_p99_us: one.publish_latency_p99_us.max(other.publish_latency_p99_us),
        queued_messages: one.queued_messages.saturating_add(other.queued_messages),
        retained: one.retained.saturating_add(other.retained),
        dropped_per_s: one.dropped_per_s + other.dropped_per_s,
    }
}
