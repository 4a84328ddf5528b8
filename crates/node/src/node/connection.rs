//! The client connections of this node, as the node sees them.
//!
//! Owns: which connection holds which session, what it waits for, and the direct routes of its filters.
//! Does not: speak MQTT; see [`crate::Client`].
//! Invariants: an entry exists from `ClientRequest::Connect` to `ClientRequest::Closed`; a filter's count equals the
//! number of connections that subscribe to it here with the same target.
//! Limits: bounded by the listener's limit of connections.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use quorate_codec::{PacketId, ReasonCode, TopicFilter};
use quorate_state::command::{RouteTarget, SessionExpiry, SubscribeFilter};
use quorate_state::{
    ConnId, DeliverySeq, Epoch, GroupId, LogIndex, NodeId, Owner, SessionId, ShareVersion, StreamId,
    StreamSeq,
};

use super::shares::Joining;
use crate::durable::Durable;
use crate::edge::SessionDelivery;

/// What a connection got from its home partition.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) session: SessionId,
    pub(super) epoch: Epoch,
    pub(super) durable: bool,
}

/// A CONNECT that is applied, while former connections of the client are not known to be closed.
#[derive(Debug)]
pub(super) struct Pending {
    /// These connections; never empty.
    pub(super) previous: BTreeSet<Owner>,
    pub(super) session_present: Durable<bool>,
    pub(super) expiry: SessionExpiry,
    pub(super) subscriptions: Vec<SubscribeFilter>,
    /// For the joins of the shared ones among them.
    pub(super) version: ShareVersion,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) group: GroupId,
    pub(super) held: Option<Held>,
    pub(super) pending: Option<Pending>,
    pub(super) open: bool,
    pub(super) next_delivery: DeliverySeq,
    /// When a gap was last reported to the leader: not again before `RESYNC_EVERY`, for the gap may be one that the
    /// leader cannot fill at once.
    pub(super) resync_asked_at: Option<Duration>,
    /// Deliveries that came before CONNACK may be sent; at most an inflight window.
    pub(super) early: Vec<SessionDelivery>,
    /// Each with what it makes this node a target of.
    pub(super) filters: BTreeMap<TopicFilter, RouteTarget>,
    /// Messages of QoS 1 and 2 that the client takes without acknowledging.
    pub(super) receive_max: u16,
    /// Told to close; nothing more is sent to it.
    pub(super) closing: bool,
}

/// A SUBSCRIBE that waits for the cluster.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) conn: ConnId,
    pub(super) packet_id: Durable<PacketId>,
    pub(super) reasons: Vec<ReasonCode>,
    pub(super) retained: Vec<SubscribeFilter>,
    /// Route announcements that control must have applied.
    pub(super) needs: Vec<(StreamId, StreamSeq)>,
    /// Control position at which it had; the barrier must reach it.
    pub(super) index: Option<LogIndex>,
    /// Number of the question up to where retained messages count; asked when the barrier has passed.
    pub(super) bounds: Option<u64>,
}

/// A direct route of this node.
#[derive(Debug)]
pub(super) struct LocalRoute {
    pub(super) count: u32,
    pub(super) seq: StreamSeq,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    pub(super) all: BTreeMap<ConnId, Connection>,
    pub(super) routes: BTreeMap<(TopicFilter, RouteTarget), LocalRoute>,
    pub(super) waiting: VecDeque<Waiting>,
    /// SUBSCRIBEs whose share groups have not all answered yet.
    pub(super) joining: Joining,
    /// Announcements known to have passed the barrier, per stream.
    pub(super) passed: BTreeMap<StreamId, StreamSeq>,
    /// Which connections of this node wait for a connection, here or elsewhere, to close: the index of `Pending`.
    pub(super) awaited: BTreeMap<Owner, BTreeSet<ConnId>>,
    /// Which nodes wait for a connection of this node to close.
    pub(super) closers: BTreeMap<ConnId, BTreeSet<NodeId>>,
    /// PUBRELs that the session's partition could not carry out yet: asked again with the next tick.
    pub(super) unsettled: Vec<(ConnId, PacketId)>,
}

impl Connections {
    /// A former connection is closed: the connections that wait for no other now.
    pub(super) fn ended(&mut self, previous: Owner) -> Vec<(ConnId, Pending)> {
        let mut ready = Vec::new();
        for conn in self.awaited.remove(&previous).unwrap_or_default() {
            let Some(connection) = self.all.get_mut(&conn) else { continue };
            let Some(pending) = &mut connection.pending else { continue };
            pending.previous.remove(&previous);
            if pending.previous.is_empty() {
                ready.extend(connection.pending.take().map(|pending| (conn, pending)));
            }
        }
        ready
    }

    /// A connection is closed while it waits for others.
    pub(super) fn gives_up(&mut self, conn: ConnId, pending: &Pending) {
        for previous in &pending.previous {
            if let Some(waiters) = self.awaited.get_mut(previous) {
                waiters.remove(&conn);
                if waiters.is_empty() {
                    self.awaited.remove(previous);
                }
            }
        }
    }

    /// A new incarnation has begun: what the old connections held is gone. They are still told to close.
    pub(super) fn forget_old(&mut self) {
        for connection in self.all.values_mut() {
            connection.held = None;
            connection.pending = None;
            connection.filters.clear();
        }
        self.awaited.clear();
        self.routes.clear();
        self.waiting.clear();
        self.joining.clear();
        self.passed.clear();
        self.unsettled.clear();
    }
}
