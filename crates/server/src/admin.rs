//! The admin HTTP listener: health, metrics, the state of the cluster and its clients, and what an operator does to them.
//!
//! Owns: the listener, the routes, their limits. Does not: know the node; it asks the worker, and through it other nodes.
//! Who may ask: see `guard`.
//! Limits: `ADMIN_CONNECTIONS_MAX`, `ADMIN_CONNECTION_TIMEOUT`, `ADMIN_HEAD_TIMEOUT`, `ADMIN_BODY_BYTES_MAX`; a question
//! that the worker does not answer within `ADMIN_ANSWER_TIMEOUT` is answered with 503.

pub mod backup;
pub mod cluster;
pub mod dashboard;
pub mod diagnosis;
pub mod duty;
pub mod error;
pub mod events;
pub mod figures;
pub mod gather;
pub mod guard;
pub mod health;
pub mod listeners;
mod membership;
pub mod metrics_text;
pub mod operate;
pub mod queues;
pub mod retained;
pub mod route;
pub mod session_findings;
pub mod sessions;
pub mod shares;
pub mod subscriptions;
pub mod token;
pub mod trace;
pub mod why;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use utoipa::OpenApi;

use crate::edge::Edge;
use crate::limits::{
    ACCEPT_PAUSE, ADMIN_BODY_BYTES_MAX, ADMIN_CONNECTION_TIMEOUT, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_TIMEOUT,
};
use crate::logging::LogLevel;
use crate::metrics::process::ProcessFigures;
use crate::question::{Question, ask_edge};
use crate::reload::Reloader;
use backup::Backups;
use error::{ApiError, no_such_method, no_such_path};
use guard::Guard;

/// What the routes need.
#[derive(Clone)]
pub struct AdminState {
    /// What the node shares.
    pub edge: Arc<Edge>,
    /// Cluster name.
    pub cluster_name: Arc<str>,
    /// Cluster identity, as text.
    pub cluster_id: Arc<str>,
    /// What backups are taken with.
    pub backups: Arc<Backups>,
    /// Node name.
    pub node_name: Arc<str>,
    /// Its zone; empty for none.
    pub zone: Arc<str>,
    /// Where figures of the process are read.
    pub process: ProcessFigures,
    /// What is logged.
    pub log: Arc<LogLevel>,
    /// Reads the configuration again.
    pub reloader: Arc<Reloader>,
}

/// The worker did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        ApiError::from(self).into_response()
    }
}

impl AdminState {
    /// Asks the worker.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, NoAnswer> {
        ask_edge(&self.edge, question).await
    }
}

/// The description of this API.
#[derive(OpenApi)]
#[openapi(
    info(title = "Quorate admin API", description = "Health, metrics and state of a node and its cluster"),
    paths(
        health::livez,
        health::readyz,
        health::readyz_listener,
        metrics_text::metrics,
        backup::backup,
        cluster::state,
        duty::drain_state,
        duty::drain,
        duty::undrain,
        duty::transfer,
        duty::lead_again,
        duty::level,
        duty::finalize,
        membership::membership,
        membership::remove,
        membership::keep,
        sessions::explain,
        sessions::list,
        sessions::kick,
        sessions::purge,
        subscriptions::list,
        retained::list,
        retained::message,
        retained::delete,
        queues::queues,
        queues::slow_consumers,
        shares::shares,
        listeners::listeners,
        why::why,
        why::group,
        events::events,
        operate::log_level,
        operate::set_log_level,
        operate::reload,
        trace::trace,
        figures::figures,
        route::route,
        openapi
    ),
    components(schemas(
        quorate_api::ClusterState,
        quorate_api::duty::DrainAnswer,
        quorate_api::duty::DrainState,
        quorate_api::duty::LevelState,
        quorate_api::membership::Membership,
        quorate_api::membership::RemoveAnswer,
        quorate_api::duty::TransferAnswer,
        quorate_api::ErrorBody,
        quorate_api::Readiness,
        quorate_api::SessionExplanation,
        quorate_api::SessionPage,
        quorate_api::shares::SharePage,
        quorate_api::listeners::ListenerList,
        quorate_api::Kicked,
        quorate_api::Purged,
        quorate_api::SubscriptionPage,
        quorate_api::RetainedPage,
        quorate_api::RetainedMessage,
        quorate_api::RetainedDeleted,
        quorate_api::LongestQueues,
        quorate_api::SlowConsumers
    ))
)]
struct ApiDescription;

/// The OpenAPI document as text, pretty printed.
pub fn openapi_text() -> String {
    ApiDescription::openapi().to_pretty_json().unwrap_or_default()
}

/// The OpenAPI description of this API.
#[utoipa::path(get, path = "/v1/openapi.json", responses((status = 200, description = "This document")))]
async fn openapi() -> Response {
    Json(ApiDescription::openapi()).into_response()
}

/// All routes, behind their guard.
pub fn router(state: AdminState, guard: Arc<Guard>) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/readyz/{listener}", get(health::readyz_listener))
        .route("/metrics", get(metrics_text::metrics))
        .route("/v1/cluster/state", get(cluster::state))
        .route("/v1/backup", post(backup::backup))
        .route("/v1/cluster/level", get(duty::level))
        .route("/v1/cluster/finalize", post(duty::finalize))
        .route("/v1/nodes/{name}/drain", get(duty::drain_state).post(duty::drain).delete(duty::undrain))
        .route("/v1/cluster/membership", get(membership::membership))
        .route("/v1/nodes/{name}/remove", post(membership::remove).delete(membership::keep))
        .route("/v1/nodes/{name}/transfer", post(duty::transfer).delete(duty::lead_again))
        .route("/v1/shares", get(shares::shares))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{client_id}", get(sessions::explain).delete(sessions::purge))
        .route("/v1/sessions/{client_id}/kick", post(sessions::kick))
        .route("/v1/subscriptions", get(subscriptions::list))
        .route("/v1/retained", get(retained::list))
        .route("/v1/retained/message", get(retained::message).delete(retained::delete))
        .route("/v1/queues", get(queues::queues))
        .route("/v1/slow-consumers", get(queues::slow_consumers))
        .route("/v1/listeners", get(listeners::listeners))
        .route("/v1/why", get(why::why))
        .route("/v1/groups/{id}", get(why::group))
        .route("/v1/events", get(events::events))
        .route("/v1/log-level", get(operate::log_level).put(operate::set_log_level))
        .route("/v1/reload", post(operate::reload))
        .route("/v1/trace", post(trace::trace))
        .route("/v1/route", get(route::route))
        .route("/v1/figures", get(figures::figures))
        .route("/v1/openapi.json", get(openapi))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .merge(dashboard::router())
        .layer(DefaultBodyLimit::max(ADMIN_BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(guard, guard::check))
        .with_state(state)
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    let mut connections: JoinSet<()> = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        connections.spawn(serve_connection(stream, router.clone(), place));
    }
}

/// When a connection is closed at the latest. A request whose answer takes its time may move it.
#[derive(Clone)]
pub struct ConnectionDeadline(watch::Sender<Instant>);

impl ConnectionDeadline {
    fn new() -> ConnectionDeadline {
        ConnectionDeadline(watch::Sender::new(Instant::now() + ADMIN_CONNECTION_TIMEOUT))
    }

    /// The answer that is begun now takes so long.
    pub fn extend(&self, time: Duration) {
        self.0.send_replace(Instant::now() + time + ADMIN_CONNECTION_TIMEOUT);
    }

    /// Waits until it has come.
    async fn passed(&self) {
        loop {
            let at = *self.0.borrow();
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router, place: OwnedSemaphorePermit) {
    let deadline = ConnectionDeadline::new();
    let routes = TowerToHyperService::new(router);
    let given = deadline.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(given.clone());
        routes.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "admin connection failed");
            }
        }
        () = deadline.passed() => tracing::debug!("an admin connection was open for too long"),
    }
    drop(place);
}
