//! `/v1/queues` and `/v1/slow-consumers`: where messages wait, and for whom, over the whole cluster.
//!
//! Owns: the choice of the first ones out of what the nodes say. Does not: rank; each node gives its own first ones.
//! Limits: `ADMIN_TOP_MAX` entries.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use quorate_api::{ErrorBody, LongestQueues, QueueLength, SlowConsumer, SlowConsumers};
use quorate_state::GroupId;
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};
use super::gather::{Gathered, Places, ask_all, ask_group, gather};
use crate::inquiry::{Answer, Inquiry};
use crate::limits::ADMIN_TOP_MAX;

/// How many.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct TopQuery {
    /// Most entries in the answer, up to 100; 20 without it.
    top: Option<usize>,
}

/// Entries of an answer that does not say how many.
const TOP: usize = 20;

impl TopQuery {
    fn top(&self) -> usize {
        self.top.unwrap_or(TOP).clamp(1, ADMIN_TOP_MAX)
    }
}

/// The longest queues of the cluster, longest first.
#[utoipa::path(get, path = "/v1/queues", params(TopQuery), responses(
    (status = 200, description = "Queues", body = LongestQueues),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn queues(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<TopQuery>,
) -> Result<Json<LongestQueues>, ApiError> {
    let top = query.top();
    let places = Places::of(&admin).await?;
    let found = gather(&admin.edge, &places, &places.all(), |groups| Inquiry::Queues { groups, top }).await;
    let Gathered { answers, incomplete } = found;
    let mut queues: Vec<QueueLength> = Vec::new();
    let mut whole = true;
    for answer in answers {
        if let Answer::Queues(rows, all) = answer {
            queues.extend(rows);
            whole &= all;
        }
    }
    queues.sort_by(|left, right| {
        let rank = |queue: &QueueLength| Reverse((queue.messages, queue.bytes));
        rank(left).cmp(&rank(right)).then_with(|| left.client_id.cmp(&right.client_id))
    });
    queues.truncate(top);
    Ok(Json(LongestQueues { queues, incomplete_groups: incomplete, complete: whole }))
}

/// Connected clients that take or acknowledge too little, those for which most waits first.
#[utoipa::path(get, path = "/v1/slow-consumers", params(TopQuery), responses(
    (status = 200, description = "Consumers", body = SlowConsumers),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn slow_consumers(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<TopQuery>,
) -> Result<Json<SlowConsumers>, ApiError> {
    let top = query.top();
    let places = Places::of(&admin).await?;
    let groups = places.all();
    let sessions = gather(&admin.edge, &places, &groups, |groups| Inquiry::SlowSessions { groups, top });
    let (Gathered { answers, incomplete }, transient) =
        tokio::join!(sessions, transient_consumers(&admin, &places, top));
    let (mut consumers, mut whole) = transient;
    for answer in answers {
        if let Answer::SlowSessions(rows, all) = answer {
            consumers.extend(rows);
            whole &= all;
        }
    }
    consumers.sort_by(|left, right| {
        let rank = |consumer: &SlowConsumer| Reverse((consumer.queued, consumer.inflight, consumer.dropped));
        rank(left).cmp(&rank(right)).then_with(|| left.client_id.cmp(&right.client_id))
    });
    consumers.truncate(top);
    Ok(Json(SlowConsumers { consumers, incomplete_groups: incomplete, complete: whole }))
}

/// Those of transient sessions: their nodes know what waits, their home partitions who they are. Whether all nodes answered.
async fn transient_consumers(admin: &AdminState, places: &Places, top: usize) -> (Vec<SlowConsumer>, bool) {
    let nodes = places.names.keys().map(|node| (*node, (), Inquiry::SlowConnections { top }));
    let mut found = Vec::new();
    let mut whole = true;
    for ((), answer) in ask_all(&admin.edge, nodes).await {
        match answer {
            Some(Answer::SlowConnections(rows)) => found.extend(rows),
            _ => whole = false,
        }
    }
    found.sort_by_key(|(_, _, consumer)| Reverse((consumer.queued, consumer.dropped)));
    found.truncate(top);
    let mut groups: BTreeMap<u32, Vec<(u64, SlowConsumer)>> = BTreeMap::new();
    for (group, session, consumer) in found {
        groups.entry(group).or_default().push((session, consumer));
    }
    let mut consumers = Vec::new();
    for (group, of_group) in groups {
        let sessions = of_group.iter().map(|(session, _)| (group, *session)).collect();
        let inquiry = Inquiry::ClientIds { sessions };
        let answer = ask_group(&admin.edge, places, GroupId(group), &inquiry).await;
        let Some(Answer::ClientIds(client_ids)) = answer else {
            whole = false;
            continue;
        };
        let named = of_group.into_iter().zip(client_ids);
        consumers.extend(named.filter_map(|((_, consumer), client_id)| {
            Some(SlowConsumer { client_id: client_id?, ..consumer })
        }));
    }
    (consumers, whole)
}
