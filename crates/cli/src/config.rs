//! `quorate config`: what can be said of a configuration without starting a node.
//!
//! Owns: printing every error with its place. Does not: parse; the server does, and starts by the same rules. The
//! configuration of load balancers is in `front_door`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::exit::{Exit, Failure, Outcome};
use crate::{front_door, output};

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
    },
    /// Print the configuration of a load balancer in front of the cluster
    FrontDoor(Box<front_door::FrontDoorArgs>),
}

/// Runs the command.
pub fn run(args: ConfigArgs) -> Outcome {
    let config = match args.command {
        ConfigCommand::Check { config } => config,
        ConfigCommand::FrontDoor(args) => return crate::block_on(front_door::run(*args)),
    };
    match quorate_server::config::load(&config) {
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

fn counted(errors: usize) -> String {
    if errors == 1 { "1 error".to_owned() } else { format!("{errors} errors") }
}
