//! `/v1/cluster/membership` and `/v1/nodes/{name}/remove`: members that come and go for good.
//!
//! Owns: the translation. Does not: decide; control does, through the worker.
//! Invariants: an answer that says that something changed is given after it is durable; a dry run changes nothing.
//! See: docs/operations/membership.md.

use axum::extract::State;
use axum::response::Json;
use quorate_api::ErrorBody;
use quorate_api::cluster::NodeState;
use quorate_api::duty::Blocker;
use quorate_api::membership::{Member, Membership, MovingGroup, Removal, RemoveAnswer, RemoveRequest};
use quorate_codec::Text;
use quorate_node::node::{NodeStatus, Operation};
use quorate_state::NodeId;
use quorate_state::command::Removal as Wanted;
use quorate_state::control::{MemberState, Move, NodeStatus as Status};

use super::AdminState;
use super::duty::{known, name_of};
use super::error::{ApiError, ApiJson, ApiPath};

/// Members, their replicas, and what is on the way.
#[utoipa::path(get, path = "/v1/cluster/membership", responses(
    (status = 200, description = "Members", body = Membership),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn membership(State(admin): State<AdminState>) -> Result<Json<Membership>, ApiError> {
    let status = admin.status().await?;
    Ok(Json(translate(&admin.cluster_name, &status)))
}

/// Takes a node out of the cluster for good.
#[utoipa::path(post, path = "/v1/nodes/{name}/remove", request_body = RemoveRequest,
    params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "Taken on and durable, or the answer of a dry run", body = RemoveAnswer),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 409, description = "Too few nodes would stay", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn remove(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<RemoveRequest>,
) -> Result<Json<RemoveAnswer>, ApiError> {
    let status = admin.status().await?;
    let node = known(&status, &name)?.0.id;
    let member = status.membership.members.iter().find(|member| member.node == node);
    let removal = match &request.successor {
        None => Wanted::Remove,
        Some(successor) => Wanted::Replace { successor: successor_name(successor)? },
    };
    let placed = member.map_or(0, |member| member.placed);
    let mut answer =
        RemoveAnswer { node: name, id: node.0, dry_run: request.dry_run, placed, ..Default::default() };
    if request.dry_run {
        // With a successor the number of nodes stays.
        let why = member.and_then(|member| member.removal_refusal).filter(|_| request.successor.is_none());
        answer.blockers = why.map(blocker).into_iter().collect();
        return Ok(Json(answer));
    }
    admin.operate(Operation::Remove { node, removal }, "cannot_remove").await?;
    answer.leaving = true;
    Ok(Json(answer))
}

/// Calls a removal off that is not at its end.
#[utoipa::path(delete, path = "/v1/nodes/{name}/remove", params(("name" = String, Path, description = "Node name")), responses(
    (status = 200, description = "The node stays, and that is durable", body = RemoveAnswer),
    (status = 404, description = "No such node", body = ErrorBody),
    (status = 409, description = "The node has left already", body = ErrorBody),
    (status = 503, description = "The cluster did not decide in time", body = ErrorBody)
))]
pub async fn keep(
    State(admin): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Json<RemoveAnswer>, ApiError> {
    let status = admin.status().await?;
    let node = known(&status, &name)?.0.id;
    admin.operate(Operation::Remove { node, removal: Wanted::Keep }, "cannot_keep").await?;
    let placed = status.membership.members.iter().find(|member| member.node == node);
    let placed = placed.map_or(0, |member| member.placed);
    Ok(Json(RemoveAnswer { node: name, id: node.0, placed, ..Default::default() }))
}

fn successor_name(name: &str) -> Result<Text, ApiError> {
    let text = Text::parse(name).ok();
    text.ok_or_else(|| {
        let message = format!("`successor` is {name:?}, which is no name of a node");
        ApiError::bad_request("successor_invalid", message, "use 1 to 63 of a-z, 0-9 and -")
    })
}

fn blocker(why: &'static str) -> Blocker {
    let hint = "GET /v1/cluster/membership shows the members; docs/operations/membership.md says how many are needed";
    Blocker { code: "cannot_remove".to_owned(), message: why.to_owned(), hint: hint.to_owned() }
}

fn translate(cluster: &str, status: &NodeStatus) -> Membership {
    let membership = &status.membership;
    Membership {
        cluster: cluster.to_owned(),
        partitions: membership.partitions,
        replication: membership.replication,
        members: membership.members.iter().filter_map(|member| translate_member(status, member)).collect(),
        moving: membership.moves.iter().map(|one| translate_move(status, one)).collect(),
        settled: membership.settled,
    }
}

fn translate_member(status: &NodeStatus, member: &MemberState) -> Option<Member> {
    let (record, state) = status.nodes.iter().find(|(record, _)| record.id == member.node)?;
    let some = |text: &Text| Some(text.as_str().to_owned()).filter(|text| !text.is_empty());
    let removal = member.removal.as_ref().map(|removal| Removal {
        since_ms: status.time.0.saturating_sub(removal.since.0),
        successor: removal.successor.as_ref().map(|name| name.as_str().to_owned()),
    });
    Some(Member {
        id: member.node.0,
        name: record.name.as_str().to_owned(),
        state: if *state == Status::Live { NodeState::Live } else { NodeState::Down },
        zone: some(&record.zone),
        peer: some(&record.peer),
        placed: member.placed,
        member_of: member.member_of,
        removal,
        blocker: member.removal_refusal.map(blocker),
    })
}

fn translate_move(status: &NodeStatus, one: &Move) -> MovingGroup {
    let names = |nodes: &[NodeId]| nodes.iter().map(|node| name_of(status, *node)).collect();
    MovingGroup {
        group: one.group.0,
        voters: names(&one.voters),
        learners: names(&one.learners),
        wanted: names(&one.wanted),
    }
}
