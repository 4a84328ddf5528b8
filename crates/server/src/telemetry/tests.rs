//! A collector, and what happens when there is none or it is slow.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as Received;
use prost::Message;
use tokio::sync::watch;

use super::exporter::Exporter;
use super::otlp::{Span, SpanKind, Value, request};
use super::trace_ids::{SpanId, TraceId};
use super::*;
use crate::config::Endpoint;

/// A collector for OTLP over HTTP that keeps what it got: the name of the node, and the span.
pub struct Collector {
    pub endpoint: Endpoint,
    spans: Arc<Mutex<Vec<(String, Received)>>>,
    /// Ends with the process of the tests.
    _thread: JoinHandle<()>,
}

/// Attributes as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone());
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

impl Collector {
    /// Answers each request with this status.
    pub fn start(status: &'static str) -> Collector {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let endpoint = Endpoint {
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            path: "/v1/traces".to_owned(),
        };
        let spans: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = spans.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut reader = BufReader::new(&stream);
                let (mut head, mut length) = (Vec::new(), 0);
                loop {
                    let mut line = String::new();
                    if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                        break;
                    }
                    let line = line.trim().to_ascii_lowercase();
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.parse().unwrap();
                    }
                    head.push(line);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                assert_eq!(head[0], "post /v1/traces http/1.1");
                assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
                kept.lock().unwrap().extend(decoded(&body));
                let _gone =
                    write!(&stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        Collector { endpoint, spans, _thread: thread }
    }

    /// All spans so far, when `enough` says so.
    pub fn wait(
        &self,
        what: &str,
        enough: impl Fn(&[(String, Received)]) -> bool,
    ) -> Vec<(String, Received)> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let spans = self.spans.lock().unwrap().clone();
            if enough(&spans) {
                return spans;
            }
            assert!(Instant::now() < deadline, "waited for {what}: {spans:#?}");
            std::thread::yield_now();
        }
    }
}

/// The spans of a request, each with the node that sent it.
fn decoded(body: &[u8]) -> Vec<(String, Received)> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = Vec::new();
    for group in request.resource_spans {
        let about = group.resource.unwrap().attributes;
        assert_eq!(attribute(&about, "service.name"), "quorate");
        for scope in group.scope_spans {
            assert_eq!(scope.scope.unwrap().name, "quorate");
            spans
                .extend(scope.spans.into_iter().map(|span| (attribute(&about, "service.instance.id"), span)));
        }
    }
    spans
}

fn span() -> Span {
    Span {
        trace: TraceId([7; 16]),
        id: SpanId::of(300),
        parent: Some(SpanId::of(0)),
        name: "publish",
        kind: SpanKind::Server,
        began_ns: 1_700_000_000_000_000_000,
        ended_ns: 1_700_000_000_000_000_500,
        attributes: vec![("a", Value::Text("é".repeat(100))), ("b", Value::Number(1 << 40))],
        links: vec![(TraceId([8; 16]), SpanId::of(9))],
        error: Some("Quota exceeded".to_owned()),
    }
}

fn resource() -> Vec<(&'static str, String)> {
    vec![("service.name", "quorate".to_owned()), ("service.instance.id", "n1".to_owned())]
}

#[test]
fn encoded_span_is_what_others_decode() {
    let spans = decoded(&request(&resource(), &[span(), Span { parent: None, error: None, ..span() }]));
    let [(node, first), (_, second)] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(node, "n1");
    assert_eq!(
        (first.trace_id.as_slice(), first.span_id.as_slice()),
        (&[7; 16][..], &300_u64.to_be_bytes()[..])
    );
    assert_eq!(first.parent_span_id, 1_u64.to_be_bytes(), "an id is never zero");
    assert_eq!((first.name.as_str(), first.kind), ("publish", 2));
    assert_eq!(first.end_time_unix_nano - first.start_time_unix_nano, 500);
    assert_eq!(attribute(&first.attributes, "a").chars().count(), 100);
    assert_eq!(attribute(&first.attributes, "b"), (1_u64 << 40).to_string());
    assert_eq!(first.links[0].trace_id, [8; 16]);
    let status = first.status.clone().unwrap();
    assert_eq!((status.message.as_str(), status.code), ("Quota exceeded", 2));
    assert!(second.parent_span_id.is_empty() && second.status.is_none());
}

fn telemetry(
    ratio: f64,
    endpoint: &Endpoint,
) -> Option<(Arc<Telemetry>, mpsc::Receiver<Span>, Arc<Metrics>)> {
    let metrics = Arc::<Metrics>::default();
    let settings = TelemetrySettings { otlp_endpoint: Some(endpoint.clone()), sample_ratio: ratio };
    let (telemetry, spans) = Telemetry::new(&settings, Clock::start(), &metrics)?;
    Some((telemetry, spans, metrics))
}

fn nowhere() -> Endpoint {
    Endpoint { host: "127.0.0.1".to_owned(), port: 1, path: "/".to_owned() }
}

#[test]
fn full_queue_drops_spans_and_counts_them() {
    let (telemetry, mut spans, metrics) = telemetry(1.0, &nowhere()).unwrap();
    for _ in 0..SPANS_QUEUED_MAX + 3 {
        telemetry.end(span());
    }
    assert_eq!(metrics.spans_unqueued.value(), 3);
    assert!(spans.try_recv().is_ok());
    telemetry.end(span());
    assert_eq!(metrics.spans_unqueued.value(), 3);
}

#[test]
fn ratio_of_nothing_makes_no_telemetry_and_others_their_share() {
    assert!(telemetry(0.0, &nowhere()).is_none());
    assert_eq!([threshold(1.0), threshold(0.5), threshold(0.25)], [1 << 63, 1 << 62, 1 << 61]);
    assert!(threshold(0.001) > 1 << 53 && threshold(0.001) < 1 << 54);
    assert!(TraceId([0xff; 16]).is_sampled(threshold(1.0)));
    assert!(!TraceId([0xff; 16]).is_sampled(threshold(0.999)));
}

/// Sends one span; gives how many were taken by the collector, and how many were not.
async fn exported(endpoint: Endpoint) -> (u64, u64) {
    let (telemetry, spans, metrics) = telemetry(1.0, &endpoint).unwrap();
    let (stopping, receiver) = watch::channel(false);
    telemetry.end(span());
    drop(telemetry);
    let exporter = Exporter { spans, endpoint, resource: resource(), metrics: metrics.clone() };
    exporter.run(receiver).await;
    drop(stopping);
    (metrics.spans_exported.value(), metrics.spans_not_exported.value())
}

#[tokio::test]
async fn spans_are_counted_as_sent_or_dropped() {
    let collector = Collector::start("200 OK");
    assert_eq!(exported(collector.endpoint.clone()).await, (1, 0));
    assert_eq!(collector.wait("the span", |spans| !spans.is_empty()).len(), 1);
    assert_eq!(exported(Collector::start("503 Service Unavailable").endpoint.clone()).await, (0, 1));
    assert_eq!(exported(nowhere()).await, (0, 1));
}
