//! Who may ask the admin listener what.
//!
//! Owns: the checks of Host, content type, Origin and token that come before every route. Does not: know routes, but for
//! the few that are open to all.
//! Invariants: a page of another site cannot read (its name resolves here, but is not one of ours) or change anything
//! (its browser does not send JSON without asking, and says where it comes from); no answer allows another origin.
//! What a request may do never depends on where it comes from.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::RwLock;

use super::error::ApiError;
use super::token::{TokenError, Tokens};
use crate::config::AdminSettings;

/// The checks, as the configuration wants them now.
pub struct Guard(RwLock<Arc<Rules>>);

/// What is checked.
pub struct Rules {
    host_names: Vec<String>,
    tokens: Option<Tokens>,
}

impl Rules {
    /// Rules by this configuration. Fails when there is to be a token, and none can be read.
    pub fn load(settings: &AdminSettings) -> Result<Rules, TokenError> {
        let tokens = settings.token_file.as_deref().map(Tokens::load).transpose()?;
        Ok(Rules { host_names: settings.host_names.clone(), tokens })
    }

    /// Whether the request may pass, or what to answer.
    fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = self.check_host(uri, headers)?;
        if changes(method) {
            check_content_type(headers)?;
            check_origin(headers, &host)?;
        }
        match &self.tokens {
            Some(tokens) if !is_open(method, uri.path()) => check_token(tokens, headers),
            _ => Ok(()),
        }
    }

    /// The host that was asked, with its port, if it is one of ours.
    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, ApiError> {
        // The authority of a request in absolute form counts more than the header: both must be ours.
        let authority = uri.authority().map(|authority| authority.as_str().to_owned());
        let header = only(headers, &HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (Some(host), authority) = (header, authority) else { return Err(misdirected("none")) };
        for asked in [Some(&host), authority.as_ref()].into_iter().flatten() {
            if !self.is_ours(asked) {
                return Err(misdirected(asked));
            }
        }
        Ok(host)
    }

    fn is_ours(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().is_ok();
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name == "localhost" || name.parse::<IpAddr>().is_ok() || self.host_names.contains(&name)
    }
}

impl Guard {
    /// A guard by these rules.
    pub fn new(rules: Rules) -> Guard {
        Guard(RwLock::new(Arc::new(rules)))
    }

    /// Other rules, from the next request on.
    pub fn replace(&self, rules: Rules) {
        *self.0.write() = Arc::new(rules);
    }
}

/// The layer around all routes.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let rules = guard.0.read().clone();
    if let Err(refusal) = rules.check(request.method(), request.uri(), request.headers()) {
        tracing::debug!(
            method = %request.method(),
            path = request.uri().path(),
            code = refusal.detail().code,
            "admin request refused"
        );
        return refused(refusal);
    }
    let asked =
        changes(request.method()).then(|| (request.method().clone(), request.uri().path().to_owned()));
    let answer = next.run(request).await;
    if let Some((method, path)) = asked {
        tracing::info!(%method, path, status = answer.status().as_u16(), "admin request");
    }
    answer
}

fn refused(refusal: ApiError) -> Response {
    let unauthorized = refusal.status() == StatusCode::UNAUTHORIZED;
    let mut response = refusal.into_response();
    if unauthorized {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Whether a request of this method may change something.
fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What everybody may read: whether the node lives and is ready, and the files of the dashboard, which say nothing.
fn is_open(method: &Method, path: &str) -> bool {
    let page = |name: &str| path == name || path.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    !changes(method) && (path == "/" || path == "/livez" || page("/readyz") || page("/dashboard"))
}

/// The header, when there is exactly one.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() { None } else { value }
}

/// A host without its port.
fn name_of(host: &str) -> Option<&str> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at_checked(end)?;
    let sound = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (sound && !name.is_empty()).then_some(name)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = only(headers, &CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let kind = given.split(';').next().unwrap_or("").trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content_type_not_json",
        format!(
            "a request that changes something has content type application/json, this one has \"{given}\""
        ),
        "send the header Content-Type: application/json, also without a body",
    ))
}

/// A browser says which page a request comes from: only pages that this listener has served may change something.
fn check_origin(headers: &HeaderMap, host: &str) -> Result<(), ApiError> {
    if !headers.contains_key(ORIGIN) {
        return Ok(());
    }
    let origin = only(headers, &ORIGIN).and_then(|value| value.to_str().ok()).unwrap_or("several");
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "origin_foreign",
        format!("the request comes from a page of {origin}, not of {host}"),
        "open the dashboard under the address that it asks, or send no Origin",
    ))
}

fn check_token(tokens: &Tokens, headers: &HeaderMap) -> Result<(), ApiError> {
    let given = only(headers, &AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|given| {
        let (scheme, token) = given.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let (code, message) = match token {
        Some(token) if tokens.accepts(token) => return Ok(()),
        Some(_) => ("token_wrong", "the token of the request is none of this node's"),
        None => ("token_missing", "this node answers requests with a token only"),
    };
    let hint = "send the header Authorization: Bearer TOKEN; the command line has --token-file and QUORATE_ADMIN_TOKEN_FILE";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, code, message, hint))
}

fn misdirected(host: &str) -> ApiError {
    ApiError::new(
        StatusCode::MISDIRECTED_REQUEST,
        "host_unknown",
        format!("the request is for the host \"{host}\", which is not a name of this node"),
        "ask by an address or as localhost, or add the name to admin.host_names",
    )
}

#[cfg(test)]
mod tests;
