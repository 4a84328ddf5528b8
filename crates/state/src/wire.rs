//! Reading and writing the fields of entries and checkpoint records: little-endian, fixed size, length before bytes.
//!
//! Owns: the cursor over received bytes and the writers of fields. Does not: know any command.
//! Invariants: reading never panics, never reads outside its window, and allocates only in proportion to it.
//! See: docs/formats/entry.md.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{
    PacketId, QoS, ReasonCode, RetainHandling, SubscriptionOptions, Text, TopicFilter, TopicName,
};
use thiserror::Error;

/// Why bytes are not an entry, a command or a record. Entries are written by this program only, so each of these
/// means damage or a newer version.
#[derive(Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The version byte is not one this program reads.
    #[error("version {0} of the format is not known")]
    Version(u8),
    /// A field reaches beyond the end.
    #[error("the bytes end within the field at byte {at}")]
    Truncated {
        /// Where the field begins.
        at: usize,
    },
    /// A tag or enumeration byte has no meaning.
    #[error("byte {at} has the unknown value {tag}")]
    Tag {
        /// The byte.
        tag: u8,
        /// Its place.
        at: usize,
    },
    /// Not UTF-8, or with U+0000.
    #[error("the text at byte {at} is not valid")]
    Text {
        /// Where the text begins.
        at: usize,
    },
    /// Against the rules of topic names or filters.
    #[error("the topic at byte {at} is not valid")]
    Topic {
        /// Where the topic begins.
        at: usize,
    },
    /// A packet identifier of 0.
    #[error("the packet identifier at byte {at} is 0")]
    PacketId {
        /// Its place.
        at: usize,
    },
    /// Items that must ascend do not, or refer to what is not there.
    #[error("the items at byte {at} contradict each other")]
    Order {
        /// Where they begin.
        at: usize,
    },
    /// More bytes than the value has.
    #[error("{bytes} bytes follow the end")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// A window of bytes, read from the front. Positions in errors and offsets count from the start of `data`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    data: &'a Bytes,
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(data: &'a Bytes) -> Self {
        Self { data, at: 0, end: data.len() }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.end - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// The value is read: nothing may follow.
    pub(crate) fn done(&self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { bytes: self.remaining() }) }
    }

    /// A reader of nothing, where this one ends.
    pub(crate) fn end(&self) -> Self {
        Self { at: self.end, ..*self }
    }

    fn advance(&mut self, count: usize) -> Result<usize, DecodeError> {
        let from = self.at;
        if count > self.remaining() {
            return Err(DecodeError::Truncated { at: from });
        }
        self.at = from + count;
        Ok(from)
    }

    /// The next `count` bytes, borrowed.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let from = self.advance(count)?;
        self.data.get(from..self.at).ok_or(DecodeError::Truncated { at: from })
    }

    /// The next `count` bytes, sharing the storage of the data.
    pub(crate) fn shared(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        let from = self.advance(count)?;
        Ok(self.data.slice(from..self.at))
    }

    /// A reader of the next `count` bytes alone.
    pub(crate) fn window(&mut self, count: usize) -> Result<Self, DecodeError> {
        let from = self.advance(count)?;
        Ok(Self { data: self.data, at: from, end: self.at })
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let at = self.at;
        self.bytes(N)?.try_into().map_err(|_| DecodeError::Truncated { at })
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length or a count; on the machines this runs on, a `u32` fits.
    pub(crate) fn length(&mut self) -> Result<usize, DecodeError> {
        let at = self.at;
        usize::try_from(self.u32()?).map_err(|_| DecodeError::Truncated { at })
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        let at = self.at;
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::Tag { tag, at }),
        }
    }

    pub(crate) fn optional_u32(&mut self) -> Result<Option<u32>, DecodeError> {
        if self.flag()? { self.u32().map(Some) } else { Ok(None) }
    }

    /// A text, borrowed and only checked to be UTF-8.
    pub(crate) fn str(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.u16()?;
        let at = self.at;
        std::str::from_utf8(self.bytes(usize::from(length))?).map_err(|_| DecodeError::Text { at })
    }

    pub(crate) fn text(&mut self) -> Result<Text, DecodeError> {
        let length = self.u16()?;
        let at = self.at;
        Text::new(self.shared(usize::from(length))?).map_err(|_| DecodeError::Text { at })
    }

    pub(crate) fn topic_name(&mut self) -> Result<TopicName, DecodeError> {
        let at = self.at;
        TopicName::new(self.text()?).map_err(|_| DecodeError::Topic { at })
    }

    pub(crate) fn topic_filter(&mut self) -> Result<TopicFilter, DecodeError> {
        let at = self.at;
        TopicFilter::new(self.text()?).map_err(|_| DecodeError::Topic { at })
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        let at = self.at;
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketId { at })
    }

    pub(crate) fn qos(&mut self) -> Result<QoS, DecodeError> {
        let at = self.at;
        let tag = self.u8()?;
        qos_of_bits(tag).ok_or(DecodeError::Tag { tag, at })
    }

    pub(crate) fn reason(&mut self) -> Result<ReasonCode, DecodeError> {
        let at = self.at;
        let tag = self.u8()?;
        ReasonCode::from_value(tag).ok_or(DecodeError::Tag { tag, at })
    }

    pub(crate) fn options(&mut self) -> Result<SubscriptionOptions, DecodeError> {
        let at = self.at;
        let tag = self.u8()?;
        let retain_handling = match (tag >> 4) & 0b11 {
            0 => RetainHandling::Always,
            1 => RetainHandling::IfNew,
            2 => RetainHandling::Never,
            _ => return Err(DecodeError::Tag { tag, at }),
        };
        let qos = qos_of_bits(tag & 0b11).filter(|_| tag >> 6 == 0).ok_or(DecodeError::Tag { tag, at })?;
        let [no_local, retain_as_published] = [tag & 0b100 != 0, tag & 0b1000 != 0];
        Ok(SubscriptionOptions { qos, no_local, retain_as_published, retain_handling })
    }
}

/// QoS of the number it has in packets.
pub(crate) fn qos_of_bits(bits: u8) -> Option<QoS> {
    match bits {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

pub(crate) fn qos_bits(qos: QoS) -> u8 {
    qos as u8
}

/// As MQTT 5, 3.8.3.1 lays the byte out.
pub(crate) fn options_byte(options: SubscriptionOptions) -> u8 {
    qos_bits(options.qos)
        | (u8::from(options.no_local) << 2)
        | (u8::from(options.retain_as_published) << 3)
        | ((options.retain_handling as u8) << 4)
}

pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    let length = u16::try_from(text.len()).expect("a text has at most 65,535 bytes [MQTT-1.5.4]");
    out.put_u16_le(length);
    out.put_slice(text.as_bytes());
}

pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("memory ends before four thousand million items"));
}

pub(crate) fn put_optional_u32(out: &mut BytesMut, number: Option<u32>) {
    match number {
        None => out.put_u8(0),
        Some(number) => {
            out.put_u8(1);
            out.put_u32_le(number);
        }
    }
}

/// A copy with its own storage: what is kept must not keep the entry it came from in memory.
pub(crate) fn own_text(text: &Text) -> Text {
    Text::parse(text.as_str()).expect("a copy of a valid text is valid")
}

/// As [`own_text`].
pub(crate) fn own_filter(filter: &TopicFilter) -> TopicFilter {
    TopicFilter::new(own_text(filter.text())).expect("a copy of a valid filter is valid")
}

/// Text of the program's own making.
pub(crate) fn text_of(text: &'static str) -> Text {
    Text::from_static(text)
}
