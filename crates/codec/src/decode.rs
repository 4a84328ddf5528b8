//! Bytes to packets.
//!
//! Owns: the fixed header, the choice of the packet's own rules, the errors.
//! Does not: know the state of a connection: whether this packet may come now is decided by its user.
//! Invariants: what is wrong with the first byte or the length is told before the rest has come; nothing is taken from
//! the buffer before the packet is whole; texts and payload share the buffer.
//! Limits: [`Limits`]. Nothing is allocated in proportion to a length that has only been announced.
//! Spec: MQTT 5, 2.1, 4.13; MQTT 3.1.1, 2.2; MQTT 3.1, 2.1.

use bytes::{Buf, BytesMut};
use thiserror::Error;

use crate::limits::Limits;
use crate::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketId, PacketType, ProtocolVersion, Publish, Role,
    SubAck, Subscribe, UnsubAck, Unsubscribe,
};
use crate::property::PropertyRule;
use crate::reader::{Reader, VARINT_RULE, varint};
use crate::reason::ReasonCode;
use crate::text::TextError;
use crate::topic::TopicError;

/// Why bytes are not a packet that this side may receive. The connection must be closed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeError {
    /// It breaks a rule of form: flags, lengths, reserved bits.
    #[error("malformed {packet}: {rule}")]
    Malformed {
        /// Type of the packet.
        packet: PacketType,
        /// The rule.
        rule: &'static str,
    },
    /// It breaks a rule of content.
    #[error("protocol error in {packet}: {rule}")]
    Protocol {
        /// Type of the packet.
        packet: PacketType,
        /// The rule.
        rule: &'static str,
    },
    /// Its type is none, or not for this sender, this protocol version or this moment.
    #[error("packet of type {packet_type} is not expected")]
    Unexpected {
        /// Upper half of the first byte.
        packet_type: u8,
    },
    /// One of its properties is wrong.
    #[error("property 0x{id:02x} of {packet} {rule}")]
    Property {
        /// Type of the packet.
        packet: PacketType,
        /// Identifier of the property.
        id: u8,
        /// The rule.
        rule: PropertyRule,
    },
    /// One of its strings is wrong.
    #[error("string in {packet}")]
    Text {
        /// Type of the packet.
        packet: PacketType,
        /// The rule.
        source: TextError,
    },
    /// Its topic name is wrong.
    #[error("topic name in {packet}")]
    TopicName {
        /// Type of the packet.
        packet: PacketType,
        /// The rule.
        source: TopicError,
    },
    /// One of its topic filters is wrong.
    #[error("topic filter in {packet}")]
    TopicFilter {
        /// Type of the packet.
        packet: PacketType,
        /// The rule.
        source: TopicError,
    },
    /// Topic alias 0 [MQTT-3.3.2-8].
    #[error("topic alias 0")]
    TopicAlias,
    /// Beyond a limit in bytes.
    #[error("packet of {bytes} bytes, more than {max}")]
    TooLarge {
        /// Size of the packet, fixed header included.
        bytes: u32,
        /// The limit.
        max: u32,
    },
    /// Beyond a limit in number.
    #[error("too many {what} in {packet}")]
    Quota {
        /// Type of the packet.
        packet: PacketType,
        /// What there is too much of.
        what: &'static str,
    },
    /// A protocol name or level that is none of the three [MQTT-3.1.2-1], [MQTT-3.1.2-2].
    #[error("protocol name or level {level} is not supported")]
    ProtocolVersion {
        /// The level byte.
        level: u8,
    },
}

impl DecodeError {
    /// The reason code for the CONNACK or DISCONNECT that tells the client (MQTT 5, 4.13.1).
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed { .. } | Self::Text { .. } => ReasonCode::MALFORMED_PACKET,
            Self::Protocol { .. } | Self::Unexpected { .. } => ReasonCode::PROTOCOL_ERROR,
            Self::Property { rule, .. } => match rule {
                PropertyRule::Unknown | PropertyRule::Misplaced => ReasonCode::MALFORMED_PACKET,
                PropertyRule::Sender | PropertyRule::Twice | PropertyRule::Value => {
                    ReasonCode::PROTOCOL_ERROR
                }
            },
            Self::TopicName { .. } => ReasonCode::TOPIC_NAME_INVALID,
            Self::TopicFilter { .. } => ReasonCode::TOPIC_FILTER_INVALID,
            Self::TopicAlias => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::TooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            Self::Quota { .. } => ReasonCode::QUOTA_EXCEEDED,
            Self::ProtocolVersion { .. } => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        }
    }
}

/// A first packet that is refused.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("first packet refused")]
pub struct FirstPacketError {
    /// Version to answer in with a CONNACK of [`DecodeError::reason`]; `None`: close without an answer, because the
    /// version is not known, or is one that has no words for the error [MQTT-3.1.4-1 of 3.1.1].
    pub answer_in: Option<ProtocolVersion>,
    /// What is wrong.
    #[source]
    pub error: DecodeError,
}

/// Takes one packet from the front of `buffer`, or gives `None` as long as it is not whole.
///
/// `sender` is the side that the bytes come from. A CONNECT is decoded by the version that it names itself, any other
/// packet by `version`. Texts and payload keep the buffer's memory alive: copy what is kept for long.
///
/// # Errors
/// [`DecodeError`]; the buffer is then of no use any more.
pub fn decode(
    buffer: &mut BytesMut,
    version: ProtocolVersion,
    sender: Role,
    limits: &Limits,
) -> Result<Option<Packet>, DecodeError> {
    let Some((&first, after)) = buffer.split_first() else {
        return Ok(None);
    };
    let packet_type = check_first_byte(first, version, sender)?;
    let Some(packet_bytes) = packet_bytes(packet_type, after, limits.packet_bytes_max)? else {
        return Ok(None);
    };
    if let Some(packet) = decode_short(packet_type, buffer, packet_bytes) {
        buffer.advance(packet_bytes.whole);
        return Ok(Some(packet));
    }
    let Some(mut reader) = reader(packet_type, buffer, packet_bytes, limits) else {
        return Ok(None);
    };
    let reader = &mut reader;
    let packet = match packet_type {
        PacketType::Publish => Packet::Publish(Publish::decode(reader, first, version, sender)?),
        PacketType::PubAck => Packet::PubAck(Ack::decode(reader, packet_type, version)?),
        PacketType::PubRec => Packet::PubRec(Ack::decode(reader, packet_type, version)?),
        PacketType::PubRel => Packet::PubRel(Ack::decode(reader, packet_type, version)?),
        PacketType::PubComp => Packet::PubComp(Ack::decode(reader, packet_type, version)?),
        PacketType::Subscribe => Packet::Subscribe(Subscribe::decode(reader, version)?),
        PacketType::SubAck => Packet::SubAck(SubAck::decode(reader, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(Unsubscribe::decode(reader, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(UnsubAck::decode(reader, version)?),
        PacketType::PingReq => Packet::PingReq,
        PacketType::PingResp => Packet::PingResp,
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(reader, version, sender)?),
        PacketType::Auth => Packet::Auth(Auth::decode(reader, sender)?),
        PacketType::ConnAck => Packet::ConnAck(Box::new(ConnAck::decode(reader, version)?)),
        PacketType::Connect => {
            let version = Connect::decode_version(reader)?;
            Packet::Connect(Box::new(Connect::decode(reader, version)?))
        }
    };
    reader.finish()?;
    Ok(Some(packet))
}

/// Takes the CONNECT that a connection must start with [MQTT-3.1.0-1], or gives `None` as long as it is not whole.
///
/// Anything else is refused by its first byte, and a length above `Limits::connect_bytes_max` at the fifth at the
/// latest.
///
/// # Errors
/// [`FirstPacketError`]; the buffer is then of no use any more.
pub fn decode_first(
    buffer: &mut BytesMut,
    limits: &Limits,
) -> Result<Option<Box<Connect>>, FirstPacketError> {
    let closed = |error| FirstPacketError { answer_in: None, error };
    let Some((&first, after)) = buffer.split_first() else {
        return Ok(None);
    };
    if first >> 4 != PacketType::Connect as u8 {
        return Err(closed(DecodeError::Unexpected { packet_type: first >> 4 }));
    }
    let packet_type = check_first_byte(first, ProtocolVersion::V5, Role::Client).map_err(closed)?;
    let max = limits.connect_bytes_max.min(limits.packet_bytes_max);
    let Some(packet_bytes) = packet_bytes(packet_type, after, max).map_err(closed)? else {
        return Ok(None);
    };
    let Some(mut reader) = reader(packet_type, buffer, packet_bytes, limits) else {
        return Ok(None);
    };
    let version = Connect::decode_version(&mut reader).map_err(|error| {
        let answer_in = match error {
            DecodeError::ProtocolVersion { level } if level >= 5 => Some(ProtocolVersion::V5),
            DecodeError::ProtocolVersion { .. } => Some(ProtocolVersion::V311),
            _ => None,
        };
        FirstPacketError { answer_in, error }
    })?;
    let connect = Connect::decode(&mut reader, version).and_then(|connect| {
        reader.finish()?;
        Ok(Some(Box::new(connect)))
    });
    let answer_in = (version == ProtocolVersion::V5).then_some(version);
    connect.map_err(|error| FirstPacketError { answer_in, error })
}

/// Size of a packet and of its fixed header, in bytes.
#[derive(Clone, Copy)]
struct PacketBytes {
    header: usize,
    whole: usize,
}

/// Reads the remaining length, which follows the first byte (MQTT 5, 2.1.4).
fn packet_bytes(packet: PacketType, after: &[u8], max: u32) -> Result<Option<PacketBytes>, DecodeError> {
    let Ok(length) = varint(after) else {
        return Err(DecodeError::Malformed { packet, rule: VARINT_RULE });
    };
    let Some((remaining, length_bytes)) = length else {
        return Ok(None);
    };
    let header = 1 + length_bytes;
    let whole = header + remaining as usize;
    let bytes = u32::try_from(whole).unwrap_or(u32::MAX);
    if bytes > max {
        return Err(DecodeError::TooLarge { bytes, max });
    }
    if matches!(packet, PacketType::PingReq | PacketType::PingResp) && remaining != 0 {
        return Err(DecodeError::Malformed { packet, rule: "it has a body" });
    }
    Ok(Some(PacketBytes { header, whole }))
}

/// Takes a packet from the buffer if it is whole.
fn reader<'a>(
    packet_type: PacketType,
    buffer: &mut BytesMut,
    packet_bytes: PacketBytes,
    limits: &'a Limits,
) -> Option<Reader<'a>> {
    if buffer.len() < packet_bytes.whole {
        return None;
    }
    let mut body = buffer.split_to(packet_bytes.whole).freeze();
    body.advance(packet_bytes.header);
    Some(Reader::new(packet_type, body, limits))
}

/// The most frequent packets without anything but a packet identifier, read in place: sharing the buffer would cost
/// more than decoding.
fn decode_short(packet_type: PacketType, buffer: &BytesMut, packet_bytes: PacketBytes) -> Option<Packet> {
    let ack = || {
        let [_, 2, high, low] = *buffer.first_chunk::<4>()? else {
            return None;
        };
        let packet_id = PacketId::new(u16::from_be_bytes([high, low]))?;
        Some(Ack { packet_id, reason: ReasonCode::SUCCESS, reason_string: None, user_properties: Vec::new() })
    };
    match packet_type {
        PacketType::PubAck => ack().map(Packet::PubAck),
        PacketType::PubRec => ack().map(Packet::PubRec),
        PacketType::PubRel => ack().map(Packet::PubRel),
        PacketType::PubComp => ack().map(Packet::PubComp),
        PacketType::PingReq => (packet_bytes.whole == 2).then_some(Packet::PingReq),
        PacketType::PingResp => (packet_bytes.whole == 2).then_some(Packet::PingResp),
        _ => None,
    }
}

/// Checks type and flags [MQTT-2.1.3-1], and that this side may send such a packet in this version.
fn check_first_byte(first: u8, version: ProtocolVersion, sender: Role) -> Result<PacketType, DecodeError> {
    let (high, flags) = (first >> 4, first & 0x0f);
    let packet = PacketType::from_value(high).ok_or(DecodeError::Unexpected { packet_type: high })?;
    if !packet.may_come_from(sender, version) {
        return Err(DecodeError::Unexpected { packet_type: high });
    }
    let rule = match packet {
        PacketType::Publish if flags & 0b0110 == 0b0110 => "QoS 3 [MQTT-3.3.1-4]",
        PacketType::Publish if flags & 0b1110 == 0b1000 => "DUP with QoS 0 [MQTT-3.3.1-2]",
        PacketType::Publish => return Ok(packet),
        // Version 3.1 sets DUP when it sends one of these again.
        PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PubRel
            if flags == 0b0010 || (flags == 0b1010 && version == ProtocolVersion::V31) =>
        {
            return Ok(packet);
        }
        PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PubRel => {
            "flags of the first byte are not 0010 [MQTT-2.1.3-1]"
        }
        _ if flags == 0 => return Ok(packet),
        _ => "flags of the first byte are not 0000 [MQTT-2.1.3-1]",
    };
    Err(DecodeError::Malformed { packet, rule })
}

#[cfg(test)]
mod tests;
