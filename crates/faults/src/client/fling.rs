//! QoS 0: a client that throws numbered messages, and one that catches them.
//!
//! Owns: both. Does not: send anything twice, or ask for what is missing.
//! Invariants: the session of the catcher ends with its connection, so that nothing waits for it.
//! Limits: one message in `PAUSE`.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quorate_tests::message::Message;

use super::{Ground, PING_EVERY, Silence, Transient};
use crate::history::{Client, What};
use crate::wire::{Link, Packet, Publish, Version};

/// Time between two messages.
const PAUSE: Duration = Duration::from_millis(40);

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 64;

/// The filter that has the topics of all that throw.
const FILTER: &str = "z/#";

fn topic(client: Client) -> String {
    format!("z/{client}")
}

/// Starts the one that throws, on a thread.
pub fn start_thrower(ground: &Ground, client: Client, version: Version) -> JoinHandle<()> {
    let mut transient = Transient::new(ground, client, version);
    std::thread::spawn(move || {
        let mut sequence = 0;
        while let Some(mut link) = transient.connect() {
            let Err(error) = throw_on(&transient, &mut link, &mut sequence) else { return };
            transient.lost(&error);
        }
    })
}

fn throw_on(transient: &Transient, link: &mut Link, sequence: &mut u64) -> Result<()> {
    let (mut silence, mut pinged, mut thrown) = (Silence(None), Instant::now(), Instant::now());
    while !transient.ground.closes() {
        while link.receive()?.is_some() {
            silence.broken(false);
        }
        if thrown.elapsed() >= PAUSE {
            thrown = Instant::now();
            let message = Message { publisher: u32::from(transient.client), sequence: *sequence };
            transient.note(What::Flung { sequence: *sequence });
            *sequence += 1;
            link.publish(&Publish {
                topic: topic(transient.client),
                payload: message.encode(PAYLOAD_BYTES),
                qos: 0,
                packet_id: 0,
                dup: false,
                retain: false,
            })?;
        }
        ping(link, &mut pinged, &mut silence)?;
    }
    Ok(())
}

/// Starts the one that catches, on a thread.
pub fn start_catcher(ground: &Ground, client: Client, version: Version) -> JoinHandle<()> {
    let mut transient = Transient::new(ground, client, version);
    std::thread::spawn(move || {
        while let Some(mut link) = transient.connect() {
            let Err(error) = catch_on(&transient, &mut link) else { return };
            transient.lost(&error);
        }
    })
}

fn catch_on(transient: &Transient, link: &mut Link) -> Result<()> {
    let (mut silence, mut pinged) = (Silence(None), Instant::now());
    link.subscribe(FILTER, 0)?;
    while !transient.ground.ends() {
        while let Some(packet) = link.receive()? {
            silence.broken(false);
            match packet {
                Packet::Suback(code) if code < 0x80 => transient.note(What::Subscribed),
                Packet::Publish(publish) => transient.note(caught(&publish)),
                Packet::Pong => {}
                other => bail!("{other:?} to a catcher"),
            }
        }
        ping(link, &mut pinged, &mut silence)?;
    }
    Ok(())
}

fn caught(publish: &Publish) -> What {
    let message = Message::decode(&publish.payload);
    match message.and_then(|message| Some((message, Client::try_from(message.publisher).ok()?))) {
        Some((message, from)) if publish.topic == topic(from) && publish.qos == 0 => {
            What::Caught { from, sequence: message.sequence }
        }
        _ => What::Damaged { reason: format!("{} bytes of QoS 0", publish.payload.len()) },
    }
}

fn ping(link: &mut Link, pinged: &mut Instant, silence: &mut Silence) -> Result<()> {
    if pinged.elapsed() > PING_EVERY {
        *pinged = Instant::now();
        link.ping()?;
        silence.due();
    }
    if silence.too_long() {
        bail!("silence");
    }
    Ok(())
}
