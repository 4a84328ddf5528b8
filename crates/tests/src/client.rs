//! A client of the `rumqttc` crate for tests that ask what arrived.
//!
//! Owns: what it saw. Does not: decide anything about the protocol; the library does.
//! Limits: what arrives is kept in memory until the value is dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use rumqttc::{Event, MqttOptions, Packet, QoS};

use crate::event_loop::{EventLoop, Seen as Happened};
use crate::wait_for;

/// What a client has seen.
#[derive(Default, Debug)]
struct Seen {
    messages: Vec<(String, Vec<u8>, bool)>,
    session_present: Vec<bool>,
    acked: usize,
    subscribed: usize,
    errors: Vec<String>,
}

/// A connected client.
pub struct Client {
    events: EventLoop,
    seen: Arc<Mutex<Seen>>,
}

/// Options of a client: a persistent session unless `clean`, at most `inflight` unacknowledged publishes.
pub fn options(client_id: &str, port: u16, clean: bool, inflight: u16) -> MqttOptions {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
    options.set_clean_session(clean).set_keep_alive(Duration::from_secs(5)).set_inflight(inflight);
    options
}

impl Client {
    /// A client that connects, and connects again when the connection ends. A persistent session unless `clean`.
    pub fn connect(client_id: &str, port: u16, clean: bool) -> Client {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (noted, client_id) = (Arc::clone(&seen), client_id.to_owned());
        let events = EventLoop::start(
            vec![port],
            move |port| options(&client_id, port, clean, 100),
            move |happened| match happened {
                Happened::Event(event) => note(&noted, event),
                Happened::Lost(error) => lock(&noted).errors.push(error),
            },
        );
        Client { events, seen }
    }

    /// Subscribes with QoS 1 and waits for the SUBACK.
    ///
    /// # Errors
    /// When none comes.
    pub fn subscribe(&self, filter: &str) -> Result<()> {
        let before = lock(&self.seen).subscribed;
        self.events.rumqtt().subscribe(filter, QoS::AtLeastOnce)?;
        wait_for("SUBACK", || (lock(&self.seen).subscribed > before).then_some(()))
    }

    /// Publishes with QoS 1, without waiting.
    ///
    /// # Errors
    /// When the library's queue is gone.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) -> Result<()> {
        self.events.rumqtt().publish(topic, QoS::AtLeastOnce, retain, payload)?;
        Ok(())
    }

    /// Waits until this many PUBACKs have come in all.
    ///
    /// # Errors
    /// When they do not.
    pub fn wait_acked(&self, count: usize) -> Result<()> {
        wait_for("PUBACKs", || (lock(&self.seen).acked >= count).then_some(()))
            .map_err(|error| error.context(format!("{} of {count} acknowledged", self.acked())))
    }

    /// PUBACKs so far.
    pub fn acked(&self) -> usize {
        lock(&self.seen).acked
    }

    /// Waits for a CONNACK, the first or a later one, and says whether the session was present.
    ///
    /// # Errors
    /// When none comes.
    pub fn wait_connected(&self) -> Result<bool> {
        wait_for("CONNACK", || lock(&self.seen).session_present.last().copied())
    }

    /// Topic, payload and RETAIN of everything that arrived.
    pub fn messages(&self) -> Vec<(String, Vec<u8>, bool)> {
        lock(&self.seen).messages.clone()
    }

    /// Waits until what arrived satisfies a condition.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_messages(
        &self,
        what: &str,
        condition: impl Fn(&[(String, Vec<u8>, bool)]) -> bool,
    ) -> Result<()> {
        wait_for(what, || condition(&lock(&self.seen).messages).then_some(()))
            .map_err(|error| error.context(format!("{} messages arrived", self.messages().len())))
    }

    /// Errors of the connection so far.
    pub fn errors(&self) -> Vec<String> {
        lock(&self.seen).errors.clone()
    }
}

fn note(seen: &Mutex<Seen>, event: Event) {
    let mut seen = lock(seen);
    match event {
        Event::Incoming(Packet::Publish(publish)) => {
            seen.messages.push((publish.topic, publish.payload.to_vec(), publish.retain));
        }
        Event::Incoming(Packet::PubAck(_)) => seen.acked += 1,
        Event::Incoming(Packet::SubAck(_)) => seen.subscribed += 1,
        Event::Incoming(Packet::ConnAck(ack)) => seen.session_present.push(ack.session_present),
        _ => {}
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
