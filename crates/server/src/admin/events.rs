//! `/v1/events`: what happened lately on this node.
//!
//! Owns: the translation into the API's types. Does not: note events.
//! Invariants: answers without the worker, so that a node in trouble can tell of it.

use axum::extract::State;
use axum::response::Json;
use quorate_api::{ErrorBody, Event, EventPage};
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiQuery};
use crate::events::Noted;
use crate::limits::ADMIN_EVENTS_MAX;

/// Which page.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct EventsQuery {
    /// `next` of the page before; from the oldest without it.
    after: Option<u64>,
    /// Most events in the answer, up to 1,000; 100 without it.
    limit: Option<usize>,
}

/// The last events of this node, oldest first.
#[utoipa::path(get, path = "/v1/events", params(EventsQuery), responses(
    (status = 200, description = "A page of events", body = EventPage),
    (status = 400, description = "A parameter is no number", body = ErrorBody)
))]
pub async fn events(
    State(admin): State<AdminState>,
    ApiQuery(query): ApiQuery<EventsQuery>,
) -> Result<Json<EventPage>, ApiError> {
    let page = admin.edge.events.after(query.after, query.limit.unwrap_or(100).clamp(1, ADMIN_EVENTS_MAX));
    let translate = |event: Noted| Event {
        seq: event.seq,
        at_ms: event.at_ms,
        kind: event.kind.to_owned(),
        node: event.node.map(|node| admin.edge.lookout.name(node)),
        group: event.group.map(|group| group.0),
        client_id: None,
        text: event.text,
    };
    let events = page.events.into_iter().map(translate).collect();
    Ok(Json(EventPage { events, next: page.next, missed: page.missed }))
}
