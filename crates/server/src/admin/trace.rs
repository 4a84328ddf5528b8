//! `POST /v1/trace`: a live log of packets as lines of JSON.
//!
//! Owns: where the client is, the stream and its end. Does not: see packets; `traces` brings them.
//! Invariants: the last line says why the log ended and what is missing, unless the reader went away first.
//! Limits: `TRACE_SECONDS_MAX`, `TRACE_EVENTS_MAX`, `TRACE_PAYLOAD_BYTES_MAX`.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use quorate_api::{ErrorBody, TraceEnd, TraceLine, TraceRequest};
use quorate_codec::{Text, TopicFilter};
use quorate_state::NodeId;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::error::{ApiError, ApiJson, ApiQuery};
use super::{AdminState, ConnectionDeadline};
use crate::events::{NodeEvent, unix_ms};
use crate::limits::{TRACE_EVENTS_MAX, TRACE_PAYLOAD_BYTES_MAX, TRACE_SECONDS_MAX, TRACES_MAX};
use crate::question::Question;
use crate::traces::{Subject, TraceHandle};

/// Lines that are written at once.
const LINES_AT_ONCE: usize = 64;

/// Where to wait.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct TraceQuery {
    /// Wait on this node, wherever the client is connected; as `here` in the body.
    #[serde(default)]
    here: bool,
}

/// A live log of the packets of one client, or of the messages of a topic filter, as they go through this node.
#[utoipa::path(post, path = "/v1/trace", params(TraceQuery), request_body = TraceRequest, responses(
    (status = 200, description = "Lines of JSON, each a packet; the last one says why it ends",
        content_type = "application/x-ndjson", body = TraceLine),
    (status = 307, description = "The client is connected to the node in Location", body = ErrorBody),
    (status = 400, description = "No subject, or two, or a limit is exceeded", body = ErrorBody),
    (status = 429, description = "As many traces run as may", body = ErrorBody),
    (status = 503, description = "The node does not answer in time", body = ErrorBody)
))]
pub async fn trace(
    State(admin): State<AdminState>,
    Extension(deadline): Extension<ConnectionDeadline>,
    ApiQuery(query): ApiQuery<TraceQuery>,
    ApiJson(request): ApiJson<TraceRequest>,
) -> Result<Response, ApiError> {
    let wanted = Wanted::of(&request)?;
    if let Subject::Client(client_id) = &wanted.subject
        && !(query.here || request.here)
        && let Some(elsewhere) = elsewhere(&admin, client_id).await?
    {
        return Ok(elsewhere);
    }
    let what = match &wanted.subject {
        Subject::Client(client_id) => format!("client {client_id:?}"),
        Subject::Filter(filter) => format!("topics {:?}", filter.as_str()),
    };
    let handle = admin.edge.traces.begin(wanted.subject, wanted.payload_bytes_max).map_err(|_| {
        let message = format!("{TRACES_MAX} traces run on this node, as many as may");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "traces_full", message, "end one of them")
    })?;
    admin.edge.events.note(&NodeEvent::Trace(format!("A trace of {what} began.")));
    tracing::info!(seconds = wanted.time.as_secs(), "a trace began");
    let ends_at = Instant::now() + wanted.time;
    deadline.extend(wanted.time);
    let reader = Reader {
        handle,
        ends_at,
        left: wanted.events_max,
        packets: 0,
        stopping: admin.edge.stopping.subscribe(),
        ended: false,
    };
    let stream = futures_util::stream::unfold(reader, Reader::next);
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response())
}

/// A request that was understood.
struct Wanted {
    subject: Subject,
    time: Duration,
    events_max: u64,
    payload_bytes_max: usize,
}

impl Wanted {
    fn of(request: &TraceRequest) -> Result<Wanted, ApiError> {
        let hint = "give one of them: {\"client_id\":\"c\"} or {\"filter\":\"a/#\"}";
        let subject = match (&request.client_id, &request.filter) {
            (Some(client_id), None) if !client_id.is_empty() => Subject::Client(client_id.clone()),
            (None, Some(text)) => {
                let filter = Text::parse(text).ok().and_then(|text| TopicFilter::new(text).ok());
                let Some(filter) = filter.filter(|filter| !filter.is_shared()) else {
                    let message = format!("{text:?} is no topic filter of messages");
                    let hint = "write it as for SUBSCRIBE, without $share";
                    return Err(ApiError::bad_request("filter_invalid", message, hint));
                };
                Subject::Filter(filter)
            }
            _ => {
                let message = "a trace is of one client or of one topic filter";
                return Err(ApiError::bad_request("subject_invalid", message, hint));
            }
        };
        let payload_bytes_max = u64::from(request.payload_bytes_max.unwrap_or(0));
        let (seconds, events_max) = (request.seconds.unwrap_or(60), request.events_max.unwrap_or(1000));
        for (name, value, min, max) in [
            ("seconds", seconds, 1, TRACE_SECONDS_MAX),
            ("events_max", events_max, 1, TRACE_EVENTS_MAX),
            ("payload_bytes_max", payload_bytes_max, 0, TRACE_PAYLOAD_BYTES_MAX),
        ] {
            if !(min..=max).contains(&value) {
                let message = format!("`{name}` is {value}, outside {min} to {max}");
                return Err(ApiError::bad_request("limit_exceeded", message, "choose a value within"));
            }
        }
        let time = Duration::from_secs(seconds);
        let payload_bytes_max = usize::try_from(payload_bytes_max).unwrap_or(0);
        Ok(Wanted { subject, time, events_max, payload_bytes_max })
    }
}

/// Where the client is, when that is another node: its connection is seen there only. A client that is not connected is
/// awaited here.
async fn elsewhere(admin: &AdminState, client_id: &str) -> Result<Option<Response>, ApiError> {
    let asked = client_id.to_owned();
    let view = admin.ask(|answer| Question::Session { client_id: asked, answer }).await?;
    let me = admin.edge.node;
    let known = match &view.replica {
        Some(replica) => {
            let owner = replica.session.as_ref().and_then(|session| session.info.owner);
            owner.map(|owner| (owner.node, "connected to", "?here=true"))
        }
        None => {
            let holder = view.leader.into_iter().chain(view.replicas).find(|node| *node != me);
            holder.map(|node| (node, "known on", ""))
        }
    };
    let Some((node, relation, query)) = known.filter(|(node, ..)| *node != me) else { return Ok(None) };
    let status = admin.ask(|answer| Question::Status { with_hash: false, answer }).await?;
    Ok(Some(redirect(&status, node, &format!("client {client_id:?} is {relation}"), query)))
}

fn redirect(status: &quorate_node::node::NodeStatus, node: NodeId, what: &str, query: &str) -> Response {
    let name = super::diagnosis::name_of(status, node);
    let record = status.nodes.iter().map(|(record, _)| record).find(|record| record.id == node);
    let base = record.map(|record| record.admin.as_str()).filter(|admin| !admin.is_empty());
    let hint = "ask that node, or give \"here\": true to wait on this one";
    let Some(base) = base else {
        let message = format!("{what} node {name}, whose admin address is not known");
        return ApiError::conflict("client_elsewhere", message, hint).into_response();
    };
    let message = format!("{what} node {name}, {base}");
    let error = ApiError::new(StatusCode::TEMPORARY_REDIRECT, "client_elsewhere", message, hint);
    let location = format!("{}/v1/trace{query}", base.trim_end_matches('/'));
    ([(header::LOCATION, location)], error).into_response()
}

/// The stream of lines.
struct Reader {
    handle: TraceHandle,
    ends_at: Instant,
    /// Packets that may still be written.
    left: u64,
    packets: u64,
    stopping: watch::Receiver<bool>,
    ended: bool,
}

impl Reader {
    /// The next lines, and the reader for those after them.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Reader)> {
        if self.ended {
            return None;
        }
        let mut packets = Vec::new();
        let room = usize::try_from(self.left).unwrap_or(LINES_AT_ONCE).min(LINES_AT_ONCE);
        let end = if room == 0 {
            Some("events_max")
        } else {
            tokio::select! {
                biased;
                _ = self.stopping.wait_for(|stopping| *stopping) => Some("stopping"),
                () = tokio::time::sleep_until(self.ends_at) => Some("seconds"),
                _ = self.handle.packets.recv_many(&mut packets, room) => None,
            }
        };
        let mut lines = Vec::new();
        for packet in packets {
            self.packets += 1;
            self.left = self.left.saturating_sub(1);
            put(&mut lines, &TraceLine::Packet(packet));
        }
        if let Some(reason) = end {
            self.ended = true;
            let (end, packets, dropped) = (reason.to_owned(), self.packets, self.handle.dropped());
            put(&mut lines, &TraceLine::End(TraceEnd { at_ms: unix_ms(), end, packets, dropped }));
        }
        Some((Ok(Bytes::from(lines)), self))
    }
}

fn put(lines: &mut Vec<u8>, line: &TraceLine) {
    // Plain types into memory: it cannot fail.
    let _never_fails = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_names_one_subject_within_limits() {
        let refusal = |text: &str| {
            let request: TraceRequest = serde_json::from_str(text).unwrap();
            Wanted::of(&request).err().map(|error| error.detail().code.clone())
        };
        for (text, code) in [
            (r#"{"client_id":"c"}"#, None),
            (r##"{"filter":"a/#","seconds":3600,"events_max":1,"payload_bytes_max":1024}"##, None),
            ("{}", Some("subject_invalid")),
            (r#"{"client_id":""}"#, Some("subject_invalid")),
            (r#"{"client_id":"c","filter":"a"}"#, Some("subject_invalid")),
            (r##"{"filter":"a/#/b"}"##, Some("filter_invalid")),
            (r#"{"filter":"$share/g/a"}"#, Some("filter_invalid")),
            (r#"{"client_id":"c","seconds":0}"#, Some("limit_exceeded")),
            (r#"{"client_id":"c","seconds":3601}"#, Some("limit_exceeded")),
            (r#"{"client_id":"c","events_max":0}"#, Some("limit_exceeded")),
            (r#"{"client_id":"c","payload_bytes_max":1025}"#, Some("limit_exceeded")),
        ] {
            assert_eq!(refusal(text).as_deref(), code, "{text}");
        }
    }

    #[tokio::test]
    async fn stream_ends_with_a_line_that_says_why() {
        let traces: std::sync::Arc<crate::traces::Traces> = std::sync::Arc::default();
        let reader = |left: u64, seconds: u64| Reader {
            handle: traces.begin(Subject::Client("c".to_owned()), 0).ok().unwrap(),
            ends_at: Instant::now() + Duration::from_secs(seconds),
            left,
            packets: 0,
            stopping: watch::Sender::new(false).subscribe(),
            ended: false,
        };
        let stopping = watch::Sender::new(true);
        let stopped = Reader { stopping: stopping.subscribe(), ..reader(1, 60) };
        for (reader, reason) in [(reader(0, 60), "events_max"), (stopped, "stopping")] {
            let (line, reader) = reader.next().await.unwrap();
            let line = line.unwrap();
            assert!(line.ends_with(b"\n"));
            let TraceLine::End(end) = serde_json::from_slice(&line).unwrap() else { panic!("{line:?}") };
            assert_eq!(end.end, reason);
            assert!(reader.next().await.is_none());
        }
    }
}
