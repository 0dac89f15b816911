//! The ages of the events on disk.
//!
//! Within one run of the spool they come from the monotonic clock, so no step of the system's clock makes an event older.
//! Across restarts there is only the system's clock. If it may have been wrong when an event was written, the event counts
//! as new: keeping an event for too long does less harm than dropping it unsent.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time at which this run began, in ms. Events of earlier runs have lower times.
const BEGIN: u64 = 1 << 50;
/// A system clock before this (2025-01-01) was never set.
const PLAUSIBLE: u64 = 1_735_689_600_000;
/// A forward step of the system's clock by more than this is not a correction of drift.
const STEP: Duration = Duration::from_secs(60);

/// When events were written, in groups, so that a week of events needs few entries.
pub struct Ages {
    began: Instant,
    wall: u64,
    /// The times that earlier runs wrote can't be trusted.
    in_doubt: bool,
    /// How much time one group covers, in ms.
    step: u64,
    groups: VecDeque<Group>,
}

/// Events that were written within one step.
struct Group {
    oldest: u64,
    newest: u64,
    /// The number after the last of them.
    end: u64,
}

impl Ages {
    /// Begins a run. `in_doubt` is whether an earlier one has noticed a step of the system's clock.
    pub fn new(step: u64, in_doubt: bool) -> Self {
        Self::at(wall(), step, in_doubt)
    }

    fn at(wall: u64, step: u64, in_doubt: bool) -> Self {
        Self {
            began: Instant::now(),
            wall,
            in_doubt,
            step: step.max(1),
            groups: VecDeque::new(),
        }
    }

    /// Notes that events up to `end` were written now.
    pub fn written_now(&mut self, end: u64) {
        self.note(self.now(), end);
    }

    /// Notes that an earlier run wrote events up to `end` when the system's clock was at `wall`.
    pub fn written_at(&mut self, wall: u64, end: u64) {
        self.note(self.time_of(wall), end);
    }

    fn note(&mut self, time: u64, end: u64) {
        // The times of earlier runs need not ascend.
        let time = time.max(self.groups.back().map_or(0, |group| group.newest));
        match self.groups.back_mut() {
            Some(group) if time < group.oldest.saturating_add(self.step) => {
                group.newest = time;
                group.end = end;
            }
            _ => self.groups.push_back(Group {
                oldest: time,
                newest: time,
                end,
            }),
        }
    }

    /// Forgets the events below a number.
    pub fn forget_below(&mut self, number: u64) {
        while self.groups.front().is_some_and(|group| group.end <= number) {
            self.groups.pop_front();
        }
    }

    /// Returns the number below which all events are at least `max_age` ms old.
    pub fn expired(&self, max_age: u64) -> Option<u64> {
        let limit = self.now().saturating_sub(max_age);
        let old = self.groups.iter().take_while(|group| group.newest <= limit);
        old.last().map(|group| group.end)
    }

    /// Returns how long it takes until the oldest group of events from `number` on is `max_age` ms old.
    pub fn next_expiry(&self, number: u64, max_age: u64) -> Option<Duration> {
        let group = self.groups.iter().find(|group| group.end > number)?;
        let at = group.newest.checked_add(max_age)?;
        Some(Duration::from_millis(at.saturating_sub(self.now())))
    }

    /// Returns whether a later run must not trust the times that this run has written: the system's clock is not set, or
    /// was set during the run.
    pub fn is_in_doubt(&self) -> bool {
        self.doubts(wall(), self.began.elapsed())
    }

    fn doubts(&self, wall: u64, elapsed: Duration) -> bool {
        wall < PLAUSIBLE || wall > self.wall + ms(elapsed) + ms(STEP)
    }

    fn now(&self) -> u64 {
        BEGIN + ms(self.began.elapsed())
    }

    fn time_of(&self, wall: u64) -> u64 {
        // A clock that was ahead must not keep events for ever either.
        let trusted = !self.in_doubt && wall >= PLAUSIBLE;
        let age = self.wall.saturating_sub(wall);
        BEGIN.saturating_sub(if trusted { age } else { 0 })
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
        let ages = Ages::at(NOW, 1, false);
        assert_eq!(ages.time_of(NOW - 5_000), BEGIN - 5_000);
        assert!(ages.now() >= BEGIN);
    }

    #[test]
    fn an_event_counts_as_new_if_the_system_clock_was_wrong() {
        let ages = Ages::at(NOW, 1, false);
        assert_eq!(ages.time_of(30_000), BEGIN, "it was never set");
        assert_eq!(ages.time_of(NOW + HOUR), BEGIN, "it was ahead");
        let ages = Ages::at(NOW, 1, true);
        assert_eq!(ages.time_of(NOW - HOUR), BEGIN, "it was set later");
    }

    #[test]
    fn a_forward_step_and_an_unset_clock_raise_doubt_and_drift_does_not() {
        let ages = Ages::at(NOW, 1, false);
        let hour = Duration::from_secs(3_600);
        assert!(!ages.doubts(NOW + HOUR + 30_000, hour));
        assert!(!ages.doubts(NOW, hour), "set back");
        assert!(ages.doubts(NOW + 3 * HOUR, hour));
        assert!(ages.doubts(30_000, Duration::ZERO));
    }
}
