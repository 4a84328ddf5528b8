//! Who receives a published message: the cluster's routes and the subscriptions of this node's connections.
//!
//! Owns: [`Routing`] (filter to partitions and nodes; filter to local connections), [`RouteMatch`] (the answer for one
//! topic), [`RouteCache`] (recent answers of one publisher).
//! Does not: deliver; decide what a partition does with its durable sessions.
//! Invariants: every change makes a new version, so that an answer of the current version is the current answer;
//! a connection receives one direct copy of a message however many of its subscriptions match; a durable session
//! receives directly only what its subscriptions lower to QoS 0, because its partition delivers the rest; nothing that was
//! forwarded before a session came to a connection reaches it there; answers do
//! not depend on the order in which routes were added.
//! Limits: ROUTE_CACHE_TOPICS_MAX per cache; about 100 bytes per distinct filter; the number of routes is bounded by
//! the cluster's sessions, the number of local subscriptions by `ClientConfig::subscriptions_max` per connection.
//! Spec: MQTT 5, 3.3.4, 3.8.3.1, 4.7. See: docs/decisions/0001-session-homed-partitions.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate_codec::{QoS, TopicFilter};
use quorate_state::command::{RouteTarget, SubscribeFilter};
use quorate_state::hash::stable_hash;
use quorate_state::topic_trie::TopicTrie;
use quorate_state::{ConnId, GroupId, Message, NodeId, PublishTarget};

use crate::edge::{DirectDelivery, DirectMessage, LocalChange};
use crate::peer::PeerMessage;
use shares::ByShare;
pub use shares::{Draw, ShareMatch};

mod shares;

/// Topics whose answer a publisher keeps. Most publish to a few topics; more only cost the match again. Worst case
/// about 64 KiB of topic names, and the answers.
pub const ROUTE_CACHE_TOPICS_MAX: usize = 64;

/// Number of the marks of a session that goes on with another connection. Connections count their own from 1.
const FENCE_MARK: u64 = 0;

/// Home partition of a client's session, of `partitions` in all: the client identifier's stable hash decides, for
/// ever (`quorate_state::hash`).
#[must_use]
pub fn home_partition(client_id: &str, partitions: u32) -> GroupId {
    quorate_state::hash::partition_of_client(client_id, partitions)
}

/// Partition that holds a topic's retained message, of `partitions` in all: the topic's stable hash decides, for ever
/// (`quorate_state::hash`).
#[must_use]
pub fn retained_partition(topic: &str, partitions: u32) -> GroupId {
    quorate_state::hash::partition_of_topic(topic, partitions)
}

/// The partitions that a message goes to, when durable subscriptions of `fan_out` match it: of `partitions` in all, one
/// holds the retained message of the topic.
fn publish_targets(message: &Message, fan_out: &[GroupId], partitions: u32) -> Vec<PublishTarget> {
    let target = |group: &GroupId| PublishTarget { group: *group, store_retained: false, fan_out: true };
    let mut targets: Vec<PublishTarget> = fan_out.iter().map(target).collect();
    if message.retain {
        let group = retained_partition(message.topic.as_str(), partitions);
        match targets.iter_mut().find(|target| target.group == group) {
            Some(target) => target.store_retained = true,
            None => targets.push(PublishTarget { group, store_retained: true, fan_out: false }),
        }
    }
    targets
}

/// The routes as one node knows them. Shared by its connections, read mostly.
#[derive(Debug)]
pub struct Routing {
    me: NodeId,
    partitions: u32,
    version: u64,
    /// Targets per filter, ordered, without duplicates, never empty.
    routes: TopicTrie<Vec<RouteTarget>>,
    /// Local subscriptions per filter, ordered by connection, one per connection, never empty.
    local: TopicTrie<Vec<LocalSubscription>>,
    /// As `routes`, of shared subscriptions.
    share_routes: ByShare<RouteTarget>,
    /// As `local`, of shared subscriptions.
    share_members: ByShare<LocalSubscription>,
    /// Messages handed over by [`Routing::hand_over`]: each has its own draw.
    handed_over: AtomicU64,
    /// Filters of each connection, so that its end takes them all out.
    filters: BTreeMap<ConnId, BTreeSet<TopicFilter>>,
    /// Local subscriptions of transient sessions.
    transient: usize,
    /// Connections that take nothing yet that these nodes forward.
    fences: BTreeMap<ConnId, BTreeSet<NodeId>>,
    /// Connections that wait before they subscribe: the number of their marks, and the nodes that have not answered.
    marks: BTreeMap<ConnId, (u64, BTreeSet<NodeId>)>,
}

/// One subscription of one connection of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LocalSubscription {
    conn: ConnId,
    /// Hash of the client identifier, for No Local.
    client: u64,
    qos: QoS,
    no_local: bool,
    retain_as_published: bool,
    identifier: Option<u32>,
    durable: bool,
}

/// A subscription of a connection of this node, as the routing table has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnSubscription {
    /// Topic filter.
    pub filter: TopicFilter,
    /// Granted QoS.
    pub qos: QoS,
    /// The client's own messages are left out.
    pub no_local: bool,
    /// The RETAIN flag is kept as published.
    pub retain_as_published: bool,
    /// Subscription identifier.
    pub identifier: Option<u32>,
}

impl Routing {
    /// No routes yet. `partitions` is the cluster's number of partitions.
    #[must_use]
    pub fn new(me: NodeId, partitions: u32) -> Routing {
        Routing {
            me,
            partitions,
            version: 0,
            routes: TopicTrie::new(),
            local: TopicTrie::new(),
            share_routes: ByShare::default(),
            share_members: ByShare::default(),
            handed_over: AtomicU64::new(0),
            filters: BTreeMap::new(),
            transient: 0,
            fences: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    /// Grows with every change. An answer is current while its version is this one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Number of partitions of the cluster.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    /// A route was added or removed. Adding what is there and removing what is not changes nothing.
    pub fn route_changed(&mut self, filter: &TopicFilter, target: RouteTarget, added: bool) {
        let changed = if added { self.add_route(filter, target) } else { self.remove_route(filter, target) };
        if changed {
            self.version += 1;
        }
    }

    /// All routes at once: what was known before is forgotten. Local subscriptions stay.
    pub fn replace_routes(&mut self, routes: Vec<(TopicFilter, RouteTarget)>) {
        self.routes = TopicTrie::new();
        self.share_routes = ByShare::default();
        for (filter, target) in &routes {
            self.add_route(filter, *target);
        }
        self.version += 1;
    }

    /// A connection of this node changed its subscriptions.
    pub fn apply_local(&mut self, conn: ConnId, change: LocalChange) {
        let changed = match change {
            LocalChange::Add { subscription, client, durable } => {
                self.add_local(conn, &subscription, client, durable);
                true
            }
            // What they mean is known to whoever knows the other nodes: see `fence` and `mark`.
            LocalChange::Resumed | LocalChange::Mark(_) => false,
            LocalChange::Remove(filter) => self.remove_local(conn, &filter),
            LocalChange::RemoveAll => {
                self.fences.remove(&conn);
                self.marks.remove(&conn);
                self.remove_connection(conn)
            }
        };
        if changed {
            self.version += 1;
        }
    }

    /// Local subscriptions of all connections.
    #[must_use]
    pub fn local_subscriptions(&self) -> usize {
        self.filters.values().map(BTreeSet::len).sum()
    }

    /// Subscriptions of a connection of this node, in byte order of the filters.
    #[must_use]
    pub fn subscriptions_of(&self, conn: ConnId) -> Vec<OwnSubscription> {
        let own = |filter: &TopicFilter| {
            let shared = filter.is_shared();
            let all = if shared { self.share_members.get(filter) } else { self.local.get(filter.as_str()) }?;
            let found = all.iter().find(|subscription| subscription.conn == conn)?;
            Some(OwnSubscription {
                filter: filter.clone(),
                qos: found.qos,
                no_local: found.no_local,
                retain_as_published: found.retain_as_published,
                identifier: found.identifier,
            })
        };
        self.filters.get(&conn).into_iter().flatten().filter_map(own).collect()
    }

    /// Local subscriptions of sessions that end with their connection: no partition knows them.
    #[must_use]
    pub fn transient_subscriptions(&self) -> usize {
        self.transient
    }

    /// Who receives a message published to `topic`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> Arc<RouteMatch> {
        let mut targets: Vec<RouteTarget> = Vec::new();
        self.routes.match_topic(topic, |found| targets.extend_from_slice(found));
        targets.sort_unstable();
        targets.dedup();
        let mut partitions = Vec::new();
        let (mut nodes, mut nodes_qos0) = (Vec::new(), Vec::new());
        for target in targets {
            match target {
                RouteTarget::Partition(group) => partitions.push(group),
                RouteTarget::Node(node) if node != self.me => nodes.push(node),
                RouteTarget::NodeQos0(node) if node != self.me => nodes_qos0.push(node),
                RouteTarget::Node(_) | RouteTarget::NodeQos0(_) => {}
            }
        }
        nodes_qos0.retain(|node| !nodes.contains(node));
        let shares = shares::matches(&self.share_routes, &self.share_members, topic, self.me);
        partitions.extend(shares.iter().filter_map(|share| share.partition));
        partitions.sort_unstable();
        partitions.dedup();
        let mut found = Vec::new();
        self.local.match_topic(topic, |subscriptions| found.extend_from_slice(subscriptions));
        // By identifier last, so that the answer depends on the subscriptions alone.
        found.sort_unstable_by_key(|subscription| {
            (subscription.conn, subscription.identifier, subscription.qos)
        });
        let local =
            found.chunk_by(|left, right| left.conn == right.conn).filter_map(LocalMatch::combine).collect();
        Arc::new(RouteMatch { version: self.version, partitions, nodes, nodes_qos0, local, shares })
    }

    /// Hands a message that no connection here publishes to all who receive it directly: see [`RouteMatch::hand_over`].
    pub fn hand_over(
        &self,
        message: &Arc<DirectMessage>,
        direct: &mut Vec<(ConnId, DirectDelivery)>,
        forwards: &mut Vec<(NodeId, PeerMessage)>,
    ) {
        let draw = Draw::nth(self.me.0, self.handed_over.fetch_add(1, Ordering::Relaxed));
        self.matches(message.message.topic.as_str()).hand_over(message, draw, direct, forwards);
    }

    /// Direct deliveries of a message that another node forwarded to this one, in order of the connections; how many are
    /// dropped because they come too early for a connection that is fenced.
    pub fn forwarded_deliveries(
        &self,
        from: NodeId,
        message: &Arc<DirectMessage>,
        out: &mut Vec<(ConnId, DirectDelivery)>,
    ) -> u64 {
        let before = out.len();
        self.matches(message.message.topic.as_str()).deliver(message, out);
        self.hold_off(from, before, out)
    }

    /// Takes out what comes too early for connections that are fenced from a node; how much that is.
    fn hold_off(&self, from: NodeId, before: usize, out: &mut Vec<(ConnId, DirectDelivery)>) -> u64 {
        if self.fences.is_empty() {
            return 0;
        }
        let all = out.len();
        let mut at = 0;
        out.retain(|(conn, _)| {
            at += 1;
            at <= before || !self.fences.get(conn).is_some_and(|nodes| nodes.contains(&from))
        });
        u64::try_from(all - out.len()).unwrap_or(u64::MAX)
    }

    /// A session goes on with this connection: it takes nothing that these nodes forward until each has answered a mark that
    /// is sent after this call, on the way that forwarded messages take. What comes before the answer may have been on its way
    /// since before the connection, and its client may have had it elsewhere (QoS 0: at most once, MQTT 5, 4.3.1).
    pub fn fence(&mut self, conn: ConnId, nodes: BTreeSet<NodeId>) {
        if !nodes.is_empty() {
            self.fences.insert(conn, nodes);
        }
    }

    /// A connection wants to be behind everything that these nodes have forwarded until now. Whether they all have to answer a
    /// mark of this number first; if not, nothing is underway.
    pub fn mark(&mut self, conn: ConnId, number: u64, nodes: BTreeSet<NodeId>) -> bool {
        let waits = !nodes.is_empty();
        if waits {
            self.marks.insert(conn, (number, nodes));
        }
        waits
    }

    /// A node has answered a mark of a connection. Whether that was the last answer that a [`Routing::mark`] waited for.
    pub fn mark_answered(&mut self, conn: ConnId, number: u64, node: NodeId) -> bool {
        if number == FENCE_MARK {
            if let Some(nodes) = self.fences.get_mut(&conn) {
                nodes.remove(&node);
                if nodes.is_empty() {
                    self.fences.remove(&conn);
                }
            }
            return false;
        }
        let Some((asked, nodes)) = self.marks.get_mut(&conn) else { return false };
        if *asked != number {
            return false;
        }
        nodes.remove(&node);
        let answered = nodes.is_empty();
        if answered {
            self.marks.remove(&conn);
        }
        answered
    }

    /// A node was declared dead: nothing that it forwarded comes any more. Connections that waited for its answer alone, with
    /// the numbers of their marks.
    pub fn node_gone(&mut self, node: NodeId) -> Vec<(ConnId, u64)> {
        self.fences.retain(|_, nodes| {
            nodes.remove(&node);
            !nodes.is_empty()
        });
        let mut answered = Vec::new();
        self.marks.retain(|conn, (number, nodes)| {
            nodes.remove(&node);
            if nodes.is_empty() {
                answered.push((*conn, *number));
            }
            !nodes.is_empty()
        });
        answered
    }

    /// Marks that have no answer yet, of one connection or of all: connection, number and node.
    pub fn unanswered(&self, of: Option<ConnId>) -> impl Iterator<Item = (ConnId, u64, NodeId)> {
        let range = of.unwrap_or(ConnId(0))..=of.unwrap_or(ConnId(u64::MAX));
        let fences = self.fences.range(range.clone()).map(|(conn, nodes)| (conn, FENCE_MARK, nodes));
        let marks = self.marks.range(range).map(|(conn, (number, nodes))| (conn, *number, nodes));
        let all = fences.chain(marks);
        all.flat_map(|(conn, number, nodes)| nodes.iter().map(move |node| (*conn, number, *node)))
    }

    /// Deliveries of a message that this node publishes for its own connections alone: all that match, and one member of
    /// each share group that has members here.
    pub fn own_deliveries(&self, message: &Arc<DirectMessage>, out: &mut Vec<(ConnId, DirectDelivery)>) {
        let found = self.matches(message.message.topic.as_str());
        found.deliver(message, out);
        let draw = Draw::nth(self.me.0, self.handed_over.fetch_add(1, Ordering::Relaxed));
        let shares: Vec<TopicFilter> = found.shares.iter().map(|share| share.share.clone()).collect();
        self.local_share_deliveries(message, &shares, draw, out);
    }

    /// Deliveries of a message that another node forwarded for one member here of each of these share groups.
    pub fn forwarded_share_deliveries(
        &self,
        from: NodeId,
        message: &Arc<DirectMessage>,
        shares: &[TopicFilter],
        draw: Draw,
        out: &mut Vec<(ConnId, DirectDelivery)>,
    ) -> u64 {
        let before = out.len();
        self.local_share_deliveries(message, shares, draw, out);
        self.hold_off(from, before, out)
    }

    fn local_share_deliveries(
        &self,
        message: &Arc<DirectMessage>,
        shares: &[TopicFilter],
        draw: Draw,
        out: &mut Vec<(ConnId, DirectDelivery)>,
    ) {
        shares::deliver(&self.share_members, message, shares, draw, out);
    }

    fn add_route(&mut self, filter: &TopicFilter, target: RouteTarget) -> bool {
        let targets = if filter.is_shared() {
            self.share_routes.entry(filter)
        } else {
            self.routes.entry(filter.as_str(), Vec::new)
        };
        match targets.binary_search(&target) {
            Ok(_) => false,
            Err(at) => {
                targets.insert(at, target);
                true
            }
        }
    }

    fn remove_route(&mut self, filter: &TopicFilter, target: RouteTarget) -> bool {
        let shared = filter.is_shared();
        let targets =
            if shared { self.share_routes.get_mut(filter) } else { self.routes.get_mut(filter.as_str()) };
        let Some(targets) = targets else { return false };
        let Ok(at) = targets.binary_search(&target) else { return false };
        targets.remove(at);
        match (targets.is_empty(), shared) {
            (true, true) => self.share_routes.remove(filter),
            (true, false) => drop(self.routes.remove(filter.as_str())),
            (false, _) => {}
        }
        true
    }

    fn add_local(&mut self, conn: ConnId, subscription: &SubscribeFilter, client: u64, durable: bool) {
        let new = LocalSubscription {
            conn,
            client,
            qos: subscription.options.qos,
            no_local: subscription.options.no_local,
            retain_as_published: subscription.options.retain_as_published,
            identifier: subscription.identifier,
            durable,
        };
        let subscribers = if subscription.filter.is_shared() {
            self.share_members.entry(&subscription.filter)
        } else {
            self.local.entry(subscription.filter.as_str(), Vec::new)
        };
        match subscribers.binary_search_by_key(&conn, |old| old.conn) {
            // [MQTT-3.8.4-3] a subscription with the same filter is replaced.
            Ok(at) => {
                if let Some(old) = subscribers.get_mut(at) {
                    *old = new;
                }
            }
            Err(at) => {
                subscribers.insert(at, new);
                self.transient += usize::from(!durable);
                self.filters.entry(conn).or_default().insert(subscription.filter.clone());
            }
        }
    }

    fn remove_local(&mut self, conn: ConnId, filter: &TopicFilter) -> bool {
        let Some(filters) = self.filters.get_mut(&conn) else { return false };
        if !filters.remove(filter) {
            return false;
        }
        if filters.is_empty() {
            self.filters.remove(&conn);
        }
        self.remove_subscriber(conn, filter);
        true
    }

    fn remove_connection(&mut self, conn: ConnId) -> bool {
        let Some(filters) = self.filters.remove(&conn) else { return false };
        for filter in &filters {
            self.remove_subscriber(conn, filter);
        }
        true
    }

    fn remove_subscriber(&mut self, conn: ConnId, filter: &TopicFilter) {
        let shared = filter.is_shared();
        let subscribers =
            if shared { self.share_members.get_mut(filter) } else { self.local.get_mut(filter.as_str()) };
        let subscribers = subscribers.expect("a filter of a connection has subscribers");
        let at = subscribers.binary_search_by_key(&conn, |old| old.conn);
        let removed = subscribers.remove(at.expect("the connection is one of them"));
        self.transient -= usize::from(!removed.durable);
        match (subscribers.is_empty(), shared) {
            (true, true) => self.share_members.remove(filter),
            (true, false) => drop(self.local.remove(filter.as_str())),
            (false, _) => {}
        }
    }
}

/// Who receives messages of one topic, at one version of the routes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteMatch {
    /// Version of the routes this answer belongs to.
    pub version: u64,
    /// Partitions with durable subscriptions of QoS 1 or 2, or share groups, that match, ordered.
    pub partitions: Vec<GroupId>,
    /// Other nodes with connections that take messages of every QoS directly, ordered.
    pub nodes: Vec<NodeId>,
    /// Further nodes, with connections that take messages of QoS 0 directly and no others, ordered.
    pub nodes_qos0: Vec<NodeId>,
    /// Connections of this node with a matching subscription, ordered.
    pub local: Vec<LocalMatch>,
    /// Share groups that match, in the order of their texts.
    pub shares: Vec<ShareMatch>,
}

impl RouteMatch {
    /// The partitions that this message goes to.
    #[must_use]
    pub fn targets(&self, message: &Message, partitions: u32) -> Vec<PublishTarget> {
        // Durable subscriptions take messages of QoS 0 directly.
        let fan_out = if message.qos == QoS::AtMostOnce { &[] } else { &self.partitions[..] };
        publish_targets(message, fan_out, partitions)
    }

    /// Whether anyone is to receive a message of this QoS directly.
    #[must_use]
    pub fn has_direct(&self, qos: QoS) -> bool {
        let shared = || self.shares.iter().any(|share| share.is_direct(qos));
        self.other_nodes(qos).next().is_some() || !self.local.is_empty() || shared()
    }

    /// Other nodes that are to have a message of this QoS. One that goes to partitions is not sent to the nodes of their
    /// sessions as well: it would arrive after the partition's copy, and be a second one if the client has lowered its
    /// subscription to QoS 0 by then.
    fn other_nodes(&self, qos: QoS) -> impl Iterator<Item = NodeId> {
        let lowest = if qos == QoS::AtMostOnce { &self.nodes_qos0[..] } else { &[] };
        self.nodes.iter().chain(lowest).copied()
    }

    /// Whether there is no receiver at all of a message of QoS 1 or 2.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty() && !self.has_direct(QoS::AtLeastOnce)
    }

    /// Hands a message to all who receive it directly: connections of this node, other nodes, and of each share group
    /// the member that the draw chooses.
    pub fn hand_over(
        &self,
        message: &Arc<DirectMessage>,
        draw: Draw,
        direct: &mut Vec<(ConnId, DirectDelivery)>,
        forwards: &mut Vec<(NodeId, PeerMessage)>,
    ) {
        let nodes = self.other_nodes(message.message.qos);
        forwards.extend(nodes.map(|node| (node, PeerMessage::Forward(Arc::clone(message)))));
        self.deliver(message, direct);
        shares::dispatch(&self.shares, message, draw, direct, forwards);
    }

    /// The direct deliveries of a message to connections of this node, in order of the connections; not those by shares.
    fn deliver(&self, message: &Arc<DirectMessage>, out: &mut Vec<(ConnId, DirectDelivery)>) {
        for matched in &self.local {
            let Some(granted) = matched.granted_to(message.message.publisher) else { continue };
            let mut granted = granted;
            if matched.durable && granted.qos.min(message.message.qos) != QoS::AtMostOnce {
                // The session's partition delivers it, and knows nothing of what this adds.
                let Some(further) = &granted.further else { continue };
                granted = further;
            }
            out.push((matched.conn, granted.delivery(message)));
        }
    }
}

/// One connection of this node with all of its subscriptions that match a topic, taken together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalMatch {
    /// The connection.
    conn: ConnId,
    /// Hash of its client identifier.
    client: u64,
    /// Whether its session is durable.
    durable: bool,
    /// For messages of other clients.
    others: Granted,
    /// For messages of the client itself.
    own: Own,
}

/// What overlapping subscriptions grant together: [MQTT-3.3.4-2] the highest QoS, [MQTT-3.3.4-4] all identifiers.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Granted {
    qos: QoS,
    retain_as_published: bool,
    identifiers: Vec<u32>,
    /// What the subscriptions of QoS 0 alone grant, when higher ones match too and it has identifiers. The partition
    /// of a durable session does not know these subscriptions, so their identifiers go out with a further copy
    /// [MQTT-3.3.4-5].
    further: Option<Box<Granted>>,
}

/// What No Local leaves of the match for the client's own messages [MQTT-3.8.3-3].
#[derive(Clone, PartialEq, Eq, Debug)]
enum Own {
    /// No subscription has No Local.
    AsOthers,
    /// All have it.
    Nothing,
    /// Some have it; this is what the rest grants.
    Less(Box<Granted>),
}

impl LocalMatch {
    /// The connection.
    #[must_use]
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// `subscriptions` are those of one connection that match.
    fn combine(subscriptions: &[LocalSubscription]) -> Option<LocalMatch> {
        let first = subscriptions.first()?;
        let others = Granted::of(subscriptions.iter())?;
        let own = if subscriptions.iter().any(|subscription| subscription.no_local) {
            let rest = subscriptions.iter().filter(|subscription| !subscription.no_local);
            Granted::of(rest).map_or(Own::Nothing, |granted| Own::Less(Box::new(granted)))
        } else {
            Own::AsOthers
        };
        Some(LocalMatch { conn: first.conn, client: first.client, durable: first.durable, others, own })
    }

    /// What the connection is to receive of a message by `publisher`.
    fn granted_to(&self, publisher: u64) -> Option<&Granted> {
        if publisher != self.client {
            return Some(&self.others);
        }
        match &self.own {
            Own::AsOthers => Some(&self.others),
            Own::Nothing => None,
            Own::Less(granted) => Some(granted),
        }
    }
}

impl Granted {
    fn of<'a>(subscriptions: impl Iterator<Item = &'a LocalSubscription> + Clone) -> Option<Granted> {
        let lowest = |subscription: &&LocalSubscription| subscription.qos == QoS::AtMostOnce;
        let mut all = Granted::sum(subscriptions.clone())?;
        if all.qos != QoS::AtMostOnce {
            let further = Granted::sum(subscriptions.filter(lowest));
            all.further = further.filter(|further| !further.identifiers.is_empty()).map(Box::new);
        }
        Some(all)
    }

    fn delivery(&self, message: &Arc<DirectMessage>) -> DirectDelivery {
        DirectDelivery {
            qos: self.qos.min(message.message.qos),
            retain: message.message.retain && self.retain_as_published,
            identifiers: self.identifiers.clone(),
            message: Arc::clone(message),
        }
    }

    /// `None` for no subscriptions.
    fn sum<'a>(subscriptions: impl Iterator<Item = &'a LocalSubscription>) -> Option<Granted> {
        let mut granted: Option<Granted> = None;
        for subscription in subscriptions {
            let sum = granted.get_or_insert(Granted {
                qos: QoS::AtMostOnce,
                retain_as_published: false,
                identifiers: Vec::new(),
                further: None,
            });
            sum.qos = sum.qos.max(subscription.qos);
            sum.retain_as_published |= subscription.retain_as_published;
            sum.identifiers.extend(subscription.identifier);
        }
        granted
    }
}

/// Answers for the topics that one publisher used last. A topic has one place, so looking up costs one hash; another
/// topic with the same place takes it over.
#[derive(Debug, Default)]
pub struct RouteCache {
    places: Vec<Option<(Box<str>, Arc<RouteMatch>)>>,
}

impl RouteCache {
    /// The current answer for `topic`, from the cache if it is of the current version.
    pub fn lookup(&mut self, routing: &Routing, topic: &str) -> Arc<RouteMatch> {
        if self.places.is_empty() {
            self.places.resize(ROUTE_CACHE_TOPICS_MAX, None);
        }
        let at = usize::try_from(stable_hash(topic.as_bytes()) % ROUTE_CACHE_TOPICS_MAX as u64);
        let place = at.ok().and_then(|at| self.places.get_mut(at)).expect("the remainder is below the size");
        if let Some((known, found)) = place
            && **known == *topic
        {
            if found.version != routing.version() {
                *found = routing.matches(topic);
            }
            return Arc::clone(found);
        }
        let found = routing.matches(topic);
        *place = Some((topic.into(), Arc::clone(&found)));
        found
    }
}

#[cfg(test)]
mod tests;
