//! A publisher of a verify run: sends at its rate, in a window, and sends again what was not acknowledged.
//!
//! Owns: pacing, the window, resending. Does not: judge; every event goes to the oracle.
//! Invariants: a message is in the oracle before its first byte leaves; with Session Present 1 unacknowledged
//! messages go out again first, in order, with their packet identifier and DUP [MQTT-4.4.0-1]; with 0 they are
//! published as new messages.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_codec::{Ack, Packet, PacketId, PublishQoS, QoS, TopicName};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::client::{SessionClient, topic};
use super::message::{self, Message};
use super::oracle::ClientIndex;
use super::{Phase, Run};
use crate::client::{self, ClientError, Connection, Window};

/// A publisher that fell behind its rate catches up at most this much.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);

/// What is kept of a message until its acknowledgement.
struct Sent {
    sequence: u64,
    at: Duration,
    payload: Bytes,
}

struct Publisher {
    run: Arc<Run>,
    at: usize,
    qos: QoS,
    topic: TopicName,
    window: Window<Sent>,
    arena: BytesMut,
    /// Time between two messages; `None` for as fast as possible.
    interval: Option<Duration>,
    due: Instant,
}

/// Runs publisher `at` until the run ends; tells `ready` when it has connected for the first time.
pub async fn run(run: Arc<Run>, at: usize, phases: watch::Receiver<Phase>, ready: mpsc::Sender<()>) {
    let Ok(topic) = client::topic_name(&topic(run.id, at)) else { return };
    let args = &run.args;
    let per_publisher = Duration::from_secs(1).saturating_mul(args.publishers);
    let interval = (args.rate > 0).then(|| per_publisher.div_f64(args.rate as f64));
    let mut publisher = Publisher {
        at,
        qos: args.qos.at(at),
        topic,
        window: Window::new(args.window),
        arena: BytesMut::new(),
        interval,
        due: Instant::now(),
        run: run.clone(),
    };
    let mut session = SessionClient::new(run, ClientIndex::Publisher(at), phases);
    let mut ready = Some(ready);
    while let Some((mut connection, connack)) = session.connect().await {
        let window_max = publisher.run.args.window;
        publisher
            .window
            .resize(connack.properties.receive_max.map_or(window_max, |max| window_max.min(max.get())));
        drop(ready.take());
        let outcome = match publisher.send_again(&mut connection, connack.session_present) {
            Ok(()) => publisher.publish_all(&mut connection, &mut session).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => break,
            Err(error) => session.lost(&error),
        }
    }
    if let Some(oldest) = publisher.window.oldest() {
        let now = publisher.run.now();
        publisher.run.oracle.lock().still_unacked(at, oldest.at, now);
    }
    session.remove().await;
}

impl Publisher {
    /// After a reconnect: what had been sent without an acknowledgement.
    fn send_again(&mut self, connection: &mut Connection, session_present: bool) -> Result<(), ClientError> {
        if !session_present {
            for sent in self.window.abandon() {
                self.run.oracle.lock().resent(self.at, sent.sequence);
                self.send(connection, sent)?;
            }
            return Ok(());
        }
        for (id, sent, phase) in self.window.iter() {
            let packet = match phase {
                client::Phase::Published => {
                    self.run.oracle.lock().resent(self.at, sent.sequence);
                    let qos = client::publish_qos(self.qos, id);
                    let mut publish = client::publish_packet(self.topic.clone(), sent.payload.clone(), qos);
                    publish.dup = true;
                    Packet::Publish(publish)
                }
                client::Phase::Released => Packet::PubRel(client::acknowledgement(id)),
            };
            connection.queue(&packet)?;
        }
        Ok(())
    }

    /// One connection. Returns when draining and nothing is in flight any more.
    async fn publish_all(
        &mut self,
        connection: &mut Connection,
        session: &mut SessionClient,
    ) -> Result<(), ClientError> {
        loop {
            while let Some(packet) = connection.next_packet()? {
                self.receive(packet, connection)?;
            }
            let mut next = None;
            match session.phase() {
                Phase::Preparing => {}
                Phase::Publishing => next = self.publish_due(connection)?,
                Phase::Draining if self.window.is_empty() => return connection.flush().await,
                Phase::Draining => {}
                Phase::Cleaning => return Ok(()),
            }
            tokio::select! {
                progress = connection.exchange(next) => { progress?; }
                () = session.phase_changed() => {}
            }
        }
    }

    /// Publishes what the rate and the window allow; when to look again, if not at the next event.
    fn publish_due(&mut self, connection: &mut Connection) -> Result<Option<Instant>, ClientError> {
        let now = Instant::now();
        if let Some(earliest) = now.checked_sub(CATCH_UP_MAX) {
            self.due = self.due.max(earliest);
        }
        while self.window.has_room() && !connection.is_congested() {
            if let Some(interval) = self.interval {
                if self.due > now {
                    return Ok(Some(self.due));
                }
                self.due += interval;
            }
            let at = self.run.now();
            let sequence = self.run.oracle.lock().published(self.at);
            let message = Message {
                run: self.run.id,
                publisher: u32::try_from(self.at).unwrap_or(u32::MAX),
                sequence,
                sent_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            };
            let payload = message::encode(&message, self.run.args.payload, &mut self.arena);
            self.send(connection, Sent { sequence, at, payload })?;
        }
        Ok(None)
    }

    fn send(&mut self, connection: &mut Connection, sent: Sent) -> Result<(), ClientError> {
        let payload = sent.payload.clone();
        let qos = match self.qos {
            QoS::AtMostOnce => PublishQoS::AtMostOnce,
            QoS::AtLeastOnce | QoS::ExactlyOnce => client::publish_qos(self.qos, self.window.push(sent)),
        };
        connection.queue(&Packet::Publish(client::publish_packet(self.topic.clone(), payload, qos)))
    }

    fn receive(&mut self, packet: Packet, connection: &mut Connection) -> Result<(), ClientError> {
        match packet {
            Packet::PubAck(ack) => self.complete(&ack),
            // 0x92 is no failure here: the release of before a reconnect was carried out (MQTT 5, 3.7.2.1).
            Packet::PubComp(ack) => self.complete(&client::acknowledgement(ack.packet_id)),
            Packet::PubRec(ack) if ack.reason.is_failure() => self.complete(&ack),
            Packet::PubRec(Ack { packet_id, .. }) => {
                self.window.release(packet_id);
                connection.queue(&Packet::PubRel(client::acknowledgement(packet_id)))?;
            }
            Packet::PingResp => {}
            other => self.unexpected(&client_problem(&other)),
        }
        Ok(())
    }

    fn complete(&mut self, ack: &Ack) {
        let now = self.run.now();
        match self.window.complete(ack.packet_id) {
            Some(sent) if ack.reason.is_failure() => self.run.oracle.lock().refused(self.at, sent.at, now),
            Some(sent) => self.run.oracle.lock().acked(self.at, sent.sequence, sent.at, now),
            None => self.unexpected(&unknown_id(ack.packet_id)),
        }
    }

    fn unexpected(&self, problem: &str) {
        self.run.oracle.lock().protocol_error(ClientIndex::Publisher(self.at), problem);
    }
}

fn client_problem(packet: &Packet) -> String {
    format!("unexpected {}", client::name(packet))
}

fn unknown_id(id: PacketId) -> String {
    format!("acknowledgement of packet identifier {id}, which is not in flight")
}
