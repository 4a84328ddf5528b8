//! Encoding of the commands of share groups.
//!
//! Owns: their bytes. Does not: apply them. See: docs/formats/entry.md.

use bytes::{BufMut, BytesMut};
use quorate_codec::{QoS, TopicFilter};

use crate::command::{Command, Message, ShareMember};
use crate::encode::{list, tag};
use crate::ids::{GroupId, SessionId, ShareId, ShareVersion};
use crate::wire::{DecodeError, Reader, put_count, put_optional_u32, put_text, qos_bits};

/// A [`Command::ShareDeliver`] without its message.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct ShareDispatch {
    pub(crate) share: ShareId,
    pub(crate) dispatch: u64,
    pub(crate) session: SessionId,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) identifier: Option<u32>,
    pub(crate) expiry_s: Option<u32>,
}

impl ShareDispatch {
    /// What comes before the message, with the tag.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(tag::SHARE_DELIVER);
        out.put_u64_le(self.share.0);
        out.put_u64_le(self.dispatch);
        out.put_u64_le(self.session.0);
        out.put_u8(qos_bits(self.qos));
        out.put_u8(u8::from(self.retain));
        put_optional_u32(out, self.identifier);
        put_optional_u32(out, self.expiry_s);
    }

    /// Reads what [`Self::encode`] wrote, after the tag.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            share: ShareId(reader.u64()?),
            dispatch: reader.u64()?,
            session: SessionId(reader.u64()?),
            qos: reader.qos()?,
            retain: reader.flag()?,
            identifier: reader.optional_u32()?,
            expiry_s: reader.optional_u32()?,
        })
    }
}

/// Writes a command of share groups.
pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    match command {
        Command::ShareJoin { filter, member, version, qos, identifier, retain_as_published, window } => {
            put_membership(out, tag::SHARE_JOIN, filter, *member, *version);
            out.put_u8(qos_bits(*qos));
            put_optional_u32(out, *identifier);
            out.put_u8(u8::from(*retain_as_published));
            out.put_u16_le(*window);
        }
        Command::ShareOffline { filter, member, version } => {
            put_membership(out, tag::SHARE_OFFLINE, filter, *member, *version);
        }
        Command::ShareLeave { filter, member, version } => {
            put_membership(out, tag::SHARE_LEAVE, filter, *member, *version);
        }
        Command::ShareConfirm { session, filter, share } => {
            out.put_u8(tag::SHARE_CONFIRM);
            out.put_u64_le(session.0);
            put_text(out, filter.as_str());
            out.put_u64_le(share.0);
        }
        Command::ShareDeliver { share, dispatch, session, qos, retain, identifier, expiry_s, message } => {
            let head = ShareDispatch {
                share: *share,
                dispatch: *dispatch,
                session: *session,
                qos: *qos,
                retain: *retain,
                identifier: *identifier,
                expiry_s: *expiry_s,
            };
            head.encode(out);
            message.encode(out);
        }
        Command::ShareSettled { share, dispatches } => {
            put_dispatches(out, tag::SHARE_SETTLED, *share, dispatches)
        }
        Command::ShareReturn { share, dispatches } => {
            put_dispatches(out, tag::SHARE_RETURN, *share, dispatches)
        }
        _ => unreachable!("only commands of share groups are given"),
    }
}

/// Reads a command of share groups after its tag; it fills the window.
pub(super) fn read(tag: u8, mut reader: Reader<'_>) -> Result<Command, DecodeError> {
    let command = match tag {
        tag::SHARE_JOIN => {
            let (filter, member, version) = membership(&mut reader)?;
            let qos = reader.qos()?;
            let identifier = reader.optional_u32()?;
            let retain_as_published = reader.flag()?;
            let window = reader.u16()?;
            Command::ShareJoin { filter, member, version, qos, identifier, retain_as_published, window }
        }
        tag::SHARE_OFFLINE => {
            let (filter, member, version) = membership(&mut reader)?;
            Command::ShareOffline { filter, member, version }
        }
        tag::SHARE_LEAVE => {
            let (filter, member, version) = membership(&mut reader)?;
            Command::ShareLeave { filter, member, version }
        }
        tag::SHARE_CONFIRM => {
            let session = SessionId(reader.u64()?);
            let filter = reader.topic_filter()?;
            Command::ShareConfirm { session, filter, share: ShareId(reader.u64()?) }
        }
        tag::SHARE_DELIVER => {
            let ShareDispatch { share, dispatch, session, qos, retain, identifier, expiry_s } =
                ShareDispatch::read(&mut reader)?;
            let message = Message::read(reader)?;
            return Ok(Command::ShareDeliver {
                share,
                dispatch,
                session,
                qos,
                retain,
                identifier,
                expiry_s,
                message,
            });
        }
        tag::SHARE_SETTLED => {
            let (share, dispatches) = dispatches(&mut reader)?;
            Command::ShareSettled { share, dispatches }
        }
        _ => {
            let (share, dispatches) = dispatches(&mut reader)?;
            Command::ShareReturn { share, dispatches }
        }
    };
    reader.done()?;
    Ok(command)
}

fn put_membership(
    out: &mut BytesMut,
    tag: u8,
    filter: &TopicFilter,
    member: ShareMember,
    version: ShareVersion,
) {
    out.put_u8(tag);
    put_text(out, filter.as_str());
    out.put_u32_le(member.group.0);
    out.put_u64_le(member.session.0);
    out.put_u64_le(version.0);
}

fn membership(reader: &mut Reader<'_>) -> Result<(TopicFilter, ShareMember, ShareVersion), DecodeError> {
    let filter = reader.topic_filter()?;
    let member = ShareMember { group: GroupId(reader.u32()?), session: SessionId(reader.u64()?) };
    Ok((filter, member, ShareVersion(reader.u64()?)))
}

fn put_dispatches(out: &mut BytesMut, tag: u8, share: ShareId, dispatches: &[u64]) {
    out.put_u8(tag);
    out.put_u64_le(share.0);
    put_count(out, dispatches.len());
    dispatches.iter().for_each(|dispatch| out.put_u64_le(*dispatch));
}

fn dispatches(reader: &mut Reader<'_>) -> Result<(ShareId, Vec<u64>), DecodeError> {
    Ok((ShareId(reader.u64()?), list(reader, Reader::u64)?))
}
