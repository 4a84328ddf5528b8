//! Encoding of commands and messages.
//!
//! Owns: the bytes of a [`Command`] and of a [`Message`]. Does not: frame them; see `entry`.
//! Invariants: decoding what was encoded gives the same value; a message is the last field of what carries it, so a
//! reference to it needs no length inside. See: docs/formats/entry.md.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{PacketId, QoS, Text};

use crate::command::{
    AdvertisedListener, BackupStep, Command, Duty, LeaderCommand, Message, NodeRecord, PublishTarget,
    RouteTarget, SessionExpiry, Will,
};
use crate::ids::{
    BackupId, Epoch, GroupId, Incarnation, LogIndex, NodeId, Owner, SessionId, StreamSeq, WillId,
};
use crate::reply::{expiry, owner, put_expiry, put_owner, put_subscribe_filter, subscribe_filter};
use crate::wire::{DecodeError, Reader, put_count, put_optional_u32, put_text, qos_bits, qos_of_bits};

pub(crate) mod member;
mod share;

pub(crate) use share::ShareDispatch;

/// First byte of each command.
pub(crate) mod tag {
    pub(crate) const PUBLISH: u8 = 1;
    pub(crate) const CONNECT: u8 = 2;
    pub(crate) const DISCONNECT: u8 = 3;
    pub(crate) const SUBSCRIBE: u8 = 4;
    pub(crate) const UNSUBSCRIBE: u8 = 5;
    pub(crate) const ACKNOWLEDGE: u8 = 6;
    pub(crate) const ENQUEUE: u8 = 7;
    pub(crate) const PURGE: u8 = 8;
    pub(crate) const NODE_DOWN: u8 = 9;
    pub(crate) const PUBLISH_ONCE: u8 = 10;
    pub(crate) const RELEASE: u8 = 11;
    pub(crate) const RECEIVE: u8 = 12;
    pub(crate) const PUBLISH_WILL: u8 = 13;
    pub(crate) const SHARE_JOIN: u8 = 16;
    pub(crate) const SHARE_OFFLINE: u8 = 17;
    pub(crate) const SHARE_LEAVE: u8 = 18;
    pub(crate) const SHARE_CONFIRM: u8 = 19;
    pub(crate) const SHARE_DELIVER: u8 = 20;
    pub(crate) const SHARE_SETTLED: u8 = 21;
    pub(crate) const SHARE_RETURN: u8 = 22;
    pub(crate) const BACKUP: u8 = 24;
    pub(crate) const ROUTE_ADD: u8 = 32;
    pub(crate) const ROUTE_REMOVE: u8 = 33;
    pub(crate) const NODE_UP: u8 = 34;
    pub(crate) const NODE_JOIN: u8 = 35;
    pub(crate) const NODE_LOST: u8 = 36;
    pub(crate) const PLACE: u8 = 37;
    pub(crate) const NODE_FORGET: u8 = 38;
    pub(crate) const NODE_DUTY: u8 = 39;
    pub(crate) const FINALIZE: u8 = 40;
    pub(crate) const NODE_LISTENERS: u8 = 41;
    pub(crate) const NODE_REMOVE: u8 = 42;
    pub(crate) const MEMBERS: u8 = 43;
}

const PUBLISH_STORE_RETAINED: u8 = 0b01;
const PUBLISH_FAN_OUT: u8 = 0b10;

const MESSAGE_RETAIN: u8 = 0b0_0100;
const MESSAGE_EXPIRY: u8 = 0b0_1000;
const MESSAGE_PUBLISHER: u8 = 0b1_0000;

impl Message {
    /// Writes the message; its length is not written.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut flags = qos_bits(self.qos);
        flags |= if self.retain { MESSAGE_RETAIN } else { 0 };
        flags |= if self.expiry_s.is_some() { MESSAGE_EXPIRY } else { 0 };
        flags |= if self.publisher != 0 { MESSAGE_PUBLISHER } else { 0 };
        out.put_u8(flags);
        if let Some(expiry_s) = self.expiry_s {
            out.put_u32_le(expiry_s);
        }
        if self.publisher != 0 {
            out.put_u64_le(self.publisher);
        }
        put_text(out, self.topic.as_str());
        put_count(out, self.properties.len());
        out.put_slice(&self.properties);
        out.put_slice(&self.payload);
    }

    /// Length of what [`Self::encode`] writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let expiry = if self.expiry_s.is_some() { 4 } else { 0 };
        let publisher = if self.publisher == 0 { 0 } else { 8 };
        7 + expiry + publisher + self.topic.as_str().len() + self.properties.len() + self.payload.len()
    }

    /// Reads a message that fills `data`: the part of an entry that a `MessageRef` points to. Topic, properties and
    /// payload share the storage of `data`.
    ///
    /// # Errors
    /// When the bytes are not a message.
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        Self::read(Reader::new(data))
    }

    /// Reads a message that fills the window.
    fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.at();
        let flags = reader.u8()?;
        let qos = message_qos(flags).ok_or(DecodeError::Tag { tag: flags, at })?;
        let expiry_s = if flags & MESSAGE_EXPIRY != 0 { Some(reader.u32()?) } else { None };
        let publisher = if flags & MESSAGE_PUBLISHER != 0 { reader.u64()? } else { 0 };
        let topic = reader.topic_name()?;
        let properties = reader.length()?;
        let properties = reader.shared(properties)?;
        let payload = reader.shared(reader.remaining())?;
        Ok(Self { topic, qos, retain: flags & MESSAGE_RETAIN != 0, expiry_s, publisher, properties, payload })
    }
}

fn message_qos(flags: u8) -> Option<QoS> {
    qos_of_bits(flags & 0b11).filter(|_| flags >> 5 == 0)
}

/// A message as apply needs it: nothing is copied or counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageView<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) publisher: u64,
    pub(crate) payload_is_empty: bool,
    /// Where the message is in the entry.
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl<'a> MessageView<'a> {
    /// Reads a message that fills the window.
    fn read(mut reader: Reader<'a>) -> Result<Self, DecodeError> {
        let offset = reader.at();
        let bytes = reader.remaining();
        let flags = reader.u8()?;
        let qos = message_qos(flags).ok_or(DecodeError::Tag { tag: flags, at: offset })?;
        let expiry_s = if flags & MESSAGE_EXPIRY != 0 { Some(reader.u32()?) } else { None };
        let publisher = if flags & MESSAGE_PUBLISHER != 0 { reader.u64()? } else { 0 };
        let topic = reader.str()?;
        let properties = reader.length()?;
        reader.bytes(properties)?;
        let retain = flags & MESSAGE_RETAIN != 0;
        let payload_is_empty = reader.is_empty();
        Ok(Self { topic, qos, retain, expiry_s, publisher, payload_is_empty, offset, bytes })
    }
}

/// The frequent commands as apply needs them; the others decoded.
#[derive(Debug)]
pub(crate) enum CommandView<'a> {
    Connect {
        connect: Connect,
        will: Option<(u32, MessageView<'a>)>,
    },
    Publish {
        message: MessageView<'a>,
        store_retained: bool,
        fan_out: bool,
    },
    Acknowledge {
        session: SessionId,
        epoch: Epoch,
        packet_ids: Reader<'a>,
    },
    Receive {
        session: SessionId,
        epoch: Epoch,
        packet_ids: Reader<'a>,
    },
    Enqueue {
        session: SessionId,
        epoch: Epoch,
        messages: Vec<(QoS, Option<u32>, MessageView<'a>)>,
    },
    PublishOnce {
        session: SessionId,
        epoch: Epoch,
        packet_id: PacketId,
        targets: Vec<PublishTarget>,
        message: MessageView<'a>,
    },
    ShareDeliver {
        deliver: ShareDispatch,
        message: MessageView<'a>,
    },
    Other(Command),
}

impl<'a> CommandView<'a> {
    /// Reads a command that fills the window.
    pub(crate) fn read(mut reader: Reader<'a>) -> Result<Self, DecodeError> {
        let start = reader;
        match reader.u8()? {
            tag::PUBLISH => {
                let (store_retained, fan_out) = publish_flags(&mut reader)?;
                Ok(Self::Publish { message: MessageView::read(reader)?, store_retained, fan_out })
            }
            tag::CONNECT => {
                let (connect, has_will) = connect(&mut reader)?;
                let will = if has_will { Some((reader.u32()?, MessageView::read(reader)?)) } else { None };
                if !has_will {
                    reader.done()?;
                }
                Ok(Self::Connect { connect, will })
            }
            tag::ACKNOWLEDGE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Ok(Self::Acknowledge { session, epoch, packet_ids: reader })
            }
            tag::RECEIVE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Ok(Self::Receive { session, epoch, packet_ids: reader })
            }
            tag::PUBLISH_ONCE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                let packet_id = reader.packet_id()?;
                let targets = list(&mut reader, publish_target)?;
                let message = MessageView::read(reader)?;
                Ok(Self::PublishOnce { session, epoch, packet_id, targets, message })
            }
            tag::ENQUEUE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                let messages = enqueued(&mut reader, MessageView::read)?;
                Ok(Self::Enqueue { session, epoch, messages })
            }
            tag::SHARE_DELIVER => {
                let deliver = ShareDispatch::read(&mut reader)?;
                Ok(Self::ShareDeliver { deliver, message: MessageView::read(reader)? })
            }
            _ => Command::read(start).map(Self::Other),
        }
    }
}

fn publish_flags(reader: &mut Reader<'_>) -> Result<(bool, bool), DecodeError> {
    let at = reader.at();
    let flags = reader.u8()?;
    if flags & !(PUBLISH_STORE_RETAINED | PUBLISH_FAN_OUT) != 0 {
        return Err(DecodeError::Tag { tag: flags, at });
    }
    Ok((flags & PUBLISH_STORE_RETAINED != 0, flags & PUBLISH_FAN_OUT != 0))
}

fn publish_target(reader: &mut Reader<'_>) -> Result<PublishTarget, DecodeError> {
    let group = GroupId(reader.u32()?);
    let (store_retained, fan_out) = publish_flags(reader)?;
    Ok(PublishTarget { group, store_retained, fan_out })
}

fn put_targets(out: &mut BytesMut, targets: &[PublishTarget]) {
    put_count(out, targets.len());
    for target in targets {
        out.put_u32_le(target.group.0);
        let [_, flags] = publish_head(target.store_retained, target.fan_out);
        out.put_u8(flags);
    }
}

/// What comes before the message in an encoded [`Command::Publish`].
pub(crate) fn publish_head(store_retained: bool, fan_out: bool) -> [u8; 2] {
    let store_retained = if store_retained { PUBLISH_STORE_RETAINED } else { 0 };
    let fan_out = if fan_out { PUBLISH_FAN_OUT } else { 0 };
    [tag::PUBLISH, store_retained | fan_out]
}

fn put_packet_ids(out: &mut BytesMut, packet_ids: &[PacketId]) {
    packet_ids.iter().for_each(|packet_id| out.put_u16_le(packet_id.get()));
}

/// The packet identifiers that fill the window.
fn packet_ids(reader: &mut Reader<'_>) -> Result<Vec<PacketId>, DecodeError> {
    let mut packet_ids = Vec::with_capacity(reader.remaining() / 2);
    while !reader.is_empty() {
        packet_ids.push(reader.packet_id()?);
    }
    Ok(packet_ids)
}

fn session_epoch(reader: &mut Reader<'_>) -> Result<(SessionId, Epoch), DecodeError> {
    Ok((SessionId(reader.u64()?), Epoch(reader.u64()?)))
}

/// The messages of an Enqueue, each read by `message` from its own window.
fn enqueued<'a, M>(
    reader: &mut Reader<'a>,
    message: impl Fn(Reader<'a>) -> Result<M, DecodeError>,
) -> Result<Vec<(QoS, Option<u32>, M)>, DecodeError> {
    let mut messages = Vec::new();
    for _ in 0..reader.length()? {
        let qos = reader.qos()?;
        let identifier = reader.optional_u32()?;
        let length = reader.length()?;
        messages.push((qos, identifier, message(reader.window(length)?)?));
    }
    reader.done()?;
    Ok(messages)
}

impl Command {
    /// Writes the command; its length is not written.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Publish { message, store_retained, fan_out } => {
                out.put_slice(&publish_head(*store_retained, *fan_out));
                message.encode(out);
            }
            Self::PublishOnce { session, epoch, packet_id, targets, message } => {
                put_session(out, tag::PUBLISH_ONCE, *session, *epoch);
                out.put_u16_le(packet_id.get());
                put_targets(out, targets);
                message.encode(out);
            }
            Self::Release { session, epoch, packet_id } => {
                put_session(out, tag::RELEASE, *session, *epoch);
                out.put_u16_le(packet_id.get());
            }
            Self::Receive { session, epoch, packet_ids } => {
                put_session(out, tag::RECEIVE, *session, *epoch);
                put_packet_ids(out, packet_ids);
            }
            Self::Connect { client_id, owner, clean_start, expiry, receive_max, principal, will } => {
                out.put_slice(&[tag::CONNECT, u8::from(*clean_start)]);
                put_owner(out, *owner);
                put_expiry(out, *expiry);
                out.put_u16_le(*receive_max);
                put_text(out, client_id.as_str());
                put_text(out, principal.as_str());
                out.put_u8(u8::from(will.is_some()));
                if let Some(Will { delay_s, message }) = will {
                    out.put_u32_le(*delay_s);
                    message.encode(out);
                }
            }
            Self::PublishWill { will, targets } => {
                out.put_u8(tag::PUBLISH_WILL);
                out.put_u64_le(will.0);
                put_targets(out, targets);
            }
            Self::Disconnect { session, epoch, expiry, normal } => {
                put_session(out, tag::DISCONNECT, *session, *epoch);
                out.put_u8(u8::from(*normal));
                out.put_u8(u8::from(expiry.is_some()));
                if let Some(expiry) = expiry {
                    put_expiry(out, *expiry);
                }
            }
            Self::Subscribe { session, epoch, filters } => {
                put_session(out, tag::SUBSCRIBE, *session, *epoch);
                put_count(out, filters.len());
                filters.iter().for_each(|filter| put_subscribe_filter(out, filter));
            }
            Self::Unsubscribe { session, epoch, filters } => {
                put_session(out, tag::UNSUBSCRIBE, *session, *epoch);
                put_count(out, filters.len());
                filters.iter().for_each(|filter| put_text(out, filter.as_str()));
            }
            Self::Acknowledge { session, epoch, packet_ids } => {
                put_session(out, tag::ACKNOWLEDGE, *session, *epoch);
                put_packet_ids(out, packet_ids);
            }
            Self::Enqueue { session, epoch, messages } => {
                put_session(out, tag::ENQUEUE, *session, *epoch);
                put_count(out, messages.len());
                for (qos, identifier, message) in messages {
                    out.put_u8(qos_bits(*qos));
                    put_optional_u32(out, *identifier);
                    put_count(out, message.encoded_len());
                    message.encode(out);
                }
            }
            Self::Purge { client_id } => {
                out.put_u8(tag::PURGE);
                put_text(out, client_id.as_str());
            }
            Self::ShareJoin { .. }
            | Self::ShareOffline { .. }
            | Self::ShareLeave { .. }
            | Self::ShareConfirm { .. }
            | Self::ShareDeliver { .. }
            | Self::ShareSettled { .. }
            | Self::ShareReturn { .. } => share::encode(self, out),
            Self::NodeDown { node, incarnation } => put_node(out, tag::NODE_DOWN, *node, *incarnation),
            Self::RouteAdd { filter, target } => put_route(out, tag::ROUTE_ADD, filter.as_str(), *target),
            Self::RouteRemove { filter, target } => {
                put_route(out, tag::ROUTE_REMOVE, filter.as_str(), *target)
            }
            Self::NodeUp { node } => {
                out.put_u8(tag::NODE_UP);
                put_node_record(out, node);
            }
            Self::NodeJoin { node } => {
                out.put_u8(tag::NODE_JOIN);
                put_node_record(out, node);
            }
            Self::NodeLost { node, incarnation } => put_node(out, tag::NODE_LOST, *node, *incarnation),
            Self::Place { group, voters } => {
                out.put_u8(tag::PLACE);
                out.put_u32_le(group.0);
                put_count(out, voters.len());
                voters.iter().for_each(|voter| out.put_u64_le(voter.0));
            }
            Self::NodeForget { node } => {
                out.put_u8(tag::NODE_FORGET);
                out.put_u64_le(node.0);
            }
            Self::NodeDuty { node, duty } => {
                out.put_u8(tag::NODE_DUTY);
                out.put_u64_le(node.0);
                put_duty(out, *duty);
            }
            Self::NodeListeners { node, listeners } => {
                out.put_u8(tag::NODE_LISTENERS);
                out.put_u64_le(node.0);
                put_listeners(out, listeners);
            }
            Self::Backup { backup, step } => {
                out.put_u8(tag::BACKUP);
                out.put_u64_le(backup.0);
                put_backup_step(out, *step);
            }
            Self::Finalize { level } => {
                out.put_u8(tag::FINALIZE);
                out.put_u32_le(*level);
            }
            Self::NodeRemove { node, removal } => {
                out.put_u8(tag::NODE_REMOVE);
                out.put_u64_le(node.0);
                member::put_removal(out, removal);
            }
            Self::Members { group, index, voters, learners } => {
                out.put_u8(tag::MEMBERS);
                out.put_u32_le(group.0);
                out.put_u64_le(index.0);
                member::put_nodes(out, voters);
                member::put_nodes(out, learners);
            }
        }
    }

    /// Length of what [`Self::encode`] writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Publish { message, .. } => 2 + message.encoded_len(),
            Self::Acknowledge { packet_ids, .. } => 17 + 2 * packet_ids.len(),
            Self::Connect { client_id, principal, will, .. } => {
                let will = will.as_ref().map_or(0, |will| 4 + will.message.encoded_len());
                38 + client_id.as_str().len() + principal.as_str().len() + will
            }
            Self::Disconnect { expiry, .. } => 19 + if expiry.is_some() { 5 } else { 0 },
            Self::NodeDown { .. } | Self::NodeLost { .. } => 17,
            // The rest is rare: writing it is the simplest way to be right.
            rare => {
                let mut out = BytesMut::new();
                rare.encode(&mut out);
                out.len()
            }
        }
    }

    /// Reads the one command that fills `data`, and leaves `data` empty. Payloads share its storage.
    ///
    /// # Errors
    /// When the bytes are not exactly one command; `data` is then left as it was.
    pub fn decode(data: &mut Bytes) -> Result<Self, DecodeError> {
        let command = Self::read(Reader::new(data))?;
        data.clear();
        Ok(command)
    }

    /// Reads a command that fills the window.
    pub(crate) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.at();
        let command = match reader.u8()? {
            tag::PUBLISH => {
                let (store_retained, fan_out) = publish_flags(&mut reader)?;
                return Ok(Self::Publish { message: Message::read(reader)?, store_retained, fan_out });
            }
            tag::ENQUEUE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                let messages = enqueued(&mut reader, Message::read)?;
                Self::Enqueue { session, epoch, messages }
            }
            tag::ACKNOWLEDGE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Self::Acknowledge { session, epoch, packet_ids: packet_ids(&mut reader)? }
            }
            tag::RECEIVE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Self::Receive { session, epoch, packet_ids: packet_ids(&mut reader)? }
            }
            tag::RELEASE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Self::Release { session, epoch, packet_id: reader.packet_id()? }
            }
            tag::PUBLISH_ONCE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                let packet_id = reader.packet_id()?;
                let targets = list(&mut reader, publish_target)?;
                let message = Message::read(reader)?;
                return Ok(Self::PublishOnce { session, epoch, packet_id, targets, message });
            }
            tag::CONNECT => {
                let (connect, has_will) = connect(&mut reader)?;
                let will = if has_will {
                    let delay_s = reader.u32()?;
                    let message = Message::read(reader)?;
                    // The message is all that is left.
                    reader = reader.end();
                    Some(Will { delay_s, message })
                } else {
                    None
                };
                let Connect { client_id, owner, clean_start, expiry, receive_max, principal } = connect;
                Self::Connect { client_id, owner, clean_start, expiry, receive_max, principal, will }
            }
            tag::PUBLISH_WILL => {
                let will = WillId(reader.u64()?);
                Self::PublishWill { will, targets: list(&mut reader, publish_target)? }
            }
            tag::DISCONNECT => {
                let (session, epoch) = session_epoch(&mut reader)?;
                let normal = reader.flag()?;
                let expiry = if reader.flag()? { Some(expiry(&mut reader)?) } else { None };
                Self::Disconnect { session, epoch, expiry, normal }
            }
            tag::SUBSCRIBE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Self::Subscribe { session, epoch, filters: list(&mut reader, subscribe_filter)? }
            }
            tag::UNSUBSCRIBE => {
                let (session, epoch) = session_epoch(&mut reader)?;
                Self::Unsubscribe { session, epoch, filters: list(&mut reader, Reader::topic_filter)? }
            }
            tag::PURGE => Self::Purge { client_id: reader.text()? },
            tag::NODE_DOWN => {
                let (node, incarnation) = node(&mut reader)?;
                Self::NodeDown { node, incarnation }
            }
            tag @ tag::SHARE_JOIN..=tag::SHARE_RETURN => return share::read(tag, reader),
            tag::ROUTE_ADD => {
                let (filter, target) = (reader.topic_filter()?, route_target(&mut reader)?);
                Self::RouteAdd { filter, target }
            }
            tag::ROUTE_REMOVE => {
                let (filter, target) = (reader.topic_filter()?, route_target(&mut reader)?);
                Self::RouteRemove { filter, target }
            }
            tag::NODE_UP => Self::NodeUp { node: node_record(&mut reader)? },
            tag::NODE_JOIN => Self::NodeJoin { node: node_record(&mut reader)? },
            tag::NODE_LOST => {
                let (node, incarnation) = node(&mut reader)?;
                Self::NodeLost { node, incarnation }
            }
            tag::PLACE => {
                let group = GroupId(reader.u32()?);
                Self::Place { group, voters: list(&mut reader, |reader| reader.u64().map(NodeId))? }
            }
            tag::NODE_FORGET => Self::NodeForget { node: NodeId(reader.u64()?) },
            tag::NODE_DUTY => Self::NodeDuty { node: NodeId(reader.u64()?), duty: duty(&mut reader)? },
            tag::NODE_LISTENERS => {
                Self::NodeListeners { node: NodeId(reader.u64()?), listeners: listeners(&mut reader)? }
            }
            tag::BACKUP => Self::Backup { backup: BackupId(reader.u64()?), step: backup_step(&mut reader)? },
            tag::FINALIZE => Self::Finalize { level: reader.u32()? },
            tag::NODE_REMOVE => {
                Self::NodeRemove { node: NodeId(reader.u64()?), removal: member::removal(&mut reader)? }
            }
            tag::MEMBERS => Self::Members {
                group: GroupId(reader.u32()?),
                index: LogIndex(reader.u64()?),
                voters: member::nodes(&mut reader)?,
                learners: member::nodes(&mut reader)?,
            },
            tag => return Err(DecodeError::Tag { tag, at }),
        };
        reader.done()?;
        Ok(command)
    }
}

fn list<'a, T>(
    reader: &mut Reader<'a>,
    item: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut items = Vec::new();
    for _ in 0..reader.length()? {
        items.push(item(reader)?);
    }
    Ok(items)
}

/// The fields of a [`Command::Connect`] without its will.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) client_id: Text,
    pub(crate) owner: Owner,
    pub(crate) clean_start: bool,
    pub(crate) expiry: SessionExpiry,
    pub(crate) receive_max: u16,
    pub(crate) principal: Text,
}

/// Reads a CONNECT up to its will; whether it has one.
fn connect(reader: &mut Reader<'_>) -> Result<(Connect, bool), DecodeError> {
    let clean_start = reader.flag()?;
    let owner = owner(reader)?;
    let expiry = expiry(reader)?;
    let receive_max = reader.u16()?;
    let client_id = reader.text()?;
    let principal = reader.text()?;
    let has_will = reader.flag()?;
    Ok((Connect { client_id, owner, clean_start, expiry, receive_max, principal }, has_will))
}

fn put_backup_step(out: &mut BytesMut, step: BackupStep) {
    match step {
        BackupStep::Hold { ms } => {
            out.put_u8(1);
            out.put_u32_le(ms);
        }
        BackupStep::Cut { node } => {
            out.put_u8(2);
            out.put_u64_le(node.0);
        }
        BackupStep::Release => out.put_u8(3),
    }
}

fn backup_step(reader: &mut Reader<'_>) -> Result<BackupStep, DecodeError> {
    let at = reader.at();
    Ok(match reader.u8()? {
        1 => BackupStep::Hold { ms: reader.u32()? },
        2 => BackupStep::Cut { node: NodeId(reader.u64()?) },
        3 => BackupStep::Release,
        tag => return Err(DecodeError::Tag { tag, at }),
    })
}

fn put_session(out: &mut BytesMut, tag: u8, session: SessionId, epoch: Epoch) {
    out.put_u8(tag);
    out.put_u64_le(session.0);
    out.put_u64_le(epoch.0);
}

fn put_node(out: &mut BytesMut, tag: u8, node: NodeId, incarnation: Incarnation) {
    out.put_u8(tag);
    out.put_u64_le(node.0);
    out.put_u64_le(incarnation.0);
}

fn node(reader: &mut Reader<'_>) -> Result<(NodeId, Incarnation), DecodeError> {
    Ok((NodeId(reader.u64()?), Incarnation(reader.u64()?)))
}

fn put_route(out: &mut BytesMut, tag: u8, filter: &str, target: RouteTarget) {
    out.put_u8(tag);
    put_text(out, filter);
    put_route_target(out, target);
}

pub(crate) fn put_route_target(out: &mut BytesMut, target: RouteTarget) {
    match target {
        RouteTarget::Partition(group) => {
            out.put_u8(0);
            out.put_u64_le(u64::from(group.0));
        }
        RouteTarget::Node(node) => {
            out.put_u8(1);
            out.put_u64_le(node.0);
        }
        RouteTarget::NodeQos0(node) => {
            out.put_u8(2);
            out.put_u64_le(node.0);
        }
    }
}

pub(crate) fn route_target(reader: &mut Reader<'_>) -> Result<RouteTarget, DecodeError> {
    let at = reader.at();
    let tag = reader.u8()?;
    let number = reader.u64()?;
    match (tag, u32::try_from(number)) {
        (0, Ok(group)) => Ok(RouteTarget::Partition(GroupId(group))),
        (1, _) => Ok(RouteTarget::Node(NodeId(number))),
        (2, _) => Ok(RouteTarget::NodeQos0(NodeId(number))),
        _ => Err(DecodeError::Tag { tag, at }),
    }
}

pub(crate) fn put_node_record(out: &mut BytesMut, node: &NodeRecord) {
    out.put_u64_le(node.id.0);
    out.put_slice(&node.disk);
    out.put_u64_le(node.incarnation.0);
    for text in [&node.name, &node.peer, &node.mqtt, &node.admin, &node.zone, &node.version] {
        put_text(out, text.as_str());
    }
    out.put_u32_le(node.level);
}

pub(crate) fn put_listeners(out: &mut BytesMut, listeners: &[AdvertisedListener]) {
    put_count(out, listeners.len());
    for listener in listeners {
        put_text(out, listener.name.as_str());
        put_text(out, listener.address.as_str());
    }
}

pub(crate) fn listeners(reader: &mut Reader<'_>) -> Result<Vec<AdvertisedListener>, DecodeError> {
    list(reader, |reader| Ok(AdvertisedListener { name: reader.text()?, address: reader.text()? }))
}

pub(crate) fn put_duty(out: &mut BytesMut, duty: Duty) {
    let (tag, grace_s) = match duty {
        Duty::Full => (0, 0),
        Duty::Follow => (1, 0),
        Duty::Drain { grace_s } => (2, grace_s),
    };
    out.put_u8(tag);
    out.put_u32_le(grace_s);
}

pub(crate) fn duty(reader: &mut Reader<'_>) -> Result<Duty, DecodeError> {
    let at = reader.at();
    let (tag, grace_s) = (reader.u8()?, reader.u32()?);
    match tag {
        0 => Ok(Duty::Full),
        1 => Ok(Duty::Follow),
        2 => Ok(Duty::Drain { grace_s }),
        _ => Err(DecodeError::Tag { tag, at }),
    }
}

pub(crate) fn node_record(reader: &mut Reader<'_>) -> Result<NodeRecord, DecodeError> {
    let id = NodeId(reader.u64()?);
    let disk = reader.array()?;
    let incarnation = Incarnation(reader.u64()?);
    let name = reader.text()?;
    let peer = reader.text()?;
    let mqtt = reader.text()?;
    let admin = reader.text()?;
    let zone = reader.text()?;
    let version = reader.text()?;
    let level = reader.u32()?;
    Ok(NodeRecord { id, name, disk, incarnation, peer, mqtt, admin, zone, version, level })
}

const LEADER_OUTBOX_APPLIED: u8 = 1;
const LEADER_TICK: u8 = 2;
const LEADER_NODE_LOST: u8 = 3;

impl LeaderCommand {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::OutboxApplied { to, seq } => {
                out.put_u8(LEADER_OUTBOX_APPLIED);
                out.put_u32_le(to.0);
                out.put_u64_le(seq.0);
            }
            Self::Tick => out.put_u8(LEADER_TICK),
            Self::NodeLost { node, incarnation } => {
                out.put_u8(LEADER_NODE_LOST);
                out.put_u64_le(node.0);
                out.put_u64_le(incarnation.0);
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.at();
        match reader.u8()? {
            LEADER_OUTBOX_APPLIED => {
                Ok(Self::OutboxApplied { to: GroupId(reader.u32()?), seq: StreamSeq(reader.u64()?) })
            }
            LEADER_TICK => Ok(Self::Tick),
            LEADER_NODE_LOST => {
                Ok(Self::NodeLost { node: NodeId(reader.u64()?), incarnation: Incarnation(reader.u64()?) })
            }
            tag => Err(DecodeError::Tag { tag, at }),
        }
    }
}
