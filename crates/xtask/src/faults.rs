//! `cargo xtask faults`: real nodes under real faults.
//!
//! Owns: building what it needs. Does not: start nodes, inject or judge, which the program `faults` of crates/faults does.
//! See: docs/operations/faults.md.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ci::{cargo, target_folder};

/// Builds the nodes and the harness, and runs it with these arguments.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let build = ["build", "--locked", "--package", "quorate", "--package", "quorate-faults", "--bins"];
    cargo(root, &build, &[])?;
    let binaries = target_folder(root)?.join("debug");
    let status = Command::new(binaries.join("faults"))
        .args(arguments)
        .current_dir(root)
        .env("QUORATE_BIN", binaries.join("quorate"))
        .status()
        .context("start the program faults of crates/faults")?;
    if !status.success() {
        bail!("the run under faults ended with {status}, see above");
    }
    Ok(())
}
