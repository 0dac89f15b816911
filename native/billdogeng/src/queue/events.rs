//! Events as bytes, in the order of their capture.
//!
//! ```text
//! front                                                back
//! chunks: [ {..},{..},{..}, ] [ {..},{..}, ]   tail: [ {..}, ⋯ room ⋯ ]
//! lens:      4    4    4         4    4                 4
//! ```
//!
//! Each event ends in a comma, so that a run of events is the inside of a JSON array but for its last
//! byte, and no event spans two chunks. Taking a batch hands over slices; nothing is copied.

use crate::queue::chunks::{self, CHUNK};
use bytes::{Buf, Bytes, BytesMut};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

/// Events that [`Queue::copy_of_any`] chooses from: to find one costs a look at each before it.
const MOST_LOOKED_AT: usize = 64 * 1024;

/// A run of events, taken off the front of the queue.
#[derive(Debug)]
pub struct Batch {
    first: u64,
    chunks: VecDeque<Bytes>,
    lens: VecDeque<u32>,
    stored: usize,
}

impl Batch {
    /// Events from elsewhere: the bytes of each, its comma included, and all of them in a row.
    pub fn new(first: u64, lens: Vec<u32>, bytes: Vec<u8>) -> Self {
        Self {
            first,
            stored: bytes.len(),
            lens: lens.into(),
            chunks: VecDeque::from([bytes.into()]),
        }
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Bytes of its events' JSON.
    pub fn bytes(&self) -> usize {
        self.stored - self.lens.len()
    }

    /// The numbers of its events.
    pub fn numbers(&self) -> Range<u64> {
        self.first..self.first + self.len() as u64
    }

    /// Its older half, which has no fewer events, and its newer one. One event has an empty half.
    pub fn split(self) -> (Self, Self) {
        let count = self.lens.len().div_ceil(2);
        self.split_at(count)
    }

    /// Splits it before the event at `count`: the older events, and the newer ones.
    pub fn split_at(mut self, count: usize) -> (Self, Self) {
        let older = self.split_off_oldest(count);
        (older, self)
    }

    /// Costs as much as it takes off, however much stays.
    fn split_off_oldest(&mut self, count: usize) -> Self {
        let lens: VecDeque<u32> = self.lens.drain(..count).collect();
        let stored = lens.iter().map(|len| *len as usize).sum();
        let first = self.first;
        self.first += count as u64;
        self.stored -= stored;
        Self {
            first,
            chunks: carve(&mut self.chunks, stored).0,
            lens,
            stored,
        }
    }

    /// Drops the oldest event, and returns the bytes that it took.
    fn drop_oldest(&mut self) -> Option<usize> {
        let len = self.lens.pop_front()? as usize;
        self.first += 1;
        self.stored -= len;
        drop_front(&mut self.chunks, len);
        Some(len)
    }

    /// Puts an older batch that adjoins it before its own events. Costs as much as that batch has.
    fn prepend(&mut self, older: Self) {
        self.first = older.first;
        self.stored += older.stored;
        prepend(&mut self.lens, older.lens);
        prepend(&mut self.chunks, older.chunks);
    }

    /// Lets go of the events; their room is used again.
    pub fn recycle(self) {
        chunks::give_back(self.chunks);
    }

    /// Appends the events, joined by commas.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        for chunk in &self.chunks {
            out.extend_from_slice(chunk);
        }
        out.pop();
    }
}

/// Count and bytes are exact at any moment.
#[derive(Default, Debug)]
pub struct Queue {
    /// Put back with a gap behind it, for events after it were given up or are elsewhere: newest first.
    returned: Vec<Batch>,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    lens: VecDeque<u32>,
    /// Of the events that are not in `returned`.
    first: u64,
    len: usize,
    stored: usize,
}

impl Queue {
    /// Numbers the events anew, from this number on. None may have been taken yet.
    pub fn renumber(&mut self, number: u64) {
        self.first = number;
    }

    /// Shows events, the oldest first, from this number on and until they have so many bytes: the JSON of each.
    /// Answers the number of the next.
    pub fn read(&self, from: u64, max_bytes: usize, mut each: impl FnMut(u64, &[u8])) -> u64 {
        let mut read = 0;
        let mut show = |number, event: &[u8]| {
            let fits = read < max_bytes;
            if fits {
                each(number, event);
                read += event.len() + 1;
            }
            fits
        };
        for batch in self.returned.iter().rev() {
            let chunks = batch.chunks.iter().map(|chunk| &chunk[..]);
            let next = read_run(batch.first, &batch.lens, chunks, from, &mut show);
            if next < batch.numbers().end {
                return next;
            }
        }
        let chunks = self.chunks.iter().map(|chunk| &chunk[..]);
        let chunks = chunks.chain([&self.tail[..]]);
        read_run(self.first, &self.lens, chunks, from, &mut show)
    }

    /// How many events are queued.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no event is queued.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the queued events' JSON.
    pub fn bytes(&self) -> usize {
        self.stored - self.len
    }

    /// The number of the first queued event.
    pub fn head(&self) -> u64 {
        self.returned.last().map_or(self.first, |batch| batch.first)
    }

    /// The number that the next event will have.
    pub fn next(&self) -> u64 {
        self.first + self.lens.len() as u64
    }

    /// Appends one event's JSON. A large one that is owned stays where it is.
    pub fn push(&mut self, event: Cow<[u8]>) {
        let stored = event.len() + 1;
        match event {
            Cow::Owned(mut event) if stored > CHUNK => {
                event.push(b',');
                self.seal();
                self.chunks.push_back(event.into());
            }
            event => {
                if self.tail.capacity() - self.tail.len() < stored {
                    self.seal();
                    self.tail = match stored <= CHUNK {
                        true => chunks::take(),
                        false => BytesMut::with_capacity(stored),
                    };
                }
                self.tail.extend_from_slice(&event);
                self.tail.extend_from_slice(b",");
            }
        }
        self.lens.push_back(stored as u32);
        self.len += 1;
        self.stored += stored;
    }

    /// Lets go of the oldest event. Answers its number, if there was one.
    pub fn drop_oldest(&mut self) -> Option<u64> {
        let number = self.head();
        if let Some(batch) = self.returned.last_mut() {
            let len = batch.drop_oldest()?;
            if batch.len() == 0 {
                self.returned.pop();
            }
            self.len -= 1;
            self.stored -= len;
            return Some(number);
        }
        let len = self.lens.pop_front()? as usize;
        self.len -= 1;
        self.stored -= len;
        self.first += 1;
        if !drop_front(&mut self.chunks, len) {
            self.tail.advance(len);
        }
        Some(number)
    }

    /// Takes events off the front: at least one where there is any, at most `max_events`, and no more
    /// than `max_bytes` of JSON unless the first alone has more. Their numbers follow each other.
    pub fn take(&mut self, max_events: usize, max_bytes: usize) -> Option<Batch> {
        let batch = match self.returned.last_mut() {
            Some(batch) => {
                let count = fitting(&batch.lens, max_events, max_bytes);
                let older = batch.split_off_oldest(count);
                if batch.len() == 0 {
                    self.returned.pop();
                }
                older
            }
            None => {
                let count = fitting(&self.lens, max_events, max_bytes);
                if count == 0 {
                    return None;
                }
                self.split_off_oldest(count)
            }
        };
        self.len -= batch.len();
        self.stored -= batch.stored;
        Some(batch)
    }

    /// Returns a copy of one of the oldest queued events, any of them.
    pub fn copy_of_any(&self) -> Option<Batch> {
        let mut at = fastrand::usize(..self.len.clamp(1, MOST_LOOKED_AT));
        for batch in self.returned.iter().rev() {
            if let Some(len) = batch.lens.get(at) {
                let number = batch.first + at as u64;
                return copy(number, *len, start_of(&batch.lens, at), batch.chunks.iter());
            }
            at -= batch.len();
        }
        let len = self.lens.get(at)?;
        let chunks = self.chunks.iter().map(|chunk| &chunk[..]);
        let chunks = chunks.chain([&self.tail[..]]);
        copy(
            self.first + at as u64,
            *len,
            start_of(&self.lens, at),
            chunks,
        )
    }

    /// Drops the event of this number. Returns whether it was queued.
    pub fn remove(&mut self, number: u64) -> bool {
        let before = self.len;
        let holds = |batch: &Batch| batch.numbers().contains(&number);
        if let Some(index) = self.returned.iter().position(holds) {
            let batch = self.returned.remove(index);
            let at = (number - batch.first) as usize;
            let (older, mut newer) = batch.split_at(at);
            self.stored -= newer.drop_oldest().unwrap_or_default();
            self.len -= 1;
            let around = [newer, older].into_iter().filter(|part| part.len() > 0);
            self.returned.splice(index..index, around);
        } else if (self.first..self.next()).contains(&number) {
            let older = self.split_off_oldest((number - self.first) as usize);
            let event = self.split_off_oldest(1);
            self.stored -= event.stored;
            self.len -= 1;
            if older.len() > 0 {
                self.returned.insert(0, older);
            }
        }
        self.len < before
    }

    /// Of the events that are not in `returned`.
    fn split_off_oldest(&mut self, count: usize) -> Batch {
        let lens: VecDeque<u32> = self.lens.drain(..count).collect();
        let stored = lens.iter().map(|len| *len as usize).sum();
        self.first += count as u64;
        Batch {
            first: self.first - count as u64,
            chunks: self.carve(stored),
            lens,
            stored,
        }
    }

    /// Puts a batch back where it came from: all that is queued is newer. Its events keep their numbers.
    pub fn put_back(&mut self, batch: Batch) {
        self.len += batch.len();
        self.stored += batch.stored;
        let adjoins = batch.numbers().end == self.head();
        match self.returned.last_mut() {
            Some(front) if adjoins => front.prepend(batch),
            None if adjoins => {
                self.first = batch.first;
                prepend(&mut self.lens, batch.lens);
                prepend(&mut self.chunks, batch.chunks);
            }
            _ => self.returned.push(batch),
        }
    }

    /// Makes the written part of the tail a chunk; its room stays usable.
    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    fn carve(&mut self, stored: usize) -> VecDeque<Bytes> {
        let (mut carved, left) = carve(&mut self.chunks, stored);
        if left > 0 {
            carved.push_back(self.tail.split_to(left).freeze());
        }
        carved
    }
}

/// How many of the first events make a batch.
fn fitting(lens: &VecDeque<u32>, max_events: usize, max_bytes: usize) -> usize {
    let (mut count, mut stored) = (0, 0);
    for len in lens.iter().take(max_events.max(1)) {
        if count > 0 && stored + *len as usize - 1 > max_bytes {
            break;
        }
        stored += *len as usize;
        count += 1;
    }
    count
}

/// Where the event at `at` begins.
fn start_of(lens: &VecDeque<u32>, at: usize) -> usize {
    lens.iter().take(at).map(|len| *len as usize).sum()
}

/// A copy of the event that begins at `start` and takes `len` bytes. No event spans two chunks.
fn copy<C: AsRef<[u8]>>(
    number: u64,
    len: u32,
    mut start: usize,
    chunks: impl Iterator<Item = C>,
) -> Option<Batch> {
    for chunk in chunks {
        let chunk = chunk.as_ref();
        if start < chunk.len() {
            let event = chunk[start..start + len as usize].to_vec();
            return Some(Batch::new(number, vec![len], event));
        }
        start -= chunk.len();
    }
    None
}

/// Puts `front` before what `all` has. Costs as much as `front` has.
fn prepend<T>(all: &mut VecDeque<T>, front: VecDeque<T>) {
    for one in front.into_iter().rev() {
        all.push_front(one);
    }
}

/// Drops the first event of `chunks`, of so many bytes. Returns whether there is a chunk.
fn drop_front(chunks: &mut VecDeque<Bytes>, len: usize) -> bool {
    match chunks.front_mut() {
        Some(chunk) if chunk.len() == len => chunks::give_back(chunks.pop_front()),
        Some(chunk) => chunk.advance(len),
        None => return false,
    }
    true
}

/// Takes so many bytes off the front of `chunks`; answers also how many there were not.
fn carve(chunks: &mut VecDeque<Bytes>, mut wanted: usize) -> (VecDeque<Bytes>, usize) {
    let mut carved = VecDeque::new();
    while wanted > 0 {
        let Some(mut chunk) = chunks.pop_front() else {
            break;
        };
        if chunk.len() > wanted {
            let rest = chunk.split_off(wanted);
            chunks.push_front(rest);
        }
        wanted -= chunk.len();
        carved.push_back(chunk);
    }
    (carved, wanted)
}

/// Shows events of a run, from a number on, until one is not wanted. Answers the number of the next.
fn read_run<'a>(
    first: u64,
    lens: &VecDeque<u32>,
    mut chunks: impl Iterator<Item = &'a [u8]>,
    from: u64,
    show: &mut impl FnMut(u64, &[u8]) -> bool,
) -> u64 {
    let (mut number, mut at, mut chunk) = (first, 0, &[][..]);
    for len in lens {
        let len = *len as usize;
        if number >= from {
            // No event spans two of them.
            while at >= chunk.len() {
                at -= chunk.len();
                match chunks.next() {
                    Some(next) => chunk = next,
                    None => return number,
                }
            }
            if !show(number, &chunk[at..at + len - 1]) {
                return number;
            }
        }
        at += len;
        number += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn events(queue: &mut Queue, max: usize, bytes: usize) -> String {
        let mut out = Vec::new();
        if let Some(batch) = queue.take(max, bytes) {
            batch.write_to(&mut out);
        }
        String::from_utf8(out).unwrap()
    }

    fn filled(n: usize) -> Queue {
        let mut queue = Queue::default();
        (0..n).for_each(|i| queue.push(i.to_string().as_bytes().into()));
        queue
    }

    #[test]
    fn events_leave_in_the_order_they_came() {
        let mut queue = filled(5);
        assert_eq!(events(&mut queue, 2, usize::MAX), "0,1");
        queue.push(b"5".into());
        assert_eq!(events(&mut queue, 9, usize::MAX), "2,3,4,5");
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn a_batch_put_back_leaves_first_again() {
        let mut queue = filled(4);
        let batch = queue.take(3, usize::MAX).unwrap();
        queue.push(b"4".into());
        queue.put_back(batch);
        assert_eq!((queue.head(), queue.next(), queue.len()), (0, 5, 5));
        assert_eq!(events(&mut queue, 9, usize::MAX), "0,1,2,3,4");
    }

    #[test]
    fn a_batch_keeps_to_its_bytes_but_never_refuses_a_lone_large_event() {
        let mut queue = Queue::default();
        for event in ["aaaa", "bbbb", "cccccccccc"] {
            queue.push(event.as_bytes().into());
        }
        assert_eq!(events(&mut queue, 9, 9), "aaaa,bbbb");
        assert_eq!(events(&mut queue, 9, 3), "cccccccccc");
    }

    #[test]
    fn dropping_the_oldest_keeps_count_bytes_and_order_across_chunks() {
        let big = vec![b'x'; 40 * 1024];
        let mut queue = Queue::default();
        for _ in 0..5 {
            queue.push((&big).into());
            queue.push(b"1".into());
        }
        let mut left = 10;
        while queue.drop_oldest().is_some() {
            left -= 1;
            assert_eq!(queue.len(), left);
            let bigs = left / 2;
            assert_eq!(queue.bytes(), bigs * big.len() + (left - bigs));
        }
        assert_eq!((left, queue.head()), (0, 10));
    }

    #[test]
    fn what_is_put_back_with_a_gap_behind_it_keeps_its_numbers() {
        let mut queue = filled(9);
        let (older, newer) = queue.take(6, usize::MAX).unwrap().split();
        let (given_up, newer) = newer.split_at(1);
        assert_eq!(given_up.numbers(), 3..4);
        queue.put_back(newer);
        let (oldest, old) = older.split_at(1);
        queue.put_back(old);
        queue.put_back(oldest);
        assert_eq!((queue.head(), queue.next(), queue.len()), (0, 9, 8));
        assert_eq!(queue.drop_oldest(), Some(0));
        let batch = queue.take(1, usize::MAX).unwrap();
        assert_eq!(batch.numbers(), 1..2);
        queue.put_back(batch);
        let batch = queue.take(9, usize::MAX).unwrap();
        assert_eq!(batch.numbers(), 1..3);
        assert_eq!(events(&mut queue, 9, usize::MAX), "4,5,6,7,8");
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
    }

    #[test]
    fn what_is_read_stays_and_goes_on_where_it_was_left() {
        let big = vec![b'x'; 40 * 1024];
        let mut queue = Queue::default();
        let mut all = Vec::new();
        for n in 0..20 {
            let event = if n % 3 == 0 {
                big.clone()
            } else {
                n.to_string().into_bytes()
            };
            queue.push(event.clone().into());
            all.push(event);
        }
        queue.drop_oldest();
        queue.renumber(101);
        for at_once in [0, 1, 50_000, usize::MAX] {
            let (mut next, mut read) = (7, Vec::new());
            loop {
                let from = next;
                next = queue.read(from, at_once, |number, event| {
                    assert_eq!(number, 101 + read.len() as u64);
                    read.push(event.to_vec());
                });
                if next == queue.next() || at_once == 0 {
                    break;
                }
                assert!(next > from, "it goes on");
            }
            let expected = if at_once == 0 { &[][..] } else { &all[1..] };
            assert_eq!(read, expected);
        }
        assert_eq!((queue.len(), queue.head(), queue.next()), (19, 101, 120));
    }

    /// Callers wait for the lock meanwhile: what stays must not be moved for each event that goes.
    #[test]
    fn dropping_from_a_batch_that_was_put_back_moves_no_other_event() {
        let mut queue = filled(1000);
        let batch = queue.take(900, usize::MAX).unwrap();
        queue.drop_oldest();
        queue.put_back(batch);
        let last = |queue: &Queue| {
            let batch = queue.returned.last().expect("a gap behind it");
            (
                std::ptr::from_ref(&batch.lens[batch.len() - 1]),
                batch.chunks[0].as_ptr_range().end,
            )
        };
        let place = last(&queue);
        for number in 0..400 {
            assert_eq!(queue.drop_oldest(), Some(number));
            assert_eq!(last(&queue), place);
        }
        assert_eq!(queue.take(100, usize::MAX).unwrap().numbers(), 400..500);
        assert_eq!(last(&queue).0, place.0);
        let older = queue.take(10, usize::MAX).unwrap();
        queue.put_back(older);
        assert_eq!(last(&queue).0, place.0);
        assert_eq!((queue.head(), queue.len()), (500, 499));
    }

    #[test]
    fn an_event_is_copied_and_dropped_wherever_it_is() {
        let mut queue = filled(9);
        let batch = queue.take(3, usize::MAX).unwrap();
        queue.drop_oldest();
        queue.put_back(batch);
        let mut copied = [false; 9];
        for _ in 0..500 {
            let copy = queue.copy_of_any().expect("an event");
            let number = copy.numbers().start;
            let mut text = Vec::new();
            copy.write_to(&mut text);
            assert_eq!(text, number.to_string().as_bytes());
            copied[number as usize] = true;
        }
        assert_eq!(
            copied,
            [true, true, true, false, true, true, true, true, true]
        );
        assert!(queue.remove(1) && queue.remove(6) && !queue.remove(6) && !queue.remove(3));
        assert_eq!((queue.len(), queue.bytes(), queue.head()), (6, 6, 0));
        let runs: Vec<_> = std::iter::from_fn(|| queue.take(9, usize::MAX)).collect();
        let numbers: Vec<_> = runs.iter().map(Batch::numbers).collect();
        assert_eq!(numbers, [0..1, 2..3, 4..6, 7..9]);
    }

    #[test]
    fn a_batch_splits_into_halves_with_their_own_numbers() {
        let mut queue = filled(9);
        queue.drop_oldest();
        let (older, newer) = queue.take(9, usize::MAX).unwrap().split();
        assert_eq!((older.numbers(), newer.numbers()), (1..5, 5..9));
        assert_eq!((older.bytes(), newer.bytes()), (4, 4));
        queue.put_back(newer);
        queue.put_back(older);
        assert_eq!(events(&mut queue, 9, usize::MAX), "1,2,3,4,5,6,7,8");
    }

    #[test]
    fn a_batch_has_an_event_and_no_more_than_fit() {
        let mut queue = filled(9);
        assert_eq!(events(&mut queue, 0, 0), "0");
        assert_eq!(events(&mut queue, 9, 6), "1,2,3");
        assert_eq!(events(&mut queue, 9, 7), "4,5,6,7");
    }

    #[test]
    fn a_read_stops_after_the_event_that_reaches_its_bytes() {
        let queue = filled(9);
        for (max_bytes, next) in [(0, 2), (1, 3), (2, 3), (3, 4)] {
            assert_eq!(queue.read(2, max_bytes, |_, _| ()), next);
        }
    }

    #[test]
    fn small_events_are_kept_in_chunks_of_one_size() {
        let mut queue = Queue::default();
        (0..300).for_each(|_| queue.push(vec![b'x'; 999].into()));
        let sizes: Vec<_> = queue.chunks.iter().map(Bytes::len).collect();
        assert_eq!(sizes, [CHUNK / 1000 * 1000; 4]);
    }

    /// The events that are queued, by their numbers.
    type Model = BTreeMap<u64, String>;

    fn text(batch: &Batch) -> String {
        let mut out = Vec::new();
        batch.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn assert_same(queue: &Queue, model: &Model) {
        assert_eq!(
            (queue.len(), queue.is_empty()),
            (model.len(), model.is_empty())
        );
        assert_eq!(
            queue.bytes(),
            model.values().map(String::len).sum::<usize>()
        );
        let head = model.keys().next().copied();
        assert_eq!(queue.head(), head.unwrap_or(queue.next()));
        for from in [0, (queue.head() + queue.next()) / 2] {
            let mut read = Vec::new();
            let next = queue.read(from, usize::MAX, |number, event| {
                read.push((number, String::from_utf8_lossy(event).into_owned()));
            });
            assert_eq!(next, queue.next());
            let expected = model.range(from..).map(|(at, event)| (*at, event.clone()));
            assert!(expected.eq(read));
        }
        let copied = queue.copy_of_any();
        assert_eq!(copied.is_some(), !model.is_empty());
        copied.iter().for_each(|copy| {
            assert_eq!(text(copy), model[&copy.numbers().start]);
        });
    }

    /// The oldest events as far as they fit and their numbers follow each other, taken off the model.
    fn oldest(model: &mut Model, max_events: usize, max_bytes: usize) -> Vec<(u64, String)> {
        let mut taken: Vec<(u64, String)> = Vec::new();
        let mut bytes = 0;
        while let Some(entry) = model.first_entry() {
            let follows = taken
                .last()
                .is_none_or(|(last, _)| *entry.key() == last + 1);
            let fits = taken.len() < max_events && bytes + entry.get().len() <= max_bytes;
            if !taken.is_empty() && !(follows && fits) {
                break;
            }
            bytes += entry.get().len() + 1;
            taken.push(entry.remove_entry());
        }
        taken
    }

    /// Puts a batch back but for some of its events, which leave gaps.
    fn put_back_some(
        queue: &mut Queue,
        batch: Batch,
        model: &mut Model,
        random: &mut fastrand::Rng,
    ) {
        let mut rest = Some(batch);
        while let Some(batch) = rest.take().filter(|batch| batch.len() > 0) {
            let (older, newest) = match batch.len() {
                1 => (None, batch),
                len => {
                    let (older, newest) = batch.split_at(len - 1);
                    (Some(older), newest)
                }
            };
            if random.u8(..4) > 0 {
                model.insert(newest.numbers().start, text(&newest));
                queue.put_back(newest);
            }
            rest = older;
        }
    }

    /// Over many random runs: whatever is pushed, taken, put back with gaps, dropped and removed.
    #[test]
    fn it_behaves_as_a_map_from_numbers_to_events() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut queue = Queue::default();
            let mut model = Model::new();
            for n in 0..400 {
                match random.u8(..12) {
                    0..=5 => {
                        let large = if random.u8(..40) == 0 { 400 } else { 1 };
                        let event = format!("{n}{}", "z".repeat(large * random.usize(..300)));
                        model.insert(queue.next(), event.clone());
                        let event = event.into_bytes();
                        match random.bool() {
                            true => queue.push(event.into()),
                            false => queue.push((&event).into()),
                        }
                    }
                    6 => {
                        let dropped = model.pop_first().map(|(number, _)| number);
                        assert_eq!(queue.drop_oldest(), dropped, "seed {seed}");
                    }
                    7 => {
                        let number = random.u64(..queue.next() + 2);
                        let removed = model.remove(&number).is_some();
                        assert_eq!(queue.remove(number), removed, "seed {seed}");
                    }
                    kind => {
                        let (max, bytes) = (random.usize(1..9), random.usize(..1000));
                        let expected = oldest(&mut model, max, bytes);
                        let batch = queue.take(max, bytes);
                        assert_eq!(batch.is_some(), !expected.is_empty());
                        let Some(batch) = batch else { continue };
                        let first = expected[0].0;
                        assert_eq!(batch.numbers(), first..first + expected.len() as u64);
                        let events: Vec<_> = expected.into_iter().map(|(_, event)| event).collect();
                        assert_eq!(text(&batch), events.join(","), "seed {seed}");
                        if kind < 11 {
                            put_back_some(&mut queue, batch, &mut model, &mut random);
                        }
                    }
                }
                assert_same(&queue, &model);
            }
        }
    }
}
