//! Two of three nodes are stopped: the third acknowledges nothing, says so, and recovers unaided.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate_api::Readiness;
use quorate_tests::message::Message;
use quorate_tests::raw::{Connect, Packet, Raw};
use quorate_tests::{Cluster, pause, wait_for};

use crate::{collect, offline_session};

/// Rounds; the node that is left changes.
const ROUNDS: usize = 3;

/// After so long a node that lost contact acknowledges nothing.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// How long the two nodes stay stopped.
const STOPPED: Duration = Duration::from_secs(10);

/// A publisher on the node that is left, and what came back.
struct Publisher {
    raw: Option<Raw>,
    publisher: u32,
    topic: &'static str,
    /// Sequence by packet identifier − 1, with the time when the publish began.
    begun: Vec<(u64, Instant)>,
    acked: Vec<(u64, Instant)>,
    next_sequence: u64,
}

impl Publisher {
    fn connect(&mut self, port: u16) {
        let client_id = format!("min-pub-{}", self.publisher);
        let connected = wait_for("CONNACK", || Raw::connect(port, &Connect::durable(&client_id)).ok());
        self.raw = Some(connected.unwrap().0);
        self.begun.clear();
    }

    /// Begins one publish; a closed connection stays closed.
    fn begin(&mut self) {
        let Some(raw) = &mut self.raw else { return };
        let (sequence, packet_id) = (self.next_sequence, self.begun.len() as u16 + 1);
        self.next_sequence += 1;
        self.begun.push((sequence, Instant::now()));
        let payload = Message { publisher: self.publisher, sequence }.encode(64);
        if raw.publish(self.topic, &payload, false, Some(packet_id)).is_err() {
            self.raw = None;
        }
    }

    /// Reads what has come. Gives the begin of each publish that was acknowledged.
    fn read(&mut self, wait: Duration) -> Vec<Instant> {
        let mut begins = Vec::new();
        while let Some(raw) = &mut self.raw {
            match raw.read_within(wait).unwrap() {
                Some(Some(Packet::Puback { packet_id, reason })) if reason < 0x80 => {
                    let (sequence, begin) = self.begun[usize::from(packet_id) - 1];
                    self.acked.push((sequence, Instant::now()));
                    begins.push(begin);
                }
                // A refusal is an answer too; the message is indeterminate.
                Some(Some(Packet::Puback { .. } | Packet::Disconnect { .. })) => {}
                Some(Some(other)) => panic!("{other:?} to a publisher"),
                Some(None) => self.raw = None,
                None => break,
            }
        }
        begins
    }
}

/// `/readyz` of a node: status and the names of the failed clauses.
fn failed_clauses(cluster: &Cluster, node: usize) -> (u16, Vec<String>) {
    let (status, body) = cluster.get(node, "/readyz").unwrap();
    let readiness: Readiness = serde_json::from_str(&body).unwrap();
    (status, readiness.failed().map(|clause| clause.name.clone()).collect())
}

/// Watches the node that is left while the others are stopped. Gives the failed clauses seen last.
fn watch(cluster: &Cluster, left: usize, publishers: &mut [Publisher], stopped: Instant) -> Vec<String> {
    let mut clauses = Vec::new();
    let mut refused = None;
    while stopped.elapsed() < STOPPED {
        for publisher in publishers.iter_mut() {
            publisher.begin();
            for begin in publisher.read(Duration::from_millis(5)) {
                let after = begin.saturating_duration_since(stopped);
                assert!(after < SILENT_AFTER, "a publish begun {after:?} after the stop was acknowledged");
                let ended = stopped.elapsed();
                assert!(ended < SILENT_AFTER * 3 / 2, "acknowledged {ended:?} after the stop");
            }
        }
        let begun = stopped.elapsed();
        assert_eq!(cluster.get(left, "/livez").unwrap().0, 200, "/livez");
        let (status, failed) = failed_clauses(cluster, left);
        if begun > SILENT_AFTER {
            assert_eq!(status, 503, "/readyz {begun:?} after the stop");
            assert!(!failed.is_empty(), "/readyz names no clause");
            clauses = failed;
            if refused.is_none() {
                let connect = Connect::durable("min-refused");
                let error =
                    Raw::connect(cluster.node(left).mqtt_port, &connect).err().expect("a refused CONNECT");
                let text = format!("{error:#}");
                assert!(text.contains("0x88") || text.contains("0x9C"), "CONNECT: {text}");
                refused = Some(text);
            }
        }
        pause();
    }
    clauses
}

/// Connects and publishes once, to a topic with a durable match.
fn probe(port: u16) -> anyhow::Result<()> {
    let (mut raw, _) = Raw::connect(port, &Connect::transient("min-probe"))?;
    let payload = Message { publisher: 9, sequence: 0 }.encode(64);
    raw.publish_acked("min/matched/probe", &payload, false)
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn two_of_three_stopped() {
    let cluster = Cluster::start("two-stopped", 3).unwrap();
    offline_session(cluster.node(0).mqtt_port, "min-offline", "min/matched/#");
    // With a durable match, which needs a commit, and without any, which does not.
    let publisher = |(publisher, topic): (u32, &'static str)| Publisher {
        raw: None,
        publisher,
        topic,
        begun: Vec::new(),
        acked: Vec::new(),
        next_sequence: 0,
    };
    let mut publishers = [(0, "min/matched/a"), (1, "min/unmatched")].map(publisher);
    let (mut longest_recovery, mut longest_ready) = (Duration::ZERO, Duration::ZERO);
    let mut clauses = BTreeSet::new();
    for round in 0..ROUNDS {
        let left = round % 3;
        let stopped_nodes = [(left + 1) % 3, (left + 2) % 3];
        for publisher in &mut publishers {
            publisher.connect(cluster.node(left).mqtt_port);
            for _ in 0..50 {
                publisher.begin();
                while publisher.read(Duration::from_millis(5)).is_empty() {
                    assert!(publisher.raw.is_some(), "closed in a sound cluster");
                }
            }
        }
        for node in stopped_nodes {
            cluster.signal(node, "STOP").unwrap();
        }
        clauses.extend(watch(&cluster, left, &mut publishers, Instant::now()));
        for node in stopped_nodes {
            cluster.signal(node, "CONT").unwrap();
        }
        let continued = Instant::now();
        wait_for("a PUBACK after the nodes go on", || probe(cluster.node(left).mqtt_port).ok()).unwrap();
        longest_recovery = longest_recovery.max(continued.elapsed());
        for node in 0..3 {
            cluster.wait_ready(node).unwrap();
        }
        longest_ready = longest_ready.max(continued.elapsed());
        for publisher in &mut publishers {
            // What waited is acknowledged now, or its connection was closed.
            publisher.read(Duration::from_secs(1));
        }
    }
    let acked: BTreeSet<u64> = publishers[0].acked.iter().map(|(sequence, _)| *sequence).collect();
    collect(cluster.node(1).mqtt_port, "min-offline", |counts| {
        counts.len() >= acked.len() && acked.iter().all(|sequence| counts.contains_key(&(0, *sequence)))
    });
    cluster.check_log().unwrap();
    println!(
        "two_of_three_stopped: {ROUNDS} rounds of {} s, failed clauses {clauses:?}, {} acknowledged all delivered, \
         first PUBACK after SIGCONT within {} ms, all nodes ready within {} ms",
        STOPPED.as_secs(),
        acked.len(),
        longest_recovery.as_millis(),
        longest_ready.as_millis()
    );
}
