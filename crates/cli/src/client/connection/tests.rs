//! The connection against a broker that sends exactly what a test says.

use bytes::Bytes;
use quorate_codec::{ConnAckProperties, PublishQoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::client::{connect_packet, disconnect_packet, publish_packet, text, topic_name};

/// What the broker sends, in chunks, after it has read something.
async fn broker(chunks: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = vec![0; 4096];
        assert_ne!(stream.read(&mut buffer).await.unwrap(), 0);
        stream.set_nodelay(true).unwrap();
        for chunk in chunks {
            stream.write_all(&chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        // Until the client closes.
        while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
    });
    address
}

fn bytes_of(packets: &[Packet]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    for packet in packets {
        quorate_codec::encode(packet, ProtocolVersion::V5, &mut bytes).unwrap();
    }
    bytes.to_vec()
}

fn connack(reason: ReasonCode) -> Packet {
    let properties = ConnAckProperties::default();
    Packet::ConnAck(Box::new(ConnAck { session_present: false, reason, properties }))
}

fn message(number: u8) -> Packet {
    let payload = Bytes::from(vec![number; 10]);
    Packet::Publish(publish_packet(topic_name("a").unwrap(), payload, PublishQoS::AtMostOnce))
}

async fn open(chunks: Vec<Vec<u8>>) -> Result<Connection, ClientError> {
    let connect = connect_packet(ProtocolVersion::V5, text("test").unwrap(), 0);
    Connection::open(&broker(chunks).await, None, &connect).await.map(|(connection, _)| connection)
}

/// The packets of the connection until `count` have come.
async fn packets(connection: &mut Connection, count: usize) -> Vec<Packet> {
    let mut packets = Vec::new();
    while packets.len() < count {
        match connection.next_packet().unwrap() {
            Some(packet) => packets.push(packet),
            None => {
                connection.exchange(None).await.unwrap();
            }
        }
    }
    packets
}

#[tokio::test]
async fn packets_cut_at_every_byte_arrive_whole() {
    let sent = [connack(ReasonCode::SUCCESS), message(1), message(2)];
    let bytes = bytes_of(&sent);
    let mut connection = open(bytes.iter().map(|byte| vec![*byte]).collect()).await.unwrap();
    assert_eq!(packets(&mut connection, 2).await, sent[1..]);
}

#[tokio::test]
async fn an_exchange_that_is_dropped_loses_nothing() {
    let sent: Vec<Packet> =
        std::iter::once(connack(ReasonCode::SUCCESS)).chain((0..50).map(message)).collect();
    let chunks = sent.iter().map(|packet| bytes_of(std::slice::from_ref(packet))).collect();
    let mut connection = open(chunks).await.unwrap();
    let mut received = Vec::new();
    while received.len() < 50 {
        if let Some(packet) = connection.next_packet().unwrap() {
            received.push(packet);
            continue;
        }
        tokio::select! {
            progress = connection.exchange(None) => { progress.unwrap(); }
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(received, sent[1..]);
}

#[tokio::test]
async fn anything_before_connack_is_a_protocol_error() {
    let error = open(vec![bytes_of(&[message(1)])]).await.err().unwrap();
    assert!(
        matches!(&error, ClientError::Protocol { problem } if problem == "PUBLISH before CONNACK"),
        "{error}"
    );
}

#[tokio::test]
async fn refusal_and_disconnect_carry_the_reason() {
    let error = open(vec![bytes_of(&[connack(ReasonCode::SERVER_UNAVAILABLE)])]).await.err().unwrap();
    assert!(
        matches!(&error, ClientError::Refused { reason, .. } if *reason == ReasonCode::SERVER_UNAVAILABLE)
    );
    let farewell = Packet::Disconnect(disconnect_packet(ReasonCode::SESSION_TAKEN_OVER));
    let mut connection = open(vec![bytes_of(&[connack(ReasonCode::SUCCESS), farewell])]).await.unwrap();
    while connection.next_packet().is_ok() {
        connection.exchange(None).await.unwrap();
    }
}

#[tokio::test]
async fn malformed_bytes_are_a_protocol_error() {
    let error = open(vec![vec![0xff; 8]]).await.err().unwrap();
    assert!(matches!(error, ClientError::Protocol { .. }));
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let connect = connect_packet(ProtocolVersion::V5, text("test").unwrap(), 0);
    assert!(Connection::open(&address, None, &connect).await.err().unwrap().is_unreachable());
}

#[tokio::test]
async fn a_silent_broker_is_given_up_at_the_deadline() {
    let connect = connect_packet(ProtocolVersion::V5, text("test").unwrap(), 0);
    let error = Connection::open_within(&broker(Vec::new()).await, None, &connect, Duration::from_millis(20))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ClientError::Timeout { what: "CONNACK", .. }), "{error}");
}

/// A broker with TLS and this certificate that answers CONNECT and sends a message; the files of its authority are in a
/// folder.
async fn secure_broker(dir: &std::path::Path) -> String {
    use crate::cert::authority::{Authority, Subject, Validity};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let (authority, issued) = Authority::generate("Test CA", Validity::Days(1)).unwrap();
    issued.write(dir, "ca").unwrap();
    let subject = Subject::Node { name: "n1", addresses: &["127.0.0.1".to_owned()] };
    let (certificate, key) = authority.issue(&subject, Validity::Days(1)).unwrap().write(dir, "n1").unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = vec![0; 4096];
            assert_ne!(stream.read(&mut buffer).await.unwrap(), 0);
            let answer = bytes_of(&[connack(ReasonCode::SUCCESS), message(1)]);
            stream.write_all(&answer).await.unwrap();
            // Everything comes back, so that the client has much to write and to read.
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
        }
    });
    address
}

/// TLS that trusts the authority in a folder.
fn trusting(dir: &std::path::Path) -> ClientTls {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: crate::client::TlsFlags,
    }
    let line = ["test".into(), "--cafile".into(), dir.join("ca.pem").into_os_string()];
    <Line as clap::Parser>::parse_from(line).flags.load().unwrap().unwrap()
}

#[tokio::test]
async fn tls_carries_packets_both_ways_however_many() {
    let dir = tempfile::tempdir().unwrap();
    let address = secure_broker(dir.path()).await;
    let connect = connect_packet(ProtocolVersion::V5, text("test").unwrap(), 0);
    let (mut connection, _) =
        Connection::open(&address, Some(&trusting(dir.path())), &connect).await.unwrap();
    assert_eq!(packets(&mut connection, 1).await, [message(1)]);
    for _ in 0..100_000 {
        connection.queue(&message(7)).unwrap();
    }
    assert!(connection.is_congested());
    assert_eq!(packets(&mut connection, 100_000).await.len(), 100_000);
    assert!(!connection.is_broken());
    connection.queue(&message(8)).unwrap();
    connection.flush().await.unwrap();
    assert_eq!(packets(&mut connection, 1).await, [message(8)]);
}

#[tokio::test]
async fn brokers_that_cannot_prove_their_name_are_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let address = secure_broker(dir.path()).await;
    let _another = secure_broker(other.path()).await;
    let connect = connect_packet(ProtocolVersion::V5, text("test").unwrap(), 0);
    let by_name = address.replace("127.0.0.1", "localhost");
    for (address, trusted, part) in
        [(&address, &other, "invalid peer certificate"), (&by_name, &dir, "not valid for name")]
    {
        let opened = Connection::open(address, Some(&trusting(trusted.path())), &connect).await;
        let error = opened.err().unwrap();
        assert!(!error.is_unreachable(), "it was reached");
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.starts_with("TLS handshake with ") && error.contains(part), "{error}");
    }
}
