//! Live packet logs: who watches what, and the way of a record from a connection to the reader.
//!
//! Owns: the traces that run. Does not: read packets, which connections record; speak HTTP.
//! Invariants: a connection never waits for a reader: what has no room is counted. While nobody watches, a connection
//! reads one number in a turn, and that is all. A trace ends with its handle.
//! Limits: `TRACES_MAX` at once, each with room for `TRACE_QUEUE_PACKETS`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use quorate_api::{Direction, TracedPacket};
use quorate_codec::{PacketType, TopicFilter};
use quorate_node::client::PacketRecord;
use tokio::sync::mpsc;

use crate::events::unix_ms;
use crate::limits::{TRACE_QUEUE_PACKETS, TRACES_MAX};

/// What is watched.
#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    /// All packets of a client.
    Client(String),
    /// Messages whose topic matches.
    Filter(TopicFilter),
}

/// A trace that runs.
pub struct Trace {
    subject: Subject,
    payload_bytes_max: usize,
    sender: mpsc::Sender<TracedPacket>,
    /// Left out in all.
    dropped: AtomicU64,
    /// Left out since the last one that was not.
    dropped_since: AtomicU64,
}

/// All traces of a node.
#[derive(Default)]
pub struct Traces {
    /// Moves whenever a trace begins or ends.
    generation: AtomicU64,
    running: Mutex<Vec<Arc<Trace>>>,
}

/// The reader's end of a trace; the trace ends when it is dropped.
pub struct TraceHandle {
    traces: Arc<Traces>,
    trace: Arc<Trace>,
    /// What was seen.
    pub packets: mpsc::Receiver<TracedPacket>,
}

/// As many traces run as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Traces {
    /// Begins a trace.
    pub fn begin(
        self: &Arc<Self>,
        subject: Subject,
        payload_bytes_max: usize,
    ) -> Result<TraceHandle, TooMany> {
        let mut running = self.running.lock();
        if running.len() >= TRACES_MAX {
            return Err(TooMany);
        }
        // When full, the connection counts the packet as left out: it does not wait.
        let (sender, packets) = mpsc::channel(TRACE_QUEUE_PACKETS);
        let (dropped, dropped_since) = (AtomicU64::new(0), AtomicU64::new(0));
        let trace = Arc::new(Trace { subject, payload_bytes_max, sender, dropped, dropped_since });
        running.push(trace.clone());
        self.generation.fetch_add(1, Ordering::Relaxed);
        Ok(TraceHandle { traces: self.clone(), trace, packets })
    }

    /// Another number than before when a trace has begun or ended since.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The traces that may want packets of a client; of one that has not said who it is, all.
    fn of_client(&self, client_id: Option<&str>) -> Vec<Arc<Trace>> {
        let wants = |trace: &&Arc<Trace>| match (&trace.subject, client_id) {
            (Subject::Client(wanted), Some(client_id)) => wanted == client_id,
            (Subject::Client(_), None) | (Subject::Filter(_), _) => true,
        };
        self.running.lock().iter().filter(wants).cloned().collect()
    }
}

impl TraceHandle {
    /// Packets left out because the reader was slow.
    pub fn dropped(&self) -> u64 {
        self.trace.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for TraceHandle {
    fn drop(&mut self) {
        self.traces.running.lock().retain(|trace| !Arc::ptr_eq(trace, &self.trace));
        self.traces.generation.fetch_add(1, Ordering::Relaxed);
    }
}

impl Trace {
    fn offer(&self, client_id: &str, record: &PacketRecord) {
        let wanted = match &self.subject {
            Subject::Client(wanted) => wanted == client_id,
            Subject::Filter(filter) => {
                let topic = record.topic.as_ref().filter(|_| record.packet == PacketType::Publish);
                topic.is_some_and(|topic| filter.matches(topic))
            }
        };
        if !wanted {
            return;
        }
        match self.sender.try_reserve() {
            Ok(place) => {
                let mut packet = line(client_id, record, self.payload_bytes_max);
                packet.dropped_before = self.dropped_since.swap(0, Ordering::Relaxed);
                place.send(packet);
            }
            Err(_) => self.leave_out(1),
        }
    }

    fn leave_out(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.dropped_since.fetch_add(count, Ordering::Relaxed);
    }
}

fn line(client_id: &str, record: &PacketRecord, payload_bytes_max: usize) -> TracedPacket {
    let payload = record.payload.get(..payload_bytes_max).unwrap_or(&record.payload);
    let shown = record.payload_bytes.is_some() && payload_bytes_max > 0;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    TracedPacket {
        at_ms: unix_ms(),
        client_id: client_id.to_owned(),
        direction: if record.inbound { Direction::In } else { Direction::Out },
        packet: record.packet.name().to_owned(),
        qos: record.qos.map(|qos| qos as u8),
        dup: record.dup,
        retain: record.retain,
        topic: record.topic.as_ref().map(|topic| topic.as_str().to_owned()),
        filters: record.filters.iter().map(|filter| filter.as_str().to_owned()).collect(),
        packet_id: record.packet_id.map(std::num::NonZeroU16::get),
        reason: record.reason.map(|reason| reason.value()),
        bytes: count(record.bytes),
        payload_bytes: record.payload_bytes.map(count),
        payload_hex: shown.then(|| crate::founding::hex(payload)),
        dropped_before: 0,
    }
}

/// A connection's view of the traces.
#[derive(Default)]
pub struct Watched {
    /// Who the client is, once it has said so.
    client_id: Option<Box<str>>,
    generation: u64,
    traces: Vec<Arc<Trace>>,
}

impl Watched {
    /// Looks whether traces have begun or ended. `Some` when the connection is to record otherwise from now on: with so
    /// many bytes of payloads, or nothing.
    pub fn look(&mut self, traces: &Traces) -> Option<Option<usize>> {
        let generation = traces.generation();
        if generation == self.generation {
            return None;
        }
        self.generation = generation;
        Some(self.choose(traces))
    }

    /// The client has said who it is. As [`Watched::look`].
    pub fn identify(&mut self, client_id: &str, traces: &Traces) -> Option<Option<usize>> {
        self.client_id = Some(client_id.into());
        self.is_watched().then(|| self.choose(traces))
    }

    fn choose(&mut self, traces: &Traces) -> Option<usize> {
        self.traces = traces.of_client(self.client_id.as_deref());
        self.traces.iter().map(|trace| trace.payload_bytes_max).max()
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        !self.traces.is_empty()
    }

    /// Hands over what the connection has recorded.
    pub fn hand_over(&mut self, (records, missed): (Vec<PacketRecord>, u64)) {
        let traces = &self.traces;
        for record in &records {
            // A client that is refused has said who it is, too.
            if self.client_id.is_none() && record.inbound {
                self.client_id = record.client_id.as_ref().map(|client_id| client_id.as_str().into());
            }
            let client_id = self.client_id.as_deref().unwrap_or("");
            traces.iter().for_each(|trace| trace.offer(client_id, record));
        }
        if missed > 0 {
            traces.iter().for_each(|trace| trace.leave_out(missed));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use quorate_codec::{Text, TopicName};

    use super::*;

    fn publish(topic: &str) -> PacketRecord {
        PacketRecord {
            inbound: true,
            packet: PacketType::Publish,
            bytes: BytesMut::new().len(),
            packet_id: None,
            qos: None,
            dup: false,
            retain: false,
            topic: Some(TopicName::new(Text::parse(topic).unwrap()).unwrap()),
            filters: Vec::new(),
            reason: None,
            payload_bytes: Some(4),
            payload: vec![0xab, 0xcd, 0xef],
            client_id: None,
        }
    }

    fn filter(text: &str) -> Subject {
        Subject::Filter(TopicFilter::new(Text::parse(text).unwrap()).unwrap())
    }

    fn topics(handle: &mut TraceHandle) -> Vec<String> {
        std::iter::from_fn(|| handle.packets.try_recv().ok()).filter_map(|packet| packet.topic).collect()
    }

    #[test]
    fn connection_records_only_while_somebody_wants_it() {
        let traces = Arc::new(Traces::default());
        let mut watched = Watched::default();
        assert_eq!(watched.look(&traces), None);
        assert_eq!(watched.identify("c", &traces), None);
        let other = traces.begin(Subject::Client("d".to_owned()), 9).ok().unwrap();
        assert_eq!(watched.look(&traces), Some(None), "of another client");
        let mut own = traces.begin(Subject::Client("c".to_owned()), 2).ok().unwrap();
        assert_eq!(watched.look(&traces), Some(Some(2)));
        assert_eq!(watched.look(&traces), None);
        let mut by_topic = traces.begin(filter("a/+"), 0).ok().unwrap();
        assert_eq!(watched.look(&traces), Some(Some(2)));
        watched.hand_over((vec![publish("a/b"), publish("b")], 0));
        let first = own.packets.try_recv().unwrap();
        assert_eq!((first.payload_hex.as_deref(), first.payload_bytes), (Some("abcd"), Some(4)));
        assert_eq!(topics(&mut own), ["b"]);
        let first = by_topic.packets.try_recv().unwrap();
        assert_eq!((first.topic.as_deref(), first.payload_hex), (Some("a/b"), None));
        assert_eq!(topics(&mut by_topic), Vec::<String>::new());
        drop((own, by_topic, other));
        assert_eq!(watched.look(&traces), Some(None));
        assert!(!watched.is_watched());
    }

    #[test]
    fn client_that_connects_is_watched_from_its_first_packet() {
        let traces = Arc::new(Traces::default());
        let mut handle = traces.begin(Subject::Client("c".to_owned()), 0).ok().unwrap();
        for (client_id, seen) in [("c", 1), ("d", 0)] {
            let mut watched = Watched::default();
            assert_eq!(watched.look(&traces), Some(Some(0)), "nobody knows yet who it is");
            let connect = PacketRecord {
                packet: PacketType::Connect,
                client_id: Some(Text::parse(client_id).unwrap()),
                topic: None,
                ..publish("t")
            };
            watched.hand_over((vec![connect], 0));
            assert_eq!(std::iter::from_fn(|| handle.packets.try_recv().ok()).count(), seen, "{client_id}");
            let recording = watched.identify(client_id, &traces);
            assert_eq!(recording, Some((client_id == "c").then_some(0)));
        }
    }

    #[test]
    fn slow_reader_loses_packets_and_learns_how_many() {
        let traces = Arc::new(Traces::default());
        let mut handle = traces.begin(filter("#"), 0).ok().unwrap();
        let mut watched = Watched::default();
        watched.look(&traces);
        watched.hand_over((vec![publish("a"); TRACE_QUEUE_PACKETS + 3], 2));
        assert_eq!(handle.dropped(), 5);
        assert_eq!(topics(&mut handle).len(), TRACE_QUEUE_PACKETS);
        watched.hand_over((vec![publish("a"); 2], 0));
        let [first, second] = [(); 2].map(|()| handle.packets.try_recv().unwrap());
        assert_eq!((first.dropped_before, second.dropped_before, handle.dropped()), (5, 0, 5));
    }

    #[test]
    fn traces_at_once_are_limited() {
        let traces = Arc::new(Traces::default());
        let mut handles: Vec<_> =
            (0..TRACES_MAX).map(|_| traces.begin(filter("#"), 0).ok().unwrap()).collect();
        assert!(traces.begin(filter("#"), 0).is_err());
        handles.pop();
        assert!(traces.begin(filter("#"), 0).is_ok());
    }
}
