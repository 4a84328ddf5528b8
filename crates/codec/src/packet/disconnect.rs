//! DISCONNECT on the wire.
//!
//! Owns: its long and short forms, and what each side may say. Spec: MQTT 5, 3.14; MQTT 3.1.1, 3.14.

use super::{Disconnect, PacketType, ProtocolVersion, Role};
use crate::decode::DecodeError;
use crate::encode::{EncodeError, reason_for};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::reason::ReasonCode;
use crate::writer::{Sink, WriteProperties};

impl Disconnect {
    pub(crate) fn decode(
        reader: &mut Reader<'_>,
        version: ProtocolVersion,
        sender: Role,
    ) -> Result<Self, DecodeError> {
        let mut disconnect = Self {
            reason: ReasonCode::NORMAL_DISCONNECTION,
            session_expiry_s: None,
            reason_string: None,
            server_reference: None,
            user_properties: Vec::new(),
        };
        if version != ProtocolVersion::V5 || reader.is_empty() {
            return Ok(disconnect);
        }
        let value = reader.u8()?;
        disconnect.reason = ReasonCode::from_value(value)
            .filter(|reason| reason.may_come_from(sender, PacketType::Disconnect))
            .ok_or_else(|| reader.protocol("reason code that this side may not send [MQTT-3.14.2-1]"))?;
        // Without properties their length may be left out too (MQTT 5, 3.14.2.2.1).
        if reader.is_empty() {
            return Ok(disconnect);
        }
        let mut properties = reader.properties()?;
        while let Some(id) = properties.next()? {
            match (id, sender) {
                // [MQTT-3.14.2-2]
                (PropertyId::SessionExpiryInterval, Role::Client) => {
                    disconnect.session_expiry_s = Some(properties.u32()?);
                }
                (PropertyId::ServerReference, Role::Server) => {
                    disconnect.server_reference = Some(properties.text()?);
                }
                (PropertyId::ReasonString, _) => disconnect.reason_string = Some(properties.text()?),
                (PropertyId::UserProperty, _) => properties.user_property(&mut disconnect.user_properties)?,
                _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
            }
        }
        Ok(disconnect)
    }

    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        let packet = PacketType::Disconnect;
        if version != ProtocolVersion::V5 {
            if self.reason != ReasonCode::NORMAL_DISCONNECTION {
                return Err(EncodeError::NotInVersion { packet, version });
            }
            return Ok(());
        }
        let reason = reason_for(packet, self.reason)?;
        let properties = self.len()?;
        if properties > 0 {
            sink.u8(reason);
            return self.write_with_len(sink);
        }
        if reason != 0 {
            sink.u8(reason);
        }
        Ok(())
    }
}

impl WriteProperties for Disconnect {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_s);
        sink.property_text(PropertyId::ServerReference, self.server_reference.as_ref());
        sink.property_text(PropertyId::ReasonString, self.reason_string.as_ref());
        sink.user_properties(&self.user_properties);
        Ok(())
    }
}
