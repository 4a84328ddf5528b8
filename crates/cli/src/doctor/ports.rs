//! The addresses that the node listens on: free, or held by the node itself.
//!
//! Owns: who holds each, whether it could be bound. Does not: connect.
//! Invariants: an address that somebody listens on is not bound, so that a node that starts meanwhile is not in its way.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use quorate_server::config::{Bind, Config};

use super::finding::Finding;
use super::process::{self, Process, Processes};

/// What is known of the addresses.
#[derive(Clone, Debug, Default)]
pub struct PortFacts {
    /// Each configured address.
    pub ports: Vec<Port>,
    /// The process of the node, when it runs and may be looked at.
    pub node: Option<Process>,
    /// The admin address answers, and as this node.
    pub answers: bool,
    /// Unix sockets whose directory is not there, with the key that names each.
    pub homeless: Vec<(String, PathBuf)>,
    /// Ports from which outgoing connections take theirs; first and last.
    pub ephemeral: Option<(u16, u16)>,
}

/// One configured address.
#[derive(Clone, Debug)]
pub struct Port {
    /// What it is for, as a key of the configuration.
    pub key: String,
    /// The address.
    pub address: SocketAddr,
    /// Whether it can be bound, and who holds it if not.
    pub state: PortState,
}

/// Whether an address can be bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PortState {
    /// It can.
    Free,
    /// Somebody has it; `None` when that process may not be looked at.
    Held(Option<Process>),
    /// It cannot, for another reason.
    Refused(io::ErrorKind),
}

/// Looks at every configured address.
pub fn gather(config: &Config, processes: &Processes, answers: bool) -> PortFacts {
    let mut wanted: Vec<(String, SocketAddr)> = Vec::new();
    for (at, listener) in config.listeners.iter().enumerate() {
        wanted.extend(listener.bind.address().map(|address| (format!("listener {}", at + 1), address)));
    }
    wanted.push(("admin.bind".to_owned(), config.admin.bind));
    wanted.extend(config.peer.as_ref().map(|peer| ("peer.bind".to_owned(), peer.bind)));
    let sockets = process::sockets();
    let state = |address: SocketAddr| {
        let holder = |listens: bool| {
            sockets.iter().find(|socket| socket.listens == listens && socket.excludes(address))
        };
        if let Some(socket) = holder(true) {
            return PortState::Held(processes.holder_of(socket));
        }
        match TcpListener::bind(address) {
            Ok(_) => PortState::Free,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                PortState::Held(holder(false).and_then(|socket| processes.holder_of(socket)))
            }
            Err(error) => PortState::Refused(error.kind()),
        }
    };
    let ports = wanted.into_iter().filter(|(_, address)| address.port() != 0);
    PortFacts {
        ports: ports.map(|(key, address)| Port { key, address, state: state(address) }).collect(),
        node: processes.node_of(&config.node.data_dir),
        answers,
        homeless: homeless(config),
        ephemeral: ephemeral(),
    }
}

fn homeless(config: &Config) -> Vec<(String, PathBuf)> {
    let paths = config.listeners.iter().enumerate().filter_map(|(at, listener)| match &listener.bind {
        Bind::Path(path) => Some((format!("listener {}", at + 1), path.clone())),
        Bind::Address(_) => None,
    });
    let is_homeless =
        |path: &Path| path.parent().is_some_and(|dir| !dir.as_os_str().is_empty() && !dir.is_dir());
    paths.filter(|(_, path)| is_homeless(path)).collect()
}

fn ephemeral() -> Option<(u16, u16)> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    Some((words.next()??, words.next()??))
}

/// Judges the addresses.
pub fn check(facts: &PortFacts) -> Vec<Finding> {
    let homeless = facts.homeless.iter().map(|(key, path)| {
        Finding::error(
            "socket_dir_missing",
            format!("{} ({key})", path.display()),
            "the directory of this Unix socket does not exist",
            "make the directory; RuntimeDirectory= in a systemd unit does at each start",
        )
    });
    facts.ports.iter().flat_map(|port| check_port(facts, port)).chain(homeless).collect()
}

fn check_port(facts: &PortFacts, port: &Port) -> Vec<Finding> {
    let place = format!("{} ({})", port.address, port.key);
    let mut found = Vec::new();
    match &port.state {
        PortState::Free if facts.node.is_some() => found.push(Finding::warning(
            "port_not_listening",
            &place,
            "the node runs, but does not listen here",
            "the configuration has changed since it started: restart it, or name the file it was started with",
        )),
        PortState::Free => {}
        PortState::Held(holder) if is_own(facts, holder.as_ref()) => {}
        PortState::Held(holder) => found.push(Finding::error(
            "port_taken",
            &place,
            match holder {
                Some(Process { pid, name, .. }) => format!("process {pid} ({name}) has this port"),
                None => "another process has this port, one that this user may not look at".to_owned(),
            },
            "end that process, or give the node another port",
        )),
        PortState::Refused(io::ErrorKind::AddrNotAvailable) => found.push(Finding::error(
            "address_missing",
            &place,
            "this machine does not have that address",
            "bind an address of this machine (see `ip address`), or 0.0.0.0 for all",
        )),
        PortState::Refused(io::ErrorKind::PermissionDenied) => found.push(Finding::error(
            "port_denied",
            &place,
            "this user may not bind that port",
            "choose a port from 1024 on, or give the service the capability CAP_NET_BIND_SERVICE",
        )),
        PortState::Refused(kind) => found.push(Finding::error(
            "port_unusable",
            &place,
            format!("it cannot be bound: {kind}"),
            "choose an address that can be bound",
        )),
    }
    if let Some((first, last)) = facts.ephemeral
        && (first..=last).contains(&port.address.port())
    {
        found.push(Finding::warning(
            "port_ephemeral",
            &place,
            format!("outgoing connections take their ports from {first} to {last}: one may have this port while the node is down"),
            "choose a port outside, or add it to net.ipv4.ip_local_reserved_ports",
        ));
    }
    found
}

fn is_own(facts: &PortFacts, holder: Option<&Process>) -> bool {
    match (holder, &facts.node) {
        (Some(holder), Some(node)) => holder.pid == node.pid,
        // Who holds the lock, or the port, may not be looked at: the node is taken at its word.
        (None, _) => facts.answers,
        // One that sees the same files and does not have the lock of the data directory is another node of this name.
        (Some(holder), None) => facts.answers && holder.name == "quorate" && holder.is_elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(state: PortState, node: Option<u32>, answers: bool, code: Option<&str>) {
        let process = |pid| Process { pid, name: "quorate".into(), is_elsewhere: false };
        let port = Port {
            key: "admin.bind".into(),
            address: "127.0.0.1:9883".parse().unwrap(),
            state: state.clone(),
        };
        let facts = PortFacts {
            ports: vec![port],
            node: node.map(process),
            answers,
            ephemeral: Some((32_768, 60_999)),
            ..PortFacts::default()
        };
        let codes: Vec<&str> = check(&facts).iter().map(|finding| finding.code).collect();
        assert_eq!(codes, code.into_iter().collect::<Vec<_>>(), "{state:?} {node:?} {answers}");
    }

    #[test]
    fn only_the_node_itself_may_have_its_ports() {
        let held =
            |pid, name: &str| PortState::Held(Some(Process { pid, name: name.into(), is_elsewhere: false }));
        let contained =
            |name: &str| PortState::Held(Some(Process { pid: 9, name: name.into(), is_elsewhere: true }));
        check_one(PortState::Free, None, false, None);
        check_one(PortState::Free, Some(7), true, Some("port_not_listening"));
        check_one(held(7, "quorate"), Some(7), true, None);
        check_one(held(8, "quorate"), Some(7), true, Some("port_taken"));
        check_one(held(8, "quorate"), None, false, Some("port_taken"));
        check_one(held(8, "quorate"), None, true, Some("port_taken"));
        check_one(contained("quorate"), None, true, None);
        check_one(contained("nginx"), None, true, Some("port_taken"));
        check_one(PortState::Held(None), None, true, None);
        check_one(PortState::Held(None), None, false, Some("port_taken"));
        check_one(PortState::Refused(io::ErrorKind::AddrNotAvailable), None, false, Some("address_missing"));
        check_one(PortState::Refused(io::ErrorKind::PermissionDenied), None, false, Some("port_denied"));
        check_one(PortState::Refused(io::ErrorKind::Other), None, false, Some("port_unusable"));
    }

    #[test]
    fn a_port_that_outgoing_connections_may_take_is_named() {
        let port =
            Port { key: "x".into(), address: "127.0.0.1:40000".parse().unwrap(), state: PortState::Free };
        let facts =
            PortFacts { ports: vec![port], ephemeral: Some((32_768, 60_999)), ..PortFacts::default() };
        assert_eq!(check(&facts)[0].code, "port_ephemeral");
    }

    #[test]
    fn unix_socket_needs_a_directory() {
        let text = "[[listener]]\nkind = \"tcp\"\nbind = \"unix:/no/such/directory/socket\"\n";
        let config = quorate_server::config::parse(Path::new("q.toml"), text).unwrap();
        let facts = PortFacts { homeless: homeless(&config), ..PortFacts::default() };
        assert_eq!(check(&facts)[0].code, "socket_dir_missing");
        assert!(homeless(&Config::default()).is_empty());
    }
}
