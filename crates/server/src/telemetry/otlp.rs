//! Spans as OTLP wants them: the protobuf message ExportTraceServiceRequest.
//!
//! Owns: [`Span`] and its encoding. Does not: send, or decode anything.
//! Invariants: written with the field numbers of opentelemetry/proto/trace/v1, which are fixed for version 1; a test decodes
//! it with the project's own crate. See: docs/decisions/0030-traces-without-propagation.md.

use super::trace_ids::{SpanId, TraceId};

/// What kind of work a span is, by the numbers of OTLP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind {
    /// Within the cluster.
    Internal = 1,
    /// Asked for by a client.
    Server = 2,
    /// Handed to a client, who did not wait for it.
    Producer = 4,
}

/// Value of an attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    Number(u64),
}

/// A span that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// Trace.
    pub trace: TraceId,
    /// Itself.
    pub id: SpanId,
    /// The span that it is part of.
    pub parent: Option<SpanId>,
    /// Name, of a closed list.
    pub name: &'static str,
    /// Kind.
    pub kind: SpanKind,
    /// When it began, in nanoseconds since 1970.
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// Attributes.
    pub attributes: Vec<(&'static str, Value)>,
    /// Spans of other traces that it has to do with.
    pub links: Vec<(TraceId, SpanId)>,
    /// What went wrong.
    pub error: Option<String>,
}

/// Attributes of a text each.
pub type Attributes<'a> = &'a [(&'static str, String)];

/// A request with these spans, all of this process.
pub fn request(resource: Attributes<'_>, spans: &[Span]) -> Vec<u8> {
    let mut message = Message::default();
    message.nested(1, |resource_spans| {
        resource_spans.nested(1, |about| {
            for (key, text) in resource {
                about.nested(1, |pair| attribute(pair, key, &Value::Text(text.clone())));
            }
        });
        resource_spans.nested(2, |scope_spans| {
            scope_spans.nested(1, |scope| {
                scope.bytes(1, b"quorate");
                scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for span in spans {
                scope_spans.nested(2, |out| write_span(out, span));
            }
        });
    });
    message.0
}

fn write_span(out: &mut Message, span: &Span) {
    out.bytes(1, &span.trace.0);
    out.bytes(2, &span.id.0);
    if let Some(parent) = span.parent {
        out.bytes(4, &parent.0);
    }
    out.bytes(5, span.name.as_bytes());
    out.number(6, span.kind as u64);
    out.fixed(7, span.began_ns);
    out.fixed(8, span.ended_ns.max(span.began_ns));
    for (key, value) in &span.attributes {
        out.nested(9, |pair| attribute(pair, key, value));
    }
    for (trace, id) in &span.links {
        out.nested(13, |link| {
            link.bytes(1, &trace.0);
            link.bytes(2, &id.0);
        });
    }
    if let Some(error) = &span.error {
        const STATUS_CODE_ERROR: u64 = 2;
        out.nested(15, |status| {
            status.bytes(2, error.as_bytes());
            status.number(3, STATUS_CODE_ERROR);
        });
    }
}

fn attribute(pair: &mut Message, key: &str, value: &Value) {
    pair.bytes(1, key.as_bytes());
    pair.nested(2, |any| match value {
        Value::Text(text) => any.bytes(1, text.as_bytes()),
        Value::Number(number) => any.number(3, *number),
    });
}

/// A message of protobuf that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            let [low, ..] = number.to_le_bytes();
            self.0.push(low | 0x80);
            number >>= 7;
        }
        let [low, ..] = number.to_le_bytes();
        self.0.push(low);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn number(&mut self, field: u64, number: u64) {
        self.key(field, 0);
        self.varint(number);
    }

    fn fixed(&mut self, field: u64, number: u64) {
        self.key(field, 1);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn nested(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }
}
