//! Cursor over the body of one received packet.
//!
//! Owns: reading the data types of MQTT (MQTT 5, 1.5) and lists of properties (MQTT 5, 2.2.2).
//! Does not: know which fields a packet has.
//! Invariants: never reads outside the packet, nor outside the list of properties while it reads one; copies nothing.
//! Limits: [`Limits`]; the levels of topics and the user properties are checked here.
//! Spec: MQTT 5, 1.5 and 2.2.2.

use std::num::NonZeroU16;

use bytes::{Buf, Bytes};

use crate::decode::DecodeError;
use crate::limits::Limits;
use crate::packet::{PacketId, PacketType, UserProperties};
use crate::property::{PropertyId, PropertyRule};
use crate::text::{self, Text};
use crate::topic::{self, TopicFilter, TopicName};

/// What is wrong with a packet that is too short for its fields.
const CUT_SHORT: &str = "it ends inside a field";

/// The body of a packet and how far it has been read.
pub(crate) struct Reader<'a> {
    packet: PacketType,
    limits: &'a Limits,
    body: Bytes,
    at: usize,
    /// Where the body ends, or the list of properties being read.
    end: usize,
}

impl<'a> Reader<'a> {
    pub fn new(packet: PacketType, body: Bytes, limits: &'a Limits) -> Self {
        let end = body.len();
        Self { packet, limits, body, at: 0, end }
    }

    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.end - self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// The error for a packet that breaks a rule of form.
    pub fn malformed(&self, rule: &'static str) -> DecodeError {
        DecodeError::Malformed { packet: self.packet, rule }
    }

    /// The error for a packet that breaks a rule of content.
    pub fn protocol(&self, rule: &'static str) -> DecodeError {
        DecodeError::Protocol { packet: self.packet, rule }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.body.get(self.at..self.end).and_then(|left| left.first_chunk::<N>());
        let Some(bytes) = bytes else {
            return Err(self.malformed(CUT_SHORT));
        };
        self.at += N;
        Ok(*bytes)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer.
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        match varint(self.body.get(self.at..self.end).unwrap_or_default()) {
            Ok(Some((value, bytes))) => {
                self.at += bytes;
                Ok(value)
            }
            Ok(None) => Err(self.malformed(CUT_SHORT)),
            Err(VarintError) => Err(self.malformed(VARINT_RULE)),
        }
    }

    /// This many bytes, shared.
    fn bytes(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.left() {
            return Err(self.malformed(CUT_SHORT));
        }
        let bytes = self.body.slice(self.at..self.at + len);
        self.at += len;
        Ok(bytes)
    }

    /// Binary data: two bytes of length, then the bytes.
    pub fn binary(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// A UTF-8 encoded string.
    pub fn text(&mut self) -> Result<Text, DecodeError> {
        let bytes = self.binary()?;
        match text::check(&bytes) {
            Ok(()) => Ok(text::checked(bytes)),
            Err(source) => Err(DecodeError::Text { packet: self.packet, source }),
        }
    }

    /// A packet identifier [MQTT-2.2.1-3].
    pub fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        let id = self.u16()?;
        NonZeroU16::new(id).ok_or_else(|| self.malformed("packet identifier 0 [MQTT-2.2.1-3]"))
    }

    /// A topic name.
    pub fn topic_name(&mut self) -> Result<TopicName, DecodeError> {
        let text = self.text()?;
        match topic::check_name(text.as_bytes(), self.limits.topic_levels_max) {
            Ok(()) => Ok(TopicName::checked(text)),
            Err(source) => Err(DecodeError::TopicName { packet: self.packet, source }),
        }
    }

    /// A topic name, or the empty one that a topic alias stands for.
    pub fn topic_name_or_empty(&mut self) -> Result<Option<TopicName>, DecodeError> {
        if self.body.get(self.at..self.end).is_some_and(|left| left.starts_with(&[0, 0])) {
            self.at += 2;
            return Ok(None);
        }
        self.topic_name().map(Some)
    }

    /// A topic filter.
    pub fn topic_filter(&mut self) -> Result<TopicFilter, DecodeError> {
        let text = self.text()?;
        TopicFilter::new_within(text, self.limits.topic_levels_max)
            .map_err(|source| DecodeError::TopicFilter { packet: self.packet, source })
    }

    /// All bytes that are left, shared; the reader is then empty. Only outside a list of properties.
    pub fn rest(&mut self) -> Bytes {
        let mut rest = std::mem::take(&mut self.body);
        rest.advance(self.at);
        self.at = 0;
        self.end = 0;
        rest
    }

    /// Nothing may be left.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(self.malformed("bytes after the last field")) }
    }

    /// The list of properties that begins here, with its length before it [MQTT-2.2.2-1].
    pub fn properties(&mut self) -> Result<PropertyReader<'a, '_>, DecodeError> {
        let len = self.varint()? as usize;
        if len > self.left() {
            return Err(self.malformed("the properties are longer than the packet"));
        }
        let outer_end = std::mem::replace(&mut self.end, self.at + len);
        Ok(PropertyReader { reader: self, outer_end, seen: 0, user_property_bytes: 0 })
    }

    /// All bytes that are left as a list of properties.
    pub fn all_as_properties(&mut self) -> PropertyReader<'a, '_> {
        let outer_end = self.end;
        PropertyReader { reader: self, outer_end, seen: 0, user_property_bytes: 0 }
    }
}

/// Reads one list of properties: [`Self::next`] gives the identifier, the caller then reads the value of its type.
pub(crate) struct PropertyReader<'a, 'b> {
    reader: &'b mut Reader<'a>,
    outer_end: usize,
    /// One bit for each identifier that has been seen.
    seen: u64,
    user_property_bytes: usize,
}

impl PropertyReader<'_, '_> {
    /// The identifier of the next property; none twice but User Property and Subscription Identifier, about which
    /// the caller decides.
    pub fn next(&mut self) -> Result<Option<PropertyId>, DecodeError> {
        if self.reader.is_empty() {
            self.reader.end = self.outer_end;
            return Ok(None);
        }
        // A variable byte integer; all known identifiers have one byte, and longer forms of them are malformed.
        let value = self.reader.u8()?;
        let Some(id) = PropertyId::from_value(value) else {
            return Err(self.error(value, PropertyRule::Unknown));
        };
        let bit = 1_u64 << value;
        let repeatable = matches!(id, PropertyId::UserProperty | PropertyId::SubscriptionIdentifier);
        if self.seen & bit != 0 && !repeatable {
            return Err(self.wrong(id, PropertyRule::Twice));
        }
        self.seen |= bit;
        Ok(Some(id))
    }

    /// The error for a property that breaks this rule.
    pub fn wrong(&self, id: PropertyId, rule: PropertyRule) -> DecodeError {
        self.error(id as u8, rule)
    }

    fn error(&self, id: u8, rule: PropertyRule) -> DecodeError {
        DecodeError::Property { packet: self.reader.packet, id, rule }
    }

    /// A byte that is 0 or 1.
    pub fn boolean(&mut self, id: PropertyId) -> Result<bool, DecodeError> {
        match self.reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.wrong(id, PropertyRule::Value)),
        }
    }

    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.reader.u16()
    }

    pub fn non_zero_u16(&mut self, id: PropertyId) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.reader.u16()?).ok_or_else(|| self.wrong(id, PropertyRule::Value))
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.reader.u32()
    }

    pub fn non_zero_u32(&mut self, id: PropertyId) -> Result<u32, DecodeError> {
        match self.reader.u32()? {
            0 => Err(self.wrong(id, PropertyRule::Value)),
            value => Ok(value),
        }
    }

    /// A variable byte integer other than 0.
    pub fn non_zero_varint(&mut self, id: PropertyId) -> Result<u32, DecodeError> {
        match self.reader.varint()? {
            0 => Err(self.wrong(id, PropertyRule::Value)),
            value => Ok(value),
        }
    }

    pub fn binary(&mut self) -> Result<Bytes, DecodeError> {
        self.reader.binary()
    }

    pub fn text(&mut self) -> Result<Text, DecodeError> {
        self.reader.text()
    }

    /// A topic alias, which is not 0 [MQTT-3.3.2-8].
    pub fn topic_alias(&mut self) -> Result<NonZeroU16, DecodeError> {
        NonZeroU16::new(self.reader.u16()?).ok_or(DecodeError::TopicAlias)
    }

    /// A topic name as the value of a property.
    pub fn topic_name(&mut self, id: PropertyId) -> Result<TopicName, DecodeError> {
        let text = self.reader.text()?;
        match topic::check_name(text.as_bytes(), self.reader.limits.topic_levels_max) {
            Ok(()) => Ok(TopicName::checked(text)),
            Err(_) => Err(self.wrong(id, PropertyRule::Value)),
        }
    }

    /// A user property, which is put behind those already read, in order [MQTT-3.3.2-18].
    pub fn user_property(&mut self, properties: &mut UserProperties) -> Result<(), DecodeError> {
        let limits = self.reader.limits;
        let name = self.reader.text()?;
        let value = self.reader.text()?;
        self.user_property_bytes += name.len() + value.len();
        if properties.len() >= limits.user_properties_max
            || self.user_property_bytes > limits.user_property_bytes_max
        {
            return Err(DecodeError::Quota { packet: self.reader.packet, what: "user properties" });
        }
        properties.push((name, value));
        Ok(())
    }
}

/// What a variable byte integer may not be.
pub(crate) const VARINT_RULE: &str = "variable byte integer of more bytes than it needs [MQTT-1.5.5-1]";

/// A variable byte integer of more than four bytes, or of more than it needs [MQTT-1.5.5-1].
pub(crate) struct VarintError;

/// The variable byte integer at the start of these bytes and its length, or `None` if it is not all there.
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(u32, usize)>, VarintError> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let overlong = *byte == 0 && index > 0;
            return if overlong { Err(VarintError) } else { Ok(Some((value, index + 1))) };
        }
    }
    if bytes.len() >= 4 { Err(VarintError) } else { Ok(None) }
}
