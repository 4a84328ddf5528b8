//! One task per client connection: moves bytes between its socket and its [`Client`].
//!
//! Owns: the loop of a connection, its timer, its input. Does not: understand MQTT.
//! Invariants: what the node sent is handled in order; one write per turn; an idle connection holds no buffers;
//! what the client wants done is carried out before what it says is written; a busy connection gives way to others;
//! a deadline of the client is looked at only after its socket; who said DISCONNECT and sees the socket closed finds the
//! session as it was left, on any node.
//! Limits: `CLIENT_OUTPUT_BYTES_MAX` of unsent output stops the reading and the taking of direct deliveries;
//! `CLIENT_TURN_BYTES` moved without giving way; a packet above `LARGE_PACKET_BYTES` is read when there is room for all of it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quorate_node::client::{Client, ClientConfig, Pressure, Principal, Reading};
use quorate_node::edge::{ClientEvent, ClientOutput, ClientRequest, DirectDelivery};
use tokio::time::{Instant, Sleep, timeout};

use crate::config::PrincipalSource;
use crate::departure::{Departure, DepartureCause};
use crate::edge::Edge;
use crate::founding::text;
use crate::large_packets::Reserved;
use crate::limits::{
    CLIENT_CLOSE_TIMEOUT, CLIENT_OUTPUT_BYTES_MAX, CLIENT_READ_BYTES, CLIENT_TURN_BYTES, PRESSED_READ_BYTES,
};
use crate::mailbox::Mailbox;
use crate::metrics::listeners::ListenerFigures;
use crate::net::arrival::Origin;
use crate::net::gate::{Pass, Place};
use crate::net::transport::{Progress, Transport};
use crate::publish_times::PublishTimes;
use crate::telemetry::connection_trace::ConnectionTrace;
use crate::traces::Watched;

/// A timer that is never due by itself.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// A timer is due no sooner than this: it then fires after the runtime has looked at the sockets.
const NEAR: Duration = Duration::from_millis(1);

/// What is known of a connection before it speaks MQTT.
pub struct Arrival {
    /// Where it comes from.
    pub origin: Origin,
    /// Where its principal comes from.
    pub principal: PrincipalSource,
    /// Its place among those that have not sent their CONNECT; given back when they have.
    pub pass: Option<Pass>,
    /// When it was accepted: the deadline of CONNECT counts from there.
    pub accepted_at: Duration,
}

/// Serves one connection until it ends, and keeps its place among those of its listener as long.
pub async fn serve(
    edge: Arc<Edge>,
    config: Arc<ClientConfig>,
    transport: Transport,
    arrival: Box<Arrival>,
    _place: Place,
    figures: Arc<ListenerFigures>,
) {
    let (owner, mailbox) = edge.open();
    let accepted_at = arrival.accepted_at;
    let client = Client::new(owner, config, accepted_at).acting_for(arrival.principal());
    edge.metrics.connections_accepted.add(1);
    figures.connections.up();
    let mut task = ConnectionTask {
        edge: edge.clone(),
        mailbox,
        client,
        transport,
        arrival: Some(arrival),
        input: BytesMut::new(),
        waiting: VecDeque::new(),
        out: ClientOutput::default(),
        moved: 0,
        departs: None,
        figures: figures.clone(),
        accepted: false,
        publishes: PublishTimes::default(),
        watched: Watched::default(),
        trace: edge.telemetry.as_ref().map(|to| ConnectionTrace::new(to.clone(), owner, accepted_at)),
        read_at: accepted_at,
        reserved: Reserved::default(),
    };
    let ended = task.run().await;
    if let Some(trace) = task.trace.take() {
        trace.finish(task.client.close_cause(), edge.clock.now());
    }
    edge.mailboxes.close(owner.conn);
    figures.connections.down();
    let stopping = edge.departure.borrow().is_stop();
    edge.metrics.connection_ended(task.client.close_cause(), task.accepted, stopping);
    if let Err(error) = ended {
        tracing::debug!(conn_id = owner.conn.0, %error, "connection failed");
    }
}

impl Arrival {
    fn principal(&self) -> Principal {
        match self.principal {
            PrincipalSource::UserName => Principal::UserName,
            PrincipalSource::Certificate => {
                let certificate = self.origin.certificate.as_ref();
                Principal::Certificate(certificate.and_then(|names| names.common_name.as_deref()).map(text))
            }
        }
    }
}

struct ConnectionTask {
    edge: Arc<Edge>,
    mailbox: Arc<Mailbox>,
    client: Client,
    transport: Transport,
    /// Kept until CONNECT, then only when there is a certificate.
    arrival: Option<Box<Arrival>>,
    /// Bytes that are no whole packet yet, or that the client does not want yet.
    input: BytesMut,
    /// Direct deliveries taken out of the mailbox that wait for the socket.
    waiting: VecDeque<DirectDelivery>,
    out: ClientOutput,
    /// Bytes read and written since this task last gave way.
    moved: usize,
    figures: Arc<ListenerFigures>,
    /// When the connection has to go, and why.
    departs: Option<(Duration, DepartureCause)>,
    /// The CONNECT was accepted.
    accepted: bool,
    publishes: PublishTimes,
    /// Who watches this connection.
    watched: Watched,
    /// Spans, when something is traced at all.
    trace: Option<Box<ConnectionTrace>>,
    /// When bytes were last taken in, for the spans.
    read_at: Duration,
    /// Room for a large packet.
    reserved: Reserved,
}

impl ConnectionTask {
    async fn run(&mut self) -> io::Result<()> {
        let mut departure = self.edge.departure.subscribe();
        self.heed(*departure.borrow_and_update());
        let mut sleep = std::pin::pin!(tokio::time::sleep(FAR));
        self.arm(sleep.as_mut());
        loop {
            self.look_for_traces();
            self.handle_mailbox();
            self.handle_input();
            self.carry_out().await;
            if let Err(error) = self.write_what_fits() {
                // The node hears of it as of any other end. Otherwise it would take the connection for open, and the next one of
                // this client would wait for its end.
                self.client.output().clear();
                self.progressed(Err(error));
                self.carry_out().await;
            }
            if let Some(trace) = &mut self.trace {
                trace.written(self.edge.clock.now());
            }
            if self.client.is_closed() {
                return self.finish().await;
            }
            if self.has_work() || self.moved >= CLIENT_TURN_BYTES {
                // A socket that is always ready would keep this thread for itself: no task or timer would run.
                self.moved = 0;
                tokio::task::yield_now().await;
            }
            if self.has_work() {
                continue;
            }
            self.release_buffers();
            let lacks = self.reserved.lacks(&self.input);
            let read = self.declare_reading(lacks.is_some());
            self.arm(sleep.as_mut());
            tokio::select! {
                biased;
                () = self.mailbox.arrived() => (),
                () = self.edge.large_packets.reserve(lacks.unwrap_or(0), &mut self.reserved), if lacks.is_some() => (),
                progress = self.transport.turn(read, &mut self.input, self.client.output()) => {
                    self.progressed(progress);
                }
                () = sleep.as_mut() => self.timer_fired(),
                Ok(()) = departure.changed() => {
                    self.heed(*departure.borrow_and_update());
                }
            }
        }
    }

    /// Whether the connection may stay has changed.
    fn heed(&mut self, departure: Departure) {
        let conn = self.client.owner().conn;
        self.departs = departure.moment(conn);
        let server = departure.is_on().then(|| self.edge.server_reference(&self.figures.name, conn));
        self.client.refer_to(server.flatten());
    }

    fn reading(&mut self) -> Reading {
        if self.client.output().len() >= CLIENT_OUTPUT_BYTES_MAX {
            Reading::Blocked
        } else if self.client.wants_read() {
            Reading::Open
        } else {
            Reading::Busy
        }
    }

    /// Tells the client whether its socket is read in this turn; not while it waits for room. Gives how much at once: little
    /// while memory is short.
    fn declare_reading(&mut self, waits: bool) -> usize {
        let reading = match self.reading() {
            Reading::Open if waits => Reading::Busy,
            reading => reading,
        };
        self.client.set_reading(reading, self.edge.clock.now());
        match self.edge.memory.pressure() {
            _ if reading != Reading::Open => 0,
            Pressure::None => CLIENT_READ_BYTES,
            Pressure::High | Pressure::Full => PRESSED_READ_BYTES,
        }
    }

    /// Something can be done without waiting.
    fn has_work(&mut self) -> bool {
        self.client.has_work() || (!self.waiting.is_empty() && takes_direct(&mut self.client))
    }

    fn handle_event(&mut self, event: ClientEvent) {
        let (client, out) = (&mut self.client, &mut self.out);
        self.edge.with_context(|context, now| client.handle_event(event, context, out, now));
    }

    /// Records packets if somebody watches by now.
    fn look_for_traces(&mut self) {
        if let Some(recording) = self.watched.look(&self.edge.traces) {
            self.client.observe(recording);
        }
    }

    fn handle_mailbox(&mut self) {
        let events = self.mailbox.take_events();
        if !events.is_empty() {
            let (client, out, metrics) = (&mut self.client, &mut self.out, &self.edge.metrics);
            let (accepted, publishes) = (&mut self.accepted, &mut self.publishes);
            let trace = &mut self.trace;
            self.edge.with_context(|context, now| {
                for event in events {
                    if let Some(trace) = trace {
                        trace.event(&event, now);
                    }
                    match &event {
                        ClientEvent::Deliver(_) => metrics.deliveries_session.add(1),
                        ClientEvent::Retained { .. } => metrics.deliveries_retained.add(1),
                        ClientEvent::PublishApplied { number, .. } => {
                            metrics.publishes_applied.add(1);
                            if let Some(took) = publishes.applied(*number.get(), now) {
                                metrics.publish_time.observe(took);
                            }
                        }
                        ClientEvent::Connected { .. } => {
                            metrics.connects.add(1);
                            *accepted = true;
                        }
                        ClientEvent::Refused(_)
                        | ClientEvent::Released { .. }
                        | ClientEvent::Received { .. }
                        | ClientEvent::Marked(_)
                        | ClientEvent::Subscribed { .. }
                        | ClientEvent::Unsubscribed { .. }
                        | ClientEvent::RetainedGiven
                        | ClientEvent::Ended
                        | ClientEvent::Close(_) => (),
                    }
                    client.handle_event(event, context, out, now);
                }
            });
        }
        if self.waiting.is_empty() {
            self.waiting = self.mailbox.take_direct().into();
        }
        if self.waiting.is_empty() {
            return;
        }
        let (client, out, waiting) = (&mut self.client, &mut self.out, &mut self.waiting);
        let (mailbox, trace) = (&self.mailbox, &mut self.trace);
        self.edge.with_context(|context, now| {
            let before = waiting.len();
            while takes_direct(client) {
                let Some(delivery) = waiting.pop_front() else { break };
                if let Some(trace) = trace {
                    trace.direct(&delivery.message.message, delivery.qos, now);
                }
                client.handle_direct(delivery, context, out, now);
            }
            if waiting.len() < before {
                mailbox.progressed(now);
            }
        });
    }

    fn handle_input(&mut self) {
        if self.client.has_work() {
            let (client, out) = (&mut self.client, &mut self.out);
            self.edge.with_context(|context, now| client.handle_timeout(context, out, now));
        }
        if self.input.is_empty() || self.reading() != Reading::Open {
            return;
        }
        let (client, out, input) = (&mut self.client, &mut self.out, &mut self.input);
        let read_at = &mut self.read_at;
        self.edge.with_context(|context, now| {
            *read_at = now;
            client.handle_bytes(input, context, out, now);
        });
    }

    fn progressed(&mut self, progress: io::Result<Progress>) {
        match progress {
            Ok(progress) => {
                self.edge.metrics.client_bytes_in.add_len(progress.read);
                self.edge.metrics.client_bytes_out.add_len(progress.written);
                self.moved += progress.read + progress.written;
                if !progress.ended {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "connection broke"),
        }
        self.look_for_traces();
        // What came with the end is still worth handling: a DISCONNECT, most of all.
        self.handle_input();
        let (client, out) = (&mut self.client, &mut self.out);
        self.edge.with_context(|context, now| client.handle_eof(context, out, now));
    }

    /// CONNECT has come whole and goes to the cluster: the client has said who it is.
    fn connect_came(&mut self) {
        let Some(arrival) = &mut self.arrival else { return };
        if arrival.pass.take().is_none() {
            return;
        }
        self.transport.lift_allowance();
        let connect = self.out.requests.iter().find_map(|request| match request {
            ClientRequest::Connect(connect) => Some(connect),
            _ => None,
        });
        if let Some(connect) = connect
            && let Some(recording) = self.watched.identify(connect.client_id.as_str(), &self.edge.traces)
        {
            // What was recorded so far is handed over first: with it, the CONNECT.
            self.watched.hand_over(self.client.take_observed());
            self.client.observe(recording);
        }
        let Origin { address, certificate } = &arrival.origin;
        let certificate = certificate.as_ref().map(tracing::field::display);
        tracing::debug!(conn_id = self.client.owner().conn.0, ?address, certificate, "client connects");
        if arrival.origin.certificate.is_none() {
            self.arrival = None;
        }
    }

    async fn carry_out(&mut self) {
        self.edge.metrics.count_traffic(self.client.take_traffic());
        let conn = self.client.owner().conn;
        if !self.out.requests.is_empty() {
            self.connect_came();
            self.publishes.begin(&self.out.requests, self.edge.clock.now());
        }
        if self.watched.is_watched() {
            self.watched.hand_over(self.client.take_observed());
        }
        if let Some(trace) = &mut self.trace {
            trace.leaving(&self.out, self.read_at, self.edge.clock.now());
        }
        self.edge.carry_out(conn, &mut self.out).await;
    }

    /// Writes without waiting what the socket takes.
    fn write_what_fits(&mut self) -> io::Result<()> {
        if self.client.output().is_empty() {
            return Ok(());
        }
        let written = self.transport.write_now(self.client.output())?;
        self.edge.metrics.client_bytes_out.add_len(written);
        self.moved += written;
        Ok(())
    }

    fn timer_fired(&mut self) {
        if let Some((_, cause)) = self.departs.take_if(|(at, _)| self.edge.clock.now() >= *at) {
            self.handle_event(ClientEvent::Close(cause.reason()));
        }
        let due = self.client.poll_timeout().is_some_and(|time| self.edge.clock.now() >= time);
        if due {
            let (client, out) = (&mut self.client, &mut self.out);
            self.edge.with_context(|context, now| client.handle_timeout(context, out, now));
        }
    }

    /// Sets the timer when it would come too late, or has come. One that comes early is set again then: cheaper than
    /// moving it with every packet.
    fn arm(&self, sleep: Pin<&mut Sleep>) {
        let departs = self.departs.map(|(at, _)| at);
        let wanted = match self.client.poll_timeout().into_iter().chain(departs).min() {
            Some(time) => Instant::from_std(self.edge.clock.instant(time)).max(Instant::now() + NEAR),
            None if sleep.is_elapsed() => Instant::now() + FAR,
            None => return,
        };
        if sleep.is_elapsed() || wanted < sleep.deadline() {
            sleep.reset(wanted);
        }
    }

    /// Gives empty buffers back: an idle connection must cost little.
    fn release_buffers(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        let output = self.client.output();
        if output.is_empty() && output.capacity() > 0 {
            *output = BytesMut::new();
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        self.out = ClientOutput::default();
        self.publishes.release();
    }

    /// Writes what is left and closes.
    async fn finish(&mut self) -> io::Result<()> {
        if self.client.has_said_goodbye() {
            // If the cluster cannot apply it now, it will: the socket need not wait for that.
            let _ = timeout(CLIENT_CLOSE_TIMEOUT, self.session_ended()).await;
        }
        let (transport, output) = (&mut self.transport, self.client.output());
        timeout(CLIENT_CLOSE_TIMEOUT, transport.finish(output)).await.unwrap_or(Ok(()))
    }

    /// Waits until the session's partition has applied what the client asked for before its DISCONNECT.
    async fn session_ended(&mut self) {
        while !self.mailbox.take_events().iter().any(|event| matches!(event, ClientEvent::Ended)) {
            self.mailbox.arrived().await;
        }
    }
}

/// Whether direct deliveries are taken out of the mailbox now.
fn takes_direct(client: &mut Client) -> bool {
    client.output().len() < CLIENT_OUTPUT_BYTES_MAX && client.wants_direct()
}
