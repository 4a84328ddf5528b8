//! The nodes behind a front door: where clients are sent, and where readiness is asked.
//!
//! Owns: parsing of `--nodes`, reading them from a cluster's state, and what may stand in a balancer's file.
//! Does not: ask a node whether it is ready; see `watch`.
//! Invariants: no name, host or path has a character with a meaning in the files of haproxy or nginx.
//! Limits: FRONT_DOOR_NODES_MAX.

use std::fmt;
use std::net::IpAddr;

use quorate_api::{ClusterState, NodeStatus};

use crate::limits::FRONT_DOOR_NODES_MAX;

/// A host and a port as they are written into a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// TCP port, not 0.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// One node behind the front door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Name of the node.
    pub name: String,
    /// Its listener for the balancer.
    pub mqtt: Endpoint,
    /// Its admin listener, where `/readyz` is.
    pub admin: Endpoint,
}

/// Ports of nodes that are named without.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// Of the listener.
    pub mqtt: u16,
    /// Of the admin listener.
    pub admin: u16,
}

/// Reads `NAME=HOST[:PORT][@[HOST:]ADMIN_PORT]` of each node.
pub fn parse_all(texts: &[String], ports: Ports) -> Result<Vec<Backend>, String> {
    let backends: Vec<Backend> = texts.iter().map(|text| parse(text, ports)).collect::<Result<_, _>>()?;
    check(backends)
}

fn parse(text: &str, ports: Ports) -> Result<Backend, String> {
    let wrong = |what: &str| {
        format!("{text:?} {what}: write NAME=HOST, NAME=HOST:PORT or NAME=HOST:PORT@[HOST:]ADMIN_PORT")
    };
    let (name, place) = text.split_once('=').ok_or_else(|| wrong("names no node"))?;
    if !is_name(name) {
        return Err(wrong("has a node name with other characters than a-z, 0-9 and -"));
    }
    let (mqtt, admin) = match place.split_once('@') {
        None => (place, None),
        Some((mqtt, admin)) => (mqtt, Some(admin)),
    };
    let mqtt = endpoint(mqtt, ports.mqtt).ok_or_else(|| wrong("has no proper host and port"))?;
    let admin = match admin {
        None => Some(Endpoint { host: mqtt.host.clone(), port: ports.admin }),
        Some(admin) => match admin.parse::<u16>() {
            Ok(0) => None,
            Ok(port) => Some(Endpoint { host: mqtt.host.clone(), port }),
            Err(_) => endpoint(admin, ports.admin),
        },
    };
    let admin = admin.ok_or_else(|| wrong("has no proper admin host and port"))?;
    Ok(Backend { name: name.to_owned(), mqtt, admin })
}

/// Reads `HOST`, `HOST:PORT`, `[IPV6]` or `[IPV6]:PORT`.
pub fn endpoint(text: &str, port_otherwise: u16) -> Option<Endpoint> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(port_otherwise), |port| port.parse().ok())?;
    (is_host(host) && port != 0).then(|| Endpoint { host: host.to_owned(), port })
}

/// The live and down members of a running cluster. Hosts come from the cluster, the port of the listener does not: which
/// of its listeners is the one for the balancer, a node does not say.
pub fn of_cluster(state: &ClusterState, mqtt_port: u16) -> Result<Vec<Backend>, String> {
    let backends = state.nodes.iter().map(|node| of_member(node, mqtt_port)).collect::<Result<_, _>>()?;
    check(backends)
}

fn of_member(node: &NodeStatus, mqtt_port: u16) -> Result<Backend, String> {
    let unusable = |what: &str| format!("node {} tells no {what} that a balancer could dial", node.name);
    let dialled = |address: &Option<String>| {
        let address = address.as_deref().map(|text| text.trim_start_matches("http://").trim_end_matches('/'));
        address
            .and_then(|text| endpoint(text, 1))
            .filter(|found| !found.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified()))
    };
    let admin = dialled(&node.admin);
    // A listener on a wildcard address says nothing of where it is; what peers dial does.
    let host = dialled(&node.mqtt).or_else(|| dialled(&node.peer)).or_else(|| admin.clone());
    let host = host.ok_or_else(|| unusable("host"))?.host;
    let admin = match (admin, node.admin.as_deref().and_then(|url| url.rsplit(':').next()?.parse().ok())) {
        (Some(admin), _) => admin,
        (None, Some(port)) => Endpoint { host: host.clone(), port },
        (None, None) => return Err(unusable("admin address")),
    };
    Ok(Backend { name: node.name.clone(), mqtt: Endpoint { host, port: mqtt_port }, admin })
}

fn check(backends: Vec<Backend>) -> Result<Vec<Backend>, String> {
    if backends.is_empty() || backends.len() > FRONT_DOOR_NODES_MAX {
        return Err(format!("{} nodes are given: 1 to {FRONT_DOOR_NODES_MAX} can be", backends.len()));
    }
    for (place, one) in backends.iter().enumerate() {
        let others = backends.iter().take(place);
        if others.clone().any(|other| other.name == one.name || other.mqtt == one.mqtt) {
            return Err(format!("the name or address of {}={} is given twice", one.name, one.mqtt));
        }
    }
    Ok(backends)
}

fn is_name(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(legal)
}

fn is_host(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = !text.is_empty() && text.len() <= 253 && text.bytes().all(legal);
    is_name || text.parse::<IpAddr>().is_ok()
}

/// Whether a path can stand in a balancer's file as it is.
pub fn is_plain_path(text: &str) -> bool {
    let special = |c: char| c.is_whitespace() || c.is_control() || "\"'`\\;{}#$".contains(c);
    !text.is_empty() && !text.chars().any(special)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports { mqtt: 8883, admin: 9883 };

    #[test]
    fn nodes_are_read() {
        for (text, mqtt, admin) in [
            ("n1=10.0.0.11", "10.0.0.11:8883", "10.0.0.11:9883"),
            ("n1=broker-1.example.net:1884", "broker-1.example.net:1884", "broker-1.example.net:9883"),
            ("n1=[2001:db8::1]:1884@9000", "[2001:db8::1]:1884", "[2001:db8::1]:9000"),
            ("n1=2001:db8::1", "[2001:db8::1]:8883", "[2001:db8::1]:9883"),
            ("n1=10.0.0.11@192.0.2.1:9000", "10.0.0.11:8883", "192.0.2.1:9000"),
        ] {
            let backend = parse(text, PORTS).unwrap();
            assert_eq!(
                (backend.mqtt.to_string().as_str(), backend.admin.to_string().as_str()),
                (mqtt, admin)
            );
        }
    }

    #[test]
    fn what_would_not_stand_in_a_file_as_it_is_is_refused() {
        for text in [
            "10.0.0.1", "N1=h", "n1=", "n1=h:0", "n1=h:x", "n1=h h", "n1=h;", "n1=[h]:1", "n1=h@0",
            "n1=h@a:b", "=h",
        ] {
            assert!(parse(text, PORTS).is_err(), "{text}");
        }
        let twice = |one: &str, other: &str| parse_all(&[one.to_owned(), other.to_owned()], PORTS);
        assert!(
            twice("n1=a", "n1=b").is_err() && twice("n1=a", "n2=a").is_err() && twice("n1=a", "n2=b").is_ok()
        );
        assert!(is_plain_path("/etc/haproxy/mqtt.pem") && !is_plain_path("a b") && !is_plain_path("a;}"));
    }

    #[test]
    fn members_of_a_cluster_are_where_they_can_be_dialled() {
        let node = |mqtt: &str, peer: Option<&str>, admin: &str| NodeStatus {
            name: "n1".to_owned(),
            mqtt: Some(mqtt.to_owned()),
            peer: peer.map(str::to_owned),
            admin: Some(admin.to_owned()),
            ..NodeStatus::default()
        };
        let backend = of_member(&node("0.0.0.0:1883", Some("h1:7"), "http://0.0.0.0:9"), 8883).unwrap();
        assert_eq!((backend.mqtt.to_string(), backend.admin.to_string()), ("h1:8883".into(), "h1:9".into()));
        let backend = of_member(&node("10.0.0.1:1883", Some("h1:7"), "http://10.0.0.2:9"), 1).unwrap();
        assert_eq!(backend.admin.to_string(), "10.0.0.2:9");
        assert!(of_member(&node("0.0.0.0:1883", None, "http://0.0.0.0:9"), 1).is_err());
    }
}
