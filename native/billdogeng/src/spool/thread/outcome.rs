//! The results of writes and syncs: where the events are then, and what is reported.

use super::{backoff, Job, Mark, Thread};
use crate::spool::error::Problem;
use crate::spool::page::Page;
use crate::spool::state::{Fetched, Inner, SPARE};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

impl Thread {
    /// Publishes the result of a job, and begins the next sync. Returns whether the listener must be called.
    pub(super) fn publish(
        &mut self,
        mut job: Job,
        failed: Option<io::Error>,
        fetched: Option<Fetched>,
    ) -> bool {
        let shared = Arc::clone(&self.shared);
        let synced = job.synced.take().map(|result| self.checked(result));
        let missing = match (&failed, &synced) {
            (None, None | Some(Ok(()))) => Vec::new(),
            _ => self.log.missing(),
        };
        let mut inner = shared.lock();
        inner.written = inner.written.max(self.log.next);
        let mut notify = fetched.is_some();
        notify |= self.lost(&mut inner, missing);
        if fetched.is_some() {
            inner.updates.fetched = fetched;
        }
        if let Some(result) = synced {
            if let Some(mark) = self.syncing.take() {
                notify |= self.synced(&mut inner, result, mark);
            }
        }
        if let Some(error) = failed {
            notify |= self.failures == 0;
            job.mark.events = false;
            // Events that were written before the failure are with the system, and synced like any others.
            let written = self.log.next;
            job.pages.extend(self.failed(&mut inner, &error, written));
        }
        if job.sync && self.syncing.is_none() {
            notify |= self.begin_sync(&mut inner, job.mark);
        }
        notify |= inner.slow > 0;
        while inner.spare.len() < SPARE {
            let Some(page) = job.pages.pop_back() else {
                break;
            };
            inner.reuse(page);
        }
        // The other pages are freed without the lock.
        drop(inner);
        notify
    }

    fn begin_sync(&mut self, inner: &mut Inner, mark: Mark) -> bool {
        self.synced_at = Instant::now();
        if self.log.is_synced() {
            return self.synced(inner, Ok(()), mark);
        }
        self.syncing = Some(mark);
        // The receiving thread ends after this one.
        let _ = self.syncs.send(self.log.unsynced());
        false
    }

    /// Returns an error if the files that were synced are no longer in the directory.
    pub(super) fn checked(&self, synced: io::Result<()>) -> io::Result<()> {
        synced.and_then(|()| self.log.check())
    }

    /// Notes that the files of events are gone: they are in memory alone. Returns whether there are any.
    pub(super) fn lost(&self, inner: &mut Inner, missing: Vec<Range<u64>>) -> bool {
        let any = !missing.is_empty();
        for numbers in missing {
            inner.leave_out(numbers);
        }
        inner.forget_removed();
        any
    }

    /// Notes that a sync has ended. Returns whether the listener must be called.
    pub(super) fn synced(&mut self, inner: &mut Inner, result: io::Result<()>, mark: Mark) -> bool {
        let mut notify = inner.syncs_done < mark.asked;
        inner.syncs_done = inner.syncs_done.max(mark.asked);
        match result {
            Ok(()) => {
                inner.stored = inner.stored.max(mark.next);
                if self.failures > 0 && mark.events {
                    self.failures = 0;
                    self.retry_at = None;
                    inner.updates.problems.push(Problem::Resumed);
                    notify = true;
                }
            }
            Err(error) => {
                notify |= self.failures == 0;
                self.log.abandon();
                // Whether the sync has brought anything to the disk is not known, so it is taken not to have.
                for page in self.failed(inner, &error, 0) {
                    inner.reuse(page);
                }
            }
        }
        notify
    }

    /// Stops writing for a while. Returns the events that wait: none from `written` on will be written.
    fn failed(&mut self, inner: &mut Inner, error: &io::Error, written: u64) -> VecDeque<Page> {
        if let Some(mark) = &mut self.syncing {
            mark.events = false;
        }
        if self.failures == 0 {
            let problem = Problem::Failed(error.to_string());
            inner.updates.problems.push(problem);
        }
        self.retry_at = Some(Instant::now() + backoff(self.failures));
        self.failures += 1;
        inner.off_until = self.retry_at;
        let waiting = std::mem::take(&mut inner.pending);
        inner.pending_bytes = 0;
        inner.taken = inner.live.next();
        inner.holes.insert(inner.stored.max(written)..inner.taken);
        inner.leave_out(self.log.next..inner.taken);
        inner.written = inner.taken;
        if written == 0 {
            inner.stored = inner.taken;
        }
        waiting
    }

    /// Deletes segments that nothing needs, and proposes events that exceed a bound. Calls the listener if `notify` or if
    /// there are new proposals.
    pub(super) fn tidy(&mut self, mut notify: bool) {
        let shared = Arc::clone(&self.shared);
        self.log.delete_removed();
        let in_flight = shared.lock().in_flight.clone();
        let (full, expired) = (self.log.excess(&in_flight), self.log.expired());
        let (bytes, age) = self.log.usage();
        let mut inner = shared.lock();
        inner.bytes = bytes;
        inner.oldest = age.and_then(|age| Instant::now().checked_sub(age));
        let before = (inner.full_below, inner.expired_below);
        // Segments without a live event are deleted by now, so this is no longer proposed than needed.
        inner.full_below = full.unwrap_or(0);
        inner.expired_below = inner.expired_below.max(expired.unwrap_or(0));
        self.over = inner.is_to_go(inner.full_below);
        notify |= inner.full_below > before.0 || inner.expired_below > before.1;
        drop(inner);
        if notify {
            (shared.listener)();
        }
    }
}
