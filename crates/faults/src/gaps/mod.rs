//! Gaps: how long publishers have no answers around a fault, with this broker and others side by side.
//!
//! Owns: the command line, the rounds, one fault from its choice to its healing. Does not: judge; what a figure is to be is written
//! elsewhere.
//! Invariants: every broker has the same clients and the same faults, and while it is measured no other one runs. A fault without a
//! proof, or one that is not healed, ends the run.
//! Limits: a fault lasts `HOLD_MAX` at most. See: docs/operations/faults.md.

mod broker;
mod figures;
mod load;
mod nats;
mod quorate;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::{let_pass, wait_at_most, wait_for};

use self::broker::Broker;
use self::figures::{Figures, Gap, Seat, gap};
use self::load::{Load, Plan};
use self::nats::{Nats, Sync};
use self::quorate::Quorate;
use crate::cluster::NODES;
use crate::machine::{missing, process_state, signal};
use crate::only::{self, OnlyRun};
use crate::{report, volume};

/// The first argument that asks for it.
pub const COMMAND: &str = "--gaps";

const USAGE: &str = "\
Usage: cargo xtask faults --gaps [--beside NAME,...] [--rounds N] [--times N] [--scenario NAME]... [--patience MS] [--port N]
                                 [--report FILE]

  --beside NAME,...  other brokers that take turns with this one: nats (syncs before it acknowledges), nats-default (syncs
                     every two minutes)
  --rounds N         rounds (3): in each one every broker is started anew, and has every fault
  --times N          how often it has each fault in a round (3)
  --scenario NAME    only these faults: leader-killed, leader-stopped, leader-disk-hung, leadership-moved
  --patience MS      after so many milliseconds without an answer, or CONNACK, a publisher gives its connection up (3000)
  --port N           first of twelve ports on loopback (23500)
  --report FILE      write the report as a page";

/// No fault lasts longer, whether publishers have answers or not.
const HOLD_MAX: Duration = Duration::from_secs(15);

/// How often the leader may be another one than just before, until the run is given up.
const CHOICES_MAX: usize = 10;

/// A broker takes the sessions of subscribers within so long after its start.
const SUBSCRIBED_MAX: Duration = Duration::from_secs(60);

/// A fault at the node that leads most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9.
    Killed,
    /// SIGSTOP.
    Stopped,
    /// fsfreeze of its volume.
    DiskHung,
    /// An operator moves leadership away.
    Moved,
}

impl Fault {
    const ALL: [Fault; 4] = [Fault::Killed, Fault::Stopped, Fault::DiskHung, Fault::Moved];

    /// Name, as one types it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Killed => "leader-killed",
            Fault::Stopped => "leader-stopped",
            Fault::DiskHung => "leader-disk-hung",
            Fault::Moved => "leadership-moved",
        }
    }

    /// Why it cannot be done here, if so.
    fn lacking(self) -> Option<String> {
        match self {
            Fault::Killed | Fault::Stopped | Fault::Moved => None,
            Fault::DiskHung => volume::why_none().or_else(|| missing(&["fsfreeze"])),
        }
    }

    /// How long it lasts at least.
    fn hold_min(self) -> Duration {
        match self {
            Fault::Killed => Duration::from_secs(2),
            Fault::Stopped | Fault::DiskHung => Duration::from_secs(5),
            Fault::Moved => Duration::from_secs(1),
        }
    }
}

/// A broker to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Quorate,
    Nats,
    NatsDefault,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Name::Quorate => "quorate",
            Name::Nats => "nats",
            Name::NatsDefault => "nats-default",
        }
    }

    /// Why it cannot be run here, if so.
    fn lacking(self) -> Option<String> {
        match self {
            Name::Quorate => None,
            Name::Nats | Name::NatsDefault => nats::program().err().map(|error| format!("{error:#}")),
        }
    }

    fn found(self, dir: &Path, port: u16) -> Result<Box<dyn Broker>> {
        Ok(match self {
            Name::Quorate => Box::new(Quorate::found(dir, port)?),
            Name::Nats => Box::new(Nats::found(dir, port, Sync::Always)?),
            Name::NatsDefault => Box::new(Nats::found(dir, port, Sync::Default)?),
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    beside: Vec<Name>,
    rounds: usize,
    times: usize,
    faults: Vec<Fault>,
    patience: Duration,
    port: u16,
    report: Option<PathBuf>,
}

fn parse(words: &[String]) -> Result<Arguments> {
    let mut parsed = Arguments {
        beside: Vec::new(),
        rounds: 3,
        times: 3,
        faults: Vec::new(),
        patience: Duration::from_secs(3),
        port: 23_500,
        report: None,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--beside" => {
                for name in value()?.split(',') {
                    let known = [Name::Nats, Name::NatsDefault].into_iter().find(|one| one.text() == name);
                    parsed
                        .beside
                        .push(known.with_context(|| format!("no broker is called {name:?}\n{USAGE}"))?);
                }
            }
            "--rounds" => parsed.rounds = value()?.parse().context("read --rounds")?,
            "--times" => parsed.times = value()?.parse().context("read --times")?,
            "--scenario" => {
                let name = value()?;
                let known = Fault::ALL.into_iter().find(|fault| fault.name() == name);
                parsed.faults.push(known.with_context(|| format!("no fault is called {name:?}\n{USAGE}"))?);
            }
            "--patience" => {
                parsed.patience = Duration::from_millis(value()?.parse().context("read --patience")?);
            }
            "--port" => parsed.port = value()?.parse().context("read --port")?,
            "--report" => parsed.report = Some(value()?.into()),
            _ => bail!("unknown argument {word:?}\n{USAGE}"),
        }
    }
    ensure!(
        parsed.rounds > 0 && parsed.times > 0,
        "without rounds and times there is nothing to measure\n{USAGE}"
    );
    if parsed.faults.is_empty() {
        parsed.faults = Fault::ALL.to_vec();
    }
    Ok(parsed)
}

/// Measures with these arguments.
///
/// # Errors
/// When a broker does not become whole, or a fault is not proven.
pub fn start(words: &[String]) -> Result<()> {
    if words.iter().any(|word| word == "--help") {
        println!("{USAGE}");
        return Ok(());
    }
    let mut arguments = parse(words)?;
    let mut skipped = Vec::new();
    arguments.faults.retain(|fault| keeps(fault.name(), fault.lacking(), &mut skipped));
    arguments.beside.retain(|name| keeps(name.text(), name.lacking(), &mut skipped));
    ensure!(!arguments.faults.is_empty(), "none of these faults can be injected here");
    let brokers: Vec<Name> = [Name::Quorate].into_iter().chain(arguments.beside.iter().copied()).collect();
    let _only = OnlyRun::begin()?;
    let dir = only::folder();
    let load_before = load_average()?;
    let mut figures = Figures::default();
    for number in 1..=arguments.rounds {
        for name in &brokers {
            std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
            round(*name, &dir, number, &arguments, &mut figures).with_context(|| {
                format!("round {number} with {}; its logs are in {}", name.text(), dir.display())
            })?;
            std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
    }
    let table = figures.table();
    print!("{table}");
    if let Some(file) = &arguments.report {
        let load = format!("{load_before} at the begin, {} at the end", load_average()?);
        let text = page(&table, &brokers, &arguments, &load, &skipped)?;
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Whether there is no reason to skip it; a reason is said and noted.
fn keeps(name: &'static str, lacking: Option<String>, skipped: &mut Vec<report::Skipped>) -> bool {
    let Some(reason) = lacking else { return true };
    println!("{name}: skipped, {reason}");
    skipped.push((name, reason));
    false
}

/// Starts one broker anew, and does every fault to it.
fn round(name: Name, dir: &Path, number: usize, arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let mut broker = name.found(dir, arguments.port)?;
    let listeners = broker.listeners();
    for subscriber in broker.subscribers() {
        let address = *listeners.first().context("a node")?;
        let mut problem = None;
        wait_at_most(SUBSCRIBED_MAX, "a durable subscription", || {
            problem = load::make_subscriber(address, &subscriber).err();
            problem.is_none().then_some(())
        })
        .with_context(|| format!("{problem:?}"))?;
    }
    for fault in &arguments.faults {
        for _ in 0..arguments.times {
            let (gaps, proof) =
                once(broker.as_mut(), *fault, arguments.patience).with_context(|| fault.name().to_owned())?;
            println!("round {number}, {} {}: {proof}; {}", name.text(), fault.name(), figures::line(&gaps));
            figures.take(name.text(), *fault, &gaps);
        }
    }
    Ok(())
}

/// One fault: the gap of each publisher, and the proof.
fn once(broker: &mut dyn Broker, fault: Fault, patience: Duration) -> Result<(Vec<Gap>, String)> {
    for _ in 0..CHOICES_MAX {
        broker.wait_whole()?;
        let leaders = broker.leaders()?;
        let victim = leads_most(&leaders).context("no node leads anything")?;
        let plans = plans(&broker.subscribers(), victim);
        let load = Load::start(&broker.listeners(), &plans, patience)?;
        // While the publishers began, leadership may have moved.
        if broker.leaders()? != leaders {
            continue;
        }
        let injected = load.now();
        let held = hold(broker, fault, victim, &load);
        let healed = load.now();
        // Whatever went wrong: nothing may be left frozen.
        heal(broker, fault, victim)?;
        let proof = held?;
        let answers = load.end_after(healed)?;
        let gap_of = |(place, answers): (usize, &Vec<_>)| {
            let seat = seat(place, *leaders.get(place / 2)?, victim);
            Some(gap(seat, answers, injected, healed))
        };
        return Ok((answers.iter().enumerate().filter_map(gap_of).collect(), proof));
    }
    bail!("leadership did not come to rest")
}

/// The node that leads most; the first of those.
fn leads_most(leaders: &[usize]) -> Option<usize> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    leaders.iter().for_each(|leader| *counts.entry(*leader).or_default() += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(leader, _)| leader)
}

/// Two publishers for each subscriber: the first on one of the other nodes in turn, the second on the victim.
fn plans(subscribers: &[String], victim: usize) -> Vec<Plan> {
    let others: Vec<usize> = (0..NODES).filter(|place| *place != victim).collect();
    let mut homes = others.iter().copied().cycle();
    let mut plans = Vec::new();
    for subscriber in subscribers {
        for home in [homes.next().unwrap_or(victim), victim] {
            plans.push(Plan { subscriber: subscriber.clone(), home });
        }
    }
    plans
}

/// Where the publisher of a place among the plans is.
fn seat(place: usize, leader: usize, victim: usize) -> Seat {
    match (place % 2, leader == victim) {
        (0, true) => Seat::Led,
        (0, false) => Seat::Beside,
        _ => Seat::OnVictim,
    }
}

/// Injects a fault, proves it, and waits until publishers have answers in spite of it, or it has lasted for `HOLD_MAX`.
fn hold(broker: &mut dyn Broker, fault: Fault, victim: usize, load: &Load) -> Result<String> {
    let begin = load.now();
    let proof = match fault {
        Fault::Killed => broker.kill(victim)?,
        Fault::Stopped => {
            let pid = broker.pid(victim)?;
            signal(pid, "STOP")?;
            wait_for("the process to stop", || (process_state(pid) == Some('T')).then_some(()))?;
            format!("process {pid} is in state T")
        }
        Fault::DiskHung => {
            let volume = broker.volume(victim)?;
            volume.hang()?;
            volume.prove_hangs()?
        }
        Fault::Moved => broker.transfer(victim)?,
    };
    let lasted = || load.now().since(begin);
    while lasted() < fault.hold_min() || !load.flows() && lasted() < HOLD_MAX {
        let_pass(Duration::from_millis(100));
    }
    Ok(proof)
}

fn heal(broker: &mut dyn Broker, fault: Fault, victim: usize) -> Result<()> {
    match fault {
        Fault::Killed => broker.start(victim),
        Fault::Stopped => signal(broker.pid(victim)?, "CONT"),
        Fault::DiskHung => broker.volume(victim)?.resume(),
        Fault::Moved => broker.lead_again(victim),
    }
}

/// How many processes wanted to run in the last minute.
fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The report as a page.
fn page(
    table: &str,
    brokers: &[Name],
    arguments: &Arguments,
    load: &str,
    skipped: &[report::Skipped],
) -> Result<String> {
    let mut text = String::from("# Gaps in answers around a fault\n\n");
    text.push_str("Written by `cargo xtask faults --gaps --report FILE`; [what it does](../operations/faults.md#gaps).\n\n");
    let _ = writeln!(text, "{}. Load average {load}.", report::machine_line()?);
    if brokers.iter().any(|name| *name != Name::Quorate) {
        let _ = writeln!(text, "Beside it {}; the brokers took turns.", nats::program()?.1);
    }
    let disks =
        if volume::why_none().is_none() { "a volume of its own (ext4 on a loop device)" } else { "a folder" };
    let _ = writeln!(
        text,
        "{} rounds, each fault {} times in each. Three nodes on loopback, each with {disks}. Publishers have {} ms of patience.\n",
        arguments.rounds,
        arguments.times,
        arguments.patience.as_millis()
    );
    text.push_str(table);
    if !skipped.is_empty() {
        text.push_str("\n## Skipped\n");
    }
    for (name, reason) in skipped {
        let _ = writeln!(text, "- {name}: {reason}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn arguments_name_brokers_and_faults() {
        let parsed = parse(&words("--beside nats,nats-default --times 9 --scenario leader-stopped")).unwrap();
        assert_eq!(parsed.beside, [Name::Nats, Name::NatsDefault]);
        assert_eq!((parsed.rounds, parsed.times, parsed.faults), (3, 9, vec![Fault::Stopped]));
        let hasty = parse(&words("--patience 500")).unwrap();
        assert_eq!((hasty.patience, parsed.patience), (Duration::from_millis(500), Duration::from_secs(3)));
        assert_eq!(parse(&[]).unwrap().faults, Fault::ALL);
        for wrong in
            ["--beside mosquitto", "--scenario x", "--rounds", "--rounds x", "--rounds 0", "--times 0"]
        {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn victim_is_the_first_of_those_that_lead_most() {
        assert_eq!(leads_most(&[2, 0, 2, 0]), Some(0));
        assert_eq!(leads_most(&[1, 2, 2, 0]), Some(2));
        assert_eq!(leads_most(&[]), None);
    }

    #[test]
    fn publishers_sit_on_the_victim_and_in_turn_on_the_others() {
        let subscribers = words("a b c d");
        let plans = plans(&subscribers, 1);
        let homes: Vec<usize> = plans.iter().map(|plan| plan.home).collect();
        assert_eq!(homes, [0, 1, 2, 1, 0, 1, 2, 1]);
        // The victim leads for the first and the last subscriber.
        let leaders = [1, 0, 2, 1];
        let seats: Vec<Seat> = (0..8).map(|place| seat(place, leaders[place / 2], 1)).collect();
        use Seat::{Beside, Led, OnVictim};
        assert_eq!(seats, [Led, OnVictim, Beside, OnVictim, Beside, OnVictim, Led, OnVictim]);
    }
}
