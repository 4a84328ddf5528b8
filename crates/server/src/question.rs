//! Questions that only the worker can answer, because it owns the node.
//!
//! Owns: [`Question`], [`LiveIndex`]. Does not: answer. Limits: bounded by the inbox; a question whose asker has gone
//! is answered in vain.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use quorate_codec::TopicFilter;
use quorate_node::node::{Clause, Node, NodeStatus, SessionView};
use quorate_state::{ConnId, GroupId, Incarnation, LogIndex, ShareInfo};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::admin::NoAnswer;
use crate::edge::Edge;
use crate::inbox::Inbox;
use crate::limits::ADMIN_ANSWER_TIMEOUT;

/// Entries per answer about what is alive: below a millisecond for the worker.
pub const LIVE_BLOCK_ENTRIES: u64 = 8192;

/// A question to the worker.
pub enum Question {
    /// State of the node; with a hash of each group's state if asked.
    Status {
        /// Compute state hashes, which reads all state.
        with_hash: bool,
        /// Where the answer goes.
        answer: oneshot::Sender<NodeStatus>,
    },
    /// Whether the node may take traffic.
    Readiness(oneshot::Sender<Vec<Clause>>),
    /// Share groups of the partitions here, in the order of their filters.
    Shares {
        /// Those after this one.
        after: Option<TopicFilter>,
        /// At most so many.
        max: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<Vec<(GroupId, ShareInfo)>>,
    },
    /// What is known of a client identifier.
    Session {
        /// Client identifier.
        client_id: String,
        /// Where the answer goes.
        answer: oneshot::Sender<SessionView>,
    },
    /// A look at the node, within the limits of its lists.
    Look(Look),
    /// Close a connection of this node on an operator's behalf.
    Kick {
        /// Incarnation.
        incarnation: Incarnation,
        /// Connection.
        conn: ConnId,
        /// Whether there was one.
        answer: oneshot::Sender<bool>,
    },
    /// Up to where the checkpoint of each of these groups is durable; those below the index given are asked to move on.
    Floors {
        /// Groups, with the index that is wanted.
        wanted: Vec<(GroupId, LogIndex)>,
        /// Where the answer goes, in the same order.
        answer: SyncSender<Vec<LogIndex>>,
    },
    /// Whether a snapshot of this group is being installed, after all that was reported before the question.
    Installing {
        /// Group.
        group: GroupId,
        /// Where the answer goes.
        answer: SyncSender<bool>,
    },
    /// Which of `LIVE_BLOCK_ENTRIES` entries from `first` on are alive.
    LiveBlock {
        /// Group.
        group: GroupId,
        /// First entry.
        first: LogIndex,
        /// Where the answer goes.
        answer: SyncSender<Vec<bool>>,
    },
}

/// Reads the node at a time and sends what it found to whoever waits.
pub type Look = Box<dyn FnOnce(&Node, Duration) + Send>;

/// Has the worker look at the node, and waits for what was found.
pub async fn look<T: Send + 'static>(
    edge: &Edge,
    look: impl FnOnce(&Node, Duration) -> T + Send + 'static,
) -> Result<T, NoAnswer> {
    ask_edge(edge, |answer| {
        // Whoever asked may have gone: the answer is then for nobody.
        Question::Look(Box::new(move |node, now| drop(answer.send(look(node, now)))))
    })
    .await
}

/// Asks the worker on behalf of a request.
pub async fn ask_edge<T>(
    edge: &Edge,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, NoAnswer> {
    let (sender, receiver) = oneshot::channel();
    edge.inbox.ask(question(sender)).map_err(|_| NoAnswer)?;
    timeout(ADMIN_ANSWER_TIMEOUT, receiver).await.map_err(|_| NoAnswer)?.map_err(|_| NoAnswer)
}

/// Asks the worker on behalf of the node itself: a task that asks one question at a time. `None` when it does not answer in
/// time.
pub async fn ask_own<T>(edge: &Edge, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    edge.inbox.ask_own(question(answer)).ok()?;
    timeout(ADMIN_ANSWER_TIMEOUT, answered).await.ok()?.ok()
}

/// The worker has ended: what was asked for is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker does not answer")]
pub struct Unanswered;

/// Asks the worker and waits: for our own threads.
pub fn ask<T>(
    inbox: &Inbox<Question>,
    question: impl FnOnce(SyncSender<T>) -> Question,
) -> Result<T, Unanswered> {
    let (sender, receiver) = sync_channel(1);
    inbox.ask_own(question(sender)).map_err(|_| Unanswered)?;
    receiver.recv().map_err(|_| Unanswered)
}

/// Which bodies are alive, asked block by block. What was alive once asked may have died since: that only keeps a body
/// for longer.
pub struct LiveIndex {
    inbox: Arc<Inbox<Question>>,
    blocks: RefCell<HashMap<(GroupId, u64), Vec<bool>>>,
    failed: RefCell<bool>,
}

impl LiveIndex {
    /// Knows nothing yet.
    pub fn new(inbox: Arc<Inbox<Question>>) -> Self {
        LiveIndex { inbox, blocks: RefCell::default(), failed: RefCell::new(false) }
    }

    /// Whether the body of an entry is alive. When the worker does not answer, everything is.
    pub fn contains(&self, group: GroupId, index: LogIndex) -> bool {
        let block = index.0 / LIVE_BLOCK_ENTRIES;
        let mut blocks = self.blocks.borrow_mut();
        let flags = blocks.entry((group, block)).or_insert_with(|| {
            if *self.failed.borrow() {
                return Vec::new();
            }
            let first = LogIndex(block * LIVE_BLOCK_ENTRIES);
            ask(&self.inbox, |answer| Question::LiveBlock { group, first, answer }).unwrap_or_else(|_| {
                self.failed.replace(true);
                Vec::new()
            })
        });
        let place = usize::try_from(index.0 % LIVE_BLOCK_ENTRIES).unwrap_or(0);
        flags.get(place).copied().unwrap_or(true)
    }

    /// Whether some answer was missing.
    pub fn is_incomplete(&self) -> bool {
        *self.failed.borrow()
    }
}
