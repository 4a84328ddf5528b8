//! Shared subscriptions with QoS 1 and 2: sessions join their share groups, in the groups' partitions.
//!
//! Owns: joins that follow SUBSCRIBE and CONNECT, and the SUBSCRIBEs that wait for them. Does not: choose who receives
//! a message (the group's partition does); serve QoS 0 (see `routing`).
//! Invariants: a join goes out only after the session's partition has the subscription, and SUBACK only after the join
//! and the group's route are known to the cluster.
//! Limits: SUBSCRIBES_PENDING_MAX per connection. Spec: MQTT 5, 4.8.2. See: docs/decisions/0017-share-groups.md.

use core::time::Duration;
use std::collections::BTreeMap;

use quorate_codec::{QoS, ReasonCode, TopicFilter};
use quorate_state::command::{Command, ShareMember, SubscribeFilter};
use quorate_state::hash::partition_of_share;
use quorate_state::{ConnId, GroupId, Reply, ShareInfo, ShareVersion, StreamId};

use super::Node;
use super::clients::Op;
use super::connection::Waiting;

/// SUBSCRIBEs whose share groups have not all answered yet.
#[derive(Debug, Default)]
pub(super) struct Joining {
    last: u64,
    /// Each with the number of answers that are missing, never 0.
    all: BTreeMap<u64, (usize, Waiting)>,
}

impl Joining {
    fn insert(&mut self, missing: usize, waiting: Waiting) -> u64 {
        self.last += 1;
        self.all.insert(self.last, (missing, waiting));
        self.last
    }

    /// Notes an answer; gives the SUBSCRIBE when it was the last one.
    fn answered(&mut self, number: u64, note: impl FnOnce(&mut Waiting)) -> Option<Waiting> {
        let (missing, waiting) = self.all.get_mut(&number)?;
        note(waiting);
        *missing -= 1;
        if *missing > 0 {
            return None;
        }
        self.all.remove(&number).map(|(_, waiting)| waiting)
    }

    /// A SUBSCRIBE will have no answer.
    fn give_up(&mut self, number: u64) {
        self.all.remove(&number);
    }

    /// A new incarnation has begun: nobody waits any more.
    pub(super) fn clear(&mut self) {
        self.all.clear();
    }
}

impl Node {
    /// The session has these shared subscriptions now: their groups are to know, before `waiting` goes on.
    pub(super) fn join_shares(
        &mut self,
        waiting: Waiting,
        joins: Vec<(usize, SubscribeFilter, ShareVersion)>,
        now: Duration,
    ) {
        if joins.is_empty() {
            self.wait(waiting, now);
            return;
        }
        let conn = waiting.conn;
        let number = self.connections.joining.insert(joins.len(), waiting);
        for (at, subscription, version) in joins {
            self.join_share(conn, subscription, version, Some((number, at)));
        }
    }

    /// A resumed session is connected again: its groups may give it messages.
    pub(super) fn rejoin_shares(
        &mut self,
        conn: ConnId,
        subscriptions: &[SubscribeFilter],
        version: ShareVersion,
    ) {
        for subscription in subscriptions {
            if subscription.filter.is_shared() && subscription.options.qos != QoS::AtMostOnce {
                self.join_share(conn, subscription.clone(), version, None);
            }
        }
    }

    fn join_share(
        &mut self,
        conn: ConnId,
        subscription: SubscribeFilter,
        version: ShareVersion,
        waiting: Option<(u64, usize)>,
    ) {
        let Some((home, held)) = self.held(conn) else { return };
        let window = self.connections.all.get(&conn).map_or(1, |connection| connection.receive_max);
        let SubscribeFilter { filter, options, identifier } = subscription;
        let group = partition_of_share(&filter, self.config.cluster.partitions);
        let command = Command::ShareJoin {
            filter: filter.clone(),
            member: ShareMember { group: home, session: held.session },
            version,
            qos: options.qos,
            identifier,
            retain_as_published: options.retain_as_published,
            // The partition bounds it further.
            window,
        };
        self.push(group, &command, Op::ShareJoin(conn, filter, waiting));
    }

    /// A share group's partition has taken a member in, or refused it.
    pub(super) fn share_joined(
        &mut self,
        group: GroupId,
        conn: ConnId,
        filter: &TopicFilter,
        waiting: Option<(u64, usize)>,
        reply: Option<Reply>,
        now: Duration,
    ) {
        // A resumed session keeps a subscription that its group has no room for now, and joins with its next connection.
        let Some((number, at)) = waiting else { return };
        let joined = match reply {
            // The answer was lost on its way: the position of the route with it.
            None => {
                self.connections.joining.give_up(number);
                return self.lost_session(conn);
            }
            Some(Reply::ShareJoined { route }) => Ok(route),
            Some(Reply::Rejected(reason)) => Err(reason),
            _ => Err(ReasonCode::UNSPECIFIED_ERROR),
        };
        if joined.is_err() {
            self.leave_share(conn, filter);
        }
        let done = self.connections.joining.answered(number, |waiting| match joined {
            Ok(route) => waiting.needs.push((StreamId::Group(group), route)),
            Err(reason) => {
                if let Some(granted) = waiting.reasons.get_mut(at) {
                    *granted = reason;
                }
            }
        });
        if let Some(waiting) = done {
            self.wait(waiting, now);
        }
    }

    /// Up to `max` share groups of the partitions with a replica here, in byte order of their filters, after one of them.
    pub fn shares(&self, after: Option<&TopicFilter>, max: usize) -> Vec<(GroupId, ShareInfo)> {
        let partitions =
            self.groups.values().filter_map(|group| Some((group.id(), group.machine().partition()?)));
        let mut all: Vec<(GroupId, ShareInfo)> = partitions
            .flat_map(|(id, partition)| {
                partition.shares(after, max).into_iter().map(move |share| (id, share))
            })
            .collect();
        all.sort_by(|left, right| left.1.filter.as_str().cmp(right.1.filter.as_str()));
        all.truncate(max);
        all
    }

    /// The group has no room for the session: it does not keep the subscription either.
    fn leave_share(&mut self, conn: ConnId, filter: &TopicFilter) {
        let Some((home, held)) = self.held(conn) else { return };
        self.leave_local_route(conn, filter);
        let filters = vec![filter.clone()];
        let command = Command::Unsubscribe { session: held.session, epoch: held.epoch, filters };
        self.push(home, &command, Op::Quiet);
    }
}
