//! How much may be unanswered, in both directions.
//!
//! Owns: the windows. Does not: send.
//! Invariants: acknowledgements leave in the order of the publishes [MQTT-4.6.0-2]; never more in flight to the client
//! than its Receive Maximum [MQTT-3.3.4-9]. Limits: 65,535 in flight each way.

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

/// Publishes of the client that are not acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    given: u64,
    answered: u64,
}

impl Inbound {
    /// Publishes that wait for their acknowledgement.
    pub(crate) fn unanswered(&self) -> u64 {
        self.given - self.answered
    }

    /// A publish arrived.
    pub(crate) fn begin(&mut self, packet_id: PacketId) -> PublishToken {
        self.given += 1;
        PublishToken { packet_id, sequence: self.given }
    }

    /// A publish is answered.
    pub(crate) fn end(&mut self, token: &PublishToken) {
        assert!(
            token.sequence == self.answered + 1,
            "publishes are acknowledged in the order in which they came"
        );
        self.answered = token.sequence;
    }
}

/// Messages to the client that it has not acknowledged.
#[derive(Debug)]
pub(crate) struct Outbound {
    window: u16,
    in_flight: BTreeSet<PacketId>,
}

impl Outbound {
    /// A window of the client's Receive Maximum; absent means 65,535.
    pub(crate) fn new(receive_max: Option<NonZeroU16>) -> Self {
        Outbound { window: receive_max.map_or(u16::MAX, NonZeroU16::get), in_flight: BTreeSet::new() }
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> u16 {
        self.window.saturating_sub(u16::try_from(self.in_flight.len()).unwrap_or(u16::MAX))
    }

    /// A message goes out.
    pub(crate) fn begin(&mut self, packet_id: PacketId) {
        self.in_flight.insert(packet_id);
    }

    /// The client acknowledged; false when there was nothing to acknowledge.
    pub(crate) fn end(&mut self, packet_id: PacketId) -> bool {
        self.in_flight.remove(&packet_id)
    }
}
