//! Share groups that are at home here: who takes part, and messages into them.
//!
//! Owns: joins, absences and leaves in the order of their versions, the group's route, its end.
//! Does not: know the sessions; their partitions tell. Does not move messages; see `dispatch`.
//! Invariants: a group is here, and control was told of its route, from its first join until nobody takes part and
//! nothing is dispatched. Limits: SHARES_MAX, SHARE_MEMBERS_MAX. Spec: MQTT 5, 4.8.2.

use quorate_codec::{QoS, TopicFilter};

use crate::command::{Command, RouteTarget, ShareMember};
use crate::config::Overflow;
use crate::delivery::QUOTA_REFUSAL;
use crate::dispatch::Dispatch;
use crate::effect::{Effect, Reply};
use crate::encode::MessageView;
use crate::expiry::Expires;
use crate::group_state::Place;
use crate::hash::partition_of_share;
use crate::ids::{CONTROL, MessageRef, ShareId, ShareVersion, StreamId};
use crate::limits::{SHARE_MEMBERS_MAX, SHARES_MAX};
use crate::partition::Partition;
use crate::queue::Queued;
use crate::share::{Member, Presence, Share, Terms};

/// A share group as operators see it.
#[derive(Clone, PartialEq, Debug)]
pub struct ShareInfo {
    /// Filter with `$share/` and the name.
    pub filter: TopicFilter,
    /// Messages that wait for a member.
    pub waiting: u64,
    /// The sessions that take part.
    pub members: Vec<ShareMemberInfo>,
}

/// A session in a share group as operators see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShareMemberInfo {
    /// Who.
    pub member: ShareMember,
    /// It has a connection and gets messages.
    pub online: bool,
    /// Messages that it has and that are not settled.
    pub dispatched: usize,
}

impl Partition {
    /// Up to `max` share groups in byte order of their filters, after one of them.
    #[must_use]
    pub fn shares(&self, after: Option<&TopicFilter>, max: usize) -> Vec<ShareInfo> {
        self.shares.iter_after(after).take(max).map(share_info).collect()
    }

    pub(super) fn share_join(
        &mut self,
        place: Place,
        filter: &TopicFilter,
        (key, version): (ShareMember, ShareVersion),
        terms: Terms,
        effects: &mut Vec<Effect>,
    ) {
        let at_home = partition_of_share(filter, self.config.partitions) == self.config.group;
        if !at_home || !filter.is_shared() || terms.qos == QoS::AtMostOnce {
            self.state.reply(place, Reply::refused("no share group of this partition"), effects);
            return;
        }
        let known = self.shares.id_of(filter).and_then(|id| self.shares.get(id));
        let too_many = known.map_or(self.shares.len() >= SHARES_MAX, |share| {
            share.member(key).is_none() && share.members().len() >= SHARE_MEMBERS_MAX
        });
        if too_many {
            self.state.reply(place, Reply::Rejected(QUOTA_REFUSAL), effects);
            return;
        }
        let (id, route) = match known {
            Some(share) => (share.id, share.route),
            None => self.create_share(filter),
        };
        self.state.reply(place, Reply::ShareJoined { route }, effects);
        let newer = self.with_share(id, effects, |dispatch, share| {
            let newer = share.member(key).is_none_or(|member| member.version < version);
            if newer {
                // Before the first message to it: its partition is to know the group by then.
                let filter = share.filter.clone();
                let confirm = Command::ShareConfirm { session: key.session, filter, share: id };
                dispatch.state.post(key.group, &confirm);
                take_in(share, key, version, terms);
                dispatch.serve(share);
            }
            newer
        });
        debug_assert!(newer.is_some(), "the group was found or made");
    }

    /// The first member of a group announces its route.
    fn create_share(&mut self, filter: &TopicFilter) -> (ShareId, crate::ids::StreamSeq) {
        let target = RouteTarget::Partition(self.config.group);
        let route = self.state.post(CONTROL, &Command::RouteAdd { filter: filter.clone(), target });
        (self.shares.create(filter, route), route)
    }

    pub(super) fn share_offline(
        &mut self,
        filter: &TopicFilter,
        (key, version): (ShareMember, ShareVersion),
        effects: &mut Vec<Effect>,
    ) {
        self.part(filter, (key, version), Presence::Offline, effects);
    }

    pub(super) fn share_leave(
        &mut self,
        filter: &TopicFilter,
        (key, version): (ShareMember, ShareVersion),
        effects: &mut Vec<Effect>,
    ) {
        self.part(filter, (key, version), Presence::Left, effects);
    }

    /// A member is absent or gone, unless it joined later than that.
    fn part(
        &mut self,
        filter: &TopicFilter,
        (key, version): (ShareMember, ShareVersion),
        presence: Presence,
        effects: &mut Vec<Effect>,
    ) {
        let Some(id) = self.shares.id_of(filter) else { return };
        self.with_share(id, effects, |_, share| {
            if share.member(key).is_some_and(|member| member.version <= version) {
                share.change(key, |member| {
                    member.version = version;
                    if member.presence != Presence::Left {
                        member.presence = presence;
                    }
                });
            }
        });
    }

    pub(super) fn share_settled(
        &mut self,
        place: Place,
        share: ShareId,
        numbers: &[u64],
        effects: &mut Vec<Effect>,
    ) {
        if let StreamId::Group(by) = place.stream {
            self.with_share(share, effects, |dispatch, share| dispatch.settle(share, by, numbers));
        }
    }

    pub(super) fn share_return(
        &mut self,
        place: Place,
        share: ShareId,
        numbers: &[u64],
        effects: &mut Vec<Effect>,
    ) {
        if let StreamId::Group(by) = place.stream {
            self.with_share(share, effects, |dispatch, share| dispatch.put_back(share, by, numbers));
        }
    }

    /// Under [`Overflow::RejectPublisher`]: whether the groups have room for the message.
    pub(super) fn shares_have_room(
        &mut self,
        shares: &[ShareId],
        bytes: u32,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.config.overflow != Overflow::RejectPublisher
            || shares.iter().all(|id| {
                let room = self.with_share(*id, effects, |dispatch, share| dispatch.has_room(share, bytes));
                room.unwrap_or(true)
            })
    }

    /// One reference to the message for each group [MQTT-4.8.2-3].
    pub(super) fn share_out(
        &mut self,
        shares: &[ShareId],
        message: &MessageView<'_>,
        reference: MessageRef,
        effects: &mut Vec<Effect>,
    ) {
        let expires = Expires::after(self.state.now, message.expiry_s);
        let queued = Queued::new(reference, message.qos, message.retain, expires, 0);
        for id in shares {
            self.with_share(*id, effects, |dispatch, share| dispatch.accept(share, queued));
        }
    }

    /// Works on one group with everything that moving its messages needs, and ends it when it is over.
    fn with_share<R>(
        &mut self,
        id: ShareId,
        effects: &mut Vec<Effect>,
        work: impl FnOnce(&mut Dispatch<'_>, &mut Share) -> R,
    ) -> Option<R> {
        let share = self.shares.get_mut(id)?;
        let (config, state, live) = (&self.config, &mut self.state, &mut self.live);
        let mut dispatch = Dispatch { config, state, live, effects };
        let result = work(&mut dispatch, share);
        if share.is_over() {
            dispatch.discard(share);
            let filter = share.filter.clone();
            let target = RouteTarget::Partition(self.config.group);
            self.state.post(CONTROL, &Command::RouteRemove { filter, target });
            self.shares.remove(id);
        }
        Some(result)
    }
}

/// Makes the session a member, or replaces what it asked for.
fn take_in(share: &mut Share, key: ShareMember, version: ShareVersion, terms: Terms) {
    let known = share.change(key, |member| {
        member.version = version;
        member.terms = terms;
        member.presence = Presence::Online;
    });
    if known.is_none() {
        share.insert(key, Member::new(version, terms));
    }
}

fn share_info(share: &Share) -> ShareInfo {
    let present = share.members().filter(|(_, member)| member.presence != Presence::Left);
    let members = present.map(|(key, member)| ShareMemberInfo {
        member: *key,
        online: member.presence == Presence::Online,
        dispatched: member.dispatched.len(),
    });
    ShareInfo { filter: share.filter.clone(), waiting: share.waiting(), members: members.collect() }
}
