//! A whole cluster with its clients in one thread, on virtual time.
//!
//! Owns: the queue of what is to happen, hosts, network, clients, and the course of a run: start, faults, healing,
//! draining, final reads. Does not: judge what clients saw; it only knows whether the cluster comes to rest.
//! Invariants: everything happens in the order of (time, sequence); everything random comes from the seed.
//! See: docs/simulation.md.

mod atlas;
mod backups;
mod connections;
mod faults;
mod links;
mod observe;
mod process;
mod sabotage;
mod shell;
mod trouble;

use core::time::Duration;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use quorate_codec::Packet;
use quorate_node::ClientConfig;
use quorate_state::command::NodeRecord;
use quorate_state::{ClusterConfig, ConnId, GroupId, NodeId, PartitionConfig};

use crate::client::{ModelClient, Timer, Tools, Wish, text};
use crate::features::Features;
use crate::mutant::Mutant;
use crate::network::{Frame, Network};
use crate::oracle::{Conn, Event, History, trace_line};
use crate::random::Random;
use crate::workload;
use backups::Backup;
use connections::Pipe;
use faults::Fault;
use process::Host;
use shell::Transfer;

/// When the first faults may happen.
const FAULTS_FROM: Duration = Duration::from_millis(2500);

/// Within this time after healing, every group has one leader and every node its lease.
const LIVENESS: Duration = Duration::from_secs(10);

/// Clients go on publishing so long after healing.
const PUBLISH_AFTER_HEALING: Duration = Duration::from_millis(2500);

/// After the last publish, something that is owed is delivered or answered at least this often, until nothing is.
const DRAIN: Duration = Duration::from_secs(10);

/// A backlog takes no longer than this: some five thousand messages to a client that takes one at a time, with the longest
/// delays of network and disk. What stands still is noticed by `DRAIN`.
const DRAIN_MAX: Duration = Duration::from_secs(1200);

/// Nothing was delivered for so long: the cluster is at rest.
const QUIET: Duration = Duration::from_millis(1500);

/// As before, while sessions still have messages: a new leader may be about to go on with them.
const QUIET_WITH_BACKLOG: Duration = Duration::from_secs(5);

/// A run that did not come to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// Which promise of liveness.
    pub promise: &'static str,
    /// What was seen.
    pub seen: String,
}

/// What is to happen.
enum Occurrence {
    Boot(usize),
    Tick(usize, u64),
    Work(usize, u64),
    LogDone(usize, u64),
    KeeperDone(usize, u64),
    Compact(usize, u64),
    CheckpointWanted(usize, u64),
    Serve(usize, u64, ConnId),
    ServeTimer(usize, u64, ConnId),
    PeerDown(usize, u64, NodeId),
    Arrive(Frame),
    LinkUp(usize, usize),
    LinkIdle(usize, usize, u64),
    Snapshot(Box<Transfer>),
    SnapshotTold { host: usize, generation: u64, to: NodeId, group: GroupId, delivered: bool },
    Join(usize),
    JoinAnswered { host: usize, node: NodeId },
    Accept(Conn),
    ToServer(Conn, Bytes),
    ServerEof(Conn),
    ToClient(Conn, Packet),
    ClientEof(Conn),
    Client(u32, Timer),
    Fault,
    FaultEnds(Fault),
    Backup,
    BackupAnswered(u64, Result<(), String>),
    Observe,
    Heal,
    Poll,
}

/// What all nodes agree on.
struct Settings {
    cluster: ClusterConfig,
    partition: PartitionConfig,
    client: Arc<ClientConfig>,
}

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Faults,
    Healed { since: Duration, live: bool },
    Draining { since: Duration },
    FinalReads { since: Duration },
    Done,
}

/// A world.
pub struct World {
    now: Duration,
    sequence: u64,
    queue: BTreeMap<(Duration, u64), Occurrence>,
    hosts: Vec<Host>,
    network: Network,
    clients: Vec<ModelClient>,
    pipes: BTreeMap<Conn, Pipe>,
    last_conn: u64,
    history: History,
    random: Random,
    features: Features,
    mutant: Option<Mutant>,
    settings: Settings,
    phase: Phase,
    delivered_at: Duration,
    generation: u64,
    /// Host that became leader of some group last.
    led_last: usize,
    /// Hosts that lost their state so far.
    strikes: u32,
    committed: BTreeMap<u32, BTreeMap<u64, u64>>,
    hashes_seen: BTreeSet<(usize, u32, u64)>,
    occurrences: u64,
    stuck: Option<Stuck>,
    founders: Vec<NodeRecord>,
    backup: Backup,
}

impl World {
    /// The world of a seed.
    pub fn new(seed: u64, mutant: Option<Mutant>, trace: bool) -> World {
        let mut random = Random::new(seed);
        let features = Features::draw(&mut random);
        let mut history = History { trace, calm: features.is_calm(), ..History::default() };
        workload::tables(&mut history);
        history.push(Duration::ZERO, Event::Note(format!("{features:?}")));
        let clients = workload::clients(&features, &mut history, &mut random);
        let founders: Vec<NodeRecord> = (0..features.nodes).map(process::first_record).collect();
        let all = features.nodes + features.added;
        let hosts = (0..all).map(|place| Host::new(place, &features, &mut random)).collect();
        let network = Network::new(all, features.delay_max);
        World {
            now: Duration::ZERO,
            sequence: 0,
            queue: BTreeMap::new(),
            hosts,
            network,
            clients,
            pipes: BTreeMap::new(),
            last_conn: 0,
            history,
            random,
            settings: Settings::new(&features),
            features,
            mutant,
            phase: Phase::Faults,
            delivered_at: Duration::ZERO,
            generation: 0,
            led_last: 0,
            strikes: 0,
            committed: BTreeMap::new(),
            hashes_seen: BTreeSet::new(),
            occurrences: 0,
            stuck: None,
            founders,
            backup: Backup::default(),
        }
    }

    /// Runs to the end. Gives the record, and what did not come to its end.
    pub fn run(mut self) -> (History, Option<Stuck>) {
        for place in 0..self.features.nodes {
            self.found(place);
            let after = self.random.millis(0, 300);
            self.schedule(after, Occurrence::Boot(place));
        }
        for place in self.features.nodes..self.hosts.len() {
            self.hosts[place].stay_away();
            let after =
                self.random.between(Duration::from_secs(2), FAULTS_FROM + self.features.fault_time / 2);
            self.schedule(after, Occurrence::Join(place));
        }
        for a in 0..self.hosts.len() {
            for b in a + 1..self.hosts.len() {
                self.schedule(Duration::from_millis(310), Occurrence::LinkUp(a, b));
            }
        }
        for client in 0..self.clients.len() {
            self.with_client(client as u32, |client, tools| client.start(tools));
        }
        self.schedule(FAULTS_FROM, Occurrence::Fault);
        self.schedule(FAULTS_FROM + self.features.fault_time, Occurrence::Heal);
        if self.features.backups {
            self.schedule(FAULTS_FROM, Occurrence::Backup);
        }
        self.schedule(Duration::from_millis(400), Occurrence::Observe);
        while self.phase != Phase::Done && self.stuck.is_none() {
            let Some(((at, _), occurrence)) = self.queue.pop_first() else { break };
            self.now = at;
            self.occurrences += 1;
            self.happen(occurrence);
        }
        if self.stuck.is_none() {
            self.observe_logs();
        }
        self.history.mix(self.occurrences);
        (self.history, self.stuck)
    }

    fn schedule(&mut self, after: Duration, occurrence: Occurrence) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), occurrence);
    }

    fn schedule_at(&mut self, at: Duration, occurrence: Occurrence) {
        self.schedule(at.saturating_sub(self.now), occurrence);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.history.trace {
            trace_line(self.now, &what());
        }
    }

    fn happen(&mut self, occurrence: Occurrence) {
        // A host that stands still notices nothing; everything waits until it goes on.
        if let Some(place) = self.host_of(&occurrence)
            && self.hosts[place].paused
        {
            self.hosts[place].deferred.push(occurrence);
            return;
        }
        match occurrence {
            Occurrence::Boot(place) => self.boot(place),
            Occurrence::Tick(place, generation) => self.tick(place, generation),
            Occurrence::Work(place, generation) => self.work(place, generation),
            Occurrence::LogDone(place, generation) => self.log_done(place, generation),
            Occurrence::KeeperDone(place, generation) => self.keeper_done(place, generation),
            Occurrence::Compact(place, generation) => self.compact(place, generation),
            Occurrence::CheckpointWanted(place, generation) => self.want_checkpoint(place, generation),
            Occurrence::Serve(place, generation, conn) => self.serve(place, generation, conn, false),
            Occurrence::ServeTimer(place, generation, conn) => self.serve(place, generation, conn, true),
            Occurrence::PeerDown(place, generation, peer) => self.peer_down(place, generation, peer),
            Occurrence::Arrive(frame) => self.arrive(frame),
            Occurrence::LinkUp(a, b) => self.link_up(a, b),
            Occurrence::LinkIdle(from, to, session) => self.link_idle(from, to, session),
            Occurrence::Snapshot(transfer) => self.snapshot_arrives(*transfer),
            Occurrence::SnapshotTold { host, generation, to, group, delivered } => {
                self.report(host, generation, quorate_node::Event::SnapshotSent { to, group, delivered });
            }
            Occurrence::Join(place) => self.ask_to_join(place),
            Occurrence::JoinAnswered { host, node } => self.joined(host, node),
            Occurrence::Accept(conn) => self.accept(conn),
            Occurrence::ToServer(conn, bytes) => self.send_to_server(conn, bytes),
            Occurrence::ServerEof(conn) => self.server_eof(conn),
            Occurrence::ToClient(conn, packet) => self.send_to_client(conn, packet),
            Occurrence::ClientEof(conn) => self.client_eof(conn),
            Occurrence::Client(number, timer) => {
                self.with_client(number, |client, tools| client.wake(timer, tools));
            }
            Occurrence::Fault => self.fault(),
            Occurrence::FaultEnds(fault) => self.fault_ends(fault),
            Occurrence::Backup => self.begin_backup(),
            Occurrence::BackupAnswered(number, outcome) => self.backup_answered(number, outcome),
            Occurrence::Observe => self.observe(),
            Occurrence::Heal => self.heal(),
            Occurrence::Poll => self.poll(),
        }
    }

    fn host_of(&self, occurrence: &Occurrence) -> Option<usize> {
        match occurrence {
            Occurrence::Tick(place, _)
            | Occurrence::Work(place, _)
            | Occurrence::LogDone(place, _)
            | Occurrence::KeeperDone(place, _)
            | Occurrence::Compact(place, _)
            | Occurrence::CheckpointWanted(place, _)
            | Occurrence::Serve(place, ..)
            | Occurrence::ServeTimer(place, ..)
            | Occurrence::PeerDown(place, ..)
            | Occurrence::SnapshotTold { host: place, .. } => Some(*place),
            Occurrence::Arrive(frame) => Some(frame.to),
            Occurrence::Snapshot(transfer) => Some(transfer.to_place),
            Occurrence::Accept(conn) | Occurrence::ToServer(conn, _) | Occurrence::ServerEof(conn) => {
                self.pipes.get(conn).map(|pipe| pipe.place)
            }
            Occurrence::Boot(_)
            | Occurrence::LinkUp(..)
            | Occurrence::LinkIdle(..)
            | Occurrence::Join(_)
            | Occurrence::JoinAnswered { .. }
            | Occurrence::ToClient(..)
            | Occurrence::ClientEof(_)
            | Occurrence::Client(..)
            | Occurrence::Fault
            | Occurrence::FaultEnds(_)
            | Occurrence::Backup
            | Occurrence::BackupAnswered(..)
            | Occurrence::Observe
            | Occurrence::Heal
            | Occurrence::Poll => None,
        }
    }

    /// Lets a client act and carries out what it wants.
    fn with_client(&mut self, number: u32, act: impl FnOnce(&mut ModelClient, &mut Tools<'_>)) {
        let Some(client) = self.clients.get_mut(number as usize) else { return };
        let mut tools = Tools {
            now: self.now,
            history: &mut self.history,
            conns: &mut self.last_conn,
            wishes: Vec::new(),
        };
        act(client, &mut tools);
        let wishes = tools.wishes;
        for wish in wishes {
            match wish {
                Wish::Connect { conn, node } => self.open_pipe(number, conn, node),
                Wish::Send { conn, packet } => self.client_sends(conn, &packet),
                Wish::Close { conn, said } => self.client_closes(conn, said),
                Wish::Wake { after, timer } => self.schedule(after, Occurrence::Client(number, timer)),
            }
        }
    }

    fn heal(&mut self) {
        self.note(|| "---- everything is healed".to_owned());
        self.phase = Phase::Healed { since: self.now, live: false };
        self.end_all_faults();
        self.schedule(Duration::from_millis(100), Occurrence::Poll);
    }

    fn poll(&mut self) {
        match self.phase {
            Phase::Faults | Phase::Done => return,
            Phase::Healed { since, live } => self.poll_healed(since, live),
            Phase::Draining { since } => self.poll_draining(since),
            Phase::FinalReads { since } => {
                if self.now.saturating_sub(since) > Duration::from_secs(12) {
                    self.give_up("final reads end within 12 s", self.restless());
                } else if self.clients.iter().all(|client| client.restless().is_none()) {
                    self.phase = Phase::Done;
                }
            }
        }
        self.schedule(Duration::from_millis(100), Occurrence::Poll);
    }

    fn poll_healed(&mut self, since: Duration, live: bool) {
        let passed = self.now.saturating_sub(since);
        self.restore_duties();
        let unready = if live { None } else { self.unready() };
        let live = unready.is_none();
        self.phase = Phase::Healed { since, live };
        if let Some(why) = unready.filter(|_| passed > LIVENESS) {
            self.give_up("one leader per group and a lease on every node within 10 s of healing", why);
        } else if live && passed >= PUBLISH_AFTER_HEALING {
            self.note(|| "---- clients stop publishing".to_owned());
            for client in &mut self.clients {
                client.settle();
            }
            self.phase = Phase::Draining { since: self.now };
        }
    }

    fn poll_draining(&mut self, since: Duration) {
        let silence = self.now.saturating_sub(self.delivered_at.max(since));
        let quiet = silence >= QUIET_WITH_BACKLOG || (silence >= QUIET && !self.has_backlog());
        // A client whose node died without a word does not know that it must connect again.
        let forsaken = |client: &ModelClient| client.connection().is_some_and(|conn| !self.is_served(conn));
        let restless = self.clients.iter().any(|client| client.restless().is_some() || forsaken(client));
        if quiet && !restless && self.apart().is_none() {
            self.note(|| "---- at rest; last reads".to_owned());
            self.observe_hashes();
            let readers = workload::final_readers(&self.features, &mut self.history, &mut self.random);
            for reader in readers {
                let number = reader.number;
                self.clients.push(reader);
                self.with_client(number, |client, tools| client.start(tools));
            }
            self.phase = Phase::FinalReads { since: self.now };
        } else if self.now.saturating_sub(self.delivered_at.max(since)) > DRAIN
            || self.now.saturating_sub(since) > DRAIN_MAX
        {
            let why =
                if restless { self.restless() } else { "replicas differ in how far they are".to_owned() };
            self.give_up("all is answered and delivered, with no pause of 10 s", why);
        }
    }

    fn restless(&self) -> String {
        let of = |client: &ModelClient| {
            let unacked = client.oldest_unacked();
            client.restless().map(|why| format!("{} {why} {unacked:?}", client.plan.client_id))
        };
        self.clients.iter().filter_map(of).collect::<Vec<_>>().join("; ")
    }

    fn give_up(&mut self, promise: &'static str, seen: String) {
        self.stuck = Some(Stuck { promise, seen });
    }
}

impl Settings {
    fn new(features: &Features) -> Settings {
        let cluster = ClusterConfig {
            cluster_id: [7; 16],
            name: text("simulated"),
            partitions: features.partitions,
            replication: 3,
        };
        let partition =
            PartitionConfig { session_expiry_max_s: u32::MAX, ..PartitionConfig::new(GroupId(1)) };
        let client = ClientConfig {
            connection: Default::default(),
            session_expiry_max_s: u32::MAX,
            inflight_max: partition.inflight_max,
            direct_queue_messages_max: 10_000,
            direct_queue_bytes_max: 16 * 1024 * 1024,
            subscriptions_max: partition.subscriptions_per_session_max,
            partitions: features.partitions,
            anonymous_allowed: true,
        };
        Settings { cluster, partition, client: Arc::new(client) }
    }
}
