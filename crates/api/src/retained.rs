//! `/v1/retained`: retained messages.
//!
//! Owns: a page of them, one with its payload, the answer to its deletion. Does not: list those below `$SYS`, which each node
//! makes for itself. Limits: a page has at most 1,000 messages.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Answer of `GET /v1/retained`. A page may have fewer messages than were asked for and still not be the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetainedPage {
    /// In byte order of topics.
    pub messages: Vec<RetainedSummary>,
    /// What to give as `after` for the next page; null at the end.
    #[serde(default)]
    pub next: Option<String>,
    /// Groups that nobody could be asked about: what they have is missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete_groups: Vec<u32>,
}

/// A retained message in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetainedSummary {
    /// Topic.
    pub topic: String,
    /// QoS it was published with.
    pub qos: u8,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Seconds until it expires; null for never.
    #[serde(default)]
    pub expiry_s: Option<u32>,
}

/// Answer of `GET /v1/retained/message`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetainedMessage {
    /// Topic.
    pub topic: String,
    /// QoS it was published with.
    pub qos: u8,
    /// Payload in Base64 with padding.
    pub payload_base64: String,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Content Type; null when the publisher gave none.
    #[serde(default)]
    pub content_type: Option<String>,
    /// User Properties in order: name and value.
    pub user_properties: Vec<(String, String)>,
    /// Seconds until it expires; null for never.
    #[serde(default)]
    pub expiry_s: Option<u32>,
}

/// Answer of `DELETE /v1/retained/message`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RetainedDeleted {
    /// Topic.
    pub topic: String,
    /// There was a message just before.
    pub existed: bool,
}
