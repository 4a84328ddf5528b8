//! What `quorate config front-door` makes, read by haproxy and nginx; then both in front of a real cluster.
//!
//! Owns: the files of every pattern. Does not: contain the long test, which is the acceptance suite's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Bench, Checked, has, missing, output, write};
use crate::ci::cargo;

const NODES: &str = "n1=127.0.0.1:1,n2=[::1]:2@3,n3=localhost:4@[::1]:5";

/// haproxy finds nothing wrong with any of its files.
pub fn haproxy(bench: &Bench) -> Result<Checked> {
    if !has("haproxy") {
        return missing("haproxy");
    }
    let folder = bench.folder("front-door/haproxy")?;
    let certificate = certificates(bench, &folder)?;
    let authority = folder.join("ca.pem").display().to_string();
    let tls = ["--pattern", "tls-at-balancer", "--cert", &certificate, "--client-ca", &authority];
    let patterns: [&[&str]; 4] =
        [&[], &["--send-proxy"], &tls, &["--keep-connections", "--listen", "[::]:8883"]];
    for flags in patterns {
        let file = folder.join("haproxy.cfg");
        write(&file, &made(bench, "haproxy", flags)?)?;
        output(Command::new(program("haproxy")).arg("-c").arg("-f").arg(&file))
            .with_context(|| flags.join(" "))?;
    }
    Ok(Checked::Passed(format!("haproxy takes the files of {} patterns", patterns.len())))
}

/// nginx finds nothing wrong with any of its files.
pub fn nginx(bench: &Bench) -> Result<Checked> {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !has("nginx") {
        return missing("nginx");
    }
    if !Path::new(MODULE).exists() {
        return missing("libnginx-mod-stream");
    }
    let folder = bench.folder("front-door/nginx")?;
    certificates(bench, &folder)?;
    let place = |name: &str| folder.join(name).display().to_string();
    let (certificate, key, nodes) = (place("front.pem"), place("front.key"), place("nodes.conf"));
    let tls = ["--pattern", "tls-at-balancer", "--cert", &certificate, "--key", &key];
    let patterns: [&[&str]; 4] = [&[], &["--send-proxy"], &tls, &["--upstream-file", &nodes]];
    for flags in patterns {
        write(&folder.join("front-door.conf"), &made(bench, "nginx", flags)?)?;
        let main = format!("load_module {MODULE};\npid nginx.pid;\nevents {{}}\ninclude front-door.conf;\n");
        write(&folder.join("nginx.conf"), &main)?;
        let mut check = Command::new(program("nginx"));
        output(check.arg("-t").arg("-p").arg(&folder).args(["-e", "error.log", "-c", "nginx.conf"]))
            .with_context(|| flags.join(" "))?;
    }
    Ok(Checked::Passed(format!("nginx takes the files of {} patterns", patterns.len())))
}

/// Nodes that fail behind both, as long as it takes.
pub fn cluster(bench: &Bench) -> Result<Checked> {
    if !has("haproxy") && !has("nginx") {
        return missing("neither haproxy nor nginx");
    }
    let suite = ["test", "--locked", "--quiet", "--package", "quorate-tests", "--test", "acceptance", "--"];
    let chosen = ["--ignored", "--test-threads", "1", "--nocapture", "front_door"];
    cargo(&bench.root, &[&suite[..], &chosen].concat(), &[("QUORATE_BIN", &bench.binary)])?;
    Ok(Checked::Passed("nodes that are not ready get no new connections".to_owned()))
}

fn made(bench: &Bench, balancer: &str, flags: &[&str]) -> Result<String> {
    let mut command = Command::new(&bench.binary);
    output(command.args(["config", "front-door", balancer, "--nodes", NODES]).args(flags))
}

/// An authority and a certificate; gives the file with certificate and key in one.
fn certificates(bench: &Bench, folder: &Path) -> Result<String> {
    for arguments in [["ca"].as_slice(), &["node", "front"]] {
        output(Command::new(&bench.binary).arg("cert").args(arguments).arg("--dir").arg(folder))?;
    }
    let both = folder.join("both.pem");
    let read = |name: &str| super::read(&folder.join(name));
    write(&both, &(read("front.pem")? + &read("front.key")?))?;
    Ok(both.display().to_string())
}

/// Where administrators have it, when it is not in the search path.
fn program(name: &str) -> String {
    let path = format!("/usr/sbin/{name}");
    if Path::new(&path).exists() { path } else { name.to_owned() }
}
