//! What a client is doing, for people who wonder why nothing leaves. The flush thread writes it, any thread reads it.

use crate::error::Error;
use crate::queue::accounts::{Reason, Stats};
use std::time::SystemTime;
use tokio::time::Instant;

/// The name of the client's phase: `state` in `stats/1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PhaseName {
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

/// The event that a client waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitsFor {
    /// A capture or a call.
    #[default]
    Events,
    /// The timer's next flush.
    Timer,
    /// The response to a request.
    Response,
    /// The next batch, which is read from the disk.
    Disk,
    /// The time of the next attempt of a request.
    Retry,
    /// The end of the wait that `:sleep_fn` makes.
    SleepFn,
    /// The time of the next automatic flush, after one that failed.
    Backoff,
    /// The end of the suspension.
    Quota,
    /// The spool, which is being opened.
    Spool,
}

/// The phase of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Its name.
    pub phase: PhaseName,
    /// When it began; `None` of a client without a flush thread.
    pub since: Option<Instant>,
    /// The event that it waits for.
    pub waits_for: WaitsFor,
    pub(crate) next_attempt: Option<Instant>,
}

/// The kinds of calls that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `flush/1`.
    Flush,
    /// `shutdown/1`.
    Shutdown,
    /// `queue_length/1`.
    QueueLength,
    /// `purge/1`.
    Purge,
}

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The number of its command.
    pub id: u64,
    /// Its kind.
    pub call: Call,
    /// It waits for all events below this number; without one only for the disk.
    pub below: Option<u64>,
}

/// Calls that [`Status::callers`] keeps at most.
pub(crate) const MOST_CALLERS: usize = 100;

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

/// The state of a client, and how its last attempts ended.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The activity of the flush thread.
    pub activity: Activity,
    /// The calls that wait, 100 at most.
    pub callers: Vec<Caller>,
    /// The last attempt that failed.
    pub last_error: Option<LastError>,
    /// When the ingest last accepted a request.
    pub last_success: Option<SystemTime>,
    /// Drops that a log line has named, by reason.
    reported: [u64; Reason::ALL.len()],
}

impl Status {
    pub(crate) fn publish(&mut self, activity: Activity, callers: impl Iterator<Item = Caller>) {
        self.activity = activity;
        self.callers.clear();
        self.callers.extend(callers);
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
        let activity = &self.activity;
        let idle = activity.phase == PhaseName::Idle && stats.queued == 0;
        let planned = activity.next_attempt.filter(|_| !idle)?;
        let left = planned.saturating_duration_since(Instant::now());
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// A log line has named so many drops.
    pub fn reported(&mut self, reason: Reason, count: u64) {
        self.reported[reason as usize] += count;
    }

    /// Drops that no log line has named.
    pub(crate) fn unreported(&self, stats: &Stats) -> [u64; Reason::ALL.len()] {
        let mut unreported = stats.dropped;
        for (unreported, reported) in unreported.iter_mut().zip(self.reported) {
            *unreported = unreported.saturating_sub(reported);
        }
        unreported
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_idle_client_plans_an_attempt_only_for_events() {
        let in_a_minute = Some(Instant::now() + Duration::from_secs(60));
        let planned = |phase, next_attempt, queued| {
            let mut status = Status::default();
            let activity = Activity {
                phase,
                next_attempt,
                ..Activity::default()
            };
            status.publish(activity, std::iter::empty());
            status.next_attempt_in(&Stats {
                queued,
                ..Stats::default()
            })
        };
        assert_eq!(planned(PhaseName::Idle, in_a_minute, 0), None);
        assert!(planned(PhaseName::Idle, in_a_minute, 1).is_some_and(|ms| ms <= 60_000));
        assert_eq!(
            planned(PhaseName::Waiting, Some(Instant::now()), 0),
            Some(0)
        );
        assert_eq!(planned(PhaseName::InFlight, None, 1), None);
    }

    #[test]
    fn drops_that_a_line_has_named_are_not_unreported() {
        let mut status = Status::default();
        let mut stats = Stats::default();
        stats.dropped[Reason::QueueFull as usize] = 5;
        stats.dropped[Reason::Stopped as usize] = 2;
        status.reported(Reason::QueueFull, 3);
        let unreported = status.unreported(&stats);
        assert_eq!(unreported[Reason::QueueFull as usize], 2);
        assert_eq!(unreported[Reason::Stopped as usize], 2);
        assert_eq!(unreported.iter().sum::<u64>(), 4);
    }
}
