//! Which quality of service each client of a verify run uses.
//!
//! Owns: the values of `--qos`, who publishes and subscribes with which. Does not: judge.
//! Invariants: a publisher keeps one QoS, so that order per topic and QoS is order per publisher (D15 of the contract).

use quorate_codec::QoS;

use crate::mqtt_flags;

/// Value of `--qos`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mix {
    /// All clients use the same.
    All(QoS),
    /// Publishers, and subscribers, use QoS 1 and 2 in turn: with two of each there is every pair.
    Mixed,
}

impl Mix {
    /// Reads `0`, `1`, `2` or `mixed`.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn parse(text: &str) -> Result<Mix, String> {
        if text == "mixed" {
            return Ok(Mix::Mixed);
        }
        mqtt_flags::qos(text).map(Mix::All).map_err(|_| "QoS is 0, 1, 2 or mixed".to_owned())
    }

    /// QoS of the client at this place among the publishers, or among the subscribers.
    pub fn at(self, place: usize) -> QoS {
        match self {
            Mix::All(qos) => qos,
            Mix::Mixed if place.is_multiple_of(2) => QoS::AtLeastOnce,
            Mix::Mixed => QoS::ExactlyOnce,
        }
    }

    /// Whether publishes are acknowledged.
    pub fn is_acknowledged(self) -> bool {
        self != Mix::All(QoS::AtMostOnce)
    }

    /// As given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mix::All(QoS::AtMostOnce) => "0",
            Mix::All(QoS::AtLeastOnce) => "1",
            Mix::All(QoS::ExactlyOnce) => "2",
            Mix::Mixed => "mixed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["0", "1", "2", "mixed"] {
            assert_eq!(Mix::parse(name).unwrap().name(), name);
        }
        assert!(Mix::parse("3").is_err() && Mix::parse("Mixed").is_err());
    }

    #[test]
    fn two_of_each_make_every_pair() {
        let both = [QoS::AtLeastOnce, QoS::ExactlyOnce];
        assert_eq!([0, 1].map(|place| Mix::Mixed.at(place)), both);
        assert_eq!([2, 3].map(|place| Mix::Mixed.at(place)), both);
        assert_eq!(Mix::All(QoS::ExactlyOnce).at(0), QoS::ExactlyOnce);
    }
}
