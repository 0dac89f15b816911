//! The spool's thread: gathers, writes, syncs, tidies up.

use super::log::{Log, Page, Unsynced};
use super::{now_ms, Fetch, Fetched, Inner, Problem, Shared, SPARE};
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
/// Between attempts to write, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The threads' stacks.
const STACK: usize = 512 * 1024;

struct Thread {
    shared: Arc<Shared>,
    log: Log,
    max_bytes: u64,
    max_age: u64,
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
    sync: bool,
    synced: Option<io::Result<()>>,
    fetch: Option<(Fetch, Option<Range<u64>>)>,
    closing: bool,
}

pub fn start(shared: Arc<Shared>, log: Log, max_bytes: u64, max_age: u64) -> io::Result<()> {
    let now = Instant::now();
    let (syncs, unsynced) = mpsc::channel();
    let mut thread = Thread {
        shared: Arc::clone(&shared),
        log,
        max_bytes,
        max_age,
        removed: Vec::new(),
        taken_at: now,
        syncs,
        syncing: None,
        synced_at: now,
        failures: 0,
        retry_at: None,
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
                Some(run) => match self.log.read(run, fetch.max_events, fetch.max_bytes) {
                    Ok(page) => Fetched::Events(page),
                    Err(lost) => Fetched::Lost(lost),
                },
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
            let events = gathering.then(|| self.taken_at + GATHER);
            let retry = self.retry_at.filter(|_| !self.removed.is_empty());
            let unsynced = self.syncing.is_none() && !self.log.is_synced();
            let sync = retry.or(unsynced.then(|| self.synced_at + GATHER));
            let expiry = self.expiry(&inner).map(|wait| now + wait);
            let unheard = self.syncing.map_or(inner.syncs_done, |mark| mark.asked);
            let asked = inner.syncs_asked > unheard && self.syncing.is_none();
            let asked = asked || inner.closing;
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            let other = due(expiry) || inner.fetch.is_some() || inner.synced.is_some();
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
            let until = [events, sync, expiry].into_iter().flatten().min();
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
            .checked_add(self.max_age)?;
        Some(Duration::from_millis(at.saturating_sub(now_ms())))
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
            self.taken_at = now;
            pages = std::mem::take(&mut inner.pending);
            inner.pending_bytes = 0;
            inner.taken = inner.live.next();
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
        let fetch = inner.fetch.take().map(|fetch| {
            let run = inner.live.runs(&(0..fetch.until.min(inner.taken)));
            (fetch, run.into_iter().next())
        });
        Job {
            mark: Mark {
                next: inner.taken,
                asked: inner.syncs_asked,
                events: !runs.is_empty(),
            },
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

    fn write(&mut self, job: &mut Job) -> io::Result<()> {
        if job.empty {
            // No record is as good as no file, and nothing is left lying about.
            self.removed.clear();
            self.log.wipe();
            return Ok(());
        }
        if self.is_paused() && !job.closing {
            self.note_removed(job.floor);
            return Ok(());
        }
        self.write_removed(job.floor)?;
        let time = now_ms();
        for (at, run) in &job.runs {
            let page = &job.pages[*at];
            let (lens, bytes) = part(page, run);
            self.log.write_events(run.start, time, lens, bytes)?;
        }
        Ok(())
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
        if !self.removed.is_empty() {
            // That it can't be is known already.
            let _ = self.log.write_floor(floor);
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
            inner.holes.insert(numbers);
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
        if written == 0 {
            inner.stored = inner.taken;
        }
        waiting
    }

    /// What was written last is on the disk before the directory is let go of.
    fn last_sync(&mut self) {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        while let Some(mark) = self.syncing {
            if let Some(result) = inner.synced.take() {
                self.syncing = None;
                self.synced(&mut inner, result, mark);
                break;
            }
            let woken = shared.work.wait(inner);
            inner = woken.unwrap_or_else(PoisonError::into_inner);
        }
        let mark = Mark {
            next: inner.taken,
            asked: inner.syncs_asked,
            events: false,
        };
        drop(inner);
        let result = self.log.unsynced().sync();
        let result = self.checked(result);
        // Nobody looks after this one: what is said to be left has to be there.
        let missing = self.log.missing();
        let mut inner = shared.lock();
        self.synced(&mut inner, result, mark);
        self.lost(&mut inner, missing);
    }

    /// What the client gives up because it can't know it to be on disk doesn't come back from there; nor what it
    /// gave up while it waited for the last sync.
    fn last_removals(&mut self) {
        let mut inner = self.shared.lock();
        self.removed.append(&mut inner.removed);
        self.removed.extend(inner.in_memory(self.log.next()));
        let floor = inner.live.floor();
        drop(inner);
        if !self.removed.is_empty() && self.write_removed(floor).is_ok() {
            let _ = self.log.unsynced().sync();
        }
    }

    /// Deletes what is dead, and proposes what has to go.
    fn tidy(&mut self, floor: u64, tell: bool) {
        self.log.delete_dead(floor);
        let full = self.log.excess(self.max_bytes);
        let expired = self
            .log
            .ages()
            .older_than(now_ms().saturating_sub(self.max_age));
        let mut inner = self.shared.lock();
        let before = (inner.full_below, inner.expired_below);
        inner.full_below = inner.full_below.max(full.unwrap_or(0));
        inner.expired_below = inner.expired_below.max(expired.unwrap_or(0));
        let changed = before != (inner.full_below, inner.expired_below);
        drop(inner);
        if tell || changed {
            (self.shared.listener)();
        }
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
