//! `cargo xtask package deb`: a package for Debian, built with dpkg-deb alone.
//!
//! Owns: what is in the package and where. Does not: publish; build for another architecture than that of this machine.
//! Invariants: equal sources and an equal binary give an equal package, byte for byte; every file in it belongs to root;
//! dependencies come from the binary, not from memory.
//! See: docs/operations/deploy.md.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::ci::{cargo, cargo_metadata, target_folder};
use crate::deploy::{output, read, write};

/// Who is named in the package.
const MAINTAINER: &str = "The Quorate authors <quorate@example.net>";

/// Builds the release binary and the package; says where it is.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    if arguments != ["deb"] {
        bail!("usage: cargo xtask package deb");
    }
    cargo(root, &["build", "--locked", "--release", "--package", "quorate"], &[])?;
    let target = target_folder(root)?;
    let package = deb(root, &target.join("release").join("quorate"), &target.join("package"))?;
    println!("{}", package.display());
    Ok(())
}

/// Builds the package around a binary; `folder` is made anew. Gives the file.
pub fn deb(root: &Path, binary: &Path, folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let tree = folder.join("tree");
    let deploy = root.join("deploy");
    fill(root, binary, &tree)?;
    let version = version(root)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let control = tree.join("DEBIAN");
    for (name, mode) in [("postinst", 0o755), ("prerm", 0o755), ("postrm", 0o755)] {
        install(&deploy.join("debian").join(name), &control.join(name), mode)?;
    }
    write(&control.join("conffiles"), "/etc/quorate/quorate.toml\n")?;
    let sums = Command::new("sh")
        .current_dir(&tree)
        .args([
            "-c",
            "find . -type f ! -path './DEBIAN/*' -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 md5sum",
        ])
        .output()
        .context("sum up the files")?;
    ensure!(sums.status.success() && !sums.stdout.is_empty(), "the sums of the files cannot be made");
    fs::write(control.join("md5sums"), sums.stdout)?;
    let size = output(Command::new("du").args(["-sk", "--apparent-size", "--exclude=DEBIAN"]).arg(&tree))?;
    let text =
        control_text(&version, architecture.trim(), size.split_whitespace().next(), &fs::read(binary)?)?;
    write(&control.join("control"), &text)?;
    modes(&tree)?;
    let package = folder.join(format!("quorate_{version}_{}.deb", architecture.trim()));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree).arg(&package);
    output(build.env("SOURCE_DATE_EPOCH", date(root)?.trim()))?;
    Ok(package)
}

/// What is installed, without DEBIAN.
fn fill(root: &Path, binary: &Path, tree: &Path) -> Result<()> {
    let deploy = root.join("deploy");
    let program = tree.join("usr/bin/quorate");
    install(binary, &program, 0o755)?;
    if crate::deploy::has("strip") {
        output(Command::new("strip").arg("--strip-debug").arg(&program))?;
    }
    for (from, to) in [
        ("debian/quorate.toml", "etc/quorate/quorate.toml"),
        ("systemd/quorate.service", "lib/systemd/system/quorate.service"),
        ("systemd/quorate-front-door.service", "lib/systemd/system/quorate-front-door.service"),
        ("systemd/quorate.sysusers", "usr/lib/sysusers.d/quorate.conf"),
        ("debian/copyright", "usr/share/doc/quorate/copyright"),
        ("debian/lintian-overrides", "usr/share/lintian/overrides/quorate"),
    ] {
        install(&deploy.join(from), &tree.join(to), 0o644)?;
    }
    let doc = tree.join("usr/share/doc/quorate");
    compressed(&read(&root.join("CHANGELOG.md"))?, &doc.join("NEWS"))?;
    let day = output(Command::new("date").args(["-u", "-R", "-d", &format!("@{}", date(root)?.trim())]))?;
    let changes = format!(
        "quorate ({}) unstable; urgency=medium\n\n  * What is new is in NEWS.gz.\n\n -- {MAINTAINER}  {}\n",
        version(root)?,
        day.trim()
    );
    compressed(&changes, &doc.join("changelog"))?;
    let pages = tree.join("usr/share/man/man1");
    output(Command::new(binary).args(["man", "--dir"]).arg(&pages))?;
    for page in fs::read_dir(&pages)? {
        output(Command::new("gzip").arg("-9nf").arg(page?.path()))?;
    }
    for (shell, to) in [
        ("bash", "usr/share/bash-completion/completions/quorate"),
        ("zsh", "usr/share/zsh/vendor-completions/_quorate"),
        ("fish", "usr/share/fish/vendor_completions.d/quorate.fish"),
    ] {
        let file = tree.join(to);
        fs::create_dir_all(file.parent().context("a folder for the file")?)?;
        write(&file, &output(Command::new(binary).args(["completions", shell]))?)?;
    }
    Ok(())
}

fn control_text(version: &str, architecture: &str, kilobytes: Option<&str>, binary: &[u8]) -> Result<String> {
    let glibc = glibc(binary).context("the binary needs no version of glibc: is it one for this system?")?;
    Ok(format!(
        "Package: quorate
Version: {version}
Architecture: {architecture}
Maintainer: {MAINTAINER}
Installed-Size: {size}
Depends: libc6 (>= 2.{glibc}), libgcc-s1, passwd
Suggests: haproxy
Section: net
Priority: optional
Description: MQTT broker cluster that loses nothing it has acknowledged
 A broker for MQTT 3.1, 3.1.1 and 5.0 in one program: nodes replicate what
 they acknowledge, and any minority of them may be lost.
 .
 The package has the program and a unit for systemd. It starts nothing: a
 node has to be configured before its first start.
",
        size = kilobytes.unwrap_or("0"),
    ))
}

/// The newest version 2.N of glibc that a symbol in the binary asks for.
fn glibc(binary: &[u8]) -> Option<u32> {
    const MARK: &[u8] = b"GLIBC_2.";
    let starts = binary.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let digits = starts.filter_map(|(place, _)| {
        let rest = binary.get(place + MARK.len()..)?;
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(rest.get(..length)?).ok()?.parse::<u32>().ok()
    });
    digits.max()
}

/// The version of the workspace.
fn version(root: &Path) -> Result<String> {
    let metadata = cargo_metadata(root)?;
    let packages = metadata.get("packages").and_then(|packages| packages.as_array()).context("packages")?;
    let package = packages.iter().find(|package| package.get("name").is_some_and(|name| name == "quorate"));
    let version =
        package.and_then(|package| package.get("version")?.as_str()).context("the version of quorate")?;
    Ok(version.to_owned())
}

/// When the sources were last changed: all files of the package have this time.
fn date(root: &Path) -> Result<String> {
    let committed = output(Command::new("git").current_dir(root).args(["log", "-1", "--format=%ct"]));
    // Sources without a repository: any fixed time does.
    Ok(committed.unwrap_or_else(|_| "1700000000".to_owned()))
}

fn install(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a folder for the file")?)?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// With gzip, without a time and a name in it.
fn compressed(text: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a folder for the file")?)?;
    write(to, text)?;
    output(Command::new("gzip").args(["-9nf"]).arg(to)).map(|_| ())
}

/// Whatever the mask of whoever builds it.
fn modes(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            modes(&path)?;
        } else {
            let executable = fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_version_of_glibc_is_asked_for() {
        assert_eq!(glibc(b"xGLIBC_2.17\0GLIBC_2.34\0GLIBC_2.3.4\0GLIBC_PRIVATE"), Some(34));
        assert_eq!(glibc(b"static"), None);
        let text = control_text("1.2.3", "amd64", Some("7"), b"GLIBC_2.36").unwrap();
        assert!(text.contains("Depends: libc6 (>= 2.36)") && text.contains("Version: 1.2.3\n"), "{text}");
    }
}
