//! What the flush thread has to do with the spool: hear it, wait for it, let go of it.

use super::opening::Opening;
use super::Worker;
use crate::error::Error;
use crate::http::response::{Failure, Kind};
use crate::queue::state::Reason;
use crate::report::updates::{Notice, Reply};
use crate::spool::{Excess, Fetched, OpenError, Spool, PATIENCE};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the last sync of a client that ends may take; it goes on after that, unheard.
const LAST_SYNC: Duration = Duration::from_secs(1);
/// How long the attempt in flight may take once another client waits for the directory, which does so for
/// [`PATIENCE`]: the last sync has the rest of it.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

impl Worker {
    /// Looks how far the spool is with opening. Answers whether flushes wait for it.
    pub(super) fn look_at_opening(&mut self, now: Instant) -> bool {
        let Some(opening) = &mut self.opening else {
            return false;
        };
        let first = opening.failure.is_none();
        let failed = opening.failed();
        if opening.is_late(now) || failed.is_some() {
            self.opened();
        }
        if let Some(error) = failed {
            self.not_opened(error, first);
        }
        // Not between a batch and its landing: it would be in no account of the spool's.
        if self
            .flush
            .as_ref()
            .is_none_or(|flush| flush.batch.is_none())
        {
            self.adopt_spool();
        }
        self.opening
            .as_mut()
            .is_some_and(|opening| opening.holds(now))
    }

    /// Whether flushes wait for the spool.
    pub(super) fn is_held(&self) -> bool {
        self.opening.as_ref().is_some_and(Opening::is_holding)
    }

    /// The start need not wait any longer.
    fn opened(&self) {
        if !self.client.is_open() {
            self.client.opened();
            self.listener.opened();
        }
    }

    fn not_opened(&mut self, error: OpenError, first: bool) {
        let message = error.to_string();
        if first {
            self.client.news().notice(Notice::NoSpool(error));
            self.client.state().open_without();
        }
        if let Some(opening) = &mut self.opening {
            let purges = std::mem::take(&mut opening.purges);
            let replies = purges.into_iter().map(|id| not_purged(id, &message));
            self.client.news().reply(replies.collect());
        }
    }

    /// Takes the spool if it is open. No batch may be under way.
    pub(super) fn adopt_spool(&mut self) {
        let Some(opened) = self.opening.as_ref().and_then(Opening::opened) else {
            return;
        };
        let Some(mut opening) = self.opening.take() else {
            return;
        };
        let purge = opening.purged || !opening.purges.is_empty();
        let events = if purge { 0 } else { opened.recovered.events };
        let spool = self.client.adopt(opened.spool, &opened.recovered, purge);
        let mut news = self.client.news();
        if opening.failure.is_some() {
            news.notice(Notice::SpoolOpened(events));
        }
        if opened.of_another && !purge {
            news.notice(Notice::SpoolOfAnother(events));
        }
        drop(news);
        let purges = std::mem::take(&mut opening.purges);
        if !purges.is_empty() {
            let replies = purges.into_iter().map(|id| Reply::Purged(id, Ok(())));
            self.unsynced.push_back((spool.sync(), replies.collect()));
        }
        self.opened();
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
            Fetched::Failed(reason) => {
                drop(state);
                self.report.begun(&*self.listener);
                let failure = Failure {
                    error: Error::spool(reason).into(),
                    kind: Kind::Retryable,
                    retry_after: None,
                };
                let failed = Err(failure.clone());
                self.report.attempted(&failed);
                self.client.status().failed(&failure.error);
                self.attempt_failed(failure);
            }
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
                .flat_map(|(_, replies)| replies)
                .map(|reply| match (reply, spool.undeleted()) {
                    (Reply::Purged(id, Ok(())), Some(left)) => {
                        Reply::Purged(id, Err(Error::spool(left.to_string())))
                    }
                    (reply, _) => reply,
                });
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
        let spool = self.spool();
        let mut state = self.client.state();
        state.give_up_queued(Reason::Purged);
        // Under the lock: the file of an event that came in between would be deleted too.
        let purged = spool.as_ref().map(|spool| spool.purge());
        drop(state);
        match (spool.zip(purged), &mut self.opening) {
            (Some((spool, purged)), _) => {
                let reply = vec![Reply::Purged(id, Ok(()))];
                self.unsynced.push_back((purged, reply));
                self.synced(&spool);
            }
            (None, Some(opening)) => {
                opening.purged = true;
                match &opening.failure {
                    None => opening.purges.push(id),
                    Some(reason) => {
                        let reply = not_purged(id, reason);
                        self.client.news().reply(vec![reply]);
                    }
                }
            }
            (None, None) => self.client.news().reply(vec![Reply::Purged(id, Ok(()))]),
        }
    }

    /// The spool has what is left, as far as the disk takes it. What isn't on disk is counted.
    pub(super) fn close_spool(&mut self) {
        let until = std::time::Instant::now() + LAST_SYNC;
        if let Some(opening) = &self.opening {
            opening.wait(LAST_SYNC);
            self.adopt_spool();
            self.opening = None;
        }
        if let Some(spool) = self.spool() {
            spool.close(until.saturating_duration_since(std::time::Instant::now()));
        }
    }
}

fn not_purged(id: u64, reason: &str) -> Reply {
    let message = format!(
        "the events in :spool_dir are not deleted, it can't be opened for now: {reason}; they are deleted once it can be"
    );
    Reply::Purged(id, Err(Error::spool(message)))
}
