//! The spool's thread: gathers, writes, syncs, deletes.
//!
//! ```text
//! next_job ─▶ write ─▶ read ─▶ publish ─▶ tidy ─▶ next_job …
//!  sleeps      ledger,  for a   the result, and    deletes, proposes
//!              events   fetch   begins a sync      what must go
//! ```

mod ending;
mod outcome;
#[cfg(all(test, unix))]
mod tests;

use super::error::{Fate, Problem, Undeleted};
use super::ledger::Removed;
use super::log::{Limits, Log, Unread, Unsynced};
use super::page::Page;
use super::state::{Fetched, Inner, Shared};
use crate::threads;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long events are gathered before they are written, and how long a removal may go without a sync. Short enough for two
/// syncs of a slow disk within the 100 ms that are promised.
const GATHER: Duration = Duration::from_millis(25);
/// Attempts to delete the files at a purge.
const WIPES: usize = 3;
/// Until files that could be neither deleted nor emptied, nor removed by the ledger, are tried again.
const WIPE_AGAIN: Duration = Duration::from_secs(10);
/// Backoff between attempts to write, doubled from the first to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const STACK: usize = 512 * 1024;

struct Thread {
    shared: Arc<Shared>,
    log: Log,
    /// Bytes of events that are written in one go.
    at_once: usize,
    /// When the first event that waits may have come.
    taken_at: Instant,
    syncs: Sender<Unsynced>,
    /// The part that the current sync covers.
    syncing: Option<Mark>,
    synced_at: Instant,
    failures: u32,
    /// Nothing is written before, after a failure.
    retry_at: Option<Instant>,
    /// When to try again to delete files that could not be deleted, emptied or marked.
    wipe_at: Option<Instant>,
    /// Reading has failed, and that was reported.
    unreadable: bool,
    /// The files are over their bound, and the client has not yet removed the events that were proposed.
    over: bool,
}

/// The part that a sync covers.
#[derive(Clone, Copy)]
struct Mark {
    /// Events below were written.
    next: u64,
    /// Syncs asked for up to this one are done with it.
    asked: u64,
    /// Events were written.
    events: bool,
}

/// The work that is done at once.
struct Job {
    pages: VecDeque<Page>,
    /// The live events of the pages, in runs.
    runs: Vec<(usize, Range<u64>)>,
    /// The new contents of the ledger, if they changed.
    removed: Option<Removed>,
    /// No event is alive.
    empty: bool,
    mark: Mark,
    purge: bool,
    sync: bool,
    synced: Option<io::Result<()>>,
    /// The events to be read, if there are any.
    fetch: Option<(Option<Range<u64>>, Limits)>,
    closing: bool,
}

/// Starts the spool's threads.
pub fn start(shared: Arc<Shared>, log: Log, at_once: usize) -> io::Result<()> {
    let (syncs, unsynced) = mpsc::channel::<Unsynced>();
    let mut thread = Thread::new(Arc::clone(&shared), log, at_once, syncs);
    // A disk may take seconds for a sync. Events written meanwhile outlive the process all the same.
    threads::spawn("billdogeng-sync", STACK, move || {
        while let Ok(unsynced) = unsynced.recv() {
            let synced = unsynced.sync();
            let mut inner = shared.lock();
            inner.synced = Some(synced);
            shared.wake(&mut inner);
        }
    })?;
    threads::spawn("billdogeng-spool", STACK, move || {
        let run = catch_unwind(AssertUnwindSafe(|| thread.run()));
        let Thread { shared, log, .. } = thread;
        // The directory is released before anyone hears of the end.
        drop(log);
        let mut inner = shared.lock();
        inner.ended = true;
        inner.pending = VecDeque::new();
        inner.spare = Vec::new();
        if inner.fetch.take().is_some() {
            inner.updates.fetched = Some(Fetched::Nothing);
        }
        if run.is_err() {
            let problem = Problem::Failed("the spool's thread panicked".into());
            inner.updates.problems.push(problem);
        }
        shared.ended.notify_all();
        drop(inner);
        (shared.listener)();
    })
}

impl Thread {
    fn new(shared: Arc<Shared>, log: Log, at_once: usize, syncs: Sender<Unsynced>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            log,
            at_once,
            taken_at: now,
            syncs,
            syncing: None,
            synced_at: now,
            failures: 0,
            retry_at: None,
            wipe_at: None,
            unreadable: false,
            over: false,
        }
    }

    fn run(&mut self) {
        let any = !self.shared.lock().updates.problems.is_empty();
        self.tidy(any);
        loop {
            let mut job = self.next_job();
            let failed = self.write(&mut job).err();
            let fetched = job.fetch.take().map(|(run, limits)| match run {
                None => Fetched::Nothing,
                Some(run) => self.read(run, limits),
            });
            let closing = job.closing;
            let notify = self.publish(job, failed, fetched);
            self.tidy(notify);
            if closing {
                self.last_sync();
                self.last_removals();
                return;
            }
        }
    }

    fn read(&mut self, run: Range<u64>, limits: Limits) -> Fetched {
        let read = self.log.read(run, limits);
        let failed = matches!(read, Err(Unread::Failed(..)));
        let reported = std::mem::replace(&mut self.unreadable, failed);
        let (fetched, problem) = match read {
            Ok(page) => (Fetched::Events(page), Problem::Readable),
            Err(Unread::Lost(lost)) => (Fetched::Lost(lost), Problem::Readable),
            Err(Unread::Failed(path, error)) => {
                let reason = format!("can't read {}: {error}", path.display());
                let problem = Problem::Unreadable(path, error.to_string());
                (Fetched::Failed(reason), problem)
            }
        };
        if failed != reported {
            self.shared.lock().updates.problems.push(problem);
        }
        fetched
    }

    /// Sleeps until there is something to do, and takes it.
    fn next_job(&mut self) -> Job {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        if inner.pending.is_empty() {
            // Freed without the lock, which callers wait for.
            let spare = std::mem::take(&mut inner.spare);
            drop(inner);
            drop(spare);
            inner = shared.lock();
        }
        let mut gathering = !inner.pending.is_empty();
        loop {
            let now = Instant::now();
            if !gathering && !inner.pending.is_empty() {
                gathering = true;
                self.taken_at = now;
            }
            // Over the bound, events wait until there is room for them.
            let may_write = !self.over || inner.closing;
            let events = (gathering && may_write).then(|| self.taken_at + GATHER);
            let behind = self.wipe_at.is_none() && self.log.is_behind();
            let retry = self.retry_at.filter(|_| behind);
            let unsynced = self.syncing.is_none() && !self.log.is_synced();
            let sync = retry.or(unsynced.then(|| self.synced_at + GATHER));
            let expiry = self.expiry(&inner).map(|wait| now + wait);
            let covered = self.syncing.map_or(inner.syncs_done, |mark| mark.asked);
            let asked = inner.syncs_asked > covered && self.syncing.is_none();
            let asked = asked && (may_write || !gathering) || inner.closing || inner.purge;
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let other = due(expiry) || due(self.wipe_at) || inner.fetch.is_some();
            let other = other || inner.synced.is_some();
            if asked || due(events) || due(sync) || other {
                let events = asked || due(events);
                let sync = asked || due(sync);
                return self.take(inner, now, events, sync);
            }
            if inner.any_removed {
                // Written now, and synced unless the last sync has just begun.
                let sync = now >= self.synced_at + GATHER;
                return self.take(inner, now, false, sync);
            }
            let until = [events, sync, expiry, self.wipe_at];
            inner.idle = !gathering;
            inner = match until.into_iter().flatten().min() {
                None => shared
                    .work
                    .wait(inner)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    let woken = shared.work.wait_timeout(inner, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            inner.idle = false;
        }
    }

    /// Returns how long it takes until more events expire than are known to be expired.
    fn expiry(&self, inner: &Inner) -> Option<Duration> {
        let known = inner.live.floor().max(inner.expired_below);
        self.log.next_expiry(known)
    }

    fn take(
        &mut self,
        mut inner: MutexGuard<'_, Inner>,
        now: Instant,
        events: bool,
        sync: bool,
    ) -> Job {
        let mut pages = VecDeque::new();
        let mut runs = Vec::new();
        if events {
            pages = self.take_pages(&mut inner);
            if inner.pending.is_empty() {
                self.taken_at = now;
            }
            for (at, page) in pages.iter().enumerate() {
                let live = inner.live.runs(&page.numbers());
                runs.extend(live.map(|run| (at, run)));
            }
        }
        // A sync that was asked for covers all that was appended before.
        let asked = match inner.pending.is_empty() {
            true => inner.syncs_asked,
            false => self.syncing.map_or(inner.syncs_done, |mark| mark.asked),
        };
        let fetch = inner.fetch.take().map(|(until, limits)| {
            let mut live = inner.live.runs(&(0..until.min(inner.taken)));
            (live.next(), limits)
        });
        Job {
            mark: Mark {
                next: inner.taken,
                asked,
                events: !runs.is_empty(),
            },
            purge: std::mem::take(&mut inner.purge),
            sync: sync || !runs.is_empty(),
            synced: inner.synced.take(),
            pages,
            runs,
            removed: inner.take_removed(),
            empty: inner.live.is_empty(),
            fetch,
            closing: inner.closing,
        }
    }

    /// Takes as many of the events that wait as are written in one go; at the end all of them.
    fn take_pages(&self, inner: &mut Inner) -> VecDeque<Page> {
        let mut pages = VecDeque::new();
        let mut bytes = 0;
        while let Some(page) = inner.pending.pop_front() {
            let fits = bytes + page.bytes.len() <= self.at_once;
            if !pages.is_empty() && !fits && !inner.closing {
                inner.pending.push_front(page);
                break;
            }
            bytes += page.bytes.len();
            pages.push_back(page);
        }
        inner.pending_bytes -= bytes;
        let first = inner.pending.front().map(|page| page.first);
        inner.taken = first.unwrap_or(inner.live.next());
        pages
    }

    fn write(&mut self, job: &mut Job) -> io::Result<()> {
        if let Some(removed) = job.removed.take() {
            self.log.entry.removed = removed;
        }
        if job.empty || job.purge {
            let undeleted = self.wipe(job.purge);
            self.shared.lock().undeleted = undeleted;
        }
        if job.empty {
            return Ok(());
        }
        // From here on the ledger is tried again with each removal.
        self.wipe_at = None;
        let written = self.log.write_ledger();
        if self.is_off() && !job.closing {
            return Ok(());
        }
        written?;
        for (at, run) in &job.runs {
            let (lens, bytes) = job.pages[*at].part(run);
            self.log.write_events(run.start, lens, bytes)?;
        }
        Ok(())
    }

    /// Deletes all files, of which all events are removed.
    fn wipe(&mut self, purge: bool) -> Option<Undeleted> {
        let mut undeleted = self.log.wipe();
        for _ in 1..if purge { WIPES } else { 1 } {
            if undeleted.is_some() {
                undeleted = self.log.wipe();
            }
        }
        let whole = |left: &Undeleted| left.fate == Fate::Whole;
        let failed = undeleted.as_ref().is_some_and(whole);
        self.wipe_at = failed.then(|| Instant::now() + WIPE_AGAIN);
        undeleted
    }

    /// Returns whether nothing is written for now, after a failure.
    fn is_off(&self) -> bool {
        self.retry_at.is_some_and(|at| at > Instant::now())
    }
}

fn backoff(failures: u32) -> Duration {
    (BACKOFF.0 * 2u32.pow(failures.min(6))).min(BACKOFF.1)
}
