//! AUTH on the wire, 5.0 only.
//!
//! Owns: its long and short forms. Spec: MQTT 5, 3.15 and 4.12.

use super::{Auth, PacketType, ProtocolVersion, Role};
use crate::decode::DecodeError;
use crate::encode::{EncodeError, reason_for};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::reason::ReasonCode;
use crate::writer::{Sink, WriteProperties};

impl Auth {
    pub(crate) fn decode(reader: &mut Reader<'_>, sender: Role) -> Result<Self, DecodeError> {
        let mut auth = Self {
            reason: ReasonCode::SUCCESS,
            method: None,
            data: None,
            reason_string: None,
            user_properties: Vec::new(),
        };
        let value = if reader.is_empty() { 0 } else { reader.u8()? };
        auth.reason = ReasonCode::from_value(value)
            .filter(|reason| reason.may_come_from(sender, PacketType::Auth))
            .ok_or_else(|| reader.protocol("reason code that this side may not send [MQTT-3.15.2-1]"))?;
        if !reader.is_empty() {
            let mut properties = reader.properties()?;
            while let Some(id) = properties.next()? {
                match id {
                    PropertyId::AuthenticationMethod => auth.method = Some(properties.text()?),
                    PropertyId::AuthenticationData => auth.data = Some(properties.binary()?),
                    PropertyId::ReasonString => auth.reason_string = Some(properties.text()?),
                    PropertyId::UserProperty => properties.user_property(&mut auth.user_properties)?,
                    _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
                }
            }
        }
        if auth.method.is_none() && auth.needs_method() {
            return Err(reader.protocol("no Authentication Method (MQTT 5, 3.15.2.2.2)"));
        }
        Ok(auth)
    }

    /// Only a packet without anything may leave out the method.
    fn needs_method(&self) -> bool {
        self.reason != ReasonCode::SUCCESS
            || self.data.is_some()
            || self.reason_string.is_some()
            || !self.user_properties.is_empty()
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        let packet = PacketType::Auth;
        if version != ProtocolVersion::V5 {
            return Err(EncodeError::NotInVersion { packet, version });
        }
        let reason = reason_for(packet, self.reason)?;
        if self.method.is_none() {
            if self.needs_method() {
                return Err(EncodeError::Missing { packet, what: "Authentication Method" });
            }
            return Ok(());
        }
        sink.u8(reason);
        self.write_with_len(sink)
    }
}

impl WriteProperties for Auth {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_text(PropertyId::AuthenticationMethod, self.method.as_ref());
        sink.property_binary(PropertyId::AuthenticationData, "Authentication Data", self.data.as_ref())?;
        sink.property_text(PropertyId::ReasonString, self.reason_string.as_ref());
        sink.user_properties(&self.user_properties);
        Ok(())
    }
}
