//! The figures of a node and of the cluster, and the topics below `$SYS` that show them.
//!
//! Owns: the closed list of figures, how those of nodes combine, names and payloads of topics. Does not: count, send,
//! deliver; know when.
//! Invariants: two nodes that know the same figures make the same topics of the cluster; a name that is not in the list
//! is ignored, whoever sent it. Limits: the list; one entry for each peer heard of, at most HEARD_NODES_MAX.
//! See: docs/operations/sys-topics.md.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::node::NodeStatus;
use quorate_state::NodeId;
use quorate_state::control::NodeStatus as Membership;
use quorate_state::partition::Counts;

use super::load::{Load, SPANS, text_of_hundredths};
use crate::limits::HEARD_NODES_MAX;
use crate::metrics::Metrics;

/// How the figures of all nodes make one of the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Combine {
    Sum,
    Highest,
    /// It says something of one node only.
    Apart,
}

/// Figures that are read as they are. Names are those of topics, below `$SYS/broker` and `$SYS/nodes/NAME`.
const FIGURES: [(&str, Combine); 24] = [
    ("bytes/received", Combine::Sum),
    ("bytes/sent", Combine::Sum),
    ("clients/connected", Combine::Sum),
    ("clients/disconnected", Combine::Sum),
    ("clients/maximum", Combine::Apart),
    (CLUSTER_MAXIMUM, Combine::Highest),
    ("incarnation", Combine::Apart),
    ("leads", Combine::Apart),
    ("messages/inflight", Combine::Sum),
    ("messages/received", Combine::Sum),
    ("messages/sent", Combine::Sum),
    (LATENCY_P50_US, Combine::Apart),
    (LATENCY_P99_US, Combine::Apart),
    ("publish/bytes/received", Combine::Sum),
    ("publish/bytes/sent", Combine::Sum),
    ("publish/messages/dropped", Combine::Sum),
    ("publish/messages/received", Combine::Sum),
    ("publish/messages/sent", Combine::Sum),
    ("ready", Combine::Apart),
    ("retained messages/count", Combine::Sum),
    ("store/messages/bytes", Combine::Sum),
    ("store/messages/count", Combine::Sum),
    ("subscriptions/count", Combine::Sum),
    ("uptime", Combine::Highest),
];

/// Reads a counter.
type CounterOf = fn(&Metrics) -> u64;

/// The most connections that the cluster had at once, as far as a node knows: nodes tell each other, and the highest
/// counts. Shown as `clients/maximum` of the cluster.
const CLUSTER_MAXIMUM: &str = "cluster/clients/maximum";

/// Time from a publish to its commit, in microseconds: half of the publishes of the last seconds took at most this. For
/// those who ask over HTTP; not there when there were none.
const LATENCY_P50_US: &str = "publish/latency/p50_us";

/// As above, for 99 of 100.
const LATENCY_P99_US: &str = "publish/latency/p99_us";

/// Figures that nodes tell each other and that have no topic.
const HIDDEN: [&str; 3] = [CLUSTER_MAXIMUM, LATENCY_P50_US, LATENCY_P99_US];

/// Load averages, below `load`, each with its counter. They add up to those of the cluster.
const LOADS: [(&str, CounterOf); 9] = [
    ("bytes/received", |metrics| metrics.client_bytes_in.value()),
    ("bytes/sent", |metrics| metrics.client_bytes_out.value()),
    ("connections", |metrics| metrics.connects.value()),
    ("messages/received", |metrics| metrics.packets_in.value()),
    ("messages/sent", |metrics| metrics.packets_out.value()),
    ("publish/dropped", Metrics::dropped_in_all),
    ("publish/received", |metrics| metrics.publishes_in.value()),
    ("publish/sent", |metrics| metrics.publishes_out.value()),
    ("sockets", |metrics| metrics.connections_accepted.value()),
];

/// Topics that show the figure of another name too, because clients of other brokers know it so.
const ALIASES: [(&str, &str); 3] = [
    ("clients/active", "clients/connected"),
    ("clients/inactive", "clients/disconnected"),
    ("messages/stored", "store/messages/count"),
];

fn load_name(what: &str, span: &str) -> String {
    format!("load/{what}/{span}")
}

/// How a figure combines; `None` for one that nobody knows.
fn combine_of(name: &str) -> Option<Combine> {
    if let Some((_, combine)) = FIGURES.iter().find(|(known, _)| *known == name) {
        return Some(*combine);
    }
    let (what, span) = name.strip_prefix("load/")?.rsplit_once('/')?;
    let known = LOADS.iter().any(|(load, _)| *load == what) && SPANS.iter().any(|(known, _)| *known == span);
    known.then_some(Combine::Sum)
}

/// Figures by name.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Figures(BTreeMap<String, u64>);

impl Figures {
    /// Those of the list, out of what a peer sent.
    pub fn of_peer(values: Vec<(String, u64)>) -> Figures {
        Figures(values.into_iter().filter(|(name, _)| combine_of(name).is_some()).collect())
    }

    /// All, for a peer.
    pub fn to_peer(&self) -> Vec<(String, u64)> {
        self.0.iter().map(|(name, value)| (name.clone(), *value)).collect()
    }

    /// Adds how long publishes take, in microseconds: half of them, and 99 of 100.
    pub fn set_latency(&mut self, p50_us: Option<u64>, p99_us: Option<u64>) {
        for (name, value) in [(LATENCY_P50_US, p50_us), (LATENCY_P99_US, p99_us)] {
            if let Some(value) = value {
                self.0.insert(name.to_owned(), value);
            }
        }
    }

    /// As dashboards want them, with rates by an earlier reading.
    fn shown(&self, before: Option<(&Figures, Duration)>) -> quorate_api::Figures {
        let rate = |name: &str| match before {
            // A counter that is lower than before is one of another run.
            Some((before, passed)) if !passed.is_zero() => {
                self.value(name).saturating_sub(before.value(name)) as f64 / passed.as_secs_f64()
            }
            _ => 0.0,
        };
        let (inflight, retained) = (self.value("messages/inflight"), self.value("retained messages/count"));
        let queued = self.value("store/messages/count").saturating_sub(inflight).saturating_sub(retained);
        quorate_api::Figures {
            connections: self.value("clients/connected"),
            sessions: self.value("clients/connected").saturating_add(self.value("clients/disconnected")),
            messages_in_per_s: rate("publish/messages/received"),
            messages_out_per_s: rate("publish/messages/sent"),
            bytes_in_per_s: rate("bytes/received"),
            bytes_out_per_s: rate("bytes/sent"),
            publish_latency_p50_us: self.0.get(LATENCY_P50_US).copied(),
            publish_latency_p99_us: self.0.get(LATENCY_P99_US).copied(),
            queued_messages: queued,
            retained,
            dropped_per_s: rate("publish/messages/dropped"),
        }
    }

    fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// The figures of the cluster out of those of its nodes.
    fn combined<'a>(nodes: impl Iterator<Item = &'a Figures>) -> Figures {
        let mut cluster = Figures::default();
        for (name, value) in nodes.flat_map(|node| &node.0) {
            let combine = combine_of(name).unwrap_or(Combine::Apart);
            if combine == Combine::Apart {
                continue;
            }
            let name = if name == CLUSTER_MAXIMUM { "clients/maximum" } else { name };
            let sum = cluster.0.entry(name.to_owned()).or_default();
            *sum = if combine == Combine::Sum { sum.saturating_add(*value) } else { *value.max(sum) };
        }
        cluster
    }

    /// Topics and payloads below `root`.
    fn topics(&self, root: &str, topics: &mut Vec<(String, String)>) {
        for (name, value) in self.0.iter().filter(|(name, _)| !HIDDEN.contains(&name.as_str())) {
            let payload = match name.as_str() {
                "uptime" => format!("{value} seconds"),
                name if name.starts_with("load/") => text_of_hundredths(*value),
                _ => value.to_string(),
            };
            topics.push((format!("{root}/{name}"), payload));
        }
        for (alias, name) in ALIASES {
            topics.push((format!("{root}/{alias}"), self.value(name).to_string()));
        }
        let total = self.value("clients/connected").saturating_add(self.value("clients/disconnected"));
        topics.push((format!("{root}/clients/total"), total.to_string()));
    }
}

/// What this node reads of itself from one interval to the next.
#[derive(Default)]
pub struct OwnFigures {
    loads: [Load; LOADS.len()],
    read_at: Duration,
    maximum: u64,
    cluster_maximum: u64,
}

impl OwnFigures {
    /// The figures at `now`, which counts from the start of the process.
    pub fn read(
        &mut self,
        metrics: &Metrics,
        status: &NodeStatus,
        transient_subscriptions: usize,
        heard: &Heard,
        now: Duration,
    ) -> Figures {
        let connected = metrics.connections();
        self.maximum = self.maximum.max(connected);
        let others = heard.figures().map(|peer| peer.value("clients/connected"));
        let all_connected = others.fold(connected, u64::saturating_add);
        let others = heard.figures().map(|peer| peer.value(CLUSTER_MAXIMUM)).max().unwrap_or(0);
        self.cluster_maximum = self.cluster_maximum.max(all_connected).max(others);
        let led = || status.groups.iter().filter(|group| group.leader == Some(status.id));
        let sum = |figure: fn(&Counts) -> u64| -> u64 {
            led().filter_map(|group| group.counts.as_ref()).map(figure).fold(0, u64::saturating_add)
        };
        let values = [
            ("bytes/received", metrics.client_bytes_in.value()),
            ("bytes/sent", metrics.client_bytes_out.value()),
            ("clients/connected", connected),
            ("clients/disconnected", sum(|counts| counts.sessions.saturating_sub(counts.online))),
            ("clients/maximum", self.maximum),
            (CLUSTER_MAXIMUM, self.cluster_maximum),
            ("incarnation", status.incarnation.0),
            ("leads", count(led().count())),
            ("messages/inflight", sum(|counts| counts.inflight)),
            ("messages/received", metrics.packets_in.value()),
            ("messages/sent", metrics.packets_out.value()),
            ("publish/bytes/received", metrics.publish_bytes_in.value()),
            ("publish/bytes/sent", metrics.publish_bytes_out.value()),
            ("publish/messages/dropped", metrics.dropped_in_all()),
            ("publish/messages/received", metrics.publishes_in.value()),
            ("publish/messages/sent", metrics.publishes_out.value()),
            ("ready", u64::from(status.ready)),
            ("retained messages/count", sum(|counts| counts.retained)),
            ("store/messages/bytes", sum(|counts| counts.queued_bytes)),
            (
                "store/messages/count",
                sum(|counts| counts.queued_messages + counts.inflight + counts.retained),
            ),
            ("subscriptions/count", sum(|counts| counts.subscriptions) + count(transient_subscriptions)),
            ("uptime", now.as_secs()),
        ];
        let mut figures = Figures(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
        let passed = now.saturating_sub(std::mem::replace(&mut self.read_at, now));
        for (load, (what, counter)) in self.loads.iter_mut().zip(LOADS) {
            load.observe(counter(metrics), passed);
            for (value, (span, _)) in load.hundredths().into_iter().zip(SPANS) {
                figures.0.insert(load_name(what, span), value);
            }
        }
        figures
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// The figures of other nodes, as they last came.
#[derive(Default)]
pub struct Heard(BTreeMap<NodeId, Told>);

/// What a peer told last, and what it had told before.
struct Told {
    at: Duration,
    figures: Figures,
    before: Option<(Duration, Figures)>,
}

impl Heard {
    /// A peer told its figures. Those of a new one are not kept when there are too many.
    pub fn note(&mut self, peer: NodeId, figures: Figures, now: Duration) {
        if self.0.len() < HEARD_NODES_MAX || self.0.contains_key(&peer) {
            let before = self.0.remove(&peer).map(|told| (told.at, told.figures));
            self.0.insert(peer, Told { at: now, figures, before });
        }
    }

    /// Forgets peers that have said nothing for `silence`.
    pub fn forget(&mut self, silence: Duration, now: Duration) {
        self.0.retain(|_, told| now.saturating_sub(told.at) < silence);
    }

    /// Of each peer, when it told them, and its figures with rates between the last two times that it did.
    pub fn shown(&self) -> Vec<(NodeId, Duration, quorate_api::Figures)> {
        let shown = self.0.iter().map(|(peer, told)| {
            let before = told.before.as_ref().map(|(at, figures)| (figures, told.at.saturating_sub(*at)));
            (*peer, told.at, told.figures.shown(before))
        });
        shown.collect()
    }

    fn of(&self, peer: NodeId) -> Option<&Figures> {
        self.0.get(&peer).map(|told| &told.figures)
    }

    fn figures(&self) -> impl Iterator<Item = &Figures> {
        self.0.values().map(|told| &told.figures)
    }
}

/// A member of the cluster, as control knows it.
#[derive(Clone, Debug)]
pub struct Member {
    id: NodeId,
    name: String,
    version: String,
}

/// The members that are to be shown: of two with the same name, the later one.
pub fn members(status: &NodeStatus) -> Vec<Member> {
    let mut by_name: BTreeMap<&str, Member> = BTreeMap::new();
    for (record, membership) in &status.nodes {
        let (id, name) = (record.id, record.name.as_str());
        let later = by_name.get(name).is_none_or(|known| known.id < id);
        if *membership != Membership::Removed && later {
            let version = record.version.as_str().to_owned();
            by_name.insert(name, Member { id, name: name.to_owned(), version });
        }
    }
    by_name.into_values().collect()
}

/// All topics with their payloads, those of the cluster first. A member that nothing was heard of is shown as not ready,
/// without other figures.
pub fn topics(own: (NodeId, &Figures), heard: &Heard, members: &[Member]) -> Vec<(String, String)> {
    let mut topics = Vec::new();
    let cluster = Figures::combined(heard.figures().chain([own.1]));
    cluster.topics("$SYS/broker", &mut topics);
    let oldest = members.iter().map(|member| member.version.as_str()).min_by_key(|version| order(version));
    let version = oldest.unwrap_or(env!("CARGO_PKG_VERSION"));
    topics.push(("$SYS/broker/version".to_owned(), format!("quorate version {version}")));
    for member in members {
        let root = format!("$SYS/nodes/{}", member.name);
        let figures = if member.id == own.0 { Some(own.1) } else { heard.of(member.id) };
        match figures {
            Some(figures) => figures.topics(&root, &mut topics),
            None => topics.push((format!("{root}/ready"), "0".to_owned())),
        }
        topics.push((format!("{root}/version"), format!("quorate version {}", member.version)));
    }
    topics
}

/// Order of versions: number by number.
fn order(version: &str) -> (Vec<u64>, &str) {
    (version.split(['.', '-', '+']).map_while(|number| number.parse().ok()).collect(), version)
}

#[cfg(test)]
mod tests;
