//! A subscriber with a durable session for all publishers' topics.
//!
//! Owns: what it acknowledged, and for QoS 2 which packet identifiers wait for PUBREL. Does not: count.
//! Invariants: everything is acknowledged at once; a QoS 2 packet that comes again before its PUBREL is answered and not
//! delivered again [MQTT-4.3.3-10].
//! Limits: none of its own; the broker keeps to Receive Maximum.

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quorate_tests::let_pass;
use quorate_tests::message::Message;

use super::publisher::topic;
use super::{Durable, Ground, Silence};
use crate::history::{Client, What};
use crate::random::Random;
use crate::wire::{Ack, Link, Packet, Publish, Version};

/// The filter that has the topics of all publishers.
const FILTER: &str = "f/#";

/// Time between two PINGREQ: a node that is cut off is noticed by its silence.
const PING_EVERY: Duration = Duration::from_secs(1);

/// What a subscriber does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of the client.
    pub client: Client,
    /// Version of the protocol.
    pub version: Version,
    /// QoS of the subscription.
    pub qos: u8,
    /// It breaks its connection every few seconds, and stays away for a while.
    pub leaves: bool,
}

/// Starts a subscriber on a thread.
pub fn start(ground: &Ground, plan: Plan) -> JoinHandle<()> {
    let node = usize::from(plan.client) % ground.nodes.len().max(1);
    let durable = Durable {
        ground: ground.clone(),
        client: plan.client,
        client_id: format!("faults-{}", plan.client),
        version: plan.version,
        node,
    };
    let random = Random::new(u64::from(plan.client));
    let mut subscriber = Subscriber { durable, plan, subscribed: false, unreleased: BTreeSet::new(), random };
    std::thread::spawn(move || subscriber.run())
}

struct Subscriber {
    durable: Durable,
    plan: Plan,
    subscribed: bool,
    unreleased: BTreeSet<u16>,
    random: Random,
}

impl Subscriber {
    fn run(&mut self) {
        while let Some(mut link) = self.durable.connect() {
            let Err(error) = self.on(&mut link) else { return };
            drop(link);
            self.durable.lost(&error);
            if self.leaves() {
                let_pass(self.random.between(Duration::from_millis(20), Duration::from_secs(3)));
            }
        }
    }

    /// Until the load ends: then it has to get what waits for it.
    fn leaves(&self) -> bool {
        self.plan.leaves && !self.durable.ground.closes()
    }

    fn on(&mut self, link: &mut Link) -> Result<()> {
        if !self.subscribed {
            self.durable.note(What::SubscribeInvoke);
            link.subscribe(FILTER, self.plan.qos)?;
        }
        let (mut silence, mut pinged) = (Silence(None), Instant::now());
        let stay = self.random.between(Duration::from_millis(500), Duration::from_secs(10));
        let begin = Instant::now();
        while !self.durable.ground.ends() {
            while let Some(packet) = link.receive()? {
                silence.broken(false);
                self.take(link, packet)?;
            }
            if pinged.elapsed() > PING_EVERY {
                pinged = Instant::now();
                link.ping()?;
                silence.due();
            }
            if silence.too_long() {
                bail!("silence");
            }
            if self.subscribed && self.leaves() && begin.elapsed() > stay {
                bail!("left");
            }
        }
        Ok(())
    }

    fn take(&mut self, link: &mut Link, packet: Packet) -> Result<()> {
        match packet {
            Packet::Suback(code) if code < 0x80 => {
                self.subscribed = true;
                self.durable.note(What::SubscribeOk);
                Ok(())
            }
            Packet::Pong => Ok(()),
            Packet::Publish(publish) => self.publish(link, &publish),
            Packet::Ack(Ack::Pubrel, id, _) => {
                self.unreleased.remove(&id);
                link.acknowledge(Ack::Pubcomp, id)
            }
            Packet::Disconnect(reason) => bail!("DISCONNECT {reason:#04x}"),
            other => bail!("{other:?} to a subscriber"),
        }
    }

    fn publish(&mut self, link: &mut Link, publish: &Publish) -> Result<()> {
        match understood(publish) {
            Ok(what) if publish.qos == 2 && !self.unreleased.insert(publish.packet_id) => {
                if let What::Delivered { from, sequence, .. } = what {
                    self.durable.note(What::Repeated { from, sequence });
                }
            }
            Ok(what) => self.durable.note(what),
            Err(reason) => self.durable.note(What::Damaged { reason }),
        }
        match publish.qos {
            1 => link.acknowledge(Ack::Puback, publish.packet_id),
            2 => link.acknowledge(Ack::Pubrec, publish.packet_id),
            _ => Ok(()),
        }
    }
}

/// The delivery that a PUBLISH is, or why no publisher can have sent it.
fn understood(publish: &Publish) -> Result<What, String> {
    let Some(message) = Message::decode(&publish.payload) else {
        return Err(format!("a payload of {} bytes on {:?}", publish.payload.len(), publish.topic));
    };
    let from = Client::try_from(message.publisher).map_err(|_| format!("{message:?}"))?;
    if publish.topic != topic(from) || publish.retain || publish.qos == 0 {
        return Err(format!(
            "{message:?} on {:?} with QoS {}, RETAIN {}",
            publish.topic, publish.qos, publish.retain
        ));
    }
    let Publish { qos, dup, packet_id, .. } = *publish;
    Ok(What::Delivered { from, sequence: message.sequence, qos, dup, packet_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_publisher_sends_is_damaged() {
        let payload = Message { publisher: 3, sequence: 5 }.encode(64);
        let sound = Publish { topic: "f/3".into(), payload, qos: 1, packet_id: 9, dup: true, retain: false };
        let what = What::Delivered { from: 3, sequence: 5, qos: 1, dup: true, packet_id: 9 };
        assert_eq!(understood(&sound), Ok(what));
        let mut cut = sound.clone();
        cut.payload.pop();
        for damaged in [
            cut,
            Publish { topic: "f/4".into(), ..sound.clone() },
            Publish { retain: true, ..sound.clone() },
            Publish { qos: 0, ..sound },
        ] {
            assert!(understood(&damaged).is_err(), "{damaged:?}");
        }
    }
}
