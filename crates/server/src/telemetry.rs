//! Traces of messages and connections, sampled, sent to a collector.
//!
//! Owns: whether something is traced, and the way of a span into the queue. Does not: change anything that goes over the wire or to the
//! disk; spans are made in the shell, from what passes it anyway.
//! Invariants: nothing waits for a span; one that does not fit into the queue is dropped and counted. Without `[telemetry]`
//! there is no [`Telemetry`], and all that is left is a branch.
//! Limits: `SPANS_QUEUED_MAX`. See: docs/decisions/0030-traces-without-propagation.md, docs/operations/telemetry.md.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::TelemetrySettings;
use crate::limits::SPANS_QUEUED_MAX;
use crate::metrics::Metrics;
use otlp::Span;
use trace_ids::Place;

pub mod connection_trace;
pub mod exporter;
pub mod otlp;
pub mod trace_ids;

/// Takes spans.
pub struct Telemetry {
    /// Traces whose lower 63 bits are below this are taken.
    threshold: u64,
    /// The time since 1970 when the clock of this process began.
    epoch: Duration,
    spans: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
}

impl Telemetry {
    /// What takes spans, with the other end of its queue; none when nothing is to be traced.
    pub fn new(
        settings: &TelemetrySettings,
        clock: Clock,
        metrics: &Arc<Metrics>,
    ) -> Option<(Arc<Telemetry>, mpsc::Receiver<Span>)> {
        if settings.sample_ratio <= 0.0 || settings.otlp_endpoint.is_none() {
            return None;
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (spans, receiver) = mpsc::channel(SPANS_QUEUED_MAX);
        let telemetry = Telemetry {
            threshold: threshold(settings.sample_ratio),
            epoch: since_1970.saturating_sub(clock.now()),
            spans,
            metrics: metrics.clone(),
        };
        Some((Arc::new(telemetry), receiver))
    }

    /// Whether what stands here is traced.
    pub fn takes(&self, place: &Place) -> bool {
        place.trace.is_sampled(self.threshold)
    }

    /// A time of this process in nanoseconds since 1970.
    pub fn wall_ns(&self, time: Duration) -> u64 {
        u64::try_from((self.epoch + time).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Puts a span into the queue, or drops and counts it.
    pub fn end(&self, span: Span) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans_unqueued.add(1);
        }
    }
}

/// The share of 63 bits that this ratio is.
fn threshold(ratio: f64) -> u64 {
    const ALL: u64 = 1 << 63;
    // Parts of 2^32: exact enough for a ratio, and without a cast that could lose something unseen.
    let parts = (0..32).fold((0_u64, ratio), |(parts, rest), _| {
        let doubled = rest * 2.0;
        if doubled >= 1.0 { (parts << 1 | 1, doubled - 1.0) } else { (parts << 1, doubled) }
    });
    if ratio >= 1.0 { ALL } else { parts.0 << 31 }
}

#[cfg(test)]
pub(crate) mod tests;
