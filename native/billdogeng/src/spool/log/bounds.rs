//! The bounds of the files, in bytes and by age.

use super::{Log, Segment};
use std::ops::Range;
use std::time::Duration;

impl Log {
    /// Returns the bytes of all segments, and the age of the oldest one.
    pub fn usage(&self) -> (u64, Option<Duration>) {
        let bytes = self.segments.iter().map(|segment| segment.size).sum();
        let oldest = self.segments.front().map(|segment| segment.times.0);
        let age = oldest.map(|time| self.clock.now().saturating_sub(time));
        (bytes, age.map(Duration::from_millis))
    }

    /// Returns the number below which all events are too old.
    pub fn expired(&self) -> Option<u64> {
        let limit = self.clock.now().saturating_sub(self.bounds.max_age);
        let old = self.segments.iter().take_while(|s| s.times.1 <= limit);
        old.last().map(|segment| segment.numbers.end)
    }

    /// Returns how long it takes until the oldest events from `number` on are too old.
    pub fn next_expiry(&self, number: u64) -> Option<Duration> {
        let segment = self.segments.iter().find(|s| s.numbers.end > number)?;
        let at = segment.times.1.checked_add(self.bounds.max_age)?;
        Some(Duration::from_millis(at.saturating_sub(self.clock.now())))
    }

    /// Returns the number below which events have to go for the files to keep to their bound, except those in flight. Ends
    /// the last segment if it is among them.
    pub fn excess(&mut self, in_flight: &Range<u64>) -> Option<u64> {
        let held = |segment: &&Segment| {
            let Range { start, end } = segment.numbers;
            start < in_flight.end && in_flight.start < end
        };
        let held_bytes: u64 = self.segments.iter().filter(held).map(|s| s.size).sum();
        let mut size = self.segments.iter().map(|s| s.size).sum::<u64>() - held_bytes;
        // A batch that has as many bytes as the bound must not cost all other events.
        let max = self.bounds.max_bytes;
        let max = max.saturating_sub(held_bytes).max(max / 2);
        let mut below = None;
        for segment in self.segments.iter().filter(|segment| !held(segment)) {
            if size <= max {
                break;
            }
            size -= segment.size;
            below = Some(segment.numbers.end);
        }
        if below.is_some_and(|below| below == self.next) {
            self.file = None;
        }
        below
    }
}
