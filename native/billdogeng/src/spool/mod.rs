//! Events on disk, so that they outlive the process: off unless a directory is given.
//!
//! ```text
//! capture ─ append ─▶ pending ─┐  at most 25 ms          ┌▶ segments ─▶ the next start: fetch
//!                     (memory) ├──▶ "billdogeng-spool" ──┤  (log.rs)
//! 2xx, dropped ─ remove ───────┘   writes; another syncs └▶ tidings ─▶ flush thread
//! ```
//!
//! - **Threads.** [`Spool::append`] and [`Spool::remove`] take a short lock and never touch the disk. One
//!   thread a spool writes; it sleeps until there is something to do. Another one syncs, for a disk may take
//!   seconds over that, and what was written outlives the process before it is synced.
//! - **Numbers.** An event has one, and they ascend. A client starts with [`Recovered::next`]; whatever
//!   is alive below came from an earlier run, and is had by [`Spool::fetch`].
//! - **Accounts.** [`Spool::remove`] answers how many events it ended, so each is counted once, whoever
//!   ends it. What has to go for lack of room or for its age is proposed ([`Spool::excess`]); it is the
//!   client that removes it.
//! - **When.** An event is with the system, where a kill of the process can't undo it, 25 ms after `append`, and
//!   synced at most 100 ms after it, unless the disk itself takes longer than 35 ms for a sync. One that is
//!   removed within 25 ms is never written. A removal is with the system at once, and synced 25 ms later at
//!   most.
//! - **On failure** (a full disk, a removed directory) events are in memory alone, it is told once, and
//!   tried again after 1, 2, 4 … 60 s while events come. What was written before stays on disk, if it is still
//!   there; how much of it is gone since is noted in place, which takes no room.
//!
//! Segment files of our own, not an embedded store: redb 4.6 in the same place took 0.83 µs of CPU an
//! event (here 0.24) and wrote each byte twice, and one flipped bit after a crash cost it all events, or
//! a panic; fjall 3.1 held 120 MB of disk for 5 MB of events, with commits of up to 0.15 s.

pub mod client;
mod clock;
mod dir;
mod error;
mod files;
mod live;
mod log;
pub mod note;
mod platform;
mod record;
#[cfg(all(test, unix))]
mod tests;
mod thread;
mod ticket;

pub use error::{Fate, OpenError, Problem, Undeleted};
pub use log::Page;
pub use ticket::Ticket;

use dir::Dir;
use live::{Live, Ranges};
use log::Log;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long [`Spool::open`] waits for another client to let go of the directory.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of events that go into one record; a larger event gets one of its own.
const CHUNK: usize = 64 * 1024;
/// Chunks kept for use again while events come.
const SPARE: usize = 64;
/// Bytes that wait for a slow disk; what comes on top is in memory alone.
const MOST_PENDING: usize = 64 * 1024 * 1024;

/// What a spool is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory. It is made (0700) where there is none.
    pub dir: PathBuf,
    /// Bytes of all files together. Exceeded by one segment and one batch in flight at most.
    pub max_bytes: u64,
    /// Events that have been on disk for so long are given up, within 1 % of it. See clock.rs.
    pub max_age: Duration,
    /// How long the directory is waited for, where another client holds it: [`PATIENCE`] but in tests.
    pub patience: Duration,
}

/// What an earlier run has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The number of the oldest event.
    pub first: u64,
    /// The number that the client's first event is to have.
    pub next: u64,
    /// How many events there are between the two.
    pub events: u64,
    /// Their bytes, each with its comma.
    pub bytes: u64,
}

/// Why events are to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// All below this number, for the files to keep to `max_bytes`.
    Full(u64),
    /// All below this number, for they are older than `max_age`.
    Expired(u64),
}

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// On disk, synced.
    Disk,
    /// It will be on disk in a moment, if nothing fails.
    Pending,
    /// The disk could not take it, or has lost it: who appended it has it alone, if at all.
    Memory,
}

/// What a [`Spool::fetch`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Events, oldest first. They stay until they are removed.
    Events(Page),
    /// Events that can't be read any more. The client removes and counts them.
    Lost(Range<u64>),
    /// Events that can't be read for now: the system's words.
    Failed(String),
    /// Nothing of what was asked for is alive.
    Nothing,
}

/// What the thread has to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidings {
    /// Oldest first.
    pub problems: Vec<Problem>,
    /// The answer to [`Spool::fetch`].
    pub fetched: Option<Fetched>,
    /// Another client wants the directory: if this one's owner has ended, let it close.
    pub wanted: bool,
}

/// A spool: the handle of one directory and its thread. Dropping it closes it without waiting.
///
/// Its callers may count events from another number on than its files do: see [`Spool::counting_from`].
pub struct Spool {
    shared: Arc<Shared>,
    /// What a caller's number is more than that in the files.
    offset: u64,
}

struct Shared {
    inner: Mutex<Inner>,
    /// The thread's.
    work: Condvar,
    /// Of those who wait for its end.
    ended: Condvar,
    listener: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Inner {
    live: Live,
    pending: VecDeque<Page>,
    pending_bytes: usize,
    spare: Vec<Page>,
    /// Events below are with the thread, or were: their removal has to be recorded.
    taken: u64,
    /// Events below were written, but for those that are absent.
    written: u64,
    removed: Vec<Range<u64>>,
    /// Events below are synced, but for the holes: what the disk could not take, or has lost.
    stored: u64,
    holes: Ranges,
    /// Those of the holes that are in no file.
    absent: Ranges,
    /// What is being sent stays, whatever the bounds want.
    in_flight: Range<u64>,
    /// Since when nothing can be written, and until when nothing is tried.
    off_until: Option<Instant>,
    syncs_asked: u64,
    syncs_done: u64,
    /// The sync that was under way has ended.
    synced: Option<io::Result<()>>,
    fetch: Option<Fetch>,
    /// All files are to go, with all that they have.
    purge: bool,
    undeleted: Option<Undeleted>,
    expired_below: u64,
    full_below: u64,
    slow: u64,
    tidings: Tidings,
    /// The thread sleeps until it is told of something.
    idle: bool,
    closing: bool,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Fetch {
    until: u64,
    max_events: usize,
    max_bytes: usize,
}

impl Spool {
    /// Holds a directory, reads what is in it, and starts the thread. Waits up to `patience` for another client
    /// of this process to close, and reads about 1 GB/s: nothing for a scheduler.
    ///
    /// `listener` is called, on the spool's thread or on that of a later `open`, whenever there are
    /// [`Tidings`], an [`Excess`] or a sync to look at; it may be before this returns. It must not block,
    /// nor hold on to the spool.
    ///
    /// # Errors
    /// The directory can't be had or read; nothing was changed in it then.
    pub fn open(
        options: &Options,
        listener: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_in_turn(options, None, listener)
    }

    /// The same, after the clients of this process that took their tickets earlier have asked for the directory.
    ///
    /// # Errors
    /// As for [`Spool::open`].
    pub fn open_in_turn(
        options: &Options,
        ticket: Option<Ticket>,
        listener: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, Recovered), OpenError> {
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            listener: Box::new(listener),
        });
        let asked = Arc::downgrade(&shared);
        let ask = Arc::new(move || {
            if let Some(shared) = asked.upgrade() {
                shared.lock().tidings.wanted = true;
                (shared.listener)();
            }
        });
        let dir = Dir::hold(&options.dir, ask, options.patience, ticket)?;
        let max_age = u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX / 2);
        let segment_bytes = (options.max_bytes / 16).clamp(16 * 1024, 8 * 1024 * 1024);
        let found = Log::recover(dir, segment_bytes, max_age / 128)?;
        let all = found.live.floor()..found.live.next();
        let recovered = Recovered {
            first: all.start,
            next: all.end,
            events: found.live.count(&all),
            bytes: found.bytes,
        };
        {
            let mut inner = shared.lock();
            inner.taken = all.end;
            inner.written = all.end;
            inner.stored = all.end;
            inner.live = found.live;
            inner.tidings.problems = found.problems;
        }
        let bounds = thread::Bounds {
            max_bytes: options.max_bytes,
            max_age,
            // What is written before the bound in bytes is looked at again.
            at_once: segment_bytes as usize,
        };
        thread::start(Arc::clone(&shared), found.log, bounds)
            .map_err(|error| OpenError::io("start a thread for", &options.dir, &error))?;
        Ok((Self { shared, offset: 0 }, recovered))
    }

    /// Has all numbers be as if the first event after the recovered ones had this one. It may not be lower than the
    /// one that it has.
    #[must_use]
    pub fn counting_from(mut self, number: u64) -> Self {
        self.offset = number.saturating_sub(self.shared.lock().live.next());
        self
    }

    fn in_files(&self, range: &Range<u64>) -> Range<u64> {
        range.start.saturating_sub(self.offset)..range.end.saturating_sub(self.offset)
    }

    fn for_callers(&self, range: &Range<u64>) -> Range<u64> {
        range.start + self.offset..range.end + self.offset
    }

    /// Takes in an event: its JSON, without a comma. Numbers ascend; one that isn't new is ignored.
    pub fn append(&self, number: u64, event: &[u8]) {
        let number = number.saturating_sub(self.offset);
        let mut inner = self.shared.lock();
        if number < inner.live.next() {
            return;
        }
        inner.live.append(number..number + 1);
        if inner.is_off() {
            inner.leave_out(number..number + 1);
            return;
        }
        if inner.pending_bytes + event.len() >= MOST_PENDING {
            inner.leave_out(number..number + 1);
            inner.slow += 1;
            return;
        }
        inner.push(number, event);
        if std::mem::take(&mut inner.idle) {
            self.shared.work.notify_one();
        }
    }

    /// Ends events: they were delivered, or are given up. Answers how many of the range were alive.
    pub fn remove(&self, range: Range<u64>) -> u64 {
        let mut inner = self.shared.lock();
        let (ended, known) = inner.remove(self.in_files(&range));
        if known {
            inner.idle = false;
            self.shared.work.notify_one();
        }
        ended
    }

    /// How many events of a range are alive.
    pub fn live(&self, range: Range<u64>) -> u64 {
        self.shared.lock().live.count(&self.in_files(&range))
    }

    /// The number of the oldest live event, or that of the next one.
    pub fn floor(&self) -> u64 {
        self.shared.lock().live.floor() + self.offset
    }

    /// Keeps events from being proposed in an [`Excess::Full`]: they are being sent. An empty range ends that.
    pub fn hold(&self, range: Range<u64>) {
        self.shared.lock().in_flight = self.in_files(&range);
    }

    /// Whether a live event is on disk: such a one need not be held in memory.
    pub fn whereabouts(&self, number: u64) -> Whereabouts {
        let number = number.saturating_sub(self.offset);
        let inner = self.shared.lock();
        if inner.holes.overlap(&(number..number + 1)) > 0 {
            Whereabouts::Memory
        } else if number < inner.stored {
            Whereabouts::Disk
        } else {
            Whereabouts::Pending
        }
    }

    /// Of a spool that was closed: ends all live events that are in no file, and answers which. The others are for
    /// the next start.
    pub fn leave(&self) -> Vec<Range<u64>> {
        let mut inner = self.shared.lock();
        // What is being written right now is removed once it is.
        let unwritten = inner.written..inner.live.next();
        inner.leave_out(unwritten);
        let runs = inner.live.runs(&(0..inner.live.next())).into_iter();
        let gone: Vec<_> = runs.flat_map(|run| inner.absent.within(&run)).collect();
        for range in &gone {
            inner.remove(range.clone());
        }
        gone.iter().map(|range| self.for_callers(range)).collect()
    }

    /// Asks for all files to be deleted, of events that were all removed. That is done, or can't be, as with
    /// [`Spool::sync`].
    pub fn purge(&self) -> u64 {
        self.shared.lock().purge = true;
        self.sync()
    }

    /// The file that could not be deleted when it was to be last.
    pub fn undeleted(&self) -> Option<Undeleted> {
        self.shared.lock().undeleted.clone()
    }

    /// What has to go for lack of room or for its age, as long as it has not gone.
    pub fn excess(&self) -> Option<Excess> {
        let inner = self.shared.lock();
        if inner.is_to_go(inner.expired_below) {
            Some(Excess::Expired(inner.expired_below + self.offset))
        } else if inner.is_to_go(inner.full_below) {
            Some(Excess::Full(inner.full_below + self.offset))
        } else {
            None
        }
    }

    /// Asks for all that was appended and removed so far to be on disk without delay. It is, or can't
    /// be, once [`Spool::synced`] answers the number that this does, or a higher one.
    pub fn sync(&self) -> u64 {
        let mut inner = self.shared.lock();
        inner.syncs_asked += 1;
        inner.idle = false;
        self.shared.work.notify_one();
        inner.syncs_asked
    }

    /// The number of the latest [`Spool::sync`] that is done.
    pub fn synced(&self) -> u64 {
        let inner = self.shared.lock();
        if inner.ended {
            inner.syncs_asked
        } else {
            inner.syncs_done
        }
    }

    /// Asks for the oldest live events that are on disk, below the number `until`: at most `max_events`
    /// of consecutive numbers, and no more than `max_bytes` unless the first alone has more. The answer
    /// is in the [`Tidings`]. A second one before it takes the first one's place.
    pub fn fetch(&self, until: u64, max_events: usize, max_bytes: usize) {
        let mut inner = self.shared.lock();
        inner.fetch = Some(Fetch {
            until: until.saturating_sub(self.offset),
            max_events,
            max_bytes,
        });
        if inner.ended {
            inner.fetch = None;
            inner.tidings.fetched = Some(Fetched::Nothing);
        }
        inner.idle = false;
        self.shared.work.notify_one();
    }

    /// What there is to tell since the last look.
    pub fn tidings(&self) -> Tidings {
        let mut inner = self.shared.lock();
        let mut tidings = std::mem::take(&mut inner.tidings);
        let slow = std::mem::take(&mut inner.slow);
        if slow > 0 {
            tidings.problems.push(Problem::Slow(slow));
        }
        match &mut tidings.fetched {
            Some(Fetched::Events(page)) => page.first += self.offset,
            Some(Fetched::Lost(range)) => *range = self.for_callers(range),
            Some(Fetched::Failed(_) | Fetched::Nothing) | None => {}
        }
        tidings
    }

    /// Syncs what there is, lets go of the directory, and waits for that. Answers whether it came to it
    /// within `patience`; it goes on in any case.
    pub fn close(&self, patience: Duration) -> bool {
        self.shared.close();
        let waiting = self
            .shared
            .ended
            .wait_timeout_while(self.shared.lock(), patience, |inner| !inner.ended);
        waiting.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        inner.idle = false;
        self.work.notify_one();
    }
}

impl Inner {
    fn is_off(&mut self) -> bool {
        if self.off_until.is_some_and(|until| until <= Instant::now()) {
            self.off_until = None;
        }
        self.closing || self.ended || self.off_until.is_some()
    }

    /// Whether there are live events below a number that are not in flight.
    fn is_to_go(&self, below: u64) -> bool {
        let held = self.in_flight.start..self.in_flight.end.min(below);
        self.live.count(&(0..below)) > self.live.count(&held)
    }

    /// Answers how many events that ended, and whether it has to be recorded.
    fn remove(&mut self, range: Range<u64>) -> (u64, bool) {
        let ended = self.live.remove(range.clone());
        if ended == 0 {
            return (0, false);
        }
        self.forget_dead();
        let known = range.start..range.end.min(self.taken);
        if known.is_empty() {
            return (ended, false);
        }
        match self.removed.last_mut() {
            Some(last) if (last.start..=last.end).contains(&known.start) => {
                last.end = last.end.max(known.end);
            }
            _ => self.removed.push(known),
        }
        (ended, true)
    }

    /// Events are in no file, and will be in none.
    fn leave_out(&mut self, range: Range<u64>) {
        self.holes.insert(range.clone());
        self.absent.insert(range);
    }

    /// Of the live events those that are not known to be on disk.
    #[cfg(test)]
    fn in_memory(&self, below: u64) -> Vec<Range<u64>> {
        let runs = self.live.runs(&(0..below)).into_iter();
        runs.flat_map(|run| self.holes.within(&run)).collect()
    }

    fn push(&mut self, number: u64, event: &[u8]) {
        let stored = event.len() + 1;
        let fits = |page: &Page| page.numbers().end == number && page.bytes.len() + stored <= CHUNK;
        if !self.pending.back().is_some_and(fits) {
            let mut page = self.spare.pop().unwrap_or_else(|| Page {
                first: number,
                lens: Vec::with_capacity(CHUNK / 256),
                bytes: Vec::with_capacity(CHUNK),
            });
            page.first = number;
            self.pending.push_back(page);
        }
        if let Some(page) = self.pending.back_mut() {
            page.lens.push(stored as u32);
            page.bytes.extend_from_slice(event);
            page.bytes.push(b',');
            self.pending_bytes += stored;
        }
    }

    /// Lets go of memory that is held for dead events.
    fn forget_dead(&mut self) {
        let floor = self.live.floor();
        self.holes.forget_below(floor);
        self.absent.forget_below(floor);
        let dead = |page: &Page| page.numbers().end <= floor;
        while self.pending.front().is_some_and(dead) {
            if let Some(page) = self.pending.pop_front() {
                self.pending_bytes -= page.bytes.len();
                self.reuse(page);
            }
        }
    }

    fn reuse(&mut self, mut page: Page) {
        if self.spare.len() < SPARE && page.bytes.capacity() <= CHUNK {
            page.lens.clear();
            page.bytes.clear();
            self.spare.push(page);
        }
    }
}
