//! Random choices of a run, all from one seed (SplitMix64).
//!
//! Owns: the generator. Does not: seed itself from anything but its argument.
//! Invariants: the same seed gives the same choices. Limits: not for secrets.

use std::time::Duration;

/// A generator.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// A time between two, to the millisecond. Short ones are as likely as long ones: it is even on a logarithmic scale.
    pub fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        let mut low = shortest.max(Duration::from_millis(1));
        // Each doubling of the shortest time is one step of the scale.
        let mut steps = vec![low];
        while low * 2 < longest {
            low *= 2;
            steps.push(low);
        }
        let begin = steps.get(self.below(steps.len())).copied().unwrap_or(shortest);
        let room = begin.min(longest.saturating_sub(begin)).as_millis();
        let more = self.below(usize::try_from(room).unwrap_or(0).saturating_add(1));
        begin + Duration::from_millis(u64::try_from(more).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_from_the_seed_and_keep_their_bounds() {
        let (mut one, mut other) = (Random::new(7), Random::new(7));
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(60));
        for _ in 0..1000 {
            let time = one.between(shortest, longest);
            assert_eq!(time, other.between(shortest, longest));
            assert!((shortest..=longest).contains(&time), "{time:?}");
            assert!(one.below(3) < 3 && other.below(3) < 3);
        }
        assert_eq!(Random::new(1).below(0), 0);
        assert_ne!(Random::new(1).next(), Random::new(2).next());
    }
}
