//! Links to the other nodes: two connections per pair of nodes, over mutual TLS, that come back by themselves.
//!
//! The raft link carries consensus, streams and control; the routing link carries direct messages. Of two nodes, the
//! one with the smaller name dials both; a node that starts probes the others, which makes them dial at once. A
//! snapshot, a backup or a join request has a connection of its own.
//!
//! Owns: dialling, accepting, Hello, the outgoing queue of each link. Does not: know what messages mean.
//! Invariants: per peer and link first in, first out; a peer is reported down after its last message and before the
//! first message of the next connection; at most one connection per peer and link delivers at a time. An unknown
//! node, another cluster, an older incarnation or a certificate for another name gets no link.
//! Limits: `PEER_OUTGOING_BYTES_MAX` per link (the raft link is dropped when full, the routing link drops the
//! message), `FRAME_BYTES_MAX`, `PEER_HANDSHAKES_MAX`. See: docs/formats/peer-frame.md.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::{Mutex, RwLock};
use quorate_state::{Incarnation, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::frame::{self, Frame, FrameError, FrameKind};
use super::hello::{Hello, HelloError, LinkKind};
use super::tls::{PeerTls, TlsError, check_name};
use crate::limits::{
    ACCEPT_PAUSE, FRAME_BYTES_MAX, HELLO_BYTES_MAX, PEER_BACKOFF_MAX, PEER_BACKOFF_MIN,
    PEER_HANDSHAKE_TIMEOUT, PEER_HANDSHAKES_MAX, PEER_IDLE_MAX, PEER_KEEP_ALIVE, PEER_READ_BYTES,
    PEER_SILENT_PROBE,
};

/// Capacity that an empty outgoing buffer may keep.
const SPARE_BYTES_MAX: usize = 1024 * 1024;

/// Takes what comes from peers.
pub trait LinkReceiver: Send + Sync + 'static {
    /// The raft link to a peer is up.
    fn up(&self, peer: NodeId) -> impl Future<Output = ()> + Send;
    /// The raft link to a peer is down; nothing of it comes later.
    fn down(&self, peer: NodeId) -> impl Future<Output = ()> + Send;
    /// Frames of a raft or routing link, in order. Waits while the node has too much to do. False: the frames make
    /// no sense and the link is to be closed.
    fn frames(&self, peer: NodeId, link: LinkKind, frames: Vec<Frame>) -> impl Future<Output = bool> + Send;
    /// A peer opened a connection for a snapshot.
    fn snapshot(&self, peer: NodeId, connection: PeerConnection) -> impl Future<Output = ()> + Send;
    /// A peer opened a connection to read parts of a backup.
    fn backup(&self, peer: NodeId, connection: PeerConnection) -> impl Future<Output = ()> + Send;
    /// A node of this cluster asks for records that are damaged there, or what was seen of it.
    fn repair(&self, from: NodeId, connection: PeerConnection) -> impl Future<Output = ()> + Send;
    /// A node that is no member asks to join.
    fn join(&self, hello: Hello, connection: PeerConnection) -> impl Future<Output = ()> + Send;
    /// A member says that this node was removed from the cluster.
    fn gone(&self);
}

/// Why a connection to or from a peer failed.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// TCP.
    #[error("peer connection: {0}")]
    Io(#[from] io::Error),
    /// TLS, or the certificate's name.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Something that is no frame.
    #[error("peer frame: {0}")]
    Frame(#[from] FrameError),
    /// Something that is no Hello.
    #[error("peer hello: {0}")]
    Hello(#[from] HelloError),
    /// The handshake, or a frame, took too long.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The other side closed.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer's cluster has removed this node.
    #[error("the peer says that this node was removed from the cluster")]
    Gone,
    /// The node is not one that may have this link.
    #[error("the peer is refused: {0}")]
    Refused(&'static str),
    /// The outgoing queue was full.
    #[error("more bytes wait for the peer than may")]
    QueueFull,
    /// A newer connection took this one's place.
    #[error("a newer connection replaced this one")]
    Replaced,
}

/// Who this node is, as told to every peer.
pub struct Local {
    hello: RwLock<Hello>,
}

impl Local {
    /// Starts out with this Hello; its `link` does not matter.
    pub fn new(hello: Hello) -> Self {
        Local { hello: RwLock::new(hello) }
    }

    /// The Hello for a connection of this kind.
    pub fn hello(&self, link: LinkKind) -> Hello {
        Hello { link, ..self.hello.read().clone() }
    }

    /// Changes what is told from now on: identity after bootstrap, a new incarnation.
    pub fn update(&self, change: impl FnOnce(&mut Hello)) {
        change(&mut self.hello.write());
    }
}

/// One connection to a peer, frame by frame.
pub struct PeerConnection {
    stream: TlsStream<TcpStream>,
    input: BytesMut,
}

impl PeerConnection {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        PeerConnection { stream, input: BytesMut::new() }
    }

    /// Reads one frame of at most `bytes_max`; waits at most `PEER_IDLE_MAX` for each piece of it.
    pub async fn read(&mut self, bytes_max: usize) -> Result<Frame, PeerError> {
        loop {
            if let Some(frame) = frame::take(&mut self.input, bytes_max)? {
                return Ok(frame);
            }
            self.input.reserve(4096);
            let read = timeout(PEER_IDLE_MAX, self.stream.read_buf(&mut self.input));
            if read.await.map_err(|_| PeerError::Timeout)?? == 0 {
                return Err(PeerError::Closed);
            }
        }
    }

    /// Writes one frame; waits at most `PEER_IDLE_MAX` for the peer to take it.
    pub async fn write(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), PeerError> {
        let mut out = BytesMut::with_capacity(payload.len() + 8);
        if !frame::append(&mut out, kind, |out| out.extend_from_slice(payload)) {
            return Err(PeerError::Frame(FrameError::Length(payload.len())));
        }
        let write = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        timeout(PEER_IDLE_MAX, write).await.map_err(|_| PeerError::Timeout)??;
        Ok(())
    }

    async fn write_hello(&mut self, hello: &Hello) -> Result<(), PeerError> {
        let mut payload = BytesMut::new();
        hello.encode(&mut payload);
        self.write(FrameKind::Hello, &payload).await
    }

    /// The other side's Hello, for this node; or its word that this node is gone.
    async fn read_hello_for(&mut self, own: NodeId) -> Result<Hello, PeerError> {
        let frame = self.read(HELLO_BYTES_MAX).await?;
        if frame.kind == FrameKind::Gone && frame.payload == own.0.to_le_bytes().as_slice() && own.0 != 0 {
            return Err(PeerError::Gone);
        }
        Self::hello_of(&frame)
    }

    async fn read_hello(&mut self) -> Result<Hello, PeerError> {
        Self::hello_of(&self.read(HELLO_BYTES_MAX).await?)
    }

    fn hello_of(frame: &Frame) -> Result<Hello, PeerError> {
        if frame.kind != FrameKind::Hello {
            return Err(PeerError::Refused("its first frame is no hello"));
        }
        Ok(Hello::decode(&frame.payload)?)
    }

    /// Ends the connection in order, so that the peer reads all that was written.
    pub async fn close(mut self) {
        let _closed_anyway = timeout(PEER_KEEP_ALIVE, self.stream.shutdown()).await;
    }
}

/// Where a peer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerPlace {
    /// Identity.
    pub id: NodeId,
    /// Name, as in its certificate.
    pub name: String,
    /// `host:port`.
    pub address: String,
}

struct Outgoing {
    bytes: BytesMut,
    up: bool,
    full: bool,
}

struct Lane {
    kind: LinkKind,
    outgoing: Mutex<Outgoing>,
    ready: Notify,
    latest: watch::Sender<u64>,
    session: tokio::sync::Mutex<()>,
    /// Bytes that may wait.
    bytes_max: usize,
}

impl Lane {
    fn new(kind: LinkKind, bytes_max: usize) -> Self {
        Lane {
            kind,
            bytes_max,
            outgoing: Mutex::new(Outgoing { bytes: BytesMut::new(), up: false, full: false }),
            ready: Notify::new(),
            latest: watch::Sender::new(0),
            session: tokio::sync::Mutex::new(()),
        }
    }

    /// Ends the connection, if there is one, and forgets what waits.
    fn renew(&self) {
        self.outgoing.lock().bytes.clear();
        self.latest.send_modify(|latest| *latest += 1);
    }

    /// Appends a message. False: it was dropped.
    fn push(&self, encode: impl FnOnce(&mut BytesMut)) -> bool {
        let mut outgoing = self.outgoing.lock();
        if self.kind == LinkKind::Raft && !outgoing.up {
            return false;
        }
        if outgoing.bytes.len() >= self.bytes_max {
            outgoing.full = true;
            return false;
        }
        frame::append(&mut outgoing.bytes, FrameKind::Message, encode)
    }
}

struct Peer {
    place: RwLock<PeerPlace>,
    id: NodeId,
    incarnation: AtomicU64,
    /// Last incarnation that was declared dead: it gets no routing link.
    dead: AtomicU64,
    raft: Lane,
    routing: Lane,
    dial_now: [Notify; 2],
    dialled_by_us: bool,
    removed: watch::Sender<bool>,
    connected: AtomicBool,
}

impl Peer {
    fn lane(&self, kind: LinkKind) -> &Lane {
        if kind == LinkKind::Routing { &self.routing } else { &self.raft }
    }

    /// Whether a Hello may have a link of this kind: what an incarnation that is dead has to hand over is too old. It still
    /// gets the raft link, or it would never hear that it is dead.
    fn lives(&self, hello: &Hello, kind: LinkKind) -> Result<(), PeerError> {
        if kind == LinkKind::Routing && hello.incarnation.0 <= self.dead.load(Ordering::Acquire) {
            return Err(PeerError::Refused("its incarnation was declared dead"));
        }
        Ok(())
    }

    fn dial_both(&self) {
        for notify in &self.dial_now {
            notify.notify_one();
        }
    }
}

/// All links of this node.
pub struct Links<R> {
    local: Arc<Local>,
    tls: PeerTls,
    receiver: Arc<R>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    gone: RwLock<Vec<NodeId>>,
    tasks: Mutex<JoinSet<()>>,
    stopped: watch::Sender<bool>,
    runtime: tokio::runtime::Handle,
    outgoing_bytes_max: usize,
}

impl<R: LinkReceiver> Links<R> {
    /// Without peers yet. Tasks run on `runtime`; so many bytes may wait on each link, and one message.
    pub fn new(
        local: Arc<Local>,
        tls: PeerTls,
        receiver: Arc<R>,
        runtime: tokio::runtime::Handle,
        outgoing_bytes_max: usize,
    ) -> Arc<Self> {
        Arc::new(Links {
            local,
            tls,
            receiver,
            peers: RwLock::new(HashMap::new()),
            gone: RwLock::default(),
            tasks: Mutex::new(JoinSet::new()),
            stopped: watch::Sender::new(false),
            runtime,
            outgoing_bytes_max,
        })
    }

    /// Takes the listener and accepts peers until [`Links::stop`].
    pub fn listen(self: &Arc<Self>, listener: TcpListener) {
        let links = self.clone();
        self.tasks.lock().spawn_on(async move { links.accept_loop(listener).await }, &self.runtime);
    }

    /// Identities that the cluster has removed, all of them.
    pub fn set_gone(&self, gone: Vec<NodeId>) {
        *self.gone.write() = gone;
    }

    /// Whether who asks is of this cluster and was removed from it. A node that asks to join is somebody new.
    fn is_gone(&self, hello: &Hello) -> bool {
        let of_this_cluster = hello.cluster_id == self.local.hello(LinkKind::Probe).cluster_id;
        of_this_cluster && hello.link != LinkKind::Join && self.gone.read().contains(&hello.id)
    }

    /// Replaces the set of peers: new ones get links, missing ones lose theirs.
    pub fn set_peers(self: &Arc<Self>, places: Vec<PeerPlace>) {
        let own = self.local.hello(LinkKind::Probe);
        let mut peers = self.peers.write();
        peers.retain(|id, peer| {
            let stays = places.iter().any(|place| place.id == *id && place.name == peer.place.read().name);
            if !stays {
                peer.removed.send_replace(true);
            }
            stays
        });
        for place in places {
            if place.id == own.id {
                continue;
            }
            if let Some(peer) = peers.get(&place.id) {
                let moved = peer.place.read().address != place.address;
                if moved {
                    *peer.place.write() = place;
                    peer.dial_both();
                }
                continue;
            }
            let peer = Arc::new(Peer {
                id: place.id,
                incarnation: AtomicU64::new(0),
                dead: AtomicU64::new(0),
                raft: Lane::new(LinkKind::Raft, self.outgoing_bytes_max),
                routing: Lane::new(LinkKind::Routing, self.outgoing_bytes_max),
                dial_now: [Notify::new(), Notify::new()],
                dialled_by_us: own.name < place.name,
                removed: watch::Sender::new(false),
                connected: AtomicBool::new(false),
                place: RwLock::new(place),
            });
            peers.insert(peer.id, peer.clone());
            self.spawn_tasks(&peer);
        }
    }

    /// A peer's incarnation was declared dead: messages that it sent, and that wait for it, are given up. Its clients may be
    /// on other nodes by now, and must not get what they have had.
    pub fn declare_dead(&self, node: NodeId, incarnation: Incarnation) {
        if let Some(peer) = self.peers.read().get(&node) {
            peer.dead.fetch_max(incarnation.0, Ordering::AcqRel);
            peer.routing.renew();
        }
    }

    /// This node begins a new incarnation, which `tell` puts into its Hello: as for a peer, towards all. Nothing that waits
    /// leaves under the new one.
    pub fn begin_anew(&self, tell: impl FnOnce()) {
        let peers = self.peers.read();
        let mut waiting: Vec<_> = peers.values().map(|peer| peer.routing.outgoing.lock()).collect();
        tell();
        waiting.iter_mut().for_each(|outgoing| outgoing.bytes.clear());
        drop(waiting);
        peers.values().for_each(|peer| peer.routing.renew());
    }

    fn spawn_tasks(self: &Arc<Self>, peer: &Arc<Peer>) {
        let mut tasks = self.tasks.lock();
        if peer.dialled_by_us {
            for kind in [LinkKind::Raft, LinkKind::Routing] {
                let (links, peer) = (self.clone(), peer.clone());
                tasks.spawn_on(async move { links.dial_loop(&peer, kind).await }, &self.runtime);
            }
        } else {
            let (links, peer) = (self.clone(), peer.clone());
            tasks.spawn_on(async move { links.wake_loop(&peer).await }, &self.runtime);
        }
    }

    /// Queues a message on the raft link. False: the link is down or full, and the message is lost.
    pub fn send(&self, to: NodeId, encode: impl FnOnce(&mut BytesMut)) -> bool {
        self.peers.read().get(&to).is_some_and(|peer| peer.raft.push(encode))
    }

    /// Queues a message on the routing link; it waits there while the link is down. False: the queue is full.
    pub fn forward(&self, to: NodeId, encode: impl FnOnce(&mut BytesMut)) -> bool {
        self.peers.read().get(&to).is_some_and(|peer| {
            let queued = peer.routing.push(encode);
            peer.routing.ready.notify_one();
            queued
        })
    }

    /// Lets the raft links write what was queued: once per turn, so that it leaves in one write.
    pub fn flush(&self) {
        for peer in self.peers.read().values() {
            let outgoing = peer.raft.outgoing.lock();
            if outgoing.full || !outgoing.bytes.is_empty() {
                peer.raft.ready.notify_one();
            }
        }
    }

    /// All peers, whether there is a link or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.peers.read().keys().copied().collect()
    }

    /// Peers that were seen in an incarnation that nobody has declared dead, whether there is a link to them or not.
    pub fn alive(&self) -> Vec<NodeId> {
        let peers = self.peers.read();
        let alive =
            |peer: &&Arc<Peer>| peer.incarnation.load(Ordering::Acquire) > peer.dead.load(Ordering::Acquire);
        peers.values().filter(alive).map(|peer| peer.id).collect()
    }

    /// Peers whose raft link is up.
    pub fn connected(&self) -> Vec<NodeId> {
        let peers = self.peers.read();
        peers.values().filter(|peer| peer.connected.load(Ordering::Relaxed)).map(|peer| peer.id).collect()
    }

    /// Exchanges Hello with whoever listens at `address` and must be called `name`.
    pub async fn probe(&self, name: &str, address: &str) -> Result<Hello, PeerError> {
        let own = self.local.hello(LinkKind::Probe);
        let (connection, hello) = self.handshake(name, address, &own).await?;
        connection.close().await;
        Ok(hello)
    }

    /// Opens a connection of its own to a known peer: for a snapshot, or to read a backup.
    pub async fn open(self: &Arc<Self>, to: NodeId, kind: LinkKind) -> Result<PeerConnection, PeerError> {
        let peer = self.peers.read().get(&to).cloned();
        let peer = peer.ok_or(PeerError::Refused("it is no member"))?;
        let place = peer.place.read().clone();
        let own = self.local.hello(kind);
        let (connection, hello) = self.handshake(&place.name, &place.address, &own).await?;
        self.check_member(&hello)?;
        Ok(connection)
    }

    /// Opens a connection to a node of this cluster to ask for damaged records, or what it has seen of this node; also before control has named the members.
    pub async fn open_repair(&self, name: &str, address: &str) -> Result<PeerConnection, PeerError> {
        let own = self.local.hello(LinkKind::Repair);
        let (connection, hello) = self.handshake(name, address, &own).await?;
        if own.is_fresh() || hello.cluster_id != own.cluster_id {
            return Err(PeerError::Refused("it is not of this cluster"));
        }
        Ok(connection)
    }

    /// Names and addresses of all peers.
    pub fn places(&self) -> Vec<(String, String)> {
        let peers = self.peers.read();
        let place = |peer: &Arc<Peer>| {
            let place = peer.place.read();
            (place.name.clone(), place.address.clone())
        };
        peers.values().map(place).collect()
    }

    /// Opens a connection to a member of a cluster that this node wants to join, as who it wants to be there.
    pub async fn open_join(
        &self,
        own: &Hello,
        name: &str,
        address: &str,
    ) -> Result<(PeerConnection, Hello), PeerError> {
        self.handshake(name, address, &Hello { link: LinkKind::Join, ..own.clone() }).await
    }

    /// Closes all links and waits for their tasks.
    pub async fn stop(&self) {
        self.stopped.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }

    async fn handshake(
        &self,
        name: &str,
        address: &str,
        own: &Hello,
    ) -> Result<(PeerConnection, Hello), PeerError> {
        let exchange = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut connection = PeerConnection::new(self.tls.connect(stream, name).await?);
            connection.write_hello(own).await?;
            let hello = connection.read_hello_for(own.id).await?;
            if hello.name != name {
                return Err(PeerError::Refused("it has another name"));
            }
            Ok((connection, hello))
        };
        let outcome =
            timeout(PEER_HANDSHAKE_TIMEOUT, exchange).await.map_err(|_| PeerError::Timeout).flatten();
        if matches!(outcome, Err(PeerError::Gone)) {
            self.receiver.gone();
        }
        outcome
    }

    /// The known peer that this Hello is from, if it may have a link.
    fn check_member(self: &Arc<Self>, hello: &Hello) -> Result<Arc<Peer>, PeerError> {
        let own = self.local.hello(LinkKind::Probe);
        if own.is_fresh() || hello.cluster_id != own.cluster_id {
            return Err(PeerError::Refused("it is not of this cluster"));
        }
        let known = self.peers.read().get(&hello.id).cloned();
        let peer = match known {
            Some(peer) => peer,
            None => self.successor(hello).ok_or(PeerError::Refused("it is no member"))?,
        };
        if peer.place.read().name != hello.name {
            return Err(PeerError::Refused("it has another name"));
        }
        let member = own.members.iter().find(|member| member.id == hello.id);
        if member.is_some_and(|member| member.disk != hello.disk) {
            return Err(PeerError::Refused("it has another disk"));
        }
        if hello.link == LinkKind::Repair {
            // It has yet to begin an incarnation, and to hear whether its disk is the last one.
            return Ok(peer);
        }
        let known = peer.incarnation.fetch_max(hello.incarnation.0, Ordering::AcqRel);
        if Incarnation(known) > hello.incarnation {
            return Err(PeerError::Refused("its incarnation is older than one seen before"));
        }
        Ok(peer)
    }

    /// A known node that has joined anew, as its certificate and its name say, under an identity that this node has not heard of yet.
    /// After a restart of all nodes nobody may know of it but itself, and without it there may be no quorum that could tell.
    fn successor(self: &Arc<Self>, hello: &Hello) -> Option<Arc<Peer>> {
        // A new identity always comes with a new disk.
        let founders = self.local.hello(LinkKind::Probe).members;
        if self.is_gone(hello) || founders.iter().any(|member| member.disk == hello.disk) {
            return None;
        }
        let mut places: Vec<PeerPlace> =
            self.peers.read().values().map(|peer| peer.place.read().clone()).collect();
        let place = places.iter_mut().find(|place| place.name == hello.name && place.id < hello.id)?;
        tracing::info!(
            peer = %place.name,
            before = place.id.0,
            node_id = hello.id.0,
            "peer has a new identity, which control has yet to tell"
        );
        place.id = hello.id;
        self.set_peers(places);
        self.peers.read().get(&hello.id).cloned()
    }

    async fn dial_loop(self: &Arc<Self>, peer: &Arc<Peer>, kind: LinkKind) {
        let mut backoff = PEER_BACKOFF_MIN;
        let mut removed = peer.removed.subscribe();
        let mut failures: u64 = 0;
        while !*removed.borrow() {
            let place = peer.place.read().clone();
            let outcome = async {
                let own = self.local.hello(kind);
                let (connection, hello) = self.handshake(&place.name, &place.address, &own).await?;
                if self.check_member(&hello)?.id != peer.id {
                    return Err(PeerError::Refused("it has another identity by now"));
                }
                Ok((connection, hello))
            }
            .await;
            let error = match outcome {
                Ok((connection, hello)) => {
                    let begun = Instant::now();
                    let error = self.run_link(peer, &hello, kind, connection).await;
                    // A link that is refused after its Hello is no success: it would be dialled again, and logged, without a pause.
                    if begun.elapsed() > PEER_BACKOFF_MAX {
                        backoff = PEER_BACKOFF_MIN;
                        failures = 0;
                    }
                    error
                }
                Err(error) => error,
            };
            failures += 1;
            if failures == 1 {
                tracing::info!(peer = %place.name, link = ?kind, %error, "link to peer is down");
            } else {
                tracing::debug!(peer = %place.name, link = ?kind, %error, failures, "link to peer is still down");
            }
            let now = peer.dial_now.get(usize::from(kind == LinkKind::Routing));
            let wake = async {
                match now {
                    Some(notify) => notify.notified().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(PEER_BACKOFF_MAX),
                () = wake => backoff = PEER_BACKOFF_MIN,
                _ = removed.changed() => (),
            }
        }
    }

    /// Asks a peer that is to dial us to do it now, until it has, and when it is silent: it may not know this node any more.
    async fn wake_loop(&self, peer: &Arc<Peer>) {
        let mut removed = peer.removed.subscribe();
        let mut backoff = PEER_BACKOFF_MIN;
        let mut backoff_max = PEER_BACKOFF_MAX;
        while !*removed.borrow() {
            if peer.connected.load(Ordering::Relaxed) {
                backoff_max = PEER_SILENT_PROBE;
                backoff = backoff_max;
            } else {
                let place = peer.place.read().clone();
                if self.probe(&place.name, &place.address).await.is_ok() {
                    backoff = backoff_max;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(backoff_max),
                _ = removed.changed() => (),
            }
        }
    }

    async fn accept_loop(self: Arc<Self>, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(PEER_HANDSHAKES_MAX));
        let mut stopped = self.stopped.subscribe();
        let mut links: JoinSet<()> = JoinSet::new();
        loop {
            let permit = handshakes.clone().acquire_owned().await;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = links.join_next() => continue,
                _ = stopped.changed() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let this = self.clone();
                    links.spawn(async move {
                        if let Err(error) = this.accept(stream, permit).await {
                            tracing::debug!(%address, %error, "connection from a peer ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "peer listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        links.shutdown().await;
    }

    async fn accept<P: Send>(
        self: &Arc<Self>,
        stream: TcpStream,
        handshake_permit: P,
    ) -> Result<(), PeerError> {
        let exchange = async {
            stream.set_nodelay(true)?;
            let mut connection = PeerConnection::new(self.tls.accept(stream).await?);
            let hello = connection.read_hello().await?;
            check_name(&connection.stream, &hello.name)?;
            if self.is_gone(&hello) {
                connection.write(FrameKind::Gone, &hello.id.0.to_le_bytes()).await?;
                connection.close().await;
                return Err(PeerError::Refused("it was removed from the cluster"));
            }
            // Who gets no link gets no Hello: it must not take the link for one that is up.
            let peer = self.link_partner(&hello)?;
            connection.write_hello(&self.local.hello(hello.link)).await?;
            Ok::<_, PeerError>((connection, hello, peer))
        };
        let (connection, hello, peer) =
            timeout(PEER_HANDSHAKE_TIMEOUT, exchange).await.map_err(|_| PeerError::Timeout)??;
        drop(handshake_permit);
        match (hello.link, peer) {
            (LinkKind::Probe, peer) => {
                if let Some(peer) = peer {
                    peer.dial_both();
                }
                connection.close().await;
                Ok(())
            }
            (LinkKind::Raft | LinkKind::Routing, Some(peer)) => {
                Err(self.run_link(&peer, &hello, hello.link, connection).await)
            }
            (LinkKind::Snapshot, Some(peer)) => {
                self.receiver.snapshot(peer.id, connection).await;
                Ok(())
            }
            (LinkKind::Backup, Some(peer)) => {
                self.receiver.backup(peer.id, connection).await;
                Ok(())
            }
            (LinkKind::Repair, _) => {
                self.receiver.repair(hello.id, connection).await;
                Ok(())
            }
            (LinkKind::Raft | LinkKind::Routing | LinkKind::Snapshot | LinkKind::Backup, None) => {
                Err(PeerError::Refused("it is no member"))
            }
            (LinkKind::Join, _) => {
                self.receiver.join(hello, connection).await;
                Ok(())
            }
        }
    }

    /// The member that asks for a link; `None` for who only asks a question, a member or not.
    fn link_partner(self: &Arc<Self>, hello: &Hello) -> Result<Option<Arc<Peer>>, PeerError> {
        match hello.link {
            LinkKind::Probe => Ok(self.check_member(hello).ok()),
            LinkKind::Join => Ok(None),
            LinkKind::Repair => {
                let own = self.local.hello(LinkKind::Probe);
                if own.is_fresh() || hello.cluster_id != own.cluster_id {
                    return Err(PeerError::Refused("it is not of this cluster"));
                }
                // While this node mends its own log it does not know the members yet.
                if self.peers.read().is_empty() { Ok(None) } else { self.check_member(hello).map(Some) }
            }
            LinkKind::Raft | LinkKind::Routing | LinkKind::Snapshot | LinkKind::Backup => {
                let peer = self.check_member(hello).inspect_err(|error| {
                    tracing::debug!(peer = %hello.name, %error, "peer gets no link");
                })?;
                let lasts = matches!(hello.link, LinkKind::Raft | LinkKind::Routing);
                if peer.dialled_by_us && lasts {
                    return Err(PeerError::Refused("this node dials it"));
                }
                peer.lives(hello, hello.link)?;
                Ok(Some(peer))
            }
        }
    }

    /// Runs one connection until it ends; tells why it did.
    async fn run_link(
        &self,
        peer: &Arc<Peer>,
        hello: &Hello,
        kind: LinkKind,
        connection: PeerConnection,
    ) -> PeerError {
        let lane = peer.lane(kind);
        let mut generation = 0;
        lane.latest.send_modify(|latest| {
            *latest += 1;
            generation = *latest;
        });
        let mut latest = lane.latest.subscribe();
        if let Err(error) = peer.lives(hello, kind) {
            return error;
        }
        // The connection before this one ends as soon as it sees the newer generation, reports down, and lets go.
        let _session = lane.session.lock().await;
        if *latest.borrow_and_update() != generation {
            return PeerError::Replaced;
        }
        {
            let mut outgoing = lane.outgoing.lock();
            outgoing.up = true;
            outgoing.full = false;
        }
        if kind == LinkKind::Raft {
            peer.connected.store(true, Ordering::Relaxed);
            self.receiver.up(peer.id).await;
            tracing::info!(peer = %peer.place.read().name, "link to peer is up");
        }
        let mut removed = peer.removed.subscribe();
        let (reader, writer) = tokio::io::split(connection.stream);
        let error = tokio::select! {
            error = self.read_loop(peer, (kind, generation), reader, connection.input) => error,
            error = write_loop(lane, writer) => error,
            _ = latest.changed() => PeerError::Replaced,
            _ = removed.wait_for(|removed| *removed) => PeerError::Refused("it is no member any more"),
        };
        {
            let mut outgoing = lane.outgoing.lock();
            outgoing.up = false;
            if kind == LinkKind::Raft {
                outgoing.bytes.clear();
            }
        }
        if kind == LinkKind::Raft {
            peer.connected.store(false, Ordering::Relaxed);
            self.receiver.down(peer.id).await;
            if !peer.dialled_by_us {
                tracing::info!(peer = %peer.place.read().name, %error, "link to peer is down");
            }
        }
        error
    }

    async fn read_loop(
        &self,
        peer: &Peer,
        (kind, generation): (LinkKind, u64),
        mut reader: ReadHalf<TlsStream<TcpStream>>,
        mut input: BytesMut,
    ) -> PeerError {
        loop {
            let mut frames = Vec::new();
            loop {
                match frame::take(&mut input, FRAME_BYTES_MAX) {
                    Ok(Some(frame)) if frame.kind == FrameKind::KeepAlive => (),
                    Ok(Some(frame)) if frame.kind == FrameKind::Message => frames.push(frame),
                    Ok(Some(_)) => return PeerError::Refused("it sent a frame that does not belong here"),
                    Ok(None) => break,
                    Err(error) => return error.into(),
                }
            }
            // Asked here and not only where the connection is ended: not even one more frame may pass.
            if *peer.lane(kind).latest.borrow() != generation {
                return PeerError::Replaced;
            }
            if !frames.is_empty() && !self.receiver.frames(peer.id, kind, frames).await {
                return PeerError::Refused("it sent a message that makes no sense");
            }
            input.reserve(PEER_READ_BYTES);
            match timeout(PEER_IDLE_MAX, reader.read_buf(&mut input)).await {
                Err(_) => return PeerError::Timeout,
                Ok(Err(error)) => return error.into(),
                Ok(Ok(0)) => return PeerError::Closed,
                Ok(Ok(_)) => (),
            }
        }
    }
}

async fn write_loop(lane: &Lane, mut writer: WriteHalf<TlsStream<TcpStream>>) -> PeerError {
    let mut batch = BytesMut::new();
    loop {
        {
            let mut outgoing = lane.outgoing.lock();
            if outgoing.full && lane.kind == LinkKind::Raft {
                return PeerError::QueueFull;
            }
            outgoing.full = false;
            std::mem::swap(&mut batch, &mut outgoing.bytes);
        }
        if batch.is_empty() {
            if wait(lane, PEER_KEEP_ALIVE).await {
                continue;
            }
            frame::append(&mut batch, FrameKind::KeepAlive, |_| ());
        }
        let write = async {
            writer.write_all(&batch).await?;
            writer.flush().await
        };
        if let Err(error) = write.await {
            return error.into();
        }
        batch.clear();
        if batch.capacity() > SPARE_BYTES_MAX {
            batch = BytesMut::new();
        }
    }
}

/// Waits for something to write; false when nothing came in time.
async fn wait(lane: &Lane, time: Duration) -> bool {
    timeout(time, lane.ready.notified()).await.is_ok()
}

#[cfg(test)]
mod tests;
