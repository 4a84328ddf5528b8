//! Which trace a message or a connection is of.
//!
//! Owns: [`TraceId`], [`SpanId`], and how they follow from what every node sees of a message. Does not: send or keep them.
//! Invariants: all nodes find the same ids for a message and agree on whether it is sampled, without a word between
//! them: nothing of tracing is in messages, entries or frames. A message that carries a `traceparent` belongs to the
//! trace of its publisher. Limits: TRACED_PAYLOAD_BYTES_MAX of a payload are looked at.
//! See: docs/decisions/0030-traces-without-propagation.md. Spec: W3C Trace Context.

use quorate_state::hash::stable_hash;
use quorate_state::{Message, Owner};

use crate::limits::TRACED_PAYLOAD_BYTES_MAX;

/// Identity of a trace; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceId(pub [u8; 16]);

/// Identity of a span; never zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpanId(pub [u8; 8]);

/// Where something stands: its trace, its own span, and the span of whoever caused it outside this cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Trace.
    pub trace: TraceId,
    /// Span: of the publish of a message, or of the connect of a connection.
    pub span: SpanId,
    /// Span of the publisher's own that the message names.
    pub parent: Option<SpanId>,
}

/// Seeds that make different numbers of the same bytes.
const SEEDS: [u64; 3] = [1, 2, 3];

impl TraceId {
    /// Whether a trace is taken when one in so many is: as all programs decide that go by the lower half of the id.
    pub fn is_sampled(&self, threshold: u64) -> bool {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < threshold
    }
}

impl SpanId {
    /// One that is not zero, which stands for none.
    pub fn of(number: u64) -> SpanId {
        SpanId(number.max(1).to_be_bytes())
    }
}

impl Place {
    /// Of a message, from what all nodes see of it.
    pub fn of_message(message: &Message) -> Place {
        let seen = message.payload.get(..TRACED_PAYLOAD_BYTES_MAX).unwrap_or(&message.payload);
        let length = u64::try_from(message.payload.len()).unwrap_or(u64::MAX);
        let numbers = [
            message.publisher,
            length,
            stable_hash(message.topic.as_str().as_bytes()),
            stable_hash(&message.properties),
            stable_hash(seen),
        ];
        let own = Place::of_numbers(&numbers);
        match traceparent(&message.properties) {
            Some((trace, parent)) => Place { trace, span: own.span, parent: Some(parent) },
            None => own,
        }
    }

    /// Of a connection.
    pub fn of_connection(owner: Owner) -> Place {
        Place::of_numbers(&[owner.node.0, owner.incarnation.0, owner.conn.0])
    }

    fn of_numbers(numbers: &[u64]) -> Place {
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let [high, low, span] = SEEDS.map(|seed| {
            bytes.extend(seed.to_le_bytes());
            stable_hash(&bytes)
        });
        let trace = (u128::from(high) << 64 | u128::from(low)).max(1).to_be_bytes();
        Place { trace: TraceId(trace), span: SpanId::of(span), parent: None }
    }
}

/// The trace and span that a publisher of MQTT 5 names in the user property `traceparent`, when it is well formed and
/// says that the trace is sampled at all.
fn traceparent(properties: &[u8]) -> Option<(TraceId, SpanId)> {
    // A User Property: its identifier, then name and value, each behind its length.
    const NAME: &[u8] = b"\x26\x00\x0btraceparent\x00\x37";
    let at = properties.windows(NAME.len()).position(|window| window == NAME)?;
    let text = properties.get(at + NAME.len()..)?.get(..55)?;
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
        return None;
    }
    let hex = |text: &str| u128::from_str_radix(text, 16).ok();
    let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
    let (trace, span) = (hex(trace)?, u64::from_str_radix(span, 16).ok()?);
    (sampled && trace != 0 && span != 0).then(|| (TraceId(trace.to_be_bytes()), SpanId::of(span)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quorate_codec::{QoS, Text, TopicName};

    fn message(payload: &'static [u8], properties: &[u8]) -> Message {
        Message {
            topic: TopicName::new(Text::from_static("t")).unwrap(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_s: None,
            publisher: 7,
            properties: Bytes::copy_from_slice(properties),
            payload: Bytes::from_static(payload),
        }
    }

    fn property(value: &str) -> Vec<u8> {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [b"\x26\x00\x01x\x00\x01y\x26\x00\x0btraceparent".as_slice(), &length, value.as_bytes()].concat()
    }

    #[test]
    fn place_follows_from_what_stays_the_same_on_the_way() {
        let one = message(b"payload", b"");
        let mut delivered = one.clone();
        delivered.qos = QoS::AtMostOnce;
        delivered.retain = true;
        assert_eq!(Place::of_message(&one), Place::of_message(&delivered));
        assert_ne!(Place::of_message(&one), Place::of_message(&message(b"payloae", b"")));
        assert_ne!(
            Place::of_message(&one).trace,
            Place::of_message(&message(b"payload", &property("z"))).trace
        );
    }

    #[test]
    fn trace_of_the_publisher_is_gone_on_with() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let place = Place::of_message(&message(b"p", &property(&format!("00-{trace}-b7ad6b7169203331-01"))));
        assert_eq!(place.trace.0.map(|byte| format!("{byte:02x}")).concat(), trace);
        assert_eq!(place.parent, Some(SpanId::of(0xb7ad_6b71_6920_3331)));
        for bad in [
            format!("00-{trace}-b7ad6b7169203331-00"),
            format!("01-{trace}-b7ad6b7169203331-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{trace}-b7ad6b7169203331-0g"),
            "x".repeat(55),
            "é".repeat(27) + "x",
        ] {
            assert_eq!(Place::of_message(&message(b"p", &property(&bad))).parent, None, "{bad}");
        }
    }

    #[test]
    fn one_in_four_is_sampled() {
        let quarter = u64::MAX / 8;
        let sampled = (0_u64..4000).filter(|number| Place::of_numbers(&[*number]).trace.is_sampled(quarter));
        let sampled = sampled.count();
        assert!((800..1200).contains(&sampled), "{sampled}");
    }
}
