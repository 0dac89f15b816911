//! What callers and the flush thread share: the queue, its bounds and the accounts, under one lock.

use crate::config::Config;
use crate::queue::{Batch, Queue};

/// Why an event was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// A bound was reached; the oldest made room.
    QueueFull,
    /// Larger than `max_event_bytes`, or than the ingest takes (413).
    TooLarge,
    /// The ingest refused it (400, 422), and accepted others of its batch.
    Rejected,
    /// The project's quota is used up.
    Quota,
    /// The app's own `before_send` took it out, or failed.
    BeforeSend,
    /// Still queued when the time of a client without owner was over.
    Stopped,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 6] = [
        Reason::QueueFull,
        Reason::TooLarge,
        Reason::Rejected,
        Reason::Quota,
        Reason::BeforeSend,
        Reason::Stopped,
    ];
}

/// The accounts: `captured = delivered + dropped + queued`, always.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Events that were handed in.
    pub captured: u64,
    /// Events whose batch the ingest accepted.
    pub delivered: u64,
    /// Events held, those in flight among them.
    pub queued: u64,
    /// Bytes of their JSON.
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
    /// The client has ended; the event was not taken.
    Closed,
}

pub(crate) struct State {
    queue: Queue,
    captured: u64,
    delivered: u64,
    retries: u64,
    replaced: u64,
    dropped: [u64; Reason::ALL.len()],
    untold: [u64; Reason::ALL.len()],
    in_flight: (u64, u64),
    /// The threshold has been crossed since the last flush began.
    due: bool,
    /// A flush is under way: attempts, and the waits between them.
    running: bool,
    /// The last flush failed.
    failed: bool,
    /// The flush thread looks at the clock by itself; without it a capture has to tell it to.
    armed: bool,
    closed: bool,
    /// The quota is used up: events are given up as they come.
    suspended: bool,
    flush_at: usize,
    max_queue_size: usize,
    max_queue_bytes: usize,
    max_batch_size: usize,
    max_batch_bytes: usize,
}

impl State {
    pub fn new(config: &Config) -> Self {
        Self {
            queue: Queue::default(),
            captured: 0,
            delivered: 0,
            retries: 0,
            replaced: 0,
            dropped: [0; Reason::ALL.len()],
            untold: [0; Reason::ALL.len()],
            in_flight: (0, 0),
            due: false,
            running: false,
            failed: false,
            armed: false,
            closed: false,
            suspended: false,
            flush_at: config.flush_at,
            max_queue_size: config.max_queue_size,
            max_queue_bytes: config.max_queue_bytes,
            max_batch_size: config.max_batch_size,
            max_batch_bytes: config.max_batch_bytes,
        }
    }

    /// Takes an event's JSON into the queue. Bounds come before the threshold, as in the original: a
    /// queue bounded below `flush_at` never becomes due by count.
    pub fn capture(&mut self, event: &[u8], replaced: u64) -> Accepted {
        if self.closed {
            return Accepted::Closed;
        }
        let told = self.has_untold();
        self.captured += 1;
        self.replaced += replaced;
        if self.suspended {
            self.count_dropped(Reason::Quota, 1);
            return if told {
                Accepted::Quiet
            } else {
                Accepted::Notify
            };
        }
        self.queue.push(event);
        self.enforce_bounds();
        let due = !self.due && self.queue.len() >= self.flush_at;
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
        if self.closed {
            return Accepted::Closed;
        }
        self.captured += 1;
        self.count_dropped(reason, 1);
        Accepted::Notify
    }

    fn enforce_bounds(&mut self) {
        let count_binds = self.failed || !(self.due || self.running);
        let most = if count_binds {
            self.max_queue_size
        } else {
            usize::MAX
        };
        let mut dropped = 0;
        while (self.queue.len() > most || self.queue.bytes() > self.max_queue_bytes)
            && self.queue.drop_oldest()
        {
            dropped += 1;
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
        self.queue.next()
    }

    /// The next batch of the flush under way.
    pub fn take_batch(&mut self) -> Option<Batch> {
        let batch = self.queue.take(self.max_batch_size, self.max_batch_bytes)?;
        self.in_flight = (batch.len() as u64, batch.bytes() as u64);
        Some(batch)
    }

    /// Events in flight were accepted.
    pub fn delivered(&mut self, events: Batch) {
        self.delivered += events.len() as u64;
        self.landed(&events);
    }

    /// Events in flight are given up.
    pub fn give_up_in_flight(&mut self, events: Batch, reason: Reason) {
        self.count_dropped(reason, events.len() as u64);
        self.landed(&events);
    }

    /// Events in flight go back to the front; of several batches the newest first.
    pub fn put_back(&mut self, events: Batch) {
        self.landed(&events);
        self.queue.put_back(events);
    }

    fn landed(&mut self, events: &Batch) {
        self.in_flight.0 -= events.len() as u64;
        self.in_flight.1 -= events.bytes() as u64;
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
        self.due = self.queue.len() >= self.flush_at;
        if failed {
            self.enforce_bounds();
        }
    }

    /// Whether a flush is due by count.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// The number of the oldest event that is not yet delivered, while none is in flight.
    pub fn head(&self) -> u64 {
        self.queue.head()
    }

    /// The number that the next event will have.
    pub fn next(&self) -> u64 {
        self.queue.next()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The flush thread no longer looks at the clock, if there is nothing to look for.
    pub fn disarm(&mut self) -> bool {
        self.armed = !self.queue.is_empty();
        !self.armed
    }

    /// Ends the client if nothing is left to send. From then on it takes no event.
    pub fn close_if_empty(&mut self) -> bool {
        self.closed |= self.queue.is_empty();
        self.closed
    }

    /// Gives up what is left and ends the client; answers how many events that were.
    pub fn close(&mut self) -> u64 {
        self.closed = true;
        self.give_up_queued(Reason::Stopped)
    }

    fn give_up_queued(&mut self, reason: Reason) -> u64 {
        let left = self.queue.len() as u64;
        while self.queue.drop_oldest() {}
        self.count_dropped(reason, left);
        left
    }

    pub fn stats(&self) -> Stats {
        Stats {
            captured: self.captured,
            delivered: self.delivered,
            queued: self.queue.len() as u64 + self.in_flight.0,
            queued_bytes: self.queue.bytes() as u64 + self.in_flight.1,
            in_flight: self.in_flight.0,
            retries: self.retries,
            replaced: self.replaced,
            dropped: self.dropped,
        }
    }
}
