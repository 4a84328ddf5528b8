//! When a session was subscribed to what: for certain, and perhaps.
//!
//! Owns: the reading of a record into spans of time. Does not: judge.
//! Invariants: a subscription holds for certain from SUBACK until UNSUBSCRIBE is sent or the session may have ended;
//! it may hold from the sending of SUBSCRIBE until UNSUBACK, or until the session has ended for certain.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::oracle::{Conn, Event, Filter, History};

/// A time that no run reaches.
pub const END: Duration = Duration::MAX;

/// A span of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First moment.
    pub from: Duration,
    /// First moment after it.
    pub until: Duration,
}

/// All subscriptions of a run.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// For certain.
    pub certain: BTreeMap<(u32, Filter), Vec<Span>>,
    /// Perhaps.
    pub possible: BTreeMap<(u32, Filter), Vec<Span>>,
}

impl Subscriptions {
    /// Reads a record.
    pub fn read(history: &History) -> Subscriptions {
        let mut all = Subscriptions::default();
        let mut current: BTreeMap<u32, Conn> = BTreeMap::new();
        for entry in &history.entries {
            let at = entry.at;
            match entry.event {
                Event::SubscribeSent { client, filter, .. } => open(&mut all.possible, client, filter, at),
                Event::Subscribed { client, filter, .. } => open(&mut all.certain, client, filter, at),
                Event::UnsubscribeSent { client, filter, .. } => close(&mut all.certain, client, filter, at),
                Event::Unsubscribed { client, filter, .. } => close(&mut all.possible, client, filter, at),
                Event::ConnectSent { client, conn, clean, .. } => {
                    current.insert(client, conn);
                    if clean {
                        close_all(&mut all.certain, client, at);
                    }
                }
                Event::Connected { client, present: false, .. } => {
                    close_all(&mut all.certain, client, at);
                    close_all(&mut all.possible, client, at);
                }
                Event::Lost { client, conn } => {
                    let durable = history.clients.get(client as usize).is_some_and(|facts| facts.durable);
                    if !durable && current.get(&client) == Some(&conn) {
                        close_all(&mut all.certain, client, at);
                    }
                }
                _ => {}
            }
        }
        all
    }

    /// Whether some subscription of the client to a filter that fits held for certain over the whole span.
    pub fn certainly(&self, client: u32, fits: impl Fn(Filter) -> bool, span: Span) -> bool {
        let of =
            |spans: &Vec<Span>| spans.iter().any(|known| known.from < span.from && known.until > span.until);
        self.certain.iter().any(|((who, filter), spans)| *who == client && fits(*filter) && of(spans))
    }

    /// Whether some subscription of the client to a filter that fits may have held at some moment of the span.
    pub fn possibly(&self, client: u32, fits: impl Fn(Filter) -> bool, span: Span) -> bool {
        let of = |spans: &Vec<Span>| {
            spans.iter().any(|known| known.from <= span.until && known.until >= span.from)
        };
        self.possible.iter().any(|((who, filter), spans)| *who == client && fits(*filter) && of(spans))
    }
}

type Spans = BTreeMap<(u32, Filter), Vec<Span>>;

fn open(spans: &mut Spans, client: u32, filter: Filter, at: Duration) {
    let spans = spans.entry((client, filter)).or_default();
    if spans.last().is_none_or(|last| last.until != END) {
        spans.push(Span { from: at, until: END });
    }
}

fn close(spans: &mut Spans, client: u32, filter: Filter, at: Duration) {
    if let Some(last) = spans.get_mut(&(client, filter)).and_then(|spans| spans.last_mut())
        && last.until == END
    {
        last.until = at;
    }
}

fn close_all(spans: &mut Spans, client: u32, at: Duration) {
    for (_, spans) in spans.range_mut((client, Filter(0))..=(client, Filter(u16::MAX))) {
        if let Some(last) = spans.last_mut().filter(|last| last.until == END) {
            last.until = at;
        }
    }
}
