//! Load averages: how much of something happens per minute, over the last one, five and fifteen minutes.
//!
//! Owns: [`Load`]. Does not: know what it averages, read clocks.
//! Invariants: older minutes count less, by powers of e, whatever the interval between two readings; averages of
//! several sources add up to the average of their sum.

use std::time::Duration;

/// Times over which is averaged, with the names that topics have for them.
pub const SPANS: [(&str, Duration); 3] = [
    ("1min", Duration::from_secs(60)),
    ("5min", Duration::from_secs(5 * 60)),
    ("15min", Duration::from_secs(15 * 60)),
];

/// Averages are told in hundredths.
pub const HUNDREDTHS: u64 = 100;

/// The averages of one counter.
#[derive(Clone, Copy, Default, Debug)]
pub struct Load {
    last: u64,
    per_minute: [f64; SPANS.len()],
}

impl Load {
    /// The counter has this value, so long after the reading before.
    pub fn observe(&mut self, counter: u64, passed: Duration) {
        if passed.is_zero() {
            return;
        }
        let grown = counter.saturating_sub(std::mem::replace(&mut self.last, counter));
        #[expect(clippy::cast_precision_loss, reason = "an average needs no more than 52 bits")]
        let rate = grown as f64 * 60.0 / passed.as_secs_f64();
        for (average, (_, span)) in self.per_minute.iter_mut().zip(SPANS) {
            let weight = (-passed.as_secs_f64() / span.as_secs_f64()).exp();
            *average = rate + weight * (*average - rate);
        }
    }

    /// The averages per minute in hundredths, in the order of [`SPANS`].
    pub fn hundredths(&self) -> [u64; SPANS.len()] {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "never negative; a value beyond 64 bits becomes the largest"
        )]
        self.per_minute.map(|average| (average * HUNDREDTHS as f64).round() as u64)
    }
}

/// An average as topics show it: with two decimals.
pub fn text_of_hundredths(value: u64) -> String {
    format!("{}.{:02}", value / HUNDREDTHS, value % HUNDREDTHS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    #[test]
    fn steady_rate_is_approached_by_powers_of_e() {
        let mut load = Load::default();
        for step in 1..=6 {
            load.observe(step * 20, STEP);
        }
        // 120 per minute for one minute: 1 - 1/e of it, then 1 - e^-0.2, 1 - e^-(1/15).
        assert_eq!(load.hundredths(), [7585, 2175, 774]);
        for step in 7..=1000 {
            load.observe(step * 20, STEP);
        }
        assert_eq!(load.hundredths(), [12_000, 12_000, 12_000]);
    }

    #[test]
    fn rest_lets_averages_fall() {
        let mut load = Load::default();
        load.observe(1000, STEP);
        let [before, ..] = load.hundredths();
        load.observe(1000, Duration::from_secs(60));
        let [after, ..] = load.hundredths();
        assert!(after.abs_diff(before * 100_000 / 271_828) <= 1, "{before} to {after}");
    }

    #[test]
    fn interval_does_not_matter() {
        let mut fine = Load::default();
        (1..=60).for_each(|second| fine.observe(second * 5, Duration::from_secs(1)));
        let mut coarse = Load::default();
        coarse.observe(300, Duration::from_secs(60));
        assert_eq!(fine.hundredths(), coarse.hundredths());
        let mut twice = coarse;
        twice.observe(900, Duration::ZERO);
        assert_eq!(twice.hundredths(), coarse.hundredths(), "no time has passed");
    }

    #[test]
    fn text_has_two_decimals() {
        for (value, text) in [(0, "0.00"), (5, "0.05"), (100, "1.00"), (12_345, "123.45")] {
            assert_eq!(text_of_hundredths(value), text);
        }
    }
}
