//! When the events of a log were written.

use std::collections::VecDeque;

/// When events were written, in groups, so that a week of them needs but a few.
pub struct Ages {
    step: u64,
    groups: VecDeque<Group>,
}

/// Events that were written within a step.
struct Group {
    oldest: u64,
    newest: u64,
    /// The number after the last of them.
    end: u64,
}

impl Ages {
    pub(super) fn new(step: u64) -> Self {
        Self {
            step: step.max(1),
            groups: VecDeque::new(),
        }
    }

    pub(super) fn note(&mut self, time: u64, end: u64) {
        // Times of an earlier life need not ascend.
        let time = time.max(self.groups.back().map_or(0, |group| group.newest));
        match self.groups.back_mut() {
            Some(group) if time < group.oldest.saturating_add(self.step) => {
                group.newest = time;
                group.end = end;
            }
            _ => self.groups.push_back(Group {
                oldest: time,
                newest: time,
                end,
            }),
        }
    }

    pub(super) fn forget_below(&mut self, number: u64) {
        while self.groups.front().is_some_and(|group| group.end <= number) {
            self.groups.pop_front();
        }
    }

    /// The number below which all events were written at `time` or before.
    pub fn older_than(&self, time: u64) -> Option<u64> {
        let old = self.groups.iter().take_while(|group| group.newest <= time);
        old.last().map(|group| group.end)
    }

    /// When the oldest events from `number` on, and those of their group, were written at the latest.
    pub fn next_after(&self, number: u64) -> Option<u64> {
        let next = self.groups.iter().find(|group| group.end > number);
        next.map(|group| group.newest)
    }
}
