//! Node after node is restarted under load: nothing is lost, nobody is disconnected twice by a node, and a fault in the
//! middle stops it safely.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use quorate_tests::load::{Load, Shape};
use quorate_tests::raw::{Connect, Raw};
use quorate_tests::{Cluster, binary, pause, wait_for};

/// Clients that hold a connection and do nothing else.
pub(crate) const CLIENTS: usize = 500;

/// Times that all nodes are restarted.
const ROUNDS: usize = 5;

/// Longest time until a client that was told to go has a connection again.
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// Longest pause between two acknowledgements to any publisher.
const STALL_MAX_MS: u64 = 1000;

/// Clients with a durable session each, that connect to another node when they are told to go.
pub(crate) struct Crowd {
    ports: Vec<u16>,
    stop: Arc<AtomicBool>,
    away: Arc<AtomicU64>,
    log: Arc<Mutex<Vec<Away>>>,
    threads: Vec<JoinHandle<()>>,
}

/// A client lost its connection and found another.
#[derive(Clone, Debug)]
struct Away {
    client: usize,
    port: u16,
    for_time: Duration,
}

impl Crowd {
    pub(crate) fn start(cluster: &Cluster, count: usize) -> Crowd {
        let ports = cluster.ports_from(0);
        let mut crowd = Crowd {
            ports,
            stop: Arc::default(),
            away: Arc::new(AtomicU64::new(count as u64)),
            log: Arc::default(),
            threads: Vec::new(),
        };
        for client in 0..count {
            let (ports, stop) = (crowd.ports.clone(), Arc::clone(&crowd.stop));
            let (away, log) = (Arc::clone(&crowd.away), Arc::clone(&crowd.log));
            let life = move || live(client, &ports, &stop, &away, &log);
            let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(life).unwrap();
            crowd.threads.push(thread);
        }
        crowd
    }

    pub(crate) fn wait_all_there(&self) {
        wait_for("every client has a connection", || (self.away.load(Ordering::SeqCst) == 0).then_some(()))
            .unwrap();
    }

    /// What happened since the last call.
    fn take(&self) -> Vec<Away> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn live(client: usize, ports: &[u16], stop: &AtomicBool, away: &AtomicU64, log: &Mutex<Vec<Away>>) {
    let mut at = client;
    let mut lost: Option<(Instant, u16)> = None;
    while !stop.load(Ordering::SeqCst) {
        let port = ports[at % ports.len()];
        let connect = Connect { expiry_s: 600, ..Connect::transient(&format!("crowd-{client}")) };
        let Ok((mut raw, _)) = Raw::connect(port, &connect) else {
            at += 1;
            pause();
            continue;
        };
        if let Some((since, port)) = lost.take() {
            let for_time = since.elapsed();
            log.lock().unwrap().push(Away { client, port, for_time });
        }
        away.fetch_sub(1, Ordering::SeqCst);
        let ended = raw.wait_for_end(|| stop.load(Ordering::SeqCst));
        away.fetch_add(1, Ordering::SeqCst);
        if ended {
            lost = Some((Instant::now(), port));
        }
        at += 1;
    }
}

/// The command, whose steps come line by line.
pub(crate) struct Rolling {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    seen: usize,
}

impl Rolling {
    pub(crate) fn start(cluster: &Cluster, more: &[&str]) -> Rolling {
        let mut child = Command::new(binary().unwrap())
            .args(["cluster", "rolling-restart", "--wait", "--grace", "1s", "--admin"])
            .arg(format!("http://{}", cluster.node(0).admin))
            .arg("--progress")
            .arg(cluster.folder().join("rolling.json"))
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let into = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).for_each(|line| into.lock().unwrap().push(line));
        });
        Rolling { child, lines, reader: Some(reader), seen: 0 }
    }

    /// The next line with this in it, or `None` at the end of the command.
    fn next(&mut self, wanted: &str) -> Option<String> {
        wait_for(wanted, || {
            let ended = self.child.try_wait().unwrap().is_some();
            let lines = self.lines.lock().unwrap();
            let found = lines.iter().skip(self.seen).position(|line| line.contains(wanted));
            match found {
                Some(at) => {
                    self.seen += at + 1;
                    Some(Some(lines[self.seen - 1].clone()))
                }
                None => ended.then_some(None),
            }
        })
        .unwrap()
    }

    pub(crate) fn end(mut self) -> (bool, String) {
        let status = self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status.success(), self.lines.lock().unwrap().join("\n"))
    }
}

/// Restarts what the command says until it ends, with this program.
pub(crate) fn obey(cluster: &mut Cluster, rolling: &mut Rolling, program: &Path) {
    while let Some(line) = rolling.next("restart n") {
        let name = line.trim().trim_start_matches("restart ").trim_end_matches(" now").to_owned();
        let place = (0..3).find(|place| cluster.node(*place).name == name).unwrap();
        cluster.stop(place).unwrap();
        cluster.restart_with(place, program).unwrap();
    }
}

/// `quorate verify` with QoS 1 and 2, until it is ended.
pub(crate) struct Verify(Child);

pub(crate) fn verify_in_background(cluster: &Cluster) -> Verify {
    let brokers: Vec<String> = cluster.ports_from(1).iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let child = Command::new(binary().unwrap())
        .args(["verify", "--qos", "mixed", "--duration", "1h", "--output", "json", "--brokers"])
        .arg(brokers.join(","))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Verify(child)
}

impl Verify {
    /// Its report.
    pub(crate) fn end(mut self) -> serde_json::Value {
        Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().unwrap();
        let mut summary = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut summary).unwrap();
        self.0.wait().unwrap();
        serde_json::from_str(summary.lines().last().unwrap_or_default()).unwrap()
    }
}

pub(crate) fn assert_calm(crowd: &Crowd, what: &str) -> Duration {
    let gone = crowd.take();
    let longest = gone.iter().map(|away| away.for_time).max().unwrap_or_default();
    assert!(longest < BACK_WITHIN, "{what}: a client was away for {longest:?}");
    let mut counts = std::collections::BTreeMap::new();
    for away in &gone {
        *counts.entry((away.client, away.port)).or_insert(0) += 1;
    }
    let twice: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{what}: disconnected more than once by one node: {twice:?}");
    longest
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn rolling_restart_under_load() {
    let mut cluster = Cluster::start("rolling", 3).unwrap();
    let crowd = Crowd::start(&cluster, CLIENTS);
    crowd.wait_all_there();
    let shape = Shape { publishers: 6, subscribers: 3, by_hand: 0, rate: 200, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "rolling", shape).unwrap();
    load.wait_progress(500).unwrap();
    let verify = verify_in_background(&cluster);
    for round in 0..ROUNDS {
        let start = Instant::now();
        let mut rolling = Rolling::start(&cluster, &[]);
        obey(&mut cluster, &mut rolling, binary().unwrap());
        let (succeeded, said) = rolling.end();
        assert!(succeeded, "round {round}: {said}");
        crowd.wait_all_there();
        let longest = assert_calm(&crowd, &format!("round {round}"));
        println!(
            "rolling_restart_under_load: round {round}: {:.1} s, longest away {} ms",
            start.elapsed().as_secs_f64(),
            longest.as_millis()
        );
        load.wait_progress(200).unwrap();
    }
    let report = verify.end();
    println!("rolling_restart_under_load: verify: {report}");
    assert!(report["kept"].as_bool().unwrap_or(false), "{report}");
    let stall = report["longest_ack_gap_ms"].as_u64().unwrap();
    assert!(stall < STALL_MAX_MS, "publishers waited for {stall} ms");
    load.end().unwrap();
    load.drain().unwrap();
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}\n{}", load.audit().summary());
    crowd.end();
    cluster.check_log().unwrap();
    println!("rolling_restart_under_load: {ROUNDS} rounds, {}", load.audit().summary());
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn node_killed_in_the_middle_stops_a_rolling_restart_and_a_second_run_ends_it() {
    let mut cluster = Cluster::start("rolling-kill", 3).unwrap();
    let shape = Shape { publishers: 4, subscribers: 2, by_hand: 0, rate: 100, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "rolling-kill", shape).unwrap();
    load.wait_progress(200).unwrap();
    for step in ["2/7", "4/7", "restart n"] {
        let mut rolling = Rolling::start(&cluster, &["--gate-timeout", "3s"]);
        let first = rolling.next("(1 of").unwrap();
        let first = first.split(' ').next().unwrap().to_owned();
        rolling.next(step).unwrap();
        let victim = (0..3).find(|place| cluster.node(*place).name != first && *place != 0).unwrap();
        cluster.kill(victim).unwrap();
        assert_eq!(rolling.next("never said"), None);
        let (succeeded, said) = rolling.end();
        assert!(!succeeded && said.contains("nothing more is touched"), "after {step}: {said}");
        load.wait_progress(100).unwrap();
        cluster.restart(victim).unwrap();
        cluster.wait_ready(victim).unwrap();
        let mut rolling = Rolling::start(&cluster, &[]);
        obey(&mut cluster, &mut rolling, binary().unwrap());
        let (succeeded, said) = rolling.end();
        assert!(succeeded && said.contains("going on with the restart"), "after {step}: {said}");
        load.wait_progress(100).unwrap();
    }
    load.end().unwrap();
    load.drain().unwrap();
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}\n{}", load.audit().summary());
    cluster.check_log().unwrap();
}
