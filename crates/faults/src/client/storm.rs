//! A storm of reconnects: thousands of clients that are there, all lose their connections at once, and all come back.
//!
//! Owns: their connections. Does not: publish or note anything; the fault that uses it says how long it took.
//! Invariants: a client that is not taken tries again. Limits: `THREADS`; open files: one for each client here, and on the nodes together.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use quorate_tests::pause;

use super::Ground;
use crate::wire::{Connect, Link, Version};

/// Clients are shared out among so many threads.
const THREADS: usize = 16;

/// After so long, whoever is not there counts as refused.
const RETURN_MAX: Duration = Duration::from_secs(60);

/// Keep Alive in seconds: these clients send nothing.
const KEEP_ALIVE_S: u16 = 3600;

/// The clients of a storm.
pub struct Storm {
    nodes: Vec<SocketAddr>,
    clients: usize,
    links: Vec<Link>,
}

/// How a storm went.
#[derive(Clone, Copy, Debug)]
pub struct Absorbed {
    /// Until the last client had its CONNACK.
    pub elapsed: Duration,
    /// Attempts beyond the first of each client.
    pub retries: usize,
}

impl Storm {
    /// Connects so many clients, evenly over the nodes.
    ///
    /// # Errors
    /// When not all get there.
    pub fn gather(ground: &Ground, clients: usize) -> Result<Storm> {
        let mut storm = Storm { nodes: ground.nodes.clone(), clients, links: Vec::new() };
        storm.come()?;
        Ok(storm)
    }

    /// All connections end at once, and all clients come back.
    ///
    /// # Errors
    /// When not all get there.
    pub fn strike(&mut self) -> Result<Absorbed> {
        self.disperse()?;
        self.come()
    }

    /// All connections end at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn disperse(&mut self) -> Result<()> {
        self.links.drain(..).try_for_each(Link::break_off)
    }

    fn come(&mut self) -> Result<Absorbed> {
        let (begin, retries) = (Instant::now(), AtomicUsize::new(0));
        let (nodes, clients) = (self.nodes.as_slice(), self.clients);
        let links = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let retries = &retries;
                    scope.spawn(move || come((thread..clients).step_by(THREADS), nodes, begin, retries))
                })
                .collect();
            let joined = threads.into_iter().filter_map(|thread| thread.join().ok());
            joined.flatten().collect::<Vec<Link>>()
        });
        ensure!(links.len() == clients, "{} of {clients} clients came within {RETURN_MAX:?}", links.len());
        self.links = links;
        Ok(Absorbed { elapsed: begin.elapsed(), retries: retries.into_inner() })
    }
}

/// Connects clients: all send CONNECT before the first waits for its CONNACK.
fn come(
    clients: impl Iterator<Item = usize>,
    nodes: &[SocketAddr],
    begin: Instant,
    retries: &AtomicUsize,
) -> Vec<Link> {
    let mut away: Vec<(usize, usize)> = clients.map(|client| (client, 0)).collect();
    let mut links = Vec::with_capacity(away.len());
    while !away.is_empty() && begin.elapsed() < RETURN_MAX {
        let begun: Vec<_> = away
            .drain(..)
            .map(|(client, attempt)| {
                let place = (client + attempt) % nodes.len().max(1);
                let client_id = format!("faults-storm-{client}");
                let connect =
                    Connect { keep_alive_s: KEEP_ALIVE_S, ..Connect::new(Version::V5, &client_id, true) };
                let link = nodes.get(place).and_then(|address| Link::begin(*address, &connect).ok());
                (client, attempt, link)
            })
            .collect();
        for (client, attempt, link) in begun {
            let taken = link.and_then(|mut link| link.connack().is_ok().then_some(link));
            match taken {
                Some(link) => links.push(link),
                None => away.push((client, attempt + 1)),
            }
        }
        if !away.is_empty() {
            retries.fetch_add(away.len(), Ordering::Relaxed);
            pause();
        }
    }
    links
}
