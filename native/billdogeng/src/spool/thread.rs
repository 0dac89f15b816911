//! The spool's thread: gathers, writes, syncs, tidies up.

use super::error::{Fate, Undeleted};
use super::log::{Log, Page, Unread, Unsynced};
use super::{Fetch, Fetched, Inner, Problem, Shared, SPARE};
use crate::threads;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long events are gathered before they are written, and a removal may go without a sync. Short
/// enough for two syncs of a slow disk within the 100 ms that are promised.
const GATHER: Duration = Duration::from_millis(25);
/// Attempts to delete files that the app wants purged.
const WIPES: usize = 3;
/// Between attempts to write, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The threads' stacks.
const STACK: usize = 512 * 1024;

mod ending;

/// What the thread keeps to.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Of all files together.
    pub max_bytes: u64,
    /// In ms.
    pub max_age: u64,
    /// Bytes of events that are written in one go.
    pub at_once: usize,
}

struct Thread {
    shared: Arc<Shared>,
    log: Log,
    bounds: Bounds,
    /// Removals that could not be recorded yet.
    removed: Vec<Range<u64>>,
    /// No event that waits came before.
    taken_at: Instant,
    syncs: Sender<Unsynced>,
    /// What the sync under way is of.
    syncing: Option<Mark>,
    synced_at: Instant,
    failures: u32,
    /// After a failure nothing is written before.
    retry_at: Option<Instant>,
    /// Files that were to be deleted are what they were: tried again then.
    wipe_at: Option<Instant>,
    wipes_failed: u32,
    /// Reading has failed, which is told.
    unreadable: bool,
    /// The files are over their bound, and the client has not yet removed what it was proposed.
    over: bool,
}

/// How far things had come when a sync began.
#[derive(Clone, Copy)]
struct Mark {
    /// Events below were written.
    next: u64,
    /// Syncs asked for up to this one are done with it.
    asked: u64,
    /// There were events among what was written.
    events: bool,
}

/// What is to be done in one go.
struct Job {
    pages: VecDeque<Page>,
    /// Live events of the pages, in runs.
    runs: Vec<(usize, Range<u64>)>,
    /// All below is dead.
    floor: u64,
    /// Nothing is alive.
    empty: bool,
    mark: Mark,
    purge: bool,
    sync: bool,
    synced: Option<io::Result<()>>,
    fetch: Option<(Fetch, Option<Range<u64>>)>,
    closing: bool,
}

pub fn start(shared: Arc<Shared>, log: Log, bounds: Bounds) -> io::Result<()> {
    let now = Instant::now();
    let (syncs, unsynced) = mpsc::channel();
    let mut thread = Thread {
        shared: Arc::clone(&shared),
        log,
        bounds,
        removed: Vec::new(),
        taken_at: now,
        syncs,
        syncing: None,
        synced_at: now,
        failures: 0,
        retry_at: None,
        wipe_at: None,
        wipes_failed: 0,
        unreadable: false,
        over: false,
    };
    // A disk may take seconds for a sync. What is written meanwhile outlives the process all the same.
    threads::spawn("billdogeng-sync", STACK, move || {
        while let Ok(unsynced) = unsynced.recv() {
            let synced = unsynced.sync();
            let mut inner = shared.lock();
            inner.synced = Some(synced);
            inner.idle = false;
            shared.work.notify_one();
        }
    })?;
    threads::spawn("billdogeng-spool", STACK, move || {
        let run = catch_unwind(AssertUnwindSafe(|| thread.run()));
        let Thread { shared, log, .. } = thread;
        // The directory is let go of before anyone hears of the end.
        drop(log);
        let mut inner = shared.lock();
        inner.ended = true;
        inner.pending = VecDeque::new();
        inner.spare = Vec::new();
        if inner.fetch.take().is_some() {
            inner.tidings.fetched = Some(Fetched::Nothing);
        }
        if run.is_err() {
            let problem = Problem::Failed("the spool's thread panicked".into());
            inner.tidings.problems.push(problem);
        }
        shared.ended.notify_all();
        drop(inner);
        (shared.listener)();
    })?;
    Ok(())
}

impl Thread {
    fn run(&mut self) {
        let told = !self.shared.lock().tidings.problems.is_empty();
        self.tidy(0, told);
        loop {
            let mut job = self.next_job();
            let failed = self.write(&mut job).err();
            let fetched = job.fetch.take().map(|(fetch, run)| match run {
                None => Fetched::Nothing,
                Some(run) => self.read(run, fetch),
            });
            let (closing, floor) = (job.closing, job.floor);
            let tell = self.publish(job, failed, fetched);
            self.tidy(floor, tell);
            if closing {
                self.last_sync();
                self.last_removals();
                return;
            }
        }
    }

    fn read(&mut self, run: Range<u64>, fetch: Fetch) -> Fetched {
        let read = self.log.read(run, fetch.max_events, fetch.max_bytes);
        let failed = matches!(read, Err(Unread::Failed(..)));
        let told = std::mem::replace(&mut self.unreadable, failed);
        let (fetched, problem) = match read {
            Ok(page) => (Fetched::Events(page), Problem::Readable),
            Err(Unread::Lost(lost)) => (Fetched::Lost(lost), Problem::Readable),
            Err(Unread::Failed(path, error)) => {
                let reason = format!("can't read {}: {error}", path.display());
                let problem = Problem::Unreadable(path, error.to_string());
                (Fetched::Failed(reason), problem)
            }
        };
        if failed != told {
            self.shared.lock().tidings.problems.push(problem);
        }
        fetched
    }

    /// Sleeps until something is to be done, and takes it.
    fn next_job(&mut self) -> Job {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        if inner.pending.is_empty() {
            // Freed without the lock: callers wait for that.
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
            // Once there is room for them.
            let may_write = !self.over || inner.closing;
            let events = (gathering && may_write).then(|| self.taken_at + GATHER);
            let retry = self.retry_at.filter(|_| !self.removed.is_empty());
            let unsynced = self.syncing.is_none() && !self.log.is_synced();
            let sync = retry.or(unsynced.then(|| self.synced_at + GATHER));
            let expiry = self.expiry(&inner).map(|wait| now + wait);
            let unheard = self.syncing.map_or(inner.syncs_done, |mark| mark.asked);
            let asked = inner.syncs_asked > unheard && self.syncing.is_none();
            let asked = asked && (may_write || !gathering) || inner.closing || inner.purge;
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let other = due(expiry) || due(self.wipe_at) || inner.fetch.is_some();
            let other = other || inner.synced.is_some();
            if asked || due(events) || due(sync) || other {
                let events = asked || due(events);
                let sync = asked || due(sync);
                return self.take(inner, now, events, sync);
            }
            if !inner.removed.is_empty() {
                // Written now, and synced unless the last sync was but a moment ago.
                let sync = now >= self.synced_at + GATHER;
                return self.take(inner, now, false, sync);
            }
            let until = [events, sync, expiry, self.wipe_at];
            let until = until.into_iter().flatten().min();
            inner.idle = !gathering;
            inner = match until {
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

    /// How long until events become too old that are not yet known to be.
    fn expiry(&self, inner: &Inner) -> Option<Duration> {
        let known = inner.live.floor().max(inner.expired_below);
        let at = self
            .log
            .ages()
            .next_after(known)?
            .checked_add(self.bounds.max_age)?;
        let now = self.log.clock().now();
        Some(Duration::from_millis(at.saturating_sub(now)))
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
                runs.extend(
                    inner
                        .live
                        .runs(&page.numbers())
                        .into_iter()
                        .map(|run| (at, run)),
                );
            }
        }
        self.removed.append(&mut inner.removed);
        // A sync that was asked for is of all that was appended before.
        let asked = match inner.pending.is_empty() {
            true => inner.syncs_asked,
            false => self.syncing.map_or(inner.syncs_done, |mark| mark.asked),
        };
        let fetch = inner.fetch.take().map(|fetch| {
            let run = inner.live.runs(&(0..fetch.until.min(inner.taken)));
            (fetch, run.into_iter().next())
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
            floor: inner.live.floor(),
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
            let fits = bytes + page.bytes.len() <= self.bounds.at_once;
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
        if job.empty || job.purge {
            // No record is as good as no file, and nothing is left lying about.
            let undeleted = self.wipe(job.purge);
            self.shared.lock().undeleted = undeleted;
        }
        if job.empty {
            return Ok(());
        }
        // What is gone is recorded from here on.
        self.wipe_at = None;
        if self.is_paused() && !job.closing {
            self.note_removed(job.floor);
            return Ok(());
        }
        self.write_removed(job.floor)?;
        for (at, run) in &job.runs {
            let page = &job.pages[*at];
            let (lens, bytes) = part(page, run);
            self.log.write_events(run.start, lens, bytes)?;
        }
        Ok(())
    }

    /// Deletes all files. What they have is gone, so nothing else has to be recorded of it.
    fn wipe(&mut self, thoroughly: bool) -> Option<Undeleted> {
        let tries = if thoroughly { WIPES } else { 1 };
        let mut undeleted = self.log.wipe();
        for _ in 1..tries {
            if undeleted.is_some() {
                undeleted = self.log.wipe();
            }
        }
        if undeleted
            .as_ref()
            .is_some_and(|left| left.fate == Fate::Whole)
        {
            let pause = PAUSES.0 * 2u32.pow(self.wipes_failed.min(6));
            self.wipes_failed += 1;
            self.wipe_at = Some(Instant::now() + pause.min(PAUSES.1));
        } else {
            self.wipes_failed = 0;
            self.wipe_at = None;
            self.removed.clear();
        }
        undeleted
    }

    fn write_removed(&mut self, floor: u64) -> io::Result<()> {
        if !self.removed.is_empty() {
            let written = self.log.write_removed(&self.removed);
            if written.is_err() {
                self.note_removed(floor);
            }
            written?;
            self.removed.clear();
        }
        Ok(())
    }

    /// What can't be recorded is noted where there is room for it on any disk, as far as all before it is gone too.
    fn note_removed(&mut self, floor: u64) {
        // That it can't be is known already.
        if !self.removed.is_empty() && self.log.write_floor(floor).is_ok() {
            self.removed.retain(|range| range.end > floor);
        }
    }

    fn is_paused(&self) -> bool {
        self.retry_at.is_some_and(|at| at > Instant::now())
    }

    /// Makes known what was done, and begins the next sync. Answers whether somebody wants to hear of it.
    fn publish(
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
        inner.written = inner.written.max(self.log.next());
        let mut pages = job.pages;
        let mut tell = fetched.is_some();
        tell |= self.lost(&mut inner, missing);
        if fetched.is_some() {
            inner.tidings.fetched = fetched;
        }
        if let Some(result) = synced {
            if let Some(mark) = self.syncing.take() {
                tell |= self.synced(&mut inner, result, mark);
            }
        }
        if let Some(error) = failed {
            tell |= self.failures == 0;
            job.mark.events = false;
            // What was written before it failed is with the system, and synced as any other.
            let written = self.log.next();
            pages.extend(self.failed(&mut inner, &error, written));
        }
        if job.sync && self.syncing.is_none() {
            tell |= self.begin_sync(&mut inner, job.mark);
        }
        tell |= inner.slow > 0;
        while inner.spare.len() < SPARE {
            let Some(page) = pages.pop_back() else { break };
            inner.reuse(page);
        }
        drop(inner);
        tell
    }

    fn begin_sync(&mut self, inner: &mut Inner, mark: Mark) -> bool {
        self.synced_at = Instant::now();
        if self.log.is_synced() {
            return self.synced(inner, Ok(()), mark);
        }
        self.syncing = Some(mark);
        // Its thread ends after this one.
        let _ = self.syncs.send(self.log.unsynced());
        false
    }

    /// Whether what a sync has brought to the disk is where it is looked for.
    fn checked(&self, synced: io::Result<()>) -> io::Result<()> {
        synced.and_then(|()| self.log.check())
    }

    /// Events whose files are gone are in memory alone.
    fn lost(&self, inner: &mut Inner, missing: Vec<Range<u64>>) -> bool {
        let any = !missing.is_empty();
        for numbers in missing {
            inner.leave_out(numbers);
        }
        inner.forget_dead();
        any
    }

    /// A sync has ended.
    fn synced(&mut self, inner: &mut Inner, result: io::Result<()>, mark: Mark) -> bool {
        let mut tell = inner.syncs_done < mark.asked;
        inner.syncs_done = inner.syncs_done.max(mark.asked);
        match result {
            Ok(()) => {
                inner.stored = inner.stored.max(mark.next);
                if self.failures > 0 && mark.events {
                    self.failures = 0;
                    self.retry_at = None;
                    inner.tidings.problems.push(Problem::Resumed);
                    tell = true;
                }
            }
            Err(error) => {
                tell |= self.failures == 0;
                self.log.abandon();
                // Whether what was written has made it to the disk can't be known, so it is taken not to have.
                for page in self.failed(inner, &error, 0) {
                    inner.reuse(page);
                }
            }
        }
        tell
    }

    /// Nothing is written for a while, and nothing will be of the events from `written` on that wait for it.
    fn failed(&mut self, inner: &mut Inner, error: &io::Error, written: u64) -> VecDeque<Page> {
        if let Some(mark) = &mut self.syncing {
            mark.events = false;
        }
        if self.failures == 0 {
            let problem = Problem::Failed(error.to_string());
            inner.tidings.problems.push(problem);
        }
        let pause = PAUSES.0 * 2u32.pow(self.failures.min(6));
        self.failures += 1;
        self.retry_at = Some(Instant::now() + pause.min(PAUSES.1));
        inner.off_until = self.retry_at;
        let waiting = std::mem::take(&mut inner.pending);
        inner.pending_bytes = 0;
        inner.taken = inner.live.next();
        inner.holes.insert(inner.stored.max(written)..inner.taken);
        inner.leave_out(self.log.next()..inner.taken);
        inner.written = inner.taken;
        if written == 0 {
            inner.stored = inner.taken;
        }
        waiting
    }

    /// Deletes what is dead, and proposes what has to go.
    fn tidy(&mut self, floor: u64, mut tell: bool) {
        self.log.delete_dead(floor);
        let shared = Arc::clone(&self.shared);
        let max_bytes = self.bounds.max_bytes;
        let mut full = None;
        if self.log.size() > max_bytes {
            tell |= self.delete_behind();
            let in_flight = shared.lock().in_flight.clone();
            full = self.log.excess(max_bytes, &in_flight);
        }
        let clock = self.log.clock().now();
        let old = clock.saturating_sub(self.bounds.max_age);
        let expired = self.log.ages().older_than(old);
        let mut inner = shared.lock();
        let before = (inner.full_below, inner.expired_below);
        // Not for longer than it has to go: what is dead is deleted by now.
        inner.full_below = full.unwrap_or(0);
        inner.expired_below = inner.expired_below.max(expired.unwrap_or(0));
        self.over = inner.is_to_go(inner.full_below);
        tell |= inner.full_below > before.0 || inner.expired_below > before.1;
        drop(inner);
        if tell {
            (shared.listener)();
        }
    }

    /// Answers whether somebody wants to hear of a failure.
    fn delete_behind(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let live = shared.lock().live.clone();
        let Err(error) = self.log.delete_behind(self.bounds.max_bytes, &live) else {
            return false;
        };
        let first = self.failures == 0;
        self.log.abandon();
        let mut inner = shared.lock();
        for page in self.failed(&mut inner, &error, 0) {
            inner.reuse(page);
        }
        first
    }
}

/// The part of a page that is a run of its events.
fn part<'a>(page: &'a Page, run: &Range<u64>) -> (&'a [u32], &'a [u8]) {
    let (from, to) = (
        (run.start - page.first) as usize,
        (run.end - page.first) as usize,
    );
    let bytes = |lens: &[u32]| lens.iter().map(|len| *len as usize).sum::<usize>();
    let start = bytes(&page.lens[..from]);
    let end = start + bytes(&page.lens[from..to]);
    (&page.lens[from..to], &page.bytes[start..end])
}
