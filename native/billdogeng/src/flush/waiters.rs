//! Calls that wait for a flush: the events and attempts that each still waits for, and their replies.

use crate::error::Error;
use crate::protocol::Reply;
use crate::report::status::{Call, Caller};
use std::sync::Arc;

/// One `flush` or `shutdown`: it waits for all events below a number.
#[derive(Clone, Debug)]
struct Waiter {
    id: u64,
    target: u64,
    attempts_left: u32,
    /// It has had all its attempts.
    spent: bool,
    /// It came while an attempt without its events was in flight: the failure of that attempt does not count.
    fresh: bool,
    /// Why an event that it waits for was dropped.
    dropped: Option<Arc<Error>>,
    /// A `shutdown`: a quota that is used up is no error to it.
    shutdown: bool,
}

impl Waiter {
    fn reply(&self, result: Result<(), Arc<Error>>) -> Reply {
        Reply::Flushed(self.id, result)
    }
}

/// All calls that wait.
#[derive(Clone, Debug, Default)]
pub struct Waiters {
    flushes: Vec<Waiter>,
    settlers: Vec<(u64, u64)>,
}

/// The effect of a failed attempt on the calls that wait.
pub struct Failed {
    /// Some call has had no attempt of its own yet.
    pub at_once: bool,
    /// Some call has attempts left.
    pub more: bool,
    /// Some call has had all of them: see [`Waiters::end`].
    pub spent: bool,
}

impl Waiters {
    /// Adds a call that waits for all events below `target`.
    pub fn flush(&mut self, id: u64, target: u64, attempts: u32, fresh: bool, shutdown: bool) {
        self.flushes.push(Waiter {
            id,
            target,
            attempts_left: attempts,
            spent: false,
            fresh,
            dropped: None,
            shutdown,
        });
    }

    /// Adds a call that only waits for a flush that is due.
    pub fn settle(&mut self, id: u64, target: u64) {
        self.settlers.push((id, target));
    }

    /// Returns whether any call wants a flush.
    pub fn want_flush(&self) -> bool {
        !self.flushes.is_empty()
    }

    /// Returns whether any of those is a `shutdown`.
    pub fn want_shutdown(&self) -> bool {
        self.flushes.iter().any(|waiter| waiter.shutdown)
    }

    /// Returns whether any call waits for a flush that is due.
    pub fn want_settling(&self) -> bool {
        !self.settlers.is_empty()
    }

    /// Returns the number below which some call waits for all events.
    pub fn target(&self) -> u64 {
        let targets = self.flushes.iter().map(|waiter| waiter.target);
        targets.max().unwrap_or(0)
    }

    /// Gives each call all attempts for the next request: the last one was answered.
    pub fn answered(&mut self, attempts: u32) {
        for waiter in &mut self.flushes {
            waiter.attempts_left = attempts;
            waiter.fresh = false;
        }
    }

    /// Notes that an event was dropped for an answer: an error to each call that waits for it.
    pub fn dropped(&mut self, number: u64, error: &Arc<Error>) {
        for waiter in &mut self.flushes {
            if number < waiter.target {
                waiter.dropped.get_or_insert_with(|| Arc::clone(error));
            }
        }
    }

    /// Counts a failed attempt.
    pub fn failed(&mut self, retryable: bool) -> Failed {
        let mut failed = Failed {
            at_once: false,
            more: false,
            spent: false,
        };
        for waiter in &mut self.flushes {
            if std::mem::take(&mut waiter.fresh) {
                failed.at_once = true;
                continue;
            }
            waiter.attempts_left = waiter.attempts_left.saturating_sub(1);
            waiter.spent = waiter.attempts_left == 0 || !retryable;
            failed.spent |= waiter.spent;
            failed.more |= !waiter.spent;
        }
        failed.more |= failed.at_once;
        failed
    }

    /// Ends the calls that have had all their attempts.
    pub fn end(&mut self, error: &Arc<Error>) -> Vec<Reply> {
        let done = self.flushes.extract_if(.., |waiter| waiter.spent);
        done.map(|waiter| {
            let error = waiter.dropped.clone().unwrap_or_else(|| error.clone());
            waiter.reply(Err(error))
        })
        .collect()
    }

    /// Ends all calls with an error.
    pub fn end_all(&mut self, error: &Arc<Error>) -> Vec<Reply> {
        let done = self.flushes.drain(..);
        done.map(|waiter| waiter.reply(Err(error.clone())))
            .collect()
    }

    /// Ends all calls because the quota is used up.
    pub fn end_limited(&mut self) -> Vec<Reply> {
        let limited = Arc::new(Error::quota_limited());
        let done = self.flushes.drain(..);
        done.map(|waiter| {
            let result = match waiter.shutdown {
                true => Ok(()),
                false => Err(Arc::clone(&limited)),
            };
            waiter.reply(result)
        })
        .collect()
    }

    /// Ends the calls that wait for nothing from `floor` on.
    pub fn through(&mut self, floor: u64) -> Vec<Reply> {
        let done = self.flushes.extract_if(.., |w| w.target <= floor);
        done.map(|mut waiter| {
            let result = waiter.dropped.take().map_or(Ok(()), Err);
            waiter.reply(result)
        })
        .collect()
    }

    /// Ends the calls whose events are through their flush; with `idle` all that wait for one.
    pub fn settled(&mut self, floor: u64, idle: bool, queued: u64) -> Vec<Reply> {
        let done = self
            .settlers
            .extract_if(.., |(_, target)| idle || *target <= floor);
        done.map(|(id, _)| Reply::Settled(id, queued)).collect()
    }

    /// Forgets all calls: the owner, which would pass the replies on, has ended.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Returns the calls that wait, for `debug/1`.
    pub fn callers(&self) -> impl Iterator<Item = Caller> + '_ {
        let flushes = self.flushes.iter().map(|waiter| Caller {
            id: waiter.id,
            call: match waiter.shutdown {
                true => Call::Shutdown,
                false => Call::Flush,
            },
            below: Some(waiter.target),
        });
        let settlers = self.settlers.iter().map(|(id, target)| Caller {
            id: *id,
            call: Call::QueueLength,
            below: Some(*target),
        });
        flushes.chain(settlers)
    }
}
