//! The container: its last stage built around the local binary, and the program run in it as whoever it names.
//!
//! Owns: what is checked of the file and of the image. Does not: build the first stage, which needs a registry.
//! Invariants: nothing of this machine is seen by the program in the container but its kernel.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, Checked, Running, has, missing, output, write};

/// Name of the image, known to this check only.
const IMAGE: &str = "quorate-check";

/// Longest wait for the node in the container.
const ALIVE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Builds the image and runs the program in it.
pub fn image(bench: &Bench) -> Result<Checked> {
    for program in ["buildah", "ip", "chroot", "ldd"] {
        if !has(program) {
            return missing(program);
        }
    }
    if output(Command::new("id").arg("-u"))?.trim() != "0" {
        return Ok(Checked::Skipped("it takes root to change the root of a process".to_owned()));
    }
    let folder = bench.folder("container")?;
    let collect =
        ["deploy/container/collect".as_ref(), bench.binary.as_os_str(), folder.join("image").as_os_str()]
            .map(ToOwned::to_owned);
    output(Command::new("sh").current_dir(&bench.root).args(collect))?;
    write(&folder.join("Containerfile"), &last_stage(&bench.deploy_file("container/Containerfile")?)?)?;
    let buildah = || {
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(folder.join("storage"));
        command.arg("--runroot").arg(folder.join("run")).current_dir(&folder);
        command
    };
    let build = ["build", "--format", "docker", "--file", "Containerfile", "--tag", IMAGE, "."];
    if let Err(error) = output(buildah().args(build)) {
        let text = format!("{error:#}");
        return match text.contains("ermission denied") || text.contains("not permitted") {
            true => Ok(Checked::Skipped("buildah may not build here".to_owned())),
            false => Err(error),
        };
    }
    let inspected = output(buildah().args(["inspect", "--type", "image", "--format", "{{.Docker}}", IMAGE]))?;
    for part in ["10001:10001", "/usr/bin/quorate", "SIGTERM", "--check"] {
        ensure!(inspected.contains(part), "the image has no {part}: {inspected}");
    }
    let container = output(buildah().args(["from", IMAGE]))?;
    let root = output(buildah().args(["mount", container.trim()]))?;
    let root = root.trim();
    ensure!(!fs::exists(format!("{root}/bin/sh"))?, "there is a shell in the container");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("chroot");
        command.args(["--userspec=10001:10001", root, "/usr/bin/quorate"]).args(arguments);
        command
    };
    let version = output(&mut run(&["--version"]))?;
    ensure!(version.starts_with("quorate "), "{version}");
    output(&mut run(&["config", "check", "--config", "/etc/quorate/quorate.toml"]))?;
    serve(root)
}

/// The image's own command and its health check, in a network of their own.
fn serve(root: &str) -> Result<Checked> {
    let network = format!("quorate-{}-container", std::process::id());
    if let Err(error) = output(Command::new("ip").args(["netns", "add", &network])) {
        return Ok(Checked::Skipped(format!("built; network namespaces cannot be made here: {error:#}")));
    }
    let _removed_at_the_end = Network(network.clone());
    output(Command::new("ip").args(["-n", &network, "link", "set", "lo", "up"]))?;
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &network,
            "chroot",
            "--userspec=10001:10001",
            root,
            "/usr/bin/quorate",
        ]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let node = Running(inside(&["serve", "--config", "/etc/quorate/quorate.toml"]).spawn()?);
    let begun = Instant::now();
    while !inside(&["status", "--check", "ready"]).status()?.success() {
        ensure!(begun.elapsed() < ALIVE_WAIT_MAX, "the node in the container does not become ready");
        super::pause();
    }
    ensure!(inside(&["status", "--check", "alive"]).status()?.success(), "its health check fails");
    ensure!(
        fs::exists(format!("{root}/var/lib/quorate/data/founding.json"))?,
        "its data is not where it should be"
    );
    node.terminate()?;
    Ok(Checked::Passed(
        "built, runs without root or shell, its health check passes, it stops when told".to_owned(),
    ))
}

struct Network(String);

impl Drop for Network {
    fn drop(&mut self) {
        let _removed = output(Command::new("ip").args(["netns", "del", &self.0]));
    }
}

/// The stage that becomes the image, with the files of the one before it from a folder.
fn last_stage(text: &str) -> Result<String> {
    let (_, stage) = text.rsplit_once("\nFROM ").context("two stages")?;
    if !stage.starts_with("scratch\n") {
        bail!("the last stage is not empty at first");
    }
    let stage = stage.replace("--from=build ", "").replace(" /image", " image");
    Ok(format!("FROM {stage}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Instructions and their first words, as a builder reads them.
    fn instructions(text: &str) -> Vec<(String, String)> {
        let joined = text.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap()).collect()
    }

    #[test]
    fn file_has_known_instructions_and_ends_without_root_or_shell() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/container");
        let text = super::super::read(&folder.join("Containerfile")).unwrap();
        let found = instructions(&text);
        let known = [
            "ARG",
            "FROM",
            "WORKDIR",
            "COPY",
            "RUN",
            "USER",
            "VOLUME",
            "EXPOSE",
            "HEALTHCHECK",
            "STOPSIGNAL",
            "ENTRYPOINT",
            "CMD",
        ];
        for (name, rest) in &found {
            assert!(known.contains(&name.as_str()), "{name} {rest}");
        }
        let last = instructions(&last_stage(&text).unwrap());
        let of = |wanted: &str| {
            let (_, rest) = last.iter().find(|(name, _)| name == wanted).unwrap();
            rest.as_str()
        };
        assert!(!last.iter().any(|(name, _)| name == "RUN"), "an empty stage can run nothing");
        assert_eq!(of("USER"), "10001:10001");
        for list in [of("ENTRYPOINT"), of("CMD"), of("HEALTHCHECK").split_once("CMD ").unwrap().1] {
            let words: Vec<String> = serde_json::from_str(list).unwrap();
            assert!(!words.is_empty(), "without a shell it is a list: {list}");
        }
        assert!(super::super::read(&folder.join("quorate.toml")).unwrap().contains("/var/lib/quorate/data"));
    }
}
