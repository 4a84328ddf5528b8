//! Networks of the nodes: each in a namespace of its own, joined by a bridge to which the clients are attached as well.
//!
//! Owns: namespaces, the bridge and its links; rules that drop or refuse packets, with counters; a limit on a link. Does not: know nodes.
//! Invariants: all names begin with `qf-` and have the number of this process; all of it goes with the value.
//! Limits: Linux, root, at most 250 nodes. One run at a time on a machine, which `only` sees to: the addresses are fixed.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};

use crate::machine::{lacking, run};

/// Begin of all names of namespaces and links.
pub const PREFIX: &str = "qf-";

/// What it needs.
const PROGRAMS: [&str; 4] = ["ip", "nft", "nsenter", "tc"];

/// The clients' own address is the last one; nodes begin with 1.
const NETWORK: [u8; 3] = [10, 211, 47];

/// Last byte of the clients' address.
const CLIENTS: u8 = 254;

/// Why there can be none here, if so.
pub fn why_none() -> Option<String> {
    lacking(&PROGRAMS)
}

/// The network of a run.
pub struct Network {
    number: u32,
    nodes: usize,
}

/// The address of a node.
///
/// # Errors
/// When there are too many.
pub fn address(place: usize) -> Result<IpAddr> {
    let [a, b, c] = NETWORK;
    let last = u8::try_from(place + 1).context("at most 250 nodes")?;
    Ok(IpAddr::V4(Ipv4Addr::new(a, b, c, last)))
}

impl Network {
    /// Makes the bridge and a namespace for each node.
    ///
    /// # Errors
    /// When the system refuses one of them, or the addresses are in use.
    pub fn make(nodes: usize) -> Result<Network> {
        // Names of interfaces have 15 bytes.
        let mut network = Network { number: std::process::id() % 100_000, nodes: 0 };
        let bridge = network.bridge();
        let [a, b, c] = NETWORK;
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        run("ip", &["address", "add", &format!("{a}.{b}.{c}.{CLIENTS}/24"), "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for place in 0..nodes {
            network.nodes = place + 1;
            network.join(place)?;
        }
        Ok(network)
    }

    fn join(&self, place: usize) -> Result<()> {
        let (namespace, link) = (self.namespace(place), self.link(place));
        run("ip", &["netns", "add", &namespace])?;
        let veth = ["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace];
        run("ip", &veth)?;
        run("ip", &["link", "set", &link, "master", &self.bridge()])?;
        run("ip", &["link", "set", &link, "up"])?;
        let within = |arguments: &[&str]| run("ip", &[&["-n", &namespace], arguments].concat());
        within(&["link", "set", "lo", "up"])?;
        within(&["address", "add", &format!("{}/24", address(place)?), "dev", "eth0"])?;
        within(&["link", "set", "eth0", "up"])?;
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("{PREFIX}{}", self.number)
    }

    /// The name of a node's namespace.
    pub fn namespace(&self, place: usize) -> String {
        format!("{PREFIX}{}-n{}", self.number, place + 1)
    }

    /// The end of a node's link that is at the bridge.
    fn link(&self, place: usize) -> String {
        format!("{PREFIX}{}-{}", self.number, place + 1)
    }

    /// What to write before a command so that it runs in the network of a node, as the same process.
    pub fn entrance(&self, place: usize) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.namespace(place))]
    }

    fn within(&self, place: usize, command: &[&str]) -> Result<String> {
        let net = format!("--net=/run/netns/{}", self.namespace(place));
        run("nsenter", &[&[net.as_str()], command].concat())
    }

    /// From now on a node gets nothing that another one sends.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn drop_from(&self, place: usize, from: usize) -> Result<()> {
        self.rule(place, &format!("ip saddr {} counter drop", address(from)?))
    }

    /// From now on every packet of a connection that reaches a node ends it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn reset_all(&self, place: usize) -> Result<()> {
        self.rule(place, "ip protocol tcp tcp flags & rst != rst counter reject with tcp reset")
    }

    /// From now on a node loses so many of a hundred packets that come to it, at random.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn lose(&self, place: usize, percent: u32) -> Result<()> {
        self.rule(place, &format!("numgen random mod 100 < {percent} counter drop"))
    }

    /// From now on every packet of a connection that reaches a node goes through a queue to a program; when there is none, it passes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn queue(&self, place: usize, queue: u16) -> Result<()> {
        let number = queue.to_string();
        let target = ["-j", "NFQUEUE", "--queue-num", number.as_str(), "--queue-bypass"];
        let rule = ["iptables", "-t", "mangle", "-A", "INPUT", "-p", "tcp"];
        self.within(place, &[rule.as_slice(), &target].concat())?;
        Ok(())
    }

    /// Ends that.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn unqueue(&self, place: usize) -> Result<()> {
        self.within(place, &["iptables", "-t", "mangle", "-F", "INPUT"])?;
        Ok(())
    }

    fn rule(&self, place: usize, rule: &str) -> Result<()> {
        let chain = "add chain ip quorate input { type filter hook input priority 0 ; }";
        let script = format!("add table ip quorate; {chain}; add rule ip quorate input {rule}");
        self.within(place, &["nft", &script])?;
        Ok(())
    }

    /// Packets that the rules of a node have counted.
    ///
    /// # Errors
    /// When it has none.
    pub fn counted(&self, place: usize) -> Result<u64> {
        let rules = self.within(place, &["nft", "list", "table", "ip", "quorate"])?;
        let mut words = rules.split_whitespace();
        let mut sum = 0_u64;
        while let Some(word) = words.next() {
            if word == "packets" {
                sum += words.next().context("a number of packets")?.parse::<u64>()?;
            }
        }
        Ok(sum)
    }

    /// Removes all rules of a node.
    ///
    /// # Errors
    /// When it has none.
    pub fn clear(&self, place: usize) -> Result<()> {
        self.within(place, &["nft", "delete", "table", "ip", "quorate"])?;
        Ok(())
    }

    /// Takes the link of a node down, or up again.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_link(&self, place: usize, up: bool) -> Result<()> {
        run("ip", &["link", "set", &self.link(place), if up { "up" } else { "down" }])?;
        Ok(())
    }

    /// Whether the link of a node is up, as the node's end of it says.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn link_is_up(&self, place: usize) -> Result<bool> {
        let said = run("ip", &["-n", &self.namespace(place), "-br", "link", "show", "eth0"])?;
        Ok(said.split_whitespace().nth(1) == Some("UP"))
    }

    /// Limits what reaches a node to so many kilobits in a second.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn limit(&self, place: usize, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let link = self.link(place);
        let tbf = ["tbf", "rate", &rate, "burst", "16kb", "latency", "400ms"];
        run("tc", &[&["qdisc", "add", "dev", &link, "root"], tbf.as_slice()].concat())?;
        Ok(())
    }

    /// How often the limit of a node has made packets wait.
    ///
    /// # Errors
    /// When it has none.
    pub fn held_up(&self, place: usize) -> Result<u64> {
        let said = run("tc", &["-s", "qdisc", "show", "dev", &self.link(place)])?;
        let mut words = said.split_whitespace();
        words.find(|word| *word == "overlimits").context("a counter of overlimits")?;
        Ok(words.next().context("a number")?.parse()?)
    }

    /// Removes the limit.
    ///
    /// # Errors
    /// When there is none.
    pub fn unlimit(&self, place: usize) -> Result<()> {
        run("tc", &["qdisc", "del", "dev", &self.link(place), "root"])?;
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in 0..self.nodes {
            let _ = run("ip", &["link", "del", &self.link(place)]);
            let _ = run("ip", &["netns", "del", &self.namespace(place)]);
        }
        let _ = run("ip", &["link", "del", &self.bridge()]);
    }
}
