//! One owner per client identifier (D11).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate_tests::Cluster;
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw, SESSION_TAKEN_OVER, publish_bytes};

use crate::{collect, offline_session};

/// How often the client moves.
const MOVES: u64 = 3000;

/// Publishes in flight when the takeover begins, and as many after the new CONNACK.
const BURST: u16 = 20;

/// Packet identifiers from here on belong to publishes that began after the new CONNACK.
const LATE: u16 = 1000;

/// Publishes that got an acknowledgement on the old connection, until it ended with DISCONNECT 0x8E.
fn read_to_end(old: &mut Raw, turn: u64) -> BTreeSet<u16> {
    let mut acked = BTreeSet::new();
    let mut disconnect = None;
    while let Some(packet) = old.read().unwrap() {
        assert_eq!(disconnect, None, "move {turn}: {packet:?} after DISCONNECT");
        match packet {
            Packet::Puback { packet_id, reason } => {
                assert!(
                    packet_id < LATE,
                    "move {turn}: PUBACK 0x{reason:02X} for a publish after the new CONNACK"
                );
                assert!(reason < 0x80, "move {turn}: publish refused with 0x{reason:02X}");
                acked.insert(packet_id);
            }
            Packet::Disconnect { reason } => disconnect = Some(reason),
            other => panic!("move {turn}: {other:?} on the old connection"),
        }
    }
    assert_eq!(disconnect, Some(SESSION_TAKEN_OVER), "move {turn}: DISCONNECT of the old connection");
    acked
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn takeover_across_nodes() {
    let cluster = Cluster::start("takeover-many", 3).unwrap();
    offline_session(cluster.node(1).mqtt_port, "take-collector", "take/#");
    let start = Instant::now();
    let connect = Connect::durable("taken");
    let (mut old, present) = Raw::connect(cluster.node(0).mqtt_port, &connect).unwrap();
    assert!(!present);
    let mut acked = BTreeSet::new();
    let mut longest = Duration::ZERO;
    for turn in 0..MOVES {
        let burst = |from: u16| -> Vec<u8> {
            let one = |packet_id: u16| {
                let sequence = turn * 10_000 + u64::from(packet_id);
                let payload = Message { publisher: 0, sequence }.encode(64);
                publish_bytes("take/x", &payload, false, Some(packet_id))
            };
            (from..from + BURST).flat_map(one).collect()
        };
        old.send(&burst(1)).unwrap();
        // Mostly to the next node, now and then to the same one.
        let node = ((turn + turn / 7) % 3) as usize;
        let begun = Instant::now();
        let (new, present) = Raw::connect(cluster.node(node).mqtt_port, &connect).unwrap();
        longest = longest.max(begun.elapsed());
        assert!(present, "Session Present on move {turn}");
        // The connection may be closed already, which is as good.
        let _ = old.send(&burst(LATE));
        let on_time = read_to_end(&mut old, turn);
        acked.extend(on_time.into_iter().map(|packet_id| (0, turn * 10_000 + u64::from(packet_id))));
        old = new;
    }
    old.disconnect().unwrap();
    let all_acked = |counts: &std::collections::BTreeMap<(u32, u64), u32>| {
        counts.len() >= acked.len() && acked.iter().all(|message| counts.contains_key(message))
    };
    let counts = collect(cluster.node(2).mqtt_port, "take-collector", all_acked);
    cluster.check_log().unwrap();
    println!(
        "takeover_across_nodes: {MOVES} moves in {} s, longest to CONNACK {} ms, {} acknowledged, {} delivered",
        start.elapsed().as_secs(),
        longest.as_millis(),
        acked.len(),
        counts.len()
    );
}
