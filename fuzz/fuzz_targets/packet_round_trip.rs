//! What was decoded can be encoded and is then decoded as the same, in its version; what another version leaves out
//! stays left out; a packet that is made to fit does fit.
//!
//! Input: one byte that chooses version and sender, the first byte of the packet, then its body: the length in between
//! is made here, so that most inputs reach the rules of the packet.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quorate_codec::{
    Limits, Packet, ProtocolVersion, PublishProperties, Role, decode, encode, encoded_len, fit,
};

const VERSIONS: [ProtocolVersion; 3] = [ProtocolVersion::V31, ProtocolVersion::V311, ProtocolVersion::V5];

fuzz_target!(|input: &[u8]| {
    let [choice, first, body @ ..] = input else {
        return;
    };
    let version = match choice & 0b11 {
        0 => ProtocolVersion::V31,
        1 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    };
    let sender = if choice & 0b100 == 0 { Role::Client } else { Role::Server };
    let Ok(Some(packet)) = decode(&mut framed(*first, body), version, sender, &Limits::default()) else {
        return;
    };
    let written = write(&packet, version).expect("what was decoded can be encoded");
    assert_eq!(read(&written, version, sender), Some(packet.clone()));
    for other in VERSIONS {
        let Some(written) = write(&packet, other) else {
            continue;
        };
        // A CONNECT has its own version, and a server of 3.x sends no DISCONNECT.
        let said_otherwise = matches!(packet, Packet::Connect(_) | Packet::Disconnect(_)) && other != version;
        if let Some(read) = read(&written, other, sender) {
            assert_eq!(write(&read, other), Some(written), "read and written again it is the same");
        } else {
            assert!(said_otherwise, "what was written can be read");
        }
    }
    let max = u32::from(*choice);
    let mut fitted = packet.clone();
    if fit(&mut fitted, version, max) == Ok(true) {
        assert!(encoded_len(&fitted, version).is_ok_and(|bytes| bytes <= max as usize));
    }
    if let Packet::Publish(publish) = packet {
        check_forwarded(publish.properties.map(|properties| *properties).unwrap_or_default());
    }
});

/// A packet of this first byte and body.
fn framed(first: u8, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::from(&[first][..]);
    let mut left = body.len();
    while left >= 0x80 {
        bytes.extend_from_slice(&[(left & 0x7f) as u8 | 0x80]);
        left >>= 7;
    }
    bytes.extend_from_slice(&[left as u8]);
    bytes.extend_from_slice(body);
    bytes
}

fn write(packet: &Packet, version: ProtocolVersion) -> Option<BytesMut> {
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).ok()?;
    assert_eq!(encoded_len(packet, version), Ok(bytes.len()));
    Some(bytes)
}

fn read(bytes: &BytesMut, version: ProtocolVersion, sender: Role) -> Option<Packet> {
    let mut bytes = bytes.clone();
    let packet = decode(&mut bytes, version, sender, &Limits::of_protocol()).ok()?;
    assert!(packet.is_some() && bytes.is_empty(), "one whole packet");
    packet
}

/// What is kept of a message is what goes to its subscribers.
fn check_forwarded(properties: PublishProperties) {
    let mut bytes = BytesMut::new();
    properties.encode_forwarded(&mut bytes).expect("what was decoded can be encoded");
    let kept = PublishProperties::decode_forwarded(&bytes.freeze()).expect("what was written can be read");
    let expected = PublishProperties {
        message_expiry_s: None,
        topic_alias: None,
        subscription_identifiers: Vec::new(),
        ..properties
    };
    assert_eq!(kept, expected);
}
