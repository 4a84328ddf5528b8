//! One persistent client of a verify run: which broker it uses, and what its session should look like.
//!
//! Owns: connecting again to the next broker with a growing pause, Session Present expectations, removal.
//! Does not: publish or subscribe.
//! Invariants: an attempt whose outcome is unknown leaves both answers right for the next one.
//! Limits: RECONNECT_PAUSE_MIN to RECONNECT_PAUSE_MAX; an attempt takes CONNECT_ATTEMPT_MAX at most.

use std::sync::Arc;
use std::time::Duration;

use quorate_codec::{ConnAck, Connect, ProtocolVersion, ReasonCode};
use std::num::NonZeroU16;
use tokio::sync::watch;

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
}

impl SessionClient {
    /// A client that has not connected yet. `at` spreads clients over the brokers.
    pub fn new(run: Arc<Run>, index: ClientIndex, phases: watch::Receiver<Phase>) -> SessionClient {
        let (name, broker) = match index {
            // Publishers and subscribers of one number start at different brokers.
            ClientIndex::Publisher(at) => (format!("p{at}"), at),
            ClientIndex::Subscriber(at) => (format!("s{at}"), at + 1),
            ClientIndex::Sharer(at) => (format!("g{at}"), at),
        };
        SessionClient {
            run,
            index,
            name,
            broker,
            expected: Expected::Fresh,
            pause: RECONNECT_PAUSE_MIN,
            phases,
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
            match self.attempt(&self.packet(false, SESSION_EXPIRY_S)).await {
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
        Connection::open_within(self.address(), connect, CONNECT_ATTEMPT_MAX).await
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
