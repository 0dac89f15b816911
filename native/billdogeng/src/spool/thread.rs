//! The spool's thread: gathers, writes, syncs, tidies up.

use super::log::{Log, Page};
use super::{now_ms, Fetch, Fetched, Inner, Problem, Shared, SPARE};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long events are gathered before they are written, and a removal may go without a sync. Short
/// enough for two syncs of a slow disk within the 100 ms that are promised.
const GATHER: Duration = Duration::from_millis(25);
/// Between attempts to write, doubled from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

struct Thread {
    shared: Arc<Shared>,
    log: Log,
    max_bytes: u64,
    max_age: u64,
    /// Removals that could not be recorded yet.
    removed: Vec<Range<u64>>,
    /// Removals were written, and not synced.
    unsynced: bool,
    /// No event that waits came before.
    taken_at: Instant,
    synced_at: Instant,
    failures: u32,
    /// After a failure nothing is written before.
    retry_at: Option<Instant>,
}

/// What is to be done in one go.
struct Job {
    pages: VecDeque<Page>,
    /// Live events of the pages, in runs.
    runs: Vec<(usize, Range<u64>)>,
    next: u64,
    /// All below is dead.
    floor: u64,
    /// Nothing is alive.
    empty: bool,
    syncs: u64,
    sync: bool,
    fetch: Option<(Fetch, Option<Range<u64>>)>,
    closing: bool,
}

pub fn start(shared: Arc<Shared>, log: Log, max_bytes: u64, max_age: u64) -> io::Result<()> {
    let now = Instant::now();
    let mut thread = Thread {
        shared,
        log,
        max_bytes,
        max_age,
        removed: Vec::new(),
        unsynced: false,
        taken_at: now,
        synced_at: now,
        failures: 0,
        retry_at: None,
    };
    let builder = std::thread::Builder::new().name("billdogeng-spool".into());
    builder.stack_size(512 * 1024).spawn(move || {
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
            let sync = retry.or(self.unsynced.then(|| self.synced_at + GATHER));
            let expiry = self.expiry(&inner).map(|wait| now + wait);
            let asked = inner.syncs_asked > inner.syncs_done || inner.closing;
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if asked || due(events) || due(sync) || due(expiry) || inner.fetch.is_some() {
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
            sync: sync || !runs.is_empty(),
            pages,
            runs,
            next: inner.taken,
            floor: inner.live.floor(),
            empty: inner.live.is_empty(),
            syncs: inner.syncs_asked,
            fetch,
            closing: inner.closing,
        }
    }

    fn write(&mut self, job: &mut Job) -> io::Result<()> {
        if job.empty {
            // No record is as good as no file, and nothing is left lying about.
            self.removed.clear();
            self.unsynced = false;
            return self.log.wipe();
        }
        if self.retry_at.is_some_and(|at| at > Instant::now()) && !job.closing {
            return Ok(());
        }
        if !self.removed.is_empty() {
            self.log.write_removed(&self.removed)?;
            self.removed.clear();
            self.unsynced = true;
        }
        let time = now_ms();
        for (at, run) in &job.runs {
            let page = &job.pages[*at];
            let (lens, bytes) = part(page, run);
            self.log.write_events(run.start, time, lens, bytes)?;
        }
        if job.sync {
            self.log.sync()?;
            self.unsynced = false;
            self.synced_at = Instant::now();
        }
        Ok(())
    }

    /// Makes known what was done. Answers whether somebody wants to hear of it.
    fn publish(&mut self, job: Job, failed: Option<io::Error>, fetched: Option<Fetched>) -> bool {
        let shared = Arc::clone(&self.shared);
        let mut inner = shared.lock();
        let mut pages = job.pages;
        let mut tell = fetched.is_some() || inner.syncs_done < job.syncs;
        inner.syncs_done = job.syncs;
        if fetched.is_some() {
            inner.tidings.fetched = fetched;
        }
        match failed {
            None => {
                inner.stored = job.next;
                if self.failures > 0 && !job.runs.is_empty() {
                    self.failures = 0;
                    self.retry_at = None;
                    inner.tidings.problems.push(Problem::Resumed);
                    tell = true;
                }
            }
            Some(error) => {
                tell |= self.failures == 0;
                pages.extend(self.failed(&mut inner, &job.runs, &error));
            }
        }
        tell |= inner.slow > 0;
        while inner.spare.len() < SPARE {
            let Some(page) = pages.pop_back() else { break };
            inner.reuse(page);
        }
        drop(inner);
        tell
    }

    /// Nothing is written for a while. Whether events of the job made it is not known, so they are
    /// taken not to have.
    fn failed(
        &mut self,
        inner: &mut Inner,
        runs: &[(usize, Range<u64>)],
        error: &io::Error,
    ) -> VecDeque<Page> {
        self.log.abandon();
        self.unsynced = false;
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
        let unwritten = runs.iter().map(|(_, run)| run.clone());
        for hole in unwritten.chain(waiting.iter().map(Page::numbers)) {
            inner.holes.insert(hole);
        }
        inner.taken = inner.live.next();
        inner.stored = inner.taken;
        waiting
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
