//! Sessions: who they belong to, which connection holds them, and where to find them.
//!
//! Owns: the session, the tables by number, client identifier and owner, the timers of expiry and wills, the marks of what a
//! checkpoint lacks. Does not: deliver, match topics or decide on takeover.
//! Invariants: one session per client identifier; a session has a timer exactly when it has no connection and ends by
//! time; the owner table lists exactly the sessions with a connection.
//! Limits: `PartitionConfig::sessions_max`.

use std::collections::HashMap; // lookup only
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_codec::{QoS, SubscriptionOptions, Text, TopicFilter};

use crate::command::{SessionExpiry, SubscribeFilter};
use crate::drops::Drops;
use crate::expiry::{SessionTimers, session_end, will_due};
use crate::hash::{NumberState, client_hash};
use crate::identifiers::IdentifierSets;
use crate::ids::{Epoch, Incarnation, NodeId, Owner, SessionId, Timestamp};
use crate::inbound::Inbound;
use crate::inflight::Inflight;
use crate::membership::Memberships;
use crate::queue::Queue;
use crate::reply::{expiry, owner, put_expiry, put_owner};
use crate::will::{HeldWill, message_ref, put_message_ref};
use crate::wire::{DecodeError, Reader, own_text, put_text};

/// What of a session differs from the checkpoint.
pub(crate) mod dirty {
    pub(crate) const SESSION: u8 = 1;
    pub(crate) const DELIVERY: u8 = 2;
    pub(crate) const QUEUE: u8 = 4;
    pub(crate) const IDENTIFIERS: u8 = 8;
    pub(crate) const INBOUND: u8 = 16;
    pub(crate) const DROPS: u8 = 64;
    pub(crate) const SHARED: u8 = 128;
}

/// A subscription in a session.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Subscription {
    pub(crate) options: SubscriptionOptions,
    pub(crate) identifier: Option<u32>,
}

impl Subscription {
    /// Whether its partition gets the messages for it: those of QoS 0 the connection's node gets, and those of shared
    /// subscriptions the partition of the share group.
    pub(crate) fn is_fed_here(&self, filter: &TopicFilter) -> bool {
        self.options.qos != QoS::AtMostOnce && !filter.is_shared()
    }
}

/// Whether a connection holds the session.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Presence {
    Online(Owner),
    Offline { since: Timestamp },
}

/// State per client identifier.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) client_id: Text,
    pub(crate) client_hash: u64,
    pub(crate) principal: Text,
    pub(crate) epoch: Epoch,
    pub(crate) presence: Presence,
    pub(crate) receive_max: u16,
    pub(crate) expiry: SessionExpiry,
    /// Made to outlive its connection. A resumed session stays so, even when it now ends with its connection.
    pub(crate) durable: bool,
    pub(crate) subscriptions: BTreeMap<TopicFilter, Subscription>,
    pub(crate) identifiers: IdentifierSets,
    pub(crate) inflight: Inflight,
    pub(crate) inbound: Inbound,
    /// Of the connection that holds it, or held it last.
    pub(crate) will: Option<HeldWill>,
    pub(crate) memberships: Memberships,
    pub(crate) queue: Queue,
    pub(crate) drops: Drops,
    pub(crate) dirty: u8,
    /// The checkpoint has records of it.
    pub(crate) stored: bool,
}

impl Session {
    pub(crate) fn owner(&self) -> Option<Owner> {
        match self.presence {
            Presence::Online(owner) => Some(owner),
            Presence::Offline { .. } => None,
        }
    }

    /// When it ends by time.
    pub(crate) fn end(&self) -> Option<Timestamp> {
        match self.presence {
            Presence::Online(_) => None,
            Presence::Offline { since } => session_end(since, self.expiry),
        }
    }

    /// When its will is due.
    pub(crate) fn will_due(&self) -> Option<Timestamp> {
        match (self.presence, self.will) {
            (Presence::Offline { since }, Some(will)) => {
                Some(will_due(since, will.delay_s, session_end(since, self.expiry)))
            }
            (Presence::Online(_), _) | (_, None) => None,
        }
    }

    fn schedule(&self) -> Schedule {
        Schedule { owner: self.owner(), end: self.end(), will: self.will_due() }
    }

    pub(crate) fn subscribe_filters(&self) -> Vec<SubscribeFilter> {
        let all = self.subscriptions.iter();
        all.map(|(filter, subscription)| SubscribeFilter {
            filter: filter.clone(),
            options: subscription.options,
            identifier: subscription.identifier,
        })
        .collect()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put_text(out, self.client_id.as_str());
        put_text(out, self.principal.as_str());
        out.put_u64_le(self.epoch.0);
        match self.presence {
            Presence::Online(owner) => {
                out.put_u8(1);
                put_owner(out, owner);
            }
            Presence::Offline { since } => {
                out.put_u8(0);
                out.put_u64_le(since.0);
            }
        }
        out.put_u16_le(self.receive_max);
        put_expiry(out, self.expiry);
        out.put_u8(u8::from(self.durable));
        out.put_u8(u8::from(self.will.is_some()));
        if let Some(will) = self.will {
            out.put_u32_le(will.delay_s);
            put_message_ref(out, will.message);
        }
    }

    pub(crate) fn decode(id: SessionId, content: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(content);
        let client_id = own_text(&reader.text()?);
        let principal = own_text(&reader.text()?);
        let epoch = Epoch(reader.u64()?);
        let presence = if reader.flag()? {
            Presence::Online(owner(&mut reader)?)
        } else {
            Presence::Offline { since: Timestamp(reader.u64()?) }
        };
        let receive_max = reader.u16()?;
        let expiry = expiry(&mut reader)?;
        let durable = reader.flag()?;
        let will = if reader.flag()? {
            Some(HeldWill { delay_s: reader.u32()?, message: message_ref(&mut reader)? })
        } else {
            None
        };
        reader.done()?;
        let mut session = Self::new(id, client_id, principal);
        session.epoch = epoch;
        session.presence = presence;
        session.receive_max = receive_max;
        session.expiry = expiry;
        session.durable = durable;
        session.will = will;
        session.dirty = 0;
        session.stored = true;
        Ok(session)
    }

    pub(crate) fn new(id: SessionId, client_id: Text, principal: Text) -> Self {
        Self {
            id,
            client_hash: client_hash(client_id.as_str()),
            client_id,
            principal,
            epoch: Epoch(0),
            presence: Presence::Offline { since: Timestamp(0) },
            receive_max: 1,
            expiry: SessionExpiry::AtClose,
            durable: false,
            subscriptions: BTreeMap::new(),
            identifiers: IdentifierSets::default(),
            inflight: Inflight::default(),
            inbound: Inbound::default(),
            will: None,
            memberships: Memberships::default(),
            queue: Queue::default(),
            drops: Drops::default(),
            dirty: 0,
            stored: false,
        }
    }
}

/// Where a session is listed besides its number and client.
#[derive(Clone, Copy)]
struct Schedule {
    owner: Option<Owner>,
    end: Option<Timestamp>,
    will: Option<Timestamp>,
}

/// Sessions that differ from the checkpoint.
#[derive(Clone, Default, Debug)]
pub(crate) struct DirtySessions(BTreeSet<SessionId>);

impl DirtySessions {
    pub(crate) fn mark(&mut self, session: &mut Session, what: u8) {
        if session.dirty == 0 {
            self.0.insert(session.id);
        }
        session.dirty |= what;
    }

    pub(crate) fn take(&mut self) -> BTreeSet<SessionId> {
        std::mem::take(&mut self.0)
    }
}

/// All sessions of a partition.
#[derive(Clone, Default, Debug)]
pub(crate) struct Sessions {
    /// Point lookups only.
    by_id: HashMap<SessionId, Box<Session>, NumberState>,
    by_client: BTreeMap<Box<str>, SessionId>,
    by_owner: BTreeMap<(NodeId, Incarnation), BTreeSet<SessionId>>,
    timers: SessionTimers,
    will_timers: SessionTimers,
    dirty: DirtySessions,
}

impl Sessions {
    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id).map(|session| &**session)
    }

    /// The session to be changed, with the marks for the checkpoint.
    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<(&mut Session, &mut DirtySessions)> {
        self.by_id.get_mut(&id).map(|session| (&mut **session, &mut self.dirty))
    }

    pub(crate) fn by_client(&self, client_id: &str) -> Option<&Session> {
        self.by_client.get(client_id).and_then(|id| self.get(*id))
    }

    /// In order of client identifiers, after one of them.
    pub(crate) fn iter_after(&self, after: Option<&str>) -> impl Iterator<Item = &Session> {
        self.iter_from(after.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// In order of client identifiers, from a bound on.
    pub(crate) fn iter_from<'a>(&'a self, from: Bound<&str>) -> impl Iterator<Item = &'a Session> + use<'a> {
        self.by_client.range::<str, _>((from, Bound::Unbounded)).filter_map(|(_, id)| self.get(*id))
    }

    /// In order of their numbers.
    pub(crate) fn iter_by_id(&self) -> impl Iterator<Item = &Session> {
        let mut ids: Vec<SessionId> = self.by_client.values().copied().collect();
        ids.sort_unstable();
        ids.into_iter().filter_map(|id| self.get(id))
    }

    /// Sessions held by connections of a node's incarnation, in order of their numbers.
    pub(crate) fn owned_by(&self, node: NodeId, incarnation: Incarnation) -> impl Iterator<Item = SessionId> {
        self.by_owner.get(&(node, incarnation)).into_iter().flatten().copied()
    }

    /// Sessions held by connections of a node's incarnation or a later one, in order of incarnations and numbers.
    pub(crate) fn owned_since(&self, node: NodeId, since: Incarnation) -> impl Iterator<Item = SessionId> {
        let owned = self.by_owner.range((node, since)..=(node, Incarnation(u64::MAX)));
        owned.flat_map(|(_, sessions)| sessions).copied()
    }

    /// Incarnations of a node, up to one, that hold sessions.
    pub(crate) fn incarnations_to(&self, node: NodeId, last: Incarnation) -> Vec<Incarnation> {
        self.by_owner.range((node, Incarnation(0))..=(node, last)).map(|(owner, _)| owner.1).collect()
    }

    /// The highest incarnation of any node that holds a session.
    pub(crate) fn incarnation_max(&self) -> Option<Incarnation> {
        self.by_owner.keys().map(|(_, incarnation)| *incarnation).max()
    }

    pub(crate) fn next_end(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    pub(crate) fn next_will(&self) -> Option<Timestamp> {
        self.will_timers.next()
    }

    /// Takes the will of a session whose time has come.
    pub(crate) fn pop_due_will(&mut self, now: Timestamp) -> Option<HeldWill> {
        let id = self.will_timers.pop_due(now)?;
        self.take_will(id)
    }

    /// Takes a session's will.
    pub(crate) fn take_will(&mut self, id: SessionId) -> Option<HeldWill> {
        self.get(id)?.will?;
        self.set_will(id, None)
    }

    /// Gives a session another will, or none; returns the one before.
    pub(crate) fn set_will(&mut self, id: SessionId, will: Option<HeldWill>) -> Option<HeldWill> {
        let mut before = None;
        self.reschedule(id, |session| before = std::mem::replace(&mut session.will, will));
        before
    }

    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<SessionId> {
        self.timers.pop_due(now)
    }

    pub(crate) fn take_dirty(&mut self) -> BTreeSet<SessionId> {
        self.dirty.take()
    }

    /// Adds a session with whatever presence it has.
    pub(crate) fn insert(&mut self, session: Session) {
        let id = session.id;
        self.by_client.insert(session.client_id.as_str().into(), id);
        self.link(id, session.schedule());
        self.by_id.insert(id, Box::new(session));
    }

    /// Takes a session out of all tables.
    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        let session = self.by_id.remove(&id)?;
        self.by_client.remove(session.client_id.as_str());
        self.unlink(id, session.schedule());
        self.dirty.0.remove(&id);
        Some(session)
    }

    /// Changes presence and expiry, which decide on owner table and timer.
    pub(crate) fn set_presence(&mut self, id: SessionId, presence: Presence, expiry: SessionExpiry) {
        self.reschedule(id, |session| {
            session.presence = presence;
            session.expiry = expiry;
        });
    }

    /// Changes what decides on owner table and timers.
    fn reschedule(&mut self, id: SessionId, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.by_id.get_mut(&id) else { return };
        let before = session.schedule();
        change(session);
        let after = session.schedule();
        self.dirty.mark(session, dirty::SESSION);
        self.unlink(id, before);
        self.link(id, after);
    }

    fn link(&mut self, id: SessionId, schedule: Schedule) {
        if let Some(owner) = schedule.owner {
            self.by_owner.entry((owner.node, owner.incarnation)).or_default().insert(id);
        }
        if let Some(end) = schedule.end {
            self.timers.start(end, id);
        }
        if let Some(due) = schedule.will {
            self.will_timers.start(due, id);
        }
    }

    fn unlink(&mut self, id: SessionId, schedule: Schedule) {
        if let Some(owner) = schedule.owner {
            let key = (owner.node, owner.incarnation);
            if let Some(owned) = self.by_owner.get_mut(&key) {
                owned.remove(&id);
                if owned.is_empty() {
                    self.by_owner.remove(&key);
                }
            }
        }
        if let Some(end) = schedule.end {
            self.timers.stop(end, id);
        }
        if let Some(due) = schedule.will {
            self.will_timers.stop(due, id);
        }
    }

    /// Panics when an invariant does not hold.
    pub(crate) fn check(&self) {
        assert_eq!(self.by_id.len(), self.by_client.len(), "one session per client identifier");
        let mut timers = 0;
        let mut owned = 0;
        let mut wills = 0;
        for session in self.iter_by_id() {
            assert_eq!(self.by_client.get(session.client_id.as_str()), Some(&session.id));
            if let Some(owner) = session.owner() {
                let listed = self.by_owner.get(&(owner.node, owner.incarnation));
                assert!(
                    listed.is_some_and(|listed| listed.contains(&session.id)),
                    "an owned session is listed"
                );
                owned += 1;
            }
            if let Some(end) = session.end() {
                assert!(self.timers.contains(end, session.id), "a session that ends by time has a timer");
                timers += 1;
            }
            if let Some(due) = session.will_due() {
                assert!(self.will_timers.contains(due, session.id), "a will that waits has a timer");
                wills += 1;
            }
        }
        assert_eq!(self.timers.len(), timers, "no timer without a session");
        assert_eq!(self.will_timers.len(), wills, "no timer without a will");
        assert_eq!(
            self.by_owner.values().map(BTreeSet::len).sum::<usize>(),
            owned,
            "no owner without a session"
        );
    }
}
