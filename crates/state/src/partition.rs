//! A partition: sessions by client identifier with their subscriptions, queues and inflight messages, and the
//! retained messages of some topics.
//!
//! Owns: applying commands to all of these together, and reading them.
//! Does not: hold message bodies, replicate or send. What leaves is an effect.
//! Invariants: see `invariants`, which checks them. Equal entries give equal states and effects on every replica.
//! Limits: [`PartitionConfig`], `limits`. See: docs/formats/entry.md.

use std::collections::BTreeSet;

use quorate_codec::{PacketId, TopicFilter, TopicName};

use crate::command::{Command, SessionExpiry};
use crate::config::PartitionConfig;
use crate::delivery::{Delivery, Totals};
use crate::displaced::Displaced;
use crate::effect::{Deliver, DropReason, Effect, Reply};
use crate::encode::CommandView;
use crate::group_state::{Apply, GroupState, Place};
use crate::ids::{
    DeliverySeq, Epoch, Incarnation, LogIndex, MessageRef, NodeId, Owner, SessionId, StreamSeq, Timestamp,
    WillId,
};
use crate::limits::SHARE_WINDOW_MAX;
use crate::live::Live;
use crate::membership::ShareNews;
use crate::retained::{Retained, RetainedItem};
use crate::session::{DirtySessions, Presence, Session, Sessions};
use crate::share::{Shares, Terms};
use crate::subscription::Subscribers;
use crate::topic_trie::TopicTrie;
use crate::will::DueWills;
use crate::wire::Reader;

mod checkpoint;
mod explain;
mod invariants;
mod publish;
mod publish_once;
mod share;
mod share_member;
mod subscribe;
mod takeover;
mod walk;
mod will;

pub use share::{ShareInfo, ShareMemberInfo};

pub use explain::{InflightDetail, OldestInflight, SessionDetail};
pub use walk::SessionRef;

/// The replicated state of a partition.
#[derive(Clone, Debug)]
pub struct Partition {
    pub(crate) config: PartitionConfig,
    pub(crate) state: GroupState,
    sessions: Sessions,
    filters: TopicTrie<Subscribers>,
    retained: Retained,
    displaced: Displaced,
    shares: Shares,
    live: Live,
    totals: Totals,
    last_session: SessionId,
    last_epoch: Epoch,
    last_will: WillId,
    due_wills: DueWills,
    /// Subscriptions that differ from the checkpoint.
    dirty_subscriptions: BTreeSet<(SessionId, TopicFilter)>,
    /// Filters whose route position differs from the checkpoint.
    dirty_routes: BTreeSet<TopicFilter>,
    /// Keys of ended sessions that the checkpoint still has.
    ended: Vec<Vec<u8>>,
    matched: Vec<publish::Matched>,
}

/// A session as operators and connections see it.
#[derive(Clone, PartialEq, Debug)]
pub struct SessionInfo {
    /// Number.
    pub session: SessionId,
    /// Client identifier.
    pub client_id: quorate_codec::Text,
    /// Principal, empty when anonymous.
    pub principal: quorate_codec::Text,
    /// Epoch of the last CONNECT.
    pub epoch: Epoch,
    /// Connection that holds it.
    pub owner: Option<Owner>,
    /// Since when no connection holds it, in replicated time.
    pub offline_since: Option<Timestamp>,
    /// Session expiry in force.
    pub expiry: SessionExpiry,
    /// Made to outlive its connection: its subscriptions and queue are here.
    pub durable: bool,
    /// Number of subscriptions here.
    pub subscriptions: usize,
    /// Queued messages.
    pub queued_messages: u64,
    /// Queued bytes.
    pub queued_bytes: u64,
    /// Unacknowledged messages.
    pub inflight: usize,
}

/// Sums over a partition.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Sessions held by a connection.
    pub online: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Topics with a retained message.
    pub retained: u64,
    /// Queued messages of all sessions.
    pub queued_messages: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Unacknowledged messages of all sessions.
    pub inflight: u64,
}

impl Partition {
    /// An empty partition, before its first entry.
    #[must_use]
    pub fn new(config: PartitionConfig) -> Self {
        Self {
            config,
            state: GroupState::default(),
            sessions: Sessions::default(),
            filters: TopicTrie::new(),
            retained: Retained::default(),
            displaced: Displaced::default(),
            shares: Shares::default(),
            live: Live::default(),
            totals: Totals::default(),
            last_session: SessionId(0),
            last_epoch: Epoch(0),
            last_will: WillId(0),
            due_wills: DueWills::default(),
            dirty_subscriptions: BTreeSet::new(),
            dirty_routes: BTreeSet::new(),
            ended: Vec::new(),
            matched: Vec::new(),
        }
    }

    /// The settings it was made with.
    #[must_use]
    pub fn config(&self) -> &PartitionConfig {
        &self.config
    }

    /// When a `Tick` is worth proposing: the first session expiry, will or end of a hold. `None` while nothing happens by time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let timers = [self.sessions.next_end(), self.sessions.next_will(), self.state.hold.ends()];
        timers.into_iter().flatten().min()
    }

    /// All that is inflight on connections of a node's incarnation and of later ones, by session and then in delivery order.
    pub fn inflight_of(&self, node: NodeId, since: Incarnation) -> impl Iterator<Item = Deliver> {
        let sessions = self.sessions.owned_since(node, since);
        sessions.flat_map(|session| self.inflight_of_session(session, DeliverySeq(1)))
    }

    /// What is inflight on the session's present connection, from a delivery on. Empty while nobody holds it.
    pub fn inflight_of_session(
        &self,
        session: SessionId,
        from: DeliverySeq,
    ) -> impl Iterator<Item = Deliver> {
        let now = self.state.now;
        let held = self.sessions.get(session).and_then(|session| Some((session, session.owner()?)));
        held.into_iter().flat_map(move |(session, owner)| {
            let sent = session.inflight.sent_from(from);
            sent.map(move |message| Delivery::delivery(now, session, owner, message))
        })
    }

    /// The subscription identifiers of a set that a delivery names; empty for an unknown session or set.
    #[must_use]
    pub fn identifiers(&self, session: SessionId, set: u16) -> &[u32] {
        self.sessions.get(session).map_or(&[], |session| session.identifiers.set(set))
    }

    /// Up to `max` retained messages whose topics match, in byte order of the topics and after one of them, each with
    /// its remaining lifetime in seconds. Fewer than `max` means that there are no more. `now` is replicated time as the
    /// leader would stamp it: the partition's own stands still while nothing is published. What came after the entry
    /// `until` is left out: who was subscribed by then gets it as it is published.
    #[must_use]
    pub fn retained(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        max: usize,
        now: Timestamp,
        until: LogIndex,
    ) -> Vec<RetainedItem> {
        let now = now.max(self.state.now);
        self.retained.page(filter.as_str(), after.map(TopicName::as_str), max, now, until)
    }

    /// Whether some message of the entry is still queued, inflight or retained: then its body is needed.
    #[must_use]
    pub fn live(&self, index: LogIndex) -> bool {
        self.live.count(index) > 0
    }

    /// The first entry from `from` on whose bodies are needed.
    #[must_use]
    pub fn live_from(&self, from: LogIndex) -> Option<LogIndex> {
        self.live.first_from(from)
    }

    /// The session of a client identifier.
    #[must_use]
    pub fn session_by_client(&self, client_id: &str) -> Option<SessionInfo> {
        self.sessions.by_client(client_id).map(session_info)
    }

    /// A session by its number.
    #[must_use]
    pub fn session(&self, session: SessionId) -> Option<SessionInfo> {
        self.sessions.get(session).map(session_info)
    }

    /// Up to `max` sessions in byte order of client identifiers, after one of them.
    #[must_use]
    pub fn sessions(&self, after: Option<&str>, max: usize) -> Vec<SessionInfo> {
        self.sessions.iter_after(after).take(max).map(session_info).collect()
    }

    /// The subscriptions of a durable session, in byte order of the filters.
    #[must_use]
    pub fn subscriptions(&self, session: SessionId) -> Vec<crate::command::SubscribeFilter> {
        self.sessions.get(session).map_or_else(Vec::new, Session::subscribe_filters)
    }

    /// Sums, kept up to date: reading them costs nothing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            sessions: self.sessions.len() as u64,
            online: self.totals.online,
            subscriptions: self.totals.subscriptions,
            retained: self.retained.len() as u64,
            queued_messages: self.totals.queued_messages,
            queued_bytes: self.totals.queued_bytes,
            inflight: self.totals.inflight,
        }
    }

    /// Wills that are due and on their way.
    #[must_use]
    pub fn wills_due(&self) -> usize {
        self.due_wills.len()
    }

    /// Share groups that have their home here.
    #[must_use]
    pub fn share_groups(&self) -> usize {
        self.shares.len()
    }

    /// The highest incarnation of any node that this state names; 0 when it names none.
    #[must_use]
    pub fn incarnation_max(&self) -> Incarnation {
        let named = [
            self.state.streams.incarnation_max(),
            self.sessions.incarnation_max(),
            self.displaced.incarnation_max(),
        ];
        named.into_iter().flatten().max().unwrap_or_default()
    }

    /// Works on one session with everything that moving its messages needs.
    fn with_session<R>(
        &mut self,
        id: SessionId,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Delivery<'_>, &mut Session, &mut DirtySessions) -> R,
    ) -> Option<R> {
        let (session, marks) = self.sessions.get_mut(id)?;
        let (live, totals) = (&mut self.live, &mut self.totals);
        let (now, news) = (self.state.now, ShareNews::default());
        let mut delivery = Delivery { now, config: &self.config, live, totals, effects, news };
        let result = work(&mut delivery, session, marks);
        let news = delivery.news;
        self.post_share_news(news);
        Some(result)
    }

    /// Whether the command comes from the connection that holds the session; otherwise it is answered.
    fn is_current(&mut self, place: Place, id: SessionId, epoch: Epoch, effects: &mut Vec<Effect>) -> bool {
        let current =
            self.sessions.get(id).is_some_and(|session| session.epoch == epoch && session.owner().is_some());
        if !current {
            self.state.reply(place, Reply::Fenced, effects);
        }
        current
    }

    /// The client has answered deliveries: `each` says what that means for one packet identifier. What has room now is sent.
    fn answered(
        &mut self,
        place: Place,
        (session, epoch): (SessionId, Epoch),
        mut packet_ids: Reader<'_>,
        effects: &mut Vec<Effect>,
        each: impl Fn(&mut Delivery<'_>, &mut Session, &mut DirtySessions, PacketId),
    ) {
        if !self.is_current(place, session, epoch, effects) {
            return;
        }
        self.with_session(session, effects, |delivery, session, marks| {
            while let Ok(packet_id) = packet_ids.packet_id() {
                each(delivery, session, marks, packet_id);
            }
            delivery.fill_window(session, marks);
        });
    }

    /// The connection is closed: the session waits for the next one, or ends.
    fn close(&mut self, id: SessionId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.owner().is_none() {
            return;
        }
        let expiry = session.expiry;
        if expiry == SessionExpiry::AtClose {
            self.end_session(id, DropReason::SessionEnded, effects);
            return;
        }
        self.totals.online -= 1;
        self.sessions.set_presence(id, Presence::Offline { since: self.state.now }, expiry);
        self.share_closed(id, effects);
        self.fire_undelayed_will(id, effects);
    }

    fn disconnect(
        &mut self,
        id: SessionId,
        epoch: Epoch,
        (expiry, normal): (Option<SessionExpiry>, bool),
        effects: &mut Vec<Effect>,
    ) {
        // A connection that lost its session closes too: nobody waits for an answer, but perhaps for its end.
        self.displaced_closed(epoch, normal, effects);
        let Some(session) = self.sessions.get(id).filter(|session| session.epoch == epoch) else { return };
        // A session that was to end with its connection cannot be prolonged [MQTT-3.14.2-2].
        if let Some(expiry) = expiry
            && session.expiry != SessionExpiry::AtClose
            && session.owner().is_some()
        {
            let presence = session.presence;
            let expiry = crate::expiry::capped(expiry, self.config.session_expiry_max_s);
            self.sessions.set_presence(id, presence, expiry);
        }
        if normal {
            self.delete_will(id);
        }
        self.close(id, effects);
    }

    fn purge(&mut self, place: Place, client_id: &str, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.by_client(client_id) else {
            self.state.reply(place, Reply::refused(NO_SESSION), effects);
            return;
        };
        let id = session.id;
        if let Some(owner) = session.owner() {
            let reason = quorate_codec::ReasonCode::ADMINISTRATIVE_ACTION;
            effects.push(Effect::Close { owner, session: id, reason });
            let (epoch, client_id) = (session.epoch, session.client_id.clone());
            let will = self.sessions.take_will(id).map(|will| will.message);
            self.displaced.insert(epoch, client_id, owner, will);
        }
        self.end_session(id, DropReason::SessionEnded, effects);
    }

    fn node_down(&mut self, node: NodeId, incarnation: Incarnation, effects: &mut Vec<Effect>) {
        self.state.streams.down(node, incarnation);
        for will in self.displaced.node_down(node, incarnation) {
            self.will_is_due(will, effects);
        }
        for dead in self.sessions.incarnations_to(node, incarnation) {
            let owned: Vec<SessionId> = self.sessions.owned_by(node, dead).collect();
            for session in owned {
                self.close(session, effects);
            }
        }
    }

    /// Ends a session with all it has.
    fn end_session(&mut self, id: SessionId, reason: DropReason, effects: &mut Vec<Effect>) {
        let Some(mut session) = self.sessions.remove(id) else { return };
        if let Some(will) = session.will.take() {
            self.will_is_due(will.message, effects);
        }
        if session.stored {
            self.ended.extend(checkpoint::session_keys(&session));
        }
        self.share_ended(&session);
        self.totals.online -= u64::from(session.owner().is_some());
        for (filter, subscription) in std::mem::take(&mut session.subscriptions) {
            self.totals.subscriptions -= 1;
            if subscription.is_fed_here(&filter) {
                self.unlink(id, &filter);
            }
            if session.stored {
                self.dirty_subscriptions.insert((id, filter));
            } else {
                self.dirty_subscriptions.remove(&(id, filter));
            }
        }
        let (live, totals) = (&mut self.live, &mut self.totals);
        let (now, news) = (self.state.now, ShareNews::default());
        let mut delivery = Delivery { now, config: &self.config, live, totals, effects, news };
        delivery.give_back(&mut session);
        delivery.discard(&mut session, reason);
        let news = delivery.news;
        self.post_share_news(news);
    }

    /// Refers to a message of the entry being applied; `None` beyond what an entry can hold.
    fn message_ref(index: LogIndex, offset: usize, bytes: usize) -> Option<MessageRef> {
        Some(MessageRef { index, offset: u32::try_from(offset).ok()?, bytes: u32::try_from(bytes).ok()? })
    }

    fn other(&mut self, place: Place, command: Command, effects: &mut Vec<Effect>) {
        match command {
            Command::Disconnect { session, epoch, expiry, normal } => {
                self.disconnect(session, epoch, (expiry, normal), effects)
            }
            Command::PublishWill { will, targets } => self.publish_will(place, will, &targets, effects),
            Command::Subscribe { session, epoch, filters } => {
                self.subscribe(place, session, epoch, filters, effects);
            }
            Command::Unsubscribe { session, epoch, filters } => {
                self.unsubscribe(place, session, epoch, &filters, effects);
            }
            Command::Purge { client_id } => self.purge(place, client_id.as_str(), effects),
            Command::NodeDown { node, incarnation } => self.node_down(node, incarnation, effects),
            Command::Release { session, epoch, packet_id } => {
                self.release_packet_id(place, (session, epoch, packet_id), effects);
            }
            Command::ShareJoin { filter, member, version, qos, identifier, retain_as_published, window } => {
                let window = window.clamp(1, SHARE_WINDOW_MAX);
                let terms = Terms { qos, identifier, retain_as_published, window };
                self.share_join(place, &filter, (member, version), terms, effects);
            }
            Command::ShareOffline { filter, member, version } => {
                self.share_offline(&filter, (member, version), effects);
            }
            Command::ShareLeave { filter, member, version } => {
                self.share_leave(&filter, (member, version), effects);
            }
            Command::ShareConfirm { session, filter, share } => {
                self.share_confirm(place, session, &filter, share);
            }
            Command::ShareSettled { share, dispatches } => {
                self.share_settled(place, share, &dispatches, effects);
            }
            Command::ShareReturn { share, dispatches } => {
                self.share_return(place, share, &dispatches, effects);
            }
            Command::Backup { backup, step } => self.state.backup(place, backup, step, effects),
            Command::Connect { .. }
            | Command::Publish { .. }
            | Command::PublishOnce { .. }
            | Command::Acknowledge { .. }
            | Command::Receive { .. }
            | Command::Enqueue { .. }
            | Command::ShareDeliver { .. } => {
                unreachable!("read as a view of its own")
            }
            Command::RouteAdd { .. }
            | Command::RouteRemove { .. }
            | Command::NodeUp { .. }
            | Command::NodeJoin { .. }
            | Command::NodeLost { .. }
            | Command::Place { .. }
            | Command::NodeForget { .. }
            | Command::NodeDuty { .. }
            | Command::NodeListeners { .. }
            | Command::NodeRemove { .. }
            | Command::Members { .. }
            | Command::Finalize { .. } => {
                self.state.reply(place, Reply::refused("not a command for a partition"), effects);
            }
        }
    }
}

impl Apply for Partition {
    fn group_state(&mut self) -> &mut GroupState {
        &mut self.state
    }

    fn advance(&mut self, effects: &mut Vec<Effect>) {
        let now = self.state.now;
        self.fire_delayed_wills(effects);
        while let Some(session) = self.sessions.pop_due(now) {
            self.end_session(session, DropReason::SessionEnded, effects);
        }
        while let Some(expired) = self.retained.pop_expired(now) {
            self.live.release(expired.message.index);
        }
    }

    fn released(&mut self, messages: &[MessageRef]) {
        messages.iter().for_each(|message| self.live.release(message.index));
    }

    fn node_lost(&mut self, _node: NodeId, _incarnation: Incarnation, _effects: &mut Vec<Effect>) {
        // Control alone knows nodes, and tells partitions by commands.
    }

    fn command(&mut self, place: Place, command: Reader<'_>, effects: &mut Vec<Effect>) {
        match CommandView::read(command) {
            Ok(CommandView::Publish { message, store_retained, fan_out }) => {
                self.publish(place, &message, store_retained, fan_out, effects);
            }
            Ok(CommandView::Acknowledge { session, epoch, packet_ids }) => {
                self.answered(
                    place,
                    (session, epoch),
                    packet_ids,
                    effects,
                    |delivery, session, marks, id| delivery.acknowledge(session, marks, id),
                );
            }
            Ok(CommandView::Connect { connect, will }) => self.connect(place, connect, will, effects),
            Ok(CommandView::Receive { session, epoch, packet_ids }) => {
                self.answered(
                    place,
                    (session, epoch),
                    packet_ids,
                    effects,
                    |delivery, session, marks, id| delivery.receive(session, marks, id),
                );
            }
            Ok(CommandView::PublishOnce { session, epoch, packet_id, targets, message }) => {
                self.publish_once(place, (session, epoch, packet_id), &targets, &message, effects);
            }
            Ok(CommandView::Enqueue { session, epoch, messages }) => {
                self.enqueue(place, (session, epoch), &messages, effects);
            }
            Ok(CommandView::ShareDeliver { deliver, message }) => {
                self.share_deliver(place, deliver, &message, effects);
            }
            Ok(CommandView::Other(command)) => self.other(place, command, effects),
            Err(_) => self.state.reply(place, Reply::refused("the command cannot be read"), effects),
        }
    }
}

fn session_info(session: &Session) -> SessionInfo {
    SessionInfo {
        session: session.id,
        client_id: session.client_id.clone(),
        principal: session.principal.clone(),
        epoch: session.epoch,
        owner: session.owner(),
        offline_since: match session.presence {
            Presence::Online(_) => None,
            Presence::Offline { since } => Some(since),
        },
        expiry: session.expiry,
        durable: session.durable,
        subscriptions: session.subscriptions.len(),
        queued_messages: session.queue.len(),
        queued_bytes: session.queue.bytes(),
        inflight: session.inflight.len(),
    }
}

/// How `Command::Purge` is refused when there is nothing to end.
pub const NO_SESSION: &str = "the client identifier has no session";

/// Position of a route that was never announced.
const NO_ROUTE: StreamSeq = StreamSeq(0);

#[cfg(test)]
mod tests;
