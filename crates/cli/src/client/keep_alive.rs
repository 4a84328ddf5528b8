//! When to send PINGREQ, and when the broker has been silent for too long.
//!
//! Owns: the timer of one connection. Does not: read a clock.
//! Invariants: something is sent at least twice per keep-alive interval [MQTT-3.1.2-20]; a broker that
//! answers nothing for half an interval after a ping is counted as gone.

use std::time::Duration;

use tokio::time::Instant;

/// Timer of one connection.
pub struct KeepAlive {
    /// Half the keep-alive interval; `None` when it is off.
    period: Option<Duration>,
    last_ping: Instant,
    pinged: bool,
}

/// What the timer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Send PINGREQ.
    Ping,
    /// Give the connection up.
    Dead,
}

impl KeepAlive {
    /// Starts at `now`; 0 seconds turn it off.
    pub fn new(keep_alive_s: u16, now: Instant) -> KeepAlive {
        let period = (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into()) / 2);
        KeepAlive { period, last_ping: now, pinged: false }
    }

    /// When to call [`KeepAlive::due`] next.
    pub fn deadline(&self) -> Option<Instant> {
        self.period.map(|period| self.last_ping + period)
    }

    /// What is due at `now`, given when something was last received.
    pub fn due(&mut self, now: Instant, last_received: Instant) -> Due {
        match self.deadline() {
            Some(deadline) if now >= deadline => {}
            _ => return Due::Nothing,
        }
        if self.pinged && last_received < self.last_ping {
            return Due::Dead;
        }
        self.pinged = true;
        self.last_ping = now;
        Due::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_after_a_ping_is_death_and_traffic_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timer = KeepAlive::new(10, start);
        assert_eq!(timer.due(at(4), start), Due::Nothing);
        assert_eq!(timer.due(at(5), start), Due::Ping, "the first ping needs no answer before it");
        assert_eq!(timer.due(at(9), at(8)), Due::Nothing);
        assert_eq!(timer.due(at(10), at(8)), Due::Ping);
        assert_eq!(timer.due(at(15), at(8)), Due::Dead);
        assert_eq!(KeepAlive::new(0, start).due(at(1000), start), Due::Nothing);
    }
}
