//! Packets to bytes.
//!
//! Owns: the fixed header, the choice of the packet's own rules, fitting a packet into what the receiver takes.
//! Does not: know which side it writes for.
//! Invariants: what was written is accepted by [`crate::decode()`] within the protocol's limits; on an error nothing
//! has been written.
//! Spec: MQTT 5, chapter 3; MQTT 3.1.1, chapter 3; MQTT 3.1, chapter 3.

use bytes::BytesMut;
use thiserror::Error;

use crate::packet::{Packet, PacketType, ProtocolVersion, PublishParts, UserProperties};
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::writer::{Count, Sink, varint_len, varint_of};

/// Why a packet cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum EncodeError {
    /// Longer than its length can say.
    #[error("{what} of {bytes} bytes is too long")]
    TooLong {
        /// The field, or the packet.
        what: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// The protocol version has no such packet, or not with this reason code.
    #[error("{version:?} has no such {packet}")]
    NotInVersion {
        /// Type of the packet.
        packet: PacketType,
        /// The protocol version.
        version: ProtocolVersion,
    },
    /// A field that must be there is not.
    #[error("{packet} without {what}")]
    Missing {
        /// Type of the packet.
        packet: PacketType,
        /// The field.
        what: &'static str,
    },
    /// A field has a value that it may not have.
    #[error("{what} has a value that it may not have")]
    Value {
        /// The field.
        what: &'static str,
    },
    /// The packet has no such reason code, and none to take its place.
    #[error("{packet} with {reason}")]
    Reason {
        /// Type of the packet.
        packet: PacketType,
        /// The code.
        reason: ReasonCode,
    },
}

/// Appends a packet to `out`.
///
/// What the version does not have is left out. A failure that the packet has no code for is written as 0x80
/// (Unspecified error) where the packet has that.
///
/// # Errors
/// [`EncodeError`]; nothing has been written then.
pub fn encode(packet: &Packet, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
    if let Packet::Publish(publish) = packet
        && publish.properties.is_none()
    {
        return encode_publish(&publish.parts(), version, out);
    }
    let remaining = body_bytes(packet, version)?;
    out.reserve(header_bytes(remaining) + remaining as usize);
    out.u8(first_byte(packet)?);
    out.varint(remaining);
    write_body(packet, version, out)
}

/// Appends a PUBLISH to `out` from its parts, copying each byte once.
///
/// # Errors
/// [`EncodeError`]; nothing has been written then.
pub fn encode_publish(
    publish: &PublishParts<'_>,
    version: ProtocolVersion,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    publish.write(version, out)
}

/// Size of a packet as [`encode`] writes it, fixed header included, in bytes.
///
/// # Errors
/// Those of [`encode`].
pub fn encoded_len(packet: &Packet, version: ProtocolVersion) -> Result<usize, EncodeError> {
    first_byte(packet)?;
    let remaining = body_bytes(packet, version)?;
    Ok(header_bytes(remaining) + remaining as usize)
}

/// Makes a packet fit into the Maximum Packet Size of its receiver: drops first the Reason String, then the user
/// properties, where the specification allows it ([MQTT-3.2.2-19], [MQTT-3.2.2-20], [MQTT-3.4.2-2], [MQTT-3.4.2-3] and
/// so on for each packet that has them). Whether it then fits; a PUBLISH is never changed, and must be discarded if it
/// does not [MQTT-3.1.2-25].
///
/// # Errors
/// Those of [`encode`].
pub fn fit(
    packet: &mut Packet,
    version: ProtocolVersion,
    packet_bytes_max: u32,
) -> Result<bool, EncodeError> {
    let fits = |packet: &Packet| Ok(encoded_len(packet, version)? <= packet_bytes_max as usize);
    if fits(packet)? {
        return Ok(true);
    }
    if let Some((reason_string, _)) = problem_mut(packet) {
        *reason_string = None;
        if fits(packet)? {
            return Ok(true);
        }
    }
    if let Some((_, user_properties)) = problem_mut(packet) {
        user_properties.clear();
        return fits(packet);
    }
    Ok(false)
}

/// The properties that may be dropped.
fn problem_mut(packet: &mut Packet) -> Option<(&mut Option<Text>, &mut UserProperties)> {
    match packet {
        Packet::ConnAck(connack) => {
            let properties = &mut connack.properties;
            Some((&mut properties.reason_string, &mut properties.user_properties))
        }
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            Some((&mut ack.reason_string, &mut ack.user_properties))
        }
        Packet::SubAck(suback) => Some((&mut suback.reason_string, &mut suback.user_properties)),
        Packet::UnsubAck(unsuback) => Some((&mut unsuback.reason_string, &mut unsuback.user_properties)),
        Packet::Disconnect(disconnect) => {
            Some((&mut disconnect.reason_string, &mut disconnect.user_properties))
        }
        Packet::Auth(auth) => Some((&mut auth.reason_string, &mut auth.user_properties)),
        Packet::Connect(_)
        | Packet::Publish(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::PingResp => None,
    }
}

/// The code to write: itself if the packet may have it, else 0x80 for a failure.
pub(crate) fn reason_for(packet: PacketType, reason: ReasonCode) -> Result<u8, EncodeError> {
    if reason.fits(packet) {
        return Ok(reason.value());
    }
    if reason.is_failure() && ReasonCode::UNSPECIFIED_ERROR.fits(packet) {
        return Ok(ReasonCode::UNSPECIFIED_ERROR.value());
    }
    Err(EncodeError::Reason { packet, reason })
}

/// Type and flags (2.1.2, 2.1.3).
fn first_byte(packet: &Packet) -> Result<u8, EncodeError> {
    let flags = match packet {
        Packet::Publish(publish) => return publish.parts().first_byte(),
        Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => 0b0010,
        _ => 0,
    };
    Ok((packet.packet_type() as u8) << 4 | flags)
}

fn header_bytes(remaining: u32) -> usize {
    1 + varint_len(remaining)
}

fn body_bytes(packet: &Packet, version: ProtocolVersion) -> Result<u32, EncodeError> {
    let mut count = Count::default();
    write_body(packet, version, &mut count)?;
    varint_of(count.0)
}

fn write_body<S: Sink>(packet: &Packet, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
    let packet_type = packet.packet_type();
    match packet {
        // Its version is its own: a CONNECT says which the others have.
        Packet::Connect(connect) => connect.write(sink),
        Packet::ConnAck(connack) => connack.write(version, sink),
        Packet::Publish(publish) => publish.write(version, sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.write(packet_type, version, sink)
        }
        Packet::Subscribe(subscribe) => subscribe.write(version, sink),
        Packet::SubAck(suback) => suback.write(version, sink),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.write(version, sink),
        Packet::UnsubAck(unsuback) => unsuback.write(version, sink),
        Packet::PingReq | Packet::PingResp => Ok(()),
        Packet::Disconnect(disconnect) => disconnect.write(version, sink),
        Packet::Auth(auth) => auth.write(version, sink),
    }
}

#[cfg(test)]
mod tests;
