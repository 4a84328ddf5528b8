//! One persistent client of a verify run: which broker it uses, and what its session should look like.
//!
//! Owns: connecting again to the next broker with a growing pause, Session Present expectations, removal.
//! Does not: publish or subscribe.
//! Invariants: an attempt whose outcome is unknown leaves both answers right for the next one.
//! Limits: RECONNECT_PAUSE_MIN to RECONNECT_PAUSE_MAX; an attempt takes CONNECT_ATTEMPT_MAX at most.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use quorate_codec::{ConnAck, Connect, ProtocolVersion, PublishProperties, QoS, ReasonCode, Will};
use std::num::NonZeroU16;
use tokio::sync::watch;

use super::message::{self, Message};
use super::oracle::{ClientIndex, Expected};
use super::{Phase, Run};
use crate::client::{self, ClientError, Connection};
use crate::limits::{RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};

/// Sessions outlive the run by at most this, when they cannot be removed.
const SESSION_EXPIRY_S: u32 = 3600;

/// Longest wait for TCP and for CONNACK of one attempt; then the next broker is tried.
const CONNECT_ATTEMPT_MAX: Duration = Duration::from_secs(3);

/// A client with a session.
pub struct SessionClient {
    run: Arc<Run>,
    index: ClientIndex,
    name: String,
    broker: usize,
    expected: Expected,
    pause: Duration,
    phases: watch::Receiver<Phase>,
    /// What the will of the last CONNECT carries.
    will_number: u64,
}

impl SessionClient {
    /// A client that has not connected yet. `at` spreads clients over the brokers.
    pub fn new(run: Arc<Run>, index: ClientIndex, phases: watch::Receiver<Phase>) -> SessionClient {
        let (name, broker) = match index {
            // Publishers and subscribers of one number start at different brokers.
            ClientIndex::Publisher(at) => (format!("p{at}"), at),
            ClientIndex::Subscriber(at) => (format!("s{at}"), at + 1),
            ClientIndex::Sharer(at) => (format!("g{at}"), at),
            ClientIndex::Willed(at) => (format!("w{at}"), at),
            ClientIndex::Watcher => ("watcher".to_owned(), 0),
        };
        SessionClient {
            run,
            index,
            name,
            broker,
            expected: Expected::Fresh,
            pause: RECONNECT_PAUSE_MIN,
            phases,
            will_number: 0,
        }
    }

    /// The phase of the run.
    pub fn phase(&self) -> Phase {
        *self.phases.borrow()
    }

    /// Resolves when the phase changes.
    pub async fn phase_changed(&mut self) {
        // The sender lives as long as the run; if it is gone, so is this task soon.
        if self.phases.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Connects, trying broker after broker. `None` when the run has come to cleaning meanwhile.
    pub async fn connect(&mut self) -> Option<(Connection, ConnAck)> {
        loop {
            if self.phase() >= Phase::Cleaning {
                return None;
            }
            let mut connect = self.packet(false, SESSION_EXPIRY_S);
            connect.will = self.will();
            match self.attempt(&connect).await {
                Ok((connection, connack)) => {
                    self.run.oracle.lock().connected(self.index, self.expected, connack.session_present);
                    self.expected = Expected::Present;
                    self.pause = RECONNECT_PAUSE_MIN;
                    return Some((connection, connack));
                }
                Err(error) => {
                    // A CONNECT may have been carried out although its answer never came.
                    if self.expected == Expected::Fresh && !matches!(error, ClientError::Dial { .. }) {
                        self.expected = Expected::Either;
                    }
                    self.lost(&error);
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(RECONNECT_PAUSE_MAX);
                }
            }
        }
    }

    /// Number of the last connection, as its will carries it.
    pub fn will_number(&self) -> u64 {
        self.will_number
    }

    /// The broker sent something that it should not have.
    pub fn unexpected(&self, problem: &str) {
        self.run.oracle.lock().protocol_error(self.index, problem);
    }

    /// A will that says of which connection it is, for a client that has wills.
    fn will(&mut self) -> Option<Will> {
        let ClientIndex::Willed(at) = self.index else { return None };
        self.will_number = self.run.oracle.lock().will_sent(at);
        let message = Message {
            run: self.run.id,
            publisher: u32::try_from(at).unwrap_or(u32::MAX),
            sequence: self.will_number,
            sent_ns: 0,
        };
        let payload = message::encode(&message, self.run.args.payload, &mut BytesMut::new());
        let topic = client::topic_name(&will_topic(self.run.id, at)).ok()?;
        let (qos, properties) = (QoS::AtLeastOnce, PublishProperties::default());
        Some(Will { topic, payload, qos, retain: false, delay_s: None, properties })
    }

    /// Notes that a connection ended, and moves on to the next broker.
    pub fn lost(&mut self, error: &ClientError) {
        self.run.note(&self.name, self.address(), error);
        if let ClientError::Protocol { problem } = error {
            self.run.oracle.lock().protocol_error(self.index, problem);
        }
        self.broker += 1;
    }

    /// Removes the session from the cluster, at any broker that answers.
    pub async fn remove(&mut self) {
        let attempts = self.run.args.brokers.len() * 2;
        for _ in 0..attempts {
            match self.attempt(&self.packet(true, 0)).await {
                Ok((connection, _)) => {
                    if connection.close(client::disconnect_packet(ReasonCode::SUCCESS)).await.is_ok() {
                        return;
                    }
                }
                Err(error) => self.lost(&error),
            }
            tokio::time::sleep(RECONNECT_PAUSE_MAX).await;
        }
    }

    async fn attempt(&self, connect: &Connect) -> Result<(Connection, ConnAck), ClientError> {
        Connection::open_within(self.address(), self.run.tls.as_ref(), connect, CONNECT_ATTEMPT_MAX).await
    }

    fn address(&self) -> &str {
        let brokers = &self.run.args.brokers;
        let at = self.broker.checked_rem(brokers.len()).unwrap_or(0);
        brokers.get(at).map_or("", String::as_str)
    }

    fn packet(&self, clean_start: bool, session_expiry_s: u32) -> Connect {
        let args = &self.run.args;
        let client_id = format!("quorate-verify-{:x}-{}", self.run.id, self.name);
        let client_id = client::text(&client_id).unwrap_or_default();
        // The client pings twice per interval and gives up half an interval after an unanswered ping, so a
        // broker is found silent after one interval at most. MQTT counts in whole seconds.
        let keep_alive_s = u16::try_from(args.silence.as_secs().max(1)).unwrap_or(u16::MAX);
        let mut connect = client::connect_packet(args.protocol_version, client_id, keep_alive_s);
        connect.clean_start = clean_start;
        if args.protocol_version == ProtocolVersion::V5 {
            connect.session_expiry_s = Some(session_expiry_s);
            connect.receive_max = NonZeroU16::new(args.window);
        }
        connect
    }
}

/// Topic of a publisher; the subscribers' filter is the same with `+`.
pub fn topic(run: u64, publisher: impl std::fmt::Display) -> String {
    format!("quorate/verify/{run:x}/{publisher}")
}

/// Topic of a client's wills; the filter of the one who sees them is the same with `+`.
pub fn will_topic(run: u64, client: impl std::fmt::Display) -> String {
    format!("quorate/verify/{run:x}/will/{client}")
}
