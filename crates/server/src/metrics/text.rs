//! Metrics as Prometheus reads them, and the numbers behind them.
//!
//! Owns: [`Counter`], [`Gauge`], [`Histogram`] and the exposition format 0.0.4. Does not: know what is counted.
//! Invariants: a counter never goes back; a family is written whole and once.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::catalog::{Kind, Metric};

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

/// A number that goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less; each follows an `up`.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its value.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the duration buckets, in microseconds.
pub const BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 2_000_000,
    10_000_000,
];

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

    /// What was counted so far.
    pub fn counts(&self) -> HistogramCounts {
        let mut below = 0;
        let cumulative = std::array::from_fn(|place| {
            below += self.buckets.get(place).map_or(0, |bucket| bucket.load(Ordering::Relaxed));
            below
        });
        HistogramCounts { cumulative, count: self.count.load(Ordering::Relaxed).max(below) }
    }
}

/// What a histogram had counted at one time.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct HistogramCounts {
    /// How many durations were up to each of [`BUCKETS_US`]: each bucket with those before it.
    cumulative: [u64; BUCKETS_US.len()],
    /// How many in all.
    count: u64,
}

impl HistogramCounts {
    /// Nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A quantile of what was noted since `before`, in microseconds: linear within its bucket, and the highest bound for
    /// what is above it. `None` when nothing was.
    pub fn quantile_us(&self, before: &HistogramCounts, per_mille: u64) -> Option<u64> {
        let total = self.count.saturating_sub(before.count);
        if total == 0 {
            return None;
        }
        let wanted = total.saturating_mul(per_mille).div_ceil(1000).max(1);
        let since =
            self.cumulative.iter().zip(&before.cumulative).map(|(now, then)| now.saturating_sub(*then));
        let (mut below, mut lower) = (0, 0);
        for (up_to, upper) in since.zip(BUCKETS_US) {
            if up_to >= wanted {
                let part = (upper - lower).saturating_mul(wanted - below) / (up_to - below);
                return Some(lower + part);
            }
            (below, lower) = (up_to, upper);
        }
        Some(lower)
    }
}

/// Text in the exposition format of Prometheus.
#[derive(Default)]
pub struct Text(pub String);

impl Text {
    /// The two lines before the values of a metric.
    pub fn head(&mut self, metric: &Metric) {
        self.line(format_args!("# HELP {} {}", metric.name, metric.help));
        self.line(format_args!("# TYPE {} {}", metric.name, metric.kind.name()));
    }

    /// A metric without labels.
    pub fn value(&mut self, metric: &Metric, value: u64) {
        self.head(metric);
        self.sample(metric, &[], value);
    }

    /// The same, of a number that is no whole one.
    pub fn number(&mut self, metric: &Metric, value: f64) {
        self.head(metric);
        self.line(format_args!("{} {value}", metric.name));
    }

    /// One value; the labels have these texts, in the order of the catalogue.
    pub fn sample(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        let mut shown = String::new();
        for (label, text) in metric.labels.iter().zip(labels) {
            let separator = if shown.is_empty() { '{' } else { ',' };
            // Writing into a String cannot fail.
            let _never_fails = write!(shown, "{separator}{label}=\"{}\"", escaped(text));
        }
        if !shown.is_empty() {
            shown.push('}');
        }
        self.line(format_args!("{}{shown} {value}", metric.name));
    }

    /// A whole metric with one label, a value for each text of a closed list.
    pub fn by<'a>(&mut self, metric: &Metric, values: impl IntoIterator<Item = (&'a str, u64)>) {
        self.head(metric);
        for (label, value) in values {
            self.sample(metric, &[label], value);
        }
    }

    /// A histogram.
    pub fn histogram(&mut self, metric: &Metric, histogram: &Histogram) {
        debug_assert_eq!(metric.kind, Kind::Histogram, "{}", metric.name);
        self.head(metric);
        let name = metric.name;
        let HistogramCounts { cumulative, count } = histogram.counts();
        for (bound_us, below) in BUCKETS_US.iter().zip(cumulative) {
            let bound = Duration::from_micros(*bound_us).as_secs_f64();
            self.line(format_args!("{name}_bucket{{le=\"{bound}\"}} {below}"));
        }
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

/// The text of a label with what the format escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::super::catalog;
    use super::*;

    #[test]
    fn histogram_counts_each_duration_once_and_shows_buckets_with_those_below() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(300));
        histogram.observe(Duration::from_secs(100));
        let mut text = Text::default();
        text.histogram(&catalog::LOG_SYNC_TIME, &histogram);
        for line in [
            "# TYPE quorate_log_sync_seconds histogram",
            "quorate_log_sync_seconds_bucket{le=\"0.00025\"} 0",
            "quorate_log_sync_seconds_bucket{le=\"0.0005\"} 1",
            "quorate_log_sync_seconds_bucket{le=\"10\"} 1",
            "quorate_log_sync_seconds_bucket{le=\"+Inf\"} 2",
            "quorate_log_sync_seconds_sum 100.0003",
            "quorate_log_sync_seconds_count 2",
        ] {
            assert!(text.0.lines().any(|found| found == line), "{line}\n{}", text.0);
        }
    }

    #[test]
    fn quantile_is_of_what_came_since() {
        let histogram = Histogram::default();
        let none = histogram.counts();
        assert_eq!(none.quantile_us(&none, 500), None);
        (0..1000).for_each(|_| histogram.observe(Duration::from_micros(50)));
        let before = histogram.counts();
        assert_eq!(before.quantile_us(&none, 500), Some(50));
        for us in [2_000, 2_000, 2_000, 99_000_000] {
            histogram.observe(Duration::from_micros(us));
        }
        let after = histogram.counts();
        assert_eq!(after.quantile_us(&before, 500), Some(2_000));
        assert_eq!(after.quantile_us(&before, 990), Some(10_000_000), "above all bounds");
        assert_eq!(after.quantile_us(&after, 500), None);
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.by(&catalog::CERTIFICATE_EXPIRY, [("unix:/a\"b\\c\n", 1)]);
        assert!(text.0.contains("{listener=\"unix:/a\\\"b\\\\c\\n\"} 1"), "{}", text.0);
    }
}
