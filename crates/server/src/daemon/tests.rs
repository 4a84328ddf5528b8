//! Whole daemons in one process, with real sockets and disks.

use std::net::TcpListener as StdListener;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Instant;

use tokio::runtime::Runtime;

mod damaged;
mod ends;
mod listeners;
mod mended;
mod old_disk;
mod restored;
mod traces;

use super::*;
use crate::config::{BootstrapNode, ListenerSettings, PeerSettings};
use crate::metrics::catalog;
use crate::testing::{Authority, TestClient, TestFolder, http_get};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn config(folder: &TestFolder, name: &str) -> Config {
    let mut config = Config::default();
    config.node.name = name.to_owned();
    config.node.data_dir = folder.path().join(name);
    config.listeners = vec![ListenerSettings::plain(ListenerKind::Tcp, loopback(0))];
    config.admin.bind = loopback(0);
    config.cluster.partitions = 2;
    config.storage.segment_bytes = 1024 * 1024;
    config
}

/// Runs a daemon until it is dropped, as `serve` does.
struct Running {
    daemon: Option<Daemon>,
    _runtime: Runtime,
    _stop: watch::Sender<bool>,
}

impl Running {
    fn start(config: &Config) -> Running {
        let runtime = runtime();
        let (sender, receiver) = watch::channel(false);
        let daemon = Daemon::start(config, runtime.handle(), receiver).unwrap();
        Running { daemon: Some(daemon), _runtime: runtime, _stop: sender }
    }

    fn addresses(&self) -> Addresses {
        self.daemon.as_ref().unwrap().addresses().clone()
    }

    fn mqtt(&self) -> SocketAddr {
        self.addresses().clients[0].1.address().unwrap()
    }

    fn wait_until_ready(&self) {
        let admin = self.addresses().admin;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (status, body) = http_get(admin, "/readyz");
            if status == 200 {
                return;
            }
            assert!(Instant::now() < deadline, "not ready: {body}");
            std::thread::yield_now();
        }
    }

    fn stop(mut self) {
        self.daemon.take().unwrap().stop(Duration::ZERO);
    }
}

#[test]
fn single_node_serves_and_keeps_what_it_acknowledged_over_a_restart() {
    let folder = TestFolder::new();
    let config = config(&folder, "n1");
    let node = Running::start(&config);
    node.wait_until_ready();
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", Some(3600));
    subscriber.subscribe("a/#");
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    publisher.publish("a/b", "one", false);
    assert_eq!(subscriber.message(), "one");
    drop(subscriber);
    publisher.publish("a/b", "two", false);
    publisher.publish("r", "kept", true);
    let admin = node.addresses().admin;
    assert_eq!(http_get(admin, "/livez").0, 200);
    let (status, body) = http_get(admin, "/v1/cluster/state?hash=true");
    assert_eq!(status, 200, "{body}");
    let state: quorate_api::ClusterState = serde_json::from_str(&body).unwrap();
    assert_eq!(state.groups.len(), 3);
    assert_eq!(state.nodes.len(), 1);
    let (_, metrics) = http_get(admin, "/metrics");
    assert!(metrics.contains("quorate_groups_led 3\n"), "{metrics}");
    check_metrics(&metrics);
    let (status, openapi) = http_get(admin, "/v1/openapi.json");
    assert!(
        status == 200
            && openapi.contains("/v1/cluster/state")
            && openapi.contains("/v1/sessions/{client_id}")
    );
    assert_eq!(http_get(admin, "/none").0, 404);
    let (status, page) = http_get(admin, "/");
    assert!(status == 200 && page.starts_with("<!doctype html>"), "{page}");
    let (status, body) = http_get(admin, "/v1/listeners");
    let list: quorate_api::listeners::ListenerList = serde_json::from_str(&body).unwrap();
    let named = list.listeners.iter().find(|listener| listener.kind == "tcp").unwrap();
    assert_eq!((status, &named.address), (200, &node.mqtt().to_string()));
    let mut member = TestClient::connect(node.mqtt(), "member", None);
    member.subscribe("$share/g/s/#");
    publisher.publish("s/1", "shared", false);
    assert_eq!(member.message(), "shared");
    let (status, body) = http_get(admin, "/v1/shares?limit=1");
    assert_eq!(status, 200, "{body}");
    let page: quorate_api::shares::SharePage = serde_json::from_str(&body).unwrap();
    assert_eq!((page.shares[0].filter.as_str(), page.shares[0].members_total), ("$share/g/s/#", 1));
    assert!(page.shares[0].members[0].online);
    let (status, body) = http_get(admin, "/v1/shares?after=%24share%2Fg%2Fs%2F%23");
    assert_eq!((status, body.contains("$share")), (200, false), "{body}");
    assert_eq!(http_get(admin, "/v1/shares?after=a%2F%23%2Fb").0, 400);
    drop(member);
    node.stop();

    let node = Running::start(&config);
    node.wait_until_ready();
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", Some(3600));
    assert!(subscriber.session_present);
    assert_eq!(subscriber.message(), "two");
    subscriber.subscribe("r");
    assert_eq!(subscriber.message(), "kept");
    node.stop();
}

/// What `/metrics` shows is what the catalogue lists, each once and whole, and each line is one that Prometheus reads.
fn check_metrics(text: &str) {
    for metric in catalog::all() {
        let head = format!("# TYPE {} {}\n", metric.name, metric.kind.name());
        assert_eq!(text.matches(&head).count(), 1, "{head}");
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
    }
    let mut family = None;
    for line in text.lines().filter(|line| !line.starts_with("# HELP")) {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            let name = head.split(' ').next().unwrap();
            family = catalog::all().find(|metric| metric.name == name);
            assert!(family.is_some(), "{name} is not in the catalogue");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let metric = family.unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(series.starts_with(metric.name), "{line} does not belong to {}", metric.name);
        let labels = series.matches("=\"").count();
        let bucket = usize::from(series.contains("_bucket{le="));
        assert_eq!(labels, metric.labels.len() + bucket, "{line}");
    }
    // What a node that serves clients certainly has.
    for line in [
        "quorate_ready 1",
        "quorate_ready_clause{clause=\"lease\"} 1",
        "quorate_cluster_nodes{state=\"live\"} 1",
        "quorate_group_leader{group=\"0\"} 1",
        "quorate_group_replication_lag_entries{group=\"1\"} 0",
        "quorate_placement_violations 0",
        "quorate_draining 0",
        "quorate_disconnects_total{cause=\"takeover\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}\n{text}"))
    };
    for name in [
        "quorate_publish_seconds_count",
        "quorate_log_fsync_seconds_count",
        "quorate_lease_left_seconds",
        "quorate_disk_free_bytes",
        "quorate_data_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(value(name) > 0.0, "{name}");
    }
}

fn get<T: serde::de::DeserializeOwned>(node: &Running, path: &str) -> T {
    let (status, body) = http_get(node.addresses().admin, path);
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn sessions_are_explained_and_listed_in_pages() {
    let folder = TestFolder::new();
    let mut config = config(&folder, "n1");
    (config.limits.queue_messages_max, config.limits.overflow) = (2, crate::config::Overflow::DropOldest);
    let node = Running::start(&config);
    node.wait_until_ready();
    for client in ["b", "a/x y", "c"] {
        TestClient::connect(node.mqtt(), client, Some(3600)).subscribe("t");
    }
    let path = "/v1/sessions/a%2Fx%20y";
    let deadline = Instant::now() + Duration::from_secs(30);
    let online = |found: &quorate_api::SessionExplanation| found.session.as_ref().unwrap().owner.is_some();
    while online(&get(&node, path)) {
        assert!(Instant::now() < deadline, "the connection is over and the session has it still");
        std::thread::yield_now();
    }
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    (0..5).for_each(|number| publisher.publish("t", &number.to_string(), false));
    let found: quorate_api::SessionExplanation = get(&node, path);
    let session = found.session.unwrap();
    assert_eq!((found.client_id.as_str(), found.leading, session.queue.messages), ("a/x y", true, 2));
    assert_eq!((session.dropped[0].reason.as_str(), session.dropped[0].count), ("queue_messages", 3));
    let names: Vec<&str> = found.findings.iter().map(|finding| finding.name.as_str()).collect();
    assert_eq!(names, ["offline", "queue_full", "dropped"]);
    let nobody: quorate_api::SessionExplanation = get(&node, "/v1/sessions/nobody");
    assert!(nobody.session.is_none() && nobody.findings[0].name == "no_session");

    let mut listed = Vec::new();
    let mut path = "/v1/sessions?limit=2".to_owned();
    loop {
        let page: quorate_api::SessionPage = get(&node, &path);
        assert!(page.sessions.len() <= 2 && page.missing_partitions.is_empty());
        listed.extend(page.sessions.into_iter().map(|session| session.client_id));
        let Some(after) = page.next_after else { break };
        path = format!("/v1/sessions?limit=2&after={}", after.replace('/', "%2F").replace(' ', "%20"));
    }
    assert_eq!(listed, ["a/x y", "b", "c", "pub"]);
    node.stop();
}

#[test]
fn transient_clients_exchange_messages_without_the_log() {
    let folder = TestFolder::new();
    let node = Running::start(&config(&folder, "n1"));
    node.wait_until_ready();
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", None);
    subscriber.subscribe("t/+");
    let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
    for number in 0..100 {
        publisher.publish("t/x", &number.to_string(), false);
    }
    for number in 0..100 {
        assert_eq!(subscriber.message(), number.to_string());
    }
    assert_eq!(node.daemon.as_ref().unwrap().edge().metrics.publishes_durable.value(), 0);
    node.stop();
}

/// Ends the threads that watch the flag, also when the test fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn clients_that_never_stop_publishing_leave_time_for_others() {
    let folder = TestFolder::new();
    let node = Running::start(&config(&folder, "n1"));
    node.wait_until_ready();
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", None);
    subscriber.subscribe("t/+");
    // More than the runtime has threads. Small packets take longer to read than to write, so that the sockets never
    // run dry.
    let flooders: Vec<TestClient> =
        (0..4).map(|at| TestClient::connect(node.mqtt(), &format!("flood{at}"), None)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut flooder in flooders {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    flooder.send_raw(&[0x30, 4, 0, 1, b'x', 0].repeat(20_000));
                }
            });
        }
        let _end = SetWhenDropped(&done);
        let mut publisher = TestClient::connect(node.mqtt(), "pub", None);
        for number in 0..10 {
            publisher.publish("t/x", &number.to_string(), false);
            assert_eq!(subscriber.message(), number.to_string());
        }
    });
    node.stop();
}

#[test]
fn data_folder_of_another_node_or_in_use_is_refused() {
    let folder = TestFolder::new();
    let mut config = config(&folder, "n1");
    let node = Running::start(&config);
    let again = Daemon::start(&config, runtime().handle(), watch::channel(false).1);
    assert!(matches!(again, Err(StartError::Boot(BootError::Identity(_)))), "it is locked");
    node.stop();
    config.node.name = "n2".to_owned();
    let other = Daemon::start(&config, runtime().handle(), watch::channel(false).1);
    assert!(matches!(other, Err(StartError::Boot(BootError::OtherNode { .. }))));
}

/// Ports below those that the system gives out by itself, so that no test takes another's.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 100).unwrap() * 100;
    let candidates = std::iter::repeat_with(|| base + NEXT.fetch_add(1, Ordering::Relaxed));
    candidates.filter(|port| StdListener::bind(loopback(*port)).is_ok()).take(count).collect()
}

fn three(folder: &TestFolder) -> Vec<Config> {
    let authority = Authority::new();
    let ports = free_ports(3);
    let bootstrap: Vec<BootstrapNode> = (1..)
        .zip(&ports)
        .map(|(id, port)| BootstrapNode { name: format!("n{id}"), peer: loopback(*port).to_string() })
        .collect();
    let make = |node: &BootstrapNode| {
        let mut config = config(folder, &node.name);
        let certificates = folder.path().join(format!("{}-tls", node.name));
        std::fs::create_dir_all(&certificates).unwrap();
        authority.write(&certificates, &node.name);
        config.peer = Some(PeerSettings {
            bind: node.peer.parse().unwrap(),
            advertise: node.peer.clone(),
            ca_file: certificates.join("ca.pem"),
            cert_file: certificates.join("cert.pem"),
            key_file: certificates.join("key.pem"),
        });
        config.cluster.bootstrap = bootstrap.clone();
        config
    };
    bootstrap.iter().map(make).collect()
}

fn state(node: &Running) -> quorate_api::ClusterState {
    let (_, body) = http_get(node.addresses().admin, "/v1/cluster/state");
    serde_json::from_str(&body).unwrap()
}

fn start_all(configs: &[Config]) -> Vec<Running> {
    let nodes: Vec<Running> = std::thread::scope(|scope| {
        let starting: Vec<_> = configs.iter().map(|config| scope.spawn(|| Running::start(config))).collect();
        starting.into_iter().map(|node| node.join().unwrap()).collect()
    });
    for node in &nodes {
        node.wait_until_ready();
    }
    nodes
}

#[test]
fn three_nodes_found_a_cluster_and_survive_the_loss_of_one() {
    let folder = TestFolder::new();
    let configs = three(&folder);
    let mut nodes = start_all(&configs);
    let mut subscriber = TestClient::connect(nodes[0].mqtt(), "sub", Some(3600));
    subscriber.subscribe("a/#");
    let mut publisher = TestClient::connect(nodes[2].mqtt(), "pub", None);
    publisher.publish("a/1", "one", false);
    assert_eq!(subscriber.message(), "one");
    let mut transient = TestClient::connect(nodes[1].mqtt(), "transient", None);
    transient.subscribe("a/#");
    publisher.publish("a/2", "two", false);
    assert_eq!(transient.message(), "two");
    assert_eq!(subscriber.message(), "two");
    nodes.remove(0).stop();
    let mut subscriber = TestClient::connect(nodes[0].mqtt(), "sub", Some(3600));
    assert!(subscriber.session_present);
    publisher.publish("a/3", "three", false);
    let mut next = subscriber.message();
    if next == "two" {
        next = subscriber.message(); // Its acknowledgement may have gone down with the node.
    }
    assert_eq!(next, "three");
    for node in nodes {
        node.stop();
    }
}

#[test]
fn wiped_node_joins_again_under_a_new_identity() {
    let folder = TestFolder::new();
    let configs = three(&folder);
    let mut nodes = start_all(&configs);
    let mut publisher = TestClient::connect(nodes[0].mqtt(), "pub", None);
    publisher.publish("r", "kept", true);
    nodes.remove(2).stop();
    std::fs::remove_dir_all(&configs[2].node.data_dir).unwrap();
    let node = Running::start(&configs[2]);
    node.wait_until_ready();
    let (_, body) = http_get(node.addresses().admin, "/v1/cluster/state");
    let state: quorate_api::ClusterState = serde_json::from_str(&body).unwrap();
    assert_eq!(state.node_id, 4, "an identity is never used again");
    let mut subscriber = TestClient::connect(node.mqtt(), "sub", None);
    subscriber.subscribe("r");
    assert_eq!(subscriber.message(), "kept");
    node.stop();
    for node in nodes {
        node.stop();
    }
}
