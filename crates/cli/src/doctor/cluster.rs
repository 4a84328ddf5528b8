//! The running cluster, as the nodes tell it over their admin addresses: one cluster, one version, all there and ready.
//!
//! Owns: asking this node, then each other node that it names. Does not: judge groups; `/readyz` does.
//! Limits: DOCTOR_PEERS_MAX nodes, HTTP_WAIT_MAX for each answer; all others at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::SystemTime;

use quorate_api::{ClusterState, NodeState, Readiness};
use tokio::task::JoinSet;

use super::clock::{self, PeerClock};
use super::finding::Finding;
use crate::http::{self, Response};
use crate::limits::DOCTOR_PEERS_MAX;

/// What the nodes say.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// The admin address that was asked.
    pub admin: String,
    /// It is reachable from other machines.
    pub exposed: bool,
    /// The configuration has every request ask for a token.
    pub token: bool,
    /// Name of this node by its configuration.
    pub node: String,
    /// The process of the node runs; known where it may be looked at.
    pub running: bool,
    /// What this node answers.
    pub answer: Answer,
    /// What is not ready.
    pub unready: Vec<(String, String)>,
    /// The other nodes that it names.
    pub others: Vec<Other>,
}

/// What the own admin address answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Answer {
    /// Nobody is there.
    #[default]
    Nobody,
    /// Something, but no state of a cluster.
    Strange(String),
    /// It asks for a token.
    Token,
    /// The state.
    State(Box<ClusterState>),
}

/// Another node as it tells of itself; the answer is `None` when it does not.
#[derive(Clone, Debug)]
pub struct Other {
    /// Node name.
    pub name: String,
    /// Its admin address.
    pub admin: String,
    /// What it answers.
    pub state: Option<Box<ClusterState>>,
    /// Its clock.
    pub clock: Option<PeerClock>,
}

impl ClusterFacts {
    /// The node answers, and as the one that is configured.
    pub fn answers(&self) -> bool {
        matches!(&self.answer, Answer::State(state) if state.node_name == self.node)
    }

    /// What the own node says, when it does.
    pub fn state(&self) -> Option<&ClusterState> {
        match &self.answer {
            Answer::State(state) => Some(state),
            Answer::Nobody | Answer::Strange(_) | Answer::Token => None,
        }
    }
}

/// The URL of an admin address as it is dialled from this machine.
pub fn url_of(bind: SocketAddr) -> String {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, bind.port()))
}

/// Asks this node, then the others.
pub async fn gather(admin: &str, node: &str) -> ClusterFacts {
    let mut facts =
        ClusterFacts { admin: admin.to_owned(), node: node.to_owned(), ..ClusterFacts::default() };
    let response = match http::get(admin, "/v1/cluster/state").await {
        Ok(response) => response,
        Err(_) => return facts,
    };
    facts.answer = match (response.status, serde_json::from_slice(&response.body)) {
        (200, Ok(state)) => Answer::State(Box::new(state)),
        (200, Err(error)) => Answer::Strange(error.to_string()),
        (401, _) => Answer::Token,
        (status, _) => Answer::Strange(format!("status {status}")),
    };
    let Answer::State(state) = &facts.answer else { return facts };
    facts.others = ask_others(state).await;
    if let Ok(Response { body, .. }) = http::get(admin, "/readyz").await
        && let Ok(readiness) = serde_json::from_slice::<Readiness>(&body)
    {
        facts.unready =
            readiness.failed().map(|clause| (clause.name.clone(), clause.reason.clone())).collect();
    }
    facts
}

async fn ask_others(state: &ClusterState) -> Vec<Other> {
    let mut asked = JoinSet::new();
    let others = state.nodes.iter().filter(|node| node.id != state.node_id && node.state == NodeState::Live);
    for node in others.take(DOCTOR_PEERS_MAX) {
        let (name, Some(admin)) = (node.name.clone(), node.admin.clone()) else { continue };
        asked.spawn(async move {
            let before = SystemTime::now();
            let response = http::get(&admin, "/v1/cluster/state").await.ok();
            let after = SystemTime::now();
            let response = response.filter(|response| response.status == 200);
            let date = response.as_ref().and_then(|response| response.date);
            let state =
                response.and_then(|response| serde_json::from_slice::<ClusterState>(&response.body).ok());
            // An admin address on the loopback of another machine leads to this node, or to nobody.
            let state = state.filter(|state| state.node_name == name).map(Box::new);
            let clock = date.filter(|_| state.is_some()).map(|date| clock::skew(date, before, after));
            Other { clock: clock.map(|skew| PeerClock { node: name.clone(), skew }), name, admin, state }
        });
    }
    let mut others = asked.join_all().await;
    others.sort_by(|a, b| a.name.cmp(&b.name));
    others
}

/// Judges what the nodes say.
pub fn check(facts: &ClusterFacts) -> Vec<Finding> {
    let mut found = own(facts);
    let Answer::State(state) = &facts.answer else { return found };
    for node in state.nodes.iter().filter(|node| node.state == NodeState::Down) {
        found.push(Finding::warning(
            "node_down",
            format!("node {}", node.name),
            "the cluster counts it as down",
            "start it; if its disk is lost, see replace-node.md",
        ));
    }
    for (clause, reason) in &facts.unready {
        found.push(Finding::error(
            "not_ready",
            format!("{}/readyz", facts.admin),
            format!("{clause}: {reason}"),
            "see the other findings, `quorate status` and the log of the node",
        ));
    }
    for other in &facts.others {
        found.extend(other_cluster(state, other));
    }
    found.extend(versions(state, &facts.others));
    found
}

fn own(facts: &ClusterFacts) -> Vec<Finding> {
    let place = &facts.admin;
    let mut found = Vec::new();
    match &facts.answer {
        Answer::Nobody if facts.running => found.push(Finding::error(
            "admin_silent",
            place,
            "the node runs, but its admin address does not answer",
            "see its log; if it started just now, look again. Give --admin if it was started with another file",
        )),
        Answer::Nobody | Answer::Token => {}
        Answer::Strange(problem) => found.push(Finding::error(
            "admin_strange",
            place,
            format!("what answers there is no node of this program: {problem}"),
            "give the admin address of the node with --admin",
        )),
        Answer::State(state) if state.node_name != facts.node => found.push(Finding::error(
            "admin_of_another_node",
            place,
            format!("node {:?} answers there, and the configuration is that of {:?}", state.node_name, facts.node),
            "give the configuration and the admin address of one node",
        )),
        Answer::State(_) => {}
    }
    if facts.exposed && !facts.token {
        found.push(Finding::warning(
            "admin_exposed",
            "admin.bind",
            "whoever reaches the admin address reads the state of the cluster, in plain text and without a token",
            "set admin.token_file, or bind it to 127.0.0.1 and reach it through a tunnel",
        ));
    }
    found
}

fn other_cluster(state: &ClusterState, other: &Other) -> Option<Finding> {
    let place = format!("{} (node {})", other.admin, other.name);
    let Some(theirs) = &other.state else {
        return (!is_loopback(&other.admin)).then(|| {
            Finding::warning(
                "admin_unreachable",
                place,
                "the cluster counts this node as running, but its admin address does not answer from here",
                "see that it runs, and that no firewall is between",
            )
        });
    };
    (theirs.cluster_id != state.cluster_id).then(|| {
        let message = format!("it is of cluster {}, this node of {}", theirs.cluster_id, state.cluster_id);
        let hint = "two clusters have been founded: see bootstrap.md; wipe the one that holds nothing and let it join";
        Finding::error("other_cluster", place, message, hint)
    })
}

fn is_loopback(admin: &str) -> bool {
    let address = admin.trim_start_matches("http://").trim_end_matches('/').parse::<SocketAddr>();
    address.is_ok_and(|address| address.ip().is_loopback())
}

fn versions(state: &ClusterState, others: &[Other]) -> Option<Finding> {
    let others =
        others.iter().filter_map(|other| Some((other.name.as_str(), other.state.as_ref()?.version.as_str())));
    let all: Vec<_> =
        std::iter::once((state.node_name.as_str(), state.version.as_str())).chain(others).collect();
    let mixed = all.windows(2).any(|pair| matches!(pair, [(_, first), (_, second)] if first != second));
    mixed.then(|| {
        let named: Vec<String> = all.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let message = format!("the nodes run different versions: {}", named.join(", "));
        Finding::warning("versions_mixed", "cluster", message, "finish the upgrade: one node after the other")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::NodeStatus;

    fn state(node_id: u64) -> ClusterState {
        let node = |id: u64| NodeStatus {
            id,
            name: format!("n{id}"),
            state: NodeState::Live,
            ..NodeStatus::default()
        };
        ClusterState {
            cluster_id: "c".into(),
            node_id,
            node_name: format!("n{node_id}"),
            version: "0.1.0".into(),
            nodes: vec![node(1), node(2)],
            ..ClusterState::default()
        }
    }

    fn check_one(change: impl FnOnce(&mut ClusterFacts, &mut ClusterState, &mut Other), codes: &[&str]) {
        let mut other = Other {
            name: "n2".into(),
            admin: "http://n2:1".into(),
            state: Some(Box::new(state(2))),
            clock: None,
        };
        let mut own = state(1);
        let mut facts = ClusterFacts { node: "n1".into(), running: true, ..ClusterFacts::default() };
        change(&mut facts, &mut own, &mut other);
        if facts.answer == Answer::Nobody && facts.running {
            facts.answer = Answer::State(Box::new(own));
            facts.others = vec![other];
        }
        let found: Vec<&str> = check(&facts).iter().map(|finding| finding.code).collect();
        assert_eq!(found, codes, "{facts:?}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        check_one(|_, _, _| (), &[]);
        check_one(|_, own, _| own.node_name = "n3".into(), &["admin_of_another_node"]);
        check_one(|_, own, _| own.nodes[1].state = NodeState::Down, &["node_down"]);
        check_one(|facts, _, _| facts.unready = vec![("lease".into(), "none".into())], &["not_ready"]);
        check_one(|_, _, other| other.state = None, &["admin_unreachable"]);
        check_one(|_, _, other| other.state.as_mut().unwrap().cluster_id = "d".into(), &["other_cluster"]);
        check_one(|_, _, other| other.state.as_mut().unwrap().version = "0.2.0".into(), &["versions_mixed"]);
        check_one(|facts, _, _| facts.answer = Answer::Strange("x".into()), &["admin_strange"]);
        check_one(|facts, _, _| facts.answer = Answer::Token, &[]);
        let alone = |answer, exposed, token, running| ClusterFacts {
            answer,
            exposed,
            token,
            running,
            ..ClusterFacts::default()
        };
        for (facts, codes) in [
            (alone(Answer::Nobody, false, false, false), &[][..]),
            (alone(Answer::Nobody, false, false, true), &["admin_silent"]),
            (alone(Answer::Nobody, true, false, false), &["admin_exposed"]),
            (alone(Answer::Nobody, true, true, false), &[]),
            (alone(Answer::Token, true, true, true), &[]),
        ] {
            let found: Vec<&str> = check(&facts).iter().map(|finding| finding.code).collect();
            assert_eq!(found, codes, "{facts:?}");
        }
        check_one(|facts, _, _| facts.exposed = true, &["admin_exposed"]);
    }

    #[test]
    fn a_wildcard_address_is_asked_on_loopback() {
        assert_eq!(url_of("0.0.0.0:9883".parse().unwrap()), "http://127.0.0.1:9883");
        assert_eq!(url_of("[::]:9883".parse().unwrap()), "http://[::1]:9883");
        assert_eq!(url_of("10.0.0.1:9883".parse().unwrap()), "http://10.0.0.1:9883");
    }
}
