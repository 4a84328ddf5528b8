//! `GET /v1/subscriptions`: who subscribes to what.
//!
//! Owns: a page of subscriptions. Does not: list share groups; see `shares`.
//! Limits: as many subscriptions as were asked for, at most 1,000.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/subscriptions`. A page may have fewer subscriptions than were asked for and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriptionPage {
    /// In byte order of client identifiers, and of the filters of each.
    pub subscriptions: Vec<Subscription>,
    /// What to give as `after` for the next page; null at the end.
    #[serde(default)]
    pub next: Option<String>,
    /// Groups that nobody could be asked about: what they have is missing here. 0 when the node of some transient session's
    /// connection did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete_groups: Vec<u32>,
}

/// A subscription of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subscription {
    /// Client identifier.
    pub client_id: String,
    /// Topic filter; of a shared subscription with `$share/` and the name.
    pub filter: String,
    /// Granted QoS.
    pub qos: u8,
    /// The client's own messages are left out.
    pub no_local: bool,
    /// The RETAIN flag is kept as published.
    pub retain_as_published: bool,
    /// Which retained messages were wanted: 0 all, 1 when the subscription was new, 2 none. Not known of a transient session.
    #[serde(default)]
    pub retain_handling: Option<u8>,
    /// Subscription identifier.
    #[serde(default)]
    pub identifier: Option<u32>,
    /// The session outlives its connection, and the subscription with it.
    pub durable: bool,
    /// Name of the node of its connection; null when it has none.
    #[serde(default)]
    pub node: Option<String>,
}
