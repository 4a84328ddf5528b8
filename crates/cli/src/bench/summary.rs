//! The result of a measurement: rates, percentiles, cost.
//!
//! Owns: the figures and their text form. Does not: measure.
//! Invariants: a rate without a time span is 0, never infinite.
//! Limits: latencies are kept to three digits, from 1 µs to 10 minutes; longer ones count as 10 minutes.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::BenchArgs;
use super::load::Plan;
use super::log_use::{LogCounters, LogUse};
use super::process::Usage;
use super::publisher::Published;
use super::subscriber::Received;
use crate::table::{Table, bytes, thousands};

const LATENCY_NS_MIN: u64 = 1_000;
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// An empty histogram; all have the same bounds, so that they can be added.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit")
}

/// Records a latency, cut to the bounds.
pub fn record(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram.saturating_record(nanoseconds.clamp(LATENCY_NS_MIN, LATENCY_NS_MAX));
}

/// The result.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Shape, as given.
    pub shape: String,
    /// Quality of service.
    pub qos: u8,
    /// Messages, for the shapes that have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// Connections, for `idle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// The return of all clients, for `storm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    /// CPU seconds of the load generator.
    pub load_cpu_s: f64,
    /// The servers, when their process ids were given.
    pub servers: Vec<Server>,
    /// CPU seconds of all servers per million deliveries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpu_s_per_million: Option<f64>,
    /// The servers' logs, when their admin addresses were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogUse>,
}

/// Messages that went through.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// Publishers.
    pub publishers: usize,
    /// Subscribers.
    pub subscribers: usize,
    /// Payload size.
    pub payload_bytes: usize,
    /// Messages sent.
    pub sent: u64,
    /// Acknowledged with success.
    pub acked: u64,
    /// Acknowledged with a failure.
    pub refused: u64,
    /// Deliveries that the accepted messages should lead to.
    pub expected: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Of those, with DUP.
    pub redelivered: u64,
    /// Accepted messages per second, first send to last acknowledgement.
    pub publish_rate: f64,
    /// Deliveries per second, first send (queue-drain: return of the subscribers) to last delivery.
    pub delivery_rate: f64,
    /// Send to acknowledgement.
    pub ack_latency: Latency,
    /// Send to delivery.
    pub delivery_latency: Latency,
}

impl Load {
    /// Messages that the servers took.
    fn accepted(&self) -> u64 {
        self.acked.max(self.sent.saturating_sub(self.refused))
    }
}

/// Connections that did nothing.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Connections opened.
    pub connections: u64,
    /// Of those, closed by the server meanwhile.
    pub lost: u64,
    /// Time to open all of them.
    pub connect_ms: u64,
    /// Growth of the servers' resident memory per connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_bytes_per_connection: Option<u64>,
}

/// Clients that came back all at once.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Storm {
    /// Clients.
    pub connections: u32,
    /// Of those, with their session.
    pub resumed: u32,
    /// Tries that failed.
    pub failures: u64,
    /// From the loss of all connections to CONNACK.
    pub latency: Latency,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
#[allow(missing_docs)] // The names say it.
pub struct Latency {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// Cost at one server.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Process id.
    pub pid: u32,
    /// CPU seconds during the measurement.
    pub cpu_s: f64,
    /// Resident memory at the end.
    pub resident_bytes: u64,
    /// Largest resident memory since the server started.
    pub resident_bytes_max: u64,
}

impl Latency {
    /// Percentiles of what was recorded.
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        if histogram.is_empty() {
            return Latency::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        Latency {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e6,
        }
    }
}

fn rate(count: u64, from_ns: u64, to_ns: u64) -> f64 {
    match to_ns.saturating_sub(from_ns) {
        0 => 0.0,
        span => count as f64 / (span as f64 / 1e9),
    }
}

impl Summary {
    fn new(args: &BenchArgs) -> Summary {
        let shape = clap::ValueEnum::to_possible_value(&args.shape);
        Summary {
            shape: shape.map_or_else(String::new, |value| value.get_name().to_owned()),
            qos: args.qos as u8,
            load: None,
            idle: None,
            storm: None,
            load_cpu_s: 0.0,
            servers: Vec::new(),
            server_cpu_s_per_million: None,
            log: None,
        }
    }

    /// The result of a shape that moves messages.
    pub fn of_load(args: &BenchArgs, plan: &Plan, published: Published, received: Received) -> Summary {
        let delivery_from = if received.from_ns == u64::MAX { published.from_ns } else { received.from_ns };
        let load = Load {
            publishers: plan.topics.len(),
            subscribers: plan.filters.len(),
            payload_bytes: args.payload.max(super::publisher::PAYLOAD_BYTES_MIN),
            sent: published.sent,
            acked: published.acked,
            refused: published.refused,
            expected: published.accepted().saturating_mul(plan.copies),
            delivered: received.delivered,
            redelivered: received.redelivered,
            publish_rate: rate(published.accepted(), published.from_ns, published.to_ns),
            delivery_rate: rate(received.delivered, delivery_from, received.to_ns),
            ack_latency: Latency::of(&published.latency),
            delivery_latency: Latency::of(&received.latency),
        };
        Summary { load: Some(load), ..Summary::new(args) }
    }

    /// The result of `idle`.
    pub fn of_idle(args: &BenchArgs, idle: Idle) -> Summary {
        Summary { idle: Some(idle), ..Summary::new(args) }
    }

    /// The result of `storm`.
    pub fn of_storm(args: &BenchArgs, storm: Storm) -> Summary {
        Summary { storm: Some(storm), ..Summary::new(args) }
    }

    /// Adds what the servers used between two readings.
    pub fn add_servers(&mut self, before: &[Usage], after: &[Usage]) {
        self.servers = before
            .iter()
            .zip(after)
            .map(|(before, after)| Server {
                pid: after.pid,
                cpu_s: after.cpu_s - before.cpu_s,
                resident_bytes: after.resident_bytes,
                resident_bytes_max: after.resident_bytes_max,
            })
            .collect();
        let cpu_s: f64 = self.servers.iter().map(|server| server.cpu_s).sum();
        let delivered = self.load.as_ref().map_or(0, |load| load.delivered);
        if !self.servers.is_empty() && delivered > 0 {
            self.server_cpu_s_per_million = Some(cpu_s * 1e6 / delivered as f64);
        }
    }

    /// Adds what the servers wrote to their logs between two readings.
    pub fn add_log(&mut self, before: &[LogCounters], after: &[LogCounters]) {
        let accepted = self.load.as_ref().map_or(0, Load::accepted);
        self.log = LogUse::between(before, after, accepted);
    }

    /// Messages of QoS 1 and 2 that were accepted and not delivered.
    pub fn lost(&self) -> Option<u64> {
        let load = self.load.as_ref().filter(|_| self.qos > 0)?;
        load.expected.checked_sub(load.delivered).filter(|lost| *lost > 0)
    }

    /// The text form.
    pub fn render(&self) -> String {
        let mut text = format!("{} at QoS {}\n", self.shape, self.qos);
        if let Some(load) = &self.load {
            text.push_str(&render_load(load));
        }
        if let Some(idle) = &self.idle {
            text.push_str(&format!(
                "{} connections opened in {} ms, {} lost\n",
                thousands(idle.connections),
                thousands(idle.connect_ms),
                thousands(idle.lost)
            ));
            if let Some(each) = idle.server_bytes_per_connection {
                text.push_str(&format!("{} of server memory per connection\n", bytes(each)));
            }
        }
        if let Some(storm) = &self.storm {
            text.push_str(&render_storm(storm));
        }
        text.push_str(&format!("load generator: {:.2} CPU seconds\n", self.load_cpu_s));
        for server in &self.servers {
            text.push_str(&format!(
                "server {}: {:.2} CPU seconds, {} resident, {} at most\n",
                server.pid,
                server.cpu_s,
                bytes(server.resident_bytes),
                bytes(server.resident_bytes_max)
            ));
        }
        if let Some(cost) = self.server_cpu_s_per_million {
            text.push_str(&format!("servers: {cost:.2} CPU seconds per million deliveries\n"));
        }
        if let Some(log) = &self.log {
            text.push_str(&format!(
                "logs of {} servers: {} syncs, {} records, {}\n",
                log.servers,
                thousands(log.syncs),
                thousands(log.records),
                bytes(log.bytes)
            ));
            if let Some(per_sync) = log.messages_per_sync {
                text.push_str(&format!("{per_sync:.1} messages per sync of a server\n"));
            }
        }
        text
    }
}

fn render_storm(storm: &Storm) -> String {
    let Latency { p50_ms, p99_ms, max_ms, .. } = storm.latency;
    format!(
        "{} connections were lost at once; {} resumed their session, {} tries failed\n\
         half were back after {p50_ms:.0} ms, 99 of 100 after {p99_ms:.0} ms, all after {max_ms:.0} ms\n",
        thousands(u64::from(storm.connections)),
        thousands(u64::from(storm.resumed)),
        thousands(storm.failures),
    )
}

fn render_load(load: &Load) -> String {
    let mut text = format!(
        "{} publishers, {} subscribers, {} B payload\n\
         published {} ({}/s), refused {}\ndelivered {} of {} ({}/s), {} with DUP\n",
        load.publishers,
        load.subscribers,
        load.payload_bytes,
        thousands(load.accepted()),
        per_second(load.publish_rate),
        thousands(load.refused),
        thousands(load.delivered),
        thousands(load.expected),
        per_second(load.delivery_rate),
        thousands(load.redelivered),
    );
    let mut table = Table::new(&["LATENCY, ms", ">p50", ">p90", ">p99", ">p99.9", ">MAX"]);
    for (name, latency) in [("acknowledgement", load.ack_latency), ("delivery", load.delivery_latency)] {
        if latency == Latency::default() {
            continue;
        }
        let cells = [latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms, latency.max_ms];
        let mut row = vec![name.to_owned()];
        row.extend(cells.iter().map(|value| format!("{value:.2}")));
        table.row(row);
    }
    text.push_str(&table.render());
    text
}

fn per_second(rate: f64) -> String {
    // A float becomes an integer at the nearest value, and negative or not-a-number as 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = rate.round() as u64;
    thousands(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_the_recorded_values() {
        let mut histogram = latency_histogram();
        for milliseconds in 1..=1000 {
            record(&mut histogram, milliseconds * 1_000_000);
        }
        let latency = Latency::of(&histogram);
        for (value, expected) in [
            (latency.p50_ms, 500.0),
            (latency.p90_ms, 900.0),
            (latency.p99_ms, 990.0),
            (latency.p999_ms, 999.0),
            (latency.max_ms, 1000.0),
        ] {
            assert!((value - expected).abs() < expected / 500.0, "{value} is not {expected}");
        }
        assert_eq!(Latency::of(&latency_histogram()), Latency::default());
    }

    #[test]
    fn out_of_range_latencies_are_cut() {
        let mut histogram = latency_histogram();
        record(&mut histogram, 0);
        record(&mut histogram, u64::MAX);
        assert_eq!(histogram.len(), 2);
    }

    #[test]
    fn rates_without_a_span_are_zero() {
        assert_eq!(rate(10, 5, 5), 0.0);
        assert_eq!(rate(10, u64::MAX, 0), 0.0);
        assert_eq!(rate(10, 0, 2_000_000_000), 5.0);
    }
}
