//! Lifetimes in replicated time: of messages, and of sessions without a connection.
//!
//! Owns: the point at which a message expires, the ordered timers of sessions and wills, the cap on session expiry.
//! Does not: read a clock; every point comes from the stamps in the entries.
//! Invariants: a message never expires early; a session never expires while it has a connection or before its time.
//! Spec: MQTT 5, 3.1.2.11.2 and 3.3.2.3.3.

use std::collections::BTreeSet;

use crate::command::SessionExpiry;
use crate::ids::{SessionId, Timestamp};

/// When a message expires, in whole seconds of replicated time, rounded up; kept small because queues hold millions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Expires(pub(crate) u32);

impl Expires {
    pub(crate) const NEVER: Self = Self(u32::MAX);

    /// `lifetime_s` from `now` on.
    pub(crate) fn after(now: Timestamp, lifetime_s: Option<u32>) -> Self {
        let Some(lifetime_s) = lifetime_s else { return Self::NEVER };
        let end_s = now.0.saturating_add(u64::from(lifetime_s).saturating_mul(1000)).div_ceil(1000);
        Self(u32::try_from(end_s).unwrap_or(u32::MAX))
    }

    pub(crate) fn is_past(self, now: Timestamp) -> bool {
        self != Self::NEVER && now.0 > u64::from(self.0) * 1000
    }

    /// Whole seconds left, 0 when it is past; `None` when it never expires [MQTT-3.3.2-6].
    pub(crate) fn remaining_s(self, now: Timestamp) -> Option<u32> {
        if self == Self::NEVER {
            return None;
        }
        let left_s = (u64::from(self.0) * 1000).saturating_sub(now.0) / 1000;
        Some(u32::try_from(left_s).unwrap_or(u32::MAX))
    }
}

/// Points in time of sessions, in order: when they end, or when their wills are due.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct SessionTimers(BTreeSet<(Timestamp, SessionId)>);

impl SessionTimers {
    pub(crate) fn start(&mut self, at: Timestamp, session: SessionId) {
        self.0.insert((at, session));
    }

    pub(crate) fn stop(&mut self, at: Timestamp, session: SessionId) {
        self.0.remove(&(at, session));
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.0.first().map(|timer| timer.0)
    }

    /// Takes the first session that is due.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<SessionId> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|timer| timer.1)
    }

    pub(crate) fn contains(&self, at: Timestamp, session: SessionId) -> bool {
        self.0.contains(&(at, session))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// When the will of such a session is due: after its delay, or when the session ends [MQTT-3.1.2-8].
pub(crate) fn will_due(since: Timestamp, delay_s: u32, end: Option<Timestamp>) -> Timestamp {
    let delayed = Timestamp(since.0.saturating_add(u64::from(delay_s) * 1000));
    end.map_or(delayed, |end| end.min(delayed))
}

/// When a session without a connection since `since` ends; `None` when not by time.
pub(crate) fn session_end(since: Timestamp, expiry: SessionExpiry) -> Option<Timestamp> {
    match expiry {
        SessionExpiry::AtClose => Some(since),
        SessionExpiry::After(seconds) => Some(Timestamp(since.0.saturating_add(u64::from(seconds) * 1000))),
        SessionExpiry::Never => None,
    }
}

/// The expiry in force: what the client asked for, at most `max_s` seconds (`u32::MAX`: no cap).
pub(crate) fn capped(expiry: SessionExpiry, max_s: u32) -> SessionExpiry {
    match expiry {
        SessionExpiry::AtClose | SessionExpiry::After(0) => SessionExpiry::AtClose,
        _ if max_s == 0 => SessionExpiry::AtClose,
        SessionExpiry::Never if max_s == u32::MAX => SessionExpiry::Never,
        SessionExpiry::Never => SessionExpiry::After(max_s),
        SessionExpiry::After(seconds) => SessionExpiry::After(seconds.min(max_s)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expires_is_never_early_and_at_most_a_second_late() {
        for now in [0, 1, 499, 500, 999, 1000, 1001, 123_456] {
            for lifetime in [0_u32, 1, 2, 60] {
                let expires = Expires::after(Timestamp(now), Some(lifetime));
                let exact = now + u64::from(lifetime) * 1000;
                assert!(!expires.is_past(Timestamp(exact)), "{now} {lifetime}");
                assert!(expires.is_past(Timestamp(exact + 1001)), "{now} {lifetime}");
                assert_eq!(expires.remaining_s(Timestamp(now)), Some(lifetime));
            }
        }
        assert!(!Expires::after(Timestamp(5), None).is_past(Timestamp(u64::MAX)));
        assert_eq!(Expires::after(Timestamp(u64::MAX), Some(5)), Expires::NEVER);
    }

    #[test]
    fn capped_expiry_never_exceeds_the_limit() {
        use SessionExpiry::{After, AtClose, Never};
        assert_eq!(capped(Never, 10), After(10));
        assert_eq!(capped(After(11), 10), After(10));
        assert_eq!(capped(After(9), 10), After(9));
        assert_eq!(capped(Never, u32::MAX), Never);
        assert_eq!(capped(After(0), 10), AtClose);
        assert_eq!(capped(After(9), 0), AtClose);
        assert_eq!(capped(AtClose, 10), AtClose);
    }
}
