//! `/v1/sessions`: a page of sessions; one session explained, kicked or purged.
//!
//! Owns: the translation of what a replica says into the API's types, and who is asked when there is no replica here.
//! Does not: judge; see `session_findings`. List; see `inquiry::local`.
//! Invariants: an explanation is of one replica, and says of which and up to which log index; a purge is answered when it is
//! durable. Limits: `ADMIN_PAGE_ROWS_MAX`, `ADMIN_SUBSCRIPTIONS_MAX`.

use std::fmt::Write;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use quorate_api::{
    DroppedCount, ErrorBody, InflightState, Kicked, OldestMessage, Purged, QueueState, SessionExplanation,
    SessionNode, SessionOwner, SessionPage, SessionState, SessionSummary, SubscriptionState,
};
use quorate_codec::Text;
use quorate_node::node::{NodeStatus, Operation, ReplicaView, SessionView};
use quorate_node::routing::home_partition;
use quorate_state::command::SessionExpiry;
use quorate_state::{GroupId, InflightDetail, NO_SESSION, NodeId, Overflow, SessionDetail, Timestamp};
use serde::Deserialize;

use super::error::{ApiError, ApiJson, ApiPath, ApiQuery};
use super::gather::{Gathered, Places, ask_group, gather, holder, merge};
use super::session_findings::findings;
use super::{AdminState, NoAnswer};
use crate::edge::Edge;
use crate::inquiry::{Answer, Inquiry, Rows, SessionHolder, SessionsWanted, ask};
use crate::limits::{ADMIN_PAGE_ROWS, ADMIN_PAGE_ROWS_MAX, ADMIN_SUBSCRIPTIONS_MAX};
use crate::metrics::reason_name;
use crate::operations::OperationError;
use crate::question::{Question, ask_edge};

/// Which page, and which sessions.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct PageQuery {
    /// Client identifier after which to begin; from the first one without it.
    after: Option<String>,
    /// Most sessions in the answer, up to 1,000; 100 without it.
    limit: Option<usize>,
    /// Client identifiers that begin with this.
    prefix: Option<String>,
    /// Those with a connection, or those without.
    online: Option<bool>,
    /// Those with at least so many queued messages.
    min_queued: Option<u64>,
    /// Those with a connection on the node of this name.
    node: Option<String>,
}

/// Sessions of the whole cluster in byte order of client identifiers.
#[utoipa::path(get, path = "/v1/sessions", params(PageQuery), responses(
    (status = 200, description = "A page of sessions", body = SessionPage),
    (status = 400, description = "There is no such node", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn list(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<SessionPage>, ApiError> {
    let places = Places::of(&admin).await?;
    let node = match &query.node {
        Some(name) => Some(places.named(name).ok_or_else(|| unknown_node(name))?.0),
        None => None,
    };
    let max = page_rows(query.limit);
    let filter = SessionsWanted {
        prefix: query.prefix.unwrap_or_default(),
        online: query.online,
        min_queued: query.min_queued.unwrap_or(0),
        node,
    };
    let groups = places.all();
    let found = gather(&admin.edge, &places, &groups, |groups| Inquiry::Sessions {
        groups,
        filter: filter.clone(),
        after: query.after.clone(),
        max,
    });
    let Gathered { answers, incomplete } = found.await;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        Answer::Sessions(rows) => Some(rows),
        _ => None,
    });
    let key = |row: &SessionSummary| row.client_id.clone();
    let Rows { rows, resume } = merge(rows.collect(), max, key, String::cmp);
    Ok(Json(SessionPage {
        read_from: this_node(&admin),
        sessions: rows,
        next_after: resume.clone(),
        missing_partitions: incomplete,
        next: resume,
    }))
}

/// Rows of a page.
pub fn page_rows(limit: Option<usize>) -> usize {
    limit.unwrap_or(ADMIN_PAGE_ROWS).clamp(1, ADMIN_PAGE_ROWS_MAX)
}

/// 400: no node has this name.
fn unknown_node(name: &str) -> ApiError {
    ApiError::bad_request(
        "node_unknown",
        format!("no node is named {name:?}"),
        "`quorate status` lists the nodes with their names",
    )
}

/// One session: who holds it, what waits for it, and why the client gets nothing, if so.
#[utoipa::path(get, path = "/v1/sessions/{client_id}", params(
    ("client_id" = String, Path, description = "Client identifier, percent-encoded")
), responses(
    (status = 200, description = "What a replica of the home partition says; that on this node, if there is one",
        body = SessionExplanation),
    (status = 307, description = "No replica here, and none of the nodes with one answers: ask that in Location"),
    (status = 503, description = "The node does not answer in time, or no node with a replica is known",
        body = ErrorBody)
))]
pub async fn explain(
    State(admin): State<AdminState>,
    ApiPath(client_id): ApiPath<String>,
) -> Result<Response, ApiError> {
    let (view, status, explanation) = explain_here(&admin.edge, client_id.clone()).await?;
    if let Some(explanation) = explanation {
        return Ok(Json(explanation).into_response());
    }
    let places = Places::of(&admin).await?;
    let inquiry = Inquiry::Explain { client_id: client_id.clone() };
    match ask_group(&admin.edge, &places, view.partition, &inquiry).await {
        Some(Answer::Explanation(explanation)) => Ok(Json(*explanation).into_response()),
        _ => Ok(elsewhere(&status, &client_id, &view)),
    }
}

/// What is known here of a client identifier; the explanation when there is a replica of its home partition.
pub async fn explain_here(
    edge: &Edge,
    client_id: String,
) -> Result<(SessionView, NodeStatus, Option<SessionExplanation>), NoAnswer> {
    let asked = client_id.clone();
    let view = ask_edge(edge, |answer| Question::Session { client_id: asked, answer }).await?;
    let status = ask_edge(edge, |answer| Question::Status { with_hash: false, answer }).await?;
    let explained = view.replica.as_ref().map(|replica| explanation(&status, client_id, &view, replica));
    Ok((view, status, explained))
}

/// Closes the connection that holds a session, with DISCONNECT 0x98 (Administrative action) for MQTT 5. The session stays
/// as it does when a client goes without a word: its will is published, and it ends when its expiry says so.
#[utoipa::path(post, path = "/v1/sessions/{client_id}/kick", params(
    ("client_id" = String, Path, description = "Client identifier, percent-encoded")
), request_body(content = KickRequest, description = "What the client is told"), responses(
    (status = 200, description = "The connection is being closed, or there was none", body = Kicked),
    (status = 404, description = "The client identifier has no session", body = ErrorBody),
    (status = 503, description = "The home partition has no leader, or the connection's node does not answer",
        body = ErrorBody)
))]
pub async fn kick(
    State(admin): State<AdminState>,
    ApiPath(client_id): ApiPath<String>,
    ApiJson(KickRequest { reason: KickReason::Administrative }): ApiJson<KickRequest>,
) -> Result<Json<Kicked>, ApiError> {
    let Some(SessionHolder { owner }) = holder(&admin, &client_id).await? else {
        return Err(no_session(&client_id));
    };
    let Some(owner) = owner else {
        return Ok(Json(Kicked { client_id, kicked: false, node: None }));
    };
    let places = Places::of(&admin).await?;
    let node = places.name(NodeId(owner.0));
    match close(&admin, owner).await {
        Some(true) => {
            tracing::info!(node, "connection closed for an operator");
            Ok(Json(Kicked { client_id, kicked: true, node: Some(node) }))
        }
        Some(false) => Ok(Json(Kicked { client_id, kicked: false, node: None })),
        None => Err(ApiError::unavailable(
            "node_unreachable",
            format!("{node}, which has the connection of {client_id:?}, does not answer"),
            "ask again; when the node is lost, its connections end with its lease, within a second",
        )),
    }
}

/// What the client is told.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KickRequest {
    #[serde(default)]
    reason: KickReason,
}

/// Reason code of the DISCONNECT.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum KickReason {
    /// 0x98.
    #[default]
    Administrative,
}

/// Has the node of a connection close it; `None` when it does not answer.
async fn close(admin: &AdminState, (node, incarnation, conn): (u64, u64, u64)) -> Option<bool> {
    match ask(&admin.edge, NodeId(node), Inquiry::Close { incarnation, conn }).await {
        Some(Answer::Closed(found)) => Some(found),
        _ => None,
    }
}

fn no_session(client_id: &str) -> ApiError {
    ApiError::not_found(
        "session_not_found",
        format!("client identifier {client_id:?} has no session"),
        "`quorate sessions list --prefix TEXT` lists those that begin with a text",
    )
}

/// Ends a session for good: its queue, subscriptions and unacknowledged messages are gone, its connection is closed, its will
/// is published as at every end of a session [MQTT-3.1.2-8]. Answered when that is durable.
#[utoipa::path(delete, path = "/v1/sessions/{client_id}", params(
    ("client_id" = String, Path, description = "Client identifier, percent-encoded")
), responses(
    (status = 200, description = "There is no such session any more", body = Purged),
    (status = 503, description = "It is not known to be durable in time; it may still happen", body = ErrorBody)
))]
pub async fn purge(
    State(admin): State<AdminState>,
    ApiPath(client_id): ApiPath<String>,
) -> Result<Json<Purged>, ApiError> {
    let parsed = Text::parse(&client_id).map_err(|_| {
        let message = format!("{client_id:?} is no client identifier");
        ApiError::bad_request("client_id_invalid", message, "it has at most 65,535 bytes and no U+0000")
    })?;
    let group = home_partition(&client_id, admin.edge.partitions);
    // Whether it can be found changes nothing: the partition has the connection closed too, and says whether there was one.
    let known = holder(&admin, &client_id).await?;
    let existed = operate(&admin, Operation::Purge(parsed), group).await?;
    if let Some((_, owner)) = known.and_then(|known| Some((known, known.owner?))) {
        // What the partition's leader said to the connection's node may be lost with their link.
        close(&admin, owner).await;
    }
    tracing::info!(group = group.0, existed, "session ended for an operator");
    Ok(Json(Purged { client_id, existed }))
}

/// Has a partition carry out an operation; whether there was anything to do.
pub async fn operate(admin: &AdminState, operation: Operation, group: GroupId) -> Result<bool, ApiError> {
    let edge = &admin.edge;
    match edge.operations.carry_out(&edge.inbox, operation).await {
        Ok(()) => Ok(true),
        Err(OperationError::Refused(why)) if why == NO_SESSION => Ok(false),
        Err(OperationError::Refused(why)) => Err(ApiError::conflict(
            "operation_refused",
            format!("group {group} refused the operation: {why}"),
            "`quorate status` shows whether all nodes run the same version",
        )),
        Err(error @ OperationError::Undecided) => Err(ApiError::unavailable(
            "operation_unconfirmed",
            format!("operation on group {group}: {error}; it may still happen"),
            "look whether it has; doing it again does no harm",
        )),
        Err(error @ OperationError::Busy) => Err(ApiError::unavailable(
            "node_busy",
            format!("operation on group {group}: {error}"),
            "nothing was done: try again in a few seconds",
        )),
    }
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
    status: &NodeStatus,
    client_id: String,
    view: &SessionView,
    replica: &ReplicaView,
) -> SessionExplanation {
    let mut explanation = SessionExplanation {
        client_id,
        partition: view.partition.0,
        leader: view.leader.map(|leader| node_of(status, leader)),
        read_from: node_of(status, status.id),
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
    let text = |text: &Text| text.as_str().to_owned();
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
            membership: Default::default(),
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
