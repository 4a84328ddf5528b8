//! Measures durable appends on a real disk: `cargo run --release -p quorate-storage --example log_throughput DIRECTORY`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_possible_truncation)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_storage::disk::OsDisk;
use quorate_storage::{Log, LogOptions, Record, SlowGroups};

const ENTRIES_PER_SYNC: u64 = 1024;
const BATCHES: u64 = 400;

fn main() {
    let directory = std::env::args().nth(1).expect("the directory to write to is the argument");
    let disk = Arc::new(OsDisk::new(directory).unwrap());
    let (mut log, recovery) = Log::open(disk.clone(), LogOptions::default()).unwrap();
    let mut index = recovery.groups.get(&1).map_or(0, |group| group.last);
    let data = Bytes::from(vec![7; 256]);
    let (mut appends, mut syncs) = (Duration::ZERO, Vec::new());
    let start = Instant::now();
    for _ in 0..BATCHES {
        let batch: Vec<Record> = (1..=ENTRIES_PER_SYNC)
            .map(|offset| Record::Entry {
                group: 1,
                index: index + offset,
                term: 1,
                entry_type: 0,
                data: data.clone(),
                context: Bytes::new(),
            })
            .collect();
        index += ENTRIES_PER_SYNC;
        let begun = Instant::now();
        log.append(&batch).unwrap();
        let written = Instant::now();
        log.sync().unwrap();
        appends += written - begun;
        syncs.push(written.elapsed());
    }
    let elapsed = start.elapsed();
    syncs.sort();
    let rate = (BATCHES * ENTRIES_PER_SYNC) as f64 / elapsed.as_secs_f64();
    let percentile = |part: usize| syncs.get(syncs.len() * part / 100).copied().unwrap_or_default();
    println!("{rate:.0} entries/s durable; append {:?} per batch", appends / BATCHES as u32);
    println!("fdatasync p50 {:?} p99 {:?}", percentile(50), percentile(99));

    let begun = Instant::now();
    let mut body_bytes = 0;
    while let Some(range) = log.droppable() {
        log.drop_segment(range.segment, &|_| index, &|_, index| index % 2 == 0, SlowGroups::Keep).unwrap();
        body_bytes += range.bytes;
    }
    println!("carried bodies out of {} MiB of segments in {:?}", body_bytes >> 20, begun.elapsed());
    drop(log);
    let begun = Instant::now();
    let (_, recovery) = Log::open(disk, LogOptions::default()).unwrap();
    println!("opened {} records, {} MiB, in {:?}", recovery.records, recovery.bytes >> 20, begun.elapsed());
}
