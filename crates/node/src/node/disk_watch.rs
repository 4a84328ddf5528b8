//! Whether the disks of nodes keep up with what is written and have room for it: leadership must not wait for one that does not.
//!
//! Owns: how long this node's oldest write has been underway, which members were late to write what this node leads, for
//! how long a disk that hung is not trusted, and whose disk has little room or hung. Does not: move leadership; see `leadership`.
//! Invariants: a disk is trusted again only after it has kept up for a while, so that leadership does not come and go. The others are told
//! of a disk that is not fit: when all hang at once, each would hand its groups to the next one, many times in a second.
//! Limits: `DISK_HANG`, `DISK_TRUST_AFTER`, `DISK_UNFIT_EVERY`, `DISK_UNFIT_BELIEVED`.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use quorate_state::NodeId;

use crate::limits::{DISK_HANG, DISK_TRUST_AFTER, DISK_UNFIT_BELIEVED, DISK_UNFIT_EVERY};

/// Writes underway, oldest first.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    underway: VecDeque<(u64, Duration)>,
    /// When the disk was last seen to hang.
    hung_at: Option<Duration>,
    /// When other nodes were last seen to be late.
    late: BTreeMap<NodeId, Duration>,
    /// This node's disk has little room.
    low: bool,
    /// Too much waits for this node's disk.
    full: bool,
    /// When the others were last told that this node's disk is not fit to lead; `None` while it is.
    told: Option<Duration>,
    /// When other nodes last said that theirs is not.
    unfit: BTreeMap<NodeId, Duration>,
}

impl DiskWatch {
    /// A write that is to be synced was handed over.
    pub(super) fn begun(&mut self, ticket: u64, now: Duration) {
        self.underway.push_back((ticket, now));
    }

    /// All writes up to this one are on disk.
    pub(super) fn done(&mut self, ticket: u64, now: Duration) {
        self.look(now);
        while self.underway.front().is_some_and(|(begun, _)| *begun <= ticket) {
            self.underway.pop_front();
        }
    }

    /// Notes what can be seen now.
    pub(super) fn look(&mut self, now: Duration) {
        if self.underway.front().is_some_and(|(_, since)| now.saturating_sub(*since) >= DISK_HANG) {
            self.hung_at = Some(now);
        }
    }

    /// A member has not written what it was sent `DISK_HANG` ago.
    pub(super) fn is_late(&mut self, node: NodeId, now: Duration) {
        self.late.insert(node, now);
    }

    /// Whether this node's disk has little room.
    pub(super) fn set_low(&mut self, low: bool) {
        self.low = low;
    }

    /// Whether it has.
    pub(super) fn is_low(&self) -> bool {
        self.low
    }

    /// Whether the log takes nothing more for now.
    pub(super) fn set_log_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Whether it does not.
    pub(super) fn is_log_full(&self) -> bool {
        self.full
    }

    /// Whether the others are to be told now that this node's disk is not fit to lead.
    pub(super) fn tells_unfit(&mut self, now: Duration) -> bool {
        if !self.low && self.is_trusted(now) {
            self.told = None;
            return false;
        }
        let due = self.told.is_none_or(|at| now.saturating_sub(at) >= DISK_UNFIT_EVERY);
        if due {
            self.told = Some(now);
        }
        due
    }

    /// Another node says that its disk is not fit to lead.
    pub(super) fn heard_unfit(&mut self, node: NodeId, now: Duration) {
        self.unfit.insert(node, now);
    }

    /// Whether this node's disk has kept up lately.
    pub(super) fn is_trusted(&self, now: Duration) -> bool {
        self.hung_at.is_none_or(|hung| now.saturating_sub(hung) >= DISK_TRUST_AFTER)
    }

    /// Whether another node's disk has, as far as can be seen from here.
    pub(super) fn trusts(&self, node: NodeId, now: Duration) -> bool {
        let said = self.unfit.get(&node);
        let is_unfit = said.is_some_and(|said| now.saturating_sub(*said) < DISK_UNFIT_BELIEVED);
        !is_unfit && self.late.get(&node).is_none_or(|late| now.saturating_sub(*late) >= DISK_TRUST_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_that_hung_is_trusted_again_after_a_while() {
        let mut watch = DiskWatch::default();
        let ms = Duration::from_millis;
        watch.begun(1, ms(0));
        watch.begun(2, ms(400));
        watch.done(1, ms(499));
        watch.look(ms(899));
        assert!(watch.is_trusted(ms(899)), "each write is judged by its own time");
        watch.look(ms(900));
        assert!(!watch.is_trusted(ms(900)));
        watch.done(2, ms(2000));
        assert!(!watch.is_trusted(ms(2000)), "its end does not make it sound");
        assert!(!watch.is_trusted(ms(1999) + DISK_TRUST_AFTER));
        assert!(watch.is_trusted(ms(2000) + DISK_TRUST_AFTER));
    }

    #[test]
    fn disk_that_hung_is_told_of_until_it_is_trusted_again() {
        let mut watch = DiskWatch::default();
        let now = Duration::from_secs(100);
        watch.begun(1, now);
        watch.done(1, now + DISK_HANG);
        let hung = now + DISK_HANG;
        assert!(watch.tells_unfit(hung) && !watch.tells_unfit(hung));
        assert!(watch.tells_unfit(hung + DISK_UNFIT_EVERY));
        assert!(!watch.tells_unfit(hung + DISK_TRUST_AFTER));
    }

    #[test]
    fn little_room_is_told_again_and_again_and_believed_for_a_while() {
        let mut watch = DiskWatch::default();
        let now = Duration::from_secs(100);
        assert!(!watch.is_low() && !watch.tells_unfit(now));
        watch.set_low(true);
        assert!(watch.is_low());
        assert!(watch.tells_unfit(now) && !watch.tells_unfit(now));
        watch.set_low(true);
        assert!(!watch.tells_unfit(now), "it is no news");
        assert!(watch.tells_unfit(now + DISK_UNFIT_EVERY));
        watch.set_low(false);
        assert!(!watch.is_low() && !watch.tells_unfit(now + DISK_UNFIT_EVERY * 2));

        let other = NodeId(2);
        assert!(watch.trusts(other, now));
        watch.heard_unfit(other, now);
        assert!(!watch.trusts(other, now + DISK_UNFIT_EVERY * 2));
        assert!(watch.trusts(other, now + DISK_UNFIT_BELIEVED));
    }
}
