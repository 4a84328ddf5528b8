//! The event loop of a `rumqttc` client on a thread. It goes to the next node when a connection ends.
//!
//! Owns: the thread, the choice of the node, the order of what is sent again.
//! Does not: keep what happened; the observer does.
//! Invariants: after a reconnect unacknowledged publishes go out again in their first order with DUP [MQTT-4.6.0-1],
//! [MQTT-3.3.1-1]; the library forgets both when connections end in quick succession.
//! Limits: `REQUESTS_MAX` requests wait for the thread; who adds one more waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rumqttc::{Client as Rumqtt, Connection, Event, MqttOptions, Outgoing, Packet, Request};

use crate::pause;

/// Requests that wait for the thread.
const REQUESTS_MAX: usize = 10_000;

/// What an observer is told.
#[derive(Debug)]
pub enum Seen {
    /// A packet came or went.
    Event(Event),
    /// The connection ended, or none could be made.
    Lost(String),
}

/// A running event loop. Dropping it disconnects and joins the thread.
pub struct EventLoop {
    rumqtt: Rumqtt,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Connects to the first of `ports` on loopback; whenever a connection ends, to the next of them. `options` gives
    /// the options for a port.
    ///
    /// # Panics
    /// When `ports` is empty.
    pub fn start(
        ports: Vec<u16>,
        options: impl Fn(u16) -> MqttOptions + Send + 'static,
        mut observer: impl FnMut(Seen) + Send + 'static,
    ) -> EventLoop {
        let mut next_port = ports.into_iter().cycle();
        let mut next_options = move || options(next_port.next().expect("a client has a port to connect to"));
        let (rumqtt, mut connection) = Rumqtt::new(next_options(), REQUESTS_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut sent = Vec::new();
            // Not `recv_timeout`: it would give up a connection attempt half way.
            while let Ok(result) = connection.recv() {
                match result {
                    Ok(event) => {
                        note_sent(&mut sent, &event);
                        observer(Seen::Event(event));
                    }
                    Err(error) => {
                        if stopping.load(Ordering::Relaxed) {
                            return;
                        }
                        observer(Seen::Lost(error.to_string()));
                        connection.eventloop.mqtt_options = next_options();
                        restore_order(&mut connection, &sent);
                        // The library connects again at the next poll; a node that is down refuses at once.
                        pause();
                    }
                }
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        EventLoop { rumqtt, stop, thread: Some(thread) }
    }

    /// The library's handle for requests.
    pub fn rumqtt(&self) -> &Rumqtt {
        &self.rumqtt
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread when it waits for the network; a full queue means that it is awake.
        let _ = self.rumqtt.try_disconnect();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Keeps the packet identifiers of unacknowledged publishes in the order of their first sending.
fn note_sent(sent: &mut Vec<u16>, event: &Event) {
    match event {
        Event::Outgoing(Outgoing::Publish(packet_id)) if !sent.contains(packet_id) => sent.push(*packet_id),
        Event::Incoming(Packet::PubAck(ack)) => sent.retain(|packet_id| *packet_id != ack.pkid),
        _ => {}
    }
}

/// Puts what was sent before in front, in its order and marked as sent again; what was never sent stays behind.
fn restore_order(connection: &mut Connection, sent: &[u16]) {
    let place = |request: &Request| match request {
        Request::Publish(publish) if publish.pkid != 0 => {
            sent.iter().position(|packet_id| *packet_id == publish.pkid).unwrap_or(sent.len())
        }
        _ => usize::MAX,
    };
    let pending = &mut connection.eventloop.pending;
    pending.make_contiguous().sort_by_key(place);
    for request in pending.iter_mut() {
        if let Request::Publish(publish) = request {
            publish.dup = publish.pkid != 0;
        }
    }
}
