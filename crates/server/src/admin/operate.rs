//! `/v1/log-level` and `/v1/reload`: what an operator changes while the node runs.
//!
//! Owns: the translation. Does not: change anything itself; `logging` and `reload` do.
//! Limits: `LOG_FILTER_BYTES_MAX`, `LOG_LEVEL_SECONDS_MAX`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use quorate_api::{ErrorBody, ErrorDetail, LogLevel, LogLevelChange, Reload};

use super::AdminState;
use super::error::{ApiError, ApiJson};
use crate::events::NodeEvent;
use crate::limits::{LOG_FILTER_BYTES_MAX, LOG_LEVEL_SECONDS_MAX};
use crate::logging::LogLevelError;

/// What is logged.
#[utoipa::path(get, path = "/v1/log-level", responses(
    (status = 200, description = "The filter in force", body = LogLevel)
))]
pub async fn log_level(State(admin): State<AdminState>) -> Json<LogLevel> {
    Json(level(&admin))
}

fn level(admin: &AdminState) -> LogLevel {
    let (filter, until) = admin.log.now();
    let left = until.map(|until| until.saturating_sub(admin.edge.clock.now()));
    LogLevel {
        filter,
        seconds: left.map(|left| left.as_millis().div_ceil(1000)).and_then(|s| s.try_into().ok()),
    }
}

/// Changes what is logged, for good or for some seconds.
#[utoipa::path(put, path = "/v1/log-level", request_body = LogLevelChange, responses(
    (status = 200, description = "The filter in force", body = LogLevel),
    (status = 400, description = "It is no filter, or for too long", body = ErrorBody),
    (status = 409, description = "The filter of this process cannot be changed", body = ErrorBody)
))]
pub async fn set_log_level(
    State(admin): State<AdminState>,
    ApiJson(change): ApiJson<LogLevelChange>,
) -> Result<Json<LogLevel>, ApiError> {
    if change.filter.len() > LOG_FILTER_BYTES_MAX {
        let message = format!("the filter has more than {LOG_FILTER_BYTES_MAX} bytes");
        return Err(ApiError::bad_request("filter_invalid", message, "name fewer targets"));
    }
    if change.seconds.is_some_and(|seconds| seconds == 0 || seconds > LOG_LEVEL_SECONDS_MAX) {
        let message = format!("`seconds` is outside 1 to {LOG_LEVEL_SECONDS_MAX}");
        let hint = "leave it out for a change that lasts until the next one or the next start";
        return Err(ApiError::bad_request("seconds_invalid", message, hint));
    }
    let until = change.seconds.map(|seconds| admin.edge.clock.now() + Duration::from_secs(seconds));
    admin.log.change(&change.filter, until).map_err(|error| match &error {
        LogLevelError::Filter { .. } => ApiError::bad_request(
            "filter_invalid",
            error.to_string(),
            "use error, warn, info, debug or trace, or a filter like \"info,quorate_node=debug\"",
        ),
        LogLevelError::NotOurs(_) => {
            ApiError::conflict("log_not_ours", error.to_string(), "start the node with quorate serve")
        }
    })?;
    tracing::info!(
        filter = change.filter,
        seconds = change.seconds,
        "another filter for the log is in force"
    );
    admin.edge.events.note(&NodeEvent::LogLevelChanged(change.filter));
    Ok(Json(level(&admin)))
}

/// Reads the configuration and the certificates again, as SIGHUP does. All of it must be sound, or nothing changes.
#[utoipa::path(post, path = "/v1/reload", responses(
    (status = 200, description = "What counts now, and what needs a restart", body = Reload),
    (status = 422, description = "The configuration cannot be used; nothing has changed", body = Reload)
))]
pub async fn reload(State(admin): State<AdminState>) -> Result<Response, ApiError> {
    let reloader = admin.reloader.clone();
    // It reads files. Nobody ends it halfway: it runs on even if whoever asked has gone.
    let outcome = tokio::task::spawn_blocking(move || reloader.reload()).await.map_err(|_| {
        let hint = "look at the node's log, and report this as a defect";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "reload_failed", "the reload did not end", hint)
    })?;
    let refused = !outcome.errors.is_empty();
    let error = refused.then(|| ErrorDetail {
        code: "configuration_refused".to_owned(),
        message: outcome.errors.join("; "),
        hint: "correct it and ask again; `quorate doctor --config FILE` looks at the file and at what it names beforehand"
            .to_owned(),
    });
    let body = Reload {
        applied: outcome.applied,
        needs_restart: outcome.needs_restart,
        without_effect: outcome.without_effect,
        errors: outcome.errors,
        error,
    };
    let status = if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok((status, Json(body)).into_response())
}
