//! What all client connections of a node share with each other and with the worker.
//!
//! Owns: [`Edge`]. Does not: act by itself.
//! Invariants: a local subscription is in `routing` before the worker hears of it; the lease is read together with the
//! incarnation that holds it. Locks are held for the handling of one turn of one connection, never across an await.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quorate_codec::Text;
use quorate_node::client::Context;
use quorate_node::edge::{ClientEvent, ClientOutput, DirectDelivery, DirectMessage, LocalChange};
use quorate_node::peer::PeerMessage;
use quorate_node::routing::Routing;
use quorate_node::system_topics::SystemTopics;
use quorate_state::command::{AdvertisedListener, Duty};
use quorate_state::control::MARKS_LEVEL;
use quorate_state::{ConnId, Incarnation, NodeId, Owner, PublishTarget};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::cuts::Cuts;
use crate::departure::{Departure, DepartureCause};
use crate::events::NodeEvents;
use crate::inbox::Inbox;
use crate::inquiry::Inquiries;
use crate::join::Joins;
use crate::large_packets::LargePackets;
use crate::limits::{PUBLISHER_GIVES_WAY, REFERENCES_MAX};
use crate::lookout::Lookout;
use crate::mailbox::{Mailbox, Mailboxes};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::net::listener::ListenerState;
use crate::net::peer::Links;
use crate::operations::Operations;
use crate::peers::PeerReceiver;
use crate::question::Question;
use crate::reload::LiveSettings;
use crate::room::Room;
use crate::sys::figures::Heard;
use crate::telemetry::Telemetry;
use crate::traces::Traces;
use crate::worker_beat::WorkerBeat;

/// The lease as the worker last told it.
#[derive(Clone, Copy, Debug)]
pub struct LeaseState {
    /// Nothing is acknowledged from this time on.
    pub until: Duration,
    /// The incarnation that holds the lease.
    pub incarnation: Incarnation,
}

/// What connections, links and the worker share.
pub struct Edge {
    /// Identity of this node.
    pub node: NodeId,
    /// Time.
    pub clock: Clock,
    /// Routes and local subscriptions.
    pub routing: RwLock<Routing>,
    /// Current values below `$SYS`.
    pub system: RwLock<SystemTopics>,
    /// Figures of other nodes, for `$SYS`.
    pub heard: Mutex<Heard>,
    /// The lease.
    pub lease: RwLock<LeaseState>,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// Mailboxes of the connections.
    pub mailboxes: Mailboxes,
    /// Room for large packets that are being read.
    pub large_packets: LargePackets,
    /// Inbox of the worker.
    pub inbox: Arc<Inbox<Question>>,
    /// Links to peers; none on a single node.
    pub links: Option<Arc<Links<PeerReceiver>>>,
    /// What nodes ask each other for the admin API.
    pub inquiries: Inquiries,
    /// Nodes that wait for control to let them join.
    pub joins: Joins,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What takes spans; none when nothing is traced.
    pub telemetry: Option<Arc<Telemetry>>,
    /// Sign of life of the worker.
    pub worker_beat: Arc<WorkerBeat>,
    /// What room the node has on its disk and for open files.
    pub room: Room,
    /// How short memory is.
    pub memory: Memory,
    /// Listeners for clients.
    pub listeners: Arc<[Arc<ListenerState>]>,
    /// Becomes true when listeners are to end.
    pub stopping: watch::Sender<bool>,
    /// Whether client connections may stay.
    pub departure: watch::Sender<Departure>,
    /// Where clients of a listener can go instead: listeners of other nodes in service.
    pub elsewhere: RwLock<Vec<AdvertisedListener>>,
    /// The level that the cluster uses, 0 before it is known.
    pub level: AtomicU32,
    /// Parts of a backup that this node keeps.
    pub cuts: Arc<Cuts>,
    /// Operations of operators that wait for the cluster.
    pub operations: Operations,
    /// What listeners and new connections go by; changes when the configuration is read again.
    pub live: watch::Sender<Arc<LiveSettings>>,
    /// What happened lately.
    pub events: NodeEvents,
    /// Live packet logs.
    pub traces: Arc<Traces>,
    /// What the node has seen of itself and of its peers.
    pub lookout: Lookout,
}

impl Edge {
    /// Calls `handle` with the context of this moment.
    pub fn with_context<T>(&self, handle: impl FnOnce(&Context<'_>, Duration) -> T) -> T {
        let lease = *self.lease.read();
        let routing = self.routing.read();
        let system = self.system.read();
        let LeaseState { until: lease_until, incarnation } = lease;
        let draining = self.departure.borrow().is_on();
        let (intake, pressure) = (self.room.intake(), self.memory.pressure());
        let context = Context {
            routing: &routing,
            system: &system,
            lease_until,
            incarnation,
            draining,
            intake,
            pressure,
        };
        handle(&context, self.clock.now())
    }

    /// Where the clients of a listener can go instead, as a Server Reference (MQTT 5, 4.11): the listeners of the same name on
    /// other nodes. Each connection gets another one first, so that not all go to one node.
    pub fn server_reference(&self, listener: &str, conn: ConnId) -> Option<Text> {
        let elsewhere = self.elsewhere.read();
        let fit = elsewhere.iter().filter(|other| other.name.as_str() == listener);
        let mut addresses: Vec<&str> = fit.map(|other| other.address.as_str()).take(REFERENCES_MAX).collect();
        let turn = conn.0.checked_rem(u64::try_from(addresses.len()).unwrap_or(0))?;
        addresses.rotate_left(usize::try_from(turn).unwrap_or(0));
        Text::parse(&addresses.join(" ")).ok()
    }

    /// An operator wants this of the node. A process that ends goes on with that.
    pub fn duty_changed(&self, duty: Duty) {
        let connections = self.metrics.connections();
        self.metrics.set_draining(matches!(duty, Duty::Drain { .. }));
        self.departure.send_if_modified(|departure| {
            if departure.is_stop() {
                return false;
            }
            *departure = match duty {
                Duty::Full | Duty::Follow => Departure::Off,
                Duty::Drain { grace_s } => {
                    let from = self.clock.now() + Duration::from_secs(u64::from(grace_s));
                    Departure::paced(from, connections, DepartureCause::Drain)
                }
            };
            true
        });
        match duty {
            Duty::Full => tracing::info!("in service"),
            Duty::Follow => tracing::info!("an operator wants this node to lead nothing"),
            Duty::Drain { grace_s } => {
                tracing::info!(connections, grace_s, "an operator takes this node out of service");
            }
        }
    }

    /// A new connection: its identity and mailbox.
    pub fn open(&self) -> (Owner, Arc<Mailbox>) {
        let incarnation = self.lease.read().incarnation;
        let (conn, mailbox) = self.mailboxes.open();
        (Owner { node: self.node, incarnation, conn }, mailbox)
    }

    /// Carries out what a connection wants, in the order that keeps promises: subscriptions here, then direct messages,
    /// then requests to the node.
    pub async fn carry_out(&self, conn: ConnId, out: &mut ClientOutput) {
        if !out.local.is_empty() {
            let mut asks = false;
            let mut marked = Vec::new();
            let mut routing = self.routing.write();
            for change in out.local.drain(..) {
                match change {
                    LocalChange::Resumed => {
                        routing.fence(conn, self.marked_nodes(Links::ids));
                        asks = true;
                    }
                    LocalChange::Mark(number) => {
                        // A node that is dead answers nothing, and nothing comes of it.
                        if routing.mark(conn, number, self.marked_nodes(Links::alive)) {
                            asks = true;
                        } else {
                            marked.push((conn, ClientEvent::Marked(number)));
                        }
                    }
                    LocalChange::Add { .. } | LocalChange::Remove(_) | LocalChange::RemoveAll => {}
                }
                routing.apply_local(conn, change);
            }
            drop(routing);
            self.mailboxes.deliver_events(&mut marked);
            if asks {
                self.send_marks(Some(conn));
            }
        }
        let pressed = self.deliver_direct(&mut out.direct);
        self.forward(out);
        for (reason, count) in out.dropped.drain(..) {
            self.metrics.dropped(reason, count);
        }
        if !out.requests.is_empty() {
            self.inbox.post_requests(conn, &mut out.requests).await;
        }
        if pressed {
            tokio::time::sleep(PUBLISHER_GIVES_WAY).await;
        }
    }

    /// The nodes among these that answer marks: all, once the level in use knows marks.
    fn marked_nodes(&self, among: impl Fn(&Links<PeerReceiver>) -> Vec<NodeId>) -> BTreeSet<NodeId> {
        match &self.links {
            Some(links) if self.level.load(Ordering::Relaxed) >= MARKS_LEVEL => {
                among(links).into_iter().collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// Sends the marks that have no answer yet, of one connection or of all: what is sent or answered on a link that breaks is
    /// lost with it.
    pub fn send_marks(&self, of: Option<ConnId>) {
        let Some(links) = &self.links else { return };
        let marks: Vec<(ConnId, u64, NodeId)> = self.routing.read().unanswered(of).collect();
        if marks.is_empty() {
            return;
        }
        // What would wait for a node that is away is sent when it is back.
        let there = links.connected();
        for (conn, number, node) in marks.into_iter().filter(|(_, _, node)| there.contains(node)) {
            links.forward(node, |out| PeerMessage::Mark { conn, number }.encode(out));
        }
    }

    /// Puts direct deliveries into the mailboxes of their connections. Whether their publisher should give way.
    pub fn deliver_direct(&self, deliveries: &mut Vec<(ConnId, DirectDelivery)>) -> bool {
        if deliveries.is_empty() {
            return false;
        }
        self.metrics.deliveries_direct.add_len(deliveries.len());
        let pushed = self.mailboxes.deliver_direct(deliveries, self.clock.now());
        if pushed.dropped > 0 {
            self.metrics.dropped_mailbox.add(pushed.dropped);
        }
        pushed.pressed
    }

    /// The partitions that a message goes to by the routes of now.
    pub fn targets(&self, message: &DirectMessage) -> Vec<PublishTarget> {
        let found = self.routing.read().matches(message.message.topic.as_str());
        found.targets(&message.message, self.partitions)
    }

    /// Hands a message to the connections that take it directly, here and on other nodes.
    pub fn hand_over(&self, message: &Arc<DirectMessage>) {
        let mut out = ClientOutput::default();
        self.routing.read().hand_over(message, &mut out.direct, &mut out.forwards);
        self.deliver_direct(&mut out.direct);
        self.forward(&mut out);
    }

    fn forward(&self, out: &mut ClientOutput) {
        let Some(links) = &self.links else {
            out.forwards.clear();
            return;
        };
        for (node, message) in out.forwards.drain(..) {
            if links.forward(node, |out| message.encode(out)) {
                self.metrics.forwards_out.add(1);
            } else {
                self.metrics.dropped_link.add(1);
            }
        }
    }
}
