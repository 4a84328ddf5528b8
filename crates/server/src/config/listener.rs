//! `[[listener]]`: where clients connect, what is spoken there, and what one listener lets in.
//!
//! Owns: the keys of a listener, their defaults and bounds. Does not: open sockets or files.
//! Invariants: plain text beyond loopback needs `insecure`; TLS keys stand only where TLS is spoken; names are unique.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::network::Network;
use super::reader::{Place, Reader, Section};
use super::{LimitSettings, check_name, check_plaintext, read_address};
use crate::limits::{ADVERTISE_BYTES_MAX, HANDSHAKES_MAX, PROXY_NETWORKS_MAX, UNIX_PATH_BYTES_MAX};

/// One listener for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Name, unique among the listeners of the node; by default what it speaks.
    pub name: String,
    /// What it speaks.
    pub kind: ListenerKind,
    /// Where it listens.
    pub bind: Bind,
    /// Plain text beyond loopback is accepted by the operator.
    pub insecure: bool,
    /// Permissions of the socket file, for a Unix socket.
    pub socket_mode: u32,
    /// Certificates; there exactly when the kind is one with TLS.
    pub tls: Option<TlsSettings>,
    /// The PROXY protocol is spoken: by these.
    pub proxy: Option<ProxySettings>,
    /// Whom a session made here belongs to.
    pub principal: PrincipalSource,
    /// What it lets in.
    pub limits: ListenerLimits,
    /// Where clients reach it, `host:port`, when that is not where it listens.
    pub advertise: Option<String>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// MQTT on a byte stream.
    Tcp,
    /// MQTT on TLS.
    Tls,
    /// MQTT on WebSocket.
    WebSocket,
    /// MQTT on WebSocket on TLS.
    WebSocketTls,
}

impl ListenerSettings {
    /// Where clients of other nodes can be sent, when it listens at `bound`: what is advertised, else that address, if it is
    /// one that others can use. Nothing for a Unix socket, and behind a proxy: its clients reach the node through that.
    pub fn reached_at(&self, bound: &Bind) -> Option<String> {
        let listens =
            || bound.address().filter(|address| !address.ip().is_unspecified() && self.proxy.is_none());
        self.advertise.clone().or_else(|| listens().map(|address| address.to_string()))
    }
}

impl ListenerKind {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("tcp", |(name, _)| name)
    }

    /// Whether it speaks TLS.
    pub fn is_secure(self) -> bool {
        matches!(self, ListenerKind::Tls | ListenerKind::WebSocketTls)
    }

    /// Whether it speaks WebSocket.
    pub fn is_websocket(self) -> bool {
        matches!(self, ListenerKind::WebSocket | ListenerKind::WebSocketTls)
    }
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// An address and a TCP port.
    Address(SocketAddr),
    /// A Unix socket.
    Path(PathBuf),
}

impl Bind {
    /// The address, unless it is a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Bind::Address(address) => Some(*address),
            Bind::Path(_) => None,
        }
    }

    /// Two sockets cannot be bound to both. Port 0 is another port each time.
    fn excludes(&self, other: &Bind) -> bool {
        self == other && self.address().is_none_or(|address| address.port() != 0)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(address) => address.fmt(f),
            Bind::Path(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Bind {
        Bind::Address(address)
    }
}

/// Certificates of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain (PEM), the listener's own first.
    pub cert_file: PathBuf,
    /// Its private key (PEM).
    pub key_file: PathBuf,
    /// Authorities that certificates of clients are checked against (PEM); there unless the mode is `Off`.
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_certificate: ClientCertificate,
    /// Oldest version spoken.
    pub version_min: TlsVersion,
}

/// Whether clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// None is asked for.
    Off,
    /// One that is shown must be valid.
    Optional,
    /// No connection without a valid one.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2, with AEAD ciphers only.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Whom the sessions of a listener's clients belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrincipalSource {
    /// Whoever the user name in CONNECT says.
    #[default]
    UserName,
    /// The common name of the client's certificate, shown here or told by a trusted proxy; without one CONNECT is refused.
    Certificate,
}

/// Who speaks the PROXY protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// Connections from elsewhere are closed. Not asked for a Unix socket, whose file says who may open it.
    pub trusted: Vec<Network>,
}

/// What a listener lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerLimits {
    /// Client connections at once; more are closed when they come.
    pub connections_max: usize,
    /// Connections at once that have not sent their whole CONNECT.
    pub handshakes_max: usize,
    /// The same for one address. Not given: 256, and no limit for loopback.
    pub handshakes_per_address_max: Option<usize>,
    /// New connections in a second; 0 for no limit.
    pub connect_rate: u32,
    /// The same for one address. Not given: 1,000, and no limit for loopback.
    pub connect_rate_per_address: Option<u32>,
    /// How long PROXY header, TLS and WebSocket handshake may take together.
    pub handshake_timeout: Duration,
    /// Largest packet accepted here, when it is less than elsewhere.
    pub packet_bytes_max: Option<u32>,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        ListenerLimits {
            connections_max: 100_000,
            handshakes_max: HANDSHAKES_MAX,
            handshakes_per_address_max: None,
            connect_rate: 20_000,
            connect_rate_per_address: None,
            handshake_timeout: Duration::from_secs(5),
            packet_bytes_max: None,
        }
    }
}

impl ListenerSettings {
    /// A listener without TLS and with the limits that hold by default.
    pub fn plain(kind: ListenerKind, bind: impl Into<Bind>) -> Self {
        ListenerSettings {
            name: kind.name().to_owned(),
            kind,
            bind: bind.into(),
            insecure: false,
            socket_mode: SOCKET_MODE,
            tls: None,
            proxy: None,
            principal: PrincipalSource::UserName,
            limits: ListenerLimits::default(),
            advertise: None,
        }
    }
}

/// Permissions of a Unix socket unless others are given: owner and group connect.
const SOCKET_MODE: u32 = 0o660;

/// What `bind` begins with for a Unix socket.
const UNIX: &str = "unix:";

const KINDS: [(&str, ListenerKind); 4] = [
    ("tcp", ListenerKind::Tcp),
    ("tls", ListenerKind::Tls),
    ("websocket", ListenerKind::WebSocket),
    ("websocket-tls", ListenerKind::WebSocketTls),
];

/// Reads all listeners.
pub fn read_listeners(
    reader: &mut Reader<'_>,
    sections: Vec<Section<'_, '_>>,
    base: &Path,
    limits: &LimitSettings,
) -> Vec<ListenerSettings> {
    let mut listeners: Vec<ListenerSettings> = Vec::new();
    for mut section in sections {
        let kind = section.choice(reader, "kind", &KINDS).unwrap_or(ListenerKind::Tcp);
        let name = read_name(reader, &mut section, kind, &listeners);
        let place = section.place_of("bind");
        let bind = read_bind(reader, &mut section, base);
        let insecure = section.boolean(reader, "insecure").unwrap_or(false);
        let socket_mode = read_socket_mode(reader, &mut section, bind.as_ref());
        let tls = read_tls(reader, &mut section, kind, base);
        let proxy = read_proxy(reader, &mut section, bind.as_ref());
        let principal = read_principal(reader, &mut section, tls.as_ref(), proxy.as_ref());
        let limits = read_limits(reader, &mut section, limits);
        let advertise = read_advertise(reader, &mut section);
        section.finish(reader);
        let Some(bind) = bind else { continue };
        if let (Some(address), false) = (bind.address(), kind.is_secure()) {
            check_plaintext(reader, &place, address, insecure, "this listener");
        }
        if listeners.iter().any(|other| bind.excludes(&other.bind)) {
            let hint = "give each listener its own port or path";
            reader.error(&place, format!("two listeners bind {bind}"), hint);
        }
        listeners.push(ListenerSettings {
            name,
            kind,
            bind,
            insecure,
            socket_mode,
            tls,
            proxy,
            principal,
            limits,
            advertise,
        });
    }
    listeners
}

/// `host:port` for clients. They get it as it is, in a list separated by spaces.
fn read_advertise(reader: &mut Reader<'_>, section: &mut Section<'_, '_>) -> Option<String> {
    let place = section.place_of("advertise");
    let advertise = section.string(reader, "advertise")?;
    let port = advertise.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let fits = port.is_some_and(|(host, port)| !host.is_empty() && port != 0);
    if !fits
        || advertise.len() > ADVERTISE_BYTES_MAX
        || advertise.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        let full = section.full("advertise");
        let hint =
            "give the name or address under which clients reach this listener, and its port: \"host:1883\"";
        reader.error(&place, format!("`{full}` is \"{advertise}\", which is not HOST:PORT"), hint);
    }
    Some(advertise)
}

/// The name of a listener: as given, else what it speaks, with a number from the second of its kind on.
fn read_name(
    reader: &mut Reader<'_>,
    section: &mut Section<'_, '_>,
    kind: ListenerKind,
    others: &[ListenerSettings],
) -> String {
    let place = section.place_of("name");
    let taken = |name: &str| others.iter().any(|other| other.name == name);
    match section.string(reader, "name") {
        Some(name) => {
            let full = section.full("name");
            check_name(reader, &place, &full, &name);
            if taken(&name) {
                let hint = "give each listener its own name; one without takes that of its kind";
                reader.error(&place, format!("two listeners are named \"{name}\""), hint);
            }
            name
        }
        None => {
            let numbered = (2..).map(|number: usize| format!("{}-{number}", kind.name()));
            let mut names = std::iter::once(kind.name().to_owned()).chain(numbered);
            names.find(|name| !taken(name)).unwrap_or_default()
        }
    }
}

fn read_bind(reader: &mut Reader<'_>, section: &mut Section<'_, '_>, base: &Path) -> Option<Bind> {
    let place = section.place_of("bind");
    if place == *section.place() {
        section.missing(reader, "bind", "write the address to listen on, like bind = \"127.0.0.1:1883\"");
    }
    let Some(path) = section.peek_string("bind").and_then(|text| text.strip_prefix(UNIX)) else {
        return read_address(reader, section, "bind").map(Bind::Address);
    };
    let path = base.join(path);
    // The text is read as a string again, so that the key counts as asked for.
    let _known_to_be_text = section.string(reader, "bind");
    if path.file_name().is_none() || path.as_os_str().len() > UNIX_PATH_BYTES_MAX {
        reader.error(
            &place,
            format!(
                "the Unix socket {} has no name, or a path of more than {UNIX_PATH_BYTES_MAX} bytes",
                path.display()
            ),
            "write a short path to a file, like bind = \"unix:/run/quorate/mqtt.sock\"",
        );
        return None;
    }
    Some(Bind::Path(path))
}

fn read_socket_mode(reader: &mut Reader<'_>, section: &mut Section<'_, '_>, bind: Option<&Bind>) -> u32 {
    let place = section.place_of("socket_mode");
    let Some(text) = section.string(reader, "socket_mode") else { return SOCKET_MODE };
    if bind.is_some_and(|bind| bind.address().is_some()) {
        let full = section.full("socket_mode");
        reader.error(&place, format!("`{full}` is for Unix sockets only"), "remove it, or bind unix:PATH");
    }
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode <= 0o777 => mode,
        _ => {
            let full = section.full("socket_mode");
            reader.error(
                &place,
                format!("`{full}` is \"{}\"", text.escape_debug()),
                "write permissions in octal digits, like \"0660\"",
            );
            SOCKET_MODE
        }
    }
}

fn read_tls(
    reader: &mut Reader<'_>,
    section: &mut Section<'_, '_>,
    kind: ListenerKind,
    base: &Path,
) -> Option<TlsSettings> {
    const KEYS: [&str; 5] =
        ["cert_file", "key_file", "client_ca_file", "client_certificate", "tls_version_min"];
    let given: Vec<(&str, Place)> = KEYS
        .into_iter()
        .map(|key| (key, section.place_of(key)))
        .filter(|(_, place)| place != section.place())
        .collect();
    let cert_file = section.path(reader, "cert_file", base);
    let key_file = section.path(reader, "key_file", base);
    let client_ca_file = section.path(reader, "client_ca_file", base);
    let modes = [
        ("off", ClientCertificate::Off),
        ("optional", ClientCertificate::Optional),
        ("required", ClientCertificate::Required),
    ];
    let client_certificate =
        section.choice(reader, "client_certificate", &modes).unwrap_or(ClientCertificate::Off);
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let version_min = section.choice(reader, "tls_version_min", &versions).unwrap_or(TlsVersion::Tls13);
    if !kind.is_secure() {
        for (key, place) in given {
            let full = section.full(key);
            let hint = "set kind = \"tls\" or \"websocket-tls\", or remove it";
            reader.error(&place, format!("`{full}` is for listeners with TLS only"), hint);
        }
        return None;
    }
    for key in ["cert_file", "key_file"] {
        if !given.iter().any(|(name, _)| *name == key) {
            section.missing(reader, key, "TLS needs cert_file and key_file: quorate cert makes them");
        }
    }
    if (client_certificate == ClientCertificate::Off) != client_ca_file.is_none() {
        let full = section.full("client_ca_file");
        reader.error(
            section.place(),
            format!("`{full}` and `client_certificate` do not fit together"),
            "certificates of clients need both: client_ca_file, and client_certificate = \"required\" or \"optional\"",
        );
    }
    Some(TlsSettings {
        cert_file: cert_file?,
        key_file: key_file?,
        client_ca_file,
        client_certificate,
        version_min,
    })
}

fn read_proxy(
    reader: &mut Reader<'_>,
    section: &mut Section<'_, '_>,
    bind: Option<&Bind>,
) -> Option<ProxySettings> {
    let enabled = section.boolean(reader, "proxy_protocol").unwrap_or(false);
    let place = section.place_of("proxy_trusted");
    let full = section.full("proxy_trusted");
    let texts = section.strings(reader, "proxy_trusted").unwrap_or_default();
    let mut trusted = Vec::new();
    for (text, place) in &texts {
        match Network::parse(text) {
            Ok(network) => trusted.push(network),
            Err(error) => reader.error(
                place,
                format!("`{full}` has \"{}\": {error}", text.escape_debug()),
                "write addresses and networks, like [\"10.0.0.0/8\", \"192.0.2.7\"]",
            ),
        }
    }
    if texts.len() > PROXY_NETWORKS_MAX {
        reader.error(
            &place,
            format!("`{full}` has {} entries", texts.len()),
            format!("list at most {PROXY_NETWORKS_MAX} networks"),
        );
    }
    let on_unix = bind.is_some_and(|bind| bind.address().is_none());
    if enabled == texts.is_empty() && !(enabled && on_unix) {
        reader.error(
            &place,
            format!("`{full}` and `proxy_protocol` do not fit together"),
            "the PROXY protocol needs both: proxy_protocol = true, and proxy_trusted with the proxies' addresses",
        );
    }
    enabled.then_some(ProxySettings { trusted })
}

fn read_principal(
    reader: &mut Reader<'_>,
    section: &mut Section<'_, '_>,
    tls: Option<&TlsSettings>,
    proxy: Option<&ProxySettings>,
) -> PrincipalSource {
    let sources = [("user-name", PrincipalSource::UserName), ("certificate", PrincipalSource::Certificate)];
    let place = section.place_of("principal");
    let source = section.choice(reader, "principal", &sources).unwrap_or_default();
    let asked = tls.is_some_and(|tls| tls.client_certificate != ClientCertificate::Off);
    if source == PrincipalSource::Certificate && !asked && proxy.is_none() {
        let full = section.full("principal");
        reader.error(
            &place,
            format!("`{full}` is \"certificate\", but no client has a certificate here"),
            "ask for one with client_certificate = \"required\", or let a balancer tell its name with proxy_protocol = true",
        );
    }
    source
}

fn read_limits(
    reader: &mut Reader<'_>,
    section: &mut Section<'_, '_>,
    node: &LimitSettings,
) -> ListenerLimits {
    let defaults = ListenerLimits::default();
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let rate = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let handshakes_max = HANDSHAKES_MAX as u64;
    let shortest = Duration::from_millis(100);
    ListenerLimits {
        connections_max: section
            .number(reader, "connections_max", 1, 10_000_000)
            .map_or(defaults.connections_max, size),
        handshakes_max: section
            .number(reader, "handshakes_max", 1, handshakes_max)
            .map_or(defaults.handshakes_max, size),
        handshakes_per_address_max: section
            .number(reader, "handshakes_per_address_max", 1, handshakes_max)
            .map(size),
        connect_rate: section
            .number(reader, "connect_rate", 0, 1_000_000)
            .map_or(defaults.connect_rate, rate),
        connect_rate_per_address: section.number(reader, "connect_rate_per_address", 0, 1_000_000).map(rate),
        handshake_timeout: section
            .duration(reader, "handshake_timeout", shortest, Duration::from_secs(60))
            .unwrap_or(defaults.handshake_timeout),
        packet_bytes_max: section
            .bytes(reader, "packet_bytes_max", 1024, u64::from(node.packet_bytes_max))
            .and_then(|value| u32::try_from(value).ok()),
    }
}
