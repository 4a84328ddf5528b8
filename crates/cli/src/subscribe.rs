//! `quorate sub`: print messages as they come, with the flags of mosquitto_sub.
//!
//! Owns: subscribing, answering, printing, connecting again when the connection is lost.
//! Does not: interpret payloads beyond the output format.
//! Invariants: a message is acknowledged after it was written to standard output.
//! Limits: the pause before connecting again grows to SUB_RECONNECT_PAUSE_MAX.

use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use quorate_codec::{
    Packet, PacketId, Publish, ReasonCode, RetainHandling, SubAck, Subscribe, SubscriptionOptions,
    TopicFilter, Unsubscribe,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::client::{self, ClientError, Connection, Inbound, Progress};
use crate::exit::{Exit, Failure, Outcome};
use crate::limits::{RECONNECT_PAUSE_MIN, SUB_RECONNECT_PAUSE_MAX};
use crate::message_format::MessageFormat;
use crate::mqtt_flags::{ConnectFlags, Target};
use crate::mqtt_property::Command;
use crate::output;
use crate::publish::connect_failure;

/// Flags of `quorate sub`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct SubscribeArgs {
    #[command(flatten)]
    connect: ConnectFlags,
    /// Topic filter to subscribe to. May be repeated
    #[arg(short, long, required_unless_present = "url")]
    topic: Vec<String>,
    /// Topic filter of messages not to print. May be repeated
    #[arg(short = 'T', long, value_name = "FILTER")]
    filter_out: Vec<String>,
    /// Topic filter to unsubscribe from after connecting. May be repeated
    #[arg(short = 'U', long, value_name = "FILTER")]
    unsubscribe: Vec<String>,
    /// Print the topic before each payload
    #[arg(short, long)]
    verbose: bool,
    /// Output format: %t topic, %p payload, %q QoS, %r retain, %m packet id, %l length, %x payload in hexadecimal, %j JSON
    #[arg(short = 'F', long, value_name = "FORMAT", conflicts_with = "verbose")]
    format: Option<String>,
    /// Do not end payloads with a newline
    #[arg(short = 'N')]
    no_newline: bool,
    /// End after this many messages
    #[arg(short = 'C', value_name = "COUNT")]
    count: Option<u64>,
    /// End after this many seconds, with exit code 27
    #[arg(short = 'W', value_name = "SECONDS")]
    timeout_s: Option<u64>,
    /// End when the subscriptions are acknowledged
    #[arg(short = 'E')]
    exit_after_subscribe: bool,
    /// Do not print messages that were retained before
    #[arg(short = 'R')]
    no_stale: bool,
    /// Print retained messages only, and end at the first that is not
    #[arg(long)]
    retained_only: bool,
    /// Delete the retained messages received
    #[arg(long)]
    remove_retained: bool,
    /// Do not connect again when the connection is lost
    #[arg(long)]
    no_reconnect: bool,
}

/// Why a connection is over.
enum End {
    /// Everything asked for is done.
    Done,
    /// SIGINT or SIGTERM.
    Interrupted,
    /// `-W` ran out.
    TimedOut,
}

/// Runs the command.
pub async fn run(args: SubscribeArgs) -> Outcome {
    let target = args.connect.target("sub")?;
    let mut subscriber = Subscriber::new(args, target)?;
    let mut pause = RECONNECT_PAUSE_MIN;
    loop {
        let error = match subscriber.connect_once(&mut pause).await {
            Ok(end) => return subscriber.conclude(&end),
            Err(failure) if !subscriber.connected_once => return Err(failure),
            Err(failure) if failure.exit == Exit::Usage || subscriber.args.no_reconnect => {
                return Err(failure);
            }
            Err(failure) => failure.error,
        };
        if let Some(error) = error.filter(|_| !subscriber.args.connect.quiet) {
            eprintln!("{error:#}; connecting again in {} ms", pause.as_millis());
        }
        if let Some(end) = subscriber.pause(pause).await {
            return subscriber.conclude(&end);
        }
        pause = (pause * 2).min(SUB_RECONNECT_PAUSE_MAX);
    }
}

struct Subscriber {
    args: SubscribeArgs,
    target: Target,
    subscribe: Subscribe,
    unsubscribe: Option<Unsubscribe>,
    filter_out: Vec<TopicFilter>,
    format: MessageFormat,
    inbound: Inbound,
    out: BufWriter<std::io::Stdout>,
    printed: u64,
    deadline: Option<Instant>,
    connected_once: bool,
    subscribed: bool,
    interrupt: Signal,
    terminate: Signal,
}

const SUBSCRIBE_ID: PacketId = PacketId::MIN;
const UNSUBSCRIBE_ID: PacketId = PacketId::MAX;

impl Subscriber {
    fn new(args: SubscribeArgs, target: Target) -> Outcome<Subscriber> {
        let filters = |texts: &mut dyn Iterator<Item = &String>| {
            texts
                .map(|text| client::topic_filter(text))
                .collect::<Result<Vec<_>, _>>()
                .map_err(Failure::usage)
        };
        let options = SubscriptionOptions {
            qos: args.connect.qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        let wanted = filters(&mut args.topic.iter().chain(&target.topic))?;
        let mut subscribe = Subscribe {
            packet_id: SUBSCRIBE_ID,
            identifier: None,
            user_properties: Vec::new(),
            filters: wanted.into_iter().map(|filter| (filter, options)).collect(),
        };
        let unwanted = filters(&mut args.unsubscribe.iter())?;
        let mut unsubscribe = (!unwanted.is_empty()).then(|| Unsubscribe {
            packet_id: UNSUBSCRIBE_ID,
            user_properties: Vec::new(),
            filters: unwanted,
        });
        for property in &target.properties {
            match (property.command, &mut unsubscribe) {
                (Command::Subscribe, _) => property.apply_subscribe(&mut subscribe),
                (Command::Unsubscribe, Some(unsubscribe)) => property.apply_unsubscribe(unsubscribe),
                (Command::Connect | Command::Will | Command::Unsubscribe, _) => Ok(()),
                (Command::Publish, _) => {
                    Err("sub publishes nothing: -D publish has no place here".to_owned())
                }
            }
            .map_err(Failure::usage)?;
        }
        let format = match &args.format {
            Some(format) => MessageFormat::parse(format, !args.no_newline).map_err(Failure::usage)?,
            None => MessageFormat::plain(args.verbose, !args.no_newline),
        };
        let filter_out = filters(&mut args.filter_out.iter())?;
        let deadline = args.timeout_s.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Ok(Subscriber {
            target,
            subscribe,
            unsubscribe,
            filter_out,
            format,
            inbound: Inbound::default(),
            out: BufWriter::new(std::io::stdout()),
            printed: 0,
            deadline,
            connected_once: false,
            subscribed: false,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            args,
        })
    }

    /// One connection, from CONNECT to its end.
    async fn connect_once(&mut self, pause: &mut Duration) -> Outcome<End> {
        let (connection, connack) = tokio::select! {
            opened = Connection::open(&self.target.address, self.target.tls.as_ref(), &self.target.connect) => {
                opened.map_err(|error| connect_failure(error, &self.target))?
            }
            end = ended(&mut self.interrupt, &mut self.terminate, self.deadline) => return Ok(end),
        };
        self.connected_once = true;
        *pause = RECONNECT_PAUSE_MIN;
        if !connack.session_present {
            self.inbound.clear();
            self.subscribed = false;
        }
        let mut connection = connection;
        let end = self.receive_all(&mut connection).await;
        self.out.flush().map_err(output::write_failure)?;
        let end = end?;
        // The messages are printed: what the broker makes of the farewell no longer matters.
        let _ = connection.close(client::disconnect_packet(ReasonCode::SUCCESS)).await;
        Ok(end)
    }

    async fn receive_all(&mut self, connection: &mut Connection) -> Outcome<End> {
        if let Some(unsubscribe) = &self.unsubscribe {
            connection.queue(&Packet::Unsubscribe(unsubscribe.clone())).map_err(lost)?;
        }
        if !self.subscribed {
            connection.queue(&Packet::Subscribe(self.subscribe.clone())).map_err(lost)?;
        }
        loop {
            while let Some(packet) = connection.next_packet().map_err(lost)? {
                if let Some(end) = self.receive(packet, connection)? {
                    return Ok(end);
                }
            }
            self.out.flush().map_err(output::write_failure)?;
            tokio::select! {
                progress = connection.exchange(self.deadline) => {
                    if progress.map_err(lost)? == Progress::Deadline {
                        return Ok(End::TimedOut);
                    }
                }
                end = ended(&mut self.interrupt, &mut self.terminate, None) => return Ok(end),
            }
        }
    }

    fn receive(&mut self, packet: Packet, connection: &mut Connection) -> Outcome<Option<End>> {
        match packet {
            Packet::Publish(publish) => {
                let (deliver, answer) = self.inbound.publish(&publish);
                let end = if deliver { self.print(&publish, connection)? } else { None };
                if let Some(answer) = answer {
                    connection.queue(&answer).map_err(lost)?;
                }
                return Ok(end);
            }
            Packet::PubRel(release) => {
                let answer = self.inbound.release(release.packet_id);
                connection.queue(&answer).map_err(lost)?;
            }
            Packet::SubAck(suback) => {
                self.subscribed = true;
                self.check_suback(&suback)?;
                return Ok(self.args.exit_after_subscribe.then_some(End::Done));
            }
            _ => {}
        }
        Ok(None)
    }

    fn check_suback(&self, suback: &SubAck) -> Outcome {
        let mut granted = 0;
        for ((filter, _), reason) in self.subscribe.filters.iter().zip(&suback.reasons) {
            if reason.is_failure() {
                eprintln!("the broker refused the subscription to {}: {reason}", filter.as_str());
            } else {
                granted += 1;
            }
            if self.args.connect.debug {
                eprintln!("subscribed to {}: {reason}", filter.as_str());
            }
        }
        match granted {
            0 => Err(Failure::new(Exit::Usage, anyhow!("the broker refused every subscription"))
                .hint("the reason of each is above")),
            _ => Ok(()),
        }
    }

    fn print(&mut self, publish: &Publish, connection: &mut Connection) -> Outcome<Option<End>> {
        let Some(topic) = &publish.topic else { return Ok(None) };
        if self.args.retained_only && !publish.retain {
            return Ok(Some(End::Done));
        }
        let hidden = (self.args.no_stale && publish.retain)
            || self.filter_out.iter().any(|filter| filter.matches(topic));
        if hidden {
            return Ok(None);
        }
        if self.args.remove_retained && publish.retain {
            let qos = quorate_codec::PublishQoS::AtMostOnce;
            let mut deletion = client::publish_packet(topic.clone(), bytes::Bytes::new(), qos);
            deletion.retain = true;
            connection.queue(&Packet::Publish(deletion)).map_err(lost)?;
        }
        self.format.write(publish, topic, &mut self.out).map_err(output::write_failure)?;
        self.printed += 1;
        Ok(self.args.count.filter(|count| self.printed >= *count).map(|_| End::Done))
    }

    /// Waits before the next attempt; returns early with the end that came meanwhile.
    async fn pause(&mut self, pause: Duration) -> Option<End> {
        tokio::select! {
            () = tokio::time::sleep(pause) => None,
            end = ended(&mut self.interrupt, &mut self.terminate, self.deadline) => Some(end),
        }
    }

    fn conclude(&self, end: &End) -> Outcome {
        match end {
            End::Done => Ok(()),
            // Without -C there is no other way to end: interrupting is the regular one.
            End::Interrupted if self.args.count.is_none() => Ok(()),
            End::Interrupted => Err(Failure::silent(Exit::Interrupted)),
            End::TimedOut if self.args.connect.quiet => Err(Failure::silent(Exit::TimedOut)),
            End::TimedOut => Err(Failure::new(Exit::TimedOut, anyhow!("-W ran out"))
                .hint("`quorate explain session CLIENT_ID` says why a client gets nothing")),
        }
    }
}

fn lost(error: ClientError) -> Failure {
    Failure::new(Exit::Failed, error).hint("see the log of the node; `quorate status` says whether it runs")
}

/// Resolves at a signal or at `deadline`.
async fn ended(interrupt: &mut Signal, terminate: &mut Signal, deadline: Option<Instant>) -> End {
    let deadline = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => End::Interrupted,
        _ = terminate.recv() => End::Interrupted,
        () = deadline => End::TimedOut,
    }
}
