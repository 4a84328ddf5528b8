//! From an accepted socket to a byte stream of MQTT: PROXY header, TLS handshake, WebSocket handshake, in this order.
//!
//! Owns: the order and its one deadline. Does not: count connections; the gate does, which is asked as soon as the
//! client's address is known.
//! Invariants: of a PROXY header exactly its bytes are read, so that TLS or MQTT begins behind it; what a client may say
//! before its CONNECT is bounded from the first byte on.
//! Limits: `handshake_timeout` of the listener over all three together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::gate::Pass;
use super::identity::{CertificateIdentity, IdentityError};
use super::proxy_header::{Parsed, ProxyError, ProxyHeader, parse};
use super::socket::{Carrier, Metered, Socket};
use super::transport::{Tls, Transport};
use super::websocket::{UpgradeError, WebSocket};
use crate::clock::Clock;
use crate::limits::TLS_OUTPUT_BYTES_MAX;
use crate::metrics::Refusal;

/// What is spoken before MQTT.
#[derive(Clone)]
pub struct Handshake {
    /// A PROXY header comes first.
    pub proxy: bool,
    /// TLS, with these settings.
    pub tls: Option<Arc<ServerConfig>>,
    /// WebSocket.
    pub websocket: bool,
    /// Largest packet of MQTT.
    pub packet_bytes_max: usize,
}

impl Handshake {
    /// Nothing is spoken before MQTT.
    pub fn is_empty(&self) -> bool {
        !self.proxy && self.tls.is_none() && !self.websocket
    }
}

/// Where a client comes from and who it is, as far as that is known before it speaks MQTT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its address; None on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The names in its certificate: the one that it showed here, or the one that a trusted proxy tells of.
    pub certificate: Option<CertificateIdentity>,
}

/// Why a connection did not get as far as MQTT.
#[derive(Debug, thiserror::Error)]
pub enum ArrivalError {
    /// The gate says no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The connection broke or ended.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// The PROXY header.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The TLS handshake.
    #[error("TLS handshake: {0}")]
    Tls(#[source] io::Error),
    /// The names in the client's certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The WebSocket handshake.
    #[error("WebSocket handshake: {0}")]
    WebSocket(#[from] UpgradeError),
}

/// Speaks what comes before MQTT. The caller bounds the time.
pub async fn arrive(
    handshake: Handshake,
    mut socket: Socket,
    origin: &mut Origin,
    pass: &mut Pass,
    clock: Clock,
) -> Result<Transport, ArrivalError> {
    if handshake.proxy {
        let header = read_header(&mut socket).await?;
        if let Some(client) = header.client {
            origin.address = Some(client);
        }
        if let Some(name) = header.common_name {
            origin.certificate = Some(CertificateIdentity::of_common_name(&name)?);
        }
        if let Some(address) = origin.address {
            pass.identify(address.ip(), clock.now()).map_err(ArrivalError::Refused)?;
        }
    }
    let Some(config) = handshake.tls else {
        if !handshake.websocket {
            return Ok(Transport::Plain(socket));
        }
        let carrier = Carrier::Plain(Metered::new(socket));
        return upgrade(carrier, handshake.packet_bytes_max).await;
    };
    let mut stream = TlsAcceptor::from(config)
        .accept_with(Metered::new(socket), |session| session.set_buffer_limit(Some(TLS_OUTPUT_BYTES_MAX)))
        .await
        .map_err(ArrivalError::Tls)?;
    if let Some(certificate) = shown_certificate(&stream)? {
        origin.certificate = Some(certificate);
    }
    if handshake.websocket {
        return upgrade(Carrier::Tls(Box::new(stream)), handshake.packet_bytes_max).await;
    }
    stream.get_mut().0.await_connect();
    Ok(Transport::Tls(Box::new(Tls::new(stream))))
}

async fn upgrade(mut carrier: Carrier, packet_bytes_max: usize) -> Result<Transport, ArrivalError> {
    // From here on the allowance is that of CONNECT: the request's head has a limit of its own.
    carrier.metered().await_connect();
    let mut socket = WebSocket::accept(carrier, packet_bytes_max).await?;
    socket.renew_allowance();
    Ok(Transport::WebSocket(Box::new(socket)))
}

async fn read_header(socket: &mut Socket) -> Result<ProxyHeader, ArrivalError> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Parsed::Whole(header) => return Ok(header),
            Parsed::More(more) => {
                let begun = bytes.len();
                bytes.resize(begun + more, 0);
                let missing = bytes.get_mut(begun..).unwrap_or_default();
                socket.read_exact(missing).await.map_err(ArrivalError::Io)?;
            }
        }
    }
}

fn shown_certificate(stream: &TlsStream<Metered>) -> Result<Option<CertificateIdentity>, IdentityError> {
    let (_, session) = stream.get_ref();
    session.peer_certificates().and_then(<[_]>::first).map(CertificateIdentity::of).transpose()
}
