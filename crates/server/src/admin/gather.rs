//! Answers of the whole cluster: this node's, and those of others for groups without a replica here, put together.
//!
//! Owns: who is asked about which group, the order of what comes back, finding the leader of a client's partition.
//! Does not: answer; see `inquiry::local`.
//! Invariants: every group is in what was asked, or in `incomplete`; merged rows are complete up to their `resume`.
//! Limits: one inquiry per node at a time for one request; ADMIN_PEER_TIMEOUT for each.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_node::node::GroupPlace;
use quorate_node::routing::home_partition;
use quorate_state::{GroupId, NodeId};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::error::ApiError;
use super::{AdminState, NoAnswer};
use crate::edge::Edge;
use crate::inquiry::local::{Names, names};
use crate::inquiry::{Answer, Inquiry, Rows, SessionHolder, ask};
use crate::limits::{ADMIN_LEADER_PAUSE, ADMIN_PEER_TIMEOUT};
use crate::question::look;

/// Where groups and nodes are, as far as this node knows.
pub struct Places {
    groups: Vec<GroupPlace>,
    /// Names of all nodes.
    pub names: Names,
}

/// What came back.
pub struct Gathered {
    /// Answers.
    pub answers: Vec<Answer>,
    /// Groups that nobody answered for, in order.
    pub incomplete: Vec<u32>,
}

impl Places {
    /// Of no cluster.
    #[cfg(test)]
    pub fn empty() -> Places {
        Places { groups: Vec::new(), names: Names::new() }
    }

    /// As of now.
    pub async fn of(admin: &AdminState) -> Result<Places, NoAnswer> {
        let (groups, names) = look(&admin.edge, |node, _| (node.places(), names(node))).await?;
        Ok(Places { groups, names })
    }

    /// The node with a name.
    pub fn named(&self, name: &str) -> Option<NodeId> {
        self.names.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)
    }

    /// Its name, or its number when it has none here.
    pub fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| format!("#{}", node.0))
    }

    /// All partitions.
    pub fn all(&self) -> Vec<u32> {
        self.groups.iter().map(|place| place.group.0).collect()
    }

    fn place(&self, group: GroupId) -> Option<&GroupPlace> {
        self.groups.iter().find(|place| place.group == group)
    }

    /// Who is asked about a group for a list: this node when it has a replica, else the leader, else any node with one.
    fn reader(&self, place: &GroupPlace, edge: &Edge) -> Option<NodeId> {
        if place.here {
            return Some(edge.node);
        }
        readers(place, edge).next()
    }
}

/// Nodes with a replica of a group that can be asked: its leader first, this one next.
fn readers<'a>(place: &'a GroupPlace, edge: &'a Edge) -> impl Iterator<Item = NodeId> + 'a {
    let connected = edge.links.as_ref().map(|links| links.connected()).unwrap_or_default();
    let own = place.here.then_some(edge.node);
    let all = place.leader.into_iter().chain(own).chain(place.replicas.iter().copied());
    all.filter(move |node| connected.contains(node) || (*node == edge.node && place.here))
}

/// Asks about groups, each node once about all of its own.
pub async fn gather(
    edge: &Arc<Edge>,
    places: &Places,
    groups: &[u32],
    inquiry: impl Fn(Vec<u32>) -> Inquiry,
) -> Gathered {
    let mut asked: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
    let mut incomplete = Vec::new();
    for group in groups {
        match places.place(GroupId(*group)).and_then(|place| places.reader(place, edge)) {
            Some(node) => asked.entry(node).or_default().push(*group),
            None => incomplete.push(*group),
        }
    }
    let questions = asked.into_iter().map(|(node, groups)| (node, groups.clone(), inquiry(groups)));
    let mut answers = Vec::new();
    for (groups, answer) in ask_all(edge, questions).await {
        match answer {
            Some(Answer::Busy | Answer::Unknown | Answer::NotHere) | None => incomplete.extend(groups),
            Some(answer) => answers.push(answer),
        }
    }
    incomplete.sort_unstable();
    Gathered { answers, incomplete }
}

/// Asks nodes at the same time. What belongs to a question comes back with its answer, in no order.
pub async fn ask_all<T: Send + 'static>(
    edge: &Arc<Edge>,
    questions: impl Iterator<Item = (NodeId, T, Inquiry)>,
) -> Vec<(T, Option<Answer>)> {
    let mut asking = JoinSet::new();
    for (node, what, inquiry) in questions {
        let edge = edge.clone();
        asking.spawn(async move { (what, ask(&edge, node, inquiry).await) });
    }
    asking.join_all().await
}

/// Asks one node about a group: its leader when it can be asked, else another one with a replica.
pub async fn ask_group(edge: &Edge, places: &Places, group: GroupId, inquiry: &Inquiry) -> Option<Answer> {
    let place = places.place(group)?;
    let mut tried = Vec::new();
    for node in readers(place, edge) {
        if tried.contains(&node) {
            continue;
        }
        tried.push(node);
        match ask(edge, node, inquiry.clone()).await {
            Some(Answer::NotHere | Answer::Busy | Answer::Unknown) | None => {}
            Some(answer) => return Some(answer),
        }
    }
    None
}

/// Who holds the session of a client identifier, as the leader of its home partition says; waits for one to be elected.
pub async fn holder(admin: &AdminState, client_id: &str) -> Result<Option<SessionHolder>, ApiError> {
    let edge = &admin.edge;
    let group = home_partition(client_id, edge.partitions);
    let end = Instant::now() + ADMIN_PEER_TIMEOUT;
    loop {
        let places = Places::of(admin).await?;
        let leader = places.place(group).and_then(|place| place.leader);
        if let Some(leader) = leader {
            let inquiry = Inquiry::Owner { client_id: client_id.to_owned() };
            if let Some(Answer::Owner(holder)) = ask(edge, leader, inquiry).await {
                return Ok(holder);
            }
        }
        if Instant::now() >= end {
            return Err(no_leader(group));
        }
        sleep(ADMIN_LEADER_PAUSE).await;
    }
}

/// 503: nobody leads the group.
pub fn no_leader(group: GroupId) -> ApiError {
    ApiError::unavailable(
        "no_leader",
        format!("no leader of group {group} answers"),
        "`quorate status` shows which nodes are down; ask again when a majority of the group's nodes runs",
    )
}

/// Rows of several nodes as one page of at most `max`.
pub fn merge<T, K: Clone>(
    answers: Vec<Rows<T, K>>,
    max: usize,
    key: impl Fn(&T) -> K,
    order: impl Fn(&K, &K) -> Ordering,
) -> Rows<T, K> {
    let mut rows = Vec::new();
    let mut resume: Option<K> = None;
    for answer in answers {
        rows.extend(answer.rows);
        resume = match (resume, answer.resume) {
            (Some(left), Some(right)) => Some(if order(&left, &right).is_gt() { right } else { left }),
            (left, right) => left.or(right),
        };
    }
    rows.sort_by(|left, right| order(&key(left), &key(right)));
    if let Some(resume) = &resume {
        // What lies behind comes again with the next page.
        rows.retain(|row| order(&key(row), resume).is_le());
    }
    if rows.len() > max {
        rows.truncate(max);
        resume = rows.last().map(key);
    }
    Rows { rows, resume }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &[(&[u32], Option<u32>)], max: usize, rows: &[u32], resume: Option<u32>) {
        let answers = answers.iter().map(|(rows, resume)| Rows { rows: rows.to_vec(), resume: *resume });
        let merged = merge(answers.collect(), max, |row| *row, u32::cmp);
        assert_eq!(merged, Rows { rows: rows.to_vec(), resume });
    }

    #[test]
    fn merged_rows_are_complete_up_to_where_they_go_on() {
        check(&[], 3, &[], None);
        check(&[(&[1, 4], None), (&[2, 3], None)], 9, &[1, 2, 3, 4], None);
        check(&[(&[1, 4], None), (&[2, 3], None)], 3, &[1, 2, 3], Some(3));
        check(&[(&[1, 4, 6], None), (&[2, 3], Some(5))], 9, &[1, 2, 3, 4], Some(5));
        check(&[(&[], Some(2)), (&[3], None)], 9, &[], Some(2));
        check(&[(&[1], Some(7)), (&[2], Some(3))], 9, &[1, 2], Some(3));
    }
}
