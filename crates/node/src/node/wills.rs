//! Publishing the wills that are due in the partitions that this node leads.
//!
//! Owns: which wills are on their way. Does not: decide when a will is due (the partition does), or know routes.
//! Invariants: a will is routed only under the lease, so that no subscription in force is missed; direct receivers get it
//! when the partition has confirmed that it left, which it does once.
//! Limits: WILLS_IN_PROGRESS_MAX and WILL_BYTES_IN_PROGRESS_MAX for each partition; the others wait there.
//! Spec: contract D12. See: docs/decisions/0016-wills.md.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_state::command::Command;
use quorate_state::{GroupId, Message, PublishTarget, Reply, WillId};

use super::Node;
use super::clients::Op;
use crate::action::{Action, Note};
use crate::edge::DirectMessage;
use crate::limits::{WILL_BYTES_IN_PROGRESS_MAX, WILLS_IN_PROGRESS_MAX};

/// Wills that are on their way, by partition.
#[derive(Debug, Default)]
pub(super) struct Wills(BTreeMap<GroupId, BTreeMap<WillId, Arc<DirectMessage>>>);

impl Wills {
    /// A new incarnation has begun: what the old one sent is lost, or not known to have arrived.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Node {
    /// As leader, and under the lease: sends wills that are due on their way.
    pub(super) fn route_wills(&mut self, now: Duration) {
        if !self.lease.holds(now) {
            return;
        }
        for group in self.leads.iter().copied().collect::<Vec<_>>() {
            self.route_wills_of(group);
        }
    }

    fn route_wills_of(&mut self, id: GroupId) {
        let Some(partition) = self.groups.get(&id).and_then(|group| group.machine().partition()) else {
            return;
        };
        let under_way = self.wills.0.entry(id).or_default();
        let mut room = WILLS_IN_PROGRESS_MAX.saturating_sub(under_way.len());
        let mut bytes: usize = under_way.values().map(|will| will.message.payload.len()).sum();
        let mut chosen = Vec::new();
        for (will, message) in partition.due_wills(WillId(0)) {
            if room == 0 || bytes >= WILL_BYTES_IN_PROGRESS_MAX {
                break;
            }
            if !under_way.contains_key(&will) {
                room -= 1;
                bytes += message.bytes as usize;
                chosen.push((will, message));
            }
        }
        if under_way.is_empty() && chosen.is_empty() {
            self.wills.0.remove(&id);
        }
        for (will, reference) in chosen {
            let message = self.body(id, reference).and_then(|body| Message::decode(&body).ok());
            let Some(message) = message else {
                // It stays due, and is tried again with the next tick.
                self.actions.push_back(Action::Note(Note::BodyUnreadable(id, reference.index)));
                continue;
            };
            let message = Arc::new(DirectMessage { message });
            self.wills.0.entry(id).or_default().insert(will, Arc::clone(&message));
            self.actions.push_back(Action::RouteWill { group: id, will, message });
        }
    }

    /// The targets of a will are found.
    pub(super) fn will_routed(&mut self, group: GroupId, will: WillId, targets: Vec<PublishTarget>) {
        if self.wills.0.get(&group).is_some_and(|wills| wills.contains_key(&will)) {
            self.push(group, &Command::PublishWill { will, targets }, Op::Will(will));
        }
    }

    /// The partition has let the will go, or says that another node was faster, or that it must wait.
    pub(super) fn will_done(&mut self, group: GroupId, will: WillId, reply: Option<Reply>, now: Duration) {
        let message = self.wills.0.get_mut(&group).and_then(|wills| wills.remove(&will));
        if reply.is_none() {
            self.actions.extend(message.map(Action::HandOver));
        }
        if reply != Some(Reply::Unsettled) && self.leads.contains(&group) && self.lease.holds(now) {
            self.route_wills_of(group);
        }
    }
}
