//! Rules on documents: links resolve, named documents exist, the code map is whole.
//!
//! Owns: the links of every Markdown file and the `docs/….md` paths that comments name.
//! Does not: fetch anything; links to other sites are not followed.
//! Invariants: code blocks are not searched for links.

use super::source::{Source, is_word};
use super::source_rules::{machine_folders, names_machine_path};
use super::{Finding, TextFile};

/// Findings in documents, and in comments that name documents. `exists` takes a path relative to the root.
pub fn check(markdown: &[TextFile], sources: &[Source], exists: &dyn Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in markdown {
        for (number, line) in file.text.lines().enumerate() {
            if machine_folders().iter().any(|folder| names_machine_path(line, folder)) {
                findings.push(finding(
                    file,
                    number + 1,
                    "machine-path",
                    "names a folder of one machine".into(),
                ));
            }
        }
        for (number, line) in prose(&file.text) {
            for target in links(line) {
                findings.extend(broken_link(file, markdown, number, &target, exists));
            }
            for path in named_documents(line).filter(|path| !exists(path)) {
                findings.push(finding(file, number, "link", format!("{path} does not exist")));
            }
        }
    }
    for source in sources {
        for (number, line) in source.numbered_lines() {
            for path in named_documents(&line.comment).filter(|path| !exists(path)) {
                let message = format!("{path} does not exist");
                findings.push(Finding { path: source.path.clone(), line: number, rule: "link", message });
            }
        }
    }
    findings
}

/// Every crate has its place in the code map of ARCHITECTURE.md.
pub fn check_code_map(markdown: &[TextFile], crates: &[String]) -> Vec<Finding> {
    let map = markdown.iter().find(|file| file.path == "ARCHITECTURE.md");
    let text = map.map_or("", |file| file.text.as_str());
    let missing = crates.iter().filter(|name| !text.contains(&format!("`crates/{name}`")));
    let message = |name: &String| format!("the code map does not name `crates/{name}`");
    let found = missing.map(|name| Finding {
        path: "ARCHITECTURE.md".into(),
        line: 0,
        rule: "code-map",
        message: message(name),
    });
    found.collect()
}

fn finding(file: &TextFile, line: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: file.path.clone(), line, rule, message }
}

/// Lines outside code blocks, with their number from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        if fence {
            fenced = !fenced;
        }
        (!fence && !fenced).then_some((index + 1, line))
    })
}

/// Targets of the inline links of a line.
fn links(line: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut rest = line;
    while let Some((_, behind)) = rest.split_once("](") {
        let target = behind.split([')', ' ']).next().unwrap_or_default();
        targets.push(target.to_string());
        rest = behind;
    }
    targets
}

fn broken_link(
    file: &TextFile,
    markdown: &[TextFile],
    line: usize,
    target: &str,
    exists: &dyn Fn(&str) -> bool,
) -> Option<Finding> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let resolved = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
    if !exists(&resolved) {
        return Some(finding(file, line, "link", format!("{target} does not exist")));
    }
    let document = markdown.iter().find(|other| other.path == resolved)?;
    let found = anchor.is_empty()
        || prose(&document.text).any(|(_, line)| heading_anchor(line) == Some(anchor.into()));
    (!found).then(|| finding(file, line, "link", format!("{target}: no such heading")))
}

/// A path as seen from the file that names it, relative to the root.
fn resolve(from: &str, path: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The anchor that a heading gets: lower case, spaces as hyphens, no punctuation.
fn heading_anchor(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').trim();
    let kept = title.to_lowercase();
    let kept = kept.chars().filter(|c| is_word(*c) || matches!(c, ' ' | '-'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c }).collect())
}

/// Every `docs/….md` that a text names.
fn named_documents(text: &str) -> impl Iterator<Item = String> + '_ {
    text.match_indices("docs/").filter_map(|(position, _)| {
        let before = text.get(..position).and_then(|before| before.chars().next_back());
        let rest = text.get(position..)?;
        let path: String = rest.chars().take_while(|c| is_word(*c) || matches!(c, '/' | '.' | '-')).collect();
        let path = path.trim_end_matches('.');
        let starts = !before.is_some_and(|c| is_word(c) || matches!(c, '/' | '.' | '-'));
        (starts && path.ends_with(".md")).then(|| path.to_string())
    })
}
