//! Members come and go for good, under load and kills: one configuration at the end, and nothing lost.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;
use std::time::{Duration, Instant};

use quorate_api::ClusterState;
use quorate_api::membership::{Member, Membership};
use quorate_tests::load::{Load, Shape};
use quorate_tests::{Cluster, let_pass, wait_at_most};

use crate::{Choice, collect, offline_session};

/// Additions, removals and replacements.
const OPERATIONS: usize = 100;

/// Members at most.
const MEMBERS_MAX: usize = 6;

/// Longest time until everything is where it should be, once nothing more is asked for. A debug build on a busy machine is slow.
const REST_WITHIN: Duration = Duration::from_secs(300);

/// What a removed node's process ends with.
const REMOVED: i32 = 67;

/// A number from the environment, for shorter runs and other ones.
fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// The members as the first node sees them that answers and knows any.
fn membership(cluster: &Cluster) -> Option<Membership> {
    let running = (0..cluster.nodes.len()).filter(|place| cluster.runs(*place));
    let answers = running.filter_map(|place| {
        let (status, body) = cluster.get(place, "/v1/cluster/membership").ok()?;
        let membership: Membership = serde_json::from_str(&body).ok()?;
        // One that is on its way out may know less than the others.
        let name = &cluster.node(place).name;
        let own = membership.members.iter().rfind(|member| member.name == *name);
        (status == 200 && own.is_some_and(|own| own.removal.is_none())).then_some(membership)
    });
    answers.max_by_key(|membership| membership.members.iter().map(|member| member.id).max())
}

fn place_of(cluster: &Cluster, name: &str) -> usize {
    cluster.nodes.iter().position(|node| node.name == name).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

/// All members agree on who they are and on the members of each group, and equal positions have equal states.
fn assert_one_configuration(cluster: &Cluster) {
    let mut shown: BTreeMap<(u32, u64), BTreeSet<String>> = BTreeMap::new();
    let mut compared: BTreeSet<u32> = BTreeSet::new();
    let mut last = String::new();
    let result = wait_at_most(REST_WITHIN, "one configuration", || {
        let known = membership(cluster)?;
        let names: BTreeSet<&str> = known.members.iter().map(|member| member.name.as_str()).collect();
        let mut voters: BTreeMap<u32, BTreeSet<Vec<u64>>> = BTreeMap::new();
        let mut holders: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for place in names.iter().map(|name| place_of(cluster, name)) {
            let state: ClusterState = cluster.state(place, true).ok()?;
            let seen: BTreeSet<&str> = state.nodes.iter().map(|node| node.name.as_str()).collect();
            last = format!("{names:?} and {seen:?}, settled {}, moving {:?}", known.settled, known.moving);
            if seen != names || !known.settled {
                return None;
            }
            for group in &state.groups {
                let mut sorted = group.voters.clone();
                sorted.sort_unstable();
                voters.entry(group.id).or_default().insert(sorted);
                holders.entry(group.id).or_default().push(state.node_id);
                if let Some(hash) = &group.state_hash {
                    let hashes = shown.entry((group.id, group.applied)).or_default();
                    hashes.insert(hash.clone());
                    assert_eq!(hashes.len(), 1, "group {} differs at {}", group.id, group.applied);
                    compared.insert(group.id);
                }
                last =
                    format!("group {}: voters {:?}, learners {:?}", group.id, group.voters, group.learners);
                if !group.learners.is_empty() {
                    return None;
                }
            }
        }
        for (group, all) in &voters {
            let mut holders = holders.get(group)?.clone();
            holders.sort_unstable();
            last = format!("group {group}: voters {all:?}, replicas on {holders:?}");
            if all.len() != 1 || !all.contains(&holders) {
                return None;
            }
        }
        let partitions = voters.keys().filter(|group| **group != 0);
        (compared.len() == 17 && partitions.count() == 16).then_some(())
    });
    result.unwrap_or_else(|error| panic!("{error:#}: {last}"));
}

fn is_even(members: &[Member]) -> bool {
    let placed = || members.iter().map(|member| member.placed);
    placed().max().unwrap_or(0) - placed().min().unwrap_or(0) <= 1
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn three_nodes_become_five_and_three_again_by_the_command_line() {
    let mut cluster = Cluster::start("three-five-three", 3).unwrap();
    cluster.prepare(2).unwrap();
    offline_session(cluster.node(0).mqtt_port, "grow-offline", "grow/#");
    let shape = Shape { publishers: 2, subscribers: 2, by_hand: 1, rate: 50, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "grow", shape).unwrap();
    for place in [3, 4] {
        let name = cluster.node(place).name.clone();
        let recipe = cluster.operate(0, &["cluster", "join", &name]).unwrap();
        assert!(said(&recipe).contains("is no member yet"), "{}", said(&recipe));
        let config = cluster.config_file(place).display().to_string();
        let fits = cluster.operate(0, &["cluster", "join", &name, "--config", &config]).unwrap();
        assert!(fits.status.success(), "{}", said(&fits));
        cluster.restart(place).unwrap();
        let joined = cluster.operate(0, &["cluster", "join", &name, "--wait", "--timeout", "5m"]).unwrap();
        assert!(joined.status.success(), "{}", said(&joined));
        load.wait_progress(50).unwrap();
    }
    let five = membership(&cluster).unwrap();
    assert_eq!(five.members.len(), 5);
    assert!(is_even(&five.members), "{:?}", five.members);
    (0..5).for_each(|place| cluster.wait_ready(place).unwrap());
    assert_one_configuration(&cluster);
    // Two that have been there from the beginning go, asked for at one that stays.
    for name in ["n1", "n4"] {
        let rehearsal = cluster.operate(1, &["cluster", "remove", name, "--dry-run"]).unwrap();
        assert!(rehearsal.status.success(), "{}", said(&rehearsal));
        let gone =
            cluster.operate(1, &["cluster", "remove", name, "--yes", "--wait", "--timeout", "5m"]).unwrap();
        assert!(gone.status.success(), "{}", said(&gone));
        load.wait_progress(50).unwrap();
    }
    let refused = cluster.operate(1, &["cluster", "remove", "n2", "--yes"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("fewer nodes would stay"), "{}", said(&refused));
    wait_at_most(REST_WITHIN, "the removed node to end by itself", || cluster.exit_code(3).unwrap())
        .map(|code| assert_eq!(code, REMOVED))
        .unwrap();
    wait_at_most(REST_WITHIN, "the other one too", || (!cluster.runs(0)).then_some(())).unwrap();
    cluster.wait_ended(0).unwrap();
    // It does not come back with what it has.
    cluster.restart(0).unwrap();
    wait_at_most(REST_WITHIN, "it to be told again", || cluster.exit_code(0).unwrap())
        .map(|code| assert_eq!(code, REMOVED))
        .unwrap();
    assert_one_configuration(&cluster);
    load.end().unwrap();
    load.drain().unwrap();
    let counts = collect(cluster.node(1).mqtt_port, "grow-offline", |counts| {
        counts.len() as u64 >= load.audit().acked_count()
    });
    assert!(counts.values().all(|count| *count == 1), "each of them once");
    let verdict = load.audit().verdict();
    let verdict: Vec<&String> = verdict.iter().filter(|line| !line.starts_with("subscriber 2:")).collect();
    assert!(verdict.is_empty(), "{verdict:#?}\n{}", load.audit().summary());
    cluster.check_log().unwrap();
    println!("three_nodes_become_five_and_three_again: {}", load.audit().summary());
}

/// The place of the node that leads control, as the first of these sees it that knows.
fn control_led_by(cluster: &Cluster, among: &[usize]) -> Option<usize> {
    among.iter().find_map(|place| {
        let state = cluster.state(*place, false).ok()?;
        let leader = state.groups.iter().find(|group| group.id == 0)?.leader?;
        let name = &state.nodes.iter().find(|node| node.id == leader)?.name;
        Some(place_of(cluster, name))
    })
}

#[test]
#[ignore = "kills nodes until the new one leads; see CONTRIBUTING.md"]
fn node_that_was_away_while_another_joined_comes_back_although_that_one_leads() {
    let mut cluster = Cluster::start("away-while-joined", 3).unwrap();
    cluster.prepare(1).unwrap();
    (0..3).for_each(|place| cluster.wait_ready(place).unwrap());
    cluster.kill(0).unwrap();
    let name = cluster.node(3).name.clone();
    cluster.restart(3).unwrap();
    let joined = cluster.operate(1, &["cluster", "join", &name, "--wait", "--timeout", "5m"]).unwrap();
    assert!(joined.status.success(), "{}", said(&joined));
    // Whoever else leads control dies, until the new one does.
    let others = [1, 2, 3];
    let mut rounds = 0;
    loop {
        let leader =
            wait_at_most(REST_WITHIN, "a leader of control", || control_led_by(&cluster, &others)).unwrap();
        if leader == 3 {
            break;
        }
        rounds += 1;
        assert!(rounds <= 60, "{name} never leads control");
        cluster.kill(leader).unwrap();
        cluster.restart(leader).unwrap();
    }
    cluster.restart(0).unwrap();
    // It knows nobody who leads control, and has links to the two others only.
    cluster.wait_ready(0).unwrap();
    assert_eq!(control_led_by(&cluster, &[0]), Some(3), "it leads still, and the one that was away knows");
    others.into_iter().for_each(|place| cluster.wait_ready(place).unwrap());
    cluster.check_log().unwrap();
    println!("node_that_was_away_while_another_joined: {name} led control after {rounds} kills");
}

/// What was done, and to whom.
#[derive(Default, Debug)]
struct Done {
    added: usize,
    removed: usize,
    replaced: usize,
    refused: usize,
    kills: usize,
}

struct Chaos {
    cluster: Cluster,
    choice: Choice,
    done: Done,
    /// A node that was killed, and when it is started again.
    down: Option<(usize, Instant)>,
}

impl Chaos {
    /// Ends what ended, and starts again what was killed.
    fn housekeeping(&mut self) {
        for place in 0..self.cluster.nodes.len() {
            if let Some(code) = self.cluster.exit_code(place).unwrap() {
                let killed = self.down.is_some_and(|(down, _)| down == place);
                assert!(killed || code == REMOVED, "{} ended with {code}", self.cluster.node(place).name);
            }
        }
        if let Some((place, until)) = self.down
            && Instant::now() >= until
        {
            self.cluster.restart(place).unwrap();
            self.down = None;
        }
    }

    /// kill -9 of any node that runs, unless one is down.
    fn kill_one(&mut self) {
        let running: Vec<usize> =
            (0..self.cluster.nodes.len()).filter(|place| self.cluster.runs(*place)).collect();
        if self.down.is_some() || running.len() < 3 {
            return;
        }
        let place = running[self.choice.below(running.len())];
        self.cluster.kill(place).unwrap();
        self.done.kills += 1;
        self.down =
            Some((place, Instant::now() + Duration::from_millis(500 + self.choice.below(3000) as u64)));
    }

    /// A node that is neither a member nor running.
    fn spare(&self, known: &Membership) -> Option<usize> {
        let is_member = |name: &str| known.members.iter().any(|member| member.name == name);
        (0..self.cluster.nodes.len()).find(|place| {
            let down = self.down.is_some_and(|(down, _)| down == *place);
            !self.cluster.runs(*place) && !down && !is_member(&self.cluster.node(*place).name)
        })
    }

    fn start_new(&mut self, place: usize) {
        // There may be none yet.
        let _nothing_there = self.cluster.wipe(place);
        self.cluster.restart(place).unwrap();
    }

    /// Asks a running node.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let running: Vec<usize> =
            (0..self.cluster.nodes.len()).filter(|place| self.cluster.runs(*place)).collect();
        let place = running[self.choice.below(running.len())];
        self.cluster.request(place, method, path, body).ok()
    }

    /// One operation, if one is possible now.
    fn operate(&mut self) -> bool {
        let Some(known) = membership(&self.cluster) else { return false };
        let staying: Vec<String> = known
            .members
            .iter()
            .filter(|member| member.removal.is_none())
            .map(|member| member.name.clone())
            .collect();
        let victim = staying[self.choice.below(staying.len())].clone();
        let spare = self.spare(&known);
        match (self.choice.below(3), spare) {
            (0, Some(place)) if known.members.len() < MEMBERS_MAX => {
                self.start_new(place);
                self.done.added += 1;
            }
            (1, _) if staying.len() > 3 => {
                match self.ask("POST", &format!("/v1/nodes/{victim}/remove"), "{}") {
                    Some((200, _)) => self.done.removed += 1,
                    _ => {
                        self.done.refused += 1;
                        return false;
                    }
                }
            }
            (2, Some(place)) if known.members.len() < MEMBERS_MAX => {
                let body = format!("{{\"successor\":\"{}\"}}", self.cluster.node(place).name);
                match self.ask("POST", &format!("/v1/nodes/{victim}/remove"), &body) {
                    Some((200, _)) => {
                        self.start_new(place);
                        self.done.replaced += 1;
                    }
                    _ => {
                        self.done.refused += 1;
                        return false;
                    }
                }
            }
            _ => return false,
        }
        true
    }
}

#[test]
#[ignore = "minutes long; see CONTRIBUTING.md"]
fn random_members_come_and_go_under_load_and_kills() {
    let mut cluster = Cluster::start("membership", 3).unwrap();
    cluster.prepare(4).unwrap();
    let shape = Shape { publishers: 3, subscribers: 2, by_hand: 0, rate: 40, payload_bytes: 256 };
    let mut load = Load::start(&cluster, "members", shape).unwrap();
    let seed = setting("QUORATE_MEMBERSHIP_SEED", 7) as u64;
    let mut chaos = Chaos { cluster, choice: Choice(seed), done: Done::default(), down: None };
    let wanted = setting("QUORATE_MEMBERSHIP_OPERATIONS", OPERATIONS);
    let mut count = 0;
    let mut progress = Instant::now();
    while count < wanted {
        chaos.housekeeping();
        if chaos.choice.below(6) == 0 {
            chaos.kill_one();
        }
        if chaos.operate() {
            count += 1;
            progress = Instant::now();
            println!("{count} of {wanted}: {:?}", chaos.done);
        }
        assert!(
            progress.elapsed() < REST_WITHIN,
            "no operation is possible for long: {:?} {:?}",
            chaos.done,
            membership(&chaos.cluster)
        );
        let pause = 300 + chaos.choice.below(2000) as u64;
        let_pass(Duration::from_millis(pause));
    }
    // Everybody comes back.
    wait_at_most(REST_WITHIN, "killed nodes to be started", || {
        chaos.housekeeping();
        chaos.down.is_none().then_some(())
    })
    .unwrap();
    assert_one_configuration(&chaos.cluster);
    let known = membership(&chaos.cluster).unwrap();
    assert!(is_even(&known.members), "{:?}", known.members);
    for member in &known.members {
        chaos.cluster.wait_ready(place_of(&chaos.cluster, &member.name)).unwrap();
    }
    // Whoever was removed has ended, or ends.
    wait_at_most(REST_WITHIN, "removed nodes to end", || {
        chaos.housekeeping();
        let is_member = |name: &str| known.members.iter().any(|member| member.name == name);
        let mut places = 0..chaos.cluster.nodes.len();
        let left =
            places.any(|place| chaos.cluster.runs(place) && !is_member(&chaos.cluster.node(place).name));
        (!left).then_some(())
    })
    .unwrap();
    load.wait_progress(50).unwrap();
    load.end().unwrap();
    load.drain().unwrap();
    assert_one_configuration(&chaos.cluster);
    let verdict = load.audit().verdict();
    assert!(verdict.is_empty(), "{verdict:#?}\n{}", load.audit().summary());
    chaos.cluster.check_log().unwrap();
    println!(
        "random_members_come_and_go: {} members at the end, {:?}, {}",
        known.members.len(),
        chaos.done,
        load.audit().summary()
    );
}
