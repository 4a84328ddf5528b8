//! Whether a replica has applied what is committed, as `/readyz` asks it.
//!
//! Owns: the index that is waited for, and since when. Does not: apply.
//! Invariants: what is underway in a busy replica does not count: an entry is committed for a moment before it is applied, and a
//! replica that is asked often enough is always asked in such a moment.
//! Limits: APPLY_LAG_ENTRIES_MAX, APPLY_LAG_TIME_MAX.

use std::time::Duration;

use crate::limits::{APPLY_LAG_ENTRIES_MAX, APPLY_LAG_TIME_MAX};

/// The commit index of some moment, until it is applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatchUp {
    awaited: u64,
    since: Duration,
}

impl CatchUp {
    /// A look at the indexes, at every tick.
    pub fn look(&mut self, committed: u64, applied: u64, now: Duration) {
        if applied >= self.awaited {
            *self = CatchUp { awaited: committed, since: now };
        }
    }

    /// Whether too many entries wait, or one has waited for too long.
    pub fn is_behind(&self, committed: u64, applied: u64, now: Duration) -> bool {
        let lag = committed.saturating_sub(applied);
        let waited = now.saturating_sub(self.since);
        lag > APPLY_LAG_ENTRIES_MAX || (applied < self.awaited && waited >= APPLY_LAG_TIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::TICK;

    #[test]
    fn busy_replica_is_not_behind_and_one_that_stands_still_is() {
        let mut catch_up = CatchUp::default();
        // Ten seconds in which there is always something underway.
        for at in 1..200 {
            let (committed, applied, now) = (u64::from(at) + 9, u64::from(at), TICK * at);
            catch_up.look(committed, applied, now);
            assert!(!catch_up.is_behind(committed, applied, now), "{at}");
        }
        // From here on nothing is applied.
        let stands = TICK * 200;
        catch_up.look(500, 500, stands);
        catch_up.look(510, 500, stands);
        catch_up.look(520, 500, stands + TICK);
        let end = stands + APPLY_LAG_TIME_MAX;
        assert!(!catch_up.is_behind(520, 500, end - TICK));
        assert!(catch_up.is_behind(520, 500, end));
        assert!(!catch_up.is_behind(520, 510, end), "what was waited for is applied");
    }

    #[test]
    fn replica_with_much_to_apply_is_behind_at_once() {
        let catch_up = CatchUp::default();
        assert!(catch_up.is_behind(APPLY_LAG_ENTRIES_MAX + 11, 10, Duration::ZERO));
        assert!(!catch_up.is_behind(APPLY_LAG_ENTRIES_MAX + 10, 10, Duration::ZERO));
    }
}
