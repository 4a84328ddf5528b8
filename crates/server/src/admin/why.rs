//! `/v1/why` and `/v1/groups/{id}`: what is wrong, and what to do.
//!
//! Owns: gathering what is judged. Does not: judge; see `diagnosis`.

use std::time::Duration;

use axum::extract::State;
use axum::response::Json;
use quorate_api::{Clause, Diagnosis, ErrorBody, GroupExplanation, GroupKind, GroupReplica, GroupState, Why};
use quorate_node::client::Intake;
use quorate_node::node::{GroupStatus, NodeStatus};
use quorate_state::{CONTROL, GroupId, NodeId};

use super::AdminState;
use super::diagnosis::{self, Situation, name_of, silent_peers};
use super::error::{ApiError, ApiPath};
use super::health;
use crate::question::{Question, look};

/// What is wrong with this node, and what to do about it.
#[utoipa::path(get, path = "/v1/why", responses((status = 200, description = "The findings", body = Why)))]
pub async fn why(State(admin): State<AdminState>) -> Json<Why> {
    let status = admin.ask(|answer| Question::Status { with_hash: false, answer }).await.ok();
    let readiness = health::readiness(&admin).await;
    let situation = situation(&admin, status.as_ref(), &readiness.clauses);
    let findings = diagnosis::of_node(&situation);
    Json(Why { node: admin.node_name.to_string(), ready: readiness.ready, findings })
}

/// Why this node leads a group or does not, and which replicas lag.
#[utoipa::path(get, path = "/v1/groups/{id}", params(("id" = u32, Path, description = "Group; 0 is control")), responses(
    (status = 200, description = "What this node knows of the group", body = GroupExplanation),
    (status = 404, description = "The cluster has no such group", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn group(
    State(admin): State<AdminState>,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<GroupExplanation>, ApiError> {
    let hint = "GET /v1/cluster/state lists the groups; control is 0";
    let unknown = || ApiError::not_found("group_not_found", format!("there is no group {id:?}"), hint);
    let group = GroupId(id.parse().map_err(|_| unknown())?);
    let status = admin.ask(|answer| Question::Status { with_hash: false, answer }).await?;
    let placed = look(&admin.edge, move |node, _| node.placement(group)).await?;
    let situation = situation(&admin, Some(&status), &[]);
    match status.groups.iter().find(|known| known.group == group) {
        Some(known) => Ok(Json(explanation(&situation, &status, known))),
        None => Ok(Json(absent(&status, group, &placed.ok_or_else(unknown)?))),
    }
}

/// What this node knows of itself now.
fn situation<'a>(admin: &AdminState, status: Option<&'a NodeStatus>, clauses: &'a [Clause]) -> Situation<'a> {
    let edge = &admin.edge;
    let now = edge.clock.now();
    let looks = edge.lookout.looks();
    let sync_p99 = looks.as_ref().and_then(|(first, last)| last.sync_time.quantile_us(&first.sync_time, 990));
    let dropped = looks.as_ref().map_or((0, Duration::ZERO), |(first, last)| {
        let [.., before] = first.traffic;
        let [.., after] = last.traffic;
        (after.saturating_sub(before), last.at.saturating_sub(first.at))
    });
    let closed = admin.edge.listeners.iter().filter_map(|listener| {
        let reason = match listener.is_listening() {
            true => listener.accepts().err()?,
            false => "it does not listen".to_owned(),
        };
        Some((listener.name.clone(), reason))
    });
    let stopping = edge.departure.borrow().is_stop();
    Situation {
        status,
        clauses,
        stopping,
        disk_full: edge.metrics.log_waits_for_space.value() > 0,
        disk_low: edge.room.intake() == Intake::Closed,
        memory: (edge.memory.pressure(), edge.memory.used_bytes(), edge.memory.budget_bytes()),
        damaged_kept: edge.metrics.damaged_folders.value(),
        sync_underway: edge.metrics.sync_underway(),
        sync_p99: sync_p99.map(Duration::from_micros),
        dropped,
        // One that stops listens no more: that is no finding of its own.
        closed_listeners: closed.filter(|_| !stopping).collect(),
        silent: status.map_or_else(Vec::new, |status| {
            silent_peers(status, now, |peer| edge.lookout.silent_since(peer))
        }),
    }
}

fn kind_of(group: GroupId) -> GroupKind {
    if group == CONTROL { GroupKind::Control } else { GroupKind::Partition }
}

fn names(status: &NodeStatus, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(|node| name_of(status, *node)).collect()
}

fn explanation(situation: &Situation<'_>, status: &NodeStatus, group: &GroupStatus) -> GroupExplanation {
    let replicas = group.progress.iter().map(|(node, matched)| GroupReplica {
        node: name_of(status, *node),
        matched: matched.0,
        lag: group.committed.0.saturating_sub(matched.0),
        snapshot: group.sent_snapshots.contains(node),
        active: *node == status.id || status.peers_up.contains(node),
    });
    GroupExplanation {
        group: group.group.0,
        kind: kind_of(group.group),
        role: super::cluster::role_of(status, group),
        leader: group.leader.map(|leader| name_of(status, leader)),
        term: group.term,
        voters: names(status, &group.voters),
        replicas: replicas.collect(),
        findings: diagnosis::of_group(situation, status, group),
    }
}

/// There is no replica here: only control's placement is known.
fn absent(status: &NodeStatus, group: GroupId, placed: &[NodeId]) -> GroupExplanation {
    let nodes = names(status, placed).join(", ");
    GroupExplanation {
        group: group.0,
        kind: kind_of(group),
        role: GroupState::Absent,
        leader: None,
        term: 0,
        voters: names(status, placed),
        replicas: Vec::new(),
        findings: vec![Diagnosis {
            code: "no_replica_here".to_owned(),
            message: format!("This node has no replica of group {group}: it is placed on {nodes}."),
            hint: "ask one of these nodes".to_owned(),
        }],
    }
}
