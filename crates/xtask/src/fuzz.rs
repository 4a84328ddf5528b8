//! `cargo xtask fuzz`: run the fuzz targets with the stable compiler.
//!
//! Owns: how they are built and run, where their inputs live. Does not: know what a target does; see `fuzz/fuzz_targets`.
//! Invariants: the committed corpus is only written by `--merge`; what a run finds new stays below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Coverage for libFuzzer, with what a stable compiler has. No sanitizer: the workspace forbids `unsafe`.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// A target of its own for build scripts and macros: they must not be covered.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Longest input in bytes. Longer ones find nothing that shorter ones do not, and take longer.
const INPUT_BYTES_MAX: u32 = 1024;

struct Options {
    targets: Vec<String>,
    seconds: u32,
    merge: bool,
}

/// Runs the named targets, or all, each for some seconds.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let all = all_targets(root)?;
    let options = parse(arguments, &all)?;
    let folder = root.join("target").join("fuzz");
    build(root, &folder)?;
    for target in &options.targets {
        let binary = folder.join(TRIPLE).join("release").join(target);
        let found = folder.join("corpus").join(target);
        let committed = root.join("fuzz").join("corpus").join(target);
        for folder in [&found, &committed] {
            std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let mut fuzzer = Command::new(&binary);
        fuzzer.arg(format!("-max_len={INPUT_BYTES_MAX}"));
        if options.merge {
            fuzzer.arg("-set_cover_merge=1").arg(&committed).arg(&found);
        } else {
            fuzzer.arg(format!("-max_total_time={}", options.seconds)).arg("-print_final_stats=1");
            fuzzer.arg(format!("-artifact_prefix={}/{target}-", folder.display()));
            fuzzer.arg(&found).arg(&committed);
        }
        println!("== fuzz {target}");
        let status = fuzzer.status().with_context(|| format!("start {}", binary.display()))?;
        if !status.success() {
            bail!(
                "{target} found something: the input is in {}, run it with the binary beside it",
                folder.display()
            );
        }
    }
    Ok(())
}

fn parse(arguments: &[String], all: &[String]) -> Result<Options> {
    let mut options = Options { targets: Vec::new(), seconds: 60, merge: false };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--merge" => options.merge = true,
            "--seconds" => {
                let seconds = rest.next().context("--seconds needs a number")?;
                options.seconds = seconds.parse().with_context(|| format!("--seconds {seconds}"))?;
            }
            target if all.iter().any(|known| known == target) => options.targets.push(target.to_owned()),
            other => bail!("no fuzz target is called {other:?}; there are {}", all.join(", ")),
        }
    }
    if options.targets.is_empty() {
        options.targets = all.to_vec();
    }
    Ok(options)
}

fn all_targets(root: &Path) -> Result<Vec<String>> {
    let folder: PathBuf = root.join("fuzz").join("fuzz_targets");
    let mut targets = Vec::new();
    for file in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    targets.sort();
    Ok(targets)
}

fn build(root: &Path, folder: &Path) -> Result<()> {
    let status = Command::new("cargo")
        .args(["build", "--locked", "--release", "--target", TRIPLE])
        .current_dir(root.join("fuzz"))
        .env("CARGO_TARGET_DIR", folder)
        .env("RUSTFLAGS", COVERAGE)
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("the fuzz targets do not build: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_takes_targets_and_seconds_and_names_what_there_is() {
        let all = ["one".to_owned(), "two".to_owned()];
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let options = parse(&words("two --seconds 5"), &all).unwrap();
        assert_eq!((options.targets, options.seconds, options.merge), (vec!["two".to_owned()], 5, false));
        assert_eq!(parse(&words("--merge"), &all).unwrap().targets, all);
        let error = parse(&words("three"), &all).err().unwrap().to_string();
        assert!(error.contains("one, two"), "{error}");
        assert!(parse(&words("--seconds"), &all).is_err());
    }
}
