//! What a client is doing, for people who wonder why nothing leaves. The flush thread writes it, any thread reads it.

use crate::error::Error;
use crate::queue::state::{Reason, Stats};
use std::time::SystemTime;
use tokio::time::Instant;

/// What the flush thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No flush is under way, and the last one did not fail.
    #[default]
    Idle,
    /// A request is being made, or its batch is being read from the disk.
    InFlight,
    /// A flush waits between two attempts.
    Waiting,
    /// The last flush failed: automatic ones are held back.
    BackingOff,
    /// The project's quota is used up: nothing is sent for a while.
    Suspended,
    /// The owner has ended: what is left is being sent.
    Draining,
}

/// Why an attempt failed. Without the response's body, which may quote events.
#[derive(Clone, Debug, PartialEq)]
pub struct LastError {
    /// See [`Error::message`].
    pub message: String,
    /// See [`Error::status`].
    pub status: u16,
    /// See [`Error::code`].
    pub code: Option<String>,
    /// When it failed.
    pub time: SystemTime,
}

/// What a client is doing, and how its last attempts ended.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What the flush thread is doing.
    pub phase: Phase,
    /// The last attempt that failed.
    pub last_error: Option<LastError>,
    /// When the ingest last accepted a request.
    pub last_success: Option<SystemTime>,
    next_attempt: Option<Instant>,
    /// Drops that a log line has named, by reason.
    told: [u64; Reason::ALL.len()],
}

impl Status {
    pub(crate) fn set(&mut self, phase: Phase, next_attempt: Option<Instant>) {
        (self.phase, self.next_attempt) = (phase, next_attempt);
    }

    pub(crate) fn succeeded(&mut self) {
        self.last_success = Some(SystemTime::now());
    }

    pub(crate) fn failed(&mut self, error: &Error) {
        self.last_error = Some(LastError {
            message: error.message.clone(),
            status: error.status,
            code: error.code.clone(),
            time: SystemTime::now(),
        });
    }

    /// Milliseconds until the next attempt, if one is planned. An idle client without events plans none.
    #[must_use]
    pub fn next_attempt_in(&self, stats: &Stats) -> Option<u64> {
        let planned = self
            .next_attempt
            .filter(|_| self.phase != Phase::Idle || stats.queued > 0)?;
        let left = planned.saturating_duration_since(Instant::now());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// A log line has named so many drops.
    pub fn told(&mut self, reason: Reason, count: u64) {
        self.told[reason as usize] += count;
    }

    /// Drops that no log line has named.
    pub(crate) fn untold(&self, stats: &Stats) -> [u64; Reason::ALL.len()] {
        let mut untold = stats.dropped;
        for (untold, told) in untold.iter_mut().zip(self.told) {
            *untold = untold.saturating_sub(told);
        }
        untold
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_idle_client_plans_an_attempt_only_for_events() {
        let mut status = Status::default();
        status.set(Phase::Idle, Some(Instant::now() + Duration::from_secs(60)));
        let mut stats = Stats::default();
        assert_eq!(status.next_attempt_in(&stats), None);
        stats.queued = 1;
        assert!(status
            .next_attempt_in(&stats)
            .is_some_and(|ms| ms <= 60_000));
        status.set(Phase::Waiting, Some(Instant::now()));
        assert_eq!(status.next_attempt_in(&stats), Some(0));
        status.set(Phase::InFlight, None);
        assert_eq!(status.next_attempt_in(&stats), None);
    }

    #[test]
    fn drops_that_a_line_has_named_are_not_untold() {
        let mut status = Status::default();
        let mut stats = Stats::default();
        stats.dropped[Reason::QueueFull as usize] = 5;
        stats.dropped[Reason::Stopped as usize] = 2;
        status.told(Reason::QueueFull, 3);
        let untold = status.untold(&stats);
        assert_eq!(untold[Reason::QueueFull as usize], 2);
        assert_eq!(untold[Reason::Stopped as usize], 2);
        assert_eq!(untold.iter().sum::<u64>(), 4);
    }
}
