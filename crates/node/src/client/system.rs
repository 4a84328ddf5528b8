//! Topics below `$SYS` for one connection: their current values for new subscriptions.
//!
//! Owns: which subscriptions want current values. Does not: deliver later changes; those come as direct deliveries.
//! Invariants: values follow the SUBACK; they have QoS 0 and RETAIN [MQTT-3.3.1-8], as Retain Handling says
//! [MQTT-3.3.1-9, MQTT-3.3.1-10, MQTT-3.3.1-11].
//! Limits: as many as there are topics for each subscription; a client that does not read loses them, counted.

use core::time::Duration;

use quorate_codec::{QoS, RetainHandling};
use quorate_state::command::SubscribeFilter;

use super::{Client, Context};
use crate::edge::ClientOutput;
use crate::system_topics::may_match;

/// Whether a subscription gets the current values of read-only topics; `existed` says that it replaces another.
pub(super) fn wants_values(subscription: &SubscribeFilter, existed: bool) -> bool {
    let handling = match subscription.options.retain_handling {
        RetainHandling::Always => true,
        RetainHandling::IfNew => !existed,
        RetainHandling::Never => false,
    };
    handling && may_match(&subscription.filter)
}

impl Client {
    /// Sends the values that acknowledged subscriptions wait for.
    pub(super) fn give_system_topics(
        &mut self,
        context: &Context<'_>,
        out: &mut ClientOutput,
        now: Duration,
    ) {
        for SubscribeFilter { filter, identifier, .. } in std::mem::take(&mut self.subscribing.system) {
            for value in context.system.matching(&filter) {
                self.deliver_retained(QoS::AtMostOnce, identifier, None, value.message.clone(), out, now);
            }
        }
    }
}
