//! `/v1/cluster/state`: the cluster as this node sees it.
//!
//! Owns: the translation of the node's status into the API's types. Does not: gather it.

use axum::extract::State;
use axum::response::Json;
use quorate_api::{
    ClusterState, ErrorBody, GroupKind, GroupState, GroupStatus, NodeState, NodeStatus, PlacementViolation,
    ReplicaStatus, Totals,
};
use quorate_state::{CONTROL, NodeId};
use serde::Deserialize;

use super::AdminState;
use super::duty;
use super::error::{ApiError, ApiQuery};
use crate::question::Question;

/// What may be asked for besides.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct StateQuery {
    /// With a hash of each group's state; reads all of it.
    #[serde(default)]
    hash: bool,
}

/// State of nodes and groups as this node sees them.
#[utoipa::path(get, path = "/v1/cluster/state", params(StateQuery), responses(
    (status = 200, description = "State", body = ClusterState),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn state(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<StateQuery>,
) -> Result<Json<ClusterState>, ApiError> {
    let status = admin.ask(|answer| Question::Status { with_hash: query.hash, answer }).await?;
    Ok(Json(translate(&admin, &status)))
}

fn translate(admin: &AdminState, status: &quorate_node::node::NodeStatus) -> ClusterState {
    let groups: Vec<GroupStatus> = status.groups.iter().map(|group| translate_group(status, group)).collect();
    let connections = admin.edge.metrics.connections();
    let ready = status.ready && !admin.edge.departure.borrow().is_stop();
    // A node that another one of its name came for is no member any more; its identity is only kept so that nobody else gets it.
    let nodes = status
        .nodes
        .iter()
        .filter(|(_, membership)| *membership != quorate_state::control::NodeStatus::Removed)
        .map(|(record, membership)| translate_node(status, record, membership, (ready, connections)));
    let violations = status
        .violations
        .iter()
        .map(|violation| PlacementViolation { group: violation.group.0, text: violation.text.clone() });
    ClusterState {
        cluster_name: admin.cluster_name.to_string(),
        cluster_id: admin.cluster_id.to_string(),
        node_id: status.id.0,
        node_name: admin.node_name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: nodes.collect(),
        totals: Totals::of(&groups, connections),
        groups,
        level: status.level,
        placement_violations: violations.collect(),
    }
}

fn translate_node(
    status: &quorate_node::node::NodeStatus,
    record: &quorate_state::command::NodeRecord,
    membership: &quorate_state::control::NodeStatus,
    (ready, connections): (bool, u64),
) -> NodeStatus {
    let own = record.id == status.id;
    let some = |text: &quorate_codec::Text| Some(text.as_str().to_owned()).filter(|text| !text.is_empty());
    let wanted = status.duties.iter().find(|duty| duty.node == record.id).map(|duty| duty.duty);
    let duty = duty::translate(wanted.unwrap_or_default());
    NodeStatus {
        id: record.id.0,
        name: record.name.as_str().to_owned(),
        mqtt: some(&record.mqtt),
        admin: some(&record.admin),
        peer: some(&record.peer),
        version: some(&record.version),
        zone: some(&record.zone),
        duty,
        draining: duty == quorate_api::duty::Duty::Drain,
        state: if *membership == quorate_state::control::NodeStatus::Live {
            NodeState::Live
        } else {
            NodeState::Down
        },
        incarnation: record.incarnation.0,
        lease_ms: status
            .lease_left
            .filter(|_| own)
            .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        fenced: own && status.lease_left.is_none(),
        ready: own.then_some(ready),
        connections: own.then_some(connections),
    }
}

/// What the replica here is.
pub(super) fn role_of(
    status: &quorate_node::node::NodeStatus,
    group: &quorate_node::node::GroupStatus,
) -> GroupState {
    match group.leader {
        Some(leader) if leader == status.id => GroupState::Leader,
        _ if group.learners.contains(&status.id) => GroupState::Learner,
        Some(_) => GroupState::Follower,
        None => GroupState::Candidate,
    }
}

fn translate_group(
    status: &quorate_node::node::NodeStatus,
    group: &quorate_node::node::GroupStatus,
) -> GroupStatus {
    let me = status.id;
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let counts = group.counts.unwrap_or_default();
    let replicas = group.progress.iter().map(|(node, matched)| ReplicaStatus {
        node: node.0,
        matched: matched.0,
        lag: group.committed.0.saturating_sub(matched.0),
        snapshot: group.sent_snapshots.contains(node),
        active: *node == me || status.peers_up.contains(node),
    });
    GroupStatus {
        id: group.group.0,
        kind: if group.group == CONTROL { GroupKind::Control } else { GroupKind::Partition },
        state: role_of(status, group),
        leader: group.leader.map(|leader| leader.0),
        term: group.term,
        voters: ids(&group.voters),
        learners: ids(&group.learners),
        committed: group.committed.0,
        applied: group.applied.0,
        replicas: replicas.collect(),
        state_hash: group.hash.map(|hash| format!("{hash:016x}")),
        sessions: counts.sessions,
        subscriptions: counts.subscriptions,
        retained: counts.retained,
        queued_messages: counts.queued_messages,
        queued_bytes: counts.queued_bytes,
        inflight: counts.inflight,
    }
}
