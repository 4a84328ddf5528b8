//! A client of the `rumqttc` crate with its event loop on a thread, for tests that ask what arrived.
//!
//! Owns: the thread. Does not: decide anything about the protocol; the library does.
//! Limits: what arrives is kept in memory until the value is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use rumqttc::{Client as Rumqtt, Event, MqttOptions, Packet, QoS};

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
    rumqtt: Rumqtt,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// A client that connects, and connects again when the connection ends. A persistent session unless `clean`.
    pub fn connect(client_id: &str, port: u16, clean: bool) -> Client {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        options.set_clean_session(clean).set_keep_alive(Duration::from_secs(5)).set_inflight(100);
        let (rumqtt, mut connection) = Rumqtt::new(options, 10_000);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_seen, thread_stop) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !thread_stop.load(Ordering::Relaxed) {
                match connection.recv_timeout(Duration::from_millis(100)) {
                    Err(_) => {}
                    Ok(Ok(event)) => note(&thread_seen, event),
                    Ok(Err(error)) => {
                        lock(&thread_seen).errors.push(error.to_string());
                        // The library connects again at the next poll; a node that is down refuses at once.
                        #[allow(clippy::disallowed_methods)]
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        });
        Client { rumqtt, seen, stop, thread: Some(thread) }
    }

    /// Subscribes with QoS 1 and waits for the SUBACK.
    ///
    /// # Errors
    /// When none comes.
    pub fn subscribe(&self, filter: &str) -> Result<()> {
        let before = lock(&self.seen).subscribed;
        self.rumqtt.subscribe(filter, QoS::AtLeastOnce)?;
        wait_for("SUBACK", || (lock(&self.seen).subscribed > before).then_some(()))
    }

    /// Publishes with QoS 1, without waiting.
    ///
    /// # Errors
    /// When the library's queue is gone.
    pub fn publish(&self, topic: &str, payload: &[u8], retain: bool) -> Result<()> {
        self.rumqtt.publish(topic, QoS::AtLeastOnce, retain, payload)?;
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

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
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
