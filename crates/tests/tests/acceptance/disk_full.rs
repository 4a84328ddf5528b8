//! Full disks: of one node, then of all. Publishers are told, or not read; acknowledgements go on; no process ends; all goes on alone.

use std::time::{Duration, Instant};

use quorate_tests::audit::{Audit, Who};
use quorate_tests::fault::{Filled, Volume, lacking};
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw};
use quorate_tests::{Cluster, wait_at_most, wait_for};

use super::{offline_session, place_on};

/// Programs that make a volume.
const PROGRAMS: [&str; 4] = ["mkfs.ext4", "mount", "umount", "fallocate"];

/// How soon messages are taken in again after there is room.
const RESUMED: Duration = Duration::from_secs(5);

/// Reason code of a PUBACK: Quota exceeded.
const QUOTA_EXCEEDED: u8 = 0x97;

/// Publishers of the audit.
const MQTT_5: usize = 0;
const MQTT_3: usize = 1;

fn payload(audit: &mut Audit, publisher: usize) -> (u64, Vec<u8>) {
    let sequence = audit.publish(publisher);
    (sequence, Message { publisher: publisher as u32, sequence }.encode(10_000))
}

/// Publishes one message of MQTT 5 by way of a node, over a connection of its own; gives the reason code.
fn publish(cluster: &Cluster, place: usize, audit: &mut Audit) -> u8 {
    let (sequence, payload) = payload(audit, MQTT_5);
    let connect = Connect::transient(&format!("five-{sequence}"));
    let (mut raw, _) = Raw::connect(cluster.node(place).mqtt_port, &connect).unwrap();
    raw.publish("full/five", &payload, false, Some(1)).unwrap();
    match raw.read().unwrap() {
        Some(Packet::Puback { packet_id: 1, reason }) => {
            if reason < 0x80 {
                audit.acked(MQTT_5, sequence);
            }
            reason
        }
        other => panic!("PUBACK expected, got {other:?}"),
    }
}

/// A client of MQTT 3.1.1 that has sent a PUBLISH of QoS 1, with its sequence number.
fn publish_3(cluster: &Cluster, place: usize, audit: &mut Audit) -> (Raw, u64) {
    let mut raw = Raw::open(cluster.node(place).mqtt_port).unwrap();
    let connect = [&[0x10, 17, 0, 4][..], b"MQTT", &[4, 2, 14, 16, 0, 5], b"three"].concat();
    raw.send(&connect).unwrap();
    assert_eq!(raw.read().unwrap(), Some(Packet::Connack { present: false, reason: 0 }));
    let (sequence, payload) = payload(audit, MQTT_3);
    let length = 2 + 10 + 2 + payload.len();
    let head = [0x32, (length % 128) as u8 | 0x80, (length / 128) as u8, 0, 10];
    raw.send(&[&head[..], b"full/three", &[0, 7], &payload].concat()).unwrap();
    (raw, sequence)
}

/// Connects the session and receives until everything acknowledged so far is there.
fn drain(cluster: &Cluster, place: usize, audit: &mut Audit) {
    let (mut raw, present) = Raw::connect(cluster.node(place).mqtt_port, &Connect::durable("keeps")).unwrap();
    audit.connected(Who::Subscriber(0), present);
    while audit.missing(0) > 0 {
        let publish = raw.receive().unwrap();
        audit.received(0, &publish.payload);
    }
    raw.disconnect().unwrap();
}

fn wait_low(cluster: &Cluster, place: usize, low: f64) {
    wait_for(&format!("quorate_disk_low of node {place} to be {low}"), || {
        let found = cluster.metric(place, "quorate_disk_low").ok()?;
        found.values().all(|value| *value == low).then_some(())
    })
    .unwrap();
}

fn wait_reserve(volume: &Volume) {
    let reserve = format!("{}/data/reserve", volume.path());
    wait_for("the reserve", || std::fs::metadata(&reserve).ok()).unwrap();
}

/// Waits until a node leads no group: others have room.
fn wait_leads_nothing(cluster: &Cluster, place: usize) {
    wait_for("a node with little room to lead nothing", || {
        let state = cluster.state(place, false).ok()?;
        state.groups.iter().all(|group| group.leader != Some(state.node_id)).then_some(())
    })
    .unwrap();
}

/// A message of QoS 0 needs no disk.
fn assert_passes_without_disk(cluster: &Cluster, place: usize) {
    let (mut raw, _) =
        Raw::connect(cluster.node(place).mqtt_port, &Connect::transient(&format!("zero-{place}"))).unwrap();
    raw.subscribe(&format!("zero/{place}")).unwrap();
    raw.publish(&format!("zero/{place}"), b"x", false, None).unwrap();
    assert_eq!(raw.receive().unwrap().payload, b"x");
}

fn assert_live(cluster: &Cluster) {
    for place in 0..3 {
        assert_eq!(cluster.get(place, "/livez").unwrap().0, 200, "node {place}");
    }
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn full_disks_refuse_messages_end_nothing_and_resume_alone() {
    let test = "full_disks_refuse_messages_end_nothing_and_resume_alone";
    if lacking(test, &PROGRAMS) {
        return;
    }
    let volumes: Vec<Volume> =
        match (0..3).map(|place| Volume::mount(&format!("low-{place}"), 1024)).collect() {
            Ok(volumes) => volumes,
            Err(error) => return eprintln!("{test}: skipped, no volume can be made here: {error:#}"),
        };
    let mut cluster = Cluster::start("low", 3).unwrap();
    for (place, volume) in volumes.iter().enumerate() {
        place_on(&mut cluster, place, volume, "segment_bytes = \"32MiB\"\n");
    }
    let mut audit = Audit::new(2, 1);
    offline_session(cluster.node(1).mqtt_port, "keeps", "full/#");
    audit.connected(Who::Subscriber(0), false);
    for (place, volume) in volumes.iter().enumerate() {
        assert!(publish(&cluster, place, &mut audit) < 0x80);
        wait_reserve(volume);
    }

    // One node, which leads a third of the groups: its own publishers hear of it, those of other nodes do not.
    let mut filled: Vec<Filled> = vec![volumes[0].fill(0).unwrap()];
    wait_low(&cluster, 0, 1.0);
    assert_eq!(publish(&cluster, 0, &mut audit), QUOTA_EXCEEDED);
    assert_passes_without_disk(&cluster, 0);
    wait_leads_nothing(&cluster, 0);
    let (mut three, sequence) = publish_3(&cluster, 0, &mut audit);
    for _ in 0..100 {
        assert!(publish(&cluster, 1, &mut audit) < 0x80);
    }
    assert_eq!(three.read_within(Duration::from_secs(1)).unwrap(), None, "neither answered nor closed");
    drain(&cluster, 0, &mut audit);
    assert_live(&cluster);

    // All of them: no message comes in, and sessions go on from the reserve.
    for _ in 0..20 {
        assert!(publish(&cluster, 2, &mut audit) < 0x80);
    }
    filled.extend(volumes[1..].iter().map(|volume| volume.fill(0).unwrap()));
    for place in 0..3 {
        wait_low(&cluster, place, 1.0);
        assert_eq!(publish(&cluster, place, &mut audit), QUOTA_EXCEEDED);
    }
    drain(&cluster, 1, &mut audit);
    assert_passes_without_disk(&cluster, 1);
    // A start has the reserve, too.
    cluster.kill(2).unwrap();
    cluster.restart(2).unwrap();
    wait_for("the node to answer", || cluster.get(2, "/livez").ok()).unwrap();
    wait_for("the node to let a client in", || {
        let connect = Connect::transient("asks");
        Raw::connect(cluster.node(2).mqtt_port, &connect).ok().map(drop)
    })
    .unwrap();
    wait_low(&cluster, 2, 1.0);
    assert_eq!(publish(&cluster, 2, &mut audit), QUOTA_EXCEEDED);
    offline_session(cluster.node(2).mqtt_port, "new", "else/#");
    assert_live(&cluster);

    // Room again: nobody does anything.
    drop(filled);
    let since = Instant::now();
    for place in 0..3 {
        wait_at_most(RESUMED, "messages to be taken in", || {
            (publish(&cluster, place, &mut audit) < 0x80).then_some(())
        })
        .unwrap();
    }
    assert_eq!(three.read().unwrap(), Some(Packet::Puback { packet_id: 7, reason: 0 }));
    audit.acked(MQTT_3, sequence);
    let took = since.elapsed();
    assert!(took <= RESUMED, "{took:?}");
    drain(&cluster, 2, &mut audit);
    assert_live(&cluster);
    volumes.iter().for_each(wait_reserve);
    assert_eq!(audit.verdict(), Vec::<String>::new());
    println!("{test}: resumed {} ms after there was room, {}", took.as_millis(), audit.summary());
}
