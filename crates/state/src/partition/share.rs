//! Share groups that are at home here.

use quorate_codec::TopicFilter;

use crate::command::ShareMember;
use crate::effect::{Effect, Reply};
use crate::group_state::Place;
use crate::ids::{ShareId, ShareVersion};
use crate::partition::Partition;
use crate::share::Terms;

impl Partition {
    pub(super) fn share_join(
        &mut self,
        place: Place,
        _filter: &TopicFilter,
        _member: (ShareMember, ShareVersion),
        _terms: Terms,
        effects: &mut Vec<Effect>,
    ) {
        self.state.reply(place, Reply::refused("there are no share groups"), effects);
    }

    pub(super) fn share_offline(&mut self, _filter: &TopicFilter, _member: (ShareMember, ShareVersion)) {}

    pub(super) fn share_leave(
        &mut self,
        _filter: &TopicFilter,
        _member: (ShareMember, ShareVersion),
        _effects: &mut Vec<Effect>,
    ) {
    }

    pub(super) fn share_settled(
        &mut self,
        _place: Place,
        _share: ShareId,
        _dispatches: &[u64],
        _effects: &mut Vec<Effect>,
    ) {
    }

    pub(super) fn share_return(
        &mut self,
        _place: Place,
        _share: ShareId,
        _dispatches: &[u64],
        _effects: &mut Vec<Effect>,
    ) {
    }
}
