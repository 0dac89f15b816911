//! A batch on its way: whole, or split where the ingest refuses it.
//!
//! ```text
//! [1 2 3 4] refused ─▶ [1 2] accepted, [3 4] refused ─▶ [3] refused: a suspect, [4] accepted: [3] rejected
//! ```
//!
//! Depth first and the older half first, so that events are accepted in their order. An event that is refused alone
//! is dropped only once others are accepted after it, or were before: an ingest that refuses everything has another
//! reason than an event. After too many refusals in a row single events are tried at random, first of the batch and
//! then of those behind it: a run of bad events does not look like such an ingest, wherever it stands.

use crate::http::policy;
use crate::queue::batch::Batch;
use std::cmp::Reverse;
use std::ops::Range;

/// Single events of a flush that were refused, from which on parts are not tried at any size: see [`Seen::largest`].
const MANY: u32 = 4;
/// Single events that are tried at random in a row, of the batch and behind it.
const MOST_TRIED: u32 = 24;
/// How many of them are behind it at least.
const FEWEST_OTHERS: u32 = 4;

/// How the ingest answered to a flush so far.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    any_accepted: bool,
    /// Refusals in a row.
    refusals: u32,
    /// Single events that were refused.
    bad: u32,
    /// Where many events are bad, parts of more events are split without being tried: half of the last that was
    /// refused, and twice that with each that is accepted.
    largest: usize,
    /// Answers since the first refusal, that one included.
    answers: u32,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            any_accepted: false,
            refusals: 0,
            bad: 0,
            largest: usize::MAX,
            answers: 0,
        }
    }
}

/// The parts of one batch that are not yet settled.
#[cfg_attr(test, derive(Debug))]
pub struct Parts {
    /// The next to be sent is the last; newest first, but for a single event that is tried out of turn.
    rest: Vec<Batch>,
    /// A copy of an event behind the batch, to be sent before the rest.
    other: Option<Batch>,
    /// Single events that were refused since others were accepted.
    suspects: Vec<Batch>,
    seen: Seen,
    was_refused: bool,
    any_accepted: bool,
    most_refusals: u32,
    others: u32,
}

/// How a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is a part to be sent.
    Next,
    /// All of it is settled.
    Done,
    /// It is refused, and so was each single event that was tried: one behind it may show whose fault that is.
    Elsewhere,
    /// It is refused, and not for an event of it: all that is left stays.
    Keep,
}

/// A part that was accepted.
#[derive(Debug)]
pub enum Accepted {
    /// Of the batch.
    Part(Batch),
    /// A copy of an event that is queued.
    Other(Batch),
}

impl Parts {
    /// A batch in one part.
    pub fn new(batch: Batch, seen: Seen) -> Self {
        Self {
            most_refusals: policy::most_refusals(batch.len()),
            rest: vec![batch],
            other: None,
            suspects: Vec::new(),
            seen,
            was_refused: false,
            any_accepted: false,
            others: 0,
        }
    }

    /// How many events are not settled.
    pub fn len(&self) -> usize {
        self.rest.iter().chain(&self.suspects).map(Batch::len).sum()
    }

    /// The part to be sent.
    pub fn next(&self) -> Option<&Batch> {
        self.other.as_ref().or(self.rest.last())
    }

    /// The number after the newest event of the part to be sent, if that part is all that is not settled.
    pub fn whole_until(&self) -> Option<u64> {
        let whole = self.rest.len() == 1 && self.suspects.is_empty() && self.other.is_none();
        self.next().filter(|_| whole).map(|part| part.numbers().end)
    }

    /// The numbers of the events that are not settled, and of those between them.
    pub fn numbers(&self) -> Range<u64> {
        let parts = || self.rest.iter().chain(&self.suspects).map(Batch::numbers);
        let start = parts().map(|numbers| numbers.start).min();
        let end = parts().map(|numbers| numbers.end).max();
        start.unwrap_or_default()..end.unwrap_or_default()
    }

    /// Whether the flush has had as many responses with refusals as it may.
    pub fn is_spent(&self) -> bool {
        let refused = self.was_refused || self.seen.bad >= MANY;
        refused && self.seen.answers >= policy::MOST_ANSWERS
    }

    /// Whether a part of the batch was accepted.
    pub fn any_accepted(&self) -> bool {
        self.any_accepted
    }

    /// How the ingest answered so far.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The part was accepted. Returns it.
    pub fn accepted(&mut self) -> Option<Accepted> {
        self.seen.any_accepted = true;
        self.seen.refusals = 0;
        self.seen.largest = self.seen.largest.saturating_mul(2);
        self.seen.answers += u32::from(self.seen.answers > 0);
        self.others = 0;
        if let Some(other) = self.other.take() {
            return Some(Accepted::Other(other));
        }
        self.any_accepted = true;
        self.rest.pop().map(Accepted::Part)
    }

    /// The part was refused (400, 422).
    pub fn refused(&mut self) {
        self.seen.answers += 1;
        self.was_refused = true;
        if self.other.take().is_some() {
            return;
        }
        self.seen.refusals += 1;
        let Some(part) = self.rest.pop() else { return };
        self.seen.largest = (part.len() / 2).max(1);
        if let Some(event) = self.split(part) {
            self.seen.bad += 1;
            self.suspects.push(event);
        }
    }

    /// The part was too large (413), or refused where each event stands alone. Returns the event that is so by itself.
    pub fn too_large(&mut self) -> Option<Batch> {
        if self.other.take().is_some() {
            return None;
        }
        let part = self.rest.pop()?;
        self.split(part)
    }

    fn split(&mut self, part: Batch) -> Option<Batch> {
        if part.len() < 2 {
            return Some(part);
        }
        let (older, newer) = part.split();
        self.rest.extend([newer, older]);
        None
    }

    /// Returns how it stands, and the events that are rejected by now.
    pub fn settle(&mut self) -> (Standing, Vec<Batch>) {
        let refusals = self.seen.refusals;
        let spent = refusals >= self.most_refusals;
        let all_tried = self.rest.is_empty() && !spent;
        let rejected = match self.seen.any_accepted && (refusals == 0 || all_tried) {
            true => std::mem::take(&mut self.suspects),
            false => Vec::new(),
        };
        let tried = refusals.saturating_sub(self.most_refusals);
        let most_others = MOST_TRIED.saturating_sub(tried).max(FEWEST_OTHERS);
        let standing = match (self.rest.is_empty(), self.suspects.is_empty()) {
            (true, true) => Standing::Done,
            (false, _) if refusals < 2 * self.most_refusals => Standing::Next,
            _ if self.others < most_others => Standing::Elsewhere,
            _ => Standing::Keep,
        };
        if standing == Standing::Next {
            if spent {
                self.try_any();
            } else {
                self.split_what_is_large();
            }
        }
        (standing, rejected)
    }

    /// Makes a single event the next part, any of those that were not tried alone.
    fn try_any(&mut self) {
        let events: usize = self.rest.iter().map(Batch::len).sum();
        let mut at = fastrand::usize(..events.max(1));
        for index in 0..self.rest.len() {
            let len = self.rest[index].len();
            if at >= len {
                at -= len;
                continue;
            }
            let (older, newer) = self.rest.remove(index).split_at(at);
            let (event, newer) = newer.split_at(1);
            let around = [newer, older].into_iter().filter(|part| part.len() > 0);
            self.rest.splice(index..index, around);
            self.rest.push(event);
            return;
        }
    }

    fn split_what_is_large(&mut self) {
        let largest = self.seen.largest;
        while self.seen.bad >= MANY && self.rest.last().is_some_and(|part| part.len() > largest) {
            if let Some(part) = self.rest.pop() {
                self.split(part);
            }
        }
    }

    /// Makes the copy of an event behind the batch the next part.
    pub fn try_other(&mut self, event: Batch) {
        self.others += 1;
        self.other = Some(event);
    }

    /// Returns the events that were refused alone since others were accepted.
    pub fn refused_alone(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.suspects)
    }

    /// Goes on with what was not tried alone, as after an event that was accepted.
    pub fn again(&mut self) {
        self.seen.refusals = 0;
        self.others = 0;
    }

    /// Returns what is left, newest first: to be put back one by one.
    pub fn into_rest(self) -> impl Iterator<Item = Batch> {
        let mut rest = self.rest;
        rest.extend(self.suspects);
        rest.sort_unstable_by_key(|part| Reverse(part.numbers().start));
        rest.into_iter()
    }
}

#[cfg(test)]
mod tests;
