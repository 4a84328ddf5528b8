//! What happened on this node that an operator cares about, for those who come later or watch from afar.
//!
//! Owns: [`NodeEvent`], the closed list; the ring of the last ones. Does not: log; whoever notes an event logs it too.
//! Invariants: numbers grow, over restarts too as long as the wall clock does; what the ring has no room for is the
//! oldest, and whoever reads learns how many are gone.
//! Limits: `NODE_EVENTS_MAX` events, each with at most `NODE_EVENT_TEXT_BYTES_MAX` bytes of text: half a mebibyte.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use quorate_state::command::Duty;
use quorate_state::{GroupId, NodeId};

use crate::limits::{NODE_EVENT_TEXT_BYTES_MAX, NODE_EVENTS_MAX};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// The node has started.
    Started,
    /// It leads a group.
    LeadershipGained(GroupId, u64),
    /// It no longer does.
    LeadershipLost(GroupId, u64),
    /// The members of a group changed.
    MembersChanged(GroupId, String),
    /// Control counts a node as running.
    NodeUp(NodeId),
    /// Control declared a node down.
    NodeDown(NodeId),
    /// A link to a peer is up.
    PeerReachable(NodeId),
    /// A link to a peer is down.
    PeerUnreachable(NodeId),
    /// The lease ran out: nothing is acknowledged.
    LeaseLost,
    /// The lease is back.
    LeaseRegained,
    /// Every clause of readiness holds again.
    Ready,
    /// These clauses of readiness do not.
    NotReady(Vec<String>),
    /// An operator takes the node out of service; clients may stay for so many seconds.
    DrainBegun(u32),
    /// It is in service again.
    DrainEnded,
    /// An operator wants the node to lead no group.
    LeadershipUnwanted,
    /// It may lead groups again.
    LeadershipWanted,
    /// The node was told to stop.
    Stopping,
    /// The disk is full: nothing is acknowledged.
    DiskFull,
    /// The disk is slow: one sync takes so long.
    DiskSlow(Duration),
    /// It has room, and is fast enough.
    DiskRecovered,
    /// A listener has new certificates.
    CertificatesReplaced(String),
    /// A listener keeps its certificates, for this reason.
    CertificatesKept(String, String),
    /// So many messages were dropped for this reason since it was last told.
    Dropped(&'static str, u64),
    /// So many connections were refused for this reason since it was last told.
    Refused(&'static str, u64),
    /// The configuration was read again, and these keys are in force.
    ConfigurationApplied(Vec<String>),
    /// The configuration was read again and refused.
    ConfigurationRefused(String),
    /// Another filter for the log is in force.
    LogLevelChanged(String),
    /// A live packet log began, or ended.
    Trace(String),
    /// What a backup came to.
    Backup(String),
    /// The node's state was damaged, and it has joined anew: what was given up, and where the damaged state is.
    JoinedAnew(String),
}

impl NodeEvent {
    /// What it means for the node that an operator wants something else of it.
    pub fn of_duty(before: Duty, now: Duty) -> Vec<NodeEvent> {
        match (before, now) {
            (_, Duty::Drain { grace_s }) => vec![NodeEvent::DrainBegun(grace_s)],
            (Duty::Drain { .. }, Duty::Full) => vec![NodeEvent::DrainEnded],
            (Duty::Drain { .. }, Duty::Follow) => {
                vec![NodeEvent::DrainEnded, NodeEvent::LeadershipUnwanted]
            }
            (Duty::Full, Duty::Follow) => vec![NodeEvent::LeadershipUnwanted],
            (Duty::Follow, Duty::Full) => vec![NodeEvent::LeadershipWanted],
            (Duty::Full, Duty::Full) | (Duty::Follow, Duty::Follow) => Vec::new(),
        }
    }

    /// Short stable name.
    pub fn kind(&self) -> &'static str {
        match self {
            NodeEvent::Started => "started",
            NodeEvent::LeadershipGained(..) => "leadership_gained",
            NodeEvent::LeadershipLost(..) => "leadership_lost",
            NodeEvent::MembersChanged(..) => "members_changed",
            NodeEvent::NodeUp(_) => "node_up",
            NodeEvent::NodeDown(_) => "node_down",
            NodeEvent::PeerReachable(_) => "peer_reachable",
            NodeEvent::PeerUnreachable(_) => "peer_unreachable",
            NodeEvent::LeaseLost => "lease_lost",
            NodeEvent::LeaseRegained => "lease_regained",
            NodeEvent::Ready => "ready",
            NodeEvent::NotReady(_) => "not_ready",
            NodeEvent::DrainBegun(_) => "drain_begun",
            NodeEvent::DrainEnded => "drain_ended",
            NodeEvent::LeadershipUnwanted => "leadership_unwanted",
            NodeEvent::LeadershipWanted => "leadership_wanted",
            NodeEvent::Stopping => "stopping",
            NodeEvent::DiskFull => "disk_full",
            NodeEvent::DiskSlow(_) => "disk_slow",
            NodeEvent::DiskRecovered => "disk_recovered",
            NodeEvent::CertificatesReplaced(_) => "certificates_replaced",
            NodeEvent::CertificatesKept(..) => "certificates_kept",
            NodeEvent::Dropped(..) => "messages_dropped",
            NodeEvent::Refused(..) => "connections_refused",
            NodeEvent::ConfigurationApplied(_) => "configuration_applied",
            NodeEvent::ConfigurationRefused(_) => "configuration_refused",
            NodeEvent::LogLevelChanged(_) => "log_level_changed",
            NodeEvent::Trace(_) => "trace",
            NodeEvent::Backup(_) => "backup",
            NodeEvent::JoinedAnew(_) => "joined_anew",
        }
    }

    /// The group that it is about.
    pub fn group(&self) -> Option<GroupId> {
        match self {
            NodeEvent::LeadershipGained(group, _)
            | NodeEvent::LeadershipLost(group, _)
            | NodeEvent::MembersChanged(group, _) => Some(*group),
            _ => None,
        }
    }

    /// The other node that it is about.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            NodeEvent::NodeUp(node)
            | NodeEvent::NodeDown(node)
            | NodeEvent::PeerReachable(node)
            | NodeEvent::PeerUnreachable(node) => Some(*node),
            _ => None,
        }
    }

    /// In a sentence.
    pub fn text(&self) -> String {
        let mut text = match self {
            NodeEvent::Started => "The node has started.".to_owned(),
            NodeEvent::LeadershipGained(group, term) => format!("Leads group {group} in term {term}."),
            NodeEvent::LeadershipLost(group, term) => {
                format!("Leads group {group} no longer, in term {term}.")
            }
            NodeEvent::MembersChanged(group, members) => format!("Members of group {group}: {members}."),
            NodeEvent::NodeUp(node) => format!("Control counts node {} as running.", node.0),
            NodeEvent::NodeDown(node) => format!("Control declared node {} down.", node.0),
            NodeEvent::PeerReachable(node) => format!("The link to node {} is up.", node.0),
            NodeEvent::PeerUnreachable(node) => format!("The link to node {} is down.", node.0),
            NodeEvent::LeaseLost => "The lease ran out: nothing is acknowledged.".to_owned(),
            NodeEvent::LeaseRegained => "The node holds its lease again.".to_owned(),
            NodeEvent::Ready => "The node is ready.".to_owned(),
            NodeEvent::NotReady(clauses) => format!("The node is not ready: {}.", clauses.join(", ")),
            NodeEvent::DrainBegun(grace_s) => {
                format!("An operator takes the node out of service; clients may stay for {grace_s} s.")
            }
            NodeEvent::DrainEnded => "The node is in service again.".to_owned(),
            NodeEvent::LeadershipUnwanted => "An operator wants the node to lead no group.".to_owned(),
            NodeEvent::LeadershipWanted => "The node may lead groups again.".to_owned(),
            NodeEvent::Stopping => "The node was told to stop.".to_owned(),
            NodeEvent::DiskFull => {
                "The disk is full: nothing is acknowledged until there is room.".to_owned()
            }
            NodeEvent::DiskSlow(time) => format!("One sync of the log takes {} ms.", time.as_millis()),
            NodeEvent::DiskRecovered => "The log is written as usual again.".to_owned(),
            NodeEvent::CertificatesReplaced(listener) => {
                format!("New certificates of listener {listener} are in force.")
            }
            NodeEvent::CertificatesKept(listener, error) => {
                format!("Listener {listener} keeps its certificates: {error}.")
            }
            NodeEvent::Dropped(reason, count) => format!("{count} messages were dropped: {reason}."),
            NodeEvent::Refused(reason, count) => format!("{count} connections were refused: {reason}."),
            NodeEvent::ConfigurationApplied(keys) if keys.is_empty() => {
                "The configuration was read again: nothing has changed that counts now.".to_owned()
            }
            NodeEvent::ConfigurationApplied(keys) => format!("In force now: {}.", keys.join(", ")),
            NodeEvent::ConfigurationRefused(error) => format!("The configuration was refused: {error}."),
            NodeEvent::LogLevelChanged(filter) => format!("The log's filter is {filter}."),
            NodeEvent::Trace(what) | NodeEvent::Backup(what) | NodeEvent::JoinedAnew(what) => what.clone(),
        };
        if text.len() > NODE_EVENT_TEXT_BYTES_MAX {
            let end = (0..=NODE_EVENT_TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or(0));
        }
        text
    }
}

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// Its number: one more than that of the event before.
    pub seq: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Short stable name.
    pub kind: &'static str,
    /// The group that it is about.
    pub group: Option<GroupId>,
    /// The other node that it is about.
    pub node: Option<NodeId>,
    /// In a sentence.
    pub text: String,
}

/// The last events of this node.
pub struct NodeEvents(Mutex<Ring>);

struct Ring {
    events: VecDeque<Noted>,
    /// Number of the first event of this run.
    first_seq: u64,
    next_seq: u64,
}

/// Events of a reader's page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub events: Vec<Noted>,
    /// Events after the one that was asked for that the ring has no longer.
    pub missed: u64,
    /// Number to ask for next.
    pub next: u64,
}

impl Default for NodeEvents {
    fn default() -> Self {
        // Numbers begin at a time, so that they go on growing after a restart: a node notes fewer than a thousand events
        // in a millisecond. They stay exact where numbers are floating point.
        let first_seq = unix_ms().saturating_mul(1000);
        NodeEvents(Mutex::new(Ring { events: VecDeque::new(), first_seq, next_seq: first_seq }))
    }
}

impl NodeEvents {
    /// Notes an event; the oldest goes when there is no room.
    pub fn note(&self, event: &NodeEvent) {
        let (kind, group, node, text) = (event.kind(), event.group(), event.node(), event.text());
        let mut ring = self.0.lock();
        let seq = ring.next_seq;
        ring.next_seq += 1;
        if ring.events.len() >= NODE_EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(Noted { seq, at_ms: unix_ms(), kind, group, node, text });
    }

    /// At most `max` events after a number, or from the oldest.
    pub fn after(&self, after: Option<u64>, max: usize) -> Page {
        let ring = self.0.lock();
        let last = ring.next_seq.saturating_sub(1);
        // A number of the future is one of a node whose wall clock went back: its reader begins anew.
        let after = after.filter(|after| *after <= last);
        let first = ring.events.front().map_or(ring.next_seq, |event| event.seq);
        let begin = after.map_or(first, |after| after.saturating_add(1));
        let events: Vec<Noted> =
            ring.events.iter().skip_while(|event| event.seq < begin).take(max).cloned().collect();
        // A run does not know what was before it.
        let missed = if after.is_some() { first.saturating_sub(begin.max(ring.first_seq)) } else { 0 };
        Page { missed, next: events.last().map_or(last, |event| event.seq), events }
    }
}

/// Unix milliseconds, for people: nothing is decided by it.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> NodeEvent {
        NodeEvent::LeadershipGained(GroupId(1), number)
    }

    #[test]
    fn reader_goes_from_page_to_page_and_learns_what_it_missed() {
        let events = NodeEvents::default();
        let begin = events.after(None, 10);
        assert!(begin.events.is_empty() && begin.missed == 0);
        (0..5).for_each(|number| events.note(&event(number)));
        let first = events.after(Some(begin.next), 3);
        assert_eq!(
            (first.events.len(), first.missed, first.events[0].text.as_str()),
            (3, 0, "Leads group 1 in term 0.")
        );
        let second = events.after(Some(first.next), 3);
        assert_eq!((second.events.len(), second.next), (2, first.next + 2));
        assert_eq!(events.after(Some(second.next), 3), Page { next: second.next, ..Page::default() });
        for number in 0..NODE_EVENTS_MAX as u64 + 7 {
            events.note(&event(number));
        }
        let late = events.after(Some(second.next), 1);
        assert_eq!((late.missed, late.events[0].text.as_str()), (7, "Leads group 1 in term 7."));
        assert_eq!(events.after(None, usize::MAX).events.len(), NODE_EVENTS_MAX);
        let future = events.after(Some(u64::MAX), 1);
        assert_eq!(future.events, events.after(None, 1).events, "a reader from the future begins anew");
    }

    #[test]
    fn text_is_cut_at_a_character() {
        let text = NodeEvent::ConfigurationRefused("é".repeat(NODE_EVENT_TEXT_BYTES_MAX)).text();
        assert!(
            text.len() <= NODE_EVENT_TEXT_BYTES_MAX && text.len() + 2 > NODE_EVENT_TEXT_BYTES_MAX,
            "{}",
            text.len()
        );
    }
}
