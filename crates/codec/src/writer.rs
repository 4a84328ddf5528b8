//! Writing the data types of MQTT (MQTT 5, 1.5), or only counting their bytes.
//!
//! Owns: the [`Sink`] that each packet writes itself into. A length that stands before its content is found by writing
//! the content into a [`Count`] first, so there is one list of fields for both.
//! Does not: know packets. Spec: MQTT 5, 1.5 and 2.2.2.

use bytes::{BufMut, Bytes, BytesMut};

use crate::encode::EncodeError;
use crate::limits::VARINT_MAX;
use crate::packet::UserProperties;
use crate::property::PropertyId;
use crate::text::Text;
use crate::topic::TopicName;

/// Where the bytes of a packet go.
pub(crate) trait Sink {
    /// Appends bytes.
    fn put(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// A variable byte integer, which the caller has found to be at most `VARINT_MAX` [MQTT-1.5.5-1].
    fn varint(&mut self, mut value: u32) {
        debug_assert!(value <= VARINT_MAX, "checked by the caller");
        while value >= 0x80 {
            self.u8(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.u8(value.to_le_bytes()[0]);
    }

    /// A UTF-8 encoded string.
    fn text(&mut self, text: &Text) {
        self.u16(u16::try_from(text.len()).expect("a text is never longer than its length can say"));
        self.put(text.as_bytes());
    }

    /// Binary data.
    fn binary(&mut self, what: &'static str, bytes: &[u8]) -> Result<(), EncodeError> {
        let len =
            u16::try_from(bytes.len()).map_err(|_| EncodeError::TooLong { what, bytes: bytes.len() })?;
        self.u16(len);
        self.put(bytes);
        Ok(())
    }

    fn property_u8(&mut self, id: PropertyId, value: Option<u8>) {
        if let Some(value) = value {
            self.put(&[id as u8, value]);
        }
    }

    fn property_bool(&mut self, id: PropertyId, value: Option<bool>) {
        self.property_u8(id, value.map(u8::from));
    }

    fn property_u16(&mut self, id: PropertyId, value: Option<u16>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u16(value);
        }
    }

    fn property_u32(&mut self, id: PropertyId, value: Option<u32>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.u32(value);
        }
    }

    /// A number that may not be 0.
    fn property_non_zero_u32(
        &mut self,
        id: PropertyId,
        what: &'static str,
        value: Option<u32>,
    ) -> Result<(), EncodeError> {
        if value == Some(0) {
            return Err(EncodeError::Value { what });
        }
        self.property_u32(id, value);
        Ok(())
    }

    /// A subscription identifier, 1 to 268,435,455.
    fn property_subscription_identifier(&mut self, value: u32) -> Result<(), EncodeError> {
        if value == 0 || value > VARINT_MAX {
            return Err(EncodeError::Value { what: "Subscription Identifier" });
        }
        self.u8(PropertyId::SubscriptionIdentifier as u8);
        self.varint(value);
        Ok(())
    }

    fn property_text(&mut self, id: PropertyId, value: Option<&Text>) {
        if let Some(value) = value {
            self.u8(id as u8);
            self.text(value);
        }
    }

    fn property_topic(&mut self, id: PropertyId, value: Option<&TopicName>) {
        self.property_text(id, value.map(TopicName::text));
    }

    fn property_binary(
        &mut self,
        id: PropertyId,
        what: &'static str,
        value: Option<&Bytes>,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                self.u8(id as u8);
                self.binary(what, value)
            }
            None => Ok(()),
        }
    }

    /// In their order [MQTT-3.3.2-18].
    fn user_properties(&mut self, properties: &UserProperties) {
        for (name, value) in properties {
            self.u8(PropertyId::UserProperty as u8);
            self.text(name);
            self.text(value);
        }
    }
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.put_u8(value);
    }
}

/// A sink that only counts.
#[derive(Default)]
pub(crate) struct Count(pub usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }
}

/// A list of properties.
pub(crate) trait WriteProperties {
    /// Writes the properties that are there, without the length before them.
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError>;

    /// Their length in bytes.
    fn len(&self) -> Result<u32, EncodeError> {
        let mut count = Count::default();
        self.write(&mut count)?;
        varint_of(count.0)
    }

    /// Writes the length and the properties [MQTT-2.2.2-1].
    fn write_with_len<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.varint(self.len()?);
        self.write(sink)
    }
}

/// Reason String and user properties: all that many packets have.
pub(crate) struct Problem<'a> {
    pub reason_string: Option<&'a Text>,
    pub user_properties: &'a UserProperties,
}

impl Problem<'_> {
    pub fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user_properties.is_empty()
    }
}

impl WriteProperties for Problem<'_> {
    fn write<S: Sink>(&self, sink: &mut S) -> Result<(), EncodeError> {
        sink.property_text(PropertyId::ReasonString, self.reason_string);
        sink.user_properties(self.user_properties);
        Ok(())
    }
}

/// A length as the value of a variable byte integer.
pub(crate) fn varint_of(bytes: usize) -> Result<u32, EncodeError> {
    match u32::try_from(bytes) {
        Ok(value) if value <= VARINT_MAX => Ok(value),
        _ => Err(EncodeError::TooLong { what: "packet", bytes }),
    }
}

/// Bytes that a variable byte integer takes.
pub(crate) fn varint_len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}
