//! What the world sees of the replicas: leaders, commits, state hashes, logs, readiness.
//!
//! Owns: reading nodes from outside. Invariants: looking changes nothing that a node would notice.

use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use quorate_state::{GroupId, NodeId};

use super::process::Process;
use super::{Occurrence, World};
use crate::marks::Mark;
use crate::oracle::{Event, Fnv};

/// Committed positions of a group that a new leader is asked about.
const ASKED_MAX: usize = 24;

impl World {
    /// Samples commits and state hashes, at times that have nothing to do with what happens.
    pub(super) fn observe(&mut self) {
        let after = self.random.millis(60, 240);
        self.schedule(after, Occurrence::Observe);
        let place = self.random.below(self.hosts.len());
        self.debug_routes();
        self.observe_commits(place);
        if self.random.permille(150) {
            self.observe_hashes_of(place);
        }
    }

    fn observe_commits(&mut self, place: usize) {
        let now = self.hosts[place].clock(self.now);
        let Some(process) = &self.hosts[place].process else { return };
        let node = process.node.id().0;
        let mut seen = Vec::new();
        for group in process.node.status(false, now).groups {
            // What is applied is committed, and in the log that is read here; what is committed may not be there yet.
            let index = group.applied.0;
            if let Some(term) = process.reader.term(group.group.0, index).filter(|_| index > 1) {
                seen.push((group.group.0, index, term));
            }
        }
        for (group, index, term) in seen {
            self.committed.entry(group).or_default().entry(index).or_insert(term);
            self.history.push(self.now, Event::Committed { node, group, index, term });
        }
    }

    /// A node has just become leader: what does its log have where others had committed?
    pub(super) fn observe_leading(&mut self, process: &Process, group: GroupId, term: u64) {
        self.history.marks.hit(Mark::LeaderChange);
        self.led_last = self.place_of(process.node.id()).unwrap_or(0);
        let reader = &process.reader;
        let first = reader.first_index(group.0);
        let known = self.committed.get(&group.0);
        let committed: Vec<(u64, u64, Option<u64>)> = known
            .into_iter()
            .flat_map(|known| known.iter().rev().take(ASKED_MAX))
            .filter(|(index, committed)| **index >= first && **committed <= term)
            .map(|(index, committed)| (*index, *committed, reader.term(group.0, *index)))
            .collect();
        let node = process.node.id().0;
        self.history.push(self.now, Event::Leading { node, group: group.0, term, committed });
    }

    fn observe_hashes_of(&mut self, place: usize) {
        let now = self.hosts[place].clock(self.now);
        let Some(process) = &self.hosts[place].process else { return };
        let node = process.node.id().0;
        for group in process.node.status(true, now).groups {
            let applied = group.applied.0;
            if applied > 0 && self.hashes_seen.insert((place, group.group.0, applied)) {
                let hash = group.hash.unwrap_or(0);
                let event = Event::StateHash { node, group: group.group.0, applied, hash };
                self.history.push(self.now, event);
            }
        }
    }

    /// The state of every replica, now that all have applied the same.
    pub(super) fn observe_hashes(&mut self) {
        for place in 0..self.hosts.len() {
            self.observe_hashes_of(place);
        }
    }

    /// Every entry of every log.
    pub(super) fn observe_logs(&mut self) {
        let mut events = Vec::new();
        for host in &self.hosts {
            let Some(process) = &host.process else { continue };
            let node = process.node.id().0;
            for group in 0..=self.features.partitions {
                let (first, last) = (process.reader.first_index(group), process.reader.last_index(group));
                for index in first..=last {
                    let Ok(Some(entry)) = process.reader.entry(group, index) else { continue };
                    let mut hash = Fnv::default();
                    entry.entry_type.hash(&mut hash);
                    hash.write(&entry.data);
                    hash.write(&entry.context);
                    let (term, hash) = (entry.term, hash.finish());
                    events.push(Event::LogEntry { node, group, index, term, hash });
                }
            }
        }
        for event in events {
            self.history.push(self.now, event);
        }
    }

    /// Why the cluster is not whole; `None` when every node has its lease and every group one leader.
    pub(super) fn unready(&self) -> Option<String> {
        let mut leaders: BTreeMap<u32, NodeId> = BTreeMap::new();
        for host in &self.hosts {
            let Some(process) = &host.process else { return Some(format!("host {} is down", host.place)) };
            let now = host.clock(self.now);
            if let Some(clause) = process.node.readiness(now).into_iter().find(|clause| !clause.ok) {
                return Some(format!("node {}: {}: {}", host.node, clause.name, clause.reason));
            }
            for group in process.node.status(false, now).groups {
                let Some(leader) = group.leader else { continue };
                if *leaders.entry(group.group.0).or_insert(leader) != leader {
                    return Some(format!("group {} has two leaders", group.group));
                }
                if !group.learners.is_empty() || !group.voters.contains(&process.node.id()) {
                    return Some(format!("group {} on node {} is not settled", group.group, host.node));
                }
            }
        }
        let all = self.features.partitions as usize + 1;
        (leaders.len() < all).then(|| format!("leaders of {} groups of {all} are known", leaders.len()))
    }

    /// Whether sessions have messages that they have not handed out, or groups commands for each other.
    pub(super) fn has_backlog(&self) -> bool {
        let processes = || self.hosts.iter().filter_map(|host| host.process.as_ref());
        if processes().any(|process| process.node.owes()) {
            return true;
        }
        processes()
            .flat_map(|process| process.node.status(false, Duration::ZERO).groups)
            .any(|group| group.counts.is_some_and(|counts| counts.queued_messages > 0))
    }

    /// Which replicas have applied more than others; `None` when those of each group are equally far.
    pub(super) fn apart(&self) -> Option<String> {
        let mut applied: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for host in &self.hosts {
            let Some(process) = &host.process else { return Some(format!("host {} is down", host.place)) };
            for group in process.node.status(false, Duration::ZERO).groups {
                applied.entry(group.group.0).or_default().push((host.node.0, group.applied.0));
            }
        }
        let differs = |(_, seen): &(u32, Vec<(u64, u64)>)| seen.windows(2).any(|pair| pair[0].1 != pair[1].1);
        applied
            .into_iter()
            .find(differs)
            .map(|(group, seen)| format!("group {group} is applied, by node and index, to {seen:?}"))
    }
}

impl World {
    pub(super) fn debug_routes(&mut self) {
        if !self.history.trace {
            return;
        }
        for host in &self.hosts {
            let Some(p) = &host.process else { continue };
            let m: Vec<String> = self
                .history
                .topics
                .iter()
                .map(|t| {
                    let r = p.routing.matches(t.as_str());
                    format!(
                        "{}:{:?}/{:?}",
                        t.as_str(),
                        r.partitions.iter().map(|g| g.0).collect::<Vec<_>>(),
                        r.nodes.iter().map(|g| g.0).collect::<Vec<_>>()
                    )
                })
                .collect();
            let s = p.node.status(false, Duration::ZERO);
            let c: Vec<String> = s
                .groups
                .iter()
                .map(|g| {
                    format!(
                        "g{} L{:?} t{} c{} a{} {:?}",
                        g.group.0,
                        g.leader.map(|n| n.0),
                        g.term,
                        g.committed.0,
                        g.applied.0,
                        g.counts.map(|c| (
                            c.sessions,
                            c.online,
                            c.subscriptions,
                            c.queued_messages,
                            c.inflight
                        ))
                    )
                })
                .collect();
            crate::oracle::trace_line(
                self.now,
                &format!(
                    "DEBUG node {} lease {:?} now {:?} routes {m:?} {c:?}",
                    host.node,
                    p.lease_until,
                    host.clock(self.now)
                ),
            );
        }
    }
}
