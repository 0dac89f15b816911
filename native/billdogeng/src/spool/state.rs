//! The state that a spool's callers and its threads share, under one short lock.

use super::error::{Problem, Undeleted};
use super::ledger::Removed;
use super::live::{Live, Ranges};
use super::log::Limits;
use super::page::Page;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes of events that go into one record; a larger event gets one of its own.
const CHUNK: usize = 64 * 1024;
/// Pages that are kept for use again while events come.
pub const SPARE: usize = 64;
/// Bytes that wait for a slow disk. Events beyond that are in memory alone.
const MOST_PENDING: usize = 64 * 1024 * 1024;

/// The result of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Events, oldest first. They stay on disk until they are removed.
    Events(Page),
    /// Events that can't be read any more. The client removes and counts them.
    Lost(Range<u64>),
    /// Events that can't be read for now, with the system's reason.
    Failed(String),
    /// No such event is alive.
    Nothing,
}

/// The reports of the thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    /// Oldest first.
    pub problems: Vec<Problem>,
    /// The result of the latest fetch.
    pub fetched: Option<Fetched>,
    /// Another client wants the directory: if this one's owner has ended, it should close.
    pub wanted: bool,
}

pub struct Shared {
    inner: Mutex<Inner>,
    /// Wakes the thread.
    pub work: Condvar,
    /// Wakes the callers that wait for the thread's end.
    pub ended: Condvar,
    /// Called when there is something to look at. Not under the lock.
    pub listener: Box<dyn Fn() + Send + Sync>,
}

impl Shared {
    pub fn new(listener: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            inner: Mutex::default(),
            work: Condvar::new(),
            ended: Condvar::new(),
            listener: Box::new(listener),
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread if it sleeps.
    pub fn wake(&self, inner: &mut Inner) {
        inner.idle = false;
        self.work.notify_one();
    }
}

#[derive(Default)]
pub struct Inner {
    pub live: Live,
    pub pending: VecDeque<Page>,
    pub pending_bytes: usize,
    pub spare: Vec<Page>,
    /// Events below may be in a file: their removal goes to the ledger.
    pub taken: u64,
    /// Events below were written, except those that are absent.
    pub written: u64,
    /// Events that may be in a file were removed since the thread last looked, or the last live one.
    pub any_removed: bool,
    /// Events below are synced, except those in the holes: the disk could not take them, or has lost them.
    pub stored: u64,
    pub holes: Ranges,
    /// The holes that are in no file.
    pub absent: Ranges,
    /// Events that are being sent: they stay even if the files are over their bounds.
    pub in_flight: Range<u64>,
    /// Nothing is written before.
    pub off_until: Option<Instant>,
    pub syncs_asked: u64,
    pub syncs_done: u64,
    /// The result of the sync that has ended.
    pub synced: Option<io::Result<()>>,
    /// Events below a number to be read.
    pub fetch: Option<(u64, Limits)>,
    /// All files are to be deleted.
    pub purge: bool,
    pub undeleted: Option<Undeleted>,
    /// The files' size and the time of their oldest event, as of the thread's last look.
    pub bytes: u64,
    pub oldest: Option<Instant>,
    pub expired_below: u64,
    pub full_below: u64,
    /// Events that were left out because the disk is slow.
    pub slow: u64,
    pub updates: Updates,
    /// The thread sleeps without a deadline for events.
    pub idle: bool,
    pub closing: bool,
    pub ended: bool,
}

impl Inner {
    /// Adds an event. Returns whether it is to be written.
    pub fn append(&mut self, number: u64, event: &[u8]) -> bool {
        if number < self.live.next() {
            return false;
        }
        self.live.append(number..number + 1);
        if self.is_off() {
            self.leave_out(number..number + 1);
            return false;
        }
        if self.pending_bytes + event.len() >= MOST_PENDING {
            self.leave_out(number..number + 1);
            self.slow += 1;
            return false;
        }
        self.push(number, event);
        true
    }

    fn is_off(&mut self) -> bool {
        self.off_until.take_if(|until| *until <= Instant::now());
        self.closing || self.ended || self.off_until.is_some()
    }

    /// Returns whether there are live events below a number that are not in flight.
    pub fn is_to_go(&self, below: u64) -> bool {
        let held = self.in_flight.start..self.in_flight.end.min(below);
        self.live.count(&(0..below)) > self.live.count(&held)
    }

    /// Removes events. Returns how many of them were alive.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let removed = self.live.remove(&range);
        if removed > 0 {
            self.forget_removed();
            // With the last one all files can go, whether it was in one or not.
            let last = self.bytes > 0 && self.live.is_empty();
            self.any_removed |= range.start < self.taken || last;
        }
        removed
    }

    /// Returns the new contents of the ledger, if they changed.
    pub fn take_removed(&mut self) -> Option<Removed> {
        let count = |range: &Range<u64>| range.end - range.start;
        let is_absent = |range: &Range<u64>| self.absent.overlap(range) == count(range);
        let changed = std::mem::take(&mut self.any_removed);
        changed.then(|| self.live.removed(is_absent))
    }

    /// Notes that events are in no file, and will be in none.
    pub fn leave_out(&mut self, range: Range<u64>) {
        self.holes.insert(range.clone());
        self.absent.insert(range);
    }

    /// Removes the live events that are in no file, and returns them.
    pub fn leave(&mut self) -> Vec<Range<u64>> {
        // Events that are being written right now can be in a file soon, so the ledger must have them.
        let mut absent = self.absent.clone();
        absent.insert(self.written..self.live.next());
        let runs = self.live.runs(&(0..self.live.next()));
        let absent: Vec<_> = runs
            .flat_map(|run| absent.within(&run).collect::<Vec<_>>())
            .collect();
        for range in &absent {
            self.remove(range.clone());
        }
        absent
    }

    fn push(&mut self, number: u64, event: &[u8]) {
        let stored = event.len() + 1;
        let fits = |page: &Page| page.next() == number && page.bytes.len() + stored <= CHUNK;
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

    /// Frees memory that only removed events need.
    pub fn forget_removed(&mut self) {
        let floor = self.live.floor();
        self.holes.remove(&(0..floor));
        self.absent.remove(&(0..floor));
        while self
            .pending
            .front()
            .is_some_and(|page| page.next() <= floor)
        {
            if let Some(page) = self.pending.pop_front() {
                self.pending_bytes -= page.bytes.len();
                self.reuse(page);
            }
        }
    }

    /// Keeps a page for use again, if it is no larger than others.
    pub fn reuse(&mut self, mut page: Page) {
        if self.spare.len() < SPARE && page.bytes.capacity() <= CHUNK {
            page.lens.clear();
            page.bytes.clear();
            self.spare.push(page);
        }
    }
}
