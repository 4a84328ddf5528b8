//! What commands about clients and nodes share: the address to ask, queries, and leave for what cannot be undone.
//!
//! Owns: the flags `--admin`, `--output` and `--yes`, the question on the terminal. Does not: send, or know the answers.
//! Invariants: nothing that destroys is sent before somebody has agreed to it.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::Context;
use clap::Args;

use crate::exit::{Exit, Failure, Outcome};
use crate::http;
use crate::output::Output;

/// Whom to ask, and how to show the answer.
#[derive(Args, Clone, Debug)]
pub struct AdminArgs {
    /// Admin address of any node
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9883")]
    pub admin: String,
    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

/// Leave for what cannot be undone.
#[derive(Args, Clone, Copy, Debug)]
pub struct LeaveArgs {
    /// Do it without asking; needed where there is no terminal to ask on
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Asks on the terminal whether something is to be done, unless `--yes` says so.
pub fn agree(leave: LeaveArgs, what: &str) -> Outcome {
    if leave.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{what}: there is no terminal to ask on"))
            .hint("add --yes to do it without being asked"));
    }
    eprint!("{what}? [y/N] ");
    std::io::stderr().flush().context("write to standard error")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read from standard input")?;
    if agrees(&answer) {
        Ok(())
    } else {
        eprintln!("nothing was done");
        Err(Failure::silent(Exit::Failed))
    }
}

fn agrees(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// A query of a URL, put together part by part.
#[derive(Clone, Debug)]
pub struct Query(String);

impl Query {
    /// The path that it belongs to.
    pub fn new(path: &str) -> Query {
        Query(path.to_owned())
    }

    /// Adds a parameter, when there is a value.
    pub fn with(mut self, name: &str, value: Option<impl ToString>) -> Query {
        if let Some(value) = value {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            self.0.push_str(name);
            self.0.push('=');
            self.0.push_str(&http::percent_encoded(&value.to_string()));
        }
        self
    }

    /// Path and query.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says on standard error what is missing in an answer.
pub fn warn_incomplete(groups: &[u32], complete: bool) {
    if !groups.is_empty() {
        eprintln!("warning: what groups {groups:?} have is missing: no node with a replica answers");
    } else if !complete {
        eprintln!(
            "warning: not everything was looked at: there is too much of it, or a node does not answer"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_has_only_what_is_given_and_nothing_with_a_meaning() {
        let query = Query::new("/v1/x").with("a", Some("p/#&=")).with("b", None::<&str>).with("c", Some(3));
        assert_eq!(query.as_str(), "/v1/x?a=p%2F%23%26%3D&c=3");
    }

    #[test]
    fn only_a_clear_yes_is_leave() {
        for (answer, agreed) in
            [("y\n", true), ("YES\n", true), ("\n", false), ("", false), ("n", false), ("yeah", false)]
        {
            assert_eq!(agrees(answer), agreed, "{answer:?}");
        }
    }
}
