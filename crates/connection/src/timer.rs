//! The timers of a connection, in one table.
//!
//! Owns: one optional deadline per timer. Does not: read a clock.

use core::time::Duration;

/// A timer of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// The CONNECT must be whole.
    Connect,
    /// The packet that has begun must be whole.
    Packet,
    /// The client must have sent something [MQTT-3.1.2-22].
    KeepAlive,
}

const TIMERS: [Timer; 3] = [Timer::Connect, Timer::Packet, Timer::KeepAlive];

/// When each timer expires.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimerTable {
    connect: Option<Duration>,
    packet: Option<Duration>,
    keep_alive: Option<Duration>,
}

impl TimerTable {
    fn slot(&mut self, timer: Timer) -> &mut Option<Duration> {
        match timer {
            Timer::Connect => &mut self.connect,
            Timer::Packet => &mut self.packet,
            Timer::KeepAlive => &mut self.keep_alive,
        }
    }

    /// Sets a timer, or sets it anew.
    pub(crate) fn set(&mut self, timer: Timer, at: Duration) {
        *self.slot(timer) = Some(at);
    }

    /// Sets a timer unless it runs.
    pub(crate) fn start(&mut self, timer: Timer, at: Duration) {
        self.slot(timer).get_or_insert(at);
    }

    /// Stops a timer.
    pub(crate) fn stop(&mut self, timer: Timer) {
        *self.slot(timer) = None;
    }

    /// Stops all.
    pub(crate) fn clear(&mut self) {
        *self = TimerTable::default();
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Duration> {
        [self.connect, self.packet, self.keep_alive].into_iter().flatten().min()
    }

    /// A timer that has expired, which then stops.
    pub(crate) fn expired(&mut self, now: Duration) -> Option<Timer> {
        TIMERS.into_iter().find(|timer| self.slot(*timer).take_if(|at| *at <= now).is_some())
    }
}
