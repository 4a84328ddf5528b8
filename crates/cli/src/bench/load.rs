//! The shapes that move messages: who publishes where, who subscribes to what, in which order.
//!
//! Owns: the plan of topics and the stages of a measurement. Does not: the inner loops.
//! Invariants: the tasks of a measurement are joined before it returns.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::publisher::{self, Published};
use super::subscriber::{self, Received, Session};
use super::summary::Summary;
use super::{Bench, Shape, Stage};
use crate::exit::Outcome;

/// Topics and filters of a measurement.
pub struct Plan {
    /// Topic of each publisher.
    pub topics: Vec<String>,
    /// Filter of each subscriber.
    pub filters: Vec<String>,
    /// Deliveries that one publish leads to.
    pub copies: u64,
}

impl Plan {
    /// The plan for a shape. `run` keeps the topics of different runs apart.
    pub fn new(shape: Shape, run: u64, publishers: Option<u32>, subscribers: Option<u32>) -> Plan {
        let topic = |at: u32| format!("quorate/bench/{run:x}/{at}");
        let (publishers, subscribers) = match shape {
            Shape::OneToOne => {
                let pairs = publishers.or(subscribers).unwrap_or(1);
                let topics: Vec<String> = (0..pairs).map(topic).collect();
                return Plan { filters: topics.clone(), topics, copies: 1 };
            }
            Shape::FanIn => (publishers.unwrap_or(10), subscribers.unwrap_or(1)),
            Shape::FanOut => (publishers.unwrap_or(1), subscribers.unwrap_or(100)),
            Shape::QueueDrain => (publishers.unwrap_or(1), subscribers.unwrap_or(1)),
            Shape::Idle | Shape::Storm => (0, 0),
        };
        Plan {
            topics: (0..publishers).map(topic).collect(),
            filters: (0..subscribers).map(|_| format!("quorate/bench/{run:x}/+")).collect(),
            copies: subscribers.into(),
        }
    }
}

type Subscribers = JoinSet<Outcome<Received>>;

/// One-to-one, fan-in and fan-out.
pub async fn flow(bench: &Arc<Bench>) -> Outcome<Summary> {
    let plan = Plan::new(bench.args.shape, bench.id, bench.args.publishers, bench.args.subscribers);
    let session = if bench.args.persistent { Session::Persistent } else { Session::Transient };
    let mut subscribers = subscribe(bench, &plan, session).await?;
    let published = publish(bench, &plan).await?;
    bench.delivered_all(published.accepted().saturating_mul(plan.copies)).await;
    bench.stage.send_replace(Stage::Ending);
    let received = join(&mut subscribers).await?;
    if bench.args.persistent {
        remove_sessions(bench, &plan).await?;
    }
    Ok(Summary::of_load(&bench.args, &plan, published, received))
}

/// Subscribers leave, messages are queued for them, they come back.
pub async fn queue_drain(bench: &Arc<Bench>) -> Outcome<Summary> {
    let plan = Plan::new(bench.args.shape, bench.id, bench.args.publishers, bench.args.subscribers);
    let mut leaving = JoinSet::new();
    for (at, filter) in plan.filters.iter().enumerate() {
        leaving.spawn(subscriber::subscribe_and_leave(bench.clone(), at, filter.clone()));
    }
    while let Some(left) = leaving.join_next().await {
        left.context("subscribe")??;
    }
    let published = publish(bench, &plan).await?;
    let drain_from = bench.now_ns();
    let mut subscribers = subscribe(bench, &plan, Session::Resumed).await?;
    bench.delivered_all(published.accepted().saturating_mul(plan.copies)).await;
    bench.stage.send_replace(Stage::Ending);
    let mut received = join(&mut subscribers).await?;
    // The rate of the drain counts from the moment the subscribers came back.
    received.from_ns = drain_from;
    remove_sessions(bench, &plan).await?;
    Ok(Summary::of_load(&bench.args, &plan, published, received))
}

/// Starts the subscribers and waits until all are subscribed.
async fn subscribe(bench: &Arc<Bench>, plan: &Plan, session: Session) -> Outcome<Subscribers> {
    let (ready, mut subscribed) = watch::channel(0_usize);
    let ready = Arc::new(ready);
    let mut subscribers = Subscribers::new();
    for (at, filter) in plan.filters.iter().enumerate() {
        subscribers.spawn(subscriber::run(bench.clone(), at, filter.clone(), session, ready.clone()));
    }
    loop {
        let missing = *subscribed.borrow_and_update() < plan.filters.len();
        if !missing {
            return Ok(subscribers);
        }
        tokio::select! {
            changed = subscribed.changed() => changed.context("wait for the subscribers")?,
            Some(ended) = subscribers.join_next() => {
                ended.context("subscribe")??;
            }
        }
    }
}

/// Runs the publishers from the first connection to the last acknowledgement.
async fn publish(bench: &Arc<Bench>, plan: &Plan) -> Outcome<Published> {
    let (ready, mut connected) = watch::channel(0_usize);
    let ready = Arc::new(ready);
    let mut publishers = JoinSet::new();
    for (at, topic) in plan.topics.iter().enumerate() {
        let share = share_of(bench.args.messages, at, plan.topics.len());
        publishers.spawn(publisher::run(
            bench.clone(),
            at,
            topic.clone(),
            share,
            plan.topics.len(),
            ready.clone(),
        ));
    }
    while *connected.borrow_and_update() < plan.topics.len() {
        tokio::select! {
            changed = connected.changed() => changed.context("wait for the publishers")?,
            Some(ended) = publishers.join_next() => {
                ended.context("publish")??;
            }
        }
    }
    bench.delivered.store(0, Ordering::Relaxed);
    bench.stage.send_replace(bench.measuring());
    let mut total = Published::default();
    while let Some(published) = publishers.join_next().await {
        total.merge(&published.context("publish")??);
    }
    Ok(total)
}

/// Part of `messages` that publisher `at` of `count` sends.
fn share_of(messages: Option<u64>, at: usize, count: usize) -> Option<u64> {
    let (at, count) = (u64::try_from(at).ok()?, u64::try_from(count).ok()?);
    let messages = messages?;
    Some(messages.checked_div(count)? + u64::from(at < messages.checked_rem(count)?))
}

async fn join(subscribers: &mut Subscribers) -> Outcome<Received> {
    let mut total = Received::default();
    while let Some(received) = subscribers.join_next().await {
        total.merge(&received.context("receive")??);
    }
    Ok(total)
}

async fn remove_sessions(bench: &Arc<Bench>, plan: &Plan) -> Outcome {
    let mut removing = JoinSet::new();
    for at in 0..plan.filters.len() {
        removing.spawn(subscriber::remove_session(bench.clone(), at));
    }
    while let Some(removed) = removing.join_next().await {
        removed.context("remove a session")??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_documented_sizes() {
        for (shape, publishers, subscribers, expected) in [
            (Shape::OneToOne, None, None, (1, 1, 1)),
            (Shape::OneToOne, Some(5), None, (5, 5, 1)),
            (Shape::FanIn, None, None, (10, 1, 1)),
            (Shape::FanIn, Some(3), Some(2), (3, 2, 2)),
            (Shape::FanOut, None, None, (1, 100, 100)),
            (Shape::QueueDrain, None, Some(4), (1, 4, 4)),
        ] {
            let plan = Plan::new(shape, 1, publishers, subscribers);
            assert_eq!((plan.topics.len(), plan.filters.len(), plan.copies), expected, "{shape:?}");
        }
    }

    #[test]
    fn shares_add_up_to_the_messages() {
        for (messages, count) in [(10, 3), (2, 3), (0, 1), (9, 9)] {
            let shares: u64 = (0..count).filter_map(|at| share_of(Some(messages), at, count)).sum();
            assert_eq!(shares, messages);
        }
        assert_eq!(share_of(None, 0, 1), None);
    }
}
