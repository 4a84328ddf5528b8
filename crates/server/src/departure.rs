//! When client connections have to go, and how they go one after the other.
//!
//! Owns: [`Departure`], the moment of each connection in it. Does not: close connections; each does that itself.
//! Invariants: from the first moment of a departure until it is called off no new connection is taken; every connection
//! goes within its span. Limits: `DEPARTURES_PER_S`, `DEPARTURE_MAX`. See: docs/operations/drain.md.

use std::time::Duration;

use quorate_codec::ReasonCode;
use quorate_state::ConnId;

use crate::limits::{DEPARTURE_MAX, DEPARTURES_PER_S};

/// Whether client connections may stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Departure {
    /// They may, and new ones may come.
    #[default]
    Off,
    /// New ones are refused, and those that are here go.
    On {
        /// The first goes at this time of the node's clock.
        from: Duration,
        /// The last goes so much later.
        over: Duration,
        /// Why.
        cause: DepartureCause,
    },
}

/// Why connections have to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DepartureCause {
    /// The node is taken out of service.
    Drain,
    /// The process ends.
    Stop,
}

impl DepartureCause {
    /// What clients of MQTT 5 are told.
    pub fn reason(self) -> ReasonCode {
        match self {
            DepartureCause::Drain => ReasonCode::USE_ANOTHER_SERVER,
            DepartureCause::Stop => ReasonCode::SERVER_SHUTTING_DOWN,
        }
    }
}

impl Departure {
    /// So many connections go, from a time on, at a pace that the other nodes take well.
    pub fn paced(from: Duration, connections: u64, cause: DepartureCause) -> Departure {
        let over = Duration::from_millis(connections.saturating_mul(1000) / DEPARTURES_PER_S);
        Departure::On { from, over: over.min(DEPARTURE_MAX), cause }
    }

    /// When a connection has to go, and why. The moments are spread evenly, but not in the order in which connections came,
    /// so that a group of clients that came together does not go together.
    pub fn moment(&self, conn: ConnId) -> Option<(Duration, DepartureCause)> {
        let Departure::On { from, over, cause } = *self else { return None };
        // The golden ratio's fraction of 2^64: multiples of it fall evenly.
        let place = conn.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let share = over.as_nanos().saturating_mul(u128::from(place)) >> 32;
        Some((from + Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX)), cause))
    }

    /// Whether new connections are refused.
    pub fn is_on(&self) -> bool {
        *self != Departure::Off
    }

    /// The process ends.
    pub fn is_stop(&self) -> bool {
        matches!(self, Departure::On { cause: DepartureCause::Stop, .. })
    }

    /// When the last connection has gone.
    pub fn end(&self) -> Option<Duration> {
        match *self {
            Departure::Off => None,
            Departure::On { from, over, .. } => Some(from + over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_evenly_over_the_whole_span() {
        let from = Duration::from_secs(7);
        let departure = Departure::paced(from, 500, DepartureCause::Drain);
        let end = departure.end().unwrap();
        let mut tenths = [0; 10];
        for conn in 1000..1500 {
            let (at, cause) = departure.moment(ConnId(conn)).unwrap();
            assert!(at >= from && at <= end && cause == DepartureCause::Drain);
            let tenth = (at - from).as_nanos() * 10 / (end - from).as_nanos();
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (45..=55).contains(count)), "{tenths:?}");
        assert_eq!(Departure::Off.moment(ConnId(1)), None);
    }

    #[test]
    fn span_is_bounded_and_nothing_without_connections() {
        let none = Departure::paced(Duration::ZERO, 0, DepartureCause::Stop);
        assert_eq!(none.end(), Some(Duration::ZERO));
        let many = Departure::paced(Duration::ZERO, u64::MAX, DepartureCause::Stop);
        assert_eq!(many.end(), Some(DEPARTURE_MAX));
        assert!(many.moment(ConnId(u64::MAX)).unwrap().0 <= DEPARTURE_MAX);
    }
}
