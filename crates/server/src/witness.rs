//! What the other nodes have seen of this one: asked at a start, answered to others.
//!
//! Owns: the question and its answer on a connection of their own, and how long a start waits for them. Does not: compare
//! (`quorate_node::witness`), or decide what becomes of an old disk. Invariants: a start goes on without those that do not answer.
//! Limits: `WITNESS_TIMEOUT` for all together, `WITNESS_BYTES_MAX` for an answer.
//! See: docs/decisions/0043-old-disks.md.

use std::sync::Arc;

use quorate_node::witness::{GroupWitness, Shown, Witness};
use quorate_node::{Position, RestoredGroup};
use quorate_state::control::NodeStatus;
use quorate_state::{CONTROL, Control, GroupId, Incarnation, LogIndex, NodeId};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::edge::Edge;
use crate::limits::{WITNESS_BYTES_MAX, WITNESS_TIMEOUT};
use crate::net::frame::FrameKind;
use crate::net::peer::{LinkReceiver, Links, PeerConnection, PeerError};
use crate::question::look;

/// An answer as it is sent.
#[derive(Serialize, Deserialize, Default)]
struct Answer {
    incarnation: u64,
    groups: Vec<GroupAnswer>,
}

/// Of one group: its number, the term and the index that were shown, the term and the index that are committed.
type GroupAnswer = (u32, u64, u64, u64, u64);

/// Asks these nodes, by name and address, all at once, what they have seen of this one. Gives their names and answers.
pub async fn ask_all<R: LinkReceiver>(
    links: &Arc<Links<R>>,
    places: Vec<(String, String)>,
) -> Vec<(String, Witness)> {
    let mut asked = JoinSet::new();
    for (name, address) in places {
        let links = links.clone();
        asked.spawn(async move {
            let answer = timeout(WITNESS_TIMEOUT, ask(&links, &name, &address)).await;
            (name, answer.unwrap_or(Err(PeerError::Timeout)))
        });
    }
    let (mut witnesses, mut silent) = (Vec::new(), Vec::new());
    while let Some(answered) = asked.join_next().await {
        match answered {
            Ok((name, Ok(witness))) => witnesses.push((name, witness)),
            Ok((name, Err(error))) => {
                tracing::debug!(peer = name, %error, "a node cannot say what it has seen of this one");
                silent.push(name);
            }
            Err(_) => {}
        }
    }
    if !silent.is_empty() {
        tracing::info!(
            nodes = silent.join(" "),
            "these nodes cannot be asked whether this disk is the last one of the node"
        );
    }
    witnesses
}

async fn ask<R: LinkReceiver>(
    links: &Arc<Links<R>>,
    name: &str,
    address: &str,
) -> Result<Witness, PeerError> {
    let mut connection = links.open_repair(name, address).await?;
    connection.write(FrameKind::WitnessRequest, &[]).await?;
    let frame = connection.read(WITNESS_BYTES_MAX).await?;
    let malformed = PeerError::Refused("its answer about this node does not decode");
    if frame.kind != FrameKind::WitnessAnswer {
        return Err(malformed);
    }
    let answer: Answer = serde_json::from_slice(&frame.payload).map_err(|_| malformed)?;
    connection.close().await;
    let of_group = |(group, term, acknowledged, committed_term, index): GroupAnswer| GroupWitness {
        group: GroupId(group),
        shown: Shown { term, acknowledged },
        committed: Position { term: committed_term, index },
    };
    Ok(Witness {
        incarnation: Incarnation(answer.incarnation),
        groups: answer.groups.into_iter().map(of_group).collect(),
    })
}

/// Answers with what this node has seen of the one that asks; nothing when it has only just started itself.
///
/// # Errors
/// When the connection fails.
pub async fn answer(
    edge: Option<&Edge>,
    from: NodeId,
    connection: &mut PeerConnection,
) -> Result<(), PeerError> {
    let witness = match edge {
        Some(edge) => look(edge, move |node, _| node.witness_of(from))
            .await
            .map_err(|_| PeerError::Refused("this node ends"))?,
        None => Witness::default(),
    };
    let of_group = |of: &GroupWitness| -> GroupAnswer {
        let (shown, committed) = (of.shown, of.committed);
        (of.group.0, shown.term, shown.acknowledged, committed.term, committed.index)
    };
    let groups = witness.groups.iter().map(of_group).collect();
    let answer = Answer { incarnation: witness.incarnation.0, groups };
    let payload = serde_json::to_vec(&answer).unwrap_or_default();
    connection.write(FrameKind::WitnessAnswer, &payload).await
}

/// Names and addresses of the members that control knew at its checkpoint, without this node.
pub fn members(groups: &[RestoredGroup], own: NodeId) -> Vec<(String, String)> {
    let Some(control) = groups.iter().find(|group| group.group == CONTROL && !group.records.is_empty())
    else {
        return Vec::new();
    };
    let index = LogIndex(control.checkpoint.index);
    // A checkpoint that does not decode ends the start a little later.
    let Ok(control) = Control::restore(index, control.records.clone()) else { return Vec::new() };
    let others =
        control.nodes().filter(|(record, status)| record.id != own && *status != NodeStatus::Removed);
    others.map(|(record, _)| (record.name.to_string(), record.peer.to_string())).collect()
}
