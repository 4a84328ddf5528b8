//! The configuration of a node: one TOML file, read and checked whole before anything is opened.
//!
//! Owns: every key, its default, its bounds and the relations between keys.
//! Does not: open sockets or files other than the configuration itself.
//! Invariants: unknown keys are refused; all errors are reported, each with file, line and column; paths are taken
//! from the folder of the file. Settings of the whole cluster (`[cluster]`) count at the first start only and must be
//! equal on all nodes; all others belong to the node and are read at each start.
//! Limits: the file has at most `CONFIG_BYTES_MAX`.

mod admin;
mod listener;
pub mod network;
mod reader;
mod telemetry;
pub mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use crate::limits::{
    BOOTSTRAP_NODES_MAX, CONFIG_BYTES_MAX, GRACE_MAX, MEMORY_BYTES_MIN, PARTITIONS_MAX, SYS_INTERVAL_MIN,
};
pub use admin::AdminSettings;
pub use listener::{
    Bind, ClientCertificate, ListenerKind, ListenerLimits, ListenerSettings, PrincipalSource, ProxySettings,
    TlsSettings, TlsVersion,
};
use reader::{Reader, Section};
use telemetry::read_telemetry;
pub use telemetry::{Endpoint, TelemetrySettings};

/// The whole configuration of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[node]`.
    pub node: NodeSettings,
    /// `[[listener]]`: where MQTT clients connect.
    pub listeners: Vec<ListenerSettings>,
    /// `[admin]`.
    pub admin: AdminSettings,
    /// `[peer]`; absent on a single node.
    pub peer: Option<PeerSettings>,
    /// `[cluster]`.
    pub cluster: ClusterSettings,
    /// `[limits]`.
    pub limits: LimitSettings,
    /// `[storage]`.
    pub storage: StorageSettings,
    /// `[sys]`.
    pub sys: SysSettings,
    /// `[log]`.
    pub log: LogSettings,
    /// `[telemetry]`.
    pub telemetry: TelemetrySettings,
}

/// Who the node is and where its data lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name, unique in the cluster: 1 to 63 of `a-z 0-9 -`. The subject name of the peer certificate.
    pub name: String,
    /// Folder for log, checkpoints and identity.
    pub data_dir: PathBuf,
    /// Zone label for placement; empty for none.
    pub zone: String,
    /// How long client connections may stay after SIGTERM, while new ones are refused.
    pub stop_grace: Duration,
}

/// Links between nodes: always mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Address and port.
    pub bind: SocketAddr,
    /// What other nodes dial, `host:port`; `bind` unless given.
    pub advertise: String,
    /// Certificates that peers are checked against (PEM).
    pub ca_file: PathBuf,
    /// This node's certificate chain (PEM); its subject name is the node name.
    pub cert_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
}

/// What all nodes agree on at the first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Name; peers of another name are refused.
    pub name: String,
    /// Number of partitions, fixed for good.
    pub partitions: u32,
    /// The first nodes, in the order of their identities. Empty or one entry: a single node.
    pub bootstrap: Vec<BootstrapNode>,
}

/// One of the first nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootstrapNode {
    /// Node name.
    pub name: String,
    /// Peer address, `host:port`.
    pub peer: String,
}

/// What a session does when its queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest queued message goes.
    DropOldest,
    /// The new message is not queued.
    DropNewest,
    /// The publisher gets 0x97 (MQTT 5) or a closed connection.
    RejectPublisher,
}

/// Bounds for clients and their sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Longest session expiry that is granted.
    pub session_expiry_max: Duration,
    /// Messages queued for one session.
    pub queue_messages_max: u64,
    /// Bytes queued for one session.
    pub queue_bytes_max: u64,
    /// QoS 1 messages in flight to one client; its Receive Maximum lowers it.
    pub inflight_max: u16,
    /// QoS 1 messages in flight from one client: the Receive Maximum that the server announces.
    pub receive_max: u16,
    /// Largest packet accepted.
    pub packet_bytes_max: u32,
    /// Topic aliases a client may use.
    pub topic_alias_max: u16,
    /// Subscriptions of one session.
    pub subscriptions_max: u32,
    /// Longest keep-alive; MQTT 5 clients are told.
    pub keep_alive_max: Duration,
    /// How long a client may take to send CONNECT.
    pub connect_timeout: Duration,
    /// What a session does when its queue is full.
    pub overflow: Overflow,
    /// Memory that the process keeps within; `None` for what the system allows it.
    pub memory_bytes: Option<u64>,
    /// Clients without credentials are accepted.
    pub anonymous: bool,
}

/// The log and the index store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// Size of one log segment.
    pub segment_bytes: u64,
    /// Cache of message bodies read back from the log.
    pub body_cache_bytes: u64,
    /// Log size above which old segments are compacted.
    pub log_bytes_target: u64,
    /// With fewer free bytes on the disk no message of a client is taken in; 0 for no such limit.
    pub disk_soft_bytes: u64,
    /// Bytes of the disk that are held for the time when it is full; 0 for none.
    pub disk_reserve_bytes: u64,
    /// Bytes a second that the walk over the disk checks; 0 for no walk.
    pub scrub_bytes_per_second: u64,
}

/// The topics below `$SYS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysSettings {
    /// How often they are published; zero for never.
    pub interval: Duration,
}

/// The program's own log, on stderr.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Text or JSON.
    pub format: LogFormat,
    /// A level, or a filter such as `info,quorate_server=debug`.
    pub level: String,
}

/// Format of the program's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// One thing wrong in a configuration, with its place and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// File.
    pub file: PathBuf,
    /// Line, from 1; 0 when the file could not be read at all.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}; {}", self.file.display(), self.line, self.column, self.message, self.hint)
    }
}

impl std::error::Error for ConfigError {}

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MIB: u64 = 1024 * 1024;

impl Default for Config {
    /// A single node for the local machine: `./quorate-data`, MQTT on 1883, WebSocket on 8083, admin on 9883.
    fn default() -> Self {
        Config {
            node: NodeSettings {
                name: "n1".to_owned(),
                data_dir: PathBuf::from("./quorate-data"),
                zone: String::new(),
                stop_grace: Duration::ZERO,
            },
            listeners: vec![
                ListenerSettings::plain(ListenerKind::Tcp, SocketAddr::from((LOOPBACK, 1883))),
                ListenerSettings::plain(ListenerKind::WebSocket, SocketAddr::from((LOOPBACK, 8083))),
            ],
            admin: AdminSettings {
                bind: SocketAddr::from((LOOPBACK, 9883)),
                insecure: false,
                token_file: None,
                host_names: Vec::new(),
            },
            peer: None,
            cluster: ClusterSettings { name: "quorate".to_owned(), partitions: 16, bootstrap: Vec::new() },
            limits: LimitSettings::default(),
            storage: StorageSettings::default(),
            sys: SysSettings { interval: Duration::from_secs(10) },
            log: LogSettings { format: LogFormat::Text, level: "info".to_owned() },
            telemetry: TelemetrySettings { otlp_endpoint: None, sample_ratio: 0.0 },
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            session_expiry_max: 7 * DAY,
            queue_messages_max: 10_000_000,
            queue_bytes_max: 16 * 1024 * MIB,
            inflight_max: 256,
            receive_max: 1024,
            packet_bytes_max: 1024 * 1024,
            topic_alias_max: 64,
            subscriptions_max: 10_000,
            keep_alive_max: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            overflow: Overflow::RejectPublisher,
            memory_bytes: None,
            anonymous: true,
        }
    }
}

impl Default for StorageSettings {
    fn default() -> Self {
        StorageSettings {
            segment_bytes: 64 * MIB,
            body_cache_bytes: 64 * MIB,
            log_bytes_target: 512 * MIB,
            disk_soft_bytes: 256 * MIB,
            disk_reserve_bytes: 64 * MIB,
            scrub_bytes_per_second: 4 * MIB,
        }
    }
}

/// Reads and checks a configuration file. Gives every error that it has, ordered by place.
pub fn load(path: &Path) -> Result<Config, Vec<ConfigError>> {
    let unreadable = |message: String, hint: &str| {
        vec![ConfigError { file: path.to_owned(), line: 0, column: 0, message, hint: hint.to_owned() }]
    };
    let length = std::fs::metadata(path).map_err(|error| {
        unreadable(format!("the file cannot be read: {error}"), "name an existing file with --config")
    })?;
    if length.len() > CONFIG_BYTES_MAX {
        return Err(unreadable(
            format!("the file has {} bytes", length.len()),
            "a configuration has at most 1 MiB: is this the right file?",
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        unreadable(format!("the file cannot be read: {error}"), "it must be readable UTF-8 text")
    })?;
    parse(path, &text)
}

/// Checks the text of a configuration; `path` is for messages and for relative paths.
pub fn parse(path: &Path, text: &str) -> Result<Config, Vec<ConfigError>> {
    let mut reader = Reader::new(path, text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let place = error.span().unwrap_or(0..0);
        reader.error(&place, error.message().replace('\n', ", "), "correct the TOML syntax");
    }
    if !syntax.is_empty() {
        return Err(reader.into_errors());
    }
    let base = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
    let mut root = Section::new("", 0..0, Some(document.get_ref()));
    let config = read_root(&mut reader, &mut root, &base);
    root.finish(&mut reader);
    if reader.is_clean() { Ok(config) } else { Err(reader.into_errors()) }
}

fn read_root(reader: &mut Reader<'_>, root: &mut Section<'_, '_>, base: &Path) -> Config {
    let defaults = Config::default();
    let section = root.section(reader, "node");
    let node = read_node(reader, section, base, defaults.node);
    let section = root.section(reader, "admin");
    let admin = admin::read_admin(reader, section, base, defaults.admin);
    let section = root.section(reader, "limits");
    let limits = read_limits(reader, section, defaults.limits);
    let listeners = match root.sections(reader, "listener") {
        None => defaults.listeners,
        Some(sections) => listener::read_listeners(reader, sections, base, &limits),
    };
    let peer_section = root.section(reader, "peer");
    let peer_place = peer_section.place().clone();
    let peer = read_peer(reader, peer_section, base);
    let cluster_section = root.section(reader, "cluster");
    let cluster_place = cluster_section.place().clone();
    let cluster = read_cluster(reader, cluster_section, defaults.cluster);
    let section = root.section(reader, "storage");
    let storage = read_storage(reader, section, defaults.storage);
    let section = root.section(reader, "sys");
    let sys = read_sys(reader, section, defaults.sys);
    let section = root.section(reader, "log");
    let log = read_log(reader, section, defaults.log);
    let section = root.section(reader, "telemetry");
    let telemetry = read_telemetry(reader, section);
    let config = Config { node, listeners, admin, peer, cluster, limits, storage, sys, log, telemetry };
    check_relations(reader, &config, &cluster_place, &peer_place);
    config
}

fn read_node(
    reader: &mut Reader<'_>,
    mut section: Section<'_, '_>,
    base: &Path,
    defaults: NodeSettings,
) -> NodeSettings {
    let name_place = section.place_of("name");
    let name = section.string(reader, "name").unwrap_or(defaults.name);
    check_name(reader, &name_place, "node.name", &name);
    let data_dir = section.path(reader, "data_dir", base).unwrap_or_else(|| base.join(defaults.data_dir));
    let zone = section.string(reader, "zone").unwrap_or(defaults.zone);
    let stop_grace =
        section.duration(reader, "stop_grace", Duration::ZERO, GRACE_MAX).unwrap_or(defaults.stop_grace);
    section.finish(reader);
    NodeSettings { name, data_dir, zone, stop_grace }
}

/// Node names are labels of the certificate's subject name, of at most 63 characters.
fn check_name(reader: &mut Reader<'_>, place: &reader::Place, key: &str, name: &str) {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty()
        || name.len() > 63
        || !name.chars().all(legal)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        reader.error(
            place,
            format!("`{key}` is \"{}\"", name.escape_debug()),
            "use 1 to 63 of a-z, 0-9 and -, the first and last not -",
        );
    }
}

fn read_address(
    reader: &mut Reader<'_>,
    section: &mut Section<'_, '_>,
    key: &'static str,
) -> Option<SocketAddr> {
    let place = section.place_of(key);
    let text = section.string(reader, key)?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            let full = section.full(key);
            reader.error(
                &place,
                format!("`{full}` is \"{}\", which is no address and port", text.escape_debug()),
                "write an IP address and a port, like \"127.0.0.1:1883\" or \"[::1]:1883\"",
            );
            None
        }
    }
}

fn check_plaintext(
    reader: &mut Reader<'_>,
    place: &reader::Place,
    bind: SocketAddr,
    insecure: bool,
    what: &str,
) {
    if !bind.ip().is_loopback() && !insecure {
        reader.error(
            place,
            format!("{what} would speak plain text beyond loopback on {bind}"),
            "bind 127.0.0.1, or set insecure = true there if the network is trusted",
        );
    }
}

fn read_peer(reader: &mut Reader<'_>, mut section: Section<'_, '_>, base: &Path) -> Option<PeerSettings> {
    let present = section.is_present();
    let bind = read_address(reader, &mut section, "bind");
    let advertise_place = section.place_of("advertise");
    let advertise = section.string(reader, "advertise");
    let ca_file = section.path(reader, "ca_file", base);
    let cert_file = section.path(reader, "cert_file", base);
    let key_file = section.path(reader, "key_file", base);
    if present {
        for key in ["bind", "ca_file", "cert_file", "key_file"] {
            if section.place_of(key) == *section.place() {
                section.missing(reader, key, "peers need bind, ca_file, cert_file and key_file");
            }
        }
    }
    section.finish(reader);
    if let Some(address) = &advertise {
        check_host_port(reader, &advertise_place, "peer.advertise", address);
    }
    let bind = bind?;
    if bind.ip().is_unspecified() && advertise.is_none() {
        reader.error(
            &advertise_place,
            format!("other nodes cannot dial {bind}"),
            "set peer.advertise to the host:port that they can reach",
        );
    }
    let advertise = advertise.unwrap_or_else(|| bind.to_string());
    Some(PeerSettings { bind, advertise, ca_file: ca_file?, cert_file: cert_file?, key_file: key_file? })
}

fn check_host_port(reader: &mut Reader<'_>, place: &reader::Place, key: &str, text: &str) {
    let valid = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    if !valid {
        reader.error(
            place,
            format!("`{key}` is \"{}\", which is no host and port", text.escape_debug()),
            "write it like \"10.0.0.1:11883\" or \"n1.example.net:11883\"",
        );
    }
}

fn read_cluster(
    reader: &mut Reader<'_>,
    mut section: Section<'_, '_>,
    defaults: ClusterSettings,
) -> ClusterSettings {
    let name_place = section.place_of("name");
    let name = section.string(reader, "name").unwrap_or(defaults.name);
    check_name(reader, &name_place, "cluster.name", &name);
    let partitions = section
        .number(reader, "partitions", 1, PARTITIONS_MAX)
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(defaults.partitions);
    let list_place = section.place_of("bootstrap");
    let entries = section.sections(reader, "bootstrap").unwrap_or_default();
    section.finish(reader);
    let mut bootstrap: Vec<BootstrapNode> = Vec::new();
    for mut entry in entries {
        let name_place = entry.place_of("name");
        let peer_place = entry.place_of("peer");
        let name = entry.string(reader, "name");
        let peer = entry.string(reader, "peer");
        if name.is_none() || peer.is_none() {
            entry.missing(
                reader,
                if name.is_none() { "name" } else { "peer" },
                "each entry is { name = \"n1\", peer = \"host:port\" }",
            );
        }
        let full = entry.full("name");
        entry.finish(reader);
        let (Some(name), Some(peer)) = (name, peer) else { continue };
        check_name(reader, &name_place, &full, &name);
        check_host_port(reader, &peer_place, "cluster.bootstrap.peer", &peer);
        if bootstrap.iter().any(|other| other.name == name) {
            reader.error(
                &name_place,
                format!("the name \"{name}\" is listed twice"),
                "give each node its own name",
            );
        }
        if bootstrap.iter().any(|other| other.peer == peer) {
            reader.error(
                &peer_place,
                format!("the address {peer} is listed twice"),
                "give each node its own address",
            );
        }
        bootstrap.push(BootstrapNode { name, peer });
    }
    if bootstrap.len() > BOOTSTRAP_NODES_MAX {
        reader.error(
            &list_place,
            format!("the bootstrap list has {} nodes", bootstrap.len()),
            format!("start with at most {BOOTSTRAP_NODES_MAX} and let the others join"),
        );
    }
    ClusterSettings { name, partitions, bootstrap }
}

fn read_limits(
    reader: &mut Reader<'_>,
    mut section: Section<'_, '_>,
    defaults: LimitSettings,
) -> LimitSettings {
    let narrow =
        |value: Option<u64>, default: u16| value.and_then(|v| u16::try_from(v).ok()).unwrap_or(default);
    let second = Duration::from_secs(1);
    let overflows = [
        ("drop-oldest", Overflow::DropOldest),
        ("drop-newest", Overflow::DropNewest),
        ("reject-publisher", Overflow::RejectPublisher),
    ];
    let limits = LimitSettings {
        session_expiry_max: section
            .duration(reader, "session_expiry_max", second, 366 * DAY)
            .unwrap_or(defaults.session_expiry_max),
        queue_messages_max: section
            .number(reader, "queue_messages_max", 1, 1_000_000_000)
            .unwrap_or(defaults.queue_messages_max),
        queue_bytes_max: section
            .bytes(reader, "queue_bytes_max", 1024, 1 << 50)
            .unwrap_or(defaults.queue_bytes_max),
        inflight_max: narrow(section.number(reader, "inflight_max", 1, 65_535), defaults.inflight_max),
        receive_max: narrow(section.number(reader, "receive_max", 1, 65_535), defaults.receive_max),
        packet_bytes_max: section
            .bytes(reader, "packet_bytes_max", 1024, 4 * MIB)
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(defaults.packet_bytes_max),
        topic_alias_max: narrow(
            section.number(reader, "topic_alias_max", 0, 65_535),
            defaults.topic_alias_max,
        ),
        subscriptions_max: section
            .number(reader, "subscriptions_max", 1, 1_000_000)
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or(defaults.subscriptions_max),
        keep_alive_max: section
            .duration(reader, "keep_alive_max", second, Duration::from_secs(65_535))
            .unwrap_or(defaults.keep_alive_max),
        connect_timeout: section
            .duration(reader, "connect_timeout", Duration::from_millis(100), Duration::from_secs(60))
            .unwrap_or(defaults.connect_timeout),
        memory_bytes: section.bytes(reader, "memory_bytes", MEMORY_BYTES_MIN, 1 << 50),
        overflow: section.choice(reader, "overflow", &overflows).unwrap_or(defaults.overflow),
        anonymous: section.boolean(reader, "anonymous").unwrap_or(defaults.anonymous),
    };
    if u64::from(limits.packet_bytes_max) > limits.queue_bytes_max {
        let place = section.place_of("packet_bytes_max");
        reader.error(
            &place,
            "`limits.packet_bytes_max` is above `limits.queue_bytes_max`",
            "a queue must hold at least one packet: raise queue_bytes_max or lower packet_bytes_max",
        );
    }
    section.finish(reader);
    limits
}

fn read_storage(
    reader: &mut Reader<'_>,
    mut section: Section<'_, '_>,
    defaults: StorageSettings,
) -> StorageSettings {
    let storage = StorageSettings {
        segment_bytes: section
            .bytes(reader, "segment_bytes", 32 * MIB, 1024 * MIB)
            .unwrap_or(defaults.segment_bytes),
        body_cache_bytes: section
            .bytes(reader, "body_cache_bytes", MIB, 1 << 40)
            .unwrap_or(defaults.body_cache_bytes),
        log_bytes_target: section
            .bytes(reader, "log_bytes_target", 128 * MIB, 1 << 45)
            .unwrap_or(defaults.log_bytes_target),
        disk_soft_bytes: section
            .bytes(reader, "disk_soft_bytes", 0, 1 << 45)
            .unwrap_or(defaults.disk_soft_bytes),
        disk_reserve_bytes: section
            .bytes(reader, "disk_reserve_bytes", 0, 1 << 40)
            .unwrap_or(defaults.disk_reserve_bytes),
        scrub_bytes_per_second: section
            .bytes(reader, "scrub_bytes_per_second", 0, 1 << 40)
            .unwrap_or(defaults.scrub_bytes_per_second),
    };
    if storage.log_bytes_target < storage.segment_bytes.saturating_mul(4) {
        let place = section.place_of("log_bytes_target");
        reader.error(
            &place,
            "`storage.log_bytes_target` is below four times `storage.segment_bytes`",
            "raise log_bytes_target or lower segment_bytes: a segment goes only as a whole",
        );
    }
    section.finish(reader);
    storage
}

fn read_sys(reader: &mut Reader<'_>, mut section: Section<'_, '_>, defaults: SysSettings) -> SysSettings {
    let hour = Duration::from_secs(60 * 60);
    let interval = section.duration(reader, "interval", Duration::ZERO, hour).unwrap_or(defaults.interval);
    if !interval.is_zero() && interval < SYS_INTERVAL_MIN {
        let place = section.place_of("interval");
        reader.error(
            &place,
            format!("`sys.interval` is {interval:?}"),
            format!("choose at least {SYS_INTERVAL_MIN:?}, or \"0s\" for no topics below $SYS"),
        );
    }
    section.finish(reader);
    SysSettings { interval }
}

fn read_log(reader: &mut Reader<'_>, mut section: Section<'_, '_>, defaults: LogSettings) -> LogSettings {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = section.choice(reader, "format", &formats).unwrap_or(defaults.format);
    let place = section.place_of("level");
    let level = section.string(reader, "level").unwrap_or(defaults.level);
    if level.is_empty() || tracing_subscriber::EnvFilter::try_new(&level).is_err() {
        reader.error(
            &place,
            format!("`log.level` is \"{}\"", level.escape_debug()),
            "use error, warn, info, debug or trace, or a filter like \"info,quorate_server=debug\"",
        );
    }
    section.finish(reader);
    LogSettings { format, level }
}

fn check_relations(reader: &mut Reader<'_>, config: &Config, cluster: &reader::Place, peer: &reader::Place) {
    let listed = &config.cluster.bootstrap;
    if !listed.is_empty() && !listed.iter().any(|node| node.name == config.node.name) {
        reader.error(
            cluster,
            format!("node \"{}\" is not in `cluster.bootstrap`", config.node.name),
            "add it to the list, or correct node.name",
        );
    }
    if listed.len() > 1 && config.peer.is_none() {
        reader.error(
            cluster,
            format!("`cluster.bootstrap` names {} nodes, but there is no complete [peer]", listed.len()),
            "add [peer] with bind, ca_file, cert_file and key_file",
        );
    }
    if let Some(settings) = &config.peer
        && listed.is_empty()
    {
        reader.error(
            peer,
            format!("[peer] binds {}, but `cluster.bootstrap` is empty", settings.bind),
            "list the first nodes in cluster.bootstrap, or leave [peer] out on a single node",
        );
    }
    let mut taken: Vec<SocketAddr> =
        config.listeners.iter().filter_map(|listener| listener.bind.address()).collect();
    for (bind, place) in
        [(Some(config.admin.bind), cluster), (config.peer.as_ref().map(|settings| settings.bind), peer)]
    {
        let Some(bind) = bind else { continue };
        if bind.port() != 0 && taken.contains(&bind) {
            reader.error(place, format!("{bind} is bound twice"), "give each listener its own port");
        }
        taken.push(bind);
    }
}

#[cfg(test)]
mod tests;
