//! The flush thread's work with the spool: adopt it, read from it, wait for its disk, close it.

use crate::error::Error;
use crate::flush::failing::Failing;
use crate::flush::opening::Opening;
use crate::flush::phase::{Event, Stage};
use crate::flush::split::Parts;
use crate::flush::worker::Worker;
use crate::http::response::{Failure, Kind};
use crate::protocol::{Notice, Reply};
use crate::queue::accounts::Reason;
use crate::report::status::{Call, Caller};
use crate::spool::{note, Excess, Fetched, OpenError, Spool, PATIENCE};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the last sync of a client that ends may take; it goes on after that, unheard.
const LAST_SYNC: Duration = Duration::from_secs(1);
/// How long the attempt in flight may take once another client waits for the directory, which does so for
/// [`PATIENCE`]: the last sync has the rest of it.
const LAST_ATTEMPT: Duration = Duration::from_millis(500);

impl Worker {
    /// Looks how far the spool is with opening. Returns whether flushes wait for it.
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
        // Not while a batch is in flight: the spool would not count it.
        if self.delivery.batch.is_none() {
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
            self.client.pending().notice(Notice::NoSpool(error));
            self.client.state().open_without();
        }
        if let Some(opening) = &mut self.opening {
            let purges = std::mem::take(&mut opening.purges);
            let replies = purges.into_iter().map(|id| not_purged(id, &message));
            self.client.pending().reply(replies.collect());
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
        let mut pending = self.client.pending();
        if opening.failure.is_some() {
            pending.notice(Notice::SpoolOpened(events));
        }
        if opened.of_another && !purge {
            pending.notice(Notice::SpoolOfAnother(events));
        }
        drop(pending);
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
        let updates = spool.updates();
        for problem in updates.problems {
            self.client.pending().notice(Notice::Spool(problem));
        }
        if updates.wanted {
            self.wanted_until = Some(now + PATIENCE);
        }
        self.wanted_until.take_if(|until| *until <= now);
        if let Some(fetched) = updates.fetched {
            self.fetched(fetched, now);
        }
        let mut state = self.client.state();
        match spool.excess() {
            Some(Excess::Full(below)) => state.drop_below(below, Reason::SpoolFull),
            Some(Excess::Expired(below)) => state.drop_below(below, Reason::Expired),
            None => {}
        }
        state.enforce_bounds();
        drop(state);
        self.synced(&spool);
    }

    /// Until when a client that drains may use the directory, where another one wants it.
    pub(super) fn handover(&self) -> Option<Instant> {
        let drains = self.machine.phase().drains_until();
        drains
            .and(self.wanted_until)
            .map(|until| until - (PATIENCE - LAST_ATTEMPT))
    }

    /// Takes what the flush has asked for. Without one, or after a purge, it stays on disk.
    fn fetched(&mut self, fetched: Fetched, now: Instant) {
        let flush = self.machine.phase().flush();
        if !flush.is_some_and(|(flush, _)| flush.stage == Stage::Read) {
            return;
        }
        let mut state = self.client.state();
        match fetched {
            Fetched::Events(page) => {
                if let Some(batch) = state.take_fetched(page) {
                    drop(state);
                    return self.batch(batch, now);
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
                return self.failed(failure, now);
            }
            Fetched::Nothing => state.nothing_fetched(),
        }
        drop(state);
        self.handle(Event::NotRead, now);
    }

    /// Passes answers on; where they are to wait for the disk, once it has what there was.
    pub(super) fn reply(&mut self, replies: Vec<Reply>) {
        match self.spool().filter(|_| self.client.config.spool_sync) {
            Some(spool) if !replies.is_empty() => {
                self.unsynced.push_back((spool.sync(), replies));
                self.synced(&spool);
            }
            _ => self.client.pending().reply(replies),
        }
    }

    /// Returns the calls that wait for the disk or for the spool to open, for `debug/1`.
    pub(super) fn unsynced_callers(&self) -> impl Iterator<Item = Caller> + '_ {
        let unsynced = self.unsynced.iter().flat_map(|(_, replies)| replies);
        let unsynced = unsynced.map(|reply| match reply {
            Reply::Flushed(id, _) => (*id, Call::Flush),
            Reply::Settled(id, _) => (*id, Call::QueueLength),
            Reply::Purged(id, _) => (*id, Call::Purge),
        });
        let purges = self.opening.iter().flat_map(|opening| &opening.purges);
        let purges = purges.map(|id| (*id, Call::Purge));
        let below = None;
        unsynced
            .chain(purges)
            .map(move |(id, call)| Caller { id, call, below })
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
            self.client.pending().reply(replies.collect());
        }
    }

    /// Drops everything that is queued or in flight. The reply comes once nothing of it is on disk.
    pub(super) fn purge(&mut self, id: u64, now: Instant) {
        self.handle(Event::Purge, now);
        let spool = self.spool();
        let mut state = self.client.state();
        state.drop_queued(Reason::Purged);
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
                        self.client.pending().reply(vec![reply]);
                    }
                }
            }
            (None, None) => self.client.pending().reply(vec![Reply::Purged(id, Ok(()))]),
        }
    }

    /// The spool keeps the rest, as far as the disk takes it. Events that are not on disk are counted.
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

    /// Whether the batch under way has failed often enough.
    pub(super) fn is_failing(&mut self, numbers: Range<u64>) -> bool {
        if !self.failing_read {
            if let Some(dir) = self.held_dir() {
                let noted = note::read(dir).ok().and_then(|text| text.parse().ok());
                self.failing = noted.unwrap_or(self.failing);
                self.failing_read = true;
            }
        }
        self.failing.is_one(numbers)
    }

    /// A flush failed, and its batch stays.
    pub(super) fn batch_failed(&mut self, parts: &Parts, status: u16) {
        let before = self.failing;
        self.failing.failed(parts, status);
        self.note_failing(before);
    }

    /// A flush has delivered all that it was to.
    pub(super) fn none_is_failing(&mut self) {
        let before = std::mem::take(&mut self.failing);
        self.note_failing(before);
    }

    fn note_failing(&self, before: Failing) {
        if let Some(dir) = self.held_dir().filter(|_| self.failing != before) {
            let _ = note::write(dir, &self.failing.to_string());
        }
    }

    /// The spool's directory, once it is held.
    fn held_dir(&self) -> Option<&Path> {
        self.client.spool.get()?;
        self.client.config.spool.as_ref().map(|spool| &*spool.dir)
    }
}

fn not_purged(id: u64, reason: &str) -> Reply {
    let message = format!(
        "the events in :spool_dir are not deleted, it can't be opened for now: {reason}; they are deleted once it can be"
    );
    Reply::Purged(id, Err(Error::spool(message)))
}
