//! A running node: its sockets, threads and tasks, from start to stop.
//!
//! Owns: [`Daemon`]. Does not: read the configuration file, set up logging, wait for signals.
//! Invariants: every thread and task started here is ended and waited for by [`Daemon::stop`]; listeners for clients
//! open last.
//! Limits: two threads for sockets; worker, log writer, keeper, compaction and the look at memory have a thread each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::RwLock;
use quorate_node::NodeConfig;
use quorate_node::event::Event;
use quorate_node::node::Node;
use quorate_node::routing::Routing;
use quorate_state::command::{AdvertisedListener, NodeRecord};
use quorate_state::limits::LISTENERS_PER_NODE_MAX;
use quorate_state::{Incarnation, NodeId};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle as Task;
use tokio::time::timeout;

use crate::admin::backup::Backups;
use crate::admin::guard::{Guard, Rules};
use crate::admin::token::TokenError;
use crate::admin::{self, AdminState};
use crate::boot::{BootError, DataFolder, Recovered, random};
use crate::clock::Clock;
use crate::compaction::Compaction;
use crate::config::{Bind, Config, ListenerKind, ListenerSettings};
use crate::cuts::PartReader;
use crate::departure::{Departure, DepartureCause};
use crate::edge::{Edge, LeaseState};
use crate::event_loop::Worker;
use crate::events::{NodeEvent, NodeEvents};
use crate::exit::ExitCode;
use crate::founding::{self, Founding, FoundingError, Settings, hex, text};
use crate::inbox::Inbox;
use crate::join::{self, JoinRequest, Joined, Joins};
use crate::keeper::{Keeper, KeeperJob};
use crate::large_packets::LargePackets;
use crate::limits::{
    CLIENT_CLOSE_TIMEOUT, DEPARTURE_LOOK_EVERY, EXPORT_STOP_TIMEOUT, HANDSHAKES_MAX, KEEPER_JOBS_MAX,
    LOG_BATCHES_MAX, STOP_TIMEOUT,
};
use crate::log_source::StoredLog;
use crate::log_writer::{LogJob, LogWriter};
use crate::logging::LogLevel;
use crate::lookout::Lookout;
use crate::mailbox::Mailboxes;
use crate::memory::shares::Shares;
use crate::memory::{self, Memory};
use crate::metrics::process::ProcessFigures;
use crate::metrics::{Metrics, listeners};
use crate::net::hello::{Fingerprint, Hello, LinkKind, Member};
use crate::net::listener::{Listener, ListenerError};
use crate::net::peer::{Links, Local, PeerPlace};
use crate::net::tls::{PeerTls, TlsError};
use crate::operations::Operations;
use crate::peers::PeerReceiver;
use crate::question::Question;
use crate::reload::{LiveSettings, Outcome, Reloader};
use crate::repair::{self, Others, ServedLog};
use crate::room::Room;
use crate::snapshots::{Install, SnapshotReceiver, SnapshotSender, SnapshotSource, Staged, send_places};
use crate::space::{Space, Stopping};
use crate::telemetry::Telemetry;
use crate::telemetry::exporter::Exporter;
use crate::worker_beat::WorkerBeat;

mod anew;

use anew::Anew;

/// Pause before joining is tried again.
const JOIN_PAUSE: Duration = Duration::from_millis(500);

/// A node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be opened.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The tokens of the admin listener.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The data folder.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// What was recovered does not fit together.
    #[error("start from what is on disk: {0}")]
    Node(#[from] quorate_node::StartError),
    /// A thread cannot be started.
    #[error("start a thread: {0}")]
    Thread(std::io::Error),
    /// Told to stop before it had started.
    #[error("stopped before the node had started")]
    Stopped,
}

impl StartError {
    /// What the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            StartError::Listener(_) | StartError::Tls(_) | StartError::Token(_) | StartError::Thread(_) => {
                ExitCode::Unavailable
            }
            StartError::Boot(error) => error.exit_code(),
            StartError::Node(quorate_node::StartError::Checkpoint {
                source: quorate_state::RestoreError::Version(_) | quorate_state::RestoreError::Level { .. },
                ..
            }) => ExitCode::Unavailable,
            StartError::Node(_) => ExitCode::Corrupt,
            StartError::Stopped => ExitCode::Clean,
        }
    }
}

/// The sockets of a node, bound before anything else is done.
struct Sockets {
    clients: Vec<Listener>,
    admin: TcpListener,
    peer: Option<TcpListener>,
}

/// Where a node listens, with the ports that the system chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Listeners for clients, in the order of the configuration.
    pub clients: Vec<(ListenerKind, Bind)>,
    /// Admin HTTP.
    pub admin: SocketAddr,
}

impl Addresses {
    /// The first TCP port for plain MQTT, else for MQTT on TLS, else the first of all listeners; empty when there is none.
    pub fn mqtt(&self) -> String {
        let first = |wanted: ListenerKind| {
            self.clients.iter().find(|(kind, bind)| *kind == wanted && bind.address().is_some())
        };
        let best = first(ListenerKind::Tcp).or_else(|| first(ListenerKind::Tls)).or(self.clients.first());
        best.map(|(_, bind)| bind.to_string()).unwrap_or_default()
    }

    /// URL of the admin listener.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }
}

/// Where the settings of a node come from.
pub struct Source {
    /// The file that the configuration was read from.
    pub file: Option<PathBuf>,
    /// The log of the process.
    pub log: Arc<LogLevel>,
}

/// A running node.
pub struct Daemon {
    runtime: Handle,
    edge: Arc<Edge>,
    addresses: Addresses,
    listeners: Vec<Task<()>>,
    admin: Task<()>,
    sys: Task<()>,
    inquiries: Task<()>,
    lookout: Task<()>,
    room: Task<()>,
    scrub: Task<()>,
    space: Arc<Space>,
    reloader: Arc<Reloader>,
    /// Sends spans, until it is told that no more come.
    exporter: Option<(watch::Sender<bool>, Task<()>)>,
    worker: JoinHandle<()>,
    log: (SyncSender<LogJob>, JoinHandle<()>),
    keeper: (SyncSender<KeeperJob>, JoinHandle<()>),
    compaction: (SyncSender<()>, JoinHandle<()>),
    memory: (SyncSender<()>, JoinHandle<()>),
    /// Keeps the lock on the data folder.
    _folder: DataFolder,
}

impl Daemon {
    /// Starts a node. Waits for the other first nodes at a first start, unless `stop` becomes true. Must not be called
    /// from a task.
    pub fn start(
        config: &Config,
        runtime: &Handle,
        stop: watch::Receiver<bool>,
    ) -> Result<Daemon, StartError> {
        let log = Arc::new(LogLevel::foreign(&config.log));
        Daemon::start_from(config, Source { file: None, log }, runtime, stop)
    }

    /// As [`Daemon::start`], with what a reload needs to know of the process.
    pub fn start_from(
        config: &Config,
        source: Source,
        runtime: &Handle,
        stop: watch::Receiver<bool>,
    ) -> Result<Daemon, StartError> {
        let guard = Arc::new(Guard::new(Rules::load(&config.admin)?));
        let mut folder = DataFolder::open(&config.node.data_dir, &config.node.name)?;
        let space = Arc::new(Space::open(folder.disk.clone(), config.storage.disk_reserve_bytes));
        runtime.block_on(space.wait_to_start(stop.clone())).map_err(|Stopping| StartError::Stopped)?;
        let sockets = runtime.block_on(bind(config))?;
        let addresses = sockets.addresses(config)?;
        let settings = match &folder.founding {
            Some(founding) => founding.settings().clone(),
            None => folder.first_settings(config)?,
        };
        if !settings.are_of(config) {
            tracing::warn!(
                "[cluster] or session limits in the configuration differ from those the cluster began with, which stay in \
                 force"
            );
        }
        let local = Arc::new(Local::new(hello_of(&folder, &settings)));
        let budget_bytes = config.limits.memory_bytes.or_else(memory::limit_of_system);
        let shares = Shares::of(budget_bytes);
        folder.cache_bytes_max = shares.body_cache_bytes(config.storage.body_cache_bytes);
        let inbox: Arc<Inbox<Question>> =
            Arc::new(Inbox::new(shares.client_inbox_bytes(), shares.peer_inbox_bytes()));
        let receiver = Arc::new(PeerReceiver::new(inbox.clone()));
        let mut peer_expiry_s = None;
        let links = match (&config.peer, sockets.peer) {
            (Some(peer), Some(listener)) => {
                let tls = PeerTls::load(peer)?;
                peer_expiry_s = Some(tls.expires_at_s());
                let links = Links::new(
                    local.clone(),
                    tls,
                    receiver.clone(),
                    runtime.clone(),
                    shares.peer_outgoing_bytes(),
                );
                let _entered = runtime.enter();
                links.listen(listener);
                Some(links)
            }
            _ => None,
        };
        let (founding, mut peers) = match &folder.founding {
            Some(founding) => (founding.clone(), Vec::new()),
            None => {
                let own = local.hello(LinkKind::Probe);
                let first = FirstStart {
                    config,
                    settings: &settings,
                    own,
                    links: links.as_ref(),
                    addresses: &addresses,
                    cluster: None,
                };
                let mut stop = stop.clone();
                let state = runtime.block_on(async {
                    tokio::select! {
                        state = first.decide() => state.map_err(StartError::Boot),
                        _ = stop.wait_for(|stop| *stop) => Err(StartError::Stopped),
                    }
                })?;
                first.carry_out(&mut folder, state)?
            }
        };
        let metrics: Arc<Metrics> = Arc::default();
        let bootstrap: Vec<(String, String)> =
            settings.bootstrap_list().iter().filter(|(name, _)| *name != config.node.name).cloned().collect();
        let others = match &links {
            Some(links) => Some(Others::new(links, bootstrap, metrics.clone()).map_err(StartError::Thread)?),
            None => None,
        };
        let anew = Anew {
            others: others.as_ref(),
            receiver: &receiver,
            config,
            founding: &founding,
            links: links.as_ref(),
            addresses: &addresses,
            space: &space,
            metrics: &metrics,
        };
        let (recovered, new_peers) = anew.recover(&mut folder, runtime, stop)?;
        peers.extend(new_peers);
        local.update(|hello| {
            hello.id = NodeId(folder.identity.node_id);
            hello.disk = folder.identity.disk_uuid;
            hello.incarnation = Incarnation(folder.identity.incarnation);
            hello.cluster_id = founding.cluster_id();
            hello.members = founding.members();
        });
        if peers.is_empty() {
            peers = first_peers(&founding, &config.node.name);
        }
        if let Some(links) = &links {
            links.set_peers(peers);
        }
        let record = node_record(config, &folder, &addresses);
        tracing::info!(
            node_id = record.id.0,
            incarnation = record.incarnation.0,
            cluster = founding.settings().cluster(),
            groups = recovered.groups.len(),
            "node starts"
        );
        let parts = Parts {
            config,
            source,
            runtime,
            founding: &founding,
            guard,
            local,
            inbox,
            receiver,
            links,
            peer_expiry_s,
            record,
            space,
            metrics,
            others,
            budget_bytes,
            shares,
        };
        parts.run(folder, recovered, sockets.clients, sockets.admin, addresses)
    }

    /// Until every client connection has gone, or had its time.
    async fn depart(&self, grace: Duration) {
        let edge = &self.edge;
        let from = edge.clock.now() + grace;
        let departure = Departure::paced(from, edge.metrics.connections(), DepartureCause::Stop);
        edge.departure.send_replace(departure);
        edge.events.note(&NodeEvent::Stopping);
        edge.inbox.report(Event::Leave);
        let end = departure.end().unwrap_or_default() + CLIENT_CLOSE_TIMEOUT;
        while edge.metrics.connections() > 0 && edge.clock.now() < end {
            tokio::time::sleep(DEPARTURE_LOOK_EVERY).await;
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What its parts share.
    pub fn edge(&self) -> &Arc<Edge> {
        &self.edge
    }

    /// Reads the configuration and the certificates again. Must not be called from a task.
    pub fn reload(&self) -> Outcome {
        self.reloader.reload()
    }

    /// Stops cleanly: no new connections, leadership moves away, clients may stay for `grace`, then they are told to go at
    /// a pace that the other nodes take well, the log is synced. Must not be called from a task.
    pub fn stop(self, grace: Duration) {
        self.runtime.block_on(self.depart(grace));
        self.edge.stopping.send_replace(true);
        self.runtime.block_on(async {
            for listener in self.listeners {
                let abort = listener.abort_handle();
                if timeout(STOP_TIMEOUT / 2, listener).await.is_err() {
                    tracing::warn!("some client connections did not end in time");
                    abort.abort();
                }
            }
        });
        self.space.stop();
        self.edge.inbox.stop();
        join("worker", self.worker);
        drop(self.compaction.0);
        drop(self.memory.0);
        // A thread that has ended already needs no word.
        let _ended_already = self.keeper.0.send(KeeperJob::Stop);
        join("keeper", self.keeper.1);
        let _ended_already = self.log.0.send(LogJob::Stop);
        join("log", self.log.1);
        join("compaction", self.compaction.1);
        join("memory", self.memory.1);
        self.lookout.abort();
        self.room.abort();
        self.scrub.abort();
        self.admin.abort();
        self.sys.abort();
        self.inquiries.abort();
        if let Some((no_more, exporter)) = self.exporter {
            no_more.send_replace(true);
            let abort = exporter.abort_handle();
            if self.runtime.block_on(async { timeout(EXPORT_STOP_TIMEOUT, exporter).await }).is_err() {
                abort.abort();
            }
        }
        if let Some(links) = &self.edge.links {
            self.runtime.block_on(links.stop());
        }
        tracing::info!("node stopped");
    }
}

fn join(name: &str, thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!(thread = name, "a thread panicked");
    }
}

impl Sockets {
    fn addresses(&self, config: &Config) -> Result<Addresses, StartError> {
        let failed = |source| ListenerError::Bind { bind: config.admin.bind.into(), source };
        let states = self.clients.iter().map(Listener::state);
        let clients = states.map(|state| (state.kind, state.address.clone())).collect();
        Ok(Addresses { clients, admin: self.admin.local_addr().map_err(failed)? })
    }
}

async fn bind(config: &Config) -> Result<Sockets, StartError> {
    let failed = |address: SocketAddr| move |source| ListenerError::Bind { bind: address.into(), source };
    let mut clients = Vec::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    for settings in &config.listeners {
        clients.push(Listener::bind(settings.clone(), handshakes.clone()).await?);
    }
    let admin = TcpListener::bind(config.admin.bind).await.map_err(failed(config.admin.bind))?;
    let peer = match &config.peer {
        Some(peer) => Some(TcpListener::bind(peer.bind).await.map_err(failed(peer.bind))?),
        None => None,
    };
    Ok(Sockets { clients, admin, peer })
}

fn hello_of(folder: &DataFolder, settings: &Settings) -> Hello {
    let founding = folder.founding.as_ref();
    Hello {
        link: LinkKind::Probe,
        cluster: settings.cluster().to_owned(),
        agreement: settings.fingerprint(),
        cluster_id: founding.map_or([0; 16], Founding::cluster_id),
        name: folder.identity.node_name.clone(),
        id: NodeId(folder.identity.node_id),
        disk: folder.identity.disk_uuid,
        incarnation: Incarnation(folder.identity.incarnation),
        members: founding.map(Founding::members).unwrap_or_default(),
    }
}

/// How a node without a founding file gets one.
struct FirstStart<'a> {
    config: &'a Config,
    settings: &'a Settings,
    own: Hello,
    links: Option<&'a Arc<Links<PeerReceiver>>>,
    addresses: &'a Addresses,
    /// The only cluster that it may join, if it was in one before.
    cluster: Option<Fingerprint>,
}

/// What a first start came to.
enum FirstState {
    Founded(Vec<Member>),
    Joined(Box<Joined>),
}

impl FirstStart<'_> {
    /// Agrees with the other first nodes, or joins when the cluster runs already.
    async fn decide(&self) -> Result<FirstState, BootError> {
        let Some(links) = self.links else { return Ok(FirstState::Founded(founding::alone(&self.own))) };
        match founding::agree(links, &self.own, self.settings).await {
            Ok(members) => Ok(FirstState::Founded(members)),
            Err(FoundingError::Unknown { cluster }) => {
                tracing::info!(cluster, "the cluster runs and does not know this disk: asking to join");
                Ok(FirstState::Joined(Box::new(self.join(links).await)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asks until the cluster lets the node in: a lost node of the same name must be declared down first.
    async fn join(&self, links: &Arc<Links<PeerReceiver>>) -> Joined {
        let request = JoinRequest {
            peer: self.config.peer.as_ref().map(|peer| peer.advertise.clone()).unwrap_or_default(),
            mqtt: self.addresses.mqtt(),
            admin: self.addresses.admin_url(),
            zone: self.config.node.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            level: quorate_state::LEVEL,
        };
        let mut told = String::new();
        loop {
            let error = match join::join(links, &self.own, self.settings, self.cluster, &request).await {
                Ok(joined) => return joined,
                Err(error) => error.to_string(),
            };
            if told != error {
                tracing::warn!(error, "the cluster does not let the node join yet: asking again");
                told = error;
            }
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    }

    /// Makes the decision durable; gives the founding, and the peers of a node that joined.
    fn carry_out(
        &self,
        folder: &mut DataFolder,
        state: FirstState,
    ) -> Result<(Founding, Vec<PeerPlace>), BootError> {
        match state {
            FirstState::Founded(members) => {
                let founding = Founding::new(self.settings.clone(), &members);
                folder.found(founding.clone(), &self.config.storage)?;
                if let Some(backup) = founding.settings().restored() {
                    tracing::info!(backup, "the cluster goes on with the state of a backup");
                }
                tracing::info!(members = members.len(), cluster_id = %hex(&founding.cluster_id()), "cluster founded");
                Ok((founding, Vec::new()))
            }
            FirstState::Joined(joined) => {
                folder.take_identity(joined.id, joined.founding.clone(), &self.config.storage)?;
                tracing::info!(node_id = joined.id.0, "node has joined and waits for its first snapshot");
                Ok((joined.founding, joined.peers))
            }
        }
    }
}

/// Peers to begin with, until control says who they are.
fn first_peers(founding: &Founding, own_name: &str) -> Vec<PeerPlace> {
    founding
        .founders()
        .filter(|(member, _)| member.name != own_name)
        .map(|(member, peer)| PeerPlace { id: member.id, name: member.name, address: peer.to_owned() })
        .collect()
}

fn node_record(config: &Config, folder: &DataFolder, addresses: &Addresses) -> NodeRecord {
    NodeRecord {
        id: NodeId(folder.identity.node_id),
        name: text(&config.node.name),
        disk: folder.identity.disk_uuid,
        incarnation: Incarnation(folder.identity.incarnation),
        peer: text(config.peer.as_ref().map_or("", |peer| peer.advertise.as_str())),
        mqtt: text(&addresses.mqtt()),
        admin: text(&addresses.admin_url()),
        zone: text(&config.node.zone),
        version: text(env!("CARGO_PKG_VERSION")),
        level: quorate_state::LEVEL,
    }
}

/// Where clients reach this node.
fn advertised(listeners: &[ListenerSettings], addresses: &Addresses) -> Vec<AdvertisedListener> {
    let bound = addresses.clients.iter().map(|(_, bind)| bind);
    let reached = listeners.iter().zip(bound).filter_map(|(settings, bound)| {
        let address = settings.reached_at(bound)?;
        Some(AdvertisedListener { name: text(&settings.name), address: text(&address) })
    });
    reached.take(LISTENERS_PER_NODE_MAX).collect()
}

/// What a daemon is put together from.
struct Parts<'a> {
    config: &'a Config,
    source: Source,
    runtime: &'a Handle,
    founding: &'a Founding,
    guard: Arc<Guard>,
    local: Arc<Local>,
    inbox: Arc<Inbox<Question>>,
    receiver: Arc<PeerReceiver>,
    links: Option<Arc<Links<PeerReceiver>>>,
    /// When the certificate of the links expires, in seconds since 1970.
    peer_expiry_s: Option<u64>,
    record: NodeRecord,
    space: Arc<Space>,
    metrics: Arc<Metrics>,
    others: Option<Arc<Others>>,
    /// Memory that the process may take, if that is known.
    budget_bytes: Option<u64>,
    shares: Shares,
}

impl Parts<'_> {
    fn run(
        self,
        folder: DataFolder,
        recovered: Recovered,
        clients: Vec<Listener>,
        admin: TcpListener,
        addresses: Addresses,
    ) -> Result<Daemon, StartError> {
        let Recovered { log, checkpoints, groups, lost: _ } = recovered;
        let (reader, bodies) = (log.reader(), log.bodies());
        let clock = Clock::start();
        let settings = self.founding.settings();
        let node_config = NodeConfig {
            record: self.record.clone(),
            cluster: self.founding.cluster_config(),
            partition: settings.partition_config(),
            listeners: advertised(&self.config.listeners, &addresses),
            seed: u64::from_le_bytes(random().map_err(StartError::Boot)?),
            memory: self.shares.of_node(),
        };
        let worker_beat = Arc::new(WorkerBeat::new(clock));
        let source = StoredLog { reader: reader.clone(), beat: worker_beat.clone() };
        let node = Node::new(node_config, groups, Arc::new(source), clock.now())?;
        let metrics = self.metrics.clone();
        if let Some(expiry_s) = self.peer_expiry_s {
            metrics.listeners.register(listeners::PEER, None).certificate_expiry_s.set(expiry_s);
        }
        let (telemetry, spans) = Telemetry::new(&self.config.telemetry, clock, &metrics).unzip();
        let edge = Arc::new(Edge {
            node: self.record.id,
            clock,
            routing: RwLock::new(Routing::new(self.record.id, settings.partitions())),
            system: RwLock::default(),
            heard: Default::default(),
            lease: RwLock::new(LeaseState { until: Duration::ZERO, incarnation: self.record.incarnation }),
            partitions: settings.partitions(),
            mailboxes: Mailboxes::new(self.shares.mailbox_bytes(), self.shares.mailboxes_bytes()),
            large_packets: LargePackets::new(self.shares.large_packets_bytes()),
            inbox: self.inbox.clone(),
            links: self.links.clone(),
            inquiries: Default::default(),
            joins: Joins::default(),
            metrics: metrics.clone(),
            telemetry,
            worker_beat,
            room: Room::default(),
            memory: Memory::new(self.budget_bytes),
            listeners: clients.iter().map(Listener::state).collect(),
            stopping: watch::Sender::new(false),
            departure: watch::Sender::default(),
            elsewhere: RwLock::default(),
            level: AtomicU32::new(0),
            cuts: Arc::default(),
            operations: Operations::default(),
            live: watch::Sender::new(Arc::new(LiveSettings {
                client_config: Arc::new(crate::client_config::client_config(
                    self.config,
                    settings,
                    self.shares,
                )),
                listeners: Vec::new(),
            })),
            events: NodeEvents::default(),
            traces: Arc::default(),
            lookout: Lookout::default(),
        });
        edge.room.limit_disk(self.config.storage.disk_soft_bytes);
        let kept = folder.damaged_kept().map_err(StartError::Boot)?;
        metrics.damaged_folders.set(kept.len() as u64);
        if let Some(damaged) = &folder.joined_anew {
            edge.events.note(&anew::event(damaged));
        }
        let staged: Arc<Staged> = Arc::default();
        let snapshot_source = SnapshotSource {
            checkpoints: checkpoints.clone(),
            reader: reader.clone(),
            inbox: self.inbox.clone(),
        };
        let parts = PartReader {
            reader: reader.clone(),
            cluster: self.founding.cluster_config(),
            partition: settings.partition_config(),
        };
        self.receiver.attach(
            &edge,
            Arc::new(SnapshotReceiver {
                install: Install {
                    checkpoints: checkpoints.clone(),
                    bodies: bodies.clone(),
                    space: self.space.clone(),
                },
                staged: staged.clone(),
                inbox: self.inbox.clone(),
                alone: tokio::sync::Mutex::new(()),
            }),
            snapshot_source.clone(),
            parts.clone(),
            self.founding.clone(),
        );
        self.receiver.serve_repairs(Some(ServedLog { log: reader.clone(), goes_on: true }));
        if let Some(others) = &self.others {
            reader.repair_from(others.clone());
        }
        let scrub_rate = self.config.storage.scrub_bytes_per_second;
        let scrub = self.runtime.spawn(repair::scrub(
            reader.clone(),
            scrub_rate,
            self.inbox.clone(),
            metrics.clone(),
        ));
        let (log_sender, log_jobs) = sync_channel(LOG_BATCHES_MAX);
        let (shortenings, shortenings_asked) = sync_channel(1);
        let (inbox, space) = (self.inbox.clone(), self.space.clone());
        let writer = LogWriter::new(log, inbox, metrics.clone(), space, shortenings_asked);
        let log_thread = spawn("log", move || writer.run(&log_jobs))?;
        let sender = self.links.clone().map(|links| SnapshotSender {
            source: snapshot_source,
            links,
            metrics: metrics.clone(),
            runtime: self.runtime.clone(),
            places: send_places(),
        });
        let keeper = Keeper {
            checkpoints,
            bodies: bodies.clone(),
            staged,
            cuts: edge.cuts.clone(),
            sender,
            identity: folder.identity.clone(),
            disk: folder.disk.clone(),
            space: self.space.clone(),
            local: self.local,
            log: log_sender.clone(),
            inbox: self.inbox.clone(),
            metrics: metrics.clone(),
        };
        let (keeper_sender, keeper_jobs) = sync_channel(KEEPER_JOBS_MAX);
        let keeper_thread = spawn("keeper", move || keeper.run(&keeper_jobs))?;
        let compaction = Compaction {
            log_bytes_target: self.config.storage.log_bytes_target,
            log: log_sender.clone(),
            shortenings,
            inbox: self.inbox,
            bodies,
            space: self.space.clone(),
            cuts: edge.cuts.clone(),
            metrics,
        };
        let (compaction_stop, compaction_stopped) = sync_channel(1);
        let compaction_thread = spawn("compaction", move || compaction.run(&compaction_stopped))?;
        let (memory_stop, memory_stopped) = sync_channel(1);
        let watched = edge.clone();
        let memory_thread = spawn("memory", move || memory::watch(&watched, &memory_stopped))?;
        let worker = Worker::new(node, edge.clone(), log_sender.clone(), keeper_sender.clone());
        let worker = spawn("worker", move || worker.run())?;
        let Source { file, log } = self.source;
        let reloader = Arc::new(Reloader::new(
            file,
            self.config.clone(),
            settings.clone(),
            self.guard.clone(),
            log.clone(),
            edge.clone(),
            self.shares,
        ));
        let state = AdminState {
            edge: edge.clone(),
            log: log.clone(),
            reloader: reloader.clone(),
            cluster_name: settings.cluster().into(),
            cluster_id: hex(&self.founding.cluster_id()).into(),
            node_name: self.config.node.name.as_str().into(),
            backups: Arc::new(Backups::new(settings.clone(), parts)),
            zone: self.config.node.zone.as_str().into(),
            process: ProcessFigures {
                disk: folder.disk.clone(),
                data_dir: self.config.node.data_dir.clone(),
            },
        };
        let admin = self.runtime.spawn(admin::serve(admin, admin::router(state, self.guard)));
        let sys = self.runtime.spawn(crate::sys::run(edge.clone(), self.config.sys.interval));
        let inquiries = self.runtime.spawn(crate::inquiry::run(edge.clone()));
        let lookout = self.runtime.spawn(crate::lookout::run(edge.clone(), log));
        let room =
            self.runtime.spawn(crate::room::watch(edge.clone(), folder.disk.clone(), self.space.clone()));
        let exporter = self.config.telemetry.otlp_endpoint.clone().zip(spans).map(|(endpoint, spans)| {
            let resource = vec![
                ("service.name", "quorate".to_owned()),
                ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
                ("service.instance.id", self.config.node.name.clone()),
                ("quorate.cluster", settings.cluster().to_owned()),
            ];
            let exporter = Exporter { spans, endpoint, resource, metrics: edge.metrics.clone() };
            let (no_more, told) = watch::channel(false);
            (no_more, self.runtime.spawn(exporter.run(told)))
        });
        let listeners =
            clients.into_iter().map(|listener| self.runtime.spawn(listener.run(edge.clone()))).collect();
        Ok(Daemon {
            runtime: self.runtime.clone(),
            edge,
            addresses,
            listeners,
            admin,
            sys,
            inquiries,
            lookout,
            room,
            scrub,
            space: self.space,
            reloader,
            exporter,
            worker,
            log: (log_sender, log_thread),
            keeper: (keeper_sender, keeper_thread),
            compaction: (compaction_stop, compaction_thread),
            memory: (memory_stop, memory_thread),
            _folder: folder,
        })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StartError::Thread)
}

#[cfg(test)]
mod tests;
