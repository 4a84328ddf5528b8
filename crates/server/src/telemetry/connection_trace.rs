//! The spans of one client connection: its connect, its publishes with their commits, the deliveries to it.
//!
//! Owns: spans that have begun on this connection. Does not: see packets; it sees requests, events and deliveries as they
//! pass the task of the connection.
//! Invariants: a publish has one span, however many ways its message takes; the span of a delivery has that of the publish as
//! its parent, on whichever node it is. Limits: `SPANS_OPEN_MAX` publishes and deliveries each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_codec::{PacketId, QoS, ReasonCode};
use quorate_node::client::CloseCause;
use quorate_node::edge::{ClientEvent, ClientOutput, ClientRequest, PublishNumber, PublishOutcome};
use quorate_node::peer::PeerMessage;
use quorate_state::hash::stable_hash;
use quorate_state::{Command, GroupId, Message, Owner};

use super::Telemetry;
use super::otlp::{Span, SpanKind, Value};
use super::trace_ids::{Place, SpanId};
use crate::limits::SPANS_OPEN_MAX;

/// Spans of a connection.
pub struct ConnectionTrace {
    telemetry: Arc<Telemetry>,
    /// Of the connection itself.
    place: Place,
    /// Tells apart what else has an id: connection and count.
    seed: u64,
    count: u64,
    /// While the CONNECT is not answered.
    connecting: Option<Span>,
    client_id: Option<String>,
    publishes: VecDeque<Publishing>,
    /// Publishes that were committed, and whose acknowledgement has not left.
    committed: Vec<Span>,
    deliveries: VecDeque<(PacketId, Span)>,
    /// The last publishes that have a span.
    seen: VecDeque<SpanId>,
}

struct Publishing {
    number: PublishNumber,
    outstanding: usize,
    publish: Span,
    commit: Span,
}

impl ConnectionTrace {
    /// Of a connection that was accepted then.
    pub fn new(telemetry: Arc<Telemetry>, owner: Owner, accepted_at: Duration) -> Box<ConnectionTrace> {
        let place = Place::of_connection(owner);
        let connecting = telemetry.takes(&place).then(|| Span {
            trace: place.trace,
            id: place.span,
            parent: None,
            name: "connect",
            kind: SpanKind::Server,
            began_ns: telemetry.wall_ns(accepted_at),
            ended_ns: 0,
            attributes: vec![("messaging.system", text("mqtt")), ("quorate.conn_id", number(owner.conn.0))],
            links: Vec::new(),
            error: None,
        });
        let [a, b, c, d, e, f, g, h] = place.span.0;
        Box::new(ConnectionTrace {
            telemetry,
            place,
            seed: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            count: 0,
            connecting,
            client_id: None,
            publishes: VecDeque::new(),
            committed: Vec::new(),
            deliveries: VecDeque::new(),
            seen: VecDeque::new(),
        })
    }

    /// What the client's packets came to is carried out now; they were read then.
    pub fn leaving(&mut self, out: &ClientOutput, read_at: Duration, now: Duration) {
        for request in &out.requests {
            match request {
                ClientRequest::Connect(connect) => {
                    self.client_id = Some(connect.client_id.as_str().to_owned());
                }
                ClientRequest::Publish { number, targets } => {
                    let groups: Vec<GroupId> = targets.iter().map(|(group, _)| *group).collect();
                    if let Some((_, command)) = targets.first() {
                        self.begin_publish(*number, command, &groups, read_at, now);
                    }
                }
                ClientRequest::PublishOnce { number, group, command, .. } => {
                    self.begin_publish(*number, command, &[*group], read_at, now);
                }
                ClientRequest::Acknowledged { packet_ids } => {
                    packet_ids.iter().for_each(|packet_id| self.acknowledged(*packet_id, now));
                }
                ClientRequest::Received { .. }
                | ClientRequest::Subscribe { .. }
                | ClientRequest::Unsubscribe { .. }
                | ClientRequest::Release { .. }
                | ClientRequest::RetainedTaken
                | ClientRequest::Closed { .. } => (),
            }
        }
        for (_, delivery) in &out.direct {
            self.handed_over(&delivery.message.message, read_at, now);
        }
        for (_, forward) in &out.forwards {
            if let PeerMessage::Forward(direct) | PeerMessage::ForwardShared { message: direct, .. } = forward
            {
                self.handed_over(&direct.message, read_at, now);
            }
        }
    }

    /// The node tells the connection something.
    pub fn event(&mut self, event: &ClientEvent, now: Duration) {
        match event {
            ClientEvent::Connected { session_present, .. } => {
                let present = if *session_present.get() { "resumed" } else { "new" };
                self.connected(("quorate.session", text(present)), None, now);
            }
            ClientEvent::Refused(reason) => self.refused(*reason, now),
            ClientEvent::PublishApplied { number, outcome } => self.applied(*number.get(), *outcome, now),
            ClientEvent::Deliver(delivery) => {
                if let Some(message) = &delivery.message
                    && let Some(span) = self.delivery(message, "session", delivery.qos, now)
                {
                    if self.deliveries.len() >= SPANS_OPEN_MAX {
                        self.telemetry.end(span);
                    } else {
                        self.deliveries.push_back((delivery.packet_id, span));
                    }
                }
            }
            ClientEvent::Released { .. }
            | ClientEvent::Received { .. }
            | ClientEvent::Marked(_)
            | ClientEvent::Subscribed { .. }
            | ClientEvent::Unsubscribed { .. }
            | ClientEvent::Retained { .. }
            | ClientEvent::RetainedGiven
            | ClientEvent::Ended
            | ClientEvent::Close(_) => (),
        }
    }

    /// A message reached the connection directly and was given to the client.
    pub fn direct(&mut self, message: &Message, qos: QoS, now: Duration) {
        if let Some(mut span) = self.delivery(message, "direct", qos, now) {
            span.ended_ns = self.telemetry.wall_ns(now);
            self.telemetry.end(span);
        }
    }

    /// What was acknowledged to the client is on its way.
    pub fn written(&mut self, now: Duration) {
        let ended_ns = self.telemetry.wall_ns(now);
        for span in self.committed.drain(..) {
            self.telemetry.end(Span { ended_ns, ..span });
        }
    }

    /// The connection is over: what has begun ends unfinished.
    pub fn finish(mut self, cause: Option<CloseCause>, now: Duration) {
        self.written(now);
        if let Some(CloseCause::Broker(reason) | CloseCause::Violation(reason)) = cause {
            self.refused(reason, now);
        }
        let ended_ns = self.telemetry.wall_ns(now);
        let publishes =
            self.publishes.drain(..).flat_map(|publishing| [publishing.commit, publishing.publish]);
        let deliveries = self.deliveries.drain(..).map(|(_, span)| span);
        let open = self.connecting.take().into_iter().chain(publishes).chain(deliveries);
        for span in open {
            let error = Some("the connection ended before".to_owned());
            self.telemetry.end(Span { ended_ns, error, ..span });
        }
    }

    fn connected(&mut self, attribute: (&'static str, Value), error: Option<String>, now: Duration) {
        let Some(mut span) = self.connecting.take() else { return };
        if let Some(client_id) = &self.client_id {
            span.attributes.push(("messaging.client.id", text(client_id)));
        }
        span.attributes.push(attribute);
        self.telemetry.end(Span { ended_ns: self.telemetry.wall_ns(now), error, ..span });
    }

    /// The CONNECT, if it still waits, was refused.
    fn refused(&mut self, reason: ReasonCode, now: Duration) {
        let code = ("quorate.reason_code", number(reason.value().into()));
        self.connected(code, Some(reason.name().to_owned()), now);
    }

    fn begin_publish(
        &mut self,
        publish_number: PublishNumber,
        command: &Bytes,
        groups: &[GroupId],
        read_at: Duration,
        now: Duration,
    ) {
        let (Command::Publish { message, .. } | Command::PublishOnce { message, .. }) =
            (match Command::decode(&mut command.clone()) {
                Ok(command) => command,
                Err(_) => return,
            })
        else {
            return;
        };
        if self.publishes.len() >= SPANS_OPEN_MAX {
            return;
        }
        let Some(publish) = self.publish(&message, read_at) else { return };
        let groups_shown: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let commit = Span {
            id: self.next_id(),
            parent: Some(publish.id),
            name: "commit",
            kind: SpanKind::Internal,
            began_ns: self.telemetry.wall_ns(now),
            attributes: vec![("quorate.groups", text(&groups_shown.join(",")))],
            links: Vec::new(),
            ..publish.clone()
        };
        let outstanding = groups.len();
        self.publishes.push_back(Publishing { number: publish_number, outstanding, publish, commit });
    }

    /// The message goes to receivers that take it directly: without a partition, this is all of its publish.
    fn handed_over(&mut self, message: &Message, read_at: Duration, now: Duration) {
        if let Some(mut span) = self.publish(message, read_at) {
            span.ended_ns = self.telemetry.wall_ns(now);
            self.telemetry.end(span);
        }
    }

    /// The span of a publish, unless it is not traced or has one already.
    fn publish(&mut self, message: &Message, read_at: Duration) -> Option<Span> {
        let place = Place::of_message(message);
        if !self.telemetry.takes(&place) || self.seen.contains(&place.span) {
            return None;
        }
        if self.seen.len() >= SPANS_OPEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(place.span);
        Some(Span {
            trace: place.trace,
            id: place.span,
            parent: place.parent,
            name: "publish",
            kind: SpanKind::Server,
            began_ns: self.telemetry.wall_ns(read_at),
            ended_ns: 0,
            attributes: self.about(message, message.qos),
            links: vec![(self.place.trace, self.place.span)],
            error: None,
        })
    }

    fn applied(&mut self, publish_number: PublishNumber, outcome: PublishOutcome, now: Duration) {
        let Ok(at) = self.publishes.binary_search_by_key(&publish_number, |publishing| publishing.number)
        else {
            return;
        };
        let Some(publishing) = self.publishes.get_mut(at) else { return };
        publishing.outstanding = publishing.outstanding.saturating_sub(1);
        if let PublishOutcome::Rejected(reason) = outcome {
            publishing.commit.error = Some(reason.name().to_owned());
            publishing.publish.error = Some(reason.name().to_owned());
        }
        if publishing.outstanding > 0 {
            return;
        }
        let Some(Publishing { publish, commit, .. }) = self.publishes.remove(at) else { return };
        self.telemetry.end(Span { ended_ns: self.telemetry.wall_ns(now), ..commit });
        self.committed.push(publish);
    }

    fn delivery(&mut self, message: &Message, path: &str, qos: QoS, now: Duration) -> Option<Span> {
        let place = Place::of_message(message);
        if !self.telemetry.takes(&place) {
            return None;
        }
        let mut attributes = self.about(message, qos);
        attributes.push(("quorate.path", text(path)));
        Some(Span {
            trace: place.trace,
            id: self.next_id(),
            parent: Some(place.span),
            name: "deliver",
            kind: SpanKind::Producer,
            began_ns: self.telemetry.wall_ns(now),
            ended_ns: self.telemetry.wall_ns(now),
            attributes,
            links: vec![(self.place.trace, self.place.span)],
            error: None,
        })
    }

    fn acknowledged(&mut self, packet_id: PacketId, now: Duration) {
        let Some(at) = self.deliveries.iter().position(|(delivered, _)| *delivered == packet_id) else {
            return;
        };
        if let Some((_, span)) = self.deliveries.remove(at) {
            self.telemetry.end(Span { ended_ns: self.telemetry.wall_ns(now), ..span });
        }
    }

    fn about(&self, message: &Message, qos: QoS) -> Vec<(&'static str, Value)> {
        let mut attributes = vec![
            ("messaging.system", text("mqtt")),
            ("messaging.destination.name", text(message.topic.as_str())),
            ("messaging.message.body.size", number(u64::try_from(message.payload.len()).unwrap_or(u64::MAX))),
            ("mqtt.qos", number(qos as u64)),
        ];
        if let Some(client_id) = &self.client_id {
            attributes.push(("messaging.client.id", text(client_id)));
        }
        attributes
    }

    fn next_id(&mut self) -> SpanId {
        self.count += 1;
        let [low, high] = [self.seed.to_le_bytes(), self.count.to_le_bytes()];
        SpanId::of(stable_hash(&[low, high].concat()))
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn number(number: u64) -> Value {
    Value::Number(number)
}
