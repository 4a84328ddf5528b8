//! The load of a run: all its clients, from their first SUBACK to their last answer.
//!
//! Owns: which clients there are, starting and ending them. Does not: note what they see; they do.
//! Invariants: nobody publishes before all who must get everything have subscribed.
//! Limits: `PROGRESS_MAX`, `DRAIN_MAX`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quorate_tests::{let_pass, wait_at_most};

use crate::check::nothing_missing;
use crate::client::{Ground, expiry, fling, probe, publisher, register, subscriber, will};
use crate::cluster::Cluster;
use crate::history::{Event, Moment, Recorder, What};
use crate::wire::Version;

/// A publisher has answers again within so long after a fault.
const PROGRESS_MAX: Duration = Duration::from_secs(120);

/// From the end of the load until subscribers have everything.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// Publishers: version, QoS.
const PUBLISHERS: [(Version, u8); 4] =
    [(Version::V5, 1), (Version::V3, 1), (Version::V5, 2), (Version::V3, 2)];

/// Subscribers: version, QoS, leaves now and then, lets acknowledgements wait.
const SUBSCRIBERS: [(Version, u8, bool, bool); 5] = [
    (Version::V5, 2, false, false),
    (Version::V3, 2, false, false),
    (Version::V5, 1, false, true),
    (Version::V5, 2, true, false),
    (Version::V3, 2, false, true),
];

/// Members of the share group: leaves now and then.
const MEMBERS: [bool; 3] = [false, true, false];

/// Clients with wills; as many probe the barrier, and as many go away to have their sessions expire.
const WILL_HOLDERS: usize = 3;

/// Retained topics, each with a writer; there are as many readers.
const REGISTERS: u32 = 2;

/// Publishes in a second of one publisher.
const RATE: u32 = 20;

/// The clients of a run.
pub struct Load {
    /// What the clients were given.
    pub ground: Ground,
    publishers: Vec<JoinHandle<()>>,
    /// Those that end what they have begun when the load ends.
    finite: Vec<JoinHandle<()>>,
    others: Vec<JoinHandle<()>>,
}

impl Load {
    /// Subscribes, then starts to publish, write and read.
    ///
    /// # Errors
    /// When one does not get there.
    pub fn start(cluster: &Cluster, recorder: &Recorder) -> Result<Load> {
        let ground = Ground {
            recorder: recorder.clone(),
            nodes: cluster.nodes.iter().map(|node| node.mqtt).collect(),
            closing: Arc::new(AtomicBool::new(false)),
            ended: Arc::new(AtomicBool::new(false)),
        };
        let mut load =
            Load { ground: ground.clone(), publishers: Vec::new(), finite: Vec::new(), others: Vec::new() };
        let mut clients = 0..;
        let mut next = || clients.next().context("a number for a client");
        // Publishers come first: their topics, and those who wait for their progress, know them by number.
        let publishers = PUBLISHERS.map(|plan| (next(), plan));
        let of_share = next()?;
        for (version, qos, leaves, holds) in SUBSCRIBERS {
            let plan = subscriber::Plan { client: next()?, version, qos, leaves, holds, shares: false };
            load.others.push(subscriber::start(&ground, plan));
        }
        for leaves in MEMBERS {
            let (version, client) = (Version::V5, next()?);
            let plan = subscriber::Plan { client, version, qos: 1, leaves, holds: false, shares: true };
            load.others.push(subscriber::start(&ground, plan));
        }
        load.others.push(will::start_observer(&ground, next()?));
        let subscribed = || {
            let is = |event: &Event| matches!(event.what, What::SubscribeOk | What::Subscribed);
            recorder.count_since(Moment(0), is)
        };
        let all = SUBSCRIBERS.len() + MEMBERS.len() + 1;
        wait_at_most(DRAIN_MAX, "all SUBACK", || (subscribed() == all).then_some(()))?;
        for (client, (version, qos)) in publishers {
            let plan = publisher::Plan { client: client?, version, qos, rate: RATE, shares: false };
            load.publishers.push(publisher::start(&ground, plan));
        }
        let plan =
            publisher::Plan { client: of_share, version: Version::V5, qos: 1, rate: RATE, shares: true };
        load.publishers.push(publisher::start(&ground, plan));
        for number in 0..REGISTERS {
            load.others.push(register::start_writer(&ground, next()?, Version::V5, number));
            load.others.push(register::start_reader(&ground, next()?, Version::V3, REGISTERS));
        }
        for version in [Version::V3, Version::V5] {
            load.others.push(fling::start_catcher(&ground, next()?, version));
            load.others.push(fling::start_thrower(&ground, next()?, version));
        }
        for _ in 0..WILL_HOLDERS {
            load.finite.push(will::start_holder(&ground, next()?));
            load.finite.push(probe::start(&ground, next()?));
            load.finite.push(expiry::start(&ground, next()?));
        }
        load.wait_progress(recorder)?;
        Ok(load)
    }

    /// Waits until every publisher has had answers from now on.
    ///
    /// # Errors
    /// When one has none in time.
    pub fn wait_progress(&self, recorder: &Recorder) -> Result<()> {
        let since = recorder.now();
        for client in 0..u16::try_from(PUBLISHERS.len())? {
            let answers = || {
                recorder.count_since(since, |event| {
                    event.client == client && matches!(event.what, What::PublishOk { .. })
                })
            };
            wait_at_most(PROGRESS_MAX, "answers", || (answers() > 5).then_some(()))
                .with_context(|| format!("publisher {client} makes no progress"))?;
        }
        Ok(())
    }

    /// Ends the load and, unless it is cut, waits until subscribers have everything; gives how long that took, and what it waited for in
    /// vain.
    ///
    /// # Errors
    /// When a client panicked, or the history cannot be written.
    pub fn end(mut self, recorder: &Recorder, cut: bool) -> Result<(Duration, Option<String>)> {
        let begin = Instant::now();
        self.ground.closing.store(true, Ordering::Relaxed);
        let (publishers, finite) = (&self.publishers, &self.finite);
        let done = || publishers.iter().chain(finite).all(JoinHandle::is_finished).then_some(());
        // Those that are not done have publishes without an answer, which a checker says.
        let answered = !cut && wait_at_most(DRAIN_MAX, "all publishes to be answered", done).is_ok();
        while answered && begin.elapsed() < DRAIN_MAX && !nothing_missing(&recorder.events()?) {
            let_pass(Duration::from_millis(500));
        }
        let drained = begin.elapsed();
        let left = publishers.iter().chain(finite).filter(|thread| !thread.is_finished()).count();
        let stuck = (!cut && left > 0)
            .then(|| format!("{left} clients were not done {} s after the load ended", DRAIN_MAX.as_secs()));
        // What comes twice may come late.
        let_pass(Duration::from_secs(2));
        self.ground.ended.store(true, Ordering::Relaxed);
        for thread in self.publishers.drain(..).chain(self.finite.drain(..)).chain(self.others.drain(..)) {
            ensure!(thread.join().is_ok(), "a client panicked");
        }
        Ok((drained, stuck))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ground.closing.store(true, Ordering::Relaxed);
        self.ground.ended.store(true, Ordering::Relaxed);
    }
}
