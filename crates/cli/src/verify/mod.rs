//! `quorate verify`: does this cluster keep its promises while things happen to it?
//!
//! Owns: the phases of a run, the clients of it, what is printed. The judgement is the oracle's.
//! Does not: cause faults; whoever runs it kills nodes meanwhile.
//! Invariants: all subscriptions are acknowledged before the first publish; every session is removed at the end.
//! Limits: drain and clean-up have deadlines, so that a run always ends.
//! Spec: D1, D2, D3, D4, D5, D6, D11, D12, D14 and D15 of the contract.

mod client;
mod message;
mod mix;
mod oracle;
mod publisher;
mod subscriber;
mod wills;

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use parking_lot::Mutex;
use quorate_codec::ProtocolVersion;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::client::{ClientTls, TlsFlags, unique};
use crate::exit::{Exit, Failure, Outcome};
use crate::mqtt_flags;
use crate::output::{self, Output};
use crate::table::{Table, thousands};
use mix::Mix;
use oracle::{ClientIndex, Oracle, Progress, Report};

/// Flags of `quorate verify`.
#[derive(Args, Debug, Clone)]
pub struct VerifyArgs {
    /// MQTT addresses of the nodes; clients spread over them and move on when one fails
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', default_value = "127.0.0.1:1883")]
    brokers: Vec<String>,
    #[command(flatten)]
    tls: TlsFlags,
    /// How long to publish
    #[arg(long, value_parser = crate::duration::parse, default_value = "30s")]
    duration: Duration,
    /// Messages per second over all publishers; 0 for as many as the windows allow
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Quality of service of publishes and subscriptions: 0, 1, 2, or mixed for clients of QoS 1 and 2 in turn
    #[arg(long, value_parser = Mix::parse, default_value = "1")]
    qos: Mix,
    /// Number of publishers
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    publishers: u32,
    /// Number of subscribers; each gets every message
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: u32,
    /// Number of members of a share group that gets every message once; 0 for none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    sharers: u32,
    /// Number of clients that carry a will, whose connections are cut after the last publish; 0 for none
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10_000))]
    wills: u32,
    /// Payload size in bytes, at least 32
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    payload: usize,
    /// Most messages that one publisher has in flight; also the Receive Maximum of the subscribers
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// How long to wait for what is still under way after the last publish
    #[arg(long, value_parser = crate::duration::parse, default_value = "60s")]
    drain: Duration,
    /// How long a broker may be silent before a client gives the connection up
    #[arg(long, value_parser = crate::duration::parse, default_value = "2s")]
    silence: Duration,
    /// MQTT version: mqttv311 or mqttv5
    #[arg(long, value_parser = mqtt_flags::version, default_value = "mqttv5")]
    protocol_version: ProtocolVersion,
    /// Name every lost connection on standard error
    #[arg(long, short)]
    verbose: bool,
    /// Form of the report
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How far the run has come. Clients watch it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Subscribers subscribe, publishers connect.
    Preparing,
    /// Publishers publish.
    Publishing,
    /// No new messages; acknowledgements and deliveries still come.
    Draining,
    /// Sessions are removed.
    Cleaning,
}

/// What all clients of a run share.
pub struct Run {
    args: VerifyArgs,
    tls: Option<ClientTls>,
    id: u64,
    started: Instant,
    oracle: Mutex<Oracle>,
    last_error: Mutex<Option<String>>,
}

impl Run {
    /// Time since the start of the run.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes why a connection was lost or not made.
    fn note(&self, name: &str, broker: &str, error: &crate::client::ClientError) {
        let mut text = format!("{name} at {broker}: {error}");
        if let Some(source) = std::error::Error::source(error) {
            text.push_str(&format!(": {source}"));
        }
        if self.args.verbose {
            eprintln!("{:>6.1} s  {text}", self.now().as_secs_f64());
        }
        *self.last_error.lock() = Some(text);
    }
}

/// The report with what was asked for.
#[derive(Serialize)]
struct Summary<'a> {
    run: String,
    brokers: &'a [String],
    qos: &'static str,
    publishers: u32,
    subscribers: u32,
    sharers: u32,
    wills: u32,
    payload_bytes: usize,
    elapsed_ms: u64,
    kept: bool,
    #[serde(flatten)]
    report: &'a Report,
}

/// Longest time for all clients to connect and subscribe.
const PREPARE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time for all clients to remove their sessions.
const CLEAN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often the drain looks whether everything has come.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// Runs the command.
pub async fn run(args: VerifyArgs) -> Outcome {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let (publishers, subscribers, sharers) =
        (count(args.publishers), count(args.subscribers), count(args.sharers));
    let receive_max = if args.protocol_version == ProtocolVersion::V5 { args.window } else { u16::MAX };
    if args.qos == Mix::Mixed && publishers.min(subscribers) < 2 {
        return Err(Failure::usage("--qos mixed needs two publishers and two subscribers, one of each QoS")
            .hint("raise --publishers and --subscribers to 2 at least"));
    }
    let levels = |count: usize| (0..count).map(|at| args.qos.at(at));
    let mut oracle = Oracle::new(levels(publishers), levels(subscribers), receive_max);
    oracle.share(levels(sharers));
    let wills = count(args.wills);
    oracle.expect_wills(wills);
    let tls = args.tls.load().map_err(|error| Failure::new(Exit::Usage, error))?;
    let run = Arc::new(Run {
        tls,
        id: unique(),
        started: Instant::now(),
        oracle: Mutex::new(oracle),
        last_error: Mutex::new(None),
        args,
    });
    let (phase, phases) = watch::channel(Phase::Preparing);
    // One message per client, and room for all: a sender never waits.
    let (ready, mut prepared) = mpsc::channel(publishers + subscribers + sharers + wills + 1);
    let mut publishing = JoinSet::new();
    let mut subscribing = JoinSet::new();
    let receivers =
        (0..subscribers).map(ClientIndex::Subscriber).chain((0..sharers).map(ClientIndex::Sharer));
    let receivers = receivers.chain((wills > 0).then_some(ClientIndex::Watcher));
    for index in receivers {
        subscribing.spawn(subscriber::run(run.clone(), index, phases.clone(), ready.clone()));
    }
    for at in 0..publishers {
        publishing.spawn(publisher::run(run.clone(), at, phases.clone(), ready.clone()));
    }
    for at in 0..wills {
        publishing.spawn(wills::run(run.clone(), at, phases.clone(), ready.clone()));
    }
    drop(ready);
    let interrupted = phases_of(&run, &phase, &mut prepared, &mut publishing).await?;
    phase.send_replace(Phase::Cleaning);
    let clean = async {
        while publishing.join_next().await.is_some() {}
        while subscribing.join_next().await.is_some() {}
    };
    if tokio::time::timeout(CLEAN_WAIT_MAX, clean).await.is_err() {
        eprintln!("some sessions could not be removed; they expire in an hour");
    }
    conclude(&run, interrupted)
}

/// Walks through the phases up to the end of the drain. True when SIGINT shortened it.
async fn phases_of(
    run: &Arc<Run>,
    phase: &watch::Sender<Phase>,
    prepared: &mut mpsc::Receiver<()>,
    publishing: &mut JoinSet<()>,
) -> Outcome<bool> {
    let all_prepared = async { while prepared.recv().await.is_some() {} };
    if timeout_at(Instant::now() + PREPARE_WAIT_MAX, all_prepared).await.is_err() {
        let reason = run.last_error.lock().clone().unwrap_or_else(|| "no answer".to_owned());
        return Err(Failure::new(Exit::Unreachable, anyhow!("not every client could connect: {reason}"))
            .hint("check the addresses given with --brokers"));
    }
    phase.send_replace(Phase::Publishing);
    let end = Instant::now() + run.args.duration;
    let mut interrupted = false;
    tokio::select! {
        () = tokio::time::sleep_until(end) => {}
        () = tell_progress(run) => {}
        _ = tokio::signal::ctrl_c() => interrupted = true,
    }
    phase.send_replace(Phase::Draining);
    let deadline = Instant::now() + run.args.drain;
    let drained = async {
        while publishing.join_next().await.is_some() {}
        while run.oracle.lock().missing() > 0 {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    };
    tokio::select! {
        _ = timeout_at(deadline, drained) => {}
        () = tell_progress(run) => {}
        _ = tokio::signal::ctrl_c() => interrupted = true,
    }
    Ok(interrupted)
}

/// One line per second on standard error. Never returns.
async fn tell_progress(run: &Run) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Progress { published, acked, delivered, reconnects } = run.oracle.lock().progress();
        eprintln!(
            "{:>4} s  published {}  acked {}  delivered {}  reconnects {reconnects}",
            run.now().as_secs(),
            thousands(published),
            thousands(acked),
            thousands(delivered),
        );
    }
}

fn conclude(run: &Run, interrupted: bool) -> Outcome {
    let report = run.oracle.lock().report();
    let args = &run.args;
    let summary = Summary {
        run: format!("{:x}", run.id),
        brokers: &args.brokers,
        qos: args.qos.name(),
        publishers: args.publishers,
        subscribers: args.subscribers,
        sharers: args.sharers,
        wills: args.wills,
        payload_bytes: args.payload.max(message::MESSAGE_BYTES_MIN),
        elapsed_ms: u64::try_from(run.now().as_millis()).unwrap_or(u64::MAX),
        kept: report.broken.is_empty(),
        report: &report,
    };
    match args.output {
        Output::Json => output::print_json(&summary)?,
        Output::Text => output::print(&render(&report))?,
    }
    match (report.broken.is_empty(), report.acked == 0 && args.qos.is_acknowledged()) {
        (false, _) => Err(Failure::silent(Exit::Failed)),
        (true, true) => Err(Failure::from(anyhow!("no message was acknowledged: the run proves nothing"))
            .hint(
                "see `quorate status`: has every group a leader? A longer --duration leaves time to recover",
            )),
        (true, false) if interrupted => Err(Failure::silent(Exit::Interrupted)),
        (true, false) => Ok(()),
    }
}

fn render(report: &Report) -> String {
    let mut table = Table::new(&["", ">"]);
    for (name, count) in [
        ("published", report.published),
        ("acknowledged", report.acked),
        ("refused", report.refused),
        ("without an answer", report.indeterminate),
        ("delivered, over all subscribers", report.delivered),
        ("lost acknowledged", report.lost_acknowledged),
        ("duplicates redelivered with DUP", report.duplicates_redelivered),
        ("duplicates of resent publishes", report.duplicates_resent),
        ("duplicates unexplained", report.duplicates_unexplained),
        ("duplicates at QoS 2", report.duplicates_exactly_once),
        ("delivered to the share group", report.shared_delivered),
        ("lost to the share group", report.shared_lost),
        ("copies of what was in flight to a lost member", report.shared_reassigned),
        ("copies of resent publishes to the share group", report.shared_resent),
        ("copies to the share group unexplained", report.shared_unexplained),
        ("copies to the share group at QoS 2", report.shared_exactly_once),
        ("wills due", report.wills_due),
        ("wills seen", report.wills_seen),
        ("wills missing", report.wills_missing),
        ("wills seen again", report.wills_repeated),
        ("wills of connections not cut", report.wills_unexpected),
        ("out of order", report.out_of_order),
        ("of the wrong QoS", report.wrong_qos),
        ("never published", report.phantoms),
        ("corrupt", report.corrupt),
        ("protocol errors", report.protocol_errors),
        ("sessions lost", report.sessions_lost),
        ("sessions unexpected", report.sessions_unexpected),
        ("reconnects", report.reconnects),
        ("longest ack gap, ms", report.longest_ack_gap_ms),
        ("longest delivery gap, ms", report.longest_delivery_gap_ms),
    ] {
        table.row(vec![name.to_owned(), thousands(count)]);
    }
    let mut text = table.render().trim_start().to_owned();
    for line in &report.examples {
        text.push_str(&format!("  {line}\n"));
    }
    match report.broken.as_slice() {
        [] => text.push_str("every promise was kept\n"),
        broken => {
            for line in broken {
                text.push_str(&format!("BROKEN: {line}\n"));
            }
        }
    }
    text
}
