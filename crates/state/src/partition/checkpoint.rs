//! The state of a partition as records, whole or what has changed, and back.
//!
//! Owns: which record holds what. Does not: store. Invariants: a state restored from its records, or from all changes
//! put together, is equal to the original, and so is its hash. See: `record`.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{Text, TopicFilter};

use crate::config::PartitionConfig;
use crate::drops::Drops;
use crate::group_state::put_meta_head;
use crate::hash::StableHash;
use crate::identifiers::IdentifierSets;
use crate::ids::{Epoch, GroupId, LogIndex, SessionId, ShareId, StreamSeq, Timestamp, WillId};
use crate::inbound::Inbound;
use crate::inflight::Inflight;
use crate::membership::Memberships;
use crate::partition::{NO_ROUTE, Partition};
use crate::queue::Queue;
use crate::record::{Changes, Key, KeyReader, RECORD_VERSION, RestoreError, kind};
use crate::session::{Session, Subscription, dirty};
use crate::share::Share;
use crate::subscription::Subscribers;
use crate::wire::{DecodeError, Reader, options_byte, put_optional_u32};

impl Partition {
    /// Records that changed since the last call, or since the restore: key, and content or `None` for deletion.
    pub fn changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        if self.state.moved {
            changes.push((meta_key(), Some(self.meta())));
        }
        self.state.changes(&mut changes);
        changes.extend(std::mem::take(&mut self.ended).into_iter().map(|key| (key, None)));
        for id in self.sessions.take_dirty() {
            if let Some((session, _)) = self.sessions.get_mut(id) {
                session_changes(session, &mut changes);
            }
        }
        for filter in std::mem::take(&mut self.dirty_routes) {
            let content =
                self.filters.get(filter.as_str()).map(|subscribers| route_content(subscribers.route));
            changes.push((Key::new(kind::ROUTE_POSITION).text(filter.as_str()).finish(), content));
        }
        for (id, filter) in std::mem::take(&mut self.dirty_subscriptions) {
            let subscription = self.sessions.get(id).and_then(|session| session.subscriptions.get(&filter));
            changes.push((subscription_key(id, filter.as_str()), subscription.map(|found| found.encode())));
        }
        let retained = self.retained.changes();
        changes.extend(
            retained.map(|(topic, content)| (Key::new(kind::RETAINED).text(&topic).finish(), content)),
        );
        changes.extend(self.due_wills.changes().map(|(will, content)| (will_key(will), content)));
        changes.extend(self.displaced.changes().map(|(epoch, content)| (displaced_key(epoch), content)));
        self.shares.changes(&mut changes);
        changes
    }

    /// All records, in byte order of their keys: a whole snapshot.
    pub fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let meta = std::iter::once((meta_key(), self.meta()));
        let sessions =
            self.sessions.iter_by_id().map(|session| (session_key(kind::SESSION, session.id), core(session)));
        let mut routes: Vec<_> = self.filters.to_sorted();
        // Byte order of filters is the order of their keys already.
        let routes = routes.drain(..).map(|(filter, subscribers)| {
            (Key::new(kind::ROUTE_POSITION).text(&filter).finish(), route_content(subscribers.route))
        });
        let routes: Vec<_> = routes.collect();
        let subscriptions = self.sessions.iter_by_id().flat_map(|session| {
            let all = session.subscriptions.iter();
            all.map(|(filter, found)| (subscription_key(session.id, filter.as_str()), found.encode()))
        });
        let identifiers = self.sessions.iter_by_id().filter(|session| !session.identifiers.is_empty());
        let identifiers = identifiers
            .map(|session| (session_key(kind::IDENTIFIERS, session.id), identifiers_content(session)));
        let delivery = self.sessions.iter_by_id();
        let delivery =
            delivery.map(|session| (session_key(kind::DELIVERY, session.id), delivery_content(session)));
        let blocks = self.sessions.iter_by_id().flat_map(|session| {
            session.queue.records().map(|(number, content)| (block_key(session.id, number), content))
        });
        let retained = self.retained.records();
        let retained =
            retained.map(|(topic, content)| (Key::new(kind::RETAINED).text(topic).finish(), content));
        let inbound = self.sessions.iter_by_id().filter(|session| !session.inbound.is_empty());
        let inbound =
            inbound.map(|session| (session_key(kind::INBOUND, session.id), inbound_content(session)));
        let shared = self.sessions.iter_by_id().filter(|session| !session.memberships.is_unused());
        let shared =
            shared.map(|session| (session_key(kind::SHARED, session.id), session.memberships.encode()));
        let drops = self.sessions.iter_by_id().filter(|session| !session.drops.is_empty());
        let drops = drops.map(|session| (session_key(kind::DROPS, session.id), drops_content(session)));
        let displaced = self.displaced.records().map(|(epoch, content)| (displaced_key(epoch), content));
        meta.chain(self.state.records())
            .chain(sessions)
            .chain(routes)
            .chain(subscriptions)
            .chain(identifiers)
            .chain(delivery)
            .chain(blocks)
            .chain(retained)
            .chain(displaced)
            .chain(inbound)
            .chain(self.due_wills.records().map(|(will, content)| (will_key(will), content)))
            .chain(drops)
            .chain(shared)
            .chain(self.shares.records())
    }

    /// A number that is equal for equal states, whatever checkpoints they went through. Reads the whole state.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = StableHash::new();
        for (key, content) in self.records() {
            hash.write(&key);
            hash.write(&content);
        }
        hash.finish()
    }

    /// The state that was checkpointed after the entry `applied`. The records come in byte order of their keys.
    ///
    /// # Errors
    /// When the records are not those of this partition, or are damaged.
    pub fn restore(
        config: PartitionConfig,
        applied: LogIndex,
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) -> Result<Self, RestoreError> {
        let mut partition = Self::new(config);
        partition.state.applied = applied;
        let mut records = records.into_iter().peekable();
        if records.peek().is_none_or(|(key, _)| **key != *meta_key()) {
            return Err(RestoreError::HeadMissing);
        }
        for (key, content) in records {
            partition.restore_record(&key, &content)?;
        }
        partition.recount()?;
        Ok(partition)
    }

    fn meta(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_meta_head(&mut out, self.state.now);
        out.put_u32_le(self.config.group.0);
        out.put_u64_le(self.last_session.0);
        out.put_u64_le(self.last_epoch.0);
        out.put_u64_le(self.last_will.0);
        out.put_u64_le(self.shares.last.0);
        out.into()
    }

    fn restore_meta(&mut self, content: &Bytes) -> Result<(), RestoreError> {
        let bad = |source| RestoreError::Content { kind: kind::META, source };
        let mut reader = Reader::new(content);
        let version = reader.u8().map_err(bad)?;
        if version != RECORD_VERSION {
            return Err(RestoreError::Version(version));
        }
        self.state.now = Timestamp(reader.u64().map_err(bad)?);
        let found = GroupId(reader.u32().map_err(bad)?);
        if found != self.config.group {
            return Err(RestoreError::OtherGroup { expected: self.config.group, found });
        }
        self.last_session = SessionId(reader.u64().map_err(bad)?);
        self.last_epoch = Epoch(reader.u64().map_err(bad)?);
        self.last_will = WillId(reader.u64().map_err(bad)?);
        self.shares.last = ShareId(reader.u64().map_err(bad)?);
        reader.done().map_err(bad)
    }

    fn restore_record(&mut self, key: &Bytes, content: &Bytes) -> Result<(), RestoreError> {
        let mut key = KeyReader::new(key)?;
        let bad = key.content();
        match key.kind() {
            kind::META => self.restore_meta(content)?,
            kind::SESSION => {
                let session = Session::decode(SessionId(key.u64()?), content).map_err(bad)?;
                self.sessions.insert(session);
            }
            kind::ROUTE_POSITION => {
                let mut reader = Reader::new(content);
                let route = StreamSeq(reader.u64().map_err(bad)?);
                self.filters.insert(key.text()?, Subscribers::new(route));
            }
            kind::SUBSCRIPTION => {
                let id = SessionId(key.u64()?);
                let filter = filter_of(key.text()?).ok_or(RestoreError::Key { kind: key.kind() })?;
                let subscription = Subscription::decode(content).map_err(bad)?;
                self.restore_subscription(id, filter, subscription)?;
            }
            kind::IDENTIFIERS => {
                let mut reader = Reader::new(content);
                let identifiers = IdentifierSets::decode(&mut reader);
                let identifiers = identifiers.and_then(|sets| reader.done().map(|()| sets)).map_err(bad)?;
                self.owner_of(kind::IDENTIFIERS, SessionId(key.u64()?))?.identifiers = identifiers;
            }
            kind::DELIVERY => {
                let (inflight, queue) = delivery_of(content).map_err(bad)?;
                let session = self.owner_of(kind::DELIVERY, SessionId(key.u64()?))?;
                session.inflight = inflight;
                session.queue = queue;
            }
            kind::INBOUND => {
                let mut reader = Reader::new(content);
                let inbound = Inbound::decode(&mut reader);
                let inbound = inbound.and_then(|inbound| reader.done().map(|()| inbound)).map_err(bad)?;
                self.owner_of(kind::INBOUND, SessionId(key.u64()?))?.inbound = inbound;
            }
            kind::DROPS => {
                let mut reader = Reader::new(content);
                let drops = Drops::decode(&mut reader);
                let drops = drops.and_then(|drops| reader.done().map(|()| drops)).map_err(bad)?;
                self.owner_of(kind::DROPS, SessionId(key.u64()?))?.drops = drops;
            }
            kind::QUEUE_BLOCK => {
                let session = self.owner_of(kind::QUEUE_BLOCK, SessionId(key.u64()?))?;
                key.u64()?;
                session.queue.restore_block(content).map_err(bad)?;
            }
            kind::RETAINED => {
                let index = self.retained.restore(key.text()?, content).map_err(bad)?;
                self.live.add(index, 1);
            }
            kind::DUE_WILL => self.due_wills.restore(WillId(key.u64()?), content).map_err(bad)?,
            kind::SHARED => {
                let memberships = Memberships::decode(content).map_err(bad)?;
                self.owner_of(kind::SHARED, SessionId(key.u64()?))?.memberships = memberships;
            }
            kind::SHARE..=kind::SHARE_BLOCK => self.shares.restore(&mut key, content)?,
            kind::DISPLACED => self.displaced.restore(Epoch(key.u64()?), content).map_err(bad)?,
            _ => return self.state.restore_record(&mut key, content),
        }
        key.done()
    }

    fn owner_of(&mut self, kind: u8, session: SessionId) -> Result<&mut Session, RestoreError> {
        let found = self.sessions.get_mut(session);
        found.map(|(session, _)| session).ok_or(RestoreError::Orphan { kind, session })
    }

    fn restore_subscription(
        &mut self,
        id: SessionId,
        filter: TopicFilter,
        subscription: Subscription,
    ) -> Result<(), RestoreError> {
        if subscription.is_fed_here(&filter) {
            let subscribers = self.filters.entry(filter.as_str(), || Subscribers::new(NO_ROUTE));
            subscribers.insert(id, subscription.into());
        }
        let session = self.owner_of(kind::SUBSCRIPTION, id)?;
        session.subscriptions.insert(filter, subscription);
        Ok(())
    }

    /// Counts again what is not in the records.
    fn recount(&mut self) -> Result<(), RestoreError> {
        self.state.outboxes.messages().for_each(|message| self.live.add(message.index, 1));
        self.due_wills.iter().for_each(|(_, message)| self.live.add(message.index, 1));
        self.displaced.wills().for_each(|message| self.live.add(message.index, 1));
        self.shares.is_sound()?;
        self.shares.iter().flat_map(Share::messages).for_each(|message| self.live.add(message.index, 1));
        let ids: Vec<SessionId> = self.sessions.iter_by_id().map(|session| session.id).collect();
        for id in ids {
            let Some((session, _)) = self.sessions.get_mut(id) else { continue };
            if !session.queue.is_whole() {
                return Err(RestoreError::QueueBroken { session: id });
            }
            let totals = &mut self.totals;
            totals.online += u64::from(session.owner().is_some());
            totals.subscriptions += session.subscriptions.len() as u64;
            totals.queued_messages += session.queue.len();
            totals.queued_bytes += session.queue.bytes();
            totals.inflight += session.inflight.len() as u64;
            if let Some(will) = session.will {
                self.live.add(will.message.index, 1);
            }
            let inflight = session.inflight.iter().map(|message| &message.queued);
            let inflight = inflight.filter(|queued| !queued.is_received());
            let mut shared = 0;
            for queued in session.queue.iter().chain(inflight) {
                if queued.identifiers != 0 && session.identifiers.set(queued.identifiers).is_empty() {
                    let source = DecodeError::Order { at: 0 };
                    return Err(RestoreError::Content { kind: kind::IDENTIFIERS, source });
                }
                session.identifiers.hold(queued.identifiers);
                if !session.memberships.is_ghost(queued) {
                    self.live.add(queued.message.index, 1);
                    shared += usize::from(queued.is_shared());
                }
            }
            if shared != session.memberships.messages() {
                let source = DecodeError::Order { at: 0 };
                return Err(RestoreError::Content { kind: kind::SHARED, source });
            }
        }
        Ok(())
    }
}

/// Keys of what the checkpoint has of a session, other than its subscriptions.
pub(super) fn session_keys(session: &Session) -> Vec<Vec<u8>> {
    let id = session.id;
    let kinds = [kind::SESSION, kind::IDENTIFIERS, kind::DELIVERY, kind::INBOUND, kind::DROPS, kind::SHARED];
    let single = kinds.into_iter().map(|kind| session_key(kind, id));
    single.chain(session.queue.stored_blocks().map(|number| block_key(id, number))).collect()
}

fn session_changes(session: &mut Session, changes: &mut Changes) {
    let what = std::mem::take(&mut session.dirty);
    let id = session.id;
    session.stored = true;
    if what & dirty::SESSION != 0 {
        changes.push((session_key(kind::SESSION, id), Some(core(session))));
    }
    if what & dirty::IDENTIFIERS != 0 {
        let content = (!session.identifiers.is_empty()).then(|| identifiers_content(session));
        changes.push((session_key(kind::IDENTIFIERS, id), content));
    }
    if what & dirty::DELIVERY != 0 {
        changes.push((session_key(kind::DELIVERY, id), Some(delivery_content(session))));
    }
    if what & dirty::INBOUND != 0 {
        let content = (!session.inbound.is_empty()).then(|| inbound_content(session));
        changes.push((session_key(kind::INBOUND, id), content));
    }
    // Messages of share groups come and go together with their places.
    if what & (dirty::SHARED | dirty::DELIVERY | dirty::QUEUE) != 0 && !session.memberships.is_unused() {
        changes.push((session_key(kind::SHARED, id), Some(session.memberships.encode())));
    }
    if what & dirty::DROPS != 0 {
        changes.push((session_key(kind::DROPS, id), Some(drops_content(session))));
    }
    if what & dirty::QUEUE != 0 {
        session.queue.changes(|number, content| changes.push((block_key(id, number), content)));
    }
}

impl Subscription {
    fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::with_capacity(6);
        out.put_u8(options_byte(self.options));
        put_optional_u32(&mut out, self.identifier);
        out.into()
    }

    fn decode(content: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let subscription = Self { options: reader.options()?, identifier: reader.optional_u32()? };
        reader.done()?;
        Ok(subscription)
    }
}

fn core(session: &Session) -> Vec<u8> {
    let mut out = BytesMut::new();
    session.encode(&mut out);
    out.into()
}

fn identifiers_content(session: &Session) -> Vec<u8> {
    let mut out = BytesMut::new();
    session.identifiers.encode(&mut out);
    out.into()
}

fn inbound_content(session: &Session) -> Vec<u8> {
    let mut out = BytesMut::new();
    session.inbound.encode(&mut out);
    out.into()
}

fn drops_content(session: &Session) -> Vec<u8> {
    let mut out = BytesMut::new();
    session.drops.encode(&mut out);
    out.into()
}

fn delivery_content(session: &Session) -> Vec<u8> {
    let mut out = BytesMut::new();
    let positions = session.queue.positions();
    out.put_u64_le(positions.start);
    out.put_u64_le(positions.end);
    session.inflight.encode(&mut out);
    out.into()
}

fn delivery_of(content: &Bytes) -> Result<(Inflight, Queue), DecodeError> {
    let mut reader = Reader::new(content);
    let start = reader.u64()?;
    let end = reader.u64()?;
    let inflight = Inflight::decode(&mut reader)?;
    reader.done()?;
    Ok((inflight, Queue::restored(start..end.max(start))))
}

fn route_content(route: StreamSeq) -> Vec<u8> {
    route.0.to_le_bytes().to_vec()
}

fn filter_of(filter: &str) -> Option<TopicFilter> {
    TopicFilter::new(Text::parse(filter).ok()?).ok()
}

fn meta_key() -> Vec<u8> {
    Key::new(kind::META).finish()
}

fn session_key(kind: u8, session: SessionId) -> Vec<u8> {
    Key::new(kind).u64(session.0).finish()
}

fn subscription_key(session: SessionId, filter: &str) -> Vec<u8> {
    Key::new(kind::SUBSCRIPTION).u64(session.0).text(filter).finish()
}

fn displaced_key(epoch: Epoch) -> Vec<u8> {
    Key::new(kind::DISPLACED).u64(epoch.0).finish()
}

fn will_key(will: WillId) -> Vec<u8> {
    Key::new(kind::DUE_WILL).u64(will.0).finish()
}

fn block_key(session: SessionId, number: u64) -> Vec<u8> {
    Key::new(kind::QUEUE_BLOCK).u64(session.0).u64(number).finish()
}
