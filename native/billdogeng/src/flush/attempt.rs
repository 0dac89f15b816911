//! An attempt and its result: a part of the batch was accepted, refused, or not answered. From there to the next part,
//! the next wait, or the end of the flush.

use crate::config::Endpoint;
use crate::error::Error;
use crate::flush::phase::{self, Event};
use crate::flush::requests::Attempt;
use crate::flush::split::{Accepted, Standing};
use crate::flush::worker::Worker;
use crate::http::payload::Payload;
use crate::http::response::{Answer, Failure, Kind, Unreachable};
use crate::protocol::Notice;
use crate::queue::accounts::Reason;
use crate::queue::batch::Batch;
use std::sync::Arc;
use tokio::time::Instant;

impl Worker {
    /// Sends the next part of the batch.
    pub(super) fn send(&mut self, now: Instant) {
        match self.start_attempt() {
            Ok(attempt) => self.attempt = Some(attempt),
            Err(failure) => self.attempted(Err(failure), now),
        }
    }

    fn start_attempt(&mut self) -> Result<Attempt, Failure> {
        self.report.begun(&*self.listener);
        let part = self.delivery.batch.as_ref().and_then(|parts| parts.next());
        let Some(part) = part else {
            return Err(Failure::network("no batch"));
        };
        let config = &self.client.config;
        let payload = &mut self.delivery.payload;
        let payload = payload.get_or_insert_with(|| Payload::of_batch(config, part));
        let (attempt, bytes) = self.requests.start(config, payload)?;
        self.report.attempt(bytes);
        Ok(attempt)
    }

    /// Takes the result of an attempt.
    pub(super) fn attempted(&mut self, result: Result<Answer, Failure>, now: Instant) {
        let Some(numbers) = self.delivery.batch.as_ref().map(|parts| parts.numbers()) else {
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
        let Some(parts) = &mut self.delivery.batch else {
            return;
        };
        match result {
            Ok(answer) if answer.quota_limited => self.handle(Event::QuotaLimited, now),
            Ok(_) => {
                let part = parts.accepted();
                self.accepted(part, now);
            }
            Err(failure) if failure.kind == Kind::TooLarge => {
                let event = parts.too_large();
                self.refused(event, Reason::TooLarge, failure, now);
            }
            Err(failure) if failure.kind == Kind::Refused => {
                let alone = match self.client.config.endpoint {
                    Endpoint::PersonUpdates => parts.too_large(),
                    Endpoint::Events => {
                        parts.refused();
                        None
                    }
                };
                self.refused(alone, Reason::Rejected, failure, now);
            }
            Err(failure) => {
                // The kept connection may end at a server that the host's name no longer stands for.
                if failure.error.status != 0 {
                    self.requests.forget();
                }
                self.failed(failure, now);
            }
        }
    }

    fn accepted(&mut self, part: Option<Accepted>, now: Instant) {
        match part {
            Some(Accepted::Part(events)) => {
                self.delivery.delivered += events.len() as u64;
                self.report.accepted(&events);
                self.client.state().delivered(&events);
                events.recycle();
            }
            Some(Accepted::Other(event)) if self.client.state().delivered_queued(&event) => {
                self.delivery.delivered += 1;
                self.report.accepted(&event);
            }
            _ => {}
        }
        self.handle(Event::Accepted, now);
        if let Some(before) = self.limited_from.take() {
            let dropped = self.client.state().dropped(Reason::Quota) - before;
            self.client.pending().notice(Notice::Resumed(dropped));
        }
        self.go_on(now);
    }

    /// Takes the refusal of a part; `alone` is an event that is dropped for it.
    fn refused(&mut self, alone: Option<Batch>, reason: Reason, failure: Failure, now: Instant) {
        if let Some(event) = alone {
            self.reject(&event, reason, &failure.error);
        }
        self.delivery.refusal = Some(failure);
        self.go_on(now);
    }

    /// Drops an event for an answer.
    fn reject(&mut self, event: &Batch, reason: Reason, error: &Arc<Error>) {
        self.machine.dropped(event.numbers().start, error);
        self.report.gave_up(error);
        if reason == Reason::Rejected
            && std::mem::replace(&mut self.refused_with, error.status) != error.status
        {
            let notice = Notice::RefusedWith(error.status);
            self.client.pending().notice(notice);
        }
        self.client.state().drop_in_flight(event, reason);
    }

    /// Goes on from an answer to the next part of the batch, or to the next batch.
    fn go_on(&mut self, now: Instant) {
        let Some(parts) = &mut self.delivery.batch else {
            return;
        };
        let (standing, rejected) = parts.settle();
        let other = match standing {
            Standing::Elsewhere => self.client.state().copy_of_any(),
            _ => None,
        };
        // A draining client has its time as a bound.
        let phase = self.machine.phase();
        let spent = parts.is_spent() && phase.drains_until().is_none();
        let target = phase.target().unwrap_or(u64::MAX);
        let keep = match (standing, other) {
            (Standing::Done, _) => spent && self.client.state().floor() < target,
            (Standing::Next, _) => spent,
            (Standing::Elsewhere, Some(other)) if !spent => {
                parts.try_other(other);
                false
            }
            _ => true,
        };
        self.delivery.seen = parts.seen();
        let refusal = self.delivery.refusal.clone();
        if let Some(refusal) = &refusal {
            for event in rejected {
                self.reject(&event, Reason::Rejected, &refusal.error);
            }
        }
        if let Some(refusal) = refusal.filter(|_| keep) {
            let retry_after = None;
            return self.failed(
                Failure {
                    retry_after,
                    ..refusal
                },
                now,
            );
        }
        let done = standing == Standing::Done;
        self.delivery.payload = None;
        if done {
            self.delivery.batch = None;
        }
        self.handle(Event::Next { done }, now);
    }

    /// Takes the failure of an attempt, or of reading a batch.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant) {
        let nobody = match failure.kind {
            Kind::Unreachable(Unreachable::NoSuchHost) => true,
            Kind::Unreachable(Unreachable::Refused) => self.client.state().stats().delivered == 0,
            _ => false,
        };
        let failed = phase::Failed {
            retryable: failure.is_retryable(),
            retry_after: failure.retry_after,
            error: failure.error,
            nobody,
        };
        self.handle(Event::Failed(failed), now);
    }
}
