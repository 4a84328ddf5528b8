//! Each rule flags its doctored example and lets the honest one pass; the tree itself is tidy.

use std::path::Path;

use serde_json::json;

use super::source::Source;
use super::{
    TextFile, dependencies, documents, missing_lints, source, source_rules, stale_lock, stale_tags, telemetry,
};

/// Rules that flag `text` as the content of `path`, in order of the findings.
fn flagged(path: &str, text: &str) -> Vec<&'static str> {
    let files = [TextFile { path: path.to_string(), text: text.to_string() }];
    source_rules::check(&source::read(&files)).iter().map(|finding| finding.rule).collect()
}

fn check(body: &str, expected: &[&str]) {
    check_in("crates/state/src/session.rs", body, expected);
}

fn check_in(path: &str, body: &str, expected: &[&str]) {
    let text = format!("//! A file with a header.\n\n{body}\n");
    assert_eq!(flagged(path, &text), expected, "{path}:\n{text}");
}

fn check_edge(package: &str, target: &str, kind: Option<&str>, expected: usize) {
    let dependency = json!({ "name": target, "kind": kind });
    let metadata = json!({ "packages": [{ "name": package, "dependencies": [dependency] }] });
    let findings = dependencies::check(&metadata).unwrap();
    assert_eq!(findings.len(), expected, "{package} -> {target}: {findings:?}");
}

/// Rules that flag a Markdown file next to an existing `docs/glossary.md` with the heading "Two words".
fn check_document(text: &str, expected: &[&str]) {
    let glossary = TextFile { path: "docs/glossary.md".into(), text: "# Two words\n".into() };
    let file = TextFile { path: "docs/operations/x.md".into(), text: text.into() };
    let files = [glossary, file];
    let exists = |path: &str| matches!(path, "docs/glossary.md" | "docs/operations/x.md");
    let rules: Vec<_> = documents::check(&files, &[], &exists).iter().map(|finding| finding.rule).collect();
    assert_eq!(rules, expected, "{text}");
}

#[test]
fn repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let findings = super::check(&root).unwrap();
    let report: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{}", report.join("\n"));
}

#[test]
fn dependency_against_the_direction_is_flagged() {
    check_edge("quorate-connection", "quorate-state", None, 1);
    check_edge("quorate-state", "quorate-connection", None, 1);
    check_edge("quorate-node", "quorate-storage", None, 1);
    check_edge("quorate-storage", "quorate-node", Some("dev"), 1);
    check_edge("quorate-server", "quorate-connection", None, 1);
    check_edge("quorate", "quorate-node", None, 1);
    check_edge("quorate-api", "quorate-codec", None, 1);
    check_edge("quorate-node", "quorate-state", None, 0);
    check_edge("quorate", "quorate-server", None, 0);
    check_edge("quorate-sim", "quorate-storage", None, 0);
}

#[test]
fn dependency_of_unknown_package_is_flagged() {
    check_edge("quorate-extras", "bytes", None, 1);
}

#[test]
fn dependency_of_pure_crate_on_runtime_is_flagged() {
    check_edge("quorate-node", "tokio", None, 1);
    check_edge("quorate-state", "rand", None, 1);
    check_edge("quorate-state", "rand", Some("dev"), 0);
    check_edge("quorate-server", "tokio", None, 0);
}

#[test]
fn dependency_on_protobuf_or_blanket_errors_is_flagged() {
    check_edge("quorate-node", "protobuf", None, 1);
    check_edge("quorate-storage", "anyhow", None, 1);
    check_edge("quorate-storage", "anyhow", Some("dev"), 0);
    check_edge("quorate", "anyhow", None, 0);
}

#[test]
fn manifest_without_workspace_lints_is_flagged() {
    assert!(missing_lints("crates/x/Cargo.toml", "[package]\nname = \"x\"\n").is_some());
    assert!(missing_lints("crates/x/Cargo.toml", "[lints]\nworkspace = true\n").is_none());
}

#[test]
fn pure_crate_with_input_or_output_is_flagged() {
    check("use std::fs;", &["pure"]);
    check("use std::net::SocketAddr;", &["pure"]);
    check("use std::{collections::BTreeMap, fs::File};", &["pure"]);
    check("use std::{\n    collections::BTreeMap,\n    thread,\n};", &["pure"]);
    check("use tokio::sync::mpsc;", &["pure"]);
    check("fn f() { std::fs::read(\"x\"); }", &["pure"]);
    check("fn f() { let x = std::env::var(\"X\"); }", &["pure"]);
    check("fn f() { println!(\"x\"); }", &["pure"]);
    check("fn f() { dbg!(1); }", &["pure"]);
    check_in("crates/storage/src/log.rs", "use std::fs;", &[]);
}

#[test]
fn pure_crate_with_clock_or_randomness_is_flagged() {
    check("use std::time::Instant;", &["pure"]);
    check("use std::time::{Duration, SystemTime};", &["pure"]);
    check("fn f() { let now = Instant::now(); }", &["pure"]);
    check("fn f() { let x: u8 = rand::random(); }", &["pure"]);
    check("fn f() { let x = thread_rng(); }", &["pure"]);
    check("use std::time::Duration;\nuse core::time::Duration as D;", &[]);
    check("fn f(operand: u8, brand: u8) {}", &[]);
}

#[test]
fn pure_crate_in_comment_string_or_test_may_name_what_is_banned() {
    check("// Not std::fs::read, and no println!.\nfn f() {}", &[]);
    check("/* tokio::spawn /* std::fs */ rand::random() */ fn f() {}", &[]);
    check("fn f() -> &'static str { \"std::fs::read \\\" tokio::spawn\" }", &[]);
    check("fn f() -> &'static str { r#\"a \" std::fs::read\"# }", &[]);
    check("#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { println!(\"{}\", 'a'); }\n}", &[]);
    check("#[cfg(test)]\nmod tests {\n    fn f() {}\n}\nuse std::fs;", &["pure"]);
    check("#[test]\nfn f() {\n    std::fs::read(\"x\");\n}", &[]);
    check("fn f<'a>(x: &'a str) -> char { if x == \"\" { '\"' } else { '\\'' } }\nuse std::fs;", &["pure"]);
}

#[test]
fn test_module_in_its_own_file_is_not_production_code() {
    let parent = "//! Parent.\n#[cfg(test)]\nmod tests;\nmod inner;\n";
    let child = "//! Child.\nuse std::fs;\n";
    let file = |path: &str, text: &str| TextFile { path: path.into(), text: text.into() };
    let files = [
        file("crates/state/src/session.rs", parent),
        file("crates/state/src/session/tests.rs", child),
        file("crates/state/src/session/inner.rs", child),
        file("crates/state/tests/round_trip.rs", child),
    ];
    let findings = source_rules::check(&source::read(&files));
    let paths: Vec<_> = findings.iter().map(|finding| finding.path.as_str()).collect();
    assert_eq!(paths, ["crates/state/src/session/inner.rs"]);
}

#[test]
fn unordered_map_without_its_comment_is_flagged() {
    check("use std::collections::HashMap;", &["map-order"]);
    check("use std::collections::{BTreeMap, HashSet};", &["map-order"]);
    check("use std::collections::HashMap; // lookup only", &[]);
    check("fn f(x: &std::collections::HashMap<u8, u8>) {}", &["map-order"]);
    check_in("crates/server/src/router.rs", "use std::collections::HashMap;", &[]);
}

#[test]
fn unordered_map_that_is_walked_is_flagged() {
    let import = "use std::collections::HashMap; // lookup only\nstruct S { sessions: HashMap<u8, u8> }\n";
    check(&format!("{import}fn f(s: &S) {{ s.sessions.iter().count(); }}"), &["map-order"]);
    check(&format!("{import}fn f(s: &S) {{ s.sessions.values().count(); }}"), &["map-order"]);
    check(&format!("{import}fn f(s: &mut S) {{ s.sessions.drain(); }}"), &["map-order"]);
    check(
        &format!("{import}impl S {{\nfn f(&self) {{\nfor x in &self.sessions {{\n}} }} }}"),
        &["map-order"],
    );
    check(&format!("{import}fn f(s: &S) {{\n    s.sessions.values().sum() // any order: a sum\n}}"), &[]);
    check(&format!("{import}fn f(s: &S) {{ s.sessions.get(&1); }}"), &[]);
}

#[test]
fn unbounded_channel_is_flagged_everywhere() {
    let file = "crates/server/src/router.rs";
    check_in(file, "fn f() { let (a, b) = mpsc::unbounded_channel(); }", &["unbounded"]);
    check_in(file, "fn f() { let (a, b) = std::sync::mpsc::channel::<Vec<u8>>(); }", &["unbounded"]);
    check_in(file, "use std::sync::mpsc::channel;\nfn f() { let (a, b) = channel(); }", &["unbounded"]);
    check_in(file, "#[test]\nfn f() { crossbeam::channel::unbounded(); }", &["unbounded"]);
    check_in(file, "fn f() { mpsc::channel(8); oneshot::channel(); sync_channel(1); }", &[]);
}

#[test]
fn unfinished_code_is_flagged() {
    check("fn f() { todo!() }", &["unfinished"]);
    check("fn f() { unimplemented!(\"later\") }", &["unfinished"]);
    check("#[test]\n#[ignore]\nfn f() {}", &["unfinished"]);
    check("#[test]\n#[ignore = \"needs root\"]\nfn f() {}", &[]);
}

#[test]
fn protobuf_parsing_is_flagged() {
    check_in("crates/node/src/raft.rs", "fn f() { m.merge_from_bytes(&b); }", &["protobuf"]);
    check_in("crates/node/src/raft.rs", "fn f() { protobuf::parse_from_bytes(&b); }", &["protobuf"]);
    check_in("crates/node/src/raft.rs", "use protobuf::Message;", &["protobuf"]);
    check_in("crates/node/src/raft.rs", "use raft::eraftpb::Message;", &[]);
}

#[test]
fn machine_path_in_production_code_is_flagged() {
    for folder in source_rules::machine_folders() {
        check(&format!("const X: &str = \"{folder}x\";"), &["machine-path"]);
        check(&format!("// Look at {folder}x.\nconst X: u8 = 1;"), &["machine-path"]);
        check(&format!("#[cfg(test)]\nconst X: &str = \"{folder}x\";"), &[]);
    }
    check("const X: &str = \"some/tmp/x\";", &[]);
}

#[test]
fn file_longer_than_the_limit_is_flagged() {
    let long = "fn f() {}\n".repeat(source_rules::FILE_LINES_MAX);
    check(&long, &["file-length"]);
    let tested = format!("#[cfg(test)]\nmod tests {{\n{long}\n}}\n");
    check(&tested, &[]);
}

#[test]
fn file_without_header_is_flagged() {
    let path = "crates/state/src/session.rs";
    assert_eq!(flagged(path, "use core::fmt;\n"), ["header"]);
    assert_eq!(flagged(path, "// A plain comment.\n"), ["header"]);
    assert_eq!(flagged(path, "//!\n"), ["header"]);
    assert_eq!(flagged(path, "//! Being built.\n"), ["header"]);
    assert!(flagged(path, "//! Sessions.\n").is_empty());
}

#[test]
fn document_with_broken_link_is_flagged() {
    check_document(
        "See [glossary](../glossary.md) and [here](x.md) and [it](../glossary.md#two-words).\n",
        &[],
    );
    check_document("See [a page](https://example.org/x).\n", &[]);
    check_document("See [nothing](nothing.md).\n", &["link"]);
    check_document("See [no heading](../glossary.md#three-words).\n", &["link"]);
    check_document("See `docs/nothing.md`.\n", &["link"]);
    check_document("```\n[nothing](nothing.md)\n```\n", &[]);
    check_document(&format!("Look into {}x.\n", source_rules::machine_folders()[0]), &["machine-path"]);
}

#[test]
fn comment_naming_a_missing_document_is_flagged() {
    let source = Source::new("crates/state/src/x.rs", "//! X. See: docs/gone.md, docs/glossary.md.\n");
    let exists = |path: &str| path == "docs/glossary.md";
    let findings = documents::check(&[], &[source], &exists);
    assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [1]);
}

#[test]
fn code_map_without_a_crate_is_flagged() {
    let map = TextFile { path: "ARCHITECTURE.md".into(), text: "`crates/codec` is a crate.\n".into() };
    let findings = documents::check_code_map(&[map], &["codec".into(), "state".into()]);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].message.contains("crates/state"));
}

#[test]
fn alerts_are_described_tested_and_read_metrics_that_exist() {
    let rules = "- alert: A\n  expr: quorate_x_seconds_bucket > 1\n  severity: critical\n  summary: s\n  \
                 description: d\n  runbook: docs/operations/alerts.md#a\n";
    let check = |rules: &str, page: &str, tests: &str, dashboard: &str| -> Vec<String> {
        let metrics = "| `quorate_x_seconds` | histogram | | x |\n";
        let files = [
            (telemetry::RULES, rules),
            (telemetry::RULE_TESTS, tests),
            (telemetry::DASHBOARD, dashboard),
            ("docs/operations/alerts.md", page),
            ("docs/metrics.md", metrics),
        ];
        let files = files.map(|(path, text)| TextFile { path: path.into(), text: text.into() });
        telemetry::check(&files).into_iter().map(|finding| finding.message).collect()
    };
    let (page, tests) = ("# Alerts\n## A\n", "tests:\n  - name: A\n");
    assert_eq!(check(rules, page, tests, "rate(quorate_x_seconds_count[5m])"), [""; 0]);
    for (left_out, found) in [
        ("  summary: s\n", "A has no summary"),
        ("  severity: critical\n", "A has no severity critical or warning"),
        ("alerts.md#a", "A needs runbook: docs/operations/alerts.md#a, and that section"),
    ] {
        assert_eq!(check(&rules.replace(left_out, ""), page, tests, ""), [found]);
    }
    assert_eq!(check(rules, page, "", ""), ["A has no test in deploy/prometheus/quorate.rules.test.yml"]);
    assert_eq!(check(rules, "## A\n## B\n", tests, ""), ["no alert is called B"]);
    assert_eq!(check(rules, page, tests, "quorate_y > 1"), ["quorate_y is no metric of docs/metrics.md"]);
}

#[test]
fn fuzz_lock_of_another_version_is_flagged() {
    let metadata = json!({"packages": [{"name": "quorate-node", "version": "0.2.0", "dependencies": [
        {"name": "bytes", "kind": null, "optional": false},
        {"name": "proptest", "kind": "dev", "optional": false},
        {"name": "extra", "kind": null, "optional": true},
    ]}]});
    let lines = |lock: &str| stale_lock(&metadata, lock).iter().map(|found| found.line).collect::<Vec<_>>();
    let lock =
        "[[package]]\nname = \"quorate-node\"\nversion = \"0.2.0\"\ndependencies = [\n \"bytes 1.2.0\",\n]\n";
    assert_eq!(lines(lock), [0; 0]);
    assert_eq!(lines(&lock.replace("version = \"0.2.0\"", "version = \"0.1.0\"")), [2]);
    assert_eq!(lines(&lock.replace("bytes", "nothing")), [2], "what it needs counts as well");
}

#[test]
fn image_and_chart_of_another_version_are_flagged() {
    let flagged =
        |text: &str| stale_tags("0.2.0", "x", text).iter().map(|finding| finding.line).collect::<Vec<_>>();
    assert_eq!(
        flagged("docker build --tag quorate:0.2.0 .\nappVersion: \"0.2.0\"\nimage: \"quorate:0.2.0\"\n"),
        [0; 0]
    );
    assert_eq!(
        flagged("docker build --tag quorate:0.1.0 .\nappVersion: \"0.1.0\"\nversion: 0.1.0\n"),
        [1, 2]
    );
    assert_eq!(
        flagged("  app.kubernetes.io/version: \"0.1.0\"\n  image: \"quorate:{{ .Values.tag }}\"\n"),
        [1]
    );
}
