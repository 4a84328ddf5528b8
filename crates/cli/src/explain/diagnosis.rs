//! `quorate explain node` and `quorate explain group`: what is wrong with them, and what to do.
//!
//! Owns: finding the node to ask, laying the answer out. Does not: judge; the server's findings are shown as they come.
//! Invariants: a node that does not answer is a finding too, with what the others say of it.

use anyhow::anyhow;
use clap::Args;
use quorate_api::{Diagnosis, GroupExplanation, NodeState, NodeStatus, Why};

use crate::exit::{Exit, Failure, Outcome};
use crate::http::{self, Method};
use crate::operator::AdminArgs;
use crate::output::{self, Output};
use crate::status;
use crate::table::{Table, thousands};

/// Flags of `quorate explain node`.
#[derive(Args, Debug)]
pub struct NodeArgs {
    /// Name of the node; the one that is asked without it
    name: Option<String>,
    #[command(flatten)]
    asked: AdminArgs,
}

/// Flags of `quorate explain group`.
#[derive(Args, Debug)]
pub struct GroupArgs {
    /// Group; control is 0
    group: u32,
    #[command(flatten)]
    asked: AdminArgs,
}

/// Runs `explain node`. What is wrong with a node is an answer, not a failure.
pub async fn node(args: NodeArgs) -> Outcome {
    let why = match &args.name {
        None => http::ask(Method::Get, &args.asked.admin, "/v1/why", None).await?,
        Some(name) => by_name(&args.asked.admin, name).await?,
    };
    match args.asked.output {
        Output::Json => output::print_json(&why)?,
        Output::Text => output::print(&render_node(&why))?,
    }
    Ok(())
}

async fn by_name(admin: &str, name: &str) -> Outcome<Why> {
    let state = status::fetch(admin).await?;
    let Some(node) = state.nodes.iter().rfind(|node| node.name == *name) else {
        let names: Vec<&str> = state.nodes.iter().map(|node| node.name.as_str()).collect();
        let hint = format!("the nodes are: {}", names.join(", "));
        return Err(Failure::new(Exit::Failed, anyhow!("the cluster has no node {name}")).hint(hint));
    };
    let base = if node.id == state.node_id { Some(admin) } else { node.admin.as_deref() };
    let Some(base) = base else {
        return Ok(silent(node, &state.node_name, "its admin address is not known"));
    };
    match http::ask(Method::Get, base, "/v1/why", None).await {
        Err(Failure { exit: Exit::Unreachable, error: Some(error), .. }) => {
            Ok(silent(node, &state.node_name, &format!("{error:#}")))
        }
        answer => answer,
    }
}

/// What is known of a node that cannot be asked.
fn silent(node: &NodeStatus, asked: &str, problem: &str) -> Why {
    let (state, hint) = match node.state {
        NodeState::Live => (
            "control counts it as running",
            "mend the network between here and its admin listener, or ask on its own machine",
        ),
        NodeState::Down => (
            "control has declared it down",
            "start it; quorate events on another node tells since when; docs/operations/replace-node.md if it is lost",
        ),
    };
    let message = format!("{} cannot be asked ({problem}); {asked} says that {state}.", node.name);
    let finding = Diagnosis { code: "unreachable".to_owned(), message, hint: hint.to_owned() };
    Why { node: node.name.clone(), ready: false, findings: vec![finding] }
}

/// Runs `explain group`.
pub async fn group(args: GroupArgs) -> Outcome {
    let path = format!("/v1/groups/{}", args.group);
    let explanation: GroupExplanation = http::ask(Method::Get, &args.asked.admin, &path, None).await?;
    match args.asked.output {
        Output::Json => output::print_json(&explanation)?,
        Output::Text => output::print(&render_group(&explanation))?,
    }
    Ok(())
}

fn render_node(why: &Why) -> String {
    let ready = if why.ready { "ready" } else { "not ready" };
    format!("node {}: {ready}\n\n{}", why.node, findings(&why.findings))
}

/// One line for each finding, and its hint below.
pub fn findings(findings: &[Diagnosis]) -> String {
    let lines = findings
        .iter()
        .map(|finding| format!("{}: {}\n  hint: {}\n", finding.code, finding.message, finding.hint));
    lines.collect()
}

fn render_group(explanation: &GroupExplanation) -> String {
    let mut text = format!(
        "group {}: leader {}, term {}, voters {}\n\n",
        explanation.group,
        explanation.leader.as_deref().unwrap_or("unknown"),
        thousands(explanation.term),
        explanation.voters.join(", "),
    );
    if !explanation.replicas.is_empty() {
        let mut table = Table::new(&["REPLICA", ">MATCHED", ">LAG", "LINK", "SNAPSHOT"]);
        for replica in &explanation.replicas {
            table.row(vec![
                replica.node.clone(),
                thousands(replica.matched),
                thousands(replica.lag),
                if replica.active { "up" } else { "down" }.to_owned(),
                if replica.snapshot { "underway" } else { "" }.to_owned(),
            ]);
        }
        text.push_str(&table.render());
        text.push('\n');
    }
    text.push_str(&findings(&explanation.findings));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_api::GroupReplica;

    #[test]
    fn text_has_each_finding_with_its_hint() {
        let node = NodeStatus { name: "n3".to_owned(), ..NodeStatus::default() };
        let text = render_node(&silent(&node, "n1", "no answer within 5 s"));
        for part in [
            "node n3: not ready",
            "unreachable: n3 cannot be asked (no answer",
            "declared it down",
            "  hint: start it",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn group_shows_its_replicas_when_the_leader_answers() {
        let replica =
            GroupReplica { node: "n2".to_owned(), lag: 1234, active: true, ..GroupReplica::default() };
        let mut explanation = GroupExplanation {
            group: 3,
            voters: vec!["n1".to_owned(), "n2".to_owned()],
            replicas: vec![replica],
            ..GroupExplanation::default()
        };
        let text = render_group(&explanation);
        assert!(text.contains("group 3: leader unknown") && text.contains("1,234"), "{text}");
        explanation.replicas.clear();
        assert!(!render_group(&explanation).contains("REPLICA"));
    }
}
