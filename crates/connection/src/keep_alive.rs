//! Keep Alive (MQTT 5, 3.1.2.10).
//!
//! Owns: which Keep Alive holds, and how long a silence may last. Does not: keep the timer.

use core::time::Duration;

use quorate_codec::{Connect, ProtocolVersion};

use crate::config::Config;

/// What was agreed with a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct KeepAlive {
    /// How long a silence may last; `None` for ever.
    pub(crate) silence_max: Option<Duration>,
    /// Server Keep Alive to announce, in seconds [MQTT-3.1.2-21].
    pub(crate) server_s: Option<u16>,
}

impl KeepAlive {
    /// One and a half times the Keep Alive [MQTT-3.1.2-22]. 5.0 has words for a shorter one than the client wants; 3.x
    /// keeps its own.
    pub(crate) fn agree(connect: &Connect, config: &Config) -> KeepAlive {
        let asked = connect.keep_alive_s;
        let max = config.keep_alive_max_s;
        if connect.version == ProtocolVersion::V5 {
            let too_long = max != 0 && (asked == 0 || asked > max);
            let held = if too_long { max } else { asked };
            KeepAlive { silence_max: one_and_a_half(held), server_s: too_long.then_some(max) }
        } else if asked == 0 {
            let idle = config.idle_deadline;
            KeepAlive { silence_max: (!idle.is_zero()).then_some(idle), server_s: None }
        } else {
            KeepAlive { silence_max: one_and_a_half(asked), server_s: None }
        }
    }
}

fn one_and_a_half(seconds: u16) -> Option<Duration> {
    (seconds != 0).then(|| Duration::from_millis(u64::from(seconds) * 1500))
}
