//! What the table says: which statements have a test, and what came of it.
//!
//! Owns: the check that nothing is missing, the counts, docs/conformance.md. Does not: run cases.
//! Invariants: every statement that binds a server has a case or a reason, and no case names one that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::case::Case;
use crate::packet::Version;
use crate::statements::{Binds, Statement, statements};

/// Versions with statements.
pub const VERSIONS: [Version; 2] = [Version::V5, Version::V4];

/// Names of the cases that failed, by version.
pub type Failed = BTreeSet<(Version, &'static str)>;

/// Statements and cases side by side.
pub struct Table {
    statements: BTreeMap<Version, Vec<Statement>>,
    cases: BTreeMap<(Version, &'static str), Vec<&'static str>>,
    all: Vec<&'static Case>,
}

impl Table {
    /// Joins the lists with the cases.
    ///
    /// # Errors
    /// When a list cannot be read.
    pub fn new(all: &[&'static Case]) -> Result<Table> {
        let mut table = Table { statements: BTreeMap::new(), cases: BTreeMap::new(), all: all.to_vec() };
        for version in VERSIONS {
            table.statements.insert(version, statements(version)?);
            for case in all {
                for id in case.statements(version) {
                    table.cases.entry((version, *id)).or_default().push(case.name);
                }
            }
        }
        Ok(table)
    }

    fn cases_of(&self, version: Version, id: &'static str) -> &[&'static str] {
        self.cases.get(&(version, id)).map_or(&[], Vec::as_slice)
    }

    /// What is wrong with the table itself.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        faults.extend(
            self.all
                .iter()
                .filter(|case| !names.insert(case.name))
                .map(|case| format!("case {} is there twice", case.name)),
        );
        for (version, id) in self.cases.keys() {
            if !self.statements[version].iter().any(|statement| statement.id == *id) {
                faults.push(format!("{} has no statement [MQTT-{id}]", version.name()));
            }
        }
        for case in &self.all {
            for version in VERSIONS {
                if !case.statements(version).is_empty() && !case.versions.contains(&version) {
                    faults.push(format!(
                        "{} names statements of {} and does not run in it",
                        case.name,
                        version.name()
                    ));
                }
            }
        }
        for (version, statements) in &self.statements {
            for statement in statements {
                let tested = !self.cases_of(*version, statement.id).is_empty();
                let name = format!("{} [MQTT-{}]", version.name(), statement.id);
                match (tested, statement.exempt.is_some(), statement.binds) {
                    (false, false, Binds::Server | Binds::Both) => {
                        faults.push(format!("{name} has neither a case nor a reason"))
                    }
                    (true, true, _) => faults.push(format!("{name} has a case and a reason for having none")),
                    _ => {}
                }
            }
        }
        faults
    }

    /// The counts of a version, for people.
    pub fn counts(&self, version: Version, failed: &Failed) -> String {
        let of_server: Vec<&Statement> =
            self.statements[&version].iter().filter(|statement| statement.binds != Binds::Client).collect();
        let tested =
            of_server.iter().filter(|statement| !self.cases_of(version, statement.id).is_empty()).count();
        let exempt = of_server.iter().filter(|statement| statement.exempt.is_some()).count();
        let bad = of_server.iter().filter(|statement| self.has_failed(version, statement.id, failed)).count();
        let cases = self.all.iter().filter(|case| case.versions.contains(&version)).count();
        format!(
            "MQTT {}: {} statements, {} of them bind the server: {tested} tested, {exempt} exempted with a reason, \
             {} missing, {bad} failed; {cases} cases",
            version.name(),
            self.statements[&version].len(),
            of_server.len(),
            of_server.len() - tested - exempt,
        )
    }

    fn has_failed(&self, version: Version, id: &'static str, failed: &Failed) -> bool {
        self.cases_of(version, id).iter().any(|name| failed.contains(&(version, name)))
    }

    /// docs/conformance.md.
    pub fn document(&self, failed: &Failed) -> String {
        let mut page = String::from(HEAD);
        for version in VERSIONS {
            let _ = write!(page, "\n## MQTT {}\n{}.\n\n", version.name(), self.counts(version, failed));
            page.push_str("| statement | binds | what | tests | result |\n|---|---|---|---|---|\n");
            for statement in &self.statements[&version] {
                let cases = self.cases_of(version, statement.id);
                let bad: Vec<&str> =
                    cases.iter().copied().filter(|name| failed.contains(&(version, *name))).collect();
                let (tests, result) = match statement.exempt {
                    _ if !bad.is_empty() => (cases.join(", "), format!("FAILED: {}", bad.join(", "))),
                    _ if !cases.is_empty() => (cases.join(", "), "passed".to_owned()),
                    Some(reason) => (reason.to_owned(), "exempt".to_owned()),
                    None => ("binds the client only".to_owned(), "–".to_owned()),
                };
                let Statement { id, binds, words, .. } = statement;
                let _ = writeln!(page, "| MQTT-{id} | {} | {words} | {tests} | {result} |", binds.word());
            }
        }
        let _ = write!(page, "\n## Cases without a statement\n");
        page.push_str(
            "Rules that the specification states without an identifier, and clients of MQTT 3.1.\n\n",
        );
        page.push_str("| case | versions | result |\n|---|---|---|\n");
        for case in self.all.iter().filter(|case| case.v5.is_empty() && case.v4.is_empty()) {
            let versions: Vec<&str> = case.versions.iter().map(|version| version.name()).collect();
            let bad = case.versions.iter().any(|version| failed.contains(&(*version, case.name)));
            let _ = writeln!(
                page,
                "| {} | {} | {} |",
                case.name,
                versions.join(", "),
                if bad { "FAILED" } else { "passed" }
            );
        }
        page
    }
}

const HEAD: &str = "\
# Conformance
Generated by `cargo xtask conformance --write`; do not edit. Each normative statement of the specifications that binds a
server has a test on bytes, or a reason why it has none. The tests are in `crates/tests/tests/conformance`, one file for
each chapter; `cargo xtask conformance` runs them on one node and on three, with the connections of a test on different
nodes. \"passed\" means on both. The words in the column \"what\" are a reminder, not the specification's text.
";

/// The page as it is committed.
///
/// # Errors
/// When it cannot be read.
pub fn committed() -> Result<String> {
    let path = path();
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// Writes the page.
///
/// # Errors
/// When it cannot be written.
pub fn write(page: &str) -> Result<()> {
    std::fs::write(path(), page).with_context(|| format!("write {}", path().display()))
}

/// That the committed page maps the same statements to the same tests; results may differ.
///
/// # Errors
/// With the first line that differs.
pub fn check_committed(page: &str, committed: &str) -> Result<()> {
    // Results are the last column; counts are in the only lines that name "cases".
    let mapping = |page: &str| -> Vec<String> {
        let lines = page.lines().filter(|line| !line.ends_with(" cases."));
        lines
            .map(|line| {
                line.trim_end_matches(" |").rsplit_once(" | ").map_or(line, |(rest, _)| rest).to_owned()
            })
            .collect()
    };
    let (now, then) = (mapping(page), mapping(committed));
    let differing = now.iter().zip(&then).find(|(now, then)| now != then).map(|(now, _)| now.as_str());
    ensure!(
        now == then,
        "docs/conformance.md is not up to date, run `cargo xtask conformance --write`; first at: {}",
        differing.unwrap_or("its end")
    );
    Ok(())
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md")
}
