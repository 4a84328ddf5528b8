//! All that is known of one session, for the operator who asks why a client gets nothing.
//!
//! Owns: [`SessionDetail`]. Does not: judge or format. Invariants: reading changes nothing.
//! Limits: a walk over the session's inflight messages and subscriptions, nothing else.

use quorate_codec::{PacketId, QoS};

use crate::command::SubscribeFilter;
use crate::config::Overflow;
use crate::delivery::window_max;
use crate::effect::DropReason;
use crate::ids::{LogIndex, Timestamp};
use crate::inflight::InflightMessage;
use crate::limits::INFLIGHT_BYTES_MAX;
use crate::partition::{Partition, SessionInfo, session_info};
use crate::session::Session;

/// A session with what decides about its deliveries.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionDetail {
    /// The session.
    pub info: SessionInfo,
    /// When it ends unless a connection comes, in replicated time; `None` while it has one, or when it never ends.
    pub ends: Option<Timestamp>,
    /// Receive Maximum of the last CONNECT.
    pub receive_max: u16,
    /// Unacknowledged messages that a connection of it may have: Receive Maximum, capped by the configuration.
    pub window: u16,
    /// Subscriptions, in byte order of the filters. Those of a transient session are not here.
    pub subscriptions: Vec<SubscribeFilter>,
    /// Most queued messages.
    pub queue_messages_max: u64,
    /// Most queued bytes.
    pub queue_bytes_max: u64,
    /// What happens beyond.
    pub overflow: Overflow,
    /// Messages with a packet identifier.
    pub inflight: InflightDetail,
    /// Packet identifiers of QoS 2 messages that the client published and has not released.
    pub inbound: usize,
    /// Messages dropped for it since it began, by reason.
    pub dropped: Vec<(DropReason, u64)>,
    /// Publishes refused because it had no room.
    pub refused: u64,
}

/// The unacknowledged messages of a session.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct InflightDetail {
    /// Sent on the present connection.
    pub sent: u64,
    /// Sent on an earlier connection, and not yet again on the present one.
    pub held: u64,
    /// Bytes of those sent.
    pub sent_bytes: u64,
    /// Bytes from which on nothing more is sent.
    pub sent_bytes_max: u64,
    /// QoS 1, waiting for PUBACK.
    pub awaiting_puback: u64,
    /// QoS 2, waiting for PUBREC.
    pub awaiting_pubrec: u64,
    /// QoS 2, received by the client, waiting for PUBCOMP.
    pub awaiting_pubcomp: u64,
    /// The one that waits for longest.
    pub oldest: Option<OldestInflight>,
}

/// The oldest unacknowledged message of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OldestInflight {
    /// Packet identifier.
    pub packet_id: PacketId,
    /// QoS of the delivery.
    pub qos: QoS,
    /// Entry that carries it; `None` when the client has received it and only PUBREL is left.
    pub entry: Option<LogIndex>,
    /// It was sent on an earlier connection.
    pub sent_before: bool,
}

impl Partition {
    /// What is known of the session of a client identifier; `None` when there is none.
    #[must_use]
    pub fn explain(&self, client_id: &str) -> Option<SessionDetail> {
        let session = self.sessions.by_client(client_id)?;
        let config = &self.config;
        Some(SessionDetail {
            info: session_info(session),
            ends: session.end(),
            receive_max: session.receive_max,
            window: window_max(config, session.receive_max),
            subscriptions: session.subscribe_filters(),
            queue_messages_max: config.queue_messages_max,
            queue_bytes_max: config.queue_bytes_max,
            overflow: config.overflow,
            inflight: inflight_detail(session),
            inbound: session.inbound.len(),
            dropped: session.drops.dropped().collect(),
            refused: session.drops.refused(),
        })
    }
}

fn inflight_detail(session: &Session) -> InflightDetail {
    let inflight = &session.inflight;
    let sent = inflight.sent() as u64;
    let mut detail = InflightDetail {
        sent,
        held: inflight.len() as u64 - sent,
        sent_bytes: inflight.sent_bytes(),
        sent_bytes_max: INFLIGHT_BYTES_MAX,
        oldest: inflight.iter().next().map(oldest),
        ..InflightDetail::default()
    };
    for message in inflight.iter() {
        match (message.queued.qos(), message.queued.is_received()) {
            (QoS::ExactlyOnce, true) => detail.awaiting_pubcomp += 1,
            (QoS::ExactlyOnce, false) => detail.awaiting_pubrec += 1,
            (QoS::AtMostOnce | QoS::AtLeastOnce, _) => detail.awaiting_puback += 1,
        }
    }
    detail
}

fn oldest(message: &InflightMessage) -> OldestInflight {
    let queued = &message.queued;
    OldestInflight {
        packet_id: message.packet_id(),
        qos: queued.qos(),
        entry: (!queued.is_received()).then_some(queued.message.index),
        sent_before: queued.dup(),
    }
}
