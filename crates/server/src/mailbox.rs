//! Mailboxes: what waits for client connections, and which connections there are.
//!
//! Owns: [`Mailbox`] (one per connection) and [`Mailboxes`] (all of this node). Does not: know what the events mean.
//! Invariants: events of the node are never dropped and stay in order; so do direct deliveries, unless dropped.
//! Limits: `MAILBOX_DIRECT_MESSAGES_MAX` and `MAILBOX_DIRECT_BYTES_MAX` for direct deliveries, or their share of the memory and, when
//! all of them hold much, `MAILBOX_PRESSED_BYTES`: they are dropped and counted when full, and from half full on hold up the publisher a little while the receiver makes progress; events are
//! bounded by the windows of the connection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use quorate_node::edge::{ClientEvent, DirectDelivery};
use quorate_state::ConnId;
use tokio::sync::Notify;

use crate::limits::{
    MAILBOX_DIRECT_BYTES_MAX, MAILBOX_DIRECT_MESSAGES_MAX, MAILBOX_PRESSED_BYTES, RECEIVER_STANDS_STILL,
};

/// What waits for one connection.
#[derive(Default)]
pub struct Mailbox {
    content: Mutex<Content>,
    arrived: Notify,
    /// When its connection last took in direct deliveries, in milliseconds since the start of the process.
    progress_ms: AtomicU64,
    /// Direct deliveries dropped because there was no room.
    dropped: AtomicU64,
    room: Arc<MailboxRoom>,
}

/// How much all mailboxes may hold.
struct MailboxRoom {
    /// Bytes of direct deliveries in all of them.
    held_bytes: AtomicUsize,
    /// Of one.
    each_bytes_max: usize,
    /// Of all of them, from which on each may hold less.
    all_bytes_max: usize,
}

impl Default for MailboxRoom {
    fn default() -> Self {
        MailboxRoom {
            held_bytes: AtomicUsize::new(0),
            each_bytes_max: MAILBOX_DIRECT_BYTES_MAX,
            all_bytes_max: usize::MAX,
        }
    }
}

impl MailboxRoom {
    /// What one mailbox may hold now.
    fn bytes_max(&self) -> usize {
        if self.held_bytes.load(Ordering::Relaxed) < self.all_bytes_max {
            self.each_bytes_max
        } else {
            MAILBOX_PRESSED_BYTES
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.room.held_bytes.fetch_sub(self.content.get_mut().direct_bytes, Ordering::Relaxed);
    }
}

/// What came of putting direct deliveries in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Pushed {
    /// Dropped, because a mailbox was full.
    pub dropped: u64,
    /// A mailbox is half full, and its connection makes progress.
    pub pressed: bool,
}

#[derive(Default)]
struct Content {
    events: Vec<ClientEvent>,
    direct: Vec<DirectDelivery>,
    direct_bytes: usize,
}

impl Mailbox {
    fn with_room(room: Arc<MailboxRoom>) -> Mailbox {
        let mut mailbox = Mailbox::default();
        mailbox.room = room;
        mailbox
    }

    /// Puts events of the node in.
    pub fn push_events(&self, events: impl Iterator<Item = ClientEvent>) {
        let mut content = self.content.lock();
        content.events.extend(events);
        drop(content);
        self.arrived.notify_one();
    }

    /// Puts direct deliveries in.
    pub fn push_direct(&self, deliveries: impl Iterator<Item = DirectDelivery>, now: Duration) -> Pushed {
        let mut dropped = 0;
        let bytes_max = self.room.bytes_max();
        let mut content = self.content.lock();
        let before = content.direct_bytes;
        for delivery in deliveries {
            let bytes = direct_bytes(&delivery);
            if content.direct.len() >= MAILBOX_DIRECT_MESSAGES_MAX
                || content.direct_bytes.saturating_add(bytes) > bytes_max
            {
                dropped += 1;
                continue;
            }
            content.direct_bytes += bytes;
            content.direct.push(delivery);
        }
        let half = content.direct.len() * 2 >= MAILBOX_DIRECT_MESSAGES_MAX
            || content.direct_bytes.saturating_mul(2) >= bytes_max;
        self.room.held_bytes.fetch_add(content.direct_bytes - before, Ordering::Relaxed);
        drop(content);
        if dropped > 0 {
            self.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        self.arrived.notify_one();
        let progress = Duration::from_millis(self.progress_ms.load(Ordering::Relaxed));
        Pushed { dropped, pressed: half && now.saturating_sub(progress) < RECEIVER_STANDS_STILL }
    }

    /// The connection has taken in direct deliveries.
    pub fn progressed(&self, now: Duration) {
        self.progress_ms.store(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes the events out.
    pub fn take_events(&self) -> Vec<ClientEvent> {
        std::mem::take(&mut self.content.lock().events)
    }

    /// Takes the direct deliveries out.
    pub fn take_direct(&self) -> Vec<DirectDelivery> {
        let mut content = self.content.lock();
        self.room.held_bytes.fetch_sub(std::mem::take(&mut content.direct_bytes), Ordering::Relaxed);
        std::mem::take(&mut content.direct)
    }

    /// Waits until something was put in after the last wait.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// Memory that a delivery holds, about.
fn direct_bytes(delivery: &DirectDelivery) -> usize {
    let message = &delivery.message.message;
    message.payload.len()
        + message.properties.len()
        + message.topic.as_str().len()
        + size_of::<DirectDelivery>()
}

const SHARDS: usize = 64;

/// The mailboxes of all connections of this node.
pub struct Mailboxes {
    shards: Vec<RwLock<HashMap<ConnId, Arc<Mailbox>>>>,
    next: AtomicU64,
    room: Arc<MailboxRoom>,
}

impl Default for Mailboxes {
    fn default() -> Self {
        Mailboxes {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            next: AtomicU64::new(1),
            room: Arc::default(),
        }
    }
}

impl Mailboxes {
    /// Each may hold so many bytes of direct deliveries, until all together hold so many.
    pub fn new(each_bytes_max: usize, all_bytes_max: usize) -> Mailboxes {
        let room = MailboxRoom { held_bytes: AtomicUsize::new(0), each_bytes_max, all_bytes_max };
        Mailboxes { room: Arc::new(room), ..Mailboxes::default() }
    }

    /// A new connection with its mailbox. Identifiers are never used again in this process.
    pub fn open(&self) -> (ConnId, Arc<Mailbox>) {
        let conn = ConnId(self.next.fetch_add(1, Ordering::Relaxed));
        let mailbox = Arc::new(Mailbox::with_room(self.room.clone()));
        if let Some(shard) = self.shard(conn)
            && let Entry::Vacant(place) = shard.write().entry(conn)
        {
            place.insert(mailbox.clone());
        }
        (conn, mailbox)
    }

    /// The connection is over.
    pub fn close(&self, conn: ConnId) {
        if let Some(shard) = self.shard(conn) {
            shard.write().remove(&conn);
        }
    }

    /// The mailbox of a connection that is still there.
    pub fn of(&self, conn: ConnId) -> Option<Arc<Mailbox>> {
        self.shard(conn)?.read().get(&conn).cloned()
    }

    /// The parts in which the mailboxes are kept, for [`Mailboxes::slow`].
    pub fn shards(&self) -> std::ops::Range<usize> {
        0..self.shards.len()
    }

    /// Connections of one part with direct deliveries that wait, or were dropped: how many of each.
    pub fn slow(&self, shard: usize) -> Vec<(ConnId, usize, u64)> {
        let Some(shard) = self.shards.get(shard) else { return Vec::new() };
        // any order: whoever asks sorts.
        let all = shard.read();
        let waiting = all.iter().map(|(conn, mailbox)| {
            (*conn, mailbox.content.lock().direct.len(), mailbox.dropped.load(Ordering::Relaxed))
        });
        waiting.filter(|(_, waiting, dropped)| *waiting > 0 || *dropped > 0).collect()
    }

    /// Connections now.
    pub fn count(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    /// Puts events into their mailboxes: one lock per connection. Events for connections that are gone are dropped.
    pub fn deliver_events(&self, events: &mut Vec<(ConnId, ClientEvent)>) {
        events.sort_by_key(|(conn, _)| *conn);
        let mut events = events.drain(..).peekable();
        while let Some((conn, first)) = events.next() {
            let rest =
                std::iter::from_fn(|| events.next_if(|(next, _)| *next == conn).map(|(_, event)| event));
            let run = std::iter::once(first).chain(rest);
            match self.of(conn) {
                Some(mailbox) => mailbox.push_events(run),
                None => run.for_each(drop),
            }
        }
    }

    /// Puts direct deliveries into their mailboxes: one lock per connection.
    pub fn deliver_direct(&self, deliveries: &mut Vec<(ConnId, DirectDelivery)>, now: Duration) -> Pushed {
        deliveries.sort_by_key(|(conn, _)| *conn);
        let mut all = Pushed::default();
        let mut deliveries = deliveries.drain(..).peekable();
        while let Some((conn, first)) = deliveries.next() {
            let rest = std::iter::from_fn(|| {
                deliveries.next_if(|(next, _)| *next == conn).map(|(_, delivery)| delivery)
            });
            let run = std::iter::once(first).chain(rest);
            match self.of(conn) {
                Some(mailbox) => {
                    let pushed = mailbox.push_direct(run, now);
                    all.dropped += pushed.dropped;
                    all.pressed |= pushed.pressed;
                }
                None => run.for_each(drop),
            }
        }
        all
    }

    fn shard(&self, conn: ConnId) -> Option<&RwLock<HashMap<ConnId, Arc<Mailbox>>>> {
        let shards = u64::try_from(SHARDS).unwrap_or(1);
        self.shards.get(usize::try_from(conn.0 % shards).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_codec::ReasonCode;

    fn close(reason: u8) -> ClientEvent {
        ClientEvent::Close(ReasonCode::from_value(reason).unwrap())
    }

    fn direct() -> DirectDelivery {
        let message = quorate_state::Message {
            topic: quorate_codec::TopicName::new(quorate_codec::Text::from_static("t")).unwrap(),
            qos: quorate_codec::QoS::AtLeastOnce,
            retain: false,
            expiry_s: None,
            publisher: 0,
            properties: bytes::Bytes::new(),
            payload: bytes::Bytes::new(),
        };
        let message = Arc::new(quorate_node::edge::DirectMessage { message });
        DirectDelivery {
            qos: quorate_codec::QoS::AtLeastOnce,
            retain: false,
            identifiers: Vec::new(),
            message,
        }
    }

    #[test]
    fn half_full_mailbox_presses_while_its_connection_makes_progress() {
        let mailbox = Mailbox::default();
        let now = Duration::from_secs(10);
        let push = |count, now| mailbox.push_direct(std::iter::repeat_with(direct).take(count), now);
        mailbox.progressed(now);
        assert_eq!(push(10, now), Pushed::default());
        let most = MAILBOX_DIRECT_MESSAGES_MAX;
        assert_eq!(push(most / 2, now), Pushed { dropped: 0, pressed: true });
        assert!(!push(1, now + RECEIVER_STANDS_STILL).pressed, "nobody gives way to one that stands still");
        assert!(push(most, now).dropped > 0);
        mailbox.take_direct();
        assert_eq!(push(1, now), Pushed::default());
    }

    #[test]
    fn many_slow_connections_do_not_take_the_room_of_those_that_keep_up() {
        let bytes = direct_bytes(&direct());
        // Each may hold what a pressed one may, twice over; all together as much as four of these.
        let mailboxes = Mailboxes::new(MAILBOX_PRESSED_BYTES * 2, MAILBOX_PRESSED_BYTES * 8);
        let now = Duration::from_secs(1);
        let fill = |mailbox: &Mailbox| {
            let count = MAILBOX_PRESSED_BYTES * 2 / bytes + 10;
            mailbox.push_direct(std::iter::repeat_with(direct).take(count), now);
            mailbox.content.lock().direct_bytes / bytes
        };
        let opened: Vec<_> = (0..8).map(|_| mailboxes.open()).collect();
        let held: Vec<usize> = opened.iter().map(|(_, mailbox)| fill(mailbox)).collect();
        let (each, pressed) = (MAILBOX_PRESSED_BYTES * 2 / bytes, MAILBOX_PRESSED_BYTES / bytes);
        assert_eq!(held[..4], [each; 4]);
        assert_eq!(held[7], pressed, "{held:?}");
        let (_, keeps_up) = mailboxes.open();
        let pushed = keeps_up.push_direct(std::iter::repeat_with(direct).take(10), now);
        assert_eq!(pushed.dropped, 0);
        for (conn, mailbox) in opened {
            mailboxes.close(conn);
            drop(mailbox);
        }
        assert_eq!(fill(&keeps_up), each, "there is room again");
        keeps_up.take_direct();
        assert_eq!(mailboxes.room.held_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn events_reach_their_connection_in_order_and_others_are_dropped() {
        let mailboxes = Mailboxes::default();
        let (a, first) = mailboxes.open();
        let (b, second) = mailboxes.open();
        mailboxes.deliver_events(&mut vec![
            (b, close(0x80)),
            (a, close(0x81)),
            (ConnId(99), close(0x82)),
            (b, close(0x83)),
        ]);
        let reasons = |mailbox: &Mailbox| -> Vec<String> {
            mailbox.take_events().iter().map(|event| format!("{event:?}")).collect()
        };
        assert_eq!(reasons(&first), [format!("{:?}", close(0x81))]);
        assert_eq!(reasons(&second), [format!("{:?}", close(0x80)), format!("{:?}", close(0x83))]);
        mailboxes.close(a);
        assert!(mailboxes.of(a).is_none());
        assert_eq!(mailboxes.count(), 1);
    }

    #[test]
    fn connections_with_what_waits_or_was_dropped_are_found() {
        let mailboxes = Mailboxes::default();
        let (idle, (waits, mailbox), (lost, full)) = (mailboxes.open(), mailboxes.open(), mailboxes.open());
        let now = Duration::from_secs(1);
        mailbox.push_direct(std::iter::repeat_with(direct).take(3), now);
        full.push_direct(std::iter::repeat_with(direct).take(MAILBOX_DIRECT_MESSAGES_MAX + 5), now);
        full.take_direct();
        let mut found: Vec<_> = mailboxes.shards().flat_map(|shard| mailboxes.slow(shard)).collect();
        found.sort();
        assert_eq!(found, [(waits, 3, 0), (lost, 0, 5)]);
        drop(idle);
    }
}
