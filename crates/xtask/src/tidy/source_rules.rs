//! Rules on Rust sources.
//!
//! Owns: banned calls in the pure crates, unordered maps, unbounded channels, unfinished code, file length, module
//! headers, machine paths, protobuf parsing.
//! Does not: know types; the rules look at names and are helped by comments (`// lookup only`, `// any order`).
//! Invariants: patterns are searched in code without comments and strings, so that prose may name what is banned.
//! Limits: FILE_LINES_MAX. See: STYLE.md.

use super::Finding;
use super::dependencies::PURE;
use super::source::{Line, Source, is_word};

/// Longest file, counted without test code: beyond it there are two nouns in one file.
pub const FILE_LINES_MAX: usize = 1_200;

/// Paths that no pure crate may use, imported or written out.
const BANNED_PATHS: [&str; 12] = [
    "tokio",
    "std::net",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::io",
    "std::time",
    "rand",
    "fastrand",
    "getrandom",
    "std::sync::mpsc",
];

/// Names that no pure crate may use wherever they come from.
const BANNED_NAMES: [&str; 8] =
    ["SystemTime", "Instant", "thread_rng", "println!", "eprintln!", "print!", "eprint!", "dbg!"];

/// Types of [`BANNED_PATHS`] that are fine: values without a clock behind them.
const PATHS_FINE: [&str; 2] = ["std::time::Duration", "std::io::Error"];

/// Methods that walk a map in its own order.
const WALKS: [&str; 9] = [
    ".iter()",
    ".iter_mut()",
    ".keys()",
    ".into_keys()",
    ".values()",
    ".values_mut()",
    ".into_values()",
    ".drain(",
    ".into_iter()",
];

/// Folders of a developer's machine. Cut in two, so that this file does not name them.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tm", "p/")];

/// Findings in all sources.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    sources.iter().flat_map(check_source).collect()
}

fn check_source(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if source.crate_folder().is_some_and(|name| PURE.contains(&name)) {
        findings.extend(banned_in_pure(source));
        findings.extend(unordered_maps(source));
    }
    findings.extend(unbounded_channels(source));
    findings.extend(unfinished(source));
    findings.extend(protobuf_parsing(source));
    findings.extend(machine_paths(source));
    findings.extend(too_long(source));
    findings.extend(no_header(source));
    findings
}

fn finding(source: &Source, line: usize, rule: &'static str, message: impl Into<String>) -> Finding {
    Finding { path: source.path.clone(), line, rule, message: message.into() }
}

/// No input, output, clock, thread or randomness in a pure crate.
fn banned_in_pure(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, path) in imports(source) {
        if is_banned_path(&path) {
            findings.push(finding(source, number, "pure", format!("a pure crate must not import {path}")));
        }
    }
    for (number, line) in source.production_lines() {
        let import = line.code.trim_start().starts_with("use ");
        for banned in BANNED_PATHS {
            let written = paths_in(&line.code, banned).any(|path| is_banned_path(&path));
            if !import && written {
                findings.push(finding(source, number, "pure", format!("a pure crate must not use {banned}")));
            }
        }
        for banned in BANNED_NAMES {
            if !import && contains_name(&line.code, banned) {
                findings.push(finding(source, number, "pure", format!("a pure crate must not use {banned}")));
            }
        }
    }
    findings
}

fn is_banned_path(path: &str) -> bool {
    let below = |parent: &str| {
        path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let name = path.rsplit("::").next().unwrap_or(path);
    !PATHS_FINE.iter().any(|fine| below(fine))
        && (BANNED_PATHS.iter().any(|banned| below(banned)) || BANNED_NAMES.contains(&name))
}

/// No `HashMap` or `HashSet` in a pure crate unless it says that it is only looked up, and no walk over one.
fn unordered_maps(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for (number, line) in source.production_lines() {
        let unordered = ["HashMap", "HashSet"].iter().any(|name| contains_name(&line.code, name));
        let import = line.code.trim_start().starts_with("use ");
        if unordered && import && !line.comment.contains("lookup only") {
            let message =
                "HashMap and HashSet have no order: use BTreeMap, or end the line with // lookup only";
            findings.push(finding(source, number, "map-order", message));
        }
        if unordered && paths_in(&line.code, "std::collections").next().is_some() && !import {
            let message = "import HashMap and HashSet, with // lookup only, where a reader sees it";
            findings.push(finding(source, number, "map-order", message));
        }
        if unordered {
            names.extend(declared_name(&line.code));
        }
    }
    for (number, line) in source.production_lines() {
        if line.comment.contains("any order") {
            continue;
        }
        if let Some(name) = names.iter().find(|name| walks(&line.code, name)) {
            let message =
                format!("walks the unordered {name}: use an ordered map, or say // any order: and why");
            findings.push(finding(source, number, "map-order", message));
        }
    }
    findings
}

/// Name of the field or variable that this line declares with a type behind a colon, or with `let … =`.
fn declared_name(code: &str) -> Option<String> {
    let position = code.find("HashMap").or_else(|| code.find("HashSet"))?;
    let before = code.get(..position)?;
    let declaration = before.trim_end().strip_suffix([':', '='])?.trim_end();
    let name: String = declaration.chars().rev().take_while(|c| is_word(*c)).collect();
    let name: String = name.chars().rev().collect();
    (!name.is_empty()).then_some(name)
}

fn walks(code: &str, name: &str) -> bool {
    let by_method = WALKS.iter().any(|method| contains_name(code, &format!("{name}{method}")));
    let by_loop = code.trim_start().starts_with("for ")
        && code.split_once(" in ").is_some_and(|(_, walked)| {
            let walked = walked.trim().trim_end_matches('{').trim();
            let walked = walked.trim_start_matches('&').trim_start_matches("mut ");
            walked == name || walked.strip_prefix("self.") == Some(name)
        });
    by_method || by_loop
}

/// Queues have a bound, in tests too.
fn unbounded_channels(source: &Source) -> Vec<Finding> {
    let imported = imports(source).iter().any(|(_, path)| path == "std::sync::mpsc::channel");
    let mut findings = Vec::new();
    for (number, line) in source.numbered_lines() {
        let code = without_turbofish(&line.code);
        let unbounded = contains_name(&code, "unbounded_channel")
            || contains_name(&code, "unbounded()")
            || contains_name(&code, "mpsc::channel()")
            || (imported && contains_name(&code, "channel()") && !code.contains("::channel()"));
        if unbounded {
            let message = "a queue has a bound, and a comment says what happens when it is full";
            findings.push(finding(source, number, "unbounded", message));
        }
    }
    findings
}

/// Nothing half done, and no test switched off without a word.
fn unfinished(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.numbered_lines() {
        for name in ["todo!", "unimplemented!"] {
            if contains_name(&line.code, name) {
                findings.push(finding(source, number, "unfinished", format!("{name} must not be committed")));
            }
        }
        if line.code.contains("#[ignore]") {
            let message = "say why: #[ignore = \"reason\"]";
            findings.push(finding(source, number, "unfinished", message));
        }
    }
    findings
}

/// The protobuf crate that the consensus engine brings is never handed bytes.
fn protobuf_parsing(source: &Source) -> Vec<Finding> {
    let names = ["parse_from_bytes", "merge_from_bytes", "parse_from_carllerche_bytes", "CodedInputStream"];
    let mut findings = Vec::new();
    for (number, line) in source.numbered_lines() {
        let parses = names.iter().any(|name| contains_name(&line.code, name))
            || paths_in(&line.code, "protobuf").next().is_some();
        if parses {
            let message =
                "never parse protobuf (RUSTSEC-2024-0437): see docs/decisions/0002-consensus-engine.md";
            findings.push(finding(source, number, "protobuf", message));
        }
    }
    findings
}

/// Sources run on every machine: no folder of one machine in them.
fn machine_paths(source: &Source) -> Vec<Finding> {
    let names_one = |line: &Line| MACHINE_PATHS.iter().any(|path| names_machine_path(&line.raw, path));
    let found = source.production_lines().filter(|(_, line)| names_one(line));
    found
        .map(|(number, _)| finding(source, number, "machine-path", "names a folder of one machine"))
        .collect()
}

/// Whether `text` has `path` at the start of an absolute path.
pub fn names_machine_path(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(position, _)| {
        let before = text.get(..position).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| is_word(c) || matches!(c, '.' | '-' | '}' | '/'))
    })
}

/// The folders of a developer's machine.
pub fn machine_folders() -> &'static [&'static str] {
    &MACHINE_PATHS
}

fn too_long(source: &Source) -> Option<Finding> {
    let lines = source.production_lines().count();
    let message = format!("{lines} lines without tests, more than {FILE_LINES_MAX}: cut it into two nouns");
    (lines > FILE_LINES_MAX).then(|| finding(source, 0, "file-length", message))
}

/// Every file begins by saying what it is.
fn no_header(source: &Source) -> Option<Finding> {
    let first = source.lines.iter().find(|line| !line.raw.trim().is_empty());
    let header = first.and_then(|line| line.raw.trim().strip_prefix("//!")).map(str::trim);
    match header {
        None | Some("") => {
            Some(finding(source, 1, "header", "begin the file with a module comment, see STYLE.md"))
        }
        Some("Being built.") => Some(finding(source, 1, "header", "the module comment says nothing yet")),
        Some(_) => None,
    }
}

/// Every imported path of the production code, groups taken apart, with the line of its `use`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut paths = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in source.production_lines() {
        let code = line.code.trim();
        let start = code.strip_prefix("pub(crate) ").or(code.strip_prefix("pub ")).unwrap_or(code);
        if open.is_none()
            && let Some(rest) = start.strip_prefix("use ")
        {
            open = Some((number, rest.to_string()));
        } else if let Some((_, text)) = &mut open {
            text.push_str(code);
        }
        if let Some((first, text)) = open.take_if(|(_, text)| text.contains(';')) {
            let tree = text.split(';').next().unwrap_or_default();
            flatten("", tree, &mut |path| paths.push((first, path)));
        }
    }
    paths
}

/// Takes a use tree apart: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn flatten(prefix: &str, tree: &str, found: &mut dyn FnMut(String)) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        let path = format!("{prefix}{}", path.trim_start_matches("::"));
        found(path.trim_end_matches("::self").to_string());
        return;
    };
    let inner = group.strip_suffix('}').unwrap_or(group);
    let prefix = format!("{prefix}{}", head.trim());
    let mut depth = 0usize;
    let mut start = 0;
    for (position, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                flatten(&prefix, inner.get(start..position).unwrap_or_default(), found);
                start = position + 1;
            }
            _ => {}
        }
    }
    let last = inner.get(start..).unwrap_or_default();
    if !last.trim().is_empty() {
        flatten(&prefix, last, found);
    }
}

/// Every written path in `code` that begins with `first::`, to its end.
fn paths_in<'a>(code: &'a str, first: &'a str) -> impl Iterator<Item = String> + 'a {
    code.match_indices(first).filter_map(move |(position, _)| {
        let before = code.get(..position)?.trim_end_matches("::").chars().next_back();
        let rest = code.get(position..)?;
        let starts = !before.is_some_and(|c| is_word(c) || c == ':');
        let qualified = rest.get(first.len()..).is_some_and(|behind| behind.starts_with("::"));
        let path: String = rest.chars().take_while(|c| is_word(*c) || *c == ':').collect();
        (starts && qualified).then_some(path)
    })
}

/// Whether `name` occurs in `code` and is not a part of a longer word.
fn contains_name(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(position, _)| {
        let before = code.get(..position).and_then(|text| text.chars().next_back());
        let behind = code.get(position + name.len()..).and_then(|text| text.chars().next());
        let ends_in_word = name.chars().next_back().is_some_and(is_word);
        let part_of_longer = before.is_some_and(is_word) || (ends_in_word && behind.is_some_and(is_word));
        !part_of_longer
    })
}

/// `channel::<T>()` as `channel()`.
fn without_turbofish(code: &str) -> String {
    let mut result = String::new();
    let mut rest = code;
    while let Some((before, behind)) = rest.split_once("::<") {
        result.push_str(before);
        let mut depth = 1usize;
        let end = behind.char_indices().find_map(|(position, c)| {
            match c {
                '<' => depth += 1,
                '>' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(position + 1)
        });
        rest = end.and_then(|end| behind.get(end..)).unwrap_or_default();
    }
    result.push_str(rest);
    result
}
