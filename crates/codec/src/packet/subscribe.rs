//! SUBSCRIBE and SUBACK on the wire.
//!
//! Owns: subscription options, and how a failure is said before 5.0.
//! Limits: `Limits::filters_per_packet_max`. Spec: MQTT 5, 3.8 and 3.9; MQTT 3.1.1, 3.8 and 3.9.

use super::ack::{read_problem, reason};
use super::{PacketType, ProtocolVersion, QoS, RetainHandling, SubAck, Subscribe, SubscriptionOptions};
use crate::decode::DecodeError;
use crate::encode::{EncodeError, reason_for};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::reason::ReasonCode;
use crate::topic::TopicFilter;
use crate::writer::{Problem, Sink, WriteProperties};

const QOS: u8 = 0b11;
const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
const RETAIN_HANDLING_SHIFT: u8 = 4;
const RESERVED: u8 = 0b1100_0000;

impl Subscribe {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut subscribe =
            Self { packet_id, identifier: None, user_properties: Vec::new(), filters: Vec::new() };
        if version == ProtocolVersion::V5 {
            subscribe.read_properties(reader)?;
        }
        while !reader.is_empty() {
            if subscribe.filters.len() >= reader.limits().filters_per_packet_max {
                return Err(DecodeError::Quota { packet: PacketType::Subscribe, what: "topic filters" });
            }
            let filter = reader.topic_filter()?;
            let options = SubscriptionOptions::decode(reader, version)?;
            if options.no_local && filter.is_shared() {
                return Err(reader.protocol("No Local on a shared subscription [MQTT-3.8.3-4]"));
            }
            subscribe.filters.push((filter, options));
        }
        if subscribe.filters.is_empty() {
            return Err(reader.protocol("no topic filter [MQTT-3.8.3-2]"));
        }
        Ok(subscribe)
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut properties = reader.properties()?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::SubscriptionIdentifier if self.identifier.is_some() => {
                    return Err(properties.wrong(id, PropertyRule::Twice));
                }
                PropertyId::SubscriptionIdentifier => self.identifier = Some(properties.non_zero_varint(id)?),
                PropertyId::UserProperty => properties.user_property(&mut self.user_properties)?,
                _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
            }
        }
        Ok(())
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        if self.filters.is_empty() {
            return Err(EncodeError::Missing { packet: PacketType::Subscribe, what: "topic filter" });
        }
        sink.u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            self.write_with_len(sink)?;
        }
        for (filter, options) in &self.filters {
            let options = options.value(version);
            if options & NO_LOCAL != 0 && filter.is_shared() {
                return Err(EncodeError::Value { what: "No Local" });
            }
            write_filter(filter, sink);
            sink.u8(options);
        }
        Ok(())
    }
}

impl WriteProperties for Subscribe {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        if let Some(identifier) = self.identifier {
            sink.property_subscription_identifier(identifier)?;
        }
        sink.user_properties(&self.user_properties);
        Ok(())
    }
}

impl SubscriptionOptions {
    fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let options = reader.u8()?;
        if version != ProtocolVersion::V5 && options & !QOS != 0 {
            return Err(
                reader.malformed("reserved bits of the requested QoS are set [MQTT-3.8.3-4 of 3.1.1]")
            );
        }
        if options & RESERVED != 0 {
            return Err(reader.malformed("reserved subscription options are set [MQTT-3.8.3-5]"));
        }
        let Some(qos) = QoS::from_value(options & QOS) else {
            return Err(reader.protocol("QoS 3 (MQTT 5, 3.8.3.1)"));
        };
        let retain_handling = match options >> RETAIN_HANDLING_SHIFT {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(reader.protocol("Retain Handling 3 (MQTT 5, 3.8.3.1)")),
        };
        let no_local = options & NO_LOCAL != 0;
        let retain_as_published = options & RETAIN_AS_PUBLISHED != 0;
        Ok(Self { qos, no_local, retain_as_published, retain_handling })
    }

    /// The byte on the wire; before 5.0 there is only the QoS.
    fn value(self, version: ProtocolVersion) -> u8 {
        let qos = self.qos as u8;
        if version != ProtocolVersion::V5 {
            return qos;
        }
        let no_local = if self.no_local { NO_LOCAL } else { 0 };
        let retain_as_published = if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 };
        qos | no_local | retain_as_published | (self.retain_handling as u8) << RETAIN_HANDLING_SHIFT
    }
}

/// Writes a topic filter.
pub(super) fn write_filter<S: Sink>(filter: &TopicFilter, sink: &mut S) {
    sink.text(filter.text());
}

impl SubAck {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let packet_id = reader.packet_id()?;
        let mut suback =
            Self { packet_id, reasons: Vec::new(), reason_string: None, user_properties: Vec::new() };
        if version == ProtocolVersion::V5 {
            read_problem(reader, &mut suback.reason_string, &mut suback.user_properties)?;
        }
        while !reader.is_empty() {
            let code = reason(reader, PacketType::SubAck)?;
            // Before 5.0 there is one failure [MQTT-3.9.3-2 of 3.1.1].
            if version != ProtocolVersion::V5 && code.value() > 2 && code != ReasonCode::UNSPECIFIED_ERROR {
                return Err(reader.malformed("reserved return code [MQTT-3.9.3-2 of 3.1.1]"));
            }
            suback.reasons.push(code);
        }
        if suback.reasons.is_empty() {
            return Err(reader.protocol("no reason code [MQTT-3.9.3-1]"));
        }
        Ok(suback)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        let packet = PacketType::SubAck;
        if self.reasons.is_empty() {
            return Err(EncodeError::Missing { packet, what: "reason code" });
        }
        sink.u16(self.packet_id.get());
        if version == ProtocolVersion::V5 {
            let user_properties = &self.user_properties;
            Problem { reason_string: self.reason_string.as_ref(), user_properties }.write_with_len(sink)?;
        }
        for code in &self.reasons {
            let value = reason_for(packet, *code)?;
            let failure_v3 = version != ProtocolVersion::V5 && code.is_failure();
            sink.u8(if failure_v3 { ReasonCode::UNSPECIFIED_ERROR.value() } else { value });
        }
        Ok(())
    }
}
