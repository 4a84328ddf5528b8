//! Clauses of `/readyz` fail one after the other, each by a real cause, while `/livez` stays 200.
//!
//! Those that need a fault of the machine (a disk that hangs or is full, a thread that does not run, no open files) need root, and
//! say so in one line where they cannot run.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use quorate_api::Readiness;
use quorate_tests::fault::{FewFiles, Held, Volume, lacking};
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, binary, pause, wait_for};

use super::place_on;

/// Longer than a worker may be silent before `/livez` fails (10 s).
const STUCK: Duration = Duration::from_secs(13);

/// Files that a node keeps for itself (`FILES_RESERVED`).
const FILES_RESERVED: u64 = 64;

const MIB: u64 = 1 << 20;

/// Programs that make a volume.
const VOLUME_PROGRAMS: [&str; 5] = ["mkfs.ext4", "mount", "umount", "fsfreeze", "fallocate"];

fn readiness(cluster: &Cluster, place: usize) -> (u16, Readiness) {
    let (status, body) = cluster.get(place, "/readyz").unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

fn failed_clauses(cluster: &Cluster, place: usize) -> (u16, BTreeSet<String>) {
    let (status, readiness) = readiness(cluster, place);
    (status, readiness.failed().map(|clause| clause.name.clone()).collect())
}

/// Why a clause fails; empty when it does not.
fn reason(cluster: &Cluster, place: usize, name: &str) -> String {
    let (_, readiness) = readiness(cluster, place);
    let found = readiness.failed().find(|clause| clause.name == name).map(|clause| clause.reason.clone());
    found.unwrap_or_default()
}

fn assert_lives(cluster: &Cluster, place: usize) {
    let (status, body) = cluster.get(place, "/livez").unwrap();
    assert_eq!(status, 200, "/livez: {body}");
}

/// Waits until these clauses fail, all of them; `/livez` is 200 all the time.
fn wait_failed(cluster: &Cluster, place: usize, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} to fail"), || {
        assert_lives(cluster, place);
        let (status, failed) = failed_clauses(cluster, place);
        assert_lives(cluster, place);
        assert_eq!(status, if failed.is_empty() { 200 } else { 503 }, "{failed:?}");
        wanted.iter().all(|clause| failed.contains(*clause)).then_some(())
    })
    .unwrap();
}

fn drain_command(cluster: &Cluster, command: &str) {
    let status = Command::new(binary().unwrap())
        .args(["cluster", command, "n3", "--admin"])
        .arg(format!("http://{}", cluster.node(0).admin))
        .status();
    assert!(status.unwrap().success(), "{command}");
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn clauses_of_readiness_fail_by_their_causes_and_hold_again() {
    let mut cluster = Cluster::start("readiness", 3).unwrap();
    for place in 0..3 {
        cluster.wait_ready(place).unwrap();
    }

    for place in [0, 1] {
        cluster.signal(place, "STOP").unwrap();
    }
    wait_failed(&cluster, 2, &["lease"]);
    wait_failed(&cluster, 2, &["leaders"]);
    for place in [0, 1] {
        cluster.signal(place, "CONT").unwrap();
    }
    cluster.wait_ready(2).unwrap();

    drain_command(&cluster, "drain");
    wait_failed(&cluster, 2, &["draining"]);
    // The duty survives the process.
    cluster.kill(2).unwrap();
    cluster.restart(2).unwrap();
    wait_for("the node to answer", || cluster.get(2, "/livez").ok()).unwrap();
    wait_failed(&cluster, 2, &["draining"]);
    wait_for("nothing but the drain to be missing", || {
        (failed_clauses(&cluster, 2).1 == BTreeSet::from(["draining".to_owned()])).then_some(())
    })
    .unwrap();
    drain_command(&cluster, "undrain");
    cluster.wait_ready(2).unwrap();

    // A node that ends lets its clients stay for the grace, and says that it is about to go.
    cluster.stop(2).unwrap();
    let config = cluster.folder().join("n3/quorate.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("[node]\n", "[node]\nstop_grace = \"5s\"\n")).unwrap();
    cluster.restart(2).unwrap();
    cluster.wait_ready(2).unwrap();
    let (mut client, _) = Raw::connect(cluster.node(2).mqtt_port, &Connect::transient("stays")).unwrap();
    cluster.signal(2, "TERM").unwrap();
    wait_failed(&cluster, 2, &["running", "draining"]);
    let refused = Raw::refusal(cluster.node(2).mqtt_port, &Connect::transient("late")).unwrap();
    assert_eq!(refused.first(), Some(&0x20), "a CONNACK: {refused:?}");
    assert!(matches!(refused.get(3), Some(0x88 | 0x9c)), "{refused:?}");
    assert!(client.wait_for_end(|| false), "told to go after the grace");
    cluster.wait_ended(2).unwrap();

    // A node without its disk has no vote yet.
    cluster.wipe(2).unwrap();
    cluster.restart(2).unwrap();
    let mut seen = BTreeSet::new();
    wait_for("the wiped node to be ready", || {
        let (status, body) = cluster.get(2, "/readyz").ok()?;
        let readiness: Readiness = serde_json::from_str(&body).ok()?;
        seen.extend(readiness.failed().map(|clause| clause.name.clone()));
        (status == 200).then_some(())
    })
    .unwrap();
    assert!(seen.contains("votes") || seen.contains("control"), "{seen:?}");
    println!("clauses_of_readiness_fail_by_their_causes_and_hold_again: a wiped node lacked {seen:?}");
    cluster.check_log().unwrap();
}

/// Three nodes, the third with its data on the volume and with segments of the smallest size.
fn cluster_on(volume: &Volume, test: &str) -> Cluster {
    let mut cluster = Cluster::start(test, 3).unwrap();
    // Messages are to come until there is no room at all.
    let storage = "segment_bytes = \"32MiB\"\ndisk_soft_bytes = \"0\"\ndisk_reserve_bytes = \"0\"\n";
    place_on(&mut cluster, 2, volume, storage);
    cluster
}

/// Clients that publish retained messages, each to topics of its own, and wait for no answer.
struct Publishers {
    clients: Vec<(String, Raw)>,
    sent: u16,
    payload: Vec<u8>,
}

impl Publishers {
    fn connect(cluster: &Cluster, place: usize, count: usize, payload_bytes: usize) -> Publishers {
        let connect = |number: usize| {
            let name = format!("load-{number}");
            let (raw, _) = Raw::connect(cluster.node(place).mqtt_port, &Connect::transient(&name)).unwrap();
            (name, raw)
        };
        Publishers { clients: (0..count).map(connect).collect(), sent: 0, payload: vec![7; payload_bytes] }
    }

    /// One message of each. They stay below the Receive Maximum of the broker.
    fn publish(&mut self) {
        if self.sent == 1000 {
            return;
        }
        self.sent += 1;
        for (name, raw) in &mut self.clients {
            let topic = format!("load/{name}/{}", self.sent % 8);
            raw.publish(&topic, &self.payload, true, Some(self.sent)).unwrap();
        }
    }
}

/// Publishes to many groups through a node: all of them are acknowledged.
fn assert_serves(cluster: &Cluster, place: usize, round: &str) {
    wait_for(&format!("publishes by way of node {place} to be acknowledged"), || {
        (0..32)
            .all(|number| {
                let client_id = format!("{round}-{number}");
                Raw::connect(cluster.node(place).mqtt_port, &Connect::transient(&client_id)).is_ok_and(
                    |(mut raw, _)| raw.publish_acked(&format!("{round}/{number}"), b"x", true).is_ok(),
                )
            })
            .then_some(())
    })
    .unwrap();
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn hung_disk_fails_its_clause_and_never_liveness() {
    let test = "hung_disk_fails_its_clause_and_never_liveness";
    if lacking(test, &VOLUME_PROGRAMS) {
        return;
    }
    let volume = match Volume::mount("hung", 1024) {
        Ok(volume) => volume,
        Err(error) => return eprintln!("{test}: skipped, no volume can be made here: {error:#}"),
    };
    let cluster = cluster_on(&volume, "hung");

    // A few writes: the worker goes on, and the node says which clause it is.
    let mut load = Publishers::connect(&cluster, 0, 16, 100);
    let hung = volume.hang().unwrap();
    load.publish();
    // What the others have committed is not in its own log yet.
    wait_failed(&cluster, 2, &["disk", "caught_up"]);
    let text = reason(&cluster, 2, "disk");
    assert!(text.contains("underway"), "{text}");
    drop(hung);
    cluster.wait_ready(2).unwrap();

    // So many that the worker has to wait for the disk: that is no reason to end the process.
    let mut load = Publishers::connect(&cluster, 0, 16, 100);
    let hung = volume.hang().unwrap();
    wait_for("the worker to wait for its disk", || {
        load.publish();
        assert_lives(&cluster, 2);
        let failed = failed_clauses(&cluster, 2).1;
        (failed.contains("disk") && failed.contains("worker")).then_some(())
    })
    .unwrap();
    let since = Instant::now();
    while since.elapsed() < STUCK {
        assert_lives(&cluster, 2);
        pause();
    }
    wait_failed(&cluster, 2, &["disk", "worker"]);
    let text = reason(&cluster, 2, "worker");
    assert!(text.contains("waits for its disk"), "{text}");
    // A silent node is replaced: its groups are led by others.
    assert_serves(&cluster, 0, "without");
    drop(hung);
    cluster.wait_ready(2).unwrap();
    assert_serves(&cluster, 2, "after");
    println!("{test}: /livez 200 over {STUCK:?} of a worker that waited for its disk");
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn full_disk_fails_its_clause_before_anything_fails_to_be_written() {
    let test = "full_disk_fails_its_clause_before_anything_fails_to_be_written";
    if lacking(test, &VOLUME_PROGRAMS) {
        return;
    }
    let volume = match Volume::mount("full", 1024) {
        Ok(volume) => volume,
        Err(error) => return eprintln!("{test}: skipped, no volume can be made here: {error:#}"),
    };
    let cluster = cluster_on(&volume, "full");

    // Little is left: the node says so, and still serves who is there.
    let filled = volume.fill(100 * MIB).unwrap();
    wait_failed(&cluster, 2, &["disk"]);
    let text = reason(&cluster, 2, "disk");
    assert!(text.contains("MiB are free"), "{text}");
    assert_serves(&cluster, 2, "little");
    // More, but not yet enough to say so.
    drop(filled);
    let filled = volume.fill(160 * MIB).unwrap();
    wait_failed(&cluster, 2, &["disk"]);
    drop(filled);
    cluster.wait_ready(2).unwrap();

    // Nothing is left, and the log needs another segment: it waits.
    let filled = volume.fill(0).unwrap();
    let mut load = Publishers::connect(&cluster, 0, 32, 64 * 1024);
    wait_for("the log to wait for space", || {
        load.publish();
        assert_lives(&cluster, 2);
        reason(&cluster, 2, "disk").contains("the disk is full").then_some(())
    })
    .unwrap();
    let since = Instant::now();
    while since.elapsed() < STUCK {
        assert_lives(&cluster, 2);
        pause();
    }
    wait_failed(&cluster, 2, &["disk"]);
    drop(filled);
    cluster.wait_ready(2).unwrap();
    assert_serves(&cluster, 2, "after");
    println!(
        "{test}: not ready with 100 MiB left, /livez 200 over {STUCK:?} without any, ready again unaided"
    );
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn listener_without_files_fails_its_clause_and_the_node_still_answers() {
    let test = "listener_without_files_fails_its_clause_and_the_node_still_answers";
    if lacking(test, &["prlimit"]) {
        return;
    }
    let cluster = Cluster::start("files", 3).unwrap();
    (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
    let node = cluster.node(2);
    let take_all = || {
        let mut clients = Vec::new();
        wait_for("a client to be refused", || {
            match Raw::connect(node.mqtt_port, &Connect::transient(&format!("file-{}", clients.len()))) {
                Ok((client, _)) => clients.push(client),
                Err(_) => return Some(()),
            }
            None
        })
        .unwrap();
        clients
    };

    let few = FewFiles::leave(node.pid, FILES_RESERVED + 8).unwrap();
    // Every answer comes over a new connection.
    let clients = take_all();
    assert!(!clients.is_empty(), "some clients get a connection");
    wait_failed(&cluster, 2, &["listeners"]);
    let text = reason(&cluster, 2, "listeners");
    assert!(text.contains("open files"), "{text}");
    let refused = cluster.metric(2, "quorate_connections_refused_total").unwrap();
    assert!(refused["{reason=\"open_files\"}"] >= 1.0, "{refused:?}");
    // It heals when clients go, though nobody connects.
    drop(clients);
    cluster.wait_ready(2).unwrap();

    let clients = take_all();
    wait_failed(&cluster, 2, &["listeners"]);
    drop(few);
    cluster.wait_ready(2).unwrap();
    let more = Raw::connect(node.mqtt_port, &Connect::transient("one-more")).unwrap();
    println!("{test}: {} clients took all files that they may have, the node answered", clients.len());
    drop((clients, more));
    cluster.check_log().unwrap();
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn worker_that_does_not_run_fails_its_clause_long_before_liveness() {
    let test = "worker_that_does_not_run_fails_its_clause_long_before_liveness";
    if lacking(test, &["strace"]) {
        return;
    }
    let cluster = Cluster::start("worker", 3).unwrap();
    (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
    let held = match Held::thread(cluster.node(2).pid, "worker") {
        Ok(held) => held,
        Err(error) => return eprintln!("{test}: skipped, no thread can be held here: {error:#}"),
    };
    let since = Instant::now();
    wait_failed(&cluster, 2, &["worker"]);
    let said = since.elapsed();
    let text = reason(&cluster, 2, "worker");
    assert!(text.contains("does not answer"), "{text}");
    wait_for("/livez to fail", || (cluster.get(2, "/livez").unwrap().0 == 503).then_some(())).unwrap();
    let stuck = since.elapsed();
    // Others lead what it led.
    assert_serves(&cluster, 0, "without");
    drop(held);
    cluster.wait_ready(2).unwrap();
    assert_lives(&cluster, 2);
    assert_serves(&cluster, 2, "after");
    println!("{test}: not ready and alive after {said:.1?}, /livez 503 after {stuck:.1?}");
    cluster.check_log().unwrap();
}

/// Passes all that comes to a listener on to a port of loopback, for as long as the test's process lives.
fn pass_on(listener: TcpListener, port: u16) {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            let _ended = std::io::copy(&mut from, &mut to);
            let _ended = to.shutdown(std::net::Shutdown::Both);
        })
    };
    thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let Ok(to) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            copy(from.try_clone().unwrap(), to.try_clone().unwrap());
            copy(to, from);
        }
    });
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn node_that_has_not_heard_of_control_says_so() {
    let mut cluster = Cluster::start("control", 3).unwrap();
    (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
    cluster.kill(2).unwrap();
    cluster.wipe(2).unwrap();
    // The others let it join, and then look for it where nobody answers: the state of control does not come to it.
    let wall = TcpListener::bind("127.0.0.1:0").unwrap();
    let advertise = format!("[peer]\nadvertise = \"{}\"\n", wall.local_addr().unwrap());
    let config = std::fs::read_to_string(cluster.config_file(2)).unwrap();
    let peer = config.split_once("[peer]\nbind = \"127.0.0.1:").unwrap().1;
    let port = peer.split_once('"').unwrap().0.parse().unwrap();
    cluster.configure(2, |text| text.replace("[peer]\n", &advertise)).unwrap();
    cluster.restart(2).unwrap();
    wait_for("the node to answer", || cluster.get(2, "/livez").ok()).unwrap();
    wait_failed(&cluster, 2, &["control"]);
    let text = reason(&cluster, 2, "control");
    assert!(text.contains("control group has not come"), "{text}");
    let refused = Raw::refusal(cluster.node(2).mqtt_port, &Connect::transient("early")).unwrap();
    assert!(matches!(refused.get(3), Some(0x88)), "Server unavailable: {refused:?}");

    pass_on(wall, port);
    let mut seen = BTreeSet::new();
    wait_for("the node to be ready", || {
        let (status, failed) = failed_clauses(&cluster, 2);
        seen.extend(failed);
        (status == 200).then_some(())
    })
    .unwrap();
    assert!(seen.contains("votes"), "it receives before it votes: {seen:?}");
    assert_serves(&cluster, 2, "after");
    println!("node_that_has_not_heard_of_control_says_so: {text}; on the way: {seen:?}");
    cluster.check_log().unwrap();
}
