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
pub struct Store {
    queue: Queue,
    spool: Option<Arc<Spool>>,
    /// The first of the events that came before the spool was open, and are still to go to it.
    behind: Option<u64>,
    /// Events that are on disk, and neither in memory nor in flight.
    on_disk: u64,
    in_flight: InFlight,
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
mod tests {
    use super::*;
    use crate::spool::{Fetched, Options, PATIENCE};
    use std::collections::VecDeque;
    use std::path::Path;
    use std::time::Duration;
    use tempfile::TempDir;

    fn options(dir: impl AsRef<Path>) -> Options {
        Options {
            dir: dir.as_ref().into(),
            max_bytes: 64 << 20,
            max_age: Duration::from_secs(3600),
            patience: PATIENCE,
        }
    }

    fn open(dir: impl AsRef<Path>) -> Store {
        let (spool, recovered) = Spool::open(&options(dir), || {}).expect("a spool");
        let mut store = Store::with_room_below();
        store.adopt(Arc::new(spool.counting_from(FIRST)), &recovered);
        assert!(store.catch_up());
        store
    }

    fn spool(store: &Store) -> &Spool {
        store.spool.as_deref().expect("a spool")
    }

    fn sync(store: &Store) {
        let number = spool(store).sync();
        while spool(store).synced() < number {
            std::thread::yield_now();
        }
    }

    fn take(store: &mut Store, max_events: usize) -> Option<Batch> {
        loop {
            match store.take(max_events, usize::MAX) {
                Next::Batch(batch) => return Some(batch),
                Next::Nothing => return None,
                Next::Fetching => {}
            }
            let fetched = loop {
                if let Some(fetched) = spool(store).updates().fetched {
                    break fetched;
                }
                std::thread::yield_now();
            };
            match fetched {
                Fetched::Events(page) => {
                    if let Some(batch) = store.take_fetched(page) {
                        return Some(batch);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn text(batch: &Batch) -> String {
        let mut out = Vec::new();
        batch.write_to(&mut out);
        String::from_utf8(out).expect("JSON")
    }

    #[test]
    fn what_left_memory_comes_back_in_its_turn() {
        let dir = TempDir::new().expect("a directory");
        let mut store = open(&dir);
        (0..10).for_each(|n: u64| store.push(n.to_string().as_bytes().into()));
        assert!(!store.evict_oldest(), "it is not on disk yet");
        assert!(store.oldest_is_safe());
        sync(&store);
        (0..4).for_each(|_| assert!(store.evict_oldest()));
        assert_eq!((store.len(), store.in_memory(), store.bytes()), (10, 6, 6));
        let batch = take(&mut store, 3).expect("a batch");
        assert_eq!(text(&batch), "0,1,2");
        assert_eq!((store.len(), store.floor()), (7, FIRST));
        store.done(&batch);
        assert_eq!(store.floor(), FIRST + 3);
        assert_eq!(text(&take(&mut store, 9).expect("a batch")), "3");
    }

    #[test]
    fn what_is_closed_leaves_to_the_disk_what_is_there() {
        let dir = TempDir::new().expect("a directory");
        let mut store = open(&dir);
        (0..5).for_each(|n: u64| store.push(n.to_string().as_bytes().into()));
        assert!(spool(&store).close(Duration::from_secs(10)));
        store.push(b"5".into());
        assert_eq!(store.close(), (1, 0));
        assert_eq!(store.len(), 5);
        drop(store);
        let mut store = open(&dir);
        assert_eq!((store.len(), store.next()), (5, FIRST));
        assert_eq!(text(&take(&mut store, 9).expect("a batch")), "0,1,2,3,4");
    }

    #[test]
    fn what_came_before_the_spool_was_open_is_behind_what_it_held_and_on_disk_too() {
        let dir = TempDir::new().expect("a directory");
        let mut store = open(&dir);
        (0..3).for_each(|n: u64| store.push(format!("old{n}").as_bytes().into()));
        assert!(spool(&store).close(Duration::from_secs(10)));
        drop(store);

        let mut store = Store::with_room_below();
        let event = |n: u64| format!("{n}{}", "z".repeat(AT_ONCE / 4));
        let mut pushed = 0;
        let mut push = |store: &mut Store| {
            store.push(event(pushed).into_bytes().into());
            pushed += 1;
        };
        (0..10).for_each(|_| push(&mut store));
        store.drop_oldest();
        let (opened, recovered) = Spool::open(&options(&dir), || {}).expect("a spool");
        store.adopt(Arc::new(opened.counting_from(FIRST)), &recovered);
        let mut parts = 1;
        while !store.catch_up() {
            parts += 1;
            if parts < 5 {
                // Later ones wait behind the earlier ones.
                push(&mut store);
            }
        }
        assert!(parts > 2, "in parts");
        push(&mut store);
        let events = 3 + pushed - 1;
        assert_eq!((store.len(), store.floor()), (events, FIRST - 3));
        sync(&store);
        (1..pushed).for_each(|_| assert!(store.evict_oldest(), "it is on disk"));
        assert_eq!((store.len(), store.in_memory()), (events, 0));
        let mut texts = Vec::new();
        while let Some(batch) = take(&mut store, 1) {
            texts.push(text(&batch));
            store.done(&batch);
        }
        let old = (0..3).map(|n| format!("old{n}"));
        assert_eq!(texts, old.chain((1..pushed).map(event)).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_closed_leaves_nothing_to_a_directory_that_is_gone() {
        let parent = TempDir::new().expect("a directory");
        let dir = parent.path().join("spool");
        let mut store = open(&dir);
        (0..5).for_each(|n: u64| store.push(n.to_string().as_bytes().into()));
        sync(&store);
        (0..3).for_each(|_| assert!(store.evict_oldest()));
        std::fs::remove_dir_all(&dir).expect("it was there");
        assert!(spool(&store).close(Duration::from_secs(10)));
        assert_eq!(store.close(), (2, 3));
        assert!(store.is_empty());
    }

    /// A disk may take longer than the client waits. Events counted as dropped are not sent by the next start.
    #[test]
    fn what_is_left_is_what_the_next_start_has_however_long_the_last_sync_takes() {
        let dir = TempDir::new().expect("a directory");
        let mut left = 0;
        for n in 0..50u64 {
            let mut store = open(&dir);
            assert_eq!(store.len(), left, "round {n}");
            (0..100).for_each(|_| store.push(b"1".into()));
            if n % 2 == 0 {
                sync(&store);
                (0..10).for_each(|_| store.push(b"2".into()));
            }
            spool(&store).close(Duration::from_micros(100 * n));
            store.close();
            left = store.len();
        }
    }

    /// Against a plain list: pushed, taken, refused in parts, put back, evicted, dropped, and begun anew.
    #[test]
    fn it_behaves_as_a_plain_list_does_wherever_events_are() {
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let dir = TempDir::new().expect("a directory");
            let mut store = open(&dir);
            let mut model: VecDeque<String> = VecDeque::new();
            for n in 0..150 {
                match random.u8(..20) {
                    0..=9 => {
                        let event = format!("{n}{}", "z".repeat(random.usize(..300)));
                        store.push(event.as_bytes().into());
                        model.push_back(event);
                    }
                    10 => sync(&store),
                    11..=13 => {
                        for _ in 0..random.u8(..5) {
                            store.evict_oldest();
                        }
                    }
                    14 => {
                        let below = store.floor() + random.u64(..3);
                        let dropped = store.drop_below(below.min(store.next()));
                        model.drain(..dropped as usize);
                    }
                    15 => {
                        spool(&store).close(Duration::from_secs(10));
                        assert_eq!(store.close(), (0, 0), "seed {seed}");
                        drop(store);
                        store = open(&dir);
                    }
                    _ => {
                        let Some(batch) = take(&mut store, random.usize(1..9)) else {
                            assert!(model.is_empty());
                            continue;
                        };
                        let all: Vec<_> = model.drain(..batch.len()).collect();
                        assert_eq!(text(&batch), all.join(","), "seed {seed}");
                        let mut all = VecDeque::from(all);
                        for _ in 0..random.u8(..3) {
                            store.evict_oldest();
                        }
                        // One part or the other is delivered, and the rest is put back.
                        let (older, newer) = batch.split();
                        let parts: Vec<_> = [older, newer]
                            .into_iter()
                            .filter(|half| half.len() > 0)
                            .collect();
                        let mut left = Vec::new();
                        for half in parts {
                            let events: Vec<_> = all.drain(..half.len()).collect();
                            if random.bool() {
                                store.done(&half);
                            } else {
                                left.push((half, events));
                            }
                        }
                        for (half, events) in left.into_iter().rev() {
                            store.put_back(half);
                            events.into_iter().rev().for_each(|e| model.push_front(e));
                        }
                    }
                }
                assert_eq!(store.len(), model.len() as u64, "seed {seed}, step {n}");
                assert_eq!(store.in_flight(), (0, 0));
            }
            while let Some(batch) = take(&mut store, 7) {
                let events: Vec<_> = model.drain(..batch.len()).collect();
                assert_eq!(text(&batch), events.join(","), "seed {seed}");
                store.done(&batch);
            }
            assert!(model.is_empty(), "seed {seed}");
        }
    }
}
