//! `quorate pub`: publish messages, with the flags of mosquitto_pub.
//!
//! Owns: where the payloads come from, sending them in a window, waiting for every acknowledgement.
//! Does not: reconnect; what was not acknowledged is reported and the exit code is 1.
//! Invariants: it ends with success only when every QoS 1 and 2 message was acknowledged.
//! Limits: lines waiting to be sent: LINES_WAITING_MAX; standard input is then not read further.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use quorate_codec::{Ack, Packet, PacketId, PublishProperties, PublishQoS, QoS, ReasonCode, TopicName};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{self, ClientError, Connection, Window};
use crate::exit::{Exit, Failure, Outcome};
use crate::mqtt_flags::{ConnectFlags, Target};
use crate::mqtt_property::Command;

/// Lines read from standard input and not yet sent.
const LINES_WAITING_MAX: usize = 256;

/// Flags of `quorate pub`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct PublishArgs {
    #[command(flatten)]
    connect: ConnectFlags,
    /// Topic to publish to
    #[arg(short, long, required_unless_present = "url")]
    topic: Option<String>,
    #[command(flatten)]
    source: SourceFlags,
    /// Retain the message
    #[arg(short, long)]
    retain: bool,
    /// Publish the message this many times
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    repeat: u64,
    /// Seconds between repetitions
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    repeat_delay: f64,
    /// Most messages in flight at once
    #[arg(short = 'M', long, value_name = "COUNT", default_value_t = 256)]
    max_inflight: u16,
}

/// Where the payload comes from: exactly one.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct SourceFlags {
    /// Payload
    #[arg(short, long, allow_hyphen_values = true)]
    message: Option<String>,
    /// Send the contents of a file
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Send each line of standard input as a message
    #[arg(short = 'l', long)]
    stdin_line: bool,
    /// Send all of standard input as one message
    #[arg(short = 's', long)]
    stdin_file: bool,
    /// Send an empty message
    #[arg(short, long)]
    null_message: bool,
}

/// Payloads still to come.
enum Source {
    Repeat { payload: Bytes, left: u64, delay: Duration, next: Instant },
    Lines { lines: mpsc::Receiver<std::io::Result<Bytes>>, waiting: VecDeque<Bytes>, open: bool },
}

/// Runs the command.
pub async fn run(args: PublishArgs) -> Outcome {
    let target = args.connect.target("pub")?;
    let topic = args.topic.clone().or_else(|| target.topic.clone()).unwrap_or_default();
    let topic = client::topic_name(&topic).map_err(Failure::usage)?;
    let mut properties = PublishProperties::default();
    for property in target.properties.iter().filter(|property| property.command == Command::Publish) {
        property.apply_publish(&mut properties).map_err(Failure::usage)?;
    }
    let source = source(&args)?;
    let (connection, connack) = Connection::open(&target.address, target.tls.as_ref(), &target.connect)
        .await
        .map_err(|error| connect_failure(error, &target))?;
    let window_max =
        connack.properties.receive_max.map_or(args.max_inflight, |max| args.max_inflight.min(max.get()));
    let publisher = Publisher {
        connection,
        window: Window::new(window_max),
        topic,
        qos: args.connect.qos,
        retain: args.retain,
        properties: (properties != PublishProperties::default()).then(|| Box::new(properties)),
        refused: None,
        debug: args.connect.debug,
    };
    publisher.run(source).await
}

/// The failure of a first connection.
pub fn connect_failure(error: ClientError, target: &Target) -> Failure {
    let exit = if error.is_unreachable() { Exit::Unreachable } else { Exit::Failed };
    let is_out_of_service = matches!(
        error,
        ClientError::Refused { reason: ReasonCode::SERVER_UNAVAILABLE | ReasonCode::USE_ANOTHER_SERVER, .. }
    );
    let failure =
        Failure::new(exit, anyhow::Error::from(error).context(format!("connect to {}", target.address)));
    if is_out_of_service {
        return failure
            .hint("connect to another node; `quorate explain node` tells why this one takes no clients");
    }
    failure
}

fn source(args: &PublishArgs) -> Outcome<Source> {
    let flags = &args.source;
    if flags.stdin_line {
        let (sender, lines) = mpsc::channel(LINES_WAITING_MAX);
        // When the channel is full the thread waits, and with it whoever writes to our standard input.
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n') {
                if sender.blocking_send(line.map(Bytes::from)).is_err() {
                    return;
                }
            }
        });
        return Ok(Source::Lines { lines, waiting: VecDeque::new(), open: true });
    }
    let payload = match (&flags.message, &flags.file) {
        (Some(message), _) => Bytes::from(message.clone()),
        (None, Some(file)) => {
            let read = std::fs::read(file).with_context(|| format!("read {}", file.display()));
            Bytes::from(read.map_err(|error| Failure::new(Exit::Usage, error))?)
        }
        (None, None) if flags.stdin_file => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("read standard input")?;
            Bytes::from(bytes)
        }
        (None, None) => Bytes::new(),
    };
    let delay = Duration::try_from_secs_f64(args.repeat_delay)
        .map_err(|_| Failure::usage("--repeat-delay is a number of seconds"))?;
    Ok(Source::Repeat { payload, left: args.repeat, delay, next: Instant::now() })
}

impl Source {
    /// The next payload, if there is one at `now`.
    fn take(&mut self, now: Instant) -> Option<Bytes> {
        match self {
            Source::Repeat { payload, left, delay, next } => {
                if *left == 0 || *next > now {
                    return None;
                }
                *left -= 1;
                *next = now + *delay;
                Some(payload.clone())
            }
            Source::Lines { waiting, .. } => waiting.pop_front(),
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Source::Repeat { left, .. } => *left == 0,
            Source::Lines { waiting, open, .. } => waiting.is_empty() && !*open,
        }
    }

    /// When a payload comes by itself.
    fn next_at(&self, now: Instant) -> Option<Instant> {
        match self {
            Source::Repeat { left, next, .. } if *left > 0 && *next > now => Some(*next),
            Source::Repeat { .. } | Source::Lines { .. } => None,
        }
    }

    /// Waits for a line. Never returns while no more can be taken in, or when there are no lines to come.
    async fn wait(&mut self) -> anyhow::Result<()> {
        match self {
            Source::Lines { lines, waiting, open } if *open && waiting.is_empty() => {
                match lines.recv().await {
                    Some(line) => waiting.push_back(line.context("read standard input")?),
                    None => *open = false,
                }
                while let Ok(line) = lines.try_recv() {
                    waiting.push_back(line.context("read standard input")?);
                }
                Ok(())
            }
            Source::Lines { .. } | Source::Repeat { .. } => std::future::pending().await,
        }
    }
}

struct Publisher {
    connection: Connection,
    window: Window<()>,
    topic: TopicName,
    qos: QoS,
    retain: bool,
    properties: Option<Box<PublishProperties>>,
    refused: Option<ReasonCode>,
    debug: bool,
}

impl Publisher {
    async fn run(mut self, mut source: Source) -> Outcome {
        match self.send_all(&mut source).await {
            Ok(()) => {}
            Err(error) => {
                let context = format!("publish; {} messages are without an answer", self.window.len());
                return Err(Failure::from(error.context(context)).hint(
                    "it is unknown whether those were taken: publish them again, or see `quorate status`",
                ));
            }
        }
        self.connection
            .close(client::disconnect_packet(ReasonCode::SUCCESS))
            .await
            .context("send the last messages")?;
        match self.refused {
            Some(reason) => Err(Failure::from(anyhow!("the broker refused a message: {reason}")).hint(
                "the reason is the broker's; with -V mqttv5 it says more, and -d shows which message it was",
            )),
            None => Ok(()),
        }
    }

    async fn send_all(&mut self, source: &mut Source) -> anyhow::Result<()> {
        loop {
            while let Some(packet) = self.connection.next_packet()? {
                self.receive(packet)?;
            }
            let now = Instant::now();
            while self.window.has_room() && !self.connection.is_congested() {
                let Some(payload) = source.take(now) else { break };
                self.send(payload)?;
            }
            if source.is_done() && self.window.is_empty() {
                return Ok(());
            }
            tokio::select! {
                progress = self.connection.exchange(source.next_at(now)) => { progress?; }
                line = source.wait() => line?,
            }
        }
    }

    fn send(&mut self, payload: Bytes) -> anyhow::Result<()> {
        let qos = match self.qos {
            QoS::AtMostOnce => PublishQoS::AtMostOnce,
            qos => client::publish_qos(qos, self.window.push(())),
        };
        if self.debug {
            eprintln!("sending PUBLISH ({qos:?}, {} bytes)", payload.len());
        }
        let mut publish = client::publish_packet(self.topic.clone(), payload, qos);
        publish.retain = self.retain;
        publish.properties = self.properties.clone();
        Ok(self.connection.queue(&Packet::Publish(publish))?)
    }

    fn receive(&mut self, packet: Packet) -> anyhow::Result<()> {
        match packet {
            Packet::PubAck(Ack { packet_id, reason, .. }) => self.complete("PUBACK", packet_id, reason),
            Packet::PubComp(Ack { packet_id, reason, .. }) => self.complete("PUBCOMP", packet_id, reason),
            Packet::PubRec(Ack { packet_id, reason, .. }) if reason.is_failure() => {
                self.complete("PUBREC", packet_id, reason);
            }
            Packet::PubRec(Ack { packet_id, .. }) => {
                self.window.release(packet_id);
                self.connection.queue(&Packet::PubRel(client::acknowledgement(packet_id)))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn complete(&mut self, name: &str, packet_id: PacketId, reason: ReasonCode) {
        if self.debug {
            eprintln!("received {name} for {packet_id}: {reason}");
        }
        if self.window.complete(packet_id).is_some() && reason.is_failure() {
            self.refused = Some(reason);
        }
    }
}
