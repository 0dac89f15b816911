//! Delivers portions, one request at a time: retries, splits what is refused, rejects what is refused alone.

use crate::flush::requests::Requests;
use crate::flush::split::{Accepted, Parts, Seen, Standing};
use crate::history::ahead::Ahead;
use crate::history::journal::Journal;
use crate::history::portion::{Portion, Position, Rejected};
use crate::history::stop::{cancelled, file_error, panicked, quota_limited, Stop};
use crate::history::{Order, Shared};
use crate::http::payload::Payload;
use crate::http::policy::{self, MOST_FAILED_FLUSHES};
use crate::http::response::{Answer, Failure, Kind};
use crate::queue::batch::Batch;
use crossbeam_channel::Receiver;
use std::collections::HashSet;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep_until, Instant};

/// Rejected lines that a dry run keeps to show.
const MOST_EXAMPLES: usize = 20;

/// How often the tries of single events begin anew while the ingest has not accepted anything.
const ROUNDS: u32 = 3;
/// Events in a row that are rejected, once the ingest has accepted others. More of them are its own fault.
const MOST_IN_A_ROW: u64 = 10_000;

pub struct Sender {
    order: Arc<Order>,
    shared: Arc<Shared>,
    ahead: Ahead,
    /// None in a dry run.
    journal: Option<Journal>,
    position: Position,
    requests: Requests,
    seen: Seen,
    /// Events that were rejected since one was accepted.
    in_a_row: u64,
    /// When the rate allows the next events.
    next_at: Instant,
}

/// The failures of a piece in a row.
#[derive(Default)]
struct Failing {
    since: Option<Instant>,
    attempts: u32,
    /// Those with a status that may be an event's fault.
    suspicious: u32,
}

impl Sender {
    pub fn new(
        order: Arc<Order>,
        shared: Arc<Shared>,
        portions: Receiver<Portion>,
        journal: Option<Journal>,
    ) -> Self {
        Self {
            requests: Requests::new(&order.config),
            position: journal.as_ref().map(Journal::position).unwrap_or_default(),
            order,
            shared,
            ahead: Ahead::new(portions),
            journal,
            seen: Seen::default(),
            in_a_row: 0,
            next_at: Instant::now(),
        }
    }

    pub fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let run = AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    let ended = runtime.block_on(self.send_all());
                    // A name that is being looked up must not hold the thread.
                    runtime.shutdown_background();
                    (ended, self.position.line.number)
                }
                Err(error) => (Err(file_error(error.to_string())), 1),
            }
        });
        match catch_unwind(run) {
            Ok((Ok(()), _)) => shared.end(None, None),
            Ok((Err(error), line)) => shared.end(Some(error), Some(line)),
            Err(_) => shared.end(Some(panicked()), None),
        }
    }

    async fn send_all(&mut self) -> Result<(), Stop> {
        while let Some(mut portion) = self.ahead.next() {
            self.shared.progress().read += portion.read;
            let malformed = std::mem::take(&mut portion.malformed);
            if self.order.dry_run {
                self.show(malformed);
            } else {
                let settled = self.settle(&mut portion).await;
                if let Err((stop, left)) = settled {
                    self.stop_within(&portion, malformed, &left)?;
                    return Err(stop);
                }
                self.reject(&malformed)?;
                self.position.line = portion.end.clone();
                let end = portion.end.number;
                self.position.ahead.retain(|line| *line >= end);
                self.note()?;
            }
            if let Some(reason) = portion.failed {
                return Err(file_error(reason));
            }
        }
        match &mut self.journal {
            Some(journal) => journal.finish().map_err(file_error),
            None => Ok(()),
        }
    }

    fn show(&self, malformed: Vec<Rejected>) {
        let mut progress = self.shared.progress();
        progress.rejected += malformed.len() as u64;
        let room = MOST_EXAMPLES.saturating_sub(progress.examples.len());
        let shown = malformed.into_iter().take(room);
        progress
            .examples
            .extend(shown.map(|line| (line.number, line.reason)));
    }

    fn reject(&mut self, lines: &[Rejected]) -> Result<(), Stop> {
        if let Some(journal) = &mut self.journal {
            journal.reject(lines).map_err(file_error)?;
        }
        self.position.rejected += lines.len() as u64;
        self.shared.progress().rejected += lines.len() as u64;
        Ok(())
    }

    fn note(&mut self) -> Result<(), Stop> {
        let position = &self.position;
        let journal = self.journal.as_mut();
        journal.map_or(Ok(()), |journal| {
            journal.write(position).map_err(file_error)
        })
    }

    /// Notes where the run ends within a portion: what is settled behind the first line that is not.
    fn stop_within(
        &mut self,
        portion: &Portion,
        malformed: Vec<Rejected>,
        left: &[Batch],
    ) -> Result<(), Stop> {
        let left: HashSet<u64> = left.iter().flat_map(Batch::numbers).collect();
        let Some(first) = left.iter().min() else {
            return Ok(());
        };
        let line = portion.line(*first).clone();
        let before = malformed
            .into_iter()
            .filter(|rejected| rejected.number < line.number);
        self.reject(&before.collect::<Vec<_>>())?;
        let settled = portion
            .events()
            .filter(|(event, other)| other.number > line.number && !left.contains(event));
        self.position
            .ahead
            .extend(settled.map(|(_, line)| line.number));
        self.position.line = line;
        self.note()
    }

    /// Delivers or rejects the events of a portion. Returns what is left if it can't.
    async fn settle(&mut self, portion: &mut Portion) -> Result<(), (Stop, Vec<Batch>)> {
        while let Some(piece) = portion.pieces.pop_front() {
            if let Err((stop, mut left)) = self.deliver(portion, piece).await {
                left.extend(std::mem::take(&mut portion.pieces));
                return Err((stop, left));
            }
        }
        Ok(())
    }

    async fn deliver(
        &mut self,
        portion: &mut Portion,
        piece: Batch,
    ) -> Result<(), (Stop, Vec<Batch>)> {
        let events = piece.len();
        self.pace(events).await;
        self.shared.progress().sent += events as u64;
        let mut parts = Parts::new(piece, self.seen);
        let mut failing = Failing::default();
        let mut refusal = None;
        let mut payload = None;
        let mut rounds = 0;
        loop {
            let Some(part) = parts.next() else {
                return Ok(());
            };
            let request =
                payload.get_or_insert_with(|| Payload::of_batch(&self.order.config, part));
            let result = self.attempt(request).await;
            let result = match result {
                Ok(answer) => Ok(answer),
                Err(None) => return Err((cancelled(), parts.into_rest().collect())),
                Err(Some(failure)) => Err(failure),
            };
            match self.judge(result, &mut failing).await {
                Judged::Accepted => match parts.accepted() {
                    Some(Accepted::Part(events)) => {
                        self.delivered(events.len());
                        events.recycle();
                    }
                    Some(Accepted::Other(event)) => {
                        self.delivered_ahead(portion, event.numbers().start)
                    }
                    None => {}
                },
                Judged::TooLarge(failure) => {
                    if let Some(event) = parts.too_large() {
                        if let Err(stop) = self.reject_events(portion, &[event], &failure) {
                            return Err((stop, parts.into_rest().collect()));
                        }
                    }
                }
                Judged::Refused(failure) => {
                    parts.refused();
                    refusal = Some(failure);
                }
                Judged::Again => continue,
                Judged::Stop(stop) => return Err((stop, parts.into_rest().collect())),
            }
            payload = None;
            let (standing, rejected) = parts.settle();
            self.seen = parts.seen();
            if let Some(refusal) = &refusal {
                if let Err(stop) = self.reject_events(portion, &rejected, refusal) {
                    return Err((stop, parts.into_rest().collect()));
                }
            }
            let other = match standing {
                Standing::Done => return Ok(()),
                Standing::Next => continue,
                Standing::Elsewhere => self.ahead.copy_of_any(portion),
                Standing::Keep => None,
            };
            let Some(refusal) = &refusal else {
                continue;
            };
            if let Some(other) = other {
                parts.try_other(other);
                continue;
            }
            // A file may have bad events for as long as it likes, if the ingest accepts others.
            let accepts = self.position.delivered > 0 && self.in_a_row < MOST_IN_A_ROW;
            rounds += 1;
            let rejected = match accepts {
                true => parts.refused_alone(),
                false => Vec::new(),
            };
            if let Err(stop) = self.reject_events(portion, &rejected, refusal) {
                return Err((stop, parts.into_rest().collect()));
            }
            if !accepts && (rounds == ROUNDS || parts.next().is_none()) {
                let stop = Arc::clone(&refusal.error);
                return Err((stop, parts.into_rest().collect()));
            }
            parts.again();
        }
    }

    /// Makes a request. `Err(None)` if the run was cancelled.
    async fn attempt(&mut self, payload: &Payload) -> Result<Answer, Option<Failure>> {
        let (attempt, _) = self
            .requests
            .start(&self.order.config, payload)
            .map_err(Some)?;
        tokio::select! {
            result = attempt => {
                let key = &self.order.config.api_key;
                result.map_err(|failure| Some(failure.hiding(key)))
            }
            () = self.shared.cancelled.notified() => Err(None),
        }
    }

    /// Returns what follows from the result of an attempt. Waits before another one.
    async fn judge(&mut self, result: Result<Answer, Failure>, failing: &mut Failing) -> Judged {
        let failure = match result {
            Ok(answer) if answer.quota_limited => {
                return Judged::Stop(quota_limited());
            }
            Ok(_) => {
                failing.since = None;
                failing.attempts = 0;
                self.shared.progress().failure = None;
                return Judged::Accepted;
            }
            Err(failure) => failure,
        };
        let suspicious = policy::may_be_an_events_fault(failure.error.status);
        failing.suspicious += u32::from(suspicious);
        let failure = failure.of_batch(failing.suspicious > MOST_FAILED_FLUSHES);
        match failure.kind {
            Kind::TooLarge => return Judged::TooLarge(failure),
            Kind::Refused => return Judged::Refused(failure),
            Kind::Final if !suspicious => return Judged::Stop(failure.error),
            Kind::Final | Kind::Retryable | Kind::Unreachable(_) => {}
        }
        // The kept connection may end at a server that the host's name no longer stands for.
        self.requests.forget();
        failing.attempts += 1;
        let delay = policy::jitter(policy::retry_delay(failing.attempts));
        let delay = failure.retry_after.unwrap_or(delay);
        let until = Instant::now() + delay;
        let since = *failing.since.get_or_insert_with(Instant::now);
        let error = failure.error;
        self.shared.progress().failure = Some(Arc::clone(&error));
        if until > since + self.order.retry_for {
            return Judged::Stop(error);
        }
        tokio::select! {
            () = sleep_until(until) => Judged::Again,
            () = self.shared.cancelled.notified() => Judged::Stop(cancelled()),
        }
    }

    fn delivered_ahead(&mut self, portion: &mut Portion, event: u64) {
        if let Some(line) = self.ahead.take(portion, event) {
            self.position.ahead.push(line);
            self.shared.progress().sent += 1;
            self.delivered(1);
        }
    }

    fn delivered(&mut self, events: usize) {
        self.in_a_row = 0;
        self.position.delivered += events as u64;
        self.shared.progress().delivered += events as u64;
    }

    fn reject_events(
        &mut self,
        portion: &Portion,
        batches: &[Batch],
        failure: &Failure,
    ) -> Result<(), Stop> {
        let error = &failure.error;
        let reason = format!("the ingest answered {}: {}", error.status, error.message);
        let events = batches.iter().flat_map(Batch::numbers);
        let lines = events.map(|event| Rejected {
            number: portion.line(event).number,
            reason: reason.clone(),
            content: portion.text(event),
        });
        let lines: Vec<_> = lines.collect();
        self.in_a_row += lines.len() as u64;
        self.reject(&lines)
    }

    /// Waits until the rate allows so many events more.
    async fn pace(&mut self, events: usize) {
        let Some(rate) = self.order.rate else { return };
        sleep_until(self.next_at).await;
        let takes = Duration::from_secs_f64(events as f64 / rate.max(1) as f64);
        self.next_at = self.next_at.max(Instant::now()) + takes;
    }
}

enum Judged {
    Accepted,
    Refused(Failure),
    TooLarge(Failure),
    Again,
    Stop(Stop),
}
