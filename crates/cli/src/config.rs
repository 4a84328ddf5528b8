//! `quorate config`: what can be said of a configuration without starting a node.
//!
//! Owns: printing every error with its place. Does not: parse; the server does, and starts by the same rules. The
//! configuration of load balancers is in `front_door`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use quorate_server::config::ConfigError;
use serde::Serialize;

use crate::exit::{Exit, Failure, Outcome};
use crate::front_door;
use crate::output::{self, Output};

/// Flags of `quorate config`.
#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Check a configuration file and print every error with its place
    Check {
        /// The file
        #[arg(long, value_name = "FILE", default_value = "quorate.toml")]
        config: PathBuf,
        /// Form of the answer
        #[arg(long, value_enum, default_value_t)]
        output: Output,
    },
    /// Print the configuration of a load balancer in front of the cluster
    FrontDoor(Box<front_door::FrontDoorArgs>),
}

/// Runs the command.
pub fn run(args: ConfigArgs) -> Outcome {
    let (config, form) = match args.command {
        ConfigCommand::Check { config, output } => (config, output),
        ConfigCommand::FrontDoor(args) => return crate::block_on(front_door::run(*args)),
    };
    let loaded = quorate_server::config::load(&config);
    if form == Output::Json {
        let errors = loaded.err().unwrap_or_default();
        output::print_json(&Checked::of(&config, &errors))?;
        return if errors.is_empty() { Ok(()) } else { Err(Failure::silent(Exit::Usage)) };
    }
    match loaded {
        Ok(_) => Ok(output::print(&format!("{}: no errors\n", config.display()))?),
        Err(errors) => {
            for error in &errors {
                eprintln!("{error}");
            }
            Err(Failure::new(Exit::Usage, anyhow!("{}: {} found", config.display(), counted(errors.len())))
                .hint("each line above says what to write instead; docs/configuration.md has all keys"))
        }
    }
}

/// The answer as JSON.
#[derive(Serialize)]
struct Checked<'a> {
    file: Cow<'a, str>,
    errors: Vec<Wrong<'a>>,
}

/// An error with its place; line 0 when the file could not be read at all.
#[derive(Serialize)]
struct Wrong<'a> {
    line: usize,
    column: usize,
    message: &'a str,
    hint: &'a str,
}

impl<'a> Checked<'a> {
    fn of(file: &'a Path, errors: &'a [ConfigError]) -> Checked<'a> {
        let wrong = errors.iter().map(|ConfigError { line, column, message, hint, .. }| Wrong {
            line: *line,
            column: *column,
            message,
            hint,
        });
        Checked { file: file.to_string_lossy(), errors: wrong.collect() }
    }
}

fn counted(errors: usize) -> String {
    if errors == 1 { "1 error".to_owned() } else { format!("{errors} errors") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_as_json_have_their_place() {
        let file = Path::new("q.toml");
        let errors = quorate_server::config::parse(file, "[node]\nnmae = 1\n").unwrap_err();
        let text = serde_json::to_string(&Checked::of(file, &errors)).unwrap();
        assert!(text.starts_with(r#"{"file":"q.toml","errors":[{"line":2,"column":1,"message":""#), "{text}");
        assert_eq!(
            serde_json::to_string(&Checked::of(file, &[])).unwrap(),
            r#"{"file":"q.toml","errors":[]}"#
        );
    }
}
