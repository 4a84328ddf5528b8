//! The timers of a connection, in one table.
//!
//! Owns: one optional deadline per timer. Does not: read a clock.

use core::time::Duration;

/// A timer of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timer {
    /// The CONNECT must be whole.
    Connect,
    /// The CONNECT must be answered.
    Answer,
    /// The packet that has begun must be whole.
    Packet,
    /// The client must have sent something [MQTT-3.1.2-22].
    KeepAlive,
    /// The client must have taken some of the output that waits for it.
    Output,
}

const TIMERS: [Timer; 5] = [Timer::Connect, Timer::Answer, Timer::Packet, Timer::KeepAlive, Timer::Output];

/// When each timer expires.
#[derive(Clone, Debug, Default)]
pub(crate) struct TimerTable {
    connect: Option<Duration>,
    answer: Option<Duration>,
    packet: Option<Duration>,
    keep_alive: Option<Duration>,
    output: Option<Duration>,
}

impl TimerTable {
    fn slot(&mut self, timer: Timer) -> &mut Option<Duration> {
        match timer {
            Timer::Connect => &mut self.connect,
            Timer::Answer => &mut self.answer,
            Timer::Packet => &mut self.packet,
            Timer::KeepAlive => &mut self.keep_alive,
            Timer::Output => &mut self.output,
        }
    }

    /// Sets a timer to `after` from `now`, or sets it anew.
    pub(crate) fn set(&mut self, timer: Timer, now: Duration, after: Duration) {
        *self.slot(timer) = Some(now.saturating_add(after));
    }

    /// As `set`, unless the timer runs.
    pub(crate) fn start(&mut self, timer: Timer, now: Duration, after: Duration) {
        self.slot(timer).get_or_insert(now.saturating_add(after));
    }

    /// Whether a timer runs.
    pub(crate) fn runs(&mut self, timer: Timer) -> bool {
        self.slot(timer).is_some()
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
        [self.connect, self.answer, self.packet, self.keep_alive, self.output].into_iter().flatten().min()
    }

    /// A timer that has expired, which then stops, and how long ago.
    pub(crate) fn expired(&mut self, now: Duration) -> Option<(Timer, Duration)> {
        TIMERS.into_iter().find_map(|timer| {
            let at = self.slot(timer).take_if(|at| *at <= now)?;
            Some((timer, now - at))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn timer_expires_once_at_its_time() {
        let mut timers = TimerTable::default();
        timers.set(Timer::KeepAlive, s(1), s(9));
        assert_eq!(timers.expired(Duration::from_millis(9_999)), None);
        assert_eq!(timers.expired(s(10)), Some((Timer::KeepAlive, s(0))));
        assert_eq!(timers.expired(s(10)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn start_keeps_a_running_timer_and_set_moves_it() {
        let mut timers = TimerTable::default();
        timers.start(Timer::Packet, s(0), s(5));
        timers.start(Timer::Packet, s(3), s(5));
        assert_eq!(timers.next(), Some(s(5)));
        timers.set(Timer::Packet, s(3), s(5));
        assert_eq!(timers.next(), Some(s(8)));
        timers.stop(Timer::Packet);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn next_is_the_earliest_of_all() {
        let mut timers = TimerTable::default();
        for (timer, after) in TIMERS.into_iter().zip([40, 10, 30, 20, 50]) {
            timers.set(timer, s(0), s(after));
        }
        assert_eq!(timers.next(), Some(s(10)));
        timers.clear();
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn deadline_beyond_time_is_the_end_of_time() {
        let mut timers = TimerTable::default();
        timers.set(Timer::Connect, s(1), Duration::MAX);
        assert_eq!(timers.next(), Some(Duration::MAX));
    }
}
