//! Counters of this process, and their text for Prometheus.
//!
//! Owns: what is counted, and its closed lists of labels. Does not: know clients or topics; have names, which the
//! catalogue has.
//! Invariants: counters never go back; a metric's name does not change within a major version.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate_codec::ReasonCode;
use quorate_node::client::{CloseCause, Traffic};
use quorate_state::effect::DropReason;

use catalog::Metric;
use causes::{CAUSES, CONNECT_REFUSALS, DisconnectCause, NodePhase};
use listeners::ListenerTable;
pub use text::{Counter, Gauge, Histogram, HistogramCounts, Text};

pub mod catalog;
pub mod causes;
pub mod listeners;
pub mod process;
mod text;

/// Name of a reason, as in metrics and in answers about sessions.
pub fn reason_name(reason: DropReason) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == reason).map_or("other", |(_, name)| name)
}

/// Why this process dropped messages, besides what the replicated state counts.
const REASONS: [(DropReason, &str); 11] = [
    (DropReason::QueueMessages, "queue_messages"),
    (DropReason::QueueBytes, "queue_bytes"),
    (DropReason::MessageExpired, "message_expired"),
    (DropReason::SessionEnded, "session_ended"),
    (DropReason::CleanStart, "clean_start"),
    (DropReason::PacketTooLarge, "packet_too_large"),
    (DropReason::RetainedTopics, "retained_topics"),
    (DropReason::RefusedLate, "refused_late"),
    (DropReason::ReadOnlyTopic, "read_only_topic"),
    (DropReason::DiskLow, "disk_low"),
    (DropReason::MemoryLow, "memory_low"),
];

/// Why a client connection was closed as it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The listener has as many as it may.
    #[error("the listener is at its limit of connections")]
    ConnectionsMax,
    /// As many have not sent their CONNECT as may, on the listener or on the node.
    #[error("too many connections have not sent their CONNECT")]
    HandshakesMax,
    /// The same, for the client's address.
    #[error("too many connections of this address have not sent their CONNECT")]
    AddressHandshakesMax,
    /// They come too fast.
    #[error("connections come faster than the listener allows")]
    ConnectRate,
    /// They come too fast from the client's address.
    #[error("connections of this address come faster than the listener allows")]
    AddressConnectRate,
    /// The listener speaks the PROXY protocol, and this is no proxy.
    #[error("the address is not trusted to speak the PROXY protocol")]
    ProxyUntrusted,
    /// The process has as many files open as clients may take.
    #[error("the rest of the files that may be open are kept for the node itself")]
    OpenFiles,
}

const REFUSALS: [(Refusal, &str); 7] = [
    (Refusal::ConnectionsMax, "connections_max"),
    (Refusal::HandshakesMax, "handshakes_max"),
    (Refusal::AddressHandshakesMax, "handshakes_per_address_max"),
    (Refusal::ConnectRate, "connect_rate"),
    (Refusal::AddressConnectRate, "connect_rate_per_address"),
    (Refusal::ProxyUntrusted, "proxy_untrusted"),
    (Refusal::OpenFiles, "open_files"),
];

/// Where a client connection failed that was let in and did not get as far as MQTT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeFailure {
    /// It took too long.
    Timeout,
    /// It ended or broke.
    Broken,
    /// The PROXY header.
    Proxy,
    /// The TLS handshake, or the client's certificate.
    Tls,
    /// The WebSocket handshake.
    WebSocket,
}

const HANDSHAKE_FAILURES: [(HandshakeFailure, &str); 5] = [
    (HandshakeFailure::Timeout, "timeout"),
    (HandshakeFailure::Broken, "broken"),
    (HandshakeFailure::Proxy, "proxy"),
    (HandshakeFailure::Tls, "tls"),
    (HandshakeFailure::WebSocket, "websocket"),
];

/// All counters of this process.
#[derive(Default)]
pub struct Metrics {
    /// Client connections accepted.
    pub connections_accepted: Counter,
    refused: [Counter; REFUSALS.len()],
    handshakes_failed: [Counter; HANDSHAKE_FAILURES.len()],
    /// Times that a listener took new certificates into use.
    pub certificates_replaced: Counter,
    /// Times that a listener kept its certificates because the new ones cannot be used.
    pub certificates_kept: Counter,
    /// Client connections ended.
    pub connections_closed: Counter,
    disconnects: [Counter; CAUSES.len()],
    connects_refused: [Counter; CONNECT_REFUSALS.len()],
    /// Figures of each listener.
    pub listeners: ListenerTable,
    /// Bytes read from clients.
    pub client_bytes_in: Counter,
    /// Bytes written to clients.
    pub client_bytes_out: Counter,
    /// Connections of clients whose CONNECT was accepted.
    pub connects: Counter,
    /// MQTT packets read from clients.
    pub packets_in: Counter,
    /// MQTT packets written to clients.
    pub packets_out: Counter,
    /// PUBLISH packets read from clients.
    pub publishes_in: Counter,
    /// PUBLISH packets written to clients.
    pub publishes_out: Counter,
    /// Bytes of payloads in PUBLISH packets read from clients.
    pub publish_bytes_in: Counter,
    /// Bytes of payloads in PUBLISH packets written to clients.
    pub publish_bytes_out: Counter,
    /// Publishes that went into groups.
    pub publishes_durable: Counter,
    /// Deliveries handed to connections from their durable sessions.
    pub deliveries_session: Counter,
    /// Deliveries handed to connections directly.
    pub deliveries_direct: Counter,
    /// Retained messages handed to connections.
    pub deliveries_retained: Counter,
    /// Direct messages forwarded to other nodes.
    pub forwards_out: Counter,
    /// Direct messages that came from other nodes.
    pub forwards_in: Counter,
    /// Publishes whose commit was reported to a connection.
    pub publishes_applied: Counter,
    /// Acknowledgements of clients for deliveries of durable sessions.
    pub acknowledgements: Counter,
    dropped: [Counter; REASONS.len()],
    /// Direct deliveries dropped because a connection's mailbox was full.
    pub dropped_mailbox: Counter,
    /// Direct messages dropped because the routing link's queue was full.
    pub dropped_link: Counter,
    /// Forwarded messages that came too early for a session that goes on here.
    pub dropped_moved: Counter,
    /// Times that this node was elected leader of a group, and not because the leader before handed over.
    pub elections: Counter,
    /// Messages between nodes lost because the link was down or full.
    pub peer_messages_lost: Counter,
    /// Syncs of the log.
    pub log_syncs: Counter,
    /// Bytes appended to the log.
    pub log_bytes: Counter,
    /// Records appended to the log.
    pub log_records: Counter,
    /// Time of one append with its sync.
    pub log_sync_time: Histogram,
    /// Time of the sync alone.
    pub log_fsync_time: Histogram,
    /// Size of all segments of the log.
    pub log_size: Gauge,
    /// 1 while an append waits for room on the disk.
    pub log_waits_for_space: Gauge,
    /// 1 while messages are not taken in because the disk has little room.
    pub disk_low: Gauge,
    /// Bytes of memory that the node may take.
    pub memory_budget: Gauge,
    /// Bytes of memory that it takes, at the last look.
    pub memory_used: Gauge,
    /// How short memory is: 0 not, 1 from 80 % on, 2 from 90 % on.
    pub memory_pressure: Gauge,
    /// Folders with damaged state at the start.
    pub damaged_folders: Gauge,
    /// Places that the last walk over the disk found damaged and nobody could mend.
    pub damage_left: Gauge,
    /// Reads and walks that met a damaged record or body.
    pub damage_found: Counter,
    /// Of these, what was written again with the payload of another node.
    pub damage_repaired: Counter,
    /// Bytes that walks over the disk have checked.
    pub scrub_bytes: Counter,
    /// Walks over the whole disk.
    pub scrub_passes: Counter,
    /// When the write that is underway began.
    sync_began: Mutex<Option<Instant>>,
    /// From reading a publish that goes into groups until all of them have applied it.
    pub publish_time: Histogram,
    /// Times that the lease ran out before it was renewed.
    pub lease_lapses: Counter,
    draining: Gauge,
    /// Time of one turn of the worker.
    pub worker_turn_time: Histogram,
    /// Turns of the worker.
    pub worker_turns: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Log segments freed.
    pub segments_freed: Counter,
    /// Snapshots sent to peers.
    pub snapshots_sent: Counter,
    /// Snapshots installed.
    pub snapshots_installed: Counter,
    /// Backups sent to their end.
    pub backups_taken: Counter,
    /// Backups that broke off.
    pub backups_failed: Counter,
    /// When the last one ended, in seconds since 1970.
    pub backup_last_s: Gauge,
    /// Spans that the collector has taken.
    pub spans_exported: Counter,
    /// Spans dropped because the queue was full.
    pub spans_unqueued: Counter,
    /// Spans dropped because the collector did not take them.
    pub spans_not_exported: Counter,
}

impl Metrics {
    /// Counts messages dropped for a reason.
    pub fn dropped(&self, reason: DropReason, count: u64) {
        if let Some((_, counter)) = REASONS.iter().zip(&self.dropped).find(|((known, _), _)| *known == reason)
        {
            counter.add(count);
        }
    }

    /// An append to the log with its sync, or work on its segments, begins or has ended.
    pub fn note_sync(&self, began: Option<Instant>) {
        *self.sync_began.lock() = began;
    }

    /// How long the write to the log that is underway has taken so far.
    pub fn sync_underway(&self) -> Option<Duration> {
        self.sync_began.lock().map(|began| began.elapsed())
    }

    /// Messages dropped by this process, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let by_reason =
            REASONS.iter().zip(&self.dropped).map(|((_, name), counter)| (*name, counter.value()));
        let here = [
            ("mailbox_full", &self.dropped_mailbox),
            ("link_full", &self.dropped_link),
            ("session_moved", &self.dropped_moved),
        ];
        by_reason.chain(here.map(|(name, counter)| (name, counter.value())))
    }

    /// Connections that were refused as they came, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.iter().zip(&self.refused).map(|((_, name), counter)| (*name, counter.value()))
    }

    /// Messages dropped by this process, whatever the reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.drops().map(|(_, count)| count).sum()
    }

    /// Counts what went through a connection.
    pub fn count_traffic(&self, traffic: Traffic) {
        let Traffic { packets_in, packets_out, publishes_in, publish_bytes_in, .. } = traffic;
        let Traffic { publishes_out, publish_bytes_out, .. } = traffic;
        for (counter, count) in [
            (&self.packets_in, packets_in),
            (&self.packets_out, packets_out),
            (&self.publishes_in, publishes_in),
            (&self.publish_bytes_in, publish_bytes_in),
            (&self.publishes_out, publishes_out),
            (&self.publish_bytes_out, publish_bytes_out),
        ] {
            if count > 0 {
                counter.add(count);
            }
        }
    }

    /// Counts a connection that was closed as it came.
    pub fn refused(&self, refusal: Refusal) {
        if let Some((_, counter)) =
            REFUSALS.iter().zip(&self.refused).find(|((known, _), _)| *known == refusal)
        {
            counter.add(1);
        }
    }

    /// Counts a connection that did not get as far as MQTT.
    pub fn handshake_failed(&self, failure: HandshakeFailure) {
        let counters = HANDSHAKE_FAILURES.iter().zip(&self.handshakes_failed);
        if let Some((_, counter)) = counters.into_iter().find(|((known, _), _)| *known == failure) {
            counter.add(1);
        }
    }

    /// Client connections open now.
    pub fn connections(&self) -> u64 {
        self.connections_accepted.value().saturating_sub(self.connections_closed.value())
    }

    /// The node is being drained, or not any more.
    pub fn set_draining(&self, draining: bool) {
        self.draining.set(u64::from(draining));
    }

    /// Counts a connection that spoke MQTT and has ended. `accepted`: its CONNECT was.
    pub fn connection_ended(&self, cause: Option<CloseCause>, accepted: bool, stopping: bool) {
        self.connections_closed.add(1);
        let node = match (stopping, self.draining.value() > 0) {
            (true, _) => NodePhase::Stopping,
            (false, true) => NodePhase::Draining,
            (false, false) => NodePhase::Serving,
        };
        let cause_found = DisconnectCause::of(cause, !accepted, node);
        let counters = CAUSES.iter().zip(&self.disconnects);
        if let Some((_, counter)) = counters.into_iter().find(|((known, _), _)| *known == cause_found) {
            counter.add(1);
        }
        if !accepted && let Some(reason) = causes::refusal_of(cause) {
            self.connect_refused(reason);
        }
    }

    fn connect_refused(&self, reason: ReasonCode) {
        let mut counters = CONNECT_REFUSALS.iter().zip(&self.connects_refused);
        let fits = |known: Option<ReasonCode>| known.is_none_or(|known| known == reason);
        // The last one fits all.
        if let Some((_, counter)) = counters.find(|((known, _), _)| fits(*known)) {
            counter.add(1);
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = Text::default();
        text.value(&catalog::CONNECTIONS, self.connections());
        self.listeners.render(&mut text);
        for (metric, counter) in self.counters() {
            text.value(&metric, counter.value());
        }
        self.render_ends(&mut text);
        let by_path = [
            ("session", &self.deliveries_session),
            ("direct", &self.deliveries_direct),
            ("retained", &self.deliveries_retained),
        ];
        text.by(&catalog::DELIVERIES, by_path.map(|(path, counter)| (path, counter.value())));
        text.by(&catalog::MESSAGES_DROPPED, self.drops());
        let spans = [("queue_full", &self.spans_unqueued), ("not_exported", &self.spans_not_exported)];
        text.by(&catalog::SPANS_DROPPED, spans.map(|(reason, counter)| (reason, counter.value())));
        for (metric, gauge) in [
            (catalog::LOG_SIZE, &self.log_size),
            (catalog::BACKUP_LAST, &self.backup_last_s),
            (catalog::LOG_WAITS_FOR_SPACE, &self.log_waits_for_space),
            (catalog::DISK_LOW, &self.disk_low),
            (catalog::MEMORY_BUDGET, &self.memory_budget),
            (catalog::MEMORY_USED, &self.memory_used),
            (catalog::MEMORY_PRESSURE, &self.memory_pressure),
            (catalog::DAMAGED_FOLDERS, &self.damaged_folders),
            (catalog::DAMAGE_LEFT, &self.damage_left),
            (catalog::DRAINING, &self.draining),
        ] {
            text.value(&metric, gauge.value());
        }
        for (metric, histogram) in [
            (catalog::PUBLISH_TIME, &self.publish_time),
            (catalog::LOG_SYNC_TIME, &self.log_sync_time),
            (catalog::LOG_FSYNC_TIME, &self.log_fsync_time),
            (catalog::WORKER_TURN_TIME, &self.worker_turn_time),
        ] {
            text.histogram(&metric, histogram);
        }
        text.0
    }

    /// Connections that did not come in, and how the others ended; the certificates of listeners.
    fn render_ends(&self, text: &mut Text) {
        text.by(&catalog::CONNECTIONS_REFUSED, self.refusals());
        let failed = HANDSHAKE_FAILURES.iter().zip(&self.handshakes_failed);
        text.by(&catalog::HANDSHAKES_FAILED, failed.map(|((_, reason), c)| (*reason, c.value())));
        let refused = CONNECT_REFUSALS.iter().zip(&self.connects_refused);
        text.by(&catalog::CONNECTS_REFUSED, refused.map(|((_, reason), c)| (*reason, c.value())));
        let ended = CAUSES.iter().zip(&self.disconnects).map(|((_, cause), c)| (*cause, c.value()));
        text.by(&catalog::DISCONNECTS, ended);
        let reloads = [("replaced", &self.certificates_replaced), ("kept", &self.certificates_kept)];
        text.by(&catalog::CERTIFICATE_RELOADS, reloads.map(|(result, c)| (result, c.value())));
    }

    fn counters(&self) -> [(Metric, &Counter); 34] {
        [
            (catalog::CONNECTIONS_ACCEPTED, &self.connections_accepted),
            (catalog::CONNECTIONS_CLOSED, &self.connections_closed),
            (catalog::CLIENT_BYTES_IN, &self.client_bytes_in),
            (catalog::CLIENT_BYTES_OUT, &self.client_bytes_out),
            (catalog::CONNECTS, &self.connects),
            (catalog::PACKETS_IN, &self.packets_in),
            (catalog::PACKETS_OUT, &self.packets_out),
            (catalog::PUBLISHES_IN, &self.publishes_in),
            (catalog::PUBLISHES_OUT, &self.publishes_out),
            (catalog::PUBLISH_BYTES_IN, &self.publish_bytes_in),
            (catalog::PUBLISH_BYTES_OUT, &self.publish_bytes_out),
            (catalog::PUBLISHES_DURABLE, &self.publishes_durable),
            (catalog::PUBLISHES_APPLIED, &self.publishes_applied),
            (catalog::ACKNOWLEDGEMENTS, &self.acknowledgements),
            (catalog::FORWARDS_OUT, &self.forwards_out),
            (catalog::FORWARDS_IN, &self.forwards_in),
            (catalog::ELECTIONS, &self.elections),
            (catalog::PEER_MESSAGES_LOST, &self.peer_messages_lost),
            (catalog::LOG_SYNCS, &self.log_syncs),
            (catalog::LOG_BYTES, &self.log_bytes),
            (catalog::LOG_RECORDS, &self.log_records),
            (catalog::LOG_SEGMENTS_FREED, &self.segments_freed),
            (catalog::DAMAGE_FOUND, &self.damage_found),
            (catalog::DAMAGE_REPAIRED, &self.damage_repaired),
            (catalog::SCRUB_BYTES, &self.scrub_bytes),
            (catalog::SCRUB_PASSES, &self.scrub_passes),
            (catalog::WORKER_TURNS, &self.worker_turns),
            (catalog::CHECKPOINTS, &self.checkpoints),
            (catalog::SNAPSHOTS_SENT, &self.snapshots_sent),
            (catalog::SNAPSHOTS_INSTALLED, &self.snapshots_installed),
            (catalog::BACKUPS_TAKEN, &self.backups_taken),
            (catalog::BACKUPS_FAILED, &self.backups_failed),
            (catalog::LEASE_LAPSES, &self.lease_lapses),
            (catalog::SPANS_EXPORTED, &self.spans_exported),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_codec::ReasonCode;

    #[test]
    fn drops_and_ends_are_counted_under_their_names() {
        let metrics = Metrics::default();
        metrics.dropped(DropReason::QueueBytes, 3);
        metrics.connection_ended(Some(CloseCause::Eof), true, false);
        metrics.connection_ended(Some(CloseCause::Broker(ReasonCode::SERVER_BUSY)), false, false);
        metrics.connection_ended(Some(CloseCause::Broker(ReasonCode::SERVER_MOVED)), false, false);
        metrics.set_draining(true);
        metrics.connection_ended(Some(CloseCause::Broker(ReasonCode::SERVER_SHUTTING_DOWN)), true, false);
        metrics.connection_ended(Some(CloseCause::Broker(ReasonCode::SERVER_SHUTTING_DOWN)), true, true);
        let text = metrics.render();
        for line in [
            "quorate_messages_dropped_total{reason=\"queue_bytes\"} 3",
            "quorate_disconnects_total{cause=\"lost\"} 1",
            "quorate_disconnects_total{cause=\"refused\"} 2",
            "quorate_disconnects_total{cause=\"drain\"} 1",
            "quorate_disconnects_total{cause=\"shutdown\"} 1",
            "quorate_connects_refused_total{reason=\"server_busy\"} 1",
            "quorate_connects_refused_total{reason=\"other\"} 1",
            "quorate_connections_closed_total 5",
            "quorate_draining 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn closed_lists_have_every_case() {
        for ((known, _), place) in REASONS.iter().zip(0_u64..) {
            let metrics = Metrics::default();
            metrics.dropped(*known, place + 1);
            assert_eq!(metrics.dropped_in_all(), place + 1);
        }
    }
}
