//! Calls that wait for a flush: what is left of their patience, and their answers.

use crate::error::Error;
use crate::queue::batch::Batch;
use crate::report::updates::Reply;
use std::sync::Arc;

/// One `flush` or `shutdown`: it waits for events up to a number.
struct Waiter {
    id: u64,
    target: u64,
    attempts_left: u32,
    /// It has had all its attempts.
    spent: bool,
    /// It came while an attempt was in flight: that one's failure is not its own.
    fresh: bool,
    /// Why an event that it waits for was given up.
    given_up: Option<Arc<Error>>,
    /// A quota that is used up is no error to it.
    shutdown: bool,
}

impl Waiter {
    fn reply(&self, result: Result<(), Arc<Error>>) -> Reply {
        Reply::Flushed(self.id, result)
    }
}

/// All that wait.
#[derive(Default)]
pub struct Waiters {
    flushes: Vec<Waiter>,
    settlers: Vec<(u64, u64)>,
}

/// What a failed attempt means to those who wait.
pub struct Failed {
    /// Someone has had no attempt of its own yet.
    pub at_once: bool,
    /// Someone has attempts left.
    pub more: bool,
    /// Someone has had all of them: see [`Waiters::end`].
    pub spent: bool,
}

impl Waiters {
    /// One more that waits for events below `target`.
    pub fn flush(&mut self, id: u64, target: u64, attempts: u32, fresh: bool, shutdown: bool) {
        self.flushes.push(Waiter {
            id,
            target,
            attempts_left: attempts,
            spent: false,
            fresh,
            given_up: None,
            shutdown,
        });
    }

    /// One that only waits for a flush that is due.
    pub fn settle(&mut self, id: u64, target: u64) {
        self.settlers.push((id, target));
    }

    /// Whether nobody wants a flush.
    pub fn want_no_flush(&self) -> bool {
        self.flushes.is_empty()
    }

    /// Whether one of them is a `shutdown`.
    pub fn want_shutdown(&self) -> bool {
        self.flushes.iter().any(|waiter| waiter.shutdown)
    }

    /// The number below which somebody waits for all events.
    pub fn target(&self) -> u64 {
        let targets = self.flushes.iter().map(|waiter| waiter.target);
        targets.max().unwrap_or(0)
    }

    /// A request was answered: the next one has all its attempts.
    pub fn answered(&mut self, attempts: u32) {
        for waiter in &mut self.flushes {
            waiter.attempts_left = attempts;
            waiter.fresh = false;
        }
    }

    /// Events were given up for an answer.
    pub fn gave_up(&mut self, events: &Batch, error: &Arc<Error>) {
        let first = events.numbers().start;
        for waiter in &mut self.flushes {
            if first < waiter.target {
                waiter.given_up.get_or_insert_with(|| Arc::clone(error));
            }
        }
    }

    /// An attempt failed.
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

    /// The answers of those whose patience is over.
    pub fn end(&mut self, error: &Arc<Error>) -> Vec<Reply> {
        let done = self.flushes.extract_if(.., |waiter| waiter.spent);
        done.map(|waiter| {
            let error = waiter.given_up.clone().unwrap_or_else(|| error.clone());
            waiter.reply(Err(error))
        })
        .collect()
    }

    /// Everybody's answer.
    pub fn end_all(&mut self, error: &Arc<Error>) -> Vec<Reply> {
        let done = self.flushes.drain(..);
        done.map(|waiter| waiter.reply(Err(error.clone())))
            .collect()
    }

    /// Everybody's answer where the quota is used up.
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

    /// The answers of those for whom nothing below `head` is left.
    pub fn through(&mut self, head: u64) -> Vec<Reply> {
        let done = self.flushes.extract_if(.., |w| w.target <= head);
        done.map(|mut waiter| {
            let result = waiter.given_up.take().map_or(Ok(()), Err);
            waiter.reply(result)
        })
        .collect()
    }

    /// Whether nobody waits for a flush that is due.
    pub fn want_no_settling(&self) -> bool {
        self.settlers.is_empty()
    }

    /// The answers of those whose events are through their flush; with `idle`, of all.
    pub fn settled(&mut self, head: u64, idle: bool, queued: u64) -> Vec<Reply> {
        let done = self
            .settlers
            .extract_if(.., |(_, target)| idle || *target <= head);
        done.map(|(id, _)| Reply::Settled(id, queued)).collect()
    }

    /// Nobody is there any more to be answered.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
