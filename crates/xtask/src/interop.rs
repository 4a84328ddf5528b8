//! `cargo xtask interop`: clients that others wrote, on a cluster of three real nodes.
//!
//! Owns: what each client needs on this machine, and where it is kept: `interop` in the target folder.
//! Does not: install system packages; start nodes or judge what happens, which the program `interop` of crates/tests
//! does.
//! Invariants: a client that cannot be had is left out with a line that says why, never silently; versions from a
//! registry are fixed here.
//! See: docs/interop.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::ci::{cargo, target_folder};
use crate::programs::{holds, need, note, succeed};

/// Packages of the virtual environment for the clients in Python.
const PYTHON_PACKAGES: [&str; 2] = ["paho-mqtt==2.2.0", "aiomqtt==2.5.1"];
/// The package of the client in JavaScript.
const NODE_PACKAGE: &str = "mqtt@5.16.0";
/// Folder of the drivers, from the root of the repository.
const DRIVERS: &str = "crates/tests/interop";

/// A client, and how its driver is made ready: the command that starts it, or why there is none.
struct Client {
    name: &'static str,
    prepare: fn(&Place) -> Result<Vec<String>>,
}

const CLIENTS: [Client; 6] = [
    Client { name: "mosquitto", prepare: mosquitto },
    Client { name: "paho-python", prepare: |place| in_environment(place, "paho_python.py") },
    Client { name: "aiomqtt", prepare: |place| in_environment(place, "aiomqtt_client.py") },
    Client { name: "paho-c", prepare: paho_c },
    Client { name: "mqtt-js", prepare: mqtt_js },
    Client { name: "rumqttc", prepare: rumqttc },
];

/// Where things are.
struct Place {
    drivers: PathBuf,
    binaries: PathBuf,
    cache: PathBuf,
}

impl Place {
    fn find(root: &Path) -> Result<Place> {
        let target = target_folder(root)?;
        let cache = target.join("interop");
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        Ok(Place { drivers: root.join(DRIVERS), binaries: target.join("debug"), cache })
    }

    fn driver(&self, name: &str) -> String {
        shown(&self.drivers.join(name))
    }
}

/// Runs the named clients, or all.
pub fn run(root: &Path, names: &[String]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| CLIENTS.iter().all(|client| client.name != **name)) {
        let known: Vec<&str> = CLIENTS.iter().map(|client| client.name).collect();
        bail!("no client is called {unknown:?}; there are {}", known.join(", "));
    }
    build(root)?;
    let place = Place::find(root)?;
    let chosen = |client: &&Client| names.is_empty() || names.iter().any(|name| name == client.name);
    let mut prepared = Vec::new();
    for client in CLIENTS.iter().filter(chosen) {
        match (client.prepare)(&place) {
            Ok(command) => prepared.push(json!({ "name": client.name, "command": command })),
            Err(error) => println!("{}: skipped, {error:#}", client.name),
        }
    }
    if prepared.is_empty() {
        bail!("none of the clients can be had on this machine");
    }
    start(&place, &prepared)
}

/// What `ci` runs: mosquitto's clients, which need no registry. Everything is built
/// already: building these packages alone would choose other features and compile them once more.
pub fn run_cheap(root: &Path) -> Result<()> {
    let place = Place::find(root)?;
    match mosquitto(&place) {
        Ok(command) => start(&place, &[json!({ "name": "mosquitto", "command": command })]),
        Err(error) => {
            println!("interop of mosquitto: skipped, {error:#}");
            Ok(())
        }
    }
}

fn build(root: &Path) -> Result<()> {
    let packages = ["--package", "quorate", "--package", "quorate-tests"];
    cargo(root, &[&["build", "--locked", "--bins"], packages.as_slice()].concat(), &[])
}

fn start(place: &Place, clients: &[serde_json::Value]) -> Result<()> {
    let list = place.cache.join("clients.json");
    fs::write(&list, serde_json::to_string_pretty(clients)?)
        .with_context(|| format!("write {}", list.display()))?;
    let status = Command::new(place.binaries.join("interop"))
        .arg(&list)
        .env("QUORATE_BIN", place.binaries.join("quorate"))
        .status()
        .context("start the program interop of crates/tests")?;
    if !status.success() {
        bail!("some clients do not get what they should, see above");
    }
    Ok(())
}

fn mosquitto(place: &Place) -> Result<Vec<String>> {
    for program in ["mosquitto_sub", "mosquitto_pub"] {
        need(program, "Debian: apt-get install mosquitto-clients")?;
    }
    need("python3", "its driver is in Python")?;
    Ok(vec!["python3".to_owned(), place.driver("mosquitto.py")])
}

/// A driver in the virtual environment, which is made when it is missing or has other packages.
fn in_environment(place: &Place, driver: &str) -> Result<Vec<String>> {
    need("python3", "the client is in Python")?;
    let environment = place.cache.join("python");
    let python = environment.join("bin").join("python");
    if !holds(&environment, &PYTHON_PACKAGES.join(" ")) {
        println!("== installing {} into {}", PYTHON_PACKAGES.join(", "), environment.display());
        succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
        note(&environment, &PYTHON_PACKAGES.join(" "))?;
    }
    Ok(vec![shown(&python), place.driver(driver)])
}

fn mqtt_js(place: &Place) -> Result<Vec<String>> {
    need("node", "the client is in JavaScript")?;
    let folder = place.cache.join("node");
    if !holds(&folder, NODE_PACKAGE) {
        need("npm", "it installs the client")?;
        println!("== installing {NODE_PACKAGE} into {}", folder.display());
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let quiet = ["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"];
        succeed(Command::new("npm").args(quiet).arg(&folder).arg(NODE_PACKAGE))?;
        note(&folder, NODE_PACKAGE)?;
    }
    Ok(vec!["node".to_owned(), place.driver("mqtt_js.mjs"), shown(&folder.join("node_modules"))])
}

fn paho_c(place: &Place) -> Result<Vec<String>> {
    need("cc", "the client is a C library")?;
    let program = shown(&place.cache.join("paho_c"));
    let output = Command::new("cc")
        .args(["-Wall", "-o", &program, &place.driver("paho_c.c"), "-lpaho-mqtt3c"])
        .output()
        .context("start cc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let missing = said.contains("MQTTClient.h") || said.contains("-lpaho-mqtt3c");
        bail!(
            "{}",
            if missing { "it is not installed (Debian: apt-get install libpaho-mqtt-dev)" } else { &said }
        );
    }
    Ok(vec![program])
}

fn rumqttc(place: &Place) -> Result<Vec<String>> {
    Ok(vec![shown(&place.binaries.join("interop-rumqttc"))])
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
