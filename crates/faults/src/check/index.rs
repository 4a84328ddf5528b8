//! A history by publisher and by subscriber.
//!
//! Owns: finding the events that belong together. Does not: judge them.
//! Invariants: deliveries and connections are in the order of the history.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Client, Event, Moment, What};

/// What one publish was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// When it was sent first.
    pub invoke: Moment,
    /// QoS.
    pub qos: u8,
    /// How often it was sent.
    pub sent: usize,
    /// When PUBACK or PUBREC came with success.
    pub ok: Option<Moment>,
    /// It was refused.
    pub failed: bool,
    /// PUBCOMP came.
    pub complete: bool,
}

/// One intact message at one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub at: Moment,
    /// Publisher.
    pub from: Client,
    /// Its number.
    pub sequence: u64,
    /// QoS of the delivery.
    pub qos: u8,
    /// DUP.
    pub dup: bool,
    /// Packet identifier.
    pub packet_id: u16,
}

/// What one subscriber saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// When its first SUBACK came.
    pub subscribed: Option<Moment>,
    /// When it connected.
    pub connected: Vec<Moment>,
    /// What it got.
    pub deliveries: Vec<Delivery>,
}

/// The index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Publishes of each publisher, by number.
    pub publishers: BTreeMap<Client, BTreeMap<u64, Published>>,
    /// Clients that subscribed.
    pub subscribers: BTreeMap<Client, Subscriber>,
    /// The same two of the share group: its messages need to reach only one of its members.
    pub shared: Shared,
    /// Who belongs to it, while the index is made.
    sharers: BTreeSet<Client>,
}

/// The share group of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Publishes of each publisher, by number.
    pub publishers: BTreeMap<Client, BTreeMap<u64, Published>>,
    /// Members.
    pub members: BTreeMap<Client, Subscriber>,
}

impl Index {
    /// Of a history.
    pub fn of(events: &[Event]) -> Index {
        let mut index = Index::default();
        let mut connected: BTreeMap<Client, Vec<Moment>> = BTreeMap::new();
        for event in events {
            index.take(event);
            if let What::Connected { .. } = event.what {
                connected.entry(event.client).or_default().push(event.at);
            }
        }
        for (client, subscriber) in &mut index.subscribers {
            subscriber.connected = connected.remove(client).unwrap_or_default();
        }
        for client in std::mem::take(&mut index.sharers) {
            if let Some(publishes) = index.publishers.remove(&client) {
                index.shared.publishers.insert(client, publishes);
            }
            if let Some(member) = index.subscribers.remove(&client) {
                index.shared.members.insert(client, member);
            }
        }
        index
    }

    /// The publish that a delivery is of.
    pub fn published(&self, from: Client, sequence: u64) -> Option<&Published> {
        self.publishers.get(&from)?.get(&sequence)
    }

    fn take(&mut self, event: &Event) {
        match event.what {
            What::PublishInvoke { sequence, qos } => {
                let published =
                    Published { invoke: event.at, qos, sent: 1, ok: None, failed: false, complete: false };
                self.publishers.entry(event.client).or_default().insert(sequence, published);
            }
            What::PublishAgain { sequence } => self.change(event, sequence, |one| one.sent += 1),
            What::PublishOk { sequence, .. } => self.change(event, sequence, |one| {
                one.ok.get_or_insert(event.at);
            }),
            What::PublishFail { sequence, .. } => self.change(event, sequence, |one| one.failed = true),
            What::PublishComplete { sequence } => self.change(event, sequence, |one| one.complete = true),
            What::SubscribeInvoke => {
                self.subscribers.entry(event.client).or_default();
            }
            What::SubscribeOk => {
                self.subscribers.entry(event.client).or_default().subscribed.get_or_insert(event.at);
            }
            What::Delivered { from, sequence, qos, dup, packet_id } => {
                let delivery = Delivery { at: event.at, from, sequence, qos, dup, packet_id };
                self.subscribers.entry(event.client).or_default().deliveries.push(delivery);
            }
            What::Shares => {
                self.sharers.insert(event.client);
            }
            What::Connected { .. }
            | What::Refused { .. }
            | What::Lost { .. }
            | What::PublishInfo { .. }
            | What::Repeated { .. }
            | What::Damaged { .. }
            | What::WriteInvoke { .. }
            | What::WriteOk { .. }
            | What::WriteInfo { .. }
            | What::ReadInvoke { .. }
            | What::ReadOk { .. }
            | What::ReadInfo { .. }
            | What::FaultInvoke { .. }
            | What::FaultOk { .. }
            | What::Settled { .. }
            | What::Flung { .. }
            | What::Subscribed
            | What::Caught { .. }
            | What::Dropped { .. }
            | What::ProbeSubscribed { .. }
            | What::ProbeUnsubscribed { .. }
            | What::ProbeInvoke { .. }
            | What::ProbeOk { .. }
            | What::ProbeGot { .. }
            | What::WillInvoke { .. }
            | What::WillStored { .. }
            | What::WillEnd { .. }
            | What::WillDismissed { .. }
            | What::WillSeen { .. }
            | What::Away { .. }
            | What::Back { .. }
            | What::ExpiringInvoke { .. }
            | What::ExpiringOk { .. }
            | What::ExpiringGot { .. }
            | What::OwnerInvoke { .. }
            | What::OwnerOk { .. }
            | What::OwnerPublish { .. }
            | What::OwnerAck { .. }
            | What::Looked { .. }
            | What::HealInvoke
            | What::Healed
            | What::Led
            | What::Recovered { .. } => {}
        }
    }

    fn change(&mut self, event: &Event, sequence: u64, change: impl FnOnce(&mut Published)) {
        let publishes = self.publishers.get_mut(&event.client);
        if let Some(published) = publishes.and_then(|publishes| publishes.get_mut(&sequence)) {
            change(published);
        }
    }
}
