//! Share groups of a partition: who takes part, which messages wait, and who has which.
//!
//! Owns: members, the choice among them, the queue, what is dispatched, what came back; records of all that.
//! Does not: send, count references or know quotas; see `dispatch`. Does not hold the sessions; see `membership`.
//! Invariants: a message is in the queue, among the returned or dispatched to one member, and nowhere twice; a member
//! that has left stays until what was dispatched to it is settled or returned; while a member is ready, nothing waits.
//! Limits: SHARES_MAX, SHARE_MEMBERS_MAX, SHARE_WINDOW_MAX; the queue as a session's. Spec: MQTT 5, 4.8.2.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{QoS, TopicFilter};

use crate::command::ShareMember;
use crate::ids::{GroupId, MessageRef, SessionId, ShareId, ShareVersion, StreamSeq};
use crate::queue::{Queue, Queued};
use crate::record::{Changes, Key, KeyReader, RestoreError, kind};
use crate::topic_trie::TopicTrie;
use crate::wire::{DecodeError, Reader, own_filter, put_count, put_optional_u32, put_text, qos_bits};

/// What a member asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Terms {
    pub(crate) qos: QoS,
    pub(crate) identifier: Option<u32>,
    pub(crate) retain_as_published: bool,
    /// Messages that it may have unsettled.
    pub(crate) window: u16,
}

/// Whether a member gets messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Online,
    /// It takes part, but its session has no connection.
    Offline,
    /// It takes part no more; what it has is not settled.
    Left,
}

/// A session in a share group.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Member {
    pub(crate) version: ShareVersion,
    pub(crate) presence: Presence,
    pub(crate) terms: Terms,
    /// When it last got a message, as the group counts; 0 for never.
    served: u64,
    pub(crate) dispatched: BTreeMap<u64, Queued>,
}

/// Order of those who can be served: least loaded first, then who waits longest.
type Turn = (usize, u64, ShareMember);

impl Member {
    pub(crate) fn new(version: ShareVersion, terms: Terms) -> Self {
        Self { version, presence: Presence::Online, terms, served: 0, dispatched: BTreeMap::new() }
    }

    fn turn(&self, key: ShareMember) -> Option<Turn> {
        let load = self.dispatched.len();
        let ready = self.presence == Presence::Online && load < usize::from(self.terms.window);
        ready.then_some((load, self.served, key))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        out.put_u64_le(self.version.0);
        out.put_u8(match self.presence {
            Presence::Online => 0,
            Presence::Offline => 1,
            Presence::Left => 2,
        });
        out.put_u8(qos_bits(self.terms.qos));
        out.put_u8(u8::from(self.terms.retain_as_published));
        put_optional_u32(&mut out, self.terms.identifier);
        out.put_u16_le(self.terms.window);
        out.put_u64_le(self.served);
        put_numbered(&mut out, &self.dispatched);
        out.into()
    }

    fn decode(content: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let version = ShareVersion(reader.u64()?);
        let at = reader.at();
        let presence = match reader.u8()? {
            0 => Presence::Online,
            1 => Presence::Offline,
            2 => Presence::Left,
            tag => return Err(DecodeError::Tag { tag, at }),
        };
        let qos = reader.qos()?;
        let retain_as_published = reader.flag()?;
        let identifier = reader.optional_u32()?;
        let window = reader.u16()?;
        let terms = Terms { qos, identifier, retain_as_published, window };
        let served = reader.u64()?;
        let dispatched = numbered(&mut reader)?;
        reader.done()?;
        Ok(Self { version, presence, terms, served, dispatched })
    }
}

/// A share group.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) id: ShareId,
    /// With `$share/` and the name.
    pub(crate) filter: TopicFilter,
    /// Position in the outbox to control that announced the route.
    pub(crate) route: StreamSeq,
    members: BTreeMap<ShareMember, Member>,
    ready: BTreeSet<Turn>,
    /// Members that have not left.
    present: usize,
    /// Who has what: the members' `dispatched`, by number.
    dispatched: BTreeMap<u64, ShareMember>,
    /// Messages that members gave back, by number.
    returned: BTreeMap<u64, Queued>,
    pub(crate) queue: Queue,
    last_dispatch: u64,
    last_served: u64,
    dirty_members: BTreeSet<ShareMember>,
    dirty_returned: bool,
    /// The checkpoint has records of it.
    stored: bool,
}

impl Share {
    fn new(id: ShareId, filter: TopicFilter) -> Self {
        Self {
            id,
            filter,
            route: StreamSeq(0),
            members: BTreeMap::new(),
            ready: BTreeSet::new(),
            present: 0,
            dispatched: BTreeMap::new(),
            returned: BTreeMap::new(),
            queue: Queue::default(),
            last_dispatch: 0,
            last_served: 0,
            dirty_members: BTreeSet::new(),
            dirty_returned: false,
            stored: false,
        }
    }

    pub(crate) fn members(&self) -> impl ExactSizeIterator<Item = (&ShareMember, &Member)> {
        self.members.iter()
    }

    pub(crate) fn member(&self, key: ShareMember) -> Option<&Member> {
        self.members.get(&key)
    }

    /// Whether somebody takes part. Otherwise it only waits for what was dispatched.
    pub(crate) fn has_members(&self) -> bool {
        self.present > 0
    }

    /// Whether it is at its end: nobody takes part and nothing is dispatched.
    pub(crate) fn is_over(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether a new message goes to a member at once.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Messages that wait for a member.
    pub(crate) fn waiting(&self) -> u64 {
        self.queue.len() + self.returned.len() as u64
    }

    pub(crate) fn insert(&mut self, key: ShareMember, member: Member) {
        self.present += usize::from(member.presence != Presence::Left);
        self.ready.extend(member.turn(key));
        self.dispatched.extend(member.dispatched.keys().map(|number| (*number, key)));
        self.members.insert(key, member);
        self.dirty_members.insert(key);
    }

    /// Changes a member; one that has left and has nothing is gone then.
    pub(crate) fn change<R>(&mut self, key: ShareMember, work: impl FnOnce(&mut Member) -> R) -> Option<R> {
        let member = self.members.get_mut(&key)?;
        let before = (member.turn(key), member.presence != Presence::Left);
        let result = work(member);
        let after = (member.turn(key), member.presence != Presence::Left);
        if before.0 != after.0 {
            if let Some(turn) = before.0 {
                self.ready.remove(&turn);
            }
            self.ready.extend(after.0);
        }
        self.present = self.present + usize::from(after.1) - usize::from(before.1);
        if member.presence == Presence::Left && member.dispatched.is_empty() {
            self.members.remove(&key);
        }
        self.dirty_members.insert(key);
        Some(result)
    }

    /// The next message with its number: what came back goes first, in its old order.
    pub(crate) fn next(&mut self) -> Option<(u64, Queued)> {
        if let Some(returned) = self.returned.pop_first() {
            self.dirty_returned = true;
            return Some(returned);
        }
        let queued = self.queue.pop()?;
        Some((self.number(), queued))
    }

    /// A number for a message that was not dispatched before.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_dispatch += 1;
        self.last_dispatch
    }

    /// Gives a message to whose turn it is; `None` when nobody can take one.
    pub(crate) fn dispatch(&mut self, number: u64, queued: Queued) -> Option<(ShareMember, Terms)> {
        let (_, _, key) = *self.ready.first()?;
        self.last_served += 1;
        let served = self.last_served;
        let terms = self.change(key, |member| {
            member.served = served;
            member.dispatched.insert(number, queued);
            member.terms
        })?;
        self.dispatched.insert(number, key);
        Some((key, terms))
    }

    /// Takes a message from the member that has it, which must be of `group`.
    pub(crate) fn take(&mut self, number: u64, group: GroupId) -> Option<Queued> {
        let key = *self.dispatched.get(&number).filter(|key| key.group == group)?;
        self.dispatched.remove(&number);
        self.change(key, |member| member.dispatched.remove(&number)).flatten()
    }

    /// Keeps a message that was taken from a member for another.
    pub(crate) fn put_back(&mut self, number: u64, queued: Queued) {
        self.returned.insert(number, queued);
        self.dirty_returned = true;
    }

    /// All messages that it refers to.
    pub(crate) fn messages(&self) -> impl Iterator<Item = MessageRef> {
        let dispatched = self.members.values().flat_map(|member| member.dispatched.values());
        self.queue.iter().chain(self.returned.values()).chain(dispatched).map(|queued| queued.message)
    }

    fn head(&self) -> Vec<u8> {
        let mut out = BytesMut::new();
        let positions = self.queue.positions();
        put_text(&mut out, self.filter.as_str());
        out.put_u64_le(self.route.0);
        out.put_u64_le(self.last_dispatch);
        out.put_u64_le(self.last_served);
        out.put_u64_le(positions.start);
        out.put_u64_le(positions.end);
        out.into()
    }

    fn decode(id: ShareId, content: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let at = reader.at();
        let mut share = Self::new(id, own_filter(&reader.topic_filter()?));
        if !share.filter.is_shared() {
            return Err(DecodeError::Topic { at });
        }
        share.route = StreamSeq(reader.u64()?);
        share.last_dispatch = reader.u64()?;
        share.last_served = reader.u64()?;
        let start = reader.u64()?;
        let end = reader.u64()?;
        reader.done()?;
        share.queue = Queue::restored(start..end.max(start));
        share.stored = true;
        Ok(share)
    }

    fn returned_record(&self) -> Option<Vec<u8>> {
        (!self.returned.is_empty()).then(|| {
            let mut out = BytesMut::new();
            put_numbered(&mut out, &self.returned);
            out.into()
        })
    }

    fn changes(&mut self, changes: &mut Changes) {
        let id = self.id;
        self.stored = true;
        changes.push((share_key(kind::SHARE, id), Some(self.head())));
        for key in std::mem::take(&mut self.dirty_members) {
            changes.push((member_key(id, key), self.members.get(&key).map(Member::encode)));
        }
        if std::mem::take(&mut self.dirty_returned) {
            changes.push((share_key(kind::SHARE_RETURNED, id), self.returned_record()));
        }
        self.queue.changes(|number, content| changes.push((block_key(id, number), content)));
    }

    /// Keys of what the checkpoint has of it, when it is over.
    fn keys(&self) -> Vec<Vec<u8>> {
        let single = [kind::SHARE, kind::SHARE_RETURNED].into_iter().map(|kind| share_key(kind, self.id));
        let members = self.dirty_members.iter().map(|key| member_key(self.id, *key));
        let blocks = self.queue.stored_blocks().map(|number| block_key(self.id, number));
        single.chain(members).chain(blocks).collect()
    }

    fn check(&self) {
        assert!(self.queue.is_whole(), "a queue has all its positions");
        let turns: BTreeSet<Turn> =
            self.members.iter().filter_map(|(key, member)| member.turn(*key)).collect();
        assert_eq!(turns, self.ready, "who can be served is known");
        let present = self.members.values().filter(|member| member.presence != Presence::Left).count();
        assert_eq!(present, self.present, "who takes part is counted");
        assert!(self.ready.is_empty() || self.waiting() == 0, "nothing waits while a member is ready");
        let mut dispatched = BTreeMap::new();
        for (key, member) in &self.members {
            assert!(
                member.presence != Presence::Left || !member.dispatched.is_empty(),
                "who has left has something"
            );
            for number in member.dispatched.keys() {
                assert_eq!(dispatched.insert(*number, *key), None, "a message is with one member");
                assert!(!self.returned.contains_key(number), "a message is with a member or came back");
            }
        }
        assert_eq!(dispatched, self.dispatched, "who has what is known");
        let numbers = self.returned.keys().chain(self.dispatched.keys());
        assert!(
            numbers.max().is_none_or(|last| *last <= self.last_dispatch),
            "numbers are handed out in order"
        );
        assert_ne!(self.route, StreamSeq(0), "the route of {} was announced", self.filter);
        assert!(!self.is_over(), "a share group that is over is gone");
    }
}

/// All share groups of a partition.
#[derive(Clone, Default, Debug)]
pub(crate) struct Shares {
    by_id: BTreeMap<ShareId, Share>,
    by_filter: BTreeMap<TopicFilter, ShareId>,
    /// By filter without share name, in order of numbers.
    matching: TopicTrie<Vec<ShareId>>,
    pub(crate) last: ShareId,
    dirty: BTreeSet<ShareId>,
    /// Keys of ended groups that the checkpoint still has.
    ended: Vec<Vec<u8>>,
}

impl Shares {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn id_of(&self, filter: &TopicFilter) -> Option<ShareId> {
        self.by_filter.get(filter).copied()
    }

    pub(crate) fn get(&self, id: ShareId) -> Option<&Share> {
        self.by_id.get(&id)
    }

    /// The group to be changed.
    pub(crate) fn get_mut(&mut self, id: ShareId) -> Option<&mut Share> {
        let share = self.by_id.get_mut(&id)?;
        self.dirty.insert(id);
        Some(share)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Share> {
        self.by_id.values()
    }

    /// In byte order of the filters, after one of them.
    pub(crate) fn iter_after(&self, after: Option<&TopicFilter>) -> impl Iterator<Item = &Share> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_filter.range::<TopicFilter, _>((from, Unbounded)).filter_map(|(_, id)| self.get(*id))
    }

    /// Groups that take messages of this topic.
    pub(crate) fn of_topic(&self, topic: &str) -> Vec<ShareId> {
        let mut found = Vec::new();
        if !self.by_id.is_empty() {
            self.matching.match_topic(topic, |ids| found.extend_from_slice(ids));
            found.retain(|id| self.get(*id).is_some_and(Share::has_members));
        }
        found
    }

    /// A new group without members.
    pub(crate) fn create(&mut self, filter: &TopicFilter, route: StreamSeq) -> ShareId {
        self.last = ShareId(self.last.0 + 1);
        let mut share = Share::new(self.last, own_filter(filter));
        share.route = route;
        self.dirty.insert(self.last);
        self.add(share);
        self.last
    }

    fn add(&mut self, share: Share) {
        let id = share.id;
        if let Some((_, plain)) = share.filter.shared() {
            let ids = self.matching.entry(plain.as_str(), Vec::new);
            if let Err(place) = ids.binary_search(&id) {
                ids.insert(place, id);
            }
        }
        self.by_filter.insert(share.filter.clone(), id);
        self.by_id.insert(id, share);
    }

    /// Takes a group out of all tables.
    pub(crate) fn remove(&mut self, id: ShareId) -> Option<Share> {
        let share = self.by_id.remove(&id)?;
        self.by_filter.remove(&share.filter);
        if let Some((_, plain)) = share.filter.shared()
            && let Some(ids) = self.matching.get_mut(plain.as_str())
        {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.matching.remove(plain.as_str());
            }
        }
        self.dirty.remove(&id);
        if share.stored {
            self.ended.extend(share.keys());
        }
        Some(share)
    }

    /// Records that differ from the checkpoint; from now on the checkpoint has them.
    pub(crate) fn changes(&mut self, changes: &mut Changes) {
        changes.extend(std::mem::take(&mut self.ended).into_iter().map(|key| (key, None)));
        for id in std::mem::take(&mut self.dirty) {
            if let Some(share) = self.by_id.get_mut(&id) {
                share.changes(changes);
            }
        }
    }

    /// All records, in byte order of their keys.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let heads = self.iter().map(|share| (share_key(kind::SHARE, share.id), share.head()));
        let members = self.iter().flat_map(|share| {
            share.members.iter().map(|(key, member)| (member_key(share.id, *key), member.encode()))
        });
        let returned = self
            .iter()
            .filter_map(|share| Some((share_key(kind::SHARE_RETURNED, share.id), share.returned_record()?)));
        let blocks = self.iter().flat_map(|share| {
            share.queue.records().map(|(number, content)| (block_key(share.id, number), content))
        });
        heads.chain(members).chain(returned).chain(blocks)
    }

    /// Takes in a record.
    pub(crate) fn restore(&mut self, key: &mut KeyReader<'_>, content: &Bytes) -> Result<(), RestoreError> {
        let bad = key.content();
        let (kind, id) = (key.kind(), ShareId(key.u64()?));
        if kind == kind::SHARE {
            self.add(Share::decode(id, content).map_err(bad)?);
            return Ok(());
        }
        let share = self.by_id.get_mut(&id).ok_or(RestoreError::Share { share: id })?;
        match kind {
            kind::SHARE_MEMBER => {
                let member = ShareMember { group: GroupId(key.u32()?), session: SessionId(key.u64()?) };
                share.insert(member, Member::decode(content).map_err(bad)?);
                share.dirty_members.clear();
            }
            kind::SHARE_RETURNED => {
                let mut reader = Reader::new(content);
                let returned = numbered(&mut reader);
                share.returned =
                    returned.and_then(|returned| reader.done().map(|()| returned)).map_err(bad)?;
            }
            _ => {
                key.u64()?;
                share.queue.restore_block(content).map_err(bad)?;
            }
        }
        Ok(())
    }

    /// Whether restored records belong together.
    pub(crate) fn is_sound(&self) -> Result<(), RestoreError> {
        for share in self.iter() {
            let dispatched: usize = share.members.values().map(|member| member.dispatched.len()).sum();
            if !share.queue.is_whole() || share.is_over() || dispatched != share.dispatched.len() {
                return Err(RestoreError::Share { share: share.id });
            }
        }
        Ok(())
    }

    /// Panics when an invariant does not hold.
    pub(crate) fn check(&self) {
        assert_eq!(self.by_id.len(), self.by_filter.len(), "one group per filter");
        let listed: usize = self.matching.to_sorted().into_iter().map(|(_, ids)| ids.len()).sum();
        assert_eq!(self.by_id.len(), listed, "all groups get messages");
        for share in self.iter() {
            assert!(share.id <= self.last, "numbers are handed out in order");
            share.check();
        }
    }
}

fn put_numbered(out: &mut BytesMut, messages: &BTreeMap<u64, Queued>) {
    put_count(out, messages.len());
    for (number, queued) in messages {
        out.put_u64_le(*number);
        queued.encode(out);
    }
}

fn numbered(reader: &mut Reader<'_>) -> Result<BTreeMap<u64, Queued>, DecodeError> {
    let mut messages = BTreeMap::new();
    for _ in 0..reader.length()? {
        messages.insert(reader.u64()?, Queued::decode(reader)?);
    }
    Ok(messages)
}

fn share_key(kind: u8, share: ShareId) -> Vec<u8> {
    Key::new(kind).u64(share.0).finish()
}

fn member_key(share: ShareId, member: ShareMember) -> Vec<u8> {
    Key::new(kind::SHARE_MEMBER).u64(share.0).u32(member.group.0).u64(member.session.0).finish()
}

fn block_key(share: ShareId, number: u64) -> Vec<u8> {
    Key::new(kind::SHARE_BLOCK).u64(share.0).u64(number).finish()
}
