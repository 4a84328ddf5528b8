//! Payloads that say who published them and prove that they are whole.
//!
//! Owns: making and reading them. Invariants: a payload is a function of its message alone, so that reading can compare
//! every byte.

use bytes::Bytes;

use crate::oracle::MessageId;
use crate::random::Random;

/// Bytes before the filling.
const HEAD_BYTES: usize = 12;

/// The payload of a message: its identity, then filling of a length that follows from it.
pub fn make(id: MessageId) -> Bytes {
    let mut random = Random::new(id.seq.wrapping_mul(31).wrapping_add(u64::from(id.publisher)));
    let filling = if random.permille(20) { random.below(3000) } else { random.below(120) };
    let mut bytes = Vec::with_capacity(HEAD_BYTES + filling + 8);
    bytes.extend_from_slice(&id.publisher.to_le_bytes());
    bytes.extend_from_slice(&id.seq.to_le_bytes());
    while bytes.len() < HEAD_BYTES + filling {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.into()
}

/// Which message it is, and whether it is whole.
pub fn read(payload: &[u8]) -> (Option<MessageId>, bool) {
    if payload.is_empty() {
        return (None, true);
    }
    let publisher = payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let seq = payload.get(4..HEAD_BYTES).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let (Some(publisher), Some(seq)) = (publisher, seq) else { return (None, false) };
    let id = MessageId { publisher, seq };
    (Some(id), make(id) == payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_reads_back_and_damage_shows() {
        let id = MessageId { publisher: 7, seq: 42 };
        let payload = make(id);
        assert_eq!(read(&payload), (Some(id), true));
        let mut damaged = payload.to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(!read(&damaged).1);
        assert_eq!(read(&[]), (None, true));
    }
}
