//! Up to where retained messages count for a new subscription: asked of each partition before SUBACK.
//!
//! Owns: the questions that are out and their answers. Does not: read messages; see `retained`.
//! Invariants: the position comes from a leadership proof that began after the barrier had passed and before SUBACK. What
//! is retained after it was published to a subscription in force, so it comes as it is published, and not again as a
//! retained message [MQTT-3.3.1-12].
//! Limits: a SUBSCRIBE waits for BOUND_WAIT_MAX at most; a partition that has not answered by then is read without bound.
//! Spec: MQTT 5, 3.3.1.3 and 3.8.4; contract D9, D10.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_state::command::SubscribeFilter;
use quorate_state::{GroupId, LogIndex};

use super::Node;
use crate::peer::PeerMessage;

/// How long a SUBACK waits for partitions that do not answer: as long as one without a leader usually takes to find one.
const BOUND_WAIT_MAX: Duration = Duration::from_millis(1000);

/// A question without an answer is asked again after this time.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Positions by partition. A partition without one has no bound.
pub(super) type Bounds = Arc<BTreeMap<GroupId, LogIndex>>;

/// The questions of one SUBSCRIBE.
#[derive(Debug)]
struct Asking {
    since: Duration,
    asked_at: Duration,
    missing: BTreeMap<GroupId, u64>,
    known: BTreeMap<GroupId, LogIndex>,
}

/// All questions that are out.
#[derive(Debug, Default)]
pub(super) struct RetainedBounds {
    asking: BTreeMap<u64, Asking>,
    /// Which SUBSCRIBE a question is for, and which partition it was put to.
    queries: BTreeMap<u64, (u64, GroupId)>,
    /// Some SUBSCRIBE has all its answers, or has waited long enough.
    ready: bool,
}

impl RetainedBounds {
    /// A new incarnation has begun.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether SUBSCRIBEs that waited may be looked at again.
    pub(super) fn take_ready(&mut self) -> bool {
        std::mem::take(&mut self.ready)
    }

    /// The answers of a SUBSCRIBE, when all are there or have had their time.
    pub(super) fn take(&mut self, number: u64, now: Duration) -> Option<Bounds> {
        let asking = self.asking.get(&number)?;
        if !asking.missing.is_empty() && now.saturating_sub(asking.since) < BOUND_WAIT_MAX {
            return None;
        }
        let Asking { missing, known, .. } = self.asking.remove(&number)?;
        for query in missing.values() {
            self.queries.remove(query);
        }
        Some(Arc::new(known))
    }

    fn answered(&mut self, query: u64, index: LogIndex) {
        let Some((number, group)) = self.queries.remove(&query) else { return };
        let Some(asking) = self.asking.get_mut(&number) else { return };
        asking.missing.remove(&group);
        asking.known.insert(group, index);
        self.ready |= asking.missing.is_empty();
    }
}

impl Node {
    /// Asks all partitions that these subscriptions read from; gives the number under which the answers are kept.
    pub(super) fn ask_bounds(&mut self, retained: &[SubscribeFilter], now: Duration) -> u64 {
        let mut groups: Vec<GroupId> =
            retained.iter().flat_map(|subscription| self.partitions_of(&subscription.filter)).collect();
        groups.sort_unstable();
        groups.dedup();
        let number = self.next_query();
        let mut missing = BTreeMap::new();
        for group in groups {
            let query = self.next_query();
            missing.insert(group, query);
            self.retained_bounds.queries.insert(query, (number, group));
            self.ask_bound(group, query);
        }
        let asking = Asking { since: now, asked_at: now, missing, known: BTreeMap::new() };
        self.retained_bounds.asking.insert(number, asking);
        number
    }

    fn ask_bound(&mut self, group: GroupId, query: u64) {
        if let Some(leader) = self.leader_of(group) {
            self.send(leader, PeerMessage::RetainedBoundQuery { group, query });
        }
    }

    pub(super) fn retained_bound(&mut self, query: u64, index: LogIndex) {
        self.retained_bounds.answered(query, index);
    }

    pub(super) fn tick_bounds(&mut self, now: Duration) {
        let mut again = Vec::new();
        for asking in self.retained_bounds.asking.values_mut() {
            if now.saturating_sub(asking.asked_at) >= ASK_AGAIN_AFTER {
                asking.asked_at = now;
                again.extend(asking.missing.iter().map(|(group, query)| (*group, *query)));
            }
            self.retained_bounds.ready |= now.saturating_sub(asking.since) >= BOUND_WAIT_MAX;
        }
        for (group, query) in again {
            self.ask_bound(group, query);
        }
    }
}
