//! PUBACK, PUBREC, PUBREL and PUBCOMP on the wire.
//!
//! Owns: their long and short forms. Spec: MQTT 5, 3.4 to 3.7; MQTT 3.1.1, 3.4 to 3.7.

use super::{Ack, PacketType, ProtocolVersion};
use crate::decode::DecodeError;
use crate::encode::{EncodeError, reason_for};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::reason::ReasonCode;
use crate::text::Text;
use crate::writer::{Problem, Sink, WriteProperties};

impl Ack {
    pub(crate) fn decode(
        reader: &mut Reader<'_>,
        packet: PacketType,
        version: ProtocolVersion,
    ) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut ack =
            Self { packet_id, reason: ReasonCode::SUCCESS, reason_string: None, user_properties: Vec::new() };
        if version != ProtocolVersion::V5 || reader.is_empty() {
            return Ok(ack);
        }
        ack.reason = reason(reader, packet)?;
        // Without properties their length may be left out too (MQTT 5, 3.4.2.2.1).
        if !reader.is_empty() {
            read_problem(reader, &mut ack.reason_string, &mut ack.user_properties)?;
        }
        Ok(ack)
    }

    pub(crate) fn write<S: Sink>(
        &self,
        packet: PacketType,
        version: ProtocolVersion,
        sink: &mut S,
    ) -> Result<(), EncodeError> {
        sink.u16(self.packet_id.get());
        if version != ProtocolVersion::V5 {
            return Ok(());
        }
        let reason = reason_for(packet, self.reason)?;
        let problem =
            Problem { reason_string: self.reason_string.as_ref(), user_properties: &self.user_properties };
        if reason == 0 && problem.is_empty() {
            return Ok(());
        }
        sink.u8(reason);
        if problem.is_empty() { Ok(()) } else { problem.write_with_len(sink) }
    }
}

/// Reads a reason code that this packet may have.
pub(super) fn reason(reader: &mut Reader<'_>, packet: PacketType) -> Result<ReasonCode, DecodeError> {
    let value = reader.u8()?;
    ReasonCode::from_value(value)
        .filter(|reason| reason.fits(packet))
        .ok_or_else(|| reader.protocol("unknown reason code (MQTT 5, 2.4)"))
}

/// Reads a list of properties that may have a Reason String and user properties only.
pub(super) fn read_problem(
    reader: &mut Reader<'_>,
    reason_string: &mut Option<Text>,
    user_properties: &mut Vec<(Text, Text)>,
) -> Result<(), DecodeError> {
    let mut properties = reader.properties()?;
    while let Some(id) = properties.next()? {
        match id {
            PropertyId::ReasonString => *reason_string = Some(properties.text()?),
            PropertyId::UserProperty => properties.user_property(user_properties)?,
            _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
        }
    }
    Ok(())
}
