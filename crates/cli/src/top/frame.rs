//! One look at the cluster for `quorate top`: nodes, rates, queues and events, as far as the nodes tell them.
//!
//! Owns: asking, and what is left out when a node does not offer something yet. Does not: lay out.
//! Invariants: a frame says what it lacks; a question that fails costs that part alone, except the state of the cluster.
//! Limits: TOP_QUEUES_MAX, TOP_EVENTS_MAX, TOP_EVENT_PAGES_MAX.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_api::{
    ClusterState, Event, EventPage, FigurePage, Figures, LongestQueues, NodeState, QueueLength,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::Outcome;
use crate::http::{self, Method};
use crate::limits::{TOP_EVENT_PAGES_MAX, TOP_EVENTS_MAX, TOP_QUEUES_MAX};
use crate::status;

/// One look.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Frame {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// Name of the cluster.
    pub cluster: String,
    /// The node that was asked first.
    pub seen_by: String,
    /// Its version.
    pub version: String,
    /// Members, ordered by id.
    pub nodes: Vec<NodeLine>,
    /// Groups without a leader; 0 is control.
    pub leaderless: Vec<u32>,
    /// All groups.
    pub groups: usize,
    /// Sessions.
    pub sessions: u64,
    /// Client connections.
    pub connections: u64,
    /// Queued messages.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Messages inflight.
    pub inflight: u64,
    /// Longest queues.
    pub queues: Vec<QueueLength>,
    /// Newest events of all nodes that tell theirs, newest first.
    pub events: Vec<Told>,
    /// What the asked node does not offer: `figures`, `queues`, `events`.
    pub missing: Vec<&'static str>,
    /// Admin addresses of the other nodes, for when the first does not answer any more.
    #[serde(skip)]
    pub others: Vec<String>,
    /// Up to where the events of each node were read.
    #[serde(skip)]
    pub read: BTreeMap<String, u64>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeLine {
    /// Name.
    pub name: String,
    /// It is alive by control.
    pub live: bool,
    /// It fenced itself.
    pub fenced: bool,
    /// It is taken out of service.
    pub draining: bool,
    /// It takes clients, as far as it is known.
    pub ready: Option<bool>,
    /// Groups that it leads.
    pub leads: usize,
    /// Client connections.
    pub connections: Option<u64>,
    /// Rates and latency, as far as they are known.
    pub figures: Option<Figures>,
}

/// Something that happened, and who tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Name of the node.
    pub by: String,
    /// What it tells.
    #[serde(flatten)]
    pub event: Event,
}

impl Frame {
    /// Takes new events in: the newest of all first, as many as are kept.
    fn hear(&mut self, heard: Vec<Heard>) {
        for Heard { by, events, next } in heard {
            self.events.extend(events);
            self.read.insert(by, next);
        }
        self.events.sort_by_key(|told| std::cmp::Reverse(told.event.at_ms));
        self.events.truncate(TOP_EVENTS_MAX);
    }
}

/// Looks, beginning with the node at `admin`; events that were in the frame `before` are not read again.
///
/// # Errors
/// When that node does not tell the state of its cluster.
pub async fn take(admin: &str, before: &Frame) -> Outcome<Frame> {
    let mut state = status::fetch(admin).await?;
    let path = format!("/v1/queues?top={TOP_QUEUES_MAX}");
    let (figures, queues, events) = tokio::join!(
        offered::<FigurePage>(admin, "/v1/figures"),
        offered::<LongestQueues>(admin, &path),
        events(admin, state.clone(), before.read.clone()),
    );
    status::ask_the_others(&mut state).await;
    let mut frame = of_state(&state);
    match figures {
        Some(page) => {
            for line in &mut frame.nodes {
                let found = page.nodes.iter().find(|figures| figures.node == line.name);
                line.figures = found.map(|found| found.figures);
            }
        }
        None => frame.missing.push("figures"),
    }
    frame.queues = match queues {
        Some(page) => page.queues,
        None => {
            frame.missing.push("queues");
            Vec::new()
        }
    };
    (frame.events, frame.read) = (before.events.clone(), before.read.clone());
    match events {
        Some(heard) => frame.hear(heard),
        None => frame.missing.push("events"),
    }
    Ok(frame)
}

/// What a node offers; `None` when it does not, or not now.
async fn offered<T: DeserializeOwned>(admin: &str, path: &str) -> Option<T> {
    http::ask(Method::Get, admin, path, None).await.ok()
}

/// Events of all nodes that are there, and where to read on; `None` when the asked one does not tell its own.
async fn events(admin: &str, state: ClusterState, read: BTreeMap<String, u64>) -> Option<Vec<Heard>> {
    let after = |name: &str| read.get(name).copied();
    let mut heard = vec![hear(admin, &state.node_name, after(&state.node_name)).await?];
    let others = state.nodes.iter().filter(|node| node.id != state.node_id && node.state == NodeState::Live);
    let asked: Vec<_> = others
        .filter_map(|node| Some((node.name.clone(), node.admin.clone()?, after(&node.name))))
        .map(|(name, admin, after)| tokio::spawn(async move { hear(&admin, &name, after).await }))
        .collect();
    for answer in asked {
        heard.extend(answer.await.ok().flatten());
    }
    Some(heard)
}

/// What a node told, and where to read on.
struct Heard {
    by: String,
    events: Vec<Told>,
    next: u64,
}

/// Reads on to the newest event of a node.
async fn hear(admin: &str, by: &str, mut after: Option<u64>) -> Option<Heard> {
    let mut events = Vec::new();
    for _ in 0..TOP_EVENT_PAGES_MAX {
        let after_text = after.map_or_else(String::new, |after| format!("&after={after}"));
        let page: EventPage = offered(admin, &format!("/v1/events?limit=1000{after_text}")).await?;
        let is_last = page.events.is_empty();
        after = Some(page.next);
        events.extend(told(page, by));
        if is_last {
            break;
        }
    }
    Some(Heard { by: by.to_owned(), events, next: after? })
}

fn told(page: EventPage, by: &str) -> Vec<Told> {
    page.events.into_iter().map(|event| Told { by: by.to_owned(), event }).collect()
}

fn of_state(state: &ClusterState) -> Frame {
    let leads = |id| state.groups.iter().filter(|group| group.leader == Some(id)).count();
    let nodes = state.nodes.iter().map(|node| NodeLine {
        name: node.name.clone(),
        live: node.state == NodeState::Live,
        fenced: node.fenced,
        draining: node.draining,
        ready: node.ready,
        leads: leads(node.id),
        connections: node.connections,
        figures: None,
    });
    let leaderless = state.groups.iter().filter(|group| group.leader.is_none());
    let others = state.nodes.iter().filter(|node| node.id != state.node_id);
    let totals = &state.totals;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Frame {
        at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        cluster: state.cluster_name.clone(),
        seen_by: state.node_name.clone(),
        version: state.version.clone(),
        nodes: nodes.collect(),
        leaderless: leaderless.map(|group| group.id).collect(),
        groups: state.groups.len(),
        sessions: totals.sessions,
        connections: totals.connections,
        queued_messages: totals.queued_messages,
        queued_bytes: totals.queued_bytes,
        inflight: totals.inflight,
        others: others.filter_map(|node| node.admin.clone()).collect(),
        ..Frame::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{GroupStatus, NodeStatus};

    #[test]
    fn frame_as_json_names_who_tells_an_event() {
        let event =
            Event { seq: 1, at_ms: 5, kind: "lease_lost".into(), text: "gone".into(), ..Event::default() };
        let events = told(EventPage { events: vec![event], ..EventPage::default() }, "n1");
        let text = serde_json::to_string(&events).unwrap();
        assert!(text.starts_with(r#"[{"by":"n1","seq":1,"at_ms":5,"kind":"lease_lost""#), "{text}");
    }

    #[test]
    fn newest_events_are_kept_and_not_read_again() {
        let told = |at_ms| Told { by: "n1".into(), event: Event { at_ms, ..Event::default() } };
        let heard = |times: std::ops::Range<u64>, next| {
            vec![Heard { by: "n1".into(), events: times.map(told).collect(), next }]
        };
        let mut frame = Frame::default();
        frame.hear(heard(0..60, 60));
        frame.hear(heard(60..61, 61));
        frame.hear(heard(61..61, 61));
        let times: Vec<u64> = frame.events.iter().map(|told| told.event.at_ms).collect();
        assert_eq!((times.len(), times[0], times[49]), (TOP_EVENTS_MAX, 60, 11));
        assert_eq!(frame.read, BTreeMap::from([("n1".to_owned(), 61)]));
    }

    #[test]
    fn groups_without_a_leader_are_listed() {
        let group = |id, leader| GroupStatus { id, leader, ..GroupStatus::default() };
        let node = NodeStatus { id: 1, name: "n1".into(), state: NodeState::Live, ..NodeStatus::default() };
        let state = ClusterState {
            nodes: vec![node],
            groups: vec![group(0, None), group(1, Some(1))],
            ..ClusterState::default()
        };
        let frame = of_state(&state);
        assert_eq!((frame.leaderless, frame.groups, frame.nodes[0].leads), (vec![0], 2, 1));
    }
}
