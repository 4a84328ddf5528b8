//! Every kind of listener, through a whole daemon: what it serves, what it refuses, and that one client cannot harm another.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::*;
use crate::config::{
    ClientCertificate, ListenerLimits, PrincipalSource, ProxySettings, TlsSettings, TlsVersion,
    network::Network,
};
use crate::testing::{Stream, TlsClient, WebSocketBytes, tls_over};

/// Bytes before MQTT as a proxy on loopback sends them for a client elsewhere.
const PROXY_V1: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 1883\r\n";
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x12\x34\x07\x5b";

fn tls_settings(folder: &Path) -> TlsSettings {
    TlsSettings {
        cert_file: folder.join("cert.pem"),
        key_file: folder.join("key.pem"),
        client_ca_file: None,
        client_certificate: ClientCertificate::Off,
        version_min: TlsVersion::Tls13,
    }
}

fn listener(kind: ListenerKind, folder: &Path) -> ListenerSettings {
    let mut settings = ListenerSettings::plain(kind, loopback(0));
    settings.tls = kind.is_secure().then(|| tls_settings(folder));
    settings
}

fn trusting(mut settings: ListenerSettings, network: &str) -> ListenerSettings {
    settings.proxy = Some(ProxySettings { trusted: vec![Network::parse(network).unwrap()] });
    settings
}

/// A node with these listeners.
fn start(folder: &TestFolder, listeners: Vec<ListenerSettings>) -> Running {
    let mut config = config(folder, "n1");
    config.listeners = listeners;
    let node = Running::start(&config);
    node.wait_until_ready();
    node
}

/// Connects to a listener by its place; says `before` first.
fn dial(node: &Running, place: usize, before: &[u8]) -> Box<dyn Stream> {
    let patience = Some(Duration::from_secs(20));
    let mut stream: Box<dyn Stream> = match &node.addresses().clients[place].1 {
        Bind::Address(address) => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(patience).unwrap();
            Box::new(stream)
        }
        Bind::Path(path) => {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(patience).unwrap();
            Box::new(stream)
        }
    };
    // A listener that refuses may have closed already.
    let _sent = stream.write_all(before);
    stream
}

/// Goes as far as MQTT, as the kind of listener asks for.
fn open(node: &Running, place: usize, before: &[u8], tls: &TlsClient) -> Box<dyn Stream> {
    let kind = node.addresses().clients[place].0;
    let mut stream = dial(node, place, before);
    if kind.is_secure() {
        stream = Box::new(tls_over(stream, tls));
    }
    if kind.is_websocket() {
        stream = Box::new(WebSocketBytes::connect(stream));
    }
    stream
}

/// Whether the server ends a connection without a word of MQTT.
fn is_closed(mut stream: Box<dyn Stream>) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// Whether a client gets an answer to its CONNECT.
fn connects(mut stream: Box<dyn Stream>) -> bool {
    let connect = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c";
    if stream.write_all(connect).and_then(|()| stream.flush()).is_err() {
        return false;
    }
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).is_ok() && answer == [0x20, 2, 0, 0]
}

fn metric(node: &Running, name: &str) -> u64 {
    let (_, body) = http_get(node.addresses().admin, "/metrics");
    let line =
        body.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {body}"));
    line.trim().parse().unwrap()
}

/// A connection is closed before it is counted.
fn wait_for_metric(node: &Running, name: &str, value: u64) {
    wait_for(&format!("{name} to be {value}"), || metric(node, name) == value);
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_kind_serves_its_clients_whatever_others_send_there() {
    let folder = TestFolder::new();
    let authority = Authority::new();
    authority.write(folder.path(), "localhost");
    let mut on_unix = listener(ListenerKind::Tcp, folder.path());
    on_unix.bind = Bind::Path(folder.path().join("mqtt.sock"));
    let kinds = [ListenerKind::Tcp, ListenerKind::Tls, ListenerKind::WebSocket, ListenerKind::WebSocketTls];
    let mut listeners: Vec<_> = kinds.map(|kind| listener(kind, folder.path())).into();
    listeners.extend(kinds.map(|kind| trusting(listener(kind, folder.path()), "127.0.0.0/8")));
    listeners.push(on_unix);
    let count = listeners.len();
    let node = start(&folder, listeners);
    let tls = authority.client(None);
    for place in 0..count {
        let before: &[u8] = match (4..8).contains(&place) {
            true if place % 2 == 0 => PROXY_V1,
            true => PROXY_V2,
            false => b"",
        };
        let mut subscriber =
            TestClient::over(open(&node, place, before, &tls), &format!("sub{place}"), Some(3600));
        subscriber.subscribe(&format!("t/{place}"));
        for malformed in [
            &b"\x82\xff\xff\xff\x7f"[..],            // no CONNECT, with a length of 256 MiB
            b"\x10\xff\xff\xff\xff\x7f",             // a length of five bytes
            b"\x10\x0b\0\x04MQTX\x05\0\0\0\0",       // another protocol
            b"\x10\x0d\0\x04MQTT\x05\x01\0\0\0\0\0", // a reserved flag
            b"\x16\x03\x01\x02\0\x01",               // TLS within
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut stream = open(&node, place, before, &tls);
            stream.write_all(malformed).unwrap();
            stream.flush().unwrap();
            let mut client_ended = Vec::new();
            let _reset_or_end = stream.read_to_end(&mut client_ended);
            assert!(client_ended.len() < 100, "{place}");
        }
        let mut other = TestClient::over(open(&node, place, before, &tls), &format!("bad{place}"), None);
        other.send_raw(b"\x30\x07\0\x05a/#/b");
        assert!(other.ends(), "{place}: a wildcard in a topic name");
        for garbage in [&[0xff; 300][..], b"\x16\x03\x01\0\x05hello", b"PROXY TCP9 \r\n"] {
            drop(dial(&node, place, garbage));
        }
        let mut publisher = TestClient::over(open(&node, place, before, &tls), "pub", None);
        let payload = "x".repeat(100_000);
        publisher.publish(&format!("t/{place}"), &payload, false);
        assert_eq!(subscriber.message(), payload);
    }
    let socket = folder.path().join("mqtt.sock");
    assert!(socket.exists());
    node.stop();
    assert!(!socket.exists());
}

#[test]
fn new_certificates_count_for_new_connections_and_broken_ones_never() {
    let folder = TestFolder::new();
    let [first, second, third] = [(); 3].map(|()| Authority::new());
    first.write(folder.path(), "localhost");
    let node = start(&folder, vec![listener(ListenerKind::Tls, folder.path())]);
    let knows = |authority: &Authority| connects(open(&node, 0, b"", &authority.client(None)));
    let mut early = TestClient::over(open(&node, 0, b"", &first.client(None)), "early", None);
    assert!(knows(&first) && !knows(&second));
    second.write(folder.path(), "localhost");
    wait_for("new certificates without a signal", || knows(&second));
    assert!(!knows(&first));
    early.subscribe("still/there");

    std::fs::write(folder.path().join("key.pem"), "broken").unwrap();
    let outcome = node.daemon.as_ref().unwrap().reload();
    assert!(outcome.errors[0].contains("key.pem"), "{outcome:?}");
    let kept = "quorate_certificate_reloads_total{result=\"kept\"}";
    wait_for("the broken key to be noticed", || metric(&node, kept) > 0);
    assert!(knows(&second));

    third.write(folder.path(), "localhost");
    assert_eq!(node.daemon.as_ref().unwrap().reload().applied, ["listeners.tls.certificate"]);
    wait_for("the corrected files", || knows(&third));
    node.stop();
}

#[test]
fn first_start_with_broken_certificates_is_refused() {
    let folder = TestFolder::new();
    let mut config = config(&folder, "n1");
    config.listeners = vec![listener(ListenerKind::Tls, folder.path())];
    let error = Daemon::start(&config, runtime().handle(), watch::channel(false).1).err().unwrap();
    assert_eq!(error.exit_code(), ExitCode::Unavailable);
    let message = error.to_string();
    assert!(message.contains("127.0.0.1:0") && message.contains("cert.pem"), "{message}");
}

#[test]
fn certificates_of_clients_are_asked_for_as_configured() {
    let folder = TestFolder::new();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write(folder.path(), "localhost");
    let asking = |mode| {
        let mut settings = listener(ListenerKind::Tls, folder.path());
        let tls = settings.tls.as_mut().unwrap();
        tls.client_ca_file = Some(folder.path().join("ca.pem"));
        tls.client_certificate = mode;
        settings
    };
    let node = start(&folder, vec![asking(ClientCertificate::Required), asking(ClientCertificate::Optional)]);
    for (place, shown, accepted) in [
        (0, None, false),
        (0, Some(stranger.issue("pump-7")), false),
        (0, Some(authority.issue("pump-7")), true),
        (1, None, true),
        (1, Some(stranger.issue("pump-7")), false),
        (1, Some(authority.issue("pump-7")), true),
        (1, Some(authority.issue(&"x".repeat(64))), true),
    ] {
        let stream = open(&node, place, b"", &authority.client(shown));
        assert_eq!(connects(stream), accepted, "listener {place}");
    }
    wait_for_metric(&node, "quorate_handshakes_failed_total{reason=\"tls\"}", 3);
    node.stop();
}

#[test]
fn tls_1_2_is_spoken_only_where_it_is_allowed() {
    let folder = TestFolder::new();
    let authority = Authority::new();
    authority.write(folder.path(), "localhost");
    let mut old = listener(ListenerKind::Tls, folder.path());
    old.tls.as_mut().unwrap().version_min = TlsVersion::Tls12;
    let node = start(&folder, vec![listener(ListenerKind::Tls, folder.path()), old]);
    let newest = authority.client(None);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.0.as_ref().der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let oldest: TlsClient = Arc::new(
        rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth(),
    );
    for (place, tls, accepted) in
        [(0, &newest, true), (0, &oldest, false), (1, &newest, true), (1, &oldest, true)]
    {
        assert_eq!(connects(open(&node, place, b"", tls)), accepted, "listener {place}");
    }
    node.stop();
}

#[test]
fn proxy_header_is_asked_of_trusted_addresses_and_taken_from_no_others() {
    let folder = TestFolder::new();
    let tcp = || listener(ListenerKind::Tcp, folder.path());
    let node = start(&folder, vec![trusting(tcp(), "127.0.0.0/8"), trusting(tcp(), "192.0.2.0/24"), tcp()]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for (place, before, accepted) in [
        (0, PROXY_V1, true),
        (0, PROXY_V2, true),
        (0, &local[..], true),
        (0, b"PROXY UNKNOWN\r\n", true),
        (0, b"", false),
        (0, b"PROXY TCP4 192.0.2.7\r\n", false),
        (1, PROXY_V1, false),
        (1, b"", false),
        (2, PROXY_V1, false),
    ] {
        let stream = dial(&node, place, before);
        assert_eq!(connects(stream), accepted, "listener {place} after {}", before.escape_ascii());
    }
    assert_eq!(metric(&node, "quorate_connections_refused_total{reason=\"proxy_untrusted\"}"), 2);
    wait_for_metric(&node, "quorate_handshakes_failed_total{reason=\"proxy\"}", 2);
    node.stop();
}

/// As [`PROXY_V2`], for a client with a certificate of this common name, which the proxy has checked with this result.
fn proxy_v2_of(name: &str, verify: u8) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
    let mut wire = PROXY_V2[..14].to_vec();
    wire.extend(length(12 + 3 + 5 + 3 + name.len()));
    wire.extend(&PROXY_V2[16..]);
    wire.push(0x20);
    wire.extend(length(5 + 3 + name.len()));
    wire.extend([7, 0, 0, 0, verify, 0x22]);
    wire.extend(length(name.len()));
    wire.extend(name.as_bytes());
    wire
}

#[test]
fn certificate_that_a_trusted_proxy_tells_of_is_the_principal_of_the_session() {
    let folder = TestFolder::new();
    let by_certificate = |network: &str| {
        let mut settings = trusting(listener(ListenerKind::Tcp, folder.path()), network);
        settings.principal = PrincipalSource::Certificate;
        settings
    };
    let node = start(&folder, vec![by_certificate("127.0.0.0/8"), by_certificate("192.0.2.0/24")]);
    let answer = |place: usize, before: &[u8]| {
        let mut stream = dial(&node, place, before);
        // With the user name "ann" and a session that outlives the connection.
        let _sent = stream.write_all(b"\x10\x18\0\x04MQTT\x05\x82\0\0\x05\x11\0\0\x0e\x10\0\x01c\0\x03ann");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).ok().map(|()| answer[3])
    };
    assert_eq!(answer(0, &proxy_v2_of("pump-7", 0)), Some(0));
    let session: quorate_api::SessionExplanation = get(&node, "/v1/sessions/c");
    assert_eq!(session.session.unwrap().principal, "pump-7");
    for (place, before, refused) in [
        (0, proxy_v2_of("pump-8", 0), Some(0x85)),
        (0, proxy_v2_of("pump-7", 1), Some(0x87)),
        (0, PROXY_V2.to_vec(), Some(0x87)),
        (0, PROXY_V1.to_vec(), Some(0x87)),
        (1, proxy_v2_of("pump-7", 0), None),
    ] {
        assert_eq!(answer(place, &before), refused, "listener {place} after {}", before.escape_ascii());
    }
    node.stop();
}

#[test]
fn limits_of_an_address_hold_for_the_one_in_the_proxy_header() {
    let folder = TestFolder::new();
    let mut settings = trusting(listener(ListenerKind::Tcp, folder.path()), "127.0.0.0/8");
    settings.limits.handshakes_per_address_max = Some(1);
    let node = start(&folder, vec![settings]);
    let from = |last: u8| format!("PROXY TCP4 192.0.2.{last} 10.0.0.1 4660 1883\r\n").into_bytes();
    let silent = dial(&node, 0, &from(7));
    wait_for("a second one to be refused", || is_closed(dial(&node, 0, &from(7))));
    assert!(metric(&node, "quorate_connections_refused_total{reason=\"handshakes_per_address_max\"}") > 0);
    assert!(connects(dial(&node, 0, &from(8))), "others are not concerned");
    drop(silent);
    wait_for("the place to be given back", || connects(dial(&node, 0, &from(7))));
    node.stop();
}

#[test]
fn clients_that_stall_are_closed_at_their_deadline() {
    let folder = TestFolder::new();
    Authority::new().write(folder.path(), "localhost");
    let kinds = [ListenerKind::Tls, ListenerKind::WebSocket, ListenerKind::WebSocketTls, ListenerKind::Tcp];
    let mut listeners: Vec<_> = kinds.map(|kind| listener(kind, folder.path())).into();
    let last = listeners.pop().unwrap();
    listeners.push(trusting(last, "127.0.0.1"));
    for settings in &mut listeners {
        settings.limits.handshake_timeout = Duration::from_millis(200);
    }
    let node = start(&folder, listeners);
    let begun: [&[u8]; 4] =
        [b"\x16\x03\x01\x02\0\x01\0\x01\xfc", b"GET /mqtt HTTP/1.1\r\nHost:", b"\x16", b"PROXY TC"];
    for (place, half) in begun.into_iter().enumerate() {
        assert!(is_closed(dial(&node, place, half)), "listener {place}, half way");
        assert!(is_closed(dial(&node, place, b"")), "listener {place}, silent");
    }
    wait_for_metric(&node, "quorate_handshakes_failed_total{reason=\"timeout\"}", 8);
    node.stop();
}

#[test]
fn connect_is_awaited_no_longer_than_configured_from_accepting_on() {
    let folder = TestFolder::new();
    let authority = Authority::new();
    authority.write(folder.path(), "localhost");
    let kinds = [ListenerKind::Tcp, ListenerKind::Tls, ListenerKind::WebSocket, ListenerKind::WebSocketTls];
    let mut config = config(&folder, "n1");
    config.listeners = kinds.map(|kind| listener(kind, folder.path())).into();
    config.limits.connect_timeout = Duration::from_millis(500);
    let node = Running::start(&config);
    node.wait_until_ready();
    let tls = authority.client(None);
    for place in 0..kinds.len() {
        let mut stream = open(&node, place, b"", &tls);
        // Half of a CONNECT that says to be 16,000 bytes long; more than the allowance where there is one.
        let half = [&b"\x10\x80\x7d\0\x04MQTT\x05\0\0\0"[..], &[0; 1000]].concat();
        let _sent = stream.write_all(&half).and_then(|()| stream.flush());
        assert!(is_closed(stream), "listener {place}");
    }
    assert_eq!(
        metric(&node, "quorate_handshakes_failed_total{reason=\"timeout\"}"),
        0,
        "they got as far as MQTT"
    );
    node.stop();
}

#[test]
fn listener_refuses_what_is_above_its_own_limits() {
    let folder = TestFolder::new();
    let with = |limits: ListenerLimits| {
        let mut settings = listener(ListenerKind::Tcp, folder.path());
        settings.limits = limits;
        settings
    };
    let node = start(
        &folder,
        vec![
            with(ListenerLimits { handshakes_per_address_max: Some(2), ..ListenerLimits::default() }),
            with(ListenerLimits { connections_max: 2, ..ListenerLimits::default() }),
            with(ListenerLimits { packet_bytes_max: Some(2048), ..ListenerLimits::default() }),
            with(ListenerLimits::default()),
        ],
    );
    let refused =
        |reason: &str| metric(&node, &format!("quorate_connections_refused_total{{reason=\"{reason}\"}}"));
    let silent = [dial(&node, 0, b""), dial(&node, 0, b"")];
    wait_for("a third one to be refused", || is_closed(dial(&node, 0, b"")));
    assert!(refused("handshakes_per_address_max") > 0);
    drop(silent);
    wait_for("the places to be given back", || connects(dial(&node, 0, b"")));
    // Whoever has sent CONNECT takes none of these places.
    let _connected: Vec<_> =
        (0..5).map(|at| TestClient::over(dial(&node, 0, b""), &format!("c{at}"), None)).collect();

    let _held: Vec<_> =
        (0..2).map(|at| TestClient::over(dial(&node, 1, b""), &format!("h{at}"), None)).collect();
    assert!(is_closed(dial(&node, 1, b"")));
    assert_eq!(refused("connections_max"), 1);

    let mut small = TestClient::over(dial(&node, 2, b""), "small", None);
    assert_eq!(small.packet_bytes_max, Some(2048));
    small.send_raw(b"\x30\xff\x7f");
    assert!(small.ends());
    let large = TestClient::over(dial(&node, 3, b""), "large", None);
    assert_eq!(large.packet_bytes_max, Some(1024 * 1024));
    node.stop();
}
