//! The book of a share group: which member got which message on which connection, and what that breaks.
//!
//! Owns: the judgement of D14. Does not: judge order, which a group does not promise over its members.
//! Invariants: a delivery explains one more copy only if it could be in flight when its connection was lost: it was
//! of QoS 1 and among the last Receive Maximum ones of that connection, because members acknowledge in order.
//! Limits: about 50 bytes per message. Spec: D14 of the contract, MQTT 5 4.8.2.

use std::collections::BTreeMap;

use quorate_codec::QoS;

use super::{BitSet, Link, PublisherRecord};

/// A share group with its members.
pub(super) struct ShareGroup {
    members: Vec<Member>,
    /// By publisher.
    received: Vec<Received>,
    receive_max: u64,
}

struct Member {
    link: Link,
    /// Connections that have ended. One more may be open.
    ended: u64,
    /// Deliveries on each connection, the first time on the first.
    deliveries: Vec<u64>,
}

#[derive(Default)]
struct Received {
    seen: BitSet,
    /// First delivery of each sequence.
    first: BTreeMap<u64, Holder>,
    /// Those after the first.
    further: BTreeMap<u64, Vec<Holder>>,
}

/// Who got a copy.
#[derive(Clone, Copy)]
struct Holder {
    member: u32,
    qos: QoS,
    /// Number of the member's connection, from 1.
    connection: u64,
    /// Position on that connection, from 1.
    position: u64,
}

/// What the group adds to a report.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    /// Copies of what was in flight to a member that lost its connection.
    pub(super) reassigned: u64,
    pub(super) resent: u64,
    pub(super) unexplained: u64,
    pub(super) exactly_once: u64,
}

impl ShareGroup {
    pub(super) fn new(members: usize, publishers: usize, receive_max: u64) -> ShareGroup {
        let member = || Member { link: Link::default(), ended: 0, deliveries: Vec::new() };
        ShareGroup {
            members: (0..members).map(|_| member()).collect(),
            received: (0..publishers).map(|_| Received::default()).collect(),
            receive_max,
        }
    }

    /// The record of a member's connections, to be counted by whoever connects it.
    pub(super) fn connecting(&mut self, member: usize) -> Option<&mut Link> {
        let member = self.members.get_mut(member)?;
        member.deliveries.push(0);
        Some(&mut member.link)
    }

    /// The member's connection is over.
    pub(super) fn disconnected(&mut self, member: usize) {
        if let Some(member) = self.members.get_mut(member) {
            member.ended = member.deliveries.len() as u64;
        }
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.members.iter().map(|member| &member.link)
    }

    pub(super) fn delivered(&mut self, member: usize, publisher: usize, sequence: u64, qos: QoS) {
        let Some(received) = self.received.get_mut(publisher) else { return };
        let number = u32::try_from(member).unwrap_or(u32::MAX);
        let Some(member) = self.members.get_mut(member) else { return };
        let connection = member.deliveries.len() as u64;
        let Some(count) = member.deliveries.last_mut() else { return };
        *count += 1;
        let holder = Holder { member: number, qos, connection, position: *count };
        if received.seen.insert(sequence) {
            received.first.insert(sequence, holder);
        } else {
            received.further.entry(sequence).or_default().push(holder);
        }
    }

    /// Acknowledged messages of QoS 1 and 2 that no member has got.
    pub(super) fn missing(&self, publishers: &[PublisherRecord]) -> u64 {
        if self.members.is_empty() {
            return 0;
        }
        let pairs = self.received.iter().zip(publishers);
        pairs.map(|(received, publisher)| publisher.acked.count_not_in(&received.seen)).sum()
    }

    /// The first of those, of each publisher: its index and the sequence.
    pub(super) fn first_missing(&self, publishers: &[PublisherRecord]) -> Vec<(usize, u64)> {
        if self.members.is_empty() {
            return Vec::new();
        }
        let pairs = self.received.iter().zip(publishers).enumerate();
        pairs
            .filter_map(|(from, (received, publisher))| {
                Some((from, publisher.acked.first_not_in(&received.seen)?))
            })
            .collect()
    }

    pub(super) fn verdict(&self, publishers: &[PublisherRecord]) -> Verdict {
        let mut verdict = Verdict { lost: self.missing(publishers), ..Verdict::default() };
        for (received, publisher) in self.received.iter().zip(publishers) {
            verdict.delivered += received.seen.count;
            for (sequence, further) in &received.further {
                let holders = || received.first.get(sequence).into_iter().chain(further);
                let copies = further.len() as u64;
                let lost = holders().filter(|holder| self.was_lost_in_flight(holder)).count() as u64;
                let reassigned = copies.min(lost);
                let resends = match publisher.qos {
                    // At QoS 2 a publish that is sent again makes no second message (D3).
                    QoS::ExactlyOnce => 0,
                    QoS::AtMostOnce | QoS::AtLeastOnce => {
                        publisher.resends.get(sequence).copied().unwrap_or(0)
                    }
                };
                let resent = (copies - reassigned).min(resends);
                let rest = copies - reassigned - resent;
                verdict.reassigned += reassigned;
                verdict.resent += resent;
                if holders().all(|holder| holder.qos == QoS::ExactlyOnce) {
                    verdict.exactly_once += rest;
                } else {
                    verdict.unexplained += rest;
                }
            }
        }
        verdict
    }

    fn was_lost_in_flight(&self, holder: &Holder) -> bool {
        let member = usize::try_from(holder.member).ok().and_then(|at| self.members.get(at));
        let Some(member) = member else { return false };
        let connection = usize::try_from(holder.connection).unwrap_or(usize::MAX);
        let total = connection.checked_sub(1).and_then(|at| member.deliveries.get(at)).copied().unwrap_or(0);
        let ended = holder.connection <= member.ended;
        ended && holder.qos == QoS::AtLeastOnce && holder.position + self.receive_max > total
    }
}
