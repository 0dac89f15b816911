//! A batch on its way: whole, or in halves where the ingest refuses it.
//!
//! ```text
//! [1 2 3 4] refused ─▶ [1 2] accepted, [3 4] refused ─▶ [3] refused: a suspect, [4] accepted: [3] rejected
//! ```
//!
//! Depth first and the older half first, so that what is accepted is accepted in order. An event that is
//! refused alone is given up only once others of its batch are accepted after it, or were before: an ingest
//! that refuses everything has another reason than an event.

use crate::policy;
use crate::queue::Batch;

/// The parts of one batch that are not yet settled.
pub struct Parts {
    /// Newest first: the next to be sent is the last.
    rest: Vec<Batch>,
    /// Single events that were refused since others were accepted, oldest first.
    suspects: Vec<Batch>,
    any_accepted: bool,
    /// In a row.
    refusals: u32,
    most_refusals: u32,
}

/// How a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is a part to be sent.
    Next,
    /// All of it is settled.
    Done,
    /// It is refused, and not for an event of it: all that is left stays.
    Keep,
}

impl Parts {
    /// A batch in one part.
    pub fn new(batch: Batch) -> Self {
        Self {
            most_refusals: policy::most_refusals(batch.len()),
            rest: vec![batch],
            suspects: Vec::new(),
            any_accepted: false,
            refusals: 0,
        }
    }

    /// How many events are not settled.
    pub fn len(&self) -> usize {
        self.rest.iter().chain(&self.suspects).map(Batch::len).sum()
    }

    /// The part to be sent.
    pub fn next(&self) -> Option<&Batch> {
        self.rest.last()
    }

    /// That part was accepted. Answers it.
    pub fn accepted(&mut self) -> Option<Batch> {
        self.any_accepted = true;
        self.refusals = 0;
        self.rest.pop()
    }

    /// That part was refused (400, 422).
    pub fn refused(&mut self) {
        self.refusals += 1;
        if let Some(part) = self.rest.pop() {
            if let Some(event) = self.halve(part) {
                self.suspects.push(event);
            }
        }
    }

    /// That part was too large (413), or refused where each stands alone. Answers the event that is so by itself.
    pub fn too_large(&mut self) -> Option<Batch> {
        let part = self.rest.pop()?;
        self.halve(part)
    }

    fn halve(&mut self, part: Batch) -> Option<Batch> {
        if part.len() < 2 {
            return Some(part);
        }
        let (older, newer) = part.split();
        self.rest.extend([newer, older]);
        None
    }

    /// How it stands, and the events that are rejected by now.
    pub fn settle(&mut self) -> (Standing, Vec<Batch>) {
        if self.refusals >= self.most_refusals {
            return (Standing::Keep, Vec::new());
        }
        let sure = self.any_accepted && (self.refusals == 0 || self.rest.is_empty());
        let rejected = if sure {
            std::mem::take(&mut self.suspects)
        } else {
            Vec::new()
        };
        let standing = match (self.rest.is_empty(), self.suspects.is_empty()) {
            (false, _) => Standing::Next,
            (true, true) => Standing::Done,
            (true, false) => Standing::Keep,
        };
        (standing, rejected)
    }

    /// What is left, newest first: to be put back one by one.
    pub fn into_rest(mut self) -> impl Iterator<Item = Batch> {
        self.suspects.reverse();
        self.rest.into_iter().chain(self.suspects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Queue;

    /// What became of events `0..count`, when `answer` tells of each part's numbers.
    #[derive(Debug, Default, PartialEq)]
    struct Fate {
        accepted: Vec<u64>,
        rejected: Vec<u64>,
        too_large: Vec<u64>,
        kept: Vec<u64>,
        requests: usize,
    }

    enum Says {
        Accepted,
        Refused,
        TooLarge,
    }

    fn fate(count: u64, answer: impl Fn(std::ops::Range<u64>) -> Says) -> Fate {
        let mut queue = Queue::default();
        (0..count).for_each(|n| queue.push(n.to_string().as_bytes().into()));
        let mut parts = Parts::new(queue.take(usize::MAX, usize::MAX).unwrap());
        let mut fate = Fate::default();
        loop {
            let numbers = parts.next().unwrap().numbers();
            fate.requests += 1;
            match answer(numbers) {
                Says::Accepted => fate.accepted.extend(parts.accepted().unwrap().numbers()),
                Says::Refused => parts.refused(),
                Says::TooLarge => {
                    let event = parts.too_large();
                    fate.too_large
                        .extend(event.into_iter().flat_map(|event| event.numbers()));
                }
            }
            let (standing, rejected) = parts.settle();
            fate.rejected
                .extend(rejected.iter().flat_map(Batch::numbers));
            if standing != Standing::Next {
                assert_eq!(standing == Standing::Done, parts.len() == 0);
                parts.into_rest().for_each(|part| queue.put_back(part));
                fate.kept = match queue.is_empty() {
                    true => Vec::new(),
                    false => (queue.head()..queue.next()).collect(),
                };
                return fate;
            }
        }
    }

    fn bad(events: &'static [u64]) -> impl Fn(std::ops::Range<u64>) -> Says {
        move |numbers| match events.iter().any(|event| numbers.contains(event)) {
            true => Says::Refused,
            false => Says::Accepted,
        }
    }

    #[test]
    fn one_bad_event_costs_itself_wherever_it_stands() {
        for count in [2, 3, 5, 8, 100, 1000] {
            for at in [0, 1, count / 2, count - 2, count - 1] {
                let says = |numbers: std::ops::Range<u64>| match numbers.contains(&at) {
                    true => Says::Refused,
                    false => Says::Accepted,
                };
                let fate = fate(count, says);
                assert_eq!(fate.rejected, [at], "{at} of {count}");
                assert!(fate.accepted.iter().is_sorted());
                assert_eq!(fate.accepted.len() as u64, count - 1);
                assert!(fate.kept.is_empty());
                assert!(fate.requests <= 2 * count.next_power_of_two().ilog2() as usize + 1);
            }
        }
    }

    #[test]
    fn several_bad_events_cost_themselves() {
        let fate = fate(16, bad(&[0, 1, 7, 15]));
        assert_eq!(fate.rejected, [0, 1, 7, 15]);
        assert_eq!(fate.accepted.len(), 12);
    }

    #[test]
    fn an_ingest_that_refuses_everything_costs_nothing() {
        for count in [1, 2, 3, 4, 20, 1000] {
            let fate = fate(count, |_| Says::Refused);
            assert_eq!(fate.kept, (0..count).collect::<Vec<_>>());
            assert!(fate.requests <= policy::most_refusals(count as usize) as usize);
        }
    }

    #[test]
    fn an_ingest_that_refuses_everything_from_some_point_on_costs_nothing_from_there() {
        let fate = fate(64, |numbers| match numbers.end <= 32 {
            true => Says::Accepted,
            false => Says::Refused,
        });
        assert_eq!(fate.accepted, (0..32).collect::<Vec<_>>());
        assert_eq!(fate.kept, (32..64).collect::<Vec<_>>());
        assert!(fate.rejected.is_empty());
    }

    #[test]
    fn what_is_too_large_is_halved_until_it_passes() {
        let fate = fate(10, |numbers| match numbers.end - numbers.start > 3 {
            true => Says::TooLarge,
            false => Says::Accepted,
        });
        assert_eq!(fate.accepted, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn an_event_too_large_by_itself_is_given_up_and_no_other() {
        let fate = fate(5, |numbers| match numbers.contains(&2) {
            true => Says::TooLarge,
            false => Says::Accepted,
        });
        assert_eq!(fate.too_large, [2]);
        assert_eq!(fate.accepted, [0, 1, 3, 4]);
    }
}
