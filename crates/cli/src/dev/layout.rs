//! Where the nodes of a development cluster live: directories, ports and configuration files.
//!
//! Owns: the plan of ports, the text of `DIR/nI/quorate.toml`, keeping an existing directory.
//! Does not: start anything.
//! Invariants: node i uses each first port + i − 1; a file that exists is never changed.
//! Limits: DEV_NODES_MAX.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde::Deserialize;

use crate::limits::DEV_NODES_MAX;

/// MQTT port when none is given; only then do the WebSocket ports start at [`WEBSOCKET_PORT`].
pub const MQTT_PORT: u16 = 1883;
/// First WebSocket port beside the default MQTT port.
pub const WEBSOCKET_PORT: u16 = 8083;
/// WebSocket ports start this far above any other MQTT port.
const WEBSOCKET_ABOVE_MQTT: u16 = 1000;
/// Peer ports start this far above the MQTT port.
const PEER_ABOVE_MQTT: u16 = 10_000;
/// Partitions of a development cluster.
const PARTITIONS: u16 = 16;

/// Addresses of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodePlan {
    /// `n1`, `n2`, …
    pub name: String,
    /// MQTT over TCP.
    pub mqtt: SocketAddr,
    /// MQTT over WebSocket.
    pub websocket: SocketAddr,
    /// Admin HTTP.
    pub admin: SocketAddr,
    /// Peers; `None` when the node is alone.
    pub peer: Option<SocketAddr>,
}

/// The addresses of all nodes, or the reason why there are none.
pub fn plan(nodes: u16, mqtt_port: u16, admin_port: u16) -> Result<Vec<NodePlan>, String> {
    if nodes == 0 || nodes > DEV_NODES_MAX {
        return Err(format!("--nodes must be 1 to {DEV_NODES_MAX}"));
    }
    let websocket_port = if mqtt_port == MQTT_PORT {
        Some(WEBSOCKET_PORT)
    } else {
        mqtt_port.checked_add(WEBSOCKET_ABOVE_MQTT)
    };
    let port = |what: &str, first: Option<u16>, at: u16| {
        let port = first.and_then(|first| first.checked_add(at)).filter(|port| *port > 0);
        port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok_or_else(|| {
            format!("the {what} port of n{} is outside 1 to 65535; choose a lower first port", at + 1)
        })
    };
    let mut plans = Vec::new();
    for at in 0..nodes {
        let peer = match nodes {
            1 => None,
            _ => Some(port("peer", mqtt_port.checked_add(PEER_ABOVE_MQTT), at)?),
        };
        plans.push(NodePlan {
            name: format!("n{}", at + 1),
            mqtt: port("MQTT", Some(mqtt_port), at)?,
            websocket: port("WebSocket", websocket_port, at)?,
            admin: port("admin", Some(admin_port), at)?,
            peer,
        });
    }
    match doubled(&plans) {
        Some(address) => Err(format!("{address} would be used twice; choose other first ports")),
        None => Ok(plans),
    }
}

impl NodePlan {
    /// The addresses with what they are for.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        [
            Some(("MQTT", self.mqtt)),
            Some(("WebSocket", self.websocket)),
            Some(("admin", self.admin)),
            self.peer.map(|peer| ("peer", peer)),
        ]
        .into_iter()
        .flatten()
    }

    /// Its directory below `dir`.
    pub fn dir(&self, dir: &Path) -> PathBuf {
        dir.join(&self.name)
    }

    /// Its configuration file below `dir`.
    pub fn config_file(&self, dir: &Path) -> PathBuf {
        self.dir(dir).join("quorate.toml")
    }
}

fn doubled(plans: &[NodePlan]) -> Option<SocketAddr> {
    let mut all: Vec<SocketAddr> =
        plans.iter().flat_map(|plan| plan.addresses().map(|(_, address)| address)).collect();
    all.sort();
    all.windows(2).find_map(|pair| match pair {
        [first, second] if first == second => Some(*first),
        _ => None,
    })
}

/// Addresses that cannot be bound now, as sentences.
pub fn taken(plans: &[NodePlan]) -> Vec<String> {
    let mut problems = Vec::new();
    for plan in plans {
        for (what, address) in plan.addresses() {
            if let Err(error) = TcpListener::bind(address) {
                problems.push(format!("{} needs {address} ({what}): {error}", plan.name));
            }
        }
    }
    problems
}

/// The configuration file of one node.
pub fn config_text(plans: &[NodePlan], node: &NodePlan) -> String {
    let mut text = format!(
        "# Node {name} of a development cluster. Start it by hand with: quorate serve --config THIS-FILE\n\
         \n[node]\nname = \"{name}\"\ndata_dir = \"./data\"\n\
         \n[[listener]]\nkind = \"tcp\"\nbind = \"{mqtt}\"\n\
         \n[[listener]]\nkind = \"websocket\"\nbind = \"{websocket}\"\n\
         \n[admin]\nbind = \"{admin}\"\n",
        name = node.name,
        mqtt = node.mqtt,
        websocket = node.websocket,
        admin = node.admin,
    );
    if let Some(peer) = node.peer {
        text.push_str(&format!(
            "\n[peer]\nbind = \"{peer}\"\nca_file = \"../tls/ca.pem\"\ncert_file = \"../tls/{name}.pem\"\n\
             key_file = \"../tls/{name}.key\"\n",
            name = node.name,
        ));
        text.push_str("\n[cluster]\nname = \"dev\"\nbootstrap = [\n");
        for plan in plans {
            if let Some(peer) = plan.peer {
                text.push_str(&format!("  {{ name = \"{}\", peer = \"{peer}\" }},\n", plan.name));
            }
        }
        text.push_str(&format!("]\npartitions = {PARTITIONS}\n"));
    }
    text.push_str("\n[log]\nformat = \"text\"\n");
    text
}

/// The part of a configuration file that this command has to know of an existing directory.
#[derive(Deserialize, Debug)]
struct Existing {
    listener: Vec<ExistingListener>,
    admin: ExistingAdmin,
}

#[derive(Deserialize, Debug)]
struct ExistingListener {
    kind: String,
    /// An address and port, or a Unix socket that somebody has added.
    bind: String,
}

#[derive(Deserialize, Debug)]
struct ExistingAdmin {
    bind: SocketAddr,
}

/// Writes the configuration files that are missing. An existing directory must have been made for the
/// same nodes and ports; the caller turns an error into advice to use `--fresh`.
pub fn write(dir: &Path, plans: &[NodePlan]) -> anyhow::Result<()> {
    if let Some(more) = node_dirs(dir)?.into_iter().find(|path| {
        let name = path.file_name().unwrap_or_default();
        !plans.iter().any(|plan| name == plan.name.as_str())
    }) {
        return Err(anyhow!("{} is there too: the directory was made for more nodes", more.display()));
    }
    let kept = plans.iter().filter(|plan| plan.config_file(dir).exists()).count();
    if kept > 0 && kept < plans.len() {
        return Err(anyhow!("{} was made for fewer nodes", dir.display()));
    }
    for plan in plans {
        let file = plan.config_file(dir);
        if file.exists() {
            check_existing(&file, plan)?;
            continue;
        }
        fs::create_dir_all(plan.dir(dir)).with_context(|| format!("create {}", plan.dir(dir).display()))?;
        fs::write(&file, config_text(plans, plan)).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn check_existing(file: &Path, plan: &NodePlan) -> anyhow::Result<()> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let existing: Existing = toml::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    let mqtt =
        existing.listener.iter().find(|listener| listener.kind == "tcp").map(|listener| &listener.bind);
    let is_planned = mqtt.is_some_and(|bind| bind.parse() == Ok(plan.mqtt));
    if !is_planned || existing.admin.bind != plan.admin {
        let mqtt = mqtt.map_or("none", String::as_str);
        return Err(anyhow!(
            "{} has MQTT on {mqtt} and admin on {}, not on {} and {}",
            file.display(),
            existing.admin.bind,
            plan.mqtt,
            plan.admin,
        ));
    }
    Ok(())
}

/// Removes what an earlier run made in `dir`: the node directories and the certificates, nothing else.
pub fn remove(dir: &Path) -> anyhow::Result<()> {
    let mut paths = node_dirs(dir)?;
    paths.push(dir.join("tls"));
    for path in paths.into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// The directories `n1`, `n2`, … in `dir`.
fn node_dirs(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('n'));
        if path.is_dir() && name.is_some_and(|number| number.parse::<u16>().is_ok()) {
            paths.push(path);
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_count_up_from_the_first() {
        let plans = plan(3, 1883, 9883).unwrap();
        let ports: Vec<Vec<u16>> =
            plans.iter().map(|plan| plan.addresses().map(|(_, address)| address.port()).collect()).collect();
        assert_eq!(
            ports,
            [vec![1883, 8083, 9883, 11883], vec![1884, 8084, 9884, 11884], vec![1885, 8085, 9885, 11885]]
        );
        assert_eq!(plan(1, 20000, 21500).unwrap()[0].websocket.port(), 21000);
        assert_eq!(plan(1, 20000, 21500).unwrap()[0].peer, None);
    }

    #[test]
    fn impossible_ports_are_refused() {
        for (nodes, mqtt, admin, part) in [
            (0, 1883, 9883, "--nodes"),
            (10, 1883, 9883, "--nodes"),
            (3, 1883, 1884, "twice"),
            (3, 60000, 9883, "peer port of n1"),
            (1, 65000, 9883, "WebSocket"),
            (3, 1883, 65534, "admin port of n3"),
            (3, 8883, 9883, "twice"),
        ] {
            let problem = plan(nodes, mqtt, admin).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn an_existing_directory_is_kept_unless_it_is_for_other_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let three = plan(3, 1883, 9883).unwrap();
        write(dir.path(), &three).unwrap();
        let file = three[1].config_file(dir.path());
        let edited = fs::read_to_string(&file).unwrap() + "# mine\n";
        fs::write(&file, &edited).unwrap();
        write(dir.path(), &three).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), edited);
        for other in [plan(1, 1883, 9883), plan(5, 1883, 9883), plan(3, 1893, 9883), plan(3, 1883, 9983)] {
            assert!(write(dir.path(), &other.unwrap()).is_err());
        }
        fs::write(dir.path().join("notes"), "").unwrap();
        remove(dir.path()).unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes"], "only what this command made is removed");
        write(dir.path(), &plan(5, 1893, 9983).unwrap()).unwrap();
    }

    #[test]
    fn the_server_reads_what_was_written() {
        for nodes in [1, 3] {
            let dir = tempfile::tempdir().unwrap();
            let plans = plan(nodes, 1883, 9883).unwrap();
            write(dir.path(), &plans).unwrap();
            for plan in &plans {
                let config = match quorate_server::config::load(&plan.config_file(dir.path())) {
                    Ok(config) => config,
                    Err(errors) => panic!("{errors:?}"),
                };
                assert_eq!(config.node.name, plan.name);
                assert_eq!(config.node.data_dir, plan.dir(dir.path()).join("./data"));
                let binds: Vec<_> = config.listeners.iter().map(|listener| listener.bind.address()).collect();
                assert_eq!(binds, [Some(plan.mqtt), Some(plan.websocket)]);
                assert_eq!(config.admin.bind, plan.admin);
                assert_eq!(config.peer.map(|peer| peer.bind), plan.peer);
                assert_eq!(config.cluster.bootstrap.len(), if nodes == 1 { 0 } else { 3 });
            }
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut plans = plan(1, 1883, 9883).unwrap();
        plans[0].mqtt.set_port(port);
        let problems = taken(&plans);
        assert!(problems.iter().any(|line| line.contains(&format!("n1 needs 127.0.0.1:{port} (MQTT)"))));
    }
}
