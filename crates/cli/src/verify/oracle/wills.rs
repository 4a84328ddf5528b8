//! The book of wills: how each connection that carried one ended, and how often its will was seen.
//!
//! Owns: the judgement of D12. Does not: bound how late a will may come; the drain does.
//! Invariants: a connection whose CONNECT got no answer may have its will published or not, once.
//! Limits: 24 bytes per connection of a client with a will. Spec: D12 of the contract; [MQTT-3.1.2-8], [MQTT-3.1.2-10].

/// How a connection with a will ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// CONNECT or DISCONNECT was sent, and nobody knows whether it was carried out.
    Unknown,
    /// It is open: its will must not be seen.
    Open,
    /// It was cut without DISCONNECT: its will must be seen once.
    Cut,
}

/// The connections of all clients with wills.
#[derive(Default)]
pub(super) struct WillBook {
    clients: Vec<Vec<Willed>>,
}

struct Willed {
    fate: Fate,
    /// Seen without DUP.
    seen: u64,
    /// Seen again with DUP.
    redelivered: u64,
}

/// What the wills add to a report.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) due: u64,
    pub(super) seen: u64,
    pub(super) missing: u64,
    pub(super) repeated: u64,
    pub(super) unexpected: u64,
}

impl WillBook {
    pub(super) fn new(clients: usize) -> WillBook {
        WillBook { clients: (0..clients).map(|_| Vec::new()).collect() }
    }

    /// A CONNECT with a will is about to be sent; gives the connection's number.
    pub(super) fn connecting(&mut self, client: usize) -> u64 {
        let Some(connections) = self.clients.get_mut(client) else { return 0 };
        connections.push(Willed { fate: Fate::Unknown, seen: 0, redelivered: 0 });
        connections.len() as u64 - 1
    }

    pub(super) fn fate(&mut self, client: usize, connection: u64, fate: Fate) {
        if let Some(willed) = self.willed(client, connection) {
            willed.fate = fate;
        }
    }

    /// A will came; false when there was no such connection.
    pub(super) fn seen(&mut self, client: usize, connection: u64, dup: bool) -> bool {
        let Some(willed) = self.willed(client, connection) else { return false };
        if dup {
            willed.redelivered += 1;
        } else {
            willed.seen += 1;
        }
        true
    }

    fn willed(&mut self, client: usize, connection: u64) -> Option<&mut Willed> {
        self.clients.get_mut(client)?.get_mut(usize::try_from(connection).ok()?)
    }

    /// Wills that are due and have not come.
    pub(super) fn missing(&self) -> u64 {
        self.verdict(0).missing
    }

    /// `reconnects` of the one who sees the wills: each may bring one that it had in flight again, with DUP.
    pub(super) fn verdict(&self, reconnects: u64) -> Verdict {
        let mut verdict = Verdict::default();
        for willed in self.clients.iter().flatten() {
            let copies = willed.seen + willed.redelivered;
            // The first copy that is seen may be one sent before, on a connection that broke.
            let first = u64::from(copies > 0);
            let excused = willed.redelivered.min(reconnects);
            verdict.seen += first;
            verdict.repeated += (copies - first).saturating_sub(excused);
            match willed.fate {
                Fate::Cut => {
                    verdict.due += 1;
                    verdict.missing += 1 - first;
                }
                Fate::Open => verdict.unexpected += first,
                Fate::Unknown => {}
            }
        }
        verdict
    }
}
