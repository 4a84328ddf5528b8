//! A node as it looks from outside, with some of its figures changed.
//!
//! Owns: serving the metrics that a real node showed, under its very names, healthy or broken. Does not: invent names.
//! Invariants: a change that fits no series of the real node is an error; what grows with time goes on growing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::http::Server;

/// What a figure becomes while the node is broken.
#[derive(Clone, Copy, Debug)]
pub enum Become {
    /// This value.
    Value(f64),
    /// So much more with each scrape, and what it is then stays.
    Growing(f64),
    /// The time of now and so many seconds.
    Now(f64),
}

/// A change: series that begin with this, and what they become.
pub type Change = (&'static str, Become);

/// A node that is shown again.
pub struct Replay {
    pub server: Server,
    broken: Arc<AtomicBool>,
}

impl Replay {
    /// Shows this text of `/metrics`; `changes` are in force while the node is broken.
    pub fn start(text: String, changes: &'static [Change]) -> Result<Replay> {
        for (series, _) in changes {
            let there = text.lines().any(|line| line.starts_with(series));
            ensure!(there, "the real node has no {series}");
        }
        let broken = Arc::<AtomicBool>::default();
        let (flag, scrapes) = (broken.clone(), AtomicU64::new(0));
        let server = Server::start(move |_, _| {
            let broken = flag.load(Ordering::Relaxed);
            if broken {
                scrapes.fetch_add(1, Ordering::Relaxed);
            }
            let scrapes = scrapes.load(Ordering::Relaxed);
            text.lines().map(|line| changed(line, changes, broken, scrapes) + "\n").collect()
        })?;
        Ok(Replay { server, broken })
    }

    /// The node breaks, or is well again.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }
}

/// A line of the text as it is now.
fn changed(line: &str, changes: &[Change], broken: bool, scrapes: u64) -> String {
    let Some((series, value)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
        return line.to_owned();
    };
    let value: f64 = value.parse().unwrap_or(0.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let change = changes.iter().find(|(begin, _)| series.starts_with(begin)).map(|(_, change)| *change);
    #[allow(clippy::cast_precision_loss)]
    let scrapes = scrapes as f64;
    let value = match change {
        Some(Become::Growing(step)) => value + step * scrapes,
        Some(Become::Value(other)) if broken => other,
        Some(Become::Now(offset)) if broken => now + offset,
        // The clock of a node that is well goes on.
        _ if series == "quorate_wall_time_seconds" => now,
        Some(Become::Value(_) | Become::Now(_)) | None => value,
    };
    format!("{series} {value}")
}
