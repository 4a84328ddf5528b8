//! `/v1/sessions`: a page of sessions, and one session explained.
//!
//! Owns: the translation of what a replica says into the API's types, and where to go when there is no replica here.
//! Does not: ask other nodes, judge; see `session_findings`.
//! Invariants: an answer is of one replica, and says of which and up to which log index.
//! Limits: `ADMIN_SESSIONS_MAX`, `ADMIN_SUBSCRIPTIONS_MAX`.

use std::fmt::Write;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use quorate_api::{
    DroppedCount, ErrorBody, InflightState, OldestMessage, QueueState, SessionExplanation, SessionNode,
    SessionOwner, SessionPage, SessionState, SessionSummary, SubscriptionState,
};
use quorate_node::node::{NodeStatus, ReplicaView, SessionView};
use quorate_state::command::SessionExpiry;
use quorate_state::{InflightDetail, NodeId, Overflow, SessionDetail, Timestamp};
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};
use super::session_findings::findings;
use crate::limits::{ADMIN_SESSIONS_MAX, ADMIN_SUBSCRIPTIONS_MAX};
use crate::metrics::reason_name;
use crate::question::Question;

/// Which page.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct PageQuery {
    /// Client identifier after which to begin; from the first one without it.
    after: Option<String>,
    /// Most sessions in the answer, up to 100.
    limit: Option<usize>,
}

/// Sessions of the partitions that have a replica on this node, in byte order of client identifiers.
#[utoipa::path(get, path = "/v1/sessions", params(PageQuery), responses(
    (status = 200, description = "A page of sessions", body = SessionPage),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn list(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<SessionPage>, ApiError> {
    let max = query.limit.unwrap_or(ADMIN_SESSIONS_MAX).clamp(1, ADMIN_SESSIONS_MAX);
    let list = admin.ask(|answer| Question::Sessions { after: query.after, max, answer }).await?;
    let last = list.sessions.last().map(|(_, info)| info.client_id.as_str().to_owned());
    let summaries = list.sessions.iter().map(|(partition, info)| SessionSummary {
        client_id: info.client_id.as_str().to_owned(),
        partition: partition.0,
        owner: info.owner.map(|owner| owner.node.0),
        durable: info.durable,
        subscriptions: info.subscriptions as u64,
        queued_messages: info.queued_messages,
        queued_bytes: info.queued_bytes,
        inflight: info.inflight as u64,
    });
    Ok(Json(SessionPage {
        read_from: this_node(&admin),
        sessions: summaries.collect(),
        next_after: last.filter(|_| list.more),
        missing_partitions: list.missing.iter().map(|partition| partition.0).collect(),
    }))
}

/// One session: who holds it, what waits for it, and why the client gets nothing, if so.
#[utoipa::path(get, path = "/v1/sessions/{client_id}", params(
    ("client_id" = String, Path, description = "Client identifier, percent-encoded")
), responses(
    (status = 200, description = "What the replica on this node says", body = SessionExplanation),
    (status = 307, description = "No replica of the home partition here: ask the node in Location"),
    (status = 503, description = "The node does not answer in time, or no node with a replica is known",
        body = ErrorBody)
))]
pub async fn explain(
    State(admin): State<AdminState>,
    Path(client_id): Path<String>,
) -> Result<Response, ApiError> {
    let asked = client_id.clone();
    let view = admin.ask(|answer| Question::Session { client_id: asked, answer }).await?;
    let status = admin.ask(|answer| Question::Status { with_hash: false, answer }).await?;
    Ok(match &view.replica {
        Some(replica) => Json(explanation(&admin, &status, client_id, &view, replica)).into_response(),
        None => elsewhere(&status, &client_id, &view),
    })
}

/// There is no replica here: the leader is asked, or any node that has one.
fn elsewhere(status: &NodeStatus, client_id: &str, view: &SessionView) -> Response {
    let others =
        view.leader.into_iter().chain(view.replicas.iter().copied()).filter(|node| *node != status.id);
    let admin = others.filter_map(|node| node_of(status, node).admin).next();
    match admin {
        Some(admin) => {
            let location =
                format!("{}/v1/sessions/{}", admin.trim_end_matches('/'), percent_encoded(client_id));
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
        }
        None => {
            let message = format!("no node with a replica of partition {} is known here", view.partition);
            let hint = "ask again, or ask another node: GET /v1/cluster/state names them";
            ApiError::unavailable("replica_unknown", message, hint).into_response()
        }
    }
}

/// All but unreserved characters of RFC 3986 as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn explanation(
    admin: &AdminState,
    status: &NodeStatus,
    client_id: String,
    view: &SessionView,
    replica: &ReplicaView,
) -> SessionExplanation {
    let mut explanation = SessionExplanation {
        client_id,
        partition: view.partition.0,
        leader: view.leader.map(|leader| node_of(status, leader)),
        read_from: SessionNode { admin: node_of(status, status.id).admin, ..this_node(admin) },
        leading: replica.leading,
        applied: replica.applied.0,
        committed: replica.committed.0,
        session: replica.session.as_ref().map(|session| state(status, session, replica.now)),
        findings: Vec::new(),
    };
    explanation.findings = findings(&explanation);
    explanation
}

fn this_node(admin: &AdminState) -> SessionNode {
    SessionNode { id: admin.edge.node.0, name: admin.node_name.to_string(), admin: None }
}

fn node_of(status: &NodeStatus, node: NodeId) -> SessionNode {
    let record = status.nodes.iter().map(|(record, _)| record).find(|record| record.id == node);
    let text = |text: &quorate_codec::Text| text.as_str().to_owned();
    SessionNode {
        id: node.0,
        name: record.map(|record| text(&record.name)).unwrap_or_default(),
        admin: record.map(|record| text(&record.admin)).filter(|admin| !admin.is_empty()),
    }
}

fn state(status: &NodeStatus, detail: &SessionDetail, now: Timestamp) -> SessionState {
    let info = &detail.info;
    let seconds = |from: Timestamp, to: Timestamp| to.0.saturating_sub(from.0) / 1000;
    let subscriptions = detail.subscriptions.iter().take(ADMIN_SUBSCRIPTIONS_MAX);
    SessionState {
        session: info.session.0,
        epoch: info.epoch.0,
        principal: info.principal.as_str().to_owned(),
        durable: info.durable,
        owner: info.owner.map(|owner| SessionOwner {
            node: node_of(status, owner.node),
            incarnation: owner.incarnation.0,
            connection: owner.conn.0,
        }),
        offline_s: info.offline_since.map(|since| seconds(since, now)),
        expiry_s: match info.expiry {
            SessionExpiry::AtClose => Some(0),
            SessionExpiry::After(expiry_s) => Some(expiry_s),
            SessionExpiry::Never => None,
        },
        ends_in_s: detail.ends.map(|end| seconds(now, end)),
        subscription_count: detail.subscriptions.len() as u64,
        subscriptions: subscriptions
            .map(|subscription| SubscriptionState {
                filter: subscription.filter.as_str().to_owned(),
                qos: subscription.options.qos as u8,
                no_local: subscription.options.no_local,
                identifier: subscription.identifier,
            })
            .collect(),
        queue: QueueState {
            messages: info.queued_messages,
            bytes: info.queued_bytes,
            messages_max: detail.queue_messages_max,
            bytes_max: detail.queue_bytes_max,
            overflow: match detail.overflow {
                Overflow::DropOldest => "drop-oldest",
                Overflow::DropNewest => "drop-newest",
                Overflow::RejectPublisher => "reject-publisher",
            }
            .to_owned(),
        },
        inflight: inflight(&detail.inflight, detail.window, detail.receive_max),
        inbound: detail.inbound as u64,
        dropped: detail
            .dropped
            .iter()
            .map(|(reason, count)| DroppedCount { reason: reason_name(*reason).to_owned(), count: *count })
            .collect(),
        refused: detail.refused,
    }
}

fn inflight(inflight: &InflightDetail, window: u16, receive_max: u16) -> InflightState {
    InflightState {
        sent: inflight.sent,
        held: inflight.held,
        window,
        receive_max,
        sent_bytes: inflight.sent_bytes,
        sent_bytes_max: inflight.sent_bytes_max,
        awaiting_puback: inflight.awaiting_puback,
        awaiting_pubrec: inflight.awaiting_pubrec,
        awaiting_pubcomp: inflight.awaiting_pubcomp,
        oldest: inflight.oldest.map(|oldest| OldestMessage {
            packet_id: oldest.packet_id.get(),
            qos: oldest.qos as u8,
            entry: oldest.entry.map(|index| index.0),
            sent_before: oldest.sent_before,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_codec::Text;
    use quorate_state::command::NodeRecord;
    use quorate_state::{GroupId, Incarnation, LogIndex};

    fn status() -> NodeStatus {
        let record = |id: u64, admin: &'static str| NodeRecord {
            id: NodeId(id),
            name: Text::from_static("n"),
            disk: [0; 16],
            incarnation: Incarnation(1),
            peer: Text::from_static(""),
            mqtt: Text::from_static(""),
            admin: Text::from_static(admin),
            zone: Text::from_static(""),
            version: Text::from_static(""),
            level: 1,
        };
        let live = quorate_state::NodeStatus::Live;
        NodeStatus {
            id: NodeId(1),
            incarnation: Incarnation(1),
            lease_left: None,
            ready: true,
            nodes: vec![
                (record(1, "http://127.0.0.1:1"), live),
                (record(2, ""), live),
                (record(3, "http://127.0.0.1:3"), live),
            ],
            groups: Vec::new(),
            peers_up: Vec::new(),
            connections: 0,
            stream_bytes: 0,
            barrier: LogIndex(0),
            duties: Vec::new(),
            time: Timestamp(0),
            level: 1,
            violations: Vec::new(),
        }
    }

    #[test]
    fn node_without_a_replica_names_one_that_has_it() {
        let view = |leader: Option<u64>, replicas: &[u64]| SessionView {
            partition: GroupId(7),
            leader: leader.map(NodeId),
            replicas: replicas.iter().copied().map(NodeId).collect(),
            replica: None,
        };
        for (leader, replicas, location) in [
            (Some(3), &[2, 3][..], Some("http://127.0.0.1:3/v1/sessions/a%2Fb%20%C3%A9")),
            (None, &[1, 2, 3], Some("http://127.0.0.1:3/v1/sessions/a%2Fb%20%C3%A9")),
            (Some(2), &[2], None),
            (None, &[], None),
        ] {
            let response = elsewhere(&status(), "a/b é", &view(leader, replicas));
            let found = response.headers().get(header::LOCATION).map(|value| value.to_str().unwrap());
            assert_eq!(found, location);
            let expected =
                location.map_or(StatusCode::SERVICE_UNAVAILABLE, |_| StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(response.status(), expected);
        }
    }
}
