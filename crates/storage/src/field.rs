//! Little-endian fields at fixed places of a byte table.
//!
//! Owns: bounds-checked reads and writes of integers. Does not: know any format.

/// Reads `N` bytes at `at`.
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Reads an `u32`.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Reads an `u64`.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// Overwrites the bytes at `at`. The caller has made room: a table shorter than its fields is a programming error.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes.get_mut(at..at + value.len()).expect("the table has room for its fields").copy_from_slice(value);
}

/// Length as the `u32` of a format.
pub fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths are checked against their limit before they are encoded")
}

/// Length or offset from a format as a memory length.
pub fn memory(length: u64) -> usize {
    usize::try_from(length).expect("an address is at least as wide as the limits of this crate")
}
