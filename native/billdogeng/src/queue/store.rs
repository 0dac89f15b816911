//! Where events are held until they are delivered: in memory, and on disk where there is a spool.
//!
//! ```text
//! in flight │ put back │ on disk alone │ in memory, ◀── captures
//! ◀── older            │               │ and soon on disk
//! ```
//!
//! With a spool every event goes to both. One that is on disk may leave memory where a bound wants it to,
//! and is read back when its turn comes: events leave in the order of their numbers, wherever they are.

use crate::queue::batch::Batch;
use crate::queue::events::Queue;
use crate::spool::{Page, Recovered, Spool, Whereabouts};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The number of the first event of a client with a spool. Events of earlier runs have lower numbers, so that it
/// can be opened at any time.
pub const FIRST: u64 = 1 << 62;
/// Bytes that the spool is handed at once of what came before it was open.
const AT_ONCE: usize = 512 * 1024;

#[derive(Default)]
#[repr(C)]
pub struct Store {
    in_flight: InFlight,
    queue: Queue,
    spool: Option<Arc<Spool>>,
    /// The first of the events that came before the spool was open, and are still to go to it.
    behind: Option<u64>,
    /// Events that are on disk, and neither in memory nor in flight.
    on_disk: u64,
}

/// The batch that was taken, as far as it has not landed.
#[derive(Default)]
struct InFlight {
    numbers: Range<u64>,
    events: u64,
    bytes: u64,
    of_disk: bool,
}

/// The next thing to send.
pub enum Next {
    /// These.
    Batch(Batch),
    /// Events that the spool was asked for: they come with its updates.
    Fetching,
    /// Nothing.
    Nothing,
}

impl Store {
    /// One that a spool is to be adopted by.
    pub fn with_room_below() -> Self {
        let mut store = Self::default();
        store.queue.renumber(FIRST);
        store
    }

    /// Takes the spool that was opened, which counts from [`FIRST`] on, and what it held: all that is queued is newer.
    /// Nothing may be in flight, nor may be until [`Store::catch_up`] has answered that it is done.
    pub fn adopt(&mut self, spool: Arc<Spool>, recovered: &Recovered) {
        self.behind = Some(self.queue.head());
        self.spool = Some(spool);
        self.on_disk = recovered.events;
    }

    /// Hands the spool some of the events that came before it was open: it wants them in their order, so later
    /// ones wait behind them. Returns whether it has all.
    pub fn catch_up(&mut self) -> bool {
        if let (Some(spool), Some(from)) = (&self.spool, self.behind) {
            let append = |number, event: &[u8]| spool.append(number, event);
            let next = self.queue.read(from, AT_ONCE, append);
            self.behind = (next < self.queue.next()).then_some(next);
        }
        self.behind.is_none()
    }

    /// Events held, but for those in flight.
    pub fn len(&self) -> u64 {
        self.queue.len() as u64 + self.on_disk
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Events in memory, but for those in flight.
    pub fn in_memory(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of JSON in memory, but for those in flight.
    pub fn bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// The JSON of the oldest event in memory that is not in flight.
    pub fn oldest(&self) -> Option<Vec<u8>> {
        let mut oldest = None;
        let keep = |_, event: &[u8]| oldest = Some(event.to_vec());
        self.queue.read(self.queue.head(), 1, keep);
        oldest
    }

    /// Events in flight, and their bytes.
    pub fn in_flight(&self) -> (u64, u64) {
        (self.in_flight.events, self.in_flight.bytes)
    }

    /// The number of the oldest event, those in flight among them; or that of the next one.
    pub fn floor(&self) -> u64 {
        match &self.spool {
            _ if self.in_flight.events > 0 => self.in_flight.numbers.start,
            Some(spool) if self.on_disk > 0 => spool.floor().min(self.queue.head()),
            _ => self.queue.head(),
        }
    }

    /// The number that the next event will have.
    pub fn next(&self) -> u64 {
        self.queue.next()
    }

    pub fn push(&mut self, event: Cow<[u8]>) {
        if let Some(spool) = self.spool.as_ref().filter(|_| self.behind.is_none()) {
            spool.append(self.queue.next(), &event);
        }
        self.queue.push(event);
    }

    /// Returns whether the last event took the last chunk of memory that was ready.
    pub fn took_last_chunk(&self) -> bool {
        self.queue.took_last_chunk()
    }

    // ── bounds ──

    /// Whether the oldest event in memory is on disk, or will be in a moment.
    pub fn oldest_is_safe(&self) -> bool {
        self.whereabouts_of_oldest()
            .is_some_and(|whereabouts| whereabouts != Whereabouts::Memory)
    }

    /// Lets the oldest event in memory be on disk alone, if it is there.
    pub fn evict_oldest(&mut self) -> bool {
        let stored = self.whereabouts_of_oldest() == Some(Whereabouts::Disk);
        let evicted = stored && self.queue.drop_oldest().is_some();
        self.on_disk += u64::from(evicted);
        evicted
    }

    fn whereabouts_of_oldest(&self) -> Option<Whereabouts> {
        let spool = self.spool.as_ref().filter(|_| !self.queue.is_empty())?;
        Some(spool.whereabouts(self.queue.head()))
    }

    /// Drops the oldest event in memory. Returns whether there was one.
    pub fn drop_oldest(&mut self) -> bool {
        let Some(number) = self.queue.drop_oldest() else {
            return false;
        };
        self.remove(number..number + 1);
        true
    }

    /// Drops all events below, but for those in flight. Returns how many there were.
    pub fn drop_below(&mut self, number: u64) -> u64 {
        let before = self.len();
        while !self.queue.is_empty() && self.queue.head() < number {
            self.queue.drop_oldest();
        }
        self.remove(0..number.min(self.in_flight_numbers().start));
        self.remove(self.in_flight_numbers().end..number);
        self.recount();
        before - self.len()
    }

    /// Drops all events but for those in flight. Returns how many there were.
    pub fn drop_all(&mut self) -> u64 {
        self.drop_below(self.queue.next())
    }

    /// Drops the events that the spool had when it was adopted, before it gets others. Returns how many events
    /// there were.
    pub fn drop_recovered(&mut self) -> u64 {
        self.remove(0..FIRST);
        std::mem::take(&mut self.on_disk)
    }

    /// Drops events that could not be read back from the disk. Returns how many events there were.
    pub fn lost(&mut self, numbers: Range<u64>) -> u64 {
        let before = self.len();
        self.remove(numbers.start..numbers.end.min(self.queue.head()));
        self.recount();
        before - self.len()
    }

    /// Drops events that are on disk alone.
    pub fn lost_all(&mut self) -> u64 {
        self.lost(0..self.queue.head())
    }

    /// Leaves the events on disk to a closed spool, and drops the rest. Returns how many
    /// events were in memory, and how many nowhere any more.
    pub fn close(&mut self) -> (u64, u64) {
        let Some(spool) = &self.spool else {
            return (self.drop_all(), 0);
        };
        let gone = spool.leave();
        let (mut dropped, mut later) = (0, gone.iter().peekable());
        while let Some(number) = self.queue.drop_oldest() {
            while later.next_if(|range| range.end <= number).is_some() {}
            dropped += u64::from(later.peek().is_some_and(|range| range.start <= number));
        }
        let all: u64 = gone.iter().map(|range| range.end - range.start).sum();
        self.recount();
        (dropped, all - dropped)
    }

    // ── batches ──

    /// Takes the oldest events. Nothing may be in flight.
    pub fn take(&mut self, max_events: usize, max_bytes: usize) -> Next {
        if let Some(spool) = self.spool.as_ref().filter(|_| self.on_disk > 0) {
            if spool.floor() < self.queue.head() {
                spool.fetch(self.queue.head(), max_events, max_bytes);
                return Next::Fetching;
            }
        }
        match self.queue.take(max_events, max_bytes) {
            Some(batch) => Next::Batch(self.take_off(batch, false)),
            None => Next::Nothing,
        }
    }

    /// Takes events that the spool has fetched, unless any of them was dropped since.
    pub fn take_fetched(&mut self, page: Page) -> Option<Batch> {
        let spool = self.spool.as_ref()?;
        let whole = spool.live(page.numbers()) == page.lens.len() as u64;
        (whole && page.numbers().end <= self.queue.head()).then(|| {
            self.on_disk -= page.lens.len() as u64;
            self.take_off(Batch::new(page.first, page.lens, page.bytes), true)
        })
    }

    fn take_off(&mut self, batch: Batch, of_disk: bool) -> Batch {
        self.in_flight = InFlight {
            numbers: batch.numbers(),
            events: batch.len() as u64,
            bytes: batch.bytes() as u64,
            of_disk,
        };
        self.hold();
        batch
    }

    /// Notifies the spool of the events in flight.
    fn hold(&self) {
        if let Some(spool) = &self.spool {
            let none = self.in_flight.events == 0;
            spool.hold(if none {
                0..0
            } else {
                self.in_flight.numbers.clone()
            });
        }
    }

    /// Removes events in flight that were delivered or dropped.
    pub fn done(&mut self, events: &Batch) {
        self.landed(events);
        self.remove(events.numbers());
    }

    /// Events in flight go back to where they came from; of several batches the newest first.
    pub fn put_back(&mut self, events: Batch) {
        self.landed(&events);
        if self.in_flight.of_disk {
            self.on_disk += events.len() as u64;
        } else {
            self.queue.put_back(events);
        }
    }

    /// Returns a copy of one of the events in memory, any of the oldest but for those in flight.
    pub fn copy_of_any(&self) -> Option<Batch> {
        self.queue.copy_of_any()
    }

    /// An event that is not in flight is done with. Returns whether it was still there.
    pub fn done_with(&mut self, number: u64) -> bool {
        let queued = self.queue.remove(number);
        let stored = match &self.spool {
            Some(spool) => spool.remove(number..number + 1),
            None => 0,
        };
        let evicted = stored > 0 && !queued;
        self.on_disk -= u64::from(evicted);
        queued || evicted
    }

    fn landed(&mut self, events: &Batch) {
        self.in_flight.events -= events.len() as u64;
        self.in_flight.bytes -= events.bytes() as u64;
        if self.in_flight.numbers.start == events.numbers().start {
            self.in_flight.numbers.start = events.numbers().end;
        }
        self.hold();
    }

    /// Of all that may still be in flight; empty, and at the end of everything, where nothing is.
    fn in_flight_numbers(&self) -> Range<u64> {
        match self.in_flight.events {
            0 => u64::MAX..u64::MAX,
            _ => self.in_flight.numbers.clone(),
        }
    }

    // ── the spool's books ──

    fn remove(&self, numbers: Range<u64>) {
        if let Some(spool) = self.spool.as_ref().filter(|_| !numbers.is_empty()) {
            spool.remove(numbers);
        }
    }

    fn recount(&mut self) {
        debug_assert!(
            self.behind.is_none(),
            "the spool does not have all events yet"
        );
        if let Some(spool) = &self.spool {
            let elsewhere = self.queue.len() as u64 + self.in_flight.events;
            self.on_disk = spool.live(0..self.queue.next()) - elsewhere;
        }
    }
}

#[cfg(test)]
mod tests;
