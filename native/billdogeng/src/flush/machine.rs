//! The flush machine: what the flush thread does next, as a pure function of its phase, an event and the time. It has no
//! clock, lock, socket or random number of its own.

mod queries;

use crate::error::Error;
use crate::flush::phase::{Action, Drain, Event, Facts, Failed, Flush, Phase, Rules, Stage, Wait};
use crate::flush::timer::Timer;
use crate::flush::waiters::Waiters;
use crate::http::policy;
use crate::protocol::Reply;
use crate::protocol::Trigger;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The phase, and what outlives a change of it.
#[derive(Clone, Debug)]
pub struct Machine {
    rules: Rules,
    phase: Phase,
    since: Instant,
    waiters: Waiters,
    timer: Timer,
    /// Failed flushes in a row.
    failures: u32,
    /// Waits that the listener was asked for.
    sleeps: u64,
}

impl Machine {
    pub fn new(rules: Rules, now: Instant) -> Self {
        Self {
            timer: Timer::new(now, rules.flush_interval),
            rules,
            phase: Phase::Idle,
            since: now,
            waiters: Waiters::default(),
            failures: 0,
            sleeps: 0,
        }
    }

    /// Takes an event and returns what is to be done for it, in this order.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let before = self.phase.name();
        let actions = self.transition(event, now);
        if self.phase.name() != before {
            self.since = now;
        }
        actions
    }

    fn transition(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Flush {
                id,
                target,
                carried,
                shutdown,
            } => return self.call(id, target, carried, shutdown),
            Event::Settle { id, target } => self.waiters.settle(id, target),
            Event::Slept(id) => self.slept(id),
            Event::Tick => return self.ticked(),
            Event::Purge => return self.purged(),
            Event::Drain => self.drain(now),
            Event::Look(facts) => return self.look(facts, now),
            Event::Begun(target) => self.update(|flush| flush.target = target),
            Event::Batch => self.update(|flush| flush.stage = Stage::Send),
            Event::Reading => self.update(|flush| flush.stage = Stage::Read),
            Event::NotRead => self.update(|flush| flush.stage = Stage::Take),
            Event::Nothing(floor) => return self.delivered(floor),
            Event::Accepted => self.failures = 0,
            Event::Next { done } => self.next(done),
            Event::Failed(failed) => return self.failed(failed, now),
            Event::QuotaLimited => return self.suspend(now),
            Event::Panicked(error) => return self.panicked(error, now),
            Event::Closed => self.enter(Phase::Ended),
        }
        Vec::new()
    }

    fn enter(&mut self, next: Phase) {
        self.phase = self.phase.then(next);
    }

    fn update(&mut self, change: impl FnOnce(&mut Flush)) {
        if let Some(flush) = self.phase.flush_mut() {
            change(flush);
        }
    }

    fn call(&mut self, id: u64, target: u64, carried: bool, shutdown: bool) -> Vec<Action> {
        if shutdown {
            self.timer.stop();
        }
        let sends = match self.phase.flush() {
            Some((flush, None)) => matches!(flush.stage, Stage::Send | Stage::Receive),
            _ => false,
        };
        let attempts = self.rules.attempts;
        let fresh = sends && !carried;
        self.waiters.flush(id, target, attempts, fresh, shutdown);
        if matches!(self.phase, Phase::Suspended(_)) {
            return vec![Action::Reply(self.waiters.end_limited())];
        }
        if matches!(self.phase, Phase::BackingOff(_)) {
            self.enter(Phase::Idle);
        }
        if let Some((flush, _)) = self.phase.flush() {
            self.enter(Phase::InFlight(Flush { failed: 0, ..flush }));
        }
        Vec::new()
    }

    fn slept(&mut self, id: u64) {
        match self.phase.flush() {
            Some((flush, Some(Wait::Listener(of)))) if of == id => {
                self.enter(Phase::InFlight(flush));
            }
            _ => {}
        }
    }

    fn ticked(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Idle | Phase::BackingOff(_) => {
                self.begin(self.rules.attempts, Trigger::Interval)
            }
            _ => Vec::new(),
        }
    }

    fn purged(&mut self) -> Vec<Action> {
        if self.phase.flush().is_none() {
            return Vec::new();
        }
        self.enter(Phase::Idle);
        vec![Action::PurgeFlush]
    }

    fn drain(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Draining(..) | Phase::Ended) {
            return;
        }
        self.waiters.forget();
        let drain = self.phase.flush().map_or(Drain::Idle, |(flush, _)| {
            Drain::InFlight(Flush {
                failed: 0,
                attempts_left: u32::MAX,
                ..flush
            })
        });
        self.enter(Phase::Draining(now + self.rules.shutdown_timeout, drain));
    }

    fn begin(&mut self, attempts_left: u32, trigger: Trigger) -> Vec<Action> {
        self.enter(Phase::InFlight(Flush {
            target: 0,
            attempts_left,
            failed: 0,
            stage: Stage::Take,
        }));
        vec![Action::Begin(trigger)]
    }

    /// Returns the trigger of a flush that calls wait for.
    fn called(&self) -> Trigger {
        match self.waiters.want_shutdown() {
            true => Trigger::Shutdown,
            false => Trigger::Call,
        }
    }

    fn look(&mut self, facts: Facts, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Idle => self.begin_what_is_due(facts, now),
            Phase::BackingOff(until) if !facts.held && until <= now => {
                self.enter(Phase::Idle);
                if facts.due || (!facts.empty && !self.timer.is_stopped()) {
                    return self.begin(self.rules.attempts, Trigger::Retry);
                }
                self.begin_what_is_due(facts, now)
            }
            Phase::Suspended(until) if until <= now => {
                self.enter(Phase::Idle);
                vec![Action::Resume]
            }
            Phase::BackingOff(_) | Phase::Suspended(_) | Phase::Ended => Vec::new(),
            Phase::InFlight(_) | Phase::Waiting(..) => self.advance(now),
            Phase::Draining(until, drain) => self.look_draining(until, drain, facts, now),
        }
    }

    fn begin_what_is_due(&mut self, facts: Facts, now: Instant) -> Vec<Action> {
        if facts.held {
            return Vec::new();
        }
        if self.waiters.want_flush() {
            return self.begin(0, self.called());
        }
        let fired = self.timer.advance(now, facts.empty);
        if facts.due {
            self.begin(self.rules.attempts, Trigger::Size)
        } else if fired && !facts.empty {
            self.begin(self.rules.attempts, Trigger::Interval)
        } else {
            Vec::new()
        }
    }

    fn look_draining(
        &mut self,
        until: Instant,
        drain: Drain,
        facts: Facts,
        now: Instant,
    ) -> Vec<Action> {
        let receives = matches!(drain, Drain::InFlight(flush) if flush.stage == Stage::Receive);
        let hands_over = |until| !receives || until <= now;
        if until <= now || facts.handover.is_some_and(hands_over) {
            self.enter(Phase::Ended);
            return vec![Action::End];
        }
        match drain {
            Drain::Idle if !facts.held && (!facts.empty || self.waiters.want_flush()) => {
                self.begin(u32::MAX, Trigger::Shutdown)
            }
            Drain::Idle if facts.empty => vec![Action::Settle, Action::Close],
            Drain::Idle => Vec::new(),
            Drain::InFlight(_) | Drain::Waiting(..) => self.advance(now),
        }
    }

    /// Makes the next step of a flush.
    fn advance(&mut self, now: Instant) -> Vec<Action> {
        let flush = match self.phase.flush() {
            Some((flush, None)) => flush,
            Some((flush, Some(Wait::Until(until)))) if until <= now => flush,
            _ => return Vec::new(),
        };
        let (flush, action) = match flush.stage {
            Stage::Take => {
                let target = flush.target.max(self.waiters.target());
                (Flush { target, ..flush }, Some(Action::Take))
            }
            Stage::Send => {
                let stage = Stage::Receive;
                (Flush { stage, ..flush }, Some(Action::Send))
            }
            Stage::Read | Stage::Receive => (flush, None),
        };
        self.enter(Phase::InFlight(flush));
        action.into_iter().collect()
    }

    /// Ends a flush that has nothing left; one that waits ends after its wait.
    fn delivered(&mut self, floor: u64) -> Vec<Action> {
        let Some((_, None)) = self.phase.flush() else {
            return Vec::new();
        };
        self.enter(Phase::Idle);
        vec![Action::EndFlush, Action::Reply(self.waiters.through(floor))]
    }

    fn next(&mut self, done: bool) {
        let attempts = self.rules.attempts;
        self.waiters.answered(attempts);
        self.update(|flush| {
            flush.failed = 0;
            if flush.attempts_left > 0 {
                flush.attempts_left = flush.attempts_left.max(attempts);
            }
            flush.stage = match done {
                true => Stage::Take,
                false => Stage::Send,
            };
        });
    }

    fn failed(&mut self, failed: Failed, now: Instant) -> Vec<Action> {
        let Some((mut flush, _)) = self.phase.flush() else {
            return Vec::new();
        };
        let drains_until = self.phase.drains_until();
        if let Some(until) = drains_until {
            let left = until.saturating_duration_since(now);
            let too_late = failed.retry_after.is_some_and(|delay| delay >= left);
            if !failed.retryable || failed.nobody || too_late {
                self.enter(Phase::Ended);
                return vec![Action::End];
            }
        }
        let hold = failed.retry_after.and_then(policy::hold);
        let retryable = failed.retryable && (hold.is_none() || drains_until.is_some());
        let calls = self.waiters.failed(retryable);
        flush.attempts_left = flush.attempts_left.saturating_sub(1);
        let more = calls.at_once || (retryable && (flush.attempts_left > 0 || calls.more));
        let mut actions = Vec::new();
        if calls.spent || !more || !retryable {
            let replies = self.waiters.end(&failed.error);
            actions.extend([Action::FailFlush(failed.error), Action::Reply(replies)]);
            if !more {
                self.back_off(hold.unwrap_or_default(), now);
                actions.push(Action::Settle);
                return actions;
            }
            // Calls that came later go on. Their batch is taken now: in the queue the bound by count could drop it.
            actions.extend([Action::Begin(self.called()), Action::Take]);
            flush.stage = Stage::Take;
        } else {
            flush.stage = match flush.stage {
                Stage::Send | Stage::Receive => Stage::Send,
                Stage::Take | Stage::Read => Stage::Take,
            };
        }
        if calls.at_once {
            self.enter(Phase::InFlight(flush));
        } else {
            actions.extend(self.wait(flush, failed.retry_after, now));
        }
        actions.push(Action::CountRetry);
        actions
    }

    fn wait(&mut self, mut flush: Flush, asked: Option<Duration>, now: Instant) -> Option<Action> {
        flush.failed += 1;
        let drains = self.phase.drains_until().is_some();
        let own = policy::retry_delay(flush.failed);
        let delay = match asked {
            // Only time bounds the attempts of a draining client: asked for no delay, it would make attempts all the time.
            Some(asked) if drains => asked.max(own),
            asked => asked.unwrap_or(own),
        };
        if self.rules.external_sleep && !drains {
            self.sleeps += 1;
            self.enter(Phase::Waiting(flush, Wait::Listener(self.sleeps)));
            return Some(Action::Sleep(self.sleeps, delay));
        }
        let delay = match asked {
            // Never sooner than the ingest asks.
            Some(_) => delay,
            None => (self.rules.jitter)(delay),
        };
        self.enter(Phase::Waiting(flush, Wait::Until(now + delay)));
        None
    }

    fn back_off(&mut self, at_least: Duration, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let delay = (self.rules.jitter)(policy::pause(self.failures)).max(at_least);
        self.enter(Phase::BackingOff(now + delay));
    }

    fn suspend(&mut self, now: Instant) -> Vec<Action> {
        if self.phase.flush().is_none() {
            return Vec::new();
        }
        self.failures = 0;
        self.enter(Phase::Suspended(now + self.rules.suspension));
        vec![Action::Suspend, Action::Reply(self.waiters.end_limited())]
    }

    fn panicked(&mut self, error: Arc<Error>, now: Instant) -> Vec<Action> {
        let reply = Action::Reply(self.waiters.end_all(&error));
        if self.phase.flush().is_none() {
            return vec![reply];
        }
        self.back_off(Duration::ZERO, now);
        vec![Action::FailFlush(error), Action::Settle, reply]
    }

    /// Ends the calls whose events are through their flush, or for which none is due.
    pub fn settled(&mut self, floor: u64, due: bool, queued: u64) -> Vec<Reply> {
        let idle = match self.phase {
            Phase::Idle | Phase::Draining(_, Drain::Idle) => !due,
            Phase::BackingOff(_) | Phase::Suspended(_) | Phase::Ended => true,
            _ => false,
        };
        self.waiters.settled(floor, idle, queued)
    }

    /// Returns whether any call waits for [`Machine::settled`].
    pub fn want_settling(&self) -> bool {
        self.waiters.want_settling()
    }

    /// Notes that an event was dropped for an answer.
    pub fn dropped(&mut self, number: u64, error: &Arc<Error>) {
        self.waiters.dropped(number, error);
    }
}

#[cfg(test)]
mod cells;
