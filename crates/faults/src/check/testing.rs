//! A small sound history, and how tests doctor it.
//!
//! Owns: the history that every checker must pass. Does not: check.
//! Invariants: events are a millisecond apart.

use super::Index;
use crate::history::{Event, HARNESS, Moment, What};

/// Publishers of the history: 0 with QoS 1, 1 with QoS 2.
pub const PUBLISHERS: [(u16, u8); 2] = [(0, 1), (1, 2)];

/// The subscriber of the history.
pub const SUBSCRIBER: u16 = 2;

/// Events a millisecond apart.
pub fn timed(whats: Vec<(u16, What)>) -> Vec<Event> {
    let at = |place: usize| Moment(1000 * place as u64);
    whats
        .into_iter()
        .enumerate()
        .map(|(place, (client, what))| Event { at: at(place), client, what })
        .collect()
}

/// A delivery at the subscriber.
pub fn delivered(from: u16, sequence: u64, dup: bool) -> (u16, What) {
    let qos = if from == 0 { 1 } else { 2 };
    let packet_id = 1 + 100 * from + sequence as u16;
    (SUBSCRIBER, What::Delivered { from, sequence, qos, dup, packet_id })
}

/// Five messages of each publisher, acknowledged and delivered; the subscriber reconnects once and gets one of QoS 1 again.
pub fn sound() -> Vec<(u16, What)> {
    let connected = |present| What::Connected { node: 0, present };
    let mut whats = vec![
        (SUBSCRIBER, connected(false)),
        (SUBSCRIBER, What::SubscribeInvoke),
        (SUBSCRIBER, What::SubscribeOk),
    ];
    whats.extend(PUBLISHERS.map(|(client, _)| (client, connected(false))));
    for sequence in 0..5 {
        for (client, qos) in PUBLISHERS {
            whats.push((client, What::PublishInvoke { sequence, qos }));
            whats.push((client, What::PublishOk { sequence, node: 0 }));
            whats.push(delivered(client, sequence, false));
            let packet_id = 1 + 100 * client + sequence as u16;
            whats.push((SUBSCRIBER, What::Settled { packet_id }));
            if qos == 2 {
                whats.push((client, What::PublishComplete { sequence }));
            }
        }
        if sequence == 2 {
            whats.push((SUBSCRIBER, What::Lost { reason: "test".into() }));
            whats.push((SUBSCRIBER, connected(true)));
            whats.push(delivered(0, 2, true));
        }
    }
    // One without an answer, which the subscriber got all the same, and one that was refused.
    whats.push((0, What::PublishInvoke { sequence: 5, qos: 1 }));
    whats.push((0, What::PublishInfo { sequence: 5 }));
    whats.push((0, connected(true)));
    whats.push((0, What::PublishAgain { sequence: 5 }));
    whats.push(delivered(0, 5, false));
    whats.push((0, What::PublishOk { sequence: 5, node: 1 }));
    whats.push((0, What::PublishInvoke { sequence: 6, qos: 1 }));
    whats.push((0, What::PublishFail { sequence: 6, reason: 0x97 }));
    whats.push((HARNESS, What::FaultInvoke { name: "test".into() }));
    whats.push((HARNESS, What::FaultOk { silenced: vec![2] }));
    whats.push((HARNESS, What::HealInvoke));
    whats.push((HARNESS, What::Healed));
    whats.push((HARNESS, What::Led));
    whats.push((HARNESS, What::Recovered { terms: 1 }));
    whats
}

/// What a checker says of a history.
pub fn found(find: fn(&[Event], &Index) -> Vec<String>, whats: Vec<(u16, What)>) -> Vec<String> {
    let events = timed(whats);
    find(&events, &Index::of(&events))
}

/// The checker passes the sound history, and flags the doctored one with these words.
pub fn check(
    find: fn(&[Event], &Index) -> Vec<String>,
    words: &str,
    doctor: impl FnOnce(&mut Vec<(u16, What)>),
) {
    assert_eq!(found(find, sound()), Vec::<String>::new(), "the sound history");
    let mut whats = sound();
    doctor(&mut whats);
    let said = found(find, whats).join("\n");
    assert!(said.contains(words), "{words:?} is not in {said:?}");
}

/// The place of the first such event.
pub fn place(whats: &[(u16, What)], of: &(u16, What)) -> usize {
    whats.iter().position(|what| what == of).expect("the sound history has it")
}
