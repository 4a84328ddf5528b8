//! Bulk: large messages that the nodes have to keep, so that their logs grow and segments end.
//!
//! Owns: one client that writes them one after another. Does not: note them; nobody waits for what becomes of them.
//! Invariants: all are retained messages of one topic, so nothing piles up but the log.
//! Limits: one message without an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use quorate_tests::pause;

use super::{Ground, SILENCE_MAX};
use crate::wire::{Ack, Link, Packet, Publish, Version};

/// Bytes of a message.
const PAYLOAD_BYTES: usize = 256 * 1024;

/// A client that writes until this is dropped.
pub struct Bulk {
    ended: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Bulk {
    /// Begins.
    pub fn start(ground: &Ground) -> Bulk {
        let (ended, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stop, count, ground) = (ended.clone(), written.clone(), ground.clone());
        let thread = std::thread::spawn(move || {
            for attempt in 0.. {
                if stop.load(Ordering::Relaxed) || ground.ends() {
                    return;
                }
                // The next node may have room.
                let _ = write(&ground, attempt, &stop, &count);
                pause();
            }
        });
        Bulk { ended, written, thread: Some(thread) }
    }

    /// Bytes that were acknowledged.
    pub fn written_bytes(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write(ground: &Ground, attempt: usize, stop: &AtomicBool, count: &AtomicU64) -> Result<()> {
    let address = ground.nodes.get(attempt % ground.nodes.len().max(1)).context("a node")?;
    let client_id = format!("faults-bulk-{attempt}");
    let (mut link, _) = Link::connect(*address, Version::V5, &client_id, true)?;
    let mut packet_id = 0_u16;
    while !stop.load(Ordering::Relaxed) {
        packet_id = packet_id.checked_add(1).unwrap_or(1);
        let payload = vec![u8::try_from(packet_id % 251).unwrap_or(0); PAYLOAD_BYTES];
        let topic = "bulk".to_owned();
        link.publish(&Publish { topic, payload, qos: 1, packet_id, dup: false, retain: true })?;
        let begin = Instant::now();
        loop {
            match link.receive()? {
                Some(Packet::Ack(Ack::Puback, id, reason)) if id == packet_id => {
                    if reason >= 0x80 {
                        bail!("refused with {reason:#04x}");
                    }
                    count.fetch_add(u64::try_from(PAYLOAD_BYTES)?, Ordering::Relaxed);
                    break;
                }
                Some(other) => bail!("{other:?} to a writer"),
                None if begin.elapsed() > SILENCE_MAX || stop.load(Ordering::Relaxed) => bail!("silence"),
                None => {}
            }
        }
    }
    Ok(())
}
