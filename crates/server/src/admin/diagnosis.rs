//! What is wrong with this node or one of its groups: the judgement over what it knows.
//!
//! Owns: the findings, their codes, sentences, hints and order. Does not: gather what it judges; see `why`.
//! Invariants: one finding for each cause: what follows from another finding is not told again; there is always one.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_api::{Clause, Diagnosis};
use quorate_node::client::Pressure;
use quorate_node::node::{GroupStatus, NodeStatus};
use quorate_state::command::Duty;
use quorate_state::control::NodeStatus as Membership;
use quorate_state::{CONTROL, GroupId, NodeId};

use crate::limits::{DISK_SLOW, REPLICA_BEHIND_ENTRIES};

/// A peer without a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// Its name.
    pub name: String,
    /// For how long.
    pub time: Duration,
}

/// What is judged.
pub struct Situation<'a> {
    /// What the worker says; `None` when it does not answer.
    pub status: Option<&'a NodeStatus>,
    /// The clauses of readiness.
    pub clauses: &'a [Clause],
    /// The node was told to stop.
    pub stopping: bool,
    /// The disk is full.
    pub disk_full: bool,
    /// The disk has so little room that no messages are taken in.
    pub disk_low: bool,
    /// How short memory is; bytes in use, and how many may be.
    pub memory: (Pressure, u64, u64),
    /// Folders with damaged state in the data folder.
    pub damaged_kept: u64,
    /// How long the append to the log that is underway has taken.
    pub sync_underway: Option<Duration>,
    /// 99 of 100 syncs of the log took at most this, lately.
    pub sync_p99: Option<Duration>,
    /// Messages dropped lately, and in which time.
    pub dropped: (u64, Duration),
    /// Listeners that let nobody in, each with its reason.
    pub closed_listeners: Vec<(String, String)>,
    /// Peers without a link, by their identity.
    pub silent: Vec<(NodeId, Silent)>,
}

fn diagnosis(code: &str, message: String, hint: &str) -> Diagnosis {
    Diagnosis { code: code.to_owned(), message, hint: hint.to_owned() }
}

const HINT_SILENT: &str =
    "start these nodes, or mend the network between this node and them; quorate events tells since when";
const HINT_WAIT: &str =
    "it mends itself within seconds; when it lasts, look at quorate events and at the node's log";
const HINT_DISK: &str = "look for other load on the disk, and for errors in the kernel's log; quorate_log_sync_seconds has the history";

const HINT_ROOM: &str = "free room on the file system of node.data_dir, or make it larger";
const HINT_MEMORY: &str = "give the node more memory, or let its sessions be emptied: quorate queues shows the longest; see limits.md";

/// What keeps the node from being well, most important first.
pub fn of_node(situation: &Situation<'_>) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    // Clauses of readiness that a finding explains.
    let mut explained: BTreeSet<&str> = BTreeSet::new();
    if situation.stopping {
        let text = "The node was told to stop and lets its clients go.";
        found.push(diagnosis("stopping", text.to_owned(), "start it again when it has ended"));
        explained.extend(["running", "draining"]);
    }
    match situation.status {
        None => {
            let text = "The node's worker does not answer in time.";
            let hint =
                "look at GET /livez: when it fails too, the worker is stuck; else it waits for its disk";
            found.push(diagnosis("worker_silent", text.to_owned(), hint));
            explained.insert("worker");
        }
        Some(status) => {
            of_duty(status, &mut found, &mut explained);
            of_quorums(situation, status, &mut found, &mut explained);
            of_replicas(situation, status, &mut found);
        }
    }
    let before = found.len();
    of_disk(situation, &mut found);
    if found.len() > before {
        explained.insert("disk");
    }
    if of_memory(situation, &mut found) {
        explained.insert("memory");
    }
    if !situation.closed_listeners.is_empty() {
        explained.insert("listeners");
    }
    for clause in
        situation.clauses.iter().filter(|clause| !clause.ok && !explained.contains(clause.name.as_str()))
    {
        let hint = "see docs/operations/failure-behaviour.md; GET /readyz names every condition";
        found.push(diagnosis(&clause.name, sentence(&clause.reason), hint));
    }
    for (name, reason) in &situation.closed_listeners {
        let hint =
            "raise the limit in the configuration and send POST /v1/reload, or look at GET /readyz/NAME";
        found.push(diagnosis("listener_closed", format!("Listener {name} lets nobody in: {reason}."), hint));
    }
    if situation.damaged_kept > 0 {
        let text = "The node's state was damaged once, and it has joined anew; the damaged state is still in the data folder.";
        let hint = "check the disk; look at the folder damaged-*, then remove it: see docs/operations/replace-node.md";
        found.push(diagnosis("damaged_state_kept", text.to_owned(), hint));
    }
    let (dropped, time) = situation.dropped;
    if dropped > 0 {
        found.push(diagnosis(
            "messages_dropped",
            format!("{dropped} messages were dropped in the last {} s.", time.as_secs().max(1)),
            "quorate_messages_dropped_total says why; quorate explain session says for whom",
        ));
    }
    if found.is_empty() {
        let text = "Nothing is wrong with this node.";
        found.push(diagnosis("nothing_wrong", text.to_owned(), "quorate status shows the whole cluster"));
    }
    found
}

/// What an operator wants of the node, when it is not all.
fn of_duty(status: &NodeStatus, found: &mut Vec<Diagnosis>, explained: &mut BTreeSet<&str>) {
    let own = status.duties.iter().find(|duty| duty.node == status.id);
    let name = name_of(status, status.id);
    let member = status.membership.members.iter().find(|member| member.node == status.id);
    if let Some(removal) = member.and_then(|member| member.removal.as_ref()) {
        let text = match &removal.successor {
            Some(successor) => {
                format!("An operator removes this node from the cluster when {} has joined.", successor.as_str())
            }
            None => "An operator removes this node from the cluster: its replicas go to other nodes, its clients have to go, and then it ends.".to_owned(),
        };
        let hint = format!(
            "quorate cluster members shows how far it is; quorate cluster remove {name} --cancel calls it off"
        );
        found.push(diagnosis("leaving", text, &hint));
        if removal.successor.is_none() {
            explained.insert("draining");
        }
    }
    match own.map_or(Duty::Full, |own| own.duty) {
        Duty::Full => (),
        Duty::Follow => {
            let text = "An operator wants this node to lead no group.".to_owned();
            let hint = format!("quorate cluster transfer --to {name} lets it lead again");
            found.push(diagnosis("leads_nothing", text, &hint));
        }
        Duty::Drain { .. } if explained.contains("draining") => (),
        Duty::Drain { .. } => {
            let text = "An operator has taken this node out of service: it takes no clients, and leads no group that another node can lead.";
            let hint = format!("quorate cluster undrain {name} puts it back into service");
            found.push(diagnosis("draining", text.to_owned(), &hint));
            explained.insert("draining");
        }
    }
}

/// Lease and leaders, and what they need.
fn of_quorums(
    situation: &Situation<'_>,
    status: &NodeStatus,
    found: &mut Vec<Diagnosis>,
    explained: &mut BTreeSet<&str>,
) {
    let without: Vec<&GroupStatus> =
        status.groups.iter().filter(|group| lacks_quorum(status, situation, group)).collect();
    let silent = names_of(&situation.silent);
    if !without.is_empty() {
        let groups: Vec<GroupId> = without.iter().map(|group| group.group).collect();
        let code = "no_quorum";
        let text = format!(
            "{} no quorum: there is no link to {silent}. Nothing of theirs is acknowledged.",
            have(&groups)
        );
        found.push(diagnosis(code, text, HINT_SILENT));
        explained.extend(["lease", "leaders"]);
    } else if !situation.silent.is_empty() {
        let text = format!("There is no link to {silent}. All groups have a quorum without them.");
        found.push(diagnosis("peers_unreachable", text, HINT_SILENT));
    }
    let lease_is_lost = status.lease_left.is_none() && !explained.contains("lease");
    if lease_is_lost {
        let control = status.groups.iter().find(|group| group.group == CONTROL);
        let leader = control.and_then(|group| group.leader).map_or_else(
            || "control has no known leader".to_owned(),
            |leader| format!("control is led by {}", name_of(status, leader)),
        );
        let text = format!(
            "The node holds no lease though a quorum of control can be reached ({leader}): it acknowledges nothing."
        );
        found.push(diagnosis("lease_lost", text, HINT_WAIT));
        explained.insert("lease");
    }
    let electing: Vec<GroupId> = status
        .groups
        .iter()
        .filter(|group| group.leader.is_none() && !without.iter().any(|other| other.group == group.group))
        .map(|group| group.group)
        .collect();
    if !electing.is_empty() {
        let text = format!("{} no known leader though a quorum can be reached.", have(&electing));
        found.push(diagnosis("electing", text, HINT_WAIT));
        explained.insert("leaders");
    }
    let behind =
        status.groups.iter().map(|group| (group.group, group.committed.0.saturating_sub(group.applied.0)));
    let behind: Vec<(GroupId, u64)> = behind.filter(|(_, entries)| *entries > 0).collect();
    if situation.clauses.iter().any(|clause| clause.name == "caught_up" && !clause.ok) && !behind.is_empty() {
        let total: u64 = behind.iter().map(|(_, entries)| entries).sum();
        let groups: Vec<GroupId> = behind.iter().map(|(group, _)| *group).collect();
        let text = format!("{} {total} committed entries that are not applied here yet.", have(&groups));
        found.push(diagnosis("not_caught_up", text, "wait; quorate status shows whether they become fewer"));
        explained.insert("caught_up");
    }
    if let Some(clause) = situation.clauses.iter().find(|clause| clause.name == "votes" && !clause.ok) {
        let hint = "wait until the replicas are caught up; do not stop another node before";
        found.push(diagnosis("not_voting", sentence(&clause.reason), hint));
        explained.insert("votes");
    }
}

/// Replicas of groups that this node leads and that lag, though their node can be reached.
fn of_replicas(situation: &Situation<'_>, status: &NodeStatus, found: &mut Vec<Diagnosis>) {
    let led = status.groups.iter().filter(|group| group.leader == Some(status.id));
    let mut worst: Vec<(NodeId, u64, Vec<GroupId>)> = Vec::new();
    for group in led {
        for (node, lag) in lagging(situation, status, group) {
            match worst.iter_mut().find(|(known, ..)| *known == node) {
                Some((_, most, groups)) => {
                    *most = lag.max(*most);
                    groups.push(group.group);
                }
                None => worst.push((node, lag, vec![group.group])),
            }
        }
    }
    for (node, lag, groups) in worst {
        let name = name_of(status, node);
        let text = format!("{name} is up to {lag} entries behind in {}.", list(&groups));
        let hint = "quorate explain node asks that node why; until then the cluster can spare one node less";
        found.push(diagnosis("replica_behind", text, hint));
    }
}

fn lagging(situation: &Situation<'_>, status: &NodeStatus, group: &GroupStatus) -> Vec<(NodeId, u64)> {
    let is_silent = |node: &NodeId| situation.silent.iter().any(|(silent, _)| silent == node);
    let lags =
        group.progress.iter().map(|(node, matched)| (*node, group.committed.0.saturating_sub(matched.0)));
    lags.filter(|(node, lag)| *node != status.id && *lag >= REPLICA_BEHIND_ENTRIES && !is_silent(node))
        .collect()
}

fn of_disk(situation: &Situation<'_>, found: &mut Vec<Diagnosis>) {
    if situation.disk_full {
        let text = "The disk is full: nothing is acknowledged until there is room.";
        found.push(diagnosis("disk_full", text.to_owned(), HINT_ROOM));
    } else if situation.disk_low {
        let text =
            "The disk has little room: this node takes no messages of its clients in until there is more.";
        found.push(diagnosis("disk_low", text.to_owned(), HINT_ROOM));
    } else if let Some(time) = situation.sync_underway.filter(|time| *time >= DISK_SLOW) {
        let text = format!("An append to the log has not ended for {} ms.", time.as_millis());
        found.push(diagnosis("disk_slow", text, HINT_DISK));
    } else if let Some(time) = situation.sync_p99.filter(|time| *time >= DISK_SLOW) {
        let text = format!("One of a hundred syncs of the log took {} ms or more lately.", time.as_millis());
        found.push(diagnosis("disk_slow", text, HINT_DISK));
    }
}

/// Whether memory is so short that clients are refused.
fn of_memory(situation: &Situation<'_>, found: &mut Vec<Diagnosis>) -> bool {
    let (pressure, used, budget) = situation.memory;
    let figures = format!("{} of {} MiB of memory are in use", used >> 20, budget >> 20);
    let (code, text) = match pressure {
        Pressure::None => return false,
        Pressure::High => ("memory_high", format!("{figures}: clients that publish are read slowly.")),
        Pressure::Full => ("memory_full", format!("{figures}: clients and messages are refused.")),
    };
    found.push(diagnosis(code, text, HINT_MEMORY));
    pressure == Pressure::Full
}

/// What is to be said of a group with a replica here.
pub fn of_group(situation: &Situation<'_>, status: &NodeStatus, group: &GroupStatus) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    let id = group.group;
    if lacks_quorum(status, situation, group) {
        let silent: Vec<_> =
            situation.silent.iter().filter(|(node, _)| group.voters.contains(node)).cloned().collect();
        let text = format!("Group {id} has no quorum: there is no link to {}.", names_of(&silent));
        found.push(diagnosis("no_quorum", text, HINT_SILENT));
    } else if group.leader.is_none() {
        let text = format!("Group {id} has no known leader though a quorum can be reached.");
        found.push(diagnosis("electing", text, HINT_WAIT));
    }
    if group.learners.contains(&status.id) {
        let text = format!("This node receives the log of group {id} and has no vote in it yet.");
        found.push(diagnosis(
            "not_voting",
            text,
            "wait until it is caught up: it then becomes a voter by itself",
        ));
    }
    let behind = group.committed.0.saturating_sub(group.applied.0);
    if behind >= REPLICA_BEHIND_ENTRIES {
        let text = format!("This node has {behind} committed entries of group {id} to apply.");
        found.push(diagnosis("not_caught_up", text, "wait; quorate status shows whether they become fewer"));
    }
    for (node, lag) in lagging(situation, status, group) {
        let snapshot =
            if group.sent_snapshots.contains(&node) { "; a snapshot is on its way to it" } else { "" };
        let text = format!("{} is {lag} entries behind{snapshot}.", name_of(status, node));
        found.push(diagnosis("replica_behind", text, "quorate explain node asks that node why"));
    }
    let unheard = situation.silent.iter().filter(|(node, _)| group.voters.contains(node));
    for (_, silent) in unheard.filter(|_| group.leader.is_some()) {
        let text = format!("Its replica on {} cannot be reached ({} s).", silent.name, silent.time.as_secs());
        found.push(diagnosis("replica_unreachable", text, HINT_SILENT));
    }
    found.extend(role(status, group));
    found
}

/// Why the node leads the group, or does not.
fn role(status: &NodeStatus, group: &GroupStatus) -> Option<Diagnosis> {
    let (id, term) = (group.group, group.term);
    let leader = group.leader?;
    if leader == status.id {
        let text = format!("This node leads group {id}: a quorum elected it in term {term}.");
        return Some(diagnosis("leads", text, "nothing is to be done"));
    }
    let text = format!("{} leads group {id} in term {term}; this node follows.", name_of(status, leader));
    Some(diagnosis("follows", text, "nothing is to be done: a group has one leader"))
}

/// The group has too few voters that this node has a link to.
fn lacks_quorum(status: &NodeStatus, situation: &Situation<'_>, group: &GroupStatus) -> bool {
    let reachable =
        |node: &&NodeId| **node == status.id || !situation.silent.iter().any(|(silent, _)| *silent == **node);
    !group.voters.is_empty() && group.voters.iter().filter(reachable).count() * 2 <= group.voters.len()
}

/// Name of a node; its number when control does not know it.
pub fn name_of(status: &NodeStatus, node: NodeId) -> String {
    let record = status.nodes.iter().map(|(record, _)| record).find(|record| record.id == node);
    record.map_or_else(|| format!("#{}", node.0), |record| record.name.as_str().to_owned())
}

/// Members that this node has no link to.
pub fn silent_peers(
    status: &NodeStatus,
    now: Duration,
    silent_since: impl Fn(NodeId) -> Option<Duration>,
) -> Vec<(NodeId, Silent)> {
    let members = status.nodes.iter().filter(|(record, membership)| {
        record.id != status.id && *membership != Membership::Removed && !status.peers_up.contains(&record.id)
    });
    let silent = members.map(|(record, _)| {
        let time = now.saturating_sub(silent_since(record.id).unwrap_or(now));
        (record.id, Silent { name: record.name.as_str().to_owned(), time })
    });
    silent.collect()
}

fn names_of(silent: &[(NodeId, Silent)]) -> String {
    let texts: Vec<String> = silent
        .iter()
        .map(|(_, silent)| format!("{} (for {} s)", silent.name, silent.time.as_secs()))
        .collect();
    texts.join(", ")
}

fn have(groups: &[GroupId]) -> String {
    let listed = list(groups);
    let (first, rest) = listed.split_at_checked(1).unwrap_or(("", ""));
    let verb = if groups.len() == 1 { "has" } else { "have" };
    format!("{}{rest} {verb}", first.to_ascii_uppercase())
}

/// `group 3`, `groups 0 to 4 and 7`.
fn list(groups: &[GroupId]) -> String {
    let mut spans: Vec<(u32, u32)> = Vec::new();
    let mut numbers: Vec<u32> = groups.iter().map(|group| group.0).collect();
    numbers.sort_unstable();
    for number in numbers {
        match spans.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => spans.push((number, number)),
        }
    }
    let texts: Vec<String> = spans
        .iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first}, {last}"),
            _ => format!("{first} to {last}"),
        })
        .collect();
    format!("group{} {}", if groups.len() == 1 { "" } else { "s" }, texts.join(", "))
}

/// A reason with a capital letter and a full stop.
fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    let rest = characters.as_str().trim_end_matches('.');
    first.map_or_else(String::new, |first| format!("{first}{rest}."))
}

#[cfg(test)]
mod tests;
