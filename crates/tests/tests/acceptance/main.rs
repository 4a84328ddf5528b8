//! The long acceptance suite: promises of the contract on real processes, minutes each.
//!
//! Run it by `cargo test --release -p quorate-tests --test acceptance -- --ignored --test-threads 1 --nocapture`. Each test
//! prints one line with its figures at its end. See: CONTRIBUTING.md.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod backup;
mod barrier;
mod disk_full;
mod flips;
mod front_door;
mod identifiers;
mod kills;
mod membership;
mod memory;
mod minority;
mod readiness;
mod retained;
mod rolling;
mod shares;
mod slow;
mod soak;
mod storm;
mod takeover;
mod upgrade;
mod wills;
mod wipe;

use std::collections::BTreeMap;
use std::process::Command;

use quorate_tests::Cluster;
use quorate_tests::fault::Volume;
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw};

/// Deterministic choices, so that a run can be told again: a linear congruential generator.
struct Choice(u64);

impl Choice {
    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Creates a durable session with a subscription, then leaves it offline. What arrives meanwhile stays unacknowledged.
fn offline_session(port: u16, client_id: &str, filter: &str) {
    let (mut raw, _) = Raw::connect(port, &Connect::durable(client_id)).unwrap();
    raw.send_subscribe(filter).unwrap();
    loop {
        match raw.read().unwrap() {
            // May come before SUBACK [3.8.4].
            Some(Packet::Publish(_)) => {}
            Some(Packet::Suback { reason: 1, .. }) => break,
            other => panic!("SUBACK for {filter} expected, got {other:?}"),
        }
    }
    raw.disconnect().unwrap();
}

/// Connects a session that must be present and receives until `enough` of what arrived so far. Gives how often each
/// message arrived.
fn collect(
    port: u16,
    client_id: &str,
    enough: impl Fn(&BTreeMap<(u32, u64), u32>) -> bool,
) -> BTreeMap<(u32, u64), u32> {
    let (mut raw, present) = Raw::connect(port, &Connect::durable(client_id)).unwrap();
    assert!(present, "Session Present of {client_id}");
    let mut counts = BTreeMap::new();
    while !enough(&counts) {
        let publish = raw
            .receive()
            .unwrap_or_else(|error| panic!("{client_id} after {} messages: {error:#}", counts.len()));
        let message = Message::decode(&publish.payload).expect("an intact payload");
        *counts.entry((message.publisher, message.sequence)).or_default() += 1;
    }
    raw.disconnect().unwrap();
    counts
}

/// Moves the data of a node to a volume, adds to its `[storage]`, and waits until it is ready there.
fn place_on(cluster: &mut Cluster, place: usize, volume: &Volume, storage: &str) {
    cluster.stop(place).unwrap();
    let name = cluster.node(place).name.clone();
    let data = cluster.folder().join(name).join("data");
    let copied = Command::new("cp").args(["-a", &data.display().to_string(), &volume.path()]).status();
    assert!(copied.unwrap().success(), "copy the data");
    let moved = format!("data_dir = \"{}/data\"", volume.path());
    let change = |text: String| text.replace("data_dir = \"./data\"", &moved) + "\n[storage]\n" + storage;
    cluster.configure(place, change).unwrap();
    cluster.restart(place).unwrap();
    (0..cluster.nodes.len()).for_each(|place| cluster.wait_ready(place).unwrap());
}
