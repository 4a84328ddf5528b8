//! The doctor as a whole: injected faults are named rightly, and a sound node gets no finding.
//!
//! Owns: a node and its peer, played by this process as far as the doctor looks at them. Does not: start a real node;
//! `crates/tests` does.
//! Limits: ports are looked for below the range of outgoing connections.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use quorate_api::{ClusterState, NodeState, NodeStatus};
use quorate_server::config::PeerSettings;
use quorate_server::net::tls::PeerTls;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// What is true of the machine that the test runs on, not of the node.
const OF_THE_MACHINE: [&str; 9] = [
    "data_dir_volatile",
    "data_dir_layer",
    "data_dir_network",
    "disk_low",
    "memory_low",
    "backlog_limit_low",
    "ports_used_up",
    "memory_swapped",
    "clock_steps",
];

/// An authority whose certificates can be wrong.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `FILE.pem`, `FILE.key` and `FILE-ca.pem` for a node.
    fn issue(&self, dir: &Path, file: &str, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{file}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{file}-ca.pem")), &self.pem).unwrap();
        write_private(&dir.join(format!("{file}.key")), &key.serialize_pem());
    }
}

fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A host without flaws, unless the test gives it one.
struct TestHost {
    sync: Duration,
    files: u64,
}

impl Host for TestHost {
    fn write_durably(&self, _file: &File, _bytes: &[u8], _offset: u64) -> io::Result<Duration> {
        Ok(self.sync)
    }

    fn files_max(&self, _pid: u32) -> Option<u64> {
        Some(self.files)
    }
}

/// What the other node does.
struct PeerPlay {
    port: u16,
    certificate: &'static str,
    version: &'static str,
    cluster: &'static str,
    clock_ahead: Duration,
}

/// The node n1 and what surrounds it. Each part can be changed before [`Patient::findings`].
struct Patient {
    dir: TempDir,
    ca: Ca,
    host: TestHost,
    running: bool,
    config: String,
    mqtt: u16,
    admin: u16,
    own_peer: u16,
    other_admin: u16,
    peer: PeerPlay,
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 5_000).unwrap();
    loop {
        let port = 22_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Patient {
    /// A sound node that runs, or does not.
    fn new(running: bool) -> Patient {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        ca.issue(dir.path(), "n1", "n1", |_| ());
        ca.issue(dir.path(), "n2", "n2", |_| ());
        let [mqtt, admin, own_peer, other, other_admin] = [(); 5].map(|()| free_port());
        let config = format!(
            "[node]\nname = \"n1\"\ndata_dir = \"data\"\n[[listener]]\nbind = \"127.0.0.1:{mqtt}\"\nconnections_max = 100\n\
             [admin]\nbind = \"127.0.0.1:{admin}\"\n[peer]\nbind = \"127.0.0.1:{own_peer}\"\nca_file = \"n1-ca.pem\"\n\
             cert_file = \"n1.pem\"\nkey_file = \"n1.key\"\n[cluster]\nname = \"c\"\nbootstrap = [\n\
             {{ name = \"n1\", peer = \"127.0.0.1:{own_peer}\" }},\n{{ name = \"n2\", peer = \"127.0.0.1:{other}\" }},\n]\n"
        );
        fs::create_dir(dir.path().join("data")).unwrap();
        let peer = PeerPlay {
            port: other,
            certificate: "n2",
            version: "0.1.0",
            cluster: "c1",
            clock_ahead: Duration::ZERO,
        };
        let host = TestHost { sync: Duration::ZERO, files: 100_000 };
        Patient { dir, ca, host, running, config, mqtt, admin, own_peer, other_admin, peer }
    }

    /// What two nodes say of themselves.
    fn state(&self, of: u64) -> ClusterState {
        let node = |id: u64, admin, peer| NodeStatus {
            id,
            name: format!("n{id}"),
            state: NodeState::Live,
            admin: Some(format!("http://127.0.0.1:{admin}")),
            peer: Some(format!("127.0.0.1:{peer}")),
            ..NodeStatus::default()
        };
        ClusterState {
            cluster_id: if of == 1 { "c1" } else { self.peer.cluster }.to_owned(),
            node_id: of,
            node_name: format!("n{of}"),
            version: if of == 1 { "0.1.0" } else { self.peer.version }.to_owned(),
            nodes: vec![node(1, self.admin, self.own_peer), node(2, self.other_admin, self.peer.port)],
            ..ClusterState::default()
        }
    }

    /// Codes of the findings, without those that are true of this machine.
    async fn findings(&self) -> BTreeSet<&'static str> {
        fs::write(self.dir.path().join("quorate.toml"), &self.config).unwrap();
        let mut held = Vec::new();
        if self.running {
            held.push(File::create(self.dir.path().join("data/lock")).unwrap());
            for port in [self.mqtt, self.own_peer] {
                tokio::spawn(hold(listen(port).await));
            }
            tokio::spawn(serve_state(listen(self.admin).await, self.state(1), Duration::ZERO));
            tokio::spawn(serve_state(listen(self.other_admin).await, self.state(2), self.peer.clock_ahead));
        }
        if self.peer.port != 0 {
            let file = |end: &str| self.dir.path().join(format!("{}{end}", self.peer.certificate));
            let settings = PeerSettings {
                bind: "127.0.0.1:0".parse().unwrap(),
                advertise: String::new(),
                ca_file: file("-ca.pem"),
                cert_file: file(".pem"),
                key_file: file(".key"),
            };
            tokio::spawn(accept_peers(listen(self.peer.port).await, PeerTls::load(&settings).unwrap()));
        }
        let args = DoctorArgs {
            config: Some(self.dir.path().join("quorate.toml")),
            admin: None,
            output: Output::Json,
        };
        let report = examine(&args, &self.host).await;
        for Finding { code, message, place, hint, .. } in &report.findings {
            assert!(!message.is_empty() && !place.is_empty() && !hint.is_empty(), "{code}");
            let documented =
                include_str!("../../../../docs/operations/doctor.md").contains(&format!("`{code}`"));
            assert!(documented, "{code} is not in docs/operations/doctor.md");
        }
        let codes = report.findings.iter().map(|finding| finding.code);
        codes.filter(|code| !OF_THE_MACHINE.contains(code)).collect()
    }
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.unwrap()
}

async fn hold(listener: TcpListener) {
    while listener.accept().await.is_ok() {}
}

/// Takes peers as a node does, and waits for them to speak.
async fn accept_peers(listener: TcpListener, tls: PeerTls) {
    let tls = Arc::new(tls);
    while let Ok((stream, _)) = listener.accept().await {
        let tls = tls.clone();
        tokio::spawn(async move {
            if let Ok(mut stream) = tls.accept(stream).await {
                let _silent = stream.read_u8().await;
            }
        });
    }
}

async fn serve_state(listener: TcpListener, state: ClusterState, ahead: Duration) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await.unwrap_or(0);
        let body = match String::from_utf8_lossy(&request[..length]).starts_with("GET /readyz") {
            true => r#"{"ready":true,"clauses":[]}"#.to_owned(),
            false => serde_json::to_string(&state).unwrap(),
        };
        let date = httpdate::fmt_http_date(SystemTime::now() + ahead);
        let head = format!("HTTP/1.0 200 OK\r\ndate: {date}\r\ncontent-length: {}\r\n\r\n", body.len());
        let _gone = stream.write_all(format!("{head}{body}").as_bytes()).await;
    }
}

/// A file system of its own in memory, gone with the value; `None` where this user may not mount one.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    fn new(dir: &'a Path, options: &str) -> Option<Mount<'a>> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "quorate-test"]).arg(dir).stderr(Stdio::null());
        let mounted = mount.status().is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: this user may not mount a file system");
        }
        mounted.then(|| Mount(dir))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

async fn check(running: bool, expected: &[&'static str], inject: impl FnOnce(&mut Patient)) {
    let mut patient = Patient::new(running);
    inject(&mut patient);
    assert_eq!(patient.findings().await, expected.iter().copied().collect::<BTreeSet<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_node_gets_no_finding() {
    check(true, &[], |_| ()).await;
    check(false, &[], |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_certificate_is_named() {
    check(true, &["certificate_expired", "peer_refuses_us"], |patient| {
        patient
            .ca
            .issue(patient.dir.path(), "n1", "n1", |params| params.not_after = date_time_ymd(2024, 1, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_of_another_certificate_is_named() {
    check(true, &["key_mismatch"], |patient| {
        let other = fs::read_to_string(patient.dir.path().join("n2.key")).unwrap();
        write_private(&patient.dir.path().join("n1.key"), &other);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_of_another_authority_or_for_another_name_is_named() {
    check(true, &["certificate_untrusted", "peer_untrusted"], |patient| {
        let ours = fs::read_to_string(patient.dir.path().join("n1.pem")).unwrap();
        let key = fs::read_to_string(patient.dir.path().join("n1.key")).unwrap();
        Ca::new().issue(patient.dir.path(), "n1", "n1", |_| ());
        fs::write(patient.dir.path().join("n1.pem"), ours).unwrap();
        write_private(&patient.dir.path().join("n1.key"), &key);
    })
    .await;
    check(true, &["certificate_wrong_name"], |patient| {
        patient.ca.issue(patient.dir.path(), "n1", "n7", |_| ());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_of_a_foreign_process_is_named() {
    let mut foreign = None;
    check(false, &["port_taken"], |patient| {
        foreign = Some(std::net::TcpListener::bind(("127.0.0.1", patient.mqtt)).unwrap());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_key_of_the_configuration_is_named() {
    check(false, &["config_invalid"], |patient| patient.config.push_str("[nodes]\nname = \"n1\"\n")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn low_limit_of_open_files_is_named() {
    check(true, &["files_limit_low"], |patient| patient.host.files = 256).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_syncs_are_named() {
    check(true, &["sync_slow"], |patient| patient.host.sync = Duration::from_millis(25)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_that_does_not_listen_is_named() {
    check(true, &["peer_unreachable"], |patient| patient.peer.port = 0).await;
    check(false, &["peer_unreachable"], |patient| patient.peer.port = 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_without_an_address_is_named() {
    check(false, &["peer_unresolved"], |patient| {
        let address = format!("127.0.0.1:{}", patient.peer.port);
        patient.config = patient.config.replace(&address, "no-such-host.invalid:11883");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_that_the_peer_does_not_share_is_named() {
    check(true, &["peer_untrusted"], |patient| {
        Ca::new().issue(patient.dir.path(), "n2", "n2", |_| ());
    })
    .await;
    check(true, &["peer_refuses_us"], |patient| {
        fs::write(patient.dir.path().join("n2-ca.pem"), Ca::new().pem).unwrap();
    })
    .await;
    check(true, &["peer_wrong_name"], |patient| patient.peer.certificate = "n1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_of_a_peer_that_is_ahead_is_named() {
    check(true, &["clock_skew"], |patient| patient.peer.clock_ahead = Duration::from_secs(3_600)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer_of_another_cluster_or_version_is_named() {
    check(true, &["other_cluster"], |patient| patient.peer.cluster = "c2").await;
    check(true, &["versions_mixed"], |patient| patient.peer.version = "0.2.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admin_address_of_another_node_is_named() {
    check(true, &["admin_of_another_node"], |patient| {
        patient.config = patient.config.replace("name = \"n1\"\ndata", "name = \"n3\"\ndata");
        patient.config = patient.config.replace("{ name = \"n1\"", "{ name = \"n3\"");
        patient.ca.issue(patient.dir.path(), "n1", "n3", |_| ());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_data_directory_is_named() {
    let patient = Patient::new(false);
    let data = patient.dir.path().join("data");
    let Some(_mount) = Mount::new(&data, "ro,mode=755") else { return };
    assert_eq!(patient.findings().await, BTreeSet::from(["data_dir_not_writable"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_is_named() {
    let patient = Patient::new(false);
    let data = patient.dir.path().join("data");
    let Some(_mount) = Mount::new(&data, "size=64k,mode=755") else { return };
    assert!(fs::write(data.join("fill"), vec![0; 256 * 1024]).is_err(), "it is full now");
    assert_eq!(patient.findings().await, BTreeSet::from(["disk_full"]));
}
