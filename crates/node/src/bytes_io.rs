//! Reading and writing the fixed-size fields of peer frames and checkpoints.
//!
//! Owns: little-endian fields and length-prefixed byte strings. Does not: know what they mean.
//! Invariants: reading never panics; a short input is an error. See: docs/formats/peer-frame.md.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The bytes are not what they should be; the place says where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed peer message: {0}")]
pub struct Malformed(pub &'static str);

/// Reads fields from the front of `Bytes`, sharing them without a copy.
pub(crate) struct Reader(pub(crate) Bytes);

impl Reader {
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        if self.0.remaining() < 1 { Err(Malformed(what)) } else { Ok(self.0.get_u8()) }
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        if self.0.remaining() < 4 { Err(Malformed(what)) } else { Ok(self.0.get_u32_le()) }
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        if self.0.remaining() < 8 { Err(Malformed(what)) } else { Ok(self.0.get_u64_le()) }
    }

    /// A count of items that each take at least `item_bytes_min` bytes, so that a lying count allocates nothing.
    pub(crate) fn count(&mut self, item_bytes_min: usize, what: &'static str) -> Result<usize, Malformed> {
        let count = usize::try_from(self.u32(what)?).map_err(|_| Malformed(what))?;
        if count.saturating_mul(item_bytes_min) > self.0.remaining() {
            Err(Malformed(what))
        } else {
            Ok(count)
        }
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<Bytes, Malformed> {
        let len = usize::try_from(self.u32(what)?).map_err(|_| Malformed(what))?;
        if self.0.remaining() < len { Err(Malformed(what)) } else { Ok(self.0.split_to(len)) }
    }

    pub(crate) fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.0.has_remaining() { Err(Malformed(what)) } else { Ok(()) }
    }
}

/// Writes a length-prefixed byte string.
pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.put_slice(bytes);
}

/// Writes a length or count.
pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("limits keep every length of a peer message below 4 GiB"));
}
