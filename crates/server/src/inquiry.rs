//! Inquiries: what a node asks another one for an answer of the admin API.
//!
//! Owns: [`Inquiry`] and [`Answer`], the same for a node that asks itself; [`Inquiries`], which brings them there and back.
//! Does not: know the answers, see `local`; put the answers of nodes together, see `admin::gather`.
//! Invariants: an answer is taken from the node that was asked, once; a node that does not know an inquiry says so.
//! Limits: INQUIRIES_WAITING_MAX wait to be answered, then further ones are dropped and their askers give up after
//! ADMIN_PEER_TIMEOUT; INQUIRIES_AT_ONCE_MAX are answered at once.

pub mod local;
pub mod walk;

use std::collections::HashMap; // lookup only
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate_api::{
    QueueLength, RetainedMessage, RetainedSummary, SessionExplanation, SessionSummary, SlowConsumer,
};
use quorate_node::node::BacklogOrder;
use quorate_node::peer::PeerMessage;
use quorate_state::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::edge::Edge;
use crate::limits::{ADMIN_PEER_TIMEOUT, INQUIRIES_AT_ONCE_MAX, INQUIRIES_WAITING_MAX, WALKS_AT_ONCE_MAX};

/// What is asked of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inquiry {
    /// Sessions of these groups.
    Sessions {
        /// Groups.
        groups: Vec<u32>,
        /// Which of them.
        filter: SessionsWanted,
        /// After this client identifier.
        after: Option<String>,
        /// At most so many.
        max: usize,
    },
    /// Subscriptions of these groups' sessions.
    Subscriptions {
        /// Groups.
        groups: Vec<u32>,
        /// Which of them.
        wanted: SubscriptionsWanted,
        /// After this place.
        after: Option<SubscriptionPlace>,
        /// At most so many.
        max: usize,
    },
    /// Subscriptions of these connections of the node asked, as [`Answer::OfConnections`].
    OfConnections {
        /// Connections.
        connections: Vec<ConnectionWanted>,
        /// Which of their subscriptions.
        wanted: SubscriptionsWanted,
        /// At most so many in all.
        max: usize,
    },
    /// Retained messages of these groups.
    Retained {
        /// Groups.
        groups: Vec<u32>,
        /// Topic filter.
        filter: String,
        /// After this topic.
        after: Option<String>,
        /// At most so many.
        max: usize,
    },
    /// The retained message of a topic.
    RetainedMessage {
        /// Topic.
        topic: String,
    },
    /// Longest queues of these groups' sessions.
    Queues {
        /// Groups.
        groups: Vec<u32>,
        /// At most so many.
        top: usize,
    },
    /// Connected durable sessions of these groups for which most waits.
    SlowSessions {
        /// Groups.
        groups: Vec<u32>,
        /// At most so many.
        top: usize,
    },
    /// Connections of transient sessions on the node asked, for which most waits.
    SlowConnections {
        /// At most so many.
        top: usize,
    },
    /// Client identifiers of sessions by their numbers.
    ClientIds {
        /// Group and session.
        sessions: Vec<(u32, u64)>,
    },
    /// How long ago entries of groups that the node asked leads were written.
    Ages {
        /// Group and log index.
        entries: Vec<(u32, u64)>,
    },
    /// All that is known of a client identifier.
    Explain {
        /// Client identifier.
        client_id: String,
    },
    /// Who holds the session of a client identifier, of the leader of its home partition.
    Owner {
        /// Client identifier.
        client_id: String,
    },
    /// Close a connection of the node asked, on an operator's behalf.
    Close {
        /// Incarnation.
        incarnation: u64,
        /// Connection.
        conn: u64,
    },
}

/// Which sessions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SessionsWanted {
    /// Client identifiers that begin with this.
    pub prefix: String,
    /// With a connection, or without.
    pub online: Option<bool>,
    /// With at least so many queued messages.
    pub min_queued: u64,
    /// With a connection on this node.
    pub node: Option<u64>,
}

/// Which subscriptions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SubscriptionsWanted {
    /// Of this client.
    pub client_id: Option<String>,
    /// With this filter.
    pub filter: Option<String>,
    /// That match this topic.
    pub matches: Option<String>,
}

/// A connection whose subscriptions are wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionWanted {
    /// Incarnation of its node.
    pub incarnation: u64,
    /// Its number.
    pub conn: u64,
    /// Those after this filter.
    pub after: Option<String>,
}

/// What was found of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionFound {
    /// Subscriptions in byte order of the filters.
    pub terms: Vec<SubscriptionTerms>,
    /// There are more: the limits were reached. It is the last one in the answer then.
    pub more: bool,
}

/// A place in a list of subscriptions: a client, and the last filter of it unless the client is done with.
pub type SubscriptionPlace = (String, Option<String>);

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Inquiry::Sessions`].
    Sessions(Rows<SessionSummary, String>),
    /// To [`Inquiry::Subscriptions`].
    Subscriptions(Rows<SubscriptionFound, SubscriptionPlace>),
    /// To [`Inquiry::OfConnections`]: of the first ones, in the order in which they were given, as far as the limits allow.
    OfConnections(Vec<ConnectionFound>),
    /// To [`Inquiry::Retained`].
    Retained(Rows<RetainedSummary, String>),
    /// To [`Inquiry::RetainedMessage`].
    RetainedMessage(Option<RetainedMessage>),
    /// To [`Inquiry::Queues`]; whether all sessions were looked at.
    Queues(Vec<QueueLength>, bool),
    /// To [`Inquiry::SlowSessions`]; whether all sessions were looked at.
    SlowSessions(Vec<SlowConsumer>, bool),
    /// To [`Inquiry::SlowConnections`]: each with group and number of its session; the client identifier is still missing.
    SlowConnections(Vec<(u32, u64, SlowConsumer)>),
    /// To [`Inquiry::ClientIds`], in the same order; absent for sessions that are gone.
    ClientIds(Vec<Option<String>>),
    /// To [`Inquiry::Ages`], in the same order, in milliseconds; absent when not known.
    Ages(Vec<Option<u64>>),
    /// To [`Inquiry::Explain`].
    Explanation(Box<SessionExplanation>),
    /// To [`Inquiry::Owner`]; absent when there is no such session.
    Owner(Option<SessionHolder>),
    /// To [`Inquiry::Close`]: whether there was such a connection.
    Closed(bool),
    /// The node has no replica of the group, or does not lead it.
    NotHere,
    /// The node does not answer in time.
    Busy,
    /// The node does not know this inquiry, or cannot read it: it runs another version.
    Unknown,
}

/// Rows of a list, complete up to `resume`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows<T, K> {
    /// In order.
    pub rows: Vec<T>,
    /// There may be more after this; absent at the end.
    pub resume: Option<K>,
}

/// A subscription, or the connection that knows those of a transient session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriptionFound {
    /// Client identifier.
    pub client_id: String,
    /// Node, incarnation and number of the connection.
    pub owner: Option<(u64, u64, u64)>,
    /// Absent for a transient session.
    pub terms: Option<SubscriptionTerms>,
}

/// A subscription without its client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriptionTerms {
    /// Topic filter.
    pub filter: String,
    /// Granted QoS.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling, when known.
    pub retain_handling: Option<u8>,
    /// Subscription identifier.
    pub identifier: Option<u32>,
}

/// Who holds a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHolder {
    /// Node, incarnation and number of its connection; absent while it has none.
    pub owner: Option<(u64, u64, u64)>,
}

/// By what the sessions of an inquiry are chosen.
pub(crate) fn order_of(inquiry: &Inquiry) -> BacklogOrder {
    match inquiry {
        Inquiry::Queues { .. } => BacklogOrder::Queued,
        _ => BacklogOrder::Unacknowledged,
    }
}

/// An inquiry that another node waits for.
struct Came {
    from: NodeId,
    number: u64,
    body: Bytes,
}

/// Inquiries on their way.
pub struct Inquiries {
    next: AtomicU64,
    asked: Mutex<HashMap<u64, (NodeId, oneshot::Sender<Bytes>)>>,
    sender: mpsc::Sender<Came>,
    receiver: Mutex<Option<mpsc::Receiver<Came>>>,
    /// Places for walks over many sessions: others wait, so that they do not crowd the worker together.
    pub walks: Semaphore,
}

impl Default for Inquiries {
    fn default() -> Self {
        // Full: the inquiry is dropped, its asker gives up in time.
        let (sender, receiver) = mpsc::channel(INQUIRIES_WAITING_MAX);
        Inquiries {
            next: AtomicU64::new(1),
            asked: Mutex::default(),
            sender,
            receiver: Mutex::new(Some(receiver)),
            walks: Semaphore::new(WALKS_AT_ONCE_MAX),
        }
    }
}

impl Inquiries {
    /// Another node asks.
    pub fn came(&self, from: NodeId, number: u64, body: Bytes) {
        let _given_up_when_full = self.sender.try_send(Came { from, number, body });
    }

    /// Another node has answered.
    pub fn answered(&self, from: NodeId, number: u64, body: Bytes) {
        let mut asked = self.asked.lock();
        if asked.get(&number).is_some_and(|(node, _)| *node == from)
            && let Some((_, answer)) = asked.remove(&number)
        {
            let _given_up = answer.send(body);
        }
    }
}

/// Asks a node, this one or another; `None` when it cannot be reached or does not answer in time.
pub async fn ask(edge: &Edge, node: NodeId, inquiry: Inquiry) -> Option<Answer> {
    if node == edge.node {
        return Some(local::answer(edge, inquiry).await);
    }
    ask_peer(edge, node, inquiry).await
}

/// Asks another node; `None` when it cannot be reached or does not answer in time.
async fn ask_peer(edge: &Edge, node: NodeId, inquiry: Inquiry) -> Option<Answer> {
    let links = edge.links.as_ref()?;
    // A frame would wait for the link, and what is asked may be out of date by then.
    if !links.connected().contains(&node) {
        return None;
    }
    let body = Bytes::from(serde_json::to_vec(&inquiry).ok()?);
    let number = edge.inquiries.next.fetch_add(1, Ordering::Relaxed);
    let (sender, receiver) = oneshot::channel();
    edge.inquiries.asked.lock().insert(number, (node, sender));
    let _forgotten_at_last = Asked { inquiries: &edge.inquiries, number };
    let message = PeerMessage::Inquiry { number, body };
    if !links.forward(node, |out| message.encode(out)) {
        return None;
    }
    let answer = timeout(ADMIN_PEER_TIMEOUT, receiver).await.ok()?.ok()?;
    // What a newer version says and this one does not understand is no answer.
    Some(serde_json::from_slice(&answer).unwrap_or(Answer::Unknown))
}

/// An inquiry that is out: forgotten when it is answered, and when whoever asked gives up.
struct Asked<'a> {
    inquiries: &'a Inquiries,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.inquiries.asked.lock().remove(&self.number);
    }
}

/// Answers other nodes until the node stops.
pub async fn run(edge: Arc<Edge>) {
    let Some(mut receiver) = edge.inquiries.receiver.lock().take() else { return };
    let mut answering: JoinSet<()> = JoinSet::new();
    loop {
        let came = tokio::select! {
            came = receiver.recv(), if answering.len() < INQUIRIES_AT_ONCE_MAX => came,
            Some(_) = answering.join_next() => continue,
        };
        let Some(Came { from, number, body }) = came else { return };
        let edge = edge.clone();
        answering.spawn(async move {
            let answer = match serde_json::from_slice(&body) {
                Ok(inquiry) => local::answer(&edge, inquiry).await,
                Err(error) => {
                    tracing::debug!(peer = from.0, %error, "inquiry of a peer cannot be read");
                    Answer::Unknown
                }
            };
            let Ok(body) = serde_json::to_vec(&answer) else { return };
            let message = PeerMessage::InquiryAnswer { number, body: body.into() };
            if let Some(links) = &edge.links {
                let _asked_again_when_lost = links.forward(from, |out| message.encode(out));
            }
        });
    }
}
