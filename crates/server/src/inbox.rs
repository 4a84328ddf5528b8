//! The inbox of the worker thread: everything that a node must know, from all sides.
//!
//! Owns: the queues and their bounds. Does not: understand what is in them.
//! Invariants: each kind stays in order; what a client connection sent before is taken before what it sends later.
//! Limits: clients wait when `CLIENT_INBOX_REQUESTS_MAX` requests are queued, or as many bytes as are given to `new`; links are not
//! read while as many as are given there are queued; reports of our own threads are bounded by the work they were given; questions of
//! the admin listener are refused beyond `ADMIN_QUESTIONS_MAX`.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use quorate_node::Event;
use quorate_node::edge::ClientRequest;
use quorate_state::ConnId;
use tokio::sync::Semaphore;

use crate::limits::{ADMIN_QUESTIONS_MAX, CLIENT_INBOX_REQUESTS_MAX, PEER_INBOX_BYTES_MAX};

/// Bytes per permit of the semaphores that count bytes.
const UNIT_BYTES: usize = 4096;

/// What the worker takes out at once.
pub struct Batch<Q> {
    /// Requests of client connections.
    pub clients: Vec<(ConnId, ClientRequest)>,
    /// Messages and link changes of peers.
    pub peers: Vec<Event>,
    /// Reports of our own threads.
    pub reports: Vec<Event>,
    /// Questions of the admin listener.
    pub questions: Vec<Q>,
    /// The worker is to stop.
    pub stop: bool,
    client_units: usize,
    peer_units: usize,
}

impl<Q> Default for Batch<Q> {
    fn default() -> Self {
        Batch {
            clients: Vec::new(),
            peers: Vec::new(),
            reports: Vec::new(),
            questions: Vec::new(),
            stop: false,
            client_units: 0,
            peer_units: 0,
        }
    }
}

/// The inbox; `Q` is what the admin listener asks.
pub struct Inbox<Q> {
    queue: Mutex<Queue<Q>>,
    arrived: Condvar,
    client_space: Semaphore,
    client_bytes: Units,
    peer_bytes: Units,
}

/// Room for bytes.
struct Units {
    free: Semaphore,
    max: usize,
}

impl Units {
    fn of_bytes(bytes: usize) -> Units {
        let max = (bytes / UNIT_BYTES).clamp(4, Semaphore::MAX_PERMITS);
        Units { free: Semaphore::new(max), max }
    }

    /// Units for so many bytes. What is larger than a quarter of all counts as that: it must fit beside others.
    fn count(&self, bytes: usize) -> usize {
        (bytes / UNIT_BYTES).min(self.max / 4)
    }

    async fn take(&self, units: usize) {
        if units == 0 {
            return;
        }
        // The semaphore is never closed.
        if let Ok(permits) = self.free.acquire_many(u32::try_from(units).unwrap_or(1)).await {
            permits.forget();
        }
    }
}

struct Queue<Q> {
    batch: Batch<Q>,
    waiting: bool,
    closed: bool,
}

impl<Q> Default for Inbox<Q> {
    fn default() -> Self {
        Inbox::new(usize::MAX, PEER_INBOX_BYTES_MAX)
    }
}

impl<Q> Inbox<Q> {
    /// With room for so many bytes of messages from clients, and from peers.
    pub fn new(client_bytes_max: usize, peer_bytes_max: usize) -> Self {
        Inbox {
            queue: Mutex::new(Queue { batch: Batch::default(), waiting: false, closed: false }),
            arrived: Condvar::new(),
            client_space: Semaphore::new(CLIENT_INBOX_REQUESTS_MAX),
            client_bytes: Units::of_bytes(client_bytes_max),
            peer_bytes: Units::of_bytes(peer_bytes_max),
        }
    }

    /// Puts the requests of a connection in, in order; waits while there is no space.
    pub async fn post_requests(&self, conn: ConnId, requests: &mut Vec<ClientRequest>) {
        while !requests.is_empty() {
            let (count, units) = self.piece(requests);
            // The semaphore is never closed; without permits there would be nothing to give back either.
            let Ok(permits) = self.client_space.acquire_many(u32::try_from(count).unwrap_or(1)).await else {
                return;
            };
            permits.forget();
            self.client_bytes.take(units).await;
            let mut queue = self.queue.lock();
            queue.batch.client_units += units;
            queue.batch.clients.extend(requests.drain(..count).map(|request| (conn, request)));
            self.wake(queue);
        }
    }

    /// How many of the requests go in at once, with the units for their bytes: one of them, or as many as fit well.
    fn piece(&self, requests: &[ClientRequest]) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0_usize);
        for request in requests.iter().take(CLIENT_INBOX_REQUESTS_MAX / 4) {
            let with_it = bytes.saturating_add(request.bytes());
            if count > 0 && with_it / UNIT_BYTES > self.client_bytes.max / 4 {
                break;
            }
            (count, bytes) = (count + 1, with_it);
        }
        (count, self.client_bytes.count(bytes))
    }

    /// Puts events of a peer in, in order; waits while there is no space for that many bytes.
    pub async fn post_peer(&self, events: Vec<Event>, bytes: usize) {
        let units = self.peer_bytes.count(bytes);
        self.peer_bytes.take(units).await;
        let mut queue = self.queue.lock();
        queue.batch.peers.extend(events);
        queue.batch.peer_units += units;
        self.wake(queue);
    }

    /// Puts a report of one of our own threads in.
    pub fn report(&self, event: Event) {
        let mut queue = self.queue.lock();
        queue.batch.reports.push(event);
        self.wake(queue);
    }

    /// The worker has ended: what is queued is dropped, questions are refused from now on.
    pub fn close(&self) {
        let mut queue = self.queue.lock();
        queue.closed = true;
        queue.batch = Batch::default();
    }

    /// Puts in a question from outside; gives it back when there are too many, or nobody to answer.
    pub fn ask(&self, question: Q) -> Result<(), Q> {
        self.put_question(question, ADMIN_QUESTIONS_MAX)
    }

    /// Puts in a question of one of our own threads, which ask one at a time; gives it back when nobody will answer.
    pub fn ask_own(&self, question: Q) -> Result<(), Q> {
        self.put_question(question, usize::MAX)
    }

    fn put_question(&self, question: Q, waiting_max: usize) -> Result<(), Q> {
        let mut queue = self.queue.lock();
        if queue.closed || queue.batch.questions.len() >= waiting_max {
            return Err(question);
        }
        queue.batch.questions.push(question);
        self.wake(queue);
        Ok(())
    }

    /// Tells the worker to stop.
    pub fn stop(&self) {
        let mut queue = self.queue.lock();
        queue.batch.stop = true;
        self.wake(queue);
    }

    /// Takes everything out into `batch`, which must be empty; waits for something until `deadline`. Requests of
    /// clients stay where they are unless `clients`.
    pub fn take(&self, batch: &mut Batch<Q>, clients: bool, deadline: Instant) {
        let mut queue = self.queue.lock();
        while !has_work(&queue.batch, clients) {
            queue.waiting = true;
            let timed_out = self.arrived.wait_until(&mut queue, deadline).timed_out();
            queue.waiting = false;
            if timed_out {
                break;
            }
        }
        if clients {
            std::mem::swap(&mut batch.clients, &mut queue.batch.clients);
            batch.client_units = std::mem::take(&mut queue.batch.client_units);
        }
        std::mem::swap(&mut batch.peers, &mut queue.batch.peers);
        std::mem::swap(&mut batch.reports, &mut queue.batch.reports);
        std::mem::swap(&mut batch.questions, &mut queue.batch.questions);
        batch.stop = std::mem::take(&mut queue.batch.stop);
        batch.peer_units = std::mem::take(&mut queue.batch.peer_units);
        drop(queue);
        self.client_space.add_permits(batch.clients.len());
        self.client_bytes.free.add_permits(std::mem::take(&mut batch.client_units));
        self.peer_bytes.free.add_permits(std::mem::take(&mut batch.peer_units));
    }

    fn wake(&self, queue: parking_lot::MutexGuard<'_, Queue<Q>>) {
        let waiting = queue.waiting;
        drop(queue);
        if waiting {
            self.arrived.notify_one();
        }
    }
}

fn has_work<Q>(batch: &Batch<Q>, clients: bool) -> bool {
    batch.stop
        || !batch.peers.is_empty()
        || !batch.reports.is_empty()
        || !batch.questions.is_empty()
        || (clients && !batch.clients.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(1)
    }

    #[test]
    fn questions_from_outside_do_not_keep_our_own_threads_out() {
        let inbox = Inbox::<u32>::default();
        while inbox.ask(1).is_ok() {}
        assert_eq!(inbox.ask_own(2), Ok(()));
        inbox.close();
        assert_eq!(inbox.ask_own(3), Err(3));
    }

    fn closed() -> ClientRequest {
        ClientRequest::Closed { expiry: None, normal: false }
    }

    #[tokio::test]
    async fn full_inbox_makes_connections_wait_until_the_worker_takes() {
        let inbox = Inbox::<()>::default();
        let mut requests: Vec<_> = (0..CLIENT_INBOX_REQUESTS_MAX).map(|_| closed()).collect();
        inbox.post_requests(ConnId(1), &mut requests).await;
        let mut more = vec![closed()];
        let waiting =
            tokio::time::timeout(Duration::from_millis(1), inbox.post_requests(ConnId(2), &mut more)).await;
        assert!(waiting.is_err());
        let mut batch = Batch::default();
        inbox.take(&mut batch, false, soon());
        assert!(batch.clients.is_empty(), "a congested node leaves requests alone");
        inbox.take(&mut batch, true, soon());
        assert_eq!(batch.clients.len(), CLIENT_INBOX_REQUESTS_MAX);
        inbox.post_requests(ConnId(2), &mut vec![closed()]).await;
    }

    #[tokio::test]
    async fn large_peer_batches_wait_for_space() {
        let inbox = Inbox::<()>::default();
        for _ in 0..4 {
            inbox.post_peer(vec![Event::Tick], PEER_INBOX_BYTES_MAX).await;
        }
        let waiting =
            tokio::time::timeout(Duration::from_millis(1), inbox.post_peer(vec![], UNIT_BYTES)).await;
        assert!(waiting.is_err());
        let mut batch = Batch::default();
        inbox.take(&mut batch, true, soon());
        assert_eq!(batch.peers.len(), 4);
        inbox.post_peer(vec![Event::Tick], UNIT_BYTES).await;
    }

    #[test]
    fn questions_beyond_the_limit_come_back() {
        let inbox = Inbox::default();
        for number in 0..ADMIN_QUESTIONS_MAX {
            assert!(inbox.ask(number).is_ok());
        }
        assert_eq!(inbox.ask(7), Err(7));
    }
}
