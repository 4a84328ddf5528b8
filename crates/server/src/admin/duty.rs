//! `/v1/nodes/{name}/drain` and `/transfer`, `/v1/cluster/level` and `/finalize`: operators take nodes out of service and
//! put newer formats into use.
//!
//! Owns: the plans and answers. Does not: decide; control does, through the worker.
//! Invariants: an answer that says that something changed is given after it is durable; a dry run changes nothing; what
//! would break a quorum is refused. Limits: `TRANSFER_TIMEOUT`, `GRACE_MAX`.
//! See: docs/operations/drain.md, docs/operations/rolling-restart.md.

use axum::extract::State;
use axum::response::Json;
use quorate_api::ErrorBody;
use quorate_api::duty::{
    Blocker, DrainAnswer, DrainPlan, DrainRequest, DrainState, Duty as ApiDuty, Handover, LeftGroup,
    LevelState, NodeLevel, TransferAnswer, TransferRequest,
};
use quorate_node::node::{GroupStatus, NodeDuty, NodeStatus, Operation};
use quorate_state::NodeId;
use quorate_state::command::{Duty, NodeRecord};
use quorate_state::control::NodeStatus as Membership;
use tokio::time::Instant;

use super::AdminState;
use super::error::{ApiError, ApiJson, ApiPath};
use crate::limits::{GRACE_MAX, TRANSFER_LOOK_EVERY, TRANSFER_TIMEOUT};
use crate::operations::OperationError;
use crate::question::Question;

/// Whether a node is taken out of service, and what rests on it still.
#[utoipa::path(get, path = "/v1/nodes/{name}/drain", params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "State", body = DrainState),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn drain_state(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<DrainState>, ApiError> {
    let status = admin.status().await?;
    let (_, duty) = known(&status, &name)?;
    Ok(Json(state_of(&admin, &status, &name, duty)))
}

/// Takes a node out of service.
#[utoipa::path(post, path = "/v1/nodes/{name}/drain", request_body = DrainRequest,
    params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "Done and durable, or the plan of a dry run", body = DrainAnswer),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 409, description = "A group would have no majority in service", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn drain(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<DrainRequest>,
) -> Result<Json<DrainAnswer>, ApiError> {
    let grace_max = u32::try_from(GRACE_MAX.as_secs()).unwrap_or(u32::MAX);
    if request.grace_s > grace_max {
        let message = format!("`grace_s` is {}, more than {grace_max}", request.grace_s);
        return Err(ApiError::bad_request("grace_too_long", message, "give a shorter grace"));
    }
    let status = admin.status().await?;
    let (record, duty) = known(&status, &name)?;
    let own = record.id == status.id;
    let leads = led_by(&status, record.id);
    let would = DrainPlan {
        connections: own.then(|| admin.edge.metrics.connections()),
        leads: leads.iter().map(|group| group.group.0).collect(),
        targets: leads.iter().map(|group| handover(&status, group)).collect(),
    };
    let blockers = duty.drain_refusal.map(blocker).into_iter().collect();
    let node = record.id;
    let mut answer = DrainAnswer { node: name, draining: false, dry_run: request.dry_run, would, blockers };
    if !request.dry_run {
        let duty = Duty::Drain { grace_s: request.grace_s };
        admin.operate(Operation::SetDuty { node, duty }, "would_break_quorum").await?;
        answer.draining = true;
        answer.blockers.clear();
    }
    Ok(Json(answer))
}

/// Puts a node back into service.
#[utoipa::path(delete, path = "/v1/nodes/{name}/drain", params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "Done and durable", body = DrainState),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn undrain(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<DrainState>, ApiError> {
    let status = admin.status().await?;
    let (record, duty) = known(&status, &name)?;
    admin.operate(Operation::SetDuty { node: record.id, duty: Duty::Full }, "refused").await?;
    let duty = NodeDuty { duty: Duty::Full, since: status.time, ..duty };
    Ok(Json(state_of(&admin, &status, &name, duty)))
}

/// Moves leadership of all groups away from a node, which leads nothing from then on. Answers when that is so.
#[utoipa::path(post, path = "/v1/nodes/{name}/transfer", request_body = TransferRequest,
    params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "It leads nothing, or what it leads still", body = TransferAnswer),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 409, description = "Nobody else can lead", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn transfer(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<TransferRequest>,
) -> Result<Json<TransferAnswer>, ApiError> {
    let status = admin.status().await?;
    let (record, duty) = known(&status, &name)?;
    let node = record.id;
    let leads = led_by(&status, node);
    let stranded: Vec<String> =
        leads.iter().filter(|group| group.heir.is_none()).map(|group| group.group.to_string()).collect();
    if !stranded.is_empty() {
        let message = format!("no other node can lead the groups {}", stranded.join(", "));
        let hint = "bring another replica of them into service first: GET /v1/cluster/state lists them";
        return Err(ApiError::conflict("no_target", message, hint));
    }
    let plan: Vec<Handover> = leads.iter().map(|group| handover(&status, group)).collect();
    if request.dry_run {
        let left = Vec::new();
        return Ok(Json(TransferAnswer { node: name, dry_run: true, moved: plan, left }));
    }
    if duty.duty == Duty::Full {
        admin.operate(Operation::SetDuty { node, duty: Duty::Follow }, "refused").await?;
    }
    let deadline = Instant::now() + TRANSFER_TIMEOUT;
    loop {
        let status = admin.status().await?;
        let still = led_by(&status, node);
        if still.is_empty() || Instant::now() >= deadline {
            let left: Vec<LeftGroup> = still.iter().map(|group| left_group(&status, group)).collect();
            let moved = plan.iter().filter(|moved| left.iter().all(|left| left.group != moved.group));
            let moved = moved.map(|moved| led_now(&status, moved.group)).collect();
            return Ok(Json(TransferAnswer { node: name, dry_run: false, moved, left }));
        }
        tokio::time::sleep(TRANSFER_LOOK_EVERY).await;
    }
}

/// The node may lead groups again.
#[utoipa::path(delete, path = "/v1/nodes/{name}/transfer", params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "Done and durable", body = DrainState),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 409, description = "The node is taken out of service", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn lead_again(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<DrainState>, ApiError> {
    let status = admin.status().await?;
    let (_, duty) = known(&status, &name)?;
    if matches!(duty.duty, Duty::Drain { .. }) {
        let message = format!("node {name} is taken out of service, and so leads nothing");
        return Err(ApiError::conflict("draining", message, "put it back: DELETE /v1/nodes/{name}/drain"));
    }
    undrain(State(admin), ApiPath(name)).await
}

/// The level in use, and what the nodes speak.
#[utoipa::path(get, path = "/v1/cluster/level", responses(
    (status = 200, description = "Level", body = LevelState),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn level(State(admin): State<AdminState>) -> Result<Json<LevelState>, ApiError> {
    Ok(Json(level_of(&admin.status().await?)))
}

/// Puts the highest level into use that all nodes speak. There is no way back to older programs.
#[utoipa::path(post, path = "/v1/cluster/finalize", responses(
    (status = 200, description = "Done and durable", body = LevelState),
    (status = 409, description = "There is no such level", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn finalize(State(admin): State<AdminState>) -> Result<Json<LevelState>, ApiError> {
    let status = admin.status().await?;
    let before = level_of(&status);
    if let Some(blocker) = before.blockers.first() {
        return Err(ApiError::conflict("cannot_finalize", blocker.message.clone(), blocker.hint.clone()));
    }
    let level = common_level(&status);
    admin.operate(Operation::Finalize { level }, "cannot_finalize").await?;
    Ok(Json(level_of(&NodeStatus { level, ..status })))
}

impl AdminState {
    pub(super) async fn status(&self) -> Result<NodeStatus, ApiError> {
        Ok(self.ask(|answer| Question::Status { with_hash: false, answer }).await?)
    }

    pub(super) async fn operate(&self, operation: Operation, refused: &'static str) -> Result<(), ApiError> {
        let carried_out = self.edge.operations.carry_out(&self.edge.inbox, operation).await;
        carried_out.map_err(|error| match error {
            OperationError::Refused(why) => {
                ApiError::conflict(refused, why, "`quorate status` shows the nodes and their state")
            }
            OperationError::Undecided | OperationError::Busy => ApiError::unavailable(
                "undecided",
                error.to_string(),
                "see whether it has changed, then ask again: asking twice does no harm",
            ),
        })
    }
}

/// A member by its name.
pub(super) fn known<'a>(status: &'a NodeStatus, name: &str) -> Result<(&'a NodeRecord, NodeDuty), ApiError> {
    // Of a node and the one that came for it, the later counts.
    let record = staying(status).filter(|record| record.name.as_str() == name).last();
    let duty = record.and_then(|record| status.duties.iter().find(|duty| duty.node == record.id).copied());
    record.zip(duty).ok_or_else(|| {
        let names: Vec<&str> = staying(status).map(|record| record.name.as_str()).collect();
        let hint = format!("the nodes are {}", names.join(", "));
        ApiError::not_found("node_not_found", format!("there is no node {name:?}"), hint)
    })
}

fn state_of(admin: &AdminState, status: &NodeStatus, name: &str, duty: NodeDuty) -> DrainState {
    let leads: Vec<u32> = led_by(status, duty.node).iter().map(|group| group.group.0).collect();
    let own = duty.node == status.id;
    let connections = own.then(|| admin.edge.metrics.connections());
    DrainState {
        node: name.to_owned(),
        duty: translate(duty.duty),
        draining: matches!(duty.duty, Duty::Drain { .. }),
        grace_s: match duty.duty {
            Duty::Drain { grace_s } => Some(grace_s),
            Duty::Full | Duty::Follow => None,
        },
        since_ms: status.time.0.saturating_sub(duty.since.0),
        quiescent: connections.map(|connections| connections == 0 && leads.is_empty()),
        connections,
        leads,
    }
}

/// As the API says it.
pub(super) fn translate(duty: Duty) -> ApiDuty {
    match duty {
        Duty::Full => ApiDuty::Full,
        Duty::Follow => ApiDuty::Follow,
        Duty::Drain { .. } => ApiDuty::Drain,
    }
}

fn led_by(status: &NodeStatus, node: NodeId) -> Vec<&GroupStatus> {
    status.groups.iter().filter(|group| group.leader == Some(node)).collect()
}

pub(super) fn name_of(status: &NodeStatus, node: NodeId) -> String {
    let record = status.nodes.iter().find(|(record, _)| record.id == node);
    record.map_or_else(|| node.to_string(), |(record, _)| record.name.as_str().to_owned())
}

fn handover(status: &NodeStatus, group: &GroupStatus) -> Handover {
    Handover { group: group.group.0, to: group.heir.map(|heir| name_of(status, heir)) }
}

fn led_now(status: &NodeStatus, group: u32) -> Handover {
    let leader = status.groups.iter().find(|known| known.group.0 == group).and_then(|known| known.leader);
    Handover { group, to: leader.map(|leader| name_of(status, leader)) }
}

fn left_group(status: &NodeStatus, group: &GroupStatus) -> LeftGroup {
    let reason = match group.heir {
        None => "no other node can lead it".to_owned(),
        Some(heir) => {
            let name = name_of(status, heir);
            format!(
                "{name} is to lead it, and is not caught up or not reached: `quorate explain group` says more"
            )
        }
    };
    LeftGroup { group: group.group.0, reason }
}

fn blocker(why: &'static str) -> Blocker {
    let hint = "`quorate status` shows the nodes and their state";
    Blocker { code: "would_break_quorum".to_owned(), message: why.to_owned(), hint: hint.to_owned() }
}

fn staying(status: &NodeStatus) -> impl Iterator<Item = &NodeRecord> {
    let staying = status.nodes.iter().filter(|(_, membership)| *membership != Membership::Removed);
    staying.map(|(record, _)| record)
}

/// The highest level that all nodes speak.
fn common_level(status: &NodeStatus) -> u32 {
    staying(status).map(|record| record.level).min().unwrap_or(status.level)
}

fn level_of(status: &NodeStatus) -> LevelState {
    let highest = staying(status).map(|record| record.level).max().unwrap_or(status.level);
    let mut blockers = Vec::new();
    if highest <= status.level {
        let message = format!("level {} is the highest that any node speaks", status.level);
        let hint = "install a newer version on all nodes first";
        let (code, hint) = ("nothing_newer".to_owned(), hint.to_owned());
        blockers.push(Blocker { code, message, hint });
    } else if common_level(status) <= status.level {
        let older = staying(status).filter(|record| record.level <= status.level);
        let older: Vec<&str> = older.map(|record| record.name.as_str()).collect();
        let message = format!("not all nodes speak level {highest}: {}", older.join(", "));
        let hint = "install the newer version there too, or remove them";
        let (code, hint) = ("older_programs".to_owned(), hint.to_owned());
        blockers.push(Blocker { code, message, hint });
    }
    let supported = staying(status).map(|record| NodeLevel {
        node: record.name.as_str().to_owned(),
        version: record.version.as_str().to_owned(),
        level: record.level,
    });
    LevelState {
        level: status.level,
        supported: supported.collect(),
        can_finalize: blockers.is_empty(),
        blockers,
    }
}
