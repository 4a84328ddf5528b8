//! Leases from control, and the barrier that rests on them.
//!
//! Owns: [`LeaseTable`], what the control leader knows of the nodes' leases and positions; [`Lease`], a node's own.
//! Does not: send, declare a node dead; it says when that is due.
//! Invariants: a lease is granted only after a leadership proof that began after the request, so that a lease from a
//! former leader ends before a new one may count it as ended; the barrier never passes a live node.
//! Limits: one entry per node. Spec: contract D10, D11. See: docs/decisions/0008-takeover-waits-for-a-lease.md.

use core::time::Duration;
use std::collections::BTreeMap;

use quorate_state::{Incarnation, LogIndex, NodeId};

use crate::limits::{LEASE, LEASE_RENEW, LEASE_WAIT, TICK};

/// A node's own lease.
#[derive(Debug, Default)]
pub struct Lease {
    until: Duration,
    asked_at: Option<Duration>,
}

impl Lease {
    /// Whether it is time to ask again; counts as asked.
    pub fn ask(&mut self, now: Duration) -> bool {
        let due = self.asked_at.is_none_or(|at| now.saturating_sub(at) >= LEASE_RENEW);
        if due {
            self.asked_at = Some(now);
        }
        due
    }

    /// Granted what was asked at `asked_at`; gives the new end when it moved.
    pub fn granted(&mut self, asked_at: Duration) -> Option<Duration> {
        let until = asked_at + LEASE;
        if until <= self.until {
            return None;
        }
        self.until = until;
        Some(until)
    }

    /// Gives the lease up at once.
    pub fn end(&mut self) {
        *self = Lease::default();
    }

    /// How long the lease still holds; `None` when it does not.
    pub fn left(&self, now: Duration) -> Option<Duration> {
        self.until.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Whether the lease holds.
    pub fn holds(&self, now: Duration) -> bool {
        now < self.until
    }
}

/// A request for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub node: NodeId,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// The asking node's time, echoed.
    pub sent_ms: u64,
}

/// The control leader's view of all leases. Starts anew with each leadership.
#[derive(Debug)]
pub struct LeaseTable {
    /// When a node may last have been given a lease, in this node's time.
    granted_at: BTreeMap<NodeId, Duration>,
    /// Which incarnation that was; one not seen before is given a whole wait.
    incarnations: BTreeMap<NodeId, Incarnation>,
    applied: BTreeMap<NodeId, LogIndex>,
    waiting: Vec<Request>,
    in_round: Vec<Request>,
    round: Option<u64>,
    ticked_at: Duration,
    since: Duration,
    barrier: LogIndex,
}

impl LeaseTable {
    /// A new leadership: every node may just have been given a lease by the former leader.
    pub fn new(now: Duration) -> Self {
        LeaseTable {
            granted_at: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            applied: BTreeMap::new(),
            waiting: Vec::new(),
            in_round: Vec::new(),
            round: None,
            ticked_at: now,
            since: now,
            barrier: LogIndex(0),
        }
    }

    /// A node asks, and says how far it has applied control.
    pub fn asked(&mut self, request: Request, applied: LogIndex) {
        self.applied_to(request.node, applied);
        self.waiting.retain(|waiting| waiting.node != request.node);
        self.waiting.push(request);
    }

    /// A node has applied control up to here.
    pub fn applied_to(&mut self, node: NodeId, applied: LogIndex) {
        self.applied.insert(node, applied);
    }

    /// Whether a round of proof is to be started for those who wait.
    pub fn wants_round(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    /// A round was started: it covers all who asked before.
    pub fn round_started(&mut self, round: u64) {
        self.round = Some(round);
        self.in_round = std::mem::take(&mut self.waiting);
    }

    /// A round succeeded: these may be granted, if their incarnation lives and they have applied the barrier.
    pub fn round_done(
        &mut self,
        round: u64,
        now: Duration,
        lives: impl Fn(NodeId, Incarnation) -> bool,
    ) -> Vec<Request> {
        if self.round != Some(round) {
            return Vec::new();
        }
        self.round = None;
        let barrier = self.barrier;
        let applied = &self.applied;
        let mut granted = std::mem::take(&mut self.in_round);
        granted.retain(|request| {
            lives(request.node, request.incarnation)
                && applied.get(&request.node).is_some_and(|applied| *applied >= barrier)
        });
        for request in &granted {
            self.granted_at.insert(request.node, now);
        }
        granted
    }

    /// Time passes; call at every tick. After a pause of this node itself, nobody's lease counts as ended.
    pub fn tick(&mut self, now: Duration) {
        if now.saturating_sub(self.ticked_at) > TICK * 5 {
            self.since = now;
            self.granted_at.clear();
        }
        self.ticked_at = now;
    }

    /// Whether the lease of a live node has certainly ended, and had the time to be renewed.
    pub fn ended(&mut self, node: NodeId, incarnation: Incarnation, now: Duration) -> bool {
        if self.incarnations.insert(node, incarnation) != Some(incarnation) {
            self.granted_at.insert(node, now);
        }
        let granted_at = self.granted_at.get(&node).copied().unwrap_or(self.since).max(self.since);
        now.saturating_sub(granted_at) > LEASE_WAIT
    }

    /// The position that all of `live` have applied, if it has moved.
    pub fn barrier(&mut self, live: impl Iterator<Item = NodeId>) -> Option<LogIndex> {
        let lowest = live.map(|node| self.applied.get(&node).copied().unwrap_or_default()).min()?;
        if lowest <= self.barrier {
            return None;
        }
        self.barrier = lowest;
        Some(lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn request(node: NodeId) -> Request {
        Request { node, incarnation: Incarnation(1), sent_ms: 7 }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn lease_counts_from_when_it_was_asked_for() {
        let mut lease = Lease::default();
        assert!(!lease.holds(ms(0)));
        assert_eq!(lease.granted(ms(100)), Some(ms(100) + LEASE));
        assert!(lease.holds(ms(99) + LEASE));
        assert!(!lease.holds(ms(100) + LEASE));
        assert_eq!((lease.left(ms(100)), lease.left(ms(100) + LEASE)), (Some(LEASE), None));
        assert_eq!(lease.granted(ms(50)), None);
    }

    #[test]
    fn grant_needs_a_round_that_began_after_the_request() {
        let mut table = LeaseTable::new(ms(0));
        table.asked(request(A), LogIndex(3));
        assert!(table.wants_round());
        table.round_started(1);
        table.asked(request(B), LogIndex(3));
        assert_eq!(table.round_done(1, ms(10), |_, _| true), [request(A)]);
        assert!(table.wants_round());
    }

    #[test]
    fn grant_refused_to_a_dead_incarnation_and_behind_the_barrier() {
        let mut table = LeaseTable::new(ms(0));
        table.applied_to(A, LogIndex(9));
        assert_eq!(table.barrier([A].into_iter()), Some(LogIndex(9)));
        table.asked(request(A), LogIndex(9));
        table.asked(request(B), LogIndex(8));
        table.round_started(1);
        assert_eq!(table.round_done(1, ms(10), |_, _| true), [request(A)]);
        table.asked(request(A), LogIndex(9));
        table.round_started(2);
        assert_eq!(table.round_done(2, ms(20), |_, _| false), []);
    }

    #[test]
    fn lease_ends_only_after_a_whole_wait_of_this_leadership() {
        let mut table = LeaseTable::new(ms(0));
        assert!(!table.ended(A, Incarnation(1), ms(0)));
        let late = LEASE_WAIT + ms(1);
        let mut now = ms(0);
        while now + TICK < late {
            now += TICK;
            table.tick(now);
        }
        assert!(!table.ended(A, Incarnation(1), LEASE_WAIT));
        assert!(table.ended(A, Incarnation(1), late));
        assert!(!table.ended(A, Incarnation(2), late), "a new incarnation has not asked yet");
        assert!(!LeaseTable::new(ms(100)).ended(A, Incarnation(1), late));
    }

    #[test]
    fn lease_not_ended_right_after_a_pause_of_the_leader() {
        let mut table = LeaseTable::new(ms(0));
        table.tick(ms(5000));
        assert!(!table.ended(A, Incarnation(1), ms(5000)));
    }

    #[test]
    fn barrier_is_the_lowest_of_the_live() {
        let mut table = LeaseTable::new(ms(0));
        table.applied_to(A, LogIndex(9));
        assert_eq!(table.barrier([A, B].into_iter()), None);
        table.applied_to(B, LogIndex(5));
        assert_eq!(table.barrier([A, B].into_iter()), Some(LogIndex(5)));
        assert_eq!(table.barrier([A, B].into_iter()), None);
        assert_eq!(table.barrier([A].into_iter()), Some(LogIndex(9)));
    }
}
