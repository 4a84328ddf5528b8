//! Situations, and what is found in them.

use quorate_codec::Text;
use quorate_state::command::NodeRecord;
use quorate_state::{Incarnation, LogIndex, Timestamp};

use quorate_node::node::NodeDuty;

use super::*;
use quorate_state::control::{MemberState, RemovalState};

const SECOND: Duration = Duration::from_secs(1);

fn record(id: u64) -> NodeRecord {
    let name = Text::parse(&format!("n{id}")).unwrap();
    let empty = || Text::from_static("");
    NodeRecord {
        id: NodeId(id),
        name,
        disk: [0; 16],
        incarnation: Incarnation(1),
        peer: empty(),
        mqtt: empty(),
        admin: empty(),
        zone: empty(),
        version: empty(),
        level: 1,
    }
}

/// Node 1 of three, which leads group 1 and follows node 2 in the other ones; all is well.
fn healthy() -> NodeStatus {
    let group = |id: u32, leader: u64| GroupStatus {
        group: GroupId(id),
        leader: Some(NodeId(leader)),
        heir: None,
        term: 4,
        voters: vec![NodeId(1), NodeId(2), NodeId(3)],
        learners: Vec::new(),
        committed: LogIndex(100_000),
        applied: LogIndex(100_000),
        checkpoint: LogIndex(0),
        progress: Vec::new(),
        sent_snapshots: Vec::new(),
        hash: None,
        counts: None,
    };
    NodeStatus {
        id: NodeId(1),
        incarnation: Incarnation(1),
        lease_left: Some(SECOND),
        ready: true,
        nodes: (1..=3).map(|id| (record(id), Membership::Live)).collect(),
        groups: vec![group(0, 2), group(1, 1), group(2, 2)],
        peers_up: vec![NodeId(2), NodeId(3)],
        connections: 0,
        stream_bytes: 0,
        barrier: LogIndex(0),
        duties: Vec::new(),
        time: Timestamp::default(),
        level: 1,
        violations: Vec::new(),
        membership: Default::default(),
    }
}

fn situation<'a>(status: &'a NodeStatus, clauses: &'a [Clause]) -> Situation<'a> {
    Situation {
        status: Some(status),
        clauses,
        stopping: false,
        disk_full: false,
        disk_low: false,
        memory: (Pressure::None, 0, 0),
        damaged_kept: 0,
        sync_underway: None,
        sync_p99: Some(SECOND / 100),
        dropped: (0, SECOND),
        closed_listeners: Vec::new(),
        silent: silent_peers(status, SECOND * 20, |_| Some(SECOND * 8)),
    }
}

fn failed(names: &[&'static str]) -> Vec<Clause> {
    names.iter().map(|name| Clause::failed(name, format!("reason of {name}"))).collect()
}

fn codes(found: &[Diagnosis]) -> Vec<&str> {
    found.iter().map(|finding| finding.code.as_str()).collect()
}

/// Checks the codes that are found, and a piece of the first message.
fn check(
    clauses: &[&'static str],
    change: impl FnOnce(&mut NodeStatus),
    more: impl FnOnce(&mut Situation<'_>),
    expected: &[&str],
    piece: &str,
) {
    let mut status = healthy();
    change(&mut status);
    let clauses = failed(clauses);
    let mut situation = situation(&status, &clauses);
    more(&mut situation);
    let found = of_node(&situation);
    assert_eq!(codes(&found), expected, "{found:#?}");
    assert!(found[0].message.contains(piece), "{piece} in {found:#?}");
    assert!(
        found.iter().all(|finding| !finding.hint.is_empty() && finding.message.ends_with('.')),
        "{found:#?}"
    );
}

#[test]
fn node_that_is_well_says_so() {
    check(&[], |_| {}, |_| {}, &["nothing_wrong"], "Nothing is wrong");
}

#[test]
fn lost_quorum_is_one_finding_however_much_follows_from_it() {
    let cut_off = |status: &mut NodeStatus| {
        status.peers_up.clear();
        status.lease_left = None;
        status.groups.iter_mut().for_each(|group| group.leader = None);
    };
    let piece = "Groups 0 to 2 have no quorum: there is no link to n2 (for 12 s), n3 (for 12 s).";
    check(&["lease", "leaders"], cut_off, |_| {}, &["no_quorum"], piece);
    let one = |status: &mut NodeStatus| status.peers_up = vec![NodeId(2)];
    check(&[], one, |_| {}, &["peers_unreachable"], "no link to n3 (for 12 s)");
    let small = |status: &mut NodeStatus| {
        one(status);
        status.groups[2].voters = vec![NodeId(1), NodeId(3)];
        status.groups[2].leader = None;
    };
    check(&["leaders"], small, |_| {}, &["no_quorum"], "Group 2 has no quorum");
}

#[test]
fn lease_and_leaders_are_told_when_no_quorum_is_missing() {
    let unleased = |status: &mut NodeStatus| status.lease_left = None;
    check(&["lease"], unleased, |_| {}, &["lease_lost"], "control is led by n2");
    let leaderless = |status: &mut NodeStatus| status.groups[2].leader = None;
    check(&["leaders"], leaderless, |_| {}, &["electing"], "Group 2 has no known leader");
    let both = |status: &mut NodeStatus| {
        status.lease_left = None;
        status.groups[0].leader = None;
    };
    check(&["lease", "leaders"], both, |_| {}, &["lease_lost", "electing"], "no known leader");
}

#[test]
fn lag_is_told_with_its_size() {
    let behind = |status: &mut NodeStatus| status.groups[1].applied = LogIndex(99_990);
    check(&["caught_up"], behind, |_| {}, &["not_caught_up"], "Group 1 has 10 committed entries");
    check(&["votes"], |_| {}, |_| {}, &["not_voting"], "Reason of votes.");
    let slow = |status: &mut NodeStatus| {
        status.groups[1].progress = vec![(NodeId(1), LogIndex(0)), (NodeId(3), LogIndex(10_000))];
    };
    check(&[], slow, |_| {}, &["replica_behind"], "n3 is up to 90000 entries behind in group 1.");
    let gone = |status: &mut NodeStatus| {
        slow(status);
        status.peers_up = vec![NodeId(2)];
    };
    check(&[], gone, |_| {}, &["peers_unreachable"], "n3");
}

#[test]
fn what_is_not_of_the_cluster_is_told_too() {
    check(
        &["running", "draining"],
        |_| {},
        |situation| situation.stopping = true,
        &["stopping"],
        "told to stop",
    );
    check(&["worker"], |_| {}, |situation| situation.status = None, &["worker_silent"], "does not answer");
    check(&[], |_| {}, |situation| situation.disk_full = true, &["disk_full"], "The disk is full");
    check(&["disk"], |_| {}, |situation| situation.disk_low = true, &["disk_low"], "little room");
    let high = |situation: &mut Situation<'_>| situation.memory = (Pressure::High, 205 << 20, 256 << 20);
    check(&[], |_| {}, high, &["memory_high"], "205 of 256 MiB");
    let full = |situation: &mut Situation<'_>| situation.memory = (Pressure::Full, 231 << 20, 256 << 20);
    check(&["memory"], |_| {}, full, &["memory_full"], "are refused");
    let kept = |situation: &mut Situation<'_>| situation.damaged_kept = 1;
    check(&[], |_| {}, kept, &["damaged_state_kept"], "has joined anew");
    let underway = |situation: &mut Situation<'_>| situation.sync_underway = Some(SECOND);
    check(&[], |_| {}, underway, &["disk_slow"], "has not ended for 1000 ms");
    let slow = |situation: &mut Situation<'_>| situation.sync_p99 = Some(SECOND);
    check(&[], |_| {}, slow, &["disk_slow"], "took 1000 ms");
    let dropped = |situation: &mut Situation<'_>| situation.dropped = (7, SECOND * 10);
    check(&[], |_| {}, dropped, &["messages_dropped"], "7 messages were dropped in the last 10 s");
    let closed = |situation: &mut Situation<'_>| {
        situation.closed_listeners = vec![("tcp".to_owned(), "it is full".to_owned())];
    };
    check(&[], |_| {}, closed, &["listener_closed"], "Listener tcp lets nobody in: it is full.");
    check(&["news"], |_| {}, |_| {}, &["news"], "Reason of news.");
}

#[test]
fn what_an_operator_wants_is_told_with_the_way_back() {
    let wanted = |duty: Duty| {
        move |status: &mut NodeStatus| {
            let since = Timestamp::default();
            status.duties = vec![NodeDuty { node: NodeId(1), duty, since, drain_refusal: None }];
        }
    };
    let drained = wanted(Duty::Drain { grace_s: 30 });
    check(&["draining"], drained, |_| {}, &["draining"], "out of service");
    check(&[], wanted(Duty::Follow), |_| {}, &["leads_nothing"], "lead no group");
    let stopping = |situation: &mut Situation<'_>| situation.stopping = true;
    check(&["draining", "running"], drained, stopping, &["stopping"], "told to stop");
    let mut status = healthy();
    drained(&mut status);
    let found = of_node(&situation(&status, &failed(&["draining"])));
    assert_eq!(found[0].hint, "quorate cluster undrain n1 puts it back into service");
}

#[test]
fn removal_is_told_and_the_drain_that_belongs_to_it_is_not() {
    let leaving = |successor: Option<&'static str>| {
        move |status: &mut NodeStatus| {
            let duty = Duty::Drain { grace_s: 10 };
            let (node, since) = (NodeId(1), Timestamp::default());
            if successor.is_none() {
                status.duties = vec![NodeDuty { node, duty, since, drain_refusal: None }];
            }
            let successor = successor.map(Text::from_static);
            status.membership.members = vec![MemberState {
                node,
                placed: 2,
                member_of: 3,
                removal: Some(RemovalState { since, successor }),
                removal_refusal: None,
            }];
        }
    };
    check(&["draining"], leaving(None), |_| {}, &["leaving"], "removes this node");
    check(&[], leaving(Some("n9")), |_| {}, &["leaving"], "when n9 has joined");
}

#[test]
fn group_says_who_leads_it_and_who_lags() {
    let check = |group: usize, change: fn(&mut NodeStatus), expected: &[&str]| {
        let mut status = healthy();
        change(&mut status);
        let found = of_group(&situation(&status, &[]), &status, &status.groups[group]);
        assert_eq!(codes(&found), expected, "{found:#?}");
    };
    check(1, |_| {}, &["leads"]);
    check(2, |_| {}, &["follows"]);
    check(2, |status| status.groups[2].leader = None, &["electing"]);
    let alone = |status: &mut NodeStatus| {
        status.peers_up.clear();
        status.groups[2].leader = None;
    };
    check(2, alone, &["no_quorum"]);
    check(1, |status| status.peers_up = vec![NodeId(2)], &["replica_unreachable", "leads"]);
    check(2, |status| status.groups[2].learners = vec![NodeId(1)], &["not_voting", "follows"]);
    check(2, |status| status.groups[2].applied = LogIndex(0), &["not_caught_up", "follows"]);
    let lagging = |status: &mut NodeStatus| status.groups[1].progress = vec![(NodeId(3), LogIndex(1))];
    check(1, lagging, &["replica_behind", "leads"]);
}

#[test]
fn groups_are_listed_in_spans() {
    let listed = |numbers: &[u32]| list(&numbers.iter().copied().map(GroupId).collect::<Vec<_>>());
    assert_eq!(listed(&[3]), "group 3");
    assert_eq!(listed(&[5, 1, 2, 3, 7, 8]), "groups 1 to 3, 5, 7, 8");
}
