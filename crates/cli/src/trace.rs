//! `quorate trace`: packets of a client, or messages of a topic filter, as they go through a node.
//!
//! Owns: asking the node that the client is connected to, laying lines out as they come. Does not: choose packets.
//! Invariants: what was left out is said. Limits: TRACE_HOPS_MAX requests; TRACE_LINE_BYTES_MAX for a line.

use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use quorate_api::{Direction, TraceLine, TraceRequest, TracedPacket};

use crate::exit::{Exit, Failure, Outcome};
use crate::http::{self, AnswerStream, Opened};
use crate::limits::TRACE_HOPS_MAX;
use crate::operator::AdminArgs;
use crate::output::{self, Output};
use crate::utc::utc;

/// Flags of `quorate trace`.
#[derive(Args, Debug)]
pub struct TraceArgs {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand, Debug)]
enum Subject {
    /// All packets of a client, on whichever node it is connected to
    Client {
        /// Client identifier
        client_id: String,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Messages whose topic matches, as clients of this node send and receive them
    Topic {
        /// Topic filter
        filter: String,
        #[command(flatten)]
        how: HowArgs,
    },
}

#[derive(Args, Debug)]
struct HowArgs {
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// End after so many packets
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    events_max: u64,
    /// Show so many bytes of each payload
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    payload_bytes_max: u32,
    /// Wait on the node that is asked, even if the client is connected to another one
    #[arg(long)]
    here: bool,
    #[command(flatten)]
    asked: AdminArgs,
}

/// Runs the command.
pub async fn run(args: TraceArgs) -> Outcome {
    let (client_id, filter, how) = match args.subject {
        Subject::Client { client_id, how } => (Some(client_id), None, how),
        Subject::Topic { filter, how } => (None, Some(filter), how),
    };
    let request = TraceRequest {
        client_id,
        filter,
        seconds: Some(how.seconds),
        events_max: Some(how.events_max),
        payload_bytes_max: Some(how.payload_bytes_max),
        here: how.here,
    };
    let body = serde_json::to_string(&request).context("format as JSON")?;
    let mut lines = open(&how.asked.admin, &body).await?;
    let wait_max = Duration::from_secs(how.seconds.saturating_add(10));
    loop {
        let line = tokio::select! {
            line = tokio::time::timeout(wait_max, lines.next_line()) => {
                line.map_err(|_| anyhow!("the trace did not end in its time"))?.context("read the trace")?
            }
            _ = tokio::signal::ctrl_c() => return Err(Failure::silent(Exit::Interrupted)),
        };
        let Some(line) = line else {
            return Err(anyhow!("the node ended the trace without a last line").into());
        };
        let line: TraceLine = serde_json::from_str(&line).with_context(|| format!("read {line:?}"))?;
        match how.asked.output {
            Output::Json => output::print_json(&line)?,
            Output::Text => {
                if let TraceLine::Packet(packet) = &line {
                    output::print(&render(packet))?;
                }
            }
        }
        if let TraceLine::End(end) = line {
            let left_out = match end.dropped {
                0 => String::new(),
                dropped => format!(", {dropped} left out because they came faster than they were read"),
            };
            eprintln!("ended by {}: {} packets{left_out}", end.end, end.packets);
            return Ok(());
        }
    }
}

/// Asks a node, and the one that it refers to.
async fn open(admin: &str, body: &str) -> Outcome<AnswerStream> {
    let mut base = admin.to_owned();
    let mut path = "/v1/trace".to_owned();
    for _ in 0..TRACE_HOPS_MAX {
        match http::open(&base, &path, body).await.map_err(http::unreached)? {
            Opened::Stream(lines) => {
                eprintln!("packets as {base} sees them");
                return Ok(lines);
            }
            Opened::Other(response) => match (response.status, response.location.as_deref()) {
                (307, Some(location)) => {
                    let at = location.find("/v1/").with_context(|| format!("{base} refers to {location}"))?;
                    let (host, rest) = location.split_at(at);
                    (base, path) = (host.to_owned(), rest.to_owned());
                }
                _ => return Err(http::refusal(&base, &response)),
            },
        }
    }
    Err(anyhow!("no node sees the client: {admin} led to {base} and further").into())
}

fn render(packet: &TracedPacket) -> String {
    let arrow = match packet.direction {
        Direction::In => "->",
        Direction::Out => "<-",
    };
    let mut text = format!("{}  {}  {arrow} {}", utc(packet.at_ms), packet.client_id, packet.packet);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    };
    add("qos", packet.qos.map(|qos| qos.to_string()));
    add("dup", packet.dup.then(|| "1".to_owned()));
    add("retain", packet.retain.then(|| "1".to_owned()));
    add("topic", packet.topic.as_ref().map(|topic| format!("{topic:?}")));
    add("filters", (!packet.filters.is_empty()).then(|| format!("{:?}", packet.filters)));
    add("id", packet.packet_id.map(|packet_id| packet_id.to_string()));
    add("reason", packet.reason.map(|reason| format!("0x{reason:02x}")));
    add("bytes", Some(packet.bytes.to_string()));
    add("payload", packet.payload_hex.clone());
    add("left_out_before", (packet.dropped_before > 0).then(|| packet.dropped_before.to_string()));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_is_a_line() {
        let packet = TracedPacket {
            client_id: "pump-7".to_owned(),
            packet: "PUBLISH".to_owned(),
            qos: Some(1),
            topic: Some("a/b".to_owned()),
            packet_id: Some(9),
            bytes: 20,
            ..TracedPacket::default()
        };
        let expected = "1970-01-01T00:00:00.000Z  pump-7  -> PUBLISH qos=1 topic=\"a/b\" id=9 bytes=20\n";
        assert_eq!(render(&packet), expected);
    }
}
