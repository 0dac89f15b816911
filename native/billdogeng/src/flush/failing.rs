//! Whether the same batch fails, flush after flush, with a status that may be an event's fault: see
//! [`policy::may_be_an_events_fault`]. It is then split as one that is refused, so that it holds up no others.

use crate::flush::split::Parts;
use crate::http::policy::{self, MOST_FAILED_FLUSHES};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// The batch that failed last, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// The number after its newest event. The oldest events go first, so another batch has none below.
    until: u64,
    flushes: u32,
}

impl Failing {
    /// Whether this batch, or what is left of it, has failed often enough.
    pub fn is_one(&self, numbers: Range<u64>) -> bool {
        self.flushes >= MOST_FAILED_FLUSHES && numbers.start < self.until
    }

    /// A flush failed with this status, and its batch stays. Other statuses do not depend on the batch.
    pub fn failed(&mut self, parts: &Parts, status: u16) {
        if policy::may_be_an_events_fault(status) {
            self.count(parts.numbers(), parts.any_accepted());
        }
    }

    fn count(&mut self, numbers: Range<u64>, any_accepted: bool) {
        if !self.is_one(numbers.clone()) {
            let same = numbers.start < self.until;
            self.flushes = if same { self.flushes + 1 } else { 1 };
            self.until = numbers.end;
        } else if !any_accepted {
            // It was split, and everything was refused: not for an event of it.
            *self = Self::default();
        }
    }
}

/// As it is noted beside a spool, so that a program that flushes once and ends gets there too.
impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.until, self.flushes)
    }
}

impl FromStr for Failing {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (until, flushes) = text.split_once(' ').ok_or(())?;
        Ok(Self {
            until: until.parse().map_err(|_| ())?,
            flushes: flushes.trim_end().parse().map_err(|_| ())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_failed_in_five_flushes_is_one_until_all_of_it_is_settled() {
        let mut failing = Failing::default();
        for events in 1..=5 {
            assert!(!failing.is_one(0..events));
            failing.count(0..events, false);
        }
        assert!(failing.is_one(0..5) && failing.is_one(4..9));
        assert!(!failing.is_one(5..9));
        failing.count(3..9, true);
        assert!(failing.is_one(3..9), "some of it was accepted");
        failing.count(3..9, false);
        assert!(!failing.is_one(3..9), "all of it was refused");
    }

    #[test]
    fn it_reads_back_from_its_note() {
        let failing = Failing {
            until: u64::MAX,
            flushes: 5,
        };
        assert_eq!(failing.to_string().parse(), Ok(failing));
        for text in ["", "1", "a b", "-1 2", "1 2 3"] {
            assert_eq!(text.parse::<Failing>(), Err(()), "{text}");
        }
    }

    #[test]
    fn another_batch_has_failures_of_its_own() {
        let mut failing = Failing::default();
        (0..4).for_each(|_| failing.count(0..5, false));
        failing.count(5..9, false);
        assert!(!failing.is_one(5..9));
    }
}
