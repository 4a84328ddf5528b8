//! A cluster of real processes on loopback, started by `quorate dev`.
//!
//! Owns: the processes and their directory; both end with the value. Does not: speak MQTT.
//! Invariants: what was started is killed, whatever the test does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use quorate_api::ClusterState;

use crate::binary::binary;
use crate::fault::MemoryLimit;
use crate::{http, wait_for};

/// One node as `dev` reports it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Process.
    pub pid: u32,
    /// Port of the MQTT listener on loopback.
    pub mqtt_port: u16,
    /// `host:port` of the admin listener.
    pub admin: String,
}

impl Node {
    /// Resident memory of its process in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kilobytes * 1024)
    }
}

/// A running cluster.
pub struct Cluster {
    dev: Child,
    restarted: Vec<Child>,
    /// Process ids that are known to have ended: another process may have one of them by now.
    ended: BTreeSet<u32>,
    /// Nodes, in order.
    pub nodes: Vec<Node>,
    dir: PathBuf,
}

/// Stretches of ports for one cluster each. With what `dev` adds to the first port of a stretch, all lie below the
/// range from which outgoing connections take theirs: one of these must not sit on the port of a killed node.
const STRETCHES: u32 = 220;

/// A stretch of ports in which nothing listens now. Processes begin at different ones, each call goes on.
pub(crate) fn free_ports() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..STRETCHES {
        let stretch = (std::process::id() * 7 + NEXT.fetch_add(1, Ordering::Relaxed)) % STRETCHES;
        let base = 21_000 + u16::try_from(stretch * 8)?;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (base..base + 8).all(|port| free(port) && free(port + 1_000) && free(port + 10_000)) {
            return Ok(base);
        }
    }
    anyhow::bail!("no free stretch of ports on loopback")
}

impl Cluster {
    /// Starts `count` nodes in a fresh directory; returns when all are ready for clients.
    ///
    /// # Errors
    /// When the binary does not exist, or the cluster does not become ready.
    pub fn start(test: &str, count: usize) -> Result<Cluster> {
        Cluster::start_with(test, count, binary()?)
    }

    /// As [`Cluster::start`], with another program.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub fn start_with(test: &str, count: usize, binary: &Path) -> Result<Cluster> {
        let dir = std::env::temp_dir().join(format!("quorate-test-{}-{test}", std::process::id()));
        let base = free_ports()?;
        let log = std::fs::File::create(dir.with_extension("log"))?;
        let mut dev = Command::new(binary)
            .args(["dev", "--fresh", "--json", "--nodes", &count.to_string()])
            .args(["--mqtt-port", &base.to_string(), "--admin-port", &(base + 4).to_string()])
            .arg("--dir")
            .arg(&dir)
            .stdout(Stdio::piped())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let stdout = dev.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let mut cluster =
            Cluster { dev, restarted: Vec::new(), ended: BTreeSet::new(), nodes: Vec::new(), dir };
        let ready: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("first line of dev: {line:?}"))?;
        for node in
            ready.get("nodes").and_then(|nodes| nodes.as_array()).context("nodes in the first line")?
        {
            let text = |key: &str| {
                node.get(key).and_then(|value| value.as_str()).map(str::to_owned).context(key.to_owned())
            };
            let mqtt = text("mqtt")?;
            let port = mqtt.rsplit(':').next().context("port")?.parse()?;
            let pid = node.get("pid").and_then(serde_json::Value::as_u64).context("pid")?;
            cluster.nodes.push(Node {
                name: text("name")?,
                pid: u32::try_from(pid)?,
                mqtt_port: port,
                admin: text("admin")?.trim_start_matches("http://").to_owned(),
            });
        }
        ensure!(cluster.nodes.len() == count, "{count} nodes asked for, got {}", cluster.nodes.len());
        Ok(cluster)
    }

    /// The node at a place.
    ///
    /// # Panics
    /// When there is none.
    pub fn node(&self, place: usize) -> &Node {
        self.nodes.get(place).expect("the test names a node that it started")
    }

    /// Sends a signal by name (`KILL`, `STOP`, `CONT`, `TERM`) to a node.
    ///
    /// # Errors
    /// When `kill` cannot be run.
    pub fn signal(&self, place: usize, signal: &str) -> Result<()> {
        let status =
            Command::new("kill").args([format!("-{signal}"), self.node(place).pid.to_string()]).status()?;
        ensure!(status.success(), "kill -{signal} of {}", self.node(place).name);
        Ok(())
    }

    /// kill -9. Returns when the process has ended and with it its lock on the data.
    ///
    /// # Errors
    /// When `kill` cannot be run, or the process does not end.
    pub fn kill(&mut self, place: usize) -> Result<()> {
        self.signal(place, "KILL")?;
        self.wait_ended(place)
    }

    /// Ends a node as its service manager would, and waits until it has ended.
    ///
    /// # Errors
    /// As for [`Cluster::kill`].
    pub fn stop(&mut self, place: usize) -> Result<()> {
        self.signal(place, "TERM")?;
        self.wait_ended(place)
    }

    /// The folder with the nodes' folders.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// kill -9 of all nodes before any has ended.
    ///
    /// # Errors
    /// As for one.
    pub fn kill_all(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|place| self.signal(place, "KILL"))?;
        (0..self.nodes.len()).try_for_each(|place| self.wait_ended(place))
    }

    /// Waits until a process that was told to end has ended. Until it has been waited for, it may still have files open, even
    /// as a zombie.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_ended(&mut self, place: usize) -> Result<()> {
        let pid = self.node(place).pid;
        for child in self.restarted.iter_mut().filter(|child| child.id() == pid) {
            child.wait()?;
        }
        // The first ones are children of `dev`, which waits for them.
        wait_for("a killed process to end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()))?;
        self.ended.insert(pid);
        Ok(())
    }

    /// Ports of the MQTT listeners, beginning with the node at a place.
    pub fn ports_from(&self, place: usize) -> Vec<u16> {
        let ports = self.nodes.iter().map(|node| node.mqtt_port);
        ports.cycle().skip(place).take(self.nodes.len()).collect()
    }

    /// Starts a killed node again by its configuration file, as a person would.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self, place: usize) -> Result<()> {
        self.restart_with(place, binary()?)
    }

    /// As [`Cluster::restart`], in a control group with a limit of memory.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_within(&mut self, place: usize, limit: &MemoryLimit) -> Result<()> {
        let mut command = Command::new("sh");
        // It is in the group before it takes any memory of its own.
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(limit.processes()).arg(binary()?);
        self.start_node(place, command)
    }

    /// As [`Cluster::restart`], with another program.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_with(&mut self, place: usize, program: &Path) -> Result<()> {
        self.start_node(place, Command::new(program))
    }

    fn start_node(&mut self, place: usize, mut command: Command) -> Result<()> {
        let log = std::fs::File::options().append(true).open(self.dir.with_extension("log"))?;
        let child = command
            .args(["serve", "--config"])
            .arg(self.config_file(place))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        if let Some(node) = self.nodes.get_mut(place) {
            node.pid = child.id();
            self.ended.remove(&node.pid);
        }
        self.restarted.push(child);
        Ok(())
    }

    /// The configuration file of a node.
    pub fn config_file(&self, place: usize) -> PathBuf {
        self.dir.join(&self.node(place).name).join("quorate.toml")
    }

    /// Prepares nodes that are not started yet: configuration and certificate, with the ports of a stretch of their own. The
    /// configurations of all nodes list all, so that whoever is a member lets the others in. At most four.
    ///
    /// # Errors
    /// When the files cannot be made.
    pub fn prepare(&mut self, count: u16) -> Result<()> {
        ensure!(count <= 4, "a stretch has ports for four nodes");
        let base = free_ports()?;
        let known = self.nodes.len();
        for at in 0..count {
            let name = format!("n{}", known + 1 + usize::from(at));
            let admin = format!("127.0.0.1:{}", base + 4 + at);
            // No process has this number.
            let pid = u32::MAX - u32::from(at);
            self.ended.insert(pid);
            self.nodes.push(Node { name, pid, mqtt_port: base + at, admin });
        }
        let listed = self.nodes.iter().map(|node| {
            format!("  {{ name = \"{}\", peer = \"127.0.0.1:{}\" }},\n", node.name, node.mqtt_port + 10_000)
        });
        let listed: String = listed.collect();
        for place in 0..known {
            self.configure(place, |text| match text.split_once("bootstrap = [") {
                Some((before, rest)) => {
                    let after = rest.split_once("\n]").map_or("", |(_, after)| after);
                    format!("{before}bootstrap = [\n{listed}]{after}")
                }
                None => text,
            })?;
        }
        for node in self.nodes.iter().skip(known) {
            let Node { name, mqtt_port, admin, .. } = node;
            self.run(&format!("cert node {name} --address 127.0.0.1 --dir tls"))?;
            let text = format!(
                "[node]\nname = \"{name}\"\ndata_dir = \"./data\"\n\
                 [[listener]]\nkind = \"tcp\"\nbind = \"127.0.0.1:{mqtt_port}\"\n\
                 [admin]\nbind = \"{admin}\"\n\
                 [peer]\nbind = \"127.0.0.1:{}\"\nca_file = \"../tls/ca.pem\"\n\
                 cert_file = \"../tls/{name}.pem\"\nkey_file = \"../tls/{name}.key\"\n\
                 [cluster]\nname = \"dev\"\npartitions = 16\nbootstrap = [\n{listed}]\n",
                mqtt_port + 10_000
            );
            let folder = self.dir.join(name);
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join("quorate.toml"), text)?;
        }
        Ok(())
    }

    /// The exit code of a node that was restarted by this program and has ended by itself; `None` while it runs.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn exit_code(&mut self, place: usize) -> Result<Option<i32>> {
        let pid = self.node(place).pid;
        let Some(child) = self.restarted.iter_mut().find(|child| child.id() == pid) else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.ended.insert(pid);
        }
        Ok(status.and_then(|status| status.code()))
    }

    /// Whether the process of a node runs.
    pub fn runs(&self, place: usize) -> bool {
        let pid = self.node(place).pid;
        !self.ended.contains(&pid) && Path::new(&format!("/proc/{pid}")).exists()
    }

    /// Removes all data of a node that is not running.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn wipe(&self, place: usize) -> Result<()> {
        std::fs::remove_dir_all(self.dir.join(&self.node(place).name).join("data"))?;
        Ok(())
    }

    /// The directory of the cluster; a node's configuration is in the folder of its name.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a command of the program in the directory; whoever started it waits for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, arguments: &str) -> Result<Child> {
        self.spawn_words(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`Cluster::spawn`], for arguments with spaces in them.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_words(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(binary()?);
        command.args(arguments).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("start {arguments:?}"))
    }

    /// Runs a command of the program in the directory and gives what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, arguments: &str) -> Result<String> {
        let output = self.spawn(arguments)?.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments} ended with {}: {said}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a command of the program against a node's admin listener, without a terminal, whatever becomes of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn operate(&self, place: usize, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.args(arguments).args(["--admin", &format!("http://{}", self.node(place).admin)]);
        command.stdin(Stdio::null()).output().with_context(|| format!("run {arguments:?}"))
    }

    /// Changes the configuration of a node; it counts from its next start.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(&self, place: usize, change: impl FnOnce(String) -> String) -> Result<()> {
        let file = self.dir.join(&self.node(place).name).join("quorate.toml");
        std::fs::write(&file, change(std::fs::read_to_string(&file)?))?;
        Ok(())
    }

    /// Waits until `/readyz` of a node answers 200.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_ready(&self, place: usize) -> Result<()> {
        let admin = self.node(place).admin.clone();
        wait_for(&format!("{} to be ready", self.node(place).name), || {
            get(&admin, "/readyz").ok().filter(|(status, _)| *status == 200)
        })?;
        Ok(())
    }

    /// GET from a node's admin listener: status and body.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn get(&self, place: usize, path: &str) -> Result<(u16, String)> {
        self.request(place, "GET", path, "")
    }

    /// A request to a node's admin listener, with a JSON body unless it is empty: status and body.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn request(&self, place: usize, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let node = self.node(place);
        request(&node.admin, method, path, body).with_context(|| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid)).unwrap_or_default();
            let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or("gone");
            format!("{method} {path} from {}, process {}: {state}", node.name, node.pid)
        })
    }

    /// The values of a metric of a node, by labels as they stand; the only one of a metric without labels is under "".
    ///
    /// # Errors
    /// When the node does not answer, or has no such metric.
    pub fn metric(&self, place: usize, name: &str) -> Result<BTreeMap<String, f64>> {
        let (status, body) = self.get(place, "/metrics")?;
        ensure!(status == 200, "/metrics: {status} {body}");
        let of_name = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels.to_owned(), value.parse::<f64>().ok()?))
        };
        let values: BTreeMap<_, _> = body.lines().filter_map(of_name).collect();
        ensure!(!values.is_empty(), "no metric {name}");
        Ok(values)
    }

    /// What the nodes wrote to their logs so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.with_extension("log"))?)
    }

    /// Fails when a node panicked or logged an error.
    ///
    /// # Errors
    /// With the first such lines.
    pub fn check_log(&self) -> Result<()> {
        let log = self.log()?;
        let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
        let found: Vec<&str> = log.lines().filter(bad).take(5).collect();
        ensure!(found.is_empty(), "the nodes' log has: {found:#?}");
        Ok(())
    }

    /// The cluster as a node sees it.
    ///
    /// # Errors
    /// When the node does not answer with a state.
    pub fn state(&self, place: usize, with_hash: bool) -> Result<ClusterState> {
        let path = if with_hash { "/v1/cluster/state?hash=true" } else { "/v1/cluster/state" };
        let (status, body) = self.get(place, path)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(serde_json::from_str(&body)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The nodes first: a stopped or restarted one does not end with `dev`.
        for node in self.nodes.iter().filter(|node| !self.ended.contains(&node.pid)) {
            let _ =
                Command::new("kill").args(["-KILL", &node.pid.to_string()]).stderr(Stdio::null()).status();
        }
        for child in self.restarted.iter_mut().chain([&mut self.dev]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
            let _ = std::fs::remove_file(self.dir.with_extension("log"));
        }
    }
}

/// A plain HTTP GET.
pub(crate) fn get(address: &str, path: &str) -> Result<(u16, String)> {
    request(address, "GET", path, "")
}

fn request(address: &str, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let headers = if method == "GET" { &[][..] } else { &[http::JSON] };
    let answer = http::request(address, &format!("{method} {path}"), headers, body)?;
    Ok((answer.status, answer.body))
}
