//! The clock that the ages of events come from.
//!
//! Within one run of the spool it is the monotonic clock, so no step of the system's clock makes an event older. Across
//! restarts there is only the system's clock. If it may have been wrong when an event was written, the event counts as new:
//! keeping an event for too long does less harm than dropping it unsent.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time at which a run begins, in ms. Events of earlier runs have lower times.
const BEGIN: u64 = 1 << 50;
/// A system clock before this (2025-01-01) was never set.
const PLAUSIBLE: u64 = 1_735_689_600_000;
/// A forward step of the system's clock by more than this is not a correction of drift.
const STEP: Duration = Duration::from_secs(60);

/// The clock of one run of a spool. Its times are ms that ascend.
pub struct Clock {
    began: Instant,
    wall: u64,
    /// The times that earlier runs wrote can't be trusted.
    in_doubt: bool,
}

impl Clock {
    /// Begins a run. `in_doubt` is whether an earlier one has noticed a step of the system's clock.
    pub fn new(in_doubt: bool) -> Self {
        Self::at(Instant::now(), wall(), in_doubt)
    }

    fn at(began: Instant, wall: u64, in_doubt: bool) -> Self {
        Self {
            began,
            wall,
            in_doubt,
        }
    }

    /// Returns the time now.
    pub fn now(&self) -> u64 {
        BEGIN + ms(self.began.elapsed())
    }

    /// Returns the time of an event that an earlier run wrote when the system's clock was at `wall`.
    pub fn time_of(&self, wall: u64) -> u64 {
        // A clock that was ahead must not keep events for ever either.
        let trusted = !self.in_doubt && wall >= PLAUSIBLE;
        let age = self.wall.saturating_sub(wall);
        BEGIN.saturating_sub(if trusted { age } else { 0 })
    }

    /// Returns whether a later run must not trust the times that this run has written: the system's clock is not set, or
    /// was set during the run.
    pub fn is_in_doubt(&self) -> bool {
        self.doubts(wall(), self.began.elapsed())
    }

    fn doubts(&self, wall: u64, elapsed: Duration) -> bool {
        let expected = self.wall + ms(elapsed);
        wall < PLAUSIBLE || wall > expected + ms(STEP)
    }
}

/// Returns the system's time, in ms since 1970.
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, ms)
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = PLAUSIBLE + 1_000_000;
    const HOUR: u64 = 3_600_000;

    #[test]
    fn an_event_of_an_earlier_run_is_as_old_as_the_system_clock_says() {
        let clock = Clock::at(Instant::now(), NOW, false);
        assert_eq!(clock.time_of(NOW - 5_000), BEGIN - 5_000);
        assert!(clock.now() >= BEGIN);
    }

    #[test]
    fn an_event_counts_as_new_if_the_system_clock_was_wrong() {
        let clock = Clock::at(Instant::now(), NOW, false);
        assert_eq!(clock.time_of(30_000), BEGIN, "it was never set");
        assert_eq!(clock.time_of(NOW + HOUR), BEGIN, "it was ahead");
        let clock = Clock::at(Instant::now(), NOW, true);
        assert_eq!(clock.time_of(NOW - HOUR), BEGIN, "it was set later");
    }

    #[test]
    fn a_forward_step_and_an_unset_clock_raise_doubt_and_drift_does_not() {
        let clock = Clock::at(Instant::now(), NOW, false);
        let hour = Duration::from_secs(3_600);
        assert!(!clock.doubts(NOW + HOUR + 30_000, hour));
        assert!(!clock.doubts(NOW, hour), "set back");
        assert!(clock.doubts(NOW + 3 * HOUR, hour));
        assert!(clock.doubts(30_000, Duration::ZERO));
    }
}
