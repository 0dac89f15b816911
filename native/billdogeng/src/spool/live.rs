//! Which events are alive: appended, and neither delivered nor dropped. Pure sums over numbers.

use super::ledger::{Removed, MOST_RANGES};
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers, kept as ranges that don't touch.
#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some(mut last) = self.0.last_entry() {
            // By far the most frequent: the next event.
            if *last.get() == start {
                last.insert(end);
                return;
            }
        }
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    /// Removes a range, and returns how many of its numbers were in the set.
    pub fn remove(&mut self, range: &Range<u64>) -> u64 {
        let parts: Vec<_> = self.within(range).collect();
        for part in &parts {
            let whole = self.0.range(..=part.start).next_back();
            let Some((from, to)) = whole.map(|(from, to)| (*from, *to)) else {
                continue;
            };
            self.0.remove(&from);
            self.insert(from..part.start);
            self.insert(part.end..to);
        }
        parts.iter().map(|part| part.end - part.start).sum()
    }

    /// Returns how many numbers of the range are in the set.
    pub fn overlap(&self, range: &Range<u64>) -> u64 {
        self.within(range).map(|part| part.end - part.start).sum()
    }

    /// Returns the parts of the range that are in the set, in order.
    pub fn within<'a>(&'a self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
        let (start, end) = (range.start, range.end);
        let before = self.0.range(..start).next_back();
        before
            .into_iter()
            .chain(self.0.range(start..end.max(start)))
            .map(move |(&from, &to)| from.max(start)..to.min(end))
            .filter(|part| part.start < part.end)
    }
}

/// The live events, and the number of the next one.
#[derive(Clone, Debug, Default)]
pub struct Live {
    live: Ranges,
    next: u64,
}

impl Live {
    /// Returns the number of the oldest live event, or that of the next one.
    pub fn floor(&self) -> u64 {
        self.live.0.keys().next().copied().unwrap_or(self.next)
    }

    /// Returns the number after the newest event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Returns whether no event is alive.
    pub fn is_empty(&self) -> bool {
        self.live.0.is_empty()
    }

    /// Adds consecutive events. Numbers that are left out never come alive.
    pub fn append(&mut self, range: Range<u64>) {
        self.next = self.next.max(range.end);
        self.live.insert(range);
    }

    /// Removes the live events of a range, and returns how many there were.
    pub fn remove(&mut self, range: &Range<u64>) -> u64 {
        self.live.remove(range)
    }

    /// Returns how many events of a range are alive.
    pub fn count(&self, range: &Range<u64>) -> u64 {
        self.live.overlap(range)
    }

    /// Returns the runs of live events within a range, in order.
    pub fn runs(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.live.within(range)
    }

    /// Returns which events are removed, for the ledger. Ranges that `skip` returns true for are left out: no file has
    /// their events. If there are too many, the shortest are left out.
    pub fn removed(&self, skip: impl Fn(&Range<u64>) -> bool) -> Removed {
        let ends = self.live.0.values().copied();
        let starts = self.live.0.keys().skip(1).copied().chain([self.next]);
        let gaps = ends.zip(starts).map(|(end, start)| end..start);
        let mut ranges: Vec<_> = gaps.filter(|gap| !gap.is_empty() && !skip(gap)).collect();
        if ranges.len() > MOST_RANGES {
            ranges.sort_by_key(|range| range.start.abs_diff(range.end));
            ranges.drain(..ranges.len() - MOST_RANGES);
            ranges.sort_by_key(|range| range.start);
        }
        Removed {
            floor: self.floor(),
            ranges,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn it_behaves_like_a_plain_set() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut live, mut model, mut next) = (Live::default(), BTreeSet::new(), 0u64);
            for _ in 0..200 {
                let start = random.u64(..next + 3);
                let range = start..start + random.u64(..12);
                match random.u8(..4) {
                    0 | 1 => {
                        let first = next + u64::from(random.u8(..9) == 0);
                        next = first + random.u64(1..9);
                        live.append(first..next);
                        model.extend(first..next);
                    }
                    2 => {
                        let ended = (0..range.end).filter(|n| model.remove(n)).count() as u64;
                        assert_eq!(live.remove(&(0..range.end)), ended, "seed {seed}");
                    }
                    _ => {
                        let ended = range.clone().filter(|n| model.remove(n)).count() as u64;
                        assert_eq!(live.remove(&range), ended, "seed {seed}");
                    }
                }
                assert_eq!(
                    live.count(&(0..u64::MAX)),
                    model.len() as u64,
                    "seed {seed}"
                );
                assert_eq!(live.is_empty(), model.is_empty(), "seed {seed}");
                assert_eq!(live.floor(), model.first().copied().unwrap_or(next));
                let removed = live.removed(|_| false);
                let gone = (0..removed.floor).chain(removed.ranges.into_iter().flatten());
                let expected = (0..next).filter(|n| !model.contains(n));
                assert_eq!(gone.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                let runs: Vec<u64> = live.runs(&(3..next)).flatten().collect();
                assert_eq!(
                    runs,
                    model.range(3.min(next)..).copied().collect::<Vec<_>>()
                );
            }
        }
    }
    #[test]
    fn the_ledger_has_the_longest_ranges_and_none_that_is_skipped() {
        let mut live = Live::default();
        live.append(0..10_000);
        live.remove(&(0..5));
        live.remove(&(8_000..8_100));
        for n in 0..MOST_RANGES as u64 {
            live.remove(&(10 + 4 * n..12 + 4 * n));
        }
        live.remove(&(9_000..9_001));
        let removed = live.removed(|range| range.start == 10);
        assert_eq!((removed.floor, removed.ranges.len()), (5, MOST_RANGES));
        assert_eq!(removed.ranges.first(), Some(&(14..16)));
        assert_eq!(removed.ranges.last(), Some(&(8_000..8_100)));
    }
}
