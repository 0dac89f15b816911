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

use crate::queue::batch::{carve, copy, drop_front, prepend, start_of, Batch};
use crate::queue::chunks::{self, CHUNK};
use bytes::{Buf, Bytes, BytesMut};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Events that [`Queue::copy_of_any`] chooses from: to find one costs a look at each before it.
const MOST_LOOKED_AT: usize = 64 * 1024;

/// Count and bytes are exact at any moment.
#[derive(Default, Debug)]
#[repr(C)]
pub struct Queue {
    /// Batches that were put back with a gap behind them, newest first: later events were dropped or are elsewhere.
    returned: Vec<Batch>,
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    lens: VecDeque<u32>,
    /// Of the events that are not in `returned`.
    first: u64,
    len: usize,
    stored: usize,
    took_last_chunk: bool,
}

impl Queue {
    /// Numbers the events anew, from this number on. None may have been taken yet.
    pub fn renumber(&mut self, number: u64) {
        self.first = number;
    }

    /// Shows events, the oldest first, from this number on and until they have so many bytes: the JSON of each.
    /// Returns the number of the next.
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
        self.took_last_chunk = false;
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
                    (self.tail, self.took_last_chunk) = match stored <= CHUNK {
                        true => chunks::take(),
                        false => (BytesMut::with_capacity(stored), false),
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

    /// Returns whether the last event took the last chunk of memory that was ready.
    pub fn took_last_chunk(&self) -> bool {
        self.took_last_chunk
    }

    /// Drops the oldest event. Returns its number, if there was one.
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

/// Shows events of a run, from a number on, until one is not wanted. Returns the number of the next.
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
mod tests;
