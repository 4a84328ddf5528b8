//! A node loses its disk and rejoins by snapshots while clients go on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_tests::load::{Load, Shape};
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw, publish_bytes};
use quorate_tests::{Cluster, let_pass, wait_at_most, wait_for};

use crate::{collect, offline_session};

/// Offline sessions, each with a topic of its own: several in every partition.
const SESSIONS: u32 = 64;

/// Messages queued for each; 200,000 in all.
const MESSAGES_EACH: u64 = 3125;

/// Bytes of their payloads: 800 MB in all, so that the log is compacted.
const PAYLOAD_BYTES: usize = 4096;

/// Further sessions that hold nothing but a subscription.
const SMALL_SESSIONS: usize = 1000;

/// Topics with a retained message.
const RETAINED: usize = 5000;

/// Partitions of a cluster that `dev` starts.
const PARTITIONS: usize = 16;

/// The node that is wiped.
const WIPED: usize = 1;

/// Unacknowledged publishes of one connection.
const WINDOW: u64 = 500;

/// Publishes a share of the sessions' messages over one connection.
fn fill(port: u16, sessions: impl Iterator<Item = u32>) {
    let (mut raw, _) = Raw::connect(port, &Connect::transient(&format!("fill-{port}"))).unwrap();
    for session in sessions {
        let (mut sent, mut acked) = (0, 0);
        while acked < MESSAGES_EACH {
            let until = MESSAGES_EACH.min(acked + WINDOW);
            for sequence in sent..until {
                let payload = Message { publisher: session, sequence }.encode(PAYLOAD_BYTES);
                let packet_id = Some((sequence % 60_000) as u16 + 1);
                raw.send(&publish_bytes(&format!("bulk/{session}"), &payload, false, packet_id)).unwrap();
            }
            sent = until;
            match raw.read().unwrap() {
                Some(Packet::Puback { reason: 0, .. }) => acked += 1,
                other => panic!("PUBACK {acked} of bulk/{session} expected, got {other:?}"),
            }
        }
    }
}

/// Sessions, queues and retained messages that a snapshot has to carry.
fn prepare(cluster: &Cluster) {
    let ports = cluster.ports_from(0);
    for session in 0..SESSIONS {
        let port = ports[session as usize % 3];
        offline_session(port, &format!("bulk-{session}"), &format!("bulk/{session}"));
    }
    std::thread::scope(|scope| {
        for (node, port) in ports.iter().enumerate() {
            scope.spawn(move || {
                fill(*port, (0..SESSIONS).filter(|session| *session as usize % 3 == node));
                for index in (0..SMALL_SESSIONS).filter(|index| index % 3 == node) {
                    offline_session(*port, &format!("small-{index}"), &format!("small/{index}"));
                }
                let (mut raw, _) = Raw::connect(*port, &Connect::transient(&format!("keep-{node}"))).unwrap();
                for index in (0..RETAINED).filter(|index| index % 3 == node) {
                    raw.publish_acked(&format!("keep/{index}"), format!("kept {index}").as_bytes(), true)
                        .unwrap();
                }
            });
        }
    });
}

/// Waits until all nodes have shown the same hash of each group at the same index. Gives how many groups there are.
fn wait_equal_states(cluster: &Cluster) -> usize {
    // Group and index to the hashes that nodes have shown.
    let mut shown: BTreeMap<(u32, u64), BTreeMap<usize, String>> = BTreeMap::new();
    let mut groups = 0;
    let result = wait_at_most(Duration::from_secs(60), "equal states on all nodes", || {
        for node in 0..3 {
            let Ok(state) = cluster.state(node, true) else { continue };
            groups = groups.max(state.groups.len());
            for group in state.groups {
                let hash = group.state_hash.expect("a hash was asked for");
                shown.entry((group.id, group.applied)).or_default().insert(node, hash);
            }
        }
        let mut equal: Vec<u32> =
            shown.iter().filter(|(_, hashes)| hashes.len() == 3).map(|(at, _)| at.0).collect();
        equal.dedup();
        for (at, hashes) in &shown {
            let mut different: Vec<&String> = hashes.values().collect();
            different.dedup();
            assert_eq!(different.len(), 1, "group {} at {}: {hashes:?}", at.0, at.1);
        }
        (groups > 0 && equal.len() == groups).then_some(())
    });
    if let Err(error) = result {
        let last: Vec<_> = shown.iter().map(|(at, hashes)| (at, hashes.len())).collect();
        panic!("{error:#}: {last:?}");
    }
    groups
}

/// Drains every offline session through one node: each message once, in order.
fn drain(port: u16) -> u64 {
    let mut total = 0;
    for session in 0..SESSIONS {
        let counts = collect(port, &format!("bulk-{session}"), |counts| counts.len() as u64 == MESSAGES_EACH);
        assert!(counts.keys().all(|(publisher, _)| *publisher == session), "a message of another session");
        total += counts.len() as u64;
    }
    total
}

fn count_retained(port: u16) -> usize {
    let (mut raw, _) = Raw::connect(port, &Connect::transient("keep-reader")).unwrap();
    raw.subscribe("keep/#").unwrap();
    let mut kept = BTreeMap::new();
    while kept.len() < RETAINED {
        let publish = raw.receive().unwrap();
        kept.insert(publish.topic, publish.payload);
    }
    assert!(
        (0..RETAINED).all(|index| kept[&format!("keep/{index}")] == format!("kept {index}").into_bytes())
    );
    kept.len()
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn wiped_node_rejoins_under_load() {
    let mut cluster = Cluster::start("wiped", 3).unwrap();
    let start = Instant::now();
    prepare(&cluster);
    let filled = start.elapsed();
    // The beginning of every partition's log is gone: a wiped node needs snapshots.
    let freed = cluster.metric(0, "quorate_log_segments_freed_total").unwrap()[""];
    assert!(freed > 0.0, "no log segment was freed: too little data to need a snapshot");
    let checkpoints = cluster.metric(0, "quorate_group_checkpoint_index").unwrap();
    let compacted =
        checkpoints.iter().filter(|(label, index)| *label != "{group=\"0\"}" && **index > 0.0).count();
    assert_eq!(compacted, PARTITIONS, "partitions with a checkpoint: {checkpoints:?}");
    let shape = Shape { publishers: 3, subscribers: 2, by_hand: 0, rate: 100, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "wipe", shape).unwrap();
    load.wait_progress(100).unwrap();
    let id_before = cluster.state(WIPED, false).unwrap().node_id;

    cluster.kill(WIPED).unwrap();
    cluster.wipe(WIPED).unwrap();
    load.wait_progress(100).unwrap();
    cluster.restart(WIPED).unwrap();
    let restarted = Instant::now();
    wait_at_most(Duration::from_secs(300), "the wiped node to be ready", || {
        cluster.get(WIPED, "/readyz").ok().filter(|(status, _)| *status == 200)
    })
    .unwrap();
    let ready = restarted.elapsed();
    let id = cluster.state(WIPED, false).unwrap().node_id;
    assert_ne!(id, id_before, "the wiped node has its old identity");
    wait_at_most(Duration::from_secs(300), "the wiped node to vote in every group", || {
        let state = cluster.state(0, false).ok()?;
        let votes = state.groups.iter().all(|group| {
            group.voters.len() == 3 && group.voters.contains(&id) && !group.voters.contains(&id_before)
        });
        votes.then_some(())
    })
    .unwrap();
    let votes = restarted.elapsed();
    let installed = cluster.metric(WIPED, "quorate_snapshots_installed_total").unwrap()[""];
    assert!(installed >= PARTITIONS as f64, "{installed} snapshots installed");
    load.wait_progress(100).unwrap();
    let_pass(Duration::from_secs(2));
    load.end().unwrap();
    load.drain().unwrap();
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}");
    let groups = wait_equal_states(&cluster);

    // The copy counts: without one of the old nodes, everything is there.
    cluster.kill(0).unwrap();
    let delivered = drain(cluster.node(WIPED).mqtt_port);
    let retained = count_retained(cluster.node(WIPED).mqtt_port);
    cluster.check_log().unwrap();
    println!(
        "wiped_node_rejoins_under_load: filled in {} s, {freed} segments freed, {installed} snapshots, ready after \
         {} ms, voter of all groups after {} ms, {groups} groups with equal hashes, {delivered} queued and {retained} \
         retained messages there without an old node; load: {}",
        filled.as_secs(),
        ready.as_millis(),
        votes.as_millis(),
        load.audit().summary()
    );
}

/// docs/operations/replace-node.md: until `/readyz` answers 200 the cluster survives one loss less; so afterwards it
/// survives one again.
#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn wiped_node_counts_as_soon_as_it_is_ready() {
    let mut cluster = Cluster::start("wiped-ready", 3).unwrap();
    // Enough that the copies take a while, in every partition.
    for session in 0..SESSIONS {
        let port = cluster.node(session as usize % 3).mqtt_port;
        offline_session(port, &format!("bulk-{session}"), &format!("bulk/{session}"));
    }
    fill(cluster.node(0).mqtt_port, 0..SESSIONS);
    cluster.kill(WIPED).unwrap();
    cluster.wipe(WIPED).unwrap();
    cluster.restart(WIPED).unwrap();
    let restarted = Instant::now();
    cluster.wait_ready(WIPED).unwrap();
    let ready = restarted.elapsed();
    let id = cluster.state(WIPED, false).unwrap().node_id;
    let state = cluster.state(0, false).unwrap();
    let without_vote = state.groups.iter().filter(|group| !group.voters.contains(&id)).count();
    cluster.kill(0).unwrap();
    let killed = Instant::now();
    // A publish into every partition, through the node that was wiped.
    let (mut raw, _) = wait_for("CONNACK without an old node", || {
        Raw::connect(cluster.node(WIPED).mqtt_port, &Connect::transient("wiped-after")).ok()
    })
    .unwrap_or_else(|error| panic!("{error:#}; it did not vote in {without_vote} groups when it was ready"));
    for session in 0..SESSIONS {
        let payload = Message { publisher: session, sequence: MESSAGES_EACH }.encode(PAYLOAD_BYTES);
        raw.publish_acked(&format!("bulk/{session}"), &payload, false).unwrap();
    }
    let served = killed.elapsed();
    cluster.check_log().unwrap();
    println!(
        "wiped_node_counts_as_soon_as_it_is_ready: ready after {} ms, without a vote in {without_vote} groups then; all \
         partitions serve {} ms after the loss of an old node",
        ready.as_millis(),
        served.as_millis()
    );
}
