//! Fixtures of this crate's tests: folders, certificates, a client.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use quorate_codec::{
    Connect, Limits, Packet, PacketId, ProtocolVersion, Publish, PublishQoS, QoS, RetainHandling, Role,
    Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};

/// Writes the program's log into the test's output.
pub fn log() {
    let _set_before = tracing_subscriber::fmt().with_env_filter("debug").with_test_writer().try_init();
}

/// A folder that goes with the value.
pub struct TestFolder(PathBuf);

impl TestFolder {
    pub fn new() -> Self {
        log();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("quorate-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TestFolder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

/// Settings of a TLS client.
pub type TlsClient = Arc<rustls::ClientConfig>;

/// TLS as a client on a stream, before the handshake.
pub fn tls_over<S: Stream>(
    stream: S,
    config: &TlsClient,
) -> rustls::StreamOwned<rustls::ClientConnection, S> {
    let name = "localhost".try_into().unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(config.clone(), name).unwrap(), stream)
}

/// A certificate authority.
pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate with its key, as a client shows it.
    pub fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        (vec![certificate.der().clone()], key)
    }

    /// TLS of a client that trusts this authority, and shows the certificate if it has one.
    pub fn client(&self, shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> TlsClient {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.as_ref().der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        Arc::new(config)
    }

    /// Writes `ca.pem`, `cert.pem` and `key.pem` for a node.
    pub fn write(&self, folder: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        std::fs::write(folder.join("ca.pem"), self.0.as_ref().pem()).unwrap();
        std::fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

/// What a test client speaks through.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// WebSocket messages as a stream of bytes.
pub struct WebSocketBytes {
    socket: tungstenite::WebSocket<Box<dyn Stream>>,
    rest: BytesMut,
}

impl WebSocketBytes {
    /// Shakes hands.
    pub fn connect(stream: Box<dyn Stream>) -> WebSocketBytes {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| error.to_string()).unwrap();
        WebSocketBytes { socket, rest: BytesMut::new() }
    }
}

impl Read for WebSocketBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.socket.read() {
                Ok(tungstenite::Message::Binary(bytes)) => self.rest.extend_from_slice(&bytes),
                Ok(tungstenite::Message::Close(_)) => return Ok(0),
                Ok(other) => panic!("{other:?}"),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

impl Write for WebSocketBytes {
    /// One byte in its own message and the rest in another: frames and packets have borders of their own.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (first, rest) = bytes.split_at(1.min(bytes.len()));
        for part in [first, rest] {
            let message = tungstenite::Message::Binary(part.to_vec().into());
            self.socket.send(message).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}

/// An MQTT 5 client that blocks, for tests.
pub struct TestClient {
    stream: Box<dyn Stream>,
    input: BytesMut,
    pub session_present: bool,
    /// Maximum Packet Size of the server.
    pub packet_bytes_max: Option<u32>,
}

impl TestClient {
    pub fn connect(address: SocketAddr, client_id: &str, expiry_s: Option<u32>) -> TestClient {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        TestClient::over(Box::new(stream), client_id, expiry_s)
    }

    /// A client that speaks through this stream.
    pub fn over(stream: Box<dyn Stream>, client_id: &str, expiry_s: Option<u32>) -> TestClient {
        let mut client =
            TestClient { stream, input: BytesMut::new(), session_present: false, packet_bytes_max: None };
        client.send(&connect_packet(client_id, expiry_s));
        match client.receive() {
            Packet::ConnAck(ack) => {
                assert_eq!(ack.reason.value(), 0, "{ack:?}");
                client.session_present = ack.session_present;
                client.packet_bytes_max = ack.properties.packet_bytes_max;
            }
            other => panic!("{other:?}"),
        }
        client
    }

    /// Whether the server has closed, after what it has sent before that.
    pub fn ends(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => (),
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    pub fn send(&mut self, packet: &Packet) {
        let mut out = BytesMut::new();
        quorate_codec::encode(packet, ProtocolVersion::V5, &mut out).unwrap();
        self.send_raw(&out);
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// The next packet, within 20 s.
    pub fn receive(&mut self) -> Packet {
        loop {
            let decoded = quorate_codec::decode(
                &mut self.input,
                ProtocolVersion::V5,
                Role::Server,
                &Limits::of_protocol(),
            );
            if let Some(packet) = decoded.unwrap() {
                return packet;
            }
            let mut buffer = [0; 4096];
            let read = self.stream.read(&mut buffer).unwrap();
            assert!(read > 0, "the server closed");
            self.input.extend_from_slice(&buffer[..read]);
        }
    }

    pub fn subscribe(&mut self, filter: &str) {
        let options = SubscriptionOptions {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            identifier: None,
            user_properties: Default::default(),
            filters: vec![(TopicFilter::new(Text::parse(filter).unwrap()).unwrap(), options)],
        }));
        match self.receive() {
            Packet::SubAck(ack) => assert!(ack.reasons.iter().all(|reason| reason.value() < 0x80), "{ack:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// Publishes with QoS 1 and waits for PUBACK.
    pub fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        self.send(&Packet::Publish(Publish {
            dup: false,
            qos: PublishQoS::AtLeastOnce(PacketId::new(7).unwrap()),
            retain,
            topic: Some(TopicName::new(Text::parse(topic).unwrap()).unwrap()),
            properties: None,
            payload: payload.as_bytes().to_vec().into(),
        }));
        match self.receive() {
            Packet::PubAck(ack) => assert!(ack.reason.value() < 0x80, "{ack:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// The next message's payload; acknowledged.
    pub fn message(&mut self) -> String {
        match self.receive() {
            Packet::Publish(publish) => {
                tracing::info!(?publish, "test client received");
                if let PublishQoS::AtLeastOnce(packet_id) = publish.qos {
                    self.send(&Packet::PubAck(quorate_codec::Ack {
                        packet_id,
                        reason: quorate_codec::ReasonCode::SUCCESS,
                        reason_string: None,
                        user_properties: Default::default(),
                    }));
                }
                String::from_utf8(publish.payload.to_vec()).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A CONNECT that keeps its session for this long.
pub fn connect_packet(client_id: &str, expiry_s: Option<u32>) -> Packet {
    Packet::Connect(Box::new(Connect {
        version: ProtocolVersion::V5,
        clean_start: false,
        keep_alive_s: 60,
        client_id: Text::parse(client_id).unwrap(),
        will: None,
        username: None,
        password: None,
        session_expiry_s: expiry_s,
        receive_max: None,
        packet_bytes_max: None,
        topic_alias_max: None,
        request_response_information: None,
        request_problem_information: None,
        authentication_method: None,
        authentication_data: None,
        user_properties: Default::default(),
    }))
}

/// Asks the admin listener; gives status and body.
pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
