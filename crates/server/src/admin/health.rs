//! `/livez`, `/readyz`, and `/readyz/{listener}`.
//!
//! Owns: the verdicts. Does not: know the node; the clauses come from the worker.
//! Invariants: ready exactly when every clause holds; a worker that does not answer is a failed clause.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use quorate_api::{Clause, ErrorBody, Readiness};
use serde::Deserialize;

use super::AdminState;
use super::error::{ApiError, ApiPath, ApiQuery};
use crate::edge::Edge;
use crate::limits::DISK_STALLED;
use crate::metrics::Metrics;
use crate::question::Question;
use crate::room::Room;

/// A worker that began no turn for this long is stuck, unless it waits for the disk.
const STUCK: Duration = Duration::from_secs(10);

/// For how long the worker has begun no turn, when that makes it stuck.
pub fn stuck_for(edge: &Edge) -> Option<Duration> {
    let silent = edge.worker_beat.silent_for();
    (silent >= STUCK).then_some(silent)
}

/// Whether the process works at all: 200, or 503 when its worker is stuck.
#[utoipa::path(get, path = "/livez", responses(
    (status = 200, description = "The process works"),
    (status = 503, description = "The worker is stuck")
))]
pub async fn livez(State(state): State<AdminState>) -> Response {
    let Some(silent) = stuck_for(&state.edge) else { return "ok\n".into_response() };
    (StatusCode::SERVICE_UNAVAILABLE, format!("the worker began no turn for {} s\n", silent.as_secs()))
        .into_response()
}

/// Whether this node may take traffic, clause by clause: 200 or 503 with the same body.
#[utoipa::path(get, path = "/readyz", responses(
    (status = 200, description = "Ready", body = Readiness),
    (status = 404, description = "Leaving, for whoever asked with leaving=404", body = Readiness),
    (status = 503, description = "Not ready: see the clauses", body = Readiness)
), params(("leaving" = Option<String>, Query, description = "404: answer that, and not 503, when the node is sound and \
only leaves. A balancer that can tell the two apart sends nobody new and lets the connections be that are there")))]
pub async fn readyz(State(state): State<AdminState>, ApiQuery(asked): ApiQuery<Asked>) -> Response {
    respond(readiness(&state).await, &asked)
}

/// How a balancer wants to be answered.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Asked {
    /// `404`: the status for a node that only leaves.
    leaving: Option<String>,
}

/// Clauses that fail because the node is told to leave, not because it cannot serve.
const LEAVING: [&str; 2] = ["draining", "running"];

/// Whether a listener takes connections, and the node traffic: 200 or 503 with the same body.
#[utoipa::path(get, path = "/readyz/{listener}", params(
    ("listener" = String, Path, description = "Name of the listener in the configuration")
), responses(
    (status = 200, description = "Ready", body = Readiness),
    (status = 404, description = "There is no such listener", body = ErrorBody),
    (status = 503, description = "Not ready: see the clauses", body = Readiness)
))]
pub async fn readyz_listener(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<Response, ApiError> {
    let listeners = &state.edge.listeners;
    let Some(listener) = listeners.iter().find(|listener| listener.name == name) else {
        let known: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
        let message = format!("this node has no listener {name:?}");
        let hint = format!("its listeners are: {}", known.join(", "));
        return Err(ApiError::not_found("listener_not_found", message, hint));
    };
    let mut all = vec![match listener.is_listening() {
        true => Clause::met("listening"),
        false => Clause::failed("listening", "the listener is not open"),
    }];
    all.push(match listener.accepts() {
        Ok(()) => Clause::met("accepting"),
        Err(reason) => Clause::failed("accepting", reason),
    });
    all.extend(readiness(&state).await.clauses);
    // 404 is a listener that there is not.
    Ok(respond(Readiness::of(all), &Asked::default()))
}

/// Whether the node is ready now.
pub async fn readiness(state: &AdminState) -> Readiness {
    judge(&state.edge, state.ask(Question::Readiness).await.ok())
}

/// All clauses: those of the worker, unless it did not answer, and of the process. The only place where they are put together.
pub fn judge(edge: &Edge, answered: Option<Vec<quorate_node::node::Clause>>) -> Readiness {
    let mut clauses = Vec::new();
    match answered {
        Some(answered) => {
            clauses.push(Clause::met("worker"));
            clauses.extend(answered.into_iter().map(|clause| match clause.ok {
                true => Clause::met(clause.name),
                false => Clause::failed(clause.name, clause.reason),
            }));
        }
        None if edge.worker_beat.waits_for_disk() => {
            clauses.push(Clause::failed("worker", "the node's worker waits for its disk"));
        }
        None => clauses.push(Clause::failed("worker", "the node's worker does not answer in time")),
    }
    clauses.push(match disk_trouble(&edge.metrics, &edge.room) {
        None => Clause::met("disk"),
        Some(reason) => Clause::failed("disk", reason),
    });
    clauses.push(match edge.memory.trouble() {
        None => Clause::met("memory"),
        Some(reason) => Clause::failed("memory", reason),
    });
    let shut: Vec<String> = edge.listeners.iter().filter_map(|listener| listener.trouble()).collect();
    clauses.push(match shut.is_empty() {
        true => Clause::met("listeners"),
        false => Clause::failed("listeners", shut.join("; ")),
    });
    clauses.push(match edge.departure.borrow().is_stop() {
        false => Clause::met("running"),
        true => Clause::failed("running", "the node is stopping"),
    });
    Readiness::of(clauses)
}

/// Why nothing can be made durable here now; `None` when the log was written and synced, and does not wait.
fn disk_trouble(metrics: &Metrics, room: &Room) -> Option<String> {
    let underway = metrics.sync_underway().filter(|taken| *taken >= DISK_STALLED);
    if metrics.log_waits_for_space.value() > 0 {
        Some("the disk is full: nothing is acknowledged until there is room".to_owned())
    } else if let Some(taken) = underway {
        Some(format!("a write to the log has been underway for {:.1} s", taken.as_secs_f64()))
    } else if metrics.log_fsync_time.counts().is_empty() {
        Some("nothing has been written and synced since the start".to_owned())
    } else {
        room.disk_trouble()
    }
}

fn respond(readiness: Readiness, asked: &Asked) -> Response {
    let leaves = readiness.failed().all(|clause| LEAVING.contains(&clause.name.as_str()));
    let status = match readiness.ready {
        true => StatusCode::OK,
        false if leaves && asked.leaving.as_deref() == Some("404") => StatusCode::NOT_FOUND,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DISK_FREE_BYTES_MIN;

    #[test]
    fn disk_is_ready_once_something_was_synced_and_while_nothing_waits() {
        let metrics = Metrics::default();
        let room = Room::default();
        let trouble = |metrics: &Metrics| disk_trouble(metrics, &room).unwrap_or_default();
        assert!(trouble(&metrics).contains("since the start"));
        metrics.log_fsync_time.observe(Duration::from_millis(1));
        assert_eq!(disk_trouble(&metrics, &room), None);
        let now = std::time::Instant::now();
        metrics.note_sync(Some(now));
        assert_eq!(disk_trouble(&metrics, &room), None, "it has just begun");
        if let Some(long_ago) = now.checked_sub(DISK_STALLED) {
            metrics.note_sync(Some(long_ago));
            assert!(trouble(&metrics).contains("underway"));
        }
        metrics.log_waits_for_space.set(1);
        assert!(trouble(&metrics).contains("full"));
        metrics.log_waits_for_space.set(0);
        metrics.note_sync(None);
        assert_eq!(disk_trouble(&metrics, &room), None);
        room.note_disk(DISK_FREE_BYTES_MIN - 1);
        assert!(trouble(&metrics).contains("MiB"), "{}", trouble(&metrics));
    }

    #[tokio::test]
    async fn readiness_body_names_every_clause_and_the_status_follows() {
        for (clauses, status) in [
            (vec![Clause::met("worker"), Clause::met("lease")], StatusCode::OK),
            (
                vec![Clause::met("worker"), Clause::failed("lease", "no quorum")],
                StatusCode::SERVICE_UNAVAILABLE,
            ),
        ] {
            let expected = Readiness::of(clauses);
            let response = respond(expected.clone(), &Asked::default());
            assert_eq!(response.status(), status);
            let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            assert_eq!(serde_json::from_slice::<Readiness>(&body).unwrap(), expected);
        }
    }

    #[test]
    fn node_that_only_leaves_is_told_apart_for_whoever_asks_so() {
        let leaving = Asked { leaving: Some("404".to_owned()) };
        let (met, draining) = (Clause::met("lease"), Clause::failed("draining", "drained"));
        let fenced = Clause::failed("lease", "no quorum");
        for (clauses, asked, status) in [
            (vec![met.clone()], &leaving, StatusCode::OK),
            (vec![met.clone(), draining.clone()], &leaving, StatusCode::NOT_FOUND),
            (vec![met, draining.clone()], &Asked::default(), StatusCode::SERVICE_UNAVAILABLE),
            (vec![fenced, draining], &leaving, StatusCode::SERVICE_UNAVAILABLE),
        ] {
            assert_eq!(respond(Readiness::of(clauses.clone()), asked).status(), status, "{clauses:?}");
        }
    }
}
