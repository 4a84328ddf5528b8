//! Each query of the dashboard on a Prometheus that scrapes a loaded cluster.
//!
//! Owns: reading the queries out of the dashboard. Does not: draw.
//! Invariants: a query that fails is an error; so is one without a result, unless it is listed here with its reason.

use std::path::Path;

use anyhow::{Result, ensure};
use quorate_tests::load::{Load, Shape};
use quorate_tests::{Cluster, wait_for};
use serde_json::Value;

use crate::monitoring::{Monitoring, Target};

/// Titles of panels whose queries have no result on this cluster, with the reason.
const EMPTY: [(&str, &str); 1] = [("Alerts", "nothing fires when all is well")];

/// A query, with the panel that it is of.
struct Query {
    panel: String,
    expression: String,
}

/// Runs every query.
pub fn run(rules: &Path, dashboard: &Path) -> Result<()> {
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(dashboard)?)?;
    let mut queries = Vec::new();
    panels(&dashboard["panels"], &mut queries);
    for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
        // label_values(SERIES, LABEL): there must be such a series, with that label.
        let text = variable["query"]["query"].as_str().or(variable["query"].as_str()).unwrap_or("");
        if let Some((series, label)) =
            text.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
        {
            let expression = format!("group by ({label}) ({series})");
            queries.push(Query { panel: format!("variable {}", variable["name"]), expression });
        }
    }
    ensure!(queries.len() > 20, "the dashboard has {} queries only", queries.len());
    let cluster = Cluster::start("telemetry-dashboard", 3)?;
    let targets = cluster.nodes.iter().map(|node| Target {
        address: node.admin.clone(),
        path: "/metrics".to_owned(),
        instance: node.name.clone(),
    });
    let monitoring = Monitoring::start("dashboard", rules, &targets.collect::<Vec<_>>())?;
    let shape = Shape { publishers: 4, subscribers: 2, by_hand: 0, rate: 50, payload_bytes: 100 };
    let mut load = Load::start(&cluster, "dashboard", shape)?;
    load.wait_progress(500)?;
    wait_for("a few scrapes of all nodes", || {
        let scraped = monitoring.query("count_over_time(up{job=\"quorate\"}[10s]) >= 8").ok()?.len();
        (scraped == 3).then_some(())
    })?;
    let mut failures = Vec::new();
    for Query { panel, expression } in &queries {
        let excused = EMPTY.iter().any(|(title, _)| title == panel);
        match monitoring.query(&filled(expression)) {
            Ok(samples) if samples.is_empty() && !excused => {
                failures.push(format!("{panel}: {expression}: empty"))
            }
            Ok(_) => (),
            Err(error) => failures.push(format!("{panel}: {error:#}")),
        }
    }
    load.end()?;
    ensure!(failures.is_empty(), "queries of the dashboard:\n{}", failures.join("\n"));
    println!("dashboard: {} queries of the dashboard work on a loaded cluster", queries.len());
    Ok(())
}

/// The queries of panels, those within rows too.
fn panels(list: &Value, queries: &mut Vec<Query>) {
    for panel in list.as_array().into_iter().flatten() {
        panels(&panel["panels"], queries);
        for target in panel["targets"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
            queries.push(Query { panel: text(&panel["title"]), expression: text(&target["expr"]) });
        }
    }
}

/// A query as Grafana sends it, with all instances and groups chosen.
fn filled(expression: &str) -> String {
    let variables = [
        ("$__rate_interval", "8s"),
        ("$__range", "60s"),
        ("$job", "quorate"),
        ("$instance", ".*"),
        ("$group", ".*"),
    ];
    variables.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value))
}
