//! The reports of a flush for telemetry: a span from its first batch to its end, and its outcome.
//!
//! A flush that finds nothing to send is none. The worker reports what happens in one line each; the sums are
//! made here, and what comes of them goes to [`Listener::report`].

use crate::error::Error;
use crate::http::response::{Answer, Failure, Kind};
use crate::protocol::{Listener, Outcome, Report, Span, Trigger};
use crate::queue::batch::Batch;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The flush under way.
#[derive(Default)]
pub(crate) struct FlushReport {
    trigger: Trigger,
    span: Option<Span>,
    outcome: Outcome,
    /// Of the last attempt.
    failure: Option<Error>,
    /// Of the last attempt.
    sent: u64,
}

impl FlushReport {
    /// Whatever is sent next is for this reason.
    pub fn due(&mut self, trigger: Trigger) {
        self.trigger = trigger;
    }

    /// There is a batch to be sent: the flush's first, unless it has begun.
    pub fn begun(&mut self, listener: &dyn Listener) {
        static SPANS: AtomicU64 = AtomicU64::new(1);
        if self.span.is_none() {
            let span = Span {
                id: SPANS.fetch_add(1, Ordering::Relaxed),
                trigger: self.trigger,
                began: Instant::now(),
            };
            self.outcome = Outcome::default();
            self.failure = None;
            self.span = Some(span);
            listener.report(Report::Started(span));
        }
    }

    /// A body of so many bytes is on its way.
    pub fn attempt(&mut self, bytes: usize) {
        self.sent = bytes as u64;
        self.outcome.wire_bytes += self.sent;
        self.outcome.attempts += 1;
    }

    pub fn attempted(&mut self, result: &Result<Answer, Failure>) {
        match result {
            Ok(answer) if answer.quota_limited => {
                self.outcome.status = answer.status;
                self.gave_up(&Error::quota_limited());
            }
            Ok(answer) => self.outcome.status = answer.status,
            Err(failure) => {
                if matches!(failure.kind, Kind::Unreachable(_)) {
                    self.outcome.wire_bytes -= self.sent;
                }
                self.outcome.status = failure.error.status;
                self.failure = Some(without_body(&failure.error));
            }
        }
        self.sent = 0;
    }

    pub fn accepted(&mut self, events: &Batch) {
        self.outcome.events += events.len() as u64;
        self.outcome.bytes += events.bytes() as u64;
    }

    /// Notes that an event was dropped for a response: the flush continues, and its result is an error.
    pub fn gave_up(&mut self, error: &Error) {
        self.outcome
            .error
            .get_or_insert_with(|| without_body(error));
    }

    /// The flush has ended; with `failed`, for the last attempt's failure or for its time.
    pub fn ended(&mut self, failed: bool, listener: &dyn Listener) {
        let Some(span) = self.span.take() else { return };
        let mut outcome = std::mem::take(&mut self.outcome);
        if failed && outcome.error.is_none() {
            outcome.error = Some(self.failure.take().unwrap_or_else(Error::out_of_time));
        }
        let took = span.began.elapsed();
        listener.report(Report::Stopped(span, took, Box::new(outcome)));
    }

    pub fn panicked(&mut self, listener: &dyn Listener) {
        if let Some(span) = self.span.take() {
            listener.report(Report::Panicked(span, span.began.elapsed()));
        }
    }
}

fn without_body(error: &Error) -> Error {
    Error {
        message: error.message.clone(),
        status: error.status,
        code: error.code.clone(),
        body: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response::Unreachable;
    use crate::protocol::LastWords;
    use crate::queue::events::Queue;
    use serde_json::Value;
    use std::sync::mpsc::{channel, Receiver, Sender};

    struct Reporter(Sender<Report>);

    impl Listener for Reporter {
        fn pending(&self) {}
        fn ended(&self, _last: LastWords) {}
        fn report(&self, report: Report) {
            let _ = self.0.send(report);
        }
    }

    fn listener() -> (Reporter, Receiver<Report>) {
        let (sender, reports) = channel();
        (Reporter(sender), reports)
    }

    fn batch(events: &[&str]) -> Batch {
        let mut queue = Queue::default();
        events
            .iter()
            .for_each(|event| queue.push(event.as_bytes().into()));
        queue.take(usize::MAX, usize::MAX).expect("events")
    }

    fn accepted() -> Result<Answer, Failure> {
        Ok(Answer {
            data: Value::Null,
            status: 202,
            quota_limited: false,
        })
    }

    fn outcome(reports: &Receiver<Report>) -> Outcome {
        match reports.try_iter().last() {
            Some(Report::Stopped(_, _, outcome)) => *outcome,
            other => panic!("no end: {other:?}"),
        }
    }

    #[test]
    fn a_span_begins_once_with_what_was_due_and_ends_once() {
        let (listener, reports) = listener();
        let mut report = FlushReport::default();
        report.ended(false, &listener);
        report.due(Trigger::Interval);
        report.begun(&listener);
        report.due(Trigger::Call);
        report.begun(&listener);
        report.ended(false, &listener);
        report.ended(true, &listener);
        let reported: Vec<_> = reports.try_iter().collect();
        let [Report::Started(began), Report::Stopped(ended, ..)] = &reported[..] else {
            panic!("{reported:?}")
        };
        assert_eq!(began, ended);
        assert_eq!(began.trigger, Trigger::Interval);
        report.begun(&listener);
        assert!(matches!(reports.recv(), Ok(Report::Started(next)) if next.id != began.id));
    }

    #[test]
    fn the_sums_are_of_all_attempts_and_the_status_is_the_last_answers() {
        let (listener, reports) = listener();
        let mut report = FlushReport::default();
        report.begun(&listener);
        report.attempt(100);
        report.attempted(&Err(Failure::unreachable("refused", Unreachable::Refused)));
        report.attempt(100);
        report.attempted(&Err(Failure::network("reset")));
        report.attempt(100);
        report.attempted(&accepted());
        report.accepted(&batch(&["1", "23"]));
        report.ended(false, &listener);
        let expected = Outcome {
            events: 2,
            bytes: 3,
            wire_bytes: 200,
            attempts: 3,
            status: 202,
            error: None,
        };
        assert_eq!(outcome(&reports), expected);
    }

    #[test]
    fn the_error_of_a_flush_is_that_of_its_first_dropped_event_else_of_its_last_attempt_else_of_its_timeout(
    ) {
        let (listener, reports) = listener();
        let mut report = FlushReport::default();
        let error_of = |report: &mut FlushReport, failed| {
            report.ended(failed, &listener);
            let error = outcome(&reports).error;
            report.begun(&listener);
            error
        };
        report.begun(&listener);
        assert_eq!(error_of(&mut report, true), Some(Error::out_of_time()));
        report.attempt(1);
        report.attempted(&Err(Failure::network("reset")));
        assert_eq!(error_of(&mut report, true), Some(Error::network("reset")));
        assert_eq!(error_of(&mut report, true), Some(Error::out_of_time()));
        report.gave_up(&Error::network("first"));
        report.gave_up(&Error::network("second"));
        report.attempt(1);
        report.attempted(&Err(Failure::network("reset")));
        assert_eq!(error_of(&mut report, true), Some(Error::network("first")));
        assert_eq!(error_of(&mut report, true), Some(Error::out_of_time()));
    }

    #[test]
    fn no_error_of_a_report_has_the_body_of_a_response() {
        let (listener, reports) = listener();
        let mut report = FlushReport::default();
        report.begun(&listener);
        let error = Error {
            body: Some(Value::from("an event")),
            ..Error::network("refused")
        };
        report.gave_up(&error);
        report.ended(false, &listener);
        assert_eq!(outcome(&reports).error, Some(Error::network("refused")));
    }

    #[test]
    fn a_panic_is_the_spans_end() {
        let (listener, reports) = listener();
        let mut report = FlushReport::default();
        report.panicked(&listener);
        report.begun(&listener);
        report.panicked(&listener);
        report.ended(true, &listener);
        let reported: Vec<_> = reports.try_iter().collect();
        assert!(matches!(
            reported[..],
            [Report::Started(_), Report::Panicked(..)]
        ));
    }
}
