//! PUBLISH on the wire.
//!
//! Owns: its form in each version; the properties that a broker keeps and forwards; writing without a [`Publish`].
//! Does not: resolve topic aliases. Spec: MQTT 5, 3.3; MQTT 3.1.1, 3.3; MQTT 3.1, 3.3.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};

use super::{PacketType, ProtocolVersion, Publish, PublishProperties, PublishQoS, Role};
use crate::decode::DecodeError;
use crate::encode::EncodeError;
use crate::limits::{Limits, VARINT_MAX};
use crate::property::{PropertyId, PropertyRule};
use crate::reader::{PropertyReader, Reader};
use crate::topic::TopicName;
use crate::writer::{Sink, WriteProperties, varint_len, varint_of};

const RETAIN: u8 = 1;
const QOS_SHIFT: u8 = 1;
const DUP: u8 = 1 << 3;

/// All of a PUBLISH, borrowed from where it is kept: what a broker sends many times.
#[derive(Clone, Copy, Debug)]
pub struct PublishParts<'a> {
    /// Re-delivery of an earlier attempt.
    pub dup: bool,
    /// QoS with its packet identifier.
    pub qos: PublishQoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name; `None` if the alias stands for it (5.0 only).
    pub topic: Option<&'a TopicName>,
    /// Topic alias.
    pub topic_alias: Option<NonZeroU16>,
    /// What is left of the Message Expiry Interval, in seconds [MQTT-3.3.2-6].
    pub message_expiry_s: Option<u32>,
    /// Identifiers of the subscriptions that match, 1 to 268,435,455 each [MQTT-3.3.4-3].
    pub subscription_identifiers: &'a [u32],
    /// Other properties, as [`PublishProperties::encode_forwarded`] wrote them.
    pub forwarded: &'a [u8],
    /// Application message.
    pub payload: &'a [u8],
}

impl Publish {
    /// Reads the body; the flags in the first byte have been checked.
    pub(crate) fn decode(
        reader: &mut Reader<'_>,
        first: u8,
        version: ProtocolVersion,
        sender: Role,
    ) -> Result<Self, DecodeError> {
        let v5 = version == ProtocolVersion::V5;
        let topic = if v5 { reader.topic_name_or_empty()? } else { Some(reader.topic_name()?) };
        let qos = match first >> QOS_SHIFT & 0b11 {
            0 => PublishQoS::AtMostOnce,
            1 => PublishQoS::AtLeastOnce(reader.packet_id()?),
            _ => PublishQoS::ExactlyOnce(reader.packet_id()?),
        };
        let properties = if v5 { PublishProperties::decode(reader, sender)? } else { None };
        if topic.is_none() && properties.as_ref().is_none_or(|properties| properties.topic_alias.is_none()) {
            return Err(reader.protocol("neither topic name nor topic alias (MQTT 5, 3.3.2.1)"));
        }
        let (dup, retain) = (first & DUP != 0, first & RETAIN != 0);
        Ok(Self { dup, qos, retain, topic, properties, payload: reader.rest() })
    }

    /// The parts, but for the properties.
    pub(crate) fn parts(&self) -> PublishParts<'_> {
        PublishParts {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic.as_ref(),
            topic_alias: None,
            message_expiry_s: None,
            subscription_identifiers: &[],
            forwarded: &[],
            payload: &self.payload,
        }
    }

    /// Writes the body.
    pub(crate) fn write<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        let properties = self.properties.as_deref();
        let alias = properties.and_then(|properties| properties.topic_alias);
        PublishParts { topic_alias: alias, ..self.parts() }.write_topic(version, sink)?;
        if version == ProtocolVersion::V5 {
            match properties {
                Some(properties) => properties.write_with_len(sink)?,
                None => sink.varint(0),
            }
        }
        sink.put(&self.payload);
        Ok(())
    }
}

impl PublishParts<'_> {
    /// Size of the packet, fixed header included, in bytes.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    pub fn encoded_len(&self, version: ProtocolVersion) -> Result<usize, EncodeError> {
        let (_, remaining) = self.lengths(version)?;
        Ok(1 + varint_len(remaining) + remaining as usize)
    }

    /// Writes the packet.
    pub(crate) fn write(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), EncodeError> {
        let first = self.first_byte()?;
        let (properties, remaining) = self.lengths(version)?;
        self.check_topic(version)?;
        out.reserve(1 + varint_len(remaining) + remaining as usize);
        out.u8(first);
        out.varint(remaining);
        self.write_topic(version, out)?;
        if version == ProtocolVersion::V5 {
            out.varint(properties);
            out.property_u16(PropertyId::TopicAlias, self.topic_alias.map(u16::from));
            out.property_u32(PropertyId::MessageExpiryInterval, self.message_expiry_s);
            for identifier in self.subscription_identifiers {
                out.property_subscription_identifier(*identifier)?;
            }
            out.put(self.forwarded);
        }
        out.put(self.payload);
        Ok(())
    }

    /// Type and flags [MQTT-3.3.1-2].
    pub(crate) fn first_byte(&self) -> Result<u8, EncodeError> {
        let level = self.qos.level() as u8;
        if self.dup && level == 0 {
            return Err(EncodeError::Value { what: "DUP" });
        }
        let dup = if self.dup { DUP } else { 0 };
        Ok((PacketType::Publish as u8) << 4 | dup | level << QOS_SHIFT | u8::from(self.retain))
    }

    /// Length of the properties without their length field, and the remaining length.
    fn lengths(&self, version: ProtocolVersion) -> Result<(u32, u32), EncodeError> {
        let topic = self.topic.map_or(0, |topic| topic.text().len());
        let packet_id = if self.qos.packet_id().is_some() { 2 } else { 0 };
        let rest = 2 + topic + packet_id + self.payload.len();
        if version != ProtocolVersion::V5 {
            return Ok((0, varint_of(rest)?));
        }
        let mut properties = self.forwarded.len();
        properties += if self.topic_alias.is_some() { 3 } else { 0 };
        properties += if self.message_expiry_s.is_some() { 5 } else { 0 };
        for identifier in self.subscription_identifiers {
            if *identifier == 0 || *identifier > VARINT_MAX {
                return Err(EncodeError::Value { what: "Subscription Identifier" });
            }
            properties += 1 + varint_len(*identifier);
        }
        let properties = varint_of(properties)?;
        let remaining = varint_of(rest + varint_len(properties) + properties as usize)?;
        Ok((properties, remaining))
    }

    /// There is a topic name, or in 5.0 an alias.
    fn check_topic(&self, version: ProtocolVersion) -> Result<(), EncodeError> {
        let alias = version == ProtocolVersion::V5 && self.topic_alias.is_some();
        if self.topic.is_none() && !alias {
            return Err(EncodeError::Missing { packet: PacketType::Publish, what: "topic name" });
        }
        Ok(())
    }

    /// Writes topic name and packet identifier.
    fn write_topic<S: Sink>(&self, version: ProtocolVersion, sink: &mut S) -> Result<(), EncodeError> {
        self.check_topic(version)?;
        match self.topic {
            Some(topic) => sink.text(topic.text()),
            None => sink.u16(0),
        }
        if let Some(packet_id) = self.qos.packet_id() {
            sink.u16(packet_id.get());
        }
        Ok(())
    }
}

impl PublishProperties {
    /// Reads the list of properties; `None` if it is empty.
    fn decode(reader: &mut Reader<'_>, sender: Role) -> Result<Option<Box<Self>>, DecodeError> {
        let mut properties = reader.properties()?;
        let Some(first) = properties.next()? else {
            return Ok(None);
        };
        let mut message = Box::<Self>::default();
        let mut next = Some(first);
        while let Some(id) = next {
            match id {
                PropertyId::TopicAlias => message.topic_alias = Some(properties.topic_alias()?),
                PropertyId::MessageExpiryInterval => message.message_expiry_s = Some(properties.u32()?),
                // Only a server may send it; from a client it is a protocol error (3.3.4) [MQTT-3.3.4-6].
                PropertyId::SubscriptionIdentifier => {
                    if sender == Role::Client {
                        return Err(properties.wrong(id, PropertyRule::Sender));
                    }
                    message.subscription_identifiers.push(properties.non_zero_varint(id)?);
                }
                _ => message.read_forwarded(id, &mut properties)?,
            }
            next = properties.next()?;
        }
        Ok(Some(message))
    }

    /// Reads the value of one of the properties that go on unchanged to subscribers.
    pub(crate) fn read_forwarded(
        &mut self,
        id: PropertyId,
        properties: &mut PropertyReader<'_, '_>,
    ) -> Result<(), DecodeError> {
        match id {
            PropertyId::PayloadFormatIndicator => self.payload_is_utf8 = Some(properties.boolean(id)?),
            PropertyId::ContentType => self.content_type = Some(properties.text()?),
            PropertyId::ResponseTopic => self.response_topic = Some(properties.topic_name(id)?), // [MQTT-3.3.2-14]
            PropertyId::CorrelationData => self.correlation_data = Some(properties.binary()?),
            PropertyId::UserProperty => properties.user_property(&mut self.user_properties)?,
            _ => return Err(properties.wrong(id, PropertyRule::Misplaced)),
        }
        Ok(())
    }

    /// Writes the properties that go on unchanged to subscribers.
    pub(crate) fn write_forwarded<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_bool(PropertyId::PayloadFormatIndicator, self.payload_is_utf8);
        sink.property_text(PropertyId::ContentType, self.content_type.as_ref());
        sink.property_topic(PropertyId::ResponseTopic, self.response_topic.as_ref());
        let data = self.correlation_data.as_ref();
        sink.property_binary(PropertyId::CorrelationData, "Correlation Data", data)?;
        sink.user_properties(&self.user_properties);
        Ok(())
    }

    /// Appends what a broker keeps and forwards unchanged: payload format, content type, response topic, correlation
    /// data and user properties ([MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-20]), as
    /// on the wire but without a length before them. Not the expiry, of which less is left at each forwarding, and
    /// nothing that is valid for one connection only (topic alias, subscription identifiers). Often nothing at all.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`], never for properties that were decoded.
    pub fn encode_forwarded(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        let before = out.len();
        let written = self.write_forwarded(out);
        if written.is_err() {
            out.truncate(before);
        }
        written
    }

    /// Reads what [`Self::encode_forwarded`] wrote, sharing the bytes.
    ///
    /// # Errors
    /// [`DecodeError`] for anything else.
    pub fn decode_forwarded(bytes: &Bytes) -> Result<Self, DecodeError> {
        let limits = Limits::of_protocol();
        let mut reader = Reader::new(PacketType::Publish, bytes.clone(), &limits);
        let mut properties = reader.all_as_properties();
        let mut message = Self::default();
        while let Some(id) = properties.next()? {
            message.read_forwarded(id, &mut properties)?;
        }
        Ok(message)
    }
}

impl WriteProperties for PublishProperties {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_u16(PropertyId::TopicAlias, self.topic_alias.map(u16::from));
        sink.property_u32(PropertyId::MessageExpiryInterval, self.message_expiry_s);
        for identifier in &self.subscription_identifiers {
            sink.property_subscription_identifier(*identifier)?;
        }
        self.write_forwarded(sink)
    }
}
