//! Little memory and far too much to do: nobody is ended by the system, clients are told, and all is well again afterwards.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use quorate_tests::fault::{MemoryLimit, lacking};
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Publish, Raw, publish_bytes};
use quorate_tests::{Cluster, let_pass, pause, wait_at_most};

use super::{collect, offline_session};

/// What each node may take.
const LIMIT_BYTES: u64 = 256 << 20;

/// How long there is too much to do.
const OVERLOAD: Duration = Duration::from_secs(90);

/// How long a node may take until it has its memory back.
const RECOVERY: Duration = Duration::from_secs(120);

/// A message that many of do not fit.
const LARGE_BYTES: usize = 512 * 1024;

/// Connections that one thread of the flood holds.
const HELD: usize = 700;

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    acked: AtomicU64,
    /// Reasons of CONNACK and PUBACK, by kind.
    reasons: Mutex<BTreeMap<(&'static str, u8), u64>>,
    /// Sequence numbers of audited messages that were acknowledged, by publisher.
    kept: Mutex<Vec<(u32, u64)>>,
}

impl Seen {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn reason(&self, kind: &'static str, reason: u8) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        *reasons.entry((kind, reason)).or_default() += 1;
    }

    /// Connects; a refusal is counted and is no error.
    fn connect(&self, port: u16, client_id: &str) -> Result<Option<Raw>> {
        let mut raw = Raw::open(port)?;
        let connect = Connect::transient(client_id);
        raw.send(&connect.encode())?;
        while self.goes_on() {
            match raw.read_within(Duration::from_secs(1))? {
                Some(Some(Packet::Connack { reason, .. })) => {
                    self.reason("CONNACK", reason);
                    return Ok((reason == 0).then_some(raw));
                }
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    /// Does this with one connection after the other, whatever becomes of them.
    fn again(&self, port: u16, client_id: &str, with: impl Fn(&mut Raw) -> Result<()>) {
        while self.goes_on() {
            if let Ok(Some(mut raw)) = self.connect(port, client_id) {
                let _closed = with(&mut raw);
            }
            pause();
        }
    }
}

/// Publishes large messages with QoS 1, eight at once.
fn publish_large(seen: &Seen, raw: &mut Raw, topic: &str) -> Result<()> {
    let payload = vec![7; LARGE_BYTES];
    while seen.goes_on() {
        for packet_id in 1..=8 {
            raw.publish(topic, &payload, false, Some(packet_id))?;
        }
        for _ in 1..=8 {
            match raw.read()? {
                Some(Packet::Puback { reason, .. }) => {
                    seen.reason("PUBACK", reason);
                    seen.acked.fetch_add(u64::from(reason < 0x80), Ordering::Relaxed);
                }
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Sends as much as the broker takes with QoS 0.
fn flood(seen: &Seen, raw: &mut Raw, topic: &str) -> Result<()> {
    let many: Vec<u8> = (0..64).flat_map(|_| publish_bytes(topic, &[1; 1000], false, None)).collect();
    while seen.goes_on() {
        raw.send(&many)?;
    }
    Ok(())
}

/// Subscribes and reads nothing more.
fn stand_still(seen: &Seen, raw: &mut Raw, filter: &str) -> Result<()> {
    raw.send_subscribe(filter)?;
    while seen.goes_on() {
        pause();
    }
    Ok(())
}

/// Publishes what must not be lost once it is acknowledged.
fn publish_kept(seen: &Seen, raw: &mut Raw, publisher: u32, sequence: &AtomicU64) -> Result<()> {
    while seen.goes_on() {
        let sequence = sequence.fetch_add(1, Ordering::Relaxed);
        let payload = Message { publisher, sequence }.encode(500);
        raw.publish("keep/all", &payload, false, Some(1))?;
        match raw.read()? {
            Some(Packet::Puback { reason, .. }) if reason < 0x80 => {
                seen.kept.lock().unwrap_or_else(PoisonError::into_inner).push((publisher, sequence));
            }
            Some(Packet::Puback { reason, .. }) => seen.reason("PUBACK", reason),
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Opens connection after connection and holds the last ones.
fn connect_many(seen: &Seen, port: u16, name: &str) {
    let mut held: Vec<Option<Raw>> = (0..HELD).map(|_| None).collect();
    for number in (0..).take_while(|_| seen.goes_on()) {
        let raw = seen.connect(port, &format!("{name}-{}", number % (HELD * 2)));
        if let Some(place) = held.get_mut(number % HELD) {
            *place = raw.ok().flatten();
        }
    }
}

fn pressure(cluster: &Cluster, place: usize) -> Option<f64> {
    cluster.metric(place, "quorate_memory_pressure").ok()?.values().next().copied()
}

/// All of the load on one node.
fn load_node<'scope>(scope: &'scope thread::Scope<'scope, '_>, seen: &'scope Seen, place: usize, port: u16) {
    for number in 0..20 {
        let name = format!("large-{place}-{number}");
        scope.spawn(move || {
            seen.again(port, &name, |raw| publish_large(seen, raw, &format!("large/{number}")))
        });
    }
    for number in 0..4 {
        let name = format!("flood-{place}-{number}");
        scope.spawn(move || seen.again(port, &name, |raw| flood(seen, raw, &format!("flood/{number}"))));
    }
    for number in 0..20 {
        let name = format!("still-{place}-{number}");
        let filter = ["large/#", "flood/#"][number % 2];
        scope.spawn(move || seen.again(port, &name, |raw| stand_still(seen, raw, filter)));
    }
    scope.spawn(move || {
        let sequence = AtomicU64::new(0);
        seen.again(port, &format!("kept-{place}"), |raw| publish_kept(seen, raw, place as u32, &sequence));
    });
    for number in 0..2 {
        scope.spawn(move || connect_many(seen, port, &format!("many-{place}-{number}")));
    }
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn overload_with_little_memory_ends_nobody_and_passes() {
    let test = "overload_with_little_memory_ends_nobody_and_passes";
    if lacking(test, &["sh"]) {
        return;
    }
    let limits: Result<Vec<MemoryLimit>> =
        (0..3).map(|place| MemoryLimit::make(&format!("memory-{place}"), LIMIT_BYTES)).collect();
    let limits = match limits {
        Ok(limits) => limits,
        Err(error) => return eprintln!("{test}: skipped, no control group can be made here: {error:#}"),
    };
    let mut cluster = Cluster::start("memory", 3).unwrap();
    for (place, limit) in limits.iter().enumerate() {
        cluster.stop(place).unwrap();
        cluster.restart_within(place, limit).unwrap();
        (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
        let found = cluster.metric(place, "quorate_memory_budget_bytes").unwrap();
        assert_eq!(found.values().copied().collect::<Vec<_>>(), [LIMIT_BYTES as f64], "found by the node");
    }
    offline_session(cluster.node(0).mqtt_port, "keeps", "keep/#");
    let seen = Seen::default();
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.mqtt_port).collect();
    let mut most = [0.0_f64; 3];
    thread::scope(|scope| {
        for (place, port) in ports.iter().enumerate() {
            load_node(scope, &seen, place, *port);
            let (seen, port) = (&seen, *port);
            // One that keeps up as well as it can.
            scope.spawn(move || {
                seen.again(port, &format!("reads-{place}"), |raw| {
                    raw.send_subscribe("large/#")?;
                    while seen.goes_on() {
                        match raw.read_within(Duration::from_secs(1))? {
                            Some(Some(Packet::Publish(Publish { packet_id: Some(packet_id), .. }))) => {
                                raw.puback(packet_id)?;
                            }
                            Some(None) => return Ok(()),
                            _ => {}
                        }
                    }
                    Ok(())
                });
            });
        }
        let_pass_watching(&cluster, &mut most);
        seen.over.store(true, Ordering::Relaxed);
    });
    for place in 0..3 {
        assert_eq!(cluster.get(place, "/livez").unwrap().0, 200, "node {place} lives");
    }
    let kills: Vec<Option<u64>> = limits.iter().map(MemoryLimit::kills).collect();
    assert!(kills.iter().all(|kills| kills.unwrap_or(0) == 0), "{kills:?}");
    assert!(most.iter().any(|most| *most >= 1.0), "no pressure was seen: this was no overload");

    for place in 0..3 {
        wait_at_most(RECOVERY, "memory to be free again", || {
            pressure(&cluster, place).filter(|pressure| *pressure == 0.0)
        })
        .unwrap();
        cluster.wait_ready(place).unwrap();
    }
    let kept = std::mem::take(&mut *seen.kept.lock().unwrap());
    assert!(!kept.is_empty());
    let found = Cell::new(0);
    let counts = collect(ports[1], "keeps", |counts| {
        let further =
            kept.iter().skip(found.get()).take_while(|message| counts.contains_key(message)).count();
        found.set(found.get() + further);
        found.get() == kept.len()
    });
    let (mut raw, _) = Raw::connect(ports[2], &Connect::transient("after")).unwrap();
    raw.subscribe("after/#").unwrap();
    raw.publish("after/all", b"x", false, Some(9)).unwrap();
    let answers = [raw.read().unwrap(), raw.read().unwrap()];
    assert!(answers.contains(&Some(Packet::Puback { packet_id: 9, reason: 0 })), "{answers:?}");
    let resident: Vec<u64> =
        cluster.nodes.iter().map(|node| node.resident_bytes().unwrap_or(0) >> 20).collect();
    let groups: Vec<u64> = limits.iter().map(|limit| limit.most_bytes().unwrap_or(0) >> 20).collect();
    let reasons = seen.reasons.lock().unwrap();
    assert!(reasons.contains_key(&("CONNACK", 0)) && reasons.contains_key(&("PUBACK", 0)), "{reasons:?}");
    println!(
        "{test}: {} large messages acknowledged, {} kept of {}; most pressure {most:?}; answers {reasons:?}; groups had at most {groups:?} \
         MiB, what the system may take back included; {resident:?} MiB resident at the end",
        seen.acked.load(Ordering::Relaxed),
        kept.len(),
        counts.len(),
    );
    drop(cluster);
}

/// Lets the overload go on, and notes the most pressure of each node. A node that answers nothing for a moment is busy.
fn let_pass_watching(cluster: &Cluster, most: &mut [f64; 3]) {
    for _ in 0..OVERLOAD.as_secs() {
        let_pass(Duration::from_secs(1));
        for (place, most) in most.iter_mut().enumerate() {
            *most = most.max(pressure(cluster, place).unwrap_or(0.0));
        }
    }
}
