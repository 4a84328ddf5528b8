//! Interop driver of the `rumqttc` crate, for MQTT 3.1.1 and 5.
//!
//! Owns: one client of the library at a time; each connection is a new one, which starts without the state of the
//! last. Does not: speak WebSocket; the crate is built without it.
//! Limits: `EVENTS_MAX` events wait to be looked at; then the connection waits. See: docs/interop.md.
// Answers go to standard output.
#![allow(clippy::print_stdout)]

mod version_3;
mod version_5;

use std::io::BufRead;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_tests::line::Line;

/// Events that wait to be looked at.
const EVENTS_MAX: usize = 1_000;
/// Below the runner's own deadline, so that it hears the reason.
const WAIT_MAX: Duration = Duration::from_secs(12);

/// What an answer waits for. Messages are written as they come.
#[derive(Debug, PartialEq, Eq)]
enum Happened {
    /// CONNACK, with Session Present.
    Connected(bool),
    /// SUBACK, with its reason.
    Subscribed(u8),
    /// A publish is done: sent with QoS 0, acknowledged with QoS 1, complete with QoS 2.
    Published(u8),
    /// The connection ended.
    Lost(String),
}

/// A client of either version.
trait Client {
    fn subscribe(&self, request: &Line) -> Result<()>;
    fn publish(&self, request: &Line) -> Result<()>;
    fn disconnect(&self) -> Result<()>;
}

/// A client with the thread that runs its connection until it ends.
struct Connected {
    client: Box<dyn Client>,
    events: Receiver<Happened>,
    thread: JoinHandle<()>,
}

fn main() -> Result<()> {
    let hello = Line::new("hello").with("version", library_version()).with("can", "3.1.1,5,binary");
    println!("{hello}");
    let mut connected = None;
    for text in std::io::stdin().lock().lines() {
        let answer = Line::parse(&text?).and_then(|request| obey(&request, &mut connected));
        let failed = |error: anyhow::Error| Line::new("error").with("why", format!("{error:#}"));
        println!("{}", answer.unwrap_or_else(failed));
    }
    Ok(())
}

/// The version that the workspace is locked to; the library does not say.
fn library_version() -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let package = lock.split("[[package]]").find(|package| package.contains("name = \"rumqttc\""));
    package.and_then(|package| package.split('"').nth(3)).unwrap_or("of unknown version")
}

fn obey(request: &Line, connected: &mut Option<Connected>) -> Result<Line> {
    if request.word == "connect" {
        // The last connection has ended: the runner connects again only after its node was killed.
        *connected = None;
        let next = match request.require("version")? {
            "5" => version_5::connect(request)?,
            _ => version_3::connect(request)?,
        };
        let present = next.wait("CONNACK", |happened| match happened {
            Happened::Connected(present) => Some(*present),
            _ => None,
        })?;
        *connected = Some(next);
        return Ok(Line::new("connected").with("present", u8::from(present)));
    }
    let open = connected.as_ref().context("not connected")?;
    match request.word.as_str() {
        "subscribe" => {
            open.client.subscribe(request)?;
            let reason = open.wait("SUBACK", |happened| match happened {
                Happened::Subscribed(reason) => Some(*reason),
                _ => None,
            })?;
            Ok(Line::new("subscribed").with("reason", reason))
        }
        "publish" => {
            open.client.publish(request)?;
            let qos = number(request, "qos")?;
            open.wait("acknowledgement of PUBLISH", |happened| {
                (*happened == Happened::Published(qos)).then_some(())
            })?;
            Ok(Line::new("published"))
        }
        "disconnect" => {
            open.client.disconnect()?;
            if let Some(closing) = connected.take() {
                drop(closing.events);
                let _ = closing.thread.join();
            }
            Ok(Line::new("disconnected"))
        }
        other => bail!("unknown request {other}"),
    }
}

impl Connected {
    fn wait<T>(&self, what: &str, wanted: impl Fn(&Happened) -> Option<T>) -> Result<T> {
        let end = Instant::now() + WAIT_MAX;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let happened = self.events.recv_timeout(left).with_context(|| format!("wait for {what}"))?;
            if let Happened::Lost(why) = &happened {
                bail!("the connection ended before {what}: {why}");
            }
            if let Some(value) = wanted(&happened) {
                return Ok(value);
            }
        }
    }
}

/// A number of a request; 0 when it is absent.
fn number<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static> + Default>(
    request: &Line,
    key: &str,
) -> Result<T> {
    request.field(key).map_or_else(|| Ok(T::default()), |value| Ok(value.parse()?))
}

/// Hands an event on. False when nobody listens any more: the connection is to be dropped.
fn tell(events: &SyncSender<Happened>, happened: Option<Happened>) -> bool {
    happened.is_none_or(|happened| {
        let goes_on = !matches!(happened, Happened::Lost(_));
        if let Happened::Lost(why) = &happened {
            println!("{}", Line::new("lost").with("why", why));
        }
        events.send(happened).is_ok() && goes_on
    })
}
