//! `quorate`: the broker, its clients, its verifier and its operator commands in one program.
//!
//! Owns: the command line, the runtime of the client commands, the exit code.
//! Does not: contain a command; each has its file.
//! Invariants: a failure is printed once, on standard error, with a hint where there is one.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation))]

mod backup;
mod bench;
mod cert;
mod client;
mod cluster;
mod config;
mod dev;
mod doctor;
mod duration;
mod exit;
mod explain;
mod front_door;
mod http;
mod limits;
mod manual;
mod message_format;
mod mqtt_flags;
mod mqtt_property;
mod operate;
mod operator;
mod output;
mod publish;
mod queues;
mod restore;
mod retained;
mod serve;
mod sessions;
mod status;
mod subscribe;
mod subscriptions;
mod table;
mod terminal;
mod top;
mod trace;
mod utc;
mod verify;
mod watch;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use exit::{EXIT_CODES_HELP, Failure, Outcome};
use terminal::Tone;

/// Messages are freed on other threads than they were allocated on: see docs/decisions/0015-mimalloc-in-the-binary.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// MQTT broker cluster that loses nothing it has acknowledged.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, after_help = EXIT_CODES_HELP, max_term_width = 120)]
struct CommandLine {
    /// File with the token for admin listeners that ask for one; else the one that QUORATE_ADMIN_TOKEN_FILE names
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
    /// When output has colours
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    color: terminal::Color,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node
    Serve(serve::ServeArgs),
    /// Run a cluster on this machine, for development
    Dev(dev::DevArgs),
    /// Publish messages
    Pub(publish::PublishArgs),
    /// Subscribe and print messages
    Sub(subscribe::SubscribeArgs),
    /// Show nodes, groups, leaders, lag, sessions and backlog
    Status(status::StatusArgs),
    /// Show the cluster live: nodes, rates, longest queues, events
    Top(top::TopArgs),
    /// Say why things are as they are: a session, a node, a group
    Explain(explain::ExplainArgs),
    /// Show packets of a client or of a topic filter as they go through a node
    Trace(trace::TraceArgs),
    /// Show what happened lately on a node
    Events(operate::EventsArgs),
    /// Show or change what a node logs
    LogLevel(operate::LogLevelArgs),
    /// Have a node read its configuration again
    Reload(operate::ReloadArgs),
    /// Take nodes out of service, move leadership, restart node after node, finish an upgrade
    Cluster(cluster::ClusterArgs),
    /// Look for what keeps a node from working: configuration, disk, certificates, clock, limits, peers
    Doctor(doctor::DoctorArgs),
    /// Write the state of the whole cluster to a file
    Backup(backup::BackupArgs),
    /// Find sessions, show one, close its connection, end it
    Sessions(sessions::SessionsArgs),
    /// List who subscribes to what
    Subscriptions(subscriptions::SubscriptionsArgs),
    /// List, read and delete retained messages
    Retained(retained::RetainedArgs),
    /// Show the longest queues of the cluster
    Queues(queues::TopArgs),
    /// Show the clients that take or acknowledge too little
    SlowConsumers(queues::TopArgs),
    /// Put a backup into the empty data folder of a first node of a new cluster, or say what is in it
    Restore(restore::RestoreArgs),
    /// Check that a cluster keeps its promises while things happen to it
    Verify(verify::VerifyArgs),
    /// Measure throughput, latency and memory
    Bench(bench::BenchArgs),
    /// Check a configuration file, or make one of a load balancer
    Config(config::ConfigArgs),
    /// Make certificates for nodes, listeners and clients
    Cert(cert::CertArgs),
    /// Print completions for a shell
    Completions(manual::CompletionsArgs),
    /// Print or write man pages
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let CommandLine { token_file, color, command } = CommandLine::parse();
    color.choose();
    match http::use_token_file(token_file).and_then(|()| run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, error: Some(error), .. }) if error.is::<output::ReaderGone>() => exit.into(),
        Err(Failure { exit, error, hint }) => {
            let hint = hint.or_else(|| error.as_ref().and(exit.hint()).map(str::to_owned));
            if let Some(error) = error {
                anstream::eprintln!("{} {}", Tone::Bad.paint("error:"), whole_text(&error));
            }
            if let Some(hint) = hint {
                anstream::eprintln!("{} {hint}", Tone::Heading.paint("hint:"));
            }
            exit.into()
        }
    }
}

fn run(command: Command) -> Outcome {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Cert(args) => cert::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Pub(args) => block_on(publish::run(args)),
        Command::Sub(args) => block_on(subscribe::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Top(args) => block_on(top::run(args)),
        Command::Explain(args) => block_on(explain::run(args)),
        Command::Trace(args) => block_on(trace::run(args)),
        Command::Events(args) => block_on(operate::events(args)),
        Command::LogLevel(args) => block_on(operate::log_level(args)),
        Command::Reload(args) => block_on(operate::reload(args)),
        Command::Cluster(args) => block_on(cluster::run(args)),
        Command::Doctor(args) => block_on(doctor::run(args)),
        Command::Backup(args) => block_on(backup::run(args)),
        Command::Sessions(args) => block_on(sessions::run(args)),
        Command::Subscriptions(args) => block_on(subscriptions::run(args)),
        Command::Retained(args) => block_on(retained::run(args)),
        Command::Queues(args) => block_on(queues::run(args)),
        Command::SlowConsumers(args) => block_on(queues::run_slow(args)),
        Command::Verify(args) => block_on(verify::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
    }
}

/// An error with its causes, each said once: some errors name their cause themselves, or repeat what they were made for.
fn whole_text(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        match parts.last_mut() {
            Some(last) if last.ends_with(&cause) => {}
            Some(last) if cause.starts_with(last.as_str()) => *last = cause,
            _ => parts.push(cause),
        }
    }
    parts.join(": ")
}

/// Runs a command to its end on a runtime of its own.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(command);
    // A thread may wait for standard input: do not wait for it.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn an_error_names_each_cause_once() {
        let said = std::io::Error::other("address in use");
        let error = anyhow::Error::new(said).context("listen on port 1: address in use").context("start");
        assert_eq!(whole_text(&error), "start: listen on port 1: address in use");
        let error = anyhow::Error::new(std::io::Error::other("no space")).context("write FILE");
        assert_eq!(whole_text(&error), "write FILE: no space");
        let repeated =
            anyhow::Error::msg("refused").context("connect to a:1: refused").context("connect to a:1");
        assert_eq!(whole_text(&repeated), "connect to a:1: refused");
    }

    #[test]
    fn flags_of_mosquitto_are_understood() {
        for line in [
            "pub -h localhost -p 1883 -t a -m hello -q 1 -r -i me -c -V mqttv5 -u user -P secret -k 30",
            "pub -t a -n",
            "pub -t a -l",
            "pub -t a -s",
            "pub -t a -f /dev/null -d --quiet",
            "pub -t a -m -1 -D publish user-property a b",
            "pub -L mqtt://localhost/a -m x --repeat 3 --repeat-delay 0.1",
            "pub -t a -m x --will-topic gone --will-payload bye --will-qos 1 --will-retain",
            "sub -h localhost -p 1883 -t a/# -t b/+ -q 1 -v -i me -c -C 5 -W 10 -x 60",
            "sub -t a -F %t -N -R -E -T b -U c --retained-only --remove-retained",
            "sub -L mqtt://localhost/a",
            "restore backup --check",
            "restore backup --config quorate.toml --output json",
        ] {
            let words = std::iter::once("quorate").chain(line.split(' '));
            if let Err(error) = CommandLine::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "pub -m x",
            "pub -t a",
            "pub -t a -m x -n",
            "sub",
            "sub -t a -v -F %p",
            "bench",
            "explain",
            "explain session",
            "bench sideways",
            "sessions",
            "sessions list --online --offline",
            "sessions purge",
            "queues --top 101",
            "retained get",
            "restore",
            "restore backup",
        ] {
            let words = std::iter::once("quorate").chain(line.split(' '));
            assert!(CommandLine::try_parse_from(words).is_err(), "{line}");
        }
    }
}
