//! Runs clients that others wrote on a cluster of three real nodes and prints what works.
//!
//! Usage: `interop CLIENTS.json`; `cargo xtask interop` prepares the clients and calls it. The file is
//! a list of `{"name": …, "command": [program, argument, …]}`.
//! Owns: the cluster, the order of the runs, the table. Does not: install anything.
//! Invariants: every killed node is back and ready before the next feature begins.
//! See: docs/interop.md.
// A task runner talks to a person on standard output.
#![allow(clippy::print_stdout)]

mod driver;
mod features;

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use quorate_tests::Cluster;

use driver::{Driver, Program};
use features::{FEATURES, Feature, Run};

/// Versions of MQTT, as `hello` names them.
const VERSIONS: [&str; 2] = ["3.1.1", "5"];

/// How a feature went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Works,
    Failed(String),
    Unsupported,
}

/// A row of the table.
struct Row {
    client: String,
    mqtt: &'static str,
    verdicts: Vec<(&'static str, Verdict)>,
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<bool> {
    let programs = read_programs(arguments.first().context("usage: interop CLIENTS.json")?)?;
    let mut cluster = Cluster::start("interop", 3)?;
    let mut rows = Vec::new();
    for program in &programs {
        let hello = Driver::start(program, "version")?;
        for mqtt in VERSIONS.into_iter().filter(|mqtt| hello.can(mqtt)) {
            let client = format!("{} {}", program.name, hello.version());
            println!("-- {client}, MQTT {mqtt}");
            let mut row = Row { client, mqtt, verdicts: Vec::new() };
            for feature in &FEATURES {
                let verdict = verdict(feature, program, mqtt, &hello, &mut cluster)?;
                if let Verdict::Failed(why) = &verdict {
                    println!("   {}: FAILED: {why}", feature.name);
                }
                row.verdicts.push((feature.name, verdict));
            }
            rows.push(row);
        }
    }
    cluster.check_log()?;
    print!("{}", table(&rows));
    let mut verdicts = rows.iter().flat_map(|row| &row.verdicts);
    Ok(!verdicts.any(|(_, verdict)| matches!(verdict, Verdict::Failed(_))))
}

fn read_programs(file: &str) -> Result<Vec<Program>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&text).with_context(|| format!("{file} is no list"))?;
    let program = |entry: &serde_json::Value| {
        let name = entry.get("name").and_then(|name| name.as_str())?.to_owned();
        let words = entry.get("command").and_then(|command| command.as_array())?;
        let command = words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>()?;
        Some(Program { name, command })
    };
    let programs: Option<Vec<Program>> = list.iter().map(program).collect();
    let programs = programs.with_context(|| format!("{file}: name and command expected"))?;
    ensure!(!programs.is_empty(), "{file} names no client");
    Ok(programs)
}

fn verdict(
    feature: &Feature,
    program: &Program,
    mqtt: &str,
    hello: &Driver,
    cluster: &mut Cluster,
) -> Result<Verdict> {
    // `5` as a need means the version of this row, not only an ability.
    let needs_met = feature.needs.iter().all(|need| hello.can(need) && (*need != "5" || mqtt == "5"));
    if !needs_met {
        return Ok(Verdict::Unsupported);
    }
    let prefix = format!("{}-{}-{}", program.name, mqtt, feature.name);
    let mut run = Run { program, version: mqtt, prefix, cluster, killed: BTreeSet::new() };
    let result = feature.run(&mut run);
    run.restore().with_context(|| format!("bring the nodes back after {}", feature.name))?;
    Ok(match result {
        Ok(()) => Verdict::Works,
        Err(error) => Verdict::Failed(format!("{error:#}")),
    })
}

/// The table as Markdown, so that it can go into a document as it is.
fn table(rows: &[Row]) -> String {
    let mut text = String::from("\n| client | MQTT |");
    FEATURES.iter().for_each(|feature| text.push_str(&format!(" {} |", feature.name)));
    text.push_str("\n|---|---|");
    FEATURES.iter().for_each(|_| text.push_str("---|"));
    for row in rows {
        text.push_str(&format!("\n| {} | {} |", row.client, row.mqtt));
        for (_, verdict) in &row.verdicts {
            text.push_str(match verdict {
                Verdict::Works => " ok |",
                Verdict::Failed(_) => " FAILED |",
                Verdict::Unsupported => " – |",
            });
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::{FEATURES, Row, Verdict, table};

    #[test]
    fn table_has_a_cell_for_each_feature() {
        let verdicts = FEATURES.iter().map(|feature| (feature.name, Verdict::Works)).collect();
        let text = table(&[Row { client: "some 1.0".to_owned(), mqtt: "5", verdicts }]);
        let rows: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(rows.len(), 3);
        let cells = |row: &str| row.matches('|').count();
        assert!(rows.iter().all(|row| cells(row) == FEATURES.len() + 3), "{text}");
    }
}
