//! Events on disk, so that they outlive the process. Off unless a directory is given.
//!
//! ```text
//! capture ─ append ─▶ pending ─┐ after 25 ms             ┌▶ segments ─▶ the next start: fetch
//!                     (memory) ├──▶ "billdogeng-spool" ──┤  + ledger (log.rs)
//! 2xx, dropped ─ remove ───────┘  writes; another syncs  └▶ Updates ─▶ flush thread
//! ```
//!
//! - **Threads.** [`Spool::append`] and [`Spool::remove`] take a short lock and never touch the disk. Each spool has one
//!   thread that writes; it sleeps until there is something to do. Another one syncs, because a disk may take seconds for a
//!   sync, and events that are written outlive the process before they are synced.
//! - **Numbers.** Each event has a number, and numbers ascend. A client starts with [`Recovered::next`]. Live events below
//!   it come from an earlier run, and are read with [`Spool::fetch`].
//! - **The ledger.** Events stay in their segment when they are removed. The ledger alone lists the removed ones: all below
//!   a floor, and some ranges above it. It is written over in place, so a full disk takes it too.
//! - **Accounts.** [`Spool::remove`] returns how many events it removed, so each is counted once. Events that exceed a bound
//!   are proposed ([`Spool::excess`]); the client removes them.
//! - **When.** An event is written 25 ms after `append`, where a kill of the process can't undo it. It is synced at most
//!   100 ms after `append`, unless the disk needs more than 35 ms to sync the segment and the ledger. An event that is
//!   removed within 25 ms is never written. A removal is written at once, and synced at most 25 ms later.
//! - **On failure** (a full disk, a removed directory) events are in memory alone. One problem is reported, and writing is
//!   tried again after 1, 2, 4 … 60 s while events come. Events that were written before stay on disk if they are still
//!   there.

pub mod client;
mod clock;
mod dir;
mod error;
mod files;
mod format;
mod ledger;
mod live;
mod log;
pub mod note;
mod page;
mod platform;
mod recover;
mod segment;
mod state;
#[cfg(all(test, unix))]
mod tests;
mod thread;
mod turns;

pub use error::{Fate, OpenError, Problem, Undeleted};
pub use page::Page;
pub use state::{Fetched, Updates};
pub use turns::Ticket;

use dir::Dir;
use log::{Bounds, Limits};
use state::Shared;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How long [`Spool::open`] waits for another client to release the directory.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a segment, at least and at most: one corrupted header loses no more than that.
const SEGMENT_BYTES: (u64, u64) = (16 * 1024, 1024 * 1024);

/// The options of a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory. It is made (0700) if there is none.
    pub dir: PathBuf,
    /// Bytes of all segments. Exceeded by at most one segment and one batch in flight. The ledger takes another 16 KiB.
    pub max_bytes: u64,
    /// Events that have been on disk for so long are proposed for removal, within 1 % of it.
    pub max_age: Duration,
    /// How long to wait for a directory that another client holds: [`PATIENCE`], except in tests.
    pub patience: Duration,
}

/// The contents of a spool, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events that are not yet delivered, including those that are about to be written.
    pub events: u64,
    /// Bytes of the files, without the ledger.
    pub bytes: u64,
    /// The age of the oldest file.
    pub age: Option<Duration>,
}

/// The state that an earlier run left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The number that the client's first event must have.
    pub next: u64,
    /// How many live events there are below it.
    pub events: u64,
}

/// Why events must be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// All below this number, for the files to keep to `max_bytes`.
    Full(u64),
    /// All below this number, because they are older than `max_age`.
    Expired(u64),
}

/// Where an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// On disk, synced.
    Disk,
    /// It will be on disk in a moment, if nothing fails.
    Pending,
    /// The disk could not take it, or has lost it: only the caller still has it, if at all.
    Memory,
}

/// The handle of one directory and its threads. Dropping it closes the spool without waiting.
///
/// Callers may use other numbers than the files, see [`Spool::counting_from`].
pub struct Spool {
    shared: Arc<Shared>,
    /// The difference between a caller's number and the number in the files.
    offset: u64,
}

impl Spool {
    /// Holds a directory, reads its files, and starts the threads. Waits up to `patience` for another client of this
    /// process to close, and reads all files, so it must not run on a scheduler.
    ///
    /// Calls `listener` whenever there are [`Updates`], an [`Excess`] or a finished sync to look at: on the spool's thread or
    /// on that of a later `open`, perhaps before this returns. It must not block, nor own the spool.
    ///
    /// # Errors
    /// The directory can't be held or read. Nothing in it was changed.
    pub fn open(
        options: &Options,
        listener: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_in_turn(options, None, listener)
    }

    /// Does the same, after the clients of this process that took their tickets earlier.
    ///
    /// # Errors
    /// As for [`Spool::open`].
    pub fn open_in_turn(
        options: &Options,
        ticket: Option<Ticket>,
        listener: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, Recovered), OpenError> {
        let shared = Arc::new(Shared::new(listener));
        let asked = Arc::downgrade(&shared);
        let ask = Arc::new(move || {
            if let Some(shared) = asked.upgrade() {
                shared.lock().updates.wanted = true;
                (shared.listener)();
            }
        });
        let ticket = ticket.unwrap_or_else(|| Ticket::take(&options.dir));
        let dir = Dir::hold(&options.dir, ask, options.patience, ticket)?;
        let max_age = u64::try_from(options.max_age.as_millis()).unwrap_or(u64::MAX / 2);
        let bounds = Bounds {
            max_bytes: options.max_bytes,
            segment_bytes: (options.max_bytes / 16).clamp(SEGMENT_BYTES.0, SEGMENT_BYTES.1),
            max_age,
        };
        let found = recover::recover(dir, bounds)?;
        let next = found.live.next();
        let recovered = Recovered {
            next,
            events: found.live.count(&(0..next)),
        };
        {
            let mut inner = shared.lock();
            inner.taken = next;
            inner.written = next;
            inner.stored = next;
            inner.live = found.live;
            inner.updates.problems = found.problems;
        }
        // The bound in bytes is checked after each segment's worth of events.
        thread::start(
            Arc::clone(&shared),
            found.log,
            bounds.segment_bytes as usize,
        )
        .map_err(|error| OpenError::io("start a thread for", &options.dir, &error))?;
        Ok((Self { shared, offset: 0 }, recovered))
    }

    /// Moves all numbers, so that the first event after the recovered ones has this one. It must not be lower than the
    /// number that the event has.
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

    /// Adds an event: its JSON, without a comma. Numbers ascend; one that isn't new is ignored.
    pub fn append(&self, number: u64, event: &[u8]) {
        let mut inner = self.shared.lock();
        let appended = inner.append(number.saturating_sub(self.offset), event);
        if appended && inner.idle {
            self.shared.wake(&mut inner);
        }
    }

    /// Removes events that were delivered or dropped. Returns how many of the range were alive.
    pub fn remove(&self, range: Range<u64>) -> u64 {
        let mut inner = self.shared.lock();
        let removed = inner.remove(self.in_files(&range));
        if removed > 0 && inner.any_removed {
            self.shared.wake(&mut inner);
        }
        removed
    }

    /// Returns how many events of a range are alive.
    pub fn live(&self, range: Range<u64>) -> u64 {
        self.shared.lock().live.count(&self.in_files(&range))
    }

    /// Returns the number of the oldest live event, or that of the next one.
    pub fn floor(&self) -> u64 {
        self.shared.lock().live.floor() + self.offset
    }

    /// Returns what the spool contains.
    pub fn usage(&self) -> Usage {
        let inner = self.shared.lock();
        let events = inner.live.count(&(0..inner.live.next()));
        let oldest = inner.oldest.filter(|_| events > 0);
        Usage {
            events,
            bytes: inner.bytes,
            age: oldest.map(|time| time.elapsed()),
        }
    }

    /// Keeps events that are being sent from being proposed in an [`Excess::Full`]. An empty range ends that.
    pub fn hold(&self, range: Range<u64>) {
        self.shared.lock().in_flight = self.in_files(&range);
    }

    /// Returns where a live event is. One that is on disk need not be kept in memory.
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

    /// Removes all live events of a closed spool that are in no file, and returns them. The others are for the next start.
    pub fn leave(&self) -> Vec<Range<u64>> {
        let absent = self.shared.lock().leave();
        absent.iter().map(|range| self.for_callers(range)).collect()
    }

    /// Deletes all files; all their events must have been removed. Returns the number of a [`Spool::sync`] that is done once
    /// the files are deleted or can't be, see [`Spool::undeleted`].
    pub fn purge(&self) -> u64 {
        self.shared.lock().purge = true;
        self.sync()
    }

    /// Returns the file that could not be deleted by the latest attempt.
    pub fn undeleted(&self) -> Option<Undeleted> {
        self.shared.lock().undeleted.clone()
    }

    /// Returns which live events must be removed for lack of room or for their age.
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

    /// Writes and syncs everything that was appended and removed so far without delay. That is done, or has failed, once
    /// [`Spool::synced`] returns the same number as this or a higher one.
    pub fn sync(&self) -> u64 {
        let mut inner = self.shared.lock();
        inner.syncs_asked += 1;
        self.shared.wake(&mut inner);
        inner.syncs_asked
    }

    /// Returns the number of the latest [`Spool::sync`] that is done.
    pub fn synced(&self) -> u64 {
        let inner = self.shared.lock();
        if inner.ended {
            inner.syncs_asked
        } else {
            inner.syncs_done
        }
    }

    /// Reads the oldest live events that are on disk, below the number `until`: at most `max_events` of consecutive numbers,
    /// and no more than `max_bytes` unless the first alone has more. The result is in the [`Updates`]. A second fetch before
    /// that replaces the first.
    pub fn fetch(&self, until: u64, max_events: usize, max_bytes: usize) {
        let limits = Limits {
            max_events,
            max_bytes,
        };
        let mut inner = self.shared.lock();
        match inner.ended {
            true => inner.updates.fetched = Some(Fetched::Nothing),
            false => inner.fetch = Some((until.saturating_sub(self.offset), limits)),
        }
        self.shared.wake(&mut inner);
    }

    /// Returns what the thread has reported since the last call.
    pub fn updates(&self) -> Updates {
        let mut inner = self.shared.lock();
        let mut updates = std::mem::take(&mut inner.updates);
        let slow = std::mem::take(&mut inner.slow);
        if slow > 0 {
            updates.problems.push(Problem::Slow(slow));
        }
        match &mut updates.fetched {
            Some(Fetched::Events(page)) => page.first += self.offset,
            Some(Fetched::Lost(range)) => *range = self.for_callers(range),
            Some(Fetched::Failed(_) | Fetched::Nothing) | None => {}
        }
        updates
    }

    /// Syncs everything, releases the directory, and waits for that. Returns whether it was done within `patience`; it
    /// continues in any case.
    pub fn close(&self, patience: Duration) -> bool {
        self.begin_close();
        let waiting = self
            .shared
            .ended
            .wait_timeout_while(self.shared.lock(), patience, |inner| !inner.ended);
        waiting.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    fn begin_close(&self) {
        let mut inner = self.shared.lock();
        inner.closing = true;
        self.shared.wake(&mut inner);
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.begin_close();
    }
}
