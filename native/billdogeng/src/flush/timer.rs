//! The timer of automatic flushes. It fires on a grid that begins with the client, so that stopping it while the queue
//! is empty shifts no flush.

use std::time::Duration;
use tokio::time::Instant;

/// Fires each `interval` after `started` while there are events.
#[derive(Clone, Debug)]
pub struct Timer {
    started: Instant,
    interval: Duration,
    next: Option<Instant>,
    stopped: bool,
}

impl Timer {
    /// Creates a timer that is not armed yet.
    pub fn new(started: Instant, interval: Duration) -> Self {
        Self {
            started,
            interval: interval.max(Duration::from_millis(1)),
            next: None,
            stopped: false,
        }
    }

    /// Stops it for good: `shutdown/1`.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.next = None;
    }

    /// Returns whether it was stopped for good.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Returns when it fires next.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Returns whether its time has come. [`Timer::advance`] resets that.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// Moves it on and returns whether it fired. An empty queue disarms it, the next capture arms it again.
    pub fn advance(&mut self, now: Instant, empty: bool) -> bool {
        let fired = self.is_due(now);
        if fired && empty {
            self.next = None;
        } else if !empty && !self.stopped && (fired || self.next.is_none()) {
            let past = now.duration_since(self.started).as_nanos() / self.interval.as_nanos();
            let next = self.interval.as_nanos() * (past + 1);
            let next = Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX));
            self.next = Some(self.started + next);
        }
        fired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_fires_on_its_grid_whenever_it_is_armed() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let mut timer = Timer::new(started, Duration::from_millis(10));
        assert!(!timer.advance(at(3), true));
        assert_eq!(timer.next(), None);
        assert!(!timer.advance(at(3), false));
        assert_eq!(timer.next(), Some(at(10)));
        assert!(!timer.advance(at(9), false));
        assert!(timer.advance(at(25), false));
        assert_eq!(timer.next(), Some(at(30)));
        assert!(timer.advance(at(30), true));
        assert_eq!(timer.next(), None);
        assert!(!timer.advance(at(47), false));
        assert_eq!(timer.next(), Some(at(50)));
    }

    #[test]
    fn a_stopped_timer_never_fires() {
        let started = Instant::now();
        let mut timer = Timer::new(started, Duration::ZERO);
        timer.advance(started, false);
        timer.stop();
        assert!(!timer.advance(started + Duration::from_secs(1), false));
        assert_eq!(timer.next(), None);
    }
}
