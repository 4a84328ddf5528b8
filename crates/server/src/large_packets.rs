//! Room for large packets while they are being read.
//!
//! Owns: [`LargePackets`], the room of all connections; [`Reserved`], that of one. Does not: read, or decode.
//! Invariants: whoever has room has it for a whole packet, so what is begun can always be ended; room is given in the order in
//! which it was asked for, and who has something else to do meanwhile asks anew.
//! Limits: `LARGE_PACKET_BYTES` are read without asking; `memory::shares` says how much room there is.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::LARGE_PACKET_BYTES;

/// Bytes of a permit.
const UNIT_BYTES: usize = 4096;

/// The room of all connections.
pub struct LargePackets {
    free: Arc<Semaphore>,
    units_max: usize,
}

/// The room that one connection has; none at first.
#[derive(Default)]
pub struct Reserved(Option<(usize, OwnedSemaphorePermit)>);

impl LargePackets {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> LargePackets {
        let units_max = (bytes_max / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        LargePackets { free: Arc::new(Semaphore::new(units_max)), units_max }
    }

    /// Waits for room for a packet of so many bytes. Nothing is lost when the caller gives up.
    pub async fn reserve(&self, bytes: usize, reserved: &mut Reserved) {
        reserved.0 = None;
        let units = (bytes / UNIT_BYTES).clamp(1, self.units_max);
        let permits = self.free.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
        // The semaphore is never closed.
        reserved.0 = permits.await.ok().map(|permits| (bytes, permits));
    }
}

impl Reserved {
    /// Bytes of the large packet that `input` begins with, if there is no room for it yet. What is not needed any more is
    /// given back.
    pub fn lacks(&mut self, input: &[u8]) -> Option<usize> {
        let packet = packet_bytes(input).filter(|bytes| *bytes > LARGE_PACKET_BYTES);
        let has = self.0.as_ref().map(|(bytes, _)| *bytes);
        if has.is_some() && has != packet {
            self.0 = None;
        }
        packet.filter(|bytes| has != Some(*bytes))
    }
}

/// Length of the packet that begins here, from its fixed header; `None` when that is not whole, or none at all.
fn packet_bytes(input: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (place, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(2 + place + length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a PUBLISH of so many bytes behind its fixed header.
    fn publish(remaining: usize) -> Vec<u8> {
        let byte = |place: usize| u8::try_from((remaining >> (7 * place)) & 0x7f).unwrap();
        vec![0x30, byte(0) | 0x80, byte(1) | 0x80, byte(2), 0, 1]
    }

    #[test]
    fn length_is_that_of_the_fixed_header() {
        for (input, expected) in [
            (&[][..], None),
            (&[0x30], None),
            (&[0xc0, 0], Some(2)),
            (&[0x30, 0xff], None),
            (&[0x30, 0xff, 0x7f, 1], Some(3 + 16_383)),
            (&[0x30, 0xff, 0xff, 0xff, 0xff, 1], None),
        ] {
            assert_eq!(packet_bytes(input), expected, "{input:?}");
        }
        assert_eq!(packet_bytes(&publish(1_000_000)), Some(1_000_004));
    }

    #[tokio::test]
    async fn room_is_given_for_whole_packets_and_comes_back_with_the_next_one() {
        let large = LargePackets::new(2_000_000);
        let (mut first, mut second) = (Reserved::default(), Reserved::default());
        assert_eq!(first.lacks(&publish(1000)), None, "a small one needs none");
        let bytes = first.lacks(&publish(1_500_000)).expect("it is large");
        large.reserve(bytes, &mut first).await;
        assert_eq!(first.lacks(&publish(1_500_000)), None);
        let other = second.lacks(&publish(1_000_000)).expect("it is large");
        tokio::select! {
            biased;
            () = large.reserve(other, &mut second) => panic!("there is no room for both"),
            () = std::future::ready(()) => (),
        }
        assert_eq!(first.lacks(&[0xc0]), None, "the packet is over");
        large.reserve(other, &mut second).await;
        assert_eq!(second.lacks(&publish(1_000_000)), None);
        assert_eq!(second.lacks(&publish(900_000)), Some(900_004), "room is for one packet");
        large.reserve(usize::MAX, &mut first).await;
        assert!(first.0.is_some(), "more than there is counts as all of it");
    }
}
