//! UNSUBSCRIBE and UNSUBACK on the wire.
//!
//! Limits: `Limits::filters_per_packet_max`. Spec: MQTT 5, 3.10 and 3.11; MQTT 3.1.1, 3.10 and 3.11.

use super::ack::{read_problem, reason};
use super::subscribe::write_filter;
use super::{PacketType, ProtocolVersion, UnsubAck, Unsubscribe};
use crate::decode::DecodeError;
use crate::encode::{EncodeError, reason_for};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::writer::{Problem, Sink, WriteProperties};

impl Unsubscribe {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut unsubscribe = Self { packet_id, user_properties: Vec::new(), filters: Vec::new() };
        if version == ProtocolVersion::V5 {
            let mut properties = reader.properties()?;
            while let Some(id) = properties.next()? {
                match id {
                    PropertyId::UserProperty => properties.user_property(&mut unsubscribe.user_properties)?,
                    _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
                }
            }
        }
        while !reader.is_empty() {
            if unsubscribe.filters.len() >= reader.limits().filters_per_packet_max {
                return Err(DecodeError::Quota { packet: PacketType::Unsubscribe, what: "topic filters" });
            }
            unsubscribe.filters.push(reader.topic_filter()?);
        }
        if unsubscribe.filters.is_empty() {
            return Err(reader.protocol("no topic filter [MQTT-3.10.3-2]"));
        }
        Ok(unsubscribe)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::Missing { packet: PacketType::Unsubscribe, what: "topic filter" });
        }
        sink.u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            Problem { reason_string: None, user_properties: &self.user_properties }.write_with_len(sink)?;
        }
        for filter in &self.filters {
            write_filter(filter, sink);
        }
        Ok(())
    }
}

impl UnsubAck {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut unsuback =
            Self { packet_id, reasons: Vec::new(), reason_string: None, user_properties: Vec::new() };
        if version != ProtocolVersion::V5 {
            return Ok(unsuback);
        }
        read_problem(reader, &mut unsuback.reason_string, &mut unsuback.user_properties)?;
        while !reader.is_empty() {
            unsuback.reasons.push(reason(reader, PacketType::UnsubAck)?);
        }
        if unsuback.reasons.is_empty() {
            return Err(reader.protocol("no reason code [MQTT-3.11.3-1]"));
        }
        Ok(unsuback)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        let packet = PacketType::UnsubAck;
        sink.u16(self.packet_id.get());
        if version != ProtocolVersion::V5 {
            return Ok(());
        }
        if self.reasons.is_empty() {
            return Err(EncodeError::Missing { packet, what: "reason code" });
        }
        let user_properties = &self.user_properties;
        Problem { reason_string: self.reason_string.as_ref(), user_properties }.write_with_len(sink)?;
        for code in &self.reasons {
            sink.u8(reason_for(packet, *code)?);
        }
        Ok(())
    }
}
