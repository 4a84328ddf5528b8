//! Fixtures of this crate's tests: folders, certificates, a client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use quorate_codec::{
    Connect, Limits, Packet, PacketId, ProtocolVersion, Publish, PublishQoS, QoS, RetainHandling, Role,
    Subscribe, SubscriptionOptions, Text, TopicFilter, TopicName,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

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

/// A certificate authority.
pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
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

/// An MQTT 5 client that blocks, for tests.
pub struct TestClient {
    stream: TcpStream,
    input: BytesMut,
    pub session_present: bool,
}

impl TestClient {
    pub fn connect(address: SocketAddr, client_id: &str, expiry_s: Option<u32>) -> TestClient {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = TestClient { stream, input: BytesMut::new(), session_present: false };
        client.send(&Packet::Connect(Box::new(Connect {
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
        })));
        match client.receive() {
            Packet::ConnAck(ack) => {
                assert_eq!(ack.reason.value(), 0, "{ack:?}");
                client.session_present = ack.session_present;
            }
            other => panic!("{other:?}"),
        }
        client
    }

    pub fn send(&mut self, packet: &Packet) {
        let mut out = BytesMut::new();
        quorate_codec::encode(packet, ProtocolVersion::V5, &mut out).unwrap();
        self.send_raw(&out);
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
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

/// Asks the admin listener; gives status and body.
pub fn http_get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
