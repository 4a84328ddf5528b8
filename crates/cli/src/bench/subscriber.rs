//! The subscriber of a measurement: counts, measures, acknowledges.
//!
//! Owns: the inner loop, delivery latency. Does not: look at payloads beyond the send time.
//! Invariants: one clock reading per batch of packets, not per message.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Buf;
use hdrhistogram::Histogram;
use quorate_codec::{
    Packet, PacketId, ProtocolVersion, Publish, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscriptionOptions,
};
use tokio::sync::watch;

use super::summary::{latency_histogram, record};
use super::{Bench, Stage, failed};
use crate::client::{self, ClientError, Connection, Inbound};
use crate::exit::Outcome;

/// Which session a subscriber uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Session {
    /// Ends with the connection.
    Transient,
    /// Outlives it.
    Persistent,
    /// One that exists already.
    Resumed,
}

/// What subscribers got.
pub struct Received {
    /// Messages.
    pub delivered: u64,
    /// Of those, with DUP.
    pub redelivered: u64,
    /// From when the rate counts, in nanoseconds from the start; `u64::MAX` for the first publish.
    pub from_ns: u64,
    /// Last message.
    pub to_ns: u64,
    /// Send to delivery, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Default for Received {
    fn default() -> Received {
        Received { delivered: 0, redelivered: 0, from_ns: u64::MAX, to_ns: 0, latency: latency_histogram() }
    }
}

impl Received {
    /// Adds another subscriber.
    pub fn merge(&mut self, other: &Received) {
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.from_ns = self.from_ns.min(other.from_ns);
        self.to_ns = self.to_ns.max(other.to_ns);
        // Both histograms have the same bounds, so nothing can fall outside.
        let _ = self.latency.add(&other.latency);
    }
}

/// Sessions of a measurement that was broken off go away after this.
const SESSION_EXPIRY_S: u32 = 3600;

/// Subscribes, tells `ready`, and receives until the measurement ends.
pub async fn run(
    bench: Arc<Bench>,
    at: usize,
    filter: String,
    session: Session,
    ready: Arc<watch::Sender<usize>>,
) -> Outcome<Received> {
    receive_all(&bench, at, &filter, session, &ready).await.map_err(|error| failed("receive", error))
}

/// Makes a session with its subscription and leaves it offline.
pub async fn subscribe_and_leave(bench: Arc<Bench>, at: usize, filter: String) -> Outcome {
    let work = async {
        let (mut connection, _) = open(&bench, at, Session::Persistent).await?;
        subscribe(&mut connection, &filter, bench.args.qos).await?;
        connection.close(client::disconnect_packet(ReasonCode::SUCCESS)).await
    };
    work.await.map_err(|error| failed("subscribe", error))
}

/// Removes the session of subscriber `at`.
pub async fn remove_session(bench: Arc<Bench>, at: usize) -> Outcome {
    let work = async {
        let (connection, _) = open(&bench, at, Session::Transient).await?;
        connection.close(client::disconnect_packet(ReasonCode::SUCCESS)).await
    };
    work.await.map_err(|error| failed("remove a session", error))
}

async fn open(bench: &Bench, at: usize, session: Session) -> Result<(Connection, bool), ClientError> {
    let args = &bench.args;
    let client_id = client::text(&format!("quorate-bench-{:x}-s{at}", bench.id))
        .map_err(|problem| ClientError::Encode { problem })?;
    let mut connect = client::connect_packet(args.protocol_version, client_id, 0);
    connect.clean_start = session == Session::Transient;
    if args.protocol_version == ProtocolVersion::V5 {
        connect.session_expiry_s = Some(if session == Session::Transient { 0 } else { SESSION_EXPIRY_S });
        connect.receive_max = NonZeroU16::new(u16::MAX);
    }
    let permit = bench.connecting.acquire().await;
    // Publishers start at the first broker: with several brokers a pair never shares one.
    let (connection, connack) = Connection::open(bench.broker(at + 1), bench.tls.as_ref(), &connect).await?;
    drop(permit);
    Ok((connection, connack.session_present))
}

async fn subscribe(connection: &mut Connection, filter: &str, qos: QoS) -> Result<(), ClientError> {
    let filter = client::topic_filter(filter).map_err(|problem| ClientError::Encode { problem })?;
    let options = SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Never,
    };
    connection.queue(&Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        identifier: None,
        user_properties: Vec::new(),
        filters: vec![(filter, options)],
    }))?;
    loop {
        match connection.next_packet()? {
            Some(Packet::SubAck(suback)) => {
                return match suback.reasons.iter().find(|reason| reason.is_failure()) {
                    Some(reason) => {
                        Err(ClientError::Refused { reason: *reason, text: "the subscription".into() })
                    }
                    None => Ok(()),
                };
            }
            Some(_) => {}
            None => {
                connection.exchange(None).await?;
            }
        }
    }
}

async fn receive_all(
    bench: &Bench,
    at: usize,
    filter: &str,
    session: Session,
    ready: &watch::Sender<usize>,
) -> Result<Received, ClientError> {
    let (mut connection, present) = open(bench, at, session).await?;
    match session {
        Session::Resumed if present => {}
        Session::Resumed => {
            return Err(ClientError::Protocol { problem: "the session is not there any more".to_owned() });
        }
        Session::Transient | Session::Persistent => {
            subscribe(&mut connection, filter, bench.args.qos).await?
        }
    }
    ready.send_modify(|subscribed| *subscribed += 1);
    let mut stage = bench.stage.subscribe();
    let mut received = Received::default();
    let mut inbound = Inbound::default();
    loop {
        let before = received.delivered;
        let now_ns = bench.now_ns();
        while let Some(packet) = connection.next_packet()? {
            match packet {
                Packet::Publish(publish) => {
                    let (deliver, answer) = inbound.publish(&publish);
                    if deliver {
                        count(&mut received, &publish, now_ns);
                    }
                    if let Some(answer) = answer {
                        connection.queue(&answer)?;
                    }
                }
                Packet::PubRel(release) => connection.queue(&inbound.release(release.packet_id))?,
                _ => {}
            }
        }
        if received.delivered > before {
            received.to_ns = now_ns;
            bench.delivered.fetch_add(received.delivered - before, Ordering::Relaxed);
        }
        tokio::select! {
            progress = connection.exchange(None) => { progress?; }
            ended = stage.wait_for(|stage| *stage == Stage::Ending) => {
                if ended.is_ok() {
                    break;
                }
            }
        }
    }
    connection.close(client::disconnect_packet(ReasonCode::SUCCESS)).await?;
    Ok(received)
}

fn count(received: &mut Received, publish: &Publish, now_ns: u64) {
    received.delivered += 1;
    received.redelivered += u64::from(publish.dup);
    let mut payload: &[u8] = &publish.payload;
    if payload.len() >= super::publisher::PAYLOAD_BYTES_MIN {
        record(&mut received.latency, now_ns.saturating_sub(payload.get_u64()));
    }
}
