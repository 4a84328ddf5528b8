//! Encoding of replies: kept ones are part of a checkpoint, and they travel from leader to source.
//!
//! Owns: the bytes of a [`Reply`]. Does not: keep replies. See: docs/formats/entry.md.

use bytes::{BufMut, Bytes, BytesMut};

use crate::command::{SessionExpiry, SubscribeFilter};
use crate::effect::{Reply, SubscribeResult};
use crate::ids::{
    ConnId, DeliverySeq, Epoch, Incarnation, NodeId, Owner, SessionId, ShareVersion, StreamSeq,
};
use crate::wire::{
    DecodeError, Reader, options_byte, own_filter, own_text, put_count, put_optional_u32, put_text,
};

const REJECTED: u8 = 1;
const CONNECTED: u8 = 2;
const CONNECT_REFUSED: u8 = 3;
const SUBSCRIBED: u8 = 4;
const UNSUBSCRIBED: u8 = 5;
const FENCED: u8 = 6;
const JOINED: u8 = 7;
const REFUSED: u8 = 8;
const DUPLICATE: u8 = 9;
const NOT_FOUND: u8 = 10;
const UNSETTLED: u8 = 11;
const SHARE_JOINED: u8 = 12;

impl Reply {
    /// Writes the reply; its length is not written.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Rejected(reason) => out.put_slice(&[REJECTED, reason.value()]),
            Self::ConnectRefused(reason) => out.put_slice(&[CONNECT_REFUSED, reason.value()]),
            Self::Connected {
                session,
                epoch,
                session_present,
                previous,
                subscriptions,
                next_delivery,
                expiry,
                version,
            } => {
                out.put_u8(CONNECTED);
                out.put_u64_le(session.0);
                out.put_u64_le(epoch.0);
                out.put_u8(u8::from(*session_present));
                put_count(out, previous.len());
                previous.iter().for_each(|owner| put_owner(out, *owner));
                out.put_u64_le(next_delivery.0);
                put_expiry(out, *expiry);
                put_count(out, subscriptions.len());
                subscriptions.iter().for_each(|filter| put_subscribe_filter(out, filter));
                out.put_u64_le(version.0);
            }
            Self::Subscribed(results) => {
                out.put_u8(SUBSCRIBED);
                put_count(out, results.len());
                for result in results {
                    out.put_u8(result.reason.value());
                    out.put_u8(u8::from(result.existed));
                    out.put_u64_le(result.route.map_or(0, |route| route.0));
                    out.put_u64_le(result.version.0);
                }
            }
            Self::Unsubscribed(existed) => {
                out.put_u8(UNSUBSCRIBED);
                put_count(out, existed.len());
                existed.iter().for_each(|existed| out.put_u8(u8::from(*existed)));
            }
            Self::ShareJoined { route } => {
                out.put_u8(SHARE_JOINED);
                out.put_u64_le(route.0);
            }
            Self::Fenced => out.put_u8(FENCED),
            Self::Duplicate => out.put_u8(DUPLICATE),
            Self::NotFound => out.put_u8(NOT_FOUND),
            Self::Unsettled => out.put_u8(UNSETTLED),
            Self::Joined { node } => {
                out.put_u8(JOINED);
                out.put_u64_le(node.0);
            }
            Self::Refused(why) => {
                out.put_u8(REFUSED);
                put_text(out, why.as_str());
            }
        }
    }

    /// Reads a reply that fills `data`.
    ///
    /// # Errors
    /// When the bytes are not exactly one reply.
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(data);
        let reply = Self::read(&mut reader)?;
        reader.done()?;
        Ok(reply)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let at = reader.at();
        match reader.u8()? {
            REJECTED => Ok(Self::Rejected(reader.reason()?)),
            CONNECT_REFUSED => Ok(Self::ConnectRefused(reader.reason()?)),
            CONNECTED => Self::read_connected(reader),
            SUBSCRIBED => {
                let mut results = Vec::new();
                for _ in 0..reader.length()? {
                    let reason = reader.reason()?;
                    let existed = reader.flag()?;
                    let route = Some(StreamSeq(reader.u64()?)).filter(|route| route.0 != 0);
                    let version = ShareVersion(reader.u64()?);
                    results.push(SubscribeResult { reason, existed, route, version });
                }
                Ok(Self::Subscribed(results))
            }
            UNSUBSCRIBED => {
                let mut existed = Vec::new();
                for _ in 0..reader.length()? {
                    existed.push(reader.flag()?);
                }
                Ok(Self::Unsubscribed(existed))
            }
            SHARE_JOINED => Ok(Self::ShareJoined { route: StreamSeq(reader.u64()?) }),
            FENCED => Ok(Self::Fenced),
            DUPLICATE => Ok(Self::Duplicate),
            NOT_FOUND => Ok(Self::NotFound),
            UNSETTLED => Ok(Self::Unsettled),
            JOINED => Ok(Self::Joined { node: NodeId(reader.u64()?) }),
            REFUSED => Ok(Self::Refused(own_text(&reader.text()?))),
            tag => Err(DecodeError::Tag { tag, at }),
        }
    }

    fn read_connected(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let session = SessionId(reader.u64()?);
        let epoch = Epoch(reader.u64()?);
        let session_present = reader.flag()?;
        let mut previous = Vec::new();
        for _ in 0..reader.length()? {
            previous.push(owner(reader)?);
        }
        let next_delivery = DeliverySeq(reader.u64()?);
        let expiry = expiry(reader)?;
        let mut subscriptions = Vec::new();
        for _ in 0..reader.length()? {
            let SubscribeFilter { filter, options, identifier } = subscribe_filter(reader)?;
            subscriptions.push(SubscribeFilter { filter: own_filter(&filter), options, identifier });
        }
        let version = ShareVersion(reader.u64()?);
        Ok(Self::Connected {
            session,
            epoch,
            session_present,
            previous,
            subscriptions,
            next_delivery,
            expiry,
            version,
        })
    }

    /// A refusal in the program's own words.
    pub(crate) fn refused(why: &'static str) -> Self {
        Self::Refused(crate::wire::text_of(why))
    }
}

/// Kept here because both commands and replies carry these.
pub(crate) fn put_subscribe_filter(out: &mut BytesMut, filter: &SubscribeFilter) {
    put_text(out, filter.filter.as_str());
    out.put_u8(options_byte(filter.options));
    put_optional_u32(out, filter.identifier);
}

pub(crate) fn subscribe_filter(reader: &mut Reader<'_>) -> Result<SubscribeFilter, DecodeError> {
    let filter = reader.topic_filter()?;
    let options = reader.options()?;
    Ok(SubscribeFilter { filter, options, identifier: reader.optional_u32()? })
}

pub(crate) fn put_owner(out: &mut BytesMut, owner: Owner) {
    out.put_u64_le(owner.node.0);
    out.put_u64_le(owner.incarnation.0);
    out.put_u64_le(owner.conn.0);
}

pub(crate) fn owner(reader: &mut Reader<'_>) -> Result<Owner, DecodeError> {
    let node = NodeId(reader.u64()?);
    let incarnation = Incarnation(reader.u64()?);
    Ok(Owner { node, incarnation, conn: ConnId(reader.u64()?) })
}

pub(crate) fn put_expiry(out: &mut BytesMut, expiry: SessionExpiry) {
    let (tag, seconds) = match expiry {
        SessionExpiry::AtClose => (0, 0),
        SessionExpiry::After(seconds) => (1, seconds),
        SessionExpiry::Never => (2, 0),
    };
    out.put_u8(tag);
    out.put_u32_le(seconds);
}

pub(crate) fn expiry(reader: &mut Reader<'_>) -> Result<SessionExpiry, DecodeError> {
    let at = reader.at();
    let tag = reader.u8()?;
    let seconds = reader.u32()?;
    match tag {
        0 => Ok(SessionExpiry::AtClose),
        1 => Ok(SessionExpiry::After(seconds)),
        2 => Ok(SessionExpiry::Never),
        tag => Err(DecodeError::Tag { tag, at }),
    }
}
