//! The cluster under test: real processes of `quorate serve`, each with its data folder, log and addresses.
//!
//! Owns: configuration, certificates, processes; all end with the value. Does not: inject faults; speak MQTT.
//! Invariants: a process that ended although nobody ended it is noted. What was started is killed, whatever the run does.
//! Limits: every wait has a deadline.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_api::{ClusterState, GroupStatus};
use quorate_tests::{http, pause, wait_at_most};

use crate::client::Ground;
use crate::machine::{self, process_state, signal};
use crate::network::{self, Network};
use crate::tracer;
use crate::volume::{self, Volume};

/// Nodes of a run.
pub const NODES: usize = 3;

/// Groups that hold sessions.
const PARTITIONS: u32 = 4;

/// Small segments, so that the load reaches their ends; limits of the disk that fit volumes of a GiB.
const STORAGE: &str = "segment_bytes = \"32MiB\"\nlog_bytes_target = \"128MiB\"\n\
                       disk_soft_bytes = \"160MiB\"\ndisk_reserve_bytes = \"32MiB\"";

/// A cluster founds itself within so long, on a machine that has other work too.
const START_MAX: Duration = Duration::from_secs(60);

/// Leaders that stayed for so long stay.
const STEADY: Duration = Duration::from_secs(5);

/// Lines of the log of a node that are shown when the cluster does not come up.
const LAST_LINES: usize = 8;

/// A signalled process ends within so long.
const END_MAX: Duration = Duration::from_secs(20);

/// One node.
pub struct Node {
    /// Name, `n1` to `n3`.
    pub name: String,
    /// MQTT listener.
    pub mqtt: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
    volume: Option<Volume>,
    /// It runs the other program.
    other: bool,
    /// Endings that nobody asked for.
    pub surprises: Vec<String>,
}

impl Node {
    /// Whether its process was started and not seen to end.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }
}

/// A running cluster.
pub struct Cluster {
    /// Nodes, in order.
    pub nodes: Vec<Node>,
    /// What the clients of the run were given, for faults that clients bring about; none before the run.
    pub ground: Option<Ground>,
    network: Option<Network>,
    dir: PathBuf,
    binary: PathBuf,
    /// Another program for the same data, if there is one.
    other_binary: Option<PathBuf>,
    syncs: Syncs,
}

/// What became of a node that was started.
#[derive(Clone, Copy, Debug)]
pub enum Settled {
    /// It is ready.
    Ready,
    /// Its state is damaged, and it asks to join anew.
    JoinsAnew,
    /// It ended.
    Ended(ExitStatus),
}

/// What the system makes of it when a node has it sync a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Syncs {
    /// It does.
    Done,
    /// It says that it has, and does nothing: for the proof that power cuts then lose something.
    Swallowed,
}

/// How a node is started otherwise than by itself.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// A program with its arguments that starts the node.
    pub words: Vec<String>,
    /// Variables of the environment.
    pub variables: Vec<(String, String)>,
}

impl Cluster {
    /// Founds a cluster in a new folder and waits until it is ready. `port` is the first of twelve.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(dir: &Path, port: u16, syncs: Syncs) -> Result<Cluster> {
        let network = match network::why_none() {
            None => Some(Network::make(NODES)?),
            Some(_) => None,
        };
        Cluster::found(dir, port, network, syncs)
    }

    /// As [`Cluster::start`], with all nodes on loopback whatever the machine allows.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_on_loopback(dir: &Path, port: u16) -> Result<Cluster> {
        Cluster::found(dir, port, None, Syncs::Done)
    }

    fn found(dir: &Path, port: u16, network: Option<Network>, syncs: Syncs) -> Result<Cluster> {
        let binary = quorate_tests::binary()?.to_owned();
        let other_binary = std::env::var_os("QUORATE_OTHER_BIN").map(PathBuf::from);
        let mut cluster = Cluster {
            nodes: Vec::new(),
            ground: None,
            network,
            dir: dir.to_owned(),
            binary,
            other_binary,
            syncs,
        };
        for place in 0..NODES {
            let first = port + 4 * u16::try_from(place)?;
            let host = match cluster.network {
                Some(_) => network::address(place)?,
                None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            };
            let address = |at: u16| SocketAddr::from((host, first + at));
            cluster.nodes.push(Node {
                name: format!("n{}", place + 1),
                mqtt: address(0),
                admin: address(1),
                peer: address(2),
                process: None,
                volume: None,
                other: false,
                surprises: Vec::new(),
            });
        }
        cluster.prepare()?;
        cluster.mount()?;
        (0..NODES).try_for_each(|place| cluster.run(place))?;
        if let Err(error) = cluster.wait_whole(START_MAX) {
            return Err(error.context(format!("found the cluster; {}", cluster.last_words())));
        }
        Ok(cluster)
    }

    /// What the processes said at last, and which have ended.
    fn last_words(&self) -> String {
        let mut said = String::from("what the nodes said at last:");
        for (place, node) in self.nodes.iter().enumerate() {
            let log = self.log(place).unwrap_or_else(|error| format!("{error:#}"));
            let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
            let lines = lines.into_iter().rev().chain(node.surprises.iter().map(String::as_str));
            for line in lines {
                said = format!("{said}\n{}: {line}", node.name);
            }
        }
        said
    }

    /// Writes certificates and configuration.
    fn prepare(&self) -> Result<()> {
        let tls = self.dir.join("tls");
        let make = |arguments: &[&str]| {
            let program = self.binary.display().to_string();
            machine::run(&program, &[arguments, &["--dir", &tls.display().to_string()]].concat())
        };
        make(&["cert", "ca"])?;
        for node in &self.nodes {
            make(&["cert", "node", &node.name, "--address", &node.peer.ip().to_string()])?;
            std::fs::write(self.config(&node.name), self.config_text(node))?;
        }
        Ok(())
    }

    /// Gives each node a volume of its own, or just a folder when this machine cannot.
    fn mount(&mut self) -> Result<()> {
        let why_none = volume::why_none();
        for place in 0..self.nodes.len() {
            let path = self.node_folder(&self.node(place)?.name);
            let node = self.nodes.get_mut(place).context("a node of this place")?;
            match why_none {
                None => node.volume = Some(Volume::mount(&path)?),
                Some(_) => std::fs::create_dir_all(path)?,
            }
        }
        Ok(())
    }

    /// The volume of a node.
    ///
    /// # Errors
    /// When its data is in a plain folder.
    pub fn volume(&mut self, place: usize) -> Result<&mut Volume> {
        let node = self.nodes.get_mut(place).context("a node of this place")?;
        node.volume.as_mut().with_context(|| format!("{} has no volume of its own", node.name))
    }

    /// Swaps what the volumes of two nodes hold. Neither may be mounted.
    ///
    /// # Errors
    /// When one has none.
    pub fn swap_volumes(&mut self, one: usize, other: usize) -> Result<()> {
        let volume = |place: usize| {
            let node = self.nodes.get(place).context("a node of this place")?;
            node.volume.as_ref().with_context(|| format!("{} has no volume of its own", node.name))
        };
        volume(one)?.swap(volume(other)?)
    }

    /// The network of the nodes.
    ///
    /// # Errors
    /// When they are on loopback.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the nodes are not in networks of their own")
    }

    fn config_text(&self, node: &Node) -> String {
        let Node { name, mqtt, admin, peer, .. } = node;
        let first: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("  {{ name = \"{}\", peer = \"{}\" }},\n", node.name, node.peer))
            .collect();
        format!(
            "[node]\nname = \"{name}\"\ndata_dir = \"{name}/data\"\n\
             [[listener]]\nkind = \"tcp\"\nbind = \"{mqtt}\"\ninsecure = true\n\
             handshakes_per_address_max = 2048\nconnect_rate_per_address = 0\n\
             [storage]\n{STORAGE}\n\
             [admin]\nbind = \"{admin}\"\ninsecure = true\n\
             [peer]\nbind = \"{peer}\"\nca_file = \"tls/ca.pem\"\ncert_file = \"tls/{name}.pem\"\n\
             key_file = \"tls/{name}.key\"\n\
             [cluster]\nname = \"faults\"\nbootstrap = [\n{}]\npartitions = {PARTITIONS}\n",
            first.concat()
        )
    }

    fn config(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    /// The folder that holds a node's data folder.
    fn node_folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The data folder of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn data(&self, place: usize) -> Result<PathBuf> {
        Ok(self.node_folder(&self.node(place)?.name).join("data"))
    }

    /// The log of a node's process so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self, place: usize) -> Result<String> {
        let file = self.log_file(&self.node(place)?.name);
        let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What clients of the run were given.
    ///
    /// # Errors
    /// Before the run.
    pub fn ground(&self) -> Result<&Ground> {
        self.ground.as_ref().context("there is a run")
    }

    /// The folder of the run.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// The node at a place.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, place: usize) -> Result<&Node> {
        self.nodes.get(place).with_context(|| format!("there is no node {}", place + 1))
    }

    /// Starts the process of a node.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn run(&mut self, place: usize) -> Result<()> {
        self.run_around(place, &Around::default())
    }

    /// Starts the process of a node with something around it, which becomes its process as far as this value knows.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn run_around(&mut self, place: usize, around: &Around) -> Result<()> {
        let name = self.node(place)?.name.clone();
        let log = File::options().create(true).append(true).open(self.log_file(&name))?;
        let mut words = self.network.as_ref().map(|network| network.entrance(place)).unwrap_or_default();
        if self.syncs == Syncs::Swallowed {
            words.extend(tracer::swallows_syncs());
        }
        words.extend(around.words.iter().cloned());
        let other = self.other_binary.as_ref().filter(|_| self.node(place).is_ok_and(|node| node.other));
        words.push(other.unwrap_or(&self.binary).display().to_string());
        let (program, arguments) = words.split_first().context("the program is there")?;
        let mut command = Command::new(program);
        command.args(arguments).args(["serve", "--config"]).arg(self.config(&name)).current_dir(&self.dir);
        command.envs(around.variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let node = self.nodes.get_mut(place).context("the node was there above")?;
        ensure!(node.process.is_none(), "{name} runs already");
        node.process = Some(command.spawn().with_context(|| format!("start {name}"))?);
        Ok(())
    }

    /// Process identifier of a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self, place: usize) -> Result<u32> {
        let node = self.node(place)?;
        Ok(node.process.as_ref().with_context(|| format!("{} does not run", node.name))?.id())
    }

    /// Sends a signal by name to a node.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, place: usize, name: &str) -> Result<()> {
        signal(self.pid(place)?, name)
    }

    /// kill -9 of nodes, before any has ended; gives their process identifiers, which are gone.
    ///
    /// # Errors
    /// When one does not run, or does not end.
    pub fn kill(&mut self, places: &[usize]) -> Result<Vec<u32>> {
        let pids = places.iter().map(|place| self.pid(*place)).collect::<Result<Vec<u32>>>()?;
        places.iter().try_for_each(|place| self.signal(*place, "KILL"))?;
        for place in places {
            self.wait_ended(*place)?;
        }
        for pid in &pids {
            ensure!(process_state(*pid).is_none(), "process {pid} is still there after kill -9");
        }
        Ok(pids)
    }

    /// As [`Cluster::kill`], for nodes that may have ended by themselves in the course of a fault.
    ///
    /// # Errors
    /// When one does not end.
    pub fn kill_what_runs(&mut self, places: &[usize]) -> Result<()> {
        for place in places {
            let node = self.nodes.get_mut(*place).context("a node of this place")?;
            if let Some(process) = &mut node.process {
                // It may end between a look at it and the signal.
                process.kill()?;
                self.wait_ended(*place)?;
            }
        }
        Ok(())
    }

    /// The next start of a node is with the other program, if there is one, or with the first again.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn change_program(&mut self, place: usize) -> Result<()> {
        let changes = self.other_binary.is_some();
        let node = self.nodes.get_mut(place).context("a node of this place")?;
        node.other = changes && !node.other;
        Ok(())
    }

    /// Waits until a node that was started is ready, has ended or asks to join anew.
    ///
    /// # Errors
    /// When none of it comes in time.
    pub fn wait_settled(&mut self, place: usize) -> Result<Settled> {
        let damaged = self.data(place)?.join("damaged.json");
        let node = self.nodes.get_mut(place).context("a node of this place")?;
        let (name, admin) = (node.name.clone(), node.admin.to_string());
        let process = node.process.as_mut().with_context(|| format!("{name} does not run"))?;
        let settled = wait_at_most(START_MAX, "a node to start", || {
            if let Ok(Some(status)) = process.try_wait() {
                return Some(Settled::Ended(status));
            }
            if damaged.exists() {
                return Some(Settled::JoinsAnew);
            }
            let ready = http::request(&admin, "GET /readyz", &[], "").ok()?;
            (ready.status == 200).then_some(Settled::Ready)
        })?;
        if let Settled::Ended(_) = settled {
            node.process = None;
        }
        Ok(settled)
    }

    /// Whether a node leads any group, as another one sees it.
    ///
    /// # Errors
    /// When that one does not answer.
    pub fn leads(&self, place: usize, whether: usize) -> Result<bool> {
        let state = self.state(place, false)?;
        let name = &self.node(whether)?.name;
        let ids: Vec<u64> =
            state.nodes.iter().filter(|node| node.name == *name).map(|node| node.id).collect();
        Ok(state.groups.iter().filter_map(|group| group.leader).any(|leader| ids.contains(&leader)))
    }

    /// Waits until a process has ended, and how.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_ended(&mut self, place: usize) -> Result<ExitStatus> {
        let node = self.nodes.get_mut(place).context("a node of this place")?;
        let process = node.process.as_mut().with_context(|| format!("{} does not run", node.name))?;
        let status = wait_at_most(END_MAX, "a process to end", || process.try_wait().ok().flatten())?;
        node.process = None;
        Ok(status)
    }

    /// Starts every node that does not run. One that has ended by itself is noted.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn run_all(&mut self) -> Result<()> {
        self.note_surprises()?;
        for place in 0..self.nodes.len() {
            if self.node(place)?.process.is_none() {
                self.run(place)?;
            }
        }
        Ok(())
    }

    /// Notes processes that have ended although nobody ended them.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn note_surprises(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            let Some(process) = &mut node.process else { continue };
            if let Some(status) = process.try_wait()? {
                node.surprises.push(format!("{} ended with {status}", node.name));
                node.process = None;
            }
        }
        Ok(())
    }

    /// The cluster as a node sees it.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn state(&self, place: usize, with_hash: bool) -> Result<ClusterState> {
        let path = if with_hash { "/v1/cluster/state?hash=true" } else { "/v1/cluster/state" };
        let answer = http::request(&self.node(place)?.admin.to_string(), &format!("GET {path}"), &[], "")?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// The node that leads most partitions, as any node that answers sees it.
    ///
    /// # Errors
    /// When none answers, or no partition has a leader.
    pub fn leader(&self) -> Result<usize> {
        let mut states = (0..self.nodes.len()).filter_map(|place| self.state(place, false).ok());
        let state = states.next().context("no node answers")?;
        let mut led: BTreeMap<u64, usize> = BTreeMap::new();
        for leader in state.groups.iter().filter(|group| group.id > 0).filter_map(|group| group.leader) {
            *led.entry(leader).or_default() += 1;
        }
        let most = led.into_iter().max_by_key(|(_, count)| *count).context("no partition has a leader")?;
        self.place(&state, most.0)
    }

    /// Where the node with this identity runs. A node that joined anew has another identity than the one before it.
    ///
    /// # Errors
    /// When the state names no such node, or it is none of the run.
    pub fn place(&self, state: &ClusterState, id: u64) -> Result<usize> {
        let named = state.nodes.iter().find(|node| node.id == id).context("a node with this identity")?;
        let place = self.nodes.iter().position(|node| node.name == named.name);
        place.with_context(|| format!("{} is no node of the run", named.name))
    }

    /// The terms of all groups, as the first node that answers sees them: they grow with every election.
    ///
    /// # Errors
    /// When none answers.
    pub fn terms(&self) -> Result<BTreeMap<u32, u64>> {
        let mut states = (0..self.nodes.len()).filter_map(|place| self.state(place, false).ok());
        let state = states.next().context("no node answers")?;
        Ok(state.groups.iter().map(|group| (group.id, group.term)).collect())
    }

    /// Waits until no group has changed its term for [`STEADY`]: nodes hand leadership over to where it belongs some seconds after an
    /// election, which is none.
    ///
    /// # Errors
    /// When one does again and again.
    pub fn wait_steady(&self, longest: Duration) -> Result<()> {
        let (mut since, mut seen) = (Instant::now(), BTreeMap::new());
        let steady = || {
            let terms = self.terms().unwrap_or_default();
            if terms != seen || terms.is_empty() {
                (since, seen) = (Instant::now(), terms);
            }
            (since.elapsed() >= STEADY).then_some(())
        };
        wait_at_most(longest, "terms that stay as they are", steady)
    }

    /// What a metric of a node is, over all its labels.
    ///
    /// # Errors
    /// When it does not answer, or has no such metric.
    pub fn metric(&self, place: usize, name: &str) -> Result<f64> {
        let answer = http::request(&self.node(place)?.admin.to_string(), "GET /metrics", &[], "")?;
        let value = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            rest.rsplit_once(' ')?.1.parse::<f64>().ok()
        };
        let values: Vec<f64> = answer.body.lines().filter_map(value).collect();
        ensure!(!values.is_empty(), "{}: no metric {name}", self.node(place)?.name);
        Ok(values.into_iter().sum())
    }

    /// What all nodes together have counted as dropped.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn dropped(&self) -> Result<u64> {
        self.counted("quorate_messages_dropped_total")
    }

    /// How often a leader was elected since the nodes started, and not because the one before handed over.
    ///
    /// # Errors
    /// When a node does not answer.
    pub fn elections(&self) -> Result<u64> {
        self.counted("quorate_elections_total")
    }

    fn counted(&self, metric: &str) -> Result<u64> {
        let counts = (0..self.nodes.len()).map(|place| self.metric(place, metric));
        let sum: f64 = counts.sum::<Result<f64>>()?;
        // Counters are far below what a float holds exactly.
        Ok(format!("{sum:.0}").parse()?)
    }

    /// Waits until each group has one leader, and a majority of nodes knows it.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_led(&self, longest: Duration) -> Result<()> {
        let addresses: Vec<SocketAddr> = self.nodes.iter().map(|node| node.admin).collect();
        let majority = addresses.len() / 2 + 1;
        wait_at_most(longest, "a leader for each group", || led(&addresses, majority).then_some(()))
    }

    /// Waits until every node is ready and all agree on a leader for each group; gives how long it took.
    ///
    /// # Errors
    /// When they do not in time: what is wrong at last.
    pub fn wait_whole(&mut self, longest: Duration) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let problem = match self.broken() {
                None => return Ok(begin.elapsed()),
                Some(problem) => problem,
            };
            self.note_surprises()?;
            if begin.elapsed() > longest {
                bail!("waited {longest:?}: {problem}");
            }
            pause();
        }
    }

    /// What keeps the cluster from being whole.
    fn broken(&self) -> Option<String> {
        let mut leaders: BTreeMap<u32, u64> = BTreeMap::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let ready = http::request(&node.admin.to_string(), "GET /readyz", &[], "");
            match ready {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => return Some(format!("{} is not ready: {}", node.name, answer.body)),
                Err(error) => return Some(format!("{} does not answer: {error:#}", node.name)),
            }
            let state = match self.state(place, false) {
                Ok(state) => state,
                Err(error) => return Some(format!("{}: {error:#}", node.name)),
            };
            for GroupStatus { id, leader, .. } in state.groups {
                let Some(leader) = leader else {
                    return Some(format!("{} knows no leader of group {id}", node.name));
                };
                let agreed = *leaders.entry(id).or_insert(leader);
                if agreed != leader {
                    return Some(format!(
                        "group {id} is led by {agreed} and, says {}, by {leader}",
                        node.name
                    ));
                }
            }
        }
        None
    }

    /// Compares the hashes of the state at equal applied indexes, until every group has one that all replicas have shown.
    ///
    /// # Errors
    /// When two differ, or no equal index is seen in time.
    pub fn compare_states(&self, longest: Duration) -> Result<()> {
        let mut seen: BTreeMap<(u32, u64), BTreeMap<u64, String>> = BTreeMap::new();
        let mut groups = BTreeMap::new();
        let begin = Instant::now();
        loop {
            for place in 0..self.nodes.len() {
                let state = self.state(place, true)?;
                for group in state.groups {
                    let Some(hash) = group.state_hash else { continue };
                    groups.entry(group.id).or_insert(false);
                    let hashes = seen.entry((group.id, group.applied)).or_default();
                    hashes.insert(state.node_id, hash);
                    let first = hashes.values().next();
                    if hashes.values().any(|hash| Some(hash) != first) {
                        bail!("group {} at index {}: the states differ: {hashes:?}", group.id, group.applied);
                    }
                    if hashes.len() == self.nodes.len() {
                        groups.insert(group.id, true);
                    }
                }
            }
            if !groups.is_empty() && groups.values().all(|compared| *compared) {
                return Ok(());
            }
            ensure!(begin.elapsed() < longest, "no equal applied index in {longest:?}: {groups:?}");
        }
    }

    /// Lines of the nodes' logs that tell of a panic, and those of ERROR.
    ///
    /// # Errors
    /// When a log cannot be read.
    pub fn complaints(&self) -> Result<(Vec<String>, Vec<String>)> {
        let (mut panics, mut errors) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let log = std::fs::read_to_string(self.log_file(&node.name))?;
            for line in log.lines() {
                if line.contains("panicked at") {
                    panics.push(format!("{}: {line}", node.name));
                } else if line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"") {
                    errors.push(format!("{}: {line}", node.name));
                }
            }
        }
        Ok((panics, errors))
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }
}

/// Whether each group has a leader among these nodes that so many of them know.
pub fn led(addresses: &[SocketAddr], majority: usize) -> bool {
    let ask = |address: &SocketAddr| -> Option<ClusterState> {
        let answer = http::request(&address.to_string(), "GET /v1/cluster/state", &[], "").ok()?;
        serde_json::from_str(&answer.body).ok()
    };
    let states: Vec<ClusterState> = addresses.iter().filter_map(ask).collect();
    let here: BTreeSet<u64> = states.iter().map(|state| state.node_id).collect();
    let mut known: BTreeMap<u32, BTreeMap<u64, usize>> = BTreeMap::new();
    for group in states.iter().flat_map(|state| &state.groups) {
        let leaders = known.entry(group.id).or_default();
        if let Some(leader) = group.leader.filter(|leader| here.contains(leader)) {
            *leaders.entry(leader).or_default() += 1;
        }
    }
    !known.is_empty() && known.values().all(|leaders| leaders.values().any(|count| *count >= majority))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}
