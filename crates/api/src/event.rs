//! `GET /v1/events`: what happened lately on a node.
//!
//! Owns: the page of events. Does not: list the kinds; see docs/operations/observe.md.
//! Limits: a node keeps its last 1,024 events, a page has at most 1,000.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    /// In the order in which they happened.
    pub events: Vec<Event>,
    /// Give this as `after` to read on. Always there: later events come behind it.
    pub next: u64,
    /// Events after the one asked for that the node has no longer.
    pub missed: u64,
}

/// Something that happened on the node that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number; later ones are greater, over restarts too.
    pub seq: u64,
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Short stable name in snake_case, such as `lease_lost`.
    pub kind: String,
    /// Name of the other node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The group that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The client that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// In a sentence.
    pub text: String,
}
