//! `/v1/log-level` and `POST /v1/reload`: what an operator changes while a node runs.
//!
//! Owns: the bodies. Does not: know which keys may change; docs/configuration.md does.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ErrorDetail;

/// Answer of `GET` and `PUT /v1/log-level`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLevel {
    /// What is logged now: a level, or a filter such as `info,quorate_node=debug`.
    pub filter: String,
    /// Seconds until the filter before it is in force again; absent when it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Body of `PUT /v1/log-level`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelChange {
    /// A level, or a filter.
    pub filter: String,
    /// Only for so many seconds, at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// Answer of `POST /v1/reload`: status 200, or 422 when the configuration cannot be used and nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reload {
    /// Keys that count from now on; certificates, which are read again each time, as `listeners.NAME.certificate`.
    pub applied: Vec<String>,
    /// Keys that differ from what is in force and count at the next start.
    pub needs_restart: Vec<String>,
    /// Keys that differ from what the cluster began with, which stays in force.
    #[serde(default)]
    pub without_effect: Vec<String>,
    /// Everything that is wrong; nothing was applied then.
    pub errors: Vec<String>,
    /// As in every refusal; absent when there are no errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}
