//! `cargo xtask dashboard`: the tests of the dashboard, then journeys through it in a browser on a cluster of three nodes.
//!
//! Owns: what these need on this machine; packages go to `dashboard` in the target folder. Does not: install system
//! packages or a browser; know the journeys, which are in crates/tests/dashboard.
//! Invariants: what cannot run is left out with a line that says why; versions are those of `package-lock.json`.
//! See: docs/operations/dashboard.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ci::{cargo, target_folder};
use crate::programs::{find, holds, need, note, succeed};

/// Tests and journeys, from the root of the repository.
const JOURNEYS: &str = "crates/tests/dashboard";
/// Names that browsers with the protocol of Chromium have in the search path.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// What names a browser that is elsewhere.
const BROWSER_VARIABLE: &str = "CHROMIUM";

/// Runs all that can run here; `arguments` go to the journeys, such as `--base URL` or `--only WORDS`.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let folder = root.join(JOURNEYS);
    if let Err(error) = need("node", "tests and journeys are in JavaScript") {
        println!("dashboard: skipped, {error:#}");
        return Ok(());
    }
    println!("== tests of the scripts");
    succeed(Command::new("node").arg("--test").args(tests(&folder)?))?;
    let modules = match modules(root, &folder) {
        Ok(modules) => modules,
        Err(error) => {
            println!("dashboard: types and journeys skipped, {error:#}");
            return Ok(());
        }
    };
    println!("== types of the scripts");
    let compiler = modules.join("node_modules").join("typescript").join("bin").join("tsc");
    succeed(Command::new("node").arg(compiler).arg("--project").arg(&folder))?;
    match browser() {
        Ok(browser) => journeys(root, &folder, &modules, &browser, arguments),
        Err(error) => {
            println!("dashboard: journeys skipped, {error:#}");
            Ok(())
        }
    }
}

fn tests(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        if path.to_string_lossy().ends_with(".test.mjs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The folder with the packages, installed when they are missing or others.
fn modules(root: &Path, folder: &Path) -> Result<PathBuf> {
    let place = target_folder(root)?.join("dashboard");
    fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
    let lock = fs::read_to_string(folder.join("package-lock.json")).context("read package-lock.json")?;
    if !holds(&place, &lock) {
        need("npm", "it installs the driver of the browser")?;
        println!("== installing packages into {}", place.display());
        for name in ["package.json", "package-lock.json"] {
            fs::copy(folder.join(name), place.join(name)).with_context(|| format!("copy {name}"))?;
        }
        let quiet = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"];
        succeed(Command::new("npm").args(quiet).arg(&place))?;
        note(&place, &lock)?;
    }
    Ok(place)
}

fn browser() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(BROWSER_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let found = BROWSERS.iter().find_map(|name| find(name));
    found.with_context(|| {
        format!(
            "there is no browser (Debian: apt-get install chromium; {BROWSER_VARIABLE}=PATH names one elsewhere)"
        )
    })
}

fn journeys(root: &Path, folder: &Path, modules: &Path, browser: &Path, arguments: &[String]) -> Result<()> {
    cargo(root, &["build", "--locked", "--package", "quorate", "--bins"], &[])?;
    println!("== journeys in {}", browser.display());
    let target = target_folder(root)?;
    let status = Command::new("node")
        .arg(folder.join("journeys.mjs"))
        .arg("--modules")
        .arg(modules)
        .arg("--chromium")
        .arg(browser)
        .arg("--binary")
        .arg(target.join("debug").join("quorate"))
        .arg("--work")
        .arg(modules)
        .args(arguments)
        .status()
        .context("start node")?;
    if !status.success() {
        bail!("some journeys do not end as they should, see above");
    }
    Ok(())
}
