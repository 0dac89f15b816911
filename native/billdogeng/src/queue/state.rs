//! What callers and the flush thread share: what is queued, its bounds and the accounts, under one lock.

use crate::config::Config;
use crate::queue::accounts::{Accounts, Limit, Reason, Stats};
use crate::queue::batch::Batch;
use crate::queue::store::{Next, Store};
use crate::spool::{Page, Recovered, Spool};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Whether a capture wakes the flush thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Nothing.
    Quiet,
    /// A flush has become due, or the thread has to look at the clock, or to make memory ready.
    Notify,
    /// The client has ended; the event is counted as dropped, and nobody is notified.
    Closed,
}

/// The treatment of captured events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    /// It is queued.
    Open,
    /// It is dropped: the quota is used up.
    Suspended,
    /// It is dropped: the client has ended.
    Closed,
}

// The fields that a capture touches lie together, here and in the three structs within: each cache line that another core
// has written takes as long as all of a capture's work under the lock.
#[repr(C)]
pub(crate) struct State {
    max_batch_size: usize,
    max_batch_bytes: usize,
    store: Store,
    max_queue_size: usize,
    max_queue_bytes: usize,
    flush_at: u64,
    /// The threshold has been crossed since the last flush began.
    due: bool,
    /// A flush is under way: attempts, and the waits between them.
    running: bool,
    /// A flush has just ended, and the flush thread looks at the queue again by itself.
    lingering: bool,
    /// The last flush failed.
    failed: bool,
    /// The flush thread looks at the clock by itself; otherwise a capture has to wake it.
    armed: bool,
    intake: Intake,
    /// The spool is being opened: events wait for it in memory.
    opening: bool,
    full_by: Option<Limit>,
    accounts: Accounts,
}

impl State {
    pub fn new(config: &Config) -> Self {
        Self {
            store: match config.spool {
                Some(_) => Store::with_room_below(),
                None => Store::default(),
            },
            accounts: Accounts::default(),
            due: false,
            running: false,
            lingering: false,
            failed: false,
            armed: false,
            intake: Intake::Open,
            opening: config.spool.is_some(),
            flush_at: config.flush_at as u64,
            max_queue_size: config.max_queue_size,
            full_by: None,
            max_queue_bytes: config.max_queue_bytes,
            max_batch_size: config.max_batch_size,
            max_batch_bytes: config.max_batch_bytes,
        }
    }

    /// Adds an open spool. Its events count, and are due: they are older than all queued ones.
    pub fn adopt(&mut self, spool: Arc<Spool>, recovered: &Recovered) {
        // Until it has all that is queued, too.
        self.opening = true;
        self.store.adopt(spool, recovered);
        self.accounts.captured += recovered.events;
        self.due |= recovered.events > 0;
    }

    /// Has some of the events that came before the spool was open go to it. Returns whether that is all of them.
    pub fn catch_up(&mut self) -> bool {
        let done = self.store.catch_up();
        if done {
            self.opening = false;
            self.enforce_bounds();
        }
        done
    }

    /// There is no spool, for now.
    pub fn open_without(&mut self) {
        self.opening = false;
        self.enforce_bounds();
    }

    /// Takes an event's JSON into the queue. Bounds come before the threshold, as in the original: a
    /// queue bounded below `flush_at` never becomes due by count.
    pub fn capture(&mut self, event: Cow<[u8]>, replaced: u64) -> Accepted {
        let reported = self.accounts.has_unreported();
        self.accounts.captured += 1;
        self.accounts.replaced += replaced;
        match self.intake {
            Intake::Open => {}
            Intake::Suspended => {
                self.accounts.drop(Reason::Quota, 1);
                return match reported {
                    true => Accepted::Quiet,
                    false => Accepted::Notify,
                };
            }
            Intake::Closed => {
                self.accounts.drop(Reason::Stopped, 1);
                return Accepted::Closed;
            }
        }
        self.store.push(event);
        self.enforce_bounds();
        let due = !self.due && self.store.len() >= self.flush_at;
        self.due |= due;
        let looks = self.running || self.lingering || self.failed;
        let wake = (due && !looks)
            || !self.armed
            || self.store.took_last_chunk()
            || (!reported && self.accounts.has_unreported());
        self.armed = true;
        if wake {
            Accepted::Notify
        } else {
            Accepted::Quiet
        }
    }

    /// Counts an event that never came into the queue.
    pub fn count_drop(&mut self, reason: Reason) -> Accepted {
        self.accounts.captured += 1;
        self.accounts.drop(reason, 1);
        match self.intake {
            Intake::Closed => Accepted::Closed,
            Intake::Open | Intake::Suspended => Accepted::Notify,
        }
    }

    /// Counts an event that the caller itself keeps: of a client without flush thread, in tests.
    pub fn count_kept(&mut self, replaced: u64) {
        self.accounts.captured += 1;
        self.accounts.replaced += replaced;
        self.accounts.delivered += 1;
    }

    /// One of those was for nobody.
    pub fn disown(&mut self) {
        if self.accounts.delivered > 0 {
            self.accounts.delivered -= 1;
            self.accounts.drop(Reason::Unowned, 1);
        }
    }

    /// Evicts events that are already on disk and drops the rest. Events still being written count only towards the byte limit.
    pub fn enforce_bounds(&mut self) {
        let count_binds = !self.opening && (self.failed || !(self.due || self.running));
        let most = if count_binds {
            self.max_queue_size
        } else {
            usize::MAX
        };
        if self.store.bytes() > self.max_queue_bytes || self.store.in_memory() > most {
            self.enforce(most);
        }
    }

    #[cold]
    fn enforce(&mut self, most: usize) {
        let mut dropped = 0;
        loop {
            let too_large = self.store.bytes() > self.max_queue_bytes;
            if !too_large && self.store.in_memory() <= most {
                break;
            }
            if self.store.evict_oldest() {
                continue;
            }
            if (!too_large && self.store.oldest_is_safe()) || !self.store.drop_oldest() {
                break;
            }
            dropped += 1;
            self.full_by = Some(if too_large {
                Limit::Bytes
            } else {
                Limit::Events
            });
        }
        self.accounts.drop(Reason::QueueFull, dropped);
    }

    /// Returns how many events were dropped for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.accounts.dropped(reason)
    }

    /// Returns the limit that the last drop for [`Reason::QueueFull`] was for.
    pub fn full_by(&self) -> Option<Limit> {
        self.full_by
    }

    /// Returns the drops that no notice has reported yet, once.
    pub fn take_unreported(&mut self) -> impl Iterator<Item = (Reason, u64)> {
        self.accounts.take_unreported()
    }

    /// A flush begins: its target is the number after the last event queued now.
    pub fn begin_flush(&mut self) -> u64 {
        self.due = false;
        self.running = true;
        self.lingering = false;
        self.store.next()
    }

    /// The next batch of the flush under way.
    pub fn take_batch(&mut self) -> Next {
        self.store.take(self.max_batch_size, self.max_batch_bytes)
    }

    /// The next batch, which the spool has fetched; none if some of it was dropped since.
    pub fn take_fetched(&mut self, page: Page) -> Option<Batch> {
        self.store.take_fetched(page)
    }

    /// Events in flight were accepted.
    pub fn delivered(&mut self, events: &Batch) {
        self.accounts.delivered += events.len() as u64;
        self.store.done(events);
    }

    /// Returns a copy of one of the events that are queued.
    pub fn copy_of_any(&self) -> Option<Batch> {
        self.store.copy_of_any()
    }

    /// An event that is queued was accepted. Returns whether it was still there.
    pub fn delivered_queued(&mut self, event: &Batch) -> bool {
        let queued = self.store.done_with(event.numbers().start);
        self.accounts.delivered += u64::from(queued);
        queued
    }

    /// Drops events in flight.
    pub fn drop_in_flight(&mut self, events: &Batch, reason: Reason) {
        self.accounts.drop(reason, events.len() as u64);
        self.store.done(events);
    }

    /// Events in flight go back to the front; of several batches the newest first.
    pub fn put_back(&mut self, events: Batch) {
        self.store.put_back(events);
    }

    /// Events that the spool can't keep, or has kept for too long: all below this number.
    pub fn drop_below(&mut self, number: u64, reason: Reason) {
        let dropped = self.store.drop_below(number);
        self.accounts.drop(reason, dropped);
    }

    /// Drops all events that an earlier run left in the spool.
    pub fn drop_recovered(&mut self, reason: Reason) {
        let dropped = self.store.drop_recovered();
        self.accounts.drop(reason, dropped);
    }

    /// Events that the spool can't read back.
    pub fn lost(&mut self, numbers: Range<u64>) {
        let lost = self.store.lost(numbers);
        self.accounts.drop(Reason::SpoolLost, lost);
    }

    /// The spool has nothing of what it was asked for: what was thought to be there isn't.
    pub fn nothing_fetched(&mut self) {
        let lost = self.store.lost_all();
        self.accounts.drop(Reason::SpoolLost, lost);
    }

    /// Drops all queued events.
    pub fn drop_queued(&mut self, reason: Reason) {
        let dropped = self.store.drop_all();
        self.accounts.drop(reason, dropped);
    }

    /// The quota is used up: drops queued and new events.
    pub fn suspend(&mut self) {
        self.drop_queued(Reason::Quota);
        self.intake = Intake::Suspended;
    }

    /// Events are taken again.
    pub fn resume(&mut self) {
        if self.intake == Intake::Suspended {
            self.intake = Intake::Open;
        }
    }

    pub fn count_retry(&mut self) {
        self.accounts.retries += 1;
    }

    /// The flush under way has ended. After a failure the bound by count holds at once. With `lingers`, no capture wakes the
    /// flush thread for a flush that is due until [`State::stop_lingering`].
    pub fn end_flush(&mut self, failed: bool, lingers: bool) {
        self.running = false;
        self.lingering = lingers;
        self.failed = failed;
        self.due = self.store.len() >= self.flush_at;
        if failed {
            self.enforce_bounds();
        }
    }

    /// From now on the capture that makes a flush due wakes the flush thread.
    pub fn stop_lingering(&mut self) {
        self.lingering = false;
    }

    /// Whether a flush is due by count.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// The number of the oldest event that is not yet delivered.
    pub fn floor(&self) -> u64 {
        self.store.floor()
    }

    /// The number that the next event will have.
    pub fn next(&self) -> u64 {
        self.store.next()
    }

    /// Returns the JSON of the oldest event in memory.
    pub fn oldest(&self) -> Option<Vec<u8>> {
        self.store.oldest()
    }

    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// Has the next capture wake the flush thread, if nothing is queued: the timer stops then.
    pub fn disarm(&mut self) {
        self.armed = !self.store.is_empty();
    }

    /// Ends the client if nothing is left to send. From then on it takes no event.
    pub fn close_if_empty(&mut self) -> bool {
        if self.store.is_empty() {
            self.close();
        }
        self.intake == Intake::Closed
    }

    /// Ends the client: from now on it takes no event.
    pub fn close(&mut self) {
        self.intake = Intake::Closed;
    }

    /// Drops the events that are not on disk, of a client that takes no more. Returns their number.
    pub fn drop_rest(&mut self) -> u64 {
        let (stopped, lost) = self.store.close();
        self.accounts.drop(Reason::Stopped, stopped);
        self.accounts.drop(Reason::SpoolLost, lost);
        stopped
    }

    pub fn stats(&self) -> Stats {
        let (in_flight, bytes_in_flight) = self.store.in_flight();
        Stats {
            queued: self.store.len() + in_flight,
            queued_bytes: self.store.bytes() as u64 + bytes_in_flight,
            in_flight,
            ..self.accounts.stats()
        }
    }
}
