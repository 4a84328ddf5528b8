//! The pages of docs/operations stay true: commands and configurations in them are taken from the text and tried.
//!
//! Owns: reading the pages, and which commands run on a cluster. Does not: compare what they print; a command that a page
//! shows has to be understood, and on a sound cluster it has to succeed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use quorate_tests::{Cluster, binary};

/// Pages whose blocks of commands run on a cluster, in this order.
const TRIED: [&str; 5] = ["README.md", "sessions.md", "explain.md", "top.md", "drain.md"];

/// How the text begins that tells the version; it is no command.
const VERSION: &str = "quorate version";

/// What is in a page.
#[derive(Default)]
struct Page {
    name: String,
    /// Command lines of blocks marked `sh`, without comments, with continued lines joined.
    blocks: Vec<String>,
    /// Command lines in the prose.
    inline: Vec<String>,
    /// Blocks marked `toml`.
    configurations: Vec<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations")
}

fn page(path: &Path) -> Result<Page> {
    let name = path.file_name().context("a page has a name")?.to_string_lossy().into_owned();
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut page = Page { name, ..Page::default() };
    let mut block: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut block) {
            (Some(language), None) => block = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => match block.take() {
                Some((language, text)) if language == "sh" => page.blocks.extend(commands(&text)),
                Some((language, text)) if language == "toml" => page.configurations.push(text),
                _ => {}
            },
            (None, Some((_, text))) => text.push_str(&format!("{line}\n")),
            // Every second piece between backticks is code.
            (None, None) => {
                let code = line.split('`').skip(1).step_by(2);
                let code = code.filter(|code| code.starts_with("quorate ") && !code.starts_with(VERSION));
                page.inline.extend(code.map(str::to_owned));
            }
        }
    }
    Ok(page)
}

/// The commands of this program in a block: up to a comment, a pipe, a redirection or the next command.
fn commands(block: &str) -> Vec<String> {
    let joined = block.replace("\\\n", " ");
    let ends = [" #", " |", " >", " &&", ";"];
    let cut = |line: &str| {
        ends.iter().fold(line.to_owned(), |line, end| match line.split_once(end) {
            Some((before, _)) => before.to_owned(),
            None => line,
        })
    };
    joined
        .lines()
        .filter(|line| line.starts_with("quorate "))
        .map(|line| cut(line).trim().to_owned())
        .collect()
}

/// All pages but the one that is made from the command line itself.
fn pages() -> Result<Vec<Page>> {
    let entries = std::fs::read_dir(folder())?.collect::<Result<Vec<_>, _>>()?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|is| is == "md") && !path.ends_with("cli.md"));
    paths.sort();
    paths.iter().map(|path| page(path)).collect()
}

/// Runs a line as a shell does, with the program to test as `quorate`.
fn run(line: &str, dir: &Path) -> Result<Output> {
    let script = format!("quorate() {{ \"$PROGRAM\" \"$@\"; }}\n{line}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("PROGRAM", binary()?).current_dir(dir).stdin(Stdio::null());
    shell.output().with_context(|| format!("run {line}"))
}

fn said(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_command_of_the_pages_is_understood() -> Result<()> {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages()? {
        for line in page.blocks.iter().chain(&page.inline) {
            // What a reader fills in. Asked for its help, a command complains of flags that it does not have.
            let filled = line.replace("--nodes …", "--nodes n1=10.0.0.11").replace('…', "");
            let output = run(&format!("{filled} --help"), Path::new("."))?;
            count += 1;
            if !output.status.success() {
                wrong.push(format!("{}: {line}: {}", page.name, said(&output)));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(count > 80, "only {count} commands were found: are they still written as they were?");
    Ok(())
}

#[test]
fn every_configuration_of_the_pages_is_accepted() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("quorate-test-{}-configurations", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut count = 0;
    for page in pages()? {
        for text in &page.configurations {
            std::fs::write(dir.join("page.toml"), text)?;
            let output = run("quorate config check --config page.toml", &dir)?;
            let said = said(&output) + &String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "{}: {said}\n{text}", page.name);
            count += 1;
        }
    }
    std::fs::remove_dir_all(&dir)?;
    ensure!(count > 3, "only {count} configurations were found");
    Ok(())
}

/// A command as a reader would type it for this cluster, without a terminal; `None` when it does not end by itself.
fn for_cluster(line: &str, cluster: &Cluster) -> Option<String> {
    if line.starts_with("quorate top") && !line.contains("--once") {
        return None;
    }
    let admin = format!("http://{}", cluster.node(0).admin);
    let mut filled = line.replace("CLIENT_ID", "plant-7/pump");
    for example in ["http://HOST:9883", "http://127.0.0.1:9883"] {
        filled = filled.replace(example, &admin);
    }
    if filled.starts_with("quorate pub ") || filled.starts_with("quorate sub ") {
        return Some(format!("{filled} -p {}", cluster.node(0).mqtt_port));
    }
    if !filled.contains("--admin") {
        filled = format!("{filled} --admin {admin}");
    }
    let asks = ["sessions purge", "retained delete"].iter().any(|command| filled.contains(command));
    Some(if asks { format!("{filled} --yes") } else { filled })
}

#[test]
fn commands_of_the_core_pages_succeed_on_a_cluster() -> Result<()> {
    let cluster = Cluster::start("operations", 3)?;
    let setting = [
        "quorate sub -i plant-7/pump -c -q 1 -t 'plant/+/alarm' -E",
        "quorate pub -q 1 -r -t plant/7/state -m on",
        "quorate pub -q 1 -t plant/7/alarm -m hot",
    ];
    let read = |name: &&str| page(&folder().join(name));
    let blocks = TRIED.iter().map(read).collect::<Result<Vec<_>>>()?;
    let shown = blocks.iter().flat_map(|page| &page.blocks).map(String::as_str);
    let mut count = 0;
    for line in setting.into_iter().chain(shown) {
        let Some(command) = for_cluster(line, &cluster) else { continue };
        let output = run(&command, cluster.dir())?;
        ensure!(output.status.success(), "{command}: {}", said(&output));
        count += 1;
    }
    ensure!(count > 15, "only {count} commands were found");
    Ok(())
}
