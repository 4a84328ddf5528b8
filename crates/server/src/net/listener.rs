//! Listeners for clients: accept, count, hand over to a task per connection.
//!
//! Owns: the sockets that listen, their certificates, the tasks of their connections. Does not: speak MQTT.
//! Invariants: a connection that may not come in is closed before anything is read from it or written to it, unless its
//! address stands in a PROXY header. New certificates count for connections that come after them.
//! Limits: `ListenerLimits`, kept by the gate; `TLS_LOOK_EVERY`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quorate_node::client::ClientConfig;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::arrival::{ArrivalError, Handshake, Origin, arrive};
use super::gate::{Gate, Place};
use super::listener_tls::{ListenerTls, ListenerTlsError, Look};
use super::socket::Socket;
use super::transport::Transport;
use super::unix_socket::{self, SocketFile};
use super::websocket::UpgradeError;
use crate::config::{Bind, ListenerKind, ListenerSettings};
use crate::connection_task::{self, Arrival};
use crate::edge::Edge;
use crate::events::NodeEvent;
use crate::limits::{ACCEPT_PAUSE, LISTEN_BACKLOG, LISTENER_LOOK_EVERY, TLS_LOOK_EVERY};
use crate::metrics::listeners::ListenerFigures;
use crate::metrics::{HandshakeFailure, Refusal};
use crate::reload::LiveSettings;

/// A bound listener that does not accept yet.
pub struct Listener {
    settings: ListenerSettings,
    socket: ListenSocket,
    tls: Option<ListenerTls>,
    gate: Arc<Gate>,
    state: Arc<ListenerState>,
}

/// What others may know of a listener.
pub struct ListenerState {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub kind: ListenerKind,
    /// Where it listens, with the port that the system chose when 0 was asked for.
    pub address: Bind,
    /// It accepts connections.
    listening: AtomicBool,
    /// The last attempt to accept failed, for this reason.
    failed: Mutex<Option<String>>,
    /// Most connections it lets in.
    connections_max: AtomicUsize,
    gate: Arc<Gate>,
}

impl ListenerState {
    /// Whether the socket is open and accepted from.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Why nobody can connect here at all; `None` when somebody can, as far as the listener has room.
    pub fn trouble(&self) -> Option<String> {
        if !self.is_listening() {
            return Some(format!("the listener {} is not open", self.name));
        }
        let failed = self.failed.lock();
        failed.as_ref().map(|error| format!("the listener {} cannot accept: {error}", self.name))
    }

    /// Whether a new connection would be let in, or why not.
    ///
    /// # Errors
    /// With a sentence.
    pub fn accepts(&self) -> Result<(), String> {
        if let Some(error) = self.failed.lock().as_ref() {
            return Err(format!("the listener cannot accept: {error}"));
        }
        let max = self.connections_max.load(Ordering::Relaxed);
        if self.gate.connections() >= max {
            return Err(format!("the listener has {max} connections, as many as it may"));
        }
        Ok(())
    }
}

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The socket.
    #[error("listen on {bind}: {source}")]
    Bind {
        /// Where.
        bind: Bind,
        /// Cause.
        source: io::Error,
    },
    /// The certificates.
    #[error("set up TLS for the listener on {bind}: {source}")]
    Tls {
        /// Where.
        bind: Bind,
        /// Cause.
        source: ListenerTlsError,
    },
}

enum ListenSocket {
    Tcp(TcpListener),
    /// With its file, which is removed at the end.
    Unix(UnixListener, #[expect(dead_code, reason = "it is kept to be dropped")] SocketFile),
}

impl ListenSocket {
    async fn accept(&self) -> io::Result<(Socket, Origin)> {
        match self {
            ListenSocket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Origin { address: Some(address), certificate: None }))
            }
            ListenSocket::Unix(listener, _) => {
                Ok((Socket::Unix(Box::new(listener.accept().await?.0)), Origin::default()))
            }
        }
    }
}

/// As [`TcpListener::bind`], with more room for those that come while nobody accepts.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // After a restart the address may have connections that are not over yet.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

impl Listener {
    /// Reads the certificates and binds.
    pub async fn bind(
        settings: ListenerSettings,
        node_handshakes: Arc<Semaphore>,
    ) -> Result<Listener, ListenerError> {
        let tls = settings.tls.as_ref().map(ListenerTls::load).transpose();
        let tls = tls.map_err(|source| ListenerError::Tls { bind: settings.bind.clone(), source })?;
        let socket = match &settings.bind {
            Bind::Address(address) => listen(*address).map(ListenSocket::Tcp),
            Bind::Path(path) => unix_socket::bind(path, settings.socket_mode)
                .map(|(listener, file)| ListenSocket::Unix(listener, file)),
        };
        let failed = |source| ListenerError::Bind { bind: settings.bind.clone(), source };
        let socket = socket.map_err(failed)?;
        let address = match &socket {
            ListenSocket::Tcp(listener) => Bind::Address(listener.local_addr().map_err(failed)?),
            ListenSocket::Unix(..) => settings.bind.clone(),
        };
        let gate = Arc::new(Gate::new(settings.limits.clone(), node_handshakes));
        let state = Arc::new(ListenerState {
            name: settings.name.clone(),
            kind: settings.kind,
            address,
            listening: AtomicBool::new(false),
            failed: Mutex::default(),
            connections_max: AtomicUsize::new(settings.limits.connections_max),
            gate: gate.clone(),
        });
        Ok(Listener { settings, socket, tls, gate, state })
    }

    /// What others may know of it.
    pub fn state(&self) -> Arc<ListenerState> {
        self.state.clone()
    }

    /// Accepts until the node stops, then waits for its connections to end.
    pub async fn run(mut self, edge: Arc<Edge>) {
        let figures = edge.metrics.listeners.register(&self.state.name, Some(self.state.kind.name()));
        let mut live = edge.live.subscribe();
        let client_config = live.borrow_and_update().client_config.clone();
        let mut service = Arc::new(self.service(&edge, &client_config, figures));
        self.tell_expiry(&service);
        let mut stopping = edge.stopping.subscribe();
        let mut look = interval(TLS_LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connections: JoinSet<()> = JoinSet::new();
        // While connections cannot be taken: when to look whether they could be, should nobody come.
        let mut look_again: Option<Instant> = None;
        self.state.listening.store(true, Ordering::Relaxed);
        loop {
            let accepted = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                _ = look.tick(), if self.tls.is_some() => {
                    self.renew(&service);
                    continue;
                }
                () = wait_until(look_again), if look_again.is_some() => {
                    look_again = self.fails(edge.room.has_files().err());
                    continue;
                }
                Ok(()) = live.changed() => {
                    let settings = live.borrow_and_update().clone();
                    self.adopt(&service, &settings);
                    service = Arc::new(self.service(&edge, &settings.client_config, service.figures.clone()));
                    continue;
                }
            };
            match accepted {
                Ok((socket, origin)) => match edge.room.lets_in(&socket) {
                    Ok(()) => {
                        if look_again.is_some() {
                            look_again = self.fails(None);
                        }
                        self.admit(&service, &mut connections, socket, origin);
                    }
                    Err(error) => {
                        service.refused(Refusal::OpenFiles, &origin);
                        look_again = self.fails(Some(error.to_string()));
                    }
                },
                Err(error) => {
                    look_again = self.fails(Some(error.to_string()));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        self.state.listening.store(false, Ordering::Relaxed);
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }

    /// Connections cannot be taken, for this reason, or can be again. Gives when to look again: a node that is not ready is
    /// sent nobody, so that a listener that waited for the next connection might wait for ever.
    fn fails(&self, reason: Option<String>) -> Option<Instant> {
        let mut failed = self.state.failed.lock();
        match &reason {
            Some(reason) if failed.is_none() => {
                tracing::warn!(bind = %self.settings.bind, reason, "listener cannot accept");
            }
            None if failed.is_some() => {
                tracing::info!(bind = %self.settings.bind, "listener can accept again");
            }
            _ => (),
        }
        let fails = reason.is_some();
        *failed = reason;
        fails.then(|| Instant::now() + LISTENER_LOOK_EVERY)
    }

    /// What is shared by the connections that come from now on.
    fn service(
        &self,
        edge: &Arc<Edge>,
        client_config: &Arc<ClientConfig>,
        figures: Arc<ListenerFigures>,
    ) -> Service {
        Service::new(&self.settings, edge.clone(), self.gate.clone(), client_config, figures)
    }

    /// Takes over what may change while it runs. What it needs was read and checked before.
    fn adopt(&mut self, service: &Service, live: &LiveSettings) {
        let Some(own) = live.listeners.iter().find(|listener| listener.settings.name == self.settings.name)
        else {
            return;
        };
        self.gate.set_limits(own.settings.limits.clone());
        self.state.connections_max.store(own.settings.limits.connections_max, Ordering::Relaxed);
        if let (Some(tls), Some(_)) = (&own.tls, &self.tls) {
            self.tls = Some(tls.clone());
            self.replaced(service);
        }
        self.settings = own.settings.clone();
    }

    fn replaced(&self, service: &Service) {
        let edge = &service.edge;
        edge.metrics.certificates_replaced.add(1);
        edge.events.note(&NodeEvent::CertificatesReplaced(self.settings.name.clone()));
        tracing::info!(bind = %self.settings.bind, "new certificates are in force");
        self.tell_expiry(service);
    }

    /// Looks for new certificates.
    fn renew(&mut self, service: &Service) {
        let Some(tls) = &mut self.tls else { return };
        let edge = &service.edge;
        match tls.look() {
            Look::Same => (),
            Look::Replaced => self.replaced(service),
            Look::Kept(error) => {
                edge.metrics.certificates_kept.add(1);
                let event = NodeEvent::CertificatesKept(self.settings.name.clone(), error.to_string());
                edge.events.note(&event);
                tracing::warn!(bind = %self.settings.bind, %error, "the old certificates stay in force: correct the files");
            }
        }
    }

    fn tell_expiry(&self, service: &Service) {
        if let Some(tls) = &self.tls {
            service.figures.certificate_expiry_s.set(tls.expires_at_s());
        }
    }

    /// Gives a connection a task, or closes it.
    fn admit(&self, service: &Arc<Service>, connections: &mut JoinSet<()>, socket: Socket, origin: Origin) {
        let now = service.edge.clock.now();
        let entered = service.gate.enter(now).and_then(|(place, mut pass)| {
            match (&self.settings.proxy, origin.address) {
                (Some(proxy), Some(from)) => {
                    if !proxy.trusted.iter().any(|network| network.contains(from.ip())) {
                        return Err(Refusal::ProxyUntrusted);
                    }
                }
                (None, Some(from)) => pass.identify(from.ip(), now)?,
                (_, None) => (),
            }
            Ok((place, pass))
        });
        match entered {
            Ok((place, pass)) => {
                if let Socket::Tcp(stream) = &socket
                    && let Err(error) = stream.set_nodelay(true)
                {
                    tracing::debug!(%error, "connection broke before it began");
                    return;
                }
                let arrival = Box::new(Arrival {
                    origin,
                    principal: self.settings.principal,
                    pass: Some(pass),
                    accepted_at: now,
                });
                let handshake = Handshake {
                    proxy: self.settings.proxy.is_some(),
                    tls: self.tls.as_ref().map(ListenerTls::config),
                    websocket: self.settings.kind.is_websocket(),
                    packet_bytes_max: service.packet_bytes_max,
                };
                // Whatever is around the task of a connection, or comes before it, costs memory as long as it lasts:
                // most connections get it as it is.
                if handshake.is_empty() {
                    let (edge, config) = (service.edge.clone(), service.client_config.clone());
                    let figures = service.figures.clone();
                    let transport = Transport::Plain(socket);
                    connections
                        .spawn(connection_task::serve(edge, config, transport, arrival, place, figures));
                } else {
                    let shaking = Box::pin(shake_hands(service.clone(), handshake, socket, arrival));
                    connections.spawn(serve_after(shaking, service.clone(), place));
                }
            }
            Err(refusal) => service.refused(refusal, &origin),
        }
    }
}

/// At that time; never, without one.
async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What the connections of a listener share.
struct Service {
    edge: Arc<Edge>,
    gate: Arc<Gate>,
    client_config: Arc<ClientConfig>,
    packet_bytes_max: usize,
    handshake_timeout: Duration,
    bind: Bind,
    figures: Arc<ListenerFigures>,
}

impl Service {
    fn new(
        settings: &ListenerSettings,
        edge: Arc<Edge>,
        gate: Arc<Gate>,
        client_config: &Arc<ClientConfig>,
        figures: Arc<ListenerFigures>,
    ) -> Service {
        let client_config = match settings.limits.packet_bytes_max {
            None => client_config.clone(),
            Some(packet_bytes_max) => {
                let mut own = ClientConfig::clone(client_config);
                let limits = &mut own.connection.limits;
                limits.packet_bytes_max = limits.packet_bytes_max.min(packet_bytes_max);
                Arc::new(own)
            }
        };
        let packet_bytes_max = client_config.connection.limits.packet_bytes_max;
        Service {
            gate,
            packet_bytes_max: usize::try_from(packet_bytes_max).unwrap_or(usize::MAX),
            // What comes before CONNECT is part of the time until CONNECT.
            handshake_timeout: settings
                .limits
                .handshake_timeout
                .min(client_config.connection.connect_deadline),
            client_config,
            bind: settings.bind.clone(),
            edge,
            figures,
        }
    }

    fn refused(&self, refusal: Refusal, origin: &Origin) {
        self.edge.metrics.refused(refusal);
        tracing::debug!(bind = %self.bind, address = ?origin.address, %refusal, "connection refused");
    }
}

/// A handshake. In a box, so that its state goes when it is done.
type Shaking = Pin<Box<dyn Future<Output = Option<(Transport, Box<Arrival>)>> + Send>>;

async fn serve_after(shaking: Shaking, service: Arc<Service>, place: Place) {
    let Some((transport, arrival)) = shaking.await else { return };
    let (edge, config) = (service.edge.clone(), service.client_config.clone());
    let figures = service.figures.clone();
    drop(service);
    connection_task::serve(edge, config, transport, arrival, place, figures).await;
}

/// Speaks what comes before MQTT within its time; says why when that fails.
async fn shake_hands(
    service: Arc<Service>,
    handshake: Handshake,
    socket: Socket,
    mut arrival: Box<Arrival>,
) -> Option<(Transport, Box<Arrival>)> {
    let mut pass = arrival.pass.take()?;
    let arriving = arrive(handshake, socket, &mut arrival.origin, &mut pass, service.edge.clock);
    let failure = match timeout(service.handshake_timeout, arriving).await {
        Ok(Ok(transport)) => {
            arrival.pass = Some(pass);
            return Some((transport, arrival));
        }
        Ok(Err(ArrivalError::Refused(refusal))) => {
            service.refused(refusal, &arrival.origin);
            return None;
        }
        Ok(Err(error)) => {
            tracing::debug!(bind = %service.bind, address = ?arrival.origin.address, %error, "handshake failed");
            match error {
                ArrivalError::Io(_)
                | ArrivalError::WebSocket(UpgradeError::Io(_))
                | ArrivalError::Refused(_) => HandshakeFailure::Broken,
                ArrivalError::Proxy(_) => HandshakeFailure::Proxy,
                ArrivalError::Tls(_) | ArrivalError::Identity(_) => HandshakeFailure::Tls,
                ArrivalError::WebSocket(UpgradeError::Refused { .. }) => HandshakeFailure::WebSocket,
            }
        }
        Err(_) => {
            tracing::debug!(bind = %service.bind, address = ?arrival.origin.address, "handshake took too long");
            HandshakeFailure::Timeout
        }
    };
    service.edge.metrics.handshake_failed(failure);
    None
}
