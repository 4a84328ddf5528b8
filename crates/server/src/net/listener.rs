//! Listeners for clients: accept, count, hand over to a task per connection.
//!
//! Owns: the sockets that listen, their limits, the tasks of their connections. Does not: speak MQTT.
//! Limits: `connections_max` per listener; one more is closed as soon as it comes. `CLIENT_HANDSHAKE_TIMEOUT` for the
//! WebSocket handshake.

use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::transport::Transport;
use super::websocket::WebSocket;
use crate::config::{ListenerKind, ListenerSettings};
use crate::connection_task;
use crate::edge::Edge;
use crate::limits::{ACCEPT_PAUSE, CLIENT_HANDSHAKE_TIMEOUT};

/// A bound listener that does not accept yet.
pub struct Listener {
    settings: ListenerSettings,
    socket: TcpListener,
}

impl Listener {
    /// Binds.
    pub async fn bind(settings: ListenerSettings) -> io::Result<Listener> {
        let socket = TcpListener::bind(settings.bind).await?;
        Ok(Listener { settings, socket })
    }

    /// Where it listens, with the port that the system chose when 0 was asked for.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// What it speaks.
    pub fn kind(&self) -> ListenerKind {
        self.settings.kind
    }

    /// Accepts until the node stops, then waits for its connections to end.
    pub async fn run(self, edge: Arc<Edge>) {
        let places = Arc::new(Semaphore::new(self.settings.connections_max.min(Semaphore::MAX_PERMITS)));
        let mut stopping = edge.stopping.subscribe();
        let mut connections: JoinSet<()> = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => break,
                accepted = self.socket.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, address)) => match places.clone().try_acquire_owned() {
                    Ok(place) => {
                        let task = serve(edge.clone(), self.settings.kind, stream);
                        connections.spawn(async move {
                            task.await;
                            drop(place);
                        });
                    }
                    Err(_) => {
                        edge.metrics.connections_refused.add(1);
                        tracing::debug!(%address, bind = %self.settings.bind, "listener is at its limit of connections");
                    }
                },
                Err(error) => {
                    tracing::warn!(bind = %self.settings.bind, %error, "listener cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }
}

async fn serve(edge: Arc<Edge>, kind: ListenerKind, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection broke before it began");
        return;
    }
    let transport = match kind {
        ListenerKind::Tcp => Transport::Tcp(stream),
        ListenerKind::WebSocket => {
            let packet_bytes_max = edge.packet_bytes_max;
            // Boxed, so that the handshake's state is not part of every connection's task.
            let handshake = Box::pin(WebSocket::accept(stream, packet_bytes_max));
            match timeout(CLIENT_HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(socket)) => Transport::WebSocket(Box::new(socket)),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "WebSocket handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!("WebSocket handshake took too long");
                    return;
                }
            }
        }
    };
    connection_task::serve(edge, transport).await;
}
