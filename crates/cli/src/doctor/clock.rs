//! The clock: set, steady, and in step with the other nodes.
//!
//! Owns: comparing wall clocks by the `Date` of admin answers. Does not: set anything.
//! Invariants: a difference counts only beyond what the request took and the second that `Date` is cut to.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::finding::{Finding, Severity};

/// From here on logs and times of two nodes are hard to bring together.
const SKEW_WARNING: Duration = Duration::from_secs(2);

/// From here on expiry intervals end visibly too early or too late when the leader changes.
const SKEW_ERROR: Duration = Duration::from_secs(30);

/// A wall clock that runs so far away from the steady one while the doctor looks was set meanwhile.
const STEP_MAX: Duration = Duration::from_millis(500);

/// 2024-01-01: no clock that was ever set shows less.
const SET_AFTER: Duration = Duration::from_secs(1_704_067_200);

/// What is known of the clock.
#[derive(Clone, Debug)]
pub struct ClockFacts {
    /// Wall clock, since 1970.
    pub now: Duration,
    /// How far the wall clock moved away from the steady clock while the doctor looked.
    pub step: Duration,
    /// The other nodes.
    pub peers: Vec<PeerClock>,
}

/// The clock of another node.
#[derive(Clone, Debug)]
pub struct PeerClock {
    /// Node name.
    pub node: String,
    /// Its time less ours, as far as it is certain.
    pub skew: Skew,
}

/// A certain difference between two clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skew {
    /// None.
    Equal,
    /// The other one is ahead.
    Ahead(Duration),
    /// The other one is behind.
    Behind(Duration),
}

/// Both clocks at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    wall: SystemTime,
    steady: Instant,
}

impl Moment {
    /// Now.
    pub fn now() -> Moment {
        Moment { wall: SystemTime::now(), steady: Instant::now() }
    }
}

/// Compares a `Date` with our clock before and after the request.
pub fn skew(date: SystemTime, asked: SystemTime, answered: SystemTime) -> Skew {
    // What was said at `date` was said in the second that begins then.
    let latest = date + Duration::from_secs(1);
    if let Ok(ahead) = date.duration_since(answered)
        && !ahead.is_zero()
    {
        return Skew::Ahead(ahead);
    }
    match asked.duration_since(latest) {
        Ok(behind) if !behind.is_zero() => Skew::Behind(behind),
        _ => Skew::Equal,
    }
}

/// Compares both clocks now with what they were at the begin.
pub fn gather(begun: Moment, peers: Vec<PeerClock>) -> ClockFacts {
    let steady = begun.steady.elapsed();
    let now = SystemTime::now();
    let expected = begun.wall + steady;
    let step = now.duration_since(expected).unwrap_or_else(|error| error.duration());
    ClockFacts { now: now.duration_since(UNIX_EPOCH).unwrap_or_default(), step, peers }
}

/// Judges the clock.
pub fn check(facts: &ClockFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let time_service = "run a time service such as chrony on every machine of the cluster";
    if facts.now < SET_AFTER {
        found.push(Finding::error(
            "clock_unset",
            "clock",
            "the clock of this machine is years behind",
            time_service,
        ));
    }
    if facts.step > STEP_MAX {
        found.push(Finding::warning(
            "clock_steps",
            "clock",
            format!("the clock was set by {} ms while the doctor looked", facts.step.as_millis()),
            "have the time service slew the clock instead of setting it",
        ));
    }
    for PeerClock { node, skew } in &facts.peers {
        let (by, word) = match skew {
            Skew::Equal => continue,
            Skew::Ahead(by) => (*by, "ahead of"),
            Skew::Behind(by) => (*by, "behind"),
        };
        let severity = match by {
            by if by >= SKEW_ERROR => Severity::Error,
            by if by >= SKEW_WARNING => Severity::Warning,
            _ => continue,
        };
        let message = format!("its clock is {} s {word} the clock of this machine", by.as_secs());
        found
            .push(Finding::error("clock_skew", format!("node {node}"), message, time_service).with(severity));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(change: impl FnOnce(&mut ClockFacts), expected: &[(&str, Severity)]) {
        let mut facts = ClockFacts { now: SET_AFTER * 2, step: Duration::ZERO, peers: Vec::new() };
        change(&mut facts);
        let found: Vec<_> = check(&facts).iter().map(|finding| (finding.code, finding.severity)).collect();
        assert_eq!(found, expected, "{facts:?}");
    }

    #[test]
    fn each_flaw_has_its_code() {
        let peer = |skew| vec![PeerClock { node: "n2".into(), skew }];
        let seconds = Duration::from_secs;
        check_one(|_| (), &[]);
        check_one(|facts| facts.now = seconds(86_400), &[("clock_unset", Severity::Error)]);
        check_one(|facts| facts.step = seconds(1), &[("clock_steps", Severity::Warning)]);
        check_one(|facts| facts.peers = peer(Skew::Ahead(seconds(1))), &[]);
        check_one(|facts| facts.peers = peer(Skew::Ahead(seconds(2))), &[("clock_skew", Severity::Warning)]);
        check_one(|facts| facts.peers = peer(Skew::Behind(seconds(30))), &[("clock_skew", Severity::Error)]);
    }

    #[test]
    fn what_the_request_took_and_the_cut_second_are_no_difference() {
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        for (date, asked, answered, expected) in [
            (5_000, 5_900, 5_950, Skew::Equal),
            (5_000, 4_000, 9_000, Skew::Equal),
            (9_000, 5_000, 6_000, Skew::Ahead(Duration::from_secs(3))),
            (1_000, 5_000, 6_000, Skew::Behind(Duration::from_secs(3))),
            (5_000, 6_000, 6_100, Skew::Equal),
        ] {
            assert_eq!(skew(at(date), at(asked), at(answered)), expected, "{date} {asked} {answered}");
        }
    }
}
