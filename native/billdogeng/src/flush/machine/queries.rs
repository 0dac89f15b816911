//! The questions that the worker and `stats/1` ask the machine.

use super::Machine;
use crate::flush::phase::Phase;
use crate::report::status::{Activity, Caller};
use tokio::time::Instant;

impl Machine {
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Returns whether the timer has to be moved on.
    pub fn is_timer_due(&self, now: Instant) -> bool {
        self.timer.is_due(now)
    }

    /// Returns when to look again if nothing else happens; `held` is true while flushes wait for the spool to open.
    pub fn deadline(&self, held: bool) -> Option<Instant> {
        let waits = held && matches!(self.phase, Phase::Idle | Phase::BackingOff(_));
        let next = self.phase.next_attempt(&self.timer).filter(|_| !waits);
        [next, self.phase.drains_until()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the phase for `stats/1` and `debug/1`; `due` returns whether the queue has reached `flush_at`.
    pub fn activity(&self, due: impl FnOnce() -> bool, held: bool) -> Activity {
        let automatic = !matches!(self.phase, Phase::BackingOff(_)) || !self.timer.is_stopped();
        let next = self.phase.next_attempt(&self.timer);
        Activity {
            phase: self.phase.name(),
            since: Some(self.since),
            next_attempt: next.filter(|_| automatic || due()),
            waits_for: self.phase.waits_for(&self.timer, held),
        }
    }

    /// Returns the calls that wait, for `debug/1`.
    pub fn callers(&self) -> impl Iterator<Item = Caller> + '_ {
        self.waiters.callers()
    }
}
