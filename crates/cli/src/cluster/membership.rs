//! `quorate cluster members|join|remove|replace`: members that come and go for good.
//!
//! Owns: the commands, what a node needs to join, waiting with progress. Does not: decide; the cluster does. Start or stop nodes.
//! Invariants: nothing is changed by a dry run; a command that did not wait to its end can be given again, and goes on.
//! Limits: one question to the cluster per `LOOK_EVERY`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use quorate_api::cluster::NodeState;
use quorate_api::membership::{Member, Membership, MovingGroup, RemoveAnswer, RemoveRequest};
use quorate_server::config::{self, Config};

use super::{list, post, show};
use crate::exit::{Exit, Failure, Outcome};
use crate::http::{self, Method, percent_encoded};
use crate::operator::{self, LeaveArgs};
use crate::output::{self, Output};
use crate::status;
use crate::table::Table;

/// How often the cluster is asked while a command waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a command that waits says what it waits for.
const SAY_EVERY: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
pub struct JoinArgs {
    /// Name of the new node
    node: String,
    /// Its configuration file, to check that it fits the cluster
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    wait: Waiting,
}

#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Node name
    node: String,
    /// Change nothing; say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Call a removal off that is not at its end
    #[arg(long, conflicts_with_all = ["dry_run", "wait"])]
    cancel: bool,
    #[command(flatten)]
    leave: LeaveArgs,
    #[command(flatten)]
    wait: Waiting,
}

#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The member that is to go
    old: String,
    /// The node that comes for it: it may join later
    new: String,
    #[command(flatten)]
    leave: LeaveArgs,
    #[command(flatten)]
    wait: Waiting,
}

#[derive(Args, Debug)]
struct Waiting {
    /// Wait until it is done, and say how far it is
    #[arg(long)]
    wait: bool,
    /// How long to wait; what was begun goes on after that
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse, default_value = "30m")]
    timeout: Duration,
}

/// Shows the members and what is on the way.
pub async fn members(admin: &str, output: Output) -> Outcome {
    let membership = fetch(admin).await?;
    show(output, &membership, text_of(&membership))
}

/// Says what a node needs to join, checks its configuration, and waits until it has its part.
pub async fn join(admin: &str, output: Output, args: JoinArgs) -> Outcome {
    let JoinArgs { node, config, wait } = args;
    let membership = fetch(admin).await?;
    if let Some(file) = &config {
        let loaded = config::load(file).map_err(|errors| {
            let first = errors.first().map(ToString::to_string).unwrap_or_default();
            Failure::new(Exit::Usage, anyhow!("{first}"))
                .hint(format!("quorate config check --config {}", file.display()))
        })?;
        let problems = misfits(&membership, &node, &loaded);
        if !problems.is_empty() {
            problems.iter().for_each(|problem| eprintln!("{}: {problem}", file.display()));
            return Err(Failure::new(Exit::Usage, anyhow!("the configuration does not fit the cluster"))
                .hint("each line above says what to write instead"));
        }
    }
    match membership.members.iter().rfind(|member| member.name == node) {
        Some(member) if member.state == NodeState::Live => {
            eprintln!("{node} is a member");
        }
        Some(member) => eprintln!(
            "{node} was a member, as node {}, and is down. Started with its data folder it comes back; with an empty one it joins \
             anew and takes its place.",
            member.id
        ),
        None if config.is_some() => {
            eprintln!("the configuration fits: start {node} with an empty data folder")
        }
        None if wait.wait => {}
        None => output::print(&recipe(&membership, &node))?,
    }
    if !wait.wait {
        return Ok(());
    }
    let cluster = Cluster::of(admin).await?;
    let last = cluster.until(&wait, |membership| joined(membership, &node)).await?;
    show(output, &last, format!("{node} has joined and has its part of the replicas\n"))
}

/// Takes a member out for good.
pub async fn remove(admin: &str, output: Output, args: RemoveArgs) -> Outcome {
    let RemoveArgs { node, dry_run, cancel, leave, wait } = args;
    let path = remove_path(&node);
    if cancel {
        let answer: RemoveAnswer = http::ask(Method::Delete, admin, &path, None).await?;
        return show(output, &answer, format!("{node} stays\n"));
    }
    if dry_run {
        let request = RemoveRequest { dry_run: true, successor: None };
        let answer: RemoveAnswer = post(admin, &path, &request).await?;
        show(output, &answer, plan_text(&answer))?;
        return if answer.blockers.is_empty() { Ok(()) } else { Err(Failure::silent(Exit::Failed)) };
    }
    let what = format!("take {node} out of the cluster for good: its identity does not come back");
    operator::agree(leave, &what)?;
    go(admin, output, &node, None, &wait).await
}

/// Takes a member out for good when another node has come.
pub async fn replace(admin: &str, output: Output, args: ReplaceArgs) -> Outcome {
    let ReplaceArgs { old, new, leave, wait } = args;
    let what = format!("take {old} out of the cluster for good as soon as {new} is a member");
    operator::agree(leave, &what)?;
    go(admin, output, &old, Some(new), &wait).await
}

async fn go(admin: &str, output: Output, node: &str, successor: Option<String>, wait: &Waiting) -> Outcome {
    // Asked before: the node that answers may be the one that goes.
    let cluster = Cluster::of(admin).await?;
    let request = RemoveRequest { dry_run: false, successor: successor.clone() };
    let answer: RemoveAnswer = post(admin, &remove_path(node), &request).await?;
    let awaited = successor.map(|name| format!(" when {name} is a member")).unwrap_or_default();
    if !wait.wait {
        let text = format!(
            "{node} is to go{awaited}: {} partitions have a replica on it. See how far it is: quorate cluster members\n",
            answer.placed
        );
        return show(output, &answer, text);
    }
    eprintln!("{node} is to go{awaited}: {} partitions have a replica on it", answer.placed);
    let last = cluster.until(wait, |membership| gone(membership, answer.id)).await?;
    show(output, &last, format!("{node} is gone; its process ends with exit code 67\n"))
}

/// All admin addresses of a cluster: the node that was asked first may go.
struct Cluster {
    admins: Vec<String>,
}

impl Cluster {
    async fn of(admin: &str) -> Outcome<Cluster> {
        let state = status::fetch(admin).await?;
        let mut admins = vec![admin.to_owned()];
        admins.extend(state.nodes.iter().filter_map(|node| node.admin.clone()));
        Ok(Cluster { admins })
    }

    /// Waits until `left` says nothing; `left` says what there is left to do.
    async fn until(
        &self,
        wait: &Waiting,
        left: impl Fn(&Membership) -> Option<String>,
    ) -> Outcome<Membership> {
        let deadline = Instant::now() + wait.timeout;
        let (mut said, mut said_at) = (String::new(), Instant::now());
        loop {
            let mut found = Err(anyhow!("no node answers on its admin address"));
            for admin in &self.admins {
                let answer = tokio::time::timeout(SAY_EVERY, fetch(admin)).await;
                // A node that has just joined knows no members yet.
                if let Ok(Ok(membership)) = answer
                    && !membership.members.is_empty()
                {
                    // A node that is cut off, or gone, shows what was.
                    let current = left(&membership);
                    let is_done = current.is_none();
                    found = Ok((membership, current));
                    if is_done {
                        break;
                    }
                }
            }
            let now = match found {
                Ok((membership, None)) => return Ok(membership),
                Ok((_, Some(left))) => left,
                Err(error) => error.to_string(),
            };
            if now != said || said_at.elapsed() >= SAY_EVERY {
                eprintln!("  {now}");
                (said, said_at) = (now.clone(), Instant::now());
            }
            if Instant::now() >= deadline {
                return Err(Failure::from(anyhow!("not done in time: {now}"))
                    .hint("it goes on; quorate cluster members shows how far it is"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn fetch(admin: &str) -> Outcome<Membership> {
    http::ask(Method::Get, admin, "/v1/cluster/membership", None).await
}

fn remove_path(node: &str) -> String {
    format!("/v1/nodes/{}/remove", percent_encoded(node))
}

/// What is left until a node has its part.
fn joined(membership: &Membership, node: &str) -> Option<String> {
    let Some(member) = membership.members.iter().rfind(|member| member.name == node) else {
        return Some(format!("{node} has not asked to join yet"));
    };
    if member.state != NodeState::Live {
        return Some(format!("{node} is not up"));
    }
    underway(membership)
}

/// What is left until a node is gone.
fn gone(membership: &Membership, id: u64) -> Option<String> {
    let member = membership.members.iter().find(|member| member.id == id)?;
    let Some(removal) = &member.removal else {
        return Some(format!("{} is to stay: it was called off", member.name));
    };
    if let Some(successor) = &removal.successor {
        return Some(format!("waiting for {successor} to join"));
    }
    let on_the_way = moving_text(&membership.moving);
    if member.placed == 0 && member.member_of <= 1 {
        let name = &member.name;
        return Some(format!(
            "{name} has no partitions any more; its clients get their time to go{on_the_way}"
        ));
    }
    if member.placed == 0 {
        return Some(format!("{} gives up its last partitions{on_the_way}", member.name));
    }
    Some(format!("{} is to give up {} partitions still{on_the_way}", member.name, member.placed))
}

fn underway(membership: &Membership) -> Option<String> {
    let text = moving_text(&membership.moving);
    (!membership.settled).then(|| format!("replicas move{text}"))
}

fn moving_text(moving: &[MovingGroup]) -> String {
    let groups: Vec<u32> = moving.iter().map(|group| group.group).collect();
    if groups.is_empty() { String::new() } else { format!("; on the way: groups {}", list(&groups)) }
}

fn plan_text(answer: &RemoveAnswer) -> String {
    let mut text = match answer.blockers.first() {
        None => format!("{} can be removed\n", answer.node),
        Some(_) => format!("{} cannot be removed\n", answer.node),
    };
    for blocker in &answer.blockers {
        text.push_str(&format!("  {}\n", blocker.message));
    }
    text.push_str(&format!("  partitions with a replica on it: {}\n", answer.placed));
    text
}

fn text_of(membership: &Membership) -> String {
    let mut table = Table::new(&["NODE", ">ID", "STATE", "ZONE", ">PARTITIONS", ">MEMBER OF", "REMOVAL"]);
    for member in &membership.members {
        let state = if member.state == NodeState::Live { "live" } else { "down" };
        let zone = member.zone.clone().unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            member.name.clone(),
            member.id.to_string(),
            state.to_owned(),
            zone,
            member.placed.to_string(),
            member.member_of.to_string(),
            removal_text(member),
        ]);
    }
    let mut text = table.render();
    for one in &membership.moving {
        let what = if one.group == 0 { "control".to_owned() } else { format!("group {}", one.group) };
        let voters = if one.voters.is_empty() { "?".to_owned() } else { list(&one.voters) };
        text.push_str(&format!("{what}: {voters} -> {}", list(&one.wanted)));
        if !one.learners.is_empty() {
            text.push_str(&format!("; {} catching up", list(&one.learners)));
        }
        text.push('\n');
    }
    text.push_str(if membership.settled {
        "settled\n"
    } else {
        "replicas move, or a node is on its way out\n"
    });
    text
}

fn removal_text(member: &Member) -> String {
    match &member.removal {
        None => "-".to_owned(),
        Some(removal) => {
            let seconds = removal.since_ms / 1000;
            match &removal.successor {
                None => format!("on its way out for {seconds} s"),
                Some(successor) => format!("waits for {successor} for {seconds} s"),
            }
        }
    }
}

/// The part of a configuration that lets a node find the cluster.
fn recipe(membership: &Membership, node: &str) -> String {
    let mut text = format!(
        "{node} is no member yet. To join, start it with an empty data folder and this in its configuration:\n\n[cluster]\n\
         name = \"{}\"\npartitions = {}\nbootstrap = [\n",
        membership.cluster, membership.partitions
    );
    let known = membership.members.iter().filter(|member| member.state == NodeState::Live);
    let known = known.filter(|member| member.removal.is_none());
    for (name, peer) in known.filter_map(|member| Some((&member.name, member.peer.as_ref()?))).take(8) {
        text.push_str(&format!("  {{ name = \"{name}\", peer = \"{peer}\" }},\n"));
    }
    text.push_str(&format!(
        "  {{ name = \"{node}\", peer = \"HOST:11883\" }},\n]\n\nIt needs a certificate of the authority of the nodes: \
         quorate cert node {node} --address HOST\nThen: quorate cluster join {node} --wait\n"
    ));
    text
}

/// Why a node of this configuration would not join the cluster.
fn misfits(membership: &Membership, node: &str, config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if config.node.name != node {
        found.push(format!("`node.name` is \"{}\": write \"{node}\"", config.node.name));
    }
    if config.cluster.name != membership.cluster {
        let (own, cluster) = (&config.cluster.name, &membership.cluster);
        found.push(format!("`cluster.name` is \"{own}\": the cluster is called \"{cluster}\""));
    }
    if config.cluster.partitions != membership.partitions {
        let (own, all) = (config.cluster.partitions, membership.partitions);
        found.push(format!("`cluster.partitions` is {own}: the cluster has {all}"));
    }
    if config.peer.is_none() {
        found.push(
            "there is no [peer]: a member needs an address and a certificate for the others".to_owned(),
        );
    }
    let of_member = |name: &str, peer: &str| {
        membership
            .members
            .iter()
            .any(|member| member.name == name && member.peer.as_deref() == Some(peer) && member.name != node)
    };
    if !config.cluster.bootstrap.iter().any(|listed| of_member(&listed.name, &listed.peer)) {
        let example = membership.members.iter().find_map(|member| {
            let peer = member.peer.as_ref()?;
            Some(format!("{{ name = \"{}\", peer = \"{peer}\" }}", member.name))
        });
        let example = example.unwrap_or_default();
        found.push(format!("`cluster.bootstrap` lists no member by its address: add for example {example}"));
    }
    let taken = membership.members.iter().rfind(|member| member.name == node);
    let advertised = config.peer.as_ref().map(|peer| peer.advertise.as_str());
    if let Some(member) =
        taken.filter(|member| member.state == NodeState::Live && member.peer.as_deref() != advertised)
    {
        let peer = member.peer.as_deref().unwrap_or_default();
        found.push(format!("a live member is called \"{node}\", at {peer}: choose another name"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::membership::Removal;

    fn membership() -> Membership {
        let member = |id: u64| Member {
            id,
            name: format!("n{id}"),
            state: NodeState::Live,
            peer: Some(format!("10.0.0.1{id}:11883")),
            placed: 16,
            member_of: 17,
            ..Member::default()
        };
        Membership {
            cluster: "plant".to_owned(),
            partitions: 16,
            replication: 3,
            members: (1..=3).map(member).collect(),
            moving: Vec::new(),
            settled: true,
        }
    }

    #[test]
    fn recipe_names_the_members_that_let_a_node_in_and_its_configuration_fits() {
        let text = recipe(&membership(), "n4");
        assert!(text.contains("{ name = \"n2\", peer = \"10.0.0.12:11883\" }"), "{text}");
        let mut config = Config::default();
        let found = misfits(&membership(), "n4", &config);
        assert_eq!(found.len(), 4, "name, cluster, [peer], bootstrap: {found:?}");
        config.node.name = "n4".to_owned();
        config.cluster.name = "plant".to_owned();
        let listed = config::BootstrapNode { name: "n2".to_owned(), peer: "10.0.0.12:11883".to_owned() };
        config.cluster.bootstrap = vec![listed];
        assert_eq!(misfits(&membership(), "n4", &config).len(), 1, "[peer]");
        config.node.name = "n3".to_owned();
        assert!(misfits(&membership(), "n3", &config).iter().any(|one| one.contains("another name")));
    }

    #[test]
    fn waiting_says_what_is_left_and_ends_when_nothing_is() {
        let mut membership = membership();
        assert_eq!(joined(&membership, "n3"), None);
        assert_eq!(joined(&membership, "n4").unwrap(), "n4 has not asked to join yet");
        assert_eq!(gone(&membership, 9), None);
        membership.settled = false;
        let moving = MovingGroup { group: 7, ..MovingGroup::default() };
        membership.moving = vec![moving];
        assert_eq!(joined(&membership, "n3").unwrap(), "replicas move; on the way: groups 7");
        membership.members[2].removal = Some(Removal { since_ms: 1, successor: Some("n9".to_owned()) });
        assert_eq!(gone(&membership, 3).unwrap(), "waiting for n9 to join");
        membership.members[2].removal = Some(Removal::default());
        let left = gone(&membership, 3).unwrap();
        assert_eq!(left, "n3 is to give up 16 partitions still; on the way: groups 7");
        let text = text_of(&membership);
        assert!(text.contains("on its way out") && text.contains("group 7: ? -> none"), "{text}");
    }
}
