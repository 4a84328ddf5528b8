//! `$SYS`: figures of this node and of the cluster, published to this node's connections every interval.
//!
//! Owns: the task that reads, exchanges and publishes figures. Does not: count them; keep their current values, which
//! connections read from [`Edge`]; know what they mean, see [`figures`].
//! Invariants: nothing of it is replicated, stored or forwarded; a value is in the table of current values before its
//! change is delivered, so that no subscriber misses both.
//! Limits: SYSTEM_TOPICS_MAX topics; a connection whose mailbox is full loses changes, which are counted.
//! See: docs/operations/sys-topics.md.

use std::sync::Arc;
use std::time::Duration;

use quorate_node::edge::DirectMessage;
use quorate_node::node::NodeStatus;
use quorate_node::peer::PeerMessage;

use crate::edge::Edge;
use crate::limits::{SYS_FIRST_PAUSE, SYS_SILENT_INTERVALS};
use crate::question::{Question, ask_own};
use figures::{OwnFigures, members, topics};

pub mod figures;
mod load;

/// Publishes figures every `interval` until the node stops; never when it is zero. More often in the beginning, while
/// nodes get to know each other and become ready.
pub async fn run(edge: Arc<Edge>, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let mut stopping = edge.stopping.subscribe();
    let mut own = OwnFigures::default();
    let mut pause = SYS_FIRST_PAUSE.min(interval);
    loop {
        // Without an answer of the worker the last values stay; `/livez` is there to say what is wrong.
        if let Some(status) = ask_own(&edge, |answer| Question::Status { with_hash: false, answer }).await {
            publish(&edge, &mut own, &status, interval).await;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => (),
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
        pause = (pause * 2).min(interval);
    }
}

async fn publish(edge: &Edge, own: &mut OwnFigures, status: &NodeStatus, interval: Duration) {
    let now = edge.clock.now();
    let transient = edge.routing.read().transient_subscriptions();
    let (told, topics) = {
        let mut heard = edge.heard.lock();
        heard.forget(interval * SYS_SILENT_INTERVALS, now);
        let mut figures = own.read(&edge.metrics, status, transient, &heard, now);
        let (p50_us, p99_us) = edge.lookout.publish_latency_us();
        figures.set_latency(p50_us, p99_us);
        let topics = topics((status.id, &figures), &heard, &members(status));
        (PeerMessage::Counters { values: figures.to_peer() }, topics)
    };
    if let Some(links) = &edge.links {
        for peer in links.connected() {
            if !links.forward(peer, |out| told.encode(out)) {
                edge.metrics.peer_messages_lost.add(1);
            }
        }
    }
    let changed = edge.system.write().replace(topics);
    for message in changed {
        deliver(edge, &message);
        // Many may have subscribed: others are to have their turn.
        tokio::task::yield_now().await;
    }
}

/// To the connections of this node only: every node publishes for itself.
fn deliver(edge: &Edge, message: &Arc<DirectMessage>) {
    let mut deliveries = Vec::new();
    edge.routing.read().own_deliveries(message, &mut deliveries);
    let _gives_way_to_nobody = edge.deliver_direct(&mut deliveries);
}
