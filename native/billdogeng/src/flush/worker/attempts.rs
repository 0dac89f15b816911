//! An attempt, and what it comes to: its part of the batch was accepted, refused, or not heard of. From there to the
//! next part, the next wait, or the end of the flush.

use super::{Attempt, Wait, Worker};
use crate::config::Endpoint;
use crate::error::Error;
use crate::flush::split::{Accepted, Parts, Standing};
use crate::http::client::Http;
use crate::http::payload::Payload;
use crate::http::policy;
use crate::http::response::{Answer, Failure, Kind, Unreachable};
use crate::queue::batch::Batch;
use crate::queue::state::Reason;
use crate::report::updates::Notice;
use reqwest::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

impl Worker {
    pub(super) fn attempt(&mut self) -> Result<Attempt, Failure> {
        self.report.begun(&*self.listener);
        let http = match &self.http {
            Some(http) => Arc::clone(http),
            None => Arc::clone(
                self.http
                    .insert(Arc::new(Http::new(&self.client.config.http)?)),
            ),
        };
        let mut headers = self
            .headers
            .clone()
            .map_err(|message| Failure::unreachable(message, Unreachable::Other))?;
        let flush = self.flush.as_mut();
        let Some((flush, part)) = flush.and_then(|flush| {
            let part = flush.batch.as_ref()?.next()?;
            Some((&mut flush.payload, part))
        }) else {
            return Err(Failure::network("no batch"));
        };
        let payload = flush.get_or_insert_with(|| Payload::of_batch(&self.client.config, part));
        let (body, described) = payload.parts();
        self.report.attempt(body.len());
        headers.extend(described);
        let url = self.url.clone();
        Ok(Box::pin(async move {
            http.send(Method::POST, &url, headers, Some(body)).await
        }))
    }

    pub(super) fn attempted(&mut self, result: Result<Answer, Failure>) {
        let flush = self.flush.as_ref();
        let Some(numbers) = flush.and_then(|flush| Some(flush.batch.as_ref()?.numbers())) else {
            return;
        };
        let result = result.map_err(|failure| failure.hiding(&self.client.config.api_key));
        self.report.attempted(&result);
        match &result {
            Ok(answer) if answer.quota_limited => {
                self.client.status().failed(&Error::quota_limited());
            }
            Ok(_) => self.client.status().succeeded(),
            Err(failure) => self.client.status().failed(&failure.error),
        }
        let failing = self.is_failing(numbers);
        let result = result.map_err(|failure| failure.of_batch(failing));
        let Some(parts) = self.flush.as_mut().and_then(|flush| flush.batch.as_mut()) else {
            return;
        };
        match result {
            Ok(answer) if answer.quota_limited => self.quota_used_up(),
            Ok(_) => {
                let part = parts.accepted();
                self.accepted(part);
            }
            Err(failure) if failure.kind == Kind::TooLarge => {
                let event = parts.too_large();
                self.refused(event, Reason::TooLarge, failure);
            }
            Err(failure) if failure.kind == Kind::Refused => {
                let alone = match self.client.config.endpoint {
                    Endpoint::PersonUpdates => parts.too_large(),
                    Endpoint::Events => {
                        parts.refused();
                        None
                    }
                };
                self.refused(alone, Reason::Rejected, failure);
            }
            Err(failure) => {
                // The kept connection may end at a server that the host's name no longer stands for.
                if failure.error.status != 0 {
                    self.http = None;
                }
                self.attempt_failed(failure);
            }
        }
    }

    fn accepted(&mut self, part: Option<Accepted>) {
        let Some(flush) = &mut self.flush else { return };
        match part {
            Some(Accepted::Part(events)) => {
                flush.delivered += events.len() as u64;
                self.report.accepted(&events);
                self.client.state().delivered(&events);
                events.recycle();
            }
            Some(Accepted::Other(event)) if self.client.state().delivered_queued(&event) => {
                flush.delivered += 1;
                self.report.accepted(&event);
            }
            _ => {}
        }
        self.failures = 0;
        self.quota_is_back();
        self.go_on();
    }

    /// A part of the batch was refused; `alone` is an event that is given up for it.
    fn refused(&mut self, alone: Option<Batch>, reason: Reason, failure: Failure) {
        if let Some(event) = alone {
            self.reject(&event, reason, &failure.error);
        }
        if let Some(flush) = &mut self.flush {
            flush.refusal = Some(failure);
        }
        self.go_on();
    }

    /// An event is dropped for an answer.
    fn reject(&mut self, event: &Batch, reason: Reason, error: &Arc<Error>) {
        self.waiters.gave_up(event, error);
        self.report.gave_up(error);
        if reason == Reason::Rejected
            && std::mem::replace(&mut self.refused_with, error.status) != error.status
        {
            let notice = Notice::RefusedWith(error.status);
            self.client.news().notice(notice);
        }
        self.client.state().give_up_in_flight(event, reason);
    }

    /// From an answer to the next part of the batch, or to the next batch.
    fn go_on(&mut self) {
        let attempts = self.attempts();
        let Some(flush) = &mut self.flush else { return };
        let Some(parts) = &mut flush.batch else {
            return;
        };
        let (standing, rejected) = parts.settle();
        let other = match standing {
            Standing::Elsewhere => self.client.state().copy_of_any(),
            _ => None,
        };
        // A client that drains has its time as a bound.
        let spent = parts.is_spent() && self.drain_until.is_none();
        let keep = match (standing, other) {
            (Standing::Done, _) => spent && self.client.state().floor() < flush.target,
            (Standing::Next, _) => spent,
            (Standing::Elsewhere, Some(other)) if !spent => {
                parts.try_other(other);
                false
            }
            _ => true,
        };
        flush.seen = parts.seen();
        let refusal = flush.refusal.clone();
        if let Some(refusal) = &refusal {
            for event in rejected {
                self.reject(&event, Reason::Rejected, &refusal.error);
            }
        }
        if let Some(refusal) = refusal.filter(|_| keep) {
            return self.attempt_failed(Failure {
                retry_after: None,
                ..refusal
            });
        }
        let Some(flush) = &mut self.flush else { return };
        flush.payload = None;
        flush.failed = 0;
        if standing == Standing::Done {
            flush.batch = None;
        }
        if flush.attempts_left > 0 {
            flush.attempts_left = flush.attempts_left.max(attempts);
        }
        self.waiters.answered(attempts);
    }

    /// The batch isn't stored, and nothing will be for a while.
    fn quota_used_up(&mut self) {
        let Some(flush) = self.flush.take() else {
            return;
        };
        let mut state = self.client.state();
        let before = state.dropped(Reason::Quota);
        for part in flush.batch.into_iter().flat_map(Parts::into_rest) {
            state.give_up_in_flight(&part, Reason::Quota);
        }
        state.suspend();
        drop(state);
        let suspension = self.client.config.suspension;
        self.suspended_until = Some(Instant::now() + suspension);
        self.paused_until = None;
        self.failures = 0;
        let replies = self.waiters.end_limited();
        self.conclude(flush.delivered, false);
        if self.limited_from.is_none() {
            self.limited_from = Some(before);
            let mut news = self.client.news();
            news.notice(Notice::Suspended(suspension));
        }
        self.reply(replies);
    }

    fn quota_is_back(&mut self) {
        if let Some(before) = self.limited_from.take() {
            let given_up = self.client.state().dropped(Reason::Quota) - before;
            self.client.news().notice(Notice::Resumed(given_up));
        }
    }

    pub(super) fn attempt_failed(&mut self, failure: Failure) {
        let hold = failure.retry_after.and_then(policy::hold);
        let retryable = failure.is_retryable();
        if let Some(until) = self.drain_until {
            let left = until.saturating_duration_since(Instant::now());
            let too_late = failure.retry_after.is_some_and(|delay| delay >= left);
            let nobody = match failure.kind {
                Kind::Unreachable(Unreachable::NoSuchHost) => true,
                Kind::Unreachable(Unreachable::Refused) => {
                    self.client.state().stats().delivered == 0
                }
                _ => false,
            };
            if !retryable || nobody || too_late {
                return self.end();
            }
        }
        let retryable = retryable && (hold.is_none() || self.drain_until.is_some());
        let Some(flush) = &mut self.flush else { return };
        let waiters = self.waiters.failed(retryable);
        flush.attempts_left = flush.attempts_left.saturating_sub(1);
        let wanted = flush.attempts_left > 0 || waiters.more;
        let more = waiters.at_once || (retryable && wanted);
        if waiters.spent || !more || !retryable {
            self.flush_failed(failure.error, more, hold);
        }
        if more && !waiters.at_once {
            self.wait_to_retry(failure.retry_after);
        } else if more {
            self.client.state().count_retry();
        }
    }

    fn wait_to_retry(&mut self, asked: Option<Duration>) {
        let external = self.client.config.external_sleep && self.drain_until.is_none();
        let Some(flush) = &mut self.flush else { return };
        flush.failed += 1;
        let own = policy::retry_delay(flush.failed);
        let delay = match asked {
            // Only time bounds a drain's attempts: one that is asked not to wait would do nothing else.
            Some(asked) if self.drain_until.is_some() => asked.max(own),
            asked => asked.unwrap_or(own),
        };
        flush.wait = Some(if external {
            self.sleeps += 1;
            self.client.news().sleep(self.sleeps, delay);
            Wait::External(self.sleeps)
        } else if asked.is_some() {
            // Never sooner than the ingest asks.
            Wait::Until(Instant::now() + delay)
        } else {
            Wait::Until(Instant::now() + policy::jitter(delay))
        });
        self.client.state().count_retry();
    }

    /// Ends the flush for those who have had their attempts; with `more`, callers that came later go on.
    pub(super) fn flush_failed(&mut self, error: Arc<Error>, more: bool, hold: Option<Duration>) {
        let Some(mut flush) = self.flush.take() else {
            return;
        };
        if let Some(parts) = flush.batch.as_ref().filter(|parts| parts.len() > 0) {
            self.batch_failed(parts, error.status);
        }
        let count = self.put_back(flush.batch.take());
        self.conclude(flush.delivered, true);
        let replies = self.waiters.end(&error);
        let mut news = self.client.news();
        news.notice(Notice::FlushFailed(count, error));
        drop(news);
        self.reply(replies);
        if more {
            self.begin_flush(flush.attempts_left, self.called());
            self.take_batch();
            if let Some(begun) = &mut self.flush {
                begun.failed = flush.failed;
            }
        } else {
            self.failures += 1;
            let pause = policy::jitter(policy::pause(self.failures));
            self.paused_until = Some(Instant::now() + pause.max(hold.unwrap_or_default()));
            self.settle();
        }
    }

    /// Everything up to the flush's target is delivered, or given up by a bound.
    pub(super) fn end_flush(&mut self) {
        let Some(flush) = self.flush.take() else {
            return;
        };
        self.none_is_failing();
        self.conclude(flush.delivered, false);
        let floor = self.client.state().floor();
        let replies = self.waiters.through(floor);
        self.reply(replies);
    }

    /// What every end of a flush has to do and to tell, before its own.
    pub(super) fn conclude(&mut self, delivered: u64, failed: bool) {
        self.client.state().end_flush(failed);
        self.report.ended(failed, &*self.listener);
        self.tell_drops();
        if delivered > 0 {
            self.client.news().notice(Notice::Flushed(delivered));
        }
    }

    /// What is left of a batch goes back to the front; answers how many events that are.
    pub(super) fn put_back(&self, batch: Option<Parts>) -> u64 {
        let count = batch.as_ref().map_or(0, Parts::len) as u64;
        let mut state = self.client.state();
        for part in batch.into_iter().flat_map(Parts::into_rest) {
            state.put_back(part);
        }
        count
    }
}
