//! Reports of all clients, kept until telemetry's one process fetches them.
//!
//! They are bounded, so handlers that are slower than the flushes cost neither memory nor a flush. A span
//! comes in whole or not at all: its start is taken only where there is room for its end too. Reports that are left
//! out is counted, and drops are sums that nothing makes room for, so no account is lost.

use crate::protocol::Report;
use crate::queue::accounts::Reason;
use std::collections::VecDeque;

/// Starts and ends of flushes kept at most.
const MOST_REPORTS: usize = 1024;

/// The reports since the last take. `C` names the client.
#[derive(Debug)]
pub struct Taken<C> {
    /// Starts and ends of flushes, oldest first.
    pub spans: Vec<(C, Report)>,
    /// Dropped events, by reason.
    pub dropped: Vec<(C, Reason, u64)>,
    /// Flushes that there was no room for.
    pub missed: Vec<(C, u64)>,
}

/// The reports that nobody has fetched yet.
pub struct Reports<C> {
    spans: VecDeque<(C, Report)>,
    /// Flushes whose start was taken, and whose end has room.
    open: Vec<u64>,
    dropped: Vec<(C, Reason, u64)>,
    missed: Vec<(C, u64)>,
    woken: bool,
}

impl<C> Reports<C> {
    /// None.
    pub const fn new() -> Self {
        Self {
            spans: VecDeque::new(),
            open: Vec::new(),
            dropped: Vec::new(),
            missed: Vec::new(),
            woken: false,
        }
    }

    /// All there is; after this somebody is to be woken anew.
    pub fn take(&mut self) -> Taken<C> {
        self.woken = false;
        Taken {
            spans: self.spans.drain(..).collect(),
            dropped: std::mem::take(&mut self.dropped),
            missed: std::mem::take(&mut self.missed),
        }
    }
}

impl<C: PartialEq> Reports<C> {
    /// Takes a report; answers whether somebody is to be woken for it: there is none outstanding.
    pub fn add(&mut self, client: C, report: Report) -> bool {
        match &report {
            Report::Started(span) => {
                if self.spans.len() + self.open.len() + 2 > MOST_REPORTS {
                    self.miss(client);
                } else {
                    self.open.push(span.id);
                    self.spans.push_back((client, report));
                }
            }
            Report::Stopped(span, ..) | Report::Panicked(span, _) => {
                let Some(at) = self.open.iter().position(|id| *id == span.id) else {
                    return false;
                };
                self.open.swap_remove(at);
                self.spans.push_back((client, report));
            }
            Report::Dropped(reason, count) => self.count_drop(client, *reason, *count),
        }
        !std::mem::replace(&mut self.woken, true)
    }

    fn miss(&mut self, client: C) {
        match self.missed.iter_mut().find(|(of, _)| *of == client) {
            Some((_, sum)) => *sum += 1,
            None => self.missed.push((client, 1)),
        }
    }

    fn count_drop(&mut self, client: C, reason: Reason, count: u64) {
        let same = |(of, why, _): &&mut (C, Reason, u64)| *of == client && *why == reason;
        match self.dropped.iter_mut().find(same) {
            Some((_, _, sum)) => *sum += count,
            None => self.dropped.push((client, reason, count)),
        }
    }
}

impl<C> Default for Reports<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Span, Trigger};
    use std::time::{Duration, Instant};

    fn span(id: u64) -> Span {
        Span {
            id,
            trigger: Trigger::Size,
            began: Instant::now(),
        }
    }

    fn started(id: u64) -> Report {
        Report::Started(span(id))
    }

    fn stopped(id: u64) -> Report {
        Report::Stopped(span(id), Duration::ZERO, Box::default())
    }

    fn ids(reported: &Taken<&str>) -> Vec<u64> {
        let ids = reported.spans.iter().map(|(_, report)| match report {
            Report::Started(span) | Report::Stopped(span, ..) | Report::Panicked(span, _) => {
                span.id
            }
            Report::Dropped(..) => 0,
        });
        ids.collect()
    }

    #[test]
    fn one_wake_up_is_outstanding_at_most() {
        let mut reports = Reports::new();
        assert!(reports.add("a", started(1)));
        assert!(!reports.add("a", stopped(1)));
        assert_eq!(ids(&reports.take()), [1, 1]);
        assert!(reports.add("a", Report::Dropped(Reason::Quota, 1)));
    }

    #[test]
    fn a_span_without_room_is_left_out_whole_and_counted() {
        let mut reports = Reports::new();
        let room = MOST_REPORTS as u64 / 2;
        for id in 0..room + 3 {
            reports.add("a", started(id));
        }
        for id in 0..room + 3 {
            reports.add("a", stopped(id));
        }
        let reported = reports.take();
        assert_eq!(reported.missed, [("a", 3)]);
        assert_eq!(ids(&reported), (0..room).chain(0..room).collect::<Vec<_>>());
    }

    #[test]
    fn an_end_whose_start_was_fetched_has_its_room_all_the_same() {
        let mut reports = Reports::new();
        reports.add("a", started(0));
        reports.take();
        for id in 1..MOST_REPORTS as u64 {
            reports.add("b", started(id));
            reports.add("b", stopped(id));
        }
        reports.add("a", stopped(0));
        let reported = reports.take();
        assert_eq!(ids(&reported).last(), Some(&0));
        assert!(reported.spans.len() <= MOST_REPORTS);
        assert_eq!(reported.missed, [("b", MOST_REPORTS as u64 / 2)]);
    }

    #[test]
    fn drops_are_one_sum_for_each_client_and_reason_however_many_there_are() {
        let mut reports = Reports::new();
        for _ in 0..10 * MOST_REPORTS {
            reports.add("a", Report::Dropped(Reason::QueueFull, 2));
            reports.add("b", Report::Dropped(Reason::Quota, 1));
        }
        let sum = 10 * MOST_REPORTS as u64;
        assert_eq!(
            reports.take().dropped,
            [("a", Reason::QueueFull, 2 * sum), ("b", Reason::Quota, sum)]
        );
        assert!(reports.take().dropped.is_empty());
    }
}
