//! How long the publishes of one connection take, until all their partitions have applied them.
//!
//! Owns: when each publish began that waits for partitions. Does not: know what is published, or acknowledge.
//! Invariants: numbers grow; each publish is told once, when its last partition has answered.
//! Limits: as many as the client may have unacknowledged; beyond PUBLISHES_TIMED_MAX no more are timed.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_node::edge::{ClientRequest, PublishNumber};

use crate::limits::PUBLISHES_TIMED_MAX;

/// The publishes of a connection that wait for partitions.
#[derive(Default)]
pub struct PublishTimes(VecDeque<Timed>);

struct Timed {
    number: PublishNumber,
    began: Duration,
    /// Partitions that have not answered.
    outstanding: usize,
}

impl PublishTimes {
    /// These requests go to the node now.
    pub fn begin(&mut self, requests: &[ClientRequest], now: Duration) {
        for request in requests {
            let (number, outstanding) = match request {
                ClientRequest::Publish { number, targets } => (*number, targets.len()),
                ClientRequest::PublishOnce { number, .. } => (*number, 1),
                ClientRequest::Connect(_)
                | ClientRequest::Subscribe { .. }
                | ClientRequest::Unsubscribe { .. }
                | ClientRequest::Release { .. }
                | ClientRequest::Received { .. }
                | ClientRequest::Acknowledged { .. }
                | ClientRequest::RetainedTaken
                | ClientRequest::Closed { .. } => continue,
            };
            if self.0.len() < PUBLISHES_TIMED_MAX {
                self.0.push_back(Timed { number, began: now, outstanding });
            }
        }
    }

    /// A partition has answered. How long the publish took, when it was the last one.
    pub fn applied(&mut self, number: PublishNumber, now: Duration) -> Option<Duration> {
        let place = self.0.binary_search_by_key(&number, |timed| timed.number).ok()?;
        let timed = self.0.get_mut(place)?;
        timed.outstanding = timed.outstanding.saturating_sub(1);
        let took = (timed.outstanding == 0).then(|| now.saturating_sub(timed.began));
        while self.0.front().is_some_and(|first| first.outstanding == 0) {
            self.0.pop_front();
        }
        took
    }

    /// Gives the memory back when nothing waits.
    pub fn release(&mut self) {
        if self.0.is_empty() {
            self.0 = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_state::GroupId;

    fn publish(number: PublishNumber, groups: u32) -> ClientRequest {
        let targets = (0..groups).map(|group| (GroupId(group + 1), Bytes::new())).collect();
        ClientRequest::Publish { number, targets }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn publish_is_told_once_when_its_last_partition_has_answered() {
        let mut times = PublishTimes::default();
        times.begin(&[publish(3, 2), ClientRequest::RetainedTaken, publish(4, 1)], at(10));
        assert_eq!(times.applied(3, at(12)), None);
        assert_eq!(times.applied(4, at(15)), Some(at(5)), "one that is done before an earlier one");
        assert_eq!(times.applied(3, at(20)), Some(at(10)));
        assert_eq!(times.applied(3, at(30)), None);
        assert!(times.0.is_empty());
        times.begin(&[publish(9, 1)], at(40));
        assert_eq!(times.applied(7, at(41)), None, "not timed");
        assert_eq!(times.applied(9, at(41)), Some(at(1)));
    }

    #[test]
    fn more_than_the_limit_are_not_timed() {
        let mut times = PublishTimes::default();
        for number in 0..=PUBLISHES_TIMED_MAX {
            times.begin(&[publish(u64::try_from(number).unwrap(), 1)], at(0));
        }
        assert_eq!(times.0.len(), PUBLISHES_TIMED_MAX);
        assert_eq!(times.applied(u64::try_from(PUBLISHES_TIMED_MAX).unwrap(), at(5)), None);
    }
}
