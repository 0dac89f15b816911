//! Which events are alive: appended, and neither delivered nor given up. Pure sums over numbers.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of numbers, kept as ranges that don't touch.
#[derive(Clone, Debug, Default)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range, and answers how many of its numbers are new.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let new = (range.end - range.start) - self.overlap(&range);
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&from, &to)) = self.0.range(..=end).next_back() {
            if to < start {
                break;
            }
            start = start.min(from);
            end = end.max(to);
            self.0.remove(&from);
        }
        self.0.insert(start, end);
        new
    }

    /// How many numbers of the range are in the set.
    pub fn overlap(&self, range: &Range<u64>) -> u64 {
        self.within(range).map(|part| part.end - part.start).sum()
    }

    /// The parts of the range that are in the set, in order.
    pub fn within<'a>(&'a self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
        let (start, end) = (range.start, range.end);
        let before = self.0.range(..start).next_back();
        before
            .into_iter()
            .chain(self.0.range(start..end.max(start)))
            .map(move |(&from, &to)| from.max(start)..to.min(end))
            .filter(|part| part.start < part.end)
    }

    /// Forgets all numbers below.
    pub fn forget_below(&mut self, number: u64) {
        while let Some(first) = self.0.first_entry() {
            if *first.key() >= number {
                break;
            }
            let end = first.remove();
            if end > number {
                self.0.insert(number, end);
            }
        }
    }

    fn starting_at(&self, number: u64) -> Option<u64> {
        self.0.get(&number).copied()
    }
}

/// The events between the oldest that is alive and the newest.
#[derive(Clone, Debug, Default)]
pub struct Live {
    floor: u64,
    next: u64,
    gone: Ranges,
}

impl Live {
    /// The number of the oldest live event, or that of the next one.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The number after the newest event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether no event is alive.
    pub fn is_empty(&self) -> bool {
        self.floor == self.next
    }

    /// Takes in consecutive events. Numbers that were left out never come alive.
    pub fn append(&mut self, range: Range<u64>) {
        let gap = self.next..range.start.max(self.next);
        self.next = self.next.max(range.end);
        self.remove(gap);
    }

    /// Ends what is alive of a range, and answers how many events that was.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        let range = range.start.max(self.floor)..range.end.min(self.next);
        if range.is_empty() {
            return 0;
        }
        let ended = if range.start == self.floor {
            // By far the most frequent: delivery is from the front.
            let ended = self.count(&range);
            self.floor = range.end;
            self.gone.forget_below(self.floor);
            ended
        } else {
            self.gone.insert(range)
        };
        while let Some(end) = self.gone.starting_at(self.floor) {
            self.floor = end;
            self.gone.forget_below(end);
        }
        ended
    }

    /// How many events of a range are alive.
    pub fn count(&self, range: &Range<u64>) -> u64 {
        let range = range.start.max(self.floor)..range.end.min(self.next);
        if range.is_empty() {
            return 0;
        }
        range.end - range.start - self.gone.overlap(&range)
    }

    /// The runs of events within a range that are not alive, in order.
    pub fn gone(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut start = range.start;
        let mut gone = Vec::new();
        for run in self.runs(&range) {
            gone.push(start..run.start);
            start = run.end;
        }
        gone.push(start..range.end);
        gone.retain(|gone| !gone.is_empty());
        gone
    }

    /// The runs of live events within a range, in order.
    pub fn runs(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let end = range.end.min(self.next);
        let mut start = range.start.max(self.floor);
        let mut runs = Vec::new();
        for gone in self.gone.within(&(start..end)) {
            if gone.start > start {
                runs.push(start..gone.start);
            }
            start = gone.end;
        }
        if start < end {
            runs.push(start..end);
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_alive_is_what_a_plain_set_says() {
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
                        assert_eq!(live.remove(0..range.end), ended, "seed {seed}");
                    }
                    _ => {
                        let ended = range.clone().filter(|n| model.remove(n)).count() as u64;
                        assert_eq!(live.remove(range), ended, "seed {seed}");
                    }
                }
                assert_eq!(
                    live.count(&(0..u64::MAX)),
                    model.len() as u64,
                    "seed {seed}"
                );
                assert_eq!(live.is_empty(), model.is_empty(), "seed {seed}");
                assert_eq!(live.floor(), model.first().copied().unwrap_or(next));
                let gone: Vec<u64> = live.gone(3..next).into_iter().flatten().collect();
                assert_eq!(
                    gone,
                    (3..next).filter(|n| !model.contains(n)).collect::<Vec<_>>()
                );
                let runs: Vec<u64> = live.runs(&(3..next)).into_iter().flatten().collect();
                assert_eq!(
                    runs,
                    model.range(3.min(next)..).copied().collect::<Vec<_>>()
                );
            }
        }
    }
}
