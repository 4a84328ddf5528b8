//! The payload of the verifier: who sent it, which it is, when, and a checksum over all of it.
//!
//! Owns: the byte layout. Does not: decide what a wrong payload means; the oracle does.
//! Invariants: `decode(encode(m)) == m`; one changed bit anywhere is found by the checksum.
//! Limits: at least [`MESSAGE_BYTES_MIN`]; longer payloads are filled with a pattern that the checksum covers.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Size of the fields: run (8), publisher (4), sequence (8), sent (8), checksum (4).
pub const MESSAGE_BYTES_MIN: usize = 32;

/// What a payload says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// The run that sent it; other runs may share a broker.
    pub run: u64,
    /// Index of the publisher.
    pub publisher: u32,
    /// Position in what this publisher sent; the first is 0.
    pub sequence: u64,
    /// Nanoseconds from the start of the run to the first send.
    pub sent_ns: u64,
}

/// Writes a payload of `size` bytes, or of [`MESSAGE_BYTES_MIN`] when that is more.
/// The bytes come out of `arena`, so that a payload costs no allocation of its own.
pub fn encode(message: &Message, size: usize, arena: &mut BytesMut) -> Bytes {
    let size = size.max(MESSAGE_BYTES_MIN);
    if arena.capacity() < size {
        arena.reserve(size.max(64 * 1024));
    }
    arena.put_u64(message.run);
    arena.put_u32(message.publisher);
    arena.put_u64(message.sequence);
    arena.put_u64(message.sent_ns);
    let fill = message.sequence.to_le_bytes()[0];
    arena.put_bytes(fill, size - MESSAGE_BYTES_MIN);
    let checksum = crc32c::crc32c(arena);
    arena.put_u32(checksum);
    arena.split().freeze()
}

/// Reads a payload; `None` when it is too short or its checksum is wrong.
pub fn decode(payload: &[u8]) -> Option<Message> {
    if payload.len() < MESSAGE_BYTES_MIN {
        return None;
    }
    let (body, mut checksum) = payload.split_at(payload.len() - 4);
    if crc32c::crc32c(body) != checksum.get_u32() {
        return None;
    }
    let mut body = body;
    Some(Message {
        run: body.get_u64(),
        publisher: body.get_u32(),
        sequence: body.get_u64(),
        sent_ns: body.get_u64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_round_trips_and_every_bit_is_covered() {
        let message = Message { run: 7, publisher: 3, sequence: 0x1234, sent_ns: u64::MAX };
        let mut arena = BytesMut::new();
        for size in [0, 31, 32, 33, 128, 70_000] {
            let payload = encode(&message, size, &mut arena);
            assert_eq!(payload.len(), size.max(MESSAGE_BYTES_MIN));
            assert_eq!(decode(&payload), Some(message));
        }
        let payload = encode(&message, 40, &mut arena);
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged), None, "bit {bit}");
        }
        for end in 0..payload.len() {
            assert_eq!(decode(&payload[..end]), None, "cut at {end}");
        }
    }
}
