//! How much may be unanswered, in both directions.
//!
//! Owns: the windows. Does not: send.
//! Invariants: acknowledgements leave in the order of the publishes [MQTT-4.6.0-2]; never more in flight to the client
//! than its Receive Maximum [MQTT-3.3.4-9], and never two messages on one packet identifier [MQTT-2.2.1-4].
//! Limits: 65,535 in flight each way.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use quorate_codec::{PacketId, QoS};

/// Stands for one publish of QoS 1 or 2 of the client until it is acknowledged. Given back to
/// [`Connection::acknowledge`](crate::Connection::acknowledge), in the order in which they were given out.
#[derive(PartialEq, Eq, Debug)]
pub struct PublishToken {
    pub(crate) packet_id: PacketId,
    pub(crate) qos: QoS,
    repeated: bool,
    sequence: u64,
}

impl PublishToken {
    /// The packet identifier of the PUBLISH.
    pub fn packet_id(&self) -> PacketId {
        self.packet_id
    }

    /// QoS 1 or 2.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// A QoS 2 PUBLISH whose packet identifier is in use already: the client repeats one that came on this connection.
    pub fn is_repeated(&self) -> bool {
        self.repeated
    }
}

/// Publishes of the client that are not acknowledged. Packet identifiers of QoS 1 are not compared: one that comes again
/// before its PUBACK is passed on as another PUBLISH packet, and acknowledged as such. Those of QoS 2 are in use until
/// PUBCOMP.
#[derive(Debug)]
pub(crate) struct Inbound {
    window: usize,
    given: u64,
    answered: u64,
    /// Of those given and not answered, the ones of QoS 1.
    at_least_once: usize,
    /// Packet identifiers of QoS 2 without PUBCOMP.
    exactly_once: BTreeSet<PacketId>,
}

impl Inbound {
    /// A window of so many publishes; zero counts as 1.
    pub(crate) fn new(receive_max: u16) -> Self {
        let window = usize::from(receive_max.max(1));
        Inbound { window, given: 0, answered: 0, at_least_once: 0, exactly_once: BTreeSet::new() }
    }

    /// As many publishes wait for this side as may: for PUBACK or PUBREC.
    pub(crate) fn is_full(&self) -> bool {
        self.given - self.answered >= self.window as u64
    }

    /// Whether the client may send one more by its Receive Maximum: it counts QoS 2 until PUBCOMP (MQTT 5, 4.9). One that
    /// it repeats counts once.
    pub(crate) fn allows(&self, qos: QoS, packet_id: PacketId) -> bool {
        let repeated = qos == QoS::ExactlyOnce && self.exactly_once.contains(&packet_id);
        repeated || self.at_least_once + self.exactly_once.len() < self.window
    }

    /// Whether a QoS 2 PUBLISH with this packet identifier waits for PUBCOMP.
    pub(crate) fn holds(&self, packet_id: PacketId) -> bool {
        self.exactly_once.contains(&packet_id)
    }

    /// A publish arrived.
    pub(crate) fn begin(&mut self, qos: QoS, packet_id: PacketId) -> PublishToken {
        self.given += 1;
        let mut repeated = false;
        match qos {
            QoS::ExactlyOnce => repeated = !self.exactly_once.insert(packet_id),
            QoS::AtMostOnce | QoS::AtLeastOnce => self.at_least_once += 1,
        }
        PublishToken { packet_id, qos, repeated, sequence: self.given }
    }

    /// A publish is answered; with a failure, its packet identifier is free again [MQTT-4.3.3-9].
    pub(crate) fn end(&mut self, token: &PublishToken, failed: bool) {
        assert!(
            token.sequence == self.answered + 1,
            "publishes are acknowledged in the order in which they came"
        );
        assert!(token.sequence <= self.given, "only what came is acknowledged");
        self.answered = token.sequence;
        match token.qos {
            QoS::ExactlyOnce if failed => self.complete(token.packet_id),
            QoS::ExactlyOnce => {}
            QoS::AtMostOnce | QoS::AtLeastOnce => self.at_least_once -= 1,
        }
    }

    /// PUBCOMP goes out.
    pub(crate) fn complete(&mut self, packet_id: PacketId) {
        self.exactly_once.remove(&packet_id);
    }
}

/// What a message in flight to the client waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Awaits {
    /// QoS 1: PUBACK.
    PubAck,
    /// QoS 2: PUBREC.
    PubRec,
    /// QoS 2: this side, before PUBREL.
    Release,
    /// QoS 2: PUBCOMP.
    PubComp,
}

/// Messages to the client that it has not acknowledged.
#[derive(Debug)]
pub(crate) struct Outbound {
    window: u16,
    in_flight: BTreeMap<PacketId, Awaits>,
    unknown: u64,
}

impl Outbound {
    /// A window of the client's Receive Maximum; absent means 65,535.
    pub(crate) fn new(receive_max: Option<NonZeroU16>) -> Self {
        let window = receive_max.map_or(u16::MAX, NonZeroU16::get);
        Outbound { window, in_flight: BTreeMap::new(), unknown: 0 }
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> u16 {
        self.window.saturating_sub(u16::try_from(self.in_flight.len()).unwrap_or(u16::MAX))
    }

    /// What the message with this packet identifier waits for; `None` when none is in flight.
    pub(crate) fn awaits(&self, packet_id: PacketId) -> Option<Awaits> {
        self.in_flight.get(&packet_id).copied()
    }

    /// A message goes out.
    pub(crate) fn begin(&mut self, packet_id: PacketId, awaits: Awaits) {
        assert!(self.room() > 0, "the window is checked before sending");
        let before = self.in_flight.insert(packet_id, awaits);
        assert!(before.is_none(), "packet identifiers are checked before sending");
    }

    /// A message in flight waits for something else now.
    pub(crate) fn advance(&mut self, packet_id: PacketId, awaits: Awaits) {
        self.in_flight.insert(packet_id, awaits);
    }

    /// A message is done.
    pub(crate) fn end(&mut self, packet_id: PacketId) {
        self.in_flight.remove(&packet_id);
    }

    /// An acknowledgement that acknowledges nothing.
    pub(crate) fn count_unknown(&mut self) {
        self.unknown += 1;
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
        let first = inbound.begin(QoS::AtLeastOnce, id(7));
        assert!(!inbound.is_full());
        let second = inbound.begin(QoS::AtLeastOnce, id(7));
        assert!(inbound.is_full());
        inbound.end(&first, false);
        assert!(!inbound.is_full());
        inbound.end(&second, false);
    }

    #[test]
    fn inbound_window_of_zero_counts_as_one() {
        let mut inbound = Inbound::new(0);
        assert!(!inbound.is_full());
        inbound.begin(QoS::AtLeastOnce, id(1));
        assert!(inbound.is_full());
    }

    #[test]
    fn inbound_receive_maximum_counts_exactly_once_until_it_is_complete() {
        let mut inbound = Inbound::new(2);
        let first = inbound.begin(QoS::ExactlyOnce, id(1));
        inbound.end(&first, false);
        assert!(!inbound.is_full(), "what waits for the client does not stop the reading");
        let second = inbound.begin(QoS::ExactlyOnce, id(2));
        inbound.end(&second, false);
        assert!(!inbound.allows(QoS::AtLeastOnce, id(3)) && !inbound.allows(QoS::ExactlyOnce, id(3)));
        assert!(inbound.allows(QoS::ExactlyOnce, id(2)), "what is repeated was counted");
        let repeated = inbound.begin(QoS::ExactlyOnce, id(2));
        assert!(repeated.is_repeated() && !second.is_repeated());
        inbound.end(&repeated, false);
        inbound.complete(id(2));
        assert!(inbound.allows(QoS::ExactlyOnce, id(3)));
        let refused = inbound.begin(QoS::ExactlyOnce, id(3));
        inbound.end(&refused, true);
        assert!(inbound.allows(QoS::AtLeastOnce, id(4)), "a refused one is complete");
    }

    #[test]
    fn outbound_room_follows_sending_and_acknowledging() {
        let mut outbound = Outbound::new(NonZeroU16::new(2));
        outbound.begin(id(9), Awaits::PubAck);
        outbound.begin(id(3), Awaits::PubRec);
        assert_eq!(outbound.room(), 0);
        assert_eq!(outbound.awaits(id(9)), Some(Awaits::PubAck));
        outbound.end(id(9));
        assert_eq!((outbound.room(), outbound.awaits(id(9))), (1, None));
        outbound.advance(id(3), Awaits::PubComp);
        assert_eq!((outbound.room(), outbound.awaits(id(3))), (1, Some(Awaits::PubComp)));
    }

    #[test]
    fn outbound_window_without_receive_maximum_is_all_packet_identifiers() {
        // MQTT 5, 3.1.2.11.3
        let mut outbound = Outbound::new(None);
        for packet_id in 1..=u16::MAX {
            outbound.begin(id(packet_id), Awaits::PubAck);
        }
        assert_eq!(outbound.room(), 0);
    }
}
