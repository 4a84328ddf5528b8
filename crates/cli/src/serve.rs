//! `quorate serve`: one node in the foreground.
//!
//! Owns: the flags. Does not: run the node; the server library does, and its exit codes are passed on.

use std::path::PathBuf;

use clap::Args;
use quorate_server::{ServeOptions, serve};

use crate::exit::{Exit, Failure, Outcome};

/// Flags of `quorate serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Without a file: a single node with its data in ./quorate-data, MQTT on 127.0.0.1:1883, WebSocket on
127.0.0.1:8083, admin HTTP on 127.0.0.1:9883.

SIGTERM and SIGINT stop the node cleanly. SIGHUP has listeners read their certificates again; changed files are noticed
without it.

Exit codes of serve:
  0   stopped as asked
  65  log, checkpoint or identity is corrupt: the node must not go on with it
  69  a listener, a certificate or the data directory cannot be used, or another process holds it
  70  a defect of the program
  74  a write or sync to the disk failed; the log is verified at the next start
  78  the configuration is wrong")]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End as after SIGTERM when standard input closes
    #[arg(long, hide = true)]
    exit_with_parent: bool,
}

/// Runs the command until the node ends.
pub fn run(args: ServeArgs) -> Outcome {
    let options = ServeOptions { config: args.config, exit_when_stdin_closes: args.exit_with_parent };
    serve(options).map_err(|error| Failure::new(Exit::Daemon(error.exit_code()), error))
}
