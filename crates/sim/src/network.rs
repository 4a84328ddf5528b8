//! Links between nodes: ordered like TCP, with delays, blocked directions and resets.
//!
//! Owns: which links are up, what is held back in a blocked direction, arrival times. Does not: carry: the world does.
//! Invariants: a direction of a link delivers in order, or loses all that is underway with the link; a frame of an
//! earlier session of a link never arrives.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_state::Incarnation;

use crate::random::Random;

/// A direction of a link whose other end has not been heard for so long is given up.
pub const IDLE_MAX: Duration = Duration::from_secs(6);

/// Which connection of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Lane {
    /// Consensus, streams, control.
    Raft,
    /// Direct messages.
    Routing,
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Sender, by its place.
    pub from: usize,
    /// Receiver.
    pub to: usize,
    /// Session of the link that carries it.
    pub session: u64,
    /// Lane.
    pub lane: Lane,
    /// Incarnations of sender and receiver when it was sent.
    pub incarnations: (Incarnation, Incarnation),
    /// Encoded message; `None` tells the receiver that the link is up.
    pub bytes: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Direction {
    clear_at: BTreeMap<Lane, Duration>,
    held: Vec<Frame>,
}

#[derive(Debug, Default)]
struct Link {
    session: u64,
    up: bool,
}

/// All links.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<(usize, usize), Link>,
    directions: BTreeMap<(usize, usize), Direction>,
    blocked: BTreeSet<(usize, usize)>,
    delay_max: Duration,
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl Network {
    /// All links down, nothing blocked.
    pub fn new(nodes: usize, delay_max: Duration) -> Self {
        let mut links = BTreeMap::new();
        let mut directions = BTreeMap::new();
        for a in 0..nodes {
            for b in 0..nodes {
                if a < b {
                    links.insert((a, b), Link::default());
                }
                directions.insert((a, b), Direction::default());
            }
        }
        Network { links, directions, blocked: BTreeSet::new(), delay_max }
    }

    /// The session of a link that is up.
    pub fn session(&self, a: usize, b: usize) -> Option<u64> {
        self.links.get(&pair(a, b)).filter(|link| link.up).map(|link| link.session)
    }

    /// Brings a link up with a new session.
    pub fn bring_up(&mut self, a: usize, b: usize) -> Option<u64> {
        let link = self.links.get_mut(&pair(a, b)).filter(|link| !link.up)?;
        link.up = true;
        link.session += 1;
        Some(link.session)
    }

    /// Breaks a link; true if it was up.
    pub fn bring_down(&mut self, a: usize, b: usize) -> bool {
        for direction in [(a, b), (b, a)] {
            if let Some(direction) = self.directions.get_mut(&direction) {
                direction.held.clear();
            }
        }
        self.links.get_mut(&pair(a, b)).is_some_and(|link| std::mem::take(&mut link.up))
    }

    /// Whether both directions carry.
    pub fn is_open(&self, a: usize, b: usize) -> bool {
        !self.blocked.contains(&(a, b)) && !self.blocked.contains(&(b, a))
    }

    /// When a frame sent now arrives. Frames of one lane stay in order; `hurried` ones do not wait for others.
    pub fn arrival(&mut self, frame: &Frame, now: Duration, hurried: bool, random: &mut Random) -> Duration {
        let base = random.between(self.delay_max / 10, self.delay_max);
        // Now and then a frame takes much longer: a retransmission.
        let late = if random.permille(4) { random.millis(20, 250) } else { Duration::ZERO };
        let mut at = now + base + late;
        if hurried {
            return at;
        }
        if let Some(direction) = self.directions.get_mut(&(frame.from, frame.to)) {
            let clear_at = direction.clear_at.entry(frame.lane).or_default();
            at = at.max(*clear_at);
            *clear_at = at;
        }
        at
    }

    /// A frame arrives: it comes back if it is to be handed over now.
    pub fn deliver(&mut self, frame: Frame) -> Option<Frame> {
        if self.session(frame.from, frame.to) != Some(frame.session) {
            return None;
        }
        let way = (frame.from, frame.to);
        if self.blocked.contains(&way) {
            if let Some(direction) = self.directions.get_mut(&way) {
                direction.held.push(frame);
            }
            return None;
        }
        Some(frame)
    }

    /// Blocks a direction.
    pub fn block(&mut self, from: usize, to: usize) {
        self.blocked.insert((from, to));
    }

    /// Whether a direction is blocked.
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// Opens a direction; gives what was held back, in order.
    pub fn unblock(&mut self, from: usize, to: usize) -> Vec<Frame> {
        self.blocked.remove(&(from, to));
        self.directions
            .get_mut(&(from, to))
            .map(|direction| std::mem::take(&mut direction.held))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(session: u64) -> Frame {
        Frame { from: 0, to: 1, session, lane: Lane::Raft, incarnations: Default::default(), bytes: None }
    }

    #[test]
    fn frames_of_a_former_session_never_arrive() {
        let mut network = Network::new(2, Duration::from_millis(1));
        let first = network.bring_up(0, 1).unwrap();
        assert!(network.deliver(frame(first)).is_some());
        assert!(network.bring_down(1, 0));
        let second = network.bring_up(0, 1).unwrap();
        assert!(network.deliver(frame(first)).is_none());
        assert!(network.deliver(frame(second)).is_some());
    }

    #[test]
    fn blocked_direction_holds_frames_in_order() {
        let mut network = Network::new(2, Duration::from_millis(1));
        let session = network.bring_up(0, 1).unwrap();
        network.block(0, 1);
        assert!(network.deliver(frame(session)).is_none());
        assert!(network.deliver(Frame { from: 1, to: 0, ..frame(session) }).is_some());
        assert_eq!(network.unblock(0, 1).len(), 1);
    }
}
