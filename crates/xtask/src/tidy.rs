//! The rules of the repository as checks: what no compiler and no clippy lint would notice.
//!
//! Owns: reading the tree once, running each rule on it, the shape of a finding.
//! Does not: change anything.
//! Invariants: each rule is proven by a doctored example in `tests`; the tree itself is checked by a unit test,
//! so that plain `cargo test` holds the rules too.
//! See: STYLE.md.

mod dependencies;
mod documents;
mod source;
mod source_rules;
pub mod telemetry;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::ci::cargo_metadata;

/// Folders that hold nothing of ours.
const FOLDERS_SKIPPED: [&str; 4] = ["target", ".git", "quorate-data", "quorate-dev"];

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// File, relative to the root.
    pub path: String,
    /// Line from 1; 0 when the whole file is meant.
    pub line: usize,
    /// Short name of the rule.
    pub rule: &'static str,
    /// What was found and what to do instead.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.message)
    }
}

/// A text file of the repository.
pub struct TextFile {
    /// Path relative to the root, with `/`.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// Checks the tree and prints every finding; an error when there is one.
pub fn run(root: &Path) -> Result<()> {
    let findings = check(root)?;
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} broken rules of the repository, see STYLE.md", findings.len());
    }
    println!("tidy: nothing found");
    Ok(())
}

/// All findings in the tree below `root`, ordered by place.
pub fn check(root: &Path) -> Result<Vec<Finding>> {
    let rust = text_files(root, "rs")?;
    let markdown = text_files(root, "md")?;
    let sources = source::read(&rust);
    let mut findings = dependencies::check(&cargo_metadata(root)?)?;
    findings.extend(source_rules::check(&sources));
    findings.extend(documents::check(&markdown, &sources, &|path| root.join(path).exists()));
    findings.extend(documents::check_code_map(&markdown, &crate_folders(root)?));
    findings.extend(check_lints(root)?);
    findings.extend(check_fuzz_lock(root)?);
    findings.extend(check_image_tags(root)?);
    findings.extend(telemetry::check(&telemetry_files(root, markdown)?));
    findings.sort_by(|a, b| (&a.path, a.line, a.rule).cmp(&(&b.path, b.line, b.rule)));
    Ok(findings)
}

/// The documents, with the alert rules, their tests and the dashboard.
fn telemetry_files(root: &Path, mut files: Vec<TextFile>) -> Result<Vec<TextFile>> {
    for path in [telemetry::RULES, telemetry::RULE_TESTS, telemetry::DASHBOARD] {
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
        files.push(TextFile { path: path.to_owned(), text });
    }
    Ok(files)
}

/// Every crate takes the lints of the workspace, which forbid unsafe code.
fn check_lints(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for name in crate_folders(root)? {
        let path = format!("crates/{name}/Cargo.toml");
        let text = fs::read_to_string(root.join(&path)).with_context(|| format!("read {path}"))?;
        findings.extend(missing_lints(&path, &text));
    }
    Ok(findings)
}

fn missing_lints(path: &str, manifest: &str) -> Option<Finding> {
    let lines: Vec<&str> = manifest.lines().map(str::trim).collect();
    let found = lines.windows(2).any(|pair| matches!(pair, ["[lints]", "workspace = true"]));
    let message = "add [lints] workspace = true: it forbids unsafe code and unwrap".to_string();
    (!found).then(|| Finding { path: path.to_string(), line: 0, rule: "lints", message })
}

/// The fuzz targets are a workspace of their own: a new version of ours must be in their lock file too, or they do not
/// build with `--locked`.
fn check_fuzz_lock(root: &Path) -> Result<Vec<Finding>> {
    let path = "fuzz/Cargo.lock";
    let fuzz = fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
    Ok(stale_lock(&cargo_metadata(root)?, &fuzz))
}

/// `metadata` is what cargo says of the workspace.
fn stale_lock(metadata: &Value, fuzz: &str) -> Vec<Finding> {
    let message =
        "run `cargo update --offline --workspace` in fuzz/: this crate is another one now".to_owned();
    let finding = |line| Finding {
        path: "fuzz/Cargo.lock".to_owned(),
        line,
        rule: "fuzz-lock",
        message: message.clone(),
    };
    let packages = || metadata["packages"].as_array().into_iter().flatten();
    let is_stale = |locked: &LockedPackage<'_>| {
        packages().filter(|package| package["name"] == locked.name).any(|package| {
            // What only tests need, or only some feature, is not in the other lock file.
            let always = package["dependencies"].as_array().into_iter().flatten();
            let mut always = always.filter(|need| need["kind"].is_null() && need["optional"] == false);
            package["version"] != locked.version
                || always.any(|need| !locked.needs.iter().any(|known| need["name"] == *known))
        })
    };
    own_packages(fuzz).iter().filter(|locked| is_stale(locked)).map(|locked| finding(locked.line)).collect()
}

/// A crate of this project in a lock file.
struct LockedPackage<'a> {
    line: usize,
    name: &'a str,
    version: &'a str,
    /// Names of what it depends on; versions of the same crate may differ between two lock files.
    needs: Vec<&'a str>,
}

fn own_packages(lock: &str) -> Vec<LockedPackage<'_>> {
    let lines: Vec<(usize, &str)> = (1..).zip(lock.lines()).collect();
    let packages = lines.split(|(_, line)| *line == "[[package]]");
    let own = packages.filter_map(|package| {
        let value = |field: &str| {
            package.iter().find_map(|(number, line)| {
                let value = line.strip_prefix(field)?.strip_prefix(" = \"")?.strip_suffix('"')?;
                Some((*number, value))
            })
        };
        let (line, name) = value("name").filter(|(_, name)| name.starts_with("quorate-"))?;
        let (_, version) = value("version")?;
        let needs = package.iter().filter_map(|(_, line)| line.strip_prefix(" \""));
        let needs = needs.filter_map(|need| need.split([' ', '"']).next()).collect();
        Some(LockedPackage { line, name, version, needs })
    });
    own.collect()
}

/// Files that name the version of the program, in the tag of its image or as the chart's.
const NAMES_THE_VERSION: [&str; 4] = [
    "deploy/container/Containerfile",
    "deploy/helm/quorate/Chart.yaml",
    "deploy/kubernetes/quorate.yaml",
    "docs/operations/deploy.md",
];

/// The image that the pages build, and the one that the chart starts, are of this version.
fn check_image_tags(root: &Path) -> Result<Vec<Finding>> {
    let read = |path: &str| fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"));
    let manifest = read("Cargo.toml")?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = "));
    let version = version.context("the version in Cargo.toml")?.trim_matches('"');
    let mut findings = Vec::new();
    for path in NAMES_THE_VERSION {
        findings.extend(stale_tags(version, path, &read(path)?));
    }
    Ok(findings)
}

fn stale_tags(version: &str, path: &str, text: &str) -> Vec<Finding> {
    let is_stale = |line: &str| {
        ["quorate:", "appVersion: \"", "app.kubernetes.io/version: \""].iter().any(|before| {
            let named = line.split(before).skip(1);
            let mut versions = named.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            versions.any(|rest| !rest.starts_with(version))
        })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| is_stale(line));
    let message = format!("names another version than {version}, which Cargo.toml has");
    let found = lines.map(|(at, _)| Finding {
        path: path.to_owned(),
        line: at + 1,
        rule: "version",
        message: message.clone(),
    });
    found.collect()
}

/// Names of the folders below `crates/` that hold a crate, sorted.
fn crate_folders(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("crates");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Every file with this extension below `root`, sorted by path.
fn text_files(root: &Path, extension: &str) -> Result<Vec<TextFile>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !FOLDERS_SKIPPED.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|found| found == extension) {
                let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
                files.push(TextFile { path: relative(root, &path), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn relative(root: &Path, path: &Path) -> String {
    let inside: PathBuf = path.strip_prefix(root).unwrap_or(path).to_path_buf();
    inside.to_string_lossy().replace('\\', "/")
}
