//! What comes from other nodes, on its way to the worker or to the connections of this node.
//!
//! Owns: decoding of peer messages. Does not: open links, act on messages of the node.
//! Invariants: a frame that does not decode closes its link; direct messages, counters and inquiries come on the routing link only, all others
//! on the raft link only. Limits: the inbox makes a link wait.

use std::sync::{Arc, OnceLock, Weak};

use parking_lot::RwLock;
use quorate_node::Event;
use quorate_node::edge::ClientEvent;
use quorate_node::peer::PeerMessage;
use quorate_state::NodeId;

use crate::cuts::{self, PartReader};
use crate::edge::Edge;
use crate::events::NodeEvent;
use crate::founding::Founding;
use crate::inbox::Inbox;
use crate::net::frame::{Frame, FrameKind};
use crate::net::hello::{Hello, LinkKind};
use crate::net::peer::{LinkReceiver, PeerConnection};
use crate::question::Question;
use crate::repair::{self, ServedLog};
use crate::snapshots::{SnapshotReceiver, SnapshotSource};
use crate::sys::figures::Figures;

/// Receives from the links of this node.
pub struct PeerReceiver {
    inbox: Arc<Inbox<Question>>,
    edge: OnceLock<Weak<Edge>>,
    snapshots: OnceLock<Arc<SnapshotReceiver>>,
    state: OnceLock<SnapshotSource>,
    parts: OnceLock<PartReader>,
    log: RwLock<Option<ServedLog>>,
    founding: OnceLock<Founding>,
}

impl PeerReceiver {
    /// Gives messages to this inbox.
    pub fn new(inbox: Arc<Inbox<Question>>) -> Self {
        PeerReceiver {
            inbox,
            edge: OnceLock::new(),
            snapshots: OnceLock::new(),
            state: OnceLock::new(),
            parts: OnceLock::new(),
            log: RwLock::default(),
            founding: OnceLock::new(),
        }
    }

    /// From now on direct messages reach connections and snapshots are taken. Call once, before peers are set.
    pub fn attach(
        &self,
        edge: &Arc<Edge>,
        snapshots: Arc<SnapshotReceiver>,
        state: SnapshotSource,
        parts: PartReader,
        founding: Founding,
    ) {
        let _attached_once = self.state.set(state);
        let _attached_once = self.parts.set(parts);
        let _attached_once = self.founding.set(founding);
        let _attached_once = self.edge.set(Arc::downgrade(edge));
        let _attached_once = self.snapshots.set(snapshots);
    }

    /// From now on other nodes get records from this log that are damaged there; from none if there is none.
    pub fn serve_repairs(&self, log: Option<ServedLog>) {
        *self.log.write() = log;
    }

    /// Notes that the link to a peer is up or down.
    fn contact(&self, peer: NodeId, up: bool) {
        let Some(edge) = self.edge.get().and_then(Weak::upgrade) else { return };
        if edge.lookout.contact(peer, up, edge.clock.now()) {
            let event = if up { NodeEvent::PeerReachable(peer) } else { NodeEvent::PeerUnreachable(peer) };
            edge.events.note(&event);
        }
    }

    fn direct(&self, peer: NodeId, frames: Vec<Frame>) -> bool {
        let Some(edge) = self.edge.get().and_then(Weak::upgrade) else { return false };
        let (mut deliveries, mut marked) = (Vec::new(), Vec::new());
        {
            let mut routing = edge.routing.read();
            for frame in frames {
                match PeerMessage::decode(frame.payload) {
                    Ok(PeerMessage::Forward(message)) => {
                        edge.metrics.forwards_in.add(1);
                        let early = routing.forwarded_deliveries(peer, &message, &mut deliveries);
                        edge.metrics.dropped_moved.add(early);
                    }
                    Ok(PeerMessage::ForwardShared { draw, shares, message }) => {
                        edge.metrics.forwards_in.add(1);
                        let early = routing.forwarded_share_deliveries(
                            peer,
                            &message,
                            &shares,
                            draw,
                            &mut deliveries,
                        );
                        edge.metrics.dropped_moved.add(early);
                    }
                    Ok(PeerMessage::Mark { conn, number }) => {
                        let Some(links) = &edge.links else { return false };
                        // When there is no room for it, the other side asks again.
                        links.forward(peer, |out| PeerMessage::MarkAnswer { conn, number }.encode(out));
                    }
                    Ok(PeerMessage::MarkAnswer { conn, number }) => {
                        drop(routing);
                        if edge.routing.write().mark_answered(conn, number, peer) {
                            marked.push((conn, ClientEvent::Marked(number)));
                        }
                        routing = edge.routing.read();
                    }
                    Ok(PeerMessage::Counters { values }) => {
                        edge.heard.lock().note(peer, Figures::of_peer(values), edge.clock.now());
                    }
                    Ok(PeerMessage::Inquiry { number, body }) => edge.inquiries.came(peer, number, body),
                    Ok(PeerMessage::InquiryAnswer { number, body }) => {
                        edge.inquiries.answered(peer, number, body);
                    }
                    _ => return false,
                }
            }
        }
        edge.mailboxes.deliver_events(&mut marked);
        // The link carries what is for others too: it gives way to nobody.
        let _pressed = edge.deliver_direct(&mut deliveries);
        true
    }
}

impl LinkReceiver for PeerReceiver {
    async fn up(&self, peer: NodeId) {
        self.contact(peer, true);
        if let Some(edge) = self.edge.get().and_then(Weak::upgrade) {
            edge.send_marks(None);
        }
        self.inbox.post_peer(vec![Event::PeerUp(peer)], 0).await;
    }

    async fn down(&self, peer: NodeId) {
        self.contact(peer, false);
        self.inbox.post_peer(vec![Event::PeerDown(peer)], 0).await;
    }

    async fn frames(&self, peer: NodeId, link: LinkKind, frames: Vec<Frame>) -> bool {
        if link == LinkKind::Routing {
            return self.direct(peer, frames);
        }
        let bytes = frames.iter().map(|frame| frame.payload.len()).sum();
        let mut events = Vec::with_capacity(frames.len());
        for frame in frames {
            match PeerMessage::decode(frame.payload) {
                Ok(
                    PeerMessage::Forward(_)
                    | PeerMessage::ForwardShared { .. }
                    | PeerMessage::Mark { .. }
                    | PeerMessage::MarkAnswer { .. }
                    | PeerMessage::Counters { .. }
                    | PeerMessage::Inquiry { .. }
                    | PeerMessage::InquiryAnswer { .. },
                ) => return false,
                Ok(message) => events.push(Event::Peer(peer, message)),
                Err(error) => {
                    tracing::warn!(peer = peer.0, %error, "peer sent a malformed message");
                    return false;
                }
            }
        }
        self.inbox.post_peer(events, bytes).await;
        true
    }

    async fn snapshot(&self, peer: NodeId, connection: PeerConnection) {
        match self.snapshots.get() {
            Some(snapshots) => snapshots.receive(peer, connection).await,
            None => connection.close().await,
        }
    }

    async fn backup(&self, peer: NodeId, mut connection: PeerConnection) {
        let edge = self.edge.get().and_then(Weak::upgrade);
        let (Some(edge), Some(parts)) = (edge, self.parts.get()) else { return };
        if let Err(error) = cuts::serve_peer(&edge.cuts, parts, &mut connection).await {
            tracing::warn!(peer = peer.0, %error, "a peer that takes a backup did not get all of it");
            let _told_if_it_listens =
                connection.write(FrameKind::BackupRefused, error.to_string().as_bytes()).await;
        }
        connection.close().await;
    }

    async fn repair(&self, from: NodeId, mut connection: PeerConnection) {
        let log = self.log.read().clone();
        let edge = self.edge.get().and_then(Weak::upgrade);
        if let Some(log) = log
            && let Err(error) =
                repair::serve(&log, edge.as_deref(), self.state.get(), from, &mut connection).await
        {
            tracing::debug!(%error, "a node that asks for damaged records got no answer");
        }
        connection.close().await;
    }

    fn gone(&self) {
        crate::exit::stop_removed();
    }

    async fn join(&self, hello: Hello, connection: PeerConnection) {
        let edge = self.edge.get().and_then(Weak::upgrade);
        let (Some(edge), Some(founding)) = (edge, self.founding.get()) else { return };
        let name = hello.name.clone();
        if let Err(error) = edge.joins.answer(hello, connection, &self.inbox, founding).await {
            tracing::warn!(%name, %error, "a node that asks to join got no answer");
        }
    }
}
