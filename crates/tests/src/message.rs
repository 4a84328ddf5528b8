//! Payload of an audited message: publisher, sequence, filling, checksum.
//!
//! Owns: its bytes. Does not: know topics. Invariants: a payload that was changed or cut does not decode.
//! Limits: payloads have at least `HEAD_BYTES`.

/// Publisher (4), sequence (8), checksum (8).
pub const HEAD_BYTES: usize = 20;

/// Who published and which of its messages this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Index of the publisher.
    pub publisher: u32,
    /// From 0, without gaps.
    pub sequence: u64,
}

impl Message {
    /// A payload of `bytes` bytes, at least [`HEAD_BYTES`].
    pub fn encode(self, bytes: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(bytes.max(HEAD_BYTES));
        payload.extend(self.publisher.to_be_bytes());
        payload.extend(self.sequence.to_be_bytes());
        // The filling differs from message to message, so that mixed up bodies are noticed.
        let mut filling = checksum(&payload);
        while payload.len() + 8 < bytes {
            filling = filling.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let room = bytes - payload.len() - 8;
            payload.extend(filling.to_be_bytes().iter().take(room));
        }
        payload.extend(checksum(&payload).to_be_bytes());
        payload
    }

    /// The message of a payload, unless the payload is damaged.
    pub fn decode(payload: &[u8]) -> Option<Message> {
        let (content, check) = payload.split_last_chunk::<8>()?;
        if u64::from_be_bytes(*check) != checksum(content) {
            return None;
        }
        let (publisher, content) = content.split_first_chunk::<4>()?;
        let (sequence, _) = content.split_first_chunk::<8>()?;
        Some(Message { publisher: u32::from_be_bytes(*publisher), sequence: u64::from_be_bytes(*sequence) })
    }
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_decodes_unless_a_byte_differs() {
        let message = Message { publisher: 3, sequence: 1 << 40 };
        for bytes in [0, HEAD_BYTES, 21, 27, 28, 29, 128, 4096] {
            let payload = message.encode(bytes);
            assert_eq!(payload.len(), bytes.max(HEAD_BYTES));
            assert_eq!(Message::decode(&payload), Some(message));
            for at in 0..payload.len() {
                let mut damaged = payload.clone();
                damaged[at] ^= 1;
                assert_eq!(Message::decode(&damaged), None);
            }
            assert_eq!(Message::decode(&payload[1..]), None);
        }
        assert_eq!(Message::decode(b""), None);
    }
}
