//! Which `quorate` the tests run: `QUORATE_BIN`, or the one of the same profile and target folder as the tests.
//!
//! Owns: building it. Does not: build anything when `QUORATE_BIN` is set.
//! Invariants: tests of a release build run a release build; all tests of one process run the same file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

/// Path of the program. The first call of a process brings it up to date with `cargo build`, which takes no time when
/// it is.
///
/// # Errors
/// When `QUORATE_BIN` names no file, or the build fails.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow!("find the program to test: {error}"))
}

fn find() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("QUORATE_BIN").map(PathBuf::from) {
        ensure!(named.exists(), "QUORATE_BIN is {}, which does not exist", named.display());
        return Ok(named);
    }
    // A test runs as TARGET/PROFILE/deps/NAME-HASH.
    let test = std::env::current_exe().context("find the running test")?;
    let profile_dir = test.ancestors().nth(2).context("a test lies in a profile's folder")?;
    let target_dir = profile_dir.parent().context("a profile's folder lies in the target folder")?;
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .args(["build", "--quiet", "--package", "quorate", "--profile", profile, "--target-dir"])
        .arg(target_dir)
        .stdin(Stdio::null())
        .status()
        .context("start cargo build")?;
    ensure!(status.success(), "cargo build of the program ended with {status}");
    Ok(profile_dir.join("quorate"))
}
