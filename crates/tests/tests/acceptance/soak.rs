//! Memory under churn: clients come and go with subscriptions, retained messages, wills and half-finished QoS 2.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quorate_tests::raw::{Connect, Packet, Raw, Will};
use quorate_tests::{Cluster, let_pass};

use crate::Choice;

/// How long; `QUORATE_SOAK_SECONDS` says otherwise.
const SECONDS: u64 = 600;

/// Clients at a time.
const THREADS: u64 = 6;

/// Client identifiers of durable sessions: they come back, and find what they left.
const IDENTIFIERS: usize = 400;

/// Topics with retained messages.
const RETAINED: usize = 1_000;

/// Growth of the median of a node's memory from the second third of the run to the last that counts as flat: allocators
/// keep what was freed, and checkpoints come in waves.
const GROWTH_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// How far above that median a single sample may lie: whoever compacts the log holds a segment of 64 MiB for a moment.
const SPIKE_BYTES_MAX: u64 = 96 * 1024 * 1024;

fn seconds() -> u64 {
    std::env::var("QUORATE_SOAK_SECONDS").map_or(SECONDS, |count| count.parse().expect("a number of seconds"))
}

/// One visit: connect, subscribe, publish, leave in one of several ways.
fn visit(ports: &[u16], choice: &mut Choice, thread: u64, visits: u64) -> anyhow::Result<()> {
    let port = ports[choice.below(ports.len())];
    let durable = choice.below(2) == 0;
    let client_id = if durable {
        format!("soak-{}", choice.below(IDENTIFIERS))
    } else {
        format!("soak-{thread}-{visits}")
    };
    let will = Will {
        topic: format!("soak/will/{}", choice.below(50)),
        payload: vec![b'w'; choice.below(2_000)],
        delay_s: choice.below(3) as u32,
    };
    let base = if durable {
        // Some begin anew: on a slow machine a session that only ever goes on gets more than its visits take away.
        Connect { expiry_s: 20, clean: choice.below(4) == 0, ..Connect::durable(&client_id) }
    } else {
        Connect::transient(&client_id)
    };
    let connect = Connect { will: (choice.below(2) == 0).then_some(will), ..base };
    let (mut raw, _) = Raw::connect(port, &connect)?;
    for _ in 0..choice.below(3) {
        raw.send_subscribe(&format!("soak/{}/#", choice.below(200)))?;
    }
    for number in 0..choice.below(12) {
        let topic = format!("soak/{}/{}", choice.below(200), choice.below(RETAINED / 200));
        let payload = vec![b'p'; choice.below(400) * choice.below(2)];
        let packet_id = raw.next_packet_id();
        match number % 3 {
            // Never released: what is kept of it must not grow.
            0 => raw.send(&quorate_tests::raw::publish_bytes_2(&topic, &payload, packet_id))?,
            1 => raw.publish(&topic, &payload, true, Some(packet_id))?,
            _ => raw.publish(&topic, &payload, false, Some(packet_id))?,
        }
    }
    // Takes what comes for a moment, and acknowledges some of it.
    while let Some(Some(packet)) = raw.read_within(Duration::from_millis(3))? {
        if let Packet::Publish(publish) = packet
            && let Some(packet_id) = publish.packet_id
            && choice.below(4) != 0
        {
            raw.puback(packet_id)?;
        }
    }
    if choice.below(2) == 0 {
        raw.disconnect()?;
    }
    Ok(())
}

#[test]
#[ignore = "ten minutes; see CONTRIBUTING.md"]
fn memory_stays_flat_under_churn() {
    let cluster = Cluster::start("soak", 3).unwrap();
    let ports: Vec<u16> = (0..3).map(|place| cluster.node(place).mqtt_port).collect();
    let (over, visits, failed) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let total = Duration::from_secs(seconds());
    let mut samples: Vec<Vec<u64>> = vec![Vec::new(); 3];
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (over, visits, failed, ports) = (&over, &visits, &failed, &ports);
            scope.spawn(move || {
                let mut choice = Choice(thread + 1);
                while !over.load(Ordering::Relaxed) {
                    let number = visits.fetch_add(1, Ordering::Relaxed);
                    // Another thread may take the session over at any moment: that is part of the churn.
                    if visit(ports, &mut choice, thread, number).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < total {
            let_pass(total / 60);
            for (place, samples) in samples.iter_mut().enumerate() {
                samples.push(cluster.node(place).resident_bytes().unwrap());
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    cluster.check_log().unwrap();
    let mebibytes = |bytes: u64| bytes / (1024 * 1024);
    for (place, samples) in samples.iter().enumerate() {
        let third = samples.len() / 3;
        let median = |part: &[u64]| {
            let mut sorted = part.to_vec();
            sorted.sort_unstable();
            sorted[sorted.len() / 2]
        };
        let (middle, last) = (median(&samples[third..2 * third]), median(&samples[2 * third..]));
        let most = samples[third..].iter().copied().max().unwrap_or(0);
        println!(
            "node {place}: {} MiB in the second third, {} MiB in the last (medians), at most {} MiB",
            mebibytes(middle),
            mebibytes(last),
            mebibytes(most)
        );
        assert!(last <= middle + GROWTH_BYTES_MAX, "memory of node {place} grows: {samples:?}");
        assert!(
            most <= middle.max(last) + SPIKE_BYTES_MAX,
            "memory of node {place} has a spike: {samples:?}"
        );
    }
    println!(
        "memory_stays_flat_under_churn: {} s, {} visits, {} cut short",
        total.as_secs(),
        visits.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed)
    );
}
