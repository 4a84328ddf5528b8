//! Sessions that are at home here as members of share groups.

use quorate_codec::TopicFilter;

use crate::effect::Effect;
use crate::encode::{MessageView, ShareDispatch};
use crate::group_state::Place;
use crate::ids::{SessionId, ShareId};
use crate::partition::Partition;

impl Partition {
    pub(super) fn share_confirm(
        &mut self,
        _place: Place,
        _id: SessionId,
        _filter: &TopicFilter,
        _share: ShareId,
    ) {
    }

    pub(super) fn share_deliver(
        &mut self,
        _place: Place,
        _deliver: ShareDispatch,
        _message: &MessageView<'_>,
        _effects: &mut Vec<Effect>,
    ) {
    }
}
