//! `quorate bench`: throughput, latency and memory for the usual shapes of load.
//!
//! Owns: the shapes, the order of a measurement, the report. Does not: start brokers or judge results.
//! Invariants: every subscription is acknowledged before the first publish; send times travel in the payload
//! and are read in the same process, so that no clock is compared with another.
//! Limits: BENCH_QUIET: a measurement ends when nothing has come for that long.

mod idle;
mod load;
mod log_use;
mod process;
mod publisher;
mod storm;
mod subscriber;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use quorate_codec::{ProtocolVersion, QoS};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::client::{ClientError, ClientTls, TlsFlags, unique};
use crate::exit::{Exit, Failure, Outcome};
use crate::mqtt_flags;
use crate::output::{self, Output};
use summary::Summary;

/// Flags of `quorate bench`.
#[derive(Args, Debug, Clone)]
#[command(after_help = "\
Shapes:
  one-to-one   N publishers, each with its own topic and subscriber (N = --publishers, default 1)
  fan-in       --publishers (default 10) to --subscribers (default 1), which get everything
  fan-out      --publishers (default 1) to --subscribers (default 100), which get everything
  queue-drain  persistent subscribers go offline, messages are queued, then drained; needs --messages
  idle         --connections that do nothing for --duration; memory per connection with --server-pids
  storm        --connections that are lost at the same moment and come back at once; with sessions to resume when --persistent

At a --rate, a message that leaves more than 5 ms late counts from when it was due: a pause of the broker shows in all \
messages that it held up. Figures of the servers cover the whole run, connecting and removing sessions included.")]
pub struct BenchArgs {
    /// Shape of the load
    #[arg(value_enum)]
    shape: Shape,
    /// MQTT addresses; clients spread over them
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', default_value = "127.0.0.1:1883")]
    brokers: Vec<String>,
    #[command(flatten)]
    tls: TlsFlags,
    /// Quality of service of publishes and subscriptions
    #[arg(long, value_parser = mqtt_flags::qos, default_value = "1")]
    qos: QoS,
    /// Number of publishers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    publishers: Option<u32>,
    /// Number of subscribers
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    subscribers: Option<u32>,
    /// Messages to publish, over all publishers; --duration does not count then
    #[arg(long)]
    messages: Option<u64>,
    /// How long to publish, or to hold idle connections
    #[arg(long, value_parser = crate::duration::parse, default_value = "10s")]
    duration: Duration,
    /// Payload size in bytes, at least 8
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    payload: usize,
    /// Most messages that one publisher has in flight
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Messages per second over all publishers; 0 for as many as the windows allow
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Subscribe with persistent sessions; they are removed at the end
    #[arg(long)]
    persistent: bool,
    /// Number of connections of idle and storm
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    /// Process ids of the servers on this machine: shows their CPU seconds, also per million deliveries, and memory
    #[arg(long, visible_alias = "server-pid", value_name = "PID,…", value_delimiter = ',')]
    server_pids: Vec<u32>,
    /// Admin addresses of all servers: shows the syncs of their logs and the messages per sync
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    server_admin: Vec<String>,
    /// MQTT version: mqttv311 or mqttv5
    #[arg(long, value_parser = mqtt_flags::version, default_value = "mqttv5")]
    protocol_version: ProtocolVersion,
    /// Form of the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// A shape of load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[allow(missing_docs)] // Described in the help of the command.
pub enum Shape {
    OneToOne,
    FanIn,
    FanOut,
    QueueDrain,
    Idle,
    Storm,
}

/// What all clients of a measurement share.
pub struct Bench {
    args: BenchArgs,
    tls: Option<ClientTls>,
    id: u64,
    started: Instant,
    /// Messages received, over all subscribers.
    delivered: AtomicU64,
    /// Opens connections a few at a time, so that no accept queue overflows.
    connecting: Semaphore,
    stage: watch::Sender<Stage>,
}

/// How far a measurement has come. Clients watch it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Connect and subscribe.
    Preparing,
    /// Publish until this time from the start, or until the count is reached.
    Measuring {
        /// End of publishing.
        until: Duration,
    },
    /// Publishers are done; subscribers may end.
    Ending,
}

/// A measurement ends when subscribers have got nothing for this long after the last acknowledgement: longer than a
/// failover, or than a disk that stalls.
const BENCH_QUIET: Duration = Duration::from_secs(10);
/// Connections being opened at once.
const CONNECTING_MAX: usize = 64;
/// "No end": the count ends it.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

impl Bench {
    fn new(args: BenchArgs, tls: Option<ClientTls>) -> Arc<Bench> {
        Arc::new(Bench {
            args,
            tls,
            id: unique(),
            started: Instant::now(),
            delivered: AtomicU64::new(0),
            connecting: Semaphore::new(CONNECTING_MAX),
            stage: watch::channel(Stage::Preparing).0,
        })
    }

    /// Nanoseconds from the start.
    fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The broker of the `at`th client.
    fn broker(&self, at: usize) -> &str {
        let brokers = &self.args.brokers;
        brokers.get(at.checked_rem(brokers.len()).unwrap_or(0)).map_or("", String::as_str)
    }

    fn measuring(&self) -> Stage {
        let until = match self.args.messages {
            Some(_) => FOREVER,
            None => self.started.elapsed() + self.args.duration,
        };
        Stage::Measuring { until }
    }

    /// Waits until `expected` messages have been delivered, or nothing has come for a while.
    async fn delivered_all(&self, expected: u64) {
        const PAUSE: Duration = Duration::from_millis(5);
        let mut quiet_since = Instant::now();
        let mut before = self.delivered.load(Ordering::Relaxed);
        while before < expected && quiet_since.elapsed() < BENCH_QUIET {
            tokio::time::sleep(PAUSE).await;
            let after = self.delivered.load(Ordering::Relaxed);
            if after != before {
                quiet_since = Instant::now();
            }
            before = after;
        }
    }
}

/// Runs the command.
pub async fn run(args: BenchArgs) -> Outcome {
    if args.shape == Shape::QueueDrain && args.messages.is_none() {
        return Err(
            Failure::usage("queue-drain needs --messages").hint("say how many to queue: --messages 100000")
        );
    }
    let output = args.output;
    let tls = args.tls.load().map_err(|error| Failure::new(Exit::Usage, error))?;
    let bench = Bench::new(args, tls);
    let before =
        process::usage_of(&bench.args.server_pids).map_err(|error| Failure::new(Exit::Usage, error))?;
    let log_before = log_use::counters_of(&bench.args.server_admin)
        .await
        .map_err(|error| Failure::new(Exit::Unreachable, error))?;
    let own_before = process::own_usage()?;
    let work = async {
        match bench.args.shape {
            Shape::Idle => idle::run(&bench, &before).await,
            Shape::Storm => storm::run(&bench).await,
            Shape::QueueDrain => load::queue_drain(&bench).await,
            Shape::OneToOne | Shape::FanIn | Shape::FanOut => load::flow(&bench).await,
        }
    };
    let mut summary: Summary = tokio::select! {
        summary = work => summary?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::silent(Exit::Interrupted)),
    };
    let after = process::usage_of(&bench.args.server_pids).context("after the measurement")?;
    summary.load_cpu_s = process::own_usage()?.cpu_s - own_before.cpu_s;
    summary.add_servers(&before, &after);
    summary.add_log(&log_before, &log_use::counters_of(&bench.args.server_admin).await?);
    match output {
        Output::Json => output::print_json(&summary)?,
        Output::Text => output::print(&summary.render())?,
    }
    match summary.lost() {
        Some(lost) => Err(Failure::from(anyhow!("{lost} messages were not delivered"))
            .hint("quorate_messages_dropped_total of the nodes says why; QoS 0 may be dropped under load")),
        None => Ok(()),
    }
}

/// The failure of a client of a measurement.
fn failed(what: &str, error: ClientError) -> Failure {
    let exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
    Failure::new(exit, anyhow::Error::from(error).context(what.to_owned()))
}
