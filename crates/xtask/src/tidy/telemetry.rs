//! Rules on alerts and dashboards: each alert is described, tested and has its section, and all read metrics that exist.
//!
//! Owns: what an alert rule must have, and which metric names may be used. Does not: evaluate expressions; promtool and
//! the acceptance test of `cargo xtask telemetry` do.
//! Invariants: docs/metrics.md is the list of metrics; a test of crates/server holds that it is the program's.

use std::collections::BTreeSet;

use super::source::is_word;
use super::{Finding, TextFile};

/// Rules.
pub const RULES: &str = "deploy/prometheus/quorate.rules.yml";
/// Their unit tests.
pub const RULE_TESTS: &str = "deploy/prometheus/quorate.rules.test.yml";
/// The dashboard.
pub const DASHBOARD: &str = "deploy/grafana/quorate.json";
const ALERTS_PAGE: &str = "docs/operations/alerts.md";
const METRICS_PAGE: &str = "docs/metrics.md";

/// Findings in these files; one that is missing has none.
pub fn check(files: &[TextFile]) -> Vec<Finding> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| &file.text);
    let mut findings = Vec::new();
    let alerts = alerts(text(RULES));
    let headings: BTreeSet<&str> =
        text(ALERTS_PAGE).lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let tested: BTreeSet<&str> =
        text(RULE_TESTS).lines().filter_map(|line| line.strip_prefix("  - name: ")).collect();
    for alert in &alerts {
        for problem in problems(alert, &headings, &tested) {
            findings.push(finding(RULES, alert.line, "alert", format!("{} {problem}", alert.name)));
        }
    }
    for heading in headings.iter().filter(|heading| !alerts.iter().any(|alert| alert.name == **heading)) {
        findings.push(finding(ALERTS_PAGE, 0, "alert", format!("no alert is called {heading}")));
    }
    let known = metrics_of(text(METRICS_PAGE));
    for path in [RULES, RULE_TESTS, DASHBOARD] {
        for (number, line) in text(path).lines().enumerate() {
            let unknown = names_of_metrics(line).filter(|name| !is_known(name, &known));
            findings.extend(unknown.map(|name| {
                let message = format!("{name} is no metric of {METRICS_PAGE}");
                finding(path, number + 1, "metric", message)
            }));
        }
    }
    findings
}

struct Alert<'a> {
    name: &'a str,
    line: usize,
    body: Vec<&'a str>,
}

/// The alerts of a file of rules that is written as ours: one key a line.
fn alerts(rules: &str) -> Vec<Alert<'_>> {
    let mut alerts: Vec<Alert<'_>> = Vec::new();
    for (number, line) in rules.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert { name, line: number + 1, body: Vec::new() });
        } else if let Some(alert) = alerts.last_mut() {
            alert.body.push(line);
        }
    }
    alerts
}

fn problems(alert: &Alert<'_>, headings: &BTreeSet<&str>, tested: &BTreeSet<&str>) -> Vec<String> {
    let value = |key: &str| {
        alert.body.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).unwrap_or("")
    };
    let mut problems = Vec::new();
    for key in ["expr", "summary", "description"] {
        if value(key).trim_matches('"').is_empty() {
            problems.push(format!("has no {key}"));
        }
    }
    if !["critical", "warning"].contains(&value("severity")) {
        problems.push("has no severity critical or warning".to_owned());
    }
    let runbook = format!("{ALERTS_PAGE}#{}", alert.name.to_lowercase());
    if value("runbook") != runbook || !headings.contains(alert.name) {
        problems.push(format!("needs runbook: {runbook}, and that section"));
    }
    if !tested.contains(alert.name) {
        problems.push(format!("has no test in {RULE_TESTS}"));
    }
    problems
}

/// The metrics that the tables list.
fn metrics_of(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// Words of a line that look like a metric of ours.
fn names_of_metrics(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !is_word(c));
    words.filter(|word| {
        word.starts_with("quorate_") || (word.starts_with("process_") && word.matches('_').count() > 1)
    })
}

/// A metric, or a series that a histogram makes.
fn is_known(name: &str, known: &BTreeSet<&str>) -> bool {
    let suffixes = ["_bucket", "_sum", "_count"];
    let family = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    known.contains(name) || family.is_some_and(|family| known.contains(family))
}

fn finding(path: &str, line: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: path.to_owned(), line, rule, message }
}
