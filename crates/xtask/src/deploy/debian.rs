//! The package for Debian: built around the binary, looked into, unpacked, and judged by lintian.
//!
//! Owns: what must be in it. Does not: install it on this machine.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};

use super::{Bench, Checked, has, missing, output, read};
use crate::package;

/// Files that must be in the package.
const FILES: [&str; 8] = [
    "./usr/bin/quorate",
    "./etc/quorate/quorate.toml",
    "./lib/systemd/system/quorate.service",
    "./usr/lib/sysusers.d/quorate.conf",
    "./usr/share/doc/quorate/copyright",
    "./usr/share/doc/quorate/changelog.gz",
    "./usr/share/man/man1/quorate.1.gz",
    "./usr/share/bash-completion/completions/quorate",
];

/// Build it, twice; look into it; unpack it into an empty root and run what is there.
pub fn package(bench: &Bench) -> Result<Checked> {
    for program in ["dpkg-deb", "dpkg", "md5sum", "gzip"] {
        if !has(program) {
            return missing(program);
        }
    }
    let folder = bench.folder("debian")?;
    let one = package::deb(&bench.root, &bench.binary, &folder.join("one"))?;
    let other = package::deb(&bench.root, &bench.binary, &folder.join("other"))?;
    ensure!(fs::read(&one)? == fs::read(&other)?, "two builds of the same sources differ");
    let info = output(Command::new("dpkg-deb").arg("--info").arg(&one))?;
    ensure!(info.contains("Package: quorate") && info.contains("libc6 (>= 2."), "{info}");
    let contents = output(Command::new("dpkg-deb").arg("--contents").arg(&one))?;
    for file in FILES {
        ensure!(
            contents.lines().any(|line| line.ends_with(file)),
            "{file} is not in the package:\n{contents}"
        );
    }
    ensure!(
        contents.lines().all(|line| line.contains(" root/root ")),
        "a file belongs to somebody:\n{contents}"
    );
    for script in ["postinst", "prerm", "postrm"] {
        output(Command::new("sh").arg("-n").arg(bench.root.join("deploy/debian").join(script)))?;
    }
    let root = folder.join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info"))?;
    fs::create_dir_all(root.join("var/lib/dpkg/updates"))?;
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let flags = ["--force-depends", "--force-script-chrootless", "--force-not-root", "--log=/dev/null"];
    let installed = format!("--root={}", root.display());
    output(Command::new("dpkg").arg(&installed).args(flags).arg("--unpack").arg(&one))?;
    let version = output(Command::new(root.join("usr/bin/quorate")).arg("--version"))?;
    ensure!(version.starts_with("quorate "), "{version}");
    let config = root.join("etc/quorate/quorate.toml.dpkg-new");
    output(Command::new(root.join("usr/bin/quorate")).args(["config", "check", "--config"]).arg(config))?;
    let users = if has("systemd-sysusers") {
        let place = format!("--root={}", root.display());
        output(Command::new("systemd-sysusers").arg(place).arg("quorate.conf"))?;
        let made = read(&root.join("etc/passwd"))?;
        ensure!(made.contains("quorate:x:") && made.contains("/usr/sbin/nologin"), "no user: {made}");
        ", its user is made"
    } else {
        ""
    };
    let bytes = fs::metadata(&one)?.len();
    Ok(Checked::Passed(format!("{bytes} bytes, built twice alike, unpacked and run{users}")))
}

/// No error of lintian; its warnings are counted.
pub fn lintian(bench: &Bench) -> Result<Checked> {
    for program in ["lintian", "dpkg-deb"] {
        if !has(program) {
            return missing(program);
        }
    }
    let built = package::deb(&bench.root, &bench.binary, &bench.folder("lintian")?.join("package"))?;
    let flags = ["--allow-root", "--fail-on", "error", "--no-tag-display-limit"];
    let said = output(Command::new("lintian").args(flags).arg(built))?;
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("W:")).collect();
    Ok(Checked::Passed(format!("no errors, {} warnings {warnings:?}", warnings.len())))
}
