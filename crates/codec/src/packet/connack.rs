//! CONNACK on the wire.
//!
//! Owns: its form in each version. Spec: MQTT 5, 3.2; MQTT 3.1.1, 3.2; MQTT 3.1, 3.2.

use super::{ConnAck, ConnAckProperties, PacketType, ProtocolVersion, QoS};
use crate::decode::DecodeError;
use crate::encode::{EncodeError, reason_for};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::reason::ReasonCode;
use crate::writer::{Sink, WriteProperties};

impl ConnAck {
    pub(crate) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let reason = if version == ProtocolVersion::V5 {
            ReasonCode::from_value(code).filter(|reason| reason.fits(PacketType::ConnAck))
        } else {
            ReasonCode::from_connack_return_code_v3(code)
        };
        let reason = reason.ok_or_else(|| reader.malformed("unknown reason code [MQTT-3.2.2-8]"))?;
        let session_present = match flags {
            // The byte has no meaning in version 3.1.
            _ if version == ProtocolVersion::V31 => false,
            0 => false,
            1 => true,
            _ => return Err(reader.malformed("reserved flags are set [MQTT-3.2.2-1]")),
        };
        if session_present && reason != ReasonCode::SUCCESS {
            return Err(reader.protocol("Session Present with a failure [MQTT-3.2.2-6]"));
        }
        let mut properties = ConnAckProperties::default();
        if version == ProtocolVersion::V5 {
            properties.read(reader)?;
        }
        Ok(Self { session_present, reason, properties })
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        let success = self.reason == ReasonCode::SUCCESS;
        // Only after success [MQTT-3.2.2-6], and not before 3.1.1.
        sink.u8(u8::from(self.session_present && success && version != ProtocolVersion::V31));
        if version == ProtocolVersion::V5 {
            sink.u8(reason_for(PacketType::ConnAck, self.reason)?);
            return self.properties.write_with_len(sink);
        }
        if !success && !self.reason.is_failure() {
            return Err(EncodeError::Reason { packet: PacketType::ConnAck, reason: self.reason });
        }
        sink.u8(self.reason.connack_return_code_v3());
        Ok(())
    }
}

impl ConnAckProperties {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut properties = reader.properties()?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::SessionExpiryInterval => self.session_expiry_s = Some(properties.u32()?),
                PropertyId::ReceiveMaximum => self.receive_max = Some(properties.non_zero_u16(id)?),
                PropertyId::MaximumQos => {
                    let one = properties.boolean(id)?;
                    self.qos_max = Some(if one { QoS::AtLeastOnce } else { QoS::AtMostOnce });
                }
                PropertyId::RetainAvailable => self.retain_available = Some(properties.boolean(id)?),
                PropertyId::MaximumPacketSize => self.packet_bytes_max = Some(properties.non_zero_u32(id)?),
                PropertyId::AssignedClientIdentifier => self.assigned_client_id = Some(properties.text()?),
                PropertyId::TopicAliasMaximum => self.topic_alias_max = Some(properties.u16()?),
                PropertyId::ReasonString => self.reason_string = Some(properties.text()?),
                PropertyId::WildcardSubscriptionAvailable => {
                    self.wildcard_subscription_available = Some(properties.boolean(id)?);
                }
                PropertyId::SubscriptionIdentifierAvailable => {
                    self.subscription_identifiers_available = Some(properties.boolean(id)?);
                }
                PropertyId::SharedSubscriptionAvailable => {
                    self.shared_subscription_available = Some(properties.boolean(id)?);
                }
                PropertyId::ServerKeepAlive => self.server_keep_alive_s = Some(properties.u16()?),
                PropertyId::ResponseInformation => self.response_information = Some(properties.text()?),
                PropertyId::ServerReference => self.server_reference = Some(properties.text()?),
                PropertyId::AuthenticationMethod => self.authentication_method = Some(properties.text()?),
                PropertyId::AuthenticationData => self.authentication_data = Some(properties.binary()?),
                PropertyId::UserProperty => properties.user_property(&mut self.user_properties)?,
                _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
            }
        }
        Ok(())
    }
}

impl WriteProperties for ConnAckProperties {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_s);
        sink.property_u16(PropertyId::ReceiveMaximum, self.receive_max.map(u16::from));
        // QoS 2 is said by leaving it out (MQTT 5, 3.2.2.3.4).
        let qos_max = self.qos_max.filter(|qos| *qos != QoS::ExactlyOnce);
        sink.property_u8(PropertyId::MaximumQos, qos_max.map(|qos| qos as u8));
        sink.property_bool(PropertyId::RetainAvailable, self.retain_available);
        let id = PropertyId::MaximumPacketSize;
        sink.property_non_zero_u32(id, "Maximum Packet Size", self.packet_bytes_max)?;
        sink.property_text(PropertyId::AssignedClientIdentifier, self.assigned_client_id.as_ref());
        sink.property_u16(PropertyId::TopicAliasMaximum, self.topic_alias_max);
        sink.property_text(PropertyId::ReasonString, self.reason_string.as_ref());
        sink.property_bool(PropertyId::WildcardSubscriptionAvailable, self.wildcard_subscription_available);
        let identifiers = self.subscription_identifiers_available;
        sink.property_bool(PropertyId::SubscriptionIdentifierAvailable, identifiers);
        sink.property_bool(PropertyId::SharedSubscriptionAvailable, self.shared_subscription_available);
        sink.property_u16(PropertyId::ServerKeepAlive, self.server_keep_alive_s);
        sink.property_text(PropertyId::ResponseInformation, self.response_information.as_ref());
        sink.property_text(PropertyId::ServerReference, self.server_reference.as_ref());
        sink.property_text(PropertyId::AuthenticationMethod, self.authentication_method.as_ref());
        let data = self.authentication_data.as_ref();
        sink.property_binary(PropertyId::AuthenticationData, "Authentication Data", data)?;
        sink.user_properties(&self.user_properties);
        Ok(())
    }
}
