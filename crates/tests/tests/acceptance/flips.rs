//! Flipped bits in every kind of file of a node, then of all nodes in different places: nothing wrong is served, nothing
//! acknowledged is lost, and all is mended within a minute.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use quorate_tests::load::{Load, Shape};
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw, publish_bytes};
use quorate_tests::{Cluster, wait_at_most};

use crate::{Choice, collect, offline_session};

/// Flipped bits in all; `QUORATE_FLIPS` says otherwise.
const FLIPS: usize = 1000;

/// Flipped bits of one round.
const FLIPS_OF_ROUND: usize = 25;

/// How soon all nodes are ready again and know of no damage.
const MENDED: Duration = Duration::from_secs(60);

/// Messages that wait in a session without a connection from the beginning to the end: their bodies leave the log.
const QUEUED: u64 = 8_000;

/// Bytes of their payloads.
const QUEUED_BYTES: usize = 30_000;

/// The smallest segments and the shortest log, and a walk over the disk every few seconds.
const STORAGE: &str = "\n[storage]\nsegment_bytes = \"32MiB\"\nlog_bytes_target = \"128MiB\"\nscrub_bytes_per_second = \"1GiB\"\n";

/// Kinds of files, by how their paths below the data folder begin.
const KINDS: [&str; 8] = [
    "log/segment",
    "bodies/",
    "copies/heads",
    "copies/tables",
    "checkpoints/",
    "identity",
    "founding.json",
    "log/spare",
];

fn flips() -> usize {
    std::env::var("QUORATE_FLIPS").map_or(FLIPS, |count| count.parse().expect("a number of flips"))
}

fn data(cluster: &Cluster, place: usize) -> PathBuf {
    cluster.folder().join(&cluster.node(place).name).join("data")
}

/// Files of a folder, with paths below `root`.
fn files(folder: &Path, root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| {
        if path.is_dir() { files(&path, root) } else { vec![path.strip_prefix(root).unwrap().to_owned()] }
    });
    below.filter(|path| !path.starts_with("lock")).collect()
}

/// Flips a bit in what was written of a file of one kind. Of files that are kept twice only one is hit. False if there is no such file.
fn flip(data: &Path, kind: &str, choice: &mut Choice) -> bool {
    let of_kind = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.starts_with(kind) && !text.ends_with(".copy") && !text.ends_with(".new")
    };
    let found: Vec<PathBuf> = files(data, data).into_iter().filter(of_kind).collect();
    if found.is_empty() {
        return false;
    }
    let path = data.join(&found[choice.below(found.len())]);
    let content = std::fs::read(&path).unwrap();
    let Some(last) = content.iter().rposition(|byte| *byte != 0) else { return true };
    let at = choice.below(last + 1);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[content[at] ^ (1 << choice.below(8))], at as u64).unwrap();
    true
}

/// Fills the queue of a session without a connection.
fn fill(port: u16) {
    let (mut raw, _) = Raw::connect(port, &Connect::transient("fill")).unwrap();
    let (mut sent, mut acked) = (0, 0);
    while acked < QUEUED {
        while sent < QUEUED.min(acked + 200) {
            let payload = Message { publisher: 0, sequence: sent }.encode(QUEUED_BYTES);
            raw.send(&publish_bytes("queued/0", &payload, false, Some((sent % 60_000) as u16 + 1))).unwrap();
            sent += 1;
        }
        match raw.read().unwrap() {
            Some(Packet::Puback { reason: 0, .. }) => acked += 1,
            other => panic!("PUBACK {acked} expected, got {other:?}"),
        }
    }
}

/// Until every node is ready, votes in all groups, and has walked over its disk without finding damage.
fn wait_mended(cluster: &Cluster, what: &str) -> Duration {
    let begun = Instant::now();
    let mut walked: BTreeMap<usize, f64> = BTreeMap::new();
    let mut lacking = String::new();
    let result = wait_at_most(MENDED, what, || {
        for place in 0..3 {
            lacking = format!("node {place} does not answer");
            let (status, body) = cluster.get(place, "/readyz").ok()?;
            let passes = cluster.metric(place, "quorate_scrub_passes_total").ok()?[""];
            let left = cluster.metric(place, "quorate_damage_left").ok()?[""];
            let first = *walked.entry(place).or_insert(passes);
            // A node that was started again begins to count anew.
            let walked_since = if passes < first { passes } else { passes - first };
            if status != 200 || left > 0.0 || walked_since < 2.0 {
                lacking = format!(
                    "node {place}: {walked_since} walks, {left} places damaged, /readyz {status} {body}"
                );
                return None;
            }
            let state = cluster.state(place, false).ok()?;
            let out = state.groups.iter().find(|group| !group.voters.contains(&state.node_id));
            if let Some(group) = out {
                lacking = format!("node {place} is {}, no voter of group {}", state.node_id, group.id);
                return None;
            }
        }
        Some(())
    });
    result.unwrap_or_else(|error| panic!("{error:#}: {lacking}"));
    begun.elapsed()
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn flipped_bits_are_mended_and_nothing_is_lost() {
    let mut cluster = Cluster::start("flips", 3).unwrap();
    for place in 0..3 {
        cluster.stop(place).unwrap();
        cluster.configure(place, |text| text + STORAGE).unwrap();
        cluster.restart(place).unwrap();
        (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
    }
    offline_session(cluster.node(0).mqtt_port, "queued", "queued/#");
    fill(cluster.node(1).mqtt_port);
    let shape = Shape { publishers: 2, subscribers: 2, by_hand: 0, rate: 100, payload_bytes: 500 };
    let mut load = Load::start(&cluster, "flips", shape).unwrap();
    let mut choice = Choice(11);
    let (mut done, mut longest, mut by_kind) = (0, Duration::ZERO, BTreeMap::<&str, usize>::new());
    let mut round = 0;
    while done < flips() {
        // Two rounds hit one node, every third one all of them.
        let all = round % 3 == 2;
        let hit: Vec<usize> = if all { vec![0, 1, 2] } else { vec![round % 3] };
        // The index store is one place, and no majority may lose it at a time.
        let with_checkpoints = choice.below(3);
        for place in &hit {
            cluster.kill(*place).unwrap();
        }
        for number in 0..FLIPS_OF_ROUND {
            let place = hit[number % hit.len()];
            let kind = KINDS[choice.below(KINDS.len())];
            let is_one_place = kind.starts_with("checkpoints");
            if is_one_place && all && place != with_checkpoints {
                continue;
            }
            if flip(&data(&cluster, place), kind, &mut choice) {
                *by_kind.entry(kind).or_default() += 1;
                done += 1;
            }
        }
        let evicted = std::fs::write("/proc/sys/vm/drop_caches", "3");
        if evicted.is_err() && round == 0 {
            println!("caches cannot be dropped here: damage is read from them");
        }
        for place in &hit {
            cluster.restart(*place).unwrap();
        }
        longest = longest.max(wait_mended(&cluster, &format!("round {round} to be mended")));
        load.wait_progress(5).unwrap();
        round += 1;
    }
    load.end().unwrap();
    load.drain().unwrap();
    let summary = load.audit().summary();
    assert_eq!(load.audit().verdict(), Vec::<String>::new());
    let counts = collect(cluster.node(2).mqtt_port, "queued", |counts| counts.len() as u64 == QUEUED);
    assert_eq!(counts.len() as u64, QUEUED);
    let repaired: f64 =
        (0..3).map(|place| cluster.metric(place, "quorate_damage_repaired_total").unwrap()[""]).sum();
    println!(
        "flipped_bits_are_mended_and_nothing_is_lost: {done} flips in {round} rounds, {by_kind:?}, mended within {:.1} s at most, \
         {repaired} payloads from others since the last starts, {summary}",
        longest.as_secs_f64()
    );
}
