//! A subscriber with a durable session for all publishers' topics.
//!
//! Owns: what it acknowledged, and for QoS 2 which packet identifiers wait for PUBREL. Does not: count.
//! Invariants: acknowledgements go out in the order of the messages, at once unless the plan `holds` them; a QoS 2 packet that comes again before its PUBREL is answered and not
//! delivered again [MQTT-4.3.3-10].
//! Limits: none of its own; the broker keeps to Receive Maximum.

use std::collections::{BTreeSet, VecDeque};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use quorate_tests::let_pass;
use quorate_tests::message::Message;

use super::publisher::topic;
use super::{Durable, Ground, PING_EVERY, Silence};
use crate::history::{Client, What};
use crate::random::Random;
use crate::wire::{Ack, Link, Packet, Publish, Version};

/// The filters that have the topics of all publishers, and of those for the share group as its members subscribe.
const FILTERS: (&str, &str) = ("f/#", "$share/faults/s/#");

/// What a subscriber that `holds` does not acknowledge at once, it acknowledges when so many messages wait.
const HELD_MAX: usize = 24;

/// Nor does it keep the first of them for longer.
const HELD_FOR: Duration = Duration::from_secs(1);

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
    /// It lets acknowledgements wait, so that packet identifiers stay in use.
    pub holds: bool,
    /// It is a member of the share group.
    pub shares: bool,
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
    let mut subscriber = Subscriber {
        durable,
        plan,
        subscribed: false,
        unreleased: BTreeSet::new(),
        held: VecDeque::new(),
        held_since: Instant::now(),
        random,
    };
    if plan.shares {
        subscriber.durable.note(What::Shares);
    }
    std::thread::spawn(move || subscriber.run())
}

struct Subscriber {
    durable: Durable,
    plan: Plan,
    subscribed: bool,
    unreleased: BTreeSet<u16>,
    /// Acknowledgements that wait, in order.
    held: VecDeque<(Ack, u16)>,
    held_since: Instant,
    random: Random,
}

impl Subscriber {
    fn run(&mut self) {
        while let Some(mut link) = self.durable.connect() {
            let Err(error) = self.on(&mut link) else { return };
            drop(link);
            self.held.clear();
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
            let (of_all, of_share) = FILTERS;
            link.subscribe(if self.plan.shares { of_share } else { of_all }, self.plan.qos)?;
        }
        let (mut silence, mut pinged) = (Silence(None), Instant::now());
        let stay = self.random.between(Duration::from_millis(500), Duration::from_secs(10));
        let begin = Instant::now();
        while !self.durable.ground.ends() {
            while let Some(packet) = link.receive()? {
                silence.broken(false);
                self.take(link, packet)?;
            }
            self.settle_held(link)?;
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
                self.acknowledge(link, Ack::Pubcomp, id)
            }
            Packet::Disconnect(reason) => bail!("DISCONNECT {reason:#04x}"),
            other => bail!("{other:?} to a subscriber"),
        }
    }

    fn publish(&mut self, link: &mut Link, publish: &Publish) -> Result<()> {
        let packet_id = publish.packet_id;
        match understood(publish, self.plan.shares) {
            Ok(what) if publish.qos == 2 && !self.unreleased.insert(packet_id) => {
                if let What::Delivered { from, sequence, .. } = what {
                    self.durable.note(What::Repeated { from, sequence, packet_id });
                }
            }
            Ok(what) => self.durable.note(what),
            Err(reason) => self.durable.note(What::Damaged { reason }),
        }
        match publish.qos {
            1 => self.acknowledge(link, Ack::Puback, packet_id),
            2 => self.acknowledge(link, Ack::Pubrec, packet_id),
            _ => Ok(()),
        }
    }

    /// Acknowledges, now or later.
    fn acknowledge(&mut self, link: &mut Link, ack: Ack, packet_id: u16) -> Result<()> {
        if self.held.is_empty() {
            self.held_since = Instant::now();
        }
        self.held.push_back((ack, packet_id));
        self.settle_held(link)
    }

    /// Sends the acknowledgements that have waited enough.
    fn settle_held(&mut self, link: &mut Link) -> Result<()> {
        let holds = self.plan.holds && !self.durable.ground.closes();
        if holds && self.held.len() < HELD_MAX && self.held_since.elapsed() < HELD_FOR {
            return Ok(());
        }
        while let Some((ack, packet_id)) = self.held.pop_front() {
            if matches!(ack, Ack::Puback | Ack::Pubcomp) {
                self.durable.note(What::Settled { packet_id });
            }
            link.acknowledge(ack, packet_id)?;
        }
        Ok(())
    }
}

/// The delivery that a PUBLISH is, or why no publisher can have sent it.
fn understood(publish: &Publish, shares: bool) -> Result<What, String> {
    let Some(message) = Message::decode(&publish.payload) else {
        return Err(format!("a payload of {} bytes on {:?}", publish.payload.len(), publish.topic));
    };
    let from = Client::try_from(message.publisher).map_err(|_| format!("{message:?}"))?;
    if publish.topic != topic(from, shares) || publish.retain || publish.qos == 0 {
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
        assert_eq!(understood(&sound, false), Ok(what));
        assert!(understood(&sound, true).is_err(), "a topic of the share group is another");
        let mut cut = sound.clone();
        cut.payload.pop();
        for damaged in [
            cut,
            Publish { topic: "f/4".into(), ..sound.clone() },
            Publish { retain: true, ..sound.clone() },
            Publish { qos: 0, ..sound },
        ] {
            assert!(understood(&damaged, false).is_err(), "{damaged:?}");
        }
    }
}
