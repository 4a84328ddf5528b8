//! `quorate completions` and `quorate man`: the command line described for shells and people, from its own definition.
//!
//! Owns: completions, man pages, and the text of docs/operations/cli.md. Does not: describe anything by hand.
//! Invariants: what is hidden from `--help` is hidden here; every command and option has help, which a test holds.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::exit::{Exit, Failure, Outcome};
use crate::{CommandLine, output};

/// Flags of `quorate completions`.
#[derive(Args, Debug)]
#[command(after_help = "\
bash: quorate completions bash > /usr/share/bash-completion/completions/quorate
zsh:  quorate completions zsh > a directory of $fpath/_quorate
fish: quorate completions fish > ~/.config/fish/completions/quorate.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Flags of `quorate man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The command to print the page of, such as `status` or `cluster drain`; without one, the page of the program
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Vec<String>,
    /// Write a page for every command into this directory instead
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print the description of all commands for docs/operations/cli.md instead
    #[arg(long, hide = true, conflicts_with_all = ["command", "dir"])]
    markdown: bool,
}

/// Prints completions.
pub fn completions(args: CompletionsArgs) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "quorate", &mut text);
    Ok(output::print(&String::from_utf8_lossy(&text))?)
}

/// Prints or writes man pages.
pub fn man(args: ManArgs) -> Outcome {
    let command = built();
    if args.markdown {
        return Ok(output::print(&markdown(&command))?);
    }
    let pages = pages(&command, "quorate");
    if let Some(dir) = args.dir {
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        for (name, command) in pages {
            let file = dir.join(format!("{name}.1"));
            fs::write(&file, page(&name, command)?).with_context(|| format!("write {}", file.display()))?;
        }
        return Ok(());
    }
    let wanted: Vec<&str> =
        std::iter::once("quorate").chain(args.command.iter().map(String::as_str)).collect();
    let found = pages.into_iter().find(|(name, _)| *name == wanted.join("-"));
    let (name, command) = found.ok_or_else(|| {
        Failure::new(Exit::Usage, anyhow!("{:?} is no command", args.command.join(" ")))
            .hint("`quorate help` has a list of them")
    })?;
    Ok(output::print(&String::from_utf8_lossy(&page(&name, command)?))?)
}

/// The command line with everything that clap fills in itself.
fn built() -> Command {
    let mut command = CommandLine::command();
    command.build();
    command
}

/// Commands that a person sees, without `help`.
fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

/// The command and all below it, each with the name of its page.
fn pages<'a>(command: &'a Command, name: &str) -> Vec<(String, &'a Command)> {
    let below = visible(command).flat_map(|below| pages(below, &format!("{name}-{}", below.get_name())));
    std::iter::once((name.to_owned(), command)).chain(below).collect()
}

fn page(name: &str, command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let man = clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).section("1");
    man.render(&mut text).with_context(|| format!("lay out the page {name}"))?;
    Ok(text)
}

/// The text of docs/operations/cli.md.
fn markdown(command: &Command) -> String {
    let mut text = "\
# Command line

Every command and option of `quorate`. This page is made from the program: `cargo xtask fix` renews it, a test holds that it is up to date.
`quorate man` and `quorate completions` say the same to `man` and to shells. Exit codes: [exit-codes.md](exit-codes.md).

"
    .to_owned();
    let pages = pages(command, "quorate");
    for (name, page) in &pages {
        if page.get_subcommands().next().is_none() || name == "quorate" {
            section(page, &mut text);
        }
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

fn section(command: &Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or("quorate");
    text.push_str(&format!("## `{name}`\n"));
    if let Some(about) = command.get_about() {
        text.push_str(&format!("{about}.\n"));
    }
    let usage = command.clone().render_usage().to_string();
    text.push_str(&format!("```\n{}\n```\n", usage.trim_start_matches("Usage: ").trim()));
    let of_top = name == "quorate";
    let own = |arg: &&Arg| !arg.is_hide_set() && (of_top || !arg.is_global_set() || !is_of_top(arg));
    let args: Vec<&Arg> = command.get_arguments().filter(own).filter(|arg| !is_of_clap(arg)).collect();
    if !args.is_empty() {
        text.push_str("| option | meaning |\n|---|---|\n");
        for arg in args {
            text.push_str(&format!("| {} | {} |\n", spelled(arg), meaning(arg).replace('|', "\\|")));
        }
    }
    text.push('\n');
}

/// `--color` and the like, which are described once.
fn is_of_top(arg: &Arg) -> bool {
    CommandLine::command().get_arguments().any(|top| top.get_id() == arg.get_id())
}

fn is_of_clap(arg: &Arg) -> bool {
    matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    )
}

fn spelled(arg: &Arg) -> String {
    let names =
        [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let mut spelled: Vec<String> = names.into_iter().flatten().collect();
    let values: Vec<&str> = match arg.get_value_names() {
        Some(names) if arg.get_action().takes_values() => names.iter().map(|name| name.as_str()).collect(),
        _ => Vec::new(),
    };
    match (spelled.last_mut(), values.join(" ")) {
        (_, values) if values.is_empty() => {}
        (Some(last), values) => *last = format!("{last} {values}"),
        (None, values) => spelled.push(values),
    }
    format!("`{}`", spelled.join(", "))
}

fn meaning(arg: &Arg) -> String {
    let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let quoted =
        |words: Vec<String>| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let takes_values = arg.get_action().takes_values() && !arg.is_hide_possible_values_set();
    let possible = arg.get_possible_values();
    if takes_values && !possible.is_empty() {
        let names =
            possible.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name().to_owned());
        meaning.push_str(&format!(": {}", quoted(names.collect())));
    }
    let defaults = arg.get_default_values();
    if takes_values && !defaults.is_empty() {
        let values = defaults.iter().map(|value| value.to_string_lossy().into_owned());
        meaning.push_str(&format!(". Default: {}", quoted(values.collect())));
    }
    meaning
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn check_help(command: &Command) {
        let name = command.get_bin_name().unwrap_or("quorate").to_owned();
        assert!(command.get_about().is_some(), "{name} has no help");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            assert!(
                arg.get_help().is_some_and(|help| !help.to_string().is_empty()),
                "{name}: {arg} has no help"
            );
        }
        visible(command).for_each(check_help);
    }

    #[test]
    fn every_command_and_option_has_help() {
        check_help(&built());
    }

    #[test]
    fn description_in_the_documents_is_up_to_date() {
        let written = include_str!("../../../docs/operations/cli.md");
        let now = markdown(&built());
        let differs = written.lines().zip(now.lines()).find(|(written, now)| written != now);
        assert!(
            written == now,
            "docs/operations/cli.md is old, run `cargo xtask fix`; first at: {differs:?}"
        );
    }

    #[test]
    fn every_command_has_a_page_and_every_shell_completions() {
        let command = built();
        let pages = pages(&command, "quorate");
        assert!(pages.iter().any(|(name, _)| name == "quorate-cluster-drain"), "{pages:?}");
        for (name, command) in &pages {
            let text = String::from_utf8(page(name, command).unwrap()).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{name}");
        }
        for shell in Shell::value_variants() {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut CommandLine::command(), "quorate", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("rolling-restart"), "{shell}");
        }
    }
}
