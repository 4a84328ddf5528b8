//! Dependency direction: which crate of the workspace may use which.
//!
//! Owns: the table of allowed edges and the external crates that are banned somewhere.
//! Does not: resolve the dependency graph; it reads the declared dependencies of `cargo metadata --no-deps`.
//! Invariants: a crate that the table does not name is a finding: a new crate or edge needs a decision record.
//! See: ARCHITECTURE.md, docs/decisions/0006-threads-and-runtime.md.

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;

/// Each package of the workspace with the packages of the workspace it may use, in any kind of dependency.
const EDGES_ALLOWED: [(&str, &[&str]); 12] = [
    ("quorate-codec", &[]),
    ("quorate-connection", &["quorate-codec"]),
    ("quorate-state", &["quorate-codec"]),
    ("quorate-node", &["quorate-codec", "quorate-connection", "quorate-state"]),
    ("quorate-storage", &[]),
    ("quorate-api", &[]),
    ("quorate-server", &["quorate-codec", "quorate-state", "quorate-node", "quorate-storage", "quorate-api"]),
    ("quorate", &["quorate-codec", "quorate-api", "quorate-server"]),
    ("quorate-sim", &["quorate-codec", "quorate-state", "quorate-node", "quorate-storage"]),
    ("quorate-tests", &["quorate-codec", "quorate-api"]),
    ("quorate-faults", &["quorate-api", "quorate-tests"]),
    ("quorate-xtask", &[]),
];

/// Crates whose sources hold no input, output, clock or randomness.
pub const PURE: [&str; 4] = ["codec", "connection", "state", "node"];

/// External crates that bring input, output, clocks, threads or randomness.
const BANNED_IN_PURE: [&str; 16] = [
    "async-std",
    "chrono",
    "crossbeam",
    "fastrand",
    "fjall",
    "getrandom",
    "libc",
    "mio",
    "nix",
    "parking_lot",
    "rand",
    "rayon",
    "rustls",
    "socket2",
    "time",
    "tokio",
];

/// Packages whose errors are matched on by their callers: typed errors only.
const TYPED_ERRORS: [&str; 7] = [
    "quorate-codec",
    "quorate-connection",
    "quorate-state",
    "quorate-node",
    "quorate-storage",
    "quorate-api",
    "quorate-server",
];

/// Findings in the output of `cargo metadata --no-deps`.
pub fn check(metadata: &Value) -> Result<Vec<Finding>> {
    let packages = metadata.get("packages").and_then(Value::as_array).context("find packages in metadata")?;
    let mut findings = Vec::new();
    for package in packages {
        let name = package.get("name").and_then(Value::as_str).context("find the name of a package")?;
        let dependencies = package.get("dependencies").and_then(Value::as_array);
        for dependency in dependencies.into_iter().flatten() {
            let target = dependency.get("name").and_then(Value::as_str).unwrap_or_default();
            let for_tests = dependency.get("kind").and_then(Value::as_str) == Some("dev");
            if let Some(message) = refused(name, target, for_tests) {
                findings.push(finding(name, message));
            }
        }
        if allowed_edges(name).is_none() {
            findings.push(finding(name, format!("{name} is not in the table of allowed edges")));
        }
    }
    Ok(findings)
}

fn finding(package: &str, message: String) -> Finding {
    let folder = if package == "quorate" { "cli" } else { package.trim_start_matches("quorate-") };
    Finding { path: format!("crates/{folder}/Cargo.toml"), line: 0, rule: "dependency", message }
}

fn allowed_edges(package: &str) -> Option<&'static [&'static str]> {
    EDGES_ALLOWED.iter().find(|(name, _)| *name == package).map(|(_, targets)| *targets)
}

/// Why `package` must not depend on `target`, if it must not.
fn refused(package: &str, target: &str, for_tests: bool) -> Option<String> {
    let own = target == "quorate" || target.starts_with("quorate-");
    if own {
        let fine = target == package || allowed_edges(package).is_some_and(|edges| edges.contains(&target));
        return (!fine).then(|| format!("{package} must not depend on {target}"));
    }
    if target == "protobuf" {
        return Some(format!("{package} must not use protobuf: raft messages have our own encoding"));
    }
    let pure = PURE.iter().any(|name| package.strip_prefix("quorate-") == Some(name));
    if pure && !for_tests && BANNED_IN_PURE.contains(&target) {
        return Some(format!("{package} is pure and must not depend on {target}"));
    }
    if target == "anyhow" && !for_tests && TYPED_ERRORS.contains(&package) {
        return Some(format!("{package} must not depend on anyhow: callers match on its errors"));
    }
    None
}
