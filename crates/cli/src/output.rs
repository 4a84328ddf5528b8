//! Standard output: data only, everything else goes to standard error.
//!
//! Owns: writing to standard output, and the choice between a text and JSON.
//! Does not: format; see `table`.
//! Invariants: a reader that went away (`quorate status | head -3`) ends the command without a word, exit code 1; colours are taken out where
//! `--color`, `NO_COLOR` or a pipe says so.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use serde::Serialize;

/// Form of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    #[value(name = "table", alias = "text")]
    Text,
    /// For programs: one JSON document
    Json,
}

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output any more")]
pub struct ReaderGone;

/// Writes `text`, which may have colours, to standard output and flushes it.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(write_failure)
}

/// Why standard output cannot be written; [`ReaderGone`] when its reader has had enough.
pub fn write_failure(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => anyhow::Error::new(error).context("write to standard output"),
    }
}

/// Writes `value` to standard output as one line of JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&json(value)?)
}

/// `value` as one line of JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<String> {
    let mut text = serde_json::to_string(value).context("format as JSON")?;
    text.push('\n');
    Ok(text)
}
