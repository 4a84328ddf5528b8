//! A publisher: numbered messages on one topic with one QoS, sent again until they are answered.
//!
//! Owns: its window of unanswered publishes. Does not: repeat what was refused.
//! Invariants: after a reconnect what is open goes out again in its first order, with DUP and its packet identifier
//! [MQTT-4.4.0-1], [MQTT-4.6.0-1]; a publish of QoS 2 that has its PUBREC goes on with PUBREL [MQTT-4.3.3-6].
//! Limits: `WINDOW` unanswered publishes; their packet identifiers are those of the last ones, so none is used twice.

use std::collections::VecDeque;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quorate_tests::message::Message;

use super::{Durable, Ground, Silence};
use crate::history::{Client, What};
use crate::wire::{Ack, Link, Packet, Publish, Version};

/// Unanswered publishes of one publisher; below the Receive Maximum of every node.
const WINDOW: usize = 16;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 128;

/// What a publisher does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the client; its topic follows from it.
    pub client: Client,
    /// Version of the protocol.
    pub version: Version,
    /// QoS, 1 or 2.
    pub qos: u8,
    /// Publishes in a second, at most.
    pub rate: u32,
    /// Its messages are for the share group.
    pub shares: bool,
}

/// The topic of a publisher.
pub fn topic(client: Client, shares: bool) -> String {
    if shares { format!("s/{client}") } else { format!("f/{client}") }
}

/// Starts a publisher on a thread.
pub fn start(ground: &Ground, plan: Plan) -> JoinHandle<()> {
    let node = usize::from(plan.client) % ground.nodes.len().max(1);
    let durable = Durable {
        ground: ground.clone(),
        client: plan.client,
        client_id: format!("faults-{}", plan.client),
        version: plan.version,
        node,
    };
    let mut publisher = Publisher {
        durable,
        plan,
        open: VecDeque::new(),
        next: 0,
        begin: Instant::now(),
        silence: Silence(None),
    };
    if plan.shares {
        publisher.durable.note(What::Shares);
    }
    std::thread::spawn(move || publisher.run())
}

struct Publisher {
    durable: Durable,
    plan: Plan,
    open: VecDeque<Open>,
    next: u64,
    begin: Instant,
    silence: Silence,
}

/// A publish without its last answer.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Open {
    sequence: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Published,
    Released,
}

impl Publisher {
    fn run(&mut self) {
        while let Some(mut link) = self.durable.connect() {
            self.silence = Silence(None);
            let Err(error) = self.on(&mut link) else { return };
            self.durable.lost(&error);
            for open in self.open.iter().filter(|open| open.stage == Stage::Published) {
                self.durable.note(What::PublishInfo { sequence: open.sequence });
            }
        }
    }

    /// Works on a connection; ends without an error when all is done.
    fn on(&mut self, link: &mut Link) -> Result<()> {
        for open in self.open.clone() {
            match open.stage {
                Stage::Published => {
                    self.durable.note(What::PublishAgain { sequence: open.sequence });
                    link.publish(&self.publish(open.sequence, true))?;
                }
                Stage::Released => link.acknowledge(Ack::Pubrel, packet_id(open.sequence))?,
            }
            self.silence.due();
        }
        loop {
            if self.durable.ground.ends() || self.durable.ground.closes() && self.open.is_empty() {
                return Ok(());
            }
            self.begin_due(link)?;
            while let Some(packet) = link.receive()? {
                self.take(link, &packet)?;
                self.silence.broken(!self.open.is_empty());
            }
            if self.silence.too_long() {
                bail!("silence");
            }
        }
    }

    /// Sends what the rate and the window allow. What was held up is not made good.
    fn begin_due(&mut self, link: &mut Link) -> Result<()> {
        let interval = Duration::from_secs(1) / self.plan.rate.max(1);
        let closes = self.durable.ground.closes();
        while !closes && self.begin.elapsed() >= interval && self.open.len() < WINDOW {
            self.begin = Instant::now().max(self.begin + interval);
            let sequence = self.next;
            self.next += 1;
            self.durable.note(What::PublishInvoke { sequence, qos: self.plan.qos });
            self.open.push_back(Open { sequence, stage: Stage::Published });
            self.silence.due();
            link.publish(&self.publish(sequence, false))?;
        }
        Ok(())
    }

    fn take(&mut self, link: &mut Link, packet: &Packet) -> Result<()> {
        match *packet {
            Packet::Ack(Ack::Puback, id, reason) if self.plan.qos == 1 => self.answered(id, reason, None),
            Packet::Ack(Ack::Pubrec, id, reason) if self.plan.qos == 2 => {
                self.answered(id, reason, Some(link))
            }
            Packet::Ack(Ack::Pubcomp, id, _) if self.plan.qos == 2 => {
                if let Some(open) = self.remove(id, Stage::Released) {
                    self.durable.note(What::PublishComplete { sequence: open.sequence });
                }
                Ok(())
            }
            Packet::Disconnect(reason) => bail!("DISCONNECT {reason:#04x}"),
            ref other => bail!("{other:?} to a publisher"),
        }
    }

    /// PUBACK or PUBREC; `link` when PUBREL follows.
    fn answered(&mut self, id: u16, reason: u8, link: Option<&mut Link>) -> Result<()> {
        let Some(open) = self.remove(id, Stage::Published) else {
            // PUBREC may come again for what was released already; it is answered as the first one was.
            return match link {
                Some(link) => link.acknowledge(Ack::Pubrel, id),
                None => Ok(()),
            };
        };
        let sequence = open.sequence;
        if reason >= 0x80 {
            self.durable.note(What::PublishFail { sequence, reason });
            return Ok(());
        }
        self.durable.note(What::PublishOk { sequence, node: self.durable.node });
        if let Some(link) = link {
            self.open.push_back(Open { sequence, stage: Stage::Released });
            link.acknowledge(Ack::Pubrel, id)?;
        }
        Ok(())
    }

    fn remove(&mut self, id: u16, stage: Stage) -> Option<Open> {
        let place =
            self.open.iter().position(|open| packet_id(open.sequence) == id && open.stage == stage)?;
        self.open.remove(place)
    }

    fn publish(&self, sequence: u64, dup: bool) -> Publish {
        let message = Message { publisher: u32::from(self.plan.client), sequence };
        Publish {
            topic: topic(self.plan.client, self.plan.shares),
            payload: message.encode(PAYLOAD_BYTES),
            qos: self.plan.qos,
            packet_id: packet_id(sequence),
            dup,
            retain: false,
        }
    }
}

/// The packet identifier of a publish: 1 to 60,000, in turn.
fn packet_id(sequence: u64) -> u16 {
    u16::try_from(sequence % 60_000).map_or(1, |place| place + 1)
}
