//! `quorate cluster`: takes nodes out of service, moves leadership, restarts node after node, lets nodes come and go, puts new
//! formats into use.
//!
//! Owns: the subcommands and their answers. Does not: decide; the cluster does. The steps of a rolling restart: see
//! `rolling`.
//! Invariants: nothing is changed by a dry run.

mod membership;
mod progress;
mod rolling;
mod view;

use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_api::duty::{
    DrainAnswer, DrainRequest, DrainState, Duty, Handover, LevelState, TransferAnswer, TransferRequest,
};
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::http::{self, Method, percent_encoded};
use crate::output::{self, Output};
use crate::table::Table;

/// Flags of `quorate cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
    /// Admin address of any node
    #[arg(long, global = true, value_name = "URL", default_value = "http://127.0.0.1:9883")]
    admin: String,
    /// Form of the answer
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Subcommand, Debug)]
enum ClusterCommand {
    /// Take a node out of service: no new clients, no leadership; clients go elsewhere after the grace
    Drain(DrainArgs),
    /// Put a node back into service
    Undrain {
        /// Node name
        node: String,
    },
    /// Show whether a node is out of service, and what rests on it still
    DrainStatus {
        /// Node name
        node: String,
    },
    /// Move leadership of all groups away from a node, which leads nothing from then on
    Transfer(TransferArgs),
    /// Restart node after node, with a check before and after each step
    RollingRestart(rolling::RollingArgs),
    /// Show the members, where replicas are, and what is on the way
    Members,
    /// Say what a new node needs to join, check its configuration, and wait until it has its part
    Join(membership::JoinArgs),
    /// Take a member out for good: its replicas go to other nodes first
    Remove(membership::RemoveArgs),
    /// Take a member out for good, as soon as another node has come for it
    Replace(membership::ReplaceArgs),
    /// Show the level in use and what the nodes' programs speak
    Level,
    /// Put the highest level into use that all nodes speak: there is no way back to older programs
    Finalize {
        /// Change nothing; say what would happen
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args, Debug)]
struct DrainArgs {
    /// Node name
    node: String,
    /// How long client connections may stay
    #[arg(long, value_name = "TIME", value_parser = crate::duration::parse, default_value = "10s")]
    grace: Duration,
    /// Change nothing; say what would happen
    #[arg(long)]
    dry_run: bool,
    /// Wait until nothing rests on the node
    #[arg(long)]
    wait: bool,
}

#[derive(Args, Debug)]
struct TransferArgs {
    /// The node that is to lead nothing
    #[arg(long, value_name = "NODE", conflicts_with = "to", required_unless_present = "to")]
    from: Option<String>,
    /// The node that may lead groups again
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Change nothing; say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub async fn run(args: ClusterArgs) -> Outcome {
    let ClusterArgs { command, admin, output } = args;
    match command {
        ClusterCommand::Drain(args) => drain(&admin, output, args).await,
        ClusterCommand::Undrain { node } => {
            let state: DrainState = http::ask(Method::Delete, &admin, &drain_path(&node), None).await?;
            show(output, &state, state_text(&state))
        }
        ClusterCommand::DrainStatus { node } => {
            let state = rolling::drain_state(&admin, &node).await?;
            show(output, &state, state_text(&state))
        }
        ClusterCommand::Transfer(args) => transfer(&admin, output, args).await,
        ClusterCommand::RollingRestart(args) => rolling::run(&admin, output, args).await,
        ClusterCommand::Members => membership::members(&admin, output).await,
        ClusterCommand::Join(args) => membership::join(&admin, output, args).await,
        ClusterCommand::Remove(args) => membership::remove(&admin, output, args).await,
        ClusterCommand::Replace(args) => membership::replace(&admin, output, args).await,
        ClusterCommand::Level => {
            let level: LevelState = http::ask(Method::Get, &admin, "/v1/cluster/level", None).await?;
            show(output, &level, level_text(&level))
        }
        ClusterCommand::Finalize { dry_run } => finalize(&admin, output, dry_run).await,
    }
}

async fn drain(admin: &str, output: Output, args: DrainArgs) -> Outcome {
    let request = DrainRequest { dry_run: args.dry_run, grace_s: seconds(args.grace) };
    let answer: DrainAnswer = post(admin, &drain_path(&args.node), &request).await?;
    show(output, &answer, drain_text(&answer))?;
    if args.dry_run && !answer.blockers.is_empty() {
        return Err(Failure::silent(Exit::Failed));
    }
    if args.wait && !args.dry_run {
        rolling::wait_until_quiescent(admin, &args.node, args.grace).await?;
        eprintln!("nothing rests on {} any more", args.node);
    }
    Ok(())
}

async fn transfer(admin: &str, output: Output, args: TransferArgs) -> Outcome {
    if let Some(node) = &args.to {
        let path = transfer_path(node);
        let state: DrainState = http::ask(Method::Delete, admin, &path, None).await?;
        return show(output, &state, state_text(&state));
    }
    let node = args.from.unwrap_or_default();
    let request = TransferRequest { dry_run: args.dry_run };
    let answer: TransferAnswer = post(admin, &transfer_path(&node), &request).await?;
    show(output, &answer, transfer_text(&answer))?;
    if answer.left.is_empty() {
        return Ok(());
    }
    Err(Failure::silent(Exit::Failed).hint("ask again; the node leads nothing new meanwhile"))
}

async fn finalize(admin: &str, output: Output, dry_run: bool) -> Outcome {
    let level: LevelState = if dry_run {
        http::ask(Method::Get, admin, "/v1/cluster/level", None).await?
    } else {
        http::ask(Method::Post, admin, "/v1/cluster/finalize", None).await?
    };
    show(output, &level, level_text(&level))
}

/// POST of a request as JSON.
async fn post<T: serde::de::DeserializeOwned>(
    admin: &str,
    path: &str,
    request: &impl Serialize,
) -> Outcome<T> {
    let body = serde_json::to_string(request).map_err(anyhow::Error::from)?;
    http::ask(Method::Post, admin, path, Some(&body)).await
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn drain_path(node: &str) -> String {
    format!("/v1/nodes/{}/drain", percent_encoded(node))
}

fn transfer_path(node: &str) -> String {
    format!("/v1/nodes/{}/transfer", percent_encoded(node))
}

fn show(output: Output, value: &impl Serialize, text: String) -> Outcome {
    match output {
        Output::Json => output::print_json(value)?,
        Output::Text => output::print(&text)?,
    }
    Ok(())
}

fn list<T: ToString>(all: &[T]) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn state_text(state: &DrainState) -> String {
    let duty = match state.duty {
        Duty::Full => "in service".to_owned(),
        Duty::Follow => "in service, leads nothing".to_owned(),
        Duty::Drain => format!("out of service for {} s", state.since_ms / 1000),
    };
    let connections = state.connections.map_or_else(|| "?".to_owned(), |count| count.to_string());
    format!("{}: {duty}; client connections {connections}; leads groups {}\n", state.node, list(&state.leads))
}

fn drain_text(answer: &DrainAnswer) -> String {
    let mut text = match (answer.dry_run, answer.blockers.is_empty()) {
        (true, true) => format!("{} can be taken out of service\n", answer.node),
        (true, false) => format!("{} cannot be taken out of service\n", answer.node),
        (false, _) => format!("{} is taken out of service\n", answer.node),
    };
    for blocker in &answer.blockers {
        text.push_str(&format!("  {}; {}\n", blocker.message, blocker.hint));
    }
    if let Some(connections) = answer.would.connections {
        text.push_str(&format!("  client connections that go elsewhere: {connections}\n"));
    }
    text.push_str(&handovers_text(&answer.would.targets));
    text
}

fn transfer_text(answer: &TransferAnswer) -> String {
    let mut text = match (answer.dry_run, answer.left.is_empty()) {
        (true, _) => format!("{} would lead nothing\n", answer.node),
        (false, true) => format!("{} leads nothing\n", answer.node),
        (false, false) => format!("{} leads groups still\n", answer.node),
    };
    text.push_str(&handovers_text(&answer.moved));
    for left in &answer.left {
        text.push_str(&format!("  group {} stays: {}\n", left.group, left.reason));
    }
    text
}

fn handovers_text(all: &[Handover]) -> String {
    let line =
        |one: &Handover| format!("  group {} to {}\n", one.group, one.to.as_deref().unwrap_or("nobody"));
    all.iter().map(line).collect()
}

fn level_text(level: &LevelState) -> String {
    let mut table = Table::new(&["NODE", "VERSION", ">SPEAKS LEVEL"]);
    for node in &level.supported {
        table.row(vec![node.node.clone(), node.version.clone(), node.level.to_string()]);
    }
    let mut text = format!("level in use: {}\n{}", level.level, table.render());
    for blocker in &level.blockers {
        text.push_str(&format!("{}\n", blocker.message));
    }
    if level.can_finalize {
        text.push_str("a higher level can be put into use: quorate cluster finalize\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_in_words_what_happened() {
        let state = DrainState {
            node: "n2".to_owned(),
            duty: Duty::Drain,
            draining: true,
            since_ms: 4200,
            connections: Some(3),
            leads: vec![1, 4],
            ..DrainState::default()
        };
        let text = state_text(&state);
        assert_eq!(text, "n2: out of service for 4 s; client connections 3; leads groups 1, 4\n");
        let to = Some("n3".to_owned());
        let answer = TransferAnswer {
            node: "n2".to_owned(),
            dry_run: false,
            moved: vec![Handover { group: 1, to }],
            left: Vec::new(),
        };
        assert_eq!(transfer_text(&answer), "n2 leads nothing\n  group 1 to n3\n");
    }
}
