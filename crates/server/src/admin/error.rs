//! How a request fails: one type for all routes, and extractors that fail with it.
//!
//! Owns: [`ApiError`], [`ApiPath`], [`ApiQuery`], [`ApiJson`]. Does not: know why; each route names its codes.
//! Invariants: every answer with a status of 400 or above that a route gives has an [`ErrorBody`].

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use quorate_api::{ErrorBody, ErrorDetail};
use serde::de::DeserializeOwned;

use super::NoAnswer;

/// Why a request failed. `return Err(ApiError::not_found("session_not_found", "...", "..."))` is all that a route does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    detail: ErrorDetail,
}

impl ApiError {
    /// A failure with this status. `code` is snake_case and stable, `message` says what and where, `hint` what to do.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ApiError {
        let detail = ErrorDetail { code: code.to_owned(), message: message.into(), hint: hint.into() };
        ApiError { status, detail }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message, hint)
    }

    /// 404: there is no such thing.
    pub fn not_found(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message, hint)
    }

    /// 409: it cannot be done in the present state.
    pub fn conflict(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, code, message, hint)
    }

    /// 503: not now.
    pub fn unavailable(code: &'static str, message: impl Into<String>, hint: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message, hint)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the body says.
    pub fn detail(&self) -> &ErrorDetail {
        &self.detail
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.detail })).into_response()
    }
}

impl From<NoAnswer> for ApiError {
    fn from(_: NoAnswer) -> ApiError {
        ApiError::unavailable(
            "node_busy",
            "the node's worker does not answer in time",
            "ask again; GET /livez says whether the worker is stuck",
        )
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> ApiError {
        ApiError::new(
            rejection.status(),
            "path_invalid",
            rejection.body_text(),
            "write each segment of the path as UTF-8, percent-encoded",
        )
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> ApiError {
        ApiError::new(
            rejection.status(),
            "query_invalid",
            rejection.body_text(),
            "GET /v1/openapi.json lists the parameters of each request",
        )
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> ApiError {
        ApiError::new(
            rejection.status(),
            "body_invalid",
            rejection.body_text(),
            "GET /v1/openapi.json describes the body of each request; one without a wish is {}",
        )
    }
}

/// Parameters in the path; fails with an [`ApiError`].
pub struct ApiPath<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(value) = Path::from_request_parts(parts, state).await?;
        Ok(ApiPath(value))
    }
}

/// Parameters behind `?`; fails with an [`ApiError`].
pub struct ApiQuery<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(value) = Query::from_request_parts(parts, state).await?;
        Ok(ApiQuery(value))
    }
}

/// A body of JSON; fails with an [`ApiError`].
pub struct ApiJson<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(value) = Json::from_request(request, state).await?;
        Ok(ApiJson(value))
    }
}

/// There is nothing at this path.
pub async fn no_such_path(request: Request) -> ApiError {
    ApiError::not_found(
        "path_not_found",
        format!("there is nothing at {}", request.uri().path()),
        "GET /v1/openapi.json lists all paths",
    )
}

/// There is something at this path, but not for this method.
pub async fn no_such_method(request: Request) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} takes no {}", request.uri().path(), request.method()),
        "GET /v1/openapi.json lists the methods of each path",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failure_has_status_code_message_and_hint() {
        let response =
            ApiError::not_found("session_not_found", "no session \"c\"", "list them").into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let expected =
            r#"{"error":{"code":"session_not_found","message":"no session \"c\"","hint":"list them"}}"#;
        assert_eq!(body, expected);
    }
}
