//! What somebody who watches a connection sees: each packet, read or written, without its secrets.
//!
//! Owns: [`PacketRecord`], the records that wait to be taken. Does not: choose connections or packets; format.
//! Invariants: a record has no user name, password or authentication data, and no more of a payload than was asked for.
//! Nothing is recorded, and next to nothing done, while nobody watches.
//! Limits: `OBSERVED_MAX` records wait; those beyond are counted.

use quorate_codec::{
    Ack, Packet, PacketId, PacketType, PublishQoS, QoS, ReasonCode, Text, TopicFilter, TopicName,
};

use crate::Delivery;
use crate::limits::{OBSERVED_FILTERS_MAX, OBSERVED_MAX};

/// A packet that went through a connection.
#[derive(Clone, PartialEq, Debug)]
pub struct PacketRecord {
    /// From the client, or to it.
    pub inbound: bool,
    /// Its type.
    pub packet: PacketType,
    /// Its bytes, with the fixed header.
    pub bytes: usize,
    /// Packet identifier.
    pub packet_id: Option<PacketId>,
    /// QoS of a PUBLISH.
    pub qos: Option<QoS>,
    /// DUP of a PUBLISH.
    pub dup: bool,
    /// RETAIN of a PUBLISH.
    pub retain: bool,
    /// Topic of a PUBLISH, aliases resolved; topic of the will of a CONNECT.
    pub topic: Option<TopicName>,
    /// Filters of a SUBSCRIBE or UNSUBSCRIBE, the first `OBSERVED_FILTERS_MAX`.
    pub filters: Vec<TopicFilter>,
    /// Reason code; the first of several.
    pub reason: Option<ReasonCode>,
    /// Bytes of the payload of a PUBLISH.
    pub payload_bytes: Option<usize>,
    /// The beginning of that payload, as much as was asked for.
    pub payload: Vec<u8>,
    /// Client identifier of a CONNECT, or the one that a CONNACK assigns.
    pub client_id: Option<Text>,
}

/// Records that wait to be taken.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    /// Bytes of a payload that are kept.
    payload_bytes_max: usize,
    records: Vec<PacketRecord>,
    missed: u64,
}

impl Observer {
    /// One that keeps so many bytes of each payload.
    pub(crate) fn new(payload_bytes_max: usize) -> Observer {
        Observer { payload_bytes_max, ..Observer::default() }
    }

    /// As [`Observer::new`], for one that has records.
    pub(crate) fn keep_payload(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
    }

    /// Takes the records out, with the number of those that there was no room for.
    pub(crate) fn take(&mut self) -> (Vec<PacketRecord>, u64) {
        (std::mem::take(&mut self.records), std::mem::take(&mut self.missed))
    }

    /// A packet of so many bytes was read or written.
    pub(crate) fn note(&mut self, inbound: bool, packet: &Packet, bytes: usize) {
        let mut record = PacketRecord::new(inbound, packet.packet_type(), bytes);
        record.describe(packet, self.payload_bytes_max);
        self.push(record);
    }

    /// A PUBLISH was written.
    pub(crate) fn note_delivery(&mut self, delivery: &Delivery<'_>, bytes: usize) {
        let mut record = PacketRecord::new(false, PacketType::Publish, bytes);
        record.describe_publish(delivery.qos, delivery.payload, self.payload_bytes_max);
        (record.dup, record.retain) = (delivery.dup, delivery.retain);
        record.topic = Some(delivery.topic.clone());
        self.push(record);
    }

    /// The PUBLISH that was noted last is to this topic, whatever alias it came with.
    pub(crate) fn resolve(&mut self, topic: &TopicName) {
        let last = self.records.last_mut().filter(|record| record.packet == PacketType::Publish);
        if let Some(record) = last
            && record.inbound
        {
            record.topic.get_or_insert_with(|| topic.clone());
        }
    }

    fn push(&mut self, record: PacketRecord) {
        if self.records.len() < OBSERVED_MAX {
            self.records.push(record);
        } else {
            self.missed += 1;
        }
    }
}

impl PacketRecord {
    fn new(inbound: bool, packet: PacketType, bytes: usize) -> PacketRecord {
        PacketRecord {
            inbound,
            packet,
            bytes,
            packet_id: None,
            qos: None,
            dup: false,
            retain: false,
            topic: None,
            filters: Vec::new(),
            reason: None,
            payload_bytes: None,
            payload: Vec::new(),
            client_id: None,
        }
    }

    fn describe(&mut self, packet: &Packet, payload_bytes_max: usize) {
        match packet {
            Packet::Connect(connect) => {
                self.client_id = Some(connect.client_id.clone());
                self.topic = connect.will.as_ref().map(|will| will.topic.clone());
            }
            Packet::ConnAck(connack) => {
                self.reason = Some(connack.reason);
                self.client_id.clone_from(&connack.properties.assigned_client_id);
            }
            Packet::Publish(publish) => {
                self.describe_publish(publish.qos, &publish.payload, payload_bytes_max);
                (self.dup, self.retain) = (publish.dup, publish.retain);
                self.topic.clone_from(&publish.topic);
            }
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                let Ack { packet_id, reason, .. } = ack;
                (self.packet_id, self.reason) = (Some(*packet_id), Some(*reason));
            }
            Packet::Subscribe(subscribe) => {
                self.packet_id = Some(subscribe.packet_id);
                let filters = subscribe.filters.iter().map(|(filter, _)| filter.clone());
                self.filters = filters.take(OBSERVED_FILTERS_MAX).collect();
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.packet_id = Some(unsubscribe.packet_id);
                self.filters = unsubscribe.filters.iter().take(OBSERVED_FILTERS_MAX).cloned().collect();
            }
            Packet::SubAck(suback) => {
                (self.packet_id, self.reason) = (Some(suback.packet_id), suback.reasons.first().copied());
            }
            Packet::UnsubAck(unsuback) => {
                (self.packet_id, self.reason) = (Some(unsuback.packet_id), unsuback.reasons.first().copied());
            }
            Packet::Disconnect(disconnect) => self.reason = Some(disconnect.reason),
            Packet::Auth(auth) => self.reason = Some(auth.reason),
            Packet::PingReq | Packet::PingResp => {}
        }
    }

    fn describe_publish(&mut self, qos: PublishQoS, payload: &[u8], payload_bytes_max: usize) {
        (self.qos, self.packet_id) = (Some(qos.level()), qos.packet_id());
        self.payload_bytes = Some(payload.len());
        self.payload = payload.get(..payload_bytes_max).unwrap_or(payload).to_vec();
    }
}
