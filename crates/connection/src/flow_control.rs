//! How much may be unanswered, in both directions.
//!
//! Owns: the windows. Does not: send.
//! Invariants: acknowledgements leave in the order of the publishes [MQTT-4.6.0-2]; never more in flight to the client
//! than its Receive Maximum [MQTT-3.3.4-9], and never two messages on one packet identifier [MQTT-2.2.1-4].
//! Limits: 65,535 in flight each way.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use quorate_codec::PacketId;

/// Stands for one QoS 1 publish of the client until it is acknowledged. Given back to
/// [`Connection::acknowledge`](crate::Connection::acknowledge), in the order in which they were given out.
#[derive(PartialEq, Eq, Debug)]
pub struct PublishToken {
    pub(crate) packet_id: PacketId,
    sequence: u64,
}

/// Publishes of the client that are not acknowledged. Their packet identifiers are not compared: one that comes again
/// before its PUBACK is passed on as another PUBLISH packet, and acknowledged as such.
#[derive(Debug)]
pub(crate) struct Inbound {
    window: u64,
    given: u64,
    answered: u64,
}

impl Inbound {
    /// A window of so many publishes; zero counts as 1.
    pub(crate) fn new(receive_max: u16) -> Self {
        Inbound { window: u64::from(receive_max.max(1)), given: 0, answered: 0 }
    }

    /// As many publishes wait for their acknowledgement as may.
    pub(crate) fn is_full(&self) -> bool {
        self.given - self.answered >= self.window
    }

    /// A publish arrived.
    pub(crate) fn begin(&mut self, packet_id: PacketId) -> PublishToken {
        assert!(!self.is_full(), "a publish beyond the window is refused before");
        self.given += 1;
        PublishToken { packet_id, sequence: self.given }
    }

    /// A publish is answered.
    pub(crate) fn end(&mut self, token: &PublishToken) {
        assert!(
            token.sequence == self.answered + 1,
            "publishes are acknowledged in the order in which they came"
        );
        assert!(token.sequence <= self.given, "only what came is acknowledged");
        self.answered = token.sequence;
    }
}

/// Messages to the client that it has not acknowledged.
#[derive(Debug)]
pub(crate) struct Outbound {
    window: u16,
    in_flight: BTreeSet<PacketId>,
    unknown: u64,
}

impl Outbound {
    /// A window of the client's Receive Maximum; absent means 65,535.
    pub(crate) fn new(receive_max: Option<NonZeroU16>) -> Self {
        let window = receive_max.map_or(u16::MAX, NonZeroU16::get);
        Outbound { window, in_flight: BTreeSet::new(), unknown: 0 }
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> u16 {
        self.window.saturating_sub(u16::try_from(self.in_flight.len()).unwrap_or(u16::MAX))
    }

    /// Whether a message with this packet identifier is in flight.
    pub(crate) fn holds(&self, packet_id: PacketId) -> bool {
        self.in_flight.contains(&packet_id)
    }

    /// A message goes out.
    pub(crate) fn begin(&mut self, packet_id: PacketId) {
        assert!(self.room() > 0, "the window is checked before sending");
        assert!(self.in_flight.insert(packet_id), "packet identifiers are checked before sending");
    }

    /// The client acknowledged; false, and counted, when there was nothing to acknowledge.
    pub(crate) fn end(&mut self, packet_id: PacketId) -> bool {
        let known = self.in_flight.remove(&packet_id);
        self.unknown += u64::from(!known);
        known
    }

    /// Acknowledgements that acknowledged nothing.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::id;

    #[test]
    fn inbound_window_is_full_until_the_first_is_answered() {
        let mut inbound = Inbound::new(2);
        let first = inbound.begin(id(7));
        assert!(!inbound.is_full());
        let second = inbound.begin(id(7));
        assert!(inbound.is_full());
        inbound.end(&first);
        assert!(!inbound.is_full());
        inbound.end(&second);
    }

    #[test]
    fn inbound_window_of_zero_counts_as_one() {
        let mut inbound = Inbound::new(0);
        assert!(!inbound.is_full());
        inbound.begin(id(1));
        assert!(inbound.is_full());
    }

    #[test]
    fn outbound_room_follows_sending_and_acknowledging() {
        let mut outbound = Outbound::new(NonZeroU16::new(2));
        outbound.begin(id(9));
        outbound.begin(id(3));
        assert_eq!(outbound.room(), 0);
        assert!(outbound.holds(id(9)));
        assert!(outbound.end(id(9)));
        assert!(!outbound.end(id(9)));
        assert_eq!((outbound.room(), outbound.unknown()), (1, 1));
    }

    #[test]
    fn outbound_window_without_receive_maximum_is_all_packet_identifiers() {
        // MQTT 5, 3.1.2.11.3
        let mut outbound = Outbound::new(None);
        for packet_id in 1..=u16::MAX {
            outbound.begin(id(packet_id));
        }
        assert_eq!(outbound.room(), 0);
    }
}
