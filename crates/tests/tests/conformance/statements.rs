//! The normative statements of both versions, by identifier, and which of them need no test.
//!
//! Owns: reading the lists beside this file. Does not: hold the text of the specification; the words are ours, to
//! recognise a statement by.
//! Invariants: each identifier once per version; only what binds a server needs a test or a reason.

use anyhow::{Context, Result, bail, ensure};

use crate::packet::Version;

/// Whom a statement binds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Binds {
    /// The server.
    Server,
    /// The client alone.
    Client,
    /// Both, or whoever sends or receives.
    Both,
}

impl Binds {
    /// As it is written in the lists.
    pub fn word(self) -> &'static str {
        match self {
            Binds::Server => "server",
            Binds::Client => "client",
            Binds::Both => "both",
        }
    }
}

/// One statement.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Identifier without `MQTT-`.
    pub id: &'static str,
    /// Whom it binds.
    pub binds: Binds,
    /// A few words of ours.
    pub words: &'static str,
    /// Why there is no test.
    pub exempt: Option<&'static str>,
}

/// All statements of a version, in the order of the specification.
///
/// # Errors
/// When a line of the list has another form, or an identifier is there twice.
pub fn statements(version: Version) -> Result<Vec<Statement>> {
    let list = match version {
        Version::V5 => include_str!("statements-5.0.txt"),
        Version::V4 => include_str!("statements-3.1.1.txt"),
        Version::V31 => "",
    };
    let mut statements: Vec<Statement> = Vec::new();
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let statement =
            parse(line).with_context(|| format!("statement list of {}: {line}", version.name()))?;
        ensure!(statements.iter().all(|other| other.id != statement.id), "{} is there twice", statement.id);
        statements.push(statement);
    }
    Ok(statements)
}

fn parse(line: &'static str) -> Result<Statement> {
    let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
    let (&[id, binds, words], exempt) =
        (fields.first_chunk().context("three or four fields")?, fields.get(3));
    ensure!(fields.len() <= 4, "three or four fields");
    let binds = match binds {
        "server" => Binds::Server,
        "client" => Binds::Client,
        "both" => Binds::Both,
        other => bail!("{other:?} is neither server, client nor both"),
    };
    Ok(Statement { id, binds, words, exempt: exempt.copied() })
}
