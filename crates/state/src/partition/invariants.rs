//! What must hold of a partition after every entry.
//!
//! Owns: the check. Does not: repair. Costs a walk over the whole state: for tests and the simulator.

use std::collections::BTreeMap;

use quorate_codec::{QoS, TopicFilter};

use crate::delivery::Totals;
use crate::live::Live;
use crate::partition::{NO_ROUTE, Partition};
use crate::share::Share;

impl Partition {
    /// Panics when an invariant does not hold.
    ///
    /// # Panics
    /// On a defect of this crate.
    pub fn check(&self) {
        self.sessions.check();
        self.retained.check();
        self.displaced.check(self.last_epoch);
        let mut totals = Totals::default();
        let mut live = Live::default();
        let mut subscribers: BTreeMap<&str, usize> = BTreeMap::new();
        for session in self.sessions.iter_by_id() {
            session.inflight.check();
            assert!(session.queue.is_whole(), "a queue has all its positions");
            totals.online += u64::from(session.owner().is_some());
            totals.subscriptions += session.subscriptions.len() as u64;
            totals.queued_messages += session.queue.len();
            totals.queued_bytes +=
                session.queue.iter().map(|queued| u64::from(queued.message.bytes)).sum::<u64>();
            totals.inflight += session.inflight.len() as u64;
            if let Some(will) = session.will {
                live.add(will.message.index, 1);
            }
            let inflight = session.inflight.iter().map(|message| &message.queued);
            let inflight = inflight.filter(|queued| !queued.is_received());
            let all = session.queue.iter().chain(inflight);
            let all: Vec<_> = all.filter(|queued| !session.memberships.is_ghost(queued)).collect();
            all.iter().for_each(|queued| live.add(queued.message.index, 1));
            let shared = all.iter().filter(|queued| queued.is_shared()).count();
            assert_eq!(shared, session.memberships.messages(), "messages of share groups have an origin");
            assert!(
                session.owner().is_some()
                    || all.iter().all(|queued| !queued.is_shared() || queued.qos() == QoS::ExactlyOnce),
                "of share groups a session without connection has QoS 2 only"
            );
            let window = usize::from(session.receive_max.min(self.config.inflight_max).max(1));
            assert!(
                session.inflight.sent() <= window || session.owner().is_none(),
                "the window is respected"
            );
            if session.owner().is_some() && session.inflight.has_room(window) {
                assert!(session.queue.is_empty(), "an open window leaves nothing queued");
                assert!(!session.inflight.has_held(), "an open window leaves nothing held");
            }
            assert!(session.epoch <= self.last_epoch && session.id <= self.last_session);
            assert!(
                session.durable || session.subscriptions.keys().all(TopicFilter::is_shared),
                "transient sessions subscribe elsewhere"
            );
            for (filter, subscription) in &session.subscriptions {
                if subscription.is_fed_here(filter) {
                    *subscribers.entry(filter.as_str()).or_default() += 1;
                }
            }
        }
        self.state.outboxes.messages().for_each(|message| live.add(message.index, 1));
        self.shares.check();
        self.shares.iter().flat_map(Share::messages).for_each(|message| live.add(message.index, 1));
        self.due_wills.iter().for_each(|(_, message)| live.add(message.index, 1));
        self.displaced.wills().for_each(|message| live.add(message.index, 1));
        self.retained.iter().for_each(|(_, message)| live.add(message.message.index, 1));
        assert_eq!(totals, self.totals, "the counters agree with the sessions");
        self.check_live(&live);
        assert_eq!(subscribers.len(), self.filters.len(), "a route for every filter that has a subscriber");
        for (filter, found) in self.filters.to_sorted() {
            let mut count = 0;
            found.for_each(|_, _| count += 1);
            assert_eq!(subscribers.get(filter.as_str()), Some(&count), "subscribers of {filter}");
            assert_ne!(found.route, NO_ROUTE, "the route of {filter} was announced");
        }
    }

    fn check_live(&self, expected: &Live) {
        let mut from = crate::ids::LogIndex(0);
        loop {
            let (found, wanted) = (self.live.first_from(from), expected.first_from(from));
            assert_eq!(found, wanted, "the entries that are needed agree with the references");
            let Some(index) = found else { return };
            assert_eq!(self.live.count(index), expected.count(index), "references into entry {index}");
            from = crate::ids::LogIndex(index.0 + 1);
        }
    }
}
