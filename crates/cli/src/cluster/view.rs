//! The cluster as a rolling restart sees it: every node asked for itself.
//!
//! Owns: asking all nodes, and what stands in the way of touching one. Does not: change anything.
//! Invariants: what a node says of another is used only to find it; a node that does not answer is not ready.

use std::time::Duration;

use quorate_api::{Clause, ClusterState, GroupKind, NodeState, NodeStatus, Readiness};

use crate::http;
use crate::status;

/// Entries that a replica may lack and still count as caught up: what is underway in a busy cluster.
pub const LAG_MAX: u64 = 1000;

/// Longest wait for one node's answer about itself.
const NODE_WAIT_MAX: Duration = Duration::from_secs(2);

/// One look at the cluster.
#[derive(Debug, Default)]
pub struct View {
    /// As the node sees it that answered first.
    pub state: ClusterState,
    /// What each live node says of its own readiness, in the order of `state.nodes`; `None` without an answer.
    pub ready: Vec<(String, Option<Readiness>)>,
}

impl View {
    /// Asks the first of `admins` that answers, then every node.
    pub async fn take(admins: &[String]) -> Option<View> {
        let mut state = None;
        for admin in admins {
            if let Ok(Ok(found)) = tokio::time::timeout(NODE_WAIT_MAX, status::fetch(admin)).await {
                state = Some(found);
                break;
            }
        }
        let mut state = state?;
        status::ask_the_others(&mut state).await;
        let mut asked = Vec::new();
        for node in &state.nodes {
            let (name, admin) = (node.name.clone(), node.admin.clone());
            asked.push((name, tokio::spawn(async move { readiness(admin.as_deref()?).await })));
        }
        let mut ready = Vec::new();
        for (name, answer) in asked {
            ready.push((name, answer.await.ok().flatten()));
        }
        Some(View { state, ready })
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeStatus> {
        self.state.nodes.iter().rfind(|node| node.name == name)
    }

    /// Admin addresses of all nodes but this one.
    pub fn admins_without(&self, name: &str) -> Vec<String> {
        let others = self.state.nodes.iter().filter(|node| node.name != name);
        others.filter_map(|node| node.admin.clone()).collect()
    }

    /// Why a node does not serve, clause by clause; empty when it does. `but` is a clause that does not count.
    pub fn unready(&self, name: &str, but: &str) -> Vec<String> {
        if self.node(name).is_none_or(|node| node.state != NodeState::Live) {
            return vec![format!("{name} is down")];
        }
        let known = self.ready.iter().rfind(|(other, _)| other == name).and_then(|(_, ready)| ready.as_ref());
        let Some(known) = known else { return vec![format!("{name} does not answer on its admin address")] };
        let text = |clause: &Clause| format!("{name} is not ready: {}: {}", clause.name, clause.reason);
        known.failed().filter(|clause| clause.name != but).map(text).collect()
    }

    /// What forbids to take a node out: empty when every other node serves, every group has a leader, and every replica is
    /// caught up.
    pub fn hindrances(&self, name: &str) -> Vec<String> {
        let others = self.state.nodes.iter().filter(|node| node.name != name);
        let mut found: Vec<String> = others.flat_map(|node| self.unready(&node.name, "")).collect();
        for group in &self.state.groups {
            let what =
                if group.kind == GroupKind::Control { "control".to_owned() } else { group.id.to_string() };
            if group.leader.is_none() {
                found.push(format!("group {what} has no leader"));
            }
            for replica in group.replicas.iter().filter(|replica| replica.lag > LAG_MAX || !replica.active) {
                let lag = replica.lag;
                let node = self.state.nodes.iter().find(|node| node.id == replica.node);
                let node = node.map_or_else(|| replica.node.to_string(), |node| node.name.clone());
                if node != name {
                    found.push(format!("group {what}: the replica on {node} lacks {lag} entries"));
                }
            }
        }
        found
    }

    /// Entries that the replicas on a node lack, over all groups; `None` when some group's leader is not known.
    pub fn lag_of(&self, name: &str) -> Option<u64> {
        let id = self.node(name)?.id;
        let mut lag = 0;
        for group in self.state.groups.iter().filter(|group| group.voters.contains(&id)) {
            match group.leader {
                Some(leader) if leader == id => {}
                Some(_) => lag += group.replicas.iter().find(|replica| replica.node == id)?.lag,
                None => return None,
            }
        }
        Some(lag)
    }
}

async fn readiness(admin: &str) -> Option<Readiness> {
    let response = tokio::time::timeout(NODE_WAIT_MAX, http::get(admin, "/readyz")).await.ok()?.ok()?;
    serde_json::from_slice(&response.body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::{GroupStatus, ReplicaStatus};

    fn view() -> View {
        let node = |id: u64| NodeStatus {
            id,
            name: format!("n{id}"),
            state: NodeState::Live,
            ..NodeStatus::default()
        };
        let replica = |node, lag| ReplicaStatus { node, lag, active: true, ..ReplicaStatus::default() };
        let group = GroupStatus {
            id: 1,
            leader: Some(1),
            voters: vec![1, 2, 3],
            replicas: vec![replica(1, 0), replica(2, 0), replica(3, 7)],
            ..GroupStatus::default()
        };
        let state = ClusterState {
            nodes: (1..=3).map(node).collect(),
            groups: vec![group],
            ..ClusterState::default()
        };
        let ready = Readiness::of(vec![Clause::met("lease")]);
        View { ready: (1..=3).map(|id| (format!("n{id}"), Some(ready.clone()))).collect(), state }
    }

    #[test]
    fn healthy_cluster_hinders_nothing() {
        assert_eq!(view().hindrances("n2"), [""; 0]);
        assert_eq!(view().lag_of("n3"), Some(7));
        assert_eq!(view().lag_of("n1"), Some(0));
    }

    #[test]
    fn each_hindrance_is_named_and_those_of_the_node_itself_do_not_count() {
        let mut down = view();
        down.state.nodes[2].state = NodeState::Down;
        assert_eq!(down.hindrances("n2"), ["n3 is down"]);
        assert_eq!(down.hindrances("n3"), [""; 0]);
        let mut silent = view();
        silent.ready[0].1 = None;
        assert_eq!(silent.hindrances("n2"), ["n1 does not answer on its admin address"]);
        let mut drained = view();
        drained.ready[0].1 = Some(Readiness::of(vec![Clause::failed("draining", "out of service")]));
        assert_eq!(drained.hindrances("n2"), ["n1 is not ready: draining: out of service"]);
        assert_eq!(drained.unready("n1", "draining"), [""; 0]);
        let mut leaderless = view();
        leaderless.state.groups[0].leader = None;
        assert_eq!(leaderless.hindrances("n2"), ["group 1 has no leader"]);
        assert_eq!(leaderless.lag_of("n2"), None);
        let mut behind = view();
        behind.state.groups[0].replicas[2].lag = LAG_MAX + 1;
        assert_eq!(behind.hindrances("n2"), ["group 1: the replica on n3 lacks 1001 entries"]);
        assert_eq!(behind.hindrances("n3"), [""; 0]);
    }
}
