//! Share groups.

use quorate_codec::QoS;

/// What a member asked for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Terms {
    pub(crate) qos: QoS,
    pub(crate) identifier: Option<u32>,
    pub(crate) retain_as_published: bool,
    pub(crate) window: u16,
}
