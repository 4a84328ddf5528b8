//! `/v1/retained`: retained messages listed, read and deleted.
//!
//! Owns: the pages over all partitions, the way to the partition of a topic. Does not: know topics below `$SYS`, which no
//! partition has. Invariants: a deletion is answered when it is durable.
//! Limits: `ADMIN_PAGE_ROWS_MAX`.

use axum::Json;
use axum::extract::State;
use quorate_api::{ErrorBody, RetainedDeleted, RetainedMessage, RetainedPage, RetainedSummary};
use quorate_codec::{Text, TopicFilter, TopicName};
use quorate_node::node::Operation;
use quorate_node::routing::retained_partition;
use quorate_state::GroupId;
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};
use super::gather::{Gathered, Places, ask_group, gather, merge, no_leader};
use super::sessions::{operate, page_rows};
use crate::inquiry::{Answer, Inquiry, Rows};

/// Which page, and which topics.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct PageQuery {
    /// Topic after which to begin; from the first one without it.
    after: Option<String>,
    /// Most messages in the answer, up to 1,000; 100 without it.
    limit: Option<usize>,
    /// Topic filter; `#` without it, and topics that begin with `$` are not among those.
    filter: Option<String>,
}

/// Which message.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct TopicQuery {
    /// Topic name.
    topic: String,
}

/// Retained messages of the whole cluster in byte order of topics.
#[utoipa::path(get, path = "/v1/retained", params(PageQuery), responses(
    (status = 200, description = "A page of retained messages", body = RetainedPage),
    (status = 400, description = "`filter` or `after` is none", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn list(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<RetainedPage>, ApiError> {
    let filter = parse_filter("filter", query.filter.as_deref().unwrap_or("#"))?;
    let after = query.after.as_deref().map(|after| parse_topic("after", after)).transpose()?;
    let max = page_rows(query.limit);
    let places = Places::of(&admin).await?;
    let groups = if filter.has_wildcard() {
        places.all()
    } else {
        vec![retained_partition(filter.as_str(), admin.edge.partitions).0]
    };
    let found = gather(&admin.edge, &places, &groups, |groups| Inquiry::Retained {
        groups,
        filter: filter.as_str().to_owned(),
        after: after.as_ref().map(|after| after.as_str().to_owned()),
        max,
    });
    let Gathered { answers, incomplete } = found.await;
    let rows = answers.into_iter().filter_map(|answer| match answer {
        Answer::Retained(rows) => Some(rows),
        _ => None,
    });
    let key = |row: &RetainedSummary| row.topic.clone();
    let Rows { rows, resume } = merge(rows.collect(), max, key, String::cmp);
    Ok(Json(RetainedPage { messages: rows, next: resume, incomplete_groups: incomplete }))
}

/// The retained message of a topic, with its payload.
#[utoipa::path(get, path = "/v1/retained/message", params(TopicQuery), responses(
    (status = 200, description = "The message", body = RetainedMessage),
    (status = 400, description = "`topic` is no topic name", body = ErrorBody),
    (status = 404, description = "The topic has no retained message", body = ErrorBody),
    (status = 503, description = "No node with a replica of the topic's partition answers", body = ErrorBody)
))]
pub async fn message(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<TopicQuery>,
) -> Result<Json<RetainedMessage>, ApiError> {
    let topic = parse_topic("topic", &query.topic)?;
    match find(&admin, &topic).await? {
        Some(message) => Ok(Json(message)),
        None => Err(ApiError::not_found(
            "retained_not_found",
            format!("topic {:?} has no retained message", topic.as_str()),
            "`quorate retained list --filter FILTER` lists the topics that have one",
        )),
    }
}

/// Deletes the retained message of a topic. No subscriber is sent anything; who subscribes from now on gets none. Answered
/// when that is durable.
#[utoipa::path(delete, path = "/v1/retained/message", params(TopicQuery), responses(
    (status = 200, description = "The topic has no retained message any more", body = RetainedDeleted),
    (status = 400, description = "`topic` is no topic name", body = ErrorBody),
    (status = 503, description = "It is not known to be durable in time; it may still happen", body = ErrorBody)
))]
pub async fn delete(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<TopicQuery>,
) -> Result<Json<RetainedDeleted>, ApiError> {
    let topic = parse_topic("topic", &query.topic)?;
    let existed = find(&admin, &topic).await?.is_some();
    let group = home(&admin, &topic);
    operate(&admin, Operation::DeleteRetained(topic), group).await?;
    tracing::info!(group = group.0, existed, "retained message deleted for an operator");
    Ok(Json(RetainedDeleted { topic: query.topic, existed }))
}

fn home(admin: &AdminState, topic: &TopicName) -> GroupId {
    retained_partition(topic.as_str(), admin.edge.partitions)
}

async fn find(admin: &AdminState, topic: &TopicName) -> Result<Option<RetainedMessage>, ApiError> {
    let places = Places::of(admin).await?;
    let group = home(admin, topic);
    let inquiry = Inquiry::RetainedMessage { topic: topic.as_str().to_owned() };
    match ask_group(&admin.edge, &places, group, &inquiry).await {
        Some(Answer::RetainedMessage(message)) => Ok(message),
        _ => Err(no_leader(group)),
    }
}

/// A topic filter in a parameter.
pub fn parse_filter(parameter: &str, text: &str) -> Result<TopicFilter, ApiError> {
    let parsed = Text::parse(text).ok().and_then(|text| TopicFilter::new(text).ok());
    parsed.ok_or_else(|| {
        ApiError::bad_request(
            "filter_invalid",
            format!("{parameter}: {text:?} is no topic filter"),
            "levels are separated by /; + stands for one level, # at the end for all below",
        )
    })
}

/// A topic name in a parameter.
pub fn parse_topic(parameter: &str, text: &str) -> Result<TopicName, ApiError> {
    let parsed = Text::parse(text).ok().and_then(|text| TopicName::new(text).ok());
    parsed.ok_or_else(|| {
        ApiError::bad_request(
            "topic_invalid",
            format!("{parameter}: {text:?} is no topic name"),
            "a topic name is not empty and has no + and #",
        )
    })
}
