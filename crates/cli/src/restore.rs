//! `quorate restore`: puts a backup into the empty data folder of a first node, or says what is in it.
//!
//! Owns: the flags, the words of the report. Does not: read or write anything itself; the server library does, and its exit
//! codes are passed on. See: docs/operations/backup.md.

use std::path::PathBuf;

use clap::Args;
use quorate_server::backup::restore::restore;
use quorate_server::backup::restored;
use quorate_server::backup::verify::{Summary, VerifyError, verify};
use quorate_server::config::{self, Config};
use quorate_server::exit::ExitCode;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{self, Output};
use crate::table;
use crate::utc::utc;

/// Flags of `quorate restore`.
#[derive(Args, Debug)]
#[command(after_help = "\
Run it on each of the first nodes of the new cluster, with an empty data folder and the same file, before any of them starts; then
start them all. Stop the old cluster for good before. The steps are in docs/operations/backup.md.

Exit codes of restore, as of serve:
  0   done
  65  the backup is damaged, not whole, or not a backup
  69  the file or the data folder cannot be used, the folder is not empty, or the program is too old for the backup
  74  reading the file or writing to the disk failed
  78  the configuration is wrong or does not fit the backup")]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Configuration file of the node
    #[arg(long, value_name = "FILE", required_unless_present = "check")]
    config: Option<PathBuf>,
    /// Only say whether the backup is whole, and what is in it; with --config, also whether it fits
    #[arg(long)]
    check: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub fn run(args: RestoreArgs) -> Outcome {
    let config = match &args.config {
        Some(file) => Some(config::load(file).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            Failure::new(Exit::Daemon(ExitCode::Config), anyhow::Error::msg(lines.join("\n")))
        })?),
        None => None,
    };
    let summary = match &config {
        Some(config) if !args.check => {
            restore(&args.file, config).map_err(|error| refused(error.exit_code(), error))?
        }
        _ => check(&args, config.as_ref())?,
    };
    let report = Report { restored: !args.check, summary };
    match args.output {
        Output::Json => output::print_json(&report)?,
        Output::Text => output::print(&report.text())?,
    }
    if let Some(config) = config.filter(|_| !args.check) {
        let next = match config.cluster.bootstrap.len() {
            0 | 1 => "start the node",
            _ => "restore the other first nodes from the same file, then start all of them",
        };
        eprintln!("restored into {}: {next}", config.node.data_dir.display());
    }
    Ok(())
}

fn check(args: &RestoreArgs, config: Option<&Config>) -> Outcome<Summary> {
    let (head, summary) =
        verify(&args.file).map_err(|error: VerifyError| refused(error.exit_code(), error))?;
    if let Some(config) = config {
        restored::settings_for(config, &head.backup, &head.settings)
            .map_err(|error| refused(error.exit_code(), error))?;
    }
    Ok(summary)
}

fn refused(code: ExitCode, error: impl Into<anyhow::Error>) -> Failure {
    let failure = Failure::new(Exit::Daemon(code), error);
    match code {
        ExitCode::Corrupt => {
            failure.hint("`quorate restore FILE --check` says whether another copy is whole")
        }
        ExitCode::Config => failure.hint("correct the configuration of this node, and run it again"),
        ExitCode::Unavailable => failure.hint("docs/operations/backup.md says what a restore needs"),
        ExitCode::Clean | ExitCode::Internal | ExitCode::Disk | ExitCode::Removed => failure,
    }
}

/// What was found, and whether it is in place.
#[derive(Serialize)]
struct Report {
    restored: bool,
    #[serde(flatten)]
    summary: Summary,
}

impl Report {
    fn text(&self) -> String {
        let of = &self.summary;
        let number = table::thousands;
        let lines = [
            ("backup", of.backup.clone()),
            ("cluster", format!("{}, {}", of.cluster, of.cluster_id)),
            ("taken", format!("{}, by the clock of the node that took it", utc(of.taken_at_unix_ms))),
            ("program", format!("{}, level {}", of.program, of.level)),
            ("partitions", number(u64::from(of.partitions))),
            (
                "sessions",
                format!("{}, of these {} connected", number(of.sessions), number(of.sessions_online)),
            ),
            ("subscriptions", number(of.subscriptions)),
            ("queued messages", format!("{}, {}", number(of.queued_messages), table::bytes(of.queued_bytes))),
            ("inflight", number(of.inflight)),
            ("retained", number(of.retained)),
            ("wills due", number(of.wills_due)),
            ("share groups", number(of.share_groups)),
            (
                "file",
                format!(
                    "{}, {} bodies, {} records",
                    table::bytes(of.bytes),
                    number(of.bodies),
                    number(of.records)
                ),
            ),
        ];
        lines.into_iter().map(|(name, value)| format!("{name:<16}{value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let summary = Summary {
            backup: "00000000000000aa".to_owned(),
            cluster: "plant".to_owned(),
            sessions: 12_000,
            incarnation: 7,
            ..Summary::default()
        };
        Report { restored: false, summary }
    }

    #[test]
    fn report_names_what_is_in_the_file() {
        let text = report().text();
        assert!(text.contains("\nsessions        12,000, of these 0 connected\n"), "{text}");
        assert!(text.starts_with("backup          00000000000000aa\n"), "{text}");
    }

    #[test]
    fn report_as_json_is_flat_and_without_what_only_a_restore_needs() {
        let json: serde_json::Value = serde_json::to_value(report()).unwrap();
        assert_eq!((&json["restored"], &json["sessions"]), (&false.into(), &12_000.into()));
        assert!(json.get("incarnation").is_none(), "{json}");
    }
}
