//! Limits of storage, each with its reason and what it can cost.
//!
//! Owns: the numbers. Does not: enforce them; the code that does names the constant.
//! Invariants: relations between limits are asserted at compile time.

/// Size of a log segment unless configured. Large enough that rotation (two syncs, one rename) is rare at 100,000
/// messages a second, small enough that carrying bodies over one segment takes well below a second.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;

/// Smallest segment that may be configured: tests want many segments from few records.
pub const SEGMENT_BYTES_MIN: u64 = 8 << 10;

/// Largest segment that may be configured. Offsets inside a segment are kept as `u32`.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Size of a segment when there is no room for a whole one: small enough to leave nothing unused, large enough for some seconds of
/// acknowledgements. A batch that would not fit gets a larger one.
pub const SHORT_SEGMENT_BYTES: u64 = 4 << 20;

/// Largest payload of one record: the largest MQTT packet (256 MiB) with room for the batch around it. A segment is
/// made larger than configured for a batch that would not fit.
pub const RECORD_PAYLOAD_BYTES_MAX: u64 = 288 << 20;

/// Largest batch of one append. Bounds the write buffer.
pub const APPEND_BYTES_MAX: u64 = 1 << 30;

/// Bytes of a segment that a start reads at once. A whole segment would take as much memory for good: the allocator gives large
/// blocks back late.
pub const SCAN_PIECE_BYTES: usize = 1 << 20;

/// A write buffer larger than this is given back after the append that needed it.
pub const WRITE_BUFFER_BYTES_KEPT: usize = 4 << 20;

/// Cache of entries and bodies unless configured. Worst-case memory: this plus one read-ahead chunk per pool.
pub const CACHE_BYTES_DEFAULT: u64 = 64 << 20;

/// What a cached entry costs beside its payload: key, queue slot, two handles.
pub const CACHE_ENTRY_OVERHEAD_BYTES: u64 = 160;

/// Bytes that one cache miss reads from the disk, at least the wanted record. Sequential drains of a backlog then
/// miss once per chunk.
pub const READ_AHEAD_BYTES: u64 = 256 << 10;

/// Size of a body file unless configured: a file is built in memory and written whole.
pub const BODY_FILE_BYTES_DEFAULT: u64 = 16 << 20;

/// Bodies in one body file: bounds its table at 768 KiB.
pub const BODIES_PER_FILE_MAX: usize = 32_768;

/// Open body files. A backlog far beyond memory has thousands of files; a process has few descriptors.
pub const BODY_HANDLES_MAX: usize = 64;

/// A body file whose live bodies would fill less than one part in this many of a file is a candidate for merging.
pub const BODY_FILE_LIVE_DIVISOR: u64 = 4;

/// So many candidates of a group are merged even if nothing in them is dead: each dropped segment may leave one.
pub const BODY_FILES_MERGED_MIN: usize = 16;

/// Segments kept ready (recycled or zero-filled ahead) unless configured. They are also the reserve from which the
/// log goes on when the disk is full.
pub const SPARE_SEGMENTS_DEFAULT: usize = 2;

/// Longest node name and cluster name in the identity file.
pub const NAME_BYTES_MAX: usize = 255;

/// Memory of the index store for cached blocks.
pub const CHECKPOINT_CACHE_BYTES: u64 = 8 << 20;

/// Memory of one group's unflushed checkpoint records; 17 groups by default, so 17 MiB and as much in flush.
pub const CHECKPOINT_MEMTABLE_BYTES: u64 = 1 << 20;

/// Journals of the index store before it flushes what pins the oldest one.
pub const CHECKPOINT_JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Open files of the index store.
pub const CHECKPOINT_FILES_MAX: usize = 128;

/// Largest snapshot chunk that is decoded.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 320 << 20;

const _: () =
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_DEFAULT && SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
const _: () = assert!(APPEND_BYTES_MAX + SEGMENT_BYTES_MIN < u32::MAX as u64);
const _: () = assert!(RECORD_PAYLOAD_BYTES_MAX < APPEND_BYTES_MAX);
const _: () = assert!(BODY_FILE_BYTES_DEFAULT + RECORD_PAYLOAD_BYTES_MAX < u32::MAX as u64);
const _: () = assert!(READ_AHEAD_BYTES < CACHE_BYTES_DEFAULT / 4);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES_MAX as u64 > RECORD_PAYLOAD_BYTES_MAX);

/// Bytes that a check of the disk reads at a time, unless one record is larger.
pub const SCRUB_READ_BYTES: u64 = 1 << 20;

/// Damaged records that others are asked for at once when a log is opened: a round trip for each would take minutes where a file was
/// cut off.
pub const MENDED_AT_ONCE: usize = 256;
