//! One MQTT connection over TCP or TLS: bytes to packets and back, in batches.
//!
//! Owns: the socket, the read and the write buffer, the keep-alive timer.
//! Does not: know sessions, packet identifiers or topics; those are the caller's.
//! Invariants: every future here may be dropped and called again without losing a byte; nothing but a
//! CONNACK is accepted first [MQTT-3.2.0-1].
//! Limits: OUTGOING_BYTES_HIGH is advice to the caller; packets may be as large as the protocol allows.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use quorate_codec::{
    ConnAck, Connect, Disconnect, Limits, Packet, ProtocolVersion, PublishParts, ReasonCode, Role,
};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::keep_alive::{Due, KeepAlive};
use super::stream::Stream;
use super::tls::ClientTls;
use crate::limits::{CONNECT_WAIT_MAX, OUTGOING_BYTES_HIGH, READ_BYTES};

/// Size of the first read; doubles up to READ_BYTES while reads fill it, so that an idle connection stays small.
const FIRST_READ_BYTES: usize = 1024;

/// Far enough away to mean "no deadline".
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A reason string as it follows the reason code.
fn told(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" {text}") }
}

/// Why a connection could not be made or ended.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No TCP connection.
    #[error("connect to {address}")]
    Dial {
        /// The broker.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No TLS with the broker.
    #[error("TLS handshake with {address}")]
    Tls {
        /// The broker.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No answer in time.
    #[error("no {what} within {} ms", waited.as_millis())]
    Timeout {
        /// What was awaited.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// CONNACK with a failure.
    #[error("the broker refused the connection: {reason}{}", told(text))]
    Refused {
        /// Reason code.
        reason: ReasonCode,
        /// Reason string of the broker, if it gave one.
        text: String,
    },
    /// DISCONNECT from the broker.
    #[error("the broker disconnected: {reason}{}", told(text))]
    Disconnected {
        /// Reason code.
        reason: ReasonCode,
        /// Reason string of the broker, if it gave one.
        text: String,
    },
    /// The broker closed the connection.
    #[error("the broker closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection broke")]
    Io {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The broker sent something that MQTT forbids.
    #[error("the broker broke the protocol: {problem}")]
    Protocol {
        /// What.
        problem: String,
    },
    /// A packet that this version of MQTT cannot express.
    #[error("cannot send: {problem}")]
    Encode {
        /// Why.
        problem: String,
    },
}

impl ClientError {
    /// The broker could not be reached at all, as against: it answered and refused.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Dial { .. } | ClientError::Timeout { .. })
    }
}

/// What [`Connection::exchange`] achieved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// New bytes came; look at [`Connection::next_packet`].
    Received,
    /// Everything queued has been handed to the operating system.
    Sent,
    /// The caller's deadline has come.
    Deadline,
}

/// A connection after CONNACK.
pub struct Connection {
    stream: Stream,
    version: ProtocolVersion,
    limits: Limits,
    incoming: BytesMut,
    outgoing: BytesMut,
    read_bytes: usize,
    last_received: Instant,
    keep_alive: KeepAlive,
    timer: Pin<Box<Sleep>>,
}

impl Connection {
    /// Connects to `address` (`HOST:PORT`), with TLS if there is one, and waits for a CONNACK with success.
    pub async fn open(
        address: &str,
        tls: Option<&ClientTls>,
        connect: &Connect,
    ) -> Result<(Connection, ConnAck), ClientError> {
        Connection::open_within(address, tls, connect, CONNECT_WAIT_MAX).await
    }

    /// Like [`Connection::open`], waiting at most `wait_max` for TCP, TLS and CONNACK, each.
    pub async fn open_within(
        address: &str,
        tls: Option<&ClientTls>,
        connect: &Connect,
        wait_max: Duration,
    ) -> Result<(Connection, ConnAck), ClientError> {
        let dial = tokio::time::timeout(wait_max, TcpStream::connect(address)).await;
        let stream = dial
            .map_err(|_| ClientError::Timeout { what: "TCP connection", waited: wait_max })?
            .map_err(|source| ClientError::Dial { address: address.to_owned(), source })?;
        stream.set_nodelay(true).map_err(|source| ClientError::Io { source })?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(tls) => {
                let shaken = tokio::time::timeout(wait_max, Box::pin(tls.connect(stream, address))).await;
                let shaken =
                    shaken.map_err(|_| ClientError::Timeout { what: "TLS handshake", waited: wait_max })?;
                Stream::tls(
                    shaken.map_err(|source| ClientError::Tls { address: address.to_owned(), source })?,
                )
            }
        };
        let now = Instant::now();
        let mut connection = Connection {
            stream,
            version: connect.version,
            limits: Limits::of_protocol(),
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            read_bytes: FIRST_READ_BYTES,
            last_received: now,
            keep_alive: KeepAlive::new(0, now),
            timer: Box::pin(tokio::time::sleep_until(now + NEVER)),
        };
        connection.queue(&Packet::Connect(Box::new(connect.clone())))?;
        let connack = connection.handshake(now + wait_max, wait_max).await?;
        let keep_alive_s = connack.properties.server_keep_alive_s.unwrap_or(connect.keep_alive_s);
        connection.keep_alive = KeepAlive::new(keep_alive_s, Instant::now());
        Ok((connection, connack))
    }

    async fn handshake(&mut self, until: Instant, waited: Duration) -> Result<ConnAck, ClientError> {
        let connack = loop {
            match self.next_packet()? {
                Some(Packet::ConnAck(connack)) => break connack,
                Some(other) => {
                    let problem = format!("{} before CONNACK", name(&other));
                    return Err(ClientError::Protocol { problem });
                }
                None => {}
            }
            if self.exchange(Some(until)).await? == Progress::Deadline {
                return Err(ClientError::Timeout { what: "CONNACK", waited });
            }
        };
        if connack.reason.is_failure() {
            let text = connack.properties.reason_string.as_ref().map_or("", |text| text.as_str());
            return Err(ClientError::Refused { reason: connack.reason, text: text.to_owned() });
        }
        Ok(*connack)
    }

    /// The next packet that has come in whole. A DISCONNECT is an error.
    pub fn next_packet(&mut self) -> Result<Option<Packet>, ClientError> {
        if self.incoming.is_empty() {
            return Ok(None);
        }
        let packet = quorate_codec::decode(&mut self.incoming, self.version, Role::Server, &self.limits)
            .map_err(|error| ClientError::Protocol { problem: error.to_string() })?;
        match packet {
            Some(Packet::Disconnect(Disconnect { reason, reason_string, .. })) => {
                let text = reason_string.as_ref().map_or("", |text| text.as_str()).to_owned();
                Err(ClientError::Disconnected { reason, text })
            }
            packet => Ok(packet),
        }
    }

    /// Puts a packet into the write buffer. It leaves at the next [`Connection::exchange`].
    pub fn queue(&mut self, packet: &Packet) -> Result<(), ClientError> {
        quorate_codec::encode(packet, self.version, &mut self.outgoing)
            .map_err(|error| ClientError::Encode { problem: error.to_string() })
    }

    /// Puts a PUBLISH into the write buffer, straight from where its parts are kept.
    pub fn queue_publish(&mut self, publish: &PublishParts<'_>) -> Result<(), ClientError> {
        quorate_codec::encode_publish(publish, self.version, &mut self.outgoing)
            .map_err(|error| ClientError::Encode { problem: error.to_string() })
    }

    /// Producers should pause: the write buffer is long.
    pub fn is_congested(&self) -> bool {
        self.outgoing.len() >= OUTGOING_BYTES_HIGH
    }

    /// Sends what is queued, receives what is there, pings when due. Returns as soon as there is something to
    /// do for the caller: bytes came, the write buffer became empty, or `until` has come.
    pub async fn exchange(&mut self, until: Option<Instant>) -> Result<Progress, ClientError> {
        loop {
            let deadline = match (until, self.keep_alive.deadline()) {
                (Some(until), Some(ping)) => Some(until.min(ping)),
                (until, ping) => until.or(ping),
            };
            if let Some(deadline) = deadline.filter(|deadline| *deadline != self.timer.deadline()) {
                self.timer.as_mut().reset(deadline);
            }
            let progress = poll_fn(|context| self.poll_exchange(context, deadline.is_some())).await?;
            if progress != Progress::Deadline {
                return Ok(progress);
            }
            let now = Instant::now();
            match self.keep_alive.due(now, self.last_received) {
                Due::Ping => self.queue(&Packet::PingReq)?,
                Due::Dead => {
                    let waited = now.saturating_duration_since(self.last_received);
                    return Err(ClientError::Timeout { what: "answer to PINGREQ", waited });
                }
                Due::Nothing => {}
            }
            if until.is_some_and(|until| now >= until) {
                return Ok(Progress::Deadline);
            }
        }
    }

    fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        timed: bool,
    ) -> Poll<Result<Progress, ClientError>> {
        let sent = match self.poll_write(context) {
            Ok(sent) => sent,
            Err(source) => return Poll::Ready(Err(ClientError::Io { source })),
        };
        match self.poll_read(context) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(ClientError::Closed)),
            Poll::Ready(Ok(_)) => return Poll::Ready(Ok(Progress::Received)),
            Poll::Ready(Err(source)) => return Poll::Ready(Err(ClientError::Io { source })),
            Poll::Pending if sent => return Poll::Ready(Ok(Progress::Sent)),
            Poll::Pending => {}
        }
        if timed && self.timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(Progress::Deadline));
        }
        Poll::Pending
    }

    /// Writes what it can; true when that emptied the buffer.
    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.outgoing.is_empty() && self.stream.is_flushed() {
            return Ok(false);
        }
        self.stream.poll_write(context, &mut self.outgoing)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.incoming.capacity() - self.incoming.len() < self.read_bytes / 2 {
            self.incoming.reserve(self.read_bytes);
        }
        let room = self.incoming.capacity() - self.incoming.len();
        let read = ready!(self.stream.poll_read(context, &mut self.incoming))?;
        if read == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES);
        }
        self.last_received = Instant::now();
        Poll::Ready(Ok(read))
    }

    /// Whether the broker has closed the connection, without waiting.
    pub fn is_broken(&mut self) -> bool {
        self.stream.is_broken()
    }

    /// Sends everything queued; whatever comes in meanwhile stays in the read buffer.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        poll_fn(|context| match self.poll_write(context) {
            Ok(_) if self.outgoing.is_empty() && self.stream.is_flushed() => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(source) => Poll::Ready(Err(ClientError::Io { source })),
        })
        .await
    }

    /// Sends DISCONNECT and closes the connection, waiting shortly for the broker to have read it.
    pub async fn close(mut self, disconnect: Disconnect) -> Result<(), ClientError> {
        const LINGER: Duration = Duration::from_secs(1);
        self.queue(&Packet::Disconnect(disconnect))?;
        self.flush().await?;
        let end = Instant::now() + LINGER;
        // The broker closes first. Bytes still unread here would otherwise turn the close into a reset,
        // which may throw away the DISCONNECT.
        while !matches!(self.exchange(Some(end)).await, Err(_) | Ok(Progress::Deadline)) {
            self.incoming.clear();
        }
        Ok(())
    }
}

/// Name of a packet in the specification.
pub fn name(packet: &Packet) -> &'static str {
    match packet {
        Packet::Connect(_) => "CONNECT",
        Packet::ConnAck(_) => "CONNACK",
        Packet::Publish(_) => "PUBLISH",
        Packet::PubAck(_) => "PUBACK",
        Packet::PubRec(_) => "PUBREC",
        Packet::PubRel(_) => "PUBREL",
        Packet::PubComp(_) => "PUBCOMP",
        Packet::Subscribe(_) => "SUBSCRIBE",
        Packet::SubAck(_) => "SUBACK",
        Packet::Unsubscribe(_) => "UNSUBSCRIBE",
        Packet::UnsubAck(_) => "UNSUBACK",
        Packet::PingReq => "PINGREQ",
        Packet::PingResp => "PINGRESP",
        Packet::Disconnect(_) => "DISCONNECT",
        Packet::Auth(_) => "AUTH",
    }
}

#[cfg(test)]
mod tests;
