//! A run of consecutive events in memory, as they are written to and read from the disk.

use std::ops::Range;

/// A run of events as they were appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The number of its first event; the others follow without a gap.
    pub first: u64,
    /// The bytes of each event, its comma included.
    pub lens: Vec<u32>,
    /// The events, each followed by a comma.
    pub bytes: Vec<u8>,
}

impl Page {
    /// Returns the numbers of its events.
    pub fn numbers(&self) -> Range<u64> {
        self.first..self.next()
    }

    /// Returns the number after its last event.
    pub fn next(&self) -> u64 {
        self.first + self.lens.len() as u64
    }

    /// Returns the lengths and the bytes of a part of its events.
    pub fn part(&self, numbers: &Range<u64>) -> (&[u32], &[u8]) {
        let from = (numbers.start - self.first) as usize;
        let to = (numbers.end - self.first) as usize;
        let bytes = |lens: &[u32]| lens.iter().map(|len| *len as usize).sum::<usize>();
        let start = bytes(&self.lens[..from]);
        let end = start + bytes(&self.lens[from..to]);
        (&self.lens[from..to], &self.bytes[start..end])
    }
}
