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

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::config::{ClientCertificate, ListenerLimits, TlsSettings, TlsVersion};
    use crate::limits::CLIENT_READ_BYTES;
    use crate::net::gate::Gate;
    use crate::net::listener_tls::ListenerTls;
    use crate::testing::{Authority, Stream, TestFolder, TlsClient, tls_over};

    /// What is known of a client that says `before`, shakes hands if it has TLS, and sends a byte of MQTT.
    async fn arrived(
        handshake: Handshake,
        before: Vec<u8>,
        tls: Option<TlsClient>,
    ) -> Result<Origin, ArrivalError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            // Whoever is refused may find the connection closed.
            let _sent = stream.write_all(&before);
            let mut stream: Box<dyn Stream> = match tls {
                Some(tls) => Box::new(tls_over(stream, &tls)),
                None => Box::new(stream),
            };
            let _sent = stream.write_all(b"\x10");
            stream
        });
        let (stream, address): (TcpStream, SocketAddr) = listener.accept().await.unwrap();
        let gate = Arc::new(Gate::new(ListenerLimits::default(), Arc::new(Semaphore::new(1))));
        let clock = Clock::start();
        let (_place, mut pass) = gate.enter(clock.now()).ok().unwrap();
        let mut origin = Origin { address: Some(address), certificate: None };
        let arriving = arrive(handshake, Socket::Tcp(stream), &mut origin, &mut pass, clock).await;
        // Kept open: closing with something unread would take back what was sent.
        let _client = client.join().unwrap();
        let mut transport = arriving?;
        let (mut input, mut output) = (Default::default(), Default::default());
        while transport.turn(CLIENT_READ_BYTES, &mut input, &mut output).await.unwrap().read == 0 {}
        assert_eq!(&input[..], b"\x10", "what follows the handshake is read, and only that");
        Ok(origin)
    }

    fn handshake() -> Handshake {
        Handshake { proxy: false, tls: None, websocket: false, packet_bytes_max: 1000 }
    }

    /// Settings of a listener that asks for certificates of this authority.
    fn mutual(authority: &Authority) -> Handshake {
        let folder = TestFolder::new();
        authority.write(folder.path(), "localhost");
        let tls = ListenerTls::load(&TlsSettings {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
            client_ca_file: Some(folder.path().join("ca.pem")),
            client_certificate: ClientCertificate::Optional,
            version_min: TlsVersion::Tls13,
        });
        Handshake { tls: Some(tls.unwrap().config()), ..handshake() }
    }

    /// A header of version 2 from 192.0.2.7 with the common name of a verified certificate.
    fn header(name: &str) -> Vec<u8> {
        let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
        let mut wire = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
        wire.extend(length(12 + 3 + 5 + 3 + name.len()));
        wire.extend(b"\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\x07\x5b\x20");
        wire.extend(length(5 + 3 + name.len()));
        wire.extend(b"\x07\0\0\0\0\x22");
        wire.extend(length(name.len()));
        wire.extend(name.as_bytes());
        wire
    }

    #[tokio::test]
    async fn certificate_of_the_client_is_its_identity() {
        let authority = Authority::new();
        let shown = Some(authority.client(Some(authority.issue("pump-7"))));
        let origin = arrived(mutual(&authority), Vec::new(), shown).await.unwrap();
        assert_eq!(origin.certificate.unwrap().to_string(), "CN=pump-7,DNS:pump-7");
        assert!(origin.address.unwrap().ip().is_loopback());
        let origin = arrived(mutual(&authority), Vec::new(), Some(authority.client(None))).await.unwrap();
        assert_eq!(origin.certificate, None);
    }

    #[tokio::test]
    async fn proxy_tells_address_and_identity_and_a_certificate_shown_here_counts_more() {
        let proxied = |handshake: Handshake| Handshake { proxy: true, ..handshake };
        let origin = arrived(proxied(handshake()), header("pump-8"), None).await.unwrap();
        assert_eq!(origin.address, Some("192.0.2.7:4660".parse().unwrap()));
        assert_eq!(origin.certificate.unwrap().to_string(), "CN=pump-8");
        let authority = Authority::new();
        let shown = Some(authority.client(Some(authority.issue("pump-7"))));
        let origin = arrived(proxied(mutual(&authority)), header("pump-8"), shown).await.unwrap();
        assert_eq!(origin.certificate.unwrap().to_string(), "CN=pump-7,DNS:pump-7");
        let refused = arrived(proxied(handshake()), header("a\nb"), None).await;
        assert!(matches!(refused, Err(ArrivalError::Identity(IdentityError::Name))));
    }

    #[tokio::test]
    async fn client_that_floods_the_handshake_is_cut_off() {
        // Records of TLS one after the other, each a piece of a ClientHello of 64 KiB.
        let mut flood = b"\x16\x03\x01\0\x05\x01\0\xff\xff\x03".to_vec();
        for _ in 0..40 {
            flood.extend(b"\x16\x03\x01\x04\0");
            flood.extend([3; 1024]);
        }
        let refused = arrived(mutual(&Authority::new()), flood, None).await.err().unwrap();
        assert!(matches!(refused, ArrivalError::Tls(_)));
        assert!(refused.to_string().contains("too much"), "{refused}");
    }
}
