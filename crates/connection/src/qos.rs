//! Quality of service of what a client publishes.
//!
//! Owns: which QoS is served. QoS 2 is not yet: CONNACK says so to 5.0 clients, and this is the one place that refuses
//! it. Spec: MQTT 5, 4.3.

use quorate_codec::{PacketId, PublishQoS, ReasonCode};

/// The packet identifier to acknowledge, if any.
///
/// # Errors
/// The reason to close the connection with, for a QoS above the announced maximum [MQTT-3.2.2-11].
pub(crate) fn inbound(qos: PublishQoS) -> Result<Option<PacketId>, ReasonCode> {
    match qos {
        PublishQoS::AtMostOnce => Ok(None),
        PublishQoS::AtLeastOnce(packet_id) => Ok(Some(packet_id)),
        PublishQoS::ExactlyOnce(_) => Err(ReasonCode::QOS_NOT_SUPPORTED),
    }
}
