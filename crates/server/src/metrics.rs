//! Counters of this process, and their text for Prometheus.
//!
//! Owns: every metric's name, meaning and label set; all label sets are closed lists. Does not: know clients or topics.
//! Invariants: counters never go back; a metric's name does not change within a major version.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate_node::client::Traffic;
use quorate_state::effect::DropReason;

/// A number that only grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds a length.
    pub fn add_len(&self, count: usize) {
        self.add(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Its value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the duration buckets, in microseconds.
const BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000];

/// Durations in buckets.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Notes one duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let fitting = BUCKETS_US.iter().zip(&self.buckets).find(|(bound, _)| us <= **bound);
        if let Some((_, bucket)) = fitting {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// Name of a reason, as in metrics and in answers about sessions.
pub fn reason_name(reason: DropReason) -> &'static str {
    REASONS.iter().find(|(known, _)| *known == reason).map_or("other", |(_, name)| name)
}

/// Why this process dropped messages, besides what the replicated state counts.
const REASONS: [(DropReason, &str); 9] = [
    (DropReason::QueueMessages, "queue_messages"),
    (DropReason::QueueBytes, "queue_bytes"),
    (DropReason::MessageExpired, "message_expired"),
    (DropReason::SessionEnded, "session_ended"),
    (DropReason::CleanStart, "clean_start"),
    (DropReason::PacketTooLarge, "packet_too_large"),
    (DropReason::RetainedTopics, "retained_topics"),
    (DropReason::RefusedLate, "refused_late"),
    (DropReason::ReadOnlyTopic, "read_only_topic"),
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
}

const REFUSALS: [(Refusal, &str); 6] = [
    (Refusal::ConnectionsMax, "connections_max"),
    (Refusal::HandshakesMax, "handshakes_max"),
    (Refusal::AddressHandshakesMax, "handshakes_per_address_max"),
    (Refusal::ConnectRate, "connect_rate"),
    (Refusal::AddressConnectRate, "connect_rate_per_address"),
    (Refusal::ProxyUntrusted, "proxy_untrusted"),
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
}

impl Metrics {
    /// Counts messages dropped for a reason.
    pub fn dropped(&self, reason: DropReason, count: u64) {
        if let Some((_, counter)) = REASONS.iter().zip(&self.dropped).find(|((known, _), _)| *known == reason)
        {
            counter.add(count);
        }
    }

    /// Messages dropped by this process, whatever the reason.
    pub fn dropped_in_all(&self) -> u64 {
        let by_reason = self.dropped.iter().map(Counter::value);
        by_reason.chain([self.dropped_mailbox.value(), self.dropped_link.value()]).sum()
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

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = Text::default();
        text.gauge("quorate_connections", "Client connections open now", self.connections());
        for (name, help, counter) in self.counters() {
            text.counter(name, help, counter.value());
        }
        self.render_arrivals(&mut text);
        text.head("quorate_deliveries_total", "Messages handed to client connections, by path", "counter");
        for (path, counter) in [
            ("session", &self.deliveries_session),
            ("direct", &self.deliveries_direct),
            ("retained", &self.deliveries_retained),
        ] {
            text.labelled("quorate_deliveries_total", "path", path, counter.value());
        }
        text.head("quorate_messages_dropped_total", "Messages dropped, by reason", "counter");
        for ((_, reason), counter) in REASONS.iter().zip(&self.dropped) {
            text.labelled("quorate_messages_dropped_total", "reason", reason, counter.value());
        }
        for (reason, counter) in [("mailbox_full", &self.dropped_mailbox), ("link_full", &self.dropped_link)]
        {
            text.labelled("quorate_messages_dropped_total", "reason", reason, counter.value());
        }
        text.histogram(
            "quorate_log_sync_seconds",
            "Time of one append to the log with its sync",
            &self.log_sync_time,
        );
        text.histogram(
            "quorate_worker_turn_seconds",
            "Time of one turn of the worker",
            &self.worker_turn_time,
        );
        text.0
    }

    /// Connections that did not come in, and the certificates of listeners.
    fn render_arrivals(&self, text: &mut Text) {
        let name = "quorate_connections_refused_total";
        text.head(name, "Client connections closed as they came, by reason", "counter");
        for ((_, reason), counter) in REFUSALS.iter().zip(&self.refused) {
            text.labelled(name, "reason", reason, counter.value());
        }
        let name = "quorate_handshakes_failed_total";
        text.head(name, "Client connections that failed before MQTT, by reason", "counter");
        for ((_, reason), counter) in HANDSHAKE_FAILURES.iter().zip(&self.handshakes_failed) {
            text.labelled(name, "reason", reason, counter.value());
        }
        let name = "quorate_certificate_reloads_total";
        text.head(name, "Times that a listener found changed certificates, by result", "counter");
        for (result, counter) in
            [("replaced", &self.certificates_replaced), ("kept", &self.certificates_kept)]
        {
            text.labelled(name, "result", result, counter.value());
        }
    }

    fn counters(&self) -> [(&'static str, &'static str, &Counter); 25] {
        [
            ("quorate_connections_accepted_total", "Client connections accepted", &self.connections_accepted),
            ("quorate_connections_closed_total", "Client connections ended", &self.connections_closed),
            ("quorate_client_in_bytes_total", "Bytes read from clients", &self.client_bytes_in),
            ("quorate_client_out_bytes_total", "Bytes written to clients", &self.client_bytes_out),
            ("quorate_connects_total", "Connections whose CONNECT was accepted", &self.connects),
            ("quorate_packets_in_total", "MQTT packets read from clients", &self.packets_in),
            ("quorate_packets_out_total", "MQTT packets written to clients", &self.packets_out),
            ("quorate_publishes_in_total", "PUBLISH packets read from clients", &self.publishes_in),
            ("quorate_publishes_out_total", "PUBLISH packets written to clients", &self.publishes_out),
            (
                "quorate_publish_in_bytes_total",
                "Bytes of payloads in PUBLISH packets read from clients",
                &self.publish_bytes_in,
            ),
            (
                "quorate_publish_out_bytes_total",
                "Bytes of payloads in PUBLISH packets written to clients",
                &self.publish_bytes_out,
            ),
            ("quorate_publishes_durable_total", "Publishes that went into groups", &self.publishes_durable),
            ("quorate_publishes_applied_total", "Commits of publishes reported", &self.publishes_applied),
            (
                "quorate_acknowledgements_total",
                "Acknowledgements by durable sessions",
                &self.acknowledgements,
            ),
            ("quorate_forwards_out_total", "Direct messages sent to other nodes", &self.forwards_out),
            ("quorate_forwards_in_total", "Direct messages from other nodes", &self.forwards_in),
            (
                "quorate_peer_messages_lost_total",
                "Messages to peers lost on a link",
                &self.peer_messages_lost,
            ),
            ("quorate_log_syncs_total", "Syncs of the log", &self.log_syncs),
            ("quorate_log_bytes_total", "Bytes appended to the log", &self.log_bytes),
            ("quorate_log_records_total", "Records appended to the log", &self.log_records),
            ("quorate_log_segments_freed_total", "Log segments freed", &self.segments_freed),
            ("quorate_worker_turns_total", "Turns of the worker", &self.worker_turns),
            ("quorate_checkpoints_total", "Checkpoints written", &self.checkpoints),
            ("quorate_snapshots_sent_total", "Snapshots sent to peers", &self.snapshots_sent),
            ("quorate_snapshots_installed_total", "Snapshots installed", &self.snapshots_installed),
        ]
    }
}

/// Text in the exposition format of Prometheus.
#[derive(Default)]
pub struct Text(pub String);

impl Text {
    /// The two lines before a metric.
    pub fn head(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "gauge");
        self.line(format_args!("{name} {value}"));
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help, "counter");
        self.line(format_args!("{name} {value}"));
    }

    /// One value with one label; its text must need no escape.
    pub fn labelled(&mut self, name: &str, label: &str, label_value: &str, value: u64) {
        self.line(format_args!("{name}{{{label}=\"{label_value}\"}} {value}"));
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, help, "histogram");
        let mut below = 0;
        for (bound_us, bucket) in BUCKETS_US.iter().zip(&histogram.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let bound = Duration::from_micros(*bound_us).as_secs_f64();
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {below}"));
        }
        let count = histogram.count.load(Ordering::Relaxed).max(below);
        let sum = Duration::from_micros(histogram.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        self.line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        self.line(format_args!("{name}_sum {sum}"));
        self.line(format_args!("{name}_count {count}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a String cannot fail.
        let _never_fails = writeln!(self.0, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_every_metric_once_and_only_sane_lines() {
        let metrics = Metrics::default();
        metrics.dropped(DropReason::QueueBytes, 3);
        metrics.log_sync_time.observe(Duration::from_micros(300));
        metrics.log_sync_time.observe(Duration::from_secs(10));
        let text = metrics.render();
        assert!(text.contains("quorate_messages_dropped_total{reason=\"queue_bytes\"} 3\n"), "{text}");
        assert!(text.contains("quorate_log_sync_seconds_bucket{le=\"0.00025\"} 0\n"), "{text}");
        assert!(text.contains("quorate_log_sync_seconds_bucket{le=\"0.0005\"} 1\n"), "{text}");
        assert!(text.contains("quorate_log_sync_seconds_bucket{le=\"+Inf\"} 2\n"), "{text}");
        let mut helps: Vec<&str> = text.lines().filter(|line| line.starts_with("# HELP")).collect();
        let all = helps.len();
        helps.sort_unstable();
        helps.dedup();
        assert_eq!(helps.len(), all);
        for line in text.lines() {
            assert!(
                line.starts_with('#') || line.rsplit_once(' ').is_some_and(|(_, v)| v.parse::<f64>().is_ok()),
                "{line}"
            );
        }
    }
}
