//! What comes to a client with subscriptions: packets in, new messages out, everything acknowledged at once.
//!
//! Owns: which packet identifiers of QoS 2 wait for PUBREL. Does not: note anything.
//! Invariants: a QoS 2 packet that comes again before its PUBREL is answered and is no new message [MQTT-4.3.3-10].

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::wire::{Ack, Link, Packet, Publish};

/// The receiving side of a session.
#[derive(Default)]
pub struct Inbox {
    unreleased: BTreeSet<u16>,
}

/// What a packet was.
pub enum Taken {
    /// A message that had not come before.
    Message(Publish),
    /// SUBACK with success.
    Subscribed,
    /// UNSUBACK.
    Unsubscribed,
    /// Nothing to do for it.
    Other,
}

impl Inbox {
    /// Takes the next packet, if one has come, and answers it.
    ///
    /// # Errors
    /// When the connection ended, or what came is not for a subscriber.
    pub fn next(&mut self, link: &mut Link) -> Result<Option<Taken>> {
        let Some(packet) = link.receive()? else { return Ok(None) };
        Ok(Some(match packet {
            Packet::Publish(publish) => self.publish(link, publish)?,
            Packet::Ack(Ack::Pubrel, id, _) => {
                self.unreleased.remove(&id);
                link.acknowledge(Ack::Pubcomp, id)?;
                Taken::Other
            }
            Packet::Suback(code) if code < 0x80 => Taken::Subscribed,
            Packet::Unsuback => Taken::Unsubscribed,
            Packet::Pong => Taken::Other,
            Packet::Disconnect(reason) => bail!("DISCONNECT {reason:#04x}"),
            other => bail!("{other:?} to a subscriber"),
        }))
    }

    fn publish(&mut self, link: &mut Link, publish: Publish) -> Result<Taken> {
        let id = publish.packet_id;
        match publish.qos {
            0 => {}
            1 => link.acknowledge(Ack::Puback, id)?,
            _ => {
                link.acknowledge(Ack::Pubrec, id)?;
                if !self.unreleased.insert(id) {
                    return Ok(Taken::Other);
                }
            }
        }
        Ok(Taken::Message(publish))
    }
}
