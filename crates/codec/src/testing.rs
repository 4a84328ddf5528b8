//! Packets put together by hand, for the tests of this crate.

use bytes::BytesMut;

use crate::packet::{PacketId, ProtocolVersion};
use crate::text::Text;
use crate::topic::{TopicFilter, TopicName};

pub const V31: ProtocolVersion = ProtocolVersion::V31;
pub const V311: ProtocolVersion = ProtocolVersion::V311;
pub const V5: ProtocolVersion = ProtocolVersion::V5;

/// Bytes from hexadecimal digits, blanks ignored.
pub fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// A string with its length before it.
pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u16).to_be_bytes()[..], text].concat()
}

/// A list of properties with its length before it; short ones only.
pub fn list(properties: impl AsRef<[u8]>) -> Vec<u8> {
    let properties = properties.as_ref();
    assert!(properties.len() < 128);
    [&[properties.len() as u8][..], properties].concat()
}

/// A packet with its remaining length.
pub fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let low = (left % 128) as u8;
        left /= 128;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

pub fn buffer(bytes: &[u8]) -> BytesMut {
    BytesMut::from(bytes)
}

pub fn text(text: &str) -> Text {
    Text::parse(text).unwrap()
}

pub fn name(topic: &str) -> TopicName {
    TopicName::new(text(topic)).unwrap()
}

pub fn filter(topic: &str) -> TopicFilter {
    TopicFilter::new(text(topic)).unwrap()
}

pub fn id(value: u16) -> PacketId {
    PacketId::new(value).unwrap()
}
