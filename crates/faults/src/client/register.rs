//! Retained messages as registers: one writer for each topic, and readers that are new to it.
//!
//! Owns: writes one after another, every `DELETES_EVERY`th a deletion; reads by a new subscription on any node.
//! Does not: send a write again: what has no answer is open for good, and the next write is a new one.
//! Invariants: the writer of a topic begins no write before the last has its answer or is given up.
//! Limits: `READ_WAIT_MAX` for a read.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quorate_tests::let_pass;
use quorate_tests::message::Message;

use super::{Durable, Ground, SILENCE_MAX};
use crate::history::{Client, What};
use crate::random::Random;
use crate::wire::{Ack, Link, Packet, Publish, Version};

/// Every so manieth write deletes.
const DELETES_EVERY: u64 = 7;

/// Time between two operations of one client.
const PAUSE: Duration = Duration::from_millis(200);

/// A read that has seen nothing for so long has seen nothing: there is no answer that says so.
const READ_WAIT_MAX: Duration = Duration::from_secs(2);

/// Bytes of a retained payload.
const PAYLOAD_BYTES: usize = 64;

fn topic(register: u32) -> String {
    format!("r/{register}")
}

/// Starts the writer of a register on a thread.
pub fn start_writer(ground: &Ground, client: Client, version: Version, register: u32) -> JoinHandle<()> {
    let node = usize::from(client) % ground.nodes.len().max(1);
    let client_id = format!("faults-{client}");
    let mut durable = Durable { ground: ground.clone(), client, client_id, version, node };
    std::thread::spawn(move || {
        let mut sequence = 0;
        while let Some(mut link) = durable.connect() {
            let Err(error) = write_on(&durable, &mut link, register, &mut sequence) else { return };
            durable.lost(&error);
            // What is open on the old connection must not be taken for the next write's answer.
            durable.client_id = format!("faults-{client}-{sequence}");
        }
    })
}

fn write_on(durable: &Durable, link: &mut Link, register: u32, sequence: &mut u64) -> Result<()> {
    while !durable.ground.closes() {
        *sequence += 1;
        let written = write(durable, link, register, *sequence);
        let what = match written {
            Ok(true) => What::WriteOk { register, sequence: *sequence },
            Ok(false) | Err(_) => What::WriteInfo { register, sequence: *sequence },
        };
        durable.note(what);
        written?;
        let_pass(PAUSE);
    }
    Ok(())
}

/// Whether a write was acknowledged; false when it was refused.
fn write(durable: &Durable, link: &mut Link, register: u32, sequence: u64) -> Result<bool> {
    let deletes = sequence.is_multiple_of(DELETES_EVERY);
    durable.note(What::WriteInvoke { register, sequence, deletes });
    let packet_id = u16::try_from(sequence % 60_000).map_or(1, |place| place + 1);
    let message = Message { publisher: register, sequence };
    let payload = if deletes { Vec::new() } else { message.encode(PAYLOAD_BYTES) };
    link.publish(&Publish { topic: topic(register), payload, qos: 1, packet_id, dup: false, retain: true })?;
    let begin = Instant::now();
    while begin.elapsed() < SILENCE_MAX && !durable.ground.ends() {
        match link.receive()? {
            Some(Packet::Ack(Ack::Puback, id, reason)) if id == packet_id => return Ok(reason < 0x80),
            Some(Packet::Disconnect(reason)) => bail!("DISCONNECT {reason:#04x}"),
            Some(other) => bail!("{other:?} to a writer"),
            None => {}
        }
    }
    bail!("silence")
}

/// Starts a reader of all registers on a thread. It reads one after another, each time as a new client.
pub fn start_reader(ground: &Ground, client: Client, version: Version, registers: u32) -> JoinHandle<()> {
    let ground = ground.clone();
    std::thread::spawn(move || {
        let mut random = Random::new(u64::from(client));
        let mut count = 0_u64;
        while !ground.closes() {
            let register = u32::try_from(random.below(registers as usize)).unwrap_or(0);
            let node = random.below(ground.nodes.len());
            count += 1;
            let client_id = format!("faults-{client}-{count}");
            let Some(address) = ground.nodes.get(node).copied() else { return };
            let Ok((mut link, _)) = Link::connect(address, version, &client_id, true) else {
                let_pass(PAUSE);
                continue;
            };
            ground.recorder.note(client, What::ReadInvoke { register });
            let what = match read(&mut link, register) {
                Ok(Some((sequence, retained))) => What::ReadOk { register, sequence, retained },
                Ok(None) => What::ReadInfo { register },
                // A payload that is none of a writer's.
                Err(error) if error.is::<Damaged>() => What::Damaged { reason: format!("{error:#}") },
                Err(_) => What::ReadInfo { register },
            };
            ground.recorder.note(client, what);
            let_pass(PAUSE);
        }
    })
}

/// A retained payload that no writer wrote.
#[derive(Debug)]
struct Damaged(String);

impl std::fmt::Display for Damaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a read of {}", self.0)
    }
}

impl std::error::Error for Damaged {}

/// The first message of a new subscription and whether it has RETAIN, unless it is a deletion: that is no value, and nothing older may follow it.
fn read(link: &mut Link, register: u32) -> Result<Option<(u64, bool)>> {
    link.subscribe(&topic(register), 1)?;
    let begin = Instant::now();
    while begin.elapsed() < READ_WAIT_MAX {
        let Some(packet) = link.receive()? else { continue };
        let Packet::Publish(publish) = packet else { continue };
        if publish.payload.is_empty() && !publish.retain {
            return Ok(None);
        }
        return match Message::decode(&publish.payload) {
            Some(message) if message.publisher == register && publish.topic == topic(register) => {
                Ok(Some((message.sequence, publish.retain)))
            }
            _ => Err(Damaged(format!("{:?}: {} bytes", publish.topic, publish.payload.len())).into()),
        };
    }
    Ok(None)
}
