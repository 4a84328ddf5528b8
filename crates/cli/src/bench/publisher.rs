//! The publisher of a measurement: as fast as its window allows, or at a rate.
//!
//! Owns: the inner loop, acknowledgement latency. Does not: send again; a lost connection ends the measurement.
//! Invariants: one clock reading per turn, not per message; one payload buffer, copied once, into the write buffer;
//! a paced message that the broker held up counts from when it was due.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use quorate_codec::{Packet, PublishParts, PublishQoS, QoS, ReasonCode, TopicName};
use tokio::sync::watch;
use tokio::time::Instant;

use super::summary::{latency_histogram, record};
use super::{Bench, Stage, failed};
use crate::client::{self, ClientError, Connection, Window};
use crate::exit::Outcome;

/// Smallest payload: the send time.
pub const PAYLOAD_BYTES_MIN: usize = 8;

/// What publishers did.
pub struct Published {
    /// Messages sent.
    pub sent: u64,
    /// Acknowledged with success.
    pub acked: u64,
    /// Acknowledged with a failure.
    pub refused: u64,
    /// First send, in nanoseconds from the start.
    pub from_ns: u64,
    /// Last acknowledgement, or last send at QoS 0.
    pub to_ns: u64,
    /// Send to acknowledgement, in nanoseconds.
    pub latency: Histogram<u64>,
    qos: QoS,
}

impl Default for Published {
    fn default() -> Published {
        Published {
            sent: 0,
            acked: 0,
            refused: 0,
            from_ns: u64::MAX,
            to_ns: 0,
            latency: latency_histogram(),
            qos: QoS::AtMostOnce,
        }
    }
}

impl Published {
    /// Adds another publisher.
    pub fn merge(&mut self, other: &Published) {
        self.sent += other.sent;
        self.acked += other.acked;
        self.refused += other.refused;
        self.from_ns = self.from_ns.min(other.from_ns);
        self.to_ns = self.to_ns.max(other.to_ns);
        self.qos = other.qos;
        // Both histograms have the same bounds, so nothing can fall outside.
        let _ = self.latency.add(&other.latency);
    }

    /// Messages that should be delivered.
    pub fn accepted(&self) -> u64 {
        if self.qos == QoS::AtMostOnce { self.sent } else { self.acked }
    }
}

/// Publishes `count` messages, or until the measurement's end.
pub async fn run(
    bench: Arc<Bench>,
    at: usize,
    topic: String,
    count: Option<u64>,
    publishers: usize,
    ready: Arc<watch::Sender<usize>>,
) -> Outcome<Published> {
    let mut publisher =
        open(&bench, at, &topic, count, publishers).await.map_err(|error| failed("publish", error))?;
    let mut stage = bench.stage.subscribe();
    ready.send_modify(|connected| *connected += 1);
    // The sender is part of `bench`, which this task holds.
    let until =
        match stage.wait_for(|stage| matches!(stage, Stage::Measuring { .. })).await.map(|stage| *stage) {
            Ok(Stage::Measuring { until }) => until,
            _ => return Ok(publisher.published),
        };
    publisher.begin();
    publisher.publish_all(bench.started + until).await.map_err(|error| failed("publish", error))?;
    let Publisher { connection, published, .. } = publisher;
    connection
        .close(client::disconnect_packet(ReasonCode::SUCCESS))
        .await
        .map_err(|error| failed("end a publisher", error))?;
    Ok(published)
}

struct Publisher {
    bench: Arc<Bench>,
    connection: Connection,
    window: Window<u64>,
    topic: TopicName,
    /// The send time, then filler.
    payload: Vec<u8>,
    left: u64,
    pace: Option<Pace>,
    published: Published,
}

/// A paced message that leaves this much late was held up by the broker, not by the timer of this process.
const LATE: Duration = Duration::from_millis(5);

/// Even spacing of messages.
struct Pace {
    interval: Duration,
    due: Instant,
}

async fn open(
    bench: &Arc<Bench>,
    at: usize,
    topic: &str,
    count: Option<u64>,
    publishers: usize,
) -> Result<Publisher, ClientError> {
    let args = &bench.args;
    let encode = |problem| ClientError::Encode { problem };
    let client_id = client::text(&format!("quorate-bench-{:x}-p{at}", bench.id)).map_err(encode)?;
    let connect = client::connect_packet(args.protocol_version, client_id, 0);
    let permit = bench.connecting.acquire().await;
    let (connection, connack) = Connection::open(bench.broker(at), bench.tls.as_ref(), &connect).await?;
    drop(permit);
    let window_max = connack.properties.receive_max.map_or(args.window, |max| args.window.min(max.get()));
    let topic = client::topic_name(topic).map_err(encode)?;
    let pace = (args.rate > 0).then(|| {
        let publishers = u32::try_from(publishers).unwrap_or(u32::MAX);
        Pace {
            interval: (Duration::from_secs(1) * publishers).div_f64(args.rate as f64),
            due: Instant::now(),
        }
    });
    Ok(Publisher {
        bench: bench.clone(),
        connection,
        window: Window::new(window_max),
        topic,
        payload: vec![b'.'; args.payload.max(PAYLOAD_BYTES_MIN)],
        left: count.unwrap_or(u64::MAX),
        pace,
        published: Published { qos: args.qos, ..Published::default() },
    })
}

impl Publisher {
    fn begin(&mut self) {
        self.published.from_ns = self.bench.now_ns();
        if let Some(pace) = &mut self.pace {
            pace.due = Instant::now();
        }
    }

    async fn publish_all(&mut self, until: Instant) -> Result<(), ClientError> {
        loop {
            let now_ns = self.bench.now_ns();
            while let Some(packet) = self.connection.next_packet()? {
                self.receive(packet, now_ns)?;
            }
            let now = Instant::now();
            if now >= until {
                self.left = 0;
            }
            let next = self.send_due(now, now_ns)?;
            if self.left == 0 && self.window.is_empty() {
                self.connection.flush().await?;
                if self.bench.args.qos == QoS::AtMostOnce {
                    self.published.to_ns = self.bench.now_ns();
                }
                return Ok(());
            }
            let wake = if self.left == 0 { None } else { Some(next.unwrap_or(until).min(until)) };
            self.connection.exchange(wake).await?;
        }
    }

    /// Sends what window and pace allow; when the pace allows the next.
    fn send_due(&mut self, now: Instant, now_ns: u64) -> Result<Option<Instant>, ClientError> {
        let mut from_ns = now_ns;
        self.stamp(from_ns);
        while self.left > 0 && self.window.has_room() && !self.connection.is_congested() {
            if let Some(pace) = &mut self.pace {
                if pace.due > now {
                    return Ok(Some(pace.due));
                }
                let late = now.duration_since(pace.due);
                pace.due += pace.interval;
                let held_up = if late > LATE { late } else { Duration::ZERO };
                from_ns = now_ns.saturating_sub(u64::try_from(held_up.as_nanos()).unwrap_or(u64::MAX));
                self.stamp(from_ns);
            }
            let qos = match self.bench.args.qos {
                QoS::AtMostOnce => PublishQoS::AtMostOnce,
                qos => client::publish_qos(qos, self.window.push(from_ns)),
            };
            self.connection.queue_publish(&PublishParts {
                dup: false,
                qos,
                retain: false,
                topic: Some(&self.topic),
                topic_alias: None,
                message_expiry_s: None,
                subscription_identifiers: &[],
                forwarded: &[],
                payload: &self.payload,
            })?;
            self.published.sent += 1;
            self.left -= 1;
        }
        Ok(None)
    }

    /// Puts the send time into the payload.
    fn stamp(&mut self, from_ns: u64) {
        if let Some(sent_at) = self.payload.first_chunk_mut::<PAYLOAD_BYTES_MIN>() {
            *sent_at = from_ns.to_be_bytes();
        }
    }

    fn receive(&mut self, packet: Packet, now_ns: u64) -> Result<(), ClientError> {
        match packet {
            Packet::PubRec(ack) if !ack.reason.is_failure() => {
                self.window.release(ack.packet_id);
                self.connection.queue(&Packet::PubRel(client::acknowledgement(ack.packet_id)))?;
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) | Packet::PubRec(ack) => {
                if let Some(sent_ns) = self.window.complete(ack.packet_id) {
                    self.published.to_ns = now_ns;
                    record(&mut self.published.latency, now_ns.saturating_sub(sent_ns));
                    if ack.reason.is_failure() {
                        self.published.refused += 1;
                    } else {
                        self.published.acked += 1;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
