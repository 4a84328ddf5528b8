//! Each way in which a connection ends is counted under its own cause, and the connection of its listener is given back.

use quorate_codec::{Disconnect, Packet, ReasonCode};

use super::*;
use crate::testing::connect_packet;

/// Waits until `/metrics` has this line.
fn wait_for_line(node: &Running, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (_, body) = http_get(node.addresses().admin, "/metrics");
        if body.lines().any(|line| line == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "no {wanted} in\n{body}");
        std::thread::yield_now();
    }
}

fn ended(node: &Running, cause: &str, count: u32) {
    wait_for_line(node, &format!("quorate_disconnects_total{{cause=\"{cause}\"}} {count}"));
}

#[test]
fn causes_of_disconnects_are_told_apart() {
    let folder = TestFolder::new();
    let mut config = config(&folder, "n1");
    config.limits.connect_timeout = Duration::from_millis(100);
    config.limits.packet_bytes_max = 1024;
    let node = Running::start(&config);
    node.wait_until_ready();
    let listener = node.mqtt();
    let connect = |client_id: &str| TestClient::connect(listener, client_id, None);
    let open = |count: u32| format!("quorate_listener_connections{{listener=\"tcp\",kind=\"tcp\"}} {count}");

    let mut polite = connect("polite");
    wait_for_line(&node, &open(1));
    polite.send(&Packet::Disconnect(Disconnect {
        reason: ReasonCode::NORMAL_DISCONNECTION,
        session_expiry_s: None,
        reason_string: None,
        server_reference: None,
        user_properties: Default::default(),
    }));
    ended(&node, "client", 1);
    drop(connect("lost"));
    ended(&node, "lost", 1);
    let _first = connect("same");
    let second = connect("same");
    ended(&node, "takeover", 1);
    let mut wild = connect("wild");
    wild.send_raw(b"\xff\xff\xff\xff\xff");
    ended(&node, "protocol_error", 1);
    let mut large = connect("large");
    large.send_raw(&[b"\x30\xd0\x0f\0\x01t\0".as_slice(), &[0; 2000]].concat());
    ended(&node, "limit", 1);
    let silent = std::net::TcpStream::connect(listener).unwrap();
    ended(&node, "connect_timeout", 1);
    let mut refused = std::net::TcpStream::connect(listener).unwrap();
    let mut out = bytes::BytesMut::new();
    let packet = connect_packet("\u{7f}", None);
    quorate_codec::encode(&packet, quorate_codec::ProtocolVersion::V5, &mut out).unwrap();
    std::io::Write::write_all(&mut refused, &out).unwrap();
    ended(&node, "refused", 1);
    wait_for_line(&node, "quorate_connects_refused_total{reason=\"client_identifier_not_valid\"} 1");
    wait_for_line(&node, &open(1));
    drop((silent, second));
    ended(&node, "lost", 2);
    wait_for_line(&node, &open(0));

    let metrics = node.daemon.as_ref().unwrap().edge().metrics.clone();
    let _stays = connect("stays");
    node.stop();
    assert!(metrics.render().contains("quorate_disconnects_total{cause=\"shutdown\"} 1\n"));
}

/// The node was not told when writing failed: it took the connection for open, and the next one with its client identifier waited
/// for its end until the node was restarted.
#[test]
fn session_is_given_up_when_writing_to_its_client_fails() {
    let folder = TestFolder::new();
    let node = Running::start(&config(&folder, "n1"));
    node.wait_until_ready();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut flooder = TestClient::connect(node.mqtt(), "flood", None);
        let stop = &done;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                flooder.send_raw(&[0x30, 6, 0, 3, b't', b'/', b'x', 0].repeat(50));
            }
        });
        let _end = SetWhenDropped(&done);
        for _ in 0..20 {
            // Without a CONNACK this fails.
            let mut subscriber = TestClient::connect(node.mqtt(), "sub", None);
            subscriber.send_raw(b"\x82\x09\0\x01\0\0\x03t/+\0");
            while !matches!(subscriber.receive(), Packet::Publish(_)) {}
            // Closed with bytes unread, its socket answers whatever else comes with a reset.
        }
    });
    node.stop();
}
