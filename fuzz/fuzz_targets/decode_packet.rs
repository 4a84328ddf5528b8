//! Any bytes as the stream of one connection: no panic, and the same packets however the stream is cut.
//!
//! Input: one byte that chooses version, sender and first packet or not, then the stream.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quorate_codec::{DecodeError, Limits, Packet, ProtocolVersion, Role, decode, decode_first};

/// Longest stream that is also fed byte by byte, which takes time in proportion to its square.
const BY_BYTES_MAX: usize = 2_048;

fuzz_target!(|input: &[u8]| {
    let Some((choice, stream)) = input.split_first() else {
        return;
    };
    let version = match choice & 0b11 {
        0 => ProtocolVersion::V31,
        1 => ProtocolVersion::V311,
        _ => ProtocolVersion::V5,
    };
    let sender = if choice & 0b100 == 0 { Role::Client } else { Role::Server };
    let first = choice & 0b1000 != 0;
    let whole = read(&[stream], version, sender, first);
    if stream.len() <= BY_BYTES_MAX {
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        let by_bytes = read(&bytes, version, sender, first);
        assert_eq!(whole, by_bytes, "what is read does not depend on how the stream is cut");
    }
});

/// The packets of a stream that comes in these parts, and the error that ends it.
fn read(
    parts: &[&[u8]],
    version: ProtocolVersion,
    sender: Role,
    mut first: bool,
) -> (Vec<Packet>, Option<DecodeError>) {
    let limits = Limits::default();
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            let before = buffer.len();
            let packet = if first {
                decode_first(&mut buffer, &limits)
                    .map(|connect| connect.map(Packet::Connect))
                    .map_err(|refused| refused.error)
            } else {
                decode(&mut buffer, version, sender, &limits)
            };
            match packet {
                Ok(Some(packet)) => {
                    assert!(buffer.len() + 2 <= before, "a packet takes two bytes at least");
                    packets.push(packet);
                    first = false;
                }
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "nothing is taken before the packet is whole");
                    break;
                }
                Err(error) => {
                    assert!(error.reason().is_failure());
                    return (packets, Some(error));
                }
            }
        }
    }
    (packets, None)
}
