//! What the flush thread has to do with the spool: hear it, wait for it, let go of it.

use super::Worker;
use crate::error::Error;
use crate::news::{Notice, Reply};
use crate::spool::{Excess, Fetched, Spool, PATIENCE};
use crate::state::Reason;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the last sync of a client that ends may take; it goes on after that, unheard.
const LAST_SYNC: Duration = Duration::from_secs(1);
/// How long the attempt in flight may take once another client waits for the directory, which does so for
/// [`PATIENCE`]: the last sync has the rest of it.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

impl Worker {
    /// Before anything else. The owner's captures come in all the while; its commands wait.
    pub(super) fn open_spool(&self) {
        if self.client.config.spool.is_none() {
            return;
        }
        let open = AssertUnwindSafe(|| self.client.open_spool());
        if catch_unwind(open).is_err() {
            self.client.news().notice(Notice::Panicked);
            self.client.state().open_without();
        }
        self.listener.opened();
    }

    fn spool(&self) -> Option<Arc<Spool>> {
        self.client.spool.get().cloned()
    }

    pub(super) fn look_at_spool(&mut self, now: Instant) {
        let Some(spool) = self.spool() else { return };
        let tidings = spool.tidings();
        for problem in tidings.problems {
            self.client.news().notice(Notice::Spool(problem));
        }
        if tidings.wanted {
            self.wanted_until = Some(now + PATIENCE);
        }
        self.wanted_until.take_if(|until| *until <= now);
        if let Some(fetched) = tidings.fetched {
            self.fetched(fetched);
        }
        let mut state = self.client.state();
        match spool.excess() {
            Some(Excess::Full(below)) => state.give_up_below(below, Reason::SpoolFull),
            Some(Excess::Expired(below)) => state.give_up_below(below, Reason::Expired),
            None => {}
        }
        state.enforce_bounds();
        drop(state);
        self.synced(&spool);
    }

    /// Until when a client that drains may use the directory, where another one wants it.
    pub(super) fn handover(&self) -> Option<Instant> {
        self.drain_until
            .and(self.wanted_until)
            .map(|until| until - (PATIENCE - LAST_ATTEMPT))
    }

    /// What the flush under way has asked for; without one it stays where it is.
    fn fetched(&mut self, fetched: Fetched) {
        let Some(flush) = self.flush.as_mut().filter(|flush| flush.fetching) else {
            return;
        };
        flush.fetching = false;
        let mut state = self.client.state();
        match fetched {
            Fetched::Events(page) => {
                if let Some(batch) = state.take_fetched(page) {
                    flush.send(batch);
                }
            }
            Fetched::Lost(numbers) => state.lost(numbers),
            Fetched::Nothing => state.nothing_fetched(),
        }
    }

    /// Passes answers on; where they are to wait for the disk, once it has what there was.
    pub(super) fn reply(&mut self, replies: Vec<Reply>) {
        match self.spool().filter(|_| self.client.config.spool_sync) {
            Some(spool) if !replies.is_empty() => {
                self.unsynced.push_back((spool.sync(), replies));
                self.synced(&spool);
            }
            _ => self.client.news().reply(replies),
        }
    }

    fn synced(&mut self, spool: &Spool) {
        let Some((wanted, _)) = self.unsynced.front() else {
            return;
        };
        let done = spool.synced();
        if *wanted <= done {
            let later = self.unsynced.partition_point(|(sync, _)| *sync <= done);
            let replies = self
                .unsynced
                .drain(..later)
                .flat_map(|(_, replies)| replies);
            self.client.news().reply(replies.collect());
        }
    }

    /// All that is queued, and what is in flight, is given up. The answer comes once the disk has none of it.
    pub(super) fn purge(&mut self, id: u64) {
        if let Some(flush) = self.flush.take() {
            let mut state = self.client.state();
            for part in flush.batch.into_iter().flat_map(|parts| parts.into_rest()) {
                state.give_up_in_flight(&part, Reason::Purged);
            }
            drop(state);
            self.abandoned = true;
            self.report.gave_up(&Error::purged());
            self.conclude(flush.delivered, false);
        }
        self.client.state().give_up_queued(Reason::Purged);
        let reply = vec![Reply::Purged(id)];
        match self.spool() {
            Some(spool) => {
                self.unsynced.push_back((spool.sync(), reply));
                self.synced(&spool);
            }
            None => self.client.news().reply(reply),
        }
    }

    /// What its thread has still to tell, nobody would hear; what isn't on disk is counted.
    pub(super) fn close_spool(&self) {
        if let Some(spool) = self.spool() {
            spool.close(LAST_SYNC);
        }
    }
}
