//! CONNECT on the wire.
//!
//! Owns: protocol names and levels, connect flags, the order of the payload, the will.
//! Does not: judge what the connection judges: an empty client identifier with a session to keep is not an error here
//! [MQTT-3.1.3-8 of 3.1.1]; nor is one longer than the 23 characters of 3.1, which clients of 3.1 use.
//! Spec: MQTT 5, 3.1; MQTT 3.1.1, 3.1; MQTT 3.1, 3.1.

use super::{Connect, PacketType, ProtocolVersion, PublishProperties, QoS, Will};
use crate::decode::DecodeError;
use crate::encode::EncodeError;
use crate::property::{PropertyId, PropertyRule};
use crate::reader::Reader;
use crate::text::Text;
use crate::writer::{Sink, WriteProperties};

const NAME: &[u8] = b"MQTT";
const NAME_V31: &[u8] = b"MQIsdp";

const RESERVED: u8 = 1;
const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_QOS_SHIFT: u8 = 3;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USERNAME: u8 = 1 << 7;

impl Connect {
    /// Reads protocol name and level, which say how the rest is to be read [MQTT-3.1.2-1], [MQTT-3.1.2-2].
    pub(crate) fn decode_version(reader: &mut Reader<'_>) -> Result<ProtocolVersion, DecodeError> {
        let name = reader.binary()?;
        let level = reader.u8()?;
        match (name.as_ref(), level) {
            (NAME, 5) => Ok(ProtocolVersion::V5),
            (NAME, 4) => Ok(ProtocolVersion::V311),
            (NAME_V31, 3) => Ok(ProtocolVersion::V31),
            _ => Err(DecodeError::ProtocolVersion { level }),
        }
    }

    /// Reads what follows the level.
    pub(crate) fn decode(reader: &mut Reader<'_>, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let flags = reader.u8()?;
        check_flags(reader, flags, version)?;
        let mut connect = Self {
            version,
            clean_start: flags & CLEAN_START != 0,
            keep_alive_s: reader.u16()?,
            client_id: Text::default(),
            will: None,
            username: None,
            password: None,
            session_expiry_s: None,
            receive_max: None,
            packet_bytes_max: None,
            topic_alias_max: None,
            request_response_information: None,
            request_problem_information: None,
            authentication_method: None,
            authentication_data: None,
            user_properties: Vec::new(),
        };
        if version == ProtocolVersion::V5 {
            connect.read_properties(reader)?;
        }
        connect.client_id = reader.text()?;
        if flags & WILL != 0 {
            connect.will = Some(Will::decode(reader, flags, version)?);
        }
        // In version 3.1 the length of the packet goes before the flags: an announced field may be missing.
        let lenient = version == ProtocolVersion::V31;
        if flags & USERNAME != 0 && !(lenient && reader.is_empty()) {
            connect.username = Some(reader.text()?);
        }
        if flags & PASSWORD != 0 && !(lenient && reader.is_empty()) {
            connect.password = Some(reader.binary()?);
        }
        Ok(connect)
    }

    fn read_properties(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        let mut properties = reader.properties()?;
        while let Some(id) = properties.next()? {
            match id {
                PropertyId::SessionExpiryInterval => self.session_expiry_s = Some(properties.u32()?),
                PropertyId::ReceiveMaximum => self.receive_max = Some(properties.non_zero_u16(id)?),
                PropertyId::MaximumPacketSize => self.packet_bytes_max = Some(properties.non_zero_u32(id)?),
                PropertyId::TopicAliasMaximum => self.topic_alias_max = Some(properties.u16()?),
                PropertyId::RequestResponseInformation => {
                    self.request_response_information = Some(properties.boolean(id)?);
                }
                PropertyId::RequestProblemInformation => {
                    self.request_problem_information = Some(properties.boolean(id)?);
                }
                PropertyId::AuthenticationMethod => self.authentication_method = Some(properties.text()?),
                PropertyId::AuthenticationData => self.authentication_data = Some(properties.binary()?),
                PropertyId::UserProperty => properties.user_property(&mut self.user_properties)?,
                _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(reader.protocol("Authentication Data without a method (MQTT 5, 3.1.2.11.10)"));
        }
        Ok(())
    }

    pub(crate) fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        let v5 = self.version == ProtocolVersion::V5;
        // [MQTT-3.1.2-22 of 3.1.1]
        if self.password.is_some() && self.username.is_none() && !v5 {
            return Err(EncodeError::Missing { packet: PacketType::Connect, what: "User Name" });
        }
        sink.binary("protocol name", if self.version == ProtocolVersion::V31 { NAME_V31 } else { NAME })?;
        sink.u8(self.version as u8);
        sink.u8(self.flags());
        sink.u16(self.keep_alive_s);
        if v5 {
            self.write_with_len(sink)?;
        }
        sink.text(&self.client_id);
        if let Some(will) = &self.will {
            if v5 {
                will.write_with_len(sink)?;
            }
            sink.text(will.topic.text());
            sink.binary("Will Payload", &will.payload)?;
        }
        if let Some(username) = &self.username {
            sink.text(username);
        }
        match &self.password {
            Some(password) => sink.binary("Password", password),
            None => Ok(()),
        }
    }

    fn flags(&self) -> u8 {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let will = self
            .will
            .as_ref()
            .map_or(0, |will| WILL | (will.qos as u8) << WILL_QOS_SHIFT | flag(will.retain, WILL_RETAIN));
        flag(self.clean_start, CLEAN_START)
            | flag(self.username.is_some(), USERNAME)
            | flag(self.password.is_some(), PASSWORD)
            | will
    }
}

/// Checks that the connect flags agree with each other.
fn check_flags(reader: &Reader<'_>, flags: u8, version: ProtocolVersion) -> Result<(), DecodeError> {
    // Version 3.1 does not say what the bit must be.
    if flags & RESERVED != 0 && version != ProtocolVersion::V31 {
        return Err(reader.malformed("reserved connect flag is set [MQTT-3.1.2-3]"));
    }
    if flags & WILL == 0 {
        if flags & (0b11 << WILL_QOS_SHIFT) != 0 {
            return Err(reader.malformed("Will QoS without a will [MQTT-3.1.2-11]"));
        }
        if flags & WILL_RETAIN != 0 {
            return Err(reader.malformed("Will Retain without a will [MQTT-3.1.2-13]"));
        }
    }
    if flags & PASSWORD != 0 && flags & USERNAME == 0 && version != ProtocolVersion::V5 {
        return Err(reader.malformed("password without a user name [MQTT-3.1.2-22 of 3.1.1]"));
    }
    Ok(())
}

impl WriteProperties for Connect {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(EncodeError::Missing { packet: PacketType::Connect, what: "Authentication Method" });
        }
        sink.property_u32(PropertyId::SessionExpiryInterval, self.session_expiry_s);
        sink.property_u16(PropertyId::ReceiveMaximum, self.receive_max.map(u16::from));
        let id = PropertyId::MaximumPacketSize;
        sink.property_non_zero_u32(id, "Maximum Packet Size", self.packet_bytes_max)?;
        sink.property_u16(PropertyId::TopicAliasMaximum, self.topic_alias_max);
        sink.property_bool(PropertyId::RequestResponseInformation, self.request_response_information);
        sink.property_bool(PropertyId::RequestProblemInformation, self.request_problem_information);
        sink.property_text(PropertyId::AuthenticationMethod, self.authentication_method.as_ref());
        let data = self.authentication_data.as_ref();
        sink.property_binary(PropertyId::AuthenticationData, "Authentication Data", data)?;
        sink.user_properties(&self.user_properties);
        Ok(())
    }
}

impl Will {
    fn decode(reader: &mut Reader<'_>, flags: u8, version: ProtocolVersion) -> Result<Self, DecodeError> {
        let Some(qos) = QoS::from_value(flags >> WILL_QOS_SHIFT & 0b11) else {
            return Err(reader.malformed("Will QoS 3 [MQTT-3.1.2-12]"));
        };
        let mut delay_s = None;
        let mut message = PublishProperties::default();
        if version == ProtocolVersion::V5 {
            let mut properties = reader.properties()?;
            while let Some(id) = properties.next()? {
                match id {
                    PropertyId::WillDelayInterval => delay_s = Some(properties.u32()?),
                    PropertyId::MessageExpiryInterval => message.message_expiry_s = Some(properties.u32()?),
                    _ => message.read_forwarded(id, &mut properties)?,
                }
            }
        }
        let topic = reader.topic_name()?;
        let payload = reader.binary()?;
        Ok(Self { topic, payload, qos, retain: flags & WILL_RETAIN != 0, delay_s, properties: message })
    }
}

impl WriteProperties for Will {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_u32(PropertyId::WillDelayInterval, self.delay_s);
        sink.property_u32(PropertyId::MessageExpiryInterval, self.properties.message_expiry_s);
        self.properties.write_forwarded(sink)
    }
}
