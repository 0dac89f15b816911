//! A run of events, taken off the queue.

use crate::queue::chunks;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::ops::Range;

/// A run of events, taken off the front of the queue.
#[derive(Debug)]
pub struct Batch {
    pub(super) first: u64,
    pub(super) chunks: VecDeque<Bytes>,
    pub(super) lens: VecDeque<u32>,
    pub(super) stored: usize,
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
    pub(super) fn split_off_oldest(&mut self, count: usize) -> Self {
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

    /// Returns a copy of the event at an index.
    pub fn copy_of(&self, at: usize) -> Option<Self> {
        let len = *self.lens.get(at)?;
        let number = self.first + at as u64;
        copy(number, len, start_of(&self.lens, at), self.chunks.iter())
    }

    /// Drops the oldest event, and returns the bytes that it took.
    pub(super) fn drop_oldest(&mut self) -> Option<usize> {
        let len = self.lens.pop_front()? as usize;
        self.first += 1;
        self.stored -= len;
        drop_front(&mut self.chunks, len);
        Some(len)
    }

    /// Puts an older batch that adjoins it before its own events. Costs as much as that batch has.
    pub(super) fn prepend(&mut self, older: Self) {
        self.first = older.first;
        self.stored += older.stored;
        prepend(&mut self.lens, older.lens);
        prepend(&mut self.chunks, older.chunks);
    }

    /// Drops the events. Their memory is reused.
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

/// Where the event at `at` begins.
pub(super) fn start_of(lens: &VecDeque<u32>, at: usize) -> usize {
    lens.iter().take(at).map(|len| *len as usize).sum()
}

/// A copy of the event that begins at `start` and takes `len` bytes. No event spans two chunks.
pub(super) fn copy<C: AsRef<[u8]>>(
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
pub(super) fn prepend<T>(all: &mut VecDeque<T>, front: VecDeque<T>) {
    for one in front.into_iter().rev() {
        all.push_front(one);
    }
}

/// Drops the first event of `chunks`, of so many bytes. Returns whether there is a chunk.
pub(super) fn drop_front(chunks: &mut VecDeque<Bytes>, len: usize) -> bool {
    match chunks.front_mut() {
        Some(chunk) if chunk.len() == len => chunks::give_back(chunks.pop_front()),
        Some(chunk) => chunk.advance(len),
        None => return false,
    }
    true
}

/// Takes this many bytes off the front of `chunks`. Returns them, and how many were missing.
pub(super) fn carve(chunks: &mut VecDeque<Bytes>, mut wanted: usize) -> (VecDeque<Bytes>, usize) {
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
