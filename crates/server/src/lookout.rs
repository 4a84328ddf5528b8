//! The node looks at itself once in a while: what changed, how fast it is, how long peers have been silent.
//!
//! Owns: the task that looks and notes events; what it saw last ([`Lookout`]), for those who ask. Does not: judge what to
//! do about it; see `admin::why`.
//! Invariants: looking changes nothing of the node; an event is noted when something changes, not while it lasts.
//! Limits: `LOOKS_MAX` looks; one contact for each peer, at most `HEARD_NODES_MAX`; one event for each reason of drops in
//! `BULK_EVENTS_EVERY`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_api::Readiness;
use quorate_node::node::NodeStatus;
use quorate_state::NodeId;

use crate::admin::health;
use crate::edge::Edge;
use crate::events::NodeEvent;
use crate::limits::{BULK_EVENTS_EVERY, DISK_SLOW, HEARD_NODES_MAX, LOOK_EVERY, LOOKS_MAX};
use crate::logging::LogLevel;
use crate::metrics::{HistogramCounts, Metrics};
use crate::question::{Question, ask_own};

/// What the node has seen of itself and of its peers.
#[derive(Default)]
pub struct Lookout(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    names: BTreeMap<NodeId, String>,
    contacts: BTreeMap<NodeId, Contact>,
    looks: VecDeque<Look>,
}

#[derive(Clone, Copy)]
struct Contact {
    up: bool,
    since: Duration,
}

/// Counters at one time.
#[derive(Clone, Default)]
pub struct Look {
    /// When.
    pub at: Duration,
    /// Messages from and to clients, bytes from and to clients, messages dropped.
    pub traffic: [u64; 5],
    /// Times from a publish to its commit, as clients of this node see it.
    pub publish_time: HistogramCounts,
    /// Times of syncs of the log.
    pub sync_time: HistogramCounts,
}

impl Look {
    fn at(metrics: &Metrics, now: Duration) -> Look {
        Look {
            at: now,
            traffic: [
                metrics.publishes_in.value(),
                metrics.publishes_out.value(),
                metrics.client_bytes_in.value(),
                metrics.client_bytes_out.value(),
                metrics.dropped_in_all(),
            ],
            publish_time: metrics.publish_time.counts(),
            sync_time: metrics.log_sync_time.counts(),
        }
    }
}

impl Lookout {
    /// The link to a peer is up, or down, from now on. Whether that is news.
    pub fn contact(&self, peer: NodeId, up: bool, now: Duration) -> bool {
        let mut seen = self.0.lock();
        let known = seen.contacts.get(&peer).is_some_and(|contact| contact.up == up);
        let room = seen.contacts.len() < HEARD_NODES_MAX || seen.contacts.contains_key(&peer);
        if !known && room {
            seen.contacts.insert(peer, Contact { up, since: now });
        }
        !known
    }

    /// Since when there has been no link to a peer; from the start of the process if there never was one. `None` while
    /// there is one.
    pub fn silent_since(&self, peer: NodeId) -> Option<Duration> {
        match self.0.lock().contacts.get(&peer) {
            Some(contact) if contact.up => None,
            Some(contact) => Some(contact.since),
            None => Some(Duration::ZERO),
        }
    }

    /// Name of a node; its number when it is not known.
    pub fn name(&self, node: NodeId) -> String {
        self.0.lock().names.get(&node).cloned().unwrap_or_else(|| format!("#{}", node.0))
    }

    /// The oldest look that is remembered and the newest one, when there are two.
    pub fn looks(&self) -> Option<(Look, Look)> {
        let seen = self.0.lock();
        let (first, last) = (seen.looks.front()?, seen.looks.back()?);
        (first.at < last.at).then(|| (first.clone(), last.clone()))
    }

    /// How long publishes took from their client to their commit, lately: half of them, and 99 of 100.
    pub fn publish_latency_us(&self) -> (Option<u64>, Option<u64>) {
        let Some((first, last)) = self.looks() else { return (None, None) };
        let quantile = |per_mille| last.publish_time.quantile_us(&first.publish_time, per_mille);
        (quantile(500), quantile(990))
    }

    fn remember(&self, look: Look) {
        let mut seen = self.0.lock();
        if seen.looks.len() >= LOOKS_MAX {
            seen.looks.pop_front();
        }
        seen.looks.push_back(look);
    }

    fn learn_names(&self, status: &NodeStatus) {
        let named = |(record, _): &(quorate_state::command::NodeRecord, _)| {
            (record.id, record.name.as_str().to_owned())
        };
        self.0.lock().names = status.nodes.iter().map(named).collect();
    }
}

/// What was so at the last look.
#[derive(Default)]
struct Before {
    leased: Option<bool>,
    failed: Option<Vec<String>>,
    disk: Disk,
    /// Counts when they were last told, and when that was.
    told: BTreeMap<(&'static str, &'static str), (u64, Duration)>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Disk {
    #[default]
    Sound,
    Slow,
    Full,
}

/// Looks every second until the node has stopped.
pub async fn run(edge: Arc<Edge>, log: Arc<LogLevel>) {
    edge.events.note(&NodeEvent::Started);
    let mut before = Before::default();
    loop {
        if let Some(status) = ask_own(&edge, |answer| Question::Status { with_hash: false, answer }).await {
            edge.lookout.learn_names(&status);
        }
        let readiness = health::judge(&edge, ask_own(&edge, Question::Readiness).await);
        let now = edge.clock.now();
        if let Some(filter) = log.look(now) {
            tracing::info!(filter, "the log's filter is the one before again");
            edge.events.note(&NodeEvent::LogLevelChanged(filter));
        }
        edge.lookout.remember(Look::at(&edge.metrics, now));
        edge.send_marks(None);
        before.look(&edge, &readiness, now);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Before {
    fn look(&mut self, edge: &Edge, readiness: &Readiness, now: Duration) {
        let mut found = Vec::new();
        let leased = now < edge.lease.read().until;
        if let Some(event) = self.lease(leased) {
            found.push(event);
        }
        if let Some(event) = self.readiness(readiness) {
            found.push(event);
        }
        if let Some(event) =
            self.disk(edge.metrics.log_waits_for_space.value() > 0, edge.metrics.sync_underway())
        {
            found.push(event);
        }
        found.extend(self.bulk("dropped", edge.metrics.drops(), now, NodeEvent::Dropped));
        found.extend(self.bulk("refused", edge.metrics.refusals(), now, NodeEvent::Refused));
        found.iter().for_each(|event| edge.events.note(event));
    }

    /// The first lease of a start is no news.
    fn lease(&mut self, leased: bool) -> Option<NodeEvent> {
        let before = self.leased.filter(|_| self.leased.is_some());
        if before.is_none() && !leased {
            return None;
        }
        self.leased = Some(leased);
        match (before?, leased) {
            (true, false) => Some(NodeEvent::LeaseLost),
            (false, true) => Some(NodeEvent::LeaseRegained),
            _ => None,
        }
    }

    fn readiness(&mut self, readiness: &Readiness) -> Option<NodeEvent> {
        let failed: Vec<String> = readiness.failed().map(|clause| clause.name.clone()).collect();
        if self.failed.as_ref() == Some(&failed) {
            return None;
        }
        let first = self.failed.replace(failed.clone()).is_none();
        match failed.is_empty() {
            true => Some(NodeEvent::Ready),
            // Nobody is ready as soon as it starts.
            false if first => None,
            false => {
                Some(NodeEvent::NotReady(readiness.failed().map(|clause| clause.reason.clone()).collect()))
            }
        }
    }

    fn disk(&mut self, full: bool, underway: Option<Duration>) -> Option<NodeEvent> {
        let slow = underway.filter(|time| *time >= DISK_SLOW);
        let disk = match (full, slow) {
            (true, _) => Disk::Full,
            (false, Some(_)) => Disk::Slow,
            (false, None) => Disk::Sound,
        };
        if std::mem::replace(&mut self.disk, disk) == disk {
            return None;
        }
        Some(match disk {
            Disk::Full => NodeEvent::DiskFull,
            Disk::Slow => NodeEvent::DiskSlow(slow.unwrap_or_default()),
            Disk::Sound => NodeEvent::DiskRecovered,
        })
    }

    /// What came in bulk since it was last told; the first of a reason is told at once.
    fn bulk(
        &mut self,
        what: &'static str,
        counts: impl IntoIterator<Item = (&'static str, u64)>,
        now: Duration,
        event: fn(&'static str, u64) -> NodeEvent,
    ) -> Vec<NodeEvent> {
        let mut events = Vec::new();
        for (reason, count) in counts {
            let told = self.told.get(&(what, reason)).copied();
            let (before, at) = told.unwrap_or((0, Duration::ZERO));
            if count > before && (told.is_none() || now.saturating_sub(at) >= BULK_EVENTS_EVERY) {
                events.push(event(reason, count - before));
                self.told.insert((what, reason), (count, now));
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use quorate_api::Clause;

    const SECOND: Duration = Duration::from_secs(1);

    fn clause(name: &str, ok: bool) -> Clause {
        if ok { Clause::met(name) } else { Clause::failed(name, format!("reason of {name}")) }
    }

    #[test]
    fn changes_are_told_once() {
        let mut before = Before::default();
        let lease: Vec<_> = [false, true, true, false, false, true].map(|leased| before.lease(leased)).into();
        let (lost, regained) = (Some(NodeEvent::LeaseLost), Some(NodeEvent::LeaseRegained));
        assert_eq!(lease, [None, None, None, lost, None, regained]);
        let looks = [
            [clause("lease", false), clause("votes", true)],
            [clause("lease", true), clause("votes", true)],
            [clause("lease", true), clause("votes", true)],
            [clause("lease", false), clause("votes", false)],
            [clause("lease", false), clause("votes", false)],
        ];
        let readiness: Vec<_> = looks.map(|clauses| before.readiness(&Readiness::of(clauses.into()))).into();
        let reasons = vec!["reason of lease".to_owned(), "reason of votes".to_owned()];
        let (ready, not_ready) = (Some(NodeEvent::Ready), Some(NodeEvent::NotReady(reasons)));
        assert_eq!(readiness, [None, ready, None, not_ready, None]);
        let disk = [(false, None), (false, Some(SECOND)), (true, Some(SECOND)), (true, None), (false, None)];
        let disk: Vec<_> = disk.map(|(full, underway)| before.disk(full, underway)).into();
        let slow = Some(NodeEvent::DiskSlow(SECOND));
        assert_eq!(disk, [None, slow, Some(NodeEvent::DiskFull), None, Some(NodeEvent::DiskRecovered)]);
    }

    #[test]
    fn drops_are_told_at_once_and_then_in_bulk() {
        let mut before = Before::default();
        let mut told = |count: u64, at: u32| {
            before.bulk("dropped", vec![("queue_bytes", count)], SECOND * at, NodeEvent::Dropped)
        };
        let dropped = |count: u64| vec![NodeEvent::Dropped("queue_bytes", count)];
        assert_eq!(told(0, 1), []);
        assert_eq!(told(3, 2), dropped(3));
        assert_eq!(told(9, 3), []);
        assert_eq!(told(10, 12), dropped(7));
        assert_eq!(told(10, 99), []);
    }

    #[test]
    fn silence_of_a_peer_counts_from_its_last_link() {
        let lookout = Lookout::default();
        let peer = NodeId(2);
        assert_eq!(lookout.silent_since(peer), Some(Duration::ZERO));
        assert!(lookout.contact(peer, true, SECOND));
        assert!(!lookout.contact(peer, true, SECOND * 2));
        assert_eq!(lookout.silent_since(peer), None);
        assert!(lookout.contact(peer, false, SECOND * 3));
        assert!(!lookout.contact(peer, false, SECOND * 4));
        assert_eq!(lookout.silent_since(peer), Some(SECOND * 3));
    }
}
