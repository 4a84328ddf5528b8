//! Wall clocks jump by an hour, or go twice as fast. Monotonic ones do not.
//!
//! Owns: that, by way of a preloaded library: all nodes are started again with it, and without it when it is over. Proof: the time
//! that a node writes in its log.
//! Invariants: while clocks are wrong there is no election, and nothing expires early.
//! Limits: needs libfaketime, the variant for programs with threads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{let_pass, wait_for};

use super::{Holds, Injected, Nemesis};
use crate::cluster::{Around, Cluster};
use crate::machine;
use crate::random::Random;

/// Where distributions put the library.
const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The cluster is whole again within so long after it was started again.
const WHOLE_MAX: Duration = Duration::from_secs(60);

/// The library looks at its file every second.
const NOTICED_AFTER: Duration = Duration::from_secs(2);

/// What clocks do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// An hour ahead.
    Forward,
    /// An hour back.
    Back,
    /// Twice as fast.
    Fast,
}

/// The nemesis.
pub struct Clock {
    change: Change,
    victims: Vec<usize>,
    /// When the nodes were started with the library, and when it was told what to do.
    since: Option<(Instant, Instant)>,
}

impl Clock {
    /// Of a kind.
    pub fn of(change: Change) -> Clock {
        Clock { change, victims: Vec::new(), since: None }
    }

    fn words(&self) -> &'static str {
        match self.change {
            Change::Forward => "+3600",
            Change::Back => "-3600",
            Change::Fast => "+0 x2",
        }
    }

    /// Whether a clock that is off by so many seconds is off as intended. The library lets a clock that goes twice as fast have done so since
    /// the process began.
    fn is_so(&self, off: f64, started: Instant, since: Instant) -> bool {
        match self.change {
            Change::Forward => off > 3000.0,
            Change::Back => off < -3000.0,
            Change::Fast => {
                let (at_least, at_most) = (since.elapsed() / 2, started.elapsed() * 2);
                off > at_least.as_secs_f64() && off < at_most.as_secs_f64() + 5.0
            }
        }
    }
}

fn library() -> Option<&'static str> {
    LIBRARIES.into_iter().find(|path| Path::new(path).exists())
}

/// The file that the library of a node reads.
fn file(cluster: &Cluster, place: usize) -> PathBuf {
    cluster.folder().join(format!("clock-{}", place + 1))
}

fn set(cluster: &Cluster, place: usize, words: &str) -> Result<()> {
    let (file, draft) = (file(cluster, place), cluster.folder().join("clock-draft"));
    std::fs::write(&draft, format!("{words}\n"))?;
    std::fs::rename(draft, file).context("set the clock of a node")
}

/// Starts all nodes again, with or without the library.
fn start_again(cluster: &mut Cluster, library: Option<&str>) -> Result<()> {
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    cluster.kill(&all)?;
    for place in all {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut around = Around::default();
        if let Some(library) = library {
            set(cluster, place, "+0")?;
            around.variables = vec![
                variable("LD_PRELOAD", library),
                variable("FAKETIME_TIMESTAMP_FILE", &file(cluster, place).display().to_string()),
                variable("FAKETIME_CACHE_DURATION", "1"),
                variable("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                variable("DONT_FAKE_MONOTONIC", "1"),
            ];
        }
        cluster.run_around(place, &around)?;
    }
    cluster.wait_whole(WHOLE_MAX)?;
    Ok(())
}

/// By how many seconds the clock of a node is off, as the time of a new line in its log says.
fn off(cluster: &Cluster, place: usize) -> Result<f64> {
    let before = cluster.log(place)?.len();
    // It reads its configuration again, and says so.
    cluster.signal(place, "HUP")?;
    let stamp = wait_for("a line in the log", || {
        let log = cluster.log(place).ok()?;
        let mut lines = log.get(before..)?.lines();
        lines.find_map(|line| line.split(' ').next().filter(|word| word.ends_with('Z')).map(str::to_owned))
    })?;
    let said: f64 = machine::run("date", &["-u", "-d", &stamp, "+%s.%N"])?.trim().parse()?;
    Ok(said - SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64())
}

impl Nemesis for Clock {
    fn name(&self) -> &'static str {
        match self.change {
            Change::Forward => "clock-forward",
            Change::Back => "clock-back",
            Change::Fast => "clock-fast",
        }
    }

    fn what(&self) -> &'static str {
        match self.change {
            Change::Forward => "the wall clock of the leading node, or of all, jumps an hour ahead",
            Change::Back => "the wall clock of the leading node, or of all, jumps an hour back",
            Change::Fast => "the wall clock of the leading node, or of all, goes twice as fast",
        }
    }

    fn lacking(&self) -> Option<String> {
        library().is_none().then(|| "libfaketime is not installed".to_owned())
    }

    fn lasts(&self, random: &mut Random) -> Duration {
        random.between(Duration::from_secs(4), Duration::from_secs(12))
    }

    fn holds(&self) -> Holds {
        Holds { no_election: true, progress: true }
    }

    fn inject(&mut self, cluster: &mut Cluster, random: &mut Random) -> Result<Injected> {
        let Some(library) = library() else { bail!("libfaketime is not installed") };
        let started = Instant::now();
        start_again(cluster, Some(library))?;
        // What a fault before left behind must not count.
        cluster.wait_steady(WHOLE_MAX)?;
        let leader = cluster.leader()?;
        let all = random.below(2) == 0;
        self.victims = if all { (0..cluster.nodes.len()).collect() } else { vec![leader] };
        for victim in &self.victims {
            set(cluster, *victim, self.words())?;
        }
        self.since = Some((started, Instant::now()));
        let_pass(NOTICED_AFTER);
        Ok(Injected { victims: self.victims.clone(), ..Injected::default() })
    }

    fn proof(&mut self, cluster: &mut Cluster) -> Result<String> {
        let (started, since) = self.since.context("clocks were changed")?;
        let mut said = Vec::new();
        for victim in &self.victims {
            let off = off(cluster, *victim)?;
            ensure!(self.is_so(off, started, since), "the clock of n{} is off by {off} s", victim + 1);
            said.push(format!("n{} off by {off:.1} s", victim + 1));
        }
        Ok(said.join(", "))
    }

    fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        for victim in &self.victims {
            set(cluster, *victim, "+0")?;
        }
        let_pass(NOTICED_AFTER);
        start_again(cluster, None)
    }
}
