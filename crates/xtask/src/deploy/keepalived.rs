//! The shared address: keepalived's configuration read by keepalived, and moved between two nodes that really run.
//!
//! Owns: three network namespaces, two of them machines with a node, one the network between them with a client.
//! Does not: touch the network of this machine. Invariants: the namespaces go, whatever the check does.
//! Limits: MOVE_WAIT_MAX.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, Checked, Running, has, missing, node_command, output, write};

/// The address in the files, which is one for documentation.
const SHARED: &str = "192.0.2.10";

/// Longest wait for the address to come or to move.
const MOVE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Two machines and the network between them.
struct Machines {
    /// Namespaces: two machines, then the network.
    names: [String; 3],
}

impl Machines {
    /// None when this machine does not allow it, with the reason.
    fn make() -> Result<Result<Machines, String>> {
        let names = ["a", "b", "net"].map(|part| format!("quorate-{}-{part}", std::process::id()));
        let machines = Machines { names };
        for name in &machines.names {
            if let Err(error) = ip(&["netns", "add", name]) {
                return Ok(Err(format!("network namespaces cannot be made here: {error:#}")));
            }
        }
        let [a, b, network] = &machines.names;
        ip(&["-n", network, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", network, "address", "add", "192.0.2.3/24", "dev", "br0"])?;
        for (machine, port, address) in [(a, "a0", "192.0.2.1/24"), (b, "b0", "192.0.2.2/24")] {
            let link = [
                "-n", network, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine,
            ];
            ip(&link)?;
            ip(&["-n", network, "link", "set", port, "master", "br0", "up"])?;
            ip(&["-n", machine, "address", "add", address, "dev", "eth0"])?;
            ip(&["-n", machine, "link", "set", "eth0", "up"])?;
            ip(&["-n", machine, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", network, "link", "set", "br0", "up"])?;
        Ok(Ok(machines))
    }

    /// A command on one of them.
    fn command(&self, at: usize, program: &str) -> Result<Command> {
        let name = self.names.get(at).context("a namespace of that number")?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name, program]);
        Ok(command)
    }

    /// Whether a machine has the shared address.
    fn has_address(&self, at: usize) -> Result<bool> {
        let name = self.names.get(at).context("a namespace of that number")?;
        Ok(ip(&["-n", name, "-brief", "address", "show", "dev", "eth0"])?.contains(SHARED))
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was not made cannot be removed.
            let _removed = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    output(Command::new("ip").args(arguments))
}

/// The file as it is, but for the user and the place of the program.
fn config(bench: &Bench, file: &str) -> Result<String> {
    let text = bench.deploy_file(&format!("keepalived/{file}"))?;
    let text = text.replace("script_user quorate", "script_user root");
    Ok(text.replace("/usr/bin/quorate", &bench.binary.display().to_string()))
}

/// keepalived finds nothing wrong with the files.
pub fn files(bench: &Bench) -> Result<Checked> {
    let machines = match ready()? {
        Ok(machines) => machines,
        Err(skipped) => return Ok(skipped),
    };
    let folder = bench.folder("keepalived")?;
    for file in ["nodes.conf", "balancers.conf"] {
        let path = folder.join(file);
        write(&path, &config(bench, file)?)?;
        let mut command = machines.command(0, "keepalived")?;
        output(command.arg("--config-test").arg("-f").arg(&path)).with_context(|| file.to_owned())?;
    }
    write(&folder.join("wrong.conf"), &config(bench, "nodes.conf")?.replace("eth0", "eth9"))?;
    let mut command = machines.command(0, "keepalived")?;
    let wrong = output(command.arg("--config-test").arg("-f").arg(folder.join("wrong.conf")));
    ensure!(wrong.is_err(), "keepalived finds nothing wrong with a wrong file: the check is worth nothing");
    Ok(Checked::Passed("nodes.conf and balancers.conf are in order".to_owned()))
}

fn ready() -> Result<Result<Machines, Checked>> {
    for program in ["keepalived", "ip"] {
        if !has(program) {
            return missing(program).map(Err);
        }
    }
    Ok(Machines::make()?.map_err(Checked::Skipped))
}

/// A node that stops answering loses the address to the other one, and a client goes on there.
pub fn address(bench: &Bench) -> Result<Checked> {
    let machines = match ready()? {
        Ok(machines) => machines,
        Err(skipped) => return Ok(skipped),
    };
    let mut nodes = Vec::new();
    let mut keepers = Vec::new();
    for (at, priority) in [(0, "100"), (1, "90")] {
        let folder = bench.folder(&format!("address/{at}"))?;
        let mut command = node_command("ip".as_ref(), &folder)?;
        // Beyond loopback, but of a network that nobody else is on.
        let text = "[node]\ndata_dir = \"data\"\n[[listener]]\nbind = \"0.0.0.0:1883\"\ninsecure = true\n";
        write(&folder.join("quorate.toml"), text)?;
        let name = machines.names.get(at).context("a machine")?;
        command.args(["netns", "exec", name]).arg(&bench.binary).args(["serve", "--config", "quorate.toml"]);
        nodes.push(Running(command.spawn().context("start a node")?));
        let file = folder.join("keepalived.conf");
        let own = config(bench, "nodes.conf")?.replace("priority 100", &format!("priority {priority}"));
        write(&file, &own)?;
        let mut keeper = machines.command(at, "keepalived")?;
        keeper.args(["-n", "-l", "-P", "-f"]).arg(&file);
        keeper.arg("-p").arg(folder.join("pid")).arg("-r").arg(folder.join("vrrp-pid"));
        let log = std::fs::File::create(folder.join("keepalived.log"))?;
        keeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        keepers.push(Running(keeper.spawn().context("start keepalived")?));
    }
    let first = wait_for("the address to come", || holder(&machines))?;
    wait_for("a client to be served", || published(&machines, bench))?;
    let signal = |name: &str| {
        let node = nodes.get(first).context("the node that has the address")?;
        output(Command::new("kill").arg(format!("-{name}")).arg(node.0.id().to_string()))
    };
    signal("STOP")?;
    let begun = Instant::now();
    let second = wait_for("the address to move", || Ok(holder(&machines)?.filter(|at| *at != first)));
    let second = second?;
    wait_for("a client to be served again", || published(&machines, bench))?;
    let moved = begun.elapsed();
    signal("CONT")?;
    // It takes its place again without taking the address.
    wait_for("the node to be ready again", || {
        let mut check = machines.command(first, &bench.binary.display().to_string())?;
        Ok(output(check.args(["status", "--check", "ready"])).ok())
    })?;
    ensure!(holder(&machines)? == Some(second), "the address went back to a node that had failed");
    let seconds = moved.as_secs_f64();
    Ok(Checked::Passed(format!(
        "a stopped node gave the address up; a client was served {seconds:.1} s later"
    )))
}

/// The only machine that has the address.
fn holder(machines: &Machines) -> Result<Option<usize>> {
    Ok(match (machines.has_address(0)?, machines.has_address(1)?) {
        (true, false) => Some(0),
        (false, true) => Some(1),
        _ => None,
    })
}

fn published(machines: &Machines, bench: &Bench) -> Result<Option<()>> {
    let mut client = machines.command(2, &bench.binary.display().to_string())?;
    client.args(["pub", "-h", SHARED, "-t", "a", "-m", "x", "-q", "1"]);
    Ok(output(&mut client).ok().map(|_| ()))
}

fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    while begun.elapsed() < MOVE_WAIT_MAX {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        super::pause();
    }
    bail!("waited {MOVE_WAIT_MAX:?} for {what}")
}
