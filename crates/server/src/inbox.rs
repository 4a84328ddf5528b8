//! The inbox of the worker thread: everything that a node must know, from all sides.
//!
//! Owns: the queues and their bounds. Does not: understand what is in them.
//! Invariants: each kind stays in order; what a client connection sent before is taken before what it sends later.
//! Limits: clients wait when `CLIENT_INBOX_REQUESTS_MAX` requests are queued; links are not read while
//! `PEER_INBOX_BYTES_MAX` are queued; reports of our own threads are bounded by the work they were given; questions of
//! the admin listener are refused beyond `ADMIN_QUESTIONS_MAX`.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use quorate_node::Event;
use quorate_node::edge::ClientRequest;
use quorate_state::ConnId;
use tokio::sync::Semaphore;

use crate::limits::{ADMIN_QUESTIONS_MAX, CLIENT_INBOX_REQUESTS_MAX, PEER_INBOX_BYTES_MAX};

/// Bytes per permit of the peers' semaphore.
const PEER_UNIT_BYTES: usize = 4096;

/// Permits in all for peers.
const PEER_UNITS_MAX: usize = PEER_INBOX_BYTES_MAX / PEER_UNIT_BYTES;

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
            peer_units: 0,
        }
    }
}

/// The inbox; `Q` is what the admin listener asks.
pub struct Inbox<Q> {
    queue: Mutex<Queue<Q>>,
    arrived: Condvar,
    client_space: Semaphore,
    peer_space: Semaphore,
}

struct Queue<Q> {
    batch: Batch<Q>,
    waiting: bool,
    closed: bool,
}

impl<Q> Default for Inbox<Q> {
    fn default() -> Self {
        Inbox {
            queue: Mutex::new(Queue { batch: Batch::default(), waiting: false, closed: false }),
            arrived: Condvar::new(),
            client_space: Semaphore::new(CLIENT_INBOX_REQUESTS_MAX),
            peer_space: Semaphore::new(PEER_UNITS_MAX),
        }
    }
}

impl<Q> Inbox<Q> {
    /// Puts the requests of a connection in, in order; waits while there is no space.
    pub async fn post_requests(&self, conn: ConnId, requests: &mut Vec<ClientRequest>) {
        while !requests.is_empty() {
            let count = requests.len().min(CLIENT_INBOX_REQUESTS_MAX / 4);
            // The semaphore is never closed; without permits there would be nothing to give back either.
            let Ok(permits) = self.client_space.acquire_many(u32::try_from(count).unwrap_or(1)).await else {
                return;
            };
            permits.forget();
            let mut queue = self.queue.lock();
            queue.batch.clients.extend(requests.drain(..count).map(|request| (conn, request)));
            self.wake(queue);
        }
    }

    /// Puts events of a peer in, in order; waits while there is no space for that many bytes.
    pub async fn post_peer(&self, events: Vec<Event>, bytes: usize) {
        let units = (bytes / PEER_UNIT_BYTES).min(PEER_UNITS_MAX / 4);
        if units > 0 {
            let Ok(permits) = self.peer_space.acquire_many(u32::try_from(units).unwrap_or(1)).await else {
                return;
            };
            permits.forget();
        }
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
        }
        std::mem::swap(&mut batch.peers, &mut queue.batch.peers);
        std::mem::swap(&mut batch.reports, &mut queue.batch.reports);
        std::mem::swap(&mut batch.questions, &mut queue.batch.questions);
        batch.stop = std::mem::take(&mut queue.batch.stop);
        batch.peer_units = std::mem::take(&mut queue.batch.peer_units);
        drop(queue);
        self.client_space.add_permits(batch.clients.len());
        self.peer_space.add_permits(batch.peer_units);
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
            tokio::time::timeout(Duration::from_millis(1), inbox.post_peer(vec![], PEER_UNIT_BYTES)).await;
        assert!(waiting.is_err());
        let mut batch = Batch::default();
        inbox.take(&mut batch, true, soon());
        assert_eq!(batch.peers.len(), 4);
        inbox.post_peer(vec![Event::Tick], PEER_UNIT_BYTES).await;
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
