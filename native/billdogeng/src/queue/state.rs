//! What callers and the flush thread share: what is queued, its bounds and the accounts, under one lock.

use crate::config::Config;
use crate::queue::batch::Batch;
use crate::queue::store::{Next, Store};
use crate::spool::{Page, Recovered, Spool};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Why an event was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// A bound was reached; the oldest made room.
    QueueFull,
    /// Larger than `max_event_bytes`, or than the ingest takes (413).
    TooLarge,
    /// The ingest refused it, and accepted others.
    Rejected,
    /// The project's quota is used up.
    Quota,
    /// The app's own `before_send` took it out, or failed.
    BeforeSend,
    /// Captured by a hook of the client itself, which would call that hook again.
    InHook,
    /// It could not be captured: app code or this library failed on it.
    Failed,
    /// Still queued when the time of a client without owner was over, or captured after that.
    Stopped,
    /// The spool was at its bound; the oldest made room.
    SpoolFull,
    /// On disk for longer than the spool keeps events.
    Expired,
    /// It was on disk, and could not be read back.
    SpoolLost,
    /// The app purged the client.
    Purged,
    /// The client is a disabled one.
    Disabled,
    /// In tests: of a process that no test answers for.
    Unowned,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 14] = [
        Reason::QueueFull,
        Reason::TooLarge,
        Reason::Rejected,
        Reason::Quota,
        Reason::BeforeSend,
        Reason::InHook,
        Reason::Failed,
        Reason::Stopped,
        Reason::SpoolFull,
        Reason::Expired,
        Reason::SpoolLost,
        Reason::Purged,
        Reason::Disabled,
        Reason::Unowned,
    ];
}

/// The limit of the queue for which the oldest events are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_queue_size`.
    Events,
    /// `max_queue_bytes`.
    Bytes,
}

/// The accounts: `captured = delivered + dropped + queued`, always.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Events that were handed in, and those that the spool held at the start.
    pub captured: u64,
    /// Events whose batch the ingest accepted.
    pub delivered: u64,
    /// Events held, those in flight among them.
    pub queued: u64,
    /// Bytes of the JSON of those that are in memory.
    pub queued_bytes: u64,
    /// Events of the batch being sent.
    pub in_flight: u64,
    /// Attempts after the first of a request.
    pub retries: u64,
    /// Values written in another form than their own.
    pub replaced: u64,
    /// Events given up, by reason, in the order of [`Reason::ALL`].
    pub dropped: [u64; Reason::ALL.len()],
}

/// What a capture has to tell the flush thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Nothing.
    Quiet,
    /// A flush has become due, or the thread has to look at the clock.
    Notify,
    /// The client has ended; the event is counted as dropped, and nobody is notified.
    Closed,
}

pub(crate) struct State {
    store: Store,
    captured: u64,
    delivered: u64,
    retries: u64,
    replaced: u64,
    dropped: [u64; Reason::ALL.len()],
    untold: [u64; Reason::ALL.len()],
    /// The threshold has been crossed since the last flush began.
    due: bool,
    /// A flush is under way: attempts, and the waits between them.
    running: bool,
    /// The last flush failed.
    failed: bool,
    /// The flush thread looks at the clock by itself; without it a capture has to tell it to.
    armed: bool,
    closed: bool,
    /// The spool is being opened: events wait for it in memory.
    opening: bool,
    /// The quota is used up: events are given up as they come.
    suspended: bool,
    flush_at: u64,
    max_queue_size: usize,
    full_by: Option<Limit>,
    max_queue_bytes: usize,
    max_batch_size: usize,
    max_batch_bytes: usize,
}

impl State {
    pub fn new(config: &Config) -> Self {
        Self {
            store: match config.spool {
                Some(_) => Store::with_room_below(),
                None => Store::default(),
            },
            captured: 0,
            delivered: 0,
            retries: 0,
            replaced: 0,
            dropped: [0; Reason::ALL.len()],
            untold: [0; Reason::ALL.len()],
            due: false,
            running: false,
            failed: false,
            armed: false,
            closed: false,
            opening: config.spool.is_some(),
            suspended: false,
            flush_at: config.flush_at as u64,
            max_queue_size: config.max_queue_size,
            full_by: None,
            max_queue_bytes: config.max_queue_bytes,
            max_batch_size: config.max_batch_size,
            max_batch_bytes: config.max_batch_bytes,
        }
    }

    /// The spool is open. What it holds counts, and has waited long enough: it is older than all that is queued.
    pub fn adopt(&mut self, spool: Arc<Spool>, recovered: &Recovered) {
        // Until it has all that is queued, too.
        self.opening = true;
        self.store.adopt(spool, recovered);
        self.captured += recovered.events;
        self.due |= recovered.events > 0;
    }

    /// Has some of the events that came before the spool was open go to it. Answers whether that is all of them.
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
        let told = self.has_untold();
        self.captured += 1;
        self.replaced += replaced;
        if self.closed {
            self.count_dropped(Reason::Stopped, 1);
            return Accepted::Closed;
        }
        if self.suspended {
            self.count_dropped(Reason::Quota, 1);
            return if told {
                Accepted::Quiet
            } else {
                Accepted::Notify
            };
        }
        self.store.push(event);
        self.enforce_bounds();
        let due = !self.due && self.store.len() >= self.flush_at;
        self.due |= due;
        let wake =
            (due && !self.running && !self.failed) || !self.armed || (!told && self.has_untold());
        self.armed = true;
        if wake {
            Accepted::Notify
        } else {
            Accepted::Quiet
        }
    }

    /// Counts an event that never came into the queue.
    pub fn give_up(&mut self, reason: Reason) -> Accepted {
        self.captured += 1;
        self.count_dropped(reason, 1);
        if self.closed {
            return Accepted::Closed;
        }
        Accepted::Notify
    }

    /// Counts an event that the caller itself keeps: of a client without flush thread, in tests.
    pub fn hand_back(&mut self, replaced: u64) {
        self.captured += 1;
        self.replaced += replaced;
        self.delivered += 1;
    }

    /// One of those was for nobody.
    pub fn disown(&mut self) {
        if self.delivered > 0 {
            self.delivered -= 1;
            self.count_dropped(Reason::Unowned, 1);
        }
    }

    /// What is on disk leaves memory; what isn't is given up. Only bytes bind what is about to be on disk.
    pub fn enforce_bounds(&mut self) {
        let count_binds = !self.opening && (self.failed || !(self.due || self.running));
        let most = if count_binds {
            self.max_queue_size
        } else {
            usize::MAX
        };
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
        self.count_dropped(Reason::QueueFull, dropped);
    }

    fn count_dropped(&mut self, reason: Reason, count: u64) {
        self.dropped[reason as usize] += count;
        self.untold[reason as usize] += count;
    }

    /// How many events were given up for this reason.
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    fn has_untold(&self) -> bool {
        self.untold.iter().any(|count| *count > 0)
    }

    /// Returns the limit that the last drop for [`Reason::QueueFull`] was for.
    pub fn full_by(&self) -> Option<Limit> {
        self.full_by
    }

    /// Drops that no notice has told of yet.
    pub fn take_untold(&mut self) -> impl Iterator<Item = (Reason, u64)> {
        let untold = std::mem::take(&mut self.untold);
        Reason::ALL
            .into_iter()
            .zip(untold)
            .filter(|(_, count)| *count > 0)
    }

    /// A flush begins: its target is the number after the last event queued now.
    pub fn begin_flush(&mut self) -> u64 {
        self.due = false;
        self.running = true;
        self.store.next()
    }

    /// The next batch of the flush under way.
    pub fn take_batch(&mut self) -> Next {
        self.store.take(self.max_batch_size, self.max_batch_bytes)
    }

    /// The next batch, which the spool has fetched; none if some of it was given up since.
    pub fn take_fetched(&mut self, page: Page) -> Option<Batch> {
        self.store.take_fetched(page)
    }

    /// Events in flight were accepted.
    pub fn delivered(&mut self, events: &Batch) {
        self.delivered += events.len() as u64;
        self.store.done(events);
    }

    /// Returns a copy of one of the events that are queued.
    pub fn copy_of_any(&self) -> Option<Batch> {
        self.store.copy_of_any()
    }

    /// An event that is queued was accepted. Returns whether it was still there.
    pub fn delivered_queued(&mut self, event: &Batch) -> bool {
        let queued = self.store.done_with(event.numbers().start);
        self.delivered += u64::from(queued);
        queued
    }

    /// Events in flight are given up.
    pub fn give_up_in_flight(&mut self, events: &Batch, reason: Reason) {
        self.count_dropped(reason, events.len() as u64);
        self.store.done(events);
    }

    /// Events in flight go back to the front; of several batches the newest first.
    pub fn put_back(&mut self, events: Batch) {
        self.store.put_back(events);
    }

    /// Events that the spool can't keep, or has kept for too long: all below this number.
    pub fn give_up_below(&mut self, number: u64, reason: Reason) {
        let dropped = self.store.drop_below(number);
        self.count_dropped(reason, dropped);
    }

    /// All that an earlier run has left in the spool is given up.
    pub fn give_up_recovered(&mut self, reason: Reason) {
        let dropped = self.store.drop_recovered();
        self.count_dropped(reason, dropped);
    }

    /// Events that the spool can't read back.
    pub fn lost(&mut self, numbers: Range<u64>) {
        let lost = self.store.lost(numbers);
        self.count_dropped(Reason::SpoolLost, lost);
    }

    /// The spool has nothing of what it was asked for: what was thought to be there isn't.
    pub fn nothing_fetched(&mut self) {
        let lost = self.store.lost_all();
        self.count_dropped(Reason::SpoolLost, lost);
    }

    /// All that is queued is given up.
    pub fn give_up_queued(&mut self, reason: Reason) {
        let dropped = self.store.drop_all();
        self.count_dropped(reason, dropped);
    }

    /// The quota is used up: what is queued is given up, and what comes.
    pub fn suspend(&mut self) {
        self.give_up_queued(Reason::Quota);
        self.suspended = true;
    }

    /// Events are taken again.
    pub fn resume(&mut self) {
        self.suspended = false;
    }

    pub fn count_retry(&mut self) {
        self.retries += 1;
    }

    /// The flush under way has ended. After a failure the bound by count holds at once.
    pub fn end_flush(&mut self, failed: bool) {
        self.running = false;
        self.failed = failed;
        self.due = self.store.len() >= self.flush_at;
        if failed {
            self.enforce_bounds();
        }
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

    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// The flush thread no longer looks at the clock, if there is nothing to look for.
    pub fn disarm(&mut self) -> bool {
        self.armed = !self.store.is_empty();
        !self.armed
    }

    /// Ends the client if nothing is left to send. From then on it takes no event.
    pub fn close_if_empty(&mut self) -> bool {
        self.closed |= self.store.is_empty();
        self.closed
    }

    /// Ends the client: from now on it takes no event.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Of a client that takes no more: what is not on disk is given up. Answers how many events that were.
    pub fn give_up_rest(&mut self) -> u64 {
        let (stopped, lost) = self.store.close();
        self.count_dropped(Reason::Stopped, stopped);
        self.count_dropped(Reason::SpoolLost, lost);
        stopped
    }

    pub fn stats(&self) -> Stats {
        let (in_flight, bytes_in_flight) = self.store.in_flight();
        Stats {
            captured: self.captured,
            delivered: self.delivered,
            queued: self.store.len() + in_flight,
            queued_bytes: self.store.bytes() as u64 + bytes_in_flight,
            in_flight,
            retries: self.retries,
            replaced: self.replaced,
            dropped: self.dropped,
        }
    }
}
