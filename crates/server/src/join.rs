//! A new or wiped node asks a running cluster for an identity.
//!
//! Owns: the question and the answer between the two nodes, and who waits for control's decision.
//! Does not: decide; control does. Invariants: the name asked for is the one in the asker's certificate.
//! Limits: `JOINS_MAX` questions at once, `JOIN_TIMEOUT` for an answer. See: docs/operations/replace-node.md.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use quorate_node::Event;
use quorate_node::action::PeerAddress;
use quorate_state::command::NodeRecord;
use quorate_state::{Incarnation, NodeId};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::founding::{Founding, Settings, text};
use crate::inbox::Inbox;
use crate::net::frame::FrameKind;
use crate::net::hello::{Fingerprint, Hello};
use crate::net::peer::{LinkReceiver, Links, PeerConnection, PeerError, PeerPlace};
use crate::question::Question;

/// Questions at once.
const JOINS_MAX: usize = 16;

/// How long control may take. Shorter than what the asker waits for a frame.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a question or an answer.
const JOIN_BYTES_MAX: usize = 256 * 1024;

/// What a joining node says of itself, beside its Hello.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Peer address, `host:port`.
    pub peer: String,
    /// First MQTT listener.
    pub mqtt: String,
    /// Admin URL.
    pub admin: String,
    /// Zone.
    pub zone: String,
    /// Version of the program.
    pub version: String,
    /// Highest level that the program speaks.
    pub level: u32,
}

#[derive(Serialize, Deserialize)]
struct JoinAnswer {
    decision: Result<u64, String>,
    founding: Option<Founding>,
    peers: Vec<(u64, String, String)>,
}

/// A node has an identity now.
#[derive(Debug)]
pub struct Joined {
    /// Its identity.
    pub id: NodeId,
    /// What the cluster began with.
    pub founding: Founding,
    /// The nodes to speak with.
    pub peers: Vec<PeerPlace>,
}

/// A node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The connection.
    #[error("ask to join: {0}")]
    Peer(#[from] PeerError),
    /// The answer makes no sense.
    #[error("the answer to a join request does not decode")]
    Malformed,
    /// Control says no.
    #[error("the cluster refuses this node: {0}")]
    Refused(String),
}

/// Asks one member after the other until one answers. Gives the last error when none did. A node that was in a cluster
/// before asks that one only.
pub async fn join<R: LinkReceiver>(
    links: &Links<R>,
    own: &Hello,
    settings: &Settings,
    cluster: Option<Fingerprint>,
    request: &JoinRequest,
) -> Result<Joined, JoinError> {
    let mut last = JoinError::Malformed;
    for (name, address) in settings.bootstrap_list().iter().filter(|(name, _)| *name != own.name) {
        match ask(links, own, (name, address), cluster, request).await {
            Ok(joined) => return Ok(joined),
            Err(error) => {
                tracing::debug!(peer = %name, %error, "this member could not let the node join");
                last = error;
            }
        }
    }
    Err(last)
}

async fn ask<R: LinkReceiver>(
    links: &Links<R>,
    own: &Hello,
    (name, address): (&str, &str),
    cluster: Option<Fingerprint>,
    request: &JoinRequest,
) -> Result<Joined, JoinError> {
    let (mut connection, hello) = links.open_join(own, name, address).await?;
    if hello.is_fresh() {
        return Err(PeerError::Refused("it is fresh itself").into());
    }
    if cluster.is_some_and(|cluster| cluster != hello.cluster_id) {
        return Err(PeerError::Refused("it is of another cluster than this node was").into());
    }
    let payload = serde_json::to_vec(request).map_err(|_| JoinError::Malformed)?;
    connection.write(FrameKind::JoinRequest, &payload).await?;
    let frame = connection.read(JOIN_BYTES_MAX).await?;
    let answer: JoinAnswer = serde_json::from_slice(&frame.payload).map_err(|_| JoinError::Malformed)?;
    let id = NodeId(answer.decision.map_err(JoinError::Refused)?);
    let founding = answer.founding.filter(|founding| founding.is_genuine()).ok_or(JoinError::Malformed)?;
    if founding.cluster_id() != hello.cluster_id {
        return Err(JoinError::Malformed);
    }
    let peers =
        answer.peers.into_iter().map(|(id, name, address)| PeerPlace { id: NodeId(id), name, address });
    Ok(Joined { id, founding, peers: peers.collect() })
}

/// Control's decision about a disk.
pub type Decision = (Result<NodeId, String>, Vec<PeerAddress>);

/// Who waits for control's decision about which disk.
#[derive(Default)]
pub struct Joins(Mutex<HashMap<Fingerprint, oneshot::Sender<Decision>>>);

impl Joins {
    /// Control has decided.
    pub fn decided(&self, disk: Fingerprint, decision: Decision) {
        if let Some(waiting) = self.0.lock().remove(&disk) {
            // The asker may have gone; it asks again.
            let _told = waiting.send(decision);
        }
    }

    /// Answers a node that asks to join.
    pub async fn answer(
        &self,
        hello: Hello,
        mut connection: PeerConnection,
        inbox: &Inbox<Question>,
        founding: &Founding,
    ) -> Result<(), JoinError> {
        let frame = connection.read(JOIN_BYTES_MAX).await?;
        let request: JoinRequest =
            serde_json::from_slice(&frame.payload).map_err(|_| JoinError::Malformed)?;
        tracing::info!(name = %hello.name, peer = %request.peer, "a node asks to join");
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.0.lock();
            waiting.retain(|_, sender| !sender.is_closed());
            if waiting.len() >= JOINS_MAX {
                return Err(PeerError::Refused("too many nodes ask to join").into());
            }
            waiting.insert(hello.disk, sender);
        }
        inbox.report(Event::Join(Box::new(record_of(&hello, &request))));
        let undecided = || (Err("control did not decide in time: ask again".to_owned()), Vec::new());
        let decided = tokio::time::timeout(JOIN_TIMEOUT, receiver).await;
        let (decision, peers) = decided.ok().and_then(Result::ok).unwrap_or_else(undecided);
        let answer = JoinAnswer {
            founding: decision.is_ok().then(|| founding.clone()),
            decision: decision.map(|id| id.0),
            peers: peers.into_iter().map(|peer| (peer.node.0, peer.name, peer.address)).collect(),
        };
        let payload = serde_json::to_vec(&answer).map_err(|_| JoinError::Malformed)?;
        connection.write(FrameKind::JoinAnswer, &payload).await?;
        connection.close().await;
        Ok(())
    }
}

fn record_of(hello: &Hello, request: &JoinRequest) -> NodeRecord {
    NodeRecord {
        id: NodeId(0),
        name: text(&hello.name),
        disk: hello.disk,
        incarnation: Incarnation(0),
        peer: text(&request.peer),
        mqtt: text(&request.mqtt),
        admin: text(&request.admin),
        zone: text(&request.zone),
        version: text(&request.version),
        level: request.level,
    }
}
